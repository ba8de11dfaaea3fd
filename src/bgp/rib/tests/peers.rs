//! Sessions, counters, limits, restarts.

use super::*;
use crate::bgp::policy::{Edit, Rule, Rules};

fn best(rib: &mut Rib, prefix: &str) -> Option<u32> {
    decide(rib, &anywhere, 1);
    rib.selected_at(&p(prefix)).map(|s| s.source.peer.0)
}

#[test]
fn counts_follow_every_change() {
    let pools = PeerInfo { import: import(ImportScope::Pools), ..external(1) };
    let mut rib = rib(&[pools]);
    let good = path(&[65001], "192.0.2.1");
    let counts = |rib: &Rib| {
        let c = rib.counters(PeerId(1)).unwrap();
        (c.received, c.accepted, c.rejected[Reject::OutsidePools as usize], c.rejected.iter().sum::<usize>())
    };
    rib.update(PeerId(1), &reach(&good, &["10.244.1.0/24", "10.244.2.0/24", "8.8.8.0/24"]));
    assert_eq!(counts(&rib), (3, 2, 1, 1));
    rib.update(PeerId(1), &reach(&path(&[65001, 64512], "192.0.2.1"), &["10.244.1.0/24"]));
    assert_eq!(counts(&rib), (3, 1, 1, 2), "replaced by a loop");
    rib.update(PeerId(1), &withdraw(&["8.8.8.0/24", "10.244.1.0/24", "10.244.99.0/24"]));
    assert_eq!(counts(&rib), (1, 1, 0, 0));
    let both = Update { withdrawn: vec![p("10.244.2.0/24")], ..reach(&good, &["10.244.2.0/24"]) };
    rib.update(PeerId(1), &both);
    assert_eq!(counts(&rib), (1, 1, 0, 0), "withdrawals come first");
    assert_eq!(rib.update(PeerId(5), &both), Outcome::default(), "nobody we know");
}

#[test]
fn limits_count_what_was_received() {
    let pools = PeerInfo { import: import(ImportScope::Pools), max_prefixes: limit(4), ..external(1) };
    let mut rib = rib(&[pools]);
    let attrs = path(&[65001], "192.0.2.1");
    let mut send = |prefixes: &[&str]| rib.update(PeerId(1), &reach(&attrs, prefixes));
    let quiet = Outcome::default();
    assert_eq!(send(&["1.0.0.0/8", "2.0.0.0/8"]), quiet);
    assert_eq!(send(&["3.0.0.0/8"]), Outcome { warning: limit(4), ..quiet }, "three quarters");
    assert_eq!(send(&["4.0.0.0/8"]), quiet, "full, and told already");
    assert_eq!(send(&["4.0.0.0/8", "1.0.0.0/8"]), quiet, "again what it has");
    assert_eq!(send(&["1.0.0.0/8", "5.0.0.0/8", "6.0.0.0/8"]), Outcome { over_limit: limit(4), ..quiet });
    assert_eq!(rib.counters(PeerId(1)).unwrap().received, 4, "the rest is not kept");
    decide(&mut rib, &anywhere, 1);
    assert_eq!(rib.stats().prefixes, 4);
}

#[test]
fn a_restart_keeps_routes_until_they_are_sent_again() {
    let mut rib = rib(&[external(1), external(2)]);
    let (a, b) = (path(&[65001], "192.0.2.1"), path(&[65002, 65009], "192.0.2.2"));
    rib.update(PeerId(1), &reach(&a, &["10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8", "2001:db8::/32"]));
    rib.update(PeerId(2), &reach(&b, &["11.0.0.0/8"]));
    decide(&mut rib, &anywhere, 1);

    rib.peer_restarts(PeerId(1), PerFamily::new(true, false));
    let changes = decide(&mut rib, &anywhere, 1);
    let gone: Vec<_> = changes.iter().map(|c| c.prefix.to_string()).collect();
    assert_eq!(gone, ["2001:db8::/32"], "a family that is not kept");
    assert_eq!(rib.counters(PeerId(1)).unwrap().stale, 3);
    assert!(rib.view(&p("10.0.0.0/8")).unwrap().paths[0].is_stale());
    assert_eq!(rib.update(PeerId(1), &reach(&a, &["13.0.0.0/8"])), Outcome::default());
    assert!(rib.view(&p("13.0.0.0/8")).is_none(), "nothing comes without a session");

    rib.peer_up(external(1));
    rib.update(PeerId(1), &reach(&a, &["10.0.0.0/8"]));
    rib.update(PeerId(1), &reach(&Attrs { med: Some(1), ..a.clone() }, &["12.0.0.0/8"]));
    assert_eq!(rib.counters(PeerId(1)).unwrap().stale, 1);
    assert_eq!(decide(&mut rib, &anywhere, 1).len(), 1, "sent again unchanged is no news");
    assert_eq!(rib.sweep_stale(PeerId(1), Family::Ipv6), 0);
    assert_eq!(rib.sweep_stale(PeerId(1), Family::Ipv4), 1);
    assert_eq!(best(&mut rib, "11.0.0.0/8"), Some(2));
    assert_eq!(best(&mut rib, "10.0.0.0/8"), Some(1));

    // It fails again before it has sent all: what was stale stays until its first deadline.
    rib.peer_restarts(PeerId(1), PerFamily::new(true, true));
    rib.peer_up(external(1));
    rib.update(PeerId(1), &reach(&a, &["10.0.0.0/8"]));
    rib.peer_restarts(PeerId(1), PerFamily::new(true, true));
    assert_eq!((best(&mut rib, "10.0.0.0/8"), best(&mut rib, "12.0.0.0/8")), (Some(1), Some(1)));
    assert_eq!(rib.sweep_older(PeerId(1)), 1);
    assert_eq!((best(&mut rib, "10.0.0.0/8"), best(&mut rib, "12.0.0.0/8")), (Some(1), None));
    assert_eq!(rib.sweep_older(PeerId(1)), 0, "what it sent between both has a time of its own");
    // It never comes back.
    rib.sweep_stale(PeerId(1), Family::Ipv4);
    decide(&mut rib, &anywhere, 1);
    assert!(rib.counters(PeerId(1)).is_none(), "nothing is left of it");
}

