//! Every Prometheus series: name, help, labels. One home for each.
//!
//! Counters are held as handles by whoever counts. Gauges are set at scrape time from a
//! [`Snapshot`], so that no series outlives what it describes. The `peer` label is the name in the
//! file; peers accepted by a prefix share that prefix's name, nodes of the store share `mesh`, so the
//! number of series is bounded by the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::bfd;
use crate::forward::duel::Kind;

/// Kinds of BGP messages, as the `kind` label has them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MessageKind {
    /// OPEN
    Open,
    /// UPDATE
    Update,
    /// NOTIFICATION
    Notification,
    /// KEEPALIVE
    Keepalive,
    /// ROUTE-REFRESH
    RouteRefresh,
}

impl MessageKind {
    /// All of them, in the order of their type codes.
    pub const ALL: [Self; 5] = [Self::Open, Self::Update, Self::Notification, Self::Keepalive, Self::RouteRefresh];

    /// The kind with this type code (RFC 4271 §4.1, RFC 2918 §3).
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Open),
            2 => Some(Self::Update),
            3 => Some(Self::Notification),
            4 => Some(Self::Keepalive),
            5 => Some(Self::RouteRefresh),
            _ => None,
        }
    }

    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Update => "update",
            Self::Notification => "notification",
            Self::Keepalive => "keepalive",
            Self::RouteRefresh => "route_refresh",
        }
    }
}

/// Counters of one peer, fetched once.
#[derive(Clone, Debug)]
pub struct PeerMetrics {
    received: [IntCounter; 5],
    sent: [IntCounter; 5],
    flaps: IntCounterVec,
    malformed: IntCounterVec,
    name: String,
    /// Of this one alone, where several share a name: received and sent
    own: Arc<[[AtomicU64; 2]; 5]>,
}

impl PeerMetrics {
    /// A message was read.
    pub fn received(&self, kind: MessageKind) {
        self.received[kind as usize].inc();
        self.own[kind as usize][0].fetch_add(1, Ordering::Relaxed);
    }

    /// Messages were written.
    pub fn sent(&self, kind: MessageKind, count: u64) {
        self.sent[kind as usize].inc_by(count);
        self.own[kind as usize][1].fetch_add(count, Ordering::Relaxed);
    }

    /// Messages read and written so far, by kind.
    pub fn messages(&self) -> impl Iterator<Item = (MessageKind, u64, u64)> + '_ {
        let own = |kind: MessageKind| self.own[kind as usize].each_ref().map(|count| count.load(Ordering::Relaxed));
        MessageKind::ALL.into_iter().map(move |kind| {
            let [received, sent] = own(kind);
            (kind, received, sent)
        })
    }

    /// An established session was lost; `reason` is one of a few known words.
    pub fn flapped(&self, reason: &str) {
        self.flaps.with_label_values(&[self.name.as_str(), reason]).inc();
    }

    /// An attribute was malformed (RFC 7606); `outcome` says what was done.
    pub fn malformed(&self, outcome: &str) {
        self.malformed.with_label_values(&[self.name.as_str(), outcome]).inc();
    }
}

/// Counters of one peer's BFD session, fetched once.
#[derive(Clone, Debug)]
pub struct BfdMetrics {
    /// Packets that were for it
    pub received: IntCounter,
    /// Packets sent
    pub sent: IntCounter,
    entered: [IntCounter; 4],
}

impl BfdMetrics {
    /// The session came into a state.
    pub fn entered(&self, state: bfd::State) {
        self.entered[state as usize].inc();
    }
}

/// Counters of BFD that belong to no session.
#[derive(Clone, Debug)]
pub struct BfdTotals {
    discarded: [IntCounter; 9],
    late: IntCounter,
}

impl BfdTotals {
    /// A packet was discarded.
    pub fn discarded(&self, reason: bfd::Discard) {
        self.discarded[reason as usize].inc();
    }

    /// The thread ran late.
    pub fn late(&self) {
        self.late.inc();
    }
}

