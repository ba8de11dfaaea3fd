//! Traffic by remote node as agents count it: known numbers of packets of a known size, seen exactly, whatever
//! happens to agent, table and routes meanwhile.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{self, ETCD, POOL, boxes, host, inside, wait_meshed};
use crate::harness::agent::{Agent, ROUTE, SESSION, WAYLEAVE};
use crate::harness::etcd::Etcd;
use crate::harness::speaker::{Speaker, UPDATE, Who, message, nlri, update};
use crate::harness::wait::bound;
use crate::harness::{Lab, Netns, holds};

/// Bytes of a packet with its headers: 20 of IP, 8 of UDP.
const SIZE: f64 = 128.0;
const PAYLOAD: usize = 100;
const PORT: u16 = 7101;

/// Sends packets one at a time, each when the one before has come.
fn send(from: &Netns, to: &Netns, target: &str, packets: u32) {
    let target: IpAddr = target.parse().unwrap();
    let receiver = to.run(|| bound(|| UdpSocket::bind(SocketAddr::new(target, PORT))));
    let sender = from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for _ in 0..packets {
        sender.send_to(&[0; PAYLOAD], (target, PORT)).unwrap();
        receiver.recv(&mut [0; PAYLOAD]).expect("each packet arrives");
    }
}

fn series(name: &str, direction: &str, node: &str, path: &str) -> String {
    format!("wayleave_forwarding_{name}_total{{direction=\"{direction}\",node=\"{node}\",path=\"{path}\"}}")
}

fn packets(agent: &Agent, direction: &str, node: &str) -> Option<f64> {
    agent.metric(&series("packets", direction, node, "direct"))
}

/// Both directions, in packets, with the bytes that go with them.
fn expect(agent: &Agent, why: &str, node: &str, transmit: f64, receive: f64) {
    for (direction, wanted) in [("transmit", transmit), ("receive", receive)] {
        assert_eq!(packets(agent, direction, node), Some(wanted), "{why}: {direction} {node}");
        let bytes = agent.metric(&series("bytes", direction, node, "direct"));
        assert_eq!(bytes, Some(wanted * SIZE), "{why}: {direction} {node} in bytes");
        assert_eq!(agent.metric(&series("packets", direction, node, "tunnel")), Some(0.0), "{why}");
    }
}

/// Waits until a prefix is counted, and for whom.
fn wait_counted(agent: &Agent, prefix: &str, node: &str) {
    holds(&format!("{prefix} is counted for {node}"), SESSION, || {
        let traffic = traffic(agent);
        let nodes = traffic["nodes"].as_array().cloned().unwrap_or_default();
        let has = |one: &Value| one["subnets"].as_array().is_some_and(|subnets| subnets.contains(&prefix.into()));
        nodes.iter().any(|one| one["node"] == node && has(one))
    });
}

/// `GET /v1/traffic`
fn traffic(agent: &Agent) -> Value {
    agent.control("/v1/traffic").unwrap_or_default()
}

/// Scrapes until a number of packets is reached: it comes from below, and never falls.
fn reaches(agent: &Agent, why: &str, direction: &str, node: &str, wanted: f64) {
    let mut last = 0.0;
    holds(why, SESSION, || {
        let Some(now) = packets(agent, direction, node) else { return false };
        assert!(now >= last && now <= wanted, "{why}: {direction} {node} went from {last} to {now}, not to {wanted}");
        last = now;
        now >= wanted
    });
}

fn repaired(agent: &Agent) -> f64 {
    agent.metric("wayleave_repairs_total{kind=\"traffic\"}").unwrap()
}

/// Two hosts on one link, a container each, and no store.
struct Pair {
    lab: Lab,
    agents: [Agent; 2],
    boxes: [Netns; 2],
}

