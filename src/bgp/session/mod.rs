//! One peer's BGP session: the state machine of RFC 4271 §8, without I/O.
//!
//! [`Session::handle`] turns an [`Event`] into [`Action`]s. It opens no socket, reads no clock and
//! spawns nothing: `now` comes in as an argument and the caller carries the actions out in order.
//! The RFC gives each connection a machine of its own; here one session owns all connections to a
//! peer, and collisions (§6.8) are settled inside.
//!
//! The driver keeps a slot per [`Side`] and the one dial. An accepted connection gets its slot from
//! [`Session::slot_for_incoming`]; `Close` and `Disconnected` empty a slot; while `Established`
//! what is received on that side comes back as `Deliver` and `Refresh`, so nothing of a connection
//! that loses a collision ever reaches the RIB.
//!
//! Deviations from the RFC: `DelayOpen` and `DampPeerOscillations` are left out (the pause before
//! a dial grows with the failures instead), a connection from the peer is also accepted in Idle
//! unless we are stopped or in the long back-off, and the hold timer restarts with any message.

mod collision;
mod conn;
mod dialler;
mod ending;
mod event;
mod open;
#[cfg(test)]
mod tests;
mod timers;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use self::conn::{Conn, Phase};
use self::dialler::Dialler;
pub use self::event::{Action, Counters, Direction, Down, Event, LastError, Negotiated, PerSide, Reason, Side, State};
pub use self::open::{negotiate, preserving};
use self::timers::Jitter;
use crate::bgp::message::{GracefulRestart, Message, Notification, Open};
use crate::bgp::wire::Cease;
use crate::net::{Asn, Family, PerFamily};

/// One peer as configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Our AS
    pub local_asn: Asn,
    /// The AS that the peer must have
    pub peer_asn: Asn,
    /// Our BGP identifier
    pub router_id: Ipv4Addr,
    /// Hold time that we propose, in seconds: 0, or 3 and more
    pub hold_time: u16,
    /// Time in which nothing gets through to the peer after which it counts as dead (RFC 9687);
    /// zero: never; `None`: 8 min, or twice the hold time where that is more. At least the hold
    /// time in any case
    pub send_hold_time: Option<Duration>,
    /// Pause between dials; 1 s to 60 s, what is outside counts as the nearer of these
    pub connect_retry: Duration,
    /// Silence towards a peer that was closed by [`Event::Close`]
    pub long_back_off: Duration,
    /// Never dial
    pub passive: bool,
    /// Families that we offer
    pub families: Vec<Family>,
    /// As sent, but for what [`Session::set_restarting`] says; see [`preserving`]
    pub graceful_restart: Option<GracefulRestart>,
    /// Seed of the jitter
    pub seed: u64,
}

impl Settings {
    /// A long back-off as an operator would expect it.
    pub const LONG_BACK_OFF: Duration = Duration::from_secs(300);

    /// Whether an OPEN exchanged under these would have the same outcome under `other`.
    fn negotiates_like(&self, other: &Self) -> bool {
        let open = |settings: &Self| open::build(settings, None, false);
        open(self) == open(other) && self.peer_asn == other.peer_asn
    }
}

/// Whether there may be connections at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    /// Administratively down; who calls is told so
    Stopped,
    /// Administratively down, in silence
    Abandoned,
    /// After [`Event::Close`]
    Barred { until: Instant },
    /// Up
    Running,
}

/// The state machine of one peer.
#[derive(Clone, Debug)]
pub struct Session {
    settings: Settings,
    jitter: Jitter,
    restarting: Option<PerFamily<bool>>,
    mode: Mode,
    /// At most one is Established, and of the two that the peer dialled at most one is not
    conns: PerSide<Option<Conn>>,
    dialler: Dialler,
    /// Errors in a row
    failures: u32,
    /// The peer refused our capabilities: the next connection goes without (RFC 5492 §3)
    plain: bool,
    seen: (State, Option<Instant>),
    last_error: Option<LastError>,
    counters: Counters,
}

