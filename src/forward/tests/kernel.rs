//! A kernel to test against: it carries writes out, drops what a real one drops, and tells of it
//! as a real one does, which is to say not always.
//!
//! `tests/sim` has the same file: all its words come from the module above it.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use super::*;

/// Table, links and addresses, and what it has said so far.
#[derive(Debug, Default)]
pub struct Kernel {
    pub links: BTreeMap<u32, Link>,
    pub addresses: Vec<Address>,
    pub foreign: Vec<ForeignRoute>,
    pub own: BTreeMap<Prefix, Target>,
    /// Nexthop objects, all of them ours
    pub nexthops: BTreeMap<NexthopId, Nexthop>,
    /// What the watcher's socket holds
    pub events: VecDeque<KernelEvent>,
    /// The watcher hears our own writes too
    pub echoes: bool,
    /// Writes to refuse, whatever they are
    pub refuse: u32,
    /// It takes no guarded groups
    pub no_guards: bool,
    /// Writes carried out, refused ones too
    pub written: usize,
    /// The same of nexthop objects, without removals
    pub nexthops_set: usize,
}

impl Kernel {
    pub fn dump(&self) -> Dump {
        Dump {
            links: self.links.values().cloned().collect(),
            addresses: self.addresses.clone(),
            foreign: self.foreign.clone(),
            own: self.own.iter().map(|(prefix, target)| (*prefix, target.clone())).collect(),
            nexthops: self.nexthops.iter().map(|(id, nexthop)| object(*id, nexthop)).collect(),
        }
    }

    // ---- what the writer asks for ----

    pub fn carry_out(&mut self, op: &FibOp) -> Result<(), OpError> {
        self.written += 1;
        if self.refuse > 0 {
            self.refuse -= 1;
            return Err(OpError::Other(105));
        }
        let prefix = op.prefix();
        let known = self.own.get(&prefix);
        let echo = match op {
            FibOp::Create(..) if known.is_some() || self.rival(prefix).is_some() => return Err(OpError::Exists),
            FibOp::Create(_, target) => {
                self.check(target)?;
                self.own.insert(prefix, nameless(target));
                KernelEvent::Own(prefix, nameless(target))
            }
            FibOp::Replace(_, target) => {
                self.check(target)?;
                assert!(self.rival(prefix).is_none(), "{op:?} would hit a foreign route");
                if known.is_none() {
                    return Err(OpError::NoSuchRoute);
                }
                self.own.insert(prefix, nameless(target));
                KernelEvent::Own(prefix, nameless(target))
            }
            FibOp::Remove(_, target) => {
                if known != Some(&nameless(target)) {
                    return Err(OpError::NoSuchRoute);
                }
                self.own.remove(&prefix);
                KernelEvent::OwnGone(prefix, nameless(target))
            }
        };
        if self.echoes {
            self.events.push_back(echo);
        }
        Ok(())
    }

    pub fn carry_out_nexthop(&mut self, op: &NexthopOp) -> Result<(), OpError> {
        let (id, nexthop) = match op {
            NexthopOp::Set(id, nexthop) => (*id, nexthop),
            NexthopOp::Remove(id) => {
                let gone = self.nexthops.contains_key(id);
                self.drop_nexthops(&|one| one == *id);
                return gone.then_some(()).ok_or(OpError::NoSuchRoute);
            }
        };
        self.nexthops_set += 1;
        if self.refuse > 0 {
            self.refuse -= 1;
            return Err(OpError::Other(105));
        }
        if let Nexthop::Hop(hop, _) = nexthop {
            if !self.links.get(&hop.device).ok_or(OpError::Unreachable)?.carrier {
                return Err(OpError::Unreachable);
            }
            self.check(&Target::Via([*hop].into()))?;
        }
        if self.no_guards && matches!(nexthop, Nexthop::Guarded { .. }) {
            return Err(OpError::Unreachable);
        }
        let is_hop = |id| matches!(self.nexthops.get(&id), Some(Nexthop::Hop(..)));
        assert!(!matches!(nexthop, Nexthop::Guarded { used, .. } if used.is_empty()), "{op:?}");
        if !nexthop.members().all(is_hop) {
            return Err(OpError::Unreachable);
        }
        let sort = |nexthop: &Nexthop| std::mem::discriminant(nexthop);
        let kept = self.nexthops.get(&id).is_none_or(|known| sort(known) == sort(nexthop));
        assert!(kept, "{op:?} would turn one sort into another");
        let nexthop = match nexthop {
            Nexthop::Hop(hop, family) => Nexthop::Hop(Hop { tunnel: false, ..*hop }, *family),
            nexthop => nexthop.clone(),
        };
        if self.echoes {
            self.events.push_back(KernelEvent::Nexthop(object(id, &nexthop)));
        }
        self.nexthops.insert(id, nexthop);
        Ok(())
    }

