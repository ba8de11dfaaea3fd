//! Nexthop objects: written, read, and what the kernel does with them, which it hardly ever tells.

use std::net::UdpSocket;

use wayleave::forward::{KernelEvent, Nexthop, NexthopId, NexthopObject, NexthopOp};
use wayleave::io::netlink::watch::Watch;
use wayleave::io::netlink::{meters, query};

use super::watch::{is_route, marker, until};
use super::*;

const fn id(number: u32) -> NexthopId {
    NexthopId(number)
}

fn hop(number: u32, gateway: &str, device: u32) -> NexthopOp {
    NexthopOp::Set(id(number), over(Hop::direct(addr(gateway), device)))
}

fn over(hop: Hop) -> Nexthop {
    Nexthop::Hop(hop, hop.gateway.map_or(Family::Ipv4, Family::of))
}

fn of<const N: usize>(members: [u32; N]) -> Nexthop {
    Nexthop::Group(members.map(NexthopId).into())
}

fn group<const N: usize>(number: u32, members: [u32; N]) -> NexthopOp {
    NexthopOp::Set(id(number), of(members))
}

/// Writes objects and returns what became of them.
async fn set(writer: &mut writer::Writer, ops: Vec<NexthopOp>) -> writer::NexthopsReport {
    writer.nexthops.send(ops).await.unwrap();
    // It waits for routes: this wakes it.
    writer.ops.send(Batch::default()).await.unwrap();
    match writer.reports.recv().await.unwrap() {
        writer::Report::Nexthops(report) => report,
        writer::Report::Routes(report) => panic!("{report:?}"),
    }
}

async fn set_all(writer: &mut writer::Writer, ops: Vec<NexthopOp>) {
    let report = set(writer, ops).await;
    assert_eq!(report.failed, [], "{:?}", report.refusals);
}

/// Whether a changed object tells of its routes: 0, or 1 as by default.
fn compat_mode(value: &str) {
    std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", value).unwrap();
}

/// Objects as ip(8) shows them, in one line each.
fn shown() -> Vec<String> {
    ip("nexthop show").lines().map(|line| line.trim().to_owned()).collect()
}

/// Numbers of the objects there are.
fn objects() -> Vec<u64> {
    ip_json("nexthop show").iter().map(|object| object["id"].as_u64().unwrap()).collect()
}

/// Objects that our routes of a family refer to.
fn used() -> Vec<u64> {
    let routes = |family| ip_json(&format!("{family} route show proto 87"));
    let mut list: Vec<_> = routes("-4").iter().chain(&routes("-6")).map(|r| r["nhid"].as_u64().unwrap()).collect();
    list.sort_unstable();
    list
}

/// A hop over each of two links in each family, groups of one and of both, a route over each:
/// 10.1.N.0/24 and 2001:db8:fN::/48. IPv6 has the numbers from 11 and 111.
async fn topology(writer: &mut writer::Writer) -> (u32, u32) {
    let (a0, a1) = two_links();
    let ops = vec![
        hop(1, "192.0.2.14", a0),
        hop(2, "192.0.2.34", a1),
        hop(11, "2001:db8:1::2", a0),
        hop(12, "2001:db8:2::2", a1),
        group(101, [1]),
        group(102, [1, 2]),
        group(111, [11]),
        group(112, [11, 12]),
    ];
    set_all(writer, ops).await;
    let routes = ROUTES.map(|(prefix, object)| FibOp::Create(p(prefix), Target::Object(id(object))));
    let report = write(writer, routes.into()).await;
    assert_eq!(report.failed, [], "{:?}", report.refusals);
    (a0, a1)
}

const ROUTES: [(&str, u32); 6] = [
    ("10.1.0.0/24", 1),
    ("10.1.1.0/24", 101),
    ("10.1.2.0/24", 102),
    ("2001:db8:f0::/48", 11),
    ("2001:db8:f1::/48", 111),
    ("2001:db8:f2::/48", 112),
];

