//! What is offered to a peer.

use std::sync::Arc;

use super::{Edit, Rules, within};
use crate::bgp::attrs::Attrs;
use crate::net::Prefix;

/// Which routes a peer may get.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum ExportScope {
    /// What this node announces: its subnets and the configured announcements
    Subnets,
    /// Those, and what was learned within the pools
    Pools,
    /// All
    All,
    /// None
    None,
    /// As the rules say, for what this node announces as well
    Named(Rules),
}

/// Export policy of a peer.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Export {
    /// Which routes
    pub scope: ExportScope,
    /// Pools that all container subnets lie in
    pub pools: Arc<[Prefix]>,
}

/// Whether a route may be offered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Offer<'a> {
    /// No
    Never,
    /// Yes
    AsItIs,
    /// Yes, after these changes
    Edited(&'a Edit),
}

impl Export {
    /// Whether a route may be offered. `ours`: this node announces it, as a subnet or a configured
    /// announcement; otherwise it was learned.
    pub fn export(&self, prefix: &Prefix, ours: bool, attrs: &Attrs) -> Offer<'_> {
        let offered = match &self.scope {
            ExportScope::None => false,
            ExportScope::All => true,
            ExportScope::Subnets => ours,
            ExportScope::Pools => ours || within(&self.pools, prefix),
            ExportScope::Named(rules) => {
                return match rules.first_match(prefix, attrs).filter(|rule| rule.accept) {
                    None => Offer::Never,
                    Some(rule) if rule.edit.is_empty() => Offer::AsItIs,
                    Some(rule) => Offer::Edited(&rule.edit),
                };
            }
        };
        if offered { Offer::AsItIs } else { Offer::Never }
    }
}
