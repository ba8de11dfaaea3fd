//! Per prefix: what is wanted, what the kernel holds of ours, what is under way, what failed.
//!
//! Two dirty sets (writes and removals) stand between decision and kernel: a prefix is in each at
//! most once, and what is written is what is wanted when the writer is ready for it, so newer
//! replaces older. Every mutation goes through [`Fib::change`], which keeps the counts, the users
//! of targets and the dirty sets right.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::held::Held;
use super::retry::Refused;
use super::sets::SetId;
use super::slot::{Counts, Plan, Slot, found_in_dump, plan};
use super::table::Table;
use super::targets::{TargetId, Targets};
use super::topology::same_hop;
use super::{Batch, FibOp, Hop, NexthopId, OpError, Target};
use crate::net::{Family, PerFamily, Prefix};

/// Entries a drained queue keeps room for.
const QUEUE_KEEPS: usize = 4096;

/// How often somebody else's work on our routes was undone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Repaired {
    pub missing: u64,
    pub changed: u64,
    pub extra: u64,
}

/// Wanted ↔ actual.
#[derive(Debug)]
pub(super) struct Fib {
    table: Table,
    pub targets: Targets,
    /// Numbers of prefixes to write, each with the round it was marked in
    writes: VecDeque<(u32, u32)>,
    removals: VecDeque<(u32, u32)>,
    /// Counts calls of [`Self::take_ops`], from 0 again after the last
    round: u32,
    pub refused: Refused<Prefix>,
    /// Repairs held back
    pub held: Held<Prefix>,
    /// Nexthop objects that aren't there and are held back themselves: what needs them waits
    barred: BTreeSet<NexthopId>,
    /// Foreign routes with our table and metric, and their protocol
    rivals: BTreeMap<Prefix, u8>,
    counts: Counts,
    repaired: Repaired,
    resyncing: bool,
    /// Only a dump can tell
    doubt: bool,
    /// Not even the dump under way can
    doubt_again: bool,
}

impl Fib {
    pub(super) fn new() -> Self {
        Self {
            table: Table::default(),
            targets: Targets::new(),
            writes: VecDeque::new(),
            removals: VecDeque::new(),
            round: 0,
            refused: Refused::default(),
            held: Held::default(),
            barred: BTreeSet::new(),
            rivals: BTreeMap::new(),
            counts: Counts::default(),
            repaired: Repaired::default(),
            resyncing: false,
            doubt: false,
            doubt_again: false,
        }
    }

    // ---- what is wanted ----

    /// The state of a prefix.
    pub(super) fn slot(&self, prefix: Prefix) -> Option<Slot> {
        self.table.get(self.table.find(&prefix)?).map(|(_, slot)| slot)
    }

    /// All prefixes, in the order they came.
    pub(super) fn slots(&self) -> impl Iterator<Item = (Prefix, Slot)> {
        self.table.iter().map(|(_, prefix, slot)| (prefix, slot))
    }

    /// Wants a target for a prefix, because of a set of next hops; returns the set it had.
    pub(super) fn want(&mut self, prefix: Prefix, set: SetId, wanted: TargetId) -> SetId {
        let cell = self.table.find_or_insert(prefix);
        self.change(cell, |slot| {
            if slot.wanted != wanted {
                // Something else is written now, which is no repair.
                slot.clear(Slot::MEDDLED);
            }
            slot.wanted = wanted;
            slot.clear(Slot::STALE);
            std::mem::replace(&mut slot.set, set)
        })
    }

    /// Wants nothing for a prefix any more; returns the set it had.
    pub(super) fn unwant(&mut self, prefix: Prefix) -> SetId {
        let Some(cell) = self.table.find(&prefix) else { return SetId::NONE };
        self.change(cell, |slot| {
            slot.wanted = TargetId::NONE;
            std::mem::replace(&mut slot.set, SetId::NONE)
        })
    }

    // ---- what the kernel holds ----

