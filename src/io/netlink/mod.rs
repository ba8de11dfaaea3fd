//! The kernel's routing tables, links and addresses, by rtnetlink.
//!
//! | file | what it does |
//! | --- | --- |
//! | [`writer`] | routes and nexthop objects into the kernel, in batches, from a thread of its own |
//! | [`watch`] | changes made by others, as events |
//! | [`host`] | what becomes of links, addresses and settings, and by whom |
//! | [`nftables`] | who changes a firewall table |
//! | [`counters`] | elements of nftables sets that count: read, added, removed |
//! | [`path`] | one packet's way: route, rules, neighbour |
//! | [`query`] | everything at once, one lookup, counters |
//! | `nexthop` | nexthop objects, both ways |
//! | `parse` | messages → the values of `forward` |
//! | `encode` | the writes of `forward` → messages |
//! | `socket` | one question, its answers |
//! | `wire` | messages and attributes as bytes |
//!
//! What is wanted, and which of it must be written, is decided in [`crate::forward`].

pub mod counters;
mod encode;
pub mod host;
pub mod meters;
mod nexthop;
pub mod nftables;
mod parse;
pub mod path;
pub mod query;
mod socket;
pub mod watch;
mod wire;
pub mod writer;

/// What makes a route ours: all three must match.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ours {
    /// Routing table; 254 is the main table.
    pub table: u32,
    /// `rtm_protocol`: the mark of who installed a route.
    pub protocol: u8,
    /// Priority of every route we write. Others that use it for the same prefix are conflicts.
    pub metric: u32,
}

/// The main routing table (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;
