//! A restart under a thousand packets a second loses none of them.

use std::time::Duration;

use crate::harness::agent::{Agent, ROUTE};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::{Netns, Probe, holds};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

struct Scene {
    rack: Rack,
    client: Netns,
    guest: Netns,
}

/// client — ToR — host — container, routes both ways by BGP.
fn scene() -> Scene {
    let rack = Rack::new();
    let client = rack.lab.container(&rack.tor, "client", &["10.244.1.2"]);
    let guest = rack.lab.container(&rack.host, "guest", &["10.244.7.2"]);
    Scene { rack, client, guest }
}

fn run(graceful: &str, stop: impl Fn(&mut Agent)) {
    let Scene { rack, client, guest } = scene();
    let session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    let bird = config("10.0.0.1", &[session], &["10.244.1.0/24"], "");
    let tor = Bird::start(&rack.lab, &rack.tor, &bird.replace("hold time 9;", &format!("hold time 9; {graceful}")));
    let text = Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text();
    let mut agent = Agent::start(&rack.lab, &rack.host, &text);
    agent.wait_installed("10.244.1.0/24");
    holds("container and client see each other", ROUTE, || client.ping("10.244.7.2", 1) == 1);

    let probe = Probe::start(&client, &guest, "10.244.7.2");
    for _ in 0..3 {
        stop(&mut agent);
        holds("BIRD sees us gone", ROUTE, || !tor.established("host"));
        agent.launch(&rack.lab);
        agent.wait_established(&["tor"]);
        agent.wait_installed("10.244.1.0/24");
        holds("ready", Duration::from_secs(60), || agent.http("/readyz").is_some_and(|(status, _)| status == 200));
        holds("BIRD has a fresh route", ROUTE, || tor.route("10.244.7.0/24").is_some_and(|r| !r.contains("stale")));
    }
    let report = probe.finish();
    assert!(report.sent > 100, "{report:?}");
    assert_eq!(report.lost, 0, "{report:?}");
}

#[test]
fn kill_and_start_again() {
    run("", Agent::kill);
}

#[test]
fn stop_and_start_again() {
    run("", |agent| assert_eq!(agent.terminate().code(), Some(0)));
}

#[test]
fn stop_and_start_again_beside_a_router_that_restarts_gracefully_itself() {
    run("graceful restart on;", |agent| assert_eq!(agent.terminate().code(), Some(0)));
}
