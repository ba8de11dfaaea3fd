//! Writing routes, and reading all of them.

use wayleave::forward::{RouteKind, Target};
use wayleave::io::netlink::{meters, query, writer};
use wayleave::net::PerFamily;

use super::*;

#[test]
fn every_kind_of_route_is_shown_as_meant() {
    in_netns(async || {
        let (a0, a1) = two_links();
        let onlink = Hop { gateway: Some(addr("203.0.113.9")), device: a0, tunnel: true, onlink: true };
        let cases = [
            // (why, prefix, target, what ip(8) must show)
            (
                "one gateway",
                "10.1.0.0/24",
                via([Hop::direct(addr("192.0.2.14"), a0)]),
                r#"[{"gateway":"192.0.2.14","dev":"a0","scope":"global"}]"#,
            ),
            (
                "no gateway: on the link",
                "10.1.1.0/24",
                via([Hop { gateway: None, device: a0, tunnel: false, onlink: false }]),
                r#"[{"dev":"a0","scope":"link"}]"#,
            ),
            (
                "a far tunnel end no prefix covers",
                "10.1.2.0/24",
                via([onlink]),
                r#"[{"gateway":"203.0.113.9","dev":"a0","flags":["onlink"]}]"#,
            ),
            (
                "several, of which one on-link",
                "10.1.3.0/24",
                via([onlink, Hop::direct(addr("192.0.2.34"), a1)]),
                r#"[{"nexthops":[{"gateway":"192.0.2.34","dev":"a1","flags":[],"weight":1},{"gateway":"203.0.113.9","dev":"a0","flags":["onlink"],"weight":1}]}]"#,
            ),
            ("dropped", "10.1.4.0/24", Target::Blackhole, r#"[{"type":"blackhole"}]"#),
            (
                "IPv4 over an IPv6 neighbour",
                "10.1.5.0/24",
                via([Hop::direct(addr("2001:db8:1::2"), a0)]),
                r#"[{"via":{"family":"inet6","host":"2001:db8:1::2"},"dev":"a0"}]"#,
            ),
            (
                "IPv4 over two IPv6 neighbours",
                "10.1.6.0/24",
                via([Hop::direct(addr("2001:db8:1::2"), a0), Hop::direct(addr("2001:db8:2::2"), a1)]),
                r#"[{"nexthops":[{"via":{"family":"inet6","host":"2001:db8:1::2"},"dev":"a0"},{"via":{"family":"inet6","host":"2001:db8:2::2"},"dev":"a1"}]}]"#,
            ),
            ("all of IPv4", "0.0.0.0/0", via([Hop::direct(addr("192.0.2.14"), a0)]), r#"[{"gateway":"192.0.2.14"}]"#),
            (
                "IPv6",
                "2001:db8:f::/48",
                via([Hop::direct(addr("2001:db8:1::2"), a0)]),
                r#"[{"gateway":"2001:db8:1::2","dev":"a0"}]"#,
            ),
            (
                "IPv6 over a link-local neighbour",
                "2001:db8:d::/48",
                via([Hop::direct(addr("fe80::2"), a1)]),
                r#"[{"gateway":"fe80::2","dev":"a1"}]"#,
            ),
            (
                "IPv6, several",
                "2001:db8:e::/48",
                via([Hop::direct(addr("2001:db8:1::2"), a0), Hop::direct(addr("2001:db8:2::2"), a1)]),
                r#"[{"nexthops":[{"gateway":"2001:db8:1::2","dev":"a0"},{"gateway":"2001:db8:2::2","dev":"a1"}]}]"#,
            ),
            ("IPv6, dropped", "2001:db8:c::/48", Target::Blackhole, r#"[{"type":"blackhole"}]"#),
        ];
        for table in [254, 1000] {
            let ours = Ours { table, ..OURS };
            let mut writer = writer::spawn(ours, 4).unwrap();
            for (why, prefix, target, wanted) in &cases {
                let prefix = p(prefix);
                let result = write_one(&mut writer, FibOp::Create(prefix, target.clone())).await;
                assert_eq!(result, Ok(()), "{why}, table {table}");
                let shown = show(prefix, table);
                let wanted: Value = serde_json::from_str(wanted).unwrap();
                assert!(holds(&shown, &wanted), "{why}, table {table}: {shown} does not hold {wanted}");
                assert_eq!((&shown[0]["metric"], &shown[0]["protocol"]), (&20.into(), &"87".into()), "{why}");
            }
            // Read back, it is what was written, but for the mark that only we know.
            let dump = query::dump(ours).await.unwrap();
            assert_eq!(dump.own.len(), cases.len());
            for (why, prefix, target, _) in &cases {
                let plain = target.hops().iter().map(|hop| Hop { tunnel: false, ..*hop });
                let plain = Target::via(plain).unwrap_or(Target::Blackhole);
                assert!(dump.own.contains(&(p(prefix), plain)), "{why}, table {table}");
            }
            // Every kind takes the place of every other of its family, and is all that is there then.
            for (why, prefix, _, _) in &cases {
                let prefix = p(prefix);
                let same_family = |case: &&(_, &str, _, _)| p(case.1).family() == prefix.family();
                for (to, _, target, wanted) in cases.iter().filter(same_family) {
                    let result = write_one(&mut writer, FibOp::Replace(prefix, target.clone())).await;
                    assert_eq!(result, Ok(()), "{why} becomes {to}, table {table}");
                    let shown = show(prefix, table);
                    let wanted: Value = serde_json::from_str(wanted).unwrap();
                    assert!(holds(&shown, &wanted), "{why} becomes {to}, table {table}: {shown}");
                }
                let result = write_one(&mut writer, FibOp::Remove(prefix, Target::Blackhole)).await;
                assert_eq!(result, Ok(()), "{why}, table {table}, removed");
                assert_eq!(show(prefix, table), Value::Array(Vec::new()), "{why}");
            }
        }
    });
}

/// The routes for exactly this prefix, with protocol numbers as numbers.
fn show(prefix: Prefix, table: u32) -> Value {
    let family = if prefix.family() == Family::Ipv4 { "-4" } else { "-6" };
    let shown = ip_json(&format!("-N {family} route show table {table} exact {prefix}"));
    Value::Array(shown.into_iter().filter(|route| route["protocol"] == "87").collect())
}

/// Whether everything that `part` names is in `whole`, scope names apart.
fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part.iter().all(|(key, wanted)| match whole.get(key) {
            Some(value) => holds(value, wanted),
            None => false,
        }),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(a, b)| holds(a, b))
        }
        (Value::String(whole), Value::String(part)) => {
            // `-N` shows numbers.
            let names = [("253", "link"), ("0", "global"), ("6", "blackhole")];
            whole == part || names.contains(&(whole.as_str(), part.as_str()))
        }
        _ => whole == part,
    }
}

