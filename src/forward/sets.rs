//! Ranked sets of ways, each kept once: routes with the same best and backup ways share one.

use std::borrow::Borrow;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::targets::TargetId;
use super::{NextHop, NexthopId, Way};
use crate::net::Family;

/// A set's number.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct SetId(u32);

impl SetId {
    /// BGP chose nothing.
    pub(super) const NONE: Self = Self(0);
    /// Not next hops: the prefix is to be dropped.
    pub(super) const BLACKHOLE: Self = Self(1);
}

/// The ways of a route: those it goes over, and those that take over when none of these is left.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Ranked {
    /// Of the routes; a kernel nexthop object without a gateway serves one family only
    pub family: Family,
    /// Sorted, none twice
    pub best: SmallVec<[Way; 4]>,
    /// Sorted, none twice; may be empty
    pub backup: SmallVec<[Way; 4]>,
}

impl Ranked {
    fn new(family: Family, best: &[Way], backup: &[Way]) -> Self {
        let sorted = |ways: &[Way]| {
            let mut ways: SmallVec<[Way; 4]> = ways.into();
            ways.sort_unstable();
            ways.dedup();
            ways
        };
        Self { family, best: sorted(best), backup: sorted(backup) }
    }

    /// All ways, the best first.
    pub(super) fn ways(&self) -> impl Iterator<Item = &Way> {
        self.best.iter().chain(&self.backup)
    }

    /// All next hops, each once, sorted.
    pub(super) fn next_hops(&self) -> SmallVec<[NextHop; 8]> {
        let mut next_hops: SmallVec<[NextHop; 8]> = self.ways().map(|way| way.next_hop).collect();
        next_hops.sort_unstable();
        next_hops.dedup();
        next_hops
    }
}

/// A ranked set, and what it comes to.
#[derive(Debug)]
pub(super) struct Set {
    pub ranked: Arc<Ranked>,
    /// What routes over it do; the set is one of its users
    pub target: TargetId,
    /// The nexthop object that stands for it, where there are objects
    pub object: Option<NexthopId>,
    /// It is old enough for its object to name the backup
    pub guarded: bool,
    /// All next hops are on-link and go without a tunnel: the prefix routed makes no difference
    pub direct: bool,
    /// Routes that use it
    pub routes: usize,
}

/// All sets in use.
#[derive(Debug)]
pub(super) struct Sets {
    entries: Vec<Option<Set>>,
    free: Vec<u32>,
    ids: HashMap<Arc<Ranked>, SetId, RandomState>,
    /// The last one asked for, as it was asked for: routes come in runs with the same ways
    last: (Ranked, SetId),
}

impl Sets {
    pub(super) fn new() -> Self {
        // The numbers 0 and 1 have a meaning of their own.
        Self {
            entries: vec![None, None],
            free: Vec::new(),
            ids: HashMap::default(),
            last: (Ranked::new(Family::Ipv4, &[], &[]), SetId::NONE),
        }
    }

    /// The set of these ways, in any order; `Err` with what it is made of if it is new.
    pub(super) fn find(&mut self, family: Family, best: &[Way], backup: &[Way]) -> Result<SetId, Arc<Ranked>> {
        let (last, id) = &self.last;
        if *id != SetId::NONE && last.family == family && *last.best == *best && *last.backup == *backup {
            return Ok(*id);
        }
        let ranked = Ranked::new(family, best, backup);
        match self.ids.get::<Ranked>(&ranked) {
            Some(id) => {
                self.last = (Ranked { family, best: best.into(), backup: backup.into() }, *id);
                Ok(*id)
            }
            None => Err(Arc::new(ranked)),
        }
    }

    /// A new set, used by no route yet.
    pub(super) fn insert(&mut self, ranked: Arc<Ranked>) -> SetId {
        let set = Some(Set {
            ranked: Arc::clone(&ranked),
            target: TargetId::NONE,
            object: None,
            guarded: false,
            direct: false,
            routes: 0,
        });
        let id = if let Some(id) = self.free.pop() {
            if let Some(entry) = self.entries.get_mut(id as usize) {
                *entry = set;
            }
            id
        } else {
            self.entries.push(set);
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        };
        self.ids.insert(ranked, SetId(id));
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
        self.ids.remove::<Ranked>(set.ranked.borrow());
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

    /// Sets with a way as asked.
    pub(super) fn with_any(&self, which: impl Fn(&Way) -> bool) -> Vec<SetId> {
        self.iter().filter(|(_, set)| set.ranked.ways().any(&which)).map(|(id, _)| id).collect()
    }
}
