//! What the daemon shows of itself: the JSON of the control socket, and of `--json`.
//!
//! Fields may be added; names and meaning of those that are here do not change. Times are RFC 3339
//! in UTC, durations are seconds.

mod events;
mod explain;
mod firewall;
mod traffic;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

pub use self::events::{Event, EventKind, EventLine, Events, EventsQuery, Missed};
pub use self::explain::{DialFailure, Fact, Holder, KernelAnswer, Notice, PeerExplanation, PeerOpen};
pub use self::firewall::{DockerRule, Firewall, TunnelGuard};
pub use self::traffic::{DeviceDrops, NodeTraffic, Passed, Paths, Traffic, TrafficStatus, Volume};
use crate::net::{Asn, Family, Prefix};

/// `wayleave status`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Node name
    pub node: String,
    /// Version of the running daemon
    pub version: String,
    /// When it started
    pub since: String,
    /// BGP source and tunnel end
    pub address: IpAddr,
    /// BGP identifier
    pub router_id: Ipv4Addr,
    /// Local AS
    pub asn: Asn,
    /// Prefixes that all container subnets lie in
    pub pools: Vec<Prefix>,
    /// This node's part of them
    pub subnets: Vec<Prefix>,
    /// Whether the first synchronisation is in the kernel and the node is not leaving
    pub ready: bool,
    /// What readiness waits for, or what it came from
    pub ready_reason: String,
    /// Whether it is leaving the network, or has left
    pub drain: DrainStatus,
    /// Peers by session state
    pub sessions: BTreeMap<String, usize>,
    /// Sessions with nodes of the store; none: it is not asked for any
    #[serde(default)]
    pub mesh: Option<MeshStatus>,
    /// BFD sessions by state
    pub bfd_sessions: BTreeMap<String, usize>,
    /// Scheduling of the BFD thread; none: there is none
    pub bfd_priority: Option<String>,
    /// Routing table
    pub rib: RibStatus,
    /// Kernel routes
    pub fib: FibStatus,
    /// The IP-in-IP device
    pub tunnel: TunnelStatus,
    /// Source-NAT of container traffic that leaves the pools
    pub masquerade: Part,
    /// What is let in and through
    #[serde(default)]
    pub firewall: Firewall,
    /// Counting of traffic by remote node
    #[serde(default)]
    pub traffic: TrafficStatus,
    /// Kernel settings that a routed host needs
    pub sysctls: Vec<SysctlStatus>,
    /// What was put right after somebody removed or changed it, by kind; a kind that never needed it may
    /// be missing
    #[serde(default)]
    pub repairs: Vec<Repairs>,
    /// What somebody keeps removing or changing
    #[serde(default)]
    pub duels: Vec<Duel>,
    /// Who else announces subnets of this node
    #[serde(default)]
    pub rivals: Vec<SubnetRival>,
    /// The store that subnets and nodes stand in
    #[serde(default)]
    pub store: StoreStatus,
    /// The configuration in force
    pub config: ConfigStatus,
    /// What an operator should look at; empty = all is well
    pub problems: Vec<String>,
}

/// Sessions with nodes of the store.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// How many there should be
    pub wanted: usize,
    /// How many of them are established
    pub established: usize,
}

/// Somebody else who announces a subnet of this node.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SubnetRival {
    /// The subnet
    pub subnet: Prefix,
    /// Where the other sends its packets
    pub next_hop: IpAddr,
    /// The peer that told of it
    pub from: String,
}

/// Size of the routing table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RibStatus {
    /// Prefixes with at least one candidate
    pub prefixes: usize,
    /// Candidates, rejected ones included
    pub paths: usize,
    /// Distinct attribute sets
    pub attribute_sets: usize,
    /// When a prefix last got another best path, or none
    #[serde(default)]
    pub last_change: Option<String>,
}

/// Wanted against actual kernel routes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FibStatus {
    /// Whether routes are written at all (`kernel.install`)
    pub enabled: bool,
    /// Kernel table
    pub table: u32,
    /// Protocol number that marks our routes
    pub protocol: u8,
    /// Metric of our routes
    pub metric: u32,
    /// Whether routes refer to nexthop objects
    pub nexthop_objects: bool,
    /// Routes that should be in the kernel
    pub wanted: usize,
    /// Routes that are there as wanted
    pub installed: usize,
    /// Routes the kernel refused, being retried
    pub failed: usize,
    /// Prefixes whose next hops can't be reached
    pub unresolved: usize,
    /// Routes found from a former run that nobody has announced again yet
    pub stale: usize,
    /// Routes found missing or changed and put back, since start
    pub repaired: u64,
    /// Foreign routes for a prefix of ours
    pub conflicts: Vec<Conflict>,
    /// Routes the kernel refused, at most 20
    pub failures: Vec<Failure>,
    /// When a route or nexthop object was last written
    #[serde(default)]
    pub last_change: Option<String>,
    /// The last comparison with the kernel's whole tables; none: not yet
    #[serde(default)]
    pub check: Option<FibCheck>,
}

