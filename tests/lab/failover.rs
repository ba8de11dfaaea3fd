//! The preferred router goes, and what was sent through it is counted packet by packet: the loss is
//! short, and as short with a hundred thousand routes as with ten.
//!
//! ```text
//!            ┌── tor-a ──┐
//! guest ── host        client     guest → client through tor-a as long as it lives,
//!            └── tor-b ──┘        client → guest always through tor-b
//! ```
//!
//! In each story tor-a stops forwarding at the very moment at which it goes, so every packet that the
//! host still sends there is lost.

use std::net::Ipv4Addr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::agent::Agent;
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::kernel::nexthop_objects;
use crate::harness::probe::Report;
use crate::harness::{Lab, Netns, Probe, announce, holds};
use crate::story::{Config, HOST_AS};

/// What a router announces; the loss is to be the same for each.
const TABLES: [u32; 3] = [10, 10_000, 100_000];

/// Loss that nobody is to notice, at a thousand packets a second.
const BARELY_FELT: u32 = 50;

/// How long two tables of the largest size may take to arrive.
const LOAD: Duration = Duration::from_secs(120);

/// The network above, loaded, with traffic through tor-a.
pub struct Scene {
    pub a: Netns,
    pub bird_a: Bird,
    host: Netns,
    guest: Netns,
    client: Netns,
    targets: [String; 3],
    _bird_b: Bird,
    _agent: Agent,
    // Last: the namespaces go when all that runs in them is gone.
    _lab: Lab,
}

impl Scene {
    /// Both routers announce the same `routes` prefixes, tor-b with a longer path. `bird` is added to
    /// the options of both BGP sessions and `more` to their configurations; `peer` to the agent's peers.
    pub fn new(routes: u32, (bird, more): (&str, &str), peer: &str) -> Self {
        let lab = Lab::new();
        let (a, b) = (lab.router("tor-a"), lab.router("tor-b"));
        let (host, client) = (lab.netns("host"), lab.netns("client"));
        // The routers' links to the client come first, so that those to the host have another number
        // at each end: between equal numbers Linux takes a veth for a device without a lower one and
        // may tell of a lost carrier a second late (`linkwatch_urgent_event`).
        lab.link((&a, "eth1", &["10.0.11.1/24"]), (&client, "eth0", &["10.0.11.2/24"]));
        lab.link((&b, "eth1", &["10.0.12.1/24"]), (&client, "eth1", &["10.0.12.2/24"]));
        lab.link((&a, "eth0", &["10.0.1.1/24"]), (&host, "eth0", &["10.0.1.2/24"]));
        lab.link((&b, "eth0", &["10.0.2.1/24"]), (&host, "eth1", &["10.0.2.2/24"]));
        let guest = lab.container(&host, "guest", &["10.244.7.2"]);
        // The first, the one in the middle and the last of the table.
        let targets = [0, routes / 2, routes - 1].map(|index| (network(index) | Ipv4Addr::new(0, 0, 0, 1)).to_string());
        client.batch(&targets.each_ref().map(|target| format!("addr add {target}/32 dev lo")));
        client.ip("route add 10.244.7.0/24 via 10.0.12.1");
        // The tables below are announced, not used: what the routers forward by is this.
        a.ip("route add 20.0.0.0/7 via 10.0.11.2");
        b.ip("route add 20.0.0.0/7 via 10.0.12.2");

        let announced: Vec<String> = (0..routes).map(|index| format!("{}/24", network(index))).collect();
        let announced: Vec<&str> = announced.iter().map(String::as_str).collect();
        let start = |space: &Netns, (local, asn): (&str, u32), remote: &str, export: &str| {
            let channel = format!("import all; export {export};");
            let neighbor =
                Neighbor { options: bird, channel: &channel, ..Neighbor::new("host", (local, asn), (remote, HOST_AS)) };
            Bird::start(&lab, space, &config(local, &[neighbor], &announced, more))
        };
        let bird_a = start(&a, ("10.0.1.1", 65001), "10.0.1.2", "all");
        let longer = "filter { bgp_path.prepend(65002); accept; }";
        let bird_b = start(&b, ("10.0.2.1", 65002), "10.0.2.2", longer);
        let options = format!("import = \"all\";max_prefixes = 0;{peer}");
        let text = Config::node("10.0.1.2", &["10.244.7.0/24"])
            .peer("tor-a", "10.0.1.1", 65001, &options)
            .peer("tor-b", "10.0.2.1", 65002, &options)
            .text();
        let agent = Agent::start(&lab, &host, &text);
        for peer in ["tor-a", "tor-b"] {
            holds(&format!("the table of {peer}"), LOAD, || agent.peer(peer).is_some_and(|p| p["received"] == routes));
        }
        holds("the table in the kernel", LOAD, || {
            // One more is the host's own subnet.
            agent.status()["fib"]["installed"] == routes + 1
        });
        let scene = Self { a, bird_a, host, guest, client, targets, _bird_b: bird_b, _agent: agent, _lab: lab };
        holds("all through tor-a", LOAD, || scene.goes_by("10.0.1.1"));
        scene
    }

