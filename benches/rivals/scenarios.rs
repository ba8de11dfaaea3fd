//! What is measured: one run of one daemon, in a network made for it.
//!
//! ```text
//! source a ─┐
//! source b ─┼─ router (the daemon) ── sink        500 peers ── router (the daemon)
//! ```
//!
//! A run counts only if the kernel's table is right at each step.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::daemons::{Daemon, Peer, Phase, Rival, Role, quiet};
use crate::harness::{Lab, Netns};
use crate::observe::{device, prefixes, routes_through, sleep, until};
use crate::plan::{self, Source};
use crate::speakers::{Event, Speaker, Speakers};
use crate::traffic::{Traffic, catch_all};

/// The daemon's AS; those of the sources and of the sink.
const ASN: u32 = 65000;
const SOURCES: [u32; 2] = [65001, 65002];
const SINK: u32 = 65003;

/// How long sessions may take to come up: BIRD takes many peers one after the other.
const SESSIONS: Duration = Duration::from_secs(120);

/// How long any step with routes may take.
const STEP: Duration = Duration::from_secs(300);

/// Slots that a peer of [`Scenario::Peers`] has to itself.
const SHARE: u32 = 32;

/// What is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Scenario {
    /// One source announces, then is gone; between the two, nothing happens
    Load,
    /// Two sources announce the same, the preferred one is gone
    Failover,
    /// Two sources announce the same and share the traffic, one is gone
    Ecmp,
    /// Many route reflector clients, everyone hears of everything
    Peers,
}

/// What a run gave, by [`crate::report::Metric`] key, and how much other processes were at work.
#[derive(Default)]
pub struct Measured {
    pub values: BTreeMap<&'static str, f64>,
    /// Percent of one processor, the worst of all phases
    pub foreign: f64,
}

/// How large, how long, and with which wayleave.
pub struct Size<'a> {
    pub routes: u32,
    pub peers: u32,
    pub idle: Duration,
    pub wayleave: &'a Path,
}

impl Scenario {
    /// Runs it once for one daemon. Panics if it doesn't get where it should; the lab then shows its logs.
    pub fn run(self, rival: Rival, size: &Size<'_>) -> Measured {
        quiet();
        let mut run = match self {
            Self::Load => load(rival, size),
            Self::Failover | Self::Ecmp => two_sources(rival, size, self == Self::Ecmp),
            Self::Peers => peers(rival, size),
        };
        assert!(run.daemon.alive(), "the daemon ended");
        let memory = run.daemon.peak_memory();
        run.note("memory", memory);
        run.measured
    }
}

/// A daemon in its network. What is started last goes first.
struct Run {
    measured: Measured,
    daemon: Daemon,
    router: Netns,
    /// Prefixes that are in the kernel without the daemon's doing
    base: u64,
    _lab: Lab,
}

impl Run {
    fn new(lab: Lab, router: Netns, rival: Rival, role: &Role, size: &Size<'_>) -> Self {
        let daemon = rival.start(&lab, &router, role, size.wayleave);
        Self { measured: Measured::default(), daemon, router, base: 0, _lab: lab }
    }

    /// When all sessions are up: the state to start from.
    fn ready(&mut self) {
        self.daemon.settle();
        self.base = self.router.run(prefixes);
    }

    /// At the end of what was timed: how much others were at work; then the daemon's processor time,
    /// when it has nothing left to do.
    fn end(&mut self, phase: &Phase, cpu: &'static str) {
        self.measured.foreign = self.measured.foreign.max(phase.foreign(&self.daemon));
        self.daemon.settle();
        self.note(cpu, phase.cpu(&self.daemon));
    }

    fn note(&mut self, key: &'static str, value: f64) {
        self.measured.values.insert(key, value);
    }

