//! A configuration file, its secrets absent: never a panic, whatever is in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave::config::{SecretError, parse};

fuzz_target!(|text: &str| {
    let _ = parse(text, &mut |_| Err(SecretError::Empty));
});
