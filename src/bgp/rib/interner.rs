//! One allocation for each distinct set of attributes, known by a number of half its address's size.
//!
//! Equal sets have the same number and are the same allocation. What nobody holds goes away at the
//! next [`Interner::collect`], so a set that has just been interned need not be held yet.

use std::num::NonZeroU32;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;

use super::slab::Slab;
use crate::bgp::attrs::Attrs;

/// Number of a set.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct SetId(NonZeroU32);

impl SetId {
    const fn cell(self) -> u32 {
        self.0.get() - 1
    }
}

#[derive(Debug)]
struct Interned {
    attrs: Arc<Attrs>,
    holders: u32,
    /// Enough of its hash to grow the index without looking at the set
    hash: u32,
}

#[derive(Debug)]
pub(super) struct Interner {
    sets: Slab<Interned>,
    index: HashTable<SetId>,
    hasher: RandomState,
    /// Sets that had no holder at some time since the last collection
    idle: Vec<SetId>,
    /// Stands for a set that is not there, which nobody asks for
    none: Arc<Attrs>,
}

impl Interner {
    pub fn new() -> Self {
        let none = Arc::new(Attrs::originate(std::net::Ipv4Addr::UNSPECIFIED.into()));
        Self { sets: Slab::new(), index: HashTable::new(), hasher: RandomState::new(), idle: Vec::new(), none }
    }

    /// The set equal to `attrs`, which becomes it if there is none yet. Held by nobody on that account.
    pub fn intern(&mut self, attrs: &Arc<Attrs>) -> SetId {
        let Self { sets, index, .. } = self;
        #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
        let hash = self.hasher.hash_one(&**attrs) as u32;
        let equal = |id: &SetId| {
            let known = sets.get(id.cell());
            known.is_some_and(|known| known.hash == hash && (Arc::ptr_eq(&known.attrs, attrs) || known.attrs == *attrs))
        };
        if let Some(known) = index.find(spread(hash), equal) {
            return *known;
        }
        let cell = sets.insert(Interned { attrs: attrs.clone(), holders: 0, hash });
        let id = SetId(NonZeroU32::MIN.saturating_add(cell));
        index.insert_unique(spread(hash), id, |id| spread(sets.get(id.cell()).map_or(0, |set| set.hash)));
        self.idle.push(id);
        id
    }

    /// The attributes of a set.
    pub fn attrs(&self, id: SetId) -> &Arc<Attrs> {
        self.sets.get(id.cell()).map_or(&self.none, |set| &set.attrs)
    }

    /// One more holder.
    pub fn hold(&mut self, id: SetId) {
        if let Some(set) = self.sets.get_mut(id.cell()) {
            set.holders += 1;
        }
    }

    /// One holder less.
    pub fn release(&mut self, id: SetId) {
        if let Some(set) = self.sets.get_mut(id.cell()) {
            set.holders -= 1;
            if set.holders == 0 {
                self.idle.push(id);
            }
        }
    }

    /// Drops the sets that nobody holds.
    pub fn collect(&mut self) {
        let Self { sets, index, idle, .. } = self;
        for id in idle.drain(..) {
            let Some(hash) = sets.get(id.cell()).filter(|set| set.holders == 0).map(|set| set.hash) else { continue };
            if let Ok(found) = index.find_entry(spread(hash), |other| *other == id) {
                found.remove();
            }
            sets.remove(id.cell());
        }
        if index.is_empty() {
            *index = HashTable::new();
        }
        idle.shrink_to(1024);
    }

    pub fn len(&self) -> usize {
        self.sets.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Attrs>> {
        self.sets.iter().map(|set| &set.attrs)
    }

    /// Bytes taken, without the sets themselves.
    pub fn memory(&self) -> usize {
        self.sets.memory() + self.index.allocation_size()
    }

    /// Sum of all holders.
    #[cfg(test)]
    pub fn holders(&self) -> usize {
        self.sets.iter().map(|set| set.holders as usize).sum()
    }
}

/// A hash as the index wants it, which looks at both of its ends.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(med: u32) -> Arc<Attrs> {
        Arc::new(Attrs { med: Some(med), ..Attrs::originate([192, 0, 2, 1].into()) })
    }

    #[test]
    fn equal_sets_are_one() {
        let mut interner = Interner::new();
        let (a, b, c) = (interner.intern(&attrs(1)), interner.intern(&attrs(1)), interner.intern(&attrs(2)));
        assert!(a == b && a != c && *interner.attrs(c) == attrs(2));
        assert_eq!(interner.len(), 2);
    }

    #[test]
    fn sets_that_nobody_holds_go_away() {
        let mut interner = Interner::new();
        let kept = interner.intern(&attrs(0));
        interner.hold(kept);
        for med in 1..10_000 {
            interner.intern(&attrs(med));
        }
        interner.collect();
        assert_eq!((interner.len(), interner.intern(&attrs(0))), (1, kept), "a set in use stays");
        interner.release(kept);
        interner.hold(kept);
        interner.collect();
        assert_eq!(interner.len(), 1, "it was held again in time");
        interner.release(kept);
        interner.collect();
        assert_eq!((interner.len(), interner.memory()), (0, 0));
    }
}
