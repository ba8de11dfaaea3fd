//! A whole table through the pure part of the daemon, from bytes to bytes:
//! `cargo bench --bench table -- load 1000000`, `failover 1000000`, `peers 500` or `scrape 1000000`.
//!
//! No statistics: one run, to be put under `perf stat` and to be seen in memory. The feed is like
//! a real one: 5 to 10 prefixes a message in runs of neighbours that are shuffled, paths of 1 to 6 AS
//! numbers, communities on every second message.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wayleave::bgp::attrs::{AsPath, Attrs, Community, SegmentKind};
use wayleave::bgp::message::{Codec, Message};
use wayleave::bgp::policy::{Export, ExportScope, Import, ImportScope, Node};
use wayleave::bgp::rib::{ExportSettings, Group, PeerId, PeerInfo, Rib, Selection};
use wayleave::bgp::wire;
use wayleave::net::{Asn, PerFamily, Prefix};

/// Prefixes in one decision.
const BATCH: usize = 2048;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let number = args.get(1).and_then(|n| n.parse().ok());
    match args.first().map(String::as_str) {
        Some("failover") => failover(number.unwrap_or(100_000)),
        Some("peers") => peers(number.unwrap_or(500)),
        Some("scrape") => scrape(number.unwrap_or(100_000)),
        _ => load(number.unwrap_or(100_000)),
    }
}

/// One source, one sink.
fn load(routes: u32) {
    let feed = feed(1, routes);
    let mut world = World::new(2, true);
    world.join(PeerId(9));
    let before = resident();
    let (time, sent) = world.take(PeerId(1), &feed);
    println!("load {routes}: {time:.3?}, {} ns a route, {sent} bytes out", time.as_nanos() / u128::from(routes));
    println!("{:?}, {} KiB more resident", world.rib.stats(), resident() - before);
    let start = Instant::now();
    world.rib.peer_down(PeerId(1));
    let down = start.elapsed();
    world.settle();
    println!("gone: {:.3?}, of it {down:.3?} at once, {} KiB more resident", start.elapsed(), resident() - before);
}

/// Two sources, the better one goes.
fn failover(routes: u32) {
    let mut world = World::new(2, true);
    world.join(PeerId(9));
    let before = resident();
    world.take(PeerId(1), &feed(1, routes));
    world.take(PeerId(2), &feed(2, routes));
    println!("{:?}, {} KiB more resident", world.rib.stats(), resident() - before);
    let start = Instant::now();
    world.rib.peer_down(PeerId(1));
    let down = start.elapsed();
    let (longest, sent) = world.settle();
    println!(
        "failover {routes}: {:.3?}, of it {down:.3?} at once, longest step {longest:.3?}, {sent} bytes out",
        start.elapsed()
    );
}

/// Reflector clients, each with 15 prefixes, and everybody gets everything.
fn peers(count: u32) {
    let feeds: Vec<Vec<u8>> = (1..=count).map(|n| own_feed(n, 15)).collect();
    let mut world = World::new(count, false);
    (1..=count).for_each(|n| world.join(PeerId(n)));
    let (start, mut sent, mut pieces) = (Instant::now(), 0, 0);
    for (some, first) in feeds.chunks(8).zip((1..).step_by(8)) {
        for (feed, n) in some.iter().zip(first..) {
            world.read(PeerId(n), feed);
        }
        let mut changes = Vec::new();
        world.rib.decide(&|_, _| Some(0), Selection { multipath: 1, backups: true }, usize::MAX, &mut changes);
        for chunk in world.group.export(&changes) {
            for n in 1..=count {
                for bytes in chunk.bytes_for(PeerId(n)) {
                    sent += black_box(bytes).len();
                    pieces += 1;
                }
            }
        }
    }
    println!("{count} peers: {:.3?}, {sent} bytes out in {pieces} pieces", start.elapsed());
}

/// What a scrape asks of a table with 500 peers, and what the estimate of its memory costs, which a scrape
/// must not ask for.
fn scrape(routes: u32) {
    let mut world = World::new(500, true);
    world.take(PeerId(1), &feed(1, routes));
    let start = Instant::now();
    let counters = (1..=500).filter_map(|n| world.rib.counters(PeerId(n)));
    let received: usize = counters.map(|counters| counters.received).sum();
    let stats = black_box(world.rib.stats());
    println!("{received} routes of 500 peers counted in {:.3?}, {stats:?}", start.elapsed());
    let start = Instant::now();
    println!("memory: {} bytes, estimated in {:.3?}", world.rib.memory(), start.elapsed());
}

struct World {
    rib: Rib,
    group: Group,
    codec: Codec,
}

impl World {
    fn new(peers: u32, external: bool) -> Self {
        let mut rib = Rib::new();
        let node = Arc::new(Node {
            asn: Asn(64512),
            router_id: Ipv4Addr::new(192, 0, 2, 100),
            cluster_id: Ipv4Addr::new(192, 0, 2, 100),
            addresses: [[192, 0, 2, 100].into()].into(),
            subnets: [Prefix::new([10, 244, 7, 0].into(), 24)].into(),
            pools: [Prefix::new([10, 244, 0, 0].into(), 16)].into(),
        });
        let import = Arc::new(Import { scope: ImportScope::All, node, graceful_shutdown: true });
        for n in 1..=peers {
            rib.peer_up(PeerInfo {
                id: PeerId(n),
                asn: Asn(if external { 65000 + n } else { 64512 }),
                external,
                router_id: Ipv4Addr::from_bits(0x0a00_0000 + n),
                address: Ipv4Addr::from_bits(0x0a00_0000 + n).into(),
                client: !external,
                import: import.clone(),
                allow_own_as: 0,
                max_prefixes: None,
            });
        }
        let codec = Codec { four_octet_as: true, external, ..Codec::INITIAL };
        let settings = ExportSettings {
            external,
            client: !external,
            local_asn: Asn(64512),
            cluster_id: Ipv4Addr::new(192, 0, 2, 100),
            next_hop_self: false,
            graceful_shutdown: false,
            ends_ipip: true,
            next_hops: PerFamily::new(Some([192, 0, 2, 100].into()), None),
            families: PerFamily::new(true, false),
            export: Arc::new(Export { scope: ExportScope::All, pools: Arc::new([]) }),
            codec,
        };
        Self { group: Group::new(settings), rib, codec }
    }

