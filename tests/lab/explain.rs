//! `wayleave explain`: of each way in which a session or traffic goes wrong it says which, and what to do.

use std::time::Duration;

use serde_json::Value;

use crate::cluster;
use crate::harness::agent::{Agent, ROUTE, SESSION, password_file};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::etcd::Etcd;
use crate::harness::{Frr, Lab, holds, wait_for};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

/// How long the kernel, or a peer, may take to make a cause visible.
const CAUSE: Duration = Duration::from_secs(30);

fn tor(rack: &Rack, options: &str, prefixes: &[&str]) -> Bird {
    let session = Neighbor { options, ..Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS)) };
    Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], prefixes, ""))
}

fn agent(rack: &Rack, options: &str) -> Agent {
    Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, options).text())
}

/// Waits until the cause is this; the explanation as text and as JSON.
fn caused(agent: &Agent, what: &str, cause: &str) -> (String, Value) {
    let mut last = Value::Null;
    holds(&format!("{what}: the cause is {cause}"), CAUSE, || {
        let now = agent.json(&["explain", what]).unwrap_or_default();
        let former = std::mem::replace(&mut last, now);
        if former["cause"] != last["cause"] {
            eprintln!("{}", last["verdict"]);
        }
        last["cause"] == cause
    });
    let told = (agent.explain(what), last);
    eprintln!("{}", told.0);
    told
}

/// The verdict of a peer that is down for this cause has these words, and the advice those.
fn peer_down(agent: &Agent, cause: &str, verdict: &str, advice: &str) {
    let (text, json) = caused(agent, "tor", cause);
    assert_eq!(json["ok"], false, "{text}");
    assert!(json["verdict"].as_str().unwrap().contains(verdict), "{verdict}: {text}");
    assert!(json["advice"].to_string().contains(advice), "{advice}: {text}");
    assert!(text.contains("what to do:"), "{text}");
}

#[test]
fn wrong_passwords() {
    let cases = [
        ("another one", "password \"open barley\";", true, "signed with another key"),
        ("none there", "", true, "it has no password and we have one"),
        ("none here", "password \"open barley\";", false, "it has a password and we have none"),
    ];
    for (why, theirs, ours, words) in cases {
        eprintln!("{why}");
        let rack = Rack::new();
        let key = password_file(&rack.lab, "tor.key", "open sesame");
        let option = if ours { format!("password_file = \"{}\"", key.display()) } else { String::new() };
        let _tor = tor(&rack, theirs, &[]);
        let agent = agent(&rack, &option);
        peer_down(&agent, "password", words, "password");
        let told = agent.explain("tor") + &agent.json(&["explain", "tor"]).unwrap().to_string();
        assert!(!told.contains("sesame") && !told.contains("barley"), "no secret is told: {told}");
    }
}

#[test]
fn silence_is_told_at_the_usual_pace() {
    let rack = Rack::new();
    rack.tor.silence(179);
    let text = Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text().replace("connect_retry = \"1s\"\n", "");
    let agent = Agent::start(&rack.lab, &rack.host, &text);
    peer_down(
        &agent,
        "timed-out",
        "10.0.0.1 gives no answer at all on port 179",
        "tcpdump tcp port 179 and host 10.0.0.2",
    );
    assert_eq!(agent.peer("tor").unwrap()["dial_failure"]["kind"], "timed-out");
}

#[test]
fn wrong_as_on_either_end() {
    let rack = Rack::new();
    let session = |asn, remote| Neighbor::new("host", ("10.0.0.1", asn), ("10.0.0.2", remote));
    let bird = |asn, remote| config("10.0.0.1", &[session(asn, remote)], &[], "");
    let tor = Bird::start(&rack.lab, &rack.tor, &bird(65009, HOST_AS));
    let agent = agent(&rack, "");
    peer_down(&agent, "wrong-as", "it says that it is AS 65009, and AS 65001 is configured", "asn = 65009");
    let peer = agent.peer("tor").unwrap();
    assert_eq!(peer["open"]["asn"], 65009, "{peer}");
    assert_eq!((&peer["notification_sent"]["code"], &peer["notification_sent"]["subcode"]), (&2.into(), &2.into()));

    tor.reconfigure(&bird(TOR_AS, 64999));
    holds("it says so", CAUSE, || agent.explain("tor").contains("it takes us for another AS"));
    peer_down(&agent, "wrong-as", "it takes us for another AS than 64512", "neighbor 10.0.0.2 as 64512");
    let peer = agent.peer("tor").unwrap();
    let text = peer["notification_received"]["text"].as_str().unwrap();
    assert!(text.starts_with("open message error: bad peer AS"), "{peer}");

    tor.reconfigure(&bird(TOR_AS, HOST_AS));
    agent.wait_established(&["tor"]);
}

