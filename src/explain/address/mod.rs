//! Why traffic to an address goes where it goes.

mod around;
mod lookups;
#[cfg(test)]
mod tests;
mod wanted;

use std::net::IpAddr;

use super::kernel::{Answer, Devices, Fate, Neighbour, Object, Reachability, Rule};
use super::{Fact, Story};
use crate::firewall::SourceNat;
use crate::net::Prefix;

/// Octets that an IP-in-IP header adds (RFC 2003 §3.1).
const TUNNEL_OVERHEAD: u32 = 20;

/// What an address is to this node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sort {
    /// `0.0.0.0` or `::`
    Unspecified,
    /// Of every host itself
    Loopback,
    /// A group, not a host
    Multicast,
    /// All hosts of a link
    Broadcast,
    /// Means something on one link only
    LinkLocal,
    /// Of this host, on this device
    Own(u32),
    /// In a subnet of this node
    Subnet(Prefix),
    /// In a prefix that BGP knows
    Known(Prefix),
    /// In a pool, in no prefix that BGP knows
    Pool(Prefix),
    /// Of the world outside the pools
    Outside,
}

/// What an address is to this node. `known`: the longest prefix of the RIB that covers it.
pub fn sort(addr: IpAddr, devices: &Devices, subnets: &[Prefix], pools: &[Prefix], known: Option<Prefix>) -> Sort {
    let within = |prefixes: &[Prefix]| prefixes.iter().copied().find(|prefix| prefix.contains(addr));
    let own = devices.addresses().find(|(_, own, _)| *own == addr).map(|(device, ..)| device);
    let link_local = match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    };
    match own {
        Some(device) => Sort::Own(device),
        None if addr.is_unspecified() => Sort::Unspecified,
        None if addr.is_loopback() => Sort::Loopback,
        None if addr.is_multicast() => Sort::Multicast,
        None if matches!(addr, IpAddr::V4(addr) if addr.is_broadcast()) => Sort::Broadcast,
        None if link_local => Sort::LinkLocal,
        None => match (within(subnets), known, within(pools)) {
            // A route to a part of a subnet of ours, such as an anycast address, is longer and counts.
            (Some(subnet), known, _) if known.is_none_or(|known| known.len() <= subnet.len()) => Sort::Subnet(subnet),
            (_, Some(known), _) => Sort::Known(known),
            (_, None, Some(pool)) => Sort::Pool(pool),
            _ => Sort::Outside,
        },
    }
}

/// The node of the store that holds the address's subnet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Its name, or who else
    pub node: String,
    /// The subnet
    pub subnet: Prefix,
    /// `held`, `dead`, `reserved` or `foreign`
    pub state: String,
    /// It is this node
    pub this: bool,
}

/// One way that is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    /// Neighbour or tunnel end; none: the destination itself is on the link
    pub gateway: Option<IpAddr>,
    /// Device
    pub device: u32,
    /// IP-in-IP
    pub tunnel: bool,
}

impl Way {
    fn is(&self, answer: &Answer) -> bool {
        Some(self.device) == answer.device && (self.gateway.is_none() || self.gateway == answer.gateway)
    }
}

/// What BGP and the forwarder say of the prefix.
#[expect(clippy::struct_excessive_bools, reason = "each holds or not, whatever the others do")]
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Routing {
    /// Who told of the best path; none: no path can be used
    pub from: Option<String>,
    /// This node announces it
    pub local: bool,
    /// `direct`, `tunnel`, `recursive` or `unreachable`: how the best path's next hop is reached
    pub how: String,
    /// Why no path can be used
    pub unusable: Option<String>,
    /// The next hop of the best path, or of the one that came farthest
    pub next_hop: Option<IpAddr>,
    /// Routes are written to the kernel at all
    pub install: bool,
    /// What should be in the kernel, in words
    pub wanted: Option<String>,
    /// What is there of ours, in words
    pub installed: Option<String>,
    /// The two are the same
    pub as_wanted: bool,
    /// The ways that are wanted; none for a blackhole
    pub ways: Vec<Way>,
    /// The kernel's words, if it refused the route
    pub refusal: Option<String>,
    /// Who keeps changing it
    pub duel: Option<String>,
    /// The first routes are still being learned: nothing is written yet
    pub waiting: bool,
    /// The longest route of others that drops packets to it: prefix, protocol, metric
    pub rejecting: Option<(Prefix, u8, u32)>,
}

