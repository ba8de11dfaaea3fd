//! Who may send IP-in-IP to us, put together from all who know of anybody.
//!
//! It must never keep off a node of ours: a node that starts refuses nothing before the first synchronisation is
//! done, or goes on with whom a former run knew; and whoever was known stays so for long ([`Ends`]).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep_until;

use super::{TABLE, TUNNEL, with_source};
use crate::config::{Config, PeerAddress};
use crate::daemon::identity::Identity;
use crate::firewall::ends::Ends;
use crate::firewall::{self, listed_ends};
use crate::forward::TunnelMode;
use crate::io::nft;
use crate::io::tunnel::{self, Foreign};

/// Least time between two changes: when hundreds of nodes come at once they come together.
const PACE: Duration = Duration::from_millis(200);

/// Tunnel ends that BGP knows of.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KnownEnds {
    /// The first synchronisation is done: whoever there is has had the time to be heard of
    pub complete: bool,
    /// Peers, and next hops that say that they end tunnels
    pub ends: BTreeSet<Ipv4Addr>,
}

/// What is known.
pub(super) struct Guard {
    learned: watch::Receiver<KnownEnds>,
    /// There is news that was not taken in yet
    news: bool,
    /// When it was last taken in
    taken: Option<tokio::time::Instant>,
    ends: Ends,
    /// The first synchronisation was done once, or in a former run
    settled: bool,
    /// How many ends had to be forgotten before their time
    forgotten: usize,
    foreign: Vec<Foreign>,
    /// The configuration wants one
    pub is_wanted: bool,
    /// Why nothing is refused though it should be
    pub waits: Option<&'static str>,
}

impl Guard {
    pub(super) fn new(learned: watch::Receiver<KnownEnds>) -> Self {
        let (ends, foreign) = (Ends::default(), Vec::new());
        let (settled, forgotten, is_wanted) = (false, 0, false);
        Self { learned, news: false, taken: None, ends, settled, forgotten, foreign, is_wanted, waits: None }
    }

    /// At start: goes on with whom a former run knew, if its table is there.
    pub(super) async fn adopt(&mut self) {
        if self.taken.is_some() {
            return;
        }
        let Ok(Some(table)) = nft::list(TABLE).await else { return };
        let former = listed_ends(&table);
        self.settled = !former.is_empty();
        self.ends.adopt(former, tokio::time::Instant::now().into_std());
    }

    /// Waits for news of tunnel ends. Safe to cancel.
    pub(super) async fn heard(&mut self) {
        if !self.news && self.learned.changed().await.is_err() {
            return std::future::pending().await;
        }
        self.news = true;
        if let Some(taken) = self.taken {
            sleep_until(taken + PACE).await;
        }
    }

    /// Reads the tunnels of others anew.
    pub(super) async fn look(&mut self) {
        match tunnel::foreign(TUNNEL).await {
            Ok(found) => self.foreign = found,
            Err(error) => tracing::debug!(error = with_source(&error), "tunnels of others can't be read"),
        }
    }

    /// The guard that should be in force; `None`: none. `device`: ours is there.
    pub(super) fn wanted(&mut self, config: &Config, identity: &Identity, device: bool) -> Option<firewall::Guard> {
        (self.is_wanted, self.waits) = (false, None);
        // Taken in also where it makes no difference: what is not would be news for ever.
        (self.news, self.taken) = (false, Some(tokio::time::Instant::now()));
        let network = &config.network;
        let IpAddr::V4(node) = identity.address else { return None };
        if !config.firewall.tunnel_guard || network.tunnel == TunnelMode::Never || !config.kernel.install {
            return None;
        }
        self.is_wanted = true;
        let learned = self.learned.borrow_and_update();
        let complete = learned.complete;
        let (mut named, mut prefixes) = (learned.ends.clone(), Vec::new());
        drop(learned);
        named.insert(node);
        for prefix in &network.tunnel_endpoints {
            match prefix.addr() {
                IpAddr::V4(end) if prefix.len() == 32 => drop(named.insert(end)),
                _ => prefixes.push(*prefix),
            }
        }
        named.extend(config.bgp.peers.iter().filter_map(|peer| match peer.address {
            PeerAddress::One(IpAddr::V4(address)) => Some(address),
            _ => None,
        }));
        // A tunnel of somebody else with two fixed ends comes before ours (net/ipv4/ip_tunnel.c, ip_tunnel_lookup).
        named.extend(self.foreign.iter().filter_map(|tunnel| tunnel.remote));
        let forgotten = self.ends.name(&named, complete, tokio::time::Instant::now().into_std());
        if forgotten > 0 && self.forgotten == 0 {
            tracing::warn!(
                forgotten,
                "peers name ever other tunnel ends: of those no longer named only the last are known"
            );
        }
        self.forgotten = self.forgotten.saturating_add(forgotten);
        self.settled |= complete;
        if !self.settled {
            self.waits = Some("nothing is refused before the first synchronisation is done");
            return None;
        }
        if !device && takes_ours(&self.foreign, node) {
            self.waits = Some("a tunnel of somebody else takes what is sent to this node's address");
            return None;
        }
        Some(firewall::Guard { node, ends: self.ends.known(), prefixes })
    }
}

