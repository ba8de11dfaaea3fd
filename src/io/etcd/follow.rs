//! All below a prefix, then each change.

use std::convert::Infallible;
use std::time::Duration;

use etcd_client::{ResponseHeader, WatchOptions, WatchResponse, WatchStream};
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::backoff::Backoff;
use super::connection::{MESSAGE_LIMIT, Repeat, Served};
use super::store::{behind, entry};
use super::{Error, Listing, Store};
use crate::cluster::{Entry, Event};

/// News that wait to be taken out.
const QUEUE: usize = 16;

/// Silence after which the member is asked how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// What a [`Follower`] tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum News {
    /// All there is: what was told before counts no more. First of all, after [`Follower::relist`], and where
    /// the changes since the last could not be had (etcd compacted them away, or was set back: then `revision` may be
    /// smaller than before)
    Listed {
        /// In the order of their keys
        entries: Vec<Entry>,
        /// Revision of the store
        revision: i64,
    },
    /// What happened since, in order, none left out
    Events {
        /// At least one
        events: Vec<Event>,
        /// Revision of the last
        revision: i64,
    },
    /// The member has a leader and follows it: every few seconds, and after what was lost is there again.
    ///
    /// `revision` is the store's. It is *not* a promise that all events up to it were told: etcd before 3.4.25 and 3.5.8
    /// says it too early.
    Confirmed {
        /// Revision of the store
        revision: i64,
    },
    /// Nothing is heard until the next other news: once when it happens, and again when the reason changes
    Lost {
        /// Why
        why: Error,
    },
}

/// A task that follows all below a prefix, for ever. Dropped, it ends.
pub struct Follower {
    news: mpsc::Receiver<(u64, News)>,
    /// How often all was asked for; each piece of news says how many of these calls the listing it rests on came after
    asked: watch::Sender<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Follower {
    /// What it tells, in order; while nobody takes it out, nothing more is read from etcd. `None` only when the runtime
    /// ends. May be dropped and called again.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            let news = self.news.recv().await?;
            if let Some(news) = self.counts(news) {
                return Some(news);
            }
        }
    }

    /// What is there to be told now.
    pub fn ready(&mut self) -> Option<News> {
        loop {
            let news = self.news.try_recv().ok()?;
            if let Some(news) = self.counts(news) {
                return Some(news);
            }
        }
    }

    /// What rests on an older listing is told anew by the one to come.
    fn counts(&self, (after, news): (u64, News)) -> Option<News> {
        (after == *self.asked.borrow() || matches!(news, News::Lost { .. })).then_some(news)
    }

    /// The next news, but for a loss, is to be a [`News::Listed`] that was read after this call.
    pub fn relist(&self) {
        self.asked.send_modify(|asked| *asked += 1);
    }
}

impl Store {
    /// Follows all whose keys begin with `prefix`. Must be called within the runtime.
    pub fn follow(&self, prefix: &str) -> Follower {
        let (news, receiver) = mpsc::channel(QUEUE);
        let (asked, asking) = watch::channel(0);
        let task = Task {
            store: self.clone(),
            prefix: prefix.to_owned(),
            news,
            asked: asking,
            heard: None,
            told: None,
            backoff: Backoff::new(),
        };
        Follower { news: receiver, asked, _task: AbortOnDropHandle::new(tokio::spawn(task.run())) }
    }
}

struct Task {
    store: Store,
    prefix: String,
    news: mpsc::Sender<(u64, News)>,
    asked: watch::Receiver<u64>,
    heard: Option<Heard>,
    /// What was said last about being lost; `None`: we are not
    told: Option<Error>,
    backoff: Backoff,
}

/// How far we have heard.
struct Heard {
    revision: i64,
    cluster_id: u64,
    /// How many calls of [`Follower::relist`] the listing came after
    after: u64,
    /// The last event, if it was a put: the witness that the store's past is still what it was
    last: Option<Entry>,
}

/// Why we stopped to listen.
enum Ended {
    /// Nobody wants to hear
    Unwanted,
    /// All has to be told anew
    Relist,
    Lost(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Lost(error)
    }
}

impl Task {
    async fn run(mut self) {
        loop {
            let Err(ended) = self.listen().await;
            match ended {
                Ended::Unwanted => return,
                Ended::Relist => self.heard = None,
                Ended::Lost(why) => {
                    if self.told.as_ref() != Some(&why) {
                        self.told = Some(why.clone());
                        if self.tell(News::Lost { why }).await.is_err() {
                            return;
                        }
                    }
                    sleep(self.backoff.next()).await;
                }
            }
        }
    }

    async fn tell(&self, news: News) -> Result<(), Ended> {
        let after = self.heard.as_ref().map_or(0, |heard| heard.after);
        self.news.send((after, news)).await.map_err(|_| Ended::Unwanted)
    }

