//! Where routes may go, and what they look like there.

use super::*;
use crate::bgp::attrs::{Community, ExtCommunity};
use crate::bgp::policy::{Edit, Rule, Rules};

fn route(info: Option<&PeerInfo>, attrs: Attrs) -> Selected {
    let source = info.map_or(Source::LOCAL, |info| {
        let mut rib = rib(std::slice::from_ref(info));
        rib.update(info.id, &reach(&path(&[info.asn.0], "192.0.2.1"), &["10.0.0.0/8"]));
        if !info.external {
            rib.update(info.id, &reach(&path(&[], "192.0.2.1"), &["10.0.0.0/8"]));
        }
        decide(&mut rib, &anywhere, 1);
        rib.selected_at(&p("10.0.0.0/8")).unwrap().source
    });
    Selected { source, attrs: Arc::new(attrs) }
}

#[test]
fn reflection_matrix() {
    // RFC 4456 §6, and everything goes to and comes from another AS.
    let from = [("own", None), ("eBGP", Some(external(1))), ("client", Some(client(2))), ("iBGP", Some(internal(3)))];
    let to = [("eBGP", settings(true, false)), ("client", settings(false, true)), ("iBGP", settings(false, false))];
    for (sender, info) in &from {
        for (receiver, settings) in &to {
            let sent = settings.exported(&p("10.0.0.0/8"), &route(info.as_ref(), path(&[], "192.0.2.1"))).is_some();
            assert_eq!(sent, (*sender, *receiver) != ("iBGP", "iBGP"), "{sender} to {receiver}");
        }
    }
}

#[test]
fn attributes_towards_another_as() {
    let settings = settings(true, false);
    let learned = Attrs {
        med: Some(5),
        local_pref: Some(200),
        link_local: Some("fe80::1".parse().unwrap()),
        originator_id: Some([1, 2, 3, 4].into()),
        cluster_list: [[7, 7, 7, 7].into()].into(),
        communities: [Community(7)].into(),
        ext_communities: [ExtCommunity([0x00, 2, 0, 1, 0, 0, 0, 1]), ExtCommunity([0x43, 1, 0, 0, 0, 0, 0, 0])].into(),
        ..path(&[65001], "192.0.2.1")
    };
    let sent = settings.exported(&p("10.0.0.0/8"), &route(Some(&client(2)), learned.clone())).unwrap();
    let wanted = Attrs {
        communities: [Community(7)].into(),
        // We are the next hop, and we end tunnels.
        ext_communities: [ExtCommunity([0x00, 2, 0, 1, 0, 0, 0, 1]), ExtCommunity::ENCAP_IPIP].into(),
        ..path(&[64512, 65001], "192.0.2.11")
    };
    assert_eq!(sent, wanted);

    let own = Attrs { med: Some(5), local_pref: Some(200), ..path(&[], "0.0.0.0") };
    let sent = settings.exported(&p("10.0.0.0/8"), &route(None, own)).unwrap();
    assert_eq!(sent, Attrs { med: Some(5), ..path(&[64512], "192.0.2.11") }, "our own MED stays");

    let edit = Edit { med: Some(9), prepend: 2, local_pref: Some(7), ..Edit::default() };
    let rule = Rule { prefixes: vec![], communities: vec![], as_path_contains: vec![], accept: true, edit };
    let named = Export { scope: ExportScope::Named(Rules(vec![rule])), pools: Arc::new([]) };
    let settings = ExportSettings { export: Arc::new(named), ends_ipip: false, ..settings };
    let encap =
        Attrs { med: Some(5), ext_communities: [ExtCommunity::ENCAP_IPIP].into(), ..path(&[65001], "192.0.2.1") };
    let sent = settings.exported(&p("10.0.0.0/8"), &route(Some(&external(1)), encap)).unwrap();
    let wanted = Attrs { med: Some(9), ..path(&[64512, 64512, 64512, 65001], "192.0.2.11") };
    assert_eq!(sent, wanted, "by rule; a next hop that ends no tunnels doesn't say so");
}

