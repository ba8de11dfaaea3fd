//! Prefix → slot, dense: slots stand side by side in the order they came, found by a small hash
//! index of their numbers.
//!
//! A number stays valid while its slot is not empty, so that whoever works through many prefixes
//! (queues, answers of the kernel) needs no look-up.

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::slot::Slot;
use crate::net::Prefix;

/// A slot in the index, with enough of its hash to grow the index without looking at the slot.
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

#[derive(Clone, Copy, Debug)]
struct Cell {
    prefix: Prefix,
    slot: Slot,
}

/// All prefixes of which something is known.
#[derive(Debug, Default)]
pub(super) struct Table {
    index: HashTable<Indexed>,
    cells: Vec<Cell>,
    free: Vec<u32>,
    hasher: RandomState,
}

impl Table {
    fn key(&self, prefix: &Prefix) -> Indexed {
        #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
        let hash = self.hasher.hash_one(prefix) as u32;
        Indexed { hash, cell: 0 }
    }

    /// The number of a prefix.
    pub(super) fn find(&self, prefix: &Prefix) -> Option<u32> {
        let key = self.key(prefix);
        self.index.find(key.spread(), |i| i.hash == key.hash && holds(&self.cells, i.cell, prefix)).map(|i| i.cell)
    }

    /// The number of a prefix, with an empty slot if it is new.
    pub(super) fn find_or_insert(&mut self, prefix: Prefix) -> u32 {
        let key = self.key(&prefix);
        let Self { index, cells, free, .. } = self;
        let same = |i: &Indexed| i.hash == key.hash && holds(cells, i.cell, &prefix);
        match index.entry(key.spread(), same, |i| i.spread()) {
            Entry::Occupied(found) => found.get().cell,
            Entry::Vacant(vacant) => {
                let new = Cell { prefix, slot: Slot::EMPTY };
                // Memory ends long before the numbers do.
                let cell = free.pop().unwrap_or(u32::try_from(cells.len()).unwrap_or(u32::MAX));
                vacant.insert(Indexed { cell, ..key });
                match cells.get_mut(cell as usize) {
                    Some(free) => *free = new,
                    None => cells.push(new),
                }
                cell
            }
        }
    }

    /// The prefix and the state of a number.
    pub(super) fn get(&self, cell: u32) -> Option<(Prefix, Slot)> {
        self.cells.get(cell as usize).map(|cell| (cell.prefix, cell.slot))
    }

    /// Puts a state back; an empty one frees the number.
    pub(super) fn set(&mut self, cell: u32, slot: Slot) {
        let Some(at) = self.cells.get_mut(cell as usize) else { return };
        at.slot = slot;
        if !slot.is_empty() {
            return;
        }
        let prefix = at.prefix;
        let key = self.key(&prefix);
        if let Ok(found) = self.index.find_entry(key.spread(), |i| i.cell == cell) {
            found.remove();
            self.free.push(cell);
        }
        // A table that has emptied gives its memory back.
        if self.index.is_empty() {
            *self = Self { hasher: self.hasher.clone(), ..Self::default() };
        }
    }

    /// All prefixes of which something is known, with their number, in the order they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, Prefix, Slot)> {
        let numbered = (0..).zip(&self.cells).filter(|(_, cell)| !cell.slot.is_empty());
        numbered.map(|(number, cell)| (number, cell.prefix, cell.slot))
    }
}

fn holds(cells: &[Cell], cell: u32, prefix: &Prefix) -> bool {
    cells.get(cell as usize).is_some_and(|cell| cell.prefix == *prefix)
}
