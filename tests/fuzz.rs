//! Millions of broken messages: no panic, no unbounded memory, and what is understood can be said
//! again. The long form of this is under `fuzz/`; here it is bounded and repeats exactly.
//!
//! `WAYLEAVE_FUZZ_RUNS` sets how many messages each test tries, `WAYLEAVE_FUZZ_SEED` where it starts.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test outside of `#[test]` functions")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wayleave::bgp::attrs::{AsPath, Attrs, Community, ExtCommunity, LargeCommunity, Origin, RawAttr, SegmentKind};
use wayleave::bgp::message::{
    Capability, Codec, GracefulRestart, Message, Notification, Open, RefreshKind, RouteRefresh, Update,
};
use wayleave::bgp::wire::{
    Cease, DecodeError, HEADER_LEN, decode, encode, encode_end_of_rib, encode_reach, encode_withdraw, frame,
};
use wayleave::cluster::claim::Claim;
use wayleave::cluster::flannel::Network;
use wayleave::cluster::keys::Keys;
use wayleave::cluster::lease::Memory;
use wayleave::cluster::mirror::Mirror;
use wayleave::cluster::{Entry, Event};
use wayleave::net::{Asn, Family, PerFamily, Prefix};

const BOTH: PerFamily<bool> = PerFamily::new(true, true);
const INTERNAL: Codec = Codec { four_octet_as: true, extended_message: true, external: false, families: BOTH };
const CODECS: [Codec; 4] = [
    INTERNAL,
    Codec { extended_message: false, external: true, ..INTERNAL },
    Codec { four_octet_as: false, ..INTERNAL },
    Codec::INITIAL,
];

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap() % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        // Values at which lengths, counts and flags turn.
        const EDGES: [u8; 16] = [0, 1, 2, 3, 4, 5, 14, 15, 32, 33, 64, 128, 129, 0xc0, 0xfe, 0xff];
        let word = self.next();
        if word & 0x100 == 0 { EDGES[usize::from(word.to_be_bytes()[7] & 15)] } else { word.to_be_bytes()[7] }
    }
}

/// Changes `message` in one to four places; mostly mends the length in the header afterwards, so
/// that the body is looked at.
fn mutate(message: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let from = if random.below(16) == 0 { 0 } else { HEADER_LEN.min(message.len()) };
        let at = from + random.below(message.len() - from);
        match random.below(9) {
            0 if at < message.len() => message[at] ^= 1 << random.below(8),
            1 | 2 if at < message.len() => message[at] = random.byte(),
            3 => message.insert(at.min(message.len()), random.byte()),
            4 if at < message.len() => drop(message.remove(at)),
            5 => message.truncate(at),
            6 => {
                let end = (at + 1 + random.below(12)).min(message.len());
                let piece = message.get(at..end).unwrap_or_default().to_vec();
                message.splice(at.min(message.len())..at.min(message.len()), piece);
            }
            7 => {
                let start = random.below(other.len());
                let end = (start + 1 + random.below(40)).min(other.len());
                message.splice(at.min(message.len())..at.min(message.len()), other[start..end].iter().copied());
            }
            // A length field that fits its surroundings by chance.
            _ if at + 1 < message.len() => {
                let rest = u16::try_from(message.len() - at).unwrap_or(u16::MAX);
                let length = rest.saturating_sub(u16::from(random.byte() & 7));
                message[at..at + 2].copy_from_slice(&length.to_be_bytes());
            }
            _ => {}
        }
    }
    if random.below(16) != 0 && message.len() >= HEADER_LEN {
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        message[16..18].copy_from_slice(&length.to_be_bytes());
    }
}

