//! What the forwarder knows of this host itself: its addresses and devices.

use std::net::IpAddr;

use super::Forwarder;
use crate::net::Family;

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

    /// A device's name; its number if it is gone.
    pub fn device_name(&self, index: u32) -> String {
        self.device(index).map_or_else(|| format!("device {index}"), str::to_owned)
    }
}
