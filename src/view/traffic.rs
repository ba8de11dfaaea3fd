//! Traffic by remote node: `GET /v1/traffic`, `wayleave top`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::net::Prefix;

/// Whether traffic is counted.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Whether it is wanted (`metrics.forwarding`)
    pub enabled: bool,
    /// Whether the kernel counts
    pub counted: bool,
    /// Why not, or what is wrong with it
    pub error: Option<String>,
    /// Remote nodes, or next hops, with series of their own
    pub nodes_own: usize,
    /// Those among the others
    pub nodes_other: usize,
    /// Prefixes that are counted
    pub prefixes: usize,
    /// Known prefixes for which there is no room: what goes there counts as nobody's; at least so many
    pub prefixes_beyond: usize,
}

/// `wayleave top`: what has gone to and come from each remote node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// This node
    pub node: String,
    /// Whether it is ready
    pub ready: bool,
    /// Why, or why not
    pub ready_reason: String,
    /// Peers by session state
    pub sessions: BTreeMap<String, usize>,
    /// Whether traffic is counted
    pub status: TrafficStatus,
    /// When the counters were read, in seconds of a clock that never jumps: for differences
    pub clock: f64,
    /// By name
    pub nodes: Vec<NodeTraffic>,
    /// Inside the pools, and of no known node
    pub unmatched: Passed,
    /// The devices that this traffic passes
    pub devices: Vec<DeviceDrops>,
}

/// What has gone to and come from a remote node since it was first counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeTraffic {
    /// Its name; without a store, the address of the next hop
    pub node: String,
    /// Where it is
    pub address: Option<IpAddr>,
    /// Its prefixes that are counted
    pub subnets: Vec<Prefix>,
    /// `own` or `other`: in which series of the metrics it is counted now
    pub series: String,
    /// Both directions
    #[serde(flatten)]
    pub passed: Passed,
}

/// Both directions.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Passed {
    /// To it
    pub transmit: Paths,
    /// From it
    pub receive: Paths,
}

/// Both paths.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Paths {
    /// As it is
    pub direct: Volume,
    /// Through the tunnel
    pub tunnel: Volume,
}

/// Bytes and packets, as the network stack sees them: what a device cuts up or joins for it is one packet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Bytes, headers of IP included
    pub bytes: u64,
    /// Packets
    pub packets: u64,
}

/// What a device has lost since it was made.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct DeviceDrops {
    /// Its name
    pub device: String,
    /// Errors on receipt
    pub receive_errors: u64,
    /// Packets dropped on receipt
    pub receive_dropped: u64,
    /// Errors on transmit
    pub transmit_errors: u64,
    /// Packets dropped on transmit
    pub transmit_dropped: u64,
}

impl DeviceDrops {
    /// All of them.
    pub const fn sum(&self) -> u64 {
        self.receive_errors
            .saturating_add(self.receive_dropped)
            .saturating_add(self.transmit_errors)
            .saturating_add(self.transmit_dropped)
    }
}
