//! Walks the path attributes of an UPDATE and classes every error (RFC 7606).
//!
//! Each attribute is checked by itself: repetition (§3 g), origin from outside (§7.5, §7.9, §7.10),
//! flags (§3 c), length and value (§7). What depends on the whole message (mandatory attributes,
//! which routes to withdraw) is decided in `update`.
//!
//! ORIGIN and the items of COMMUNITIES and LARGE_COMMUNITY are read by zettabgp, of exactly the
//! length that it expects. The rest is our own: zettabgp checks neither flags nor lengths, never
//! returns from an AS_PATH with an octet left over, and drops what we need of MP_REACH_NLRI.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zettabgp::error::BgpError;
use zettabgp::message::attributes::community::{BgpCommunity, BgpLargeCommunity};
use zettabgp::message::attributes::origin::{BgpAttrOrigin, BgpOrigin};

use super::error::DecodeError;
use super::{as_path, open};
use crate::bgp::attrs::{AsPath, Attrs, Community, ExtCommunity, LargeCommunity, Origin, RawAttr};
use crate::bgp::message::{AttrFault, Codec, FaultOutcome};
use crate::net::{Asn, Family};

/// Attribute type codes.
pub(super) mod code {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MED: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH: u8 = 14;
    pub const MP_UNREACH: u8 = 15;
    pub const EXT_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const LARGE_COMMUNITIES: u8 = 32;
}

/// Attribute flags (RFC 4271 §4.3).
pub(super) struct Flags;

impl Flags {
    pub const OPTIONAL: u8 = 0x80;
    pub const TRANSITIVE: u8 = 0x40;
    pub const PARTIAL: u8 = 0x20;
    pub const EXTENDED: u8 = 0x10;
    /// What belongs to the attribute and not to its encoding
    pub const KEPT: u8 = Self::OPTIONAL | Self::TRANSITIVE | Self::PARTIAL;

    /// Optional and Transitive as the attribute's RFC has them; `None` for what we don't know.
    pub const fn of(code: u8) -> Option<u8> {
        use code::{
            AGGREGATOR, AS_PATH, AS4_AGGREGATOR, AS4_PATH, ATOMIC_AGGREGATE, CLUSTER_LIST, COMMUNITIES,
            EXT_COMMUNITIES, LARGE_COMMUNITIES, LOCAL_PREF, MED, MP_REACH, MP_UNREACH, NEXT_HOP, ORIGIN, ORIGINATOR_ID,
        };
        match code {
            ORIGIN | AS_PATH | NEXT_HOP | LOCAL_PREF | ATOMIC_AGGREGATE => Some(Self::TRANSITIVE),
            MED | ORIGINATOR_ID | CLUSTER_LIST | MP_REACH | MP_UNREACH => Some(Self::OPTIONAL),
            AGGREGATOR | COMMUNITIES | EXT_COMMUNITIES | AS4_PATH | AS4_AGGREGATOR | LARGE_COMMUNITIES => {
                Some(Self::OPTIONAL | Self::TRANSITIVE)
            }
            _ => None,
        }
    }
}

/// What the attributes of one UPDATE say, as far as they are sound.
#[derive(Debug, Default)]
pub(super) struct Walk<'a> {
    pub origin: Option<Origin>,
    pub as_path: Option<AsPath>,
    pub next_hop: Option<Ipv4Addr>,
    med: Option<u32>,
    local_pref: Option<u32>,
    atomic_aggregate: bool,
    aggregator: Option<(Asn, Ipv4Addr)>,
    communities: Box<[Community]>,
    originator_id: Option<Ipv4Addr>,
    cluster_list: Box<[Ipv4Addr]>,
    ext_communities: Box<[ExtCommunity]>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<(Asn, Ipv4Addr)>,
    large_communities: Box<[LargeCommunity]>,
    unknown: Vec<RawAttr>,
    pub reach: Option<MpReach<'a>>,
    pub unreach: Option<MpUnreach<'a>>,
    pub faults: Vec<AttrFault>,
    /// There are attributes besides MP_UNREACH_NLRI.
    pub more_than_unreach: bool,
    seen: [u64; 4],
}

