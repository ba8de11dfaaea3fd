//! A copy of what stands in the store, as of one revision.
//!
//! It is filled by a listing, then kept by the events that follow it. What cannot be read is named in
//! [`Mirror::bad`] and has the least effect that is safe: an unreadable claim still bars its subnet.

use std::collections::BTreeMap;

use super::claim::Claim;
use super::flannel::Network;
use super::keys::{Key, Keys};
use super::node::{Alive, Node};
use super::{Entry, Event};
use crate::net::Prefix;

/// A value with where and when it was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored<T> {
    /// Whole key; a claim of two families stands under one key and shows up once for each
    pub key: String,
    /// Revision at which the key came to be
    pub created: i64,
    /// Revision at which the value was written
    pub modified: i64,
    /// The value
    pub value: T,
}

/// What a listing or an event changed, for the history. In the order of the events.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Somebody has claimed a subnet that was free
    Taken {
        /// The subnet
        subnet: Prefix,
        /// By whom
        by: Claim,
    },
    /// A subnet has become free
    Freed {
        /// The subnet
        subnet: Prefix,
        /// Who held it
        by: Claim,
    },
    /// A subnet has gone from one holder to another, or its holder has moved
    Handed {
        /// The subnet
        subnet: Prefix,
        /// Who held it
        from: Claim,
        /// Who holds it
        to: Claim,
    },
    /// A node has written its record for the first time
    NodeCame {
        /// Its name
        name: String,
    },
    /// A node's record is another
    NodeChanged {
        /// Its name
        name: String,
        /// As it was
        before: Node,
    },
    /// A node's record is gone
    NodeLeft {
        /// Its name
        name: String,
    },
    /// A node shows that it is alive
    Alive {
        /// Its name
        name: String,
    },
    /// A node no longer shows that it is alive
    Silent {
        /// Its name
        name: String,
    },
    /// flannel's configuration is another
    Config,
    /// The store's generation is another: it was set back, or is new
    Generation,
    /// A value or key that cannot be read; said once for each value
    Bad {
        /// Whole key
        key: String,
        /// What is wrong
        why: String,
    },
}

/// A copy of what stands in the store, as of one revision.
#[derive(Clone, Debug)]
pub struct Mirror {
    keys: Keys,
    revision: i64,
    listings: u64,
    fresh: bool,
    /// By subnet and key: two keys may name one subnet
    claims: BTreeMap<(Prefix, String), Stored<Claim>>,
    nodes: BTreeMap<String, Stored<Node>>,
    alive: BTreeMap<String, Stored<Alive>>,
    network: Option<Result<Network, String>>,
    generation: Option<Stored<String>>,
    bad: BTreeMap<String, String>,
}

