//! What is known of a peer, for `explain` and for `peers`.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::explain::{ask, range, show};
use super::{Silent, view_peer};
use crate::bgp::session::State;
use crate::daemon::bfd::Running;
use crate::daemon::peer::Record;
use crate::daemon::peers::Listed;
use crate::daemon::routing::Counts;
use crate::daemon::{Handles, settings, time};
use crate::explain::Story;
use crate::explain::peer::{self, Agreed, BfdFound, Found, Past, Reach, Routes, Wanted};
use crate::io::drops;
use crate::io::netlink::path::{self, Question};
use crate::net::Prefix;
use crate::view;

/// What a record adds to the peer that is shown.
pub(super) fn remembered(shown: &mut view::Peer, record: &Record) {
    let notice = |(notification, at): &(crate::bgp::message::Notification, SystemTime)| view::Notice {
        code: notification.code,
        subcode: notification.subcode,
        text: notification.to_string(),
        at: time(*at),
    };
    shown.notification_sent = record.sent.as_ref().map(notice);
    shown.notification_received = record.received.as_ref().map(notice);
    shown.dial_failure = record.dial.as_ref().map(|((kind, text), at)| view::DialFailure {
        kind: kind.label().to_owned(),
        text: text.clone(),
        at: time(*at),
    });
    shown.open = record.open.as_ref().map(|(open, at)| view::PeerOpen {
        asn: open.asn,
        router_id: open.router_id.to_string(),
        hold_time: open.hold_time,
        capabilities: open.capabilities.iter().map(ToString::to_string).collect(),
        at: time(*at),
    });
    shown.barred_until = record.barred.filter(|until| *until > SystemTime::now()).map(time);
}

/// The peers that have an address.
pub(super) async fn of_address(
    handles: &Handles,
    address: IpAddr,
    peers: &[(Listed, Counts)],
) -> Vec<view::PeerExplanation> {
    let mut found = Vec::new();
    for (peer, counts) in peers.iter().filter(|(peer, _)| peer.address == address) {
        found.push(of_peer(handles, peer, counts, peers).await);
    }
    found
}

/// A peer by name or address, a range by name, a node of the store; or what there is instead.
pub(super) async fn of_name(handles: &Handles, name: &str) -> Result<Result<view::PeerExplanation, String>, Silent> {
    let peers = handles.peers().await?;
    let is = |peer: &Listed| peer.name == name || name.parse() == Ok(peer.address);
    if let Some((peer, counts)) = peers.iter().find(|(peer, _)| is(peer)) {
        return Ok(Ok(of_peer(handles, peer, counts, &peers).await));
    }
    let config = handles.config.borrow().clone();
    if let Some(prefix) = range(&config, name) {
        return Ok(Ok(of_range(name, prefix, &peers)));
    }
    let shown = handles.cluster.shown();
    if let Some(node) = shown.nodes.iter().find(|node| node.name == name || name.parse() == Ok(node.address)) {
        return Ok(Ok(of_node(node)));
    }
    if let Ok(address) = name.parse::<IpAddr>()
        && let Some(range) = config.bgp.peers.iter().find(|peer| peer.address.prefix().contains(address))
    {
        let text = format!("{address} would be admitted by {} ({}), and has not called", range.name, range.address);
        let advice = "it must dial us: is BGP configured there, and does a firewall here drop TCP 179 from it?";
        return Ok(Ok(bare(name, "not-called", false, &text, vec![advice.to_owned()])));
    }
    let mut names: Vec<&str> = peers.iter().map(|(peer, _)| peer.name.as_str()).collect();
    names.sort_unstable();
    let known =
        if names.is_empty() { "there are no peers".to_owned() } else { format!("peers are {}", names.join(", ")) };
    Ok(Err(format!("`{name}` is neither an address nor a peer: {known}")))
}

/// Where there is nothing to be shown but the verdict.
fn bare(name: &str, cause: &str, ok: bool, verdict: &str, advice: Vec<String>) -> view::PeerExplanation {
    let (name, cause, verdict) = (name.to_owned(), cause.to_owned(), format!("{verdict}."));
    view::PeerExplanation { name, cause, verdict, ok, facts: Vec::new(), advice, peer: None }
}

fn of_range(name: &str, prefix: Prefix, peers: &[(Listed, Counts)]) -> view::PeerExplanation {
    let members: Vec<&Listed> =
        peers.iter().map(|(peer, _)| peer).filter(|peer| peer.dynamic && prefix.contains(peer.address)).collect();
    let up = members.iter().filter(|peer| peer.status.state == State::Established).count();
    let verdict = format!(
        "{name} is the range {prefix}: whoever calls from it is admitted; {} have called, {up} of them are established",
        members.len()
    );
    let fact = |peer: &&Listed| view::Fact {
        topic: "member".to_owned(),
        text: format!("{} is {}", peer.address, peer.status.state),
        problem: peer.status.state != State::Established,
    };
    let advice = match (members.len(), up) {
        (0, _) => vec!["nobody has called: they must dial us, we never dial a range".to_owned()],
        (all, up) if up < all => vec!["`wayleave explain ADDRESS` tells of one of them".to_owned()],
        _ => Vec::new(),
    };
    let ok = up == members.len();
    let explanation = bare(name, "range", ok, &verdict, advice);
    view::PeerExplanation { facts: members.iter().map(fact).collect(), ..explanation }
}

