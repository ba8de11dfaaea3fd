//! `wayleave run`: the daemon, in the foreground.

use std::process::ExitCode;

use clap::Args;

use super::{ConfigArg, Error, USAGE};
use crate::daemon;

/// Run the daemon in the foreground; SIGHUP reloads, SIGTERM stops and leaves forwarding in place
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigArg,
}

impl Run {
    pub(super) fn run(&self) -> Result<ExitCode, Error> {
        match daemon::run(&self.config.config) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(daemon::Fatal::Config(text)) => {
                eprintln!("{text}");
                Ok(ExitCode::from(USAGE))
            }
            Err(error) => Err(Error::Refused(error.to_string())),
        }
    }
}
