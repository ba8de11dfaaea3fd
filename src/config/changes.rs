//! What differs between two configurations, and whether a running daemon can follow.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::config::peer::Peer;

/// What a reload has to do. All lists are in the order of the file's sections or of names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// Names of peers that are new
    pub peers_added: Vec<String>,
    /// Names of peers that are gone
    pub peers_removed: Vec<String>,
    /// Names of peers of which some setting is different, inherited ones too
    pub peers_changed: Vec<String>,
    /// All other keys with a different value
    pub settings: Vec<&'static str>,
    /// Those of `settings` that only a restart applies
    pub needs_restart: Vec<&'static str>,
}

impl Changes {
    /// Whether the two configurations are equal.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a running daemon can apply a new value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Applied {
    Live,
    AtStart,
}
use Applied::{AtStart, Live};

type Setting = (&'static str, Applied, fn(&Config, &Config) -> bool);

/// Every key but the peers, with whether its value is the same in both.
pub(super) const SETTINGS: [Setting; 41] = [
    ("state_dir", AtStart, |a, b| a.state_dir == b.state_dir),
    ("node.name", AtStart, |a, b| a.node.name == b.node.name),
    ("node.address", AtStart, |a, b| a.node.address == b.node.address),
    ("node.router_id", AtStart, |a, b| a.node.router_id == b.node.router_id),
    ("network.pools", Live, |a, b| a.network.pools == b.network.pools),
    ("network.subnets", Live, |a, b| a.network.subnets == b.network.subnets),
    ("network.subnet_length", Live, |a, b| a.network.subnet_length == b.network.subnet_length),
    ("network.subnets_wanted", Live, |a, b| a.network.subnets_wanted == b.network.subnets_wanted),
    ("network.subnet_file", Live, |a, b| a.network.subnet_file == b.network.subnet_file),
    ("network.tunnel", Live, |a, b| a.network.tunnel == b.network.tunnel),
    ("network.tunnel_endpoints", Live, |a, b| a.network.tunnel_endpoints == b.network.tunnel_endpoints),
    ("network.masquerade", Live, |a, b| a.network.masquerade == b.network.masquerade),
    ("store", AtStart, |a, b| a.store == b.store),
    ("bgp.asn", AtStart, |a, b| a.bgp.asn == b.bgp.asn),
    ("bgp.listen", AtStart, |a, b| a.bgp.listen == b.bgp.listen),
    ("bgp.hold_time", Live, |a, b| a.bgp.hold_time == b.bgp.hold_time),
    ("bgp.send_hold_time", Live, |a, b| a.bgp.send_hold_time == b.bgp.send_hold_time),
    ("bgp.connect_retry", Live, |a, b| a.bgp.connect_retry == b.bgp.connect_retry),
    ("bgp.mesh", AtStart, |a, b| a.bgp.mesh == b.bgp.mesh),
    ("bgp.reflector", Live, |a, b| a.bgp.reflector == b.bgp.reflector),
    ("bgp.multipath", Live, |a, b| a.bgp.multipath == b.bgp.multipath),
    ("bgp.graceful_restart", Live, |a, b| a.bgp.graceful_restart == b.bgp.graceful_restart),
    ("bgp.graceful_shutdown", Live, |a, b| a.bgp.graceful_shutdown == b.bgp.graceful_shutdown),
    ("bgp.drain_time", Live, |a, b| a.bgp.drain_time == b.bgp.drain_time),
    ("bgp.cluster_id", AtStart, |a, b| a.bgp.cluster_id == b.bgp.cluster_id),
    ("bgp.announce", Live, |a, b| a.bgp.announce == b.bgp.announce),
    ("bgp.policies", Live, |a, b| a.bgp.policies == b.bgp.policies),
    ("firewall.tunnel_guard", Live, |a, b| a.firewall.tunnel_guard == b.firewall.tunnel_guard),
    ("firewall.docker", Live, |a, b| a.firewall.docker == b.firewall.docker),
    ("kernel.install", AtStart, |a, b| a.kernel.install == b.kernel.install),
    ("kernel.table", AtStart, |a, b| a.kernel.table == b.kernel.table),
    ("kernel.protocol", AtStart, |a, b| a.kernel.protocol == b.kernel.protocol),
    ("kernel.nexthop_objects", AtStart, |a, b| a.kernel.nexthop_objects == b.kernel.nexthop_objects),
    ("kernel.link_guard", AtStart, |a, b| a.kernel.link_guard == b.kernel.link_guard),
    ("kernel.metric", AtStart, |a, b| a.kernel.metric == b.kernel.metric),
    ("metrics.listen", AtStart, |a, b| a.metrics.listen == b.metrics.listen),
    ("metrics.forwarding", Live, |a, b| a.metrics.forwarding == b.metrics.forwarding),
    ("metrics.forwarding_top", Live, |a, b| a.metrics.forwarding_top == b.metrics.forwarding_top),
    ("control.socket", AtStart, |a, b| a.control.socket == b.control.socket),
    ("log.format", AtStart, |a, b| a.log.format == b.log.format),
    ("log.level", AtStart, |a, b| a.log.level == b.log.level),
];

/// What is different in `new`.
pub fn changes(old: &Config, new: &Config) -> Changes {
    let differing: Vec<&Setting> = SETTINGS.iter().filter(|(_, _, same)| !same(old, new)).collect();
    let (before, after) = (peers(old), peers(new));
    let names = |peers: &BTreeMap<&str, &Peer>, wanted: &dyn Fn(&str) -> bool| {
        peers.keys().filter(|name| wanted(name)).map(|name| (*name).to_owned()).collect()
    };
    Changes {
        peers_added: names(&after, &|name| !before.contains_key(name)),
        peers_removed: names(&before, &|name| !after.contains_key(name)),
        peers_changed: names(&after, &|name| before.get(name).is_some_and(|old| after.get(name) != Some(old))),
        settings: differing.iter().map(|(key, ..)| *key).collect(),
        needs_restart: differing.iter().filter(|(_, applied, _)| *applied == AtStart).map(|(key, ..)| *key).collect(),
    }
}

fn peers(config: &Config) -> BTreeMap<&str, &Peer> {
    config.bgp.peers.iter().map(|peer| (peer.name.as_str(), peer)).collect()
}
