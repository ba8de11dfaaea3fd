//! Single stories of the FIB: order of writes, retries, adoption, repair.

use std::time::{Duration, Instant};

use super::*;

fn host() -> Dump {
    Dump {
        links: vec![link(ETH0, "eth0"), link(ETH1, "eth1"), link(TUNNEL, "wayleave0")],
        addresses: vec![address(ETH0, "192.0.2.11/24"), address(ETH1, "198.51.100.11/24")],
        ..Dump::default()
    }
}

fn started(dump: Dump) -> Forwarder {
    let mut forwarder = Forwarder::new(settings());
    forwarder.adopt(dump);
    forwarder.start_complete();
    forwarder
}

fn take(forwarder: &mut Forwarder, now: Instant) -> Vec<FibOp> {
    take_batch(forwarder, now).ops
}

fn take_batch(forwarder: &mut Forwarder, now: Instant) -> Batch {
    let mut batch = Batch::default();
    forwarder.take_ops(now, 1000, &mut batch);
    batch
}

/// Takes all writes and has each succeed.
fn write(forwarder: &mut Forwarder, now: Instant) -> Vec<FibOp> {
    let batch = take_batch(forwarder, now);
    forwarder.answered(&batch, &[], now);
    batch.ops
}

/// Takes all writes and has each fail.
fn refuse(forwarder: &mut Forwarder, error: OpError, now: Instant) -> Vec<FibOp> {
    let batch = take_batch(forwarder, now);
    let failed: Vec<_> = (0..batch.ops.len()).map(|place| (place, error)).collect();
    forwarder.answered(&batch, &failed, now);
    batch.ops
}

fn a() -> NextHop {
    NextHop::new(ip("192.0.2.1"))
}

fn b() -> NextHop {
    NextHop::new(ip("198.51.100.1"))
}

fn via_a() -> Target {
    via(&[Hop::direct(a().addr, ETH0)])
}

fn via_b() -> Target {
    via(&[Hop::direct(b().addr, ETH1)])
}

#[test]
fn newer_replaces_older_and_nothing_is_written_twice() {
    let now = Instant::now();
    let mut forwarder = started(host());
    let prefix = p("10.244.1.0/24");
    forwarder.set_route(prefix, &ways(&[a()]), &[]);
    forwarder.set_route(prefix, &ways(&[b(), a()]), &[]);
    forwarder.set_route(prefix, &ways(&[b()]), &[]);
    let batch = take_batch(&mut forwarder, now);
    assert_eq!(batch.ops, [FibOp::Create(prefix, via_b())]);
    forwarder.set_route(prefix, &ways(&[a()]), &[]);
    assert_eq!(take(&mut forwarder, now), [], "one write a prefix at a time");
    forwarder.answered(&batch, &[], now);
    assert_eq!(write(&mut forwarder, now), [FibOp::Replace(prefix, via_a())]);
    forwarder.set_route(prefix, &ways(&[b()]), &[]);
    forwarder.set_route(prefix, &ways(&[a(), a()]), &[]);
    assert_eq!(take(&mut forwarder, now), [], "there and back again is no change");
    forwarder.remove_route(prefix);
    assert_eq!(write(&mut forwarder, now), [FibOp::Remove(prefix, via_a())]);
    assert!(forwarder.is_quiescent());
    assert_eq!(forwarder.explain(prefix).map(|explanation| explanation.prefix), None, "nothing is kept");
}

#[test]
fn what_takes_over_is_written_before_the_more_specific_goes() {
    let now = Instant::now();
    let mut forwarder = started(host());
    let (specific, covering) = (p("10.244.1.0/24"), p("10.244.0.0/16"));
    forwarder.set_route(specific, &ways(&[a()]), &[]);
    write(&mut forwarder, now);
    forwarder.remove_route(specific);
    forwarder.set_route(covering, &ways(&[b()]), &[]);
    let create = FibOp::Create(covering, via_b());
    let remove = FibOp::Remove(specific, via_a());
    assert_eq!(take(&mut forwarder, now), [create.clone(), remove.clone()]);

    // The same when they don't fit into one batch …
    let mut forwarder = started(host());
    forwarder.set_route(specific, &ways(&[a()]), &[]);
    write(&mut forwarder, now);
    forwarder.remove_route(specific);
    forwarder.set_route(covering, &ways(&[b()]), &[]);
    let mut batch = Batch::default();
    forwarder.take_ops(now, 1, &mut batch);
    assert_eq!(batch.ops, [create]);
    // … and what comes later does not hold the removal up.
    for n in 0..5 {
        forwarder.set_route(Prefix::new(ip(&format!("10.245.{n}.0")), 24), &ways(&[a()]), &[]);
    }
    let mut batch = Batch::default();
    forwarder.take_ops(now, 5, &mut batch);
    forwarder.set_route(p("10.246.0.0/24"), &ways(&[a()]), &[]);
    forwarder.take_ops(now, 2, &mut batch);
    assert!(batch.ops.contains(&remove), "{batch:?}");
}

