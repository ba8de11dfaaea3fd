//! The table of counters itself, with real packets in a real kernel: each is counted once, where it belongs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use wayleave::io::netlink::counters::Counters;
use wayleave::net::Prefix;
use wayleave::traffic::{Count, Layout, Reading, Set};

use crate::harness::wait::bound;
use crate::harness::{Lab, Netns};

const TABLE: &str = "wayleave_traffic";
/// Bytes of a packet, and of its payload: 20 of IP and 8 of UDP lie between.
const SIZE: u64 = 128;
const SIZE6: u64 = 148;
const PAYLOAD: usize = 100;

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// The host in the middle: a remote node on each side, containers of its own behind a bridge.
struct Middle {
    /// Its namespaces go with it
    _lab: Lab,
    host: Netns,
    /// Holds 10.244.1.0/24 and fd44:1::/64, reached as it is
    near: Netns,
    /// Holds 10.244.2.0/24, reached over a device by the tunnel's name
    far: Netns,
    boxes: [Netns; 2],
}

impl Middle {
    fn new() -> Self {
        let lab = Lab::new();
        let host = lab.router("host");
        let (near, far) = (lab.netns("near"), lab.netns("far"));
        lab.link(
            (&host, "eth0", &["10.0.0.1/24", "fd00::1/64"]),
            (&near, "eth0", &["10.0.0.2/24", "fd00::2/64", "10.244.1.10/32", "fd44:1::10/128"]),
        );
        // This kernel has no ipip: a device by that name is all that the rules look at.
        lab.link((&host, "wayleave0", &["10.9.0.1/24"]), (&far, "eth0", &["10.9.0.2/24", "10.244.2.10/32"]));
        host.batch(&["route add 10.244.1.0/24 via 10.0.0.2", "route add 10.244.2.0/24 via 10.9.0.2"]);
        host.ip("-6 route add fd44:1::/64 via fd00::2");
        near.ip("route add default via 10.0.0.1");
        near.ip("-6 route add default via fd00::1");
        far.ip("route add default via 10.9.0.1");
        // As Docker has it, with iptables told of bridged packets.
        host.batch(&["link add br0 type bridge", "addr add 10.244.7.1/24 dev br0", "link set br0 up"]);
        let boxes = [10, 11].map(|last| {
            let space = lab.netns(&format!("box{last}"));
            let port = format!("p{last}");
            lab.link((&host, &port, &[]), (&space, "eth0", &[&format!("10.244.7.{last}/24")]));
            host.ip(&format!("link set {port} master br0"));
            space.ip("route add default via 10.244.7.1");
            space
        });
        for family in ["iptables", "ip6tables"] {
            host.sysctl(&format!("net/bridge/bridge-nf-call-{family}"), "1");
        }
        Self { _lab: lab, host, near, far, boxes }
    }

    fn layout(prefixes: &[&str]) -> Layout {
        Layout {
            table: TABLE.to_owned(),
            tunnel: "wayleave0".to_owned(),
            pools: vec![p("10.244.0.0/16"), p("fd44::/16")],
            own: vec![p("10.244.7.0/24")],
            lengths: prefixes.iter().map(|prefix| (p(prefix).family(), p(prefix).len())).collect(),
        }
    }

    fn counters(&self) -> Counters {
        self.host.run(|| Counters::open(TABLE).unwrap())
    }

    fn count(&self, prefixes: &[&str]) {
        let mut counters = self.counters();
        let there = counters.handle().unwrap().map(|_| counters.sets().unwrap()).unwrap_or_default();
        self.host.nft(&Self::layout(prefixes).script(&there));
        for prefix in prefixes {
            for set in Set::of(p(prefix)) {
                counters.add(set, &[p(prefix).addr()]).unwrap();
            }
        }
    }

    /// What is not zero, by set and address; `transmit_direct_24 10.244.1.0`.
    fn counted(&self) -> BTreeMap<String, Count> {
        let mut counters = self.counters();
        let mut readings = Vec::new();
        for set in counters.sets().unwrap() {
            counters.read(set, &mut readings).unwrap();
        }
        let name = |reading: &Reading| {
            let set = reading.set;
            format!("{} {} {}", set.direction.label(), set.path.label(), reading.prefix())
        };
        let some = readings.iter().filter(|reading| reading.count.packets > 0);
        some.map(|reading| (name(reading), reading.count)).collect()
    }
}

