//! What the journal is told of routes: each one while few change, a number when many do.
//!
//! The first changes of a batch are looked at closely: what the kernel was told before and is told now, and why. Once
//! there are too many of them, or were lately, no route is looked at any more: they are counted by who
//! had them and who has them, until it is quiet again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Routing, next_hop};
use crate::bgp::rib::{Change, PeerId, Selected, Verdict};
use crate::daemon::journal::{Journal, Note};
use crate::forward::{NextHop, Way};
use crate::net::Prefix;
use crate::view::EventKind;

/// Routes told of one by one, in a batch and in a [`WINDOW`].
const FEW: usize = 64;
/// In this time; a flood that goes on is told of as often.
const WINDOW: Duration = Duration::from_secs(10);
/// A flood is over when nothing has changed for so long.
const QUIET: Duration = Duration::from_secs(1);
/// Ways from one peer to another that are counted apart.
const APART: usize = 32;
/// Next hops told of one by one.
const NEXT_HOPS: usize = 16;

/// Whose the best path was, and whose it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Move {
    from: Option<PeerId>,
    to: Option<PeerId>,
}

/// Changes by whose path went and whose came.
#[derive(Debug, Default)]
struct Tally {
    /// With how many there were, and whether the former peer's session was down
    moves: SmallVec<[(Move, usize, bool); 2]>,
    /// Found last: routes come in runs
    last: usize,
    count: usize,
}

impl Tally {
    fn add(&mut self, of: Move, count: usize, is_down: impl FnOnce() -> bool) {
        self.count += count;
        let at = match self.moves.get(self.last) {
            Some((known, ..)) if *known == of => Some(self.last),
            _ => self.moves.iter().position(|(known, ..)| *known == of),
        };
        self.last = at.unwrap_or_else(|| {
            if self.moves.len() < APART {
                self.moves.push((of, 0, is_down()));
            }
            self.moves.len() - 1
        });
        if let Some((_, total, _)) = self.moves.get_mut(self.last) {
            *total += count;
        }
    }
}

/// Many changes.
#[derive(Debug)]
struct Flood {
    since: Instant,
    last: Instant,
    tally: Tally,
}

impl Flood {
    fn end(&self) -> Instant {
        (self.last + QUIET).min(self.since + WINDOW)
    }
}

/// What is to be told.
#[derive(Debug)]
pub(super) struct News {
    journal: Journal,
    /// Of this batch, as far as it was looked at closely
    few: Vec<Note>,
    batch: Tally,
    /// Since when `spent` counts
    window: Instant,
    /// Routes and next hops told of one by one
    spent: usize,
    flood: Option<Flood>,
    /// Next hops that are reached otherwise and were not told of
    turned: usize,
    /// Not before then several are told of in one
    turned_after: Instant,
    /// Names of peers that are gone while their routes still go
    departed: BTreeMap<PeerId, String>,
}

impl News {
    pub(super) fn new(journal: Journal, now: Instant) -> Self {
        Self {
            journal,
            few: Vec::new(),
            batch: Tally::default(),
            window: now,
            spent: 0,
            flood: None,
            turned: 0,
            turned_after: now,
            departed: BTreeMap::new(),
        }
    }

    pub(super) const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// When a flood is told of; none: there is none.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let turned = (self.turned > 0).then_some(self.turned_after);
        self.flood.as_ref().map(Flood::end).into_iter().chain(turned).min()
    }

    /// So many more next hops are reached otherwise: of how many is to be told in one, which may be none for
    /// now; `None`: each is told of by itself.
    fn turn(&mut self, more: usize, now: Instant) -> Option<usize> {
        if self.turned == 0 && more <= NEXT_HOPS && self.spent + more <= FEW {
            self.spent += more;
            return None;
        }
        self.turned += more;
        if now < self.turned_after {
            return Some(0);
        }
        self.turned_after = now + WINDOW;
        Some(std::mem::take(&mut self.turned))
    }

    /// Whether the next change is looked at closely.
    fn looks_closely(&self) -> bool {
        self.flood.is_none() && self.batch.count < FEW
    }

    /// A peer is removed; its routes go later.
    pub(super) fn departs(&mut self, id: PeerId, name: &str) {
        self.departed.insert(id, name.to_owned());
    }
}

impl Routing {
    /// The ways of a route that is about to change, if anybody wants to know.
    pub(super) fn ways_before(&self, prefix: Prefix) -> Option<SmallVec<[Way; 4]>> {
        self.news.looks_closely().then(|| self.forwarder.ways(prefix))
    }

    /// A route has changed; `before` as [`Self::ways_before`] said.
    pub(super) fn route_changed(&mut self, change: &Change, before: Option<&[Way]>) {
        let peer = |path: &Option<Selected>| path.as_ref().map(|path| path.source.peer);
        let of = Move { from: peer(&change.was), to: peer(&change.now) };
        let peers = &self.peers;
        let is_down = || of.from.and_then(|from| peers.get(&from)).is_some_and(|peer| peer.session.is_none());
        self.news.batch.add(of, 1, is_down);
        if let Some(before) = before {
            let told = self.told(change, before);
            self.news.few.extend(told);
        }
    }

