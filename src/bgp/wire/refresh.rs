//! ROUTE-REFRESH (RFC 2918 §3, RFC 7313 §3.2).

use super::error::DecodeError;
use super::open;
use crate::bgp::message::{Codec, Message, RefreshKind, RouteRefresh};

/// Reads what stands behind the header of `message`.
pub(super) fn decode(message: &[u8], body: &[u8], codec: Codec) -> Result<Message, DecodeError> {
    let [a0, a1, subtype, safi] = body else {
        return Err(DecodeError::RefreshLength(message.into()));
    };
    let kind = match subtype {
        0 => RefreshKind::Request,
        1 => RefreshKind::Begin,
        2 => RefreshKind::End,
        // RFC 7313 §5: any other subtype MUST be ignored.
        _ => return Ok(Message::Ignored("route refresh of an unknown subtype")),
    };
    // RFC 2918 §4: a family that was not advertised is ignored.
    Ok(match open::family([*a0, *a1, *safi]).filter(|family| codec.families[*family]) {
        Some(family) => Message::RouteRefresh(RouteRefresh { family, kind }),
        None => Message::Ignored("route refresh of a family that was not negotiated"),
    })
}

/// Appends what stands behind the header.
pub(super) fn encode(refresh: RouteRefresh, out: &mut Vec<u8>) {
    let [a0, a1, safi] = open::afi_safi(refresh.family);
    let subtype = match refresh.kind {
        RefreshKind::Request => 0,
        RefreshKind::Begin => 1,
        RefreshKind::End => 2,
    };
    out.extend_from_slice(&[a0, a1, subtype, safi]);
}
