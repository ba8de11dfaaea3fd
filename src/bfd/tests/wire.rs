//! Packets as bytes.

use proptest::prelude::*;

use super::{discriminator, packet};
use crate::bfd::{Discard, LEN, Packet, State};

#[test]
fn bytes_are_those_of_the_rfc() {
    let mut up = packet(State::Up);
    up.poll = true;
    up.your_discriminator = 0x0102_0304;
    let bytes = up.encode();
    #[rustfmt::skip]
    let wanted = [
        0x20, 0xe0, 3, 24,
        0, 0, 0, 9,
        1, 2, 3, 4,
        0, 0x01, 0x86, 0xa0, // 100,000 µs
        0, 0x01, 0x86, 0xa0,
        0, 0, 0, 0, // no echo
    ];
    assert_eq!(bytes, wanted);
    assert_eq!(Packet::decode(&bytes), Ok(up));
}

#[test]
fn what_the_rfc_discards() {
    type Spoil = fn(&mut Vec<u8>);
    let cases: [(&str, Spoil, Discard); 13] = [
        ("version 0", |b| b[0] = 0x00, Discard::Version),
        ("version 2", |b| b[0] = 0x40, Discard::Version),
        ("nothing at all", Vec::clear, Discard::Length),
        ("an octet too few", |b| b.truncate(LEN - 1), Discard::Length),
        ("says that it is shorter", |b| b[3] = 23, Discard::Length),
        ("says that it is longer than it is", |b| b[3] = 25, Discard::Length),
        (
            "authenticated, without room for it",
            |b| {
                b[1] |= 0x04;
                b.extend([0; 4]);
            },
            Discard::Length,
        ),
        ("no multiplier", |b| b[2] = 0, Discard::Multiplier),
        ("multipoint", |b| b[1] |= 0x01, Discard::Multipoint),
        ("no discriminator of its own", |b| b[4..8].fill(0), Discard::MyDiscriminator),
        ("Up without knowing us", |b| b[8..12].fill(0), Discard::YourDiscriminator),
        (
            "Init without knowing us",
            |b| {
                b[1] = 0x80;
                b[8..12].fill(0);
            },
            Discard::YourDiscriminator,
        ),
        (
            "authenticated",
            |b| {
                b[1] |= 0x04;
                b[3] = 33;
                b.extend([1, 9, 1, b'p', b'a', b's', b's', b'w', b'd']);
            },
            Discard::Authenticated,
        ),
    ];
    for (why, spoil, wanted) in cases {
        let mut bytes = packet(State::Up).encode().to_vec();
        spoil(&mut bytes);
        assert_eq!(Packet::decode(&bytes), Err(wanted), "{why}");
    }
    // What is behind the packet in the datagram is not of it.
    let mut bytes = packet(State::Down).encode().to_vec();
    bytes.extend([7; 100]);
    assert_eq!(Packet::decode(&bytes), Ok(packet(State::Down)));
}

#[test]
fn every_reason_has_its_place_and_word() {
    for (i, reason) in Discard::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, i);
        assert!(reason.label().chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{reason:?}");
    }
}

proptest! {
    #[test]
    fn what_is_read_can_be_said_again(mut bytes in prop::collection::vec(any::<u8>(), 0..40), plain in any::<bool>()) {
        if plain && bytes.len() >= LEN {
            bytes[0] = 0x20 | bytes[0] & 0x1f;
            bytes[1] &= !0x05;
            bytes[3] = 24;
        }
        if let Ok(read) = Packet::decode(&bytes) {
            prop_assert_eq!(Packet::decode(&read.encode()), Ok(read));
            // Echo is ours to refuse; the rest is as it came.
            prop_assert_eq!(&read.encode()[4..20], &bytes[4..20]);
        }
    }

    #[test]
    fn what_is_sent_is_accepted(micros: u32, theirs in 1_u32.., ours: u32) {
        let mut sent = packet(State::Down);
        sent.desired_min_tx = std::time::Duration::from_micros(micros.into());
        (sent.my_discriminator, sent.your_discriminator) = (discriminator(theirs), ours);
        prop_assert_eq!(Packet::decode(&sent.encode()), Ok(sent));
    }
}