/// MP_REACH_NLRI, its prefixes not yet read.
#[derive(Debug)]
pub(super) struct MpReach<'a> {
    /// `None` if we don't know it or did not negotiate it
    pub family: Option<Family>,
    pub next_hop: IpAddr,
    pub link_local: Option<Ipv6Addr>,
    pub nlri: &'a [u8],
    /// The whole attribute, for a NOTIFICATION
    pub attribute: &'a [u8],
}

/// MP_UNREACH_NLRI, its prefixes not yet read.
#[derive(Debug)]
pub(super) struct MpUnreach<'a> {
    /// `None` if we don't know it or did not negotiate it
    pub family: Option<Family>,
    pub nlri: &'a [u8],
    /// The whole attribute, for a NOTIFICATION
    pub attribute: &'a [u8],
}

/// What is wrong with an attribute and what becomes of it.
type Fault = (&'static str, FaultOutcome);

const fn withdraw(what: &'static str) -> Fault {
    (what, FaultOutcome::TreatAsWithdraw)
}

const fn discard(what: &'static str) -> Fault {
    (what, FaultOutcome::AttributeDiscard)
}

/// One attribute as it stands in the message.
struct Attribute<'a> {
    flags: u8,
    code: u8,
    body: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The first attribute of `bytes` and what follows; `None` if it overruns.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (flags, code, length, tail) = match bytes {
            [flags, code, high, low, tail @ ..] if flags & Flags::EXTENDED != 0 => {
                (*flags, *code, usize::from(u16::from_be_bytes([*high, *low])), tail)
            }
            [flags, code, length, tail @ ..] if flags & Flags::EXTENDED == 0 => {
                (*flags, *code, usize::from(*length), tail)
            }
            _ => return None,
        };
        let (body, next) = tail.split_at_checked(length)?;
        let whole = &bytes[..bytes.len() - next.len()];
        Some((Self { flags, code, body, whole }, next))
    }
}

/// Walks all attributes. `plain_nlri`: the message has prefixes for which NEXT_HOP counts.
pub(super) fn walk(bytes: &[u8], codec: Codec, plain_nlri: bool) -> Result<Walk<'_>, DecodeError> {
    let mut walk = Walk::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some((attribute, next)) = Attribute::split(rest) else {
            walk.overrun(rest)?;
            break;
        };
        rest = next;
        walk.one(&attribute, codec, plain_nlri)?;
    }
    walk.unknown.sort_unstable_by_key(|raw| raw.code);
    Ok(walk)
}

impl<'a> Walk<'a> {
    /// The last attribute goes beyond the total length. The NLRI field can be found all the same
    /// (RFC 7606 §4), but not the prefixes of an attribute that has some.
    fn overrun(&mut self, rest: &[u8]) -> Result<(), DecodeError> {
        let code = rest.get(1).copied().unwrap_or(0);
        let what = "it overruns the attributes";
        if matches!(code, code::MP_REACH | code::MP_UNREACH) {
            return Err(DecodeError::Multiprotocol { code, what, attribute: rest.into() });
        }
        self.more_than_unreach = true;
        self.fault(code, withdraw(what));
        Ok(())
    }

    fn fault(&mut self, code: u8, (what, outcome): Fault) {
        self.faults.push(AttrFault { code, what, outcome });
    }

    fn one(&mut self, attribute: &Attribute<'a>, codec: Codec, plain_nlri: bool) -> Result<(), DecodeError> {
        let Attribute { flags, code, body, .. } = *attribute;
        self.more_than_unreach |= code != code::MP_UNREACH;
        if self.is_repeated(code) {
            if matches!(code, code::MP_REACH | code::MP_UNREACH) {
                return Err(DecodeError::AttributeList("it has two MP_REACH_NLRI or two MP_UNREACH_NLRI"));
            }
            self.fault(code, discard("repeated"));
            return Ok(());
        }
        if codec.external && matches!(code, code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST) {
            return Ok(());
        }
        if code == code::NEXT_HOP && !plain_nlri {
            // RFC 4760 §3: without plain NLRI it SHOULD be ignored.
            return Ok(());
        }
        let Some(proper) = Flags::of(code) else {
            return self.unknown(attribute);
        };
        if flags & (Flags::OPTIONAL | Flags::TRANSITIVE) != proper {
            self.fault(code, withdraw("wrong flags"));
            if !matches!(code, code::MP_REACH | code::MP_UNREACH) {
                return Ok(());
            }
            // Their prefixes have to be known to be withdrawn.
        }
        let result = match code {
            code::MP_REACH => return self.mp_reach(attribute, codec),
            code::MP_UNREACH => return self.mp_unreach(attribute, codec),
            _ => self.known(code, body, codec),
        };
        if let Err(fault) = result {
            self.fault(code, fault);
        }
        Ok(())
    }

