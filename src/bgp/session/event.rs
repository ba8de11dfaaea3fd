//! The words of a session: what happens to it, what it asks for, what it tells.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::{Index, IndexMut};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::bgp::message::{
    Capability, Codec, GracefulRestart, Message, Notification, RefreshKind, RouteRefresh, Update,
};
use crate::net::{Asn, PerFamily};

/// One of the connections that a session may have at a time. The driver keeps a slot for each.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// We dialled
    Outgoing,
    /// The peer dialled
    Incoming,
    /// The peer dialled again while the connection in `Incoming` is Established: a peer that
    /// restarted, whose old connection we don't know to be dead yet
    Spare,
}

impl Side {
    /// All slots.
    pub const ALL: [Self; 3] = [Self::Outgoing, Self::Incoming, Self::Spare];
}

/// One value per [`Side`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PerSide<T>([T; 3]);

impl<T> PerSide<T> {
    /// All values with their side.
    pub fn iter(&self) -> impl Iterator<Item = (Side, &T)> {
        Side::ALL.into_iter().zip(&self.0)
    }

    /// All values at once, in the order of [`Side::ALL`].
    pub const fn each_mut(&mut self) -> [&mut T; 3] {
        self.0.each_mut()
    }
}

impl<T> Index<Side> for PerSide<T> {
    type Output = T;
    fn index(&self, side: Side) -> &T {
        &self.0[side as usize]
    }
}

impl<T> IndexMut<Side> for PerSide<T> {
    fn index_mut(&mut self, side: Side) -> &mut T {
        &mut self.0[side as usize]
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Administratively up
    Start,
    /// Administratively down: tell the peer so, stay idle until `Start`
    Stop(Notification),
    /// Close without NOTIFICATION and stay idle until `Start`: the daemon exits, forwarding goes
    /// on, and the peer shall keep our routes (RFC 4724 §4)
    Abandon,
    /// A connection is open: the dial succeeded, or the listener accepted one for the slot that
    /// [`Session::slot_for_incoming`](super::Session::slot_for_incoming) gave
    Connected(Side),
    /// The dial failed
    ConnectFailed,
    /// A whole message came
    Received(Side, Message),
    /// Bytes came that are no message; the peer is to be told this
    Malformed(Side, Notification),
    /// The peer closed TCP, or TCP failed; the driver has emptied the slot
    Disconnected(Side),
    /// A local reason that won't pass soon, such as too many prefixes: tell the peer, then refuse
    /// it for [`Settings::long_back_off`](super::Settings::long_back_off)
    Close(Notification),
    /// The session can't go on, for a reason outside of BGP that may pass at any time, such as a
    /// dead path: tell the peer, and begin anew. Connections that are not established stay
    Fail(Notification),
    /// [`Session::next_deadline`](super::Session::next_deadline) has passed
    Timeout,
}

/// What the driver shall do, in this order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Open an outgoing connection and report `Connected(Outgoing)` or `ConnectFailed`
    Dial,
    /// Give up the dial; nothing more is to be reported of it
    CancelDial,
    /// Send a message
    Send(Side, Message),
    /// Flush what was sent, then close; the slot is empty from here on
    Close(Side),
    /// From the next message on, in both directions
    SetCodec(Side, Codec),
    /// Established
    Up(Side, Arc<Negotiated>),
    /// Routes came; only between `Up` and `Down`
    Deliver(Update),
    /// The peer wants routes again, or brackets its own (only if that was negotiated); only
    /// between `Up` and `Down`
    Refresh(RouteRefresh),
    /// Established no more
    Down(Down),
}

/// The end of an Established session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Down {
    /// Why
    pub reason: Reason,
    /// The routes of the families in [`Negotiated::graceful_restart`] may be kept as stale
    /// (RFC 4724 §4.2, RFC 8538 §4)
    pub graceful: bool,
}

/// Why a connection ended.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// We sent this
    Sent(Notification),
    /// The peer sent this
    Received(Notification),
    /// TCP ended without a NOTIFICATION
    Disconnected,
    /// No connection could be opened
    ConnectFailed,
    /// The peer restarted and came back on a new connection (RFC 4724 §4.2)
    Replaced,
    /// We exit and keep forwarding
    Abandoned,
}

impl Reason {
    /// What [`Self::label`] says of sessions that were lost, for series that begin at zero.
    pub const LABELS: [&str; 7] = [
        "hold_timer_expired",
        "bfd_down",
        "send_hold_timer_expired",
        "notification_sent",
        "notification_received",
        "connection_lost",
        "peer_restarted",
    ];

