//! Adj-RIB-Out: what a group of like peers is sent.
//!
//! A group remembers no routes. What it was sent follows from the best path before a change and its
//! settings, what it is to be sent from the best path now; both stand in the [`Change`]. So a
//! group costs no memory per route, and each route is encoded once for all members.
//!
//! A member is *synced* and gets that shared stream, or it is behind: it has just come, asked for
//! a refresh, or its queue was full. Then it walks the table, or catches up with a set of entries, at
//! its own pace through [`Group::drain`], always with the newest state. Nothing queues up: a
//! prefix that changes a thousand times meanwhile is in the set once. The set is a bit for each entry,
//! and the prefixes that may have none any more.

use std::collections::BTreeMap;

use ahash::RandomState;
use bytes::Bytes;
use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};

use super::cells::Cells;
use super::export::ExportSettings;
use super::pack::{Audience, CHUNK, Chunk, Packer, Told};
use super::{Change, PeerId, Rib, Selected};
use crate::bgp::attrs::Attrs;
use crate::bgp::policy::Offer;
use crate::net::{Family, PerFamily, Prefix};

/// Cells of the table that one [`Group::drain`] looks at, at most: most of a table may be nothing for
/// this member.
const WALK: usize = 1 << 16;

/// Peers with equal export settings.
#[derive(Debug)]
pub struct Group {
    settings: ExportSettings,
    members: BTreeMap<PeerId, Member>,
    /// The same, to ask quickly
    known: HashSet<PeerId, RandomState>,
    /// Routes that the group gets, of the cells below `counted`
    exported: usize,
    /// Those by sender: the sender itself does not get them
    exported_from: HashMap<PeerId, usize, RandomState>,
    /// All cells below this have been counted; the first walk of a member counts the rest
    counted: usize,
    untold: u64,
}

/// How far behind a member is; all empty: not at all.
#[derive(Debug, Default)]
struct Member {
    walk: Option<Walk>,
    /// Entries that have changed
    cells: Cells,
    /// Prefixes to look up to be sent next
    queue: Vec<Prefix>,
    /// To come after `queue`: withdrawn since it was made
    gone: HashSet<Prefix, RandomState>,
}

/// A walk over the whole table.
#[derive(Clone, Copy, Debug)]
struct Walk {
    next: usize,
    families: PerFamily<bool>,
}

impl Member {
    fn is_synced(&self) -> bool {
        self.walk.is_none() && self.cells.is_empty() && self.queue.is_empty() && self.gone.is_empty()
    }

    /// The next prefix to catch up with, its cell if that is known, and its best path.
    fn next(&mut self, rib: &Rib) -> Option<(Prefix, Option<Selected>)> {
        if self.queue.is_empty() && !self.gone.is_empty() {
            self.queue = std::mem::take(&mut self.gone).into_iter().collect();
        }
        if let Some(prefix) = self.queue.pop() {
            return Some((prefix, rib.selected_at(&prefix)));
        }
        // A cell that is empty by now was among those that are gone.
        while let Some(cell) = self.cells.pop() {
            if let Some((prefix, route)) = rib.cell(cell) {
                return Some((prefix, Some(route)));
            }
        }
        None
    }

    /// It can't be told of a change.
    fn miss(&mut self, change: &Change) {
        match (&change.was, &change.now) {
            (_, None) => drop(self.gone.insert(change.prefix)),
            // The walk gets there yet, and there is nothing to be taken back.
            (None, Some(_)) if self.walk.is_some_and(|walk| walk.is_before(change)) => {}
            (_, Some(_)) => self.cells.insert(change.cell),
        }
    }

    /// An entry goes whose last path was not for it: an earlier one may have been.
    fn keep_owed(&mut self, change: &Change) {
        if self.cells.take(change.cell) {
            self.gone.insert(change.prefix);
        }
    }
}

impl Walk {
    /// Whether it will come to the entry of a change.
    fn is_before(&self, change: &Change) -> bool {
        self.next <= change.cell as usize && self.families[change.prefix.family()]
    }
}

/// What [`Group::drain`] gave out.
#[derive(Clone, Debug, Default)]
pub struct Drained {
    /// Whole messages; may be empty though the member is not synced yet
    pub bytes: Bytes,
    /// The walk over the table has just come to its end: time for End-of-RIB, or for the end of a
    /// refresh
    pub walked: bool,
    /// The member is synced now and gets what [`Group::export`] returns from now on
    pub synced: bool,
}

impl Group {
    /// A group with no members.
    pub fn new(settings: ExportSettings) -> Self {
        Self {
            settings,
            members: BTreeMap::new(),
            known: HashSet::default(),
            exported: 0,
            exported_from: HashMap::default(),
            counted: 0,
            untold: 0,
        }
    }

