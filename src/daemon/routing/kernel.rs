//! The kernel's side of the routing task: writes out, answers and events in, comparison by dumps.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Routing, WRITES, repairs};
use crate::daemon::journal::Note;
use crate::daemon::settings;
use crate::forward::{Batch, Dump, FibOp, KernelEvent, NexthopOp, TunnelMode};
use crate::io::netlink::{query, watch, writer};
use crate::view::EventKind;

/// Refused routes of which the journal is told.
const TOLD: usize = 16;

/// The ends of queues that the task waits on.
pub(super) struct Ends {
    pub ops: Option<mpsc::Sender<Batch>>,
    pub nexthops: Option<mpsc::Sender<Vec<NexthopOp>>>,
    pub reports: Option<mpsc::Receiver<writer::Report>>,
    pub kernel: mpsc::Receiver<watch::Report>,
    pub dump: Option<oneshot::Receiver<std::io::Result<Dump>>>,
}

impl Routing {
    /// Whether there is something to write, and it may be written yet.
    pub(super) fn may_write(&self) -> bool {
        let now = Instant::now().into_std();
        let due = self.forwarder.queued() > 0 || self.forwarder.next_retry().is_some_and(|at| at <= now);
        self.ends.ops.is_some() && due && !self.is_held()
    }

    /// What a former run left is not touched before the first synchronisation, nor before all of that
    /// is decided.
    fn is_held(&self) -> bool {
        self.adopted && !self.sync.is_ready() && (self.is_deferred() || !self.rib.is_settled())
    }

    /// Hands the writer the nexthop objects that are due. Whether no route needs to wait for one.
    pub(super) fn write_nexthops(&mut self) -> bool {
        let Some(queue) = &self.ends.nexthops else { return true };
        let now = Instant::now().into_std();
        let due = self.forwarder.has_nexthop_ops() || self.forwarder.next_retry().is_some_and(|at| at <= now);
        if !due || self.is_held() {
            return !due;
        }
        // A full queue empties with the next report, after which this is asked again.
        let Ok(place) = queue.try_reserve() else { return false };
        let mut ops = Vec::new();
        self.forwarder.take_nexthop_ops(now, &mut ops);
        if !ops.is_empty() {
            place.send(ops);
            // Wakes a writer that has nothing to do; one that has looks by itself.
            let _ = self.ends.ops.as_ref().map(|ops| ops.try_send(Batch::default()));
        }
        true
    }

    /// One clear error when next hops turn out to need the tunnel that isn't there.
    pub(super) fn tell_of_missing_tunnel(&mut self) {
        if self.tunnel.is_some() || self.config.network.tunnel == TunnelMode::Never {
            return;
        }
        let affected: Vec<IpAddr> =
            self.forwarder.affected_without_tunnel().into_iter().map(|(addr, _)| addr).collect();
        if affected != self.without_tunnel {
            if !affected.is_empty() {
                tracing::error!(next_hops = ?affected, "these next hops need an IP-in-IP tunnel and there is no ipip device: routes over them are left out");
            }
            self.without_tunnel = affected;
        }
    }

    /// Hands the writer what the kernel lacks.
    pub(super) fn write(&mut self, place: Option<mpsc::OwnedPermit<Batch>>) {
        let Some(place) = place else {
            tracing::error!("the FIB writer has ended, routes are no longer written");
            self.ends.ops = None;
            return;
        };
        if !self.write_nexthops() {
            return;
        }
        let mut batch = std::mem::take(&mut self.spare);
        self.forwarder.take_ops(Instant::now().into_std(), WRITES, &mut batch);
        if batch.ops.is_empty() {
            self.spare = batch;
        } else {
            self.under_way.push_back(self.oldest);
            place.send(batch);
        }
    }

    /// Keeps the writer busy while much is being decided: takes its reports and hands it one batch more,
    /// if it has room.
    pub(super) fn feed_writer(&mut self) {
        while let Some(Ok(report)) = self.ends.reports.as_mut().map(mpsc::Receiver::try_recv) {
            self.written(Some(report));
        }
        if self.may_write()
            && let Some(Ok(place)) = self.ends.ops.clone().map(mpsc::Sender::try_reserve_owned)
        {
            self.write(Some(place));
        }
    }

    pub(super) fn written(&mut self, report: Option<writer::Report>) {
        let now = Instant::now();
        match report {
            Some(writer::Report::Routes(report)) => self.routes_written(report, now),
            Some(writer::Report::Nexthops(report)) => {
                for refusal in &report.refusals {
                    let id = report.ops.get(refusal.op).map_or(0, |op| op.id().0);
                    tracing::warn!(
                        nexthop = id,
                        error = words(refusal),
                        "the kernel refuses a nexthop object, trying again"
                    );
                }
                self.metrics.nexthop_objects_written.inc_by(count(report.ops.len() - report.failed.len()));
                self.fib_changed(report.ops.len() > report.failed.len());
                self.forwarder.nexthops_answered(&report.ops, &report.failed, now.into_std());
            }
            None => self.ends.reports = None,
        }
    }

    fn fib_changed(&mut self, changed: bool) {
        if changed {
            self.seen.fib = Some(SystemTime::now());
        }
    }

