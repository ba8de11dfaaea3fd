//! BFD Control packets: bytes ↔ values (RFC 5880 §4.1), and why one is discarded (§6.8.6).

use std::fmt;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

/// Length of a packet without authentication, the only kind that we send.
pub const LEN: usize = LENGTH as usize;

/// The same as the packet says it.
const LENGTH: u8 = 24;

/// Length of the shortest packet with authentication.
const LEN_AUTHENTICATED: usize = 26;

const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// State of a session (RFC 5880 §6.2).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum State {
    /// Held down on purpose; says nothing about the path
    AdminDown,
    /// No packets, or the other side hears none of ours
    #[default]
    Down,
    /// We hear the other side; it doesn't know yet
    Init,
    /// Packets get through both ways
    Up,
}

impl State {
    /// All states, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::AdminDown, Self::Down, Self::Init, Self::Up];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdminDown => "admindown",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        }
    }

    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a system changed its state last (RFC 5880 §4.1, Diag); any five bits.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Diagnostic(u8);

impl Diagnostic {
    /// Nothing to say.
    pub const NONE: Self = Self(0);
    /// No packet came within the detection time.
    pub const EXPIRED: Self = Self(1);
    /// The other side says that it is down.
    pub const NEIGHBOR_DOWN: Self = Self(3);
    /// Taken down on purpose.
    pub const ADMIN_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            other => return write!(f, "diagnostic {other}"),
        };
        f.write_str(words)
    }
}

/// A BFD Control packet. Intervals are whole microseconds, up to 71 minutes.
///
/// Required Min Echo RX Interval is not kept: we send 0 (no echo, please) and never echo.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "four flags of the packet")]
pub struct Packet {
    /// State of the sender
    pub state: State,
    /// Why it is in it
    pub diagnostic: Diagnostic,
    /// The receiver is to answer at once with Final
    pub poll: bool,
    /// The answer to a Poll
    pub is_final: bool,
    /// BFD of the sender outlives its control plane (C)
    pub independent: bool,
    /// The sender wants no periodic packets while both are Up (D)
    pub demand: bool,
    /// Intervals without a packet after which the sender counts as dead
    pub multiplier: NonZeroU8,
    /// The sender's name for the session
    pub my_discriminator: NonZeroU32,
    /// The receiver's name for it; 0: not known to the sender
    pub your_discriminator: u32,
    /// Least time between packets that the sender would like to send
    pub desired_min_tx: Duration,
    /// Least time between packets that it can take; zero: it takes none
    pub required_min_rx: Duration,
}

/// Why a packet is discarded (RFC 5880 §6.8.6, RFC 5881 §5).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Discard {
    /// Not version 1
    Version,
    /// Shorter than it may be, or than it says
    Length,
    /// Detection multiplier of zero
    Multiplier,
    /// The Multipoint bit
    Multipoint,
    /// The sender names no session of its own
    MyDiscriminator,
    /// It names no session of ours though its state says that it knows one
    YourDiscriminator,
    /// Authenticated; we have no keys
    Authenticated,
    /// No session of ours
    NoSession,
    /// From farther away than allowed (GTSM, RFC 5082)
    Ttl,
}

impl Discard {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 9] = [
        Self::Version,
        Self::Length,
        Self::Multiplier,
        Self::Multipoint,
        Self::MyDiscriminator,
        Self::YourDiscriminator,
        Self::Authenticated,
        Self::NoSession,
        Self::Ttl,
    ];

    /// A word for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Length => "length",
            Self::Multiplier => "multiplier",
            Self::Multipoint => "multipoint",
            Self::MyDiscriminator => "my_discriminator",
            Self::YourDiscriminator => "your_discriminator",
            Self::Authenticated => "authenticated",
            Self::NoSession => "no_session",
            Self::Ttl => "ttl",
        }
    }
}

impl Packet {
    /// Reads the payload of a datagram, with the checks of RFC 5880 §6.8.6 that need no session.
    pub fn decode(payload: &[u8]) -> Result<Self, Discard> {
        // What is behind the mandatory section can only be authentication, which we don't take.
        let Some(head) = payload.first_chunk::<LEN>() else { return Err(Discard::Length) };
        let [first, second, multiplier, length, words @ ..] = head;
        let word = |n: usize| words.as_chunks::<4>().0.get(n).map_or(0, |word| u32::from_be_bytes(*word));
        let has = |flag: u8| second & flag != 0;
        if first >> 5 != VERSION {
            return Err(Discard::Version);
        }
        let length = usize::from(*length);
        if length > payload.len() || length < if has(AUTHENTICATED) { LEN_AUTHENTICATED } else { LEN } {
            return Err(Discard::Length);
        }
        let multiplier = NonZeroU8::new(*multiplier).ok_or(Discard::Multiplier)?;
        if has(MULTIPOINT) {
            return Err(Discard::Multipoint);
        }
        let my_discriminator = NonZeroU32::new(word(0)).ok_or(Discard::MyDiscriminator)?;
        let (your_discriminator, state) = (word(1), State::from_bits(second >> 6));
        if your_discriminator == 0 && state > State::Down {
            return Err(Discard::YourDiscriminator);
        }
        if has(AUTHENTICATED) {
            return Err(Discard::Authenticated);
        }
        Ok(Self {
            state,
            diagnostic: Diagnostic(first & 0x1f),
            poll: has(POLL),
            is_final: has(FINAL),
            independent: has(INDEPENDENT),
            demand: has(DEMAND),
            multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: Duration::from_micros(word(2).into()),
            required_min_rx: Duration::from_micros(word(3).into()),
        })
    }

    /// The payload of a datagram.
    pub fn encode(&self) -> [u8; LEN] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let micros = |interval: Duration| u32::try_from(interval.as_micros()).unwrap_or(u32::MAX);
        let mut bytes = [0; LEN];
        let (head, words) = bytes.split_at_mut(4);
        head.copy_from_slice(&[
            VERSION << 5 | self.diagnostic.0,
            (self.state as u8) << 6
                | flag(self.poll, POLL)
                | flag(self.is_final, FINAL)
                | flag(self.independent, INDEPENDENT)
                | flag(self.demand, DEMAND),
            self.multiplier.get(),
            LENGTH,
        ]);
        let values = [
            self.my_discriminator.get(),
            self.your_discriminator,
            micros(self.desired_min_tx),
            micros(self.required_min_rx),
            0,
        ];
        for (word, value) in words.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *word = value.to_be_bytes();
        }
        bytes
    }
}
