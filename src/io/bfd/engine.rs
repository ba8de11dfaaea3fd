//! The thread's loop: commands, packets, deadlines.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hashbrown::HashMap;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use smallvec::SmallVec;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};

use super::socket::{self, Datagram, Receiver};
use super::{Command, Failure, Hops, NewSession, Status};
use crate::bfd::{Discard, Output, Packet, Session, Snapshot};
use crate::metrics::{BfdMetrics, BfdTotals};
use crate::net::Family;

/// Packets of one socket taken before the timers are looked at: more than its buffer holds, so all
/// that came before has been heard by then, and few enough that a flood stops no timer.
const PACKETS: usize = 8192;

/// A thread that is so late for a deadline was kept from running, or the whole machine was.
const LATE: Duration = Duration::from_millis(10);

/// For so long after that, what fails may have failed for it: here, or at the other end, where our
/// packets were missing.
const AFTERMATH: Duration = Duration::from_secs(1);

/// How often AdminDown is said before a session is forgotten: one packet may get lost, and the other
/// side would take the silence for a failure.
const FAREWELLS: u8 = 3;

/// Time between these. RFC 5880 §6.8.16 would have us go on for a detection time, but an exit should
/// not take that long.
const FAREWELL_EVERY: Duration = Duration::from_millis(50);

type Hash = ahash::RandomState;

struct Entry {
    session: Session,
    remote: SocketAddr,
    local: Option<IpAddr>,
    hops: Hops,
    /// None: could not be opened yet
    socket: Option<UdpSocket>,
    /// The deadline that the heap knows; never later than the real one
    scheduled: Option<Instant>,
    status: watch::Sender<Status>,
    shown: Snapshot,
    /// The last thing that went wrong with its sockets
    failed: Option<(io::ErrorKind, Option<i32>)>,
    metrics: BfdMetrics,
    /// It is on its way out: the next goodbye, and how many are left
    farewell: Option<(Instant, u8)>,
}

impl Entry {
    fn next_deadline(&self) -> Option<Instant> {
        self.farewell.map_or_else(|| self.session.next_deadline(), |(at, _)| Some(at))
    }

    fn multihop(&self) -> bool {
        self.hops != Hops::Single
    }

    fn family(&self) -> Family {
        Family::of(self.remote.ip())
    }

    /// Sends and tells what an event led to. `hears`: whether answers can come. `late`: by how much
    /// we were, not long ago.
    fn carry_out(&mut self, output: Output, hears: io::Result<()>, late: Option<Duration>) {
        if let Some(packet) = output.send {
            let sent = self.send(&packet);
            self.note(hears.and(sent));
        }
        if let Some(change) = output.change {
            self.metrics.entered(change.to);
        }
        let seen = self.session.snapshot();
        if seen == self.shown {
            return;
        }
        self.shown = seen;
        self.status.send_modify(|status| {
            status.session = seen;
            if let Some(change) = output.change {
                let now = SystemTime::now();
                status.since = now;
                if change.failure {
                    status.failures += 1;
                    let (diagnostic, remote_diagnostic) = (seen.diagnostic, seen.remote_diagnostic);
                    status.last_failure = Some(Failure { at: now, diagnostic, remote_diagnostic, late });
                }
            }
        });
    }

    fn send(&mut self, packet: &Packet) -> io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(socket::sender(Family::of(self.remote.ip()), self.local, rand::random())?),
        };
        socket.send_to(&packet.encode(), self.remote)?;
        self.metrics.sent();
        Ok(())
    }

    /// Shows an error, once; and that it is over.
    fn note(&mut self, result: io::Result<()>) {
        let failed = result.as_ref().err().map(|error| (error.kind(), error.raw_os_error()));
        if failed == self.failed {
            return;
        }
        self.failed = failed;
        self.status.send_modify(|status| status.error = result.err().map(|error| error.to_string()));
    }
}

