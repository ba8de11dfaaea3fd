//! Lots: paths that live and die together.
//!
//! What a peer sends of one family until its session ends or it begins to send all again is one lot.
//! Each path says which lot it is of. So all paths of a peer are dead, or stale, at once whatever
//! their number: the lot is, and the table is cleared of dead paths in portions afterwards.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Index;

use super::table::Path;
use super::{Counters, Source};

/// Number of a lot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct LotId(u32);

impl LotId {
    /// What this node announces itself.
    pub const LOCAL: Self = Self(0);
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// The peer has sent its paths in this session
    Fresh,
    /// They are kept, and to be sent again
    Stale,
    /// They are gone, and still in the table
    Dead,
}

#[derive(Debug)]
pub(super) struct Lot {
    /// Who sent it
    pub source: Source,
    /// Address of the peer
    pub address: IpAddr,
    state: State,
    /// Its paths
    counters: Counters,
    /// Places where it was chosen
    chosen: usize,
    /// Where its paths are to be moved
    next: Option<LotId>,
}

impl Lot {
    /// Whether its paths count.
    pub fn is_live(&self) -> bool {
        self.state != State::Dead
    }

    /// Whether its paths are to be sent again.
    pub fn is_stale(&self) -> bool {
        self.state == State::Stale
    }

    /// How many paths it has.
    pub fn paths(&self) -> usize {
        self.counters.received
    }

    /// Counts of its paths.
    pub fn counters(&self) -> Counters {
        Counters { stale: if self.is_stale() { self.counters.received } else { 0 }, ..self.counters }
    }
}

#[derive(Debug)]
pub(super) struct Lots {
    all: Vec<Lot>,
    free: Vec<LotId>,
    /// Dead ones that somebody may still refer to
    dying: Vec<LotId>,
    dead_paths: usize,
}

impl Index<LotId> for Lots {
    type Output = Lot;
    fn index(&self, id: LotId) -> &Lot {
        &self.all[id.0 as usize]
    }
}

impl Lots {
    pub fn new() -> Self {
        let mut lots = Self { all: Vec::new(), free: Vec::new(), dying: Vec::new(), dead_paths: 0 };
        lots.open(Source::LOCAL, Ipv4Addr::UNSPECIFIED.into());
        lots
    }

    /// A lot that has no paths yet.
    pub fn open(&mut self, source: Source, address: IpAddr) -> LotId {
        let lot = Lot { source, address, state: State::Fresh, counters: Counters::default(), chosen: 0, next: None };
        if let Some(id) = self.free.pop() {
            self.all[id.0 as usize] = lot;
            return id;
        }
        self.all.push(lot);
        // Each has a peer or a path.
        LotId(u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX))
    }

    /// Its paths are to be sent again.
    pub fn age(&mut self, id: LotId) {
        self.all[id.0 as usize].state = State::Stale;
    }

    /// The paths of these lots belong to another from now on.
    pub fn turn(&mut self, old: &[LotId], new: LotId) {
        for id in old {
            self.all[id.0 as usize].next = Some(new);
        }
    }

    /// Where a path of this lot belongs.
    pub fn newest(&self, id: LotId) -> LotId {
        self[id].next.unwrap_or(id)
    }

    /// Its paths are gone; how many.
    pub fn kill(&mut self, id: LotId) -> usize {
        let lot = &mut self.all[id.0 as usize];
        lot.state = State::Dead;
        self.dead_paths += lot.counters.received;
        self.dying.push(id);
        lot.counters.received
    }

    /// A path of it comes into the table.
    pub fn add(&mut self, path: &Path) {
        self.all[path.lot.0 as usize].counters.add(path);
    }

    /// A path of it leaves the table.
    pub fn sub(&mut self, path: &Path) {
        let lot = &mut self.all[path.lot.0 as usize];
        lot.counters.sub(path);
        self.dead_paths -= usize::from(!lot.is_live());
    }

    /// A path of it is chosen.
    pub fn hold(&mut self, id: LotId) {
        self.all[id.0 as usize].chosen += 1;
    }

    /// No longer.
    pub fn release(&mut self, id: LotId) {
        self.all[id.0 as usize].chosen -= 1;
    }

    /// Dead paths that are still in the table.
    pub fn dead_paths(&self) -> usize {
        self.dead_paths
    }

    /// Frees the numbers of dead lots that nobody refers to.
    pub fn collect(&mut self) {
        let Self { all, free, dying, .. } = self;
        dying.retain(|id| {
            let lot = &all[id.0 as usize];
            let used = lot.counters.received > 0 || lot.chosen > 0;
            if !used {
                free.push(*id);
            }
            used
        });
    }

    /// Lots that are not free, the local one included.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }
}
