//! [`FibOp`] → rtnetlink messages, appended to one buffer.

use std::net::IpAddr;

use super::Ours;
use super::nexthop::ROUTE_NEXTHOP;
use super::wire::{CREATE, EXCL, Encoder, HEADER, REPLACE, REQUEST, Start};
use crate::forward::{FibOp, Hop, Target};
use crate::net::{Family, Prefix};

/// `RTNH_F_ONLINK`: the gateway needs no route of its own.
pub(super) const ONLINK: u8 = 4;

/// Bytes of `struct rtmsg`.
const RTMSG: usize = 12;

/// Address family number of a message.
pub(super) const fn family_number(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 2,  // AF_INET
        Family::Ipv6 => 10, // AF_INET6
    }
}

/// What a `struct rtmsg` says, but for what is always zero.
#[derive(Clone, Copy)]
pub(super) struct RouteHeader {
    pub family: u8,
    pub prefix_len: u8,
    /// Of a lookup that names the sender.
    pub source_len: u8,
    pub table: u32,
    pub protocol: u8,
    pub scope: u8,
    pub kind: u8,
    pub flags: u32,
}

impl RouteHeader {
    pub(super) fn put(&self, encoder: &mut Encoder) {
        // A table beyond one byte is written as an attribute.
        let table = u8::try_from(self.table).unwrap_or(libc::RT_TABLE_UNSPEC);
        let head = [self.family, self.prefix_len, self.source_len, 0, table, self.protocol, self.scope, self.kind];
        encoder.put(&head);
        encoder.put(&self.flags.to_ne_bytes());
    }

    /// The same as a whole question, table included.
    pub(super) fn put_whole(&self, encoder: &mut Encoder) {
        self.put(encoder);
        large_table(encoder, self.table);
    }
}

fn large_table(encoder: &mut Encoder, table: u32) {
    if u8::try_from(table).is_err() {
        encoder.attribute_u32(libc::RTA_TABLE, table);
    }
}

/// Where the bits of the prefix stand in a message of ours: in `rtm_dst_len`.
const PREFIX_LEN: usize = HEADER + 1;
/// Where its address does: in `RTA_DST`, the first attribute.
const PREFIX_ADDR: usize = HEADER + RTMSG + 4;

/// Appends the messages of one send. Neighbours in a batch mostly differ in their prefix alone:
/// such a message is a copy of the one before it.
pub(super) struct Routes<'a> {
    ours: Ours,
    last: Option<(&'a FibOp, Start)>,
}

impl<'a> Routes<'a> {
    pub(super) const fn new(ours: Ours) -> Self {
        Self { ours, last: None }
    }

    /// Appends one operation as a message and returns where it began.
    pub(super) fn put(&mut self, encoder: &mut Encoder, op: &'a FibOp, sequence: u32) -> Start {
        let start = match self.last {
            Some((last, start)) if is_like(last, op) => {
                let copy = encoder.again(start, sequence);
                let prefix = op.prefix();
                encoder.patch(copy, PREFIX_LEN, &[prefix.len()]);
                match prefix.addr() {
                    IpAddr::V4(addr) => encoder.patch(copy, PREFIX_ADDR, &addr.octets()),
                    IpAddr::V6(addr) => encoder.patch(copy, PREFIX_ADDR, &addr.octets()),
                }
                copy
            }
            _ => operation(encoder, self.ours, op, sequence),
        };
        self.last = Some((op, start));
        start
    }
}

/// Whether two messages differ in their prefix alone.
fn is_like(a: &FibOp, b: &FibOp) -> bool {
    let same = match (a, b) {
        (FibOp::Create(_, a), FibOp::Create(_, b)) | (FibOp::Replace(_, a), FibOp::Replace(_, b)) => a == b,
        // What the route does is not said.
        (FibOp::Remove(..), FibOp::Remove(..)) => true,
        _ => false,
    };
    same && a.prefix().family() == b.prefix().family()
}

