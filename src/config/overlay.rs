//! What a store adds to the file: subnets, pools, peers.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use crate::cluster::mesh;
use crate::config::peer::{MAX_PREFIXES, default_families};
use crate::config::{Config, Export, Import, Peer, PeerAddress};
use crate::net::{Family, Prefix};

/// Most prefixes that a reflector may send: it sends those of all nodes.
const MAX_REFLECTED: u32 = 100 * MAX_PREFIXES;

/// What a store adds to the file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Overlay {
    /// Subnets that are leased; used where the file has no `network.subnets`
    pub subnets: Option<Vec<Prefix>>,
    /// Pools of the store; used where the file has none
    pub pools: Option<Vec<Prefix>>,
    /// Nodes to peer with
    pub mesh: Vec<mesh::Peer>,
    /// Nodes that end IP-in-IP, besides those of the file
    pub tunnel_endpoints: Vec<Prefix>,
}

impl Config {
    /// What is in force: the file, and what the store adds where the file leaves it open.
    ///
    /// A peer of the file stands before a node of the store with its address. Names stay unique: a
    /// node whose name is taken is called by its address too.
    #[must_use]
    pub fn with(&self, overlay: &Overlay) -> Self {
        let mut config = self.clone();
        let network = &mut config.network;
        if network.subnets.is_none() {
            network.subnets.clone_from(&overlay.subnets);
        }
        if network.pools.is_empty() {
            network.pools.extend(overlay.pools.iter().flatten());
        }
        for endpoint in &overlay.tunnel_endpoints {
            if !network.tunnel_endpoints.contains(endpoint) {
                network.tunnel_endpoints.push(*endpoint);
            }
        }
        let ipv6 = config.uses_ipv6();
        let mut names: BTreeSet<String> = self.bgp.peers.iter().map(|peer| peer.name.clone()).collect();
        let mut taken: BTreeSet<Prefix> = self.bgp.peers.iter().map(|peer| peer.address.prefix()).collect();
        for node in &overlay.mesh {
            if taken.insert(Prefix::host(node.address)) {
                let peer = config.mesh_peer(node, ipv6, &names);
                names.insert(peer.name.clone());
                config.bgp.peers.push(peer);
            }
        }
        config
    }

    fn uses_ipv6(&self) -> bool {
        let ours = self.network.pools.iter().chain(self.network.subnets.iter().flatten());
        ours.chain(self.bgp.announce.iter().map(|announce| &announce.prefix))
            .any(|prefix| prefix.family() == Family::Ipv6)
    }

    /// As the file would have it if it were written there.
    fn mesh_peer(&self, node: &mesh::Peer, ipv6: bool, names: &BTreeSet<String>) -> Peer {
        let mut name = node.name.clone();
        if names.contains(&name) {
            name = format!("{name}@{}", node.address);
        }
        let address = PeerAddress::One(node.address);
        Peer {
            name,
            address,
            asn: node.asn,
            port: node.port,
            passive: node.passive,
            families: default_families(Some(address), ipv6),
            hold_time: self.bgp.hold_time,
            send_hold_time: self.bgp.send_hold_time,
            connect_retry: self.bgp.connect_retry,
            graceful_restart: self.bgp.graceful_restart,
            password: None,
            ttl_security: None,
            multihop: None,
            route_reflector_client: node.client,
            import: Import::Pools,
            export: if node.reflecting { Export::Pools } else { Export::Subnets },
            max_prefixes: NonZeroU32::new(if node.reflector { MAX_REFLECTED } else { MAX_PREFIXES }),
            next_hop_self: false,
            allow_own_as: 0,
            local_address: None,
            bfd: None,
            mesh: true,
        }
    }
}