impl Session {
    /// A stopped session.
    pub fn new(settings: Settings) -> Self {
        Self {
            jitter: Jitter::new(settings.seed),
            settings,
            restarting: None,
            mode: Mode::Stopped,
            conns: PerSide::default(),
            dialler: Dialler::Off,
            failures: 0,
            plain: false,
            seen: (State::Idle, None),
            last_error: None,
            counters: Counters::default(),
        }
    }

    /// Takes an event in and appends what to do about it.
    pub fn handle(&mut self, now: Instant, event: Event, out: &mut Vec<Action>) {
        match (self.mode, event) {
            (Mode::Stopped | Mode::Abandoned, Event::Start) => self.start(now, out),
            (_, Event::Stop(notification)) => self.halt(now, Mode::Stopped, &Reason::Sent(notification), out),
            (_, Event::Abandon) => self.halt(now, Mode::Abandoned, &Reason::Abandoned, out),
            (Mode::Running, Event::Close(notification)) => self.bar(now, notification, out),
            (Mode::Running, Event::Fail(notification)) => self.fail_established(now, notification, out),

            (Mode::Running, Event::Connected(side)) => self.connected(now, side, out),
            (Mode::Stopped | Mode::Barred { .. }, Event::Connected(side)) => {
                ending::refuse(side, Cease::ConnectionRejected, out);
            }
            // RFC 4724 §4.1: a NOTIFICATION could make the peer drop what it keeps for us.
            (Mode::Abandoned, Event::Connected(side)) => out.push(Action::Close(side)),
            (Mode::Running, Event::ConnectFailed) => self.connect_failed(now),

            (Mode::Running, Event::Received(side, message)) => self.received(now, side, message, out),
            (Mode::Running, Event::Malformed(side, notification)) => self.fail(now, side, notification, out),
            (Mode::Running, Event::Disconnected(side)) => self.lose(now, side, Reason::Disconnected, out),

            (_, Event::Timeout) => self.expire(now, out),
            // Started already, or late news of what we gave up.
            (Mode::Running | Mode::Barred { .. }, Event::Start)
            | (
                _,
                Event::Close(_)
                | Event::Fail(_)
                | Event::ConnectFailed
                | Event::Received(..)
                | Event::Malformed(..)
                | Event::Disconnected(_),
            ) => {}
        }
        self.proceed(now, out);
        let state = self.state();
        if self.seen.0 != state || self.seen.1.is_none() {
            self.seen = (state, Some(now));
        }
    }

    /// A message, by the state of its connection.
    fn received(&mut self, now: Instant, side: Side, message: Message, out: &mut Vec<Action>) {
        let Some(conn) = &mut self.conns[side] else { return };
        conn.note_activity(now);
        match (&conn.phase, message) {
            (_, Message::Notification(notification)) => self.refused(now, side, notification, out),
            (Phase::OpenSent, Message::Open(open)) => self.opened(now, side, &open, out),
            (Phase::OpenConfirm { .. }, Message::Keepalive) => conn.note_accepted(),
            // Established at the other end: it has decided for this one.
            (Phase::OpenConfirm { answered: true, accepted: true, .. }, message) => {
                self.establish(now, side, out);
                self.received(now, side, message, out);
            }
            (Phase::Established { .. }, Message::Keepalive) => {}
            (Phase::Established { .. }, Message::Update(update)) => out.push(Action::Deliver(update)),
            (Phase::Established { agreed, .. }, Message::RouteRefresh(refresh)) => {
                if agreed.honours(&refresh) {
                    out.push(Action::Refresh(refresh));
                }
            }
            // Anything else is out of turn (RFC 6608 gives each state its subcode).
            (Phase::OpenSent, _) => self.fail(now, side, Notification::fsm_error(1), out),
            (Phase::OpenConfirm { .. }, _) => self.fail(now, side, Notification::fsm_error(2), out),
            (Phase::Established { .. }, _) => self.fail(now, side, Notification::fsm_error(3), out),
        }
    }

    fn start(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.mode = Mode::Running;
        self.failures = 0;
        self.dial(now, out);
    }

    /// Ends all there is, with the same word to every connection, and goes to `mode`.
    fn halt(&mut self, now: Instant, mode: Mode, reason: &Reason, out: &mut Vec<Action>) {
        for side in Side::ALL {
            self.hang_up(now, side, reason, out);
        }
        self.stop_dialling(out);
        self.plain = false;
        self.mode = mode;
    }

