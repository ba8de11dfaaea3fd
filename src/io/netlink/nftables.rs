//! Who changes a firewall table, and whether anything of nftables changed at all.
//!
//! Each transaction makes one *generation*, and its last message names that and the process it came from
//! (`NFT_MSG_NEWGEN`). Rules themselves are read and written by nft(8): see `io::nft`.

use std::future::poll_fn;
use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, TokioSocket};

use super::socket::{self, Client};
use super::wire::{self, attributes, str_of};

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`, the high byte of a message's kind.
const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_NEWGEN`, `NFT_MSG_GETGEN` (linux/netfilter/nf_tables.h).
const NEW_GENERATION: u16 = NFTABLES | 15;
const GET_GENERATION: u16 = NFTABLES | 16;
/// `NFTA_GEN_ID`, `NFTA_GEN_PROC_PID`, `NFTA_GEN_PROC_NAME`.
const GENERATION: u16 = 1;
const PROCESS: u16 = 2;
const PROCESS_NAME: u16 = 3;
/// What a table, chain, rule, set, element, object or flowtable calls the table it is in: the same
/// number in each.
const TABLE: u16 = 1;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// Bytes of `struct nfgenmsg`: family, version, resource.
const GENERIC: usize = 4;

/// Datagrams read before a batch is handed on.
const BATCH: usize = 256;

/// A transaction that touched the table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transaction {
    /// The generation it made
    pub generation: u32,
    /// The process, by its number in the kernel's first PID namespace, and its name
    pub by: Option<(u32, String)>,
}

/// What was heard.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Heard {
    /// What touched the table, in order
    pub touched: Vec<Transaction>,
    /// More was lost: only a look tells
    pub overrun: bool,
}

/// A subscription to the changes of one table of the family `inet`.
pub struct TableWatch {
    socket: TokioSocket,
    buf: Vec<u8>,
    table: String,
    /// The transaction that is being told of touches the table
    touched: bool,
}

impl TableWatch {
    /// Subscribes, in the network namespace of the calling thread. Fails where the kernel has no
    /// nftables, or none yet: it may load with the first rule.
    pub fn open(table: &str) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket::set_up(socket.socket_mut())?;
        socket::attach(socket.socket_mut(), 1 << (GROUP - 1))?;
        Ok(Self { socket, buf: Vec::new(), table: table.to_owned(), touched: false })
    }

    /// Waits for news, which may turn out to be about other tables only. Safe to cancel: it waits only
    /// while it holds nothing.
    pub async fn next(&mut self) -> io::Result<Heard> {
        let (socket, buf) = (&self.socket, &mut self.buf);
        buf.clear();
        buf.reserve(socket::DATAGRAM);
        let mut result = poll_fn(|cx| socket.poll_recv(cx, buf)).await;
        let mut heard = Heard::default();
        for left in (0..BATCH).rev() {
            match result {
                Ok(()) => {
                    for message in wire::messages(&self.buf) {
                        take(&message, &self.table, &mut self.touched, &mut heard.touched);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    heard.overrun = true;
                    self.touched = false;
                }
                Err(error) => return Err(error),
            }
            if left == 0 {
                break;
            }
            result = socket::receive(self.socket.socket_ref(), &mut self.buf, 0);
        }
        Ok(heard)
    }
}

fn take(message: &wire::Message<'_>, table: &str, touched: &mut bool, out: &mut Vec<Transaction>) {
    if message.kind == NEW_GENERATION {
        if std::mem::take(touched) {
            out.extend(transaction(message.body));
        }
    } else if message.kind & 0xff00 == NFTABLES && message.body.first() == Some(&INET) {
        let mut names = attributes(message.body.get(GENERIC..).unwrap_or_default());
        *touched |= names.any(|(kind, value)| kind == TABLE && str_of(value) == Some(table));
    }
}

fn transaction(body: &[u8]) -> Option<Transaction> {
    let (mut generation, mut pid, mut name) = (None, None, None);
    for (kind, value) in attributes(body.get(GENERIC..)?) {
        let number = || value.first_chunk().map(|chunk| u32::from_be_bytes(*chunk));
        match kind {
            GENERATION => generation = number(),
            PROCESS => pid = number(),
            PROCESS_NAME => name = str_of(value),
            _ => {}
        }
    }
    Some(Transaction { generation: generation?, by: pid.zip(name.map(str::to_owned)) })
}

/// The generation of this network namespace: while it stays, no table, chain or rule has changed.
pub fn generation() -> io::Result<u32> {
    let mut found = None;
    Client::of(NETLINK_NETFILTER)?.ask(
        GET_GENERATION,
        0,
        |encoder| encoder.put(&[0; GENERIC]),
        |message| found = transaction(message.body).map(|transaction| transaction.generation),
    )?;
    found.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::super::wire::Encoder;
    use super::*;

    fn message(encoder: &mut Encoder, kind: u16, family: u8, attributes: &[(u16, &[u8])]) {
        let start = encoder.begin(kind, 0, 0);
        encoder.put(&[family, 0, 0, 0]);
        for (kind, value) in attributes {
            encoder.attribute(*kind, value);
        }
        encoder.end(start);
    }

    #[test]
    fn only_transactions_that_touch_the_table_are_told() {
        let mut bytes = Encoder::default();
        let end = |bytes: &mut Encoder, generation: u8, name: &[u8]| {
            let number = [0, 0, 0, generation];
            message(bytes, NEW_GENERATION, 0, &[(GENERATION, &number), (PROCESS, &[0, 0, 1, 4]), (PROCESS_NAME, name)]);
        };
        message(&mut bytes, NFTABLES | 6, INET, &[(TABLE, b"other\0"), (2, b"wayleave\0")]);
        message(&mut bytes, NFTABLES | 6, 2, &[(TABLE, b"wayleave\0")]);
        end(&mut bytes, 1, b"dockerd\0");
        message(&mut bytes, NFTABLES | 2, INET, &[(TABLE, b"other\0")]);
        message(&mut bytes, NFTABLES | 2, INET, &[(TABLE, b"wayleave\0")]);
        end(&mut bytes, 2, b"firewalld\0");
        end(&mut bytes, 3, b"firewalld\0");
        let (mut touched, mut told) = (false, Vec::new());
        for message in wire::messages(bytes.bytes()) {
            take(&message, "wayleave", &mut touched, &mut told);
        }
        assert_eq!(told, [Transaction { generation: 2, by: Some((260, "firewalld".to_owned())) }]);
    }
}
