//! Speed of the wire format: one UPDATE of each size, decoded and encoded.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wayleave::bgp::attrs::{AsPath, Attrs, Community, SegmentKind};
use wayleave::bgp::message::Codec;
use wayleave::bgp::wire::{decode, encode_reach, encode_withdraw, frame};
use wayleave::net::{Asn, Family, PerFamily, Prefix};

const CODEC: Codec =
    Codec { four_octet_as: true, extended_message: true, external: true, families: PerFamily::new(true, true) };

/// Five attributes, as on the Internet.
fn attrs(family: Family) -> Attrs {
    let next_hop = match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    let path = [65001, 65002, 3320, 1299].map(Asn);
    Attrs {
        as_path: AsPath::from_segments([(SegmentKind::Sequence, &path[..])]),
        med: Some(50),
        communities: [Community(0xfde9_0001), Community(0xfde9_0002), Community(0xfde9_0003)].into(),
        ..Attrs::originate(next_hop)
    }
}

/// Mostly /24 (or /48), as on the Internet.
fn prefixes(family: Family, count: u32) -> Vec<Prefix> {
    (0..count)
        .map(|i| match family {
            Family::Ipv4 => {
                let len = if i % 4 == 3 { [16, 19, 20, 22][i as usize / 4 % 4] } else { 24 };
                Prefix::new(Ipv4Addr::from(0x0b00_0000 + (i << 8)).into(), len)
            }
            Family::Ipv6 => Prefix::new(Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(i) << 80).into(), 48),
        })
        .collect()
}

fn wire(c: &mut Criterion) {
    let sizes = [(Family::Ipv4, 1), (Family::Ipv4, 100), (Family::Ipv4, 1000), (Family::Ipv6, 1), (Family::Ipv6, 400)];
    let mut out = Vec::with_capacity(1 << 16);

    let mut group = c.benchmark_group("decode");
    for (family, count) in sizes {
        out.clear();
        assert_eq!(encode_reach(&attrs(family), &prefixes(family, count), &CODEC, &mut out), Ok(1));
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(BenchmarkId::new(family.to_string(), count), |b| {
            b.iter(|| decode(black_box(&out), &CODEC));
        });
    }
    out.clear();
    encode_withdraw(&prefixes(Family::Ipv4, 1000), &CODEC, &mut out);
    group.throughput(Throughput::Elements(1000));
    group.bench_function("withdraw/1000", |b| b.iter(|| decode(black_box(&out), &CODEC)));
    group.bench_function("frame", |b| b.iter(|| frame(black_box(&out), &CODEC)));
    group.finish();

    let mut group = c.benchmark_group("encode");
    for (family, count) in sizes {
        let (attrs, prefixes) = (attrs(family), prefixes(family, count));
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(BenchmarkId::new(family.to_string(), count), |b| {
            b.iter(|| {
                out.clear();
                encode_reach(black_box(&attrs), black_box(&prefixes), &CODEC, &mut out)
            });
        });
    }
    let list = prefixes(Family::Ipv4, 1000);
    group.bench_function("withdraw/1000", |b| {
        b.iter(|| {
            out.clear();
            encode_withdraw(black_box(&list), &CODEC, &mut out)
        });
    });
    group.finish();
}

criterion_group!(benches, wire);
criterion_main!(benches);
