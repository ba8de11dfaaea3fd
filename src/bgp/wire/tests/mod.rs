//! Tests of the wire format: tables of bytes, round trips, another decoder's opinion.

mod header;
mod notification;
mod open;
mod oracle;
mod roundtrip;
mod rules;
mod update;

use super::{DecodeError, decode};
use crate::bgp::message::{Codec, Message, Update};
use crate::net::{PerFamily, Prefix};

/// A peer in our own AS, everything negotiated but long messages.
const INTERNAL: Codec =
    Codec { four_octet_as: true, extended_message: false, external: false, families: PerFamily::new(true, true) };

/// The same in another AS.
const EXTERNAL: Codec = Codec { external: true, ..INTERNAL };

/// A peer that knows AS numbers of two octets only.
const OLD: Codec = Codec { four_octet_as: false, ..INTERNAL };

/// Header and body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff; 16];
    out.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    out.push(kind);
    out.extend(body);
    out
}

/// One attribute: flags, type, value.
#[derive(Clone, Copy, Debug)]
struct Attr<'a>(u8, u8, &'a [u8]);

impl Attr<'_> {
    fn bytes(self) -> Vec<u8> {
        let Attr(flags, code, body) = self;
        let mut out = vec![flags, code];
        if flags & 0x10 == 0 {
            out.push(u8::try_from(body.len()).unwrap());
        } else {
            out.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        }
        out.extend(body);
        out
    }
}

const ORIGIN: Attr = Attr(0x40, 1, &[0]);
const AS_PATH: Attr = Attr(0x40, 2, &[2, 1, 0, 0, 0xfd, 0xe9]);
const NEXT_HOP: Attr = Attr(0x40, 3, &[192, 0, 2, 1]);
/// 10.244.7.0/24
const NLRI: &[u8] = &[24, 10, 244, 7];

fn update_of(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(withdrawn.len()).unwrap().to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    message(2, &body)
}

fn update(withdrawn: &[u8], attributes: &[Attr], nlri: &[u8]) -> Vec<u8> {
    update_of(withdrawn, &attributes.iter().flat_map(|attr| attr.bytes()).collect::<Vec<_>>(), nlri)
}

fn decoded(bytes: &[u8], codec: Codec) -> Result<Update, DecodeError> {
    match decode(bytes, &codec)? {
        Message::Update(update) => Ok(update),
        other => panic!("{other:?}"),
    }
}

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}
