//! `GET /v1/explain`: gathers what is known of an address or of a peer. What follows from it is said
//! in [`crate::explain`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use axum::Json;
use axum::extract::{Query as Params, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::{Silent, peer, refuse};
use crate::config::Config;
use crate::daemon::Handles;
use crate::daemon::peers::Listed;
use crate::daemon::routing::{Counts, Explained, Query};
use crate::explain::address::{Container, Firewall, Found, Holder, Return, Sort, Traffic, sort, story};
use crate::explain::kernel::{Answer, Devices, Fate, Neighbour};
use crate::explain::{Fact, Story};
use crate::firewall::source_nat;
use crate::io::netlink::path::{self, Question};
use crate::io::sysctl;
use crate::net::{Family, Prefix};
use crate::view;

/// Ways of which the neighbour is asked for.
const NEIGHBOURS: usize = 8;
/// Devices of which it is asked whether they let answers in.
const RETURNS: usize = 16;

#[derive(Deserialize)]
pub(super) struct ExplainParams {
    address: Option<IpAddr>,
    peer: Option<String>,
}

pub(super) async fn explain(
    State(handles): State<Handles>,
    Params(params): Params<ExplainParams>,
) -> Result<Response, Silent> {
    Ok(match params {
        ExplainParams { address: Some(address), .. } => Json(of_address(&handles, address).await?).into_response(),
        ExplainParams { peer: Some(name), .. } => match peer::of_name(&handles, &name).await? {
            Ok(explanation) => Json(explanation).into_response(),
            Err(why) => refuse(StatusCode::NOT_FOUND, why),
        },
        ExplainParams { .. } => refuse(StatusCode::BAD_REQUEST, "address or peer is to be given"),
    })
}

async fn of_address(handles: &Handles, address: IpAddr) -> Result<view::Explanation, Silent> {
    let local = ask(Question::sent_to(address)).await;
    let Explained { mut view, routing, object, container } =
        *handles.ask(|answer| Query::Explain(address, local, answer)).await?;
    let config = handles.config.borrow().clone();
    let peers = handles.peers().await?;
    let (subnets, pools) = (config.network.subnets.clone().unwrap_or_default(), &config.network.pools);
    let devices = path::devices().await.unwrap_or_default();
    let sort = sort(address, &devices, &subnets, pools, view.prefix);
    let container = match container {
        Some((source, device)) if !matches!(sort, Sort::Own(_)) => {
            let answer = ask(Question { to: address, from: Some(source), arriving: Some(device) }).await;
            Some(Container { source, device, answer })
        }
        _ => None,
    };
    let end = routing.ways.iter().find(|way| way.tunnel).and_then(|way| way.gateway);
    let underlay = match end {
        Some(end) => Some((end, ask(Question::sent_to(end)).await)),
        None => None,
    };
    // Whose source is changed, if no container is there: any of the subnet.
    let sender = container
        .map(|container| container.source)
        .or_else(|| subnets.iter().find(|subnet| subnet.family() == Family::of(address)).map(Prefix::first_host));
    let found = Found {
        address,
        sort,
        inside: subnets.iter().chain(pools).any(|prefix| prefix.contains(address)),
        protocol: config.kernel.protocol,
        table: config.kernel.table,
        holder: holder(handles, address),
        returns: returns(address, sort, &local, &routing.ways, &devices, &peers).await,
        neighbours: neighbours(address, &local, &routing.ways, underlay).await,
        objects: match object {
            Some(id) => path::objects(id).await.unwrap_or_default(),
            None => Vec::new(),
        },
        source_nat: source_nat(sender.unwrap_or(address), address, &subnets, pools, config.network.masquerade),
        firewall: firewall(handles),
        traffic: traffic(handles, address).await,
        rules: path::rules(Family::of(address)).await.unwrap_or_default(),
        routing,
        local,
        container,
        underlay,
        devices,
    };
    let told = story(&found);
    view.lookups = lookups(&found);
    view.holder =
        found.holder.map(|holder| view::Holder { node: holder.node, subnet: holder.subnet, state: holder.state });
    let Story { cause, verdict, ok, facts, advice } = told;
    (view.cause, view.verdict, view.ok) = (cause.to_owned(), verdict, ok);
    (view.facts, view.advice) = (facts.into_iter().map(show).collect(), advice);
    view.peers = peer::of_address(handles, address, &peers).await;
    Ok(view)
}

/// What the kernel says; that it can't be asked is shown as an error of its own.
pub(super) async fn ask(question: Question) -> Answer {
    match path::ask(question).await {
        Ok(answer) => answer,
        Err(error) => Answer::of(Fate::Error(error.raw_os_error().unwrap_or_default())),
    }
}

pub(super) fn show(fact: Fact) -> view::Fact {
    view::Fact { topic: fact.topic.to_owned(), text: fact.text, problem: fact.problem }
}

/// Who holds the subnet of an address, by the store.
fn holder(handles: &Handles, address: IpAddr) -> Option<Holder> {
    let shown = handles.cluster.shown();
    let claim =
        shown.claims.iter().filter(|claim| claim.subnet.contains(address)).max_by_key(|claim| claim.subnet.len())?;
    let this = claim.node == handles.identity.name;
    Some(Holder { node: claim.node.clone(), subnet: claim.subnet, state: claim.state.clone(), this })
}

fn firewall(handles: &Handles) -> Firewall {
    let view::Firewall { error, tunnel_guard: guard, docker, firewalld, .. } = handles.firewall();
    Firewall {
        table: error,
        docker: docker.tools,
        docker_error: docker.error,
        firewalld,
        guard: guard.in_force.then_some((guard.known_ends, guard.refused_packets)),
    }
}

/// What was counted to and from the node whose prefix an address lies in.
async fn traffic(handles: &Handles, address: IpAddr) -> Option<Traffic> {
    let counted = handles.traffic.read().await?;
    let longest =
        |node: &view::NodeTraffic| node.subnets.iter().filter(|subnet| subnet.contains(address)).map(Prefix::len).max();
    let (_, node) =
        counted.nodes().into_iter().filter_map(|node| Some((longest(&node)?, node))).max_by_key(|(len, _)| *len)?;
    let packets = |paths: view::Paths| [paths.direct.packets, paths.tunnel.packets];
    let (sent, received) = (packets(node.passed.transmit), packets(node.passed.receive));
    Some(Traffic { node: node.node, sent, received })
}

/// Whether answers are let in by the devices they may come by: those that traffic leaves by, and those
/// that peers are on. IPv6 has no such filter.
async fn returns(
    address: IpAddr,
    sort: Sort,
    local: &Answer,
    ways: &[crate::explain::address::Way],
    devices: &Devices,
    peers: &[(Listed, Counts)],
) -> Vec<Return> {
    let far = matches!(sort, Sort::Known(_) | Sort::Pool(_) | Sort::Outside);
    let (Some(own), true, true) = (local.source, far, address.is_ipv4()) else { return Vec::new() };
    let mut by: BTreeSet<u32> = ways.iter().map(|way| way.device).chain(local.device).collect();
    by.extend(peers.iter().filter_map(|(peer, _)| devices.on_link(peer.address)).map(|(device, _)| device));
    let mut returns = Vec::new();
    for device in by.into_iter().take(RETURNS) {
        let up = devices.0.get(&device).is_some_and(|device| device.up && device.carrier);
        if !up {
            continue;
        }
        let answer = ask(Question { to: own, from: Some(address), arriving: Some(device) }).await;
        let filter = sysctl::rp_filter(&devices.name(device));
        returns.push(Return { device, filter, accepted: answer.fate == Fate::Local });
    }
    returns
}

/// The neighbours that traffic goes to: gateways, or the destination itself.
async fn neighbours(
    address: IpAddr,
    local: &Answer,
    ways: &[crate::explain::address::Way],
    underlay: Option<(IpAddr, Answer)>,
) -> Vec<Neighbour> {
    let of = |to: IpAddr, answer: &Answer| {
        let sent = answer.fate == Fate::Sent;
        answer.device.filter(|_| sent).map(|device| (answer.gateway.unwrap_or(to), device))
    };
    let mut next: BTreeSet<(IpAddr, u32)> = BTreeSet::new();
    let tunnelled = |device| ways.iter().any(|way| way.tunnel && way.device == device);
    next.extend(of(address, local).filter(|(_, device)| !tunnelled(*device)));
    next.extend(ways.iter().filter(|way| !way.tunnel).map(|way| (way.gateway.unwrap_or(address), way.device)));
    next.extend(underlay.as_ref().and_then(|(end, answer)| of(*end, answer)));
    let mut found = Vec::new();
    for (address, device) in next.into_iter().take(NEIGHBOURS) {
        found.extend(path::neighbour(address, device).await.ok());
    }
    found
}

fn lookups(found: &Found) -> Vec<view::KernelAnswer> {
    let show = |from: Option<IpAddr>, arriving: Option<u32>, answer: &Answer| view::KernelAnswer {
        from,
        arriving: arriving.map(|device| found.devices.name(device)),
        goes: answer.way(&found.devices),
        gateway: answer.gateway,
        device: answer.device.map(|device| found.devices.name(device)),
        source: answer.source,
        route: answer.route.map(|route| route.prefix),
        table: answer.route.map(|route| route.table),
        protocol: answer.route.map(|route| route.protocol),
        metric: answer.route.map(|route| route.metric),
    };
    let container = found.container.as_ref();
    let container = container.map(|container| show(Some(container.source), Some(container.device), &container.answer));
    std::iter::once(show(None, None, &found.local)).chain(container).collect()
}

/// Whether the configuration has a peer of this name that is no single address.
pub(super) fn range(config: &Config, name: &str) -> Option<Prefix> {
    let peer = config.bgp.peers.iter().find(|peer| peer.name == name)?;
    match peer.address {
        crate::config::PeerAddress::Range(prefix) => Some(prefix),
        crate::config::PeerAddress::One(_) => None,
    }
}
