//! TCP connections between nodes: dialled, accepted, written to, ended.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use wayleave::bgp::message::{Codec, Message};
use wayleave::bgp::rib::PeerId;
use wayleave::bgp::session::Side;
use wayleave::bgp::wire;

use super::kernel::Way;
use super::node::PeerConfig;
use super::tcp::{Conn, End, Item};
use super::world::{What, World, farewell};

/// How long a closed connection may take to get its last message out, as in the daemon.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

impl World {
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
        let routed = self.nodes[node].kernel.lookup(remote) != Way::Nowhere;
        if routed {
            let after = self.packet();
            self.at(after, What::Syn { conn, tries: 0 });
            self.at(retry.min(Duration::from_secs(10)), What::DialFailed { conn });
        } else {
            self.at(Duration::from_micros(50), What::DialFailed { conn });
        }
    }

    /// A SYN is due at the listener.
    pub fn syn(&mut self, conn: usize, tries: u32) {
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

    pub fn connected(&mut self, conn: usize) {
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

    pub fn dial_failed(&mut self, conn: usize) {
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
    pub fn arrive(&mut self, conn: usize, end: usize) {
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
    pub fn lose(&mut self, conn: usize, end: usize) {
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
    pub fn give_up(&mut self, conn: usize, end: usize) {
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
}
