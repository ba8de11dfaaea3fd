//! BFD beside BGP: a session for each peer that is configured with it, and its failures told to the
//! peer's task.
//!
//! A BFD session lives as long as its peer is configured, whatever BGP does, so a path that is dead
//! is known before BGP tries it. It holds nothing back: a peer that doesn't speak BFD, or says
//! AdminDown, is a peer without BFD.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::Instrument;

use crate::bfd::{self, State};
use crate::daemon::journal::Named;
use crate::daemon::peer::Command;
use crate::io::bfd::{Hops, NewSession, Priority, Status, Thread};
use crate::metrics::{BfdMetrics, Metrics};
use crate::view::EventKind;

/// By then the other side has answered if it ever does: three slow packets (RFC 5880 §6.8.3).
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// By then a peer's BGP knows what its BFD knows, and the other way round: FRR tells BGP by way of two
/// other daemons, which takes 3 ms where nothing else is to be done.
const SPREADS_WITHIN: Duration = Duration::from_millis(100);

/// How a peer's path is watched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Profile {
    /// Our address; none: the kernel's choice
    pub local: Option<IpAddr>,
    /// On the link or behind routers
    pub hops: Hops,
    /// Intervals and multiplier
    pub settings: bfd::Settings,
}

/// A session under way.
#[derive(Clone, Debug)]
pub struct Running {
    /// How it was made
    pub profile: Profile,
    status: watch::Receiver<Status>,
    metrics: BfdMetrics,
}

impl Running {
    /// How it is.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Waits until the other side has answered this session, or for so long that it won't soon.
    ///
    /// After a restart of ours the peer's BFD may still take our former session for alive, and see the
    /// new one as a failure of the path. It had better do so before BGP is back: a BGP session that it
    /// ends takes along what the peer keeps for us.
    pub async fn answered(mut self) {
        let answered = self.status.wait_for(|status| status.session.state >= State::Init);
        if tokio::time::timeout(ANSWERS_WITHIN, answered).await.is_ok() {
            tokio::time::sleep(SPREADS_WITHIN).await;
        }
    }

    /// Packets received and sent so far.
    pub fn packets(&self) -> (u64, u64) {
        self.metrics.packets()
    }
}

/// Who is watched.
#[derive(Debug)]
pub struct Watched<'a> {
    /// The peer's address
    pub address: IpAddr,
    /// Its name in the file, for metrics
    pub name: &'a str,
    /// Its task
    pub commands: &'a mpsc::Sender<Command>,
    /// Tells what happens to it
    pub journal: &'a Named,
}

/// The thread's owner.
#[derive(Debug)]
pub struct Bfd {
    /// None: nobody has wanted BFD so far
    thread: Option<Thread>,
    priority: Arc<OnceLock<Priority>>,
    metrics: Arc<Metrics>,
}

impl Bfd {
    /// Starts nothing yet; the thread tells in `priority` what it got.
    pub fn new(metrics: Arc<Metrics>, priority: Arc<OnceLock<Priority>>) -> Self {
        Self { thread: None, priority, metrics }
    }

    /// Brings a peer's session to what is wanted; none: to its end.
    pub async fn bring(&mut self, peer: &Watched<'_>, wanted: Option<Profile>, running: &mut Option<Running>) {
        let thread = match (&self.thread, wanted) {
            (Some(thread), _) => thread,
            (None, None) => return,
            (None, Some(_)) => match Thread::spawn(self.metrics.bfd_totals(), Arc::clone(&self.priority)) {
                Ok(thread) => self.thread.insert(thread),
                Err(error) => {
                    tracing::error!(%error, "no BFD: its thread can't be started");
                    return;
                }
            },
        };
        match (wanted, running.as_mut()) {
            (Some(wanted), Some(running)) if wanted == running.profile => {}
            // Intervals change under way; the rest makes it another session.
            (Some(wanted), Some(running))
                if (Profile { settings: running.profile.settings, ..wanted }) == running.profile =>
            {
                thread.configure(peer.address, wanted.settings).await;
                running.profile = wanted;
            }
            (Some(profile), _) => {
                let (publish, status) = watch::channel(Status::default());
                let metrics = self.metrics.bfd(peer.name);
                tokio::spawn(follow(status.clone(), peer.commands.clone(), peer.journal.clone()).in_current_span());
                let Profile { local, hops, settings } = profile;
                let remote = peer.address;
                let session = NewSession { remote, local, hops, settings, status: publish, metrics: metrics.clone() };
                thread.add(session).await;
                *running = Some(Running { profile, status, metrics });
            }
            (None, Some(_)) => {
                thread.remove(peer.address).await;
                *running = None;
            }
            (None, None) => {}
        }
    }

    /// Tells everybody that we go on purpose, and ends the thread. BGP sessions have ended before.
    pub async fn leave(self) {
        if let Some(thread) = self.thread {
            // BIRD and FRR end a BGP session that still stands at an AdminDown; and FRR has seen it go
            // before it has seen the end of the connection.
            tokio::time::sleep(SPREADS_WITHIN).await;
            thread.leave().await;
        }
    }
}

/// Tells the peer's task of failures, and the log of all changes, until the session ends.
async fn follow(mut status: watch::Receiver<Status>, commands: mpsc::Sender<Command>, journal: Named) {
    let mut before = Status::default();
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        if now.failures > before.failures {
            // An error: the peer's task has ended, and this session is about to.
            let _ = commands.send(Command::PathFailed { independent: now.session.independent }).await;
        }
        tell(&before, &now, &journal);
        before = now;
    }
}

fn tell(before: &Status, now: &Status, journal: &Named) {
    if let Some(failure) = now.last_failure.filter(|_| now.failures > before.failures) {
        tracing::warn!(reason = %failure, "BFD session down");
        journal.note(EventKind::Bfd, "down", Some(failure.to_string()));
    }
    let (was, is) = (before.session.state, now.session.state);
    match is {
        State::Up if was != State::Up || now.failures > before.failures => {
            tracing::info!("BFD session up");
            journal.note(EventKind::Bfd, "up", None);
        }
        State::Down | State::Init if was == State::Up && now.failures == before.failures => {
            let peer = now.session.remote_state;
            tracing::info!(%peer, "BFD session down: taken down on purpose, or the peer's begins anew");
            let cause = "taken down on purpose, or the peer's begins anew";
            journal.note(EventKind::Bfd, "down, which is no failure", Some(cause.to_owned()));
        }
        _ => {}
    }
    let pace = |status: &Status| (status.session.transmit, status.session.detection);
    if is == State::Up && pace(before) != pace(now) {
        let (interval, detection) = pace(now);
        tracing::info!(?interval, detection_time = ?detection, "BFD timers agreed on");
    }
    if let Some(error) = now.error.as_ref().filter(|error| before.error.as_ref() != Some(error)) {
        tracing::warn!(error, "BFD packets can't be sent or received, trying again");
        journal.note(EventKind::Bfd, "packets can't be sent or received", Some(error.clone()));
    }
}
