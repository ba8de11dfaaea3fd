//! One node against a store that the test writes. Many nodes at once: `tests/lease.rs`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::*;
use crate::cluster::flannel::Range;
use crate::cluster::keys::Keys;
use crate::cluster::{Entry, Event};

const OURS: &str = "192.0.2.1";

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn subnets(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| p(text)).collect()
}

fn claim(node: &str, id: &str, since: u64, address: &str) -> Claim {
    let owner = Owner { node: node.to_owned(), id: id.to_owned(), since };
    Claim::of(owner, address.parse().ok())
}

fn flannels(address: &str) -> Claim {
    Claim::read(format!(r#"{{"PublicIP":"{address}","BackendType":"vxlan"}}"#).as_bytes()).unwrap()
}

/// A node `host-a`, a store, a clock.
struct Bench {
    lease: Lease,
    mirror: Mirror,
    entries: BTreeMap<String, Entry>,
    revision: i64,
    start: Instant,
    now: Duration,
    announced: Vec<Prefix>,
    said: Vec<Said>,
}

impl Bench {
    fn new(memory: Memory) -> Self {
        let me = Me { name: "host-a".to_owned(), address: OURS.parse().unwrap() };
        let mut lease = Lease::new(me, memory);
        lease.set_wanted(Wanted {
            ranges: vec![Range::new(p("10.4.0.0/22"), 24).unwrap()],
            per_family: 1,
            reclaim_after: None,
            ttl: Duration::from_secs(30),
        });
        let mut bench = Self {
            lease,
            mirror: Mirror::new(Keys::new("/n")),
            entries: BTreeMap::new(),
            revision: 100,
            start: Instant::now(),
            now: Duration::ZERO,
            announced: Vec::new(),
            said: Vec::new(),
        };
        bench.put("/n/generation", b"g1");
        bench
    }

    /// With nothing on disk, in a store where others are.
    fn fresh() -> Self {
        let mut bench = Self::new(Memory::new("1a".to_owned()));
        bench.claim("10.4.3.0/24", &claim("host-z", "2b", 7, "192.0.2.26"));
        bench
    }

    /// That holds a subnet since 50, as disk and store have it.
    fn holding(subnet: &str) -> Self {
        let mut bench = Self::fresh();
        bench.claim(subnet, &claim("host-a", "1a", 50, OURS));
        let held = Held { subnet: p(subnet), since: 50, modified: bench.revision, generation: "g1".to_owned() };
        bench.restart(|memory| memory.held = vec![held]);
        bench
    }

    /// Starts again, with what was on disk and a change to that.
    fn restart(&mut self, change: impl FnOnce(&mut Memory)) {
        let mut memory = self.lease.memory.clone();
        memory.revision = self.revision;
        "g1".clone_into(&mut memory.generation);
        change(&mut memory);
        let wanted = self.lease.wanted.clone();
        self.lease = Lease::new(self.lease.me.clone(), memory);
        self.lease.set_wanted(wanted);
        self.mirror = Mirror::new(Keys::new("/n"));
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        self.revision += 1;
        let created = self.entries.get(key).map_or(self.revision, |entry| entry.created);
        let entry = Entry { key: key.to_owned(), value: value.to_vec(), created, modified: self.revision };
        self.entries.insert(key.to_owned(), entry.clone());
        if self.mirror.listings() > 0 {
            self.mirror.apply(vec![Event::Put(entry)], self.revision);
        }
    }

    fn delete(&mut self, key: &str) {
        self.revision += 1;
        self.entries.remove(key).unwrap();
        if self.mirror.listings() > 0 {
            let event = Event::Delete { key: key.to_owned(), revision: self.revision };
            self.mirror.apply(vec![event], self.revision);
        }
    }

    fn claim(&mut self, subnet: &str, claim: &Claim) {
        self.put(&Keys::new("/n").subnet(&p(subnet)), &claim.write());
    }

    fn alive(&mut self, name: &str, id: &str, address: &str) {
        let value = format!(r#"{{"id":"{id}","address":"{address}","since":1}}"#);
        self.put(&format!("/n/alive/{name}"), value.as_bytes());
    }

    fn list(&mut self) {
        self.mirror.listed(self.entries.values().cloned().collect(), self.revision);
    }

    fn time(&self) -> Now {
        Now { at: self.start + self.now, unix: 1000 + self.now.as_secs(), chance: 0xabcd }
    }

    fn step(&mut self) -> Step {
        let now = self.time();
        let mirror = (self.mirror.listings() > 0).then_some(&self.mirror);
        let announced = &self.announced;
        let step = self.lease.step(now, mirror, &|subnet| announced.iter().any(|p| subnet.covers(p)));
        self.said.extend(step.said.iter().cloned());
        step
    }

    /// Does what is asked for until nothing is any more.
    fn run(&mut self) -> Step {
        if self.mirror.listings() == 0 {
            self.list();
        }
        for _ in 0..50 {
            let mut step = self.step();
            if step.relist {
                self.list();
                continue;
            }
            let Some(write) = step.write.take() else { return step };
            let outcome = self.commit(&write);
            self.lease.answered(self.time(), outcome);
        }
        panic!("writes without end");
    }

    fn commit(&mut self, write: &Write) -> Outcome {
        let there = self.entries.get(&write.key).map(|entry| entry.modified);
        let expected = match write.expect {
            Expect::Absent => there.is_none(),
            Expect::Modified(revision) => there == Some(revision),
        };
        match &write.value {
            _ if !expected => return Outcome::Refused(self.revision),
            Some(value) => self.put(&write.key, value),
            None => self.delete(&write.key),
        }
        Outcome::Done(self.revision)
    }

    /// Nodes that hold subnets in the store, with the length and the first address of each.
    fn store(&self) -> Vec<String> {
        let keys = Keys::new("/n");
        let mut mirror = Mirror::new(keys);
        mirror.listed(self.entries.values().cloned().collect(), self.revision);
        mirror.claims().map(|(subnet, stored)| format!("{subnet} {}", stored.value.holder())).collect()
    }

    fn wipe(&mut self) {
        self.entries.clear();
        self.revision = 1;
        self.list();
    }
}

#[test]
fn a_new_node_takes_a_free_subnet_and_believes_in_it_once_it_is_seen() {
    let mut bench = Bench::fresh();
    assert!(bench.step().write.is_none(), "nothing without a listing");
    bench.list();
    let write = bench.step().write.unwrap();
    assert_eq!((write.key.as_str(), write.expect), ("/n/subnets/10.4.1.0-24", Expect::Absent));
    assert!(bench.step().write.is_none(), "one write at a time");
    let Outcome::Done(revision) = bench.commit(&write) else { panic!("refused") };
    assert_eq!(bench.lease.believed(), [], "not before the answer");
    bench.lease.answered(bench.time(), Outcome::Done(revision));
    bench.step();
    assert_eq!(bench.lease.believed(), subnets(&["10.4.1.0/24"]));
    let held = Held { subnet: p("10.4.1.0/24"), since: 1000, modified: revision, generation: "g1".to_owned() };
    assert_eq!(bench.lease.memory().held, [held]);
    assert!(bench.run().write.is_none(), "and no more");
}

#[test]
fn what_is_on_disk_is_believed_without_the_store() {
    let cases = [
        // (why, name on disk, address on disk, believed)
        ("as it was written", "host-a", OURS, true),
        ("another name: a copy, or renamed", "host-b", OURS, false),
        ("another address: a copy, or moved", "host-a", "192.0.2.9", false),
    ];
    for (why, name, address, believed) in cases {
        let mut bench = Bench::holding("10.4.1.0/24");
        bench.restart(|memory| {
            name.clone_into(&mut memory.name);
            memory.address = address.parse().ok();
        });
        // As that node had written it.
        bench.claim("10.4.1.0/24", &claim(name, "1a", 50, address));
        bench.step();
        let expected = if believed { subnets(&["10.4.1.0/24"]) } else { Vec::new() };
        assert_eq!(bench.lease.believed(), expected, "{why}");
        // The store confirms that it is ours.
        bench.run();
        assert_eq!(bench.lease.believed(), subnets(&["10.4.1.0/24"]), "{why}");
        assert_eq!(bench.store()[0], "10.4.1.0/24 host-a", "{why}");
        assert_eq!(bench.lease.memory().name, "host-a", "{why}");
    }
}

#[test]
fn a_copied_disk_gives_way_and_becomes_a_node_of_its_own() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.restart(|memory| {
        "host-b".clone_into(&mut memory.name);
        memory.address = "192.0.2.2".parse().ok();
    });
    bench.claim("10.4.1.0/24", &claim("host-b", "1a", 50, "192.0.2.2"));
    bench.alive("host-b", "1a", "192.0.2.2");
    let step = bench.run();
    let rival = Rival { name: "host-b".to_owned(), address: "192.0.2.2".parse().unwrap(), same: Same::Id };
    assert_eq!(bench.said, [Said::Blocked(rival)]);
    assert_eq!((bench.lease.believed(), bench.lease.may_show()), (Vec::new(), false));
    assert_eq!(step.again, Some(bench.start + Duration::from_secs(60)));
    bench.now = Duration::from_secs(61);
    bench.run();
    assert_eq!(bench.said[1], Said::Copied { of: "host-b".to_owned() });
    assert_eq!(bench.lease.id(), format!("{:032x}", 0xabcd));
    assert_eq!(bench.store(), ["10.4.1.0/24 host-b", "10.4.2.0/24 host-a", "10.4.3.0/24 host-z"]);
}

#[test]
fn nothing_is_written_while_another_is_in_our_place() {
    let cases = [
        // (why, name, id, address, what is the same)
        ("our name elsewhere", "host-a", "77", "192.0.2.9", Some(Same::Name)),
        ("our name and disk elsewhere", "host-a", "1a", "192.0.2.9", Some(Same::Name)),
        ("ourselves before the disk was lost", "host-a", "77", OURS, Some(Same::Name)),
        ("our address", "host-b", "77", OURS, Some(Same::Address)),
        ("our disk", "host-b", "1a", "192.0.2.9", Some(Same::Id)),
        ("ourselves", "host-a", "1a", OURS, None),
        ("ourselves under a former name", "host-b", "1a", OURS, Some(Same::Address)),
        ("another", "host-b", "77", "192.0.2.9", None),
    ];
    for (why, name, id, address, same) in cases {
        let mut bench = Bench::fresh();
        bench.alive(name, id, address);
        bench.run();
        assert_eq!(bench.lease.state(Some(&bench.mirror)).blocked.map(|rival| rival.same), same, "{why}");
        assert_eq!(bench.lease.believed().is_empty(), same.is_some(), "{why}");
        assert_eq!(bench.lease.may_show(), same.is_none(), "{why}");
        if same.is_some() {
            bench.delete(&format!("/n/alive/{name}"));
            bench.run();
            assert_eq!(bench.lease.believed(), subnets(&["10.4.1.0/24"]), "{why}: when it is gone");
        }
    }
}

#[test]
fn of_two_in_one_place_the_second_waits() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.alive("host-a", "1a", OURS);
    bench.run();
    bench.alive("host-b", "77", OURS);
    bench.run();
    let state = bench.lease.state(Some(&bench.mirror));
    assert_eq!((state.blocked, state.rival.map(|rival| rival.name)), (None, Some("host-b".to_owned())));
}

#[test]
fn a_claim_that_is_gone_is_restored_unless_another_has_it() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.run();
    bench.delete("/n/subnets/10.4.1.0-24");
    bench.run();
    assert_eq!(bench.said, [Said::Restored { subnet: p("10.4.1.0/24") }]);
    assert_eq!(bench.lease.believed(), subnets(&["10.4.1.0/24"]));

    // The store has its whole history: whoever has it now, has it lawfully.
    bench.claim("10.4.1.0/24", &claim("host-b", "2b", 1, "192.0.2.2"));
    bench.mirror.lost();
    bench.run();
    assert_eq!(bench.said[1], Said::Lost { subnet: p("10.4.1.0/24"), to: Some("host-b".to_owned()) });
    assert_eq!(bench.lease.believed(), [], "at once, whatever else goes on");
    bench.mirror.confirmed(bench.revision);
    bench.run();
    assert_eq!(bench.lease.believed(), subnets(&["10.4.2.0/24"]), "another one");
    assert_eq!(bench.lease.memory().wishes, subnets(&["10.4.1.0/24"]));
}

