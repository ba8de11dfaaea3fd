//! Words of the forwarding layer: next hop, hop, target, and the writes they end in.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::net::{Family, Prefix};

/// Where BGP says to send a packet. Orders by address first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NextHop {
    /// The address in the NEXT_HOP or MP_REACH attribute
    pub addr: IpAddr,
    /// Device (ifindex) of the session an IPv6 link-local address was learned on; 0: none
    pub scope: u32,
    /// The path carries the Encapsulation community with type IP-in-IP (RFC 9012 §4.1).
    /// `network.tunnel_endpoints` need not be looked at: the forwarder knows them.
    pub ends_tunnel: bool,
}

impl NextHop {
    /// A next hop that does not say that it ends tunnels.
    pub const fn new(addr: IpAddr) -> Self {
        Self { addr, scope: 0, ends_tunnel: false }
    }

    /// The same, learned on a session over this device. Kept for IPv6 link-local addresses only:
    /// for any other address the device of the session says nothing.
    #[must_use]
    pub const fn on(mut self, device: u32) -> Self {
        if let IpAddr::V6(addr) = self.addr
            && addr.is_unicast_link_local()
        {
            self.scope = device;
        }
        self
    }

    /// The same, ending tunnels or not.
    #[must_use]
    pub const fn ending_tunnel(mut self, ends_tunnel: bool) -> Self {
        self.ends_tunnel = ends_tunnel;
        self
    }
}

/// One path's way to its destination: a next hop, and who told of it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Way {
    /// Where to send
    pub next_hop: NextHop,
    /// The same number for all that one peer tells, also after a restart of ours: what comes of its
    /// end ([`crate::forward::Forwarder::source_down`]) is known before the paths are gone
    pub source: u32,
}

/// How the kernel sends it: one way out.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Hop {
    /// The neighbour, or the far end of the tunnel; `None`: whatever is on the device's link
    pub gateway: Option<IpAddr>,
    /// Interface index
    pub device: u32,
    /// Through our IP-in-IP device
    pub tunnel: bool,
    /// The gateway counts as on-link though no prefix says so (`RTNH_F_ONLINK`). Always set with
    /// `tunnel`.
    pub onlink: bool,
}

impl Hop {
    /// A neighbour on a device's link.
    pub const fn direct(gateway: IpAddr, device: u32) -> Self {
        Self { gateway: Some(gateway), device, tunnel: false, onlink: false }
    }

    /// The far end of a tunnel over our device.
    pub const fn tunnel(end: IpAddr, device: u32) -> Self {
        Self { gateway: Some(end), device, tunnel: true, onlink: true }
    }
}

/// Number of a kernel nexthop object (`NHA_ID`), unique in a network namespace.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NexthopId(pub u32);

/// What a kernel nexthop object does.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Nexthop {
    /// Sends over one hop; the family is that of the routes which may use it where the hop has no
    /// gateway, else the gateway's
    Hop(Hop, Family),
    /// Sends over one of these objects, each with the same weight: sorted, none twice, at least one
    Group(Arc<[NexthopId]>),
    /// Sends over one of the `used` objects, each with the same weight (sorted, none twice); when the
    /// kernel has dropped the last of them, over the spare one, without asking anybody
    Guarded {
        /// May be empty only where the kernel dropped them
        used: Arc<[NexthopId]>,
        /// Carries nothing as long as one of the others is there
        spare: Option<NexthopId>,
    },
    /// Anything else: another's object of a sort that we never make
    Other,
}

impl Nexthop {
    /// The objects it names.
    pub fn members(&self) -> impl Iterator<Item = NexthopId> {
        let (used, spare): (&[NexthopId], _) = match self {
            Self::Group(used) => (used, None),
            Self::Guarded { used, spare } => (used, *spare),
            Self::Hop(..) | Self::Other => (&[], None),
        };
        used.iter().copied().chain(spare)
    }

    /// Without the objects that are gone; `None`: nothing is left of it.
    #[must_use]
    pub fn without(&self, gone: &dyn Fn(NexthopId) -> bool) -> Option<Self> {
        let rest = |used: &[NexthopId]| used.iter().copied().filter(|id| !gone(*id)).collect::<Arc<[_]>>();
        match self {
            Self::Group(used) => Some(rest(used)).filter(|used| !used.is_empty()).map(Self::Group),
            Self::Guarded { used, spare } => {
                let (used, spare) = (rest(used), spare.filter(|id| !gone(*id)));
                (!used.is_empty() || spare.is_some()).then_some(Self::Guarded { used, spare })
            }
            Self::Hop(..) | Self::Other => Some(self.clone()),
        }
    }
}

