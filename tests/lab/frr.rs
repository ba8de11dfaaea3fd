//! Peering with FRR: as the top-of-rack router by eBGP, and as an iBGP peer.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use crate::harness::agent::{Agent, ROUTE, SESSION, password_file};
use crate::harness::kernel::our_route;
use crate::harness::{Frr, holds, wait_for};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

/// bgpd with one session per family, which announces 10.244.1.0/24 and fd44:1::/64.
fn bgpd(asn: u32, options: &str) -> String {
    let mut text = format!(
        "router bgp {asn}\n bgp router-id 10.0.0.1\n no bgp default ipv4-unicast\n no bgp ebgp-requires-policy\n \
         no bgp network import-check\n"
    );
    for neighbor in ["10.0.0.2", "fd00::2"] {
        for line in
            [&format!("remote-as {HOST_AS}"), "timers 3 9", "timers connect 1", "advertisement-interval 0", options]
        {
            if !line.is_empty() {
                writeln!(text, " neighbor {neighbor} {line}").unwrap();
            }
        }
    }
    for (family, neighbor, network) in [("ipv4", "10.0.0.2", "10.244.1.0/24"), ("ipv6", "fd00::2", "fd44:1::/64")] {
        writeln!(
            text,
            " address-family {family} unicast\n  network {network}\n  neighbor {neighbor} activate\n exit-address-family"
        )
        .unwrap();
    }
    text
}

fn host_config(asn: u32, options: &str) -> Config {
    Config::host().peer("tor4", "10.0.0.1", asn, &format!("families = [\"ipv4\"];{options}")).peer(
        "tor6",
        "fd00::1",
        asn,
        &format!("families = [\"ipv6\"];{options}"),
    )
}

/// (our prefix, our address, the router's prefix, the router's address)
const BOTH: [(&str, &str, &str, &str); 2] =
    [("10.244.7.0/24", "10.0.0.2", "10.244.1.0/24", "10.0.0.1"), ("fd44:7::/64", "fd00::2", "fd44:1::/64", "fd00::1")];

fn received_updates(frr: &Frr, neighbor: &str) -> u64 {
    frr.json(&format!("show bgp neighbors {neighbor}"))[neighbor]["messageStats"]["updatesRecv"].as_u64().unwrap()
}

#[test]
fn tor_by_ebgp() {
    let rack = Rack::new();
    let frr = Frr::start(&rack.lab, &rack.tor, &bgpd(TOR_AS, ""));
    let agent = Agent::start(&rack.lab, &rack.host, &host_config(TOR_AS, "").text());
    agent.wait_established(&["tor4", "tor6"]);
    for (ours, host, theirs, router) in BOTH {
        agent.wait_installed(theirs);
        let route = our_route(&rack.host, theirs).unwrap();
        // FRR may give its link-local address as the second next hop (RFC 2545 §3).
        assert_eq!(route.hops.len(), 1, "{route:?}");
        assert!(route.gateways()[0] == router || route.gateways()[0].starts_with("fe80:"), "{route:?}");
        let path = wait_for("FRR has our subnet", ROUTE, || frr.path(ours));
        assert_eq!(path["aspath"]["string"], "64512", "{ours}");
        let next_hops: Vec<&Value> = path["nexthops"].as_array().unwrap().iter().map(|hop| &hop["ip"]).collect();
        assert!(next_hops.contains(&&Value::from(host)), "{ours}: {path}");
    }

    frr.configure(&["router bgp 65001", "address-family ipv4 unicast", "no network 10.244.1.0/24"]);
    holds("10.244.1.0/24 leaves the kernel", ROUTE, || our_route(&rack.host, "10.244.1.0/24").is_none());
    assert!(our_route(&rack.host, "fd44:1::/64").is_some(), "the other family stays");

    let before = received_updates(&frr, "10.0.0.2");
    frr.vtysh("clear bgp ipv4 unicast 10.0.0.2 in");
    holds("FRR receives our subnet again", ROUTE, || received_updates(&frr, "10.0.0.2") > before);
    assert!(agent.established("tor4"));
}