#[test]
fn a_refresh_sweeps_what_was_not_sent_again() {
    let mut rib = rib(&[external(1)]);
    let a = path(&[65001], "192.0.2.1");
    rib.update(PeerId(1), &reach(&a, &["10.0.0.0/8", "11.0.0.0/8", "2001:db8::/32"]));
    rib.mark_stale(PeerId(1), Family::Ipv4);
    // A second beginning takes nothing away (RFC 7313 §4).
    rib.mark_stale(PeerId(1), Family::Ipv4);
    assert_eq!(rib.counters(PeerId(1)).unwrap().stale, 2);
    rib.update(PeerId(1), &reach(&a, &["11.0.0.0/8"]));
    assert_eq!(rib.sweep_stale(PeerId(1), Family::Ipv4), 1);
    assert_eq!((best(&mut rib, "10.0.0.0/8"), best(&mut rib, "11.0.0.0/8")), (None, Some(1)));
    assert_eq!(rib.counters(PeerId(1)).unwrap().received, 2);
}

#[test]
fn a_peer_of_another_kind_that_refreshes_twice_loses_nothing() {
    let mut rib = rib(&[client(4)]);
    let attrs = path(&[65009], "192.0.2.4");
    rib.update(PeerId(4), &reach(&attrs, &["10.0.0.0/8"]));
    rib.peer_up(PeerInfo { client: false, ..client(4) });
    rib.mark_stale(PeerId(4), Family::Ipv4);
    rib.update(PeerId(4), &reach(&attrs, &["11.0.0.0/8"]));
    // All before a single entry was walked over.
    rib.mark_stale(PeerId(4), Family::Ipv4);
    assert_eq!(best(&mut rib, "10.0.0.0/8"), Some(4), "it may be sent again yet");
    assert_eq!(rib.sweep_stale(PeerId(4), Family::Ipv4), 2);
    assert_eq!(best(&mut rib, "10.0.0.0/8"), None);
}

#[test]
fn a_peer_that_comes_back_as_another_starts_anew() {
    let mut rib = rib(&[external(1)]);
    rib.update(PeerId(1), &reach(&path(&[65001], "192.0.2.1"), &["10.0.0.0/8"]));
    decide(&mut rib, &anywhere, 1);
    rib.peer_restarts(PeerId(1), PerFamily::new(true, true));
    let other = PeerInfo { router_id: [5, 5, 5, 5].into(), ..external(1) };
    rib.peer_up(other);
    rib.update(PeerId(1), &reach(&path(&[65001], "192.0.2.1"), &["10.0.0.0/8"]));
    let change = decide(&mut rib, &anywhere, 1).remove(0);
    let ids = [change.was, change.now].map(|s| s.unwrap().source.router_id.to_string());
    assert_eq!(ids, ["1.1.1.1", "5.5.5.5"], "a change tells who it was and who it is");
}

