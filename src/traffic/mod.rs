//! How much traffic goes to and comes from each remote node: what the kernel counts, and what that adds
//! up to.
//!
//! The kernel counts by prefix ([`Layout`]: a table of its own, in which an element comes or goes without
//! any other being touched, so that its counts outlive the daemon). People ask by node, of which the
//! largest have series of their own: the [`Ledger`] keeps the sums such that no series ever goes back,
//! whatever comes and goes.

mod layout;
mod ledger;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::ops::{AddAssign, Index, IndexMut, Sub};

use serde::{Deserialize, Serialize};

pub use self::layout::{Layout, Set};
pub use self::ledger::{Found, Kept, Ledger, MOST, Total, Totals};
use crate::net::{Family, Prefix};

/// What users see in place of a node's name: the sum of what has no series of its own.
pub const OTHER: &str = "other";

/// Seen from this node.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Direction {
    /// To the remote node
    Transmit,
    /// From it
    Receive,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Transmit, Self::Receive];

    /// The name users see.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Transmit => "transmit",
            Self::Receive => "receive",
        }
    }
}

/// How a packet travels.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Path {
    /// As it is
    Direct,
    /// In the tunnel
    Tunnel,
}

impl Path {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Direct, Self::Tunnel];

    /// The name users see.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tunnel => "tunnel",
        }
    }

    /// Those that packets of a family may take: the tunnel is IPv4 in IPv4.
    pub const fn of(family: Family) -> &'static [Self] {
        match family {
            Family::Ipv4 => &Self::ALL,
            Family::Ipv6 => &[Self::Direct],
        }
    }
}

/// Packets and their bytes, headers of IP included, as the network stack sees them: what a device cuts up or
/// joins for it (GSO, GRO) is one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// Bytes
    pub bytes: u64,
    /// Packets
    pub packets: u64,
}

/// A count for each direction and path.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Counts([Count; 4]);

impl Counts {
    /// All of them, in the order of their labels' declaration.
    pub fn iter(&self) -> impl Iterator<Item = (Direction, Path, Count)> + '_ {
        let cells = Direction::ALL.into_iter().flat_map(|direction| Path::ALL.map(|path| (direction, path)));
        cells.map(|(direction, path)| (direction, path, self[(direction, path)]))
    }

    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|count| count.bytes).sum()
    }
}

const fn place(of: (Direction, Path)) -> usize {
    of.0 as usize * 2 + of.1 as usize
}

impl Index<(Direction, Path)> for Counts {
    type Output = Count;
    fn index(&self, of: (Direction, Path)) -> &Count {
        &self.0[place(of)]
    }
}

impl IndexMut<(Direction, Path)> for Counts {
    fn index_mut(&mut self, of: (Direction, Path)) -> &mut Count {
        &mut self.0[place(of)]
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.packets += more.packets;
    }
}

impl Sub for Count {
    type Output = Self;
    fn sub(self, less: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(less.bytes), packets: self.packets.saturating_sub(less.packets) }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        for (count, more) in self.0.iter_mut().zip(more.0) {
            *count += more;
        }
    }
}

impl Sub for Counts {
    type Output = Self;
    fn sub(mut self, less: Self) -> Self {
        for (count, less) in self.0.iter_mut().zip(less.0) {
            *count = *count - less;
        }
        self
    }
}

/// What one element of a set has counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reading {
    /// Where it is
    pub set: Set,
    /// The network's address; its length is the set's
    pub addr: IpAddr,
    /// What it has counted
    pub count: Count,
}

impl Reading {
    /// What is counted.
    pub fn prefix(&self) -> Prefix {
        Prefix::new(self.addr, self.set.len)
    }
}
