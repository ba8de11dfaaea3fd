//! The decision step by step, and what is said about it.

use super::*;
use crate::bgp::attrs::{ExtCommunity, Origin};

const X: &str = "10.0.0.0/8";

/// Metric is the last number of the next hop; 192.0.2.250 and above can't be reached.
fn last_octet(_: &Prefix, attrs: &Attrs) -> Option<u32> {
    let IpAddr::V4(addr) = attrs.next_hop else { return None };
    let metric = u32::from(addr.octets()[3]);
    (metric < 250).then_some(metric)
}

fn base() -> Attrs {
    path(&[65001, 65009], "192.0.2.50")
}

fn med(neighbor: u32, med: u32) -> Attrs {
    Attrs { med: Some(med), ..path(&[neighbor, 65009], "192.0.2.50") }
}

fn verdicts(peers: &[PeerInfo], paths: &[Attrs], multipath: usize) -> Vec<(u32, Verdict)> {
    let mut rib = rib(peers);
    for (peer, attrs) in peers.iter().zip(paths) {
        rib.update(peer.id, &reach(attrs, &[X]));
    }
    let changes = decide(&mut rib, &last_octet, multipath);
    let explained = rib.explain(&p(X), &last_octet, select(multipath));
    // The table did what the explanation says.
    let used = |e: &&Explained| matches!(e.verdict, Verdict::Best | Verdict::Multipath);
    let hops: Vec<_> = explained.iter().filter(used).map(|e| e.attrs.clone()).collect();
    match &changes[..] {
        [change] => {
            let best = change.now.as_ref().unwrap();
            assert_eq!((best.source.peer, explained[0].verdict), (explained[0].peer, Verdict::Best));
            assert_eq!(change.hops.len(), hops.len());
            assert!(hops.iter().all(|hop| change.hops.iter().any(|other| Arc::ptr_eq(hop, &other.attrs))));
            assert!(Arc::ptr_eq(&change.hops[0].attrs, &best.attrs));
        }
        [] => assert!(hops.is_empty()),
        more => panic!("{more:?}"),
    }
    explained.iter().map(|e| (e.peer.0, e.verdict)).collect()
}

