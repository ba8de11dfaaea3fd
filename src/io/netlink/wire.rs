//! Netlink framing: messages and attributes, read without copies and written into one buffer.
//!
//! netlink-packet-route decodes into a tree of vectors and fails a whole message for one
//! attribute it does not know; a table of a million routes is read with this instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a message's own header.
pub(super) const HEADER: usize = 16;

/// The marks on an attribute's type: nested, byte order (`NLA_TYPE_MASK` is what remains).
const TYPE_MASK: u16 = 0x3fff;

/// Messages and attributes begin at multiples of this.
const ALIGN: usize = 4;

/// `NLMSG_ERROR`: an answer with an error code, or 0 for an acknowledgement.
pub(super) const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub(super) const DONE: u16 = 3;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
/// Of a request: what becomes of it is told to the sender as to everybody else (`NLM_F_ECHO`).
pub(super) const ECHO: u16 = 0x8;
/// Of an answer: the table changed while it was dumped (`NLM_F_DUMP_INTR`).
pub(super) const DUMP_INTERRUPTED: u16 = 0x10;
pub(super) const DUMP: u16 = 0x300;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
/// Of an answer: only the header of the request is quoted (`NLM_F_CAPPED`).
const CAPPED: u16 = 0x100;
/// Of an answer: attributes follow the quotation (`NLM_F_ACK_TLVS`).
const ACK_TLVS: u16 = 0x200;
/// The kernel's explanation of an error (`NLMSGERR_ATTR_MSG`).
const ATTR_MSG: u16 = 1;

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Of a multicast message: the socket whose request caused it, 0 for the kernel itself
    pub port: u32,
    pub body: &'a [u8],
}

/// The messages of a datagram; ends at the first that is malformed.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            port: u32_at(bytes, 12)?,
            body: bytes.get(HEADER..len)?,
        };
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes of a message or nest, as type and value; ends at the first that is malformed.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The kernel's answer to one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Answer<'a> {
    /// 0: done; else a positive errno.
    pub errno: i32,
    /// Its own words on it; often empty.
    pub text: &'a str,
}

/// Reads an [`ERROR`] message, or the end of a dump, which carries a code as well.
pub(super) fn answer<'a>(message: &Message<'a>) -> Option<Answer<'a>> {
    let code = u32_at(message.body, 0)?.cast_signed();
    let quoted = match message.kind {
        DONE => 0,
        _ if message.flags & CAPPED != 0 => HEADER,
        _ => aligned(usize::try_from(u32_at(message.body, 4)?).ok()?),
    };
    let extra = if message.flags & ACK_TLVS == 0 { None } else { message.body.get(4 + quoted..) };
    let text = attributes(extra.unwrap_or_default())
        .find(|(kind, _)| *kind == ATTR_MSG)
        .and_then(|(_, value)| str_of(value))
        .unwrap_or_default();
    Some(Answer { errno: code.wrapping_neg(), text })
}

/// A number in the host's byte order; `None` beyond the end.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

/// A number in the host's byte order; `None` beyond the end.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

/// A number in the host's byte order; `None` beyond the end.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_ne_bytes(*chunk))
}

/// An address by its length.
pub(super) fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value.first_chunk().map(|chunk: &[u8; 4]| IpAddr::V4(Ipv4Addr::from(*chunk))),
        16 => value.first_chunk().map(|chunk: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*chunk))),
        _ => None,
    }
}

/// A text without the zero byte that ends it.
pub(super) fn str_of(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.split(|byte| *byte == 0).next()?).ok()
}

const fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// Writes messages one after the other into a buffer that is kept.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    buf: Vec<u8>,
}

/// Where a message, nest or next hop began, so that its length can be filled in.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(super) struct Start(usize);

impl Encoder {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Forgets what was written, keeps the memory.
    pub(super) fn clear(&mut self) {
        self.buf.clear();
    }

    pub(super) fn begin(&mut self, kind: u16, flags: u16, sequence: u32) -> Start {
        let start = Start(self.buf.len());
        let mut header = [0; HEADER];
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&flags.to_ne_bytes());
        header[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.buf.extend_from_slice(&header);
        start
    }

