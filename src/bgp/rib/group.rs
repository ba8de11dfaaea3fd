//! Adj-RIB-Out: what a group of like peers is sent.
//!
//! A group remembers no routes. What it was sent follows from the best path before a change and its
//! settings, what it is to be sent from the best path now; both stand in the [`Change`]. So a
//! group costs no memory per route, and each route is encoded once for all members.
//!
//! A member is *synced* and gets that shared stream, or it is behind: it has just come, asked for
//! a refresh, or its queue was full. Then it walks the table, or catches up with a set of prefixes, at
//! its own pace through [`Group::drain`], always with the newest state. Nothing queues up: a
//! prefix that changes a thousand times meanwhile is in the set once.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::RandomState;
use bytes::Bytes;
use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};

use super::export::ExportSettings;
use super::pack::{Audience, CHUNK, Chunk, Packer};
use super::{Change, PeerId, Rib};
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
    /// Routes that the group gets
    exported: usize,
    /// Those by sender: the sender itself does not get them
    exported_from: HashMap<PeerId, usize, RandomState>,
    untold: u64,
}

/// How far behind a member is; all empty: not at all.
#[derive(Debug, Default)]
struct Member {
    walk: Option<Walk>,
    /// To be sent next, in an order that packs well
    queue: Vec<Prefix>,
    /// Changed since `queue` was made
    pending: HashSet<Prefix, RandomState>,
}

/// A walk over the whole table.
#[derive(Clone, Copy, Debug)]
struct Walk {
    next: usize,
    families: PerFamily<bool>,
}

impl Member {
    /// The next prefix to catch up with.
    fn next(&mut self, rib: &Rib) -> Option<Prefix> {
        if self.queue.is_empty() && !self.pending.is_empty() {
            // Equal attributes next to each other share messages.
            let address = |prefix: &Prefix| rib.selected_at(prefix).map_or(0, |r| Arc::as_ptr(&r.attrs) as usize);
            self.queue = std::mem::take(&mut self.pending).into_iter().collect();
            self.queue.sort_by_cached_key(|prefix| (address(prefix), *prefix));
        }
        self.queue.pop()
    }

