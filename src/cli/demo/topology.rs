//! Who is there: names, addresses, AS numbers, and the picture of it.
//!
//! All of it but the picture stands in `vagrant/topology.json`, which the lab of virtual machines is built from too.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use super::stage::Stop;
use crate::net::Prefix;

/// AS of all hosts when they are one iBGP mesh.
pub(super) const MESH_AS: u32 = 64512;

/// Racks, what stands in them, and the cables between them.
#[derive(Debug, Deserialize)]
pub(super) struct Topology {
    /// All containers have an address in it
    pub pool: Prefix,
    /// A rack is a LAN
    pub racks: Vec<Rack>,
    /// Top-of-rack routers
    pub tors: Vec<Tor>,
    /// Container hosts; some are only in the demo
    pub hosts: Vec<Host>,
    /// Cables between ToRs
    pub uplinks: Vec<Uplink>,
}

/// A rack: its ToRs and hosts are on one LAN.
#[derive(Debug, Deserialize)]
pub(super) struct Rack {
    /// Its name
    pub name: String,
    /// The network of its LAN
    pub lan: Prefix,
}

/// A top-of-rack router.
#[derive(Debug, Deserialize)]
pub(super) struct Tor {
    /// Its name: also of its BGP peers and files
    pub name: String,
    /// The rack it stands in
    pub rack: String,
    /// Its address on the rack's LAN
    pub address: Ipv4Addr,
    /// Its AS: one for both ToRs of a rack
    pub asn: u32,
}

/// A container host with its one container.
#[derive(Debug, Deserialize)]
pub(super) struct Host {
    /// Its name: also of its BGP peers and files
    pub name: String,
    /// The rack it stands in
    pub rack: String,
    /// Its address on the rack's LAN
    pub address: Ipv4Addr,
    /// AS of its own in the routed fabric
    pub asn: u32,
    /// Its part of the pool
    pub subnet: Prefix,
}

/// A cable between two ToRs.
#[derive(Debug, Deserialize)]
pub(super) struct Uplink {
    /// Its name, and that of both its devices
    pub name: String,
    /// Its network
    pub net: Prefix,
    /// Which address each ToR has on it
    pub ends: BTreeMap<String, Ipv4Addr>,
}

/// The namespace of something with this name.
pub(super) fn netns(name: &str) -> String {
    format!("demo-{name}")
}

impl Host {
    /// Its namespace.
    pub(super) fn netns(&self) -> String {
        netns(&self.name)
    }

    /// What its container is called.
    pub(super) fn container_name(&self) -> String {
        self.name.replacen("host", "box", 1)
    }

    /// The namespace of its container.
    pub(super) fn container(&self) -> String {
        netns(&self.container_name())
    }

    /// The address of its container: the second one of the subnet.
    pub(super) fn container_address(&self) -> IpAddr {
        match self.subnet.first_host() {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits().saturating_add(1)).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().saturating_add(1)).into(),
        }
    }
}

impl Topology {
    /// That of the lab.
    pub(super) fn read() -> io::Result<Self> {
        Ok(serde_json::from_str(include_str!("../../../vagrant/topology.json"))?)
    }

    /// A host by its name.
    pub(super) fn host(&self, name: &str) -> Result<&Host, Stop> {
        let host = self.hosts.iter().find(|host| host.name == name);
        host.ok_or_else(|| Stop::Failed(format!("vagrant/topology.json names no {name}")))
    }

    /// The ToRs of a rack.
    pub(super) fn tors_of(&self, rack: &str) -> impl Iterator<Item = &Tor> {
        self.tors.iter().filter(move |tor| tor.rack == rack)
    }

