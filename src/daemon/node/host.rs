//! The host's links and addresses as last heard, and what follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::TUNNEL;
use crate::forward::{Address, Dump, KernelEvent, Link};
use crate::net::Prefix;

/// Links and addresses.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Host {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<Address>,
}

impl From<Dump> for Host {
    fn from(dump: Dump) -> Self {
        Self {
            links: dump.links.into_iter().map(|link| (link.index, link)).collect(),
            addresses: dump.addresses.into_iter().collect(),
        }
    }
}

impl Host {
    /// Takes an event in.
    pub(super) fn apply(&mut self, event: KernelEvent) {
        match event {
            KernelEvent::Link(link) => {
                self.links.insert(link.index, link);
            }
            KernelEvent::LinkGone(index) => {
                self.links.remove(&index);
                self.addresses.retain(|address| address.device != index);
            }
            KernelEvent::Address(address) => {
                self.addresses.insert(address);
            }
            KernelEvent::AddressGone(address) => {
                self.addresses.remove(&address);
            }
            _ => {}
        }
    }

    /// Whether an event is about a link that is not known yet.
    pub(super) fn is_new(&self, event: &KernelEvent) -> bool {
        matches!(event, KernelEvent::Link(link) if !self.links.contains_key(&link.index))
    }

    /// MTU of the device that has the node's address; Ethernet's if none has it.
    pub(super) fn underlay_mtu(&self, address: IpAddr) -> u32 {
        let on = self.addresses.iter().filter(|on| on.addr == address).filter_map(|on| self.links.get(&on.device));
        // A loopback address is reached over the other links: the smallest of them counts.
        let device = on.into_iter().find(|link| !link.loopback);
        let up = || self.links.values().filter(|link| link.up && !link.loopback && link.name != TUNNEL);
        device.map_or_else(|| up().map(|link| link.mtu).min().unwrap_or(1500), |link| link.mtu)
    }

    /// Whether a device can carry packets; none: it is not there.
    pub(super) fn carries(&self, name: &str) -> Option<bool> {
        self.links.values().find(|link| link.name == name).map(|link| link.up && link.carrier)
    }

    /// Devices with an address outside the pools: towards routers, not towards containers. Addresses of
    /// the link's own scope say nothing: every device has one.
    pub(super) fn uplinks(&self, pools: &[Prefix]) -> impl Iterator<Item = &str> {
        let outside = |on: &&Address| !is_link_local(on.addr) && !pools.iter().any(|pool| pool.contains(on.addr));
        let devices: BTreeSet<u32> = self.addresses.iter().filter(outside).map(|on| on.device).collect();
        let links = devices.into_iter().filter_map(|device| self.links.get(&device));
        links.filter(|link| !link.loopback && link.up && link.name != TUNNEL).map(|link| link.name.as_str())
    }

    /// The networks that a device has addresses in.
    pub(super) fn networks(&self, name: &str) -> Vec<Prefix> {
        let is_it = |on: &&Address| self.links.get(&on.device).is_some_and(|link| link.name == name);
        self.addresses.iter().filter(is_it).map(|on| on.prefix).collect()
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, mtu: u32) -> KernelEvent {
        let loopback = name == "lo";
        KernelEvent::Link(Link { index, name: name.to_owned(), up: true, carrier: true, loopback, mtu })
    }

    fn address(device: u32, text: &str) -> Address {
        let (addr, len) = text.split_once('/').unwrap();
        let addr = addr.parse().unwrap();
        Address { device, addr, prefix: Prefix::new(addr, len.parse().unwrap()) }
    }

    #[test]
    fn what_the_tunnel_and_the_settings_depend_on_follows_events() {
        let pools: [Prefix; 2] = ["10.244.0.0/16".parse().unwrap(), "fd44::/16".parse().unwrap()];
        let mut host = Host::default();
        let node = "192.0.2.11".parse().unwrap();
        assert_eq!(host.underlay_mtu(node), 1500, "nothing is known");
        for event in [
            link(1, "lo", 65_536),
            link(2, "eth0", 9000),
            link(3, "c-box", 1480),
            link(4, TUNNEL, 8980),
            KernelEvent::Address(address(2, "192.0.2.11/32")),
            KernelEvent::Address(address(2, "fe80::2/64")),
            KernelEvent::Address(address(3, "fe80::1/64")),
            KernelEvent::Address(address(3, "169.254.1.1/32")),
            KernelEvent::Address(address(4, "10.244.7.1/32")),
        ] {
            host.apply(event);
        }
        assert_eq!(host.underlay_mtu(node), 9000);
        assert_eq!(host.uplinks(&pools).collect::<Vec<_>>(), ["eth0"], "not what leads to a container");
        let networks: Vec<String> = host.networks("eth0").iter().map(Prefix::to_string).collect();
        assert_eq!(networks, ["192.0.2.11/32", "fe80::/64"]);

        host.apply(KernelEvent::AddressGone(address(2, "192.0.2.11/32")));
        host.apply(KernelEvent::Address(address(1, "192.0.2.11/32")));
        assert_eq!(host.underlay_mtu(node), 1480, "a loopback address is reached over the other links");
        assert_eq!(host.uplinks(&pools).count(), 0);

        host.apply(KernelEvent::LinkGone(3));
        assert_eq!(host.underlay_mtu(node), 9000);
        host.apply(link(2, "eth0", 1400));
        assert_eq!(host.underlay_mtu(node), 1400);
    }
}
