//! The loopback HTTP port: `/metrics`, `/healthz`, `/readyz`.
//!
//! An answer comes soon, whatever the daemon is busy with: an owner that doesn't tell in a moment is
//! taken to be as it was last, and the scrape says how old that is.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::bfd;
use crate::bgp::session;
use crate::config::PeerAddress;
use crate::daemon::node::TUNNEL;
use crate::daemon::peers::{Listed, Request};
use crate::daemon::routing::{Numbers, Query};
use crate::daemon::{Handles, unix};
use crate::forward::TunnelMode;
use crate::io::netlink::meters::{self, Meter};
use crate::io::procfs;
use crate::metrics::{
    HostSnapshot, Interface, Neighbours, PeerSnapshot, Process, RouteSnapshot, Snapshot, TrafficSnapshot, TunnelErrors,
};
use crate::net::PerFamily;

/// How long an owner may take to tell of itself.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often a port that can't be opened is tried.
const REBIND: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Scrape {
    handles: Handles,
    /// Gauges are set and gathered in two steps: two scrapes at once must not mix
    turn: Arc<Mutex<Last>>,
}

/// What the owner of the peers last told.
struct Last {
    at: Instant,
    peers: Vec<Listed>,
}

/// Serves until the daemon exits. Where the port can't be had it is tried again: routing doesn't wait for who
/// looks on, and an address may come later than we.
pub async fn serve(listen: SocketAddr, mut bound: io::Result<TcpListener>, handles: Handles) {
    let problem = &handles.scrape;
    let listener = loop {
        match bound {
            Ok(listener) => break listener,
            Err(error) => {
                if problem.borrow().is_none() {
                    tracing::error!(%listen, %error, "metrics port can't be opened, tried again every 5 s");
                }
                problem.send_replace(Some(format!("metrics.listen {listen}: {error}; tried again every 5 s")));
            }
        }
        sleep(REBIND).await;
        bound = TcpListener::bind(listen).await;
    };
    if problem.send_replace(None).is_some() {
        tracing::info!(%listen, "metrics port opened");
    }
    let turn = Arc::new(Mutex::new(Last { at: Instant::now(), peers: Vec::new() }));
    let router = Router::new()
        .route("/metrics", get(metrics))
        // Answers at all: the daemon lives.
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Scrape { handles, turn });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "metrics port failed");
    }
}

