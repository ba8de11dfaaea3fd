//! `wayleave lease`: which subnets this node holds, who holds the others, and what an operator may do
//! about it.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use serde::de::DeserializeOwned;

use super::show::{ago, list, or_dash, print, table};
use super::{DaemonArgs, Error};
use crate::net::Prefix;
use crate::view::{Claim, Lease as View, LeaseAnswer, LeaseEvent, LeaseOrder, StoreStatus};

/// Show this node's subnets and the store, or change who holds what
#[derive(Debug, Args)]
pub(super) struct Lease {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Every subnet in the store, and who holds it
    All(Plain),
    /// Subnets that are free, the first ones of each pool
    Free {
        /// How many of each pool
        #[arg(long, default_value_t = 10)]
        limit: usize,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// What happened to subnets, the newest last
    History(Plain),
    /// One more subnet for this node, when one is full
    Add {
        /// Which; without it, any that is free
        subnet: Option<Prefix>,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Give up a subnet of this node; containers in it lose the network
    #[command(group(ArgGroup::new("which").required(true).args(["subnet", "all"])))]
    Release {
        /// Which one
        subnet: Option<Prefix>,
        /// All of them: the node leaves the store
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Free the subnets of a node that will not come back
    Reclaim {
        /// A subnet, or the name of a node
        what: String,
        /// Also if the node is there, or somebody announces the subnet
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Keep a subnet for a node that has not come yet
    Reserve {
        /// The subnet
        subnet: Prefix,
        /// The node's name
        node: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Take over the subnet that flannel leased to this host, with the containers in it
    ImportFlannel(Plain),
}

#[derive(Debug, Args)]
struct Plain {
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Lease {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        let (daemon, order) = match &self.what {
            None => return self.daemon.ask("/v1/lease", out, show),
            Some(What::All(plain)) => return plain.daemon.ask_store("/v1/lease/all", out, show_all),
            Some(What::Free { limit, daemon }) => {
                return daemon.ask(&format!("/v1/lease/free?limit={limit}"), out, show_free);
            }
            Some(What::History(plain)) => {
                return plain
                    .daemon
                    .ask("/v1/lease/history", out, |events: &Vec<LeaseEvent>, out| show_history(events, out));
            }
            Some(What::Add { subnet, daemon }) => (daemon, LeaseOrder::Add { subnet: *subnet }),
            Some(What::Release { subnet, daemon, .. }) => (daemon, LeaseOrder::Release { subnet: *subnet }),
            Some(What::Reclaim { what, force, daemon }) => {
                (daemon, LeaseOrder::Reclaim { what: what.clone(), force: *force })
            }
            Some(What::Reserve { subnet, node, daemon }) => {
                (daemon, LeaseOrder::Reserve { subnet: *subnet, node: node.clone() })
            }
            Some(What::ImportFlannel(plain)) => (&plain.daemon, LeaseOrder::ImportFlannel),
        };
        let answer: LeaseAnswer = daemon.post("/v1/lease", &order)?;
        if daemon.json {
            writeln!(out, "{}", serde_json::to_string(&answer)?)?;
        } else {
            writeln!(out, "{}", answer.done)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(lease: &View, out: &mut impl Write) -> io::Result<()> {
    let mut rows = table(["", ""]);
    rows.add_row(["state", &format!("{}: {}", lease.state, lease.reason)]);
    for (i, held) in lease.subnets.iter().enumerate() {
        let since = held.since.as_deref().map(|since| format!(" for {}", ago(since))).unwrap_or_default();
        let confirmed = if held.confirmed { "" } else { ", not confirmed by the store yet" };
        rows.add_row([if i == 0 { "subnets" } else { "" }, &format!("{}{since}{confirmed}", held.subnet)]);
    }
    for (i, pool) in lease.pools.iter().enumerate() {
        let text = format!("{}: {} of {} subnets /{} taken", pool.pool, pool.taken, pool.size, pool.subnet_length);
        rows.add_row([if i == 0 { "pools" } else { "" }, &text]);
    }
    rows.add_row(["store", &store(&lease.store)]);
    print(&rows, out)?;
    lease.problems.iter().try_for_each(|problem| writeln!(out, "problem: {problem}"))
}

/// How the store is, in a line.
pub(super) fn store(store: &StoreStatus) -> String {
    match (store.reachable, &store.since) {
        (Some(true), Some(since)) => format!(
            "{} at {}, reachable for {}, revision {}",
            store.kind,
            or_dash(store.endpoint.as_ref()),
            ago(since),
            store.revision
        ),
        (Some(false), Some(since)) => {
            format!("{}, NOT reachable for {}: {}", store.kind, ago(since), or_dash(store.error.as_ref()))
        }
        _ => store.kind.clone(),
    }
}

impl DaemonArgs {
    /// Asks for a list of what stands in the store. An empty one says why it is.
    pub(super) fn ask_store<T: DeserializeOwned, W: Write>(
        &self,
        path: &str,
        out: &mut W,
        show: impl FnOnce(&Vec<T>, &mut W) -> io::Result<()>,
    ) -> Result<ExitCode, Error> {
        if self.json {
            return self.ask(path, out, show);
        }
        let listed: Vec<T> = self.fetch(path)?;
        if listed.is_empty() {
            let lease: View = self.fetch("/v1/lease")?;
            writeln!(out, "{}", nothing(&lease.store))?;
        } else {
            show(&listed, out)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Why nothing of the store can be shown.
fn nothing(status: &StoreStatus) -> String {
    match (status.reachable, &status.confirmed) {
        (None, _) => "there is no store: subnets and peers stand in the file; see `wayleave peers`".to_owned(),
        (Some(_), None) => format!(
            "the store has not been read yet: {}\nuntil it is, what this node knew of it stays in force; see `wayleave lease`, `wayleave peers`",
            store(status)
        ),
        (Some(_), Some(_)) => format!("the store holds none: {}", store(status)),
    }
}

fn show_all(claims: &Vec<Claim>, out: &mut impl Write) -> io::Result<()> {
    let mut rows = table(["SUBNET", "NODE", "ADDRESS", "STATE", "SINCE"]);
    for claim in claims {
        rows.add_row([
            claim.subnet.to_string(),
            claim.node.clone(),
            or_dash(claim.address),
            claim.state.clone(),
            or_dash(claim.since.as_deref().map(ago)),
        ]);
    }
    print(&rows, out)
}

fn show_free(free: &Vec<Prefix>, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", list(free, "\n"))
}

fn show_history(events: &[LeaseEvent], out: &mut impl Write) -> io::Result<()> {
    events.iter().try_for_each(|event| writeln!(out, "{}  {}", event.at, event.what))
}
