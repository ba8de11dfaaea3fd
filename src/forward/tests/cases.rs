//! What a next hop comes to, row by row.

use super::*;

fn host() -> Dump {
    let eth0 = |gateway| Hop::direct(ip(gateway), ETH0);
    Dump {
        links: vec![
            Link { loopback: true, ..link(1, "lo") },
            link(ETH0, "eth0"),
            Link { carrier: false, ..link(ETH1, "eth1") },
            Link { up: false, ..link(4, "eth2") },
            link(TUNNEL, "wayleave0"),
        ],
        addresses: vec![
            address(1, "10.0.0.11/32"),
            address(ETH0, "192.0.2.11/24"),
            address(ETH0, "2001:db8:1::11/64"),
            address(ETH1, "198.51.100.11/24"),
            address(4, "198.18.0.11/24"),
            address(TUNNEL, "10.244.7.1/24"),
        ],
        foreign: vec![
            foreign("0.0.0.0/0", 100, vec![eth0("192.0.2.254")]),
            foreign("203.0.113.0/24", 0, vec![eth0("192.0.2.253"), Hop::direct(ip("198.51.100.1"), ETH1)]),
            foreign("203.0.113.128/25", 0, vec![]),
            foreign("198.18.1.0/24", 0, vec![Hop::direct(ip("198.51.100.1"), ETH1)]),
            foreign("198.18.2.0/24", 50, vec![Hop::direct(ip("198.51.100.1"), ETH1)]),
            foreign("198.18.2.0/24", 60, vec![eth0("192.0.2.252")]),
            foreign("198.18.3.0/24", 0, vec![Hop { gateway: None, ..Hop::direct(ip("::"), ETH0) }]),
            foreign("2001:db8:2::/48", 0, vec![eth0("fe80::2")]),
        ],
        own: Vec::new(),
        nexthops: Vec::new(),
    }
}

/// The outcome as text: short to write, and it shows that the words are right.
fn shown(resolution: &Resolution) -> String {
    let hops = resolution.hops().iter().map(|hop| {
        let way = if hop.tunnel { "tunnel " } else { "" };
        format!("{way}{} dev {}", hop.gateway.map_or_else(String::new, |g| g.to_string()), hop.device)
    });
    match resolution.outcome {
        Ok(_) => hops.collect::<Vec<_>>().join(", "),
        Err(reason) => reason.to_string(),
    }
}

