//! The store of a host that has no other: a file with the same keys and conditions as etcd, and nobody
//! else's.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::files;
use crate::cluster::{Entry, Expect, Outcome, Write};

/// The store; a clone is the same.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    content: Arc<Mutex<Content>>,
    changed: Arc<Notify>,
}

/// As the file has it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Content {
    revision: i64,
    keys: BTreeMap<String, Kept>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Kept {
    #[serde(rename = "value")]
    text: String,
    created: i64,
    modified: i64,
}

impl Store {
    /// What the file says; none yet: an empty store. The error is that of reading it, or of making sense of it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let content = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error),
        };
        // Whoever follows begins with what there is.
        let changed = Arc::new(Notify::new());
        changed.notify_one();
        Ok(Self { path: path.to_owned(), content: Arc::new(Mutex::new(content)), changed })
    }

    /// All there is and its revision: at once, then whenever something was written, for one who asks.
    pub async fn changed(&self) -> (Vec<Entry>, i64) {
        self.changed.notified().await;
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |(key, kept): (&String, &Kept)| Entry {
            key: key.clone(),
            value: kept.text.clone().into_bytes(),
            created: kept.created,
            modified: kept.modified,
        };
        (content.keys.iter().map(entry).collect(), content.revision)
    }

    /// Has [`changed`](Self::changed) tell all again.
    pub fn relist(&self) {
        self.changed.notify_one();
    }

    /// Does a write, or nothing. Blocks until it is on disk.
    pub fn commit(&self, write: &Write) -> io::Result<Outcome> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let there = content.keys.get(&write.key);
        let expected = match write.expect {
            Expect::Absent => there.is_none(),
            Expect::Modified(revision) => there.is_some_and(|kept| kept.modified == revision),
        };
        if !expected {
            return Ok(Outcome::Refused(content.revision));
        }
        let mut next = content.clone();
        next.revision += 1;
        let modified = next.revision;
        match &write.value {
            Some(value) => {
                let created = there.map_or(modified, |kept| kept.created);
                let text = String::from_utf8_lossy(value).into_owned();
                next.keys.insert(write.key.clone(), Kept { text, created, modified });
            }
            None => drop(next.keys.remove(&write.key)),
        }
        files::atomic_write(&self.path, &serde_json::to_vec_pretty(&next)?, 0o600)?;
        *content = next;
        self.changed.notify_one();
        Ok(Outcome::Done(modified))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, expect: Expect, value: Option<&str>) -> Write {
        Write { key: key.to_owned(), expect, value: value.map(|value| value.as_bytes().to_vec()) }
    }

    #[tokio::test]
    async fn writes_are_conditional_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.json");
        let store = Store::open(&path).unwrap();
        // (why, write, outcome)
        let cases = [
            ("it is free", write("/a", Expect::Absent, Some("1")), Outcome::Done(1)),
            ("it is taken", write("/a", Expect::Absent, Some("2")), Outcome::Refused(1)),
            ("as it was read", write("/a", Expect::Modified(1), Some("3")), Outcome::Done(2)),
            ("not as it was read", write("/a", Expect::Modified(1), None), Outcome::Refused(2)),
            ("another", write("/b", Expect::Absent, Some("4")), Outcome::Done(3)),
            ("gone", write("/b", Expect::Modified(3), None), Outcome::Done(4)),
        ];
        for (why, write, outcome) in cases {
            assert_eq!(store.commit(&write).unwrap(), outcome, "{why}");
        }
        let entry = Entry { key: "/a".to_owned(), value: b"3".to_vec(), created: 1, modified: 2 };
        for store in [store, Store::open(&path).unwrap()] {
            assert_eq!(store.changed().await, (vec![entry.clone()], 4));
        }
        std::fs::write(&path, "{").unwrap();
        assert!(Store::open(&path).is_err(), "what makes no sense is not begun anew");
    }

    #[test]
    fn what_can_not_be_written_was_not_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.json");
        let store = Store::open(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(store.commit(&write("/a", Expect::Absent, Some("1"))).is_err());
        std::fs::remove_dir(&path).unwrap();
        assert_eq!(store.commit(&write("/a", Expect::Absent, Some("1"))).unwrap(), Outcome::Done(1));
    }
}