/// All sessions.
pub(super) struct Engine {
    commands: mpsc::Receiver<Command>,
    waker: Arc<EventFd>,
    totals: BfdTotals,
    /// By our discriminator
    entries: HashMap<u32, Entry, Hash>,
    /// Who has not said which session it means; sessions on their way out are not among them
    by_address: HashMap<IpAddr, u32, Hash>,
    /// Deadlines; those that are not their session's `scheduled` are of the past
    deadlines: BinaryHeap<Reverse<(Instant, u32)>>,
    receivers: [Option<Receiver>; 4],
    /// When we were late last, and by how much
    late: Option<(Instant, Duration)>,
    done: Option<oneshot::Sender<()>>,
}

/// Place of a receiver.
const fn place(family: Family, multihop: bool) -> usize {
    family as usize * 2 + multihop as usize
}

impl Engine {
    pub fn new(commands: mpsc::Receiver<Command>, waker: Arc<EventFd>, totals: BfdTotals) -> Self {
        Self {
            commands,
            waker,
            totals,
            entries: HashMap::default(),
            by_address: HashMap::default(),
            deadlines: BinaryHeap::new(),
            receivers: [const { None }; 4],
            late: None,
            done: None,
        }
    }

    /// Runs until told to leave, or until nobody is there to tell.
    pub fn run(mut self) {
        loop {
            loop {
                match self.commands.try_recv() {
                    Ok(command) => self.obey(Instant::now(), command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if self.done.is_some() && self.entries.is_empty() {
                // Dropping `done` says so.
                return;
            }
            self.wait();
            // Cleared before the commands are looked at, so none is missed; an error: nothing there.
            let _ = self.waker.read();
            // Taken before the sockets are emptied: whatever came until now is heard before silence
            // is judged, however long the thread was kept from running.
            let now = Instant::now();
            let due = self.deadlines.peek().map_or(now, |Reverse((at, _))| *at);
            let late = now.saturating_duration_since(due);
            if late > LATE {
                self.totals.late();
                self.late = Some((now, late));
            }
            self.receive(now);
            if late > LATE {
                self.entries.values_mut().for_each(|entry| entry.session.excuse(now));
            }
            self.fire(now);
        }
    }

    fn wait(&self) {
        let mut fds: SmallVec<[PollFd<'_>; 5]> = SmallVec::new();
        fds.push(PollFd::new(self.waker.as_fd(), PollFlags::POLLIN));
        let sockets = self.receivers.iter().flatten();
        fds.extend(sockets.map(|receiver| PollFd::new(receiver.socket.as_fd(), PollFlags::POLLIN)));
        let next = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let timeout = next.map(|at| TimeSpec::from_duration(at.saturating_duration_since(Instant::now())));
        // An error can only be an interruption: the loop comes by here again.
        let _ = ppoll(&mut fds, timeout, None);
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Add(new) => self.add(now, *new),
            Command::Configure { remote, settings } => {
                if let Some(name) = self.by_address.get(&remote).copied() {
                    self.update(name, |entry| entry.session.configure(now, settings));
                }
            }
            Command::Remove { remote } => self.remove(now, remote),
            Command::Leave { done } => {
                for remote in self.by_address.keys().copied().collect::<Vec<_>>() {
                    self.remove(now, remote);
                }
                self.done = Some(done);
            }
        }
    }

    fn add(&mut self, now: Instant, new: NewSession) {
        let NewSession { remote, local, hops, settings, status, metrics } = new;
        self.remove(now, remote);
        let name = self.unused_discriminator();
        let session = Session::new(now, name, settings, rand::random());
        let port = socket::port(hops != Hops::Single);
        let entry = Entry {
            // Nothing was shown yet.
            shown: Snapshot::default(),
            session,
            remote: SocketAddr::new(remote, port),
            local,
            hops,
            socket: None,
            scheduled: None,
            status,
            failed: None,
            metrics,
            farewell: None,
        };
        self.entries.insert(name.get(), entry);
        self.by_address.insert(remote, name.get());
        self.update(name.get(), |entry| entry.session.timeout(now));
    }

    /// RFC 5880 §10: one that is hard to guess makes it hard to harm the session from afar.
    fn unused_discriminator(&self) -> NonZeroU32 {
        loop {
            if let Some(name) = NonZeroU32::new(rand::random())
                && !self.entries.contains_key(&name.get())
            {
                return name;
            }
        }
    }

    /// Says goodbye, some more times later, and forgets the session then.
    fn remove(&mut self, now: Instant, remote: IpAddr) {
        let Some(name) = self.by_address.remove(&remote) else { return };
        self.update(name, |entry| {
            entry.farewell = Some((now + FAREWELL_EVERY, FAREWELLS - 1));
            entry.session.admin_down(now)
        });
    }

    /// Lets something happen to a session, and does what follows.
    fn update(&mut self, name: u32, event: impl FnOnce(&mut Entry) -> Output) {
        let Some(entry) = self.entries.get_mut(&name) else { return };
        let output = event(entry);
        let receiver = &mut self.receivers[place(entry.family(), entry.multihop())];
        let hears = match receiver {
            Some(_) => Ok(()),
            // Tried again with each packet that we send, so about once a second.
            None => {
                Receiver::open(entry.family(), entry.multihop()).map(|open| *receiver = Some(open)).map_err(|error| {
                    let port = socket::port(entry.multihop());
                    io::Error::new(error.kind(), format!("UDP port {port}: {error}"))
                })
            }
        };
        let late = self.late.filter(|(at, _)| at.elapsed() < AFTERMATH).map(|(_, late)| late);
        entry.carry_out(output, hears, late);
        // A deadline that moved away is found out when the former one is due.
        if let Some(next) = entry.next_deadline()
            && entry.scheduled.is_none_or(|scheduled| next < scheduled)
        {
            entry.scheduled = Some(next);
            self.deadlines.push(Reverse((next, name)));
        }
    }

    /// Takes the packets that wait.
    fn receive(&mut self, now: Instant) {
        for (family, multihop) in Family::ALL.into_iter().flat_map(|family| [(family, false), (family, true)]) {
            for _ in 0..PACKETS {
                let receiver = self.receivers[place(family, multihop)].as_mut();
                let Some(arrived) = receiver.and_then(Receiver::receive) else { break };
                match self.accept(&arrived, multihop) {
                    Ok((name, packet)) => self.update(name, |entry| {
                        entry.metrics.received();
                        entry.session.received(now, &packet)
                    }),
                    Err(reason) => self.totals.discarded(reason),
                }
            }
        }
    }

    /// The session that a packet is for (RFC 5880 §6.8.6), if it may be believed.
    fn accept(&self, datagram: &Datagram, multihop: bool) -> Result<(u32, Packet), Discard> {
        // RFC 5881 §5: what a router has touched is not of the link.
        if !multihop && datagram.ttl != u8::MAX {
            return Err(Discard::Ttl);
        }
        let packet = datagram.packet?;
        let name = match packet.your_discriminator {
            0 => *self.by_address.get(&datagram.from).ok_or(Discard::NoSession)?,
            name => name,
        };
        // A name alone is not enough: it must come from whom it was told to, on the same port.
        let theirs = |entry: &&Entry| entry.remote.ip() == datagram.from && entry.multihop() == multihop;
        let entry = self.entries.get(&name).filter(theirs).ok_or(Discard::NoSession)?;
        match entry.hops {
            Hops::Multi { least_ttl } if datagram.ttl < least_ttl => Err(Discard::Ttl),
            _ => Ok((name, packet)),
        }
    }

    /// Does what is due.
    fn fire(&mut self, now: Instant) {
        while let Some(Reverse((at, name))) = self.deadlines.peek().copied()
            && at <= now
        {
            self.deadlines.pop();
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            if entry.scheduled != Some(at) {
                continue;
            }
            entry.scheduled = None;
            match entry.farewell {
                Some((_, 0)) => {
                    self.entries.remove(&name);
                }
                Some((due, left)) if due <= now => self.update(name, |entry| {
                    entry.farewell = Some((now + FAREWELL_EVERY, left - 1));
                    entry.session.admin_down(now)
                }),
                _ => self.update(name, |entry| entry.session.timeout(now)),
            }
        }
    }
}
