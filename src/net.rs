//! Words that every layer shares: address family, prefix, AS number.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{Index, IndexMut};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Address family of a route. Subsequent family is always unicast.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 unicast
    Ipv4,
    /// IPv6 unicast
    Ipv6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// Bits of an address: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// One value per family.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct PerFamily<T> {
    ipv4: T,
    ipv6: T,
}

impl<T> PerFamily<T> {
    /// From both values.
    pub const fn new(ipv4: T, ipv6: T) -> Self {
        Self { ipv4, ipv6 }
    }

    /// Asks `value` once per family.
    pub fn from_fn(mut value: impl FnMut(Family) -> T) -> Self {
        Self { ipv4: value(Family::Ipv4), ipv6: value(Family::Ipv6) }
    }

    /// Both values with their family, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        [(Family::Ipv4, &self.ipv4), (Family::Ipv6, &self.ipv6)].into_iter()
    }
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;
    fn index(&self, family: Family) -> &T {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }
}

impl<T> IndexMut<Family> for PerFamily<T> {
    fn index_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::Ipv4 => &mut self.ipv4,
            Family::Ipv6 => &mut self.ipv6,
        }
    }
}

/// A network prefix in canonical form: no host bits, length within the family.
///
/// Orders by family, address, length. 18 bytes.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// The prefix of `addr` with its host bits cleared; a `len` beyond the family counts as full.
    pub fn new(addr: IpAddr, len: u8) -> Self {
        let len = len.min(Family::of(addr).bits());
        let addr = match addr {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask))
            }
        };
        Self { addr, len }
    }

    /// The prefix that holds just this address.
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, len: Family::of(addr).bits() }
    }

    /// The default route of a family.
    pub const fn default_route(family: Family) -> Self {
        let addr = match family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self { addr, len: 0 }
    }

    /// Network address.
    pub const fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Length of the mask in bits.
    #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a size")]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Its address family.
    pub const fn family(&self) -> Family {
        Family::of(self.addr)
    }

    /// Whether `addr` lies in it.
    pub fn contains(&self, addr: IpAddr) -> bool {
        Family::of(addr) == self.family() && Self::new(addr, self.len).addr == self.addr
    }

    /// Whether `other` lies in it (a prefix covers itself).
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// First address after the network address, or the only one of a host prefix: what a node
    /// puts on its tunnel device.
    pub fn first_host(&self) -> IpAddr {
        match self.addr {
            IpAddr::V4(a) if self.len < 32 => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() | 1)),
            IpAddr::V6(a) if self.len < 128 => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() | 1)),
            only => only,
        }
    }
}

/// The prefixes of one family without those that lie in others, sorted.
pub fn outermost(prefixes: &[Prefix], family: Family) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = prefixes.iter().copied().filter(|prefix| prefix.family() == family).collect();
    prefixes.sort_unstable();
    // Sorted, a prefix comes right after one that covers it.
    prefixes.dedup_by(|inner, outer| outer.covers(inner));
    prefixes
}

