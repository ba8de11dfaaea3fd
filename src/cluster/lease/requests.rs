//! What an operator asks for.
//!
//! What concerns ourselves goes into the memory and is done by the machine like anything else it wants. What concerns
//! others is an errand: a state of the store to be brought about, looked at anew before each write.

use std::net::IpAddr;

use super::{Act, Ask, Doing, Lease, Now, Refusal, Said, own_key, remove};
use crate::cluster::claim::{Claim, Owner};
use crate::cluster::mirror::{Mirror, Stored};
use crate::cluster::{Expect, Write};
use crate::net::Prefix;

/// Something to be brought about in the store.
#[derive(Clone, Debug)]
pub enum Errand {
    /// A claim is to be gone
    Remove {
        subnet: Prefix,
        key: String,
        /// As it was when that was asked for
        modified: i64,
        /// Though its node is alive
        force: bool,
        /// Said when it is done
        done: Option<Said>,
    },
    /// A subnet is to be set aside
    Reserve {
        subnet: Prefix,
        node: String,
        /// What another program has claimed for that node, and is to give way
        import: Option<(String, IpAddr)>,
    },
}

impl Lease {
    /// One more subnet, or a certain one.
    pub fn ask(&mut self, ask: Ask, mirror: Option<&Mirror>) -> Result<(), Refusal> {
        match ask {
            Ask::Another(family) => {
                if !self.wanted.ranges.iter().any(|range| range.pool.family() == family) {
                    return Err(Refusal::NoPool(family));
                }
                // Whoever has given all back wants what is usual first.
                if !self.memory.left || self.memory.count(family) >= self.wanted.per_family {
                    self.memory.asked.push(ask);
                }
            }
            Ask::Subnet(subnet) => {
                if self.memory.holds(&subnet) {
                    return Err(Refusal::Ours(subnet));
                }
                if !self.in_pools(&subnet) {
                    return Err(Refusal::OutsidePools(subnet));
                }
                if let Some(mirror) = mirror {
                    self.obstacle(&subnet, mirror, &|_| false)?;
                }
                self.want(subnet);
            }
        }
        self.memory.left = false;
        Ok(())
    }

    fn want(&mut self, subnet: Prefix) {
        if !self.is_asked(&subnet) {
            self.memory.asked.push(Ask::Subnet(subnet));
        }
        self.memory.released.retain(|released| *released != subnet);
        self.memory.left = false;
    }

    /// Gives up a subnet of ours, or all of them and then takes no other until asked; or takes back a reservation. It
    /// is not announced from now on.
    pub fn release(&mut self, subnet: Option<Prefix>, mirror: Option<&Mirror>) -> Result<(), Refusal> {
        let Some(subnet) = subnet else {
            let held: Vec<Prefix> = self.memory.held.iter().map(|held| held.subnet).collect();
            for subnet in held {
                self.give_up(subnet);
            }
            // Wanted back when anything is wanted again.
            self.memory.released.clear();
            self.memory.asked.clear();
            self.memory.left = true;
            return Ok(());
        };
        if self.memory.holds(&subnet) {
            self.give_up(subnet);
            return Ok(());
        }
        if self.is_asked(&subnet) {
            self.memory.asked.retain(|ask| *ask != Ask::Subnet(subnet));
            return Ok(());
        }
        let mirror = self.in_reach(mirror)?;
        let stored = own_key(mirror, &subnet).ok_or(Refusal::NoClaim(subnet))?;
        let node = stored.value.reserved().ok_or(Refusal::NotOurs(subnet))?.to_owned();
        self.errands.push_back(Errand::removing(&subnet, stored, true, Some(Said::Unreserved { subnet, node })));
        Ok(())
    }

    fn give_up(&mut self, subnet: Prefix) {
        self.memory.lose(&subnet);
        self.memory.released.push(subnet);
        self.said.push(Said::Released { subnet });
    }

    /// Takes a subnet from a node that is gone for good. `force`: though it is alive or announces it, or is another
    /// program's.
    pub fn reclaim(
        &mut self,
        subnet: Prefix,
        force: bool,
        mirror: Option<&Mirror>,
        announced: &dyn Fn(&Prefix) -> bool,
    ) -> Result<(), Refusal> {
        let mirror = self.in_reach(mirror)?;
        let stored = mirror.claim(&subnet).ok_or(Refusal::NoClaim(subnet))?;
        let errand = self.reclaiming(&subnet, stored, force, mirror, announced)?;
        self.errands.push_back(errand);
        Ok(())
    }

    /// Takes all its subnets from a node that is gone for good: all or none.
    pub fn reclaim_node(
        &mut self,
        node: &str,
        force: bool,
        mirror: Option<&Mirror>,
        announced: &dyn Fn(&Prefix) -> bool,
    ) -> Result<(), Refusal> {
        let mirror = self.in_reach(mirror)?;
        let its = |stored: &Stored<Claim>| stored.value.owner().is_some_and(|owner| owner.node == node);
        let its = mirror.claims().filter(|(_, stored)| its(stored));
        let errands: Vec<Errand> = its
            .map(|(subnet, stored)| self.reclaiming(subnet, stored, force, mirror, announced))
            .collect::<Result<_, _>>()?;
        if errands.is_empty() {
            return Err(Refusal::NoClaims(node.to_owned()));
        }
        self.errands.extend(errands);
        Ok(())
    }

