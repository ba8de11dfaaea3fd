//! rtnetlink messages → links, addresses and routes as [`crate::forward`] names them.
//!
//! A message or attribute that is not understood is passed over: newer kernels say more.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::encode::ONLINK;
use super::nexthop::{self, ROUTE_NEXTHOP};
use super::wire::{Message, address, attributes, str_of, u16_at, u32_at};
use super::{MAIN_TABLE, Ours};
use crate::forward::{Address, ForeignRoute, Hop, KernelEvent, Link, NexthopId, RouteKind, Target};
use crate::net::{Family, Prefix};

/// `RTM_F_CLONED`: a cached copy of a route, not a route.
const CLONED: u32 = 0x200;

/// A route of a table we look at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Route {
    pub prefix: Prefix,
    pub table: u32,
    pub metric: u32,
    pub protocol: u8,
    pub kind: RouteKind,
    /// Sorted, none twice; the mark `tunnel` is never set. Of a nexthop object's the kernel tells
    /// them only in compatibility mode.
    pub hops: SmallVec<[Hop; 4]>,
    pub nexthop: Option<NexthopId>,
}

impl Route {
    pub(super) fn is(&self, ours: Ours) -> bool {
        (self.table, self.protocol, self.metric) == (ours.table, ours.protocol, ours.metric)
    }

    fn into_target(self) -> Target {
        match (self.nexthop, self.kind) {
            (Some(id), _) => Target::Object(id),
            (None, RouteKind::Unicast) => Target::via(self.hops).unwrap_or(Target::Blackhole),
            (None, RouteKind::Reject) => Target::Blackhole,
        }
    }

    pub(super) fn into_foreign(self) -> ForeignRoute {
        let Self { prefix, table, metric, protocol, kind, hops, nexthop } = self;
        let hops = match kind {
            RouteKind::Unicast => hops.into_vec(),
            // IPv6 names the loopback device here.
            RouteKind::Reject => Vec::new(),
        };
        ForeignRoute { prefix, table, metric, protocol, kind, hops, nexthop }
    }
}

/// What a multicast message says, if it matters.
pub(super) fn event(message: &Message<'_>, ours: Ours) -> Option<KernelEvent> {
    match message.kind {
        libc::RTM_NEWLINK => link(message.body).map(KernelEvent::Link),
        libc::RTM_DELLINK => link_index(message.body).map(KernelEvent::LinkGone),
        libc::RTM_NEWADDR => local_address(message.body).map(KernelEvent::Address),
        libc::RTM_DELADDR => local_address(message.body).map(KernelEvent::AddressGone),
        libc::RTM_NEWROUTE => watched(message.body, ours).map(|route| {
            if route.is(ours) {
                KernelEvent::Own(route.prefix, route.into_target())
            } else {
                KernelEvent::Route(route.into_foreign())
            }
        }),
        libc::RTM_DELROUTE => watched(message.body, ours).map(|route| {
            if route.is(ours) {
                KernelEvent::OwnGone(route.prefix, route.into_target())
            } else {
                KernelEvent::RouteGone(route.into_foreign())
            }
        }),
        nexthop::NEW => nexthop::object(message.body).map(KernelEvent::Nexthop),
        nexthop::DELETE => nexthop::object(message.body).map(|object| KernelEvent::NexthopGone(object.id)),
        _ => None,
    }
}

/// A route of our table or of the main one.
fn watched(body: &[u8], ours: Ours) -> Option<Route> {
    route(body).filter(|route| route.table == ours.table || route.table == MAIN_TABLE)
}

/// Index of the device in a `struct ifinfomsg`. The bridge's own view of a port is passed over:
/// leaving a bridge would look like being deleted.
pub(super) fn link_index(body: &[u8]) -> Option<u32> {
    let family = i32::from(*body.first()?);
    (family == libc::AF_UNSPEC).then(|| u32_at(body, 4)).flatten()
}

