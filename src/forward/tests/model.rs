//! Any order of events ends in the FIB that a computation from scratch gives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use super::kernel::{Kernel, nameless};
use super::*;

/// What can happen.
#[derive(Clone, Debug)]
enum Step {
    Route(Prefix, Vec<Way>, Vec<Way>),
    /// A peer is lost, then the table decides without it, then it comes back
    SourceDown(u32),
    SourceUp(u32),
    TamperNexthop(Index, bool),
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
    vec![address(ETH0, "192.0.2.11/24"), address(ETH0, "2001:db8:1::11/64"), address(ETH1, "198.51.100.11/24")]
}

fn kernel() -> Kernel {
    let links = [link(ETH0, "eth0"), link(ETH1, "eth1"), link(TUNNEL, "wayleave0")];
    let links = links.into_iter().map(|link| (link.index, link)).collect();
    Kernel { links, addresses: addresses(), ..Kernel::default() }
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
        let ways = |most| {
            let way =
                (select(next_hops.clone()), 1u32..=SOURCES).prop_map(|(next_hop, source)| Way { next_hop, source });
            proptest::collection::vec(way, most)
        };
        (Just(prefix), ways(1..=3), ways(0..=2))
    });
    let ipv4 = select(routes().into_iter().filter(|prefix| prefix.family() == Family::Ipv4).collect::<Vec<_>>());
    prop_oneof![
        12 => chosen.prop_map(|(prefix, best, backup)| Step::Route(prefix, best, backup)),
        2 => (1u32..=SOURCES).prop_map(Step::SourceDown),
        2 => (1u32..=SOURCES).prop_map(Step::SourceUp),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(index, delete)| Step::TamperNexthop(index, delete)),
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
        2 => Just(Step::AskForDump),
        2 => Just(Step::MakeDump),
        2 => Just(Step::HearDump),
        3 => Just(Step::Settle),
        2 => (1u64..40_000).prop_map(Step::Wait),
    ]
}

/// Peers that tell of ways.
const SOURCES: u32 = 3;

/// What the writer says.
enum Answer {
    Nexthops(Vec<NexthopOp>, Vec<(usize, OpError)>),
    Route(u32, FibOp, Result<(), OpError>),
}

/// What of ours an event is about.
fn about(event: &KernelEvent) -> Option<Contested> {
    match event {
        KernelEvent::Own(prefix, _) | KernelEvent::OwnGone(prefix, _) => Some(Contested::Route(*prefix)),
        KernelEvent::Nexthop(object) => Some(Contested::Nexthop(object.id)),
        KernelEvent::NexthopGone(id) => Some(Contested::Nexthop(*id)),
        _ => None,
    }
}

/// The best ways and the backup
type Chosen = (Vec<Way>, Vec<Way>);

/// The forwarder, the kernel, and the queues between them.
struct World {
    now: Instant,
    kernel: Kernel,
    forwarder: Forwarder,
    nexthop_ops: VecDeque<Vec<NexthopOp>>,
    ops: VecDeque<(u32, FibOp)>,
    answers: VecDeque<Answer>,
    dump_asked: bool,
    dump: Option<Dump>,
    /// What was set last; `None`: dropped
    chosen: BTreeMap<Prefix, Option<Chosen>>,
    down: BTreeSet<u32>,
    /// What the RIB believes
    distances: BTreeMap<(Prefix, NextHop), Option<u32>>,
}

