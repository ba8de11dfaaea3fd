//! The next hops in use: how each is resolved, and which may have to be resolved again.

use std::collections::BTreeSet;

use ahash::RandomState;
use hashbrown::{HashMap, HashSet};

use super::NextHop;
use super::encap::Encap;
use super::resolve::{Context, Resolution, Through};
use super::topology::Affected;
use crate::net::Prefix;

/// A next hop that is followed.
#[derive(Debug)]
pub(super) struct Followed {
    pub resolution: Resolution,
    /// For the RIB
    pub distance: Option<u32>,
    /// Distance for the route that leads to it, which can't lead to it
    detour: Option<u32>,
    /// Sets it is in
    pub sets: usize,
}

impl Followed {
    fn new(next_hop: NextHop, context: &Context<'_>) -> Self {
        let resolution = context.resolve(next_hop, None);
        let detour = match resolution.through {
            Some(Through::Ours(prefix)) => context.resolve(next_hop, Some(prefix)).distance(),
            _ => None,
        };
        Self { distance: resolution.distance(), resolution, detour, sets: 0 }
    }

    /// On-link by the kernel's own routes and without a tunnel: no route of ours matters to it.
    pub(super) fn is_direct(&self) -> bool {
        self.resolution.outcome.is_ok() && self.resolution.encap == Encap::Direct
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct NextHops {
    followed: HashMap<NextHop, Followed, RandomState>,
    /// The same, in order: which lie in a prefix?
    order: BTreeSet<NextHop>,
    /// Those for which routes of ours matter
    indirect: BTreeSet<NextHop>,
    dirty: BTreeSet<NextHop>,
    all_dirty: bool,
}

impl NextHops {
    /// A next hop, followed from now on.
    pub(super) fn follow(&mut self, next_hop: NextHop, context: &Context<'_>) -> &mut Followed {
        // Looked up twice when new: an entry would need `next_hop`'s resolution beforehand.
        if !self.followed.contains_key(&next_hop) {
            let followed = Followed::new(next_hop, context);
            self.order.insert(next_hop);
            if !followed.is_direct() {
                self.indirect.insert(next_hop);
            }
            self.followed.insert(next_hop, followed);
        }
        self.followed.entry(next_hop).or_insert_with(|| Followed::new(next_hop, context))
    }

    pub(super) fn get(&self, next_hop: NextHop) -> Option<&Followed> {
        self.followed.get(&next_hop)
    }

    pub(super) fn get_mut(&mut self, next_hop: NextHop) -> Option<&mut Followed> {
        self.followed.get_mut(&next_hop)
    }

    pub(super) fn len(&self) -> usize {
        self.followed.len()
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NextHop, &Followed)> {
        self.order.iter().filter_map(|next_hop| Some((*next_hop, self.followed.get(next_hop)?)))
    }

    /// The kernel's ways to some destinations changed.
    pub(super) fn mark(&mut self, affected: Affected) {
        match affected {
            Affected::Nothing => {}
            Affected::All => self.all_dirty = true,
            Affected::Prefix(prefix) if self.all_dirty || first_in(&self.order, prefix).is_none() => {}
            Affected::Prefix(prefix) => {
                self.dirty.extend(all_in(&self.order, prefix));
                // What was resolved through one of them has changed with it.
                self.dirty.extend(&self.indirect);
            }
        }
    }

    /// Routes of ours lead elsewhere.
    pub(super) fn mark_indirect(&mut self) {
        if !self.all_dirty {
            self.dirty.extend(&self.indirect);
        }
    }

    /// A route of ours changed.
    pub(super) fn mark_own(&mut self, prefix: Prefix) {
        if !self.all_dirty && first_in(&self.indirect, prefix).is_some() {
            self.dirty.extend(all_in(&self.indirect, prefix));
        }
    }

    /// Whether anything is marked.
    pub(super) fn is_dirty(&self) -> bool {
        self.all_dirty || !self.dirty.is_empty()
    }

    /// Resolves again what is marked. Returns the next hops whose hops changed; adds those whose
    /// distance did to `moved`.
    pub(super) fn settle(
        &mut self,
        context: &Context<'_>,
        moved: &mut BTreeSet<std::net::IpAddr>,
    ) -> HashSet<NextHop, RandomState> {
        let dirty = std::mem::take(&mut self.dirty);
        let dirty = if std::mem::take(&mut self.all_dirty) { self.order.clone() } else { dirty };
        let mut changed = HashSet::default();
        for next_hop in dirty {
            let Some(known) = self.followed.get_mut(&next_hop) else { continue };
            let fresh = Followed { sets: known.sets, ..Followed::new(next_hop, context) };
            // All that the answer for any one prefix depends on.
            let for_rib = |one: &Followed| (one.distance, one.detour, one.resolution.encap, one.resolution.through);
            if for_rib(known) != for_rib(&fresh) {
                moved.insert(next_hop.addr);
            }
            if known.resolution != fresh.resolution {
                changed.insert(next_hop);
            }
            if fresh.is_direct() {
                self.indirect.remove(&next_hop);
            } else {
                self.indirect.insert(next_hop);
            }
            *known = fresh;
        }
        changed
    }

    /// Stops following those that are in no set and that `in_use` denies.
    pub(super) fn forget(&mut self, in_use: impl Fn(&NextHop) -> bool) {
        self.followed.retain(|next_hop, followed| followed.sets > 0 || in_use(next_hop));
        let Self { followed, order, indirect, .. } = self;
        order.retain(|next_hop| followed.contains_key(next_hop));
        indirect.retain(|next_hop| followed.contains_key(next_hop));
    }
}

fn all_in(order: &BTreeSet<NextHop>, prefix: Prefix) -> impl Iterator<Item = NextHop> {
    order.range(NextHop::new(prefix.addr())..).copied().take_while(move |next_hop| prefix.contains(next_hop.addr))
}

fn first_in(order: &BTreeSet<NextHop>, prefix: Prefix) -> Option<NextHop> {
    all_in(order, prefix).next()
}
