//! Whether the host was asleep.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// What the clocks may differ by without a sleep: they are read one after the other.
const SLACK: Duration = Duration::from_secs(1);

/// Notices that the host was suspended: the clock that counts from the boot goes on then, the one that all
/// timers go by stands still.
#[derive(Debug, Default)]
pub struct Sleep {
    /// How far the former was ahead of the latter when last looked at
    ahead: Option<Duration>,
}

impl Sleep {
    /// For how long the host slept since last asked, if it did. Costs no system call.
    pub fn slept(&mut self) -> Option<Duration> {
        let read = |clock| clock_gettime(clock).ok().map(Duration::from);
        self.observe(read(ClockId::CLOCK_BOOTTIME)?, read(ClockId::CLOCK_MONOTONIC)?)
    }

    fn observe(&mut self, since_boot: Duration, awake: Duration) -> Option<Duration> {
        let ahead = since_boot.saturating_sub(awake);
        let before = self.ahead.replace(ahead).unwrap_or(ahead);
        ahead.checked_sub(before).filter(|slept| *slept >= SLACK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_told_once() {
        let seconds = Duration::from_secs;
        let mut sleep = Sleep::default();
        assert_eq!(sleep.observe(seconds(5000), seconds(1000)), None, "it slept before we came");
        assert_eq!(sleep.observe(seconds(5001), seconds(1001)), None);
        assert_eq!(sleep.observe(seconds(5001) + Duration::from_millis(900), seconds(1001)), None, "read late");
        assert_eq!(sleep.observe(seconds(8602) + Duration::from_millis(900), seconds(1002)), Some(seconds(3600)));
        assert_eq!(sleep.observe(seconds(8603), seconds(1003)), None);
        assert!(sleep.slept().is_none() || Sleep::default().slept().is_none(), "the clocks can be read");
    }
}
