//! Routes to peers: groups of like peers, each encoded once, and the bounded queue of each member.
//!
//! A member whose queue is full falls behind and catches up at its own pace from the table; the
//! others don't notice.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hashbrown::HashMap;
use tokio::sync::mpsc::{OwnedPermit, Sender};

use crate::bgp::message::{RefreshKind, RouteRefresh};
use crate::bgp::rib::{Change, ExportSettings, Group, PeerId, Rib};
use crate::bgp::{message::Message, wire};
use crate::net::{Family, PerFamily, Prefix};

/// Bytes that one step of catching up takes at most.
const STEP: usize = 64 * 1024;

type Room = Pin<Box<dyn Future<Output = (PeerId, Option<OwnedPermit<Bytes>>)> + Send>>;

struct Member {
    group: usize,
    queue: Sender<Bytes>,
    /// Waits in `room`; always so while it is behind
    waiting: bool,
    /// It has been told of the whole table once
    walked: bool,
    /// End-of-RIB is owed after that (RFC 4724 §2)
    owes_end: bool,
    /// Families whose refresh is to be bracketed (RFC 7313 §4)
    refreshing: PerFamily<bool>,
}

/// All groups and their members.
#[derive(Default)]
pub struct Outbound {
    groups: Vec<Option<Group>>,
    members: HashMap<PeerId, Member, ahash::RandomState>,
    /// Members that are behind, each waiting for a place in its queue
    room: FuturesUnordered<Room>,
    /// End-of-RIB is held back while we restart (RFC 4724 §4.1)
    holding: bool,
}

impl Outbound {
    /// Holds every End-of-RIB back until [`release`](Self::release).
    pub fn hold(&mut self) {
        self.holding = true;
    }

    /// Sends the End-of-RIBs that were held back, and holds none from now on.
    pub fn release(&mut self) {
        self.holding = false;
        let owing: Vec<PeerId> = self.members.iter().filter(|(_, member)| member.owes_end).map(|(id, _)| *id).collect();
        for id in owing {
            self.wait_for_room(id);
        }
    }

    /// A session came up: the peer gets all that its settings allow, then End-of-RIB.
    pub fn join(&mut self, id: PeerId, settings: ExportSettings, queue: Sender<Bytes>) {
        self.leave(id);
        let group = self.group(settings);
        let refreshing = PerFamily::default();
        self.members.insert(id, Member { group, queue, waiting: false, walked: false, owes_end: true, refreshing });
        if let Some(Some(group)) = self.groups.get_mut(group) {
            group.join(id, []);
        }
        self.wait_for_room(id);
    }

    /// A session ended.
    pub fn leave(&mut self, id: PeerId) {
        let Some(member) = self.members.remove(&id) else { return };
        self.leave_group(id, member.group);
    }

    fn leave_group(&mut self, id: PeerId, index: usize) {
        if let Some(slot) = self.groups.get_mut(index)
            && let Some(group) = slot
        {
            group.leave(id);
            if group.is_empty() {
                *slot = None;
            }
        }
    }

    /// Members, each once, get by other settings from now on, without a new session.
    pub fn change(&mut self, settings: Vec<(PeerId, ExportSettings)>, rib: &Rib) {
        // Hundreds may leave one group. A number in here is of no other group before the last has left.
        let mut offers: HashMap<usize, Vec<(Prefix, PeerId)>, ahash::RandomState> = HashMap::default();
        for (id, settings) in settings {
            let Some(former) = self.members.get(&id).map(|member| member.group) else { continue };
            let Some(Some(group)) = self.groups.get(former) else { continue };
            if *group.settings() == settings {
                continue;
            }
            let offers = offers.entry(former).or_insert_with(|| group.offers(rib).collect());
            let others = offers.iter().filter(|(_, from)| *from != id).map(|(prefix, _)| *prefix);
            let has: Vec<Prefix> = others.chain(group.owed(id, rib)).collect();
            self.leave_group(id, former);
            let index = self.group(settings);
            if let Some(Some(group)) = self.groups.get_mut(index) {
                group.join(id, has);
            }
            if let Some(member) = self.members.get_mut(&id) {
                member.group = index;
            }
            self.wait_for_room(id);
        }
    }