/// Events of objects and of our own routes, as short texts.
fn told(events: &[KernelEvent]) -> Vec<String> {
    let tell = |event: &KernelEvent| match event {
        KernelEvent::Nexthop(NexthopObject { id, nexthop: Nexthop::Group(members), .. }) => {
            Some(format!("{} = {:?}", id.0, members.iter().map(|member| member.0).collect::<Vec<_>>()))
        }
        KernelEvent::Nexthop(object) => Some(format!("{} = hop", object.id.0)),
        KernelEvent::NexthopGone(id) => Some(format!("{} gone", id.0)),
        KernelEvent::Own(prefix, Target::Object(id)) => Some(format!("{prefix} over {}", id.0)),
        KernelEvent::OwnGone(prefix, Target::Object(id)) => Some(format!("{prefix} over {} gone", id.0)),
        event if is_route(event) && format!("{event:?}").contains("10.1.") => Some(format!("{event:?}")),
        _ => None,
    };
    events.iter().filter_map(tell).collect()
}

#[test]
fn every_kind_of_object_is_shown_as_meant_and_read_back() {
    in_netns(async || {
        let (a0, a1) = two_links();
        let mut writer = writer::spawn(OURS, 4).unwrap();
        let far = Hop { gateway: Some(addr("203.0.113.9")), device: a0, tunnel: true, onlink: true };
        let link = Hop { gateway: None, device: a1, tunnel: false, onlink: false };
        let cases = [
            // (why, number, object, what ip(8) must show)
            ("a gateway", 1, over(Hop::direct(addr("192.0.2.14"), a0)), "id 1 via 192.0.2.14 dev a0 scope link"),
            ("a far tunnel end", 2, over(far), "id 2 via 203.0.113.9 dev a0 scope link proto 87 onlink"),
            ("no gateway", 3, Nexthop::Hop(link, Family::Ipv4), "id 3 dev a1 scope host"),
            ("no gateway, IPv6", 4, Nexthop::Hop(link, Family::Ipv6), "id 4 dev a1 scope link"),
            ("IPv6", 5, over(Hop::direct(addr("2001:db8:1::2"), a0)), "id 5 via 2001:db8:1::2 dev a0"),
            ("link-local", u32::MAX, over(Hop::direct(addr("fe80::2"), a1)), "id 4294967295 via fe80::2 dev a1"),
            ("a group of one", 100, of([1]), "id 100 group 1 proto 87"),
            ("of several", 101, of([1, 2, 5]), "id 101 group 1/2/5 proto 87"),
        ];
        let ops = cases.iter().map(|(_, number, nexthop, _)| NexthopOp::Set(id(*number), nexthop.clone()));
        set_all(&mut writer, ops.collect()).await;
        let foreign = ["id 7 blackhole proto static", "id 8 group 1,3/2,1 proto static"];
        for object in foreign {
            ip(&format!("nexthop add {object}"));
        }
        let shown = shown();
        for (why, _, _, wanted) in &cases {
            assert!(shown.iter().any(|line| line.starts_with(wanted) && line.contains("proto 87")), "{why}: {shown:?}");
        }
        // Read back, it is what was written, but for the mark that only we know.
        let dump = query::dump(OURS).await.unwrap();
        assert_eq!(dump.nexthops.len(), cases.len() + foreign.len());
        for (why, number, nexthop, _) in cases {
            let nexthop = match nexthop {
                Nexthop::Hop(hop, family) => Nexthop::Hop(Hop { tunnel: false, ..hop }, family),
                other => other,
            };
            assert!(dump.nexthops.contains(&NexthopObject { id: id(number), protocol: 87, nexthop }), "{why}");
        }
        for number in [7, 8] {
            let other = NexthopObject { id: id(number), protocol: 4, nexthop: Nexthop::Other };
            assert!(dump.nexthops.contains(&other), "weights and blackholes are never ours");
        }
        assert!(query::knows_nexthops().await.unwrap());
        assert!(query::knows_resilient_groups().await.unwrap());
        // The group of our hop goes with the last of its members, whosever it is.
        assert_eq!(query::flush_nexthops(87).await.unwrap(), 8);
        assert_eq!(objects(), [7]);
        assert_eq!(query::flush_nexthops(87).await.unwrap(), 0);
    });
}

