//! Where prefixes inside the pools lead, for whoever counts their traffic.
//!
//! What changes is noted as it is decided, up to a limit beyond which only a walk over the table tells; that
//! goes a page at a time, at the pace of whoever asks. While nobody asks nothing is noted.

use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::HashSet;

use super::Routing;
use crate::bgp::rib::{PeerId, Selected};
use crate::net::Prefix;

/// Changes that are noted between two questions.
const NOTED: usize = 8192;
/// Cells of the table to a page: a fraction of a millisecond.
const CELLS: u32 = 2048;

/// What has changed.
#[derive(Default)]
pub(super) struct Learned {
    /// Somebody asks
    followed: bool,
    changed: HashSet<Prefix, RandomState>,
    /// More has
    lost: bool,
}

/// A part of what others announce inside the pools.
#[derive(Debug, Default)]
pub struct LearnedPage {
    /// Where a prefix leads: the next hop of its best path; none: it is not there any more
    pub routes: Vec<(Prefix, Option<IpAddr>)>,
    /// Where the next page begins
    pub next: Option<u32>,
    /// More has changed than is told: only a walk from cell 0 tells
    pub lost: bool,
    /// The first synchronisation is done: what is not there is gone
    pub ready: bool,
}

impl Learned {
    /// A prefix was decided for.
    pub(super) fn note(&mut self, prefix: Prefix, pools: &[Prefix]) {
        if !self.followed || self.lost || !pools.iter().any(|pool| pool.covers(&prefix)) {
            return;
        }
        self.changed.insert(prefix);
        if self.changed.len() > NOTED {
            self.changed = HashSet::default();
            self.lost = true;
        }
    }
}

impl Routing {
    pub(super) fn learned_page(&mut self, from: Option<u32>) -> LearnedPage {
        let mut page = LearnedPage { ready: self.sync.is_ready(), ..LearnedPage::default() };
        let others = |selected: Selected| (selected.source.peer != PeerId::LOCAL).then(|| selected.attrs.next_hop);
        if let Some(from) = from {
            let cells = u32::try_from(self.rib.cell_count()).unwrap_or(u32::MAX);
            let end = from.saturating_add(CELLS).min(cells);
            let pools = &self.config.network.pools;
            let found = (from..end).filter_map(|cell| self.rib.cell(cell));
            let inside = found.filter(|(prefix, _)| pools.iter().any(|pool| pool.covers(prefix)));
            page.routes = inside.map(|(prefix, selected)| (prefix, others(selected))).collect();
            page.next = (end < cells).then_some(end);
            if from == 0 {
                // What changes from here on is told beside the walk.
                self.learned = Learned { followed: true, ..Learned::default() };
            }
        } else {
            let noted = std::mem::take(&mut self.learned.changed);
            page.lost = self.learned.lost || !self.learned.followed;
            let next_hop = |prefix: Prefix| self.rib.selected_at(&prefix).and_then(others);
            page.routes = noted.into_iter().map(|prefix| (prefix, next_hop(prefix))).collect();
        }
        page
    }
}
