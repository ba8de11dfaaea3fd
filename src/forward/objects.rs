//! Kernel nexthop objects: wanted, actual, under way.
//!
//! Routes refer to an object by number, so what it does changes for all of them at once, whatever
//! their number. There are two sorts: a *hop* is one way out, and never changes; a *group* stands for
//! one ranked set of ways and names the hops that are used at the time. A route always refers to a
//! group, also where that has one member, because the kernel doesn't turn a hop into a group.
//!
//! When a device goes down the kernel drops the hops over it, and a group that is left with none
//! together with its routes. So a group for one best way with a backup is *guarded*: a resilient group
//! in which the backup's weight is too small for even one of the buckets. It carries nothing until the
//! kernel drops the best hop, and then everything, before we have even heard of it. The backup is
//! named once the set is half a minute old: while tables load and peers come and go, sets are
//! short-lived, and who asks which routes use a device sees those that do.
//!
//! An object's number follows from what it stands for, so a later run finds the same numbers in the
//! kernel and writes nothing. One that nobody needs any more stays until a dump shows that no route
//! refers to it either: the kernel removes an object's routes with it, without telling.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::held::Held;
use super::retry::Refused;
use super::sets::Ranked;
use super::topology::same_hop;
use super::{Hop, Nexthop, NexthopId, NexthopObject, NexthopOp, OpError};
use crate::net::Family;

/// Numbers of hops begin here, far from where the kernel and other daemons begin to count. Lower
/// than those of groups: a group's members are written before it.
const HOPS: u32 = 0x5000_0000;
/// Numbers of groups begin here.
const GROUPS: u32 = 0x5800_0000;
/// How many there are of each.
const RANGE: u32 = GROUPS - HOPS;

/// What an object stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Meaning {
    Hop(Hop, Family),
    Set(Arc<Ranked>),
    /// Nothing at present: left by a former run, or out of use
    Nothing,
    /// It is another's
    Foreign,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each holds or not, whatever the others do")]
struct Object {
    meaning: Meaning,
    /// What it shall do; `None`: whatever it does
    wanted: Option<Nexthop>,
    /// What it does, as far as known; `None`: it isn't there
    actual: Option<Nexthop>,
    /// What is being written, if anything is under way
    sent: Option<Nexthop>,
    /// Somebody interfered with the write under way or may have: what it does is to be written again
    doubt: bool,
    /// Changed since the dump was asked for: the dump says nothing about it
    touched: bool,
    /// Refused, or held back; waits for its time
    waiting: bool,
    /// Somebody changed or removed it: putting it right is a repair
    meddled: bool,
    /// Of a hop: the groups that name it
    users: usize,
}

impl Object {
    const fn new(meaning: Meaning) -> Self {
        let (doubt, touched, waiting, meddled) = (false, false, false, false);
        Self { meaning, wanted: None, actual: None, sent: None, doubt, touched, waiting, meddled, users: 0 }
    }

    fn is_due(&self) -> bool {
        !self.waiting && self.sent.is_none() && !self.is_right()
    }

    /// It is a group that is not guarded, or shall be one.
    fn is_plain(&self) -> bool {
        [&self.wanted, &self.actual].into_iter().any(|nexthop| matches!(nexthop, Some(Nexthop::Group(_))))
    }

    /// It does what it shall do, or nothing is wanted of it.
    fn is_right(&self) -> bool {
        let does = |wanted| !self.doubt && self.actual.as_ref().is_some_and(|actual| same(wanted, actual));
        self.wanted.as_ref().is_none_or(does)
    }
}

/// All nexthop objects of the namespace.
#[derive(Debug, Default)]
pub(super) struct Objects {
    guard: bool,
    known: BTreeMap<NexthopId, Object>,
    dirty: BTreeSet<NexthopId>,
    refused: Refused<NexthopId>,
    /// Repairs held back
    pub held: Held<NexthopId>,
    resyncing: bool,
    repaired: u64,
}

impl Objects {
    /// There are none yet. `guard`: whether groups are guarded where they can be.
    pub(super) fn new(guard: bool) -> Self {
        Self { guard, ..Self::default() }
    }

    // ---- what is wanted ----

