//! What concerns the whole table, in portions: paths that are gone, a new import policy, next hops that
//! have changed.
//!
//! One walk goes round the table for all of them. A reason lasts until the walk is where it was when
//! the reason came up; what came into the table since is right already. That dead paths are there is
//! a reason until none is.

use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::{HashMap, HashSet};

use super::interner::SetId;
use super::peers::Gate;
use super::table::{Path, Slot};
use super::{PeerId, Rib, touch};

/// More reasons than this about next hops are made one.
const REASONS: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Walk {
    at: At,
    /// By where they end
    reasons: Vec<(At, Reason)>,
}

/// A place of the walk: how often it was round, and the cell.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct At {
    round: u64,
    cell: usize,
}

#[derive(Debug)]
pub(super) enum Reason {
    /// The import policy of a peer has changed, or what kind of peer it is
    Import(PeerId),
    /// These next hops have changed
    NextHops(HashSet<IpAddr, RandomState>),
    /// Everything has to be decided again
    All,
}

impl Walk {
    pub fn add(&mut self, mut reason: Reason) {
        let end = At { round: self.at.round + 1, ..self.at };
        self.reasons.retain(|(_, known)| match (known, &reason) {
            (Reason::Import(known), Reason::Import(peer)) => known != peer,
            (Reason::NextHops(_) | Reason::All, Reason::All) => false,
            _ => true,
        });
        if let Reason::NextHops(hops) = &mut reason
            && self.reasons.len() >= REASONS
        {
            self.reasons.retain(|(_, known)| match known {
                Reason::NextHops(known) => {
                    hops.extend(known);
                    false
                }
                _ => true,
            });
        }
        self.reasons.push((end, reason));
    }

    /// Whether a next hop is among those that have changed.
    fn has_changed(&self, next_hop: IpAddr) -> bool {
        self.reasons.iter().any(|(_, reason)| matches!(reason, Reason::NextHops(hops) if hops.contains(&next_hop)))
    }

    /// Whether every route is to be decided again; whether next hops have changed.
    fn asks(&self) -> (bool, bool) {
        let any = |is: fn(&Reason) -> bool| self.reasons.iter().any(|(_, reason)| is(reason));
        (any(|reason| matches!(reason, Reason::All)), any(|reason| matches!(reason, Reason::NextHops(_))))
    }

    /// Whether somebody has a reason to walk, besides dead paths.
    pub fn is_needed(&self) -> bool {
        !self.reasons.is_empty()
    }
}

impl Rib {
    /// Goes on with the walk over at most `cells` cells, until `touches` more entries wait for a
    /// decision.
    pub(super) fn walk(&mut self, touches: usize, mut cells: usize) {
        let Self { table, store, peers, dirty, walk, .. } = self;
        // A gate may serve a little longer than its reason lasts: what is right already stays as it is.
        let mut gates: HashMap<PeerId, Gate<'_>, RandomState> = HashMap::default();
        for (_, reason) in &walk.reasons {
            if let Reason::Import(id) = reason
                && let Some(peer) = peers.get(id)
            {
                gates.insert(*id, Gate::new(&peer.info));
            }
        }
        let (mut all, mut next_hops) = walk.asks();
        // Entries next to each other share attributes.
        let mut last: Option<(SetId, bool)> = None;
        let enough = dirty.len().saturating_add(touches);
        while cells > 0 && dirty.len() < enough && (walk.is_needed() || store.lots.dead_paths() > 0) {
            if walk.at.cell >= table.cell_count() {
                walk.at = At { round: walk.at.round + 1, cell: 0 };
            }
            while walk.reasons.first().is_some_and(|(end, _)| *end <= walk.at) {
                walk.reasons.remove(0);
                last = None;
                (all, next_hops) = walk.asks();
            }
            let slot = Slot(u32::try_from(walk.at.cell).unwrap_or(u32::MAX));
            walk.at.cell += 1;
            cells -= 1;
            let Some(mut entry) = table.open(slot) else { continue };
            let mut affected = store.lots.dead_paths() > 0 && entry.remove_dead(store);
            affected |= all;
            if next_hops && !affected {
                let changed = |path: &Path| {
                    let Some(set) = path.imported else { return false };
                    if last.is_none_or(|(known, _)| known != set) {
                        last = Some((set, walk.has_changed(store.sets.attrs(set).next_hop)));
                    }
                    last.is_some_and(|(_, changed)| changed)
                };
                affected = entry.paths().iter().any(changed);
            }
            if !gates.is_empty() {
                let prefix = entry.prefix();
                for path in entry.paths_mut() {
                    let Some(gate) = gates.get_mut(&store.lots[path.lot].source.peer) else { continue };
                    let lot = store.lots.newest(path.lot);
                    let new = Path::new(lot, path.raw, gate.import(&mut store.sets, &prefix, path.raw));
                    affected |= new.imported != path.imported || new.lot != path.lot;
                    store.add(&new);
                    store.sub(path);
                    *path = new;
                }
            }
            if affected {
                touch(entry.entry, slot, dirty);
            }
        }
    }
}
