//! The routing table: what every peer sent (Adj-RIB-In, before policy), the best path and the
//! multipath set of each prefix (Loc-RIB), and what groups of like peers are sent (Adj-RIB-Out).
//!
//! One owner feeds a [`Rib`] with updates and then asks it to [`Rib::decide`]; the changes go to
//! each [`Group`] and to forwarding, in batches. Nothing here knows sessions or the kernel: whether
//! a next hop can be reached comes in as a function.
//!
//! Attribute sets are interned, so within this module equal attributes are the same allocation.
//! Each prefix waits for a decision at most once however often it changes, so nothing queues up.

mod cells;
mod decision;
mod explain;
mod export;
mod group;
mod interner;
mod lots;
mod pack;
mod peers;
mod select;
mod slab;
mod table;
#[cfg(test)]
mod tests;
mod walk;

pub use decision::Step;
pub use explain::{Explained, Verdict};
pub use export::ExportSettings;
pub use group::{Drained, Group};
pub use pack::{Audience, Chunk};
pub use peers::{Counters, Outcome, PeerInfo};

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::bgp::attrs::Attrs;
use crate::bgp::policy::Reject;
use crate::net::{Family, Prefix};
use cells::Cells;
use interner::Interner;
use lots::{LotId, Lots};
use peers::Peer;
use table::{Choice, Entry, Seen, Slot, Store, Table};
use walk::{Reason, Walk};

/// Handle of a peer, given by the caller; never used again for another peer.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerId(pub u32);

impl PeerId {
    /// This node, as the sender of what it announces itself.
    pub const LOCAL: Self = Self(u32::MAX);
}

/// How a path came in, as far as it matters for where it may go.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// This node announces it
    Local,
    /// From another AS
    External,
    /// From our AS, by a client of this route reflector (RFC 4456)
    Client,
    /// From our AS otherwise
    Internal,
}

/// The sender of a path.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Source {
    /// The peer
    pub peer: PeerId,
    /// How it came in
    pub kind: Kind,
    /// The peer's BGP identifier
    pub router_id: Ipv4Addr,
}

impl Source {
    /// This node.
    pub const LOCAL: Self = Self { peer: PeerId::LOCAL, kind: Kind::Local, router_id: Ipv4Addr::UNSPECIFIED };
}

/// A best path.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Whose it is
    pub source: Source,
    /// Its attributes, after import policy
    pub attrs: Arc<Attrs>,
}

/// Attributes are interned: the same allocation or not equal.
impl PartialEq for Selected {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && Arc::ptr_eq(&self.attrs, &other.attrs)
    }
}

impl Eq for Selected {}

/// A path that traffic takes, or would take if others failed.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Whose it is
    pub peer: PeerId,
    /// Its attributes, after import policy
    pub attrs: Arc<Attrs>,
}

/// Attributes are interned: the same allocation or not equal.
impl PartialEq for Chosen {
    fn eq(&self, other: &Self) -> bool {
        self.peer == other.peer && Arc::ptr_eq(&self.attrs, &other.attrs)
    }
}

impl Eq for Chosen {}

/// What a decision changed for one prefix: its best path, its multipath set, its backup, or several
/// of them.
#[derive(Clone, Debug)]
pub struct Change {
    /// The prefix
    pub prefix: Prefix,
    /// Best path before
    pub was: Option<Selected>,
    /// Best path now; none: there is no route any more
    pub now: Option<Selected>,
    /// Number of its entry
    cell: u32,
    /// The multipath set now, best first; one path unless multipath is on and others are as good
    pub hops: SmallVec<[Chosen; 1]>,
    /// What would be chosen if `hops` failed, best first: from paths with none of its next hops where
    /// there are any, else from all others. Empty where nothing is left, where backups are not wanted,
    /// and for what this node announces itself
    pub backup: SmallVec<[Chosen; 1]>,
}

/// What a decision chooses for each prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Selection {
    /// Most members of a multipath set, 1 for none
    pub multipath: usize,
    /// Whether to choose a backup too
    pub backups: bool,
}

/// Metric to the next hop of a path to a prefix, `None` if it can't be reached.
///
/// The prefix may matter only where it holds the next hop: a route does not lead to itself.
pub type NextHops<'a> = &'a dyn Fn(&Prefix, &Attrs) -> Option<u32>;

/// A path as a peer sent it.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    raw: &'a Arc<Attrs>,
    imported: Result<&'a Arc<Attrs>, Reject>,
    peer: PeerId,
    stale: bool,
}

