//! OPEN and capabilities.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::bgp::message::{Capability, GracefulRestart, Open};
use crate::bgp::wire::{encode, frame};
use crate::net::{Asn, Family};

/// Version 4, AS 65001, hold time 90, 192.0.2.1, then what is given.
fn open_with(parameters: &[u8]) -> Vec<u8> {
    let mut body = vec![4, 0xfd, 0xe9, 0, 90, 192, 0, 2, 1];
    body.extend(parameters);
    message(1, &body)
}

/// One capabilities parameter.
fn capable(list: &[u8]) -> Vec<u8> {
    let length = u8::try_from(list.len()).unwrap();
    open_with(&[&[length + 2, 2, length], list].concat())
}

fn decoded(bytes: &[u8]) -> Result<Open, DecodeError> {
    match decode(bytes, &Codec::INITIAL)? {
        Message::Open(open) => Ok(open),
        other => panic!("{other:?}"),
    }
}

fn unknown(code: u8, body: &[u8]) -> Capability {
    Capability::Unknown { code, body: body.into() }
}

#[test]
fn capabilities() {
    use Capability::{EnhancedRouteRefresh, ExtendedMessage, FourOctetAs, Multiprotocol, RouteRefresh};
    let restart = |restarted, notification, restart_time, families: &[(Family, bool)]| {
        let families = families.to_vec();
        Capability::GracefulRestart(GracefulRestart { restarted, notification, restart_time, families })
    };
    let cases: [(&str, Vec<u8>, Vec<Capability>); 16] = [
        ("none at all", open_with(&[0]), vec![]),
        ("an empty parameter", capable(&[]), vec![]),
        ("IPv6 unicast", capable(&[1, 4, 0, 2, 0, 1]), vec![Multiprotocol(Family::Ipv6)]),
        ("the reserved octet says nothing", capable(&[1, 4, 0, 1, 7, 1]), vec![Multiprotocol(Family::Ipv4)]),
        ("a family we don't know", capable(&[1, 4, 0, 25, 0, 70]), vec![unknown(1, &[0, 25, 0, 70])]),
        (
            "several in one parameter",
            capable(&[2, 0, 6, 0, 70, 0]),
            vec![RouteRefresh, ExtendedMessage, EnhancedRouteRefresh],
        ),
        ("one in each parameter", open_with(&[8, 2, 2, 2, 0, 2, 2, 70, 0]), vec![RouteRefresh, EnhancedRouteRefresh]),
        (
            "extended parameters",
            open_with(&[255, 255, 0, 10, 2, 0, 2, 2, 0, 2, 0, 2, 6, 0]),
            vec![RouteRefresh, ExtendedMessage],
        ),
        ("their first octet says nothing", open_with(&[4, 255, 0, 5, 2, 0, 2, 2, 0]), vec![RouteRefresh]),
        ("AS number", capable(&[65, 4, 0, 0, 0xfd, 0xe9]), vec![FourOctetAs(Asn(65001))]),
        (
            "restart: R, N, 120 s, IPv4 with F",
            capable(&[64, 6, 0xc0, 120, 0, 1, 1, 0x80]),
            vec![restart(true, true, 120, &[(Family::Ipv4, true)])],
        ),
        (
            "restart of a family we don't know",
            capable(&[64, 6, 0x0f, 255, 0, 25, 70, 0]),
            vec![restart(false, false, 4095, &[])],
        ),
        ("restart cut off is not in force", capable(&[64, 3, 0, 120, 0]), vec![unknown(64, &[0, 120, 0])]),
        ("route refresh with a value is not in force", capable(&[2, 1, 9]), vec![unknown(2, &[9])]),
        (
            "FQDN with host and domain",
            capable(&[73, 8, 3, b't', b'o', b'r', 3, b'l', b'a', b'n']),
            vec![unknown(73, b"\x03tor\x03lan")],
        ),
        ("unknown", capable(&[200, 2, 1, 2]), vec![unknown(200, &[1, 2])]),
    ];
    for (why, bytes, wanted) in cases {
        let open = decoded(&bytes).unwrap_or_else(|error| panic!("{why}: {error}"));
        assert_eq!(open.capabilities, wanted, "{why}");
        assert_eq!((open.asn, open.hold_time, open.router_id), (Asn(65001), 90, Ipv4Addr::new(192, 0, 2, 1)), "{why}");
    }
}

