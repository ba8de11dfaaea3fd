//! flannel's network configuration, `PREFIX/config`, and what of a pool is handed out.
//!
//! Read as flannel's `pkg/subnet/config.go` reads it: names of keys in any case, the same defaults, the same
//! checks. What only flannel's own backends need (`Backend`) is left alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use crate::net::{Family, Prefix};

/// Where subnets are taken from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Network {
    /// A pool, and what of it is handed out, in each family that is enabled; IPv4 first
    pub ranges: Vec<Range>,
    /// Keys that mean nothing to us, as they are written
    pub unknown: Vec<String>,
}

/// A pool, and what of it is handed out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Range {
    /// All container subnets lie in it
    pub pool: Prefix,
    /// Length of one subnet
    pub subnet_len: u8,
    /// Address of the first subnet handed out
    pub first: IpAddr,
    /// Address of the last
    pub last: IpAddr,
}

/// The keys of one family, and what flannel allows there.
struct Names {
    family: Family,
    network: &'static str,
    len: &'static str,
    min: &'static str,
    max: &'static str,
    /// Length of a subnet where the network is large enough
    usual: u8,
}

const NAMES: [Names; 2] = [
    Names { family: Family::Ipv4, network: "Network", len: "SubnetLen", min: "SubnetMin", max: "SubnetMax", usual: 24 },
    Names {
        family: Family::Ipv6,
        network: "IPv6Network",
        len: "IPv6SubnetLen",
        min: "IPv6SubnetMin",
        max: "IPv6SubnetMax",
        usual: 64,
    },
];

impl Network {
    /// What stands in the store; the error says what is wrong with it.
    pub fn read(value: &[u8]) -> Result<Self, String> {
        let written: Map<String, Value> = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let mut ranges = Vec::new();
        for (names, enable, usually) in [(&NAMES[0], "EnableIPv4", true), (&NAMES[1], "EnableIPv6", false)] {
            let enabled = match find(&written, enable) {
                None => usually,
                Some(Value::Bool(enabled)) => *enabled,
                Some(other) => return Err(format!("{enable}: {other} is neither true nor false")),
            };
            if enabled {
                ranges.push(names.range(&written)?);
            }
        }
        if ranges.is_empty() {
            return Err("neither EnableIPv4 nor EnableIPv6 is true".to_owned());
        }
        let known = NAMES.iter().flat_map(|names| [names.network, names.len, names.min, names.max]);
        let known: Vec<&str> = known.chain(["EnableIPv4", "EnableIPv6", "Backend"]).collect();
        let unknown = written.keys().filter(|key| !known.iter().any(|known| known.eq_ignore_ascii_case(key)));
        Ok(Self { ranges, unknown: unknown.cloned().collect() })
    }
}

impl Names {
    fn range(&self, written: &Map<String, Value>) -> Result<Range, String> {
        let pool = self.pool(written)?;
        let longest = self.family.bits() - 2;
        let subnet_len = match find(written, self.len) {
            None => 0,
            Some(len) => len.as_u64().ok_or_else(|| format!("{}: {len} is not a length", self.len))?,
        };
        let subnet_len = match u8::try_from(subnet_len) {
            // The least that holds four subnets of four addresses.
            Ok(0) if pool.len() > longest - 2 => {
                return Err(format!("{}: {pool} is too small, /{} is the least", self.network, longest - 2));
            }
            Ok(0) => self.usual.max(pool.len() + 2),
            Ok(len) if len > longest => return Err(format!("{}: {len} is more than {longest}", self.len)),
            // The first is left out, so that two would be of use to one host.
            Ok(len) if len < pool.len() + 2 => {
                return Err(format!("{}: {pool} does not hold four subnets of length {len}", self.len));
            }
            Ok(len) => len,
            Err(_) => return Err(format!("{}: {subnet_len} is more than {longest}", self.len)),
        };
        let mut range = Range::new(pool, subnet_len).ok_or_else(|| format!("{}: {pool}", self.network))?;
        // The address of the network itself is not to become that of a host.
        range.first = range.nth(1).map_or(range.first, |second| second.addr());
        if let Some(first) = self.bound(self.min, &range, written)? {
            range.first = first;
        }
        if let Some(last) = self.bound(self.max, &range, written)? {
            range.last = last;
        }
        if range.first > range.last {
            return Err(format!("{} lies after {}", self.min, self.max));
        }
        Ok(range)
    }

