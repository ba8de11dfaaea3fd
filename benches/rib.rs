//! What the routing table costs per 100,000 routes: `cargo bench --bench rib`.
//!
//! The feed resembles a real one: 7 prefixes a message, paths of 1 to 6 AS numbers, communities on
//! every second message. The two groups stand for one router and one reflector client.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use wayleave::bgp::attrs::{AsPath, Attrs, Community, SegmentKind};
use wayleave::bgp::message::{Codec, Reach, Update};
use wayleave::bgp::policy::{Export, ExportScope, Import, ImportScope, Node};
use wayleave::bgp::rib::{Change, ExportSettings, Group, PeerId, PeerInfo, Rib, Selection};
use wayleave::net::{Asn, PerFamily, Prefix};

const ROUTES: u32 = 100_000;

fn peer(n: u8) -> PeerInfo {
    let node = Node {
        asn: Asn(64512),
        router_id: Ipv4Addr::new(192, 0, 2, 100),
        cluster_id: Ipv4Addr::new(192, 0, 2, 100),
        addresses: [IpAddr::from([192, 0, 2, 100])].into(),
        subnets: [Prefix::new([10, 244, 7, 0].into(), 24)].into(),
        pools: [Prefix::new([10, 244, 0, 0].into(), 16)].into(),
    };
    PeerInfo {
        id: PeerId(n.into()),
        asn: Asn(65000 + u32::from(n)),
        external: true,
        router_id: Ipv4Addr::new(192, 0, 2, n),
        address: [192, 0, 2, n].into(),
        client: false,
        import: Arc::new(Import { scope: ImportScope::All, node: Arc::new(node), graceful_shutdown: true }),
        allow_own_as: 0,
        max_prefixes: None,
    }
}

fn settings(external: bool) -> ExportSettings {
    ExportSettings {
        external,
        client: !external,
        local_asn: Asn(64512),
        cluster_id: Ipv4Addr::new(192, 0, 2, 100),
        next_hop_self: false,
        ends_ipip: true,
        graceful_shutdown: false,
        next_hops: PerFamily::new(Some([192, 0, 2, 100].into()), None),
        families: PerFamily::new(true, false),
        export: Arc::new(Export { scope: ExportScope::All, pools: Arc::new([]) }),
        codec: Codec { four_octet_as: true, external, ..Codec::INITIAL },
    }
}

/// As decoded: every message with an allocation of its own.
fn feed(n: u8, routes: Range<u32>) -> Vec<Update> {
    let prefix = |i: u32| Prefix::new(Ipv4Addr::from_bits(0x1000_0000 + (i << 8)).into(), 24);
    let message = |first: u32| {
        let i = first / 7;
        let tail = (1..=i % 6).map(|hop| Asn((i * 31 + hop * 7) % 60_000 + 1));
        let path: Vec<Asn> = std::iter::once(Asn(65000 + u32::from(n))).chain(tail).collect();
        let attrs = Attrs {
            as_path: AsPath::from_segments([(SegmentKind::Sequence, &path[..])]),
            communities: if i.is_multiple_of(2) { [Community(7), Community(8)].into() } else { Box::default() },
            ..Attrs::originate([192, 0, 2, n].into())
        };
        let prefixes = (first..routes.end.min(first + 7)).map(prefix).collect();
        Update { reach: vec![Reach { attrs: Arc::new(attrs), prefixes }], ..Update::default() }
    };
    routes.clone().step_by(7).map(message).collect()
}

fn load(rib: &mut Rib, n: u8, feed: &[Update]) -> Vec<Change> {
    for update in feed {
        rib.update(PeerId(n.into()), update);
    }
    decide(rib)
}

fn decide(rib: &mut Rib) -> Vec<Change> {
    let mut changes = Vec::new();
    rib.decide(&|_, _| Some(0), Selection { multipath: 1, backups: true }, usize::MAX, &mut changes);
    changes
}

