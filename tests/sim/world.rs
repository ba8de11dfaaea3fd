//! All nodes, the network between them, and one queue of events on one virtual clock.
//!
//! Nothing here is random but by the seed: the same seed and script give the same run.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use wayleave::bgp::message::{Codec, Message, Notification};
use wayleave::bgp::rib::PeerId;
use wayleave::bgp::session::{Event, Side, State};
use wayleave::bgp::wire;
use wayleave::forward::Dump;
use wayleave::net::Prefix;

use super::fabric::Fabric;
use super::node::{Daemon, Node, PeerConfig};
use super::peer::PeerTask;
use super::tcp::{Conn, End, Item};

/// How long a closed connection may take to get its last message out, as in the daemon.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

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
            self.note(self.now.as_nanos() as u64);
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

    // ---- TCP ----

    pub fn dial(&mut self, node: usize, id: PeerId) {
        let epoch = self.nodes[node].epoch;
        let retry = self.nodes[node].config.connect_retry;
        let Some(peer) = self.daemon(node).and_then(|daemon| daemon.peers.get(&id)) else { return };
        let PeerConfig { node: other, local, remote, .. } = peer.config;
        let conn = self.conns.len();
        self.conns.push(Conn {
            nodes: [node, other],
            addresses: [local, remote],
            ends: [None, None],
            streams: Default::default(),
            cancelled: false,
            dialling: Some((epoch, id)),
        });
        if let Some(peer) = self.daemon(node).and_then(|daemon| daemon.peers.get_mut(&id)) {
            peer.dial = Some(conn);
        }
        let routed = self.nodes[node].kernel.lookup(remote) != super::kernel::Way::Nowhere;
        if routed {
            let after = self.packet();
            self.at(after, What::Syn { conn, tries: 0 });
            self.at(retry.min(Duration::from_secs(10)), What::DialFailed { conn });
        } else {
            self.at(Duration::from_micros(50), What::DialFailed { conn });
        }
    }

    /// A SYN is due at the listener.
    fn syn(&mut self, conn: usize, tries: u32) {
        let Conn { nodes: [from, to], addresses: [local, remote], dialling, cancelled, .. } = self.conns[conn];
        if dialling.is_none() || cancelled {
            return;
        }
        if !(self.gets_through(from, remote) && self.gets_through(to, local)) {
            let after = Duration::from_secs(1 << tries.min(5));
            self.at(after, What::Syn { conn, tries: tries + 1 });
            return;
        }
        let after = self.packet();
        if self.nodes[to].daemon.is_some() {
            self.at(after, What::Connected { conn });
        } else {
            self.at(after, What::DialFailed { conn });
        }
    }

    fn connected(&mut self, conn: usize) {
        let Some((epoch, id)) = self.conns[conn].dialling.take() else { return };
        let node = self.conns[conn].nodes[0];
        if self.conns[conn].cancelled || self.daemon_of(node, epoch).is_none() {
            return;
        }
        self.conns[conn].ends[0] = Some(End::new(epoch, id, self.now));
        self.push(conn, 0, Item::Accept);
        let now = self.instant();
        let Some(peer) = self.daemon(node).and_then(|daemon| daemon.peers.get_mut(&id)) else {
            return self.hang_up(conn, 0);
        };
        peer.dial = None;
        let mut effects = Vec::new();
        peer.connected(now, Side::Outgoing, conn, &mut effects);
        self.carry_out(node, id, effects);
    }

    fn dial_failed(&mut self, conn: usize) {
        let Some((epoch, id)) = self.conns[conn].dialling.take() else { return };
        let node = self.conns[conn].nodes[0];
        let cancelled = self.conns[conn].cancelled;
        let now = self.instant();
        let Some(peer) = self.daemon_of(node, epoch).and_then(|daemon| daemon.peers.get_mut(&id)) else { return };
        if !cancelled && peer.dial == Some(conn) {
            let mut effects = Vec::new();
            peer.dial_failed(now, &mut effects);
            self.carry_out(node, id, effects);
        }
    }

    fn gets_through(&mut self, from: usize, to: IpAddr) -> bool {
        match self.fabric.reaches(&self.nodes, from, to) {
            Some(lossy) => !(lossy && self.rng.random_ratio(1, 3)),
            None => false,
        }
    }

    pub fn push(&mut self, conn: usize, end: usize, item: Item) {
        let at = self.now + self.packet();
        self.conns[conn].streams[end].push(item, &mut || at);
        self.schedule(conn, end);
    }

    /// The first item of a stream is to arrive in its time.
    fn schedule(&mut self, conn: usize, end: usize) {
        let now = self.now;
        let stream = &mut self.conns[conn].streams[end];
        if let Some((at, _)) = stream.items.front()
            && !stream.scheduled
        {
            let after = at.saturating_sub(now);
            stream.scheduled = true;
            self.at(after, What::Arrive { conn, end });
        }
    }

    /// The first item that `end` sent arrives at the other, unless it has to be sent again.
    fn arrive(&mut self, conn: usize, end: usize) {
        let (from, to) = (self.conns[conn].nodes[end], self.conns[conn].addresses[1 - end]);
        let through = self.gets_through(from, to);
        let stream = &mut self.conns[conn].streams[end];
        if !through {
            stream.tries += 1;
            let again = Duration::from_millis(200 << stream.tries.min(6));
            // An orphan is given up by its kernel in the end.
            if stream.tries < 20 {
                self.at(again, What::Arrive { conn, end });
            }
            return;
        }
        stream.tries = 0;
        stream.scheduled = false;
        let Some((_, item)) = stream.items.pop_front() else { return };
        match item {
            Item::Accept => self.accepted(conn),
            Item::Data(bytes) => self.data(conn, end, bytes),
            Item::Fin => self.lose(conn, 1 - end),
        }
        self.pump(conn, end);
        self.schedule(conn, end);
    }

    fn data(&mut self, conn: usize, end: usize, bytes: Bytes) {
        let other = 1 - end;
        let Some((epoch, id)) = self.conns[conn].ends[other].as_ref().map(|app| app.owner) else {
            // Nobody holds it there: the kernel says so.
            let after = self.packet();
            return self.at(after, What::Reset { conn, end });
        };
        let mut bytes = bytes;
        if bytes.len() > 1 && self.rng.random_ratio(1, 4) {
            let rest = bytes.split_off(self.rng.random_range(1..bytes.len()));
            let at = self.now + Duration::from_micros(100);
            self.conns[conn].streams[end].items.push_front((at, Item::Data(rest)));
        }
        let node = self.conns[conn].nodes[other];
        let now = self.instant();
        let Some(peer) = self.daemon_of(node, epoch).and_then(|daemon| daemon.peers.get_mut(&id)) else { return };
        let mut effects = Vec::new();
        peer.read(now, conn, &bytes, &mut effects);
        self.carry_out(node, id, effects);
    }

    fn accepted(&mut self, conn: usize) {
        let (node, from) = (self.conns[conn].nodes[1], self.conns[conn].addresses[0]);
        let (now, epoch) = (self.instant(), self.nodes[node].epoch);
        let shut = self.daemon(node).is_some_and(|daemon| daemon.shut);
        let Some(id) = self.daemon(node).and_then(|daemon| daemon.peer_at(from)) else {
            // Nobody listens any more, or nobody knows the peer.
            let after = self.packet();
            return self.at(after, What::Reset { conn, end: 0 });
        };
        self.conns[conn].ends[1] = Some(End::new(epoch, id, self.now));
        if shut {
            return self.refuse(conn);
        }
        let Some(peer) = self.daemon(node).and_then(|daemon| daemon.peers.get_mut(&id)) else { return };
        let mut effects = Vec::new();
        peer.accepted(now, conn, &mut effects);
        self.carry_out(node, id, effects);
    }

    /// A drained node says why it has no sessions.
    fn refuse(&mut self, conn: usize) {
        let mut bytes = Vec::new();
        wire::encode(&Message::Notification(farewell()), &Codec::INITIAL, &mut bytes);
        if let Some(app) = &mut self.conns[conn].ends[1] {
            app.send(bytes.into());
        }
        self.hang_up(conn, 1);
    }

    /// An end learns that the connection is over.
    fn lose(&mut self, conn: usize, end: usize) {
        let Some(app) = self.conns[conn].ends[end].take() else { return };
        let (epoch, id) = app.owner;
        // Closes its routes queue; what it still wanted to say, nobody hears.
        app.close();
        let node = self.conns[conn].nodes[end];
        let now = self.instant();
        let Some(peer) = self.daemon_of(node, epoch).and_then(|daemon| daemon.peers.get_mut(&id)) else { return };
        let mut effects = Vec::new();
        peer.disconnected(now, conn, &mut effects);
        self.carry_out(node, id, effects);
    }

    /// The application closes: what it has said goes out, then FIN.
    pub fn hang_up(&mut self, conn: usize, end: usize) {
        let Some(app) = self.conns[conn].ends[end].take() else { return };
        for bytes in app.close() {
            self.push(conn, end, Item::Data(bytes));
        }
        self.push(conn, end, Item::Fin);
        self.at(CLOSE_GRACE, What::GiveUp { conn, end });
    }

    /// What is not out by now is forgotten; the other end may hear that.
    fn give_up(&mut self, conn: usize, end: usize) {
        if self.conns[conn].streams[end].items.is_empty() {
            return;
        }
        self.conns[conn].streams[end].items.clear();
        let (from, to) = (self.conns[conn].nodes[end], self.conns[conn].addresses[1 - end]);
        if self.gets_through(from, to) {
            let after = self.packet();
            self.at(after, What::Reset { conn, end: 1 - end });
        }
    }

    pub fn pump(&mut self, conn: usize, end: usize) {
        let latency = self.latency;
        let (now, rng) = (self.now, &mut self.rng);
        let ready = || now + latency + latency.mul_f64(rng.random_range(0.0..1.0));
        if self.conns[conn].pump(end, now, ready) {
            self.schedule(conn, end);
            // There may be room for who is behind.
            let node = self.conns[conn].nodes[end];
            if self.daemon(node).is_some_and(|daemon| daemon.routing.can_catch_up()) {
                self.wake(node);
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
        let long = self.disagree.iter().find(|((a, b, _), since)| self.now - **since > limit(*a, *b));
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
