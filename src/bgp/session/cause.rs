//! The NOTIFICATIONs that a session sends of its own accord.

use crate::bgp::message::Notification;
use crate::net::Family;

/// Cease (RFC 4486).
pub const CEASE: u8 = 6;
/// Cease: rejected, for now (RFC 4486 §4)
pub const REJECTED: u8 = 5;
/// Cease: the other connection is kept (RFC 4486 §4)
pub const COLLISION: u8 = 7;
/// Cease: keep nothing (RFC 8538 §3)
pub const HARD_RESET: u8 = 9;

/// A NOTIFICATION without data.
pub fn notification(code: u8, subcode: u8) -> Notification {
    Notification { code, subcode, data: Box::default() }
}

/// Cease with a subcode.
pub fn cease(subcode: u8) -> Notification {
    notification(CEASE, subcode)
}

/// The hold timer expired (RFC 4271 §6.5).
pub fn hold_expired() -> Notification {
    notification(4, 0)
}

/// The peer's AS is not the configured one (RFC 4271 §6.2).
pub fn bad_peer_as() -> Notification {
    notification(2, 2)
}

/// The peer's BGP identifier cannot be (RFC 6286 §2.2).
pub fn bad_identifier() -> Notification {
    notification(2, 3)
}

/// A hold time of 1 or 2 seconds (RFC 4271 §6.2).
pub fn bad_hold_time() -> Notification {
    notification(2, 6)
}

/// No family in common: we require Multiprotocol of one of these (RFC 5492 §5, data as in §4).
pub fn no_common_family(ours: impl Iterator<Item = Family>) -> Notification {
    let data = ours.flat_map(|family| {
        let afi = match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        };
        [1, 4, 0, afi, 0, 1]
    });
    Notification { code: 2, subcode: 7, data: data.collect() }
}

/// The peer does not know a part of our OPEN that was not asked of it to know (RFC 5492 §3).
pub fn is_unsupported_parameter(notification: &Notification) -> bool {
    (notification.code, notification.subcode) == (2, 4)
}

/// Whether this is a Hard Reset, which ends graceful restart even where both sides keep routes
/// across NOTIFICATION (RFC 8538 §3).
pub fn is_hard_reset(notification: &Notification) -> bool {
    (notification.code, notification.subcode) == (CEASE, HARD_RESET)
}

/// As it is sent to a peer that keeps routes across NOTIFICATION: Cease/1 to 4 mean a lasting or a
/// wanted end and go as Hard Reset (RFC 8538 §5.1), with themselves as its data (§3).
pub fn harden(notification: Notification) -> Notification {
    if notification.code != CEASE || !matches!(notification.subcode, 1..=4) {
        return notification;
    }
    let head = [notification.code, notification.subcode];
    Notification { code: CEASE, subcode: HARD_RESET, data: head.into_iter().chain(notification.data).collect() }
}
