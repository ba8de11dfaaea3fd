//! The body of an UPDATE, the first octet choosing the codec: what is announced reads the same once
//! written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave::bgp::message::{Codec, Message};
use wayleave::bgp::wire::{HEADER_LEN, decode, encode_reach};
use wayleave::net::PerFamily;

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else { return };
    let Ok(length) = u16::try_from(HEADER_LEN + body.len()) else { return };
    let codec = Codec {
        four_octet_as: choice & 1 != 0,
        extended_message: choice & 2 != 0,
        external: choice & 4 != 0,
        families: PerFamily::new(choice & 8 == 0, choice & 16 == 0),
    };
    let message = [&[0xff; 16], &length.to_be_bytes()[..], &[2], body].concat();
    let Ok(Message::Update(update)) = decode(&message, &codec) else { return };
    for reach in update.reach {
        let mut again = Vec::new();
        if encode_reach(&reach.attrs, &reach.prefixes, &codec, &mut again) == Ok(1) {
            let Ok(Message::Update(back)) = decode(&again, &codec) else { panic!("our own UPDATE is refused") };
            assert_eq!(back.reach, [reach]);
        }
    }
});
