//! Routes and nexthop objects that somebody keeps removing or changing.

use std::time::{Duration, Instant};

use super::*;

const PREFIX: &str = "10.244.1.0/24";

fn started(objects: bool) -> Forwarder {
    let mut forwarder = Forwarder::new(Settings { objects, ..settings() });
    forwarder.adopt(Dump {
        links: vec![link(ETH0, "eth0"), link(ETH1, "eth1")],
        addresses: vec![address(ETH0, "192.0.2.11/24"), address(ETH1, "198.51.100.11/24")],
        ..Dump::default()
    });
    forwarder.start_complete();
    forwarder.set_route(p(PREFIX), &ways(&[a()]), &[]);
    forwarder
}

fn a() -> NextHop {
    NextHop::new(ip("192.0.2.1"))
}

fn b() -> NextHop {
    NextHop::new(ip("198.51.100.1"))
}

/// Takes all that may be written and has it succeed; how many objects and routes that is.
fn write(forwarder: &mut Forwarder, now: Instant) -> (usize, usize) {
    let (mut objects, mut batch) = (Vec::new(), Batch::default());
    forwarder.take_nexthop_ops(now, &mut objects);
    forwarder.take_ops(now, 1000, &mut batch);
    forwarder.nexthops_answered(&objects, &[], now);
    forwarder.answered(&batch, &[], now);
    (objects.len(), batch.ops.len())
}

/// An event that somebody caused; whether it is to be undone.
fn meddle(forwarder: &mut Forwarder, what: Contested, event: KernelEvent) -> bool {
    forwarder.event(event);
    forwarder.meddled(what)
}

