//! What good texts mean.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::{LEAST, good, good_bgp};
use crate::bgp::attrs::{Community, LargeCommunity};
use crate::config::{
    Announce, Bfd, Bgp, Config, Control, Etcd, Export, Firewall, HoldTime, Import, Kernel, Log, LogFormat, Metrics,
    Network, Node, Peer, PeerAddress, Policy, PrefixMatch, Rule, Secret, SecretError, Store,
};
use crate::forward::TunnelMode;
use crate::net::{Asn, Family, PerFamily, Prefix};

#[test]
fn defaults() {
    let wanted = Config {
        state_dir: PathBuf::from("/var/lib/wayleave"),
        node: Node { name: String::new(), address: None, router_id: None },
        network: Network {
            pools: vec![],
            subnets: Some(vec![]),
            subnet_length: PerFamily::new(24, 64),
            subnets_wanted: 1,
            subnet_file: Some(PathBuf::from("/run/wayleave/subnet.env")),
            tunnel: TunnelMode::CrossSubnet,
            tunnel_endpoints: vec![],
            masquerade: true,
        },
        store: Store::Embedded,
        bgp: Bgp {
            asn: Asn(64512),
            listen: vec!["0.0.0.0:179".parse().unwrap()],
            hold_time: HoldTime::new(Duration::from_secs(9)).unwrap(),
            send_hold_time: None,
            connect_retry: Duration::from_secs(5),
            mesh: false,
            reflector: false,
            multipath: 8,
            graceful_restart: Duration::from_secs(120),
            graceful_shutdown: true,
            drain_time: Duration::from_secs(10),
            cluster_id: None,
            peers: vec![],
            announce: vec![],
            policies: [].into(),
        },
        firewall: Firewall { tunnel_guard: true, docker: true },
        kernel: Kernel {
            install: true,
            table: 254,
            protocol: 87,
            nexthop_objects: true,
            link_guard: true,
            metric: 2048,
        },
        metrics: Metrics { listen: Some("127.0.0.1:9887".parse().unwrap()), forwarding: true, forwarding_top: 100 },
        control: Control { socket: PathBuf::from("/run/wayleave/wayleave.sock") },
        log: Log { format: LogFormat::Text, level: "info".to_owned() },
    };
    assert_eq!(good(LEAST), wanted);
}

#[test]
fn default_peer() {
    let config = good_bgp(
        "hold_time = \"30s\"\nconnect_retry = \"2500ms\"\n[[bgp.peers]]\naddress = \"192.0.2.1\"\nasn = 65001\n",
    );
    let wanted = Peer {
        name: "192.0.2.1".to_owned(),
        address: PeerAddress::One("192.0.2.1".parse().unwrap()),
        asn: Asn(65001),
        port: 179,
        passive: false,
        families: vec![Family::Ipv4],
        hold_time: HoldTime::new(Duration::from_secs(30)).unwrap(),
        send_hold_time: None,
        connect_retry: Duration::from_millis(2500),
        graceful_restart: Duration::from_secs(120),
        password: None,
        ttl_security: None,
        multihop: None,
        route_reflector_client: false,
        import: Import::Pools,
        export: Export::Subnets,
        max_prefixes: 10_000.try_into().ok(),
        next_hop_self: false,
        allow_own_as: 0,
        local_address: None,
        bfd: None,
        mesh: false,
    };
    assert_eq!(config.bgp.peers, [wanted]);
}

