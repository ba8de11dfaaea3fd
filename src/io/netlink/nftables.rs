//! Who changes a firewall table or chain, whether anything of nftables changed at all, what is there, and counters.
//!
//! Each transaction makes one *generation*, and its last message names that and the process it came from
//! (`NFT_MSG_NEWGEN`). Rules themselves are read and written by nft(8): see `io::nft`.

use std::future::poll_fn;
use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, TokioSocket};

use super::socket::{self, Client};
use super::wire::{self, Encoder, attributes, str_of};
use crate::net::Family;
use crate::traffic::Count;

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`, the high byte of a message's kind.
pub(super) const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_NEWGEN`, `NFT_MSG_GETGEN` (linux/netfilter/nf_tables.h).
const NEW_GENERATION: u16 = NFTABLES | 15;
const GET_GENERATION: u16 = NFTABLES | 16;
/// `NFT_MSG_GETTABLE`, `NFT_MSG_GETCHAIN`, `NFT_MSG_GETOBJ`.
pub(super) const GET_TABLE: u16 = NFTABLES | 1;
const GET_CHAIN: u16 = NFTABLES | 4;
const GET_OBJECT: u16 = NFTABLES | 0x13;
/// `NFT_MSG_NEWTABLE` and its opposite, the same for chains and rules: what a chain can be touched by.
const TABLES: [u16; 2] = [NFTABLES, NFTABLES | 2];
const CHAINS: [u16; 2] = [NFTABLES | 3, NFTABLES | 5];
const RULES: [u16; 2] = [NFTABLES | 6, NFTABLES | 8];
/// `NFTA_CHAIN_NAME`, `NFTA_RULE_CHAIN`.
const CHAIN_NAME: u16 = 3;
const RULE_CHAIN: u16 = 2;
/// `NFTA_OBJ_NAME`, `NFTA_OBJ_TYPE`, `NFTA_OBJ_DATA`; `NFT_OBJECT_COUNTER`; `NFTA_COUNTER_BYTES`, `NFTA_COUNTER_PACKETS`.
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const COUNTER: u32 = 1;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
/// `NFTA_GEN_ID`, `NFTA_GEN_PROC_PID`, `NFTA_GEN_PROC_NAME`.
const GENERATION: u16 = 1;
const PROCESS: u16 = 2;
const PROCESS_NAME: u16 = 3;
/// What a table, chain, rule, set, element, object or flowtable calls the table it is in: the same
/// number in each.
pub(super) const TABLE: u16 = 1;
/// `NFPROTO_INET`.
pub(super) const INET: u8 = 1;
/// Bytes of `struct nfgenmsg`: family, version, resource.
pub(super) const GENERIC: usize = 4;

/// Datagrams read before a batch is handed on.
const BATCH: usize = 256;

/// A table, or one chain of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Scope {
    family: u8,
    table: &'static str,
    chain: Option<&'static str>,
}

impl Scope {
    /// A table of the family `inet`.
    pub const fn inet(table: &'static str) -> Self {
        Self { family: INET, table, chain: None }
    }

    /// A chain of a table of one family.
    pub const fn chain(family: Family, table: &'static str, chain: &'static str) -> Self {
        // NFPROTO_IPV4, NFPROTO_IPV6.
        let family = match family {
            Family::Ipv4 => 2,
            Family::Ipv6 => 10,
        };
        Self { family, table, chain: Some(chain) }
    }

    fn is_touched_by(&self, message: &wire::Message<'_>) -> bool {
        if message.kind & 0xff00 != NFTABLES || message.body.first() != Some(&self.family) {
            return false;
        }
        let named = |kind: u16, name: &str| {
            attributes(message.body.get(GENERIC..).unwrap_or_default())
                .any(|(found, value)| found == kind && str_of(value) == Some(name))
        };
        if !named(TABLE, self.table) {
            return false;
        }
        match self.chain {
            None => true,
            Some(chain) if CHAINS.contains(&message.kind) => named(CHAIN_NAME, chain),
            Some(chain) if RULES.contains(&message.kind) => named(RULE_CHAIN, chain),
            Some(_) => TABLES.contains(&message.kind),
        }
    }

    /// Whether it is there; not, where the kernel has no nftables.
    pub fn exists(&self) -> bool {
        let (kind, name) = match self.chain {
            None => (GET_TABLE, None),
            Some(chain) => (GET_CHAIN, Some((CHAIN_NAME, chain))),
        };
        let mut found = false;
        let asked = self.ask(kind, name, |_| {}, |_| found = true);
        asked.is_ok() && found
    }

    /// Packets and bytes of a named counter of the table; `None`: there is none.
    pub fn counter(&self, name: &str) -> io::Result<Option<(u64, u64)>> {
        let mut found = None;
        let kind = |encoder: &mut Encoder| encoder.attribute(OBJECT_TYPE, &COUNTER.to_be_bytes());
        let asked = self.ask(GET_OBJECT, Some((OBJECT_NAME, name)), kind, |body| found = counted(body));
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            result => result.map(|()| found),
        }
    }

    fn ask(
        &self,
        kind: u16,
        name: Option<(u16, &str)>,
        more: impl FnOnce(&mut Encoder),
        mut read: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let write = |encoder: &mut Encoder| {
            header(encoder, self.family, self.table);
            if let Some((kind, name)) = name {
                text(encoder, kind, name);
            }
            more(encoder);
        };
        Client::of(NETLINK_NETFILTER)?.ask(kind, 0, write, |message| read(message.body)).map(drop)
    }
}