    /// What a former run left.
    pub(super) fn adopt(&mut self, prefix: Prefix, target: &Target) {
        let id = self.targets.intern(target);
        let cell = self.table.find_or_insert(prefix);
        self.change(cell, |slot| {
            slot.actual = id;
            if slot.set == SetId::NONE {
                slot.set(Slot::STALE);
            }
        });
        self.targets.release(id);
    }

    /// Stale routes may go.
    pub(super) fn end_adoption(&mut self) {
        for cell in self.select(|_, slot| slot.has(Slot::STALE)) {
            self.change(cell, |slot| slot.clear(Slot::STALE));
        }
    }

    /// The kernel says that a route of ours is there.
    pub(super) fn appeared(&mut self, prefix: Prefix, target: &Target) {
        let id = self.targets.intern(target);
        let touched = self.touched();
        let cell = self.table.find_or_insert(prefix);
        let found = self.change(cell, |slot| {
            if slot.has(Slot::IN_FLIGHT) {
                slot.set(if slot.sent == id { Slot::ECHOED } else { Slot::DOUBT });
                return None;
            }
            if slot.actual == id {
                return None;
            }
            slot.actual = id;
            slot.set(touched);
            (slot.wanted != id).then_some(*slot)
        });
        if let Some(slot) = found {
            self.count_found(slot);
        }
        self.targets.release(id);
    }

    /// The kernel says that a route of ours, or some hops of it, are gone.
    pub(super) fn vanished(&mut self, prefix: Prefix, gone: &Target) {
        let Some(cell) = self.table.find(&prefix) else { return };
        let Some((_, slot)) = self.table.get(cell) else { return };
        if slot.has(Slot::IN_FLIGHT) {
            let heard = if slot.sent.is_some() { Slot::DOUBT } else { Slot::ECHOED };
            return self.change(cell, |slot| slot.set(heard));
        }
        let Some(held) = self.targets.get(slot.actual) else { return };
        let lost = |hop: &Hop| gone.hops().iter().any(|other| same_hop(hop, other));
        let (hops, rest) = match (held, gone) {
            (Target::Via(hops), Target::Via(_)) => {
                (hops.len(), hops.iter().filter(|hop| !lost(hop)).copied().collect())
            }
            (Target::Blackhole, Target::Blackhole) => (1, Vec::new()),
            (Target::Object(held), Target::Object(gone)) if held == gone => (1, Vec::new()),
            // Not what we know of: an older route, or one of two.
            _ => (0, Vec::new()),
        };
        let touched = self.touched();
        if rest.len() == hops {
            self.doubt = true;
            return self.change(cell, |slot| slot.set(touched | Slot::UNSURE));
        }
        // IPv6 reports the hops of a multipath route one by one.
        let rest = self.targets.intern_hops(rest);
        self.change(cell, |slot| {
            slot.actual = rest;
            slot.set(touched);
        });
        self.targets.release(rest);
        if slot.wanted.is_some() {
            self.repaired.missing += 1;
        }
    }

    /// Somebody, and not the kernel by itself, did what was heard of a prefix last. Returns whether
    /// that is to be undone.
    pub(super) fn meddled(&mut self, prefix: Prefix) -> bool {
        let Some(cell) = self.table.find(&prefix) else { return false };
        self.change(cell, |slot| {
            let undone = if slot.has(Slot::IN_FLIGHT) { slot.has(Slot::DOUBT) } else { slot.wanted != slot.actual };
            slot.set(if undone { Slot::MEDDLED } else { 0 });
            undone
        })
    }

    /// The kernel has dropped, without a word, routes to targets that are doomed.
    pub(super) fn flush(&mut self, doomed: impl Fn(Family, &Target) -> bool) {
        let of = |family| self.targets.matching(|target| doomed(family, target)).into_keys().collect::<BTreeSet<_>>();
        let doomed = PerFamily::from_fn(of);
        if doomed.iter().all(|(_, ids)| ids.is_empty()) {
            return;
        }
        let is_doomed = |prefix: &Prefix, id| doomed[prefix.family()].contains(&id);
        let hit = self.select(|prefix, slot| is_doomed(prefix, slot.actual) || is_doomed(prefix, slot.sent));
        let touched = self.touched();
        for cell in &hit {
            let Some((prefix, _)) = self.table.get(*cell) else { continue };
            self.change(*cell, |slot| {
                if is_doomed(&prefix, slot.actual) {
                    slot.actual = TargetId::NONE;
                }
                if is_doomed(&prefix, slot.sent) {
                    // Written before the device went, or after it came back? Nobody knows.
                    slot.set(Slot::DOUBT);
                }
                // The event may be older than a write that has been acknowledged since.
                slot.set(touched | Slot::UNSURE);
            });
        }
        self.doubt |= !hit.is_empty();
    }