#[test]
fn peers() {
    type Is = fn(&Peer) -> bool;
    let cases: [(&str, &str, Is); 21] = [
        ("a name", "name = \"tor-a\"", |p| p.name == "tor-a"),
        ("an own hold time", "hold_time = \"0s\"", |p| p.hold_time.duration().is_zero()),
        ("the shortest hold time", "hold_time = \"3s\"", |p| p.hold_time.seconds() == 3),
        ("the longest hold time", "hold_time = \"18h 12m 15s\"", |p| p.hold_time.seconds() == 65535),
        ("another unit", "connect_retry = \"1m\"", |p| p.connect_retry.as_secs() == 60),
        ("no graceful restart with this one", "graceful_restart = \"0s\"", |p| p.graceful_restart.is_zero()),
        ("an own send hold time", "send_hold_time = \"1m\"", |p| p.send_hold_time == Some(Duration::from_secs(60))),
        ("sending is never given up", "send_hold_time = \"0s\"", |p| p.send_hold_time == Some(Duration::ZERO)),
        ("a newline is not the key's", "password_file = \"/k\"", |p| {
            p.password.as_ref().unwrap().expose() == b"s3cret"
        }),
        ("the longest key", "password_file = \"/etc/wayleave/longest.key\"", |p| {
            p.password.as_ref().unwrap().expose().len() == 80
        }),
        ("GTSM", "ttl_security = 254", |p| p.ttl_security == Some(254)),
        ("multihop", "multihop = 2", |p| p.multihop == Some(2)),
        ("no limit", "max_prefixes = 0", |p| p.max_prefixes.is_none()),
        ("import", "import = \"all\"", |p| p.import == Import::All),
        ("a policy", "import = \"mine\"", |p| p.import == Import::Named("mine".to_owned())),
        ("export to nobody", "export = \"none\"", |p| p.export == Export::None),
        ("a source", "local_address = \"192.0.2.7\"", |p| p.local_address == "192.0.2.7".parse::<IpAddr>().ok()),
        ("defaults of bfd", "bfd = {}", |p| {
            p.bfd == Some(Bfd { interval: Duration::from_millis(100), multiplier: 3, multihop: None })
        }),
        ("bfd on the link", "bfd = { multihop = false }", |p| p.bfd.is_some_and(|bfd| bfd.multihop == Some(false))),
        ("IPv4 comes first", "families = [\"ipv6\", \"ipv4\", \"ipv6\"]", |p| p.families == Family::ALL),
        ("IPv6 over IPv4", "families = [\"ipv6\"]", |p| p.families == [Family::Ipv6]),
    ];
    for (why, text, is) in cases {
        let text = format!(
            "[[bgp.policies.mine]]\naction = \"accept\"\n[[bgp.peers]]\naddress = \"192.0.2.1\"\nasn = 65001\n{text}\n"
        );
        let config = good_bgp(&text);
        assert!(is(&config.bgp.peers[0]), "{why}: {:#?}", config.bgp.peers[0]);
    }
}

#[test]
fn families_by_default() {
    let cases = [
        ("nothing is IPv6", "", "192.0.2.1", 1),
        ("the peer is", "", "2001:db8::1", 2),
        ("a range is", "", "2001:db8::/64", 2),
        ("an announcement is", "[[bgp.announce]]\nprefix = \"2001:db8::/48\"\n", "192.0.2.1", 2),
    ];
    for (why, text, address, wanted) in cases {
        let config = good_bgp(&format!("{text}[[bgp.peers]]\naddress = \"{address}\"\nasn = 65001\n"));
        assert_eq!(config.bgp.peers[0].families, Family::ALL[..wanted], "{why}");
    }
}

#[test]
fn ranges_are_passive() {
    let config = good_bgp(
        "[[bgp.peers]]\naddress = \"192.0.2.0/24\"\nasn = 65001\n[[bgp.peers]]\naddress = \"192.0.2.9\"\nasn = 65001\n",
    );
    let [range, host] = &config.bgp.peers[..] else { panic!("{config:?}") };
    assert_eq!((range.name.as_str(), range.passive), ("192.0.2.0/24", true));
    assert!(
        range.address.prefix().covers(&host.address.prefix()) && !host.passive,
        "a host of a range has its own entry"
    );
}

#[test]
fn keys() {
    let longest = "k".repeat(80);
    let cases = [
        // (why, content of the file, wanted)
        ("a line as an editor leaves it", "secret\n", Ok("secret")),
        ("a line from another system", "secret\r\n", Ok("secret")),
        ("inner and leading blanks belong to it", " a b ", Ok(" a b ")),
        ("the longest the kernel takes", &format!("{longest}\r\n"), Ok(&*longest)),
        ("one more", &format!("{longest}k"), Err(SecretError::TooLong)),
        ("nothing", "\n", Err(SecretError::Empty)),
    ];
    for (why, content, wanted) in cases {
        let got = Secret::new(content);
        assert_eq!(got.as_ref().map(Secret::expose), wanted.as_ref().map(|key| key.as_bytes()), "{why}");
    }
}

