//! `wayleave check`: is a configuration usable.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{ConfigArg, Error, USAGE};
use crate::config::Config;
use crate::daemon::{drain, load, node};

/// Check a configuration file: exit 0 if it is usable; else print every error and exit 2
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    file: String,
    ok: bool,
    errors: Vec<String>,
    /// What is set and has no effect in this version, whether the node is drained, and what to tell firewalld
    notes: Vec<String>,
}

impl Check {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        let file = self.config.config.display().to_string();
        let (errors, notes) = match load::load(&self.config.config) {
            Ok(config) => (Vec::new(), notes(&config)?),
            Err(errors) => (errors, Vec::new()),
        };
        let ok = errors.is_empty();
        for note in &notes {
            writeln!(std::io::stderr(), "note: {note}")?;
        }
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&Report { file, ok, errors, notes })?)?;
        } else if ok {
            writeln!(out, "{file}: ok")?;
        } else {
            for error in &errors {
                writeln!(std::io::stderr(), "{error}")?;
            }
            let n = errors.len();
            writeln!(std::io::stderr(), "{file}: {n} error{}", if n == 1 { "" } else { "s" })?;
        }
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(USAGE) })
    }
}

/// What is no error of the file and still to be known.
fn notes(config: &Config) -> Result<Vec<String>, Error> {
    let mut notes: Vec<String> = drain::left_behind(&config.state_dir).into_iter().collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let commands = runtime.block_on(node::firewalld_advice(config));
    if !commands.is_empty() {
        notes.push(format!("firewalld rejects our traffic; type: {}", commands.join(" && ")));
    }
    Ok(notes)
}
