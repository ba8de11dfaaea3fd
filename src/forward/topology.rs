//! The host's links, addresses and foreign routes as last heard, and the way they lead to an
//! address.
//!
//! What the kernel does without saying so is done here as well: it drops IPv4 routes silently when
//! their device goes down or loses its last address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use prefix_trie::PrefixMap;
use smallvec::SmallVec;

use super::resolve::Reason;
use super::{Address, Dump, ForeignRoute, Hop, KernelEvent, Link, RouteKind, Target};
use crate::net::{Family, Prefix};

/// Links, addresses and foreign routes.
#[derive(Debug, Default)]
pub(super) struct Topology {
    links: BTreeMap<u32, Link>,
    /// Prefix of each (address, device)
    addresses: BTreeMap<(IpAddr, u32), Prefix>,
    ways: PrefixMap<Prefix, SmallVec<[Way; 1]>>,
    /// See [`Self::take_guess`]
    guessed: bool,
}

/// One way the kernel knows to a prefix.
#[derive(Debug)]
enum Way {
    /// An address of ours makes it on-link
    Connected {
        device: u32,
    },
    Foreign(ForeignRoute),
}

impl Way {
    /// The kernel's own choice among ways to one prefix: the lowest metric.
    fn rank(&self) -> (u32, u32) {
        match self {
            Self::Connected { device } => (0, *device),
            Self::Foreign(route) => (route.metric, u32::MAX),
        }
    }
}

impl Way {
    /// Whether it makes a prefix on-link on a device.
    fn is_on_link(&self, on: u32) -> bool {
        match self {
            Self::Connected { device } => *device == on,
            Self::Foreign(route) => has_link_hop(route, Some(on)),
        }
    }
}

/// Whether a route has a hop without a gateway (on a device).
fn has_link_hop(route: &ForeignRoute, on: Option<u32>) -> bool {
    route.hops.iter().any(|hop| hop.gateway.is_none() && on.is_none_or(|device| hop.device == device))
}

/// Where the kernel would send a packet without our routes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Ground {
    /// To ourselves
    Local,
    /// Over the link of a device; the prefix says so
    OnLink { device: u32, through: Prefix },
    /// To gateways; the prefix says so
    Behind { hops: Vec<Hop>, through: Prefix },
    /// Nowhere; the prefix, if any, is the longest match that leads there
    Nowhere { reason: Reason, through: Option<Prefix> },
}

impl Ground {
    /// The longest match.
    pub(super) const fn through(&self) -> Option<Prefix> {
        match self {
            Self::Local => None,
            Self::OnLink { through, .. } | Self::Behind { through, .. } => Some(*through),
            Self::Nowhere { through, .. } => *through,
        }
    }
}

/// Destinations whose way may have changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Affected {
    Nothing,
    Prefix(Prefix),
    All,
}

/// Why the kernel drops routes on its own account. `fib_sync_down_dev` in the kernel's
/// `net/ipv4/fib_semantics.c`, `fib6_ifdown` in `net/ipv6/route.c`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Flush {
    /// A device is administratively down: routes all of whose devices are down
    Down(u32),
    /// A device is gone: routes with any hop over it
    Gone(u32),
    /// A device lost its last IPv4 address: like down, but for IPv4 only
    Addressless(u32),
}

impl Topology {
    /// Takes an event in. Events on our own routes say nothing here.
    pub(super) fn apply(&mut self, event: KernelEvent) -> (Affected, Option<Flush>) {
        match event {
            KernelEvent::Link(link) => self.set_link(link),
            KernelEvent::LinkGone(device) => self.remove_link(device),
            KernelEvent::Address(address) => (self.set_address(address), None),
            KernelEvent::AddressGone(address) => self.remove_address(address),
            KernelEvent::Route(route) => (self.set_route(route), None),
            KernelEvent::RouteGone(route) => (self.remove_route(&route), None),
            KernelEvent::Own(..) | KernelEvent::OwnGone(..) | KernelEvent::Nexthop(_) | KernelEvent::NexthopGone(_) => {
                (Affected::Nothing, None)
            }
        }
    }

    /// Forgets all and takes a dump in; returns the part of it that is about our own routes.
    pub(super) fn replace(&mut self, dump: Dump) -> Vec<(Prefix, Target)> {
        *self = Self::default();
        self.links = dump.links.into_iter().map(|link| (link.index, link)).collect();
        for address in dump.addresses {
            self.set_address(address);
        }
        for route in dump.foreign {
            self.set_route(route);
        }
        dump.own
    }

