//! All nodes, the network between them, and one queue of events on one virtual clock.
//!
//! Nothing here is random but by the seed: the same seed and script give the same run.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use wayleave::bgp::message::Notification;
use wayleave::bgp::rib::PeerId;
use wayleave::bgp::session::{Event, State};
use wayleave::forward::Dump;
use wayleave::net::Prefix;

use super::fabric::Fabric;
use super::node::{Daemon, Node, PeerConfig};
use super::peer::PeerTask;
use super::tcp::Conn;

/// What happens at an instant.
pub enum What {
    /// The first item of a stream is to arrive; the stream is that of the end with this number
    Arrive {
        conn: usize,
        end: usize,
    },
    /// An end learns that the other does not know the connection
    Reset {
        conn: usize,
        end: usize,
    },
    Syn {
        conn: usize,
        tries: u32,
    },
    Connected {
        conn: usize,
    },
    DialFailed {
        conn: usize,
    },
    /// The routing task takes what has come
    Turn {
        node: usize,
        epoch: u32,
    },
    /// The writer thread sends to the kernel
    Send {
        node: usize,
        epoch: u32,
    },
    /// A connection is reset that could not say its last words in time
    GiveUp {
        conn: usize,
        end: usize,
    },
    /// The watcher hears the kernel
    Hear {
        node: usize,
        epoch: u32,
    },
    Dump {
        node: usize,
        epoch: u32,
    },
    Dumped {
        node: usize,
        epoch: u32,
        dump: Box<Dump>,
    },
    /// The node task follows the file
    Tunnel {
        node: usize,
    },
}

pub struct World {
    /// Since the start
    pub now: Duration,
    start: Instant,
    pub nodes: Vec<Node>,
    pub fabric: Fabric,
    pub conns: Vec<Conn>,
    events: BTreeMap<(Duration, u64), What>,
    count: u64,
    pub rng: SmallRng,
    /// Of one packet, at least
    pub latency: Duration,
    /// Pairs of nodes that hold different connections for Established, since when
    pub disagree: BTreeMap<(usize, usize, IpAddr), Duration>,
    /// Destinations that must stay in reach of nodes, whatever is written
    pub reach: Vec<(usize, Prefix)>,
    /// Events so far at this instant
    crowd: u32,
    /// What must not be
    pub broken: Option<String>,
    /// Numbers that tell one run from another
    pub digest: u64,
    pub trace: bool,
}

macro_rules! trace {
    ($world:expr, $($text:tt)*) => {
        if $world.trace {
            eprintln!("{:>12.6} {}", $world.now.as_secs_f64(), format_args!($($text)*));
        }
    };
}
pub(crate) use trace;

/// What a drained node's peers are told.
pub fn farewell() -> Notification {
    Notification::shutdown("is drained")
}

impl World {
    pub fn new(seed: u64, nodes: Vec<Node>, fabric: Fabric, latency: Duration) -> Self {
        Self {
            now: Duration::ZERO,
            start: Instant::now(),
            nodes,
            fabric,
            conns: Vec::new(),
            events: BTreeMap::new(),
            count: 0,
            rng: SmallRng::seed_from_u64(seed),
            latency,
            disagree: BTreeMap::new(),
            reach: Vec::new(),
            crowd: 0,
            broken: None,
            digest: 0,
            trace: false,
        }
    }

    pub fn instant(&self) -> Instant {
        self.start + self.now
    }

    pub fn at(&mut self, after: Duration, what: What) {
        self.count += 1;
        self.events.insert((self.now + after, self.count), what);
    }

    /// The first complaint counts: those after it may follow from it.
    pub fn complain(&mut self, what: String) {
        trace!(self, "BROKEN: {what}");
        self.broken.get_or_insert(what);
    }