    /// The group of a set, made if there is none. Give it back with [`Self::release`].
    pub(super) fn group(&mut self, set: &Arc<Ranked>) -> NexthopId {
        let mut hash = Fnv::new();
        hash.family(set.family);
        if self.guards(set) {
            // What sort an object is of can't change.
            hash.bytes(&[0xfe]);
        }
        for ways in [&set.best, &set.backup] {
            hash.bytes(&[0xff]);
            for way in ways {
                hash.address(way.next_hop.addr);
                hash.bytes(&way.next_hop.scope.to_be_bytes());
                hash.bytes(&[u8::from(way.next_hop.ends_tunnel)]);
                hash.bytes(&way.source.to_be_bytes());
            }
        }
        self.claim(GROUPS, hash.0, Meaning::Set(Arc::clone(set)))
    }

    /// A group shall be these hops, at least one; `spare` is a hop that shall take over from them, and
    /// counts only for sets of the guarded sort.
    pub(super) fn set_group(&mut self, id: NexthopId, set: &Ranked, hops: &[Hop], spare: Option<Hop>) {
        let mut used: Vec<NexthopId> = hops.iter().map(|hop| self.hop(*hop, set.family)).collect();
        used.sort_unstable();
        used.dedup();
        let used = used.into();
        // Which sort an object is can't change, so it must not depend on what is alive. More than one
        // best way guard each other, and a plain group avoids those whose neighbour doesn't answer.
        let wanted = if self.guards(set) && !self.known.get(&id).is_some_and(Object::is_plain) {
            Nexthop::Guarded { used, spare: spare.map(|hop| self.hop(hop, set.family)) }
        } else {
            Nexthop::Group(used)
        };
        self.want(id, &wanted);
    }

    fn want(&mut self, id: NexthopId, wanted: &Nexthop) {
        let Some(group) = self.known.get_mut(&id) else { return };
        if group.wanted.as_ref() == Some(wanted) {
            return;
        }
        let before = group.wanted.replace(wanted.clone());
        // Something else is written now, which is no repair.
        group.meddled = false;
        if group.waiting {
            // Something else is wanted now: no reason to wait.
            group.waiting = false;
            self.refused.forget(id);
        }
        self.dirty.insert(id);
        self.count_users(wanted, |users| users + 1);
        if let Some(before) = before {
            self.count_users(&before, |users| users.saturating_sub(1));
        }
    }

    /// Nobody needs a group any more.
    pub(super) fn release(&mut self, id: NexthopId) {
        self.unset_group(id);
        if let Some(group) = self.known.get_mut(&id) {
            group.meaning = Meaning::Nothing;
            if group.actual.is_none() && group.sent.is_none() && !group.touched {
                self.known.remove(&id);
            }
        }
    }

    /// No hop is left for a group: no route refers to it for the time being.
    pub(super) fn unset_group(&mut self, id: NexthopId) {
        let Some(group) = self.known.get_mut(&id) else { return };
        group.waiting = false;
        let before = group.wanted.take();
        self.refused.forget(id);
        self.dirty.remove(&id);
        if let Some(before) = before {
            self.count_users(&before, |users| users.saturating_sub(1));
        }
    }

    /// Whether the group of a set is to name a backup.
    pub(super) fn guards(&self, set: &Ranked) -> bool {
        self.guard && set.best.len() == 1 && !set.backup.is_empty()
    }

    fn hop(&mut self, hop: Hop, family: Family) -> NexthopId {
        let family = hop.gateway.map_or(family, Family::of);
        let mut hash = Fnv::new();
        hash.family(family);
        hash.bytes(&hop.device.to_be_bytes());
        hash.bytes(&[u8::from(hop.onlink)]);
        hop.gateway.into_iter().for_each(|gateway| hash.address(gateway));
        let id = self.claim(HOPS, hash.0, Meaning::Hop(hop, family));
        if let Some(object) = self.known.get_mut(&id)
            && object.wanted.is_none()
        {
            object.wanted = Some(Nexthop::Hop(hop, family));
            self.dirty.insert(id);
        }
        id
    }

