//! What others do to our routes and nexthop objects: told of, counted, named.
//!
//! To put it right is the forwarder's work, and how soon, where somebody keeps doing it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Routing;
use crate::daemon::journal::Note;
use crate::daemon::{duels, time};
use crate::forward::duel::Kind;
use crate::forward::{Contested, KernelEvent, Stats, Target};
use crate::io::suspects;
use crate::view::{self, EventKind};

/// Of what happens at once so much is told in full; of a flush of a million routes not all.
const TOLD: usize = 5;
/// Duels of a kind that `status` names.
const SHOWN: usize = 20;
/// How often it is seen whether a duel is over.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// All of it since start.
#[derive(Default)]
pub(super) struct Repairs {
    /// Routes and nexthop objects that no event told of
    compared: (u64, u64),
    last: BTreeMap<Kind, (String, SystemTime)>,
    /// The netlink port looked at last, and whose it is
    suspect: (u32, Option<String>),
    /// When to see whether duels are over; none: there is none
    pub look: Option<Instant>,
}

/// What an event is about, if of ours; and what it does now, if it is a route and there.
pub(super) fn about(event: &KernelEvent) -> Option<(Contested, Option<Target>)> {
    match event {
        KernelEvent::Own(prefix, target) => Some((Contested::Route(*prefix), Some(target.clone()))),
        KernelEvent::OwnGone(prefix, _) => Some((Contested::Route(*prefix), None)),
        KernelEvent::Nexthop(object) => Some((Contested::Nexthop(object.id), None)),
        KernelEvent::NexthopGone(id) => Some((Contested::Nexthop(*id), None)),
        _ => None,
    }
}

/// Routes and nexthop objects found wrong, by event or not.
pub(super) const fn found(stats: &Stats) -> (u64, u64) {
    (stats.repaired() - stats.repaired_objects, stats.repaired_objects)
}

/// What an event is about: a prefix, so that it is found by an address in it.
fn subject(what: Contested) -> String {
    match what {
        Contested::Route(prefix) => prefix.to_string(),
        Contested::Nexthop(id) => format!("nexthop {}", id.0),
    }
}

fn done_by(by: Option<&str>) -> String {
    by.map_or_else(|| "somebody did it, nothing tells who".to_owned(), |by| format!("done by {by}"))
}

impl Routing {
    /// Somebody has caused an event of ours, which the forwarder has heard. `before` is how many of the
    /// same report have been undone; returns how many are by now.
    pub(super) fn meddled(
        &mut self,
        what: Contested,
        is: Option<&Target>,
        gone: bool,
        port: u32,
        before: usize,
    ) -> usize {
        if !self.forwarder.meddled(what) {
            return before;
        }
        let told = before < TOLD;
        if told || self.forwarder.is_contested(what) {
            let by = self.suspect(port);
            if let Some(by) = &by {
                self.forwarder.blame(what, by.clone());
            }
            if told {
                self.tell(what, is, gone, by.as_deref());
            }
        }
        before + 1
    }

    fn tell(&mut self, what: Contested, is: Option<&Target>, gone: bool, by: Option<&str>) {
        let found = match (is, gone) {
            (_, true) => "removed".to_owned(),
            (None, false) => "changed".to_owned(),
            (Some(target), false) => format!("changed to {}", self.target(target)),
        };
        match what {
            Contested::Route(prefix) if gone => tracing::warn!(%prefix, by, "route of ours was removed by somebody"),
            Contested::Route(prefix) => {
                tracing::warn!(%prefix, found, by, "route of ours was changed by somebody");
            }
            Contested::Nexthop(id) => {
                tracing::warn!(nexthop = id.0, found, by, "nexthop object of ours was {found} by somebody");
            }
        }
        let note = Note::new(EventKind::Repair, subject(what), format!("put right: it was {found}"));
        self.news.journal().note(note.because(done_by(by)));
        self.repairs.last.insert(what.kind(), (format!("{what} was {found}"), SystemTime::now()));
    }

