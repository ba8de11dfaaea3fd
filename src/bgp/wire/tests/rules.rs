//! RFC 7606, row by row: which malformed attribute costs what.

use super::*;
use crate::bgp::message::FaultOutcome;

/// What becomes of an UPDATE that announces 10.244.7.0/24.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Want {
    /// Announced, no fault
    Keep,
    /// Announced without the attribute
    Discard,
    /// Withdrawn
    Withdraw,
    /// Session over, UPDATE error with this subcode
    Reset(u8),
}
use Want::{Discard, Keep, Reset, Withdraw};

/// What `attributes`, in the place of those of the same type, make of a sound UPDATE.
fn outcome(attributes: &[Attr], codec: Codec) -> (Want, Option<Update>) {
    let path = if codec.four_octet_as { AS_PATH } else { Attr(0x40, 2, &[2, 1, 0xfd, 0xe9]) };
    let replaced = |sound: &Attr| attributes.iter().any(|attr| attr.1 == sound.1);
    let mut all: Vec<Attr> = [ORIGIN, path, NEXT_HOP].into_iter().filter(|sound| !replaced(sound)).collect();
    all.extend(attributes);
    observe(&update(&[], &all, NLRI), codec)
}

fn observe(bytes: &[u8], codec: Codec) -> (Want, Option<Update>) {
    match decoded(bytes, codec) {
        Ok(update) => {
            let prefix = vec![p("10.244.7.0/24")];
            let reached: Vec<_> = update.reach.iter().flat_map(|reach| reach.prefixes.clone()).collect();
            let worst = update.faults.iter().map(|fault| fault.outcome).max();
            let want = match worst {
                None => Keep,
                Some(FaultOutcome::AttributeDiscard) => Discard,
                Some(FaultOutcome::TreatAsWithdraw) => Withdraw,
            };
            let (there, gone) = if want == Withdraw { (vec![], prefix) } else { (prefix, vec![]) };
            assert_eq!((reached, &update.withdrawn), (there, &gone), "{update:?}");
            (want, Some(update))
        }
        Err(error) => {
            let notification = error.notification();
            assert_eq!(notification.code, 3, "{error}");
            (Reset(notification.subcode), None)
        }
    }
}

type Row<'a> = (&'a str, Codec, &'a [Attr<'a>], Want);

fn check(rows: &[Row]) {
    for (why, codec, attributes, wanted) in rows {
        let (got, update) = outcome(attributes, *codec);
        assert_eq!(got, *wanted, "{why}: {attributes:02x?} {update:?}");
        let code = attributes[0].1;
        for fault in update.iter().flat_map(|update| &update.faults) {
            assert_eq!(fault.code, code, "{why}: the fault names the attribute");
        }
    }
}