/// How traffic of a container begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Container {
    /// An address of our subnet
    pub source: IpAddr,
    /// The device its packets come in by
    pub device: u32,
    /// What becomes of them
    pub answer: Answer,
}

/// Whether an answer from the address would be let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Return {
    /// The device it comes in by
    pub device: u32,
    /// Reverse path filter in force: 0 off, 1 strict, 2 loose
    pub filter: u8,
    /// The kernel lets it in
    pub accepted: bool,
}

/// How the parts of the firewall are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Firewall {
    /// Why our table is not in force though it should be
    pub table: Option<String>,
    /// The tools that show our rule in `DOCKER-USER`; none: Docker isn't here
    pub docker: Vec<String>,
    /// Why that rule could not be set
    pub docker_error: Option<String>,
    /// What has to be typed for firewalld to let our traffic through
    pub firewalld: Vec<String>,
    /// IP-in-IP is taken from so many known ends only, and so many packets of others were refused
    pub guard: Option<(usize, u64)>,
}

/// Packets to and from a remote node since they were first counted: direct, and through the tunnel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Its name, or the next hop's address
    pub node: String,
    /// To it
    pub sent: [u64; 2],
    /// From it
    pub received: [u64; 2],
}

/// All that was found out.
#[derive(Clone, Debug)]
pub struct Found {
    /// The address
    pub address: IpAddr,
    /// What it is
    pub sort: Sort,
    /// It lies in a pool or in a subnet of this node, so that what others' firewalls do to containers' traffic
    /// concerns it
    pub inside: bool,
    /// Protocol number of our routes
    pub protocol: u8,
    /// The table that they are written to
    pub table: u32,
    /// Who holds it by the store
    pub holder: Option<Holder>,
    /// What is wanted
    pub routing: Routing,
    /// What the kernel does with traffic of this host
    pub local: Answer,
    /// What it does with a container's; none: no device holds a subnet of ours
    pub container: Option<Container>,
    /// The way of the outer packets, where there is a tunnel
    pub underlay: Option<(IpAddr, Answer)>,
    /// All devices
    pub devices: Devices,
    /// All policy rules of the family
    pub rules: Vec<Rule>,
    /// Whether answers are let in
    pub returns: Vec<Return>,
    /// Neighbours on the way
    pub neighbours: Vec<Neighbour>,
    /// The nexthop object of the route and its members, as they are in the kernel
    pub objects: Vec<Object>,
    /// What becomes of a container's source address
    pub source_nat: SourceNat,
    /// What else the firewall does
    pub firewall: Firewall,
    /// What was counted to and from its node
    pub traffic: Option<Traffic>,
}

/// Gathers facts; the first problem makes the verdict.
struct Teller {
    facts: Vec<Fact>,
    advice: Vec<String>,
    trouble: Option<(&'static str, String)>,
}

impl Teller {
    fn plain(&mut self, topic: &'static str, text: impl Into<String>) {
        self.facts.push(Fact::plain(topic, text));
    }

