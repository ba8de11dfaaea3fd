//! Leaves the network on purpose and comes back: has the other tasks do what each stage asks for,
//! and remembers it across a restart.
//!
//! What we learned stays in the kernel: nobody sends to a drained node, but what still runs on it
//! can go on sending until it is stopped.

mod phases;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::phases::Phases;
pub use self::phases::Stage;
use crate::bgp::message::Notification;
use crate::daemon::journal::{Journal, Note};
use crate::daemon::routing::Input;
use crate::daemon::{peers, time, until};
use crate::io::files;
use crate::view::{DrainStatus, EventKind};

/// Where it is remembered, in `state_dir`.
const FILE: &str = "drain.json";

/// What the task is asked.
pub enum Request {
    /// Leave
    Drain {
        /// How long peers may take to move away: zero is at once
        wait: Duration,
        /// It was asked for by number: it counts although the node is leaving already
        explicit: bool,
        /// Whose wish it is
        order: Order,
        /// Answered with what has begun
        answer: oneshot::Sender<DrainStatus>,
    },
    /// Come back; answered with what it was before
    Undrain(oneshot::Sender<DrainStatus>),
    /// The daemon exits; answered with whether the node is leaving or has left
    Exit(oneshot::Sender<bool>),
}

/// Whose wish it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Order {
    /// When it was said (RFC 3339)
    pub since: String,
    /// By whom
    pub by: Option<String>,
    /// Why
    pub reason: Option<String>,
}

/// What survives a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Memory {
    stage: Stage,
    /// When the stage ends (RFC 3339)
    until: Option<String>,
    #[serde(flatten)]
    order: Order,
}

/// The task's state.
pub struct Drain {
    phases: Phases,
    order: Order,
    file: PathBuf,
    node: String,
    /// Why it would not survive a restart
    error: Option<String>,
    /// The sessions have ended
    done: bool,
    status: watch::Sender<DrainStatus>,
    routing: mpsc::Sender<Input>,
    told: Option<oneshot::Receiver<()>>,
    journal: Journal,
}

impl Drain {
    /// Goes on where a former run was; the routing task is told before any peer can be.
    pub async fn start(state_dir: &Path, node: &str, routing: mpsc::Sender<Input>, journal: Journal) -> Self {
        let now = Instant::now().into_std();
        let file = state_dir.join(FILE);
        let (phases, order) = match recall(&file) {
            Ok(None) => (Phases::new(now), Order::default()),
            Ok(Some(memory)) => {
                let until = memory.until.as_deref().and_then(|until| humantime::parse_rfc3339(until).ok());
                let left = until.and_then(|until| until.duration_since(SystemTime::now()).ok()).unwrap_or_default();
                (Phases::resume(now, memory.stage, left), memory.order)
            }
            Err(error) => {
                // Somebody wanted it to be away, and may rely on it; `undrain` is a word away.
                let reason = Some(format!("{} can't be read: {error}", file.display()));
                let order = Order { since: time(SystemTime::now()), by: None, reason };
                (Phases::resume(now, Stage::Closed, Duration::ZERO), order)
            }
        };
        let mut drain = Self {
            done: phases.stage() == Stage::Closed,
            phases,
            order,
            file,
            node: node.to_owned(),
            error: None,
            status: watch::channel(DrainStatus::default()).0,
            routing,
            told: None,
            journal,
        };
        drain.publish();
        if drain.phases.stage() != Stage::Present {
            tracing::warn!(stage = drain.phases.stage().name(), "{}", *drain.status.borrow());
            drain.tell(&format!("as before the start: {}", drain.phases.stage().name()));
            drain.tell_routing().await;
        }
        drain
    }

    /// Follows the status.
    pub fn subscribe(&self) -> watch::Receiver<DrainStatus> {
        self.status.subscribe()
    }

    /// What peers are told when there are to be no sessions.
    pub fn farewell(&self) -> Option<Notification> {
        (self.phases.stage() == Stage::Closed).then(|| {
            // Cease/2 with words for the other operator (RFC 9003).
            let part =
                |before: &str, text: &Option<String>| text.as_ref().map(|t| format!("{before}{t}")).unwrap_or_default();
            let (by, reason) = (part(" by ", &self.order.by), part(": ", &self.order.reason));
            Notification::shutdown(&format!("{} is drained{by}{reason}", self.node))
        })
    }

