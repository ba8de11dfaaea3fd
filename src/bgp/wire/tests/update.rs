//! UPDATE as a whole: both families, both places of routes, what the attributes say.

use super::*;
use crate::bgp::attrs::{Community, ExtCommunity, LargeCommunity, Origin};
use crate::bgp::message::FaultOutcome;
use crate::bgp::wire::{EncodeError, encode_end_of_rib, encode_reach, encode_withdraw};
use crate::net::{Asn, Family};

const GLOBAL: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// 2001:db8:7::/48
const NLRI6: &[u8] = &[48, 0x20, 1, 0xd, 0xb8, 0, 7];

/// Value of MP_REACH_NLRI.
fn mp_reach(afi_safi: [u8; 3], hop: &[u8], reserved: u8, nlri: &[u8]) -> Vec<u8> {
    let mut value = afi_safi.to_vec();
    value.push(u8::try_from(hop.len()).unwrap());
    value.extend(hop);
    value.push(reserved);
    value.extend(nlri);
    value
}

fn with_mp(value: &[u8]) -> Vec<u8> {
    update(&[], &[Attr(0x80, 14, value), ORIGIN, AS_PATH], &[])
}

#[test]
fn mp_next_hops() {
    let both = [GLOBAL, LINK_LOCAL].concat();
    let zero_and_ll = [[0; 16], LINK_LOCAL].concat();
    let twice_ll = [LINK_LOCAL, LINK_LOCAL].concat();
    let not_ll = [GLOBAL, GLOBAL].concat();
    let multicast = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let (v4, v6) = ([0, 1, 1], [0, 2, 1]);
    // (why, AFI and SAFI, next hop, next hop and link-local one, or `withdrawn`, or the subcode of the reset)
    let cases: [(&str, [u8; 3], &[u8], &str); 19] = [
        ("global", v6, &GLOBAL, "2001:db8::1 -"),
        ("global and link-local: zettabgp drops the second", v6, &both, "2001:db8::1 fe80::1"),
        ("link-local alone", v6, &LINK_LOCAL, "fe80::1 -"),
        ("link-local for both", v6, &twice_ll, "fe80::1 fe80::1"),
        ("no global", v6, &zero_and_ll, "fe80::1 fe80::1"),
        ("second is not link-local", v6, &not_ll, "2001:db8::1 -"),
        ("unspecified", v6, &[0; 16], "withdrawn"),
        ("multicast", v6, &multicast, "withdrawn"),
        ("IPv4 in its own family", v4, &[192, 0, 2, 1], "192.0.2.1 -"),
        ("loopback", v4, &[127, 0, 0, 1], "withdrawn"),
        ("RFC 8950 not negotiated: zettabgp makes up a next hop", v4, &GLOBAL, "withdrawn"),
        ("RFC 8950 with link-local", v4, &both, "withdrawn"),
        ("§7.11: empty", v6, &[], "9"),
        ("§7.11: 4 octets", v6, &[192, 0, 2, 1], "9"),
        ("§7.11: 24 octets, as a VPN has", v6, &both[..24], "9"),
        ("§7.11: 48 octets", v6, &[0; 48], "9"),
        ("§7.11: 5 octets", v4, &[192, 0, 2, 1, 0], "9"),
        ("§7.11: 8 octets", v4, &[0; 8], "9"),
        ("§7.11: none", v4, &[], "9"),
    ];
    for (why, afi_safi, hop, wanted) in cases {
        let (nlri, prefix) = if afi_safi == v4 { (NLRI, p("10.244.7.0/24")) } else { (NLRI6, p("2001:db8:7::/48")) };
        let got = match decoded(&with_mp(&mp_reach(afi_safi, hop, 0, nlri)), EXTERNAL) {
            Ok(update) if update.reach.is_empty() => {
                assert_eq!(update.withdrawn, [prefix], "{why}");
                "withdrawn".to_owned()
            }
            Ok(update) => {
                assert_eq!((&update.reach[0].prefixes[..], update.faults.len()), (&[prefix][..], 0), "{why}");
                let attrs = &update.reach[0].attrs;
                let second = attrs.link_local.map_or_else(|| "-".to_owned(), |addr| addr.to_string());
                format!("{} {second}", attrs.next_hop)
            }
            Err(error) => error.notification().subcode.to_string(),
        };
        assert_eq!(got, wanted, "{why}");
    }
}