    /// The number of what is meant: where its hash says, or as near after it as there is room.
    fn claim(&mut self, base: u32, hash: u64, meaning: Meaning) -> NexthopId {
        let mut number = u32::try_from(hash % u64::from(RANGE)).unwrap_or_default();
        loop {
            let id = NexthopId(base + number);
            let object = self.known.entry(id).or_insert_with(|| Object::new(Meaning::Nothing));
            if object.meaning == meaning {
                return id;
            }
            if object.meaning == Meaning::Nothing {
                object.meaning = meaning;
                return id;
            }
            number = (number + 1) % RANGE;
        }
    }

    fn count_users(&mut self, group: &Nexthop, step: impl Fn(usize) -> usize) {
        for id in group.members() {
            let Some(hop) = self.known.get_mut(&id) else { continue };
            hop.users = step(hop.users);
            if hop.users == 0 {
                hop.meaning = Meaning::Nothing;
                hop.wanted = None;
                hop.waiting = false;
                self.refused.forget(id);
                self.dirty.remove(&id);
            }
        }
    }

    // ---- what the kernel holds ----

    /// All objects of the namespace, at start. Ours have `protocol`.
    pub(super) fn adopt(&mut self, objects: Vec<NexthopObject>, protocol: u8) {
        for NexthopObject { id, protocol: by, nexthop } in objects {
            let mut object = Object::new(if by == protocol { Meaning::Nothing } else { Meaning::Foreign });
            object.actual = Some(nexthop);
            self.known.insert(id, object);
        }
    }

    /// Somebody, or the kernel, made or changed an object.
    pub(super) fn appeared(&mut self, object: NexthopObject, protocol: u8) {
        let NexthopObject { id, protocol: by, nexthop } = object;
        let known = self.known.entry(id).or_insert_with(|| Object::new(Meaning::Nothing));
        known.touched |= self.resyncing;
        if by != protocol && known.meaning == Meaning::Nothing {
            known.meaning = Meaning::Foreign;
        }
        if known.sent.is_some() {
            known.doubt = true;
            return;
        }
        if known.actual.as_ref().is_some_and(|actual| same(actual, &nexthop)) {
            return;
        }
        known.actual = Some(nexthop);
        if known.is_due() {
            self.repaired += 1;
            self.dirty.insert(id);
        }
    }

    /// Somebody, or the kernel, removed an object. Returns the groups that are gone with their
    /// routes.
    pub(super) fn vanished(&mut self, id: NexthopId) -> Vec<NexthopId> {
        if self.known.get(&id).is_some_and(|object| object.meaning == Meaning::Foreign) {
            self.known.remove(&id);
            return Vec::new();
        }
        if self.known.get(&id).is_some_and(|object| object.wanted.is_some()) {
            self.repaired += 1;
        }
        self.lose(&BTreeSet::from([id]))
    }

    /// Somebody, and not the kernel by itself, did what was heard of an object last. Returns whether
    /// that is to be undone.
    pub(super) fn meddled(&mut self, id: NexthopId) -> bool {
        let Some(object) = self.known.get_mut(&id) else { return false };
        let undone = if object.sent.is_some() { object.doubt } else { !object.is_right() };
        object.meddled = undone && object.wanted.is_some();
        object.meddled
    }

    /// The kernel has dropped, without a word, the hops over a device. Returns the groups that are
    /// gone with their routes.
    pub(super) fn flush(&mut self, device: u32) -> Vec<NexthopId> {
        let over = |object: &Object| {
            [&object.actual, &object.sent]
                .into_iter()
                .flatten()
                .any(|nexthop| matches!(nexthop, Nexthop::Hop(hop, _) if hop.device == device))
        };
        let ours = self.known.iter().filter(|(_, object)| object.meaning != Meaning::Foreign);
        let gone = ours.filter(|(_, object)| over(object)).map(|(id, _)| *id).collect();
        self.lose(&gone)
    }

