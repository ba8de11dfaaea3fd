//! Hosts that lease subnets from a simulated store, on one virtual clock.
//!
//! A seed gives a network, a script of what goes wrong in it and what operators do, and every delay. After each
//! step of each host what [`wayleave::cluster::lease`] promises is looked at; in the end all heals, and everybody
//! must have what he wants if there is space, with the store and all hosts of one mind and nothing written any more.
//!
//! There are three kinds of seeds (`seed % 3`). *Calm*: crashes, lost disks, partitions, lost answers, new
//! addresses and everything ordinary that an operator does; there no two hosts may ever believe in overlapping
//! subnets, and no host may lose what it has on disk. *Wiped*: the store loses its contents besides; whoever loses a
//! subnet loses it to an older holder. *Wild*: anything, with snapshots, copied disks and names, claims removed by
//! hand and reclaimed; there two may hold one subnet, but only while one of them does not see the store.
//!
//! `LEASE_SEED=7 cargo test --test lease` repeats one seed and, if it fails, leaves out of its script what is not
//! needed for that; `LEASE_TRACE=1` tells of every step. `make soak` runs `LEASE_SEEDS` seeds from `LEASE_FIRST` on,
//! or as many as `LEASE_SECONDS` are enough for.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a test ends by panicking, and a seed plays the same everywhere"
)]

use std::collections::BTreeSet;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

#[path = "lease/check.rs"]
mod check;
#[path = "lease/host.rs"]
mod host;
#[path = "lease/script.rs"]
mod script;
#[path = "lease/store.rs"]
mod store;
#[path = "lease/world.rs"]
mod world;

/// Seeds in `cargo test`: so many that they take seconds without optimisation.
const SEEDS: u64 = 500;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs a seed; a panic is a failure like others.
fn run(seed: u64, without: &BTreeSet<usize>, trace: bool) -> Result<world::Report, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| world::run(seed, without, trace)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("?")))
    })
}

/// The failure with as little of the script as will do.
fn shrink(seed: u64, first: String) -> String {
    let (mut without, mut failure) = (BTreeSet::new(), first);
    for act in (0..script::MOST).rev() {
        without.insert(act);
        match run(seed, &without, false) {
            Err(smaller) => failure = smaller,
            Ok(_) => drop(without.remove(&act)),
        }
    }
    if number("LEASE_TRACE").is_some() {
        let _ = run(seed, &without, true);
    }
    failure
}

#[test]
fn no_subnet_has_two_owners_and_nobody_is_renumbered() {
    if let Some(seed) = number("LEASE_SEED") {
        match run(seed, &BTreeSet::new(), false) {
            Ok(report) => return eprintln!("seed {seed}: {report:?}"),
            Err(failure) => panic!("seed {seed}: {}", shrink(seed, failure)),
        }
    }
    let first = number("LEASE_FIRST").unwrap_or(0);
    let end = number("LEASE_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let most = number("LEASE_SEEDS").unwrap_or(if end.is_some() { u64::MAX - first } else { SEEDS });
    let (mut failed, mut total, mut count) = (Vec::new(), world::Report::default(), 0);
    for seed in first..first + most {
        if end.is_some_and(|end| Instant::now() > end) || failed.len() >= 10 {
            break;
        }
        count += 1;
        match run(seed, &BTreeSet::new(), false) {
            Ok(report) => total.add(&report),
            Err(failure) => {
                eprintln!("seed {seed}: {failure}\nrepeat it by: LEASE_SEED={seed} cargo test --test lease\n");
                failed.push(seed);
            }
        }
    }
    eprintln!("{count} seeds from {first} on: {total:?}");
    assert!(
        failed.is_empty(),
        "seeds {failed:?} failed; repeat one by LEASE_SEED={} cargo test --test lease",
        failed[0]
    );
    // Else the scripts do nothing, and nothing was tested.
    assert!(total.took > count && total.writes > 2 * count && total.lost > count / 100, "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 4, 5] {
        let reports = [(); 2].map(|()| run(seed, &BTreeSet::new(), false));
        assert_eq!(reports[0], reports[1], "seed {seed}");
    }
}
