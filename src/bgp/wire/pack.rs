//! UPDATE messages out: as many prefixes in one as its limit allows.
//!
//! Attributes are written in ascending order of type (RFC 4271 §5), except that MP_REACH_NLRI and
//! MP_UNREACH_NLRI come first (RFC 7606 §5.1), so that a receiver finds the routes even where a
//! later attribute is broken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attributes::{Flags, code};
use super::{UPDATE, as_path, begin, finish, nlri, open, put_u16};
use crate::bgp::attrs::{Attrs, RawAttr};
use crate::bgp::message::Codec;
use crate::net::{Asn, Family, Prefix};

/// Why a path cannot be sent to a peer. A route that was sent before has to be withdrawn then
/// (RFC 8654 §5).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// The attributes leave no room for a prefix
    #[error("the attributes do not fit a message of {0} octets")]
    TooLarge(usize),
    /// The next hop is of another family than the prefix (RFC 8950 is not spoken)
    #[error("next hop {next_hop} cannot go with {family} prefixes")]
    NextHop {
        /// Family of the prefixes
        family: Family,
        /// The next hop
        next_hop: IpAddr,
    },
}

/// Appends UPDATEs that announce `prefixes`, each of them once; gives the number of messages.
///
/// The prefixes should be of one family. On error `out` is as it was.
pub fn encode_reach(
    attrs: &Attrs,
    prefixes: &[Prefix],
    codec: &Codec,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let (start, limit) = (out.len(), codec.max_message());
    out.reserve(reserve(prefixes, limit));
    let mut messages = 0;
    let mut rest = prefixes;
    while let Some(first) = rest.first() {
        let message = out.len();
        let sent = match (first.family(), attrs.next_hop) {
            (Family::Ipv4, IpAddr::V4(next_hop)) => plain_reach(attrs, next_hop, rest, *codec, out),
            (Family::Ipv6, IpAddr::V6(next_hop)) => mp_reach(attrs, next_hop, rest, *codec, out),
            (family, next_hop) => {
                out.truncate(start);
                return Err(EncodeError::NextHop { family, next_hop });
            }
        };
        if sent.len() == rest.len() || out.len() - message > limit {
            out.truncate(start);
            return Err(EncodeError::TooLarge(limit));
        }
        rest = sent;
        messages += 1;
    }
    Ok(messages)
}

/// One UPDATE with NEXT_HOP and plain NLRI; gives the prefixes that found no room.
fn plain_reach<'a>(
    attrs: &Attrs,
    next_hop: Ipv4Addr,
    prefixes: &'a [Prefix],
    codec: Codec,
    out: &mut Vec<u8>,
) -> &'a [Prefix] {
    let message = begin(UPDATE, out);
    out.extend_from_slice(&[0; 4]);
    put_attributes(attrs, Some(next_hop), codec, out);
    put_u16(out.len() - message - 23, message + 21, out);
    let rest = nlri::pack(Family::Ipv4, prefixes, message + codec.max_message(), out);
    finish(message, out);
    rest
}

/// One UPDATE with MP_REACH_NLRI (RFC 4760 §3, RFC 2545 §3); gives the prefixes that found no room.
fn mp_reach<'a>(
    attrs: &Attrs,
    next_hop: Ipv6Addr,
    prefixes: &'a [Prefix],
    codec: Codec,
    out: &mut Vec<u8>,
) -> &'a [Prefix] {
    let message = begin(UPDATE, out);
    // How much must stay free behind the prefixes.
    put_attributes(attrs, None, codec, out);
    let others = out.len() - message - super::HEADER_LEN;
    out.truncate(message + super::HEADER_LEN);

    let end = (message + codec.max_message()).saturating_sub(others);
    out.extend_from_slice(&[0; 4]);
    let value = mp_head(code::MP_REACH, Family::Ipv6, out);
    out.push(if attrs.link_local.is_some() { 32 } else { 16 });
    out.extend_from_slice(&next_hop.octets());
    if let Some(link_local) = attrs.link_local {
        out.extend_from_slice(&link_local.octets());
    }
    out.push(0); // reserved
    let rest = nlri::pack(Family::Ipv6, prefixes, end, out);
    put_u16(out.len() - value, value - 2, out);
    put_attributes(attrs, None, codec, out);
    put_u16(out.len() - message - 23, message + 21, out);
    finish(message, out);
    rest
}

