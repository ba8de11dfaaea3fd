//! `wayleave status`: is anything wrong, and where.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::show::{ago, list, or_dash, print, table};
use super::{DaemonArgs, Error};
use crate::view;

/// Show the node: readiness, sessions, kernel routes, tunnel, problems
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Status {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        self.daemon.ask("/v1/status", out, show)
    }
}

fn show(status: &view::Status, out: &mut impl Write) -> io::Result<()> {
    let mut rows = table(["", ""]);
    let ready = if status.ready { "ready" } else { "not ready" };
    rows.add_row(["node", &format!("{} (wayleave {}, up {})", status.node, status.version, ago(&status.since))]);
    rows.add_row(["state", &format!("{ready}: {}", status.ready_reason)]);
    if status.drain.is_leaving() {
        let until = status.drain.until.as_ref().map(|until| format!(", next step at {until}")).unwrap_or_default();
        rows.add_row(["drain", &format!("{}{until}", status.drain)]);
    }
    rows.add_row(["address", &format!("{}, AS {}, router id {}", status.address, status.asn, status.router_id)]);
    rows.add_row(["subnets", &format!("{} of pools {}", list(&status.subnets, ", "), list(&status.pools, ", "))]);
    if status.store.kind == "etcd" {
        rows.add_row(["store", &super::lease::store(&status.store)]);
    }
    rows.add_row(["sessions", &list(status.sessions.iter().map(|(state, n)| format!("{n} {state}")), ", ")]);
    if let Some(mesh) = &status.mesh {
        rows.add_row(["mesh", &format!("{} of {} sessions with nodes of the store", mesh.established, mesh.wanted)]);
    }
    if !status.bfd_sessions.is_empty() {
        let sessions = list(status.bfd_sessions.iter().map(|(state, n)| format!("{n} {state}")), ", ");
        rows.add_row(["bfd", &format!("{sessions}; priority {}", or_dash(status.bfd_priority.as_ref()))]);
    }
    let rib = &status.rib;
    rows.add_row([
        "rib",
        &format!(
            "{} prefixes, {} paths, {} attribute sets{}",
            rib.prefixes,
            rib.paths,
            rib.attribute_sets,
            changed(rib.last_change.as_deref())
        ),
    ]);
    rows.add_row(["kernel", &format!("{}{}", fib(&status.fib), changed(status.fib.last_change.as_deref()))]);
    if let Some(check) = &status.fib.check {
        rows.add_row(["", &checked(check)]);
    }
    rows.add_row(["tunnel", &tunnel(&status.tunnel)]);
    let masquerade = match (&status.masquerade.enabled, &status.masquerade.error) {
        (false, _) => "off".to_owned(),
        (true, None) => "on".to_owned(),
        (true, Some(error)) => format!("NOT working: {error}"),
    };
    rows.add_row(["masquerade", &masquerade]);
    rows.add_row(["firewall", &firewall(&status.firewall)]);
    rows.add_row(["traffic", &traffic(&status.traffic)]);
    let changed = status.sysctls.iter().filter(|s| s.was != s.wanted && s.error.is_none());
    for (i, sysctl) in changed.enumerate() {
        let label = if i == 0 { "sysctls changed" } else { "" };
        rows.add_row([label, &format!("{} = {} (was {})", sysctl.key, sysctl.wanted, sysctl.was)]);
    }
    for (i, repairs) in status.repairs.iter().enumerate() {
        let label = if i == 0 { "repairs" } else { "" };
        rows.add_row([label, &repaired(repairs)]);
    }
    rows.add_row(["config", &format!("{}, read {} ago", status.config.file, ago(&status.config.loaded))]);
    print(&rows, out)?;
    if !status.problems.is_empty() {
        writeln!(out, "\nproblems:")?;
        for problem in &status.problems {
            writeln!(out, "  - {problem}")?;
        }
    }
    Ok(())
}