#[test]
fn what_others_made_stays() {
    in_netns(async || {
        let (a0, _) = two_links();
        ip("route add 10.1.0.0/24 via 192.0.2.13 dev a0 proto static metric 20");
        ip("route add 10.1.1.0/24 via 192.0.2.13 dev a0 proto static metric 5");
        ip("-6 route add 2001:db8:f::/48 via 2001:db8:1::3 dev a0 proto static metric 20");
        let foreign = || [ip("route show proto static"), ip("-6 route show proto static")];
        let before = foreign();
        let mut writer = writer::spawn(OURS, 4).unwrap();
        let (v4, v6) = (via([Hop::direct(addr("192.0.2.14"), a0)]), via([Hop::direct(addr("2001:db8:1::2"), a0)]));
        let cases = [
            // (why, operation, outcome)
            ("same prefix and metric", FibOp::Create(p("10.1.0.0/24"), v4.clone()), Err(OpError::Exists)),
            ("same in IPv6", FibOp::Create(p("2001:db8:f::/48"), v6.clone()), Err(OpError::Exists)),
            ("another metric lives beside ours", FibOp::Create(p("10.1.1.0/24"), v4.clone()), Ok(())),
            ("ours goes, theirs stays", FibOp::Remove(p("10.1.1.0/24"), v4.clone()), Ok(())),
            ("only theirs is there", FibOp::Remove(p("10.1.1.0/24"), v4.clone()), Err(OpError::NoSuchRoute)),
            ("same metric, still theirs", FibOp::Remove(p("10.1.0.0/24"), v4.clone()), Err(OpError::NoSuchRoute)),
            ("the same in IPv6", FibOp::Remove(p("2001:db8:f::/48"), v6.clone()), Err(OpError::NoSuchRoute)),
            ("nothing of this metric", FibOp::Replace(p("10.1.1.0/24"), v4.clone()), Err(OpError::NoSuchRoute)),
            ("nothing at all", FibOp::Replace(p("10.9.0.0/24"), v4), Err(OpError::NoSuchRoute)),
            ("nothing at all, IPv6", FibOp::Replace(p("2001:db8:9::/48"), v6), Err(OpError::NoSuchRoute)),
        ];
        for (why, op, wanted) in cases {
            assert_eq!(write_one(&mut writer, op).await, wanted, "{why}");
            assert_eq!(foreign(), before, "{why}");
        }
    });
}