#[test]
fn routes_refer_to_objects() {
    in_netns(async || {
        for (compat, table) in [("0", 254), ("1", 254), ("0", 1000), ("1", 1000)] {
            compat_mode(compat);
            let ours = Ours { table, ..OURS };
            let mut writer = writer::spawn(ours, 4).unwrap();
            topology(&mut writer).await;
            let shown = |family: &str| ip_json(&format!("{family} route show table {table} proto 87"));
            let shown: Vec<_> = shown("-4").into_iter().chain(shown("-6")).collect();
            assert_eq!(shown.len(), ROUTES.len());
            for (prefix, object) in ROUTES {
                let route = shown.iter().find(|route| route["dst"] == prefix).unwrap();
                assert_eq!((&route["nhid"], &route["metric"]), (&object.into(), &20.into()), "{prefix}");
                assert_eq!(route["type"], "unicast", "{prefix}");
            }
            // Whether the kernel lists the hops beside the object or not.
            let dump = query::dump(ours).await.unwrap();
            assert_eq!(dump.own.len(), ROUTES.len());
            for (prefix, object) in ROUTES {
                assert!(dump.own.contains(&(p(prefix), Target::Object(id(object)))), "{prefix}, {compat}, {table}");
            }
            // For everyone else they are routes over an object, with hops if the kernel tells them.
            let others = query::dump(Ours { protocol: 99, ..ours }).await.unwrap();
            for (prefix, object) in ROUTES {
                let route = others.foreign.iter().find(|route| route.prefix == p(prefix)).unwrap();
                assert_eq!(route.nexthop, Some(id(object)), "{prefix}");
                let hops = if compat == "0" { 0 } else { 1 + usize::from(object % 10 == 2) };
                assert_eq!(route.hops.len(), hops, "{prefix}, compat {compat}");
            }
            if table == 254 {
                for (to, object) in [("10.1.0.9", 1), ("10.1.1.9", 101), ("10.1.2.9", 102)] {
                    let found = lookup(addr(to)).await;
                    assert_eq!(found.route.unwrap().nexthop, Some(object), "{to}");
                    assert!(found.gateway.is_some() && found.device.is_some(), "{to}");
                }
                // IPv6 keeps one answer per hop, and tells for all routes over it which one it was made for.
                for _ in 0..4 {
                    for to in ["2001:db8:f0::9", "2001:db8:f1::9", "2001:db8:f2::9"] {
                        let found = lookup(addr(to)).await;
                        assert!(found.gateway.is_some() && found.device.is_some(), "{to}");
                        assert!(found.route.is_none_or(|route| route.prefix.contains(addr(to))), "{found:?}");
                    }
                }
            }
            // Hops take the place of objects and the other way round.
            let hops = via([Hop::direct(addr("192.0.2.14"), index("a0"))]);
            for target in [hops, Target::Blackhole, Target::Object(id(102)), Target::Object(id(1))] {
                assert_eq!(write_one(&mut writer, FibOp::Replace(p("10.1.0.0/24"), target.clone())).await, Ok(()));
                let dump = query::dump(ours).await.unwrap();
                assert_eq!(dump.own.iter().filter(|own| **own == (p("10.1.0.0/24"), target.clone())).count(), 1);
            }
            assert_eq!(query::flush(87, None).await.unwrap(), ROUTES.len());
            assert_eq!(query::flush_nexthops(87).await.unwrap(), 8);
            ip("link del a0");
            ip("link del a1");
        }
    });
}

