//! Elements of nftables sets that count packets: read, added, removed, a thousand at a time.
//!
//! Numbers are those of linux/netfilter/nf_tables.h. An element of a set that has a counter gets its own from
//! the kernel (5.7 and later). Whoever removes one is told what it had counted at the moment it went, so that
//! no packet falls between a look and the removal.

use std::io;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::nftables::{GENERIC, GET_TABLE, INET, NFTABLES, TABLE, counts, header, number, text};
use super::socket::Client;
use super::wire::{self, Encoder, attributes, str_of};
use crate::traffic::{Count, Reading, Set};

const GET_SET: u16 = NFTABLES | 0xa;
const NEW_ELEMENT: u16 = NFTABLES | 0xc;
const GET_ELEMENT: u16 = NFTABLES | 0xd;
const REMOVE_ELEMENT: u16 = NFTABLES | 0xe;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END` (linux/netfilter/nfnetlink.h).
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// `NFTA_TABLE_HANDLE`.
const HANDLE: u16 = 4;
/// `NFTA_SET_NAME`, `NFTA_SET_ELEM_LIST_SET`.
const SET: u16 = 2;
/// `NFTA_SET_ELEM_LIST_ELEMENTS`, and what it consists of: `NFTA_LIST_ELEM`.
const ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
/// `NFTA_SET_ELEM_KEY`, and in it `NFTA_DATA_VALUE`.
const KEY: u16 = 1;
const VALUE: u16 = 1;
/// `NFTA_SET_ELEM_EXPR`; with several, `NFTA_SET_ELEM_EXPRESSIONS`, which consists of `NFTA_LIST_ELEM`.
const EXPRESSION: u16 = 7;
const EXPRESSIONS: u16 = 11;
/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const NAME: u16 = 1;
const DATA: u16 = 2;

/// How often a dump is begun again that a change tore.
const ATTEMPTS: u32 = 4;

/// A socket for one table of the family `inet`.
#[derive(Debug)]
pub struct Counters {
    client: Client,
    table: String,
}

impl Counters {
    /// Elements in one transaction: an attribute has room for 64 KiB, of which an IPv6 element takes 28 bytes.
    pub const CHUNK: usize = 1000;

    /// Opens it in the network namespace of the calling thread. Fails where the kernel has no netfilter.
    pub fn open(table: &str) -> io::Result<Self> {
        Ok(Self { client: Client::of(NETLINK_NETFILTER)?, table: table.to_owned() })
    }

    /// Number of the table, which no other in this network namespace has had or will have; none: there is no
    /// such table.
    pub fn handle(&mut self) -> io::Result<Option<u64>> {
        let mut handle = None;
        let Self { client, table } = self;
        let write = |encoder: &mut Encoder| header(encoder, INET, table);
        let done = client.ask(GET_TABLE, 0, write, |message| {
            let body = message.body.get(GENERIC..).unwrap_or_default();
            handle = attributes(body).find(|(kind, _)| *kind == HANDLE).and_then(|(_, value)| number(value));
        });
        match done {
            Ok(_) => Ok(handle),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The sets of the table that are counters of ours.
    pub fn sets(&mut self) -> io::Result<Vec<Set>> {
        let mut sets = Vec::new();
        let Self { client, table } = self;
        let write = |encoder: &mut Encoder| header(encoder, INET, table);
        client.ask(GET_SET, wire::DUMP, write, |message| {
            let body = message.body.get(GENERIC..).unwrap_or_default();
            let name = |kind: u16| attributes(body).find(|(k, _)| *k == kind).and_then(|(_, value)| str_of(value));
            // A kernel may tell of the sets of all tables.
            if name(TABLE) == Some(table) {
                sets.extend(name(SET).and_then(Set::named));
            }
        })?;
        Ok(sets)
    }

    /// What every element of a set has counted, appended to `out`.
    pub fn read(&mut self, set: Set, out: &mut Vec<Reading>) -> io::Result<()> {
        let start = out.len();
        let name = set.to_string();
        for _ in 0..ATTEMPTS {
            out.truncate(start);
            let Self { client, table } = self;
            let write = |encoder: &mut Encoder| {
                header(encoder, INET, table);
                text(encoder, SET, &name);
            };
            let take = |message: &wire::Message<'_>| elements(message, set, |reading| out.push(reading));
            if !client.ask(GET_ELEMENT, wire::DUMP, write, take)? {
                break;
            }
        }
        Ok(())
    }

    /// Adds elements, in transactions of a thousand. One that is there stays as it is.
    pub fn add(&mut self, set: Set, addrs: &[IpAddr]) -> io::Result<()> {
        addrs.chunks(Self::CHUNK).try_for_each(|addrs| self.change(NEW_ELEMENT, wire::CREATE, set, addrs, |_| ()))
    }

    /// Removes elements, in transactions of a thousand; appends to `out` what each had counted when it went. That
    /// one is not there is an error.
    pub fn remove(&mut self, set: Set, addrs: &[IpAddr], out: &mut Vec<Reading>) -> io::Result<()> {
        addrs.chunks(Self::CHUNK).try_for_each(|addrs| {
            self.change(REMOVE_ELEMENT, wire::ECHO, set, addrs, |message| {
                if message.kind == REMOVE_ELEMENT {
                    elements(message, set, |reading| out.push(reading));
                }
            })
        })
    }

    fn change(
        &mut self,
        kind: u16,
        flags: u16,
        set: Set,
        addrs: &[IpAddr],
        read: impl FnMut(&wire::Message<'_>),
    ) -> io::Result<()> {
        let Self { client, table } = self;
        let write = |encoder: &mut Encoder, first: u32| {
            bracket(encoder, BEGIN, first);
            let start = encoder.begin(kind, wire::REQUEST | wire::ACK | flags, first + 1);
            header(encoder, INET, table);
            text(encoder, SET, &set.to_string());
            let list = encoder.begin_nest(ELEMENTS | NESTED);
            for addr in addrs {
                let element = encoder.begin_nest(ELEMENT | NESTED);
                let key = encoder.begin_nest(KEY | NESTED);
                encoder.attribute_address(VALUE, *addr);
                encoder.end_nest(key);
                encoder.end_nest(element);
            }
            encoder.end_nest(list);
            encoder.end(start);
            bracket(encoder, END, first + 2);
            // The kernel doesn't acknowledge the end of a batch, which it has carried out before it answers.
            first + 1
        };
        client.transact(write, read)
    }
}

/// Begins or ends a batch for nftables.
fn bracket(encoder: &mut Encoder, kind: u16, sequence: u32) {
    let start = encoder.begin(kind, wire::REQUEST, sequence);
    let [high, low] = (NFTABLES >> 8).to_be_bytes();
    encoder.put(&[0, 0, high, low]);
    encoder.end(start);
}

fn elements(message: &wire::Message<'_>, set: Set, mut out: impl FnMut(Reading)) {
    let body = message.body.get(GENERIC..).unwrap_or_default();
    let lists = attributes(body).filter(|(kind, _)| *kind == ELEMENTS);
    for (_, element) in lists.flat_map(|(_, list)| attributes(list)) {
        let (mut addr, mut count) = (None, None);
        for (kind, value) in attributes(element) {
            match kind {
                KEY => {
                    let key = attributes(value).find(|(kind, _)| *kind == VALUE);
                    addr = key.and_then(|(_, value)| wire::address(value));
                }
                EXPRESSION => count = counter(value),
                EXPRESSIONS => count = attributes(value).find_map(|(_, expression)| counter(expression)),
                _ => {}
            }
        }
        if let Some((addr, count)) = addr.zip(count) {
            out(Reading { set, addr, count });
        }
    }
}

fn counter(expression: &[u8]) -> Option<Count> {
    let find = |wanted| attributes(expression).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    find(NAME).and_then(str_of).filter(|name| *name == "counter")?;
    counts(find(DATA)?)
}