/// Says where the run was when something in it panicked.
struct Case<'a> {
    seed: u64,
    run: u64,
    bytes: &'a [u8],
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("WAYLEAVE_FUZZ_SEED={} run {} message {:02x?}", self.seed, self.run, self.bytes);
        }
    }
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Runs `check` over mutations of `corpus`; gives how many messages were accepted.
fn run(corpus: &[Vec<u8>], share: u64, check: impl Fn(&[u8], Codec) -> bool) -> u64 {
    let seed = from_env("WAYLEAVE_FUZZ_SEED", 0x7761_796c_6561_7665);
    let mut random = Random(seed);
    let mut message = Vec::new();
    let mut accepted = 0;
    for run in 0..from_env("WAYLEAVE_FUZZ_RUNS", share) {
        let other = &corpus[random.below(corpus.len())];
        message.clone_from(&corpus[random.below(corpus.len())]);
        mutate(&mut message, other, &mut random);
        let codec = CODECS[random.below(CODECS.len())];
        let case = Case { seed, run, bytes: &message };
        accepted += u64::from(check(case.bytes, codec));
    }
    accepted
}

/// What holds for any bytes at all.
fn any_message(bytes: &[u8], codec: Codec) -> bool {
    let framed = frame(bytes, &codec);
    match decode(bytes, &codec) {
        Ok(message) => {
            assert_eq!(framed, Ok(Some(bytes.len())));
            sane(&message, bytes, codec);
            true
        }
        Err(error) => {
            refused(&error, codec);
            false
        }
    }
}

/// Every refusal can be told to the peer and to the operator.
fn refused(error: &DecodeError, codec: Codec) {
    let notification = error.notification();
    assert!(matches!(notification.code, 1 | 2 | 3 | 7), "{error}");
    assert!(!error.to_string().is_empty() && !notification.to_string().is_empty());
    let mut sent = Vec::new();
    encode(&Message::Notification(notification), &codec, &mut sent);
    assert!(sent.len() <= codec.max_message());
    assert!(matches!(decode(&sent, &codec), Ok(Message::Notification(_))));
}

fn sane(message: &Message, bytes: &[u8], codec: Codec) {
    match message {
        Message::Update(update) => sane_update(update, bytes, codec),
        Message::Open(open) => {
            assert!(open.capabilities.len() <= bytes.len() / 2);
            assert!(open.asn != Asn(0) && !open.router_id.is_unspecified() && !matches!(open.hold_time, 1 | 2));
            for capability in &open.capabilities {
                assert!(capability.to_string().len() <= 80 + 8 * bytes.len());
            }
            again(message, codec);
        }
        Message::Notification(notification) => {
            assert!(notification.to_string().len() <= 200 + 20 * bytes.len());
            again(message, codec);
        }
        Message::Keepalive | Message::RouteRefresh(_) => again(message, codec),
        Message::Ignored(why) => assert!(!why.is_empty()),
    }
}

/// What was read, written and read again, is the same.
fn again(message: &Message, codec: Codec) {
    let mut sent = Vec::new();
    encode(message, &codec, &mut sent);
    assert_eq!(decode(&sent, &codec).as_ref(), Ok(message));
}

fn sane_update(update: &Update, bytes: &[u8], codec: Codec) {
    let held = |list: &Vec<Prefix>| list.capacity();
    let prefixes = held(&update.withdrawn) + update.reach.iter().map(|reach| held(&reach.prefixes)).sum::<usize>();
    // A prefix takes an octet at least; appending may double.
    assert!(prefixes <= 2 * bytes.len(), "{prefixes} prefixes");
    assert!(update.faults.len() <= bytes.len() / 2);
    assert!(update.reach.len() <= 2);
    for reach in &update.reach {
        assert!(!reach.prefixes.is_empty());
        let attrs = &*reach.attrs;
        let attributes = attrs.communities.len()
            + attrs.cluster_list.len()
            + attrs.ext_communities.len()
            + attrs.large_communities.len()
            + attrs.as_path.as_wire().len()
            + attrs.unknown.iter().map(|raw| raw.body.len()).sum::<usize>();
        assert!(attributes <= 4 * bytes.len(), "{attributes} octets of attributes");

        let mut sent = Vec::new();
        // Towards a speaker of two octets the path may grow beyond the limit.
        if encode_reach(attrs, &reach.prefixes, &codec, &mut sent) == Ok(1) {
            let Ok(Message::Update(back)) = decode(&sent, &codec) else { panic!("our own UPDATE is refused") };
            assert!(back.faults.is_empty(), "{:?}", back.faults);
            assert_eq!(back.reach, std::slice::from_ref(reach));
        }
    }
    let mut sent = Vec::new();
    let messages = encode_withdraw(&update.withdrawn, &codec, &mut sent);
    assert!(messages <= 1 + update.withdrawn.len());
}

