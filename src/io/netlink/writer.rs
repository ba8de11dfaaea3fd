//! Routes and nexthop objects into the kernel: a thread that owns a netlink socket, takes batches
//! of [`FibOp`] and gives back what became of them.
//!
//! A send holds up to 128 messages. Only the last asks for an acknowledgement: the kernel works
//! through a send in order before the call returns, answers every message that *fails* whether
//! asked or not, and goes on after it. So each failure is known by its sequence number, the last
//! answer says that the rest is done, and one answer is read in the place of 128.
//!
//! Objects have a queue of their own that is looked at before every send: one object moves all the
//! routes that use it, and it must not wait until a table of routes is written.

use std::time::{Duration, Instant};
use std::{io, thread};

use netlink_sys::Socket;
use tokio::sync::mpsc;

use super::encode::Routes;
use super::wire::{self, Encoder, Start};
use super::{Ours, nexthop, socket};
use crate::forward::{Batch, NexthopOp, OpError};

/// Route messages in one send.
const CHUNK: usize = 128;

/// A send grows no further beyond this, in bytes: the kernel refuses what exceeds the send buffer
/// (212,992 by default), and one route with a thousand hops has 30 kB.
const SEND: usize = 64 << 10;

/// Refusals per report that are told in words; the others by their code only.
const MAX_REFUSALS: usize = 16;

/// What became of something that was sent to the thread.
#[derive(Debug)]
pub enum Report {
    /// A batch of [`Writer::ops`]
    Routes(RoutesReport),
    /// A list of [`Writer::nexthops`]
    Nexthops(NexthopsReport),
}

/// What became of one batch of routes.
#[derive(Debug)]
pub struct RoutesReport {
    /// The batch, as it was sent.
    pub batch: Batch,
    /// What was not done, as index into its operations, in their order.
    pub failed: Vec<(usize, OpError)>,
    /// The first refusals of the batch, at most 16, as the kernel explains them.
    pub refusals: Vec<Refusal>,
    /// Sends it took.
    pub sends: u32,
    /// From the first send to the last answer.
    pub took: Duration,
}

/// What became of one list of objects.
#[derive(Debug)]
pub struct NexthopsReport {
    /// The list, as it was sent.
    pub ops: Vec<NexthopOp>,
    /// What was not done, as index into it, in its order.
    pub failed: Vec<(usize, OpError)>,
    /// The first refusals of the list, at most 16, as the kernel explains them.
    pub refusals: Vec<Refusal>,
    /// From the first send to the last answer.
    pub took: Duration,
}

/// The kernel's own words on an operation that it refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Which operation, as index into the batch or list.
    pub op: usize,
    /// Positive errno.
    pub errno: i32,
    /// Its explanation; empty if it gave none.
    pub text: String,
}

/// The thread's ends. Dropping `ops` ends it once all that was sent is written; dropping `reports`
/// ends it at the next report.
#[derive(Debug)]
pub struct Writer {
    /// Port id of its socket; what it writes is marked so and can be kept out of a watch.
    pub port: u32,
    /// Batches of routes to write. An empty one only wakes the thread and has no report.
    pub ops: mpsc::Sender<Batch>,
    /// Objects to write before any route that is not written yet: what was sent here before a
    /// batch was sent to `ops` is there when its routes are written. A thread that has nothing to
    /// write looks here only when it is woken by a batch.
    pub nexthops: mpsc::Sender<Vec<NexthopOp>>,
    /// One report per batch and per list, each sort in order; `None` once the thread has ended.
    pub reports: mpsc::Receiver<Report>,
}

/// Starts the thread, in the network namespace of the calling one. `depth` is how many batches,
/// lists and reports may wait at each end.
pub fn spawn(ours: Ours, depth: usize) -> io::Result<Writer> {
    let socket = socket::open()?;
    let port = socket::port(&socket)?;
    let (ops, mut batches) = mpsc::channel(depth);
    let (nexthops, lists) = mpsc::channel(depth);
    let (done, reports) = mpsc::channel(depth);
    let link = Link { socket, encoder: Encoder::default(), answers: Vec::new(), sequence: 1 };
    let mut worker = Worker { link, ours, lists, done };
    thread::Builder::new().name("fib-writer".to_owned()).spawn(move || {
        // Ends when nobody wants a report any more, or nobody has anything to write.
        while let Some(batch) = batches.blocking_recv()
            && worker.routes(batch).is_some()
        {}
        worker.nexthops()
    })?;
    Ok(Writer { port, ops, nexthops, reports })
}

struct Worker {
    link: Link,
    ours: Ours,
    lists: mpsc::Receiver<Vec<NexthopOp>>,
    done: mpsc::Sender<Report>,
}

