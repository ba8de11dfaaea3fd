//! Any order of events ends in the FIB that a computation from scratch gives.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use super::kernel::{Kernel, nameless};
use super::*;
use crate::net::Family;

/// What can happen.
#[derive(Clone, Debug)]
enum Step {
    Route(Prefix, Vec<NextHop>),
    Blackhole(Prefix),
    Unroute(Prefix),
    Link {
        device: u32,
        up: bool,
        carrier: bool,
    },
    LinkGone(u32),
    LinkNew(u32),
    Address(Index, bool),
    Foreign(Index),
    ForeignGone(Index),
    /// Takes ours away
    ForeignReplaces(Index),
    /// Somebody deletes a route of ours, or makes it (another)
    Tamper(Prefix, Option<Target>),
    Refuse(u32),
    Mode(TunnelMode, bool),
    /// The writer takes, the kernel carries out, the answers are heard, the events are heard
    Take(usize),
    CarryOut(usize),
    Answer(usize),
    Hear(usize),
    WriterLost,
    AskForDump,
    MakeDump,
    HearDump,
    Settle,
    Wait(u64),
}

fn routes() -> Vec<Prefix> {
    let texts = ["10.244.1.0/24", "10.244.2.0/24", "10.8.0.0/16", "10.9.0.1/32", "10.9.0.0/16", "0.0.0.0/0"];
    let ipv6 = ["2001:db8:244::/48", "2001:db8:9::/48"];
    texts.iter().chain(&ipv6).map(|text| p(text)).collect()
}

fn next_hops(family: Family) -> Vec<NextHop> {
    let plain = |text| NextHop::new(ip(text));
    let node = |text| plain(text).ending_tunnel(true);
    match family {
        Family::Ipv4 => vec![
            plain("192.0.2.1"),
            plain("192.0.2.11"),
            node("192.0.2.2"),
            plain("198.51.100.1"),
            plain("10.8.0.1"),
            plain("10.9.0.1"),
            node("10.9.0.1"),
            node("10.9.0.2"),
            node("192.88.0.1"),
        ],
        Family::Ipv6 => {
            vec![plain("2001:db8:1::1"), node("2001:db8:9::1"), plain("fe80::1").on(ETH0), plain("fe80::1").on(ETH1)]
        }
    }
}

fn foreign_routes() -> Vec<ForeignRoute> {
    let eth0 = |gateway| Hop::direct(ip(gateway), ETH0);
    let eth1 = |gateway| Hop::direct(ip(gateway), ETH1);
    vec![
        foreign("0.0.0.0/0", 0, vec![eth0("192.0.2.254")]),
        foreign("0.0.0.0/0", 10, vec![eth1("198.51.100.254")]),
        foreign("10.9.0.0/16", 0, vec![eth0("192.0.2.253"), eth1("198.51.100.253")]),
        foreign("10.8.0.0/16", METRIC, vec![eth1("198.51.100.254")]),
        foreign("10.9.0.2/32", 0, vec![]),
        foreign("10.244.1.0/24", METRIC, vec![]),
        foreign("10.244.2.0/24", 5, vec![eth0("192.0.2.254")]),
        foreign("::/0", 0, vec![eth0("fe80::2")]),
    ]
}

fn addresses() -> Vec<Address> {
    Kernel::new().addresses
}

