//! What is put right again and again because somebody else keeps undoing it: noticed, slowed down,
//! told of.
//!
//! The first few repairs of a thing are free, for an accident is put right at once. If it needs more
//! within a short time it is a *duel*: from then on each repair is followed by a pause, which doubles as
//! long as the other side is faster than it. Somebody who comes by every ten seconds is thus undone at
//! once each time; two daemons that answer each other at once meet every half minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Repairs of one thing that are made at once, however fast they follow each other.
const FREE: u32 = 5;
/// First pause of a duel.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause: a thing whose opponent went away unseen is right again after no more than this.
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Undisturbed for so long, a thing is at peace: what happens later is another story. Longer than the
/// longest pause, during which nothing is heard.
const CALM: Duration = Duration::from_secs(60);
/// Things followed at a time: a flush of a million routes is no reason to remember a million.
const MOST: usize = 1024;

/// What is repaired, as metrics and `status` call it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// A route of ours
    Route,
    /// A nexthop object of ours
    Nexthop,
    /// The tunnel device
    Tunnel,
    /// The tunnel device's address
    Address,
    /// A kernel setting
    Sysctl,
    /// The firewall table
    Firewall,
    /// The table that counts traffic
    Traffic,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Route, Self::Nexthop, Self::Tunnel, Self::Address, Self::Sysctl, Self::Firewall, Self::Traffic];

    /// The name users see.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Nexthop => "nexthop",
            Self::Tunnel => "tunnel",
            Self::Address => "address",
            Self::Sysctl => "sysctl",
            Self::Firewall => "firewall",
            Self::Traffic => "traffic",
        }
    }
}

/// When a thing that was found wrong may be put right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// Now.
    Now,
    /// Now, and this is where it became a duel: to be told once.
    Begins,
    /// Not before this instant; ask again then.
    Later(Instant),
}

/// A duel that goes on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Duel<'a, T> {
    /// What it is about
    pub what: T,
    /// Who the other side is, as far as anything tells
    pub by: Option<&'a str>,
    /// When the thing was first found wrong
    pub since: Instant,
    /// How often it was put right since
    pub repairs: u32,
    /// Not put right before this instant
    pub next: Instant,
}

impl<'a, T> Duel<'a, T> {
    /// The same, called otherwise.
    pub fn named<U>(self, name: impl FnOnce(T) -> U) -> Duel<'a, U> {
        let Self { what, by, since, repairs, next } = self;
        Duel { what: name(what), by, since, repairs, next }
    }
}

#[derive(Debug)]
struct Streak {
    since: Instant,
    /// When it was found wrong last
    heard: Instant,
    repairs: u32,
    pause: Duration,
    next: Instant,
    /// Found wrong again before the pause was over
    contested: bool,
    by: Option<String>,
}

impl Streak {
    const fn is_duel(&self) -> bool {
        self.repairs > FREE
    }
}

/// Who undoes what, by thing.
#[derive(Debug)]
pub struct Duels<T> {
    streaks: BTreeMap<T, Streak>,
    /// When those at peace were last forgotten for want of room
    swept: Option<Instant>,
}

impl<T> Default for Duels<T> {
    fn default() -> Self {
        Self { streaks: BTreeMap::new(), swept: None }
    }
}

impl<T: Clone + Ord> Duels<T> {
    /// A thing was found wrong: whether it may be put right now. Each answer but [`Turn::Later`] counts
    /// as a repair, so the caller makes it.
    pub fn found(&mut self, what: &T, now: Instant) -> Turn {
        if self.streaks.get(what).is_some_and(|streak| now.saturating_duration_since(streak.heard) > CALM) {
            self.streaks.remove(what);
        }
        let Some(streak) = self.streaks.get_mut(what) else {
            if self.has_room(now) {
                let first = Streak {
                    since: now,
                    heard: now,
                    repairs: 1,
                    pause: FIRST_PAUSE,
                    next: now,
                    contested: false,
                    by: None,
                };
                self.streaks.insert(what.clone(), first);
            }
            return Turn::Now;
        };
        streak.heard = now;
        if now < streak.next {
            streak.contested = true;
            return Turn::Later(streak.next);
        }
        streak.repairs = streak.repairs.saturating_add(1);
        if !streak.is_duel() {
            return Turn::Now;
        }
        let begins = streak.repairs == FREE + 1;
        if !begins {
            let pause = if streak.contested { streak.pause.saturating_mul(2) } else { streak.pause / 2 };
            streak.pause = pause.clamp(FIRST_PAUSE, LAST_PAUSE);
        }
        streak.contested = false;
        streak.next = now + streak.pause;
        if begins { Turn::Begins } else { Turn::Now }
    }

    /// Who did it this time. Of a thing not yet found wrong nothing is kept.
    pub fn blame(&mut self, what: &T, by: String) {
        if let Some(streak) = self.streaks.get_mut(what) {
            streak.by = Some(by);
        }
    }

    /// Whether a thing was put right lately.
    pub fn is_known(&self, what: &T) -> bool {
        self.streaks.contains_key(what)
    }

    /// Somebody touched a thing, and finding out how costs something: until when that is in vain, for
    /// the thing would not be put right anyway.
    pub fn touched(&mut self, what: &T, now: Instant) -> Option<Instant> {
        let streak = self.streaks.get_mut(what).filter(|streak| now < streak.next)?;
        (streak.heard, streak.contested) = (now, true);
        Some(streak.next)
    }

    /// Forgets what is at peace; returns the duels among it.
    pub fn settle(&mut self, now: Instant) -> Vec<T> {
        let mut over = Vec::new();
        self.streaks.retain(|what, streak| {
            let goes_on = now.saturating_duration_since(streak.heard) <= CALM;
            if !goes_on && streak.is_duel() {
                over.push(what.clone());
            }
            goes_on
        });
        over
    }