impl Worker {
    /// Writes a batch, and before each send the objects that wait; `None`: nobody reads reports.
    fn routes(&mut self, batch: Batch) -> Option<()> {
        self.nexthops()?;
        let began = Instant::now();
        let (mut at, mut sends) = (0, 0);
        let mut failures = Failures::default();
        while let Some(rest) = batch.ops.get(at..).filter(|rest| !rest.is_empty()) {
            let mut routes = Routes::new(self.ours);
            let put = |encoder: &mut Encoder, index: usize, sequence| {
                rest.get(index).map(|op| routes.put(encoder, op, sequence))
            };
            at += self.link.write(CHUNK, put, at, &mut failures);
            sends += 1;
            self.nexthops()?;
        }
        if sends == 0 {
            return Some(());
        }
        let Failures { failed, refusals } = failures;
        self.report(Report::Routes(RoutesReport { batch, failed, refusals, sends, took: began.elapsed() }))
    }

    /// Writes all objects that wait.
    fn nexthops(&mut self) -> Option<()> {
        while let Ok(ops) = self.lists.try_recv() {
            let began = Instant::now();
            let mut failures = Failures::default();
            let mut at = 0;
            while at < ops.len() {
                let put = |encoder: &mut Encoder, index: usize, sequence| {
                    ops.get(at + index).map(|op| nexthop::operation(encoder, self.ours.protocol, op, sequence))
                };
                at += self.link.write(usize::MAX, put, at, &mut failures);
            }
            let Failures { failed, refusals } = failures;
            self.report(Report::Nexthops(NexthopsReport { ops, failed, refusals, took: began.elapsed() }))?;
        }
        Some(())
    }

    fn report(&self, report: Report) -> Option<()> {
        self.done.blocking_send(report).ok()
    }
}

/// What was not done, of a batch or list.
#[derive(Default)]
struct Failures {
    failed: Vec<(usize, OpError)>,
    refusals: Vec<Refusal>,
}

/// The socket and its buffers; reused, so that a route costs no allocation.
struct Link {
    socket: Socket,
    encoder: Encoder,
    answers: Vec<u8>,
    /// Of the next message.
    sequence: u32,
}

impl Link {
    /// Sends what `put` encodes by index, up to `limit` messages or as many as a send holds, and
    /// returns how many. `from` is the index of the first in the batch or list.
    fn write(
        &mut self,
        limit: usize,
        mut put: impl FnMut(&mut Encoder, usize, u32) -> Option<Start>,
        from: usize,
        failures: &mut Failures,
    ) -> usize {
        self.encoder.clear();
        let (mut count, mut last) = (0, None);
        let first = self.sequence;
        while count < limit && self.encoder.bytes().len() <= SEND {
            let Some(start) = put(&mut self.encoder, count, self.sequence) else { break };
            last = Some(start);
            self.sequence = self.sequence.wrapping_add(1);
            count += 1;
        }
        let Some(last) = last else { return 0 };
        self.encoder.mark(last, wire::ACK);
        let before = failures.failed.len();
        if let Err(error) = self.exchange(first, count, from, failures) {
            // Whether any of it was done is unknown: the caller tries all of it again.
            let error = op_error(error.raw_os_error().unwrap_or(libc::EIO));
            failures.failed.truncate(before);
            failures.failed.extend((from..from + count).map(|op| (op, error)));
        }
        count
    }

    /// Sends the buffer, `count` messages with sequence numbers from `first`, and reads answers up
    /// to that of the last.
    fn exchange(&mut self, first: u32, count: usize, from: usize, failures: &mut Failures) -> io::Result<()> {
        socket::retry(|| self.socket.send(self.encoder.bytes(), 0))?;
        loop {
            // All answers are there when `send` returns: one that is not will never come.
            socket::receive(&self.socket, &mut self.answers, libc::MSG_DONTWAIT)?;
            for message in wire::messages(&self.answers).filter(|message| message.kind == wire::ERROR) {
                let index = usize::try_from(message.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if index >= count {
                    // To an earlier send, whose reading was broken off.
                    continue;
                }
                let answer = wire::answer(&message).ok_or(io::ErrorKind::InvalidData)?;
                if answer.errno != 0 {
                    failures.failed.push((from + index, op_error(answer.errno)));
                    if failures.refusals.len() < MAX_REFUSALS {
                        let text = answer.text.to_owned();
                        failures.refusals.push(Refusal { op: from + index, errno: answer.errno, text });
                    }
                }
                if index + 1 == count {
                    return Ok(());
                }
            }
        }
    }
}

fn op_error(errno: i32) -> OpError {
    match errno {
        libc::EEXIST => OpError::Exists,
        libc::ESRCH | libc::ENOENT => OpError::NoSuchRoute,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EINVAL => OpError::Unreachable,
        libc::ENODEV => OpError::NoDevice,
        other => OpError::Other(other),
    }
}