    /// From where we are until it ends.
    async fn listen(&mut self) -> Result<Infallible, Ended> {
        if !self.goes_on().await? {
            let after = *self.asked.borrow_and_update();
            let Listing { entries, revision, cluster_id } = self.store.list(&self.prefix).await?;
            self.heard = Some(Heard { revision, cluster_id, after, last: None });
            self.tell(News::Listed { entries, revision }).await?;
        }
        let Some(from) = self.heard.as_ref().map(|heard| heard.revision) else { return Err(Ended::Relist) };
        let (mut watch, now) = self.open(from + 1).await?;
        // A member that was set back between our two questions would be silent until it has caught up.
        if now < from {
            return Err(Ended::Relist);
        }
        self.told = None;
        self.tell(News::Confirmed { revision: now }).await?;

        // Silence, a question, silence.
        let mut asked = false;
        let mut next = Instant::now() + PROGRESS;
        loop {
            let message = select! {
                biased;
                message = watch.value.message() => message,
                _ = self.asked.changed() => return Err(Ended::Relist),
                () = sleep_until(next) => {
                    let after = self.store.connection.timeout();
                    if asked {
                        self.store.connection.leave(watch.by, true).await;
                        return Err(Error::Timeout { endpoint: watch.endpoint, after }.into());
                    }
                    asked = true;
                    next += after;
                    match watch.value.request_progress().await {
                        Ok(()) => continue,
                        Err(error) => Err(error),
                    }
                }
            };
            match message {
                Ok(Some(message)) => self.hear(&message, &watch).await?,
                Ok(None) => {
                    let closed = Error::Unreachable { endpoint: watch.endpoint, why: "it closed the watch".to_owned() };
                    return Err(closed.into());
                }
                Err(error) => {
                    self.store.connection.leave(watch.by, false).await;
                    return Err(self.store.connection.broken(&watch, error).error.into());
                }
            }
            self.backoff = Backoff::new();
            self.store.connection.served(&watch.endpoint);
            asked = false;
            next = Instant::now() + PROGRESS;
        }
    }

    /// Whether the next watch may go on where the last one ended: nothing is lost as long as the store's past is
    /// what we heard. Where a store was set back to an earlier state and has moved on since, revisions alone don't show
    /// that; the last thing that was written does, if it still stands as we heard it. In doubt all is read anew.
    async fn goes_on(&mut self) -> Result<bool, Error> {
        let Some(Heard { revision, cluster_id, last: Some(last), .. }) = &self.heard else { return Ok(false) };
        let found = self.store.find(&last.key).await?;
        Ok(found.entry.as_ref() == Some(last) && found.revision >= *revision && found.cluster_id == *cluster_id)
    }

    /// A watch that was created, and the store's revision then.
    async fn open(&self, from: i64) -> Result<(Served<WatchStream>, i64), Ended> {
        let options = WatchOptions::new().with_range(behind(&self.prefix)).with_start_revision(from);
        let request = |client: etcd_client::Client| {
            let options = options.clone();
            let mut client = client.watch_client().max_decoding_message_size(MESSAGE_LIMIT);
            async move {
                let mut stream = client.watch(self.prefix.as_str(), Some(options)).await?;
                let created = stream.message().await?;
                Ok((stream, created))
            }
        };
        let Served { value: (stream, created), by, endpoint } =
            self.store.connection.request(Repeat::Yes, request).await.map_err(|failure| failure.error)?;
        let served = Served { value: stream, by, endpoint };
        let Some(created) = created else {
            return Err(Error::Unreachable { endpoint: served.endpoint, why: "it closed the watch".to_owned() }.into());
        };
        if created.canceled() {
            return Err(self.canceled(&created, &served).await);
        }
        let revision = created.header().map_or(0, ResponseHeader::revision);
        Ok((served, revision))
    }

    async fn canceled(&self, message: &WatchResponse, watch: &Served<WatchStream>) -> Ended {
        if message.compact_revision() > 0 {
            return Ended::Relist;
        }
        let failure = self.store.connection.canceled(watch, message.cancel_reason());
        if !failure.is_answer() {
            self.store.connection.leave(watch.by, false).await;
        }
        Ended::Lost(failure.error)
    }

    async fn hear(&mut self, message: &WatchResponse, watch: &Served<WatchStream>) -> Result<(), Ended> {
        if message.canceled() {
            return Err(self.canceled(message, watch).await);
        }
        let Some(last) = message.events().iter().filter_map(etcd_client::Event::kv).next_back() else {
            let revision = message.header().map_or(0, ResponseHeader::revision);
            return self.tell(News::Confirmed { revision }).await;
        };
        let revision = last.mod_revision();
        if let Some(heard) = &mut self.heard {
            heard.revision = revision;
            heard.last = entry(last).filter(|_| last.version() > 0);
        }
        let events: Vec<Event> = message.events().iter().filter_map(event).collect();
        if events.is_empty() { Ok(()) } else { self.tell(News::Events { events, revision }).await }
    }
}

fn event(event: &etcd_client::Event) -> Option<Event> {
    let found = event.kv()?;
    // What is gone has no version; the type, as etcd-client reads it, could panic.
    if found.version() > 0 {
        return entry(found).map(Event::Put);
    }
    Some(Event::Delete { key: found.key_str().ok()?.to_owned(), revision: found.mod_revision() })
}
