//! The first synchronisation: when routes may be written, when the node is ready, when what a
//! former run left may go.
//!
//! A peer is *settled* once nothing more is to be expected of it soon: its End-of-RIB came, or it
//! turned out to be dead, or it went quiet and has no End-of-RIB, or holds it back because it waits
//! for ours (it has restarted itself: R bit, RFC 4724 §4.1). Time limits bound all of it: a dead
//! peer blocks nothing. What a former run left is swept only when every peer has told its end, or at
//! the limit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::bgp::rib::PeerId;
use crate::net::{Family, PerFamily};

/// After this the node counts as ready whatever its peers do.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long a session is waited for that neither comes up nor fails: the peer doesn't dial, or it
/// accepts and says nothing.
const UP_LIMIT: Duration = Duration::from_secs(10);
/// A peer whose End-of-RIB may never come counts as done when it sent nothing for so long.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Peer {
    /// No session yet; given up at the instant
    Waiting(Instant),
    /// Established, these families still owe their End-of-RIB. It is not waited for beyond the
    /// instant, if there is one
    Loading(PerFamily<bool>, Option<Instant>),
    /// Dead as far as we know
    Dead,
    /// Done
    Done,
}

/// Progress of the first synchronisation.
#[derive(Debug)]
pub struct Sync {
    peers: BTreeMap<PeerId, Peer>,
    /// Not all configured peers have been added yet
    gathering: bool,
    limit: Instant,
    ready: Option<&'static str>,
    swept: bool,
}

/// What has just been reached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reached {
    /// The node is ready from now on
    pub ready: bool,
    /// What a former run left and nobody announced again goes now
    pub sweep: bool,
}

impl Sync {
    /// Begins at `now`; nothing is settled before [`gathered`](Self::gathered).
    pub fn new(now: Instant) -> Self {
        Self { peers: BTreeMap::new(), gathering: true, limit: now + READY_LIMIT, ready: None, swept: false }
    }

    /// A peer is configured. One that is accepted from a range is not waited for.
    pub fn add(&mut self, id: PeerId, now: Instant, dynamic: bool) {
        self.peers.insert(id, if dynamic { Peer::Dead } else { Peer::Waiting(now + UP_LIMIT) });
    }

    /// Every peer of the configuration has been added.
    pub fn gathered(&mut self) {
        self.gathering = false;
    }

    /// A peer is no longer configured.
    pub fn remove(&mut self, id: PeerId) {
        self.peers.remove(&id);
    }

    /// A connection attempt failed, or a connection ended before the session was up.
    pub fn attempted(&mut self, id: PeerId) {
        if let Some(peer @ Peer::Waiting(_)) = self.peers.get_mut(&id) {
            *peer = Peer::Dead;
        }
    }

    /// A session came up. `end_of_rib`: it will tell the end of its first routes (RFC 4724 §4);
    /// `restarted`: it has restarted too and may wait for our End-of-RIB before it tells its own.
    pub fn up(&mut self, id: PeerId, now: Instant, families: PerFamily<bool>, end_of_rib: bool, restarted: bool) {
        let quiet = (restarted || !end_of_rib).then(|| now + QUIET);
        self.peers.insert(id, Peer::Loading(families, quiet));
    }

    /// A session went down.
    pub fn down(&mut self, id: PeerId) {
        self.peers.insert(id, Peer::Dead);
    }

    /// Routes came.
    pub fn heard(&mut self, id: PeerId, now: Instant) {
        if let Some(Peer::Loading(_, Some(until))) = self.peers.get_mut(&id) {
            *until = now + QUIET;
        }
    }

    /// The End-of-RIB of a family came.
    pub fn end_of_rib(&mut self, id: PeerId, family: Family) {
        if let Some(peer) = self.peers.get_mut(&id)
            && let Peer::Loading(owed, _) = peer
        {
            owed[family] = false;
            if !owed.iter().any(|(_, owed)| *owed) {
                *peer = Peer::Done;
            }
        }
    }

    /// Whether nothing more is to be expected soon: what was learned may replace what a former run
    /// left in the kernel.
    pub fn is_settled(&self, now: Instant) -> bool {
        now >= self.limit || (!self.gathering && self.peers.values().all(|peer| !is_open(*peer, now)))
    }

    /// Whether the node is ready.
    pub fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// What the node waits for or came from, in words.
    pub fn reason(&self, now: Instant) -> String {
        match self.ready {
            Some(how) => how.to_owned(),
            None if self.is_settled(now) => "routes are being written to the kernel".to_owned(),
            None => {
                let open = self.peers.values().filter(|peer| is_open(**peer, now)).count();
                format!("waiting for the first routes of {open} peer{}", if open == 1 { "" } else { "s" })
            }
        }
    }

    /// Moves on; `written`: all that is wanted is in the kernel, or was refused by it.
    pub fn advance(&mut self, now: Instant, written: bool) -> Reached {
        let mut reached = Reached::default();
        if self.ready.is_none() && ((self.is_settled(now) && written) || now >= self.limit) {
            reached.ready = true;
            let all = self.peers.values().all(|peer| *peer == Peer::Done);
            self.ready = Some(match (now >= self.limit, all) {
                (true, _) => "the time limit for the first synchronisation has passed",
                (false, true) => "first routes of all peers are in the kernel",
                (false, false) => "first routes of all peers that are up are in the kernel",
            });
        }
        // What belonged to a dead peer may be all that its destinations have: it stays for the
        // whole limit, in case the peer comes back. Nor may anything go that was announced again, but
        // is not decided yet.
        let complete = self.peers.values().all(|peer| *peer == Peer::Done);
        if !self.swept && self.ready.is_some() && written && (complete || now >= self.limit) {
            self.swept = true;
            reached.sweep = true;
        }
        reached
    }

