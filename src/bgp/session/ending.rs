//! How connections end: with which word, and what may be kept of the session.

use std::time::Instant;

use super::conn::Conn;
use super::{Action, Down, LastError, Reason, Session, Side};
use crate::bgp::message::{Message, Notification};
use crate::bgp::wire::Cease;
use crate::net::Family;

/// Code and subcode of what a peer says that knows no capabilities (RFC 5492 §3).
const UNSUPPORTED_PARAMETER: (u8, u8) = (2, 4);

impl Session {
    /// The peer's NOTIFICATION.
    pub(super) fn refused(&mut self, now: Instant, side: Side, notification: Notification, out: &mut Vec<Action>) {
        let refused_ours = (notification.code, notification.subcode) == UNSUPPORTED_PARAMETER
            && self.settings.families.contains(&Family::Ipv4)
            && self.conns[side].as_ref().is_some_and(|conn| !conn.is_up() && !conn.sent.capabilities.is_empty());
        self.lose(now, side, Reason::Received(notification), out);
        self.plain |= refused_ours;
    }

    pub(super) fn fail_established(&mut self, now: Instant, notification: Notification, out: &mut Vec<Action>) {
        let established = self.conns.iter().find(|(_, conn)| conn.as_ref().is_some_and(Conn::is_up));
        if let Some((side, _)) = established {
            self.fail(now, side, notification, out);
        }
    }

    pub(super) fn fail(&mut self, now: Instant, side: Side, notification: Notification, out: &mut Vec<Action>) {
        self.lose(now, side, Reason::Sent(notification), out);
    }

    /// A connection ends by an error; the pause grows if it was the only one.
    pub(super) fn lose(&mut self, now: Instant, side: Side, reason: Reason, out: &mut Vec<Action>) {
        let Some(conn) = self.hang_up(now, side, &reason, out) else { return };
        let last = self.conns.iter().all(|(_, conn)| conn.is_none());
        if conn.is_up() {
            self.note_loss(now, reason);
        } else if last {
            self.last_error = Some(LastError { at: now, reason });
        }
        if last {
            self.failures = self.failures.saturating_add(1);
        }
        self.pause(now, if last { self.failures } else { 0 });
    }

    /// A connection ends because another is better; that is no error.
    pub(super) fn yield_to_other(&mut self, now: Instant, side: Side, out: &mut Vec<Action>) {
        self.hang_up(now, side, &Reason::Sent(Notification::cease(Cease::Collision)), out);
        self.pause(now, 0);
    }

    pub(super) fn note_loss(&mut self, now: Instant, reason: Reason) {
        self.counters.flaps += 1;
        self.last_error = Some(LastError { at: now, reason });
    }

    /// Closes a connection with a last word if there is one to say.
    pub(super) fn hang_up(&mut self, now: Instant, side: Side, reason: &Reason, out: &mut Vec<Action>) -> Option<Conn> {
        let conn = self.conns[side].take()?;
        let agreed = conn.established();
        let keeps = agreed.is_some_and(|agreed| agreed.notification_restart);
        let said = match reason {
            Reason::Sent(said) if keeps => Some(harden(said.clone())),
            other => other.notification().cloned(),
        };
        // RFC 4724 §4.2: a NOTIFICATION ends graceful restart; RFC 8538 §4: not if both agreed so.
        let graceful = agreed.is_some_and(|agreed| agreed.peer_preserves())
            && said.as_ref().is_none_or(|said| keeps && !said.is_hard_reset());
        if let (Reason::Sent(_), Some(said)) = (reason, said) {
            out.push(Action::Send(side, Message::Notification(said)));
        }
        if *reason != Reason::Disconnected {
            out.push(Action::Close(side));
        }
        if conn.is_up() {
            out.push(Action::Down(Down { reason: reason.clone(), graceful }));
        }
        if conn.was_stable(now) {
            self.failures = 0;
        }
        // The next one offers capabilities again: the peer may be another by then.
        self.plain &= !conn.sent.capabilities.is_empty();
        Some(conn)
    }
}

/// Closes a connection that is not to be one of ours.
pub(super) fn refuse(side: Side, why: Cease, out: &mut Vec<Action>) {
    out.push(Action::Send(side, Message::Notification(Notification::cease(why))));
    out.push(Action::Close(side));
}

/// As it is sent to a peer that keeps routes across NOTIFICATION: Cease/1 to 4 mean a lasting or a
/// wanted end and go as Hard Reset (RFC 8538 §5.1). So does BFD Down (RFC 9384): over a dead path no
/// route is worth keeping.
fn harden(notification: Notification) -> Notification {
    let lasting = [Cease::MaxPrefixes, Cease::Shutdown, Cease::Deconfigured, Cease::Reset, Cease::BfdDown];
    if lasting.iter().any(|why| notification.is_cease(*why)) {
        return Notification::hard_reset(&notification);
    }
    notification
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_reset_carries_what_it_stands_for() {
        let hard = harden(Notification::shutdown("bye"));
        assert_eq!((hard.code, hard.subcode, &*hard.data), (6, 9, &b"\x06\x02\x03bye"[..]));
        assert!(harden(Notification::cease(Cease::BfdDown)).is_hard_reset());
        let collision = Notification::cease(Cease::Collision);
        assert_eq!(harden(collision.clone()), collision);
    }
}