#[test]
fn each_step_decides_what_the_ones_before_left() {
    use Verdict::{Best, LostAt, Unresolvable};
    let originator = |id: u8| Attrs { originator_id: Some([1, 1, 1, id].into()), ..base() };
    let clusters = |n: u8| Attrs { cluster_list: (0..n).map(|i| [7, 7, 7, i].into()).collect(), ..originator(3) };
    let same_id = |n: u8| PeerInfo { router_id: [1, 1, 1, 3].into(), ..internal(n) };
    // In each row the second path wins; the first has the lower router id and address.
    let rows: Vec<(&str, [PeerInfo; 2], [Attrs; 2], Verdict)> = vec![
        (
            "a dead next hop",
            [internal(1), internal(2)],
            [Attrs { next_hop: ip("192.0.2.250"), local_pref: Some(900), ..base() }, base()],
            Unresolvable,
        ),
        (
            "higher preference beats a shorter path",
            [internal(1), internal(2)],
            [path(&[], "192.0.2.50"), Attrs { local_pref: Some(101), ..base() }],
            LostAt(Step::LocalPref),
        ),
        (
            "no preference is 100",
            [internal(1), internal(2)],
            [Attrs { local_pref: Some(99), ..base() }, base()],
            LostAt(Step::LocalPref),
        ),
        (
            "a shorter path beats a better origin",
            [internal(1), internal(2)],
            [base(), Attrs { origin: Origin::Incomplete, ..path(&[65001], "192.0.2.50") }],
            LostAt(Step::AsPath),
        ),
        (
            "a better origin beats a lower MED",
            [internal(1), internal(2)],
            [Attrs { origin: Origin::Egp, ..base() }, Attrs { med: Some(7), ..base() }],
            LostAt(Step::Origin),
        ),
        ("a lower MED beats eBGP", [external(1), internal(2)], [med(65001, 8), med(65001, 7)], LostAt(Step::Med)),
        ("no MED is zero", [internal(1), internal(2)], [med(65001, 1), base()], LostAt(Step::Med)),
        (
            "eBGP beats a nearer next hop, whatever the MED of another AS",
            [internal(1), external(2)],
            [Attrs { next_hop: ip("192.0.2.40"), ..med(65009, 0) }, med(65002, 5)],
            LostAt(Step::External),
        ),
        (
            "a nearer next hop beats a lower router id",
            [internal(1), internal(2)],
            [base(), Attrs { next_hop: ip("192.0.2.49"), ..base() }],
            LostAt(Step::Metric),
        ),
        (
            "router id",
            [PeerInfo { router_id: [2, 0, 0, 0].into(), ..internal(1) }, internal(2)],
            [base(), base()],
            LostAt(Step::RouterId),
        ),
        (
            "the originator's router id in place of the peer's",
            [internal(1), internal(2)],
            [originator(9), originator(8)],
            LostAt(Step::RouterId),
        ),
        ("fewer clusters", [internal(1), internal(2)], [clusters(2), clusters(1)], LostAt(Step::ClusterList)),
        (
            "peer address",
            [PeerInfo { address: ip("192.0.2.77"), ..same_id(1) }, same_id(2)],
            [base(), base()],
            LostAt(Step::PeerAddress),
        ),
    ];
    for (why, peers, paths, wanted) in rows {
        assert_eq!(verdicts(&peers, &paths, 1), [(2, Best), (1, wanted)], "{why}");
        let (peers, paths) = ([peers[1].clone(), peers[0].clone()], [paths[1].clone(), paths[0].clone()]);
        assert_eq!(verdicts(&peers, &paths, 1), [(2, Best), (1, wanted)], "{why}, the other order");
    }
}

#[test]
fn meds_compare_within_an_as_and_not_by_order_of_arrival() {
    // In pairs: 1 beats 2 (MED), 2 beats 3 (metric), 3 beats 1 (metric): a circle. All at once: 2
    // is out by MED, then 3 is nearer than 1.
    let near = |hop: &str, attrs: Attrs| Attrs { next_hop: ip(hop), ..attrs };
    let paths =
        [near("192.0.2.30", med(65001, 1)), near("192.0.2.10", med(65001, 2)), near("192.0.2.20", med(65002, 9))];
    let peers = [internal(1), internal(2), internal(3)];
    let wanted = [(3, Verdict::Best), (1, Verdict::LostAt(Step::Metric)), (2, Verdict::LostAt(Step::Med))];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let peers = order.map(|i| peers[i].clone());
        let paths = order.map(|i| paths[i].clone());
        assert_eq!(verdicts(&peers, &paths, 1), wanted, "{order:?}");
    }
}

/// Why, peers, their paths, limit, members wanted, verdicts wanted.
type Balanced<'a> = (&'a str, &'a [PeerInfo], Vec<Attrs>, usize, usize, Vec<(u32, Verdict)>);