#[test]
fn next_hops_of_a_host() {
    let plain = |addr| NextHop::new(ip(addr));
    let node = |addr| plain(addr).ending_tunnel(true);
    let mut forwarder = Forwarder::new(settings());
    forwarder.adopt(host());
    forwarder.set_route(p("100.64.0.0/16"), &ways(&[plain("192.0.2.1")]), &[]);
    forwarder.set_route(p("100.64.1.0/24"), &ways(&[plain("100.64.0.9")]), &[]);
    forwarder.set_route(p("100.65.0.0/16"), &ways(&[node("203.0.113.9")]), &[]);
    forwarder.set_route(p("10.244.8.0/24"), &ways(&[plain("192.0.2.8")]), &[]);
    forwarder.set_blackhole(p("10.244.7.0/24"));
    let cases = [
        // (why, next hop, distance, outcome)
        ("on-link", plain("192.0.2.1"), Some(0), "192.0.2.1 dev 2"),
        ("on-link: no tunnel though it ends some", node("192.0.2.1"), Some(0), "192.0.2.1 dev 2"),
        ("behind the default route", plain("192.88.0.1"), Some(1), "192.0.2.254 dev 2"),
        ("a node behind a router", node("192.88.0.1"), Some(1), "tunnel 192.88.0.1 dev 9"),
        ("the usable one of two gateways", plain("203.0.113.9"), Some(1), "192.0.2.253 dev 2"),
        ("the longest match rejects", plain("203.0.113.129"), None, "203.0.113.128/25 drops packets to it"),
        ("no tunnel to what is rejected", node("203.0.113.129"), None, "203.0.113.128/25 drops packets to it"),
        ("its link has no carrier", plain("198.51.100.1"), None, "device 3 is down or has no carrier"),
        ("its link is down", plain("198.18.0.1"), None, "device 4 is down or has no carrier"),
        ("the gateway's link has no carrier", plain("198.18.1.1"), None, "device 3 is down or has no carrier"),
        ("a worse metric that works", plain("198.18.2.1"), Some(1), "192.0.2.252 dev 2"),
        ("a device route makes it on-link", plain("198.18.3.1"), Some(0), "198.18.3.1 dev 2"),
        ("our own", plain("192.0.2.11"), None, "it is an address of this host"),
        ("our own, on the loopback", node("10.0.0.11"), None, "it is an address of this host"),
        ("our own, on the tunnel", plain("10.244.7.1"), None, "it is an address of this host"),
        ("through a route of ours", plain("100.64.0.9"), Some(1), "192.0.2.1 dev 2"),
        ("not through a recursive one", plain("100.64.1.9"), Some(1), "192.0.2.1 dev 2"),
        ("not through a tunnelled one", plain("100.65.0.9"), Some(1), "192.0.2.254 dev 2"),
        ("a tunnel outside the tunnel", node("100.64.0.9"), Some(1), "tunnel 100.64.0.9 dev 9"),
        (
            "no tunnel in a tunnel",
            node("100.65.0.9"),
            None,
            "the far end of the tunnel lies in 100.65.0.0/16, which is tunnelled itself or a container subnet",
        ),
        (
            "no tunnel to a container",
            node("10.244.8.9"),
            None,
            "the far end of the tunnel lies in 10.244.8.0/24, which is tunnelled itself or a container subnet",
        ),
        ("a container subnet is routed", plain("10.244.8.9"), Some(1), "192.0.2.8 dev 2"),
        ("the tunnel's own prefix leads nowhere", plain("10.244.7.9"), None, "10.244.7.0/24 drops packets to it"),
        ("IPv6 on-link", plain("2001:db8:1::1"), Some(0), "2001:db8:1::1 dev 2"),
        ("IPv6 is not tunnelled", node("2001:db8:2::1"), Some(1), "fe80::2 dev 2"),
        ("IPv6 without a default route", plain("2001:db8:3::1"), None, "no route leads to it"),
        ("link-local, device known", plain("fe80::1").on(ETH0), Some(0), "fe80::1 dev 2"),
        ("link-local, device down", plain("fe80::1").on(4), None, "device 4 is down or has no carrier"),
        ("link-local, device unknown", plain("fe80::1"), None, "it is link-local and its device is not known"),
    ];
    for (why, next_hop, distance, wanted) in cases {
        assert_eq!(forwarder.next_hop(next_hop), distance, "{why}: {next_hop:?}");
        assert_eq!(shown(&forwarder.resolve(next_hop, None)), wanted, "{why}: {next_hop:?}");
    }
}

#[test]
fn a_path_never_leads_through_itself() {
    let mut forwarder = Forwarder::new(settings());
    forwarder.adopt(Dump { foreign: Vec::new(), ..host() });
    let loopback = NextHop::new(ip("10.0.0.7"));
    let node = loopback.ending_tunnel(true);
    let own = p("10.0.0.7/32");
    assert_eq!(forwarder.next_hop_for(own, loopback), None, "nothing leads there");
    forwarder.set_route(own, &ways(&[NextHop::new(ip("192.0.2.1"))]), &[]);
    forwarder.settle();
    let cases = [
        // (why, prefix, next hop, distance)
        ("another prefix, through the node's address", p("10.244.8.0/24"), loopback, Some(1)),
        ("the same by tunnel", p("10.244.8.0/24"), node, Some(1)),
        ("the node's address over itself", own, loopback, None),
        ("the same by tunnel", own, node, None),
        ("a wider prefix is led by the longer one", p("10.0.0.0/24"), loopback, Some(1)),
    ];
    for (why, prefix, next_hop, distance) in cases {
        assert_eq!(forwarder.next_hop_for(prefix, next_hop), distance, "{why}");
    }
    // Two paths, one of them over itself: only the other counts, and nothing goes round in circles.
    forwarder.set_route(own, &ways(&[NextHop::new(ip("192.0.2.1")), loopback]), &[]);
    assert!(forwarder.settle().is_empty(), "the way to it has not changed");
    assert_eq!(forwarder.route(own).0, Some(via(&[Hop::direct(ip("192.0.2.1"), ETH0)])));
    forwarder.set_route(own, &ways(&[loopback]), &[]);
    assert_eq!(forwarder.settle(), [ip("10.0.0.7")]);
    assert_eq!(forwarder.route(own).0, None);
    assert_eq!(forwarder.stats().unresolved, 1);
}