#[test]
fn a_former_run_is_adopted_without_a_write() {
    let now = Instant::now();
    let (kept, moved, stale) = (p("10.244.1.0/24"), p("10.244.2.0/24"), p("10.244.3.0/24"));
    let tunnelled = p("10.244.4.0/24");
    let far = NextHop::new(ip("192.88.0.1")).ending_tunnel(true);
    let mut dump = host();
    dump.foreign = vec![foreign("0.0.0.0/0", 0, vec![Hop::direct(ip("192.0.2.254"), ETH0)])];
    // A dump doesn't know which device is the tunnel.
    let seen = Hop { tunnel: false, ..Hop::tunnel(far.addr, TUNNEL) };
    dump.own = vec![(kept, via_a()), (moved, via_b()), (stale, via_b()), (tunnelled, via(&[seen]))];
    let mut forwarder = Forwarder::new(Settings { tunnel_device: None, ..settings() });
    forwarder.adopt(dump);
    forwarder.configure(settings());
    forwarder.set_route(kept, &ways(&[a()]), &[]);
    forwarder.set_route(moved, &ways(&[a()]), &[]);
    forwarder.set_route(tunnelled, &ways(&[far]), &[]);
    assert_eq!(write(&mut forwarder, now), [FibOp::Replace(moved, via_a())]);
    assert_eq!(forwarder.stats().stale, 1);
    forwarder.start_complete();
    assert_eq!(write(&mut forwarder, now), [FibOp::Remove(stale, via_b())]);
    let stats = forwarder.stats();
    assert_eq!((stats.stale, stats.installed, stats.wanted), (0, 3, 3));
    assert_eq!(stats.repaired_missing + stats.repaired_changed + stats.repaired_extra, 0);
}

#[test]
fn a_refused_write_is_tried_again_ever_more_rarely() {
    let start = Instant::now();
    let mut now = start;
    let mut forwarder = started(host());
    let prefix = p("10.244.1.0/24");
    forwarder.set_route(prefix, &ways(&[a()]), &[]);
    for pause in [100, 200, 400] {
        assert_eq!(refuse(&mut forwarder, OpError::Other(12), now), [FibOp::Create(prefix, via_a())]);
        assert_eq!(take(&mut forwarder, now), [], "not before its time");
        let next = forwarder.next_retry().unwrap();
        assert_eq!(next - now, Duration::from_millis(pause));
        now = next;
    }
    assert_eq!(forwarder.stats().failed, 1);
    assert_eq!(forwarder.explain(prefix).unwrap().failure.map(|f| (f.error, f.count)), Some((OpError::Other(12), 3)));
    // What is wanted changed: no reason to wait.
    forwarder.set_route(prefix, &ways(&[b()]), &[]);
    assert_eq!(write(&mut forwarder, start), [FibOp::Create(prefix, via_b())]);
    assert_eq!((forwarder.stats().failed, forwarder.next_retry()), (0, None));
}

#[test]
fn a_link_that_comes_back_is_reason_to_try_again() {
    let now = Instant::now();
    let mut forwarder = started(host());
    let prefix = p("10.244.1.0/24");
    forwarder.set_route(prefix, &ways(&[a()]), &[]);
    refuse(&mut forwarder, OpError::Unreachable, now);
    forwarder.event(KernelEvent::Address(address(ETH0, "192.0.2.12/24")));
    assert_eq!(take(&mut forwarder, now), [FibOp::Create(prefix, via_a())]);
}