pub(super) fn link(body: &[u8]) -> Option<Link> {
    let index = link_index(body)?;
    let flags = u32_at(body, 8)?;
    let (mut name, mut mtu) = (None, 0);
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => name = str_of(value),
            libc::IFLA_MTU => mtu = u32_at(value, 0).unwrap_or_default(),
            _ => {}
        }
    }
    let has = |flag: libc::c_int| flags & flag.cast_unsigned() != 0;
    Some(Link {
        index,
        name: name?.to_owned(),
        up: has(libc::IFF_UP),
        // Set for devices that know no carrier too.
        carrier: has(libc::IFF_LOWER_UP),
        loopback: has(libc::IFF_LOOPBACK),
        mtu,
    })
}

pub(super) fn local_address(body: &[u8]) -> Option<Address> {
    let (len, device) = (*body.get(1)?, u32_at(body, 4)?);
    let (mut local, mut peer) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            libc::IFA_LOCAL => local = address(value),
            libc::IFA_ADDRESS => peer = address(value),
            _ => {}
        }
    }
    // IPv6 gives IFA_LOCAL only on point-to-point addresses, IPv4 always.
    let addr = local.or(peer)?;
    Some(Address { device, addr, prefix: Prefix::new(peer.unwrap_or(addr), len) })
}

/// A unicast or reject route; `None` for all others.
pub(super) fn route(body: &[u8]) -> Option<Route> {
    let &[family, len, _, _, small_table, protocol, _, kind] = body.first_chunk::<8>()?;
    let flags = u32_at(body, 8)?;
    let kind = match kind {
        libc::RTN_UNICAST => RouteKind::Unicast,
        libc::RTN_BLACKHOLE | libc::RTN_UNREACHABLE | libc::RTN_PROHIBIT => RouteKind::Reject,
        _ => return None,
    };
    if flags & CLONED != 0 {
        return None;
    }
    let mut route = Route {
        prefix: Prefix::default_route(family_of(family)?),
        table: u32::from(small_table),
        metric: 0,
        protocol,
        kind,
        hops: SmallVec::new(),
        nexthop: None,
    };
    // Flags of a single hop stand in the route's own.
    let mut single = Hop { gateway: None, device: 0, tunnel: false, onlink: has_onlink(flags.to_ne_bytes()) };
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            libc::RTA_DST => route.prefix = Prefix::new(address(value)?, len),
            libc::RTA_TABLE => route.table = u32_at(value, 0)?,
            libc::RTA_PRIORITY => route.metric = u32_at(value, 0)?,
            libc::RTA_OIF => single.device = u32_at(value, 0)?,
            libc::RTA_GATEWAY => single.gateway = address(value),
            libc::RTA_VIA => single.gateway = via(value),
            ROUTE_NEXTHOP => route.nexthop = u32_at(value, 0).map(NexthopId),
            libc::RTA_MULTIPATH => hops(value, &mut route.hops),
            _ => {}
        }
    }
    if route.hops.is_empty() && single.device != 0 {
        route.hops.push(single);
    }
    route.hops.sort_unstable();
    route.hops.dedup();
    Some(route)
}

/// Walks `struct rtnexthop`s: length, flags, weight, device, attributes.
fn hops(mut bytes: &[u8], out: &mut SmallVec<[Hop; 4]>) {
    while let Some(hop) = hop(bytes) {
        out.push(hop);
        let len = usize::from(u16_at(bytes, 0).unwrap_or_default());
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn hop(bytes: &[u8]) -> Option<Hop> {
    let len = usize::from(u16_at(bytes, 0)?);
    let mut hop = Hop { gateway: None, device: u32_at(bytes, 4)?, tunnel: false, onlink: bytes.get(2)? & ONLINK != 0 };
    for (kind, value) in attributes(bytes.get(8..len)?) {
        match kind {
            libc::RTA_GATEWAY => hop.gateway = address(value),
            libc::RTA_VIA => hop.gateway = via(value),
            _ => {}
        }
    }
    Some(hop)
}

/// A gateway of the other family: family, address.
fn via(value: &[u8]) -> Option<IpAddr> {
    address(value.get(2..)?)
}

fn has_onlink(flags: [u8; 4]) -> bool {
    u32::from_ne_bytes(flags) & u32::from(ONLINK) != 0
}

pub(super) fn family_of(number: u8) -> Option<Family> {
    match i32::from(number) {
        libc::AF_INET => Some(Family::Ipv4),
        libc::AF_INET6 => Some(Family::Ipv6),
        _ => None,
    }
}
