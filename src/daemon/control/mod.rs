//! The control socket: what the daemon shows, as JSON over HTTP, and the questions behind it.
//!
//! Large answers are made page by page, so that the routing task works on between two pages.

mod events;
mod explain;
mod firewall;
mod peer;
mod traffic;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use axum::body::Body;
use axum::extract::{Query as Params, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::bfd;
use crate::bgp::session;
use crate::daemon::bfd::Running;
use crate::daemon::cluster::Shown;
use crate::daemon::peers::{Listed, Request};
use crate::daemon::routing::{Counts, Query, RoutesOf, RoutingStatus};
use crate::daemon::{Handles, ask, drain, time};
use crate::io::bfd::Hops;
use crate::net::Prefix;
use crate::view;

/// Answer to what only a store can do.
const NO_STORE: &str = "there is no store: subnets and peers stand in the file (store.kind = \"embedded\")";
/// Nodes of the mesh that `status` names as missed.
const MISSED_NODES: usize = 5;
/// Prefixes per page.
const PAGE: usize = 1000;

/// Serves until the daemon exits.
pub async fn serve(listener: UnixListener, handles: Handles) {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/peers", get(peers))
        .route("/v1/routes", get(routes))
        .route("/v1/explain", get(explain::explain))
        .route("/v1/drain", get(drained).post(drain))
        .route("/v1/undrain", post(undrain))
        .route("/v1/lease", get(lease).post(lease_order))
        .route("/v1/lease/all", get(claims))
        .route("/v1/lease/free", get(free))
        .route("/v1/lease/history", get(history))
        .route("/v1/nodes", get(nodes))
        .route("/v1/traffic", get(traffic::show))
        .route("/v1/events", get(events::events))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "no such thing to ask for"))
        .with_state(handles);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "control socket failed");
    }
}

fn refuse(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(view::Problem { error: error.into() })).into_response()
}

/// How long an owner may take for an answer. Whoever asks gives up later than that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who doesn't answer: is gone, or hangs.
#[derive(Debug)]
struct Silent(&'static str);

impl IntoResponse for Silent {
    fn into_response(self) -> Response {
        refuse(StatusCode::SERVICE_UNAVAILABLE, self.to_string())
    }
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} doesn't answer: the daemon hangs, is much too busy, or is stopping", self.0)
    }
}

const ROUTING: &str = "the routing task";

/// An owner's answer, if it comes in time.
async fn soon<T>(who: &'static str, answer: impl Future<Output = Option<T>>) -> Result<T, Silent> {
    within(PATIENCE, who, answer).await
}

async fn within<T>(
    patience: Duration,
    who: &'static str,
    answer: impl Future<Output = Option<T>>,
) -> Result<T, Silent> {
    timeout(patience, answer).await.ok().flatten().ok_or(Silent(who))
}

impl Handles {
    /// Asks the routing task.
    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, Silent> {
        soon(ROUTING, ask(&self.routing, query)).await
    }

    /// Sizes and readiness, and what is wrong by name; however long that takes.
    pub(super) async fn routing_status(&self) -> Option<RoutingStatus> {
        let mut status = ask(&self.routing, Query::Status).await?;
        (status.ready, status.ready_reason) = self.readiness(status.ready, &status.ready_reason);
        Some(status)
    }

    /// Has the drain task do something.
    async fn order(&self, request: impl FnOnce(oneshot::Sender<view::DrainStatus>) -> drain::Request) -> Response {
        let (answer, done) = oneshot::channel();
        let _ = self.drains.send(request(answer)).await;
        match done.await {
            Ok(status) => Json(status).into_response(),
            Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"),
        }
    }

    /// All peers with their numbers.
    async fn peers(&self) -> Result<Vec<(Listed, Counts)>, Silent> {
        let listed: Vec<Listed> = soon("the task that keeps the peers", ask(&self.peers, Request::List)).await?;
        let mut counts = self.ask(Query::Counts).await?;
        let with_counts = |peer: Listed| {
            let counts = counts.remove(&peer.id).unwrap_or_default();
            (peer, counts)
        };
        Ok(listed.into_iter().map(with_counts).collect())
    }
}

