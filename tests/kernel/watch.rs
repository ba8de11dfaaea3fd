//! Events of what others do.

use wayleave::forward::{KernelEvent, RouteKind};
use wayleave::io::netlink::watch::{Report, Watch};
use wayleave::io::netlink::writer;

use super::*;

/// Events until one fits, which is the last.
pub(super) async fn until(watch: &mut Watch, fits: impl Fn(&KernelEvent) -> bool) -> Vec<KernelEvent> {
    let mut seen = Vec::new();
    loop {
        match watch.next().await.unwrap() {
            Report::Events(events) => seen.extend(events.into_iter().map(|(event, _)| event)),
            Report::Overrun => panic!("overrun"),
        }
        if seen.iter().any(&fits) {
            return seen;
        }
    }
}

/// Makes a link and waits for its event: everything before it has been reported then.
pub(super) async fn marker(watch: &mut Watch, name: &str) -> Vec<KernelEvent> {
    ip(&format!("link add {name} type bridge"));
    until(watch, |event| matches!(event, KernelEvent::Link(link) if link.name == name)).await
}

pub(super) fn is_route(event: &KernelEvent) -> bool {
    use KernelEvent::{Own, OwnGone, Route, RouteGone};
    matches!(event, Own(..) | OwnGone(..) | Route(_) | RouteGone(_))
}

#[test]
fn links_and_addresses() {
    in_netns(async || {
        let (a0, a1) = two_links();
        let mut watch = Watch::open(OURS, 0).unwrap();
        ip("address add 10.9.0.1/24 dev a0");
        ip("address del 10.9.0.1/24 dev a0");
        ip("-6 address add 2001:db8:9::1/64 dev a0 nodad");
        let is_v6 = |e: &KernelEvent| matches!(e, KernelEvent::Address(a) if a.addr == addr("2001:db8:9::1"));
        let seen = until(&mut watch, is_v6).await;
        // The kernel gives link-local addresses in its own time.
        let by_us = [addr("10.9.0.1"), addr("2001:db8:9::1")];
        let ours = |event: &&KernelEvent| match event {
            KernelEvent::Address(a) | KernelEvent::AddressGone(a) => a.device == a0 && by_us.contains(&a.addr),
            _ => false,
        };
        let told: Vec<_> = seen.iter().filter(ours).map(|event| format!("{event:?}")).collect();
        assert!(told[0].contains("Address(") && told[0].contains("10.9.0.0/24"), "{told:?}");
        assert!(told[1].contains("AddressGone(") && told[1].contains("10.9.0.1"), "{told:?}");
        assert!(told[2].contains("2001:db8:9::/64"), "{told:?}");

        ip("link set b0 down");
        until(&mut watch, |e| matches!(e, KernelEvent::Link(l) if l.index == a0 && l.up && !l.carrier)).await;
        ip("link set a1 mtu 1400");
        until(&mut watch, |e| matches!(e, KernelEvent::Link(l) if l.index == a1 && l.mtu == 1400)).await;
        // A port that leaves its bridge is not gone.
        ip("link add br0 type bridge");
        ip("link set a1 master br0");
        ip("link set a1 nomaster");
        let seen = marker(&mut watch, "m0").await;
        assert!(!seen.contains(&KernelEvent::LinkGone(a1)), "{seen:?}");
        ip("link del a1");
        until(&mut watch, |e| *e == KernelEvent::LinkGone(a1)).await;
    });
}