    /// What the kernel holds, or will when the write under way is done, is called otherwise from
    /// now on.
    pub(super) fn rename(&mut self, name: impl Fn(&Target) -> Target) {
        let other = |target: &Target| name(target) != *target;
        let ids: BTreeMap<TargetId, Target> =
            self.targets.matching(other).into_iter().map(|(id, target)| (id, name(target))).collect();
        let ids: BTreeMap<TargetId, TargetId> =
            ids.into_iter().map(|(id, target)| (id, self.targets.intern(&target))).collect();
        if ids.is_empty() {
            return;
        }
        for cell in self.select(|_, slot| ids.contains_key(&slot.actual) || ids.contains_key(&slot.sent)) {
            self.change(cell, |slot| {
                for id in [&mut slot.actual, &mut slot.sent] {
                    *id = ids.get(id).copied().unwrap_or(*id);
                }
            });
        }
        for id in ids.into_values() {
            self.targets.release(id);
        }
    }

    /// A foreign route has this prefix with our table and metric (`Some`: its protocol), or none
    /// has. Ours cannot be made beside it.
    pub(super) fn set_rival(&mut self, prefix: Prefix, rival: Option<u8>) {
        let before = self.note_rival(prefix, rival);
        let Some(cell) = self.table.find(&prefix).filter(|_| before != rival) else { return };
        self.overtake(prefix, cell);
        let touched = self.touched();
        let replaced = self.change(cell, |slot| {
            if slot.has(Slot::IN_FLIGHT) {
                slot.set(Slot::DOUBT);
            }
            slot.set(touched);
            // `ip route replace` takes ours away and tells of the new one only.
            let replaced = rival.is_some() && std::mem::replace(&mut slot.actual, TargetId::NONE).is_some();
            slot.set(if replaced { Slot::UNSURE } else { 0 });
            replaced
        });
        self.doubt |= replaced;
    }

    /// All rivals anew, as a dump has them that also tells which routes of ours are there.
    pub(super) fn set_rivals(&mut self, rivals: &BTreeMap<Prefix, u8>) {
        let both: BTreeSet<Prefix> = self.rivals.keys().chain(rivals.keys()).copied().collect();
        for prefix in both {
            let rival = rivals.get(&prefix).copied();
            if self.note_rival(prefix, rival) != rival
                && let Some(cell) = self.table.find(&prefix)
            {
                self.overtake(prefix, cell);
            }
        }
    }

    /// A dump is about to be asked for.
    pub(super) fn begin_resync(&mut self) {
        // A dump given up leaves its doubts to the one after this: what was touched stays so.
        self.resyncing = true;
    }

    /// Compares all with a dump.
    pub(super) fn resync(&mut self, own: impl IntoIterator<Item = (Prefix, Target)>) {
        for (prefix, target) in own {
            let id = self.targets.intern(&target);
            let cell = self.table.find_or_insert(prefix);
            let found = self.change(cell, |slot| found_in_dump(slot, id));
            if let Some(slot) = found {
                self.count_found(slot);
            }
            self.targets.release(id);
        }
        let spared = Slot::SEEN | Slot::TOUCHED | Slot::IN_FLIGHT;
        for cell in self.select(|_, slot| slot.actual.is_some() && !slot.has(spared)) {
            let wanted = self.change(cell, |slot| {
                slot.actual = TargetId::NONE;
                slot.wanted
            });
            if wanted.is_some() {
                self.repaired.missing += 1;
            }
        }
        let mut unsure = std::mem::take(&mut self.doubt_again);
        for cell in self.select(|_, slot| slot.has(Slot::UNSURE | Slot::SEEN | Slot::TOUCHED)) {
            let Some((_, mut slot)) = self.table.get(cell) else { continue };
            if !slot.has(Slot::TOUCHED | Slot::IN_FLIGHT) {
                slot.clear(Slot::UNSURE);
            }
            unsure |= slot.has(Slot::UNSURE);
            slot.clear(Slot::SEEN | Slot::TOUCHED);
            self.table.set(cell, slot);
        }
        self.resyncing = false;
        self.doubt = unsure;
    }