/// What the gauges show, taken at scrape time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Whether the first synchronisation is done
    pub ready: bool,
    /// 0: not drained, 1: draining, 2: drained
    pub drain: u8,
    /// The store; none: there is none
    pub store: Option<StoreSnapshot>,
    /// Per peer of the file
    pub peers: BTreeMap<String, PeerSnapshot>,
    /// Sessions by state
    pub sessions: BTreeMap<String, usize>,
    /// RIB sizes
    pub rib: crate::view::RibStatus,
    /// FIB sizes
    pub fib: FibSnapshot,
    /// Repairs of routes and nexthop objects since start, by kind
    pub repairs: BTreeMap<String, u64>,
    /// Duels by kind
    pub duels: BTreeMap<String, usize>,
    /// Per network device, in the order of /proc/net/dev: receive bytes, packets, errors, drops,
    /// then the same for transmit
    pub devices: Vec<(String, [u64; 8])>,
    /// Resident memory in bytes
    pub resident_bytes: u64,
    /// CPU time used so far in seconds
    pub cpu_seconds: f64,
}

/// Gauges of the store, the subnets and nodes in it.
#[derive(Clone, Debug, Default)]
pub struct StoreSnapshot {
    /// Whether it answers
    pub reachable: bool,
    /// Seconds since it confirmed that what is known is the newest; none: not yet
    pub confirmed_age: Option<f64>,
    /// Subnets of this node
    pub subnets: usize,
    /// Of them confirmed by the store
    pub confirmed: usize,
    /// Seconds for which the oldest of them has been this node's
    pub lease_age: f64,
    /// Subnets that the pools have room for, and of them taken: by pool
    pub pools: Vec<(String, u64, u64)>,
    /// Nodes by state
    pub nodes: BTreeMap<String, usize>,
    /// Mesh sessions: wanted, of them established
    pub mesh: (usize, usize),
}

/// Gauges of one peer of the file.
#[derive(Clone, Debug, Default)]
pub struct PeerSnapshot {
    /// Established sessions: 0 or 1, more for a prefix
    pub established: usize,
    /// Prefixes received
    pub received: usize,
    /// Prefixes accepted
    pub accepted: usize,
    /// Prefixes advertised
    pub advertised: usize,
    /// Prefixes kept while it restarts
    pub stale: usize,
    /// Limit, 0 = none; not there: each of several has its own
    pub max_prefixes: Option<u32>,
    /// Prefixes rejected, by reason
    pub rejected: BTreeMap<String, usize>,
    /// BFD sessions that are Up; none: it has no BFD
    pub bfd_up: Option<usize>,
}

/// Gauges of the FIB.
#[derive(Clone, Debug, Default)]
pub struct FibSnapshot {
    /// Routes wanted in the kernel
    pub wanted: usize,
    /// Routes there as wanted
    pub installed: usize,
    /// Routes refused by the kernel
    pub failed: usize,
    /// Prefixes without a reachable next hop
    pub unresolved: usize,
    /// Foreign routes for prefixes of ours
    pub conflicts: usize,
    /// Routes of a former run, not yet announced again
    pub stale: usize,
    /// Routes put back so far
    pub repaired: u64,
}

/// The registry and every series in it.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    messages_received: IntCounterVec,
    messages_sent: IntCounterVec,
    flaps: IntCounterVec,
    malformed: IntCounterVec,
    bfd: BfdCounters,
    /// UPDATE read from the socket → route acknowledged by the kernel
    pub update_to_kernel: Histogram,
    /// Netlink batches written
    pub netlink_batches: IntCounter,
    /// Route messages acknowledged without error
    pub netlink_acknowledged: IntCounter,
    /// Nexthop objects made or changed
    pub nexthop_objects_written: IntCounter,
    /// Route messages refused
    pub netlink_refused: IntCounter,
    /// Times the kernel's events overran us and all was compared anew
    pub netlink_overruns: IntCounter,
    /// Reloads, by result
    pub reloads: IntCounterVec,
    repairs: IntCounterVec,
    gauges: Gauges,
}

#[derive(Debug)]
struct Gauges {
    ready: IntGauge,
    drain: IntGauge,
    store: StoreGauges,
    sessions: IntGaugeVec,
    established: IntGaugeVec,
    prefixes_received: IntGaugeVec,
    prefixes_accepted: IntGaugeVec,
    prefixes_rejected: IntGaugeVec,
    prefixes_advertised: IntGaugeVec,
    prefixes_stale: IntGaugeVec,
    prefixes_limit: IntGaugeVec,
    bfd_up: IntGaugeVec,
    rib_prefixes: IntGauge,
    rib_paths: IntGauge,
    rib_attribute_sets: IntGauge,
    fib_wanted: IntGauge,
    fib_installed: IntGauge,
    fib_failed: IntGauge,
    fib_unresolved: IntGauge,
    fib_conflicts: IntGauge,
    fib_stale: IntGauge,
    fib_repaired: IntCounter,
    /// Of [`Metrics::repairs`], those that are counted where they are written
    written_repairs: [(Kind, IntCounter); 2],
    duels: IntGaugeVec,
    devices: [IntCounterVec; 8],
    resident: IntGauge,
    cpu: Counter,
}

