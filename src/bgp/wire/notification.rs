//! NOTIFICATION: the usual ones ready made, and every one in words (RFC 4271 §6 and its many
//! additions).

use std::fmt;

use super::open;
use super::words::AttributeName;
use crate::bgp::message::{Capability, Notification};
use crate::net::Family;

pub(super) const HEADER_ERROR: u8 = 1;
pub(super) const OPEN_ERROR: u8 = 2;
pub(super) const UPDATE_ERROR: u8 = 3;
const HOLD_TIMER: u8 = 4;
const FSM_ERROR: u8 = 5;
const CEASE: u8 = 6;
pub(super) const REFRESH_ERROR: u8 = 7;
const SEND_HOLD_TIMER: u8 = 8;

/// Octets of a shutdown communication that every receiver takes: RFC 9003 allows 255, but one that
/// still follows RFC 8203 rejects more than 128.
const COMMUNICATION_LEN: usize = 128;

/// Why a session in good order ends (RFC 4486, RFC 8538, RFC 9384).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Cease {
    /// Too many prefixes
    MaxPrefixes = 1,
    /// The operator took the session down
    Shutdown = 2,
    /// The peer left the configuration
    Deconfigured = 3,
    /// The operator wants it to begin anew
    Reset = 4,
    /// Not now
    ConnectionRejected = 5,
    /// The configuration changed and the session has to begin anew
    ConfigChange = 6,
    /// The other of two connections is kept (RFC 4271 §6.8)
    Collision = 7,
    /// Short of memory or the like
    OutOfResources = 8,
    /// Graceful restart does not apply (RFC 8538 §3)
    HardReset = 9,
    /// BFD says that the path is down (RFC 9384)
    BfdDown = 10,
}

impl Notification {
    /// Any NOTIFICATION.
    pub fn new(code: u8, subcode: u8, data: &[u8]) -> Self {
        Self { code, subcode, data: data.into() }
    }

    /// Cease without data.
    pub fn cease(why: Cease) -> Self {
        Self::new(CEASE, why as u8, &[])
    }

    /// Cease/2 with a text for the other operator (RFC 9003), cut to 128 octets; may be empty.
    pub fn shutdown(text: &str) -> Self {
        Self::communication(Cease::Shutdown, text)
    }

    /// Cease/4 with a text for the other operator (RFC 9003), cut to 128 octets; may be empty.
    pub fn reset(text: &str) -> Self {
        Self::communication(Cease::Reset, text)
    }

    /// Cease/1 with the family and the limit (RFC 4486 §4).
    pub fn max_prefixes(family: Family, limit: u32) -> Self {
        let mut data = open::afi_safi(family).to_vec();
        data.extend_from_slice(&limit.to_be_bytes());
        Self::new(CEASE, Cease::MaxPrefixes as u8, &data)
    }

    /// Cease/9 around the real reason: the peer must not keep our routes (RFC 8538 §3.1).
    pub fn hard_reset(reason: &Self) -> Self {
        let data = [&[reason.code, reason.subcode], &reason.data[..]].concat();
        Self::new(CEASE, Cease::HardReset as u8, &data)
    }

    /// 4: the peer was silent for the hold time.
    pub fn hold_timer_expired() -> Self {
        Self::new(HOLD_TIMER, 0, &[])
    }

    /// 8: the peer took nothing for too long (RFC 9687 §3.3).
    pub fn send_hold_timer_expired() -> Self {
        Self::new(SEND_HOLD_TIMER, 0, &[])
    }

    /// 5: a message out of turn; `subcode` tells the state (RFC 6608 §3): 1 OpenSent, 2 OpenConfirm,
    /// 3 Established, 0 any other.
    pub fn fsm_error(subcode: u8) -> Self {
        Self::new(FSM_ERROR, subcode, &[])
    }

    /// 2/2: the AS number is not the configured one.
    pub fn bad_peer_as() -> Self {
        Self::new(OPEN_ERROR, 2, &[])
    }

    /// 2/3: zero, or our own within an AS (RFC 6286 §2.2).
    pub fn bad_router_id() -> Self {
        Self::new(OPEN_ERROR, 3, &[])
    }

    /// 2/6: one or two seconds, or less than we accept.
    pub fn unacceptable_hold_time() -> Self {
        Self::new(OPEN_ERROR, 6, &[])
    }

    /// 2/7 with the capabilities that we miss (RFC 5492 §5).
    pub fn unsupported_capability(missing: &[Capability]) -> Self {
        let mut data = Vec::new();
        for capability in missing {
            open::encode_capability(capability, &mut data);
        }
        Self::new(OPEN_ERROR, 7, &data)
    }

    /// Whether it is Cease for this reason.
    pub fn is_cease(&self, why: Cease) -> bool {
        (self.code, self.subcode) == (CEASE, why as u8)
    }

    /// Whether it is Cease/9, after which nothing is kept (RFC 8538 §3).
    pub fn is_hard_reset(&self) -> bool {
        self.is_cease(Cease::HardReset)
    }

    fn communication(why: Cease, text: &str) -> Self {
        let end = (0..=COMMUNICATION_LEN).rev().find(|end| text.is_char_boundary(*end));
        let text = end.and_then(|end| text.get(..end)).unwrap_or_default();
        let length = u8::try_from(text.len()).unwrap_or(0);
        Self::new(CEASE, why as u8, &[&[length], text.as_bytes()].concat())
    }

    /// From the octets behind the header. `frame` has seen to it that both codes are there.
    pub(super) fn from_body(body: &[u8]) -> Self {
        match body {
            [code, subcode, data @ ..] => Self::new(*code, *subcode, data),
            short => Self::new(short.first().copied().unwrap_or(0), 0, &[]),
        }
    }