/// Attributes of every kind.
fn rich(next_hop: IpAddr) -> Attrs {
    let sequence = [65001, 4_200_000_000, 23456].map(Asn);
    let set = [Asn(7), Asn(70000)];
    Attrs {
        origin: Origin::Incomplete,
        as_path: AsPath::from_segments([(SegmentKind::Sequence, &sequence[..]), (SegmentKind::Set, &set[..])]),
        link_local: next_hop.is_ipv6().then(|| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
        med: Some(1),
        local_pref: Some(100),
        atomic_aggregate: true,
        aggregator: Some((Asn(70000), Ipv4Addr::new(192, 0, 2, 9))),
        originator_id: Some(Ipv4Addr::new(192, 0, 2, 8)),
        cluster_list: [Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(192, 0, 2, 6)].into(),
        communities: [Community(0xfde9_0001), Community::NO_EXPORT].into(),
        ext_communities: [ExtCommunity::ENCAP_IPIP].into(),
        large_communities: [LargeCommunity([1, 2, 3]), LargeCommunity([1, 2, 4])].into(),
        unknown: [
            RawAttr { flags: 0xe0, code: 35, body: [0, 0, 0, 5].into() },
            RawAttr { flags: 0xe0, code: 99, body: [7; 300].into() },
        ]
        .into(),
        ..Attrs::originate(next_hop)
    }
}

fn updates() -> Vec<Vec<u8>> {
    let v4 = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let v6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Prefix>>();
    let some4 = list(&["10.244.7.0/24", "0.0.0.0/0", "10.0.0.0/8", "198.51.100.7/32", "172.16.0.0/12"]);
    let some6 = list(&["2001:db8:7::/48", "::/0", "2001:db8::1/128", "fd00::/9"]);
    let mut corpus = Vec::new();
    let mut add = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        corpus.push(bytes);
    };
    for codec in [INTERNAL, Codec { four_octet_as: false, ..INTERNAL }] {
        for (next_hop, prefixes) in [(v4, &some4), (v6, &some6)] {
            for attrs in [rich(next_hop), Attrs::originate(next_hop)] {
                add(&|out| assert_eq!(encode_reach(&attrs, prefixes, &codec, out), Ok(1)));
            }
        }
    }
    for prefixes in [&some4, &some6] {
        add(&|out| assert_eq!(encode_withdraw(prefixes, &INTERNAL, out), 1));
    }
    for family in Family::ALL {
        add(&|out| encode_end_of_rib(family, out));
    }
    let hand_made: [&[u8]; 3] = [
        // Both families, both ways, in one message.
        b"\x00\x02\x08\x0a\x00\x3d\x80\x0e\x1a\x00\x02\x01\x10\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\
          \x00\x00\x00\x01\x00\x20\x20\x01\x0d\xb8\x80\x0f\x08\x00\x02\x01\x20\x20\x01\x0d\xb9\x40\x01\x01\x00\
          \x40\x02\x06\x02\x01\x00\x00\xfd\xe9\x40\x03\x04\xc0\x00\x02\x01\x18\x0a\xf4\x07",
        // AS_PATH with one octet left over: without a gate zettabgp never comes back.
        b"\x00\x00\x00\x15\x40\x01\x01\x00\x40\x02\x07\x02\x01\x00\x00\x00\x05\x09\x40\x03\x04\xc0\x00\x02\x01\x18\
          \x0a\xf4\x07",
        // IPv4 with an IPv6 next hop (RFC 8950).
        b"\x00\x00\x00\x29\x80\x0e\x19\x00\x01\x01\x10\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
          \x01\x00\x18\x0a\xf4\x07\x40\x01\x01\x00\x40\x02\x06\x02\x01\x00\x00\xfd\xe9",
    ];
    corpus.extend(hand_made.map(|body| with_header(2, body)));
    for bytes in &corpus {
        assert!(matches!(decode(bytes, &INTERNAL), Ok(Message::Update(_))), "{bytes:02x?}");
    }
    corpus
}