fn target() -> impl Strategy<Value = Target> {
    let hops = vec![
        Hop::direct(ip("192.0.2.1"), ETH0),
        Hop::direct(ip("192.0.2.9"), ETH0),
        Hop::direct(ip("198.51.100.1"), ETH1),
    ];
    prop_oneof![
        3 => subsequence(hops, 1..=3).prop_map(|hops| via(&hops)),
        1 => Just(Target::Blackhole),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let prefix = || select(routes());
    let device = || select(vec![ETH0, ETH1, TUNNEL]);
    let chosen = prefix().prop_flat_map(|prefix| {
        let next_hops = next_hops(prefix.family());
        (Just(prefix), subsequence(next_hops, 1..=3).prop_shuffle())
    });
    let ipv4 = select(routes().into_iter().filter(|prefix| prefix.family() == Family::Ipv4).collect::<Vec<_>>());
    prop_oneof![
        12 => chosen.prop_map(|(prefix, next_hops)| Step::Route(prefix, next_hops)),
        1 => prefix().prop_map(Step::Blackhole),
        4 => prefix().prop_map(Step::Unroute),
        4 => (device(), any::<bool>(), any::<bool>()).prop_map(|(device, up, carrier)| Step::Link { device, up, carrier }),
        4 => device().prop_map(|device| Step::Link { device, up: true, carrier: true }),
        1 => device().prop_map(Step::LinkGone),
        2 => device().prop_map(Step::LinkNew),
        3 => (any::<Index>(), any::<bool>()).prop_map(|(index, there)| Step::Address(index, there)),
        4 => any::<Index>().prop_map(Step::Foreign),
        3 => any::<Index>().prop_map(Step::ForeignGone),
        1 => any::<Index>().prop_map(Step::ForeignReplaces),
        3 => (ipv4, proptest::option::of(target())).prop_map(|(prefix, target)| Step::Tamper(prefix, target)),
        1 => (1u32..3).prop_map(Step::Refuse),
        1 => (select(vec![TunnelMode::Never, TunnelMode::CrossSubnet, TunnelMode::Always]), any::<bool>())
            .prop_map(|(mode, device)| Step::Mode(mode, device)),
        8 => (1usize..6).prop_map(Step::Take),
        8 => (1usize..6).prop_map(Step::CarryOut),
        8 => (1usize..6).prop_map(Step::Answer),
        8 => (1usize..6).prop_map(Step::Hear),
        1 => Just(Step::WriterLost),
        2 => Just(Step::AskForDump),
        2 => Just(Step::MakeDump),
        2 => Just(Step::HearDump),
        3 => Just(Step::Settle),
        2 => (1u64..40_000).prop_map(Step::Wait),
    ]
}

/// The forwarder, the kernel, and the queues between them.
struct World {
    now: Instant,
    kernel: Kernel,
    forwarder: Forwarder,
    ops: VecDeque<FibOp>,
    answers: VecDeque<(Prefix, Result<(), OpError>)>,
    dump_asked: bool,
    dump: Option<Dump>,
    chosen: BTreeMap<Prefix, Option<Vec<NextHop>>>,
    /// What the RIB believes
    distances: BTreeMap<(Prefix, NextHop), Option<u32>>,
}

impl World {
    fn new(kernel: Kernel) -> Self {
        let mut forwarder = Forwarder::new(settings());
        forwarder.adopt(kernel.dump());
        let pairs =
            routes().into_iter().flat_map(|prefix| next_hops(prefix.family()).into_iter().map(move |n| (prefix, n)));
        let distances = pairs.map(|(prefix, next_hop)| ((prefix, next_hop), forwarder.next_hop_for(prefix, next_hop)));
        Self {
            now: Instant::now(),
            distances: distances.collect(),
            kernel,
            forwarder,
            ops: VecDeque::new(),
            answers: VecDeque::new(),
            dump_asked: false,
            dump: None,
            chosen: BTreeMap::new(),
        }
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Route(prefix, next_hops) => {
                self.forwarder.set_route(prefix, &next_hops);
                self.chosen.insert(prefix, Some(next_hops));
            }
            Step::Blackhole(prefix) => {
                self.forwarder.set_blackhole(prefix);
                self.chosen.insert(prefix, None);
            }
            Step::Unroute(prefix) => {
                self.forwarder.remove_route(prefix);
                self.chosen.remove(&prefix);
            }
            Step::Link { device, up, carrier } => self.kernel.set_link(device, up, carrier),
            Step::LinkGone(device) => self.kernel.remove_link(device),
            Step::LinkNew(device) => self.kernel.add_link(link(device, "new")),
            Step::Address(index, there) => self.kernel.set_address(*index.get(&addresses()), there),
            Step::Foreign(index) => {
                let route = index.get(&foreign_routes()).clone();
                if self.may_rival(&route) {
                    self.kernel.add_foreign(route);
                    self.hear_rival();
                }
            }
            Step::ForeignReplaces(index) => {
                let route = index.get(&foreign_routes()).clone();
                if self.may_rival(&route) {
                    self.kernel.replace_foreign(&route);
                    self.hear_rival();
                }
            }
            Step::ForeignGone(index) => {
                let route = index.get(&foreign_routes()).clone();
                self.kernel.remove_foreign(route.prefix, route.metric);
            }
            Step::Tamper(prefix, target) => self.kernel.tamper(prefix, target),
            Step::Refuse(count) => self.kernel.refuse += count,
            Step::Mode(tunnel, device) => {
                let tunnel_device = device.then_some(TUNNEL);
                self.forwarder.configure(Settings { tunnel, tunnel_device, ..settings() });
            }
            Step::Take(max) => {
                let mut ops = Vec::new();
                self.forwarder.take_ops(self.now, max, &mut ops);
                assert!(ops.len() <= max);
                let is_removal = |op: &FibOp| matches!(op, FibOp::Remove(..));
                assert!(ops.is_sorted_by_key(is_removal), "{ops:?}");
                self.ops.extend(ops);
            }
            Step::CarryOut(count) => {
                for op in self.ops.drain(..count.min(self.ops.len())) {
                    self.answers.push_back((op.prefix(), self.kernel.carry_out(&op)));
                }
            }
            Step::Answer(count) => {
                for (prefix, answer) in self.answers.drain(..count.min(self.answers.len())) {
                    self.forwarder.acked(prefix, answer, self.now);
                }
            }
            Step::Hear(count) => {
                for event in self.kernel.events.drain(..count.min(self.kernel.events.len())) {
                    self.forwarder.event(event);
                }
            }
            Step::WriterLost => {
                self.ops.clear();
                self.answers.clear();
                self.forwarder.writer_lost();
            }
            Step::AskForDump => {
                self.forwarder.begin_resync();
                (self.dump_asked, self.dump) = (true, None);
            }
            Step::MakeDump if self.dump_asked => {
                self.dump = Some(self.kernel.dump());
                self.dump_asked = false;
            }
            Step::MakeDump => {}
            Step::HearDump => {
                if let Some(dump) = self.dump.take() {
                    self.forwarder.resync(dump);
                }
            }
            Step::Settle => self.settle(),
            Step::Wait(millis) => self.now += Duration::from_millis(millis),
        }
    }

    /// Between a foreign route with our metric and the news of it lies a moment in which a
    /// replacement of ours would hit it: netlink has no means against that, so the model hasn't either.
    fn may_rival(&self, route: &ForeignRoute) -> bool {
        route.metric != METRIC || !self.ops.iter().any(|op| op.prefix() == route.prefix)
    }

    fn hear_rival(&mut self) {
        self.act(Step::Hear(usize::MAX));
    }

    fn settle(&mut self) {
        let moved = self.forwarder.settle();
        for ((prefix, next_hop), distance) in &mut self.distances {
            if moved.contains(&next_hop.addr) {
                *distance = self.forwarder.next_hop_for(*prefix, *next_hop);
            }
        }
    }

    /// Lets everything run until nothing is left to do.
    fn come_to_rest(&mut self) {
        self.forwarder.start_complete();
        if self.dump_asked || self.dump.is_some() {
            self.act(Step::MakeDump);
            self.act(Step::HearDump);
        }
        for _ in 0..200 {
            self.act(Step::Hear(usize::MAX));
            self.act(Step::Take(3));
            self.act(Step::CarryOut(usize::MAX));
            self.act(Step::Answer(usize::MAX));
            if !self.kernel.events.is_empty() {
                continue;
            }
            if self.forwarder.needs_resync() {
                for step in [Step::AskForDump, Step::MakeDump, Step::HearDump] {
                    self.act(step);
                }
            } else if let Some(next) = self.forwarder.next_retry() {
                self.now = self.now.max(next);
            } else if self.forwarder.is_quiescent() {
                return;
            }
        }
        panic!("no rest: {:?}", self.forwarder.stats());
    }

    /// Compares with a forwarder that has seen nothing but the end.
    fn check(&mut self) {
        self.settle();
        let mut fresh = Forwarder::new(self.forwarder.settings().clone());
        fresh.adopt(Dump { own: Vec::new(), ..self.kernel.dump() });
        for (prefix, next_hops) in self.chosen.iter().rev() {
            match next_hops {
                Some(next_hops) => fresh.set_route(*prefix, next_hops),
                None => fresh.set_blackhole(*prefix),
            }
        }
        fresh.settle();
        let mut wanted = BTreeMap::new();
        let mut kept_out = 0;
        for prefix in self.chosen.keys() {
            let target = fresh.route(*prefix).0;
            assert_eq!(self.forwarder.route(*prefix).0, target, "wanted for {prefix}");
            let rival = self.kernel.foreign.iter().any(|route| (route.prefix, route.metric) == (*prefix, METRIC));
            match target {
                Some(_) if rival => kept_out += 1,
                Some(target) => drop(wanted.insert(*prefix, nameless(&target))),
                None => {}
            }
        }
        assert_eq!(self.kernel.own, wanted, "in the kernel");

        for ((prefix, next_hop), distance) in &self.distances {
            assert_eq!(fresh.next_hop_for(*prefix, *next_hop), *distance, "{next_hop:?} for {prefix}");
        }

        let stats = self.forwarder.stats();
        assert_eq!(stats.installed, wanted.len());
        assert_eq!(stats.blocked, kept_out);
        assert_eq!(stats.wanted, wanted.len() + kept_out);
        assert_eq!(stats.unresolved, self.chosen.len() - stats.wanted);
        assert_eq!(fresh.stats().wanted_tunnel, stats.wanted_tunnel);
        assert_eq!((stats.failed, stats.queued, stats.in_flight, stats.stale), (0, 0, 0, 0));
    }

    /// Where nothing changes, nothing is written: not for a dump, nor for news that are none.
    fn stay_at_rest(&mut self) {
        let before = (self.kernel.written, repaired(&self.forwarder));
        let dump = self.kernel.dump();
        let links = dump.links.iter().cloned().map(KernelEvent::Link);
        let addresses = dump.addresses.iter().copied().map(KernelEvent::Address);
        let foreign = dump.foreign.iter().cloned().map(KernelEvent::Route);
        let own = dump.own.iter().cloned().map(|(prefix, target)| KernelEvent::Own(prefix, target));
        self.kernel.events.extend(links.chain(addresses).chain(foreign).chain(own));
        for (prefix, next_hops) in self.chosen.clone() {
            match next_hops {
                Some(next_hops) => self.forwarder.set_route(prefix, &next_hops),
                None => self.forwarder.set_blackhole(prefix),
            }
        }
        for step in [Step::Hear(usize::MAX), Step::AskForDump, Step::MakeDump, Step::HearDump] {
            self.act(step);
        }
        assert!(self.forwarder.settle().is_empty());
        self.come_to_rest();
        assert_eq!((self.kernel.written, repaired(&self.forwarder)), before);
    }
}

