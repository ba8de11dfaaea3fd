//! What members of a group are sent, as a receiver sees it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::bgp::message::Message;
use crate::bgp::wire;

/// The other end of a session: holds what it was told.
#[derive(Debug, Default)]
pub struct Receiver {
    pub routes: BTreeMap<Prefix, Attrs>,
    pub messages: usize,
}

impl Receiver {
    pub fn feed(&mut self, bytes: &Bytes, codec: Codec) {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = wire::frame(rest, &codec).unwrap().expect("whole messages only");
            let (message, tail) = rest.split_at(length);
            rest = tail;
            self.messages += 1;
            let Message::Update(update) = wire::decode(message, &codec).unwrap() else { panic!("no update") };
            assert!(update.faults.is_empty(), "{:?}", update.faults);
            for prefix in update.withdrawn {
                self.routes.remove(&prefix);
            }
            for reach in update.reach {
                for prefix in reach.prefixes {
                    self.routes.insert(prefix, Attrs::clone(&reach.attrs));
                }
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.routes.iter().map(|(prefix, attrs)| format!("{prefix} {}", attrs.as_path)).collect()
    }
}

/// A table, one group of external peers and what each of them has heard.
struct Bench {
    rib: Rib,
    group: Group,
    ears: BTreeMap<PeerId, Receiver>,
}

impl Bench {
    fn new(members: &[u8]) -> Self {
        let infos: Vec<_> = (1..=4).map(external).collect();
        let rib = rib(&infos);
        let mut group = Group::new(settings(true, false));
        let mut ears = BTreeMap::new();
        for n in members {
            group.join(PeerId((*n).into()), []);
            ears.insert(PeerId((*n).into()), Receiver::default());
        }
        let mut bench = Self { rib, group, ears };
        bench.catch_up();
        bench
    }

    fn catch_up(&mut self) {
        for (id, ear) in &mut self.ears {
            while !self.group.is_synced(*id) {
                ear.feed(&self.group.drain(*id, &self.rib, 4096).bytes, self.group.settings().codec);
            }
        }
    }

    fn flush(&mut self) {
        let changes = decide(&mut self.rib, &anywhere, 1);
        for chunk in self.group.export(&changes) {
            for id in self.group.synced() {
                for bytes in chunk.bytes_for(id) {
                    self.ears.get_mut(&id).unwrap().feed(&bytes, self.group.settings().codec);
                }
            }
        }
    }

