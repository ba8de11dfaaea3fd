//! Whatever we send, we read back: any attributes, any prefixes, any codec.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::bgp::attrs::{AsPath, Attrs, Community, ExtCommunity, LargeCommunity, Origin, RawAttr, SegmentKind};
use crate::bgp::wire::{EncodeError, encode_end_of_rib, encode_reach, encode_withdraw, frame, nlri};
use crate::net::{Asn, Family};

fn any_asn() -> impl Strategy<Value = Asn> {
    prop_oneof![1..65536u32, Just(23456), 65536..=u32::MAX].prop_map(Asn)
}

fn any_path() -> impl Strategy<Value = AsPath> {
    let kind = prop_oneof![4 => Just(SegmentKind::Sequence), 1 => Just(SegmentKind::Set)];
    let numbers = prop_oneof![9 => vec(any_asn(), 1..8), 1 => vec(any_asn(), 250..300)];
    vec((kind, numbers), 0..4)
        .prop_map(|segments| AsPath::from_segments(segments.iter().map(|(kind, numbers)| (*kind, &numbers[..]))))
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Box<[T]> {
    items.sort_unstable();
    items.dedup();
    items.into()
}

fn any_unknown() -> impl Strategy<Value = Box<[RawAttr]>> {
    let code = prop_oneof![Just(0u8), Just(11), Just(20), 33..=255u8];
    prop::collection::btree_map(code, vec(any::<u8>(), 0..400), 0..4)
        .prop_map(|all| all.into_iter().map(|(code, body)| RawAttr { flags: 0xe0, code, body: body.into() }).collect())
}

/// As `decode` would give them for routes of `family` from a peer in our AS.
pub(super) fn any_attrs(family: Family) -> impl Strategy<Value = Attrs> {
    let hop = match family {
        Family::Ipv4 => (0x0100_0000..0x7f00_0000u32).prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))).boxed(),
        Family::Ipv6 => any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(0x2000 << 112 | bits >> 4))).boxed(),
    };
    let link_local = any::<u64>().prop_map(|bits| Ipv6Addr::from(0xfe80 << 112 | u128::from(bits)));
    let link_local = prop::option::of(link_local).prop_map(move |addr| addr.filter(|_| family == Family::Ipv6));
    let id = || any::<u32>().prop_map(Ipv4Addr::from);
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    (
        (origin, any_path(), hop, link_local, any::<Option<u32>>(), any::<Option<u32>>(), any::<bool>()),
        (prop::option::of((any_asn(), id())), prop::option::of(id()), vec(id(), 0..4)),
        (vec(any::<u32>(), 0..80), vec(any::<[u8; 8]>(), 0..5), vec(any::<[u32; 3]>(), 0..5), any_unknown()),
    )
        .prop_map(|(first, second, third)| Attrs {
            origin: first.0,
            as_path: first.1,
            next_hop: first.2,
            link_local: first.3,
            med: first.4,
            local_pref: first.5,
            atomic_aggregate: first.6,
            aggregator: second.0,
            originator_id: second.1,
            cluster_list: second.2.into(),
            communities: sorted(third.0.into_iter().map(Community).collect()),
            ext_communities: sorted(third.1.into_iter().map(ExtCommunity).collect()),
            large_communities: sorted(third.2.into_iter().map(LargeCommunity).collect()),
            unknown: third.3,
        })
}

/// Prefixes that a route may lead to, some of them twice.
pub(super) fn any_prefixes(family: Family, most: usize) -> impl Strategy<Value = Vec<Prefix>> {
    let prefix = match family {
        Family::Ipv4 => {
            (any::<u32>(), 0..=32u8).prop_map(|(bits, len)| Prefix::new(Ipv4Addr::from(bits).into(), len)).boxed()
        }
        Family::Ipv6 => {
            (any::<u128>(), 0..=128u8).prop_map(|(bits, len)| Prefix::new(Ipv6Addr::from(bits).into(), len)).boxed()
        }
    };
    vec(prefix.prop_filter("routable", nlri::is_routable), 1..most)
}

fn any_family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

fn any_codec() -> impl Strategy<Value = Codec> {
    (any::<bool>(), any::<bool>()).prop_map(|(four_octet_as, extended_message)| Codec {
        four_octet_as,
        extended_message,
        ..INTERNAL
    })
}

/// Takes a stream apart as a reader would.
fn messages(mut bytes: &[u8], codec: Codec) -> Vec<Update> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let end = frame(bytes, &codec).unwrap().expect("whole messages only");
        out.push(decoded(&bytes[..end], codec).unwrap());
        bytes = &bytes[end..];
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn announcements((attrs, prefixes) in any_family().prop_flat_map(|f| (any_attrs(f), any_prefixes(f, 3000))),
                     codec in any_codec()) {
        let mut bytes = Vec::new();
        let count = match encode_reach(&attrs, &prefixes, &codec, &mut bytes) {
            Ok(count) => count,
            Err(EncodeError::TooLarge(4096)) => {
                // Then there must be that much: try where there is room.
                prop_assert!(!codec.extended_message);
                let long = Codec { extended_message: true, ..codec };
                prop_assert_eq!(encode_reach(&attrs, &prefixes[..1], &long, &mut bytes), Ok(1));
                prop_assert!(bytes.len() > 4096 - 17);
                return Ok(());
            }
            Err(other) => panic!("{other}"),
        };
        let got = messages(&bytes, codec);
        prop_assert_eq!(got.len(), count);
        let mut back = Vec::new();
        for update in got {
            prop_assert_eq!((update.faults.len(), update.withdrawn.len(), update.reach.len()), (0, 0, 1));
            prop_assert_eq!(&*update.reach[0].attrs, &attrs);
            back.extend_from_slice(&update.reach[0].prefixes);
        }
        prop_assert_eq!(back, prefixes, "each once, in order");
    }

    #[test]
    fn withdrawals(prefixes in any_family().prop_flat_map(|f| any_prefixes(f, 5000)), codec in any_codec()) {
        let mut bytes = Vec::new();
        let count = encode_withdraw(&prefixes, &codec, &mut bytes);
        encode_end_of_rib(prefixes[0].family(), &mut bytes);
        let mut got = messages(&bytes, codec);
        prop_assert_eq!(got.pop().unwrap().end_of_rib, Some(prefixes[0].family()));
        prop_assert_eq!(got.len(), count);
        prop_assert!(got.iter().all(|update| update.reach.is_empty() && update.end_of_rib.is_none()));
        let back: Vec<_> = got.into_iter().flat_map(|update| update.withdrawn).collect();
        prop_assert_eq!(back, prefixes, "each once, in order");
    }

    #[test]
    fn no_message_could_take_one_more(prefixes in any_prefixes(Family::Ipv4, 4000)) {
        let attrs = Attrs::originate(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        let mut bytes = Vec::new();
        encode_reach(&attrs, &prefixes, &INTERNAL, &mut bytes).unwrap();
        let mut rest = &bytes[..];
        while let Some(end) = frame(rest, &INTERNAL).unwrap() && end < rest.len() {
            prop_assert!(end > 4096 - 5, "{} octets", end);
            rest = &rest[end..];
        }
    }
}
