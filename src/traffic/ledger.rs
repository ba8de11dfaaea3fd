//! What the kernel's counters add up to, by node, in series that never go back.
//!
//! A node's total has two parts: what it counted while it had series of its own, and what it counted while
//! it was among the others. One of them grows at a time; the other stands still, so that the node may come
//! and go among the largest without any sum going back or leaping. What an element of the kernel has counted
//! is *settled* into the part that grew, up to the value that it had, whenever something about it changes:
//! the part, the node, or the element itself, which may go or be found at less than before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::{Count, Counts, OTHER, Reading, Set};
use crate::net::{Family, Prefix};

/// Prefixes that are counted at most, besides the two that take the rest.
pub const MOST: usize = 4096;
/// How long a prefix is counted on that nobody has any more. Most come back, such as those of a peer that
/// restarts.
const HOLD: Duration = Duration::from_secs(600);
/// A node outside takes the place of one of the largest if its traffic is that many times as large.
const CLEARLY: u64 = 2;

/// A remote node, or next hop.
#[derive(Debug)]
struct Node {
    name: Arc<str>,
    /// Counted while it had series of its own, and settled
    own: Counts,
    /// The same among the others
    other: Counts,
    /// It has series of its own
    shown: bool,
    /// Bytes when last ranked
    ranked: Option<u64>,
    /// Bytes of late, older ones counting ever less
    recent: u64,
    /// Its elements
    prefixes: usize,
    /// Since when another has the last of them
    gone: Option<Instant>,
}

/// Bytes of late and number of a node.
type Ranked = (u64, usize);

/// What the kernel has of a prefix.
#[derive(Debug, Default)]
struct Element {
    /// Number of the node; none: what belongs to nobody
    node: Option<usize>,
    /// As last read
    value: Counts,
    /// As much of it is in the parts of a node
    settled: Counts,
    /// Since when nobody has it
    gone: Option<Instant>,
    /// Sets in which it was found by the reading under way
    found: u8,
}

/// What the kernel's counters add up to.
#[derive(Debug, Default)]
pub struct Ledger {
    nodes: Vec<Option<Node>>,
    names: BTreeMap<Arc<str>, usize>,
    elements: HashMap<Prefix, Element, RandomState>,
    /// What nobody's elements, and nodes that are gone, have counted among the others
    retired: Counts,
    /// Nodes that may have series of their own
    top: usize,
    /// Prefixes for which there is no room
    beyond: usize,
    /// Something is other than when last kept
    dirty: bool,
}

/// How the kernel's elements differ from those that should be there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// Prefixes that lack an element in some set, sorted
    pub missing: Vec<Prefix>,
    /// Elements that should not be there, sorted
    pub extra: Vec<Reading>,
}

/// The total of a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Total {
    /// Its name, or address
    pub name: Arc<str>,
    /// It has series of its own
    pub shown: bool,
    /// What these show, or would
    pub own: Counts,
    /// What it has counted among the others
    pub other: Counts,
}

/// All totals.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// By name
    pub nodes: Vec<Total>,
    /// What all without series of their own have counted, and what those that have counted before
    pub other: Counts,
    /// Of that, what belongs to no node, those that are gone among it
    pub unmatched: Counts,
}

