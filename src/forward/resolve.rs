//! One next hop to hops: the kernel's own ways first, then routes of ours, then the tunnel.
//!
//! A pure function of the topology, the settings and the wanted routes: it never looks at how
//! another next hop was resolved, so there is no order to get wrong and nothing to iterate to. The
//! price is a rule: of a route of ours only those next hops lead further that are on-link by the
//! kernel's own routes. A recursive route is never resolved through another one, nor is a route
//! through itself.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::encap::{self, Encap};
use super::topology::{Ground, Topology};
use super::{Hop, NextHop, Settings, TunnelMode};
use crate::net::{Family, Prefix};

/// Why a next hop is out of reach.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// No route leads to it
    NoRoute,
    /// The device it is reached over is down, has no carrier or is gone
    LinkDown(u32),
    /// The longest match drops packets
    Rejected(Prefix),
    /// It is an address of this host
    OwnAddress,
    /// IPv6 link-local, and nobody said on which device
    NoScope,
    /// It needs a tunnel and there is no tunnel device
    NoTunnel,
    /// The way to it leads through the very route that goes over it
    ThroughItself(Prefix),
    /// The far end of the tunnel would itself be reached through a route of ours that is
    /// tunnelled, or that lies in the pools
    TunnelInTunnel(Prefix),
}

/// Which route leads to a next hop.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Through {
    /// A connected or foreign route of the kernel
    Kernel(Prefix),
    /// A route that BGP chose
    Ours(Prefix),
}

/// How a next hop is reached, or why it isn't.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resolution {
    /// The next hop
    pub next_hop: NextHop,
    /// How packets are to travel
    pub encap: Encap,
    /// A tunnel was called for, but there are none for IPv6: it is reached without
    pub untunnelled: bool,
    /// The route that leads to it (to the far end of the tunnel)
    pub through: Option<Through>,
    /// The hops, or why there are none
    pub outcome: Result<Vec<Hop>, Reason>,
}

impl Resolution {
    /// For the decision of RFC 4271 §9.1.2: 0 on-link, 1 behind something, `None` out of reach.
    pub fn distance(&self) -> Option<u32> {
        self.outcome.is_ok().then_some(u32::from(self.encap != Encap::Direct))
    }

    /// Its hops, none if it is out of reach.
    pub fn hops(&self) -> &[Hop] {
        self.outcome.as_deref().unwrap_or(&[])
    }

    /// In words, with devices by name.
    pub fn words(&self, device: &dyn Fn(u32) -> String) -> String {
        let through = match self.through {
            Some(Through::Kernel(prefix)) => format!(" by the kernel's route {prefix}"),
            Some(Through::Ours(prefix)) => format!(" by our route {prefix}"),
            None => String::new(),
        };
        let addr = self.next_hop.addr;
        let mut text = match (&self.outcome, self.encap) {
            (Err(reason), _) => return format!("{addr} is out of reach: {}", reason.words(device)),
            (Ok(hops), Encap::Direct) => {
                let device = hops.first().map_or_else(String::new, |hop| device(hop.device));
                format!("{addr} is on-link on {device}")
            }
            (Ok(_), Encap::IpIp) => format!("{addr} ends tunnels: IP-in-IP; it is reached"),
            (Ok(hops), Encap::Recursive) => {
                let hops: Vec<String> = hops
                    .iter()
                    .map(|hop| match hop.gateway {
                        Some(gateway) => format!("{gateway} on {}", device(hop.device)),
                        None => device(hop.device),
                    })
                    .collect();
                format!("{addr} is behind {}", hops.join(", "))
            }
        };
        text += &through;
        if self.untunnelled {
            text += "; it ends tunnels, but IPv6 is not tunnelled";
        }
        text
    }
}