    /// Only a dump can tell what the kernel holds.
    pub(super) const fn needs_resync(&self) -> bool {
        self.doubt && !self.resyncing
    }

    // ---- writes ----

    /// Appends up to `max` writes: creates and replaces, then removals. A removal waits until all that was
    /// marked before or with it has been taken: a more specific route goes away only once the
    /// route that takes over its traffic is on its way.
    pub(super) fn take_ops(&mut self, now: Instant, max: usize, out: &mut Batch) {
        while let Some(prefix) = self.refused.due(now) {
            if let Some(cell) = self.table.find(&prefix) {
                self.change(cell, |slot| slot.clear(Slot::WAITING));
            }
        }
        while let Some(prefix) = self.held.due(now) {
            if let Some(cell) = self.table.find(&prefix) {
                self.change(cell, |slot| slot.clear(Slot::WAITING));
            }
        }
        let end = out.ops.len().saturating_add(max);
        while out.ops.len() < end
            && let Some((_, cell)) = self.writes.pop_front()
        {
            self.start(cell, Slot::TO_WRITE, now, out);
        }
        // Rounds are told apart by their distance: less than half of all are alive at a time.
        let later = |round: u32, than: u32| round != than && round.wrapping_sub(than) < u32::MAX / 2;
        while out.ops.len() < end
            && let Some(&(marked, cell)) = self.removals.front()
            && self.writes.front().is_none_or(|(round, _)| later(*round, marked))
        {
            self.removals.pop_front();
            self.start(cell, Slot::TO_REMOVE, now, out);
        }
        self.round = self.round.wrapping_add(1);
        for queue in [&mut self.writes, &mut self.removals] {
            if queue.is_empty() && queue.capacity() > 2 * QUEUE_KEEPS {
                queue.shrink_to(QUEUE_KEEPS);
            }
        }
    }

    /// The answers to a batch: all writes were done but those that `failed`, in order. Each failure
    /// comes with the write's place in the batch.
    pub(super) fn answered(&mut self, batch: &Batch, failed: &[(usize, OpError)], now: Instant) {
        let mut failed = failed.iter().peekable();
        for (place, cell) in batch.cells.iter().enumerate() {
            let error = failed.next_if(|(at, _)| *at == place).map(|(_, error)| *error);
            self.acked(*cell, error.map_or(Ok(()), Err), now);
        }
    }

    /// The kernel's answer to a write.
    fn acked(&mut self, cell: u32, answer: Result<(), OpError>, now: Instant) {
        let Some((prefix, slot)) = self.table.get(cell) else { return };
        if !slot.has(Slot::IN_FLIGHT) {
            return;
        }
        let lost = answer == Err(OpError::NoSuchRoute) && slot.has(Slot::REPLACING);
        let gone = lost || (answer == Err(OpError::NoSuchRoute) && !slot.sent.is_some());
        let rival = self.has_rival(&prefix);
        let actual = match answer {
            // Believed gone: then it is written again at once, or the kernel says that it exists.
            Ok(()) if slot.has(Slot::DOUBT) => TargetId::NONE,
            Ok(()) => slot.sent,
            Err(_) if gone => TargetId::NONE,
            Err(_) => slot.actual,
        };
        // Not a failure: what is wanted by now is another matter and is written at once, and what a
        // foreign route keeps out is not tried.
        let overtaken = slot.wanted != slot.sent || (rival && slot.sent.is_some());
        let failed = answer.err().filter(|_| !gone && !overtaken);
        let touched = self.touched();
        if let Some(error) = failed {
            self.refused.record(prefix, error, now);
        }
        let unsure = slot.has(Slot::DOUBT)
            || match answer {
                Ok(()) => false,
                Err(OpError::Exists) => !rival,
                // Gone before us, or not what we took it for.
                Err(OpError::NoSuchRoute) => gone && !lost && slot.actual.is_some(),
                // Not done by us, so somebody else has.
                Err(_) => slot.has(Slot::ECHOED),
            };
        self.doubt |= unsure;
        self.change(cell, |slot| {
            slot.actual = actual;
            slot.sent = TargetId::NONE;
            slot.clear(Slot::UNDER_WAY);
            if failed.is_some() {
                slot.set(Slot::WAITING);
            }
            slot.set(touched | if unsure { Slot::UNSURE } else { 0 });
        });
        if lost && slot.actual.is_some() {
            self.repaired.missing += 1;
        }
    }

