//! What a network looks like at first: drawn from the seed, of one of five kinds.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use wayleave::bgp::policy::ExportScope;
use wayleave::forward::TunnelMode;
use wayleave::net::{Asn, Family, Prefix};

use super::fabric::{Fabric, Port};
use super::kernel::{Kernel, TUNNEL};
use super::node::{Config, Node, PeerConfig, Stage};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// One LAN, iBGP among all
    Mesh,
    /// Two LANs with a plain router between them, iBGP among all, tunnels across
    Racks,
    /// One LAN, one or two route reflectors
    Reflectors,
    /// Hosts on two LANs, each with a router that speaks eBGP with them
    TwoTors,
    /// Any graph of point-to-point links with eBGP, everybody transit
    Graph,
}

pub struct Topology {
    pub kind: Kind,
    pub nodes: Vec<Node>,
    pub fabric: Fabric,
    pub latency: Duration,
}

/// What all nodes of one network have in common.
#[derive(Clone)]
struct Common {
    dual: bool,
    tunnel: TunnelMode,
    tunnel_device: Option<u32>,
    multipath: usize,
    graceful_restart: u16,
    hold_time: u16,
    connect_retry: Duration,
    send_hold_time: Option<Duration>,
}

pub fn draw(rng: &mut SmallRng) -> Topology {
    let kinds = [Kind::Mesh, Kind::Racks, Kind::Reflectors, Kind::TwoTors, Kind::Graph];
    let kind = pick(rng, &kinds);
    let modes = [TunnelMode::Never, TunnelMode::CrossSubnet, TunnelMode::Always];
    let racks = kind == Kind::Racks;
    let common = Common {
        // IPv6 is not tunnelled, and the router between racks knows no container.
        dual: !racks && rng.random_ratio(1, 3),
        tunnel: if racks { pick(rng, &modes[1..]) } else { pick(rng, &modes) },
        tunnel_device: (racks || rng.random_ratio(2, 3)).then_some(TUNNEL),
        multipath: pick(rng, &[1, 2, 8, 8]),
        graceful_restart: pick(rng, &[0, 60, 120, 120]),
        hold_time: pick(rng, &[3, 9, 9, 30]),
        connect_retry: Duration::from_secs(pick(rng, &[1, 5, 5])),
        send_hold_time: pick(rng, &[None, None, Some(Duration::from_secs(30))]),
    };
    let mut draft = Draft { rng, common, nodes: Vec::new(), fabric: Fabric::default(), subnets: 0 };
    match kind {
        Kind::Mesh => draft.mesh(),
        Kind::Racks => draft.racks(),
        Kind::Reflectors => draft.reflectors(),
        Kind::TwoTors => draft.two_tors(),
        Kind::Graph => draft.graph(),
    }
    let Draft { rng, nodes, fabric, .. } = draft;
    let latency = Duration::from_micros(pick(rng, &[100, 100, 1000, 10_000, 50_000]));
    Topology { kind, nodes, fabric, latency }
}

pub fn pick<T: Copy>(rng: &mut SmallRng, from: &[T]) -> T {
    *from.choose(rng).expect("something to choose from")
}

/// The `n`-th prefix of the pool of a family.
pub fn subnet(family: Family, n: u16) -> Prefix {
    match family {
        Family::Ipv4 => Prefix::new(Ipv4Addr::from_bits(0x0af4_0000 | u32::from(n) << 8).into(), 24),
        Family::Ipv6 => Prefix::new(Ipv6Addr::new(0x2001, 0xdb8, 0xf000, n, 0, 0, 0, 0).into(), 64),
    }
}

struct Draft<'a> {
    rng: &'a mut SmallRng,
    common: Common,
    nodes: Vec<Node>,
    fabric: Fabric,
    subnets: u16,
}

