//! Several nodes with views of one store, each of another age, and sessions that take their time.
//!
//! Whatever the operator does with reflectors, whoever is cut off from the store, be the store wiped: two nodes
//! that have reached each other go on doing so, directly or by a reflector, until one of them or that
//! reflector dies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::record;
use crate::cluster::mesh::{LINGER, Listed, Me, Mesh, Peer, Remembered, SETTLE, Session, View};
use crate::cluster::node::Node;

const NODES: u8 = 5;
const TICK: Duration = Duration::from_millis(250);
/// How long a sign of life outlives its node in the store.
const TTL: Duration = Duration::from_secs(30);
const HOLD: Duration = Duration::from_secs(9);

type Store = BTreeMap<String, (Node, bool)>;

#[derive(Clone, Debug)]
enum Act {
    /// The operator has a node reflect, or not
    Reflect(u8, bool),
    /// The node is off
    Crash(u8),
    /// Its daemon starts, again or anew
    Start(u8),
    /// It no longer reaches the store
    Cut(u8),
    /// It does
    Heal(u8),
    /// All keys are gone
    Wipe,
}

struct Host {
    me: Me,
    up: bool,
    cut: Option<Instant>,
    died: Option<Instant>,
    mesh: Mesh,
    memory: Vec<Remembered>,
    /// Which state of the store it sees
    seen: Option<usize>,
    lag: Duration,
    peers: BTreeMap<String, Peer>,
    settled: String,
    /// Writes its record and sign of life then
    writes: Option<Instant>,
}

#[derive(Clone, Copy, Default)]
struct Link {
    /// Comes up then, if both still want it
    due: Option<Instant>,
    up: Option<Instant>,
    /// One end is dead; the other notices then
    noticed: Option<Instant>,
    holding: bool,
    /// Times that it was ended though both ends live
    ends: usize,
}

struct World {
    now: Instant,
    rng: SmallRng,
    hosts: BTreeMap<String, Host>,
    /// All states of the store, with when each came to be
    store: Vec<(Instant, Rc<Store>)>,
    links: BTreeMap<(String, String), Link>,
    /// Pairs that have reached each other
    reached: BTreeSet<(String, String)>,
}

fn name(n: u8) -> String {
    format!("host-{n}")
}