    /// Whether the type was there before; notes it.
    fn is_repeated(&mut self, code: u8) -> bool {
        let bit = 1 << (code % 64);
        self.seen.get_mut(usize::from(code / 64)).is_some_and(|word| {
            let was = *word & bit != 0;
            *word |= bit;
            was
        })
    }

    /// RFC 4271 §5: what is optional and transitive goes on to our peers, marked Partial; what is
    /// optional only is dropped; what every speaker ought to know ends the session.
    fn unknown(&mut self, attribute: &Attribute<'_>) -> Result<(), DecodeError> {
        let Attribute { flags, code, body, whole } = *attribute;
        if flags & Flags::OPTIONAL == 0 {
            return Err(DecodeError::WellKnown { code, attribute: whole.into() });
        }
        if flags & Flags::TRANSITIVE != 0 {
            let flags = Flags::OPTIONAL | Flags::TRANSITIVE | Flags::PARTIAL;
            self.unknown.push(RawAttr { flags, code, body: body.into() });
        }
        Ok(())
    }

    /// Length and value of each attribute, RFC 7606 §7 in its order.
    fn known(&mut self, code: u8, body: &[u8], codec: Codec) -> Result<(), Fault> {
        match code {
            code::ORIGIN => self.origin = Some(origin(body)?),
            code::AS_PATH => self.as_path = Some(path(body, codec)?),
            code::NEXT_HOP => self.next_hop = Some(next_hop(body)?),
            code::MED => self.med = Some(four(body).map(u32::from_be_bytes)?),
            code::LOCAL_PREF => self.local_pref = Some(four(body).map(u32::from_be_bytes)?),
            code::ATOMIC_AGGREGATE if body.is_empty() => self.atomic_aggregate = true,
            code::ATOMIC_AGGREGATE => return Err(discard("length is not 0")),
            code::AGGREGATOR => self.aggregator = Some(aggregator(body, codec.four_octet_as)?),
            code::COMMUNITIES => self.communities = set(body, community)?,
            code::ORIGINATOR_ID => self.originator_id = Some(four(body)?.into()),
            code::CLUSTER_LIST => {
                self.cluster_list = items(body)?.iter().map(|id: &[u8; 4]| Ipv4Addr::from(*id)).collect();
            }
            code::EXT_COMMUNITIES => self.ext_communities = set(body, |octets| Ok(ExtCommunity(octets)))?,
            code::AS4_PATH | code::AS4_AGGREGATOR if codec.four_octet_as => {
                // RFC 6793 §4.1: from a speaker that has no use for it.
                return Err(discard("from a four-octet speaker"));
            }
            code::AS4_PATH => {
                let path = AsPath::from_wire(body, 4).map_err(|_| discard("malformed"))?;
                if path.numbers().any(|asn| asn.0 == 0) {
                    return Err(discard("AS number 0"));
                }
                self.as4_path = Some(path);
            }
            code::AS4_AGGREGATOR => self.as4_aggregator = Some(aggregator(body, true)?),
            code::LARGE_COMMUNITIES => self.large_communities = set(body, large_community)?,
            _ => {}
        }
        Ok(())
    }

