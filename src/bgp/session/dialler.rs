//! Our own attempts to connect: a dial under way, or the pause before the next.

use std::time::Instant;

use super::event::State;

/// What we do to connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialler {
    /// Nothing: connected, passive, or not to connect at all
    Off,
    /// The next dial comes at `until`
    Paused {
        /// End of the pause
        until: Instant,
        /// The pause is for an error, not the usual one between dials
        after_error: bool,
    },
    /// A dial is under way
    Dialling {
        /// When to give it up and dial again
        until: Instant,
    },
}

impl Dialler {
    /// A dial is under way.
    pub const fn is_dialling(self) -> bool {
        matches!(self, Self::Dialling { .. })
    }

    /// The state of a session that has no connection.
    pub const fn state(self) -> State {
        match self {
            Self::Paused { after_error: true, .. } => State::Idle,
            Self::Dialling { .. } => State::Connect,
            Self::Paused { .. } | Self::Off => State::Active,
        }
    }

    /// When the next dial is due.
    pub const fn deadline(self) -> Option<Instant> {
        match self {
            Self::Off => None,
            Self::Paused { until, .. } | Self::Dialling { until } => Some(until),
        }
    }

    /// No dial, and none to come.
    pub const fn stop(&mut self) {
        *self = Self::Off;
    }

    /// A dial until `until`.
    pub const fn dial(&mut self, until: Instant) {
        *self = Self::Dialling { until };
    }

    /// A dial at `until`, unless one is under way or due anyway: a peer that keeps connecting and
    /// failing must not put ours off for ever.
    pub const fn pause(&mut self, until: Instant, error: bool) {
        match self {
            Self::Off => *self = Self::Paused { until, after_error: error },
            Self::Paused { after_error, .. } => *after_error |= error,
            Self::Dialling { .. } => {}
        }
    }
}
