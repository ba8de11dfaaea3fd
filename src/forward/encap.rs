//! Direct, tunnel or recursive: the one decision that `network.tunnel` is about.

use super::TunnelMode;

/// How packets travel to a next hop.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Encap {
    /// Over the link it is on
    Direct,
    /// In an IP-in-IP packet addressed to it
    IpIp,
    /// As they are, to the gateway that leads towards it
    Recursive,
}

/// How packets travel to a next hop that is or isn't on-link, and that can or can't take them out
/// of a tunnel.
pub const fn choose(mode: TunnelMode, on_link: bool, ends_tunnel: bool) -> Encap {
    match (mode, on_link, ends_tunnel) {
        (TunnelMode::Always, _, true) | (TunnelMode::CrossSubnet, false, true) => Encap::IpIp,
        (_, true, _) => Encap::Direct,
        (_, false, _) => Encap::Recursive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TunnelMode::{Always, CrossSubnet, Never};

    #[test]
    fn the_table() {
        let cases = [
            // (why, mode, on-link, ends tunnels, wanted)
            ("the same subnet needs no tunnel", CrossSubnet, true, true, Encap::Direct),
            ("another subnet is tunnelled", CrossSubnet, false, true, Encap::IpIp),
            ("a router in another subnet ends no tunnel", CrossSubnet, false, false, Encap::Recursive),
            ("a router next door", CrossSubnet, true, false, Encap::Direct),
            ("always means always", Always, true, true, Encap::IpIp),
            ("always, across subnets", Always, false, true, Encap::IpIp),
            ("nobody would unpack it", Always, true, false, Encap::Direct),
            ("nobody would unpack it there either", Always, false, false, Encap::Recursive),
            ("never, though it could", Never, false, true, Encap::Recursive),
            ("never, next door", Never, true, true, Encap::Direct),
            ("never, a router next door", Never, true, false, Encap::Direct),
            ("never, a router elsewhere", Never, false, false, Encap::Recursive),
        ];
        for (why, mode, on_link, ends_tunnel, wanted) in cases {
            assert_eq!(choose(mode, on_link, ends_tunnel), wanted, "{why}");
        }
    }
}