    /// The rest of a report of which only the first were told in full.
    pub(super) fn tell_of_more(&self, undone: usize) {
        if undone > TOLD {
            let by = self.repairs.suspect.1.as_deref();
            tracing::warn!(
                more = undone - TOLD,
                by,
                "routes and nexthop objects of ours were removed or changed as well"
            );
            let what = format!("put right: {} more were removed or changed", undone - TOLD);
            let note = Note::new(EventKind::Repair, "routes", what);
            self.news.journal().note(note.because(done_by(by)));
        }
    }

    /// The process behind a netlink port. Looked up once while it goes on.
    fn suspect(&mut self, port: u32) -> Option<String> {
        if self.repairs.suspect.0 != port {
            self.repairs.suspect = (port, suspects::netlink_port(port));
        }
        self.repairs.suspect.1.clone()
    }

    /// A comparison is done; `before` is what was found wrong until then.
    pub(super) fn tell_of_comparison(&mut self, before: (u64, u64)) {
        let after = found(&self.forwarder.stats());
        let (routes, nexthops) = (after.0 - before.0, after.1 - before.1);
        self.seen.compared(routes, nexthops);
        if routes + nexthops == 0 {
            return;
        }
        tracing::warn!(routes, nexthops, "the kernel's tables differed from what is wanted, repaired");
        let what = format!("put right: {routes} routes and {nexthops} nexthop objects differed from what is wanted");
        let note = Note::new(EventKind::Repair, "routes", what);
        self.news.journal().note(note.because("found by comparison, no event told of it"));
        self.repairs.compared.0 += routes;
        self.repairs.compared.1 += nexthops;
        for (kind, count) in [(Kind::Route, routes), (Kind::Nexthop, nexthops)] {
            if count > 0 {
                let text = format!("{count} differed, found by comparison");
                self.repairs.last.insert(kind, (text, SystemTime::now()));
            }
        }
    }

    /// Duels that began, and those that are over.
    pub(super) fn tell_of_duels(&mut self, now: Instant) {
        let begun = self.forwarder.take_duels_begun();
        if !begun.is_empty() {
            self.repairs.look.get_or_insert(now + LOOK_EVERY);
            let first = begun.get(..TOLD).unwrap_or(&begun);
            if self.repairs.suspect.1.is_none() {
                self.repairs.suspect.1 = suspects::netlink_owner(self.repairs.suspect.0);
            }
            if let Some(by) = &self.repairs.suspect.1 {
                for what in first {
                    self.forwarder.blame(*what, by.clone());
                }
            }
            for duel in self.forwarder.duels().filter(|duel| first.contains(&duel.what)) {
                duels::begins(self.news.journal(), duel.what.kind(), &duel.what, duel.by);
            }
            if begun.len() > TOLD {
                tracing::error!(more = begun.len() - TOLD, "the same of other routes and nexthop objects");
            }
        }
        if self.repairs.look.is_some_and(|at| at <= now) {
            for what in self.forwarder.settle_duels(now.into_std()) {
                duels::ends(self.news.journal(), what.kind(), &what);
            }
            self.repairs.look = self.forwarder.duels().next().map(|_| now + LOOK_EVERY);
        }
    }

    /// For `status`: repairs by kind, some duels, and how many there are.
    pub(super) fn shown_repairs(&self) -> (Vec<view::Repairs>, Vec<view::Duel>, BTreeMap<String, usize>) {
        let stats = self.forwarder.stats();
        let (routes, nexthops) = self.repairs.compared;
        let counts = [(Kind::Route, stats.undone_routes + routes), (Kind::Nexthop, stats.undone_objects + nexthops)];
        let repairs = counts.into_iter().filter(|(_, count)| *count > 0).map(|(kind, count)| {
            let last = self.repairs.last.get(&kind);
            let (last, last_at) = (last.map(|(text, _)| text.clone()), last.map(|(_, at)| time(*at)));
            view::Repairs { kind: kind.label().to_owned(), count, last, last_at }
        });
        let now = Instant::now().into_std();
        let (mut shown, mut counts) = (Vec::new(), BTreeMap::new());
        for duel in self.forwarder.duels() {
            let kind = duel.what.kind();
            let count: &mut usize = counts.entry(kind.label().to_owned()).or_default();
            *count += 1;
            if *count <= SHOWN {
                shown.push(duels::show(kind, &duel, now));
            }
        }
        (repairs.collect(), shown, counts)
    }
}
