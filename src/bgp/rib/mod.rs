//! The routing table: what every peer sent (Adj-RIB-In, before policy), the best path and the
//! multipath set of each prefix (Loc-RIB), and what groups of like peers are sent (Adj-RIB-Out).
//!
//! One owner feeds a [`Rib`] with updates and then asks it to [`Rib::decide`]; the changes go to
//! each [`Group`] and to forwarding, in batches. Nothing here knows sessions or the kernel: whether
//! a next hop can be reached comes in as a function.
//!
//! Attribute sets are interned, so within this module equal attributes are the same allocation.
//! Each prefix waits for a decision at most once however often it changes, so nothing queues up.

mod decision;
mod explain;
mod export;
mod group;
mod interner;
mod pack;
mod peers;
mod table;
#[cfg(test)]
mod tests;

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
use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use crate::bgp::attrs::Attrs;
use crate::bgp::policy::Reject;
use crate::net::{Family, Prefix};
use decision::{Candidate, Candidates};
use interner::Interner;
use peers::Peer;
use table::{Entry, More, Slot, Table};

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

/// Since when a path waits to be sent again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Age {
    /// It does not
    #[default]
    Fresh,
    /// Since the last restart or refresh of its peer
    Stale,
    /// Since an earlier restart
    Older,
}

/// A path as a peer sent it.
#[derive(Clone, Debug)]
pub struct Path {
    raw: Arc<Attrs>,
    imported: Option<Arc<Attrs>>,
    peer: PeerId,
    /// Says nothing where `imported` is there
    reject: Reject,
    age: Age,
}

impl Path {
    /// Who sent it.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Attributes before import policy.
    pub fn raw(&self) -> &Arc<Attrs> {
        &self.raw
    }

    /// Attributes after import policy, or why it was rejected.
    pub fn imported(&self) -> Result<&Arc<Attrs>, Reject> {
        self.imported.as_ref().ok_or(self.reject)
    }

    /// Whether it is kept from before a restart or refresh and was not sent again yet.
    pub fn is_stale(&self) -> bool {
        self.age != Age::Fresh
    }

    fn new(peer: PeerId, raw: Arc<Attrs>, imported: Result<Arc<Attrs>, Reject>) -> Self {
        let (imported, reject) = match imported {
            Ok(attrs) => (Some(attrs), Reject::PolicyNone),
            Err(reject) => (None, reject),
        };
        Self { raw, imported, peer, reject, age: Age::Fresh }
    }

    fn same_import(&self, other: &Self) -> bool {
        match (&self.imported, &other.imported) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
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
    pub backup: &'a [Chosen],
    /// All paths, one a peer, in no particular order
    pub paths: &'a [Path],
}

/// Sizes of the table.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Prefixes with at least one path, accepted or not
    pub prefixes: usize,
    /// Prefixes with a best path, per family: IPv4, IPv6
    pub selected: [usize; 2],
    /// Paths, accepted or not
    pub paths: usize,
    /// Distinct attribute sets
    pub attribute_sets: usize,
    /// Bytes taken, estimated
    pub memory: usize,
}