fn view_peer(peer: Listed, counts: Counts) -> view::Peer {
    let established = peer.status.state == session::State::Established;
    let messages =
        peer.messages.into_iter().map(|(kind, received, sent)| (kind.to_owned(), view::Messages { received, sent }));
    let record = std::sync::Arc::clone(&peer.status.record);
    let mut shown = view::Peer {
        name: peer.name,
        address: peer.address,
        asn: peer.config.asn,
        state: peer.status.state.name().to_owned(),
        since: time(peer.status.since),
        received: counts.received,
        accepted: counts.accepted,
        rejected: counts.rejected,
        stale: counts.stale,
        advertised: counts.advertised,
        max_prefixes: peer.config.max_prefixes.map(std::num::NonZero::get),
        last_error: peer.status.last_error.as_ref().map(|(text, _)| text.clone()),
        last_error_at: peer.status.last_error.as_ref().map(|(_, at)| time(*at)),
        flaps: peer.status.flaps,
        established: peer.status.established,
        messages: messages.collect(),
        malformed: peer.status.malformed,
        negotiated: peer.status.negotiated.filter(|_| established),
        dynamic: peer.dynamic,
        mesh: peer.config.mesh,
        import: peer.config.import.to_string(),
        export: peer.config.export.to_string(),
        bfd: peer.bfd.as_ref().map(view_bfd),
        passive: peer.config.passive,
        notification_sent: None,
        notification_received: None,
        dial_failure: None,
        open: None,
        barred_until: None,
    };
    peer::remembered(&mut shown, &record);
    shown
}

fn mesh_status(peers: &[(Listed, Counts)]) -> view::MeshStatus {
    let mesh = || peers.iter().map(|(peer, _)| peer).filter(|peer| peer.config.mesh);
    let established = mesh().filter(|peer| peer.status.state == session::State::Established).count();
    view::MeshStatus { wanted: mesh().count(), established }
}

fn view_bfd(running: &Running) -> view::Bfd {
    let (status, (received, sent)) = (running.status(), running.packets());
    let session = status.session;
    view::Bfd {
        state: session.state.name().to_owned(),
        since: time(status.since),
        diagnostic: session.diagnostic.to_string(),
        remote_state: session.remote_state.name().to_owned(),
        remote_diagnostic: session.remote_diagnostic.to_string(),
        multihop: running.profile.hops != Hops::Single,
        interval: session.transmit.map(|interval| interval.as_secs_f64()),
        detection_time: session.detection.map(|time| time.as_secs_f64()),
        remote_independent: session.independent,
        received,
        sent,
        failures: status.failures,
        last_failure: status.last_failure.map(|failure| failure.to_string()),
        last_failure_at: status.last_failure.map(|failure| time(failure.at)),
        error: status.error,
    }
}

