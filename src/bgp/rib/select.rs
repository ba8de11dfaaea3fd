//! Decides for the prefixes that wait.

use std::sync::Arc;

use smallvec::SmallVec;

use super::decision::{self, Candidate, Candidates};
use super::interner::SetId;
use super::lots::LotId;
use super::table::{More, Open, Path, Slot, Store};
use super::{Change, Choice, NextHops, Rib, Selection};
use crate::bgp::attrs::Attrs;
use crate::net::Prefix;

/// Cells that are looked at for one decision, at most, where the whole table is concerned.
pub(super) const CELLS: usize = if cfg!(test) { 1 } else { 16 };

impl Rib {
    /// Whether no prefix waits for a decision, and all of the table is up to date.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty() && !self.walk.is_needed() && self.store.lots.dead_paths() == 0
    }

    /// Decides for prefixes that wait, `limit` at most, and appends what changed to `changes`; a prefix
    /// stands there once. Takes no longer the larger the table is: what concerns all of it (a peer
    /// that went away, say) is done in portions too. So call it until the table
    /// [is settled](Self::is_settled); it may well find no change meanwhile.
    pub fn decide(&mut self, next_hops: NextHops<'_>, selection: Selection, limit: usize, changes: &mut Vec<Change>) {
        // First the walk, so that nothing is touched again that was decided for in this call.
        self.walk(limit.saturating_sub(self.dirty.len()), limit.saturating_mul(CELLS));
        let mut metrics = Metrics::new(next_hops);
        for _ in 0..limit {
            let Some(slot) = self.dirty.pop_front() else { break };
            self.decide_for(slot, &mut metrics, selection, changes);
        }
        if self.dirty.is_empty() {
            self.dirty.shrink_to(1 << 14);
        }
        self.store.sets.collect();
        self.store.lots.collect();
    }

    fn decide_for(&mut self, slot: Slot, metrics: &mut Metrics<'_>, selection: Selection, changes: &mut Vec<Change>) {
        let Some(mut entry) = self.table.open(slot) else { return };
        entry.entry.dirty = false;
        entry.remove_dead(&mut self.store);
        let empty = entry.paths().is_empty();
        let some = entry.paths().iter().any(|path| path.imported.is_some() && self.store.lots[path.lot].is_live());
        if let Some(change) = reselect(entry, slot.0, &mut self.store, metrics, selection) {
            let selected = &mut self.selected[change.prefix.family() as usize];
            *selected = *selected + usize::from(change.now.is_some()) - usize::from(change.was.is_some());
            changes.push(change);
        }
        if some && self.table.get(slot).is_some_and(|seen| seen.entry.best.is_none()) {
            self.unreachable.insert(slot.0);
        } else {
            self.unreachable.take(slot.0);
        }
        if empty {
            self.table.remove(slot);
        }
    }
}

/// A path as a candidate, if it may be used.
pub(super) fn candidate<'a>(
    path: &Path,
    store: &'a Store,
    metric: &mut impl FnMut(SetId, &Arc<Attrs>) -> Option<u32>,
) -> Option<Candidate<'a>> {
    let set = path.imported?;
    let (lot, attrs) = (&store.lots[path.lot], store.sets.attrs(set));
    // A path whose next hop can't be reached takes no part (RFC 4271 §9.1.2.1).
    let metric = match path.lot {
        LotId::LOCAL => 0,
        _ if lot.is_live() => metric(set, attrs)?,
        _ => return None,
    };
    Some(Candidate { attrs, source: lot.source, address: lot.address, metric, choice: Choice { set, lot: path.lot } })
}

/// The paths of an entry that may be used.
pub(super) fn candidates<'a>(
    paths: &[Path],
    store: &'a Store,
    metric: &mut impl FnMut(SetId, &Arc<Attrs>) -> Option<u32>,
) -> Candidates<'a> {
    paths.iter().filter_map(|path| candidate(path, store, metric)).collect()
}

/// Chooses the best path of an entry, and what goes with it.
fn choose(entry: &Open<'_>, store: &Store, metrics: &mut Metrics<'_>, selection: Selection) -> (Option<Choice>, More) {
    let prefix = entry.prefix();
    let mut metric = |set: SetId, attrs: &Arc<Attrs>| metrics.of(&prefix, set, attrs);
    match entry.paths() {
        [] => (None, More::default()),
        // The usual case needs no election.
        [only] => (candidate(only, store, &mut metric).map(|c| c.choice), More::default()),
        paths => {
            let all = candidates(paths, store, &mut metric);
            let mut equal = all.clone();
            decision::elect(&mut equal, &mut |_, _| {});
            let hops = decision::multipath(&equal, selection.multipath);
            let backup =
                if selection.backups { decision::backup(&all, &hops, selection.multipath) } else { SmallVec::new() };
            let more = hops.iter().skip(1).chain(&backup).map(|c| c.choice).collect();
            // Not more than there are peers
            let hops_more = u32::try_from(hops.len().saturating_sub(1)).unwrap_or(u32::MAX);
            (equal.first().map(|c| c.choice), More { choices: more, hops: hops_more })
        }
    }
}

/// Decides for one entry.
fn reselect(
    mut entry: Open<'_>,
    cell: u32,
    store: &mut Store,
    metrics: &mut Metrics<'_>,
    selection: Selection,
) -> Option<Change> {
    let (now, more) = choose(&entry, store, metrics, selection);
    let (was, more_before) = (entry.entry.best, entry.more());
    if was == now && more == more_before {
        return None;
    }
    let same_best = match (was, now) {
        (Some(was), Some(now)) => store.same(was, now),
        _ => was == now,
    };
    let same = same_best
        && more.hops == more_before.hops
        && more.choices.len() == more_before.choices.len()
        && more.choices.iter().zip(&more_before.choices).all(|(a, b)| store.same(*a, *b));
    let change = (!same).then(|| {
        let chosen = |choice: &Choice| store.chosen(*choice);
        let (hops, backup) = more.split();
        Change {
            prefix: entry.prefix(),
            was: was.map(|choice| store.selected(choice)),
            now: now.map(|choice| store.selected(choice)),
            cell,
            hops: now.iter().chain(hops).map(chosen).collect(),
            backup: backup.iter().map(chosen).collect(),
        }
    });
    now.iter().chain(&more.choices).for_each(|choice| store.hold(*choice));
    was.iter().chain(&more_before.choices).for_each(|choice| store.release(*choice));
    entry.entry.best = now;
    entry.set_more(more);
    change
}

/// Metrics of next hops during one decision: seldom more than one question for each attribute set.
struct Metrics<'a> {
    ask: NextHops<'a>,
    known: [Option<(SetId, Option<u32>)>; 16],
    next: usize,
}

impl<'a> Metrics<'a> {
    fn new(ask: NextHops<'a>) -> Self {
        Self { ask, known: [None; 16], next: 0 }
    }

    fn of(&mut self, prefix: &Prefix, set: SetId, attrs: &Arc<Attrs>) -> Option<u32> {
        if prefix.contains(attrs.next_hop) {
            return (self.ask)(prefix, attrs);
        }
        if let Some((_, metric)) = self.known.iter().flatten().find(|(known, _)| *known == set) {
            return *metric;
        }
        let metric = (self.ask)(prefix, attrs);
        self.known[self.next] = Some((set, metric));
        self.next = (self.next + 1) % self.known.len();
        metric
    }
}
