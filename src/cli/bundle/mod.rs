//! `wayleave bundle`: all that a bug report needs, in one file, and nothing that must not leave the host.
//!
//! It works with a daemon that is dead or hangs: each part is gathered by itself, within a time of its own, and
//! `MANIFEST` says what is missing and why. Passwords and keys never get into it: the configuration is
//! printed as it was understood, not as it was written, and whatever else is gathered is searched for
//! them ([`scrub`]).

mod archive;
mod facts;
mod gather;
mod scrub;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;

use self::gather::{Gathered, Gatherer};
use super::{ConfigArg, Error};

/// Gather what a bug report needs in one file: state, events, configuration without secrets, kernel facts
#[derive(Debug, Args)]
pub(super) struct Bundle {
    /// Where to write it; `-` is standard output [default: wayleave-NODE-TIME.tar.gz in this directory]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only say what would be in it
    #[arg(long, conflicts_with = "output")]
    list: bool,
    #[command(flatten)]
    config: ConfigArg,
    /// Control socket of the daemon [default: as in the configuration]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Bundle {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        if self.list {
            for (name, about) in gather::LIST {
                writeln!(out, "{name:<24} {about}")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let gathered = runtime.block_on(Gatherer::new(&self.config.config, self.socket.as_deref()).all());
        let stamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace(['-', ':'], "");
        let name = format!("wayleave-{}-{stamp}", gathered.node);
        let bytes = archive::pack(&name, &gathered.entries())?;
        if self.output.as_deref() == Some(Path::new("-")) {
            out.write_all(&bytes)?;
            tell(&gathered, &mut io::stderr())?;
            return Ok(ExitCode::SUCCESS);
        }
        let path = self.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
        // Whoever finds it should not read it; nor may it replace what somebody else put there.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(|error| {
            Error::Refused(format!("{}: {error}; --output FILE writes it elsewhere", path.display()))
        })?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        tell(&gathered, out)?;
        let shown = path.canonicalize().unwrap_or(path);
        writeln!(out, "\n{}: {} KiB, readable by you alone", shown.display(), bytes.len().div_ceil(1024))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What is in it, and what isn't.
fn tell(gathered: &Gathered, out: &mut impl Write) -> io::Result<()> {
    for part in &gathered.parts {
        match &part.content {
            Ok(content) => {
                writeln!(out, "{:<34} {:>8} bytes{}", part.name, content.text.len(), content.remark())?;
            }
            Err(why) => writeln!(out, "{:<34}  missing: {why}", part.name)?,
        }
    }
    writeln!(
        out,
        "\nThere are no passwords, keys or contents of password files in it. There are names and addresses of hosts,\n\
         routers and networks: look through it before you give it away (tar tzf, tar xzf)."
    )
}
