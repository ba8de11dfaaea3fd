//! What is to be seen of store, subnets and nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::{Cluster, is_announced};
use crate::cluster::claim::Holder;
use crate::cluster::flannel::Range;
use crate::cluster::lease::{Said, State, Why};
use crate::cluster::mirror::{Change, Mirror};
use crate::cluster::node::Node;
use crate::config::Config;
use crate::daemon::time;
use crate::io::etcd::Health;
use crate::metrics::StoreSnapshot;
use crate::net::Prefix;
use crate::view;

/// What is to be seen.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// `wayleave lease`
    pub lease: view::Lease,
    /// `wayleave lease all`
    pub claims: Vec<view::Claim>,
    /// `wayleave nodes`
    pub nodes: Vec<view::Node>,
    /// `wayleave lease history`
    pub history: Vec<view::LeaseEvent>,
    /// Why the node can't be ready for containers yet
    pub unready: Option<String>,
    /// It has the subnets that it wants
    pub is_content: bool,
    /// When the store last confirmed that what is known is the newest
    pub confirmed: Option<Instant>,
    /// Mesh sessions that are wanted
    pub mesh_wanted: usize,
    /// Of them established
    pub mesh_established: usize,
}

/// How loud something is said.
pub(super) enum Weight {
    Error,
    Warning,
    News,
}

/// How loud something is said.
pub(super) fn weight(said: &Said) -> Weight {
    match said {
        Said::Lost { .. } | Said::Blocked(_) | Said::Rival(_) | Said::Copied { .. } => Weight::Error,
        Said::Restored { .. }
        | Said::Ousted { .. }
        | Said::Exhausted { .. }
        | Said::SetBack { .. }
        | Said::Generation { .. }
        | Said::Dropped { .. } => Weight::Warning,
        _ => Weight::News,
    }
}

/// What a change of the store says to people; `None`: it is of no use to them.
pub(super) fn words(change: &Change) -> Option<String> {
    Some(match change {
        Change::Taken { subnet, by } => format!("{subnet} taken by {}", by.holder()),
        Change::Freed { subnet, by } => format!("{subnet} given up, it was held by {}", by.holder()),
        Change::Handed { subnet, from, to } if from.holder() == to.holder() => {
            format!("{subnet}: {} has changed its claim", to.holder())
        }
        Change::Handed { subnet, from, to } => format!("{subnet} went from {} to {}", from.holder(), to.holder()),
        Change::NodeCame { name } => format!("node {name} came"),
        Change::NodeLeft { name } => format!("node {name} left"),
        Change::Alive { name } => format!("node {name} is alive"),
        Change::Silent { name } => format!("node {name} gives no sign of life"),
        Change::Config => "the store's network configuration has changed".to_owned(),
        Change::NodeChanged { .. } | Change::Generation | Change::Bad { .. } => return None,
    })
}

/// The first free subnets of each range.
pub(super) fn free(ranges: &[Range], mirror: &Mirror, announced: &BTreeSet<Prefix>, limit: usize) -> Vec<Prefix> {
    let is_free = |subnet: &Prefix| mirror.overlapping(subnet).next().is_none() && !is_announced(announced, subnet);
    let all = |range: &Range| {
        let range = range.clone();
        (0..range.count()).filter_map(move |place| range.nth(place))
    };
    ranges.iter().flat_map(|range| all(range).filter(is_free).take(limit)).collect()
}

impl Shown {
    /// Of a node whose subnets and peers stand in the file.
    pub(super) fn fixed(config: &Config) -> Self {
        let held = |subnet: &Prefix| view::HeldSubnet { subnet: *subnet, since: None, confirmed: true };
        let subnets = config.network.subnets.iter().flatten().map(held).collect();
        let lease = view::Lease {
            state: "fixed".to_owned(),
            reason: "subnets stand in the file".to_owned(),
            subnets,
            store: view::StoreStatus { kind: "embedded".to_owned(), ..view::StoreStatus::default() },
            ..view::Lease::default()
        };
        Self { lease, is_content: true, ..Self::default() }
    }

