//! What peers send: sessions that come and go, updates, limits and counts.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use smallvec::SmallVec;

use super::interner::{Interner, SetId};
use super::lots::{LotId, Lots};
use super::table::{Choice, Path};
use super::walk::Reason;
use super::{Kind, PeerId, Rib, Source, touch};
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
    pub(super) fn add(&mut self, path: &Path) {
        self.received += 1;
        match path.imported {
            Some(_) => self.accepted += 1,
            None => self.rejected[path.reject as usize] += 1,
        }
    }

    pub(super) fn sub(&mut self, path: &Path) {
        self.received -= 1;
        match path.imported {
            Some(_) => self.accepted -= 1,
            None => self.rejected[path.reject as usize] -= 1,
        }
    }

    fn sum(mut self, other: &Self) -> Self {
        self.received += other.received;
        self.accepted += other.accepted;
        self.rejected.iter_mut().zip(other.rejected).for_each(|(sum, count)| *sum += count);
        self.stale += other.stale;
        self
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

/// A peer as the table keeps it: its session is up, or paths of it are kept.
#[derive(Debug)]
pub(super) struct Peer {
    pub info: PeerInfo,
    source: Source,
    up: bool,
    /// What it sends now
    fresh: PerFamily<Option<LotId>>,
    /// What it sent in this session while it was of another kind, until the walk has moved it to `fresh`
    former: PerFamily<SmallVec<[LotId; 1]>>,
    /// What it sent before a restart or refresh
    stale: PerFamily<SmallVec<[LotId; 1]>>,
    /// What was stale already when the peer failed again
    older: PerFamily<SmallVec<[LotId; 1]>>,
    /// Its paths, those that are kept included
    received: usize,
}

impl Peer {
    fn new(info: PeerInfo) -> Self {
        Self {
            source: info.source(),
            info,
            up: true,
            fresh: PerFamily::default(),
            former: PerFamily::default(),
            stale: PerFamily::default(),
            older: PerFamily::default(),
            received: 0,
        }
    }

    fn lots(&self) -> impl Iterator<Item = LotId> {
        let stale = self.former.iter().chain(self.stale.iter()).chain(self.older.iter()).flat_map(|(_, lots)| lots);
        self.fresh.iter().filter_map(|(_, lot)| lot.as_ref()).chain(stale).copied()
    }

    /// The paths of a family are to be sent again.
    fn age(&mut self, family: Family, lots: &mut Lots) {
        let aged: SmallVec<[LotId; 1]> =
            self.fresh[family].take().into_iter().chain(self.former[family].drain(..)).collect();
        if !aged.is_empty() {
            aged.iter().for_each(|lot| lots.age(*lot));
            // A peer that begins again and again makes no heap of them.
            clear_empty(&mut self.stale[family], lots);
            self.stale[family].extend(aged);
        }
    }

    /// It is of another kind from now on, so that its paths go to others than before: the walk moves them
    /// to other lots, so that whoever asks what was sent of each can tell.
    fn turn(&mut self, source: Source, lots: &mut Lots) {
        self.source = source;
        for family in Family::ALL {
            let address = self.info.address;
            if let Some(fresh) = &mut self.fresh[family] {
                let former = &mut self.former[family];
                former.push(*fresh);
                *fresh = lots.open(source, address);
                clear_empty(former, lots);
                lots.turn(former, *fresh);
            }
            for kept in [&mut self.stale[family], &mut self.older[family]] {
                clear_empty(kept, lots);
                if !kept.is_empty() {
                    let new = lots.open(source, address);
                    lots.age(new);
                    lots.turn(kept, new);
                    kept.push(new);
                }
            }
        }
    }

    /// The paths of a family that were to be sent again are gone; how many.
    fn kill_stale(&mut self, family: Family, lots: &mut Lots) -> usize {
        let stale = std::mem::take(&mut self.stale[family]);
        let gone: usize = stale.into_iter().map(|lot| lots.kill(lot)).sum();
        self.received -= gone;
        gone + self.kill_older(family, lots)
    }

    /// The same for those that were so already when the peer failed last.
    fn kill_older(&mut self, family: Family, lots: &mut Lots) -> usize {
        let older = std::mem::take(&mut self.older[family]);
        let gone = older.into_iter().map(|lot| lots.kill(lot)).sum();
        self.received -= gone;
        gone
    }

    /// All paths of a family are gone; how many.
    fn kill(&mut self, family: Family, lots: &mut Lots) -> usize {
        self.age(family, lots);
        self.kill_stale(family, lots)
    }
}

/// Lots without a path are let go, but for one that the walk is still to move paths to.
fn clear_empty(ids: &mut SmallVec<[LotId; 1]>, lots: &mut Lots) {
    let coming: SmallVec<[LotId; 1]> =
        ids.iter().filter(|id| lots[**id].paths() > 0).map(|id| lots.newest(*id)).collect();
    ids.retain(|id| {
        let used = lots[*id].paths() > 0 || coming.contains(id);
        if !used {
            lots.kill(*id);
        }
        used
    });
}

impl Rib {
    /// A session came up, or its settings changed while it is up.
    ///
    /// Paths kept from before a restart stay, unless the peer came back as somebody else.
    pub fn peer_up(&mut self, info: PeerInfo) {
        let id = info.id;
        let Some(old) = self.peers.get_mut(&id) else {
            self.peers.insert(id, Peer::new(info));
            return;
        };
        let source = info.source();
        let who = |info: &PeerInfo| (info.router_id, info.address, info.external);
        if who(&old.info) != who(&info) {
            self.paths -= Family::ALL.into_iter().map(|family| old.kill(family, &mut self.store.lots)).sum::<usize>();
            *old = Peer::new(info);
            return;
        }
        let mut walk = old.info.import != info.import || old.info.sender() != info.sender();
        if old.source != source {
            old.turn(source, &mut self.store.lots);
            walk = true;
        }
        old.up = true;
        old.info = info;
        if walk && old.received > 0 {
            self.walk.add(Reason::Import(id));
        }
    }

    /// A session ended: all paths of the peer go. From now on none of them is chosen.
    pub fn peer_down(&mut self, id: PeerId) {
        self.peer_restarts(id, PerFamily::default());
    }

    /// A session ended and the peer will be back (RFC 4724 §4.2): paths of the families to keep
    /// stay as stale, all others go.
    ///
    /// Deviation: the RFC deletes what was stale already when a peer fails again before it has sent
    /// its routes again. It keeps forwarding all the same; so these stay too, until
    /// [`sweep_older`](Self::sweep_older) at the end of the time that the first failure gave them.
    pub fn peer_restarts(&mut self, id: PeerId, keep: PerFamily<bool>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for family in Family::ALL {
            if keep[family] {
                let stale = std::mem::take(&mut peer.stale[family]);
                peer.older[family].extend(stale);
                peer.age(family, &mut self.store.lots);
            } else {
                self.paths -= peer.kill(family, &mut self.store.lots);
            }
        }
        peer.up = false;
        self.forget(id);
    }

    /// Nothing is left of a peer that is down and has no paths.
    fn forget(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id)
            && !peer.up
            && peer.received == 0
        {
            for family in Family::ALL {
                peer.kill(family, &mut self.store.lots);
            }
            self.peers.remove(&id);
        }
    }

    /// All paths of a family are to be sent again: a refresh begins (RFC 7313 §4).
    pub fn mark_stale(&mut self, id: PeerId, family: Family) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.age(family, &mut self.store.lots);
        }
    }

    /// Paths of a family that are still stale go: End-of-RIB after a restart (RFC 4724 §4.2), the
    /// end of a refresh (RFC 7313 §4), or their time is over. How many went.
    pub fn sweep_stale(&mut self, id: PeerId, family: Family) -> usize {
        let Some(peer) = self.peers.get_mut(&id) else { return 0 };
        let swept = peer.kill_stale(family, &mut self.store.lots);
        self.swept(id, swept)
    }

    /// Paths that are stale since before the last restart go: their time is over. How many went.
    pub fn sweep_older(&mut self, id: PeerId) -> usize {
        let Some(peer) = self.peers.get_mut(&id) else { return 0 };
        let swept = Family::ALL.into_iter().map(|family| peer.kill_older(family, &mut self.store.lots)).sum();
        self.swept(id, swept)
    }

    fn swept(&mut self, id: PeerId, swept: usize) -> usize {
        self.paths -= swept;
        self.forget(id);
        swept
    }

    /// A new import policy, applied to what the peer has sent already.
    pub fn set_import(&mut self, id: PeerId, import: Arc<Import>) {
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.info.import != import
        {
            peer.info.import = import;
            self.walk.add(Reason::Import(id));
        }
    }

    /// Counts of a peer; none if it has no session and no paths.
    pub fn counters(&self, id: PeerId) -> Option<Counters> {
        let lots = self.peers.get(&id)?.lots().map(|lot| self.store.lots[lot].counters());
        Some(lots.fold(Counters::default(), |sum, counters| sum.sum(&counters)))
    }

    /// What a peer is, as it told at its last session.
    pub fn peer(&self, id: PeerId) -> Option<&PeerInfo> {
        self.peers.get(&id).map(|peer| &peer.info)
    }

    /// Applies an update: withdrawals, then announcements, which replace what the peer sent before.
    pub fn update(&mut self, id: PeerId, update: &Update) -> Outcome {
        let Self { table, store, peers, dirty, paths, .. } = self;
        let mut outcome = Outcome::default();
        let Some(Peer { info, source, fresh, received, .. }) = peers.get_mut(&id).filter(|peer| peer.up) else {
            return outcome;
        };
        let sent_by_it = |lots: &Lots, path: &Path| lots[path.lot].source.peer == id;

        for prefix in &update.withdrawn {
            let Some(slot) = table.find(prefix) else { continue };
            let Some(mut entry) = table.open(slot) else { continue };
            while let Some(i) = entry.paths().iter().position(|path| sent_by_it(&store.lots, path))
                && let Some(path) = entry.remove(i)
            {
                let live = usize::from(store.lots[path.lot].is_live());
                *received -= live;
                *paths -= live;
                store.sub(&path);
                touch(entry.entry, slot, dirty);
            }
        }

        let limit = info.max_prefixes;
        let most = limit.map_or(usize::MAX, |limit| limit.get() as usize);
        let before = *received;
        'reach: for reach in &update.reach {
            let raw = store.sets.intern(&reach.attrs);
            let mut gate = Gate::new(info);
            for prefix in &reach.prefixes {
                if *received >= most && !table.has(prefix, |path| sent_by_it(&store.lots, path)) {
                    outcome.over_limit = limit;
                    break 'reach;
                }
                let fresh = &mut fresh[prefix.family()];
                let lot = *fresh.get_or_insert_with(|| store.lots.open(*source, info.address));
                let slot = table.find_or_insert(prefix);
                let Some(mut entry) = table.open(slot) else { continue };
                let Some(old) = entry.paths_mut().iter_mut().find(|path| sent_by_it(&store.lots, path)) else {
                    let path = Path::new(lot, raw, gate.import(&mut store.sets, prefix, raw));
                    store.add(&path);
                    entry.push(path);
                    *received += 1;
                    *paths += 1;
                    touch(entry.entry, slot, dirty);
                    continue;
                };
                let live = store.lots[old.lot].is_live();
                if old.raw == raw && old.lot == lot {
                    continue;
                }
                // What is sent again as it was is as it was, though in another lot.
                let imported = if old.raw == raw && live {
                    old.imported.ok_or(old.reject)
                } else {
                    gate.import(&mut store.sets, prefix, raw)
                };
                let path = Path::new(lot, raw, imported);
                store.add(&path);
                let old = std::mem::replace(old, path);
                store.sub(&old);
                *received += usize::from(!live);
                *paths += usize::from(!live);
                let other_kind = old.lot != lot && store.lots[old.lot].source != store.lots[lot].source;
                if old.imported != path.imported || other_kind || !live {
                    touch(entry.entry, slot, dirty);
                } else if let Some(set) = path.imported
                    && old.lot != lot
                {
                    entry.moved(Choice { set, lot: old.lot }, Choice { set, lot }, store);
                }
            }
        }
        // Told once, when it is crossed.
        let enough = most - most / 4;
        if before < enough && *received >= enough {
            outcome.warning = limit;
        }
        outcome
    }
}

