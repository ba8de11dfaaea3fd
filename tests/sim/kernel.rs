//! The kernel of one node, and who looks after its addresses. What it tells waits in `events`
//! for the daemon's watcher.
//!
//! It outlives the daemon: a crash loses nothing here.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use wayleave::forward::{Address, Dump, FibOp, ForeignRoute, Hop, KernelEvent, Link, NexthopOp, OpError};
use wayleave::forward::{RouteKind, Target};
use wayleave::net::{Family, Prefix};

use super::model;
pub use super::model::{METRIC, PROTOCOL, TUNNEL};

/// Our table.
pub const TABLE: u32 = 254;

#[derive(Debug, Default)]
pub struct Kernel {
    model: model::Kernel,
    /// What it tells, and whether somebody and not the kernel itself has caused it
    events: VecDeque<(KernelEvent, bool)>,
    /// What the network manager of the host puts back when a link comes up
    wanted_addresses: Vec<Address>,
    wanted_routes: Vec<ForeignRoute>,
}

/// Where the table sends a packet.
#[derive(Debug, Eq, PartialEq)]
pub enum Way {
    Local,
    Link(u32),
    Via(Vec<Hop>),
    Drop,
    Nowhere,
}

impl Kernel {
    pub fn add_link(&mut self, index: u32, name: String) {
        self.model.add_link(Link { index, name, up: true, carrier: true, loopback: false, mtu: 1500 });
    }

    /// An address for good.
    pub fn assign(&mut self, device: u32, addr: IpAddr, len: u8) {
        let address = Address { device, addr, prefix: Prefix::new(addr, len) };
        self.wanted_addresses.push(address);
        self.model.set_address(address, true);
    }

    /// A route that somebody else made, for good.
    pub fn add_foreign(&mut self, prefix: Prefix, gateway: IpAddr, device: u32) {
        let hops = vec![Hop::direct(gateway, device)];
        let kind = RouteKind::Unicast;
        let route = ForeignRoute { prefix, table: TABLE, metric: 0, protocol: 3, kind, hops, nexthop: None };
        self.wanted_routes.push(route.clone());
        self.model.add_foreign(route);
    }

    pub fn dump(&self) -> Dump {
        self.model.dump()
    }

    /// What our routes do, by prefix.
    pub fn table(&self) -> impl Iterator<Item = (Prefix, Vec<Hop>)> {
        self.model.own.keys().map(|prefix| (*prefix, self.model.traffic(*prefix).unwrap_or_default()))
    }

    pub fn addresses(&self) -> &[Address] {
        &self.model.addresses
    }

    /// Whether a device can send and receive.
    pub fn works(&self, device: u32) -> bool {
        self.model.links.get(&device).is_some_and(|link| link.up && link.carrier)
    }

    /// Writes so far, but for removals of what nobody uses.
    pub fn writes(&self) -> usize {
        self.model.written + self.model.nexthops_set
    }

    // ---- the table at work ----

    pub fn lookup(&self, dst: IpAddr) -> Way {
        let addresses = &self.model.addresses;
        if addresses.iter().any(|known| known.addr == dst) {
            return Way::Local;
        }
        let is_up = |device: u32| self.model.links.get(&device).is_some_and(|link| link.up);
        let connected = addresses.iter().filter(|known| known.prefix.contains(dst) && is_up(known.device));
        let foreign = self.model.foreign.iter().filter(|route| route.prefix.contains(dst));
        let own = self.model.own.keys().filter(|prefix| prefix.contains(dst));
        // The longest match, then the lowest metric.
        let best = |best: &mut (u8, u32, Way), len: u8, metric: u32, way: &dyn Fn() -> Way| {
            if best.2 == Way::Nowhere || len > best.0 || (len == best.0 && metric < best.1) {
                *best = (len, metric, way());
            }
        };
        let mut found = (0, 0, Way::Nowhere);
        for known in connected {
            best(&mut found, known.prefix.len(), 0, &|| Way::Link(known.device));
        }
        for route in foreign {
            best(&mut found, route.prefix.len(), route.metric, &|| Way::Via(route.hops.clone()));
        }
        for prefix in own {
            best(&mut found, prefix.len(), METRIC, &|| match self.model.traffic(*prefix) {
                Some(hops) if !hops.is_empty() => Way::Via(hops),
                _ => Way::Drop,
            });
        }
        found.2
    }

