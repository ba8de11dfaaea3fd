//! Peering with BIRD: as the top-of-rack router by eBGP, and as an iBGP peer.

use std::fs;
use std::time::Duration;

use crate::harness::agent::{Agent, ROUTE, SESSION, as_path, password_file};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::kernel::our_route;
use crate::harness::{Netns, holds, wait_for};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

/// The router's side of the two sessions of a [`Rack`], one per family.
fn tor_sessions(asn: u32) -> [Neighbor<'static>; 2] {
    [
        Neighbor::new("host4", ("10.0.0.1", asn), ("10.0.0.2", HOST_AS)),
        Neighbor::new("host6", ("fd00::1", asn), ("fd00::2", HOST_AS)),
    ]
}

/// The host's side of them.
fn host_config(asn: u32) -> Config {
    Config::host().peer("tor4", "10.0.0.1", asn, "families = [\"ipv4\"]").peer(
        "tor6",
        "fd00::1",
        asn,
        "families = [\"ipv6\"]",
    )
}

const ANNOUNCED: [&str; 2] = ["10.244.1.0/24", "fd44:1::/64"];

#[test]
fn tor_by_ebgp() {
    let rack = Rack::new();
    // A default route and a prefix that is nobody's business: not to be believed without asking.
    let stray = ["0.0.0.0/0", "192.0.2.0/24"];
    let bird = |announce: &[&str]| config("10.0.0.1", &tor_sessions(TOR_AS), announce, "");
    let tor = Bird::start(&rack.lab, &rack.tor, &bird(&[&ANNOUNCED[..], &stray].concat()));
    let agent = Agent::start(&rack.lab, &rack.host, &host_config(TOR_AS).text());

    agent.wait_established(&["tor4", "tor6"]);
    for (prefix, router) in [("10.244.1.0/24", "10.0.0.1"), ("fd44:1::/64", "fd00::1")] {
        agent.wait_installed(prefix);
        let route = our_route(&rack.host, prefix).unwrap();
        assert_eq!((route.gateways(), route.devices()), (vec![router], vec!["eth0"]), "{prefix}");
        let best = agent.best(prefix).unwrap();
        assert_eq!((as_path(&best).as_str(), &best["next_hop"]), ("65001", &router.into()), "{prefix}");
    }
    for (prefix, host) in [("10.244.7.0/24", "10.0.0.2"), ("fd44:7::/64", "fd00::2")] {
        let path = wait_for("BIRD has our subnet", ROUTE, || tor.attribute(prefix, "BGP.as_path"));
        assert_eq!(path, "64512", "{prefix}: a sequence of one, as BIRD shows it");
        let next_hop = tor.attribute(prefix, "BGP.next_hop").unwrap();
        assert_eq!(next_hop.split(' ').next(), Some(host), "{prefix}");
        assert_eq!(our_route(&rack.host, prefix).unwrap().kind, "blackhole", "unused addresses of ours end here");
    }
    // Default policy: into the kernel only what lies in the pools.
    for prefix in stray {
        let seen = agent.routes(&["--from", "tor4", "--before-policy", prefix]);
        assert!(seen.iter().any(|route| route["prefix"] == prefix), "{prefix} is kept and can be shown: {seen:?}");
        assert!(our_route(&rack.host, prefix).is_none(), "{prefix} was not to be accepted");
    }
    let sent: Vec<_> = agent.routes(&["--to", "tor4"]).iter().map(|route| route["prefix"].clone()).collect();
    assert_eq!(sent, ["10.244.7.0/24"], "only our own subnet goes out");

    // The router withdraws.
    tor.reconfigure(&bird(&ANNOUNCED[1..]));
    holds("10.244.1.0/24 leaves the kernel", ROUTE, || our_route(&rack.host, "10.244.1.0/24").is_none());
    assert!(our_route(&rack.host, "fd44:1::/64").is_some(), "the other family stays");

    // The router asks for everything again (RFC 2918).
    let received = |tor: &Bird| {
        let text = tor.birdc("show protocols all host4");
        let line = text.lines().find(|line| line.contains("Import updates:")).unwrap();
        line.split_whitespace().nth(2).unwrap().parse::<u32>().unwrap()
    };
    let before = received(&tor);
    tor.birdc("reload in host4");
    holds("BIRD receives our subnet again", ROUTE, || received(&tor) > before);
    assert!(agent.established("tor4"));
}

