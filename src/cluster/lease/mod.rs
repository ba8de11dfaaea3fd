//! Which subnets this node holds, wants, gives up.
//!
//! The caller, whenever anything may have changed or `again` has come:
//!
//! 1. [`Lease::step`];
//! 2. if [`Lease::memory`] differs from what is on disk, writes it there, fsynced. If that fails, it publishes and
//!    commits nothing, answers `Step::write`, if any, with [`Outcome::Unknown`], and steps again a little later;
//! 3. publishes [`Lease::believed`] (announces those subnets, and no others);
//! 4. commits `Step::write`, if any, in the background and brings the answer to [`Lease::answered`]: always,
//!    [`Outcome::Unknown`] if it gave up on it;
//! 5. asks for a listing if `Step::relist`.
//!
//! Listings must be linearizable: a listing of an older revision than one seen means that the store was set back.
//!
//! # What holds
//!
//! A node *believes* in the subnets that it announces. It believes in what is on its disk from the start, store or
//! not, and in a new subnet once its claim stands in its mirror and is on its disk.
//!
//! * **One owner.** No two nodes believe in overlapping subnets. Claims under one key exclude each other by
//!   transaction; those of overlapping subnets under several keys by the revision at which they came to be:
//!   the younger is taken back by its own node before it is believed. This can be broken only from outside, and then
//!   no longer than until both nodes have seen the store as it is after that:
//!   1. claims vanished that nobody gave up: the store was wiped or restored from a snapshot, or a claim deleted by
//!      hand;
//!   2. a subnet was reclaimed from a node that was out of reach, not gone;
//!   3. a disk was copied to another host or restored from a backup.
//! * **Whoever has it keeps it.** A subnet on disk leaves it only if it was released, or if the store shows
//!   somebody else's claim (after 1. or 2.), or if the disk was written under another name or address and the store
//!   does not confirm it (3.). After a loss of history the older holder wins, by the times in the claims, and what
//!   a node can prove to have been superseded does not count.
//! * **Progress.** When the store is in reach, nothing changes any more and a subnet is free, everybody who wants one
//!   gets one, unless another node is in its place.
//! * **Quiet.** Without changes from outside each node writes a bounded number of times and then no more; whatever
//!   comes from outside, not more than a burst of 16 and one write a second.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::claim::{Claim, Owner};
use super::mirror::{Mirror, Stored};
use super::{Expect, Outcome, Write};
use crate::net::{Family, Prefix};

mod claiming;
mod holding;
mod memory;
mod pace;
mod pick;
mod place;
mod requests;
mod silence;
mod words;

pub use memory::{Held, Memory};
pub use words::{Ask, HeldState, How, Me, Now, PoolUse, Refusal, Rival, Said, Same, State, Step, Wanted, Wanting, Why};

use pace::{LITTLE_PATIENCE, PATIENCE, Pace, Wait};
use requests::Errand;
use silence::Silence;

/// Owners who come back to a store that has lost everything come before those who want something new.
const OWNERS_FIRST: Duration = Duration::from_secs(3);

/// With no subnet left, it is looked for again even if nothing is heard from the store.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What a write is for.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Doing {
    /// To hold a subnet
    Claim(Prefix, How),
    /// Said when it is done
    Say(Said),
    /// Nothing to be said of
    Quietly,
}

/// A write and what it is for.
type Act = (Write, Doing);

/// Which subnets this node holds, wants, gives up.
#[derive(Debug)]
pub struct Lease {
    me: Me,
    memory: Memory,
    wanted: Wanted,
    /// What the store has confirmed since the start, where the disk was written under another name or address
    verified: BTreeSet<Prefix>,
    /// A listing was looked at
    looked: bool,
    /// Highest revision of the store that was seen
    seen: i64,
    /// A generation under which the store was set back: to be replaced
    stale: Option<String>,
    /// The write whose answer is not there yet
    doing: Option<Act>,
    /// What the mirror has to show before the next write
    wait: Option<Wait>,
    pace: Pace,
    /// Our last claims, with their revision
    written: BTreeMap<Prefix, (i64, How)>,
    /// Another node in our place, for which we wait, and since when
    blocked: Option<(Rival, Instant)>,
    /// Another node in our place, which has to wait for us
    rival: Option<Rival>,
    /// Nothing new is claimed before
    claim_after: Option<Instant>,
    errands: VecDeque<Errand>,
    silence: Silence,
    /// Families without a free subnet
    exhausted: BTreeSet<Family>,
    said: Vec<Said>,
}

