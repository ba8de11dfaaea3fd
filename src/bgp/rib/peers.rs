//! What peers send: sessions that come and go, updates, limits and counts.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use smallvec::SmallVec;

use super::interner::Interner;
use super::{Age, Kind, Path, PeerId, Rib, Source, touch};
use crate::bgp::attrs::Attrs;
use crate::bgp::message::Update;
use crate::bgp::policy::{Edit, Import, Reject, Sender};
use crate::net::{Asn, Family, PerFamily, Prefix};

/// A peer whose session is up.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its handle
    pub id: PeerId,
    /// Its AS
    pub asn: Asn,
    /// It is in another AS
    pub external: bool,
    /// Its BGP identifier
    pub router_id: Ipv4Addr,
    /// Its address
    pub address: IpAddr,
    /// It is our client as a route reflector
    pub client: bool,
    /// Import policy
    pub import: Arc<Import>,
    /// How often our own AS may stand in a path
    pub allow_own_as: u8,
    /// Most prefixes it may send, accepted or not
    pub max_prefixes: Option<NonZeroU32>,
}

impl PeerInfo {
    fn source(&self) -> Source {
        let kind = match (self.external, self.client) {
            (true, _) => Kind::External,
            (false, true) => Kind::Client,
            (false, false) => Kind::Internal,
        };
        Source { peer: self.id, kind, router_id: self.router_id }
    }

    fn sender(&self) -> Sender {
        Sender { asn: self.asn, external: self.external, allow_own_as: self.allow_own_as }
    }
}

/// How many prefixes a peer has in the table.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Received, before policy
    pub received: usize,
    /// Accepted
    pub accepted: usize,
    /// Rejected, by number of [`Reject`]
    pub rejected: [usize; Reject::COUNT],
    /// Kept from before a restart or refresh, not sent again yet
    pub stale: usize,
}

impl Counters {
    fn add(&mut self, path: &Path) {
        self.received += 1;
        self.stale += usize::from(path.is_stale());
        match path.imported() {
            Ok(_) => self.accepted += 1,
            Err(reject) => self.rejected[reject as usize] += 1,
        }
    }

    fn sub(&mut self, path: &Path) {
        self.received -= 1;
        self.stale -= usize::from(path.is_stale());
        match path.imported() {
            Ok(_) => self.accepted -= 1,
            Err(reject) => self.rejected[reject as usize] -= 1,
        }
    }
}

/// What an update led to besides routes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// The peer's prefixes just reached three quarters of this limit
    pub warning: Option<NonZeroU32>,
    /// The peer's prefixes would exceed this limit: the rest of the update was not applied and the
    /// session is to be closed with Cease/1 (RFC 4486)
    pub over_limit: Option<NonZeroU32>,
}

/// A peer as the table keeps it.
#[derive(Debug)]
pub(super) struct Peer {
    pub info: PeerInfo,
    pub source: Source,
    /// Who it was at the last decision, if it was somebody else
    before: Option<Source>,
    up: bool,
    counters: Counters,
}

impl Peer {
    /// Who it was at the last decision.
    pub fn decided(&self) -> Source {
        self.before.unwrap_or(self.source)
    }
}

impl Rib {
    /// A session came up, or its settings changed while it is up.
    ///
    /// Paths kept from before a restart stay, unless the peer came back as somebody else.
    pub fn peer_up(&mut self, info: PeerInfo) {
        let id = info.id;
        let Some(old) = self.peers.get_mut(&id) else {
            let source = info.source();
            let counters = Counters::default();
            self.peers.insert(id, Peer { info, source, before: None, up: true, counters });
            return;
        };
        let source = info.source();
        let same = old.source == source && old.info.address == info.address;
        let policy = old.info.import != info.import || old.info.sender() != info.sender();
        if same {
            old.up = true;
            old.info = info;
            if policy {
                self.reimport(id);
            }
            return;
        }
        self.remove_paths(id, |_, _| true);
        if let Some(old) = self.peers.get_mut(&id) {
            old.before = Some(old.decided());
            old.source = source;
            old.up = true;
            old.info = info;
            self.settling.push(id);
        }
    }

