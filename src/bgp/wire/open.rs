//! OPEN and its capabilities (RFC 4271 §4.2, RFC 5492, RFC 9072).
//!
//! A capability whose value does not have the form that its RFC gives is kept as
//! [`Capability::Unknown`]: shown, and not in force. The one exception is the four-octet AS number,
//! without which we don't know who speaks.

use std::net::Ipv4Addr;

use super::error::DecodeError;
use crate::bgp::message::{Capability, GracefulRestart, Open};
use crate::net::{Asn, Family};

/// Optional parameter: capabilities (RFC 5492 §4).
const CAPABILITIES: u8 = 2;
/// Stands where the first optional parameter would: lengths take two octets (RFC 9072 §2).
const EXTENDED: u8 = 255;

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_MESSAGE: u8 = 6;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;
const ENHANCED_ROUTE_REFRESH: u8 = 70;

/// Most octets of capabilities in an OPEN of 4096.
const MAX_CAPABILITIES: usize = 4096 - 29 - 6;

/// AFI and SAFI of a family (RFC 4760 §5, §6), all unicast.
pub(super) const fn afi_safi(family: Family) -> [u8; 3] {
    match family {
        Family::Ipv4 => [0, 1, 1],
        Family::Ipv6 => [0, 2, 1],
    }
}

/// The family with this AFI and SAFI, if we know it.
pub(super) const fn family(afi_safi: [u8; 3]) -> Option<Family> {
    match afi_safi {
        [0, 1, 1] => Some(Family::Ipv4),
        [0, 2, 1] => Some(Family::Ipv6),
        _ => None,
    }
}

/// Reads what stands behind the header.
pub(super) fn decode(body: &[u8]) -> Result<Open, DecodeError> {
    let Some(([version, as1, as2, hold1, hold2, id @ ..], rest)) = body.split_first_chunk::<9>() else {
        return Err(DecodeError::Open("it ends before its fixed part does"));
    };
    if *version != 4 {
        return Err(DecodeError::Version(*version));
    }
    let mut capabilities = Vec::new();
    for_each_parameter(rest, |value| walk(value, |capability| capabilities.push(capability)))?;

    let my_as = u16::from_be_bytes([*as1, *as2]);
    let hold_time = u16::from_be_bytes([*hold1, *hold2]);
    let router_id = Ipv4Addr::from(*id);
    let asn = peer_as(my_as, &capabilities)?;
    if matches!(hold_time, 1 | 2) {
        return Err(DecodeError::HoldTime(hold_time));
    }
    if router_id.is_unspecified() {
        return Err(DecodeError::RouterId);
    }
    Ok(Open { asn, my_as, hold_time, router_id, capabilities })
}

/// The AS number of the capability, which the two-octet field must agree with or stand in for
/// (RFC 6793 §4.1, §4.2.2); zero is nobody (RFC 7607 §2).
fn peer_as(field: u16, capabilities: &[Capability]) -> Result<Asn, DecodeError> {
    let mut asn = None;
    for capability in capabilities {
        if let Capability::FourOctetAs(number) = capability {
            let contradicts = asn.is_some_and(|earlier| earlier != *number)
                || (u32::from(field) != Asn::TRANS.0 && u32::from(field) != number.0);
            if contradicts || number.0 == 0 {
                return Err(DecodeError::PeerAs { field, capability: number.0 });
            }
            asn = Some(*number);
        }
    }
    match asn.unwrap_or(Asn(u32::from(field))) {
        Asn(0) => Err(DecodeError::PeerAs { field, capability: 0 }),
        number => Ok(number),
    }
}

/// Gives the value of each capabilities parameter, of which there may be several (RFC 5492 §4).
fn for_each_parameter(bytes: &[u8], mut each: impl FnMut(&[u8]) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
    const CUT: DecodeError = DecodeError::Open("the length of the optional parameters is wrong");
    let (mut rest, wide) = match bytes {
        // The one-octet length says nothing in this form, except that zero means none.
        [some, EXTENDED, high, low, rest @ ..] if *some > 0 => {
            (rest.len() == usize::from(u16::from_be_bytes([*high, *low]))).then_some((rest, true)).ok_or(CUT)?
        }
        [length, rest @ ..] => (rest.len() == usize::from(*length)).then_some((rest, false)).ok_or(CUT)?,
        [] => return Err(CUT),
    };
    while !rest.is_empty() {
        let (kind, length, tail) = match rest {
            [kind, high, low, tail @ ..] if wide => (*kind, usize::from(u16::from_be_bytes([*high, *low])), tail),
            [kind, length, tail @ ..] if !wide => (*kind, usize::from(*length), tail),
            _ => return Err(CUT),
        };
        let (value, next) = tail.split_at_checked(length).ok_or(CUT)?;
        if kind != CAPABILITIES {
            return Err(DecodeError::Parameter(kind));
        }
        each(value)?;
        rest = next;
    }
    Ok(())
}

/// Gives each capability of a list.
fn walk(mut list: &[u8], mut each: impl FnMut(Capability)) -> Result<(), DecodeError> {
    while let [code, length, tail @ ..] = list {
        let (body, next) = tail
            .split_at_checked(usize::from(*length))
            .ok_or(DecodeError::Open("a capability overruns its parameter"))?;
        each(capability(*code, body)?);
        list = next;
    }
    if list.is_empty() { Ok(()) } else { Err(DecodeError::Open("a capability is cut off")) }
}

