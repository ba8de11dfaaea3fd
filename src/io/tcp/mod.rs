//! TCP for BGP: listening and connecting with keys (RFC 2385), TTL security (RFC 5082) and the
//! precedence that routing traffic has. No BGP and no timing: how long a connection may take is the
//! caller's business.

mod md5;

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::net::{Family, Prefix};

/// Connections that may wait for `accept`: a restarted node hears from all its peers at once.
const BACKLOG: i32 = 1024;

/// DSCP CS6 (RFC 4594 §3.2, network control) in the place of the old TOS byte.
const CS6: u32 = 0xC0;

/// Notices a vanished peer within about 90 s where BGP's own keepalives are turned off.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(3);

/// How far packets may travel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Ttl {
    /// As the system does, usually 64: iBGP.
    #[default]
    System,
    /// At most this many hops: 1 for eBGP, more for multihop.
    Hops(u8),
    /// Sent with 255; accepted only from at most this many hops away (RFC 5082 §3). 1: on the link.
    Secured(u8),
}

impl Ttl {
    /// TTL to send with; `None`: the system's.
    const fn sent(self) -> Option<u8> {
        match self {
            Self::System => None,
            Self::Hops(hops) => Some(hops),
            Self::Secured(_) => Some(u8::MAX),
        }
    }

    /// Smallest TTL to accept; 0: any.
    const fn least(self) -> u8 {
        match self {
            // One hop away is 255, for routers lower it and the link itself does not.
            Self::Secured(hops) => u8::MAX - hops.saturating_sub(1),
            Self::System | Self::Hops(_) => 0,
        }
    }
}

/// How a session's segments are sent and checked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StreamOptions {
    /// How far packets may travel.
    pub ttl: Ttl,
    /// Data unacknowledged for so long ends the connection (`TCP_USER_TIMEOUT`); `None`: the
    /// system's, about 15 minutes. Usually the hold time.
    pub user_timeout: Option<Duration>,
}

/// Where and how to connect.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions<'a> {
    /// Source address; `None`: the kernel's choice.
    pub local: Option<IpAddr>,
    /// The peer.
    pub remote: SocketAddr,
    /// TCP-MD5 key, 1 to 80 bytes.
    pub password: Option<&'a [u8]>,
    /// How segments are sent and checked.
    pub stream: StreamOptions,
}

impl ConnectOptions<'_> {
    /// What may be wrong when nothing at all comes back: the kernel drops segments with a wrong key
    /// or too small a TTL without a word, so all that is seen is a time-out.
    pub const fn silence_hint(&self) -> &'static str {
        match (self.password.is_some(), self.stream.ttl) {
            (true, Ttl::Secured(_)) => {
                "no answer; do both sides have the same password, and does the peer send with TTL 255?"
            }
            (true, _) => "no answer; do both sides have the same password?",
            (false, Ttl::Secured(_)) => "no answer; does the peer send with TTL 255 and lie within ttl_security hops?",
            (false, Ttl::Hops(1)) => "no answer; is the peer on the link (else set multihop), and wants it a password?",
            (false, _) => "no answer; is the peer up and reachable, and wants it a password?",
        }
    }
}

/// Why there is no connection. A time-out is not among them: that is the caller's.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The source address is on none of this host's devices.
    #[error("source address {0} is on no device of this host")]
    NoSuchSource(IpAddr),
    /// The host answered; nothing listens, or the peer does not know us.
    #[error("{0} refused the connection")]
    Refused(SocketAddr),
    /// No route, or a router on the way says so.
    #[error("{0} is unreachable")]
    Unreachable(SocketAddr),
    /// An option could not be set; names it.
    #[error("cannot set {0}")]
    Option(&'static str, #[source] io::Error),
    /// Anything else.
    #[error("cannot connect to {0}")]
    Io(SocketAddr, #[source] io::Error),
}

/// Connects to a peer; drop the future to give up.
///
/// The stream is ready for use: no delay, precedence, TTL and key are set.
pub async fn connect(options: &ConnectOptions<'_>) -> Result<TcpStream, ConnectError> {
    let remote = options.remote;
    let other = |error| ConnectError::Io(remote, error);
    let socket = open(remote).map_err(other)?;
    prepare(&socket, Family::of(remote.ip()), options.stream)?;
    if let Some(password) = options.password {
        md5::set_key(&socket, md5::host(remote.ip()), password)
            .map_err(|error| ConnectError::Option("TCP-MD5 key", error))?;
    }
    if let Some(local) = options.local {
        socket.bind(&SocketAddr::new(local, 0).into()).map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => ConnectError::NoSuchSource(local),
            _ => other(error),
        })?;
    }
    TcpSocket::from_std_stream(socket.into()).connect(remote).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused(remote),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => ConnectError::Unreachable(remote),
        _ => other(error),
    })
}