fn repaired(forwarder: &Forwarder) -> (u64, u64, u64) {
    let stats = forwarder.stats();
    (stats.repaired_missing, stats.repaired_changed, stats.repaired_extra)
}

proptest! {
    #[test]
    fn any_order_of_events_ends_in_the_fib_computed_from_scratch(
        echoes in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(Kernel { echoes, ..Kernel::new() });
        for step in steps {
            world.act(step);
        }
        world.kernel.refuse = 0;
        world.come_to_rest();
        world.check();
        world.stay_at_rest();
    }

    #[test]
    fn a_restart_writes_differences_only(
        before in proptest::collection::vec(step(), 1..60),
        between in proptest::collection::vec(step(), 0..6),
    ) {
        let mut world = World::new(Kernel::new());
        for step in before {
            world.act(step);
        }
        world.kernel.refuse = 0;
        world.come_to_rest();
        let (settings, chosen) = (world.forwarder.settings().clone(), world.chosen.clone());
        let old = world.kernel.own.clone();
        let mut kernel = world.kernel;
        kernel.events.clear();
        kernel.written = 0;

        let mut world = World::new(kernel);
        world.forwarder.configure(settings);
        for (prefix, next_hops) in chosen {
            world.act(match next_hops {
                Some(next_hops) => Step::Route(prefix, next_hops),
                None => Step::Blackhole(prefix),
            });
        }
        for step in between.iter().filter(|step| matches!(step, Step::Unroute(_) | Step::Blackhole(_))) {
            world.act(step.clone());
        }
        world.come_to_rest();
        world.check();
        let now = &world.kernel.own;
        let differs = |prefix: &&Prefix| old.get(*prefix) != now.get(*prefix);
        let all: std::collections::BTreeSet<&Prefix> = old.keys().chain(now.keys()).collect();
        prop_assert!(world.kernel.written <= 2 * all.into_iter().filter(differs).count());
    }
}