    /// Waits until the kernel knows the backup.
    fn wait_guarded(&self) {
        holds("the backup in a nexthop object", LOAD, || {
            let guards = |object: &Value| object["group"].as_array().is_some_and(|members| members.len() == 2);
            nexthop_objects(&self.host).values().any(guards)
        });
    }

    /// Whether the host sends what goes to the targets by this router.
    fn goes_by(&self, gateway: &str) -> bool {
        let gateway = format!(" via {gateway} ");
        // While the host has no way at all, `ip` fails.
        let by = |target| self.host.try_ip(&format!("route get {target}")).is_ok_and(|route| route.contains(&gateway));
        self.targets.iter().all(by)
    }

    /// Lets tor-a fail under traffic to all targets; the worst of their losses.
    pub fn loss(mut self, fail: impl FnOnce(&mut Self)) -> Report {
        let probes = self.targets.each_ref().map(|target| Probe::start(&self.guest, &self.client, target));
        fail(&mut self);
        holds("all through tor-b", LOAD, || self.goes_by("10.0.2.1"));
        let reports = probes.map(Probe::finish);
        reports.into_iter().max_by_key(|report| report.lost).unwrap()
    }
}

/// The network of the `index`th prefix: a /24 of 20.0.0.0/7.
fn network(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((20 << 24) + (index << 8))
}

/// Plays `story` for each size of table. All are played before any is judged: how loss grows with the
/// table says more than one number. Each has three tries: the kernel's own work on links waits for a
/// lock that all namespaces share, with those of the tests beside this one.
pub fn judge(what: &str, limit: u32, story: impl Fn(u32) -> Report) {
    let losses = TABLES.map(|routes| {
        let mut tries = (0..3).map(|_| story(routes));
        let first = tries.next().unwrap();
        let report = if first.lost < limit { first } else { tries.find(|report| report.lost < limit).unwrap_or(first) };
        (routes, report)
    });
    let shown: Vec<String> = losses
        .iter()
        .map(|(routes, report)| format!("{} of {} packets at {routes} routes", report.lost, report.sent))
        .collect();
    announce(&format!("{what}: lost {}", shown.join(", ")));
    for (routes, report) in &losses {
        assert!(report.lost < limit, "{what}: {report:?} at {routes} routes; all: {shown:?}");
    }
}

#[test]
fn a_router_that_closes_its_sessions() {
    judge("TCP close", BARELY_FELT, |routes| {
        Scene::new(routes, ("", ""), "").loss(|scene| {
            scene.a.sysctl("net/ipv4/ip_forward", "0");
            scene.bird_a.process().signal(Signal::SIGKILL);
        })
    });
}

#[test]
fn a_cable_that_is_pulled() {
    judge("link down", BARELY_FELT, |routes| {
        let scene = Scene::new(routes, ("", ""), "");
        scene.wait_guarded();
        scene.loss(|scene| {
            scene.a.ip("link set eth0 down");
        })
    });
}