    /// Data that does not fit is cut: the receiver only shows it.
    pub(super) fn write_body(&self, room: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.code, self.subcode]);
        out.extend(self.data.iter().take(room.saturating_sub(2)));
    }
}

impl fmt::Display for Notification {
    /// `cease: administrative shutdown: "maintenance"`, fit for a log: what the peer wrote is
    /// quoted and escaped (RFC 9003 §6).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(name) = code_name(self.code) else {
            return write!(f, "error code {}, subcode {}", self.code, self.subcode);
        };
        f.write_str(name)?;
        match subcode_name(self.code, self.subcode) {
            Some(detail) => write!(f, ": {detail}")?,
            None if self.subcode == 0 => {}
            None => write!(f, ": subcode {}", self.subcode)?,
        }
        self.fmt_data(f)
    }
}

impl Notification {
    fn fmt_data(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.subcode, &self.data[..]) {
            // No data, or a communication of no octets.
            (_, _, []) | (CEASE, 2 | 4, [0]) => Ok(()),
            (HEADER_ERROR, 2, [high, low]) => write!(f, " ({})", u16::from_be_bytes([*high, *low])),
            (HEADER_ERROR, 3, [kind]) => write!(f, " ({kind})"),
            (OPEN_ERROR, 1, [high, low]) => write!(f, " (it speaks {})", u16::from_be_bytes([*high, *low])),
            (OPEN_ERROR, 7, list) => {
                let mut between = ": ";
                open::each_capability(list, |capability| {
                    let written = write!(f, "{between}{capability}");
                    between = ", ";
                    written
                })
            }
            (UPDATE_ERROR, 2..=9, [_, code, ..]) => write!(f, " ({})", AttributeName(*code)),
            (CEASE, 1, [a0, a1, safi, n @ ..]) if n.len() == 4 => {
                let limit = n.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
                match open::family([*a0, *a1, *safi]) {
                    Some(family) => write!(f, " ({limit} for {family})"),
                    None => write!(f, " ({limit})"),
                }
            }
            (CEASE, 2 | 4, [length, text @ ..]) => {
                let text = text.get(..usize::from(*length)).unwrap_or(text);
                write!(f, ": {:?}", String::from_utf8_lossy(text))
            }
            // One inside another would be nonsense and must not nest without end.
            (CEASE, 9, [code, subcode, data @ ..]) if (*code, *subcode) != (CEASE, 9) => {
                write!(f, " ({})", Self::new(*code, *subcode, data))
            }
            (_, _, data) => {
                write!(f, ", data")?;
                data.iter().take(16).try_for_each(|byte| write!(f, " {byte:02x}"))?;
                f.write_str(if data.len() > 16 { " …" } else { "" })
            }
        }
    }
}

const fn code_name(code: u8) -> Option<&'static str> {
    Some(match code {
        HEADER_ERROR => "message header error",
        OPEN_ERROR => "open message error",
        UPDATE_ERROR => "update message error",
        HOLD_TIMER => "hold timer expired",
        FSM_ERROR => "finite state machine error",
        CEASE => "cease",
        REFRESH_ERROR => "route refresh message error",
        SEND_HOLD_TIMER => "send hold timer expired",
        _ => return None,
    })
}

/// Names as IANA's registry of BGP error subcodes has them.
const fn subcode_name(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (HEADER_ERROR, 1) => "connection not synchronised",
        (HEADER_ERROR, 2) => "bad message length",
        (HEADER_ERROR, 3) => "bad message type",
        (OPEN_ERROR, 1) => "unsupported version number",
        (OPEN_ERROR, 2) => "bad peer AS",
        (OPEN_ERROR, 3) => "bad BGP identifier",
        (OPEN_ERROR, 4) => "unsupported optional parameter",
        (OPEN_ERROR, 5) => "authentication failure",
        (OPEN_ERROR, 6) => "unacceptable hold time",
        (OPEN_ERROR, 7) => "unsupported capability",
        (OPEN_ERROR, 11) => "role mismatch",
        (UPDATE_ERROR, 1) => "malformed attribute list",
        (UPDATE_ERROR, 2) => "unrecognised well-known attribute",
        (UPDATE_ERROR, 3) => "missing well-known attribute",
        (UPDATE_ERROR, 4) => "attribute flags error",
        (UPDATE_ERROR, 5) => "attribute length error",
        (UPDATE_ERROR, 6) => "invalid ORIGIN attribute",
        (UPDATE_ERROR, 7) => "AS routing loop",
        (UPDATE_ERROR, 8) => "invalid NEXT_HOP attribute",
        (UPDATE_ERROR, 9) => "optional attribute error",
        (UPDATE_ERROR, 10) => "invalid network field",
        (UPDATE_ERROR, 11) => "malformed AS_PATH",
        (FSM_ERROR, 1) => "unexpected message in OpenSent",
        (FSM_ERROR, 2) => "unexpected message in OpenConfirm",
        (FSM_ERROR, 3) => "unexpected message in Established",
        (CEASE, 1) => "maximum number of prefixes reached",
        (CEASE, 2) => "administrative shutdown",
        (CEASE, 3) => "peer de-configured",
        (CEASE, 4) => "administrative reset",
        (CEASE, 5) => "connection rejected",
        (CEASE, 6) => "other configuration change",
        (CEASE, 7) => "connection collision resolution",
        (CEASE, 8) => "out of resources",
        (CEASE, 9) => "hard reset",
        (CEASE, 10) => "BFD down",
        (REFRESH_ERROR, 1) => "invalid message length",
        _ => return None,
    })
}
