//! When the next write may be made.

use std::time::{Duration, Instant};

use super::{Now, Step};
use crate::cluster::mirror::Mirror;

/// So many writes may follow each other at once.
const BURST: u32 = 16;
/// Then so much time is between them.
const EVERY: Duration = Duration::from_secs(1);
/// After the second failure in a row; doubled by each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The mirror should show within this time what was answered.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The same for what a write was refused for.
pub const LITTLE_PATIENCE: Duration = Duration::from_secs(1);

/// Keeps writes from coming too fast, whatever makes them necessary.
#[derive(Debug, Default)]
pub struct Pace {
    /// Writes of the burst that were made, as of `since`
    spent: u32,
    since: Option<Instant>,
    /// Failures in a row
    failures: u32,
    paused: Option<Instant>,
}

impl Pace {
    pub fn spend(&mut self, now: Instant) {
        self.recover(now);
        self.spent += 1;
    }

    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.paused = None;
    }

    /// The first failure costs nothing: of many who start at once all but one are refused.
    pub fn failed(&mut self, now: Now) {
        let doublings = self.failures.saturating_sub(1).min(16);
        if self.failures > 0 {
            let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
            // Half of it by chance: they were refused at the same time.
            let part = u32::try_from(now.chance % 1024).unwrap_or(0);
            self.paused = Some(now.at + pause / 2 + pause / 2 * part / 1024);
        }
        self.failures += 1;
    }

    /// When the next write may be made, if not now.
    pub fn not_before(&mut self, now: Instant) -> Option<Instant> {
        self.recover(now);
        let paused = self.paused.filter(|paused| now < *paused);
        let full = self.since.filter(|_| self.spent >= BURST).map(|since| since + EVERY);
        paused.max(full)
    }

    fn recover(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let whole = u32::try_from(now.saturating_duration_since(since).as_secs() / EVERY.as_secs()).unwrap_or(u32::MAX);
        self.spent = self.spent.saturating_sub(whole);
        self.since = Some(if self.spent == 0 { now } else { since + EVERY.saturating_mul(whole) });
    }
}

/// What the mirror has to show before the next write.
#[derive(Debug)]
pub enum Wait {
    /// What was done, or what it was refused for
    Revision {
        /// Where that shows
        revision: i64,
        /// After that, by a listing
        until: Instant,
    },
    /// Whether a write without an answer was done: a listing that comes from now on
    Listing {
        /// How many had come, and when one was asked for
        asked: Option<(u64, Instant)>,
    },
}

impl Wait {
    pub fn revision(revision: i64, until: Instant) -> Self {
        Self::Revision { revision, until }
    }

    pub fn listing() -> Self {
        Self::Listing { asked: None }
    }

    /// Whether it has come; if not, what is to be done for it.
    pub fn is_over(&mut self, now: Instant, mirror: &Mirror, step: &mut Step) -> bool {
        match self {
            Self::Revision { revision, .. } if mirror.revision() >= *revision => return true,
            Self::Revision { until, .. } if now < *until => {
                step.again = Some(*until);
                return false;
            }
            Self::Revision { .. } => *self = Self::listing(),
            Self::Listing { asked: Some((listings, _)) } if mirror.listings() > *listings => return true,
            Self::Listing { asked: Some((_, at)) } if now < *at + PATIENCE => {
                step.again = Some(*at + PATIENCE);
                return false;
            }
            Self::Listing { .. } => {}
        }
        *self = Self::Listing { asked: Some((mirror.listings(), now)) };
        step.relist = true;
        step.again = Some(now + PATIENCE);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_a_second() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut writes = 0;
        for tenth in 0..300 {
            let now = start + Duration::from_millis(100) * tenth;
            while pace.not_before(now).is_none() {
                pace.spend(now);
                writes += 1;
                assert!(writes <= BURST + tenth / 10, "{writes} after {tenth} tenths");
            }
        }
        assert_eq!(writes, BURST + 29);
    }

    #[test]
    fn pauses_double_and_end_with_success() {
        let at = Instant::now();
        let now = |chance| Now { at, unix: 0, chance };
        let mut pace = Pace::default();
        pace.failed(now(0));
        assert_eq!(pace.not_before(at), None);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            pace.failed(now(1023));
            pauses.push(pace.not_before(at).unwrap() - at);
        }
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]), "{pauses:?}");
        assert!(pauses[0] < Duration::from_millis(51) && pauses[11] <= LONGEST_PAUSE, "{pauses:?}");
        assert!(pauses[11] > LONGEST_PAUSE / 2, "{pauses:?}");
        pace.succeeded();
        assert_eq!(pace.not_before(at), None);
    }
}