    /// What metrics show; `None`: there is no store.
    pub fn snapshot(&self) -> Option<StoreSnapshot> {
        let reachable = self.lease.store.reachable?;
        let mut nodes = BTreeMap::new();
        for node in &self.nodes {
            *nodes.entry(node.state.clone()).or_default() += 1;
        }
        let began = self.lease.subnets.iter().filter_map(|held| humantime::parse_rfc3339(held.since.as_ref()?).ok());
        let age = began.min().and_then(|began| SystemTime::now().duration_since(began).ok());
        Some(StoreSnapshot {
            reachable,
            confirmed_age: self.confirmed.map(|at| at.elapsed().as_secs_f64()),
            subnets: self.lease.subnets.len(),
            confirmed: self.lease.subnets.iter().filter(|held| held.confirmed).count(),
            lease_age: age.unwrap_or_default().as_secs_f64(),
            pools: self.lease.pools.iter().map(|pool| (pool.pool.to_string(), pool.size, pool.taken)).collect(),
            nodes,
            mesh_wanted: self.mesh_wanted,
            mesh_established: self.mesh_established,
            mesh_missing: missing(&self.nodes),
        })
    }

    /// Of a node with a store.
    pub(super) fn of(cluster: &Cluster) -> Self {
        let listed = cluster.mirror.listings() > 0;
        let state = cluster.lease.state(listed.then_some(&cluster.mirror));
        let fixed = cluster.config.network.subnets.is_some();
        let (word, reason) = if fixed {
            ("fixed", "subnets stand in the file".to_owned())
        } else {
            standing(&state, cluster.flannels())
        };
        let nodes = nodes(cluster);
        let mesh = &cluster.plan.peers;
        let established = |peer: &&crate::cluster::mesh::Peer| {
            cluster.sessions.sessions.get(&peer.address).is_some_and(|session| session.established)
        };
        let has_subnet = fixed || state.held.iter().any(|held| held.believed);
        // A copy: to borrow it twice at once may wait for ever for who wants to write it.
        let health = cluster.health.as_ref().map(|health| health.borrow().clone());
        Self {
            unready: (!has_subnet && !state.left).then(|| format!("no subnet yet: {reason}")),
            is_content: fixed || has_subnet && state.wanting.is_empty(),
            confirmed: health.as_ref().and_then(|health| health.last_confirmed),
            mesh_wanted: mesh.len(),
            mesh_established: mesh.iter().filter(established).count(),
            claims: claims(cluster),
            history: cluster.history.iter().cloned().collect(),
            lease: view::Lease {
                state: word.to_owned(),
                reason,
                subnets: held(cluster, &state),
                pools: state.pools.iter().map(pool).collect(),
                store: store(cluster, health.as_ref()),
                problems: problems(cluster, &state, health.as_ref()),
            },
            nodes,
        }
    }
}

fn store(cluster: &Cluster, health: Option<&Health>) -> view::StoreStatus {
    let revision = cluster.mirror.revision();
    let Some(health) = health else {
        return view::StoreStatus { kind: "embedded".to_owned(), revision, ..view::StoreStatus::default() };
    };
    view::StoreStatus {
        kind: "etcd".to_owned(),
        reachable: Some(health.reachable),
        endpoint: health.endpoint.clone(),
        since: Some(wall(health.since)),
        confirmed: health.last_confirmed.map(wall),
        revision,
        error: health.error.as_ref().map(ToString::to_string),
    }
}

/// A moment of the even clock as people write it.
fn wall(at: Instant) -> String {
    time(SystemTime::now() - at.elapsed())
}

fn since(unix: u64) -> String {
    time(UNIX_EPOCH + Duration::from_secs(unix))
}