const DEVICE_SERIES: [(&str, &str); 8] = [
    ("interface_receive_bytes_total", "Bytes received on a network device."),
    ("interface_receive_packets_total", "Packets received on a network device."),
    ("interface_receive_errors_total", "Receive errors of a network device."),
    ("interface_receive_dropped_total", "Packets dropped on receipt by a network device."),
    ("interface_transmit_bytes_total", "Bytes sent on a network device; wayleave0 is the IP-in-IP tunnel."),
    ("interface_transmit_packets_total", "Packets sent on a network device."),
    ("interface_transmit_errors_total", "Transmit errors of a network device."),
    ("interface_transmit_dropped_total", "Packets dropped on transmit by a network device."),
];

/// Registers series under the common prefix.
struct Register<'a>(&'a Registry);

impl Register<'_> {
    fn add<C: Collector + Clone + 'static>(&self, collector: prometheus::Result<C>) -> prometheus::Result<C> {
        let collector = collector?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::with_opts(opts(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(opts(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::with_opts(opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(opts(name, help), labels))
    }
}

/// Gauges of the store; they have no value where there is none.
#[derive(Debug)]
struct StoreGauges {
    reachable: IntGaugeVec,
    confirmed_age: GaugeVec,
    lease_age: GaugeVec,
    subnets: IntGaugeVec,
    pool_size: IntGaugeVec,
    pool_taken: IntGaugeVec,
    nodes: IntGaugeVec,
    mesh: IntGaugeVec,
}

impl StoreGauges {
    fn new(r: &Register<'_>) -> prometheus::Result<Self> {
        let seconds = |name: &str, help: &str| r.add(GaugeVec::new(opts(name, help), &[]));
        Ok(Self {
            reachable: r.gauges("store_reachable", "Whether the store answers.", &[])?,
            confirmed_age: seconds(
                "store_last_confirmed_seconds",
                "Time since the store confirmed that what is known of it is the newest.",
            )?,
            lease_age: seconds("lease_age_seconds", "Time for which the oldest subnet has been this node's.")?,
            subnets: r.gauges(
                "lease_subnets",
                "Subnets of this node, by whether the store has confirmed them since the start.",
                &["state"],
            )?,
            pool_size: r.gauges("pool_subnets", "Subnets that a pool has room for.", &["pool"])?,
            pool_taken: r.gauges("pool_subnets_taken", "Subnets of a pool that are taken or reserved.", &["pool"])?,
            nodes: r.gauges("nodes", "Nodes in the store, by liveness.", &["state"])?,
            mesh: r.gauges("mesh_sessions", "Sessions with nodes of the store.", &["state"])?,
        })
    }

    fn set(&self, now: Option<&StoreSnapshot>) {
        // Pools come and go.
        self.pool_size.reset();
        self.pool_taken.reset();
        let Some(now) = now else { return };
        let wide = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.reachable.with_label_values::<&str>(&[]).set(i64::from(now.reachable));
        if let Some(age) = now.confirmed_age {
            self.confirmed_age.with_label_values::<&str>(&[]).set(age);
        }
        self.lease_age.with_label_values::<&str>(&[]).set(now.lease_age);
        self.subnets.with_label_values(&["confirmed"]).set(int(now.confirmed));
        self.subnets.with_label_values(&["unconfirmed"]).set(int(now.subnets - now.confirmed));
        for (pool, size, taken) in &now.pools {
            self.pool_size.with_label_values(&[pool.as_str()]).set(wide(*size));
            self.pool_taken.with_label_values(&[pool.as_str()]).set(wide(*taken));
        }
        for state in ["alive", "dead", "unlisted"] {
            self.nodes.with_label_values(&[state]).set(int(now.nodes.get(state).copied().unwrap_or_default()));
        }
        self.mesh.with_label_values(&["wanted"]).set(int(now.mesh.0));
        self.mesh.with_label_values(&["established"]).set(int(now.mesh.1));
    }
}

/// Counters of BFD.
#[derive(Debug)]
struct BfdCounters {
    received: IntCounterVec,
    sent: IntCounterVec,
    transitions: IntCounterVec,
    discarded: IntCounterVec,
    late: IntCounter,
}

impl BfdCounters {
    fn new(r: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            received: r.counters("bfd_packets_received_total", "BFD packets of a peer.", &["peer"])?,
            sent: r.counters("bfd_packets_sent_total", "BFD packets sent to a peer.", &["peer"])?,
            transitions: r.counters(
                "bfd_session_transitions_total",
                "Changes of state of a peer's BFD session, by the new state.",
                &["peer", "state"],
            )?,
            discarded: r.counters("bfd_packets_discarded_total", "BFD packets discarded, by reason.", &["reason"])?,
            late: r.counter("bfd_late_total", "Times the BFD thread ran more than 10 ms late.")?,
        })
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("wayleave")
}

fn update_to_kernel() -> prometheus::Result<HistogramOpts> {
    let common_opts = opts(
        "update_to_kernel_seconds",
        "From reading an UPDATE to the kernel's acknowledgement of the route; one sample per netlink batch, of its oldest UPDATE.",
    );
    Ok(HistogramOpts { common_opts, buckets: prometheus::exponential_buckets(0.000_25, 2.0, 16)? })
}

fn int(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Metrics {
    /// All series, at zero.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = Register(&registry);
        let build = r.gauges("build_info", "Always 1; the labels say what runs.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let [d0, d1, d2, d3, d4, d5, d6, d7] = DEVICE_SERIES.map(|(name, help)| r.counters(name, help, &["device"]));
        let repairs = r.counters(
            "repairs_total",
            "Things of ours put right after somebody removed or changed them, by kind.",
            &["kind"],
        )?;
        for kind in Kind::ALL {
            repairs.with_label_values(&[kind.label()]);
        }
        let gauges = Gauges {
            ready: r.gauge(
                "ready",
                "Whether the first synchronisation is in the kernel and the node is not leaving (1) or not (0).",
            )?,
            store: StoreGauges::new(&r)?,
            drain: r.gauge("drain_state", "Whether the node is leaving the network: 0 no, 1 draining, 2 drained.")?,
            sessions: r.gauges("bgp_sessions", "BGP sessions by state.", &["state"])?,
            established: r.gauges("bgp_session_established", "Established sessions of a peer.", &["peer"])?,
            prefixes_received: r.gauges("bgp_prefixes_received", "Prefixes that a peer announces.", &["peer"])?,
            prefixes_accepted: r.gauges(
                "bgp_prefixes_accepted",
                "Of them accepted by the import policy.",
                &["peer"],
            )?,
            prefixes_rejected: r.gauges(
                "bgp_prefixes_rejected",
                "Of them rejected, by reason.",
                &["peer", "reason"],
            )?,
            prefixes_advertised: r.gauges("bgp_prefixes_advertised", "Prefixes announced to a peer.", &["peer"])?,
            prefixes_stale: r.gauges(
                "bgp_prefixes_stale",
                "Prefixes kept while a peer restarts (RFC 4724).",
                &["peer"],
            )?,
            prefixes_limit: r.gauges("bgp_prefixes_limit", "max_prefixes of a peer; 0 is no limit.", &["peer"])?,
            bfd_up: r.gauges("bfd_session_up", "BFD sessions of a peer that are Up.", &["peer"])?,
            rib_prefixes: r.gauge("rib_prefixes", "Prefixes with at least one path.")?,
            rib_paths: r.gauge("rib_paths", "Paths, rejected ones included.")?,
            rib_attribute_sets: r.gauge("rib_attribute_sets", "Distinct sets of path attributes.")?,
            fib_wanted: r.gauge("fib_routes_wanted", "Routes that should be in the kernel.")?,
            fib_installed: r.gauge("fib_routes_installed", "Routes that are in the kernel as wanted.")?,
            fib_failed: r.gauge("fib_routes_failed", "Routes that the kernel refused, being retried.")?,
            fib_unresolved: r.gauge("fib_routes_unresolved", "Prefixes without a reachable next hop.")?,
            fib_conflicts: r.gauge("fib_route_conflicts", "Foreign kernel routes for prefixes of ours.")?,
            fib_stale: r.gauge("fib_routes_stale", "Routes of a former run that nobody has announced again yet.")?,
            fib_repaired: r.counter("fib_routes_repaired_total", "Routes found missing or changed and put back.")?,
            written_repairs: [Kind::Route, Kind::Nexthop]
                .map(|kind| (kind, repairs.with_label_values(&[kind.label()]))),
            duels: r.gauges("duels", "Things of ours that somebody keeps removing or changing, by kind.", &["kind"])?,
            devices: [d0?, d1?, d2?, d3?, d4?, d5?, d6?, d7?],
            resident: r.gauge("process_resident_memory_bytes", "Resident memory of the daemon.")?,
            cpu: r.add(Counter::with_opts(opts("process_cpu_seconds_total", "CPU time used by the daemon.")))?,
        };
        Ok(Self {
            messages_received: r.counters(
                "bgp_messages_received_total",
                "BGP messages read from a peer.",
                &["peer", "kind"],
            )?,
            messages_sent: r.counters(
                "bgp_messages_sent_total",
                "BGP messages written to a peer.",
                &["peer", "kind"],
            )?,
            flaps: r.counters(
                "bgp_session_flaps_total",
                "Established sessions lost, by reason.",
                &["peer", "reason"],
            )?,
            malformed: r.counters(
                "bgp_malformed_attributes_total",
                "Malformed path attributes (RFC 7606), by what was done.",
                &["peer", "outcome"],
            )?,
            bfd: BfdCounters::new(&r)?,
            update_to_kernel: r.add(Histogram::with_opts(update_to_kernel()?))?,
            netlink_batches: r.counter("netlink_batches_total", "Batches of route messages handed to the kernel.")?,
            netlink_acknowledged: r
                .counter("netlink_routes_acknowledged_total", "Route messages the kernel accepted.")?,
            nexthop_objects_written: r
                .counter("netlink_nexthops_written_total", "Nexthop objects made, changed or removed.")?,
            netlink_refused: r.counter("netlink_routes_refused_total", "Route messages the kernel refused.")?,
            netlink_overruns: r
                .counter("netlink_overruns_total", "Times that kernel events were lost and all was compared anew.")?,
            reloads: r.counters("config_reloads_total", "Reloads of the configuration, by result.", &["result"])?,
            repairs,
            gauges,
            registry,
        })
    }

    /// Counters of a peer by its name in the file; all that share it count together.
    pub fn peer(&self, name: &str) -> PeerMetrics {
        PeerMetrics {
            received: MessageKind::ALL.map(|kind| self.messages_received.with_label_values(&[name, kind.label()])),
            sent: MessageKind::ALL.map(|kind| self.messages_sent.with_label_values(&[name, kind.label()])),
            flaps: self.flaps.clone(),
            malformed: self.malformed.clone(),
            name: name.to_owned(),
            own: Arc::default(),
        }
    }

    /// Counters of the BFD session of a peer of the file.
    pub fn bfd(&self, name: &str) -> BfdMetrics {
        BfdMetrics {
            received: self.bfd.received.with_label_values(&[name]),
            sent: self.bfd.sent.with_label_values(&[name]),
            entered: bfd::State::ALL.map(|state| self.bfd.transitions.with_label_values(&[name, state.name()])),
        }
    }

    /// Counters of all of BFD.
    pub fn bfd_totals(&self) -> BfdTotals {
        BfdTotals {
            discarded: bfd::Discard::ALL.map(|reason| self.bfd.discarded.with_label_values(&[reason.label()])),
            late: self.bfd.late.clone(),
        }
    }

    /// Drops the counters of a BFD session that left the file.
    pub fn forget_bfd(&self, name: &str) {
        // Absent is as good as removed.
        for family in [&self.bfd.received, &self.bfd.sent] {
            let _ = family.remove_label_values(&[name]);
        }
        for state in bfd::State::ALL {
            let _ = self.bfd.transitions.remove_label_values(&[name, state.name()]);
        }
    }

    /// Drops the counters of a peer that left the file.
    pub fn forget_peer(&self, name: &str) {
        self.forget_bfd(name);
        for kind in MessageKind::ALL {
            for family in [&self.messages_received, &self.messages_sent] {
                // Absent is as good as removed.
                let _ = family.remove_label_values(&[name, kind.label()]);
            }
        }
    }

    /// Something of this kind was put right. Routes and nexthop objects are counted where they are written.
    pub fn repaired(&self, kind: Kind) {
        self.repairs.with_label_values(&[kind.label()]).inc();
    }

    /// The text exposition of everything, gauges as in `now`.
    pub fn render(&self, now: &Snapshot) -> prometheus::Result<Vec<u8>> {
        self.gauges.set(now);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl Gauges {
    fn set(&self, now: &Snapshot) {
        let per_peer = [
            &self.established,
            &self.prefixes_received,
            &self.prefixes_accepted,
            &self.prefixes_advertised,
            &self.prefixes_stale,
        ];
        let others = [&self.sessions, &self.prefixes_rejected, &self.prefixes_limit, &self.bfd_up];
        for family in per_peer.into_iter().chain(others) {
            family.reset();
        }
        for (name, peer) in &now.peers {
            let values = [peer.established, peer.received, peer.accepted, peer.advertised, peer.stale];
            for (family, value) in per_peer.into_iter().zip(values) {
                family.with_label_values(&[name.as_str()]).set(int(value));
            }
            if let Some(limit) = peer.max_prefixes {
                self.prefixes_limit.with_label_values(&[name.as_str()]).set(limit.into());
            }
            if let Some(up) = peer.bfd_up {
                self.bfd_up.with_label_values(&[name.as_str()]).set(int(up));
            }
            for (reason, count) in &peer.rejected {
                self.prefixes_rejected.with_label_values(&[name.as_str(), reason.as_str()]).set(int(*count));
            }
        }
        for (state, count) in &now.sessions {
            self.sessions.with_label_values(&[state.as_str()]).set(int(*count));
        }
        self.ready.set(i64::from(now.ready));
        self.drain.set(i64::from(now.drain));
        self.store.set(now.store.as_ref());
        let sizes = [
            (&self.rib_prefixes, now.rib.prefixes),
            (&self.rib_paths, now.rib.paths),
            (&self.rib_attribute_sets, now.rib.attribute_sets),
            (&self.fib_wanted, now.fib.wanted),
            (&self.fib_installed, now.fib.installed),
            (&self.fib_failed, now.fib.failed),
            (&self.fib_unresolved, now.fib.unresolved),
            (&self.fib_conflicts, now.fib.conflicts),
            (&self.fib_stale, now.fib.stale),
        ];
        for (gauge, value) in sizes {
            gauge.set(int(value));
        }
        set_counter(&self.fib_repaired, now.fib.repaired);
        for (kind, counter) in &self.written_repairs {
            set_counter(counter, now.repairs.get(kind.label()).copied().unwrap_or_default());
        }
        for kind in Kind::ALL {
            let count = now.duels.get(kind.label()).copied().unwrap_or_default();
            self.duels.with_label_values(&[kind.label()]).set(int(count));
        }
        for family in &self.devices {
            family.reset();
        }
        for (device, values) in &now.devices {
            for (family, value) in self.devices.iter().zip(values) {
                family.with_label_values(&[device.as_str()]).inc_by(*value);
            }
        }
        self.resident.set(i64::try_from(now.resident_bytes).unwrap_or(i64::MAX));
        self.cpu.inc_by((now.cpu_seconds - self.cpu.get()).max(0.0));
    }
}

/// Brings a counter to a total that is counted elsewhere.
fn set_counter(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_follow_the_snapshot_and_leave_nothing_behind() {
        let metrics = Metrics::new().unwrap();
        metrics.peer("tor-a").received(MessageKind::Update);
        let mut now = Snapshot::default();
        now.peers.insert("tor-a".into(), PeerSnapshot { received: 7, ..PeerSnapshot::default() });
        now.devices.push(("wayleave0".into(), [1, 2, 3, 4, 5, 6, 7, 8]));
        now.fib.repaired = 2;
        metrics.repaired(Kind::Firewall);
        now.repairs.insert("route".into(), 2);
        now.duels.insert("firewall".into(), 1);
        let text = String::from_utf8(metrics.render(&now).unwrap()).unwrap();
        for line in [
            "wayleave_bgp_prefixes_received{peer=\"tor-a\"} 7",
            "wayleave_bgp_messages_received_total{kind=\"update\",peer=\"tor-a\"} 1",
            "wayleave_interface_transmit_dropped_total{device=\"wayleave0\"} 8",
            "wayleave_fib_routes_repaired_total 2",
            "wayleave_repairs_total{kind=\"route\"} 2",
            "wayleave_repairs_total{kind=\"firewall\"} 1",
            "wayleave_repairs_total{kind=\"tunnel\"} 0",
            "wayleave_duels{kind=\"firewall\"} 1",
            "wayleave_duels{kind=\"route\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        now.peers.clear();
        now.devices.clear();
        let text = String::from_utf8(metrics.render(&now).unwrap()).unwrap();
        assert!(!text.contains("prefixes_received{") && !text.contains("device="), "{text}");
        assert!(text.contains("wayleave_fib_routes_repaired_total 2"), "a total is not added twice");
    }
}
