//! What the routing task answers: numbers, paths, explanations.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::time::Instant;

use super::{Established, Peer, Query, Routing, next_hop, repairs};
use crate::bgp::attrs::{Attrs, Origin};
use crate::bgp::policy::Reject;
use crate::bgp::rib::{Explained, PeerId, Verdict};
use crate::cluster::mesh;
use crate::daemon::journal::Note;
use crate::daemon::time;
use crate::forward::{Hop, Target};
use crate::net::Prefix;
use crate::view::{self, EventKind};

/// Refused routes that `status` names.
const FAILURES: usize = 20;

/// Which routes are to be shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoutesOf {
    /// Only paths of this peer
    pub from: Option<PeerId>,
    /// With `from`: rejected ones too, and as received
    pub before_policy: bool,
    /// What this peer is sent
    pub to: Option<PeerId>,
}

/// Sizes and readiness.
#[derive(Clone, Debug)]
pub struct RoutingStatus {
    /// Whether the first synchronisation is done
    pub ready: bool,
    /// What is waited for, or how it ended
    pub ready_reason: String,
    /// Routing table
    pub rib: view::RibStatus,
    /// Kernel routes
    pub fib: view::FibStatus,
    /// Who else announces subnets of ours
    pub rivals: Vec<view::SubnetRival>,
    /// Repairs of routes and nexthop objects
    pub repairs: Vec<view::Repairs>,
    /// Duels over some of them
    pub duels: Vec<view::Duel>,
    /// Next hops that can't be reached for want of a tunnel device
    pub affected_without_tunnel: Vec<IpAddr>,
}

/// Numbers of a peer.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Prefixes received
    pub received: usize,
    /// Of them accepted
    pub accepted: usize,
    /// Of them rejected, by reason
    pub rejected: BTreeMap<String, usize>,
    /// Kept while the peer restarts
    pub stale: usize,
    /// Prefixes sent to it
    pub advertised: usize,
}

/// What the sessions tell of the network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sessions {
    /// All peers by address
    pub sessions: BTreeMap<IpAddr, mesh::Session>,
    /// What others announce inside the pools, if that was asked for
    pub learned: Vec<Prefix>,
}

impl Routing {
    /// Answers one question; whoever asked may have gone.
    pub(super) fn answer(&mut self, query: Query) {
        match query {
            Query::Publish => self.publish(),
            Query::Status(answer) => drop(answer.send(self.status())),
            Query::Counts(answer) => drop(answer.send(self.counts())),
            Query::Prefixes(of, answer) => drop(answer.send(self.prefixes(of))),
            Query::Routes(of, prefixes, answer) => {
                drop(answer.send(prefixes.iter().flat_map(|prefix| self.routes(of, prefix)).collect()));
            }
            Query::Sessions { learned, answer } => drop(answer.send(self.sessions(learned))),
            Query::Learned(from, answer) => drop(answer.send(self.learned_page(from))),
            Query::Explain(address, kernel, answer) => {
                drop(answer.send(Box::new(self.explain(address, &kernel))));
            }
        }
    }

    fn status(&self) -> RoutingStatus {
        let now = Instant::now().into_std();
        let fib = self.forwarder.stats();
        let failures = self.forwarder.failures().map(|(prefix, failure)| view::Failure {
            prefix,
            error: self.refusals.get(&prefix).cloned().unwrap_or_else(|| failure.error.to_string()),
            attempts: failure.count,
        });
        let conflicts = self.forwarder.conflicts().into_iter().map(|conflict| view::Conflict {
            prefix: conflict.prefix,
            protocol: conflict.protocol.unwrap_or_default(),
            metric: conflict.metric,
            effect: match (conflict.blocks, conflict.metric < self.config.kernel.metric) {
                (true, _) => "it has our metric, so ours is not written",
                (false, true) => "the kernel uses the foreign one, ours lies beside it",
                (false, false) => "the kernel uses ours, the foreign one lies beside it",
            }
            .to_owned(),
        });
        let (repairs, duels, _) = self.shown_repairs();
        RoutingStatus {
            rivals: self.rivals.clone(),
            repairs,
            duels,
            ready: self.sync.is_ready(),
            ready_reason: self.sync.reason(now),
            rib: self.rib_status(),
            fib: view::FibStatus {
                enabled: self.config.kernel.install,
                table: self.config.kernel.table,
                protocol: self.config.kernel.protocol,
                metric: self.config.kernel.metric,
                nexthop_objects: self.objects,
                wanted: fib.wanted,
                installed: fib.installed,
                failed: fib.failed,
                // Chosen without a hop, and never chosen for want of one.
                unresolved: fib.unresolved + self.rib.stats().unreachable,
                stale: fib.stale,
                repaired: repairs::found(&fib).0,
                conflicts: conflicts.collect(),
                failures: failures.take(FAILURES).collect(),
                last_change: self.seen.fib.map(time),
                check: self.seen.check(),
            },
            affected_without_tunnel: self
                .forwarder
                .affected_without_tunnel()
                .into_iter()
                .map(|(addr, _)| addr)
                .collect(),
        }
    }