#[test]
fn mp_reach_shapes() {
    let good = mp_reach([0, 2, 1], &GLOBAL, 0, NLRI6);
    let reserved = mp_reach([0, 2, 1], &GLOBAL, 3, NLRI6);
    assert_eq!(decoded(&with_mp(&reserved), EXTERNAL), decoded(&with_mp(&good), EXTERNAL), "the octet is reserved");

    let long = mp_reach([0, 2, 1], &GLOBAL, 0, &[129, 0]);
    let overrun = mp_reach([0, 2, 1], &GLOBAL, 0, &[48, 0x20]);
    let narrow = mp_reach([0, 1, 1], &[192, 0, 2, 1], 0, &[33, 10, 0, 0, 0, 0]);
    for (why, value) in [
        ("empty", &[][..]),
        ("no next hop length", &[0, 2, 1]),
        ("next hop overruns", &[0, 2, 1, 16, 0x20]),
        ("no reserved octet", &good[..20]),
        ("129 bits", &long),
        ("prefix overruns", &overrun),
        ("33 bits of IPv4", &narrow),
    ] {
        let bytes = with_mp(value);
        let error = decoded(&bytes, EXTERNAL).expect_err(why).notification();
        let attribute = Attr(0x80, 14, value).bytes();
        assert_eq!((error.code, error.subcode, &error.data[..]), (3, 9, &attribute[..]), "{why}: with the attribute");
    }
    for (why, value) in [("empty", &[][..]), ("two octets", &[0, 2]), ("prefix overruns", &[0, 2, 1, 8])] {
        let error = decoded(&update(&[], &[Attr(0x80, 15, value)], &[]), EXTERNAL).expect_err(why).notification();
        assert_eq!((error.code, error.subcode), (3, 9), "{why}");
    }
}

#[test]
fn mp_faults_withdraw_what_they_announce() {
    let value = mp_reach([0, 2, 1], &GLOBAL, 0, NLRI6);
    for (why, attributes) in [
        ("wrong flags", &[Attr(0xc0, 14, &value), ORIGIN, AS_PATH][..]),
        ("no ORIGIN", &[Attr(0x80, 14, &value), AS_PATH]),
        ("no AS_PATH", &[Attr(0x80, 14, &value), ORIGIN]),
        ("malformed MED", &[Attr(0x80, 14, &value), ORIGIN, AS_PATH, Attr(0x80, 4, &[])]),
    ] {
        let got = decoded(&update(&[], attributes, &[]), EXTERNAL).unwrap();
        assert_eq!((got.withdrawn, got.reach), (vec![p("2001:db8:7::/48")], vec![]), "{why}");
    }
    // NEXT_HOP is not for these routes (RFC 4760 §3).
    for hop in [Attr(0x40, 3, &[0; 4]), Attr(0x40, 3, &[1]), Attr(0xc0, 3, &[])] {
        let got = decoded(&update(&[], &[Attr(0x80, 14, &value), ORIGIN, AS_PATH, hop], &[]), EXTERNAL).unwrap();
        assert_eq!((got.reach.len(), got.faults.len()), (1, 0), "{hop:?}");
    }
}

#[test]
fn everything_in_one_message() {
    let reach = mp_reach([0, 2, 1], &[GLOBAL, LINK_LOCAL].concat(), 0, NLRI6);
    let unreach = [&[0, 2, 1][..], &[32, 0x20, 1, 0xd, 0xb9]].concat();
    let bytes = update(
        &[16, 10, 9],
        &[
            Attr(0x80, 14, &reach),
            Attr(0x80, 15, &unreach),
            ORIGIN,
            AS_PATH,
            NEXT_HOP,
            Attr(0xc0, 8, &[0xff, 0xff, 0xff, 1, 0, 1, 0, 2, 0, 1, 0, 2]),
            Attr(0xe0, 99, &[7]),
            Attr(0xd0, 35, &[0, 0, 0, 5]),
        ],
        &[NLRI, &[8, 11]].concat(),
    );
    let got = decoded(&bytes, EXTERNAL).unwrap();
    assert_eq!(got.withdrawn, [p("10.9.0.0/16"), p("2001:db9::/32")]);
    assert_eq!((got.end_of_rib, got.faults.len(), got.reach.len()), (None, 0, 2));
    let (v4, v6) = (&got.reach[0], &got.reach[1]);
    assert_eq!(v4.prefixes, [p("10.244.7.0/24"), p("11.0.0.0/8")]);
    assert_eq!(v6.prefixes, [p("2001:db8:7::/48")]);
    assert_eq!((v4.attrs.next_hop.to_string(), v4.attrs.link_local), ("192.0.2.1".to_owned(), None));
    assert_eq!(v6.attrs.next_hop.to_string(), "2001:db8::1");
    assert!(v6.attrs.link_local.is_some());
    for attrs in [&v4.attrs, &v6.attrs] {
        assert_eq!(attrs.communities[..], [Community(0x0001_0002), Community::NO_EXPORT], "sorted, each once");
        let unknown: Vec<_> = attrs.unknown.iter().map(|raw| (raw.flags, raw.code)).collect();
        assert_eq!(unknown, [(0xe0, 35), (0xe0, 99)], "by type, marked Partial");
    }
}

