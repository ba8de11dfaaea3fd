//! What a reload has to do.

use std::collections::BTreeSet;

use super::samples::known_keys;
use super::{LEAST, good};
use crate::config::changes::SETTINGS;
use crate::config::{Changes, changes};

const PEERS: &str = "[[bgp.peers]]\nname = \"a\"\naddress = \"192.0.2.1\"\nasn = 65001\n\
                     [[bgp.peers]]\nname = \"b\"\naddress = \"192.0.2.2\"\nasn = 65001\nhold_time = \"30s\"\n";

#[test]
fn what_differs() {
    let before = format!("{LEAST}{PEERS}");
    let cases = [
        // (why, text to replace, its replacement, [added, removed, changed, settings, needs restart])
        ("nothing", "", "", [""; 5]),
        ("order of peers is nothing", PEERS, &reversed(), [""; 5]),
        ("a peer's setting", "65001\nhold_time = \"30s\"", "65002", ["", "", "b", "", ""]),
        ("a new name is another peer", "name = \"a\"", "name = \"c\"", ["c", "a", "", "", ""]),
        (
            "inherited by the peer without its own",
            "[[bgp.peers]]\nname = \"a\"",
            "hold_time = \"6s\"\n[[bgp.peers]]\nname = \"a\"",
            ["", "", "a", "bgp.hold_time", ""],
        ),
        (
            "a pool makes peers speak IPv6",
            "subnets = []",
            "subnets = []\npools = [\"2001:db8::/32\"]",
            ["", "", "a b", "network.pools", ""],
        ),
        ("what sessions are made of", "64512", "64513", ["", "", "", "bgp.asn", "bgp.asn"]),
        (
            "live and not",
            "[network]",
            "state_dir = \"/tmp\"\n[kernel]\nmetric = 9\n[network]\nmasquerade = false",
            ["", "", "", "state_dir network.masquerade kernel.metric", "state_dir kernel.metric"],
        ),
    ];
    for (why, from, to, wanted) in cases {
        let after = before.replacen(from, to, 1);
        let got = changes(&good(&before), &good(&after));
        let Changes { peers_added, peers_removed, peers_changed, settings, needs_restart } = &got;
        let lists = [
            peers_added.join(" "),
            peers_removed.join(" "),
            peers_changed.join(" "),
            settings.join(" "),
            needs_restart.join(" "),
        ];
        assert_eq!(lists, wanted, "{why}");
        assert_eq!(got.is_empty(), wanted.iter().all(|list| list.is_empty()), "{why}");
    }
}

fn reversed() -> String {
    let second = PEERS.rfind("[[").unwrap();
    format!("{}{}", &PEERS[second..], &PEERS[..second])
}

#[test]
fn every_key_is_compared() {
    let known = known_keys("[node]\n[network]\n[store]\n[bgp]\n[kernel]\n[metrics]\n[control]\n[firewall]\n[log]\n");
    let compared: BTreeSet<String> = SETTINGS.iter().map(|(key, ..)| (*key).to_owned()).collect();
    let tables = ["node", "network", "bgp", "kernel", "metrics", "control", "firewall", "log", "bgp.peers"];
    let wanted: BTreeSet<String> = known
        .into_iter()
        // The store is one value.
        .map(|key| if key.starts_with("store.") { "store".to_owned() } else { key })
        .filter(|key| !tables.contains(&key.as_str()))
        .collect();
    assert_eq!(compared, wanted);
}
