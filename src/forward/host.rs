//! What the forwarder knows of this host itself: its addresses and devices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Forwarder, Target};
use crate::net::{Family, Prefix};

impl Forwarder {
    /// All addresses of this host, sorted, each once.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.topology().addresses().map(|(addr, _)| addr).collect();
        addresses.dedup();
        addresses
    }

    /// Our address of a family on the device that has `addr`; `addr` itself if it is of that
    /// family. IPv6 link-local addresses don't count: what is announced must be reachable from
    /// behind the link.
    pub fn address_beside(&self, addr: IpAddr, family: Family) -> Option<IpAddr> {
        if Family::of(addr) == family {
            return Some(addr);
        }
        let (_, device) = self.topology().addresses().find(|(own, _)| *own == addr)?;
        let link_local = |addr: IpAddr| matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
        let beside = self.topology().addresses().filter(|(_, on)| *on == device).map(|(own, _)| own);
        beside.into_iter().find(|own| Family::of(*own) == family && !link_local(*own))
    }

    /// The devices that our routes lead to, and those whose addresses put one of these subnets on their
    /// link. The cost doesn't grow with the routes.
    pub fn devices_in_use(&self, subnets: &[Prefix]) -> BTreeSet<u32> {
        let holds = |on: &Prefix| on.len() < on.family().bits() && subnets.iter().any(|subnet| subnet.covers(on));
        let on_link = self.topology().prefixes().filter(|(prefix, _)| holds(prefix)).map(|(_, device)| device);
        let plain = self.fib().targets.tally().filter_map(|(target, _)| match target {
            Target::Via(hops) => Some(hops.iter().map(|hop| hop.device)),
            Target::Object(_) | Target::Blackhole => None,
        });
        self.objects().devices().chain(plain.flatten()).chain(on_link).collect()
    }

    /// A device's name; its number if it is gone.
    pub fn device_name(&self, index: u32) -> String {
        self.device(index).map_or_else(|| format!("device {index}"), str::to_owned)
    }

    /// The longest route of others that drops packets to an address: prefix, protocol, metric.
    pub fn rejecting(&self, addr: IpAddr) -> Option<(Prefix, u8, u32)> {
        self.topology().rejecting(addr).map(|route| (route.prefix, route.protocol, route.metric))
    }

    /// The device that holds the containers of a subnet, with an address of the subnet that a
    /// container could have: a bridge with an address in it, else the first device with a route to a
    /// part of it. `None`: there is no container, or they are elsewhere.
    pub fn container_link(&self, subnet: Prefix) -> Option<(IpAddr, u32)> {
        let tunnel = self.settings().tunnel_device;
        let is_own = |addr: IpAddr| self.topology().addresses().any(|(own, _)| own == addr);
        let links = self.topology().links_within(subnet).filter(|(_, device)| Some(*device) != tunnel);
        // Shorter prefixes come first, as a bridge's does before those of single containers.
        links.into_iter().find_map(|(prefix, device)| {
            let first = prefix.first_host();
            let addr = if is_own(first) { following(first) } else { first };
            (prefix.contains(addr) && !is_own(addr)).then_some((addr, device))
        })
    }
}

/// The next address.
fn following(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(addr) => IpAddr::V4(u32::from(addr).wrapping_add(1).into()),
        IpAddr::V6(addr) => IpAddr::V6(u128::from(addr).wrapping_add(1).into()),
    }
}