/// What is kept on disk.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Number of the kernel's table that the rest is about
    pub table: u64,
    retired: Counts,
    nodes: Vec<KeptNode>,
    prefixes: Vec<KeptPrefix>,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct KeptNode {
    name: String,
    shown: bool,
    own: Counts,
    other: Counts,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct KeptPrefix {
    prefix: Prefix,
    /// Place in the list of nodes
    node: Option<usize>,
    settled: Counts,
}

impl Ledger {
    /// Nothing counted yet; so many nodes may have series of their own.
    pub fn new(top: usize) -> Self {
        Self { top, ..Self::default() }
    }

    /// As it was kept, with what the kernel has counted since; none: what was kept contradicts itself.
    pub fn from_kept(kept: Kept, top: usize, readings: &[Reading]) -> Option<Self> {
        let mut ledger = Self { retired: kept.retired, ..Self::new(top) };
        for KeptNode { name, shown, own, other } in kept.nodes {
            let at = ledger.nodes.len();
            let name: Arc<str> = name.into();
            if ledger.names.insert(Arc::clone(&name), at).is_some() {
                return None;
            }
            ledger.nodes.push(Some(Node { name, own, other, shown, ranked: None, recent: 0, prefixes: 0, gone: None }));
        }
        for KeptPrefix { prefix, node, settled } in kept.prefixes {
            if let Some(at) = node {
                ledger.nodes.get_mut(at)?.as_mut()?.prefixes += 1;
            }
            let element = Element { node, value: settled, settled, ..Element::default() };
            if ledger.elements.insert(prefix, element).is_some() {
                return None;
            }
        }
        // Before anything changes: what was counted was shown in the series of before.
        ledger.read(readings);
        Some(ledger)
    }

    /// To be kept, if it is other than when last asked. Must be on disk before anything of it is shown or done.
    pub fn to_keep(&mut self, table: u64) -> Option<Kept> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let mut places = vec![None; self.nodes.len()];
        let mut nodes = Vec::with_capacity(self.names.len());
        for at in self.names.values() {
            let Some(node) = self.nodes.get(*at).and_then(Option::as_ref) else { continue };
            if let Some(place) = places.get_mut(*at) {
                *place = Some(nodes.len());
            }
            nodes.push(KeptNode { name: node.name.to_string(), shown: node.shown, own: node.own, other: node.other });
        }
        let place = |node: Option<usize>| node.and_then(|at| places.get(at).copied().flatten());
        let mut prefixes: Vec<KeptPrefix> = self
            .elements
            .iter()
            .map(|(prefix, element)| KeptPrefix {
                prefix: *prefix,
                node: place(element.node),
                settled: element.settled,
            })
            .collect();
        prefixes.sort_unstable_by_key(|kept| kept.prefix);
        Some(Kept { table, retired: self.retired, nodes, prefixes })
    }

    /// It could not be kept: it is asked for again.
    pub fn not_kept(&mut self) {
        self.dirty = true;
    }

    /// What is to be counted: prefixes of nodes, and in these families the rest. `known`: what is not among
    /// them is really gone, rather than not heard of yet. Answers with the elements to remove from the kernel,
    /// sorted; each is to be told to [`Self::removed`]. What is to be added is missing at the next reading.
    pub fn want(
        &mut self,
        now: Instant,
        wanted: &BTreeMap<Prefix, Arc<str>>,
        rest: impl Fn(Family) -> bool,
        known: bool,
    ) -> Vec<Prefix> {
        let mut remove = self.follow(now, wanted, known);
        let new: Vec<(Prefix, &Arc<str>)> = wanted
            .iter()
            .filter(|(prefix, _)| !self.elements.contains_key(*prefix))
            .map(|(p, name)| (*p, name))
            .collect();
        self.beyond = self.make_room(new.len(), &mut remove);
        let places = new.len() - self.beyond;
        for (prefix, name) in new.into_iter().take(places) {
            let at = self.node(name);
            self.insert(prefix, Some(at));
        }
        for family in Family::ALL {
            let prefix = Prefix::default_route(family);
            match (rest(family), self.elements.contains_key(&prefix)) {
                (true, false) => self.insert(prefix, None),
                (false, true) if !wanted.contains_key(&prefix) => remove.push(prefix),
                _ => {}
            }
        }
        remove.sort_unstable();
        remove.dedup();
        for prefix in &remove {
            // What is on disk before an element goes must have all of it.
            self.settle(*prefix);
        }
        self.sweep(|node| now.saturating_duration_since(*node.gone.get_or_insert(now)) >= HOLD);
        self.fill();
        remove
    }

    /// Follows known prefixes to whom they belong now; which of them may go.
    fn follow(&mut self, now: Instant, wanted: &BTreeMap<Prefix, Arc<str>>, known: bool) -> Vec<Prefix> {
        let (mut moved, mut remove) = (Vec::new(), Vec::new());
        for (prefix, element) in &mut self.elements {
            let name = |at: usize| self.nodes.get(at).and_then(Option::as_ref).map(|node| &node.name);
            match wanted.get(prefix) {
                Some(to) => {
                    element.gone = None;
                    if element.node.and_then(name) != Some(to) {
                        moved.push((*prefix, Arc::clone(to)));
                    }
                }
                None if element.node.is_none() => {}
                None => {
                    let since = *element.gone.get_or_insert(now);
                    if known && now.saturating_duration_since(since) >= HOLD {
                        remove.push(*prefix);
                    }
                }
            }
        }
        for (prefix, to) in moved {
            self.settle(prefix);
            let at = self.node(&to);
            let Some(element) = self.elements.get_mut(&prefix) else { continue };
            let from = element.node.replace(at);
            self.count_prefix(at, true);
            if let Some(from) = from {
                self.count_prefix(from, false);
            }
            self.dirty = true;
        }
        remove
    }

    /// Has prefixes go that nobody has, the longest gone first, if others need their room; how many of those
    /// have none all the same.
    fn make_room(&self, new: usize, remove: &mut Vec<Prefix>) -> usize {
        let nobody = Family::ALL.map(Prefix::default_route);
        remove.sort_unstable();
        let stays = |prefix: &Prefix| remove.binary_search(prefix).is_err();
        let taken = self.elements.keys().filter(|prefix| !nobody.contains(prefix) && stays(prefix)).count();
        let lacking = (taken + new).saturating_sub(MOST);
        if lacking == 0 {
            return 0;
        }
        let mut idle: Vec<(Instant, Prefix)> = self
            .elements
            .iter()
            .filter(|(prefix, _)| stays(prefix))
            .filter_map(|(prefix, element)| Some((element.gone?, *prefix)))
            .collect();
        idle.sort_unstable();
        idle.truncate(lacking);
        remove.extend(idle.iter().map(|(_, prefix)| *prefix));
        lacking - idle.len()
    }

    fn insert(&mut self, prefix: Prefix, node: Option<usize>) {
        if let Some(at) = node {
            self.count_prefix(at, true);
        }
        self.elements.insert(prefix, Element { node, ..Element::default() });
        self.dirty = true;
    }

    /// Number of the node of this name, which may be new.
    fn node(&mut self, name: &Arc<str>) -> usize {
        if let Some(at) = self.names.get(name) {
            return *at;
        }
        let node = Node {
            name: Arc::clone(name),
            own: Counts::default(),
            other: Counts::default(),
            shown: false,
            ranked: None,
            recent: 0,
            prefixes: 0,
            gone: None,
        };
        let at = self.nodes.iter().position(Option::is_none).unwrap_or(self.nodes.len());
        if at == self.nodes.len() {
            self.nodes.push(None);
        }
        if let Some(place) = self.nodes.get_mut(at) {
            *place = Some(node);
        }
        self.names.insert(Arc::clone(name), at);
        at
    }

    fn count_prefix(&mut self, at: usize, more: bool) {
        if let Some(node) = self.nodes.get_mut(at).and_then(Option::as_mut) {
            node.prefixes = if more { node.prefixes + 1 } else { node.prefixes.saturating_sub(1) };
            node.gone = node.gone.filter(|_| !more);
        }
    }

    /// Nodes without prefixes go, and their series with them; what they have counted among the others stays
    /// there. Not before all is in its new place: two nodes may have changed theirs.
    fn sweep(&mut self, mut may_go: impl FnMut(&mut Node) -> bool) {
        for place in &mut self.nodes {
            if let Some(node) = place.take_if(|node| node.prefixes == 0 && may_go(node)) {
                self.retired += node.other;
                self.names.remove(&node.name);
                self.dirty = true;
            }
        }
    }

    /// Books what an element has counted.
    fn settle(&mut self, prefix: Prefix) {
        let Some(element) = self.elements.get_mut(&prefix) else { return };
        let open = element.value - element.settled;
        if open == Counts::default() {
            return;
        }
        element.settled = element.value;
        *part(&mut self.nodes, &mut self.retired, element.node) += open;
        self.dirty = true;
    }

    fn settle_all(&mut self) {
        for prefix in self.elements.keys().copied().collect::<Vec<_>>() {
            self.settle(prefix);
        }
    }

    /// The kernel has removed an element, which had counted so much at last.
    pub fn removed(&mut self, prefix: Prefix, last: &[(Set, Count)]) {
        for (set, count) in last {
            self.take(&Reading { set: *set, addr: prefix.addr(), count: *count });
        }
        self.settle(prefix);
        if let Some(element) = self.elements.remove(&prefix) {
            self.dirty = true;
            if let Some(at) = element.node {
                self.count_prefix(at, false);
            }
        }
        // Its prefix was held for it as long, or had to make room.
        self.sweep(|node| node.gone.is_none());
    }

    /// Takes in what all elements of the kernel have counted.
    pub fn read(&mut self, readings: &[Reading]) -> Found {
        let mut extra: Vec<Reading> = readings.iter().filter(|reading| !self.take(reading)).copied().collect();
        extra.sort_unstable_by_key(|reading| (reading.set, reading.addr));
        let found = |(prefix, element): (&Prefix, &mut Element)| {
            let whole = usize::from(std::mem::take(&mut element.found)) >= Set::of(*prefix).count();
            (!whole).then_some(*prefix)
        };
        let mut missing: Vec<Prefix> = self.elements.iter_mut().filter_map(found).collect();
        missing.sort_unstable();
        Found { missing, extra }
    }

    /// Takes in what an element of the kernel has counted; false: there should be none.
    fn take(&mut self, reading: &Reading) -> bool {
        let prefix = reading.prefix();
        // The rules ask for the network's own address alone: another inside it stands for nothing.
        let Some(element) = self.elements.get_mut(&prefix).filter(|_| prefix.addr() == reading.addr) else {
            return false;
        };
        let of = (reading.set.direction, reading.set.path);
        element.found = element.found.saturating_add(1);
        let before = element.value[of];
        if reading.count.packets < before.packets || reading.count.bytes < before.bytes {
            // It is another, or was set back: what it had is booked, and it begins again.
            let open = before - element.settled[of];
            part(&mut self.nodes, &mut self.retired, element.node)[of] += open;
            element.settled[of] = Count::default();
            self.dirty = true;
        }
        element.value[of] = reading.count;
        true
    }

    /// The kernel has lost these elements, or never had them: what they had is booked, and they begin again.
    pub fn lost(&mut self, prefixes: impl IntoIterator<Item = Prefix>) {
        for prefix in prefixes {
            self.settle(prefix);
            if let Some(element) = self.elements.get_mut(&prefix)
                && element.value != Counts::default()
            {
                (element.value, element.settled) = Default::default();
                self.dirty = true;
            }
        }
    }

    /// So many nodes may have series of their own.
    pub fn set_top(&mut self, top: usize) {
        self.top = top;
        self.fill();
    }

    /// Ranks the nodes by their traffic of late; to be called now and then, always after the same time.
    pub fn rank(&mut self) {
        let totals = self.totals();
        for total in &totals.nodes {
            let bytes = total.own.bytes() + total.other.bytes();
            let Some(node) = self.names.get(&total.name).and_then(|at| self.nodes.get_mut(*at)?.as_mut()) else {
                continue;
            };
            let new = bytes.saturating_sub(node.ranked.replace(bytes).unwrap_or(bytes));
            node.recent = node.recent / 2 + new / 2;
        }
        let mut changes = Vec::new();
        let (shown, hidden) = self.ranked();
        for ((small, out), (large, into)) in shown.into_iter().rev().zip(hidden) {
            if large <= small.saturating_mul(CLEARLY) {
                break;
            }
            changes.extend([(out, false), (into, true)]);
        }
        self.turn(&changes);
    }

    /// Gives places that are free to the largest, and takes away those that are too many.
    fn fill(&mut self) {
        let (shown, hidden) = self.ranked();
        let free = self.top.saturating_sub(shown.len());
        let out = shown.iter().skip(self.top).map(|(_, at)| (*at, false));
        let into = hidden.iter().take(free).map(|(_, at)| (*at, true));
        let changes: Vec<(usize, bool)> = out.chain(into).collect();
        self.turn(&changes);
    }

    /// Those with series of their own, and those without; the largest of late first, by name among equals.
    fn ranked(&self) -> (Vec<Ranked>, Vec<Ranked>) {
        let nodes = self.names.values().filter_map(|at| Some((*at, self.nodes.get(*at)?.as_ref()?)));
        let (mut shown, mut hidden) = (Vec::new(), Vec::new());
        // One that is called as the rest is, is one of them.
        for (at, node) in nodes.filter(|(_, node)| &*node.name != OTHER) {
            if node.shown { &mut shown } else { &mut hidden }.push((node.recent, at));
        }
        for list in [&mut shown, &mut hidden] {
            list.sort_by_key(|(recent, _)| std::cmp::Reverse(*recent));
        }
        (shown, hidden)
    }

    fn turn(&mut self, changes: &[(usize, bool)]) {
        if changes.is_empty() {
            return;
        }
        self.settle_all();
        for (at, shown) in changes {
            if let Some(node) = self.nodes.get_mut(*at).and_then(Option::as_mut) {
                node.shown = *shown;
            }
        }
        self.dirty = true;
    }

    /// All totals as of the last reading.
    pub fn totals(&self) -> Totals {
        let mut open = vec![Counts::default(); self.nodes.len()];
        let mut unmatched = self.retired;
        for element in self.elements.values() {
            let sum = element.node.and_then(|at| open.get_mut(at)).unwrap_or(&mut unmatched);
            *sum += element.value - element.settled;
        }
        let mut totals = Totals { nodes: Vec::with_capacity(self.names.len()), other: unmatched, unmatched };
        for at in self.names.values() {
            let Some(node) = self.nodes.get(*at).and_then(Option::as_ref) else { continue };
            let (mut own, mut other) = (node.own, node.other);
            *(if node.shown { &mut own } else { &mut other }) += open.get(*at).copied().unwrap_or_default();
            totals.other += other;
            totals.nodes.push(Total { name: Arc::clone(&node.name), shown: node.shown, own, other });
        }
        totals
    }

    /// Every prefix that is counted, with its node, sorted; none: what belongs to nobody.
    pub fn prefixes(&self) -> Vec<(Prefix, Option<Arc<str>>)> {
        let name = |at: usize| self.nodes.get(at).and_then(Option::as_ref).map(|node| Arc::clone(&node.name));
        let elements = self.elements.iter();
        let mut all: Vec<_> = elements.map(|(prefix, element)| (*prefix, element.node.and_then(name))).collect();
        all.sort_unstable_by_key(|(prefix, _)| *prefix);
        all
    }

    /// Families and lengths of all of them.
    pub fn lengths(&self) -> BTreeSet<(Family, u8)> {
        self.elements.keys().map(|prefix| (prefix.family(), prefix.len())).collect()
    }

    /// Prefixes for which there was no room.
    pub fn beyond(&self) -> usize {
        self.beyond
    }
}

/// Where what an element counts is booked.
fn part<'a>(nodes: &'a mut [Option<Node>], retired: &'a mut Counts, node: Option<usize>) -> &'a mut Counts {
    match node.and_then(|at| nodes.get_mut(at)?.as_mut()) {
        Some(node) if node.shown => &mut node.own,
        Some(node) => &mut node.other,
        None => retired,
    }
}
