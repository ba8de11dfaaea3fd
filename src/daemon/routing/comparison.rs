//! When the kernel is compared with what is known of it.

use std::time::Duration;

use tokio::time::Instant;

/// How often, though nothing says why.
pub(super) const EVERY: Duration = Duration::from_secs(300);
/// Least time between two: each means a walk over all routes.
const PAUSE: Duration = Duration::from_millis(500);

/// The times of comparisons.
pub(super) struct Comparison {
    last: Instant,
    asked: bool,
}

impl Comparison {
    /// All is known as of now.
    pub(super) const fn new(now: Instant) -> Self {
        Self { last: now, asked: false }
    }

    /// There is a reason for the next one: events were lost, the host was asleep, the last one failed.
    pub(super) const fn ask(&mut self) {
        self.asked = true;
    }

    /// One begins.
    pub(super) const fn begin(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// When the next one is due; `doubt`: only one can tell what the kernel holds.
    pub(super) fn due(&self, doubt: bool) -> Instant {
        self.last + if self.asked || doubt { PAUSE } else { EVERY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_brings_it_forward_and_a_pause_lies_between() {
        let start = Instant::now();
        let mut comparison = Comparison::new(start);
        assert_eq!(comparison.due(false), start + EVERY);
        assert_eq!(comparison.due(true), start + PAUSE, "the end of the pause is a time to wake up at");
        comparison.ask();
        assert_eq!(comparison.due(false), start + PAUSE);
        let begun = start + Duration::from_secs(1);
        comparison.begin(begun);
        assert_eq!(comparison.due(false), begun + EVERY, "once for each reason");
        comparison.ask();
        assert_eq!(comparison.due(false), begun + PAUSE, "a reason that came meanwhile counts for the next");
    }
}