    /// These are gone; and so is each group of which nothing is left.
    fn lose(&mut self, gone: &BTreeSet<NexthopId>) -> Vec<NexthopId> {
        let mut groups = Vec::new();
        for (id, object) in &mut self.known {
            let lost = gone.contains(id);
            let hit = |nexthop: &Nexthop| lost || nexthop.members().any(|id| gone.contains(&id));
            let rest = |nexthop: &Nexthop| nexthop.without(&|id| gone.contains(&id)).filter(|_| !lost);
            // What is under way may have been done before it happened: then it is hit as well.
            let states: Vec<&Nexthop> =
                [&object.actual, &object.sent].into_iter().flatten().filter(|one| hit(one)).collect();
            if states.is_empty() {
                continue;
            }
            if states.iter().any(|nexthop| is_group(nexthop) && rest(nexthop).is_none()) {
                groups.push(*id);
            }
            let rest = object.actual.as_ref().and_then(rest);
            object.doubt |= object.sent.is_some();
            object.touched |= self.resyncing;
            object.actual = rest;
            if object.is_due() {
                self.dirty.insert(*id);
            }
        }
        self.drop_forgotten();
        groups
    }

    /// A dump is about to be asked for.
    pub(super) fn begin_resync(&mut self) {
        self.resyncing = true;
    }

    /// Compares all with a dump. Returns the groups that are gone with their routes, those under way
    /// included. Removes what nobody needs with the writes that follow: `referred` says whether a route
    /// of the dump refers to a group, or may do so by now.
    pub(super) fn resync(
        &mut self,
        objects: Vec<NexthopObject>,
        protocol: u8,
        referred: impl Fn(NexthopId) -> bool,
    ) -> (Vec<NexthopId>, Vec<NexthopOp>) {
        let seen: BTreeSet<NexthopId> = objects.iter().map(|object| object.id).collect();
        self.known.retain(|id, object| object.meaning != Meaning::Foreign || seen.contains(id));
        let missed: Vec<NexthopId> = self.known.keys().filter(|id| !seen.contains(id)).copied().collect();
        let untouched = |object: &Object| !object.touched && object.sent.is_none();
        let mut lost = Vec::new();
        for id in missed {
            let Some(object) = self.known.get_mut(&id).filter(|object| untouched(object)) else { continue };
            if object.actual.as_ref().is_some_and(is_group) {
                lost.push(id);
            }
            if object.actual.take().is_some() && object.is_due() {
                self.repaired += 1;
                self.dirty.insert(id);
            }
        }
        for object in objects {
            let known = self.known.get(&object.id);
            if known.is_none_or(untouched) {
                self.appeared(object, protocol);
            }
        }
        // Groups first: the kernel would shrink them when their members go.
        let idle = |object: &&Object| object.meaning == Meaning::Nothing && untouched(object);
        let idle_groups =
            self.known.iter().filter(|(_, object)| idle(object) && object.actual.as_ref().is_some_and(is_group));
        let groups: Vec<NexthopId> = idle_groups.map(|(id, _)| *id).filter(|id| !referred(*id)).collect();
        let kept = self.known.iter().filter(|(id, _)| !groups.contains(id)).map(|(_, object)| object);
        let named: BTreeSet<NexthopId> =
            kept.filter_map(|object| object.actual.as_ref()).flat_map(Nexthop::members).collect();
        let idle_hops = self
            .known
            .iter()
            .filter(|(id, object)| idle(object) && !object.actual.as_ref().is_some_and(is_group) && seen.contains(id));
        let hops: Vec<NexthopId> = idle_hops.map(|(id, _)| *id).filter(|id| !named.contains(id)).collect();
        let gone: Vec<NexthopOp> = groups.iter().chain(&hops).map(|id| NexthopOp::Remove(*id)).collect();
        for op in &gone {
            self.known.remove(&op.id());
        }
        for object in self.known.values_mut() {
            object.touched = false;
        }
        self.resyncing = false;
        self.drop_forgotten();
        (lost, gone)
    }

    /// What is neither there nor wanted.
    fn drop_forgotten(&mut self) {
        self.known.retain(|_, object| {
            object.meaning != Meaning::Nothing || object.actual.is_some() || object.sent.is_some() || object.touched
        });
    }

    // ---- writes ----

    /// Appends all writes: hops, then the groups that name them.
    pub(super) fn take(&mut self, now: Instant, out: &mut Vec<NexthopOp>) {
        while let Some(id) = self.refused.due(now) {
            if let Some(object) = self.known.get_mut(&id) {
                object.waiting = false;
                self.dirty.insert(id);
            }
        }
        while let Some(id) = self.held.due(now) {
            if let Some(object) = self.known.get_mut(&id) {
                object.waiting = false;
                self.dirty.insert(id);
            }
        }
        for id in std::mem::take(&mut self.dirty) {
            let held = self.holds_back(id, now);
            let Some(object) = self.known.get_mut(&id).filter(|object| object.is_due()) else { continue };
            if held {
                object.waiting = true;
                continue;
            }
            object.meddled = false;
            object.sent.clone_from(&object.wanted);
            object.doubt = false;
            object.touched |= self.resyncing;
            out.extend(object.wanted.clone().map(|nexthop| NexthopOp::Set(id, nexthop)));
        }
    }

