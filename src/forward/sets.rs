//! Sets of next hops, each kept once: routes with the same next hops share one.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use super::NextHop;
use super::targets::TargetId;

/// A set's number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct SetId(u32);

impl SetId {
    /// BGP chose nothing.
    pub(super) const NONE: Self = Self(0);
    /// Not next hops: the prefix is to be dropped.
    pub(super) const BLACKHOLE: Self = Self(1);
}

/// Next hops, and what they come to.
#[derive(Debug)]
pub(super) struct Set {
    /// Sorted, none twice
    pub members: Arc<[NextHop]>,
    /// The hops of all members that can be reached; the set is one of its users
    pub target: TargetId,
    /// All members are on-link and go without a tunnel: the prefix routed makes no difference
    pub direct: bool,
    /// Routes that use it
    pub routes: usize,
}

/// All sets in use.
#[derive(Debug)]
pub(super) struct Sets {
    entries: Vec<Option<Set>>,
    free: Vec<u32>,
    ids: HashMap<Arc<[NextHop]>, SetId, RandomState>,
    /// The last list asked for: routes come in runs with the same next hops
    last: (SmallVec<[NextHop; 4]>, SetId),
}

impl Sets {
    pub(super) fn new() -> Self {
        // The numbers 0 and 1 have a meaning of their own.
        Self {
            entries: vec![None, None],
            free: Vec::new(),
            ids: HashMap::default(),
            last: (SmallVec::new(), SetId::NONE),
        }
    }

    /// The set of these next hops, in any order; `Err` with its sorted members if it is new.
    pub(super) fn find(&mut self, next_hops: &[NextHop]) -> Result<SetId, Arc<[NextHop]>> {
        if self.last.1 != SetId::NONE && self.last.0.as_slice() == next_hops {
            return Ok(self.last.1);
        }
        let mut members: SmallVec<[NextHop; 8]> = next_hops.into();
        members.sort_unstable();
        members.dedup();
        match self.ids.get(members.as_slice()) {
            Some(id) => {
                self.last = (next_hops.into(), *id);
                Ok(*id)
            }
            None => Err(members.as_slice().into()),
        }
    }

    /// A new set, used by no route yet.
    pub(super) fn insert(&mut self, members: Arc<[NextHop]>, target: TargetId, direct: bool) -> SetId {
        let set = Some(Set { members: Arc::clone(&members), target, direct, routes: 0 });
        let id = if let Some(id) = self.free.pop() {
            if let Some(entry) = self.entries.get_mut(id as usize) {
                *entry = set;
            }
            id
        } else {
            self.entries.push(set);
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        };
        self.ids.insert(members, SetId(id));
        SetId(id)
    }

    pub(super) fn get(&self, id: SetId) -> Option<&Set> {
        self.entries.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: SetId) -> Option<&mut Set> {
        self.entries.get_mut(id.0 as usize)?.as_mut()
    }

    /// One route more.
    pub(super) fn retain(&mut self, id: SetId) {
        if let Some(set) = self.get_mut(id) {
            set.routes += 1;
        }
    }

    /// One route less; the set, if that was the last.
    pub(super) fn release(&mut self, id: SetId) -> Option<Set> {
        let set = self.get_mut(id)?;
        set.routes = set.routes.saturating_sub(1);
        if set.routes > 0 {
            return None;
        }
        let set = self.entries.get_mut(id.0 as usize)?.take()?;
        self.ids.remove(&set.members);
        self.free.push(id.0);
        if self.last.1 == id {
            self.last.1 = SetId::NONE;
        }
        Some(set)
    }

    /// All sets in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SetId, &Set)> {
        (0..).map(SetId).zip(&self.entries).filter_map(|(id, set)| Some((id, set.as_ref()?)))
    }

    /// Sets with one of these members.
    pub(super) fn with_any(&self, next_hops: &HashSet<NextHop, RandomState>) -> Vec<SetId> {
        let touched = |set: &Set| set.members.iter().any(|member| next_hops.contains(member));
        self.iter().filter(|(_, set)| touched(set)).map(|(id, _)| id).collect()
    }
}