fn alone(number: usize, more: &str) -> String {
    let (own, other) = (number + 1, 2 - number);
    format!(
        "[node]\nname = \"h{own}\"\naddress = \"10.0.0.{own}\"\n[network]\npools = [\"10.244.0.0/16\"]\nsubnets = [\"10.244.{own}.0/24\"]\n\
         tunnel = \"never\"\nmasquerade = false\n[bgp]\nasn = 64512\nconnect_retry = \"1s\"\n\
         [[bgp.peers]]\nname = \"other\"\naddress = \"10.0.0.{other}\"\nasn = 64512\n[metrics]\n{more}\n"
    )
}

impl Pair {
    fn new() -> Self {
        let lab = Lab::new();
        let spaces = [1, 2].map(|number| lab.router(&format!("h{number}")));
        lab.link((&spaces[0], "eth0", &["10.0.0.1/24"]), (&spaces[1], "eth0", &["10.0.0.2/24"]));
        let agents = [0, 1].map(|number| Agent::start(&lab, &spaces[number], &alone(number, "")));
        let boxes = [0, 1].map(|number| {
            lab.container(&spaces[number], &format!("box-{number}"), &[&format!("10.244.{}.10", number + 1)])
        });
        agents[0].wait_installed("10.244.2.0/24");
        agents[1].wait_installed("10.244.1.0/24");
        wait_counted(&agents[0], "10.244.2.0/24", "10.0.0.2");
        wait_counted(&agents[1], "10.244.1.0/24", "10.0.0.1");
        Self { lab, agents, boxes }
    }

    fn there(&self, packets: u32) {
        send(&self.boxes[0], &self.boxes[1], "10.244.2.10", packets);
    }

    fn back(&self, packets: u32) {
        send(&self.boxes[1], &self.boxes[0], "10.244.1.10", packets);
    }
}

#[test]
fn counts_are_exact_across_restarts_and_reloads() {
    let mut pair = Pair::new();
    pair.there(50);
    pair.back(30);
    expect(&pair.agents[0], "by next hop, without a store", "10.0.0.2", 50.0, 30.0);
    expect(&pair.agents[1], "from the other end", "10.0.0.1", 30.0, 50.0);

    // Between own containers nothing is counted.
    let second = pair.lab.container(pair.agents[0].netns(), "second", &["10.244.1.11"]);
    send(&pair.boxes[0], &second, "10.244.1.11", 20);
    // From the host itself, by whatever address it has.
    send(pair.agents[0].netns(), &pair.boxes[1], "10.244.2.10", 5);
    assert_eq!(packets(&pair.agents[0], "transmit", "10.0.0.2"), Some(55.0), "what the host sends itself counts");
    assert_eq!(packets(&pair.agents[1], "receive", "10.0.0.1"), Some(50.0), "by the address it comes from");
    assert_eq!(packets(&pair.agents[0], "transmit", "other"), Some(0.0));

    pair.agents[0].kill();
    pair.there(20);
    pair.agents[0].launch(&pair.lab);
    reaches(&pair.agents[0], "counted on", "transmit", "10.0.0.2", 75.0);
    assert_eq!(packets(&pair.agents[0], "receive", "10.0.0.2"), Some(30.0));
    pair.agents[0].terminate();
    pair.back(10);
    pair.agents[0].launch(&pair.lab);
    reaches(&pair.agents[0], "counted on", "receive", "10.0.0.2", 40.0);

    // The only place goes, and comes back.
    pair.agents[0].reload(&alone(0, "forwarding_top = 0"));
    holds("no series of its own", ROUTE, || packets(&pair.agents[0], "transmit", "10.0.0.2").is_none());
    pair.there(7);
    holds("the rest is one sum", ROUTE, || packets(&pair.agents[0], "transmit", "other") == Some(7.0));
    assert_eq!(pair.agents[0].metric("wayleave_forwarding_nodes{series=\"other\"}"), Some(1.0));
    pair.agents[0].kill();
    pair.there(2);
    pair.agents[0].launch(&pair.lab);
    reaches(&pair.agents[0], "so after a restart", "transmit", "other", 9.0);
    pair.agents[0].reload(&alone(0, ""));
    holds("its own series goes on", ROUTE, || packets(&pair.agents[0], "transmit", "10.0.0.2") == Some(75.0));
    pair.there(1);
    assert_eq!(packets(&pair.agents[0], "transmit", "10.0.0.2"), Some(76.0));
    assert_eq!(packets(&pair.agents[0], "transmit", "other"), Some(9.0));
}