    /// Whether a foreign route was taken for dropped that may be there still, since last asked: one over
    /// several devices, whose state may be known from a dump that is newer than the event. (One
    /// over a single device comes back with an event of its own.)
    pub(super) const fn take_guess(&mut self) -> bool {
        std::mem::replace(&mut self.guessed, false)
    }

    /// The prefixes of our addresses with their device.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = (Prefix, u32)> {
        self.addresses.iter().map(|((_, device), prefix)| (*prefix, *device))
    }

    /// Our addresses with their device, sorted.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        self.addresses.keys().copied()
    }

    /// A link by index.
    pub(super) fn link(&self, device: u32) -> Option<&Link> {
        self.links.get(&device)
    }

    /// The longest foreign route that drops packets to an address.
    pub(super) fn rejecting(&self, addr: IpAddr) -> Option<&ForeignRoute> {
        let host = Prefix::host(addr);
        let covers = self.ways.cover(&host).filter(|(prefix, _)| prefix.family() == host.family());
        let rejects = covers.flat_map(|(_, ways)| ways).filter_map(|way| match way {
            Way::Foreign(route) if route.kind == RouteKind::Reject => Some(route),
            Way::Foreign(_) | Way::Connected { .. } => None,
        });
        rejects.last()
    }

    /// What lies within a prefix and is on the link of a device that is up, by the kernel's own
    /// addresses and routes; loopback devices don't count.
    pub(super) fn links_within(&self, within: Prefix) -> impl Iterator<Item = (Prefix, u32)> {
        let device = |way: &Way| match way {
            Way::Connected { device } => Some(*device),
            Way::Foreign(route) => route.hops.iter().find(|hop| hop.gateway.is_none()).map(|hop| hop.device),
        };
        let up = |device: &u32| self.links.get(device).is_some_and(|link| link.up && !link.loopback);
        let family = within.family();
        let inside = self.ways.children(&within).filter(move |(prefix, _)| prefix.family() == family);
        let links = inside.flat_map(move |(prefix, ways)| {
            ways.iter().filter_map(device).map(|device| (prefix, device)).collect::<SmallVec<[_; 1]>>()
        });
        links.filter(move |(_, device)| up(device))
    }

    /// Whether packets can leave by a device.
    pub(super) fn usable(&self, device: u32) -> bool {
        self.links.get(&device).is_some_and(|link| link.up && link.carrier)
    }

    /// Whether the kernel drops a route over these hops for that cause.
    pub(super) fn flushes(&self, cause: Flush, family: Family, hops: &[Hop]) -> bool {
        let down = |device: u32| !self.links.get(&device).is_some_and(|link| link.up);
        match cause {
            Flush::Gone(device) => hops.iter().any(|hop| hop.device == device),
            Flush::Addressless(_) if family != Family::Ipv4 => false,
            Flush::Down(device) | Flush::Addressless(device) => {
                hops.iter().any(|hop| hop.device == device)
                    && hops.iter().all(|hop| hop.device == device || down(hop.device))
            }
        }
    }

    /// The foreign route that has this prefix in a table with a metric: the kernel lets only one
    /// of these be made.
    pub(super) fn rival(&self, prefix: Prefix, table: u32, metric: u32) -> Option<u8> {
        self.foreign_at(prefix).find(|route| (route.table, route.metric) == (table, metric)).map(|route| route.protocol)
    }

    /// The foreign routes of a prefix.
    pub(super) fn foreign_at(&self, prefix: Prefix) -> impl Iterator<Item = &ForeignRoute> {
        self.ways.get(&prefix).into_iter().flatten().filter_map(|way| match way {
            Way::Foreign(route) => Some(route),
            Way::Connected { .. } => None,
        })
    }

    /// All foreign routes, by prefix.
    pub(super) fn foreign(&self) -> impl Iterator<Item = &ForeignRoute> {
        self.ways.values().flatten().filter_map(|way| match way {
            Way::Foreign(route) => Some(route),
            Way::Connected { .. } => None,
        })
    }

    /// Where the kernel would send a packet to `addr` without our routes and without our tunnel
    /// device. The longest match decides, also when its links are down: a next hop whose own link
    /// has failed must not be looked for by way of the management network's default route.
    pub(super) fn ground(&self, addr: IpAddr, tunnel: Option<u32>) -> Ground {
        if self.addresses.range((addr, 0)..=(addr, u32::MAX)).next().is_some() {
            return Ground::Local;
        }
        let host = Prefix::host(addr);
        // Shortest first; `::/0` covers IPv4 too in a trie that both families share.
        let covers: SmallVec<[_; 8]> =
            self.ways.cover(&host).filter(|(prefix, _)| prefix.family() == host.family()).collect();
        covers
            .iter()
            .rev()
            .find_map(|(prefix, ways)| self.best(*prefix, ways, tunnel))
            .unwrap_or(Ground::Nowhere { reason: Reason::NoRoute, through: None })
    }

    /// The best of the ways to one prefix; `None` if all of them are the tunnel's.
    fn best(&self, through: Prefix, ways: &[Way], tunnel: Option<u32>) -> Option<Ground> {
        let mut ranked: SmallVec<[&Way; 2]> = ways.iter().collect();
        ranked.sort_by_key(|way| way.rank());
        let mut failed = None;
        for way in ranked {
            let reason = match self.follow(through, way, tunnel) {
                Err(None) => continue,
                Err(Some(reason)) => reason,
                Ok(ground) => return Some(ground),
            };
            failed.get_or_insert(Ground::Nowhere { reason, through: Some(through) });
        }
        failed
    }

    /// Where one way leads, or why nowhere; `Err(None)` if it is the tunnel's.
    fn follow(&self, through: Prefix, way: &Way, tunnel: Option<u32>) -> Result<Ground, Option<Reason>> {
        let route = match way {
            Way::Connected { device } if Some(*device) == tunnel => return Err(None),
            Way::Connected { device } => {
                let link = self.links.get(device);
                return match link {
                    Some(link) if link.loopback => Ok(Ground::Local),
                    Some(link) if link.up && link.carrier => Ok(Ground::OnLink { device: *device, through }),
                    _ => Err(Some(Reason::LinkDown(*device))),
                };
            }
            Way::Foreign(route) => route,
        };
        if route.kind == RouteKind::Reject {
            return Err(Some(Reason::Rejected(through)));
        }
        let hops: SmallVec<[&Hop; 2]> = route.hops.iter().filter(|hop| Some(hop.device) != tunnel).collect();
        let usable: Vec<Hop> = hops.iter().filter(|hop| self.live(hop)).map(|hop| **hop).collect();
        match (usable.first(), hops.first()) {
            (Some(Hop { gateway: None, device, .. }), _) => Ok(Ground::OnLink { device: *device, through }),
            (Some(_), _) => {
                let gateways = usable.into_iter().filter(|hop| hop.gateway.is_some());
                let hops = gateways.map(|hop| Hop { tunnel: false, ..hop }).collect();
                Ok(Ground::Behind { hops, through })
            }
            (None, Some(hop)) if self.usable(hop.device) => Err(Some(Reason::NoRoute)),
            (None, Some(hop)) => Err(Some(Reason::LinkDown(hop.device))),
            (None, None) => Err(None),
        }
    }

    /// Whether the kernel would take a hop of a foreign route for one of ours: when a device loses
    /// an address, routes with another hop stay, and keep a gateway that can't be reached.
    fn live(&self, hop: &Hop) -> bool {
        let gateway_on_link = || match hop.gateway {
            None => true,
            Some(IpAddr::V6(gateway)) if gateway.is_unicast_link_local() => true,
            Some(gateway) => {
                let ways = self.ways.cover(&Prefix::host(gateway)).flat_map(|(_, ways)| ways);
                ways.into_iter().any(|way| way.is_on_link(hop.device))
            }
        };
        self.usable(hop.device) && (hop.onlink || gateway_on_link())
    }

    // A flush is drawn from each such event, also where nothing seems to change: the link or address may be
    // known from a dump already, while news of a route that is older than both is still to come.

    fn set_link(&mut self, link: Link) -> (Affected, Option<Flush>) {
        let device = link.index;
        let now = (link.up, link.carrier, link.loopback);
        let before = self.links.insert(device, link).map(|link| (link.up, link.carrier, link.loopback));
        let flush = (!now.0).then_some(Flush::Down(device));
        let dropped = self.flush(flush);
        (if before == Some(now) && !dropped { Affected::Nothing } else { Affected::All }, flush)
    }

    fn remove_link(&mut self, device: u32) -> (Affected, Option<Flush>) {
        self.links.remove(&device);
        let lost: Vec<_> = self.addresses.iter().filter(|((_, on), _)| *on == device).map(|(k, v)| (*k, *v)).collect();
        for ((addr, device), prefix) in lost {
            self.disconnect(Address { device, addr, prefix });
        }
        let flush = Some(Flush::Gone(device));
        self.flush(flush);
        (Affected::All, flush)
    }

    fn set_address(&mut self, address: Address) -> Affected {
        let Address { device, addr, prefix } = address;
        match self.addresses.get(&(addr, device)) {
            Some(known) if *known == prefix => return Affected::Nothing,
            Some(known) => self.disconnect(Address { device, addr, prefix: *known }),
            None => {}
        }
        self.addresses.insert((addr, device), prefix);
        let ways = self.ways.entry(prefix).or_default();
        if !ways.iter().any(|way| matches!(way, Way::Connected { device: on } if *on == device)) {
            ways.push(Way::Connected { device });
        }
        // The address itself may lie outside the prefix (point-to-point), and another prefix may
        // have gone with the same address: all next hops are asked again, addresses change rarely.
        Affected::All
    }

    fn remove_address(&mut self, address: Address) -> (Affected, Option<Flush>) {
        self.disconnect(address);
        let device = address.device;
        let last = address.addr.is_ipv4() && !self.addresses.keys().any(|(addr, on)| *on == device && addr.is_ipv4());
        let flush = last.then_some(Flush::Addressless(device));
        self.flush(flush);
        (Affected::All, flush)
    }

    /// Takes an address away, and what was connected by it alone.
    fn disconnect(&mut self, address: Address) {
        let Some(prefix) = self.addresses.remove(&(address.addr, address.device)) else { return };
        let shared = self.addresses.iter().any(|((_, device), other)| *device == address.device && *other == prefix);
        if !shared {
            self.retain_ways(prefix, |way| !matches!(way, Way::Connected { device } if *device == address.device));
        }
    }

    fn set_route(&mut self, mut route: ForeignRoute) -> Affected {
        route.hops.sort_unstable();
        let prefix = route.prefix;
        let affected = affected_by(&route);
        let ways = self.ways.entry(prefix).or_default();
        let known = ways.iter_mut().find_map(|way| match way {
            Way::Foreign(known) if same_route(known, &route) => Some(known),
            _ => None,
        });
        match known {
            Some(known) if *known == route => return Affected::Nothing,
            Some(known) => *known = route,
            None => ways.push(Way::Foreign(route)),
        }
        affected
    }

    fn remove_route(&mut self, gone: &ForeignRoute) -> Affected {
        let mut affected = Affected::Nothing;
        self.retain_ways(gone.prefix, |way| {
            let Way::Foreign(route) = way else { return true };
            if !same_route(route, gone) {
                return true;
            }
            affected = affected_by(route);
            // IPv6 reports the hops of a multipath route one by one; hops that it doesn't have are
            // those of a route appended beside it.
            route.hops.retain(|hop| !gone.hops.iter().any(|other| same_hop(hop, other)));
            !gone.hops.is_empty() && !route.hops.is_empty()
        });
        affected
    }

    /// Drops the foreign routes that the kernel drops; returns whether there were any.
    fn flush(&mut self, cause: Option<Flush>) -> bool {
        let Some(cause) = cause else { return false };
        let doomed: Vec<ForeignRoute> =
            self.foreign().filter(|route| self.flushes(cause, route.prefix.family(), &route.hops)).cloned().collect();
        for route in &doomed {
            self.guessed |= route.hops.iter().any(|hop| route.hops.first().is_some_and(|one| one.device != hop.device));
            self.remove_route(route);
        }
        !doomed.is_empty()
    }

    fn retain_ways(&mut self, prefix: Prefix, keep: impl FnMut(&mut Way) -> bool) {
        if let Some(ways) = self.ways.get_mut(&prefix) {
            ways.retain(keep);
            if ways.is_empty() {
                self.ways.remove(&prefix);
            }
        }
    }
}

/// A device route may make the gateway of any other reachable.
fn affected_by(route: &ForeignRoute) -> Affected {
    if has_link_hop(route, None) { Affected::All } else { Affected::Prefix(route.prefix) }
}

/// What makes two messages speak of one route. Routes that differ by their hops only
/// (`ip route append`) count as one; the dump at the next resynchronisation tells.
fn same_route(a: &ForeignRoute, b: &ForeignRoute) -> bool {
    (a.table, a.metric, a.protocol) == (b.table, b.metric, b.protocol)
}

/// Flags aside, which messages of different kinds fill in differently.
pub(super) fn same_hop(a: &Hop, b: &Hop) -> bool {
    (a.gateway, a.device) == (b.gateway, b.device)
}