/// Whether somebody else's tunnel takes packets from anybody to this address while ours is not there. Where no device
/// takes them at all they go nowhere, and the guard harms nobody.
fn takes_ours(foreign: &[Foreign], node: Ipv4Addr) -> bool {
    foreign.iter().any(|tunnel| tunnel.remote.is_none() && tunnel.local.is_none_or(|local| local == node))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::FutureExt;

    use super::*;
    use crate::daemon::identity::Identity;

    fn config(lines: &str) -> Config {
        let text = format!("[network]\npools = [\"10.244.0.0/16\"]\nsubnets = []\n{lines}\n");
        crate::config::parse(&text, &mut |_| unreachable!()).unwrap()
    }

    fn identity() -> Identity {
        let (address, router_id) = ("192.0.2.11".parse().unwrap(), "192.0.2.11".parse().unwrap());
        Identity { name: "host-a".to_owned(), address, router_id, asn: crate::net::Asn(64512) }
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn everybody_who_is_known_by_any_way() {
        let config = config(
            "tunnel_endpoints = [\"192.0.2.20/32\", \"198.51.100.0/24\"]\n[bgp]\nasn = 64512\n\
             [[bgp.peers]]\naddress = \"192.0.2.1\"\nasn = 64512\n\
             [[bgp.peers]]\nname = \"range\"\naddress = \"203.0.113.0/24\"\nasn = 64512\n",
        );
        let (bgp, learned) = watch::channel(KnownEnds::default());
        let mut guard = Guard::new(learned);
        assert_eq!(guard.wanted(&config, &identity(), true), None, "nobody was heard of yet");
        assert!(guard.waits.is_some_and(|why| why.contains("first synchronisation")));

        bgp.send_replace(KnownEnds { complete: true, ends: [ip("192.0.2.30"), ip("192.0.2.1")].into() });
        guard.foreign.push(Foreign { local: None, remote: Some(ip("192.0.2.40")) });
        let found = guard.wanted(&config, &identity(), true).unwrap();
        let ends = ["192.0.2.1", "192.0.2.11", "192.0.2.20", "192.0.2.30", "192.0.2.40"].map(ip);
        assert_eq!(found.ends, ends.into());
        assert_eq!((found.node, found.prefixes), (ip("192.0.2.11"), vec!["198.51.100.0/24".parse().unwrap()]));

        bgp.send_replace(KnownEnds { complete: true, ends: BTreeSet::new() });
        assert_eq!(guard.wanted(&config, &identity(), true).unwrap().ends, ends.into(), "what it sends is under way");
    }

    #[tokio::test]
    async fn a_former_run_knew_whom_to_expect() {
        let config = config("[bgp]\nasn = 64512");
        let mut guard = Guard::new(watch::channel(KnownEnds::default()).1);
        guard.settled = true;
        guard.ends.adopt([ip("192.0.2.12")], Instant::now());
        let found = guard.wanted(&config, &identity(), true).unwrap();
        assert_eq!(found.ends, [ip("192.0.2.11"), ip("192.0.2.12")].into());
    }

    #[tokio::test]
    async fn only_what_our_own_tunnel_would_take() {
        let ours = ip("192.0.2.11");
        let cases = [
            ("nobody takes them", false, vec![], true),
            ("ours is there: it comes before any without ends", true, vec![(None, None)], true),
            ("tunl0 of a network that is being left", false, vec![(None, None)], false),
            ("somebody made one with our address", false, vec![(Some(ours), None)], false),
            ("with another address of the host", false, vec![(Some(ip("192.0.2.99")), None)], true),
            ("between two hosts", false, vec![(Some(ours), Some(ip("192.0.2.40")))], true),
        ];
        for (why, device, foreign, guarded) in cases {
            let learned = KnownEnds { complete: true, ends: BTreeSet::new() };
            let mut guard = Guard::new(watch::channel(learned).1);
            guard.foreign = foreign.into_iter().map(|(local, remote)| Foreign { local, remote }).collect();
            let found = guard.wanted(&config("[bgp]\nasn = 64512"), &identity(), device);
            assert_eq!((found.is_some(), guard.waits.is_none()), (guarded, guarded), "{why}");
        }
        for (why, lines) in [
            ("turned off", "[firewall]\ntunnel_guard = false\n[bgp]\nasn = 64512"),
            ("no tunnel", "tunnel = \"never\"\n[bgp]\nasn = 64512"),
            ("nothing is to be written", "[kernel]\ninstall = false\n[bgp]\nasn = 64512"),
        ] {
            let learned = KnownEnds { complete: true, ends: BTreeSet::new() };
            let mut guard = Guard::new(watch::channel(learned).1);
            assert_eq!(guard.wanted(&config(lines), &identity(), true), None, "{why}");
            assert_eq!(guard.waits, None, "{why}");
        }
    }

    #[tokio::test]
    async fn news_that_come_together_are_taken_in_together() {
        let (bgp, learned) = watch::channel(KnownEnds::default());
        let mut guard = Guard::new(learned);
        let config = config("[bgp]\nasn = 64512");
        bgp.send_replace(KnownEnds { complete: true, ends: [ip("192.0.2.30")].into() });
        assert!(guard.heard().now_or_never().is_some(), "the first at once");
        guard.wanted(&config, &identity(), true);
        bgp.send_replace(KnownEnds { complete: true, ends: [ip("192.0.2.31")].into() });
        assert!(guard.heard().now_or_never().is_none(), "the next a little later");
        guard.heard().await;
        assert!(guard.wanted(&config, &identity(), true).is_some_and(|guard| guard.ends.contains(&ip("192.0.2.31"))));
    }

    #[tokio::test]
    async fn what_is_taken_in_is_no_news_even_where_no_guard_is_wanted() {
        let (bgp, learned) = watch::channel(KnownEnds::default());
        let mut guard = Guard::new(learned);
        let config = config("tunnel = \"never\"\n[bgp]\nasn = 64512");
        bgp.send_replace(KnownEnds { complete: true, ends: [ip("192.0.2.30")].into() });
        assert!(guard.heard().now_or_never().is_some());
        assert_eq!(guard.wanted(&config, &identity(), true), None);
        guard.taken = None;
        assert!(guard.heard().now_or_never().is_none(), "the task would never rest");
    }
}