    /// What the members have in common.
    pub fn settings(&self) -> &ExportSettings {
        &self.settings
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = PeerId> {
        self.members.keys().copied()
    }

    /// Whether nobody is in the group.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The members that get what [`Group::export`] returns.
    pub fn synced(&self) -> impl Iterator<Item = PeerId> {
        self.members.iter().filter(|(_, member)| member.is_synced()).map(|(id, _)| *id)
    }

    /// Whether a member is synced; false if it is none.
    pub fn is_synced(&self, id: PeerId) -> bool {
        self.members.get(&id).is_some_and(Member::is_synced)
    }

    /// A peer joins and is to be sent all. `has`: prefixes that it may hold from us by other
    /// settings ([`Group::offers`], [`Group::owed`]) and that are to be withdrawn where they don't go to this group.
    pub fn join(&mut self, id: PeerId, has: impl IntoIterator<Item = Prefix>) {
        let walk = Some(Walk { next: 0, families: self.settings.families });
        self.known.insert(id);
        self.members.insert(id, Member { walk, gone: has.into_iter().collect(), ..Member::default() });
    }

    /// A peer leaves; false if it was no member.
    pub fn leave(&mut self, id: PeerId) -> bool {
        self.known.remove(&id);
        self.members.remove(&id).is_some()
    }

    /// A member asked for all routes of a family again (RFC 2918).
    pub fn refresh(&mut self, id: PeerId, family: Family) {
        let Some(member) = self.members.get_mut(&id) else { return };
        // A walk under way starts over, for what it was to do as well.
        let mut families = member.walk.map_or(PerFamily::default(), |walk| walk.families);
        families[family] = self.settings.families[family];
        member.walk = Some(Walk { next: 0, families });
    }

    /// A member could not be sent this: it is behind until it has caught up by [`Group::drain`].
    pub fn lag(&mut self, id: PeerId, chunk: &Chunk) {
        let Some(member) = self.members.get_mut(&id) else { return };
        for told in chunk.told(id) {
            match told {
                Told::Cell(cell) => member.cells.insert(cell),
                Told::Gone(prefix) => drop(member.gone.insert(prefix)),
            }
        }
    }

    /// The messages that tell the synced members of changes; for each member take
    /// [`Chunk::bytes_for`]. Give every group every decision's changes, whole, in order, once.
    pub fn export(&mut self, changes: &[Change]) -> Vec<Chunk> {
        let Self { settings, members, known, exported, exported_from, counted, untold } = self;
        let mut behind: Vec<&mut Member> = members.values_mut().filter(|m| !m.is_synced()).collect();
        let anybody_synced = behind.len() < known.len();
        // Never back to where it came from.
        let but = |from: PeerId| if known.contains(&from) { Audience::AllBut(from) } else { Audience::All };

        let mut packer = Packer::new(settings);
        for change in changes {
            let Change { prefix, was, now, cell, .. } = change;
            if was == now {
                continue;
            }
            let item = (*prefix, *cell);
            let old = was.as_ref().and_then(|route| Some((route, packer.offer(prefix, route)?)));
            let new = now.as_ref().and_then(|route| Some((route, packer.offer(prefix, route)?)));
            if (*cell as usize) < *counted {
                if let Some((route, _)) = old {
                    *exported -= 1;
                    if let Entry::Occupied(mut count) = exported_from.entry(route.source.peer) {
                        *count.get_mut() -= 1;
                        if *count.get() == 0 {
                            count.remove();
                        }
                    }
                }
                if let Some((route, _)) = new {
                    *exported += 1;
                    *exported_from.entry(route.source.peer).or_insert(0) += 1;
                }
            }
            if known.is_empty() {
                continue;
            }
            if old.is_none() && new.is_none() {
                if now.is_none() {
                    for member in &mut behind {
                        member.keep_owed(change);
                    }
                }
                continue;
            }
            for member in &mut behind {
                member.miss(change);
            }
            if !anybody_synced {
                continue;
            }
            match (old, new) {
                (None, None) => {}
                (Some((old, _)), None) => packer.withdraw(item, but(old.source.peer)),
                (None, Some((new, edit))) => {
                    let set = packer.set(prefix, new, edit);
                    packer.announce(item, set, but(new.source.peer));
                }
                (Some((old, old_edit)), Some((new, new_edit))) => {
                    let (was, set) = (packer.set(prefix, old, old_edit), packer.set(prefix, new, new_edit));
                    let (old, new) = (old.source.peer, new.source.peer);
                    if !packer.same(was, set) {
                        packer.announce(item, set, but(new));
                    } else if old != new && known.contains(&old) {
                        // Everybody has it already but for the one that it came from until now.
                        packer.announce(item, set, Audience::Only(old));
                    }
                    if old != new && known.contains(&new) {
                        packer.withdraw(item, Audience::Only(new));
                    }
                }
            }
        }
        let (chunks, failed) = packer.finish(CHUNK);
        *untold += failed as u64;
        chunks
    }

    /// The next messages for a member that is behind, about `budget` bytes: the newest state of
    /// prefixes it lacks. It counts them as sent, so make sure first that they can be.
    ///
    /// Call it between decisions whose changes were exported.
    pub fn drain(&mut self, id: PeerId, rib: &Rib, budget: usize) -> Drained {
        let Self { settings, members, exported, exported_from, counted, untold, .. } = self;
        let Some(member) = members.get_mut(&id) else { return Drained::default() };
        let mut packer = Packer::new(settings);
        let mut walked = false;

        // News first, but they may not starve the walk.
        let share = if member.walk.is_some() { budget / 2 } else { budget };
        while packer.estimate < share {
            let Some((prefix, route)) = member.next(rib) else { break };
            let route = route.filter(|route| route.source.peer != id);
            match route.as_ref().and_then(|route| Some((route, packer.offer(&prefix, route)?))) {
                Some((route, edit)) => {
                    let set = packer.set(&prefix, route, edit);
                    packer.announce((prefix, 0), set, Audience::All);
                }
                // Perhaps it never had it; a withdrawal of nothing is no error (RFC 4271 §9).
                None if settings.families[prefix.family()] => packer.withdraw((prefix, 0), Audience::All),
                None => {}
            }
        }
        if let Some(walk) = &mut member.walk {
            let end = rib.cell_count();
            let stop = end.min(walk.next.saturating_add(WALK));
            while walk.next < stop && packer.estimate < budget {
                let cell = walk.next;
                walk.next += 1;
                // Fewer than four thousand million
                let found = rib.cell(u32::try_from(cell).unwrap_or(u32::MAX));
                let offered =
                    found.as_ref().and_then(|(prefix, route)| Some((prefix, route, packer.offer(prefix, route)?)));
                if cell == *counted {
                    *counted += 1;
                    if let Some((_, route, _)) = offered {
                        *exported += 1;
                        *exported_from.entry(route.source.peer).or_insert(0) += 1;
                    }
                }
                if let Some((prefix, route, edit)) = offered
                    && walk.families[prefix.family()]
                    && route.source.peer != id
                {
                    let set = packer.set(prefix, route, edit);
                    packer.announce((*prefix, 0), set, Audience::All);
                }
            }
            if walk.next >= end {
                member.walk = None;
                *counted = usize::MAX;
                walked = true;
            }
        }
        let (chunks, failed) = packer.finish(usize::MAX);
        *untold += failed as u64;
        let bytes = chunks.into_iter().next().map(Chunk::into_bytes).unwrap_or_default();
        Drained { bytes, walked, synced: member.is_synced() }
    }

    /// How many routes a member gets, once it is synced; before the first member of the group is, fewer.
    pub fn advertised(&self, id: PeerId) -> usize {
        self.exported - self.exported_from.get(&id).copied().unwrap_or(0)
    }

    /// What a member gets of one prefix, once it is synced.
    pub fn get(&self, id: PeerId, rib: &Rib, prefix: &Prefix) -> Option<Attrs> {
        let route = rib.selected_at(prefix).filter(|route| route.source.peer != id)?;
        self.settings.exported(prefix, &route)
    }

    /// All that a member gets, once it is synced, in no particular order.
    pub fn sent<'a>(&'a self, id: PeerId, rib: &'a Rib) -> impl Iterator<Item = (Prefix, Attrs)> + 'a {
        rib.views().filter_map(move |view| {
            let route = view.best.filter(|route| route.source.peer != id)?;
            Some((view.prefix, self.settings.exported(&view.prefix, &route)?))
        })
    }

    /// All that members get, each but what came from itself, and whom it came from; in no particular order.
    pub fn offers<'a>(&'a self, rib: &'a Rib) -> impl Iterator<Item = (Prefix, PeerId)> + 'a {
        rib.views().filter_map(move |view| {
            let route = view.best?;
            let offered = !matches!(self.settings.offer(&view.prefix, &route), Offer::Never);
            offered.then_some((view.prefix, route.source.peer))
        })
    }

    /// Prefixes that a member has yet to be told of, in no particular order.
    pub fn owed<'a>(&'a self, id: PeerId, rib: &'a Rib) -> impl Iterator<Item = Prefix> + 'a {
        self.members.get(&id).into_iter().flat_map(|member| {
            let changed = member.cells.iter().filter_map(|cell| Some(rib.cell(cell)?.0));
            changed.chain(member.queue.iter().chain(&member.gone).copied())
        })
    }

    /// Prefixes that a member may hold from us, in no particular order: those that it gets, and those
    /// that it has yet to be told of.
    pub fn may_hold<'a>(&'a self, id: PeerId, rib: &'a Rib) -> impl Iterator<Item = Prefix> + 'a {
        let others = self.offers(rib).filter(move |(_, from)| *from != id);
        others.map(|(prefix, _)| prefix).chain(self.owed(id, rib))
    }

    /// Prefixes so far whose attributes fitted into no message, so that they were withdrawn.
    pub fn untold(&self) -> u64 {
        self.untold
    }
}