    /// What there is to say of one route; none: the kernel is told what it was told before.
    fn told(&self, change: &Change, before: &[Way]) -> Option<Note> {
        let prefix = change.prefix;
        let is_own = |best: &Selected| best.source.peer == PeerId::LOCAL;
        let local = change.now.as_ref().is_some_and(is_own);
        let was = addresses(before.iter().map(|way| way.next_hop));
        let is = if local { Vec::new() } else { addresses(change.hops.iter().map(|one| next_hop(&one.attrs))) };
        let (wanted, actual) = self.forwarder.route(prefix);
        let nothing_new = match (&change.now, &wanted) {
            // Never in use, or never in the kernel.
            (None, _) => was.is_empty() && change.was.is_none(),
            (Some(_), Some(_)) if local => change.was.as_ref().is_some_and(is_own),
            (Some(_), Some(_)) => was == is,
            (Some(_), None) => local,
        };
        // A former run has left it as it should be.
        let adopted = was.is_empty() && wanted.is_some() && wanted == actual;
        if nothing_new || adopted {
            return None;
        }
        let list = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let now = match (&change.now, &wanted) {
            (None, _) => "no route any more".to_owned(),
            (Some(_), None) => format!("no way to {}", list(&is)),
            (Some(_), Some(_)) if local => "this node's own: what no container has is dropped".to_owned(),
            (Some(_), Some(target)) => self.hops(&self.forwarder.hops(target)),
        };
        let former = if was.is_empty() { String::new() } else { format!(", was by next hop {}", list(&was)) };
        let note = Note::new(EventKind::Route, prefix.to_string(), format!("{now}{former}"));
        Some(note.perhaps_because(self.why(change, before)))
    }

    /// Why a route has changed: who left, else who came.
    fn why(&self, change: &Change, before: &[Way]) -> Option<String> {
        let used: Vec<PeerId> = match &change.now {
            Some(best) if best.source.peer == PeerId::LOCAL => vec![PeerId::LOCAL],
            _ => change.hops.iter().map(|one| one.peer).collect(),
        };
        let is_of = |way: &Way| self.peers.iter().find(|(_, peer)| peer.source == way.source).map(|(id, _)| *id);
        let mut were: Vec<PeerId> = before.iter().filter_map(is_of).collect();
        if were.is_empty() {
            were.extend(change.was.as_ref().map(|best| best.source.peer));
        }
        if let Some(left) = were.iter().find(|peer| !used.contains(peer)) {
            return Some(self.why_left(*left, change));
        }
        match used.iter().find(|peer| !were.contains(peer)).or(used.first()) {
            Some(joined) if were.contains(joined) => Some(format!("{} announced another next hop", self.who(*joined))),
            Some(joined) => Some(format!("announced by {}", self.who(*joined))),
            None => None,
        }
    }

    fn why_left(&self, left: PeerId, change: &Change) -> String {
        let name = self.who(left);
        if left == PeerId::LOCAL {
            return format!("{name} no longer announces it");
        }
        let Some(peer) = self.peers.get(&left) else { return format!("{name} is no longer a peer") };
        if peer.session.is_none() {
            return format!("session with {name} lost");
        }
        let path = self.decision(&change.prefix).into_iter().find(|path| path.peer == left);
        let Some(path) = path else { return format!("{name} withdrew it") };
        match path.verdict {
            Verdict::Rejected(reject) => format!("what {name} announces is rejected: {}", reject.text()),
            Verdict::Unresolvable => format!("next hop {} of {name} can't be reached", path.attrs.next_hop),
            _ => match change.now.as_ref().map(|best| best.source.peer).filter(|best| *best != left) {
                Some(best) => format!("better path from {}; that of {name}: {}", self.who(best), path.text),
                None => format!("the path of {name}: {}", path.text),
            },
        }
    }

    fn who(&self, id: PeerId) -> String {
        let known = self.peers.get(&id).map(|peer| &peer.name).or_else(|| self.news.departed.get(&id));
        match known {
            Some(name) => name.clone(),
            None if id == PeerId::LOCAL => "this node".to_owned(),
            None => "a former peer".to_owned(),
        }
    }

    /// Tells of a batch, and of a flood that is over.
    pub(super) fn tell_of_routes(&mut self, now: Instant) {
        if now.duration_since(self.news.window) > WINDOW {
            (self.news.window, self.news.spent) = (now, 0);
        }
        self.tell_of_next_hops(now);
        let news = &mut self.news;
        let (batch, few) = (std::mem::take(&mut news.batch), std::mem::take(&mut news.few));
        if news.flood.is_none() && batch.count <= FEW && news.spent + few.len() <= FEW {
            news.spent += few.len();
            for note in few {
                news.journal.note(note);
            }
        } else if batch.count > 0 {
            let flood = news.flood.get_or_insert_with(|| Flood { since: now, last: now, tally: Tally::default() });
            flood.last = now;
            batch.moves.into_iter().for_each(|(of, count, down)| flood.tally.add(of, count, || down));
        }
        if let Some(flood) = self.news.flood.take_if(|flood| flood.end() <= now) {
            self.tell_of_flood(&flood);
        }
        if self.news.flood.is_none() && self.rib.is_settled() {
            self.news.departed.clear();
        }
    }