    /// When to ask again though nothing happened.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let ends = self.peers.values().filter_map(|peer| match peer {
            Peer::Waiting(until) | Peer::Loading(_, Some(until)) => Some(*until),
            Peer::Loading(_, None) | Peer::Dead | Peer::Done => None,
        });
        (!self.swept).then(|| ends.chain([self.limit]).filter(|at| *at > now).min()).flatten()
    }
}

fn is_open(peer: Peer, now: Instant) -> bool {
    match peer {
        Peer::Waiting(until) | Peer::Loading(_, Some(until)) => now < until,
        Peer::Loading(_, None) => true,
        Peer::Dead | Peer::Done => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId(1);
    const B: PeerId = PeerId(2);
    const V4: PerFamily<bool> = PerFamily::new(true, false);

    type Prepare = fn(&mut Sync, Instant);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn ready_when_all_have_told_their_end() {
        let start = Instant::now();
        let mut sync = Sync::new(start);
        sync.add(A, start, false);
        sync.add(B, start, false);
        sync.gathered();
        sync.up(A, start, V4, true, false);
        sync.up(B, start, PerFamily::new(true, true), true, false);
        sync.end_of_rib(A, Family::Ipv4);
        sync.end_of_rib(B, Family::Ipv4);
        assert!(!sync.is_settled(start), "B owes IPv6");
        sync.end_of_rib(B, Family::Ipv6);
        assert_eq!(sync.advance(start, false), Reached::default(), "not in the kernel yet");
        assert_eq!(sync.advance(start, true), Reached { ready: true, sweep: true });
        assert_eq!(sync.advance(start, true), Reached::default(), "told once");
        assert_eq!(sync.next_deadline(start), None);
    }

    #[test]
    fn a_dead_peer_delays_nothing_but_the_sweep() {
        let start = Instant::now();
        let mut sync = Sync::new(start);
        sync.add(A, start, false);
        sync.add(B, start, false);
        sync.gathered();
        sync.up(A, start, V4, true, false);
        sync.end_of_rib(A, Family::Ipv4);
        assert!(!sync.is_settled(start));
        sync.attempted(B);
        assert_eq!(sync.advance(start, true), Reached { ready: true, sweep: false });
        assert_eq!(sync.advance(start + seconds(29), true), Reached::default());
        assert_eq!(sync.advance(start + seconds(30), true), Reached { ready: false, sweep: true });
    }

    #[test]
    fn nobody_waits_for_ever() {
        let start = Instant::now();
        let cases: [(&str, Prepare, u64); 6] = [
            ("no peers at all", |_, _| {}, 0),
            ("a peer that accepts us and is mute, or never comes", |sync, now| sync.add(A, now, false), 10),
            ("a peer of a range", |sync, now| sync.add(A, now, true), 0),
            ("a peer that restarts and is empty", |sync, now| sync.up(A, now, V4, true, true), 2),
            ("a peer that never tells its end", |sync, now| sync.up(A, now, V4, true, false), 30),
            ("a peer that knows no end", |sync, now| sync.up(A, now, V4, false, false), 2),
        ];
        for (why, prepare, limit) in cases {
            let mut sync = Sync::new(start);
            assert!(!sync.is_settled(start), "{why}: its peers are not all known");
            prepare(&mut sync, start);
            sync.gathered();
            if limit > 0 {
                let before = start + Duration::from_millis(limit * 1000 - 1);
                assert!(!sync.advance(before, true).ready, "{why}: too early");
                assert_eq!(sync.next_deadline(before), Some(start + seconds(limit)), "{why}");
            }
            assert!(sync.advance(start + seconds(limit), true).ready, "{why}");
        }
    }

    #[test]
    fn two_that_restart_together_lose_nothing_and_do_not_wait_for_each_other_for_ever() {
        let start = Instant::now();
        let mut sync = Sync::new(start);
        sync.add(A, start, false);
        sync.gathered();
        sync.up(A, start, V4, true, true);
        let first = start + seconds(1);
        sync.heard(A, first);
        assert!(!sync.is_settled(start + seconds(2)), "its routes are still coming");
        let quiet = first + QUIET;
        assert_eq!(sync.next_deadline(start + seconds(2)), Some(quiet));
        // We tell our end now; what it announced before the restart and not yet again must stay.
        assert_eq!(sync.advance(quiet, true), Reached { ready: true, sweep: false });
        sync.end_of_rib(A, Family::Ipv4);
        assert_eq!(sync.advance(quiet, false), Reached::default(), "what it announced is not in the kernel yet");
        assert_eq!(sync.advance(quiet, true), Reached { ready: false, sweep: true });
    }

    #[test]
    fn an_end_counts_also_where_none_was_promised() {
        let start = Instant::now();
        let mut sync = Sync::new(start);
        sync.add(A, start, false);
        sync.gathered();
        sync.up(A, start, V4, false, false);
        sync.end_of_rib(A, Family::Ipv4);
        assert_eq!(sync.advance(start, true), Reached { ready: true, sweep: true });
    }
}