#[test]
fn well_known_attributes() {
    let (int, ext) = (INTERNAL, EXTERNAL);
    check(&[
        // §7.1
        ("EGP", ext, &[Attr(0x40, 1, &[1])], Keep),
        ("ORIGIN 3", ext, &[Attr(0x40, 1, &[3])], Withdraw),
        ("ORIGIN of 0 octets", ext, &[Attr(0x40, 1, &[])], Withdraw),
        ("ORIGIN of 2 octets", ext, &[Attr(0x40, 1, &[0, 0])], Withdraw),
        ("optional ORIGIN", ext, &[Attr(0xc0, 1, &[0])], Withdraw),
        ("ORIGIN not transitive", ext, &[Attr(0x00, 1, &[0])], Withdraw),
        ("the low flag bits say nothing", ext, &[Attr(0x4f, 1, &[0])], Keep),
        ("Partial is no matter for §3 c", ext, &[Attr(0x60, 1, &[0])], Keep),
        ("extended length where not needed", ext, &[Attr(0x50, 1, &[0])], Keep),
        // §7.2
        ("empty AS_PATH", int, &[Attr(0x40, 2, &[])], Keep),
        ("AS_SET", ext, &[Attr(0x40, 2, &[2, 1, 0, 0, 0, 7, 1, 1, 0, 0, 0, 8])], Keep),
        ("segment type 0", ext, &[Attr(0x40, 2, &[0, 1, 0, 0, 0, 7])], Withdraw),
        ("segment type 5", ext, &[Attr(0x40, 2, &[5, 1, 0, 0, 0, 7])], Withdraw),
        ("empty segment", ext, &[Attr(0x40, 2, &[2, 0])], Withdraw),
        ("empty segment behind a good one", ext, &[Attr(0x40, 2, &[2, 1, 0, 0, 0, 7, 2, 0])], Withdraw),
        ("segment overruns", ext, &[Attr(0x40, 2, &[2, 2, 0, 0, 0, 7])], Withdraw),
        ("one octet left over: zettabgp never ends", ext, &[Attr(0x40, 2, &[2, 1, 0, 0, 0, 5, 9])], Withdraw),
        ("AS 0 (RFC 7607)", ext, &[Attr(0x40, 2, &[2, 2, 0, 0, 0, 7, 0, 0, 0, 0])], Withdraw),
        ("AS 0 in a set", ext, &[Attr(0x40, 2, &[1, 1, 0, 0, 0, 0])], Withdraw),
        ("confederation sequence (RFC 5065 §5)", ext, &[Attr(0x40, 2, &[3, 1, 0, 0, 0, 7])], Withdraw),
        ("confederation set, also from inside", int, &[Attr(0x40, 2, &[4, 1, 0, 0, 0, 7])], Withdraw),
        ("optional AS_PATH", ext, &[Attr(0xc0, 2, &[2, 1, 0, 0, 0, 7])], Withdraw),
        // §7.3
        ("NEXT_HOP of 3 octets", ext, &[Attr(0x40, 3, &[192, 0, 2])], Withdraw),
        ("NEXT_HOP of 5 octets", ext, &[Attr(0x40, 3, &[192, 0, 2, 1, 0])], Withdraw),
        ("NEXT_HOP empty", ext, &[Attr(0x40, 3, &[])], Withdraw),
        ("0.0.0.0", ext, &[Attr(0x40, 3, &[0; 4])], Withdraw),
        ("loopback", ext, &[Attr(0x40, 3, &[127, 0, 0, 1])], Withdraw),
        ("multicast", ext, &[Attr(0x40, 3, &[224, 0, 0, 5])], Withdraw),
        ("class E", ext, &[Attr(0x40, 3, &[240, 0, 0, 1])], Withdraw),
        ("broadcast", ext, &[Attr(0x40, 3, &[255; 4])], Withdraw),
        ("optional NEXT_HOP", ext, &[Attr(0x80, 3, &[192, 0, 2, 1])], Withdraw),
        // §7.5
        ("LOCAL_PREF", int, &[Attr(0x40, 5, &[0, 0, 0, 100])], Keep),
        ("LOCAL_PREF of 3 octets", int, &[Attr(0x40, 5, &[0, 0, 100])], Withdraw),
        ("LOCAL_PREF empty", int, &[Attr(0x40, 5, &[])], Withdraw),
        ("LOCAL_PREF from outside", ext, &[Attr(0x40, 5, &[0, 0, 0, 100])], Keep),
        ("malformed LOCAL_PREF from outside", ext, &[Attr(0x40, 5, &[1])], Keep),
        ("optional LOCAL_PREF", int, &[Attr(0x80, 5, &[0, 0, 0, 100])], Withdraw),
        // §7.6
        ("ATOMIC_AGGREGATE", ext, &[Attr(0x40, 6, &[])], Keep),
        ("ATOMIC_AGGREGATE with a value", ext, &[Attr(0x40, 6, &[0])], Discard),
        ("optional ATOMIC_AGGREGATE", ext, &[Attr(0xc0, 6, &[])], Withdraw),
    ]);
}

