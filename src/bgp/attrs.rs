//! Path attributes as the RIB keeps them (RFC 4271 §5), shared by all prefixes that carry them.
//!
//! A value here is already vetted: `wire` has classed and dropped what was malformed (RFC 7606).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

use crate::net::Asn;

/// ORIGIN (RFC 4271 §5.1.1), in order of preference.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From an interior protocol or configured
    #[default]
    Igp,
    /// From EGP (historic)
    Egp,
    /// By other means
    Incomplete,
}

/// Everything that one path says besides its prefix.
///
/// Two paths with equal values share one allocation (`rib` interns them).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Attrs {
    /// ORIGIN
    pub origin: Origin,
    /// AS_PATH with four-octet numbers, AS4_PATH already merged (RFC 6793 §4.2.3)
    pub as_path: AsPath,
    /// NEXT_HOP, or the global next hop of MP_REACH_NLRI
    pub next_hop: IpAddr,
    /// Second, link-local next hop of MP_REACH_NLRI (RFC 2545 §3)
    pub link_local: Option<Ipv6Addr>,
    /// MULTI_EXIT_DISC
    pub med: Option<u32>,
    /// LOCAL_PREF; absent on paths from eBGP
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE
    pub atomic_aggregate: bool,
    /// AGGREGATOR, AS4_AGGREGATOR already merged
    pub aggregator: Option<(Asn, Ipv4Addr)>,
    /// ORIGINATOR_ID (RFC 4456 §8)
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456 §8), nearest cluster first
    pub cluster_list: Box<[Ipv4Addr]>,
    /// COMMUNITIES (RFC 1997), as received, sorted and without repetition
    pub communities: Box<[Community]>,
    /// EXTENDED COMMUNITIES (RFC 4360), sorted and without repetition
    pub ext_communities: Box<[ExtCommunity]>,
    /// LARGE_COMMUNITY (RFC 8092), sorted and without repetition
    pub large_communities: Box<[LargeCommunity]>,
    /// Optional transitive attributes we don't know, to be passed on with the Partial bit set
    pub unknown: Box<[RawAttr]>,
}

impl Attrs {
    /// A path that begins here: empty AS path, origin IGP.
    pub fn originate(next_hop: IpAddr) -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop,
            link_local: None,
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            originator_id: None,
            cluster_list: Box::default(),
            communities: Box::default(),
            ext_communities: Box::default(),
            large_communities: Box::default(),
            unknown: Box::default(),
        }
    }

    /// Whether the path carries this community.
    pub fn has(&self, community: Community) -> bool {
        self.communities.contains(&community)
    }

    /// Whether its next hop says that it ends IP-in-IP tunnels (RFC 9012 §4.1).
    pub fn ends_ipip(&self) -> bool {
        self.ext_communities.contains(&ExtCommunity::ENCAP_IPIP)
    }
}

/// An optional transitive attribute that we don't know, byte for byte.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct RawAttr {
    /// Attribute flags as received, with Partial set (RFC 4271 §5)
    pub flags: u8,
    /// Type code
    pub code: u8,
    /// Body
    pub body: Box<[u8]>,
}

/// Kind of an AS_PATH segment (RFC 4271 §4.3, RFC 5065 §3).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum SegmentKind {
    /// Unordered
    Set = 1,
    /// Ordered
    Sequence = 2,
    /// Ordered, within a confederation
    ConfedSequence = 3,
    /// Unordered, within a confederation
    ConfedSet = 4,
}

impl SegmentKind {
    /// The kind with this number on the wire.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Set),
            2 => Some(Self::Sequence),
            3 => Some(Self::ConfedSequence),
            4 => Some(Self::ConfedSet),
            _ => None,
        }
    }
}

/// AS_PATH, kept as its four-octet wire form: (kind, count, count × AS) …
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct AsPath(Box<[u8]>);

/// Why bytes are no AS_PATH (RFC 7606 §7.2: treat-as-withdraw).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AsPathError {
    /// Unknown segment kind
    #[error("segment type {0} is unknown")]
    Kind(u8),
    /// A segment with no AS number
    #[error("a segment is empty")]
    Empty,
    /// The last segment goes beyond the attribute
    #[error("a segment overruns the attribute")]
    Overrun,
}

impl AsPath {
    /// Checks and keeps the wire form with `width` (2 or 4) octets per AS number.
    pub fn from_wire(mut bytes: &[u8], width: usize) -> Result<Self, AsPathError> {
        let whole = bytes;
        let mut wide = Vec::new();
        while let [kind, count, rest @ ..] = bytes {
            SegmentKind::from_code(*kind).ok_or(AsPathError::Kind(*kind))?;
            if *count == 0 {
                return Err(AsPathError::Empty);
            }
            let numbers = rest.get(..usize::from(*count) * width).ok_or(AsPathError::Overrun)?;
            if width == 2 {
                wide.extend([*kind, *count]);
                for asn in numbers.chunks_exact(2) {
                    wide.extend([0, 0, asn[0], asn[1]]);
                }
            }
            bytes = &rest[numbers.len()..];
        }
        match bytes {
            [] if width == 2 => Ok(Self(wide.into())),
            [] => Ok(Self(whole.into())),
            _ => Err(AsPathError::Overrun),
        }
    }