/// Appends UPDATEs that withdraw `prefixes`, each of them once; gives the number of messages.
pub fn encode_withdraw(prefixes: &[Prefix], codec: &Codec, out: &mut Vec<u8>) -> usize {
    let limit = codec.max_message();
    out.reserve(reserve(prefixes, limit));
    let mut messages = 0;
    let mut rest = prefixes;
    while let Some(first) = rest.first() {
        let family = first.family();
        let message = begin(UPDATE, out);
        out.extend_from_slice(&[0; 2]);
        match family {
            Family::Ipv4 => {
                // Two octets for the length of no attributes.
                rest = nlri::pack(family, rest, message + limit - 2, out);
                put_u16(out.len() - message - 21, message + 19, out);
                out.extend_from_slice(&[0; 2]);
            }
            Family::Ipv6 => {
                out.extend_from_slice(&[0; 2]);
                let value = mp_head(code::MP_UNREACH, family, out);
                rest = nlri::pack(family, rest, message + limit, out);
                put_u16(out.len() - value, value - 2, out);
                put_u16(out.len() - message - 23, message + 21, out);
            }
        }
        finish(message, out);
        messages += 1;
    }
    messages
}

/// Appends the End-of-RIB marker of a family (RFC 4724 §2).
pub fn encode_end_of_rib(family: Family, out: &mut Vec<u8>) {
    let message = begin(UPDATE, out);
    out.extend_from_slice(&[0; 4]);
    if family == Family::Ipv6 {
        let [a0, a1, safi] = open::afi_safi(family);
        out.extend_from_slice(&[Flags::OPTIONAL, code::MP_UNREACH, 3, a0, a1, safi]);
        put_u16(6, message + 21, out);
    }
    finish(message, out);
}

/// Octets that the messages for `prefixes` will about need, so that `out` grows once.
fn reserve(prefixes: &[Prefix], limit: usize) -> usize {
    let each = prefixes.first().map_or(0, |prefix| 1 + nlri::octets(prefix.family().bits()));
    let nlri = prefixes.len() * each;
    nlri + (1 + nlri / limit) * 256
}

/// Appends flags, type, two octets for the length, AFI and SAFI; gives where the value starts.
fn mp_head(code: u8, family: Family, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[Flags::OPTIONAL | Flags::EXTENDED, code, 0, 0]);
    out.extend_from_slice(&open::afi_safi(family));
    out.len() - 3
}

