//! Wiring: which task owns what, how they start, reload and stop.
//!
//! | task | owns | hears from |
//! | --- | --- | --- |
//! | one per peer (`peer`) | session, connections | listener, timers, its socket |
//! | `peers` | the set of peers, listeners | signals, control socket |
//! | `routing` | RIB, adj-ribs-out, forwarder | peers, kernel events, FIB writer, queries |
//! | `cluster` | subnets leased from the store, the nodes in it | the store, control socket, `routing` |
//! | `drain` | how far the node has left the network | control socket, a timer |
//! | `node` | tunnel, sysctls, firewall | events of its own, reload, timers |
//! | `traffic` | the table that counts traffic, its sums | scrapes, control socket, events of its own, timers |
//! | `journal` | what happened lately | everybody, without waiting |
//! | `supervision` | what systemd is told | asks `routing`, `peers`, `node` for a sign of life |
//! | FIB writer thread | the netlink socket that writes routes | routing |
//! | BFD thread | all BFD sessions and their sockets | `peers`, its timers and sockets |
//!
//! No locks between them; every queue is bounded, and where one would grow its owner keeps a set of
//! what is dirty instead.

mod bfd;
pub mod clean;
mod cluster;
mod connection;
mod control;
pub mod drain;
mod duels;
mod identity;
mod journal;
pub mod load;
mod logging;
pub mod node;
mod peer;
mod peers;
mod readiness;
mod routing;
mod scrape;
mod settings;
mod supervision;
mod traffic;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use self::journal::{Journal, Note};
use crate::config::{self, Config, Overlay};
use crate::io::netlink::query;
use crate::metrics::Metrics;
use crate::net::PerFamily;
use crate::view::{self, EventKind};

/// Inputs of the routing task that may wait.
const ROUTING_QUEUE: usize = 256;
/// Requests to `peers`, `node` and `routing` that may wait.
const REQUESTS: usize = 16;

/// Why the daemon can't run.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The configuration: every error, a line each
    #[error("{0}")]
    Config(String),
    /// Something the daemon can't do without
    #[error("{what}: {why}")]
    Start {
        /// What was tried
        what: String,
        /// What stood in the way
        why: String,
    },
}

impl Fatal {
    fn start(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Start { what: what.into(), why: why.to_string() }
    }
}

/// Runs the daemon until SIGTERM or SIGINT; forwarding stays in place.
pub fn run(path: &Path) -> Result<(), Fatal> {
    let config = load::load(path).map_err(|errors| Fatal::Config(errors.join("\n")))?;
    logging::start(&config.log).map_err(|error| Fatal::start("log.level", error))?;
    if let Err(error) = crate::io::limits::raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Routing is one task and decoding rarely needs more; a big host must not pay for 128 threads.
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4)))
        .enable_all()
        .build()
        .map_err(|error| Fatal::start("runtime", error))?;
    runtime.block_on(serve(path.to_owned(), config))
}

/// What the control socket and the scrape ask.
#[derive(Clone)]
struct Handles {
    routing: mpsc::Sender<routing::Query>,
    numbers: watch::Receiver<Arc<routing::Numbers>>,
    peers: mpsc::Sender<peers::Request>,
    drains: mpsc::Sender<drain::Request>,
    drain: watch::Receiver<view::DrainStatus>,
    cluster: cluster::Handle,
    node: watch::Receiver<node::Status>,
    traffic: traffic::Handle,
    file: watch::Receiver<view::ConfigStatus>,
    /// Why nobody can scrape
    scrape: watch::Sender<Option<String>>,
    metrics: Arc<Metrics>,
    journal: Journal,
    identity: identity::Identity,
    config: watch::Receiver<Arc<Config>>,
    bfd: Arc<OnceLock<crate::io::bfd::Priority>>,
    since: SystemTime,
}

