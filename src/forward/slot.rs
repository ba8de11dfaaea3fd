//! One prefix's state and what has to be done about it.

use super::sets::SetId;
use super::targets::TargetId;

/// A prefix's state. Twenty bytes: there is one for each route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// The next hops BGP chose
    pub set: SetId,
    /// What they come to
    pub wanted: TargetId,
    /// What the kernel is known to hold of ours
    pub actual: TargetId,
    /// What is being written, if anything is under way; [`TargetId::NONE`]: a removal
    pub sent: TargetId,
    flags: u32,
}

impl Slot {
    pub(super) const EMPTY: Self =
        Self { set: SetId::NONE, wanted: TargetId::NONE, actual: TargetId::NONE, sent: TargetId::NONE, flags: 0 };

    /// A write is under way.
    pub(super) const IN_FLIGHT: u32 = 1;
    /// In the queue of creates and replaces.
    pub(super) const TO_WRITE: u32 = 1 << 1;
    /// In the queue of removals.
    pub(super) const TO_REMOVE: u32 = 1 << 2;
    /// In either.
    pub(super) const QUEUED: u32 = Self::TO_WRITE | Self::TO_REMOVE;
    /// Refused; waits for its time.
    pub(super) const WAITING: u32 = 1 << 3;
    /// Left by a former run, not asked for yet.
    pub(super) const STALE: u32 = 1 << 4;
    /// Somebody interfered while the write was under way.
    pub(super) const DOUBT: u32 = 1 << 5;
    /// Changed since the dump was asked for: the dump says nothing about it.
    pub(super) const TOUCHED: u32 = 1 << 6;
    /// Was in the dump.
    pub(super) const SEEN: u32 = 1 << 7;
    /// The dump had two of ours: one must go.
    pub(super) const TWICE: u32 = 1 << 8;
    /// What is under way replaces something.
    pub(super) const REPLACING: u32 = 1 << 9;
    /// What is under way was heard of as done: an echo, or somebody else doing the same.
    pub(super) const ECHOED: u32 = 1 << 11;
    /// All that ends with the answer.
    pub(super) const UNDER_WAY: u32 = Self::IN_FLIGHT | Self::DOUBT | Self::REPLACING | Self::ECHOED;
    /// What the kernel holds is a guess until a dump tells.
    pub(super) const UNSURE: u32 = 1 << 10;
    /// Somebody removed, changed or added it: putting it right is a repair.
    pub(super) const MEDDLED: u32 = 1 << 12;

    pub(super) const fn has(self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    pub(super) const fn set(&mut self, flags: u32) {
        self.flags |= flags;
    }

    pub(super) const fn clear(&mut self, flags: u32) {
        self.flags &= !flags;
    }

    pub(super) fn settled(self) -> bool {
        self.wanted == self.actual && !self.has(Self::IN_FLIGHT)
    }

    /// Nothing is known of the prefix but that there is nothing.
    pub(super) fn is_empty(self) -> bool {
        self.set == SetId::NONE
            && !self.wanted.is_some()
            && !self.actual.is_some()
            && !self.has(Self::IN_FLIGHT | Self::QUEUED | Self::WAITING | Self::TOUCHED | Self::SEEN | Self::UNSURE)
    }
}

/// What has to be done about a prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Plan {
    Nothing,
    Create,
    Replace,
    Remove,
}

/// How many prefixes are in which state.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    pub installed: usize,
    pub unresolved: usize,
    pub stale: usize,
    pub queued: usize,
    pub in_flight: usize,
}

impl Counts {
    pub(super) fn tally(&mut self, slot: Slot, step: impl Fn(&mut usize)) {
        if slot.wanted.is_some() && slot.wanted == slot.actual {
            step(&mut self.installed);
        }
        if slot.set != SetId::NONE && !slot.wanted.is_some() {
            step(&mut self.unresolved);
        }
        if slot.has(Slot::STALE) {
            step(&mut self.stale);
        }
        if slot.has(Slot::QUEUED) {
            step(&mut self.queued);
        }
        if slot.has(Slot::IN_FLIGHT) {
            step(&mut self.in_flight);
        }
    }
}

/// What has to be done about a prefix in this state.
pub(super) fn plan(slot: Slot, rival: bool) -> Plan {
    if slot.has(Slot::IN_FLIGHT | Slot::WAITING) {
        return Plan::Nothing;
    }
    if slot.has(Slot::TWICE) && slot.actual.is_some() {
        return Plan::Remove;
    }
    match (slot.wanted.is_some(), slot.actual.is_some()) {
        _ if slot.wanted == slot.actual => Plan::Nothing,
        (true, false) if rival => Plan::Nothing,
        (true, false) => Plan::Create,
        // A replacement would hit whichever comes first, perhaps the other's.
        (true, true) if rival => Plan::Remove,
        (true, true) => Plan::Replace,
        (false, _) if slot.has(Slot::STALE) => Plan::Nothing,
        (false, _) => Plan::Remove,
    }
}

/// Takes in that a dump has `id` for a prefix; returns the state if it was unexpected.
pub(super) fn found_in_dump(slot: &mut Slot, id: TargetId) -> Option<Slot> {
    if slot.has(Slot::TOUCHED | Slot::IN_FLIGHT) {
        slot.set(Slot::SEEN);
        return None;
    }
    let expected = slot.actual == id;
    if slot.has(Slot::SEEN) {
        // Two of ours (`ip route append`): take away one that isn't wanted.
        if expected {
            return None;
        }
        slot.set(Slot::TWICE);
        if slot.actual == slot.wanted {
            slot.actual = id;
        }
        return Some(*slot);
    }
    slot.set(Slot::SEEN);
    slot.actual = id;
    (!expected && slot.wanted != id).then_some(*slot)
}