/// Comparisons of the kernel's whole tables with what is known of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FibCheck {
    /// When the last one ended
    pub at: String,
    /// Routes that it found wrong; they have been put right
    pub routes: u64,
    /// Nexthop objects that it found wrong
    pub nexthops: u64,
    /// Comparisons since start that found nothing wrong
    pub agreed: u64,
    /// Comparisons since start that did
    pub differed: u64,
}

/// A foreign route for a prefix that we also have a route for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Conflict {
    /// The prefix
    pub prefix: Prefix,
    /// Protocol number of the foreign route
    pub protocol: u8,
    /// Its metric; the lower one is used by the kernel
    pub metric: u32,
    /// What follows from it
    pub effect: String,
}

/// A route that the kernel refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The prefix
    pub prefix: Prefix,
    /// The kernel's answer
    pub error: String,
    /// Attempts so far
    pub attempts: u32,
}

/// The tunnel device.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// `never`, `cross-subnet` or `always`
    pub mode: String,
    /// Its name, if it is there
    pub device: Option<String>,
    /// Its MTU in bytes
    pub mtu: Option<u32>,
    /// Why there is none though one is wanted
    pub error: Option<String>,
    /// Next hops that can't be reached for want of it
    pub affected: Vec<IpAddr>,
}

/// A part that is on, off or broken.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Part {
    /// Whether it is wanted
    pub enabled: bool,
    /// Why it doesn't work
    pub error: Option<String>,
}

/// One kernel setting.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SysctlStatus {
    /// Name as sysctl(8) writes it
    pub key: String,
    /// Value before we came; what `clean` puts back
    pub was: String,
    /// Value that is wanted
    pub wanted: String,
    /// Why it could not be set
    pub error: Option<String>,
}

/// Repairs of one kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Repairs {
    /// `route`, `nexthop`, `tunnel`, `address`, `sysctl`, `firewall` or `traffic`
    pub kind: String,
    /// Repairs since start
    pub count: u64,
    /// What was found at the last one
    pub last: Option<String>,
    /// When that was
    pub last_at: Option<String>,
}

/// Something of ours that somebody keeps removing or changing. It is put right at growing intervals.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Duel {
    /// As in [`Repairs`]
    pub kind: String,
    /// What it is about
    pub what: String,
    /// Who the other side may be; none: nothing tells
    pub by: Option<String>,
    /// When it began
    pub since: String,
    /// Repairs since then
    pub repairs: u32,
    /// When it may be put right again
    pub next_try: String,
}

/// Which configuration is in force.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file
    pub file: String,
    /// When it was read
    pub loaded: String,
    /// Why the last reload was refused; the configuration before it stays
    pub error: Option<String>,
    /// Changed keys that only a restart brings into force
    pub needs_restart: Vec<String>,
}

/// `wayleave peers`: one BGP neighbour.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Name in the file
    pub name: String,
    /// Its address
    pub address: IpAddr,
    /// Its AS
    pub asn: Asn,
    /// `idle connect active opensent openconfirm established`
    pub state: String,
    /// Since when it is in this state
    pub since: String,
    /// Prefixes received
    pub received: usize,
    /// Of them accepted by the import policy
    pub accepted: usize,
    /// Of them rejected, by reason
    pub rejected: BTreeMap<String, usize>,
    /// Kept from before its restart (RFC 4724)
    pub stale: usize,
    /// Prefixes sent to it
    pub advertised: usize,
    /// Limit of prefixes received
    pub max_prefixes: Option<u32>,
    /// How the last session or attempt ended, in words
    pub last_error: Option<String>,
    /// When that was
    pub last_error_at: Option<String>,
    /// Sessions lost since start
    pub flaps: u64,
    /// Sessions established since start
    pub established: u64,
    /// Messages read and written since start, by kind
    pub messages: BTreeMap<String, Messages>,
    /// UPDATEs with malformed attributes (RFC 7606)
    pub malformed: u64,
    /// What was agreed on, while established
    pub negotiated: Option<Negotiated>,
    /// Whether it was accepted by a prefix peer
    pub dynamic: bool,
    /// Whether it is a node of the store rather than a peer of the file
    #[serde(default)]
    pub mesh: bool,
    /// Policy of what is taken from it
    pub import: String,
    /// Policy of what is sent to it
    pub export: String,
    /// Its BFD session; none: not configured
    pub bfd: Option<Bfd>,
    /// Whether we never dial it
    #[serde(default)]
    pub passive: bool,
    /// The last NOTIFICATION sent to it
    #[serde(default)]
    pub notification_sent: Option<Notice>,
    /// The last NOTIFICATION that it sent
    #[serde(default)]
    pub notification_received: Option<Notice>,
    /// The last dial that came to nothing
    #[serde(default)]
    pub dial_failure: Option<DialFailure>,
    /// Its last OPEN
    #[serde(default)]
    pub open: Option<PeerOpen>,
    /// Until when it is kept away for sending more than `max_prefixes`
    #[serde(default)]
    pub barred_until: Option<String>,
}

