//! How long to wait before the next try.

use std::time::Duration;

/// Pauses that double from 200 ms to 10 s, each shortened by chance, so that nodes that lost the store together
/// don't come back together.
pub(super) struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(10);

    pub const fn new() -> Self {
        Self(Self::FIRST)
    }

    /// The next pause: half of the present one at least.
    pub fn next(&mut self) -> Duration {
        let whole = self.0;
        self.0 = (whole * 2).min(Self::LONGEST);
        whole.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut backoff = Backoff::new();
        for whole in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000] {
            let pause = backoff.next();
            assert!(pause <= Duration::from_millis(whole) && pause >= Duration::from_millis(whole / 2), "{pause:?}");
        }
    }
}
