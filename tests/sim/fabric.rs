//! The wires: ports on LANs, what is wrong with them, and where a packet ends up.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::kernel::{TUNNEL, Way};
use super::node::Node;

/// A node's place on a LAN. Whether it is up and has a carrier is its kernel's to say.
#[derive(Clone, Debug)]
pub struct Port {
    pub node: usize,
    pub device: u32,
    pub lan: usize,
    pub addresses: Vec<IpAddr>,
    /// Drops what it should send, and what it should receive, without a word
    pub mute: bool,
    pub deaf: bool,
    /// Loses every third packet
    pub lossy: bool,
}

/// All ports, and which pairs of them don't hear each other.
#[derive(Clone, Debug, Default)]
pub struct Fabric {
    pub ports: Vec<Port>,
    pub cuts: BTreeSet<(usize, usize)>,
}

/// Where a packet ends up.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Fate {
    /// At a node; whether a port on the way is lossy
    At(usize, bool),
    Lost(String),
}

impl Fabric {
    /// What becomes of a packet to `dst` that `from` sends, over every way that it may take.
    pub fn fates(&self, nodes: &[Node], from: usize, dst: IpAddr) -> BTreeSet<Fate> {
        let mut fates = BTreeSet::new();
        self.follow(nodes, from, &mut vec![dst], false, 32, &mut fates);
        fates
    }

    /// Whether a packet arrives, if it takes the first way; whether that is lossy.
    pub fn reaches(&self, nodes: &[Node], from: usize, dst: IpAddr) -> Option<bool> {
        match self.fates(nodes, from, dst).pop_first() {
            Some(Fate::At(_, lossy)) => Some(lossy),
            _ => None,
        }
    }

    /// `packet`: destinations, the outermost last.
    fn follow(
        &self,
        nodes: &[Node],
        at: usize,
        packet: &mut Vec<IpAddr>,
        lossy: bool,
        ttl: u32,
        fates: &mut BTreeSet<Fate>,
    ) {
        let dst = *packet.last().expect("a destination");
        let here = &nodes[at];
        let lost = |why: &str| Fate::Lost(format!("{dst} at {}: {why}", here.name));
        if ttl == 0 {
            fates.insert(lost("goes round in circles"));
            return;
        }
        let (device, gateways) = match here.kernel.lookup(dst) {
            Way::Local if packet.len() > 1 => {
                packet.pop();
                self.follow(nodes, at, packet, lossy, ttl - 1, fates);
                packet.push(dst);
                return;
            }
            Way::Local => {
                fates.insert(Fate::At(at, lossy));
                return;
            }
            // Our own subnet: what has a container would have a route of its own.
            Way::Drop if here.config.subnets.iter().any(|subnet| subnet.contains(dst)) => {
                fates.insert(Fate::At(at, lossy));
                return;
            }
            Way::Drop => {
                fates.insert(lost("is dropped"));
                return;
            }
            Way::Nowhere => {
                fates.insert(lost("has no route"));
                return;
            }
            Way::Link(device) => (device, vec![(device, dst)]),
            Way::Via(hops) => (0, hops.iter().map(|hop| (hop.device, hop.gateway.unwrap_or(dst))).collect()),
        };
        if device == TUNNEL {
            fates.insert(lost("is on-link on the tunnel"));
            return;
        }
        for (device, gateway) in gateways {
            if device == TUNNEL {
                packet.push(gateway);
                self.follow(nodes, at, packet, lossy, ttl - 1, fates);
                packet.pop();
                continue;
            }
            match self.cross(nodes, at, device, gateway) {
                Ok((next, more)) => self.follow(nodes, next, packet, lossy | more, ttl - 1, fates),
                Err(why) => {
                    fates.insert(lost(&format!("to {gateway}: {why}")));
                }
            }
        }
    }

    /// Over one LAN.
    fn cross(&self, nodes: &[Node], at: usize, device: u32, to: IpAddr) -> Result<(usize, bool), &'static str> {
        let out = self.port(at, device).ok_or("no such device")?;
        let lan = self.ports[out].lan;
        let into = self
            .ports
            .iter()
            .position(|port| port.lan == lan && port.node != at && port.addresses.contains(&to))
            .ok_or("nobody on the LAN has it")?;
        let works = |port: &Port| nodes[port.node].kernel.works(port.device);
        let (from, into_port) = (&self.ports[out], &self.ports[into]);
        if !works(from) || !works(into_port) {
            return Err("a link is down");
        }
        if from.mute || into_port.deaf || self.cuts.contains(&(out.min(into), out.max(into))) {
            return Err("is lost on the wire");
        }
        Ok((into_port.node, from.lossy || into_port.lossy))
    }

    /// The same with wires that do what they should.
    pub fn without_faults(&self) -> Self {
        let whole = |port: &Port| Port { mute: false, deaf: false, lossy: false, ..port.clone() };
        Self { ports: self.ports.iter().map(whole).collect(), cuts: BTreeSet::new() }
    }

    pub fn port(&self, node: usize, device: u32) -> Option<usize> {
        self.ports.iter().position(|port| (port.node, port.device) == (node, device))
    }
}