    /// The hosts of a rack.
    pub(super) fn hosts_of(&self, rack: &str) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |host| host.rack == rack)
    }

    /// The cables of a ToR: its own address, the ToR at the other end, and the address there.
    pub(super) fn uplinks_of(&self, tor: &Tor) -> impl Iterator<Item = (&Uplink, Ipv4Addr, &Tor, Ipv4Addr)> {
        self.uplinks.iter().filter_map(|uplink| {
            let here = uplink.ends.get(&tor.name)?;
            let (name, there) = uplink.ends.iter().find(|(name, _)| **name != tor.name)?;
            Some((uplink, *here, self.tors.iter().find(|other| other.name == *name)?, *there))
        })
    }

    /// Every namespace of the demo: a switch for each rack, ToRs, hosts, containers.
    pub(super) fn namespaces(&self) -> Vec<String> {
        let racks = self.racks.iter().map(|rack| netns(&rack.name));
        let tors = self.tors.iter().map(|tor| netns(&tor.name));
        let hosts = self.hosts.iter().flat_map(|host| [host.netns(), host.container()]);
        racks.chain(tors).chain(hosts).collect()
    }
}

/// The picture, 72 columns wide.
pub(super) const PICTURE: &str = r"
        ┌────────────┬─────── four uplinks ───────┬────────────┐
        │            │    (each ToR of a rack     │            │
    ┌───┴───┐    ┌───┴───┐  to each of the    ┌───┴───┐    ┌───┴───┐
    │ tor1a │    │ tor1b │  other rack)       │ tor2a │    │ tor2b │ BIRD
    └───┬───┘    └───┬───┘                    └───┬───┘    └───┬───┘
        │  AS 65001  │                            │  AS 65002  │
 rack1 ═╪════════════╪═ 10.1.0.0/24       rack2 ══╪════════════╪═ 10.2.0.0/24
        │            │                            │            │
   ┌────┴────┐  ┌────┴────┐                  ┌────┴────┐  ┌────┴────┐
   │  host1  │  │  host2  │                  │  host3  │  │  host4  │ wayleave
   │  .0.11  │  │  .0.12  │                  │  .0.13  │  │  .0.14  │
   └────┬────┘  └────┬────┘                  └────┬────┘  └────┬────┘
       box1         box2                         box3         box4   containers
    10.244.1.2   10.244.2.2                   10.244.3.2   10.244.4.2
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_picture_shows_what_is_there() {
        let topology = Topology::read().unwrap();
        let shown = |text: String| assert!(PICTURE.contains(&text), "{text}");
        for rack in &topology.racks {
            shown(format!("{} ═", rack.name));
            shown(format!(" {}", rack.lan));
        }
        for tor in &topology.tors {
            shown(format!("│ {} │", tor.name));
            shown(format!("AS {} ", tor.asn));
        }
        for host in &topology.hosts {
            let [_, _, third, fourth] = host.address.octets();
            shown(format!("│  {}  │", host.name));
            shown(format!(" .{third}.{fourth} "));
            shown(host.container_name());
            shown(host.container_address().to_string());
        }
    }

    #[test]
    fn addresses_lie_in_their_networks_and_are_unique() {
        let topology = Topology::read().unwrap();
        let lans: BTreeMap<&str, Prefix> = topology.racks.iter().map(|rack| (rack.name.as_str(), rack.lan)).collect();
        let tors = topology.tors.iter().map(|tor| (tor.address, lans[tor.rack.as_str()]));
        let hosts = topology.hosts.iter().map(|host| (host.address, lans[host.rack.as_str()]));
        let uplinks = topology.uplinks.iter().flat_map(|uplink| uplink.ends.values().map(|end| (*end, uplink.net)));
        let mut seen = BTreeSet::new();
        for (address, net) in tors.chain(hosts).chain(uplinks) {
            assert!(net.contains(address.into()), "{address} in {net}");
            assert!(seen.insert(address), "{address} twice");
        }
        for host in &topology.hosts {
            assert!(topology.pool.covers(&host.subnet), "{}", host.name);
        }
    }

    #[test]
    fn each_tor_has_a_cable_to_each_of_another_rack() {
        let topology = Topology::read().unwrap();
        for tor in &topology.tors {
            let reached: BTreeSet<&str> =
                topology.uplinks_of(tor).map(|(_, _, other, _)| other.name.as_str()).collect();
            let others = topology.tors.iter().filter(|other| other.rack != tor.rack);
            assert_eq!(reached, others.map(|other| other.name.as_str()).collect(), "{}", tor.name);
        }
    }
}