impl Reason {
    /// In words, with devices by name.
    pub fn words(self, device: &dyn Fn(u32) -> String) -> String {
        match self {
            Self::LinkDown(index) => format!("{} is down or has no carrier", device(index)),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("no route leads to it"),
            Self::LinkDown(index) => write!(f, "device {index} is down or has no carrier"),
            Self::Rejected(prefix) => write!(f, "{prefix} drops packets to it"),
            Self::OwnAddress => f.write_str("it is an address of this host"),
            Self::NoScope => f.write_str("it is link-local and its device is not known"),
            Self::NoTunnel => f.write_str("it needs an IP-in-IP tunnel and there is no ipip device"),
            Self::ThroughItself(prefix) => write!(f, "the only way to it is {prefix}, which goes over it"),
            Self::TunnelInTunnel(prefix) => {
                write!(f, "the far end of the tunnel lies in {prefix}, which is tunnelled itself or a container subnet")
            }
        }
    }
}

/// What BGP chose for a prefix.
#[derive(Clone, Debug)]
pub(super) enum Chosen {
    /// These next hops
    Via(Arc<[NextHop]>),
    /// To drop it
    Blackhole,
}

/// What a route of ours is worth to a next hop inside it.
#[derive(Debug, Default)]
struct OwnRoute {
    /// Some next hop of it is to be reached by tunnel
    tunnels: bool,
    /// Its hops that are on-link by the kernel's own routes
    direct: Vec<Hop>,
}

/// What resolution rests on.
pub(super) struct Context<'a> {
    pub topology: &'a Topology,
    pub settings: &'a Settings,
    /// The choice for exactly this prefix
    pub chosen: &'a dyn Fn(Prefix) -> Option<Chosen>,
}

