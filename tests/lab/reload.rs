//! SIGHUP: peers come and go, other sessions do not notice.

use crate::harness::agent::{Agent, ROUTE};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::holds;
use crate::harness::kernel::our_route;
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

fn bird(rack: &Rack) -> Bird {
    let sessions = [
        Neighbor::new("host4", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS)),
        Neighbor::new("host6", ("fd00::1", TOR_AS), ("fd00::2", HOST_AS)),
    ];
    Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &sessions, &["10.244.1.0/24", "fd44:1::/64"], ""))
}

fn one() -> Config {
    Config::host().peer("tor4", "10.0.0.1", TOR_AS, "families = [\"ipv4\"]")
}

fn two() -> Config {
    one().peer("tor6", "fd00::1", TOR_AS, "families = [\"ipv6\"]")
}

#[test]
fn peers_are_added_changed_and_removed() {
    let rack = Rack::new();
    let _tor = bird(&rack);
    let agent = Agent::start(&rack.lab, &rack.host, &one().text());
    agent.wait_installed("10.244.1.0/24");
    let since = || agent.peer("tor4").unwrap()["since"].clone();
    let up_since = since();

    agent.reload(&two().text());
    agent.wait_established(&["tor6"]);
    agent.wait_installed("fd44:1::/64");
    assert_eq!(since(), up_since, "the other session did not notice");

    // A changed policy is applied to what is there, without a new session.
    agent.reload(&one().peer("tor6", "fd00::1", TOR_AS, "families = [\"ipv6\"];import = \"none\"").text());
    holds("the new policy drops the route", ROUTE, || our_route(&rack.host, "fd44:1::/64").is_none());
    agent.reload(&two().text());
    agent.wait_installed("fd44:1::/64");

    agent.reload(&one().text());
    holds("the peer is gone", ROUTE, || agent.peer("tor6").is_none());
    holds("its routes too", ROUTE, || our_route(&rack.host, "fd44:1::/64").is_none());
    assert_eq!(since(), up_since, "the other session did not notice");
    assert!(our_route(&rack.host, "10.244.1.0/24").is_some());
}

#[test]
fn many_peers_come_and_go_one_by_one() {
    let rack = Rack::new();
    let _tor = bird(&rack);
    let agent = Agent::start(&rack.lab, &rack.host, &two().text());
    agent.wait_established(&["tor4", "tor6"]);
    agent.wait_installed("10.244.1.0/24");
    let since = || ["tor4", "tor6"].map(|peer| agent.peer(peer).unwrap()["since"].clone());
    let up_since = since();

    // Nobody is there; they are dialled all the same.
    let with = |count: usize| {
        (0..count).fold(two(), |config, n| config.peer(&format!("n{n}"), &format!("10.0.0.{}", 100 + n), HOST_AS, ""))
    };
    let peers = || agent.json(&["peers"]).map_or(0, |peers| peers.as_array().unwrap().len());
    for count in 1..=20 {
        agent.reload(&with(count).text());
        holds("one more", ROUTE, || peers() == 2 + count);
    }
    for count in (0..20).rev() {
        agent.reload(&with(count).text());
        holds("one less", ROUTE, || peers() == 2 + count);
    }
    agent.reload(&with(20).text());
    holds("all at once", ROUTE, || peers() == 22);
    agent.reload(&two().text());
    holds("and none", ROUTE, || peers() == 2);
    assert_eq!(since(), up_since, "the others did not notice");
    assert!(our_route(&rack.host, "10.244.1.0/24").is_some());
}

#[test]
fn a_bad_file_changes_nothing() {
    let rack = Rack::new();
    let _tor = bird(&rack);
    let agent = Agent::start(&rack.lab, &rack.host, &one().text());
    agent.wait_installed("10.244.1.0/24");
    let since = agent.peer("tor4").unwrap()["since"].clone();

    agent.reload(&two().text().replace("connect_retry = \"1s\"", "connect_retry = \"soon\""));
    holds("`status` says why it was refused", ROUTE, || {
        agent.status()["config"]["error"].to_string().contains("connect_retry")
    });
    assert!(agent.log().contains("connect_retry"), "so does the log");
    assert!(agent.peer("tor6").is_none());
    assert_eq!(agent.peer("tor4").unwrap()["since"], since);

    agent.reload(&two().text());
    agent.wait_established(&["tor6"]);
    assert!(agent.status()["config"]["error"].is_null(), "the next good file is taken");
}