    /// A session ended: all paths of the peer go.
    pub fn peer_down(&mut self, id: PeerId) {
        self.remove_paths(id, |_, _| true);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.up = false;
            self.settling.push(id);
        }
    }

    /// A session ended and the peer will be back (RFC 4724 §4.2): paths of the families to keep
    /// stay as stale, all others go.
    ///
    /// Deviation: the RFC deletes what was stale already when a peer fails again before it has sent
    /// its routes again. It keeps forwarding all the same; so these stay too, until
    /// [`sweep_older`](Self::sweep_older) at the end of the time that the first failure gave them.
    pub fn peer_restarts(&mut self, id: PeerId, keep: PerFamily<bool>) {
        self.remove_paths(id, |prefix, _| !keep[prefix.family()]);
        if let Some(peer) = self.peers.get_mut(&id) {
            for (_, entry) in self.table.iter_mut() {
                let Some(path) = entry.paths.iter_mut().find(|p| p.peer == id) else { continue };
                if path.age == Age::Fresh {
                    peer.counters.stale += 1;
                    path.age = Age::Stale;
                } else {
                    path.age = Age::Older;
                }
            }
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.up = false;
            if peer.counters.received == 0 {
                self.settling.push(id);
            }
        }
    }

    /// All paths of a family are to be sent again: a refresh begins (RFC 7313 §4).
    pub fn mark_stale(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for (_, entry) in self.table.iter_mut().filter(|(_, entry)| entry.prefix.family() == family) {
            if let Some(path) = entry.paths.iter_mut().find(|p| p.peer == id && p.age == Age::Fresh) {
                path.age = Age::Stale;
                peer.counters.stale += 1;
            }
        }
    }

    /// Paths of a family that are still stale go: End-of-RIB after a restart (RFC 4724 §4.2), the
    /// end of a refresh (RFC 7313 §4), or their time is over. How many went.
    pub fn sweep_stale(&mut self, id: PeerId, family: Family) -> usize {
        self.sweep(id, |prefix, path| path.is_stale() && prefix.family() == family)
    }

    /// Paths that are stale since before the last restart go: their time is over. How many went.
    pub fn sweep_older(&mut self, id: PeerId) -> usize {
        self.sweep(id, |_, path| path.age == Age::Older)
    }

    fn sweep(&mut self, id: PeerId, which: impl Fn(&Prefix, &Path) -> bool) -> usize {
        if self.peers.get(&id).is_none_or(|peer| peer.counters.stale == 0) {
            return 0;
        }
        let swept = self.remove_paths(id, which);
        if let Some(peer) = self.peers.get(&id)
            && !peer.up
            && peer.counters.received == 0
        {
            self.settling.push(id);
        }
        swept
    }

    /// A new import policy, applied to what the peer has sent already.
    pub fn set_import(&mut self, id: PeerId, import: Arc<Import>) {
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.info.import != import
        {
            peer.info.import = import;
            self.reimport(id);
        }
    }

    /// Counts of a peer; none if it has no session and no paths.
    pub fn counters(&self, id: PeerId) -> Option<&Counters> {
        self.peers.get(&id).map(|peer| &peer.counters)
    }

    /// What a peer is, as it told at its last session.
    pub fn peer(&self, id: PeerId) -> Option<&PeerInfo> {
        self.peers.get(&id).map(|peer| &peer.info)
    }

    /// Applies an update: withdrawals, then announcements, which replace what the peer sent before.
    pub fn update(&mut self, id: PeerId, update: &Update) -> Outcome {
        let Self { table, interner, peers, dirty, paths, removed, .. } = self;
        let mut outcome = Outcome::default();
        let Some(peer) = peers.get_mut(&id).filter(|peer| peer.up) else { return outcome };

        for prefix in &update.withdrawn {
            let Some(slot) = table.find(prefix) else { continue };
            let Some(entry) = table.get_mut(slot) else { continue };
            let Some(i) = entry.paths.iter().position(|p| p.peer == id) else { continue };
            peer.counters.sub(&entry.paths.swap_remove(i));
            *paths -= 1;
            *removed += 1;
            touch(entry, slot, dirty);
        }

        let limit = peer.info.max_prefixes;
        let most = limit.map_or(usize::MAX, |limit| limit.get() as usize);
        let before = peer.counters.received;
        'reach: for reach in &update.reach {
            let raw = interner.intern(&reach.attrs);
            let mut gate = Gate::new(&peer.info);
            for prefix in &reach.prefixes {
                let new = |gate: &mut Gate<'_>, interner: &mut Interner| {
                    let imported = gate.import(interner, prefix, &raw);
                    Path::new(id, raw.clone(), imported)
                };
                if peer.counters.received >= most
                    && table
                        .find(prefix)
                        .and_then(|slot| table.get(slot))
                        .is_none_or(|e| e.paths.iter().all(|p| p.peer != id))
                {
                    outcome.over_limit = limit;
                    break 'reach;
                }
                let slot = table.find_or_insert(prefix);
                let Some(entry) = table.get_mut(slot) else { continue };
                let Some(old) = entry.paths.iter_mut().find(|p| p.peer == id) else {
                    let path = new(&mut gate, interner);
                    peer.counters.add(&path);
                    *paths += 1;
                    entry.paths.push(path);
                    touch(entry, slot, dirty);
                    continue;
                };
                if Arc::ptr_eq(&old.raw, &raw) {
                    peer.counters.stale -= usize::from(old.is_stale());
                    old.age = Age::Fresh;
                    continue;
                }
                let path = new(&mut gate, interner);
                peer.counters.sub(old);
                peer.counters.add(&path);
                let same = old.same_import(&path);
                *old = path;
                *removed += 1;
                if !same {
                    touch(entry, slot, dirty);
                }
            }
        }
        // Told once, when it is crossed.
        let enough = most - most / 4;
        if before < enough && peer.counters.received >= enough {
            outcome.warning = limit;
        }
        outcome
    }

    /// Removes the paths of a peer that `which` picks; how many.
    fn remove_paths(&mut self, id: PeerId, which: impl Fn(&Prefix, &Path) -> bool) -> usize {
        let Some(peer) = self.peers.get_mut(&id) else { return 0 };
        let before = peer.counters.received;
        for (slot, entry) in self.table.iter_mut() {
            // The walk is over when the peer has no more paths.
            if peer.counters.received == 0 {
                break;
            }
            let Some(i) = entry.paths.iter().position(|p| p.peer == id) else { continue };
            if which(&entry.prefix, &entry.paths[i]) {
                peer.counters.sub(&entry.paths.swap_remove(i));
                touch(entry, slot, &mut self.dirty);
            }
        }
        let gone = before - peer.counters.received;
        self.paths -= gone;
        self.removed += gone;
        gone
    }

    /// Applies the import policy again to all paths of a peer.
    fn reimport(&mut self, id: PeerId) {
        let Self { table, interner, peers, dirty, .. } = self;
        let Some(peer) = peers.get_mut(&id) else { return };
        let mut gate = Gate::new(&peer.info);
        for (slot, entry) in table.iter_mut() {
            let Some(old) = entry.paths.iter_mut().find(|p| p.peer == id) else { continue };
            let raw = old.raw.clone();
            let imported = gate.import(interner, &entry.prefix, &raw);
            let path = Path { age: old.age, ..Path::new(id, raw, imported) };
            peer.counters.sub(old);
            peer.counters.add(&path);
            let same = old.same_import(&path);
            *old = path;
            if !same {
                touch(entry, slot, dirty);
            }
        }
    }

    /// After a decision nobody is selected under a former identity any more.
    pub(super) fn settle(&mut self) {
        for id in self.settling.drain(..) {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.before = None;
            if !peer.up && peer.counters.received == 0 {
                self.peers.remove(&id);
            }
        }
    }
}

