//! What the journal is told of a session: what an operator wants to read once, not every retry.

use crate::bgp::message::AttrFault;
use crate::bgp::session::{Down, Negotiated, Reason};
use crate::daemon::journal::Named;
use crate::view::EventKind;

/// Reasons and faults that are remembered as told; more than one peer ever has.
const REMEMBERED: usize = 16;

/// What was told of a peer.
#[derive(Debug)]
pub(super) struct News {
    journal: Named,
    /// Why there is no session, as far as it was told since the last one
    failures: Vec<String>,
    /// Malformed attributes told of in this session: code, and what was done
    faults: Vec<(u8, &'static str)>,
}

impl News {
    pub(super) const fn new(journal: Named) -> Self {
        Self { journal, failures: Vec::new(), faults: Vec::new() }
    }

    /// A session came up.
    pub(super) fn established(&mut self, remote: std::net::IpAddr, negotiated: &Negotiated) {
        self.failures.clear();
        self.faults.clear();
        let Negotiated { peer_asn, hold_time, .. } = negotiated;
        let what = format!("session established with {remote} (AS {}), hold time {hold_time} s", peer_asn.0);
        self.journal.note(EventKind::Session, what, None);
    }

    /// An established session ended.
    pub(super) fn lost(&mut self, down: &Down) {
        let kept = if down.graceful { ", its routes are kept for a while" } else { "" };
        // The session's own last error says the same once more.
        self.failures.push(down.reason.to_string());
        self.journal.note(EventKind::Session, format!("session lost{kept}"), Some(cause(&down.reason)));
    }

    /// There is no session, for this reason, which may be an old one.
    pub(super) fn failed(&mut self, error: &str) {
        if self.failures.iter().any(|told| told == error) || self.failures.len() == REMEMBERED {
            return;
        }
        self.failures.push(error.to_owned());
        self.journal.note(EventKind::Session, "no session", Some(error.to_owned()));
    }

    /// An attribute was malformed (RFC 7606).
    pub(super) fn malformed(&mut self, fault: &AttrFault, outcome: &'static str) {
        let key = (fault.code, outcome);
        if self.faults.contains(&key) || self.faults.len() == REMEMBERED {
            return;
        }
        self.faults.push(key);
        let what = format!("sends a malformed attribute {}, {outcome}; told once a session", fault.code);
        self.journal.note(EventKind::Session, what, Some(fault.what.to_owned()));
    }
}

/// Who ended a session, and with which word.
fn cause(reason: &Reason) -> String {
    match reason {
        Reason::Sent(notification) => format!("we ended it: {notification}"),
        Reason::Received(notification) => format!("the peer ended it: {notification}"),
        other => other.to_string(),
    }
}