impl Lease {
    /// A node with what it had on disk.
    pub fn new(me: Me, mut memory: Memory) -> Self {
        if memory.name.is_empty() {
            memory.name.clone_from(&me.name);
            memory.address = Some(me.address);
        }
        if memory.name != me.name && !memory.names.contains(&me.name) {
            // On disk before a claim stands under it: however often the host is renamed, it knows its own.
            memory.names.push(me.name.clone());
        }
        Self {
            seen: memory.revision,
            me,
            memory,
            wanted: Wanted::default(),
            verified: BTreeSet::new(),
            looked: false,
            stale: None,
            doing: None,
            wait: None,
            pace: Pace::default(),
            written: BTreeMap::new(),
            blocked: None,
            rival: None,
            claim_after: None,
            errands: VecDeque::new(),
            silence: Silence::default(),
            exhausted: BTreeSet::new(),
            said: Vec::new(),
        }
    }

    /// What the node is to have from now on; what it holds beyond that stays.
    pub fn set_wanted(&mut self, wanted: Wanted) {
        self.wanted = wanted;
    }

    /// Looks at everything; see the module for what the caller does with it.
    ///
    /// `mirror` is none before the first listing. `announced` says whether somebody else announces a route
    /// for just this prefix or one within it.
    pub fn step(&mut self, now: Now, mirror: Option<&Mirror>, announced: &dyn Fn(&Prefix) -> bool) -> Step {
        let mut step = Step::default();
        if let Some(mirror) = mirror {
            let act = self.look(now, mirror, announced, &mut step);
            if let Some(act) = act {
                self.pace.spend(now.at);
                step.write = Some(act.0.clone());
                self.doing = Some(act);
            }
        }
        step.said = std::mem::take(&mut self.said);
        step
    }

    fn look(&mut self, now: Now, mirror: &Mirror, announced: &dyn Fn(&Prefix) -> bool, step: &mut Step) -> Option<Act> {
        self.notice(now, mirror);
        self.look_around(now, mirror);
        self.silence.pass(now.at, mirror);
        // Whatever else goes on: what is another's is given up as soon as that is known.
        let tended = self.tend(mirror);
        if !mirror.is_fresh() || self.doing.is_some() {
            return None;
        }
        if let Some(wait) = &mut self.wait {
            if !wait.is_over(now.at, mirror, step) {
                return None;
            }
            self.wait = None;
        }
        if self.blocked.is_some() {
            step.again = self.new_id_at();
            return None;
        }
        if let Some(at) = self.pace.not_before(now.at) {
            step.again = Some(at);
            return None;
        }
        if self.generation(mirror).is_none() {
            return Some(new_generation(now, mirror));
        }
        let held = self.memory.held.len();
        let act = tended.or_else(|| self.unheld(now, mirror));
        // What has just come may leave something to be tidied up.
        let act = if self.memory.held.len() == held { act } else { act.or_else(|| self.tend(mirror)) };
        act.or_else(|| self.errand(now, mirror)).or_else(|| self.pick(now, mirror, announced, step))
    }

    /// What became of the write of a step.
    pub fn answered(&mut self, now: Now, outcome: Outcome) {
        let Some((_, doing)) = self.doing.take() else { return };
        match outcome {
            Outcome::Done(revision) => {
                self.pace.succeeded();
                self.wait = Some(Wait::revision(revision, now.at + PATIENCE));
                match doing {
                    Doing::Claim(subnet, how) => drop(self.written.insert(subnet, (revision, how))),
                    Doing::Say(said) => self.said.push(said),
                    Doing::Quietly => {}
                }
            }
            Outcome::Refused(revision) => {
                self.pace.failed(now);
                // That of the whole store: the change may lie further back, and be here already.
                self.wait = Some(Wait::revision(revision, now.at + LITTLE_PATIENCE));
            }
            Outcome::Unknown => {
                self.pace.failed(now);
                self.wait = Some(Wait::listing());
            }
        }
    }

