//! What the script does to the nodes and the wires between them.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use wayleave::bgp::message::Notification;
use wayleave::bgp::rib::PeerId;
use wayleave::bgp::session::Event;
use wayleave::bgp::wire::Cease;
use wayleave::net::Prefix;

use super::node::{Daemon, Heard, Node, PeerConfig, Stage, Writer};
use super::peer::PeerTask;
use super::routing::{Input, Routing};
use super::script::Act;
use super::tcp::{Conn, Item};
use super::world::{What, World, farewell, trace};

impl World {
    pub fn act(&mut self, act: &Act) {
        trace!(self, "{act:?}");
        match act {
            Act::Start(node) => self.start(*node),
            Act::Crash(node) => self.crash(*node),
            Act::Stop { node, graceful } => self.stop(*node, *graceful),
            Act::Link { port, up, carrier } => self.set_link(*port, *up, *carrier),
            Act::Mute { port, send, receive } => {
                let port = &mut self.fabric.ports[*port];
                (port.mute, port.deaf) = (*send, *receive);
            }
            Act::Lossy { port, on } => self.fabric.ports[*port].lossy = *on,
            Act::Cut { ports: [a, b], on } => {
                let pair = (*a.min(b), *a.max(b));
                if *on {
                    self.fabric.cuts.insert(pair);
                } else {
                    self.fabric.cuts.remove(&pair);
                }
            }
            Act::Reset(a, b) => self.reset(*a, *b),
            Act::Latency(latency) => self.latency = *latency,
            Act::Peer { node, peer, there } => self.set_peer(*node, peer, *there),
            Act::Subnet { node, subnet, there } => self.set_subnet(*node, *subnet, *there),
            Act::Tamper { node, nth } => {
                self.nodes[*node].kernel.tamper(*nth);
                self.kernel_changed(*node);
            }
            Act::TamperNexthop { node, nth, delete } => {
                self.nodes[*node].kernel.tamper_with_nexthop(*nth, *delete);
                self.kernel_changed(*node);
            }
            Act::Refuse { node, count } => self.nodes[*node].kernel.refuse(*count),
            Act::Deaf { node, on } => self.set_deaf(*node, *on),
            Act::Drain { node, stage } => self.drain(*node, *stage),
            Act::Objects { node, on } => self.nodes[*node].config.objects = *on,
        }
    }