#[test]
fn what_somebody_removes_is_made_again() {
    let mut pair = Pair::new();
    let agent = &pair.agents[0];
    pair.there(50);
    expect(agent, "at first", "10.0.0.2", 50.0, 0.0);
    let mut sum = 50.0;
    for (number, script) in [
        "flush table inet wayleave_traffic",
        "delete table inet wayleave_traffic",
        "flush set inet wayleave_traffic transmit_direct_ipv4_24",
        "flush ruleset",
        "add element inet wayleave_traffic transmit_direct_ipv4_24 { 10.244.77.0 }",
    ]
    .into_iter()
    .enumerate()
    {
        // Read by whoever scrapes: what comes after that and before the removal is lost with the table.
        assert_eq!(packets(agent, "transmit", "10.0.0.2"), Some(sum));
        agent.netns().nft(&format!("{script}\n"));
        holds(&format!("{script}: put right"), ROUTE, || {
            repaired(agent) >= f64::from(u32::try_from(number + 1).unwrap())
        });
        pair.there(5);
        sum += 5.0;
        assert_eq!(packets(agent, "transmit", "10.0.0.2"), Some(sum), "{script}: counts go on, not back");
    }
    let status = agent.status();
    let repairs = status["repairs"].as_array().unwrap().iter().find(|one| one["kind"] == "traffic").cloned().unwrap();
    assert!(repairs["count"].as_u64() >= Some(5), "{repairs}");
    pair.agents[0].kill();
    // A reboot: nothing of it is there any more.
    pair.agents[0].netns().nft("delete table inet wayleave_traffic\n");
    pair.agents[0].launch(&pair.lab);
    wait_counted(&pair.agents[0], "10.244.2.0/24", "10.0.0.2");
    expect(&pair.agents[0], "from the beginning", "10.0.0.2", 0.0, 0.0);

    let shown = |agent: &Agent| agent.status()["traffic"].clone();
    assert_eq!(shown(&pair.agents[0])["counted"], true);
    pair.agents[0].reload(&alone(0, "forwarding = false"));
    let counted = || pair.agents[0].metric("wayleave_forwarding_counted");
    holds("turned off", ROUTE, || counted() == Some(0.0));
    let tables = |space: &Netns| space.command("nft").args(["list", "tables"]).output().unwrap().stdout;
    let table_is_there = |space: &Netns| String::from_utf8_lossy(&tables(space)).contains("wayleave_traffic");
    assert!(!table_is_there(pair.agents[0].netns()));
    assert!(pair.agents[0].metric("wayleave_forwarding_packets_total").is_none());
    let said = String::from_utf8(pair.agents[0].cli(&["status"]).stdout).unwrap();
    assert!(said.contains("not counted: metrics.forwarding = false"), "{said}");
    let refused = pair.agents[0].cli(&["top", "--once"]);
    assert_eq!(refused.status.code(), Some(1));
    pair.agents[0].reload(&alone(0, ""));
    holds("turned on", ROUTE, || counted() == Some(1.0));

    pair.agents[0].terminate();
    assert!(table_is_there(pair.agents[0].netns()));
    let mut clean = pair.agents[0].netns().command(WAYLEAVE);
    let clean = clean.args(["clean", "--config"]).arg(pair.agents[0].config_path()).output().unwrap();
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stdout));
    assert!(!table_is_there(pair.agents[0].netns()));
    assert!(!pair.lab.path("h1.state/traffic.json").exists());
}

