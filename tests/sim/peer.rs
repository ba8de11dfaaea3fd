//! Drives one peer's session as `daemon::peer` does: carries out what the state machine says, on
//! connections that are numbers here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use wayleave::bgp::message::{Codec, Message, Update};
use wayleave::bgp::rib::PeerId;
use wayleave::bgp::session::{self, Action, Event, Negotiated, PerSide, Session, Side, State};
use wayleave::bgp::wire;
use wayleave::net::PerFamily;

use super::node::{Config, PeerConfig};
use super::routing::Input;
use super::tcp::Routes;

/// What the network or the routing task is to do, in this order.
pub enum Effect {
    Dial,
    CancelDial,
    Send(usize, Bytes),
    Close(usize),
    /// From now on write what comes from here too
    Routes(usize, Routes),
    Input(Input),
}

pub struct PeerTask {
    pub id: PeerId,
    pub config: PeerConfig,
    pub session: Session,
    slots: PerSide<Option<Slot>>,
    /// The dial under way
    pub dial: Option<usize>,
    /// The connection that is Established
    pub up: Option<usize>,
    negotiated: Option<Arc<Negotiated>>,
    /// As last told of
    state: State,
}

/// An open connection.
struct Slot {
    conn: usize,
    codec: Codec,
    buffer: BytesMut,
}

impl PeerTask {
    pub fn new(id: PeerId, node: &Config, config: PeerConfig, seed: u64, restarting: Option<PerFamily<bool>>) -> Self {
        let mut session = Session::new(session::Settings {
            local_asn: node.asn,
            peer_asn: config.asn,
            router_id: node.router_id,
            hold_time: node.hold_time,
            connect_retry: node.connect_retry,
            long_back_off: session::Settings::LONG_BACK_OFF,
            passive: config.passive,
            families: node.families.clone(),
            send_hold_time: node.send_hold_time,
            graceful_restart: (node.graceful_restart > 0)
                .then(|| session::preserving(node.graceful_restart, &node.families)),
            seed,
        });
        session.set_restarting(restarting);
        let (slots, state) = (PerSide::default(), State::Idle);
        Self { id, config, session, slots, dial: None, up: None, negotiated: None, state }
    }

    fn side(&self, conn: usize) -> Option<Side> {
        self.slots.iter().find(|(_, slot)| slot.as_ref().is_some_and(|slot| slot.conn == conn)).map(|(side, _)| side)
    }

    /// Every connection it has.
    pub fn connections(&self) -> impl Iterator<Item = usize> {
        self.slots.iter().filter_map(|(_, slot)| slot.as_ref().map(|slot| slot.conn))
    }

    pub fn handle(&mut self, now: Instant, event: Event, out: &mut Vec<Effect>) {
        self.feed(now, event, out);
        self.publish(out);
    }

    fn feed(&mut self, now: Instant, event: Event, out: &mut Vec<Effect>) {
        let mut actions = Vec::new();
        self.session.handle(now, event, &mut actions);
        for action in actions {
            self.carry_out(action, out);
        }
    }

    /// Tells of an attempt that failed.
    fn publish(&mut self, out: &mut Vec<Effect>) {
        let former = std::mem::replace(&mut self.state, self.session.state());
        let trying = matches!(former, State::Connect | State::OpenSent | State::OpenConfirm);
        if trying && matches!(self.state, State::Idle | State::Active) {
            out.push(Effect::Input(Input::Attempted(self.id)));
        }
    }

    /// The kernel took bytes for a connection at `at`.
    pub fn note_sent(&mut self, conn: usize, at: Instant) {
        if let Some(side) = self.side(conn) {
            self.session.note_sent(at, side);
        }
    }

    pub fn accepted(&mut self, now: Instant, conn: usize, out: &mut Vec<Effect>) {
        let mut actions = Vec::new();
        let side = self.session.slot_for_incoming(now, &mut actions);
        for action in actions {
            self.carry_out(action, out);
        }
        self.connected(now, side, conn, out);
    }

    pub fn connected(&mut self, now: Instant, side: Side, conn: usize, out: &mut Vec<Effect>) {
        assert!(self.slots[side].is_none(), "{side:?} has a connection already");
        self.slots[side] = Some(Slot { conn, codec: Codec::INITIAL, buffer: BytesMut::new() });
        self.handle(now, Event::Connected(side), out);
    }

    pub fn dial_failed(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.dial = None;
        self.handle(now, Event::ConnectFailed, out);
    }

    /// The connection ended at the other end.
    pub fn disconnected(&mut self, now: Instant, conn: usize, out: &mut Vec<Effect>) {
        if let Some(side) = self.side(conn) {
            self.slots[side] = None;
            self.handle(now, Event::Disconnected(side), out);
        }
    }

    /// Bytes came.
    pub fn read(&mut self, now: Instant, conn: usize, bytes: &[u8], out: &mut Vec<Effect>) {
        let Some(side) = self.side(conn) else { return };
        if let Some(slot) = &mut self.slots[side] {
            slot.buffer.extend_from_slice(bytes);
        }
        while let Some(slot) = &mut self.slots[side] {
            let Some(len) = wire::frame(&slot.buffer, &slot.codec).expect("a message of our own") else { break };
            let message = wire::decode(&slot.buffer[..len], &slot.codec).expect("a message of our own");
            slot.buffer.advance(len);
            self.feed(now, Event::Received(side, message), out);
        }
        self.publish(out);
    }

    fn carry_out(&mut self, action: Action, out: &mut Vec<Effect>) {
        match action {
            Action::Dial => out.push(Effect::Dial),
            Action::CancelDial => out.push(Effect::CancelDial),
            Action::Send(side, message) => {
                let slot = self.slots[side].as_ref().expect("a connection to send on");
                let mut bytes = Vec::new();
                wire::encode(&message, &slot.codec, &mut bytes);
                assert!(!matches!(message, Message::Update(_)), "updates come from groups");
                out.push(Effect::Send(slot.conn, bytes.into()));
            }
            Action::Close(side) => {
                let slot = self.slots[side].take().expect("a connection to close");
                out.push(Effect::Close(slot.conn));
            }
            Action::SetCodec(side, codec) => {
                self.slots[side].as_mut().expect("a connection to set up").codec = codec;
            }
            Action::Up(side, negotiated) => {
                let conn = self.slots[side].as_ref().expect("a connection that is up").conn;
                assert_eq!(self.up.replace(conn), None, "up twice");
                self.negotiated = Some(Arc::clone(&negotiated));
                let routes = Routes::default();
                out.push(Effect::Routes(conn, Routes::clone(&routes)));
                out.push(Effect::Input(Input::Up { peer: self.id, negotiated, local: self.config.local, routes }));
            }
            Action::Deliver(update) => {
                self.check(&update);
                out.push(Effect::Input(Input::Update(self.id, update)));
            }
            Action::Refresh(refresh) => out.push(Effect::Input(Input::Refresh(self.id, refresh))),
            Action::Down(down) => {
                assert!(self.up.take().is_some(), "down without up");
                let negotiated = self.negotiated.take();
                let seconds = negotiated.and_then(|agreed| Some(agreed.graceful_restart.as_ref()?.restart_time));
                let time = Duration::from_secs(seconds.unwrap_or_default().into());
                out.push(Effect::Input(Input::Down(self.id, down.graceful.then_some(time))));
            }
        }
    }

    fn check(&self, update: &Update) {
        assert!(self.up.is_some(), "an update before the session is up");
        assert!(update.faults.is_empty(), "{:?}", update.faults);
    }
}
