//! What each peer has: counters kept by its task, gauges as of the scrape.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::text::{Family, Kind};
use super::{PeerSnapshot, Register};
use crate::bgp::message::FaultOutcome;
use crate::bgp::session::Reason;

/// Kinds of BGP messages, as the `kind` label has them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MessageKind {
    /// OPEN
    Open,
    /// UPDATE
    Update,
    /// NOTIFICATION
    Notification,
    /// KEEPALIVE
    Keepalive,
    /// ROUTE-REFRESH
    RouteRefresh,
}

impl MessageKind {
    /// All of them, in the order of their type codes.
    pub const ALL: [Self; 5] = [Self::Open, Self::Update, Self::Notification, Self::Keepalive, Self::RouteRefresh];

    /// The kind with this type code (RFC 4271 §4.1, RFC 2918 §3).
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Open),
            2 => Some(Self::Update),
            3 => Some(Self::Notification),
            4 => Some(Self::Keepalive),
            5 => Some(Self::RouteRefresh),
            _ => None,
        }
    }

    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Update => "update",
            Self::Notification => "notification",
            Self::Keepalive => "keepalive",
            Self::RouteRefresh => "route_refresh",
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts by a few known words. For what is rare: it takes a lock.
#[derive(Debug, Default)]
pub(super) struct Words(Mutex<BTreeMap<&'static str, u64>>);

impl Words {
    /// These are there from the start: a series that begins with 1 hides its first event from rate() and
    /// increase().
    fn zero(words: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Mutex::new(words.into_iter().map(|word| (word, 0)).collect()))
    }

    fn add(&self, word: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(word).or_default() += 1;
    }

    fn get(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(word, count)| (*word, *count)).collect()
    }
}

/// What is counted under one name.
#[derive(Debug, Default)]
pub(super) struct Tally {
    received: [Count; 5],
    sent: [Count; 5],
    announced: Count,
    withdrawn: Count,
    flaps: Words,
    malformed: Words,
}

impl Tally {
    pub(super) fn at_zero() -> Arc<Self> {
        Arc::new(Self {
            flaps: Words::zero(Reason::LABELS),
            malformed: Words::zero(FaultOutcome::ALL.map(FaultOutcome::label)),
            ..Self::default()
        })
    }
}

/// Counters of one peer, fetched once; all that share a name count together.
#[derive(Clone, Debug)]
pub struct PeerMetrics {
    shared: Arc<Tally>,
    /// Of this one alone, where several share a name: received and sent
    own: Arc<[[Count; 2]; 5]>,
}

impl PeerMetrics {
    pub(super) fn new(shared: Arc<Tally>) -> Self {
        Self { shared, own: Arc::default() }
    }

    /// A message was read.
    pub fn received(&self, kind: MessageKind) {
        self.shared.received[kind as usize].add(1);
        self.own[kind as usize][0].add(1);
    }

    /// Messages were written.
    pub fn sent(&self, kind: MessageKind, count: u64) {
        self.shared.sent[kind as usize].add(count);
        self.own[kind as usize][1].add(count);
    }

    /// An UPDATE announced and withdrew so many prefixes.
    pub fn changed(&self, announced: usize, withdrawn: usize) {
        self.shared.announced.add(announced as u64);
        self.shared.withdrawn.add(withdrawn as u64);
    }

    /// Messages read and written so far, by kind.
    pub fn messages(&self) -> impl Iterator<Item = (MessageKind, u64, u64)> + '_ {
        MessageKind::ALL.into_iter().zip(&*self.own).map(|(kind, [received, sent])| (kind, received.get(), sent.get()))
    }

    /// An established session was lost; `reason` is one of a few known words.
    pub fn flapped(&self, reason: &'static str) {
        self.shared.flaps.add(reason);
    }

    /// An attribute was malformed (RFC 7606); `outcome` says what was done.
    pub fn malformed(&self, outcome: &'static str) {
        self.shared.malformed.add(outcome);
    }
}

/// The families of which each peer has series.
#[derive(Debug)]
pub(super) struct PeerFamilies {
    messages_received: Family<2>,
    messages_sent: Family<2>,
    changed: Family<2>,
    flaps: Family<2>,
    malformed: Family<2>,
    last_change: Family<1>,
    established: Family<1>,
    wanted: Family<1>,
    received: Family<1>,
    accepted: Family<1>,
    rejected: Family<2>,
    advertised: Family<1>,
    stale: Family<1>,
    limit: Family<1>,
    limit_used: Family<1>,
    bfd_up: Family<1>,
}