    /// The group with these settings, made if there is none.
    fn group(&mut self, settings: ExportSettings) -> usize {
        let is = |slot: &Option<Group>| slot.as_ref().is_some_and(|group| *group.settings() == settings);
        if let Some(index) = self.groups.iter().position(is) {
            return index;
        }
        let group = Some(Group::new(settings));
        if let Some(index) = self.groups.iter().position(Option::is_none) {
            self.groups[index] = group;
            return index;
        }
        self.groups.push(group);
        self.groups.len() - 1
    }

    /// The peer asks for everything again; `bracketed`: by RFC 7313.
    pub fn refresh(&mut self, id: PeerId, family: Family, bracketed: bool) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(Some(group)) = self.groups.get_mut(member.group) else { return };
        if bracketed && !member.refreshing[family] {
            member.refreshing[family] = true;
            // BoRR; a full queue means that it follows late, which is no worse than none at all.
            let _ = member.queue.try_send(demarcation(family, RefreshKind::Begin, group.settings()));
        }
        group.refresh(id, family);
        self.wait_for_room(id);
    }

    /// Tells every group of changes.
    pub fn export(&mut self, changes: &[Change]) {
        let mut behind = Vec::new();
        for group in self.groups.iter_mut().flatten() {
            let chunks = group.export(changes);
            let synced: Vec<PeerId> = group.synced().collect();
            for id in synced {
                let Some(member) = self.members.get(&id) else { continue };
                for chunk in &chunks {
                    let fits =
                        group.is_synced(id) && chunk.bytes_for(id).all(|bytes| member.queue.try_send(bytes).is_ok());
                    // A part that did fit is told again: announcements and withdrawals can be repeated.
                    if !fits {
                        group.lag(id, chunk);
                    }
                }
                if !group.is_synced(id) {
                    behind.push(id);
                }
            }
        }
        for id in behind {
            self.wait_for_room(id);
        }
    }

    fn wait_for_room(&mut self, id: PeerId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if !std::mem::replace(&mut member.waiting, true) {
            let queue = member.queue.clone();
            self.room.push(Box::pin(async move { (id, queue.reserve_owned().await.ok()) }));
        }
    }

    /// Waits until a member that is behind has a place in its queue; pends while none is behind.
    pub async fn room(&mut self) -> (PeerId, Option<OwnedPermit<Bytes>>) {
        loop {
            match self.room.next().await {
                Some(found) => return found,
                None => std::future::pending().await,
            }
        }
    }

    /// Uses the place for the next step of catching up.
    pub fn catch_up(&mut self, id: PeerId, place: Option<OwnedPermit<Bytes>>, rib: &Rib) {
        // No place: the connection is gone, and its session will say so.
        let Some(place) = place else { return };
        let Some(member) = self.members.get_mut(&id) else { return };
        if !place.same_channel_as_sender(&member.queue) {
            return;
        }
        member.waiting = false;
        let Some(Some(group)) = self.groups.get_mut(member.group) else { return };
        let mut bytes = Vec::new();
        if !group.is_synced(id) {
            let drained = group.drain(id, rib, STEP);
            bytes.extend_from_slice(&drained.bytes);
            if drained.walked {
                member.walked = true;
                let settings = group.settings();
                for family in Family::ALL {
                    if std::mem::take(&mut member.refreshing[family]) {
                        bytes.extend_from_slice(&demarcation(family, RefreshKind::End, settings));
                    }
                }
            }
        }
        if member.walked && group.is_synced(id) && member.owes_end && !self.holding {
            member.owes_end = false;
            let families = group.settings().families;
            for (family, _) in families.iter().filter(|(_, on)| **on) {
                wire::encode_end_of_rib(family, &mut bytes);
            }
        }
        let synced = group.is_synced(id);
        if !bytes.is_empty() {
            place.send(bytes.into());
        }
        if !synced {
            self.wait_for_room(id);
        }
    }

    /// Whether every member has been handed all that it is to get.
    pub fn is_told(&self) -> bool {
        self.members.values().all(|member| !member.waiting)
    }

    /// Whether a member has been handed all of the table once.
    pub fn is_walked(&self, id: PeerId) -> bool {
        self.members.get(&id).is_some_and(|member| member.walked && !member.owes_end && !member.waiting)
    }

    /// Prefixes that a member is sent.
    pub fn advertised(&self, id: PeerId) -> usize {
        self.group_of(id).map_or(0, |group| group.advertised(id))
    }

    /// The group of a member.
    pub fn group_of(&self, id: PeerId) -> Option<&Group> {
        self.groups.get(self.members.get(&id)?.group)?.as_ref()
    }
}