    /// Runs until the daemon exits.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>, peers: mpsc::Sender<peers::Request>) {
        loop {
            let deadline = self.phases.next_deadline().map(Instant::from_std);
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.asked(request, &peers).await,
                    None => return,
                },
                () = until(deadline) => {
                    if self.phases.advance(Instant::now().into_std()) {
                        self.entered(&peers).await;
                    }
                }
                () = told(&mut self.told) => {
                    self.told = None;
                    self.phases.told(Instant::now().into_std());
                    self.publish();
                }
            }
        }
    }

    async fn asked(&mut self, request: Request, peers: &mpsc::Sender<peers::Request>) {
        let now = Instant::now().into_std();
        // Whoever asked may have gone.
        match request {
            Request::Drain { wait, explicit, order, answer } => {
                let present = self.phases.stage() == Stage::Present;
                if present {
                    self.order = order;
                }
                if (present || explicit) && self.phases.drain(now, wait) {
                    self.entered(peers).await;
                } else {
                    self.remember();
                    self.publish();
                }
                let _ = answer.send(self.status.borrow().clone());
            }
            Request::Undrain(answer) => {
                let was = self.status.borrow().clone();
                if self.phases.undrain(now) {
                    self.entered(peers).await;
                }
                let _ = answer.send(was);
            }
            Request::Exit(answer) => {
                let leaves = self.phases.stage() != Stage::Present;
                if leaves && self.phases.stage() != Stage::Closed {
                    // The sessions end with the daemon: that is what was wanted, only sooner.
                    self.phases = Phases::resume(now, Stage::Closed, Duration::ZERO);
                    self.remember();
                }
                let _ = answer.send(leaves);
            }
        }
    }

    /// Another stage has begun: it is remembered, then done.
    async fn entered(&mut self, peers: &mpsc::Sender<peers::Request>) {
        let stage = self.phases.stage();
        self.done = false;
        self.remember();
        self.tell_routing().await;
        self.publish();
        // A task that is gone takes the daemon with it.
        match (stage, self.farewell()) {
            (Stage::Closed, Some(farewell)) => {
                let (done, closed) = oneshot::channel();
                let _ = peers.send(peers::Request::Shut { farewell, done }).await;
                let _ = closed.await;
            }
            (Stage::Present, _) => drop(peers.send(peers::Request::Open).await),
            _ => {}
        }
        self.done = stage == Stage::Closed;
        self.publish();
        self.tell(match stage {
            Stage::Present => "drain taken back, announcing again",
            Stage::Signalled => "draining: all routes are marked as about to go away",
            Stage::Withdrawn => "draining: all routes withdrawn",
            Stage::Closed => "drained: all sessions closed",
        });
        match stage {
            Stage::Present => tracing::info!("drain taken back, announcing again"),
            Stage::Signalled => tracing::info!(
                until = self.status.borrow().until,
                "draining: all routes are marked as about to go away{}",
                self.status.borrow().origin()
            ),
            Stage::Withdrawn => tracing::info!("draining: all routes withdrawn"),
            Stage::Closed => tracing::info!("drained: all sessions closed"),
        }
    }

    fn tell(&self, what: &str) {
        let Order { by, reason, .. } = &self.order;
        let order = match (by, reason) {
            _ if self.phases.stage() == Stage::Present => None,
            (Some(by), Some(reason)) => Some(format!("{by}: {reason}")),
            (by, reason) => by.clone().or_else(|| reason.clone()),
        };
        self.journal.note(Note::new(EventKind::Drain, &self.node, what).perhaps_because(order));
    }

    async fn tell_routing(&mut self) {
        let (told, hears) = oneshot::channel();
        let _ = self.routing.send(Input::Drain { stage: self.phases.stage(), told }).await;
        self.told = Some(hears);
    }

    /// Failing to write stops nothing: a broken disk is a good reason to drain.
    fn remember(&mut self) {
        let kept = match self.phases.stage() {
            Stage::Present => forget(&self.file),
            stage => keep(&self.file, &Memory { stage, until: self.until(), order: self.order.clone() }),
        };
        self.error = kept.err().map(|error| {
            tracing::error!(file = %self.file.display(), %error, "the drain would not survive a restart");
            format!("{}: {error}", self.file.display())
        });
    }

    /// When the stage ends.
    fn until(&self) -> Option<String> {
        let left = self.phases.expected_end()?.saturating_duration_since(Instant::now().into_std());
        Some(time(SystemTime::now() + left))
    }

    fn publish(&self) {
        let stage = self.phases.stage();
        let leaving = stage != Stage::Present;
        let word = match (leaving, self.done) {
            (false, _) => "none",
            (true, false) => "draining",
            (true, true) => "drained",
        };
        let order = if leaving { self.order.clone() } else { Order::default() };
        self.status.send_replace(DrainStatus {
            state: word.to_owned(),
            stage: (leaving && !self.done).then(|| stage.name().to_owned()),
            since: leaving.then_some(order.since),
            until: self.until(),
            by: order.by,
            reason: order.reason,
            error: self.error.clone(),
        });
    }
}

