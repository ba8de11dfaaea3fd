//! The file's words → the settings of the pure modules.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use crate::bfd;
use crate::bgp::message::GracefulRestart;
use crate::bgp::policy::{self, Edit, ExportScope, ImportScope, Rules};
use crate::bgp::rib::{ExportSettings, PeerId, PeerInfo};
use crate::bgp::session::{self, Negotiated};
use crate::config::{self, Config};
use crate::daemon::bfd as watch;
use crate::daemon::drain::Stage;
use crate::daemon::identity::Identity;
use crate::daemon::peer::Profile;
use crate::forward;
use crate::io::bfd::Hops;
use crate::io::netlink::Ours;
use crate::io::tcp::{StreamOptions, Ttl};
use crate::net::{Family, PerFamily, Prefix};

/// How long an attempt to connect may take at most; less where `connect_retry` is less.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// So long no session gives up a dial for another one.
const DIAL_PATIENCE: Duration = Duration::from_secs(3);

/// What marks a route as ours.
pub fn ours(config: &Config) -> Ours {
    Ours { table: config.kernel.table, protocol: config.kernel.protocol, metric: config.kernel.metric }
}

/// How a peer is reached and spoken to.
pub fn profile(identity: &Identity, peer: &config::Peer, address: IpAddr, id: PeerId) -> Profile {
    let external = peer.asn != identity.asn;
    let ttl = match (peer.ttl_security, peer.multihop) {
        (Some(hops), _) => Ttl::Secured(hops),
        (None, Some(hops)) => Ttl::Hops(hops),
        // RFC 4271 §5.1.3 assumes an eBGP peer on the link; a TTL of 1 holds it to that.
        (None, None) if external => Ttl::Hops(1),
        (None, None) => Ttl::System,
    };
    Profile {
        remote: SocketAddr::new(address, peer.port),
        local: local_address(identity, peer, address),
        password: peer.password.as_ref().map(|password| password.expose().into()),
        stream: StreamOptions { ttl, user_timeout: None },
        dial_timeout: dial_timeout(peer.connect_retry),
        session: session::Settings {
            local_asn: identity.asn,
            peer_asn: peer.asn,
            router_id: identity.router_id,
            hold_time: peer.hold_time.seconds(),
            connect_retry: peer.connect_retry,
            long_back_off: session::Settings::LONG_BACK_OFF,
            passive: peer.passive,
            families: peer.families.clone(),
            send_hold_time: peer.send_hold_time,
            graceful_restart: graceful_restart(peer),
            // Peers that start together must not dial together for ever.
            seed: rand::random::<u64>() ^ u64::from(id.0),
        },
    }
}

/// How long a dial may take. Less than after which the session begins another one (three quarters of
/// `connect_retry`, or 4 s), so that silence is noticed as such and told.
fn dial_timeout(connect_retry: Duration) -> Duration {
    (connect_retry * 7 / 10).max(connect_retry.min(DIAL_PATIENCE)).min(DIAL_LIMIT)
}

/// Our end: as the file says, else the node's address towards iBGP peers, else the kernel's choice.
fn local_address(identity: &Identity, peer: &config::Peer, address: IpAddr) -> Option<IpAddr> {
    let internal = peer.asn == identity.asn && Family::of(identity.address) == Family::of(address);
    peer.local_address.or_else(|| internal.then_some(identity.address))
}

/// How a peer's path is watched by BFD; none: not at all. `drained`: there are to be no sessions.
pub fn bfd(identity: &Identity, peer: &config::Peer, address: IpAddr, drained: bool) -> Option<watch::Profile> {
    let wanted = peer.bfd?;
    let internal = peer.asn == identity.asn;
    // As other speakers guess: eBGP is on the link unless it is said not to be, iBGP is anywhere.
    let by_ttl = peer.multihop.is_some() || peer.ttl_security.map_or(internal, |hops| hops > 1);
    // The TTL is only checked where the peer has agreed to send with 255; not all do.
    let least_ttl = peer.ttl_security.map_or(0, |hops| u8::MAX - hops.saturating_sub(1));
    Some(watch::Profile {
        local: local_address(identity, peer, address),
        hops: if wanted.multihop.unwrap_or(by_ttl) { Hops::Multi { least_ttl } } else { Hops::Single },
        settings: bfd::Settings {
            interval: wanted.interval,
            multiplier: NonZeroU8::new(wanted.multiplier).unwrap_or(NonZeroU8::MIN),
            admin_down: drained,
        },
    })
}

