//! Two ends that dial at once: every interleaving there is, walked through one by one.
//!
//! Time stands still, so nothing here is healed by a timer: what is left when nothing is under way
//! any more is the outcome. The other end is ours too, or one that follows the letter of RFC 4271
//! and answers at once, which is what most routers do.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write;

use super::*;

/// What either end sends as soon as it is Established.
fn routes() -> Message {
    Message::Update(Update::default())
}

/// An end of the pair.
#[derive(Clone)]
enum Mind {
    Ours(Box<Session>),
    Literal(Literal),
}

/// A speaker by the letter of RFC 4271 §6.8 and §8.2.2: it answers every OPEN at once, closes the
/// loser when it sees the second OPEN, and gives Established the preference over everything.
#[derive(Clone)]
struct Literal {
    settings: Settings,
    started: bool,
    conns: PerSide<Option<State>>,
}

impl Literal {
    fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Start => {
                self.started = true;
                out.push(Action::Dial);
            }
            Event::Connected(side) if !self.started || self.is_up() => {
                out.push(Action::Close(side));
            }
            Event::Connected(side) => {
                self.conns[side] = Some(State::OpenSent);
                out.push(Action::Send(side, open_of(&self.settings)));
            }
            Event::Received(side, Message::Open(open)) => self.opened(side, &open, out),
            Event::Received(side, Message::Keepalive) if self.conns[side] == Some(State::OpenConfirm) => {
                self.conns[side] = Some(State::Established);
                out.push(Action::Send(side, routes()));
            }
            // Out of turn anywhere else (§6.6).
            Event::Received(side, Message::Update(_)) if self.conns[side] != Some(State::Established) => {
                self.close(side, out);
            }
            Event::Received(side, Message::Notification(_)) => self.close(side, out),
            Event::Disconnected(side) => self.conns[side] = None,
            _ => {}
        }
    }

    fn opened(&mut self, side: Side, open: &Open, out: &mut Vec<Action>) {
        let other = if side == Side::Outgoing { Side::Incoming } else { Side::Outgoing };
        let outgoing_wins = self.settings.router_id > open.router_id;
        let wins = outgoing_wins == (side == Side::Outgoing);
        match self.conns[other] {
            Some(State::OpenConfirm) if wins => self.close(other, out),
            Some(State::OpenConfirm | State::Established) => return self.close(side, out),
            _ => {}
        }
        self.conns[side] = Some(State::OpenConfirm);
        out.push(Action::Send(side, Message::Keepalive));
    }

    fn close(&mut self, side: Side, out: &mut Vec<Action>) {
        if self.conns[side].take().is_some() {
            out.push(Action::Close(side));
        }
    }

    fn is_up(&self) -> bool {
        self.conns.iter().any(|(_, state)| *state == Some(State::Established))
    }
}

/// One end of a TCP connection as its program and its kernel see it.
#[derive(Clone, Default)]
struct Half {
    /// The program has it, in this slot
    slot: Option<Side>,
    /// The program has had it; what comes now is for nobody
    closed: bool,
    /// On the way to here; `None` is the end
    queue: VecDeque<Option<Message>>,
}

/// A connection, dialled by the end of this number. The kernels have joined it, or not yet.
#[derive(Clone)]
struct Wire {
    dialler: usize,
    joined: bool,
    halves: [Half; 2],
}

#[derive(Clone)]
struct Pair {
    now: Instant,
    minds: [Mind; 2],
    started: [bool; 2],
    wires: Vec<Wire>,
    flaps: usize,
}

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Start(usize),
    /// The kernels complete the handshake; or the dial fails, as nobody listens there yet
    Join(usize),
    /// The program of that end learns of the connection
    Notice(usize, usize),
    /// It reads the next message
    Read(usize, usize),
}

