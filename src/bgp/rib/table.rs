//! Prefix → entry, dense: entries stand side by side in the order they came, found by hash indexes of
//! their numbers.
//!
//! The usual entry (IPv4, one path) is 32 bytes. What few need lies elsewhere: the address of an IPv6
//! prefix, and all that more than one path takes.
//!
//! The number of an entry (its cell) stays valid until the entry is removed and is then used again.
//! Walking by cell meets prefixes that came in one message next to each other, which packs well on the
//! way out. The index is in many parts, so that none takes long to grow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ahash::RandomState;
use hashbrown::{HashTable, hash_table};
use smallvec::SmallVec;

use super::interner::{Interner, SetId};
use super::lots::{LotId, Lots};
use super::slab::Slab;
use crate::bgp::policy::Reject;
use crate::net::{Family, Prefix};

/// Parts of the index.
const PARTS: usize = 256;

/// Number of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Slot(pub u32);

/// A path as a peer sent it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// Attributes before import policy
    pub raw: SetId,
    pub lot: LotId,
    /// Attributes after import policy, if it was accepted
    pub imported: Option<SetId>,
    /// Says nothing where `imported` is there
    pub reject: Reject,
}

impl Path {
    pub fn new(lot: LotId, raw: SetId, imported: Result<SetId, Reject>) -> Self {
        let reject = imported.err().unwrap_or(Reject::PolicyNone);
        Self { raw, lot, imported: imported.ok(), reject }
    }
}

/// A path that was chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Choice {
    pub set: SetId,
    pub lot: LotId,
}

/// What paths consist of.
#[derive(Debug)]
pub(super) struct Store {
    pub sets: Interner,
    pub lots: Lots,
}

impl Store {
    /// A path comes into the table.
    pub fn add(&mut self, path: &Path) {
        self.sets.hold(path.raw);
        if let Some(imported) = path.imported.filter(|imported| *imported != path.raw) {
            self.sets.hold(imported);
        }
        self.lots.add(path);
    }

    /// A path leaves the table.
    pub fn sub(&mut self, path: &Path) {
        self.sets.release(path.raw);
        if let Some(imported) = path.imported.filter(|imported| *imported != path.raw) {
            self.sets.release(imported);
        }
        self.lots.sub(path);
    }

    /// A path is chosen.
    pub fn hold(&mut self, choice: Choice) {
        self.sets.hold(choice.set);
        self.lots.hold(choice.lot);
    }

    /// A path is no longer chosen.
    pub fn release(&mut self, choice: Choice) {
        self.sets.release(choice.set);
        self.lots.release(choice.lot);
    }

    /// Whether two choices are the same path, of the same peer.
    pub fn same(&self, a: Choice, b: Choice) -> bool {
        a.set == b.set && (a.lot == b.lot || self.lots[a.lot].source == self.lots[b.lot].source)
    }
}

/// What is known of one prefix.
#[derive(Debug)]
pub(super) struct Entry {
    /// An IPv4 address, or the number of an IPv6 address
    addr: u32,
    len: u8,
    family: Family,
    /// It waits for the next decision
    pub dirty: bool,
    /// Best path, as of the last decision
    pub best: Option<Choice>,
    paths: Paths,
}

#[derive(Debug)]
enum Paths {
    /// No path, or one, and at most one was chosen
    Few(Option<Path>),
    /// Number of the rest
    Many(u32),
}

/// What is known of a prefix that has, or had at the last decision, several paths.
#[derive(Debug, Default)]
struct Many {
    paths: SmallVec<[Path; 2]>,
    /// What was chosen besides the best path
    more: More,
}

/// What is chosen besides the best path: the rest of the multipath set, then the backup.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct More {
    pub choices: SmallVec<[Choice; 2]>,
    /// How many belong to the multipath set
    pub hops: u32,
}

impl More {
    /// The rest of the multipath set and the backup.
    pub fn split(&self) -> (&[Choice], &[Choice]) {
        self.choices.split_at_checked(self.hops as usize).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct Table {
    index: Box<[HashTable<u32>]>,
    cells: Slab<Entry>,
    wide: Slab<Ipv6Addr>,
    many: Slab<Many>,
    hasher: RandomState,
}

/// An entry to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub entry: &'a Entry,
    table: &'a Table,
}

/// An entry to change.
#[derive(Debug)]
pub(super) struct Open<'a> {
    pub entry: &'a mut Entry,
    wide: &'a Slab<Ipv6Addr>,
    many: &'a mut Slab<Many>,
}

impl<'a> Seen<'a> {
    pub fn prefix(&self) -> Prefix {
        self.entry.prefix(&self.table.wide)
    }

