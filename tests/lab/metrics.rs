//! Metrics against what really happened: packets stopped by a smaller MTU, devices used, routes that came
//! and went, tables compared; and a scrape while the daemon is busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::harness::agent::{Agent, ROUTE, SESSION};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::speaker::{Speaker, UPDATE, Who, message, nlri, update};
use crate::harness::{announce, holds};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

/// A router that announces these.
fn tor(rack: &Rack, prefixes: &[&str]) -> (Bird, impl Fn(&[&str]) -> String) {
    let text = |prefixes: &[&str]| {
        // A busy machine is not to end sessions here.
        let options = "hold time 240;";
        let session = Neighbor { options, ..Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS)) };
        config("10.0.0.1", &[session], prefixes, "")
    };
    (Bird::start(&rack.lab, &rack.tor, &text(prefixes)), text)
}

fn host(rack: &Rack) -> Agent {
    let peer = "hold_time = \"240s\"";
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, peer).text());
    agent.wait_established(&["tor"]);
    agent
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The values of a label in the series of a family.
fn labels(text: &str, family: &str, label: &str) -> Vec<String> {
    let series = text.lines().filter(|line| line.starts_with(&format!("{family}{{")));
    let start = format!("{label}=\"");
    series.filter_map(|line| Some(line.split_once(&start)?.1.split_once('"')?.0.to_owned())).collect()
}

#[test]
fn what_the_kernel_of_the_host_tells() {
    let rack = Rack::new();
    // What holds the subnet, as docker0 does, and what has nothing to do with us.
    rack.host.batch(&[
        "link add docker0 type veth peer name d1",
        "addr add 10.244.7.1/24 dev docker0",
        "link set docker0 up",
        "link add other type veth peer name o1",
        "addr add 198.51.100.1/24 dev other",
        "link set other up",
    ]);
    let container = rack.lab.container(&rack.host, "box", &["10.244.7.10", "fd44:7::10"]);
    let (_tor, _) = tor(&rack, &["10.244.1.0/24"]);
    rack.tor.batch(&["route add 10.244.7.0/24 via 10.0.0.2", "route add fd44:7::/64 via fd00::2"]);
    let agent = host(&rack);
    agent.wait_installed("10.244.1.0/24");

    let (_, text) = agent.http("/metrics").unwrap();
    let devices = labels(&text, "wayleave_interface_receive_bytes_total", "device");
    let tunnel = agent.status()["tunnel"]["device"].is_string();
    let wanted: Vec<&str> = ["docker0", "eth0"].into_iter().chain(tunnel.then_some("wayleave0")).collect();
    assert_eq!(devices, wanted, "what our packets pass, and no container");
    assert_eq!(agent.metric("wayleave_tunnel_up"), Some(f64::from(u8::from(tunnel))));
    assert_eq!(labels(&text, "wayleave_tunnel_errors_total", "kind").len(), if tunnel { 7 } else { 0 });

    // Device counters are the kernel's.
    let shown = agent.metric("wayleave_interface_transmit_packets_total{device=\"eth0\"}").unwrap();
    let link = rack.host.ip_json("-s link show dev eth0");
    let kernel = link[0]["stats64"]["tx"]["packets"].as_f64().unwrap();
    assert!(shown > 0.0 && shown <= kernel && kernel - shown < 50.0, "{shown} {kernel}");

    // The way out gets narrow: who must not fragment is told, who may is fragmented.
    rack.host.ip("link set eth0 mtu 1400");
    let count = |family: &str| agent.metric(&format!("wayleave_fragmentation_needed_total{{family=\"{family}\"}}"));
    assert_eq!((count("ipv4"), count("ipv6")), (Some(0.0), Some(0.0)));
    container.ping_with("10.0.0.1", 1, &["-s", "1450", "-M", "dont"]);
    assert_eq!(count("ipv4"), Some(0.0), "what may be fragmented needs nothing");
    for told in 1..=3 {
        // Else the container knows, and sends no second one.
        container.ip("route flush cache");
        container.ping_with("10.0.0.1", 1, &["-s", "1450", "-M", "do"]);
        assert_eq!(count("ipv4"), Some(f64::from(told)));
    }
    container.ping_with("fd00::1", 1, &["-6", "-s", "1450", "-M", "do"]);
    assert_eq!((count("ipv4"), count("ipv6")), (Some(3.0), Some(1.0)));

    // Tables that can be full.
    let limit = agent.metric("wayleave_neighbours_limit").unwrap();
    for family in ["ipv4", "ipv6"] {
        let entries = agent.metric(&format!("wayleave_neighbours{{family=\"{family}\"}}")).unwrap();
        assert!(entries >= 1.0 && limit >= 128.0, "{family}: {entries} of {limit}");
    }
    let conntrack = rack.host.command("cat").arg("/proc/sys/net/netfilter/nf_conntrack_max").output().unwrap();
    let tracked = String::from_utf8_lossy(&conntrack.stdout).trim().parse::<f64>().ok();
    // Our own table translates addresses, and with it the kernel tracks.
    assert!(tracked.is_some_and(|limit| limit > 0.0), "{tracked:?}");
    assert_eq!(agent.metric("wayleave_conntrack_limit"), tracked);
    assert!(agent.metric("wayleave_conntrack_entries").is_some());

    // The daemon itself.
    let fds = std::fs::read_dir(format!("/proc/{}/fd", agent.id())).unwrap().count();
    let open = agent.metric("wayleave_process_open_fds").unwrap();
    #[expect(clippy::cast_precision_loss, reason = "some dozens")]
    let difference = (open - fds as f64).abs();
    assert!(difference < 10.0, "{open} {fds}");
    let threads = std::fs::read_dir(format!("/proc/{}/task", agent.id())).unwrap().count();
    assert!(threads > 1 && agent.metric("wayleave_process_threads").unwrap() > 1.0);
    let age = now() - agent.metric("wayleave_process_start_time_seconds").unwrap();
    assert!((0.0..600.0).contains(&age), "{age}");
    assert!(agent.metric("wayleave_process_max_fds").unwrap() >= open);
}