fn pair(a: &str, b: &str) -> (String, String) {
    let (a, b) = if a < b { (a, b) } else { (b, a) };
    (a.to_owned(), b.to_owned())
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut hosts = BTreeMap::new();
        for n in 1..=NODES {
            let Node { address, asn, port, .. } = record(n);
            let me = Me { name: name(n), address, asn, port, reflector: false };
            // Some are seconds behind, one may be many.
            let lag = TICK * if rng.random_range(0..10) == 0 { 60 } else { rng.random_range(0..=12) };
            let host = Host {
                me,
                up: true,
                cut: None,
                died: None,
                mesh: Mesh::default(),
                memory: Vec::new(),
                seen: None,
                lag,
                peers: BTreeMap::new(),
                settled: String::new(),
                writes: Some(now),
            };
            hosts.insert(name(n), host);
        }
        let names: Vec<String> = hosts.keys().cloned().collect();
        let links = names.iter().flat_map(|a| names.iter().filter(move |b| a < *b).map(move |b| pair(a, b)));
        let links = links.map(|pair| (pair, Link::default())).collect();
        Self { now, rng, hosts, store: vec![(now, Rc::default())], links, reached: BTreeSet::new() }
    }

    fn ticks(&mut self, most: u32) -> Duration {
        TICK * self.rng.random_range(1..=most)
    }

    fn stored(&self) -> Rc<Store> {
        Rc::clone(&self.store.last().unwrap().1)
    }

    fn act(&mut self, act: &Act) {
        let soon = self.now + self.ticks(4);
        let host = |n: u8| name(1 + n % NODES);
        match *act {
            Act::Reflect(n, reflector) => {
                let host = self.hosts.get_mut(&host(n)).unwrap();
                host.me.reflector = reflector;
                host.writes = Some(soon);
            }
            Act::Crash(n) => self.stop(&host(n), HOLD),
            Act::Start(n) => {
                self.stop(&host(n), Duration::ZERO);
                let now = self.now;
                let host = self.hosts.get_mut(&host(n)).unwrap();
                (host.up, host.died, host.writes) = (true, None, Some(soon));
                host.mesh = Mesh::new(std::mem::take(&mut host.memory), now);
            }
            Act::Cut(n) => {
                let now = self.now;
                self.hosts.get_mut(&host(n)).unwrap().cut.get_or_insert(now);
            }
            Act::Heal(n) => {
                let host = self.hosts.get_mut(&host(n)).unwrap();
                (host.cut, host.writes) = (None, Some(soon));
            }
            Act::Wipe => {
                self.store.push((self.now, Rc::default()));
                for name in self.hosts.keys().cloned().collect::<Vec<_>>() {
                    let soon = self.now + self.ticks(12);
                    self.hosts.get_mut(&name).unwrap().writes = Some(soon);
                }
            }
        }
    }

    fn stop(&mut self, name: &str, notice: Duration) {
        let host = self.hosts.get_mut(name).unwrap();
        if !host.up {
            return;
        }
        (host.up, host.died, host.seen) = (false, Some(self.now), None);
        host.memory = host.mesh.memory();
        (host.peers, host.settled) = Default::default();
        for ((a, b), link) in &mut self.links {
            if (a == name || b == name) && link.up.take().is_some() {
                link.noticed = Some(self.now + notice);
            }
        }
        // What it carried or was part of is lost with it.
        let lost: Vec<_> = self.reached.iter().filter(|(a, b)| !self.reaches(a, b)).cloned().collect();
        for pair in lost {
            self.reached.remove(&pair);
        }
    }

    /// A step of time.
    fn tick(&mut self) {
        self.now += TICK;
        let now = self.now;
        self.write();
        for name in self.hosts.keys().cloned().collect::<Vec<_>>() {
            self.plan(&name);
        }
        for ((a, b), link) in &mut self.links {
            if link.noticed.is_some_and(|at| at <= now) {
                (link.noticed, link.holding) = (None, true);
            }
            let (one, other) = (&self.hosts[a], &self.hosts[b]);
            let (Some(to), Some(back)) = (one.peers.get(b), other.peers.get(a)) else {
                link.ends += usize::from(link.up.is_some());
                (link.due, link.up) = (None, None);
                continue;
            };
            assert!(to.passive != back.passive, "{a} and {b}: {} dial", if to.passive { "none" } else { "both" });
            if link.up.is_none() && *link.due.get_or_insert(now + TICK * self.rng.random_range(1..=24)) <= now {
                *link = Link { up: Some(now), ends: link.ends, ..Link::default() };
            }
        }
        for (a, b) in self.links.keys() {
            let reaches = self.hosts[a].up && self.hosts[b].up && self.reaches(a, b);
            let pair = (a.clone(), b.clone());
            if reaches {
                self.reached.insert(pair);
            } else if self.reached.remove(&pair) {
                assert!(self.may_part(a, b), "{a} and {b} have lost each other\n{}", self.show());
            }
        }
    }

    fn write(&mut self) {
        let mut state = (*self.stored()).clone();
        for (name, host) in &mut self.hosts {
            let gone = [host.died, host.cut].into_iter().flatten().any(|since| since + TTL <= self.now);
            if let Some((_, alive)) = state.get_mut(name).filter(|_| gone) {
                *alive = false;
            }
            if host.up && host.cut.is_none() && host.writes.is_some_and(|at| at <= self.now) {
                host.writes = None;
                let n: u8 = name.trim_start_matches("host-").parse().unwrap();
                let node = Node { reflector: host.me.reflector, settled: host.settled.clone(), ..record(n) };
                state.insert(name.clone(), (node, true));
            }
        }
        if state != **self.store.last().map(|(_, state)| state).unwrap() {
            self.store.push((self.now, Rc::new(state)));
        }
    }

    fn plan(&mut self, name: &str) {
        let (now, soon) = (self.now, self.now + self.ticks(4));
        let sessions: BTreeMap<IpAddr, Session> = self
            .hosts
            .keys()
            .filter(|other| *other != name)
            .map(|other| {
                let link = &self.links[&pair(name, other)];
                let established = link.up.is_some() || link.noticed.is_some();
                (
                    self.hosts[other].me.address,
                    Session { established, synced: synced(link, now), holding: link.holding },
                )
            })
            .collect();
        let host = self.hosts.get_mut(name).unwrap();
        if !host.up {
            return;
        }
        if host.cut.is_none() {
            let visible = self.store.iter().rposition(|(at, _)| *at + host.lag <= now);
            host.seen = host.seen.max(visible);
        }
        let heard = host.cut.unwrap_or(now).checked_sub(host.lag).unwrap();
        let state = host.seen.map(|seen| Rc::clone(&self.store[seen].1));
        let view = state.as_ref().map(|state| {
            let nodes = state.iter().map(|(name, (record, alive))| Listed { name, record, alive: *alive });
            View { nodes: nodes.collect(), heard }
        });
        let plan = host.mesh.plan(&host.me, view.as_ref(), &sessions, now);
        assert!(plan.again.is_none_or(|again| again > now), "{name}: a deadline that is over");
        host.peers = plan.peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect();
        if plan.settled != host.settled {
            host.settled = plan.settled;
            host.writes = Some(host.writes.map_or(soon, |at| at.min(soon)));
        }
    }

    /// Whether routes get from each to the other, over sessions that have carried all.
    fn reaches(&self, a: &str, b: &str) -> bool {
        let carries = |one: &str, other: &str| synced(&self.links[&pair(one, other)], self.now);
        // RFC 4456 §6: between clients, and between a client and another.
        let reflects = |via: &Host| {
            let one = |name: &str| via.peers.get(name).is_some_and(|peer| peer.reflecting);
            let client = |name: &str| via.peers.get(name).is_some_and(|peer| peer.client);
            one(a) && one(b) && (client(a) || client(b))
        };
        let by = |via: &Host| {
            let name = &via.me.name;
            via.up && name != a && name != b && carries(name, a) && carries(name, b) && reflects(via)
        };
        carries(a, b) || self.hosts.values().any(by)
    }

    /// Whether two may lose each other for a moment: both rely on a reflector that has been started anew, and that
    /// it was gone can't be known to both at once; or the store takes one of them for dead, so that nobody waits for it.
    fn may_part(&self, a: &str, b: &str) -> bool {
        let relies = |name: &str, via: &str| self.hosts[name].settled.split(',').any(|one| one == via);
        let carries = |one: &str, other: &str| synced(&self.links[&pair(one, other)], self.now);
        let comes = |via: &str| relies(a, via) && relies(b, via) && !(carries(via, a) && carries(via, b));
        let others = self.hosts.values().filter(|host| host.up && host.me.name != a && host.me.name != b);
        let store = self.stored();
        let dead = |name: &str| store.get(name).is_some_and(|(_, alive)| !alive);
        dead(a) || dead(b) || others.map(|host| host.me.name.as_str()).any(comes)
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.tick();
        }
    }

    /// Nothing is left of what was on the way.
    fn check_rest(&self) {
        let reflectors: Vec<&str> =
            self.hosts.values().filter(|host| host.up && host.me.reflector).map(|host| host.me.name.as_str()).collect();
        let topology = if reflectors.is_empty() { "mesh".to_owned() } else { reflectors.join(",") };
        for host in self.hosts.values().filter(|host| host.up) {
            assert_eq!(host.settled, topology, "{}\n{}", host.me.name, self.show());
        }
        for ((a, b), link) in &self.links {
            let up = self.hosts[a].up && self.hosts[b].up;
            let reflects = |name: &String| reflectors.contains(&name.as_str());
            let wanted = up && (reflectors.is_empty() || reflects(a) || reflects(b));
            assert_eq!(link.up.is_some(), wanted, "{a} and {b}\n{}", self.show());
            assert!(!up || self.reaches(a, b), "{a} and {b} don't reach each other\n{}", self.show());
        }
    }

    fn show(&self) -> String {
        let mut text = String::new();
        for host in self.hosts.values().filter(|host| host.up) {
            let peers: Vec<String> = host
                .peers
                .values()
                .map(|peer| {
                    let up = self.links[&pair(&host.me.name, &peer.name)].up.is_some();
                    format!(
                        "{}{}{}",
                        peer.name,
                        if peer.client { " client" } else { "" },
                        if up { "" } else { " down" }
                    )
                })
                .collect();
            let seen = host.seen.map(|seen| self.now - self.store[seen].0);
            let peers = peers.join(", ");
            writeln!(text, "{} relies on {}, sees {seen:?}, peers: {peers}", host.me.name, host.settled).unwrap();
        }
        for (name, (node, alive)) in self.stored().iter() {
            writeln!(text, "stored: {name} reflector={} settled={} alive={alive}", node.reflector, node.settled)
                .unwrap();
        }
        text
    }
}