    /// Waits until exactly this many routes of the daemon's are in the kernel; when that was seen.
    fn in_kernel(&self, routes: u32) -> Instant {
        let wanted = self.base + u64::from(routes);
        self.router.run(|| until(&format!("{routes} routes in the kernel"), STEP, || prefixes() == wanted)).ended
    }

    /// That so many routes go through a device.
    fn verify(&self, name: &str, routes: u32) {
        let count = self.router.run(|| routes_through(device(name), false));
        assert_eq!(count, routes as usize, "routes through {name}");
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

/// The router and its neighbours `a`, `b` and `sink`, each on a link of the same name.
fn neighbours(lab: &Lab) -> (Netns, [Netns; 3]) {
    let router = lab.router("router");
    let spaces = ["a", "b", "sink"].map(|name| lab.netns(name));
    for (index, space) in spaces.iter().enumerate() {
        let (ours, theirs) = (format!("10.99.{index}.1/24"), format!("10.99.{index}.2/24"));
        lab.link((&router, space.short(), &[&ours]), (space, "eth0", &[&theirs]));
    }
    (router, spaces)
}

/// Ends of the link with a neighbour: the router's, the neighbour's.
fn ends(neighbour: u8) -> (Ipv4Addr, Ipv4Addr) {
    (Ipv4Addr::new(10, 99, neighbour, 1), Ipv4Addr::new(10, 99, neighbour, 2))
}

fn role(asns: &[(u8, u32)], multipath: bool) -> Role {
    let peer = |(neighbour, asn): &(u8, u32)| {
        let (local, remote) = ends(*neighbour);
        Peer { local, remote, asn: *asn }
    };
    Role { asn: ASN, router_id: ends(0).0, multipath, peers: asns.iter().map(peer).collect() }
}

fn speaker(neighbour: u8, asn: u32, announce: Vec<u8>, expect: u32) -> Speaker {
    let (remote, local) = ends(neighbour);
    Speaker { local, remote, asn, announce, expect }
}

fn source(neighbour: u8, routes: u32, prepend: usize) -> Speaker {
    let asn = SOURCES[usize::from(neighbour)];
    let source = Source { address: ends(neighbour).1, asn, internal: false, prepend, seed: 1 };
    speaker(neighbour, asn, plan::updates(0..routes, source), 0)
}

fn load(rival: Rival, size: &Size<'_>) -> Run {
    let lab = Lab::new();
    let (router, [a, _, there]) = neighbours(&lab);
    let announcer = source(0, size.routes, 0);
    let mut run = Run::new(lab, router, rival, &role(&[(0, SOURCES[0]), (2, SINK)], false), size);
    let mut from = Speakers::start(&a, vec![announcer]);
    let mut sink = Speakers::start(&there, vec![speaker(2, SINK, Vec::new(), size.routes)]);
    from.up(SESSIONS);
    sink.up(SESSIONS);
    run.ready();

    let phase = Phase::start(&run.daemon);
    let began = from.announce();
    let written = run.in_kernel(size.routes);
    let told = sink.all(Event::Complete, STEP);
    run.end(&phase, "load_cpu");
    run.verify("a", size.routes);
    run.note("load_kernel", seconds(began, written));
    run.note("load_sink", seconds(began, told));

    if !size.idle.is_zero() {
        let idle = run.daemon.load(size.idle);
        run.note("idle", 100.0 * idle);
    }

    let phase = Phase::start(&run.daemon);
    let began = from.close();
    let gone = run.in_kernel(0);
    let told = sink.all(Event::Empty, STEP);
    run.end(&phase, "withdraw_cpu");
    run.note("withdraw_kernel", seconds(began, gone));
    run.note("withdraw_sink", seconds(began, told));
    run
}

fn two_sources(rival: Rival, size: &Size<'_>, shared: bool) -> Run {
    let lab = Lab::new();
    let (router, [a, b, there]) = neighbours(&lab);
    for space in [&a, &b] {
        catch_all(space);
    }
    there.ip(&format!("route add default via {}", ends(2).0));
    // With a path that is longer by one b is liked less everywhere.
    let announcers = [source(0, size.routes, 0), source(1, size.routes, usize::from(!shared))];
    let peers = [(0, SOURCES[0]), (1, SOURCES[1]), (2, SINK)];
    let mut run = Run::new(lab, router, rival, &role(&peers, shared), size);
    let [mut from_a, mut from_b] = {
        let [one, other] = announcers;
        [Speakers::start(&a, vec![one]), Speakers::start(&b, vec![other])]
    };
    let mut sink = Speakers::start(&there, vec![speaker(2, SINK, Vec::new(), size.routes)]);
    for speakers in [&mut from_a, &mut from_b, &mut sink] {
        speakers.up(SESSIONS);
    }
    run.ready();

    let phase = Phase::start(&run.daemon);
    from_a.announce();
    from_b.announce();
    run.in_kernel(size.routes);
    sink.all(Event::Complete, STEP);
    run.end(&phase, "load_cpu");
    run.verify("a", size.routes);
    run.verify("b", if shared { size.routes } else { 0 });

    sink.recount();
    let traffic = Traffic::start(&there, &b, &plan::order(0..size.routes, 1));
    // Neighbours become known and streams steady.
    sleep(Duration::from_millis(300));
    let phase = Phase::start(&run.daemon);
    let began = from_a.close();
    let wanted = run.base + u64::from(size.routes);
    let moved = run.router.run(|| {
        let from = device("a");
        until("all routes on the other hop", STEP, || routes_through(from, true) == 0 && prefixes() == wanted)
    });
    if !shared {
        let told = sink.all(Event::Complete, STEP);
        run.note("sink", seconds(began, told));
    }
    run.end(&phase, "cpu");
    let there_since = traffic.all_there_since();
    run.verify("b", size.routes);
    run.note("traffic", seconds(began, there_since));
    // A table that moved at once had moved when the walk that found nothing began.
    run.note("kernel", seconds(began, moved.began));
    run
}

fn peers(rival: Rival, size: &Size<'_>) -> Run {
    let lab = Lab::new();
    let (router, clients) = (lab.router("router"), lab.netns("clients"));
    let ours = Ipv4Addr::new(10, 98, 0, 1);
    let address = |index: u32| Ipv4Addr::from_bits(ours.to_bits() + 256 + index);
    let lengths: Vec<String> = (0..size.peers).map(|index| format!("{}/16", address(index))).collect();
    let lengths: Vec<&str> = lengths.iter().map(String::as_str).collect();
    lab.link((&router, "clients", &[&format!("{ours}/16")]), (&clients, "eth0", &lengths));
    let count = |index: u32| 10 + index * 7 % 11;
    let all: u32 = (0..size.peers).map(count).sum();
    let speakers = (0..size.peers).map(|index| {
        let slots = index * SHARE..index * SHARE + count(index);
        let source =
            Source { address: address(index), asn: ASN, internal: true, prepend: 0, seed: 1000 + u64::from(index) };
        let (announce, expect) = (plan::updates(slots, source), all - count(index));
        Speaker { local: address(index), remote: ours, asn: ASN, announce, expect }
    });
    let speakers = speakers.collect();
    let list = (0..size.peers).map(|index| Peer { local: ours, remote: address(index), asn: ASN }).collect();
    let role = Role { asn: ASN, router_id: ours, multipath: false, peers: list };
    let mut run = Run::new(lab, router, rival, &role, size);
    let mut clients = Speakers::start(&clients, speakers);
    clients.up(SESSIONS);
    run.ready();

    let phase = Phase::start(&run.daemon);
    let began = clients.announce();
    let written = run.in_kernel(all);
    let told = clients.all(Event::Complete, STEP);
    run.end(&phase, "cpu");
    run.verify("clients", all);
    run.note("kernel", seconds(began, written));
    run.note("sink", seconds(began, told));
    run
}
