//! What the rules do with one packet, for people who ask.

use std::fmt;
use std::net::IpAddr;

use crate::net::Prefix;

/// What becomes of the source address of what a container of this node sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SourceNat {
    /// It stays, and dockerd's own rules are kept from changing it
    Kept,
    /// It becomes this host's
    Masqueraded,
    /// Our rules say nothing of it
    Untouched,
}

/// What becomes of the source of a packet that leaves this host; arguments as in
/// [`Ruleset`](super::Ruleset).
pub fn source_nat(from: IpAddr, to: IpAddr, subnets: &[Prefix], pools: &[Prefix], masquerade: bool) -> SourceNat {
    let within = |prefixes: &[Prefix], addr| prefixes.iter().any(|prefix| prefix.contains(addr));
    match (within(subnets, from), within(pools, to)) {
        (true, true) => SourceNat::Kept,
        (true, false) if masquerade => SourceNat::Masqueraded,
        _ => SourceNat::Untouched,
    }
}

impl fmt::Display for SourceNat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "the source address is kept",
            Self::Masqueraded => "masqueraded: the other side sees this host's address",
            Self::Untouched => "our rules leave the source address as it is",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_pools_is_masqueraded() {
        let cases = [
            ("container to container", "10.244.7.2", "10.244.9.5", true, SourceNat::Kept),
            ("container to container, without masquerading", "10.244.7.2", "10.244.9.5", false, SourceNat::Kept),
            ("out of the pools", "10.244.7.2", "198.51.100.9", true, SourceNat::Masqueraded),
            ("out of the pools, not wanted", "10.244.7.2", "198.51.100.9", false, SourceNat::Untouched),
            ("the host's own", "192.0.2.11", "198.51.100.9", true, SourceNat::Untouched),
            ("IPv6 has pools of its own", "fd44:7::2", "fd44:9::5", true, SourceNat::Kept),
            ("another family's pool is none", "fd44:7::2", "2001:db8::1", true, SourceNat::Masqueraded),
        ];
        let prefixes = |texts: &[&str]| -> Vec<Prefix> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let (subnets, pools) = (prefixes(&["10.244.7.0/24", "fd44:7::/64"]), prefixes(&["10.244.0.0/16", "fd44::/16"]));
        for (why, from, to, masquerade, wanted) in cases {
            let got = source_nat(from.parse().unwrap(), to.parse().unwrap(), &subnets, &pools, masquerade);
            assert_eq!(got, wanted, "{why}");
        }
    }
}
