//! What we do not hold yet: claims of ours that are not on our disk, and new ones.

use std::time::Duration;

use super::{Act, Ask, Doing, Held, How, LOOK_AGAIN, Lease, Now, Refusal, Said, Step, own_key, pick, remove};
use crate::cluster::flannel::Range;
use crate::cluster::mirror::{Mirror, Stored};
use crate::cluster::{Expect, Write, claim::Claim};
use crate::net::{Family, Prefix};

impl Lease {
    /// Looks at claims of ours that we do not hold: takes those up that were just written and those that a crash or
    /// a lost answer left behind, if they are wanted, and removes the rest.
    pub(super) fn unheld(&mut self, now: Now, mirror: &Mirror) -> Option<Act> {
        for (subnet, stored) in mirror.claims() {
            let mine = self.is_ours(&stored.value) || self.was_ours(&stored.value);
            if !mine || self.memory.holds(subnet) {
                continue;
            }
            let others = || {
                mirror.overlapping(subnet).filter(|(claimed, other)| {
                    !self.is_ours(&other.value)
                        && !self.was_ours(&other.value)
                        && !self.is_imported(subnet, claimed, &other.value)
                })
            };
            let just_written = self.written.get(subnet).filter(|(modified, _)| *modified == stored.modified);
            let wanted = self.is_wanted(subnet);
            match just_written {
                Some((_, how)) if wanted && !others().any(|(_, other)| other.created < stored.created) => {
                    let how = *how;
                    self.hold(subnet, stored, how, mirror);
                }
                // Written anew before it is relied on: a removal that is still on its way must miss it.
                None if wanted && others().next().is_none() => {
                    let since = stored.value.owner().map_or(now.unix, |owner| owner.since);
                    return Some(self.claiming(mirror, subnet, Some(stored), since, How::Again));
                }
                _ => return Some((remove(stored), Doing::Quietly)),
            }
        }
        None
    }

    fn hold(&mut self, subnet: &Prefix, stored: &Stored<Claim>, how: How, mirror: &Mirror) {
        let since = stored.value.owner().map_or(0, |owner| owner.since);
        let generation = self.memory.generation.clone();
        let held = Held { subnet: *subnet, since, modified: stored.modified, generation };
        self.memory.take(held, self.wanted.per_family);
        self.memory.revision = mirror.revision();
        self.verified.insert(*subnet);
        self.written.remove(subnet);
        self.exhausted.remove(&subnet.family());
        self.said.push(Said::Took { subnet: *subnet, how });
    }

    /// Whether we would take this subnet if it were ours for the asking.
    fn is_wanted(&self, subnet: &Prefix) -> bool {
        let usual = self.need(subnet.family()) > 0 && self.in_pools(subnet);
        self.is_asked(subnet) || usual && !self.memory.released.contains(subnet)
    }

    pub(super) fn is_asked(&self, subnet: &Prefix) -> bool {
        self.memory.asked.contains(&Ask::Subnet(*subnet))
    }

    /// A new claim, or the next of what is asked for.
    pub(super) fn pick(
        &mut self,
        now: Now,
        mirror: &Mirror,
        announced: &dyn Fn(&Prefix) -> bool,
        step: &mut Step,
    ) -> Option<Act> {
        let needy: Vec<Family> = Family::ALL.into_iter().filter(|family| self.need(*family) > 0).collect();
        self.exhausted.retain(|family| needy.contains(family));
        if needy.is_empty() && self.memory.asked.is_empty() {
            return None;
        }
        if let Some(after) = self.claim_after.filter(|after| now.at < *after) {
            step.again = Some(after);
            return None;
        }
        let asked = self.asked(now, mirror, announced);
        if asked.is_some() {
            return asked;
        }
        for family in needy {
            let taken = self.known_to_us(now, family, mirror, announced);
            let taken = taken.or_else(|| {
                let free = self.free(family, mirror, announced)?;
                Some(self.claiming(mirror, &free, None, now.unix, How::Free))
            });
            let taken = taken.or_else(|| self.take_from_silent(family, mirror, announced, now, step));
            if taken.is_some() {
                self.exhausted.remove(&family);
                return taken;
            }
            if self.exhausted.insert(family) {
                self.said.push(Said::Exhausted { family });
            }
            let later = now.at + LOOK_AGAIN;
            step.again = Some(step.again.map_or(later, |again| again.min(later)));
        }
        None
    }

