//! Nexthop objects (`struct nhmsg` and the attributes `NHA_*` of linux/nexthop.h), both ways.

use super::encode::{ONLINK, family_number};
use super::parse::family_of;
use super::wire::{CREATE, Encoder, REPLACE, REQUEST, Start, address, attributes, u16_at, u32_at};
use crate::explain::kernel::Object;
use crate::forward::{Hop, Nexthop, NexthopId, NexthopObject, NexthopOp};
use crate::net::Family;

/// `RTM_NEWNEXTHOP`.
pub(super) const NEW: u16 = 104;
/// `RTM_DELNEXTHOP`.
pub(super) const DELETE: u16 = 105;
/// `RTM_GETNEXTHOP`.
pub(super) const GET: u16 = 106;
/// `RTM_GETNEXTHOPBUCKET`.
pub(super) const GET_BUCKET: u16 = 118;
/// `RTA_NH_ID`: the object that a route refers to.
pub(super) const ROUTE_NEXTHOP: u16 = 30;

/// `NHA_ID`.
const ID: u16 = 1;
/// `NHA_GROUP`: an array of `struct nexthop_grp`.
const GROUP: u16 = 2;
/// `NHA_GROUP_TYPE`; 0 spreads flows by their hash alone, 1 is resilient: by a table of buckets.
const GROUP_TYPE: u16 = 3;
/// `NEXTHOP_GRP_TYPE_RES`.
const RESILIENT: u16 = 1;
/// `NHA_BLACKHOLE`.
const BLACKHOLE: u16 = 4;
/// `NHA_OIF`.
const DEVICE: u16 = 5;
/// `NHA_GATEWAY`.
const GATEWAY: u16 = 6;
/// `NHA_ENCAP_TYPE`.
const ENCAP_TYPE: u16 = 7;
/// `NHA_FDB`: for the forwarding table of a bridge.
const FDB: u16 = 11;
/// `NHA_RES_GROUP`: the parameters of a resilient group.
const RES_GROUP: u16 = 12;
/// `NLA_F_NESTED`, which the kernel insists on here.
const NESTED: u16 = 0x8000;
/// `NHA_RES_GROUP_BUCKETS`.
const BUCKETS: u16 = 1;
/// `NHA_RES_GROUP_IDLE_TIMER`: 0 lets a bucket change hands while it carries traffic.
const IDLE_TIMER: u16 = 2;

/// Buckets of a guarded group. The kernel gives each member the buckets nearest to its share, so
/// few enough for none to fall to the spare one: 32 of 256 parts are less than half a bucket.
const GUARDED_BUCKETS: u16 = 32;
/// Weights, less one: as different as every kernel allows; 255 is for Linux 6.12 and later only
/// (net/ipv4/nexthop.c, nh_check_attr_group).
const USED: u8 = 254;
const SPARE: u8 = 0;

/// Appends the header: family, scope, protocol, a spare byte, flags.
fn header(encoder: &mut Encoder, family: u8, protocol: u8, flags: u8) {
    encoder.put(&[family, 0, protocol, 0]);
    encoder.put(&u32::from(flags).to_ne_bytes());
}

/// Appends a question for all of them.
pub(super) fn any(encoder: &mut Encoder) {
    header(encoder, 0, 0, 0);
}

/// Appends one operation as a message and returns where it began.
pub(super) fn operation(encoder: &mut Encoder, protocol: u8, op: &NexthopOp, sequence: u32) -> Start {
    match op {
        NexthopOp::Set(id, nexthop) => {
            let start = encoder.begin(NEW, REQUEST | CREATE | REPLACE, sequence);
            set(encoder, protocol, *id, nexthop);
            encoder.end(start);
            start
        }
        NexthopOp::Remove(id) => {
            let start = encoder.begin(DELETE, REQUEST, sequence);
            selector(encoder, *id);
            encoder.end(start);
            start
        }
    }
}

fn set(encoder: &mut Encoder, protocol: u8, id: NexthopId, nexthop: &Nexthop) {
    match nexthop {
        Nexthop::Hop(hop, family) => {
            let family = hop.gateway.map_or(*family, Family::of);
            header(encoder, family_number(family), protocol, if hop.onlink { ONLINK } else { 0 });
            encoder.attribute_u32(ID, id.0);
            encoder.attribute_u32(DEVICE, hop.device);
            if let Some(gateway) = hop.gateway {
                encoder.attribute_address(GATEWAY, gateway);
            }
        }
        Nexthop::Group(members) => {
            header(encoder, 0, protocol, 0);
            encoder.attribute_u32(ID, id.0);
            group_of(encoder, members.iter().map(|id| (*id, SPARE)));
        }
        Nexthop::Guarded { used, spare } => {
            header(encoder, 0, protocol, 0);
            encoder.attribute_u32(ID, id.0);
            group_of(encoder, used.iter().map(|id| (*id, USED)).chain(spare.map(|id| (id, SPARE))));
            attribute_u16(encoder, GROUP_TYPE, RESILIENT);
            let nest = encoder.begin_nest(NESTED | RES_GROUP);
            attribute_u16(encoder, BUCKETS, GUARDED_BUCKETS);
            encoder.attribute_u32(IDLE_TIMER, 0);
            encoder.end_nest(nest);
        }
        // Nothing makes one; the kernel refuses an object without a device.
        Nexthop::Other => {
            header(encoder, 0, protocol, 0);
            encoder.attribute_u32(ID, id.0);
        }
    }
}

