//! What takes over when all that is used fails, and large changes in small steps.

use super::*;
use crate::bgp::rib::select::CELLS;

const X: &str = "10.244.8.0/24";

/// Peers of a set of paths.
fn peers(chosen: &[Chosen]) -> Vec<u32> {
    chosen.iter().map(|c| c.peer.0).collect()
}

#[test]
fn a_backup_covers_peers_and_next_hops() {
    // Peer n announces the n-th: AS path length, last octet of the next hop.
    type Row<'a> = (&'a str, &'a [(usize, u8)], usize, &'a [u32], &'a [u32]);
    let rows: [Row; 8] = [
        ("nothing else is there", &[(1, 1)], 1, &[1], &[]),
        ("the other", &[(1, 1), (2, 2)], 1, &[1], &[2]),
        ("the same next hop by another peer is better than none", &[(1, 1), (2, 1)], 1, &[1], &[2]),
        ("another next hop is better than a better path by the same", &[(1, 1), (2, 1), (3, 3)], 1, &[1], &[3]),
        ("the best of the rest", &[(1, 1), (3, 2), (2, 3)], 1, &[1], &[3]),
        ("all that are as good", &[(1, 1), (1, 2), (2, 3), (2, 4), (3, 5)], 8, &[1, 2], &[3, 4]),
        ("the limit binds it too", &[(1, 1), (1, 2), (2, 3), (2, 4), (2, 5)], 2, &[1, 2], &[3, 4]),
        ("beyond the limit", &[(1, 1), (1, 2), (1, 3)], 2, &[1, 2], &[3]),
    ];
    for (why, paths, multipath, hops, backup) in rows {
        let all: Vec<PeerInfo> = (1..=5).map(external).collect();
        let mut rib = rib(&all);
        for (n, (length, hop)) in (1..).zip(paths) {
            let numbers: Vec<u32> = (0..*length).map(|i| if i == 0 { 65000 + n } else { 65009 }).collect();
            rib.update(PeerId(n), &reach(&path(&numbers, &format!("192.0.2.{hop}")), &[X]));
        }
        let change = decide(&mut rib, &anywhere, multipath).remove(0);
        assert_eq!((&peers(&change.hops)[..], &peers(&change.backup)[..]), (hops, backup), "{why}");
        let view = rib.view(&p(X)).unwrap();
        assert_eq!((&view.hops, &view.backup), (&change.hops, &change.backup), "{why}");
        drop(view);
        let explained = rib.explain(&p(X), &anywhere, select(multipath));
        let mut told: Vec<u32> = explained.iter().filter(|e| e.backup).map(|e| e.peer.0).collect();
        told.sort_unstable();
        assert_eq!(told, backup, "{why}");

        let mut changes = Vec::new();
        rib.touch_all();
        while !rib.is_settled() {
            rib.decide(&anywhere, Selection { multipath, backups: false }, 1, &mut changes);
        }
        assert!(changes.iter().all(|change| change.backup.is_empty() && change.was == change.now), "{why}");
        assert_eq!(changes.len(), usize::from(!backup.is_empty()), "{why}: it was taken back");
    }
}

#[test]
fn a_backup_alone_is_news_for_nobody_but_forwarding() {
    let mut rib = rib(&[external(1), external(2)]);
    let mut group = Group::new(settings(true, false));
    group.join(PeerId(9), []);
    group.drain(PeerId(9), &rib, 1000);
    rib.update(PeerId(1), &reach(&path(&[65001], "192.0.2.1"), &[X]));
    assert_eq!(group.export(&decide(&mut rib, &anywhere, 1)).len(), 1);
    for (why, update, backup) in [
        ("one comes", reach(&path(&[65002, 7], "192.0.2.2"), &[X]), &[2][..]),
        ("it changes", reach(&path(&[65002, 8], "192.0.2.2"), &[X]), &[2]),
        ("it goes", withdraw(&[X]), &[]),
    ] {
        rib.update(PeerId(2), &update);
        let changes = decide(&mut rib, &anywhere, 1);
        assert_eq!((changes.len(), &peers(&changes[0].backup)[..]), (1, backup), "{why}");
        assert_eq!(changes[0].was, changes[0].now, "{why}");
        assert!(group.export(&changes).is_empty(), "{why}");
    }
    rib.originate(p(X), path(&[], "0.0.0.0"));
    let change = decide(&mut rib, &anywhere, 1).remove(0);
    assert!(change.backup.is_empty(), "what this node announces itself doesn't fail");
}

#[test]
fn a_peer_goes_at_once_and_its_routes_in_steps() {
    let mut rib = rib(&[external(1), external(2)]);
    let all: Vec<String> = (0..100).map(|i| format!("10.245.{i}.0/24")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    rib.update(PeerId(1), &reach(&path(&[65001], "192.0.2.1"), &all));
    rib.update(PeerId(2), &reach(&path(&[65002, 7], "192.0.2.2"), &all[..50]));
    decide(&mut rib, &anywhere, 1);
    rib.peer_down(PeerId(1));
    assert_eq!((rib.counters(PeerId(1)), rib.stats().paths, rib.stats().prefixes), (None, 50, 100));
    assert!(rib.paths_of(PeerId(1)).next().is_none(), "none of its paths is shown");

    // It comes back before the table is clear of it, and sends some again.
    rib.peer_up(external(1));
    rib.update(PeerId(1), &reach(&path(&[65001], "192.0.2.1"), &all[40..60]));
    assert_eq!((rib.counters(PeerId(1)).unwrap().received, rib.stats().paths), (20, 70));
    let mut changes = Vec::new();
    for step in 0.. {
        assert!(step < 100, "it ends");
        let before = changes.len();
        rib.decide(&anywhere, select(1), 10, &mut changes);
        assert!(changes.len() - before <= 10 * CELLS);
        if rib.is_settled() {
            break;
        }
    }
    let best: Vec<Option<u32>> = all.iter().map(|x| rib.selected_at(&p(x)).map(|s| s.source.peer.0)).collect();
    assert_eq!(best[..40], [Some(2); 40]);
    assert_eq!(best[40..60], [Some(1); 20]);
    assert_eq!(best[60..], [None; 40]);
    // 40 moved and 40 went; of those that were sent again nothing is news but the best path's peer was.
    assert_eq!(changes.iter().filter(|change| change.was != change.now).count(), 80);
    assert_eq!((rib.stats().paths, rib.stats().prefixes), (70, 60));
}