    // ---- what the writer asks for ----

    pub fn carry_out(&mut self, op: &FibOp) -> Result<(), OpError> {
        self.model.carry_out(op)
    }

    pub fn carry_out_nexthop(&mut self, op: &NexthopOp) -> Result<(), OpError> {
        self.model.carry_out_nexthop(op)
    }

    /// Refuses so many of the next writes.
    pub fn refuse(&mut self, count: u32) {
        self.model.refuse = count;
    }

    // ---- what the watcher is told ----

    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub fn take_events(&mut self) -> Vec<(KernelEvent, bool)> {
        self.events.drain(..).collect()
    }

    fn tell(&mut self, meddled: bool) {
        self.events.extend(self.model.events.drain(..).map(|event| (event, meddled)));
    }

    // ---- what happens to it ----

    pub fn set_link(&mut self, device: u32, up: bool, carrier: bool) {
        let Some((was_up, had_carrier)) = self.model.links.get(&device).map(|link| (link.up, link.carrier)) else {
            return;
        };
        if (was_up, had_carrier) == (up, carrier && up) {
            return;
        }
        let before = self.model.own.clone();
        self.model.set_link(device, up, carrier);
        if was_up && !up {
            self.lose_ipv6(device, &before);
        }
        if !was_up && up {
            self.restore(device);
        }
        self.tell(false);
    }

    /// Where a device goes down IPv6 loses its addresses, and tells of the routes that went: of those
    /// without objects.
    fn lose_ipv6(&mut self, device: u32, before: &BTreeMap<Prefix, Target>) {
        for (prefix, target) in before {
            let told = prefix.family() == Family::Ipv6 && matches!(target, Target::Via(_));
            if told && !self.model.own.contains_key(prefix) {
                self.model.events.push_back(KernelEvent::OwnGone(*prefix, target.clone()));
            }
        }
        let lost = |known: &&Address| known.device == device && known.addr.is_ipv6();
        for address in self.model.addresses.iter().filter(lost).copied().collect::<Vec<_>>() {
            self.model.set_address(address, false);
        }
    }

    /// The network manager sees a link come up.
    fn restore(&mut self, device: u32) {
        for address in self.wanted_addresses.iter().filter(|address| address.device == device) {
            self.model.set_address(*address, true);
        }
        for route in self.wanted_routes.iter().filter(|route| route.hops.iter().all(|hop| hop.device == device)) {
            self.model.add_foreign(route.clone());
        }
    }

    /// The tunnel device has the first address of the first subnet, as the node task sees to; without
    /// one it keeps what it has.
    pub fn set_tunnel(&mut self, subnets: &[Prefix]) {
        let first = subnets.iter().find(|subnet| subnet.family() == Family::Ipv4);
        let Some(addr) = first.map(Prefix::first_host).filter(|_| self.model.links.contains_key(&TUNNEL)) else {
            return;
        };
        let wanted = Address { device: TUNNEL, addr, prefix: Prefix::host(addr) };
        self.model.set_address(wanted, true);
        for old in self.model.addresses.clone() {
            if old.device == TUNNEL && old != wanted {
                self.model.set_address(old, false);
            }
        }
        self.tell(false);
    }

    /// Somebody deletes a route of ours.
    pub fn tamper(&mut self, nth: usize) {
        let own = &self.model.own;
        if let Some(prefix) = own.keys().nth(nth % own.len().max(1)).copied() {
            self.model.tamper(prefix, None);
            self.tell(true);
        }
    }

    /// Somebody deletes a nexthop object of ours, or changes it.
    pub fn tamper_with_nexthop(&mut self, nth: usize, delete: bool) {
        let known = &self.model.nexthops;
        if let Some(id) = known.keys().nth(nth % known.len().max(1)).copied() {
            self.model.tamper_with_nexthop(id, delete);
            self.tell(true);
        }
    }
}
