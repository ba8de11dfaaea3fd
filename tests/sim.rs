//! Several whole nodes on one virtual clock: the pure parts of the library, joined as the daemon
//! joins them, over a network with delay, loss, partitions, crashes and changes of the files.
//!
//! A seed gives a network and a script of what goes wrong in it. Then all heals, and within a bounded time every
//! kernel must hold what a computation from scratch over the files and wires says. After that
//! nodes are restarted, which must change no kernel at all.
//!
//! `SIM_SEED=7 cargo test --test sim` repeats one seed and, if it fails, leaves out what is not needed
//! for that; `SIM_TRACE=1` tells of every step. What the library keeps in hash tables comes in another
//! order each time, so a seed is tried `SIM_TRIES` times. `make soak` runs `SIM_SEEDS` seeds from
//! `SIM_FIRST` on, or as many as `SIM_SECONDS` are enough for.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::unchecked_time_subtraction,
    clippy::cast_possible_truncation,
    reason = "a test ends by panicking, and a seed plays the same everywhere"
)]
#![allow(clippy::struct_excessive_bools, clippy::option_option, reason = "the state of what is simulated, laid open")]

use std::collections::BTreeSet;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

#[path = "sim/acts.rs"]
mod acts;
#[path = "sim/daemons.rs"]
mod daemons;
#[path = "sim/fabric.rs"]
mod fabric;
#[path = "sim/kernel.rs"]
mod kernel;
#[path = "sim/model.rs"]
mod model;
#[path = "sim/network.rs"]
mod network;
#[path = "sim/node.rs"]
mod node;
#[path = "sim/oracle.rs"]
mod oracle;
#[path = "sim/outbound.rs"]
mod outbound;
#[path = "sim/peer.rs"]
mod peer;
#[path = "sim/routing.rs"]
mod routing;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/script.rs"]
mod script;
#[path = "sim/tcp.rs"]
mod tcp;
#[path = "sim/topology.rs"]
mod topology;
#[path = "sim/world.rs"]
mod world;

/// Seeds in `cargo test`: so many that they take seconds without optimisation.
const SEEDS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs a seed; a panic is a failure like others.
fn run(seed: u64, without: &BTreeSet<usize>, trace: bool) -> Result<run::Report, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| run::run(seed, without, trace)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("?")))
    })
}

/// The failure with as few groups of the script as will do.
fn shrink(seed: u64, first: String) -> String {
    let (mut without, mut failure) = (BTreeSet::new(), first);
    for group in 0..script::MOST {
        without.insert(group);
        match run(seed, &without, false) {
            Err(smaller) => failure = smaller,
            Ok(_) => drop(without.remove(&group)),
        }
    }
    if number("SIM_TRACE").is_some() {
        // What is told of it says more than how it ends, which is known.
        let _ = run(seed, &without, true);
    }
    failure
}

fn repeat(seed: u64) {
    for _ in 0..number("SIM_TRIES").unwrap_or(5) {
        match run(seed, &BTreeSet::new(), false) {
            Ok(run::Report { converged, lasted, .. }) => {
                eprintln!("seed {seed}: right {converged:?} after all was healed, {lasted:?} in all");
            }
            Err(failure) => panic!("seed {seed}: {}", shrink(seed, failure)),
        }
    }
}

#[test]
fn whatever_goes_wrong_the_right_tables_come_out() {
    if let Some(seed) = number("SIM_SEED") {
        return repeat(seed);
    }
    let first = number("SIM_FIRST").unwrap_or(0);
    let end = number("SIM_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let count = number("SIM_SEEDS").unwrap_or(if end.is_some() { u64::MAX - first } else { SEEDS });
    let (mut failed, mut slowest, mut lasted, mut done) = (Vec::new(), (Duration::ZERO, 0), Duration::ZERO, 0);
    eprintln!("seeds from {first} on");
    for seed in first..first + count {
        if end.is_some_and(|end| Instant::now() > end) || failed.len() >= 10 {
            break;
        }
        match run(seed, &BTreeSet::new(), false) {
            Ok(report) => {
                slowest = slowest.max((report.converged, seed));
                lasted += report.lasted;
            }
            Err(failure) => {
                eprintln!("seed {seed}: {failure}\nrepeat it by: SIM_SEED={seed} cargo test --test sim\n");
                failed.push(seed);
            }
        }
        done += 1;
    }
    eprintln!("{done} seeds from {first} on, {lasted:?} in all, slowest: {:?} (seed {})", slowest.0, slowest.1);
    assert!(failed.is_empty(), "seeds {failed:?} failed; repeat one by SIM_SEED={} cargo test --test sim", failed[0]);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let mut rng = SmallRng::seed_from_u64(7);
    for _ in 0..5 {
        let seed = rng.random_range(0..SEEDS);
        let digests = [(); 2].map(|()| run(seed, &BTreeSet::new(), false).map(|report| report.digest));
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
}