/// Import policy over the prefixes of a message: what depends on the attributes alone is asked once.
pub(super) struct Gate<'a> {
    import: &'a Import,
    sender: Sender,
    /// The attributes that `admitted` and `edited` are about
    raw: Option<SetId>,
    admitted: Result<(), Reject>,
    /// It is about to go away
    leaves: bool,
    /// Attributes after each change that a rule asked for, or after none
    edited: SmallVec<[(Option<&'a Edit>, SetId); 1]>,
}

impl<'a> Gate<'a> {
    pub fn new(info: &'a PeerInfo) -> Self {
        let (import, sender) = (&info.import, info.sender());
        Self { import, sender, raw: None, admitted: Ok(()), leaves: false, edited: SmallVec::new() }
    }

    pub fn import(&mut self, sets: &mut Interner, prefix: &Prefix, raw: SetId) -> Result<SetId, Reject> {
        let attrs = sets.attrs(raw);
        if self.raw != Some(raw) {
            self.raw = Some(raw);
            self.admitted = self.import.admit(&self.sender, attrs);
            self.leaves = self.import.leaves(&self.sender, attrs);
            self.edited.clear();
        }
        self.admitted?;
        let edit = self.import.accept(prefix, attrs)?;
        if edit.is_none() && !self.leaves {
            return Ok(raw);
        }
        let address = |edit: Option<&Edit>| edit.map(std::ptr::from_ref);
        if let Some((_, known)) = self.edited.iter().find(|(known, _)| address(*known) == address(edit)) {
            return Ok(*known);
        }
        let mut attrs = Attrs::clone(attrs);
        if let Some(edit) = edit {
            edit.apply(&mut attrs);
            if let Some(neighbor) = attrs.as_path.neighbor() {
                attrs.as_path = attrs.as_path.prepended(neighbor, edit.prepend);
            }
        }
        if self.import.leaves(&self.sender, &attrs) {
            attrs.local_pref = Some(0);
        }
        let set = sets.intern(&Arc::new(attrs));
        self.edited.push((edit, set));
        Ok(set)
    }
}
