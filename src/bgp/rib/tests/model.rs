//! Any order of events leads to what a computation from scratch gives, in the table and at every
//! receiver.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::groups::Receiver;
use super::*;
use crate::bgp::attrs::{Community, Origin};
use crate::bgp::policy::{Edit, PrefixMatch, Rule, Rules};

const PEERS: u8 = 6;
const PREFIXES: usize = 6;

fn prefix(i: usize) -> Prefix {
    let texts = ["10.244.1.0/24", "10.244.2.0/24", "10.0.0.0/8", "0.0.0.0/0", "2001:db8:1::/48", "10.244.7.0/24"];
    p(texts[i])
}

#[derive(Clone, Debug)]
enum Event {
    Announce(u8, usize, u8),
    Withdraw(u8, usize),
    Down(u8),
    Restart(u8, bool, bool),
    Up(u8, bool),
    /// One of our AS becomes a client, or is none any more; also as it comes up
    Turn(u8),
    MarkStale(u8, Family),
    Sweep(u8, Family),
    Scope(u8, u8),
    NextHop(u8, bool),
    Originate(usize, u8),
    Unoriginate(usize),
    /// Decide for as many and tell; the bits say whose queues are full
    Decide(u8, u8),
    /// Every route is to be decided again
    TouchAll,
    Join(u8),
    Leave(u8),
    Refresh(u8, Family),
    Drain(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let peer = || 1..=PEERS;
    let family = || prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)];
    prop_oneof![
        12 => (peer(), 0..PREFIXES, any::<u8>()).prop_map(|(n, i, v)| Event::Announce(n, i, v)),
        4 => (peer(), 0..PREFIXES).prop_map(|(n, i)| Event::Withdraw(n, i)),
        1 => peer().prop_map(Event::Down),
        1 => (peer(), any::<bool>(), any::<bool>()).prop_map(|(n, a, b)| Event::Restart(n, a, b)),
        3 => (peer(), any::<bool>()).prop_map(|(n, other)| Event::Up(n, other)),
        2 => (4..=PEERS).prop_map(Event::Turn),
        1 => (peer(), family()).prop_map(|(n, f)| Event::MarkStale(n, f)),
        1 => (peer(), family()).prop_map(|(n, f)| Event::Sweep(n, f)),
        1 => (peer(), 0..4_u8).prop_map(|(n, s)| Event::Scope(n, s)),
        2 => (0..4_u8, any::<bool>()).prop_map(|(h, up)| Event::NextHop(h, up)),
        1 => (0..PREFIXES, any::<u8>()).prop_map(|(i, v)| Event::Originate(i, v)),
        1 => (0..PREFIXES).prop_map(Event::Unoriginate),
        8 => (1..5_u8, any::<u8>()).prop_map(|(limit, full)| Event::Decide(limit, full)),
        1 => Just(Event::TouchAll),
        3 => peer().prop_map(Event::Join),
        1 => peer().prop_map(Event::Leave),
        1 => (peer(), family()).prop_map(|(n, f)| Event::Refresh(n, f)),
        4 => peer().prop_map(Event::Drain),
    ]
}

/// Peers 1, 2, 3 are external (3 in the AS of 2), 4 and 5 clients, 6 another of our AS; or the other
/// way round, if `turned`.
fn info(n: u8, other: bool, scope: u8, turned: bool) -> PeerInfo {
    let edit = Edit { local_pref: Some(150), add_communities: vec![Community(7)], ..Edit::default() };
    let rule = Rule {
        prefixes: vec![PrefixMatch::new(p("10.0.0.0/8"), None, Some(24))],
        communities: vec![],
        as_path_contains: vec![],
        accept: true,
        edit,
    };
    let scope = match scope {
        0 => ImportScope::All,
        1 => ImportScope::Pools,
        2 => ImportScope::None,
        _ => ImportScope::Named(Rules(vec![rule])),
    };
    let base = match n {
        1 | 2 => external(n),
        3 => PeerInfo { asn: Asn(65002), ..external(n) },
        4 | 5 => client(n),
        _ => internal(n),
    };
    let router_id = if other { [5, 5, 5, n].into() } else { base.router_id };
    PeerInfo { router_id, import: import(scope), client: base.client != turned, ..base }
}

