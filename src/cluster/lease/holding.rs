//! What we hold, against what stands in the store.

use super::{Act, Doing, Held, Lease, Said, own_key, remove};
use crate::cluster::claim::Claim;
use crate::cluster::mirror::{Mirror, Stored};
use crate::cluster::{Expect, Write};
use crate::net::Prefix;

/// How a subnet that we hold stands in the store.
enum Standing {
    /// Our claim is as it should be, written at this revision
    Good(i64),
    /// Something is to be written
    Act(Act),
    /// It is not ours any more
    Lost(Option<String>),
}

impl Lease {
    /// Looks after all that we hold: gives up what is another's, notes what is confirmed. What is to be written.
    pub(super) fn tend(&mut self, mirror: &Mirror) -> Option<Act> {
        let generation = self.generation(mirror);
        let mut next = None;
        for mut held in self.memory.held.clone() {
            match self.standing(&held, mirror) {
                Standing::Lost(to) => {
                    self.memory.lose(&held.subnet);
                    self.memory.revision = mirror.revision();
                    self.said.push(Said::Lost { subnet: held.subnet, to });
                }
                Standing::Act(act) => drop(next.get_or_insert(act)),
                Standing::Good(modified) => {
                    let Some(generation) = generation else { continue };
                    if self.blocked.is_none() {
                        self.verified.insert(held.subnet);
                    }
                    if held.modified != modified || held.generation != generation {
                        held.modified = modified;
                        generation.clone_into(&mut held.generation);
                        self.memory.revision = mirror.revision();
                        self.memory.held.iter_mut().filter(|old| old.subnet == held.subnet).for_each(|old| {
                            old.clone_from(&held);
                        });
                    }
                }
            }
        }
        // The whole disk is confirmed under our present name, or nothing is left of it that had to be.
        let confirmed = self.memory.held.iter().all(|held| self.verified.contains(&held.subnet));
        if confirmed && self.is_suspect() && self.blocked.is_none() && generation.is_some() {
            self.memory.confirm(&self.me.name, self.me.address);
        }
        next
    }

    fn standing(&self, held: &Held, mirror: &Mirror) -> Standing {
        let subnet = &held.subnet;
        // The store has kept all that happened since our claim was written there.
        let kept = self.generation(mirror).is_some_and(|generation| generation == held.generation);
        let under_key = own_key(mirror, subnet);
        let own = under_key.filter(|stored| self.is_ours(&stored.value));
        let claim = self.claim(held.since);
        let written = |expect| Write { key: mirror.keys().subnet(subnet), expect, value: Some(claim.write()) };

        let others = || {
            mirror.overlapping(subnet).filter(|(claimed, stored)| {
                !self.is_ours(&stored.value) && !self.is_imported(subnet, claimed, &stored.value)
            })
        };
        let wins = |other: &Stored<Claim>| match own {
            // The disk may be a copy, and nothing speaks for it.
            None if self.is_suspect() => true,
            _ if !kept => self.is_older(other, held, mirror),
            // Of two that stand in the store the older; of one alone that one, for ours is gone.
            Some(own) => other.created < own.created,
            None => true,
        };
        let ousted = |other: &Stored<Claim>| Doing::Say(Said::Ousted { subnet: *subnet, from: other.value.holder() });
        if let Some((_, other)) = others().find(|(_, other)| wins(other)) {
            return Standing::Lost(Some(other.value.holder()));
        }
        match (own, under_key) {
            (None, None) if self.is_suspect() && kept => Standing::Lost(None),
            (None, None) => Standing::Act((written(Expect::Absent), Doing::Say(Said::Restored { subnet: *subnet }))),
            (None, Some(other)) => Standing::Act((written(Expect::Modified(other.modified)), ousted(other))),
            (Some(own), _) => {
                if !kept && let Some((_, other)) = others().next() {
                    return Standing::Act((remove(other), ousted(other)));
                }
                if own.value != claim {
                    return Standing::Act((written(Expect::Modified(own.modified)), Doing::Quietly));
                }
                match self.left_by_import(subnet, mirror) {
                    Some(left) => Standing::Act((remove(left), Doing::Quietly)),
                    None => Standing::Good(own.modified),
                }
            }
        }
    }

    /// Whether somebody else comes before us, after the store has lost what happened between us.
    fn is_older(&self, other: &Stored<Claim>, held: &Held, mirror: &Mirror) -> bool {
        let Some(owner) = other.value.owner() else { return true };
        // What we had written over before comes back with a snapshot; it is older than the present generation.
        let from_snapshot =
            self.stale.is_some() || mirror.generation().is_some_and(|generation| other.modified < generation.modified);
        let same_key = other.key == mirror.keys().subnet(&held.subnet);
        let superseded = from_snapshot && same_key && other.modified < held.modified;
        // Nobody has containers where a subnet is but reserved.
        let ours = (held.since, &self.me.name, &self.memory.id);
        !owner.id.is_empty() && !superseded && (owner.since, &owner.node, &owner.id) < ours
    }

    /// flannel's key of two subnets, once we hold both or want only one.
    fn left_by_import<'a>(&self, subnet: &Prefix, mirror: &'a Mirror) -> Option<&'a Stored<Claim>> {
        let key = mirror.keys().subnet(subnet);
        let mut left = mirror
            .overlapping(subnet)
            .filter(|(claimed, stored)| stored.key != key && self.is_imported(subnet, claimed, &stored.value));
        let (_, left) = left.next()?;
        let waiting = |(claimed, stored): (&Prefix, &Stored<Claim>)| stored.key == left.key && self.is_asked(claimed);
        (!mirror.claims().any(waiting)).then_some(left)
    }
}
