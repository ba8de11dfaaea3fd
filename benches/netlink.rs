//! How fast routes go into the kernel, move, come back, and go: in a network namespace of its own, so
//! it needs root. `cargo bench --bench netlink [ROUTES]`, 100,000 by default.
//!
//! Every round does all of it, so that what else the machine does falls on all alike; what counts
//! are the ratios of the medians.

#![allow(missing_docs, clippy::expect_used, reason = "a bench ends by panicking")]

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use wayleave::forward::{Batch, FibOp, Hop, Nexthop, NexthopId, NexthopOp, Target};
use wayleave::io::netlink::watch::Watch;
use wayleave::io::netlink::writer::{self, Report, Writer};
use wayleave::io::netlink::{Ours, query};
use wayleave::net::{Family, Prefix};

/// Operations handed to the writer at once.
const BATCH: usize = 4096;

const OURS: Ours = Ours { table: 254, protocol: 87, metric: 20 };

fn main() {
    let count = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(100_000);
    // `cargo test` runs benches too; one round shows that it works.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { 5 } else { 1 };
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(run(count, rounds));
}

async fn run(count: u32, rounds: u32) {
    let mut bench = Bench::new(count).await;
    for _ in 0..rounds {
        for watched in [false, true] {
            let watch = watched.then(|| Watch::open(OURS, bench.writer.port).expect("watch"));
            bench.label = if watched { ", with our watch open" } else { "" };
            bench.plain().await;
            bench.objects().await;
            drop(watch);
        }
    }
    bench.show();
}

struct Bench {
    writer: Writer,
    prefixes: Vec<Prefix>,
    /// In no order: in address order the kernel rebuilds the top of its trie again and again.
    scattered: Vec<Prefix>,
    hops: [Hop; 2],
    label: &'static str,
    /// By what was done, in the order of the first round
    times: Vec<(String, Vec<Duration>)>,
}

impl Bench {
    async fn new(count: u32) -> Self {
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
        let prefixes: Vec<_> =
            (0..count).map(|n| Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + (n << 8))), 24)).collect();
        let mut scattered = prefixes.clone();
        scattered.sort_by_key(|prefix| match prefix.addr() {
            IpAddr::V4(addr) => addr.to_bits().wrapping_mul(0x9e37_79b1),
            IpAddr::V6(_) => 0,
        });
        let writer = writer::spawn(OURS, 8).expect("writer");
        Self { writer, prefixes, scattered, hops: [hop(2, "a0"), hop(34, "a1")], label: "", times: Vec::new() }
    }

    /// Routes with hops of their own.
    async fn plain(&mut self) {
        let [first, second] = self.hops;
        let one = Target::via([first]).expect("a hop");
        let other = Target::via([second]).expect("a hop");
        let two = Target::via([first, second]).expect("hops");
        self.write("create over a gateway", FibOp::Create, &one).await;
        self.write("replace by another", FibOp::Replace, &other).await;
        self.write("replace by two", FibOp::Replace, &two).await;
        let began = Instant::now();
        let dump = query::dump(OURS).await.expect("dump");
        assert_eq!(dump.own.len(), self.prefixes.len());
        self.took("dump", began.elapsed());
        self.write("remove", FibOp::Remove, &Target::Blackhole).await;
        self.write("", FibOp::Create, &one).await;
        std::mem::swap(&mut self.prefixes, &mut self.scattered);
        self.write("remove, scattered", FibOp::Remove, &Target::Blackhole).await;
        std::mem::swap(&mut self.prefixes, &mut self.scattered);
    }

    /// Routes over objects: two hops, a group of the first.
    async fn objects(&mut self) {
        let [one, two, group] = [1, 2, 3].map(NexthopId);
        let hop = |id, hop| NexthopOp::Set(id, Nexthop::Hop(hop, Family::Ipv4));
        let of = |members: &[NexthopId]| NexthopOp::Set(group, Nexthop::Group(members.into()));
        let [first, second] = self.hops;
        self.set("", vec![hop(one, first), hop(two, second), of(&[one])]).await;
        self.write("create over an object", FibOp::Create, &Target::Object(one)).await;
        self.write("replace by a group", FibOp::Replace, &Target::Object(group)).await;
        for (value, mode) in [("1", "compat 1"), ("0", "compat 0")] {
            std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", value).expect("sysctl");
            self.set(&format!("change the group, {mode}"), vec![of(&[one, two])]).await;
            self.set(&format!("change a hop in it, {mode}"), vec![hop(one, second)]).await;
            self.set("", vec![hop(one, first), of(&[one])]).await;
        }
        let began = Instant::now();
        let dump = query::dump(OURS).await.expect("dump");
        assert_eq!(dump.own.len(), self.prefixes.len());
        self.took("dump over a group", began.elapsed());
        self.write("remove over a group", FibOp::Remove, &Target::Object(group)).await;
        self.write("", FibOp::Create, &Target::Object(group)).await;
        self.set("remove the group with its routes", vec![NexthopOp::Remove(group)]).await;
        self.set("", vec![NexthopOp::Remove(one), NexthopOp::Remove(two)]).await;
    }

    /// Writes every route, timed under this name.
    async fn write(&mut self, what: &str, op: fn(Prefix, Target) -> FibOp, target: &Target) {
        let batch = |prefixes: &[Prefix]| {
            let mut batch = Batch::default();
            batch.ops.extend(prefixes.iter().map(|prefix| op(*prefix, target.clone())));
            batch
        };
        let batches: Vec<Batch> = self.prefixes.chunks(BATCH).map(batch).collect();
        let expected = batches.len();
        let began = Instant::now();
        let ops = self.writer.ops.clone();
        let feed = async {
            for batch in batches {
                ops.send(batch).await.expect("writer");
            }
        };
        let read = async {
            for _ in 0..expected {
                match self.writer.reports.recv().await.expect("writer") {
                    Report::Routes(report) => assert!(report.failed.is_empty(), "{:?}", report.refusals.first()),
                    Report::Nexthops(report) => panic!("{report:?}"),
                }
            }
        };
        tokio::join!(feed, read);
        self.took(what, began.elapsed());
    }

    /// Writes objects, timed under this name.
    async fn set(&mut self, what: &str, ops: Vec<NexthopOp>) {
        let began = Instant::now();
        self.writer.nexthops.send(ops).await.expect("writer");
        self.writer.ops.send(Batch::default()).await.expect("writer");
        match self.writer.reports.recv().await.expect("writer") {
            Report::Nexthops(report) => assert!(report.failed.is_empty(), "{:?}", report.refusals.first()),
            Report::Routes(report) => panic!("{report:?}"),
        }
        self.took(what, began.elapsed());
    }

    fn took(&mut self, what: &str, time: Duration) {
        if what.is_empty() {
            return;
        }
        let what = format!("{what}{}", self.label);
        match self.times.iter_mut().find(|(name, _)| *name == what) {
            Some((_, times)) => times.push(time),
            None => self.times.push((what, vec![time])),
        }
    }

    fn show(&mut self) {
        let mut first = None;
        for (what, times) in &mut self.times {
            times.sort_unstable();
            let [least, .., most] = times[..] else {
                println!("{what}: {:?}", times.first());
                continue;
            };
            let median = times[times.len() / 2].as_secs_f64();
            let ratio = median / *first.get_or_insert(median);
            println!(
                "{what:55} {median:9.6} s [{:.6} .. {:.6}] ratio {ratio:.3}",
                least.as_secs_f64(),
                most.as_secs_f64()
            );
        }
    }
}