/// The BFD session beside a BGP session (RFC 5880). Intervals are seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bfd {
    /// `admindown down init up`
    pub state: String,
    /// Since when
    pub since: String,
    /// Why it is in this state
    pub diagnostic: String,
    /// What the peer said last of its own state
    pub remote_state: String,
    /// And why
    pub remote_diagnostic: String,
    /// Whether the peer is behind routers (RFC 5883)
    pub multihop: bool,
    /// Between our packets, as agreed on; none: the peer wants none
    pub interval: Option<f64>,
    /// Silence after which the peer counts as dead; none: it is not heard
    pub detection_time: Option<f64>,
    /// Whether the peer's BFD outlives its control plane (C bit)
    pub remote_independent: bool,
    /// Packets received since start
    pub received: u64,
    /// Packets sent since start
    pub sent: u64,
    /// Times the path failed: Up to Down, and nobody wanted it
    pub failures: u64,
    /// The last of them, in words
    pub last_failure: Option<String>,
    /// When that was
    pub last_failure_at: Option<String>,
    /// Why packets can't be sent or received
    pub error: Option<String>,
}

/// Messages of one kind.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Messages {
    /// Read
    pub received: u64,
    /// Written; an UPDATE that a group of peers shares counts for each
    pub sent: u64,
}

/// What the two OPENs agreed on.
#[expect(clippy::struct_excessive_bools, reason = "each is a capability of its own")]
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Negotiated {
    /// The peer's BGP identifier
    pub router_id: String,
    /// Address of our end
    pub local_address: Option<IpAddr>,
    /// Families
    pub families: Vec<String>,
    /// Hold time in seconds, 0 = off
    pub hold_time: u16,
    /// Keepalive interval in seconds
    pub keepalive: u16,
    /// Four-octet AS numbers (RFC 6793)
    pub four_octet_as: bool,
    /// Route refresh (RFC 2918)
    pub route_refresh: bool,
    /// Enhanced route refresh (RFC 7313)
    pub enhanced_refresh: bool,
    /// Messages up to 65535 bytes (RFC 8654)
    pub extended_message: bool,
    /// The peer keeps our routes while we restart, for so many seconds (RFC 4724)
    pub graceful_restart: Option<u16>,
    /// Every capability of the peer, in words
    pub capabilities: Vec<String>,
}

/// `wayleave routes`: one path.
#[expect(clippy::struct_excessive_bools, reason = "field names of the JSON contract")]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Route {
    /// Its prefix
    pub prefix: Prefix,
    /// Whether it is the best path
    pub best: bool,
    /// Whether traffic uses it: the best path and those as good (ECMP)
    pub multipath: bool,
    /// Name of the peer, or `local`
    pub from: String,
    /// Its BGP next hop
    pub next_hop: Option<IpAddr>,
    /// AS path, nearest first; sets in braces
    pub as_path: String,
    /// `igp`, `egp` or `incomplete`
    pub origin: String,
    /// MULTI_EXIT_DISC
    pub med: Option<u32>,
    /// LOCAL_PREF
    pub local_pref: Option<u32>,
    /// Communities
    pub communities: Vec<String>,
    /// Extended communities
    pub ext_communities: Vec<String>,
    /// Large communities
    pub large_communities: Vec<String>,
    /// AGGREGATOR: AS and address
    pub aggregator: Option<String>,
    /// ATOMIC_AGGREGATE
    pub atomic_aggregate: bool,
    /// ORIGINATOR_ID of a reflected path
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST of a reflected path
    pub cluster_list: Vec<Ipv4Addr>,
    /// Kept from before the peer's restart (RFC 4724)
    pub stale: bool,
    /// How the kernel sends it; empty for a path that isn't used
    pub hops: Vec<Hop>,
    /// What should be in the kernel, as iproute2 says it; none for a path that isn't used, and for
    /// what is announced without a kernel route
    pub target: Option<String>,
    /// Whether the kernel has the route as wanted
    pub installed: bool,
    /// Why it is (not) used: `best`, `multipath`, the step at which it lost, or why it was rejected
    pub verdict: String,
}

