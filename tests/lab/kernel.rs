//! The kernel's routes are brought to what is wanted; what is not ours is left alone.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::agent::{Agent, ROUTE, WAYLEAVE};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::kernel::{Monitor, our_route, our_routes};
use crate::harness::{announce, holds, kernel_has_ipip, wait_for};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

const PREFIXES: [&str; 3] = ["10.244.1.0/24", "10.244.2.0/24", "fd44:1::/64"];

/// How soon something of ours that was removed or changed must be back: events make it milliseconds,
/// this allows for a busy machine.
const REPAIR: Duration = Duration::from_secs(3);

fn tor(rack: &Rack, prefixes: &[&str]) -> Bird {
    let sessions = [
        Neighbor::new("host4", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS)),
        Neighbor::new("host6", ("fd00::1", TOR_AS), ("fd00::2", HOST_AS)),
    ];
    Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &sessions, prefixes, ""))
}

fn host_config() -> String {
    Config::host()
        .peer("tor4", "10.0.0.1", TOR_AS, "families = [\"ipv4\"]")
        .peer("tor6", "fd00::1", TOR_AS, "families = [\"ipv6\"]")
        .text()
}

fn settled(rack: &Rack) -> Agent {
    let agent = Agent::start(&rack.lab, &rack.host, &host_config());
    for prefix in PREFIXES {
        agent.wait_installed(prefix);
    }
    agent
}

fn ready(agent: &Agent) {
    holds("ready", Duration::from_secs(60), || agent.http("/readyz").is_some_and(|(status, _)| status == 200));
}

#[test]
fn a_killed_agent_adopts_what_is_there() {
    let rack = Rack::new();
    let _tor = tor(&rack, &PREFIXES);
    let mut agent = settled(&rack);
    ready(&agent);
    let before = our_routes(&rack.host);

    agent.kill();
    let mut monitor = Monitor::start(&rack.lab, &rack.host);
    agent.launch(&rack.lab);
    agent.wait_established(&["tor4", "tor6"]);
    for prefix in PREFIXES {
        agent.wait_installed(prefix);
    }
    ready(&agent);
    assert_eq!(our_routes(&rack.host), before);
    assert_eq!(monitor.events(), Vec::<String>::new(), "nothing was deleted and nothing was written again");
}

#[test]
fn what_a_former_run_left_and_nobody_wants_goes_away() {
    let rack = Rack::new();
    let _tor = tor(&rack, &PREFIXES);
    rack.host.ip("route add 10.244.99.0/24 via 10.0.0.1 proto 87 metric 2048");
    rack.host.ip("-6 route add fd44:99::/64 via fd00::1 proto 87 metric 2048");
    rack.host.ip("route add 10.244.98.0/24 via 10.0.0.1 proto 88 metric 2048");
    let agent = settled(&rack);
    ready(&agent);
    holds("the stale routes are gone", ROUTE, || {
        let routes = our_routes(&rack.host);
        !routes.contains_key("10.244.99.0/24") && !routes.contains_key("fd44:99::/64")
    });
    assert!(rack.host.ip("route show 10.244.98.0/24").contains("proto 88"), "that one is not ours");
    assert_eq!(our_routes(&rack.host).len(), PREFIXES.len() + 2, "what is announced, and two blackholes");
}

#[test]
fn what_is_taken_away_comes_back() {
    let rack = Rack::new();
    let _tor = tor(&rack, &PREFIXES);
    let agent = settled(&rack);
    ready(&agent);
    let wanted = our_routes(&rack.host);
    let meddling = [
        ("one route deleted", "route del 10.244.1.0/24 proto 87"),
        ("an IPv6 route deleted", "-6 route del fd44:1::/64 proto 87"),
        ("the blackhole deleted", "route del blackhole 10.244.7.0/24 proto 87"),
        ("a route turned elsewhere", "route replace blackhole 10.244.2.0/24 proto 87 metric 2048"),
        ("all routes flushed", "route flush proto 87"),
        ("all IPv6 routes flushed", "-6 route flush proto 87"),
    ];
    for (why, command) in meddling {
        rack.host.ip(command);
        holds(&format!("{why}: as before"), REPAIR, || our_routes(&rack.host) == wanted);
    }
    let repaired = agent.status()["fib"]["repaired"].as_u64().unwrap();
    assert!(repaired >= meddling.len() as u64, "`status` counts them: {repaired}");
}