    /// Drops objects, groups that are left without members, and the routes over all of them. Returns
    /// what somebody who did it by hand would be told.
    fn drop_nexthops(&mut self, gone: &dyn Fn(NexthopId) -> bool) -> Vec<KernelEvent> {
        let mut told = Vec::new();
        let dropped: Vec<NexthopId> = self.nexthops.keys().copied().filter(|id| gone(*id)).collect();
        for id in dropped {
            self.nexthops.remove(&id);
            told.push(KernelEvent::NexthopGone(id));
            for (group, nexthop) in self.nexthops.clone() {
                match nexthop.without(&|one| one == id) {
                    Some(rest) if rest == nexthop => {}
                    Some(rest) => {
                        told.push(KernelEvent::Nexthop(object(group, &rest)));
                        self.nexthops.insert(group, rest);
                    }
                    None => {
                        told.push(KernelEvent::NexthopGone(group));
                        self.nexthops.remove(&group);
                    }
                }
            }
        }
        let nexthops = &self.nexthops;
        self.own.retain(|_, target| !matches!(target, Target::Object(id) if !nexthops.contains_key(id)));
        told
    }

    /// Where packets to a prefix of ours go.
    pub fn traffic(&self, prefix: Prefix) -> Option<Vec<Hop>> {
        let hop = |id: &NexthopId| match self.nexthops.get(id) {
            Some(Nexthop::Hop(hop, _)) => *hop,
            other => panic!("{id:?} in a group: {other:?}"),
        };
        let mut hops = match self.own.get(&prefix)? {
            Target::Via(hops) => hops.to_vec(),
            Target::Blackhole => Vec::new(),
            Target::Object(id) => match &self.nexthops[id] {
                Nexthop::Guarded { used, spare } if used.is_empty() => spare.iter().map(hop).collect(),
                Nexthop::Group(used) | Nexthop::Guarded { used, .. } => used.iter().map(hop).collect(),
                other => panic!("a route over {other:?}"),
            },
        };
        hops.sort_unstable();
        Some(hops)
    }

    /// Whether each hop's device is up and its gateway on-link there.
    fn check(&self, target: &Target) -> Result<(), OpError> {
        if let Target::Object(id) = target
            && !self.nexthops.contains_key(id)
        {
            return Err(OpError::Unreachable);
        }
        for hop in target.hops() {
            let link = self.links.get(&hop.device).ok_or(OpError::NoDevice)?;
            let gateway = hop.gateway.unwrap();
            let local = matches!(gateway, IpAddr::V6(addr) if addr.is_unicast_link_local());
            let connected =
                self.addresses.iter().any(|known| known.device == hop.device && known.prefix.contains(gateway));
            if !link.up || !(hop.onlink || local || connected) {
                return Err(OpError::Unreachable);
            }
        }
        Ok(())
    }

    fn rival(&self, prefix: Prefix) -> Option<usize> {
        self.foreign.iter().position(|route| (route.prefix, route.metric) == (prefix, METRIC))
    }

    // ---- what others do ----

    pub fn set_link(&mut self, device: u32, up: bool, carrier: bool) {
        // A tunnel has nothing that could lose its carrier.
        let carrier = carrier || device == TUNNEL;
        let Some(link) = self.links.get_mut(&device) else { return };
        let (was_up, had_carrier) = (link.up, link.up && link.carrier);
        (link.up, link.carrier) = (up, carrier && up);
        self.events.push_back(KernelEvent::Link(link.clone()));
        if had_carrier && !(up && carrier) {
            self.drop_hops_over(device);
        }
        if was_up && !up {
            self.drop_dead(device, |_| true, false);
        }
    }

    pub fn remove_link(&mut self, device: u32) {
        if self.links.remove(&device).is_none() {
            return;
        }
        self.drop_hops_over(device);
        self.drop_dead(device, |_| true, true);
        let gone: Vec<Address> = self.addresses.iter().filter(|known| known.device == device).copied().collect();
        self.addresses.retain(|known| known.device != device);
        self.events.extend(gone.into_iter().map(KernelEvent::AddressGone));
        self.events.push_back(KernelEvent::LinkGone(device));
    }

    pub fn add_link(&mut self, link: Link) {
        if !self.links.contains_key(&link.index) {
            self.events.push_back(KernelEvent::Link(link.clone()));
            self.links.insert(link.index, link);
        }
    }