    /// Ends the message that began at `start`.
    pub(super) fn end(&mut self, start: Start) {
        let len = u32::try_from(self.buf.len() - start.0).unwrap_or(u32::MAX);
        self.patch(start, 0, &len.to_ne_bytes());
        // Every field and attribute is padded as it is written.
        debug_assert!(self.buf.len().is_multiple_of(ALIGN), "a message ends aligned");
    }

    /// Appends a copy of the last message, which began at `start`.
    pub(super) fn again(&mut self, start: Start, sequence: u32) -> Start {
        let copy = Start(self.buf.len());
        self.buf.extend_from_within(start.0..);
        self.patch(copy, 8, &sequence.to_ne_bytes());
        copy
    }

    /// Overwrites bytes of the message that began at `start`.
    pub(super) fn patch(&mut self, start: Start, at: usize, bytes: &[u8]) {
        if let Some(field) = self.buf.get_mut(start.0 + at..start.0 + at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }

    /// Sets marks on the message that began at `start`.
    pub(super) fn mark(&mut self, start: Start, flags: u16) {
        let old = u16_at(&self.buf, start.0 + 6).unwrap_or_default();
        self.patch(start, 6, &(old | flags).to_ne_bytes());
    }

    /// Bytes that the caller has aligned.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin_nest(kind);
        self.put(value);
        self.end_nest(start);
    }

    pub(super) fn attribute_u32(&mut self, kind: u16, value: u32) {
        let mut bytes = [0; 8];
        bytes[0..2].copy_from_slice(&8_u16.to_ne_bytes());
        bytes[2..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&value.to_ne_bytes());
        self.put(&bytes);
    }

    pub(super) fn attribute_address(&mut self, kind: u16, addr: IpAddr) {
        match addr {
            IpAddr::V4(addr) => self.attribute_u32(kind, u32::from_ne_bytes(addr.octets())),
            IpAddr::V6(addr) => self.attribute(kind, &addr.octets()),
        }
    }

    pub(super) fn begin_nest(&mut self, kind: u16) -> Start {
        let start = Start(self.buf.len());
        self.put(&[0; 2]);
        self.put(&kind.to_ne_bytes());
        start
    }

    /// Fills in the length of what began at `start` and pads it. `struct rtnexthop` begins with a
    /// length as an attribute does.
    pub(super) fn end_nest(&mut self, start: Start) {
        let len = u16::try_from(self.buf.len() - start.0).unwrap_or(u16::MAX);
        self.patch(start, 0, &len.to_ne_bytes());
        self.buf.resize(aligned(self.buf.len()), 0);
    }

    /// Begins a `struct rtnexthop`: length, flags, weight less one, device.
    pub(super) fn begin_hop(&mut self, flags: u8, device: u32) -> Start {
        let start = Start(self.buf.len());
        self.put(&[0, 0, flags, 0]);
        self.put(&device.to_ne_bytes());
        start
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut encoder = Encoder::default();
        for sequence in [7, 8] {
            let start = encoder.begin(24, REQUEST, sequence);
            encoder.put(&[2; 12]);
            encoder.attribute(3, b"odd");
            encoder.attribute_address(1, "2001:db8::1".parse().unwrap());
            encoder.mark(start, ACK);
            encoder.end(start);
        }
        let read: Vec<_> = messages(encoder.bytes()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[1].kind, read[1].flags, read[1].sequence), (24, REQUEST | ACK, 8));
        let attributes: Vec<_> = attributes(&read[1].body[12..]).collect();
        assert_eq!(attributes[0], (3, &b"odd"[..]));
        assert_eq!(address(attributes[1].1), Some("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn an_error_comes_with_the_kernels_words() {
        let mut encoder = Encoder::default();
        let start = encoder.begin(ERROR, CAPPED | ACK_TLVS, 1);
        encoder.put(&(-101_i32).to_ne_bytes());
        encoder.put(&[0; HEADER]);
        encoder.attribute(ATTR_MSG, b"Nexthop has invalid gateway\0");
        encoder.end(start);
        let message = messages(encoder.bytes()).next().unwrap();
        assert_eq!(answer(&message), Some(Answer { errno: 101, text: "Nexthop has invalid gateway" }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_turn_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                answer(&message);
                prop_assert!(attributes(message.body).count() <= bytes.len());
            }
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