/// Sends packets of a known size and waits until all have come.
fn send(from: &Netns, source: &str, to: &Netns, target: &str, packets: u32) {
    let (source, target): (IpAddr, IpAddr) = (source.parse().unwrap(), target.parse().unwrap());
    let receiver = to.run(|| bound(|| UdpSocket::bind(SocketAddr::new(target, 7100))));
    let sender = from.run(|| bound(|| UdpSocket::bind(SocketAddr::new(source, 0))));
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for _ in 0..packets {
        sender.send_to(&[0; PAYLOAD], (target, 7100)).unwrap();
        receiver.recv(&mut [0; PAYLOAD]).expect("each packet arrives");
    }
}

fn bytes(packets: u64, size: u64) -> Count {
    Count { bytes: packets * size, packets }
}

fn expect(middle: &Middle, why: &str, wanted: &[(&str, Count)]) {
    let wanted: BTreeMap<String, Count> = wanted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    assert_eq!(middle.counted(), wanted, "{why}");
}

#[test]
fn each_packet_is_counted_once_where_it_belongs() {
    let middle = Middle::new();
    let Middle { host, near, far, boxes, .. } = &middle;
    let all = ["10.244.1.0/24", "10.244.2.0/24", "fd44:1::/64", "0.0.0.0/0", "::/0"];
    middle.count(&all);

    send(&boxes[0], "10.244.7.10", near, "10.244.1.10", 5);
    expect(&middle, "forwarded from a bridge", &[("transmit direct 10.244.1.0/24", bytes(5, SIZE))]);
    send(near, "10.244.1.10", &boxes[0], "10.244.7.10", 3);
    let near_both =
        [("receive direct 10.244.1.0/24", bytes(3, SIZE)), ("transmit direct 10.244.1.0/24", bytes(5, SIZE))];
    expect(&middle, "and to one", &near_both);
    send(&boxes[0], "10.244.7.10", &boxes[1], "10.244.7.11", 7);
    send(host, "10.244.7.1", &boxes[1], "10.244.7.11", 7);
    send(&boxes[1], "10.244.7.11", host, "10.244.7.1", 7);
    send(host, "10.244.7.1", host, "10.244.7.1", 7);
    expect(&middle, "what stays on the host is nobody's", &near_both);

    send(&boxes[0], "10.244.7.10", far, "10.244.2.10", 2);
    send(host, "10.244.7.1", far, "10.244.2.10", 2);
    send(far, "10.244.2.10", host, "10.244.7.1", 1);
    let far_both =
        [("receive tunnel 10.244.2.0/24", bytes(1, SIZE)), ("transmit tunnel 10.244.2.0/24", bytes(4, SIZE))];
    expect(&middle, "forwarded and local, by the tunnel", &[near_both, far_both].concat());

    send(host, "fd00::1", near, "fd44:1::10", 2);
    send(near, "fd44:1::10", host, "fd00::1", 2);
    let six = [("receive direct fd44:1::/64", bytes(2, SIZE6)), ("transmit direct fd44:1::/64", bytes(2, SIZE6))];
    expect(&middle, "IPv6", &[&near_both[..], &far_both, &six].concat());

    send(host, "10.0.0.1", near, "10.0.0.2", 9);
    expect(&middle, "outside the pools", &[&near_both[..], &far_both, &six].concat());
    near.ip("addr add 10.244.99.1/32 dev eth0");
    host.ip("route add 10.244.99.0/24 via 10.0.0.2");
    send(host, "10.0.0.1", near, "10.244.99.1", 1);
    let nobody = [("transmit direct 0.0.0.0/0", bytes(1, SIZE))];
    expect(&middle, "inside, of nobody", &[&near_both[..], &far_both, &six, &nobody].concat());

    // Through: from one remote node to another is once each.
    send(near, "10.244.1.10", far, "10.244.2.10", 1);
    let through = [
        ("receive direct 10.244.1.0/24", bytes(4, SIZE)),
        ("transmit direct 10.244.1.0/24", bytes(5, SIZE)),
        ("receive tunnel 10.244.2.0/24", bytes(1, SIZE)),
        ("transmit tunnel 10.244.2.0/24", bytes(5, SIZE)),
    ];
    expect(&middle, "through this host", &[&through[..], &six, &nobody].concat());
}