#[test]
fn families_that_were_not_negotiated() {
    let only = |ipv4, ipv6| Codec { families: PerFamily::new(ipv4, ipv6), ..EXTERNAL };
    let v6 = mp_reach([0, 2, 1], &GLOBAL, 0, NLRI6);
    let evpn = mp_reach([0, 25, 70], &[192, 0, 2, 1], 0, &[2, 33, 1]);
    for (why, bytes, codec) in [
        ("IPv6", with_mp(&v6), only(true, false)),
        ("a family unheard of", with_mp(&evpn), EXTERNAL),
        ("plain IPv4", update(&[8, 10], &[ORIGIN, AS_PATH, NEXT_HOP], NLRI), only(false, true)),
        ("withdrawn IPv6", update(&[], &[Attr(0x80, 15, &[0, 2, 1, 0])], &[]), only(true, false)),
    ] {
        let got = decoded(&bytes, codec).unwrap();
        assert_eq!((got.reach.len(), got.withdrawn.len(), got.end_of_rib), (0, 0, None), "{why}");
        let outcomes: Vec<_> = got.faults.iter().map(|fault| fault.outcome).collect();
        assert_eq!(outcomes, [FaultOutcome::AttributeDiscard], "{why}");
    }
    // The other family of the message is not touched.
    let both = update(&[], &[Attr(0x80, 14, &v6), ORIGIN, AS_PATH, NEXT_HOP], NLRI);
    assert_eq!(decoded(&both, only(true, false)).unwrap().reach[0].prefixes, [p("10.244.7.0/24")]);
}

#[test]
fn routes_in_disguise() {
    // An IPv4-mapped prefix would be an IPv4 route to whoever keeps both in one table.
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    for (why, bits, octets, kept) in [
        ("IPv4 default route", 96, &mapped[..], false),
        ("IPv4 10/8", 104, &[&mapped[..], &[10]].concat(), false),
        ("unspecified", 128, &[0; 16], false),
        ("group", 16, &[0xff, 2], false),
        ("link-local", 10, &[0xfe, 0x80], false),
        ("default route", 0, &[], true),
        ("unique local", 8, &[0xfd], true),
        ("NAT64", 96, &[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0], true),
    ] {
        let nlri = [&[bits], octets, NLRI6].concat();
        let got = decoded(&with_mp(&mp_reach([0, 2, 1], &GLOBAL, 0, &nlri)), EXTERNAL).unwrap();
        assert_eq!(got.reach[0].prefixes.len(), 1 + usize::from(kept), "{why}");
    }
}

#[test]
fn end_of_rib() {
    let marker = |value: &[u8]| update(&[], &[Attr(0x80, 15, value)], &[]);
    let cases = [
        ("IPv4", update(&[], &[], &[]), Some(Family::Ipv4)),
        ("IPv6", marker(&[0, 2, 1]), Some(Family::Ipv6)),
        ("IPv6, long header", update(&[], &[Attr(0x90, 15, &[0, 2, 1])], &[]), Some(Family::Ipv6)),
        ("IPv4 in the other form", marker(&[0, 1, 1]), Some(Family::Ipv4)),
        ("a family we don't know", marker(&[0, 25, 70]), None),
        ("with a prefix", marker(&[0, 2, 1, 0]), None),
        ("with another attribute", update(&[], &[Attr(0x80, 15, &[0, 2, 1]), ORIGIN], &[]), None),
        ("with a withdrawal", update(&[8, 10], &[Attr(0x80, 15, &[0, 2, 1])], &[]), None),
        ("a withdrawal", update(&[8, 10], &[], &[]), None),
        ("routes", update(&[], &[ORIGIN, AS_PATH, NEXT_HOP], NLRI), None),
    ];
    for (why, bytes, wanted) in cases {
        assert_eq!(decoded(&bytes, EXTERNAL).unwrap().end_of_rib, wanted, "{why}");
    }
    for (family, wanted) in [(Family::Ipv4, update(&[], &[], &[])), (Family::Ipv6, marker(&[0, 2, 1]))] {
        let mut bytes = Vec::new();
        encode_end_of_rib(family, &mut bytes);
        assert_eq!(bytes, wanted);
    }
}