/// A kernel nexthop object, whoever made it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NexthopObject {
    /// Its number
    pub id: NexthopId,
    /// Who made it (`nh_protocol`)
    pub protocol: u8,
    /// What it does
    pub nexthop: Nexthop,
}

/// What a route does. Cheap to clone, compares by value.
#[derive(Clone, Debug)]
pub enum Target {
    /// Over one of these hops, each with the same weight: sorted, none twice, at least one
    Via(Arc<[Hop]>),
    /// What this nexthop object does at the time
    Object(NexthopId),
    /// Drop silently
    Blackhole,
}

impl Target {
    /// Over these hops; `None` if there is none. Sorts and removes repetitions.
    pub fn via(hops: impl IntoIterator<Item = Hop>) -> Option<Self> {
        let mut hops: Vec<Hop> = hops.into_iter().collect();
        hops.sort_unstable();
        hops.dedup();
        (!hops.is_empty()).then(|| Self::Via(hops.into()))
    }

    /// The hops; none for a blackhole, and those of an object are not told here.
    pub fn hops(&self) -> &[Hop] {
        match self {
            Self::Via(hops) => hops,
            Self::Object(_) | Self::Blackhole => &[],
        }
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Via(a), Self::Via(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Object(a), Self::Object(b)) => a == b,
            (Self::Blackhole, Self::Blackhole) => true,
            _ => false,
        }
    }
}

impl Eq for Target {}

impl Hash for Target {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Via(hops) => hops.hash(state),
            Self::Object(id) => id.hash(state),
            // Told from all others by saying nothing.
            Self::Blackhole => {}
        }
    }
}

/// One write to the kernel's table: our table, protocol and metric are the writer's to add.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FibOp {
    /// We believe that nothing of ours is there: `NLM_F_CREATE | NLM_F_EXCL`
    Create(Prefix, Target),
    /// Something of ours is there: `NLM_F_REPLACE` alone, so that a lost route is an answer. The
    /// kernel would replace a foreign route with the same metric too: none is known of.
    Replace(Prefix, Target),
    /// Ours, as it was last known: matched by protocol, metric and hops, so that it can't hit
    /// another's
    Remove(Prefix, Target),
}

impl FibOp {
    /// The prefix it writes; at most one operation per prefix is under way at any time.
    pub const fn prefix(&self) -> Prefix {
        match self {
            Self::Create(prefix, _) | Self::Replace(prefix, _) | Self::Remove(prefix, _) => *prefix,
        }
    }
}

/// Writes in the order they are to be carried out, and what their answers are matched by. The writer
/// gives it back, so that its memory is used again.
#[derive(Debug, Default)]
pub struct Batch {
    /// The writes
    pub ops: Vec<FibOp>,
    /// Of each, the number of its prefix
    pub(super) cells: Vec<u32>,
}

impl Batch {
    /// Empties it and keeps the room.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.cells.clear();
    }
}

/// One write to the kernel's nexthop objects: our protocol is the writer's to add.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NexthopOp {
    /// Made, or changed at once for all routes that use it: `NLM_F_CREATE | NLM_F_REPLACE`. The
    /// kernel never turns a hop into a group or back.
    Set(NexthopId, Nexthop),
    /// Removed. The kernel removes the routes that still use it as well, without telling.
    Remove(NexthopId),
}

impl NexthopOp {
    /// The object it writes.
    pub const fn id(&self) -> NexthopId {
        match self {
            Self::Set(id, _) | Self::Remove(id) => *id,
        }
    }
}

/// Why the kernel refused an operation.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum OpError {
    /// `EEXIST`: something has this prefix with our metric
    #[error("a route with this prefix and metric exists")]
    Exists,
    /// `ESRCH`, `ENOENT`: nothing to replace or remove
    #[error("no such route")]
    NoSuchRoute,
    /// `ENETUNREACH`, `EHOSTUNREACH`, `ENETDOWN`, `EINVAL`: a hop's gateway or device is not usable
    #[error("a gateway cannot be reached over its device")]
    Unreachable,
    /// `ENODEV`: a hop's device is gone
    #[error("no such device")]
    NoDevice,
    /// Any other errno
    #[error("errno {0}")]
    Other(i32),
}

/// When traffic to another node goes through a tunnel (`network.tunnel`).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelMode {
    /// Never: the underlay knows all routes
    Never,
    /// Only to next hops that are not on-link
    #[default]
    CrossSubnet,
    /// To each next hop that ends tunnels
    Always,
}

impl fmt::Display for TunnelMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::CrossSubnet => "cross-subnet",
            Self::Always => "always",
        })
    }
}
