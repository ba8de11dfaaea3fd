//! One BFD session (RFC 5880 §6.8), in the active role and asynchronous mode.
//!
//! What is left out, as the RFC allows: authentication, the echo function, and demand mode of our
//! own. A peer in demand mode is obeyed: we fall silent while both are Up, save for polls.
//!
//! Down is no failure of the path where the other side has begun anew: the detection time has not
//! passed, so the path is fine. It shows by another discriminator than we were Up with; or by the
//! diagnostic that we went down, which we know that we didn't: so says FRR when it replaces a session,
//! and it does as soon as BGP is up. Where this is news of a control plane that has died, BGP has it
//! from TCP, and knows about graceful restart.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::packet::{Diagnostic, Packet, State};

/// Least interval between our packets while the session is not Up (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// How long packets may take from the wire to us after we were kept from running.
const GRACE: Duration = Duration::from_millis(20);

/// How often a silence is excused by that: a machine that always comes late must notice, too.
const EXCUSES: u8 = 2;

/// What the other side is taken to accept before it has said anything (RFC 5880 §6.8.1).
const UNHEARD_MIN_RX: Duration = Duration::from_micros(1);

/// A session as configured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Least time between packets, in both directions
    pub interval: Duration,
    /// Intervals without a packet of ours after which the other side shall count us as dead
    pub multiplier: NonZeroU8,
    /// Held down on purpose (RFC 5880 §6.8.16)
    pub admin_down: bool,
}

/// A change of state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change {
    /// From
    pub from: State,
    /// To
    pub to: State,
    /// The path failed: it was Up, nobody took it down on purpose (RFC 5882 §3.2), and it is not that
    /// the other side has begun anew
    pub failure: bool,
}

/// What follows from an event.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Output {
    /// To be sent now
    pub send: Option<Packet>,
    /// The state is another
    pub change: Option<Change>,
}

/// How a session is, for those who look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// Our state
    pub state: State,
    /// Why
    pub diagnostic: Diagnostic,
    /// What the other side said last of its own
    pub remote_state: State,
    /// And why
    pub remote_diagnostic: Diagnostic,
    /// Interval between our packets before jitter; none: we are to be silent
    pub transmit: Option<Duration>,
    /// Silence after which the other side counts as dead; none: it is not heard
    pub detection: Option<Duration>,
    /// The other side's BFD outlives its control plane (C bit)
    pub independent: bool,
}

/// What is known of the other side.
#[derive(Clone, Copy, Debug)]
struct Remote {
    state: State,
    diagnostic: Diagnostic,
    /// 0: not heard, or not any more
    discriminator: u32,
    desired_min_tx: Duration,
    required_min_rx: Duration,
    multiplier: NonZeroU8,
    demand: bool,
    independent: bool,
}

/// A Poll Sequence of ours (RFC 5880 §6.5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Poll {
    None,
    Active,
    /// Values changed once more meanwhile: a Final may answer the former ones, so it starts anew
    Again,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Session {
    settings: Settings,
    discriminator: NonZeroU32,
    dice: SmallRng,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    poll: Poll,
    /// bfd.DesiredMinTxInterval, as packets say
    desired_min_tx: Duration,
    /// What our own sending goes by: a longer interval waits for the end of the poll
    paced_tx: Duration,
    /// What detection goes by: a shorter interval waits for the end of the poll
    expected_rx: Duration,
    /// Interval that `next_send` was made with
    pace: Option<Duration>,
    last_sent: Option<Instant>,
    next_send: Option<Instant>,
    last_heard: Option<Instant>,
    /// Silence counts for nothing before this
    excused_until: Option<Instant>,
    /// Since something was heard
    excuses: u8,
}

impl Session {
    /// A session in Down, or AdminDown if it is to be, whose first packet is due at once.
    ///
    /// `discriminator`: unique among our sessions, and hard to guess. `seed`: of the jitter.
    pub fn new(now: Instant, discriminator: NonZeroU32, settings: Settings, seed: u64) -> Self {
        let slow = settings.interval.max(SLOW);
        Self {
            settings,
            discriminator,
            dice: SmallRng::seed_from_u64(seed),
            state: if settings.admin_down { State::AdminDown } else { State::Down },
            diagnostic: if settings.admin_down { Diagnostic::ADMIN_DOWN } else { Diagnostic::NONE },
            remote: Remote {
                state: State::Down,
                diagnostic: Diagnostic::NONE,
                discriminator: 0,
                desired_min_tx: SLOW,
                required_min_rx: UNHEARD_MIN_RX,
                multiplier: NonZeroU8::MIN,
                demand: false,
                independent: false,
            },
            poll: Poll::None,
            desired_min_tx: slow,
            paced_tx: slow,
            expected_rx: settings.interval,
            pace: Some(slow),
            last_sent: None,
            next_send: Some(now),
            last_heard: None,
            excused_until: None,
            excuses: 0,
        }
    }