#[test]
fn what_changed_and_when() {
    let rack = Rack::new();
    let all = ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"];
    let (bird, text) = tor(&rack, &all);
    let began = now();
    let agent = host(&rack);
    for prefix in all {
        agent.wait_installed(prefix);
    }
    let changed =
        |kind: &str| agent.metric(&format!("wayleave_bgp_routes_changed_total{{kind=\"{kind}\",peer=\"tor\"}}"));
    let session = || agent.metric("wayleave_bgp_session_last_change_timestamp_seconds{peer=\"tor\"}").unwrap();
    let tables =
        || ["rib", "fib"].map(|what| agent.metric(&format!("wayleave_{what}_last_change_timestamp_seconds")).unwrap());
    assert_eq!((changed("announced"), changed("withdrawn")), (Some(3.0), Some(0.0)));
    let (came_up, before) = (session(), tables());
    assert!(came_up >= began && before.iter().all(|at| (began..now()).contains(at)), "{came_up} {before:?}");

    bird.reconfigure(&text(&all[..2]));
    // With the subnets of the node itself.
    holds("two routes", ROUTE, || agent.metric("wayleave_fib_routes_installed") == Some(4.0));
    assert_eq!((changed("announced"), changed("withdrawn")), (Some(3.0), Some(1.0)));
    holds("both tables changed", ROUTE, || tables().iter().zip(before).all(|(after, before)| *after > before));
    assert!((session() - came_up).abs() < f64::EPSILON, "the session did not");

    drop(bird);
    holds("the session is lost", SESSION, || {
        agent.metric("wayleave_bgp_session_established{peer=\"tor\"}") == Some(0.0)
    });
    let lost = session();
    assert!(lost > came_up);
    let state = || agent.peer("tor").unwrap()["since"].clone();
    let tried = state();
    holds("it tries again", SESSION, || state() != tried);
    assert!((session() - lost).abs() < f64::EPSILON, "attempts change nothing");
}