/// How the kernel sends packets on.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// Neighbour or tunnel end; none: the destination itself is on the link
    pub gateway: Option<IpAddr>,
    /// Device name
    pub device: String,
    /// Whether this is IP-in-IP
    pub tunnel: bool,
}

/// `wayleave explain IP`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked
    pub address: IpAddr,
    /// Longest prefix in the RIB that covers it and is used
    pub prefix: Option<Prefix>,
    /// All paths to that prefix, the best first
    pub candidates: Vec<Route>,
    /// Each next hop that is used, and how it is reached
    pub next_hops: Vec<NextHop>,
    /// What should be in the kernel
    pub wanted: Option<String>,
    /// What the kernel is known to have of ours for the prefix
    pub actual: Option<String>,
    /// What the kernel answers for the address (RTM_GETROUTE)
    pub kernel: Option<String>,
    /// Whether the kernel does what is wanted
    pub agree: bool,
    /// The story in sentences
    pub story: Vec<String>,
    /// What decides in one word: `as-wanted`, `outside`, `container`, … or what is wrong
    #[serde(default)]
    pub cause: String,
    /// All of it in one sentence
    #[serde(default)]
    pub verdict: String,
    /// Whether all is well
    #[serde(default)]
    pub ok: bool,
    /// What is known, in the order of the way
    #[serde(default)]
    pub facts: Vec<Fact>,
    /// What to do: sentences and commands
    #[serde(default)]
    pub advice: Vec<String>,
    /// Who holds the address's subnet, by the store
    #[serde(default)]
    pub holder: Option<Holder>,
    /// What the kernel does with traffic of this host, and of a container if there is a device for any
    #[serde(default)]
    pub lookups: Vec<KernelAnswer>,
    /// The peers that have this address
    #[serde(default)]
    pub peers: Vec<PeerExplanation>,
}

/// One next hop of an explanation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NextHop {
    /// BGP next hop
    pub address: IpAddr,
    /// `direct`, `tunnel`, `recursive` or `unreachable`
    pub how: String,
    /// Why so
    pub reason: String,
}

/// Which routes are asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RoutesQuery {
    /// Only this prefix
    pub prefix: Option<Prefix>,
    /// Only what this peer sent
    pub from: Option<String>,
    /// Only what is sent to this peer
    pub to: Option<String>,
    /// With `from`: as received, before the import policy
    #[serde(default)]
    pub before_policy: bool,
    /// Only this family
    pub family: Option<Family>,
}

/// `wayleave drain`: whether the node is leaving the network, or has left.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// `none`, `draining` or `drained`
    pub state: String,
    /// While draining: `signalled` (all routes are marked as about to go away, RFC 8326),
    /// `withdrawn` (no routes are announced) or `closed` (the sessions are being closed)
    pub stage: Option<String>,
    /// When it was asked for
    pub since: Option<String>,
    /// When the stage ends
    pub until: Option<String>,
    /// Who asked for it
    pub by: Option<String>,
    /// Why, in their words
    pub reason: Option<String>,
    /// Why it would not survive a restart of the daemon
    pub error: Option<String>,
}

impl Default for DrainStatus {
    fn default() -> Self {
        let state = "none".to_owned();
        Self { state, stage: None, since: None, until: None, by: None, reason: None, error: None }
    }
}

impl DrainStatus {
    /// Whether the node is leaving or has left.
    pub fn is_leaving(&self) -> bool {
        self.state != "none"
    }

    /// ` since … by …: …`, as far as it is known.
    pub fn origin(&self) -> String {
        let part = |before: &str, text: &Option<String>| {
            text.as_ref().map(|text| format!("{before}{text}")).unwrap_or_default()
        };
        format!("{}{}{}", part(" since ", &self.since), part(" by ", &self.by), part(": ", &self.reason))
    }
}