#[test]
fn a_refusal_says_which_and_why() {
    in_netns(async || {
        let mut writer = writer::spawn(OURS, 4).unwrap();
        let (a0, _) = topology(&mut writer).await;
        for device in ["c0", "d0"] {
            ip(&format!("link add {device} type veth peer name {device}x"));
            ip(&format!("address add 198.51.100.1/24 dev {device}"));
        }
        ip("link set c0 up");
        let (c0, d0) = (index("c0"), index("d0"));
        let cases = [
            // (why, operation, errno, the kernel's words)
            ("no carrier", hop(50, "198.51.100.2", c0), libc::ENETDOWN, "Carrier for nexthop device is down"),
            ("device down", hop(50, "198.51.100.2", d0), libc::ENETDOWN, "Nexthop device is not up"),
            ("no device", hop(50, "198.51.100.2", 9999), libc::EINVAL, "Invalid device index"),
            ("not on the link", hop(50, "203.0.113.1", a0), libc::ENETUNREACH, "Nexthop has invalid gateway"),
            ("the same in IPv6", hop(50, "2001:db8:77::1", a0), libc::EHOSTUNREACH, ""),
            ("no such member", group(50, [1, 77]), libc::EINVAL, "Invalid nexthop id"),
            ("no group in a group", group(50, [101]), libc::EINVAL, "Hash-threshold group can not be a nexthop"),
            ("none twice", group(50, [1, 1]), libc::EINVAL, "Nexthop id can not be used twice in a group"),
            ("a hop stays one", group(1, [2]), libc::EINVAL, "Can not replace a nexthop with a nexthop group"),
            ("a group too", hop(101, "192.0.2.14", a0), libc::EINVAL, "Can not replace a nexthop group with a nexthop"),
            ("not there", NexthopOp::Remove(id(50)), libc::ENOENT, ""),
            ("used by IPv6", group(112, [1]), libc::EINVAL, "IPv6 routes can not use an IPv4 nexthop"),
        ];
        // One send: what is refused stops nothing that comes after it.
        let mut ops: Vec<_> = cases.iter().map(|case| case.1.clone()).collect();
        ops.push(hop(51, "192.0.2.13", a0));
        let before = objects();
        let report = set(&mut writer, ops.clone()).await;
        assert_eq!(report.ops, ops, "the list comes back");
        let seen: Vec<_> = report.refusals.iter().map(|r| (r.op, r.errno, r.text.as_str())).collect();
        for (n, (why, _, errno, words)) in cases.iter().enumerate() {
            assert!(seen.len() > n && seen[n].0 == n && seen[n].1 == *errno, "{why}: {seen:#?}");
            assert!(seen[n].2.starts_with(words), "{why}: {:?}", seen[n]);
        }
        assert_eq!(report.failed.len(), cases.len());
        assert_eq!(objects().len(), before.len() + 1);

        let routes =
            [("10.9.0.0/24", 77), ("2001:db8:77::/48", 77), ("2001:db8:77::/48", 1), ("2001:db8:77::/48", 102)];
        let ops = routes.map(|(prefix, object)| FibOp::Create(p(prefix), Target::Object(id(object))));
        let report = write(&mut writer, ops.into()).await;
        let seen: Vec<_> = report.refusals.iter().map(|r| (r.errno, r.text.as_str())).collect();
        let missing = (libc::EINVAL, "Nexthop id does not exist");
        let family = (libc::EINVAL, "IPv6 routes can not use an IPv4 nexthop");
        assert_eq!(seen, [missing, missing, family, family]);
    });
}

/// What somebody does, what the kernel tells of it, and what is left.
struct Case {
    why: &'static str,
    /// Commands for ip(8)
    does: &'static [&'static str],
    /// Events of objects and own routes; the second list with `nexthop_compat_mode` 1
    told: [&'static [&'static str]; 2],
    objects: &'static [u64],
    /// Objects that the routes which are left refer to
    used: &'static [u64],
}

const SECOND_LINK: &[u64] = &[2, 12, 102, 112];

