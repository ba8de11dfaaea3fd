//! Best path (RFC 4271 §9.1.2) as an elimination over all candidates at once.
//!
//! Each [`Step`] keeps the candidates that are best by one measure. What is left after
//! [`Step::Metric`] is of equal cost and forms the multipath set; the rest of the steps put it in
//! a fixed order. Comparing in pairs instead would depend on the order of arrival, as MEDs are
//! comparable only within one neighbour AS. Age is no criterion, for the same reason.
//!
//! Equal length of the AS path is enough for multipath, whatever AS numbers it has.

use std::cmp::Reverse;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde::Serialize;
use smallvec::SmallVec;

use super::{Choice, Kind, PeerId, Source};
use crate::bgp::attrs::Attrs;
use crate::net::Asn;

/// A measure that candidates are compared by, in order of their use.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// What this node announces itself wins
    Local,
    /// Highest LOCAL_PREF, 100 if absent
    LocalPref,
    /// Shortest AS path (RFC 4271 §9.1.2.2 a)
    AsPath,
    /// Lowest ORIGIN (b)
    Origin,
    /// Lowest MED among paths through the same neighbour AS, 0 if absent (c)
    Med,
    /// eBGP over iBGP (d)
    External,
    /// Lowest metric to the next hop (e)
    Metric,
    /// Lowest BGP identifier, ORIGINATOR_ID in its place (f; RFC 4456 §9)
    RouterId,
    /// Shortest CLUSTER_LIST (RFC 4456 §9)
    ClusterList,
    /// Lowest peer address (g)
    PeerAddress,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "announced by this node",
            Self::LocalPref => "local preference",
            Self::AsPath => "AS path length",
            Self::Origin => "origin",
            Self::Med => "MED",
            Self::External => "eBGP over iBGP",
            Self::Metric => "metric to the next hop",
            Self::RouterId => "router id",
            Self::ClusterList => "cluster list length",
            Self::PeerAddress => "peer address",
        })
    }
}

/// LOCAL_PREF of a path that has none.
pub(super) const DEFAULT_LOCAL_PREF: u32 = 100;

/// An accepted path whose next hop can be reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub attrs: &'a Arc<Attrs>,
    pub source: Source,
    /// Address of the peer
    pub address: IpAddr,
    /// Metric to the next hop
    pub metric: u32,
    /// The path
    pub choice: Choice,
}

/// Most prefixes have few.
pub(super) type Candidates<'a> = SmallVec<[Candidate<'a>; 4]>;

impl Candidate<'_> {
    fn order(&self) -> (Ipv4Addr, usize, IpAddr, PeerId) {
        let id = self.attrs.originator_id.unwrap_or(self.source.router_id);
        (id, self.attrs.cluster_list.len(), self.address, self.source.peer)
    }

    /// Where this one loses against `best`, given that both are of equal cost.
    pub fn tie_break(&self, best: &Self) -> Step {
        let (own, best) = (self.order(), best.order());
        if own.0 != best.0 {
            Step::RouterId
        } else if own.1 != best.1 {
            Step::ClusterList
        } else {
            Step::PeerAddress
        }
    }
}

/// Leaves the candidates of equal cost, the best first; tells `lost` about the others.
pub(super) fn elect(candidates: &mut Candidates<'_>, lost: &mut impl FnMut(&Candidate<'_>, Step)) {
    if candidates.len() < 2 {
        return;
    }
    keep(candidates, Step::Local, lost, |c| c.source.kind != Kind::Local);
    keep(candidates, Step::LocalPref, lost, |c| Reverse(c.attrs.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)));
    keep(candidates, Step::AsPath, lost, |c| c.attrs.as_path.decision_len());
    keep(candidates, Step::Origin, lost, |c| c.attrs.origin);
    keep_lowest_meds(candidates, lost);
    keep(candidates, Step::External, lost, |c| c.source.kind != Kind::External);
    keep(candidates, Step::Metric, lost, |c| c.metric);
    candidates.sort_unstable_by_key(Candidate::order);
}

/// Where `best` stands among others is decided by the lowest `key`.
fn keep<K: Ord>(
    candidates: &mut Candidates<'_>,
    step: Step,
    lost: &mut impl FnMut(&Candidate<'_>, Step),
    key: impl Fn(&Candidate<'_>) -> K,
) {
    if candidates.len() < 2 {
        return;
    }
    let Some(lowest) = candidates.iter().map(&key).min() else { return };
    candidates.retain(|c| {
        let stays = key(c) == lowest;
        if !stays {
            lost(c, step);
        }
        stays
    });
}

/// MEDs compare only within one neighbour AS (RFC 4271 §9.1.2.2 c). Paths that begin in our own AS
/// have none and compare among themselves.
fn keep_lowest_meds(candidates: &mut Candidates<'_>, lost: &mut impl FnMut(&Candidate<'_>, Step)) {
    // Without any MED all are equal: the usual case.
    if candidates.len() < 2 || candidates.iter().all(|c| c.attrs.med.unwrap_or(0) == 0) {
        return;
    }
    let mut lowest: SmallVec<[(Option<Asn>, u32); 4]> = SmallVec::new();
    for c in candidates.iter() {
        let (neighbor, med) = (c.attrs.as_path.neighbor(), c.attrs.med.unwrap_or(0));
        match lowest.iter_mut().find(|(other, _)| *other == neighbor) {
            Some((_, least)) => *least = med.min(*least),
            None => lowest.push((neighbor, med)),
        }
    }
    candidates.retain(|c| {
        let stays = lowest.contains(&(c.attrs.as_path.neighbor(), c.attrs.med.unwrap_or(0)));
        if !stays {
            lost(c, Step::Med);
        }
        stays
    });
}

/// The members of the multipath set among candidates of equal cost, best first: at most `limit`,
/// each by another way. Two reflectors that show the same next hop make no second path.
pub(super) fn multipath<'a>(equal: &[Candidate<'a>], limit: usize) -> Candidates<'a> {
    let limit = match equal {
        // Nothing is balanced over what this node announces itself.
        [best, ..] if best.source.kind != Kind::Local => limit.max(1),
        _ => 1,
    };
    let new_way = move |i: usize| {
        let way = |c: &Candidate<'_>| (c.attrs.next_hop, c.attrs.link_local, c.attrs.ends_ipip());
        equal.get(i).is_some_and(|c| !equal.iter().take(i).any(|earlier| way(earlier) == way(c)))
    };
    equal.iter().enumerate().filter(move |(i, _)| *i == 0 || new_way(*i)).map(|(_, c)| *c).take(limit).collect()
}

/// What the decision would choose without `hops`: among candidates with other next hops, so that the
/// failure of a next hop is covered as well as that of a peer; among all others where there are none.
pub(super) fn backup<'a>(all: &[Candidate<'a>], hops: &[Candidate<'a>], limit: usize) -> Candidates<'a> {
    // What this node announces itself doesn't fail.
    if hops.first().is_none_or(|best| best.source.kind == Kind::Local) {
        return Candidates::new();
    }
    let chosen = |c: &Candidate<'_>| hops.iter().any(|hop| hop.source.peer == c.source.peer);
    let same_hop = |c: &Candidate<'_>| hops.iter().any(|hop| hop.attrs.next_hop == c.attrs.next_hop);
    let mut left: Candidates<'_> = all.iter().filter(|c| !chosen(c)).copied().collect();
    if !left.iter().all(same_hop) {
        left.retain(|c| !same_hop(c));
    }
    elect(&mut left, &mut |_, _| {});
    multipath(&left, limit)
}
