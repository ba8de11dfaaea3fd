//! Who is there: names, addresses, AS numbers, and the picture of it.

use std::net::Ipv4Addr;

/// All containers have an address in it.
pub(super) const POOL: &str = "10.244.0.0/16";
/// AS of the spine.
pub(super) const SPINE_AS: u32 = 65000;
/// AS of all hosts when they are one iBGP mesh.
pub(super) const MESH_AS: u32 = 64512;
/// The namespace of the spine.
pub(super) const SPINE: &str = "demo-spine";

/// A rack: its router and the LAN of its hosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rack {
    /// Number from 1
    pub number: u8,
}

/// Both racks.
pub(super) const RACKS: [Rack; 2] = [Rack { number: 1 }, Rack { number: 2 }];

impl Rack {
    /// Namespace of the top-of-rack router.
    pub(super) fn tor(self) -> String {
        format!("demo-tor{}", self.number)
    }

    /// AS of the top-of-rack router.
    pub(super) fn asn(self) -> u32 {
        65000 + u32::from(self.number)
    }

    /// The ToR's address on the LAN of the hosts.
    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 0, 1)
    }

    /// The two ends of the cable between spine and ToR, /30.
    pub(super) fn uplink(self) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::new(10, 255, self.number, 1), Ipv4Addr::new(10, 255, self.number, 2))
    }

    /// Its hosts.
    pub(super) fn hosts(self) -> impl Iterator<Item = Host> {
        HOSTS.into_iter().filter(move |host| host.rack().number == self.number)
    }
}

/// A container host with its one container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Host {
    /// Number from 1; hosts 1 and 2 are in rack 1
    pub number: u8,
}

/// All hosts.
pub(super) const HOSTS: [Host; 4] = [Host { number: 1 }, Host { number: 2 }, Host { number: 3 }, Host { number: 4 }];

impl Host {
    /// Name of the host: also of its peers and files.
    pub(super) fn name(self) -> String {
        format!("host{}", self.number)
    }

    /// Its namespace.
    pub(super) fn netns(self) -> String {
        format!("demo-host{}", self.number)
    }

    /// The namespace of its container.
    pub(super) fn container(self) -> String {
        format!("demo-box{}", self.number)
    }

    /// The rack it stands in.
    pub(super) fn rack(self) -> Rack {
        Rack { number: self.number.div_ceil(2) }
    }

    /// Its address on the rack's LAN.
    pub(super) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.rack().number, 0, 10 + self.number)
    }

    /// AS of its own in the routed fabric.
    pub(super) fn asn(self) -> u32 {
        64600 + u32::from(self.number)
    }

    /// Its part of the pool.
    pub(super) fn subnet(self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    /// The address of its container.
    pub(super) fn container_address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, 2)
    }
}

/// Every namespace of the demo.
pub(super) fn namespaces() -> Vec<String> {
    let tors = RACKS.iter().map(|rack| rack.tor());
    let hosts = HOSTS.iter().flat_map(|host| [host.netns(), host.container()]);
    [SPINE.to_owned()].into_iter().chain(tors).chain(hosts).collect()
}

/// The picture, 72 columns wide.
pub(super) const PICTURE: &str = r"
                           ┌──────────────┐
                           │    spine     │                     BIRD
                           │   AS 65000   │
                           └──┬────────┬──┘
                  ┌───────────┘        └───────────┐
           ┌──────┴───────┐                 ┌──────┴───────┐
           │     tor1     │                 │     tor2     │    BIRD
           │   AS 65001   │                 │   AS 65002   │
           └──────┬───────┘                 └──────┬───────┘
      rack 1 ═════╪═════ 10.1.0.0/24   rack 2 ═════╪═════ 10.2.0.0/24
           ┌──────┴──────┐                  ┌──────┴──────┐
      ┌────┴────┐   ┌────┴────┐        ┌────┴────┐   ┌────┴────┐
      │  host1  │   │  host2  │        │  host3  │   │  host4  │ wayleave
      │  .0.11  │   │  .0.12  │        │  .0.13  │   │  .0.14  │
      └────┬────┘   └────┬────┘        └────┬────┘   └────┬────┘
          box1          box2               box3          box4   containers
       10.244.1.2    10.244.2.2         10.244.3.2    10.244.4.2
";