const CASES: &[Case] = &[
    Case {
        why: "a device that goes down takes its objects along, without a word",
        does: &["link set a0 down"],
        told: [&[], &["2001:db8:f0::/48 over 11 gone", "2001:db8:f1::/48 over 111 gone"]],
        objects: SECOND_LINK,
        used: &[102, 112],
    },
    Case {
        why: "and does not bring them back",
        does: &["link set a0 down", "link set a0 up"],
        told: [&[], &["2001:db8:f0::/48 over 11 gone", "2001:db8:f1::/48 over 111 gone"]],
        objects: SECOND_LINK,
        used: &[102, 112],
    },
    Case {
        why: "one that loses its carrier does the same",
        does: &["link set b0 down"],
        told: [&[], &["2001:db8:f0::/48 over 11 gone", "2001:db8:f1::/48 over 111 gone"]],
        objects: SECOND_LINK,
        used: &[102, 112],
    },
    Case {
        why: "one that is removed too",
        does: &["link del a0"],
        told: [&[], &["2001:db8:f0::/48 over 11 gone", "2001:db8:f1::/48 over 111 gone"]],
        objects: SECOND_LINK,
        used: &[102, 112],
    },
    Case {
        why: "nobody looks again whether a gateway is on the link",
        does: &["address del 192.0.2.11/28 dev a0", "-6 address del 2001:db8:1::1/64 dev a0"],
        told: [&[], &[]],
        objects: &[1, 2, 11, 12, 101, 102, 111, 112],
        used: &[1, 11, 101, 102, 111, 112],
    },
    Case {
        why: "a removed hop leaves its groups, the empty ones go, routes over what is gone go unsaid",
        does: &["nexthop del id 1", "nexthop del id 11"],
        told: [
            &["1 gone", "102 = [2]", "101 gone", "11 gone", "112 = [12]", "111 gone"],
            &[
                "1 gone",
                "102 = [2]",
                "101 gone",
                "11 gone",
                "2001:db8:f0::/48 over 11 gone",
                "112 = [12]",
                "111 gone",
                "2001:db8:f1::/48 over 111 gone",
            ],
        ],
        objects: SECOND_LINK,
        used: &[102, 112],
    },
    Case {
        why: "a removed group takes its routes along",
        does: &["nexthop del id 102", "nexthop del id 112"],
        told: [&["102 gone", "112 gone"], &["102 gone", "112 gone", "2001:db8:f2::/48 over 112 gone"]],
        objects: &[1, 2, 11, 12, 101, 111],
        used: &[1, 11, 101, 111],
    },
    Case {
        why: "a changed hop changes its groups and routes at once",
        does: &["nexthop replace id 1 via 192.0.2.35 dev a1 proto 87"],
        told: [&["1 = hop"], &["1 = hop", "10.1.0.0/24 over 1", "10.1.2.0/24 over 102", "10.1.1.0/24 over 101"]],
        objects: &[1, 2, 11, 12, 101, 102, 111, 112],
        used: &[1, 11, 101, 102, 111, 112],
    },
    Case {
        why: "a changed group its routes",
        does: &["nexthop replace id 112 group 11 proto 87"],
        told: [&["112 = [11]"], &["112 = [11]", "2001:db8:f2::/48 over 112"]],
        objects: &[1, 2, 11, 12, 101, 102, 111, 112],
        used: &[1, 11, 101, 102, 111, 112],
    },
];

