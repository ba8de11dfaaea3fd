//! Recorded routing tables and updates of Internet exchanges, played into the running agent; what it
//! shows is compared line by line with what an independent decoder (`bgpdump`) made of the same bytes,
//! and the kernel's table with what it shows.
//!
//! The recordings are looked for in `$WAYLEAVE_ROUTING_DATA`, else in `../shared/data/routing`. Where
//! they are missing a generated table is played instead, and the test says so.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::harness::agent::Agent;
use crate::harness::kernel::our_routes;
use crate::harness::mrt::{self, Record, Route, Said, Tables};
use crate::harness::speaker::{self, Speaker, Who};
use crate::harness::{Lab, Netns, announce, holds};
use crate::story::Config;

/// Ours; no recorded path may hold it.
const ASN: u32 = 64999;

/// Routes of the generated table.
const GENERATED: u32 = 50_000;

/// Prefix of the route that each peer announces last, to show that all before it has been read.
const MARKER: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 255, 255), 32);

const LOAD: Duration = Duration::from_secs(90);

/// What is played, and what must come of it.
struct Recording {
    /// By peer: its AS, whether its messages have four-octet AS numbers, and all it sends
    peers: BTreeMap<IpAddr, (u32, bool, Vec<u8>)>,
    wanted: Tables,
}

fn data(file: &str) -> Option<(PathBuf, PathBuf)> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/routing");
    let dir = std::env::var_os("WAYLEAVE_ROUTING_DATA").map_or_else(beside, PathBuf::from).join("bgpdump");
    let (recorded, expected) = (dir.join(file), dir.join(format!("expect/{file}.bgp.gz")));
    if recorded.exists() && expected.exists() {
        return Some((recorded, expected));
    }
    announce(&format!("{} is not here, see WAYLEAVE_ROUTING_DATA", recorded.display()));
    None
}

fn recorded((file, expected): &(PathBuf, PathBuf)) -> Recording {
    let mut tables: BTreeMap<IpAddr, (u32, bool, Vec<u8>)> = BTreeMap::new();
    let mut routes: BTreeMap<(IpAddr, Vec<u8>), Vec<Vec<u8>>> = BTreeMap::new();
    for Record { peer, asn, said } in mrt::read(file) {
        let (_, wide, bytes) = tables.entry(peer).or_insert((asn, false, Vec::new()));
        match said {
            Said::Route { prefix, attrs } => {
                routes.entry((peer, attrs)).or_default().push(speaker::nlri(prefix.0, prefix.1));
            }
            Said::Message { four_octet_as, bytes: message } => {
                *wide = four_octet_as;
                if message.get(18) == Some(&speaker::UPDATE) {
                    bytes.extend(message);
                }
            }
        }
    }
    for ((peer, attrs), prefixes) in routes {
        tables.get_mut(&peer).unwrap().2.extend(packed(&attrs, &prefixes));
    }
    Recording { peers: tables, wanted: mrt::expected(expected) }
}

/// UPDATEs for many prefixes with one set of attributes, none above 4096 octets.
fn packed(attrs: &[u8], prefixes: &[Vec<u8>]) -> Vec<u8> {
    let room = (4096 - 23 - attrs.len()) / 5;
    prefixes.chunks(room).flat_map(|chunk| speaker::update(attrs, &chunk.concat())).collect()
}

/// A table that looks like one of the Internet: two peers, paths of one to six ASes, some with
/// communities, MED and an aggregator, five prefixes to an attribute set.
fn generated() -> Recording {
    let mut recording = Recording { peers: BTreeMap::new(), wanted: Tables::new() };
    for (peer, asn) in [(Ipv4Addr::new(193, 203, 0, 1), 1853_u16), (Ipv4Addr::new(193, 203, 0, 65), 1273)] {
        let (mut bytes, mut table) = (Vec::new(), BTreeMap::new());
        for set in 0..GENERATED / 5 {
            let path: Vec<u16> = (0..=set % 6)
                .map(|hop| if hop == 0 { asn } else { u16::try_from(1000 + set % 6000 + hop).unwrap() })
                .collect();
            let mut attrs = vec![0x40, 1, 1, u8::try_from(set % 3).unwrap()];
            attrs.extend([0x40, 2, u8::try_from(2 + 2 * path.len()).unwrap(), 2, u8::try_from(path.len()).unwrap()]);
            attrs.extend(path.iter().flat_map(|asn| asn.to_be_bytes()));
            attrs.extend([0x40, 3, 4]);
            attrs.extend(peer.octets());
            let mut route = Route {
                as_path: path.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                origin: ["igp", "egp", "incomplete"][set as usize % 3].to_owned(),
                next_hop: peer.to_string(),
                ..Route::default()
            };
            if set % 2 == 0 {
                attrs.extend([0x80, 4, 4]);
                attrs.extend(set.to_be_bytes());
                route.med = u64::from(set);
            }
            if set % 4 == 0 {
                attrs.extend([0xc0, 8, 4]);
                attrs.extend([asn.to_be_bytes(), [0, 7]].concat());
                route.communities = vec![format!("{asn}:7")];
            }
            if set % 8 == 0 {
                attrs.extend([0x40, 6, 0, 0xc0, 7, 6]);
                attrs.extend([&asn.to_be_bytes()[..], &[192, 0, 2, 1]].concat());
                (route.atomic_aggregate, route.aggregator) = (true, Some(format!("{asn} 192.0.2.1")));
            }
            let prefixes: Vec<Ipv4Addr> =
                (0..5).map(|n| Ipv4Addr::from_bits(0x1400_0000 + ((set * 5 + n) << 8))).collect();
            let encoded: Vec<Vec<u8>> = prefixes.iter().map(|prefix| speaker::nlri(*prefix, 24)).collect();
            bytes.extend(packed(&attrs, &encoded));
            table.extend(prefixes.iter().map(|prefix| (format!("{prefix}/24"), route.clone())));
        }
        recording.peers.insert(peer.into(), (asn.into(), false, bytes));
        recording.wanted.insert(peer.into(), table);
    }
    recording
}