fn attrs(n: u8, i: usize, variant: u8) -> Attrs {
    let numbers: &[u32] = match (n, variant & 3) {
        (1, 0) => &[65001],
        (1, _) => &[65001, 65009],
        (2 | 3, 0) => &[65002],
        (2 | 3, _) => &[65002, 65009],
        (_, 0 | 1) => &[],
        _ => &[65009, 65008],
    };
    let next_hop = if prefix(i).family() == Family::Ipv4 { "192.0.2.10" } else { "2001:db8::10" };
    let next_hop = format!("{next_hop}{}", variant >> 2 & 3);
    let bit = |n: u8| variant >> n & 1 == 1;
    Attrs {
        med: bit(4).then_some(u32::from(variant >> 5)),
        origin: if bit(5) { Origin::Incomplete } else { Origin::Igp },
        local_pref: (bit(6) && n > 3).then_some(200),
        originator_id: (bit(7) && n > 3).then_some([3, 3, 3, 3].into()),
        communities: if variant == 255 { [Community::NO_EXPORT].into() } else { Box::default() },
        ..path(numbers, &next_hop)
    }
}

/// Which group a peer is in.
fn group_of(n: u8) -> usize {
    [0, 0, 0, 1, 1, 2][usize::from(n - 1)]
}

struct World {
    rib: Rib,
    groups: Vec<Group>,
    ears: BTreeMap<PeerId, Receiver>,
    dead: BTreeSet<u8>,
    // What the world should come to
    peers: BTreeMap<u8, (bool, u8, bool, bool)>,
    sent: BTreeMap<(u8, usize), (u8, bool)>,
    own: BTreeMap<usize, u8>,
}

const MULTIPATH: usize = 2;

fn id(n: u8) -> PeerId {
    PeerId(n.into())
}

fn metric(dead: &BTreeSet<u8>, next_hop: IpAddr) -> Option<u32> {
    let last = next_hop.to_string().bytes().last().unwrap_or_default() - b'0';
    (!dead.contains(&last)).then_some(u32::from(last / 2))
}

impl World {
    fn new() -> Self {
        let rib = Rib::new();
        let selfish = ExportSettings { next_hop_self: true, ..settings(false, false) };
        let groups = [settings(true, false), settings(false, true), selfish].map(Group::new).into();
        let peers = (1..=PEERS).map(|n| (n, (false, 0, false, false))).collect();
        let (ears, dead, sent, own) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        Self { rib, groups, ears, dead, peers, sent, own }
    }

