//! What the kernel drops without a word, and whom it may be about.
//!
//! A segment with a wrong TCP-MD5 signature or too small a TTL is dropped where it arrives, and
//! nobody is told; the kernel only counts, for the whole host.

use super::{DialError, Found, Past};
use crate::bgp::session::State;
use crate::explain::Fact;
use crate::explain::words::{count, list};

/// Segments dropped on arrival: counters of `TcpExt` in `/proc/net/netstat`, or their growth.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Drops {
    /// A signature was expected and none there (`TCPMD5NotFound`)
    pub unsigned: u64,
    /// A signature was there and none expected (`TCPMD5Unexpected`)
    pub unexpected: u64,
    /// Signed with another key (`TCPMD5Failure`)
    pub other_key: u64,
    /// From too far away, by its TTL (`TCPMinTTLDrop`)
    pub ttl: u64,
}

impl Drops {
    /// What came since the counters stood at `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            unsigned: self.unsigned.saturating_sub(before.unsigned),
            unexpected: self.unexpected.saturating_sub(before.unexpected),
            other_key: self.other_key.saturating_sub(before.other_key),
            ttl: self.ttl.saturating_sub(before.ttl),
        }
    }
}

/// What is wrong, by the evidence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Suspicion {
    /// Both ends have a password, and not the same
    OtherPassword(u64),
    /// We have a password, it has none
    OnlyOurs(u64),
    /// It has a password, we have none
    OnlyTheirs(u64),
    /// Its packets come with too small a TTL
    TooFar(u64),
}

impl Found {
    /// What the drops say of this peer, as far as they can be about it.
    pub(super) fn suspicion(&self) -> Option<Suspicion> {
        let some = |count: u64| (count > 0).then_some(count);
        let Drops { unsigned, unexpected, other_key, ttl } = self.drops;
        let ttl = some(ttl).filter(|_| self.wanted.ttl_security.is_some()).map(Suspicion::TooFar);
        if self.wanted.password {
            let other = some(other_key).map(Suspicion::OtherPassword);
            other.or(some(unsigned).map(Suspicion::OnlyOurs)).or(ttl)
        } else {
            some(unexpected).map(Suspicion::OnlyTheirs).or(ttl)
        }
    }

    /// TCP gets nothing through, as far as we know: dials find silence, or are not made.
    pub(super) fn is_silent(&self) -> bool {
        let newest = self.dial.as_ref().is_none_or(|Past { what: (error, _), .. }| *error == DialError::Silence);
        newest && self.state <= State::OpenSent
    }

    pub(super) fn drops_words(&self) -> Option<Fact> {
        if self.state == State::Established {
            return None;
        }
        let Drops { unsigned, unexpected, other_key, ttl } = self.drops;
        let kinds = [
            (other_key, "signed with another TCP-MD5 key (TCPMD5Failure)"),
            (unsigned, "without the TCP-MD5 signature that we ask for (TCPMD5NotFound)"),
            (unexpected, "with a TCP-MD5 signature that we don't ask for (TCPMD5Unexpected)"),
            (ttl, "with too small a TTL (TCPMinTTLDrop)"),
        ];
        let found: Vec<String> = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if found.is_empty() {
            return None;
        }
        let others = match self.suspects.len() {
            0 => "; no other peer is down that this could be about".to_owned(),
            n => format!(
                "; the kernel doesn't say whose they were, and {} could be meant too: {}",
                count(n, "other peer that is down", "other peers that are down"),
                list(self.suspects.iter().take(5))
            ),
        };
        let text = format!("since it is down this host has dropped segments of some peer: {}{others}", list(found));
        Some(Fact { topic: "dropped", text, problem: self.suspicion().is_some() })
    }
}
