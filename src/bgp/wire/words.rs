//! Attributes, their faults and capabilities in words, for logs and for people.

use std::fmt;

use super::open;
use crate::bgp::message::{AttrFault, Capability, FaultOutcome, GracefulRestart};

/// Name of a path attribute as its RFC writes it, if it has one.
pub const fn attribute_name(code: u8) -> Option<&'static str> {
    Some(match code {
        1 => "ORIGIN",
        2 => "AS_PATH",
        3 => "NEXT_HOP",
        4 => "MULTI_EXIT_DISC",
        5 => "LOCAL_PREF",
        6 => "ATOMIC_AGGREGATE",
        7 => "AGGREGATOR",
        8 => "COMMUNITIES",
        9 => "ORIGINATOR_ID",
        10 => "CLUSTER_LIST",
        14 => "MP_REACH_NLRI",
        15 => "MP_UNREACH_NLRI",
        16 => "EXTENDED COMMUNITIES",
        17 => "AS4_PATH",
        18 => "AS4_AGGREGATOR",
        22 => "PMSI_TUNNEL",
        23 => "TUNNEL_ENCAPSULATION",
        25 => "IPV6_EXTENDED_COMMUNITIES",
        26 => "AIGP",
        29 => "BGP-LS",
        32 => "LARGE_COMMUNITY",
        33 => "BGPsec_PATH",
        35 => "ONLY_TO_CUSTOMER",
        40 => "PREFIX_SID",
        128 => "ATTR_SET",
        _ => return None,
    })
}

/// A type code shown by its name, or as a number.
pub(super) struct AttributeName(pub u8);

impl fmt::Display for AttributeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (attribute_name(self.0), self.0) {
            (Some(name), _) => f.write_str(name),
            (None, 0) => f.write_str("NLRI"),
            (None, code) => write!(f, "attribute {code}"),
        }
    }
}

impl fmt::Display for FaultOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AttributeDiscard => "discarded",
            Self::TreatAsWithdraw => "routes withdrawn",
        })
    }
}

impl fmt::Display for AttrFault {
    /// `COMMUNITIES: length is not a multiple of 4, routes withdrawn`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, {}", AttributeName(self.code), self.what, self.outcome)
    }
}

impl fmt::Display for Capability {
    /// In words, with what its value says where we can read it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Multiprotocol(family) => write!(f, "{family} unicast"),
            Self::RouteRefresh => f.write_str("route refresh"),
            Self::ExtendedMessage => f.write_str("extended message"),
            Self::GracefulRestart(restart) => fmt_restart(restart, f),
            Self::FourOctetAs(asn) => write!(f, "four-octet AS {asn}"),
            Self::EnhancedRouteRefresh => f.write_str("enhanced route refresh"),
            Self::Unknown { code, body } => fmt_unknown(*code, body, f),
        }
    }
}

fn fmt_restart(restart: &GracefulRestart, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "graceful restart {} s", restart.restart_time)?;
    for (family, preserved) in &restart.families {
        write!(f, " {family}{}", if *preserved { " (preserved)" } else { "" })?;
    }
    f.write_str(if restart.restarted { ", restarted" } else { "" })?;
    f.write_str(if restart.notification { ", also after notification" } else { "" })
}

fn fmt_unknown(code: u8, body: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(name) = capability_name(code) else {
        return write!(f, "capability {code} ({} octets)", body.len());
    };
    f.write_str(name)?;
    match (code, body) {
        (1, [a0, a1, _, safi]) => fmt_family([*a0, *a1, *safi], f),
        // Each: AFI, SAFI, AFI of the next hop (RFC 8950 §4).
        (5, families) => families.as_chunks::<6>().0.iter().try_for_each(|[a0, a1, _, safi, _, hop]| {
            fmt_family([*a0, *a1, *safi], f)?;
            write!(f, " over {}", if *hop == 2 { "ipv6" } else { "another family" })
        }),
        (9, [role]) => match role {
            0 => f.write_str(" provider"),
            1 => f.write_str(" route server"),
            2 => f.write_str(" route server client"),
            3 => f.write_str(" customer"),
            4 => f.write_str(" peer"),
            other => write!(f, " {other}"),
        },
        // Each: AFI, SAFI, 1 receive, 2 send, 3 both (RFC 7911 §4).
        (69, families) => families.as_chunks::<4>().0.iter().try_for_each(|[a0, a1, safi, way]| {
            fmt_family([*a0, *a1, *safi], f)?;
            f.write_str(match way {
                1 => " receive",
                2 => " send",
                _ => " both",
            })
        }),
        // Length and text of host and domain (draft-walton-bgp-hostname-capability).
        (73, [length, rest @ ..]) => {
            let (host, rest) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
            let domain = rest.split_first().map_or(&[][..], |(_, domain)| domain);
            fmt_text(host, f)?;
            if domain.is_empty() { Ok(()) } else { fmt_text(domain, f) }
        }
        // A text with its length (draft-ietf-idr-software-version).
        (75, [_, text @ ..]) => fmt_text(text, f),
        _ => Ok(()),
    }
}

/// What a peer wrote, quoted and escaped.
fn fmt_text(text: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, " {:?}", String::from_utf8_lossy(text))
}

fn fmt_family(afi_safi: [u8; 3], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match (open::family(afi_safi), afi_safi) {
        (Some(family), _) => write!(f, " {family} unicast"),
        (None, [0, 1, 2]) => f.write_str(" ipv4 multicast"),
        (None, [0, 2, 2]) => f.write_str(" ipv6 multicast"),
        (None, [0, 1, 4]) => f.write_str(" ipv4 labeled"),
        (None, [0, 2, 4]) => f.write_str(" ipv6 labeled"),
        (None, [0, 1, 128]) => f.write_str(" ipv4 vpn"),
        (None, [0, 2, 128]) => f.write_str(" ipv6 vpn"),
        (None, [0, 1, 133]) => f.write_str(" ipv4 flowspec"),
        (None, [0, 2, 133]) => f.write_str(" ipv6 flowspec"),
        (None, [0, 25, 70]) => f.write_str(" l2vpn evpn"),
        (None, [a0, a1, safi]) => write!(f, " afi {} safi {safi}", u16::from_be_bytes([a0, a1])),
    }
}

/// Names after IANA's registry of capability codes.
const fn capability_name(code: u8) -> Option<&'static str> {
    Some(match code {
        1 => "multiprotocol",
        2 => "route refresh (malformed)",
        3 => "outbound route filtering",
        5 => "extended next hop",
        6 => "extended message (malformed)",
        7 => "BGPsec",
        8 => "multiple labels",
        9 => "role",
        64 => "graceful restart (malformed)",
        67 => "dynamic capability",
        68 => "multisession",
        69 => "ADD-PATH",
        70 => "enhanced route refresh (malformed)",
        71 => "long-lived graceful restart",
        72 => "routing policy distribution",
        73 => "FQDN",
        74 => "BFD strict mode",
        75 => "software version",
        76 => "paths limit",
        77 => "link-local next hop",
        128 => "route refresh (pre-standard)",
        130 => "outbound route filtering (pre-standard)",
        131 => "multisession (pre-standard)",
        _ => return None,
    })
}
