//! Drives one peer's session: waits, carries out what the state machine says, decides nothing.
//!
//! The task owns the session and its connections. What the session delivers goes to the routing
//! task over a bounded queue; while that is full nothing is read, so TCP slows the peer down.

mod news;
mod record;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::news::News;
pub use self::record::Record;
use crate::bfd;
use crate::bgp::message::{Message, Notification, Update};
use crate::bgp::rib::PeerId;
use crate::bgp::session::{Action, Event, Negotiated, PerSide, Reason, Session, Settings, Side, State};
use crate::bgp::wire::Cease;
use crate::daemon::connection::Connection;
use crate::daemon::journal::Named;
use crate::daemon::routing::{Input, Up};
use crate::daemon::until;
use crate::explain::peer::DialError;
use crate::io::drops;
use crate::io::tcp::{self, ConnectError, ConnectOptions, StreamOptions, Unread};
use crate::metrics::PeerMetrics;
use crate::net::PerFamily;
use crate::view;

/// Chunks of routes (64 KiB each) that may wait for a slow peer.
const ROUTES_QUEUE: usize = 32;
/// Updates decoded before the routing task gets them; bounds memory, not latency.
const BATCH: usize = 512;

/// What the peer task is told from outside.
pub enum Command {
    /// The listener accepted a connection from the peer's address
    Accepted(TcpStream),
    /// The file changed; the session is reset only if it must be
    Configure(Box<Profile>),
    /// End the session for a local reason such as too many prefixes, and stay away for a while
    Close(Notification),
    /// The peer is no longer wanted: say so, then end
    Stop(Notification),
    /// BFD says that the path is dead; `independent`: by a forwarding plane that outlives BGP
    PathFailed { independent: bool },
    /// The node is drained: say so, stay idle until [`Command::Open`]
    Shut(Notification),
    /// It is drained no more
    Open,
    /// Our first synchronisation is over: OPENs need no longer say that we have restarted
    Restarted,
    /// The daemon exits but forwarding stays: close without a word (RFC 4724)
    Abandon,
}

/// How the peer is reached and spoken to.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its address and port
    pub remote: SocketAddr,
    /// Settings of the session
    pub session: Settings,
    /// Our address; none: the kernel's choice
    pub local: Option<IpAddr>,
    /// TCP-MD5 key
    pub password: Option<Box<[u8]>>,
    /// Settings of the connection
    pub stream: StreamOptions,
    /// How long a connection attempt may take
    pub dial_timeout: Duration,
}

impl Profile {
    fn connect_options(&self) -> ConnectOptions<'_> {
        ConnectOptions {
            local: self.local,
            remote: self.remote,
            password: self.password.as_deref(),
            stream: self.stream,
        }
    }

    /// Whether an open connection doesn't fit the other profile.
    fn reaches_differently(&self, other: &Self) -> bool {
        (self.remote, self.local, &self.password, self.stream)
            != (other.remote, other.local, &other.password, other.stream)
    }
}

/// What others may see of the session; published at every change.
#[derive(Clone, Debug)]
pub struct Status {
    /// State of the session
    pub state: State,
    /// Since when
    pub since: SystemTime,
    /// When the session came up or was lost, or else when the task began
    pub changed: SystemTime,
    /// How the last session or attempt ended
    pub last_error: Option<(String, SystemTime)>,
    /// What was agreed on, while established
    pub negotiated: Option<view::Negotiated>,
    /// Established sessions lost
    pub flaps: u64,
    /// Sessions established
    pub established: u64,
    /// UPDATEs with malformed attributes
    pub malformed: u64,
    /// What happened last
    pub record: Arc<Record>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            state: State::Idle,
            since: SystemTime::now(),
            changed: SystemTime::now(),
            last_error: None,
            negotiated: None,
            flaps: 0,
            established: 0,
            malformed: 0,
            record: Arc::default(),
        }
    }
}

