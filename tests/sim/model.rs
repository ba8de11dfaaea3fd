//! The words that the model of a kernel is written in. `forward`'s own tests have the same file, so
//! that there is one opinion on what a kernel does.

use wayleave::forward::{
    Address, Dump, FibOp, ForeignRoute, Hop, KernelEvent, Link, Nexthop, NexthopId, NexthopObject, NexthopOp, OpError,
    Target,
};
use wayleave::net::{Family, Prefix};

/// Interface index of the tunnel device.
pub const TUNNEL: u32 = 99;
/// Our metric and our protocol.
pub const METRIC: u32 = 2048;
pub const PROTOCOL: u8 = 87;

#[allow(dead_code, reason = "the other tests use all of it")]
#[path = "../../src/forward/tests/kernel.rs"]
mod kernel;

pub use kernel::Kernel;
