//! What is accepted from a peer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{Edit, Rule, Rules, within};
use crate::bgp::attrs::{Attrs, Community};
use crate::net::{Asn, Prefix};

/// What the policy must know of this node.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Node {
    /// Our AS
    pub asn: Asn,
    /// Our BGP identifier
    pub router_id: Ipv4Addr,
    /// Our cluster as a route reflector (RFC 4456 §7)
    pub cluster_id: Ipv4Addr,
    /// All addresses of this host
    pub addresses: Arc<[IpAddr]>,
    /// Our own container subnets
    pub subnets: Arc<[Prefix]>,
    /// Pools that all container subnets lie in
    pub pools: Arc<[Prefix]>,
}

/// What the policy must know of the peer that sent a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sender {
    /// Its AS
    pub asn: Asn,
    /// It is in another AS
    pub external: bool,
    /// How often our own AS may stand in a path
    pub allow_own_as: u8,
}

/// Which prefixes a peer may bring.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum ImportScope {
    /// Those within the pools
    Pools,
    /// None
    None,
    /// All but our own subnets
    All,
    /// As the rules say
    Named(Rules),
}

/// Import policy of a peer.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Import {
    /// Which prefixes
    pub scope: ImportScope,
    /// Us
    pub node: Arc<Node>,
    /// A path that another AS marks with GRACEFUL_SHUTDOWN is the last choice (RFC 8326)
    pub graceful_shutdown: bool,
}

/// Why a path was not accepted. A label of metrics, so few values and stable names.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Reject {
    /// Our own AS stands in the path (RFC 4271 §9.1.2)
    AsLoop,
    /// We originated it (RFC 4456 §8)
    OriginatorLoop,
    /// It has been through our cluster (RFC 4456 §8)
    ClusterLoop,
    /// The first AS of the path is not the peer's (RFC 4271 §6.3)
    FirstAs,
    /// Its next hop is this host (RFC 4271 §5.1.3)
    NextHopSelf,
    /// A default route that nobody asked for
    DefaultRoute,
    /// One of our own subnets, or a part of one
    OwnSubnet,
    /// Outside the pools
    OutsidePools,
    /// The policy is to import nothing
    PolicyNone,
    /// A rule rejects it, or no rule accepts it
    PolicyRule,
}

impl Reject {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Every reason, in order of its number.
    pub const ALL: [Self; 10] = [
        Self::AsLoop,
        Self::OriginatorLoop,
        Self::ClusterLoop,
        Self::FirstAs,
        Self::NextHopSelf,
        Self::DefaultRoute,
        Self::OwnSubnet,
        Self::OutsidePools,
        Self::PolicyNone,
        Self::PolicyRule,
    ];

    /// Name in metrics and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::AsLoop => "as-loop",
            Self::OriginatorLoop => "originator-loop",
            Self::ClusterLoop => "cluster-loop",
            Self::FirstAs => "first-as",
            Self::NextHopSelf => "next-hop-self",
            Self::DefaultRoute => "default-route",
            Self::OwnSubnet => "own-subnet",
            Self::OutsidePools => "outside-pools",
            Self::PolicyNone => "policy-none",
            Self::PolicyRule => "policy-rule",
        }
    }

    /// What a person reads.
    pub const fn text(self) -> &'static str {
        match self {
            Self::AsLoop => "our own AS is in its path",
            Self::OriginatorLoop => "we originated it (ORIGINATOR_ID is our router id)",
            Self::ClusterLoop => "it has passed our cluster (CLUSTER_LIST has our cluster id)",
            Self::FirstAs => "the first AS of its path is not the peer's",
            Self::NextHopSelf => "its next hop is this host",
            Self::DefaultRoute => "a default route is not imported unless the policy says so",
            Self::OwnSubnet => "it lies in our own subnet",
            Self::OutsidePools => "it lies outside the pools",
            Self::PolicyNone => "nothing is imported from this peer",
            Self::PolicyRule => "no rule of the policy accepts it",
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Serialize for Reject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

impl Import {
    /// The whole answer for one path: accepted, with what to change, or why not.
    pub fn import(&self, sender: &Sender, prefix: &Prefix, attrs: &Attrs) -> Result<Option<&Edit>, Reject> {
        self.admit(sender, attrs)?;
        self.accept(prefix, attrs)
    }

    /// The part of the answer that is the same for all prefixes of a message: loops and nonsense.
    pub fn admit(&self, sender: &Sender, attrs: &Attrs) -> Result<(), Reject> {
        let node = &self.node;
        let own = attrs.as_path.numbers().filter(|asn| *asn == node.asn).count();
        if own > usize::from(sender.allow_own_as) {
            return Err(Reject::AsLoop);
        }
        if attrs.originator_id == Some(node.router_id) {
            return Err(Reject::OriginatorLoop);
        }
        if attrs.cluster_list.contains(&node.cluster_id) {
            return Err(Reject::ClusterLoop);
        }
        if sender.external && attrs.as_path.neighbor() != Some(sender.asn) {
            return Err(Reject::FirstAs);
        }
        if node.addresses.contains(&attrs.next_hop) {
            return Err(Reject::NextHopSelf);
        }
        Ok(())
    }

    /// The part of the answer that depends on the prefix.
    pub fn accept(&self, prefix: &Prefix, attrs: &Attrs) -> Result<Option<&Edit>, Reject> {
        let own = within(&self.node.subnets, prefix);
        match &self.scope {
            ImportScope::None => Err(Reject::PolicyNone),
            ImportScope::Pools if prefix.len() == 0 => Err(Reject::DefaultRoute),
            ImportScope::Pools | ImportScope::All if own => Err(Reject::OwnSubnet),
            ImportScope::Pools if !within(&self.node.pools, prefix) => Err(Reject::OutsidePools),
            ImportScope::Pools | ImportScope::All => Ok(None),
            ImportScope::Named(rules) => match rules.first_match(prefix, attrs) {
                Some(rule) if !rule.accept => Err(Reject::PolicyRule),
                Some(rule) if own && !self.names_own(rule, prefix) => Err(Reject::OwnSubnet),
                Some(rule) => Ok((!rule.edit.is_empty()).then_some(&rule.edit)),
                None => Err(Reject::PolicyRule),
            },
        }
    }

    /// Whether an accepted path is about to go away, so that it gets LOCAL_PREF 0 and any other is
    /// preferred (RFC 8326 §4.1). Within an AS the LOCAL_PREF comes along. Asked after the policy's
    /// edits: one that removes the community thinks otherwise, one that adds it says so itself.
    pub fn leaves(&self, sender: &Sender, attrs: &Attrs) -> bool {
        self.graceful_shutdown && sender.external && attrs.has(Community::GRACEFUL_SHUTDOWN)
    }

    /// Whether the rule speaks of our own subnet, rather than of something around it.
    fn names_own(&self, rule: &Rule, prefix: &Prefix) -> bool {
        rule.prefixes.iter().any(|p| p.matches(prefix) && within(&self.node.subnets, &p.prefix))
    }
}