#[test]
fn optional_attributes() {
    let (int, ext, old) = (INTERNAL, EXTERNAL, OLD);
    let large = [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
    check(&[
        // §7.4
        ("MED", ext, &[Attr(0x80, 4, &[0, 0, 0, 1])], Keep),
        ("MED of 3 octets", ext, &[Attr(0x80, 4, &[0, 0, 1])], Withdraw),
        ("MED of 5 octets", ext, &[Attr(0x80, 4, &[0, 0, 0, 0, 1])], Withdraw),
        ("transitive MED", ext, &[Attr(0xc0, 4, &[0, 0, 0, 1])], Withdraw),
        // §7.7
        ("AGGREGATOR", ext, &[Attr(0xc0, 7, &[0, 0, 0xfd, 0xe9, 192, 0, 2, 1])], Keep),
        (
            "AGGREGATOR of 6 octets from a four-octet speaker",
            ext,
            &[Attr(0xc0, 7, &[0xfd, 0xe9, 192, 0, 2, 1])],
            Discard,
        ),
        ("AGGREGATOR from a two-octet speaker", old, &[Attr(0xc0, 7, &[0xfd, 0xe9, 192, 0, 2, 1])], Keep),
        ("AGGREGATOR of 8 octets from one", old, &[Attr(0xc0, 7, &[0, 0, 0xfd, 0xe9, 192, 0, 2, 1])], Discard),
        ("AGGREGATOR of 1 octet", ext, &[Attr(0xc0, 7, &[0])], Discard),
        ("AGGREGATOR with AS 0", ext, &[Attr(0xc0, 7, &[0, 0, 0, 0, 192, 0, 2, 1])], Discard),
        ("AGGREGATOR not transitive", ext, &[Attr(0x80, 7, &[0, 0, 0xfd, 0xe9, 192, 0, 2, 1])], Withdraw),
        // §7.8
        ("COMMUNITIES", ext, &[Attr(0xc0, 8, &[0, 1, 0, 2])], Keep),
        ("partial COMMUNITIES", ext, &[Attr(0xe0, 8, &[0, 1, 0, 2])], Keep),
        ("COMMUNITIES of 5 octets: zettabgp panics", ext, &[Attr(0xc0, 8, &[0, 1, 0, 2, 3])], Withdraw),
        ("COMMUNITIES empty", ext, &[Attr(0xc0, 8, &[])], Withdraw),
        ("well-known COMMUNITIES", ext, &[Attr(0x40, 8, &[0, 1, 0, 2])], Withdraw),
        // §7.9
        ("ORIGINATOR_ID", int, &[Attr(0x80, 9, &[192, 0, 2, 1])], Keep),
        ("ORIGINATOR_ID of 2 octets", int, &[Attr(0x80, 9, &[192, 0])], Withdraw),
        ("ORIGINATOR_ID from outside", ext, &[Attr(0x80, 9, &[192, 0])], Keep),
        ("transitive ORIGINATOR_ID", int, &[Attr(0xc0, 9, &[192, 0, 2, 1])], Withdraw),
        // §7.10
        ("CLUSTER_LIST", int, &[Attr(0x80, 10, &[192, 0, 2, 1, 192, 0, 2, 2])], Keep),
        ("CLUSTER_LIST of 6 octets", int, &[Attr(0x80, 10, &[192, 0, 2, 1, 192, 0])], Withdraw),
        ("CLUSTER_LIST empty", int, &[Attr(0x80, 10, &[])], Withdraw),
        ("CLUSTER_LIST from outside", ext, &[Attr(0x80, 10, &[])], Keep),
        // §7.14
        ("EXTENDED COMMUNITIES", ext, &[Attr(0xc0, 16, &[3, 12, 0, 0, 0, 0, 0, 7])], Keep),
        ("EXTENDED COMMUNITIES of 9 octets", ext, &[Attr(0xc0, 16, &[3, 12, 0, 0, 0, 0, 0, 7, 0])], Withdraw),
        ("EXTENDED COMMUNITIES empty", ext, &[Attr(0xc0, 16, &[])], Withdraw),
        ("EXTENDED COMMUNITIES not transitive", ext, &[Attr(0x80, 16, &[3, 12, 0, 0, 0, 0, 0, 7])], Withdraw),
        // RFC 8092 §6
        ("LARGE_COMMUNITY", ext, &[Attr(0xc0, 32, &large)], Keep),
        ("LARGE_COMMUNITY of 11 octets", ext, &[Attr(0xc0, 32, &large[1..])], Withdraw),
        ("LARGE_COMMUNITY empty", ext, &[Attr(0xc0, 32, &[])], Withdraw),
        // RFC 6793 §4.1, §6
        ("AS4_PATH from a four-octet speaker", ext, &[Attr(0xc0, 17, &[2, 1, 0, 1, 0, 0])], Discard),
        ("AS4_AGGREGATOR from one", ext, &[Attr(0xc0, 18, &[0, 1, 0, 0, 192, 0, 2, 1])], Discard),
        ("AS4_PATH", old, &[Attr(0xc0, 17, &[2, 1, 0, 1, 0, 0])], Keep),
        ("AS4_PATH overruns", old, &[Attr(0xc0, 17, &[2, 2, 0, 1, 0, 0])], Discard),
        ("AS4_PATH with AS 0", old, &[Attr(0xc0, 17, &[2, 1, 0, 0, 0, 0])], Discard),
        ("AS4_AGGREGATOR of 6 octets", old, &[Attr(0xc0, 18, &[0, 1, 0, 0, 192, 0])], Discard),
        ("AS4_AGGREGATOR with AS 0", old, &[Attr(0xc0, 18, &[0, 0, 0, 0, 192, 0, 2, 1])], Discard),
        // RFC 4271 §5, §6.3
        ("unknown, optional, transitive", ext, &[Attr(0xc0, 99, &[1])], Keep),
        ("unknown, optional, not transitive", ext, &[Attr(0x80, 99, &[1])], Keep),
        ("unknown, well known", ext, &[Attr(0x40, 99, &[1])], Reset(2)),
        ("only to customer is passed on", ext, &[Attr(0xc0, 35, &[0, 0, 0xfd, 0xe9])], Keep),
    ]);
}

#[test]
fn repeated_attributes() {
    // §3 g: the first one counts.
    let (got, update) = outcome(&[Attr(0x80, 4, &[0, 0, 0, 1]), Attr(0x80, 4, &[0, 0, 0, 2])], EXTERNAL);
    assert_eq!((got, update.unwrap().reach[0].attrs.med), (Discard, Some(1)));
    let (got, update) = outcome(&[Attr(0xc0, 99, &[1]), Attr(0xc0, 99, &[2])], EXTERNAL);
    assert_eq!((got, &update.unwrap().reach[0].attrs.unknown[0].body[..]), (Discard, &[1][..]));
    let (got, _) = outcome(&[Attr(0x80, 4, &[0]), Attr(0x80, 4, &[0, 0, 0, 2])], EXTERNAL);
    assert_eq!(got, Withdraw, "a sound second one does not heal the first");
    let reach = Attr(0x80, 14, &[0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(outcome(&[reach, reach], EXTERNAL).0, Reset(1));
    let unreach = Attr(0x80, 15, &[0, 2, 1]);
    assert_eq!(outcome(&[unreach, unreach], EXTERNAL).0, Reset(1));
}

#[test]
fn missing_attributes() {
    // §3 d
    for (why, attributes) in [
        ("ORIGIN", &[AS_PATH, NEXT_HOP][..]),
        ("AS_PATH", &[ORIGIN, NEXT_HOP]),
        ("NEXT_HOP", &[ORIGIN, AS_PATH]),
        ("all", &[]),
    ] {
        assert_eq!(observe(&update(&[], attributes, NLRI), EXTERNAL).0, Withdraw, "{why}");
    }
}

#[test]
fn lengths_in_conflict() {
    // §4: the NLRI field is found by the total length.
    let sound: Vec<u8> = [ORIGIN, AS_PATH, NEXT_HOP].iter().flat_map(|attr| attr.bytes()).collect();
    for (why, tail, wanted) in [
        ("attribute overruns", &[0x80, 4, 5, 0, 0, 0][..], Withdraw),
        ("attribute with a long length overruns", &[0x90, 4, 0, 5, 0, 0, 0], Withdraw),
        ("one octet left", &[0x80], Withdraw),
        ("two octets left", &[0x80, 4], Withdraw),
        ("three octets left of a long header", &[0x90, 4, 0], Withdraw),
        ("MP_REACH_NLRI overruns: its routes are lost", &[0x80, 14, 30, 0, 2, 1], Reset(9)),
        ("MP_UNREACH_NLRI overruns", &[0x80, 15, 30, 0, 2, 1], Reset(9)),
    ] {
        let attributes = [&sound[..], tail].concat();
        assert_eq!(observe(&update_of(&[], &attributes, NLRI), EXTERNAL).0, wanted, "{why}");
    }
    // RFC 4271 §6.3: the three parts do not fit the message.
    for (why, body) in [
        ("withdrawn routes overrun", &[0, 3, 0, 0][..]),
        ("attributes overrun", &[0, 0, 0, 1]),
        ("no room for the second length", &[0, 1, 0, 0]),
    ] {
        assert_eq!(observe(&message(2, body), EXTERNAL).0, Reset(1), "{why}");
    }
}

#[test]
fn no_routes_to_withdraw() {
    // §5.2: attributes, but no routes; anything worse than a discard ends the session.
    let cases = [
        ("sound", &[ORIGIN, AS_PATH, NEXT_HOP][..], None),
        ("a discard is fine", &[ORIGIN, Attr(0x40, 6, &[1])], None),
        ("malformed ORIGIN", &[Attr(0x40, 1, &[9])], Some(1)),
        ("malformed beside a withdrawal", &[Attr(0x80, 15, &[0, 2, 1, 0]), Attr(0x40, 1, &[9])], Some(1)),
        ("missing attributes mean nothing without routes", &[ORIGIN], None),
        ("wrong flags of a lone MP_UNREACH_NLRI", &[Attr(0xc0, 15, &[0, 2, 1, 0])], None),
    ];
    for (why, attributes, wanted) in cases {
        let got = decoded(&update(&[], attributes, &[]), EXTERNAL);
        assert_eq!(got.err().map(|error| error.notification().subcode), wanted, "{why}");
    }
}

#[test]
fn prefix_lists() {
    let sound = &[ORIGIN, AS_PATH, NEXT_HOP];
    // §5.3
    for (why, withdrawn, nlri, wanted) in [
        ("33 bits", &[][..], &[33, 10, 0, 0, 0, 0][..], 10),
        ("255 bits: zettabgp panics", &[], &[255], 10),
        ("overrun", &[], &[24, 10, 0], 10),
        ("overrun behind a good one", &[], &[8, 10, 24, 10, 0], 10),
        ("withdrawn, 33 bits", &[33, 10, 0, 0, 0, 0], &[], 10),
        ("withdrawn, overrun", &[32, 10, 0, 0], &[], 10),
    ] {
        let error = decoded(&update(withdrawn, sound, nlri), EXTERNAL).expect_err(why).notification();
        assert_eq!((error.code, error.subcode), (3, wanted), "{why}");
    }
    // RFC 4271 §6.3: what no route can lead to is left out, the others stay.
    let cases: [(&str, &[u8], bool); 14] = [
        ("default route", &[0], true),
        ("half of everything", &[1, 0], true),
        ("0.0.0.0/7", &[7, 0], true),
        ("0.0.0.0/8", &[8, 0], false),
        ("0.0.0.0/32", &[32, 0, 0, 0, 0], false),
        ("loopback", &[8, 127], false),
        ("a loopback host", &[32, 127, 0, 0, 53], false),
        ("multicast", &[4, 224], false),
        ("a group", &[32, 239, 1, 2, 3], false),
        ("multicast and beyond", &[3, 224], false),
        ("reserved, yet in use", &[4, 240], true),
        ("broadcast", &[32, 255, 255, 255, 255], false),
        ("link-local", &[16, 169, 254], true),
        ("host bits are cleared, not complained of", &[12, 0xac, 0x1f], true),
    ];
    for (why, item, kept) in cases {
        let got = decoded(&update(&[], sound, &[item, NLRI].concat()), EXTERNAL).unwrap();
        assert_eq!(got.reach[0].prefixes.len(), 1 + usize::from(kept), "{why}");
        assert_eq!(got.faults.len(), usize::from(!kept), "{why}");
        let withdrawn = decoded(&update(&[item, NLRI].concat(), &[], &[]), EXTERNAL).unwrap();
        assert_eq!((withdrawn.withdrawn.len(), withdrawn.faults.len()), (1 + usize::from(kept), 0), "{why}");
    }
    let got = decoded(&update(&[], sound, &[12, 0xac, 0x1f]), EXTERNAL).unwrap();
    assert_eq!(got.reach[0].prefixes, [p("172.16.0.0/12")]);
}
