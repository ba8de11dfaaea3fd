//! Two connections to one peer: which one lives (RFC 4271 §6.8).
//!
//! The *better* one is that which the side with the higher identifier dialled. By the letter of the
//! RFC each end closes the other when it has seen both OPENs, unless one is Established already; but
//! an end is Established a flight of a KEEPALIVE before the other, so each can close what the other
//! keeps, and both are gone. Here nothing is done that the other end could contradict:
//!
//! - While a better connection waits for its OPEN, that of the other is not answered with a
//!   KEEPALIVE: what is not answered can't be Established at the other end, and may be closed.
//! - What is answered is not closed for a better one before that is complete. If the other end
//!   prefers the answered one it closes the better one itself.
//! - No dial is left open when an OPEN is answered, so no better connection can appear after it.
//!
//! Deviation: the lower side keeps the connection that it dialled and answered until the better one
//! is Established, where the RFC closes it at the second OPEN.

use std::time::Instant;

use super::conn::Phase;
use super::{Action, Negotiated, Reason, Session, Side, State};
use crate::bgp::message::{Message, Notification};
use crate::bgp::wire::Cease;

impl Session {
    /// Closes what has to go now that `side` has the peer's OPEN too.
    pub(super) fn collide(&mut self, now: Instant, side: Side, agreed: &Negotiated, out: &mut Vec<Action>) {
        let confirmed = |other: &Side| {
            let conn = self.conns[*other].as_ref();
            *other != side && conn.is_some_and(|conn| conn.state() == State::OpenConfirm)
        };
        let Some(rival) = Side::ALL.into_iter().find(confirmed) else { return };
        let loser = if self.is_better(side, agreed) { rival } else { side };
        if self.conns[loser].as_ref().is_some_and(|conn| !conn.is_answered()) {
            self.yield_to_other(now, loser, out);
        }
    }

    /// Whether the higher of both identifiers dialled this side.
    fn is_better(&self, side: Side, agreed: &Negotiated) -> bool {
        // RFC 6286 §2.3: equal identifiers are told apart by AS.
        let ours = (self.settings.router_id, self.settings.local_asn.0);
        let outgoing_is_better = ours > (agreed.peer_router_id, agreed.peer_asn.0);
        outgoing_is_better == (side == Side::Outgoing)
    }

    /// A better connection that is not complete yet, for one that has the peer's OPEN.
    fn better_rival(&self, side: Side) -> Option<Side> {
        let Phase::OpenConfirm { agreed, .. } = &self.conns[side].as_ref()?.phase else { return None };
        if self.is_better(side, agreed) {
            return None;
        }
        Side::ALL.into_iter().find(|other| {
            let dialled_by_other = (*other == Side::Outgoing) != (side == Side::Outgoing);
            dialled_by_other && self.conns[*other].as_ref().is_some_and(|conn| !conn.is_up())
        })
    }

    /// Answers and completes what waits for no better connection any more.
    pub(super) fn proceed(&mut self, now: Instant, out: &mut Vec<Action>) {
        for side in Side::ALL {
            if self.better_rival(side).is_some() {
                continue;
            }
            let Some(conn) = &mut self.conns[side] else { continue };
            let Phase::OpenConfirm { answered, accepted, .. } = &mut conn.phase else { continue };
            let complete = *accepted;
            if !std::mem::replace(answered, true) {
                conn.note_keepalive(now, &mut self.jitter);
                out.push(Action::Send(side, Message::Keepalive));
            }
            if complete {
                self.establish(now, side, out);
            }
        }
    }

    /// A keepalive is due: a better connection has had its time. One that waits for nothing else
    /// goes on without it.
    pub(super) fn lose_patience(&mut self, now: Instant, side: Side, out: &mut Vec<Action>) {
        let Some(rival) = self.better_rival(side) else { return };
        let held =
            |phase: &Phase| matches!(phase, Phase::OpenConfirm { answered, accepted, .. } if *accepted || !answered);
        if self.conns[side].as_ref().is_some_and(|conn| held(&conn.phase)) {
            self.yield_to_other(now, rival, out);
        }
    }

    /// Both accepted each other's OPEN.
    pub(super) fn establish(&mut self, now: Instant, side: Side, out: &mut Vec<Action>) {
        for other in Side::ALL.into_iter().filter(|other| *other != side) {
            // RFC 4724 §4.2: a peer that came back has lost the old one; nothing is sent on it.
            let reason = match self.conns[other].as_ref().map(super::Conn::state) {
                Some(State::Established) => Reason::Replaced,
                _ => Reason::Sent(Notification::cease(Cease::Collision)),
            };
            if self.hang_up(now, other, &reason, out).is_some_and(|conn| conn.is_up()) {
                self.note_loss(now, reason);
            }
        }
        self.stop_dialling(out);
        if let Some(agreed) =
            self.conns[side].as_mut().and_then(|conn| conn.establish(now, self.settings.send_hold_time))
        {
            self.counters.established += 1;
            self.seen = (State::Established, Some(now)); // Anew, also where it replaces another.
            out.push(Action::Up(side, agreed));
        }
    }
}