#[test]
fn what_changes_while_repairs_are_held_back_does_not_end_the_counting() {
    const LIMIT: Duration = Duration::from_secs(90);
    let pair = Pair::new();
    let agent = &pair.agents[0];
    let in_place = || {
        let list = agent.netns().command("nft").args(["list", "table", "inet", "wayleave_traffic"]).output().unwrap();
        String::from_utf8_lossy(&list.stdout).contains("goto transmit_direct_ipv4")
    };
    for _ in 0..6 {
        agent.netns().nft("delete table inet wayleave_traffic\n");
        holds("put right, for the last time at once", LIMIT, in_place);
    }
    // Each time elements are looked after before anybody has looked at the table.
    for (number, script) in ["delete table inet wayleave_traffic", "flush chain inet wayleave_traffic transmit"]
        .into_iter()
        .cycle()
        .take(4)
        .enumerate()
    {
        agent.netns().nft(&format!("{script}\n"));
        agent.reload(&alone(0, &format!("forwarding_top = {}", 50 + number)));
        holds(script, LIMIT, || in_place() && agent.metric("wayleave_forwarding_counted") == Some(1.0));
    }
    pair.there(5);
    expect(agent, "counted as before", "10.0.0.2", 5.0, 0.0);
}

#[test]
fn nodes_of_a_store_come_and_go_among_the_largest() {
    let lab = Lab::new();
    let rack = cluster::Rack::new(&lab, 4);
    let _etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    for space in &rack.hosts {
        space.sysctl("net/ipv4/ip_forward", "1");
    }
    let file = |number: usize, top: usize| host(number, POOL, "") + &format!("[metrics]\nforwarding_top = {top}\n");
    let mut agents: Vec<Agent> = (0..3).map(|n| Agent::start(&lab, &rack.hosts[n], &file(n, 1))).collect();
    let held = wait_meshed(&agents.iter().collect::<Vec<_>>());
    let [a, b] = boxes(&lab, [&agents[0], &agents[1]], &held);
    let c = lab.container(&rack.hosts[2], "box-2", &[&inside(&held[2])]);
    for (number, subnet) in held.iter().enumerate().skip(1) {
        wait_counted(&agents[0], subnet, &format!("h{number}"));
    }
    // Who came first has the one place.
    let first = if packets(&agents[0], "transmit", "h1").is_some() { 1 } else { 2 };
    let second = 3 - first;
    let spaces = [&a, &b, &c];
    let name = |number: usize| format!("h{number}");
    send(&a, spaces[first], &inside(&held[first]), 40);
    send(&a, spaces[second], &inside(&held[second]), 25);
    send(spaces[second], &a, &inside(&held[0]), 15);
    expect(&agents[0], "its own", &name(first), 40.0, 0.0);
    expect(&agents[0], "the rest", "other", 25.0, 15.0);
    assert_eq!(packets(&agents[0], "transmit", &name(second)), None);
    let traffic = traffic(&agents[0]);
    let of =
        |number: usize| traffic["nodes"].as_array().unwrap().iter().find(|one| one["node"] == name(number)).cloned();
    let shown = of(second).unwrap();
    assert_eq!((&shown["series"], &shown["transmit"]["direct"]["packets"]), (&"other".into(), &25.into()), "{shown}");
    assert_eq!(shown["address"], cluster::address(second));

    // A fourth comes, the second goes: nothing goes back.
    agents.push(Agent::start(&lab, &rack.hosts[3], &file(3, 1)));
    let all = wait_meshed(&agents.iter().collect::<Vec<_>>());
    wait_counted(&agents[0], &all[3], "h3");
    let d = lab.container(&rack.hosts[3], "box-3", &[&inside(&all[3])]);
    send(&d, &a, &inside(&held[0]), 5);
    expect(&agents[0], "one more among the others", "other", 25.0, 20.0);
    let released = agents[second].cli(&["lease", "release", &held[second]]);
    assert!(released.status.success(), "{}", String::from_utf8_lossy(&released.stderr));
    agents[0].kill();
    send(&d, &a, &inside(&held[0]), 5);
    agents[0].launch(&lab);
    reaches(&agents[0], "counted on", "receive", "other", 25.0);
    expect(&agents[0], "after a restart", &name(first), 40.0, 0.0);
    expect(&agents[0], "after a restart", "other", 25.0, 25.0);
    // With room for all nobody's past is thrown in anybody's lap.
    agents[0].reload(&file(0, 10));
    holds("its own series", ROUTE, || packets(&agents[0], "receive", "h3").is_some());
    send(&d, &a, &inside(&held[0]), 3);
    expect(&agents[0], "what passes from now on", "h3", 0.0, 3.0);
    expect(&agents[0], "what passed before", "other", 25.0, 25.0);
}

