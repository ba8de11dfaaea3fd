//! The socket options of a BGP session that no crate wraps: TCP-MD5 keys and the smallest
//! accepted TTL. Besides the priority of the BFD thread the only unsafe code of the program.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use socket2::{SockAddr, SockAddrStorage};

use crate::net::{Family, Prefix};

/// Longest key, in bytes (`TCP_MD5SIG_MAXKEYLEN`).
pub(super) const MAX_KEY: usize = libc::TCP_MD5SIG_MAXKEYLEN;

/// `tcpm_flags`: `tcpm_prefixlen` counts (`TCP_MD5SIG_FLAG_PREFIX`, linux/tcp.h).
const FLAG_PREFIX: u8 = 1;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    addr: SockAddrStorage,
    flags: u8,
    prefixlen: u8,
    keylen: u16,
    ifindex: libc::c_int,
    key: [u8; MAX_KEY],
}

/// Sets the key for segments from and to `peer`; an empty one removes it (RFC 2385 §4.5: nothing
/// in the protocol says which key is meant, so both sides must change it together).
pub(super) fn set_key(socket: &impl AsFd, peer: Prefix, key: &[u8]) -> io::Result<()> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "TCP-MD5 key is longer than 80 bytes");
    let mut option = TcpMd5Sig {
        addr: SockAddr::from(SocketAddr::new(peer.addr(), 0)).as_storage(),
        flags: FLAG_PREFIX,
        prefixlen: peer.len(),
        keylen: u16::try_from(key.len()).map_err(|_| too_long())?,
        ifindex: 0,
        key: [0; MAX_KEY],
    };
    option.key.get_mut(..key.len()).ok_or_else(too_long)?.copy_from_slice(key);
    set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG_EXT, &option)
}

/// Drops segments that arrive with a TTL or hop limit below `least` (RFC 5082 §3).
pub(super) fn set_min_ttl(socket: &impl AsFd, family: Family, least: u8) -> io::Result<()> {
    let (level, name) = match family {
        Family::Ipv4 => (libc::IPPROTO_IP, libc::IP_MINTTL),
        Family::Ipv6 => (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
    };
    set(socket, level, name, &libc::c_int::from(least))
}

/// setsockopt(2) of a plain value.
#[expect(unsafe_code, reason = "no crate wraps TCP_MD5SIG_EXT, IP_MINTTL and IPV6_MINHOPCOUNT")]
fn set<T>(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed and thus open; the kernel only reads `size` bytes, which
    // are those of `value`, and keeps no pointer to them.
    let done =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The prefix that holds one peer; an IPv4 address mapped into IPv6 counts as IPv4.
pub(super) fn host(addr: IpAddr) -> Prefix {
    Prefix::host(addr.to_canonical())
}