#[test]
fn after_a_loss_of_history_the_older_holder_wins() {
    let cases = [
        // (why, who has claimed it meanwhile, who has it in the end)
        ("nobody", None, "10.4.1.0/24 host-a"),
        ("a younger one", Some(claim("host-b", "2b", 51, "192.0.2.2")), "10.4.1.0/24 host-a"),
        ("an older one", Some(claim("host-b", "2b", 49, "192.0.2.2")), "10.4.1.0/24 host-b"),
        ("as old, by name", Some(claim("host-b", "2b", 50, "192.0.2.2")), "10.4.1.0/24 host-a"),
        ("reserved", Some(claim("host-b", "", 1, "")), "10.4.1.0/24 host-a"),
        ("flannel, elsewhere", Some(flannels("192.0.2.2")), "10.4.1.0/24 192.0.2.2 (vxlan)"),
        ("flannel, here", Some(flannels(OURS)), "10.4.1.0/24 host-a"),
    ];
    for (why, theirs, wanted) in cases {
        let mut bench = Bench::holding("10.4.1.0/24");
        bench.run();
        bench.entries.clear();
        bench.revision = 2;
        bench.put("/n/generation", b"g2");
        if let Some(theirs) = &theirs {
            bench.claim("10.4.1.0/24", theirs);
        }
        bench.list();
        bench.run();
        bench.now += OWNERS_FIRST;
        bench.run();
        assert_eq!(bench.store()[0], wanted, "{why}");
        assert_eq!(bench.lease.believed()[0] == p("10.4.1.0/24"), wanted.ends_with("host-a"), "{why}");
        assert_eq!(bench.lease.memory().generation, "g2", "{why}");
    }
}

