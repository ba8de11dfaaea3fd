//! How long each holder of a subnet has shown no sign of life.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::cluster::mirror::Mirror;

/// How long each holder of a subnet has shown no sign of life, as far as we could see it.
#[derive(Debug, Default)]
pub struct Silence {
    nodes: BTreeMap<String, Duration>,
    /// When we looked last, if the store was in reach then
    looked: Option<Instant>,
}

impl Silence {
    /// Looks again. Time counts only between two looks at a store in reach.
    pub fn pass(&mut self, now: Instant, mirror: &Mirror) {
        let passed = self.looked.take().map_or(Duration::ZERO, |looked| now.saturating_duration_since(looked));
        if !mirror.is_fresh() {
            return;
        }
        self.looked = Some(now);
        let mut before = std::mem::take(&mut self.nodes);
        let owners = mirror.claims().filter_map(|(_, stored)| stored.value.owner());
        for owner in owners.filter(|owner| !mirror.alive().contains_key(&owner.node)) {
            if !self.nodes.contains_key(&owner.node) {
                let silent = before.remove(&owner.node).map_or(Duration::ZERO, |silent| silent + passed);
                self.nodes.insert(owner.node.clone(), silent);
            }
        }
    }

    /// How long a node has been silent; none: it lives or holds nothing.
    pub fn of(&self, node: &str) -> Option<Duration> {
        self.nodes.get(node).copied()
    }
}