/// Who is told of the session.
#[derive(Debug)]
pub struct Told {
    /// Whoever looks
    pub status: watch::Sender<Status>,
    /// Counters
    pub metrics: PeerMetrics,
    /// The journal
    pub journal: Named,
}

impl Status {
    fn record(&mut self, note: impl FnOnce(&mut Record)) {
        note(Arc::make_mut(&mut self.record));
    }
}

/// A dial that came to nothing: why, and what an operator should read.
type DialFailure = (DialError, String);

type Dial = Pin<Box<dyn Future<Output = Result<TcpStream, DialFailure>> + Send>>;

/// The task's state.
pub struct PeerTask {
    id: PeerId,
    profile: Profile,
    session: Session,
    connections: PerSide<Option<Connection>>,
    dial: Option<Dial>,
    commands: mpsc::Receiver<Command>,
    routing: mpsc::Sender<Input>,
    /// For the routing task, in order; nothing is read while it is not empty.
    pending: VecDeque<Input>,
    actions: Vec<Action>,
    status: watch::Sender<Status>,
    metrics: PeerMetrics,
    news: News,
    /// The session's last error that `status` has told of
    error_seen: Option<std::time::Instant>,
    stopping: bool,
    /// There is to be no session
    shut: bool,
    /// Connections that are getting their last words out
    closing: Vec<JoinHandle<()>>,
}

impl PeerTask {
    /// A task that has not begun.
    ///
    /// `restarting`: the peer is told in which families we have kept forwarding (RFC 4724 §4.1).
    pub fn new(
        id: PeerId,
        profile: Profile,
        restarting: Option<PerFamily<bool>>,
        commands: mpsc::Receiver<Command>,
        routing: mpsc::Sender<Input>,
        told: Told,
    ) -> Self {
        let Told { status, metrics, journal } = told;
        let mut session = Session::new(profile.session.clone());
        session.set_restarting(restarting);
        Self {
            id,
            session,
            profile,
            connections: PerSide::default(),
            dial: None,
            commands,
            routing,
            pending: VecDeque::new(),
            actions: Vec::new(),
            status,
            metrics,
            news: News::new(journal),
            error_seen: None,
            stopping: false,
            shut: false,
            closing: Vec::new(),
        }
    }

    /// Runs until [`Command::Stop`] or [`Command::Abandon`], or until the routing task is gone; the last words are
    /// out by then, or given up.
    pub async fn run(mut self) {
        self.work().await;
        for closing in self.closing {
            let _ = closing.await;
        }
    }

    async fn work(&mut self) {
        let routing = self.routing.clone();
        self.record(|record| record.drops = drops::tcp());
        self.handle(Event::Start);
        // Who has called already need not be called.
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        while !(self.stopping && self.pending.is_empty()) {
            let deadline = self.session.next_deadline().map(Instant::from_std);
            tokio::select! {
                biased; // Timers first: a peer that floods us must not starve its own keepalives.
                () = until(deadline) => self.timeout(),
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                // A full queue stops the reading, never the timers.
                permit = routing.reserve(), if !self.pending.is_empty() => {
                    let Ok(permit) = permit else { return };
                    if let Some(input) = self.pending.pop_front() {
                        permit.send(input);
                    }
                }
                (side, read) = fill(&mut self.connections), if self.pending.is_empty() => self.read(side, &read),
                // Last: an OPEN that waits may make a dial needless, and two connections are one too many.
                result = dialled(&mut self.dial) => self.dialled(result),
            }
            self.publish();
        }
    }