    fn pool(&self, written: &Map<String, Value>) -> Result<Prefix, String> {
        let text = find(written, self.network).ok_or_else(|| format!("{} is missing", self.network))?;
        let net = text.as_str().filter(|text| text.contains('/')).and_then(|text| text.parse::<IpNetwork>().ok());
        // Host bits are cut off, as flannel does.
        net.map(Prefix::from)
            .filter(|pool| pool.family() == self.family && pool.len() > 0)
            .ok_or_else(|| format!("{}: {text} is not a network of {}", self.network, self.family))
    }

    /// The first or last subnet, where it is set.
    fn bound(&self, name: &str, range: &Range, written: &Map<String, Value>) -> Result<Option<IpAddr>, String> {
        let Some(text) = find(written, name) else { return Ok(None) };
        let addr = text.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        match addr {
            Some(addr) if Family::of(addr) != self.family => Err(format!("{name}: {addr} is not {}", self.family)),
            Some(addr) if addr.is_unspecified() => Ok(None),
            Some(addr) if !range.pool.contains(addr) => Err(format!("{name}: {addr} is not in {}", range.pool)),
            Some(addr) if Prefix::new(addr, range.subnet_len).addr() != addr => {
                Err(format!("{name}: {addr} is not where a subnet of length {} begins", range.subnet_len))
            }
            Some(addr) => Ok(Some(addr)),
            None => Err(format!("{name}: {text} is not an address")),
        }
    }
}

/// As Go finds it: the case of a name does not matter, and null is as good as absent.
fn find<'a>(written: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let same = |key: &&String| key.eq_ignore_ascii_case(name);
    let key = written.keys().find(|key| *key == name).or_else(|| written.keys().find(same))?;
    written.get(key).filter(|value| !value.is_null() && value.as_str() != Some(""))
}

impl Range {
    /// A pool of our own configuration, handed out whole. `None`: a subnet of this length does not fit it.
    pub fn new(pool: Prefix, subnet_len: u8) -> Option<Self> {
        let fits = (pool.len()..=pool.family().bits()).contains(&subnet_len);
        let mut range = Self { pool, subnet_len, first: pool.addr(), last: pool.addr() };
        let host_bits = u32::from(pool.family().bits() - pool.len());
        let last = to_bits(pool.addr()) | u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        range.last = Prefix::new(from_bits(pool.family(), last), subnet_len).addr();
        fits.then_some(range)
    }

    /// How many subnets are handed out.
    pub fn count(&self) -> u128 {
        self.slot(self.last).saturating_sub(self.slot(self.first)).saturating_add(1)
    }

    /// The subnet at a place, counted from 0.
    pub fn nth(&self, place: u128) -> Option<Prefix> {
        let slot = self.slot(self.first).checked_add(place).filter(|_| place < self.count())?;
        let bits = slot.checked_shl(self.shift()).unwrap_or(0);
        Some(Prefix::new(from_bits(self.pool.family(), bits), self.subnet_len))
    }

    /// First and last place that a prefix bars; `None`: it has nothing in common with what is handed out.
    pub fn places(&self, prefix: &Prefix) -> Option<(u128, u128)> {
        if prefix.family() != self.pool.family() {
            return None;
        }
        let host_bits = u32::from(prefix.family().bits() - prefix.len());
        let end = to_bits(prefix.addr()) | u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        let (first, last) = (self.slot(self.first), self.slot(self.last));
        let (start, end) = (self.slot(prefix.addr()), end.checked_shr(self.shift()).unwrap_or(0));
        (start <= last && end >= first).then(|| (start.max(first) - first, end.min(last) - first))
    }

    /// Whether this is one of the subnets that are handed out.
    pub fn offers(&self, subnet: &Prefix) -> bool {
        subnet.len() == self.subnet_len && self.places(subnet).is_some()
    }

    /// Bits of an address within a subnet.
    fn shift(&self) -> u32 {
        u32::from(self.pool.family().bits() - self.subnet_len)
    }

    /// The number of the subnet of an address, counted from that of the address 0.
    fn slot(&self, addr: IpAddr) -> u128 {
        to_bits(addr).checked_shr(self.shift()).unwrap_or(0)
    }
}

fn to_bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits().into(),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

