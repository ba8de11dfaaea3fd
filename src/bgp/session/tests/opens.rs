//! What OPENs say and agree on.

use super::*;

#[test]
fn refresh_counts_only_as_agreed() {
    use RefreshKind::{Begin, End, Request};
    let agreed = |missing: Option<Capability>, kind, family| {
        let mut bench = Bench::new(Settings { families: vec![Family::Ipv4], ..ours() }, theirs(9));
        bench.reach(Side::Outgoing, State::OpenSent);
        let mut open = build(&theirs(9), None, false);
        open.capabilities.retain(|capability| Some(capability) != missing.as_ref());
        bench.gets(Side::Outgoing, Message::Open(open));
        bench.gets(Side::Outgoing, Message::Keepalive);
        bench.gets(Side::Outgoing, Message::RouteRefresh(RouteRefresh { family, kind })).len()
    };
    let cases = [
        // (why, capability the peer lacks, kind, family, delivered)
        ("a request", None, Request, Family::Ipv4, 1),
        ("its demarcations", None, End, Family::Ipv4, 1),
        ("a family that was not agreed", None, Request, Family::Ipv6, 0),
        ("not offered", Some(Capability::RouteRefresh), Request, Family::Ipv4, 0),
        ("demarcation not offered", Some(Capability::EnhancedRouteRefresh), Begin, Family::Ipv4, 0),
    ];
    for (why, missing, kind, family, delivered) in cases {
        assert_eq!(agreed(missing, kind, family), delivered, "{why}");
    }
}

#[test]
fn opens_agree_on_what_both_offer() {
    let all = theirs(9);
    let open = |capabilities: Vec<Capability>| Open { capabilities, ..build(&all, None, false) };
    let agreed = |ours: &Settings, open: &Open| negotiate(ours, &build(ours, None, false), open).unwrap();

    let full = agreed(&ours(), &build(&all, None, false));
    assert!(full.four_octet_as && full.route_refresh && full.enhanced_refresh && full.extended_message);
    assert_eq!(full.families, PerFamily::new(true, true));
    assert_eq!(full.graceful_restart, None);

    let bare = agreed(&ours(), &open(Vec::new()));
    assert_eq!(bare.families, PerFamily::new(true, false), "no capability at all means IPv4 unicast");
    assert_eq!(bare.codec, Codec { external: true, ..Codec::INITIAL });
    assert!(!bare.route_refresh && !bare.enhanced_refresh);

    let six = agreed(&ours(), &open(vec![Capability::Multiprotocol(Family::Ipv6)]));
    assert_eq!(six.families, PerFamily::new(false, true), "naming a family leaves the others out");

    let only_six = Settings { families: vec![Family::Ipv6], ..ours() };
    let refused = negotiate(&only_six, &build(&only_six, None, false), &open(Vec::new())).unwrap_err();
    assert_eq!((refused.code, refused.subcode, &*refused.data), (2, 7, &[1, 4, 0, 2, 0, 1][..]));

    for (ours_s, theirs_s, hold, keepalive) in
        [(9, 90, 9, 3), (90, 3, 3, 1), (9, 0, 0, 0), (0, 9, 0, 0), (10, 10, 10, 3)]
    {
        let got = agreed(&Settings { hold_time: ours_s, ..ours() }, &Open { hold_time: theirs_s, ..open(Vec::new()) });
        assert_eq!((got.hold_time, got.keepalive), (hold, keepalive), "{ours_s} {theirs_s}");
    }

    let mut restarting = build(&with_restart(theirs(9), true), Some(PerFamily::new(true, true)), false);
    let got = agreed(&with_restart(Settings { families: vec![Family::Ipv4], ..ours() }, true), &restarting);
    let restart = got.graceful_restart.unwrap();
    assert!(restart.restarted && restart.notification && got.notification_restart);
    assert_eq!(restart.families, [(Family::Ipv4, true)], "only what was negotiated");
    assert_eq!(agreed(&ours(), &restarting).graceful_restart, None, "both must offer it");
    assert!(!agreed(&with_restart(ours(), false), &restarting).notification_restart, "both must set N");
    restarting.capabilities.push(Capability::GracefulRestart(GracefulRestart::default()));
    let got = agreed(&with_restart(ours(), true), &restarting);
    assert!(!got.peer_preserves(), "of two the last counts");
}

