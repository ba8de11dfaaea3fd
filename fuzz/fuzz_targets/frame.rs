//! A stream of bytes, as a socket gives it: cut into messages, each of them read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave::bgp::message::Codec;
use wayleave::bgp::wire::{decode, frame};

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(Some(end)) = frame(rest, &Codec::INITIAL) {
        let (message, next) = rest.split_at(end);
        if let Err(error) = decode(message, &Codec::INITIAL) {
            let _ = error.notification().to_string();
        }
        rest = next;
    }
});