    fn mp_reach(&mut self, attribute: &Attribute<'a>, codec: Codec) -> Result<(), DecodeError> {
        let error =
            |what| Err(DecodeError::Multiprotocol { code: attribute.code, what, attribute: attribute.whole.into() });
        let [a0, a1, safi, length, tail @ ..] = attribute.body else {
            return error("shorter than its fixed part");
        };
        // The octet behind the next hop is reserved and to be ignored (RFC 4760 §3).
        let Some((hop, [_, nlri @ ..])) = tail.split_at_checked(usize::from(*length)) else {
            return error("the next hop overruns it");
        };
        let family = open::family([*a0, *a1, *safi]).filter(|family| codec.families[*family]);
        let mut reach = MpReach {
            family,
            next_hop: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            link_local: None,
            nlri,
            attribute: attribute.whole,
        };
        match (family, hop) {
            (None, _) => self.fault(attribute.code, discard("a family that was not negotiated")),
            (Some(Family::Ipv4), [a, b, c, d]) => {
                let hop = Ipv4Addr::new(*a, *b, *c, *d);
                reach.next_hop = hop.into();
                if !is_host(hop) {
                    self.fault(attribute.code, withdraw("the next hop is no host"));
                }
            }
            // RFC 8950 without its capability. Its form is known, so the routes are, too.
            (Some(Family::Ipv4), _) if matches!(hop.len(), 16 | 32) => {
                self.fault(attribute.code, withdraw("an IPv6 next hop that was not negotiated"));
            }
            (Some(Family::Ipv6), _) if matches!(hop.len(), 16 | 32) => {
                (reach.next_hop, reach.link_local) = self.ipv6_next_hops(hop);
            }
            // RFC 7606 §7.11: the prefixes cannot be located with any confidence.
            (Some(_), _) => return error("the length of the next hop does not go with the family"),
        }
        self.reach = Some(reach);
        Ok(())
    }

    /// Global and link-local next hop (RFC 2545 §3). A second one that is not link-local says
    /// nothing; one that stands for both (RFC 5549 fabrics without addresses) is taken as it is.
    fn ipv6_next_hops(&mut self, hop: &[u8]) -> (IpAddr, Option<Ipv6Addr>) {
        let mut hops = hop.as_chunks::<16>().0.iter().map(|octets| Ipv6Addr::from(*octets));
        let global = hops.next().unwrap_or(Ipv6Addr::UNSPECIFIED);
        let link_local = hops.next().filter(Ipv6Addr::is_unicast_link_local);
        let global = match link_local {
            Some(only) if global.is_unspecified() => only,
            _ => global,
        };
        if global.is_unspecified() || global.is_loopback() || global.is_multicast() {
            self.fault(code::MP_REACH, withdraw("the next hop is no host"));
        }
        (global.into(), link_local)
    }

    fn mp_unreach(&mut self, attribute: &Attribute<'a>, codec: Codec) -> Result<(), DecodeError> {
        let [a0, a1, safi, nlri @ ..] = attribute.body else {
            let what = "shorter than its fixed part";
            return Err(DecodeError::Multiprotocol { code: attribute.code, what, attribute: attribute.whole.into() });
        };
        let family = open::family([*a0, *a1, *safi]).filter(|family| codec.families[*family]);
        if family.is_none() {
            self.fault(attribute.code, discard("a family that was not negotiated"));
        }
        self.unreach = Some(MpUnreach { family, nlri, attribute: attribute.whole });
        Ok(())
    }

    /// The value that all prefixes with this next hop share, or what is missing.
    pub(super) fn take_attrs(&mut self, next_hop: IpAddr, link_local: Option<Ipv6Addr>) -> Option<Attrs> {
        let as_path = self.as_path.take()?;
        let (as_path, aggregator) = self.four_octet_path(as_path);
        Some(Attrs {
            origin: self.origin?,
            as_path,
            next_hop,
            link_local,
            med: self.med,
            local_pref: self.local_pref,
            atomic_aggregate: self.atomic_aggregate,
            aggregator,
            originator_id: self.originator_id,
            cluster_list: std::mem::take(&mut self.cluster_list),
            communities: std::mem::take(&mut self.communities),
            ext_communities: std::mem::take(&mut self.ext_communities),
            large_communities: std::mem::take(&mut self.large_communities),
            unknown: std::mem::take(&mut self.unknown).into(),
        })
    }

    /// AS_PATH and AGGREGATOR with AS4_PATH and AS4_AGGREGATOR merged in (RFC 6793 §4.2.3).
    fn four_octet_path(&mut self, path: AsPath) -> (AsPath, Option<(Asn, Ipv4Addr)>) {
        let (path4, aggregator4) = (self.as4_path.take(), self.as4_aggregator.take());
        match (self.aggregator, aggregator4) {
            // Somebody who knows no four octets aggregated after those who do.
            (Some((asn, _)), Some(_)) if asn != Asn::TRANS => (path, self.aggregator),
            (aggregator, aggregator4) => {
                let path = match path4 {
                    Some(path4) => as_path::merge(path, &path4),
                    None => path,
                };
                // AS4_AGGREGATOR says something only beside AGGREGATOR.
                (path, aggregator.map(|old| aggregator4.unwrap_or(old)))
            }
        }
    }
}