#[test]
fn foreign_routes_are_left_alone_and_told_of() {
    let rack = Rack::new();
    let foreign = "10.244.1.0/24 via 10.0.0.1 proto static";
    rack.host.ip(&format!("route add {foreign}"));
    let tor = tor(&rack, &PREFIXES);
    let agent = settled(&rack);
    ready(&agent);
    let conflicts = agent.status()["fib"]["conflicts"].clone();
    let conflicts: Vec<&Value> = conflicts.as_array().unwrap().iter().map(|conflict| &conflict["prefix"]).collect();
    assert_eq!(conflicts, ["10.244.1.0/24"]);
    let shown = || rack.host.ip("route show 10.244.1.0/24 proto static");
    assert!(shown().contains("via 10.0.0.1"), "{}", shown());

    // It comes and goes while we run.
    rack.host.ip(&format!("route del {foreign}"));
    holds("no conflict any more", REPAIR, || agent.status()["fib"]["conflicts"] == Value::Array(Vec::new()));
    rack.host.ip(&format!("route add {foreign}"));
    holds("a conflict again", REPAIR, || agent.status()["fib"]["conflicts"] != Value::Array(Vec::new()));
    let metric = agent.metric("wayleave_fib_route_conflicts");
    assert_eq!(metric, Some(1.0));

    // Ours goes away, theirs stays.
    tor.reconfigure(&config(
        "10.0.0.1",
        &[Neighbor::new("host4", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS))],
        &[],
        "",
    ));
    holds("ours is withdrawn", ROUTE, || our_route(&rack.host, "10.244.1.0/24").is_none());
    assert!(shown().contains("via 10.0.0.1"), "{}", shown());
}

#[test]
fn a_link_that_comes_back_brings_everything_back() {
    let rack = Rack::new();
    let _tor = tor(&rack, &PREFIXES);
    let agent = settled(&rack);
    ready(&agent);
    let wanted = our_routes(&rack.host);
    for round in 1..=3 {
        rack.host.ip("link set eth0 down");
        holds("routes over it are gone", ROUTE, || our_route(&rack.host, "10.244.1.0/24").is_none());
        rack.host.ip("link set eth0 up");
        // The kernel forgets global IPv6 addresses with the link unless told otherwise.
        let _ = rack.host.try_ip("addr add fd00::2/64 dev eth0 nodad");
        agent.wait_established(&["tor4", "tor6"]);
        holds(&format!("all routes, round {round}"), ROUTE, || our_routes(&rack.host) == wanted);
    }
}

#[test]
fn stop_leaves_forwarding_and_clean_removes_it() {
    let rack = Rack::new();
    let _tor = tor(&rack, &PREFIXES);
    let foreign = "10.244.50.0/24 via 10.0.0.1 proto static";
    rack.host.ip(&format!("route add {foreign}"));
    let forward = "net/ipv4/ip_forward";
    assert_eq!(rack.host.read_sysctl(forward), "0");
    let mut agent = settled(&rack);
    assert_eq!(rack.host.read_sysctl(forward), "1", "a routed host forwards");
    let listed = agent.status()["sysctls"].to_string();
    assert!(listed.contains("ip_forward"), "`status` lists what was changed: {listed}");
    let routes = our_routes(&rack.host);

    let mut monitor = Monitor::start(&rack.lab, &rack.host);
    assert_eq!(agent.terminate().code(), Some(0));
    assert_eq!(our_routes(&rack.host), routes);
    assert_eq!(monitor.events(), Vec::<String>::new(), "SIGTERM touches no route");
    assert_eq!(rack.host.read_sysctl(forward), "1", "nor forwarding");

    let clean = || {
        let mut command = rack.host.command(WAYLEAVE);
        command.args(["clean", "--config"]).arg(agent.config_path());
        command.output().unwrap()
    };
    let output = clean();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(our_routes(&rack.host).len(), 0);
    assert!(rack.host.ip("nexthop").trim().is_empty(), "no nexthop object is left");
    assert!(rack.host.ip("route show 10.244.50.0/24").contains("via 10.0.0.1"), "what is not ours stays");
    assert_eq!(rack.host.read_sysctl(forward), "0", "settings are put back");
    assert!(clean().status.success(), "nothing left to clean is no error");
}

#[test]
fn without_ipip_only_the_tunnelled_part_fails() {
    if kernel_has_ipip() {
        announce("this kernel has ipip: what happens without it is not tested here");
        return;
    }
    let rack = Rack::new();
    // The other rack: a node whose next hop is not on our link and which ends tunnels.
    rack.tor.ip("addr add 10.9.0.1/24 dev lo");
    rack.host.ip("route add default via 10.0.0.1");
    let sessions = [Neighbor::new("host", ("10.0.0.1", HOST_AS), ("10.0.0.2", HOST_AS))];
    let sessions = sessions.map(|mut session| {
        // 10.244.2.0/24 comes from a node of another rack, as a route reflector would pass it on.
        session.channel = "import all; export filter { \
            if net = 10.244.2.0/24 then { bgp_next_hop = 10.9.0.9; bgp_ext_community.add((generic, 0x030c0000, 7)); } \
            accept; };";
        session
    });
    let _tor =
        Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &sessions, &["10.244.1.0/24", "10.244.2.0/24"], ""));
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", HOST_AS, "").text());

    agent.wait_installed("10.244.1.0/24");
    holds("the route that needs a tunnel is known", ROUTE, || !agent.routes(&["10.244.2.0/24"]).is_empty());
    ready(&agent);
    assert!(our_route(&rack.host, "10.244.2.0/24").is_none(), "not sent to a router that knows nothing of it");
    let status = agent.status();
    let tunnel = &status["tunnel"];
    assert!(tunnel["error"].to_string().contains("ipip"), "{tunnel}");
    assert_eq!(tunnel["affected"], serde_json::json!(["10.9.0.9"]));
    let log = agent.log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "one clear error, not one per route or second: {errors:?}");
    assert!(errors[0].contains("10.9.0.9") && errors[0].contains("ipip"), "it names the next hop: {errors:?}");
    assert!(agent.explain("10.244.2.5").contains("ipip"), "{}", agent.explain("10.244.2.5"));
}

