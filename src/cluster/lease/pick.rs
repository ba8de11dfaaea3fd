//! Which of the free subnets is taken.

use crate::cluster::claim::Claim;
use crate::cluster::flannel::Range;
use crate::cluster::mirror::Stored;
use crate::net::Prefix;

/// Places of a range that claims bar: first and last of each run, in order, no two of them touching.
pub fn barred<'a>(range: &Range, claims: impl Iterator<Item = (&'a Prefix, &'a Stored<Claim>)>) -> Vec<(u128, u128)> {
    let mut runs: Vec<(u128, u128)> = Vec::new();
    // Claims come in the order of their addresses, so a run only ever grows at its end.
    for (start, end) in claims.filter_map(|(subnet, _)| range.places(subnet)) {
        match runs.last_mut() {
            Some(last) if start <= last.1.saturating_add(1) => last.1 = last.1.max(end),
            _ => runs.push((start, end)),
        }
    }
    runs
}

/// The first free subnet from place `start` on, round to it again. `refuse`: other reasons against one.
pub fn choose(range: &Range, barred: &[(u128, u128)], start: u128, refuse: impl Fn(&Prefix) -> bool) -> Option<Prefix> {
    let count = range.count();
    let start = start % count;
    let upward = free(range, barred, start, count - 1);
    let from_below = start.checked_sub(1).into_iter().flat_map(|last| free(range, barred, 0, last));
    upward.chain(from_below).find(|subnet| !refuse(subnet))
}

/// The free subnets from one place to another, in order.
fn free(range: &Range, barred: &[(u128, u128)], first: u128, last: u128) -> impl Iterator<Item = Prefix> {
    let mut next = Some(first);
    std::iter::from_fn(move || {
        let mut place = next?;
        let after = barred.partition_point(|(_, end)| *end < place);
        if let Some((_, end)) = barred.get(after).filter(|(start, _)| *start <= place) {
            place = end.checked_add(1)?;
        }
        next = place.checked_add(1);
        (place <= last).then(|| range.nth(place)).flatten()
    })
}

/// Where a node begins to look: the same for a name everywhere and always (FNV-1a), so that nodes which start
/// together seldom meet.
pub fn start(name: &str) -> u128 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn claims(subnets: &str) -> Vec<(Prefix, Stored<Claim>)> {
        let stored = Stored { key: String::new(), created: 1, modified: 1, value: Claim::unreadable() };
        let mut claims: Vec<_> = subnets.split_whitespace().map(|text| (p(text), stored.clone())).collect();
        claims.sort_by_key(|(subnet, _)| *subnet);
        claims
    }

    #[test]
    fn the_next_free_one_is_taken_and_the_search_goes_round() {
        let range = Range::new(p("10.4.0.0/16"), 24).unwrap();
        let all_but_one = "10.4.0.0/25 10.4.6.0/23 10.4.8.0/21 10.4.16.0/20 10.4.32.0/19 10.4.64.0/18 10.4.128.0/17";
        let cases = [
            // (why, claims, start, refused, chosen)
            ("all free", "", 7, "", Some("10.4.7.0/24")),
            ("the start counts round", "", 256 + 7, "", Some("10.4.7.0/24")),
            ("the next one", "10.4.7.0/24", 7, "", Some("10.4.8.0/24")),
            ("a wide claim bars all in it", "10.4.0.0/17", 7, "", Some("10.4.128.0/24")),
            ("a narrow claim bars what it lies in", "10.4.7.64/26", 7, "", Some("10.4.8.0/24")),
            ("other reasons", "10.4.8.0/24", 7, "10.4.7.0/24", Some("10.4.9.0/24")),
            ("round", "10.4.128.0/17", 200, "10.4.0.0/24", Some("10.4.1.0/24")),
            ("round to just before", all_but_one, 9, "", Some("10.4.1.0/24")),
            ("full", "10.0.0.0/8 10.4.7.0/24", 7, "", None),
        ];
        for (why, taken, start, refused, wanted) in cases {
            let claims = claims(taken);
            let barred = barred(&range, claims.iter().map(|(subnet, stored)| (subnet, stored)));
            let got = choose(&range, &barred, start, |subnet| refused == subnet.to_string());
            assert_eq!(got, wanted.map(p), "{why}");
        }
    }

    #[test]
    fn an_endless_pool_is_no_endless_search() {
        let range = Range::new(p("::/0"), 128).unwrap();
        assert_eq!(choose(&range, &[(0, u128::MAX)], u128::MAX - 1, |_| false), None);
        assert_eq!(choose(&range, &[(3, u128::MAX)], 9, |_| false), Some(p("::/128")));
    }

    #[test]
    fn names_begin_far_apart() {
        let range = Range::new(p("10.0.0.0/8"), 24).unwrap();
        let starts: std::collections::BTreeSet<u128> =
            (0..50).map(|i| start(&format!("host-{i}")) % range.count()).collect();
        assert!(starts.len() > 45, "{starts:?}");
        // From the tables of FNV's authors.
        assert_eq!((start(""), start("a")), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
    }
}