    fn problem<const N: usize>(&mut self, topic: &'static str, cause: &'static str, text: String, advice: [String; N]) {
        self.trouble.get_or_insert_with(|| (cause, text.clone()));
        self.facts.push(Fact::problem(topic, text));
        self.advice.extend(advice.into_iter().filter(|advice| !self.advice.contains(advice)).collect::<Vec<_>>());
    }
}

/// Tells it.
pub fn story(found: &Found) -> Story {
    let mut teller = Teller { facts: Vec::new(), advice: Vec::new(), trouble: None };
    let special = found.special();
    if special.is_none() {
        found.holder(&mut teller);
        found.wanted(&mut teller);
        found.objects(&mut teller);
        found.kernel(&mut teller);
        found.forwarded(&mut teller);
        found.rules(&mut teller);
        found.vrf(&mut teller);
        found.returns(&mut teller);
        found.neighbours(&mut teller);
        found.mtu(&mut teller);
        found.firewall(&mut teller);
        found.traffic(&mut teller);
    } else {
        teller.plain("kernel", found.local.words(&found.devices, found.protocol));
    }
    let Teller { facts, advice, trouble } = teller;
    let address = found.address;
    match (special, trouble) {
        (Some(what), _) => {
            Story { cause: "special", verdict: format!("{address} is {what}."), ok: true, facts, advice }
        }
        (None, None) => {
            let (cause, end) = found.fine();
            Story { cause, verdict: format!("{address} {end}."), ok: true, facts, advice }
        }
        (None, Some((cause, text))) => {
            Story { cause, verdict: format!("{address} {}: {text}.", found.place()), ok: false, facts, advice }
        }
    }
}

impl Found {
    /// What it is, if no route decides.
    fn special(&self) -> Option<String> {
        Some(match self.sort {
            Sort::Own(device) => format!("an address of this host, on {}", self.devices.name(device)),
            Sort::Unspecified => "no host's address: it stands for \"any\"".to_owned(),
            Sort::Loopback => "a loopback address: it never leaves the host it is used on".to_owned(),
            Sort::Multicast => "a multicast group: unicast routes, and so BGP, have no say in it".to_owned(),
            Sort::Broadcast => "the broadcast address of a link: no router passes it on".to_owned(),
            Sort::LinkLocal => {
                "a link-local address: it means something on one link only, and no router passes it on".to_owned()
            }
            _ => return None,
        })
    }

    /// Where it is.
    fn place(&self) -> String {
        match (self.sort, &self.holder, &self.routing.from) {
            (Sort::Subnet(subnet), ..) => format!("is in this node's subnet {subnet}"),
            (_, Some(holder), _) if !holder.this && holder.state != "foreign" => {
                format!("is on {} ({})", holder.node, holder.subnet)
            }
            (Sort::Known(prefix), _, Some(from)) if self.routing.local => {
                format!("is in {prefix}, which this node announces ({from})")
            }
            (Sort::Known(prefix), _, Some(from)) => format!("is in {prefix}, which {from} announces"),
            (Sort::Known(prefix), ..) => format!("is in {prefix}"),
            (Sort::Pool(pool), ..) => format!("is in the pool {pool}"),
            _ => "is outside the pools".to_owned(),
        }
    }

    /// It is on the link of many, and nothing shows that somebody has it.
    fn is_unproven(&self) -> bool {
        let many = self.local.route.is_some_and(|route| route.prefix.len() < route.prefix.family().bits());
        many && self.neighbours.iter().any(|neighbour| neighbour.state == Reachability::None)
    }

    /// The cause and the end of the verdict where nothing is wrong.
    fn fine(&self) -> (&'static str, String) {
        let place = self.place();
        let way = self.local.way(&self.devices);
        match self.sort {
            Sort::Subnet(_) => match self.local.fate {
                Fate::Sent if self.is_unproven() => {
                    let end = "a container's if one has it; nothing was sent to it lately";
                    ("container", format!("{place}: {way}, {end}"))
                }
                Fate::Sent => ("container", format!("{place}: a container's, {way}")),
                _ => ("no-container", format!("{place}, and no container has it: dropped, as wanted")),
            },
            Sort::Known(_) if self.routing.local => ("announced", format!("{place}: {way}")),
            Sort::Known(_) if !self.routing.install => (
                "not-installed",
                format!("{place}: {way}; routes are not written to the kernel (kernel.install = false)"),
            ),
            Sort::Known(_) => {
                let ways = match self.routing.ways.len() {
                    0 | 1 => way,
                    several => format!("by {several} ways at once (ECMP), such as {way}"),
                };
                ("as-wanted", format!("{place}: {} {ways}, as wanted", self.routing.how))
            }
            _ => {
                let nat = match self.source_nat {
                    SourceNat::Masqueraded => "; container traffic is masqueraded",
                    SourceNat::Kept | SourceNat::Untouched => "",
                };
                let route = match self.local.route {
                    Some(route) if route.prefix.len() == 0 => " by the default route",
                    _ => "",
                };
                ("outside", format!("{place}: {way}{route}{nat}"))
            }
        }
    }
}
