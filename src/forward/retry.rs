//! Writes the kernel refused, and when each is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::OpError;
use crate::net::Prefix;

/// First pause after a refused write; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: a route whose obstacle goes away unseen is late by no more than this.
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// A write that the kernel refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// Times in a row
    pub count: u32,
    /// Its last answer
    pub error: OpError,
    /// When it is tried again
    pub retry_at: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Refused {
    failures: BTreeMap<Prefix, Failure>,
    /// Those that wait, earliest first
    queue: BTreeSet<(Instant, Prefix)>,
}

impl Refused {
    /// Nothing was refused.
    pub(super) fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.failures.len()
    }

    /// A write was refused, perhaps again.
    pub(super) fn record(&mut self, prefix: Prefix, error: OpError, now: Instant) {
        self.stop_waiting(prefix);
        let count = self.failures.get(&prefix).map_or(0, |failure| failure.count).saturating_add(1);
        let pause = FIRST_PAUSE.saturating_mul(1 << (count - 1).min(16)).min(LAST_PAUSE);
        let retry_at = now + pause;
        self.failures.insert(prefix, Failure { count, error, retry_at });
        self.queue.insert((retry_at, prefix));
    }

    /// A prefix whose time has come; it no longer waits.
    pub(super) fn due(&mut self, now: Instant) -> Option<Prefix> {
        let (at, prefix) = *self.queue.first()?;
        (at <= now).then(|| {
            self.queue.pop_first();
            prefix
        })
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// It will be tried before its time; the count goes on if that fails as well.
    pub(super) fn stop_waiting(&mut self, prefix: Prefix) {
        if let Some(failure) = self.failures.get(&prefix) {
            self.queue.remove(&(failure.retry_at, prefix));
        }
    }

    /// It is as wanted now, or no longer wanted.
    pub(super) fn forget(&mut self, prefix: Prefix) {
        self.stop_waiting(prefix);
        self.failures.remove(&prefix);
    }

    /// Those refused for want of a link or an address.
    pub(super) fn unreachable(&self) -> Vec<Prefix> {
        let hopeful = |failure: &Failure| matches!(failure.error, OpError::Unreachable | OpError::NoDevice);
        self.failures.iter().filter(|(_, failure)| hopeful(failure)).map(|(prefix, _)| *prefix).collect()
    }

    /// One of them.
    pub(super) fn get(&self, prefix: Prefix) -> Option<Failure> {
        self.failures.get(&prefix).copied()
    }

    /// All, by prefix.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Prefix, Failure)> {
        self.failures.iter().map(|(prefix, failure)| (*prefix, *failure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        let mut refused = Refused::default();
        let prefix: Prefix = "10.0.0.0/8".parse().unwrap();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            refused.record(prefix, OpError::Unreachable, now);
            assert_eq!(refused.due(now), None, "not yet");
            let next = refused.next().unwrap();
            pauses.push((next - now).as_millis());
            now = next;
            assert_eq!(refused.due(now), Some(prefix));
            assert_eq!(refused.due(now), None, "once");
        }
        assert_eq!(pauses[..5], [100, 200, 400, 800, 1600]);
        assert_eq!(pauses[9..], [30_000, 30_000, 30_000]);
    }
}
