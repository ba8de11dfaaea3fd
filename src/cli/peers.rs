//! `wayleave peers`: BGP neighbours, and one of them in detail.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::show::{ago, list, or_dash, print, table};
use super::{DaemonArgs, Error, client};
use crate::view::{Bfd, Peer};

/// Show the BGP neighbours
#[derive(Debug, Args)]
pub(super) struct Peers {
    /// Only this peer (name or address), in detail
    peer: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Peers {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        match &self.peer {
            None => self.daemon.ask("/v1/peers", out, overview),
            Some(peer) => {
                let path = format!("/v1/peers?peer={}", client::query_value(peer));
                self.daemon
                    .ask(&path, out, |peers: &Vec<Peer>, out| peers.iter().try_for_each(|peer| detail(peer, out)))
            }
        }
    }
}

fn overview(peers: &Vec<Peer>, out: &mut impl Write) -> io::Result<()> {
    let mut rows =
        table(["NAME", "ADDRESS", "ASN", "STATE", "SINCE", "BFD", "RECEIVED", "ACCEPTED", "ADVERTISED", "LAST ERROR"]);
    for peer in peers {
        rows.add_row([
            peer.name.clone(),
            peer.address.to_string(),
            peer.asn.to_string(),
            peer.state.clone(),
            ago(&peer.since),
            or_dash(peer.bfd.as_ref().map(|bfd| &bfd.state)),
            peer.received.to_string(),
            peer.accepted.to_string(),
            peer.advertised.to_string(),
            or_dash(peer.last_error.as_ref()),
        ]);
    }
    print(&rows, out)
}

fn detail(peer: &Peer, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{} ({}, AS {}): {} for {}", peer.name, peer.address, peer.asn, peer.state, ago(&peer.since))?;
    if let (Some(error), Some(at)) = (&peer.last_error, &peer.last_error_at) {
        writeln!(out, "  last error      {error} ({} ago)", ago(at))?;
    }
    writeln!(out, "  sessions        {} established, {} lost since start", peer.established, peer.flaps)?;
    let limit = peer.max_prefixes.map_or_else(|| "no limit".to_owned(), |limit| format!("limit {limit}"));
    writeln!(
        out,
        "  received        {} prefixes ({limit}), {} accepted by import {}",
        peer.received, peer.accepted, peer.import
    )?;
    if !peer.rejected.is_empty() {
        writeln!(out, "  rejected        {}", list(peer.rejected.iter().map(|(why, n)| format!("{n} {why}")), ", "))?;
    }
    if peer.stale > 0 {
        writeln!(out, "  stale           {} kept while the peer restarts", peer.stale)?;
    }
    writeln!(out, "  advertised      {} prefixes by export {}", peer.advertised, peer.export)?;
    for (kind, count) in &peer.messages {
        writeln!(out, "  {:<16}{} received, {} sent", kind, count.received, count.sent)?;
    }
    if peer.malformed > 0 {
        writeln!(out, "  malformed       {} updates had malformed attributes (RFC 7606)", peer.malformed)?;
    }
    if let Some(agreed) = &peer.negotiated {
        writeln!(out, "  router id       {}, our end is {}", agreed.router_id, or_dash(agreed.local_address))?;
        writeln!(out, "  families        {}", list(&agreed.families, ", "))?;
        writeln!(out, "  timers          hold {} s, keepalive {} s", agreed.hold_time, agreed.keepalive)?;
        writeln!(out, "  capabilities    {}", list(&agreed.capabilities, ", "))?;
    }
    if let Some(bfd) = &peer.bfd {
        show_bfd(bfd, out)?;
    }
    Ok(())
}

fn show_bfd(bfd: &Bfd, out: &mut impl Write) -> io::Result<()> {
    let hops = if bfd.multihop { "multihop" } else { "single hop" };
    let because = |diagnostic: &str| match diagnostic {
        "no diagnostic" => String::new(),
        words => format!(" ({words})"),
    };
    let (why, remote_why) = (because(&bfd.diagnostic), because(&bfd.remote_diagnostic));
    writeln!(out, "  bfd             {}{why} for {}, {hops}", bfd.state, ago(&bfd.since))?;
    writeln!(out, "  bfd peer        {}{remote_why}", bfd.remote_state)?;
    let milliseconds = |seconds: Option<f64>| or_dash(seconds.map(|seconds| format!("{} ms", seconds * 1000.0)));
    let (interval, detection) = (milliseconds(bfd.interval), milliseconds(bfd.detection_time));
    writeln!(out, "  bfd timers      a packet every {interval}, dead after {detection} of silence")?;
    writeln!(out, "  bfd packets     {} received, {} sent", bfd.received, bfd.sent)?;
    if let (Some(failure), Some(at)) = (&bfd.last_failure, &bfd.last_failure_at) {
        writeln!(out, "  bfd failures    {}, the last {} ago: {failure}", bfd.failures, ago(at))?;
    }
    if let Some(error) = &bfd.error {
        writeln!(out, "  bfd error       {error}")?;
    }
    Ok(())
}