#[test]
fn paths_from_a_two_octet_speaker() {
    // (why, AS_PATH, AS4_PATH, wanted), RFC 6793 §4.2.3; 23456 is 0x5ba0
    let cases: [(&str, &[u8], &[u8], &str); 8] = [
        ("no AS4_PATH", &[2, 2, 0, 1, 0x5b, 0xa0], &[], "1 23456"),
        ("all of it", &[2, 2, 0, 1, 0x5b, 0xa0], &[2, 2, 0, 0, 0, 1, 0, 1, 0, 0], "1 65536"),
        ("two who don't know in front", &[2, 3, 0, 7, 0, 8, 0x5b, 0xa0], &[2, 1, 0, 1, 0, 0], "7 8 65536"),
        ("longer than AS_PATH: not to be trusted", &[2, 1, 0, 7], &[2, 2, 0, 0, 0, 1, 0, 1, 0, 0], "7"),
        ("a set counts once", &[2, 1, 0, 7, 1, 2, 0, 8, 0, 9], &[1, 1, 0, 1, 0, 0], "7 {65536}"),
        ("a set in front", &[1, 2, 0, 8, 0, 9, 2, 1, 0x5b, 0xa0], &[2, 1, 0, 1, 0, 0], "{8,9} 65536"),
        ("cut between sequences", &[2, 1, 0, 7, 2, 1, 0x5b, 0xa0], &[2, 1, 0, 1, 0, 0], "7 65536"),
        ("confederation segments of AS4_PATH go", &[2, 1, 0x5b, 0xa0], &[3, 1, 0, 0, 0, 5, 2, 1, 0, 1, 0, 0], "65536"),
    ];
    for (why, path, path4, wanted) in cases {
        let mut attributes = vec![ORIGIN, Attr(0x40, 2, path), NEXT_HOP];
        if !path4.is_empty() {
            attributes.push(Attr(0xc0, 17, path4));
        }
        let got = decoded(&update(&[], &attributes, NLRI), OLD).unwrap();
        assert_eq!(got.reach[0].attrs.as_path.to_string(), wanted, "{why}");
    }

    let path = Attr(0x40, 2, &[2, 1, 0x5b, 0xa0]);
    let path4 = Attr(0xc0, 17, &[2, 1, 0, 1, 0, 0]);
    let aggregator4 = Attr(0xc0, 18, &[0, 1, 0, 0, 192, 0, 2, 9]);
    let got = |aggregator: &[u8]| {
        let attributes = [ORIGIN, path, NEXT_HOP, Attr(0xc0, 7, aggregator), path4, aggregator4];
        let attrs = decoded(&update(&[], &attributes, NLRI), OLD).unwrap().reach[0].attrs.clone();
        let (asn, addr) = attrs.aggregator.unwrap();
        format!("{} by {asn} {addr}", attrs.as_path)
    };
    assert_eq!(got(&[0x5b, 0xa0, 192, 0, 2, 9]), "65536 by 65536 192.0.2.9");
    assert_eq!(got(&[0, 5, 192, 0, 2, 5]), "23456 by 5 192.0.2.5", "aggregated later by one who does not know");
}

