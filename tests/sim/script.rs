//! What goes wrong, and when: groups of acts drawn from the seed. A group can be left out without
//! changing the others, so that a failing run can be made smaller.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use wayleave::bgp::policy::ExportScope;
use wayleave::net::{Family, Prefix};

use super::node::{PeerConfig, Stage};
use super::topology::{Kind, Topology, pick, subnet};

#[derive(Clone, Debug)]
pub enum Act {
    Start(usize),
    Crash(usize),
    Stop { node: usize, graceful: bool },
    Link { port: usize, up: bool, carrier: bool },
    Mute { port: usize, send: bool, receive: bool },
    Lossy { port: usize, on: bool },
    Cut { ports: [usize; 2], on: bool },
    Reset(usize, usize),
    Latency(Duration),
    Peer { node: usize, peer: Box<PeerConfig>, there: bool },
    Subnet { node: usize, subnet: Prefix, there: bool },
    Tamper { node: usize, nth: usize },
    TamperNexthop { node: usize, nth: usize, delete: bool },
    Refuse { node: usize, count: u32 },
    Deaf { node: usize, on: bool },
    Drain { node: usize, stage: Stage },
    Objects { node: usize, on: bool },
}

/// Acts that belong together, each with its instant.
#[derive(Clone)]
pub struct Group(pub Vec<(Duration, Act)>);

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (at, act)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            match act {
                Act::Peer { node, peer, there } => {
                    write!(f, "{comma}{at:?} Peer of {node}: {} {there}", peer.remote)?;
                }
                act => write!(f, "{comma}{at:?} {act:?}")?,
            }
        }
        Ok(())
    }
}

/// Groups in a script.
pub const MOST: usize = 10;

/// The script of a network that lasts for `span`.
pub fn draw(rng: &mut SmallRng, topology: &Topology, span: Duration) -> Vec<Group> {
    let count = rng.random_range(0..=MOST);
    let mut drawn = Drawn { rng, topology, span, moved: BTreeSet::new(), fresh: 200 };
    (0..count).map(|_| drawn.group()).collect()
}

struct Drawn<'a> {
    rng: &'a mut SmallRng,
    topology: &'a Topology,
    span: Duration,
    /// Subnets that have been moved already, sessions that have been removed
    moved: BTreeSet<Prefix>,
    /// Number of the next new subnet
    fresh: u16,
}

