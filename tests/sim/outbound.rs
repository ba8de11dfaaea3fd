//! Groups of like peers and the queue of each member, as `daemon::routing::outbound` keeps them.

use std::collections::BTreeMap;

use bytes::Bytes;
use wayleave::bgp::message::{Message, RefreshKind, RouteRefresh};
use wayleave::bgp::rib::{Change, ExportSettings, Group, PeerId, Rib};
use wayleave::bgp::wire;
use wayleave::net::{Family, PerFamily, Prefix};

use super::tcp::Routes;

/// Bytes that one step of catching up takes; few, so that it takes several.
const STEP: usize = 512;

struct Member {
    group: usize,
    queue: Routes,
    waiting: bool,
    walked: bool,
    owes_end: bool,
    refreshing: PerFamily<bool>,
}

#[derive(Default)]
pub struct Outbound {
    groups: Vec<Option<Group>>,
    members: BTreeMap<PeerId, Member>,
    holding: bool,
}

impl Outbound {
    pub fn hold(&mut self) {
        self.holding = true;
    }

    pub fn release(&mut self) {
        self.holding = false;
        for member in self.members.values_mut().filter(|member| member.owes_end) {
            member.waiting = true;
        }
    }

    pub fn join(&mut self, id: PeerId, settings: ExportSettings, queue: Routes) {
        self.leave(id);
        let group = self.group(settings);
        let refreshing = PerFamily::default();
        self.members.insert(id, Member { group, queue, waiting: true, walked: false, owes_end: true, refreshing });
        if let Some(group) = &mut self.groups[group] {
            group.join(id, []);
        }
    }

    pub fn leave(&mut self, id: PeerId) {
        if let Some(member) = self.members.remove(&id) {
            self.leave_group(id, member.group);
        }
    }

    fn leave_group(&mut self, id: PeerId, index: usize) {
        if let Some(group) = &mut self.groups[index] {
            group.leave(id);
            if group.is_empty() {
                self.groups[index] = None;
            }
        }
    }

    pub fn change(&mut self, id: PeerId, settings: ExportSettings, rib: &Rib) {
        let Some(former) = self.members.get(&id).map(|member| member.group) else { return };
        let Some(group) = &self.groups[former] else { return };
        if *group.settings() == settings {
            return;
        }
        let has: Vec<Prefix> = group.may_hold(id, rib).collect();
        self.leave_group(id, former);
        let index = self.group(settings);
        if let Some(group) = &mut self.groups[index] {
            group.join(id, has);
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.group = index;
            member.waiting = true;
        }
    }

    fn group(&mut self, settings: ExportSettings) -> usize {
        let is = |slot: &Option<Group>| slot.as_ref().is_some_and(|group| *group.settings() == settings);
        if let Some(index) = self.groups.iter().position(is) {
            return index;
        }
        self.groups.push(Some(Group::new(settings)));
        self.groups.len() - 1
    }

    pub fn refresh(&mut self, id: PeerId, family: Family, bracketed: bool) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(group) = &mut self.groups[member.group] else { return };
        if bracketed && !member.refreshing[family] {
            member.refreshing[family] = true;
            member.queue.borrow_mut().try_send(demarcation(family, RefreshKind::Begin, group.settings()));
        }
        group.refresh(id, family);
        member.waiting = true;
    }

    pub fn export(&mut self, changes: &[Change]) {
        for group in self.groups.iter_mut().flatten() {
            let chunks = group.export(changes);
            for id in group.synced().collect::<Vec<_>>() {
                let Some(member) = self.members.get_mut(&id) else { continue };
                let mut queue = member.queue.borrow_mut();
                for chunk in &chunks {
                    let pieces: Vec<Bytes> = chunk.bytes_for(id).collect();
                    // One write, whatever the order in a hash map: the same seed gives the same run.
                    let bytes = Bytes::from(pieces.concat());
                    let fits = group.is_synced(id) && (bytes.is_empty() || queue.try_send(bytes));
                    if !fits {
                        group.lag(id, chunk);
                    }
                }
                member.waiting |= !group.is_synced(id);
            }
        }
    }

    /// A step of catching up for each member that is behind and has room.
    pub fn catch_up(&mut self, rib: &Rib) {
        for (id, member) in &mut self.members {
            if !member.waiting || !member.queue.borrow().has_room() {
                continue;
            }
            member.waiting = false;
            let Some(group) = &mut self.groups[member.group] else { continue };
            let mut bytes = Vec::new();
            if !group.is_synced(*id) {
                let drained = group.drain(*id, rib, STEP);
                bytes.extend_from_slice(&drained.bytes);
                if drained.walked {
                    member.walked = true;
                    for family in Family::ALL {
                        if std::mem::take(&mut member.refreshing[family]) {
                            bytes.extend_from_slice(&demarcation(family, RefreshKind::End, group.settings()));
                        }
                    }
                }
            }
            if member.walked && group.is_synced(*id) && member.owes_end && !self.holding {
                member.owes_end = false;
                let families = group.settings().families;
                for (family, _) in families.iter().filter(|(_, on)| **on) {
                    wire::encode_end_of_rib(family, &mut bytes);
                }
            }
            if !bytes.is_empty() {
                member.queue.borrow_mut().try_send(bytes.into());
            }
            member.waiting = !group.is_synced(*id);
        }
    }

    /// Whether a step of catching up could be made.
    pub fn can_catch_up(&self) -> bool {
        self.members.values().any(|member| member.waiting && member.queue.borrow().has_room())
    }

    /// Who is behind.
    pub fn behind(&self) -> impl Iterator<Item = PeerId> {
        let behind = |member: &Member| member.waiting || !member.queue.borrow().is_empty();
        self.members.iter().filter(move |(_, member)| behind(member)).map(|(id, _)| *id)
    }

    pub fn group_of(&self, id: PeerId) -> Option<&Group> {
        self.groups[self.members.get(&id)?.group].as_ref()
    }
}

fn demarcation(family: Family, kind: RefreshKind, settings: &ExportSettings) -> Bytes {
    let mut bytes = Vec::new();
    wire::encode(&Message::RouteRefresh(RouteRefresh { family, kind }), &settings.codec, &mut bytes);
    bytes.into()
}
