//! The journal: what happened, when and why, for `wayleave events`.
//!
//! Whoever has something to tell holds a [`Journal`] and never waits: a note that finds the queue full is
//! dropped and counted. One task keeps the last events in memory, hands them to those who follow, and has a thread
//! append them to `state_dir/events.jsonl`, from where a start reads the last ones of the former run. A
//! disk that is full, broken or hangs costs that file and nothing else.

mod ring;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, mpsc, oneshot};

use self::ring::Ring;
pub use self::ring::{Filter, Found};
use crate::io::lines::{self, Lines};
use crate::metrics::EventMetrics;
use crate::view::{Event, EventKind};

/// Events kept in memory.
const KEPT: usize = 10_000;
/// Notes that may wait for the task.
const NOTES: usize = 1024;
/// Questions that may wait.
const REQUESTS: usize = 16;
/// Notes taken at once: a line each, in one write.
const BATCH: usize = 256;
/// How far one who follows may be behind.
const BEHIND: usize = 1024;
/// Bytes of each of the two files.
const FILE_LIMIT: u64 = 1024 * 1024;
/// How long the last events of a run may take to the disk.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The file in `state_dir`.
const FILE: &str = "events.jsonl";

/// Something that happened, as it is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    at: SystemTime,
    kind: EventKind,
    subject: String,
    what: String,
    cause: Option<String>,
}

impl Note {
    /// It happened now, to `subject`, nobody knows why.
    pub fn new(kind: EventKind, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self { at: SystemTime::now(), kind, subject: subject.into(), what: what.into(), cause: None }
    }

    /// And this is why.
    #[must_use]
    pub fn because(self, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    /// And this is why, if it is known.
    #[must_use]
    pub fn perhaps_because(self, cause: Option<impl Into<String>>) -> Self {
        Self { cause: cause.map(Into::into), ..self }
    }
}

enum Request {
    Find(Filter, oneshot::Sender<Found>),
    Follow(Filter, oneshot::Sender<(Found, broadcast::Receiver<Arc<Event>>)>),
    Flush(oneshot::Sender<()>),
}

/// Takes notes, and answers what they were. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    notes: mpsc::Sender<Note>,
    requests: mpsc::Sender<Request>,
    dropped: Arc<AtomicU64>,
}

impl Journal {
    /// Reads what a former run left in `state_dir`, and starts the task.
    pub async fn start(state_dir: &Path, metrics: EventMetrics) -> Self {
        let (notes, queue) = mpsc::channel(NOTES);
        let (requests, questions) = mpsc::channel(REQUESTS);
        let journal = Self { notes, requests, dropped: Arc::default() };
        let path = state_dir.join(FILE);
        let reading = path.clone();
        let former = match tokio::task::spawn_blocking(move || lines::read(&reading)).await {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                tracing::warn!(file = %path.display(), %error, "the events of the former run can't be read");
                String::new()
            }
            Err(_) => String::new(),
        };
        let file = path.display().to_string();
        let teller = journal.clone();
        let lines = Lines::open(path, FILE_LIMIT, move |error| match error {
            Some(error) => {
                tracing::warn!(file, %error, "events can't be written to disk, they are kept in memory alone");
                let what = format!("{file} can't be written: events would not survive a restart");
                teller.note(Note::new(EventKind::Daemon, "journal", what).because(error.to_string()));
            }
            None => teller.note(Note::new(EventKind::Daemon, "journal", format!("{file} can be written again"))),
        });
        let lines = lines.inspect_err(|error| tracing::warn!(%error, "no thread that writes events to disk")).ok();
        let keeper = Keeper {
            ring: Ring::new(KEPT, &former),
            live: broadcast::channel(BEHIND).0,
            dropped: Arc::clone(&journal.dropped),
            lines,
            metrics,
        };
        tokio::spawn(keeper.run(queue, questions));
        journal
    }

    /// Nobody keeps what is told to it.
    #[cfg(test)]
    pub fn nobody() -> Self {
        Self { notes: mpsc::channel(1).0, requests: mpsc::channel(1).0, dropped: Arc::default() }
    }

    /// Tells what happened. Never waits.
    pub fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Of one peer.
    pub fn of(&self, subject: &str) -> Named {
        Named { journal: self.clone(), subject: subject.into() }
    }

    /// What is asked for; `None`: the daemon is about to end.
    pub async fn find(&self, filter: Filter) -> Option<Found> {
        self.ask(|answer| Request::Find(filter, answer)).await
    }

    /// The same, and all that comes after it, whether it is asked for or not.
    pub async fn follow(&self, filter: Filter) -> Option<(Found, broadcast::Receiver<Arc<Event>>)> {
        self.ask(|answer| Request::Follow(filter, answer)).await
    }

    /// Has the last notes written to disk; not for long if it hangs.
    pub async fn flush(&self) {
        let _ = tokio::time::timeout(LAST_WORDS, self.ask(Request::Flush)).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, asked) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        asked.await.ok()
    }
}