#[test]
fn multipath_sets() {
    use Verdict::{Best, LostAt, Multipath, SameNextHop};
    let via = |asn: u32, n: u8| path(&[asn, 65009], &format!("192.0.2.{n}"));
    let equal = |n: u8| path(&[65001], &format!("192.0.2.{n}"));
    // A metric that doesn't matter here.
    let flat = |peers: &[PeerInfo], paths: &[Attrs], multipath: usize| {
        let mut rib = rib(peers);
        for (peer, attrs) in peers.iter().zip(paths) {
            rib.update(peer.id, &reach(attrs, &[X]));
        }
        let hops = decide(&mut rib, &anywhere, multipath)[0].hops.len();
        let explained = rib.explain(&p(X), &anywhere, select(multipath));
        (hops, explained.iter().map(|e| (e.peer.0, e.verdict)).collect::<Vec<_>>())
    };
    let two = [external(1), external(2)];
    let three = [internal(1), internal(2), internal(3)];
    let rows: Vec<Balanced<'_>> = vec![
        (
            "through two AS numbers of equal length",
            &two,
            vec![via(65001, 1), via(65002, 2)],
            8,
            2,
            vec![(1, Best), (2, Multipath)],
        ),
        ("off", &two, vec![via(65001, 1), via(65002, 2)], 1, 1, vec![(1, Best), (2, LostAt(Step::RouterId))]),
        ("zero is one", &two, vec![via(65001, 1), via(65002, 2)], 0, 1, vec![(1, Best), (2, LostAt(Step::RouterId))]),
        (
            "at most two",
            &three,
            vec![equal(1), equal(2), equal(3)],
            2,
            2,
            vec![(1, Best), (2, Multipath), (3, LostAt(Step::RouterId))],
        ),
        (
            "one next hop shown by two reflectors is one way",
            &three,
            vec![equal(1), equal(1), equal(3)],
            2,
            2,
            vec![(1, Best), (3, Multipath), (2, SameNextHop)],
        ),
    ];
    for (why, peers, paths, multipath, hops, wanted) in rows {
        assert_eq!(flat(peers, &paths, multipath), (hops, wanted), "{why}");
    }
    let mixed = [external(1), internal(2)];
    let got = flat(&mixed, &[via(65001, 1), via(65001, 2)], 8);
    assert_eq!(got, (1, vec![(1, Best), (2, LostAt(Step::External))]), "eBGP and iBGP don't mix");
}

#[test]
fn what_this_node_announces_wins() {
    let mut rib = rib(&[external(1)]);
    rib.update(PeerId(1), &reach(&Attrs { local_pref: Some(9999), ..base() }, &[X]));
    let own = Attrs { ext_communities: [ExtCommunity::ENCAP_IPIP].into(), ..path(&[], "192.0.2.11") };
    rib.originate(p(X), own.clone());
    // Even where nothing can be reached.
    let changes = decide(&mut rib, &|_, _| None, 8);
    assert_eq!(changes[0].now.as_ref().map(|s| s.source), Some(Source::LOCAL));
    assert_eq!((changes.len(), changes[0].hops.len()), (1, 1));
    let verdicts: Vec<_> = rib.explain(&p(X), &anywhere, select(8)).iter().map(|e| (e.peer, e.verdict)).collect();
    assert_eq!(verdicts, [(PeerId::LOCAL, Verdict::Best), (PeerId(1), Verdict::LostAt(Step::Local))]);

    rib.originate(p(X), own);
    assert!(rib.is_settled(), "the same again is no news");
    assert!(rib.unoriginate(&p(X)) && !rib.unoriginate(&p(X)));
    let changes = decide(&mut rib, &anywhere, 8);
    assert_eq!(changes[0].now.as_ref().map(|s| s.source.peer), Some(PeerId(1)));
}

