//! Targets, each kept once: a hundred thousand routes refer to a handful of them by number.

use std::collections::BTreeMap;

use ahash::RandomState;
use hashbrown::HashMap;

use super::{Hop, Target};

/// A target's number.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct TargetId(u32);

impl TargetId {
    /// No route.
    pub(super) const NONE: Self = Self(0);
    /// [`Target::Blackhole`].
    pub(super) const BLACKHOLE: Self = Self(1);

    /// Whether there is a route.
    pub(super) const fn is_some(self) -> bool {
        self.0 != Self::NONE.0
    }
}

#[derive(Debug)]
struct Entry {
    target: Target,
    /// Routes that want it
    wanted: usize,
    /// Users; at 0 the number is free again
    users: usize,
}

/// All targets in use.
#[derive(Debug)]
pub(super) struct Targets {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    ids: HashMap<Target, u32, RandomState>,
}

impl Targets {
    /// Only the two that are always there.
    pub(super) fn new() -> Self {
        let blackhole = Entry { target: Target::Blackhole, wanted: 0, users: 1 };
        Self {
            entries: vec![None, Some(blackhole)],
            free: Vec::new(),
            ids: std::iter::once((Target::Blackhole, TargetId::BLACKHOLE.0)).collect(),
        }
    }

    /// The number of a target, with one more user: give it back with [`Self::release`].
    pub(super) fn intern(&mut self, target: &Target) -> TargetId {
        if let Some(&id) = self.ids.get(target) {
            let id = TargetId(id);
            self.retain(id);
            return id;
        }
        let entry = Some(Entry { target: target.clone(), wanted: 0, users: 1 });
        let id = if let Some(id) = self.free.pop() {
            if let Some(slot) = self.entries.get_mut(id as usize) {
                *slot = entry;
            }
            id
        } else {
            self.entries.push(entry);
            // Numbers run out after 2^32 distinct targets in use at once, long after memory.
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        };
        self.ids.insert(target.clone(), id);
        TargetId(id)
    }

    /// The number of these hops; [`TargetId::NONE`] if there are none.
    pub(super) fn intern_hops(&mut self, hops: impl IntoIterator<Item = Hop>) -> TargetId {
        Target::via(hops).map_or(TargetId::NONE, |target| self.intern(&target))
    }

    /// One more user.
    pub(super) fn retain(&mut self, id: TargetId) {
        if let Some(entry) = self.entry_mut(id) {
            entry.users += 1;
        }
    }

    /// One user less.
    pub(super) fn release(&mut self, id: TargetId) {
        if id <= TargetId::BLACKHOLE {
            return;
        }
        let Some(entry) = self.entry_mut(id) else { return };
        entry.users = entry.users.saturating_sub(1);
        if entry.users == 0
            && let Some(entry) = self.entries.get_mut(id.0 as usize).and_then(Option::take)
        {
            self.ids.remove(&entry.target);
            self.free.push(id.0);
        }
    }

    /// The target with a number; `None` for [`TargetId::NONE`].
    pub(super) fn get(&self, id: TargetId) -> Option<&Target> {
        self.entries.get(id.0 as usize)?.as_ref().map(|entry| &entry.target)
    }

    /// The number of a target that has one.
    pub(super) fn find(&self, target: &Target) -> Option<TargetId> {
        self.ids.get(target).copied().map(TargetId)
    }

    /// A route wants `now` instead of `before`.
    pub(super) fn wanted(&mut self, before: TargetId, now: TargetId) {
        if let Some(entry) = self.entry_mut(before) {
            entry.wanted = entry.wanted.saturating_sub(1);
        }
        if let Some(entry) = self.entry_mut(now) {
            entry.wanted += 1;
        }
    }

    /// Each target that routes want, with their number.
    pub(super) fn tally(&self) -> impl Iterator<Item = (&Target, usize)> {
        self.entries.iter().flatten().map(|entry| (&entry.target, entry.wanted)).filter(|(_, wanted)| *wanted > 0)
    }

    /// Numbers in use whose target is as asked.
    pub(super) fn matching(&self, wanted: impl Fn(&Target) -> bool) -> BTreeMap<TargetId, &Target> {
        let ids = (0..).map(TargetId).zip(&self.entries);
        ids.filter_map(|(id, entry)| Some((id, &entry.as_ref()?.target))).filter(|(_, target)| wanted(target)).collect()
    }

    fn entry_mut(&mut self, id: TargetId) -> Option<&mut Entry> {
        self.entries.get_mut(id.0 as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shared_and_come_back() {
        let mut targets = Targets::new();
        let hop = |n: u8| Hop::direct(std::net::IpAddr::from([192, 0, 2, n]), 2);
        let ab = targets.intern_hops([hop(1), hop(2)]);
        assert_eq!(targets.intern_hops([hop(2), hop(1), hop(2)]), ab, "order and repetition say nothing");
        assert_eq!(targets.intern_hops([]), TargetId::NONE);
        assert_eq!(targets.intern(&Target::Blackhole), TargetId::BLACKHOLE);
        targets.release(ab);
        assert!(targets.get(ab).is_some(), "one user left");
        targets.release(ab);
        assert!(targets.get(ab).is_none());
        let again = targets.intern_hops([hop(3)]);
        assert_eq!(again, ab, "a free number is used again");
        targets.release(TargetId::BLACKHOLE);
        targets.release(TargetId::BLACKHOLE);
        assert_eq!(targets.get(TargetId::BLACKHOLE), Some(&Target::Blackhole), "always there");
    }
}
