//! Who may send IP-in-IP to this node, as far as BGP tells: for the guard of the tunnel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Routing;
use crate::bgp::attrs::Attrs;
use crate::daemon::node::KnownEnds;

/// How often those are forgotten that no path names any more: a walk over all sets of attributes.
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// The same where there are as many as are kept.
const FORGET_SOON: Duration = Duration::from_secs(60);
/// Next hops that are kept: no network of ours has so many nodes, and no peer may make us remember more.
const MOST: usize = 65_536;

/// Next hops that say that they end tunnels.
pub(super) struct TunnelEnds {
    heard: BTreeSet<Ipv4Addr>,
    /// They, or the peers, have changed since last told
    changed: bool,
    forgotten: Instant,
    out: watch::Sender<KnownEnds>,
}

impl TunnelEnds {
    pub(super) fn new(out: watch::Sender<KnownEnds>) -> Self {
        Self { heard: BTreeSet::new(), changed: true, forgotten: Instant::now(), out }
    }

    /// A peer announced something with these, whatever becomes of it here: we may not want its routes, and it may use
    /// ours.
    pub(super) fn hear(&mut self, attrs: &Attrs) {
        if let Some(end) = end(attrs)
            && self.heard.len() < MOST
        {
            self.changed |= self.heard.insert(end);
        }
    }

    /// A peer came or went.
    pub(super) const fn touch(&mut self) {
        self.changed = true;
    }
}

fn end(attrs: &Attrs) -> Option<Ipv4Addr> {
    match attrs.next_hop {
        IpAddr::V4(next_hop) if attrs.ends_ipip() => Some(next_hop),
        _ => None,
    }
}

/// Those of `used` that are kept where no more than `most` may be: whoever was heard of before stays.
fn still(heard: &BTreeSet<Ipv4Addr>, used: &BTreeSet<Ipv4Addr>, most: usize) -> BTreeSet<Ipv4Addr> {
    heard.intersection(used).chain(used.difference(heard)).take(most).copied().collect()
}

impl Routing {
    /// Tells the node's firewall if anything of it is new.
    pub(super) fn tell_of_tunnel_ends(&mut self, now: Instant) {
        let ends = &mut self.tunnel_ends;
        let every = if ends.heard.len() < MOST { FORGET_EVERY } else { FORGET_SOON };
        if now.saturating_duration_since(ends.forgotten) >= every {
            ends.forgotten = now;
            let used = still(&ends.heard, &self.rib.attribute_sets().filter_map(end).collect(), MOST);
            ends.changed |= used != ends.heard;
            ends.heard = used;
        }
        let complete = self.sync.is_ready();
        if !ends.changed && ends.out.borrow().complete == complete {
            return;
        }
        ends.changed = false;
        let mut known = ends.heard.clone();
        // Whoever of a range has connected, but not yet said who it is, is anybody.
        let peers = self.peers.values().filter(|peer| !peer.dynamic || peer.session.is_some());
        known.extend(peers.filter_map(|peer| match peer.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }));
        ends.out.send_if_modified(|told| {
            let new = KnownEnds { complete, ends: known };
            let is_new = *told != new;
            *told = new;
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_kept_than_may_be() {
        let set = |ends: &[u8]| ends.iter().map(|end| Ipv4Addr::new(192, 0, 2, *end)).collect::<BTreeSet<_>>();
        for (why, heard, used, kept) in [
            ("who is used no more goes", &[1, 2][..], &[2][..], &[2][..]),
            ("who came while there was no room comes in", &[1, 2], &[2, 3], &[2, 3]),
            ("whoever was there stays", &[7, 8], &[1, 2, 3, 7, 8], &[1, 7, 8]),
        ] {
            assert_eq!(still(&set(heard), &set(used), 3), set(kept), "{why}");
        }
    }
}