#[test]
fn a_link_down_takes_its_routes_and_up_brings_them_back() {
    let now = Instant::now();
    let mut forwarder = started(host());
    let (single, both) = (p("10.244.1.0/24"), p("10.244.2.0/24"));
    forwarder.set_route(single, &ways(&[a()]), &[]);
    forwarder.set_route(both, &ways(&[a(), b()]), &[]);
    write(&mut forwarder, now);
    assert_eq!(forwarder.next_hop(a()), Some(0));
    assert_eq!(forwarder.next_hop(b()), Some(0));
    forwarder.settle();

    // The kernel drops what has no other hop, silently; what has is still there.
    forwarder.event(KernelEvent::Link(Link { up: false, carrier: false, ..link(ETH0, "eth0") }));
    assert_eq!(forwarder.settle(), [a().addr]);
    assert_eq!(write(&mut forwarder, now), [FibOp::Replace(both, via_b())]);
    assert_eq!(forwarder.stats().unresolved, 1);
    forwarder.event(KernelEvent::Link(link(ETH0, "eth0")));
    assert_eq!(forwarder.settle(), [a().addr]);
    let ecmp = via(&[Hop::direct(a().addr, ETH0), Hop::direct(b().addr, ETH1)]);
    assert_eq!(write(&mut forwarder, now), [FibOp::Create(single, via_a()), FibOp::Replace(both, ecmp.clone())]);

    // Without a carrier the kernel keeps them: they are taken away.
    forwarder.event(KernelEvent::Link(Link { carrier: false, ..link(ETH0, "eth0") }));
    assert_eq!(write(&mut forwarder, now), [FibOp::Replace(both, via_b()), FibOp::Remove(single, via_a())]);
    forwarder.event(KernelEvent::Link(link(ETH0, "eth0")));
    assert_eq!(write(&mut forwarder, now), [FibOp::Create(single, via_a()), FibOp::Replace(both, ecmp)]);

    // The last address works like down; without the device even half a route is gone.
    forwarder.event(KernelEvent::AddressGone(address(ETH0, "192.0.2.11/24")));
    assert_eq!(write(&mut forwarder, now), [FibOp::Replace(both, via_b())]);
    forwarder.event(KernelEvent::LinkGone(ETH1));
    assert_eq!(write(&mut forwarder, now), []);
    assert_eq!(forwarder.route(both), (None, None));
}

#[test]
fn what_others_do_to_our_routes_is_undone_and_counted() {
    let now = Instant::now();
    let mut forwarder = started(host());
    let (one, two) = (p("10.244.1.0/24"), p("10.244.2.0/24"));
    forwarder.set_route(one, &ways(&[a()]), &[]);
    write(&mut forwarder, now);

    forwarder.event(KernelEvent::OwnGone(one, via_a()));
    assert_eq!(write(&mut forwarder, now), [FibOp::Create(one, via_a())]);
    forwarder.event(KernelEvent::Own(one, via_b()));
    assert_eq!(write(&mut forwarder, now), [FibOp::Replace(one, via_a())]);
    forwarder.event(KernelEvent::Own(two, via_b()));
    assert_eq!(write(&mut forwarder, now), [FibOp::Remove(two, via_b())]);
    let repaired = |forwarder: &Forwarder| {
        let stats = forwarder.stats();
        (stats.repaired_missing, stats.repaired_changed, stats.repaired_extra)
    };
    assert_eq!(repaired(&forwarder), (1, 1, 1));

    // The same, seen by a dump only.
    for own in [vec![], vec![(one, via_b())], vec![(one, via_a()), (two, via_a())], vec![(one, via_a())]] {
        forwarder.begin_resync();
        forwarder.resync(Dump { own, ..host() });
        write(&mut forwarder, now);
        assert_eq!(forwarder.route(one), (Some(via_a()), Some(via_a())));
    }
    assert_eq!(repaired(&forwarder), (2, 2, 2));

    // Two of ours for one prefix: one goes, and the dump tells which is left.
    forwarder.begin_resync();
    forwarder.resync(Dump { own: vec![(one, via_a()), (one, via_b())], ..host() });
    assert_eq!(write(&mut forwarder, now), [FibOp::Remove(one, via_b()),]);
    assert_eq!(refuse(&mut forwarder, OpError::Exists, now), [FibOp::Create(one, via_a())]);
    assert!(forwarder.needs_resync());
    forwarder.begin_resync();
    forwarder.resync(Dump { own: vec![(one, via_a())], ..host() });
    assert_eq!(write(&mut forwarder, now), []);
    assert!(forwarder.is_quiescent() && !forwarder.needs_resync());
}

#[test]
fn our_own_echo_is_no_news() {
    let now = Instant::now();
    let mut forwarder = started(host());
    let prefix = p("10.244.1.0/24");
    forwarder.set_route(prefix, &ways(&[a()]), &[]);
    let batch = take_batch(&mut forwarder, now);
    forwarder.event(KernelEvent::Own(prefix, via_a()));
    forwarder.answered(&batch, &[], now);
    forwarder.event(KernelEvent::Own(prefix, via_a()));
    assert_eq!(take(&mut forwarder, now), []);
    forwarder.remove_route(prefix);
    let batch = take_batch(&mut forwarder, now);
    forwarder.event(KernelEvent::OwnGone(prefix, via_a()));
    forwarder.answered(&batch, &[], now);
    forwarder.event(KernelEvent::OwnGone(prefix, via_a()));
    assert!(forwarder.is_quiescent() && !forwarder.needs_resync());
    assert_eq!(forwarder.stats(), Stats { next_hops: 1, ..Stats::default() });
}