#[test]
fn translation_changes_nothing() {
    let middle = Middle::new();
    let Middle { host, near, boxes, .. } = &middle;
    middle.count(&["10.244.1.0/24", "0.0.0.0/0"]);
    host.nft(
        "table ip other {\nchain out {\ntype nat hook postrouting priority srcnat;\nip saddr 10.244.7.0/24 masquerade\n}\n\
         chain in {\ntype nat hook prerouting priority dstnat;\nip daddr 10.0.0.1 udp dport 7100 dnat to 10.244.7.10\n}\n}\n",
    );
    send(&boxes[0], "10.244.7.10", near, "10.244.1.10", 4);
    expect(&middle, "with another source on the way out", &[("transmit direct 10.244.1.0/24", bytes(4, SIZE))]);
    // To a published port: sent to the host's address, from a container over there.
    let receiver = boxes[0].run(|| bound(|| UdpSocket::bind("10.244.7.10:7100")));
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sender = near.run(|| UdpSocket::bind("10.244.1.10:0").unwrap());
    for _ in 0..3 {
        sender.send_to(&[0; PAYLOAD], "10.0.0.1:7100").unwrap();
        let (_, from) = receiver.recv_from(&mut [0; PAYLOAD]).unwrap();
        receiver.send_to(&[0; PAYLOAD], from).unwrap();
        sender.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        sender.recv(&mut [0; PAYLOAD]).unwrap();
    }
    let wanted = [("receive direct 10.244.1.0/24", bytes(3, SIZE)), ("transmit direct 10.244.1.0/24", bytes(7, SIZE))];
    expect(&middle, "and back", &wanted);
}

#[test]
fn the_longest_prefix_counts_and_changes_lose_nothing() {
    let middle = Middle::new();
    let Middle { host, near, boxes, .. } = &middle;
    let (wide, narrow) =
        (["10.244.0.0/16", "0.0.0.0/0"], ["10.244.0.0/16", "10.244.1.0/24", "10.244.1.10/32", "0.0.0.0/0"]);
    middle.count(&wide);
    send(host, "10.0.0.1", near, "10.244.1.10", 2);
    send(&boxes[0], "10.244.7.10", &boxes[1], "10.244.7.11", 2);
    expect(&middle, "our own lies in the route of another", &[("transmit direct 10.244.0.0/16", bytes(2, SIZE))]);
    middle.count(&narrow);
    send(host, "10.0.0.1", near, "10.244.1.10", 3);
    let both = [("transmit direct 10.244.0.0/16", bytes(2, SIZE)), ("transmit direct 10.244.1.10/32", bytes(3, SIZE))];
    expect(&middle, "the longest", &both);

    // What goes tells what it had; the rest stays.
    let mut counters = middle.counters();
    let mut last = Vec::new();
    for set in Set::of(p("10.244.1.10/32")) {
        counters.remove(set, &[p("10.244.1.10/32").addr()], &mut last).unwrap();
    }
    assert_eq!(last.len(), 4, "{last:?}");
    assert_eq!(last.iter().map(|reading| reading.count.packets).sum::<u64>(), 3, "{last:?}");
    middle.count(&["10.244.0.0/16", "10.244.1.0/24", "0.0.0.0/0"]);
    send(host, "10.0.0.1", near, "10.244.1.10", 1);
    let both = [("transmit direct 10.244.0.0/16", bytes(2, SIZE)), ("transmit direct 10.244.1.0/24", bytes(1, SIZE))];
    expect(&middle, "the next to the longest", &both);
    assert!(counters.sets().unwrap().iter().all(|set| set.len != 32), "the set has gone too");
    let missing = counters.remove(Set::of(p("10.244.9.0/24")).next().unwrap(), &[p("10.244.9.0/24").addr()], &mut last);
    assert_eq!(missing.unwrap_err().raw_os_error(), Some(libc::ENOENT), "an error is told, and nobody waits for ever");
}

#[test]
fn packets_that_come_while_elements_go_are_not_lost() {
    let middle = Middle::new();
    let Middle { host, near, .. } = &middle;
    let prefixes = ["10.244.1.0/24", "0.0.0.0/0"];
    middle.count(&prefixes);
    let sent = 20_000_u32;
    let (sender, mut counters) = (host.run(|| UdpSocket::bind("10.0.0.1:0").unwrap()), middle.counters());
    let sink = near.run(|| UdpSocket::bind("10.244.1.10:7100").unwrap());
    let place = Set::of(p(prefixes[0])).next().unwrap();
    let running = std::thread::spawn(move || {
        for _ in 0..sent {
            sender.send_to(&[0; PAYLOAD], "10.244.1.10:7100").unwrap();
        }
    });
    let (mut last, mut rounds) = (Vec::new(), 0_u32);
    while !running.is_finished() {
        counters.remove(place, &[p(prefixes[0]).addr()], &mut last).unwrap();
        counters.add(place, &[p(prefixes[0]).addr()]).unwrap();
        rounds += 1;
    }
    running.join().unwrap();
    drop(sink);
    let gone: u64 = last.iter().map(|reading| reading.count.packets).sum();
    let left: u64 = middle.counted().values().map(|count| count.packets).sum();
    assert!(rounds > 5, "{rounds}");
    assert_eq!(gone + left, u64::from(sent), "in {rounds} rounds; {gone} told when they went, {left} left");
}