fn firewall(firewall: &view::Firewall) -> String {
    let mut parts = Vec::new();
    let guard = &firewall.tunnel_guard;
    match (&firewall.error, &guard.waits) {
        (Some(error), _) => parts.push(format!("NOT in force: {error}")),
        (None, Some(waits)) => parts.push(format!("tunnel guard waits: {waits}")),
        (None, None) if guard.in_force => {
            parts.push(format!(
                "tunnel guard: {} known ends, {} packets refused",
                guard.known_ends, guard.refused_packets
            ));
        }
        (None, None) => {}
    }
    match (&firewall.docker.error, firewall.docker.tools.as_slice()) {
        (Some(error), _) => parts.push(format!("DOCKER-USER NOT set: {error}")),
        (None, []) => {}
        (None, tools) => parts.push(format!("rule in DOCKER-USER ({})", tools.join(", "))),
    }
    if !firewall.firewalld.is_empty() {
        parts.push("firewalld REJECTS our traffic".to_owned());
    }
    match (firewall.in_force, parts.is_empty()) {
        (None, true) => "off".to_owned(),
        (Some(_), true) => "on".to_owned(),
        (_, false) => parts.join("; "),
    }
}

fn repaired(repairs: &view::Repairs) -> String {
    let last = match (&repairs.last, &repairs.last_at) {
        (Some(last), Some(at)) => format!(", last {} ago: {last}", ago(at)),
        _ => String::new(),
    };
    format!("{} {}{last}", repairs.count, repairs.kind)
}

fn fib(fib: &view::FibStatus) -> String {
    if !fib.enabled {
        return "off (kernel.install = false)".to_owned();
    }
    let mut text = format!(
        "{} of {} routes installed (table {}, protocol {}, metric {})",
        fib.installed, fib.wanted, fib.table, fib.protocol, fib.metric
    );
    let more = [
        (fib.failed as u64, "failed"),
        (fib.unresolved as u64, "unresolved"),
        (fib.stale as u64, "stale"),
        (fib.repaired, "repaired"),
        (fib.conflicts.len() as u64, "conflicts"),
    ];
    for (n, what) in more.into_iter().filter(|(n, _)| *n > 0) {
        // Writing to a string can't fail.
        let _ = write!(text, ", {n} {what}");
    }
    text
}

fn changed(last: Option<&str>) -> String {
    last.map(|at| format!("; last change {} ago", ago(at))).unwrap_or_default()
}

fn checked(check: &view::FibCheck) -> String {
    let found = if check.routes + check.nexthops == 0 {
        "all as it should be".to_owned()
    } else {
        format!("{} routes and {} nexthop objects put right", check.routes, check.nexthops)
    };
    let times = check.agreed + check.differed;
    format!(
        "compared with the kernel {} ago: {found}; {} of {times} comparisons differed",
        ago(&check.at),
        check.differed
    )
}

fn traffic(traffic: &view::TrafficStatus) -> String {
    let error = traffic.error.as_deref();
    if !traffic.counted {
        return format!("not counted: {}", error.unwrap_or("not yet"));
    }
    let nodes = traffic.nodes_own + traffic.nodes_other;
    let mut text = format!("counted by {} prefixes of {nodes} nodes, see `wayleave top`", traffic.prefixes);
    if traffic.nodes_other > 0 {
        // Writing to a string can't fail.
        let _ = write!(text, "; {} of them share series (metrics.forwarding_top)", traffic.nodes_other);
    }
    if traffic.prefixes_beyond > 0 {
        let _ = write!(text, "; {} more prefixes have no room and count as other", traffic.prefixes_beyond);
    }
    if let Some(error) = error {
        let _ = write!(text, "; {error}");
    }
    text
}

fn tunnel(tunnel: &view::TunnelStatus) -> String {
    match (&tunnel.device, &tunnel.error) {
        (Some(device), _) => format!("{} by {device}, mtu {}", tunnel.mode, or_dash(tunnel.mtu)),
        // What to do about it follows behind the first clause.
        (None, Some(error)) => format!("{}, none: {}", tunnel.mode, error.split(';').next().unwrap_or(error)),
        (None, None) => tunnel.mode.clone(),
    }
}