fn synced(link: &Link, now: Instant) -> bool {
    link.up.is_some_and(|up| up + Duration::from_secs(1) <= now)
}

fn acts() -> impl Strategy<Value = Vec<(u64, Act)>> {
    let act = prop_oneof![
        4 => (0..NODES, any::<bool>()).prop_map(|(n, on)| Act::Reflect(n, on)),
        // Mostly the same two, so that reflectors come, go and die.
        6 => (0..2u8, any::<bool>()).prop_map(|(n, on)| Act::Reflect(n, on)),
        2 => (0..NODES).prop_map(Act::Crash),
        3 => (0..NODES).prop_map(Act::Start),
        2 => (0..NODES).prop_map(Act::Cut),
        4 => (0..NODES).prop_map(Act::Heal),
        1 => Just(Act::Wipe),
    ];
    // Some at once, some when all has come to rest.
    proptest::collection::vec((prop_oneof![0..8u64, 8..80u64], act), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn who_has_reached_another_goes_on(seed: u64, acts in acts()) {
        let mut world = World::new(seed);
        world.run(Duration::from_secs(20));
        for (gap, act) in &acts {
            world.act(act);
            world.run(Duration::from_secs(*gap));
        }
        for n in 0..NODES {
            world.act(&Act::Heal(n));
        }
        world.run(TTL + LINGER + Duration::from_secs(60));
        world.check_rest();
    }
}

#[test]
fn nothing_is_ended_but_what_the_new_topology_does_without() {
    // (why, what is done, sessions that end)
    let cases: [(&str, &[Act], usize); 6] = [
        ("the first reflector: of ten sessions four are left", &[Act::Reflect(0, true)], 6),
        ("a second one beside it: three come", &[Act::Reflect(0, true), Act::Reflect(1, true)], 6),
        ("back to a mesh", &[Act::Reflect(0, true), Act::Reflect(0, false)], 6),
        ("one takes over from another", &[Act::Reflect(0, true), Act::Reflect(1, true), Act::Reflect(0, false)], 6 + 3),
        ("the store is wiped", &[Act::Wipe], 0),
        ("the store is wiped under reflectors", &[Act::Reflect(0, true), Act::Wipe], 6),
    ];
    for (why, acts, wanted) in cases {
        for seed in 0..8 {
            let mut world = World::new(seed);
            world.run(Duration::from_secs(20));
            for act in acts {
                world.act(act);
                world.run(Duration::from_secs(60));
            }
            world.check_rest();
            let ends: usize = world.links.values().map(|link| link.ends).sum();
            assert_eq!(ends, wanted, "{why}, seed {seed}");
        }
    }
}

#[test]
fn a_store_that_is_away_ends_nothing() {
    for reflectors in [&[][..], &[0], &[0, 1]] {
        let mut world = World::new(1);
        for n in reflectors {
            world.act(&Act::Reflect(*n, true));
        }
        world.run(Duration::from_secs(60));
        let before: usize = world.links.values().map(|link| link.ends).sum();
        for n in 0..NODES {
            world.act(&Act::Cut(n));
        }
        // In the midst of it an operator changes a node's mind.
        world.act(&Act::Reflect(2, true));
        world.run(TTL + LINGER + 10 * SETTLE);
        let ends: usize = world.links.values().map(|link| link.ends).sum();
        assert_eq!(ends, before, "{reflectors:?}");
    }
}