fn removed(forwarder: &mut Forwarder) -> bool {
    let (_, actual) = forwarder.route(p(PREFIX));
    actual.is_some_and(|target| meddle(forwarder, Contested::Route(p(PREFIX)), KernelEvent::OwnGone(p(PREFIX), target)))
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_route_removed_again_and_again_comes_back_ever_more_rarely() {
    let (mut forwarder, start) = (started(false), Instant::now());
    assert_eq!(write(&mut forwarder, start), (0, 1));
    let what = Contested::Route(p(PREFIX));
    assert!(!forwarder.is_contested(what));
    for time in 0..6 {
        assert!(removed(&mut forwarder));
        assert_eq!(write(&mut forwarder, start + ms(time)), (0, 1), "an accident is put right at once");
        assert!(forwarder.is_contested(what));
    }
    forwarder.blame(what, "networkd (pid 7)".to_owned());
    assert_eq!(forwarder.take_duels_begun(), [what]);
    assert_eq!(forwarder.take_duels_begun(), [], "told once");

    assert!(removed(&mut forwarder));
    assert_eq!(write(&mut forwarder, start + ms(6)), (0, 0), "no accident any more");
    assert_eq!(forwarder.next_retry(), Some(start + ms(1005)));
    assert_eq!((forwarder.stats().failed, forwarder.queued()), (0, 0), "nobody refused it");
    let duel = forwarder.duels().next().unwrap();
    assert_eq!((duel.what, duel.by, duel.repairs), (what, Some("networkd (pid 7)"), 6));
    assert_eq!(write(&mut forwarder, start + ms(1005)), (0, 1));
    assert!(forwarder.is_quiescent());
    assert_eq!(forwarder.stats().undone_routes, 7);

    // What BGP decides meanwhile doesn't wait.
    assert!(removed(&mut forwarder));
    assert_eq!(write(&mut forwarder, start + ms(1100)), (0, 0));
    forwarder.set_route(p(PREFIX), &ways(&[b()]), &[]);
    assert_eq!(write(&mut forwarder, start + ms(1101)), (0, 1));

    assert!(forwarder.settle_duels(start + ms(61_100)).is_empty());
    assert_eq!(forwarder.settle_duels(start + ms(61_101)), [what]);
    assert_eq!(forwarder.duels().count(), 0);
}

#[test]
fn what_the_kernel_does_by_itself_is_no_duel() {
    let (mut forwarder, now) = (started(false), Instant::now());
    write(&mut forwarder, now);
    for _ in 0..20 {
        forwarder.event(KernelEvent::Link(Link { up: false, carrier: false, ..link(ETH0, "eth0") }));
        forwarder.event(KernelEvent::Link(link(ETH0, "eth0")));
        assert_eq!(write(&mut forwarder, now), (0, 1), "a flapping link");
        let (_, actual) = forwarder.route(p(PREFIX));
        forwarder.event(KernelEvent::OwnGone(p(PREFIX), actual.unwrap()));
        assert_eq!(write(&mut forwarder, now), (0, 1), "IPv6 tells of what goes with its device");
    }
    assert_eq!(forwarder.take_duels_begun(), []);
    assert_eq!(forwarder.stats().undone_routes, 0);
}

#[test]
fn what_is_not_ours_to_undo_is_not_undone() {
    let (mut forwarder, now) = (started(false), Instant::now());
    write(&mut forwarder, now);
    let (wanted, _) = forwarder.route(p(PREFIX));
    let what = Contested::Route(p(PREFIX));
    assert!(!meddle(&mut forwarder, what, KernelEvent::Own(p(PREFIX), wanted.unwrap())), "the same again");
    let other = Contested::Route(p("10.244.9.0/24"));
    assert!(!forwarder.meddled(other), "never heard of");
    let stray = KernelEvent::Own(p("10.244.9.0/24"), Target::Blackhole);
    assert!(meddle(&mut forwarder, other, stray), "with our protocol, and not made by us");
    assert!(!forwarder.meddled(Contested::Nexthop(NexthopId(1))));
}

#[test]
fn routes_wait_with_their_nexthop_object() {
    let (mut forwarder, start) = (started(true), Instant::now());
    assert_eq!(write(&mut forwarder, start), (2, 1));
    let (Some(Target::Object(group)), _) = forwarder.route(p(PREFIX)) else { panic!("no object") };
    let hop = NexthopId(group.0 ^ 1);
    assert!(!meddle(&mut forwarder, Contested::Nexthop(hop), KernelEvent::NexthopGone(hop)), "another's");
    // `ip nexthop flush`: the kernel tells of the group, and of the routes nothing.
    let removed = |forwarder: &mut Forwarder| {
        assert!(meddle(forwarder, Contested::Nexthop(group), KernelEvent::NexthopGone(group)));
    };
    for time in 0..6 {
        removed(&mut forwarder);
        assert_eq!(write(&mut forwarder, start + ms(time)), (1, 1), "the routes with it");
    }
    assert_eq!(forwarder.take_duels_begun(), [Contested::Nexthop(group)]);
    removed(&mut forwarder);
    for time in [6, 500, 1004] {
        assert_eq!(write(&mut forwarder, start + ms(time)), (0, 0), "the kernel would only refuse the routes");
    }
    assert_eq!(forwarder.next_retry(), Some(start + ms(1005)));
    assert_eq!(write(&mut forwarder, start + ms(1005)), (1, 1));
    assert!(forwarder.stats().failed == 0 && forwarder.is_written() && forwarder.next_retry().is_none());
    assert_eq!((forwarder.stats().undone_objects, forwarder.stats().undone_routes), (7, 0));

    // Another way has an object of its own, which nobody fights over.
    removed(&mut forwarder);
    assert_eq!(write(&mut forwarder, start + ms(1006)), (0, 0));
    forwarder.set_route(p(PREFIX), &ways(&[b()]), &[]);
    assert_eq!(write(&mut forwarder, start + ms(1007)), (2, 1));
}

#[test]
fn a_group_waits_with_its_hop() {
    let (mut forwarder, start) = (started(true), Instant::now());
    let mut objects = Vec::new();
    forwarder.take_nexthop_ops(start, &mut objects);
    forwarder.nexthops_answered(&objects, &[], start);
    write(&mut forwarder, start);
    let (hop, group) = (objects[0].id(), objects[1].id());
    // Who removes the hop removes the group, which has no other; both are told of.
    let remove = |forwarder: &mut Forwarder| {
        for id in [hop, group] {
            assert!(meddle(forwarder, Contested::Nexthop(id), KernelEvent::NexthopGone(id)));
        }
    };
    for time in 0..6 {
        remove(&mut forwarder);
        assert_eq!(write(&mut forwarder, start + ms(time)), (2, 1));
    }
    remove(&mut forwarder);
    assert_eq!(write(&mut forwarder, start + ms(6)), (0, 0));
    assert_eq!(write(&mut forwarder, start + ms(1005)), (2, 1));
    assert!(forwarder.is_written() && forwarder.next_retry().is_none());
}