    /// All paths; one a peer, besides dead ones.
    pub fn paths(&self) -> &'a [Path] {
        match &self.entry.paths {
            Paths::Few(path) => path.as_slice(),
            Paths::Many(number) => self.table.many.get(*number).map_or(&[], |many| &many.paths),
        }
    }

    /// What was chosen besides the best path, as of the last decision.
    pub fn more(&self) -> Option<&'a More> {
        match self.entry.paths {
            Paths::Few(_) => None,
            Paths::Many(number) => self.table.many.get(number).map(|many| &many.more),
        }
    }
}

impl Open<'_> {
    pub fn prefix(&self) -> Prefix {
        self.entry.prefix(self.wide)
    }

    pub fn paths(&self) -> &[Path] {
        match &self.entry.paths {
            Paths::Few(path) => path.as_slice(),
            Paths::Many(number) => self.many.get(*number).map_or(&[], |many| &many.paths),
        }
    }

    pub fn paths_mut(&mut self) -> &mut [Path] {
        match &mut self.entry.paths {
            Paths::Few(path) => path.as_mut_slice(),
            Paths::Many(number) => self.many.get_mut(*number).map_or(&mut [], |many| &mut many.paths),
        }
    }

    /// The number of the place for what several paths take.
    fn many(&mut self) -> u32 {
        match &mut self.entry.paths {
            Paths::Many(number) => *number,
            Paths::Few(path) => {
                let many = Many { paths: path.take().into_iter().collect(), more: More::default() };
                let number = self.many.insert(many);
                self.entry.paths = Paths::Many(number);
                number
            }
        }
    }

    pub fn push(&mut self, path: Path) {
        if let Paths::Few(place @ None) = &mut self.entry.paths {
            *place = Some(path);
            return;
        }
        let number = self.many();
        if let Some(many) = self.many.get_mut(number) {
            many.paths.push(path);
        }
    }

    /// Takes the path at a place out of [`paths`](Self::paths).
    pub fn remove(&mut self, i: usize) -> Option<Path> {
        match &mut self.entry.paths {
            Paths::Few(path) => path.take(),
            Paths::Many(number) => self.many.get_mut(*number).map(|many| many.paths.swap_remove(i)),
        }
    }

    /// Takes out dead paths; whether there were any.
    pub fn remove_dead(&mut self, store: &mut Store) -> bool {
        let mut found = false;
        while let Some(i) = self.paths().iter().position(|path| !store.lots[path.lot].is_live()) {
            found = true;
            if let Some(path) = self.remove(i) {
                store.sub(&path);
            }
        }
        found
    }

    /// What was chosen besides the best path.
    pub fn more(&self) -> More {
        match self.entry.paths {
            Paths::Few(_) => More::default(),
            Paths::Many(number) => self.many.get(number).map(|many| many.more.clone()).unwrap_or_default(),
        }
    }

    /// Notes what is chosen besides the best path, and gives back what that doesn't need.
    pub fn set_more(&mut self, more: More) {
        if !more.choices.is_empty() {
            let number = self.many();
            if let Some(many) = self.many.get_mut(number) {
                many.more = more;
            }
        } else if let Paths::Many(number) = self.entry.paths
            && let Some(many) = self.many.get_mut(number)
        {
            many.more = more;
            if let [] | [_] = many.paths[..] {
                self.entry.paths = Paths::Few(many.paths.pop());
                self.many.remove(number);
            }
        }
    }

    /// A path of one lot was sent again in another: whoever chose it chose that.
    pub fn moved(&mut self, from: Choice, to: Choice, store: &mut Store) {
        let more = match self.entry.paths {
            Paths::Few(_) => None,
            Paths::Many(number) => self.many.get_mut(number).map(|many| &mut many.more.choices),
        };
        let choices = self.entry.best.iter_mut().chain(more.into_iter().flatten());
        for choice in choices.filter(|choice| **choice == from) {
            store.hold(to);
            store.release(from);
            *choice = to;
        }
    }
}

impl Entry {
    fn prefix(&self, wide: &Slab<Ipv6Addr>) -> Prefix {
        let addr = match self.family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits(self.addr)),
            Family::Ipv6 => IpAddr::V6(wide.get(self.addr).copied().unwrap_or(Ipv6Addr::UNSPECIFIED)),
        };
        Prefix::new(addr, self.len)
    }

    fn is_of(&self, prefix: &Prefix, wide: &Slab<Ipv6Addr>) -> bool {
        self.len == prefix.len()
            && match (self.family, prefix.addr()) {
                (Family::Ipv4, IpAddr::V4(addr)) => self.addr == addr.to_bits(),
                (Family::Ipv6, IpAddr::V6(addr)) => wide.get(self.addr) == Some(&addr),
                _ => false,
            }
    }
}

/// Which part of the index a hash belongs to: by bits that the part itself makes no use of.
const fn part(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}