/// Tells of one peer.
#[derive(Clone, Debug)]
pub struct Named {
    journal: Journal,
    subject: Arc<str>,
}

impl Named {
    /// Tells what happened. Never waits.
    pub fn note(&self, kind: EventKind, what: impl Into<String>, cause: Option<String>) {
        self.journal.note(Note::new(kind, &*self.subject, what).perhaps_because(cause));
    }
}

/// The task's state.
struct Keeper {
    ring: Ring,
    live: broadcast::Sender<Arc<Event>>,
    /// Notes that found no room
    dropped: Arc<AtomicU64>,
    lines: Option<Lines>,
    metrics: EventMetrics,
}

impl Keeper {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>, mut questions: mpsc::Receiver<Request>) {
        let mut taken = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased; // What was told before a question belongs to its answer.
                count = notes.recv_many(&mut taken, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.take(&mut taken);
                }
                Some(request) = questions.recv() => self.answer(request),
            }
        }
    }

    fn take(&mut self, notes: &mut Vec<Note>) {
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.metrics.dropped.inc_by(lost);
            let note = Note::new(EventKind::Daemon, "journal", format!("{lost} events were lost"));
            notes.push(note.because("more came at once than could be noted"));
        }
        let mut text = String::new();
        for note in notes.drain(..) {
            self.metrics.noted(note.kind);
            let event = self.ring.push(note);
            if let Ok(line) = serde_json::to_string(&*event) {
                text.push_str(&line);
                text.push('\n');
            }
            // An error: nobody follows.
            let _ = self.live.send(event);
        }
        if let Some(lines) = &self.lines
            && !lines.append(text)
        {
            tracing::debug!("the disk is slow, some events are kept in memory alone");
        }
    }

    fn answer(&self, request: Request) {
        // Who asked may have gone.
        match request {
            Request::Find(filter, answer) => drop(answer.send(self.ring.find(&filter))),
            Request::Follow(filter, answer) => {
                drop(answer.send((self.ring.find(&filter), self.live.subscribe())));
            }
            Request::Flush(answer) => {
                if let Some(lines) = &self.lines {
                    let flushed = lines.flush();
                    tokio::spawn(async move {
                        let _ = flushed.await;
                        let _ = answer.send(());
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    async fn start(dir: &Path) -> (Journal, Metrics) {
        let metrics = Metrics::new().unwrap();
        (Journal::start(dir, metrics.events.clone()).await, metrics)
    }

    fn note(what: impl Into<String>) -> Note {
        Note::new(EventKind::Session, "tor-a", what)
    }

    #[tokio::test]
    async fn a_restart_keeps_what_happened() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = start(dir.path()).await;
        journal.note(note("lost").because("hold timer expired"));
        journal.flush().await;
        let (again, _) = start(dir.path()).await;
        again.note(note("established"));
        let found = again.find(Filter::default()).await.unwrap();
        let shown: Vec<_> = found.events.iter().map(|e| (e.seq, e.what.as_str(), e.cause.as_deref())).collect();
        assert_eq!(shown, [(1, "lost", Some("hold timer expired")), (2, "established", None)]);
    }

    #[tokio::test]
    async fn what_finds_no_room_is_counted_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, metrics) = start(dir.path()).await;
        // On one thread the task runs only when we wait.
        for n in 0..NOTES + 17 {
            journal.note(note(format!("{n}")));
        }
        let found = journal.find(Filter::default()).await.unwrap();
        let said = found.events.iter().find(|event| event.kind == EventKind::Daemon).unwrap();
        assert_eq!(said.what, "17 events were lost");
        assert_eq!(found.events.len(), NOTES + 1);
        assert_eq!((metrics.events.dropped.get(), found.events.last().unwrap().seq), (17, NOTES as u64 + 1));
    }

    #[tokio::test]
    async fn who_follows_misses_nothing_between_the_past_and_what_comes() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = start(dir.path()).await;
        journal.note(note("past"));
        let (found, mut live) = journal.follow(Filter::default()).await.unwrap();
        assert_eq!(found.events.len(), 1);
        journal.note(note("to come"));
        assert_eq!(live.recv().await.unwrap().what, "to come");
        for n in 0..=BEHIND {
            journal.note(note(format!("{n}")));
            journal.find(Filter { limit: Some(0), ..Filter::default() }).await.unwrap();
        }
        assert!(matches!(live.recv().await, Err(broadcast::error::RecvError::Lagged(1))));
    }

    #[tokio::test]
    async fn a_disk_that_cannot_be_written_costs_the_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(FILE)).unwrap();
        let (journal, _) = start(dir.path()).await;
        journal.note(note("first"));
        journal.flush().await;
        journal.note(note("second"));
        journal.flush().await;
        let found = journal.find(Filter::default()).await.unwrap();
        let told = found.events.iter().filter(|event| event.subject == "journal").count();
        assert_eq!((found.events.len(), told), (3, 1), "{found:?}");
    }
}