#[test]
fn an_overlapping_claim_of_a_younger_one_is_removed_after_a_loss_of_history() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.run();
    bench.wipe();
    bench.put("/n/generation", b"g2");
    bench.claim("10.4.0.0/23", &claim("host-b", "2b", 51, "192.0.2.2"));
    bench.run();
    assert_eq!(bench.store(), ["10.4.1.0/24 host-a"]);
    assert_eq!(bench.said.last(), Some(&Said::Ousted { subnet: p("10.4.1.0/24"), from: "host-b".to_owned() }));
}

#[test]
fn a_store_that_was_set_back_gets_another_generation_before_anything_else() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.run();
    // The snapshot is from before: there host-b had it, and has since given it back.
    bench.revision = 80;
    bench.put("/n/generation", b"g1");
    bench.claim("10.4.1.0/24", &claim("host-b", "2b", 1, "192.0.2.2"));
    bench.list();
    let write = bench.step().write.unwrap();
    assert_eq!((write.key.as_str(), write.expect), ("/n/generation", Expect::Modified(81)));
    assert_eq!(bench.said, [Said::SetBack { seen: 103, now: 82 }]);
    let outcome = bench.commit(&write);
    bench.lease.answered(bench.time(), outcome);
    bench.run();
    assert_eq!(bench.store()[0], "10.4.1.0/24 host-a", "ours was written after that, and is lost");
    assert_eq!(bench.lease.believed(), subnets(&["10.4.1.0/24"]));
}