impl Hash for Prefix {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.addr {
            // One word for the common case; the mark bit keeps the families apart.
            IpAddr::V4(a) => state.write_u64(1 << 63 | u64::from(a.to_bits()) << 8 | u64::from(self.len)),
            IpAddr::V6(a) => {
                state.write_u128(a.to_bits());
                state.write_u8(self.len);
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<IpNetwork> for Prefix {
    fn from(net: IpNetwork) -> Self {
        Self::new(net.ip(), net.prefix())
    }
}

/// Why a text is no prefix.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum PrefixError {
    /// Not an address with a length
    #[error("`{0}` is not a prefix such as 10.244.0.0/16")]
    NotAPrefix(String),
    /// Host bits are set: the writer probably meant another prefix
    #[error("`{0}` has host bits set; the prefix is {1}")]
    HostBits(String, Prefix),
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Strict: the length must be written and host bits must be clear.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let net: IpNetwork = text
            .contains('/')
            .then(|| text.parse().ok())
            .flatten()
            .ok_or_else(|| PrefixError::NotAPrefix(text.to_owned()))?;
        let prefix = Self::from(net);
        if prefix.addr == net.ip() { Ok(prefix) } else { Err(PrefixError::HostBits(text.to_owned(), prefix)) }
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Both families share one trie: IPv4 lies in `::ffff:0:0/96`, where every IPv4 prefix is longer
/// than any real IPv6 prefix that would cover it.
impl prefix_trie::Prefix for Prefix {
    type R = u128;

    fn repr(&self) -> u128 {
        match self.addr {
            IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
            IpAddr::V6(a) => a.to_bits(),
        }
    }

    fn prefix_len(&self) -> u8 {
        match self.addr {
            IpAddr::V4(_) => 96 + self.len,
            IpAddr::V6(_) => self.len,
        }
    }

    fn from_repr_len(repr: u128, len: u8) -> Self {
        match Ipv6Addr::from_bits(repr).to_ipv4_mapped() {
            Some(a) if len >= 96 => Self::new(IpAddr::V4(a), len - 96),
            _ => Self::new(IpAddr::V6(Ipv6Addr::from_bits(repr)), len),
        }
    }
}

/// Autonomous system number (RFC 6793: four octets).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Asn(pub u32);

impl Asn {
    /// AS_TRANS, which stands for a four-octet number towards a two-octet speaker (RFC 6793 §9).
    pub const TRANS: Self = Self(23456);

    /// Reserved and never valid on the wire (RFC 7607 §2) or in a path (RFC 7300).
    pub const fn is_reserved(self) -> bool {
        matches!(self.0, 0 | 65535 | u32::MAX)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_cleared_or_refused() {
        let addr = "10.244.7.9".parse().unwrap();
        assert_eq!(Prefix::new(addr, 24), p("10.244.7.0/24"));
        assert_eq!(Prefix::new(addr, 0), p("0.0.0.0/0"));
        assert_eq!(Prefix::new(addr, 99), p("10.244.7.9/32"));
        assert_eq!(
            "10.244.7.9/24".parse::<Prefix>().unwrap_err().to_string(),
            "`10.244.7.9/24` has host bits set; the prefix is 10.244.7.0/24"
        );
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/24", "", "2001:db8::/129", "10.0.0.0/255.0.0.0x"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn covering() {
        let cases = [
            // (outer, inner, covers)
            ("10.244.0.0/16", "10.244.7.0/24", true),
            ("10.244.7.0/24", "10.244.0.0/16", false),
            ("0.0.0.0/0", "10.0.0.0/8", true),
            ("::/0", "10.0.0.0/8", false),
            ("2001:db8::/32", "2001:db8:1::/48", true),
        ];
        for (outer, inner, covers) in cases {
            assert_eq!(p(outer).covers(&p(inner)), covers, "{outer} {inner}");
        }
        assert_eq!(p("10.244.7.0/24").first_host(), "10.244.7.1".parse::<IpAddr>().unwrap());
        assert_eq!(p("10.244.7.4/32").first_host(), "10.244.7.4".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn the_outermost_of_a_family() {
        let all = ["10.0.0.0/8", "2001:db8::/32", "10.0.0.0/16", "9.0.0.0/8", "10.9.0.0/24", "10.0.0.0/8"].map(p);
        assert_eq!(outermost(&all, Family::Ipv4), ["9.0.0.0/8", "10.0.0.0/8"].map(p));
        assert_eq!(outermost(&all, Family::Ipv6), ["2001:db8::/32"].map(p));
    }

    #[test]
    fn one_trie_holds_both_families() {
        let mut trie = prefix_trie::PrefixMap::new();
        for (i, text) in ["::/0", "0.0.0.0/0", "10.0.0.0/8", "10.244.0.0/16", "2001:db8::/32"].iter().enumerate() {
            trie.insert(p(text), i);
        }
        let longest =
            |addr: &str| trie.get_lpm(&Prefix::host(addr.parse().unwrap())).map(|(prefix, _)| prefix.to_string());
        assert_eq!(longest("10.244.1.1").as_deref(), Some("10.244.0.0/16"));
        assert_eq!(longest("192.0.2.1").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(longest("2001:db8::1").as_deref(), Some("2001:db8::/32"));
        assert_eq!(longest("fe80::1").as_deref(), Some("::/0"));
    }
}