#[test]
fn a_new_import_policy_needs_no_word_from_the_peer() {
    let mut rib = rib(&[external(1)]);
    rib.update(PeerId(1), &reach(&path(&[65001], "192.0.2.1"), &["10.244.1.0/24", "8.8.8.0/24"]));
    decide(&mut rib, &anywhere, 1);

    rib.set_import(PeerId(1), import(ImportScope::Pools));
    assert_eq!(decide(&mut rib, &anywhere, 1).len(), 1);
    assert_eq!((best(&mut rib, "8.8.8.0/24"), best(&mut rib, "10.244.1.0/24")), (None, Some(1)));

    let edit = Edit { local_pref: Some(300), prepend: 2, ..Edit::default() };
    let any = Rule { prefixes: vec![], communities: vec![], as_path_contains: vec![], accept: true, edit };
    rib.set_import(PeerId(1), import(ImportScope::Named(Rules(vec![any]))));
    assert_eq!(decide(&mut rib, &anywhere, 1).len(), 2);
    let view = rib.view(&p("8.8.8.0/24")).unwrap();
    let attrs = view.paths[0].imported().unwrap();
    assert_eq!((attrs.local_pref, attrs.as_path.to_string().as_str()), (Some(300), "65001 65001 65001"));
    assert_eq!(view.paths[0].raw().local_pref, None, "what the peer sent is kept as it was");
    let other = rib.view(&p("10.244.1.0/24")).unwrap();
    assert!(Arc::ptr_eq(attrs, other.paths[0].imported().unwrap()), "changed attributes are shared as well");
    drop((view, other));

    let relaxed = PeerInfo { import: import(ImportScope::All), allow_own_as: 1, ..external(1) };
    rib.update(PeerId(1), &reach(&path(&[65001, 64512], "192.0.2.1"), &["9.0.0.0/8"]));
    assert_eq!(best(&mut rib, "9.0.0.0/8"), None);
    rib.peer_up(relaxed);
    assert_eq!(best(&mut rib, "9.0.0.0/8"), Some(1), "new settings while the session is up");
}

#[test]
fn a_path_that_is_about_to_go_away_is_the_last_choice() {
    use crate::bgp::attrs::Community;
    const LEAVING: Community = Community::GRACEFUL_SHUTDOWN;
    let any = |edit: Edit| {
        let rule = Rule { prefixes: vec![], communities: vec![], as_path_contains: vec![], accept: true, edit };
        import(ImportScope::Named(Rules(vec![rule])))
    };
    let deaf = Import { graceful_shutdown: false, ..Import::clone(&import(ImportScope::All)) };
    let preferred = Edit { local_pref: Some(300), ..Edit::default() };
    let cases = [
        // (why, peer, communities, wanted LOCAL_PREF)
        ("from another AS", external(1), vec![LEAVING], Some(0)),
        ("without the community", external(1), vec![Community(7)], None),
        ("within the AS the LOCAL_PREF itself comes along", internal(1), vec![LEAVING], None),
        ("turned off", PeerInfo { import: Arc::new(deaf), ..external(1) }, vec![LEAVING], None),
        ("whatever a policy prefers", PeerInfo { import: any(preferred), ..external(1) }, vec![LEAVING], Some(0)),
        (
            "a policy that removes it thinks otherwise",
            PeerInfo { import: any(Edit { remove_communities: vec![LEAVING], ..Edit::default() }), ..external(1) },
            vec![LEAVING],
            None,
        ),
        (
            "a policy that adds it drains that peer",
            PeerInfo { import: any(Edit { add_communities: vec![LEAVING], ..Edit::default() }), ..external(1) },
            vec![],
            Some(0),
        ),
    ];
    for (why, peer, communities, wanted) in cases {
        let numbers = if peer.external { vec![peer.asn.0] } else { vec![] };
        let attrs = Attrs { communities: communities.into(), ..path(&numbers, "192.0.2.1") };
        let mut rib = rib(&[peer]);
        rib.update(PeerId(1), &reach(&attrs, &["10.0.0.0/8", "11.0.0.0/8"]));
        decide(&mut rib, &anywhere, 1);
        let attrs = |prefix: &str| rib.view(&p(prefix)).unwrap().paths[0].imported().unwrap().clone();
        assert_eq!(attrs("10.0.0.0/8").local_pref, wanted, "{why}");
        assert!(Arc::ptr_eq(&attrs("10.0.0.0/8"), &attrs("11.0.0.0/8")), "{why}: one set for the whole message");
    }

    // Whichever of two equal paths is marked, the other is used, alone; and `explain` says why.
    let mut rib = rib(&[external(1), external(2)]);
    for (id, communities) in [(1, vec![LEAVING]), (2, vec![])] {
        let attrs = Attrs { communities: communities.into(), ..path(&[65000 + id], &format!("192.0.2.{id}")) };
        rib.update(PeerId(id), &reach(&attrs, &["10.0.0.0/8"]));
    }
    decide(&mut rib, &anywhere, 8);
    let view = rib.view(&p("10.0.0.0/8")).unwrap();
    assert_eq!((view.best.unwrap().source.peer, view.hops.len()), (PeerId(2), 1));
    let told = &rib.explain(&p("10.0.0.0/8"), &anywhere, Selection { multipath: 8, backups: false })[1].text;
    assert_eq!(told, "local preference 0, the best has 100 (graceful shutdown: it is about to go away)");
}
