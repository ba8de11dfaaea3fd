//! The kernel's side of the routing task, as `daemon::routing::kernel` has it, and what can be seen of
//! all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use wayleave::bgp::attrs::Attrs;
use wayleave::bgp::rib::PeerId;
use wayleave::forward::{Batch, Contested, Dump, KernelEvent};
use wayleave::net::Prefix;

use super::super::node::{Answer, Heard};
use super::{BATCHES, RESYNC_EVERY, RESYNC_PAUSE, Routing, WRITES, policy_node};

impl Routing {
    pub fn heard(&mut self, now: Instant, heard: Heard) {
        let events = match heard {
            Heard::Events(events) => events,
            Heard::Overrun => {
                self.asked = true;
                return;
            }
        };
        let mut addresses = false;
        for (event, meddled) in events {
            addresses |= matches!(event, KernelEvent::Address(_) | KernelEvent::AddressGone(_));
            let about = match &event {
                KernelEvent::Own(prefix, _) | KernelEvent::OwnGone(prefix, _) => Some(Contested::Route(*prefix)),
                KernelEvent::Nexthop(object) => Some(Contested::Nexthop(object.id)),
                KernelEvent::NexthopGone(id) => Some(Contested::Nexthop(*id)),
                _ => None,
            };
            self.forwarder.event(event);
            if let Some(what) = about.filter(|_| meddled) {
                self.forwarder.meddled(what);
            }
        }
        if addresses {
            self.readdress(now);
        }
    }

    fn readdress(&mut self, now: Instant) {
        let addresses: Arc<[IpAddr]> = self.forwarder.addresses().into();
        if addresses != self.node.addresses {
            self.node = policy_node(&self.config, addresses);
            self.renew_all(now);
        }
    }

    pub fn resynced(&mut self, now: Instant, dump: Dump) {
        self.dumping = false;
        self.forwarder.resync(dump);
        self.readdress(now);
    }

    pub fn answered(&mut self, now: Instant, answer: &Answer) {
        match answer {
            Answer::Routes(batch, failed) => {
                self.batches_there -= 1;
                self.forwarder.answered(batch, failed, now);
            }
            Answer::Nexthops(ops, failed) => {
                self.lists_there -= 1;
                self.forwarder.nexthops_answered(ops, failed, now);
            }
        }
    }

    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.adopted && !self.sync.is_ready() && (self.is_deferred(now) || !self.rib.is_settled())
    }

    pub(super) fn may_write(&self, now: Instant) -> bool {
        let due = self.forwarder.queued() > 0 || self.forwarder.next_retry().is_some_and(|at| at <= now);
        due && !self.is_held(now)
    }

    /// Hands the writer the nexthop objects that are due. Whether no route needs to wait for one.
    pub(super) fn write_nexthops(&mut self, now: Instant) -> bool {
        let due = self.forwarder.has_nexthop_ops() || self.forwarder.next_retry().is_some_and(|at| at <= now);
        if !due || self.is_held(now) {
            return !due;
        }
        if self.lists_there == BATCHES {
            return false;
        }
        let mut ops = Vec::new();
        self.forwarder.take_nexthop_ops(now, &mut ops);
        if !ops.is_empty() {
            self.lists_there += 1;
            self.lists.push(ops);
        }
        true
    }

    /// Hands the writer the next batch.
    pub fn write(&mut self, now: Instant) {
        if !self.write_nexthops(now) {
            return;
        }
        let mut batch = Batch::default();
        self.forwarder.take_ops(now, WRITES, &mut batch);
        if !batch.ops.is_empty() {
            self.batches_there += 1;
            self.batch = Some(batch);
        }
    }

    /// When the kernel is to be compared again.
    pub(super) fn resync_due(&self) -> Instant {
        self.compared + if self.asked || self.forwarder.needs_resync() { RESYNC_PAUSE } else { RESYNC_EVERY }
    }

    // ---- seen ----

    /// Whether nothing is left to do; what, otherwise.
    pub fn at_rest(&self) -> Result<(), String> {
        let stats = self.forwarder.stats();
        let behind: Vec<PeerId> = self.outbound.behind().collect();
        let is_stale = |id: &&PeerId| self.rib.counters(**id).is_some_and(|counters| counters.stale > 0);
        let stale: Vec<&PeerId> = self.peers.keys().filter(is_stale).collect();
        if !self.rib.is_settled() {
            Err("prefixes wait for a decision".to_owned())
        } else if !self.forwarder.is_quiescent() || self.forwarder.needs_resync() || self.dumping || stats.stale > 0 {
            let (doubt, retry) = (self.forwarder.needs_resync(), self.forwarder.next_retry());
            Err(format!("the forwarder is busy: doubt {doubt}, dumping {}, retry {retry:?}, {stats:?}", self.dumping))
        } else if self.batches_there + self.lists_there > 0 {
            Err("the writer is busy".to_owned())
        } else if !behind.is_empty() {
            Err(format!("behind: {behind:?}"))
        } else if !stale.is_empty() || self.restarts.next().is_some() {
            Err(format!("stale: {stale:?}, restarting: {:?}", self.restarts))
        } else if !self.sync.is_ready() {
            Err("not ready".to_owned())
        } else {
            Ok(())
        }
    }

    /// What a peer is sent, as far as another's table can tell.
    pub fn sent(&self, id: PeerId) -> BTreeMap<Prefix, Attrs> {
        self.outbound.group_of(id).map(|group| group.sent(id, &self.rib).collect()).unwrap_or_default()
    }

    /// What a peer has sent.
    pub fn received(&self, id: PeerId) -> BTreeMap<Prefix, Attrs> {
        self.rib.paths_of(id).map(|(prefix, path)| (prefix, Attrs::clone(path.raw()))).collect()
    }

    /// All that is known of a prefix.
    pub fn describe(&self, prefix: Prefix) -> String {
        let view = self.rib.views().find(|view| view.prefix == prefix);
        let chosen = view.as_ref().map(|view| (&view.hops, &view.backup, view.paths.len()));
        format!("chosen {chosen:?}, wanted and written {:?}", self.forwarder.route(prefix))
    }

    /// Peers that the table still knows, whether or not they are configured.
    pub fn leftovers(&self) -> Vec<PeerId> {
        let mut known: BTreeSet<PeerId> = BTreeSet::new();
        for view in self.rib.views() {
            known.extend(view.paths.iter().map(wayleave::bgp::rib::Path::peer));
        }
        known.into_iter().filter(|id| *id != PeerId::LOCAL && !self.peers.contains_key(id)).collect()
    }
}
