//! What runs on the nodes: peers' tasks, routing tasks and writers, each in its turn.

use std::fmt::Debug;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::seq::IndexedRandom;
use wayleave::bgp::rib::PeerId;
use wayleave::bgp::session::Event;
use wayleave::forward::{FibOp, Hop, Nexthop, NexthopOp, OpError};

use super::node::{Answer, Daemon, Heard, Writer};
use super::oracle;
use super::peer::{Effect, PeerTask};
use super::routing::{Branch, Input, Order};
use super::world::{What, World, trace};

/// Inputs taken before one decision, as in the daemon.
const INPUTS: usize = 8;
/// Routes in one send; few, so that objects overtake others.
const CHUNK: usize = 16;

impl World {
    pub fn feed(&mut self, node: usize, id: PeerId, event: Event) {
        let now = self.instant();
        let Some(peer) = self.daemon(node).and_then(|daemon| daemon.peers.get_mut(&id)) else { return };
        let mut effects = Vec::new();
        peer.handle(now, event, &mut effects);
        self.carry_out(node, id, effects);
    }

    pub fn carry_out(&mut self, node: usize, id: PeerId, effects: Vec<Effect>) {
        if let Some(daemon) = self.daemon(node) {
            daemon.sessions_due = None;
        }
        for effect in effects {
            match effect {
                Effect::Dial => self.dial(node, id),
                Effect::CancelDial => {
                    let peer = self.daemon(node).and_then(|daemon| daemon.peers.get_mut(&id));
                    if let Some(conn) = peer.and_then(|peer| peer.dial.take()) {
                        self.conns[conn].cancelled = true;
                    }
                }
                Effect::Send(conn, bytes) => {
                    let end = self.end_of(conn, node);
                    if let Some(app) = &mut self.conns[conn].ends[end] {
                        app.send(bytes);
                    }
                    self.pump(conn, end);
                }
                Effect::Close(conn) => {
                    let end = self.end_of(conn, node);
                    self.hang_up(conn, end);
                }
                Effect::Routes(conn, routes) => {
                    let end = self.end_of(conn, node);
                    if let Some(app) = &mut self.conns[conn].ends[end] {
                        app.open_routes(routes);
                    }
                }
                Effect::Input(input) => self.input(node, id, input),
            }
        }
    }

    pub fn end_of(&self, conn: usize, node: usize) -> usize {
        usize::from(self.conns[conn].nodes[0] != node)
    }

    fn input(&mut self, node: usize, id: PeerId, input: Input) {
        let changes = matches!(input, Input::Up { .. } | Input::Down(..));
        if self.trace && changes {
            let name = &self.nodes[node].name;
            let peer = self.nodes[node].daemon.as_ref().and_then(|daemon| daemon.peers.get(&id));
            let remote = peer.map(|peer| peer.config.remote);
            let what = match &input {
                Input::Up { negotiated, .. } => format!("up, {:?}", negotiated.graceful_restart),
                Input::Down(_, restart) => {
                    format!("down, kept for {restart:?}, {:?}", peer.and_then(|peer| peer.session.last_error()))
                }
                _ => String::new(),
            };
            trace!(self, "{name} and {remote:?}: {what}");
        }
        if let Some(daemon) = self.daemon(node) {
            daemon.inputs.push_back(input);
        }
        self.wake(node);
        if changes {
            self.note(node as u64 * 64 + u64::from(id.0));
            self.compare(node, id);
        }
    }

    /// Lets the routing task take its turn soon.
    pub fn wake(&mut self, node: usize) {
        let epoch = self.nodes[node].epoch;
        let busy = self.rng.random_ratio(1, 50);
        let most = if busy { Duration::from_millis(100) } else { Duration::from_millis(1) };
        let after = self.some(most);
        if self.daemon(node).is_some_and(|daemon| !std::mem::replace(&mut daemon.turn_due, true)) {
            self.at(after, What::Turn { node, epoch });
        }
    }

    /// The routing task: one thing after another of those that can be done, until none can or another
    /// task gets the processor.
    pub fn turn(&mut self, node: usize) {
        let now = self.instant();
        loop {
            let Some(daemon) = self.nodes[node].daemon.as_mut() else { return };
            let ready = daemon.routing.ready(
                now,
                [
                    !daemon.inputs.is_empty(),
                    !daemon.answers.is_empty(),
                    !daemon.heard.is_empty(),
                    daemon.dump.is_some(),
                    daemon.routing_due.is_some_and(|at| at <= now),
                ],
            );
            let Some(branch) = ready.choose(&mut self.rng) else { break };
            daemon.step(now, *branch);
            let orders = daemon.routing.settle(now);
            self.follow(node, orders);
            if self.rng.random_ratio(1, 8) {
                self.wake(node);
                break;
            }
        }
        if let Some(daemon) = self.daemon(node) {
            daemon.routing_due = daemon.routing.next_deadline(now);
        }
        let conns: Vec<usize> = self
            .daemon(node)
            .map(|daemon| daemon.peers.values().flat_map(PeerTask::connections).collect())
            .unwrap_or_default();
        for conn in conns {
            let end = self.end_of(conn, node);
            self.pump(conn, end);
        }
    }

    /// What the routing task wants of others.
    fn follow(&mut self, node: usize, orders: Vec<Order>) {
        let epoch = self.nodes[node].epoch;
        for order in orders {
            match order {
                Order::Restarted => self.restarted(node),
                Order::Dump => {
                    trace!(self, "{} compares", self.nodes[node].name);
                    let after = self.some(Duration::from_millis(2));
                    self.at(after, What::Dump { node, epoch });
                }
            }
        }
        let Some(daemon) = self.daemon(node) else { return };
        daemon.writer.lists.extend(daemon.routing.lists.drain(..));
        daemon.writer.batches.extend(daemon.routing.batch.take());
        self.send(node);
    }

