//! Durations of the session timers: jitter (RFC 4271 §10) and back-off after errors.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Hold time until the peer's OPEN says another: "4 minutes is suggested" (RFC 4271 §8.2.2).
pub const OPEN_HOLD: Duration = Duration::from_secs(240);

/// Nothing gets through to the peer for so long: it counts as dead (RFC 9687 §3.1).
pub const SEND_HOLD: Duration = Duration::from_secs(480);

/// No pause before a dial is longer, save the one an operator has to know of (`long_back_off`).
pub const MAX_BACK_OFF: Duration = Duration::from_secs(60);

/// No pause before a dial is shorter (before jitter), whatever the configuration says.
pub const MIN_BACK_OFF: Duration = Duration::from_secs(1);

/// A dial that is not answered lives at least so long: TCP then has sent its SYN three times.
pub const DIAL_PATIENCE: Duration = Duration::from_secs(4);

/// A session that lasted so long was a good one: the next error is the first again.
pub const STABLE: Duration = Duration::from_secs(60);

/// Limit of every duration from the configuration, so that adding it to a clock cannot overflow.
pub const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// The dice of one session; same seed, same throws.
#[derive(Clone, Debug)]
pub struct Jitter(SmallRng);

impl Jitter {
    /// Dice with this seed.
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// `base` times something in 0.75 to 1 (RFC 4271 §10).
    pub fn of(&mut self, base: Duration) -> Duration {
        base.min(FOREVER).mul_f64(self.0.random_range(0.75..=1.0))
    }
}

/// Pause before the dial that follows the `failures`-th failure in a row, before jitter: doubles
/// each time from `connect_retry` up to [`MAX_BACK_OFF`].
pub fn back_off(connect_retry: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    connect_retry.max(MIN_BACK_OFF).saturating_mul(1 << doublings).min(MAX_BACK_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_a_minute() {
        let cases = [
            // (why, connect_retry, failures, wanted), seconds
            ("no failure waits as configured", 5, 0, 5),
            ("nor does the first", 5, 1, 5),
            ("the second waits twice as long", 5, 2, 10),
            ("and so on", 5, 4, 40),
            ("up to a minute", 5, 5, 60),
            ("for ever", 5, u32::MAX, 60),
            ("zero would be a storm", 0, 1, 1),
            ("also configured ones end at a minute", 120, 1, 60),
            ("no overflow", u64::MAX, u32::MAX, 60),
        ];
        for (why, retry, failures, wanted) in cases {
            let got = back_off(Duration::from_secs(retry), failures);
            assert_eq!(got, Duration::from_secs(wanted), "{why}: {retry} s, {failures} failures");
        }
    }

    #[test]
    fn jitter_keeps_its_range_and_its_seed() {
        let base = Duration::from_secs(100);
        let throws = |seed| -> Vec<_> {
            let mut dice = Jitter::new(seed);
            (0..1000).map(|_| dice.of(base)).collect()
        };
        let got = throws(7);
        assert!(got.iter().all(|d| (75..=100).contains(&d.as_secs())), "{got:?}");
        assert!(got.iter().any(|d| d.as_secs() < 78) && got.iter().any(|d| d.as_secs() > 97), "spread over the range");
        assert_eq!(got, throws(7), "same seed, same throws");
        assert_ne!(got, throws(8), "other seed, other throws");
        assert!(Jitter::new(1).of(Duration::MAX) <= FOREVER);
    }
}