#[test]
fn refusals() {
    let fixed = |at: usize, bytes: &[u8]| {
        let mut open = open_with(&[0]);
        open[19 + at..19 + at + bytes.len()].copy_from_slice(bytes);
        open
    };
    let as_trans = |number: u32| {
        let mut open = capable(&[&[65, 4][..], &number.to_be_bytes()].concat());
        open[20..22].copy_from_slice(&23456u16.to_be_bytes());
        open
    };
    let cases: [(&str, Vec<u8>, u8, &[u8]); 21] = [
        ("version 3", fixed(0, &[3]), 1, &[0, 4]),
        ("version before anything else", fixed(0, &[5, 0, 0]), 1, &[0, 4]),
        ("AS 0 (RFC 7607)", fixed(1, &[0, 0]), 2, &[]),
        ("AS 0 in the capability", as_trans(0), 2, &[]),
        ("capability and field differ", capable(&[65, 4, 0, 0, 0, 7]), 2, &[]),
        ("two capabilities differ", capable(&[65, 4, 0, 0, 0xfd, 0xe9, 65, 4, 0, 0, 0, 7]), 2, &[]),
        ("hold time 1", fixed(3, &[0, 1]), 6, &[]),
        ("hold time 2", fixed(3, &[0, 2]), 6, &[]),
        ("router id 0.0.0.0 (RFC 6286)", fixed(5, &[0; 4]), 3, &[]),
        ("authentication parameter", open_with(&[3, 1, 1, 0]), 4, &[]),
        ("unknown parameter", open_with(&[2, 9, 0]), 4, &[]),
        ("unknown parameter, extended", open_with(&[255, 255, 0, 3, 9, 0, 0]), 4, &[]),
        ("parameters longer than said", open_with(&[0, 2]), 0, &[]),
        ("parameters shorter than said", open_with(&[5, 2, 2, 2, 0]), 0, &[]),
        ("extended, longer than said", open_with(&[255, 255, 0, 9, 2, 0, 2, 2, 0]), 0, &[]),
        ("a parameter cut off", open_with(&[1, 2]), 0, &[]),
        ("a parameter overruns", open_with(&[4, 2, 4, 2, 0]), 0, &[]),
        ("a capability cut off", capable(&[2]), 0, &[]),
        ("a capability overruns", capable(&[2, 1]), 0, &[]),
        ("AS capability of 2 octets", capable(&[65, 2, 0xfd, 0xe9]), 0, &[]),
        ("AS capability of 5 octets", capable(&[65, 5, 0, 0, 0xfd, 0xe9, 0]), 0, &[]),
    ];
    for (why, bytes, subcode, data) in cases {
        let error = decoded(&bytes).expect_err(why).notification();
        assert_eq!((error.code, error.subcode, &error.data[..]), (2, subcode, data), "{why}");
    }
    assert_eq!(decoded(&as_trans(4_200_000_001)).unwrap().asn, Asn(4_200_000_001));
    assert_eq!(decoded(&as_trans(65001)).unwrap().asn, Asn(65001), "AS_TRANS may stand for a short number, too");
    assert_eq!(decoded(&fixed(3, &[0, 0])).unwrap().hold_time, 0);
}

#[test]
fn long_capability_lists() {
    let open = |count: usize, size: usize| Open {
        asn: Asn(65001),
        my_as: 65001,
        hold_time: 9,
        router_id: Ipv4Addr::new(192, 0, 2, 1),
        capabilities: vec![unknown(200, &vec![7; size]); count],
    };
    let encoded = |open: &Open| {
        let mut bytes = Vec::new();
        encode(&Message::Open(open.clone()), &Codec::INITIAL, &mut bytes);
        bytes
    };
    for (why, count, size, form) in [
        ("253 octets still fit the old form", 1, 251, [255, 2, 253]),
        ("254 need RFC 9072", 1, 252, [255, 255, 1]),
        ("many", 70, 20, [255, 255, 6]),
    ] {
        let sent = open(count, size);
        let bytes = encoded(&sent);
        assert_eq!(bytes[28..31], form, "{why}");
        assert_eq!(decoded(&bytes).as_ref(), Ok(&sent), "{why}");
    }
    let bytes = encoded(&open(100, 100));
    assert!(bytes.len() <= 4096);
    assert_eq!(frame(&bytes, &Codec::INITIAL), Ok(Some(bytes.len())), "an OPEN is never longer than 4096");
    assert_eq!(decoded(&bytes).unwrap().capabilities.len(), 39);
    assert_eq!(decoded(&encoded(&open(1, 256))).unwrap().capabilities.len(), 0, "no length says 256");
}

fn any_capability() -> impl Strategy<Value = Capability> {
    let family = prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)];
    let restart =
        (any::<bool>(), any::<bool>(), 0..4096u16, prop::collection::vec((family.clone(), any::<bool>()), 0..3));
    prop_oneof![
        family.prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        Just(Capability::ExtendedMessage),
        Just(Capability::EnhancedRouteRefresh),
        restart.prop_map(|(restarted, notification, restart_time, families)| {
            Capability::GracefulRestart(GracefulRestart { restarted, notification, restart_time, families })
        }),
        (prop_oneof![Just(5u8), Just(9), Just(69), 71..=255u8], prop::collection::vec(any::<u8>(), 0..=255))
            .prop_map(|(code, body)| unknown(code, &body)),
    ]
}

proptest! {
    #[test]
    fn round_trip(
        number in 1..=u32::MAX,
        hold_time in prop_oneof![Just(0u16), 3..=u16::MAX],
        router_id in 1..=u32::MAX,
        mut capabilities in prop::collection::vec(any_capability(), 0..12),
    ) {
        capabilities.push(Capability::FourOctetAs(Asn(number)));
        let open = Open {
            asn: Asn(number),
            my_as: u16::try_from(number).unwrap_or(23456),
            hold_time,
            router_id: Ipv4Addr::from(router_id),
            capabilities,
        };
        let mut bytes = Vec::new();
        encode(&Message::Open(open.clone()), &Codec::INITIAL, &mut bytes);
        prop_assert_eq!(decoded(&bytes), Ok(open.clone()));
        // Whatever a peer sends can be shown.
        for capability in &open.capabilities {
            prop_assert!(!capability.to_string().is_empty());
        }
    }
}
