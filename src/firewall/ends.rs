//! Who may send IP-in-IP to us: everybody named now, and those named not long ago.
//!
//! A session that ends or a route that is withdrawn here says nothing of what its far end still sends: others
//! keep our routes for as long as we promised to be back, and a node that left on purpose still empties its
//! containers. So an end stays known for long after nobody names it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How long an end is known after it was named last: most time that routes outlive their session is an hour and a
/// bit (RFC 4724 §3: 4095 s).
const KEEP: Duration = Duration::from_secs(4200);

/// Ends that nobody names any more and that are known still: whoever names other ones all the time must not fill the
/// memory.
const MOST: usize = 65_536;

/// Known tunnel ends.
#[derive(Debug, Default)]
pub struct Ends {
    /// With the instant at which it was named last; `None`: it is named now
    known: BTreeMap<Ipv4Addr, Option<Instant>>,
}

impl Ends {
    /// These were known to a former run.
    pub fn adopt(&mut self, former: impl IntoIterator<Item = Ipv4Addr>, now: Instant) {
        for end in former {
            self.known.entry(end).or_insert(Some(now));
        }
    }

    /// These are named now. `complete`: whoever there is has had the time to be heard of; until then nobody is
    /// forgotten. Returns how many had to be forgotten before their time, the longest unnamed first.
    pub fn name(&mut self, named: &BTreeSet<Ipv4Addr>, complete: bool, now: Instant) -> usize {
        for (end, last) in &mut self.known {
            if named.contains(end) {
                *last = None;
            } else if last.is_none() || !complete {
                *last = Some(now);
            }
        }
        for end in named {
            self.known.insert(*end, None);
        }
        self.known.retain(|_, last| last.is_none_or(|last| now.saturating_duration_since(last) < KEEP));
        let too_many = self.known.values().flatten().count().saturating_sub(MOST);
        if too_many > 0 {
            let mut unnamed: Vec<_> = self.known.iter().filter_map(|(end, last)| Some(((*last)?, *end))).collect();
            unnamed.sort_unstable();
            for (_, end) in unnamed.iter().take(too_many) {
                self.known.remove(end);
            }
        }
        too_many
    }

    /// All of them.
    pub fn known(&self) -> BTreeSet<Ipv4Addr> {
        self.known.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Why, seconds, who is named, whether everybody had the time to be, who is known
    type Case = (&'static str, u64, &'static [u8], bool, &'static [u8]);

    #[test]
    fn an_end_outlives_what_named_it() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let set = |ends: &[u8]| ends.iter().map(|end| Ipv4Addr::new(192, 0, 2, *end)).collect::<BTreeSet<_>>();
        let mut ends = Ends::default();
        ends.adopt(set(&[1, 2]), start);
        let cases: [Case; 8] = [
            ("nothing is heard of yet", 0, &[], false, &[1, 2]),
            ("however long that takes", 9000, &[], false, &[1, 2]),
            ("new ones are known at once", 9001, &[2, 3], true, &[1, 2, 3]),
            ("what only the former run knew goes at last", 13_200, &[2, 3], true, &[2, 3]),
            ("a session is lost", 13_201, &[2], true, &[2, 3]),
            ("not yet", 17_400, &[2], true, &[2, 3]),
            ("back in time", 17_400, &[2, 3], true, &[2, 3]),
            ("lost again: from the beginning", 21_601, &[2], true, &[2, 3]),
        ];
        for (why, seconds, named, complete, known) in cases {
            ends.name(&set(named), complete, at(seconds));
            assert_eq!(ends.known(), set(known), "{why}");
        }
        ends.name(&set(&[]), true, at(21_601 + 4200));
        assert_eq!(ends.known(), set(&[2]), "the one has had its time, the other is gone since now");
    }

    #[test]
    fn a_peer_that_names_others_all_the_time_fills_no_memory() {
        let (mut ends, start) = (Ends::default(), Instant::now());
        let portion = |n: u32| (0..40_000).map(|i| Ipv4Addr::from_bits(n << 24 | i)).collect::<BTreeSet<_>>();
        let forgotten: Vec<usize> =
            (1..=4).map(|n| ends.name(&portion(n), true, start + Duration::from_secs(n.into()))).collect();
        assert_eq!(forgotten, [0, 0, 80_000 - MOST, 40_000]);
        let known = ends.known();
        assert_eq!(known.len(), 40_000 + MOST);
        assert!(portion(4).is_subset(&known) && portion(3).is_subset(&known), "the longest unnamed went");
    }
}
