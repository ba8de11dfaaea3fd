//! What others do to links, addresses and routes, as batches of events.
//!
//! A filter in the kernel drops the messages that our own writer causes, and routes of tables we
//! don't look at, before they are queued: a bulk load neither wakes us nor overruns the socket.
//!
//! The kernel tells less than all: IPv4 routes that go with their device or source address go
//! without a word. After a link went down, or an address went, only a dump knows.

use std::future::poll_fn;
use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, TokioSocket};
use socket2::{SockFilter, SockRef};
use tokio::sync::mpsc;

use super::{MAIN_TABLE, Ours, parse, socket, wire};
use crate::forward::KernelEvent;

/// Links, IPv4 and IPv6 addresses, IPv4 and IPv6 routes, nexthop objects (a kernel that doesn't
/// know a group passes over it).
const GROUPS: u32 = group(libc::RTNLGRP_LINK)
    | group(libc::RTNLGRP_IPV4_IFADDR)
    | group(libc::RTNLGRP_IPV6_IFADDR)
    | group(libc::RTNLGRP_IPV4_ROUTE)
    | group(libc::RTNLGRP_IPV6_ROUTE)
    | group(libc::RTNLGRP_NEXTHOP);

/// Datagrams read before a batch is handed on.
const BATCH: usize = 512;

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// What a watch reports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Report {
    /// Changes, in the order in which they happened, each with the netlink port of who caused it (0: the
    /// kernel by itself); never empty.
    Events(Vec<(KernelEvent, u32)>),
    /// Events were lost: only a dump tells the state now.
    Overrun,
}

/// A subscription to the kernel's news.
pub struct Watch {
    socket: TokioSocket,
    ours: Ours,
    buf: Vec<u8>,
}

impl Watch {
    /// Subscribes, in the network namespace of the calling thread. `writer` is the port id of our
    /// own writer, whose changes are not reported; 0: there is none.
    ///
    /// Events queue up from here on: dump after this, and nothing is missed.
    pub fn open(ours: Ours, writer: u32) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket::set_up(socket.socket_mut())?;
        SockRef::from(socket.socket_ref()).attach_filter(&filter(writer, ours.table))?;
        socket::attach(socket.socket_mut(), GROUPS)?;
        Ok(Self { socket, ours, buf: Vec::new() })
    }

    /// Reports into `out` until its other end is dropped (then `Ok`) or the socket breaks.
    pub async fn run(mut self, out: mpsc::Sender<Report>) -> io::Result<()> {
        loop {
            let report = tokio::select! {
                () = out.closed() => return Ok(()),
                report = self.next() => report?,
            };
            if out.send(report).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Waits for the next report. Safe to cancel: it waits only while it holds nothing.
    pub async fn next(&mut self) -> io::Result<Report> {
        loop {
            let (socket, buf) = (&self.socket, &mut self.buf);
            buf.clear();
            buf.reserve(socket::DATAGRAM);
            let first = poll_fn(|cx| socket.poll_recv(cx, buf)).await;
            match first.and_then(|()| self.read_queued()) {
                Ok(events) if events.is_empty() => {}
                Ok(events) => return Ok(Report::Events(events)),
                Err(error) if is_overrun(&error) => {
                    self.drain()?;
                    return Ok(Report::Overrun);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The events of the datagram in the buffer and of those that are queued, up to a batch. An
    /// overrun after them drops them: the dump it calls for says more.
    fn read_queued(&mut self) -> io::Result<Vec<(KernelEvent, u32)>> {
        let mut events = Vec::new();
        for _ in 0..BATCH {
            self.parse(&mut events);
            match socket::receive(self.socket.socket_ref(), &mut self.buf, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                result => result?,
            }
        }
        self.parse(&mut events);
        Ok(events)
    }

    fn parse(&self, events: &mut Vec<(KernelEvent, u32)>) {
        let event = |message: wire::Message<'_>| Some((parse::event(&message, self.ours)?, message.port));
        events.extend(wire::messages(&self.buf).filter_map(event));
    }

    /// Throws away all that is queued. From the first loss until the queue is empty the kernel
    /// drops whatever comes and does not say so again: a dump begun earlier could miss it.
    fn drain(&mut self) -> io::Result<()> {
        loop {
            match socket::receive(self.socket.socket_ref(), &mut self.buf, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if !is_overrun(&error) => return Err(error),
                _ => {}
            }
        }
    }
}

fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

/// A classic BPF program over one message: 0 drops it, else so many bytes of it are kept.
///
/// Loads of more than a byte take network order; the header is in the host's, so the values to
/// compare with are turned around instead.
fn filter(writer: u32, table: u32) -> [SockFilter; 10] {
    // From linux/bpf_common.h: BPF_LD | BPF_ABS with a width, BPF_JMP | BPF_JEQ, BPF_RET.
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const KIND: u32 = 4;
    const PORT: u32 = 12;
    /// `rtm_table`, after the header.
    const TABLE: u32 = 16 + 4;

    // A table beyond one byte shows as RT_TABLE_COMPAT; which one it is, is in an attribute.
    let table = u8::try_from(table).unwrap_or(252);
    // What the kernel does by itself has port 0, and is kept.
    let writer = if writer == 0 { u32::MAX } else { writer };
    let half = |value: u16| u32::from(value.to_be());
    let instruction = |code, jt, jf, k| SockFilter::new(code, jt, jf, k);
    [
        // All that our writer causes: drop.
        instruction(LOAD_WORD, 0, 0, PORT),
        instruction(JUMP_EQUAL, 6, 0, writer.to_be()),
        instruction(LOAD_HALF, 0, 0, KIND),
        instruction(JUMP_EQUAL, 1, 0, half(libc::RTM_NEWROUTE)),
        // No route: keep.
        instruction(JUMP_EQUAL, 0, 4, half(libc::RTM_DELROUTE)),
        instruction(LOAD_BYTE, 0, 0, TABLE),
        instruction(JUMP_EQUAL, 2, 0, MAIN_TABLE),
        instruction(JUMP_EQUAL, 1, 0, u32::from(table)),
        instruction(RETURN, 0, 0, 0),
        instruction(RETURN, 0, 0, u32::MAX),
    ]
}