    fn drop_sent(&mut self, which: impl Fn(u8, usize, bool) -> bool) {
        self.sent.retain(|(n, i), (_, stale)| !which(*n, *i, *stale));
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Announce(n, i, variant) => {
                let attrs = Arc::new(attrs(n, i, variant));
                let update = Update { reach: vec![Reach { attrs, prefixes: vec![prefix(i)] }], ..Update::default() };
                self.rib.update(id(n), &update);
                if self.peers[&n].0 {
                    self.sent.insert((n, i), (variant, false));
                }
            }
            Event::Withdraw(n, i) => {
                self.rib.update(id(n), &Update { withdrawn: vec![prefix(i)], ..Update::default() });
                if self.peers[&n].0 {
                    self.sent.remove(&(n, i));
                }
            }
            Event::Down(n) => {
                self.rib.peer_down(id(n));
                self.drop_sent(|m, _, _| m == n);
                self.peers.entry(n).and_modify(|peer| peer.0 = false);
            }
            Event::Restart(n, v4, v6) => {
                let keep = PerFamily::new(v4, v6);
                self.rib.peer_restarts(id(n), keep);
                self.drop_sent(|m, i, _| m == n && !keep[prefix(i).family()]);
                self.sent.iter_mut().filter(|((m, _), _)| *m == n).for_each(|(_, (_, stale))| *stale = true);
                self.peers.entry(n).and_modify(|peer| peer.0 = false);
            }
            Event::Up(n, other) => {
                let (_, scope, before, turned) = self.peers[&n];
                self.rib.peer_up(info(n, other, scope, turned));
                if other != before {
                    self.drop_sent(|m, _, _| m == n);
                }
                self.peers.insert(n, (true, scope, other, turned));
            }
            Event::Turn(n) => {
                let (_, scope, other, turned) = self.peers[&n];
                self.rib.peer_up(info(n, other, scope, !turned));
                self.peers.insert(n, (true, scope, other, !turned));
            }
            Event::MarkStale(n, family) => {
                self.rib.mark_stale(id(n), family);
                let of = |n2: u8, i: usize| n2 == n && prefix(i).family() == family;
                self.sent.iter_mut().filter(|((m, i), _)| of(*m, *i)).for_each(|(_, (_, stale))| *stale = true);
            }
            Event::Sweep(n, family) => {
                self.rib.sweep_stale(id(n), family);
                self.drop_sent(|m, i, stale| m == n && stale && prefix(i).family() == family);
            }
            Event::Scope(n, scope) => {
                // A peer that the table doesn't know hears of its policy when it comes up.
                let (up, _, other, turned) = self.peers[&n];
                self.rib.set_import(id(n), info(n, other, scope, turned).import);
                self.peers.insert(n, (up, scope, other, turned));
            }
            Event::NextHop(hop, up) => {
                if up {
                    self.dead.remove(&hop)
                } else {
                    self.dead.insert(hop)
                };
                self.rib.next_hops_changed(&[ip(&format!("192.0.2.10{hop}")), ip(&format!("2001:db8::10{hop}"))]);
            }
            Event::Originate(i, variant) => {
                self.rib.originate(prefix(i), attrs(9, i, variant));
                self.own.insert(i, variant);
            }
            Event::Unoriginate(i) => {
                assert_eq!(self.rib.unoriginate(&prefix(i)), self.own.remove(&i).is_some());
            }
            Event::Decide(limit, full) => self.decide(limit.into(), full),
            Event::TouchAll => self.rib.touch_all(),
            Event::Join(n) => {
                // Nothing may be left of an earlier session; a change of settings is told.
                if self.ears.contains_key(&id(n)) {
                    let has: Vec<_> = self.groups[group_of(n)].may_hold(id(n), &self.rib).collect();
                    self.groups[group_of(n)].join(id(n), has);
                } else {
                    self.groups[group_of(n)].join(id(n), []);
                    self.ears.insert(id(n), Receiver::default());
                }
            }
            Event::Leave(n) => {
                self.groups[group_of(n)].leave(id(n));
                self.ears.remove(&id(n));
            }
            Event::Refresh(n, family) => self.groups[group_of(n)].refresh(id(n), family),
            Event::Drain(n) => {
                self.drain(n, 100);
            }
        }
    }

    fn decide(&mut self, limit: usize, full: u8) {
        let dead = self.dead.clone();
        let mut changes = Vec::new();
        self.rib.decide(&|_, attrs| metric(&dead, attrs.next_hop), select(MULTIPATH), limit, &mut changes);
        let once: BTreeSet<_> = changes.iter().map(|change| change.prefix).collect();
        assert_eq!(once.len(), changes.len(), "each prefix at most once");
        assert!(changes.len() <= limit);
        for change in &changes {
            let i = (0..PREFIXES).find(|i| prefix(*i) == change.prefix).unwrap();
            for chosen in change.hops.iter().chain(&change.backup) {
                let there = match chosen.peer {
                    PeerId::LOCAL => self.own.contains_key(&i),
                    PeerId(n) => self.sent.contains_key(&(u8::try_from(n).unwrap(), i)),
                };
                assert!(there, "what is gone is not chosen: {change:?}");
            }
        }
        for group in &mut self.groups {
            for chunk in group.export(&changes) {
                for id in group.synced().collect::<Vec<_>>() {
                    if full >> id.0 & 1 == 1 {
                        group.lag(id, &chunk);
                        continue;
                    }
                    let ear = self.ears.get_mut(&id).unwrap();
                    chunk.bytes_for(id).for_each(|bytes| ear.feed(&bytes, group.settings().codec));
                }
            }
        }
    }

    fn drain(&mut self, n: u8, budget: usize) -> bool {
        let group = &mut self.groups[group_of(n)];
        let drained = group.drain(id(n), &self.rib, budget);
        if let Some(ear) = self.ears.get_mut(&id(n)) {
            ear.feed(&drained.bytes, group.settings().codec);
        }
        drained.synced
    }

    fn settle(&mut self) {
        while !self.rib.is_settled() {
            self.decide(3, 0b0101_0101);
        }
        for n in 1..=PEERS {
            let mut turns = 0;
            while self.ears.contains_key(&id(n)) && !self.groups[group_of(n)].is_synced(id(n)) {
                self.drain(n, 100);
                turns += 1;
                assert!(turns < 100, "catching up ends");
            }
        }
    }

    /// The same from nothing.
    fn scratch(&self) -> Rib {
        let mut rib = Rib::new();
        for (n, (_, scope, other, turned)) in self.peers.iter().rev() {
            rib.peer_up(info(*n, *other, *scope, *turned));
        }
        for ((n, i), (variant, _)) in self.sent.iter().rev() {
            let attrs = Arc::new(attrs(*n, *i, *variant));
            let update = Update { reach: vec![Reach { attrs, prefixes: vec![prefix(*i)] }], ..Update::default() };
            rib.update(id(*n), &update);
        }
        for (i, variant) in &self.own {
            rib.originate(prefix(*i), attrs(9, *i, *variant));
        }
        decide(&mut rib, &|_, attrs| metric(&self.dead, attrs.next_hop), MULTIPATH);
        rib
    }

    /// Takes everything out again; what is left in memory then was forgotten.
    fn end(mut self) -> (usize, usize, usize, usize) {
        (1..=PEERS).for_each(|n| self.rib.peer_down(id(n)));
        for i in 0..PREFIXES {
            self.rib.unoriginate(&prefix(i));
        }
        decide(&mut self.rib, &anywhere, 1);
        self.rib.decide(&anywhere, select(1), 1, &mut Vec::new());
        let stats = self.rib.stats();
        (self.rib.memory(), stats.paths + stats.prefixes, self.rib.store.sets.holders(), self.rib.store.lots.len())
    }
}

