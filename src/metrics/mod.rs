//! Every Prometheus series: name, help, labels. One home for each.
//!
//! Counters are held as handles by whoever counts. Gauges are set at scrape time from a
//! [`Snapshot`], so that no series outlives what it describes. The `peer` label is the name in the
//! file; peers accepted by a prefix share that prefix's name, nodes of the store share `mesh`, so the
//! number of series is bounded by the configuration.

mod bfd;
mod events;
mod firewall;
mod host;
mod peer;
#[cfg(test)]
mod reference;
mod routes;
mod store;
mod text;
mod traffic;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::proto::MetricType;
use prometheus::{
    Counter, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use self::bfd::BfdCounters;
pub use self::bfd::{BfdMetrics, BfdTotals};
pub use self::events::EventMetrics;
pub use self::firewall::FirewallCounters;
use self::host::HostSeries;
pub use self::host::{HostSnapshot, Interface, Neighbours, Process, TunnelErrors};
use self::peer::PeerFamilies;
pub use self::peer::{MessageKind, PeerMetrics};
use self::routes::RouteSeries;
pub use self::routes::{Checks, RouteSnapshot};
use self::store::StoreGauges;
pub use self::store::StoreSnapshot;
use self::text::{Family, Kind};
use self::traffic::TrafficSeries;
pub use self::traffic::TrafficSnapshot;
use crate::forward::duel::Kind as Thing;

/// What every name begins with.
const PREFIX: &str = "wayleave";

/// What the gauges show, taken at scrape time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Whether the first synchronisation is done
    pub ready: bool,
    /// 0: not drained, 1: draining, 2: drained
    pub drain: u8,
    /// The store; none: there is none
    pub store: Option<StoreSnapshot>,
    /// Traffic by remote node
    pub traffic: TrafficSnapshot,
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
    /// Whether all wanted firewall rules are in force; none: none is wanted
    pub firewall: Option<bool>,
    /// Whether firewalld rejects our traffic; none: there is no firewalld
    pub firewalld: Option<bool>,
    /// Duels by kind
    pub duels: BTreeMap<String, usize>,
    /// Changes and checks of the tables
    pub routes: RouteSnapshot,
    /// What the host's kernel tells
    pub host: HostSnapshot,
    /// The last reload was refused
    pub reload_refused: bool,
}

/// Gauges of one peer of the file.
#[derive(Clone, Debug, Default)]
pub struct PeerSnapshot {
    /// Established sessions: 0 or 1, more for a prefix
    pub established: usize,
    /// When the last of its sessions came up or was lost, in seconds of Unix time
    pub last_change: Option<f64>,
    /// Sessions that should be; none: a prefix, from which anybody or nobody may come
    pub wanted: Option<usize>,
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
    /// Of the limit, as much as the session nearest to its own has received; none: there is no limit
    pub limit_used: Option<f64>,
    /// Prefixes rejected, by reason
    pub rejected: BTreeMap<String, usize>,
    /// BFD sessions that are Up; none: it has no BFD
    pub bfd_up: Option<usize>,
}

impl PeerSnapshot {
    /// One of its sessions has received so many prefixes of so many.
    pub fn used(&mut self, received: usize, limit: NonZeroU32) {
        let used = f64::from(u32::try_from(received).unwrap_or(u32::MAX)) / f64::from(limit.get());
        self.limit_used = Some(self.limit_used.map_or(used, |most| most.max(used)));
    }
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
    known: Vec<Known>,
    peer: PeerFamilies,
    peers: Mutex<BTreeMap<String, Arc<peer::Tally>>>,
    bfd: BfdCounters,
    bfd_sessions: Mutex<BTreeMap<String, Arc<bfd::Tally>>>,
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
    /// The firewall
    pub firewall: FirewallCounters,
    /// The journal's
    pub events: EventMetrics,
    repairs: IntCounterVec,
    gauges: Gauges,
}

#[derive(Debug)]
struct Gauges {
    ready: IntGauge,
    drain: IntGauge,
    store: StoreGauges,
    traffic: TrafficSeries,
    sessions: IntGaugeVec,
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
    written_repairs: [(Thing, IntCounter); 2],
    duels: IntGaugeVec,
    routes: RouteSeries,
    host: HostSeries,
    reload_refused: IntGauge,
}

/// A family as it is registered.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Known {
    /// Its name
    pub name: String,
    /// Its type, in the words of the text format
    pub kind: &'static str,
    /// Names of its labels
    pub labels: Vec<String>,
    /// What it is, in a sentence
    pub help: String,
}

/// Registers series under the common prefix, and keeps a list of them.
struct Register<'a>(&'a Registry, RefCell<Vec<Known>>);