#[test]
fn ibgp_peer() {
    let rack = Rack::new();
    let bird = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &tor_sessions(HOST_AS), &ANNOUNCED, ""));
    let agent = Agent::start(&rack.lab, &rack.host, &host_config(HOST_AS).text());

    agent.wait_established(&["tor4", "tor6"]);
    for (prefix, router) in [("10.244.1.0/24", "10.0.0.1"), ("fd44:1::/64", "fd00::1")] {
        agent.wait_installed(prefix);
        assert_eq!(our_route(&rack.host, prefix).unwrap().gateways(), [router], "{prefix}");
        assert_eq!(as_path(&agent.best(prefix).unwrap()), "", "{prefix}: begins in our own AS");
    }
    for prefix in ["10.244.7.0/24", "fd44:7::/64"] {
        let preference = wait_for("BIRD has our subnet", ROUTE, || bird.attribute(prefix, "BGP.local_pref"));
        assert_eq!(preference, "100", "{prefix}");
        assert_eq!(bird.attribute(prefix, "BGP.as_path").unwrap(), "", "{prefix}");
    }
}

#[test]
fn communities_both_ways() {
    let rack = Rack::new();
    let mut session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    session.channel = "import all; export filter { \
        bgp_community.add((65001,5)); bgp_ext_community.add((rt, 65001, 9)); bgp_large_community.add((65001,1,2)); \
        bgp_med = 30; accept; };";
    let bird = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &["10.244.1.0/24"], ""));
    let announce = "[[bgp.announce]]\nprefix = \"203.0.113.7/32\"\ncommunities = [\"64512:7\"]\n";
    let tables = Config::host().peer("tor", "10.0.0.1", TOR_AS, "").with(announce);
    let agent = Agent::start(&rack.lab, &rack.host, &tables.text());

    agent.wait_installed("10.244.1.0/24");
    let best = agent.best("10.244.1.0/24").unwrap();
    assert_eq!(best["communities"].as_array().unwrap(), &["65001:5"]);
    assert!(best.to_string().contains("65001:1:2"), "large community: {best}");
    assert!(best.to_string().contains("rt:65001:9"), "extended community: {best}");
    let community = wait_for("the announced prefix", ROUTE, || bird.attribute("203.0.113.7/32", "BGP.community"));
    assert_eq!(community, "(64512,7)");
}

#[test]
fn password() {
    let rack = Rack::new();
    let bird = |password: &str| {
        let mut session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
        let option = format!("password \"{password}\";");
        session.options = &option;
        config("10.0.0.1", &[session], &["10.244.1.0/24"], "")
    };
    let key = password_file(&rack.lab, "tor.key", "open sesame");
    let option = format!("password_file = \"{}\"", key.display());
    let tor = Bird::start(&rack.lab, &rack.tor, &bird("open barley"));
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, &option).text());

    // The kernel drops what is signed with another key, so all one sees is silence; it counts them.
    holds("segments with a wrong signature", SESSION, || counter(&rack.host, "TCPMD5Failure") > 0);
    assert!(!agent.established("tor"));
    holds("`peers` hints at the password", SESSION, || {
        agent.peer("tor").is_some_and(|peer| peer["last_error"].to_string().contains("password"))
    });

    tor.reconfigure(&bird("open sesame"));
    agent.wait_established(&["tor"]);
    agent.wait_installed("10.244.1.0/24");
}

#[test]
fn ttl_security() {
    let rack = Rack::new();
    let bird = |option: &'static str| {
        let mut session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
        session.options = option;
        config("10.0.0.1", &[session], &[], "")
    };
    // Without the option BIRD sends with TTL 1, as anybody far away could make it look.
    let tor = Bird::start(&rack.lab, &rack.tor, &bird(""));
    let tables = Config::host().peer("tor", "10.0.0.1", TOR_AS, "ttl_security = 1");
    let agent = Agent::start(&rack.lab, &rack.host, &tables.text());
    holds("segments from too far away are dropped", SESSION, || counter(&rack.host, "TCPMinTTLDrop") > 0);
    assert!(!agent.established("tor"));

    tor.reconfigure(&bird("ttl security on;"));
    agent.wait_established(&["tor"]);
}

#[test]
fn ttl_security_over_ipv6() {
    let rack = Rack::new();
    let mut session = Neighbor::new("host", ("fd00::1", TOR_AS), ("fd00::2", HOST_AS));
    session.options = "ttl security on;";
    let _tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &["fd44:1::/64"], ""));
    let tables = Config::host().peer("tor", "fd00::1", TOR_AS, "ttl_security = 1");
    let agent = Agent::start(&rack.lab, &rack.host, &tables.text());
    agent.wait_installed("fd44:1::/64");
}