    fn bar(&mut self, now: Instant, notification: Notification, out: &mut Vec<Action>) {
        let until = now + self.settings.long_back_off.min(timers::FOREVER);
        self.counters.flaps += u64::from(self.negotiated().is_some());
        let reason = Reason::Sent(notification);
        self.halt(now, Mode::Barred { until }, &reason, out);
        self.last_error = Some(LastError { at: now, reason });
    }

    fn connected(&mut self, now: Instant, side: Side, out: &mut Vec<Action>) {
        if self.conns[side].is_some() {
            return; // The driver's slot is taken: not a connection that we asked for.
        }
        if side == Side::Outgoing {
            if !self.dialler.is_dialling() {
                out.push(Action::Close(side));
                return;
            }
            self.dialler.stop();
        }
        // RFC 4271 §6.8: Established wins over a new connection; but a peer that can restart may
        // have done so, and its new connection replaces the old once it is complete (RFC 4724 §4.2).
        if self.negotiated().is_some_and(|agreed| !agreed.peer_preserves()) {
            ending::refuse(side, Cease::Collision, out);
            return;
        }
        let open = open::build(&self.settings, self.restarting, self.plain);
        out.push(Action::Send(side, Message::Open(open.clone())));
        self.conns[side] = Some(Conn::new(now, open));
    }

    fn connect_failed(&mut self, now: Instant) {
        if !self.dialler.is_dialling() {
            return;
        }
        self.dialler.stop();
        self.pause(now, 0);
        // What ended the session says more than that it cannot be had again.
        if self.last_error.as_ref().is_none_or(|last| last.reason == Reason::ConnectFailed) {
            self.last_error = Some(LastError { at: now, reason: Reason::ConnectFailed });
        }
    }

    /// The peer's OPEN, in OpenSent.
    fn opened(&mut self, now: Instant, side: Side, open: &Open, out: &mut Vec<Action>) {
        let Some(conn) = &self.conns[side] else { return };
        let agreed = match open::negotiate(&self.settings, &conn.sent, open) {
            Ok(agreed) => agreed,
            Err(notification) => return self.fail(now, side, notification, out),
        };
        self.collide(now, side, &agreed, out);
        let Some(conn) = &mut self.conns[side] else { return };
        out.push(Action::SetCodec(side, agreed.codec));
        conn.confirm(now, agreed, &mut self.jitter);
        if self.dialler.is_dialling() {
            self.stop_dialling(out);
        }
    }

    /// Fires what is due.
    fn expire(&mut self, now: Instant, out: &mut Vec<Action>) {
        for side in Side::ALL {
            let Some(conn) = &mut self.conns[side] else { continue };
            if conn.hold_expired(now) {
                self.fail(now, side, Notification::hold_timer_expired(), out);
            } else if conn.send_hold_expired(now) {
                self.fail(now, side, Notification::send_hold_timer_expired(), out);
            } else if conn.keepalive_due(now) {
                conn.note_keepalive(now, &mut self.jitter);
                if conn.is_answered() {
                    out.push(Action::Send(side, Message::Keepalive));
                }
                self.lose_patience(now, side, out);
            }
        }
        match self.mode {
            Mode::Barred { until } if until <= now => {
                self.mode = Mode::Running;
                self.dial(now, out);
            }
            _ if self.dialler.deadline().is_some_and(|at| at <= now) => self.dial(now, out),
            _ => {}
        }
    }

    /// Dials if a connection of ours could still become the session.
    fn dial(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.stop_dialling(out);
        if !self.settings.passive && self.conns[Side::Outgoing].is_none() && self.state() < State::OpenConfirm {
            let pause = self.jitter.of(timers::back_off(self.settings.connect_retry, 0));
            self.dialler.dial(now + pause.max(timers::DIAL_PATIENCE));
            out.push(Action::Dial);
        }
    }

    fn stop_dialling(&mut self, out: &mut Vec<Action>) {
        if self.dialler.is_dialling() {
            out.push(Action::CancelDial);
        }
        self.dialler.stop();
    }