    /// What an operator asked for by its prefix; what has gone to another meanwhile is dropped.
    fn asked(&mut self, now: Now, mirror: &Mirror, announced: &dyn Fn(&Prefix) -> bool) -> Option<Act> {
        for ask in self.memory.asked.clone() {
            let Ask::Subnet(subnet) = ask else { continue };
            match self.obstacle(&subnet, mirror, announced) {
                Ok((under_key, how)) => return Some(self.claiming(mirror, &subnet, under_key, now.unix, how)),
                Err(why) => {
                    self.memory.asked.retain(|other| *other != ask);
                    self.said.push(Said::Dropped { subnet, why });
                }
            }
        }
        None
    }

    /// What of a certain subnet keeps us from taking it; if nothing does, the claim that ours is to replace.
    pub(super) fn obstacle<'a>(
        &self,
        subnet: &Prefix,
        mirror: &'a Mirror,
        announced: &dyn Fn(&Prefix) -> bool,
    ) -> Result<(Option<&'a Stored<Claim>>, How), Refusal> {
        let mut how = How::Free;
        for (claimed, other) in mirror.overlapping(subnet) {
            if claimed == subnet && other.value.owner().is_none() && other.value.is_at(self.me.address) {
                how = How::Imported;
            } else if claimed == subnet && other.value.reserved() == Some(self.me.name.as_str()) {
                how = How::Reserved;
            } else if !(claimed == subnet && (self.is_ours(&other.value) || self.was_ours(&other.value))) {
                return Err(Refusal::Taken { subnet: *claimed, by: other.value.holder() });
            }
        }
        if announced(subnet) {
            return Err(Refusal::Announced(*subnet));
        }
        Ok((own_key(mirror, subnet), how))
    }

    /// What we had before, or what is reserved for us.
    fn known_to_us(
        &self,
        now: Now,
        family: Family,
        mirror: &Mirror,
        announced: &dyn Fn(&Prefix) -> bool,
    ) -> Option<Act> {
        let reserved = mirror.claims().filter(|(_, stored)| stored.value.reserved() == Some(self.me.name.as_str()));
        let known = self.memory.wishes.iter().chain(reserved.map(|(subnet, _)| subnet));
        let mut known = known.filter(|subnet| subnet.family() == family && self.is_wanted(subnet));
        known.find_map(|subnet| {
            let (under_key, how) = self.obstacle(subnet, mirror, announced).ok()?;
            // flannel's is not taken from under it unless that is asked for.
            let how = if self.memory.wishes.contains(subnet) && how == How::Free { How::Again } else { how };
            (how != How::Imported).then(|| self.claiming(mirror, subnet, under_key, now.unix, how))
        })
    }

    fn free(&self, family: Family, mirror: &Mirror, announced: &dyn Fn(&Prefix) -> bool) -> Option<Prefix> {
        self.ranges(family).find_map(|range| {
            let barred = pick::barred(range, mirror.claims());
            let refuse = |subnet: &Prefix| self.memory.released.contains(subnet) || announced(subnet);
            pick::choose(range, &barred, pick::start(&self.me.name), refuse)
        })
    }

    /// Takes away the subnet of the node that has been silent for the longest time, if that is long enough.
    fn take_from_silent(
        &self,
        family: Family,
        mirror: &Mirror,
        announced: &dyn Fn(&Prefix) -> bool,
        now: Now,
        step: &mut Step,
    ) -> Option<Act> {
        let enough = self.wanted.reclaim_after?;
        let silent = mirror.claims().filter_map(|(subnet, stored)| {
            let owner = stored.value.owner().filter(|owner| !owner.id.is_empty() && owner.node != self.me.name)?;
            let of_use = self.ranges(family).any(|range| range.places(subnet).is_some()) && !announced(subnet);
            Some((self.silence.of(&owner.node).filter(|_| of_use)?, subnet, stored))
        });
        // The first of equals.
        let (silent, subnet, stored) =
            silent.fold(None, |best: Option<(Duration, _, _)>, next| best.filter(|b| b.0 >= next.0).or(Some(next)))?;
        if let Some(missing) = enough.checked_sub(silent).filter(|missing| !missing.is_zero()) {
            step.again = Some(now.at + missing);
            return None;
        }
        let from = stored.value.holder();
        Some((remove(stored), Doing::Say(Said::Reclaimed { subnet: *subnet, from })))
    }

    fn ranges(&self, family: Family) -> impl Iterator<Item = &Range> {
        self.wanted.ranges.iter().filter(move |range| range.pool.family() == family)
    }

    /// Our claim of a subnet, in place of what is there.
    fn claiming(
        &self,
        mirror: &Mirror,
        subnet: &Prefix,
        replaced: Option<&Stored<Claim>>,
        since: u64,
        how: How,
    ) -> Act {
        let expect = replaced.map_or(Expect::Absent, |stored| Expect::Modified(stored.modified));
        let value = self.claim(since).write();
        (Write { key: mirror.keys().subnet(subnet), expect, value: Some(value) }, Doing::Claim(*subnet, how))
    }
}
