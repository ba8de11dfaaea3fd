//! What the firewall keeps off and lets through, and what it says of others: the guard of the tunnel, the rule in Docker's
//! chain without a Docker, firewalld.

use std::fmt::Write;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::harness::agent::{Agent, ROUTE, WAYLEAVE};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::capsule::Capsule;
use crate::harness::{Netns, holds, wait_for};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

/// When something must be in force in any case.
const LIMIT: Duration = Duration::from_secs(20);

/// Sends so many IP-in-IP packets from one address to another.
fn tunnelled(space: &Netns, from: &str, to: &str, count: u32) {
    let (from, to): (Ipv4Addr, Ipv4Addr) = (from.parse().unwrap(), to.parse().unwrap());
    space.run(|| {
        // The kernel writes the outer header.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(4))).unwrap();
        socket.bind(&SocketAddrV4::new(from, 0).into()).unwrap();
        for _ in 0..count {
            socket.send_to(&[0x45; 40], &SocketAddrV4::new(to, 0).into()).unwrap();
        }
    });
}

/// Packets that came through to this host, by outer source, since [`listen`].
fn came(host: &Netns, source: &str) -> u64 {
    let name = format!("from{}", source.replace('.', "_"));
    let text = host.command("nft").args(["list", "counter", "inet", "probe", &name]).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap()
}

/// Counts behind the guard.
fn listen(host: &Netns, sources: &[&str]) {
    let (mut counters, mut rules) = (String::new(), String::new());
    for source in sources {
        let name = format!("from{}", source.replace('.', "_"));
        writeln!(counters, "counter {name} {{}}").unwrap();
        writeln!(rules, "ip protocol 4 ip saddr {source} counter name {name}").unwrap();
    }
    host.nft(&format!(
        "table inet probe {{\n{counters}chain inbound {{\ntype filter hook input priority 100;\n{rules}}}\n}}\n"
    ));
}

fn guard(agent: &Agent) -> Value {
    agent.status()["firewall"]["tunnel_guard"].clone()
}

/// Until as many ends are known.
fn knows(agent: &Agent, ends: u64) {
    holds(&format!("{ends} known ends"), LIMIT, || {
        let guard = guard(agent);
        guard["in_force"] == true && guard["known_ends"] == ends
    });
}

fn refused(agent: &Agent, packets: u64) {
    holds(&format!("{packets} refused"), LIMIT, || guard(agent)["refused_packets"] == packets);
    let metric = |name: &str| agent.metric(&format!("wayleave_{name}{{reason=\"unknown_tunnel_end\"}}"));
    assert_eq!(metric("firewall_refused_packets_total"), Some(f64::from(u32::try_from(packets).unwrap())));
    let bytes = f64::from(u32::try_from(packets * 60).unwrap());
    assert_eq!(metric("firewall_refused_bytes_total"), Some(bytes), "20 bytes of header, 40 of content");
}