fn origin(body: &[u8]) -> Result<Origin, Fault> {
    if body.len() != 1 {
        return Err(withdraw("length is not 1"));
    }
    match BgpOrigin::decode_from(body).map(|origin| origin.value) {
        Ok(BgpAttrOrigin::Igp) => Ok(Origin::Igp),
        Ok(BgpAttrOrigin::Egp) => Ok(Origin::Egp),
        Ok(BgpAttrOrigin::Incomplete) => Ok(Origin::Incomplete),
        Err(_) => Err(withdraw("unknown value")),
    }
}

fn path(body: &[u8], codec: Codec) -> Result<AsPath, Fault> {
    use crate::bgp::attrs::AsPathError;
    let width = if codec.four_octet_as { 4 } else { 2 };
    let path = AsPath::from_wire(body, width).map_err(|error| {
        withdraw(match error {
            AsPathError::Kind(_) => "unknown segment type",
            AsPathError::Empty => "empty segment",
            AsPathError::Overrun => "a segment overruns it",
        })
    })?;
    // RFC 5065 §5: from outside our confederation; we are in none.
    if path.segments().any(|(kind, _)| as_path::is_confed(kind)) {
        return Err(withdraw("confederation segment"));
    }
    // RFC 7607 §2
    if path.numbers().any(|asn| asn.0 == 0) {
        return Err(withdraw("AS number 0"));
    }
    Ok(path)
}

fn next_hop(body: &[u8]) -> Result<Ipv4Addr, Fault> {
    let hop = Ipv4Addr::from(four(body)?);
    if is_host(hop) { Ok(hop) } else { Err(withdraw("no host")) }
}

/// Whether the address can be a host's (RFC 4271 §6.3, a syntactically correct NEXT_HOP).
fn is_host(addr: Ipv4Addr) -> bool {
    !matches!(addr.octets(), [0 | 127 | 224.., ..])
}

/// RFC 7606 §7.7, RFC 6793 §6, RFC 7607 §2: whatever is wrong with it, the routes are fine.
fn aggregator(body: &[u8], wide: bool) -> Result<(Asn, Ipv4Addr), Fault> {
    let (asn, addr) = match body {
        [n0, n1, n2, n3, addr @ ..] if wide => (u32::from_be_bytes([*n0, *n1, *n2, *n3]), addr),
        [n0, n1, addr @ ..] if !wide => (u32::from(u16::from_be_bytes([*n0, *n1])), addr),
        _ => return Err(discard("wrong length")),
    };
    let addr = <[u8; 4]>::try_from(addr).map_err(|_| discard("wrong length"))?;
    if asn == 0 {
        return Err(discard("AS number 0"));
    }
    Ok((Asn(asn), addr.into()))
}

fn four(body: &[u8]) -> Result<[u8; 4], Fault> {
    body.try_into().map_err(|_| withdraw("length is not 4"))
}

/// At least one item of `N` octets, and nothing left over.
fn items<const N: usize>(body: &[u8]) -> Result<&[[u8; N]], Fault> {
    match body.as_chunks::<N>() {
        ([], _) => Err(withdraw("empty")),
        (items, []) => Ok(items),
        _ => Err(withdraw("an item is cut off")),
    }
}

/// Items whose order and number mean nothing: sorted, each once.
fn set<T: Ord, const N: usize>(body: &[u8], item: impl Fn([u8; N]) -> Result<T, BgpError>) -> Result<Box<[T]>, Fault> {
    let set = items(body)?.iter().copied().map(item).collect::<Result<Vec<T>, _>>();
    let mut set = set.map_err(|_| withdraw("an item is malformed"))?;
    set.sort_unstable();
    set.dedup();
    Ok(set.into())
}

fn community(octets: [u8; 4]) -> Result<Community, BgpError> {
    BgpCommunity::decode_from(&octets).map(|community| Community(community.value))
}

fn large_community(octets: [u8; 12]) -> Result<LargeCommunity, BgpError> {
    BgpLargeCommunity::decode_from(&octets).map(|parts| LargeCommunity([parts.ga, parts.ldp1, parts.ldp2]))
}