#[test]
fn nobody_listens_and_nobody_is_there() {
    let rack = Rack::new();
    let text = Config::host().peer("tor", "10.0.0.1", TOR_AS, "").peer("gone", "10.0.0.99", 65002, "");
    let text = text.peer("far", "198.51.100.1", 65003, "").peer("rack", "10.0.0.0/25", 65004, "").text();
    let agent = Agent::start(&rack.lab, &rack.host, &text);
    peer_down(&agent, "refused", "10.0.0.1 answers, and nothing listens on port 179", "neighbour");
    assert_eq!(agent.peer("tor").unwrap()["dial_failure"]["kind"], "refused");
    let (text, _) = caused(&agent, "gone", "no-neighbour");
    assert!(text.contains("10.0.0.99 on eth0") && text.contains("ARP"), "{text}");
    let (text, _) = caused(&agent, "far", "no-route");
    assert!(text.contains("no route matches") && text.contains("ip route get 198.51.100.1"), "{text}");

    let (text, _) = caused(&agent, "rack", "range");
    assert!(text.contains("whoever calls from it is admitted; 0 have called"), "{text}");
    let unknown = agent.cli(&["explain", "nobody"]);
    let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(error.contains("neither an address nor a peer") && error.contains("far, gone, tor"), "{error}");

    // An address of a peer is explained both as an address and as a peer.
    let both = agent.json(&["explain", "10.0.0.1"]).unwrap();
    assert_eq!((&both["cause"], &both["peers"][0]["cause"]), (&"outside".into(), &"refused".into()), "{both}");
    assert!(agent.explain("10.0.0.1").contains("tor is not established"), "{}", agent.explain("10.0.0.1"));
}

#[test]
fn a_peer_that_is_too_far_away() {
    let rack = Rack::new();
    // Without the option BIRD sends with TTL 1, as anybody far away could make it look.
    let _tor = tor(&rack, "", &[]);
    let agent = agent(&rack, "ttl_security = 1");
    peer_down(&agent, "ttl", "too small a TTL for ttl_security = 1", "ttl-security hops 1");
}

#[test]
fn an_ebgp_peer_behind_a_router() {
    let rack = Rack::new();
    let far = rack.lab.router("far");
    rack.lab.link((&rack.tor, "eth1", &["10.9.0.1/24"]), (&far, "eth0", &["10.9.0.9/24"]));
    far.ip("route add default via 10.9.0.1");
    rack.host.ip("route add default via 10.0.0.1");
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.9.0.9", TOR_AS, "").text());
    peer_down(&agent, "needs-multihop", "10.9.0.9 is behind 10.0.0.1", "multihop = 2");
}

#[test]
fn a_hold_time_that_is_refused() {
    let rack = Rack::new();
    let bgpd = format!(
        "router bgp {TOR_AS}\n bgp router-id 10.0.0.1\n no bgp ebgp-requires-policy\n bgp minimum-holdtime 30\n \
         neighbor 10.0.0.2 remote-as {HOST_AS}\n neighbor 10.0.0.2 timers connect 1\n"
    );
    let _tor = Frr::start(&rack.lab, &rack.tor, &bgpd);
    let agent = agent(&rack, "");
    peer_down(&agent, "hold-time", "it doesn't take our hold time of 9 s", "bgp minimum-holdtime");
}

#[test]
fn no_common_family() {
    let rack = Rack::new();
    let _tor = tor(&rack, "", &[]);
    let agent = agent(&rack, "families = [\"ipv6\"]");
    peer_down(&agent, "families", "we offer ipv6, it offers ipv4", "`families` of tor");
}

