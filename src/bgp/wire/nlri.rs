//! Lists of prefixes: length in bits, then as many octets as these need (RFC 4271 §4.3).
//!
//! Our own and not zettabgp's, which takes twice the time for each prefix (a copy of varying length)
//! and overflows on lengths from 249 bits on.

use std::net::IpAddr;

use super::error::NlriError;
use crate::net::{Family, Prefix};

/// Appends the prefixes of `bytes` to `out`, host bits cleared; gives how many were left out
/// because no route can lead there.
///
/// An error says that the list is no list (RFC 7606 §5.3); what was appended until then is of no use.
pub(super) fn decode(family: Family, bytes: &[u8], out: &mut Vec<Prefix>) -> Result<usize, NlriError> {
    match family {
        // Seldom more than there will be, and seldom so few that `out` has to grow again.
        Family::Ipv4 => {
            out.reserve(bytes.len() / 4 + 1);
            each(bytes, |len, octets: [u8; 4]| keep(octets.into(), len, out))
        }
        Family::Ipv6 => {
            out.reserve(bytes.len() / 6 + 1);
            each(bytes, |len, octets: [u8; 16]| keep(octets.into(), len, out))
        }
    }
}

/// Gives each prefix as length and address, host bits as they come; sums up what `keep` gives.
fn each<const N: usize>(bytes: &[u8], mut keep: impl FnMut(u8, [u8; N]) -> usize) -> Result<usize, NlriError> {
    let mut left_out = 0;
    let mut rest = bytes;
    while let [bits, tail @ ..] = rest {
        if usize::from(*bits) > N * 8 {
            return Err(NlriError::Bits(*bits));
        }
        let (octets, next) = tail.split_at_checked(octets(*bits)).ok_or(NlriError::Overrun)?;
        // A whole address at once where so many octets follow, whosever they are: what is beyond
        // the length counts as host bits.
        let addr = match tail.first_chunk() {
            Some(whole) => *whole,
            None => padded(octets),
        };
        rest = next;
        left_out += keep(*bits, addr);
    }
    Ok(left_out)
}

/// An address of which only the first octets are there.
#[cold]
fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    let mut addr = [0; N];
    addr.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
    addr
}

fn keep(addr: IpAddr, len: u8, out: &mut Vec<Prefix>) -> usize {
    let prefix = Prefix::new(addr, len);
    let kept = is_routable(&prefix);
    if kept {
        out.push(prefix);
    }
    usize::from(!kept)
}

/// Whether a unicast route may lead there; RFC 4271 §6.3 has others ignored.
///
/// `240.0.0.0/4` may: it is reserved, but there are networks that use it, and Linux routes it.
pub(super) fn is_routable(prefix: &Prefix) -> bool {
    match prefix.addr() {
        IpAddr::V4(addr) => match addr.octets() {
            [0, ..] => prefix.len() < 8,
            [127 | 224..=239, ..] => false,
            octets => octets != [255; 4],
        },
        IpAddr::V6(addr) => match addr.segments() {
            // Unspecified, loopback, IPv4-mapped: the last would be an IPv4 route in disguise.
            [0, 0, 0, 0, 0, ..] => prefix.len() < 80,
            [first, ..] => first & 0xff00 != 0xff00 && first & 0xffc0 != 0xfe80,
        },
    }
}

/// Octets that so many bits take.
pub(super) const fn octets(bits: u8) -> usize {
    bits.div_ceil(8) as usize
}

/// Appends prefixes while they are of `family` and `out` stays within `end` octets; gives the rest.
pub(super) fn pack<'a>(family: Family, prefixes: &'a [Prefix], end: usize, out: &mut Vec<u8>) -> &'a [Prefix] {
    let mut rest = prefixes;
    while let [prefix, tail @ ..] = rest {
        let used = octets(prefix.len());
        if prefix.family() != family || out.len() + 1 + used > end {
            break;
        }
        out.push(prefix.len());
        // The whole address at once and back again is cheaper than a copy of varying length.
        let full = match prefix.addr() {
            IpAddr::V4(addr) => {
                out.extend_from_slice(&addr.octets());
                4
            }
            IpAddr::V6(addr) => {
                out.extend_from_slice(&addr.octets());
                16
            }
        };
        out.truncate(out.len() + used - full);
        rest = tail;
    }
    rest
}