    /// A link or an address came: what failed for want of one is tried at once.
    pub(super) fn retry_unreachable(&mut self) {
        for prefix in self.refused.unreachable() {
            self.stop_waiting(prefix);
        }
    }

    /// Routes over these nexthop objects wait, and no others: the objects are held back and not there.
    pub(super) fn bar(&mut self, objects: BTreeSet<NexthopId>) {
        if self.barred == objects {
            return;
        }
        let before = std::mem::replace(&mut self.barred, objects);
        let freed: Vec<TargetId> =
            before.difference(&self.barred).filter_map(|id| self.targets.find(&Target::Object(*id))).collect();
        for cell in self.select(|_, slot| slot.has(Slot::WAITING) && freed.contains(&slot.wanted)) {
            self.change(cell, |slot| slot.clear(Slot::WAITING));
        }
    }

    // ---- seen ----

    /// Foreign routes with our table and metric.
    pub(super) fn rivals(&self) -> &BTreeMap<Prefix, u8> {
        &self.rivals
    }

    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) const fn repaired(&self) -> Repaired {
        self.repaired
    }

    // ---- the one way to change a prefix ----

    /// Changes a prefix's state and draws the consequences: users of targets, counts, dirty sets,
    /// failures that are overtaken.
    fn change<R: Default>(&mut self, cell: u32, change: impl FnOnce(&mut Slot) -> R) -> R {
        let Some((prefix, before)) = self.table.get(cell) else { return R::default() };
        let mut slot = before;
        let result = change(&mut slot);

        let moved = before.wanted != slot.wanted || before.actual != slot.actual;
        if !slot.actual.is_some() {
            slot.clear(Slot::STALE | Slot::TWICE);
        }
        if slot.settled() {
            slot.clear(Slot::MEDDLED);
        }
        if (slot.has(Slot::WAITING) || !self.refused.is_empty()) && (moved || slot.settled()) {
            if slot.has(Slot::WAITING) && (before.has(Slot::WAITING) || slot.settled()) {
                slot.clear(Slot::WAITING);
                self.refused.stop_waiting(prefix);
            }
            if slot.settled() {
                self.refused.forget(prefix);
            }
        }

        match plan(slot, self.has_rival(&prefix)) {
            Plan::Nothing => {}
            Plan::Create | Plan::Replace if slot.has(Slot::TO_WRITE) => {}
            Plan::Create | Plan::Replace => {
                slot.set(Slot::TO_WRITE);
                self.writes.push_back((self.round, cell));
            }
            Plan::Remove if slot.has(Slot::TO_REMOVE) => {}
            Plan::Remove => {
                slot.set(Slot::TO_REMOVE);
                self.removals.push_back((self.round, cell));
            }
        }

        if before.wanted != slot.wanted {
            self.targets.wanted(before.wanted, slot.wanted);
        }
        // Retained before released: the numbers of a target in use must not change hands.
        let targets = [(before.wanted, slot.wanted), (before.actual, slot.actual), (before.sent, slot.sent)];
        for (_, is) in targets.iter().filter(|(was, is)| was != is) {
            self.targets.retain(*is);
        }
        for (was, _) in targets.iter().filter(|(was, is)| was != is) {
            self.targets.release(*was);
        }
        self.counts.tally(before, |count| *count = count.saturating_sub(1));
        self.counts.tally(slot, |count| *count += 1);
        self.table.set(cell, slot);
        result
    }

    /// Numbers of the prefixes in a state, in the order they came.
    fn select(&self, state: impl Fn(&Prefix, Slot) -> bool) -> Vec<u32> {
        self.table.iter().filter(|(_, prefix, slot)| state(prefix, *slot)).map(|(cell, ..)| cell).collect()
    }

    /// Turns a queued prefix into a write, if one of this queue's kind is still called for.
    fn start(&mut self, cell: u32, queue: u32, now: Instant, out: &mut Batch) {
        let Some((prefix, slot)) = self.table.get(cell) else { return };
        let plan = plan(slot, self.has_rival(&prefix));
        let fits = match plan {
            Plan::Nothing => false,
            Plan::Create | Plan::Replace => queue == Slot::TO_WRITE,
            Plan::Remove => queue == Slot::TO_REMOVE,
        };
        let subject = if plan == Plan::Remove { slot.actual } else { slot.wanted };
        let target = self.targets.get(subject).filter(|_| fits).cloned();
        let barred = plan != Plan::Remove && !self.barred.is_empty() && self.is_barred(target.as_ref());
        if barred || fits && slot.has(Slot::MEDDLED) && !self.held.may(prefix, now) {
            return self.change(cell, |slot| {
                slot.clear(queue);
                slot.set(Slot::WAITING);
            });
        }
        self.change(cell, |slot| {
            slot.clear(queue);
            if fits {
                slot.set(Slot::IN_FLIGHT | if plan == Plan::Replace { Slot::REPLACING } else { 0 });
                slot.clear(Slot::TWICE | Slot::MEDDLED);
                slot.sent = if plan == Plan::Remove { TargetId::NONE } else { slot.wanted };
            }
        });
        let Some(target) = target else { return };
        out.cells.push(cell);
        out.ops.push(match plan {
            Plan::Create => FibOp::Create(prefix, target),
            Plan::Replace => FibOp::Replace(prefix, target),
            Plan::Nothing | Plan::Remove => FibOp::Remove(prefix, target),
        });
    }

    fn has_rival(&self, prefix: &Prefix) -> bool {
        !self.rivals.is_empty() && self.rivals.contains_key(prefix)
    }

    fn is_barred(&self, target: Option<&Target>) -> bool {
        matches!(target, Some(Target::Object(id)) if self.barred.contains(id))
    }

    /// Tries a refused write at once.
    fn stop_waiting(&mut self, prefix: Prefix) {
        self.refused.stop_waiting(prefix);
        if let Some(cell) = self.table.find(&prefix) {
            self.change(cell, |slot| slot.clear(Slot::WAITING));
        }
    }

    /// Forgets a refusal: its reason may be gone, or another one stands in the way now.
    fn overtake(&mut self, prefix: Prefix, cell: u32) {
        self.refused.forget(prefix);
        self.change(cell, |slot| slot.clear(Slot::WAITING));
    }

    fn note_rival(&mut self, prefix: Prefix, rival: Option<u8>) -> Option<u8> {
        match rival {
            Some(protocol) => self.rivals.insert(prefix, protocol),
            None => self.rivals.remove(&prefix),
        }
    }

    /// Only a dump can tell from now on, one that is asked for after this.
    pub(super) const fn raise_doubt(&mut self) {
        self.doubt_again |= self.resyncing;
        self.doubt = true;
    }

    /// The mark of a prefix that changes while a dump is under way.
    const fn touched(&self) -> u32 {
        if self.resyncing { Slot::TOUCHED } else { 0 }
    }

    /// Counts what somebody else put where `slot` is now known to be.
    const fn count_found(&mut self, slot: Slot) {
        if slot.wanted.is_some() {
            // Not equal: what is there is as wanted otherwise, and nothing needs repair.
            self.repaired.changed += 1;
        } else if !slot.has(Slot::STALE) {
            self.repaired.extra += 1;
        }
    }
}