    fn is_synced(&self) -> bool {
        self.walk.is_none() && self.queue.is_empty() && self.pending.is_empty()
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
    /// A group with no members. The table's last decision must have been exported to the other
    /// groups: this one starts from its result.
    pub fn new(settings: ExportSettings, rib: &Rib) -> Self {
        let mut group =
            Self { settings, members: BTreeMap::new(), exported: 0, exported_from: HashMap::default(), untold: 0 };
        for view in rib.views() {
            let Some(route) = view.best else { continue };
            if group.settings.offer(&view.prefix, &route) != Offer::Never {
                group.exported += 1;
                *group.exported_from.entry(route.source.peer).or_insert(0) += 1;
            }
        }
        group
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
    /// settings (see [`Group::sent`]) and that are to be withdrawn where they don't go to this group.
    pub fn join(&mut self, id: PeerId, has: impl IntoIterator<Item = Prefix>) {
        let walk = Some(Walk { next: 0, families: self.settings.families });
        self.members.insert(id, Member { walk, queue: Vec::new(), pending: has.into_iter().collect() });
    }

    /// A peer leaves; false if it was no member.
    pub fn leave(&mut self, id: PeerId) -> bool {
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

    /// A member could not be sent these: it is behind until it has caught up by [`Group::drain`].
    pub fn lag(&mut self, id: PeerId, prefixes: impl IntoIterator<Item = Prefix>) {
        if let Some(member) = self.members.get_mut(&id) {
            member.pending.extend(prefixes);
        }
    }

    /// The messages that tell the synced members of changes; for each member take
    /// [`Chunk::bytes_for`]. Give every group every decision's changes, whole, in order, once.
    pub fn export(&mut self, changes: &[Change]) -> Vec<Chunk> {
        let Self { settings, members, exported, exported_from, untold } = self;
        let known: HashSet<PeerId, RandomState> = members.keys().copied().collect();
        let mut behind: Vec<&mut Member> = members.values_mut().filter(|m| !m.is_synced()).collect();
        let anybody_synced = behind.len() < known.len();
        // Never back to where it came from.
        let but = |from: PeerId| if known.contains(&from) { Audience::AllBut(from) } else { Audience::All };

        let mut packer = Packer::new(settings);
        for Change { prefix, was, now, .. } in changes {
            if was == now {
                continue;
            }
            let old = was.as_ref().and_then(|route| Some((route, packer.offer(prefix, route)?)));
            let new = now.as_ref().and_then(|route| Some((route, packer.offer(prefix, route)?)));
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
            if old.is_none() && new.is_none() || known.is_empty() {
                continue;
            }
            for member in &mut behind {
                member.pending.insert(*prefix);
            }
            if !anybody_synced {
                continue;
            }
            match (old, new) {
                (None, None) => {}
                (Some((old, _)), None) => packer.withdraw(*prefix, but(old.source.peer)),
                (None, Some((new, edit))) => {
                    let set = packer.set(prefix, new, edit);
                    packer.announce(*prefix, set, but(new.source.peer));
                }
                (Some((old, old_edit)), Some((new, new_edit))) => {
                    let (was, set) = (packer.set(prefix, old, old_edit), packer.set(prefix, new, new_edit));
                    let (old, new) = (old.source.peer, new.source.peer);
                    if !packer.same(was, set) {
                        packer.announce(*prefix, set, but(new));
                    } else if old != new && known.contains(&old) {
                        // Everybody has it already but for the one that it came from until now.
                        packer.announce(*prefix, set, Audience::Only(old));
                    }
                    if old != new && known.contains(&new) {
                        packer.withdraw(*prefix, Audience::Only(new));
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
        let Self { settings, members, untold, .. } = self;
        let Some(member) = members.get_mut(&id) else { return Drained::default() };
        let mut packer = Packer::new(settings);
        let mut walked = false;

        // News first, but they may not starve the walk.
        let share = if member.walk.is_some() { budget / 2 } else { budget };
        while packer.estimate < share {
            let Some(prefix) = member.next(rib) else { break };
            let route = rib.selected_at(&prefix).filter(|route| route.source.peer != id);
            match route.as_ref().and_then(|route| Some((route, packer.offer(&prefix, route)?))) {
                Some((route, edit)) => {
                    let set = packer.set(&prefix, route, edit);
                    packer.announce(prefix, set, Audience::All);
                }
                // Perhaps it never had it; a withdrawal of nothing is no error (RFC 4271 §9).
                None if settings.families[prefix.family()] => packer.withdraw(prefix, Audience::All),
                None => {}
            }
        }
        if let Some(walk) = &mut member.walk {
            let cells = rib.cells(walk.next, WALK);
            let mut seen = 0;
            for cell in cells {
                if packer.estimate >= budget {
                    break;
                }
                seen += 1;
                let Some((prefix, route)) = cell.filter(|(_, route)| route.source.peer != id) else { continue };
                if walk.families[prefix.family()]
                    && let Some(edit) = packer.offer(&prefix, &route)
                {
                    let set = packer.set(&prefix, &route, edit);
                    packer.announce(prefix, set, Audience::All);
                }
            }
            walk.next += seen;
            if walk.next >= rib.cell_count() {
                member.walk = None;
                walked = true;
            }
        }
        let (chunks, failed) = packer.finish(usize::MAX);
        *untold += failed as u64;
        let bytes = chunks.into_iter().next().map(Chunk::into_bytes).unwrap_or_default();
        Drained { bytes, walked, synced: member.is_synced() }
    }

    /// How many routes a member gets, once it is synced.
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

    /// Prefixes so far whose attributes fitted into no message, so that they were withdrawn.
    pub fn untold(&self) -> u64 {
        self.untold
    }
}
