//! A blocking rtnetlink socket: opened, sized, asked.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::wire::{self, Encoder, Message};

/// Room for what the kernel has to say while we are busy, in bytes.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Largest datagram the kernel makes for a dump is 32 KiB; an answer is far smaller.
pub(super) const DATAGRAM: usize = 64 << 10;

/// Opens an rtnetlink socket in the namespace of the calling thread.
pub(super) fn open() -> io::Result<Socket> {
    open_for(NETLINK_ROUTE)
}

fn open_for(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    set_up(&mut socket)?;
    attach(&mut socket, 0)?;
    Ok(socket)
}

/// Sets the options that every socket has.
pub(super) fn set_up(socket: &mut Socket) -> io::Result<()> {
    match setsockopt(socket, RcvBufForce, &RECEIVE_BUFFER) {
        // Without the privilege nothing can be written either, but questions may be asked.
        Ok(()) | Err(nix::errno::Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)
}

/// Gives it a port, subscribes to a mask of multicast groups, and lets only the kernel send to it.
pub(super) fn attach(socket: &mut Socket, groups: u32) -> io::Result<()> {
    socket.bind(&SocketAddr::new(0, groups))?;
    socket.connect(&SocketAddr::new(0, 0))
}

/// The port id that the kernel gave a socket: marks what it causes.
pub(super) fn port(socket: &Socket) -> io::Result<u32> {
    let mut addr = SocketAddr::new(0, 0);
    socket.get_address(&mut addr)?;
    Ok(addr.port_number())
}

/// Reads one datagram into `buf` in place of what it held.
pub(super) fn receive(socket: &Socket, buf: &mut Vec<u8>, flags: libc::c_int) -> io::Result<()> {
    buf.clear();
    buf.reserve(DATAGRAM);
    let room = buf.capacity();
    let len = retry(|| socket.recv(buf, flags | libc::MSG_TRUNC))?;
    if len > room { Err(io::Error::other("netlink datagram is longer than 64 KiB")) } else { Ok(()) }
}

/// Repeats what a signal interrupted.
pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Asks the kernel and reads what it answers. One question at a time.
#[derive(Debug)]
pub(super) struct Client {
    socket: Socket,
    pub(super) encoder: Encoder,
    buf: Vec<u8>,
    sequence: u32,
}

impl Client {
    pub(super) fn new() -> io::Result<Self> {
        let socket = open()?;
        // Else the kernel ignores what a dump asks for and sends everything.
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, encoder: Encoder::default(), buf: Vec::new(), sequence: 0 })
    }

    /// For another part of the kernel than rtnetlink.
    pub(super) fn of(protocol: isize) -> io::Result<Self> {
        Ok(Self { socket: open_for(protocol)?, encoder: Encoder::default(), buf: Vec::new(), sequence: 0 })
    }

    /// Sends one question for a dump and gives the first message of the answer to `read`. What follows is
    /// left unread: the client has had its last question.
    pub(super) fn first<T>(
        &mut self,
        kind: u16,
        write: impl FnOnce(&mut Encoder),
        read: impl FnOnce(&Message<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        self.send(kind, wire::DUMP, write)?;
        receive(&self.socket, &mut self.buf, 0)?;
        let Some(message) = wire::messages(&self.buf).next() else { return Ok(None) };
        if matches!(message.kind, wire::ERROR | wire::DONE) {
            return ended(&message).map(|()| None);
        }
        Ok(read(&message))
    }

    fn send(&mut self, kind: u16, flags: u16, write: impl FnOnce(&mut Encoder)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.encoder.clear();
        let start = self.encoder.begin(kind, wire::REQUEST | flags, self.sequence);
        write(&mut self.encoder);
        self.encoder.end(start);
        retry(|| self.socket.send(self.encoder.bytes(), 0)).map(drop)
    }

    /// Sends one message of `kind`, whose body `write` makes, and gives every answer to `read`.
    /// Returns whether a dump was torn by a change while it ran.
    pub(super) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        write: impl FnOnce(&mut Encoder),
        mut read: impl FnMut(&Message<'_>),
    ) -> io::Result<bool> {
        self.send(kind, flags, write)?;
        let mut torn = false;
        loop {
            receive(&self.socket, &mut self.buf, 0)?;
            for message in wire::messages(&self.buf) {
                if message.sequence != self.sequence {
                    continue;
                }
                torn |= flags & wire::DUMP == wire::DUMP && message.flags & wire::DUMP_INTERRUPTED != 0;
                if matches!(message.kind, wire::ERROR | wire::DONE) {
                    return ended(&message).map(|()| torn);
                }
                read(&message);
                if flags & (wire::DUMP | wire::ACK) == 0 {
                    return Ok(false);
                }
            }
        }
    }

    /// Sends the messages that `write` makes, numbered on from the given number, and gives every answer to
    /// `read` until the last of them is acknowledged, which must ask for it, or one is refused.
    pub(super) fn transact(
        &mut self,
        write: impl FnOnce(&mut Encoder, u32) -> u32,
        mut read: impl FnMut(&Message<'_>),
    ) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        self.encoder.clear();
        let last = write(&mut self.encoder, first);
        self.sequence = last.wrapping_add(1);
        retry(|| self.socket.send(self.encoder.bytes(), 0))?;
        let among = |sequence: u32| sequence.wrapping_sub(first) <= last.wrapping_sub(first);
        loop {
            receive(&self.socket, &mut self.buf, 0)?;
            for message in wire::messages(&self.buf) {
                if message.kind != wire::ERROR {
                    // nftables numbers echoes of elements 0, whatever they answer
                    // (nf_tables_setelem_notify in net/netfilter/nf_tables_api.c).
                    read(&message);
                    continue;
                }
                if !among(message.sequence) {
                    continue;
                }
                ended(&message)?;
                if message.sequence == last {
                    return Ok(());
                }
            }
        }
    }
}

fn ended(message: &Message<'_>) -> io::Result<()> {
    match wire::answer(message) {
        Some(answer) if answer.errno > 0 => Err(io::Error::from_raw_os_error(answer.errno)),
        Some(_) => Ok(()),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