/// Sets an accepted connection up as [`connect`] does with its own.
///
/// What arrived before this call was not yet checked for its TTL; call it before reading.
pub fn prepare_accepted(stream: &TcpStream, options: StreamOptions) -> Result<(), ConnectError> {
    let peer = stream.peer_addr().map_err(|error| ConnectError::Option("options of a closed connection", error))?;
    prepare(stream, Family::of(peer.ip()), options)
}

/// What the kernel holds of a connection that was not read yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unread {
    /// Nothing, and the connection stands
    Nothing,
    /// Bytes
    Bytes,
    /// The end of the connection, by the peer or by a failure
    End,
}

/// Looks without reading. For a socket that does not block.
pub fn unread(stream: &TcpStream) -> Unread {
    match SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]) {
        Ok(0) => Unread::End,
        Ok(_) => Unread::Bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Unread::Nothing,
        Err(_) => Unread::End,
    }
}

/// From now on closing resets the connection: what the peer has not taken is thrown away at once
/// instead of being kept and offered by the kernel.
pub fn reset_on_close(stream: &TcpStream) {
    // It fails on a socket that is dead already, which is as good.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn open(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn prepare(socket: &impl AsFd, family: Family, options: StreamOptions) -> Result<(), ConnectError> {
    let named = |name| move |error| ConnectError::Option(name, error);
    let sock = SockRef::from(socket);
    sock.set_tcp_nodelay(true).map_err(named("TCP_NODELAY"))?;
    sock.set_tcp_keepalive(&KEEPALIVE).map_err(named("TCP keepalive"))?;
    sock.set_tcp_user_timeout(options.user_timeout).map_err(named("TCP_USER_TIMEOUT"))?;
    set_precedence(&sock, family).map_err(named("DSCP"))?;
    set_ttl(&sock, family, options.ttl.sent()).map_err(named("TTL"))?;
    if options.ttl.least() > 0 {
        md5::set_min_ttl(socket, family, options.ttl.least()).map_err(named("TTL security"))?;
    }
    Ok(())
}

fn set_precedence(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::Ipv4 => socket.set_tos_v4(CS6),
        Family::Ipv6 => socket.set_tclass_v6(CS6),
    }
}

fn set_ttl(socket: &Socket, family: Family, ttl: Option<u8>) -> io::Result<()> {
    // All ones is the kernel's -1: back to the system's own, also where a listener's was inherited.
    let ttl = ttl.map_or(u32::MAX, u32::from);
    match family {
        Family::Ipv4 => socket.set_ttl_v4(ttl),
        Family::Ipv6 => socket.set_unicast_hops_v6(ttl),
    }
}

/// A listening socket whose keys can be changed while it listens.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    family: Family,
}

impl Listener {
    /// Listens on `addr`; an IPv6 address takes IPv6 only. `keys` are set before the first
    /// connection can come; those of the other family are passed over.
    ///
    /// Many keys need a larger `net.core.optmem_max`: the kernel then says "out of memory".
    pub fn bind<'k>(addr: SocketAddr, keys: impl IntoIterator<Item = (Prefix, &'k [u8])>) -> io::Result<Self> {
        let socket = open(addr)?;
        if addr.is_ipv6() {
            // Else the two wildcard addresses would collide, and keys with mapped addresses.
            socket.set_only_v6(true)?;
        }
        let family = Family::of(addr.ip());
        socket.set_reuse_address(true)?;
        // Connections begin with what the listener has. 255, as a peer with TTL security drops any
        // less; `prepare_accepted` lowers it where wanted.
        set_ttl(&socket, family, Some(u8::MAX))?;
        set_precedence(&socket, family)?;
        socket.bind(&addr.into())?;
        for (peer, password) in keys {
            if peer.family() == family {
                md5::set_key(&socket, peer, password)?;
            }
        }
        socket.listen(BACKLOG)?;
        Ok(Self { socket: TcpListener::from_std(socket.into())?, family })
    }

    /// Sets, replaces or (with `None`) removes the key of all peers in `peer`; the most specific
    /// prefix counts. Connections that exist keep the key they began with. A prefix of the other
    /// family, or removing a key that is not there, does nothing.
    pub fn set_key(&self, peer: Prefix, password: Option<&[u8]>) -> io::Result<()> {
        if peer.family() != self.family {
            return Ok(());
        }
        match md5::set_key(&self.socket, peer, password.unwrap_or_default()) {
            Err(error) if password.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// The next connection and the peer's address. Safe to cancel.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_security_counts_from_255() {
        let cases = [
            // (why, ttl, sent, least)
            ("a neighbour on the link", Ttl::Secured(1), Some(255), 255),
            ("one router between", Ttl::Secured(2), Some(255), 254),
            ("no hop is read as one", Ttl::Secured(0), Some(255), 255),
            ("the whole internet", Ttl::Secured(255), Some(255), 1),
            ("eBGP on the link", Ttl::Hops(1), Some(1), 0),
            ("iBGP", Ttl::System, None, 0),
        ];
        for (why, ttl, sent, least) in cases {
            assert_eq!((ttl.sent(), ttl.least()), (sent, least), "{why}");
        }
    }
}