/// The agent on the exchange, and sessions of all peers from one namespace that has their addresses.
struct Exchange {
    agent: Agent,
    speakers: Vec<Speaker>,
    names: BTreeMap<IpAddr, String>,
    _peers: Netns,
}

/// `ours` are our addresses on the exchange, with lengths; every peer lies in one of their networks.
fn play(lab: &Lab, recording: &Recording, ours: &[&'static str]) -> Exchange {
    let (host, peers) = (lab.netns("host"), lab.netns("peers"));
    let net = |address: &IpAddr| -> ipnetwork::IpNetwork {
        let nets = ours.iter().map(|net| net.parse::<ipnetwork::IpNetwork>().unwrap());
        nets.into_iter()
            .find(|net| net.contains(*address))
            .unwrap_or_else(|| panic!("{address} is not on the exchange"))
    };
    let theirs: Vec<String> = recording.peers.keys().map(|peer| format!("{peer}/{}", net(peer).prefix())).collect();
    let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
    lab.link((&host, "eth0", ours), (&peers, "eth0", &theirs));

    let mut config = Config { asn: ASN, ..Config::node(ours[0].split('/').next().unwrap(), &[]) };
    let mut names = BTreeMap::new();
    for (index, (peer, (asn, ..))) in recording.peers.iter().enumerate() {
        let name = format!("peer{index}");
        let options = "passive = true;import = \"all\";export = \"none\";max_prefixes = 0";
        config = config.peer(&name, &peer.to_string(), *asn, options);
        names.insert(*peer, name);
    }
    let agent = Agent::start(lab, &host, &config.text());
    let speakers = recording
        .peers
        .iter()
        .map(|(peer, (asn, four_octet_as, _))| {
            let (remote, asn, four_octet_as) = (net(peer).ip(), *asn, *four_octet_as);
            Speaker::connect(&peers, &Who { local: *peer, remote, asn, four_octet_as, ipv6: true })
        })
        .collect();
    Exchange { agent, speakers, names, _peers: peers }
}

impl Exchange {
    /// Sends everything, and waits until all of it has been read.
    fn load(&self, recording: &Recording) {
        for (speaker, (peer, (asn, four_octet_as, bytes))) in self.speakers.iter().zip(&recording.peers) {
            speaker.send(bytes);
            speaker.send(&marker(*peer, *asn, *four_octet_as));
            speaker.send(&speaker::end_of_rib());
        }
        let marker = format!("{}/{}", MARKER.0, MARKER.1);
        for (peer, name) in &self.names {
            holds(&format!("all that {peer} sent has been read"), LOAD, || {
                !self.agent.routes(&["--from", name, "--before-policy", &marker]).is_empty()
            });
        }
        assert!(self.speakers.iter().all(Speaker::up), "no session was closed");
    }

    /// Compares what each peer sent with what was expected of it.
    fn compare(&self, recording: &Recording) {
        let mut compared = 0;
        let mut complaints = String::new();
        for (peer, name) in &self.names {
            let none = BTreeMap::new();
            let wanted = recording.wanted.get(peer).unwrap_or(&none);
            let mut shown: BTreeMap<String, Route> = self
                .agent
                .routes(&["--from", name, "--before-policy"])
                .iter()
                .map(|route| (route["prefix"].as_str().unwrap().to_owned(), comparable(route)))
                .collect();
            shown.remove(&format!("{}/{}", MARKER.0, MARKER.1));
            for prefix in wanted.keys().chain(shown.keys().filter(|prefix| !wanted.contains_key(*prefix))) {
                let (want, have) = (wanted.get(prefix), shown.get(prefix));
                if want != have && complaints.lines().count() < 30 {
                    write!(complaints, "{peer} {prefix}:\n  wanted {want:?}\n  shown  {have:?}\n").unwrap();
                }
                compared += 1;
            }
        }
        assert!(complaints.is_empty(), "differences:\n{complaints}");
        println!("{compared} routes of {} peers are as expected", self.names.len());
        assert!(compared > 5_000, "only {compared}: something was not played");
    }

    /// Compares the kernel's table with the best paths that the agent shows.
    fn compare_kernel(&self) {
        let best: BTreeMap<String, Value> = self
            .agent
            .routes(&[])
            .into_iter()
            .filter(|route| route["best"] == true)
            .map(|route| (route["prefix"].as_str().unwrap().to_owned(), route))
            .collect();
        let resolvable: BTreeMap<&String, &Value> =
            best.iter().filter(|(_, route)| !route["hops"].as_array().unwrap().is_empty()).collect();
        let status = self.agent.status();
        assert_eq!(status["fib"]["failed"], 0, "{}", status["fib"]);
        let mut kernel = BTreeMap::new();
        holds("the kernel has as many routes as the agent wants", LOAD, || {
            kernel = our_routes(self.agent.netns());
            kernel.len() == resolvable.len()
        });
        for (prefix, route) in &resolvable {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let mut wanted: Vec<(String, String)> = route["hops"]
                .as_array()
                .unwrap()
                .iter()
                .map(|hop| (text(&hop["gateway"]), text(&hop["device"])))
                .collect();
            wanted.sort();
            let have = kernel.get(*prefix).unwrap_or_else(|| panic!("{prefix} is not in the kernel: {route}"));
            let have: Vec<(String, String)> =
                have.hops.iter().map(|hop| (hop.gateway.clone().unwrap_or_default(), hop.device.clone())).collect();
            assert_eq!(have, wanted, "{prefix}");
        }
        let unresolved = best.len() - resolvable.len();
        println!("{} kernel routes are as shown; {unresolved} next hops not on the exchange", resolvable.len());
        assert!(resolvable.len() > best.len() * 9 / 10, "{unresolved} of {} could not be resolved", best.len());
    }
}

/// A route of `wayleave routes --json`, to be compared.
fn comparable(route: &Value) -> Route {
    let mut communities: Vec<String> = route["communities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|community| community.as_str().unwrap().to_owned())
        .collect();
    communities.sort();
    Route {
        as_path: crate::harness::agent::as_path(route),
        origin: route["origin"].as_str().unwrap().to_owned(),
        next_hop: route["next_hop"].as_str().unwrap_or_default().to_owned(),
        med: route["med"].as_u64().unwrap_or(0),
        communities,
        atomic_aggregate: route["atomic_aggregate"] == true,
        aggregator: route["aggregator"].as_str().map(str::to_owned),
    }
}

/// An UPDATE that announces [`MARKER`].
fn marker(peer: IpAddr, asn: u32, four_octet_as: bool) -> Vec<u8> {
    let mut attrs = vec![0x40, 1, 1, 0];
    if four_octet_as {
        attrs.extend([0x40, 2, 6, 2, 1]);
        attrs.extend(asn.to_be_bytes());
    } else {
        attrs.extend([0x40, 2, 4, 2, 1]);
        attrs.extend(u16::try_from(asn).unwrap().to_be_bytes());
    }
    attrs.extend([0x40, 3, 4]);
    // An IPv6 peer has no IPv4 next hop to offer; what it says doesn't matter here.
    attrs.extend(match peer {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => [192, 0, 2, 1],
    });
    speaker::update(&attrs, &speaker::nlri(MARKER.0, MARKER.1))
}

#[test]
fn a_full_table_of_2002() {
    let recording = data("bview.20020722.2337.gz").map_or_else(generated, |files| recorded(&files));
    let lab = Lab::new();
    let exchange = play(&lab, &recording, &["193.203.0.254/24"]);
    exchange.load(&recording);
    exchange.compare(&recording);
    exchange.compare_kernel();
}

#[test]
fn updates_of_2016() {
    let Some(files) = data("updates.20160811.1600.gz") else {
        announce("realdata::updates_of_2016 has nothing to play; a_full_table_of_2002 plays a generated table");
        return;
    };
    let recording = recorded(&files);
    let lab = Lab::new();
    let exchange = play(&lab, &recording, &["37.49.239.254/21", "2001:7f8:54::ffff/48"]);
    exchange.load(&recording);
    exchange.compare(&recording);
    exchange.compare_kernel();
}

#[test]
fn the_recordings_can_be_read() {
    let generated = generated();
    let routes: usize = generated.wanted.values().map(BTreeMap::len).sum();
    assert_eq!(routes, 2 * GENERATED as usize);
    for (file, peers, routes) in [("bview.20020722.2337.gz", 36, 115_000), ("updates.20160811.1600.gz", 30, 10_000)] {
        let Some(files) = data(file) else { continue };
        let recording = recorded(&files);
        let count: usize = recording.wanted.values().map(BTreeMap::len).sum();
        assert!(recording.peers.len() >= peers && count >= routes, "{file}: {} peers, {count}", recording.peers.len());
        for table in recording.wanted.values() {
            let own = table
                .values()
                .find(|route| route.as_path.split([' ', ',', '{', '}']).any(|asn| asn == ASN.to_string()));
            assert_eq!(own, None, "{file}: a path holds our AS");
        }
    }
}