impl fmt::Display for DrainStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state.as_str() {
            "none" => f.write_str("not drained"),
            state => write!(f, "{state}{}", self.origin()),
        }
    }
}

/// What `wayleave drain` asks for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DrainOrder {
    /// Seconds for peers to move away, 0 = withdraw at once; none: as configured, or as it runs
    pub wait: Option<f64>,
    /// Who asks
    pub by: Option<String>,
    /// Why
    pub reason: Option<String>,
}

/// An error of the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong
    pub error: String,
}

/// `wayleave lease`: the node's subnets, where they come from, and how the store is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Lease {
    /// `fixed` (they stand in the file), `held`, `waiting`, `exhausted`, `blocked` or `released`
    pub state: String,
    /// Why, in words
    pub reason: String,
    /// The node's subnets
    pub subnets: Vec<HeldSubnet>,
    /// What subnets are taken from
    pub pools: Vec<PoolUse>,
    /// The store
    pub store: StoreStatus,
    /// What an operator should look at
    pub problems: Vec<String>,
}

/// A subnet of this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldSubnet {
    /// The subnet
    pub subnet: Prefix,
    /// Since when it is this node's; none: it stands in the file
    pub since: Option<String>,
    /// Whether the store has said so since the daemon started
    pub confirmed: bool,
}

/// What is taken of a pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolUse {
    /// The pool
    pub pool: Prefix,
    /// Length of one subnet
    pub subnet_length: u8,
    /// Subnets that it has room for
    pub size: u64,
    /// Of them taken or reserved
    pub taken: u64,
}

/// The store that subnets and nodes stand in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StoreStatus {
    /// `embedded` or `etcd`
    pub kind: String,
    /// Whether it answers; none: there is none to ask
    pub reachable: Option<bool>,
    /// The member that is spoken to
    pub endpoint: Option<String>,
    /// Since when it is or isn't reachable
    pub since: Option<String>,
    /// When it last confirmed that what is known is the newest
    pub confirmed: Option<String>,
    /// Revision of what is known
    pub revision: i64,
    /// Why it doesn't answer
    pub error: Option<String>,
}

/// `wayleave lease all`: a subnet in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// The subnet
    pub subnet: Prefix,
    /// Who holds it
    pub node: String,
    /// Where that is
    pub address: Option<IpAddr>,
    /// Since when
    pub since: Option<String>,
    /// `held`, `dead` (its node is not there), `reserved` or `foreign` (another program's)
    pub state: String,
}

/// `wayleave lease history`: what happened to a subnet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseEvent {
    /// When it was seen here
    pub at: String,
    /// What happened, in words
    pub what: String,
}

/// `wayleave lease add`, `release`, `reclaim`, `reserve`, `import-flannel`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum LeaseOrder {
    /// One more subnet for this node
    Add {
        /// Which; none: any that is free
        subnet: Option<Prefix>,
    },
    /// Give up this node's subnets
    Release {
        /// Which; none: all, and the node leaves the store
        subnet: Option<Prefix>,
    },
    /// Free what another node holds
    Reclaim {
        /// A subnet, or the name of a node
        what: String,
        /// Also if the node is there or the subnet is announced
        force: bool,
    },
    /// Keep a subnet for a node that has not come yet
    Reserve {
        /// The subnet
        subnet: Prefix,
        /// The node's name
        node: String,
    },
    /// Take over the subnet that flannel leased to this host
    ImportFlannel,
}

/// What was done about a [`LeaseOrder`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// In words
    pub done: String,
}

/// `wayleave nodes`: a node in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Its name
    pub name: String,
    /// Where BGP reaches it
    pub address: IpAddr,
    /// Its AS
    pub asn: Asn,
    /// BGP identifier
    pub router_id: Ipv4Addr,
    /// Its subnets
    pub subnets: Vec<Prefix>,
    /// `alive`, `dead` (no sign of life) or `unlisted` (gone from the store, its session still stands)
    pub state: String,
    /// Whether it is this node
    pub this: bool,
    /// Its version of wayleave
    pub version: String,
    /// Whether it reflects routes
    pub reflector: bool,
    /// Whether it is leaving, or has left
    pub drained: bool,
    /// The session with it: `established`, `down`, `none` (none is wanted); why none, in `reason`
    pub session: String,
    /// Why there is none
    pub reason: Option<String>,
    /// Tunnels that it ends
    pub tunnels: Vec<String>,
}
