//! AS numbers of two octets (RFC 6793): putting the real path together again on receipt, and
//! taking it apart for a peer that knows no other.

use crate::bgp::attrs::{AsPath, SegmentKind};
use crate::net::Asn;

/// The path behind AS_PATH from a two-octet speaker and the AS4_PATH beside it (RFC 6793 §4.2.3).
///
/// Confederation segments have no place in AS4_PATH and are dropped (RFC 6793 §6).
pub(super) fn merge(path: AsPath, path4: &AsPath) -> AsPath {
    let (have, known) = (path.decision_len(), path4.decision_len());
    if known > have {
        // Somebody on the way aggregated and did not know of AS4_PATH.
        return path;
    }
    let mut missing = have - known;
    let mut segments: Vec<(SegmentKind, Vec<Asn>)> = Vec::new();
    for (kind, numbers) in path.segments() {
        if missing == 0 {
            break;
        }
        if kind == SegmentKind::Sequence {
            let lead: Vec<Asn> = numbers.take(missing).collect();
            missing -= lead.len();
            segments.push((kind, lead));
        } else {
            missing -= 1;
            segments.push((kind, numbers.collect()));
        }
    }
    // The cut may be within one sequence: it becomes one again.
    let mut cut = segments.last().is_some_and(|(kind, _)| *kind == SegmentKind::Sequence);
    for (kind, numbers) in path4.segments().filter(|(kind, _)| !is_confed(*kind)) {
        match segments.last_mut().filter(|_| cut && kind == SegmentKind::Sequence) {
            Some((_, lead)) if lead.len() + numbers.clone().count() <= 255 => lead.extend(numbers),
            _ => segments.push((kind, numbers.collect())),
        }
        cut = false;
    }
    AsPath::from_segments(segments.iter().map(|(kind, numbers)| (*kind, &numbers[..])))
}

/// Whether the segment belongs to a confederation (RFC 5065 §3).
pub(super) const fn is_confed(kind: SegmentKind) -> bool {
    matches!(kind, SegmentKind::ConfedSequence | SegmentKind::ConfedSet)
}

/// Octets of the path with two per AS number.
pub(super) fn narrow_len(path: &AsPath) -> usize {
    path.segments().map(|(_, numbers)| 2 + 2 * numbers.count()).sum()
}

/// Appends the path with AS_TRANS for each number that needs four octets (RFC 6793 §4.2.2).
pub(super) fn put_narrow(path: &AsPath, out: &mut Vec<u8>) {
    for (kind, numbers) in path.segments() {
        // From one octet of the wire form or from a chunk of 255.
        out.extend_from_slice(&[kind as u8, u8::try_from(numbers.clone().count()).unwrap_or(u8::MAX)]);
        numbers.for_each(|asn| out.extend_from_slice(&narrow(asn).to_be_bytes()));
    }
}

/// Octets of the AS4_PATH that has to go along, if any.
pub(super) fn wide_len(path: &AsPath) -> Option<usize> {
    path.numbers().any(|asn| asn.0 > u32::from(u16::MAX)).then(|| {
        path.segments().filter(|(kind, _)| !is_confed(*kind)).map(|(_, numbers)| 2 + 4 * numbers.count()).sum()
    })
}

/// Appends the value of AS4_PATH.
pub(super) fn put_wide(path: &AsPath, out: &mut Vec<u8>) {
    for (kind, numbers) in path.segments().filter(|(kind, _)| !is_confed(*kind)) {
        out.extend_from_slice(&[kind as u8, u8::try_from(numbers.clone().count()).unwrap_or(u8::MAX)]);
        numbers.for_each(|asn| out.extend_from_slice(&asn.0.to_be_bytes()));
    }
}

/// The number as a two-octet speaker sees it.
pub(super) fn narrow(asn: Asn) -> u16 {
    u16::try_from(asn.0).unwrap_or(23456)
}