    /// What we announce, once the memory is on disk.
    pub fn believed(&self) -> Vec<Prefix> {
        let held = self.memory.held.iter().map(|held| held.subnet);
        held.filter(|subnet| !self.is_suspect() || self.verified.contains(subnet)).collect()
    }

    /// What must be on disk before [`Self::believed`] is published.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// This node's id, as it stands in its claims, record and sign of life. A step may change it
    /// ([`Said::Copied`]).
    pub fn id(&self) -> &str {
        &self.memory.id
    }

    /// Whether the node may show itself in the store: its record, its sign of life. False until the first
    /// step with a listing, and while another node is in its place.
    pub fn may_show(&self) -> bool {
        self.looked && self.blocked.is_none()
    }

    /// For the views.
    pub fn state(&self, mirror: Option<&Mirror>) -> State {
        let believed = self.believed();
        let claimed = |held: &Held| {
            let claim = mirror.and_then(|mirror| own_key(mirror, &held.subnet));
            claim.is_some_and(|claim| self.is_ours(&claim.value))
        };
        let held = self.memory.held.iter().map(|held| HeldState {
            subnet: held.subnet,
            since: held.since,
            believed: believed.contains(&held.subnet),
            confirmed: claimed(held),
            outside: !self.in_pools(&held.subnet),
        });
        let in_reach = mirror.is_some_and(Mirror::is_fresh);
        let wanting = Family::ALL.into_iter().filter_map(|family| {
            let count = self.need(family);
            let why = match () {
                () if !in_reach => Why::NoStore,
                () if self.blocked.is_some() => Why::Blocked,
                () if self.exhausted.contains(&family) => Why::Exhausted,
                () => Why::Claiming,
            };
            (count > 0).then_some(Wanting { family, count, why })
        });
        let pools = self.wanted.ranges.iter().filter_map(|range| {
            let barred = pick::barred(range, mirror?.claims());
            let used = barred.iter().fold(0_u128, |used, (first, last)| used.saturating_add(last - first + 1));
            Some(PoolUse { pool: range.pool, subnet_len: range.subnet_len, total: range.count(), used })
        });
        State {
            held: held.collect(),
            wanting: wanting.collect(),
            blocked: self.blocked.as_ref().map(|(rival, _)| rival.clone()),
            rival: self.rival.clone(),
            left: self.memory.left,
            pools: pools.collect(),
            generation: self.memory.generation.clone(),
        }
    }

    /// Looks whether the store is the one that we knew, with all that we knew of it.
    fn notice(&mut self, now: Now, mirror: &Mirror) {
        let first = !std::mem::replace(&mut self.looked, true);
        if first && mirror.is_virgin() {
            self.claim_after = Some(now.at + OWNERS_FIRST);
        }
        let generation = mirror.generation().map_or("", |stored| stored.value.as_str());
        // A claim that was written before our own under the same key: ours came after it, and is lost.
        let outdated = self.memory.held.iter().any(|held| {
            let claim = own_key(mirror, &held.subnet);
            held.generation == generation && claim.is_some_and(|claim| claim.modified < held.modified)
        });
        let set_back = mirror.revision() < self.seen || outdated;
        if set_back {
            self.said.push(Said::SetBack { seen: self.seen, now: mirror.revision() });
            self.seen = mirror.revision();
            if generation == self.memory.generation && !generation.is_empty() {
                // Nobody has noticed before us. The others learn of it by another generation.
                self.stale = Some(generation.to_owned());
            }
            self.memory.generation.clear();
            self.memory.held.iter_mut().for_each(|held| held.generation.clear());
        }
        self.seen = self.seen.max(mirror.revision());
        if self.stale.as_deref() != Some(generation) {
            self.stale = None;
        }
        let known = &self.memory.generation;
        let other = !generation.is_empty() && self.stale.is_none() && known != generation;
        if other && !known.is_empty() {
            self.said.push(Said::Generation { from: known.clone(), to: generation.to_owned() });
        }
        if set_back || other && !known.is_empty() {
            // Revisions of what was lost mean nothing any more.
            self.written.clear();
            self.wait = None;
            self.claim_after = Some(now.at + OWNERS_FIRST);
        }
        if other {
            generation.clone_into(&mut self.memory.generation);
        }
        if set_back || other {
            self.memory.revision = mirror.revision();
        }
    }

