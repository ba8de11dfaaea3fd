//! Kernel IP-in-IP, in User-Mode Linux: the kernel these tests start on may have none.
//!
//! Each test runs its own executable again inside the guest (`tests/uml/run`), where namespaces,
//! daemons and probes are made as everywhere else.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::agent::{Agent, ROUTE, WAYLEAVE};
use crate::harness::kernel::{Monitor, our_route, our_routes};
use crate::harness::stream::transfer;
use crate::harness::{Lab, Netns, Probe, holds};
use crate::story::{Config, HOST_AS};

/// Whether this process runs inside the guest.
pub fn inside() -> bool {
    std::env::var_os("WAYLEAVE_UML").is_some()
}

/// Runs the test `name` of this executable in the guest. True: this is the guest, run the body.
pub fn in_uml(name: &str) -> bool {
    if inside() {
        return true;
    }
    let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/uml/run");
    let output = Command::new(runner)
        .args(["-t", "240", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "in User-Mode Linux: {}\n{text}", output.status);
    // A name that matches nothing would pass too.
    assert!(text.contains("1 passed"), "the test did not run in the guest:\n{text}");
    false
}

/// Two racks: hosts a (10.1.0.2) and c (10.1.0.3) on one switch, host b (10.2.0.2) in the other rack,
/// a router between that knows the underlay and nothing of containers. A container behind each host.
struct Racks {
    lab: Lab,
    router: Netns,
    hosts: [Netns; 3],
    boxes: [Netns; 3],
}

const ADDRESSES: [&str; 3] = ["10.1.0.2", "10.2.0.2", "10.1.0.3"];
const SUBNETS: [&str; 3] = ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"];
const BOXES: [&str; 3] = ["10.244.1.2", "10.244.2.2", "10.244.3.2"];

fn racks() -> Racks {
    let lab = Lab::new();
    let router = lab.router("router");
    let hosts = ["a", "b", "c"].map(|name| lab.netns(name));
    // Containers behind a host need it to forward before any daemon runs.
    for host in &hosts {
        host.sysctl("net/ipv4/ip_forward", "1");
    }
    lab.link((&router, "a", &[]), (&hosts[0], "eth0", &["10.1.0.2/24"]));
    lab.link((&router, "c", &[]), (&hosts[2], "eth0", &["10.1.0.3/24"]));
    lab.link((&router, "b", &["10.2.0.1/24"]), (&hosts[1], "eth0", &["10.2.0.2/24"]));
    router.batch(&[
        "link add rack1 type bridge",
        "link set dev a master rack1",
        "link set dev c master rack1",
        "addr add 10.1.0.1/24 dev rack1",
        "link set rack1 up",
    ]);
    for (host, gateway) in hosts.iter().zip(["10.1.0.1", "10.2.0.1", "10.1.0.1"]) {
        host.ip(&format!("route add default via {gateway}"));
    }
    let boxes = [0, 1, 2].map(|i| lab.container(&hosts[i], &format!("box-{}", hosts[i].short()), &[BOXES[i]]));
    Racks { lab, router, hosts, boxes }
}

/// iBGP between all three hosts.
fn start_agents(racks: &Racks) -> [Agent; 3] {
    let agents = [0, 1, 2].map(|i| {
        let mut config = Config::node(
            ADDRESSES[i],
            match i {
                0 => &["10.244.1.0/24"],
                1 => &["10.244.2.0/24"],
                _ => &["10.244.3.0/24"],
            },
        );
        config.network = "tunnel = \"cross-subnet\"";
        for j in (0..3).filter(|j| *j != i) {
            config = config.peer(racks.hosts[j].short(), ADDRESSES[j], HOST_AS, "");
        }
        Agent::start(&racks.lab, &racks.hosts[i], &config.text())
    });
    for (i, agent) in agents.iter().enumerate() {
        for j in (0..3).filter(|j| *j != i) {
            agent.wait_installed(SUBNETS[j]);
        }
    }
    agents
}

/// Packets that left by the tunnel device.
fn tunnelled(host: &Netns) -> u64 {
    host.ip_json("-s link show wayleave0")[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

#[test]
fn the_guest_has_ipip() {
    if !in_uml("uml::the_guest_has_ipip") {
        return;
    }
    // The same tunnel by hand, without the program under test: if this fails, look here first.
    let racks = racks();
    let [a, b, _] = &racks.hosts;
    for (host, local, peer, subnet) in
        [(a, "10.1.0.2", "10.2.0.2", "10.244.2.0/24"), (b, "10.2.0.2", "10.1.0.2", "10.244.1.0/24")]
    {
        host.batch(&[
            format!("link add hand0 type ipip local {local} ttl 64"),
            "link set hand0 up".to_owned(),
            format!("route add {subnet} via {peer} dev hand0 onlink"),
        ]);
    }
    holds("ping through the tunnel", ROUTE, || racks.boxes[0].ping(BOXES[1], 1) == 1);
    let probe = Probe::start(&racks.boxes[0], &racks.boxes[1], BOXES[1]);
    assert_eq!(transfer(&racks.boxes[0], &racks.boxes[1], BOXES[1], 1_000_000), 1_000_000);
    let report = probe.finish();
    assert!(report.lost == 0, "{report:?}");
}

#[test]
fn hosts_behind_a_router_that_knows_no_container() {
    if !in_uml("uml::hosts_behind_a_router_that_knows_no_container") {
        return;
    }
    let racks = racks();
    let mut agents = start_agents(&racks);
    let [a, b, _] = &racks.hosts;

    // Across the racks by IP-in-IP, because the other host says that it ends tunnels.
    let best = agents[0].best(SUBNETS[1]).unwrap();
    assert_eq!(best["hops"], serde_json::json!([{"gateway": "10.2.0.2", "device": "wayleave0", "tunnel": true}]));
    assert!(best["ext_communities"].to_string().contains("encap:ipip"), "{best}");
    assert_eq!(our_route(a, SUBNETS[1]).unwrap().devices(), ["wayleave0"]);
    let device = &a.ip_json("-d link show wayleave0")[0];
    assert_eq!((&device["mtu"], &device["linkinfo"]["info_data"]["local"]), (&1480.into(), &Value::from("10.1.0.2")));
    assert!(a.ip("addr show dev wayleave0").contains("10.244.1.1/32"), "first address of the subnet");
    // Same rack: direct.
    assert_eq!(our_route(a, SUBNETS[2]).unwrap().devices(), ["eth0"]);
    assert_eq!(agents[0].best(SUBNETS[2]).unwrap()["hops"][0]["tunnel"], false);
    let explained = agents[0].explain(BOXES[1]);
    assert!(explained.contains("tunnel") && explained.contains("10.2.0.2"), "{explained}");
    assert!(racks.router.ip("route show").lines().all(|line| !line.contains("10.244.")), "the router knows nothing");

    let before = (tunnelled(a), tunnelled(b));
    assert_eq!(racks.boxes[0].ping(BOXES[1], 10), 10);
    assert!(tunnelled(a) >= before.0 + 10 && tunnelled(b) >= before.1 + 10, "requests and answers are tunnelled");
    let before = tunnelled(a);
    assert_eq!(racks.boxes[0].ping(BOXES[2], 10), 10);
    assert_eq!(tunnelled(a), before, "the same rack needs no tunnel");
    assert_eq!(a.ping(BOXES[1], 3), 3, "from the host itself too");
    let metric = agents[0].metric("wayleave_interface_transmit_packets_total{device=\"wayleave0\"}");
    assert!(metric.is_some_and(|packets| packets >= 10.0), "{metric:?}");

    // This kernel has no nftables of family inet: traffic by node is not counted, which is said once.
    assert_eq!(agents[0].metric("wayleave_forwarding_counted"), Some(0.0));
    assert!(agents[0].metric("wayleave_forwarding_packets_total").is_none());
    let traffic = agents[0].status()["traffic"].clone();
    assert!(traffic["error"].is_string() && traffic["counted"] == false, "{traffic}");
    assert_eq!(agents[0].log().matches("traffic by remote node can't be counted").count(), 1);

    // Large packets: with the link MTU of a container at 1500 the host answers "fragmentation needed".
    assert_eq!(racks.boxes[0].ping_with(BOXES[1], 2, &["-M", "do", "-s", "1452"]), 2, "1480 octets fit");
    assert_eq!(transfer(&racks.boxes[0], &racks.boxes[1], BOXES[1], 4_000_000), 4_000_000);

    // The failing setup of many networks: ICMP "fragmentation needed" is filtered. What survives it is a
    // container link with the MTU of the tunnel device.
    for space in [a, b, &racks.router] {
        for chain in ["OUTPUT", "FORWARD"] {
            let mut iptables = space.command("iptables-legacy");
            iptables.args(["-A", chain, "-p", "icmp", "--icmp-type", "fragmentation-needed", "-j", "DROP"]);
            crate::harness::netns::done(&mut iptables);
        }
    }
    for (host, container) in [(a, &racks.boxes[0]), (b, &racks.boxes[1])] {
        let mtu = host.ip_json("link show wayleave0")[0]["mtu"].as_u64().unwrap();
        container.batch(&["route flush cache".to_owned(), format!("link set eth0 mtu {mtu}")]);
    }
    assert_eq!(transfer(&racks.boxes[0], &racks.boxes[1], BOXES[1], 4_000_000), 4_000_000, "ICMP filtered");

    // Restart under way, of both ends one after the other.
    let probe = Probe::start(&racks.boxes[0], &racks.boxes[1], BOXES[1]);
    let mut monitor = Monitor::start(&racks.lab, a);
    for i in [0, 1] {
        agents[i].kill();
        agents[i].launch(&racks.lab);
        agents[i].wait_established(&["c"]);
        agents[i].wait_installed(SUBNETS[1 - i]);
        holds("ready", Duration::from_secs(60), || agents[i].http("/readyz").is_some_and(|(status, _)| status == 200));
    }
    let report = probe.finish();
    assert!(report.sent > 100, "{report:?}");
    assert_eq!(report.lost, 0, "{report:?}");
    assert_eq!(monitor.events(), Vec::<String>::new(), "all routes were adopted");
}

#[test]
fn clean_removes_our_tunnel_and_no_other() {
    if !in_uml("uml::clean_removes_our_tunnel_and_no_other") {
        return;
    }
    let racks = racks();
    let mut agents = start_agents(&racks);
    let a = &racks.hosts[0];
    a.ip("link add other0 type ipip local 10.1.0.2 remote 192.0.2.9");

    // Somebody takes the device away, or its address.
    a.ip("link del wayleave0");
    holds("the tunnel is back", ROUTE, || our_route(a, SUBNETS[1]).is_some_and(|r| r.devices() == ["wayleave0"]));
    holds("it works", ROUTE, || racks.boxes[0].ping(BOXES[1], 1) == 1);
    a.ip("link set wayleave0 down");
    holds("it is up again", ROUTE, || racks.boxes[0].ping(BOXES[1], 1) == 1);

    agents[0].terminate();
    assert_eq!(racks.boxes[0].ping(BOXES[1], 3), 3, "a stopped agent leaves the tunnel in place");
    // Its exit status is not asked for: this kernel has no nftables of family inet, so it can't say that
    // no table of ours is there.
    a.command(WAYLEAVE).args(["clean", "--config"]).arg(agents[0].config_path()).output().unwrap();
    assert!(a.try_ip("link show wayleave0").is_err(), "ours is gone");
    assert!(a.try_ip("link show other0").is_ok(), "the other one is not");
    assert_eq!(our_routes(a).len(), 0);
}
