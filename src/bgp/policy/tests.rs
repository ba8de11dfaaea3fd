use std::sync::Arc;

use super::*;
use crate::bgp::attrs::{AsPath, SegmentKind};

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn path(numbers: &[u32]) -> Attrs {
    let numbers: Vec<Asn> = numbers.iter().map(|n| Asn(*n)).collect();
    let as_path = AsPath::from_segments([(SegmentKind::Sequence, &numbers[..])]);
    Attrs { as_path, ..Attrs::originate([192, 0, 2, 1].into()) }
}

fn import(scope: ImportScope) -> Import {
    let node = Node {
        asn: Asn(64512),
        router_id: [192, 0, 2, 11].into(),
        cluster_id: [192, 0, 2, 99].into(),
        addresses: ["192.0.2.11".parse().unwrap(), "2001:db8::11".parse().unwrap()].into(),
        subnets: [p("10.244.7.0/24"), p("2001:db8:7::/64")].into(),
        pools: [p("10.244.0.0/16"), p("2001:db8::/32")].into(),
    };
    Import { scope, node: Arc::new(node), graceful_shutdown: true }
}

fn rule(prefixes: &[(&str, Option<u8>, Option<u8>)], accept: bool) -> Rule {
    Rule {
        prefixes: prefixes.iter().map(|(prefix, ge, le)| PrefixMatch::new(p(prefix), *ge, *le)).collect(),
        communities: vec![],
        as_path_contains: vec![],
        accept,
        edit: Edit::default(),
    }
}

const TOR: Sender = Sender { asn: Asn(65001), external: true, allow_own_as: 0 };

#[test]
fn paths_that_no_policy_accepts() {
    let mesh = Sender { asn: Asn(64512), external: false, allow_own_as: 0 };
    let twice = Sender { allow_own_as: 1, ..TOR };
    let set = AsPath::from_segments([(SegmentKind::Set, &[Asn(65001)][..])]);
    let mine = ["192.0.2.11".parse().unwrap(), "192.0.2.12".parse().unwrap()];
    let cases = [
        ("a usual path", TOR, path(&[65001, 65002]), Ok(())),
        ("our AS in it", TOR, path(&[65001, 64512]), Err(Reject::AsLoop)),
        ("our AS in it from our AS", mesh, path(&[64512]), Err(Reject::AsLoop)),
        ("our AS once is allowed", twice, path(&[65001, 64512]), Ok(())),
        ("our AS twice is not", twice, path(&[65001, 64512, 64512]), Err(Reject::AsLoop)),
        ("another first AS", TOR, path(&[65002, 65001]), Err(Reject::FirstAs)),
        ("no AS from another AS", TOR, path(&[]), Err(Reject::FirstAs)),
        ("a set names no first AS", TOR, Attrs { as_path: set, ..path(&[]) }, Err(Reject::FirstAs)),
        ("no AS from our AS", mesh, path(&[]), Ok(())),
        ("any first AS from our AS", mesh, path(&[65009]), Ok(())),
        (
            "we originated it",
            mesh,
            Attrs { originator_id: Some([192, 0, 2, 11].into()), ..path(&[]) },
            Err(Reject::OriginatorLoop),
        ),
        ("a client originated it", mesh, Attrs { originator_id: Some([192, 0, 2, 12].into()), ..path(&[]) }, Ok(())),
        (
            "it was here",
            mesh,
            Attrs { cluster_list: [[1, 1, 1, 1].into(), [192, 0, 2, 99].into()].into(), ..path(&[]) },
            Err(Reject::ClusterLoop),
        ),
        ("it was elsewhere", mesh, Attrs { cluster_list: [[1, 1, 1, 1].into()].into(), ..path(&[]) }, Ok(())),
        ("to ourselves", TOR, Attrs { next_hop: mine[0], ..path(&[65001]) }, Err(Reject::NextHopSelf)),
        ("to a neighbour", TOR, Attrs { next_hop: mine[1], ..path(&[65001]) }, Ok(())),
    ];
    for (why, sender, attrs, wanted) in cases {
        let got = import(ImportScope::All).admit(&sender, &attrs);
        assert_eq!(got, wanted, "{why}");
    }
}