#[test]
fn ibgp_peer() {
    let rack = Rack::new();
    let frr = Frr::start(&rack.lab, &rack.tor, &bgpd(HOST_AS, ""));
    let agent = Agent::start(&rack.lab, &rack.host, &host_config(HOST_AS, "").text());
    agent.wait_established(&["tor4", "tor6"]);
    for (ours, _, theirs, _) in BOTH {
        agent.wait_installed(theirs);
        let path = wait_for("FRR has our subnet", ROUTE, || frr.path(ours));
        assert_eq!((&path["aspath"]["string"], &path["locPrf"]), (&"Local".into(), &100.into()), "{ours}");
    }
}

#[test]
fn password_and_ttl_security() {
    let rack = Rack::new();
    let frr = Frr::start(&rack.lab, &rack.tor, &bgpd(TOR_AS, "password sesame"));
    frr.configure(&[
        "router bgp 65001",
        "neighbor 10.0.0.2 ttl-security hops 1",
        "neighbor fd00::2 ttl-security hops 1",
    ]);
    let key = password_file(&rack.lab, "tor.key", "sesame");
    let options = format!("password_file = \"{}\";ttl_security = 1", key.display());
    let agent = Agent::start(&rack.lab, &rack.host, &host_config(TOR_AS, &options).text());
    agent.wait_established(&["tor4", "tor6"]);
    for (_, _, theirs, _) in BOTH {
        agent.wait_installed(theirs);
    }
}

#[test]
fn restart_of_either_side() {
    let rack = Rack::new();
    let start = || Frr::start(&rack.lab, &rack.tor, &bgpd(TOR_AS, ""));
    let frr = start();
    let mut agent = Agent::start(&rack.lab, &rack.host, &host_config(TOR_AS, "").text());
    agent.wait_installed("10.244.1.0/24");
    agent.wait_installed("fd44:1::/64");

    drop(frr);
    for (_, _, theirs, _) in BOTH {
        holds("its routes leave the kernel", ROUTE, || our_route(&rack.host, theirs).is_none());
    }
    let frr = start();
    for (ours, _, theirs, _) in BOTH {
        holds("its routes are back", SESSION, || agent.installed(theirs));
        holds("FRR has our subnet again", ROUTE, || frr.path(ours).is_some());
    }

    agent.kill();
    holds("FRR sees us gone", ROUTE, || !frr.established("10.0.0.2") && !frr.established("fd00::2"));
    for (ours, _, theirs, _) in BOTH {
        assert!(our_route(&rack.host, theirs).is_some(), "{theirs}: the kernel forwards without us");
        assert!(frr.path(ours).is_some(), "{ours}: FRR keeps our route, we announced graceful restart");
    }
    agent.launch(&rack.lab);
    agent.wait_established(&["tor4", "tor6"]);
    for (ours, _, _, _) in BOTH {
        holds("FRR has a fresh route", ROUTE, || frr.path(ours).is_some_and(|path| path.get("stale").is_none()));
    }
}

#[test]
fn silent_peer_is_given_up_after_the_hold_time() {
    let rack = Rack::new();
    let frr = Frr::start(&rack.lab, &rack.tor, &bgpd(TOR_AS, ""));
    let agent = Agent::start(&rack.lab, &rack.host, &host_config(TOR_AS, "hold_time = \"3s\"").text());
    agent.wait_installed("10.244.1.0/24");
    rack.tor.silence(179);
    holds("the hold timer expires", Duration::from_secs(15), || !agent.established("tor4"));
    rack.tor.unsilence();
    agent.wait_established(&["tor4", "tor6"]);
    holds("FRR too", SESSION, || frr.established("10.0.0.2") && frr.established("fd00::2"));
}