#[test]
fn own_writes_are_not_seen_but_what_others_do_to_them_is() {
    in_netns(async || {
        let (a0, a1) = two_links();
        for (table, also) in [(254, ""), (1000, " table 1000")] {
            let ours = Ours { table, ..OURS };
            let mut writer = writer::spawn(ours, 4).unwrap();
            let mut watch = Watch::open(ours, writer.port).unwrap();
            let single = via([Hop::direct(addr("192.0.2.14"), a0)]);
            let both = via([Hop::direct(addr("192.0.2.14"), a0), Hop::direct(addr("192.0.2.34"), a1)]);
            let v6 = via([Hop::direct(addr("2001:db8:1::2"), a0)]);
            let report = write(
                &mut writer,
                vec![
                    FibOp::Create(p("10.1.0.0/24"), single.clone()),
                    FibOp::Replace(p("10.1.0.0/24"), both.clone()),
                    FibOp::Create(p("10.1.1.0/24"), single.clone()),
                    FibOp::Remove(p("10.1.1.0/24"), single.clone()),
                    FibOp::Create(p("2001:db8:f::/48"), v6.clone()),
                ],
            )
            .await;
            assert_eq!(report.failed, []);
            let seen = marker(&mut watch, &format!("m{table}")).await;
            assert!(!seen.iter().any(is_route), "own writes: {seen:?}");

            ip(&format!("route del 10.1.0.0/24 proto 87{also}"));
            ip(&format!("-6 route del 2001:db8:f::/48 proto 87{also}"));
            ip(&format!("route add 10.1.0.0/24 via 192.0.2.13 dev a0 proto 87 metric 20{also}"));
            ip(&format!("route add 10.1.0.0/24 via 192.0.2.13 dev a0 proto static metric 7{also}"));
            ip(&format!("route add unreachable 10.5.0.0/16{also}"));
            ip(&format!("route del unreachable 10.5.0.0/16{also}"));
            // Neither our table nor main, and no route at all but an address's own entry.
            ip("route add 10.6.0.0/16 via 192.0.2.14 dev a0 table 999");
            ip("route del 10.6.0.0/16 table 999");
            ip("address add 10.9.0.1/32 dev a0");
            ip("address del 10.9.0.1/32 dev a0");
            let seen = marker(&mut watch, &format!("n{table}")).await;
            let routes: Vec<_> = seen.into_iter().filter(is_route).collect();
            let [gone, gone6, own, foreign, reject, reject_gone] = &routes[..] else {
                panic!("table {table}: {routes:#?}")
            };
            assert_eq!(*gone, KernelEvent::OwnGone(p("10.1.0.0/24"), both));
            assert_eq!(*gone6, KernelEvent::OwnGone(p("2001:db8:f::/48"), v6));
            assert_eq!(*own, KernelEvent::Own(p("10.1.0.0/24"), via([Hop::direct(addr("192.0.2.13"), a0)])));
            let KernelEvent::Route(foreign) = foreign else { panic!("{foreign:?}") };
            assert_eq!((foreign.table, foreign.metric, foreign.protocol), (table, 7, 4));
            assert_eq!(foreign.hops, [Hop::direct(addr("192.0.2.13"), a0)]);
            let KernelEvent::Route(reject) = reject else { panic!("{reject:?}") };
            assert_eq!((reject.kind, reject.hops.len()), (RouteKind::Reject, 0));
            assert_eq!(*reject_gone, KernelEvent::RouteGone(reject.clone()));
            ip(&format!("route flush 10.1.0.0/24{also}"));
        }
    });
}

#[test]
fn an_overrun_is_told_and_the_watch_goes_on() {
    in_netns(async || {
        let (a0, _) = two_links();
        let mut watch = Watch::open(OURS, 0).unwrap();
        // Somebody else fills the table while nobody reads.
        let mut other = writer::spawn(Ours { protocol: 12, ..OURS }, 4).unwrap();
        let target = via([Hop::direct(addr("192.0.2.14"), a0)]);
        let prefix = |n: u32| Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + (n << 8))), 24);
        write(&mut other, (0..60_000).map(|n| FibOp::Create(prefix(n), target.clone())).collect()).await;
        while watch.next().await.unwrap() != Report::Overrun {}
        ip("link add after type bridge");
        loop {
            let Report::Events(events) = watch.next().await.unwrap() else { continue };
            if events.iter().any(|(event, _)| matches!(event, KernelEvent::Link(link) if link.name == "after")) {
                break;
            }
        }
    });
}

#[test]
fn a_bulk_load_of_ours_does_not_overrun_it() {
    in_netns(async || {
        let (a0, _) = two_links();
        let mut writer = writer::spawn(OURS, 4).unwrap();
        let mut watch = Watch::open(OURS, writer.port).unwrap();
        let target = via([Hop::direct(addr("192.0.2.14"), a0)]);
        let prefix = |n: u32| Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + (n << 8))), 24);
        write(&mut writer, (0..60_000).map(|n| FibOp::Create(prefix(n), target.clone())).collect()).await;
        let seen = marker(&mut watch, "after").await;
        assert!(!seen.iter().any(is_route));
    });
}

#[test]
fn a_watch_ends_with_its_reader() {
    in_netns(async || {
        let (out, mut reports) = tokio::sync::mpsc::channel(1);
        let task = tokio::spawn(Watch::open(OURS, 0).unwrap().run(out));
        ip("link add one type bridge");
        assert!(matches!(reports.recv().await, Some(Report::Events(_))));
        drop(reports);
        task.await.unwrap().unwrap();
    });
}
