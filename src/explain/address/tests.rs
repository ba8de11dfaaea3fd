use super::*;
use crate::explain::kernel::{Action, Device, Matched};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn devices() -> Devices {
    let device = |name: &str, mtu, addresses: &[(&str, &str)]| Device {
        name: name.to_owned(),
        up: true,
        carrier: true,
        mtu,
        addresses: addresses.iter().map(|(addr, prefix)| (ip(addr), net(prefix))).collect(),
        ..Device::default()
    };
    Devices(
        [
            (1, device("lo", 65536, &[("127.0.0.1", "127.0.0.0/8")])),
            (2, device("eth0", 1500, &[("192.0.2.11", "192.0.2.0/24")])),
            (3, device("docker0", 1500, &[("10.244.7.1", "10.244.7.0/24")])),
            (4, device("wayleave0", 1480, &[])),
            (5, device("eth1", 1500, &[("198.51.100.11", "198.51.100.0/24")])),
        ]
        .into(),
    )
}

fn sent(gateway: &str, device: u32, route: &str, protocol: u8, table: u32) -> Answer {
    Answer {
        gateway: Some(ip(gateway)),
        device: Some(device),
        source: Some(ip("192.0.2.11")),
        route: Some(Matched { prefix: net(route), table, protocol, metric: 2048, nexthop: None }),
        ..Answer::of(Fate::Sent)
    }
}

