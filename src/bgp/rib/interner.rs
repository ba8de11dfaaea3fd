//! One allocation for each distinct set of attributes.
//!
//! Whoever takes attributes from here may compare them by pointer: equal sets are the same set.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;

use crate::bgp::attrs::Attrs;

/// Below this many sets a purge isn't worth its walk.
const SMALL: usize = 1024;

#[derive(Debug)]
pub(super) struct Interner {
    sets: HashTable<Arc<Attrs>>,
    hasher: RandomState,
    /// Number of sets at which unused ones are looked for
    purge_at: usize,
}

impl Interner {
    pub fn new() -> Self {
        Self { sets: HashTable::new(), hasher: RandomState::new(), purge_at: SMALL }
    }

    /// The shared allocation of a set equal to `attrs`, which becomes it if there is none yet.
    pub fn intern(&mut self, attrs: &Arc<Attrs>) -> Arc<Attrs> {
        let hash = self.hasher.hash_one(&**attrs);
        if let Some(known) = self.sets.find(hash, |known| Arc::ptr_eq(known, attrs) || **known == **attrs) {
            return known.clone();
        }
        // The walk is paid for by the insertions since the last one.
        if self.sets.len() >= self.purge_at {
            self.purge();
        }
        let hasher = &self.hasher;
        self.sets.insert_unique(hash, attrs.clone(), |known| hasher.hash_one(&**known));
        attrs.clone()
    }

    /// Drops the sets that nobody else holds.
    pub fn purge(&mut self) {
        self.sets.retain(|attrs| Arc::strong_count(attrs) > 1);
        let hasher = &self.hasher;
        if self.sets.capacity() > SMALL.max(4 * self.sets.len()) {
            self.sets.shrink_to(2 * self.sets.len(), |known| hasher.hash_one(&**known));
        }
        self.purge_at = SMALL.max(2 * self.sets.len());
    }

    pub fn len(&self) -> usize {
        self.sets.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Attrs>> {
        self.sets.iter()
    }
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
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &c));
        assert_eq!(interner.len(), 2);
    }

    #[test]
    fn unused_sets_go_away_by_themselves() {
        let mut interner = Interner::new();
        let kept = interner.intern(&attrs(0));
        for med in 1..100_000 {
            interner.intern(&attrs(med));
        }
        assert!(interner.len() <= SMALL, "{} sets are kept for nobody", interner.len());
        assert!(Arc::ptr_eq(&kept, &interner.intern(&attrs(0))), "a set in use stays");
        interner.purge();
        assert_eq!(interner.len(), 1);
    }
}