/// Gives each capability of a list as far as it can be read.
pub(super) fn each_capability(list: &[u8], mut each: impl FnMut(&Capability) -> std::fmt::Result) -> std::fmt::Result {
    let mut result = Ok(());
    // What cannot be read is only shown, so there is nobody to tell.
    let _cut = walk(list, |capability| result = result.and_then(|()| each(&capability)));
    result
}

fn capability(code: u8, body: &[u8]) -> Result<Capability, DecodeError> {
    let known = match (code, body) {
        // The octet between AFI and SAFI is reserved (RFC 4760 §8).
        (MULTIPROTOCOL, [a0, a1, _, safi]) => family([*a0, *a1, *safi]).map(Capability::Multiprotocol),
        (ROUTE_REFRESH, []) => Some(Capability::RouteRefresh),
        (EXTENDED_MESSAGE, []) => Some(Capability::ExtendedMessage),
        (ENHANCED_ROUTE_REFRESH, []) => Some(Capability::EnhancedRouteRefresh),
        (GRACEFUL_RESTART, [high, low, families @ ..]) => graceful_restart(*high, *low, families),
        (FOUR_OCTET_AS, [a, b, c, d]) => Some(Capability::FourOctetAs(Asn(u32::from_be_bytes([*a, *b, *c, *d])))),
        (FOUR_OCTET_AS, _) => return Err(DecodeError::Open("the four-octet AS capability is not four octets long")),
        _ => None,
    };
    Ok(known.unwrap_or_else(|| Capability::Unknown { code, body: body.into() }))
}

/// Four bits of flags, twelve of time, then AFI, SAFI, flags of each family (RFC 4724 §3).
fn graceful_restart(high: u8, low: u8, families: &[u8]) -> Option<Capability> {
    let (families, rest) = families.as_chunks::<4>();
    rest.is_empty().then(|| {
        Capability::GracefulRestart(GracefulRestart {
            restarted: high & 0x80 != 0,
            notification: high & 0x40 != 0,
            restart_time: u16::from_be_bytes([high & 0x0f, low]),
            families: families
                .iter()
                .filter_map(|[a0, a1, safi, flags]| Some((family([*a0, *a1, *safi])?, flags & 0x80 != 0)))
                .collect(),
        })
    })
}

/// Appends what stands behind the header.
///
/// Capabilities that would not fit an OPEN of 4096 octets are left out, the last ones first.
pub(super) fn encode(open: &Open, out: &mut Vec<u8>) {
    out.push(4);
    out.extend_from_slice(&open.my_as.to_be_bytes());
    out.extend_from_slice(&open.hold_time.to_be_bytes());
    out.extend_from_slice(&open.router_id.octets());

    let mut list = Vec::new();
    for capability in &open.capabilities {
        let end = list.len();
        encode_capability(capability, &mut list);
        if list.len() > MAX_CAPABILITIES {
            list.truncate(end);
            break;
        }
    }
    let length = list.len();
    match (u8::try_from(length), u8::try_from(length + 2)) {
        (Ok(0), _) => out.push(0),
        (Ok(short), Ok(parameters)) => out.extend_from_slice(&[parameters, CAPABILITIES, short]),
        // Two-octet lengths only where needed: few speakers know them (RFC 9072 §2).
        _ => {
            out.extend_from_slice(&[EXTENDED, EXTENDED, 0, 0, CAPABILITIES, 0, 0]);
            super::put_u16(length + 3, out.len() - 5, out);
            super::put_u16(length, out.len() - 2, out);
        }
    }
    out.extend_from_slice(&list);
}

/// Appends code, length and value. A value of more than 255 octets cannot exist and is left out.
pub(super) fn encode_capability(capability: &Capability, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[code(capability), 0]);
    match capability {
        Capability::Multiprotocol(family) => {
            let [a0, a1, safi] = afi_safi(*family);
            out.extend_from_slice(&[a0, a1, 0, safi]);
        }
        Capability::RouteRefresh | Capability::ExtendedMessage | Capability::EnhancedRouteRefresh => {}
        Capability::FourOctetAs(asn) => out.extend_from_slice(&asn.0.to_be_bytes()),
        Capability::GracefulRestart(restart) => {
            let flags = u16::from(restart.restarted) << 15 | u16::from(restart.notification) << 14;
            out.extend_from_slice(&(flags | restart.restart_time.min(0x0fff)).to_be_bytes());
            for (family, forwarding) in &restart.families {
                out.extend_from_slice(&afi_safi(*family));
                out.push(u8::from(*forwarding) << 7);
            }
        }
        Capability::Unknown { body, .. } => out.extend_from_slice(body),
    }
    match (u8::try_from(out.len() - start - 2), out.get_mut(start + 1)) {
        (Ok(length), Some(field)) => *field = length,
        _ => out.truncate(start),
    }
}

/// Its number in IANA's registry.
pub(super) const fn code(capability: &Capability) -> u8 {
    match capability {
        Capability::Multiprotocol(_) => MULTIPROTOCOL,
        Capability::RouteRefresh => ROUTE_REFRESH,
        Capability::ExtendedMessage => EXTENDED_MESSAGE,
        Capability::GracefulRestart(_) => GRACEFUL_RESTART,
        Capability::FourOctetAs(_) => FOUR_OCTET_AS,
        Capability::EnhancedRouteRefresh => ENHANCED_ROUTE_REFRESH,
        Capability::Unknown { code, .. } => *code,
    }
}
