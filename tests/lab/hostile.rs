//! A broken or hostile peer harms only its own routes.

use std::net::Ipv4Addr;

use crate::harness::agent::{Agent, ROUTE};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::holds;
use crate::harness::kernel::our_route;
use crate::harness::speaker::{Speaker, Who, message, nlri, update};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

/// AS of the peer that misbehaves.
const BAD_AS: u16 = 65066;

/// A sane router and a speaker of our own on one link, both up.
fn scene() -> (Rack, Bird, Agent, Speaker) {
    let rack = Rack::new();
    rack.tor.ip("addr add 10.0.0.66/24 dev eth0");
    let session = Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS));
    let tor = Bird::start(&rack.lab, &rack.tor, &config("10.0.0.1", &[session], &["10.244.1.0/24"], ""));
    let text =
        Config::host().peer("tor", "10.0.0.1", TOR_AS, "").peer("bad", "10.0.0.66", BAD_AS.into(), "passive = true");
    let agent = Agent::start(&rack.lab, &rack.host, &text.text());
    agent.wait_installed("10.244.1.0/24");
    let who = Who {
        local: [10, 0, 0, 66].into(),
        remote: [10, 0, 0, 2].into(),
        asn: BAD_AS.into(),
        four_octet_as: false,
        ipv6: false,
    };
    let bad = Speaker::connect(&rack.tor, &who);
    agent.wait_established(&["bad"]);
    (rack, tor, agent, bad)
}

/// ORIGIN, AS_PATH and NEXT_HOP of a path that begins at the bad peer, then whatever it adds.
fn attrs(more: &[u8]) -> Vec<u8> {
    let path = [&[0x40, 2, 4, 2, 1][..], &BAD_AS.to_be_bytes()].concat();
    [&[0x40, 1, 1, 0][..], &path, &[0x40, 3, 4, 10, 0, 0, 66], more].concat()
}

fn prefix(third: u8) -> Vec<u8> {
    nlri(Ipv4Addr::new(10, 244, third, 0), 24)
}

#[test]
fn malformed_attributes_cost_the_route_and_not_the_session() {
    let (rack, _tor, agent, bad) = scene();
    let cases: [(&str, u8, Vec<u8>, bool); 6] = [
        ("in order", 20, attrs(&[]), true),
        (
            "COMMUNITIES of five octets: treat-as-withdraw (RFC 7606 §7.8)",
            21,
            attrs(&[0xc0, 8, 5, 1, 2, 3, 4, 5]),
            false,
        ),
        ("MED of three octets: treat-as-withdraw (§7.4)", 22, attrs(&[0x80, 4, 3, 0, 0, 1]), false),
        ("AGGREGATOR of one octet: discarded (§7.7)", 23, attrs(&[0xc0, 7, 1, 0]), true),
        ("an unknown optional attribute: passed on", 24, attrs(&[0xc0, 250, 2, 1, 2]), true),
        ("a mandatory attribute is missing (§3 d)", 25, vec![0x40, 1, 1, 0], false),
    ];
    for (_, third, attrs, _) in &cases {
        // All are announced in order first, so that treat-as-withdraw has something to withdraw.
        bad.send(&update(&self::attrs(&[]), &prefix(*third)));
        bad.send(&update(attrs, &prefix(*third)));
    }
    // What comes after them shows that all of them have been read.
    bad.send(&update(&attrs(&[]), &prefix(99)));
    agent.wait_installed("10.244.99.0/24");
    for (why, third, _, kept) in cases {
        let prefix = format!("10.244.{third}.0/24");
        holds(why, ROUTE, || our_route(&rack.host, &prefix).is_some() == kept);
    }
    assert!(bad.up() && agent.established("bad"), "the session stays");
    assert!(agent.peer("bad").unwrap()["malformed"].as_u64() >= Some(4), "`peers` counts them");
    assert!(our_route(&rack.host, "10.244.1.0/24").is_some());
}

#[test]
fn what_may_not_be_believed_is_not() {
    let (rack, _tor, agent, bad) = scene();
    let loops = [&[0x40, 1, 1, 0, 0x40, 2, 6, 2, 2][..], &BAD_AS.to_be_bytes(), &64512_u16.to_be_bytes()].concat();
    let loops = [&loops[..], &[0x40, 3, 4, 10, 0, 0, 66]].concat();
    bad.send(&update(&attrs(&[]), &nlri(Ipv4Addr::UNSPECIFIED, 0)));
    bad.send(&update(&attrs(&[]), &nlri(Ipv4Addr::new(10, 244, 7, 0), 24)));
    bad.send(&update(&attrs(&[]), &nlri(Ipv4Addr::new(10, 244, 7, 128), 25)));
    bad.send(&update(&loops, &prefix(30)));
    bad.send(&update(&attrs(&[]), &prefix(99)));
    agent.wait_installed("10.244.99.0/24");
    for (why, prefix) in [
        ("a default route", "0.0.0.0/0"),
        ("a part of our own subnet", "10.244.7.128/25"),
        ("a path with our own AS in it", "10.244.30.0/24"),
    ] {
        assert!(our_route(&rack.host, prefix).is_none(), "{why}");
    }
    assert_eq!(our_route(&rack.host, "10.244.7.0/24").unwrap().kind, "blackhole", "our own subnet stays ours");
    let own = agent.best("10.244.7.0/24").unwrap();
    assert_eq!(own["from"], "local", "{own}");
}

#[test]
fn garbage_ends_only_its_own_session() {
    let (rack, _tor, agent, bad) = scene();
    let since = agent.peer("tor").unwrap()["since"].clone();
    bad.send(&update(&attrs(&[]), &prefix(20)));
    agent.wait_installed("10.244.20.0/24");
    // Message type 9 does not exist (RFC 4271 §6.1: Message Header Error, Bad Message Type).
    bad.send(&message(9, &[]));
    let notifications = bad.closed();
    assert_eq!(notifications.len(), 1);
    assert_eq!(notifications[0][..2], [1, 3], "{notifications:?}");
    holds("its routes leave the kernel", ROUTE, || our_route(&rack.host, "10.244.20.0/24").is_none());
    assert_eq!(agent.peer("tor").unwrap()["since"], since, "the other session did not notice");
    assert!(our_route(&rack.host, "10.244.1.0/24").is_some());
}
