//! The forwarder: what the kernel says and what BGP chose in, writes to the kernel's table out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::duel::Duel;
use super::fib::Fib;
use super::held::Contested;
use super::next_hops::{Followed, NextHops};
use super::objects::Objects;
use super::resolve::{Chosen, Context, Reason, Resolution};
use super::sets::{Ranked, SetId, Sets};
use super::targets::TargetId;
use super::topology::{Affected, Flush, Topology};
use super::{
    Batch, Dump, ForeignRoute, Hop, KernelEvent, NextHop, Nexthop, NexthopId, NexthopObject, NexthopOp, OpError,
    RouteKind, Target, TunnelMode, Way,
};
use crate::net::Prefix;

/// Age at which a set's object names its backup. While tables load and peers come and go sets are
/// short-lived.
const GUARD_AFTER: Duration = Duration::from_secs(30);

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
    /// Who made them (`rtm_protocol`), and our nexthop objects
    pub protocol: u8,
    /// Routes refer to kernel nexthop objects, and what was left by a run without is replaced.
    /// Not to be changed by [`Forwarder::configure`].
    pub objects: bool,
    /// `kernel.link_guard`. Not to be changed either
    pub guard: bool,
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
    /// Kernel nexthop objects in use: hops and groups
    pub objects: usize,
    /// Routes of ours that somebody had removed, since start
    pub repaired_missing: u64,
    /// Routes of ours that somebody had changed, since start
    pub repaired_changed: u64,
    /// Routes with our protocol that we never made, since start
    pub repaired_extra: u64,
    /// Nexthop objects of ours that somebody had changed or removed, since start
    pub repaired_objects: u64,
    /// Writes of routes that undid what was heard of as somebody's work, since start
    pub undone_routes: u64,
    /// The same of nexthop objects
    pub undone_objects: u64,
}

impl Stats {
    /// Routes and objects put right after somebody had removed, changed or added them, since start.
    pub const fn repaired(&self) -> u64 {
        self.repaired_missing + self.repaired_changed + self.repaired_extra + self.repaired_objects
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
    objects: Objects,
    fib: Fib,
    /// Sources whose paths are about to go: nothing is sent over them where there is another way
    gone: BTreeSet<u32>,
    /// Sets whose objects are to name their backup once they are old enough
    newborn: Vec<SetId>,
    /// The same with the time, earliest first
    young: VecDeque<(Instant, SetId)>,
    /// Sets to look at again
    touched: BTreeSet<SetId>,
    /// Sets that come to another target: the routes over them are to be looked at again
    rewritten: BTreeSet<SetId>,
    /// Objects that nobody needs
    idle: Vec<NexthopOp>,
    /// Routes one of whose next hops lies in them and is not on-link: what those come to depends
    /// on the route, not on the set alone
    winding: BTreeSet<Prefix>,
    /// What those come to may have changed
    winding_touched: bool,
    /// Next hops to tell the RIB of
    moved: BTreeSet<IpAddr>,
    /// Next hops in use that are reached otherwise, since last asked
    turned: BTreeSet<NextHop>,
    /// What came since the dump was asked for; applied again on top of it
    since_dump: Option<Vec<KernelEvent>>,
}

impl Forwarder {
    /// Knows nothing yet: feed it with [`Self::adopt`] first.
    pub fn new(settings: Settings) -> Self {
        Self {
            objects: Objects::new(settings.guard),
            settings,
            topology: Topology::default(),
            next_hops: NextHops::default(),
            sets: Sets::new(),
            fib: Fib::new(),
            gone: BTreeSet::new(),
            newborn: Vec::new(),
            young: VecDeque::new(),
            touched: BTreeSet::new(),
            rewritten: BTreeSet::new(),
            idle: Vec::new(),
            winding: BTreeSet::new(),
            winding_touched: false,
            moved: BTreeSet::new(),
            turned: BTreeSet::new(),
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
        let settings = Settings { objects: self.settings.objects, guard: self.settings.guard, ..settings };
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
    pub fn adopt(&mut self, mut dump: Dump) {
        let nexthops = std::mem::take(&mut dump.nexthops);
        let named = nexthops.into_iter().map(|object| self.name(object)).collect();
        self.objects.adopt(named, self.settings.protocol);
        self.fill_in(&mut dump);
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
            KernelEvent::Nexthop(object) => return self.nexthop_appeared(object),
            KernelEvent::NexthopGone(id) => return self.nexthop_vanished(id),
            KernelEvent::Route(ref route) | KernelEvent::RouteGone(ref route) => Some(route.prefix),
            _ => None,
        };
        let event = match event {
            KernelEvent::Route(route) => KernelEvent::Route(self.filled_in(route)),
            event => event,
        };
        // The kernel drops nexthop objects, and what is left without any, when their device can carry
        // nothing: also where it keeps routes without objects. An address more or less is nothing to them.
        let dark = match &event {
            KernelEvent::Link(link) if !(link.up && link.carrier) => Some(link.index),
            KernelEvent::LinkGone(device) => Some(*device),
            _ => None,
        };
        if let Some(device) = dark {
            let groups = self.objects.flush(device);
            self.lose_groups(&groups);
        }
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
            self.objects.retry_unreachable();
        }
    }

