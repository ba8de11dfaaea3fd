//! Restarts, ours and those of the router, under a thousand packets a second: none of them is lost.
//! And what happens where nobody comes back.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::agent::{Agent, ROUTE, SESSION, WAYLEAVE};
use crate::harness::bird::{self, Bird, Neighbor};
use crate::harness::kernel::{Monitor, our_route};
use crate::harness::{Frr, Lab, Netns, Probe, holds};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

/// How long a restarted agent may take until it is ready, whatever its peers do.
const READY: Duration = Duration::from_secs(60);

/// client — ToR — host — container, routes both ways by BGP.
struct Scene {
    rack: Rack,
    client: Netns,
    guest: Netns,
}

impl Scene {
    fn new() -> Self {
        let rack = Rack::new();
        let client = rack.lab.container(&rack.tor, "client", &["10.244.1.2"]);
        let guest = rack.lab.container(&rack.host, "guest", &["10.244.7.2"]);
        Self { rack, client, guest }
    }

    fn lab(&self) -> &Lab {
        &self.rack.lab
    }

    /// The agent on the host; `options` are for the router.
    fn host(&self, options: &str, more: Config) -> Agent {
        let text = more.peer("tor", "10.0.0.1", TOR_AS, options).text();
        Agent::start(self.lab(), &self.rack.host, &text)
    }

    /// What a router does with its own routes while it restarts is its own affair: FRR, for one, takes
    /// them out for some 50 ms under load. What counts here is the way back, which is ours.
    fn spare_the_router(&self) {
        self.rack.tor.ip("route add 10.244.7.0/24 via 10.0.0.2 metric 1");
    }

    /// Starts the packets once they get through.
    fn probe(&self) -> Probe {
        holds("container and client see each other", SESSION, || self.client.ping("10.244.7.2", 1) == 1);
        Probe::start(&self.client, &self.guest, "10.244.7.2")
    }
}

fn nothing_lost(probe: Probe) {
    let report = probe.finish();
    assert!(report.sent > 100, "{report:?}");
    assert_eq!(report.lost, 0, "{report:?}");
}

/// The router at the other end, by whom it is made.
enum Router {
    Bird(Bird),
    Frr(Frr),
    Wayleave(Agent),
}

const BIRD_RESTARTS: &str = "graceful restart on;";

fn bird_config(options: &str) -> String {
    let session = Neighbor { options, ..Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS)) };
    // Its own kernel routes have to outlive it as well.
    bird::config("10.0.0.1", &[session], &["10.244.1.0/24"], "")
        .replace("merge paths on;", "merge paths on; graceful restart on;")
}

fn frr_config() -> String {
    format!(
        "router bgp {TOR_AS}\n bgp router-id 10.0.0.1\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
         bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n neighbor 10.0.0.2 remote-as {HOST_AS}\n \
         neighbor 10.0.0.2 timers 3 9\n neighbor 10.0.0.2 timers connect 1\n \
         neighbor 10.0.0.2 advertisement-interval 0\n address-family ipv4 unicast\n  network 10.244.1.0/24\n \
         exit-address-family\n"
    )
}

impl Router {
    fn bird(scene: &Scene) -> Self {
        Self::Bird(Bird::start(scene.lab(), &scene.rack.tor, &bird_config("")))
    }

    fn frr(scene: &Scene) -> Self {
        Self::Frr(Frr::start(scene.lab(), &scene.rack.tor, &frr_config()))
    }

    fn wayleave(scene: &Scene) -> Self {
        let config = Config { asn: TOR_AS, ..Config::node("10.0.0.1", &["10.244.1.0/24"]) };
        let text = config.peer("host", "10.0.0.2", HOST_AS, "").text();
        Self::Wayleave(Agent::start(scene.lab(), &scene.rack.tor, &text))
    }

    fn established(&self) -> bool {
        match self {
            Self::Bird(bird) => bird.established("host"),
            Self::Frr(frr) => frr.established("10.0.0.2"),
            Self::Wayleave(agent) => agent.established("host"),
        }
    }

    /// It has our route, and not as one that it only keeps.
    fn fresh(&self) -> bool {
        const OURS: &str = "10.244.7.0/24";
        match self {
            Self::Bird(bird) => bird.route(OURS).is_some_and(|route| !route.contains("stale")),
            Self::Frr(frr) => frr.path(OURS).is_some_and(|path| path.get("stale").is_none()),
            Self::Wayleave(agent) => {
                agent.best(OURS).is_some() && agent.peer("host").is_some_and(|peer| peer["stale"] == 0)
            }
        }
    }
}