    fn routes_written(&mut self, report: writer::RoutesReport, now: Instant) {
        let writer::RoutesReport { mut batch, failed, refusals, .. } = report;
        self.metrics.netlink_batches.inc();
        self.metrics.netlink_acknowledged.inc_by(count(batch.ops.len() - failed.len()));
        self.metrics.netlink_refused.inc_by(count(failed.len()));
        self.fib_changed(batch.ops.len() > failed.len());
        self.forwarder.answered(&batch, &failed, now.into_std());
        if !self.refusals.is_empty() {
            for op in &batch.ops {
                self.refusals.remove(&op.prefix());
            }
        }
        for refusal in &refusals {
            let Some(prefix) = batch.ops.get(refusal.op).map(FibOp::prefix) else { continue };
            let text = words(refusal);
            tracing::warn!(%prefix, error = text, "the kernel refuses a route, trying again");
            // Bounded: what was refused once and is wanted no more must not pile up.
            if self.refusals.len() < TOLD && !self.refusals.contains_key(&prefix) {
                let note = Note::new(EventKind::Route, prefix.to_string(), "the kernel refuses it, trying again");
                self.news.journal().note(note.because(text.clone()));
            }
            if self.refusals.len() < 1000 {
                self.refusals.insert(prefix, text);
            }
        }
        if let Some(Some(oldest)) = self.under_way.pop_front() {
            self.metrics.update_to_kernel.observe(now.duration_since(oldest).as_secs_f64());
        }
        batch.clear();
        self.spare = batch;
    }

    pub(super) fn kernel(&mut self, report: watch::Report) {
        let events = match report {
            watch::Report::Events(events) => events,
            watch::Report::Overrun => {
                self.metrics.netlink_overruns.inc();
                tracing::warn!("kernel events were lost, comparing all");
                let note = Note::new(EventKind::Daemon, "kernel", "events of the kernel were lost, comparing all");
                self.news.journal().note(note.because("more came at once than could be read"));
                self.comparison.ask();
                return;
            }
        };
        let (mut addresses, mut undone) = (false, 0);
        for (event, port) in events {
            addresses |= matches!(event, KernelEvent::Address(_) | KernelEvent::AddressGone(_));
            let gone = matches!(event, KernelEvent::OwnGone(..) | KernelEvent::NexthopGone(_));
            // What the kernel does by itself has port 0.
            let about = if port == 0 { None } else { repairs::about(&event) };
            self.forwarder.event(event);
            if let Some((what, is)) = about {
                undone = self.meddled(what, is.as_ref(), gone, port, undone);
            }
        }
        self.tell_of_more(undone);
        if addresses {
            self.readdress();
        }
    }

    /// Our addresses changed: import and export depend on them.
    pub(super) fn readdress(&mut self) {
        let addresses: Arc<[IpAddr]> = self.forwarder.addresses().into();
        if addresses != self.node.addresses {
            self.node = settings::policy_node(&self.config, &self.identity, addresses);
            self.renew(&self.peers.keys().copied().collect::<Vec<_>>());
        }
    }

    /// Routes with our protocol that a run with another table or metric left are nobody's now.
    pub(super) fn flush_other_settings(&self) {
        if self.ends.ops.is_none() {
            return;
        }
        let ours = settings::ours(&self.config);
        tokio::spawn(async move {
            match query::flush(ours.protocol, Some(ours)).await {
                Ok(0) => {}
                Ok(routes) => tracing::info!(routes, "routes removed that a run with other settings left"),
                Err(error) => tracing::warn!(%error, "routes of a run with other settings can't be looked for"),
            }
        });
    }

    pub(super) fn start_resync(&mut self) {
        self.comparison.begin(Instant::now());
        self.forwarder.begin_resync();
        let (done, dump) = oneshot::channel();
        let ours = settings::ours(&self.config);
        tokio::spawn(async move {
            // If the daemon exits meanwhile, nobody wants it.
            let _ = done.send(query::dump(ours).await);
        });
        self.ends.dump = Some(dump);
    }

    pub(super) fn resynced(&mut self, result: Option<std::io::Result<Dump>>) {
        self.ends.dump = None;
        match result {
            Some(Ok(dump)) => {
                let before = repairs::found(&self.forwarder.stats());
                self.forwarder.resync(dump);
                self.tell_of_comparison(before);
                self.readdress();
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the kernel's table can't be read, trying again");
                self.comparison.ask();
            }
            None => self.comparison.ask(),
        }
    }
}

fn words(refusal: &writer::Refusal) -> String {
    if refusal.text.is_empty() {
        std::io::Error::from_raw_os_error(refusal.errno).to_string()
    } else {
        refusal.text.clone()
    }
}

fn count(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}

pub(super) async fn reserve(ops: Option<&mpsc::Sender<Batch>>) -> Option<mpsc::OwnedPermit<Batch>> {
    match ops {
        Some(ops) => ops.clone().reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

pub(super) async fn receive(reports: &mut Option<mpsc::Receiver<writer::Report>>) -> Option<writer::Report> {
    match reports {
        Some(reports) => reports.recv().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn dumped(
    dump: &mut Option<oneshot::Receiver<std::io::Result<Dump>>>,
) -> Option<std::io::Result<Dump>> {
    match dump {
        Some(dump) => dump.await.ok(),
        None => std::future::pending().await,
    }
}
