//! Counters of BFD. They take no lock: the BFD thread is not to wait for a scrape.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec};

use super::Register;
use super::peer::Count;
use super::text::{Family, Kind};
use crate::bfd;

/// What is counted under one name.
#[derive(Debug, Default)]
pub(super) struct Tally {
    received: Count,
    sent: Count,
    entered: [Count; 4],
}

/// Counters of one peer's BFD session, fetched once; all that share a name count together.
#[derive(Clone, Debug)]
pub struct BfdMetrics {
    shared: Arc<Tally>,
    /// Of this one alone: received and sent
    own: Arc<[Count; 2]>,
}

impl BfdMetrics {
    pub(super) fn new(shared: Arc<Tally>) -> Self {
        Self { shared, own: Arc::default() }
    }

    /// A packet came that was for it.
    pub fn received(&self) {
        self.shared.received.add(1);
        self.own[0].add(1);
    }

    /// A packet was sent.
    pub fn sent(&self) {
        self.shared.sent.add(1);
        self.own[1].add(1);
    }

    /// The session came into a state.
    pub fn entered(&self, state: bfd::State) {
        self.shared.entered[state as usize].add(1);
    }

    /// Packets of this session alone: received, sent.
    pub fn packets(&self) -> (u64, u64) {
        (self.own[0].get(), self.own[1].get())
    }
}

/// Counters of BFD that belong to no session.
#[derive(Clone, Debug)]
pub struct BfdTotals {
    pub(super) discarded: [IntCounter; 9],
    pub(super) late: IntCounter,
}

impl BfdTotals {
    /// A packet was discarded.
    pub fn discarded(&self, reason: bfd::Discard) {
        self.discarded[reason as usize].inc();
    }

    /// The thread ran late.
    pub fn late(&self) {
        self.late.inc();
    }
}

/// The families.
#[derive(Debug)]
pub(super) struct BfdCounters {
    received: Family<1>,
    sent: Family<1>,
    transitions: Family<2>,
    pub(super) discarded: IntCounterVec,
    pub(super) late: IntCounter,
}

impl BfdCounters {
    pub(super) fn new(r: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            received: r.family(Kind::Counter, "bfd_packets_received_total", "BFD packets of a peer.", ["peer"]),
            sent: r.family(Kind::Counter, "bfd_packets_sent_total", "BFD packets sent to a peer.", ["peer"]),
            transitions: r.family(
                Kind::Counter,
                "bfd_session_transitions_total",
                "Changes of state of a peer's BFD session, by the new state.",
                ["peer", "state"],
            ),
            discarded: r.counters("bfd_packets_discarded_total", "BFD packets discarded, by reason.", &["reason"])?,
            late: r.counter("bfd_late_total", "Times the BFD thread ran more than 10 ms late.")?,
        })
    }

    pub(super) fn write(&self, out: &mut String, tallies: &BTreeMap<String, Arc<Tally>>) {
        self.received.write(out, tallies.iter().map(|(name, tally)| ([name.as_str()], tally.received.get())));
        self.sent.write(out, tallies.iter().map(|(name, tally)| ([name.as_str()], tally.sent.get())));
        let transitions = tallies.iter().flat_map(|(name, tally)| {
            let states = bfd::State::ALL.into_iter().zip(&tally.entered);
            states.map(|(state, count)| ([name.as_str(), state.name()], count.get()))
        });
        self.transitions.write(out, transitions);
    }
}