async fn status(State(handles): State<Handles>) -> Result<Response, Silent> {
    let routing = soon(ROUTING, handles.routing_status()).await?;
    let node = handles.node.borrow().clone();
    let traffic = handles.traffic.status();
    let file = handles.file.borrow().clone();
    let peers = handles.peers().await?;
    let (mut sessions, mut bfd_sessions) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    for (peer, _) in &peers {
        if let Some(bfd) = &peer.bfd {
            *bfd_sessions.entry(bfd.status().session.state.name().to_owned()).or_default() += 1;
        }
        *sessions.entry(peer.status.state.name().to_owned()).or_default() += 1;
    }
    let config = handles.config.borrow().clone();
    let mesh = config.bgp.mesh.then(|| mesh_status(&peers));
    let mut tunnel = node.tunnel;
    tunnel.affected.clone_from(&routing.affected_without_tunnel);
    let mut status = view::Status {
        node: handles.identity.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since: time(handles.since),
        address: handles.identity.address,
        router_id: handles.identity.router_id,
        asn: handles.identity.asn,
        pools: config.network.pools.clone(),
        subnets: config.network.subnets.clone().unwrap_or_default(),
        ready: routing.ready,
        ready_reason: routing.ready_reason,
        drain: handles.drain.borrow().clone(),
        sessions,
        mesh,
        bfd_sessions,
        bfd_priority: handles.bfd.get().map(ToString::to_string),
        rib: routing.rib,
        fib: routing.fib,
        tunnel,
        masquerade: node.masquerade,
        firewall: handles.firewall(),
        traffic: traffic.shown,
        sysctls: node.sysctls,
        repairs: routing.repairs.into_iter().chain(node.repairs).chain(traffic.repairs).collect(),
        duels: routing.duels.into_iter().chain(node.duels).chain(traffic.duels).collect(),
        rivals: routing.rivals,
        store: handles.cluster.shown().lease.store.clone(),
        config: file,
        problems: Vec::new(),
    };
    status.problems = problems(&status, &peers, &handles.cluster.shown());
    status.problems.extend(handles.scrape.borrow().clone());
    Ok(Json(status).into_response())
}

/// What an operator should look at, in the order that docs/operating.md tells.
fn problems(status: &view::Status, peers: &[(Listed, Counts)], cluster: &Shown) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(error) = &status.config.error {
        found.push(format!("the last reload was refused: {error}"));
    }
    if status.drain.is_leaving() {
        found.push(format!("the node is {}; `wayleave undrain` brings it back", status.drain));
    }
    if let Some(error) = &status.drain.error {
        found.push(format!("draining, or the end of it, would not survive a restart: {error}"));
    }
    found.extend(cluster.lease.problems.iter().cloned());
    for rival in &status.rivals {
        let node = cluster.nodes.iter().find(|node| node.address == rival.next_hop);
        let node = node.map(|node| format!(" (node {})", node.name)).unwrap_or_default();
        found.push(format!(
            "{} is this node's, and {}{node} announces it too (told by {})",
            rival.subnet, rival.next_hop, rival.from
        ));
    }
    // Of a drained node no peer is up, by its own wish.
    let missed = |peer: &Listed| peer.status.state != session::State::Established && !peer.dynamic;
    let missed = || peers.iter().map(|(peer, _)| peer).filter(|peer| missed(peer) && status.drain.state != "drained");
    let said = |peer: &Listed| {
        let why = peer.status.last_error.as_ref().map_or("no connection yet", |(text, _)| text);
        format!("peer {} is {}: {why}", peer.name, peer.status.state)
    };
    found.extend(missed().filter(|peer| !peer.config.mesh).map(said));
    // Hundreds may be missed for one reason, such as a cable of our own.
    let mut missed_nodes = missed().filter(|peer| peer.config.mesh);
    found.extend(missed_nodes.by_ref().take(MISSED_NODES).map(said));
    match missed_nodes.count() {
        0 => {}
        more => found.push(format!("so it is with {more} more nodes of the mesh; see `wayleave peers`")),
    }
    for (peer, _) in peers {
        let established = peer.status.state == session::State::Established;
        let Some(status) = peer.bfd.as_ref().map(Running::status).filter(|_| established) else { continue };
        let state = status.session.state;
        if let Some(error) = status.error {
            found.push(format!("peer {}: BFD packets can't be sent or received: {error}", peer.name));
        } else if state != bfd::State::Up {
            let said = match (status.session.remote_state, status.session.detection) {
                (bfd::State::AdminDown, _) => "the peer has taken it down",
                (_, None) => "the peer doesn't answer",
                (_, Some(_)) => "the peer says that it hears nothing of us",
            };
            found.push(format!("peer {} is established without BFD, which is {state}: {said}", peer.name));
        }
    }
    if status.fib.failed > 0 {
        let first =
            status.fib.failures.first().map(|f| format!(", such as {}: {}", f.prefix, f.error)).unwrap_or_default();
        found.push(format!("the kernel refuses {} routes{first}", status.fib.failed));
    }
    if !status.tunnel.affected.is_empty() {
        let affected: Vec<String> = status.tunnel.affected.iter().map(ToString::to_string).collect();
        let error = status.tunnel.error.as_deref().unwrap_or("the device is missing");
        found.push(format!("next hops {} need a tunnel and there is none: {error}", affected.join(", ")));
    }
    if status.fib.unresolved > 0 {
        found.push(format!("{} prefixes have no reachable next hop; see `wayleave explain`", status.fib.unresolved));
    }
    for conflict in &status.fib.conflicts {
        found.push(format!(
            "{} also has a foreign route (protocol {}, metric {}): {}",
            conflict.prefix, conflict.protocol, conflict.metric, conflict.effect
        ));
    }
    for duel in &status.duels {
        let by = duel.by.as_deref().unwrap_or("somebody unknown");
        found.push(format!(
            "{} keeps being changed, by {by}: restored {} times since {}, next try {}",
            duel.what, duel.repairs, duel.since, duel.next_try
        ));
    }
    found.extend(firewall::problems(status));
    for sysctl in status.sysctls.iter().filter(|sysctl| sysctl.error.is_some()) {
        found.push(format!(
            "{} could not be set to {}: {}",
            sysctl.key,
            sysctl.wanted,
            sysctl.error.as_deref().unwrap_or_default()
        ));
    }
    if !status.config.needs_restart.is_empty() {
        found.push(format!("changed keys that wait for a restart: {}", status.config.needs_restart.join(", ")));
    }
    found
}

