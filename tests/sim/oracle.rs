//! What the tables should be: computed from the files and the wires, with every node deciding again
//! and again at once from what its neighbours had decided, until nothing changes. It shares no
//! code with what it judges.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use wayleave::bgp::policy::ExportScope;
use wayleave::forward::TunnelMode;
use wayleave::net::{Asn, Family, Prefix};

use super::fabric::{Fabric, Fate};
use super::kernel::TUNNEL;
use super::node::{Node, PeerConfig};
use super::world::World;

/// What a route of a node does: drop, or go to these gateways, through a tunnel or not.
pub type Action = Option<BTreeSet<(IpAddr, bool)>>;

#[derive(Clone, Debug, Eq, PartialEq)]
struct Path {
    asns: Vec<Asn>,
    /// None: announced here
    from: Option<usize>,
    next_hop: Option<IpAddr>,
    external: bool,
    client: bool,
    originator: Option<Ipv4Addr>,
    router_id: Ipv4Addr,
    clusters: usize,
}

/// Best path and gateways of each node.
type Round = Vec<Option<(Path, BTreeSet<IpAddr>)>>;

/// The table of each node.
pub fn tables(nodes: &[Node], fabric: &Fabric) -> Vec<BTreeMap<Prefix, Action>> {
    let subnets: BTreeSet<Prefix> = nodes.iter().flat_map(|node| node.config.subnets.iter().copied()).collect();
    let mut tables = vec![BTreeMap::new(); nodes.len()];
    for subnet in subnets {
        let round = settle(nodes, fabric, subnet);
        for (node, (table, found)) in tables.iter_mut().zip(round).enumerate() {
            let Some((best, gateways)) = found else { continue };
            let action = best.from.map(|_| {
                let hop = |gateway: IpAddr| (gateway, tunnelled(&nodes[node], node, fabric, gateway));
                gateways.into_iter().map(hop).collect()
            });
            table.insert(subnet, action);
        }
    }
    tables
}

fn tunnelled(node: &Node, index: usize, fabric: &Fabric, gateway: IpAddr) -> bool {
    let on_link = |port: &&super::fabric::Port| {
        port.node != index
            && port.addresses.contains(&gateway)
            && fabric.ports.iter().any(|own| own.node == index && own.lan == port.lan)
    };
    let on_link = fabric.ports.iter().any(|port| on_link(&port));
    let wanted = match node.config.tunnel {
        TunnelMode::Never => false,
        TunnelMode::CrossSubnet => !on_link,
        TunnelMode::Always => true,
    };
    wanted && gateway.is_ipv4() && node.config.tunnel_device.is_some()
}

fn settle(nodes: &[Node], fabric: &Fabric, subnet: Prefix) -> Round {
    let mut round: Round = vec![None; nodes.len()];
    for _ in 0..4 * nodes.len() {
        let next: Round = (0..nodes.len()).map(|node| decide(nodes, fabric, &round, node, subnet)).collect();
        if next == round {
            return round;
        }
        round = next;
    }
    panic!("the oracle does not settle for {subnet}");
}

fn decide(
    nodes: &[Node],
    fabric: &Fabric,
    round: &Round,
    node: usize,
    subnet: Prefix,
) -> Option<(Path, BTreeSet<IpAddr>)> {
    // A node that is dead tells nothing.
    nodes[node].daemon.as_ref()?;
    let config = &nodes[node].config;
    if config.subnets.contains(&subnet) {
        let path = Path {
            asns: Vec::new(),
            from: None,
            next_hop: None,
            external: false,
            client: false,
            originator: None,
            router_id: config.router_id,
            clusters: 0,
        };
        return Some((path, BTreeSet::new()));
    }
    let mut paths: Vec<Path> = Vec::new();
    for peer in config.peers.values() {
        let Some((path, _)) = &round[peer.node] else { continue };
        paths.extend(pass_on(nodes, fabric, path, node, peer, subnet.family()));
    }
    let rank = |path: &Path| (path.asns.len(), !path.external);
    let best = paths.iter().map(rank).min()?;
    paths.retain(|path| rank(path) == best);
    let neighbour = |path: &Path| nodes[path.from.expect("learned")].config.router_id;
    paths.sort_by_key(|path| (path.originator.unwrap_or_else(|| neighbour(path)), path.clusters));
    let mut gateways: Vec<IpAddr> = Vec::new();
    for gateway in paths.iter().filter_map(|path| path.next_hop) {
        if !gateways.contains(&gateway) && gateways.len() < config.multipath {
            gateways.push(gateway);
        }
    }
    Some((paths.swap_remove(0), gateways.into_iter().collect()))
}