#[test]
fn identifiers_need_only_differ_within_an_as() {
    let cases = [
        // (why, our AS, peer AS, accepted)
        ("iBGP with our own identifier is a loop to ourselves", 64512, 64512, false),
        ("another AS may use it too (RFC 6286)", 64512, 65001, true),
    ];
    for (why, local, peer, accepted) in cases {
        let ours = settings(Asn(local), Asn(peer), 5);
        let open = build(&settings(Asn(peer), Asn(local), 5), None, false);
        let got = negotiate(&ours, &build(&ours, None, false), &open);
        assert_eq!(
            got.map(|agreed| agreed.codec.external).map_err(|n| (n.code, n.subcode)),
            if accepted { Ok(true) } else { Err((2, 3)) },
            "{why}"
        );
    }
}

#[test]
fn our_open_fits_a_two_octet_peer() {
    for (asn, my_as) in [(64512, 64512), (65535, 65535), (65536, 23456), (4_200_000_000, 23456)] {
        let open = build(&settings(Asn(asn), PEER, 5), None, false);
        assert_eq!(open.my_as, my_as);
        assert!(open.capabilities.contains(&Capability::FourOctetAs(Asn(asn))));
    }
}

#[test]
fn our_open_says_what_outlived_a_restart() {
    let cases = [
        // (why, preserved, R, F of IPv4, F of IPv6)
        ("no restart: a lost session costs no forwarding", None, false, true, true),
        ("all is there", Some([true, true]), true, true, true),
        ("one family is there", Some([false, true]), true, false, true),
        ("nothing is: for the peer it is a start like the first", Some([false, false]), false, false, false),
    ];
    for (why, preserved, restarted, ipv4, ipv6) in cases {
        let long = Settings { graceful_restart: Some(preserving(u16::MAX, &Family::ALL)), ..ours() };
        let open = build(&long, preserved.map(|[four, six]| PerFamily::new(four, six)), false);
        let wanted = GracefulRestart {
            restarted,
            notification: true,
            restart_time: 4095, // 12 bits
            families: vec![(Family::Ipv4, ipv4), (Family::Ipv6, ipv6)],
        };
        assert!(open.capabilities.contains(&Capability::GracefulRestart(wanted)), "{why}: {open:?}");
    }
}

#[test]
fn a_peer_that_refuses_capabilities_is_asked_without_once() {
    let mut bench = at(State::OpenSent);
    let refused = || Message::Notification(notification(2, 4));
    let capabilities = |bench: &mut Bench| {
        bench.pass(secs(60));
        match bench.does(Event::Connected(Side::Outgoing)).pop() {
            Some(Action::Send(_, Message::Open(open))) => open.capabilities.len(),
            other => panic!("no OPEN but {other:?}"),
        }
    };
    bench.gets(Side::Outgoing, refused());
    assert_eq!(capabilities(&mut bench), 0, "RFC 5492 §3");
    bench.gets(Side::Outgoing, refused());
    assert!(capabilities(&mut bench) > 0, "without did not help either");
    bench.gets(Side::Outgoing, Message::Notification(notification(2, 2)));
    assert!(capabilities(&mut bench) > 0, "another cause has nothing to do with them");

    let mut only_six = Bench::new(Settings { families: vec![Family::Ipv6], ..ours() }, theirs(9));
    only_six.reach(Side::Outgoing, State::OpenSent);
    only_six.gets(Side::Outgoing, refused());
    assert!(capabilities(&mut only_six) > 0, "without capabilities there is no IPv6");
}

#[test]
fn settings_that_reach_the_peer_need_a_reset() {
    type Change = fn(&mut Settings);
    let cases: [(&str, Change, bool); 8] = [
        ("nothing", |_| {}, false),
        ("our own pace", |s| s.connect_retry = secs(9), false),
        ("who dials", |s| s.passive = true, false),
        ("hold time", |s| s.hold_time = 30, true),
        ("families", |s| s.families = vec![Family::Ipv4], true),
        ("peer AS", |s| s.peer_asn = Asn(1), true),
        ("identifier", |s| s.router_id = Ipv4Addr::LOCALHOST, true),
        ("graceful restart", |s| s.graceful_restart = Some(preserving(1, &Family::ALL)), true),
    ];
    for (why, change, reset) in cases {
        let mut changed = ours();
        change(&mut changed);
        let mut bench = at(State::Established);
        assert_eq!(bench.session.update_settings(bench.now, changed.clone()), reset, "{why}");
        let mut idle = Bench::new(ours(), theirs(9));
        assert!(!idle.session.update_settings(idle.now, changed), "{why}: nobody was told otherwise yet");
    }
}