fn ready(agent: &Agent) -> bool {
    agent.http("/readyz").is_some_and(|(status, _)| status == 200)
}

/// After a start of the agent: all is as it was, and the router's copy too.
fn back(agent: &Agent, router: &Router) {
    agent.wait_established(&["tor"]);
    agent.wait_installed("10.244.1.0/24");
    holds("ready", READY, || ready(agent));
    holds("the router has fresh routes", ROUTE, || router.established() && router.fresh());
}

/// Killed, stopped, and replaced by another build; beside the router one peer is configured that
/// does not exist.
fn our_restarts(start: impl Fn(&Scene) -> Router) {
    let scene = Scene::new();
    let router = start(&scene);
    let mut agent = scene.host("", Config::host().peer("dead", "10.0.0.99", 65099, ""));
    agent.wait_installed("10.244.1.0/24");
    let build = scene.lab().path("wayleave-next");
    fs::copy(WAYLEAVE, &build).unwrap();

    let probe = scene.probe();
    let stop: [fn(&mut Agent); 3] = [
        Agent::kill,
        |agent| assert_eq!(agent.terminate().code(), Some(0)),
        |agent| assert_eq!(agent.terminate().code(), Some(0)),
    ];
    for (round, stop) in stop.into_iter().enumerate() {
        stop(&mut agent);
        holds("the router sees us gone", ROUTE, || !router.established());
        if round == 2 {
            agent.upgrade(build.clone());
        }
        agent.launch(scene.lab());
        back(&agent, &router);
    }
    // Again, and again before the first restart is over.
    for _ in 0..2 {
        agent.kill();
        agent.launch(scene.lab());
        agent.wait_established(&["tor"]);
    }
    back(&agent, &router);
    nothing_lost(probe);
    assert!(agent.metric("wayleave_bgp_session_flaps_total{peer=\"dead\"}").is_none_or(|flaps| flaps < 1.0));
}

#[test]
fn our_restarts_beside_bird() {
    our_restarts(Router::bird);
}

#[test]
fn our_restarts_beside_bird_that_restarts_gracefully_itself() {
    our_restarts(|scene| Router::Bird(Bird::start(scene.lab(), &scene.rack.tor, &bird_config(BIRD_RESTARTS))));
}

#[test]
fn our_restarts_beside_frr() {
    our_restarts(Router::frr);
}

#[test]
fn our_restarts_beside_our_own() {
    our_restarts(Router::wayleave);
}

#[test]
fn two_of_ours_restart_together() {
    let scene = Scene::new();
    let mut router = Router::wayleave(&scene);
    let mut agent = scene.host("", Config::host());
    agent.wait_installed("10.244.1.0/24");
    let probe = scene.probe();
    for round in 0..4 {
        let Router::Wayleave(tor) = &mut router else { unreachable!() };
        for agent in [&mut *tor, &mut agent] {
            if round % 2 == 0 {
                agent.kill();
            } else {
                agent.terminate();
            }
        }
        tor.launch(scene.lab());
        agent.launch(scene.lab());
        tor.wait_established(&["host"]);
        back(&agent, &router);
        let Router::Wayleave(tor) = &router else { unreachable!() };
        holds("the other is ready too", READY, || ready(tor));
    }
    nothing_lost(probe);
}

#[test]
fn bird_restarts() {
    let scene = Scene::new();
    scene.spare_the_router();
    let config = bird_config(BIRD_RESTARTS);
    let mut bird = Bird::start(scene.lab(), &scene.rack.tor, &config);
    let agent = scene.host("", Config::host());
    agent.wait_installed("10.244.1.0/24");
    let probe = scene.probe();
    for _ in 0..2 {
        bird.process().kill();
        holds("we see BIRD gone", ROUTE, || !agent.established("tor"));
        assert!(agent.peer("tor").is_some_and(|peer| peer["stale"].as_u64() > Some(0)), "{:?}", agent.peer("tor"));
        bird = Bird::recover(scene.lab(), &scene.rack.tor, &config);
        agent.wait_established(&["tor"]);
        holds("its routes are fresh", READY, || agent.peer("tor").is_some_and(|peer| peer["stale"] == 0));
        agent.wait_installed("10.244.1.0/24");
    }
    nothing_lost(probe);
}