/// The number that the kernel gave our table: another one is another table.
fn handle(host: &Netns) -> String {
    let shown = host.command("nft").args(["-a", "list", "table", "inet", "wayleave"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    shown.lines().next().unwrap().split_once("# handle ").unwrap().1.to_owned()
}

#[test]
fn tunnelled_packets_are_taken_from_known_ends_only() {
    const PEER: &str = "10.0.0.1";
    const STRANGER: &str = "10.0.0.66";
    const NODE: &str = "10.0.0.40";
    const NAMED: &str = "10.0.0.130";
    let rack = Rack::new();
    for address in [STRANGER, NODE, NAMED] {
        rack.tor.ip(&format!("addr add {address}/24 dev eth0"));
    }
    rack.host.ip("addr add 10.0.0.3/24 dev eth0");
    listen(&rack.host, &[PEER, STRANGER, NODE, NAMED]);
    let text = |network: &'static str| Config { network, ..Config::host() }.peer("tor", PEER, TOR_AS, "").text();
    let mut agent = Agent::start(&rack.lab, &rack.host, &text(""));

    // Nobody waits for a peer that refuses connections: the first synchronisation is done.
    knows(&agent, 2);
    tunnelled(&rack.tor, STRANGER, "10.0.0.2", 5);
    tunnelled(&rack.tor, PEER, "10.0.0.2", 3);
    refused(&agent, 5);
    assert_eq!((came(&rack.host, PEER), came(&rack.host, STRANGER)), (3, 0));
    tunnelled(&rack.tor, STRANGER, "10.0.0.3", 2);
    holds("tunnels of others on this host", LIMIT, || came(&rack.host, STRANGER) == 2);

    // A next hop that says that it ends tunnels (RFC 9012 §4.1).
    let table = handle(&rack.host);
    let mut session = Neighbor::new("host", (PEER, TOR_AS), ("10.0.0.2", HOST_AS));
    session.channel = "import all; export filter { bgp_next_hop = 10.0.0.40; \
                       bgp_ext_community.add((generic, 0x030c0000, 7)); accept; };";
    let _tor = Bird::start(&rack.lab, &rack.tor, &config(PEER, &[session], &["10.244.9.0/24"], ""));
    knows(&agent, 3);
    tunnelled(&rack.tor, NODE, "10.0.0.2", 4);
    tunnelled(&rack.tor, STRANGER, "10.0.0.2", 1);
    refused(&agent, 6);
    assert_eq!(came(&rack.host, NODE), 4);
    assert_eq!(handle(&rack.host), table, "ends come and go without a new table");

    // A prefix that the operator names, and takes back.
    agent.reload(&text("tunnel_endpoints = [\"10.0.0.128/26\"]"));
    knows(&agent, 4);
    tunnelled(&rack.tor, NAMED, "10.0.0.2", 2);
    refused(&agent, 6);
    assert_eq!(came(&rack.host, NAMED), 2);
    agent.reload(&text(""));
    knows(&agent, 3);
    tunnelled(&rack.tor, NAMED, "10.0.0.2", 1);
    refused(&agent, 7);

    // Whoever flushes it, and however the daemon ends: the total goes on, and nobody is cut off.
    rack.host.nft("delete table inet wayleave\n");
    holds("restored", LIMIT, || agent.log().contains("firewall table was removed by somebody, restored"));
    tunnelled(&rack.tor, STRANGER, "10.0.0.2", 1);
    refused(&agent, 8);
    agent.kill();
    tunnelled(&rack.tor, STRANGER, "10.0.0.2", 1);
    agent.launch(&rack.lab);
    knows(&agent, 3);
    tunnelled(&rack.tor, NODE, "10.0.0.2", 1);
    refused(&agent, 9);
    assert_eq!(came(&rack.host, NODE), 5);

    agent.reload(&format!("{}[firewall]\ntunnel_guard = false\n", text("")));
    holds("off", LIMIT, || guard(&agent)["in_force"] == false);
    tunnelled(&rack.tor, STRANGER, "10.0.0.2", 1);
    holds("anybody may", LIMIT, || came(&rack.host, STRANGER) == 3);
}

/// Rules of ours in DOCKER-USER, as this tool shows them.
fn rules(host: &Netns, tool: &str) -> Vec<String> {
    let shown = host.command(tool).args(["-w", "-S", "DOCKER-USER"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    shown.lines().filter(|line| line.contains("wayleave")).map(str::to_owned).collect()
}

fn run(host: &Netns, command: &str) {
    let mut words = command.split(' ');
    let output = host.command(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_rule_is_wherever_the_chain_is_and_nowhere_else() {
    let rack = Rack::new();
    let names =
        || rack.host.run(|| std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default());
    // Older kernels make the tables of a module that is loaded in each new namespace.
    let before = names();
    let mut agent = Agent::start(&rack.lab, &rack.host, &Config::host().text());
    holds("it runs", LIMIT, || agent.status()["firewall"]["in_force"] == true);
    assert_eq!(agent.status()["firewall"]["docker"], json!({"enabled": true, "tools": [], "error": null}));
    assert_eq!(names(), before, "no table is made where there was none");

    let comment = "-m comment --comment wayleave -j ACCEPT";
    let (ipv4, ipv6) = (
        format!("-A DOCKER-USER -s 10.244.0.0/16 -d 10.244.7.0/24 {comment}"),
        format!("-A DOCKER-USER -s fd44::/16 -d fd44:7::/64 {comment}"),
    );
    let tools =
        [("iptables-nft", &ipv4), ("ip6tables-nft", &ipv6), ("iptables-legacy", &ipv4), ("ip6tables-legacy", &ipv6)];
    for (tool, rule) in tools {
        run(&rack.host, &format!("{tool} -w -N DOCKER-USER"));
        run(&rack.host, &format!("{tool} -w -A DOCKER-USER -j RETURN"));
        // The older tables are looked at now and then.
        holds(&format!("{tool}: there"), Duration::from_secs(60), || rules(&rack.host, tool) == [rule.clone()]);
    }
    for (tool, rule) in tools {
        run(&rack.host, &format!("{tool} -w -F DOCKER-USER"));
        holds(&format!("{tool}: back"), LIMIT, || rules(&rack.host, tool) == [rule.clone()]);
        run(&rack.host, &format!("{tool} -w {}", rule.replacen("-A", "-I", 1)));
        holds(&format!("{tool}: once"), LIMIT, || rules(&rack.host, tool) == [rule.clone()]);
    }
    let log = agent.log();
    assert!(
        log.contains("our rule in DOCKER-USER was changed by somebody, restored") && log.contains("iptables"),
        "{log}"
    );
    for _ in 0..3 {
        agent.terminate();
        agent.launch(&rack.lab);
        holds("it runs", LIMIT, || {
            agent.json(&["status"]).is_some_and(|s| s["firewall"]["docker"]["tools"] != json!([]))
        });
    }
    for (tool, rule) in tools {
        assert_eq!(rules(&rack.host, tool), std::slice::from_ref(rule), "{tool}: after restarts");
    }

    // A fight is noticed and named.
    wait_for("a duel", LIMIT, || {
        run(&rack.host, "iptables-nft -w -F DOCKER-USER");
        agent.status()["duels"].as_array().unwrap().iter().find(|duel| duel["what"] == "rule in DOCKER-USER").cloned()
    });

    // Another subnet, another rule; no daemon, none.
    let moved = Config { subnets: &["10.244.8.0/24"], ..Config::host() };
    agent.reload(&moved.text());
    let (after, none) = ([ipv4.replace("10.244.7", "10.244.8")], [""; 0]);
    for (tool, rules_wanted) in [("iptables-nft", &after[..]), ("iptables-legacy", &after[..])] {
        holds(&format!("{tool}: moved"), LIMIT, || rules(&rack.host, tool) == rules_wanted);
    }
    holds("no IPv6 any more", LIMIT, || rules(&rack.host, "ip6tables-nft") == none);
    agent.terminate();
    let mut clean = rack.host.command(WAYLEAVE);
    clean.args(["clean", "--config"]).arg(agent.config_path());
    assert!(clean.output().unwrap().status.success());
    for (tool, _) in tools {
        assert_eq!(rules(&rack.host, tool), none, "{tool}: cleaned");
    }
}

#[test]
fn a_program_that_hangs_keeps_nobody_else_waiting() {
    let rack = Rack::new();
    // The daemon finds another iptables than we do.
    let (programs, daemon) = (rack.lab.path("programs"), rack.lab.path("daemon"));
    let script = |path: &Path, text: &str| {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    };
    fs::create_dir(&programs).unwrap();
    let hanging = programs.join("iptables-nft");
    script(&hanging, "exec sleep 600");
    script(&daemon, &format!("PATH={}:$PATH exec {WAYLEAVE} \"$@\"", programs.display()));
    for tool in ["iptables-nft", "ip6tables-nft"] {
        run(&rack.host, &format!("{tool} -w -N DOCKER-USER"));
    }
    let mut agent = Agent::prepare(&rack.lab, &rack.host, &Config::host().text());
    agent.upgrade(daemon);
    agent.launch(&rack.lab);
    holds("the other family has its rule", Duration::from_secs(60), || rules(&rack.host, "ip6tables-nft").len() == 1);
    let status = agent.status();
    let error = status["firewall"]["docker"]["error"].as_str().unwrap_or_default();
    assert_eq!(error, "iptables-nft did not end within 10 s", "{status}");
    assert_eq!(agent.metric("wayleave_firewall_in_force"), Some(0.0));
    fs::remove_file(hanging).unwrap();
    holds("it hangs no more", Duration::from_secs(60), || rules(&rack.host, "iptables-nft").len() == 1);
    holds("nothing is wrong any more", LIMIT, || agent.status()["firewall"]["docker"]["error"].is_null());
}

/// A D-Bus and firewalld in a host of their own, with firewalld's own settings copied there.
const FIREWALLD: &str = r#"
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus "$1/etc"
cp -a /etc/firewalld/. "$1/etc"
mount --bind "$1/etc" /etc/firewalld
dbus-daemon --system --nofork --nopidfile >"$1/dbus.log" 2>&1 &
while [ ! -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
firewalld --nofork --nopid >"$1/firewalld.log" 2>&1 &
"#;

#[test]
fn firewalld_is_told_what_to_let_through() {
    let rack = Rack::new();
    let tor = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    let _tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[tor], &["10.244.1.0/24"], ""));
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text());
    agent.wait_installed("10.244.1.0/24");
    let inside = rack.lab.container(&rack.tor, "inside", &["10.244.1.2"]);
    let guest = rack.lab.container(&rack.host, "guest", &["10.244.7.2"]);
    holds("the ToR knows the way", ROUTE, || inside.ping("10.244.7.2", 1) == 1);
    assert_eq!(agent.status()["firewall"]["firewalld"], json!([]), "it isn't here");
    assert_eq!(agent.metric("wayleave_firewalld_rejects"), None);

    let firewalld = Capsule::start(&rack.lab, &rack.host, "firewalld", FIREWALLD);
    let type_in = |command: &str| {
        let output = firewalld.command("sh").args(["-c", command]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    holds("firewalld runs", Duration::from_secs(60), || type_in("firewall-cmd --state").0);
    let commands = wait_for("the commands are named", LIMIT, || {
        let commands = agent.status()["firewall"]["firewalld"].clone();
        // Pools, tunnel device, tunnel, BGP, reload: firewalld is at rest.
        (commands.as_array().unwrap().len() == 5).then_some(commands)
    });
    assert_eq!(inside.ping("10.244.7.2", 1), 0, "firewalld rejects what comes for containers");
    let rejects = || agent.metric("wayleave_firewalld_rejects");
    assert_eq!(rejects(), Some(1.0));
    let commands: Vec<String> = serde_json::from_value(commands).unwrap();
    let status = agent.status();
    assert!(status["problems"].to_string().contains(&commands.join(" && ")), "{status}");
    assert!(agent.log().contains("firewalld rejects our traffic"), "{}", agent.log());
    let check = rack.host.command(WAYLEAVE).args(["check", "--config"]).arg(agent.config_path()).output().unwrap();
    let noted = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.status.success() && noted.contains(&commands.join(" && ")), "{noted}");

    for command in &commands {
        let (done, said) = type_in(command);
        assert!(done, "{command}: {said}");
    }
    holds("nothing is left to type", LIMIT, || agent.status()["firewall"]["firewalld"] == json!([]));
    assert_eq!(rejects(), Some(0.0));
    holds("containers are reached again", ROUTE, || {
        inside.ping("10.244.7.2", 1) == 1 && guest.ping("10.244.1.2", 1) == 1
    });
    assert!(!agent.status()["problems"].to_string().contains("firewalld"));
}
