//! What the journal is told of the store, of subnets and of nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::shown;
use crate::cluster::lease::Said;
use crate::cluster::mesh::Plan;
use crate::cluster::mirror::Change;
use crate::daemon::journal::{Journal, Note};
use crate::io::etcd::Health;
use crate::net::Prefix;
use crate::view::{EventKind, HeldSubnet};

/// Of what comes at once so much is told one by one: when hundreds of hosts boot, their number matters.
const TOLD: usize = 16;

/// What was told, and to whom.
#[derive(Debug)]
pub(super) struct News {
    journal: Journal,
    /// The store's standing: reachable, or why not
    standing: Option<Result<(), String>>,
    /// Subnets that the store has confirmed
    confirmed: BTreeSet<Prefix>,
    topology: String,
    /// What the store held at first is no news
    listed: bool,
}

impl News {
    pub(super) const fn new(journal: Journal) -> Self {
        Self { journal, standing: None, confirmed: BTreeSet::new(), topology: String::new(), listed: false }
    }

    /// Something happened to this node's subnets, or to an operator's wish.
    pub(super) fn lease(&self, said: &Said) {
        let subject = match said {
            Said::Took { subnet, .. }
            | Said::Restored { subnet }
            | Said::Lost { subnet, .. }
            | Said::Released { subnet }
            | Said::Ousted { subnet, .. }
            | Said::Reclaimed { subnet, .. }
            | Said::Reserved { subnet, .. }
            | Said::Unreserved { subnet, .. }
            | Said::Dropped { subnet, .. } => subnet.to_string(),
            Said::Blocked(rival) | Said::Rival(rival) => rival.name.clone(),
            Said::Copied { of } => of.clone(),
            Said::SetBack { .. } | Said::Generation { .. } => "store".to_owned(),
            _ => "subnets".to_owned(),
        };
        let kind = match said {
            Said::SetBack { .. } | Said::Generation { .. } => EventKind::Store,
            _ => EventKind::Lease,
        };
        let text = said.to_string();
        // Words and reason stand in one text.
        let (what, cause) = match text.split_once(": ") {
            Some((what, cause)) => (what.to_owned(), Some(cause.to_owned())),
            None => (text, None),
        };
        self.journal.note(Note::new(kind, subject, what).perhaps_because(cause));
    }

    /// The store has changed.
    pub(super) fn store(&mut self, changes: &[Change]) {
        let told = changes.iter().filter_map(|change| Some((change, shown::words(change)?)));
        let told: Vec<(&Change, String)> = told.collect();
        if told.len() <= TOLD && self.listed {
            for (change, text) in told {
                let (kind, subject) = subject(change);
                self.journal.note(Note::new(kind, subject, text));
            }
        } else if !told.is_empty() {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for (change, _) in &told {
                *counts.entry(plural(change)).or_default() += 1;
            }
            let counts: Vec<String> = counts.into_iter().map(|(what, count)| format!("{count} {what}")).collect();
            let first = if self.listed { "" } else { "first look: " };
            self.journal.note(Note::new(EventKind::Node, "store", format!("{first}{}", counts.join(", "))));
        }
        self.listed = true;
    }

    /// How it goes with the store.
    pub(super) fn health(&mut self, health: &Health) {
        let standing = match (&health.error, health.reachable) {
            (_, true) => Ok(()),
            (Some(error), false) => Err(error.to_string()),
            // Nothing was asked yet.
            (None, false) => return,
        };
        if self.standing.as_ref() == Some(&standing) {
            return;
        }
        let note = |what: &str| Note::new(EventKind::Store, "etcd", what);
        match (&self.standing, &standing) {
            (Some(Err(_)), Err(_)) => {}
            (_, Err(error)) => {
                self.journal.note(note("out of reach, what is known stays in force").because(error.clone()));
            }
            (_, Ok(())) => {
                let at = health.endpoint.as_ref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
                self.journal.note(note(&format!("reachable{at}")));
            }
        }
        self.standing = Some(standing);
    }

    /// What this node holds, as it is shown.
    pub(super) fn held(&mut self, subnets: &[HeldSubnet]) {
        let leased = subnets.iter().filter(|held| held.confirmed && held.since.is_some());
        let confirmed: BTreeSet<Prefix> = leased.map(|held| held.subnet).collect();
        for subnet in confirmed.difference(&self.confirmed) {
            self.journal.note(Note::new(EventKind::Lease, subnet.to_string(), "confirmed by the store"));
        }
        self.confirmed = confirmed;
    }

    /// Who peers with whom.
    pub(super) fn plan(&mut self, plan: &Plan) {
        if plan.topology == self.topology {
            return;
        }
        let before = std::mem::replace(&mut self.topology, plan.topology.clone());
        let words = |topology: &str| match topology {
            "" => "none".to_owned(),
            "mesh" => "each node with each".to_owned(),
            reflectors => format!("all nodes with {reflectors}"),
        };
        let what = format!("sessions: {}, before: {}", words(&self.topology), words(&before));
        self.journal.note(Note::new(EventKind::Node, "mesh", what));
    }
}

fn subject(change: &Change) -> (EventKind, String) {
    match change {
        Change::Taken { subnet, .. } | Change::Freed { subnet, .. } | Change::Handed { subnet, .. } => {
            (EventKind::Lease, subnet.to_string())
        }
        Change::NodeCame { name }
        | Change::NodeChanged { name, .. }
        | Change::NodeLeft { name }
        | Change::Alive { name }
        | Change::Silent { name } => (EventKind::Node, name.clone()),
        Change::Config | Change::Generation => (EventKind::Store, "etcd".to_owned()),
        Change::Bad { key, .. } => (EventKind::Store, key.clone()),
    }
}

fn plural(change: &Change) -> &'static str {
    match change {
        Change::Taken { .. } => "subnets taken",
        Change::Freed { .. } => "subnets given up",
        Change::Handed { .. } => "subnets changed hands",
        Change::NodeCame { .. } => "nodes came",
        Change::NodeChanged { .. } => "nodes changed",
        Change::NodeLeft { .. } => "nodes left",
        Change::Alive { .. } => "nodes are alive",
        Change::Silent { .. } => "nodes give no sign of life",
        Change::Config | Change::Generation | Change::Bad { .. } => "other changes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::journal::Filter;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn hundreds_at_once_are_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::start(dir.path(), Metrics::new().unwrap().events).await;
        let mut news = News::new(journal.clone());
        let came =
            |count: usize| -> Vec<Change> { (0..count).map(|n| Change::NodeCame { name: format!("h{n}") }).collect() };
        news.store(&came(3));
        news.store(&came(2));
        news.store(&came(300));
        let found = journal.find(Filter::default()).await.unwrap();
        let told: Vec<&str> = found.events.iter().map(|event| event.what.as_str()).collect();
        assert_eq!(told, ["first look: 3 nodes came", "node h0 came", "node h1 came", "300 nodes came"]);
    }
}
