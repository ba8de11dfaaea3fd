//! Writes the kernel refused, of routes or of nexthop objects, and when each is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::OpError;

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
#[derive(Debug)]
pub(super) struct Refused<K> {
    failures: BTreeMap<K, Failure>,
    /// Those that wait, earliest first
    queue: BTreeSet<(Instant, K)>,
}

impl<K> Default for Refused<K> {
    fn default() -> Self {
        Self { failures: BTreeMap::new(), queue: BTreeSet::new() }
    }
}

impl<K: Copy + Ord> Refused<K> {
    /// Nothing was refused.
    pub(super) fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.failures.len()
    }

    /// A write was refused, perhaps again.
    pub(super) fn record(&mut self, key: K, error: OpError, now: Instant) {
        self.stop_waiting(key);
        let count = self.failures.get(&key).map_or(0, |failure| failure.count).saturating_add(1);
        let pause = FIRST_PAUSE.saturating_mul(1 << (count - 1).min(16)).min(LAST_PAUSE);
        let retry_at = now + pause;
        self.failures.insert(key, Failure { count, error, retry_at });
        self.queue.insert((retry_at, key));
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

    /// It will be tried before its time; the count goes on if that fails as well.
    pub(super) fn stop_waiting(&mut self, key: K) {
        if let Some(failure) = self.failures.get(&key) {
            self.queue.remove(&(failure.retry_at, key));
        }
    }

    /// It is as wanted now, or no longer wanted.
    pub(super) fn forget(&mut self, key: K) {
        self.stop_waiting(key);
        self.failures.remove(&key);
    }

    /// Those refused for want of a link or an address.
    pub(super) fn unreachable(&self) -> Vec<K> {
        let hopeful = |failure: &Failure| matches!(failure.error, OpError::Unreachable | OpError::NoDevice);
        self.failures.iter().filter(|(_, failure)| hopeful(failure)).map(|(key, _)| *key).collect()
    }

    /// One of them.
    pub(super) fn get(&self, key: K) -> Option<Failure> {
        self.failures.get(&key).copied()
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, Failure)> {
        self.failures.iter().map(|(key, failure)| (*key, *failure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Prefix;

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
