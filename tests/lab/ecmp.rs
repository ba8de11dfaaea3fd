//! A host with two top-of-rack routers uses both.

use crate::harness::agent::{Agent, ROUTE};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::kernel::our_route;
use crate::harness::{Lab, Netns, holds};
use crate::story::{Config, HOST_AS};

const PREFIX: &str = "10.244.1.0/24";

struct TwoTors {
    lab: Lab,
    tors: [Netns; 2],
    host: Netns,
}

fn two_tors() -> TwoTors {
    let lab = Lab::new();
    let (a, b, host) = (lab.router("tor-a"), lab.router("tor-b"), lab.netns("host"));
    lab.link((&a, "eth0", &["10.0.1.1/24"]), (&host, "eth0", &["10.0.1.2/24"]));
    lab.link((&b, "eth0", &["10.0.2.1/24"]), (&host, "eth1", &["10.0.2.2/24"]));
    TwoTors { lab, tors: [a, b], host }
}

fn bird(index: usize) -> String {
    let (local, remote) = [("10.0.1.1", "10.0.1.2"), ("10.0.2.1", "10.0.2.2")][index];
    // Different ASes of equal path length: the paths are equal all the same.
    let asn = [65001, 65002][index];
    config(local, &[Neighbor::new("host", (local, asn), (remote, HOST_AS))], &[PREFIX], "")
}

fn host_config(bgp: &'static str) -> String {
    let config = Config { bgp, ..Config::node("10.0.1.2", &["10.244.7.0/24"]) };
    config.peer("tor-a", "10.0.1.1", 65001, "").peer("tor-b", "10.0.2.1", 65002, "").text()
}

fn gateways(host: &Netns) -> Vec<String> {
    our_route(host, PREFIX).map(|route| route.gateways().iter().map(ToString::to_string).collect()).unwrap_or_default()
}

#[test]
fn both_tors_are_used_and_either_may_go() {
    let TwoTors { lab, tors, host } = two_tors();
    let _a = Bird::start(&lab, &tors[0], &bird(0));
    let mut b = Bird::start(&lab, &tors[1], &bird(1));
    let agent = Agent::start(&lab, &host, &host_config(""));
    agent.wait_established(&["tor-a", "tor-b"]);

    holds("both hops in the kernel", ROUTE, || gateways(&host) == ["10.0.1.1", "10.0.2.1"]);
    assert_eq!(our_route(&host, PREFIX).unwrap().devices(), ["eth0", "eth1"]);
    let hops = agent.best(PREFIX).unwrap()["hops"].as_array().unwrap().len();
    assert_eq!(hops, 2, "`routes` shows both");

    b.process().kill();
    holds("only the other is left", ROUTE, || gateways(&host) == ["10.0.1.1"]);
    drop(b);
    let _b = Bird::start(&lab, &tors[1], &bird(1));
    agent.wait_established(&["tor-b"]);
    holds("both again", ROUTE, || gateways(&host) == ["10.0.1.1", "10.0.2.1"]);

    // A cable is pulled: the kernel knows before BGP does.
    host.ip("link set eth0 down");
    holds("only the other cable is used", ROUTE, || gateways(&host) == ["10.0.2.1"]);
    host.ip("link set eth0 up");
    agent.wait_established(&["tor-a"]);
    holds("both again", ROUTE, || gateways(&host) == ["10.0.1.1", "10.0.2.1"]);
}

#[test]
fn multipath_one_turns_it_off() {
    let TwoTors { lab, tors, host } = two_tors();
    let _birds = [Bird::start(&lab, &tors[0], &bird(0)), Bird::start(&lab, &tors[1], &bird(1))];
    let agent = Agent::start(&lab, &host, &host_config("multipath = 1"));
    agent.wait_established(&["tor-a", "tor-b"]);
    holds("two candidates", ROUTE, || agent.routes(&[PREFIX]).len() == 2);
    agent.wait_installed(PREFIX);
    assert_eq!(gateways(&host), ["10.0.1.1"], "the lower router id wins");
    let loser = agent.routes(&[PREFIX]).into_iter().find(|route| route["best"] == false).unwrap();
    let verdict = loser["verdict"].as_str().unwrap();
    assert!(verdict.contains("id") && !verdict.is_empty(), "the step at which it lost is told: {verdict}");
}