    fn timeout(&mut self) {
        let now = Instant::now().into_std();
        for side in Side::ALL {
            let Some(connection) = &self.connections[side] else { continue };
            self.session.note_sent(connection.last_sent().into_std(), side);
            match connection.unread() {
                // We have not read for a while, be it that the routing task is busy or the whole
                // host: what looks like silence is our fault, not the peer's.
                Unread::Bytes => self.session.note_activity(now, side),
                Unread::End => self.read(side, &Ok(0)),
                Unread::Nothing => {}
            }
        }
        self.handle(Event::Timeout);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Accepted(stream) => {
                if let Err(error) = tcp::prepare_accepted(&stream, self.profile.stream) {
                    tracing::warn!(%error, "accepted connection refused");
                    return;
                }
                let now = Instant::now().into_std();
                let mut actions = Vec::new();
                let slot = self.session.slot_for_incoming(now, &mut actions);
                for action in actions {
                    self.carry_out(action);
                }
                self.connected(slot, stream);
            }
            Command::Configure(profile) => {
                let mut reset = self.session.update_settings(Instant::now().into_std(), profile.session.clone());
                reset |= profile.reaches_differently(&self.profile);
                self.profile = *profile;
                if reset && !self.shut {
                    self.handle(Event::Stop(Notification::cease(Cease::ConfigChange)));
                    self.handle(Event::Start);
                }
            }
            Command::Close(notification) => {
                let until = SystemTime::now() + self.profile.session.long_back_off;
                self.record(|record| record.barred = Some(until));
                self.handle(Event::Close(notification));
            }
            Command::Stop(notification) => {
                self.handle(Event::Stop(notification));
                self.stopping = true;
            }
            Command::PathFailed { independent } => self.path_failed(independent),
            Command::Shut(notification) => {
                self.handle(Event::Stop(notification));
                self.shut = true;
            }
            Command::Open => {
                self.shut = false;
                self.handle(Event::Start);
            }
            Command::Restarted => self.session.set_restarting(None),
            Command::Abandon => {
                self.handle(Event::Abandon);
                self.stopping = true;
            }
        }
    }

    fn path_failed(&mut self, independent: bool) {
        let established = self.session.state() == State::Established;
        let client = if established { bfd::Client::Established } else { bfd::Client::NotEstablished };
        match bfd::on_failure(client, independent) {
            bfd::Effect::EndSession => self.handle(Event::Fail(Notification::cease(Cease::BfdDown))),
            bfd::Effect::DropStale => self.pending.push_back(Input::Down { peer: self.id, restart: None }),
            bfd::Effect::None => {}
        }
    }

    fn dialled(&mut self, result: Result<TcpStream, DialFailure>) {
        self.dial = None;
        match result {
            Ok(stream) => self.connected(Side::Outgoing, stream),
            Err((kind, error)) => {
                tracing::debug!(error, "connect failed");
                self.news.failed(&error);
                let now = SystemTime::now();
                self.status.send_modify(|status| {
                    status.record(|record| record.dial = Some(((kind, error.clone()), now)));
                    status.last_error = Some((error, now));
                });
                self.handle(Event::ConnectFailed);
            }
        }
    }

    fn record(&self, note: impl FnOnce(&mut Record)) {
        self.status.send_modify(|status| status.record(note));
    }

    fn connected(&mut self, side: Side, stream: TcpStream) {
        match Connection::new(stream, self.metrics.clone()) {
            Ok(connection) => {
                self.connections[side] = Some(connection);
                self.handle(Event::Connected(side));
            }
            // Gone between accept and here.
            Err(_) if side == Side::Outgoing => self.handle(Event::ConnectFailed),
            Err(_) => {}
        }
    }

    /// Takes whole messages out of the buffer until a batch is full or the session ends.
    fn read(&mut self, side: Side, read: &io::Result<usize>) {
        if matches!(read, Ok(0) | Err(_)) {
            let state = self.session.state();
            self.record(|record| record.closed = Some((state, SystemTime::now())));
            self.connections[side] = None;
            self.handle(Event::Disconnected(side));
            return;
        }
        while let Some(connection) = &mut self.connections[side] {
            match connection.next_message() {
                Ok(Some(message)) => {
                    if record::is_memorable(&message) {
                        self.record(|record| record.heard(&message));
                    }
                    self.handle(Event::Received(side, message));
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "message can't be accepted");
                    self.record(|record| record.malformed = Some((error.to_string(), SystemTime::now())));
                    self.handle(Event::Malformed(side, error.notification()));
                }
            }
        }
    }

    /// Feeds one event and carries out what follows, in order.
    fn handle(&mut self, event: Event) {
        let now = Instant::now().into_std();
        let mut actions = std::mem::take(&mut self.actions);
        self.session.handle(now, event, &mut actions);
        for action in actions.drain(..) {
            self.carry_out(action);
        }
        self.actions = actions;
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Dial => {
                self.dial = Some(Box::pin(dial(self.profile.clone())));
            }
            Action::CancelDial => self.dial = None,
            Action::Send(side, message) => {
                if let Message::Notification(notification) = &message {
                    tracing::info!(%notification, "notification sent");
                    self.record(|record| record.sent = Some((notification.clone(), SystemTime::now())));
                }
                if let Some(connection) = &self.connections[side] {
                    connection.send(&message);
                }
            }
            Action::Close(side) => {
                if let Some(connection) = self.connections[side].take() {
                    self.closing.retain(|closing| !closing.is_finished());
                    self.closing.push(connection.close());
                }
            }
            Action::SetCodec(side, codec) => {
                if let Some(connection) = &mut self.connections[side] {
                    connection.set_codec(codec);
                }
            }
            Action::Up(side, negotiated) => self.up(side, negotiated),
            Action::Deliver(update) => self.deliver(update),
            Action::Refresh(refresh) => self.pending.push_back(Input::Refresh { peer: self.id, refresh }),
            Action::Down(down) => {
                tracing::warn!(reason = %down.reason, graceful = down.graceful, "session lost");
                self.metrics.flapped(down.reason.label());
                self.news.lost(&down);
                let restart = self.session_restart_time(down.graceful);
                self.pending.push_back(Input::Down { peer: self.id, restart });
                self.status.send_modify(|status| status.negotiated = None);
            }
        }
    }

    /// For how long the peer's routes outlive its session (RFC 4724 §4.2); none: they go now.
    fn session_restart_time(&self, graceful: bool) -> Option<Duration> {
        let negotiated = self.status.borrow().negotiated.as_ref().and_then(|agreed| agreed.graceful_restart);
        graceful.then_some(Duration::from_secs(u64::from(negotiated.unwrap_or_default())))
    }

    fn up(&mut self, side: Side, negotiated: Arc<Negotiated>) {
        let Some(connection) = &self.connections[side] else { return };
        let local = connection.local.ip();
        let routes = connection.open_routes(ROUTES_QUEUE);
        tracing::info!(local = %local, hold_time = negotiated.hold_time, "session established");
        self.news.established(self.profile.remote.ip(), &negotiated);
        let shown = show(&negotiated, local);
        self.status.send_modify(|status| status.negotiated = Some(shown));
        self.pending.push_back(Input::Up(Box::new(Up { peer: self.id, negotiated, local, routes })));
    }

    fn deliver(&mut self, update: Update) {
        for fault in &update.faults {
            let outcome = fault.outcome.label();
            self.metrics.malformed(outcome);
            self.news.malformed(fault, outcome);
            tracing::warn!(attribute = fault.code, what = fault.what, outcome, "malformed attribute");
        }
        if !update.faults.is_empty() {
            self.status.send_modify(|status| status.malformed += 1);
        }
        let announced = update.reach.iter().map(|reach| reach.prefixes.len()).sum();
        self.metrics.changed(announced, update.withdrawn.len());
        match self.pending.back_mut() {
            Some(Input::Updates { updates, .. }) if updates.len() < BATCH => updates.push(update),
            _ => {
                let at = Instant::now();
                self.pending.push_back(Input::Updates { peer: self.id, at, updates: vec![update] });
            }
        }
    }

    fn publish(&mut self) {
        let (state, counters) = (self.session.state(), self.session.counters());
        let former = self.status.borrow().state;
        let trying = matches!(former, State::Connect | State::OpenSent | State::OpenConfirm);
        if trying && matches!(state, State::Idle | State::Active) {
            self.pending.push_back(Input::Attempted { peer: self.id });
        }
        let error = self.session.last_error().filter(|error| self.error_seen != Some(error.at));
        let told = error.filter(|error| error.reason != Reason::ConnectFailed).map(|error| error.reason.to_string());
        self.error_seen = error.map(|error| error.at).or(self.error_seen);
        if let Some(error) = &told {
            self.news.failed(error);
        }
        self.status.send_if_modified(|status| {
            if let Some(error) = &told {
                status.last_error = Some((error.clone(), SystemTime::now()));
            }
            let changed = status.state != state;
            if changed {
                if status.state == State::Established {
                    // What the kernel drops from now on may be why it doesn't come back.
                    status.record(|record| record.drops = drops::tcp());
                }
                tracing::debug!(from = %status.state, to = %state, "state changed");
                status.since = SystemTime::now();
                if [status.state, state].contains(&State::Established) {
                    status.changed = status.since;
                }
                status.state = state;
                status.flaps = counters.flaps;
                status.established = counters.established;
            }
            changed || told.is_some()
        });
    }
}

