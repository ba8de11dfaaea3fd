//! What a route looks like to a group of like peers: whether it may go there, and with which
//! attributes (RFC 4271 §5, §9.2; RFC 1997; RFC 4456).
//!
//! The answer depends on nothing but the route and the settings, so nobody has to remember what was
//! sent: it can be worked out again.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::decision::DEFAULT_LOCAL_PREF;
use super::{Kind, Selected};
use crate::bgp::attrs::{Attrs, Community, ExtCommunity};
use crate::bgp::message::Codec;
use crate::bgp::policy::{Edit, Export, Offer};
use crate::net::{Asn, Family, PerFamily, Prefix};

/// All that the messages to a peer depend on. Peers with equal settings share a group.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, known by that name in the configuration")]
pub struct ExportSettings {
    /// The peers are in another AS
    pub external: bool,
    /// The peers are our clients as a route reflector
    pub client: bool,
    /// Our AS
    pub local_asn: Asn,
    /// Our cluster as a route reflector
    pub cluster_id: Ipv4Addr,
    /// We are the next hop also of what peers of our AS learn from us
    pub next_hop_self: bool,
    /// This node ends IP-in-IP tunnels and says so where it is the next hop (RFC 9012 §4.1)
    pub ends_ipip: bool,
    /// We are about to leave: others shall take any other path (RFC 8326)
    pub graceful_shutdown: bool,
    /// Our address on the session, per family; without one the family is not sent
    pub next_hops: PerFamily<Option<IpAddr>>,
    /// Families agreed on
    pub families: PerFamily<bool>,
    /// Export policy
    pub export: Arc<Export>,
    /// What the bytes look like
    pub codec: Codec,
}

impl ExportSettings {
    /// Whether a route may go to the group, but for its own sender; with what to change.
    pub(super) fn offer(&self, prefix: &Prefix, route: &Selected) -> Offer<'_> {
        let family = prefix.family();
        let (attrs, kind) = (&*route.attrs, route.source.kind);
        let Some(own) = self.next_hops[family].filter(|_| self.families[family]) else { return Offer::Never };
        let next_hop = if self.rewrites_next_hop(kind) { own } else { attrs.next_hop };
        // Neither is known by another family's next hop, which would need RFC 8950.
        if Family::of(next_hop) != family {
            return Offer::Never;
        }
        // What came from our AS goes on within it only by reflection (RFC 4456 §6): from clients to
        // all, from others to clients.
        if !self.external && kind == Kind::Internal && !self.client {
            return Offer::Never;
        }
        // These bind whoever received them (RFC 1997); what we announce ourselves carries them to
        // the peer, who is then bound.
        if kind != Kind::Local {
            let inside = [Community::NO_EXPORT, Community::NO_EXPORT_SUBCONFED];
            if attrs.has(Community::NO_ADVERTISE) || self.external && inside.iter().any(|c| attrs.has(*c)) {
                return Offer::Never;
            }
        }
        self.export.export(prefix, kind == Kind::Local, attrs)
    }

    /// The attributes that the group gets to see of a route that it may get.
    pub(super) fn rewrite(&self, family: Family, route: &Selected, edit: Option<&Edit>) -> Attrs {
        let kind = route.source.kind;
        let mut attrs = Attrs::clone(&route.attrs);
        attrs.link_local = None;
        if self.external {
            // A MED goes one AS far (RFC 4271 §5.1.4).
            attrs.med = attrs.med.filter(|_| kind == Kind::Local);
        }
        if let Some(edit) = edit {
            edit.apply(&mut attrs);
        }
        if self.graceful_shutdown && !attrs.has(Community::GRACEFUL_SHUTDOWN) {
            // RFC 8326 §4.2, on own and learned routes alike: all of them end with us.
            let mut list = attrs.communities.to_vec();
            list.push(Community::GRACEFUL_SHUTDOWN);
            list.sort_unstable();
            attrs.communities = list.into();
        }
        if let Some(own) = self.next_hops[family].filter(|_| self.rewrites_next_hop(kind)) {
            attrs.next_hop = own;
            if kind != Kind::Local && attrs.ends_ipip() != self.ends_ipip {
                // It speaks of the next hop, which is now another.
                let mut list = attrs.ext_communities.to_vec();
                if self.ends_ipip {
                    list.push(ExtCommunity::ENCAP_IPIP);
                    list.sort_unstable();
                } else {
                    list.retain(|c| *c != ExtCommunity::ENCAP_IPIP);
                }
                attrs.ext_communities = list.into();
            }
        }
        if self.external {
            let times = edit.map_or(0, |edit| edit.prepend).saturating_add(1);
            attrs.as_path = attrs.as_path.prepended(self.local_asn, times);
            // Words of our AS only (RFC 4271 §5.1.5, RFC 4456 §8, RFC 4360 §6).
            attrs.local_pref = None;
            attrs.originator_id = None;
            attrs.cluster_list = Box::default();
            if !attrs.ext_communities.iter().all(|c| c.is_transitive()) {
                attrs.ext_communities = attrs.ext_communities.iter().copied().filter(|c| c.is_transitive()).collect();
            }
        } else {
            // RFC 8326 §4: zero is below all alternatives.
            let leaving = self.graceful_shutdown.then_some(0);
            attrs.local_pref = leaving.or(attrs.local_pref).or(Some(DEFAULT_LOCAL_PREF));
            if matches!(kind, Kind::Client | Kind::Internal) {
                // Reflected (RFC 4456 §8)
                attrs.originator_id = attrs.originator_id.or(Some(route.source.router_id));
                let passed = attrs.cluster_list.iter().copied();
                attrs.cluster_list = std::iter::once(self.cluster_id).chain(passed).collect();
            }
        }
        attrs
    }

    /// Whether we put ourselves as the next hop (RFC 4271 §5.1.3).
    fn rewrites_next_hop(&self, kind: Kind) -> bool {
        self.external || self.next_hop_self || kind == Kind::Local
    }

    /// Both of the above.
    pub(super) fn exported(&self, prefix: &Prefix, route: &Selected) -> Option<Attrs> {
        match self.offer(prefix, route) {
            Offer::Never => None,
            Offer::AsItIs => Some(self.rewrite(prefix.family(), route, None)),
            Offer::Edited(edit) => Some(self.rewrite(prefix.family(), route, Some(edit))),
        }
    }
}
