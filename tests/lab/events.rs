//! What happened and why, as `wayleave events` tells it: live, afterwards, and after a crash.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cluster::{ETCD, POOL, Rack as Switch, host, wait_subnet};
use crate::harness::agent::{Agent, ROUTE, SESSION, WAYLEAVE};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::etcd::Etcd;
use crate::harness::kernel::our_route;
use crate::harness::speaker::Speaker;
use crate::harness::{Lab, Process, holds, wait_for};
use crate::slow::{SOURCE_AS, table, who};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

/// Until an event is there that others wait for.
const LIMIT: Duration = Duration::from_secs(20);

/// What the agent tells, the oldest first.
fn events(agent: &Agent, args: &[&str]) -> Vec<Value> {
    let answer = agent.json(&[&["events", "-n", "10000"], args].concat()).unwrap_or_default();
    answer["events"].as_array().cloned().unwrap_or_default()
}

/// Whether an event is of a kind, about somebody, and has these words in what happened and why.
fn is(event: &Value, kind: &str, subject: &str, what: &str, cause: &str) -> bool {
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    text("kind") == kind && text("subject") == subject && text("what").contains(what) && text("cause").contains(cause)
}

/// Waits for such an event.
fn told(agent: &Agent, kind: &str, subject: &str, what: &str, cause: &str) -> Value {
    let found = || events(agent, &[]).into_iter().rev().find(|event| is(event, kind, subject, what, cause));
    let start = std::time::Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(event) = found() {
            return event;
        }
        crate::harness::wait::pause(Duration::from_millis(100));
    }
    panic!("no {kind} event about {subject} with `{what}` and `{cause}` in {:#?}", events(agent, &[]));
}

fn bird(rack: &Rack, prefixes: &[&str]) -> Bird {
    Bird::start(&rack.lab, &rack.tor, &bird_config(prefixes))
}

fn bird_config(prefixes: &[&str]) -> String {
    config("10.0.0.1", &[Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS))], prefixes, "")
}