impl Drawn<'_> {
    fn moment(&mut self) -> Duration {
        self.span.mul_f64(self.rng.random_range(0.0..1.0))
    }

    /// Begin and end of something: a blink, seconds, longer than the hold time, minutes.
    fn period(&mut self) -> (Duration, Duration) {
        let most = pick(self.rng, &[50, 800, 3000, 15_000, 40_000, 90_000]);
        let from = self.moment();
        let to = from + Duration::from_millis(most).mul_f64(self.rng.random_range(0.1..1.0));
        (from, to.min(self.span))
    }

    /// A node with a daemon.
    fn node(&mut self) -> usize {
        let speakers: Vec<usize> =
            (0..self.topology.nodes.len()).filter(|node| self.topology.nodes[*node].routes).collect();
        pick(self.rng, &speakers)
    }

    fn port(&mut self) -> usize {
        self.rng.random_range(0..self.topology.fabric.ports.len())
    }

    fn peer(&mut self, node: usize) -> PeerConfig {
        let peers: Vec<&PeerConfig> = self.topology.nodes[node].config.peers.values().collect();
        pick(self.rng, &peers).clone()
    }

    fn group(&mut self) -> Group {
        let (from, to) = self.period();
        let (node, port) = (self.node(), self.port());
        Group(match self.rng.random_range(0..19) {
            0 => vec![(from, Act::Crash(node)), (to, Act::Start(node))],
            1 => {
                let graceful = self.rng.random_ratio(2, 3);
                vec![(from, Act::Stop { node, graceful }), (to, Act::Start(node))]
            }
            2 => {
                let link = |up| Act::Link { port, up, carrier: true };
                vec![(from, link(false)), (to, link(true))]
            }
            3 => {
                // One end of a wire, or the switch of a LAN.
                let lan = self.topology.fabric.ports[port].lan;
                let whole = self.rng.random_ratio(1, 3);
                let ports = (0..self.topology.fabric.ports.len())
                    .filter(|other| *other == port || (whole && self.topology.fabric.ports[*other].lan == lan));
                let link = |port, carrier| Act::Link { port, up: true, carrier };
                ports.flat_map(|port| [(from, link(port, false)), (to, link(port, true))]).collect()
            }
            4 => {
                let (send, receive) = pick(self.rng, &[(true, true), (true, false), (false, true)]);
                vec![(from, Act::Mute { port, send, receive }), (to, Act::Mute { port, send: false, receive: false })]
            }
            5 => vec![(from, Act::Lossy { port, on: true }), (to, Act::Lossy { port, on: false })],
            6 => {
                let ports = [port, self.port()];
                vec![(from, Act::Cut { ports, on: true }), (to, Act::Cut { ports, on: false })]
            }
            7 => self.partition(from, to),
            8 => {
                let peer = self.peer(node);
                vec![(from, Act::Reset(node, peer.node))]
            }
            9 => {
                let slow = Duration::from_millis(pick(self.rng, &[30, 300]));
                vec![(from, Act::Latency(slow)), (to, Act::Latency(self.topology.latency))]
            }
            10 => self.unpeer(node, from, to),
            11 => self.move_subnet(node, from, to),
            12 => vec![(from, Act::Tamper { node, nth: self.rng.random_range(0..100) })],
            13 => {
                let (nth, delete) = (self.rng.random_range(0..100), self.rng.random());
                vec![(from, Act::TamperNexthop { node, nth, delete })]
            }
            14 => vec![(from, Act::Refuse { node, count: self.rng.random_range(1..20) })],
            15 => vec![(from, Act::Deaf { node, on: true }), (to, Act::Deaf { node, on: false })],
            16 => self.drain(node, from, to),
            // Another build, or another file.
            17 => {
                let on = self.rng.random();
                vec![(from, Act::Crash(node)), (from, Act::Objects { node, on }), (to, Act::Start(node))]
            }
            // Off the network when it crashes, back before or after it starts again.
            _ => {
                let port = self.topology.fabric.ports.iter().position(|port| port.node == node).unwrap_or(port);
                let mute = |on| Act::Mute { port, send: on, receive: on };
                let start = from + to.saturating_sub(from).mul_f64(self.rng.random_range(0.1..1.0));
                let crash = from + Duration::from_millis(1);
                vec![(from, mute(true)), (crash, Act::Crash(node)), (start, Act::Start(node)), (to, mute(false))]
            }
        })
    }

    /// A node leaves in stages, some of which it may leave out, and may come back from each.
    fn drain(&mut self, node: usize, from: Duration, to: Duration) -> Vec<(Duration, Act)> {
        let stages = [Stage::Signalled, Stage::Withdrawn, Stage::Closed];
        let stages = &stages[self.rng.random_range(0..2)..self.rng.random_range(2..=3)];
        let mut at = from;
        let mut acts = Vec::new();
        for stage in stages {
            acts.push((at, Act::Drain { node, stage: *stage }));
            at += to.saturating_sub(at).mul_f64(self.rng.random_range(0.0..0.7));
        }
        acts.push((to, Act::Drain { node, stage: Stage::Present }));
        acts
    }

    /// Some nodes on one side, the others on the other.
    fn partition(&mut self, from: Duration, to: Duration) -> Vec<(Duration, Act)> {
        let ports = &self.topology.fabric.ports;
        let side: Vec<bool> = self.topology.nodes.iter().map(|_| self.rng.random()).collect();
        let mut acts = Vec::new();
        for (i, a) in ports.iter().enumerate() {
            for (j, b) in ports.iter().enumerate().skip(i + 1) {
                if a.lan == b.lan && side[a.node] != side[b.node] {
                    acts.push((from, Act::Cut { ports: [i, j], on: true }));
                    acts.push((to, Act::Cut { ports: [i, j], on: false }));
                }
            }
        }
        acts
    }

    /// A peer is taken out of one file or of both, and comes back or not.
    fn unpeer(&mut self, node: usize, from: Duration, to: Duration) -> Vec<(Duration, Act)> {
        let peer = Box::new(self.peer(node));
        let act = |node, peer: &PeerConfig, there| Act::Peer { node, peer: Box::new(peer.clone()), there };
        let mut acts = vec![(from, act(node, &peer, false))];
        let back = self.topology.nodes[peer.node].config.peers.get(&peer.local).cloned();
        if let Some(back) = back.filter(|_| self.rng.random()) {
            let later = from + to.saturating_sub(from).mul_f64(self.rng.random_range(0.0..1.0));
            acts.push((later, act(peer.node, &back, false)));
            acts.push((to, act(peer.node, &back, true)));
        }
        // A network whose reach depends on each session, be it while others restart, keeps all of them.
        let for_good = matches!(self.topology.kind, Kind::Mesh | Kind::Graph) && self.rng.random_ratio(1, 4);
        if for_good {
            acts.truncate(2);
            acts.retain(|(_, act)| matches!(act, Act::Peer { there: false, .. }));
        } else {
            acts.push((to, act(node, &peer, true)));
        }
        acts
    }

    /// A subnet goes to another node, for a while to both or to none, or a new one comes.
    fn move_subnet(&mut self, node: usize, from: Duration, to: Duration) -> Vec<(Duration, Act)> {
        // To hosts only, where there are such: the others come last when several restart, and what they
        // announce themselves can't be known before.
        let is_host = |node: usize| {
            let peers = &self.topology.nodes[node].config.peers;
            self.topology.kind == Kind::Graph || peers.values().all(|peer| matches!(peer.export, ExportScope::Subnets))
        };
        let hosts: Vec<usize> =
            (0..self.topology.nodes.len()).filter(|node| self.topology.nodes[*node].routes && is_host(*node)).collect();
        let node = if hosts.contains(&node) { node } else { pick(self.rng, &hosts) };
        let subnets = &self.topology.nodes[node].config.subnets;
        let known = subnets.iter().copied().find(|subnet| !self.moved.contains(subnet));
        let other = pick(self.rng, &hosts);
        let act = |node, subnet, there| Act::Subnet { node, subnet, there };
        match known {
            Some(subnet) if other != node => {
                self.moved.insert(subnet);
                let (first, second) = if self.rng.random() { (from, to) } else { (to, from) };
                vec![(first, act(node, subnet, false)), (second, act(other, subnet, true))]
            }
            _ => {
                self.fresh += 1;
                let new = subnet(Family::Ipv4, self.fresh);
                let mut acts = vec![(from, act(node, new, true))];
                if self.rng.random() {
                    acts.push((to, act(node, new, false)));
                }
                acts
            }
        }
    }
}
