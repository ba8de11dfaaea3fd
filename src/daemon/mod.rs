//! Wiring: which task owns what, how they start, reload and stop.
//!
//! | task | owns | hears from |
//! | --- | --- | --- |
//! | one per peer (`peer`) | session, connections | listener, timers, its socket |
//! | `peers` | the set of peers, listeners | signals, control socket |
//! | `routing` | RIB, adj-ribs-out, forwarder | peers, kernel events, FIB writer, queries |
//! | `cluster` | subnets leased from the store, the nodes in it | the store, control socket, `routing` |
//! | `drain` | how far the node has left the network | control socket, a timer |
//! | `node` | tunnel, sysctls, firewall table | events of its own, reload, timers |
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
pub mod load;
mod logging;
mod node;
mod peer;
mod peers;
mod routing;
mod scrape;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{self, Config, Overlay};
use crate::io::netlink::query;
use crate::metrics::Metrics;
use crate::view;

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
    peers: mpsc::Sender<peers::Request>,
    drains: mpsc::Sender<drain::Request>,
    drain: watch::Receiver<view::DrainStatus>,
    cluster: cluster::Handle,
    node: watch::Receiver<node::Status>,
    file: watch::Receiver<view::ConfigStatus>,
    metrics: Arc<Metrics>,
    identity: identity::Identity,
    config: watch::Receiver<Arc<Config>>,
    bfd: Arc<OnceLock<crate::io::bfd::Priority>>,
    since: SystemTime,
}

async fn serve(path: PathBuf, config: Config) -> Result<(), Fatal> {
    let since = SystemTime::now();
    let identity = identity::find(&config).await?;
    // First of all: a second daemon must not touch what the first one owns.
    let control = crate::io::socket::listen(&config.control.socket)
        .map_err(|error| Fatal::start(format!("control socket {}", config.control.socket.display()), error))?;
    let file_config = Arc::new(config);
    let cluster = cluster::Cluster::open(&file_config, &identity).await?;
    let overlay = cluster.as_ref().map(cluster::Cluster::overlay);
    let config = in_force(&file_config, overlay.as_ref());
    let metrics = Arc::new(Metrics::new().map_err(|error| Fatal::start("metrics", error))?);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), node = identity.name, address = %identity.address,
        router_id = %identity.router_id, asn = identity.asn.0, "started"
    );

    let (inputs, input_queue) = mpsc::channel(ROUTING_QUEUE);
    let (queries, query_queue) = mpsc::channel(REQUESTS);
    let (node_requests, node_queue) = mpsc::channel(REQUESTS);
    let (objects, guard) = abilities(&config).await;
    let drain = drain::Drain::start(&config.state_dir, &identity.name, inputs.clone()).await;
    let (drain_requests, drain_queue) = mpsc::channel(REQUESTS);
    let drain_status = drain.subscribe();
    let mut node =
        node::Node::new(Arc::clone(&config), identity.clone(), objects, Arc::clone(&metrics), inputs.clone())
            .map_err(|error| Fatal::start("patrol thread", error))?;
    let node_status = node.subscribe();
    let tunnel = node.bring_up().await;

    let (routing, preserved) =
        routing::Routing::start(Arc::clone(&config), &identity, Arc::clone(&metrics), tunnel, objects, guard).await?;
    let mut routing_task = tokio::spawn(routing.run(input_queue, query_queue));
    let node_task = tokio::spawn(node.run(node_queue));

    let (peer_requests, peer_queue) = mpsc::channel(REQUESTS);
    let bfd = Arc::default();
    let peers = peers::Peers::new(
        Arc::clone(&config),
        identity.clone(),
        inputs.clone(),
        Arc::clone(&metrics),
        bfd::Bfd::new(Arc::clone(&metrics), Arc::clone(&bfd)),
        preserved,
        drain.farewell(),
    )
    .map_err(|error| Fatal::start("listen", error))?;
    let peers_task = tokio::spawn(peers.run(peer_queue));
    let drain_task = tokio::spawn(drain.run(drain_queue, peer_requests.clone()));

    let around = cluster::Around { routing: queries.clone(), node: node_status.clone(), drain: drain_status.clone() };
    let (cluster_handle, cluster_requests) = cluster::Cluster::launch(cluster, &config, around);
    let (file, file_status) = watch::channel(view::ConfigStatus {
        file: path.display().to_string(),
        loaded: now(),
        error: None,
        needs_restart: Vec::new(),
    });
    let (current, config_status) = watch::channel(Arc::clone(&config));
    let handles = Handles {
        routing: queries,
        peers: peer_requests.clone(),
        drains: drain_requests.clone(),
        drain: drain_status,
        cluster: cluster_handle,
        node: node_status,
        file: file_status,
        metrics: Arc::clone(&metrics),
        identity,
        config: config_status,
        bfd,
        since,
    };
    serve_metrics(&config, &handles).await?;
    tokio::spawn(control::serve(control, handles));

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
    };
    let outcome = tokio::select! {
        stopped = reload.until_stopped() => stopped,
        // These end only on request: anything else is a bug that a supervisor's restart may heal.
        _ = &mut routing_task => Err(Fatal::start("routing task", "ended unexpectedly")),
        _ = peers_task => Err(Fatal::start("peers task", "ended unexpectedly")),
        _ = drain_task => Err(Fatal::start("drain task", "ended unexpectedly")),
        _ = node_task => Err(Fatal::start("node task", "ended unexpectedly")),
    };
    // Before the sessions end: what that does to the RIB must not reach the kernel.
    routing_task.abort();
    let (done, finished) = oneshot::channel();
    // Who leaves on purpose doesn't ask to be waited for.
    let (left, leaves) = oneshot::channel();
    let leaves = drain_requests.send(drain::Request::Exit(left)).await.is_ok() && leaves.await.unwrap_or_default();
    if peer_requests.send(peers::Request::Exit { leaves, done }).await.is_ok() {
        let _ = finished.await;
    }
    // A stale socket is replaced at the next start; this is tidiness.
    let _ = std::fs::remove_file(&config.control.socket);
    tracing::info!("stopped, forwarding stays in place");
    outcome
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

async fn serve_metrics(config: &Config, handles: &Handles) -> Result<(), Fatal> {
    let Some(listen) = config.metrics.listen else { return Ok(()) };
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .map_err(|error| Fatal::start(format!("metrics.listen {listen}"), error))?;
    tokio::spawn(scrape::serve(listener, handles.clone()));
    Ok(())
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
                _ = hangup.recv() => self.reload().await,
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
        tracing::info!(added = ?changes.peers_added, removed = ?changes.peers_removed, changed = ?changes.peers_changed, "reloaded");
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

/// The time as the views show it.
fn now() -> String {
    time(SystemTime::now())
}

/// A time as the views show it.
fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}