/// Appends every attribute but MP_REACH_NLRI, ascending by type.
fn put_attributes(attrs: &Attrs, next_hop: Option<Ipv4Addr>, codec: Codec, out: &mut Vec<u8>) {
    use code::{
        AGGREGATOR, AS_PATH, AS4_AGGREGATOR, AS4_PATH, ATOMIC_AGGREGATE, CLUSTER_LIST, COMMUNITIES, EXT_COMMUNITIES,
        LARGE_COMMUNITIES, LOCAL_PREF, MED, NEXT_HOP, ORIGIN, ORIGINATOR_ID,
    };
    let mut to = Writer { out, unknown: &attrs.unknown };
    to.put(ORIGIN, &[attrs.origin as u8]);
    let path = &attrs.as_path;
    if codec.four_octet_as {
        to.put(AS_PATH, path.as_wire());
    } else {
        to.head(AS_PATH, as_path::narrow_len(path));
        as_path::put_narrow(path, to.out);
    }
    if let Some(next_hop) = next_hop {
        to.put(NEXT_HOP, &next_hop.octets());
    }
    if let Some(med) = attrs.med {
        to.put(MED, &med.to_be_bytes());
    }
    if let Some(local_pref) = attrs.local_pref {
        to.put(LOCAL_PREF, &local_pref.to_be_bytes());
    }
    if attrs.atomic_aggregate {
        to.put(ATOMIC_AGGREGATE, &[]);
    }
    if let Some((asn, addr)) = attrs.aggregator {
        if codec.four_octet_as {
            to.put(AGGREGATOR, &wide_aggregator(asn, addr));
        } else {
            let [n0, n1] = as_path::narrow(asn).to_be_bytes();
            let [a, b, c, d] = addr.octets();
            to.put(AGGREGATOR, &[n0, n1, a, b, c, d]);
        }
    }
    to.list(COMMUNITIES, &attrs.communities, |community| community.0.to_be_bytes());
    if let Some(originator) = attrs.originator_id {
        to.put(ORIGINATOR_ID, &originator.octets());
    }
    to.list(CLUSTER_LIST, &attrs.cluster_list, Ipv4Addr::octets);
    to.list(EXT_COMMUNITIES, &attrs.ext_communities, |community| community.0);
    if !codec.four_octet_as {
        if let Some(length) = as_path::wide_len(path) {
            to.head(AS4_PATH, length);
            as_path::put_wide(path, to.out);
        }
        if let Some((asn, addr)) = attrs.aggregator.filter(|(asn, _)| asn.0 > u32::from(u16::MAX)) {
            to.put(AS4_AGGREGATOR, &wide_aggregator(asn, addr));
        }
    }
    to.list(LARGE_COMMUNITIES, &attrs.large_communities, |community| {
        let [a, b, c] = community.0.map(u32::to_be_bytes);
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3]]
    });
    to.unknown_below(256);
}

fn wide_aggregator(asn: Asn, addr: Ipv4Addr) -> [u8; 8] {
    (u64::from(asn.0) << 32 | u64::from(addr.to_bits())).to_be_bytes()
}

/// Writes attributes, the unknown ones in between where their type belongs.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    unknown: &'a [RawAttr],
}

impl Writer<'_> {
    /// A known attribute with its value.
    fn put(&mut self, code: u8, value: &[u8]) {
        self.head(code, value.len());
        self.out.extend_from_slice(value);
    }

    /// A known attribute made of items, left out if there are none.
    fn list<T: Copy, const N: usize>(&mut self, code: u8, items: &[T], octets: impl Fn(&T) -> [u8; N]) {
        if !items.is_empty() {
            self.head(code, items.len() * N);
            for item in items {
                self.out.extend_from_slice(&octets(item));
            }
        }
    }

    /// Flags, type and length of a known attribute.
    fn head(&mut self, code: u8, length: usize) {
        self.unknown_below(u16::from(code));
        self.raw_head(Flags::of(code).unwrap_or(Flags::OPTIONAL), code, length);
    }

    /// The unknown attributes that belong before this type.
    fn unknown_below(&mut self, code: u16) {
        while let [raw, rest @ ..] = self.unknown
            && u16::from(raw.code) < code
        {
            self.unknown = rest;
            // The four low bits MUST be zero when sent (RFC 4271 §4.3).
            self.raw_head(raw.flags & Flags::KEPT, raw.code, raw.body.len());
            self.out.extend_from_slice(&raw.body);
        }
    }

    /// The length takes two octets only where it must (RFC 4271 §4.3).
    fn raw_head(&mut self, flags: u8, code: u8, length: usize) {
        if let Ok(short) = u8::try_from(length) {
            self.out.extend_from_slice(&[flags, code, short]);
        } else {
            // More than two octets can say is more than a message can hold: refused by the caller.
            let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
            self.out.extend_from_slice(&[flags | Flags::EXTENDED, code, high, low]);
        }
    }
}