#[test]
fn a_claim_older_than_ours_under_our_key_shows_that_the_store_was_set_back() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.run();
    // As `--bump-revision` restores it: revisions go on, values are old.
    let entry = bench.entries.get_mut("/n/subnets/10.4.1.0-24").unwrap();
    entry.value = claim("host-b", "2b", 1, "192.0.2.2").write();
    entry.modified = 90;
    bench.revision = 2000;
    bench.list();
    bench.run();
    assert_eq!(bench.said[0], Said::SetBack { seen: 103, now: 2000 });
    assert_eq!(bench.store()[0], "10.4.1.0/24 host-a");
}

#[test]
fn an_empty_store_is_left_to_former_owners_for_a_moment() {
    let mut bench = Bench::new(Memory::new("1a".to_owned()));
    bench.entries.clear();
    let step = bench.run();
    assert_eq!(bench.entries["/n/generation"].value, format!("{:032x}", 0xabcd).into_bytes());
    assert_eq!((step.again, bench.store()), (Some(bench.start + OWNERS_FIRST), Vec::new()));
    bench.now = OWNERS_FIRST;
    bench.run();
    assert_eq!(bench.store(), ["10.4.1.0/24 host-a"]);
}

#[test]
fn an_answer_that_is_lost_is_looked_for() {
    for done in [true, false] {
        let mut bench = Bench::fresh();
        bench.list();
        let write = bench.step().write.unwrap();
        if done {
            bench.commit(&write);
        }
        bench.lease.answered(bench.time(), Outcome::Unknown);
        let step = bench.step();
        assert!(step.relist && step.write.is_none(), "{done}");
        assert!(!bench.step().relist, "{done}: asked for once");
        bench.list();
        let again = bench.step().write.unwrap();
        // What may have been done is written anew, so that nothing still on its way can touch it.
        let expect = if done { Expect::Modified(bench.revision) } else { Expect::Absent };
        assert_eq!((again.key, again.expect), (write.key, expect), "{done}");
    }
}