impl<'a> Path<'a> {
    /// Who sent it.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Attributes before import policy.
    pub fn raw(&self) -> &'a Arc<Attrs> {
        self.raw
    }

    /// Attributes after import policy, or why it was rejected.
    pub fn imported(&self) -> Result<&'a Arc<Attrs>, Reject> {
        self.imported
    }

    /// Whether it is kept from before a restart or refresh and was not sent again yet.
    pub fn is_stale(&self) -> bool {
        self.stale
    }
}

/// What the table holds for one prefix.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The prefix
    pub prefix: Prefix,
    /// Best path, as of the last decision
    pub best: Option<Selected>,
    /// The multipath set, best first
    pub hops: SmallVec<[Chosen; 1]>,
    /// What would be chosen if it failed
    pub backup: SmallVec<[Chosen; 1]>,
    /// All paths, one a peer, in no particular order
    pub paths: SmallVec<[Path<'a>; 1]>,
}

/// Sizes of the table.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Prefixes with at least one path, accepted or not
    pub prefixes: usize,
    /// Prefixes with a best path, per family: IPv4, IPv6
    pub selected: [usize; 2],
    /// Prefixes with accepted paths, none of which has a next hop that can be reached
    pub unreachable: usize,
    /// Paths, accepted or not
    pub paths: usize,
    /// Distinct attribute sets
    pub attribute_sets: usize,
}

/// The routing table.
#[derive(Debug)]
pub struct Rib {
    table: Table,
    store: Store,
    peers: HashMap<PeerId, Peer, RandomState>,
    /// Entries with their `dirty` mark, in the order they got it
    dirty: VecDeque<Slot>,
    walk: Walk,
    /// Paths that are not dead, kept up with every change
    paths: usize,
    /// Prefixes with a best path
    selected: [usize; 2],
    /// Cells with accepted paths, none of them with a next hop that can be reached
    unreachable: Cells,
}

impl Default for Rib {
    fn default() -> Self {
        Self::new()
    }
}

