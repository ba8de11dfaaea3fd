//! What others do to the host's devices, addresses and settings, with who did it.
//!
//! Settings come as a mere hint that some changed: the kernel tells of forwarding, reverse path
//! filtering and routes over dead links (`RTM_NEWNETCONF`), and of no other.

use std::future::poll_fn;
use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, TokioSocket};

use super::{parse, socket, wire};
use crate::forward::KernelEvent;

/// `RTNLGRP_IPV4_NETCONF`, `RTNLGRP_IPV6_NETCONF` (linux/rtnetlink.h).
const NETCONF: [u32; 2] = [24, 25];
/// `RTM_NEWNETCONF`.
const NEW_NETCONF: u16 = 80;

/// Datagrams read before a batch is handed on.
const BATCH: usize = 256;

/// What was heard.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Heard {
    /// Links and addresses, in order, each with the netlink port of who caused it; 0 is the kernel.
    pub events: Vec<(KernelEvent, u32)>,
    /// Some setting of a device, or of all, changed.
    pub settings: bool,
    /// More was lost: only a dump tells.
    pub overrun: bool,
}

/// A subscription to links, addresses and settings.
pub struct HostWatch {
    socket: TokioSocket,
    buf: Vec<u8>,
}

impl HostWatch {
    /// Subscribes, in the network namespace of the calling thread. Dump after this, and nothing is
    /// missed.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket::set_up(socket.socket_mut())?;
        let group = |number: u32| 1 << (number - 1);
        let groups = [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR];
        let groups = groups.into_iter().chain(NETCONF).map(group).fold(0, |all, one: u32| all | one);
        socket::attach(socket.socket_mut(), groups)?;
        Ok(Self { socket, buf: Vec::new() })
    }

    /// Waits for news. Safe to cancel: it waits only while it holds nothing.
    pub async fn next(&mut self) -> io::Result<Heard> {
        let (socket, buf) = (&self.socket, &mut self.buf);
        buf.clear();
        buf.reserve(socket::DATAGRAM);
        let mut result = poll_fn(|cx| socket.poll_recv(cx, buf)).await;
        let mut heard = Heard::default();
        for left in (0..BATCH).rev() {
            match result {
                Ok(()) => wire::messages(&self.buf).for_each(|message| heard.take(&message)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => heard.overrun = true,
                Err(error) => return Err(error),
            }
            if left == 0 {
                break;
            }
            result = socket::receive(self.socket.socket_ref(), &mut self.buf, 0);
        }
        Ok(heard)
    }
}

impl Heard {
    fn take(&mut self, message: &wire::Message<'_>) {
        let event = match message.kind {
            NEW_NETCONF => {
                self.settings = true;
                None
            }
            libc::RTM_NEWLINK => parse::link(message.body).map(KernelEvent::Link),
            libc::RTM_DELLINK => parse::link_index(message.body).map(KernelEvent::LinkGone),
            libc::RTM_NEWADDR => parse::local_address(message.body).map(KernelEvent::Address),
            libc::RTM_DELADDR => parse::local_address(message.body).map(KernelEvent::AddressGone),
            _ => None,
        };
        self.events.extend(event.map(|event| (event, message.port)));
    }
}