impl World {
    /// With nexthop objects or without; and if with, whether guarded.
    fn new(kernel: Kernel, objects: Option<bool>) -> Self {
        let guard = objects.unwrap_or_default();
        let mut forwarder = Forwarder::new(Settings { objects: objects.is_some(), guard, ..settings() });
        forwarder.adopt(kernel.dump());
        let pairs =
            routes().into_iter().flat_map(|prefix| next_hops(prefix.family()).into_iter().map(move |n| (prefix, n)));
        let distances = pairs.map(|(prefix, next_hop)| ((prefix, next_hop), forwarder.next_hop_for(prefix, next_hop)));
        Self {
            now: Instant::now(),
            distances: distances.collect(),
            kernel,
            forwarder,
            nexthop_ops: VecDeque::new(),
            ops: VecDeque::new(),
            answers: VecDeque::new(),
            dump_asked: false,
            dump: None,
            chosen: BTreeMap::new(),
            down: BTreeSet::new(),
        }
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Route(prefix, best, backup) => {
                let left = |ways: Vec<Way>| -> Vec<Way> {
                    ways.into_iter().filter(|way| !self.down.contains(&way.source)).collect()
                };
                self.choose(prefix, left(best), left(backup));
            }
            Step::SourceDown(source) => {
                if self.down.insert(source) {
                    self.forwarder.source_down(source);
                    self.check_moment();
                }
            }
            Step::SourceUp(source) => {
                if self.down.remove(&source) {
                    self.decide_without(source);
                    self.forwarder.source_up(source);
                }
            }
            Step::TamperNexthop(index, delete) => {
                let known: Vec<NexthopId> = self.kernel.nexthops.keys().copied().collect();
                if !known.is_empty() {
                    self.kernel.tamper_with_nexthop(*index.get(&known), delete);
                }
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
            Step::Take(max) => self.take(max),
            Step::CarryOut(count) => self.carry_out(count),
            Step::Answer(count) => self.answer(count),
            Step::Hear(count) => {
                for event in self.kernel.events.drain(..count.min(self.kernel.events.len())) {
                    let about = about(&event);
                    self.forwarder.event(event);
                    // It may wait then, but not for ever.
                    about.map(|what| self.forwarder.meddled(what));
                }
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

    fn take(&mut self, max: usize) {
        self.take_nexthops();
        let mut batch = Batch::default();
        self.forwarder.take_ops(self.now, max, &mut batch);
        assert!(batch.ops.len() <= max);
        let is_removal = |op: &FibOp| matches!(op, FibOp::Remove(..));
        assert!(batch.ops.is_sorted_by_key(is_removal), "{batch:?}");
        self.ops.extend(batch.cells.into_iter().zip(batch.ops));
    }

    fn carry_out(&mut self, count: usize) {
        self.carry_out_nexthops();
        for (cell, op) in self.ops.drain(..count.min(self.ops.len())) {
            let answer = self.kernel.carry_out(&op);
            self.answers.push_back(Answer::Route(cell, op, answer));
        }
    }

    fn answer(&mut self, count: usize) {
        for answer in self.answers.drain(..count.min(self.answers.len())) {
            match answer {
                Answer::Nexthops(ops, failed) => self.forwarder.nexthops_answered(&ops, &failed, self.now),
                Answer::Route(cell, op, answer) => {
                    let failed: Vec<_> = answer.err().map(|error| (0, error)).into_iter().collect();
                    let batch = Batch { ops: vec![op], cells: vec![cell] };
                    self.forwarder.answered(&batch, &failed, self.now);
                }
            }
        }
    }

    /// Between a foreign route with our metric and the news of it lies a moment in which a
    /// replacement of ours would hit it: netlink has no means against that, so the model hasn't either.
    fn may_rival(&self, route: &ForeignRoute) -> bool {
        route.metric != METRIC || !self.ops.iter().any(|(_, op)| op.prefix() == route.prefix)
    }

    fn take_nexthops(&mut self) {
        let mut ops = Vec::new();
        self.forwarder.take_nexthop_ops(self.now, &mut ops);
        if !ops.is_empty() {
            self.nexthop_ops.push_back(ops);
        }
    }

    /// Objects overtake routes.
    fn carry_out_nexthops(&mut self) {
        for ops in self.nexthop_ops.drain(..) {
            let answers = ops.iter().map(|op| self.kernel.carry_out_nexthop(op)).enumerate();
            let failed = answers.filter_map(|(place, answer)| Some((place, answer.err()?))).collect();
            self.answers.push_back(Answer::Nexthops(ops, failed));
        }
    }

    fn choose(&mut self, prefix: Prefix, best: Vec<Way>, backup: Vec<Way>) {
        if best.is_empty() && !backup.is_empty() {
            return self.choose(prefix, backup, Vec::new());
        }
        self.forwarder.set_route(prefix, &best, &backup);
        if best.is_empty() {
            self.chosen.remove(&prefix);
        } else {
            self.chosen.insert(prefix, Some((best, backup)));
        }
    }

    /// What the table makes of it that a peer's paths are gone.
    fn decide_without(&mut self, source: u32) {
        for (prefix, ways) in self.chosen.clone() {
            let Some((best, backup)) = ways else { continue };
            let left = |ways: Vec<Way>| ways.into_iter().filter(|way| way.source != source).collect();
            self.choose(prefix, left(best), left(backup));
        }
    }

    /// What the table makes of it that next hops are out of reach.
    fn decide_by_reach(&mut self) {
        for _ in 0..routes().len() {
            let mut changed = false;
            self.settle();
            for (prefix, ways) in self.chosen.clone() {
                let Some((best, backup)) = ways else { continue };
                let lost = best.iter().all(|way| self.forwarder.next_hop_for(prefix, way.next_hop).is_none());
                if lost && !backup.is_empty() {
                    self.choose(prefix, backup, Vec::new());
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Between the loss of a peer and the decision without it: once the few objects are written, no
    /// packet goes over its paths where a route knows another one.
    fn check_moment(&mut self) {
        if !self.forwarder.settings().objects || !self.kernel.events.is_empty() || self.kernel.refuse > 0 {
            return;
        }
        // Objects that are not as wanted already (under way, refused) are another matter.
        if !self.answers.is_empty() || !self.nexthop_ops.is_empty() || !self.forwarder.is_at_rest_with_objects() {
            return;
        }
        self.take_nexthops();
        self.carry_out_nexthops();
        for (prefix, ways) in &self.chosen {
            let (Some((best, backup)), Some(Target::Object(_))) = (ways, self.kernel.own.get(prefix)) else { continue };
            if self.forwarder.route(*prefix).0.as_ref() != self.kernel.own.get(prefix) {
                continue;
            }
            let left = |ways: &[Way]| -> Vec<Hop> {
                let left = ways.iter().filter(|way| !self.down.contains(&way.source));
                let hops = left.flat_map(|way| self.forwarder.resolve(way.next_hop, Some(*prefix)).hops().to_vec());
                let mut hops: Vec<Hop> = hops.map(|hop| Hop { tunnel: false, ..hop }).collect();
                hops.sort_unstable();
                hops.dedup();
                hops
            };
            let expected = if left(best).is_empty() { left(backup) } else { left(best) };
            if !expected.is_empty() {
                assert_eq!(self.kernel.traffic(*prefix), Some(expected), "{prefix} without {:?}", self.down);
            }
        }
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
        for source in std::mem::take(&mut self.down) {
            self.decide_without(source);
            self.forwarder.source_up(source);
        }
        self.forwarder.start_complete();
        if self.dump_asked || self.dump.is_some() {
            self.act(Step::MakeDump);
            self.act(Step::HearDump);
        }
        for _ in 0..300 {
            self.act(Step::Hear(usize::MAX));
            self.decide_by_reach();
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
        let mut fresh = Forwarder::new(Settings { objects: false, ..self.forwarder.settings().clone() });
        fresh.adopt(Dump { own: Vec::new(), ..self.kernel.dump() });
        for (prefix, ways) in self.chosen.iter().rev() {
            match ways {
                Some((best, _)) => fresh.set_route(*prefix, best, &[]),
                None => fresh.set_blackhole(*prefix),
            }
        }
        fresh.settle();
        let mut wanted = BTreeMap::new();
        let mut kept_out = 0;
        for prefix in self.chosen.keys() {
            let target = fresh.route(*prefix).0;
            let hops = |forwarder: &Forwarder| forwarder.route(*prefix).0.map(|target| forwarder.hops(&target));
            assert_eq!(hops(&self.forwarder), hops(&fresh), "wanted for {prefix}");
            let rival = self.kernel.foreign.iter().any(|route| (route.prefix, route.metric) == (*prefix, METRIC));
            match target {
                Some(_) if rival => kept_out += 1,
                Some(target) => drop(wanted.insert(*prefix, nameless(&target).hops().to_vec())),
                None => {}
            }
        }
        let traffic = self.kernel.own.keys().filter_map(|prefix| Some((*prefix, self.kernel.traffic(*prefix)?)));
        assert_eq!(traffic.collect::<BTreeMap<_, _>>(), wanted, "in the kernel");

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
        let before = (self.kernel.written, self.kernel.nexthops_set, self.forwarder.stats().repaired());
        let dump = self.kernel.dump();
        let links = dump.links.iter().cloned().map(KernelEvent::Link);
        let addresses = dump.addresses.iter().copied().map(KernelEvent::Address);
        let foreign = dump.foreign.iter().cloned().map(KernelEvent::Route);
        let own = dump.own.iter().cloned().map(|(prefix, target)| KernelEvent::Own(prefix, target));
        let nexthops = dump.nexthops.iter().cloned().map(KernelEvent::Nexthop);
        self.kernel.events.extend(links.chain(addresses).chain(foreign).chain(own).chain(nexthops));
        for (prefix, ways) in self.chosen.clone() {
            match ways {
                Some((best, backup)) => self.forwarder.set_route(prefix, &best, &backup),
                None => self.forwarder.set_blackhole(prefix),
            }
        }
        for step in [Step::Hear(usize::MAX), Step::AskForDump, Step::MakeDump, Step::HearDump] {
            self.act(step);
        }
        assert!(self.forwarder.settle().is_empty());
        self.come_to_rest();
        let now = (self.kernel.written, self.kernel.nexthops_set, self.forwarder.stats().repaired());
        assert_eq!(now, before);
    }
}

proptest! {
    #[test]
    fn any_order_of_events_ends_in_the_fib_computed_from_scratch(
        echoes in any::<bool>(),
        objects in any::<Option<bool>>(),
        no_guards in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(Kernel { echoes, no_guards, ..kernel() }, objects);
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
        objects in any::<Option<bool>>(),
        no_guards in any::<bool>(),
        before in proptest::collection::vec(step(), 1..60),
        between in proptest::collection::vec(step(), 0..6),
    ) {
        let mut world = World::new(Kernel { no_guards, ..kernel() }, objects);
        for step in before {
            world.act(step);
        }
        world.kernel.refuse = 0;
        world.come_to_rest();
        let (settings, chosen) = (world.forwarder.settings().clone(), world.chosen.clone());
        let (old, old_objects) = (world.kernel.own.clone(), world.kernel.nexthops.clone());
        let mut kernel = world.kernel;
        kernel.events.clear();
        (kernel.written, kernel.nexthops_set) = (0, 0);

        let mut world = World::new(kernel, objects);
        world.forwarder.configure(settings);
        for (prefix, ways) in chosen {
            world.act(match ways {
                Some((best, backup)) => Step::Route(prefix, best, backup),
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
        let all: BTreeSet<&Prefix> = old.keys().chain(now.keys()).collect();
        let changed = world.kernel.nexthops.iter().filter(|(id, now)| old_objects.get(id) != Some(now)).count();
        prop_assert!(world.kernel.nexthops_set <= 2 * changed, "{} for {changed}", world.kernel.nexthops_set);
        prop_assert!(world.kernel.written <= 2 * all.into_iter().filter(differs).count());
    }
}