fn demarcation(family: Family, kind: RefreshKind, settings: &ExportSettings) -> Bytes {
    let mut bytes = Vec::new();
    wire::encode(&Message::RouteRefresh(RouteRefresh { family, kind }), &settings.codec, &mut bytes);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use tokio::sync::mpsc;

    use super::*;
    use crate::bgp::attrs::Attrs;
    use crate::bgp::message::Codec;
    use crate::bgp::policy::{Export, ExportScope};
    use crate::bgp::rib::Selection;
    use crate::net::Asn;

    const A: PeerId = PeerId(1);

    fn settings() -> ExportSettings {
        ExportSettings {
            external: false,
            client: false,
            local_asn: Asn(64512),
            cluster_id: Ipv4Addr::LOCALHOST,
            next_hop_self: false,
            ends_ipip: false,
            graceful_shutdown: false,
            next_hops: PerFamily::new(Some(Ipv4Addr::LOCALHOST.into()), None),
            families: PerFamily::new(true, false),
            export: Arc::new(Export { scope: ExportScope::All, pools: Arc::default() }),
            codec: Codec::INITIAL,
        }
    }

    #[tokio::test]
    async fn nothing_comes_after_the_end_of_rib_that_was_held_back() {
        let mut rib = Rib::new();
        let (queue, mut chunks) = mpsc::channel(1);
        let mut outbound = Outbound::default();
        outbound.hold();
        outbound.join(A, settings(), queue);
        let (id, place) = outbound.room().await;
        outbound.catch_up(id, place, &rib);

        // More than its queue takes, and more than one step of catching up.
        for n in 0..10_000 {
            let prefix = Prefix::new(Ipv4Addr::from_bits(0x0a00_0000 | n << 8).into(), 24);
            let attrs = Attrs { med: Some(n), ..Attrs::originate(Ipv4Addr::UNSPECIFIED.into()) };
            rib.originate(prefix, attrs);
        }
        let (mut changes, selection) = (Vec::new(), Selection { multipath: 1, backups: false });
        rib.decide(&|_, _| Some(0), selection, usize::MAX, &mut changes);
        outbound.export(&changes);
        outbound.release();

        let mut told = Vec::new();
        while !outbound.is_told() || !chunks.is_empty() {
            tokio::select! {
                Some(chunk) = chunks.recv() => told.extend_from_slice(&chunk),
                (id, place) = outbound.room() => outbound.catch_up(id, place, &rib),
            }
        }
        let mut end = Vec::new();
        wire::encode_end_of_rib(Family::Ipv4, &mut end);
        let ends: Vec<usize> =
            told.windows(end.len()).enumerate().filter(|(_, part)| *part == end).map(|(at, _)| at).collect();
        assert!(told.len() > 4 * STEP, "{}", told.len());
        assert_eq!(ends, [told.len() - end.len()]);
    }
}