/// Announces, or withdraws, `count` prefixes of 4 addresses within 10.244.128.0/17.
fn churn(count: u32, next_hop: Option<[u8; 4]>) -> Vec<u8> {
    let prefixes: Vec<Vec<u8>> = (0..count).map(|i| nlri(Ipv4Addr::from_bits(0x0af4_8000 + i * 4), 30)).collect();
    let chunks = prefixes.chunks(500).map(<[Vec<u8>]>::concat);
    let messages = chunks.map(|chunk| {
        let Some(next_hop) = next_hop else {
            let length = u16::try_from(chunk.len()).unwrap().to_be_bytes();
            return message(UPDATE, &[&length[..], &chunk, &[0, 0]].concat());
        };
        let path = [&[0x40, 1, 1, 0, 0x40, 2, 4, 2, 1][..], &65066_u16.to_be_bytes()].concat();
        update(&[&path[..], &[0x40, 3, 4], &next_hop].concat(), &chunk)
    });
    messages.collect::<Vec<_>>().concat()
}

#[test]
fn scrapes_and_counts_stand_ten_thousand_route_updates() {
    let pair = Pair::new();
    let (agent, remote) = (&pair.agents[0], pair.agents[1].netns());
    // One more speaker on the link, whose routes come and go and lead now here, now there.
    remote.ip("addr add 10.0.0.66/24 dev eth0");
    let third = "\n[[bgp.peers]]\nname = \"churn\"\naddress = \"10.0.0.66\"\nasn = 65066\npassive = true\n";
    agent.reload(&alone(0, "").replace("[metrics]", &format!("{third}[metrics]")));
    let who = Who {
        local: [10, 0, 0, 66].into(),
        remote: [10, 0, 0, 1].into(),
        asn: 65066,
        four_octet_as: false,
        ipv6: false,
    };
    let speaker = Speaker::connect(remote, &who);
    agent.wait_established(&["churn"]);
    let mut sent = 0;
    let mut longest = Duration::ZERO;
    for round in 0..10 {
        let next_hop = [None, Some([10, 0, 0, 66]), Some([10, 0, 0, 67])][round % 3];
        speaker.send(&churn(1000, next_hop));
        pair.there(20);
        sent += 20;
        let begun = Instant::now();
        assert_eq!(packets(agent, "transmit", "10.0.0.2"), Some(f64::from(sent)), "round {round}");
        longest = longest.max(begun.elapsed());
    }
    assert!(longest < Duration::from_secs(5), "a scrape took {longest:?}");
    // More than there is room for is one sum, and said.
    speaker.send(&churn(6000, Some([10, 0, 0, 66])));
    holds("all that there is room for", SESSION, || {
        let status = &traffic(agent)["status"];
        status["prefixes"] == 4096 && status["prefixes_beyond"].as_u64() >= Some(1900)
    });
    pair.there(20);
    assert_eq!(packets(agent, "transmit", "10.0.0.2"), Some(f64::from(sent + 20)));
    let said = String::from_utf8(agent.cli(&["status"]).stdout).unwrap();
    assert!(said.contains("have no room"), "{said}");
    agent.signal(nix::sys::signal::Signal::SIGHUP);
    pair.there(20);
    assert_eq!(packets(agent, "transmit", "10.0.0.2"), Some(f64::from(sent + 40)));
    assert_eq!(packets(agent, "transmit", "other"), Some(0.0));
}

