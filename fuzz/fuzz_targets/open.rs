//! The body of an OPEN: what is understood reads the same once written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave::bgp::message::{Codec, Message};
use wayleave::bgp::wire::{HEADER_LEN, decode, encode};

fuzz_target!(|body: &[u8]| {
    let Ok(length) = u16::try_from(HEADER_LEN + body.len()) else { return };
    let message = [&[0xff; 16], &length.to_be_bytes()[..], &[1], body].concat();
    let Ok(open @ Message::Open(_)) = decode(&message, &Codec::INITIAL) else { return };
    let mut again = Vec::new();
    encode(&open, &Codec::INITIAL, &mut again);
    assert_eq!(decode(&again, &Codec::INITIAL), Ok(open));
});