    // ---- what somebody does ----

    /// Somebody, and not the kernel by itself, caused the event on this that was heard last. Returns
    /// whether that will be undone: at once, or, where somebody keeps doing it, ever more rarely.
    pub fn meddled(&mut self, what: Contested) -> bool {
        match what {
            Contested::Route(prefix) => self.fib.meddled(prefix),
            Contested::Nexthop(id) => self.objects.meddled(id),
        }
    }

    /// Whether it was put right lately, so that who did it again is worth a look.
    pub fn is_contested(&self, what: Contested) -> bool {
        match what {
            Contested::Route(prefix) => self.fib.held.is_known(prefix),
            Contested::Nexthop(id) => self.objects.held.is_known(id),
        }
    }

    /// Who did it this time.
    pub fn blame(&mut self, what: Contested, by: String) {
        match what {
            Contested::Route(prefix) => self.fib.held.blame(prefix, by),
            Contested::Nexthop(id) => self.objects.held.blame(id, by),
        }
    }

    /// What became a duel since last asked.
    pub fn take_duels_begun(&mut self) -> Vec<Contested> {
        let routes = self.fib.held.take_begun().into_iter().map(Contested::Route);
        routes.chain(self.objects.held.take_begun().into_iter().map(Contested::Nexthop)).collect()
    }

    /// Ends the duels that nobody fights any more, and names them.
    pub fn settle_duels(&mut self, now: Instant) -> Vec<Contested> {
        let routes = self.fib.held.settle(now).into_iter().map(Contested::Route);
        routes.chain(self.objects.held.settle(now).into_iter().map(Contested::Nexthop)).collect()
    }

    /// The duels that go on.
    pub fn duels(&self) -> impl Iterator<Item = Duel<'_, Contested>> {
        let routes = self.fib.held.duels().map(|duel| duel.named(Contested::Route));
        routes.chain(self.objects.held.duels().map(|duel| duel.named(Contested::Nexthop)))
    }

    fn nexthop_appeared(&mut self, object: NexthopObject) {
        let (id, foreign) = (object.id, object.protocol != self.settings.protocol);
        let object = self.name(object);
        self.objects.appeared(object, self.settings.protocol);
        if foreign {
            self.refill(id);
        }
    }

    fn nexthop_vanished(&mut self, id: NexthopId) {
        let groups = self.objects.vanished(id);
        self.lose_groups(&groups);
        self.refill(id);
    }

    /// Groups are gone, and the routes over them, of which the kernel says nothing.
    fn lose_groups(&mut self, groups: &[NexthopId]) {
        if !groups.is_empty() {
            self.fib.flush(|_, target| matches!(target, Target::Object(id) if groups.contains(id)));
        }
    }

    /// What others' routes over others' nexthop objects come to has changed.
    fn refill(&mut self, id: NexthopId) {
        let over = |route: &&ForeignRoute| route.nexthop.is_some_and(|of| of == id || self.objects.names(of, id));
        let routes: Vec<ForeignRoute> = self.topology.foreign().filter(over).cloned().collect();
        for route in routes {
            let route = self.filled_in(ForeignRoute { hops: Vec::new(), ..route });
            let (affected, _) = self.topology.apply(KernelEvent::Route(route));
            self.next_hops.mark(affected);
        }
    }