    pub(super) fn rib_status(&self) -> view::RibStatus {
        let rib = self.rib.stats();
        view::RibStatus {
            prefixes: rib.prefixes,
            paths: rib.paths,
            attribute_sets: rib.attribute_sets,
            last_change: self.seen.rib.map(time),
        }
    }

    pub(super) fn counts(&self) -> BTreeMap<PeerId, Counts> {
        let of = |id: PeerId| {
            let counters = self.rib.counters(id).unwrap_or_default();
            let rejected = Reject::ALL.iter().zip(counters.rejected).filter(|(_, count)| *count > 0);
            Counts {
                received: counters.received,
                accepted: counters.accepted,
                rejected: rejected.map(|(reject, count)| (reject.label().to_owned(), count)).collect(),
                stale: counters.stale,
                advertised: self.outbound.advertised(id),
            }
        };
        self.peers.keys().map(|id| (*id, of(*id))).collect()
    }

    fn sessions(&self, learned: bool) -> Sessions {
        let session = |(id, peer): (&PeerId, &Peer)| {
            let loaded = |session: &Established| !session.loading.iter().any(|(_, loading)| *loading);
            let session = mesh::Session {
                established: peer.session.is_some(),
                synced: peer.session.as_ref().is_some_and(loaded) && self.outbound.is_walked(*id),
                holding: peer.session.is_none() && self.rib.counters(*id).is_some_and(|counters| counters.stale > 0),
            };
            (peer.address, session)
        };
        let learned = if learned { self.learned() } else { Vec::new() };
        Sessions { sessions: self.peers.iter().map(session).collect(), learned }
    }

    /// Whether the peer has ever announced a subnet of ours, as far as its routes tell.
    pub(super) fn has_rivals(&self, id: PeerId) -> bool {
        self.rib.counters(id).is_some_and(|counters| counters.rejected[Reject::OwnSubnet as usize] > 0)
            || !self.rivals.is_empty()
    }

    /// Two nodes with one subnet, from a copied disk or file: each says so, with where the other is.
    pub(super) fn tell_of_rivals(&mut self) {
        if !std::mem::take(&mut self.look_for_rivals) {
            return;
        }
        let of = |subnet: &Prefix| {
            // What comes back to us over others was rejected as a loop.
            let rejected = |path: &Explained| path.verdict == Verdict::Rejected(Reject::OwnSubnet);
            let paths = self.decision(subnet).into_iter().filter(rejected);
            let (subnet, name) = (*subnet, |id| self.name(id));
            let rival =
                |path: Explained| view::SubnetRival { subnet, next_hop: path.attrs.next_hop, from: name(path.peer) };
            paths.map(rival).collect::<Vec<_>>()
        };
        let rivals: Vec<view::SubnetRival> = self.node.subnets.iter().flat_map(of).collect();
        for rival in rivals.iter().filter(|rival| !self.rivals.contains(rival)) {
            tracing::error!(
                subnet = %rival.subnet, next_hop = %rival.next_hop, from = rival.from,
                "a subnet of this node is announced by somebody else too"
            );
            let what = format!("a subnet of this node is announced by {} too", rival.next_hop);
            let note = Note::new(EventKind::Lease, rival.subnet.to_string(), what);
            self.news.journal().note(note.because(format!("told by {}", rival.from)));
        }
        for rival in self.rivals.iter().filter(|rival| !rivals.contains(rival)) {
            tracing::info!(
                subnet = %rival.subnet, next_hop = %rival.next_hop, from = rival.from,
                "a subnet of this node is no longer announced from there"
            );
            let what = format!("a subnet of this node is no longer announced by {}", rival.next_hop);
            self.news.journal().note(Note::new(EventKind::Lease, rival.subnet.to_string(), what));
        }
        self.rivals = rivals;
    }

    fn learned(&self) -> Vec<Prefix> {
        let in_pool = |prefix: &Prefix| self.config.network.pools.iter().any(|pool| pool.covers(prefix));
        let foreign = |prefix: &Prefix| {
            self.rib.view(prefix).is_some_and(|view| view.paths.iter().any(|path| path.peer() != PeerId::LOCAL))
        };
        self.rib.prefixes().into_iter().filter(|prefix| in_pool(prefix) && foreign(prefix)).collect()
    }

    fn prefixes(&self, of: RoutesOf) -> Vec<Prefix> {
        let mut prefixes: Vec<Prefix> = match (of.from, of.to) {
            (Some(from), _) => self.rib.paths_of(from).map(|(prefix, _)| prefix).collect(),
            (None, Some(to)) => match self.outbound.group_of(to) {
                Some(group) => group.sent(to, &self.rib).map(|(prefix, _)| prefix).collect(),
                None => Vec::new(),
            },
            (None, None) => self.rib.prefixes(),
        };
        prefixes.sort_unstable();
        prefixes
    }

