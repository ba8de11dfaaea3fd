//! Why a message ends the session, and the NOTIFICATION that says so (RFC 4271 §6).

use super::notification::{HEADER_ERROR, OPEN_ERROR, REFRESH_ERROR, UPDATE_ERROR};
use super::words::AttributeName;
use crate::bgp::message::Notification;

/// Why a message from a peer cannot be accepted.
///
/// Every variant answers one question for the caller: which NOTIFICATION ends the session?
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// 1/1: the two ends have lost each other, or it is not BGP at all
    #[error("the marker is not all ones")]
    Marker,
    /// 1/2, with the length
    #[error("message length {0} is wrong for this type of message")]
    Length(u16),
    /// 1/3, with the type
    #[error("message type {0} is unknown")]
    Kind(u8),
    /// 2/0
    #[error("the OPEN is malformed: {0}")]
    Open(&'static str),
    /// 2/1, with the version that we want
    #[error("the peer speaks BGP version {0}, we speak 4")]
    Version(u8),
    /// 2/2: zero (RFC 7607 §2), or the capability contradicts the fixed field
    #[error("the OPEN gives AS number {field}, its four-octet capability {capability}")]
    PeerAs {
        /// The two-octet field
        field: u16,
        /// The capability, or the field again where there is none
        capability: u32,
    },
    /// 2/3 (RFC 6286 §2.2)
    #[error("the BGP identifier is 0.0.0.0")]
    RouterId,
    /// 2/4
    #[error("optional parameter {0} of the OPEN is unknown")]
    Parameter(u8),
    /// 2/6
    #[error("a hold time of {0} s is not allowed")]
    HoldTime(u16),
    /// 3/1: the attributes cannot be told apart, or the routes concerned cannot
    #[error("malformed attribute list: {0}")]
    AttributeList(&'static str),
    /// 3/2, with the attribute
    #[error("attribute {code} is well known to its sender and unknown to us")]
    WellKnown {
        /// Type code
        code: u8,
        /// The whole attribute
        attribute: Box<[u8]>,
    },
    /// 3/9, with the attribute: MP_REACH_NLRI or MP_UNREACH_NLRI is unreadable (RFC 4760 §7)
    #[error("{}: {what}", AttributeName(*code))]
    Multiprotocol {
        /// Type code
        code: u8,
        /// What is wrong
        what: &'static str,
        /// The whole attribute
        attribute: Box<[u8]>,
    },
    /// 3/10
    #[error("{0} in the NLRI or withdrawn routes")]
    Network(#[from] NlriError),
    /// 7/1, with the message (RFC 7313 §5)
    #[error("a ROUTE-REFRESH of {} octets", .0.len())]
    RefreshLength(Box<[u8]>),
}

/// Why bytes are no list of prefixes (RFC 7606 §5.3): whatever follows cannot be located.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NlriError {
    /// Longer than the addresses of its family
    #[error("a prefix of {0} bits")]
    Bits(u8),
    /// The last prefix goes beyond the end
    #[error("a prefix that overruns the list")]
    Overrun,
}

impl DecodeError {
    /// What to send before closing the connection.
    pub fn notification(&self) -> Notification {
        let new = Notification::new;
        match self {
            Self::Marker => new(HEADER_ERROR, 1, &[]),
            Self::Length(length) => new(HEADER_ERROR, 2, &length.to_be_bytes()),
            Self::Kind(kind) => new(HEADER_ERROR, 3, &[*kind]),
            Self::Open(_) => new(OPEN_ERROR, 0, &[]),
            // The largest version that we speak, in two octets.
            Self::Version(_) => new(OPEN_ERROR, 1, &[0, 4]),
            Self::PeerAs { .. } => Notification::bad_peer_as(),
            Self::RouterId => Notification::bad_router_id(),
            Self::Parameter(_) => new(OPEN_ERROR, 4, &[]),
            Self::HoldTime(_) => Notification::unacceptable_hold_time(),
            Self::AttributeList(_) => new(UPDATE_ERROR, 1, &[]),
            Self::WellKnown { attribute, .. } => new(UPDATE_ERROR, 2, attribute),
            Self::Multiprotocol { attribute, .. } => new(UPDATE_ERROR, 9, attribute),
            Self::Network(_) => new(UPDATE_ERROR, 10, &[]),
            Self::RefreshLength(message) => new(REFRESH_ERROR, 1, message),
        }
    }
}
