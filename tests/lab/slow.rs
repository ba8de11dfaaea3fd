//! A peer that doesn't read costs the others nothing, and is closed in the end.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::harness::agent::{Agent, SESSION};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::holds;
use crate::harness::speaker::{Speaker, Who, nlri, update};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

pub const SOURCE_AS: u16 = 65066;
const DEAF_AS: u16 = 65067;
const ROUTES: u32 = 100_000;

/// The whole table, ten prefixes to a set of attributes.
pub fn table() -> Vec<u8> {
    let sets = 0..ROUTES / 10;
    let updates = sets.map(|set| {
        let path = [&[0x40, 2, 6, 2, 2][..], &SOURCE_AS.to_be_bytes(), &[0x10, (set % 200) as u8]].concat();
        let med = [&[0x80, 4, 4][..], &set.to_be_bytes()].concat();
        let attrs = [&[0x40, 1, 1, 0][..], &path, &[0x40, 3, 4, 10, 0, 0, 66], &med].concat();
        let prefixes = (0..10).map(|n| nlri(Ipv4Addr::from_bits(0x2000_0000 + ((set * 10 + n) << 8)), 24));
        update(&attrs, &prefixes.collect::<Vec<_>>().concat())
    });
    updates.collect::<Vec<_>>().concat()
}

pub fn who(last: u8, asn: u16) -> Who {
    Who {
        local: [10, 0, 0, last].into(),
        remote: [10, 0, 0, 2].into(),
        asn: asn.into(),
        four_octet_as: false,
        ipv6: false,
    }
}

#[test]
fn a_peer_that_never_reads_costs_the_others_nothing() {
    let rack = Rack::new();
    rack.tor.ip("addr add 10.0.0.66/24 dev eth0");
    rack.tor.ip("addr add 10.0.0.67/24 dev eth0");
    let session = Neighbor {
        channel: "import all; export none;",
        ..Neighbor::new("host", ("10.0.0.1", TOR_AS), ("10.0.0.2", HOST_AS))
    };
    // Nobody wants these in a kernel.
    let config = config("10.0.0.1", &[session], &[], "").replace("export where source = RTS_BGP", "export none");
    let sink = Bird::start(&rack.lab, &rack.tor, &config);
    let agent = Config::host()
        .peer("sink", "10.0.0.1", TOR_AS, "export = \"all\"")
        .peer("source", "10.0.0.66", SOURCE_AS.into(), "import = \"all\";max_prefixes = 0;passive = true")
        .peer(
            "deaf",
            "10.0.0.67",
            DEAF_AS.into(),
            "export = \"all\";passive = true;hold_time = \"3s\";send_hold_time = \"8s\"",
        )
        .with("\n[kernel]\ninstall = false\n");
    let agent = Agent::start(&rack.lab, &rack.host, &agent.text());
    agent.wait_established(&["sink"]);
    let deaf = Speaker::connect_deaf(&rack.tor, &who(67, DEAF_AS));
    let source = Speaker::connect(&rack.tor, &who(66, SOURCE_AS));
    agent.wait_established(&["deaf", "source"]);
    source.send(&table());
    holds("the other peer has it all", Duration::from_secs(60), || sink.count("host") >= ROUTES as usize);

    let error = || agent.peer("deaf").unwrap()["last_error"].as_str().unwrap_or_default().to_owned();
    holds("the send hold timer expires", Duration::from_secs(30), || error().contains("send hold timer expired"));
    assert!(agent.log().contains("send hold timer expired"));
    let lost = "wayleave_bgp_session_flaps_total{peer=\"deaf\",reason=\"send_hold_timer_expired\"}";
    assert_eq!(agent.metric(lost), Some(1.0));
    // The connection is reset, not kept by the kernel with what nobody takes.
    holds("the kernel has forgotten it", SESSION, || {
        let shown = rack.host.command("ss").args(["-Htn", "dst", "10.0.0.67"]).output().unwrap();
        shown.stdout.is_empty()
    });
    drop(deaf);
    for peer in ["sink", "source"] {
        let peer = agent.peer(peer).unwrap();
        assert_eq!((&peer["state"], &peer["flaps"]), (&"established".into(), &0.into()), "{peer}");
    }
}
