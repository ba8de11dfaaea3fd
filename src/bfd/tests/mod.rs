//! Sessions on a virtual clock: alone with packets made by hand, and in pairs over a bad link.

mod pair;
mod rules;
mod wire;

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use super::{Diagnostic, Packet, Settings, State};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn settings(interval: u64, multiplier: u8) -> Settings {
    Settings { interval: ms(interval), multiplier: NonZeroU8::new(multiplier).unwrap(), admin_down: false }
}

fn discriminator(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

/// What a peer called 9 sends to our session 7.
fn packet(state: State) -> Packet {
    Packet {
        state,
        diagnostic: Diagnostic::NONE,
        poll: false,
        is_final: false,
        independent: false,
        demand: false,
        multiplier: NonZeroU8::new(3).unwrap(),
        my_discriminator: discriminator(9),
        your_discriminator: if state > State::Down { 7 } else { 0 },
        desired_min_tx: ms(100),
        required_min_rx: ms(100),
    }
}
