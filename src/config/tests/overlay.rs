//! What a store adds to the file.

use super::{LEAST, good};
use crate::cluster::mesh;
use crate::config::{Config, Export, Overlay, Peer, changes};
use crate::net::{Family, Prefix};

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn node(name: &str, address: &str) -> mesh::Peer {
    mesh::Peer {
        name: name.to_owned(),
        address: address.parse().unwrap(),
        port: 179,
        asn: crate::net::Asn(64512),
        passive: false,
        client: false,
        reflecting: false,
        reflector: false,
    }
}

fn mesh(nodes: &[(&str, &str)]) -> Overlay {
    Overlay { mesh: nodes.iter().map(|(name, address)| node(name, address)).collect(), ..Overlay::default() }
}

#[test]
fn the_file_stands_before_the_store() {
    // (why, the file, subnets, pools, tunnel endpoints)
    type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let overlay = Overlay {
        subnets: Some(prefixes(&["10.1.7.0/24"])),
        pools: Some(prefixes(&["10.1.0.0/16"])),
        tunnel_endpoints: prefixes(&["192.0.2.9/32", "198.51.100.1/32"]),
        ..Overlay::default()
    };
    let cases: [Case<'_>; 4] = [
        ("all of the store", "", &["10.1.7.0/24"], &["10.1.0.0/16"], &["192.0.2.9/32", "198.51.100.1/32"]),
        (
            "pools of the file",
            "pools = [\"10.0.0.0/8\"]",
            &["10.1.7.0/24"],
            &["10.0.0.0/8"],
            &["192.0.2.9/32", "198.51.100.1/32"],
        ),
        ("no subnets, it says", "subnets = []", &[], &["10.1.0.0/16"], &["192.0.2.9/32", "198.51.100.1/32"]),
        (
            "both know of tunnels",
            "tunnel_endpoints = [\"198.51.100.1/32\", \"10.9.0.0/16\"]",
            &["10.1.7.0/24"],
            &["10.1.0.0/16"],
            &["198.51.100.1/32", "10.9.0.0/16", "192.0.2.9/32"],
        ),
    ];
    for (why, network, subnets, pools, endpoints) in cases {
        let text = "[store]\nkind = \"etcd\"\nendpoints = [\"http://192.0.2.5:2379\"]\n[bgp]\nasn = 64512\n";
        let network = good(&format!("[network]\n{network}\n{text}")).with(&overlay).network;
        assert_eq!(network.subnets, Some(prefixes(subnets)), "{why}");
        assert_eq!((network.pools, network.tunnel_endpoints), (prefixes(pools), prefixes(endpoints)), "{why}");
    }
}

#[test]
fn a_node_is_a_peer_as_the_file_would_have_it() {
    type Edit = fn(&mut mesh::Peer);
    let text = format!(
        "{LEAST}hold_time = \"6s\"\nconnect_retry = \"2s\"\ngraceful_restart = \"60s\"\nsend_hold_time = \"1m\""
    );
    let config = good(&text);
    let written = |more: &str| -> Peer {
        let entry = "[[bgp.peers]]\nname = \"b\"\naddress = \"192.0.2.2\"\nasn = 64512\n";
        let mut peer = good(&format!("{text}\n{entry}{more}")).bgp.peers.remove(0);
        peer.mesh = true;
        peer
    };
    let cases: [(&str, Edit, &str); 4] = [
        ("an ordinary one", |_| {}, ""),
        ("it dials, from another port", |n| (n.passive, n.port) = (true, 1179), "passive = true\nport = 1179"),
        (
            "our client",
            |n| (n.client, n.reflecting) = (true, true),
            "route_reflector_client = true\nexport = \"pools\"",
        ),
        ("our reflector", |n| n.reflector = true, "max_prefixes = 1000000"),
    ];
    for (why, edit, more) in cases {
        let mut node = node("b", "192.0.2.2");
        edit(&mut node);
        let overlay = Overlay { mesh: vec![node], ..Overlay::default() };
        assert_eq!(config.with(&overlay).bgp.peers, [written(more)], "{why}");
    }
    let with_ipv6 = Overlay { pools: Some(prefixes(&["fd00::/48"])), ..mesh(&[("b", "192.0.2.2")]) };
    assert_eq!(config.with(&with_ipv6).bgp.peers[0].families, Family::ALL, "pools of the store count");
}

#[test]
fn no_two_peers_share_an_address_or_a_name() {
    // (why, nodes, peers besides those of the file)
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let file = good(&format!(
        "{LEAST}[[bgp.peers]]\nname = \"a\"\naddress = \"192.0.2.1\"\nasn = 64512\nexport = \"all\"\n\
         [[bgp.peers]]\nname = \"rack\"\naddress = \"198.51.100.0/24\"\nasn = 64512\n"
    ));
    let cases: [Case<'_>; 5] = [
        ("two more", &[("b", "192.0.2.2"), ("c", "192.0.2.3")], &["b", "c"]),
        ("one is in the file by another name", &[("b", "192.0.2.1"), ("c", "192.0.2.3")], &["c"]),
        ("a name of the file", &[("a", "192.0.2.2")], &["a@192.0.2.2"]),
        ("an address of a range has an entry of its own", &[("b", "198.51.100.7")], &["b"]),
        ("never twice", &[("b", "192.0.2.2"), ("c", "192.0.2.2")], &["b"]),
    ];
    for (why, nodes, wanted) in cases {
        let config: Config = file.with(&mesh(nodes));
        let names: Vec<&str> = config.bgp.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, [&["a", "rack"], wanted].concat(), "{why}");
        assert_eq!(config.bgp.peers[0].export, Export::All, "{why}");
    }
}

#[test]
fn what_a_store_adds_is_a_change_as_any_other() {
    let file = good(LEAST);
    let two = mesh(&[("b", "192.0.2.2"), ("c", "192.0.2.3")]);
    let mut client = two.clone();
    client.mesh[1].client = true;
    let found = changes(&file.with(&two), &file.with(&client));
    assert_eq!((found.peers_changed, found.needs_restart.len()), (vec!["c".to_owned()], 0));
    assert_eq!(changes(&file.with(&two), &file).peers_removed, ["b", "c"]);
    assert!(changes(&file, &file.with(&Overlay::default())).is_empty());
}