async fn serve(path: PathBuf, config: Config) -> Result<(), Fatal> {
    let since = SystemTime::now();
    let supervision = supervision::Supervision::from_env();
    let identity = identity::find(&config).await?;
    // First of all: a second daemon must not touch what the first one owns.
    let control = crate::io::socket::listen(&config.control.socket)
        .map_err(|error| Fatal::start(format!("control socket {}", config.control.socket.display()), error))?;
    let metrics = Arc::new(Metrics::new().map_err(|error| Fatal::start("metrics", error))?);
    let journal = Journal::start(&config.state_dir, metrics.events.clone()).await;
    journal.note(started(&identity));
    let file_config = Arc::new(config);
    let cluster = cluster::Cluster::open(&file_config, &identity, journal.clone()).await?;
    let overlay = cluster.as_ref().map(cluster::Cluster::overlay);
    let config = in_force(&file_config, overlay.as_ref());

    let (inputs, input_queue) = mpsc::channel(ROUTING_QUEUE);
    let (queries, query_queue) = mpsc::channel(REQUESTS);
    let (node_requests, node_queue) = mpsc::channel(REQUESTS);
    let drain = drain::Drain::start(&config.state_dir, &identity.name, inputs.clone(), journal.clone()).await;
    let (drain_requests, drain_queue) = mpsc::channel(REQUESTS);
    let drain_status = drain.subscribe();
    let (node, routing, preserved) = forwarding(&config, &identity, &metrics, &inputs, &journal).await?;
    let node_status = node.subscribe();
    let numbers = routing.subscribe();
    let mut routing_task = tokio::spawn(routing.run(input_queue, query_queue));
    let (pings, node_pings) = mpsc::channel(REQUESTS);
    let node_task = tokio::spawn(node.run(node_queue, node_pings));

    let (peer_requests, peer_queue) = mpsc::channel(REQUESTS);
    let bfd = Arc::default();
    let peers = peers::Peers::new(
        Arc::clone(&config),
        identity.clone(),
        inputs.clone(),
        Arc::clone(&metrics),
        journal.clone(),
        bfd::Bfd::new(Arc::clone(&metrics), Arc::clone(&bfd)),
        preserved,
        drain.farewell(),
    )
    .map_err(|error| Fatal::start("listen", error))?;
    let peers_task = tokio::spawn(peers.run(peer_queue));
    let drain_task = tokio::spawn(drain.run(drain_queue, peer_requests.clone()));
    let around = cluster::Around { routing: queries.clone(), node: node_status.clone(), drain: drain_status.clone() };
    let (cluster_handle, cluster_requests) = cluster::Cluster::launch(cluster, &config, around);
    let (file, file_status) = watch::channel(loaded(&path));
    let (current, config_status) = watch::channel(Arc::clone(&config));
    let counting = traffic::Around {
        configs: config_status.clone(),
        me: identity.name.clone(),
        routing: queries.clone(),
        cluster: cluster_handle.clone(),
        metrics: Arc::clone(&metrics),
        journal: journal.clone(),
    };
    let handles = Handles {
        scrape: watch::Sender::new(None),
        traffic: traffic::Traffic::start(counting),
        routing: queries,
        numbers,
        peers: peer_requests.clone(),
        drains: drain_requests.clone(),
        drain: drain_status,
        cluster: cluster_handle,
        node: node_status,
        file: file_status,
        metrics: Arc::clone(&metrics),
        journal: journal.clone(),
        identity,
        config: config_status,
        bfd,
        since,
    };
    answer(&config, control, handles, &supervision, pings).await;

    let reload = Reload {
        path,
        file_config,
        overlay,
        cluster: cluster_requests,
        file,
        current,
        inputs,
        peers: peer_requests.clone(),
        node: node_requests,
        metrics,
        journal: journal.clone(),
        supervision: supervision.clone(),
    };
    let outcome = tokio::select! {
        stopped = reload.until_stopped() => stopped,
        // These end only on request: anything else is a bug that a supervisor's restart may heal.
        _ = &mut routing_task => Err(Fatal::start("routing task", "ended unexpectedly")),
        _ = peers_task => Err(Fatal::start("peers task", "ended unexpectedly")),
        _ = drain_task => Err(Fatal::start("drain task", "ended unexpectedly")),
        _ = node_task => Err(Fatal::start("node task", "ended unexpectedly")),
    };
    supervision.stopping();
    // Before the sessions end: what that does to the RIB must not reach the kernel.
    routing_task.abort();
    leave(&drain_requests, &peer_requests).await;
    // A stale socket is replaced at the next start; this is tidiness.
    let _ = std::fs::remove_file(&config.control.socket);
    journal.note(stopped(&outcome));
    journal.flush().await;
    outcome
}