#[test]
fn a_comparison_with_the_kernel_is_told() {
    let rack = Rack::new();
    let (_tor, _) = tor(&rack, &["10.244.1.0/24", "10.244.2.0/24"]);
    let agent = host(&rack);
    agent.wait_installed("10.244.1.0/24");
    agent.wait_installed("10.244.2.0/24");
    let checks = |result: &str| agent.metric(&format!("wayleave_fib_checks_total{{result=\"{result}\"}}"));
    // Both are there with their zero.
    assert!(checks("agreed").is_some() && checks("differed") == Some(0.0));

    // More happens than the kernel keeps for who doesn't listen, and one thing of it is about us.
    agent.signal(Signal::SIGSTOP);
    let events: Vec<String> = (0..20_000).map(|n| format!("link set dev lo alias name{n}")).collect();
    rack.host.batch(&events);
    rack.host.ip("route del 10.244.1.0/24 proto 87");
    agent.signal(Signal::SIGCONT);

    holds("the comparison found it", ROUTE, || checks("differed") >= Some(1.0));
    let check = agent.status()["fib"]["check"].clone();
    assert!(check["at"].is_string() && check["differed"].as_u64() >= Some(1), "{check}");
    let at = agent.metric("wayleave_fib_last_check_timestamp_seconds").unwrap();
    assert!((0.0..60.0).contains(&(now() - at)));
    agent.wait_installed("10.244.1.0/24");
    let text = String::from_utf8_lossy(&agent.cli(&["status"]).stdout).into_owned();
    assert!(text.contains("compared with the kernel"), "{text}");
}

/// A router whose whole table comes and goes, without end.
struct Load {
    told_to_end: Arc<AtomicBool>,
    thread: JoinHandle<Speaker>,
}

impl Load {
    fn start(rack: &Rack, routes: u32) -> Self {
        let who = Who {
            local: [10, 0, 0, 1].into(),
            remote: [10, 0, 0, 2].into(),
            asn: TOR_AS,
            four_octet_as: false,
            ipv6: false,
        };
        let speaker = Speaker::connect(&rack.tor, &who);
        let told_to_end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&told_to_end);
        // ORIGIN, AS_PATH, NEXT_HOP
        let asn = u16::try_from(TOR_AS).unwrap().to_be_bytes();
        let attrs = [&[0x40, 1, 1, 0, 0x40, 2, 4, 2, 1][..], &asn, &[0x40, 3, 4, 10, 0, 0, 1]].concat();
        let prefixes: Vec<Vec<u8>> = (0..routes).map(|n| nlri((0x1400_0000 + (n << 8)).into(), 24)).collect();
        // As many to a message as its 4096 octets have room for.
        let blocks: Vec<Vec<u8>> = prefixes.chunks(1000).map(<[Vec<u8>]>::concat).collect();
        let thread = std::thread::spawn(move || {
            loop {
                for block in &blocks {
                    speaker.send(&update(&attrs, block));
                }
                if ends.load(Ordering::Relaxed) {
                    return speaker;
                }
                for block in &blocks {
                    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
                    speaker.send(&message(UPDATE, &[&length[..], block, &[0, 0]].concat()));
                }
            }
        });
        Self { told_to_end, thread }
    }

    /// The table stays from now on, as long as who told it does.
    fn end(self) -> Speaker {
        self.told_to_end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn a_scrape_answers_while_a_table_is_loaded() {
    const ROUTES: u32 = 50_000;
    let rack = Rack::new();
    let options = "passive = true; import = \"all\"; max_prefixes = 0; hold_time = \"240s\"";
    let agent =
        Agent::start_quiet(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, options).text());
    let load = Load::start(&rack, ROUTES);
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or_default()
    };
    let (mut took, mut oldest, mut progress, mut before) = (Vec::new(), 0.0_f64, 0, [0.0; 2]);
    holds("routes are decided and written from one scrape to another", Duration::from_secs(240), || {
        let began = Instant::now();
        let Some((200, text)) = agent.http("/metrics") else { return false };
        took.push(began.elapsed());
        oldest = oldest.max(value(&text, "wayleave_snapshot_age_seconds"));
        let now = ["wayleave_netlink_routes_acknowledged_total", "wayleave_rib_last_change_timestamp_seconds"]
            .map(|name| value(&text, name));
        if now.iter().zip(before).all(|(now, before)| *now > before) {
            (progress, before) = (progress + 1, now);
        }
        progress == 10
    });
    took.sort();
    let (usual, worst) = (took[took.len() / 2], took[took.len() - 1]);
    announce(&format!("{} scrapes during the load: usually {usual:?}, worst {worst:?}, oldest {oldest} s", took.len()));
    // Half a second and a moment by design. Who scrapes gives up after 10 s, if nothing else is said. One alone may
    // have met a machine that was busy with something else.
    assert!(usual < Duration::from_secs(10), "scrapes took {usual:?} while a table was loaded");
    let _speaker = load.end();
    holds("all of it in the kernel", Duration::from_secs(240), || {
        agent.metric("wayleave_fib_routes_installed") >= Some(f64::from(ROUTES))
    });
}