fn with_header(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(u16::try_from(HEADER_LEN + body.len()).unwrap().to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

fn opens() -> Vec<Vec<u8>> {
    let unknown = |code, body: &[u8]| Capability::Unknown { code, body: body.into() };
    let restart = GracefulRestart {
        restarted: true,
        notification: true,
        restart_time: 120,
        families: vec![(Family::Ipv4, true), (Family::Ipv6, false)],
    };
    let all = vec![
        Capability::Multiprotocol(Family::Ipv4),
        Capability::Multiprotocol(Family::Ipv6),
        Capability::RouteRefresh,
        Capability::ExtendedMessage,
        Capability::EnhancedRouteRefresh,
        Capability::GracefulRestart(restart),
        Capability::FourOctetAs(Asn(4_200_000_000)),
        unknown(5, &[0, 1, 0, 1, 0, 2]),
        unknown(9, &[3]),
        unknown(69, &[0, 1, 1, 3, 0, 2, 1, 1]),
        unknown(73, b"\x03tor\x03lan"),
        unknown(75, b"\x04bird"),
    ];
    [all.clone(), vec![], vec![unknown(200, &[1; 200]), unknown(201, &[2; 100])], all[6..7].to_vec()]
        .into_iter()
        .map(|capabilities| {
            let open = Open {
                asn: Asn(23456),
                my_as: 23456,
                hold_time: 9,
                router_id: Ipv4Addr::new(192, 0, 2, 1),
                capabilities,
            };
            let mut bytes = Vec::new();
            encode(&Message::Open(open), &Codec::INITIAL, &mut bytes);
            bytes
        })
        .collect()
}

fn others() -> Vec<Vec<u8>> {
    let notifications = [
        Notification::shutdown("maintenance until noon"),
        Notification::hard_reset(&Notification::shutdown("for good")),
        Notification::max_prefixes(Family::Ipv6, 10_000),
        Notification::unsupported_capability(&[Capability::Multiprotocol(Family::Ipv6), Capability::RouteRefresh]),
        Notification::new(3, 5, &[0xc0, 8, 1, 0]),
        Notification::cease(Cease::Collision),
    ];
    let refresh = |family, kind| Message::RouteRefresh(RouteRefresh { family, kind });
    let rest =
        [Message::Keepalive, refresh(Family::Ipv4, RefreshKind::Request), refresh(Family::Ipv6, RefreshKind::End)];
    notifications
        .map(Message::Notification)
        .into_iter()
        .chain(rest)
        .map(|message| {
            let mut bytes = Vec::new();
            encode(&message, &INTERNAL, &mut bytes);
            bytes
        })
        .collect()
}

#[test]
fn updates_survive() {
    let accepted = run(&updates(), 1_500_000, any_message);
    // Else the mutations break the header only, and nothing was tested.
    assert!(accepted > from_env("WAYLEAVE_FUZZ_RUNS", 1_500_000) / 20, "only {accepted} UPDATEs were read");
}

#[test]
fn opens_survive() {
    let accepted = run(&opens(), 500_000, any_message);
    assert!(accepted > from_env("WAYLEAVE_FUZZ_RUNS", 500_000) / 20, "only {accepted} OPENs were read");
}

#[test]
fn other_messages_survive() {
    let accepted = run(&others(), 300_000, any_message);
    assert!(accepted > from_env("WAYLEAVE_FUZZ_RUNS", 300_000) / 20, "only {accepted} messages were read");
}

/// A stream of broken messages is cut, or refused, and always moves on.
#[test]
fn streams_survive() {
    let corpus: Vec<Vec<u8>> = [updates(), opens(), others()].concat().chunks(3).map(<[Vec<u8>]>::concat).collect();
    run(&corpus, 300_000, |bytes, codec| {
        let mut rest = bytes;
        loop {
            match frame(rest, &codec) {
                Ok(Some(end)) => {
                    assert!((HEADER_LEN..=rest.len()).contains(&end));
                    any_message(&rest[..end], codec);
                    rest = &rest[end..];
                }
                Ok(None) => break rest.is_empty(),
                Err(error) => {
                    refused(&error, codec);
                    break false;
                }
            }
        }
    });
}

/// Keys and values of a store, as anybody who may write to it may write them. What stands there never stops a node,
/// and what is gone leaves nothing behind.
#[test]
fn stores_survive() {
    let values = [
        r#"{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0","Backend":{"Type":"x"}}"#,
        r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":124}"#,
        r#"{"PublicIP":"192.0.2.11","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1}}"#,
        r#"{"PublicIP":"192.0.2.11","BackendType":"wayleave","BackendData":{"Node":"host-a","Id":"1f","Since":17}}"#,
        r#"{"id":"1f","address":"192.0.2.11","asn":64512,"router_id":"192.0.2.11","port":179,"subnets":["10.4.0.0/24"]}"#,
        r#"{"id":"1f","address":"192.0.2.11","since":17}"#,
        r#"{"id":"1f","name":"a","held":[{"subnet":"10.4.0.0/24","since":1,"modified":2,"generation":"g"}]}"#,
    ];
    let keys = [
        "/n/config",
        "/n/subnets/10.4.0.0-24",
        "/n/subnets/10.4.0.0-24&fd00::-64",
        "/n/nodes/host-a",
        "/n/alive/host-a",
        "/n/generation",
    ];
    let corpus = |texts: &[&str]| -> Vec<Vec<u8>> { texts.iter().map(|text| text.as_bytes().to_vec()).collect() };
    let (keys, values) = (corpus(&keys), corpus(&values));
    let mut random = Random(from_env("WAYLEAVE_FUZZ_SEED", 0x6c65_6173_6573_2121));
    let mut some = |corpus: &[Vec<u8>]| {
        let mut text = corpus[random.below(corpus.len())].clone();
        let other = &corpus[random.below(corpus.len())];
        for _ in 0..random.below(3) {
            let at = random.below(text.len());
            match random.below(4) {
                0 => text[at] = random.byte(),
                1 => drop(text.splice(at..at, other[random.below(other.len())..].iter().copied().take(9))),
                2 if text.len() > 1 => drop(text.remove(at)),
                _ => text[at] = b"0123456789abcdef.:-/&{}[],"[random.below(26)],
            }
        }
        text
    };
    let (mut claims, mut networks) = (0, 0);
    for _ in 0..from_env("WAYLEAVE_FUZZ_RUNS", 200_000) {
        let (key, value) = (String::from_utf8_lossy(&some(&keys)).into_owned(), some(&values));
        let mut mirror = Mirror::new(Keys::new("/n"));
        mirror.listed(Vec::new(), 1);
        let entry = Entry { key: key.clone(), value: value.clone(), created: 2, modified: 2 };
        mirror.apply(vec![Event::Put(entry)], 2);
        claims += u64::from(mirror.claims().next().is_some());
        mirror.apply(vec![Event::Delete { key, revision: 3 }], 3);
        assert!(mirror.is_virgin() && mirror.bad().is_empty() && mirror.alive().is_empty());
        if let Ok(claim) = Claim::read(&value) {
            let again = Claim::read(&claim.write()).unwrap();
            assert!(again == claim, "{claim:?} {again:?}");
        }
        for range in Network::read(&value).map_or_else(|_| Vec::new(), |network| network.ranges) {
            networks += 1;
            assert_eq!(range.nth(0).unwrap().addr(), range.first);
            assert_eq!(range.nth(range.count() - 1).unwrap().addr(), range.last);
            assert!(range.pool.contains(range.first) && range.pool.contains(range.last));
        }
        let _ = serde_json::from_slice::<Memory>(&value);
    }
    assert!(claims > 1000 && networks > 1000, "only {claims} claims and {networks} networks were read");
}
