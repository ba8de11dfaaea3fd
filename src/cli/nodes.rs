//! `wayleave nodes`: who is in the network, as the store says.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::show::{list, or_dash, print, table};
use super::{DaemonArgs, Error};
use crate::view::Node;

/// Show the nodes in the store: where they are, what they hold, whether they are there
#[derive(Debug, Args)]
pub(super) struct Nodes {
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Nodes {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        self.daemon.ask_store("/v1/nodes", out, show)
    }
}

fn show(nodes: &Vec<Node>, out: &mut impl Write) -> io::Result<()> {
    let mut rows = table(["NAME", "ADDRESS", "ASN", "STATE", "SESSION", "SUBNETS", "ROLE", "VERSION"]);
    for node in nodes {
        let roles = [(node.this, "this node"), (node.reflector, "reflector"), (node.drained, "drained")];
        let roles = roles.iter().filter(|(is, _)| *is).map(|(_, role)| *role);
        let session = match &node.reason {
            Some(reason) => format!("{} ({reason})", node.session),
            None => node.session.clone(),
        };
        rows.add_row([
            node.name.clone(),
            node.address.to_string(),
            node.asn.to_string(),
            node.state.clone(),
            session,
            list(&node.subnets, ", "),
            list(roles, ", "),
            or_dash(Some(&node.version).filter(|version| !version.is_empty())),
        ]);
    }
    print(&rows, out)
}
