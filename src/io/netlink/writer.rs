//! Routes into the kernel: a thread that owns a netlink socket, takes batches of [`FibOp`] and
//! gives back what became of each.
//!
//! A send holds up to 128 messages. Only the last asks for an acknowledgement: the kernel works
//! through a send in order before the call returns, answers every message that *fails* whether
//! asked or not, and goes on after it. So each failure is known by its sequence number, the last
//! answer says that the rest is done, and one answer is read in the place of 128.

use std::time::{Duration, Instant};
use std::{io, thread};

use netlink_sys::Socket;
use tokio::sync::mpsc;

use super::wire::{self, Encoder};
use super::{Ours, encode, socket};
use crate::forward::{FibOp, OpError};
use crate::net::Prefix;

/// Messages in one send.
const CHUNK: usize = 128;

/// A send grows no further beyond this, in bytes: the kernel refuses what exceeds the send buffer
/// (212,992 by default), and one route with a thousand hops has 30 kB.
const SEND: usize = 64 << 10;

/// Refusals per batch that are reported in words; the others by their code only.
const MAX_REFUSALS: usize = 16;

/// What became of one batch.
#[derive(Debug)]
pub struct Report {
    /// Each operation's prefix and outcome, in the order of the batch.
    pub results: Vec<(Prefix, Result<(), OpError>)>,
    /// The first refusals of the batch, at most 16, as the kernel explains them.
    pub refusals: Vec<Refusal>,
    /// Sends it took.
    pub sends: u32,
    /// From the first send to the last answer.
    pub took: Duration,
}

/// The kernel's own words on an operation that it refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Prefix of the route.
    pub prefix: Prefix,
    /// Positive errno.
    pub errno: i32,
    /// Its explanation; empty if it gave none.
    pub text: String,
}

/// The thread's two ends. Dropping `ops` ends it once all that was sent is written; dropping
/// `reports` ends it at the next report.
#[derive(Debug)]
pub struct Writer {
    /// Port id of its socket; what it writes is marked so and can be kept out of a watch.
    pub port: u32,
    /// Batches to write.
    pub ops: mpsc::Sender<Vec<FibOp>>,
    /// One report per batch, in order; `None` once the thread has ended.
    pub reports: mpsc::Receiver<Report>,
}

/// Starts the thread, in the network namespace of the calling one. `depth` is how many batches
/// may wait at each end.
pub fn spawn(ours: Ours, depth: usize) -> io::Result<Writer> {
    let mut worker = Worker::open(ours)?;
    let port = socket::port(&worker.socket)?;
    let (ops, mut batches) = mpsc::channel::<Vec<FibOp>>(depth);
    let (done, reports) = mpsc::channel(depth);
    thread::Builder::new().name("fib-writer".to_owned()).spawn(move || {
        while let Some(batch) = batches.blocking_recv() {
            if done.blocking_send(worker.write(&batch)).is_err() {
                break;
            }
        }
    })?;
    Ok(Writer { port, ops, reports })
}

/// The socket and its buffers; reused, so that a route costs no allocation.
struct Worker {
    socket: Socket,
    ours: Ours,
    encoder: Encoder,
    answers: Vec<u8>,
    /// Of the next message.
    sequence: u32,
}

impl Worker {
    fn open(ours: Ours) -> io::Result<Self> {
        let socket = socket::open()?;
        Ok(Self { socket, ours, encoder: Encoder::default(), answers: Vec::new(), sequence: 1 })
    }

    fn write(&mut self, batch: &[FibOp]) -> Report {
        let began = Instant::now();
        let mut report =
            Report { results: Vec::with_capacity(batch.len()), refusals: Vec::new(), sends: 0, took: Duration::ZERO };
        let mut rest = batch;
        while !rest.is_empty() {
            let first = self.sequence;
            let count = self.encode(rest);
            let (chunk, later) = rest.split_at(count);
            rest = later;
            let from = report.results.len();
            report.results.extend(chunk.iter().map(|op| (op.prefix(), Ok(()))));
            report.sends += 1;
            if let Err(error) = self.exchange(first, from, &mut report) {
                // Whether any of the chunk was done is unknown: the caller tries all of it again.
                let error = op_error(error.raw_os_error().unwrap_or(libc::EIO));
                for (_, result) in report.results.iter_mut().skip(from) {
                    *result = Err(error);
                }
            }
        }
        report.took = began.elapsed();
        report
    }

    /// Fills the buffer with the first operations of `ops` and returns how many.
    fn encode(&mut self, ops: &[FibOp]) -> usize {
        self.encoder.clear();
        let mut count = 0;
        let mut last = None;
        for op in ops.iter().take(CHUNK) {
            last = Some(encode::operation(&mut self.encoder, self.ours, op, self.sequence));
            self.sequence = self.sequence.wrapping_add(1);
            count += 1;
            if self.encoder.bytes().len() > SEND {
                break;
            }
        }
        if let Some(start) = last {
            self.encoder.mark(start, wire::ACK);
        }
        count
    }

    /// Sends the buffer and reads answers up to that of its last message. The results of the
    /// chunk begin at `from`, its sequence numbers at `first`.
    fn exchange(&mut self, first: u32, from: usize, report: &mut Report) -> io::Result<()> {
        socket::retry(|| self.socket.send(self.encoder.bytes(), 0))?;
        let last = self.sequence.wrapping_sub(1);
        loop {
            // All answers are there when `send` returns: one that is not will never come.
            socket::receive(&self.socket, &mut self.answers, libc::MSG_DONTWAIT)?;
            for message in wire::messages(&self.answers).filter(|message| message.kind == wire::ERROR) {
                let index = from + usize::try_from(message.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                // An answer to an earlier chunk, whose reading was broken off, is past the end.
                let Some((prefix, result)) = report.results.get_mut(index) else { continue };
                let answer = wire::answer(&message).ok_or(io::ErrorKind::InvalidData)?;
                if answer.errno != 0 {
                    *result = Err(op_error(answer.errno));
                    if report.refusals.len() < MAX_REFUSALS {
                        let text = answer.text.to_owned();
                        report.refusals.push(Refusal { prefix: *prefix, errno: answer.errno, text });
                    }
                }
                if message.sequence == last {
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