#[test]
fn without_a_tunnel_device_only_tunnelled_next_hops_suffer() {
    let mut forwarder = Forwarder::new(Settings { tunnel_device: None, ..settings() });
    forwarder.adopt(host());
    let far = NextHop::new(ip("192.88.0.1")).ending_tunnel(true);
    forwarder.set_route(p("10.244.1.0/24"), &ways(&[NextHop::new(ip("192.0.2.1")), far]), &[]);
    forwarder.set_route(p("10.244.2.0/24"), &ways(&[far]), &[]);
    assert_eq!(forwarder.affected_without_tunnel(), [(ip("192.88.0.1"), 2)]);
    assert_eq!(forwarder.route(p("10.244.1.0/24")).0, Some(via(&[Hop::direct(ip("192.0.2.1"), ETH0)])));
    assert_eq!(forwarder.route(p("10.244.2.0/24")).0, None);

    forwarder.configure(settings());
    assert_eq!(forwarder.settle(), [ip("192.88.0.1")]);
    assert_eq!(forwarder.affected_without_tunnel(), []);
    assert_eq!(forwarder.route(p("10.244.2.0/24")).0, Some(via(&[Hop::tunnel(ip("192.88.0.1"), TUNNEL)])));
    let stats = forwarder.stats();
    assert_eq!((stats.wanted, stats.wanted_plain, stats.wanted_tunnel, stats.unresolved), (2, 0, 2, 0));
}

#[test]
fn settings_choose_the_tunnel() {
    let cases = [
        // (why, mode, endpoints, next hop, hop)
        (
            "listed as an endpoint",
            TunnelMode::CrossSubnet,
            "192.88.0.0/16",
            "192.88.0.1",
            Hop::tunnel(ip("192.88.0.1"), TUNNEL),
        ),
        ("not listed", TunnelMode::CrossSubnet, "192.89.0.0/16", "192.88.0.1", Hop::direct(ip("192.0.2.254"), ETH0)),
        ("never", TunnelMode::Never, "192.88.0.0/16", "192.88.0.1", Hop::direct(ip("192.0.2.254"), ETH0)),
        ("always", TunnelMode::Always, "192.0.2.0/24", "192.0.2.1", Hop::tunnel(ip("192.0.2.1"), TUNNEL)),
        ("always, but it can't", TunnelMode::Always, "192.89.0.0/16", "192.0.2.1", Hop::direct(ip("192.0.2.1"), ETH0)),
    ];
    let prefix = p("10.244.1.0/24");
    for (why, tunnel, endpoints, next_hop, hop) in cases {
        let mut forwarder = Forwarder::new(settings());
        forwarder.adopt(host());
        forwarder.set_route(prefix, &ways(&[NextHop::new(ip(next_hop))]), &[]);
        forwarder.configure(Settings { tunnel, tunnel_endpoints: vec![p(endpoints)], ..settings() });
        forwarder.settle();
        assert_eq!(forwarder.route(prefix).0, Some(via(&[hop])), "{why}");
    }
}

#[test]
fn explained_in_words() {
    let mut forwarder = Forwarder::new(settings());
    forwarder.adopt(host());
    let prefix = p("10.244.1.0/24");
    forwarder.set_route(
        prefix,
        &ways(&[
            NextHop::new(ip("192.0.2.1")),
            NextHop::new(ip("192.88.0.1")).ending_tunnel(true),
            NextHop::new(ip("198.51.100.1")),
            NextHop::new(ip("203.0.113.9")),
        ]),
        &[],
    );
    let explanation = forwarder.explain_addr(ip("10.244.1.77")).unwrap();
    assert_eq!(explanation.prefix, prefix);
    let words: Vec<&str> = explanation.next_hops.iter().map(|view| view.words.as_str()).collect();
    assert_eq!(
        words,
        [
            "192.0.2.1 is on-link on eth0 by the kernel's route 192.0.2.0/24",
            "192.88.0.1 ends tunnels: IP-in-IP; it is reached by the kernel's route 0.0.0.0/0",
            "198.51.100.1 is out of reach: eth1 is down or has no carrier",
            "203.0.113.9 is behind 192.0.2.253 on eth0 by the kernel's route 203.0.113.0/24",
        ]
    );
    assert_eq!(explanation.wanted.unwrap().hops().len(), 3);
    assert!(explanation.actual.is_none() && explanation.queued && !explanation.in_flight);
    let ipv6 = forwarder.explain_next_hop(NextHop::new(ip("2001:db8:2::1")).ending_tunnel(true), None);
    assert_eq!(
        ipv6.words,
        "2001:db8:2::1 is behind fe80::2 on eth0 by the kernel's route 2001:db8:2::/48; it ends tunnels, but IPv6 is not tunnelled"
    );
    assert!(forwarder.explain_addr(ip("10.245.0.1")).is_none());
}
