//! What the kernel says: links, addresses, routes of others and our own, one event at a time or
//! all at once. Only values; `io` reads them from netlink.

use std::net::IpAddr;

use super::{Hop, NexthopId, NexthopObject, Target};
use crate::net::Prefix;

/// A network device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// Interface index
    pub index: u32,
    /// Its name
    pub name: String,
    /// Administratively up (`IFF_UP`)
    pub up: bool,
    /// Has a carrier (`IFF_LOWER_UP`; operational state *unknown* counts as a carrier)
    pub carrier: bool,
    /// A loopback device (`IFF_LOOPBACK`): the prefixes of its addresses are all local
    pub loopback: bool,
    /// Largest packet in octets
    pub mtu: u32,
}

/// An address of this host.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Address {
    /// Interface index
    pub device: u32,
    /// Our own address (`IFA_LOCAL`, for IPv6 `IFA_ADDRESS`)
    pub addr: IpAddr,
    /// What is on-link by it: `IFA_ADDRESS` (the peer's, on a point-to-point link) with its length
    pub prefix: Prefix,
}

/// What a foreign route does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RouteKind {
    /// Sends packets on
    Unicast,
    /// Drops them, silently or with an ICMP error: `blackhole`, `unreachable`, `prohibit`
    Reject,
}

/// A route that is not ours: another protocol number, or another metric of a table we look at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForeignRoute {
    /// Destination
    pub prefix: Prefix,
    /// Routing table: ours, or the main table
    pub table: u32,
    /// Priority; the lowest wins
    pub metric: u32,
    /// Who installed it (`rtm_protocol`; 2 is the kernel)
    pub protocol: u8,
    /// What it does
    pub kind: RouteKind,
    /// Its hops (`tunnel` need not be set); none for [`RouteKind::Reject`], nor where the kernel
    /// names the nexthop object alone
    pub hops: Vec<Hop>,
    /// The nexthop object it refers to
    pub nexthop: Option<NexthopId>,
}

/// One change, as netlink reports it. Our own writes should be filtered out, but an echo of them
/// does no harm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KernelEvent {
    /// A link is there, in this state
    Link(Link),
    /// A link is gone
    LinkGone(u32),
    /// An address is there
    Address(Address),
    /// An address is gone
    AddressGone(Address),
    /// A foreign route is there
    Route(ForeignRoute),
    /// A foreign route is gone, or the hops named here are (IPv6 reports them one by one)
    RouteGone(ForeignRoute),
    /// A route with our protocol and metric in our table is there (`tunnel` of its hops need not
    /// be set)
    Own(Prefix, Target),
    /// Such a route is gone, or the hops named here are
    OwnGone(Prefix, Target),
    /// A nexthop object is there, ours or another's
    Nexthop(NexthopObject),
    /// A nexthop object is gone
    NexthopGone(NexthopId),
}

/// All of it at one time.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Dump {
    /// Every link of the namespace
    pub links: Vec<Link>,
    /// Every address
    pub addresses: Vec<Address>,
    /// Every foreign unicast or reject route of our table and of main
    pub foreign: Vec<ForeignRoute>,
    /// Every route with our protocol and metric in our table. Hops that the kernel calls dead
    /// count like others; a blackhole is one whatever device is named (IPv6 says `lo`)
    pub own: Vec<(Prefix, Target)>,
    /// Every nexthop object, whoever made it; none where the kernel knows no such thing
    pub nexthops: Vec<NexthopObject>,
}