#[test]
fn changes_are_only_what_changed() {
    let mut rib = rib(&[external(1), external(2)]);
    let (a, b) = (path(&[65001], "192.0.2.1"), path(&[65002], "192.0.2.2"));
    rib.update(PeerId(1), &reach(&a, &[X, "11.0.0.0/8"]));
    assert_eq!(decide(&mut rib, &anywhere, 2).len(), 2);
    assert_eq!(decide(&mut rib, &anywhere, 2).len(), 0, "nothing waits");

    rib.update(PeerId(1), &reach(&a, &[X]));
    assert!(rib.is_settled(), "the same again");
    rib.update(PeerId(1), &withdraw(&[X]));
    rib.update(PeerId(1), &reach(&a, &[X]));
    assert_eq!(decide(&mut rib, &anywhere, 2).len(), 0, "gone and back between two decisions");

    rib.update(PeerId(2), &reach(&b, &[X]));
    let change = decide(&mut rib, &anywhere, 2).remove(0);
    assert_eq!((change.was == change.now, change.hops.len()), (true, 2), "the multipath set alone is news");
    rib.touch_all();
    let change = decide(&mut rib, &anywhere, 1).remove(0);
    assert_eq!((change.was == change.now, change.hops.len()), (true, 1), "and so is its limit");

    rib.next_hops_changed(&[ip("192.0.2.9")]);
    assert!(decide(&mut rib, &anywhere, 1).is_empty(), "nobody uses it");
    rib.next_hops_changed(&[ip("192.0.2.1")]);
    let dead = |_: &Prefix, attrs: &Attrs| (attrs.next_hop != ip("192.0.2.1")).then_some(0);
    let changes = decide(&mut rib, &dead, 1);
    let now: Vec<_> = changes.iter().map(|c| (c.prefix, c.now.as_ref().map(|s| s.source.peer.0))).collect();
    assert_eq!(now, [(p(X), Some(2)), (p("11.0.0.0/8"), None)]);
    assert!(changes[1].hops.is_empty() && changes[1].was.is_some());
    assert_eq!(rib.explain(&p("11.0.0.0/8"), &dead, select(1))[0].verdict, Verdict::Unresolvable);
    assert_eq!(rib.stats().unreachable, 1);
    rib.next_hops_changed(&[ip("192.0.2.1")]);
    decide(&mut rib, &anywhere, 1);
    assert_eq!(rib.stats().unreachable, 0, "its next hop is back");
    rib.next_hops_changed(&[ip("192.0.2.1")]);
    decide(&mut rib, &dead, 1);
    rib.update(PeerId(1), &withdraw(&["11.0.0.0/8"]));
    decide(&mut rib, &dead, 1);
    assert_eq!(rib.stats().unreachable, 0, "nobody announces it any more");
}

#[test]
fn explanations_name_the_values() {
    let mut rib = rib(&[external(1), external(2), external(3)]);
    rib.update(PeerId(1), &reach(&path(&[65001, 65009], "192.0.2.1"), &["10.244.8.0/24"]));
    rib.update(PeerId(2), &reach(&path(&[65002], "192.0.2.2"), &["10.244.8.0/24"]));
    rib.update(PeerId(3), &reach(&path(&[65003, 64512], "192.0.2.3"), &["10.244.8.0/24"]));
    let text: Vec<_> = rib.explain(&p("10.244.8.0/24"), &anywhere, select(1)).into_iter().map(|e| e.text).collect();
    assert_eq!(text, ["best", "AS path length 2, the best has 1; backup", "rejected: our own AS is in its path"],);
    assert!(rib.explain(&p("10.9.0.0/24"), &anywhere, select(1)).is_empty());
}

#[test]
fn looking_up() {
    let mut rib = rib(&[external(1)]);
    rib.update(PeerId(1), &reach(&path(&[65001], "192.0.2.1"), &["0.0.0.0/0", "10.0.0.0/8", "10.9.0.0/16"]));
    decide(&mut rib, &anywhere, 1);
    let covering: Vec<_> = rib.covering(ip("10.9.1.1")).map(|view| view.prefix.to_string()).collect();
    assert_eq!(covering, ["10.9.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]);
    let stats = rib.stats();
    assert_eq!((stats.prefixes, stats.paths, stats.attribute_sets, stats.selected), (3, 3, 1, [3, 0]));
    assert_eq!(rib.paths_of(PeerId(1)).count(), 3);
    assert_eq!(rib.view(&p("10.0.0.0/8")).unwrap().hops.len(), 1);
    rib.peer_down(PeerId(1));
    decide(&mut rib, &anywhere, 1);
    assert_eq!(rib.stats().prefixes + rib.stats().paths + rib.stats().selected[0], 0);
    assert!(rib.counters(PeerId(1)).is_none() && rib.prefixes().is_empty());
}
