//! UPDATE in: its three parts, and what becomes of the routes if an attribute is broken.

use std::net::IpAddr;
use std::sync::Arc;

use super::attributes::{self, MpReach, MpUnreach, Walk, code};
use super::error::{DecodeError, NlriError};
use super::nlri;
use crate::bgp::attrs::Attrs;
use crate::bgp::message::{AttrFault, Codec, FaultOutcome, Reach, Update};
use crate::net::{Family, Prefix};

/// Reads what stands behind the header.
pub(super) fn decode(body: &[u8], codec: Codec) -> Result<Update, DecodeError> {
    let [withdrawn, attributes, plain] = parts(body)?;
    let mut walk = attributes::walk(attributes, codec, !plain.is_empty())?;
    let mut update = Update { end_of_rib: end_of_rib(body, &walk, codec), ..Update::default() };

    let mut plain_reach = Vec::new();
    if codec.families[Family::Ipv4] {
        read(Family::Ipv4, withdrawn, &mut update.withdrawn)?;
        if read(Family::Ipv4, plain, &mut plain_reach)? > 0 {
            walk.faults.push(not_routable(0));
        }
    } else if !(withdrawn.is_empty() && plain.is_empty()) {
        walk.faults.push(AttrFault { what: "IPv4 was not negotiated", ..not_routable(0) });
    }
    if let Some(MpUnreach { family: Some(family), nlri, attribute }) = walk.unreach {
        read_mp(code::MP_UNREACH, family, nlri, attribute, &mut update.withdrawn)?;
    }
    let mut mp_reach = Vec::new();
    if let Some(MpReach { family: Some(family), nlri, attribute, .. }) = walk.reach
        && read_mp(code::MP_REACH, family, nlri, attribute, &mut mp_reach)? > 0
    {
        walk.faults.push(not_routable(code::MP_REACH));
    }

    let announces = !plain.is_empty() || walk.reach.as_ref().is_some_and(|reach| !reach.nlri.is_empty());
    if announces {
        check_mandatory(&mut walk, &plain_reach);
    }
    if walk.faults.iter().any(|fault| fault.outcome == FaultOutcome::TreatAsWithdraw) {
        if !announces && walk.more_than_unreach {
            // RFC 7606 §5.2: we cannot be confident that we have found the routes.
            return Err(DecodeError::AttributeList("an attribute is malformed and there are no routes to withdraw"));
        }
        update.withdrawn.append(&mut plain_reach);
        update.withdrawn.append(&mut mp_reach);
    }
    announce(&mut walk, plain_reach, mp_reach, &mut update.reach);
    update.faults = walk.faults;
    Ok(update)
}

/// Withdrawn routes, path attributes, NLRI (RFC 4271 §4.3).
fn parts(body: &[u8]) -> Result<[&[u8]; 3], DecodeError> {
    // RFC 4271 §6.3: lengths that exceed the message are a malformed attribute list.
    let (withdrawn, rest) =
        field(body).ok_or(DecodeError::AttributeList("the withdrawn routes overrun the message"))?;
    let (attributes, nlri) = field(rest).ok_or(DecodeError::AttributeList("the attributes overrun the message"))?;
    Ok([withdrawn, attributes, nlri])
}

/// A field that begins with its length, and what follows it.
fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, tail) = bytes.split_first_chunk()?;
    tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn read(family: Family, bytes: &[u8], out: &mut Vec<Prefix>) -> Result<usize, NlriError> {
    if bytes.is_empty() { Ok(0) } else { nlri::decode(family, bytes, out) }
}

fn read_mp(
    code: u8,
    family: Family,
    nlri: &[u8],
    attribute: &[u8],
    out: &mut Vec<Prefix>,
) -> Result<usize, DecodeError> {
    read(family, nlri, out).map_err(|error| DecodeError::Multiprotocol {
        code,
        what: match error {
            NlriError::Bits(_) => "a prefix is longer than an address",
            NlriError::Overrun => "a prefix overruns it",
        },
        attribute: attribute.into(),
    })
}

const fn not_routable(code: u8) -> AttrFault {
    AttrFault { code, what: "prefixes that no route can lead to", outcome: FaultOutcome::AttributeDiscard }
}

/// Empty, or nothing but an empty MP_UNREACH_NLRI (RFC 4724 §2).
fn end_of_rib(body: &[u8], walk: &Walk<'_>, codec: Codec) -> Option<Family> {
    match &walk.unreach {
        None if body == [0; 4] => Some(Family::Ipv4).filter(|family| codec.families[*family]),
        Some(MpUnreach { family, nlri: [], attribute }) if body.len() == 4 + attribute.len() => *family,
        _ => None,
    }
}

/// RFC 7606 §3 d: routes without one of these are withdrawn.
fn check_mandatory(walk: &mut Walk<'_>, plain_reach: &[Prefix]) {
    let missing = [
        (code::ORIGIN, walk.origin.is_none()),
        (code::AS_PATH, walk.as_path.is_none()),
        (code::NEXT_HOP, walk.next_hop.is_none() && !plain_reach.is_empty()),
    ];
    for (code, is_missing) in missing {
        // One that was there and malformed has its fault already.
        if is_missing && !walk.faults.iter().any(|fault| fault.code == code) {
            walk.faults.push(AttrFault { code, what: "missing", outcome: FaultOutcome::TreatAsWithdraw });
        }
    }
}

/// Joins the prefixes with their attributes. Plain NLRI and MP_REACH_NLRI have a next hop each.
fn announce(walk: &mut Walk<'_>, plain: Vec<Prefix>, mp: Vec<Prefix>, out: &mut Vec<Reach>) {
    let plain_hop = walk.next_hop.map(|next_hop| (IpAddr::V4(next_hop), None));
    let mp_hop = walk.reach.as_ref().map(|reach| (reach.next_hop, reach.link_local));
    for (prefixes, hop) in [(plain, plain_hop), (mp, mp_hop)] {
        let Some((next_hop, link_local)) = hop.filter(|_| !prefixes.is_empty()) else { continue };
        let attrs = match out.first() {
            Some(other) => Some(Attrs { next_hop, link_local, ..other.attrs.as_ref().clone() }),
            None => walk.take_attrs(next_hop, link_local),
        };
        out.extend(attrs.map(|attrs| Reach { attrs: Arc::new(attrs), prefixes }));
    }
}