impl Mirror {
    /// Nothing known yet.
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            revision: 0,
            listings: 0,
            fresh: false,
            claims: BTreeMap::new(),
            nodes: BTreeMap::new(),
            alive: BTreeMap::new(),
            network: None,
            generation: None,
            bad: BTreeMap::new(),
        }
    }

    /// Takes a whole listing in place of what was known. The first one changes nothing for the history but what
    /// is bad in it.
    pub fn listed(&mut self, entries: Vec<Entry>, revision: i64) -> Vec<Change> {
        let mut next = Self::new(self.keys.clone());
        let mut bad = Vec::new();
        for entry in entries {
            next.put(entry, &mut bad);
        }
        // What cannot be read is as it was, as it is after an event.
        for key in next.bad.keys() {
            match self.keys.parse(key) {
                Some(Key::Node(name)) => {
                    next.nodes.extend(self.nodes.get(name).map(|node| (name.to_owned(), node.clone())));
                }
                Some(Key::Alive(name)) => {
                    next.alive.extend(self.alive.get(name).map(|alive| (name.to_owned(), alive.clone())));
                }
                _ => {}
            }
        }
        next.revision = revision;
        next.listings = self.listings + 1;
        next.fresh = true;
        let first = self.listings == 0;
        let before = std::mem::replace(self, next);
        let mut changes = if first { Vec::new() } else { self.differences(&before) };
        bad.retain(|change| matches!(change, Change::Bad { key, why } if before.bad.get(key) != Some(why)));
        changes.append(&mut bad);
        changes
    }

    /// Takes the events that follow what is known, up to `revision`.
    pub fn apply(&mut self, events: Vec<Event>, revision: i64) -> Vec<Change> {
        let mut changes = Vec::new();
        for event in events {
            match event {
                Event::Put(entry) => self.put(entry, &mut changes),
                Event::Delete { key, .. } => self.delete(&key, &mut changes),
            }
        }
        self.confirmed(revision);
        changes
    }

    /// Nothing has changed up to `revision`.
    pub fn confirmed(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
        self.fresh = true;
    }

    /// The store is out of reach: what is known may be old.
    pub fn lost(&mut self) {
        self.fresh = false;
    }

    /// Where things stand.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Revision of the store that this is a copy of; 0 before the first listing.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// How many listings came.
    pub fn listings(&self) -> u64 {
        self.listings
    }

    /// Whether the store is in reach, so that changes come as they happen.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// All claims by subnet; a subnet that two keys name comes twice.
    pub fn claims(&self) -> impl Iterator<Item = (&Prefix, &Stored<Claim>)> {
        self.claims.iter().map(|((subnet, _), stored)| (subnet, stored))
    }

    /// The oldest claim of just this subnet.
    pub fn claim(&self, subnet: &Prefix) -> Option<&Stored<Claim>> {
        let first = (*subnet, String::new());
        let same = self.claims.range(first..).take_while(|((other, _), _)| other == subnet);
        same.map(|(_, stored)| stored).min_by_key(|stored| stored.created)
    }

    /// The claim of a subnet under a certain key.
    pub fn claim_at(&self, subnet: &Prefix, key: &str) -> Option<&Stored<Claim>> {
        self.claims.get(&(*subnet, key.to_owned()))
    }

    /// All claims that have an address in common with `subnet`, itself included.
    pub fn overlapping<'a>(&'a self, subnet: &Prefix) -> impl Iterator<Item = (&'a Prefix, &'a Stored<Claim>)> + 'a {
        let subnet = *subnet;
        // Prefixes order by address: what lies within `subnet` follows it, what covers it has one of its own
        // starts at one of the shorter lengths.
        let covering = (0..subnet.len()).map(move |len| Prefix::new(subnet.addr(), len));
        let covering = covering.flat_map(|wide| {
            self.claims.range((wide, String::new())..).take_while(move |((other, _), _)| *other == wide)
        });
        let within = self.claims.range((subnet, String::new())..);
        let within = within.take_while(move |((other, _), _)| subnet.covers(other));
        covering.chain(within).map(|((subnet, _), stored)| (subnet, stored))
    }

    /// All records by node name.
    pub fn nodes(&self) -> &BTreeMap<String, Stored<Node>> {
        &self.nodes
    }

    /// All signs of life by node name.
    pub fn alive(&self) -> &BTreeMap<String, Stored<Alive>> {
        &self.alive
    }

    /// flannel's configuration, or what is wrong with it; none: there is none.
    pub fn network(&self) -> Option<Result<&Network, &str>> {
        self.network.as_ref().map(|network| network.as_ref().map_err(String::as_str))
    }

    /// The store's generation.
    pub fn generation(&self) -> Option<&Stored<String>> {
        self.generation.as_ref()
    }

    /// Keys that cannot be read, and why.
    pub fn bad(&self) -> &BTreeMap<String, String> {
        &self.bad
    }

    /// Whether nobody has ever claimed anything here, nor said that it is there.
    pub fn is_virgin(&self) -> bool {
        self.claims.is_empty() && self.nodes.is_empty()
    }

    fn put(&mut self, entry: Entry, changes: &mut Vec<Change>) {
        let Entry { key, value, created, modified } = entry;
        let keys = self.keys.clone();
        let wrong = match keys.parse(&key) {
            Some(Key::Subnets(subnets)) => {
                let (claim, wrong) = match Claim::read(&value) {
                    Ok(claim) => (claim, None),
                    Err(why) => (Claim::unreadable(), Some(why)),
                };
                for subnet in subnets {
                    let stored = Stored { key: key.clone(), created, modified, value: claim.clone() };
                    let before = self.claims.insert((subnet, key.clone()), stored).map(|stored| stored.value);
                    changes.extend(claim_change(subnet, before, Some(claim.clone())));
                }
                wrong
            }
            Some(Key::Node(name)) => match serde_json::from_slice::<Node>(&value) {
                Ok(node) => {
                    let stored = Stored { key: key.clone(), created, modified, value: node.clone() };
                    changes.extend(match self.nodes.insert(name.to_owned(), stored) {
                        None => Some(Change::NodeCame { name: name.to_owned() }),
                        Some(before) if before.value == node => None,
                        Some(before) => Some(Change::NodeChanged { name: name.to_owned(), before: before.value }),
                    });
                    None
                }
                Err(error) => Some(error.to_string()),
            },
            Some(Key::Alive(name)) => match serde_json::from_slice::<Alive>(&value) {
                Ok(alive) => {
                    let stored = Stored { key: key.clone(), created, modified, value: alive };
                    if self.alive.insert(name.to_owned(), stored).is_none() {
                        changes.push(Change::Alive { name: name.to_owned() });
                    }
                    None
                }
                Err(error) => Some(error.to_string()),
            },
            Some(Key::Config) => {
                let network = Network::read(&value);
                let wrong = network.as_ref().err().cloned();
                if self.network.as_ref() != Some(&network) {
                    changes.push(Change::Config);
                }
                self.network = Some(network);
                wrong
            }
            Some(Key::Generation) => {
                let value = String::from_utf8_lossy(&value).into_owned();
                if self.generation.as_ref().is_none_or(|before| before.value != value) {
                    changes.push(Change::Generation);
                }
                self.generation = Some(Stored { key: key.clone(), created, modified, value });
                None
            }
            None => Some("not a key of this network".to_owned()),
        };
        let Some(why) = wrong else {
            self.bad.remove(&key);
            return;
        };
        if self.bad.get(&key) != Some(&why) {
            changes.push(Change::Bad { key: key.clone(), why: why.clone() });
        }
        self.bad.insert(key, why);
    }

    fn delete(&mut self, key: &str, changes: &mut Vec<Change>) {
        self.bad.remove(key);
        let keys = self.keys.clone();
        match keys.parse(key) {
            Some(Key::Subnets(subnets)) => {
                for subnet in subnets {
                    let before = self.claims.remove(&(subnet, key.to_owned())).map(|stored| stored.value);
                    changes.extend(claim_change(subnet, before, None));
                }
            }
            Some(Key::Node(name)) => {
                changes.extend(self.nodes.remove(name).map(|_| Change::NodeLeft { name: name.to_owned() }));
            }
            Some(Key::Alive(name)) => {
                changes.extend(self.alive.remove(name).map(|_| Change::Silent { name: name.to_owned() }));
            }
            Some(Key::Config) => changes.extend(self.network.take().map(|_| Change::Config)),
            Some(Key::Generation) => changes.extend(self.generation.take().map(|_| Change::Generation)),
            None => {}
        }
    }

    /// What is other than it was `before`.
    fn differences(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let claims = before.claims.iter().filter(|(key, _)| !self.claims.contains_key(key));
        changes.extend(claims.filter_map(|((subnet, _), gone)| claim_change(*subnet, Some(gone.value.clone()), None)));
        for (key, stored) in &self.claims {
            let was = before.claims.get(key).map(|stored| stored.value.clone());
            changes.extend(claim_change(key.0, was, Some(stored.value.clone())));
        }
        let nodes = before.nodes.keys().filter(|name| !self.nodes.contains_key(*name));
        changes.extend(nodes.map(|name| Change::NodeLeft { name: name.clone() }));
        for (name, stored) in &self.nodes {
            match before.nodes.get(name) {
                None => changes.push(Change::NodeCame { name: name.clone() }),
                Some(was) if was.value != stored.value => {
                    changes.push(Change::NodeChanged { name: name.clone(), before: was.value.clone() });
                }
                Some(_) => {}
            }
        }
        let silent = before.alive.keys().filter(|name| !self.alive.contains_key(*name));
        changes.extend(silent.map(|name| Change::Silent { name: name.clone() }));
        let alive = self.alive.keys().filter(|name| !before.alive.contains_key(*name));
        changes.extend(alive.map(|name| Change::Alive { name: name.clone() }));
        if self.network != before.network {
            changes.push(Change::Config);
        }
        let generation = |mirror: &Self| mirror.generation.as_ref().map(|stored| stored.value.clone());
        if generation(self) != generation(before) {
            changes.push(Change::Generation);
        }
        changes
    }
}