    /// A foreign route with the hops of its nexthop object, where the kernel names that alone.
    fn filled_in(&self, mut route: ForeignRoute) -> ForeignRoute {
        if route.hops.is_empty()
            && route.kind == RouteKind::Unicast
            && let Some(id) = route.nexthop
        {
            route.hops = self.objects.hops(id);
        }
        route
    }

    fn fill_in(&self, dump: &mut Dump) {
        for route in dump.foreign.iter_mut().filter(|route| route.nexthop.is_some()) {
            *route = self.filled_in(route.clone());
        }
    }

    fn name(&self, object: NexthopObject) -> NexthopObject {
        let nexthop = match object.nexthop {
            Nexthop::Hop(hop, family) => Nexthop::Hop(name_hop(&hop, self.settings.tunnel_device), family),
            nexthop => nexthop,
        };
        NexthopObject { nexthop, ..object }
    }

    /// A dump is about to be asked for: what is written or changes from now on is not judged by
    /// it. To be called again if the dump failed or events were lost meanwhile.
    pub fn begin_resync(&mut self) {
        self.since_dump = Some(Vec::new());
        self.objects.begin_resync();
        self.fib.begin_resync();
    }

    /// The dump asked for after [`Self::begin_resync`]: everything known is compared with it,
    /// differences are repaired and counted.
    pub fn resync(&mut self, mut dump: Dump) {
        let nexthops = std::mem::take(&mut dump.nexthops);
        let nexthops = nexthops.into_iter().map(|object| self.name(object)).collect();
        let own = dump.own.iter().filter_map(|(_, target)| match target {
            Target::Object(id) => Some(*id),
            Target::Via(_) | Target::Blackhole => None,
        });
        let referred: BTreeSet<NexthopId> = own.chain(dump.foreign.iter().filter_map(|route| route.nexthop)).collect();
        let in_use = |id| referred.contains(&id) || self.fib.targets.find(&Target::Object(id)).is_some();
        let (lost, idle) = self.objects.resync(nexthops, self.settings.protocol, in_use);
        self.idle.extend(idle);
        self.lose_groups(&lost);
        self.fill_in(&mut dump);
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
        let chosen = |prefix| chosen(&self.fib, &self.sets, &self.gone, prefix);
        let context = Context { topology: &self.topology, settings: &self.settings, chosen: &chosen };
        context.resolve(next_hop, of)
    }

    // ---- sources ----

    /// A peer's paths are about to go. Routes over them that have another way take it with the
    /// next [`Self::take_nexthop_ops`], whatever their number; the others stay until they are
    /// removed. Does nothing without nexthop objects.
    pub fn source_down(&mut self, source: u32) {
        if self.settings.objects && self.gone.insert(source) {
            self.touch(source);
        }
    }

    /// No path of that peer is left from before [`Self::source_down`]: what comes now counts.
    pub fn source_up(&mut self, source: u32) {
        if self.gone.remove(&source) {
            self.touch(source);
        }
    }

    fn touch(&mut self, source: u32) {
        let sets = self.sets.with_any(|way| way.source == source);
        if !sets.is_empty() {
            // What leads through routes over them leads elsewhere now.
            self.next_hops.mark_indirect();
        }
        self.touched.extend(sets);
    }

    // ---- routes ----