#[test]
fn attributes_within_our_as() {
    let plain = settings(false, false);
    let learned = Attrs {
        med: Some(5),
        link_local: Some("fe80::1".parse().unwrap()),
        ext_communities: [ExtCommunity([0x43, 1, 0, 0, 0, 0, 0, 0])].into(),
        ..path(&[65001], "192.0.2.1")
    };
    let sent = plain.exported(&p("10.0.0.0/8"), &route(Some(&external(1)), learned.clone())).unwrap();
    let wanted = Attrs { local_pref: Some(100), link_local: None, ..learned.clone() };
    assert_eq!(sent, wanted, "next hop, MED and communities stay");

    let preferred = Attrs { local_pref: Some(70), ..path(&[], "192.0.2.5") };
    let own = plain.exported(&p("10.0.0.0/8"), &route(None, preferred.clone())).unwrap();
    assert_eq!(own, Attrs { local_pref: Some(70), ..path(&[], "192.0.2.11") }, "our own route: we are the next hop");

    let selfish = ExportSettings { next_hop_self: true, ..plain.clone() };
    let sent = selfish.exported(&p("10.0.0.0/8"), &route(Some(&external(1)), learned)).unwrap();
    assert_eq!((sent.next_hop, sent.ends_ipip()), (ip("192.0.2.11"), true));

    let reflected = plain.exported(&p("10.0.0.0/8"), &route(Some(&client(2)), preferred.clone())).unwrap();
    let wanted = Attrs {
        originator_id: Some([1, 1, 1, 2].into()),
        cluster_list: [[9, 9, 9, 9].into()].into(),
        ..preferred.clone()
    };
    assert_eq!(reflected, wanted);
    let again =
        Attrs { originator_id: Some([8, 8, 8, 8].into()), cluster_list: [[7, 7, 7, 7].into()].into(), ..preferred };
    let reflected =
        settings(false, true).exported(&p("10.0.0.0/8"), &route(Some(&internal(3)), again.clone())).unwrap();
    let cluster_list = [[9, 9, 9, 9].into(), [7, 7, 7, 7].into()].into();
    assert_eq!(reflected, Attrs { cluster_list, ..again }, "the originator stays, our cluster comes first");
}

#[test]
fn what_is_not_sent() {
    let tagged = |community: Community| Attrs { communities: [community].into(), ..path(&[65001], "192.0.2.1") };
    let with = |settings: ExportSettings, families: PerFamily<bool>| ExportSettings { families, ..settings };
    let both = PerFamily::new(true, true);
    let (ebgp, ibgp) = (settings(true, false), settings(false, false));
    let no_address = ExportSettings { next_hops: PerFamily::new(None, Some(ip("2001:db8::11"))), ..ebgp.clone() };
    let own_subnets = ExportSettings {
        export: Arc::new(Export { scope: ExportScope::Subnets, pools: Arc::new([]) }),
        ..ibgp.clone()
    };
    let peer = external(1);
    let cases = [
        // (why, settings, ours, prefix, attributes, wanted)
        ("nothing special", ebgp.clone(), false, "10.0.0.0/8", tagged(Community(7)), true),
        ("no-export leaves not the AS", ebgp.clone(), false, "10.0.0.0/8", tagged(Community::NO_EXPORT), false),
        ("but goes around in it", ibgp.clone(), false, "10.0.0.0/8", tagged(Community::NO_EXPORT), true),
        ("no-export-subconfed", ebgp.clone(), false, "10.0.0.0/8", tagged(Community::NO_EXPORT_SUBCONFED), false),
        ("no-export-subconfed inside", ibgp.clone(), false, "10.0.0.0/8", tagged(Community::NO_EXPORT_SUBCONFED), true),
        ("no-advertise", ibgp.clone(), false, "10.0.0.0/8", tagged(Community::NO_ADVERTISE), false),
        ("no-peer is only advice", ebgp.clone(), false, "10.0.0.0/8", tagged(Community::NO_PEER), true),
        ("ours binds the receiver", ebgp.clone(), true, "10.0.0.0/8", tagged(Community::NO_EXPORT), true),
        (
            "family not agreed on",
            with(ebgp.clone(), PerFamily::new(false, true)),
            true,
            "10.0.0.0/8",
            tagged(Community(7)),
            false,
        ),
        ("no address of ours", no_address.clone(), true, "10.0.0.0/8", tagged(Community(7)), false),
        ("but of the other family", no_address, true, "2001:db8::/32", tagged(Community(7)), true),
        ("a next hop of another family", with(ibgp.clone(), both), false, "2001:db8::/32", tagged(Community(7)), false),
        ("is ours towards another AS", ebgp, false, "2001:db8::/32", tagged(Community(7)), true),
        ("policy", own_subnets.clone(), false, "10.0.0.0/8", tagged(Community(7)), false),
        ("policy lets ours out", own_subnets, true, "10.0.0.0/8", tagged(Community(7)), true),
    ];
    for (why, settings, ours, prefix, attrs, wanted) in cases {
        let route = route((!ours).then_some(&peer), attrs);
        assert_eq!(settings.exported(&p(prefix), &route).is_some(), wanted, "{why}");
    }
}