#[test]
fn what_the_kernel_tells_and_what_it_does() {
    in_netns(async || {
        for (compat, number) in [("0", 0), ("1", 1)] {
            compat_mode(compat);
            for Case { why, does, told: wanted, objects: left, used: refer } in CASES {
                let mut writer = writer::spawn(OURS, 4).unwrap();
                topology(&mut writer).await;
                let mut watch = Watch::open(OURS, writer.port).unwrap();
                for command in *does {
                    ip(command);
                }
                let mut events = Vec::new();
                if *does == ["link set b0 down"] {
                    // The kernel takes its time to notice.
                    let lost =
                        |event: &KernelEvent| matches!(event, KernelEvent::Link(l) if l.name == "a0" && !l.carrier);
                    events = until(&mut watch, lost).await;
                }
                events.extend(marker(&mut watch, "marker").await);
                let mut events = told(&events);
                let mut wanted = wanted[number].to_vec();
                if does[0].starts_with("nexthop replace") {
                    // In which order routes over one object come is of no interest.
                    events.sort_unstable();
                    wanted.sort_unstable();
                }
                assert_eq!(events, wanted, "{why}, compat {compat}");
                assert_eq!(objects(), *left, "{why}, compat {compat}");
                assert_eq!(used(), *refer, "{why}, compat {compat}");
                for object in objects() {
                    // A group may have gone with its members.
                    run("ip", &format!("nexthop del id {object}"));
                }
                ip("link del marker");
                run("ip", "link del a0");
                ip("link del a1");
            }
        }
    });
}

#[test]
fn what_our_writer_does_to_objects_is_not_told() {
    in_netns(async || {
        // The kernel tells of IPv6 routes that went with their object as of its own doing.
        for (compat, gone) in [("0", &[][..]), ("1", &["2001:db8:f2::/48 over 112 gone"][..])] {
            compat_mode(compat);
            let mut writer = writer::spawn(OURS, 4).unwrap();
            let (_, a1) = topology(&mut writer).await;
            let mut watch = Watch::open(OURS, writer.port).unwrap();
            let changes = vec![
                hop(1, "192.0.2.35", a1),
                hop(11, "2001:db8:2::3", a1),
                group(102, [2]),
                group(112, [12]),
                NexthopOp::Remove(id(1)),
                NexthopOp::Remove(id(112)),
            ];
            set_all(&mut writer, changes).await;
            let seen = marker(&mut watch, "marker").await;
            assert_eq!(told(&seen), gone, "compat {compat}");
            assert_eq!(objects(), [2, 11, 12, 102, 111]);
            assert_eq!(used(), [11, 102, 111], "routes over what is removed go as well");
            set_all(&mut writer, [2, 11, 12].map(|number| NexthopOp::Remove(id(number))).into()).await;
            assert_eq!((objects(), used()), (vec![], vec![]));
            for device in ["a0", "a1", "marker"] {
                ip(&format!("link del {device}"));
            }
        }
    });
}

#[test]
fn the_kernel_lets_anybody_take_an_object_over() {
    in_netns(async || {
        let (a0, _) = two_links();
        let mut writer = writer::spawn(OURS, 4).unwrap();
        ip("nexthop add id 60 via 192.0.2.13 dev a0 proto static");
        set_all(&mut writer, vec![hop(60, "192.0.2.14", a0)]).await;
        assert_eq!(shown(), ["id 60 via 192.0.2.14 dev a0 scope link proto 87"]);
    });
}

#[test]
fn an_object_sent_before_a_batch_is_there_for_its_routes() {
    in_netns(async || {
        let (a0, _) = two_links();
        let mut writer = writer::spawn(OURS, 1).unwrap();
        for round in 1..200 {
            let target = Target::Object(id(round));
            let routes = |n: u32| FibOp::Create(p(&format!("10.{n}.{round}.0/24")), target.clone());
            writer.nexthops.send(vec![hop(round, "192.0.2.14", a0)]).await.unwrap();
            writer.ops.send(batch((0..3).map(routes).collect())).await.unwrap();
            let writer::Report::Nexthops(objects) = writer.reports.recv().await.unwrap() else { panic!("order") };
            assert_eq!(objects.failed, []);
            assert_eq!(report(&mut writer).await.failed, []);
        }
        // What waits when the queue of routes closes is written still.
        let writer::Writer { ops, nexthops, mut reports, .. } = writer;
        nexthops.send(vec![NexthopOp::Remove(id(7))]).await.unwrap();
        drop(ops);
        assert!(matches!(reports.recv().await, Some(writer::Report::Nexthops(_))));
        assert!(reports.recv().await.is_none());
        assert!(!objects().contains(&7));
    });
}

