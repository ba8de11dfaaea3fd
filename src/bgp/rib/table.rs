//! Prefix → entry, dense: entries stand side by side in the order they came, found by a small hash
//! index of their numbers.
//!
//! A number (slot) stays valid until its entry is removed and is then used again. Walking by
//! slot meets prefixes that came in one message next to each other, which packs well on the way out.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table;
use smallvec::SmallVec;

use super::{Chosen, Path, PeerId};
use crate::bgp::attrs::Attrs;
use crate::net::Prefix;

/// Number of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Slot(u32);

/// What is known of one prefix.
#[derive(Debug)]
pub(super) struct Entry {
    pub prefix: Prefix,
    /// It waits for the next decision
    pub dirty: bool,
    /// Sender of `best`; says nothing without it
    pub best_peer: PeerId,
    /// Attributes of the best path, as of the last decision
    pub best: Option<Arc<Attrs>>,
    /// What was chosen where it is more than one path
    pub more: Option<Box<More>>,
    /// All paths, one a peer
    pub paths: SmallVec<[Path; 1]>,
}

/// What the last decision chose.
#[derive(Debug)]
pub(super) struct More {
    pub hops: Vec<Chosen>,
    pub backup: Vec<Chosen>,
}

impl Entry {
    /// The multipath set, best first.
    pub fn hops(&self) -> SmallVec<[Chosen; 1]> {
        match &self.more {
            Some(more) => more.hops.iter().cloned().collect(),
            None => self.best.iter().map(|attrs| Chosen { peer: self.best_peer, attrs: attrs.clone() }).collect(),
        }
    }

    /// What would be chosen if it failed.
    pub fn backup(&self) -> &[Chosen] {
        self.more.as_ref().map_or(&[], |more| &more.backup)
    }
}

/// A cell in the index, with enough of its hash to grow the index without looking at the cell.
#[derive(Clone, Copy, Debug)]
struct Indexed {
    hash: u32,
    cell: u32,
}

impl Indexed {
    /// The hash as the index wants it, which looks at both of its ends.
    const fn spread(self) -> u64 {
        (self.hash as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

#[derive(Debug)]
pub(super) struct Table {
    index: HashTable<Indexed>,
    cells: Vec<Option<Entry>>,
    free: Vec<u32>,
    hasher: RandomState,
}

impl Table {
    pub fn new() -> Self {
        Self { index: HashTable::new(), cells: Vec::new(), free: Vec::new(), hasher: RandomState::new() }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Where `prefix` belongs in the index; the cell is yet to be known.
    fn key(&self, prefix: &Prefix) -> Indexed {
        #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
        let hash = self.hasher.hash_one(prefix) as u32;
        Indexed { hash, cell: 0 }
    }

    pub fn find(&self, prefix: &Prefix) -> Option<Slot> {
        let key = self.key(prefix);
        let found = self.index.find(key.spread(), |i| i.hash == key.hash && holds(&self.cells, i.cell, prefix));
        found.map(|i| Slot(i.cell))
    }

    pub fn find_or_insert(&mut self, prefix: &Prefix) -> Slot {
        let key = self.key(prefix);
        let Self { index, cells, free, .. } = self;
        let same = |i: &Indexed| i.hash == key.hash && holds(cells, i.cell, prefix);
        match index.entry(key.spread(), same, |i| i.spread()) {
            hash_table::Entry::Occupied(found) => Slot(found.get().cell),
            hash_table::Entry::Vacant(vacant) => {
                let entry = Entry {
                    prefix: *prefix,
                    dirty: false,
                    best_peer: PeerId::LOCAL,
                    best: None,
                    more: None,
                    paths: SmallVec::new(),
                };
                // Four thousand million entries don't fit into memory, so neither does their number wrap.
                let cell = free.pop().unwrap_or(u32::try_from(cells.len()).unwrap_or(u32::MAX));
                vacant.insert(Indexed { cell, ..key });
                match cells.get_mut(cell as usize) {
                    Some(free) => *free = Some(entry),
                    None => cells.push(Some(entry)),
                }
                Slot(cell)
            }
        }
    }

    pub fn get(&self, slot: Slot) -> Option<&Entry> {
        self.cells.get(slot.0 as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.cells.get_mut(slot.0 as usize)?.as_mut()
    }

    pub fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.cells.get_mut(slot.0 as usize).and_then(Option::take) else { return };
        let key = self.key(&entry.prefix);
        if let Ok(found) = self.index.find_entry(key.spread(), |i| i.cell == slot.0) {
            found.remove();
            self.free.push(slot.0);
        }
        // A table that has emptied gives its memory back.
        if self.index.is_empty() {
            *self = Self { hasher: self.hasher.clone(), ..Self::new() };
        }
    }

    /// All entries by slot.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.cells.iter().flatten()
    }

    /// All entries by slot.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Entry)> {
        (0..).zip(&mut self.cells).filter_map(|(i, cell)| Some((Slot(i), cell.as_mut()?)))
    }

    /// The cells from number `from` on, at most `count`; empty ones are `None`.
    pub fn cells(&self, from: usize, count: usize) -> &[Option<Entry>] {
        let to = from.saturating_add(count).min(self.cells.len());
        self.cells.get(from..to).unwrap_or_default()
    }

    pub fn cell_count(&self) -> usize {
        self.cells.len()
    }

    /// Bytes taken, without what entries point to.
    pub fn memory(&self) -> usize {
        self.cells.len() * size_of::<Option<Entry>>()
            + self.index.allocation_size()
            + self.free.len() * size_of::<u32>()
    }
}

fn holds(cells: &[Option<Entry>], i: u32, prefix: &Prefix) -> bool {
    matches!(cells.get(i as usize), Some(Some(entry)) if entry.prefix == *prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        // A million of them are the bulk of a full table's memory.
        assert_eq!(size_of::<Path>(), 24);
        assert!(size_of::<Option<Entry>>() <= 80, "{}", size_of::<Option<Entry>>());
    }

    #[test]
    fn slots_are_found_kept_and_used_again() {
        let mut table = Table::new();
        let p = |i: u32| Prefix::new(std::net::Ipv4Addr::from_bits(i << 8).into(), 24);
        let slots: Vec<Slot> = (0..1000).map(|i| table.find_or_insert(&p(i))).collect();
        assert_eq!(table.find_or_insert(&p(7)), slots[7]);
        table.remove(slots[7]);
        assert_eq!((table.find(&p(7)), table.len()), (None, 999));
        assert_eq!(table.find_or_insert(&p(5000)), slots[7], "a free slot is used again");
        for i in (0..1000).filter(|i| *i != 7) {
            assert_eq!(table.find(&p(i)), Some(slots[i as usize]));
            assert_eq!(table.get(slots[i as usize]).unwrap().prefix, p(i));
        }
        assert_eq!(table.iter().count(), 1000);
    }
}