async fn ready(State(scrape): State<Scrape>) -> Response {
    let numbers = scrape.handles.numbers().await;
    match scrape.handles.readiness(numbers.ready, &numbers.ready_reason) {
        (true, reason) => (StatusCode::OK, format!("ready: {reason}\n")).into_response(),
        (false, reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn metrics(State(scrape): State<Scrape>) -> Response {
    let mut last = scrape.turn.lock().await;
    let snapshot = snapshot(&scrape.handles, &mut last).await;
    match scrape.handles.metrics.render(&snapshot) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

impl Handles {
    /// The routing task's numbers: of now, or the former ones if it is busy.
    pub(super) async fn numbers(&self) -> Arc<Numbers> {
        let mut numbers = self.numbers.clone();
        numbers.mark_unchanged();
        // Where the queue is full, others have asked already.
        let _ = self.routing.try_send(Query::Publish);
        let _ = timeout(PATIENCE, numbers.changed()).await;
        Arc::clone(&numbers.borrow())
    }

    /// All peers, if their owner answers in time.
    pub(super) async fn listed(&self) -> Option<Vec<Listed>> {
        let (answer, asked) = oneshot::channel();
        self.peers.try_send(Request::List(answer)).ok()?;
        timeout(PATIENCE, asked).await.ok()?.ok()
    }
}

async fn snapshot(handles: &Handles, last: &mut Last) -> Snapshot {
    let (numbers, listed, traffic) = tokio::join!(handles.numbers(), handles.listed(), handles.traffic.read());
    if let Some(peers) = listed {
        *last = Last { at: Instant::now(), peers };
    }
    let host = host(handles, &numbers).await;
    let firewall = handles.firewall();
    let mut snapshot = Snapshot {
        ready: handles.readiness(numbers.ready, "").0,
        drain: match handles.drain.borrow().state.as_str() {
            "none" => 0,
            "draining" => 1,
            _ => 2,
        },
        store: handles.cluster.shown().snapshot(),
        peers: peers(handles, &last.peers, &numbers),
        traffic: TrafficSnapshot { totals: traffic.map(|counted| Arc::clone(&counted.totals)) },
        firewall: firewall.in_force,
        firewalld: firewall.firewalld_here.then_some(!firewall.firewalld.is_empty()),
        // Every state is there with its zero: an absent series and none in that state look alike.
        sessions: session::State::ALL.iter().map(|state| (state.name().to_owned(), 0)).collect(),
        rib: numbers.rib.clone(),
        fib: numbers.fib.clone(),
        routes: RouteSnapshot { age: numbers.at.min(last.at).elapsed().as_secs_f64(), ..numbers.routes },
        repairs: numbers.repairs.clone(),
        duels: numbers.duels.clone(),
        host,
        reload_refused: handles.file.borrow().error.is_some(),
    };
    for peer in &last.peers {
        *snapshot.sessions.entry(peer.status.state.name().to_owned()).or_default() += 1;
    }
    let node = handles.node.borrow().duels.clone();
    for duel in node.iter().chain(&handles.traffic.status().duels) {
        *snapshot.duels.entry(duel.kind.clone()).or_default() += 1;
    }
    snapshot
}

/// Every peer of the file has its series from the start; a range stands for its members, as one name does
/// for all nodes of the store.
fn peers(handles: &Handles, listed: &[Listed], numbers: &Numbers) -> BTreeMap<String, PeerSnapshot> {
    let mut peers: BTreeMap<String, PeerSnapshot> = BTreeMap::new();
    for peer in &handles.config.borrow().bgp.peers {
        let series = peers.entry(peer.metrics_label().to_owned()).or_default();
        if matches!(peer.address, PeerAddress::One(_)) {
            *series.wanted.get_or_insert(0) += 1;
        }
        series.max_prefixes = (!peer.mesh).then(|| peer.max_prefixes.map_or(0, std::num::NonZero::get));
        if peer.max_prefixes.is_some() {
            series.limit_used.get_or_insert(0.0);
        }
    }
    for listed in listed {
        // One that has just left the file may still be listed.
        let Some(peer) = peers.get_mut(listed.config.metrics_label()) else { continue };
        let changed = unix(listed.status.changed);
        peer.last_change = Some(peer.last_change.map_or(changed, |last| last.max(changed)));
        peer.established += usize::from(listed.status.state == session::State::Established);
        if let Some(bfd) = &listed.bfd {
            *peer.bfd_up.get_or_insert(0) += usize::from(bfd.status().session.state == bfd::State::Up);
        }
        let Some(counts) = numbers.counts.get(&listed.id) else { continue };
        peer.received += counts.received;
        peer.accepted += counts.accepted;
        peer.advertised += counts.advertised;
        peer.stale += counts.stale;
        if let Some(limit) = listed.config.max_prefixes {
            peer.used(counts.received, limit);
        }
        for (reason, count) in &counts.rejected {
            *peer.rejected.entry(reason.clone()).or_default() += count;
        }
    }
    peers
}

async fn host(handles: &Handles, numbers: &Numbers) -> HostSnapshot {
    // The kernel may be busy too, and answers none of these while it makes or removes many devices.
    let (meters, tables) =
        tokio::join!(soon(meters::devices(numbers.devices.clone())), soon(meters::neighbour_tables()));
    let meters = meters.unwrap_or_default();
    let config = handles.config.borrow().clone();
    let wanted = config.kernel.install && config.network.tunnel != TunnelMode::Never;
    let tunnel = meters.iter().find(|meter| meter.name == TUNNEL).filter(|_| wanted);
    let (cpu_seconds, threads) = procfs::cpu_and_threads().unzip();
    HostSnapshot {
        tunnel: wanted.then(|| tunnel.is_some_and(|tunnel| tunnel.up)),
        tunnel_errors: tunnel.map(tunnel_errors),
        fragmentation_needed: procfs::fragmentation_needed(),
        neighbours: tables.map_or_else(PerFamily::default, |tables| {
            PerFamily::from_fn(|family| {
                tables[family].map(|table| Neighbours { entries: table.entries, limit: table.limit })
            })
        }),
        conntrack: procfs::conntrack(),
        interfaces: meters.iter().map(interface).collect(),
        process: Process {
            resident_bytes: procfs::resident_bytes().unwrap_or_default(),
            cpu_seconds: cpu_seconds.unwrap_or_default(),
            open_files: procfs::open_files(),
            max_files: procfs::max_files(),
            threads,
            started: unix(handles.since),
        },
    }
}

async fn soon<T>(answer: impl Future<Output = std::io::Result<T>>) -> Option<T> {
    match timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the kernel doesn't tell its counters");
            None
        }
        Err(_) => None,
    }
}

fn interface(meter: &Meter) -> Interface {
    let receive = [meter.rx_bytes, meter.rx_packets, meter.rx_errors, meter.rx_dropped];
    let transmit = [meter.tx_bytes, meter.tx_packets, meter.tx_errors, meter.tx_dropped];
    Interface { name: meter.name.clone(), receive, transmit }
}

const fn tunnel_errors(meter: &Meter) -> TunnelErrors {
    TunnelErrors {
        receive_errors: meter.rx_errors,
        receive_dropped: meter.rx_dropped,
        transmit_errors: meter.tx_errors,
        transmit_dropped: meter.tx_dropped,
        transmit_carrier: meter.tx_carrier,
        transmit_aborted: meter.tx_aborted,
        transmit_collisions: meter.collisions,
    }
}