/// What a node is whose daemon doesn't run, in words; none: it is not drained.
pub fn left_behind(state_dir: &Path) -> Option<String> {
    let memory = recall(&state_dir.join(FILE)).ok().flatten()?;
    let Order { since, by, .. } = memory.order;
    let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
    Some(format!("this node is drained since {since}{by}; it announces nothing until `wayleave undrain`"))
}

fn recall(file: &Path) -> io::Result<Option<Memory>> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn keep(file: &Path, memory: &Memory) -> io::Result<()> {
    files::atomic_write(file, &serde_json::to_vec_pretty(memory)?, 0o644)
}

fn forget(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Pends for ever if nobody was asked, or nobody answers.
async fn told(hears: &mut Option<oneshot::Receiver<()>>) {
    if let Some(hears) = hears
        && hears.await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task with nobody but the test behind its queues; how long stages last is for `phases` to prove.
    struct Scene {
        dir: tempfile::TempDir,
        inputs: mpsc::Receiver<Input>,
        peers: mpsc::Receiver<peers::Request>,
        requests: mpsc::Sender<Request>,
        status: watch::Receiver<DrainStatus>,
        task: tokio::task::JoinHandle<()>,
    }

    async fn scene(dir: tempfile::TempDir) -> Scene {
        let (routing, inputs) = mpsc::channel(16);
        let (peer_requests, peers) = mpsc::channel(16);
        let (requests, queue) = mpsc::channel(16);
        let drain = Drain::start(dir.path(), "host-a", routing, Journal::nobody()).await;
        let status = drain.subscribe();
        let task = tokio::spawn(drain.run(queue, peer_requests));
        Scene { dir, inputs, peers, requests, status, task }
    }

    impl Scene {
        /// The next stage that routing is told of, and answers.
        async fn stage(&mut self) -> Stage {
            match self.inputs.recv().await {
                Some(Input::Drain { stage, told }) => {
                    let _ = told.send(());
                    stage
                }
                _ => panic!("routing was told something else"),
            }
        }

        /// The word with which peers are shut out, once they are.
        async fn farewell(&mut self) -> String {
            match self.peers.recv().await {
                Some(peers::Request::Shut { farewell, done }) => {
                    let _ = done.send(());
                    farewell.to_string()
                }
                _ => panic!("peers were told something else"),
            }
        }

        async fn drain(&self, seconds: u64, explicit: bool) -> DrainStatus {
            let (answer, asked) = oneshot::channel();
            let wait = Duration::from_secs(seconds);
            let order = Order { since: "then".into(), by: Some("alice".into()), reason: Some("new disk".into()) };
            assert!(self.requests.send(Request::Drain { wait, explicit, order, answer }).await.is_ok());
            asked.await.unwrap()
        }

        async fn undrain(&self) -> DrainStatus {
            let (answer, asked) = oneshot::channel();
            assert!(self.requests.send(Request::Undrain(answer)).await.is_ok());
            asked.await.unwrap()
        }

        /// SIGKILL, and a start.
        async fn killed(self) -> Self {
            self.task.abort();
            scene(self.dir).await
        }

        async fn reaches(&mut self, state: &str) {
            self.status.wait_for(|status| status.state == state).await.unwrap();
        }
    }

    #[tokio::test]
    async fn one_stage_after_the_other() {
        let mut scene = scene(tempfile::tempdir().unwrap()).await;
        let status = scene.drain(3600, false).await;
        let shown = (status.state.as_str(), status.stage.as_deref(), status.by.as_deref(), status.until.is_some());
        assert_eq!(shown, ("draining", Some("signalled"), Some("alice"), true));
        assert_eq!(scene.stage().await, Stage::Signalled);
        assert_eq!(scene.drain(0, false).await.stage, status.stage, "who joins changes nothing");
        scene.drain(0, true).await;
        assert_eq!(scene.stage().await, Stage::Withdrawn);
        assert_eq!(scene.stage().await, Stage::Closed);
        let farewell = scene.farewell().await;
        assert_eq!(farewell, "cease: administrative shutdown: \"host-a is drained by alice: new disk\"");
        scene.reaches("drained").await;

        assert_eq!(scene.undrain().await.state, "drained");
        assert_eq!(scene.stage().await, Stage::Present);
        assert!(matches!(scene.peers.recv().await, Some(peers::Request::Open)));
        assert_eq!(*scene.status.borrow(), DrainStatus::default());
        assert_eq!(scene.undrain().await.state, "none", "nothing to take back");
        assert_eq!(std::fs::read_dir(scene.dir.path()).unwrap().count(), 0, "and nothing is remembered");
    }

    #[tokio::test]
    async fn a_restart_changes_nothing() {
        let scene = scene(tempfile::tempdir().unwrap()).await;
        scene.drain(3600, false).await;
        let until = scene.status.borrow().until.clone();
        let mut scene = scene.killed().await;
        assert_eq!(scene.stage().await, Stage::Signalled);
        let status = scene.status.borrow().clone();
        assert_eq!((status.state.as_str(), status.by.as_deref()), ("draining", Some("alice")));
        let seconds = |text: &Option<String>| humantime::parse_rfc3339(text.as_deref().unwrap()).unwrap();
        let moved = seconds(&status.until).duration_since(seconds(&until)).unwrap_or_default();
        assert!(moved < Duration::from_secs(60), "the wait goes on, it doesn't begin anew: {until:?}, {status:?}");

        scene.drain(0, true).await;
        assert_eq!((scene.stage().await, scene.stage().await), (Stage::Withdrawn, Stage::Closed));
        scene.farewell().await;
        scene.reaches("drained").await;
        let mut scene = scene.killed().await;
        assert_eq!(scene.stage().await, Stage::Closed);
        assert_eq!(scene.status.borrow().state, "drained", "from the first moment");
        assert!(left_behind(scene.dir.path()).unwrap().contains("drained since then by alice"));
    }

    #[tokio::test]
    async fn a_stop_in_its_midst_is_the_end_of_it() {
        let mut scene = scene(tempfile::tempdir().unwrap()).await;
        let exit = async |scene: &Scene| {
            let (answer, asked) = oneshot::channel();
            assert!(scene.requests.send(Request::Exit(answer)).await.is_ok());
            asked.await.unwrap()
        };
        assert!(!exit(&scene).await, "not leaving");
        scene.drain(10, false).await;
        assert_eq!(scene.stage().await, Stage::Signalled);
        assert!(exit(&scene).await);
        let mut scene = scene.killed().await;
        assert_eq!(scene.stage().await, Stage::Closed);
    }

    #[tokio::test]
    async fn a_broken_memory_keeps_the_node_away_and_a_broken_disk_stops_no_drain() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let mut broken = scene(dir).await;
        assert_eq!(broken.stage().await, Stage::Closed);
        assert!(broken.status.borrow().reason.as_ref().unwrap().contains("drain.json can't be read"));
        broken.undrain().await;
        assert_eq!(broken.stage().await, Stage::Present);

        let dir = tempfile::tempdir().unwrap();
        let mut full = scene(dir).await;
        std::fs::create_dir(full.dir.path().join(FILE)).unwrap();
        let status = full.drain(10, false).await;
        assert!(status.error.unwrap().contains("drain.json"), "it says that it would be forgotten");
        assert_eq!(full.stage().await, Stage::Signalled);
    }
}