#[test]
fn of_two_overlapping_claims_the_older_stands() {
    // The other came to be while ours was on its way, under another key.
    for (theirs_first, wanted) in [(true, "10.4.0.0/23 host-b"), (false, "10.4.1.0/24 host-a")] {
        let mut bench = Bench::fresh();
        bench.list();
        let write = bench.step().write.unwrap();
        let theirs = claim("host-b", "2b", 9999, "192.0.2.2");
        if theirs_first {
            bench.claim("10.4.0.0/23", &theirs);
        }
        let outcome = bench.commit(&write);
        if !theirs_first {
            bench.claim("10.4.0.0/23", &theirs);
        }
        bench.lease.answered(bench.time(), outcome);
        let step = bench.step();
        assert_eq!(step.write.is_some_and(|write| write.value.is_none()), theirs_first);
        assert!(bench.store().contains(&wanted.to_owned()));
        assert_eq!(bench.lease.believed().is_empty(), theirs_first);
    }
}

#[test]
fn what_is_known_comes_before_what_is_free() {
    let cases = [
        // (why, wishes, reserved for us, taken)
        ("free: by name", None, None, "10.4.1.0/24"),
        ("what we had", Some("10.4.0.0/24"), None, "10.4.0.0/24"),
        ("what is reserved for us", None, Some("10.4.0.0/24"), "10.4.0.0/24"),
        ("what we had before what is reserved", Some("10.4.2.0/24"), Some("10.4.0.0/24"), "10.4.2.0/24"),
        ("what we had is another's", Some("10.4.3.0/24"), Some("10.4.0.0/24"), "10.4.0.0/24"),
        ("what we had lies in no pool any more", Some("10.9.0.0/24"), None, "10.4.1.0/24"),
    ];
    for (why, wish, reserved, wanted) in cases {
        let mut bench = Bench::fresh();
        bench.restart(|memory| memory.wishes = wish.iter().map(|wish| p(wish)).collect());
        if let Some(reserved) = reserved {
            bench.claim(reserved, &claim("host-a", "", 1, ""));
        }
        bench.run();
        assert_eq!(bench.lease.believed(), subnets(&[wanted]), "{why}");
    }
}

#[test]
fn a_host_that_lost_its_disk_takes_up_its_own_claim() {
    let cases = [
        // (why, the claim in the store, subnet taken)
        ("installed anew", claim("host-a", "99", 5, OURS), "10.4.0.0/24"),
        ("its memory was not yet on disk", claim("host-a", "1a", 5, OURS), "10.4.0.0/24"),
        ("another host of that name: it may be alive", claim("host-a", "99", 5, "192.0.2.9"), "10.4.1.0/24"),
        ("another host", claim("host-b", "99", 5, OURS), "10.4.1.0/24"),
    ];
    for (why, theirs, wanted) in cases {
        let mut bench = Bench::fresh();
        bench.claim("10.4.0.0/24", &theirs);
        bench.run();
        assert_eq!(bench.lease.believed(), subnets(&[wanted]), "{why}");
    }
}

#[test]
fn what_somebody_announces_is_not_free() {
    let mut bench = Bench::fresh();
    bench.announced = subnets(&["10.4.1.0/24", "10.4.2.128/25"]);
    bench.run();
    assert_eq!(bench.lease.believed(), subnets(&["10.4.0.0/24"]));
}