    /// Whether an object that is due must wait, because of a duel over it or over a hop it names.
    fn holds_back(&mut self, id: NexthopId, now: Instant) -> bool {
        let Some(object) = self.known.get(&id).filter(|object| object.is_due()) else { return false };
        if !self.held.is_empty() {
            let mut members = object.wanted.iter().flat_map(Nexthop::members);
            if let Some(hop) = members.find(|hop| self.is_held(*hop)) {
                self.held.wait_for(id, hop);
                return true;
            }
        }
        object.meddled && !self.held.may(id, now)
    }

    fn is_held(&self, id: NexthopId) -> bool {
        self.held.waits(id) && self.known.get(&id).is_some_and(|object| object.waiting && !object.is_right())
    }

    /// Groups that are not there and held back: until they are, no route can refer to them.
    pub(super) fn barred(&self) -> BTreeSet<NexthopId> {
        if self.held.is_empty() {
            return BTreeSet::new();
        }
        let absent = self.known.iter().filter(|(_, object)| object.actual.is_none() && object.sent.is_none());
        absent.map(|(id, _)| *id).filter(|id| self.is_held(*id)).collect()
    }

    /// The kernel's answer to a write. Returns whether what was refused before is done now.
    pub(super) fn acked(&mut self, op: &NexthopOp, answer: Result<(), OpError>, now: Instant) -> bool {
        let NexthopOp::Set(id, _) = op else { return false };
        let Some(object) = self.known.get_mut(id) else { return false };
        let Some(sent) = object.sent.take() else { return false };
        object.touched |= self.resyncing;
        let mut recovered = false;
        match answer {
            Ok(()) => {
                object.actual = Some(sent);
                recovered = self.refused.get(*id).is_some();
                self.refused.forget(*id);
            }
            // Tried once more at once: the kernel drops hops without telling, and what it says of the group
            // is true of its members.
            Err(error) if object.doubt || self.refused.get(*id).is_none() && is_group(&sent) => {
                if !object.doubt {
                    self.refused.record(*id, error, now);
                    self.refused.stop_waiting(*id);
                }
                object.doubt = true;
                for id in sent.members() {
                    if let Some(hop) = self.known.get_mut(&id) {
                        hop.doubt = true;
                        self.dirty.insert(id);
                    }
                }
            }
            Err(error) => {
                self.refused.record(*id, error, now);
                object.waiting = true;
                // What was written again because of a doubt is none the surer.
                object.doubt = true;
                self.give_up_guard(*id, error);
            }
        }
        self.dirty.insert(*id);
        self.drop_forgotten();
        recovered
    }

    /// A group that the kernel doesn't take guarded, though all its hops are there, goes without its backup:
    /// routes need it.
    fn give_up_guard(&mut self, id: NexthopId, error: OpError) {
        let Some(group) = self.known.get(&id) else { return };
        let (Some(wanted @ Nexthop::Guarded { used, .. }), OpError::Unreachable) = (&group.wanted, error) else {
            return;
        };
        let is_there = |id| self.known.get(&id).is_some_and(|hop| hop.actual.is_some() && !hop.doubt);
        if !matches!(group.actual, Some(Nexthop::Guarded { .. })) && wanted.members().all(is_there) {
            self.want(id, &Nexthop::Group(used.clone()));
        }
    }

    /// A link or an address came: what failed for want of one is tried at once.
    pub(super) fn retry_unreachable(&mut self) {
        for id in self.refused.unreachable() {
            self.refused.stop_waiting(id);
            if let Some(object) = self.known.get_mut(&id) {
                object.waiting = false;
                self.dirty.insert(id);
            }
        }
    }

    // ---- seen ----