#[test]
fn a_refusal_says_which_and_why() {
    in_netns(async || {
        let (a0, _) = two_links();
        let mut writer = writer::spawn(OURS, 4).unwrap();
        let good = via([Hop::direct(addr("192.0.2.14"), a0)]);
        let report = write(
            &mut writer,
            vec![
                FibOp::Create(p("10.1.0.0/24"), good.clone()),
                FibOp::Create(p("10.1.1.0/24"), via([Hop::direct(addr("203.0.113.1"), a0)])),
                FibOp::Create(
                    p("10.1.2.0/24"),
                    via([Hop { gateway: None, device: 9999, tunnel: false, onlink: false }]),
                ),
                FibOp::Create(p("10.1.0.0/24"), good),
            ],
        )
        .await;
        assert_eq!(report.failed, [(1, OpError::Unreachable), (2, OpError::NoDevice), (3, OpError::Exists)]);
        assert_eq!(report.refusals.iter().map(|refusal| refusal.op).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(report.batch.ops[1].prefix(), p("10.1.1.0/24"), "the batch comes back");
        assert_eq!(report.refusals[0].text, "Nexthop has invalid gateway");
        assert_eq!(report.sends, 1);
    });
}

fn nth(n: u32) -> Prefix {
    Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + (n << 8))), 24)
}

#[test]
fn many_routes_and_each_failure_is_known() {
    in_netns(async || {
        let (a0, a1) = two_links();
        let mut writer = writer::spawn(OURS, 4).unwrap();
        let good = via([Hop::direct(addr("192.0.2.14"), a0)]);
        let bad = via([Hop::direct(addr("203.0.113.1"), a0)]);
        // Every 97th fails, and a whole send's worth in the middle.
        let fails = |n: u32| n.is_multiple_of(97) || (5120..5248).contains(&n);
        for batch in 0..4 {
            let ops = (batch * 5000..(batch + 1) * 5000)
                .map(|n| FibOp::Create(nth(n), if fails(n) { bad.clone() } else { good.clone() }));
            writer.ops.send(super::batch(ops.collect())).await.unwrap();
        }
        for batch in 0..4 {
            let report = report(&mut writer).await;
            let prefixes: Vec<_> = report.batch.ops.iter().map(FibOp::prefix).collect();
            assert_eq!(prefixes, (batch * 5000..(batch + 1) * 5000).map(nth).collect::<Vec<_>>());
            assert_eq!((report.sends, report.refusals.len()), (40, 16));
            let failed: Vec<_> = report.failed.iter().map(|(op, _)| prefixes[*op]).collect();
            let wanted = (batch * 5000..(batch + 1) * 5000).filter(|n| fails(*n)).map(nth);
            assert_eq!(failed, wanted.collect::<Vec<_>>());
        }
        let wanted = (0..20_000).filter(|n| !fails(*n)).count();
        assert_eq!(ip_json("route show proto 87").len(), wanted);

        // Many hops make a send full before it has 128 messages.
        let wide = via((0..500).map(|n| {
            let gateway = IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 + n));
            Hop { gateway: Some(gateway), device: if n % 2 == 0 { a0 } else { a1 }, tunnel: false, onlink: true }
        }));
        let ops = (20_000..20_050).map(|n| FibOp::Create(nth(n), wide.clone())).collect();
        let report = write(&mut writer, ops).await;
        assert_eq!(report.failed, [], "{:?}", report.refusals.first());
        assert!(report.sends > 1);
        let shown = ip_json(&format!("route show {}", nth(20_049)));
        assert_eq!(shown[0]["nexthops"].as_array().unwrap().len(), 500);

        // What was read back shares its hops and is all there.
        let dump = query::dump(OURS).await.unwrap();
        assert_eq!(dump.own.len(), wanted + 50);
        assert_eq!(query::flush(87, None).await.unwrap(), wanted + 50);
        assert_eq!(ip("route show proto 87"), "");
    });
}