    /// A route shall go over the `best` ways, in any order; what can't be reached drops out. When
    /// none of them is left, it goes over the `backup` until it is set again. No best way at all: no
    /// route.
    pub fn set_route(&mut self, prefix: Prefix, best: &[Way], backup: &[Way]) {
        if best.is_empty() {
            return self.remove_route(prefix);
        }
        let family = prefix.family();
        let found = if self.settings.objects {
            self.sets.find(family, best, backup)
        } else {
            // Without objects routes over the same next hops are the same.
            let best: SmallVec<[Way; 4]> = best.iter().map(|way| Way { source: 0, ..*way }).collect();
            self.sets.find(family, &best, &[])
        };
        let set = found.unwrap_or_else(|ranked| self.new_set(&ranked));
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

    /// Appends the writes of nexthop objects that are due. To be carried out before any write of a
    /// route that is taken later, and answered by [`Self::nexthops_answered`].
    pub fn take_nexthop_ops(&mut self, now: Instant, out: &mut Vec<NexthopOp>) {
        self.put_up_guards(now);
        self.update_sets();
        self.objects.take(now, out);
        self.fib.bar(self.objects.barred());
        out.append(&mut self.idle);
    }

    fn put_up_guards(&mut self, now: Instant) {
        self.young.extend(self.newborn.drain(..).map(|id| (now + GUARD_AFTER, id)));
        while self.young.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, id)) = self.young.pop_front()
        {
            // Another set may have its number by now, and gets its guard a little early.
            if let Some(set) = self.sets.get_mut(id) {
                set.guarded = true;
                self.touched.insert(id);
            }
        }
    }

    /// The answers to these writes: all were done but those that `failed`, each with its place.
    pub fn nexthops_answered(&mut self, ops: &[NexthopOp], failed: &[(usize, OpError)], now: Instant) {
        let mut failed = failed.iter().peekable();
        let mut recovered = false;
        for (place, op) in ops.iter().enumerate() {
            let error = failed.next_if(|(at, _)| *at == place).map(|(_, error)| *error);
            recovered |= self.objects.acked(op, error.map_or(Ok(()), Err), now);
        }
        if recovered {
            // Routes were refused for want of them.
            self.fib.retry_unreachable();
        }
    }

    /// Appends up to `max` writes to `out`: what creates and replaces first, then removals. Carry them
    /// out in this order, after what [`Self::take_nexthop_ops`] had to say, and answer with
    /// [`Self::answered`].
    pub fn take_ops(&mut self, now: Instant, max: usize, out: &mut Batch) {
        self.update();
        self.fib.take_ops(now, max, out);
    }

    /// The answers to a batch: all writes were done but those that `failed`, each with its place, in
    /// order.
    pub fn answered(&mut self, batch: &Batch, failed: &[(usize, OpError)], now: Instant) {
        self.fib.answered(batch, failed, now);
    }

    /// When the next write is due that was refused or held back: call [`Self::take_nexthop_ops`] and
    /// [`Self::take_ops`] then.
    pub fn next_retry(&self) -> Option<Instant> {
        let guard = self.young.front().map(|(at, _)| *at);
        [self.fib.refused.next(), self.fib.held.next(), self.objects.next_retry(), guard].into_iter().flatten().min()
    }

    /// Nothing is queued, under way or waiting for a retry.
    pub fn is_quiescent(&self) -> bool {
        self.is_written() && self.next_retry().is_none()
    }

    /// Whether nexthop objects are to be written. What changes resolution counts already.
    pub fn has_nexthop_ops(&self) -> bool {
        self.next_hops.is_dirty()
            || !self.newborn.is_empty()
            || !self.touched.is_empty()
            || !self.idle.is_empty()
            || self.objects.has_due()
    }

    /// All nexthop objects are as wanted.
    #[cfg(test)]
    pub(super) fn is_at_rest_with_objects(&self) -> bool {
        !self.next_hops.is_dirty() && self.objects.is_written() && self.objects.next_retry().is_none()
    }

    /// How many writes wait to be taken. What changes resolution is counted once it is resolved.
    pub fn queued(&self) -> usize {
        self.fib.counts().queued
    }

    /// All that is wanted is in the kernel, or was refused by it.
    pub fn is_written(&self) -> bool {
        let counts = self.fib.counts();
        let resolved = !self.has_nexthop_ops() && self.rewritten.is_empty();
        resolved && self.objects.is_written() && counts.queued == 0 && counts.in_flight == 0
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

    /// The best ways that were set for a prefix, reached or not; none: it goes nowhere, or is dropped.
    pub fn ways(&self, prefix: Prefix) -> SmallVec<[Way; 4]> {
        let set = self.fib.slot(prefix).and_then(|slot| self.sets.get(slot.set));
        set.map(|set| set.ranked.best.clone()).unwrap_or_default()
    }

    /// The next hops of routes that are reached otherwise than when last asked, sorted.
    pub fn take_turned(&mut self) -> Vec<NextHop> {
        std::mem::take(&mut self.turned).into_iter().collect()
    }

    /// A device's name.
    pub fn device(&self, index: u32) -> Option<&str> {
        self.topology.link(index).map(|link| link.name.as_str())
    }

    /// The hops a target comes to at the time: its own, or those of its nexthop object.
    pub fn hops(&self, target: &Target) -> Vec<Hop> {
        match target {
            Target::Object(group) => self.objects.hops(*group),
            target => target.hops().to_vec(),
        }
    }

    /// The nexthop objects that the kernel refuses, with its last answer.
    pub fn refused_nexthops(&self) -> impl Iterator<Item = (NexthopId, OpError)> {
        self.objects.failures()
    }

    /// Numbers for metrics. Their cost doesn't grow with the routes.
    pub fn stats(&self) -> Stats {
        let counts = self.fib.counts();
        let repaired = self.fib.repaired();
        let (mut plain, mut tunnel, mut blackhole) = (0, 0, 0);
        for (target, wanted) in self.fib.targets.tally() {
            *match target {
                Target::Via(hops) if hops.iter().any(|hop| hop.tunnel) => &mut tunnel,
                Target::Object(group) if self.objects.is_tunnel(*group) => &mut tunnel,
                Target::Via(_) | Target::Object(_) => &mut plain,
                Target::Blackhole => &mut blackhole,
            } += wanted;
        }
        Stats {
            wanted: plain + tunnel + blackhole,
            wanted_plain: plain,
            wanted_tunnel: tunnel,
            wanted_blackhole: blackhole,
            installed: counts.installed,
            failed: self.fib.refused.len(),
            unresolved: counts.unresolved,
            blocked: self.fib.rivals().keys().filter(|prefix| self.is_blocked(**prefix)).count(),
            stale: counts.stale,
            queued: counts.queued,
            in_flight: counts.in_flight,
            next_hops: self.next_hops.len(),
            objects: self.objects.len(),
            repaired_missing: repaired.missing,
            repaired_changed: repaired.changed,
            repaired_extra: repaired.extra,
            repaired_objects: self.objects.repaired(),
            undone_routes: self.fib.held.made(),
            undone_objects: self.objects.held.made(),
        }
    }

    /// Foreign routes of our table for prefixes we want, sorted.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let known = self.beside().map(|route| Conflict {
            prefix: route.prefix,
            protocol: Some(route.protocol),
            metric: route.metric,
            blocks: route.metric == self.settings.metric && self.is_blocked(route.prefix),
        });
        let metric = self.settings.metric;
        let unheard = self.unheard().map(|prefix| Conflict { prefix, protocol: None, metric, blocks: true });
        let mut all: Vec<Conflict> = known.chain(unheard).collect();
        all.sort_by_key(|conflict| (conflict.prefix, conflict.metric));
        all
    }

    /// How many these are. Walks over all foreign routes.
    pub fn conflict_count(&self) -> usize {
        self.beside().count() + self.unheard().count()
    }

    fn beside(&self) -> impl Iterator<Item = &ForeignRoute> {
        let ours = self.topology.foreign().filter(|route| route.table == self.settings.table);
        ours.filter(|route| self.wants(route.prefix))
    }

    /// Prefixes of which the kernel knows a foreign route that we haven't heard of.
    fn unheard(&self) -> impl Iterator<Item = Prefix> {
        let exists = self.fib.refused.iter().filter(|(_, failure)| failure.error == OpError::Exists);
        exists.map(|(prefix, _)| prefix).filter(|prefix| !self.fib.rivals().contains_key(prefix))
    }

    /// Next hops that need a tunnel and have none for want of a device, with the number of routes
    /// over each, sorted.
    pub fn affected_without_tunnel(&self) -> Vec<(IpAddr, usize)> {
        let mut affected: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (next_hop, followed) in self.next_hops.iter() {
            if followed.resolution.outcome == Err(Reason::NoTunnel) {
                let over = |way: &Way| way.next_hop == next_hop;
                let sets = self.sets.iter().filter(|(_, set)| set.ranked.best.iter().any(over));
                *affected.entry(next_hop.addr).or_default() += sets.map(|(_, set)| set.routes).sum::<usize>();
            }
        }
        affected.into_iter().collect()
    }

    pub(super) const fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(super) const fn fib(&self) -> &Fib {
        &self.fib
    }

    /// What BGP chose for a prefix.
    pub(super) fn chosen(&self, prefix: Prefix) -> Option<Chosen> {
        chosen(&self.fib, &self.sets, &self.gone, prefix)
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
        let chosen = |prefix| chosen(&self.fib, &self.sets, &self.gone, prefix);
        let context = Context { topology: &self.topology, settings: &self.settings, chosen: &chosen };
        self.next_hops.follow(next_hop, &context)
    }

    /// The kernel's own housekeeping.
    fn flush(&mut self, cause: Flush) {
        let topology = &self.topology;
        self.fib.flush(|family, target| topology.flushes(cause, family, target.hops()));
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

    fn new_set(&mut self, ranked: &Arc<Ranked>) -> SetId {
        for next_hop in ranked.next_hops() {
            self.follow(next_hop).sets += 1;
        }
        let id = self.sets.insert(Arc::clone(ranked));
        if self.settings.objects
            && let Some(set) = self.sets.get_mut(id)
        {
            let group = self.objects.group(ranked);
            set.object = Some(group);
            set.guarded = self.objects.is_guarded(group);
            if !set.guarded && self.objects.guards(ranked) {
                self.newborn.push(id);
            }
        }
        self.evaluate(id);
        id
    }

    /// What a set comes to, whatever the prefix. Returns whether that is another target now; another
    /// content of the same object is not.
    fn evaluate(&mut self, id: SetId) -> bool {
        let Some(set) = self.sets.get(id) else { return false };
        let (ranked, object, guarded) = (Arc::clone(&set.ranked), set.object, set.guarded);
        let direct =
            ranked.next_hops().iter().all(|next_hop| self.next_hops.get(*next_hop).is_some_and(Followed::is_direct));
        let known = |forwarder: &Self, next_hop| {
            forwarder.next_hops.get(next_hop).map(|one| one.resolution.hops().to_vec()).unwrap_or_default()
        };
        let hops = self.hops_of(&ranked, known);
        // Nothing better is known for what is about to go.
        let doomed = hops.is_empty() && ranked.ways().any(|way| self.gone.contains(&way.source));
        let target = match object {
            _ if doomed => None,
            Some(group) if !hops.is_empty() => {
                let mut backup = if guarded { self.left(&ranked.backup, known) } else { Vec::new() };
                backup.retain(|hop| !hops.contains(hop));
                let spare = backup.first().copied();
                self.objects.set_group(group, &ranked, &hops, spare);
                Some(self.fib.targets.intern(&Target::Object(group)))
            }
            Some(group) => {
                self.objects.unset_group(group);
                Some(TargetId::NONE)
            }
            None => Some(self.fib.targets.intern_hops(hops)),
        };
        let Some(set) = self.sets.get_mut(id) else { return false };
        let turned = set.direct != direct;
        set.direct = direct;
        let Some(target) = target else { return turned };
        let before = std::mem::replace(&mut set.target, target);
        self.fib.targets.release(before);
        turned || before != target
    }

    /// The hops of the best ways that are left; if none is, those of the backup.
    fn hops_of(&self, ranked: &Ranked, hops: impl Fn(&Self, NextHop) -> Vec<Hop>) -> Vec<Hop> {
        let best = self.left(&ranked.best, &hops);
        if best.is_empty() { self.left(&ranked.backup, &hops) } else { best }
    }

    /// The hops of the ways that are left.
    fn left(&self, ways: &[Way], hops: impl Fn(&Self, NextHop) -> Vec<Hop>) -> Vec<Hop> {
        let left = ways.iter().filter(|way| !self.gone.contains(&way.source));
        let mut hops: Vec<Hop> = left.flat_map(|way| hops(self, way.next_hop)).collect();
        hops.sort_unstable();
        hops.dedup();
        hops
    }

    /// Wants for a prefix what a set comes to; returns the set it had.
    fn want(&mut self, prefix: Prefix, id: SetId) -> SetId {
        let Some(set) = self.sets.get(id) else { return id };
        let lies_in = |way: &Way| {
            prefix.contains(way.next_hop.addr) && !self.next_hops.get(way.next_hop).is_some_and(Followed::is_direct)
        };
        if set.direct || !set.ranked.ways().any(lies_in) {
            if !self.winding.is_empty() {
                self.winding.remove(&prefix);
            }
            return self.fib.want(prefix, id, set.target);
        }
        let ranked = Arc::clone(&set.ranked);
        let hops =
            self.hops_of(&ranked, |forwarder, next_hop| forwarder.resolve(next_hop, Some(prefix)).hops().to_vec());
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
            if let Some(group) = set.object {
                self.objects.release(group);
            }
            self.touched.remove(&before);
            self.rewritten.remove(&before);
            for next_hop in set.ranked.next_hops() {
                if let Some(followed) = self.next_hops.get_mut(next_hop) {
                    followed.sets = followed.sets.saturating_sub(1);
                }
            }
        }
    }

    /// Resolves again what is marked, and sees what it makes of the sets over it.
    fn update_sets(&mut self) {
        if self.next_hops.is_dirty() {
            let chosen = |prefix| chosen(&self.fib, &self.sets, &self.gone, prefix);
            let context = Context { topology: &self.topology, settings: &self.settings, chosen: &chosen };
            let changed = self.next_hops.settle(&context, &mut self.moved);
            let in_use = |next_hop: &&NextHop| self.next_hops.get(**next_hop).is_some_and(|one| one.sets > 0);
            self.turned.extend(changed.iter().filter(in_use));
            if !changed.is_empty() {
                self.touched.extend(self.sets.with_any(|way| changed.contains(&way.next_hop)));
            }
            self.winding_touched = true;
        }
        for id in std::mem::take(&mut self.touched) {
            if self.evaluate(id) {
                self.rewritten.insert(id);
            }
        }
    }

    /// Resolves again what is marked, and rewrites the routes over it.
    fn update(&mut self) {
        self.update_sets();
        let mut routes: Vec<(Prefix, SetId)> = Vec::new();
        let rewritten = std::mem::take(&mut self.rewritten);
        if !rewritten.is_empty() {
            let over = self.fib.slots().filter(|(_, slot)| rewritten.contains(&slot.set));
            routes.extend(over.map(|(prefix, slot)| (prefix, slot.set)));
        }
        if std::mem::take(&mut self.winding_touched) {
            let winding = self.winding.iter().filter_map(|prefix| Some((*prefix, self.fib.slot(*prefix)?.set)));
            routes.extend(winding);
        }
        for (prefix, set) in routes {
            self.want(prefix, set);
        }
    }
}

