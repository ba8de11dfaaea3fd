//! Why the best path of a prefix is the best, and what became of every other.

use std::fmt;
use std::sync::Arc;

use super::decision::{self, Candidate, DEFAULT_LOCAL_PREF, Step};
use super::select::candidates;
use super::{NextHops, PeerId, Rib, Selection};
use crate::bgp::attrs::{Attrs, Community};
use crate::bgp::policy::Reject;
use crate::net::Prefix;

/// What became of a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is the best
    Best,
    /// It is as good as the best, and used beside it
    Multipath,
    /// It is as good as the best, but leads to the same next hop as a path that is used
    SameNextHop,
    /// Its next hop can't be reached
    Unresolvable,
    /// Another was better by this measure
    LostAt(Step),
    /// It was not accepted
    Rejected(Reject),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("best"),
            Self::Multipath => f.write_str("multipath"),
            Self::SameNextHop => f.write_str("same next hop as a path in use"),
            Self::Unresolvable => f.write_str("next hop unreachable"),
            Self::LostAt(step) => write!(f, "lost by {step}"),
            Self::Rejected(reject) => write!(f, "rejected: {}", reject.text()),
        }
    }
}

/// One path of a prefix and what became of it.
#[derive(Clone, Debug)]
pub struct Explained {
    /// Who sent it; [`PeerId::LOCAL`]: this node
    pub peer: PeerId,
    /// Its attributes: after import policy if accepted, else before
    pub attrs: Arc<Attrs>,
    /// Kept from before a restart or refresh
    pub stale: bool,
    /// It takes over if all that are used fail
    pub backup: bool,
    /// What became of it
    pub verdict: Verdict,
    /// The same for people, with the values that were compared
    pub text: String,
}

impl Rib {
    /// Decides for one prefix again and tells what became of every path, the best first, then by
    /// how far each came. Arguments as for [`Rib::decide`].
    pub fn explain(&self, prefix: &Prefix, next_hops: NextHops<'_>, selection: Selection) -> Vec<Explained> {
        let Some(entry) = self.table.find(prefix).and_then(|slot| self.table.get(slot)) else { return Vec::new() };
        let mut equal = candidates(entry.paths(), &self.store, &mut |_, attrs| next_hops(prefix, attrs));
        let all = equal.clone();
        let mut lost = Vec::new();
        decision::elect(&mut equal, &mut |c, step| lost.push((c.source.peer, step)));
        let hops = decision::multipath(&equal, selection.multipath);
        let used: Vec<PeerId> = hops.iter().map(|c| c.source.peer).collect();
        let backup = decision::backup(&all, &hops, selection.multipath);
        let backup = |peer: PeerId| selection.backups && backup.iter().any(|c| c.source.peer == peer);
        let find = |peer: PeerId| all.iter().find(|c| c.source.peer == peer);
        let best = equal.first();

        let verdict = |peer: PeerId| -> Verdict {
            if let Some((_, step)) = lost.iter().find(|(loser, _)| *loser == peer) {
                return Verdict::LostAt(*step);
            }
            let Some((best, own)) = best.zip(equal.iter().find(|c| c.source.peer == peer)) else {
                return Verdict::Unresolvable;
            };
            let same_way = |c: &&Candidate<'_>| c.source.peer != peer && c.attrs.next_hop == own.attrs.next_hop;
            match used.iter().position(|other| *other == peer) {
                Some(0) => Verdict::Best,
                Some(_) => Verdict::Multipath,
                None if selection.multipath > 1
                    && equal.iter().take_while(|c| c.source.peer != peer).any(|c| same_way(&c)) =>
                {
                    Verdict::SameNextHop
                }
                None => Verdict::LostAt(own.tie_break(best)),
            }
        };
        let mut explained: Vec<Explained> = entry
            .paths()
            .iter()
            .filter_map(|path| self.store.path(path))
            .map(|path| {
                let (attrs, verdict) = match path.imported() {
                    Ok(attrs) => (attrs, verdict(path.peer)),
                    Err(reject) => (path.raw, Verdict::Rejected(reject)),
                };
                let mut text = match (verdict, find(path.peer), best) {
                    (Verdict::LostAt(step), Some(own), Some(best)) => compared(step, own, best),
                    (Verdict::Unresolvable, _, _) => format!("no way to its next hop {}", attrs.next_hop),
                    _ => verdict.to_string(),
                };
                let backup = backup(path.peer);
                if backup {
                    text.push_str("; backup");
                }
                Explained { peer: path.peer, attrs: attrs.clone(), stale: path.stale, backup, verdict, text }
            })
            .collect();
        explained.sort_by_key(|e| {
            let rank = match e.verdict {
                Verdict::Best => (0, 0),
                Verdict::Multipath => (1, 0),
                Verdict::SameNextHop => (2, 0),
                // Who lost late came far.
                Verdict::LostAt(step) => (3, u8::MAX - step as u8),
                Verdict::Unresolvable => (4, 0),
                Verdict::Rejected(_) => (5, 0),
            };
            (rank, e.peer)
        });
        explained
    }
}

/// `AS path length 3, the best has 2`
fn compared(step: Step, own: &Candidate<'_>, best: &Candidate<'_>) -> String {
    let pair =
        |name: &str, own: &dyn fmt::Display, best: &dyn fmt::Display| format!("{name} {own}, the best has {best}");
    let local_pref = |c: &Candidate<'_>| c.attrs.local_pref.unwrap_or(DEFAULT_LOCAL_PREF);
    let router_id = |c: &Candidate<'_>| c.attrs.originator_id.unwrap_or(c.source.router_id);
    match step {
        Step::Local => "this node announces the prefix itself".to_owned(),
        Step::LocalPref => {
            let compared = pair("local preference", &local_pref(own), &local_pref(best));
            let leaves = local_pref(own) == 0 && own.attrs.has(Community::GRACEFUL_SHUTDOWN);
            if leaves { compared + " (graceful shutdown: it is about to go away)" } else { compared }
        }
        Step::AsPath => pair("AS path length", &own.attrs.as_path.decision_len(), &best.attrs.as_path.decision_len()),
        Step::Origin => {
            let name = |c: &Candidate<'_>| format!("{:?}", c.attrs.origin).to_lowercase();
            pair("origin", &name(own), &name(best))
        }
        // The best overall need not be the one that had the lower MED.
        Step::Med => match own.attrs.as_path.neighbor() {
            Some(asn) => format!("MED {}, another path through AS {asn} has a lower one", own.attrs.med.unwrap_or(0)),
            None => format!("MED {}, another path has a lower one", own.attrs.med.unwrap_or(0)),
        },
        Step::External => "learned within our AS, the best from another AS".to_owned(),
        Step::Metric => pair("metric to the next hop", &own.metric, &best.metric),
        Step::RouterId => pair("router id", &router_id(own), &router_id(best)),
        Step::ClusterList => pair("cluster list length", &own.attrs.cluster_list.len(), &best.attrs.cluster_list.len()),
        Step::PeerAddress => pair("peer address", &own.address, &best.address),
    }
}