#[test]
fn bytes_of_an_announcement() {
    let update6 = decoded(&with_mp(&mp_reach([0, 2, 1], &GLOBAL, 0, NLRI6)), INTERNAL).unwrap();
    let mut attrs = (*update6.reach[0].attrs).clone();
    attrs.origin = Origin::Incomplete;
    attrs.local_pref = Some(100);
    attrs.communities = [Community(0x0001_0002)].into();
    attrs.ext_communities = [ExtCommunity::ENCAP_IPIP].into();
    attrs.large_communities = [LargeCommunity([1, 2, 3])].into();
    let mut bytes = Vec::new();
    assert_eq!(encode_reach(&attrs, &[p("2001:db8:7::/48")], &INTERNAL, &mut bytes), Ok(1));
    let value = mp_reach([0, 2, 1], &GLOBAL, 0, NLRI6);
    let wanted = update(
        &[],
        &[
            Attr(0x90, 14, &value), // first (RFC 7606 §5.1), then ascending
            Attr(0x40, 1, &[2]),
            AS_PATH,
            Attr(0x40, 5, &[0, 0, 0, 100]),
            Attr(0xc0, 8, &[0, 1, 0, 2]),
            Attr(0xc0, 16, &[3, 12, 0, 0, 0, 0, 0, 7]),
            Attr(0xc0, 32, &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]),
        ],
        &[],
    );
    assert_eq!(bytes, wanted);

    attrs.next_hop = "192.0.2.1".parse().unwrap();
    attrs.aggregator = Some((Asn(65536), "192.0.2.9".parse().unwrap()));
    attrs.as_path = attrs.as_path.prepended(Asn(65536), 1);
    attrs.ext_communities = [].into();
    attrs.large_communities = [].into();
    bytes.clear();
    assert_eq!(encode_reach(&attrs, &[p("10.244.7.0/24"), p("10.0.0.0/8")], &OLD, &mut bytes), Ok(1));
    let wanted = update(
        &[],
        &[
            Attr(0x40, 1, &[2]),
            Attr(0x40, 2, &[2, 2, 0x5b, 0xa0, 0xfd, 0xe9]),
            NEXT_HOP,
            Attr(0x40, 5, &[0, 0, 0, 100]),
            Attr(0xc0, 7, &[0x5b, 0xa0, 192, 0, 2, 9]),
            Attr(0xc0, 8, &[0, 1, 0, 2]),
            Attr(0xc0, 17, &[2, 2, 0, 1, 0, 0, 0, 0, 0xfd, 0xe9]),
            Attr(0xc0, 18, &[0, 1, 0, 0, 192, 0, 2, 9]),
        ],
        &[24, 10, 244, 7, 8, 10],
    );
    assert_eq!(bytes, wanted);

    bytes.clear();
    assert_eq!(encode_withdraw(&[p("10.0.0.0/8"), p("2001:db8::/32")], &INTERNAL, &mut bytes), 2);
    let v6 = update(&[], &[Attr(0x90, 15, &[0, 2, 1, 32, 0x20, 1, 0xd, 0xb8])], &[]);
    assert_eq!(bytes, [update(&[8, 10], &[], &[]), v6].concat());
}

#[test]
fn what_cannot_be_sent() {
    let mut attrs =
        (*decoded(&update(&[], &[ORIGIN, AS_PATH, NEXT_HOP], NLRI), INTERNAL).unwrap().reach[0].attrs).clone();
    let mut bytes = vec![7];
    let wrong = encode_reach(&attrs, &[p("2001:db8::/32")], &INTERNAL, &mut bytes);
    assert!(matches!(wrong, Err(EncodeError::NextHop { family: Family::Ipv6, .. })));
    for (why, communities, room) in [
        // 4096 - 23 - ORIGIN 4 - AS_PATH 9 - NEXT_HOP 7 - 4 - 4 * 1012 = 1 octet left
        ("no room for a prefix", 1012, 4096),
        ("attributes alone exceed the message", 2000, 4096),
        ("and two octets of length", 20000, 65535),
    ] {
        attrs.communities = (0..communities).map(Community).collect();
        let codec = Codec { extended_message: room > 4096, ..INTERNAL };
        let prefixes = [p("0.0.0.0/0"), p("10.0.0.0/8")];
        assert_eq!(encode_reach(&attrs, &prefixes, &codec, &mut bytes), Err(EncodeError::TooLarge(room)), "{why}");
        assert_eq!(bytes, [7], "{why}: nothing half done");
    }
    attrs.communities = (0..1011).map(Community).collect();
    assert_eq!(encode_reach(&attrs, &[p("10.0.0.0/8"), p("11.0.0.0/8")], &INTERNAL, &mut bytes), Ok(1));
    assert_eq!(encode_reach(&attrs, &[], &INTERNAL, &mut bytes), Ok(0));
}