impl Pair {
    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = (0..2).filter(|who| !self.started[*who]).map(Step::Start).collect();
        for (index, wire) in self.wires.iter().enumerate() {
            if !wire.joined {
                steps.push(Step::Join(index));
                continue;
            }
            for (who, half) in wire.halves.iter().enumerate() {
                if half.slot.is_none() && !half.closed {
                    steps.push(Step::Notice(index, who));
                } else if half.slot.is_some() && !half.queue.is_empty() {
                    steps.push(Step::Read(index, who));
                }
            }
        }
        steps
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Start(who) => {
                self.started[who] = true;
                self.feed(who, Event::Start);
            }
            Step::Join(index) => {
                let dialler = self.wires[index].dialler;
                if self.started[1 - dialler] {
                    self.wires[index].joined = true;
                } else {
                    self.wires.remove(index);
                    self.feed(dialler, Event::ConnectFailed);
                }
            }
            Step::Notice(index, who) if self.wires[index].dialler == who => self.hold(index, who, Side::Outgoing),
            Step::Notice(index, who) => {
                let mut out = Vec::new();
                let side = match &mut self.minds[who] {
                    Mind::Ours(session) => session.slot_for_incoming(self.now, &mut out),
                    Mind::Literal(_) => Side::Incoming,
                };
                self.carry_out(who, out);
                self.hold(index, who, side);
            }
            Step::Read(index, who) => {
                let half = &mut self.wires[index].halves[who];
                let Some(side) = half.slot else { return };
                if let Some(message) = half.queue.pop_front().unwrap() {
                    self.feed(who, Event::Received(side, message));
                } else {
                    (half.slot, half.closed) = (None, true);
                    self.feed(who, Event::Disconnected(side));
                }
            }
        }
        self.wires.retain(|wire| !wire.halves.iter().all(|half| half.closed));
    }

    fn hold(&mut self, index: usize, who: usize, side: Side) {
        self.wires[index].halves[who].slot = Some(side);
        self.feed(who, Event::Connected(side));
    }

    fn feed(&mut self, who: usize, event: Event) {
        let mut out = Vec::new();
        match &mut self.minds[who] {
            Mind::Ours(session) => session.handle(self.now, event, &mut out),
            Mind::Literal(literal) => literal.handle(event, &mut out),
        }
        self.carry_out(who, out);
    }

    fn carry_out(&mut self, who: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Dial => {
                    self.wires.push(Wire { dialler: who, joined: false, halves: [Half::default(), Half::default()] });
                }
                Action::CancelDial => {
                    let given_up = |wire: &Wire| {
                        wire.dialler == who && wire.halves[who].slot.is_none() && !wire.halves[who].closed
                    };
                    let index = self.wires.iter().position(given_up).expect("a dial to cancel");
                    if self.wires[index].joined {
                        self.end(index, who);
                    } else {
                        self.wires.remove(index);
                    }
                }
                Action::Send(side, message) => {
                    let index = self.wire(who, side);
                    self.wires[index].halves[1 - who].queue.push_back(Some(message));
                }
                Action::Close(side) => {
                    let index = self.wire(who, side);
                    self.end(index, who);
                }
                Action::Up(side, _) => {
                    let index = self.wire(who, side);
                    self.wires[index].halves[1 - who].queue.push_back(Some(routes()));
                }
                Action::Down(_) => self.flaps += 1,
                _ => {}
            }
        }
    }

    fn wire(&self, who: usize, side: Side) -> usize {
        self.wires.iter().position(|wire| wire.halves[who].slot == Some(side)).expect("a connection in this slot")
    }

    fn end(&mut self, index: usize, who: usize) {
        let wire = &mut self.wires[index];
        wire.halves[who] = Half { closed: true, ..Half::default() };
        wire.halves[1 - who].queue.push_back(None);
    }

    /// All that decides what can happen from here on.
    fn key(&self) -> String {
        let mut key = String::new();
        for (who, mind) in self.minds.iter().enumerate() {
            write!(key, "{} ", self.started[who]).unwrap();
            match mind {
                Mind::Ours(session) => {
                    write!(key, "{:?} {:?} ", session.mode, session.dialler.state()).unwrap();
                    for (side, conn) in session.conns.iter() {
                        let progress = conn.as_ref().map(|conn| match &conn.phase {
                            Phase::OpenConfirm { answered, accepted, .. } => (conn.state(), *answered, *accepted),
                            Phase::OpenSent | Phase::Established { .. } => (conn.state(), false, false),
                        });
                        write!(key, "{side:?} {progress:?} ").unwrap();
                    }
                }
                Mind::Literal(literal) => write!(key, "{:?} ", literal.conns).unwrap(),
            }
        }
        for Wire { dialler, joined, halves } in &self.wires {
            write!(key, "| {dialler} {joined} ").unwrap();
            for Half { slot, closed, queue } in halves {
                write!(key, "{slot:?} {closed} ").unwrap();
                for message in queue {
                    match message {
                        Some(Message::Open(_)) => key.push('o'),
                        Some(Message::Keepalive) => key.push('k'),
                        Some(Message::Update(_)) => key.push('u'),
                        Some(_) => key.push('n'),
                        None => key.push('f'),
                    }
                }
            }
        }
        write!(key, " {}", self.flaps).unwrap();
        key
    }

    fn up(&self, who: usize) -> Option<Side> {
        match &self.minds[who] {
            Mind::Ours(session) => session.conns.iter().find_map(|(side, conn)| conn.as_ref()?.is_up().then_some(side)),
            Mind::Literal(literal) => {
                literal.conns.iter().find_map(|(side, state)| (*state == Some(State::Established)).then_some(side))
            }
        }
    }

    /// Both ends hold one connection and no other, Established.
    fn joined(&self) -> bool {
        let [wire] = self.wires.as_slice() else { return false };
        (0..2).all(|who| wire.halves[who].slot.is_some() && wire.halves[who].slot == self.up(who))
    }
}