/// What BGP chose for a prefix, as far as it is left.
fn chosen(fib: &Fib, sets: &Sets, gone: &BTreeSet<u32>, prefix: Prefix) -> Option<Chosen> {
    match fib.slot(prefix)?.set {
        SetId::NONE => None,
        SetId::BLACKHOLE => Some(Chosen::Blackhole),
        set => {
            let ranked = &sets.get(set)?.ranked;
            let left = |ways: &[Way]| -> Vec<NextHop> {
                ways.iter().filter(|way| !gone.contains(&way.source)).map(|way| way.next_hop).collect()
            };
            let best = left(&ranked.best);
            let mut next_hops = if best.is_empty() { left(&ranked.backup) } else { best };
            next_hops.dedup();
            Some(Chosen::Via(next_hops.into()))
        }
    }
}

/// A target as netlink reports it, with the hops over our tunnel device marked as such.
fn name_tunnel(target: Target, tunnel: Option<u32>) -> Target {
    let named = |hop: &Hop| name_hop(hop, tunnel);
    match target {
        Target::Via(hops) if hops.iter().any(|hop| named(hop) != *hop) => Target::Via(hops.iter().map(named).collect()),
        target => target,
    }
}

fn name_hop(hop: &Hop, tunnel: Option<u32>) -> Hop {
    Hop { tunnel: Some(hop.device) == tunnel, ..*hop }
}