/// The routing table.
#[derive(Debug)]
pub struct Rib {
    table: Table,
    interner: Interner,
    peers: HashMap<PeerId, Peer, RandomState>,
    /// Entries with their `dirty` mark, in the order they got it
    dirty: VecDeque<Slot>,
    /// Peers that changed their identity or went away since the last decision
    settling: Vec<PeerId>,
    /// Paths, kept up with every change
    paths: usize,
    /// Prefixes with a best path
    selected: [usize; 2],
    /// Paths removed since attribute sets were last purged
    removed: usize,
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
            interner: Interner::new(),
            peers: HashMap::default(),
            dirty: VecDeque::new(),
            settling: Vec::new(),
            paths: 0,
            selected: [0; 2],
            removed: 0,
        }
    }

    /// Announces a prefix of this node's own: a subnet, or a configured announcement.
    pub fn originate(&mut self, prefix: Prefix, attrs: Attrs) {
        let attrs = self.interner.intern(&Arc::new(attrs));
        let slot = self.table.find_or_insert(&prefix);
        let Some(entry) = self.table.get_mut(slot) else { return };
        let path = Path::new(PeerId::LOCAL, attrs.clone(), Ok(attrs));
        match entry.paths.iter_mut().find(|p| p.peer == PeerId::LOCAL) {
            Some(old) if old.same_import(&path) => return,
            Some(old) => *old = path,
            None => {
                entry.paths.push(path);
                self.paths += 1;
            }
        }
        touch(entry, slot, &mut self.dirty);
    }

    /// Takes an own prefix back; false if it was none.
    pub fn unoriginate(&mut self, prefix: &Prefix) -> bool {
        let Some(slot) = self.table.find(prefix) else { return false };
        let Some(entry) = self.table.get_mut(slot) else { return false };
        let Some(i) = entry.paths.iter().position(|p| p.peer == PeerId::LOCAL) else { return false };
        entry.paths.swap_remove(i);
        self.paths -= 1;
        self.removed += 1;
        touch(entry, slot, &mut self.dirty);
        true
    }

    /// Whether next hops among these became reachable, unreachable or changed their metric: routes
    /// through them wait for a decision.
    pub fn next_hops_changed(&mut self, changed: &[IpAddr]) {
        let changed: HashSet<IpAddr, RandomState> = changed.iter().copied().collect();
        for (slot, entry) in self.table.iter_mut() {
            let uses = |p: &Path| p.imported.as_ref().is_some_and(|attrs| changed.contains(&attrs.next_hop));
            if entry.paths.iter().any(uses) {
                touch(entry, slot, &mut self.dirty);
            }
        }
    }

    /// All routes wait for a decision: for a new limit of multipath.
    pub fn touch_all(&mut self) {
        for (slot, entry) in self.table.iter_mut() {
            touch(entry, slot, &mut self.dirty);
        }
    }

    /// Whether no prefix waits for a decision.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Decides for prefixes that wait, about `limit` at most, and appends what changed to `changes`,
    /// each prefix once. Call it until the table [is settled](Self::is_settled).
    pub fn decide(&mut self, next_hops: NextHops<'_>, selection: Selection, limit: usize, changes: &mut Vec<Change>) {
        let mut metrics = Metrics::new(next_hops);
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..dirty.len().min(limit)) {
            let Some(entry) = self.table.get_mut(slot) else { continue };
            entry.dirty = false;
            if let Some(change) = reselect(entry, &self.peers, &mut metrics, selection) {
                let selected = &mut self.selected[change.prefix.family() as usize];
                *selected = *selected + usize::from(change.now.is_some()) - usize::from(change.was.is_some());
                changes.push(change);
            }
            if entry.paths.is_empty() {
                self.table.remove(slot);
            }
        }
        self.dirty = dirty;
        if self.dirty.is_empty() {
            self.settle();
        }
        if self.removed > self.interner.len() {
            self.interner.purge();
            self.removed = 0;
        }
    }

    /// What the table holds for a prefix.
    pub fn view(&self, prefix: &Prefix) -> Option<View<'_>> {
        let entry = self.table.get(self.table.find(prefix)?)?;
        Some(self.view_of(entry))
    }

    fn view_of<'a>(&self, entry: &'a Entry) -> View<'a> {
        View {
            prefix: entry.prefix,
            best: self.selected(entry),
            hops: entry.hops(),
            backup: entry.backup(),
            paths: &entry.paths,
        }
    }

    /// The best path of an entry as of the last decision.
    fn selected(&self, entry: &Entry) -> Option<Selected> {
        selected(entry, &self.peers)
    }

    /// The best path of a prefix as of the last decision.
    pub fn selected_at(&self, prefix: &Prefix) -> Option<Selected> {
        self.selected(self.table.get(self.table.find(prefix)?)?)
    }

    /// Best paths in the cells from number `from` on, at most `count` cells.
    fn cells(&self, from: usize, count: usize) -> impl Iterator<Item = Option<(Prefix, Selected)>> {
        self.table.cells(from, count).iter().map(|cell| {
            let entry = cell.as_ref()?;
            Some((entry.prefix, self.selected(entry)?))
        })
    }

    fn cell_count(&self) -> usize {
        self.table.cell_count()
    }

    /// All prefixes, in no particular order: sorting a full table is for whoever shows it.
    pub fn prefixes(&self) -> Vec<Prefix> {
        self.table.iter().map(|entry| entry.prefix).collect()
    }

    /// All prefixes with what the table holds for them, in no particular order.
    pub fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.table.iter().map(|entry| self.view_of(entry))
    }

    /// What one peer sent, in no particular order.
    pub fn paths_of(&self, peer: PeerId) -> impl Iterator<Item = (Prefix, &Path)> {
        self.table.iter().filter_map(move |entry| {
            let path = entry.paths.iter().find(|p| p.peer == peer)?;
            Some((entry.prefix, path))
        })
    }

    /// The prefixes of the table that cover an address, longest first.
    pub fn covering(&self, addr: IpAddr) -> impl Iterator<Item = View<'_>> {
        (0..=Family::of(addr).bits()).rev().filter_map(move |len| self.view(&Prefix::new(addr, len)))
    }

    /// Sizes.
    pub fn stats(&self) -> Stats {
        let set = |attrs: &Arc<Attrs>| {
            // Allocation header and reference counts of the set and its usual three lists.
            size_of::<Attrs>()
                + 32
                + attrs.as_path.as_wire().len()
                + size_of_val(&*attrs.communities)
                + size_of_val(&*attrs.ext_communities)
                + size_of_val(&*attrs.large_communities)
        };
        let heap_paths = self.paths.saturating_sub(self.table.len());
        Stats {
            prefixes: self.table.len(),
            selected: self.selected,
            paths: self.paths,
            attribute_sets: self.interner.len(),
            memory: self.table.memory()
                + 2 * heap_paths * size_of::<Path>()
                + self.interner.iter().map(set).sum::<usize>(),
        }
    }
}