fn counted(body: &[u8]) -> Option<(u64, u64)> {
    let (_, data) = attributes(body.get(GENERIC..)?).find(|(kind, _)| *kind == OBJECT_DATA)?;
    counts(data).map(|count| (count.packets, count.bytes))
}

/// What stands in a counter.
pub(super) fn counts(data: &[u8]) -> Option<Count> {
    let find = |wanted| attributes(data).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| number(value));
    Some(Count { bytes: find(COUNTER_BYTES)?, packets: find(COUNTER_PACKETS)? })
}

/// The start of every message: family, and the table that it is about.
pub(super) fn header(encoder: &mut Encoder, family: u8, table: &str) {
    encoder.put(&[family, 0, 0, 0]);
    text(encoder, TABLE, table);
}

pub(super) fn text(encoder: &mut Encoder, kind: u16, text: &str) {
    encoder.attribute(kind, &[text.as_bytes(), &[0]].concat());
}

/// nftables writes numbers in network byte order.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|chunk| u64::from_be_bytes(*chunk))
}

/// A transaction that touched what is watched.
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
    /// What touched it, in order
    pub touched: Vec<Transaction>,
    /// More was lost: only a look tells
    pub overrun: bool,
}

/// A subscription to the changes of some tables or chains.
pub struct TableWatch {
    socket: TokioSocket,
    buf: Vec<u8>,
    scopes: &'static [Scope],
    /// The transaction that is being told of touches one of them
    touched: bool,
}

impl TableWatch {
    /// Subscribes, in the network namespace of the calling thread. Fails where the kernel has no
    /// nftables, or none yet: it may load with the first rule.
    pub fn open(scopes: &'static [Scope]) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket::set_up(socket.socket_mut())?;
        socket::attach(socket.socket_mut(), 1 << (GROUP - 1))?;
        Ok(Self { socket, buf: Vec::new(), scopes, touched: false })
    }

    /// Waits for news, which may turn out to be about other things only. Safe to cancel: it waits only
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
                        take(&message, self.scopes, &mut self.touched, &mut heard.touched);
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

fn take(message: &wire::Message<'_>, scopes: &[Scope], touched: &mut bool, out: &mut Vec<Transaction>) {
    if message.kind == NEW_GENERATION {
        if std::mem::take(touched) {
            out.extend(transaction(message.body));
        }
    } else {
        *touched = *touched || scopes.iter().any(|scope| scope.is_touched_by(message));
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

/// Whether a generation is another or came before it: they are numbered in a circle.
pub const fn is_by(generation: u32, at: u32) -> bool {
    generation.wrapping_sub(at).cast_signed() <= 0
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
    use super::*;

    type Names<'a> = &'a [(u16, &'a [u8])];

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
        let told = |bytes: &Encoder, scopes: &[Scope]| {
            let (mut touched, mut told) = (false, Vec::new());
            for message in wire::messages(bytes.bytes()) {
                take(&message, scopes, &mut touched, &mut told);
            }
            told
        };
        let wanted = [Transaction { generation: 2, by: Some((260, "firewalld".to_owned())) }];
        assert_eq!(told(&bytes, &[Scope::inet("wayleave")]), wanted);

        let mut bytes = Encoder::default();
        let (filter, ours): (&[u8], &[u8]) = (b"filter\0", b"DOCKER-USER\0");
        let cases: [(&str, u16, u8, Names<'_>, bool); 8] = [
            ("a rule of the chain", 6, 2, &[(TABLE, filter), (RULE_CHAIN, ours)], true),
            ("one less", 8, 2, &[(TABLE, filter), (RULE_CHAIN, ours)], true),
            ("the chain comes", 3, 2, &[(TABLE, filter), (2, b"\0\0\0\x07"), (CHAIN_NAME, ours)], true),
            ("the table goes", 2, 2, &[(TABLE, filter)], true),
            ("another chain's rule", 6, 2, &[(TABLE, filter), (RULE_CHAIN, b"DOCKER\0")], false),
            ("in another table", 6, 2, &[(TABLE, b"nat\0"), (RULE_CHAIN, ours)], false),
            ("of another family", 6, 10, &[(TABLE, filter), (RULE_CHAIN, ours)], false),
            ("an element of a set", 12, 2, &[(TABLE, filter), (RULE_CHAIN, ours)], false),
        ];
        for (generation, (why, kind, family, names, wanted)) in cases.into_iter().enumerate() {
            bytes.clear();
            message(&mut bytes, NFTABLES | kind, family, names);
            end(&mut bytes, u8::try_from(generation).unwrap(), b"iptables\0");
            let chain = [Scope::inet("wayleave"), Scope::chain(Family::Ipv4, "filter", "DOCKER-USER")];
            assert_eq!(told(&bytes, &chain).len(), usize::from(wanted), "{why}");
        }
    }

    #[test]
    fn a_counter_is_read() {
        let mut bytes = Encoder::default();
        let number = |n: u64| n.to_be_bytes();
        let mut data = Encoder::default();
        data.attribute(COUNTER_BYTES, &number(420));
        data.attribute(COUNTER_PACKETS, &number(7));
        message(&mut bytes, NFTABLES | 0x12, INET, &[(TABLE, b"wayleave\0"), (OBJECT_DATA, data.bytes())]);
        let found = wire::messages(bytes.bytes()).next().and_then(|message| counted(message.body));
        assert_eq!(found, Some((7, 420)));
        assert_eq!(counted(&[]), None);
    }
}