    /// Up to `most`, evenly.
    pub fn some(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.random_range(0.0..1.0))
    }

    pub fn packet(&mut self) -> Duration {
        let jitter = self.some(self.latency);
        self.latency + jitter
    }

    // ---- the clock ----

    /// Lets everything happen until `end`, or until something is broken.
    pub fn run_until(&mut self, end: Duration) {
        while self.broken.is_none() {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let now = self.instant();
            let deadlines = self.nodes.iter_mut().enumerate().filter_map(|(node, host)| {
                let at = host.daemon.as_mut()?.deadline()?;
                Some((at.saturating_duration_since(self.start), node))
            });
            let timer = deadlines.min();
            match (event, timer) {
                (Some(at), timer) if at <= end && timer.is_none_or(|(due, _)| at <= due) => {
                    self.now = self.now.max(at);
                    if let Some((_, what)) = self.events.pop_first() {
                        self.happen(what);
                    }
                }
                (_, Some((due, node))) if due <= end => {
                    self.now = self.now.max(due);
                    self.expire(node);
                }
                _ => break,
            }
            self.crowd = if self.instant() == now { self.crowd + 1 } else { 0 };
            if self.crowd > 10_000 {
                let who = timer.map(|(_, node)| self.nodes[node].name.clone());
                self.complain(format!("time stands still; the next deadline is of {who:?}"));
            }
            self.note(u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX));
            self.check_agreement();
        }
        self.now = self.now.max(end);
    }

    pub fn note(&mut self, number: u64) {
        self.digest = (self.digest ^ number).wrapping_mul(0x0100_0000_01b3);
    }

    fn expire(&mut self, node: usize) {
        let now = self.instant();
        let Some(daemon) = &self.nodes[node].daemon else { return };
        let due = |peer: &&PeerTask| peer.session.next_deadline().is_some_and(|at| at <= now);
        let ids: Vec<PeerId> = daemon.peers.values().filter(due).map(|peer| peer.id).collect();
        let routing = daemon.routing_due.is_some_and(|at| at <= now);
        for id in ids {
            self.note_sent(node, id);
            self.feed(node, id, Event::Timeout);
        }
        if routing {
            self.turn(node);
        }
    }

    /// A peer's task learns how far its writers got.
    fn note_sent(&mut self, node: usize, id: PeerId) {
        let conns: Vec<usize> = self
            .daemon(node)
            .and_then(|daemon| daemon.peers.get(&id))
            .map(|peer| peer.connections().collect())
            .unwrap_or_default();
        for conn in conns {
            let end = self.end_of(conn, node);
            let at = self.conns[conn].ends[end].as_ref().map(|app| self.start + app.sent_at);
            let peer = self.nodes[node].daemon.as_mut().and_then(|daemon| daemon.peers.get_mut(&id));
            if let (Some(peer), Some(at)) = (peer, at) {
                peer.note_sent(conn, at);
            }
        }
    }

    pub fn daemon(&mut self, node: usize) -> Option<&mut Daemon> {
        self.nodes[node].daemon.as_mut()
    }

    pub fn daemon_of(&mut self, node: usize, epoch: u32) -> Option<&mut Daemon> {
        if self.nodes[node].epoch == epoch { self.nodes[node].daemon.as_mut() } else { None }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Arrive { conn, end } => self.arrive(conn, end),
            What::Reset { conn, end } => self.lose(conn, end),
            What::Syn { conn, tries } => self.syn(conn, tries),
            What::Connected { conn } => self.connected(conn),
            What::DialFailed { conn } => self.dial_failed(conn),
            What::Turn { node, epoch } => {
                if let Some(daemon) = self.daemon_of(node, epoch) {
                    daemon.turn_due = false;
                    self.turn(node);
                }
            }
            What::Send { node, epoch } => {
                if self.daemon_of(node, epoch).is_some() {
                    self.sent(node);
                }
            }
            What::GiveUp { conn, end } => self.give_up(conn, end),
            What::Hear { node, epoch } => {
                if self.daemon_of(node, epoch).is_some() {
                    self.hear(node);
                }
            }
            What::Dump { node, epoch } => {
                if self.daemon_of(node, epoch).is_some() {
                    let dump = Box::new(self.nodes[node].kernel.dump());
                    let after = self.some(Duration::from_millis(2));
                    self.at(after, What::Dumped { node, epoch, dump });
                }
            }
            What::Dumped { node, epoch, dump } => {
                if let Some(daemon) = self.daemon_of(node, epoch) {
                    daemon.dump = Some(dump);
                    self.wake(node);
                }
            }
            What::Tunnel { node } => {
                let host = &mut self.nodes[node];
                host.kernel.set_tunnel(&host.config.subnets);
                self.kernel_changed(node);
            }
        }
    }

    // ---- what must hold all the time ----

    /// Both ends of a session are asked whether they mean the same connection.
    pub fn compare(&mut self, node: usize, id: PeerId) {
        let up = |world: &Self, node: usize, remote: IpAddr| {
            let daemon = world.nodes[node].daemon.as_ref()?;
            daemon.peers.values().find(|peer| peer.config.remote == remote)?.up
        };
        let Some(peer) = self.daemon(node).and_then(|daemon| daemon.peers.get(&id)) else { return };
        let PeerConfig { node: other, local, remote, .. } = peer.config;
        let key = if node < other { (node, other, remote) } else { (other, node, local) };
        match (up(self, node, remote), up(self, other, local)) {
            (Some(a), Some(b)) if a != b => {
                self.disagree.entry(key).or_insert(self.now);
            }
            _ => drop(self.disagree.remove(&key)),
        }
    }

    fn check_agreement(&mut self) {
        let hold = |node: usize| u64::from(self.nodes[node].config.hold_time);
        let limit = |a: usize, b: usize| Duration::from_secs(hold(a).min(hold(b)) + 3);
        let long = self.disagree.iter().find(|((a, b, _), since)| self.now.saturating_sub(**since) > limit(*a, *b));
        if let Some(((a, b, _), since)) = long {
            let names = (&self.nodes[*a].name, &self.nodes[*b].name);
            let text = format!("{names:?} hold different connections for Established since {since:?}");
            self.complain(text);
        }
    }

    // ---- seen ----

    /// Whether two nodes have a session with each other on one connection; what is wrong, otherwise.
    pub fn session(&self, node: usize, peer: &PeerConfig) -> Result<(PeerId, PeerId), String> {
        let end = |node: usize, remote: IpAddr| {
            let daemon = self.nodes[node].daemon.as_ref()?;
            daemon.peers.values().find(|peer| peer.config.remote == remote)
        };
        let (near, far) = (end(node, peer.remote), end(peer.node, peer.local));
        let (Some(near), Some(far)) = (near, far) else { return Err("not configured".to_owned()) };
        let state = (near.session.state(), far.session.state());
        if state != (State::Established, State::Established) || near.up != far.up {
            let names = (&self.nodes[node].name, &self.nodes[peer.node].name);
            return Err(format!("{names:?} are {state:?} on {:?} and {:?}", near.up, far.up));
        }
        Ok((near.id, far.id))
    }
}
