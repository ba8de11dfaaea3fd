//! Repairs of routes or of nexthop objects: made at once, or held back in a duel.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use super::NexthopId;
use super::duel::{Duel, Duels, Kind, Turn};
use crate::net::Prefix;

/// What of the forwarder's somebody else may undo.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Contested {
    /// A route
    Route(Prefix),
    /// A nexthop object
    Nexthop(NexthopId),
}

impl Contested {
    /// Its kind.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Route(_) => Kind::Route,
            Self::Nexthop(_) => Kind::Nexthop,
        }
    }
}

impl fmt::Display for Contested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(prefix) => write!(f, "{prefix}"),
            Self::Nexthop(id) => write!(f, "nexthop {}", id.0),
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Held<K> {
    duels: Duels<K>,
    /// Those that wait, earliest first. One that has been overtaken by something else stays: its turn
    /// harms nobody.
    queue: BTreeSet<(Instant, K)>,
    /// Those that became a duel, until somebody asks
    begun: Vec<K>,
    /// Repairs made, since start
    made: u64,
}

impl<K> Default for Held<K> {
    fn default() -> Self {
        Self { duels: Duels::default(), queue: BTreeSet::new(), begun: Vec::new(), made: 0 }
    }
}

impl<K: Copy + Ord> Held<K> {
    /// Whether what somebody undid is put right now; if not, [`Self::due`] gives it back in time.
    pub(super) fn may(&mut self, key: K, now: Instant) -> bool {
        match self.duels.found(&key, now) {
            Turn::Now => {}
            Turn::Begins => self.begun.push(key),
            Turn::Later(at) => {
                self.queue.insert((at, key));
                return false;
            }
        }
        self.made += 1;
        true
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether something waits.
    pub(super) fn waits(&self, key: K) -> bool {
        self.queue.iter().any(|(_, waits)| *waits == key)
    }

    /// Lets something wait for what it needs.
    pub(super) fn wait_for(&mut self, key: K, other: K) {
        if let Some((at, _)) = self.queue.iter().find(|(_, waits)| *waits == other) {
            self.queue.insert((*at, key));
        }
    }

    /// One whose time has come; it no longer waits.
    pub(super) fn due(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.queue.first()?;
        (at <= now).then(|| {
            self.queue.pop_first();
            key
        })
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Whether it was put right lately.
    pub(super) fn is_known(&self, key: K) -> bool {
        self.duels.is_known(&key)
    }

    /// Who did it this time.
    pub(super) fn blame(&mut self, key: K, by: String) {
        self.duels.blame(&key, by);
    }

    /// Those that became a duel since last asked.
    pub(super) fn take_begun(&mut self) -> Vec<K> {
        std::mem::take(&mut self.begun)
    }

    /// Repairs made, since start.
    pub(super) const fn made(&self) -> u64 {
        self.made
    }

    /// Ends the duels that nobody fights any more, and names them.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<K> {
        self.duels.settle(now)
    }

    /// The duels that go on.
    pub(super) fn duels(&self) -> impl Iterator<Item = Duel<'_, K>> {
        self.duels.duels()
    }
}