/// Walks through all interleavings; how many states there are and how many of them are final, or
/// the way to the first bad end.
fn explore(start: &Pair, restart: bool) -> Result<(usize, usize), String> {
    let mut seen = HashSet::new();
    let mut ends = 0;
    let mut open = vec![(start.clone(), Vec::new())];
    while let Some((pair, way)) = open.pop() {
        let steps = pair.steps();
        if steps.is_empty() {
            ends += 1;
            if !pair.joined() || pair.flaps > 0 && !restart {
                return Err(format!("{way:?} ends in {} after {} flaps", pair.key(), pair.flaps));
            }
        }
        for step in steps {
            let mut next = pair.clone();
            next.step(step);
            if seen.insert(next.key()) {
                let way = [&way[..], &[step]].concat();
                open.push((next, way));
            }
        }
    }
    Ok((seen.len(), ends))
}

fn pair(minds: [Mind; 2]) -> Pair {
    Pair { now: Instant::now(), minds, started: [false; 2], wires: Vec::new(), flaps: 0 }
}

fn ours_of(settings: Settings) -> Mind {
    Mind::Ours(Box::new(Session::new(settings)))
}

#[test]
fn two_of_ours_end_on_one_connection_whatever_comes_first() {
    for restart in [false, true] {
        for ids in [(1, 9), (9, 1)] {
            let equip = |settings| if restart { with_restart(settings, true) } else { settings };
            let (a, b) = (equip(settings(LOCAL, PEER, ids.0)), equip(settings(PEER, LOCAL, ids.1)));
            // A session that comes up must stay up, graceful restart or not.
            let found = explore(&pair([ours_of(a), ours_of(b)]), false);
            let (states, ends) = found.unwrap_or_else(|way| panic!("identifiers {ids:?}, restart {restart}: {way}"));
            assert!(states > 200 && ends > 1, "{states} states, {ends} ends: not much of a search");
        }
    }
}

#[test]
fn so_do_we_and_a_peer_by_the_letter() {
    for restart in [false, true] {
        for ids in [(1, 9), (9, 1)] {
            let a = settings(LOCAL, PEER, ids.0);
            let a = if restart { with_restart(a, true) } else { a };
            let b =
                if restart { with_restart(settings(PEER, LOCAL, ids.1), true) } else { settings(PEER, LOCAL, ids.1) };
            let literal = Literal { settings: b, started: false, conns: PerSide::default() };
            let found = explore(&pair([ours_of(a), Mind::Literal(literal)]), restart);
            let (states, _) = found.unwrap_or_else(|way| panic!("identifiers {ids:?}, restart {restart}: {way}"));
            assert!(states > 200, "{states} states: not much of a search");
        }
    }
}

#[test]
fn two_by_the_letter_can_lose_both() {
    let literal = |settings| Mind::Literal(Literal { settings, started: false, conns: PerSide::default() });
    let found = explore(&pair([literal(settings(LOCAL, PEER, 1)), literal(settings(PEER, LOCAL, 9))]), false);
    assert!(found.is_err(), "else this search finds nothing");
}