#[test]
fn a_dump_is_what_ip_shows() {
    in_netns(async || {
        let (a0, a1) = two_links();
        ip("route add default via 192.0.2.14 dev a0");
        ip("route add 10.1.0.0/24 proto static metric 7 nexthop via 192.0.2.14 dev a0 nexthop via 192.0.2.34 dev a1");
        ip("route add unreachable 10.2.0.0/16 proto bird");
        ip("-6 route add 2001:db8:f::/48 via 2001:db8:1::2 dev a0 proto bird metric 3");
        ip("-6 route add blackhole 2001:db8:e::/48");
        ip("route add 10.3.0.0/16 via 192.0.2.14 dev a0 table 99");
        ip("route add 10.4.0.0/16 via 192.0.2.14 dev a0 proto 87 metric 20");
        ip("route add 10.4.0.0/16 via 192.0.2.14 dev a0 proto 87 metric 21");
        ip("address add 10.9.0.1 peer 10.9.0.2/32 dev a1");
        ip("link set b1 down");
        let dump = query::dump(OURS).await.unwrap();

        let mut seen: Vec<_> = dump.foreign.iter().map(|r| (r.prefix.to_string(), r.metric, r.protocol)).collect();
        seen.extend(dump.own.iter().map(|(prefix, _)| (prefix.to_string(), 20, 87)));
        let mut shown = Vec::new();
        for family in ["-4", "-6"] {
            for route in ip_json(&format!("-N {family} route show table 254")) {
                let dst = route["dst"].as_str().unwrap();
                let prefix = match (dst, family) {
                    ("default", "-4") => "0.0.0.0/0".to_owned(),
                    ("default", _) => "::/0".to_owned(),
                    _ if dst.contains('/') => dst.to_owned(),
                    _ => Prefix::host(addr(dst)).to_string(),
                };
                let protocol = route["protocol"].as_str().unwrap().parse::<u8>().unwrap();
                let metric = u32::try_from(route["metric"].as_u64().unwrap_or_default()).unwrap();
                shown.push((prefix, metric, protocol));
            }
        }
        seen.sort();
        shown.sort();
        assert_eq!(seen, shown);
        assert!(seen.len() > 12, "{seen:?}");

        let foreign = |prefix: &str| dump.foreign.iter().find(|route| route.prefix == p(prefix)).unwrap();
        assert_eq!(foreign("10.2.0.0/16").kind, RouteKind::Reject);
        assert_eq!(foreign("2001:db8:e::/48").kind, RouteKind::Reject);
        assert_eq!(
            foreign("10.1.0.0/24").hops,
            [Hop::direct(addr("192.0.2.14"), a0), Hop::direct(addr("192.0.2.34"), a1)]
        );
        assert_eq!(dump.own, [(p("10.4.0.0/16"), via([Hop::direct(addr("192.0.2.14"), a0)]))]);
        assert_eq!(foreign("10.4.0.0/16").metric, 21, "another metric is not ours");

        let links: Vec<_> = dump.links.iter().map(|l| (l.name.as_str(), l.up, l.carrier, l.loopback)).collect();
        for wanted in [
            ("lo", true, true, true),
            ("a0", true, true, false),
            ("a1", true, false, false),
            ("b1", false, false, false),
        ] {
            assert!(links.contains(&wanted), "{wanted:?} in {links:?}");
        }
        assert_eq!(dump.links.iter().find(|link| link.name == "a0").map(|l| (l.index, l.mtu)), Some((a0, 1500)));
        let pair = dump.addresses.iter().find(|a| a.addr == addr("10.9.0.1")).unwrap();
        assert_eq!((pair.device, pair.prefix), (a1, p("10.9.0.2/32")), "a point-to-point address");
        assert!(dump.addresses.iter().any(|a| a.addr == addr("2001:db8:1::1") && a.prefix == p("2001:db8:1::/64")));
    });
}