impl Table {
    pub fn new() -> Self {
        Self {
            index: (0..PARTS).map(|_| HashTable::new()).collect(),
            cells: Slab::new(),
            wide: Slab::new(),
            many: Slab::new(),
            hasher: RandomState::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.cells.len()
    }

    pub fn find(&self, prefix: &Prefix) -> Option<Slot> {
        let hash = self.hasher.hash_one(prefix);
        let is = |cell: &u32| self.cells.get(*cell).is_some_and(|entry| entry.is_of(prefix, &self.wide));
        self.index[part(hash)].find(hash, is).map(|cell| Slot(*cell))
    }

    pub fn find_or_insert(&mut self, prefix: &Prefix) -> Slot {
        let hash = self.hasher.hash_one(prefix);
        let Self { index, cells, wide, hasher, .. } = self;
        let is = |cell: &u32| cells.get(*cell).is_some_and(|entry| entry.is_of(prefix, wide));
        let rehash = |cell: &u32| cells.get(*cell).map_or(0, |entry| hasher.hash_one(entry.prefix(wide)));
        match index[part(hash)].entry(hash, is, rehash) {
            hash_table::Entry::Occupied(found) => Slot(*found.get()),
            hash_table::Entry::Vacant(vacant) => {
                let addr = match prefix.addr() {
                    IpAddr::V4(addr) => addr.to_bits(),
                    IpAddr::V6(addr) => wide.insert(addr),
                };
                let (len, family, paths) = (prefix.len(), prefix.family(), Paths::Few(None));
                let cell = cells.insert(Entry { addr, len, family, dirty: false, best: None, paths });
                vacant.insert(cell);
                Slot(cell)
            }
        }
    }

    pub fn get(&self, slot: Slot) -> Option<Seen<'_>> {
        Some(Seen { entry: self.cells.get(slot.0)?, table: self })
    }

    /// Whether there is such a path to a prefix.
    pub fn has(&self, prefix: &Prefix, is: impl Fn(&Path) -> bool) -> bool {
        let paths = self.find(prefix).and_then(|slot| self.get(slot)).map_or(&[][..], |entry| entry.paths());
        paths.iter().any(is)
    }

    pub fn open(&mut self, slot: Slot) -> Option<Open<'_>> {
        Some(Open { entry: self.cells.get_mut(slot.0)?, wide: &self.wide, many: &mut self.many })
    }

    /// Removes an entry; it has no paths any more.
    pub fn remove(&mut self, slot: Slot) {
        let Some(prefix) = self.get(slot).map(|seen| seen.prefix()) else { return };
        let Some(entry) = self.cells.remove(slot.0) else { return };
        if entry.family == Family::Ipv6 {
            self.wide.remove(entry.addr);
        }
        if let Paths::Many(number) = entry.paths {
            self.many.remove(number);
        }
        let hash = self.hasher.hash_one(prefix);
        let part = &mut self.index[part(hash)];
        if let Ok(found) = part.find_entry(hash, |cell| *cell == slot.0) {
            found.remove();
        }
        // A part that has emptied gives its memory back.
        if part.is_empty() {
            *part = HashTable::new();
        }
    }

    /// All entries by cell.
    pub fn iter(&self) -> impl Iterator<Item = Seen<'_>> {
        self.cells.iter().map(|entry| Seen { entry, table: self })
    }

    /// All cells in use are below this.
    pub fn cell_count(&self) -> usize {
        self.cells.numbers()
    }

    /// Bytes taken.
    pub fn memory(&self) -> usize {
        let index: usize = self.index.iter().map(HashTable::allocation_size).sum();
        index + self.cells.memory() + self.wide.memory() + self.many.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        // A million of them are the bulk of a full table's memory.
        assert_eq!((size_of::<Path>(), size_of::<Option<Entry>>()), (16, 32));
        assert!(size_of::<Option<Many>>() <= 96, "{}", size_of::<Option<Many>>());
    }

    #[test]
    fn slots_are_found_kept_and_used_again() {
        let mut table = Table::new();
        let p = |i: u32| match i % 3 {
            0 => Prefix::new(std::net::Ipv6Addr::from_bits(u128::from(i) << 80).into(), 48),
            _ => Prefix::new(std::net::Ipv4Addr::from_bits(i << 8).into(), 24),
        };
        let slots: Vec<Slot> = (0..3000).map(|i| table.find_or_insert(&p(i))).collect();
        assert_eq!(table.find_or_insert(&p(7)), slots[7]);
        table.remove(slots[7]);
        assert_eq!((table.find(&p(7)), table.len()), (None, 2999));
        assert_eq!(table.find_or_insert(&p(5000)), slots[7], "a free slot is used again");
        for i in (0..3000).filter(|i| *i != 7) {
            assert_eq!(table.find(&p(i)), Some(slots[i as usize]));
            assert_eq!(table.get(slots[i as usize]).unwrap().prefix(), p(i));
        }
        assert_eq!(table.iter().count(), 3000);
        for slot in &slots {
            table.remove(*slot);
        }
        assert_eq!((table.memory(), table.len()), (0, 0));
    }
}
