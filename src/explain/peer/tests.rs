use super::*;
use crate::bgp::wire::Cease;
use crate::explain::kernel::{Device, Fate, Reachability};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "all that happened may not have")]
fn ago<T>(seconds: u64, what: T) -> Option<Past<T>> {
    Some(Past { what, ago: Duration::from_secs(seconds) })
}

/// A ToR on the link that we dial and that was never heard of.
fn down() -> Found {
    let eth0 = Device {
        name: "eth0".to_owned(),
        up: true,
        carrier: true,
        mtu: 1500,
        addresses: vec![(ip("192.0.2.11"), "192.0.2.0/24".parse().unwrap())],
        ..Device::default()
    };
    Found {
        name: "tor-a".to_owned(),
        address: ip("192.0.2.1"),
        range: None,
        mesh: false,
        wanted: Wanted {
            local_asn: Asn(64512),
            router_id: Ipv4Addr::new(192, 0, 2, 11),
            local_address: None,
            asn: Asn(65001),
            port: 179,
            passive: false,
            connect_retry: Duration::from_secs(5),
            families: vec![Family::Ipv4],
            hold_time: 9,
            max_prefixes: Some(100),
            password: false,
            ttl_security: None,
            multihop: None,
            import: "pools".to_owned(),
            export: "subnets".to_owned(),
        },
        state: State::Active,
        in_state: Duration::from_secs(72),
        drained: None,
        barred: None,
        sent: None,
        received: None,
        dial: None,
        closed: None,
        open: None,
        malformed: None,
        drops: Drops::default(),
        suspects: Vec::new(),
        reach: Reach {
            answer: Answer { device: Some(2), source: Some(ip("192.0.2.11")), ..Answer::of(Fate::Sent) },
            neighbour: None,
            devices: Devices([(2, eth0)].into()),
        },
        agreed: None,
        bfd: None,
        routes: Routes::default(),
        established: 0,
        flaps: 0,
    }
}

fn open(asn: u32, capabilities: Vec<Capability>) -> Open {
    let (my_as, hold_time) = (u16::try_from(asn).unwrap_or(23456), 9);
    Open { asn: Asn(asn), my_as, hold_time, router_id: Ipv4Addr::new(192, 0, 2, 1), capabilities }
}

