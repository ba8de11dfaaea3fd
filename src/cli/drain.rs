//! `wayleave drain` and `wayleave undrain`: leave the network on purpose, and come back.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::show::ago;
use super::{DaemonArgs, Error};
use crate::view::{DrainOrder, DrainStatus};

/// How often the daemon is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Leave the network without losing a packet: have peers move away, withdraw, close the sessions
///
/// Follows until the node is drained. Interrupting the command doesn't stop the drain; `undrain`
/// does, at any time. The node stays drained across restarts. What it learned stays in the kernel,
/// so that what still runs here can send.
#[derive(Debug, Args)]
pub(super) struct Drain {
    /// Withdraw at once instead of giving peers time to move away
    #[arg(long, conflicts_with = "wait")]
    now: bool,
    /// How long peers may take to move away, such as 30s [default: drain_time of the configuration]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Why; status and peers show it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Return at once instead of following until the node is drained
    #[arg(long)]
    no_block: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Come back after `drain`: sessions are opened again and everything is announced
#[derive(Debug, Args)]
pub(super) struct Undrain {
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Drain {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        let wait = if self.now { Some(Duration::ZERO) } else { self.wait };
        let order =
            DrainOrder { wait: wait.map(|wait| wait.as_secs_f64()), by: operator(), reason: self.reason.clone() };
        let mut status: DrainStatus = self.daemon.post("/v1/drain", &order)?;
        // `--json` prints one object, how it ended.
        let mut told = Told::default();
        loop {
            if !self.daemon.json {
                told.tell(&status, out)?;
            }
            match status.state.as_str() {
                "draining" if !self.no_block => {}
                "none" => return Err(Error::Refused("the drain was taken back meanwhile".to_owned())),
                _ => break,
            }
            std::thread::park_timeout(LOOK_EVERY);
            status = self.daemon.fetch("/v1/drain")?;
        }
        if self.daemon.json {
            writeln!(out, "{}", serde_json::to_string(&status)?)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Undrain {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        let was: DrainStatus = self.daemon.post("/v1/undrain", &())?;
        if self.daemon.json {
            let now: DrainStatus = self.daemon.fetch("/v1/drain")?;
            writeln!(out, "{}", serde_json::to_string(&now)?)?;
        } else if was.is_leaving() {
            writeln!(out, "it was {was}")?;
            writeln!(out, "sessions are open again, everything is announced; `wayleave peers` shows how it goes")?;
        } else {
            writeln!(out, "it was not drained, nothing to do")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What has been told of the progress.
#[derive(Default)]
struct Told {
    last: Option<(String, Option<String>)>,
    warned: bool,
}

impl Told {
    /// A line for each stage.
    fn tell(&mut self, status: &DrainStatus, out: &mut impl Write) -> Result<(), Error> {
        if let Some(error) = status.error.as_ref().filter(|_| !self.warned) {
            self.warned = true;
            writeln!(std::io::stderr(), "warning: it would not survive a restart of the daemon: {error}")?;
        }
        let now = (status.state.clone(), status.stage.clone());
        if self.last.as_ref() == Some(&now) {
            return Ok(());
        }
        let first = self.last.replace(now).is_none();
        let since = status.since.as_deref().map(ago).unwrap_or_default();
        match (status.state.as_str(), status.stage.as_deref()) {
            ("drained", _) if first => writeln!(out, "drained already, for {since}{}", status.origin())?,
            ("drained", _) => writeln!(out, "drained: all sessions closed; `wayleave undrain` brings the node back")?,
            (_, Some("signalled")) => writeln!(
                out,
                "draining: peers are asked to use other paths (graceful shutdown), until {}",
                status.until.as_deref().unwrap_or("they have been told")
            )?,
            (_, Some("withdrawn")) => writeln!(out, "draining: all routes withdrawn")?,
            (_, Some("closed")) => writeln!(out, "draining: sessions are being closed")?,
            _ => {}
        }
        // Whoever follows wants to see it now.
        Ok(out.flush()?)
    }
}

/// Who types: behind sudo the person, not root.
fn operator() -> Option<String> {
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(named)
}
