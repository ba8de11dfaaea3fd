//! What goes wrong, and what operators do.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// So many acts a script has at most.
pub const MOST: usize = 40;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Calm,
    Wiped,
    Wild,
}

/// Hosts and subnets by any number: they are taken modulo how many there are.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Start(usize),
    Stop(usize),
    Crash(usize),
    LoseDisk(usize),
    Cut(usize),
    Heal(usize),
    Isolate(usize),
    Join(usize),
    BreakDisk(usize),
    MendDisk(usize),
    StoreDown,
    StoreUp,
    NewAddress(usize),
    Rename(usize),
    Clock(usize, i64),
    Release(usize, usize),
    Leave(usize),
    Another(usize),
    AskFor(usize, usize),
    Reserve(usize, usize, usize),
    Unreserve(usize, usize),
    GrowPool,
    OtherLength(usize, u8),
    WantMore(usize),
    Flannel(usize, usize, bool),
    Import(usize, usize),
    Snapshot,
    Wipe,
    Restore(usize, bool),
    Reclaim(usize, usize, bool),
    ReclaimNode(usize, usize, bool),
    DeleteByHand(usize),
    DeleteGeneration,
    CopyDisk(usize, usize),
    CopyName(usize, usize),
    CopyAddress(usize, usize),
    OldDisk(usize),
}

pub struct Script {
    pub kind: Kind,
    pub hosts: usize,
    /// Length of the IPv4 pool; subnets are of length 24
    pub pool: u8,
    /// There is an IPv6 pool too
    pub dual: bool,
    /// Hosts differ in the length of a subnet
    pub lengths: bool,
    pub per_family: usize,
    /// Seconds
    pub reclaim_after: Option<u64>,
    /// At which millisecond what happens
    pub acts: Vec<(u64, Act)>,
}

pub fn script(seed: u64) -> Script {
    let rng = &mut SmallRng::seed_from_u64(seed);
    let kind = [Kind::Calm, Kind::Wiped, Kind::Wild][(seed % 3) as usize];
    let hosts = rng.random_range(2..=6);
    let count = rng.random_range(3..=MOST);
    let span = rng.random_range(1..=60) * 1000;
    let mut acts: Vec<(u64, Act)> = (0..count).map(|_| (rng.random_range(0..span), act(kind, rng))).collect();
    acts.sort_by_key(|(at, _)| *at);
    Script {
        kind,
        hosts,
        pool: rng.random_range(20..=23),
        dual: rng.random_bool(0.3),
        lengths: rng.random_bool(0.2),
        per_family: if rng.random_bool(0.2) { 2 } else { 1 },
        reclaim_after: (kind == Kind::Wild && rng.random_bool(0.3)).then(|| rng.random_range(20..90)),
        acts,
    }
}

fn act(kind: Kind, rng: &mut SmallRng) -> Act {
    let n = |rng: &mut SmallRng| rng.random_range(0..1000_usize);
    let host = n(rng);
    let calm = rng.random_range(0..100);
    if kind == Kind::Wiped && calm < 15 {
        return Act::Wipe;
    }
    if kind == Kind::Wild && calm < 45 {
        return match rng.random_range(0..14) {
            0 | 1 => Act::Snapshot,
            2 => Act::Wipe,
            3 | 4 => Act::Restore(n(rng), rng.random_bool(0.3)),
            5 => Act::Reclaim(host, n(rng), rng.random_bool(0.3)),
            6 => Act::ReclaimNode(host, n(rng), rng.random_bool(0.3)),
            7 => Act::DeleteByHand(n(rng)),
            8 => Act::DeleteGeneration,
            9 | 10 => Act::CopyDisk(host, n(rng)),
            11 => Act::CopyName(host, n(rng)),
            12 => Act::CopyAddress(host, n(rng)),
            _ => Act::OldDisk(host),
        };
    }
    match rng.random_range(0..46) {
        0..=5 => Act::Start(host),
        6 | 7 => Act::Stop(host),
        8..=11 => Act::Crash(host),
        12 => Act::LoseDisk(host),
        13..=16 => Act::Cut(host),
        17..=20 => Act::Heal(host),
        21 => Act::Isolate(host),
        22 => Act::Join(host),
        23 => Act::BreakDisk(host),
        24 => Act::MendDisk(host),
        25 => Act::StoreDown,
        26 | 27 => Act::StoreUp,
        28 => Act::NewAddress(host),
        29 => Act::Rename(host),
        30 => Act::Clock(host, rng.random_range(-5000..5000)),
        31 | 32 => Act::Release(host, n(rng)),
        33 => Act::Leave(host),
        34 => Act::Another(host),
        35 | 36 => Act::AskFor(host, n(rng)),
        37 | 38 => Act::Reserve(host, n(rng), n(rng)),
        39 => Act::Unreserve(host, n(rng)),
        40 => Act::GrowPool,
        41 => Act::OtherLength(host, rng.random_range(23..=25)),
        42 => Act::WantMore(host),
        43 => Act::Flannel(host, n(rng), rng.random_bool(0.3)),
        _ => Act::Import(host, n(rng)),
    }
}