fn dial(error: DialError) -> Option<Past<(DialError, String)>> {
    ago(2, (error, "in words".to_owned()))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of all causes")]
fn causes() {
    type Case<'a> = (&'a str, fn(&mut Found), &'a str, &'a str, &'a str);
    let cases: [Case<'_>; 33] = [
        ("just begun", |_| {}, "starting", "the first dial is under way", "wait"),
        ("passive", |f| f.wanted.passive = true, "passive", "we wait for it to call", "firewall here drop TCP 179"),
        (
            "drained",
            |f| f.drained = Some("drained since noon by ops".to_owned()),
            "drained",
            "this node is drained since noon by ops",
            "wayleave undrain",
        ),
        (
            "a range's peer refuses",
            |f| f.dial = dial(DialError::Refused),
            "refused",
            "nothing listens on port 179",
            "does it know 192.0.2.11 as a neighbour",
        ),
        ("silence", |f| f.dial = dial(DialError::Silence), "timed-out", "gives no answer at all", "ttl_security = 1"),
        (
            "silence, and another key",
            |f| {
                (f.dial, f.wanted.password) = (dial(DialError::Silence), true);
                f.drops.other_key = 4;
            },
            "password",
            "4 segments came that were signed with another key",
            "neighbor 192.0.2.11 password KEY",
        ),
        (
            "silence, and no key there",
            |f| {
                (f.dial, f.wanted.password) = (dial(DialError::Silence), true);
                f.drops.unsigned = 4;
            },
            "password",
            "it has no password and we have one",
            "password",
        ),
        (
            "silence, and a key there alone",
            |f| {
                f.dial = dial(DialError::Silence);
                f.drops.unexpected = 4;
            },
            "password",
            "it has a password and we have none",
            "`password_file` of tor-a",
        ),
        (
            "what is signed with another key can't be of a peer without one",
            |f| {
                f.dial = dial(DialError::Silence);
                f.drops.other_key = 4;
            },
            "timed-out",
            "no answer at all",
            "ping",
        ),
        (
            "who waits for calls sees the same",
            |f| {
                (f.wanted.passive, f.wanted.password) = (true, true);
                f.drops.other_key = 4;
            },
            "password",
            "another key",
            "password_file",
        ),
        (
            "a refusal is no question of passwords",
            |f| {
                (f.dial, f.wanted.password) = (dial(DialError::Refused), true);
                f.drops.other_key = 4;
            },
            "refused",
            "nothing listens",
            "port",
        ),
        (
            "too far away",
            |f| {
                (f.dial, f.wanted.ttl_security) = (dial(DialError::Silence), Some(1));
                f.drops.ttl = 4;
            },
            "ttl",
            "of those with less than 255, 4 segments were dropped",
            "ttl-security hops 1",
        ),
        (
            "too far away, and it called",
            |f| {
                (f.state, f.wanted.ttl_security) = (State::OpenSent, Some(2));
                f.drops.ttl = 4;
            },
            "ttl",
            "less than 254",
            "ttl security on;",
        ),
        (
            "TTL drops mean nothing where we don't look at it",
            |f| {
                f.dial = dial(DialError::Silence);
                f.drops.ttl = 4;
            },
            "timed-out",
            "no answer at all",
            "ping",
        ),
        (
            "behind a router",
            |f| {
                f.dial = dial(DialError::Unreachable);
                f.reach.answer.gateway = Some(ip("192.0.2.254"));
            },
            "needs-multihop",
            "is behind 192.0.2.254",
            "`multihop = 2`",
        ),
        (
            "unreachable behind a router",
            |f| {
                (f.dial, f.wanted.multihop) = (dial(DialError::Unreachable), Some(4));
                f.reach.answer.gateway = Some(ip("192.0.2.254"));
            },
            "unreachable",
            "a router behind it says so",
            "traceroute",
        ),
        (
            "no such source",
            |f| f.dial = dial(DialError::NoSource),
            "no-source",
            "`node.address` or `local_address` is wrong",
            "ip addr",
        ),
        (
            "the interface is down",
            |f| f.reach.devices.0.get_mut(&2).unwrap().up = false,
            "interface-down",
            "eth0, whose network it is on, is down",
            "ip link set eth0 up",
        ),
        (
            "the cable is out",
            |f| f.reach.devices.0.get_mut(&2).unwrap().carrier = false,
            "interface-down",
            "has no carrier",
            "cable",
        ),
        (
            "no route",
            |f| {
                f.reach.devices.0.clear();
                f.reach.answer = Answer::of(Fate::NoRoute);
            },
            "no-route",
            "the kernel has no way to 192.0.2.1",
            "ip route get 192.0.2.1",
        ),
        (
            "ourselves",
            |f| f.reach.answer = Answer::of(Fate::Local),
            "own-address",
            "is an address of this host",
            "correct `address`",
        ),
        (
            "nobody answers ARP",
            |f| {
                let (address, device, state) = (ip("192.0.2.1"), 2, Reachability::Failed);
                f.reach.neighbour = Some(Neighbour { address, device, state, lladdr: None });
                f.dial = dial(DialError::Silence);
            },
            "no-neighbour",
            "192.0.2.1 on eth0 does not answer ARP",
            "VLAN of eth0",
        ),
        (
            "it is of another AS",
            |f| {
                (f.sent, f.open) = (ago(3, Notification::bad_peer_as()), ago(3, open(65009, vec![])));
            },
            "wrong-as",
            "it says that it is AS 65009, and AS 65001 is configured: we sent 2/2 open message error: bad peer AS (3s ago)",
            "`asn = 65009`",
        ),
        (
            "it takes us for another",
            |f| f.received = ago(3, Notification::bad_peer_as()),
            "wrong-as",
            "it takes us for another AS than 64512",
            "neighbor 192.0.2.11 remote-as 64512",
        ),
        (
            "our hold time is too short for it",
            |f| f.received = ago(3, Notification::unacceptable_hold_time()),
            "hold-time",
            "it doesn't take our hold time of 9 s",
            "raise `hold_time`",
        ),
        (
            "no common family",
            |f| {
                f.sent = ago(3, Notification::unsupported_capability(&[Capability::Multiprotocol(Family::Ipv4)]));
                f.open = ago(3, open(65001, vec![Capability::Multiprotocol(Family::Ipv6)]));
            },
            "families",
            "we offer ipv4, it offers ipv6",
            "address-family ipv4 unicast",
        ),
        (
            "too many prefixes, and kept away",
            |f| {
                f.sent = ago(3, Notification::max_prefixes(Family::Ipv4, 100));
                f.barred = Some(Duration::from_secs(297));
            },
            "prefix-limit",
            "more prefixes than its limit of 100, and it is kept away for 4m 57s more",
            "raise `max_prefixes`",
        ),
        (
            "its operator ended it, and nobody listens since",
            |f| {
                f.received = ago(60, Notification::shutdown("new line card"));
                f.dial = dial(DialError::Refused);
            },
            "peer-shutdown",
            "its operator ended the session: it sent 6/2 cease: administrative shutdown: \"new line card\" (1m ago)",
            "ask its operator",
        ),
        (
            "the same as a hard reset",
            |f| f.received = ago(60, Notification::hard_reset(&Notification::shutdown("bye"))),
            "peer-shutdown",
            "bye",
            "ask its operator",
        ),
        (
            "what came later counts",
            |f| {
                f.received = ago(600, Notification::shutdown("old"));
                (f.open, f.sent) = (ago(5, open(65009, vec![])), ago(5, Notification::bad_peer_as()));
            },
            "wrong-as",
            "AS 65009",
            "asn = 65009",
        ),
        ("BFD", |f| f.sent = ago(3, Notification::cease(Cease::BfdDown)), "bfd-down", "BFD lost it", "UDP 3784"),
        (
            "it hangs up on strangers",
            |f| f.closed = ago(1, State::OpenSent),
            "closed",
            "it doesn't know 192.0.2.11 as a neighbour",
            "local_address",
        ),
        (
            "no OPEN comes",
            |f| f.state = State::OpenSent,
            "no-answer",
            "TCP is connected, and its OPEN has not come for 1m 12s",
            "its log",
        ),
    ];
    for (why, change, cause, verdict, advice) in cases {
        let mut found = down();
        change(&mut found);
        let story = story(&found);
        assert_eq!((story.cause, story.ok), (cause, false), "{why}: {}", story.verdict);
        assert!(story.verdict.contains(verdict), "{why}: {}", story.verdict);
        assert!(story.advice.join("\n").contains(advice), "{why}: {:#?}", story.advice);
    }
}

/// Up, and all is well.
fn up() -> Found {
    Found {
        state: State::Established,
        agreed: Some(Agreed { families: vec!["ipv4".to_owned()], hold_time: 9 }),
        routes: Routes { received: 10, accepted: 10, advertised: 1, ..Routes::default() },
        established: 1,
        ..down()
    }
}

#[test]
fn what_an_established_session_lacks() {
    let bfd = BfdFound {
        state: "down".to_owned(),
        up: false,
        remote_state: "down".to_owned(),
        heard: false,
        error: None,
        failure: None,
    };
    let fine = story(&up());
    assert!(fine.ok && fine.cause == "established" && fine.advice.is_empty(), "{}", fine.verdict);
    let with = |change: &dyn Fn(&mut Found)| {
        let mut found = up();
        change(&mut found);
        story(&found)
    };
    let cases: [(&str, Story, &str, &str); 5] = [
        ("nothing received", with(&|f| f.routes.received = 0), "nothing-received", "it sends no routes"),
        ("nothing advertised", with(&|f| f.routes.advertised = 0), "nothing-advertised", "nothing is advertised"),
        (
            "all rejected",
            with(&|f| {
                f.routes.accepted = 0;
                f.routes.rejected = [("outside-pools".to_owned(), 10)].into();
            }),
            "nothing-accepted",
            "10 prefixes are rejected: they lie outside the pools",
        ),
        ("near its limit", with(&|f| f.routes.received = 75), "limit-near", "75 prefixes are near the limit of 100"),
        (
            "BFD doesn't answer",
            with(&|f| f.bfd = Some(bfd.clone())),
            "bfd-down",
            "without BFD, to which it doesn't answer",
        ),
    ];
    for (why, story, cause, words) in cases {
        assert_eq!((story.cause, story.ok), (cause, false), "{why}: {}", story.verdict);
        assert!(story.verdict.contains(words), "{why}: {}", story.verdict);
        assert_eq!(story.advice.len(), 1, "{why}");
    }
    let told = with(&|f| {
        (f.routes.accepted, f.routes.rejected) = (0, [("as-loop".to_owned(), 10)].into());
        f.wanted.families = vec![Family::Ipv4, Family::Ipv6];
    });
    assert!(told.ok, "our own come back: {}", told.verdict);
    let agreed = told.facts.iter().find(|fact| fact.topic == "agreed").unwrap();
    assert!(agreed.text.ends_with("without ipv6, which we offer and it does not"), "{}", agreed.text);
    let told = with(&|f| {
        f.routes.advertised = 0;
        f.wanted.export = "none".to_owned();
    });
    assert!(told.ok, "none is what was asked for: {}", told.verdict);
}

#[test]
fn history_is_told_newest_first_with_codes_and_words() {
    let mut found = down();
    found.received = ago(90, Notification::shutdown("bye"));
    found.dial = dial(DialError::Refused);
    found.malformed = ago(200, "bad marker".to_owned());
    let story = story(&found);
    let history: Vec<&str> =
        story.facts.iter().filter(|fact| fact.topic == "history").map(|fact| fact.text.as_str()).collect();
    assert_eq!(
        history,
        [
            "2s ago: our last failed dial: in words",
            "1m 30s ago: it sent the NOTIFICATION 6/2 cease: administrative shutdown: \"bye\"",
            "3m 20s ago: a message of it could not be read: bad marker",
        ]
    );
}

#[test]
fn drops_that_may_be_of_others_are_told_so() {
    let mut found = Found { suspects: vec!["tor-b".to_owned()], ..down() };
    found.wanted.password = true;
    found.drops = Drops { other_key: 3, ttl: 1, ..Drops::default() };
    let story = story(&found);
    let dropped = story.facts.iter().find(|fact| fact.topic == "dropped").unwrap();
    assert!(
        dropped.problem && dropped.text.contains("TCPMD5Failure") && dropped.text.contains("tor-b"),
        "{}",
        dropped.text
    );
}