#[test]
fn an_object_does_not_wait_for_a_table_of_routes() {
    in_netns(async || {
        compat_mode("0");
        let (a0, a1) = two_links();
        let mut writer = writer::spawn(OURS, 4).unwrap();
        set_all(&mut writer, vec![hop(1, "192.0.2.14", a0), group(101, [1])]).await;
        let prefix = |n: u32| Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + (n << 8))), 24);
        let routes = (0..200_000).map(|n| FibOp::Create(prefix(n), Target::Object(id(101))));
        writer.ops.send(batch(routes.collect())).await.unwrap();
        // Not before it is at work on them.
        while lookup(addr("11.0.0.1")).await.device.is_none() {}
        writer.nexthops.send(vec![hop(2, "192.0.2.34", a1), group(101, [2])]).await.unwrap();
        let first = writer.reports.recv().await.unwrap();
        assert!(matches!(first, writer::Report::Nexthops(objects) if objects.failed.is_empty()));
        let found = lookup(addr("11.0.0.1")).await;
        assert_eq!(found.device, Some(a1), "while others are still being written");
        assert_eq!(report(&mut writer).await.failed, []);
        let found = lookup(prefix(199_999).first_host()).await;
        assert_eq!(found.device, Some(a1));
    });
}

#[test]
fn packets_follow_the_object() {
    in_netns(async || {
        let mut writer = writer::spawn(OURS, 4).unwrap();
        let (a0, _a1) = topology(&mut writer).await;
        let neighbours = [("192.0.2.14", "a0"), ("192.0.2.34", "a1"), ("2001:db8:1::2", "a0"), ("2001:db8:2::2", "a1")];
        for (neighbour, device) in neighbours {
            ip(&format!("neigh replace {neighbour} lladdr 02:00:00:00:00:01 dev {device} nud permanent"));
        }
        // Over a group of one.
        let sent = async |to: &str| {
            let out = async || {
                let index = |name| nix::net::if_::if_nametoindex(name).unwrap();
                let counters = meters::devices([index("a0"), index("a1")].into()).await.unwrap();
                let of = |name| counters.iter().find(|c| c.name == name).unwrap().tx_bytes;
                (of("a0"), of("a1"))
            };
            let socket = UdpSocket::bind(if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            let before = out().await;
            // More than the kernel says of its own in the meantime.
            for _ in 0..20 {
                socket.send_to(&[0; 1400], (to, 9)).unwrap();
            }
            let after = out().await;
            (after.0 - before.0 > 28_000, after.1 - before.1 > 28_000)
        };
        let cases = [("10.1.1.9", 101, 1, 2, "192.0.2.34"), ("2001:db8:f1::9", 111, 11, 12, "2001:db8:2::2")];
        for (to, one, first, second, _far) in cases {
            assert_eq!(sent(to).await, (true, false), "{to}");
            set_all(&mut writer, vec![group(one, [first, second])]).await;
            set_all(&mut writer, vec![group(one, [second])]).await;
            assert_eq!(sent(to).await, (false, true), "{to}");
            set_all(&mut writer, vec![group(one, [first])]).await;
            assert_eq!(sent(to).await, (true, false), "{to}");
            let gateway = if first == 1 { "192.0.2.14" } else { "2001:db8:1::2" };
            set_all(
                &mut writer,
                vec![hop(first, if first == 1 { "192.0.2.34" } else { "2001:db8:2::2" }, index("a1"))],
            )
            .await;
            assert_eq!(sent(to).await, (false, true), "{to}");
            set_all(&mut writer, vec![hop(first, gateway, a0)]).await;
        }
        // Over a group of two of which one goes.
        set_all(&mut writer, vec![hop(1, "192.0.2.14", a0), hop(11, "2001:db8:1::2", a0)]).await;
        ip("link set a0 down");
        for to in ["10.1.2.9", "2001:db8:f2::9"] {
            assert_eq!(sent(to).await, (false, true), "{to}");
        }
    });
}