/// A neighbour's best path as `node` takes it in, if it is offered and accepted.
fn pass_on(
    nodes: &[Node],
    fabric: &Fabric,
    path: &Path,
    node: usize,
    peer: &PeerConfig,
    family: Family,
) -> Option<Path> {
    let (near, far) = (&nodes[node].config, &nodes[peer.node].config);
    // What the other's file says of us.
    let back = far.peers.get(&peer.local)?;
    let external = near.asn != far.asn;
    let local = path.from.is_none();
    let reflected = !local && !path.external;
    let refused = path.from == Some(node)
        || (!local && matches!(back.export, ExportScope::Subnets))
        || (!external && reflected && !path.client && !back.client);
    if refused {
        return None;
    }
    let their_port = fabric.ports.iter().find(|port| port.addresses.contains(&peer.remote))?;
    let their_address = their_port.addresses.iter().copied().find(|addr| Family::of(*addr) == family);
    let mut asns = path.asns.clone();
    if external {
        asns.insert(0, far.asn);
    }
    let reflects = !external && reflected;
    let learned = Path {
        asns,
        from: Some(peer.node),
        next_hop: if external || local { their_address } else { path.next_hop },
        external,
        client: peer.client,
        originator: if reflects { path.originator.or(Some(path.router_id)) } else { None },
        router_id: far.router_id,
        clusters: if reflects { path.clusters + 1 } else { 0 },
    };
    let own_port =
        |port: &super::fabric::Port| port.node == node && port.addresses.iter().any(|a| Some(*a) == learned.next_hop);
    let looped = (external && learned.asns.contains(&near.asn))
        || learned.originator == Some(near.router_id)
        || fabric.ports.iter().any(own_port);
    (!looped && learned.next_hop.is_some()).then_some(learned)
}

/// Whether all is as it should be among those that run; the first thing that isn't, otherwise.
pub fn check(world: &World) -> Result<(), String> {
    let World { nodes, fabric, .. } = world;
    for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.routes) {
        let Some(daemon) = &node.daemon else { continue };
        for peer in node.config.peers.values() {
            let other = &nodes[peer.node];
            let Some(there) = other.daemon.as_ref().filter(|_| other.config.peers.contains_key(&peer.local)) else {
                continue;
            };
            let (near, far) = world.session(index, peer)?;
            let (sent, received) = (daemon.routing.sent(near), there.routing.received(far));
            if sent != received {
                return Err(format!("{} to {}: sent {sent:?}, received {received:?}", node.name, other.name));
            }
        }
        daemon.routing.at_rest().map_err(|why| format!("{}: {why}", node.name))?;
        let leftovers = daemon.routing.leftovers();
        if !leftovers.is_empty() || !daemon.inputs.is_empty() {
            return Err(format!("{}: paths of {leftovers:?}, {} inputs", node.name, daemon.inputs.len()));
        }
    }
    for (node, wanted) in nodes.iter().zip(tables(nodes, fabric)).filter(|(node, _)| node.daemon.is_some()) {
        let held: BTreeMap<Prefix, Action> = node
            .kernel
            .table()
            .map(|(prefix, hops)| {
                let hop = |hop: &wayleave::forward::Hop| (hop.gateway.expect("a gateway"), hop.device == TUNNEL);
                (prefix, (!hops.is_empty()).then(|| hops.iter().map(hop).collect()))
            })
            .collect();
        if held != wanted {
            let both: BTreeSet<&Prefix> = held.keys().chain(wanted.keys()).collect();
            let differs = both.into_iter().filter(|prefix| held.get(prefix) != wanted.get(prefix));
            let lines = differs.map(|prefix| {
                let known = node.daemon.as_ref().map(|daemon| daemon.routing.describe(*prefix));
                format!("  {prefix}: {:?}, should be {:?}; {known:?}", held.get(prefix), wanted.get(prefix))
            });
            return Err(format!("{}'s table:\n{}", node.name, lines.collect::<Vec<_>>().join("\n")));
        }
    }
    walk(world)
}

/// Every packet with a route arrives, over every way that it may take.
fn walk(world: &World) -> Result<(), String> {
    let World { nodes, fabric, .. } = world;
    for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.daemon.is_some()) {
        for (prefix, _) in node.kernel.table() {
            arrives(nodes, fabric, index, prefix)?;
        }
    }
    Ok(())
}

fn arrives(nodes: &[Node], fabric: &Fabric, from: usize, prefix: Prefix) -> Result<(), String> {
    let owner = nodes.iter().position(|node| node.config.subnets.contains(&prefix));
    let lost = |fate: &Fate| !matches!(fate, Fate::At(at, _) if Some(*at) == owner);
    match fabric.fates(nodes, from, inside(prefix)).into_iter().find(lost) {
        Some(fate) => Err(format!("from {} to {prefix}: {fate:?}", nodes[from].name)),
        None => Ok(()),
    }
}

/// What arrives now at its destination, as pairs of a node and a prefix that it can reach.
pub fn reach(world: &World) -> Vec<(usize, Prefix)> {
    let nodes = world.nodes.iter().enumerate().filter(|(_, node)| node.daemon.is_some());
    nodes.flat_map(|(index, node)| node.kernel.table().map(move |(prefix, _)| (index, prefix))).collect()
}

/// Whether all that was in reach still is, whatever becomes of packets between daemons.
pub fn still_reached(nodes: &[Node], fabric: &Fabric, reach: &[(usize, Prefix)]) -> Result<(), String> {
    let fabric = fabric.without_faults();
    reach.iter().try_for_each(|(from, prefix)| arrives(nodes, &fabric, *from, *prefix))
}

/// An address in a subnet that no node has itself.
fn inside(prefix: Prefix) -> IpAddr {
    match prefix.addr() {
        IpAddr::V4(addr) => Ipv4Addr::from_bits(addr.to_bits() | 9).into(),
        IpAddr::V6(addr) => std::net::Ipv6Addr::from_bits(addr.to_bits() | 9).into(),
    }
}
