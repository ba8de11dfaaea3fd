//! What can be seen from outside: metrics, health, tables, explanations.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cluster;
use crate::harness::agent::{Agent, ROUTE};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::etcd::Etcd;
use crate::harness::{Lab, holds};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

fn settled(rack: &Rack, more: &str) -> (Bird, Agent) {
    let session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    let stray = ["10.244.1.0/24", "10.244.2.0/24", "192.0.2.0/24"];
    let tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &stray, ""));
    let text = Config::host().peer("tor", "10.0.0.1", TOR_AS, "").with(more).text();
    let agent = Agent::start(&rack.lab, &rack.host, &text);
    agent.wait_installed("10.244.1.0/24");
    agent.wait_installed("10.244.2.0/24");
    (tor, agent)
}

#[test]
fn metrics_say_what_happened() {
    let rack = Rack::new();
    let (_tor, agent) = settled(&rack, "");
    let (status, text) = agent.http("/metrics").unwrap();
    assert_eq!(status, 200);
    // Prometheus' own checker: format, help, types, units.
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of the Debian package prometheus");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let verdict = promtool.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&verdict.stdout).into_owned() + &String::from_utf8_lossy(&verdict.stderr);
    assert!(verdict.status.success(), "{complaints}");

    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| !name.starts_with("process_"))
        .collect();
    assert!(names.iter().all(|name| name.starts_with("wayleave_")), "{names:?}");
    for what in ["build_info", "session", "messages", "prefixes", "fib", "rib", "rejected"] {
        assert!(names.iter().any(|name| name.contains(what)), "nothing about {what} in {names:?}");
    }
    let line = |parts: &[&str]| text.lines().find(|line| parts.iter().all(|part| line.contains(part)));
    let received = line(&["wayleave_bgp_prefixes_received", "peer=\"tor\""]);
    assert!(received.is_some_and(|line| line.ends_with(" 3")), "three prefixes came: {received:?}\n{text}");
}

#[test]
fn a_dead_peer_does_not_block_readiness() {
    let rack = Rack::new();
    let dead = "\n[[bgp.peers]]\nname = \"dead\"\naddress = \"10.0.0.99\"\nasn = 65009\n";
    let (_tor, agent) = settled(&rack, dead);
    holds("ready", Duration::from_secs(60), || agent.http("/readyz").is_some_and(|(status, _)| status == 200));
    assert!(!agent.established("dead"));
    assert_eq!(agent.http("/healthz").unwrap().0, 200);
    assert_eq!(agent.http("/nothing").unwrap().0, 404);
    assert_eq!(agent.status()["ready"], true);
}

#[test]
fn tables_for_people() {
    let rack = Rack::new();
    let (_tor, agent) = settled(&rack, "");
    let shown = |args: &[&str]| {
        let output = agent.cli(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (args, wanted) in [
        (&["status"][..], &["64512", "10.0.0.2", "10.244.7.0/24"][..]),
        (&["peers"], &["tor", "10.0.0.1", "65001", "established"]),
        (&["routes"], &["10.244.1.0/24", "10.244.7.0/24", "10.0.0.1", "eth0"]),
        (&["routes", "10.244.2.0/24"], &["10.244.2.0/24", "65001"]),
        (&["routes", "--from", "tor"], &["10.244.1.0/24"]),
        (&["routes", "--from", "tor", "--before-policy"], &["192.0.2.0/24"]),
        (&["routes", "--to", "tor"], &["10.244.7.0/24"]),
        (&["explain", "10.244.1.5"], &["10.244.1.0/24", "10.0.0.1", "direct", "tor"]),
    ] {
        let text = shown(args);
        for word in wanted {
            assert!(text.contains(word), "`wayleave {}` shows {word}:\n{text}", args.join(" "));
        }
        let width = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(width <= 160, "`wayleave {}` fits a terminal, not {width} columns:\n{text}", args.join(" "));
    }
    assert!(!shown(&["routes", "--from", "tor"]).contains("192.0.2.0/24"), "after policy it is not there");
    assert_eq!(agent.cli(&["routes", "--from", "nobody"]).status.code(), Some(1), "a peer that does not exist");
}

#[test]
fn explain_agrees_with_the_kernel() {
    let rack = Rack::new();
    let (_tor, agent) = settled(&rack, "");
    let explained = agent.json(&["explain", "10.244.1.5"]).unwrap();
    assert_eq!((&explained["prefix"], &explained["agree"]), (&"10.244.1.0/24".into(), &true.into()), "{explained}");
    assert_eq!(explained["next_hops"][0]["how"], "direct", "{explained}");

    // A more specific route of somebody else takes the traffic.
    rack.host.ip("route add blackhole 10.244.1.5/32 proto static");
    holds("explain sees it", ROUTE, || agent.json(&["explain", "10.244.1.5"]).unwrap()["agree"] == false);
}

/// An empty table would say that there are no nodes, which nobody knows yet.
#[test]
fn a_store_that_was_never_read() {
    let lab = Lab::new();
    let rack = cluster::Rack::new(&lab, 1);
    let agent = Agent::start(&lab, &rack.hosts[0], &cluster::host(0, cluster::POOL, ""));
    let first = "first synchronisation is over";
    holds("the first synchronisation", Duration::from_secs(60), || agent.log().contains(first));
    let shown = |args: &[&str]| {
        let output = agent.cli(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for args in [&["nodes"][..], &["lease", "all"]] {
        let text = shown(args);
        assert!(text.contains("has not been read yet") && text.contains("`wayleave lease`"), "{args:?}: {text}");
    }
    // Log, status, metrics and the port for probes say one thing.
    let said = |text: &str| agent.log().lines().any(|line| line.contains(text));
    holds("the log says why not", ROUTE, || said("not ready yet reason=\"no subnet yet"));
    assert!(!said(" ready reason"), "{}", agent.log());
    assert_eq!(agent.status()["ready"], false);
    assert_eq!(agent.metric("wayleave_ready"), Some(0.0));
    let (status, text) = agent.http("/readyz").unwrap();
    assert!(status == 503 && text.contains("no subnet yet"), "{status} {text}");

    let _etcd = Etcd::start(&lab, &rack.etcd_space, cluster::ETCD);
    cluster::wait_subnet(&agent);
    holds("the log says ready", ROUTE, || said(" ready reason"));
    assert_eq!((&agent.status()["ready"], agent.http("/readyz").unwrap().0), (&true.into(), 200));
    assert!(shown(&["nodes"]).contains("this node"));
}