#[test]
fn the_dump_says_nothing_of_what_is_written_meanwhile() {
    let now = Instant::now();
    let mut forwarder = started(host());
    let (before, during, under_way) = (p("10.244.1.0/24"), p("10.244.2.0/24"), p("10.244.3.0/24"));
    forwarder.set_route(before, &ways(&[a()]), &[]);
    write(&mut forwarder, now);
    forwarder.begin_resync();
    forwarder.set_route(during, &ways(&[a()]), &[]);
    forwarder.remove_route(before);
    write(&mut forwarder, now);
    forwarder.set_route(under_way, &ways(&[a()]), &[]);
    take(&mut forwarder, now);
    forwarder.resync(Dump { own: vec![(before, via_a())], ..host() });
    assert_eq!(take(&mut forwarder, now), []);
    assert_eq!(forwarder.stats().repaired_missing + forwarder.stats().repaired_extra, 0);
    assert_eq!(forwarder.route(during), (Some(via_a()), Some(via_a())));
}

#[test]
fn a_foreign_route_is_left_alone() {
    let now = Instant::now();
    let mut forwarder = started(host());
    let prefix = p("10.244.1.0/24");
    let other = |metric| foreign("10.244.1.0/24", metric, vec![Hop::direct(b().addr, ETH1)]);
    forwarder.event(KernelEvent::Route(other(50)));
    forwarder.set_route(prefix, &ways(&[a()]), &[]);
    assert_eq!(write(&mut forwarder, now), [FibOp::Create(prefix, via_a())], "ours lies beside it");
    let beside = Conflict { prefix, protocol: Some(4), metric: 50, blocks: false };
    assert_eq!(forwarder.conflicts(), std::slice::from_ref(&beside));

    // `ip route replace` with our metric: ours is gone and theirs must not be hit.
    forwarder.event(KernelEvent::Route(other(METRIC)));
    forwarder.set_route(prefix, &ways(&[b()]), &[]);
    assert_eq!(take(&mut forwarder, now), []);
    let same = Conflict { prefix, protocol: Some(4), metric: METRIC, blocks: true };
    assert_eq!(forwarder.conflicts(), [beside.clone(), same]);
    assert_eq!(forwarder.stats().blocked, 1);
    assert!(forwarder.needs_resync(), "did it replace ours, or was it put beside it?");
    forwarder.begin_resync();
    forwarder.resync(Dump { foreign: vec![other(50), other(METRIC)], ..host() });
    assert_eq!(take(&mut forwarder, now), []);
    forwarder.event(KernelEvent::RouteGone(other(METRIC)));
    assert_eq!(write(&mut forwarder, now), [FibOp::Create(prefix, via_b())]);
    assert_eq!((forwarder.conflicts(), forwarder.stats().blocked), (vec![beside], 0));

    // One that only the kernel knows of.
    let unheard = p("10.244.2.0/24");
    forwarder.set_route(unheard, &ways(&[a()]), &[]);
    refuse(&mut forwarder, OpError::Exists, now);
    assert_eq!(forwarder.conflicts()[1], Conflict { prefix: unheard, protocol: None, metric: METRIC, blocks: true });
    assert!(forwarder.needs_resync());
}

#[test]
fn hops_are_shared_and_forgotten() {
    let now = Instant::now();
    let mut forwarder = started(host());
    let prefix = |n: u32| Prefix::new(IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 | n << 8)), 24);
    for n in 0..1000 {
        let next_hops = if n % 2 == 0 { [a(), b()] } else { [b(), a()] };
        forwarder.set_route(prefix(n), &ways(&next_hops), &[]);
    }
    let ops = write(&mut forwarder, now);
    assert_eq!(ops.len(), 1000);
    let hops = |op: &FibOp| match op {
        FibOp::Create(_, Target::Via(hops)) => hops.as_ptr(),
        other => panic!("{other:?}"),
    };
    assert!(ops.iter().all(|op| hops(op) == hops(&ops[0])), "one list for all");
    for n in 0..1000 {
        forwarder.remove_route(prefix(n));
    }
    write(&mut forwarder, now);
    forwarder.forget_next_hops(|next_hop| *next_hop == a());
    assert_eq!(forwarder.stats(), Stats { next_hops: 1, ..Stats::default() });
}
