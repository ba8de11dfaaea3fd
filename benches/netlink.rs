//! How fast routes go into the kernel, come back, and go: in a network namespace of its own, so it
//! needs root. `cargo bench --bench netlink [ROUTES]`, 100,000 by default.

#![allow(missing_docs, clippy::expect_used, reason = "a bench ends by panicking")]

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use wayleave::forward::{FibOp, Hop, Target};
use wayleave::io::netlink::watch::Watch;
use wayleave::io::netlink::{Ours, query, writer};
use wayleave::net::Prefix;

/// Operations handed to the writer at once.
const BATCH: usize = 4096;

const OURS: Ours = Ours { table: 254, protocol: 87, metric: 20 };

fn main() {
    let count = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(100_000);
    // `cargo test` runs benches too; one round shows that it works.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { 3 } else { 1 };
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(run(count, rounds));
}

async fn run(count: u32, rounds: u32) {
    for (name, far, addr) in [("a0", "b0", "192.0.2.1/28"), ("a1", "b1", "192.0.2.33/28")] {
        for args in [
            format!("link add {name} type veth peer name {far}"),
            format!("link set {far} up"),
            format!("link set {name} up"),
            format!("address add {addr} dev {name}"),
        ] {
            assert!(Command::new("ip").args(args.split(' ')).status().expect("ip").success(), "ip {args}");
        }
    }
    let links = query::dump(OURS).await.expect("dump").links;
    let device = |name| links.iter().find(|link| link.name == name).map(|link| link.index).expect("device");
    let hop = |last, name| Hop::direct(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)), device(name));
    let one = Target::via([hop(2, "a0")]).expect("a hop");
    let other = Target::via([hop(34, "a1")]).expect("a hop");
    let two = Target::via([hop(2, "a0"), hop(34, "a1")]).expect("hops");
    let mut writer = writer::spawn(OURS, 8).expect("writer");
    let prefixes: Vec<_> =
        (0..count).map(|n| Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + (n << 8))), 24)).collect();
    let mut scattered = prefixes.clone();
    scattered.sort_by_key(|prefix| match prefix.addr() {
        IpAddr::V4(addr) => addr.to_bits().wrapping_mul(0x9e37_79b1),
        IpAddr::V6(_) => 0,
    });

    for round in 0..rounds {
        for watched in [false, true] {
            let watch = watched.then(|| Watch::open(OURS, writer.port).expect("watch"));
            let label = if watched { " (with our watch open)" } else { "" };
            let ops = |op: fn(Prefix, Target) -> FibOp, target: &Target| -> Vec<Vec<FibOp>> {
                prefixes.chunks(BATCH).map(|chunk| chunk.iter().map(|p| op(*p, target.clone())).collect()).collect()
            };
            for (what, batches) in [
                ("create, one gateway", ops(FibOp::Create, &one)),
                ("replace by another", ops(FibOp::Replace, &other)),
                ("replace by two", ops(FibOp::Replace, &two)),
            ] {
                show(round, what, label, count, write(&mut writer, batches).await);
            }
            let began = Instant::now();
            let dump = query::dump(OURS).await.expect("dump");
            assert_eq!(dump.own.len(), prefixes.len());
            show(round, "dump", label, count, began.elapsed());
            // In address order the kernel rebuilds the top of its trie again and again.
            for (what, prefixes) in [("remove, scattered", &scattered), ("remove, in address order", &prefixes)] {
                if what.ends_with("order") {
                    write(&mut writer, ops(FibOp::Create, &one)).await;
                }
                let batches = prefixes
                    .chunks(BATCH)
                    .map(|chunk| chunk.iter().map(|prefix| FibOp::Remove(*prefix, Target::Blackhole)).collect());
                show(round, what, label, count, write(&mut writer, batches.collect()).await);
            }
            drop(watch);
        }
    }
}

async fn write(writer: &mut writer::Writer, batches: Vec<Vec<FibOp>>) -> Duration {
    let began = Instant::now();
    let expected = batches.len();
    let ops = writer.ops.clone();
    let feed = async {
        for batch in batches {
            ops.send(batch).await.expect("writer");
        }
    };
    let read = async {
        for _ in 0..expected {
            let report = writer.reports.recv().await.expect("writer");
            assert!(report.results.iter().all(|(_, result)| result.is_ok()), "{:?}", report.refusals.first());
        }
    };
    tokio::join!(feed, read);
    began.elapsed()
}

fn show(round: u32, what: &str, label: &str, count: u32, took: Duration) {
    let rate = f64::from(count) / took.as_secs_f64();
    println!("round {round}: {what}{label}: {:.3} s, {rate:.0} routes/s", took.as_secs_f64());
}