fn standing(state: &State, flannels: Option<Prefix>) -> (&'static str, String) {
    if let Some(rival) = &state.blocked {
        return ("blocked", format!("node `{}` at {} has this node's {}", rival.name, rival.address, rival.same));
    }
    if state.left {
        return ("released", "all subnets were given up; `wayleave lease add` takes one again".to_owned());
    }
    if let Some(subnet) = flannels.filter(|_| state.wanting.is_empty()) {
        let how = "`wayleave lease import-flannel` takes it over, `wayleave lease add` takes another";
        return ("waiting", format!("flannel has leased {subnet} to this host: {how}"));
    }
    match state.wanting.first() {
        None if state.held.is_empty() && state.pools.is_empty() => {
            ("waiting", "there is no pool: neither network.pools nor the store's config key".to_owned())
        }
        None if state.held.iter().all(|held| held.confirmed) => ("held", "the store says so".to_owned()),
        None => ("held", "from before; the store has not said so yet".to_owned()),
        Some(wanting) => match wanting.why {
            Why::NoStore => ("waiting", "the store is out of reach".to_owned()),
            Why::Claiming => ("waiting", "a subnet is being claimed".to_owned()),
            Why::Blocked => ("blocked", "another node is in this node's place".to_owned()),
            Why::Exhausted => {
                let pools: Vec<String> = state
                    .pools
                    .iter()
                    .map(|pool| format!("{} ({} of {} taken)", pool.pool, pool.used, pool.total))
                    .collect();
                ("exhausted", format!("no subnet is free in {}", pools.join(", ")))
            }
        },
    }
}

fn held(cluster: &Cluster, state: &State) -> Vec<view::HeldSubnet> {
    if let Some(subnets) = &cluster.config.network.subnets {
        return subnets
            .iter()
            .map(|subnet| view::HeldSubnet { subnet: *subnet, since: None, confirmed: true })
            .collect();
    }
    let shown = |held: &crate::cluster::lease::HeldState| view::HeldSubnet {
        subnet: held.subnet,
        since: Some(since(held.since)),
        confirmed: held.confirmed,
    };
    state.held.iter().map(shown).collect()
}

fn pool(pool: &crate::cluster::lease::PoolUse) -> view::PoolUse {
    let count = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
    view::PoolUse { pool: pool.pool, subnet_length: pool.subnet_len, size: count(pool.total), taken: count(pool.used) }
}

fn claims(cluster: &Cluster) -> Vec<view::Claim> {
    let mirror = &cluster.mirror;
    let is_alive = |node: &String| *node == cluster.identity.name || mirror.alive().contains_key(node);
    let shown = |(subnet, stored): (&Prefix, &crate::cluster::mirror::Stored<crate::cluster::claim::Claim>)| {
        let claim = &stored.value;
        let state = match &claim.holder {
            Holder::Other(_) => "foreign",
            Holder::Node(owner) if owner.id.is_empty() => "reserved",
            Holder::Node(owner) if is_alive(&owner.node) => "held",
            Holder::Node(_) => "dead",
        };
        view::Claim {
            subnet: *subnet,
            node: claim.holder(),
            address: claim.address,
            since: claim.owner().filter(|owner| owner.since > 0).map(|owner| since(owner.since)),
            state: state.to_owned(),
        }
    };
    mirror.claims().map(shown).collect()
}

