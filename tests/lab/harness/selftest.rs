//! The lab itself, without the program under test: if these fail, look here first.

use std::time::Duration;

use super::bird::{Neighbor, config};
use super::kernel::Monitor;
use super::{Bird, Frr, Lab, Probe, holds};

/// client — bird — frr — server: two routers that know each other's client by BGP.
#[test]
fn bird_and_frr_route_for_each_other() {
    let lab = Lab::new();
    let (left, right) = (lab.router("bird"), lab.router("frr"));
    lab.link((&left, "eth0", &["10.0.0.1/24"]), (&right, "eth0", &["10.0.0.2/24"]));
    let client = lab.container(&left, "client", &["10.1.0.2"]);
    let server = lab.container(&right, "server", &["10.2.0.2"]);

    let session = Neighbor::new("frr", ("10.0.0.1", 65001), ("10.0.0.2", 65002));
    let bird = Bird::start(&lab, &left, &config("10.0.0.1", &[session], &["10.1.0.0/24"], ""));
    let frr = Frr::start(
        &lab,
        &right,
        "router bgp 65002\n bgp router-id 10.0.0.2\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
         neighbor 10.0.0.1 remote-as 65001\n neighbor 10.0.0.1 timers 3 9\n neighbor 10.0.0.1 timers connect 1\n \
         address-family ipv4 unicast\n  network 10.2.0.0/24\n exit-address-family\n",
    );
    holds("both ends up", Duration::from_secs(30), || bird.established("frr") && frr.established("10.0.0.1"));
    holds("FRR has BIRD's route", Duration::from_secs(10), || frr.path("10.1.0.0/24").is_some());
    assert_eq!(frr.path("10.1.0.0/24").unwrap()["aspath"]["string"], "65001");
    holds("BIRD has FRR's route", Duration::from_secs(10), || bird.route("10.2.0.0/24").is_some());
    assert_eq!(bird.attribute("10.2.0.0/24", "BGP.as_path").unwrap(), "65002");
    assert_eq!(bird.count("frr"), 1);

    holds("kernel routes both ways", Duration::from_secs(10), || client.ping("10.2.0.2", 1) == 1);
    let probe = Probe::start(&client, &server, "10.2.0.2");
    super::wait::pause(Duration::from_millis(500));
    let report = probe.finish();
    assert!(report.sent > 300 && report.lost == 0, "an undisturbed network loses nothing: {report:?}");

    let probe = Probe::start(&client, &server, "10.2.0.2");
    right.ip("link set eth0 down");
    super::wait::pause(Duration::from_millis(300));
    let report = probe.finish();
    assert!(report.lost > 50 && report.longest_gap > 50, "a cut cable shows: {report:?}");
}

#[test]
fn the_monitor_misses_nothing() {
    let lab = Lab::new();
    let space = lab.netns("host");
    let mut monitor = Monitor::start(&lab, &space);
    assert_eq!(monitor.events(), Vec::<String>::new());
    space.ip("route add blackhole 198.51.100.0/24 proto 87");
    space.ip("route add blackhole 203.0.113.0/24 proto 88");
    let events = monitor.events();
    assert!(events.len() == 1 && events[0].contains("198.51.100.0/24"), "ours and only ours: {events:?}");
    assert_eq!(monitor.events(), Vec::<String>::new(), "each is told once");
}

#[test]
fn http_and_sysctls_are_those_of_the_namespace() {
    let lab = Lab::new();
    let (a, b) = (lab.netns("a"), lab.netns("b"));
    a.sysctl("net/ipv4/ip_forward", "1");
    assert_eq!((a.read_sysctl("net/ipv4/ip_forward"), b.read_sysctl("net/ipv4/ip_forward")), ("1".into(), "0".into()));
    assert_eq!(a.http_get(9887, "/metrics"), None, "nobody listens");
}
