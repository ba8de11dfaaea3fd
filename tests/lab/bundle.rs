//! A bug report: all that helps, and no secrets, with a daemon that runs and with one that doesn't.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::harness::agent::{Agent, ROUTE, WAYLEAVE, password_file};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::netns::done;
use crate::harness::{Netns, holds};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

const BGP_PASSWORD: &str = "bgp-hunter2-\"quoted\"";
const ETCD_PASSWORD: &str = "etcd-hunter3";
const FORMER_PASSWORD: &str = "former-hunter4";
const LOGIN: &str = "root:url-hunter5";
const MISPLACED: &str = "misplaced-hunter6";
const SECRETS: [&str; 5] = ["bgp-hunter2", ETCD_PASSWORD, FORMER_PASSWORD, LOGIN, MISPLACED];

fn bundle(space: &Netns, config: &Path, more: &[&str]) -> Output {
    space.command(WAYLEAVE).args(["bundle", "--config", config.to_str().unwrap()]).args(more).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What is in it, unpacked by tar: name without the folder → content.
fn unpack(rack: &Rack, file: &Path) -> BTreeMap<String, String> {
    let dir = rack.lab.path(&format!("{}.d", file.file_name().unwrap().to_str().unwrap()));
    fs::create_dir(&dir).unwrap();
    done(Command::new("tar").arg("-xzf").arg(file).arg("-C").arg(&dir));
    let found = done(Command::new("find").arg(&dir).args(["-type", "f", "-printf", "%P\\n"]));
    let name = |path: &str| path.split_once('/').unwrap().1.to_owned();
    found.lines().map(|path| (name(path), fs::read_to_string(dir.join(path)).unwrap())).collect()
}

fn assert_clean(files: &BTreeMap<String, String>) {
    for (name, content) in files {
        for secret in SECRETS {
            assert!(!content.contains(secret), "{name} holds {secret}:\n{content}");
        }
    }
}

/// A host with passwords wherever there can be one: of a peer, of a store that is out of reach, in a comment.
fn scene(rack: &Rack) -> (Bird, Agent, String) {
    let session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    let tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &["10.244.1.0/24"], ""));
    let [bgp, etcd] = [("bgp.key", BGP_PASSWORD), ("etcd.key", ETCD_PASSWORD)]
        .map(|(name, password)| password_file(&rack.lab, name, password).display().to_string());
    let text = Config::host()
        .peer("tor", "10.0.0.1", TOR_AS, "")
        .peer("locked", "10.0.0.99", TOR_AS, &format!("password_file = \"{bgp}\" # it was {FORMER_PASSWORD}"))
        .with(&format!(
            "[store]\nkind = \"etcd\"\nendpoints = [\"http://10.0.0.98:2379\"]\nusername = \"root\"\n\
             password_file = \"{etcd}\" # {ETCD_PASSWORD}\n"
        ))
        .text();
    let agent = Agent::start(&rack.lab, &rack.host, &text);
    agent.wait_installed("10.244.1.0/24");
    (tor, agent, text)
}

