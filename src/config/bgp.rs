//! `[bgp]`: the speaker, what it announces, and its peers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::bgp::attrs::{Community, LargeCommunity};
use crate::config::ReadSecret;
use crate::config::diagnostic::Problem;
use crate::config::host::Node;
use crate::config::network::Network;
use crate::config::peer::{self, Peer};
use crate::config::policy::{self, Policy};
use crate::config::reader::{Distinct, Table, Value};
use crate::config::store::Store;
use crate::config::words::{
    HoldTime, asn, communities, connect_retry, graceful_restart, hold_time, send_hold_time, without_places,
};
use crate::net::{Asn, Family, Prefix};

/// `[bgp]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bgp {
    /// Our AS
    pub asn: Asn,
    /// Where to accept connections; empty: nowhere
    pub listen: Vec<SocketAddr>,
    /// Silence after which a peer counts as dead, unless the peer's entry says otherwise
    pub hold_time: HoldTime,
    /// How long nothing may get through to a peer, unless the peer's entry says otherwise; see
    /// [`Peer::send_hold_time`]
    pub send_hold_time: Option<Duration>,
    /// Pause between attempts to connect, 1 to 60 s, unless the peer's entry says otherwise
    pub connect_retry: Duration,
    /// iBGP with every node in the store
    pub mesh: bool,
    /// Routes are reflected between the nodes of the store, which then peer with reflectors alone
    pub reflector: bool,
    /// Equal-cost paths per prefix, 1 to 64; 1 turns ECMP off
    pub multipath: u8,
    /// How long peers may hold our routes while we restart (RFC 4724): whole seconds, at most
    /// 4095; zero turns it off; unless the peer's entry says otherwise
    pub graceful_restart: Duration,
    /// Routes that another AS marks with GRACEFUL_SHUTDOWN become the last choice (RFC 8326)
    pub graceful_shutdown: bool,
    /// How long `drain` gives peers to move away before it withdraws, up to an hour
    pub drain_time: Duration,
    /// CLUSTER_ID of a route reflector (RFC 4456 §7); `None`: the router id
    pub cluster_id: Option<Ipv4Addr>,
    /// `[[bgp.peers]]`: no two with one address or one name
    pub peers: Vec<Peer>,
    /// `[[bgp.announce]]`: no two with one prefix
    pub announce: Vec<Announce>,
    /// `[[bgp.policies.NAME]]`
    pub policies: BTreeMap<String, Policy>,
}

/// A prefix to announce besides our subnets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announce {
    /// The prefix
    pub prefix: Prefix,
    /// COMMUNITIES to send with it, sorted
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITY to send with it, sorted
    pub large_communities: Vec<LargeCommunity>,
    /// MULTI_EXIT_DISC to send with it
    pub med: Option<u32>,
}

/// The other sections; each is `None` where it has errors that leave nothing to compare with.
pub(super) struct Around<'a> {
    pub node: Option<&'a Node>,
    pub network: Option<&'a Network>,
    pub store: Option<&'a Store>,
}

pub(super) fn read(table: &Table<'_>, around: &Around<'_>, read_secret: &mut ReadSecret<'_>) -> Option<Bgp> {
    let asn = table.required("asn", "asn = 64512, with the number of your AS").and_then(|value| asn(&value));
    let hold_time = hold_time(table).unwrap_or(HoldTime::DEFAULT);
    let send_hold_time = send_hold_time(table);
    let connect_retry = connect_retry(table).unwrap_or(Duration::from_secs(5));
    let graceful_restart = graceful_restart(table).unwrap_or(Duration::from_secs(120));
    let announce = announce(table);
    let policies = policy::read_all(table);
    let inherited = peer::Inherited {
        asn,
        hold_time,
        send_hold_time,
        connect_retry,
        graceful_restart,
        ipv6: uses_ipv6(around.network, &announce),
        node_address: around.node.and_then(|node| node.address),
        policies: &policies,
    };
    let peers = peer::read_all(table, &inherited, read_secret);
    let mesh = mesh(table, around.store);
    let drain_time = table.value("drain_time").and_then(|value| {
        value.duration("s", "\"0s\" to \"1h\"", |time| (time <= Duration::from_secs(3600)).then_some(time))
    });
    Some(Bgp {
        listen: table
            .words("listen")
            .map_or_else(|| vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 179))], without_places),
        hold_time,
        send_hold_time,
        connect_retry,
        mesh,
        reflector: reflector(table, mesh),
        multipath: table.number("multipath", 1..=64).unwrap_or(8),
        graceful_restart,
        graceful_shutdown: table.flag("graceful_shutdown").unwrap_or(true),
        drain_time: drain_time.unwrap_or(Duration::from_secs(10)),
        cluster_id: table.word("cluster_id"),
        peers,
        announce,
        policies,
        // Last, so that all other keys are read, and their errors found, without it.
        asn: asn?,
    })
}

fn mesh(table: &Table<'_>, store: Option<&Store>) -> bool {
    let embedded = matches!(store, Some(Store::Embedded));
    let Some(value) = table.value("mesh") else { return !embedded };
    let mesh = value.flag().unwrap_or_default();
    if mesh && embedded {
        value.report(Problem::MeshNeedsStore);
    }
    mesh
}

fn reflector(table: &Table<'_>, mesh: bool) -> bool {
    let Some(value) = table.value("reflector") else { return false };
    let reflector = value.flag().unwrap_or_default();
    if reflector && !mesh {
        value.report(Problem::ReflectorNeedsMesh);
    }
    reflector
}

fn announce(table: &Table<'_>) -> Vec<Announce> {
    let mut distinct = Distinct::new(Prefix::eq, |found: &Prefix, _, earlier| Problem::Repeated {
        found: found.to_string(),
        earlier,
        rule: "announce a prefix once",
    });
    table.tables("announce", |table| {
        let value = table.required("prefix", "prefix = \"203.0.113.7/32\"");
        let prefix = value.as_ref().and_then(Value::word);
        if let (Some(prefix), Some(value)) = (prefix, &value) {
            distinct.add(prefix, &value.place);
        }
        let announce = Announce {
            communities: communities(table, "communities").unwrap_or_default(),
            large_communities: communities(table, "large_communities").unwrap_or_default(),
            med: table.number("med", 0..=u64::from(u32::MAX)),
            // Last, so that the keys above are read without it.
            prefix: prefix?,
        };
        Some(announce)
    })
}

fn uses_ipv6(network: Option<&Network>, announce: &[Announce]) -> bool {
    let ours = network.into_iter().flat_map(|network| network.pools.iter().chain(network.subnets.iter().flatten()));
    ours.chain(announce.iter().map(|announce| &announce.prefix)).any(|prefix| prefix.family() == Family::Ipv6)
}