impl Draft<'_> {
    fn node(&mut self, name: &str, asn: u32) -> usize {
        let common = self.common.clone();
        let index = self.nodes.len();
        // In an order that has nothing to do with that of the names.
        let router_id = Ipv4Addr::new(192, 0, 2, u8::try_from((index * 37 + 11) % 200).expect("below 200"));
        let config = Config {
            asn: Asn(asn),
            router_id,
            pools: Arc::new([Prefix::new([10, 244, 0, 0].into(), 16), "2001:db8:f000::/48".parse().expect("a prefix")]),
            subnets: Vec::new(),
            peers: BTreeMap::new(),
            families: if common.dual { Family::ALL.to_vec() } else { vec![Family::Ipv4] },
            tunnel: common.tunnel,
            tunnel_device: common.tunnel_device,
            multipath: common.multipath,
            graceful_restart: common.graceful_restart,
            hold_time: common.hold_time,
            connect_retry: common.connect_retry,
            send_hold_time: common.send_hold_time,
            objects: self.rng.random_ratio(2, 3),
            guard: self.rng.random(),
        };
        let mut kernel = Kernel::default();
        if let Some(device) = common.tunnel_device {
            kernel.add_link(device, "wayleave0".to_owned());
        }
        let name = format!("{name}{index}");
        self.nodes.push(Node { name, config, stage: Stage::Present, kernel, routes: true, daemon: None, epoch: 0 });
        index
    }

    /// Subnets for a host: one or two as a rule, now and then many.
    fn host(&mut self, asn: u32) -> usize {
        let node = self.node("host", asn);
        let count = if self.rng.random_ratio(1, 12) { 60 } else { self.rng.random_range(1..=2) };
        for _ in 0..count {
            for family in self.nodes[node].config.families.clone() {
                self.nodes[node].config.subnets.push(subnet(family, self.subnets));
            }
            self.subnets += 1;
        }
        node
    }

    fn hosts(&mut self, least: usize, most: usize, asn: impl Fn(usize) -> u32) -> Vec<usize> {
        let count = self.rng.random_range(least..=most);
        (0..count).map(|i| self.host(asn(i))).collect()
    }

    fn plug(&mut self, node: usize, lan: usize) {
        let ports = self.fabric.ports.iter();
        let device = 2 + u32::try_from(ports.clone().filter(|port| port.node == node).count()).expect("few");
        let host = 1 + u8::try_from(node).expect("few");
        let on_lan = u8::try_from(lan).expect("few");
        let ipv4: IpAddr = Ipv4Addr::new(10, 0, on_lan, host).into();
        let ipv6: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, on_lan.into(), 0, 0, 0, 0, host.into()).into();
        let kernel = &mut self.nodes[node].kernel;
        kernel.add_link(device, format!("eth{device}"));
        kernel.assign(device, ipv4, 24);
        let mut addresses = vec![ipv4];
        if self.common.dual {
            kernel.assign(device, ipv6, 64);
            addresses.push(ipv6);
        }
        self.fabric.ports.push(Port { node, device, lan, addresses, mute: false, deaf: false, lossy: false });
    }

    fn address(&self, node: usize, lan: Option<usize>) -> IpAddr {
        let port = self.fabric.ports.iter().find(|port| port.node == node && lan.is_none_or(|lan| port.lan == lan));
        port.expect("a port there").addresses[0]
    }

    /// A session between two nodes; `clients`: for whom the other is a reflector's client.
    fn session(&mut self, ends: [usize; 2], lan: Option<usize>, exports: [ExportScope; 2], clients: [bool; 2]) {
        let passive = if self.rng.random_ratio(1, 5) { Some(self.rng.random_range(0..2)) } else { None };
        for (i, export) in exports.into_iter().enumerate() {
            let (node, other) = (ends[i], ends[1 - i]);
            let peer = PeerConfig {
                node: other,
                asn: self.nodes[other].config.asn,
                local: self.address(node, lan),
                remote: self.address(other, lan),
                passive: passive == Some(i),
                client: clients[i],
                export,
            };
            self.nodes[node].config.peers.insert(peer.remote, peer);
        }
    }

    fn mesh_of(&mut self, nodes: &[usize]) {
        for (i, a) in nodes.iter().enumerate() {
            for b in &nodes[..i] {
                self.session([*a, *b], None, [ExportScope::Subnets, ExportScope::Subnets], [false; 2]);
            }
        }
    }

    fn mesh(&mut self) {
        let hosts = self.hosts(2, 6, |_| 64512);
        for host in &hosts {
            self.plug(*host, 0);
        }
        self.mesh_of(&hosts);
    }

    fn racks(&mut self) {
        let hosts = self.hosts(2, 5, |_| 64512);
        let router = self.node("router", 0);
        self.nodes[router].routes = false;
        self.plug(router, 0);
        self.plug(router, 1);
        for (i, host) in hosts.iter().enumerate() {
            let lan = i % 2;
            self.plug(*host, lan);
            let gateway = self.address(router, Some(lan));
            self.nodes[*host].kernel.add_foreign(Prefix::default_route(Family::Ipv4), gateway, 2);
        }
        self.mesh_of(&hosts);
    }

    fn reflectors(&mut self) {
        let hosts = self.hosts(2, 4, |_| 64512);
        let count = self.rng.random_range(1..=2);
        let reflectors: Vec<usize> = (0..count).map(|_| self.node("reflector", 64512)).collect();
        for node in hosts.iter().chain(&reflectors) {
            self.plug(*node, 0);
        }
        for reflector in &reflectors {
            for host in &hosts {
                self.session([*reflector, *host], None, [ExportScope::Pools, ExportScope::Subnets], [true, false]);
            }
        }
        if let [a, b] = reflectors[..] {
            self.session([a, b], None, [ExportScope::Pools, ExportScope::Pools], [false; 2]);
        }
    }

    fn two_tors(&mut self) {
        let hosts = self.hosts(2, 4, |i| 64600 + u32::try_from(i).expect("few"));
        for lan in 0..2 {
            let tor = self.node("tor", 65001 + u32::try_from(lan).expect("few"));
            self.plug(tor, lan);
            for host in &hosts {
                self.plug(*host, lan);
                self.session([tor, *host], Some(lan), [ExportScope::Pools, ExportScope::Subnets], [false; 2]);
            }
        }
        if self.rng.random_ratio(1, 2) {
            let tors = [hosts.len(), hosts.len() + 1];
            self.wire(tors, 2);
        }
    }

    /// A point-to-point link with a session between two that pass on what they know.
    fn wire(&mut self, ends: [usize; 2], lan: usize) {
        self.plug(ends[0], lan);
        self.plug(ends[1], lan);
        self.session(ends, Some(lan), [ExportScope::Pools, ExportScope::Pools], [false; 2]);
    }

    fn graph(&mut self) {
        let nodes = self.hosts(3, 6, |i| 64600 + u32::try_from(i).expect("few"));
        let mut edges: Vec<[usize; 2]> =
            (1..nodes.len()).map(|i| [nodes[i], nodes[self.rng.random_range(0..i)]]).collect();
        for _ in 0..self.rng.random_range(0..=3) {
            let (a, b) = (pick(self.rng, &nodes), pick(self.rng, &nodes));
            let known = edges.iter().any(|edge| *edge == [a, b] || *edge == [b, a]);
            if a != b && !known {
                edges.push([a, b]);
            }
        }
        for (lan, ends) in edges.into_iter().enumerate() {
            self.wire(ends, lan);
        }
    }
}
