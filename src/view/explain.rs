//! `wayleave explain`: why traffic, or a session, is as it is.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Peer;
use crate::net::{Asn, Prefix};

/// One thing that is known, under the heading of a part of the way or of the session.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// The part: few and stable words, such as `installed`, `kernel`, `return`, `mtu`
    pub topic: String,
    /// What is known of it, in words
    pub text: String,
    /// Whether something is wrong with it
    pub problem: bool,
}

/// Who holds a subnet, by the store.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// Name of the node, or who else
    pub node: String,
    /// The subnet
    pub subnet: Prefix,
    /// As in `wayleave lease all`
    pub state: String,
}

/// What becomes of one packet, by the kernel (`RTM_GETROUTE`).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct KernelAnswer {
    /// Source address; none: the kernel's choice
    pub from: Option<IpAddr>,
    /// The device it comes in by; none: this host sends it
    pub arriving: Option<String>,
    /// Where it goes, in words
    pub goes: String,
    /// The neighbour it goes to; none: the destination itself, or nowhere
    pub gateway: Option<IpAddr>,
    /// The device it leaves by
    pub device: Option<String>,
    /// Source that a socket of this host would use
    pub source: Option<IpAddr>,
    /// The route that matched
    pub route: Option<Prefix>,
    /// Its table
    pub table: Option<u32>,
    /// Who installed it (`rtm_protocol`)
    pub protocol: Option<u8>,
    /// Its metric
    pub metric: Option<u32>,
}

/// `wayleave explain PEER`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerExplanation {
    /// Name
    pub name: String,
    /// The cause in one word; `established` if all is well
    pub cause: String,
    /// All of it in one sentence
    pub verdict: String,
    /// Whether all is well
    pub ok: bool,
    /// What is known
    pub facts: Vec<Fact>,
    /// What to do: sentences and commands, here and on the other end
    pub advice: Vec<String>,
    /// The peer as `wayleave peers` shows it; none: there is no session with it and none is wanted
    pub peer: Option<Peer>,
}

/// A NOTIFICATION (RFC 4271 §4.5), sent or received.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Error code
    pub code: u8,
    /// Error subcode
    pub subcode: u8,
    /// Both in words, with what the other side wrote (RFC 9003)
    pub text: String,
    /// When
    pub at: String,
}

/// A dial that came to nothing.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct DialFailure {
    /// `refused`, `timed-out`, `unreachable`, `no-source`, `option` or `other`
    pub kind: String,
    /// In words
    pub text: String,
    /// When
    pub at: String,
}

/// The last OPEN of a peer, whether it was accepted or not.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PeerOpen {
    /// Its AS
    pub asn: Asn,
    /// Its BGP identifier
    pub router_id: String,
    /// Hold time that it offers, in seconds
    pub hold_time: u16,
    /// Every capability, in words
    pub capabilities: Vec<String>,
    /// When
    pub at: String,
}