#[test]
fn everything_but_the_secrets() {
    let rack = Rack::new();
    let (_tor, agent, config) = scene(&rack);
    // A refused reload with a login in it, and a password in place of its file, is remembered by status, log and
    // journal.
    let misplaced = format!(
        "[[bgp.peers]]\nname = \"hasty\"\naddress = \"10.0.0.97\"\nasn = {TOR_AS}\npassword_file = \"{MISPLACED}\"\n"
    );
    agent.reload(&(config.replace("http://10.0.0.98", &format!("http://{LOGIN}@10.0.0.98")) + &misplaced));
    holds("refused", ROUTE, || agent.status()["config"]["error"].is_string());
    agent.configure(&config);

    let path = rack.lab.path("report.tar.gz");
    let output = bundle(&rack.host, agent.config_path(), &["--output", path.to_str().unwrap()]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(path.to_str().unwrap()) && said.contains("no passwords"), "{said}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let files = unpack(&rack, &path);
    assert_clean(&files);

    let json = |name: &str| -> Value {
        let content = files.get(name).unwrap_or_else(|| panic!("{name} is missing: {}", files["MANIFEST"]));
        serde_json::from_str(content).unwrap_or_else(|error| panic!("{name}: {error}: {content}"))
    };
    assert_eq!(json("daemon/status.json")["node"], "node-10.0.0.2");
    assert!(json("daemon/events.json")["events"].as_array().is_some_and(|events| !events.is_empty()));
    assert!(json("daemon/peers.json").as_array().is_some_and(|peers| peers.len() == 2));
    assert!(json("daemon/routes.json").to_string().contains("10.244.1.0/24"));
    assert!(json("kernel/routes-ipv4.json").to_string().contains("10.244.1.0/24"));
    assert!(json("kernel/links.json").to_string().contains("eth0"));
    json("kernel/nexthops.json");
    for (name, part) in [
        ("daemon/metrics.txt", "wayleave_events_total"),
        ("config.txt", "locked"),
        ("config.txt", "Secret(…)"),
        ("kernel/routes.txt", "ip -4 protocol "),
        ("kernel/sysctl.txt", "net.ipv4.ip_forward = 1"),
        ("kernel/nft.txt", "table inet wayleave"),
        ("version.txt", "Linux"),
        ("state/events.jsonl", "\"seq\":1,"),
        ("MANIFEST", "state/drain.json: MISSING: "),
    ] {
        assert!(files.get(name).is_some_and(|text| text.contains(part)), "{name}: {part}: {:?}", files.get(name));
    }

    // Neither in what the daemon shows and logs itself.
    let shown = [&["status"][..], &["events"], &["peers"]].map(|args| text(&agent.cli(args)));
    let metrics = agent.http("/metrics").unwrap().1;
    for secret in SECRETS {
        assert!(shown.iter().chain([&metrics, &agent.log()]).all(|text| !text.contains(secret)), "{secret}");
    }

    // What is there is not written over.
    let again = bundle(&rack.host, agent.config_path(), &["--output", path.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    let piped = bundle(&rack.host, agent.config_path(), &["--output", "-"]);
    assert!(piped.status.success() && piped.stdout.starts_with(&[0x1f, 0x8b]), "gzip, and nothing before it");
    let list = bundle(&rack.host, agent.config_path(), &["--list"]);
    assert!(text(&list).contains("MANIFEST") && text(&list).contains("without passwords"), "{}", text(&list));
}

#[test]
fn a_dead_daemon_and_a_broken_file_leave_what_is_on_disk() {
    let rack = Rack::new();
    let (_tor, mut agent, config) = scene(&rack);
    holds("the journal is on disk", Duration::from_secs(10), || {
        fs::read_to_string(rack.lab.path("host.state/events.jsonl")).is_ok_and(|text| text.contains("established"))
    });
    agent.kill();
    let path = rack.lab.path("dead.tar.gz");
    let output = bundle(&rack.host, agent.config_path(), &["-o", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    let files = unpack(&rack, &path);
    assert_clean(&files);
    let manifest = &files["MANIFEST"];
    assert!(manifest.contains("daemon/status.json: MISSING: can't reach the daemon"), "{manifest}");
    assert!(files["state/events.jsonl"].contains("established"));
    assert!(files["kernel/routes-ipv4.json"].contains("10.244.1.0/24"), "forwarding stays in place");

    // A file that can't be understood may hold a password where nobody looks for one.
    agent.configure(&config.replace("http://10.0.0.98", &format!("http://{LOGIN}@10.0.0.98")));
    let path = rack.lab.path("broken.tar.gz");
    let output = bundle(&rack.host, agent.config_path(), &["-o", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(SECRETS.iter().all(|secret| !text(&output).contains(secret)), "{}", text(&output));
    let files = unpack(&rack, &path);
    assert_clean(&files);
    let manifest = &files["MANIFEST"];
    assert!(manifest.contains("store.endpoints[0]") && manifest.contains("values are left out"), "{manifest}");
}
