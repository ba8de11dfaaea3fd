//! BGP messages as values (RFC 4271 §4). `wire` turns them into bytes and back.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::Serialize;

use crate::bgp::attrs::Attrs;
use crate::net::{Asn, Family, PerFamily, Prefix};

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// First message of a connection
    Open(Open),
    /// Routes
    Update(Update),
    /// Last message of a connection
    Notification(Notification),
    /// Nothing new, still here
    Keepalive,
    /// Please send again (RFC 2918), or its demarcations (RFC 7313)
    RouteRefresh(RouteRefresh),
    /// Well formed, but nothing that concerns us (say, a route refresh of a family we don't have);
    /// the text says why. Counts as a sign of life like any other message.
    Ignored(&'static str),
}

/// OPEN (RFC 4271 §4.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Open {
    /// The sender's AS: from the four-octet capability if present, else the two-octet field
    pub asn: Asn,
    /// The two-octet field as it stood there
    pub my_as: u16,
    /// Proposed hold time in seconds, 0 = no keepalives
    pub hold_time: u16,
    /// BGP identifier
    pub router_id: Ipv4Addr,
    /// Capabilities in the order received
    pub capabilities: Vec<Capability>,
}

/// A capability (RFC 5492).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Capability {
    /// RFC 4760 for a family we know
    Multiprotocol(Family),
    /// RFC 2918
    RouteRefresh,
    /// RFC 8654: messages up to 65535 octets
    ExtendedMessage,
    /// RFC 4724
    GracefulRestart(GracefulRestart),
    /// RFC 6793
    FourOctetAs(Asn),
    /// RFC 7313
    EnhancedRouteRefresh,
    /// Anything else (also Multiprotocol of a family we don't know), kept and shown
    Unknown {
        /// Capability code
        code: u8,
        /// Its value
        body: Box<[u8]>,
    },
}

/// Graceful restart capability (RFC 4724 §3).
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct GracefulRestart {
    /// R: the sender has just restarted
    pub restarted: bool,
    /// N: keep routes also across NOTIFICATION and hold expiry (RFC 8538)
    pub notification: bool,
    /// Seconds until it expects to be back, at most 4095
    pub restart_time: u16,
    /// Families, each with F: forwarding state was preserved
    pub families: Vec<(Family, bool)>,
}

/// UPDATE (RFC 4271 §4.3, RFC 4760), both families and both places of NLRI merged.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Update {
    /// Withdrawn by the peer, or by us because an attribute was malformed (RFC 7606
    /// treat-as-withdraw); to be applied before `reach`
    pub withdrawn: Vec<Prefix>,
    /// Announced; two entries only where one message carries both plain NLRI and MP_REACH_NLRI
    pub reach: Vec<Reach>,
    /// The message is an End-of-RIB marker (RFC 4724 §2)
    pub end_of_rib: Option<Family>,
    /// What was wrong with attributes, and what was done about it
    pub faults: Vec<AttrFault>,
}

/// Prefixes that share a set of attributes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reach {
    /// The attributes, next hop included
    pub attrs: Arc<Attrs>,
    /// The prefixes
    pub prefixes: Vec<Prefix>,
}

/// A malformed attribute (RFC 7606 §2) that did not end the session.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AttrFault {
    /// Attribute type code; 0 for the withdrawn routes and NLRI fields
    pub code: u8,
    /// What was wrong
    pub what: &'static str,
    /// What was done
    pub outcome: FaultOutcome,
}

/// How a malformed attribute is handled (RFC 7606 §2), the mildest first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultOutcome {
    /// The attribute was dropped, the routes kept
    AttributeDiscard,
    /// The routes of the message were withdrawn
    TreatAsWithdraw,
}

impl FaultOutcome {
    /// Both.
    pub const ALL: [Self; 2] = [Self::AttributeDiscard, Self::TreatAsWithdraw];

    /// A word for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::AttributeDiscard => "attribute-discard",
            Self::TreatAsWithdraw => "treat-as-withdraw",
        }
    }
}

/// ROUTE-REFRESH (RFC 2918 §3, RFC 7313 §3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RouteRefresh {
    /// For which family
    pub family: Family,
    /// Request, or a demarcation
    pub kind: RefreshKind,
}

/// Message subtype of ROUTE-REFRESH (RFC 7313 §3.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefreshKind {
    /// Send all routes again
    Request,
    /// Beginning of route refresh
    Begin,
    /// End of route refresh
    End,
}

/// NOTIFICATION (RFC 4271 §4.5): why a connection ends.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Notification {
    /// Error code
    pub code: u8,
    /// Error subcode
    pub subcode: u8,
    /// Data; for Cease/2 and Cease/4 a shutdown communication (RFC 9003)
    pub data: Box<[u8]>,
}

/// What both ends agreed on that changes the bytes.
///
/// A decoder starts with [`Codec::INITIAL`] and gets the negotiated value after the OPENs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Codec {
    /// AS numbers take four octets (RFC 6793)
    pub four_octet_as: bool,
    /// Messages may be 65535 octets long (RFC 8654); OPEN and KEEPALIVE never
    pub extended_message: bool,
    /// The peer has another AS: LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST from it are discarded
    /// (RFC 7606 §7.5, §7.9, §7.10)
    pub external: bool,
    /// Families whose NLRI are accepted
    pub families: PerFamily<bool>,
}

impl Codec {
    /// Before the OPENs are exchanged.
    pub const INITIAL: Self =
        Self { four_octet_as: false, extended_message: false, external: true, families: PerFamily::new(true, false) };

    /// Octets of the longest UPDATE, NOTIFICATION or ROUTE-REFRESH (RFC 4271 §4.1, RFC 8654 §3).
    pub const fn max_message(&self) -> usize {
        if self.extended_message { 65535 } else { 4096 }
    }
}