    /// A word for metrics: few and stable.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Sent(Notification { code: 4, .. }) => "hold_timer_expired",
            Self::Sent(Notification { code: 6, subcode: 10, .. }) => "bfd_down",
            Self::Sent(Notification { code: 8, .. }) => "send_hold_timer_expired",
            Self::Sent(_) => "notification_sent",
            Self::Received(_) => "notification_received",
            Self::Disconnected | Self::ConnectFailed => "connection_lost",
            Self::Replaced => "peer_restarted",
            Self::Abandoned => "shutdown",
        }
    }

    /// Who ended it.
    pub const fn direction(&self) -> Direction {
        match self {
            Self::Sent(_) => Direction::Sent,
            Self::Received(_) => Direction::Received,
            Self::Disconnected | Self::ConnectFailed | Self::Replaced | Self::Abandoned => Direction::Local,
        }
    }

    /// The NOTIFICATION, if there was one.
    pub const fn notification(&self) -> Option<&Notification> {
        match self {
            Self::Sent(notification) | Self::Received(notification) => Some(notification),
            Self::Disconnected | Self::ConnectFailed | Self::Replaced | Self::Abandoned => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(n) => write!(f, "sent: {n}"),
            Self::Received(n) => write!(f, "received: {n}"),
            Self::Disconnected => f.write_str("connection closed without NOTIFICATION"),
            Self::ConnectFailed => f.write_str("connection could not be opened"),
            Self::Replaced => f.write_str("peer restarted and connected anew"),
            Self::Abandoned => f.write_str("closed for our restart"),
        }
    }
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// We, by NOTIFICATION
    Sent,
    /// The peer, by NOTIFICATION
    Received,
    /// Nobody said
    Local,
}

/// The last thing that went wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LastError {
    /// When
    pub at: Instant,
    /// What
    pub reason: Reason,
}

/// States of RFC 4271 §8.2.2, of the connection that got furthest.
///
/// Idle: stopped, or waiting after an error. Active: waiting for the peer to connect, or for the
/// next dial.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the RFC's own names")]
pub enum State {
    #[default]
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

impl State {
    /// All states, in order.
    pub const ALL: [Self; 6] =
        [Self::Idle, Self::Connect, Self::Active, Self::OpenSent, Self::OpenConfirm, Self::Established];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connect => "connect",
            Self::Active => "active",
            Self::OpenSent => "opensent",
            Self::OpenConfirm => "openconfirm",
            Self::Established => "established",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What both OPENs of a connection agreed on.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "a list of capabilities, each agreed on or not")]
pub struct Negotiated {
    /// How messages are written from now on
    pub codec: Codec,
    /// The peer's AS
    pub peer_asn: Asn,
    /// The peer's BGP identifier
    pub peer_router_id: Ipv4Addr,
    /// Seconds of silence after which the peer counts as dead; 0: never
    pub hold_time: u16,
    /// Seconds between keepalives before jitter, a third of `hold_time`; 0: none
    pub keepalive: u16,
    /// Families that both offered
    pub families: PerFamily<bool>,
    /// RFC 6793
    pub four_octet_as: bool,
    /// RFC 2918
    pub route_refresh: bool,
    /// RFC 7313
    pub enhanced_refresh: bool,
    /// RFC 8654
    pub extended_message: bool,
    /// The peer's graceful restart capability, with negotiated families only; `None` also if we
    /// did not send one
    pub graceful_restart: Option<GracefulRestart>,
    /// Both keep routes across NOTIFICATION and hold expiry (RFC 8538 §2)
    pub notification_restart: bool,
    /// What the peer sent, unknown ones included
    pub peer_capabilities: Vec<Capability>,
    /// What we sent
    pub local_capabilities: Vec<Capability>,
}

impl Negotiated {
    /// Whether the peer keeps forwarding while it restarts, for at least one family.
    pub fn peer_preserves(&self) -> bool {
        self.graceful_restart.as_ref().is_some_and(|restart| !restart.families.is_empty())
    }

    /// Whether a ROUTE-REFRESH is to be honoured rather than ignored (RFC 2918 §4, RFC 7313 §4).
    pub fn honours(&self, refresh: &RouteRefresh) -> bool {
        let agreed = match refresh.kind {
            RefreshKind::Request => self.route_refresh,
            RefreshKind::Begin | RefreshKind::End => self.enhanced_refresh,
        };
        agreed && self.families[refresh.family]
    }
}

/// How often things happened since the session was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Times Established was reached
    pub established: u64,
    /// Times Established was lost other than by `Stop` or `Abandon`
    pub flaps: u64,
}