/// What was agreed on, for people.
fn show(negotiated: &Negotiated, local: IpAddr) -> view::Negotiated {
    view::Negotiated {
        router_id: negotiated.peer_router_id.to_string(),
        local_address: Some(local),
        families: negotiated.families.iter().filter(|(_, on)| **on).map(|(family, _)| family.to_string()).collect(),
        hold_time: negotiated.hold_time,
        keepalive: negotiated.keepalive,
        four_octet_as: negotiated.four_octet_as,
        route_refresh: negotiated.route_refresh,
        enhanced_refresh: negotiated.enhanced_refresh,
        extended_message: negotiated.extended_message,
        graceful_restart: negotiated.graceful_restart.as_ref().map(|restart| restart.restart_time),
        capabilities: negotiated.peer_capabilities.iter().map(ToString::to_string).collect(),
    }
}

/// One attempt; the error is what an operator should read.
async fn dial(profile: Profile) -> Result<TcpStream, DialFailure> {
    let options = profile.connect_options();
    let silence = || (DialError::Silence, options.silence_hint().to_owned());
    let error = match tokio::time::timeout(profile.dial_timeout, tcp::connect(&options)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Err(_) => return Err(silence()),
        Ok(Err(error)) => error,
    };
    let kind = match &error {
        ConnectError::Io(_, error) if error.kind() == io::ErrorKind::TimedOut => return Err(silence()),
        ConnectError::NoSuchSource(_) => DialError::NoSource,
        ConnectError::Refused(_) => DialError::Refused,
        ConnectError::Unreachable(_) => DialError::Unreachable,
        ConnectError::Option(..) => DialError::Option,
        ConnectError::Io(..) => DialError::Other,
    };
    let source = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
    Err((kind, format!("{error}{source}")))
}

async fn dialled(dial: &mut Option<Dial>) -> Result<TcpStream, DialFailure> {
    match dial {
        Some(dial) => dial.await,
        None => std::future::pending().await,
    }
}

/// Reads from whichever connection has bytes. Safe to cancel.
async fn fill(connections: &mut PerSide<Option<Connection>>) -> (Side, io::Result<usize>) {
    let [outgoing, incoming, spare] = connections.each_mut();
    let one = async |connection: &mut Option<Connection>| match connection {
        Some(connection) => connection.fill().await,
        None => std::future::pending().await,
    };
    tokio::select! {
        read = one(outgoing) => (Side::Outgoing, read),
        read = one(incoming) => (Side::Incoming, read),
        read = one(spare) => (Side::Spare, read),
    }
}