    fn tell_of_flood(&self, flood: &Flood) {
        let took = flood.last.duration_since(flood.since);
        for (Move { from, to }, count, down) in &flood.tally.moves {
            let count = grouped(*count);
            let lost = || from.filter(|_| *down).map(|from| format!("session with {} lost", self.who(from)));
            let (subject, what, cause) = match (*from, *to) {
                (Some(from), Some(to)) if from == to => {
                    let cause = "announced anew, or some of their next hops changed".to_owned();
                    (self.who(to), format!("{count} routes changed"), Some(cause))
                }
                (Some(from), Some(to)) => {
                    (self.who(from), format!("{count} routes changed to those of {}", self.who(to)), lost())
                }
                (Some(from), None) => {
                    let cause = lost().unwrap_or_else(|| "withdrawn, rejected, or out of reach".to_owned());
                    (self.who(from), format!("{count} routes gone"), Some(cause))
                }
                (None, Some(to)) => {
                    let to = self.who(to);
                    let cause = format!("announced by {to}");
                    (to, format!("{count} routes learned"), Some(cause))
                }
                (None, None) => continue,
            };
            let what = format!("{what}, within {:.1} s", took.as_secs_f64());
            self.news.journal.note(Note::new(EventKind::Route, subject, what).perhaps_because(cause));
        }
    }

    /// Next hops that are reached otherwise than before, with all routes over them.
    fn tell_of_next_hops(&mut self, now: Instant) {
        let turned: Vec<NextHop> = self.forwarder.take_turned();
        if let Some(count) = self.news.turn(turned.len(), now) {
            if count > 0 {
                let what = format!("{} times a next hop is reached otherwise, or not any more", grouped(count));
                self.news.journal.note(Note::new(EventKind::Route, "next hops", what));
            }
            return;
        }
        for next_hop in turned {
            let words = self.forwarder.explain_next_hop(next_hop, None).words;
            self.news.journal.note(Note::new(EventKind::Route, next_hop.addr.to_string(), words));
        }
    }
}

fn addresses(next_hops: impl Iterator<Item = NextHop>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = next_hops.map(|next_hop| next_hop.addr).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// `12,345`
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_can_be_read() {
        for (number, wanted) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), wanted);
        }
    }

    #[test]
    fn next_hops_that_turn_for_ever_leave_room_for_others() {
        let start = Instant::now();
        let mut news = News::new(Journal::nobody(), start);
        assert_eq!(news.turn(100, start), Some(100), "many at once are told of at once");
        assert_eq!((news.turn(1, start), news.deadline()), (None, None), "few by themselves");
        let mut told = Vec::new();
        for tenth in 1..=350 {
            let now = start + Duration::from_millis(100 * tenth);
            if now.duration_since(news.window) > WINDOW {
                (news.window, news.spent) = (now, 0);
            }
            told.push(news.turn(2, now));
        }
        assert_eq!(told[..31], [None; 31], "{told:?}");
        assert_eq!(told[31], Some(0), "no more of them");
        assert!(news.deadline().is_some_and(|at| at <= start + 4 * WINDOW), "the last are told of too");
        let singly = 2 * told.iter().filter(|one| one.is_none()).count();
        let together: usize = told.iter().flatten().sum();
        assert_eq!(singly + together + news.turned, 700, "and each is somewhere");
        assert!(singly <= 4 * FEW && told.iter().flatten().filter(|count| **count > 0).count() <= 4, "{told:?}");
    }

    #[test]
    fn changes_are_counted_by_who_had_them_and_who_has_them() {
        let of = |from: u32, to: u32| Move { from: Some(PeerId(from)), to: Some(PeerId(to)) };
        let mut tally = Tally::default();
        let mut asked = 0;
        for n in 0..1000 {
            tally.add(if n % 10 == 0 { of(1, 3) } else { of(1, 2) }, 1, || {
                asked += 1;
                true
            });
        }
        assert_eq!(tally.moves[..], [(of(1, 3), 100, true), (of(1, 2), 900, true)]);
        assert_eq!((tally.count, asked), (1000, 2), "a session is looked at once for each, not once a route");
        for n in 0..1000 {
            tally.add(of(n, n + 1), 1, || false);
        }
        assert_eq!((tally.count, tally.moves.len()), (2000, APART), "bounded, and nothing is left out of the sum");
        assert_eq!(tally.moves.iter().map(|(_, count, _)| count).sum::<usize>(), 2000);
    }
}