    /// When a refused write is due again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        [self.refused.next(), self.held.next()].into_iter().flatten().min()
    }

    /// Whether writes wait to be taken.
    pub(super) fn has_due(&self) -> bool {
        self.dirty.iter().any(|id| self.known.get(id).is_some_and(Object::is_due))
    }

    /// Whether nothing is under way.
    pub(super) fn is_written(&self) -> bool {
        !self.has_due() && self.known.values().all(|object| object.sent.is_none())
    }

    /// Whether a group names a backup in the kernel.
    pub(super) fn is_guarded(&self, group: NexthopId) -> bool {
        let actual = self.known.get(&group).and_then(|object| object.actual.as_ref());
        matches!(actual, Some(Nexthop::Guarded { spare: Some(_), .. }))
    }

    /// Whether a group has a hop through the tunnel.
    pub(super) fn is_tunnel(&self, group: NexthopId) -> bool {
        self.hops(group).iter().any(|hop| hop.tunnel)
    }

    /// The hops a group shall have, or has where nobody needs it.
    pub(super) fn hops(&self, group: NexthopId) -> Vec<Hop> {
        let Some(object) = self.known.get(&group) else { return Vec::new() };
        let Some(nexthop) = object.wanted.as_ref().or(object.actual.as_ref()) else { return Vec::new() };
        let hop = |id: &NexthopId| match self.known.get(id) {
            Some(
                Object { wanted: Some(Nexthop::Hop(hop, _)), .. } | Object { actual: Some(Nexthop::Hop(hop, _)), .. },
            ) => Some(*hop),
            _ => None,
        };
        let mut hops: Vec<Hop> = match nexthop {
            Nexthop::Hop(hop, _) => vec![*hop],
            Nexthop::Guarded { used, spare } if used.is_empty() => spare.iter().filter_map(hop).collect(),
            Nexthop::Group(used) | Nexthop::Guarded { used, .. } => used.iter().filter_map(hop).collect(),
            Nexthop::Other => Vec::new(),
        };
        hops.sort_unstable();
        hops
    }

    /// The devices of the hops that groups name.
    pub(super) fn devices(&self) -> impl Iterator<Item = u32> {
        self.known.values().filter(|object| object.users > 0).filter_map(|object| match object.wanted {
            Some(Nexthop::Hop(hop, _)) => Some(hop.device),
            _ => None,
        })
    }

    /// Whether a group names a hop.
    pub(super) fn names(&self, group: NexthopId, hop: NexthopId) -> bool {
        let nexthop = self.known.get(&group).and_then(|object| object.actual.as_ref());
        nexthop.is_some_and(|nexthop| nexthop.members().any(|id| id == hop))
    }

    /// Hops and groups in use.
    pub(super) fn len(&self) -> usize {
        self.known.values().filter(|object| object.wanted.is_some()).count()
    }

    /// How many were put right after somebody had changed or removed them, since start.
    pub(super) const fn repaired(&self) -> u64 {
        self.repaired
    }

    /// Those that the kernel refuses, with its last answer.
    pub(super) fn failures(&self) -> impl Iterator<Item = (NexthopId, OpError)> {
        self.refused.iter().map(|(id, failure)| (id, failure.error))
    }
}

fn is_group(nexthop: &Nexthop) -> bool {
    matches!(nexthop, Nexthop::Group(_) | Nexthop::Guarded { .. })
}

/// Whether two objects do the same. Which device is our tunnel the kernel doesn't know.
fn same(a: &Nexthop, b: &Nexthop) -> bool {
    match (a, b) {
        (Nexthop::Hop(a, _), Nexthop::Hop(b, _)) => same_hop(a, b),
        (a, b) => a == b,
    }
}

/// FNV-1a: the same for all time, on any machine and by any build.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn family(&mut self, family: Family) {
        self.bytes(&[family.bits()]);
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.bytes(&address.octets()),
            IpAddr::V6(address) => self.bytes(&address.octets()),
        }
    }
}

/// A number for the peer with an address, the same for all time ([`super::Way::source`]).
pub fn source_of(peer: IpAddr) -> u32 {
    let mut hash = Fnv::new();
    hash.address(peer);
    // Both halves count.
    u32::try_from((hash.0 ^ (hash.0 >> 32)) & u64::from(u32::MAX)).unwrap_or_default()
}
