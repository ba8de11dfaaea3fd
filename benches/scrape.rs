//! How long a scrape takes to write: 500 peers with all their series, some 10,000.
//! `cargo bench --bench scrape [PEERS]`.

#![allow(missing_docs, clippy::expect_used, reason = "a bench ends by panicking")]

use std::time::{Duration, Instant};

use wayleave::metrics::{MessageKind, Metrics, PeerMetrics, PeerSnapshot, Snapshot};

fn main() {
    let count = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(500);
    // `cargo test` runs benches too; one round shows that it works.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { 200 } else { 1 };
    let metrics = Metrics::new().expect("metrics");
    let names: Vec<String> = (0..count).map(|i| format!("rack{:02}-host{i:03}", i % 40)).collect();
    let peers: Vec<PeerMetrics> = names.iter().map(|name| metrics.peer(name)).collect();
    let bfd: Vec<_> = names.iter().map(|name| metrics.bfd(name)).collect();
    let mut now = Snapshot::default();
    for name in &names {
        let peer = PeerSnapshot {
            established: 1,
            received: 12_345,
            accepted: 12_000,
            advertised: 7,
            max_prefixes: Some(10_000),
            rejected: [("outside-pools".to_owned(), 300), ("own-subnet".to_owned(), 45)].into(),
            bfd_up: Some(1),
            ..PeerSnapshot::default()
        };
        now.peers.insert(name.clone(), peer);
    }
    let (mut times, mut text) = (Vec::with_capacity(rounds), Vec::new());
    for round in 0..rounds {
        for (peer, bfd) in peers.iter().zip(&bfd) {
            for kind in MessageKind::ALL {
                peer.received(kind);
            }
            bfd.received();
        }
        now.fib.wanted = round;
        let begun = Instant::now();
        text = metrics.render(&now).expect("text");
        times.push(begun.elapsed());
    }
    times.sort();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or(Duration::ZERO);
    let series =
        text.split(|byte| *byte == b'\n').filter(|line| line.first().is_some_and(|byte| *byte != b'#')).count();
    println!(
        "{series} series, {} KiB: median {:?}, 95 of 100 within {:?}, worst {:?}",
        text.len() / 1024,
        at(50),
        at(95),
        times.last().copied().unwrap_or_default()
    );
}