fn shown(agent: &Agent, args: &[&str]) -> String {
    let output = agent.cli(&[&["events"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn routes_and_sessions_with_their_causes() {
    let rack = Rack::new();
    let mut tor = bird(&rack, &["10.244.1.0/24", "10.244.2.0/24"]);
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text());
    let socket = rack.lab.path("host.sock");
    holds("the agent answers", LIMIT, || agent.json(&["status"]).is_some());
    let follow = ["events", "--follow", "--json", "--kind", "session,route", "--socket", socket.to_str().unwrap()];
    let follower = Process::start(&rack.lab, &rack.host, "follower", WAYLEAVE, &follow, &[]);
    agent.wait_installed("10.244.2.0/24");

    told(&agent, "session", "tor", "established with 10.0.0.1 (AS 65001)", "");
    let learned = told(&agent, "route", "10.244.2.0/24", "via 10.0.0.1 dev eth0", "announced by tor");
    assert!(learned["time"].as_str().is_some_and(|time| time.ends_with('Z') && time.contains('.')), "{learned}");
    told(&agent, "daemon", "wayleave", "ready", "");

    tor.reconfigure(&bird_config(&["10.244.1.0/24"]));
    told(&agent, "route", "10.244.2.0/24", "no route any more, was by next hop 10.0.0.1", "tor withdrew it");

    // Somebody else lays hand on it.
    rack.host.ip("route del 10.244.1.0/24 proto 87");
    told(&agent, "repair", "10.244.1.0/24", "it was removed", "");
    holds("it is back", ROUTE, || our_route(&rack.host, "10.244.1.0/24").is_some());

    tor.process().kill();
    let lost = told(&agent, "session", "tor", "session lost", "connection closed without NOTIFICATION");
    told(&agent, "route", "10.244.1.0/24", "no route any more", "session with tor lost");
    told(&agent, "session", "tor", "no session", "refused");

    // Live, and in order.
    holds("the follower has seen it", LIMIT, || follower.log().contains("session with tor lost"));
    let lines: Vec<Value> = follower.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.contains(&lost) && lines.is_sorted_by_key(|line| line["seq"].as_u64()), "{lines:#?}");
    assert!(lines.iter().all(|line| line["kind"] == "session" || line["kind"] == "route"), "{lines:#?}");

    // For people, and less of it.
    let text = shown(&agent, &[]);
    assert!(text.lines().any(|line| line.contains("session lost: connection closed without NOTIFICATION")), "{text}");
    let about = shown(&agent, &["--about", "10.244.2.7", "--since", "1h"]);
    assert!(about.contains("tor withdrew it") && !about.contains("10.244.1.0/24"), "{about}");
    let of_tor = shown(&agent, &["--about", "tor"]);
    assert!(of_tor.contains("tor withdrew it") && of_tor.contains("session lost"), "{of_tor}");
    assert_eq!(shown(&agent, &["-n", "1"]).lines().count(), 1);
    assert_eq!(agent.cli(&["events", "--kind", "sesion"]).status.code(), Some(2));
    assert_eq!(agent.cli(&["events", "--since", "soon"]).status.code(), Some(2));
    let counted = agent.metric("wayleave_events_total{kind=\"session\"}");
    assert!(counted.is_some_and(|count| count >= 3.0), "{counted:?}");
    assert_eq!(agent.metric("wayleave_events_dropped_total"), Some(0.0));
    // A peer that is dialled in vain is told of once.
    let refused = events(&agent, &[]).into_iter().filter(|event| is(event, "session", "tor", "no session", "refused"));
    assert_eq!(refused.count(), 1);
}

/// Routes in sums with these words.
fn sum(agent: &Agent, what: &str, cause: &str) -> u64 {
    let events = events(agent, &[]);
    let sums = events.iter().filter(|event| is(event, "route", "source", what, cause));
    let first = |event: &Value| event["what"].as_str().unwrap().split(' ').next().unwrap().replace(',', "");
    sums.map(|event| first(event).parse::<u64>().unwrap()).sum()
}

#[test]
fn a_full_table_is_a_handful_of_events() {
    let rack = Rack::new();
    rack.tor.ip("addr add 10.0.0.66/24 dev eth0");
    let text = Config::host().peer(
        "source",
        "10.0.0.66",
        SOURCE_AS.into(),
        "import = \"all\";max_prefixes = 0;passive = true",
    );
    let agent = Agent::start_quiet(&rack.lab, &rack.host, &text.text());
    holds("ready", LIMIT * 3, || agent.json(&["status"]).is_some_and(|status| status["ready"] == true));
    let source = Speaker::connect(&rack.tor, &who(66, SOURCE_AS));
    agent.wait_established(&["source"]);
    source.send(&table());
    let installed = || agent.status()["fib"]["installed"].as_u64().unwrap();
    holds("all are in the kernel", LIMIT * 6, || installed() >= 100_000);
    // The few that were told one by one are not in the sums.
    let all = |what, cause| holds(what, LIMIT, || (99_900..=100_000).contains(&sum(&agent, what, cause)));
    all("routes learned", "announced by source");
    drop(source);
    holds("all are gone", LIMIT * 6, || installed() < 100);
    all("routes gone", "session with source lost");
    let routes = events(&agent, &["--kind", "route"]);
    assert!(routes.len() < 80, "{} events for 100,000 routes", routes.len());
    assert_eq!(agent.metric("wayleave_events_dropped_total"), Some(0.0));
}

#[test]
fn what_operators_do_is_kept_across_a_crash() {
    let rack = Rack::new();
    let _tor = bird(&rack, &["10.244.1.0/24"]);
    let text = Config::host().peer("tor", "10.0.0.1", TOR_AS, "");
    let mut agent = Agent::start(&rack.lab, &rack.host, &text.text());
    agent.wait_installed("10.244.1.0/24");

    agent.reload(&text.text().replace("asn = 65001", "asn = \"hello\""));
    told(&agent, "config", "host.toml", "refused", "asn");
    let other = text.text().replace("connect_retry = \"1s\"", "connect_retry = \"2s\"");
    agent.reload(&other);
    told(&agent, "config", "host.toml", "bgp.connect_retry", "");
    assert!(agent.cli(&["drain", "--now", "--reason", "new disk", "--no-block"]).status.success());
    told(&agent, "drain", "node-10.0.0.2", "drained: all sessions closed", "new disk");
    told(&agent, "session", "tor", "session lost", "we ended it: cease: administrative shutdown");
    assert!(agent.cli(&["undrain"]).status.success());
    told(&agent, "drain", "node-10.0.0.2", "drain taken back", "");
    agent.wait_established(&["tor"]);
    rack.tor.ip("link set eth0 down");
    told(&agent, "link", "eth0", "link down", "");
    let before = events(&agent, &[]);

    let file = || std::fs::read_to_string(rack.lab.path("host.state/events.jsonl")).unwrap();
    let last = format!("{{\"seq\":{},", before.last().unwrap()["seq"]);
    holds("it is on disk", LIMIT, || file().contains(&last));
    agent.kill();
    agent.launch(&rack.lab);
    holds("the agent answers", LIMIT, || agent.json(&["status"]).is_some());
    told(&agent, "daemon", "wayleave", "routes of a former run adopted", "");
    let after = events(&agent, &[]);
    let kept = after.get(..before.len()).unwrap_or_default();
    assert_eq!(kept, before, "the last night before the crash can be read");
    assert!(
        after.iter().skip(before.len()).any(|event| is(event, "daemon", "wayleave", "started as", "")),
        "{after:#?}"
    );
    assert!(after.is_sorted_by_key(|event| event["seq"].as_u64()), "{after:#?}");

    agent.signal(Signal::SIGTERM);
    holds("it ends", SESSION, || !agent.running());
    let file = file();
    assert!(file.lines().last().is_some_and(|line| line.contains("stopped, forwarding stays in place")), "{file}");
}

#[test]
fn subnets_nodes_and_the_store() {
    let lab = Lab::new();
    let switch = Switch::new(&lab, 2);
    let mut etcd = Etcd::start(&lab, &switch.etcd_space, ETCD);
    let a = Agent::start(&lab, &switch.hosts[0], &host(0, POOL, ""));
    let subnet = wait_subnet(&a);
    told(&a, "lease", &subnet, &format!("took {subnet}"), "it was free");
    told(&a, "lease", &subnet, "confirmed by the store", "");
    told(&a, "store", "etcd", "reachable at http://10.0.255.1:2379", "");

    let mut b = Agent::start(&lab, &switch.hosts[1], &host(1, POOL, ""));
    let its = wait_subnet(&b);
    told(&a, "node", "h1", "node h1 is alive", "");
    told(&a, "lease", &its, "taken by", "");
    a.wait_installed(&its);
    told(&a, "session", "h1", "established", "");
    b.kill();
    told(&a, "session", "h1", "session lost", "");
    wait_for("the sign of life ends", LIMIT * 2, || {
        events(&a, &[]).into_iter().find(|event| is(event, "node", "h1", "gives no sign of life", ""))
    });
    etcd.kill(0);
    let out = told(&a, "store", "etcd", "out of reach, what is known stays in force", "");
    assert!(out["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{out}");
}
