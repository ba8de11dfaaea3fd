//! The loopback HTTP port: `/metrics`, `/healthz`, `/readyz`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::bfd;
use crate::bgp::session;
use crate::daemon::Handles;
use crate::io::procfs;
use crate::metrics::{PeerSnapshot, Snapshot};

#[derive(Clone)]
struct Scrape {
    handles: Handles,
    /// Gauges are set and gathered in two steps; two scrapes at once must not mix.
    turn: Arc<Mutex<()>>,
}

/// Serves until the daemon exits.
pub async fn serve(listener: TcpListener, handles: Handles) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        // Answers at all: the daemon lives.
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Scrape { handles, turn: Arc::default() });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "metrics port failed");
    }
}

async fn ready(State(scrape): State<Scrape>) -> Response {
    match scrape.handles.routing_status().await {
        Some(status) if status.ready => (StatusCode::OK, format!("ready: {}\n", status.ready_reason)).into_response(),
        Some(status) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", status.ready_reason)).into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "not ready: the routing task doesn't answer\n").into_response(),
    }
}

async fn metrics(State(scrape): State<Scrape>) -> Response {
    let _turn = scrape.turn.lock().await;
    let snapshot = snapshot(&scrape.handles).await;
    match scrape.handles.metrics.render(&snapshot) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn snapshot(handles: &Handles) -> Snapshot {
    let mut snapshot = Snapshot {
        devices: procfs::devices().unwrap_or_default(),
        resident_bytes: procfs::resident_bytes().unwrap_or_default(),
        cpu_seconds: procfs::cpu_seconds(),
        drain: match handles.drain.borrow().state.as_str() {
            "none" => 0,
            "draining" => 1,
            _ => 2,
        },
        store: handles.cluster.shown().snapshot(),
        // Every state is there with its zero: an absent series and none in that state look alike.
        sessions: session::State::ALL.iter().map(|state| (state.name().to_owned(), 0)).collect(),
        ..Snapshot::default()
    };
    // Every peer of the file has its series from the start; a range stands for its members, as one name
    // does for all nodes of the store.
    let mut peers: BTreeMap<String, PeerSnapshot> = BTreeMap::new();
    for peer in &handles.config.borrow().bgp.peers {
        let series = peers.entry(peer.metrics_label().to_owned()).or_default();
        series.max_prefixes = (!peer.mesh).then(|| peer.max_prefixes.map_or(0, std::num::NonZero::get));
    }
    for (listed, counts) in handles.peers().await {
        let peer = peers.entry(listed.config.metrics_label().to_owned()).or_default();
        peer.established += usize::from(listed.status.state == session::State::Established);
        peer.received += counts.received;
        peer.accepted += counts.accepted;
        peer.advertised += counts.advertised;
        peer.stale += counts.stale;
        if let Some(bfd) = &listed.bfd {
            *peer.bfd_up.get_or_insert(0) += usize::from(bfd.status().session.state == bfd::State::Up);
        }
        for (reason, count) in counts.rejected {
            *peer.rejected.entry(reason).or_default() += count;
        }
        *snapshot.sessions.entry(listed.status.state.name().to_owned()).or_default() += 1;
    }
    snapshot.peers = peers;
    for duel in &handles.node.borrow().duels {
        *snapshot.duels.entry(duel.kind.clone()).or_default() += 1;
    }
    if let Some(status) = handles.routing_status().await {
        snapshot.ready = status.ready;
        snapshot.duels.extend(status.duel_counts);
        snapshot.repairs.extend(status.repairs.into_iter().map(|repairs| (repairs.kind, repairs.count)));
        snapshot.rib = status.rib;
        snapshot.fib = crate::metrics::FibSnapshot {
            wanted: status.fib.wanted,
            installed: status.fib.installed,
            failed: status.fib.failed,
            unresolved: status.fib.unresolved,
            conflicts: status.fib.conflicts.len(),
            stale: status.fib.stale,
            repaired: status.fib.repaired,
        };
    }
    snapshot
}
