//! Whether another node is in our place: with our name, our address, or a copy of our disk.

use std::time::Instant;

use super::{Lease, Memory, Now, Rival, Said, Same};
use crate::cluster::mirror::Mirror;
use crate::cluster::node::Alive;

impl Lease {
    /// Looks at who is alive. Of two nodes in one place that which came second waits, and writes nothing.
    pub(super) fn look_around(&mut self, now: Now, mirror: &Mirror) {
        let alive = mirror.alive();
        let own = alive.get(&self.me.name).filter(|stored| self.is_me(&stored.value));
        let (mut before_us, mut after_us) = (None, None);
        for (name, stored) in alive {
            let Some(same) = self.same(name, &stored.value) else { continue };
            let rival = Rival { name: name.clone(), address: stored.value.address, same };
            let first = own.is_some_and(|own| own.created < stored.created);
            (if first { &mut after_us } else { &mut before_us }).get_or_insert(rival);
        }
        if after_us != self.rival {
            self.said.extend(after_us.clone().map(Said::Rival));
            self.rival = after_us;
        }
        let since = match (&self.blocked, &before_us) {
            (Some((was, since)), Some(rival)) if was == rival => *since,
            (_, Some(rival)) => {
                self.said.push(Said::Blocked(rival.clone()));
                now.at
            }
            (Some(_), None) => {
                self.said.push(Said::Unblocked);
                now.at
            }
            (None, None) => now.at,
        };
        self.blocked = before_us.map(|rival| (rival, since));
        if self.new_id_at().is_some_and(|at| now.at >= at)
            && let Some((rival, _)) = self.blocked.take()
        {
            self.become_new(now, rival.name);
        }
    }

    /// When we take another id, because the node that has ours lives and we hold nothing by it. Signs of life
    /// outlast their node by some time, so we wait for longer than that: it may have been ourselves.
    pub(super) fn new_id_at(&self) -> Option<Instant> {
        let (rival, since) = self.blocked.as_ref()?;
        (rival.same == Same::Id && self.believed().is_empty()).then_some(*since + self.wanted.ttl * 2)
    }

    fn become_new(&mut self, now: Now, of: String) {
        self.memory = Memory {
            name: self.me.name.clone(),
            address: Some(self.me.address),
            revision: self.memory.revision,
            generation: std::mem::take(&mut self.memory.generation),
            ..Memory::new(format!("{:032x}", now.chance))
        };
        self.verified.clear();
        self.written.clear();
        self.said.push(Said::Copied { of });
    }

    fn is_me(&self, alive: &Alive) -> bool {
        alive.id == self.memory.id && alive.address == self.me.address
    }

    /// What a node that lives has in common with us, without being us. Ourselves under a former name or address is
    /// not told from a copy of us: that takes as long as a sign of life outlasts us.
    fn same(&self, name: &str, alive: &Alive) -> Option<Same> {
        match () {
            () if name == self.me.name && self.is_me(alive) => None,
            () if name == self.me.name => Some(Same::Name),
            () if alive.address == self.me.address => Some(Same::Address),
            () if alive.id == self.memory.id => Some(Same::Id),
            () => None,
        }
    }
}