#[test]
fn an_exhausted_pool_is_said_once_and_ends_with_space() {
    let mut bench = Bench::fresh();
    bench.claim("10.4.0.0/23", &claim("host-b", "2b", 1, "192.0.2.2"));
    bench.claim("10.4.2.0/24", &flannels("192.0.2.3"));
    bench.run();
    let step = bench.run();
    assert_eq!(bench.said, [Said::Exhausted { family: Family::Ipv4 }]);
    assert_eq!(step.again, Some(bench.start + LOOK_AGAIN));
    let state = bench.lease.state(Some(&bench.mirror));
    assert_eq!(state.wanting, [Wanting { family: Family::Ipv4, count: 1, why: Why::Exhausted }]);
    assert_eq!(state.pools, [PoolUse { pool: p("10.4.0.0/22"), subnet_len: 24, total: 4, used: 4 }]);
    // The pool grows.
    let mut wanted = bench.lease.wanted.clone();
    wanted.ranges = vec![Range::new(p("10.4.0.0/21"), 24).unwrap()];
    bench.lease.set_wanted(wanted);
    bench.run();
    assert_eq!(bench.lease.believed().len(), 1);
    assert_eq!(bench.lease.state(Some(&bench.mirror)).wanting, []);
}

#[test]
fn a_subnet_outside_the_pools_stays() {
    let mut bench = Bench::holding("10.9.1.0/24");
    bench.run();
    assert_eq!(bench.lease.believed(), subnets(&["10.9.1.0/24"]));
    let state = bench.lease.state(Some(&bench.mirror));
    assert!(state.held[0].outside && state.held[0].confirmed && state.held[0].believed);
}

#[test]
fn what_is_released_is_not_taken_again_until_it_is_asked_for() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.run();
    bench.lease.release(Some(p("10.4.1.0/24")), None).unwrap();
    assert_eq!(bench.lease.believed(), [], "at once, store or not");
    // A crash here must not bring it back.
    let memory = bench.lease.memory().clone();
    bench.restart(|disk| *disk = memory);
    bench.run();
    assert_eq!(bench.lease.believed(), subnets(&["10.4.2.0/24"]));
    assert_eq!(bench.store(), ["10.4.2.0/24 host-a", "10.4.3.0/24 host-z"]);
    bench.lease.ask(Ask::Subnet(p("10.4.1.0/24")), Some(&bench.mirror)).unwrap();
    bench.run();
    assert_eq!(bench.lease.believed(), subnets(&["10.4.2.0/24", "10.4.1.0/24"]));
}

#[test]
fn who_gives_all_back_has_left_until_he_asks() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.run();
    bench.lease.release(None, None).unwrap();
    bench.run();
    assert_eq!((bench.lease.believed(), bench.store()), (Vec::new(), vec!["10.4.3.0/24 host-z".to_owned()]));
    assert!(bench.lease.state(Some(&bench.mirror)).left);
    bench.lease.ask(Ask::Another(Family::Ipv4), Some(&bench.mirror)).unwrap();
    bench.run();
    assert_eq!(bench.lease.believed(), subnets(&["10.4.1.0/24"]), "as many as usual, and the old one if it is free");
}

#[test]
fn one_more_is_one_more() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.lease.ask(Ask::Another(Family::Ipv4), None).unwrap();
    bench.run();
    assert_eq!(bench.lease.believed(), subnets(&["10.4.1.0/24", "10.4.2.0/24"]));
    assert_eq!(bench.lease.memory().asked, []);
    assert_eq!(bench.lease.ask(Ask::Another(Family::Ipv6), None), Err(Refusal::NoPool(Family::Ipv6)));
}

#[test]
fn requests_are_refused_with_the_reason() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.claim("10.4.0.0/24", &claim("host-b", "2b", 1, "192.0.2.2"));
    bench.claim("10.4.2.0/24", &claim("host-c", "3c", 1, "192.0.2.3"));
    bench.alive("host-b", "2b", "192.0.2.2");
    bench.announced = subnets(&["10.4.2.0/24"]);
    bench.run();
    let announced = bench.announced.clone();
    let announced = |subnet: &Prefix| announced.contains(subnet);
    let (lease, mirror) = (&mut bench.lease, Some(&bench.mirror));
    let ask = |text: &str| Ask::Subnet(p(text));
    let cases = [
        (lease.ask(ask("10.4.1.0/24"), mirror), "10.4.1.0/24 is held by this node already"),
        (lease.ask(ask("10.4.0.0/25"), mirror), "10.4.0.0/24 is held by host-b"),
        (lease.ask(ask("10.9.0.0/24"), mirror), "10.9.0.0/24 lies in no pool"),
        (lease.release(Some(p("10.4.0.0/24")), mirror), "10.4.0.0/24 is not held by this node"),
        (lease.release(Some(p("10.4.0.0/25")), mirror), "10.4.0.0/25 is not claimed by anybody"),
        (lease.reclaim(p("10.4.0.0/24"), false, mirror, &announced), "node `host-b` is alive"),
        (lease.reclaim(p("10.4.2.0/24"), false, mirror, &announced), "somebody announces 10.4.2.0/24 over BGP"),
        (lease.reclaim(p("10.4.1.0/24"), true, mirror, &announced), "10.4.1.0/24 is held by this node already"),
        (lease.reclaim_node("host-x", false, mirror, &announced), "node `host-x` holds no subnet"),
        (lease.reclaim_node("host-b", false, mirror, &announced), "node `host-b` is alive"),
        (lease.reserve(p("10.4.2.0/24"), "host-d", mirror), "10.4.2.0/24 is held by host-c"),
        (lease.reserve(p("10.9.2.0/24"), "host-d", mirror), "10.9.2.0/24 lies in no pool"),
        (lease.reserve(p("10.4.2.0/24"), "host-d", None), "the store is out of reach"),
        (lease.import("host-d", "192.0.2.4".parse().unwrap(), mirror), "flannel has given no subnet to 192.0.2.4"),
    ];
    for (result, wanted) in cases {
        assert_eq!(result.unwrap_err().to_string(), wanted);
    }
    bench.run();
    assert_eq!(bench.store().len(), 4, "and nothing was done");
}

