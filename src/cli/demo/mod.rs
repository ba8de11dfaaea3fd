//! `wayleave demo`: a small data centre in network namespaces, and what wayleave does in it.
//!
//! Two racks of two hosts and two top-of-rack routers (ToRs), cables between the racks: BIRD plays the physical
//! routers, the hosts run the real `wayleave run` of this binary, and behind each host is a
//! namespace that stands for a container. Nothing outside these namespaces and one directory below
//! `/run` is touched; both are removed at the end, also after Ctrl-C, unless `--keep` is given.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `topology` | who is there, addresses, the picture |
//! | `netns` | namespaces, links, processes in them |
//! | `files` | configurations of BIRD and wayleave |
//! | `world` | all of it together: built, asked, taken down |
//! | `acts` | the four acts |
//! | `probe` | counted packets at a steady rate |
//! | `stage` | output for a person, and Ctrl-C |

mod acts;
mod files;
mod netns;
mod probe;
mod stage;
mod topology;
mod world;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use nix::unistd::geteuid;

use stage::Stage;
use topology::Topology;
use world::World;

/// Show what wayleave does: two racks of two ToRs and two hosts in network namespaces, in a minute
#[derive(Debug, Args)]
pub struct Demo {
    /// Leave everything up at the end, to look around
    #[arg(long)]
    keep: bool,
    /// Only remove what an earlier `--keep` left
    #[arg(long, conflicts_with = "keep")]
    remove: bool,
}

impl Demo {
    /// Runs it; the exit code says whether all of it worked.
    ///
    /// # Errors
    ///
    /// Where `out` can't be written to.
    pub fn run(&self, out: &mut impl Write) -> io::Result<ExitCode> {
        if let Some(problem) = unfit() {
            eprintln!("wayleave demo: {problem}");
            return Ok(ExitCode::FAILURE);
        }
        let Some(_lock) = world::lock()? else {
            eprintln!("wayleave demo: another demo is running");
            return Ok(ExitCode::FAILURE);
        };
        let topology = Topology::read()?;
        world::remove(&topology);
        if self.remove {
            writeln!(out, "nothing of the demo is left")?;
            return Ok(ExitCode::SUCCESS);
        }
        let start = Instant::now();
        let mut stage = Stage::new(out)?;
        let result = World::build(&topology).and_then(|mut world| {
            let result = acts::play(&mut world, &mut stage, self.keep);
            if let Err(stage::Stop::Failed(_)) = &result {
                world.tell_logs();
            }
            world.end(self.keep && result.is_ok());
            result
        });
        stage.close(&result, self.keep, start.elapsed())
    }
}

/// What this machine lacks for the demo.
fn unfit() -> Option<String> {
    if !geteuid().is_root() {
        return Some("it makes network namespaces: run it as root".to_owned());
    }
    let missing: Vec<&str> = [("ip", "iproute2"), ("ping", "iputils-ping"), ("bird", "bird2")]
        .into_iter()
        .filter(|(program, _)| !netns::is_installed(program))
        .map(|(_, package)| package)
        .collect();
    let package = missing.last()?;
    Some(format!(
        "BIRD plays the physical routers and `ip` lays the cables, but {} is missing: \
         `make demo` installs it, or apt-get install {package}",
        missing.join(" and ")
    ))
}