impl Register<'_> {
    fn add<C: Collector + Clone + 'static>(&self, collector: prometheus::Result<C>) -> prometheus::Result<C> {
        let collector = collector?;
        self.0.register(Box::new(collector.clone()))?;
        // A family knows its type, its description the labels.
        for (family, desc) in collector.collect().iter().zip(collector.desc()) {
            let kind = match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                _ => "untyped",
            };
            let labels = desc.variable_labels.clone();
            self.1.borrow_mut().push(Known { name: desc.fq_name.clone(), kind, labels, help: desc.help.clone() });
        }
        Ok(collector)
    }

    /// A family of which each peer has series, and which [`Metrics::render`] writes itself.
    fn family<const N: usize>(&self, kind: Kind, name: &str, help: &str, labels: [&'static str; N]) -> Family<N> {
        let name = format!("{PREFIX}_{name}");
        let family = Family::new(kind, &name, help, labels);
        let labels = labels.map(str::to_owned).into();
        self.1.borrow_mut().push(Known { name, kind: kind.word(), labels, help: help.to_owned() });
        family
    }

    /// A gauge that may have no value.
    fn seconds(&self, name: &str, help: &str) -> prometheus::Result<GaugeVec> {
        self.add(GaugeVec::new(opts(name, help), &[]))
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

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(PREFIX)
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

fn int64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Metrics {
    /// All series, at zero.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = Register(&registry, RefCell::default());
        let build = r.gauges("build_info", "Always 1; the labels say what runs.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let repairs = r.counters(
            "repairs_total",
            "Things of ours put right after somebody removed or changed them, by kind.",
            &["kind"],
        )?;
        let reloads = r.counters("config_reloads_total", "Reloads of the configuration, by result.", &["result"])?;
        for result in ["done", "refused"] {
            reloads.with_label_values(&[result]);
        }
        for kind in Thing::ALL {
            repairs.with_label_values(&[kind.label()]);
        }
        let gauges = Gauges {
            ready: r.gauge(
                "ready",
                "Whether the first synchronisation is in the kernel and the node is not leaving (1) or not (0).",
            )?,
            store: StoreGauges::new(&r)?,
            traffic: TrafficSeries::new(&r)?,
            drain: r.gauge("drain_state", "Whether the node is leaving the network: 0 no, 1 draining, 2 drained.")?,
            sessions: r.gauges("bgp_sessions", "BGP sessions by state.", &["state"])?,
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
            written_repairs: [Thing::Route, Thing::Nexthop]
                .map(|kind| (kind, repairs.with_label_values(&[kind.label()]))),
            duels: r.gauges("duels", "Things of ours that somebody keeps removing or changing, by kind.", &["kind"])?,
            routes: RouteSeries::new(&r)?,
            host: HostSeries::new(&r)?,
            reload_refused: r.gauge(
                "config_reload_refused",
                "Whether the last reload was refused (1): the former configuration is in force.",
            )?,
        };
        Ok(Self {
            peer: PeerFamilies::new(&r),
            peers: Mutex::default(),
            bfd_sessions: Mutex::default(),
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
            reloads,
            firewall: FirewallCounters::new(&r)?,
            events: EventMetrics::new(&r)?,
            repairs,
            gauges,
            known: r.1.into_inner(),
            registry,
        })
    }

    /// Counters of a peer by its name in the file; all that share it count together.
    pub fn peer(&self, name: &str) -> PeerMetrics {
        PeerMetrics::new(Arc::clone(locked(&self.peers).entry(name.to_owned()).or_insert_with(peer::Tally::at_zero)))
    }

    /// Counters of the BFD session of a peer of the file.
    pub fn bfd(&self, name: &str) -> BfdMetrics {
        BfdMetrics::new(Arc::clone(locked(&self.bfd_sessions).entry(name.to_owned()).or_default()))
    }

    /// Counters of all of BFD.
    pub fn bfd_totals(&self) -> BfdTotals {
        BfdTotals {
            discarded: crate::bfd::Discard::ALL.map(|reason| self.bfd.discarded.with_label_values(&[reason.label()])),
            late: self.bfd.late.clone(),
        }
    }

    /// Drops the counters of a BFD session that left the file.
    pub fn forget_bfd(&self, name: &str) {
        locked(&self.bfd_sessions).remove(name);
    }

    /// Drops the counters of a peer that left the file.
    pub fn forget_peer(&self, name: &str) {
        self.forget_bfd(name);
        locked(&self.peers).remove(name);
    }

    /// Every family there is, whether it has series or not.
    pub fn families(&self) -> &[Known] {
        &self.known
    }

    /// Something of this kind was put right. Routes and nexthop objects are counted where they are written.
    pub fn repaired(&self, kind: Thing) {
        self.repairs.with_label_values(&[kind.label()]).inc();
    }

    /// The text exposition of everything, gauges as in `now`.
    pub fn render(&self, now: &Snapshot) -> prometheus::Result<Vec<u8>> {
        self.gauges.set(now);
        self.firewall.set(now.firewall, now.firewalld);
        let mut text = String::new();
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text)?;
        self.peer.write(&mut text, &locked(&self.peers).clone(), &now.peers);
        self.bfd.write(&mut text, &locked(&self.bfd_sessions).clone());
        self.gauges.traffic.write(&mut text, &now.traffic);
        Ok(text.into_bytes())
    }
}