    /// From segments; one of more than 255 numbers is split.
    pub fn from_segments<'a>(segments: impl IntoIterator<Item = (SegmentKind, &'a [Asn])>) -> Self {
        let mut wire = Vec::new();
        for (kind, numbers) in segments {
            for part in numbers.chunks(255) {
                // A chunk has at most 255 numbers.
                wire.extend([kind as u8, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
                wire.extend(part.iter().flat_map(|asn| asn.0.to_be_bytes()));
            }
        }
        Self(wire.into())
    }

    /// The four-octet wire form.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// Whether it has no segment: the path begins in this AS.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Segments in order, nearest AS first.
    pub fn segments(&self) -> impl Iterator<Item = (SegmentKind, impl Iterator<Item = Asn> + Clone + '_)> + '_ {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let [kind, count, tail @ ..] = rest else { return None };
            let (numbers, next) = tail.split_at_checked(usize::from(*count) * 4)?;
            rest = next;
            let numbers = numbers.chunks_exact(4).map(|n| Asn(u32::from_be_bytes([n[0], n[1], n[2], n[3]])));
            Some((SegmentKind::from_code(*kind)?, numbers))
        })
    }

    /// Every AS number of the path, sets included.
    pub fn numbers(&self) -> impl Iterator<Item = Asn> + '_ {
        self.segments().flat_map(|(_, numbers)| numbers)
    }

    /// Length as the decision counts it: a set is one, confederation segments are none
    /// (RFC 4271 §9.1.2.2 a, RFC 5065 §5.3).
    pub fn decision_len(&self) -> usize {
        self.segments()
            .map(|(kind, numbers)| match kind {
                SegmentKind::Sequence => numbers.count(),
                SegmentKind::Set => 1,
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
            })
            .sum()
    }

    /// The AS that the path was received from: first of a leading sequence.
    pub fn neighbor(&self) -> Option<Asn> {
        match self.segments().next() {
            Some((SegmentKind::Sequence, mut numbers)) => numbers.next(),
            _ => None,
        }
    }

    /// The AS that originated it: last of a trailing sequence.
    pub fn origin(&self) -> Option<Asn> {
        match self.segments().last() {
            Some((SegmentKind::Sequence, numbers)) => numbers.last(),
            _ => None,
        }
    }

    /// With `asn` put in front `times` times (RFC 4271 §5.1.2 b).
    #[must_use]
    pub fn prepended(&self, asn: Asn, times: u8) -> Self {
        if times == 0 {
            return self.clone();
        }
        // Grow a leading sequence while its count has room, else open a new one.
        let (count, tail) = match &self.0[..] {
            [kind, count, tail @ ..] if *kind == SegmentKind::Sequence as u8 && count.checked_add(times).is_some() => {
                (*count, tail)
            }
            whole => (0, whole),
        };
        let mut wire = Vec::with_capacity(tail.len() + 2 + 4 * usize::from(times));
        wire.extend([SegmentKind::Sequence as u8, count + times]);
        for _ in 0..times {
            wire.extend(asn.0.to_be_bytes());
        }
        wire.extend_from_slice(tail);
        Self(wire.into())
    }
}

impl fmt::Display for AsPath {
    /// `65001 65002 {64512,64513}`, confederations in parentheses: as BIRD shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (kind, numbers)) in self.segments().enumerate() {
            let (open, between, close) = match kind {
                SegmentKind::Sequence => ("", " ", ""),
                SegmentKind::Set => ("{", ",", "}"),
                SegmentKind::ConfedSequence => ("(", " ", ")"),
                SegmentKind::ConfedSet => ("({", ",", "})"),
            };
            f.write_str(if i > 0 { " " } else { "" })?;
            f.write_str(open)?;
            for (j, asn) in numbers.enumerate() {
                f.write_str(if j > 0 { between } else { "" })?;
                asn.fmt(f)?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

impl fmt::Debug for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsPath({self})")
    }
}

/// A community (RFC 1997).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Community(pub u32);

impl Community {
    /// Not beyond this AS or confederation
    pub const NO_EXPORT: Self = Self(0xFFFF_FF01);
    /// To no peer at all
    pub const NO_ADVERTISE: Self = Self(0xFFFF_FF02);
    /// Not beyond this member AS
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xFFFF_FF03);
    /// Not to bilateral peers (RFC 3765)
    pub const NO_PEER: Self = Self(0xFFFF_FF04);
    /// The path is about to go away (RFC 8326)
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xFFFF_0000);
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NO_EXPORT => f.write_str("no-export"),
            Self::NO_ADVERTISE => f.write_str("no-advertise"),
            Self::NO_EXPORT_SUBCONFED => f.write_str("no-export-subconfed"),
            Self::NO_PEER => f.write_str("no-peer"),
            Self::GRACEFUL_SHUTDOWN => f.write_str("graceful-shutdown"),
            Self(value) => write!(f, "{}:{}", value >> 16, value & 0xFFFF),
        }
    }
}

