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
    /// Nothing may get through to the peer for so long; `None`: for ever
    send_hold: Option<Duration>,
    send_hold_at: Option<Instant>,
}

/// How far a connection got.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Our OPEN is sent
    OpenSent,
    /// The peer's OPEN is accepted
    OpenConfirm {
        /// What both agreed on
        agreed: Arc<Negotiated>,
        /// We have said so by a KEEPALIVE, so the peer may be Established
        answered: bool,
        /// The peer has said so of our OPEN
        accepted: bool,
    },
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
        Self {
            sent,
            phase: Phase::OpenSent,
            hold: Some(hold),
            hold_at: Some(now + hold),
            keepalive_at: None,
            send_hold: None,
            send_hold_at: None,
        }
    }

    /// The state as the RFC calls it.
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::OpenSent => State::OpenSent,
            Phase::OpenConfirm { .. } => State::OpenConfirm,
            Phase::Established { .. } => State::Established,
        }
    }

    /// A KEEPALIVE of ours has answered the peer's OPEN.
    pub const fn is_answered(&self) -> bool {
        matches!(self.phase, Phase::OpenConfirm { answered: true, .. } | Phase::Established { .. })
    }

    /// A KEEPALIVE of the peer has answered our OPEN.
    pub const fn note_accepted(&mut self) {
        if let Phase::OpenConfirm { accepted, .. } = &mut self.phase {
            *accepted = true;
        }
    }

    /// What was agreed, once Established.
    pub const fn established(&self) -> Option<&Arc<Negotiated>> {
        match &self.phase {
            Phase::Established { agreed, .. } => Some(agreed),
            Phase::OpenSent | Phase::OpenConfirm { .. } => None,
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

    /// To OpenConfirm, where nothing is answered yet.
    pub fn confirm(&mut self, now: Instant, agreed: Negotiated, jitter: &mut Jitter) {
        // A hold time of zero counts from Established on: a peer must not hang here for ever.
        self.hold = Some(seconds(agreed.hold_time).unwrap_or(timers::OPEN_HOLD));
        self.phase = Phase::OpenConfirm { agreed: Arc::new(agreed), answered: false, accepted: false };
        self.note_activity(now);
        self.note_keepalive(now, jitter);
    }

    /// To Established; `None` from any other phase than OpenConfirm.
    pub fn establish(&mut self, now: Instant, send_hold: Option<Duration>) -> Option<Arc<Negotiated>> {
        let Phase::OpenConfirm { agreed, .. } = &self.phase else { return None };
        let agreed = Arc::clone(agreed);
        self.hold = seconds(agreed.hold_time);
        self.arm_send_hold(now, send_hold);
        self.phase = Phase::Established { agreed: Arc::clone(&agreed), since: now };
        self.note_activity(now);
        Some(agreed)
    }

    /// The peer lives: the hold timer starts anew.
    pub fn note_activity(&mut self, now: Instant) {
        self.hold_at = self.hold.map(|hold| now + hold);
    }

    /// Starts the send hold timer, as configured or by default.
    pub fn arm_send_hold(&mut self, now: Instant, configured: Option<Duration>) {
        // RFC 9687 §3.2: no timer where there is no hold timer.
        self.send_hold = self.hold.and_then(|hold| match configured {
            Some(Duration::ZERO) => None,
            Some(configured) => Some(configured.clamp(hold, timers::FOREVER)),
            None => Some(timers::SEND_HOLD.max(2 * hold)),
        });
        self.send_hold_at = None;
        self.note_sent(now);
    }

    /// Something got through to the peer: the send hold timer starts anew.
    pub fn note_sent(&mut self, at: Instant) {
        let until = self.send_hold.map(|hold| at + hold);
        self.send_hold_at = self.send_hold_at.max(until);
    }

    /// A keepalive goes out: the next is due a jittered third of the hold time later.
    pub fn note_keepalive(&mut self, now: Instant, jitter: &mut Jitter) {
        let agreed = match &self.phase {
            Phase::OpenSent => return,
            Phase::OpenConfirm { agreed, .. } | Phase::Established { agreed, .. } => agreed,
        };
        self.keepalive_at = seconds(agreed.keepalive).map(|every| now + jitter.of(every));
    }

    /// The peer was silent for too long.
    pub fn hold_expired(&self, now: Instant) -> bool {
        self.hold_at.is_some_and(|at| at <= now)
    }

    /// The peer took nothing for too long.
    pub fn send_hold_expired(&self, now: Instant) -> bool {
        self.send_hold_at.is_some_and(|at| at <= now)
    }

    /// It is time for a keepalive.
    pub fn keepalive_due(&self, now: Instant) -> bool {
        self.keepalive_at.is_some_and(|at| at <= now)
    }

    /// When one of its timers expires.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.hold_at, self.keepalive_at, self.send_hold_at].into_iter().flatten().min()
    }
}

/// Zero means never.
fn seconds(count: u16) -> Option<Duration> {
    (count > 0).then(|| Duration::from_secs(count.into()))
}