#[test]
fn prefixes_by_scope() {
    let named = |rules: &[Rule]| ImportScope::Named(Rules(rules.to_vec()));
    let everything = named(&[rule(&[], true)]);
    let pools = named(&[rule(&[("10.244.0.0/16", None, Some(32))], true)]);
    let own = named(&[rule(&[("10.244.7.0/24", None, Some(32))], true)]);
    let own_part = named(&[rule(&[("10.244.7.9/32", None, None)], true)]);
    let no_then_all = named(&[rule(&[("10.244.8.0/24", None, None)], false), rule(&[], true)]);
    let cases = [
        // (why, scope, prefix, wanted)
        ("in the pool", ImportScope::Pools, "10.244.8.0/24", Ok(())),
        ("the pool itself", ImportScope::Pools, "10.244.0.0/16", Ok(())),
        ("in the IPv6 pool", ImportScope::Pools, "2001:db8:8::/64", Ok(())),
        ("beside the pool", ImportScope::Pools, "10.245.0.0/24", Err(Reject::OutsidePools)),
        ("around the pool", ImportScope::Pools, "10.0.0.0/8", Err(Reject::OutsidePools)),
        ("a default route says so", ImportScope::Pools, "0.0.0.0/0", Err(Reject::DefaultRoute)),
        ("an IPv6 default route", ImportScope::Pools, "::/0", Err(Reject::DefaultRoute)),
        ("our subnet", ImportScope::Pools, "10.244.7.0/24", Err(Reject::OwnSubnet)),
        ("a part of our subnet", ImportScope::Pools, "10.244.7.4/32", Err(Reject::OwnSubnet)),
        ("our IPv6 subnet", ImportScope::Pools, "2001:db8:7::/64", Err(Reject::OwnSubnet)),
        ("around our subnet", ImportScope::Pools, "10.244.6.0/23", Ok(())),
        ("all takes a default route", ImportScope::All, "0.0.0.0/0", Ok(())),
        ("all takes the world", ImportScope::All, "8.8.8.0/24", Ok(())),
        ("all doesn't take our subnet", ImportScope::All, "10.244.7.0/24", Err(Reject::OwnSubnet)),
        ("none takes none", ImportScope::None, "10.244.8.0/24", Err(Reject::PolicyNone)),
        ("no rule, no route", named(&[]), "10.244.8.0/24", Err(Reject::PolicyRule)),
        ("a rule for all takes a default route", everything.clone(), "0.0.0.0/0", Ok(())),
        ("a rule for all does not mean our subnet", everything, "10.244.7.0/24", Err(Reject::OwnSubnet)),
        ("nor does one for the pool", pools.clone(), "10.244.7.0/25", Err(Reject::OwnSubnet)),
        ("which is for the rest of it", pools.clone(), "10.244.8.0/25", Ok(())),
        ("and for nothing else", pools, "10.245.0.0/16", Err(Reject::PolicyRule)),
        ("a rule for our subnet means it", own, "10.244.7.128/25", Ok(())),
        ("and so does one for a part", own_part.clone(), "10.244.7.9/32", Ok(())),
        ("of just that part", own_part, "10.244.7.8/32", Err(Reject::PolicyRule)),
        ("the first rule decides", no_then_all.clone(), "10.244.8.0/24", Err(Reject::PolicyRule)),
        ("the second for the rest", no_then_all, "10.244.9.0/24", Ok(())),
    ];
    for (why, scope, prefix, wanted) in cases {
        let got = import(scope).import(&TOR, &p(prefix), &path(&[65001])).map(|edit| assert_eq!(edit, None));
        assert_eq!(got, wanted, "{why}: {prefix}");
    }
}