impl Context<'_> {
    /// How to reach a next hop for a route to `of`, which cannot lead to it.
    pub(super) fn resolve(&self, next_hop: NextHop, of: Option<Prefix>) -> Resolution {
        let (ground, planned) = self.plan(next_hop);
        let on_link = matches!(ground, Ground::OnLink { .. });
        // Only IPv4 is tunnelled so far; the rest travels as it would without tunnels.
        let untunnelled = planned == Encap::IpIp && !next_hop.addr.is_ipv4();
        let encap = if untunnelled { encap::choose(TunnelMode::Never, on_link, false) } else { planned };
        let (through, outcome) = match (ground, encap) {
            (Ground::Local, _) => (None, Err(Reason::OwnAddress)),
            (ground, Encap::IpIp) => self.tunnel(next_hop.addr, &ground, of),
            (Ground::OnLink { device, through }, _) => {
                (Some(Through::Kernel(through)), Ok(vec![Hop::direct(next_hop.addr, device)]))
            }
            (ground, _) => self.recurse(next_hop.addr, ground, of),
        };
        Resolution { next_hop, encap, untunnelled, through, outcome }
    }

    /// What a route of ours over these next hops is worth to others.
    fn own_route(&self, members: &[NextHop]) -> OwnRoute {
        let mut own = OwnRoute::default();
        for next_hop in members {
            match self.plan(*next_hop) {
                (Ground::OnLink { device, .. }, Encap::Direct) => {
                    own.direct.push(Hop::direct(next_hop.addr, device));
                }
                (_, Encap::IpIp) if next_hop.addr.is_ipv4() => own.tunnels = true,
                _ => {}
            }
        }
        own
    }

    /// Where the kernel's own routes lead, and so how packets are to travel.
    fn plan(&self, next_hop: NextHop) -> (Ground, Encap) {
        let NextHop { addr, scope, ends_tunnel } = next_hop;
        let ground = match addr {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                let through = Prefix::new(addr, 10);
                let reason = match scope {
                    0 => Some(Reason::NoScope),
                    device if self.topology.usable(device) => None,
                    device => Some(Reason::LinkDown(device)),
                };
                return match reason {
                    // RFC 4291 §2.5.6: valid on its link alone, so nothing else is looked for.
                    Some(reason) => (Ground::Nowhere { reason, through: Some(Prefix::host(addr)) }, Encap::Direct),
                    None => (Ground::OnLink { device: scope, through }, Encap::Direct),
                };
            }
            _ => self.topology.ground(addr, self.settings.tunnel_device),
        };
        let ends_tunnel = ends_tunnel || self.settings.tunnel_endpoints.iter().any(|prefix| prefix.contains(addr));
        let on_link = matches!(ground, Ground::OnLink { .. });
        let encap = encap::choose(self.settings.tunnel, on_link, ends_tunnel);
        (ground, encap)
    }

    /// To the gateway that leads towards it: the longest match of the kernel's own routes and
    /// those of ours that can lead somewhere.
    fn recurse(&self, addr: IpAddr, ground: Ground, of: Option<Prefix>) -> (Option<Through>, Result<Vec<Hop>, Reason>) {
        let mut itself = None;
        for prefix in longer_matches(addr, &ground) {
            if Some(prefix) == of {
                itself = of;
                continue;
            }
            let own = match (self.chosen)(prefix) {
                None => continue,
                Some(Chosen::Blackhole) => return (Some(Through::Ours(prefix)), Err(Reason::Rejected(prefix))),
                Some(Chosen::Via(members)) => self.own_route(&members),
            };
            if !own.direct.is_empty() {
                return (Some(Through::Ours(prefix)), Ok(own.direct));
            }
        }
        match ground {
            Ground::Behind { hops, through } => (Some(Through::Kernel(through)), Ok(hops)),
            Ground::Nowhere { reason, through } => {
                let reason = match itself {
                    Some(prefix) if reason == Reason::NoRoute => Reason::ThroughItself(prefix),
                    _ => reason,
                };
                (through.map(Through::Kernel), Err(reason))
            }
            Ground::Local | Ground::OnLink { .. } => (None, Err(Reason::OwnAddress)),
        }
    }

    /// Through our tunnel device. The kernel looks the far end up itself, packet by packet, so the
    /// longest match of ours must not be one that puts the packet into a tunnel again.
    fn tunnel(&self, end: IpAddr, ground: &Ground, of: Option<Prefix>) -> (Option<Through>, Result<Vec<Hop>, Reason>) {
        let mut through = match ground {
            Ground::Nowhere { .. } => None,
            ground => ground.through().map(Through::Kernel),
        };
        for prefix in longer_matches(end, ground) {
            if Some(prefix) == of {
                return (Some(Through::Ours(prefix)), Err(Reason::ThroughItself(prefix)));
            }
            let own = match (self.chosen)(prefix) {
                None => continue,
                Some(Chosen::Blackhole) => return (Some(Through::Ours(prefix)), Err(Reason::Rejected(prefix))),
                Some(Chosen::Via(members)) => self.own_route(&members),
            };
            if own.tunnels || self.settings.pools.iter().any(|pool| pool.covers(&prefix)) {
                return (Some(Through::Ours(prefix)), Err(Reason::TunnelInTunnel(prefix)));
            }
            if !own.direct.is_empty() {
                through = Some(Through::Ours(prefix));
                break;
            }
        }
        if let (Ground::Nowhere { reason, .. }, None) = (ground, through) {
            return (None, Err(*reason));
        }
        let outcome = match self.settings.tunnel_device {
            None => Err(Reason::NoTunnel),
            Some(device) => match self.topology.link(device) {
                None => Err(Reason::NoTunnel),
                Some(link) if !link.up => Err(Reason::LinkDown(device)),
                Some(_) => Ok(vec![Hop::tunnel(end, device)]),
            },
        };
        (through, outcome)
    }
}

/// The prefixes that hold `addr` and are longer than what the kernel's own routes match, longest
/// first: the kernel prefers a route of ours to one of them.
fn longer_matches(addr: IpAddr, ground: &Ground) -> impl Iterator<Item = Prefix> + use<> {
    let shortest = ground.through().map_or(0, |through| through.len() + 1);
    (shortest..=Family::of(addr).bits()).rev().map(move |len| Prefix::new(addr, len))
}