/// The names change with the configuration only, and what is in the middle of a change is whole.
fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gauges {
    fn set(&self, now: &Snapshot) {
        self.sessions.reset();
        for (state, count) in &now.sessions {
            self.sessions.with_label_values(&[state.as_str()]).set(int(*count));
        }
        self.ready.set(i64::from(now.ready));
        self.drain.set(i64::from(now.drain));
        self.store.set(now.store.as_ref());
        self.traffic.set(&now.traffic);
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
        for kind in Thing::ALL {
            let count = now.duels.get(kind.label()).copied().unwrap_or_default();
            self.duels.with_label_values(&[kind.label()]).set(int(count));
        }
        self.routes.set(&now.routes);
        self.host.set(&now.host);
        self.reload_refused.set(i64::from(now.reload_refused));
    }
}

/// Brings a counter to a total that is counted elsewhere.
fn set_counter(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// The same in seconds.
fn set_float_counter(counter: &Counter, total: f64) {
    counter.inc_by((total - counter.get()).max(0.0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_follow_the_snapshot_and_leave_nothing_behind() {
        let metrics = Metrics::new().unwrap();
        metrics.peer("tor-a").received(MessageKind::Update);
        let mut now = Snapshot::default();
        let mut peer = PeerSnapshot { received: 7, ..PeerSnapshot::default() };
        // A range is as near to the limit as the worst of its sessions.
        for received in [0, 99, 10] {
            peer.used(received, NonZeroU32::new(100).unwrap());
        }
        now.peers.insert("tor-a".into(), peer);
        now.peers.insert("free".into(), PeerSnapshot::default());
        now.reload_refused = true;
        now.host.conntrack = Some((9, 1000));
        now.host.interfaces.push(Interface { name: "wayleave0".into(), receive: [1, 2, 3, 4], transmit: [5, 6, 7, 8] });
        now.fib.repaired = 2;
        metrics.repaired(Thing::Firewall);
        now.repairs.insert("route".into(), 2);
        now.duels.insert("firewall".into(), 1);
        (now.firewall, now.firewalld) = (Some(true), Some(true));
        for packets in [7, 5] {
            metrics.firewall.saw(crate::firewall::Counted { packets, bytes: 60 * packets });
        }
        let text = String::from_utf8(metrics.render(&now).unwrap()).unwrap();
        for line in [
            "wayleave_bgp_prefixes_received{peer=\"tor-a\"} 7",
            "wayleave_bgp_prefixes_limit_used_ratio{peer=\"tor-a\"} 0.99",
            "wayleave_config_reload_refused 1",
            "wayleave_conntrack_entries 9",
            "wayleave_conntrack_limit 1000",
            "wayleave_bgp_messages_received_total{kind=\"update\",peer=\"tor-a\"} 1",
            "wayleave_interface_transmit_dropped_total{device=\"wayleave0\"} 8",
            "wayleave_fib_routes_repaired_total 2",
            "wayleave_repairs_total{kind=\"route\"} 2",
            "wayleave_repairs_total{kind=\"firewall\"} 1",
            "wayleave_repairs_total{kind=\"tunnel\"} 0",
            "wayleave_duels{kind=\"firewall\"} 1",
            "wayleave_duels{kind=\"route\"} 0",
            "wayleave_firewall_in_force 1",
            "wayleave_firewalld_rejects 1",
            "wayleave_firewall_refused_packets_total{reason=\"unknown_tunnel_end\"} 7",
            "wayleave_firewall_refused_bytes_total{reason=\"unknown_tunnel_end\"} 420",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("limit_used_ratio{peer=\"free\"}"), "no limit, no share of it");
        now.peers.clear();
        now.reload_refused = false;
        now.host.conntrack = Some((9, 0));
        now.host.interfaces.clear();
        (now.firewall, now.firewalld) = (None, None);
        let text = String::from_utf8(metrics.render(&now).unwrap()).unwrap();
        assert!(!text.contains("prefixes_received{") && !text.contains("device="), "{text}");
        assert!(!text.contains("firewall_in_force") && !text.contains("firewalld_rejects"), "{text}");
        assert!(text.contains("wayleave_fib_routes_repaired_total 2"), "a total is not added twice");
        assert!(text.contains("wayleave_config_reload_refused 0"), "{text}");
        assert!(text.contains("conntrack_entries 9") && !text.contains("conntrack_limit"), "0 is no limit: {text}");
    }
}