/// All is well: learned of host-b, direct.
fn well() -> Found {
    let local = sent("192.0.2.12", 2, "10.244.9.0/24", 87, 254);
    Found {
        address: ip("10.244.9.5"),
        sort: Sort::Known(net("10.244.9.0/24")),
        inside: true,
        protocol: 87,
        table: 254,
        holder: None,
        routing: Routing {
            from: Some("host-b".to_owned()),
            how: "direct".to_owned(),
            install: true,
            wanted: Some("via 192.0.2.12 dev eth0".to_owned()),
            installed: Some("via 192.0.2.12 dev eth0".to_owned()),
            as_wanted: true,
            ways: vec![Way { gateway: Some(ip("192.0.2.12")), device: 2, tunnel: false }],
            ..Routing::default()
        },
        local,
        container: Some(Container { source: ip("10.244.7.2"), device: 3, answer: local }),
        underlay: None,
        devices: devices(),
        rules: Vec::new(),
        returns: vec![Return { device: 2, filter: 1, accepted: true }],
        neighbours: Vec::new(),
        objects: Vec::new(),
        source_nat: SourceNat::Kept,
        firewall: Firewall::default(),
        traffic: None,
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of all verdicts")]
fn verdicts() {
    type Case<'a> = (&'a str, fn(&mut Found), bool, &'a str, &'a str);
    let cases: [Case<'_>; 30] = [
        (
            "as wanted",
            |_| {},
            true,
            "as-wanted",
            "10.244.9.5 is in 10.244.9.0/24, which host-b announces: direct via 192.0.2.12 dev eth0, as wanted.",
        ),
        (
            "the store names the node",
            |f| {
                f.holder = Some(Holder {
                    node: "host-b".into(),
                    subnet: net("10.244.9.0/24"),
                    state: "held".into(),
                    this: false,
                });
            },
            true,
            "as-wanted",
            "is on host-b (10.244.9.0/24): direct",
        ),
        (
            "several ways",
            |f| f.routing.ways.push(Way { gateway: Some(ip("192.0.2.13")), device: 2, tunnel: false }),
            true,
            "as-wanted",
            "by 2 ways at once (ECMP)",
        ),
        (
            "a container of another hash takes the other way",
            |f| {
                f.routing.ways.push(Way { gateway: Some(ip("192.0.2.13")), device: 2, tunnel: false });
                f.container =
                    Some(Container { answer: sent("192.0.2.13", 2, "10.244.9.0/24", 87, 254), ..f.container.unwrap() });
            },
            true,
            "as-wanted",
            "as wanted",
        ),
        (
            "nobody announces it",
            |f| {
                f.sort = Sort::Pool(net("10.244.0.0/16"));
                f.routing = Routing { install: true, ..Routing::default() };
            },
            false,
            "no-route",
            "is in the pool 10.244.0.0/16: nobody announces a route to it",
        ),
        (
            "its node is dead",
            |f| {
                f.sort = Sort::Pool(net("10.244.0.0/16"));
                f.routing = Routing { install: true, ..Routing::default() };
                f.holder = Some(Holder {
                    node: "host-b".into(),
                    subnet: net("10.244.9.0/24"),
                    state: "dead".into(),
                    this: false,
                });
            },
            false,
            "no-route",
            "is on host-b (10.244.9.0/24): nobody announces it, though host-b holds 10.244.9.0/24",
        ),
        (
            "no path can be used",
            |f| {
                f.routing = Routing {
                    install: true,
                    unusable: Some("no path to 10.244.9.0/24 can be used: it needs an ipip device".to_owned()),
                    ..Routing::default()
                };
            },
            false,
            "unusable",
            "no path to 10.244.9.0/24 can be used",
        ),
        (
            "the kernel refused it",
            |f| {
                f.routing.as_wanted = false;
                f.routing.refusal = Some("Nexthop has invalid gateway".to_owned());
            },
            false,
            "refused",
            "the kernel refused the route: Nexthop has invalid gateway",
        ),
        (
            "somebody removes it",
            |f| {
                (f.routing.as_wanted, f.routing.installed) = (false, None);
                f.routing.duel = Some("networkd keeps removing it".to_owned());
            },
            false,
            "not-installed",
            "installed is nothing; networkd keeps removing it",
        ),
        (
            "a rule diverts it",
            |f| {
                f.local = sent("198.51.100.9", 5, "10.244.9.0/24", 3, 200);
                f.rules = vec![Rule { priority: 100, action: Action::Lookup(200), ..Rule::default() }];
            },
            false,
            "policy-rule",
            "the policy rule `100: from all lookup 200` diverts it to table 200, where it goes via 198.51.100.9 dev eth1",
        ),
        (
            "a rule drops it",
            |f| {
                f.local = Answer::of(Fate::Prohibited);
                f.rules = vec![Rule { priority: 100, action: Action::Reject, ..Rule::default() }];
            },
            false,
            "dropped",
            "the kernel drops it, by the policy rule `100: from all drops`",
        ),
        (
            "a blackhole of somebody",
            |f| {
                f.local = Answer::of(Fate::Dropped);
                f.routing.rejecting = Some((net("10.244.9.5/32"), 4, 0));
            },
            false,
            "dropped",
            "the kernel drops it, by a route that is not ours: 10.244.9.5/32 (static, metric 0)",
        ),
        (
            "our table is not looked into",
            |f| {
                f.table = 1000;
                f.local = sent("198.51.100.9", 5, "0.0.0.0/0", 3, 254);
                f.rules = vec![Rule { priority: 32_766, action: Action::Lookup(254), ..Rule::default() }];
            },
            false,
            "policy-rule",
            "it is looked up in table main, our routes stand in 1000",
        ),
        (
            "a foreign route has a lower metric",
            |f| f.local = sent("198.51.100.9", 5, "10.244.9.0/24", 4, 254),
            false,
            "foreign-route",
            "a route that is not ours has a lower metric: 10.244.9.0/24 (static",
        ),
        (
            "a foreign route is longer",
            |f| f.local = sent("198.51.100.9", 5, "10.244.9.5/32", 4, 254),
            false,
            "foreign-route",
            "a route that is not ours is longer: 10.244.9.5/32 (static",
        ),
        (
            "a foreign route that goes the same way harms nobody",
            |f| f.local = sent("192.0.2.12", 2, "10.244.9.5/32", 4, 254),
            true,
            "as-wanted",
            "as wanted",
        ),
        (
            "containers are not forwarded",
            |f| f.container = Some(Container { answer: Answer::of(Fate::Unreachable), ..f.container.unwrap() }),
            false,
            "not-forwarded",
            "container traffic that comes in by docker0 is not forwarded",
        ),
        (
            "a container's source is not accepted",
            |f| f.container = Some(Container { answer: Answer::of(Fate::Dropped), ..f.container.unwrap() }),
            false,
            "source-refused",
            "container traffic from 10.244.7.2 is not accepted on docker0",
        ),
        (
            "a rule for containers alone",
            |f| {
                let answer = sent("198.51.100.9", 5, "0.0.0.0/0", 3, 200);
                f.container = Some(Container { answer, ..f.container.unwrap() });
                let from = Some(net("10.244.7.0/24"));
                f.rules = vec![Rule { priority: 100, from, action: Action::Lookup(200), ..Rule::default() }];
            },
            false,
            "policy-rule",
            "container traffic goes astray: the policy rule `100: from 10.244.7.0/24 lookup 200` diverts it",
        ),
        (
            "answers would be dropped",
            |f| f.returns.push(Return { device: 5, filter: 1, accepted: false }),
            false,
            "reverse-path",
            "an answer that comes in by eth1 is dropped: rp_filter is strict there",
        ),
        (
            "the gateway is dead",
            |f| {
                let (address, device) = (ip("192.0.2.12"), 2);
                f.neighbours.push(Neighbour { address, device, state: Reachability::Failed, lladdr: None });
            },
            false,
            "neighbour",
            "192.0.2.12 on eth0 does not answer ARP (FAILED)",
        ),
        (
            "the tunnel is too wide",
            |f| {
                f.routing.how = "tunnel".to_owned();
                f.routing.ways = vec![Way { gateway: Some(ip("198.51.100.12")), device: 4, tunnel: true }];
                f.local = sent("198.51.100.12", 4, "10.244.9.0/24", 87, 254);
                f.container = None;
                let below = Answer { mtu: Some(1400), ..sent("192.0.2.1", 2, "0.0.0.0/0", 3, 254) };
                f.underlay = Some((ip("198.51.100.12"), below));
            },
            false,
            "mtu",
            "wayleave0 takes packets of 1480 octets, and eth0 has room for 1380 of them",
        ),
        (
            "the firewall is missing",
            |f| f.firewall.table = Some("nft: not found".to_owned()),
            false,
            "firewall",
            "our nftables table is not in force: nft: not found",
        ),
        (
            "Docker's chain is not ours to change",
            |f| f.firewall.docker_error = Some("iptables: busy".to_owned()),
            false,
            "docker",
            "DOCKER-USER can't be changed: iptables: busy",
        ),
        (
            "firewalld rejects",
            |f| f.firewall.firewalld = vec!["firewall-cmd --zone=trusted".to_owned()],
            false,
            "firewalld",
            "firewalld rejects our traffic",
        ),
        (
            "neither is in the way to the world outside",
            |f| {
                f.firewall.docker_error = Some("iptables: busy".to_owned());
                f.firewall.firewalld = vec!["firewall-cmd --zone=trusted".to_owned()];
                f.inside = false;
            },
            true,
            "as-wanted",
            "as wanted",
        ),
        (
            "what was counted, and what Docker lets in, are told",
            |f| {
                f.firewall.docker = vec!["iptables-nft".to_owned()];
                f.traffic = Some(Traffic { node: "host-b".to_owned(), sent: [1, 2], received: [3, 0] });
            },
            true,
            "as-wanted",
            "as wanted",
        ),
        (
            "nothing is to be written",
            |f| {
                f.routing = Routing { install: false, ..std::mem::take(&mut f.routing) };
                f.local = sent("192.0.2.1", 2, "0.0.0.0/0", 3, 254);
                f.container = None;
            },
            true,
            "not-installed",
            "kernel.install = false",
        ),
        (
            "outside the pools",
            |f| {
                (f.sort, f.routing) = (Sort::Outside, Routing { install: true, ..Routing::default() });
                f.local = sent("192.0.2.1", 2, "0.0.0.0/0", 3, 254);
                f.source_nat = SourceNat::Masqueraded;
            },
            true,
            "outside",
            "is outside the pools: via 192.0.2.1 dev eth0 by the default route; container traffic is masqueraded.",
        ),
        (
            "outside, and no way there",
            |f| {
                (f.sort, f.routing) = (Sort::Outside, Routing { install: true, ..Routing::default() });
                f.local = Answer::of(Fate::NoRoute);
            },
            false,
            "no-way",
            "the kernel has no way there",
        ),
    ];
    for (why, change, ok, cause, wanted) in cases {
        let mut found = well();
        change(&mut found);
        let story = story(&found);
        assert_eq!((story.ok, story.cause), (ok, cause), "{why}: {}", story.verdict);
        assert!(story.verdict.contains(wanted), "{why}: {}", story.verdict);
        assert_eq!(story.facts.iter().any(|fact| fact.problem), !ok, "{why}: a problem is also a fact");
        assert_eq!(story.advice.is_empty(), ok, "{why}: what is wrong comes with what to do");
    }
}

#[test]
fn every_address_has_its_sort() {
    let (subnets, pools) = ([net("10.244.7.0/24")], [net("10.244.0.0/16")]);
    let known = Some(net("10.244.9.0/24"));
    let own = Some(net("10.244.7.0/24"));
    let cases = [
        ("a container of another node", "10.244.9.5", known, Sort::Known(net("10.244.9.0/24"))),
        ("of this one", "10.244.7.9", own, Sort::Subnet(net("10.244.7.0/24"))),
        ("a part of our subnet elsewhere", "10.244.7.9", Some(net("10.244.7.9/32")), Sort::Known(net("10.244.7.9/32"))),
        ("a default route is no part of it", "10.244.7.9", Some(net("0.0.0.0/0")), Sort::Subnet(net("10.244.7.0/24"))),
        ("nobody's", "10.244.55.1", None, Sort::Pool(net("10.244.0.0/16"))),
        ("the world's", "203.0.113.1", None, Sort::Outside),
        ("our own", "192.0.2.11", None, Sort::Own(2)),
        ("our own in our subnet", "10.244.7.1", own, Sort::Own(3)),
        ("multicast", "224.0.0.5", None, Sort::Multicast),
        ("broadcast", "255.255.255.255", None, Sort::Broadcast),
        ("link-local", "169.254.3.4", None, Sort::LinkLocal),
        ("link-local of IPv6", "fe80::1", None, Sort::LinkLocal),
        ("loopback", "127.0.0.9", None, Sort::Loopback),
        ("nothing", "::", None, Sort::Unspecified),
        ("multicast of IPv6", "ff02::5", None, Sort::Multicast),
    ];
    for (why, addr, known, wanted) in cases {
        assert_eq!(sort(ip(addr), &devices(), &subnets, &pools, known), wanted, "{why}");
    }
}

#[test]
fn what_no_route_decides_is_told_in_a_sentence() {
    for (sort, words) in [
        (Sort::Own(2), "an address of this host, on eth0"),
        (Sort::Multicast, "multicast group"),
        (Sort::LinkLocal, "one link only"),
    ] {
        let story = story(&Found { sort, ..well() });
        assert!(story.ok && story.verdict.contains(words) && story.facts.len() == 1, "{}", story.verdict);
    }
}

#[test]
fn a_bridge_does_not_tell_who_is_there() {
    let subnet = net("10.244.7.0/24");
    let mut found = Found { address: ip("10.244.7.9"), sort: Sort::Subnet(subnet), ..well() };
    found.local = Answer { gateway: None, ..sent("0.0.0.0", 3, "10.244.7.0/24", 2, 254) };
    let neighbour = |state| Neighbour { address: ip("10.244.7.9"), device: 3, state, lladdr: None };
    found.neighbours = vec![neighbour(Reachability::None)];
    assert!(story(&found).verdict.contains("a container's if one has it"), "{}", story(&found).verdict);
    found.neighbours = vec![neighbour(Reachability::Usable("REACHABLE"))];
    assert!(story(&found).verdict.ends_with("a container's, on-link dev docker0."), "{}", story(&found).verdict);
    found.neighbours = vec![neighbour(Reachability::Failed)];
    assert_eq!((story(&found).ok, story(&found).cause), (false, "neighbour"));
    (found.local, found.neighbours) = (Answer::of(Fate::Dropped), Vec::new());
    assert!(story(&found).verdict.contains("no container has it: dropped, as wanted"), "{}", story(&found).verdict);
}