#[test]
fn frr_restarts() {
    let scene = Scene::new();
    scene.spare_the_router();
    let mut frr = Frr::start(scene.lab(), &scene.rack.tor, &frr_config());
    let agent = scene.host("", Config::host());
    agent.wait_installed("10.244.1.0/24");
    let probe = scene.probe();
    for _ in 0..2 {
        frr.kill_bgpd();
        holds("we see FRR gone", ROUTE, || !agent.established("tor"));
        assert!(agent.peer("tor").is_some_and(|peer| peer["stale"].as_u64() > Some(0)), "{:?}", agent.peer("tor"));
        frr.start_bgpd(scene.lab(), &scene.rack.tor);
        agent.wait_established(&["tor"]);
        holds("its routes are fresh", READY, || agent.peer("tor").is_some_and(|peer| peer["stale"] == 0));
        agent.wait_installed("10.244.1.0/24");
    }
    nothing_lost(probe);
}

#[test]
fn what_a_router_left_is_kept_as_long_as_it_promised() {
    let promise = "graceful restart on; graceful restart time 5;";
    let cases = [
        // (why, BIRD's options, ours, seconds for which it is kept)
        ("the router promised five seconds", promise, "", Some(5)),
        ("we want no graceful restart with it", promise, "graceful_restart = \"0s\"", None),
        ("the router promises nothing", "", "", None),
    ];
    for (why, theirs, ours, kept) in cases {
        let rack = Rack::new();
        let mut tor = Bird::start(&rack.lab, &rack.tor, &bird_config(theirs));
        let text = Config::host().peer("tor", "10.0.0.1", TOR_AS, ours).text();
        let agent = Agent::start(&rack.lab, &rack.host, &text);
        agent.wait_installed("10.244.1.0/24");
        let gone = || our_route(&rack.host, "10.244.1.0/24").is_none();
        let start = Instant::now();
        tor.process().kill();
        if let Some(seconds) = kept {
            // The session ends when the kernel closes the connection, a moment after the kill.
            let almost = Duration::from_millis(1000 * seconds - 500);
            while start.elapsed() < almost {
                assert!(!gone() || start.elapsed() >= almost, "{why}: gone after {:?}", start.elapsed());
            }
        }
        let limit = Duration::from_secs(kept.unwrap_or(0) + 3);
        holds(why, limit, gone);
    }
}

#[test]
fn a_start_that_finds_all_in_place_writes_nothing() {
    let scene = Scene::new();
    let tor = Router::bird(&scene);
    let mut agent = scene.host("", Config::host());
    back(&agent, &tor);
    for stop in [Agent::kill, |agent: &mut Agent| assert!(agent.terminate().success())] {
        let mut monitor = Monitor::start(scene.lab(), &scene.rack.host);
        stop(&mut agent);
        holds("the router sees us gone", ROUTE, || !tor.established());
        agent.launch(scene.lab());
        back(&agent, &tor);
        assert_eq!(monitor.events(), [""; 0]);
        assert_eq!(agent.metric("wayleave_netlink_routes_acknowledged_total"), Some(0.0));
        assert_eq!(agent.metric("wayleave_netlink_batches_total"), Some(0.0));
    }
}

#[test]
fn two_that_start_at_the_same_instant_need_no_second_attempt() {
    let rack = Rack::new();
    // A second attempt would come a minute later.
    let patient = "connect_retry = \"60s\"";
    let tor = Config { asn: TOR_AS, ..Config::node("10.0.0.1", &["10.244.1.0/24"]) };
    let mut tor = Agent::prepare(&rack.lab, &rack.tor, &tor.peer("host", "10.0.0.2", HOST_AS, patient).text());
    let mut host =
        Agent::prepare(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, patient).text());
    for round in 0..10 {
        tor.launch(&rack.lab);
        host.launch(&rack.lab);
        holds(&format!("round {round}: both up"), Duration::from_secs(20), || {
            tor.established("host") && host.established("tor")
        });
        assert_eq!(tor.peer("host").unwrap()["flaps"], 0, "round {round}");
        assert_eq!(host.peer("tor").unwrap()["flaps"], 0, "round {round}");
        tor.kill();
        host.kill();
    }
}