fn from_bits(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        Family::Ipv6 => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    /// `pool len first last`, one a range.
    fn shown(network: &Network) -> Vec<String> {
        let show = |range: &Range| format!("{} {} {} {}", range.pool, range.subnet_len, range.first, range.last);
        network.ranges.iter().map(show).collect()
    }

    #[test]
    fn what_flannel_accepts_means_the_same() {
        let cases: [(&str, &str, &[&str]); 14] = [
            // (why, configuration, ranges)
            ("the tutorial", r#"{"Network":"172.20.0.0/16"}"#, &["172.20.0.0/16 24 172.20.1.0 172.20.255.0"]),
            ("names in any case", r#"{ "network": "10.3.0.0/16" }"#, &["10.3.0.0/16 24 10.3.1.0 10.3.255.0"]),
            (
                "all said",
                r#"{ "Network": "10.3.0.0/16", "SubnetMin": "10.3.5.0", "SubnetMax": "10.3.8.0", "SubnetLen": 28 }"#,
                &["10.3.0.0/16 28 10.3.5.0 10.3.8.0"],
            ),
            (
                "README's with a backend",
                r#"{"Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0",
                    "Backend": {"Type": "udp", "Port": 7890}}"#,
                &["10.0.0.0/8 20 10.10.0.0 10.99.0.0"],
            ),
            ("a /22 holds four of length 24", r#"{"Network":"10.3.4.0/22"}"#, &["10.3.4.0/22 24 10.3.5.0 10.3.7.0"]),
            ("a smaller one is cut in four", r#"{"Network":"10.3.4.0/23"}"#, &["10.3.4.0/23 25 10.3.4.128 10.3.5.128"]),
            ("the least", r#"{"Network":"10.3.4.16/28"}"#, &["10.3.4.16/28 30 10.3.4.20 10.3.4.28"]),
            ("host bits are cut off", r#"{"Network":"10.3.4.5/16"}"#, &["10.3.0.0/16 24 10.3.1.0 10.3.255.0"]),
            (
                "zero and empty are defaults",
                r#"{"Network":"10.3.0.0/16","SubnetLen":0,"SubnetMin":"0.0.0.0",
                "SubnetMax":""}"#,
                &["10.3.0.0/16 24 10.3.1.0 10.3.255.0"],
            ),
            (
                "IPv6 alone",
                r#"{ "enableIPv6": true, "ipv6Network": "fc00::/48", "enableIPv4": false }"#,
                &["fc00::/48 64 fc00:0:0:1:: fc00:0:0:ffff::"],
            ),
            (
                "IPv6, all said",
                r#"{ "EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetMin": "fc00:0:0:1::",
                     "IPv6SubnetMax": "fc00:0:0:f::", "IPv6SubnetLen": 124, "enableIPv4": false }"#,
                &["fc00::/48 124 fc00:0:0:1:: fc00:0:0:f::"],
            ),
            (
                "both",
                r#"{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/56"}"#,
                &["10.3.0.0/16 24 10.3.1.0 10.3.255.0", "fd00:5::/56 64 fd00:5:0:1:: fd00:5:0:ff::"],
            ),
            (
                "a family that is not enabled does not matter",
                r#"{"Network":"10.3.0.0/16","IPv6Network":"nonsense"}"#,
                &["10.3.0.0/16 24 10.3.1.0 10.3.255.0"],
            ),
            (
                "the least of IPv6",
                r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::10/124"}"#,
                &["fd00::10/124 126 fd00::14 fd00::1c"],
            ),
        ];
        for (why, text, wanted) in cases {
            let network = Network::read(text.as_bytes()).unwrap_or_else(|error| panic!("{why}: {error}"));
            assert_eq!(shown(&network), wanted, "{why}");
            assert_eq!(network.unknown, Vec::<String>::new(), "{why}");
        }
    }

    #[test]
    fn what_flannel_refuses_is_refused_with_the_key() {
        let cases = [
            // (configuration, error)
            ("", "EOF while parsing a value at line 1 column 0"),
            ("[]", "invalid type: sequence, expected a map at line 1 column 0"),
            ("{}", "Network is missing"),
            (r#"{"Network":"10.3.0.0"}"#, "Network: \"10.3.0.0\" is not a network of ipv4"),
            (r#"{"Network":"0.0.0.0/0"}"#, "Network: \"0.0.0.0/0\" is not a network of ipv4"),
            (r#"{"Network":"fd00::/48"}"#, "Network: \"fd00::/48\" is not a network of ipv4"),
            (r#"{"Network":"10.3.0.0/29"}"#, "Network: 10.3.0.0/29 is too small, /28 is the least"),
            (r#"{"Network":"10.3.0.0/16","SubnetLen":31}"#, "SubnetLen: 31 is more than 30"),
            (r#"{"Network":"10.3.0.0/16","SubnetLen":999}"#, "SubnetLen: 999 is more than 30"),
            (r#"{"Network":"10.3.0.0/16","SubnetLen":"24"}"#, "SubnetLen: \"24\" is not a length"),
            (
                r#"{"Network":"10.3.0.0/16","SubnetLen":17}"#,
                "SubnetLen: 10.3.0.0/16 does not hold four subnets of length 17",
            ),
            (r#"{"Network":"10.3.0.0/16","SubnetMin":"10.4.0.0"}"#, "SubnetMin: 10.4.0.0 is not in 10.3.0.0/16"),
            (r#"{"Network":"10.3.0.0/16","SubnetMax":"x"}"#, "SubnetMax: \"x\" is not an address"),
            (r#"{"Network":"10.3.0.0/16","SubnetMin":"fd00::"}"#, "SubnetMin: fd00:: is not ipv4"),
            (
                r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.0.128"}"#,
                "SubnetMin: 10.3.0.128 is not where a subnet of length 24 begins",
            ),
            (
                r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0"}"#,
                "SubnetMin lies after SubnetMax",
            ),
            (r#"{"EnableIPv4":false}"#, "neither EnableIPv4 nor EnableIPv6 is true"),
            (r#"{"Network":"10.3.0.0/16","EnableIPv6":"yes"}"#, "EnableIPv6: \"yes\" is neither true nor false"),
            (r#"{"Network":"10.3.0.0/16","EnableIPv6":true}"#, "IPv6Network is missing"),
        ];
        for (text, wanted) in cases {
            assert_eq!(Network::read(text.as_bytes()).unwrap_err(), wanted, "{text}");
        }
    }

    #[test]
    fn unknown_keys_are_named() {
        let network = Network::read(br#"{"Network":"10.3.0.0/16","Color":"blue","subnetlan":3}"#).unwrap();
        assert_eq!(network.unknown, ["Color", "subnetlan"]);
    }

    #[test]
    fn a_pool_of_our_own_is_handed_out_whole() {
        let cases = [
            // (pool, length, first, last, count)
            ("10.244.0.0/16", 24, "10.244.0.0", "10.244.255.0", 256),
            ("10.244.7.0/24", 24, "10.244.7.0", "10.244.7.0", 1),
            ("fd00::/48", 64, "fd00::", "fd00:0:0:ffff::", 65536),
            ("0.0.0.0/0", 0, "0.0.0.0", "0.0.0.0", 1),
            ("::/0", 128, "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", u128::MAX),
            ("::/0", 0, "::", "::", 1),
        ];
        for (pool, len, first, last, count) in cases {
            let range = Range::new(p(pool), len).unwrap();
            assert_eq!((range.first.to_string(), range.last.to_string()), (first.into(), last.into()), "{pool} {len}");
            assert_eq!(range.count(), count, "{pool} {len}");
            assert_eq!(range.nth(0).map(|subnet| subnet.addr()), Some(range.first), "{pool} {len}");
            assert_eq!(range.nth(count), None, "{pool} {len}");
        }
        assert_eq!(Range::new(p("10.0.0.0/16"), 15), None);
        assert_eq!(Range::new(p("10.0.0.0/16"), 33), None);
    }

    #[test]
    fn places_are_those_of_the_subnets_in_common() {
        let range = Network::read(br#"{"Network":"10.3.0.0/16","SubnetMax":"10.3.9.0"}"#).unwrap().ranges.remove(0);
        let cases = [
            // (prefix, places)
            ("10.3.1.0/24", Some((0, 0))),
            ("10.3.9.0/24", Some((8, 8))),
            ("10.3.0.0/24", None),
            ("10.3.10.0/24", None),
            ("10.3.0.0/16", Some((0, 8))),
            ("10.3.4.0/23", Some((3, 4))),
            ("10.3.4.64/26", Some((3, 3))),
            ("0.0.0.0/0", Some((0, 8))),
            ("::/0", None),
        ];
        for (prefix, places) in cases {
            assert_eq!(range.places(&p(prefix)), places, "{prefix}");
        }
        assert!(
            range.offers(&p("10.3.4.0/24")) && !range.offers(&p("10.3.4.0/25")) && !range.offers(&p("10.3.0.0/24"))
        );
        assert_eq!(range.nth(8), Some(p("10.3.9.0/24")));
    }
}
