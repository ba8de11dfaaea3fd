//! Secrets stay where they are: not in the log at its loudest, not in metrics, not in anything that the
//! control socket answers.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::cluster::{self, ETCD, wait_subnet};
use crate::harness::agent::{Agent, password_file};
use crate::harness::etcd::Etcd;
use crate::harness::{Bird, Lab, bird};

/// The TCP-MD5 key of the router.
const KEY: &str = "open-sesame-4711";
/// The password of etcd's user.
const PASSWORD: &str = "valley-of-diamonds-0815";

/// The same as bytes in a list, as `Debug` writes them.
fn as_bytes(secret: &str) -> String {
    let bytes: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
    bytes.join(", ")
}

/// Every path that the sources of the control socket name: what is added later is asked for as well.
fn paths() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/daemon/control");
    let sources = fs::read_dir(folder).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let named = |text: String| -> Vec<String> {
        let after = text.split("\"/v1/").skip(1);
        after.map(|rest| format!("/v1/{}", rest.split('"').next().unwrap())).collect()
    };
    sources.flat_map(named).collect()
}

/// GET over the control socket: status, and all that comes until the daemon is done or says nothing more.
fn get(socket: &Path, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: wayleave\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // An answer that has no end is searched as far as it came.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{path}: {answer}")), answer)
}

#[test]
fn no_secret_is_ever_shown() {
    let lab = Lab::new();
    let rack = cluster::Rack::new(&lab, 2);
    let mut etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    etcd.wants_users("wayleave", PASSWORD, "/wayleave/network");
    let key = password_file(&lab, "tor.key", KEY);
    let password = password_file(&lab, "etcd.password", PASSWORD);
    let user = format!("kind = \"etcd\"\nusername = \"wayleave\"\npassword_file = \"{}\"", password.display());
    let peer = format!(
        "\n[[bgp.peers]]\nname = \"tor\"\naddress = \"{}\"\nasn = 65001\npassword_file = \"{}\"\n",
        cluster::address(1),
        key.display()
    );
    let text = cluster::host(0, cluster::POOL, "connect_retry = \"1s\"").replace("kind = \"etcd\"", &user) + &peer;
    let agent = Agent::start_telling(&lab, &rack.hosts[0], &text, "trace");
    let (here, there) = (cluster::address(1), cluster::address(0));
    let mut session = bird::Neighbor::new("host", (&here, 65001), (&there, 64512));
    let option = format!("password \"{KEY}\";");
    session.options = &option;
    let tor = Bird::start(&lab, &rack.hosts[1], &bird::config(&here, &[session], &["10.244.200.0/24"], ""));

    // Both are in use.
    let subnet = wait_subnet(&agent);
    agent.wait_established(&["tor"]);
    agent.wait_installed("10.244.200.0/24");
    // A reload reads the files again, and a wrong key is told of.
    agent.reload(&text.replace("connect_retry = \"1s\"", "connect_retry = \"2s\""));
    drop(tor);

    let socket = agent.socket();
    let mut shown: Vec<(String, String)> = Vec::new();
    let paths = paths();
    let mut answered = 0;
    for path in &paths {
        let (status, answer) = get(socket, &format!("{path}?address=10.244.200.1&peer=tor&limit=5"));
        assert_ne!(status, 404, "{path}");
        answered += usize::from(status == 200);
        shown.push((path.clone(), answer));
    }
    assert!(answered >= 9, "{answered} of {paths:?}");
    shown.push(("/metrics".to_owned(), agent.http("/metrics").unwrap().1));
    shown.push(("/readyz".to_owned(), agent.http("/readyz").unwrap().1));
    for args in [&["status"][..], &["peers", "tor"], &["lease"], &["nodes"]] {
        let output = agent.cli(args);
        shown.push((args.join(" "), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()));
    }
    let checked = std::process::Command::new(crate::harness::agent::WAYLEAVE)
        .args(["check", "--config"])
        .arg(agent.config_path())
        .output()
        .unwrap();
    shown.push(("check".to_owned(), String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned()));
    let log = agent.log();
    assert!(log.contains("TRACE") && log.contains(&subnet), "the log is not at its loudest");
    shown.push(("the log".to_owned(), log));

    for secret in [KEY, PASSWORD] {
        for form in [secret.to_owned(), as_bytes(secret)] {
            for (place, text) in &shown {
                let found = text.find(&form).map(|at| text.get(at.saturating_sub(200)..at).unwrap_or_default());
                assert_eq!(found, None, "{place} shows a secret");
            }
        }
    }
}
