//! A key that is there as long as we are.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, LeaseGrantOptions, PutOptions, Txn, TxnOp};
use tokio::select;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use super::backoff::Backoff;
use super::connection::Repeat;
use super::store::expects;
use super::{Error, Store};
use crate::cluster::{Entry, Expect};

/// How it stands with our key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Not written yet
    Starting,
    /// It is there, with our value
    Held,
    /// Somebody else's value is there, and stays; we write as soon as it is gone
    Taken(Entry),
    /// It may lapse, or has: the store can't be asked
    Lost(Error),
}

/// A task that keeps a key in the store by a lease of the store. Dropped, it ends, and the key goes when its time to
/// live is over: a daemon that starts again within that time was never away.
pub struct Alive {
    standing: watch::Receiver<Standing>,
    check: Arc<Notify>,
    closing: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Alive {
    /// How it stands with the key.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Looks at the key at once, and writes it if it is gone: for whoever hears that somebody deleted it.
    pub fn check(&self) {
        self.check.notify_one();
    }

    /// Takes the key away, and ends. Takes [`Options::timeout`](super::Options::timeout) at most.
    pub async fn close(self) {
        self.closing.cancel();
        let _ = self.task.await;
    }
}

impl Store {
    /// Keeps `key` with `value` there; `ttl` (whole seconds) after we were last heard of, it goes. What `ours` knows for
    /// our own, such as from our last run, is replaced; anything else at that key is left alone
    /// ([`Standing::Taken`]). Must be called within the runtime.
    pub fn alive(
        &self,
        key: &str,
        value: Vec<u8>,
        ttl: Duration,
        ours: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    ) -> Alive {
        let (sender, standing) = watch::channel(Standing::Starting);
        let (check, closing) = (Arc::new(Notify::new()), CancellationToken::new());
        let keeper = Keeper {
            store: self.clone(),
            key: key.to_owned(),
            value,
            ttl,
            ours: Box::new(ours),
            standing: sender,
            check: check.clone(),
            closing: closing.clone(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(keeper.run()));
        Alive { standing, check, closing, task }
    }
}

/// Knows values of our own.
type Ours = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

struct Keeper {
    store: Store,
    key: String,
    value: Vec<u8>,
    ttl: Duration,
    ours: Ours,
    standing: watch::Sender<Standing>,
    check: Arc<Notify>,
    closing: CancellationToken,
}

/// A lease of the store. We choose its number, so that one whose grant nobody answered can be taken back.
struct Lease {
    id: i64,
    granted: bool,
    /// Our key is there and hangs on it
    written: bool,
}

impl Lease {
    fn new() -> Self {
        Self { id: rand::random_range(1..i64::MAX), granted: false, written: false }
    }
}

impl Keeper {
    async fn run(self) {
        let mut lease = Lease::new();
        let mut backoff = Backoff::new();
        loop {
            let kept = select! {
                biased;
                () = self.closing.cancelled() => break,
                kept = self.keep(&mut lease) => kept,
            };
            let (standing, pause) = match kept {
                Ok(standing) => {
                    backoff = Backoff::new();
                    (standing, self.ttl / 3)
                }
                Err(error) => (Standing::Lost(error), backoff.next()),
            };
            self.standing.send_if_modified(|before| {
                let changed = *before != standing;
                *before = standing;
                changed
            });
            select! {
                () = self.closing.cancelled() => break,
                () = self.check.notified() => lease.written = false,
                () = sleep(pause) => {}
            }
        }
        // What is still on its way fails without the lease, or goes with it: nothing comes back.
        let request = |client: Client| async move {
            match client.lease_client().revoke(lease.id).await {
                Err(error) if is(&error, Code::NotFound) => Ok(()),
                done => done.map(drop),
            }
        };
        let _ = self.store.connection.request(Repeat::Yes, request).await;
    }

    /// Brings lease and key to what they should be, and tells the store that we are there.
    async fn keep(&self, lease: &mut Lease) -> Result<Standing, Error> {
        if lease.granted && !self.renew(lease.id).await? {
            *lease = Lease::new();
        }
        if !lease.granted {
            self.grant(lease.id).await?;
            lease.granted = true;
        }
        while !lease.written {
            match self.write(lease.id).await? {
                Written::Held => lease.written = true,
                Written::Raced => {}
                Written::Taken(entry) => return Ok(Standing::Taken(entry)),
                Written::LeaseGone => {
                    *lease = Lease::new();
                    self.grant(lease.id).await?;
                    lease.granted = true;
                }
            }
        }
        Ok(Standing::Held)
    }

    async fn grant(&self, id: i64) -> Result<(), Error> {
        let ttl = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let request = |client: Client| async move {
            match client.lease_client().grant(ttl, Some(LeaseGrantOptions::new().with_id(id))).await {
                // By our own first try.
                Err(error) if is(&error, Code::FailedPrecondition) && said(&error).contains("already exists") => Ok(()),
                done => done.map(drop),
            }
        };
        self.request(request).await
    }

    /// Whether the lease still was there.
    async fn renew(&self, id: i64) -> Result<bool, Error> {
        let request = |client: Client| async move {
            match client.lease_client().keep_alive(id).await {
                Ok(_) => Ok(true),
                Err(etcd_client::Error::LeaseKeepAliveError(why)) if why == "lease not found" => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.request(request).await
    }

    async fn write(&self, lease: i64) -> Result<Written, Error> {
        let found = self.store.find(&self.key).await?;
        let expect = match found.entry {
            None => Expect::Absent,
            Some(entry) if entry.value == self.value && found.lease == lease => return Ok(Written::Held),
            Some(entry) if (self.ours)(&entry.value) => Expect::Modified(entry.modified),
            Some(entry) => return Ok(Written::Taken(entry)),
        };
        let put = TxnOp::put(self.key.as_str(), self.value.as_slice(), Some(PutOptions::new().with_lease(lease)));
        let transaction = Txn::new().when([expects(&self.key, expect)]).and_then([put]);
        let request = |client: Client| {
            let transaction = transaction.clone();
            async move {
                match client.kv_client().txn(transaction).await {
                    Ok(answer) => Ok(if answer.succeeded() { Written::Held } else { Written::Raced }),
                    Err(error) if is(&error, Code::NotFound) => Ok(Written::LeaseGone),
                    Err(error) => Err(error),
                }
            }
        };
        self.request(request).await
    }

    /// All of these may be done twice.
    async fn request<T, F>(&self, once: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let served = self.store.connection.request(Repeat::Yes, once).await;
        served.map(|served| served.value).map_err(|failure| failure.error)
    }
}

/// What became of writing our key.
enum Written {
    Held,
    /// Somebody, perhaps our own first try, was faster: look again
    Raced,
    Taken(Entry),
    LeaseGone,
}

fn is(error: &etcd_client::Error, code: Code) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.code() == code)
}

fn said(error: &etcd_client::Error) -> &str {
    match error {
        etcd_client::Error::GRpcStatus(status) => status.message(),
        _ => "",
    }
}