/// Prefix, best path, multipath set, backup.
type Row = (Prefix, Option<(Source, Attrs)>, Vec<(PeerId, Attrs)>, Vec<(PeerId, Attrs)>);

fn loc_rib(rib: &Rib) -> Vec<Row> {
    let row = |view: View<'_>| {
        let best = view.best.map(|best| (best.source, Attrs::clone(&best.attrs)));
        let paths = |chosen: &[Chosen]| chosen.iter().map(|c| (c.peer, Attrs::clone(&c.attrs))).collect();
        (view.prefix, best, paths(&view.hops), paths(&view.backup))
    };
    let mut rows: Vec<Row> = rib.views().map(row).collect();
    rows.sort_unstable_by_key(|(prefix, ..)| *prefix);
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_gives_what_a_computation_from_scratch_gives(
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut world = World::new();
        for event in &events {
            world.apply(event);
        }
        world.settle();
        let scratch = world.scratch();
        prop_assert_eq!(loc_rib(&world.rib), loc_rib(&scratch));
        prop_assert_eq!(world.rib.stats().paths, world.sent.len() + world.own.len());
        prop_assert_eq!(world.rib.stats().selected, scratch.stats().selected);
        for n in 1..=PEERS {
            let counters = |rib: &Rib| rib.counters(id(n)).unwrap_or_default();
            let stale = world.sent.iter().filter(|((m, _), (_, stale))| *m == n && *stale).count();
            prop_assert_eq!(counters(&world.rib), Counters { stale, ..counters(&scratch) });
            prop_assert_eq!(counters(&world.rib).received, world.sent.keys().filter(|(m, _)| *m == n).count());
        }
        for (member, ear) in &world.ears {
            let group = world.groups.iter().find(|g| g.members().any(|m| m == *member)).unwrap();
            let mut wanted = BTreeMap::new();
            for view in scratch.views() {
                let Some(best) = view.best.filter(|best| best.source.peer != *member) else { continue };
                if let Some(attrs) = group.settings().exported(&view.prefix, &best) {
                    wanted.insert(view.prefix, attrs);
                }
            }
            prop_assert_eq!(&ear.routes, &wanted, "{:?}", member);
            prop_assert_eq!(group.advertised(*member), wanted.len());
            prop_assert_eq!(&group.sent(*member, &world.rib).collect::<BTreeMap<_, _>>(), &wanted);
        }
        prop_assert_eq!(world.end(), (0, 0, 0, 1));
    }
}