    fn join(&mut self, id: PeerId) {
        self.group.join(id, []);
        while !self.group.is_synced(id) {
            self.group.drain(id, &self.rib, 1 << 20);
        }
    }

    fn read(&mut self, from: PeerId, mut bytes: &[u8]) {
        while let Ok(Some(length)) = wire::frame(bytes, &self.codec) {
            let (message, rest) = bytes.split_at(length);
            if let Ok(Message::Update(update)) = wire::decode(message, &self.codec) {
                self.rib.update(from, &update);
            }
            bytes = rest;
        }
    }

    fn take(&mut self, from: PeerId, feed: &[Vec<u8>]) -> (Duration, usize) {
        let (start, mut sent) = (Instant::now(), 0);
        for portion in feed {
            self.read(from, portion);
            sent += self.settle().1;
        }
        (start.elapsed(), sent)
    }

    /// The longest step and how many bytes were to be sent.
    fn settle(&mut self) -> (Duration, usize) {
        let (mut longest, mut sent) = (Duration::ZERO, 0);
        let mut changes = Vec::with_capacity(BATCH);
        while !self.rib.is_settled() {
            let start = Instant::now();
            let selection = Selection { multipath: 1, backups: true };
            self.rib.decide(&|_, _| Some(0), selection, BATCH, &mut changes);
            for chunk in self.group.export(&changes) {
                sent += chunk.bytes_for(PeerId(9)).map(|bytes| black_box(bytes).len()).sum::<usize>();
            }
            changes.clear();
            longest = longest.max(start.elapsed());
        }
        (longest, sent)
    }
}

/// Messages of one source, in portions of about 32 KiB.
fn feed(n: u32, routes: u32) -> Vec<Vec<u8>> {
    let mut random = Random(7);
    let mut runs = Vec::new();
    let mut slot = 0;
    while slot < routes {
        let length = 1 + random.below(4).min(routes - slot - 1);
        runs.push(slot..(slot + length).min(routes));
        slot += length;
    }
    for i in (1..runs.len()).rev() {
        runs.swap(i, random.below(u32::try_from(i + 1).unwrap_or(u32::MAX)) as usize);
    }
    let mut slots = runs.into_iter().flatten();
    let codec = Codec { four_octet_as: true, external: true, ..Codec::INITIAL };
    let mut portions = vec![Vec::new()];
    for i in 0.. {
        let count = 5 + random.below(6) as usize;
        let prefixes: Vec<Prefix> = slots.by_ref().take(count).map(prefix).collect();
        if prefixes.is_empty() {
            break;
        }
        if portions.last().is_some_and(|portion| portion.len() > 32 << 10) {
            portions.push(Vec::new());
        }
        let tail = (0..random.below(6)).map(|_| Asn(1 + random.below(60_000))).collect::<Vec<_>>();
        let path: Vec<Asn> = std::iter::once(Asn(65000 + n)).chain(tail).collect();
        let communities =
            if i % 2 == 0 { (0..3).map(|_| Community(random.below(1 << 20))).collect() } else { Box::default() };
        let attrs = Attrs {
            as_path: AsPath::from_segments([(SegmentKind::Sequence, &path[..])]),
            communities,
            ..Attrs::originate([192, 0, 2, 1].into())
        };
        if let Some(portion) = portions.last_mut() {
            let _ = wire::encode_reach(&attrs, &prefixes, &codec, portion);
        }
    }
    portions
}

/// What one of many peers has to say.
fn own_feed(n: u32, count: u32) -> Vec<u8> {
    let codec = Codec { four_octet_as: true, external: false, ..Codec::INITIAL };
    let mut bytes = Vec::new();
    let prefixes: Vec<Prefix> = (n * 32..n * 32 + count).map(prefix).collect();
    for some in prefixes.chunks(8) {
        let path = [Asn(n), Asn(some.len().try_into().unwrap_or(u32::MAX))];
        let attrs = Attrs {
            as_path: AsPath::from_segments([(SegmentKind::Sequence, &path[..])]),
            local_pref: Some(100),
            ..Attrs::originate(Ipv4Addr::from_bits(0x0a00_0000 + n).into())
        };
        let _ = wire::encode_reach(&attrs, some, &codec, &mut bytes);
    }
    bytes
}

fn prefix(slot: u32) -> Prefix {
    let len = match slot {
        _ if slot.is_multiple_of(256) => 16,
        _ if slot.is_multiple_of(16) => 20,
        _ if slot.is_multiple_of(4) => 22,
        _ if slot.is_multiple_of(2) => 23,
        _ => 24,
    };
    Prefix::new(Ipv4Addr::from_bits(0x1400_0000 + (slot << 8)).into(), len)
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed >> 33) % u64::from(limit)) as u32
    }
}

/// KiB of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}