#[test]
fn secrets_stay_hidden() {
    let config = good_bgp("[[bgp.peers]]\naddress = \"192.0.2.1\"\nasn = 65001\npassword_file = \"/k\"\n");
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn policies() {
    let config = good_bgp(
        "[[bgp.policies.in]]\nprefixes = [\"10.0.0.0/8\", \"10.0.0.0/8+\", {prefix = \"10.0.0.0/8\"}, \
         {prefix = \"10.0.0.0/8\", ge = 16}, {prefix = \"10.0.0.0/8\", le = 24}, {prefix = \"::/0\", ge = 48, le = 64}]\n\
         action = \"reject\"\n\
         [[bgp.policies.in]]\ncommunities = [\"64512:9\", \"no-export\", \"64512:1\", \"64512:9\"]\n\
         as_path_contains = 65020\naction = \"accept\"\nlocal_pref = 4294967295\nmed = 0\nprepend = 2\n\
         add_communities = [\"64512:1\"]\nremove_communities = [\"no-peer\"]\n",
    );
    let within = |prefix: &str, ge, le| PrefixMatch { prefix: prefix.parse().unwrap(), ge, le };
    let rules = vec![
        Rule {
            prefixes: vec![
                within("10.0.0.0/8", 8, 8),
                within("10.0.0.0/8", 8, 32),
                within("10.0.0.0/8", 8, 8),
                within("10.0.0.0/8", 16, 32),
                within("10.0.0.0/8", 8, 24),
                within("::/0", 48, 64),
            ],
            ..Rule::default()
        },
        Rule {
            communities: ["64512:1", "64512:9", "no-export"].map(|c| c.parse().unwrap()).into(),
            as_path_contains: Some(Asn(65020)),
            accept: true,
            local_pref: Some(u32::MAX),
            med: Some(0),
            prepend: 2,
            add_communities: vec!["64512:1".parse().unwrap()],
            remove_communities: vec![Community::NO_PEER],
            ..Rule::default()
        },
    ];
    assert_eq!(config.bgp.policies, [("in".to_owned(), Policy { rules })].into());
}

#[test]
fn announcements() {
    let config = good_bgp(
        "[[bgp.announce]]\nprefix = \"203.0.113.7/32\"\ncommunities = [\"64512:7\"]\nlarge_communities = [\"64512:1:4294967295\"]\nmed = 5\n",
    );
    let wanted = Announce {
        prefix: "203.0.113.7/32".parse().unwrap(),
        communities: vec!["64512:7".parse().unwrap()],
        large_communities: vec![LargeCommunity([64512, 1, u32::MAX])],
        med: Some(5),
    };
    assert_eq!(config.bgp.announce, [wanted]);
}

#[test]
fn other_sections() {
    type Is = fn(&Config) -> bool;
    let cases: [(&str, &str, Is); 10] = [
        ("no metrics, as text", "[metrics]\nlisten = \"\"", |c| c.metrics.listen.is_none()),
        ("no metrics, as flag", "[metrics]\nlisten = false", |c| c.metrics.listen.is_none()),
        ("IPv6 port", "[metrics]\nlisten = \"[::1]:80\"", |c| c.metrics.listen.is_some_and(|l| l.is_ipv6())),
        ("JSON", "[log]\nformat = \"json\"", |c| c.log.format == LogFormat::Json),
        ("by module", "[log]\nlevel = \"wayleave::bgp=DEBUG,info\"", |c| c.log.level == "wayleave::bgp=DEBUG,info"),
        ("router id", "[node]\naddress = \"2001:db8::1\"\nrouter_id = \"1.2.3.4\"", |c| {
            c.node.router_id == Some(Ipv4Addr::new(1, 2, 3, 4))
        }),
        ("hexadecimal", "[kernel]\ntable = 0x1_00", |c| c.kernel.table == 256),
        ("embedded says so", "[store]\nkind = \"embedded\"", |c| c.store == Store::Embedded),
        (
            "a mesh where nodes are listed",
            "[store]\nkind = \"etcd\"\nendpoints = [\"http://[2001:db8::1]:2379/\"]",
            |c| c.bgp.mesh,
        ),
        ("a mesh can be declined", "mesh = false\n[store]\nkind = \"etcd\"\nendpoints = [\"http://etcd\"]", |c| {
            !c.bgp.mesh
        }),
    ];
    for (why, text, is) in cases {
        let config = good_bgp(text);
        assert!(is(&config), "{why}: {config:#?}");
    }
}

#[test]
fn stores() {
    type Is = fn(&Etcd) -> bool;
    let defaults = Etcd {
        endpoints: vec!["http://[2001:db8::1]:2379".to_owned()],
        prefix: "/wayleave/network".to_owned(),
        ttl: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        ca_file: None,
        identity: None,
        user: None,
        reclaim_after: None,
    };
    let least = format!("{LEAST}[store]\nkind = \"etcd\"\nendpoints = [\"http://[2001:db8::1]:2379/\"]\n");
    assert_eq!(good(&least).store, Store::Etcd(defaults));

    let tls = "endpoints = [\"https://a\", \"http://b\"]\nca_file = \"/ca\"";
    let cases: [(&str, &str, Is); 8] = [
        ("the shortest life", "ttl = \"10s\"", |e| e.ttl.as_secs() == 10),
        ("half of the life", "ttl = \"10s\"\ntimeout = \"5s\"", |e| e.timeout.as_secs() == 5),
        ("the longest", "ttl = \"1h\"\ntimeout = \"60s\"", |e| e.ttl.as_secs() == 3600 && e.timeout.as_secs() == 60),
        ("a CA", tls, |e| e.ca_file == Some("/ca".into()) && e.identity.is_none()),
        ("a certificate", &format!("{tls}\ncert_file = \"/c\"\nkey_file = \"/k\""), |e| {
            e.identity == Some(("/c".into(), "/k".into()))
        }),
        ("a user, without TLS even", "username = \"u\"\npassword_file = \"/p\"", |e| {
            e.user.as_ref().is_some_and(|(name, password)| name == "u" && password.expose_text() == "s3cret")
        }),
        ("never reclaimed", "reclaim_after = \"0s\"", |e| e.reclaim_after.is_none()),
        ("reclaimed", "reclaim_after = \"7days\"", |e| e.reclaim_after == Some(Duration::from_secs(604_800))),
    ];
    for (why, text, is) in cases {
        let endpoints = if text.contains("endpoints") { "" } else { "endpoints = [\"http://a\"]\n" };
        let config = good(&format!("{LEAST}[store]\nkind = \"etcd\"\n{endpoints}{text}\n"));
        assert!(matches!(&config.store, Store::Etcd(etcd) if is(etcd)), "{why}: {:#?}", config.store);
    }
}

#[test]
fn what_is_leased() {
    type Is = fn(&Network) -> bool;
    let cases: [(&str, &str, Is); 6] = [
        ("one length", "subnet_length = { ipv6 = 80 }", |n| n.subnet_length == PerFamily::new(24, 80)),
        ("a whole pool", "pools = [\"10.0.0.0/24\"]", |n| n.subnet_length[Family::Ipv4] == 24),
        ("a small pool", "pools = [\"10.0.0.0/26\"]\nsubnet_length = { ipv4 = 28 }", |n| {
            n.pools == ["10.0.0.0/26".parse::<Prefix>().unwrap()]
        }),
        ("a small pool nobody leases from", "pools = [\"10.0.0.0/26\"]\nsubnets = []", |n| n.subnets == Some(vec![])),
        ("many", "subnets_wanted = 64", |n| n.subnets_wanted == 64),
        ("no file", "subnet_file = \"\"", |n| n.subnet_file.is_none()),
    ];
    for (why, text, is) in cases {
        let config =
            good(&format!("[bgp]\nasn = 1\n[store]\nkind = \"etcd\"\nendpoints = [\"http://e\"]\n[network]\n{text}\n"));
        assert!(is(&config.network), "{why}: {:#?}", config.network);
    }
}

#[test]
fn a_store_leases() {
    let config = good("[bgp]\nasn = 1\n[store]\nkind = \"etcd\"\nendpoints = [\"http://etcd:2379\"]\n");
    assert_eq!(config.network.subnets, None);
}