fn nodes(cluster: &Cluster) -> Vec<view::Node> {
    let mirror = &cluster.mirror;
    let established =
        |node: &Node| cluster.sessions.sessions.get(&node.address).is_some_and(|session| session.established);
    let unlisted = cluster.network.nodes.iter();
    let unlisted = unlisted.filter(|known| !mirror.nodes().contains_key(&known.name) && established(&known.record));
    let listed = mirror.nodes().iter().map(|(name, stored)| (name, &stored.value, true));
    let all = listed.chain(unlisted.map(|known| (&known.name, &known.record, false)));
    let shown = |(name, node, is_listed): (&String, &Node, bool)| {
        let this = *name == cluster.identity.name;
        let wanted = cluster.plan.peers.iter().any(|peer| peer.address == node.address);
        let established = cluster.sessions.sessions.get(&node.address).is_some_and(|session| session.established);
        let left_out = cluster.plan.left_out.iter().find(|(left_out, _)| left_out == name);
        view::Node {
            name: name.clone(),
            address: node.address,
            asn: node.asn,
            router_id: node.router_id,
            subnets: node.subnets.clone(),
            state: match (is_listed, this || mirror.alive().contains_key(name)) {
                (false, _) => "unlisted",
                (true, true) => "alive",
                (true, false) => "dead",
            }
            .to_owned(),
            this,
            version: node.version.clone(),
            reflector: node.reflector,
            drained: node.drained,
            session: match (established, wanted) {
                (true, _) => "established",
                (false, true) => "down",
                (false, false) => "none",
            }
            .to_owned(),
            reason: left_out.map(|(_, why)| why.to_string()),
            tunnels: node.tunnels.clone(),
        }
    };
    let mut nodes: Vec<view::Node> = all.map(shown).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

/// Nodes with whom there should be a session and is none, though they live and have not left.
fn missing(nodes: &[view::Node]) -> usize {
    nodes.iter().filter(|node| node.session == "down" && node.state == "alive" && !node.drained).count()
}

fn problems(cluster: &Cluster, state: &State, health: Option<&Health>) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(error) = &cluster.unsaved {
        found.push(format!("what the node holds can't be written to state_dir, nothing new is announced: {error}"));
    }
    if let Some(error) = health.filter(|health| !health.reachable).and_then(|health| health.error.as_ref()) {
        found.push(format!("the store is out of reach, what is known stays in force: {error}"));
    }
    if let Some(rival) = state.blocked.as_ref().or(state.rival.as_ref()) {
        found.push(format!("node `{}` at {} has this node's {}", rival.name, rival.address, rival.same));
    }
    if let Some(wanting) = state.wanting.first().filter(|wanting| wanting.why == Why::Exhausted) {
        found.push(format!("{} more subnets are wanted: {}", wanting.count, standing(state, None).1));
    }
    for held in state.held.iter().filter(|held| held.outside && cluster.config.network.subnets.is_none()) {
        found.push(format!("{} lies in no pool any more; it stays this node's until it is released", held.subnet));
    }
    for (key, why) in cluster.mirror.bad().iter().take(5) {
        found.push(format!("{key} can't be read: {why}"));
    }
    for (name, why) in &cluster.plan.left_out {
        found.push(format!("no session with node {name}: {why}"));
    }
    if !cluster.plan.waiting_for.is_empty() {
        let names: Vec<&str> = cluster.plan.waiting_for.iter().map(String::as_str).take(5).collect();
        found.push(format!(
            "former sessions stay until {} nodes have theirs of the new topology ({}), such as {}",
            cluster.plan.waiting_for.len(),
            cluster.plan.topology,
            names.join(", ")
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_missing_only_with_who_could_have_it() {
        let node = |session: &str, state: &str, drained: bool| view::Node {
            name: "b".to_owned(),
            address: [10, 0, 0, 2].into(),
            asn: crate::net::Asn(64512),
            router_id: [10, 0, 0, 2].into(),
            subnets: Vec::new(),
            state: state.to_owned(),
            this: false,
            version: String::new(),
            reflector: false,
            drained,
            session: session.to_owned(),
            reason: None,
            tunnels: Vec::new(),
        };
        for (why, node, wanted) in [
            ("it lives", node("down", "alive", false), 1),
            ("it is up", node("established", "alive", false), 0),
            ("its host is dead", node("down", "dead", false), 0),
            ("it has left", node("down", "alive", true), 0),
            ("none is wanted: both have a reflector", node("none", "alive", false), 0),
        ] {
            assert_eq!(missing(&[node]), wanted, "{why}");
        }
    }
}