/// The owners of what packets meet here. What the node has one of is brought up, the kernel's routes are taken
/// over; in which families forwarding has outlived the former run.
async fn forwarding(
    config: &Arc<Config>,
    identity: &identity::Identity,
    metrics: &Arc<Metrics>,
    inputs: &mpsc::Sender<routing::Input>,
    journal: &Journal,
) -> Result<(node::Node, routing::Routing, PerFamily<bool>), Fatal> {
    let (objects, guard) = abilities(config).await;
    let (tunnel_ends, learned) = watch::channel(node::KnownEnds::default());
    let mut node = node::Node::new(
        Arc::clone(config),
        identity.clone(),
        objects,
        Arc::clone(metrics),
        inputs.clone(),
        learned,
        journal.clone(),
    )
    .map_err(|error| Fatal::start("patrol thread", error))?;
    let tunnel = node.bring_up().await;
    let abilities = routing::Abilities { tunnel, objects, guard };
    let told = routing::Told { tunnel_ends, journal: journal.clone() };
    let (routing, preserved) =
        routing::Routing::start(Arc::clone(config), identity, Arc::clone(metrics), abilities, told).await?;
    Ok((node, routing, preserved))
}

/// The file was just read, and there was nothing wrong with it.
fn loaded(path: &Path) -> view::ConfigStatus {
    let file = path.display().to_string();
    view::ConfigStatus { file, loaded: now(), error: None, needs_restart: Vec::new() }
}

/// Ends the sessions, as far as peers have to be told.
async fn leave(drain: &mpsc::Sender<drain::Request>, peers: &mpsc::Sender<peers::Request>) {
    let (done, finished) = oneshot::channel();
    // Who leaves on purpose doesn't ask to be waited for.
    let (left, leaves) = oneshot::channel();
    let leaves = drain.send(drain::Request::Exit(left)).await.is_ok() && leaves.await.unwrap_or_default();
    if peers.send(peers::Request::Exit { leaves, done }).await.is_ok() {
        let _ = finished.await;
    }
}

/// Says who is here, in the log and for the journal.
fn started(identity: &identity::Identity) -> Note {
    let version = env!("CARGO_PKG_VERSION");
    let identity::Identity { name, address, router_id, asn } = identity;
    tracing::info!(version, node = name, %address, %router_id, asn = asn.0, "started");
    Note::new(EventKind::Daemon, "wayleave", format!("version {version} started as {name}, {address}, AS {}", asn.0))
}

/// Says that we leave, in the log and for the journal.
fn stopped(outcome: &Result<(), Fatal>) -> Note {
    tracing::info!("stopped, forwarding stays in place");
    let note = Note::new(EventKind::Daemon, "wayleave", "stopped, forwarding stays in place");
    note.perhaps_because(outcome.as_ref().err().map(ToString::to_string))
}

/// Whether routes refer to nexthop objects, and these can be guarded: wanted, and known to the kernel.
async fn abilities(config: &Config) -> (bool, bool) {
    let objects =
        config.kernel.install && config.kernel.nexthop_objects && query::knows_nexthops().await.unwrap_or(false);
    if !objects && config.kernel.install && config.kernel.nexthop_objects {
        tracing::warn!("this kernel has no nexthop objects: failover takes time for each route");
    }
    let guard = objects && config.kernel.link_guard && query::knows_resilient_groups().await.unwrap_or(false);
    if objects && config.kernel.link_guard && !guard {
        tracing::warn!(
            "this kernel has no resilient nexthop groups: when a link goes down its routes are written again"
        );
    }
    (objects, guard)
}

/// From here on whoever asks is answered, and the supervisor knows it.
async fn answer(
    config: &Config,
    control: UnixListener,
    handles: Handles,
    supervision: &supervision::Supervision,
    pings: mpsc::Sender<supervision::Ping>,
) {
    if let Some(listen) = config.metrics.listen {
        let bound = tokio::net::TcpListener::bind(listen).await;
        tokio::spawn(scrape::serve(listen, bound, handles.clone()));
    }
    tokio::spawn(readiness::tell(handles.clone()));
    tokio::spawn(control::serve(control, handles.clone()));
    supervision.start(handles, pings);
}

/// The file, and what the store adds to it.
fn in_force(file: &Arc<Config>, overlay: Option<&watch::Receiver<Arc<Overlay>>>) -> Arc<Config> {
    overlay.map_or_else(|| Arc::clone(file), |overlay| Arc::new(file.with(&overlay.borrow())))
}

/// Brings a changed file into force, and what changes in the store.
struct Reload {
    path: PathBuf,
    /// As the file says
    file_config: Arc<Config>,
    /// What the store adds; none: there is no store
    overlay: Option<watch::Receiver<Arc<Overlay>>>,
    cluster: Option<mpsc::Sender<cluster::Request>>,
    file: watch::Sender<view::ConfigStatus>,
    current: watch::Sender<Arc<Config>>,
    inputs: mpsc::Sender<routing::Input>,
    peers: mpsc::Sender<peers::Request>,
    node: mpsc::Sender<Arc<Config>>,
    metrics: Arc<Metrics>,
    journal: Journal,
    supervision: supervision::Supervision,
}