/// Marks an entry for the next decision.
fn touch(entry: &mut Entry, slot: Slot, dirty: &mut VecDeque<Slot>) {
    if !entry.dirty {
        entry.dirty = true;
        dirty.push_back(slot);
    }
}

/// The best path of an entry as of the last decision.
fn selected(entry: &Entry, peers: &HashMap<PeerId, Peer, RandomState>) -> Option<Selected> {
    let attrs = entry.best.clone()?;
    let source = match entry.best_peer {
        PeerId::LOCAL => Source::LOCAL,
        id => peers.get(&id)?.decided(),
    };
    Some(Selected { source, attrs })
}

/// A path as a candidate, if it may be used.
fn candidate<'a>(
    path: &'a Path,
    peers: &HashMap<PeerId, Peer, RandomState>,
    metric: &mut impl FnMut(&Arc<Attrs>) -> Option<u32>,
) -> Option<Candidate<'a>> {
    let attrs = path.imported.as_ref()?;
    if path.peer == PeerId::LOCAL {
        let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        return Some(Candidate { attrs, source: Source::LOCAL, address, metric: 0 });
    }
    let peer = peers.get(&path.peer)?;
    // A path whose next hop can't be reached takes no part (RFC 4271 §9.1.2.1).
    Some(Candidate { attrs, source: peer.source, address: peer.info.address, metric: metric(attrs)? })
}

/// The paths of an entry that may be used.
fn candidates<'a>(
    paths: &'a [Path],
    peers: &HashMap<PeerId, Peer, RandomState>,
    metric: &mut impl FnMut(&Arc<Attrs>) -> Option<u32>,
) -> Candidates<'a> {
    paths.iter().filter_map(|path| candidate(path, peers, metric)).collect()
}

/// Decides for one entry.
fn reselect(
    entry: &mut Entry,
    peers: &HashMap<PeerId, Peer, RandomState>,
    metrics: &mut Metrics<'_>,
    selection: Selection,
) -> Option<Change> {
    let prefix = entry.prefix;
    let metric = &mut |attrs: &Arc<Attrs>| metrics.of(&prefix, attrs);
    let select = |c: &Candidate<'_>| Selected { source: c.source, attrs: c.attrs.clone() };
    let choose = |c: &Candidate<'_>| Chosen { peer: c.source.peer, attrs: c.attrs.clone() };
    let (now, hops, backup): (_, SmallVec<[Chosen; 1]>, SmallVec<[Chosen; 1]>) = match &entry.paths[..] {
        // The usual case needs no election.
        [only] => {
            let now = candidate(only, peers, metric);
            (now.as_ref().map(select), now.iter().map(choose).collect(), SmallVec::new())
        }
        paths => {
            let all = candidates(paths, peers, metric);
            let mut equal = all.clone();
            decision::elect(&mut equal, &mut |_, _| {});
            let hops = decision::multipath(&equal, selection.multipath);
            let rest =
                if selection.backups { decision::backup(&all, &hops, selection.multipath) } else { SmallVec::new() };
            (equal.first().map(select), hops.iter().map(choose).collect(), rest.iter().map(choose).collect())
        }
    };
    let was = selected(entry, peers);
    if was == now && hops == entry.hops() && backup[..] == *entry.backup() {
        return None;
    }
    entry.best_peer = now.as_ref().map_or(PeerId::LOCAL, |s| s.source.peer);
    entry.best = now.as_ref().map(|s| s.attrs.clone());
    entry.more =
        (hops.len() > 1 || !backup.is_empty()).then(|| Box::new(More { hops: hops.to_vec(), backup: backup.to_vec() }));
    Some(Change { prefix: entry.prefix, was, now, hops, backup })
}

/// Metrics of next hops during one decision: one question for each attribute set.
struct Metrics<'a> {
    ask: NextHops<'a>,
    known: HashMap<usize, Option<u32>, RandomState>,
    last: (usize, Option<u32>),
}

impl<'a> Metrics<'a> {
    fn new(ask: NextHops<'a>) -> Self {
        Self { ask, known: HashMap::default(), last: (0, None) }
    }

    fn of(&mut self, prefix: &Prefix, attrs: &Arc<Attrs>) -> Option<u32> {
        if prefix.contains(attrs.next_hop) {
            return (self.ask)(prefix, attrs);
        }
        // The sets can't move or go away meanwhile: the table holds them.
        let key = Arc::as_ptr(attrs) as usize;
        if self.last.0 != key {
            let ask = self.ask;
            self.last = (key, *self.known.entry(key).or_insert_with(|| ask(prefix, attrs)));
        }
        self.last.1
    }
}