    fn heard(&mut self) -> Vec<(u32, Vec<String>, usize)> {
        let take = |(id, ear): (&PeerId, &mut Receiver)| (id.0, ear.names(), std::mem::take(&mut ear.messages));
        self.ears.iter_mut().map(take).collect()
    }
}

fn rows(rows: &[(u32, &[&str], usize)]) -> Vec<(u32, Vec<String>, usize)> {
    rows.iter().map(|(id, names, n)| (*id, names.iter().map(|s| (*s).to_owned()).collect(), *n)).collect()
}

#[test]
fn nobody_hears_his_own_routes() {
    let mut bench = Bench::new(&[1, 2, 3]);
    bench.rib.update(PeerId(1), &reach(&path(&[65001, 7, 8], "192.0.2.1"), &["10.0.0.0/8", "11.0.0.0/8"]));
    bench.rib.update(PeerId(4), &reach(&path(&[65004, 9], "192.0.2.4"), &["12.0.0.0/8"]));
    bench.flush();
    let (ten, eleven, twelve) =
        ("10.0.0.0/8 64512 65001 7 8", "11.0.0.0/8 64512 65001 7 8", "12.0.0.0/8 64512 65004 9");
    let wanted = [(1, &[twelve][..], 1), (2, &[ten, eleven, twelve][..], 2), (3, &[ten, eleven, twelve][..], 2)];
    assert_eq!(bench.heard(), rows(&wanted), "equal attributes share a message");
    assert_eq!([1, 2, 9].map(|id| bench.group.advertised(PeerId(id))), [1, 3, 3]);

    // A better path from 2: it loses what it had from 1, who now gets the new one.
    bench.rib.update(PeerId(2), &reach(&path(&[65002], "192.0.2.2"), &["10.0.0.0/8"]));
    bench.flush();
    let new = "10.0.0.0/8 64512 65002";
    let wanted = [(1, &[new, twelve][..], 1), (2, &[eleven, twelve][..], 1), (3, &[new, eleven, twelve][..], 1)];
    assert_eq!(bench.heard(), rows(&wanted));
    assert_eq!([1, 2, 9].map(|id| bench.group.advertised(PeerId(id))), [2, 2, 3]);

    bench.rib.peer_down(PeerId(2));
    bench.rib.peer_down(PeerId(1));
    bench.flush();
    let wanted = [(1, &[twelve][..], 1), (2, &[twelve][..], 1), (3, &[twelve][..], 2)];
    assert_eq!(bench.heard(), rows(&wanted), "two audiences, two messages");
    assert!(bench.group.leave(PeerId(1)) && !bench.group.leave(PeerId(1)));
}

#[test]
fn what_looks_the_same_is_not_sent_again() {
    let mut bench = Bench::new(&[1, 2, 3]);
    bench.rib.update(PeerId(1), &reach(&path(&[65001], "192.0.2.1"), &["10.0.0.0/8"]));
    bench.flush();
    bench.heard();
    // Towards another AS neither MED nor next hop of a learned route can be seen.
    bench.rib.update(PeerId(1), &reach(&Attrs { med: Some(3), ..path(&[65001], "192.0.2.99") }, &["10.0.0.0/8"]));
    bench.flush();
    assert!(bench.heard().iter().all(|(_, _, messages)| *messages == 0));

    // The same path by another member: only the two of them have news.
    let as_one = |n: u8| PeerInfo { asn: Asn(65001), ..external(n) };
    bench.rib.peer_up(as_one(2));
    bench.rib.update(PeerId(2), &reach(&path(&[65001], "192.0.2.2"), &["10.0.0.0/8"]));
    bench.rib.peer_down(PeerId(1));
    bench.flush();
    let ten = "10.0.0.0/8 64512 65001";
    assert_eq!(bench.heard(), rows(&[(1, &[ten][..], 1), (2, &[][..], 1), (3, &[ten][..], 0)]));
}

#[test]
fn a_client_that_comes_back_by_another_identifier_is_another_originator() {
    let (mut rib, mut group) = (rib(&[client(4)]), Group::new(settings(false, true)));
    let mut ear = Receiver::default();
    group.join(PeerId(5), []);
    group.drain(PeerId(5), &rib, 4096);
    for router_id in [client(4).router_id, [5, 5, 5, 4].into()] {
        rib.peer_up(PeerInfo { router_id, ..client(4) });
        rib.update(PeerId(4), &reach(&path(&[], "192.0.2.4"), &["10.0.0.0/8"]));
        let changes = decide(&mut rib, &anywhere, 1);
        for chunk in group.export(&changes) {
            chunk.bytes_for(PeerId(5)).for_each(|bytes| ear.feed(&bytes, group.settings().codec));
        }
        assert_eq!(ear.routes[&p("10.0.0.0/8")].originator_id, Some(router_id));
    }
}

#[test]
fn who_joins_late_or_lags_gets_the_newest_state() {
    let mut bench = Bench::new(&[2]);
    let tell = |bench: &mut Bench, attrs: &Attrs, prefixes: &[&str]| {
        bench.rib.update(PeerId(1), &reach(attrs, prefixes));
        let changes = decide(&mut bench.rib, &anywhere, 1);
        bench.group.export(&changes)
    };
    let chunks = tell(&mut bench, &path(&[65001, 7], "192.0.2.1"), &["10.0.0.0/8", "11.0.0.0/8"]);
    assert_eq!(chunks[0].told(PeerId(2)).count(), 2);
    assert_eq!(chunks[0].told(PeerId(1)).count(), 2, "1 is no member, nothing is kept from it");
    bench.group.lag(PeerId(2), &chunks[0]);
    assert!(!bench.group.is_synced(PeerId(2)));
    assert_eq!(bench.group.synced().count(), 0);

    assert!(tell(&mut bench, &path(&[65001, 8], "192.0.2.1"), &["10.0.0.0/8"]).is_empty(), "nobody to tell now");
    bench.rib.update(PeerId(1), &withdraw(&["11.0.0.0/8"]));
    bench.flush();
    let drained = bench.group.drain(PeerId(2), &bench.rib, 4096);
    assert!(drained.synced && !drained.walked);
    bench.ears.get_mut(&PeerId(2)).unwrap().feed(&drained.bytes, codec(true));
    assert_eq!(bench.heard(), rows(&[(2, &["10.0.0.0/8 64512 65001 8"][..], 2)]));

    // 3 comes with something from other settings that it is not to have any more.
    let mut three = Receiver::default();
    three.routes.insert(p("99.0.0.0/8"), path(&[1], "192.0.2.11"));
    bench.ears.insert(PeerId(3), three);
    bench.group.join(PeerId(3), [p("99.0.0.0/8"), p("10.0.0.0/8")]);
    let drained = bench.group.drain(PeerId(3), &bench.rib, 4096);
    assert!(drained.synced && drained.walked);
    bench.ears.get_mut(&PeerId(3)).unwrap().feed(&drained.bytes, codec(true));
    assert_eq!(bench.heard()[1].1, ["10.0.0.0/8 64512 65001 8"]);

    bench.group.refresh(PeerId(3), Family::Ipv6);
    let drained = bench.group.drain(PeerId(3), &bench.rib, 4096);
    assert!(drained.synced && drained.walked && drained.bytes.is_empty(), "nothing of that family");
    bench.group.refresh(PeerId(3), Family::Ipv4);
    assert!(!bench.group.drain(PeerId(3), &bench.rib, 4096).bytes.is_empty());
}

#[test]
fn a_walk_takes_the_table_in_portions() {
    let mut rib = rib(&[external(1)]);
    let many = |from: u32, to: u32| {
        let prefixes =
            (from..to).map(|i| Prefix::new(std::net::Ipv4Addr::from_bits((16 << 24) + (i << 8)).into(), 24)).collect();
        let attrs = Arc::new(path(&[65001], "192.0.2.1"));
        Update { reach: vec![Reach { attrs, prefixes }], ..Update::default() }
    };
    rib.update(PeerId(1), &many(0, 70_000));
    decide(&mut rib, &anywhere, 1);
    let mut group = Group::new(settings(false, false));
    group.join(PeerId(2), []);
    let (mut ear, mut portions) = (Receiver::default(), 0);
    loop {
        let drained = group.drain(PeerId(2), &rib, 65536);
        assert!(drained.bytes.len() < 80_000, "{}", drained.bytes.len());
        ear.feed(&drained.bytes, codec(false));
        portions += 1;
        assert_eq!(drained.walked, drained.synced);
        if drained.synced {
            break;
        }
    }
    assert_eq!((ear.routes.len(), portions), (70_000, 5));
    assert!(ear.messages < 90, "prefixes with equal attributes are packed: {} messages", ear.messages);

    // A portion ends even where there is nothing to send.
    group.join(PeerId(1), []);
    let first = group.drain(PeerId(1), &rib, 65536);
    assert!(first.bytes.is_empty() && !first.walked && !first.synced);
    let second = group.drain(PeerId(1), &rib, 65536);
    assert!(second.bytes.is_empty() && second.walked && second.synced);

    // Large batches come in chunks of whole messages, which know their prefixes.
    rib.peer_up(external(3));
    rib.peer_down(PeerId(1));
    let changes = decide(&mut rib, &anywhere, 1);
    let chunks = group.export(&changes);
    assert!(chunks.len() > 3 && chunks.iter().all(|chunk| chunk.len() < 100_000 && !chunk.is_empty()));
    assert_eq!(chunks.iter().map(|chunk| chunk.told(PeerId(2)).count()).sum::<usize>(), 70_000);
    for chunk in &chunks {
        chunk.bytes_for(PeerId(2)).for_each(|bytes| ear.feed(&bytes, codec(false)));
    }
    assert_eq!((ear.routes.len(), group.advertised(PeerId(2))), (0, 0));
}

#[test]
fn a_member_takes_a_shared_buffer_in_few_pieces() {
    // 50 clients bring ten prefixes each; everybody is told of all but his own.
    let clients: Vec<_> = (1..=50).map(client).collect();
    let mut rib = rib(&clients);
    let mut group = Group::new(settings(false, true));
    for info in &clients {
        group.join(info.id, []);
        assert!(group.drain(info.id, &rib, 4096).synced);
    }
    for round in 0..10 {
        for n in 1..=50 {
            let prefix = format!("10.{n}.{round}.0/24");
            rib.update(PeerId(n), &reach(&path(&[], &format!("198.51.100.{n}")), &[&prefix]));
        }
    }
    let changes = decide(&mut rib, &anywhere, 1);
    let chunks = group.export(&changes);
    for n in 1..=50 {
        let mut ear = Receiver::default();
        let pieces: Vec<_> = chunks.iter().flat_map(|chunk| chunk.bytes_for(PeerId(n))).collect();
        assert!(pieces.len() <= 2, "before its own and after");
        for piece in &pieces {
            ear.feed(piece, codec(false));
        }
        assert_eq!((ear.routes.len(), ear.messages), (490, 49));
        assert_eq!(group.sent(PeerId(n), &rib).collect::<BTreeMap<_, _>>(), ear.routes);
    }
}

#[test]
fn who_changes_groups_while_behind_is_still_told_of_withdrawals() {
    let mut bench = Bench::new(&[2]);
    let prefixes = ["10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8", "13.0.0.0/8"];
    bench.rib.update(PeerId(1), &reach(&path(&[65001], "192.0.2.1"), &prefixes));
    bench.flush();
    // Its queue is full: one has gone, one is its own now. While it is behind the third goes.
    bench.rib.update(PeerId(1), &withdraw(&["10.0.0.0/8"]));
    bench.rib.update(PeerId(1), &reach(&path(&[65001, 7], "192.0.2.1"), &["11.0.0.0/8"]));
    bench.rib.update(PeerId(2), &reach(&path(&[65002], "192.0.2.2"), &["11.0.0.0/8"]));
    let changes = decide(&mut bench.rib, &anywhere, 1);
    for chunk in bench.group.export(&changes) {
        bench.group.lag(PeerId(2), &chunk);
    }
    bench.rib.update(PeerId(1), &withdraw(&["12.0.0.0/8"]));
    bench.flush();

    let has: Vec<_> = bench.group.may_hold(PeerId(2), &bench.rib).collect();
    bench.group = Group::new(ExportSettings { next_hop_self: true, ..settings(true, false) });
    bench.group.join(PeerId(2), has);
    bench.catch_up();
    assert_eq!(bench.ears[&PeerId(2)].names(), ["13.0.0.0/8 64512 65001"]);
}

#[test]
fn a_withdrawal_that_is_owed_outlives_its_entry() {
    // One reflector to another: routes of clients go there, its own and those of other such peers don't.
    let mut rib = rib(&[client(1), internal(2)]);
    let mut group = Group::new(settings(false, false));
    let (two, mut ear) = (PeerId(2), Receiver::default());
    for n in [1, 2] {
        rib.update(PeerId(n), &reach(&path(&[], &format!("192.0.2.{n}")), &["10.0.0.0/8"]));
    }
    group.join(two, []);
    decide(&mut rib, &anywhere, 1);
    ear.feed(&group.drain(two, &rib, 4096).bytes, codec(false));
    assert_eq!(ear.names(), ["10.0.0.0/8 "]);

    // While it is behind the client's goes, then what was chosen instead and was never offered.
    rib.update(PeerId(1), &reach(&path(&[], "192.0.2.1"), &["11.0.0.0/8"]));
    for chunk in group.export(&decide(&mut rib, &anywhere, 1)) {
        group.lag(two, &chunk);
    }
    for n in [1, 2] {
        rib.update(PeerId(n), &withdraw(&["10.0.0.0/8"]));
        assert!(group.export(&decide(&mut rib, &anywhere, 1)).is_empty());
    }
    ear.feed(&group.drain(two, &rib, 4096).bytes, codec(false));
    assert_eq!((ear.names(), group.is_synced(two)), (vec!["11.0.0.0/8 ".to_owned()], true));
}

#[test]
fn attributes_that_fit_no_message_withdraw_the_route() {
    let mut bench = Bench::new(&[2]);
    bench.rib.update(PeerId(1), &reach(&path(&[65001], "192.0.2.1"), &["10.0.0.0/8"]));
    bench.flush();
    let large = (0..1020).map(crate::bgp::attrs::Community).collect();
    bench.rib.update(PeerId(1), &reach(&Attrs { communities: large, ..path(&[65001], "192.0.2.1") }, &["10.0.0.0/8"]));
    bench.flush();
    assert!(bench.ears[&PeerId(2)].routes.is_empty());
    assert_eq!(bench.group.untold(), 1);
}
