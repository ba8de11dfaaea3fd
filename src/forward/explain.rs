//! Why a packet goes where it goes, in values and in words.

use std::net::IpAddr;
use std::time::Instant;

use super::resolve::Chosen;
use super::slot::Slot;
use super::{Conflict, Forwarder, NextHop, OpError, Resolution, Target};
use crate::net::{Family, Prefix};

/// All that is known of one prefix.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The prefix
    pub prefix: Prefix,
    /// What should be in the kernel; `None`: nothing, for want of a route or of a next hop in reach
    pub wanted: Option<Target>,
    /// What of ours is in the kernel as far as known
    pub actual: Option<Target>,
    /// A former run left it and nobody has asked for it yet
    pub stale: bool,
    /// A write waits to be taken
    pub queued: bool,
    /// A write has been taken and not answered
    pub in_flight: bool,
    /// The last write, if the kernel refused it
    pub failure: Option<FailureView>,
    /// Foreign routes for the same prefix
    pub conflicts: Vec<Conflict>,
    /// The next hops that BGP chose, and how each is reached
    pub next_hops: Vec<NextHopView>,
}

/// A refused write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FailureView {
    /// The kernel's last answer
    pub error: OpError,
    /// Times in a row
    pub count: u32,
    /// When it is tried again
    pub retry_at: Instant,
}

/// A next hop and how it is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NextHopView {
    /// How it is reached, or why it isn't
    pub resolution: Resolution,
    /// The same in words
    pub words: String,
}

impl Forwarder {
    /// What is known of exactly this prefix.
    pub fn explain(&self, prefix: Prefix) -> Option<Explanation> {
        let slot = self.fib().slot(prefix)?;
        let (wanted, actual) = self.route(prefix);
        let failure = self.fib().refused.get(prefix);
        let next_hops = match self.chosen(prefix) {
            Some(Chosen::Via(members)) => members.iter().map(|one| self.explain_next_hop(*one, Some(prefix))).collect(),
            _ => Vec::new(),
        };
        Some(Explanation {
            prefix,
            wanted,
            actual,
            stale: slot.has(Slot::STALE),
            queued: slot.has(Slot::QUEUED),
            in_flight: slot.has(Slot::IN_FLIGHT),
            failure: failure.map(|f| FailureView { error: f.error, count: f.count, retry_at: f.retry_at }),
            conflicts: self.conflicts().into_iter().filter(|conflict| conflict.prefix == prefix).collect(),
            next_hops,
        })
    }

    /// What is known of the longest prefix of ours that holds an address: wanted or in the kernel.
    pub fn explain_addr(&self, addr: IpAddr) -> Option<Explanation> {
        let lengths = (0..=Family::of(addr).bits()).rev();
        lengths.map(|len| Prefix::new(addr, len)).find_map(|prefix| self.explain(prefix))
    }

    /// How a next hop is reached for a route to `of`, in words as well.
    pub fn explain_next_hop(&self, next_hop: NextHop, of: Option<Prefix>) -> NextHopView {
        let resolution = self.resolve(next_hop, of);
        let name = |index| self.device(index).map_or_else(|| format!("device {index}"), str::to_owned);
        let words = resolution.words(&name);
        NextHopView { resolution, words }
    }

    /// The writes that the kernel refused, by prefix.
    pub fn failures(&self) -> impl Iterator<Item = (Prefix, FailureView)> {
        self.fib()
            .refused
            .iter()
            .map(|(prefix, f)| (prefix, FailureView { error: f.error, count: f.count, retry_at: f.retry_at }))
    }
}
