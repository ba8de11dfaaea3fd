//! `wayleave clean`: removes from the kernel all that is ours.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::{ConfigArg, Error, USAGE};
use crate::daemon::{clean, load};

/// Remove everything of ours from the kernel: routes, tunnel, firewall table, rule in DOCKER-USER, changed sysctls
#[derive(Debug, Args)]
pub(super) struct Clean {
    #[command(flatten)]
    config: ConfigArg,
    /// Clean although the daemon is running (it will put things back)
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Clean {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        let remains = match load::remains(&self.config.config) {
            Ok(remains) => remains,
            Err(errors) => {
                eprintln!("{}", errors.join("\n"));
                return Ok(ExitCode::from(USAGE));
            }
        };
        if !self.force && std::os::unix::net::UnixStream::connect(&remains.socket).is_ok() {
            return Err(Error::Refused(
                "the daemon is running and would put everything back; stop it first, or use --force".to_owned(),
            ));
        }
        let done = clean::clean(&remains)?;
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&done)?)?;
        } else {
            writeln!(out, "{done}")?;
        }
        Ok(if done.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