/// What it means that a claim was `before` and is `after`.
fn claim_change(subnet: Prefix, before: Option<Claim>, after: Option<Claim>) -> Option<Change> {
    match (before, after) {
        (None, Some(by)) => Some(Change::Taken { subnet, by }),
        (Some(by), None) => Some(Change::Freed { subnet, by }),
        (Some(from), Some(to)) if from != to => Some(Change::Handed { subnet, from, to }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str =
        r#"{"PublicIP":"192.0.2.1","BackendType":"wayleave","BackendData":{"Node":"a","Id":"1","Since":1}}"#;
    const B: &str =
        r#"{"PublicIP":"192.0.2.2","BackendType":"wayleave","BackendData":{"Node":"b","Id":"2","Since":1}}"#;
    const NODE: &str = r#"{"id":"1","address":"192.0.2.1","asn":1,"router_id":"192.0.2.1","port":179}"#;
    const ALIVE: &str = r#"{"id":"1","address":"192.0.2.1","since":1}"#;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn entry(key: &str, value: &str, created: i64, modified: i64) -> Entry {
        Entry { key: format!("/n/{key}"), value: value.as_bytes().to_vec(), created, modified }
    }

    fn claim(text: &str) -> Claim {
        Claim::read(text.as_bytes()).unwrap()
    }

    fn node() -> Node {
        serde_json::from_str(NODE).unwrap()
    }

    fn empty() -> Mirror {
        let mut mirror = Mirror::new(Keys::new("/n"));
        mirror.listed(Vec::new(), 1);
        mirror
    }

    /// Writes and removals, and what they mean.
    fn cases() -> Vec<(&'static str, Event, Vec<Change>)> {
        let put = |key, value, created, modified| Event::Put(entry(key, value, created, modified));
        let delete = |key: &str, revision| Event::Delete { key: format!("/n/{key}"), revision };
        let subnet = p("10.4.1.0/24");
        let name = || "a".to_owned();
        let bad = |key: &str, why: &str| Change::Bad { key: format!("/n/{key}"), why: why.to_owned() };
        let drained = format!("{},\"drained\":true}}", NODE.trim_end_matches('}'));
        vec![
            ("claimed", put("subnets/10.4.1.0-24", A, 2, 2), vec![Change::Taken { subnet, by: claim(A) }]),
            ("written again", put("subnets/10.4.1.0-24", A, 2, 3), vec![]),
            (
                "handed over",
                put("subnets/10.4.1.0-24", B, 2, 4),
                vec![Change::Handed { subnet, from: claim(A), to: claim(B) }],
            ),
            ("freed", delete("subnets/10.4.1.0-24", 5), vec![Change::Freed { subnet, by: claim(B) }]),
            ("freed twice", delete("subnets/10.4.1.0-24", 6), vec![]),
            ("a node", put("nodes/a", NODE, 7, 7), vec![Change::NodeCame { name: name() }]),
            ("as it was", put("nodes/a", NODE, 7, 8), vec![]),
            ("drained", put("nodes/a", &drained, 7, 9), vec![Change::NodeChanged { name: name(), before: node() }]),
            (
                "unreadable: as it was",
                put("nodes/a", "{}", 7, 10),
                vec![bad("nodes/a", "missing field `id` at line 1 column 2")],
            ),
            ("said once", put("nodes/a", "{}", 7, 11), vec![]),
            ("left", delete("nodes/a", 12), vec![Change::NodeLeft { name: name() }]),
            ("alive", put("alive/a", ALIVE, 13, 13), vec![Change::Alive { name: name() }]),
            ("and again", put("alive/a", ALIVE, 13, 14), vec![]),
            ("silent", delete("alive/a", 15), vec![Change::Silent { name: name() }]),
            ("pools", put("config", r#"{"Network":"10.4.0.0/16"}"#, 16, 16), vec![Change::Config]),
            ("wrong pools", put("config", "{}", 16, 17), vec![Change::Config, bad("config", "Network is missing")]),
            ("no pools", delete("config", 18), vec![Change::Config]),
            ("a generation", put("generation", "g1", 19, 19), vec![Change::Generation]),
            ("no key of ours", put("other", "x", 20, 20), vec![bad("other", "not a key of this network")]),
        ]
    }

    #[test]
    fn events_are_told_as_what_they_mean() {
        let mut mirror = empty();
        for (why, event, wanted) in cases() {
            let revision = event.revision();
            assert_eq!(mirror.apply(vec![event], revision), wanted, "{why}");
            assert_eq!(mirror.revision(), revision, "{why}");
        }
    }

    /// Whatever was missed, a listing leaves the same as the events would have, and tells of it as far as it lasts.
    #[test]
    fn a_listing_is_as_good_as_all_events() {
        let mut followed = empty();
        let mut entries = std::collections::BTreeMap::new();
        for (why, event, changes) in cases() {
            let before = followed.clone();
            match &event {
                Event::Put(entry) => drop(entries.insert(entry.key.clone(), entry.clone())),
                Event::Delete { key, .. } => drop(entries.remove(key)),
            }
            let revision = event.revision();
            followed.apply(vec![event], revision);
            let mut listed = before;
            let told = listed.listed(entries.values().cloned().collect(), revision);
            assert_eq!(told, changes, "{why}");
            assert_eq!((&listed.claims, &listed.nodes), (&followed.claims, &followed.nodes), "{why}");
            assert_eq!((&listed.alive, &listed.bad), (&followed.alive, &followed.bad), "{why}");
            assert_eq!((listed.network(), listed.generation()), (followed.network(), followed.generation()), "{why}");
        }
    }

    #[test]
    fn the_first_listing_is_no_change() {
        let mut mirror = Mirror::new(Keys::new("/n"));
        let entries = vec![entry("subnets/10.4.1.0-24", A, 2, 2), entry("nodes/b", "x", 3, 3)];
        let changes = mirror.listed(entries, 9);
        assert!(matches!(&changes[..], [Change::Bad { key, .. }] if key == "/n/nodes/b"), "{changes:?}");
        assert_eq!((mirror.revision(), mirror.listings(), mirror.is_fresh()), (9, 1, true));
        mirror.lost();
        assert!(!mirror.is_fresh());
        mirror.confirmed(12);
        assert_eq!((mirror.revision(), mirror.is_fresh()), (12, true));
        assert_eq!(mirror.listed(Vec::new(), 4).len(), 1, "set back: the claim is gone");
        assert_eq!(mirror.revision(), 4);
    }

    #[test]
    fn a_claim_of_two_families_shows_up_in_both() {
        let mut mirror = empty();
        let key = "subnets/10.4.1.0-24&fd00:0:0:1::-64";
        mirror.apply(vec![Event::Put(entry(key, r#"{"PublicIP":"192.0.2.9"}"#, 2, 2))], 2);
        let keys: Vec<_> = mirror.claims().map(|(subnet, stored)| (*subnet, stored.key.as_str())).collect();
        let key = format!("/n/{key}");
        assert_eq!(keys, [(p("10.4.1.0/24"), key.as_str()), (p("fd00:0:0:1::/64"), key.as_str())]);
        assert_eq!(mirror.apply(vec![Event::Delete { key, revision: 3 }], 3).len(), 2);
    }

    #[test]
    fn an_unreadable_claim_bars_its_subnet() {
        let mut mirror = empty();
        mirror.apply(vec![Event::Put(entry("subnets/10.4.1.0-24", "?", 2, 2))], 2);
        assert_eq!(mirror.claim(&p("10.4.1.0/24")).unwrap().value, Claim::unreadable());
        assert_eq!(mirror.bad().len(), 1);
    }

    #[test]
    fn of_two_keys_of_one_subnet_the_older_counts() {
        let mut mirror = empty();
        mirror.apply(vec![Event::Put(entry("subnets/10.4.1.0-24", A, 7, 7))], 7);
        mirror.apply(vec![Event::Put(entry("subnets/10.4.1.0-24&fd00::-64", B, 5, 8))], 8);
        assert_eq!(mirror.claim(&p("10.4.1.0/24")).unwrap().created, 5);
        assert_eq!(mirror.claim_at(&p("10.4.1.0/24"), "/n/subnets/10.4.1.0-24").unwrap().created, 7);
        assert_eq!(mirror.claim(&p("10.4.2.0/24")), None);
    }

    proptest::proptest! {
        #[test]
        fn overlapping_finds_just_those(
            claimed in proptest::collection::vec((0_u32..64, 26_u8..=32), 0..20), asked: (u8, u8),
        ) {
            let subnet = |last: u32, len| Prefix::new(std::net::Ipv4Addr::from_bits(0x0a04_0100 + last).into(), len);
            let mut mirror = empty();
            for (last, len) in claimed {
                let subnet = subnet(last, len);
                let key = format!("subnets/{}-{}", subnet.addr(), subnet.len());
                mirror.apply(vec![Event::Put(entry(&key, A, 2, 2))], 2);
            }
            let asked = subnet(u32::from(asked.0 % 64), 24 + asked.1 % 9);
            let found: std::collections::BTreeSet<_> = mirror.overlapping(&asked).map(|(p, _)| *p).collect();
            let wanted = mirror.claims().map(|(p, _)| *p).filter(|p| p.overlaps(&asked)).collect();
            proptest::prop_assert_eq!(found, wanted);
        }
    }
}