    pub fn set_address(&mut self, address: Address, there: bool) {
        let position = self.addresses.iter().position(|known| *known == address);
        match position {
            None if there && self.links.contains_key(&address.device) => {
                self.addresses.push(address);
                self.events.push_back(KernelEvent::Address(address));
            }
            Some(position) if !there => {
                self.addresses.remove(position);
                self.events.push_back(KernelEvent::AddressGone(address));
                let device = address.device;
                let left = self.addresses.iter().any(|known| known.device == device && known.addr.is_ipv4());
                if !left && address.addr.is_ipv4() {
                    self.drop_dead(device, |family| family == Family::Ipv4, false);
                }
            }
            _ => {}
        }
    }

    /// Drops the hops over a device, silently.
    fn drop_hops_over(&mut self, device: u32) {
        let nexthops = self.nexthops.clone();
        self.drop_nexthops(&|id| matches!(nexthops.get(&id), Some(Nexthop::Hop(hop, _)) if hop.device == device));
    }

    /// Drops routes over a device, silently: those with no other hop, or with any (`entirely`).
    fn drop_dead(&mut self, device: u32, family: impl Fn(Family) -> bool, entirely: bool) {
        let links = &self.links;
        let alive = |hop: &Hop| hop.device != device && links.get(&hop.device).is_some_and(|link| link.up);
        let dead = |prefix: &Prefix, hops: &[Hop]| {
            family(prefix.family())
                && hops.iter().any(|hop| hop.device == device)
                && (entirely || !hops.iter().any(alive))
        };
        self.own.retain(|prefix, target| !dead(prefix, target.hops()));
        self.foreign.retain(|route| !dead(&route.prefix, &route.hops));
    }

    pub fn add_foreign(&mut self, route: ForeignRoute) -> bool {
        let taken = |known: &ForeignRoute| (known.prefix, known.metric) == (route.prefix, route.metric);
        let ours = route.metric == METRIC && self.own.contains_key(&route.prefix);
        let valid = route.hops.is_empty() || self.check(&Target::Via(route.hops.clone().into())).is_ok();
        if ours || !valid || self.foreign.iter().any(taken) {
            return false;
        }
        self.events.push_back(KernelEvent::Route(route.clone()));
        self.foreign.push(route);
        true
    }

    /// `ip route replace`: takes ours away and tells of the new one only.
    pub fn replace_foreign(&mut self, route: &ForeignRoute) {
        if route.metric == METRIC && self.rival(route.prefix).is_none() {
            let ours = self.own.remove(&route.prefix);
            if !self.add_foreign(route.clone())
                && let Some(ours) = ours
            {
                self.own.insert(route.prefix, ours);
            }
        }
    }

    pub fn remove_foreign(&mut self, prefix: Prefix, metric: u32) {
        let found = self.foreign.iter().position(|route| (route.prefix, route.metric) == (prefix, metric));
        if let Some(found) = found {
            let gone = self.foreign.remove(found);
            self.events.push_back(KernelEvent::RouteGone(gone));
        }
    }

    pub fn tamper(&mut self, prefix: Prefix, target: Option<Target>) {
        let known = self.own.contains_key(&prefix);
        match target {
            Some(target) if (known || self.rival(prefix).is_none()) && self.check(&target).is_ok() => {
                self.own.insert(prefix, target.clone());
                self.events.push_back(KernelEvent::Own(prefix, target));
            }
            Some(_) => {}
            None => {
                if let Some(target) = self.own.remove(&prefix) {
                    self.events.push_back(KernelEvent::OwnGone(prefix, target));
                }
            }
        }
    }
}

impl Kernel {
    /// Somebody deletes a nexthop object of ours, or takes what he can out of it.
    pub fn tamper_with_nexthop(&mut self, id: NexthopId, delete: bool) {
        if delete {
            let told = self.drop_nexthops(&|one| one == id);
            self.events.extend(told);
        } else if let Some(Nexthop::Group(used)) = self.nexthops.get(&id)
            && used.len() > 1
        {
            let less = Nexthop::Group(used[1..].into());
            self.events.push_back(KernelEvent::Nexthop(object(id, &less)));
            self.nexthops.insert(id, less);
        }
    }
}

fn object(id: NexthopId, nexthop: &Nexthop) -> NexthopObject {
    NexthopObject { id, protocol: PROTOCOL, nexthop: nexthop.clone() }
}

/// A route as the kernel knows it: which device is our tunnel is none of its business.
pub fn nameless(target: &Target) -> Target {
    match target {
        Target::Via(hops) => Target::Via(hops.iter().map(|hop| Hop { tunnel: false, ..*hop }).collect()),
        Target::Object(_) | Target::Blackhole => target.clone(),
    }
}
