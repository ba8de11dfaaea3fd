//! One connection of a session: how far it got, and its hold and keepalive timers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{Negotiated, State};
use super::timers::{self, Jitter};
use crate::bgp::message::Open;

/// A TCP connection on which our OPEN was sent.
#[derive(Clone, Debug)]
pub struct Conn {
    /// The OPEN that we sent
    pub sent: Open,
    /// How far it got
    pub phase: Phase,
    /// The peer may be silent for so long; `None`: for ever
    hold: Option<Duration>,
    hold_at: Option<Instant>,
    keepalive_at: Option<Instant>,
}

/// How far a connection got.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Our OPEN is sent
    OpenSent,
    /// The peer's OPEN was accepted
    OpenConfirm(Arc<Negotiated>),
    /// The peer accepted ours
    Established {
        /// What both agreed on
        agreed: Arc<Negotiated>,
        /// Since when
        since: Instant,
    },
}

impl Conn {
    /// In OpenSent.
    pub fn new(now: Instant, sent: Open) -> Self {
        let hold = timers::OPEN_HOLD;
        Self { sent, phase: Phase::OpenSent, hold: Some(hold), hold_at: Some(now + hold), keepalive_at: None }
    }

    /// The state as the RFC calls it.
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::OpenSent => State::OpenSent,
            Phase::OpenConfirm(_) => State::OpenConfirm,
            Phase::Established { .. } => State::Established,
        }
    }

    /// What was agreed, once Established.
    pub const fn established(&self) -> Option<&Arc<Negotiated>> {
        match &self.phase {
            Phase::Established { agreed, .. } => Some(agreed),
            Phase::OpenSent | Phase::OpenConfirm(_) => None,
        }
    }

    /// Established.
    pub const fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Established { .. })
    }

    /// Established for so long that it ends no row of failures.
    pub fn was_stable(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Established { since, .. } if now.saturating_duration_since(since) >= timers::STABLE)
    }

    /// To OpenConfirm, where the peer's OPEN is answered with the first keepalive.
    pub fn confirm(&mut self, now: Instant, agreed: Negotiated, jitter: &mut Jitter) {
        // A hold time of zero counts from Established on: a peer must not hang here for ever.
        self.hold = Some(seconds(agreed.hold_time).unwrap_or(timers::OPEN_HOLD));
        self.phase = Phase::OpenConfirm(Arc::new(agreed));
        self.note_activity(now);
        self.note_keepalive(now, jitter);
    }

    /// To Established; `None` from any other phase than OpenConfirm.
    pub fn establish(&mut self, now: Instant) -> Option<Arc<Negotiated>> {
        let Phase::OpenConfirm(agreed) = &self.phase else { return None };
        let agreed = Arc::clone(agreed);
        self.hold = seconds(agreed.hold_time);
        self.phase = Phase::Established { agreed: Arc::clone(&agreed), since: now };
        self.note_activity(now);
        Some(agreed)
    }

    /// The peer lives: the hold timer starts anew.
    pub fn note_activity(&mut self, now: Instant) {
        self.hold_at = self.hold.map(|hold| now + hold);
    }

    /// A keepalive goes out: the next is due a jittered third of the hold time later.
    pub fn note_keepalive(&mut self, now: Instant, jitter: &mut Jitter) {
        let agreed = match &self.phase {
            Phase::OpenSent => return,
            Phase::OpenConfirm(agreed) | Phase::Established { agreed, .. } => agreed,
        };
        self.keepalive_at = seconds(agreed.keepalive).map(|every| now + jitter.of(every));
    }

    /// The peer was silent for too long.
    pub fn hold_expired(&self, now: Instant) -> bool {
        self.hold_at.is_some_and(|at| at <= now)
    }

    /// It is time for a keepalive.
    pub fn keepalive_due(&self, now: Instant) -> bool {
        self.keepalive_at.is_some_and(|at| at <= now)
    }

    /// When one of its timers expires.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.hold_at.into_iter().chain(self.keepalive_at).min()
    }
}

/// Zero means never.
fn seconds(count: u16) -> Option<Duration> {
    (count > 0).then(|| Duration::from_secs(count.into()))
}