    /// A packet for this session; that it may be one was checked (RFC 5880 §6.8.6).
    pub fn received(&mut self, now: Instant, packet: &Packet) -> Output {
        let anew = ![0, packet.my_discriminator.get()].contains(&self.remote.discriminator)
            || packet.diagnostic == Diagnostic::NEIGHBOR_DOWN;
        self.remote = Remote {
            state: packet.state,
            diagnostic: packet.diagnostic,
            discriminator: packet.my_discriminator.get(),
            desired_min_tx: packet.desired_min_tx,
            required_min_rx: packet.required_min_rx,
            multiplier: packet.multiplier,
            demand: packet.demand,
            independent: packet.independent,
        };
        if packet.is_final {
            self.end_poll();
        }
        if self.state == State::AdminDown {
            self.repace(now);
            return Output::default();
        }
        (self.last_heard, self.excused_until, self.excuses) = (Some(now), None, 0);
        let mut change = match (self.state, packet.state) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.enter(State::Down, Diagnostic::NEIGHBOR_DOWN)
            }
            (State::Down, State::Down) => self.enter(State::Init, Diagnostic::NONE),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Diagnostic::NONE)
            }
            _ => None,
        };
        if let Some(change) = &mut change {
            change.failure &= !anew;
        }
        self.repace(now);
        let send = match (change, packet.poll) {
            (None, false) => None,
            // RFC 5880 §6.8.7: a Final goes out whatever the timers say, and doesn't reset them.
            (None, true) => Some(self.packet(true)),
            // ... and so does what the other side should know soon.
            (Some(_), poll) => Some(self.send(now, poll)),
        };
        Output { send, change }
    }

    /// Does what is due.
    pub fn timeout(&mut self, now: Instant) -> Output {
        let mut output = Output::default();
        if self.expires().is_some_and(|at| at <= now) {
            self.last_heard = None;
            // RFC 5880 §6.8.1: the discriminator is forgotten. What else the peer wanted was of the
            // same incarnation of it: one that took no packets may take some when it is back.
            self.remote.discriminator = 0;
            self.remote.required_min_rx = UNHEARD_MIN_RX;
            self.remote.demand = false;
            if matches!(self.state, State::Init | State::Up) {
                output.change = self.enter(State::Down, Diagnostic::EXPIRED);
            }
            self.repace(now);
        }
        if output.change.is_some() || self.next_send.is_some_and(|at| at <= now) {
            output.send = Some(self.send(now, false));
        }
        output
    }

    /// We were kept from running until now: what the other side sent meanwhile may still be on its
    /// way to us, through a machine that has just woken up. Silence is judged a little later.
    pub fn excuse(&mut self, now: Instant) {
        if self.excuses < EXCUSES && self.expires().is_some_and(|at| at <= now) {
            self.excuses += 1;
            self.excused_until = Some(now + GRACE);
        }
    }

    /// New settings; while Up they come into force by a Poll Sequence (RFC 5880 §6.8.3).
    pub fn configure(&mut self, now: Instant, settings: Settings) -> Output {
        if settings == self.settings {
            return Output::default();
        }
        let interval = settings.interval != self.settings.interval;
        let held = std::mem::replace(&mut self.settings, settings).admin_down;
        let change = match (held, settings.admin_down) {
            (false, true) => self.enter(State::AdminDown, Diagnostic::ADMIN_DOWN),
            (true, false) => self.enter(State::Down, Diagnostic::NONE),
            _ => None,
        };
        if interval {
            // §6.8.3: until the poll is over, what was required before is still what may come.
            if self.state != State::Up || settings.interval > self.expected_rx {
                self.expected_rx = settings.interval;
            }
            self.set_desired_min_tx();
            self.begin_poll();
        }
        self.repace(now);
        Output { send: Some(self.send(now, false)), change }
    }

    /// Takes the session down on purpose, or says once more that it is.
    pub fn admin_down(&mut self, now: Instant) -> Output {
        let output = self.configure(now, Settings { admin_down: true, ..self.settings });
        Output { send: output.send.or_else(|| Some(self.send(now, false))), ..output }
    }

    /// When [`timeout`](Self::timeout) is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.next_send, self.expires()].into_iter().flatten().min()
    }

    /// The name in our packets.
    pub const fn discriminator(&self) -> NonZeroU32 {
        self.discriminator
    }

    /// How it is now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            state: self.state,
            diagnostic: self.diagnostic,
            remote_state: self.remote.state,
            remote_diagnostic: self.remote.diagnostic,
            transmit: self.interval(),
            detection: self.last_heard.map(|_| self.detection_time()),
            independent: self.remote.independent,
        }
    }

    fn enter(&mut self, to: State, diagnostic: Diagnostic) -> Option<Change> {
        let from = std::mem::replace(&mut self.state, to);
        if from == to {
            return None;
        }
        self.diagnostic = diagnostic;
        if to == State::AdminDown {
            self.last_heard = None;
        }
        if from == State::Up {
            self.expected_rx = self.settings.interval;
        }
        let before = self.desired_min_tx;
        self.set_desired_min_tx();
        if self.desired_min_tx != before {
            self.begin_poll();
        }
        let failure = (from, to) == (State::Up, State::Down) && self.remote.state != State::AdminDown;
        Some(Change { from, to, failure })
    }

    fn set_desired_min_tx(&mut self) {
        // RFC 5880 §6.8.3: no faster than one a second while not Up.
        let slowest = if self.state == State::Up { Duration::ZERO } else { SLOW };
        self.desired_min_tx = self.settings.interval.max(slowest);
        // While Up, a longer interval waits until the other side has said that it knows.
        if self.state != State::Up || self.desired_min_tx < self.paced_tx {
            self.paced_tx = self.desired_min_tx;
        }
    }

    fn begin_poll(&mut self) {
        self.poll = if self.poll == Poll::None { Poll::Active } else { Poll::Again };
    }

    fn end_poll(&mut self) {
        self.poll = match self.poll {
            Poll::Again => Poll::Active,
            Poll::Active => {
                self.paced_tx = self.desired_min_tx;
                self.expected_rx = self.settings.interval;
                Poll::None
            }
            Poll::None => Poll::None,
        };
    }

    /// Interval between our periodic packets (RFC 5880 §6.8.2); none: there are none (§6.8.7).
    fn interval(&self) -> Option<Duration> {
        let remote = &self.remote;
        let both_up = self.state == State::Up && remote.state == State::Up;
        let silent = remote.required_min_rx.is_zero() || remote.demand && both_up && self.poll == Poll::None;
        (!silent).then(|| self.paced_tx.max(remote.required_min_rx))
    }

    /// RFC 5880 §6.8.4.
    fn detection_time(&self) -> Duration {
        self.expected_rx.max(self.remote.desired_min_tx) * u32::from(self.remote.multiplier.get())
    }

    fn expires(&self) -> Option<Instant> {
        self.last_heard.map(|at| (at + self.detection_time()).max(self.excused_until.unwrap_or(at)))
    }

    /// Brings the next packet forward if packets are to come faster than it was thought, or to
    /// begin, or to end. One that is due early is no harm, so nothing is ever put off.
    fn repace(&mut self, now: Instant) {
        let interval = self.interval();
        if interval == self.pace {
            return;
        }
        self.pace = interval;
        let at = interval.map(|interval| {
            let at = self.last_sent.map_or(now, |sent| sent + self.jittered(interval));
            self.next_send.map_or(at, |next| next.min(at))
        });
        self.next_send = at;
    }

    /// RFC 5880 §6.8.7: less 0 to 25 %; with a multiplier of 1, where one late packet would be the
    /// end, less 10 to 25 %.
    fn jittered(&mut self, interval: Duration) -> Duration {
        let most = if self.settings.multiplier == NonZeroU8::MIN { 0.9 } else { 1.0 };
        interval.mul_f64(self.dice.random_range(0.75..=most))
    }

    /// A packet that takes the place of the next periodic one.
    fn send(&mut self, now: Instant, is_final: bool) -> Packet {
        self.last_sent = Some(now);
        self.pace = self.interval();
        self.next_send = self.pace.map(|interval| now + self.jittered(interval));
        self.packet(is_final)
    }

    fn packet(&self, is_final: bool) -> Packet {
        Packet {
            state: self.state,
            diagnostic: self.diagnostic,
            // Never both (RFC 5880 §6.5).
            poll: self.poll != Poll::None && !is_final,
            is_final,
            // We live in the process that speaks BGP: when it dies, so do we.
            independent: false,
            demand: false,
            multiplier: self.settings.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: self.desired_min_tx,
            required_min_rx: self.settings.interval,
        }
    }
}
