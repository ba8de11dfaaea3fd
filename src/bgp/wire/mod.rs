//! Bytes ↔ [`Message`] values: the only place that knows how BGP looks on the wire.
//!
//! [`frame`] says where a message ends, [`decode`] reads one, [`encode`] and the UPDATE encoders
//! write. Every function is total: any bytes give a value or a [`DecodeError`], which knows the
//! NOTIFICATION that RFC 4271 §6 wants. Malformed attributes that need not end the session
//! (RFC 7606) are in [`Update::faults`](super::message::Update::faults).
//!
//! It does not compare with what we configured (peer AS, hold time, capabilities): `session` does.
//! zettabgp stands behind this gate and sees only attribute values whose length was checked: used
//! bare it panics or loops for ever on short input, and takes twice our time for a list of prefixes.

mod as_path;
mod attributes;
mod error;
mod nlri;
mod notification;
mod open;
mod pack;
mod refresh;
#[cfg(test)]
mod tests;
mod update;
mod words;

pub use error::{DecodeError, NlriError};
pub use notification::Cease;
pub use pack::{EncodeError, encode_end_of_rib, encode_reach, encode_withdraw};
pub use words::attribute_name;

use super::message::{Codec, Message, Notification};

/// Octets of the fixed header: marker, length, type (RFC 4271 §4.1).
pub const HEADER_LEN: usize = 19;

const MARKER: [u8; 16] = [0xff; 16];

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const ROUTE_REFRESH: u8 = 5;

/// Length of the message that `buf` begins with, or `None` while bytes are missing.
///
/// A bad header is reported as soon as it can be seen, so garbage does not wait for more garbage.
pub fn frame(buf: &[u8], codec: &Codec) -> Result<Option<usize>, DecodeError> {
    // Sixteen octets at once where they are there.
    let is_marker = buf.first_chunk().map_or_else(|| buf.iter().take(16).all(|byte| *byte == 0xff), |m| *m == MARKER);
    if !is_marker {
        return Err(DecodeError::Marker);
    }
    let Some([.., high, low, kind]) = buf.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let length = u16::from_be_bytes([*high, *low]);
    let total = usize::from(length);
    if !(HEADER_LEN..=codec.max_message()).contains(&total) {
        return Err(DecodeError::Length(length));
    }
    let bounds = match *kind {
        // Extended messages are for all but OPEN and KEEPALIVE (RFC 8654 §4).
        OPEN => 29..=4096,
        UPDATE => 23..=codec.max_message(),
        NOTIFICATION => 21..=codec.max_message(),
        KEEPALIVE => HEADER_LEN..=HEADER_LEN,
        // Its length has an error code of its own (RFC 7313 §5), which needs the whole message.
        ROUTE_REFRESH => HEADER_LEN..=codec.max_message(),
        unknown => return Err(DecodeError::Kind(unknown)),
    };
    if !bounds.contains(&total) {
        return Err(DecodeError::Length(length));
    }
    Ok((buf.len() >= total).then_some(total))
}

/// Reads one whole message, as [`frame`] measured it.
pub fn decode(message: &[u8], codec: &Codec) -> Result<Message, DecodeError> {
    let whole = frame(message, codec)? == Some(message.len());
    let Some(([.., kind], body)) = message.split_first_chunk::<HEADER_LEN>().filter(|_| whole) else {
        // The caller cut in the wrong place; the peer is told the length that we saw.
        return Err(DecodeError::Length(u16::try_from(message.len()).unwrap_or(u16::MAX)));
    };
    match *kind {
        OPEN => open::decode(body).map(Message::Open),
        UPDATE => update::decode(body, *codec).map(Message::Update),
        NOTIFICATION => Ok(Message::Notification(Notification::from_body(body))),
        KEEPALIVE => Ok(Message::Keepalive),
        ROUTE_REFRESH => refresh::decode(message, body, *codec),
        unknown => Err(DecodeError::Kind(unknown)),
    }
}

/// Appends one message to `out`.
///
/// UPDATE is not written here, since one may not be enough: see [`encode_reach`],
/// [`encode_withdraw`] and [`encode_end_of_rib`].
pub fn encode(message: &Message, codec: &Codec, out: &mut Vec<u8>) {
    match message {
        Message::Open(open) => write(OPEN, out, |out| open::encode(open, out)),
        Message::Notification(notification) => {
            write(NOTIFICATION, out, |out| notification.write_body(codec.max_message() - HEADER_LEN, out));
        }
        Message::Keepalive => write(KEEPALIVE, out, |_| ()),
        Message::RouteRefresh(refresh) => write(ROUTE_REFRESH, out, |out| refresh::encode(*refresh, out)),
        Message::Update(_) | Message::Ignored(_) => {}
    }
}

/// Appends a header and what `body` writes, then fills in the length.
fn write(kind: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = begin(kind, out);
    body(out);
    finish(start, out);
}

/// Appends a header without its length; gives where the message starts.
fn begin(kind: u8, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0xff; HEADER_LEN - 1]);
    out.push(kind);
    start
}

/// Fills in the length of the message that starts at `start` and ends with `out`.
fn finish(start: usize, out: &mut [u8]) {
    put_u16(out.len() - start, start + 16, out);
}

/// Writes `value` over two octets at `at`. The encoders keep every length below 65536.
fn put_u16(value: usize, at: usize, out: &mut [u8]) {
    let value = u16::try_from(value).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}