#[test]
fn too_many_prefixes() {
    let rack = Rack::new();
    let _tor = tor(&rack, "", &["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]);
    let agent = agent(&rack, "max_prefixes = 2");
    peer_down(&agent, "prefix-limit", "more prefixes than its limit of 2, and it is kept away for", "max_prefixes");
    assert!(agent.peer("tor").unwrap()["barred_until"].is_string());
}

#[test]
fn drained_shut_down_and_a_link_that_is_down() {
    let rack = Rack::new();
    let tor = tor(&rack, "", &["10.244.1.0/24"]);
    let agent = agent(&rack, "");
    agent.wait_installed("10.244.1.0/24");
    let (text, json) = caused(&agent, "tor", "established");
    assert_eq!((&json["ok"], &json["advice"]), (&true.into(), &Value::Array(Vec::new())), "{text}");
    assert!(text.contains("1 prefix received and 1 accepted (import pools), 1 advertised"), "{text}");

    tor.birdc("disable host \"new line card\"");
    peer_down(&agent, "peer-shutdown", "new line card", "ask its operator");
    // BIRD has closed its port: dials are refused, and it is still the operator's doing.
    holds("a refused dial", CAUSE, || agent.peer("tor").unwrap()["dial_failure"]["kind"] == "refused");
    peer_down(&agent, "peer-shutdown", "new line card", "ask its operator");
    tor.birdc("enable host");
    agent.wait_established(&["tor"]);

    rack.tor.ip("link set eth0 down");
    peer_down(&agent, "interface-down", "eth0, whose network it is on, has no carrier", "cable");
    rack.tor.ip("link set eth0 up");
    rack.host.ip("link set eth0 down");
    peer_down(&agent, "interface-down", "eth0, whose network it is on, is down", "ip link set eth0 up");
    rack.host.ip("link set eth0 up");
    agent.wait_established(&["tor"]);

    assert!(agent.cli(&["drain", "--wait", "0s", "--reason", "new disk"]).status.success());
    peer_down(&agent, "drained", "new disk", "wayleave undrain");
}

#[test]
fn what_stops_routes_of_an_established_session() {
    let rack = Rack::new();
    let _tor = tor(&rack, "", &["192.0.2.0/24"]);
    let agent = agent(&rack, "export = \"none\"");
    agent.wait_established(&["tor"]);
    let (text, json) = caused(&agent, "tor", "nothing-accepted");
    assert!(text.contains("they lie outside the pools") && text.contains("network.pools"), "{text}");
    assert_eq!(json["ok"], false);
}

/// A host between two routers, with a container on a bridge.
fn crossroads() -> (Rack, Bird, Agent) {
    let rack = Rack::new();
    let other = rack.lab.router("other");
    rack.lab.link((&other, "eth0", &["10.0.5.9/24"]), (&rack.host, "eth1", &["10.0.5.2/24"]));
    let guest = rack.lab.netns("guest");
    rack.host.batch(&["link add docker0 type bridge", "addr add 10.244.7.1/24 dev docker0", "link set docker0 up"]);
    rack.lab.link((&guest, "eth0", &["10.244.7.2/24"]), (&rack.host, "c-guest", &[]));
    rack.host.ip("link set c-guest master docker0");
    guest.ip("route add default via 10.244.7.1");
    rack.host.ip("route add default via 10.0.0.1");
    let mut session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    session.channel = "import all; export filter { if net = 10.244.2.0/24 then bgp_next_hop = 10.66.0.9; accept; };";
    session.options = "multihop 2;";
    let prefixes = ["10.244.1.0/24", "10.244.2.0/24"];
    let tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &prefixes, ""));
    let text = Config { network: "masquerade = true", ..Config::host() }
        .peer("tor", "10.0.0.1", TOR_AS, "multihop = 2")
        .peer("other", "10.0.5.9", 65002, "")
        .text()
        .replace("masquerade = false\n", "");
    let agent = Agent::start(&rack.lab, &rack.host, &text);
    agent.wait_installed("10.244.1.0/24");
    (rack, tor, agent)
}

fn fact<'a>(json: &'a Value, topic: &str) -> &'a str {
    let facts = json["facts"].as_array().unwrap();
    let found = facts.iter().find(|fact| fact["topic"] == topic);
    found.map_or_else(|| panic!("{topic}: {json}"), |fact| fact["text"].as_str().unwrap())
}