impl Serialize for Community {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is no community.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a community such as 64512:7 or no-export")]
pub struct CommunityError(String);

impl std::str::FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let known =
            [Self::NO_EXPORT, Self::NO_ADVERTISE, Self::NO_EXPORT_SUBCONFED, Self::NO_PEER, Self::GRACEFUL_SHUTDOWN];
        let numbers = || {
            let (high, low) = text.split_once(':')?;
            Some(Self(u32::from(high.parse::<u16>().ok()?) << 16 | u32::from(low.parse::<u16>().ok()?)))
        };
        known
            .into_iter()
            .find(|c| c.to_string() == text)
            .or_else(numbers)
            .ok_or_else(|| CommunityError(text.to_owned()))
    }
}

/// An extended community (RFC 4360 §2), eight octets.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ExtCommunity(pub [u8; 8]);

impl ExtCommunity {
    /// Encapsulation, tunnel type 7 = IP in IP (RFC 9012 §4.1, RFC 2003)
    pub const ENCAP_IPIP: Self = Self([0x03, 0x0c, 0, 0, 0, 0, 0, 7]);

    /// Whether it may leave the AS (RFC 4360 §2: T bit clear = transitive).
    pub const fn is_transitive(self) -> bool {
        self.0[0] & 0x40 == 0
    }
}

impl fmt::Display for ExtCommunity {
    #[expect(clippy::many_single_char_names, reason = "the octets of the value have no better names")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, sub, a, b, c, d, e, g] = self.0;
        let name = match sub {
            2 => "rt",
            3 => "ro",
            _ => "generic",
        };
        match (kind & 0x3f, sub) {
            _ if *self == Self::ENCAP_IPIP => f.write_str("encap:ipip"),
            (0, 2 | 3) => write!(f, "{name}:{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, g])),
            (1, 2 | 3) => write!(f, "{name}:{}:{}", Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([e, g])),
            (2, 2 | 3) => write!(f, "{name}:{}:{}", u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, g])),
            _ => write!(f, "0x{:016x}", u64::from_be_bytes(self.0)),
        }
    }
}

impl Serialize for ExtCommunity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LargeCommunity(pub [u32; 3]);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0[0], self.0[1], self.0[2])
    }
}

impl Serialize for LargeCommunity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(numbers: &[u32]) -> AsPath {
        let numbers: Vec<Asn> = numbers.iter().map(|n| Asn(*n)).collect();
        AsPath::from_segments([(SegmentKind::Sequence, &numbers[..])])
    }

    #[test]
    fn as_path_from_wire() {
        type Row<'a> = (&'a str, &'a [u8], usize, Result<&'a str, AsPathError>);
        let cases: [Row; 7] = [
            ("empty", &[], 4, Ok("")),
            ("four octets", &[2, 1, 0, 1, 0, 0], 4, Ok("65536")),
            ("two octets", &[2, 2, 0xfd, 0xe9, 0, 5, 1, 1, 0, 9], 2, Ok("65001 5 {9}")),
            ("one byte left over", &[2, 1, 0, 0, 0, 5, 9], 4, Err(AsPathError::Overrun)),
            ("count beyond the end", &[2, 3, 0, 0, 0, 5], 4, Err(AsPathError::Overrun)),
            ("empty segment", &[2, 0], 4, Err(AsPathError::Empty)),
            ("unknown kind", &[9, 1, 0, 0, 0, 5], 4, Err(AsPathError::Kind(9))),
        ];
        for (why, bytes, width, wanted) in cases {
            let got = AsPath::from_wire(bytes, width).map(|path| path.to_string());
            assert_eq!(got, wanted.map(str::to_owned), "{why}");
        }
    }

    #[test]
    fn prepending() {
        assert_eq!(seq(&[2, 3]).prepended(Asn(1), 2).to_string(), "1 1 2 3");
        assert_eq!(AsPath::default().prepended(Asn(1), 1).as_wire(), [2, 1, 0, 0, 0, 1]);
        let full = seq(&[7; 255]).prepended(Asn(1), 1);
        assert_eq!((full.segments().count(), full.decision_len(), full.neighbor()), (2, 256, Some(Asn(1))));
        let set = AsPath::from_segments([(SegmentKind::Set, &[Asn(5), Asn(6)][..])]).prepended(Asn(1), 1);
        assert_eq!((set.to_string().as_str(), set.decision_len(), set.origin()), ("1 {5,6}", 2, None));
    }

    #[test]
    fn communities_as_people_write_them() {
        for text in ["64512:7", "no-export", "graceful-shutdown", "0:0"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        assert!("64512".parse::<Community>().is_err());
        assert!("70000:1".parse::<Community>().is_err());
        assert_eq!(ExtCommunity::ENCAP_IPIP.to_string(), "encap:ipip");
        assert!(ExtCommunity::ENCAP_IPIP.is_transitive());
    }
}
