//! What the tests of the routing table have in common.

mod backup;
mod decide;
mod export;
mod groups;
mod model;
mod peers;

use std::num::NonZeroU32;
use std::sync::Arc;

use super::*;
use crate::bgp::attrs::{AsPath, SegmentKind};
use crate::bgp::message::{Codec, Reach, Update};
use crate::bgp::policy::{Export, ExportScope, Import, ImportScope, Node};
use crate::net::{Asn, PerFamily};

pub const OUR_AS: Asn = Asn(64512);

pub fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn as_path(numbers: &[u32]) -> AsPath {
    let numbers: Vec<Asn> = numbers.iter().map(|n| Asn(*n)).collect();
    AsPath::from_segments([(SegmentKind::Sequence, &numbers[..])])
}

/// A path through these AS numbers with this next hop.
pub fn path(numbers: &[u32], next_hop: &str) -> Attrs {
    Attrs { as_path: as_path(numbers), ..Attrs::originate(ip(next_hop)) }
}

pub fn import(scope: ImportScope) -> Arc<Import> {
    let node = Node {
        asn: OUR_AS,
        router_id: [192, 0, 2, 11].into(),
        cluster_id: [9, 9, 9, 9].into(),
        addresses: [ip("192.0.2.11")].into(),
        subnets: [p("10.244.7.0/24")].into(),
        pools: [p("10.244.0.0/16")].into(),
    };
    Arc::new(Import { scope, node: Arc::new(node), graceful_shutdown: true })
}

/// A peer `n` of AS 65000 + n at 192.0.2.n that may send anything.
pub fn external(n: u8) -> PeerInfo {
    PeerInfo {
        id: PeerId(n.into()),
        asn: Asn(65000 + u32::from(n)),
        external: true,
        router_id: [1, 1, 1, n].into(),
        address: [192, 0, 2, n].into(),
        client: false,
        import: import(ImportScope::All),
        allow_own_as: 0,
        max_prefixes: None,
    }
}

/// A peer `n` of our AS.
pub fn internal(n: u8) -> PeerInfo {
    PeerInfo { asn: OUR_AS, external: false, ..external(n) }
}

/// A client `n` of ours as a reflector.
pub fn client(n: u8) -> PeerInfo {
    PeerInfo { client: true, ..internal(n) }
}

pub fn limit(n: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(n)
}

pub fn reach(attrs: &Attrs, prefixes: &[&str]) -> Update {
    let prefixes = prefixes.iter().map(|text| p(text)).collect();
    Update { reach: vec![Reach { attrs: Arc::new(attrs.clone()), prefixes }], ..Update::default() }
}

pub fn withdraw(prefixes: &[&str]) -> Update {
    Update { withdrawn: prefixes.iter().map(|text| p(text)).collect(), ..Update::default() }
}

/// Every next hop can be reached at the same cost.
#[expect(clippy::unnecessary_wraps, reason = "the signature that a decision asks for")]
pub fn anywhere(_: &Prefix, _: &Attrs) -> Option<u32> {
    Some(0)
}

/// All decisions that wait.
pub fn decide(rib: &mut Rib, next_hops: NextHops<'_>, multipath: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    while !rib.is_settled() {
        rib.decide(next_hops, select(multipath), 1, &mut changes);
    }
    changes
}

pub fn select(multipath: usize) -> Selection {
    Selection { multipath, backups: true }
}

/// A table with these peers up.
pub fn rib(peers: &[PeerInfo]) -> Rib {
    let mut rib = Rib::new();
    for peer in peers {
        rib.peer_up(peer.clone());
    }
    rib
}

/// Settings of a group that gets all.
pub fn settings(external: bool, client: bool) -> ExportSettings {
    ExportSettings {
        external,
        client,
        local_asn: OUR_AS,
        cluster_id: [9, 9, 9, 9].into(),
        next_hop_self: false,
        ends_ipip: true,
        graceful_shutdown: false,
        next_hops: PerFamily::new(Some(ip("192.0.2.11")), Some(ip("2001:db8::11"))),
        families: PerFamily::new(true, true),
        export: Arc::new(Export { scope: ExportScope::All, pools: [p("10.244.0.0/16")].into() }),
        codec: codec(external),
    }
}

pub fn codec(external: bool) -> Codec {
    Codec { four_octet_as: true, external, families: PerFamily::new(true, true), ..Codec::INITIAL }
}