#[test]
fn every_address_gets_its_answer() {
    let (rack, _tor, agent) = crossroads();
    let (text, json) = caused(&agent, "10.244.1.5", "as-wanted");
    assert_eq!(
        json["verdict"],
        "10.244.1.5 is in 10.244.1.0/24, which tor announces: direct via 10.0.0.1 dev eth0, as wanted."
    );
    let lookups = json["lookups"].as_array().unwrap();
    assert_eq!((&lookups[0]["gateway"], &lookups[0]["table"]), (&"10.0.0.1".into(), &254.into()), "{text}");
    assert_eq!((&lookups[1]["arriving"], &lookups[1]["gateway"]), (&"docker0".into(), &"10.0.0.1".into()), "{text}");
    let objects = fact(&json, "objects");
    assert!(objects.contains("group") && objects.contains("via 10.0.0.1 dev eth0 weight 1"), "{objects}");
    assert_eq!(fact(&json, "firewall"), "of what containers send, the source address is kept");
    assert!(fact(&json, "neighbour").starts_with("10.0.0.1 on eth0 is "), "{text}");
    assert!(fact(&json, "return").contains("eth0 (rp_filter"), "{text}");
    assert!(fact(&json, "mtu").starts_with("1500 octets by eth0"), "{text}");
    let shown = agent.cli(&["explain", "10.244.1.5"]).stdout;
    let shown = String::from_utf8_lossy(&shown);
    let widest = shown.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 120, "{widest} columns:\n{shown}");

    let cases = [
        ("the world", "203.0.113.9", "outside", "by the default route; container traffic is masqueraded"),
        ("our own", "10.0.0.2", "special", "an address of this host, on eth0"),
        ("our bridge's", "10.244.7.1", "special", "an address of this host, on docker0"),
        ("a group", "224.0.0.5", "special", "multicast group"),
        ("a link", "169.254.9.9", "special", "link-local"),
        ("a link, IPv6", "fe80::77", "special", "link-local"),
        ("a pool", "10.244.55.1", "no-route", "nobody announces a route to it"),
        ("no container of ours, IPv6", "fd44:7::9", "no-container", "no container has it: dropped, as wanted"),
    ];
    for (why, address, cause, words) in cases {
        let (text, json) = caused(&agent, address, cause);
        assert!(json["verdict"].as_str().unwrap().contains(words), "{why}: {text}");
    }
    rack.host.ping("10.244.7.2", 1);
    let (text, _) = caused(&agent, "10.244.7.2", "container");
    assert!(text.contains("a container's, on-link dev docker0"), "{text}");
    rack.host.ping("10.244.7.99", 1);
    let (text, _) = caused(&agent, "10.244.7.99", "neighbour");
    assert!(text.contains("does not answer ARP") || text.contains("not answered ARP"), "{text}");
}

#[test]
fn traffic_that_goes_astray() {
    let (rack, _tor, agent) = crossroads();
    let target = "10.244.1.5";
    let astray = |cause: &str, words: &str, advice: &str| {
        let (text, json) = caused(&agent, target, cause);
        assert_eq!(json["ok"], false, "{text}");
        assert!(json["verdict"].as_str().unwrap().contains(words), "{words}: {text}");
        assert!(json["advice"].to_string().contains(advice), "{advice}: {text}");
    };
    let well = || caused(&agent, target, "as-wanted");
    well();

    rack.host.ip("route add 10.244.1.0/24 via 10.0.5.9 table 200");
    rack.host.ip("rule add priority 100 to 10.244.1.0/24 lookup 200");
    astray(
        "policy-rule",
        "the policy rule `100: from all to 10.244.1.0/24 lookup 200` diverts it to table 200",
        "ip rule del priority 100",
    );
    rack.host.ip("rule del priority 100");
    rack.host.ip("rule add priority 101 from 10.244.7.0/24 lookup 200");
    astray(
        "policy-rule",
        "container traffic goes astray: the policy rule `101: from 10.244.7.0/24 lookup 200`",
        "priority 101",
    );
    rack.host.ip("rule del priority 101");
    rack.host.ip("rule add priority 102 to 10.244.1.0/24 prohibit");
    astray("dropped", "by the policy rule `102: from all to 10.244.1.0/24 drops`", "ip rule del priority 102");
    rack.host.ip("rule del priority 102");
    well();

    rack.host.ip("route add 10.244.1.0/24 via 10.0.5.9 metric 5 proto static");
    astray(
        "foreign-route",
        "has a lower metric: 10.244.1.0/24 (static, metric 5",
        "ip route del 10.244.1.0/24 proto 4 metric 5",
    );
    rack.host.ip("route del 10.244.1.0/24 metric 5");
    rack.host.ip("route add 10.244.1.5/32 via 10.0.5.9 proto static");
    astray("foreign-route", "is longer: 10.244.1.5/32 (static", "ip route del 10.244.1.5/32");
    rack.host.ip("route del 10.244.1.5/32");
    rack.host.ip("route add blackhole 10.244.1.4/30 proto static");
    astray("dropped", "by a route that is not ours: 10.244.1.4/30 (static", "ip route show 10.244.1.4/30");
    rack.host.ip("route del blackhole 10.244.1.4/30");
    well();

    // An answer may come in by the other router, and is dropped there.
    rack.host.sysctl("net/ipv4/conf/eth1/rp_filter", "1");
    astray(
        "reverse-path",
        "an answer that comes in by eth1 is dropped: rp_filter is strict",
        "sysctl -w net.ipv4.conf.eth1.rp_filter=2",
    );
    rack.host.sysctl("net/ipv4/conf/eth1/rp_filter", "2");
    well();

    rack.host.sysctl("net/ipv4/conf/docker0/forwarding", "0");
    astray(
        "not-forwarded",
        "container traffic that comes in by docker0 is not forwarded",
        "net.ipv4.conf.docker0.forwarding",
    );
    rack.host.sysctl("net/ipv4/conf/docker0/forwarding", "1");
    well();
}

