//! From a BGP next hop to a kernel route: resolve, direct or tunnel, wanted against actual.
//!
//! [`Forwarder`] is the whole of it. It is fed with what the kernel says ([`KernelEvent`],
//! [`Dump`]) and with the routes that BGP chose ([`Forwarder::set_route`]), and it hands out the
//! writes that bring the kernel's table to them ([`FibOp`]). It opens no socket, reads no clock and
//! knows nothing of BGP: a *next hop* is an address, and whether it ends tunnels.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `words` | next hop, hop, target, write |
//! | `kernel` | links, addresses and routes of others, as events and dumps bring them |
//! | `topology` | their state, and which ways lead to an address |
//! | `encap` | direct, tunnel or recursive |
//! | `resolve` | one next hop to hops, or why not |
//! | `next_hops` | the next hops in use and how each is resolved |
//! | `sets` | ranked sets of ways, which many routes share |
//! | `objects` | the kernel's nexthop objects, one per ranked set |
//! | `targets` | sets of hops, which many routes share |
//! | `slot` | one prefix: wanted, actual, under way |
//! | `table` | prefix → slot |
//! | `fib` | all prefixes, the writes to come and the answers to them |
//! | `retry` | writes the kernel refused |
//! | `held` | repairs that somebody keeps undoing |
//! | `forwarder` | joins them |
//! | `host` | our own addresses and devices |
//! | `explain` | all of it in words |
//! | [`duel`] | what somebody else keeps undoing |
//! | [`sysctls`] | the kernel settings a routed host needs |

pub mod duel;
mod encap;
mod explain;
mod fib;
mod forwarder;
mod held;
mod host;
mod kernel;
mod next_hops;
mod objects;
mod resolve;
mod retry;
mod sets;
mod slot;
pub mod sysctls;
mod table;
mod targets;
mod topology;
mod words;

pub use encap::{Encap, choose};
pub use explain::{Explanation, FailureView, NextHopView};
pub use forwarder::{Conflict, Forwarder, Settings, Stats};
pub use held::Contested;
pub use kernel::{Address, Dump, ForeignRoute, KernelEvent, Link, RouteKind};
pub use objects::source_of;
pub use resolve::{Reason, Resolution, Through};
pub use words::{
    Batch, FibOp, Hop, NextHop, Nexthop, NexthopId, NexthopObject, NexthopOp, OpError, Target, TunnelMode, Way,
};

#[cfg(test)]
mod tests;
