//! A kernel to test against: it carries writes out, drops what a real one drops, and tells of it
//! as a real one does, which is to say not always.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::net::Family;

/// Table, links and addresses, and what it has said so far.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub links: BTreeMap<u32, Link>,
    pub addresses: Vec<Address>,
    pub foreign: Vec<ForeignRoute>,
    pub own: BTreeMap<Prefix, Target>,
    /// What the watcher's socket holds
    pub events: VecDeque<KernelEvent>,
    /// The watcher hears our own writes too
    pub echoes: bool,
    /// Writes to refuse, whatever they are
    pub refuse: u32,
    /// Writes carried out, refused ones too
    pub written: usize,
}

impl Kernel {
    pub(super) fn new() -> Self {
        let links = [link(ETH0, "eth0"), link(ETH1, "eth1"), link(TUNNEL, "wayleave0")];
        Self {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            addresses: vec![
                address(ETH0, "192.0.2.11/24"),
                address(ETH0, "2001:db8:1::11/64"),
                address(ETH1, "198.51.100.11/24"),
            ],
            ..Self::default()
        }
    }

    pub(super) fn dump(&self) -> Dump {
        Dump {
            links: self.links.values().cloned().collect(),
            addresses: self.addresses.clone(),
            foreign: self.foreign.clone(),
            own: self.own.iter().map(|(prefix, target)| (*prefix, target.clone())).collect(),
            nexthops: Vec::new(),
        }
    }

    // ---- what the writer asks for ----

    pub(super) fn carry_out(&mut self, op: &FibOp) -> Result<(), OpError> {
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

    /// Whether each hop's device is up and its gateway on-link there.
    fn check(&self, target: &Target) -> Result<(), OpError> {
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

    pub(super) fn set_link(&mut self, device: u32, up: bool, carrier: bool) {
        let Some(link) = self.links.get_mut(&device) else { return };
        let was_up = link.up;
        (link.up, link.carrier) = (up, carrier && up);
        self.events.push_back(KernelEvent::Link(link.clone()));
        if was_up && !up {
            self.drop_dead(device, |_| true, false);
        }
    }

    pub(super) fn remove_link(&mut self, device: u32) {
        if self.links.remove(&device).is_none() {
            return;
        }
        self.drop_dead(device, |_| true, true);
        let gone: Vec<Address> = self.addresses.iter().filter(|known| known.device == device).copied().collect();
        self.addresses.retain(|known| known.device != device);
        self.events.extend(gone.into_iter().map(KernelEvent::AddressGone));
        self.events.push_back(KernelEvent::LinkGone(device));
    }

    pub(super) fn add_link(&mut self, link: Link) {
        if !self.links.contains_key(&link.index) {
            self.events.push_back(KernelEvent::Link(link.clone()));
            self.links.insert(link.index, link);
        }
    }

    pub(super) fn set_address(&mut self, address: Address, there: bool) {
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

    pub(super) fn add_foreign(&mut self, route: ForeignRoute) -> bool {
        let taken = |known: &ForeignRoute| (known.prefix, known.metric) == (route.prefix, route.metric);
        let ours = route.metric == METRIC && self.own.contains_key(&route.prefix);
        let valid = route.hops.is_empty() || self.check(&via(&route.hops)).is_ok();
        if ours || !valid || self.foreign.iter().any(taken) {
            return false;
        }
        self.events.push_back(KernelEvent::Route(route.clone()));
        self.foreign.push(route);
        true
    }

    /// `ip route replace`: takes ours away and tells of the new one only.
    pub(super) fn replace_foreign(&mut self, route: &ForeignRoute) {
        if route.metric == METRIC && self.rival(route.prefix).is_none() {
            let ours = self.own.remove(&route.prefix);
            if !self.add_foreign(route.clone())
                && let Some(ours) = ours
            {
                self.own.insert(route.prefix, ours);
            }
        }
    }

    pub(super) fn remove_foreign(&mut self, prefix: Prefix, metric: u32) {
        let found = self.foreign.iter().position(|route| (route.prefix, route.metric) == (prefix, metric));
        if let Some(found) = found {
            let gone = self.foreign.remove(found);
            self.events.push_back(KernelEvent::RouteGone(gone));
        }
    }

    pub(super) fn tamper(&mut self, prefix: Prefix, target: Option<Target>) {
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

/// A route as the kernel knows it: which device is our tunnel is none of its business.
pub(super) fn nameless(target: &Target) -> Target {
    match target {
        Target::Via(hops) => Target::Via(hops.iter().map(|hop| Hop { tunnel: false, ..*hop }).collect()),
        Target::Object(_) | Target::Blackhole => target.clone(),
    }
}