/// A node of the store without a session.
fn of_node(node: &view::Node) -> view::PeerExplanation {
    let name = &node.name;
    if node.this {
        return bare(name, "this-node", true, &format!("{name} is this node"), Vec::new());
    }
    let why = node.reason.as_deref().unwrap_or("the topology wants none");
    let verdict = format!("{name} is a node of the store ({}) with which there is no session: {why}", node.state);
    bare(
        name,
        "no-session-wanted",
        node.reason.is_none(),
        &verdict,
        vec!["`wayleave nodes` shows all of them".to_owned()],
    )
}

async fn of_peer(
    handles: &Handles,
    listed: &Listed,
    counts: &Counts,
    peers: &[(Listed, Counts)],
) -> view::PeerExplanation {
    let profile = settings::profile(&handles.identity, &listed.config, listed.address, listed.id);
    let answer = ask(Question { to: listed.address, from: profile.local, arriving: None }).await;
    let neighbour = match answer.device {
        Some(device) => path::neighbour(answer.gateway.unwrap_or(listed.address), device).await.ok(),
        None => None,
    };
    let devices = path::devices().await.unwrap_or_default();
    let found = found(handles, listed, counts, peers, profile.local, Reach { answer, neighbour, devices });
    let Story { cause, verdict, ok, facts, advice } = peer::story(&found);
    view::PeerExplanation {
        name: listed.name.clone(),
        cause: cause.to_owned(),
        verdict,
        ok,
        facts: facts.into_iter().map(show).collect(),
        advice,
        peer: Some(view_peer(listed.clone(), counts.clone())),
    }
}

fn found(
    handles: &Handles,
    listed: &Listed,
    counts: &Counts,
    peers: &[(Listed, Counts)],
    local_address: Option<IpAddr>,
    reach: Reach,
) -> Found {
    let now = SystemTime::now();
    let ago = |at: SystemTime| now.duration_since(at).unwrap_or_default();
    let (status, config) = (&listed.status, &listed.config);
    let record = &status.record;
    let drain = handles.drain.borrow().clone();
    let closed = drain.state == "drained" || drain.stage.as_deref() == Some("closed");
    let range =
        handles.config.borrow().bgp.peers.iter().map(|peer| peer.address.prefix()).find(|prefix| {
            listed.dynamic && prefix.contains(listed.address) && *prefix != Prefix::host(listed.address)
        });
    Found {
        name: listed.name.clone(),
        address: listed.address,
        range,
        mesh: config.mesh,
        wanted: wanted(handles, config, local_address),
        state: status.state,
        in_state: ago(status.since),
        drained: closed.then(|| drain.to_string()),
        barred: record.barred.and_then(|until| until.duration_since(now).ok()).filter(|time| *time > Duration::ZERO),
        sent: past(record.sent.as_ref(), now),
        received: past(record.received.as_ref(), now),
        dial: past(record.dial.as_ref(), now),
        closed: past(record.closed.as_ref(), now),
        open: past(record.open.as_ref(), now),
        malformed: past(record.malformed.as_ref(), now),
        drops: drops::tcp().since(record.drops),
        suspects: suspects(listed, peers),
        reach,
        agreed: status
            .negotiated
            .as_ref()
            .map(|agreed| Agreed { families: agreed.families.clone(), hold_time: agreed.hold_time }),
        bfd: listed.bfd.as_ref().map(|running| bfd(running, now)),
        routes: Routes {
            received: counts.received,
            accepted: counts.accepted,
            rejected: counts.rejected.clone(),
            stale: counts.stale,
            advertised: counts.advertised,
        },
        established: status.established,
        flaps: status.flaps,
    }
}

fn past<T: Clone>(happened: Option<&(T, SystemTime)>, now: SystemTime) -> Option<Past<T>> {
    happened.map(|(what, at)| Past { what: what.clone(), ago: now.duration_since(*at).unwrap_or_default() })
}

fn wanted(handles: &Handles, config: &crate::config::Peer, local_address: Option<IpAddr>) -> Wanted {
    Wanted {
        local_asn: handles.identity.asn,
        router_id: handles.identity.router_id,
        local_address,
        asn: config.asn,
        port: config.port,
        passive: config.passive,
        connect_retry: config.connect_retry,
        families: config.families.clone(),
        hold_time: config.hold_time.seconds(),
        max_prefixes: config.max_prefixes.map(std::num::NonZero::get),
        password: config.password.is_some(),
        ttl_security: config.ttl_security,
        multihop: config.multihop,
        import: config.import.to_string(),
        export: config.export.to_string(),
    }
}

/// Other peers that are down, and with which the kernel could have dropped segments in the same way.
fn suspects(listed: &Listed, peers: &[(Listed, Counts)]) -> Vec<String> {
    let alike = |other: &&Listed| {
        let (own, other) = (&listed.config, &other.config);
        own.password.is_some() == other.password.is_some()
            || (own.ttl_security.is_some() && other.ttl_security.is_some())
    };
    let others = peers.iter().map(|(peer, _)| peer).filter(|peer| peer.id != listed.id);
    others.filter(|peer| peer.status.state != State::Established).filter(alike).map(|peer| peer.name.clone()).collect()
}

fn bfd(running: &Running, now: SystemTime) -> BfdFound {
    let status = running.status();
    BfdFound {
        state: status.session.state.name().to_owned(),
        up: status.session.state == crate::bfd::State::Up,
        remote_state: status.session.remote_state.name().to_owned(),
        heard: status.session.detection.is_some(),
        error: status.error,
        failure: status
            .last_failure
            .map(|failure| Past { what: failure.to_string(), ago: now.duration_since(failure.at).unwrap_or_default() }),
    }
}
