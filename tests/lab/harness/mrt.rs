//! Recorded routing data: MRT files (RFC 6396) and the text that `bgpdump` made of them.
//!
//! Only the kinds that the recordings have: TABLE_DUMP, and BGP4MP messages with two- and four-octet
//! AS numbers. Everything else is passed over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path as FilePath;

use flate2::read::MultiGzDecoder;

/// One recorded route or message, with the peer that sent it.
#[derive(Debug, Eq, PartialEq)]
pub struct Record {
    /// Address of the peer
    pub peer: IpAddr,
    /// Its AS
    pub asn: u32,
    /// What it said
    pub said: Said,
}

/// What a peer said.
#[derive(Debug, Eq, PartialEq)]
pub enum Said {
    /// A route of a table dump: prefix and path attributes with two-octet AS numbers
    Route { prefix: (Ipv4Addr, u8), attrs: Vec<u8> },
    /// A whole BGP message, header included
    Message { four_octet_as: bool, bytes: Vec<u8> },
}

/// Reads an MRT file.
pub fn read(path: &FilePath) -> Vec<Record> {
    let mut bytes = Vec::new();
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    MultiGzDecoder::new(BufReader::new(file)).read_to_end(&mut bytes).unwrap();
    let mut cursor = Cursor(&bytes);
    let mut records = Vec::new();
    while !cursor.0.is_empty() {
        let _timestamp = cursor.number(4);
        let (kind, subtype) = (cursor.number(2), cursor.number(2));
        let length = cursor.number(4);
        let body = Cursor(cursor.take(length as usize));
        records.extend(record(kind, subtype, body));
    }
    records
}

fn record(kind: u32, subtype: u32, mut body: Cursor<'_>) -> Option<Record> {
    match (kind, subtype) {
        // TABLE_DUMP, IPv4 (RFC 6396 §4.2)
        (12, 1) => {
            let _view_and_sequence = body.number(4);
            let address = Ipv4Addr::from_bits(body.number(4));
            let length = u8::try_from(body.number(1)).unwrap();
            let _status_and_time = body.take(5);
            let peer = IpAddr::V4(Ipv4Addr::from_bits(body.number(4)));
            let asn = body.number(2);
            let size = body.number(2) as usize;
            let attrs = body.take(size).to_vec();
            Some(Record { peer, asn, said: Said::Route { prefix: (address, length), attrs } })
        }
        // BGP4MP_MESSAGE and BGP4MP_MESSAGE_AS4 (RFC 6396 §4.4.2, §4.4.3)
        (16, 1 | 4) => {
            let four_octet_as = subtype == 4;
            let asn = body.number(if four_octet_as { 4 } else { 2 });
            let _local_as = body.take(if four_octet_as { 4 } else { 2 });
            let _interface = body.number(2);
            let six = body.number(2) == 2;
            let peer = body.address(six);
            let _local = body.address(six);
            Some(Record { peer, asn, said: Said::Message { four_octet_as, bytes: body.0.to_vec() } })
        }
        _ => None,
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        head
    }

    fn number(&mut self, octets: usize) -> u32 {
        self.take(octets).iter().fold(0, |value, octet| value << 8 | u32::from(*octet))
    }

    fn address(&mut self, six: bool) -> IpAddr {
        if six {
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(self.take(16)).unwrap()))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(self.number(4)))
        }
    }
}

/// A route as `bgpdump` shows it, in a form that can be compared.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Route {
    /// `65001 65002 {1,2}`
    pub as_path: String,
    /// `igp`, `egp`, `incomplete`
    pub origin: String,
    /// Next hop
    pub next_hop: String,
    /// MULTI_EXIT_DISC; absent counts as 0
    pub med: u64,
    /// Sorted
    pub communities: Vec<String>,
    /// ATOMIC_AGGREGATE
    pub atomic_aggregate: bool,
    /// `ASN ADDRESS`
    pub aggregator: Option<String>,
}

/// What each peer has announced and not withdrawn at the end of a recording: peer → prefix → route.
pub type Tables = BTreeMap<IpAddr, BTreeMap<String, Route>>;

/// Reads the text of `bgpdump -m`.
pub fn expected(path: &FilePath) -> Tables {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut tables = Tables::new();
    for line in BufReader::new(MultiGzDecoder::new(file)).lines() {
        let line = line.unwrap();
        let fields: Vec<&str> = line.split('|').collect();
        let [_, _, what, peer, _asn, prefix, rest @ ..] = &fields[..] else { continue };
        let table = tables.entry(peer.parse().unwrap()).or_default();
        match (*what, rest) {
            ("A" | "B", [as_path, origin, next_hop, _local_pref, med, communities, atomic, aggregator, ..]) => {
                let mut communities: Vec<String> = communities.split_whitespace().map(str::to_owned).collect();
                communities.sort();
                communities.dedup();
                let route = Route {
                    as_path: (*as_path).to_owned(),
                    origin: origin.to_ascii_lowercase(),
                    next_hop: next_hop.parse::<IpAddr>().unwrap().to_string(),
                    med: med.parse().unwrap(),
                    communities,
                    atomic_aggregate: *atomic == "AG",
                    // An AGGREGATOR with AS 0 is malformed and dropped (RFC 7607 §2); `bgpdump` shows it.
                    aggregator: Some((*aggregator).to_owned()).filter(|a| !a.is_empty() && !a.starts_with("0 ")),
                };
                table.insert(canonical(prefix), route);
            }
            ("W", _) => {
                table.remove(&canonical(prefix));
            }
            _ => {}
        }
    }
    tables
}

/// A prefix as the agent writes it: the shortest form of the address, no host bits.
pub fn canonical(prefix: &str) -> String {
    let net: ipnetwork::IpNetwork = prefix.parse().unwrap_or_else(|e| panic!("{prefix}: {e}"));
    format!("{}/{}", net.network(), net.prefix())
}

#[test]
fn reads_a_table_dump_and_a_message() {
    let dump =
        [&[0, 0, 0, 1][..], &[192, 0, 2, 0, 24], &[1, 0, 0, 0, 0], &[203, 0, 113, 1, 0xfd, 0xe9], &[0, 3, 0x40, 1, 0]]
            .concat();
    let wanted = Record {
        peer: "203.0.113.1".parse().unwrap(),
        asn: 65001,
        said: Said::Route { prefix: (Ipv4Addr::new(192, 0, 2, 0), 24), attrs: vec![0x40, 1, 0] },
    };
    assert_eq!(record(12, 1, Cursor(&dump)), Some(wanted));
    let message = [&[0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1][..], &[10, 0, 0, 1, 10, 0, 0, 2], &[0xff; 19]].concat();
    let wanted = Record {
        peer: "10.0.0.1".parse().unwrap(),
        asn: 65536,
        said: Said::Message { four_octet_as: true, bytes: vec![0xff; 19] },
    };
    assert_eq!(record(16, 4, Cursor(&message)), Some(wanted));
    assert_eq!(record(13, 2, Cursor(&[1, 2, 3])), None, "another kind is passed over");
}
