//! The forwarder: what the kernel says and what BGP chose in, writes to the kernel's table out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashSet;

use super::fib::Fib;
use super::next_hops::{Followed, NextHops};
use super::resolve::{Chosen, Context, Reason, Resolution};
use super::sets::{SetId, Sets};
use super::targets::TargetId;
use super::topology::{Affected, Flush, Topology};
use super::{Dump, FibOp, Hop, KernelEvent, NextHop, OpError, Target, TunnelMode};
use crate::net::Prefix;

/// What the operator and the node decide about forwarding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// `network.tunnel`
    pub tunnel: TunnelMode,
    /// `network.tunnel_endpoints`
    pub tunnel_endpoints: Vec<Prefix>,
    /// `network.pools`: the far end of a tunnel is never looked for through a route in them
    pub pools: Vec<Prefix>,
    /// Interface index of our IP-in-IP device; `None`: there is none (kernel without ipip)
    pub tunnel_device: Option<u32>,
    /// The table our routes go to
    pub table: u32,
    /// Their metric
    pub metric: u32,
}

/// Numbers of the forwarder, for metrics and `status`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Routes that should be in the kernel
    pub wanted: usize,
    /// Of these: sent on without a tunnel
    pub wanted_plain: usize,
    /// Of these: with a hop through the tunnel
    pub wanted_tunnel: usize,
    /// Of these: dropped
    pub wanted_blackhole: usize,
    /// Routes that are in the kernel as wanted
    pub installed: usize,
    /// Routes whose last write the kernel refused
    pub failed: usize,
    /// Routes none of whose next hops can be reached
    pub unresolved: usize,
    /// Routes kept out of the kernel by a foreign one with the same prefix and metric
    pub blocked: usize,
    /// Routes of a former run that nobody has asked for yet
    pub stale: usize,
    /// Writes waiting to be taken
    pub queued: usize,
    /// Writes taken and not answered
    pub in_flight: usize,
    /// Distinct next hops followed
    pub next_hops: usize,
    /// Routes of ours that somebody had removed, since start
    pub repaired_missing: u64,
    /// Routes of ours that somebody had changed, since start
    pub repaired_changed: u64,
    /// Routes with our protocol that we never made, since start
    pub repaired_extra: u64,
}

impl Stats {
    /// Routes put right after somebody had removed, changed or added them, since start.
    pub const fn repaired(&self) -> u64 {
        self.repaired_missing + self.repaired_changed + self.repaired_extra
    }
}

/// A foreign route for a prefix we want as well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// The prefix
    pub prefix: Prefix,
    /// Who installed the other one (`rtm_protocol`); `None`: the kernel only said that it exists
    pub protocol: Option<u8>,
    /// Its metric
    pub metric: u32,
    /// It has our metric, so ours is not written. Otherwise ours lies beside it and the lower
    /// metric wins.
    pub blocks: bool,
}

/// Next hop → hop, wanted ↔ actual.
#[derive(Debug)]
pub struct Forwarder {
    settings: Settings,
    topology: Topology,
    next_hops: NextHops,
    sets: Sets,
    fib: Fib,
    /// Routes one of whose next hops lies in them and is not on-link: what those come to depends
    /// on the route, not on the set alone
    winding: BTreeSet<Prefix>,
    /// Next hops to tell the RIB of
    moved: BTreeSet<IpAddr>,
    /// What came since the dump was asked for; applied again on top of it
    since_dump: Option<Vec<KernelEvent>>,
}

