//! The command line: one file per subcommand.
//!
//! Data goes to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage or
//! configuration, 3 the daemon can't be reached. Subcommands that show something talk to the
//! daemon over its socket only and take `--json`.

mod bundle;
mod check;
mod clean;
mod client;
mod demo;
mod drain;
mod events;
mod explain;
mod generate;
mod lease;
mod nodes;
mod peers;
mod routes;
mod run;
mod show;
mod status;
mod terminal;
mod top;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Exit code for wrong usage or configuration; clap uses the same.
const USAGE: u8 = 2;
/// Exit code when the daemon can't be reached.
const UNREACHABLE: u8 = 3;

/// Makes this host's container subnet an ordinary route of the network, by BGP.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 daemon not reachable."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Status(status::Status),
    Peers(peers::Peers),
    Routes(routes::Routes),
    Explain(explain::Explain),
    Events(events::Events),
    Bundle(bundle::Bundle),
    Lease(lease::Lease),
    Nodes(nodes::Nodes),
    Top(top::Top),
    Drain(drain::Drain),
    Undrain(drain::Undrain),
    Clean(clean::Clean),
    Demo(demo::Demo),
    #[command(hide = true)]
    Generate(generate::Generate),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArg {
    /// Configuration file
    #[arg(long, short, value_name = "FILE", default_value = "/etc/wayleave/wayleave.toml")]
    config: PathBuf,
}

/// Where the daemon listens, and how its answer is shown.
#[derive(Debug, Args)]
struct DaemonArgs {
    /// Control socket of the daemon
    #[arg(long, value_name = "PATH", default_value = "/run/wayleave/wayleave.sock")]
    socket: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Why a subcommand could not do its work; says which exit code follows.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The daemon can't be reached: exit code 3
    #[error("can't reach the daemon at {}: {source}; is it running, and are you root?", socket.display())]
    Unreachable {
        /// Where it was looked for
        socket: PathBuf,
        /// What connect(2) said
        source: io::Error,
    },
    /// The daemon refused: exit code 1
    #[error("{0}")]
    Refused(String),
    /// The daemon spoke something else: exit code 1
    #[error("the daemon's answer can't be read: {0}")]
    Answer(#[from] serde_json::Error),
    /// It takes connections and says nothing: exit code 1
    #[error("the daemon did not answer within {} s: it hangs; `systemctl status wayleave`, and see its log", .0.as_secs())]
    Silent(Duration),
    /// HTTP over the socket broke: exit code 1
    #[error("the daemon closed the connection: {0}")]
    Http(#[from] hyper::Error),
    /// Reading or writing failed: exit code 1
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => UNREACHABLE,
            _ => 1,
        }
    }
}

/// Parses the command line, runs the subcommand and turns its result into an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = io::stdout().lock();
    let result = match &cli.command {
        Command::Run(command) => command.run(),
        Command::Check(command) => command.run(&mut out),
        Command::Status(command) => command.run(&mut out),
        Command::Peers(command) => command.run(&mut out),
        Command::Routes(command) => command.run(&mut out),
        Command::Explain(command) => command.run(&mut out),
        Command::Events(command) => command.run(&mut out),
        Command::Bundle(command) => command.run(&mut out),
        Command::Lease(command) => command.run(&mut out),
        Command::Nodes(command) => command.run(&mut out),
        Command::Top(command) => command.run(&mut out),
        Command::Drain(command) => command.run(&mut out),
        Command::Undrain(command) => command.run(&mut out),
        Command::Clean(command) => command.run(&mut out),
        Command::Demo(command) => command.run(&mut out).map_err(Error::from),
        Command::Generate(command) => command.run(),
    };
    match result.and_then(|code| out.flush().map(|()| code).map_err(Error::from)) {
        Ok(code) => code,
        // `wayleave routes | head`: whoever reads has seen enough.
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wayleave: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