#[test]
fn operators_reserve_reclaim_and_take_back() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.run();
    let nobody = |_: &Prefix| false;
    bench.lease.reserve(p("10.4.2.0/24"), "host-d", Some(&bench.mirror)).unwrap();
    bench.lease.reclaim_node("host-z", false, Some(&bench.mirror), &nobody).unwrap();
    bench.run();
    assert_eq!(bench.store(), ["10.4.1.0/24 host-a", "10.4.2.0/24 host-d"]);
    bench.lease.release(Some(p("10.4.2.0/24")), Some(&bench.mirror)).unwrap();
    bench.run();
    assert_eq!(bench.store(), ["10.4.1.0/24 host-a"]);
    let said: Vec<String> = bench.said.iter().map(ToString::to_string).collect();
    let wanted = [
        "reserved 10.4.2.0/24 for host-d",
        "took 10.4.3.0/24 from host-z",
        "10.4.2.0/24 is no longer reserved for host-d",
    ];
    assert_eq!(said, wanted);
}

#[test]
fn a_node_that_comes_back_in_time_is_not_reclaimed() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.run();
    bench.lease.reclaim(p("10.4.3.0/24"), false, Some(&bench.mirror), &|_| false).unwrap();
    bench.alive("host-z", "2b", "192.0.2.26");
    bench.run();
    assert_eq!(bench.said, [Said::Dropped { subnet: p("10.4.3.0/24"), why: Refusal::Alive("host-z".to_owned()) }]);
    assert_eq!(bench.store().len(), 2);
}

#[test]
fn the_longest_silent_is_reclaimed_when_nothing_else_is_left() {
    let mut bench = Bench::fresh();
    for (subnet, node) in [("10.4.0.0/24", "host-b"), ("10.4.1.0/24", "host-c"), ("10.4.2.0/24", "host-d")] {
        bench.claim(subnet, &claim(node, "2b", 1, "192.0.2.2"));
    }
    bench.alive("host-z", "2b", "192.0.2.26");
    bench.announced = subnets(&["10.4.0.0/24"]);
    let mut wanted = bench.lease.wanted.clone();
    wanted.reclaim_after = Some(Duration::from_secs(3600));
    bench.lease.set_wanted(wanted);
    let step = bench.run();
    assert_eq!(step.again, Some(bench.start + LOOK_AGAIN), "sooner than the hour");
    // Time counts only while the store is in reach.
    bench.now += Duration::from_secs(3000);
    bench.run();
    bench.mirror.lost();
    bench.step();
    bench.now += Duration::from_secs(9000);
    bench.mirror.confirmed(bench.revision);
    bench.run();
    assert_eq!(bench.lease.believed(), []);
    bench.alive("host-d", "2b", "192.0.2.2");
    bench.now += Duration::from_secs(601);
    bench.run();
    // The first is announced, the third is back, the fourth alive.
    assert_eq!(bench.lease.believed(), subnets(&["10.4.1.0/24"]));
    assert!(bench.said.contains(&Said::Reclaimed { subnet: p("10.4.1.0/24"), from: "host-c".to_owned() }));
}