fn operation(encoder: &mut Encoder, ours: Ours, op: &FibOp, sequence: u32) -> Start {
    match op {
        FibOp::Create(prefix, target) => new_route(encoder, ours, *prefix, target, CREATE | EXCL, sequence),
        FibOp::Replace(prefix, target) => new_route(encoder, ours, *prefix, target, REPLACE, sequence),
        FibOp::Remove(prefix, _) => remove(encoder, ours, *prefix, sequence),
    }
}

fn new_route(encoder: &mut Encoder, ours: Ours, prefix: Prefix, target: &Target, flags: u16, sequence: u32) -> Start {
    let start = encoder.begin(libc::RTM_NEWROUTE, REQUEST | flags, sequence);
    let hops = target.hops();
    let single = if let [hop] = hops { Some(hop) } else { None };
    let header = RouteHeader {
        family: family_number(prefix.family()),
        prefix_len: prefix.len(),
        source_len: 0,
        table: ours.table,
        protocol: ours.protocol,
        // What needs no gateway is on the link.
        scope: match single {
            Some(Hop { gateway: None, .. }) => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        },
        kind: match target {
            Target::Via(_) | Target::Object(_) => libc::RTN_UNICAST,
            Target::Blackhole => libc::RTN_BLACKHOLE,
        },
        flags: single.map_or(0, |hop| u32::from(hop_flags(hop))),
    };
    header.put(encoder);
    key(encoder, ours, prefix);
    if let Some(hop) = single {
        encoder.attribute_u32(libc::RTA_OIF, hop.device);
        gateway(encoder, prefix, hop);
    } else if let Target::Object(id) = target {
        encoder.attribute_u32(ROUTE_NEXTHOP, id.0);
    } else if !hops.is_empty() {
        let nest = encoder.begin_nest(libc::RTA_MULTIPATH);
        for hop in hops {
            let start = encoder.begin_hop(hop_flags(hop), hop.device);
            gateway(encoder, prefix, hop);
            encoder.end_nest(start);
        }
        encoder.end_nest(nest);
    }
    encoder.end(start);
    start
}

fn remove(encoder: &mut Encoder, ours: Ours, prefix: Prefix, sequence: u32) -> Start {
    let start = encoder.begin(libc::RTM_DELROUTE, REQUEST, sequence);
    selector(encoder, ours, prefix);
    encoder.end(start);
    start
}

/// Names table, protocol, metric and prefix, so that it can't hit a route of others.
pub(super) fn selector(encoder: &mut Encoder, ours: Ours, prefix: Prefix) {
    let header = RouteHeader {
        family: family_number(prefix.family()),
        prefix_len: prefix.len(),
        source_len: 0,
        table: ours.table,
        protocol: ours.protocol,
        // These two match any scope and kind.
        scope: libc::RT_SCOPE_NOWHERE,
        kind: libc::RTN_UNSPEC,
        flags: 0,
    };
    header.put(encoder);
    key(encoder, ours, prefix);
}

fn key(encoder: &mut Encoder, ours: Ours, prefix: Prefix) {
    encoder.attribute_address(libc::RTA_DST, prefix.addr());
    large_table(encoder, ours.table);
    encoder.attribute_u32(libc::RTA_PRIORITY, ours.metric);
}

const fn hop_flags(hop: &Hop) -> u8 {
    if hop.onlink { ONLINK } else { 0 }
}

fn gateway(encoder: &mut Encoder, prefix: Prefix, hop: &Hop) {
    match hop.gateway {
        Some(addr) if Family::of(addr) == prefix.family() => encoder.attribute_address(libc::RTA_GATEWAY, addr),
        // IPv4 over an IPv6 neighbour (RFC 8950): the attribute names the gateway's family.
        Some(addr) => {
            let nest = encoder.begin_nest(libc::RTA_VIA);
            encoder.put(&u16::from(family_number(Family::of(addr))).to_ne_bytes());
            match addr {
                IpAddr::V4(addr) => encoder.put(&addr.octets()),
                IpAddr::V6(addr) => encoder.put(&addr.octets()),
            }
            encoder.end_nest(nest);
        }
        None => {}
    }
}
