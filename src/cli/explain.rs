//! `wayleave explain IP`: why traffic to an address goes where it goes.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;

use super::show::or_dash;
use super::{DaemonArgs, Error};
use crate::view::Explanation;

/// Explain where traffic to an address goes, and why
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The address
    address: IpAddr,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Explain {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        self.daemon.ask(&format!("/v1/explain?address={}", self.address), out, show)
    }
}

fn show(explanation: &Explanation, out: &mut impl Write) -> io::Result<()> {
    match explanation.prefix {
        Some(prefix) => writeln!(out, "{} is covered by {prefix}", explanation.address)?,
        None => writeln!(out, "{} is covered by no route that BGP knows", explanation.address)?,
    }
    if !explanation.candidates.is_empty() {
        writeln!(out, "\ncandidates:")?;
    }
    for route in &explanation.candidates {
        let path = if route.as_path.is_empty() { "empty" } else { &route.as_path };
        writeln!(
            out,
            "  from {:<16} next hop {:<16} AS path {path}: {}",
            route.from,
            or_dash(route.next_hop),
            route.verdict
        )?;
    }
    if !explanation.next_hops.is_empty() {
        writeln!(out, "\nnext hops:")?;
    }
    for hop in &explanation.next_hops {
        writeln!(out, "  {:<16} {}: {}", hop.address, hop.how, hop.reason)?;
    }
    writeln!(out, "\nkernel:")?;
    writeln!(out, "  wanted   {}", or_dash(explanation.wanted.as_ref()))?;
    writeln!(out, "  actual   {}", or_dash(explanation.actual.as_ref()))?;
    writeln!(out, "  answers  {}", or_dash(explanation.kernel.as_ref()))?;
    let verdict = match (&explanation.wanted, explanation.agree) {
        (None, true) => "BGP wants nothing of the kernel here.",
        (Some(_), true) => "The kernel does what is wanted.",
        (_, false) => "The kernel does NOT do what is wanted.",
    };
    writeln!(out, "\n{verdict}")?;
    for sentence in &explanation.story {
        writeln!(out, "{sentence}")?;
    }
    Ok(())
}