impl PeerFamilies {
    pub(super) fn new(r: &Register<'_>) -> Self {
        let gauge = |name: &str, help: &str| r.family(Kind::Gauge, name, help, ["peer"]);
        let counter = |name: &str, help: &str, labels| r.family(Kind::Counter, name, help, labels);
        Self {
            messages_received: counter(
                "bgp_messages_received_total",
                "BGP messages read from a peer.",
                ["kind", "peer"],
            ),
            messages_sent: counter("bgp_messages_sent_total", "BGP messages written to a peer.", ["kind", "peer"]),
            changed: counter(
                "bgp_routes_changed_total",
                "Prefixes that a peer's UPDATEs announced or withdrew.",
                ["kind", "peer"],
            ),
            flaps: counter("bgp_session_flaps_total", "Established sessions lost, by reason.", ["peer", "reason"]),
            malformed: counter(
                "bgp_malformed_attributes_total",
                "Malformed path attributes (RFC 7606), by what was done.",
                ["outcome", "peer"],
            ),
            last_change: gauge(
                "bgp_session_last_change_timestamp_seconds",
                "When a peer's session came up or was lost, or else when the daemon began to try.",
            ),
            established: gauge("bgp_session_established", "Established sessions of a peer."),
            wanted: gauge("bgp_sessions_wanted", "Sessions that a peer should have."),
            received: gauge("bgp_prefixes_received", "Prefixes that a peer announces."),
            accepted: gauge("bgp_prefixes_accepted", "Of them accepted by the import policy."),
            rejected: r.family(
                Kind::Gauge,
                "bgp_prefixes_rejected",
                "Of them rejected, by reason.",
                ["peer", "reason"],
            ),
            advertised: gauge("bgp_prefixes_advertised", "Prefixes announced to a peer."),
            stale: gauge("bgp_prefixes_stale", "Prefixes kept while a peer restarts (RFC 4724)."),
            limit: gauge("bgp_prefixes_limit", "Prefixes that a peer may announce (max_prefixes); 0 is no limit."),
            limit_used: gauge(
                "bgp_prefixes_limit_used_ratio",
                "Prefixes received of max_prefixes, of the session that is nearest to its limit.",
            ),
            bfd_up: gauge("bfd_session_up", "BFD sessions of a peer that are Up."),
        }
    }

    pub(super) fn write(
        &self,
        out: &mut String,
        tallies: &BTreeMap<String, Arc<Tally>>,
        now: &BTreeMap<String, PeerSnapshot>,
    ) {
        type Sides = fn(&Tally) -> &[Count; 5];
        let both: [(_, Sides); 2] =
            [(&self.messages_received, |tally| &tally.received), (&self.messages_sent, |tally| &tally.sent)];
        for (family, side) in both {
            let kinds = tallies.iter().flat_map(|(name, tally)| {
                let counts = MessageKind::ALL.into_iter().zip(side(tally));
                counts.map(|(kind, count)| ([kind.label(), name.as_str()], count.get()))
            });
            family.write(out, kinds);
        }
        let changed = tallies.iter().flat_map(|(name, tally)| {
            let kinds = [("announced", &tally.announced), ("withdrawn", &tally.withdrawn)];
            kinds.map(|(kind, count)| ([kind, name.as_str()], count.get()))
        });
        self.changed.write(out, changed);
        let flaps = tallies.iter().flat_map(|(name, tally)| {
            tally.flaps.get().into_iter().map(|(reason, count)| ([name.as_str(), reason], count))
        });
        self.flaps.write(out, flaps);
        let malformed = tallies.iter().flat_map(|(name, tally)| {
            tally.malformed.get().into_iter().map(|(outcome, count)| ([outcome, name.as_str()], count))
        });
        self.malformed.write(out, malformed);
        self.write_gauges(out, now);
    }

    fn write_gauges(&self, out: &mut String, now: &BTreeMap<String, PeerSnapshot>) {
        type Value = fn(&PeerSnapshot) -> usize;
        let always: [(_, Value); 5] = [
            (&self.established, |peer| peer.established),
            (&self.received, |peer| peer.received),
            (&self.accepted, |peer| peer.accepted),
            (&self.advertised, |peer| peer.advertised),
            (&self.stale, |peer| peer.stale),
        ];
        for (family, value) in always {
            family.write(out, now.iter().map(|(name, peer)| ([name.as_str()], value(peer))));
        }
        let rejected = now.iter().flat_map(|(name, peer)| {
            peer.rejected.iter().map(move |(reason, count)| ([name.as_str(), reason.as_str()], count))
        });
        self.rejected.write(out, rejected);
        let times = now.iter().filter_map(|(name, peer)| Some(([name.as_str()], peer.last_change?)));
        self.last_change.write(out, times);
        let wanted = now.iter().filter_map(|(name, peer)| Some(([name.as_str()], peer.wanted?)));
        self.wanted.write(out, wanted);
        let limits = now.iter().filter_map(|(name, peer)| Some(([name.as_str()], peer.max_prefixes?)));
        self.limit.write(out, limits);
        let used = now.iter().filter_map(|(name, peer)| Some(([name.as_str()], peer.limit_used?)));
        self.limit_used.write(out, used);
        let up = now.iter().filter_map(|(name, peer)| Some(([name.as_str()], peer.bfd_up?)));
        self.bfd_up.write(out, up);
    }
}