#[test]
fn flush_takes_only_ours_and_spares_what_is_kept() {
    in_netns(async || {
        two_links();
        ip("route add 10.1.0.0/24 via 192.0.2.14 proto 87 metric 20");
        ip("route add 10.1.0.0/24 via 192.0.2.14 proto 87 metric 30");
        ip("route add 10.1.0.0/24 via 192.0.2.14 proto 87 metric 20 table 1000");
        ip("route add blackhole 10.2.0.0/24 proto 87 metric 30");
        ip("-6 route add 2001:db8:f::/48 via 2001:db8:1::2 proto 87 metric 30");
        ip("route add 10.1.0.0/24 via 192.0.2.14 proto static metric 31");
        assert_eq!(query::flush(87, Some(OURS)).await.unwrap(), 4);
        let left = ip_json("-N route show table all proto 87");
        assert_eq!(left.len(), 1);
        assert_eq!(left[0]["metric"], 20);
        assert_eq!(ip_json("route show proto static").len(), 1);
        assert_eq!(query::flush(87, None).await.unwrap(), 1);
        assert_eq!(ip("route show table all proto 87"), "");
    });
}

#[test]
fn the_kernels_choice_is_told_with_its_route() {
    in_netns(async || {
        let (a0, a1) = two_links();
        ip("route add 10.1.0.0/16 via 192.0.2.14 dev a0 proto 87 metric 20");
        ip("-6 route add 2001:db8:f::/48 via 2001:db8:2::2 dev a1 proto 87 metric 20");
        ip("route add 10.2.0.0/16 via inet6 2001:db8:2::2 dev a1");
        ip("route add blackhole 10.3.0.0/16");
        let cases = [
            // (why, destination, gateway, device, source, prefix, protocol)
            ("a route of ours", "10.1.7.7", Some("192.0.2.14"), a0, "192.0.2.11", "10.1.0.0/16", 87),
            ("on the link", "192.0.2.35", None, a1, "192.0.2.33", "192.0.2.32/28", 2),
            ("IPv6", "2001:db8:f::9", Some("2001:db8:2::2"), a1, "2001:db8:2::1", "2001:db8:f::/48", 87),
            ("over an IPv6 neighbour", "10.2.0.1", Some("2001:db8:2::2"), a1, "192.0.2.11", "10.2.0.0/16", 3),
        ];
        for (why, to, gateway, device, source, prefix, protocol) in cases {
            let found = lookup(addr(to)).await;
            assert_eq!((found.gateway, found.device), (gateway.map(addr), Some(device)), "{why}");
            if !why.starts_with("over") && !why.starts_with("on") {
                assert_eq!(found.source, Some(addr(source)), "{why}");
            }
            let matched = found.route.unwrap();
            assert_eq!((matched.prefix, matched.protocol, matched.table), (p(prefix), protocol, 254), "{why}");
        }
        for (why, to) in [("no route", "10.77.0.1"), ("dropped", "10.3.0.1"), ("no IPv6 route", "2001:db8:77::1")] {
            let found = lookup(addr(to)).await;
            assert_eq!((found.device, found.source, found.route), (None, None, None), "{why}");
        }
    });
}

#[test]
fn counters_count() {
    in_netns(async || {
        let lo = async || {
            // The second is not there.
            let found = meters::devices([1, 4711].into()).await.unwrap();
            assert_eq!(found.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["lo"]);
            found[0].clone()
        };
        let before = lo().await;
        let socket = std::net::UdpSocket::bind(local(0)).unwrap();
        socket.send_to(&[0; 100], socket.local_addr().unwrap()).unwrap();
        let after = lo().await;
        assert_eq!(after.tx_packets, before.tx_packets + 1);
        assert_eq!(after.rx_bytes, before.rx_bytes + 128, "with IP and UDP headers");
        assert!(after.up);
    });
}

#[test]
fn neighbour_tables_say_how_full_they_are() {
    in_netns(async || {
        let before = meters::neighbour_tables().await.unwrap();
        ip("link add a0 type veth peer name a1");
        ip("link set a0 up");
        for last in 1..=200 {
            ip(&format!("neigh replace 192.0.2.{last} lladdr 02:00:00:00:00:01 dev a0 nud permanent"));
        }
        let after = meters::neighbour_tables().await.unwrap();
        for (family, table) in after.iter() {
            assert!(table.unwrap().limit >= 128, "{family}: {table:?}");
        }
        // The kernel counts those of all namespaces, so others may come and go.
        let entries = |tables: PerFamily<Option<meters::Table>>| tables[Family::Ipv4].unwrap().entries;
        assert!(entries(after) > entries(before) + 100, "{before:?} {after:?}");
    });
}