    /// The duels, by thing.
    pub fn duels(&self) -> impl Iterator<Item = Duel<'_, T>> {
        self.streaks.iter().filter(|(_, streak)| streak.is_duel()).map(|(what, streak)| Duel {
            what: what.clone(),
            by: streak.by.as_deref(),
            since: streak.since,
            repairs: streak.repairs,
            next: streak.next,
        })
    }

    fn has_room(&mut self, now: Instant) -> bool {
        // Looking for room costs, so not for each of a million routes.
        if self.streaks.len() >= MOST && self.swept.is_none_or(|at| now >= at + FIRST_PAUSE) {
            self.swept = Some(now);
            self.streaks
                .retain(|_, streak| streak.is_duel() || now.saturating_duration_since(streak.heard) < LAST_PAUSE);
        }
        self.streaks.len() < MOST
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// An opponent who undoes a repair so long after it was made; when we repair, in ms, until `end`.
    fn repairs(duels: &mut Duels<u8>, start: Instant, opponent: Duration, end: Duration) -> Vec<u128> {
        let mut made = Vec::new();
        let mut now = start;
        while now < start + end {
            match duels.found(&7, now) {
                Turn::Now | Turn::Begins => {
                    made.push((now - start).as_millis());
                    now += opponent;
                }
                Turn::Later(at) => now = at,
            }
        }
        made
    }

    #[test]
    fn the_pace_of_repairs_follows_the_opponent() {
        let cases: [(&str, u64, &[u128]); 4] = [
            (
                "who answers at once is met ever more rarely",
                1,
                &[0, 1, 2, 3, 4, 5, 1005, 3005, 7005, 15_005, 31_005, 61_005, 91_005, 121_005],
            ),
            (
                "who comes by every ten seconds is undone each time at once",
                10_000,
                &[0, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 70_000, 80_000, 90_000, 100_000, 110_000, 120_000],
            ),
            ("a minute and more between two is no duel at all", 61_000, &[0, 61_000, 122_000]),
            (
                "the pause is no longer than it must be to slow both down",
                1500,
                &[0, 1500, 3000, 4500, 6000, 7500, 9000, 10_500, 12_000, 13_500, 15_000, 16_500, 18_000, 19_500],
            ),
        ];
        for (why, opponent, wanted) in cases {
            let mut duels = Duels::default();
            let made = repairs(&mut duels, Instant::now(), ms(opponent), ms(125_000));
            assert_eq!(made[..wanted.len().min(made.len())], *wanted, "{why}");
        }
    }

    #[test]
    fn it_is_told_once_and_ends_in_peace() {
        let (mut duels, start) = (Duels::default(), Instant::now());
        let turns: Vec<Turn> = (0..9).map(|i| duels.found(&"route", start + ms(i))).collect();
        let later = Turn::Later(start + ms(1005));
        assert_eq!(turns[..5], [Turn::Now; 5]);
        assert_eq!(turns[5..], [Turn::Begins, later, later, later]);
        assert_eq!(duels.touched(&"route", start + ms(900)), Some(start + ms(1005)));
        assert_eq!(duels.touched(&"route", start + ms(1005)), None);
        duels.blame(&"route", "bird (protocol 12)".to_owned());
        duels.blame(&"never heard of", "nobody".to_owned());
        let shown: Vec<_> = duels.duels().collect();
        let wanted =
            Duel { what: "route", by: Some("bird (protocol 12)"), since: start, repairs: 6, next: start + ms(1005) };
        assert_eq!(shown, [wanted]);

        assert_eq!(duels.found(&"route", start + ms(1005)), Turn::Now, "its turn has come, and nothing is told again");
        assert!(duels.settle(start + ms(61_005)).is_empty(), "not yet");
        assert_eq!(duels.settle(start + ms(61_006)), ["route"]);
        assert_eq!(duels.found(&"route", start + ms(61_007)), Turn::Now);
        assert_eq!(duels.duels().count(), 0, "from the beginning");
    }

    #[test]
    fn things_do_not_slow_each_other_down() {
        let (mut duels, start) = (Duels::default(), Instant::now());
        while duels.found(&1, start) != Turn::Begins {}
        assert!(matches!(duels.found(&1, start), Turn::Later(_)));
        assert_eq!(duels.found(&2, start), Turn::Now);
    }

    #[test]
    fn a_flush_of_everything_costs_bounded_memory() {
        let (mut duels, start) = (Duels::default(), Instant::now());
        while duels.found(&0, start) != Turn::Begins {}
        for route in 1..100_000_u32 {
            assert_eq!(duels.found(&route, start), Turn::Now);
        }
        assert_eq!(duels.streaks.len(), MOST);
        duels.found(&200_000, start + ms(31_000));
        assert_eq!(duels.streaks.len(), 2, "accidents make room, the duel stays");
    }

    proptest! {
        /// Whatever the opponent does: a bounded rate, and never a wait longer than the longest pause.
        #[test]
        fn repairs_are_bounded_and_never_given_up(gaps in proptest::collection::vec(0_u64..40_000, 1..200)) {
            let (mut duels, start) = (Duels::default(), Instant::now());
            let (mut now, mut made) = (start, Vec::new());
            for gap in gaps {
                now += ms(gap);
                match duels.found(&0, now) {
                    Turn::Later(at) => prop_assert!(at > now && at <= now + LAST_PAUSE),
                    Turn::Now | Turn::Begins => made.push(now),
                }
            }
            for window in made.windows(FREE as usize + 3) {
                let (first, last) = (window[0], window[window.len() - 1]);
                prop_assert!(last - first >= FIRST_PAUSE, "{:?}", last - first);
            }
        }
    }
}