    /// Lets the next dial come after a pause that fits the number of errors in a row; zero errors:
    /// the usual one.
    fn pause(&mut self, now: Instant, failures: u32) {
        if !self.settings.passive {
            let pause = self.jitter.of(timers::back_off(self.settings.connect_retry, failures));
            self.dialler.pause(now + pause, failures > 0);
        }
    }

    /// The slot for a connection that the listener accepted.
    ///
    /// The driver asks before it reports [`Event::Connected`], and carries `out` out before it puts
    /// the connection into the slot: a peer that dials again has given its former attempt up, so
    /// that one is closed.
    pub fn slot_for_incoming(&mut self, now: Instant, out: &mut Vec<Action>) -> Side {
        let dialled_by_peer = [Side::Incoming, Side::Spare];
        let former =
            dialled_by_peer.into_iter().find(|side| self.conns[*side].as_ref().is_some_and(|conn| !conn.is_up()));
        if let Some(side) = former {
            self.yield_to_other(now, side, out);
            return side;
        }
        if self.conns[Side::Incoming].is_none() { Side::Incoming } else { Side::Spare }
    }

    /// Bytes from the peer are known to wait: our being busy must not expire its hold timer.
    pub fn note_activity(&mut self, now: Instant, side: Side) {
        if let Some(conn) = &mut self.conns[side] {
            conn.note_activity(now);
        }
    }

    /// Something got through to the peer at `at`. The driver need not say so each time: it is enough
    /// before each [`Event::Timeout`].
    pub fn note_sent(&mut self, at: Instant, side: Side) {
        if let Some(conn) = &mut self.conns[side] {
            conn.note_sent(at);
        }
    }

    /// When [`Event::Timeout`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let barred_until = match self.mode {
            Mode::Barred { until } => Some(until),
            Mode::Stopped | Mode::Abandoned | Mode::Running => None,
        };
        let conns = self.conns.iter().filter_map(|(_, conn)| conn.as_ref()?.next_deadline());
        conns.chain(self.dialler.deadline()).chain(barred_until).min()
    }

    /// The state, of the connection that got furthest.
    pub fn state(&self) -> State {
        let furthest = self.conns.iter().filter_map(|(_, conn)| conn.as_ref().map(Conn::state)).max();
        furthest.unwrap_or(match self.mode {
            Mode::Stopped | Mode::Abandoned | Mode::Barred { .. } => State::Idle,
            Mode::Running => self.dialler.state(),
        })
    }

    /// Since when it is in this state; `None` before the first event.
    pub const fn since(&self) -> Option<Instant> {
        self.seen.1
    }

    /// The last thing that went wrong.
    pub const fn last_error(&self) -> Option<&LastError> {
        self.last_error.as_ref()
    }

    /// What was agreed with the peer, while Established.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.conns.iter().find_map(|(_, conn)| conn.as_ref()?.established()).map(|agreed| &**agreed)
    }

    /// How often things happened.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The settings in force.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// While set, our OPENs say in which families forwarding has outlived our restart (RFC 4724 §3,
    /// F bits), and that we have restarted if it has in any (R bit). Else it has in all that the
    /// settings name.
    pub const fn set_restarting(&mut self, preserved: Option<PerFamily<bool>>) {
        self.restarting = preserved;
    }

    /// Puts new settings in force. True: connections that are open were negotiated with other
    /// values, and only `Stop` and `Start` bring the new ones to the peer.
    #[must_use]
    pub fn update_settings(&mut self, now: Instant, settings: Settings) -> bool {
        let unlike = !self.settings.negotiates_like(&settings);
        if self.settings.send_hold_time != settings.send_hold_time {
            let up = Side::ALL.into_iter().find(|side| self.conns[*side].as_ref().is_some_and(Conn::is_up));
            if let Some(conn) = up.and_then(|side| self.conns[side].as_mut()) {
                conn.arm_send_hold(now, settings.send_hold_time);
            }
        }
        self.settings = settings;
        if self.settings.passive && !self.dialler.is_dialling() {
            self.dialler.stop();
        }
        let open = self.conns.iter().any(|(_, conn)| conn.is_some());
        if self.mode == Mode::Running && !open {
            self.pause(now, 0);
        }
        unlike && open
    }
}