#[derive(Deserialize)]
struct PeersParams {
    peer: Option<String>,
}

async fn peers(State(handles): State<Handles>, Params(params): Params<PeersParams>) -> Result<Response, Silent> {
    let mut found: Vec<view::Peer> =
        handles.peers().await?.into_iter().map(|(peer, counts)| view_peer(peer, counts)).collect();
    found.sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
    if let Some(wanted) = params.peer {
        found.retain(|peer| peer.name == wanted || wanted.parse() == Ok(peer.address));
        if found.is_empty() {
            return Ok(refuse(StatusCode::NOT_FOUND, format!("there is no peer `{wanted}`")));
        }
    }
    Ok(Json(found).into_response())
}

async fn routes(State(handles): State<Handles>, Params(params): Params<view::RoutesQuery>) -> Result<Response, Silent> {
    let mut of = RoutesOf { before_policy: params.before_policy, ..RoutesOf::default() };
    for (name, slot) in [(&params.from, &mut of.from), (&params.to, &mut of.to)] {
        let Some(name) = name else { continue };
        let peers = handles.peers().await?;
        let found = peers.iter().find(|(peer, _)| peer.name == *name || name.parse() == Ok(peer.address));
        match found {
            Some((peer, _)) => *slot = Some(peer.id),
            // Our own routes come from `local`.
            None if name == "local" => *slot = Some(crate::bgp::rib::PeerId::LOCAL),
            None => return Ok(refuse(StatusCode::NOT_FOUND, format!("there is no peer `{name}`"))),
        }
    }
    let prefixes = match params.prefix {
        Some(prefix) => vec![prefix],
        None => handles.ask(|answer| Query::Prefixes(of, answer)).await?,
    };
    let prefixes: Vec<Prefix> =
        prefixes.into_iter().filter(|prefix| params.family.is_none_or(|family| prefix.family() == family)).collect();
    let pages: Vec<Vec<Prefix>> = prefixes.chunks(PAGE).map(<[Prefix]>::to_vec).collect();
    // One JSON array, made a page at a time: `[`, the elements with a comma before all but the first, `]`.
    let elements =
        stream::try_unfold((handles, pages.into_iter(), false), move |(handles, mut pages, mut begun)| async move {
            let Some(page) = pages.next() else { return Ok(None) };
            // An error cuts the answer off: half a table must not look like all of it.
            let routes = handles.ask(|answer| Query::Routes(of, page, answer)).await;
            let routes = routes.map_err(|silent| io::Error::other(silent.to_string()))?;
            let mut text = String::new();
            for route in &routes {
                text.push_str(if std::mem::replace(&mut begun, true) { ",\n" } else { "" });
                text.push_str(&serde_json::to_string(route)?);
            }
            Ok::<_, io::Error>(Some((text, (handles, pages, begun))))
        });
    let end = |text: &str| stream::iter([Ok(text.to_owned())]);
    let body = Body::from_stream(end("[").chain(elements).chain(end("]")));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn drained(State(handles): State<Handles>) -> Response {
    Json(handles.drain.borrow().clone()).into_response()
}

/// Longest wait that can be asked for.
const DRAIN_LIMIT: Duration = Duration::from_secs(3600);

async fn drain(State(handles): State<Handles>, Json(order): Json<view::DrainOrder>) -> Response {
    let asked = order.wait.map(Duration::try_from_secs_f64).transpose().ok();
    let Some(asked) = asked.filter(|wait| wait.is_none_or(|wait| wait <= DRAIN_LIMIT)) else {
        return refuse(StatusCode::BAD_REQUEST, "wait must be from 0 to an hour");
    };
    let wait = asked.unwrap_or(handles.config.borrow().bgp.drain_time);
    let order = drain::Order { since: time(SystemTime::now()), by: order.by, reason: order.reason };
    let request = |answer| drain::Request::Drain { wait, explicit: asked.is_some(), order, answer };
    handles.order(request).await
}

async fn undrain(State(handles): State<Handles>) -> Response {
    handles.order(drain::Request::Undrain).await
}

async fn lease(State(handles): State<Handles>) -> Response {
    Json(&handles.cluster.shown().lease).into_response()
}

async fn claims(State(handles): State<Handles>) -> Response {
    Json(&handles.cluster.shown().claims).into_response()
}

async fn history(State(handles): State<Handles>) -> Response {
    Json(&handles.cluster.shown().history).into_response()
}

async fn nodes(State(handles): State<Handles>) -> Response {
    Json(&handles.cluster.shown().nodes).into_response()
}

#[derive(Deserialize)]
struct FreeParams {
    limit: usize,
}

async fn free(State(handles): State<Handles>, Params(params): Params<FreeParams>) -> Response {
    match handles.cluster.free(params.limit).await {
        Some(Ok(free)) => Json(free).into_response(),
        Some(Err(why)) => refuse(StatusCode::CONFLICT, why),
        None => refuse(StatusCode::CONFLICT, NO_STORE),
    }
}

async fn lease_order(State(handles): State<Handles>, Json(order): Json<view::LeaseOrder>) -> Response {
    match handles.cluster.order(order).await {
        Some(Ok(done)) => Json(view::LeaseAnswer { done }).into_response(),
        Some(Err(why)) => refuse(StatusCode::CONFLICT, why),
        None => refuse(StatusCode::CONFLICT, NO_STORE),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn an_owner_that_hangs_is_named_in_time() {
        let (owner, mut questions) = mpsc::channel::<oneshot::Sender<u8>>(1);
        let asked = |patience| within(patience, ROUTING, ask(&owner, |answer| answer));
        for why in ["takes the question and hangs", "takes no question any more"] {
            let silent = asked(Duration::from_millis(20)).await.expect_err(why);
            assert_eq!(silent.into_response().status(), StatusCode::SERVICE_UNAVAILABLE, "{why}");
        }
        let (answer, ()) = tokio::join!(asked(PATIENCE), async {
            for _ in 0..2 {
                // Nobody waits for the first any more.
                let _ = questions.recv().await.unwrap().send(7);
            }
        });
        assert_eq!(answer.unwrap(), 7);
        drop(questions);
        assert!(asked(PATIENCE).await.is_err(), "gone");
    }
}
