//! What we encode, as zettabgp reads it, where zettabgp is right: not the link-local next hop, not
//! AS4_PATH, not the flags.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use zettabgp::prelude::{
    BgpASitem, BgpAddr, BgpAddrs, BgpAttrItem, BgpMessage, BgpSessionParams, BgpTransportMode, BgpUpdateMessage,
};

use super::roundtrip::{any_attrs, any_prefixes};
use super::*;
use crate::bgp::attrs::{Attrs, SegmentKind};
use crate::bgp::wire::{encode_reach, encode_withdraw, frame};
use crate::net::Family;

fn zettabgp(bytes: &[u8], four_octet_as: bool) -> BgpUpdateMessage {
    let mut session = BgpSessionParams::new(1, 9, BgpTransportMode::IPv4, Ipv4Addr::LOCALHOST, vec![]);
    session.fuzzy_pathid = false;
    session.has_as32bit = four_octet_as;
    let mut update = BgpUpdateMessage::new();
    update.decode_from(&session, &bytes[19..]).unwrap();
    update
}

fn prefixes_of(addrs: &BgpAddrs) -> Vec<Prefix> {
    match addrs {
        BgpAddrs::IPV4U(list) => list.iter().map(|item| Prefix::new(item.addr.into(), item.prefixlen)).collect(),
        BgpAddrs::IPV6U(list) => list.iter().map(|item| Prefix::new(item.addr.into(), item.prefixlen)).collect(),
        other => panic!("{other:?}"),
    }
}

/// Compares one attribute with what was sent; gives whether it is one that we compare.
fn agrees(item: &BgpAttrItem, sent: &Attrs) -> bool {
    match item {
        BgpAttrItem::Origin(origin) => assert_eq!(origin.value as u8, sent.origin as u8),
        BgpAttrItem::ASPath(path) => {
            let sequences = sent.as_path.segments().filter(|(kind, _)| *kind == SegmentKind::Sequence);
            let ours: Vec<u32> = sequences.flat_map(|(_, numbers)| numbers).map(|asn| asn.0).collect();
            let theirs = path.value.iter().filter_map(|item| match item {
                BgpASitem::Seq(sequence) => Some(sequence.value.iter().map(|asn| asn.value)),
                BgpASitem::Set(_) => None,
            });
            assert_eq!(theirs.flatten().collect::<Vec<_>>(), ours);
        }
        BgpAttrItem::NextHop(hop) => assert_eq!(hop.value, sent.next_hop),
        BgpAttrItem::MED(med) => assert_eq!(Some(med.value), sent.med),
        BgpAttrItem::LocalPref(preference) => assert_eq!(Some(preference.value), sent.local_pref),
        BgpAttrItem::CommunityList(list) => {
            assert!(list.value.iter().map(|c| c.value).eq(sent.communities.iter().map(|c| c.0)));
        }
        BgpAttrItem::OriginatorID(id) => assert_eq!(Some(id.value), sent.originator_id.map(IpAddr::V4)),
        BgpAttrItem::ClusterList(list) => {
            assert!(list.value.iter().copied().eq(sent.cluster_list.iter().map(|id| IpAddr::V4(*id))));
        }
        BgpAttrItem::ExtCommunityList(list) => assert_eq!(list.value.len(), sent.ext_communities.len()),
        BgpAttrItem::LargeCommunityList(list) => {
            let theirs = list.value.iter().map(|c| [c.ga, c.ldp1, c.ldp2]);
            assert!(theirs.eq(sent.large_communities.iter().map(|c| c.0)));
        }
        BgpAttrItem::MPUpdates(reach) => match &reach.nexthop {
            BgpAddr::V6(hop) => assert_eq!(IpAddr::V6(*hop), sent.next_hop),
            other => panic!("{other:?}"),
        },
        _ => return false,
    }
    true
}

/// How many attributes `agrees` must have seen.
fn comparable(sent: &Attrs) -> usize {
    // ORIGIN, AS_PATH and a next hop are always there.
    3 + usize::from(sent.med.is_some())
        + usize::from(sent.local_pref.is_some())
        + usize::from(sent.originator_id.is_some())
        + usize::from(!sent.cluster_list.is_empty())
        + usize::from(!sent.communities.is_empty())
        + usize::from(!sent.ext_communities.is_empty())
        + usize::from(!sent.large_communities.is_empty())
}

proptest! {
    #[test]
    fn another_decoder_agrees(
        (mut attrs, prefixes) in prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
            .prop_flat_map(|family| (any_attrs(family), any_prefixes(family, 300))),
    ) {
        // It panics on some of the attributes that we pass on unread.
        attrs.unknown = [].into();
        let mut bytes = Vec::new();
        // The longest paths need not fit.
        prop_assume!(encode_reach(&attrs, &prefixes, &INTERNAL, &mut bytes).is_ok());
        let mut rest = &bytes[..];
        let mut got = Vec::new();
        while let Ok(Some(end)) = frame(rest, &INTERNAL) {
            let update = zettabgp(&rest[..end], true);
            let compared = update.attrs.iter().filter(|item| agrees(item, &attrs)).count();
            prop_assert_eq!(compared, comparable(&attrs));
            got.extend(match update.get_mpupdates() {
                Some(reach) => prefixes_of(&reach.addrs),
                None => prefixes_of(&update.updates),
            });
            rest = &rest[end..];
        }
        prop_assert_eq!(&got, &prefixes);

        bytes.clear();
        encode_withdraw(&prefixes[..1], &INTERNAL, &mut bytes);
        let update = zettabgp(&bytes, true);
        let got = match update.get_mpwithdraws() {
            Some(unreach) => prefixes_of(&unreach.addrs),
            None => prefixes_of(&update.withdraws),
        };
        prop_assert_eq!(&got, &prefixes[..1]);
    }
}
