//! What counting traffic by remote node costs: each forwarded packet, and each scrape.
//!
//! Three network namespaces on one machine, so the numbers are ratios of interleaved rounds. Needs root.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a measurement ends by panicking")]

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use wayleave::io::netlink::counters::Counters;
use wayleave::net::{Family, Prefix};
use wayleave::traffic::{Layout, Ledger, Set};

const TABLE: &str = "wayleave_traffic";
const NODES: u32 = 1000;
const ROUNDS: usize = 41;
const ROUND: Duration = Duration::from_millis(300);

fn run(program: &str, args: &str) {
    let output = Command::new(program).args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&output.stderr));
}

fn nft(space: &str, script: &str) {
    let mut child =
        Command::new("ip").args(["netns", "exec", space, "nft", "-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// In a thread of a namespace.
fn within<T: Send + 'static>(space: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let space = File::open(format!("/run/netns/{space}")).unwrap();
    let thread = std::thread::spawn(move || {
        setns(space, CloneFlags::CLONE_NEWNET).unwrap();
        body()
    });
    thread.join().unwrap()
}

/// Namespaces that go with it.
struct Spaces([String; 3]);

impl Drop for Spaces {
    fn drop(&mut self) {
        for space in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", space]).output();
        }
    }
}

fn spaces() -> Spaces {
    let spaces = Spaces(["a", "r", "b"].map(|name| format!("wlbench-{}-{name}", std::process::id())));
    let [a, r, b] = &spaces.0;
    for space in [a, r, b] {
        run("ip", &format!("netns add {space}"));
        run("ip", &format!("-n {space} link set lo up"));
    }
    for (end, device, net) in [(a, "ra", "10.1.0"), (b, "rb", "10.2.0")] {
        run("ip", &format!("-n {r} link add {device} type veth peer name eth0 netns {end}"));
        run("ip", &format!("-n {r} addr add {net}.1/24 dev {device}"));
        run("ip", &format!("-n {end} addr add {net}.2/24 dev eth0"));
        run("ip", &format!("-n {r} link set {device} up"));
        run("ip", &format!("-n {end} link set eth0 up"));
        run("ip", &format!("-n {end} route add default via {net}.1"));
    }
    run("ip", &format!("-n {r} route add 10.244.0.0/14 via 10.2.0.2"));
    // Takes all of it, and drops it as early as can be: what is measured is the middle.
    run("ip", &format!("-n {b} route add blackhole 10.244.0.0/14"));
    let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    within(r, forward);
    spaces
}

fn subnet(node: u32) -> Prefix {
    Prefix::new(Ipv4Addr::from_bits(0x0af4_0000 + (node << 8)).into(), 24)
}

fn layout() -> Layout {
    Layout {
        table: TABLE.to_owned(),
        tunnel: "wayleave0".to_owned(),
        pools: vec!["10.244.0.0/14".parse().unwrap()],
        own: vec!["10.247.255.0/24".parse().unwrap()],
        lengths: [(Family::Ipv4, 0), (Family::Ipv4, 24)].into(),
    }
}

fn put_up(space: &str) {
    nft(space, &layout().script(&[]));
    within(space, || {
        let mut counters = Counters::open(TABLE).unwrap();
        let addrs: Vec<IpAddr> = (0..NODES).map(|node| subnet(node).addr()).collect();
        for set in Set::of(subnet(0)) {
            counters.add(set, &addrs).unwrap();
        }
        for set in Set::of(Prefix::default_route(Family::Ipv4)) {
            counters.add(set, &[Ipv4Addr::UNSPECIFIED.into()]).unwrap();
        }
    });
}

/// Nanoseconds for each packet that is sent and forwarded.
fn blast(socket: &UdpSocket) -> f64 {
    let (begun, mut sent) = (Instant::now(), 0_u32);
    while begun.elapsed() < ROUND {
        for _ in 0..64 {
            let target = Ipv4Addr::from_bits(0x0af4_000a + ((sent % NODES) << 8));
            let _ = socket.send_to(&[0; 64], SocketAddr::new(target.into(), 9));
            sent += 1;
        }
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(sent)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn forwarding(spaces: &Spaces) {
    let [a, r, _] = &spaces.0;
    let socket = within(a, || UdpSocket::bind("10.1.0.2:0").unwrap());
    let (mut without, mut with, mut more) = (Vec::new(), Vec::new(), Vec::new());
    blast(&socket);
    for _ in 0..ROUNDS {
        nft(r, &Layout::remove_script(TABLE));
        let before = blast(&socket);
        put_up(r);
        let after = blast(&socket);
        // Both of a pair within a second: what the machine does besides changes more slowly.
        without.push(before);
        with.push(after);
        more.push(after / before);
    }
    println!(
        "forwarding, {NODES} nodes, UDP 64 B, {ROUNDS} interleaved rounds: {:.0} ns a packet without, {:.0} ns with; ratio {:.3} (middle half {:.3} to {:.3})",
        median(&mut without),
        median(&mut with),
        median(&mut more),
        more[ROUNDS / 4],
        more[ROUNDS * 3 / 4],
    );
}

fn reading(spaces: &Spaces) {
    let (kernel, ledger, totals, kept) = within(&spaces.0[1], || {
        let mut counters = Counters::open(TABLE).unwrap();
        let mut ledger = Ledger::new(100);
        let wanted = (0..NODES).map(|node| (subnet(node), Arc::from(format!("node-{node}")))).collect();
        ledger.want(Instant::now(), &wanted, |family| family == Family::Ipv4, true);
        let sets: Vec<Set> = layout().sets().collect();
        let (mut times, mut readings) = ([const { Vec::new() }; 4], Vec::new());
        for _ in 0..200 {
            let mut at = Instant::now();
            let mut lap = |place: usize| {
                times[place].push(at.elapsed().as_secs_f64() * 1e6);
                at = Instant::now();
            };
            readings.clear();
            for set in &sets {
                counters.read(*set, &mut readings).unwrap();
            }
            lap(0);
            let found = ledger.read(&readings);
            lap(1);
            let totals = ledger.totals();
            lap(2);
            ledger.not_kept();
            let kept = serde_json::to_vec(&ledger.to_keep(1).unwrap()).unwrap();
            lap(3);
            assert!(found.missing.is_empty() && totals.nodes.len() == NODES as usize && !kept.is_empty());
        }
        let [mut kernel, mut ledger, mut totals, mut kept] = times;
        (median(&mut kernel), median(&mut ledger), median(&mut totals), median(&mut kept))
    });
    println!(
        "reading {NODES} nodes ({} counters): {kernel:.0} us from the kernel, {ledger:.0} us to book, {totals:.0} us to add up; {kept:.0} us for the file, when something changes",
        4 * NODES
    );
}

fn main() {
    // `cargo test` runs benches too, and the tests of the lab look at all of this.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let spaces = spaces();
    put_up(&spaces.0[1]);
    reading(&spaces);
    forwarding(&spaces);
}