#[test]
fn flannels_subnets_are_taken_over_without_renumbering() {
    let mut bench = Bench::fresh();
    let ranges = [("10.4.0.0/22", 24), ("fd00::/60", 64)];
    let mut wanted = bench.lease.wanted.clone();
    wanted.ranges = ranges.iter().map(|(pool, len)| Range::new(p(pool), *len).unwrap()).collect();
    bench.lease.set_wanted(wanted);
    let joint = "/n/subnets/10.4.2.0-24&fd00:0:0:3::-64";
    bench.put(joint, &flannels(OURS).write());
    bench.claim("10.4.0.0/24", &flannels("192.0.2.7"));
    bench.list();
    bench.lease.import("host-a", OURS.parse().unwrap(), Some(&bench.mirror)).unwrap();
    bench.lease.import("host-g", "192.0.2.7".parse().unwrap(), Some(&bench.mirror)).unwrap();
    bench.run();
    assert_eq!(bench.lease.believed(), subnets(&["10.4.2.0/24", "fd00:0:0:3::/64"]));
    let wanted = ["10.4.0.0/24 host-g", "10.4.2.0/24 host-a", "10.4.3.0/24 host-z", "fd00:0:0:3::/64 host-a"];
    assert_eq!(bench.store(), wanted);
    assert!(!bench.entries.contains_key(joint));
    // Somebody starts flannel again on this host: the subnet stays ours.
    bench.claim("10.4.2.0/24", &flannels(OURS));
    bench.run();
    assert_eq!(bench.store(), wanted);
    assert_eq!(bench.lease.believed().len(), 2);
}

#[test]
fn an_import_may_be_cut_short_by_another_address() {
    let mut bench = Bench::holding("10.4.1.0/24");
    let joint = "/n/subnets/10.4.1.0-24&fd00:0:0:3::-64";
    bench.entries.remove("/n/subnets/10.4.1.0-24");
    bench.put(joint, &flannels("192.0.2.9").write());
    bench.claim("10.4.1.0/24", &claim("host-a", "1a", 50, "192.0.2.9"));
    let revision = bench.revision;
    bench.restart(|memory| {
        memory.address = "192.0.2.9".parse().ok();
        memory.held[0].modified = revision;
    });
    bench.run();
    assert_eq!(bench.lease.believed(), subnets(&["10.4.1.0/24"]));
    assert_eq!(bench.store(), ["10.4.1.0/24 host-a", "10.4.3.0/24 host-z"]);
    assert_eq!(bench.lease.memory().former, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
}

#[test]
fn what_was_reserved_and_taken_is_not_reserved_again() {
    let mut bench = Bench::holding("10.4.1.0/24");
    bench.claim("10.4.0.0/24", &flannels("192.0.2.7"));
    bench.run();
    bench.lease.import("host-g", "192.0.2.7".parse().unwrap(), Some(&bench.mirror)).unwrap();
    let write = bench.step().write.unwrap();
    bench.commit(&write);
    bench.lease.answered(bench.time(), Outcome::Unknown);
    // It was done, and host-g was quick.
    let theirs = claim("host-g", "77", 5, "192.0.2.7");
    bench.claim("10.4.0.0/24", &theirs);
    bench.run();
    assert_eq!(bench.mirror.claim(&p("10.4.0.0/24")).unwrap().value, theirs);
}

#[test]
fn flannels_subnets_are_left_alone_unless_asked_for() {
    let mut bench = Bench::fresh();
    bench.claim("10.4.1.0/24", &flannels(OURS));
    bench.run();
    assert_eq!(bench.lease.believed(), subnets(&["10.4.2.0/24"]));
}

#[test]
fn memory_of_earlier_and_later_versions_is_read() {
    let text =
        r#"{"id":"1a","held":[{"subnet":"10.4.1.0/24","since":5,"modified":7,"generation":"g","later":1}],"new":0}"#;
    let memory: Memory = serde_json::from_str(text).unwrap();
    assert_eq!(memory.held[0].subnet, p("10.4.1.0/24"));
    let asked = Memory { asked: vec![Ask::Another(Family::Ipv6), Ask::Subnet(p("10.4.2.0/24"))], ..memory };
    let text = serde_json::to_string(&asked).unwrap();
    assert_eq!(serde_json::from_str::<Memory>(&text).unwrap(), asked);
}