/// Import policy over the prefixes of a message: what depends on the attributes alone is asked once.
struct Gate<'a> {
    import: &'a Import,
    sender: Sender,
    /// The attributes that `admitted` and `edited` are about
    raw: Option<Arc<Attrs>>,
    admitted: Result<(), Reject>,
    /// It is about to go away
    leaves: bool,
    /// Attributes after each change that a rule asked for, or after none
    edited: SmallVec<[(Option<&'a Edit>, Arc<Attrs>); 1]>,
}

impl<'a> Gate<'a> {
    fn new(info: &'a PeerInfo) -> Self {
        let (import, sender) = (&info.import, info.sender());
        Self { import, sender, raw: None, admitted: Ok(()), leaves: false, edited: SmallVec::new() }
    }

    fn import(&mut self, interner: &mut Interner, prefix: &Prefix, raw: &Arc<Attrs>) -> Result<Arc<Attrs>, Reject> {
        if self.raw.as_ref().is_none_or(|known| !Arc::ptr_eq(known, raw)) {
            self.raw = Some(raw.clone());
            self.admitted = self.import.admit(&self.sender, raw);
            self.leaves = self.import.leaves(&self.sender, raw);
            self.edited.clear();
        }
        self.admitted?;
        let edit = self.import.accept(prefix, raw)?;
        if edit.is_none() && !self.leaves {
            return Ok(raw.clone());
        }
        let address = |edit: Option<&Edit>| edit.map(std::ptr::from_ref);
        if let Some((_, known)) = self.edited.iter().find(|(known, _)| address(*known) == address(edit)) {
            return Ok(known.clone());
        }
        let mut attrs = Attrs::clone(raw);
        if let Some(edit) = edit {
            edit.apply(&mut attrs);
            if let Some(neighbor) = attrs.as_path.neighbor() {
                attrs.as_path = attrs.as_path.prepended(neighbor, edit.prepend);
            }
        }
        if self.import.leaves(&self.sender, &attrs) {
            attrs.local_pref = Some(0);
        }
        let attrs = interner.intern(&Arc::new(attrs));
        self.edited.push((edit, attrs.clone()));
        Ok(attrs)
    }
}