impl Rib {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            table: Table::new(),
            store: Store { sets: Interner::new(), lots: Lots::new() },
            peers: HashMap::default(),
            dirty: VecDeque::new(),
            walk: Walk::default(),
            paths: 0,
            selected: [0; 2],
            unreachable: Cells::default(),
        }
    }

    /// Announces a prefix of this node's own: a subnet, or a configured announcement.
    pub fn originate(&mut self, prefix: Prefix, attrs: Attrs) {
        let Self { table, store, dirty, paths, .. } = self;
        let set = store.sets.intern(&Arc::new(attrs));
        let slot = table.find_or_insert(&prefix);
        let Some(mut entry) = table.open(slot) else { return };
        let path = table::Path::new(LotId::LOCAL, set, Ok(set));
        store.add(&path);
        if let Some(old) = entry.paths_mut().iter_mut().find(|p| p.lot == LotId::LOCAL) {
            let old = std::mem::replace(old, path);
            store.sub(&old);
            if old.raw == set {
                return;
            }
        } else {
            entry.push(path);
            *paths += 1;
        }
        touch(entry.entry, slot, dirty);
    }

    /// Takes an own prefix back; false if it was none.
    pub fn unoriginate(&mut self, prefix: &Prefix) -> bool {
        let Self { table, store, dirty, paths, .. } = self;
        let Some(slot) = table.find(prefix) else { return false };
        let Some(mut entry) = table.open(slot) else { return false };
        let Some(i) = entry.paths().iter().position(|p| p.lot == LotId::LOCAL) else { return false };
        if let Some(path) = entry.remove(i) {
            store.sub(&path);
            *paths -= 1;
        }
        touch(entry.entry, slot, dirty);
        true
    }

    /// Whether next hops among these became reachable, unreachable or changed their metric: routes
    /// through them wait for a decision.
    pub fn next_hops_changed(&mut self, changed: &[IpAddr]) {
        if !changed.is_empty() {
            self.walk.add(Reason::NextHops(changed.iter().copied().collect()));
        }
    }

    /// All routes wait for a decision: for a new [`Selection`].
    pub fn touch_all(&mut self) {
        self.walk.add(Reason::All);
    }

    /// What the table holds for a prefix.
    pub fn view(&self, prefix: &Prefix) -> Option<View<'_>> {
        Some(self.view_of(self.table.get(self.table.find(prefix)?)?))
    }

    fn view_of<'a>(&'a self, entry: Seen<'a>) -> View<'a> {
        let (hops, backup) = entry.more().map(table::More::split).unwrap_or_default();
        View {
            prefix: entry.prefix(),
            best: self.selected(entry.entry),
            hops: entry.entry.best.iter().chain(hops).map(|choice| self.store.chosen(*choice)).collect(),
            backup: backup.iter().map(|choice| self.store.chosen(*choice)).collect(),
            paths: entry.paths().iter().filter_map(|path| self.store.path(path)).collect(),
        }
    }

    /// The best path of an entry as of the last decision.
    fn selected(&self, entry: &Entry) -> Option<Selected> {
        entry.best.map(|choice| self.store.selected(choice))
    }

    /// The best path of a prefix as of the last decision.
    pub fn selected_at(&self, prefix: &Prefix) -> Option<Selected> {
        self.selected(self.table.get(self.table.find(prefix)?)?.entry)
    }

    /// The prefix in a cell, with its best path as of the last decision.
    pub fn cell(&self, cell: u32) -> Option<(Prefix, Selected)> {
        let seen = self.table.get(Slot(cell))?;
        Some((seen.prefix(), self.selected(seen.entry)?))
    }

    /// All cells in use are below this: what is walked in portions is walked by cell.
    pub fn cell_count(&self) -> usize {
        self.table.cell_count()
    }

    /// All prefixes, in no particular order: sorting a full table is for whoever shows it.
    pub fn prefixes(&self) -> Vec<Prefix> {
        self.table.iter().map(|entry| entry.prefix()).collect()
    }

    /// All prefixes with what the table holds for them, in no particular order.
    pub fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.table.iter().map(|entry| self.view_of(entry))
    }

    /// What one peer sent, in no particular order.
    pub fn paths_of(&self, peer: PeerId) -> impl Iterator<Item = (Prefix, Path<'_>)> {
        self.table.iter().filter_map(move |entry| {
            let path = entry.paths().iter().filter_map(|path| self.store.path(path)).find(|p| p.peer == peer)?;
            Some((entry.prefix(), path))
        })
    }

    /// The prefixes of the table that cover an address, longest first.
    pub fn covering(&self, addr: IpAddr) -> impl Iterator<Item = View<'_>> {
        (0..=Family::of(addr).bits()).rev().filter_map(move |len| self.view(&Prefix::new(addr, len)))
    }

    /// Every distinct set of attributes, before and after import policy: far fewer than there are
    /// paths. Some may be of paths that were rejected.
    pub fn attribute_sets(&self) -> impl Iterator<Item = &Attrs> {
        self.store.sets.iter().map(|attrs| &**attrs)
    }

    /// Sizes. Their cost doesn't grow with the table.
    pub fn stats(&self) -> Stats {
        Stats {
            prefixes: self.table.len(),
            selected: self.selected,
            unreachable: self.unreachable.len(),
            paths: self.paths,
            attribute_sets: self.store.sets.len(),
        }
    }

    /// Bytes taken, estimated by a walk over all sets of attributes.
    pub fn memory(&self) -> usize {
        let set = |attrs: &Arc<Attrs>| {
            // Allocation header and reference counts of the set and its usual three lists.
            size_of::<Attrs>()
                + 32
                + attrs.as_path.as_wire().len()
                + size_of_val(&*attrs.communities)
                + size_of_val(&*attrs.ext_communities)
                + size_of_val(&*attrs.large_communities)
        };
        self.table.memory() + self.store.sets.memory() + self.store.sets.iter().map(set).sum::<usize>()
    }
}

impl Store {
    /// A path as others see it, unless it is dead.
    fn path(&self, path: &table::Path) -> Option<Path<'_>> {
        let lot = Some(&self.lots[path.lot]).filter(|lot| lot.is_live())?;
        let imported = path.imported.map(|set| self.sets.attrs(set)).ok_or(path.reject);
        Some(Path { raw: self.sets.attrs(path.raw), imported, peer: lot.source.peer, stale: lot.is_stale() })
    }

    fn chosen(&self, choice: Choice) -> Chosen {
        Chosen { peer: self.lots[choice.lot].source.peer, attrs: self.sets.attrs(choice.set).clone() }
    }

    fn selected(&self, choice: Choice) -> Selected {
        Selected { source: self.lots[choice.lot].source, attrs: self.sets.attrs(choice.set).clone() }
    }
}

/// Marks an entry for the next decision.
fn touch(entry: &mut Entry, slot: Slot, dirty: &mut VecDeque<Slot>) {
    if !entry.dirty {
        entry.dirty = true;
        dirty.push_back(slot);
    }
}