#[test]
fn a_route_to_its_own_next_hop_settles() {
    let rack = Rack::new();
    rack.host.ip("route add default via 10.0.0.1");
    let mut session = Neighbor::new("host", ("10.0.0.1", HOST_AS), ("10.0.0.2", HOST_AS));
    // A node that announces its own address: the only way to it would be the route itself.
    session.channel = "import all; export filter { if net = 10.9.0.9/32 then bgp_next_hop = 10.9.0.9; accept; };";
    let prefixes = ["10.244.1.0/24", "10.9.0.9/32"];
    let _tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &prefixes, ""));
    let text = Config::host().peer("tor", "10.0.0.1", HOST_AS, "import = \"all\"").text();
    let agent = Agent::start(&rack.lab, &rack.host, &text);
    agent.wait_installed("10.244.1.0/24");
    ready(&agent);
    let route = wait_for("it is known", ROUTE, || agent.routes(&["10.9.0.9/32"]).first().cloned());
    let kernel = our_route(&rack.host, "10.9.0.9/32").is_some();
    assert_eq!(route["installed"], kernel, "{route}");
    assert!(!agent.log().contains("don't settle"), "{}", agent.log());
    let before = agent.metric("wayleave_netlink_batches_total");
    agent.wait_installed("10.244.1.0/24");
    assert_eq!(agent.metric("wayleave_netlink_batches_total"), before, "nothing comes and goes");
}

#[test]
fn nothing_is_written_when_told_so() {
    let rack = Rack::new();
    let _tor = tor(&rack, &PREFIXES);
    let text = Config::host().peer("tor4", "10.0.0.1", TOR_AS, "").with("[kernel]\ninstall = false\n").text();
    let agent = Agent::start(&rack.lab, &rack.host, &text);
    agent.wait_established(&["tor4"]);
    holds("the route is known", ROUTE, || agent.best("10.244.1.0/24").is_some());
    ready(&agent);
    assert_eq!(our_routes(&rack.host).len(), 0);
}

#[test]
fn another_table_and_protocol() {
    let rack = Rack::new();
    let _tor = tor(&rack, &PREFIXES);
    let text =
        Config::host().peer("tor4", "10.0.0.1", TOR_AS, "").with("[kernel]\ntable = 1000\nprotocol = 99\n").text();
    let agent = Agent::start(&rack.lab, &rack.host, &text);
    agent.wait_installed("10.244.1.0/24");
    assert!(rack.host.ip("route show table 1000 proto 99").contains("10.244.1.0/24"));
    assert_eq!(our_routes(&rack.host).len(), 0, "nothing in the main table");
}

#[test]
fn container_traffic_is_masqueraded_outside_the_pools() {
    let rack = Rack::new();
    let _tor = tor(&rack, &PREFIXES);
    let outside = rack.lab.container(&rack.tor, "outside", &["198.51.100.9"]);
    let inside = rack.lab.container(&rack.tor, "inside", &["10.244.1.2"]);
    let guest = rack.lab.container(&rack.host, "guest", &["10.244.7.2"]);
    rack.host.ip("route add default via 10.0.0.1");
    let text = host_config().replace("masquerade = false", "masquerade = true");
    let agent = Agent::start(&rack.lab, &rack.host, &text);
    agent.wait_installed("10.244.1.0/24");
    holds("the ToR knows the way back", ROUTE, || guest.ping("10.244.1.2", 1) == 1);

    // The far end counts by source address.
    let count = |space: &crate::harness::Netns, source: &str| {
        let text = space.command("nft").args(["list", "counter", "inet", "seen", source]).output().unwrap();
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok()).unwrap()
    };
    for space in [&outside, &inside] {
        space.nft(
            "table inet seen {\n counter guest {}\n counter host {}\n chain inbound {\n \
             type filter hook input priority 0;\n ip saddr 10.244.7.2 counter name guest\n \
             ip saddr 10.0.0.2 counter name host\n }\n}\n",
        );
    }
    assert_eq!(guest.ping("198.51.100.9", 3), 3);
    assert_eq!(guest.ping("10.244.1.2", 3), 3);
    assert_eq!((count(&outside, "guest"), count(&outside, "host")), (0, 3), "outside sees the host");
    assert_eq!((count(&inside, "guest"), count(&inside, "host")), (3, 0), "containers see each other");

    drop(agent);
    let mut clean = rack.host.command(WAYLEAVE);
    clean.args(["clean", "--config"]).arg(rack.lab.path("host.toml"));
    assert!(clean.output().unwrap().status.success());
    let tables =
        Command::new("ip").args(["netns", "exec", rack.host.name(), "nft", "list", "tables"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&tables.stdout).trim(), "", "our table is gone");
}