#[test]
fn a_next_hop_out_of_reach_and_a_kernel_that_differs() {
    let (rack, _tor, agent) = crossroads();
    rack.host.ip("route del default");
    let (text, json) = caused(&agent, "10.244.2.5", "unusable");
    assert!(text.contains("10.66.0.9 is out of reach: no route leads to it"), "{text}");
    assert_eq!(json["wanted"], Value::Null, "{text}");

    // Somebody removes a route as often as it comes back: it is put right ever more rarely, and told so.
    let json = wait_for("it is not there, and why", Duration::from_secs(60), || {
        let _ = rack.host.try_ip("route del 10.244.1.0/24 proto 87");
        agent.json(&["explain", "10.244.1.5"]).filter(|json| json["cause"] == "not-installed")
    });
    let verdict = json["verdict"].as_str().unwrap();
    assert!(verdict.contains("installed is nothing"), "{verdict}");
    assert_eq!((&json["ok"], &json["agree"]), (&false.into(), &false.into()), "{json}");
}

#[test]
fn the_store_names_the_node() {
    let lab = Lab::new();
    let rack = cluster::Rack::new(&lab, 2);
    let _etcd = Etcd::start(&lab, &rack.etcd_space, cluster::ETCD);
    let start = |number: usize| {
        let text = cluster::host(number, cluster::POOL, "graceful_restart = \"0s\"");
        Agent::start(&lab, &rack.hosts[number], &text)
    };
    let (a, mut b) = (start(0), start(1));
    let subnet = cluster::wait_subnet(&b);
    holds("it is learned", SESSION, || a.installed(&subnet));
    let there = cluster::inside(&subnet);
    let (text, json) = caused(&a, &there, "as-wanted");
    assert!(text.contains(&format!("{there} is on h1 ({subnet}): direct via 10.0.0.2 dev eth0, as wanted.")), "{text}");
    assert_eq!((&json["holder"]["node"], &json["holder"]["state"]), (&"h1".into(), &"held".into()), "{json}");
    holds("what was counted is told", CAUSE, || {
        let json = a.json(&["explain", &there]).unwrap();
        json["facts"].to_string().contains("counted so far to h1: 0 packets, from it: 0 packets")
    });
    assert_eq!(caused(&a, "h1", "established").1["ok"], true);
    assert_eq!(caused(&a, "h0", "this-node").1["ok"], true);

    b.kill();
    holds("its route goes", ROUTE, || !a.installed(&subnet));
    let (text, _) = caused(&a, &there, "no-route");
    assert!(text.contains(&format!("{there} is on h1 ({subnet}): nobody announces it")), "{text}");
    holds("its sign of life ends", CAUSE, || {
        fact(&a.json(&["explain", &there]).unwrap(), "holder").contains("gives no sign of life")
    });
}
