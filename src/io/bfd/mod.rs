//! BFD on the wire: one thread with all sessions, their sockets and timers.
//!
//! A session that sends every 50 ms can't share a runtime with work that takes a second without a
//! pause, so this is a thread of its own, with real-time priority where that is permitted. It
//! decides nothing: [`bfd::Session`] does. Commands come in over a channel; what becomes of a
//! session goes out over its `watch`, where newer replaces older, so nobody can make it wait.
//! Handling a packet allocates nothing.

mod engine;
mod priority;
mod socket;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{mpsc, oneshot, watch};

use self::engine::Engine;
pub use self::priority::Priority;
use crate::bfd::{Diagnostic, Settings, Snapshot};
use crate::metrics::{BfdMetrics, BfdTotals};

/// Commands that may wait.
const COMMANDS: usize = 64;

/// How far away the other side is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hops {
    /// On the link (RFC 5881): UDP port 3784, only with a TTL of 255
    Single,
    /// Behind routers (RFC 5883): UDP port 4784, only with at least this TTL
    Multi {
        /// 0: any
        least_ttl: u8,
    },
}

/// A session to begin.
#[derive(Debug)]
pub struct NewSession {
    /// The other side
    pub remote: IpAddr,
    /// Source address; none: the kernel's choice
    pub local: Option<IpAddr>,
    /// How far away it is
    pub hops: Hops,
    /// Intervals and multiplier
    pub settings: Settings,
    /// Where to tell how it is
    pub status: watch::Sender<Status>,
    /// What to count
    pub metrics: BfdMetrics,
}

/// How a session is; told when it changes.
#[derive(Clone, Debug)]
pub struct Status {
    /// The state machine's view
    pub session: Snapshot,
    /// Since when it is in its state
    pub since: SystemTime,
    /// How often the path failed: Up to Down, and not on purpose
    pub failures: u64,
    /// The last of these
    pub last_failure: Option<Failure>,
    /// Why packets can't be sent or received
    pub error: Option<String>,
}

/// A failure of the path.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// When
    pub at: SystemTime,
    /// What we saw
    pub diagnostic: Diagnostic,
    /// What the other side had said last
    pub remote_diagnostic: Diagnostic,
    /// By how much our thread ran late shortly before: then it may be this machine that failed
    pub late: Option<Duration>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.diagnostic.fmt(f)?;
        if self.remote_diagnostic != Diagnostic::NONE {
            write!(f, " (the peer says: {})", self.remote_diagnostic)?;
        }
        match self.late {
            Some(late) => write!(f, "; BFD was kept from running for {} ms on this machine", late.as_millis()),
            None => Ok(()),
        }
    }
}

impl Default for Status {
    fn default() -> Self {
        Self { session: Snapshot::default(), since: SystemTime::now(), failures: 0, last_failure: None, error: None }
    }
}

/// What the thread is told.
#[derive(Debug)]
enum Command {
    Add(Box<NewSession>),
    Configure { remote: IpAddr, settings: Settings },
    Remove { remote: IpAddr },
    Leave { done: oneshot::Sender<()> },
}

/// The thread, seen from outside. It ends when this is dropped.
#[derive(Debug)]
pub struct Thread {
    commands: mpsc::Sender<Command>,
    waker: Waker,
}

/// Wakes the thread from its poll.
#[derive(Clone, Debug)]
struct Waker(Arc<EventFd>);

impl Waker {
    fn wake(&self) {
        // It fails only where 2^64 - 2 calls wait: awake already.
        let _ = self.0.write(1);
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.waker.wake();
    }
}

impl Thread {
    /// Starts the thread, which tells in `priority` what it got; sockets are opened with the first
    /// session that needs them.
    pub fn spawn(totals: BfdTotals, priority: Arc<OnceLock<Priority>>) -> std::io::Result<Self> {
        let waker = Waker(Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?));
        let (commands, queue) = mpsc::channel(COMMANDS);
        let event = Arc::clone(&waker.0);
        std::thread::Builder::new().name("bfd".to_owned()).spawn(move || {
            let got = priority::raise();
            tracing::info!(priority = %got, "BFD thread started");
            // Nobody else sets it.
            let _ = priority.set(got);
            Engine::new(queue, event, totals).run();
        })?;
        Ok(Self { commands, waker })
    }

    /// Begins a session; one with the same address is ended first.
    pub async fn add(&self, session: NewSession) {
        self.tell(Command::Add(Box::new(session))).await;
    }

    /// Gives a session other intervals, by a Poll Sequence if it is Up.
    pub async fn configure(&self, remote: IpAddr, settings: Settings) {
        self.tell(Command::Configure { remote, settings }).await;
    }

    /// Ends a session, and tells the other side that this is no failure.
    pub async fn remove(&self, remote: IpAddr) {
        self.tell(Command::Remove { remote }).await;
    }

    /// Ends all sessions in the same way and then the thread; takes a tenth of a second.
    pub async fn leave(self) {
        let (done, finished) = oneshot::channel();
        self.tell(Command::Leave { done }).await;
        // Always an error: the thread drops its end when it ends.
        let _ = finished.await;
    }

    async fn tell(&self, command: Command) {
        // An error: the thread is gone. It ends on request or by a panic, which ends the process.
        let _ = self.commands.send(command).await;
        self.waker.wake();
    }
}
