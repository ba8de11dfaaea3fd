//! `wayleave check`: is a configuration usable.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use nix::unistd::{User, geteuid, setfsgid, setfsuid};
use serde::Serialize;

use super::{ConfigArg, Error, USAGE};
use crate::config::{Config, Store};
use crate::daemon::{drain, load, node};

/// Whom the unit of the Debian package runs the daemon as.
const SERVICE: &str = "wayleave";

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
    /// What is set and has no effect in this version, whether the node is drained, what to tell firewalld, and what root may
    /// read and the daemon may not
    notes: Vec<String>,
}

impl Check {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        let file = self.config.config.display().to_string();
        let (errors, notes) = match load::load(&self.config.config) {
            Ok(config) => {
                let mut notes = notes(&config)?;
                notes.extend(unseen(&self.config.config));
                (Vec::new(), notes)
            }
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

/// What root can read and the daemon, which runs as another user, can't.
fn unseen(path: &Path) -> Vec<String> {
    if !geteuid().is_root() {
        return Vec::new();
    }
    let Ok(Some(user)) = User::from_name(SERVICE) else { return Vec::new() };
    let path = path.to_owned();
    // The file system's idea of who asks belongs to the thread, and goes with it. With it go root's ways around permissions
    // (capabilities(7)); what stays is the group root, which the unit gives the daemon too.
    let looking = std::thread::spawn(move || {
        setfsgid(user.gid);
        setfsuid(user.uid);
        match load::load(&path) {
            Ok(config) => tls_files(&config).filter_map(|path| unreadable(path)).collect(),
            Err(errors) => errors,
        }
    });
    let found: Vec<String> = looking.join().unwrap_or_default();
    found.into_iter().map(|error| format!("the unit runs the daemon as user {SERVICE}, for whom {error}")).collect()
}

fn tls_files(config: &Config) -> impl Iterator<Item = &PathBuf> {
    let etcd = match &config.store {
        Store::Etcd(etcd) => Some(etcd),
        Store::Embedded => None,
    };
    let pair = etcd.and_then(|etcd| etcd.identity.as_ref()).map(|(cert, key)| [cert, key]);
    etcd.and_then(|etcd| etcd.ca_file.as_ref()).into_iter().chain(pair.into_iter().flatten())
}

fn unreadable(path: &Path) -> Option<String> {
    let error = std::fs::File::open(path).err()?;
    Some(format!("{} can't be read: {error}", path.display()))
}
