//! The sockets of BFD: one per family and port that receives, one per session that sends.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::bfd::{Discard, Packet};
use crate::net::Family;

/// Source ports, one of its own for each session (RFC 5881 §4).
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

/// Ports tried before it is given up for now.
const PORT_TRIES: u16 = 64;

/// DSCP CS6 (RFC 4594 §3.2, network control) in the place of the old TOS byte.
const CS6: u32 = 0xC0;

/// Bytes of packets that may wait while the thread is kept from running.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Longer than any packet we understand; the rest of a datagram is nothing to us.
const MAX_PAYLOAD: usize = 128;

/// Destination port of single-hop sessions (RFC 5881 §4).
const SINGLE_HOP_PORT: u16 = 3784;
/// Destination port of multihop sessions (RFC 5883 §5).
const MULTIHOP_PORT: u16 = 4784;

/// Destination port, ours and the other side's.
pub(super) const fn port(multihop: bool) -> u16 {
    if multihop { MULTIHOP_PORT } else { SINGLE_HOP_PORT }
}

/// A datagram that came.
pub(super) struct Datagram {
    pub from: IpAddr,
    /// TTL or hop limit on arrival; 0 if the kernel did not say
    pub ttl: u8,
    pub packet: Result<Packet, Discard>,
}

/// Receives for all sessions of a family and kind.
pub(super) struct Receiver {
    pub socket: UdpSocket,
    buffer: [u8; MAX_PAYLOAD],
    control: Vec<u8>,
}

impl Receiver {
    /// Listens on every address: a session without a source address may have any of ours, and who
    /// is no peer is told by the source.
    pub fn open(family: Family, multihop: bool) -> io::Result<Self> {
        let any: IpAddr = match family {
            Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = datagrams(family)?;
        match family {
            Family::Ipv4 => setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?,
            Family::Ipv6 => setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?,
        }
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        socket.bind(&SocketAddr::new(any, port(multihop)).into())?;
        Ok(Self { socket: socket.into(), buffer: [0; MAX_PAYLOAD], control: nix::cmsg_space!(libc::c_int) })
    }

    /// The next datagram; none: there are no more for now. Never waits.
    pub fn receive(&mut self) -> Option<Datagram> {
        let Self { socket, buffer, control } = self;
        loop {
            let mut slices = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(control), flags) {
                Ok(message) => {
                    let ttl = message
                        .cmsgs()
                        .ok()
                        .and_then(|mut all| all.find_map(|control| ttl(&control)))
                        .unwrap_or_default();
                    let (from, length) = (message.address.as_ref().and_then(address), message.bytes);
                    // A datagram without an address can't be.
                    let from = from.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
                    let packet = Packet::decode(buffer.get(..length).unwrap_or_default());
                    return Some(Datagram { from, ttl, packet });
                }
                // ICMP errors of what was sent do not come here; a checksum that is wrong looks so.
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

fn ttl(message: &ControlMessageOwned) -> Option<u8> {
    match message {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => u8::try_from(*ttl).ok(),
        _ => None,
    }
}

fn address(from: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = from.as_sockaddr_in().map(|from| from.ip().into());
    v4.or_else(|| from.as_sockaddr_in6().map(|from| from.ip().into()))
}

/// Opens what a session sends with. `chance` picks the source port.
pub(super) fn sender(family: Family, local: Option<IpAddr>, chance: u64) -> io::Result<UdpSocket> {
    let any: IpAddr = match family {
        Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = datagrams(family)?;
    // RFC 5881 §5. The same over routers: whoever wants to count them can.
    match family {
        Family::Ipv4 => socket.set_ttl_v4(255)?,
        Family::Ipv6 => socket.set_unicast_hops_v6(255)?,
    }
    let ports = u64::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1;
    let mut result = Ok(());
    for attempt in 0..u64::from(PORT_TRIES) {
        let offset = u16::try_from(chance.wrapping_add(attempt) % ports).unwrap_or_default();
        let source = SocketAddr::new(local.unwrap_or(any), SOURCE_PORTS.start() + offset);
        result = socket.bind(&source.into());
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
    }
    result.map(|()| socket.into())
}

fn datagrams(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::Ipv4 => Domain::IPV4,
        Family::Ipv6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    match family {
        Family::Ipv4 => socket.set_tos_v4(CS6)?,
        Family::Ipv6 => {
            // Else the wildcard would collide with that of IPv4.
            socket.set_only_v6(true)?;
            socket.set_tclass_v6(CS6)?;
        }
    }
    Ok(socket)
}