    fn routes(&self, of: RoutesOf, prefix: &Prefix) -> Vec<view::Route> {
        if let Some(to) = of.to {
            let sent = self.outbound.group_of(to).and_then(|group| group.get(to, &self.rib, prefix));
            let best = self.rib.view(prefix).and_then(|view| view.best);
            let from = best.map_or_else(|| "local".to_owned(), |best| self.name(best.source.peer));
            return sent.map(|attrs| Self::route(*prefix, from, &attrs, "sent".to_owned())).into_iter().collect();
        }
        if let Some(from) = of.from
            && of.before_policy
        {
            let view = self.rib.view(prefix);
            let path = view.as_ref().and_then(|view| view.paths.iter().find(|path| path.peer() == from));
            return path
                .map(|path| {
                    let verdict = path
                        .imported()
                        .map_or_else(|reject| format!("rejected: {}", reject.text()), |_| "accepted".to_owned());
                    view::Route { stale: path.is_stale(), ..Self::route(*prefix, self.name(from), path.raw(), verdict) }
                })
                .into_iter()
                .collect();
        }
        let explained = self.decision(prefix);
        let shown = explained.iter().filter(|path| match of.from {
            Some(from) => path.peer == from && !matches!(path.verdict, Verdict::Rejected(_)),
            None => true,
        });
        shown.map(|path| self.explained(prefix, path)).collect()
    }

    /// Every path of a prefix and what became of it.
    pub(super) fn decision(&self, prefix: &Prefix) -> Vec<Explained> {
        let metric = |prefix: &Prefix, attrs: &Attrs| self.forwarder.resolve(next_hop(attrs), Some(*prefix)).distance();
        self.rib.explain(prefix, &metric, self.selection())
    }

    pub(super) fn explained(&self, prefix: &Prefix, path: &Explained) -> view::Route {
        let (wanted, actual) = self.forwarder.route(*prefix);
        let hops = match path.verdict {
            Verdict::Best => wanted.as_ref().map(|target| self.forwarder.hops(target)).unwrap_or_default(),
            Verdict::Multipath => self.forwarder.resolve(next_hop(&path.attrs), Some(*prefix)).hops().to_vec(),
            _ => Vec::new(),
        };
        let used = matches!(path.verdict, Verdict::Best | Verdict::Multipath);
        view::Route {
            best: path.verdict == Verdict::Best,
            multipath: used,
            stale: path.stale,
            target: match path.verdict {
                Verdict::Best => wanted.as_ref().map(|target| self.target(target)),
                Verdict::Multipath => Some(self.hops(&hops)),
                _ => None,
            },
            hops: hops.iter().map(|hop| self.hop(hop)).collect(),
            installed: used && wanted.is_some() && wanted == actual,
            ..Self::route(*prefix, self.name(path.peer), &path.attrs, path.text.clone())
        }
    }

    fn hop(&self, hop: &Hop) -> view::Hop {
        view::Hop { gateway: hop.gateway, device: self.forwarder.device_name(hop.device), tunnel: hop.tunnel }
    }

    pub(super) fn name(&self, id: PeerId) -> String {
        match self.peers.get(&id) {
            Some(peer) => peer.name.clone(),
            None => "local".to_owned(),
        }
    }

    /// A path that is not in use.
    fn route(prefix: Prefix, from: String, attrs: &Attrs, verdict: String) -> view::Route {
        let strings = |list: &[crate::bgp::attrs::Community]| list.iter().map(ToString::to_string).collect();
        view::Route {
            prefix,
            best: false,
            multipath: false,
            from,
            next_hop: Some(attrs.next_hop).filter(|addr| !addr.is_unspecified()),
            as_path: attrs.as_path.to_string(),
            origin: match attrs.origin {
                Origin::Igp => "igp",
                Origin::Egp => "egp",
                Origin::Incomplete => "incomplete",
            }
            .to_owned(),
            med: attrs.med,
            local_pref: attrs.local_pref,
            communities: strings(&attrs.communities),
            ext_communities: attrs.ext_communities.iter().map(ToString::to_string).collect(),
            large_communities: attrs.large_communities.iter().map(ToString::to_string).collect(),
            aggregator: attrs.aggregator.map(|(asn, addr)| format!("{asn} {addr}")),
            atomic_aggregate: attrs.atomic_aggregate,
            originator_id: attrs.originator_id,
            cluster_list: attrs.cluster_list.to_vec(),
            stale: false,
            hops: Vec::new(),
            target: None,
            installed: false,
            verdict,
        }
    }

    pub(super) fn target(&self, target: &Target) -> String {
        match target {
            Target::Blackhole => "blackhole".to_owned(),
            Target::Object(id) => format!("{} (nhid {})", self.hops(&self.forwarder.hops(target)), id.0),
            Target::Via(hops) => self.hops(hops),
        }
    }

    pub(super) fn hops(&self, hops: &[Hop]) -> String {
        let one = |hop: &Hop| {
            let hop = self.hop(hop);
            let gateway = hop.gateway.map(|gateway| format!("via {gateway} ")).unwrap_or_default();
            format!("{gateway}dev {}{}", hop.device, if hop.tunnel { " (IP-in-IP)" } else { "" })
        };
        hops.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}
