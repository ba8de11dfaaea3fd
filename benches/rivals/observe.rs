//! The kernel's table under the daemon, looked at cheaply enough not to disturb it.
//!
//! Everything here looks at the namespace of the calling thread.

use std::fs;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Where `struct rtmsg` keeps the route's protocol.
const PROTOCOL: usize = 5;

#[expect(clippy::disallowed_methods, reason = "the pause between two looks at something that sends no event")]
pub fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// When something was seen to be so.
pub struct Seen {
    /// When the look began that found it
    pub began: Instant,
    /// When it ended
    pub ended: Instant,
}

/// Looks until it is so; panics after `limit`. Looking takes a sixth of a processor at most, and the pause between two looks
/// is 2 % of what has been waited so far.
pub fn until(what: &str, limit: Duration, mut look: impl FnMut() -> bool) -> Seen {
    let start = Instant::now();
    loop {
        let (began, cpu) = (Instant::now(), thread_cpu());
        if look() {
            return Seen { began, ended: Instant::now() };
        }
        let waited = start.elapsed();
        assert!(waited < limit, "waited {limit:?} in vain for {what}");
        // By processor time, not the clock's: a look that was interrupted is not a dear one.
        let cost = thread_cpu().saturating_sub(cpu);
        sleep((cost * 5).max(waited / 50).max(Duration::from_millis(1)));
    }
}

/// Time of this thread on a processor.
fn thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

/// How many IPv4 prefixes are in the main table, or in the trie that it shares with the local one: of
/// interest is the difference. One walk without a lock, 1 ms at 100,000 routes.
pub fn prefixes() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/fib_triestat").unwrap_or_default();
    let main = text.split_once("Main:").map_or("", |(_, main)| main);
    let count = main.lines().find_map(|line| line.trim().strip_prefix("Prefixes:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// How many IPv4 routes of the main table, connected ones left out, go through a device; with `any`
/// the dump is given up at the first. The kernel filters, so an empty answer costs the walk alone,
/// 10 ms at 100,000 routes.
pub fn routes_through(device: u32, any: bool) -> usize {
    let mut socket = Socket::new(NETLINK_ROUTE).expect("netlink");
    socket.bind_auto().expect("a netlink port");
    socket.set_netlink_get_strict_chk(true).expect("dumps filtered by the kernel, Linux 4.20");
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.attributes = vec![RouteAttribute::Oif(device), RouteAttribute::Table(RouteHeader::RT_TABLE_MAIN.into())];
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, RouteNetlinkMessage::GetRoute(route).into());
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0).expect("a dump");

    let mut count = 0;
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0).expect("an answer");
        let mut rest = buffer.as_slice();
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            assert_ne!(message.message_type(), ERROR, "the kernel refuses the dump");
            if message.message_type() == DONE {
                return count;
            }
            if message.payload().get(PROTOCOL) != Some(&u8::from(RouteProtocol::Kernel)) {
                count += 1;
            }
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        if any && count > 0 {
            return count;
        }
    }
}

/// Number of a device.
pub fn device(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("a device of that name")
}
