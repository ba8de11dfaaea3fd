//! One host: what its file says, its kernel, and the daemon while it runs.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wayleave::bgp::policy::ExportScope;
use wayleave::bgp::rib::PeerId;
use wayleave::forward::{Batch, Dump, KernelEvent, NexthopOp, OpError, TunnelMode};
use wayleave::net::{Asn, Family, PerFamily, Prefix};

use super::kernel::Kernel;
use super::peer::PeerTask;
use super::routing::{Input, Routing};

/// What the file says.
#[derive(Clone, Debug)]
pub struct Config {
    pub asn: Asn,
    pub router_id: Ipv4Addr,
    pub pools: Arc<[Prefix]>,
    pub subnets: Vec<Prefix>,
    /// By address
    pub peers: BTreeMap<IpAddr, PeerConfig>,
    pub families: Vec<Family>,
    pub tunnel: TunnelMode,
    pub tunnel_device: Option<u32>,
    pub multipath: usize,
    /// Seconds; 0: off
    pub graceful_restart: u16,
    pub hold_time: u16,
    pub connect_retry: Duration,
    pub send_hold_time: Option<Duration>,
    /// Routes refer to nexthop objects; read at start only
    pub objects: bool,
    /// So does this: an object names what takes over when its device goes down
    pub guard: bool,
}

/// A peer of the file.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Which node it is
    pub node: usize,
    pub asn: Asn,
    pub local: IpAddr,
    pub remote: IpAddr,
    pub passive: bool,
    pub client: bool,
    pub export: ExportScope,
}

/// How far a node has left the network.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Stage {
    #[default]
    Present,
    Signalled,
    Withdrawn,
    Closed,
}

/// A host.
pub struct Node {
    pub name: String,
    pub config: Config,
    /// Remembered on disk
    pub stage: Stage,
    pub kernel: Kernel,
    /// A plain router has none, ever
    pub routes: bool,
    pub daemon: Option<Daemon>,
    /// Number of the daemon's incarnation
    pub epoch: u32,
}

/// What runs on it: the peers' tasks, the routing task, the writer's thread, and the queues between.
#[expect(clippy::struct_excessive_bools, reason = "each is the state of another queue")]
#[expect(clippy::option_option, reason = "none, and not known, are two things")]
pub struct Daemon {
    pub peers: BTreeMap<PeerId, PeerTask>,
    pub next_peer: u32,
    pub routing: Routing,
    pub inputs: VecDeque<Input>,
    pub heard: VecDeque<Heard>,
    pub answers: VecDeque<Answer>,
    pub dump: Option<Box<Dump>>,
    pub writer: Writer,
    /// What the watcher could read is on its way
    pub hearing: bool,
    /// Its socket has overrun
    pub deaf: bool,
    /// The node is drained: there are to be no sessions
    pub shut: bool,
    pub turn_due: bool,
    /// The earliest deadline of the sessions; outer `None`: to be worked out again
    pub sessions_due: Option<Option<Instant>>,
    /// That of the routing task, as of its last turn
    pub routing_due: Option<Instant>,
    /// What forwarding has outlived a former run, until peers need not be told any more
    pub preserved: Option<PerFamily<bool>>,
}

/// What the watcher reports.
pub enum Heard {
    /// Each with whether somebody has caused it
    Events(Vec<(KernelEvent, bool)>),
    /// Some were lost
    Overrun,
}

/// What the writer reports: the places of what failed with each.
pub enum Answer {
    Routes(Batch, Vec<(usize, OpError)>),
    Nexthops(Vec<NexthopOp>, Vec<(usize, OpError)>),
}

/// The thread that writes.
#[derive(Default)]
pub struct Writer {
    pub batches: VecDeque<Batch>,
    pub lists: VecDeque<Vec<NexthopOp>>,
    /// How much of the first batch is done, and what of it failed
    pub at: usize,
    pub failed: Vec<(usize, OpError)>,
    /// Its next send is an event
    pub busy: bool,
}

impl Daemon {
    pub fn peer_at(&self, address: IpAddr) -> Option<PeerId> {
        self.peers.values().find(|peer| peer.config.remote == address).map(|peer| peer.id)
    }

    /// When a timer of it expires.
    pub fn deadline(&mut self) -> Option<Instant> {
        let peers = &self.peers;
        let sessions = || peers.values().filter_map(|peer| peer.session.next_deadline()).min();
        let sessions = *self.sessions_due.get_or_insert_with(sessions);
        sessions.into_iter().chain(self.routing_due).min()
    }
}
