//! How fast this program is beside BIRD and FRR: `make bench`, or
//! `cargo bench --bench rivals -- --routes 1000000 --runs 3`. Needs root and the Debian packages of
//! `scripts/install-deps bench`.
//!
//! Every daemon gets the same feed, made before the clock starts, in network namespaces of its own;
//! they take turns, so that what else the machine does falls on all of them. What is measured how
//! stands in docs/performance.md.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench ends by panicking"
)]

mod daemons;
#[path = "../../tests/lab/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of tests/lab use the rest of it")]
mod harness;
mod observe;
mod plan;
mod report;
mod scenarios;
mod speakers;
mod traffic;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::daemons::Rival;
use crate::report::{Record, Report};
use crate::scenarios::{Scenario, Size};

/// Set for the process that measures; the other one cleans up after it.
const WORKER: &str = "WAYLEAVE_BENCH_WORKER";

/// The harness asks whether it runs in User-Mode Linux.
mod uml {
    pub fn inside() -> bool {
        false
    }
}

/// Measures wayleave beside BIRD and FRR.
#[derive(Parser)]
struct Args {
    /// Prefixes that a source announces
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(plan::SLOTS)))]
    routes: u32,
    /// Runs of everything; daemons take turns
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Route reflector clients in `peers`
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    peers: u32,
    /// Seconds of idleness to look at
    #[arg(long, default_value_t = 10)]
    idle: u64,
    /// What to do
    #[arg(long, value_delimiter = ',', default_value = "load,failover,ecmp,peers")]
    scenarios: Vec<Scenario>,
    /// Whom to measure; who isn't installed is left out
    #[arg(long, value_delimiter = ',', default_value = "bird,frr,wayleave,wayleave-compat0")]
    daemons: Vec<Rival>,
    /// A wayleave other than the one built along with this program
    #[arg(long)]
    wayleave: Option<PathBuf>,
    /// Where to write all runs as JSON
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/rivals.json"))]
    json: PathBuf,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// What `cargo test --benches` gets, which passes nothing: whether it works.
const LOOK: [&str; 7] = ["rivals", "--routes", "1000", "--peers", "20", "--idle", "0"];

fn main() -> ExitCode {
    let args = if std::env::args_os().len() > 1 { Args::parse() } else { Args::parse_from(LOOK) };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this bench makes network namespaces: run it as root");
        return ExitCode::FAILURE;
    }
    if std::env::var_os(WORKER).is_some() {
        // Nothing may go on measuring for nobody.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("a signal for when the parent ends");
        return measure(&args);
    }
    supervise()
}

/// Runs this program again to do the work, and removes what it leaves however it ends.
fn supervise() -> ExitCode {
    let dir = TempDir::with_prefix("wl-bench-").expect("a temporary directory");
    harness::process::open_to_all(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let done = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).expect("signals");
        let mut terminate = signal(SignalKind::terminate()).expect("signals");
        let mut worker = tokio::process::Command::new(std::env::current_exe().expect("this program"))
            .args(std::env::args_os().skip(1))
            .env(WORKER, "1")
            .env("TMPDIR", dir.path())
            // Ctrl-C reaches this process alone.
            .process_group(0)
            .spawn()
            .expect("the worker");
        tokio::select! {
            status = worker.wait() => status.is_ok_and(|status| status.success()),
            _ = interrupt.recv() => { let _ = worker.kill().await; false }
            _ = terminate.recv() => { let _ = worker.kill().await; false }
        }
    });
    harness::sweep();
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure(args: &Args) -> ExitCode {
    let wayleave = args.wayleave.clone().unwrap_or_else(daemons::built_here);
    let mut rivals = Vec::new();
    for rival in &args.daemons {
        let (name, special) = rival.title();
        match rival.version(&wayleave) {
            Some(version) => rivals.push((*rival, format!("{name} {version}{special}"))),
            None => eprintln!("{name}: not installed, left out"),
        }
    }
    let idle = Duration::from_secs(args.idle);
    let size = Size { routes: args.routes, peers: args.peers, idle, wayleave: &wayleave };
    let mut report = Report { size: &size, runs: args.runs, rivals: &rivals, records: Vec::new() };
    for run in 1..=args.runs {
        for scenario in &args.scenarios {
            for (rival, name) in &rivals {
                let in_traffic = [Scenario::Failover, Scenario::Ecmp].contains(scenario);
                if rival.for_failover_only() && !in_traffic {
                    continue;
                }
                let result = catch_unwind(AssertUnwindSafe(|| scenario.run(*rival, &size))).map_err(reason);
                eprintln!("run {run}, {scenario:?}, {name}: {}", told(&result));
                report.records.push(Record { scenario: *scenario, rival: *rival, run, result });
            }
        }
    }
    println!("\n{}", report.table());
    if cfg!(debug_assertions) {
        println!("This is a debug build: its numbers mean nothing.");
    }
    let text = format!("{:#}\n", report.json());
    match std::fs::write(&args.json, text) {
        Ok(()) => println!("All runs: {}", args.json.display()),
        Err(error) => println!("{}: {error}", args.json.display()),
    }
    if report.records.iter().all(|record| record.result.is_ok()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a panic said.
fn reason(panic: Box<dyn Any + Send>) -> String {
    let text =
        panic.downcast::<String>().map_or_else(|other| other.downcast::<&str>().map(|s| (*s).to_owned()), |s| Ok(*s));
    text.unwrap_or_else(|_| "failed".to_owned())
}

fn told(result: &Result<scenarios::Measured, String>) -> String {
    match result {
        Ok(measured) => {
            let values: Vec<String> = measured.values.iter().map(|(key, value)| format!("{key} {value:.3}")).collect();
            values.join(", ")
        }
        Err(error) => error.clone(),
    }
}
