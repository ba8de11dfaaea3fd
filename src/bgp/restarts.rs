//! How long the routes of peers that restart are kept (RFC 4724 §4.2).
//!
//! A peer that fails again before it has sent all again gives what it sent in between a new time;
//! what is stale since the first failure keeps the first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::bgp::rib::PeerId;

/// Which routes have had their time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expired {
    /// All that the peer has not sent again
    Stale,
    /// Those of them that are stale since before its last failure
    Older,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    until: Instant,
    older: Option<Instant>,
}

/// The times of all peers that restart.
#[derive(Debug, Default)]
pub struct Restarts {
    peers: BTreeMap<PeerId, Kept>,
    ends: BTreeSet<(Instant, PeerId)>,
}

impl Restarts {
    /// A session ended, and the peer has promised to be back in `time`.
    pub fn begin(&mut self, id: PeerId, now: Instant, time: Duration) {
        let older = self.forget(id).map(|former| former.older.unwrap_or(former.until));
        let kept = Kept { until: now + time, older };
        self.ends.extend([Some(kept.until), older].into_iter().flatten().map(|at| (at, id)));
        self.peers.insert(id, kept);
    }

    /// Nothing of the peer is stale any more.
    pub fn over(&mut self, id: PeerId) {
        self.forget(id);
    }

    fn forget(&mut self, id: PeerId) -> Option<Kept> {
        let kept = self.peers.remove(&id)?;
        for at in [Some(kept.until), kept.older].into_iter().flatten() {
            self.ends.remove(&(at, id));
        }
        Some(kept)
    }

    /// When the next time is over.
    pub fn next(&self) -> Option<Instant> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// A peer whose time is over at `now`; to be asked until there is none.
    pub fn expired(&mut self, now: Instant) -> Option<(PeerId, Expired)> {
        let (at, id) = *self.ends.first().filter(|(at, _)| *at <= now)?;
        match self.peers.get_mut(&id) {
            Some(kept) if kept.until > at => {
                kept.older = None;
                self.ends.pop_first();
                Some((id, Expired::Older))
            }
            _ => {
                self.ends.pop_first();
                self.forget(id);
                Some((id, Expired::Stale))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId(1);

    #[test]
    fn every_route_is_kept_as_long_as_promised() {
        use Expired::{Older, Stale};
        // (why, (failure at, promised for), all sent again at, expired: at, what), seconds
        type Case<'a> = (&'a str, &'a [(u64, u64)], Option<u64>, &'a [(u64, Expired)]);
        let cases: [Case<'_>; 7] = [
            ("it never comes back", &[(0, 120)], None, &[(120, Stale)]),
            ("it comes back in time", &[(0, 120)], Some(100), &[]),
            ("it promises nothing", &[(5, 0)], None, &[(5, Stale)]),
            ("it fails twice", &[(0, 120), (50, 120)], None, &[(120, Older), (170, Stale)]),
            (
                "the first failure counts for the oldest",
                &[(0, 120), (50, 120), (60, 120)],
                None,
                &[(120, Older), (180, Stale)],
            ),
            ("the second promise is shorter", &[(0, 120), (50, 20)], None, &[(70, Stale)]),
            (
                "the third comes after the first time",
                &[(0, 10), (5, 100), (20, 100)],
                None,
                &[(10, Older), (105, Older), (120, Stale)],
            ),
        ];
        for (why, failures, over, wanted) in cases {
            let start = Instant::now();
            let seconds = |n| start + Duration::from_secs(n);
            let mut restarts = Restarts::default();
            let mut seen = Vec::new();
            for second in 0..300 {
                for (_, time) in failures.iter().filter(|(at, _)| *at == second) {
                    restarts.begin(A, seconds(second), Duration::from_secs(*time));
                }
                if over == Some(second) {
                    restarts.over(A);
                }
                assert!(restarts.next().is_none_or(|at| at >= seconds(second)), "{why}");
                while let Some((peer, expired)) = restarts.expired(seconds(second)) {
                    assert_eq!(peer, A);
                    seen.push((second, expired));
                }
            }
            assert_eq!(seen, wanted, "{why}");
            assert_eq!(restarts.next(), None, "{why}");
        }
    }
}