    /// The store's generation, unless there is none or it is to be replaced.
    fn generation<'a>(&self, mirror: &'a Mirror) -> Option<&'a str> {
        let stored = mirror.generation().filter(|stored| self.stale.as_deref() != Some(stored.value.as_str()))?;
        Some(&stored.value)
    }

    /// Whether the disk was written under another name or address: it may be a copy.
    fn is_suspect(&self) -> bool {
        self.memory.name != self.me.name || self.memory.address != Some(self.me.address)
    }

    /// Whether a claim is this node's.
    fn is_ours(&self, claim: &Claim) -> bool {
        claim.owner().is_some_and(|owner| {
            let name = owner.node == self.memory.name || self.memory.names.contains(&owner.node);
            name && owner.id == self.memory.id && !owner.id.is_empty()
        })
    }

    /// Whether a claim is that of this host as it was before its disk was lost: the same name at the same address.
    fn was_ours(&self, claim: &Claim) -> bool {
        let owner = claim.owner().filter(|owner| !owner.id.is_empty() && owner.id != self.memory.id);
        owner.is_some_and(|owner| owner.node == self.me.name) && claim.is_at(self.me.address)
    }

    /// Whether another program has claimed just this subnet for this very host, wherever that was then: of what we hold
    /// it has only been taken over.
    fn is_imported(&self, subnet: &Prefix, claimed: &Prefix, claim: &Claim) -> bool {
        let mut addresses = self.memory.former.iter().chain(&self.memory.address).chain([&self.me.address]);
        subnet == claimed && claim.owner().is_none() && addresses.any(|address| claim.is_at(*address))
    }

    /// Our claim of a subnet.
    fn claim(&self, since: u64) -> Claim {
        let owner = Owner { node: self.me.name.clone(), id: self.memory.id.clone(), since };
        Claim::of(owner, Some(self.me.address))
    }

    fn in_pools(&self, subnet: &Prefix) -> bool {
        self.wanted.ranges.iter().any(|range| range.pool.covers(subnet))
    }

    /// How many more subnets of a family are wanted.
    fn need(&self, family: Family) -> usize {
        if !self.wanted.ranges.iter().any(|range| range.pool.family() == family) {
            return 0;
        }
        let usual = if self.memory.left { 0 } else { self.wanted.per_family };
        let asked = self.memory.asked.iter().filter(|ask| **ask == Ask::Another(family)).count();
        usual.saturating_sub(self.memory.count(family)).max(asked)
    }
}

/// Begins a generation of the store, in place of what is there.
fn new_generation(now: Now, mirror: &Mirror) -> Act {
    let expect = mirror.generation().map_or(Expect::Absent, |stored| Expect::Modified(stored.modified));
    let value = format!("{:032x}", now.chance).into_bytes();
    (Write { key: mirror.keys().generation(), expect, value: Some(value) }, Doing::Quietly)
}

/// The claim of a subnet under the key under which we would claim it.
fn own_key<'a>(mirror: &'a Mirror, subnet: &Prefix) -> Option<&'a Stored<Claim>> {
    mirror.claim_at(subnet, &mirror.keys().subnet(subnet))
}

/// Removes a claim, as it is.
fn remove(claim: &Stored<Claim>) -> Write {
    Write { key: claim.key.clone(), expect: Expect::Modified(claim.modified), value: None }
}

#[cfg(test)]
mod tests;