#[test]
fn silent_peer_is_given_up_after_the_hold_time() {
    let rack = Rack::new();
    let session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    let _tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &["10.244.1.0/24"], ""));
    let tables = Config::host().peer("tor", "10.0.0.1", TOR_AS, "hold_time = \"3s\"");
    let agent = Agent::start(&rack.lab, &rack.host, &tables.text());
    agent.wait_installed("10.244.1.0/24");

    // Neither a FIN nor a lost carrier tells of it.
    rack.tor.silence(179);
    holds("the hold timer expires", Duration::from_secs(15), || !agent.established("tor"));
    let error = agent.peer("tor").unwrap()["last_error"].to_string().to_lowercase();
    assert!(error.contains("hold"), "last_error says why: {error}");
    holds("its routes leave the kernel", ROUTE, || our_route(&rack.host, "10.244.1.0/24").is_none());

    rack.tor.unsilence();
    agent.wait_established(&["tor"]);
    agent.wait_installed("10.244.1.0/24");
}

#[test]
fn restart_of_the_router() {
    let rack = Rack::new();
    let session = || Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    let text = config("10.0.0.1", &[session()], &["10.244.1.0/24"], "");
    let mut tor = Bird::start(&rack.lab, &rack.tor, &text);
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text());
    agent.wait_installed("10.244.1.0/24");

    // It keeps nothing across a restart and says so in its OPEN, so nothing may be sent to it meanwhile.
    tor.process().kill();
    holds("its routes leave the kernel", ROUTE, || our_route(&rack.host, "10.244.1.0/24").is_none());
    assert_ne!(agent.peer("tor").unwrap()["state"], "established");

    drop(tor);
    let tor = Bird::start(&rack.lab, &rack.tor, &text);
    agent.wait_established(&["tor"]);
    agent.wait_installed("10.244.1.0/24");
    holds("BIRD has our subnet again", ROUTE, || tor.route("10.244.7.0/24").is_some());
}

#[test]
fn restart_of_the_agent() {
    let rack = Rack::new();
    let session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    let tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &["10.244.1.0/24"], ""));
    let tables = Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text();
    let mut agent = Agent::start(&rack.lab, &rack.host, &tables);
    agent.wait_installed("10.244.1.0/24");
    holds("BIRD has our subnet", ROUTE, || tor.route("10.244.7.0/24").is_some());

    agent.kill();
    holds("BIRD sees us gone", ROUTE, || !tor.established("host"));
    assert!(our_route(&rack.host, "10.244.1.0/24").is_some(), "the kernel forwards without us");
    assert!(tor.route("10.244.7.0/24").is_some(), "BIRD keeps our route: we announced graceful restart");

    agent.launch(&rack.lab);
    agent.wait_established(&["tor"]);
    agent.wait_installed("10.244.1.0/24");
    holds("BIRD has a fresh route", ROUTE, || {
        tor.route("10.244.7.0/24").is_some_and(|text| !text.contains("stale")) && tor.established("host")
    });
}

#[test]
fn too_many_prefixes_end_the_session() {
    let rack = Rack::new();
    let bird = |count: usize| {
        let session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
        let prefixes: Vec<String> = (100..100 + count).map(|n| format!("10.244.{n}.0/24")).collect();
        let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
        config("10.0.0.1", &[session], &prefixes, "")
    };
    let tor = Bird::start(&rack.lab, &rack.tor, &bird(2));
    let tables = Config::host().peer("tor", "10.0.0.1", TOR_AS, "max_prefixes = 4").text();
    let agent = Agent::start(&rack.lab, &rack.host, &tables);
    agent.wait_installed("10.244.100.0/24");
    let warned = |agent: &Agent| agent.log().lines().any(|l| l.contains("WARN") && l.contains("prefix"));
    assert!(!warned(&agent), "half of the limit is nothing to warn about");

    tor.reconfigure(&bird(3));
    holds("a warning at three quarters", ROUTE, || warned(&agent));
    assert!(agent.established("tor"));

    tor.reconfigure(&bird(5));
    holds("the session ends", ROUTE, || !agent.established("tor"));
    let last = wait_for("BIRD was told why", ROUTE, || {
        let text = tor.birdc("show protocols all host");
        text.lines().find(|line| line.contains("Last error")).map(str::to_lowercase)
    });
    assert!(last.contains("prefixes"), "Cease/1 (RFC 4486): {last}");
    let error = agent.peer("tor").unwrap()["last_error"].to_string();
    assert!(error.contains("prefix"), "{error}");
    holds("its routes leave the kernel", ROUTE, || our_route(&rack.host, "10.244.100.0/24").is_none());
}