#[test]
fn a_node_that_leaves_marks_all_it_announces() {
    const LEAVING: Community = Community::GRACEFUL_SHUTDOWN;
    let tagged = |communities: &[Community]| Attrs {
        communities: communities.into(),
        local_pref: Some(70),
        ..path(&[65001], "192.0.2.1")
    };
    let leaving = |settings| ExportSettings { graceful_shutdown: true, ..settings };
    let (ebgp, ibgp) = (leaving(settings(true, false)), leaving(settings(false, true)));
    let strip = Edit { remove_communities: vec![LEAVING], local_pref: Some(500), ..Edit::default() };
    let rule = Rule { prefixes: vec![], communities: vec![], as_path_contains: vec![], accept: true, edit: strip };
    let named = Export { scope: ExportScope::Named(Rules(vec![rule])), pools: Arc::new([]) };
    let stripping = ExportSettings { export: Arc::new(named), ..ibgp.clone() };
    let (zero, nothing) = (Some(0), None);
    let cases = [
        // (why, settings, sender, communities, wanted LOCAL_PREF, wanted communities)
        ("own, to another AS", &ebgp, None, vec![], nothing, vec![LEAVING]),
        ("own, within the AS", &ibgp, None, vec![], zero, vec![LEAVING]),
        ("transit", &ebgp, Some(external(1)), vec![Community(7)], nothing, vec![Community(7), LEAVING]),
        ("reflected", &ibgp, Some(internal(3)), vec![Community(7)], zero, vec![Community(7), LEAVING]),
        ("marked already", &ebgp, Some(external(1)), vec![LEAVING], nothing, vec![LEAVING]),
        (
            "sorted among the others",
            &ebgp,
            None,
            vec![Community(u32::MAX)],
            nothing,
            vec![LEAVING, Community(u32::MAX)],
        ),
        ("no policy undoes it", &stripping, None, vec![], zero, vec![LEAVING]),
    ];
    for (why, settings, sender, communities, local_pref, wanted) in cases {
        let sent = settings.exported(&p("10.0.0.0/8"), &route(sender.as_ref(), tagged(&communities))).unwrap();
        assert_eq!((sent.local_pref, &*sent.communities), (local_pref, &*wanted), "{why}");
    }
    let bound = route(Some(&external(1)), tagged(&[Community::NO_ADVERTISE]));
    assert_eq!(ebgp.exported(&p("10.0.0.0/8"), &bound), None, "what was not announced before is not now");
}