fn with_peers() -> Rib {
    let mut rib = Rib::new();
    rib.peer_up(peer(1));
    rib.peer_up(peer(2));
    rib
}

fn loaded(feeds: &[(u8, &[Update])]) -> Rib {
    let mut rib = with_peers();
    for (n, feed) in feeds {
        load(&mut rib, *n, feed);
    }
    rib
}

fn group(external: bool, rib: &Rib) -> Group {
    let mut group = Group::new(settings(external));
    group.join(PeerId(9), []);
    while !group.is_synced(PeerId(9)) {
        group.drain(PeerId(9), rib, 1 << 20);
    }
    group
}

fn table(c: &mut Criterion) {
    let (one, two) = (feed(1, 0..ROUTES), feed(2, 0..ROUTES));
    let withdraw: Vec<Update> = one
        .iter()
        .map(|u| Update { withdrawn: u.reach.iter().flat_map(|r| r.prefixes.clone()).collect(), ..Update::default() })
        .collect();
    let mut bench = c.benchmark_group("100k");
    bench.sample_size(10);

    bench.bench_function("load", |b| {
        b.iter_batched(with_peers, |mut rib| (load(&mut rib, 1, &one), rib), BatchSize::PerIteration);
    });
    bench.bench_function("load_and_export_to_a_group", |b| {
        let setup = || {
            let rib = with_peers();
            (group(true, &rib), rib)
        };
        let run = |(mut group, mut rib): (Group, Rib)| {
            let changes = load(&mut rib, 1, &one);
            (group.export(&changes), changes, rib)
        };
        b.iter_batched(setup, run, BatchSize::PerIteration);
    });
    bench.bench_function("load_again_unchanged", |b| {
        b.iter_batched(|| loaded(&[(1, &one)]), |mut rib| (load(&mut rib, 1, &one), rib), BatchSize::PerIteration);
    });
    bench.bench_function("withdraw", |b| {
        b.iter_batched(|| loaded(&[(1, &one)]), |mut rib| (load(&mut rib, 1, &withdraw), rib), BatchSize::PerIteration);
    });
    bench.bench_function("failover_between_peers", |b| {
        let run = |mut rib: Rib| {
            rib.peer_down(PeerId(1));
            (decide(&mut rib), rib)
        };
        b.iter_batched(|| loaded(&[(1, &one), (2, &two)]), run, BatchSize::PerIteration);
    });
    for (name, external) in [("export_changes_external", true), ("export_changes_client", false)] {
        let mut rib = with_peers();
        let mut group = group(external, &rib);
        let changes = load(&mut rib, 1, &one);
        let back = load(&mut rib, 1, &withdraw);
        bench.bench_function(name, |b| {
            b.iter_custom(|times| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..times {
                    let start = std::time::Instant::now();
                    black_box(group.export(&changes));
                    spent += start.elapsed();
                    group.export(&back);
                }
                spent
            });
        });
    }
    bench.bench_function("dump_to_a_new_member", |b| {
        let rib = loaded(&[(1, &one)]);
        let mut group = Group::new(settings(true));
        b.iter(|| {
            group.join(PeerId(9), []);
            while !group.is_synced(PeerId(9)) {
                black_box(group.drain(PeerId(9), &rib, 65536));
            }
        });
    });
    bench.finish();
}

/// Prints what a million routes take in memory.
fn memory(_: &mut Criterion) {
    let mut rib = with_peers();
    let mut group = group(true, &rib);
    let before = resident();
    // In portions, so that neither the feed nor the changes count.
    for portion in 0..1000 {
        let changes = load(&mut rib, 1, &feed(1, portion * 1000..(portion + 1) * 1000));
        black_box(group.export(&changes));
    }
    println!(
        "1M routes: {:?}, {} bytes by our own count, {} MiB more resident",
        rib.stats(),
        rib.memory(),
        (resident() - before) / 1024
    );
}

/// KiB of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

criterion_group!(benches, memory, table);
criterion_main!(benches);
