//! [`FibOp`] → rtnetlink messages, appended to one buffer.

use std::net::IpAddr;

use super::Ours;
use super::wire::{CREATE, EXCL, Encoder, REPLACE, REQUEST, Start};
use crate::forward::{FibOp, Hop, Target};
use crate::net::{Family, Prefix};

/// `RTNH_F_ONLINK`: the gateway needs no route of its own.
pub(super) const ONLINK: u8 = 4;

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
        if u8::try_from(self.table).is_err() {
            encoder.attribute_u32(libc::RTA_TABLE, self.table);
        }
    }
}

/// Appends one operation as a message and returns where it began.
pub(super) fn operation(encoder: &mut Encoder, ours: Ours, op: &FibOp, sequence: u32) -> Start {
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
