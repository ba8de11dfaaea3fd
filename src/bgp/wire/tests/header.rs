//! Framing, and the messages that are little more than a header.

use super::*;
use crate::bgp::message::{RefreshKind, RouteRefresh};
use crate::bgp::wire::{encode, frame};
use crate::net::Family;

type Row<'a> = (&'a str, &'a [u8], &'a Codec, Result<Option<usize>, DecodeError>);

#[test]
fn framing() {
    let long = Codec { extended_message: true, ..INTERNAL };
    let header = |length: u16, kind: u8| {
        let mut bytes = vec![0xff; 16];
        bytes.extend(length.to_be_bytes());
        bytes.push(kind);
        bytes
    };
    let keepalive = header(19, 4);
    let two = [&keepalive[..], &keepalive[..]].concat();
    let mut bad_marker = keepalive.clone();
    bad_marker[15] = 0xfe;
    let cases: [Row; 26] = [
        ("nothing yet", b"", &INTERNAL, Ok(None)),
        ("part of a marker", &[0xff; 7], &INTERNAL, Ok(None)),
        ("part of a header", &keepalive[..18], &INTERNAL, Ok(None)),
        ("a whole one", &keepalive, &INTERNAL, Ok(Some(19))),
        ("the first of two", &two, &INTERNAL, Ok(Some(19))),
        ("body missing", &header(23, 2), &INTERNAL, Ok(None)),
        ("marker", &bad_marker, &INTERNAL, Err(DecodeError::Marker)),
        ("HTTP is seen before 19 octets came", b"GET / HTTP", &INTERNAL, Err(DecodeError::Marker)),
        ("length 0", &header(0, 2), &INTERNAL, Err(DecodeError::Length(0))),
        ("length 18", &header(18, 4), &INTERNAL, Err(DecodeError::Length(18))),
        ("the longest", &header(4096, 2), &INTERNAL, Ok(None)),
        ("too long", &header(4097, 2), &INTERNAL, Err(DecodeError::Length(4097))),
        ("long, as negotiated", &header(65535, 2), &long, Ok(None)),
        ("long NOTIFICATION", &header(65535, 3), &long, Ok(None)),
        ("OPEN is never long", &header(4097, 1), &long, Err(DecodeError::Length(4097))),
        ("KEEPALIVE is never long", &header(4097, 4), &long, Err(DecodeError::Length(4097))),
        ("KEEPALIVE with a body", &header(20, 4), &INTERNAL, Err(DecodeError::Length(20))),
        ("shortest OPEN", &header(29, 1), &INTERNAL, Ok(None)),
        ("short OPEN", &header(28, 1), &INTERNAL, Err(DecodeError::Length(28))),
        ("short UPDATE", &header(22, 2), &INTERNAL, Err(DecodeError::Length(22))),
        ("short NOTIFICATION", &header(20, 3), &INTERNAL, Err(DecodeError::Length(20))),
        ("shortest NOTIFICATION", &header(21, 3), &INTERNAL, Ok(None)),
        ("ROUTE-REFRESH has its own error for this", &header(22, 5), &INTERNAL, Ok(None)),
        ("type 0", &header(19, 0), &INTERNAL, Err(DecodeError::Kind(0))),
        ("type 6", &header(19, 6), &INTERNAL, Err(DecodeError::Kind(6))),
        ("length comes before type", &header(7, 6), &INTERNAL, Err(DecodeError::Length(7))),
    ];
    for (why, bytes, codec, wanted) in cases {
        assert_eq!(frame(bytes, codec), wanted, "{why}");
    }
}

#[test]
fn decode_wants_exactly_one_message() {
    let keepalive = message(4, &[]);
    assert_eq!(decode(&keepalive, &INTERNAL), Ok(Message::Keepalive));
    assert_eq!(decode(&keepalive[..18], &INTERNAL), Err(DecodeError::Length(18)));
    assert_eq!(decode(&[&keepalive[..], &[0xff]].concat(), &INTERNAL), Err(DecodeError::Length(20)));
    assert_eq!(decode(&[], &INTERNAL), Err(DecodeError::Length(0)));
}

#[test]
fn route_refresh() {
    let ignored = |bytes: &[u8], codec: &Codec| matches!(decode(bytes, codec), Ok(Message::Ignored(_)));
    assert!(ignored(&message(5, &[0, 1, 3, 1]), &INTERNAL), "unknown subtype (RFC 7313 §5)");
    assert!(ignored(&message(5, &[0, 25, 0, 70]), &INTERNAL), "unknown family");
    assert!(ignored(&message(5, &[0, 2, 0, 1]), &Codec::INITIAL), "family not negotiated (RFC 2918 §4)");
    for body in [&[][..], &[0, 1, 0], &[0, 1, 0, 1, 0]] {
        let whole = message(5, body);
        let error = decode(&whole, &INTERNAL).unwrap_err().notification();
        assert_eq!((error.code, error.subcode, &error.data[..]), (7, 1, &whole[..]), "with the message (RFC 7313 §5)");
    }
    for family in Family::ALL {
        for kind in [RefreshKind::Request, RefreshKind::Begin, RefreshKind::End] {
            let refresh = Message::RouteRefresh(RouteRefresh { family, kind });
            let mut bytes = Vec::new();
            encode(&refresh, &INTERNAL, &mut bytes);
            assert_eq!(decode(&bytes, &INTERNAL), Ok(refresh));
        }
    }
    let begin = Message::RouteRefresh(RouteRefresh { family: Family::Ipv6, kind: RefreshKind::Begin });
    let mut bytes = Vec::new();
    encode(&begin, &INTERNAL, &mut bytes);
    assert_eq!(bytes, message(5, &[0, 2, 1, 1]));
}