/// Appends the members of a group, each with its weight less one.
fn group_of(encoder: &mut Encoder, members: impl Iterator<Item = (NexthopId, u8)>) {
    let nest = encoder.begin_nest(GROUP);
    for (id, weight) in members {
        encoder.put(&id.0.to_ne_bytes());
        // The rest is the upper half of the weight and two spare bytes.
        encoder.put(&[weight, 0, 0, 0]);
    }
    encoder.end_nest(nest);
}

fn attribute_u16(encoder: &mut Encoder, kind: u16, value: u16) {
    let nest = encoder.begin_nest(kind);
    encoder.put(&value.to_ne_bytes());
    encoder.end_nest(nest);
}

/// Appends the name of one object.
pub(super) fn selector(encoder: &mut Encoder, id: NexthopId) {
    header(encoder, 0, 0, 0);
    encoder.attribute_u32(ID, id.0);
}

/// Reads an object; `None` if it has no number.
pub(super) fn object(body: &[u8]) -> Option<NexthopObject> {
    let &[family, _, protocol, _] = body.first_chunk::<4>()?;
    let onlink = u32_at(body, 4)? & u32::from(ONLINK) != 0;
    let mut hop = Hop { gateway: None, device: 0, tunnel: false, onlink };
    let (mut id, mut members, mut group_type, mut plain) = (None, None, 0, true);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            ID => id = u32_at(value, 0).map(NexthopId),
            GROUP => members = Some(value),
            GROUP_TYPE => group_type = u16_at(value, 0)?,
            DEVICE => hop.device = u32_at(value, 0)?,
            GATEWAY => hop.gateway = address(value),
            BLACKHOLE | ENCAP_TYPE | FDB => plain = false,
            _ => {}
        }
    }
    let nexthop = match (members, family_of(family)) {
        (Some(members), _) if plain => group(members, group_type).unwrap_or(Nexthop::Other),
        (None, Some(family)) if plain && hop.device != 0 => Nexthop::Hop(hop, family),
        _ => Nexthop::Other,
    };
    Some(NexthopObject { id: id?, protocol, nexthop })
}

/// Reads an object as it is, whoever made it, weights included; `None` if it has no number.
pub(super) fn shown(body: &[u8]) -> Option<Object> {
    let mut object = Object { id: 0, gateway: None, device: None, members: Vec::new(), resilient: false };
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            ID => object.id = u32_at(value, 0)?,
            GATEWAY => object.gateway = address(value),
            DEVICE => object.device = u32_at(value, 0),
            GROUP_TYPE => object.resilient = u16_at(value, 0)? == RESILIENT,
            // Number, weight less one, its upper half, two spare bytes.
            GROUP => {
                let weight = |member: &[u8; 8]| u32::from(u16::from_le_bytes([member[4], member[5]])) + 1;
                let members = value.as_chunks::<8>().0.iter();
                object.members = members.filter_map(|member| Some((u32_at(member, 0)?, weight(member)))).collect();
            }
            _ => {}
        }
    }
    (object.id != 0).then_some(object)
}

/// A group of one of our two sorts; `None` if it is of neither.
fn group(mut bytes: &[u8], group_type: u16) -> Option<Nexthop> {
    let mut members = Vec::with_capacity(bytes.len() / 8);
    while let Some((member, rest)) = bytes.split_first_chunk::<8>() {
        members.push((NexthopId(u32_at(member, 0)?), u16_at(member, 4)?));
        bytes = rest;
    }
    members.sort_unstable();
    let of = |weight: u8| members.iter().filter(move |(_, has)| *has == u16::from(weight)).map(|(id, _)| *id);
    let all_alike = members.iter().all(|(_, weight)| members.first().is_some_and(|(_, first)| weight == first));
    match group_type {
        0 if all_alike => Some(Nexthop::Group(members.iter().map(|(id, _)| *id).collect())),
        RESILIENT if of(USED).count() + of(SPARE).count() == members.len() && of(SPARE).count() <= 1 => {
            Some(Nexthop::Guarded { used: of(USED).collect(), spare: of(SPARE).next() })
        }
        _ => None,
    }
}
