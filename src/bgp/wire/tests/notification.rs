//! NOTIFICATIONs and capabilities in words.

use super::*;
use crate::bgp::message::{AttrFault, Capability, FaultOutcome, GracefulRestart, Notification};
use crate::bgp::wire::{Cease, encode};
use crate::net::{Asn, Family};

#[test]
fn in_words() {
    let n = Notification::new;
    let cases = [
        (n(1, 1, &[]), "message header error: connection not synchronised"),
        (n(1, 2, &[16, 1]), "message header error: bad message length (4097)"),
        (n(1, 3, &[9]), "message header error: bad message type (9)"),
        (n(2, 0, &[]), "open message error"),
        (n(2, 1, &[0, 4]), "open message error: unsupported version number (it speaks 4)"),
        (Notification::bad_peer_as(), "open message error: bad peer AS"),
        (Notification::bad_router_id(), "open message error: bad BGP identifier"),
        (Notification::unacceptable_hold_time(), "open message error: unacceptable hold time"),
        (
            Notification::unsupported_capability(&[
                Capability::Multiprotocol(Family::Ipv6),
                Capability::Unknown { code: 69, body: [0, 1, 1, 3].into() },
            ]),
            "open message error: unsupported capability: ipv6 unicast, ADD-PATH ipv4 unicast both",
        ),
        (n(2, 7, &[2, 0, 1]), "open message error: unsupported capability: route refresh"),
        (n(2, 11, &[]), "open message error: role mismatch"),
        (n(2, 99, &[]), "open message error: subcode 99"),
        (n(3, 1, &[]), "update message error: malformed attribute list"),
        (n(3, 5, &[0xc0, 8, 1, 0]), "update message error: attribute length error (COMMUNITIES)"),
        (n(3, 2, &[0x40, 99, 0]), "update message error: unrecognised well-known attribute (attribute 99)"),
        (n(3, 11, &[]), "update message error: malformed AS_PATH"),
        (Notification::hold_timer_expired(), "hold timer expired"),
        (n(4, 1, &[]), "hold timer expired: subcode 1"),
        (Notification::fsm_error(0), "finite state machine error"),
        (Notification::fsm_error(2), "finite state machine error: unexpected message in OpenConfirm"),
        (Notification::cease(Cease::Deconfigured), "cease: peer de-configured"),
        (Notification::cease(Cease::Collision), "cease: connection collision resolution"),
        (Notification::cease(Cease::BfdDown), "cease: BFD down"),
        (Notification::max_prefixes(Family::Ipv4, 10000), "cease: maximum number of prefixes reached (10000 for ipv4)"),
        (Notification::shutdown(""), "cease: administrative shutdown"),
        (Notification::shutdown("maintenance"), r#"cease: administrative shutdown: "maintenance""#),
        (Notification::reset("bis später"), r#"cease: administrative reset: "bis später""#),
        (n(6, 2, b"\x04a\n\"b"), r#"cease: administrative shutdown: "a\n\"b""#),
        (n(6, 2, b"\x03\xff\xfex"), "cease: administrative shutdown: \"\u{fffd}\u{fffd}x\""),
        (n(6, 2, b"\xffshort"), r#"cease: administrative shutdown: "short""#),
        (n(6, 2, "\u{8}a\u{202e}b\u{1b}c".as_bytes()), r#"cease: administrative shutdown: "a\u{202e}b\u{1b}c""#),
        (
            Notification::hard_reset(&Notification::shutdown("bye")),
            r#"cease: hard reset (cease: administrative shutdown: "bye")"#,
        ),
        (n(6, 9, &[6, 9, 6, 9]), "cease: hard reset, data 06 09 06 09"),
        (n(7, 1, &[0xff]), "route refresh message error: invalid message length, data ff"),
        (Notification::send_hold_timer_expired(), "send hold timer expired"),
        (n(77, 3, &[1]), "error code 77, subcode 3"),
        (
            n(5, 1, &[0; 17]),
            "finite state machine error: unexpected message in OpenSent, data \
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 …",
        ),
    ];
    for (notification, wanted) in cases {
        assert_eq!(notification.to_string(), wanted);
    }
    assert!(Notification::hard_reset(&Notification::hold_timer_expired()).is_hard_reset());
    assert!(!Notification::shutdown("").is_hard_reset());
}

#[test]
fn shutdown_text_is_cut_between_characters() {
    for (text, kept) in [("x".repeat(128), 128), ("x".repeat(129), 128), ("ä".repeat(70), 128), ("€".repeat(50), 126)]
    {
        let data = Notification::shutdown(&text).data;
        assert_eq!((usize::from(data[0]), data.len()), (kept, kept + 1));
        assert!(std::str::from_utf8(&data[1..]).is_ok());
    }
}

#[test]
fn round_trip_and_limit() {
    for size in [0, 1, 4075, 4076, 70000] {
        let sent = Notification::new(6, 2, &vec![1; size]);
        let mut bytes = Vec::new();
        encode(&Message::Notification(sent), &INTERNAL, &mut bytes);
        let kept = Notification::new(6, 2, &vec![1; size.min(4075)]);
        assert_eq!(decode(&bytes, &INTERNAL), Ok(Message::Notification(kept)));
    }
}

#[test]
fn capabilities_in_words() {
    let unknown = |code, body: &[u8]| Capability::Unknown { code, body: body.into() };
    let restart = GracefulRestart {
        restarted: true,
        notification: true,
        restart_time: 120,
        families: vec![(Family::Ipv4, true), (Family::Ipv6, false)],
    };
    let cases = [
        (Capability::Multiprotocol(Family::Ipv4), "ipv4 unicast"),
        (Capability::FourOctetAs(Asn(65001)), "four-octet AS 65001"),
        (Capability::EnhancedRouteRefresh, "enhanced route refresh"),
        (Capability::ExtendedMessage, "extended message"),
        (
            Capability::GracefulRestart(restart),
            "graceful restart 120 s ipv4 (preserved) ipv6, restarted, also after notification",
        ),
        (unknown(1, &[0, 25, 0, 70]), "multiprotocol l2vpn evpn"),
        (unknown(1, &[64, 4, 0, 71]), "multiprotocol afi 16388 safi 71"),
        (unknown(5, &[0, 1, 0, 1, 0, 2]), "extended next hop ipv4 unicast over ipv6"),
        (unknown(9, &[3]), "role customer"),
        (unknown(69, &[0, 1, 1, 3, 0, 2, 1, 1]), "ADD-PATH ipv4 unicast both ipv6 unicast receive"),
        (unknown(71, &[]), "long-lived graceful restart"),
        (unknown(73, b"\x03tor\x03lan"), r#"FQDN "tor" "lan""#),
        (unknown(73, b"\x03tor\x00"), r#"FQDN "tor""#),
        (unknown(73, b"\x09to\x1br"), r#"FQDN "to\u{1b}r""#),
        (unknown(74, &[]), "BFD strict mode"),
        (unknown(75, b"\x04bird"), r#"software version "bird""#),
        (unknown(128, &[]), "route refresh (pre-standard)"),
        (unknown(200, &[1, 2]), "capability 200 (2 octets)"),
    ];
    for (capability, wanted) in cases {
        assert_eq!(capability.to_string(), wanted);
    }
}

#[test]
fn faults_in_words() {
    let fault = |code, outcome| AttrFault { code, what: "length is not 4", outcome }.to_string();
    assert_eq!(fault(4, FaultOutcome::TreatAsWithdraw), "MULTI_EXIT_DISC: length is not 4, routes withdrawn");
    assert_eq!(fault(0, FaultOutcome::AttributeDiscard), "NLRI: length is not 4, discarded");
    assert_eq!(fault(99, FaultOutcome::AttributeDiscard), "attribute 99: length is not 4, discarded");
}