/// Reads what a terminal is sent until all of these are in it.
fn read_until(output: &mut impl std::io::Read, drawn: &mut String, wanted: &[&str]) {
    while !wanted.iter().all(|text| drawn.contains(text)) {
        let mut bytes = [0; 4096];
        let count = output.read(&mut bytes).unwrap();
        assert!(count > 0, "ended without {wanted:?}: {drawn:?}");
        drawn.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

#[test]
fn top_shows_who_is_busy() {
    let mut pair = Pair::new();
    let agent = &mut pair.agents[0];
    let target = "10.244.2.10:7102";
    let sink = pair.boxes[1].run(|| bound(|| UdpSocket::bind(target)));
    let sender = pair.boxes[0].run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let busy = std::thread::spawn(move || {
        let more = || stopped.recv_timeout(Duration::from_millis(5)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        while more() {
            let _ = sender.send_to(&[0; PAYLOAD], target);
        }
    });
    let once = String::from_utf8(agent.cli(&["top", "--once"]).stdout).unwrap();
    let lines: Vec<&str> = once.lines().collect();
    assert!(lines[0].starts_with("NODE") && lines[1].starts_with("10.0.0.2 "), "{once}");
    assert!(!once.contains('\u{1b}'), "no escapes but for a terminal: {once}");

    let output = agent.cli(&["top", "--json", "--count", "2", "--interval", "500ms"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let rates: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rates.len(), 2, "{text}");
    let rate = &rates[1]["nodes"][0]["transmit"]["direct"];
    let (bits, packets) = (rate["bits_per_second"].as_f64().unwrap(), rate["packets_per_second"].as_f64().unwrap());
    assert!(packets > 1.0 && (bits - packets * SIZE * 8.0).abs() < 1.0, "{rate}");

    // On a terminal: drawn in its second screen, and left as it was, whoever ends it.
    let command = format!("{WAYLEAVE} top --interval 200ms --socket {}", pair.lab.path("h1.sock").display());
    let mut terminal = Command::new("script")
        .args(["-qefc", &format!("stty cols 40 rows 6; exec {command}"), "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of the Debian package bsdutils");
    let mut output = terminal.stdout.take().unwrap();
    let mut drawn = String::new();
    read_until(&mut output, &mut drawn, &["h1: ready", "10.0.0.2"]);
    // The daemon is started anew: that is shown, and what comes after it.
    let mark = drawn.len();
    agent.kill();
    read_until(&mut output, &mut drawn, &["can't reach the daemon"]);
    agent.launch(&pair.lab);
    let mut after = drawn.split_off(mark);
    read_until(&mut output, &mut after, &["h1: ready"]);
    drawn.push_str(&after);
    // A daemon that hangs doesn't keep it from ending.
    agent.signal(nix::sys::signal::Signal::SIGSTOP);
    let top =
        String::from_utf8(Command::new("pgrep").args(["-P", &terminal.id().to_string()]).output().unwrap().stdout)
            .unwrap();
    let top: i32 = top.trim().parse().expect("script has one child");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(top), nix::sys::signal::Signal::SIGINT).unwrap();
    std::io::Read::read_to_string(&mut output, &mut drawn).unwrap();
    agent.signal(nix::sys::signal::Signal::SIGCONT);
    assert_eq!(terminal.wait().unwrap().code(), Some(0), "{drawn:?}");
    assert!(drawn.starts_with("\u{1b}[?1049h") && drawn.trim_end().ends_with("\u{1b}[?1049l"), "{drawn:?}");
    let widest = drawn.split("\r\n").map(|line| line.split('\u{1b}').next().unwrap().chars().count()).max();
    assert!(widest <= Some(40), "{drawn:?}");
    drop(stop);
    busy.join().unwrap();
    drop(sink);
}