#[test]
fn conditions_of_a_rule() {
    let (seven, eight) = (Community(64512 << 16 | 7), Community(64512 << 16 | 8));
    let any = rule(&[], true);
    let tagged = Rule { communities: vec![seven, eight], ..any.clone() };
    let through = Rule { as_path_contains: vec![Asn(65002)], ..any.clone() };
    let both = Rule { communities: vec![eight], ..through.clone() };
    let with = |numbers: &[u32], communities: &[Community]| Attrs { communities: communities.into(), ..path(numbers) };
    let cases = [
        ("nothing asked", &any, "10.0.0.0/8", with(&[], &[]), true),
        ("one community of two", &tagged, "10.0.0.0/8", with(&[], &[eight]), true),
        ("another community", &tagged, "10.0.0.0/8", with(&[], &[Community::NO_EXPORT]), false),
        ("the AS in the middle", &through, "10.0.0.0/8", with(&[1, 65002, 3], &[]), true),
        ("the AS missing", &through, "10.0.0.0/8", with(&[1, 3], &[]), false),
        ("both conditions", &both, "10.0.0.0/8", with(&[65002], &[eight]), true),
        ("one of both", &both, "10.0.0.0/8", with(&[65002], &[seven]), false),
    ];
    for (why, rule, prefix, attrs, wanted) in cases {
        assert_eq!(rule.matches(&p(prefix), &attrs), wanted, "{why}");
    }
    let cases = [
        // (why, prefix, ge, le, candidate, wanted)
        ("exact", "10.0.0.0/8", None, None, "10.0.0.0/8", true),
        ("exact is not more specific", "10.0.0.0/8", None, None, "10.0.0.0/9", false),
        ("ge reaches to hosts", "10.0.0.0/8", Some(24), None, "10.1.2.3/32", true),
        ("ge excludes shorter", "10.0.0.0/8", Some(24), None, "10.1.0.0/16", false),
        ("le starts at the prefix", "10.0.0.0/8", None, Some(16), "10.0.0.0/8", true),
        ("le ends there", "10.0.0.0/8", None, Some(16), "10.0.0.0/17", false),
        ("between", "10.0.0.0/8", Some(16), Some(24), "10.9.0.0/20", true),
        ("elsewhere", "10.0.0.0/8", Some(16), Some(24), "11.9.0.0/20", false),
        ("less specific", "10.0.0.0/8", Some(0), Some(32), "0.0.0.0/0", false),
        ("another family", "::/0", None, Some(128), "10.0.0.0/8", false),
    ];
    for (why, prefix, ge, le, candidate, wanted) in cases {
        assert_eq!(PrefixMatch::new(p(prefix), ge, le).matches(&p(candidate)), wanted, "{why}");
    }
}

#[test]
fn edits() {
    let (seven, eight) = (Community(64512 << 16 | 7), Community(64512 << 16 | 8));
    let edit = Edit {
        local_pref: Some(200),
        med: None,
        prepend: 2,
        add_communities: vec![eight, seven, eight],
        remove_communities: vec![Community::NO_EXPORT, seven],
    };
    let mut attrs = Attrs { med: Some(5), communities: [seven, Community::NO_EXPORT].into(), ..path(&[65001]) };
    edit.apply(&mut attrs);
    let wanted = Attrs { local_pref: Some(200), communities: [seven, eight].into(), med: Some(5), ..path(&[65001]) };
    assert_eq!(attrs, wanted, "sorted, once each, added after removing; no prepending here");
    assert!(Edit::default().is_empty() && !edit.is_empty());
}

#[test]
fn what_may_be_exported() {
    let named = ExportScope::Named(Rules(vec![rule(&[("10.244.0.0/16", None, Some(24))], true)]));
    let edited =
        ExportScope::Named(Rules(vec![Rule { edit: Edit { med: Some(1), ..Edit::default() }, ..rule(&[], true) }]));
    let cases = [
        // (why, scope, prefix, ours, wanted)
        ("ours", &ExportScope::Subnets, "10.244.7.0/24", true, true),
        ("an announcement outside the pools", &ExportScope::Subnets, "203.0.113.7/32", true, true),
        ("learned", &ExportScope::Subnets, "10.244.8.0/24", false, false),
        ("learned in the pools", &ExportScope::Pools, "10.244.8.0/24", false, true),
        ("learned outside", &ExportScope::Pools, "10.245.8.0/24", false, false),
        ("ours outside", &ExportScope::Pools, "203.0.113.7/32", true, true),
        ("learned anywhere", &ExportScope::All, "8.8.8.0/24", false, true),
        ("ours, to nobody", &ExportScope::None, "10.244.7.0/24", true, false),
        ("ours by a rule", &named, "10.244.7.0/24", true, true),
        ("ours by no rule", &named, "203.0.113.7/32", true, false),
        ("learned by a rule", &named, "10.244.8.0/24", false, true),
        ("learned by no rule", &named, "8.8.8.0/24", false, false),
    ];
    let export = |scope: &ExportScope| Export { scope: scope.clone(), pools: [p("10.244.0.0/16")].into() };
    for (why, scope, prefix, ours, wanted) in cases {
        let got = export(scope).export(&p(prefix), ours, &path(&[65001])) == Offer::AsItIs;
        assert_eq!(got, wanted, "{why}: {prefix}");
    }
    let export = export(&edited);
    let offer = export.export(&p("8.8.8.0/24"), false, &path(&[]));
    assert!(matches!(offer, Offer::Edited(edit) if edit.med == Some(1)));
}

#[test]
fn names_of_reasons() {
    for (i, reject) in Reject::ALL.into_iter().enumerate() {
        assert_eq!(reject as usize, i, "counters are kept by this number");
        assert_eq!(serde_json::to_string(&reject).unwrap(), format!("\"{reject}\""));
        assert!(reject.label().chars().all(|c| c.is_ascii_lowercase() || c == '-'));
    }
}