impl Reload {
    /// Handles signals until one says stop.
    async fn until_stopped(mut self) -> Result<(), Fatal> {
        let listen = |kind| signal(kind).map_err(|error| Fatal::start("signals", error));
        let mut hangup = listen(SignalKind::hangup())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    self.supervision.reloading();
                    self.reload().await;
                    self.supervision.ready();
                }
                () = changed(&mut self.overlay) => self.apply().await,
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    }

    /// All or nothing: an invalid file changes nothing.
    async fn reload(&mut self) {
        let leases = |config: &Config| config.network.subnets.is_none();
        let loaded = load::load(&self.path).and_then(|new| match &self.cluster {
            // Nobody runs who could lease one.
            None if leases(&new) => Err(vec!["network.subnets: to leave it out takes a restart".to_owned()]),
            _ => Ok(new),
        });
        let new = match loaded {
            Ok(new) => Arc::new(new),
            Err(errors) => {
                for error in &errors {
                    tracing::error!(error, "reload refused, the former configuration stays");
                }
                self.metrics.reloads.with_label_values(&["refused"]).inc();
                let refused = Note::new(EventKind::Config, self.subject(), "refused, the former configuration stays");
                self.journal.note(refused.because(errors.join("; ")));
                self.file.send_modify(|status| status.error = Some(errors.join("; ")));
                return;
            }
        };
        let changes = config::changes(&self.file_config, &new);
        if !changes.needs_restart.is_empty() {
            tracing::warn!(keys = ?changes.needs_restart, "these changes wait for a restart");
        }
        self.file.send_modify(|status| {
            status.loaded = now();
            status.error = None;
            status.needs_restart = changes.needs_restart.iter().map(ToString::to_string).collect();
        });
        self.file_config = Arc::clone(&new);
        if let Some(cluster) = &self.cluster {
            let _ = cluster.send(cluster::Request::Configure(new)).await;
        }
        self.apply().await;
        self.metrics.reloads.with_label_values(&["done"]).inc();
        self.journal.note(Note::new(EventKind::Config, self.subject(), reloaded(&changes)));
        tracing::info!(added = ?changes.peers_added, removed = ?changes.peers_removed, changed = ?changes.peers_changed, "reloaded");
    }

    /// What events of the file are about.
    fn subject(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// Hands the tasks what is in force now.
    async fn apply(&self) {
        let new = in_force(&self.file_config, self.overlay.as_ref());
        if **self.current.borrow() == *new {
            return;
        }
        // Policies and pools before the peers that use them.
        let _ = self.node.send(Arc::clone(&new)).await;
        let _ = self.inputs.send(routing::Input::Reload(Arc::clone(&new))).await;
        let _ = self.peers.send(peers::Request::Reload(Arc::clone(&new))).await;
        self.current.send_replace(new);
    }
}

/// What a reload has brought.
fn reloaded(changes: &config::Changes) -> String {
    let settings: Vec<String> = changes.settings.iter().map(ToString::to_string).collect();
    let waiting: Vec<String> = changes.needs_restart.iter().map(ToString::to_string).collect();
    let parts = [
        ("peers added", &changes.peers_added),
        ("removed", &changes.peers_removed),
        ("changed", &changes.peers_changed),
        ("keys", &settings),
        ("of these a restart is needed for", &waiting),
    ];
    let parts = parts.iter().filter(|(_, names)| !names.is_empty());
    let text: Vec<String> = parts.map(|(what, names)| format!("{what} {}", names.join(", "))).collect();
    if text.is_empty() { "read again, nothing changed".to_owned() } else { format!("reloaded: {}", text.join("; ")) }
}

/// Waits for news; for ever, if none can come.
async fn changed(overlay: &mut Option<watch::Receiver<Arc<Overlay>>>) {
    let news = match overlay {
        Some(overlay) => overlay.changed().await.is_ok(),
        None => false,
    };
    if !news {
        std::future::pending::<()>().await;
    }
}

/// Asks an owner; none: it is gone.
async fn ask<Q, T>(owner: &mpsc::Sender<Q>, question: impl FnOnce(oneshot::Sender<T>) -> Q) -> Option<T> {
    let (answer, asked) = oneshot::channel();
    owner.send(question(answer)).await.ok()?;
    asked.await.ok()
}

/// Waits for a time; for ever, if there is none.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The time as the views show it.
fn now() -> String {
    time(SystemTime::now())
}

/// A time as metrics show it: seconds of Unix time.
fn unix(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A time as the views show it.
fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}
