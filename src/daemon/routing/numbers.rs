//! Numbers of the routing task, published for whoever must not wait for it: the scrape, `/readyz`.
//!
//! They are put together when somebody asks, and what they cost doesn't grow with the routes. Who asks
//! while a table is being loaded may find the former ones, with their age.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Counts, Routing, repairs};
use crate::bgp::rib::PeerId;
use crate::daemon::{time, unix};
use crate::forward::Forwarder;
use crate::metrics::{Checks, FibSnapshot, RouteSnapshot};
use crate::view;

/// Of the time that passes, so much at most goes into counting conflicts: one part in a hundred.
const SHARE: u32 = 100;

/// The numbers as of a moment.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// When
    pub at: Instant,
    /// Whether the first synchronisation is done
    pub ready: bool,
    /// What is waited for, or how it ended
    pub ready_reason: String,
    /// Sizes of the routing table
    pub rib: view::RibStatus,
    /// Sizes of the kernel's
    pub fib: FibSnapshot,
    /// Changes and checks
    pub routes: RouteSnapshot,
    /// Repairs of routes and nexthop objects, by kind
    pub repairs: BTreeMap<String, u64>,
    /// Duels over them, by kind
    pub duels: BTreeMap<String, usize>,
    /// By peer
    pub counts: BTreeMap<PeerId, Counts>,
    /// Devices that packets of ours pass: those of hops, of our subnets, the tunnel
    pub devices: BTreeSet<u32>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            at: Instant::now(),
            ready: false,
            ready_reason: "starting".to_owned(),
            rib: view::RibStatus::default(),
            fib: FibSnapshot::default(),
            routes: RouteSnapshot::default(),
            repairs: BTreeMap::new(),
            duels: BTreeMap::new(),
            counts: BTreeMap::new(),
            devices: BTreeSet::new(),
        }
    }
}

/// When tables changed and were compared, and who reads of it.
pub(super) struct Seen {
    publish: watch::Sender<Arc<Numbers>>,
    /// When a best path last changed
    pub rib: Option<SystemTime>,
    /// When the kernel last took a write
    pub fib: Option<SystemTime>,
    checks: Checks,
    /// The last comparison: when it ended, routes and nexthop objects found wrong
    last: Option<(SystemTime, u64, u64)>,
    conflicts: Conflicts,
}

impl Default for Seen {
    fn default() -> Self {
        let (rib, fib, last, checks, conflicts) = Default::default();
        Self { publish: watch::channel(Arc::default()).0, rib, fib, checks, last, conflicts }
    }
}

/// The number of conflicts. To count them takes a walk over all foreign routes, and of those another
/// daemon may have a whole table.
#[derive(Default)]
struct Conflicts {
    count: usize,
    again: Option<Instant>,
}

impl Conflicts {
    fn count(&mut self, forwarder: &Forwarder) -> usize {
        let began = Instant::now();
        if self.again.is_none_or(|again| began >= again) {
            self.count = forwarder.conflict_count();
            self.again = Some(Instant::now() + began.elapsed() * SHARE);
        }
        self.count
    }
}

impl Seen {
    /// A comparison with the kernel has ended; so much was found wrong.
    pub(super) fn compared(&mut self, routes: u64, nexthops: u64) {
        let now = SystemTime::now();
        if routes + nexthops == 0 {
            self.checks.agreed += 1;
        } else {
            self.checks.differed += 1;
        }
        self.last = Some((now, routes, nexthops));
    }

    /// For `status`.
    pub(super) fn check(&self) -> Option<view::FibCheck> {
        let (at, routes, nexthops) = self.last?;
        let Checks { agreed, differed, .. } = self.checks;
        Some(view::FibCheck { at: time(at), routes, nexthops, agreed, differed })
    }
}

impl Routing {
    /// Follows the numbers.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Numbers>> {
        self.seen.publish.subscribe()
    }

    /// Puts them together anew.
    pub(super) fn publish(&mut self) {
        let fib = self.forwarder.stats();
        let (repairs, _, duels) = self.shown_repairs();
        let mut devices = self.forwarder.devices_in_use(&self.node.subnets);
        devices.extend(self.tunnel);
        let checks = Checks { last: self.seen.last.map(|(at, ..)| unix(at)), ..self.seen.checks };
        let next_hops: BTreeSet<_> = self.rivals.iter().map(|rival| rival.next_hop).collect();
        let numbers = Numbers {
            at: Instant::now(),
            ready: self.sync.is_ready(),
            ready_reason: self.sync.reason(Instant::now().into_std()),
            rib: self.rib_status(),
            fib: FibSnapshot {
                wanted: fib.wanted,
                installed: fib.installed,
                failed: fib.failed,
                unresolved: fib.unresolved + self.rib.stats().unreachable,
                conflicts: self.seen.conflicts.count(&self.forwarder),
                stale: fib.stale,
                repaired: repairs::found(&fib).0,
            },
            routes: RouteSnapshot {
                rib_changed: self.seen.rib.map(unix),
                fib_changed: self.seen.fib.map(unix),
                checks,
                rivals: next_hops.len(),
                age: Duration::ZERO.as_secs_f64(),
            },
            repairs: repairs.into_iter().map(|repairs| (repairs.kind, repairs.count)).collect(),
            duels,
            counts: self.counts(),
            devices,
        };
        self.seen.publish.send_replace(Arc::new(numbers));
    }
}