fn graceful_restart(peer: &config::Peer) -> Option<GracefulRestart> {
    let seconds = peer.graceful_restart.as_secs();
    (seconds > 0).then(|| session::preserving(u16::try_from(seconds).unwrap_or(u16::MAX), &peer.families))
}

/// What import policies must know of this node.
pub fn policy_node(config: &Config, identity: &Identity, addresses: Arc<[IpAddr]>) -> Arc<policy::Node> {
    Arc::new(policy::Node {
        asn: identity.asn,
        router_id: identity.router_id,
        cluster_id: config.bgp.cluster_id.unwrap_or(identity.router_id),
        addresses,
        subnets: config.network.subnets.clone().unwrap_or_default().into(),
        pools: config.network.pools.clone().into(),
    })
}

/// What the RIB must know of a peer.
pub fn peer_info(
    config: &Config,
    node: &Arc<policy::Node>,
    id: PeerId,
    address: IpAddr,
    peer: &config::Peer,
    negotiated: &Negotiated,
) -> PeerInfo {
    PeerInfo {
        id,
        asn: negotiated.peer_asn,
        external: negotiated.peer_asn != node.asn,
        router_id: negotiated.peer_router_id,
        address,
        client: peer.route_reflector_client,
        import: Arc::new(import(config, node, &peer.import)),
        allow_own_as: peer.allow_own_as,
        max_prefixes: peer.max_prefixes.and_then(|limit| NonZeroU32::new(limit.get())),
    }
}

fn import(config: &Config, node: &Arc<policy::Node>, import: &config::Import) -> policy::Import {
    let scope = match import {
        config::Import::Pools => ImportScope::Pools,
        config::Import::None => ImportScope::None,
        config::Import::All => ImportScope::All,
        config::Import::Named(name) => ImportScope::Named(rules(config, name)),
    };
    policy::Import { scope, node: Arc::clone(node), graceful_shutdown: config.bgp.graceful_shutdown }
}

/// What a peer is sent, and how. `next_hops`: our address on the session, per family.
pub fn export(
    config: &Config,
    identity: &Identity,
    peer: &config::Peer,
    negotiated: &Negotiated,
    next_hops: PerFamily<Option<IpAddr>>,
    ends_ipip: bool,
) -> ExportSettings {
    let scope = match &peer.export {
        config::Export::Subnets => ExportScope::Subnets,
        config::Export::Pools => ExportScope::Pools,
        config::Export::All => ExportScope::All,
        config::Export::None => ExportScope::None,
        config::Export::Named(name) => ExportScope::Named(rules(config, name)),
    };
    ExportSettings {
        external: negotiated.peer_asn != identity.asn,
        client: peer.route_reflector_client,
        local_asn: identity.asn,
        cluster_id: config.bgp.cluster_id.unwrap_or(identity.router_id),
        next_hop_self: peer.next_hop_self,
        ends_ipip,
        graceful_shutdown: false,
        next_hops,
        families: negotiated.families,
        export: Arc::new(policy::Export { scope, pools: config.network.pools.clone().into() }),
        codec: negotiated.codec,
    }
}

/// The same for a node that leaves the network.
pub fn leaving(settings: ExportSettings, stage: Stage) -> ExportSettings {
    match stage {
        Stage::Present => settings,
        Stage::Signalled => ExportSettings { graceful_shutdown: true, ..settings },
        Stage::Withdrawn | Stage::Closed => {
            let nothing = policy::Export { scope: ExportScope::None, pools: Arc::clone(&settings.export.pools) };
            ExportSettings { export: Arc::new(nothing), ..settings }
        }
    }
}

/// A policy of the file; an unknown name can't come here, and would reject all.
fn rules(config: &Config, name: &str) -> Rules {
    let rules = config.bgp.policies.get(name).map(|policy| policy.rules.iter().map(rule).collect());
    Rules(rules.unwrap_or_default())
}

