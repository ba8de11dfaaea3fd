//! Who has which prefix: as the store says, or, without one, where BGP leads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::config::{Config, Store};
use crate::daemon::cluster::Shown;
use crate::daemon::routing::{LearnedPage, Query};
use crate::net::Prefix;
use crate::traffic::MOST;

/// Routes that are remembered, of which not all can be counted.
const ROUTES: usize = 4 * MOST;
/// Least time between two walks over the routing table.
const WALK_EVERY: Duration = Duration::from_secs(10);

/// Where the answers come from.
pub(super) struct Sources {
    routing: mpsc::Sender<Query>,
    shown: watch::Receiver<Arc<Shown>>,
    /// Without a store
    routes: BTreeMap<Prefix, IpAddr>,
    ready: bool,
    walked: Option<Instant>,
    walk: bool,
}

/// Who has which prefix.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Names by prefix
    pub names: BTreeMap<Prefix, Arc<str>>,
    /// Where they are
    pub addresses: BTreeMap<Arc<str>, IpAddr>,
    /// What is not there is gone, rather than not heard of yet
    pub known: bool,
}

impl Sources {
    pub(super) fn new(routing: mpsc::Sender<Query>, shown: watch::Receiver<Arc<Shown>>) -> Self {
        Self { routing, shown, routes: BTreeMap::new(), ready: false, walked: None, walk: true }
    }

    /// The pools have changed.
    pub(super) fn renew(&mut self) {
        self.walk = true;
        self.walked = None;
        self.shown.mark_changed();
    }

    /// Asks what is new; whether anything may be.
    pub(super) async fn look(&mut self, config: &Config) -> bool {
        if matches!(config.store, Store::Etcd(_)) {
            // An error: nobody tells any more.
            return self.shown.has_changed().unwrap_or_default();
        }
        let Some(page) = self.ask(None).await else { return false };
        self.walk |= page.lost;
        if self.walk && self.walked.is_none_or(|at| at.elapsed() >= WALK_EVERY) {
            return self.walk_over().await;
        }
        let changed = !page.routes.is_empty() || page.ready != self.ready;
        self.take(page);
        changed
    }

    async fn ask(&self, from: Option<u32>) -> Option<LearnedPage> {
        let (answer, asked) = oneshot::channel();
        self.routing.send(Query::Learned(from, answer)).await.ok()?;
        asked.await.ok()
    }

    fn take(&mut self, page: LearnedPage) {
        self.ready = page.ready;
        for (prefix, next_hop) in page.routes {
            match next_hop {
                Some(next_hop) if self.routes.len() < ROUTES || self.routes.contains_key(&prefix) => {
                    self.routes.insert(prefix, next_hop);
                }
                Some(_) => {}
                None => {
                    self.routes.remove(&prefix);
                }
            }
        }
    }

    /// A page at a time, between which the routing task works on.
    async fn walk_over(&mut self) -> bool {
        let mut next = Some(0);
        self.routes.clear();
        while let Some(from) = next {
            let Some(page) = self.ask(Some(from)).await else { return false };
            next = page.next.filter(|_| self.routes.len() < ROUTES);
            self.take(page);
        }
        self.walk = false;
        self.walked = Some(Instant::now());
        true
    }

    /// Who has which prefix inside the pools, but for what this node has itself.
    pub(super) fn wanted(&mut self, config: &Config, me: &str) -> Wanted {
        let mut wanted = match config.store {
            Store::Etcd(_) => of_store(&self.shown.borrow_and_update(), me),
            Store::Embedded => self.of_routes(),
        };
        let own = config.network.subnets.as_deref().unwrap_or_default();
        let pools = &config.network.pools;
        wanted.names.retain(|prefix, _| !own.contains(prefix) && pools.iter().any(|pool| pool.covers(prefix)));
        wanted
    }

    fn of_routes(&self) -> Wanted {
        let mut names: BTreeMap<IpAddr, Arc<str>> = BTreeMap::new();
        let mut wanted = Wanted { known: self.ready, ..Wanted::default() };
        for (prefix, next_hop) in &self.routes {
            let name = names.entry(*next_hop).or_insert_with(|| next_hop.to_string().into());
            wanted.names.insert(*prefix, Arc::clone(name));
        }
        wanted.addresses = names.into_iter().map(|(address, name)| (name, address)).collect();
        wanted
    }
}

fn of_store(shown: &Shown, me: &str) -> Wanted {
    let mut wanted = Wanted { known: shown.confirmed.is_some(), ..Wanted::default() };
    for claim in shown.claims.iter().filter(|claim| claim.state != "reserved" && claim.node != me) {
        // Hosts of flannel have no name there.
        let name = match (claim.state.as_str(), claim.address) {
            ("foreign", Some(address)) => address.to_string(),
            _ => claim.node.clone(),
        };
        let name: Arc<str> = name.into();
        wanted.addresses.extend(claim.address.map(|address| (Arc::clone(&name), address)));
        wanted.names.insert(claim.subnet, name);
    }
    for node in shown.nodes.iter().filter(|node| !node.this) {
        let name: Arc<str> = node.name.as_str().into();
        for subnet in &node.subnets {
            wanted.names.entry(*subnet).or_insert_with(|| Arc::clone(&name));
        }
        wanted.addresses.insert(name, node.address);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view;

    #[test]
    fn the_store_says_who_has_what() {
        let p = |text: &str| text.parse::<Prefix>().unwrap();
        let claim = |subnet: &str, node: &str, state: &str| view::Claim {
            subnet: p(subnet),
            node: node.to_owned(),
            address: Some("192.0.2.9".parse().unwrap()),
            since: None,
            state: state.to_owned(),
        };
        let claims = vec![
            claim("10.244.1.0/24", "a", "held"),
            claim("10.244.2.0/24", "b", "dead"),
            claim("10.244.3.0/24", "vxlan at 192.0.2.9", "foreign"),
            claim("10.244.4.0/24", "c", "reserved"),
            claim("10.244.5.0/24", "me", "held"),
        ];
        let wanted = of_store(&Shown { claims, ..Shown::default() }, "me");
        let names: Vec<_> = wanted.names.iter().map(|(prefix, name)| (prefix.to_string(), name.to_string())).collect();
        let names: Vec<_> = names.iter().map(|(prefix, name)| (prefix.as_str(), name.as_str())).collect();
        assert_eq!(names, [("10.244.1.0/24", "a"), ("10.244.2.0/24", "b"), ("10.244.3.0/24", "192.0.2.9")]);
        assert!(!wanted.known, "the store has not spoken yet");
    }
}
