//! `wayleave routes`: paths, the used ones marked, and how the kernel sends them.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::show::{or_dash, print, table};
use super::{DaemonArgs, Error, client};
use crate::net::Prefix;
use crate::view::Route;

/// Show routes: `>` best, `=` as good as the best (ECMP), `!` best but not in the kernel
#[derive(Debug, Args)]
pub(super) struct Routes {
    /// Only this prefix
    prefix: Option<Prefix>,
    /// Only what this peer sent, after the import policy
    #[arg(long, value_name = "PEER", conflicts_with = "to")]
    from: Option<String>,
    /// Only what is sent to this peer
    #[arg(long, value_name = "PEER")]
    to: Option<String>,
    /// With --from: all that the peer sent, as it sent it
    #[arg(long, requires = "from")]
    before_policy: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Routes {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        let mut path = "/v1/routes?".to_owned();
        let values =
            [("prefix", self.prefix.map(|p| p.to_string())), ("from", self.from.clone()), ("to", self.to.clone())];
        for (key, value) in values {
            if let Some(value) = value {
                let _ = write!(path, "{key}={}&", client::query_value(&value));
            }
        }
        if self.before_policy {
            path += "before_policy=true";
        }
        self.daemon.ask(&path, out, show)
    }
}

fn show(routes: &Vec<Route>, out: &mut impl Write) -> io::Result<()> {
    let mut rows = table(["", "PREFIX", "FROM", "NEXT HOP", "AS PATH", "KERNEL", "WHY"]);
    for route in routes {
        let mark = match (route.best, route.multipath) {
            (true, _) if route.target.is_some() && !route.installed => "!",
            (true, _) => ">",
            (false, true) => "=",
            (false, false) => "",
        };
        rows.add_row([
            mark.to_owned(),
            route.prefix.to_string(),
            route.from.clone(),
            or_dash(route.next_hop),
            if route.as_path.is_empty() { "-".to_owned() } else { route.as_path.clone() },
            or_dash(route.target.as_ref()),
            route.verdict.clone(),
        ]);
    }
    print(&rows, out)
}
