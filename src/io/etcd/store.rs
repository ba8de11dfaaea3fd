//! Requests.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp};
use tokio::sync::watch;

use super::connection::{Connection, MESSAGE_LIMIT, Repeat};
use super::{Error, Health, Listing, Options};
use crate::cluster::{Entry, Expect, Outcome, Write};

/// Entries that are read at once: a few hundred kilobytes.
const PAGE: i64 = 1000;

/// etcd. A clone is the same store over the same connection.
#[derive(Clone)]
pub struct Store {
    pub(super) connection: Arc<Connection>,
}

/// One key as it stands there.
pub(super) struct Found {
    pub entry: Option<Entry>,
    /// The lease that keeps it; 0: none
    pub lease: i64,
    /// Of the whole store
    pub revision: i64,
    pub cluster_id: u64,
}

impl Store {
    /// Asks nobody yet: the first request connects.
    pub fn new(options: Options) -> Self {
        Self { connection: Arc::new(Connection::new(options)) }
    }

    /// How it goes: as the last request went, also those of the tasks.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.connection.health()
    }

    /// One key, and the revision of the store.
    pub async fn get(&self, key: &str) -> Result<(Option<Entry>, i64), Error> {
        self.find(key).await.map(|found| (found.entry, found.revision))
    }

    pub(super) async fn find(&self, key: &str) -> Result<Found, Error> {
        let request = |client: etcd_client::Client| async move { client.kv_client().get(key, None).await };
        let answer = self.connection.request(Repeat::Yes, request).await.map_err(|failure| failure.error)?.value;
        let (revision, cluster_id) = answer.header().map_or((0, 0), |header| (header.revision(), header.cluster_id()));
        let found = answer.kvs().first();
        Ok(Found { entry: found.and_then(entry), lease: found.map_or(0, KeyValue::lease), revision, cluster_id })
    }

    /// All whose keys begin with `prefix`, read in portions, as of one revision. Each portion may take
    /// [`Options::timeout`].
    pub async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let end = behind(prefix);
        'listing: loop {
            let mut entries = Vec::new();
            let mut from = prefix.as_bytes().to_vec();
            let (mut revision, mut cluster_id) = (0, 0);
            loop {
                let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
                let request = |client: etcd_client::Client| {
                    let (from, options) = (from.clone(), options.clone());
                    let mut client = client.kv_client().max_decoding_message_size(MESSAGE_LIMIT);
                    async move { client.get(from, Some(options)).await }
                };
                let mut page = match self.connection.request(Repeat::Yes, request).await {
                    Ok(served) => served.value,
                    // The first portion's revision is gone already: from the beginning, at a newer one.
                    Err(failure) if failure.compacted && revision != 0 => continue 'listing,
                    Err(failure) => return Err(failure.error),
                };
                if let Some(header) = page.header().filter(|_| revision == 0) {
                    (revision, cluster_id) = (header.revision(), header.cluster_id());
                }
                let (found, more) = (page.take_kvs(), page.more());
                entries.extend(found.iter().filter_map(entry));
                let Some(last) = found.last().filter(|_| more) else {
                    return Ok(Listing { entries, revision, cluster_id });
                };
                from = [last.key(), &[0]].concat();
            }
        }
    }

    /// Does a write, or nothing. An error says that it surely was not done; where that can't be known the outcome
    /// is [`Outcome::Unknown`], and [`Health`] has the error.
    pub async fn commit(&self, write: &Write) -> Result<Outcome, Error> {
        let operation = match &write.value {
            Some(value) => TxnOp::put(write.key.as_str(), value.as_slice(), None),
            None => TxnOp::delete(write.key.as_str(), None),
        };
        let transaction = Txn::new().when([expects(&write.key, write.expect)]).and_then([operation]);
        let request = |client: etcd_client::Client| {
            let transaction = transaction.clone();
            async move { client.kv_client().txn(transaction).await }
        };
        match self.connection.request(Repeat::No, request).await {
            Ok(served) => {
                let revision = served.value.header().map_or(0, etcd_client::ResponseHeader::revision);
                Ok(if served.value.succeeded() { Outcome::Done(revision) } else { Outcome::Refused(revision) })
            }
            Err(failure) if failure.maybe_done => Ok(Outcome::Unknown),
            Err(failure) => Err(failure.error),
        }
    }
}

/// The condition of a write.
pub(super) fn expects(key: &str, expect: Expect) -> Compare {
    match expect {
        Expect::Absent => Compare::create_revision(key, CompareOp::Equal, 0),
        Expect::Modified(revision) => Compare::mod_revision(key, CompareOp::Equal, revision),
    }
}

/// `None` for a key that is no text: it is nothing of ours.
pub(super) fn entry(found: &KeyValue) -> Option<Entry> {
    Some(Entry {
        key: found.key_str().ok()?.to_owned(),
        value: found.value().to_vec(),
        created: found.create_revision(),
        modified: found.mod_revision(),
    })
}

/// The first key behind all that begin with `prefix`.
pub(super) fn behind(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // etcd's word for no end.
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_behind_the_prefix() {
        for (prefix, end) in [("/a/", b"/a0".as_slice()), ("", b"\0"), ("ÿ", b"\xc3\xc0")] {
            assert_eq!(behind(prefix), end, "{prefix}");
        }
    }
}
