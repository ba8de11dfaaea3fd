//! Which routes are accepted from a peer and which are offered to it.
//!
//! A policy is a value: it looks at a prefix and its attributes and answers. It keeps no routes
//! (that is `rib`) and changes no attribute by itself: an answer carries the [`Edit`] to make.
//!
//! Without a policy by name nothing is imported from outside the pools and nothing but what this
//! node announces itself is exported (RFC 8212).

mod export;
mod import;
#[cfg(test)]
mod tests;

pub use export::{Export, ExportScope, Offer};
pub use import::{Import, ImportScope, Node, Reject, Sender};

use std::sync::Arc;

use crate::bgp::attrs::{Attrs, Community};
use crate::net::{Asn, Prefix};

/// A list of rules under a name of the configuration; the first that matches decides, and what
/// none matches is rejected.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// The first rule that matches.
    pub fn first_match(&self, prefix: &Prefix, attrs: &Attrs) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.matches(prefix, attrs))
    }
}

/// One rule: all of its conditions must hold.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Rule {
    /// One of these must match the prefix; empty: any prefix
    pub prefixes: Vec<PrefixMatch>,
    /// The path carries one of these; empty: any path
    pub communities: Vec<Community>,
    /// One of these AS numbers stands in the path; empty: any path
    pub as_path_contains: Vec<Asn>,
    /// Whether the route is accepted
    pub accept: bool,
    /// What to change in an accepted route
    pub edit: Edit,
}

impl Rule {
    /// Whether all conditions hold.
    pub fn matches(&self, prefix: &Prefix, attrs: &Attrs) -> bool {
        (self.prefixes.is_empty() || self.prefixes.iter().any(|p| p.matches(prefix)))
            && (self.communities.is_empty() || self.communities.iter().any(|c| attrs.has(*c)))
            && (self.as_path_contains.is_empty()
                || attrs.as_path.numbers().any(|asn| self.as_path_contains.contains(&asn)))
    }
}

/// A prefix and the lengths of its more specific prefixes that count as well.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PrefixMatch {
    /// Covers whatever matches
    pub prefix: Prefix,
    /// Shortest length that matches, in bits
    pub ge: u8,
    /// Longest length that matches, in bits
    pub le: u8,
}

impl PrefixMatch {
    /// As the configuration writes it: neither bound means just the prefix itself, `ge` alone
    /// reaches up to host prefixes, `le` alone starts at the prefix's own length.
    pub fn new(prefix: Prefix, ge: Option<u8>, le: Option<u8>) -> Self {
        let longest = if ge.is_some() { prefix.family().bits() } else { prefix.len() };
        Self { prefix, ge: ge.unwrap_or(prefix.len()), le: le.unwrap_or(longest) }
    }

    /// Whether `prefix` lies in it and has a length within the bounds.
    pub fn matches(&self, prefix: &Prefix) -> bool {
        (self.ge..=self.le).contains(&prefix.len()) && self.prefix.covers(prefix)
    }
}

/// Changes to the attributes of an accepted route.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Edit {
    /// Set LOCAL_PREF
    pub local_pref: Option<u32>,
    /// Set MULTI_EXIT_DISC
    pub med: Option<u32>,
    /// Lengthen the AS path this many times: on import by the AS it came from, on export to
    /// another AS by our own; a path within the AS stays as it is (receivers would see a loop)
    pub prepend: u8,
    /// Communities to add
    pub add_communities: Vec<Community>,
    /// Communities to remove, before any is added
    pub remove_communities: Vec<Community>,
}

impl Edit {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Makes the changes, except for [`Edit::prepend`], which the caller knows the AS for.
    pub fn apply(&self, attrs: &mut Attrs) {
        attrs.local_pref = self.local_pref.or(attrs.local_pref);
        attrs.med = self.med.or(attrs.med);
        if !self.add_communities.is_empty() || !self.remove_communities.is_empty() {
            let mut communities = attrs.communities.to_vec();
            communities.retain(|c| !self.remove_communities.contains(c));
            communities.extend(&self.add_communities);
            communities.sort_unstable();
            communities.dedup();
            attrs.communities = communities.into();
        }
    }
}

/// Whether one of `prefixes` covers `prefix`.
fn within(prefixes: &Arc<[Prefix]>, prefix: &Prefix) -> bool {
    prefixes.iter().any(|outer| outer.covers(prefix))
}