    /// Nothing is wrong any more, but for what the files say.
    pub fn heal(&mut self, latency: Duration) {
        trace!(self, "all is healed");
        self.latency = latency;
        self.fabric.cuts.clear();
        for port in 0..self.fabric.ports.len() {
            self.set_link(port, true, true);
            let port = &mut self.fabric.ports[port];
            (port.mute, port.deaf, port.lossy) = (false, false, false);
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].kernel.refuse(0);
            self.set_deaf(node, false);
            self.drain(node, Stage::Present);
            self.start(node);
        }
    }

    // ---- daemons ----

    pub fn start(&mut self, node: usize) {
        let now = self.instant();
        let host = &mut self.nodes[node];
        if host.daemon.is_some() || !host.routes {
            return;
        }
        host.epoch += 1;
        host.kernel.set_tunnel(&host.config.subnets);
        // What happened while nobody listened is in the dump.
        host.kernel.take_events();
        let routing = Routing::start(&host.config, host.kernel.dump(), now, self.now);
        let preserved = Some(routing.preserved());
        let stage = host.stage;
        host.daemon = Some(Daemon {
            peers: BTreeMap::new(),
            next_peer: 0,
            routing,
            inputs: [].into(),
            heard: [].into(),
            answers: [].into(),
            dump: None,
            writer: Writer::default(),
            hearing: false,
            deaf: false,
            shut: stage == Stage::Closed,
            turn_due: false,
            sessions_due: None,
            routing_due: None,
            preserved,
        });
        trace!(self, "{} starts, {stage:?}, has preserved {preserved:?}", self.nodes[node].name);
        if let Some(daemon) = self.daemon(node).filter(|_| stage != Stage::Present) {
            daemon.inputs.push_back(Input::Drain(stage));
        }
        let peers: Vec<PeerConfig> = self.nodes[node].config.peers.values().cloned().collect();
        for peer in peers {
            self.start_peer(node, peer);
        }
        if let Some(daemon) = self.daemon(node) {
            daemon.inputs.push_back(Input::Gathered);
        }
        self.wake(node);
    }

    fn start_peer(&mut self, node: usize, peer: PeerConfig) {
        let seed = self.rng.random();
        let Node { config, daemon: Some(daemon), .. } = &mut self.nodes[node] else { return };
        let id = PeerId(daemon.next_peer);
        daemon.next_peer += 1;
        daemon.inputs.push_back(Input::Add(id, peer.clone()));
        let task = PeerTask::new(id, config, peer, seed, daemon.preserved);
        daemon.peers.insert(id, task);
        daemon.sessions_due = None;
        let shut = daemon.shut;
        self.feed(node, id, Event::Start);
        if shut {
            self.feed(node, id, Event::Stop(farewell()));
        }
    }

    /// The daemon dies; its kernel closes its connections and keeps forwarding.
    pub fn crash(&mut self, node: usize) {
        trace!(self, "{} crashes", self.nodes[node].name);
        let host = &mut self.nodes[node];
        let Some(daemon) = host.daemon.take() else { return };
        for peer in daemon.peers.values() {
            if let Some(conn) = peer.dial {
                self.conns[conn].cancelled = true;
            }
            for conn in peer.connections() {
                let end = self.end_of(conn, node);
                if let Some(app) = self.conns[conn].ends[end].take() {
                    app.close();
                    self.push(conn, end, Item::Fin);
                }
            }
        }
        self.disagree.retain(|(a, b, _), _| *a != node && *b != node);
    }

    /// The daemon stops: without a word that would end graceful restart, or saying so.
    pub fn stop(&mut self, node: usize, graceful: bool) {
        let leaves = self.nodes[node].stage != Stage::Present;
        if leaves {
            self.nodes[node].stage = Stage::Closed;
        }
        for id in self.peers_of(node) {
            let event = if graceful && !leaves { Event::Abandon } else { Event::Stop(Notification::shutdown("stops")) };
            self.feed(node, id, event);
        }
        self.crash(node);
    }

    /// TCP between two nodes is reset, by something in the middle.
    pub fn reset(&mut self, a: usize, b: usize) {
        let between = |conn: &Conn| conn.nodes == [a, b] || conn.nodes == [b, a];
        let hit: Vec<usize> = (0..self.conns.len()).filter(|conn| between(&self.conns[*conn])).collect();
        for conn in hit {
            for end in 0..2 {
                if self.conns[conn].ends[end].is_some() {
                    self.conns[conn].streams[end].items.clear();
                    let after = self.packet();
                    self.at(after, What::Reset { conn, end });
                }
            }
        }
    }

    /// The file of a node names this peer from now on, or no longer.
    pub fn set_peer(&mut self, node: usize, peer: &PeerConfig, there: bool) {
        let peers = &mut self.nodes[node].config.peers;
        if there == peers.contains_key(&peer.remote) {
            return;
        }
        if there {
            peers.insert(peer.remote, peer.clone());
            if self.nodes[node].daemon.is_some() {
                self.start_peer(node, peer.clone());
            }
            return;
        }
        peers.remove(&peer.remote);
        let Some(id) = self.daemon(node).and_then(|daemon| daemon.peer_at(peer.remote)) else { return };
        self.feed(node, id, Event::Stop(Notification::cease(Cease::Deconfigured)));
        if let Some(daemon) = self.daemon(node) {
            daemon.peers.remove(&id);
            daemon.sessions_due = None;
            daemon.inputs.push_back(Input::Remove(id));
            self.disagree.retain(|(at, _, remote), _| *at != node || *remote != peer.remote);
            self.wake(node);
        }
    }

    /// The file of a node gives it this subnet from now on, or no longer.
    pub fn set_subnet(&mut self, node: usize, subnet: Prefix, there: bool) {
        let subnets = &mut self.nodes[node].config.subnets;
        subnets.retain(|known| *known != subnet);
        if there {
            subnets.push(subnet);
        }
        let config = self.nodes[node].config.clone();
        if let Some(daemon) = self.daemon(node) {
            daemon.inputs.push_back(Input::Reload(config));
            self.wake(node);
            let after = self.some(Duration::from_millis(20));
            self.at(after, What::Tunnel { node });
        }
    }

    /// A link of a node goes up or down.
    pub fn set_link(&mut self, port: usize, up: bool, carrier: bool) {
        let (node, device) = (self.fabric.ports[port].node, self.fabric.ports[port].device);
        self.nodes[node].kernel.set_link(device, up, carrier);
        self.kernel_changed(node);
    }

    /// The watcher's socket overruns, or can be read again.
    fn set_deaf(&mut self, node: usize, on: bool) {
        let Some(daemon) = self.daemon(node) else { return };
        if std::mem::replace(&mut daemon.deaf, on) && !on {
            daemon.heard.push_back(Heard::Overrun);
            self.nodes[node].kernel.take_events();
            self.wake(node);
        }
    }

    /// A node leaves the network, or comes back.
    fn drain(&mut self, node: usize, stage: Stage) {
        // From any stage there is a way on, or back to the first.
        let former = self.nodes[node].stage;
        if former == stage || (stage != Stage::Present && stage < former) {
            return;
        }
        self.nodes[node].stage = stage;
        let Some(daemon) = self.daemon(node) else { return };
        daemon.inputs.push_back(Input::Drain(stage));
        let was_shut = std::mem::replace(&mut daemon.shut, stage == Stage::Closed);
        for id in self.peers_of(node) {
            match stage {
                Stage::Closed => self.feed(node, id, Event::Stop(farewell())),
                Stage::Present if was_shut => self.feed(node, id, Event::Start),
                _ => {}
            }
        }
        self.wake(node);
    }

    fn peers_of(&mut self, node: usize) -> Vec<PeerId> {
        self.daemon(node).map(|daemon| daemon.peers.keys().copied().collect()).unwrap_or_default()
    }
}
