//! What was put right of the node's own things, and with whom it is fought over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::daemon::journal::{Journal, Note};
use crate::daemon::{duels, time};
use crate::forward::duel::{Duels, Kind, Turn};
use crate::io::suspects;
use crate::metrics::Metrics;
use crate::view::{self, EventKind};

/// A thing that the node task puts right.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::daemon) enum Thing {
    /// The tunnel device
    Tunnel,
    /// Its address
    Address,
    /// A kernel setting, by its name
    Sysctl(String),
    /// The firewall table
    Firewall,
    /// Our rule in Docker's chain
    Docker,
    /// The table that counts traffic
    Traffic,
}

impl Thing {
    const fn kind(&self) -> Kind {
        match self {
            Self::Tunnel => Kind::Tunnel,
            Self::Address => Kind::Address,
            Self::Sysctl(_) => Kind::Sysctl,
            Self::Firewall | Self::Docker => Kind::Firewall,
            Self::Traffic => Kind::Traffic,
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tunnel => f.write_str(super::TUNNEL),
            Self::Address => write!(f, "address of {}", super::TUNNEL),
            Self::Sysctl(key) => f.write_str(key),
            Self::Firewall => write!(f, "table inet {}", super::TABLE),
            Self::Docker => write!(f, "rule in {}", crate::firewall::docker::CHAIN),
            Self::Traffic => write!(f, "table inet {}", crate::daemon::traffic::TABLE),
        }
    }
}

struct Last {
    count: u64,
    what: String,
    at: SystemTime,
}

/// All of them since start.
pub(in crate::daemon) struct Repairs {
    metrics: Arc<Metrics>,
    duels: Duels<Thing>,
    last: BTreeMap<Kind, Last>,
    /// Whether there is something to show that wasn't shown yet
    unshown: bool,
    /// Who did what was found wrong last, as far as it is known
    by: Option<String>,
    journal: Journal,
}

impl Repairs {
    pub(in crate::daemon) fn new(metrics: Arc<Metrics>, journal: Journal) -> Self {
        Self { metrics, duels: Duels::default(), last: BTreeMap::new(), unshown: false, by: None, journal }
    }

    /// A thing was found wrong: put right now, or not before the instant. `by` is what tells who did it.
    pub(in crate::daemon) fn may(&mut self, what: &Thing, by: Option<String>, now: Instant) -> Result<(), Instant> {
        let turn = self.duels.found(what, now);
        let by = by.or_else(|| match (turn, what) {
            // The kernel doesn't tell who writes a setting, and looking for suspects takes its time.
            (Turn::Begins, Thing::Sysctl(key)) => suspects::sysctl(key),
            _ => None,
        });
        match (&by, turn) {
            (_, Turn::Later(at)) => return Err(at),
            (by, Turn::Begins) => duels::begins(&self.journal, what.kind(), what, by.as_deref()),
            (_, Turn::Now) => {}
        }
        self.by.clone_from(&by);
        if let Some(by) = by {
            self.duels.blame(what, by);
        }
        Ok(())
    }

    /// Somebody touched a thing: until when a look at it is in vain.
    pub(in crate::daemon) fn touched(&mut self, what: &Thing, now: Instant) -> Option<Instant> {
        self.duels.touched(what, now)
    }

    /// A thing was put right; `found` says what was wrong.
    pub(in crate::daemon) fn done(&mut self, what: &Thing, found: String) {
        let kind = what.kind();
        self.metrics.repaired(kind);
        let by = self
            .by
            .take()
            .map_or_else(|| "somebody did it, nothing tells who".to_owned(), |by| format!("done by {by}"));
        self.journal.note(Note::new(EventKind::Repair, what.to_string(), format!("put right: {found}")).because(by));
        let count = self.last.get(&kind).map_or(0, |last| last.count) + 1;
        self.last.insert(kind, Last { count, what: found, at: SystemTime::now() });
        self.unshown = true;
    }

    /// Ends duels that nobody fights any more.
    pub(in crate::daemon) fn settle(&mut self, now: Instant) {
        for what in self.duels.settle(now) {
            duels::ends(&self.journal, what.kind(), &what);
            self.unshown = true;
        }
    }

    /// Whether something is to be shown, since last asked.
    pub(in crate::daemon) const fn take_news(&mut self) -> bool {
        std::mem::replace(&mut self.unshown, false)
    }

    /// For `status`.
    pub(in crate::daemon) fn show(&self, now: Instant) -> (Vec<view::Repairs>, Vec<view::Duel>) {
        let repairs = self.last.iter().map(|(kind, last)| view::Repairs {
            kind: kind.label().to_owned(),
            count: last.count,
            last: Some(last.what.clone()),
            last_at: Some(time(last.at)),
        });
        let duels = self.duels.duels().map(|duel| duels::show(duel.what.kind(), &duel, now));
        (repairs.collect(), duels.collect())
    }
}