fn rule(rule: &config::Rule) -> policy::Rule {
    policy::Rule {
        prefixes: rule
            .prefixes
            .iter()
            .map(|matched| policy::PrefixMatch { prefix: matched.prefix, ge: matched.ge, le: matched.le })
            .collect(),
        communities: rule.communities.clone(),
        as_path_contains: rule.as_path_contains.into_iter().collect(),
        accept: rule.accept,
        edit: Edit {
            local_pref: rule.local_pref,
            med: rule.med,
            prepend: rule.prepend,
            add_communities: rule.add_communities.clone(),
            remove_communities: rule.remove_communities.clone(),
        },
    }
}

/// What the forwarder works by.
pub fn forwarding(config: &Config, tunnel_device: Option<u32>, objects: bool) -> forward::Settings {
    forward::Settings {
        tunnel: config.network.tunnel,
        tunnel_endpoints: config.network.tunnel_endpoints.clone(),
        pools: config.network.pools.clone(),
        tunnel_device,
        table: config.kernel.table,
        metric: config.kernel.metric,
        protocol: config.kernel.protocol,
        objects,
        guard: config.kernel.link_guard,
    }
}

/// In which families forwarding has outlived the former run, so that peers may go on using what
/// they keep of it (F bit, RFC 4724 §3). `own`: what that run has left in the kernel; `uptime`: of
/// the kernel.
pub fn preserved(config: &Config, own: impl Iterator<Item = Prefix>, uptime: Option<Duration>) -> PerFamily<bool> {
    let mut left = PerFamily::new(false, false);
    own.for_each(|prefix| left[prefix.family()] = true);
    // What peers keep for longer than the kernel runs would be of a former life of the host.
    let times = config.bgp.peers.iter().map(|peer| peer.graceful_restart);
    let longest = times.fold(config.bgp.graceful_restart, Duration::max);
    let same_life = uptime.is_some_and(|uptime| uptime > longest);
    let has_subnet = |family| config.network.subnets.iter().flatten().any(|subnet| subnet.family() == family);
    // A subnet leaves at least its blackhole. Where there was nothing to leave, nothing is lost.
    let nothing_lost = |family| same_life && !has_subnet(family);
    PerFamily::from_fn(|family| !config.kernel.install || left[family] || nothing_lost(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dial_fails_before_the_session_begins_another() {
        for seconds in 1..=60 {
            let retry = Duration::from_secs(seconds);
            let (dial, session) = (dial_timeout(retry), (retry * 3 / 4).max(Duration::from_secs(4)));
            assert!(
                dial < session && dial <= retry && dial >= retry.min(Duration::from_secs(3)),
                "{retry:?}: {dial:?}"
            );
        }
    }

    #[test]
    fn what_has_outlived_the_former_run() {
        const RUNNING: u64 = 86_400;
        // (why, configuration, left in the kernel, seconds since the host booted, kept: IPv4, IPv6)
        type Case<'a> = (&'a str, &'a str, &'a [&'a str], u64, [bool; 2]);
        let cases: [Case<'_>; 7] = [
            ("routes of one family were left", "", &["10.0.0.0/8"], RUNNING, [true, true]),
            ("a host just booted, and nothing was left", "", &[], 60, [false, false]),
            ("something was left all the same", "", &["fd00::/8"], 60, [false, true]),
            ("the blackhole of a subnet is missing", "subnets = [\"10.244.7.0/24\"]", &[], RUNNING, [false, true]),
            ("it is there", "subnets = [\"10.244.7.0/24\"]", &["10.244.7.0/24"], RUNNING, [true, true]),
            ("a reflector forwards nothing itself", "[kernel]\ninstall = false", &[], 60, [true, true]),
            (
                "peers keep it for longer than the host is up",
                "[[bgp.peers]]\naddress = \"192.0.2.1\"\nasn = 1\n\
              graceful_restart = \"4000s\"",
                &[],
                3000,
                [false, false],
            ),
        ];
        for (why, text, own, uptime, wanted) in cases {
            let text = format!("[network]\npools = [\"10.0.0.0/8\"]\n{text}\n[bgp]\nasn = 64512\n");
            let text = if text.contains("subnets") { text } else { text.replace("pools", "subnets = []\npools") };
            let config = config::parse(&text, &mut |_| unreachable!()).unwrap();
            let own = own.iter().map(|prefix| prefix.parse().unwrap());
            let kept = preserved(&config, own, Some(Duration::from_secs(uptime)));
            assert_eq!([kept[Family::Ipv4], kept[Family::Ipv6]], wanted, "{why}");
        }
    }
}