    fn reclaiming(
        &self,
        subnet: &Prefix,
        stored: &Stored<Claim>,
        force: bool,
        mirror: &Mirror,
        announced: &dyn Fn(&Prefix) -> bool,
    ) -> Result<Errand, Refusal> {
        let from = stored.value.holder();
        match stored.value.owner() {
            _ if self.is_ours(&stored.value) => return Err(Refusal::Ours(*subnet)),
            _ if force => {}
            None => return Err(Refusal::Taken { subnet: *subnet, by: from }),
            Some(owner) if !owner.id.is_empty() && mirror.alive().contains_key(&owner.node) => {
                return Err(Refusal::Alive(from));
            }
            Some(_) if announced(subnet) => return Err(Refusal::Announced(*subnet)),
            Some(_) => {}
        }
        Ok(Errand::removing(subnet, stored, force, Some(Said::Reclaimed { subnet: *subnet, from })))
    }

    /// Sets a subnet aside for a node.
    pub fn reserve(&mut self, subnet: Prefix, node: &str, mirror: Option<&Mirror>) -> Result<(), Refusal> {
        let mirror = self.in_reach(mirror)?;
        if !self.in_pools(&subnet) {
            return Err(Refusal::OutsidePools(subnet));
        }
        if let Some((subnet, other)) = mirror.overlapping(&subnet).next() {
            return Err(Refusal::Taken { subnet: *subnet, by: other.value.holder() });
        }
        self.errands.push_back(Errand::Reserve { subnet, node: node.to_owned(), import: None });
        Ok(())
    }

    /// Takes over what flannel has given to the host at `address`: for ourselves, or reserves it for the node
    /// of that name.
    pub fn import(&mut self, node: &str, address: IpAddr, mirror: Option<&Mirror>) -> Result<(), Refusal> {
        let mirror = self.in_reach(mirror)?;
        let flannels = |stored: &Stored<Claim>| stored.value.owner().is_none() && stored.value.is_at(address);
        let its: Vec<_> = mirror.claims().filter(|(_, stored)| flannels(stored)).collect();
        if its.is_empty() {
            return Err(Refusal::NotFlannels(address));
        }
        for (subnet, stored) in &its {
            if node == self.me.name && address == self.me.address {
                self.want(**subnet);
            } else {
                let import = Some((stored.key.clone(), address));
                self.errands.push_back(Errand::Reserve { subnet: **subnet, node: node.to_owned(), import });
            }
        }
        // What flannel has under one key for two subnets goes last.
        if node != self.me.name || address != self.me.address {
            for (subnet, stored) in
                its.into_iter().filter(|(subnet, stored)| stored.key != mirror.keys().subnet(subnet))
            {
                self.errands.push_back(Errand::removing(subnet, stored, true, None));
            }
        }
        Ok(())
    }

    fn in_reach<'a>(&self, mirror: Option<&'a Mirror>) -> Result<&'a Mirror, Refusal> {
        if let Some((rival, _)) = &self.blocked {
            return Err(Refusal::Blocked(rival.clone()));
        }
        mirror.filter(|mirror| mirror.is_fresh()).ok_or(Refusal::NoStore)
    }

    /// The next write for an errand; those that are done or cannot be done are dropped.
    pub(super) fn errand(&mut self, now: Now, mirror: &Mirror) -> Option<Act> {
        while let Some(errand) = self.errands.front() {
            match errand.next(now, mirror) {
                Ok(write) => return Some((write, Doing::Quietly)),
                Err(said) => {
                    self.said.extend(said);
                    self.errands.pop_front();
                }
            }
        }
        None
    }
}

impl Errand {
    fn removing(subnet: &Prefix, stored: &Stored<Claim>, force: bool, done: Option<Said>) -> Self {
        Self::Remove { subnet: *subnet, key: stored.key.clone(), modified: stored.modified, force, done }
    }

    /// The write that it needs; the error ends it, with what is to be said.
    fn next(&self, now: Now, mirror: &Mirror) -> Result<Write, Option<Said>> {
        match self {
            Self::Remove { subnet, key, modified, force, done } => {
                let Some(stored) = mirror.claim_at(subnet, key) else { return Err(done.clone()) };
                let dropped = |why| Err(Some(Said::Dropped { subnet: *subnet, why }));
                match stored.value.owner() {
                    _ if stored.modified != *modified => dropped(Refusal::Changed(*subnet)),
                    // It has come back since.
                    Some(owner) if !force && mirror.alive().contains_key(&owner.node) => {
                        dropped(Refusal::Alive(owner.node.clone()))
                    }
                    _ => Ok(remove(stored)),
                }
            }
            Self::Reserve { subnet, node, import } => {
                let key = mirror.keys().subnet(subnet);
                let mut expect = Expect::Absent;
                for (claimed, other) in mirror.overlapping(subnet) {
                    let owner = other.value.owner();
                    let imported = owner.is_none() && import.as_ref().is_some_and(|(key, _)| *key == other.key);
                    // It may have been taken already by whom it is for.
                    if claimed == subnet && owner.is_some_and(|owner| owner.node == *node) {
                        return Err(Some(Said::Reserved { subnet: *subnet, node: node.clone() }));
                    } else if !imported {
                        let why = Refusal::Taken { subnet: *claimed, by: other.value.holder() };
                        return Err(Some(Said::Dropped { subnet: *subnet, why }));
                    } else if other.key == key {
                        expect = Expect::Modified(other.modified);
                    }
                }
                let owner = Owner { node: node.clone(), id: String::new(), since: now.unix };
                let claim = Claim::of(owner, import.as_ref().map(|(_, address)| *address));
                Ok(Write { key, expect, value: Some(claim.write()) })
            }
        }
    }
}