impl Forwarder {
    /// Knows nothing yet: feed it with [`Self::adopt`] first.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            topology: Topology::default(),
            next_hops: NextHops::default(),
            sets: Sets::new(),
            fib: Fib::new(),
            winding: BTreeSet::new(),
            moved: BTreeSet::new(),
            since_dump: None,
        }
    }

    /// What it works by.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Works by other settings from now on (reload; the tunnel device came or went). The
    /// consequences come with the next [`Self::settle`] and [`Self::take_ops`].
    pub fn configure(&mut self, settings: Settings) {
        if self.settings == settings {
            return;
        }
        self.settings = settings;
        let tunnel = self.settings.tunnel_device;
        self.fib.rename(|target| name_tunnel(target.clone(), tunnel));
        self.take_rivals();
        self.next_hops.mark(Affected::All);
    }

    // ---- what the kernel says ----

    /// What the kernel holds at start. Routes of ours that a former run left count as actual;
    /// those nobody asks for are *stale*, stay until [`Self::start_complete`], then go.
    pub fn adopt(&mut self, dump: Dump) {
        let own = self.topology.replace(dump);
        self.take_rivals();
        self.next_hops.mark(Affected::All);
        for (prefix, target) in own {
            self.fib.adopt(prefix, &name_tunnel(target, self.settings.tunnel_device));
        }
    }

    /// The first sync is done (or its deadline has passed): stale routes may go.
    pub fn start_complete(&mut self) {
        self.fib.end_adoption();
    }

    /// Something changed in the kernel. Cheap; the consequences come with the next
    /// [`Self::settle`] and [`Self::take_ops`], so feed all that has arrived first.
    pub fn event(&mut self, event: KernelEvent) {
        let tunnel = self.settings.tunnel_device;
        let touched = match event {
            KernelEvent::Own(prefix, target) => return self.fib.appeared(prefix, &name_tunnel(target, tunnel)),
            KernelEvent::OwnGone(prefix, target) => return self.fib.vanished(prefix, &name_tunnel(target, tunnel)),
            KernelEvent::Route(ref route) | KernelEvent::RouteGone(ref route) => Some(route.prefix),
            _ => None,
        };
        if let Some(log) = &mut self.since_dump {
            log.push(event.clone());
        }
        let (affected, flush) = self.topology.apply(event);
        if self.topology.take_guess() {
            self.fib.raise_doubt();
        }
        self.next_hops.mark(affected);
        if let Some(prefix) = touched {
            self.take_rival(prefix);
        }
        if let Some(cause) = flush {
            self.flush(cause);
        } else if affected == Affected::All {
            self.fib.retry_unreachable();
        }
    }

    /// A dump is about to be asked for: what is written or changes from now on is not judged by
    /// it. To be called again if the dump failed or events were lost meanwhile.
    pub fn begin_resync(&mut self) {
        self.since_dump = Some(Vec::new());
        self.fib.begin_resync();
    }

    /// The dump asked for after [`Self::begin_resync`]: everything known is compared with it,
    /// differences are repaired and counted.
    pub fn resync(&mut self, dump: Dump) {
        let own = self.topology.replace(dump);
        // The dump may be older than an event that has been heard already.
        for event in self.since_dump.take().into_iter().flatten() {
            self.topology.apply(event);
        }
        self.next_hops.mark(Affected::All);
        self.take_rivals();
        let tunnel = self.settings.tunnel_device;
        self.fib.resync(own.into_iter().map(|(prefix, target)| (prefix, name_tunnel(target, tunnel))));
        if self.topology.take_guess() {
            self.fib.raise_doubt();
        }
    }

    /// Something happened that only a dump can clear up. Dumps are dear: not more than one a
    /// second, and never while one is under way.
    pub fn needs_resync(&self) -> bool {
        self.fib.needs_resync()
    }

    // ---- next hops ----

    /// Distance to a next hop, for the decision of RFC 4271 §9.1.2: 0 on-link, 1 behind a gateway or
    /// tunnel, `None` out of reach. One hash look-up; the first time it is resolved and followed.
    pub fn next_hop(&mut self, next_hop: NextHop) -> Option<u32> {
        match self.next_hops.get(next_hop) {
            Some(followed) => followed.distance,
            None => self.follow(next_hop).distance,
        }
    }

    /// The same for a path to `prefix`, which cannot be reached through itself. Prefer this one.
    pub fn next_hop_for(&mut self, prefix: Prefix, next_hop: NextHop) -> Option<u32> {
        let distance = self.next_hop(next_hop);
        if prefix.contains(next_hop.addr) && !self.next_hops.get(next_hop).is_some_and(Followed::is_direct) {
            return self.resolve(next_hop, Some(prefix)).distance();
        }
        distance
    }

    /// Resolves again what events and routes since the last call may have changed. Returns the
    /// next hops whose distance changed, sorted: the RIB must decide again for paths over them.
    pub fn settle(&mut self) -> Vec<IpAddr> {
        self.update();
        std::mem::take(&mut self.moved).into_iter().collect()
    }

    /// Stops following the next hops that no route uses and `in_use` denies.
    pub fn forget_next_hops(&mut self, in_use: impl Fn(&NextHop) -> bool) {
        self.next_hops.forget(in_use);
    }

    /// How a next hop is reached for a route to `of`, looked at afresh.
    pub fn resolve(&self, next_hop: NextHop, of: Option<Prefix>) -> Resolution {
        let chosen = |prefix| chosen(&self.fib, &self.sets, prefix);
        let context = Context { topology: &self.topology, settings: &self.settings, chosen: &chosen };
        context.resolve(next_hop, of)
    }

    // ---- routes ----

    /// A route shall go over these next hops, in any order; what can't be reached drops out. No
    /// next hop at all: no route.
    pub fn set_route(&mut self, prefix: Prefix, next_hops: &[NextHop]) {
        if next_hops.is_empty() {
            return self.remove_route(prefix);
        }
        let set = match self.sets.find(next_hops) {
            Ok(set) => set,
            Err(members) => self.new_set(members),
        };
        self.sets.retain(set);
        let before = self.want(prefix, set);
        self.replaced(prefix, before, set);
    }

    /// A prefix shall be dropped (our own subnet: what no container has must not leave again).
    pub fn set_blackhole(&mut self, prefix: Prefix) {
        self.winding.remove(&prefix);
        let before = self.fib.want(prefix, SetId::BLACKHOLE, TargetId::BLACKHOLE);
        self.replaced(prefix, before, SetId::BLACKHOLE);
    }

    /// A prefix is no longer wanted.
    pub fn remove_route(&mut self, prefix: Prefix) {
        self.winding.remove(&prefix);
        let before = self.fib.unwant(prefix);
        self.replaced(prefix, before, SetId::NONE);
    }

    // ---- writes ----

    /// Appends up to `max` writes to `out`: what creates and replaces first, then removals. Carry them
    /// out in this order and answer each with [`Self::acked`].
    pub fn take_ops(&mut self, now: Instant, max: usize, out: &mut Vec<FibOp>) {
        self.update();
        self.fib.take_ops(now, max, out);
    }

    /// The kernel's answer to a write. Returns whether the prefix now is as wanted.
    pub fn acked(&mut self, prefix: Prefix, answer: Result<(), OpError>, now: Instant) -> bool {
        self.fib.acked(prefix, answer, now)
    }

    /// The writer lost its socket: nobody knows what became of the writes under way.
    pub fn writer_lost(&mut self) {
        self.fib.writer_lost();
    }

    /// When the next refused write is due again: call [`Self::take_ops`] then.
    pub fn next_retry(&self) -> Option<Instant> {
        self.fib.refused.next()
    }

    /// Nothing is queued, under way or waiting for a retry.
    pub fn is_quiescent(&self) -> bool {
        let counts = self.fib.counts();
        !self.next_hops.is_dirty() && counts.queued == 0 && counts.in_flight == 0 && self.next_retry().is_none()
    }

    /// How many writes wait to be taken. What changes resolution is counted once it is resolved.
    pub fn queued(&self) -> usize {
        self.fib.counts().queued
    }

    /// All that is wanted is in the kernel, or was refused by it.
    pub fn is_written(&self) -> bool {
        let counts = self.fib.counts();
        !self.next_hops.is_dirty() && counts.queued == 0 && counts.in_flight == 0
    }

    // ---- seen ----

    pub(super) const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The target a prefix should have and the one it has, as far as known.
    pub fn route(&self, prefix: Prefix) -> (Option<Target>, Option<Target>) {
        let Some(slot) = self.fib.slot(prefix) else { return (None, None) };
        let target = |id| self.fib.targets.get(id).cloned();
        (target(slot.wanted), target(slot.actual))
    }

    /// A device's name.
    pub fn device(&self, index: u32) -> Option<&str> {
        self.topology.link(index).map(|link| link.name.as_str())
    }

    /// Numbers for metrics. Their cost doesn't grow with the routes.
    pub fn stats(&self) -> Stats {
        let counts = self.fib.counts();
        let repaired = self.fib.repaired();
        Stats {
            wanted: counts.plain + counts.tunnel + counts.blackhole,
            wanted_plain: counts.plain,
            wanted_tunnel: counts.tunnel,
            wanted_blackhole: counts.blackhole,
            installed: counts.installed,
            failed: self.fib.refused.len(),
            unresolved: counts.unresolved,
            blocked: self.fib.rivals().keys().filter(|prefix| self.is_blocked(**prefix)).count(),
            stale: counts.stale,
            queued: counts.queued,
            in_flight: counts.in_flight,
            next_hops: self.next_hops.len(),
            repaired_missing: repaired.missing,
            repaired_changed: repaired.changed,
            repaired_extra: repaired.extra,
        }
    }

    /// Foreign routes of our table for prefixes we want, sorted.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let beside = self.topology.foreign().filter(|route| route.table == self.settings.table);
        let known = beside.filter(|route| self.wants(route.prefix)).map(|route| Conflict {
            prefix: route.prefix,
            protocol: Some(route.protocol),
            metric: route.metric,
            blocks: route.metric == self.settings.metric && self.is_blocked(route.prefix),
        });
        // The kernel knows of one that we haven't heard of.
        let unheard = self
            .fib
            .refused
            .iter()
            .filter(|(prefix, failure)| failure.error == OpError::Exists && !self.fib.rivals().contains_key(prefix))
            .map(|(prefix, _)| Conflict { prefix, protocol: None, metric: self.settings.metric, blocks: true });
        let mut all: Vec<Conflict> = known.chain(unheard).collect();
        all.sort_by_key(|conflict| (conflict.prefix, conflict.metric));
        all
    }

    /// Next hops that need a tunnel and have none for want of a device, with the number of routes
    /// over each, sorted.
    pub fn affected_without_tunnel(&self) -> Vec<(IpAddr, usize)> {
        let mut affected: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (next_hop, followed) in self.next_hops.iter() {
            if followed.resolution.outcome == Err(Reason::NoTunnel) {
                let sets = self.sets.iter().filter(|(_, set)| set.members.contains(&next_hop));
                *affected.entry(next_hop.addr).or_default() += sets.map(|(_, set)| set.routes).sum::<usize>();
            }
        }
        affected.into_iter().collect()
    }

    pub(super) const fn fib(&self) -> &Fib {
        &self.fib
    }

    /// What BGP chose for a prefix.
    pub(super) fn chosen(&self, prefix: Prefix) -> Option<Chosen> {
        chosen(&self.fib, &self.sets, prefix)
    }

    fn wants(&self, prefix: Prefix) -> bool {
        self.fib.slot(prefix).is_some_and(|slot| slot.wanted.is_some())
    }

    /// Kept out by a foreign route with the same metric.
    fn is_blocked(&self, prefix: Prefix) -> bool {
        self.fib.slot(prefix).is_some_and(|slot| slot.wanted.is_some() && slot.wanted != slot.actual)
    }

    // ---- consequences ----

    fn follow(&mut self, next_hop: NextHop) -> &mut Followed {
        let chosen = |prefix| chosen(&self.fib, &self.sets, prefix);
        let context = Context { topology: &self.topology, settings: &self.settings, chosen: &chosen };
        self.next_hops.follow(next_hop, &context)
    }

    /// The kernel's own housekeeping.
    fn flush(&mut self, cause: Flush) {
        let topology = &self.topology;
        self.fib.flush(|family, hops| topology.flushes(cause, family, hops));
        let rivals: Vec<Prefix> = self.fib.rivals().keys().copied().collect();
        for prefix in rivals {
            self.take_rival(prefix);
        }
    }

    fn take_rival(&mut self, prefix: Prefix) {
        let rival = self.topology.rival(prefix, self.settings.table, self.settings.metric);
        self.fib.set_rival(prefix, rival);
    }

    fn take_rivals(&mut self) {
        let Settings { table, metric, .. } = self.settings;
        let same = self.topology.foreign().filter(|route| (route.table, route.metric) == (table, metric));
        let rivals = same.map(|route| (route.prefix, route.protocol)).collect();
        self.fib.set_rivals(&rivals);
    }

    fn new_set(&mut self, members: Arc<[NextHop]>) -> SetId {
        for member in members.iter() {
            self.follow(*member).sets += 1;
        }
        let (target, direct) = self.evaluate(&members);
        self.sets.insert(members, target, direct)
    }

    /// What next hops come to, whatever the prefix: a target with one more user, and whether all
    /// are on-link.
    fn evaluate(&mut self, members: &[NextHop]) -> (TargetId, bool) {
        let followed = || members.iter().filter_map(|member| self.next_hops.get(*member));
        let hops: Vec<Hop> = followed().flat_map(|one| one.resolution.hops()).copied().collect();
        let direct = followed().all(Followed::is_direct);
        (self.fib.targets.intern_hops(hops), direct)
    }

    /// Wants for a prefix what a set comes to; returns the set it had.
    fn want(&mut self, prefix: Prefix, id: SetId) -> SetId {
        let Some(set) = self.sets.get(id) else { return id };
        let lies_in = |member: &&NextHop| {
            prefix.contains(member.addr) && !self.next_hops.get(**member).is_some_and(Followed::is_direct)
        };
        if set.direct || !set.members.iter().any(|member| lies_in(&member)) {
            if !self.winding.is_empty() {
                self.winding.remove(&prefix);
            }
            return self.fib.want(prefix, id, set.target);
        }
        let members = Arc::clone(&set.members);
        let hops: Vec<Hop> =
            members.iter().flat_map(|member| self.resolve(*member, Some(prefix)).hops().to_vec()).collect();
        let target = self.fib.targets.intern_hops(hops);
        let before = self.fib.want(prefix, id, target);
        self.fib.targets.release(target);
        self.winding.insert(prefix);
        before
    }

    /// A prefix has another set now.
    fn replaced(&mut self, prefix: Prefix, before: SetId, now: SetId) {
        if before != now {
            self.next_hops.mark_own(prefix);
        }
        if let Some(set) = self.sets.release(before) {
            self.fib.targets.release(set.target);
            for member in set.members.iter() {
                if let Some(followed) = self.next_hops.get_mut(*member) {
                    followed.sets = followed.sets.saturating_sub(1);
                }
            }
        }
    }

    /// Resolves again what is marked, and rewrites the routes over it.
    fn update(&mut self) {
        if !self.next_hops.is_dirty() {
            return;
        }
        let chosen = |prefix| chosen(&self.fib, &self.sets, prefix);
        let context = Context { topology: &self.topology, settings: &self.settings, chosen: &chosen };
        let changed = self.next_hops.settle(&context, &mut self.moved);

        let mut rewritten = HashSet::with_hasher(ahash::RandomState::new());
        for id in self.sets.with_any(&changed) {
            let Some(members) = self.sets.get(id).map(|set| Arc::clone(&set.members)) else { continue };
            let (target, direct) = self.evaluate(&members);
            let Some(set) = self.sets.get_mut(id) else { continue };
            if (set.target, set.direct) != (target, direct) {
                rewritten.insert(id);
            }
            set.direct = direct;
            let before = std::mem::replace(&mut set.target, target);
            self.fib.targets.release(before);
        }
        let mut routes: Vec<(Prefix, SetId)> = Vec::new();
        if !rewritten.is_empty() {
            let over = self.fib.slots().filter(|(_, slot)| rewritten.contains(&slot.set));
            routes.extend(over.map(|(prefix, slot)| (prefix, slot.set)));
            // A hash map's order is nobody's business.
            routes.sort_unstable();
        }
        let winding = self.winding.iter().filter_map(|prefix| Some((*prefix, self.fib.slot(*prefix)?.set)));
        routes.extend(winding);
        for (prefix, set) in routes {
            self.want(prefix, set);
        }
    }
}

/// What BGP chose for a prefix.
fn chosen(fib: &Fib, sets: &Sets, prefix: Prefix) -> Option<Chosen> {
    match fib.slot(prefix)?.set {
        SetId::NONE => None,
        SetId::BLACKHOLE => Some(Chosen::Blackhole),
        set => Some(Chosen::Via(Arc::clone(&sets.get(set)?.members))),
    }
}

/// A target as netlink reports it, with the hops over our tunnel device marked as such.
fn name_tunnel(target: Target, tunnel: Option<u32>) -> Target {
    let named = |hop: &Hop| Hop { tunnel: Some(hop.device) == tunnel, ..*hop };
    match target {
        Target::Via(hops) if hops.iter().any(|hop| named(hop) != *hop) => Target::Via(hops.iter().map(named).collect()),
        target => target,
    }
}