#[test]
fn any_peer_of_a_range() {
    let rack = Rack::new();
    let session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    let tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &["10.244.1.0/24"], ""));
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("rack", "10.0.0.0/24", TOR_AS, "").text());
    agent.wait_installed("10.244.1.0/24");
    let peers = agent.json(&["peers"]).unwrap();
    let found = peers.as_array().unwrap().iter().find(|peer| peer["address"] == "10.0.0.1");
    assert_eq!(found.unwrap()["state"], "established", "{peers}");
    holds("BIRD has our subnet", ROUTE, || tor.route("10.244.7.0/24").is_some());
}

#[test]
fn multihop_over_a_router() {
    let rack = Rack::new();
    // The peer is behind the router; the router speaks no BGP.
    let far = rack.lab.router("far");
    rack.lab.link((&rack.tor, "eth1", &["10.9.0.1/24"]), (&far, "eth0", &["10.9.0.9/24"]));
    far.ip("route add default via 10.9.0.1");
    rack.host.ip("route add default via 10.0.0.1");
    let mut session = Neighbor::new("host", ("10.9.0.9", TOR_AS), ("10.0.0.2", HOST_AS));
    session.options = "multihop 2;";
    let bird = Bird::start(&rack.lab, &far, &config("10.9.0.9", &[session], &["10.244.1.0/24"], ""));
    let tables = Config::host().peer("far", "10.9.0.9", TOR_AS, "multihop = 2");
    let agent = Agent::start(&rack.lab, &rack.host, &tables.text());

    agent.wait_established(&["far"]);
    agent.wait_installed("10.244.1.0/24");
    let route = our_route(&rack.host, "10.244.1.0/24").unwrap();
    assert_eq!(route.gateways(), ["10.0.0.1"], "the next hop is off-link and ends no tunnel: the way to it is taken");
    holds("BIRD has our subnet", ROUTE, || bird.route("10.244.7.0/24").is_some());
}

#[test]
fn either_side_may_dial() {
    for (why, ours, theirs) in [("BIRD dials", "passive = true", ""), ("we dial", "passive = false", "passive on;")] {
        let rack = Rack::new();
        let mut session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
        session.options = theirs;
        let _tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &["10.244.1.0/24"], ""));
        let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, ours).text());
        eprintln!("{why}");
        agent.wait_installed("10.244.1.0/24");
    }
}

#[test]
fn router_without_four_octet_as() {
    let rack = Rack::new();
    let mut session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    session.options = "enable as4 off;";
    session.channel = "import all; export filter { bgp_path.prepend(4200000001); accept; };";
    let tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &["10.244.1.0/24"], ""));
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text());
    agent.wait_installed("10.244.1.0/24");
    let route = agent.best("10.244.1.0/24").unwrap();
    // Put together from AS_TRANS in AS_PATH and the real number in AS4_PATH (RFC 6793 §4.2.3).
    assert_eq!(as_path(&route), "65001 4200000001");
    assert_eq!(agent.peer("tor").unwrap()["negotiated"]["four_octet_as"], false);
    let path = wait_for("BIRD has our subnet", ROUTE, || tor.attribute("10.244.7.0/24", "BGP.as_path"));
    assert_eq!(path, HOST_AS.to_string());
}

#[test]
fn reason_of_a_shutdown_is_shown() {
    let rack = Rack::new();
    let session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    let tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &["10.244.1.0/24"], ""));
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text());
    agent.wait_installed("10.244.1.0/24");

    tor.birdc("disable host \"new line card\"");
    holds("the session ends", ROUTE, || !agent.established("tor"));
    let error = agent.peer("tor").unwrap()["last_error"].to_string();
    assert!(error.contains("new line card"), "shutdown communication (RFC 9003): {error}");
    tor.birdc("enable host");
    agent.wait_established(&["tor"]);
}

/// A counter of the kernel's TCP in a namespace, as `nstat` names it.
fn counter(space: &Netns, name: &str) -> u64 {
    let text = space.run(|| fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let found = names.split(' ').zip(values.split(' ')).find(|(n, _)| *n == name);
        if let Some((_, value)) = found {
            return value.parse().unwrap();
        }
    }
    panic!("this kernel has no counter {name}");
}
