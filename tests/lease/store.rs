//! An etcd as far as it matters here: revisions, transactions, leases of keys, snapshots.

use std::collections::BTreeMap;

use wayleave::cluster::{Entry, Event, Expect, Outcome, Write};

#[derive(Default)]
pub struct Store {
    pub entries: BTreeMap<String, Entry>,
    pub revision: i64,
    log: Vec<Event>,
    /// Another one after each loss of contents: connections do not outlive it
    pub epoch: u32,
    /// Keys that go at a time, in milliseconds, unless they are kept; and whose they are
    pub leased: BTreeMap<String, (u64, (usize, u32))>,
    snapshots: Vec<(BTreeMap<String, Entry>, i64)>,
    /// What was ever written by hosts
    pub writes: u64,
}

impl Store {
    pub fn new() -> Self {
        Self { revision: 1, ..Self::default() }
    }

    pub fn commit(&mut self, write: &Write) -> Outcome {
        let modified = self.entries.get(&write.key).map(|entry| entry.modified);
        let expected = match write.expect {
            Expect::Absent => modified.is_none(),
            Expect::Modified(revision) => modified == Some(revision),
        };
        if !expected {
            return Outcome::Refused(self.revision);
        }
        match &write.value {
            Some(value) => self.put(&write.key, value.clone()),
            None => self.delete(&write.key),
        }
        Outcome::Done(self.revision)
    }

    pub fn put(&mut self, key: &str, value: Vec<u8>) {
        self.revision += 1;
        self.leased.remove(key);
        let created = self.entries.get(key).map_or(self.revision, |entry| entry.created);
        let entry = Entry { key: key.to_owned(), value, created, modified: self.revision };
        self.log.push(Event::Put(entry.clone()));
        self.entries.insert(key.to_owned(), entry);
    }

    pub fn delete(&mut self, key: &str) {
        self.leased.remove(key);
        if self.entries.remove(key).is_some() {
            self.revision += 1;
            self.log.push(Event::Delete { key: key.to_owned(), revision: self.revision });
        }
    }

    pub fn listing(&self) -> Vec<Entry> {
        self.entries.values().cloned().collect()
    }

    pub fn after(&self, revision: i64) -> Vec<Event> {
        self.log.iter().filter(|event| event.revision() > revision).cloned().collect()
    }

    pub fn snapshot(&mut self) {
        self.snapshots.push((self.entries.clone(), self.revision));
    }

    /// All is lost.
    pub fn wipe(&mut self) {
        self.reset(BTreeMap::new(), 1);
    }

    /// All since a snapshot is lost; `bump`: revisions go on above those that were (etcdutl's `--bump-revision`).
    pub fn restore(&mut self, which: usize, bump: bool, until: u64) {
        if self.snapshots.is_empty() {
            return self.wipe();
        }
        let (entries, revision) = self.snapshots[which % self.snapshots.len()].clone();
        let revision = if bump { self.revision + 1000 } else { revision };
        self.reset(entries, revision);
        let alive = self.entries.keys().filter(|key| key.contains("/alive/"));
        self.leased = alive.map(|key| (key.clone(), (until, (usize::MAX, 0)))).collect();
    }

    fn reset(&mut self, entries: BTreeMap<String, Entry>, revision: i64) {
        self.entries = entries;
        self.revision = revision;
        self.log.clear();
        self.leased.clear();
        self.epoch += 1;
    }
}