    fn restarted(&mut self, node: usize) {
        trace!(self, "{} is ready", self.nodes[node].name);
        let Some(daemon) = self.daemon(node) else { return };
        daemon.preserved = None;
        for peer in daemon.peers.values_mut() {
            peer.session.set_restarting(None);
        }
    }

    // ---- the writer ----

    /// The writer's next send comes in its time.
    fn send(&mut self, node: usize) {
        let took = self.some(Duration::from_millis(1));
        let epoch = self.nodes[node].epoch;
        let Some(Writer { batches, lists, busy, .. }) = self.daemon(node).map(|daemon| &mut daemon.writer) else {
            return;
        };
        let idle = batches.is_empty() && lists.is_empty();
        if !idle && !std::mem::replace(busy, true) {
            self.at(took, What::Send { node, epoch });
        }
    }

    /// A send: all objects that wait, then a part of a batch.
    pub fn sent(&mut self, node: usize) {
        while let Some(ops) = self.daemon(node).and_then(|daemon| daemon.writer.lists.pop_front()) {
            let mut failed = Vec::new();
            for (place, op) in ops.iter().enumerate() {
                if let NexthopOp::Set(id, Nexthop::Hop(hop, _)) = op {
                    self.check_write(node, id, &[*hop]);
                }
                let answer = self.nodes[node].kernel.carry_out_nexthop(op);
                failed.extend(self.done(node, op, answer).map(|error| (place, error)));
            }
            self.report(node, Answer::Nexthops(ops, failed));
        }
        let Some(writer) = self.daemon(node).map(|daemon| &mut daemon.writer) else { return };
        writer.busy = false;
        if let Some(batch) = writer.batches.pop_front() {
            let (from, mut failed) = (writer.at, std::mem::take(&mut writer.failed));
            let to = batch.ops.len().min(from + CHUNK);
            for (place, op) in batch.ops.iter().enumerate().take(to).skip(from) {
                if let FibOp::Create(prefix, target) | FibOp::Replace(prefix, target) = op {
                    self.check_write(node, prefix, target.hops());
                }
                let answer = self.nodes[node].kernel.carry_out(op);
                failed.extend(self.done(node, op, answer).map(|error| (place, error)));
            }
            let Some(writer) = self.daemon(node).map(|daemon| &mut daemon.writer) else { return };
            if to < batch.ops.len() {
                (writer.at, writer.failed) = (to, failed);
                writer.batches.push_front(batch);
            } else {
                writer.at = 0;
                self.report(node, Answer::Routes(batch, failed));
            }
        }
        self.send(node);
    }

    fn report(&mut self, node: usize, answer: Answer) {
        if let Some(daemon) = self.daemon(node) {
            daemon.answers.push_back(answer);
        }
        self.wake(node);
    }

    /// A write is done, or was refused.
    fn done(&mut self, node: usize, op: &impl Debug, answer: Result<(), OpError>) -> Option<OpError> {
        trace!(self, "{} writes {op:?}: {answer:?}", self.nodes[node].name);
        if let Err(lost) = oracle::still_reached(&self.nodes, &self.fabric, &self.reach) {
            self.complain(format!("packets are lost after {} has done {op:?}: {lost}", self.nodes[node].name));
        }
        answer.err()
    }

    /// No node sends packets for others to itself.
    fn check_write(&mut self, node: usize, what: &impl Debug, hops: &[Hop]) {
        let host = &self.nodes[node];
        let own = |gateway: IpAddr| host.kernel.addresses().iter().any(|address| address.addr == gateway);
        if hops.iter().filter_map(|hop| hop.gateway).any(own) {
            let text = format!("{}: {what:?} to itself: {hops:?}", host.name);
            self.complain(text);
        }
    }

    // ---- the watcher ----

    /// The kernel of a node has something to say.
    pub fn kernel_changed(&mut self, node: usize) {
        let epoch = self.nodes[node].epoch;
        let waits = self.nodes[node].kernel.has_events();
        let after = self.some(Duration::from_millis(2));
        if let Some(daemon) = self.daemon(node)
            && waits
            && !daemon.deaf
            && !std::mem::replace(&mut daemon.hearing, true)
        {
            self.at(after, What::Hear { node, epoch });
        }
    }

    /// The watcher reads what there is.
    pub fn hear(&mut self, node: usize) {
        let Some(daemon) = self.nodes[node].daemon.as_mut() else { return };
        daemon.hearing = false;
        if daemon.deaf {
            return;
        }
        let events = self.nodes[node].kernel.take_events();
        trace!(self, "{} hears {events:?}", self.nodes[node].name);
        if let Some(daemon) = self.daemon(node) {
            daemon.heard.push_back(Heard::Events(events));
        }
        self.wake(node);
    }
}

impl Daemon {
    /// The routing task does this.
    fn step(&mut self, now: Instant, branch: Branch) {
        match branch {
            Branch::Input => {
                for input in self.inputs.drain(..INPUTS.min(self.inputs.len())) {
                    self.routing.input(now, input);
                }
            }
            Branch::Write => self.routing.write(now),
            Branch::Answer => self.answers.pop_front().iter().for_each(|answer| self.routing.answered(now, answer)),
            Branch::Heard => self.heard.pop_front().into_iter().for_each(|heard| self.routing.heard(now, heard)),
            Branch::Dumped => self.dump.take().into_iter().for_each(|dump| self.routing.resynced(now, *dump)),
            Branch::Room => self.routing.catch_up(),
            Branch::Undecided => {}
            Branch::Deadline => self.routing_due = None,
        }
    }
}
