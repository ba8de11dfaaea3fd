//! Two sessions, the driver's part of each, a network with latency between them, and one clock.

use std::collections::BTreeMap;

use super::*;

/// What arrives somewhere.
#[derive(Debug)]
enum Arrival {
    Accepted { conn: usize },
    Dialled { conn: usize },
    Refused { who: usize, conn: usize },
    Message { conn: usize, to: usize, message: Message },
    Fin { conn: usize, to: usize },
}

/// A TCP connection: who dialled, and the slot it has at each end while that end holds it.
#[derive(Debug)]
struct Tcp {
    dialler: usize,
    slots: [Option<Side>; 2],
    cancelled: bool,
}

struct End {
    session: Session,
    slots: PerSide<Option<usize>>,
    dial: Option<usize>,
    up: bool,
    /// What the RIB and the operator see
    told: Vec<(Instant, Action)>,
    dials: usize,
    keepalives: usize,
}

struct World {
    now: Instant,
    ends: [End; 2],
    conns: Vec<Tcp>,
    arrivals: BTreeMap<(Instant, usize), Arrival>,
    count: usize,
    /// From end i to the other
    latency: [Duration; 2],
    /// Packets get through
    whole: bool,
    /// Somebody listens at end i
    listening: [bool; 2],
}

impl End {
    fn new(settings: Settings) -> Self {
        Self {
            session: Session::new(settings),
            slots: PerSide::default(),
            dial: None,
            up: false,
            told: Vec::new(),
            dials: 0,
            keepalives: 0,
        }
    }
}

impl World {
    fn new(a: Settings, b: Settings) -> Self {
        let latency = Duration::from_millis(1);
        Self {
            now: Instant::now(),
            ends: [End::new(a), End::new(b)],
            conns: Vec::new(),
            arrivals: BTreeMap::new(),
            count: 0,
            latency: [latency; 2],
            whole: true,
            listening: [true; 2],
        }
    }

    fn start_both(&mut self) {
        self.feed(0, Event::Start);
        self.feed(1, Event::Start);
    }

    fn feed(&mut self, who: usize, event: Event) {
        let timeout = matches!(event, Event::Timeout);
        let mut out = Vec::new();
        self.ends[who].session.handle(self.now, event, &mut out);
        if timeout {
            let next = self.ends[who].session.next_deadline();
            assert!(next.is_none_or(|at| at > self.now), "a deadline that does not pass");
        }
        self.carry_out(who, out);
    }

    fn carry_out(&mut self, who: usize, actions: Vec<Action>) {
        for action in actions {
            match &action {
                Action::Dial => self.dial(who),
                Action::CancelDial => {
                    let conn = self.ends[who].dial.take().expect("a dial to cancel");
                    self.conns[conn].cancelled = true;
                }
                Action::Send(side, message) => {
                    let conn = self.ends[who].slots[*side].expect("a connection to send on");
                    self.ends[who].keepalives += usize::from(*message == Message::Keepalive);
                    self.ends[who].session.note_sent(self.now, *side);
                    self.arrive(self.latency[who], Arrival::Message { conn, to: 1 - who, message: message.clone() });
                }
                Action::Close(side) => {
                    let conn = self.ends[who].slots[*side].take().expect("a connection to close");
                    self.conns[conn].slots[who] = None;
                    self.arrive(self.latency[who], Arrival::Fin { conn, to: 1 - who });
                }
                Action::SetCodec(side, _) => assert!(self.ends[who].slots[*side].is_some()),
                Action::Up(side, _) => {
                    assert!(self.ends[who].slots[*side].is_some());
                    assert!(!std::mem::replace(&mut self.ends[who].up, true), "Up twice");
                }
                Action::Down(_) => assert!(std::mem::take(&mut self.ends[who].up), "Down without Up"),
                Action::Deliver(_) | Action::Refresh(_) => assert!(self.ends[who].up),
            }
            if matches!(action, Action::Up(..) | Action::Down(_)) {
                self.ends[who].told.push((self.now, action));
            }
        }
    }

    fn arrive(&mut self, after: Duration, arrival: Arrival) {
        if self.whole {
            self.count += 1;
            self.arrivals.insert((self.now + after, self.count), arrival);
        }
    }

    fn dial(&mut self, who: usize) {
        let conn = self.conns.len();
        self.conns.push(Tcp { dialler: who, slots: [None; 2], cancelled: false });
        self.ends[who].dial = Some(conn);
        self.ends[who].dials += 1;
        let round_trip = self.latency[0] + self.latency[1];
        if self.listening[1 - who] {
            self.arrive(round_trip, Arrival::Dialled { conn });
        } else {
            self.arrive(round_trip, Arrival::Refused { who, conn });
        }
    }

    fn settle(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Dialled { conn } => {
                let who = self.conns[conn].dialler;
                if self.conns[conn].cancelled {
                    return;
                }
                // The third packet of the handshake brings it to the listener's end.
                self.arrive(self.latency[who], Arrival::Accepted { conn });
                self.ends[who].dial = None;
                self.hold(who, conn, Side::Outgoing);
            }
            Arrival::Refused { who, conn } => {
                if !self.conns[conn].cancelled {
                    self.ends[who].dial = None;
                    self.feed(who, Event::ConnectFailed);
                }
            }
            Arrival::Accepted { conn } => {
                let who = 1 - self.conns[conn].dialler;
                let mut out = Vec::new();
                let side = self.ends[who].session.slot_for_incoming(self.now, &mut out);
                self.carry_out(who, out);
                self.hold(who, conn, side);
            }
            Arrival::Message { conn, to, message } => {
                if let Some(side) = self.conns[conn].slots[to] {
                    self.feed(to, Event::Received(side, message));
                }
            }
            Arrival::Fin { conn, to } => {
                if let Some(side) = self.conns[conn].slots[to].take() {
                    self.ends[to].slots[side] = None;
                    self.feed(to, Event::Disconnected(side));
                }
            }
        }
    }

    fn hold(&mut self, who: usize, conn: usize, side: Side) {
        assert_eq!(self.ends[who].slots[side].replace(conn), None, "two connections in one slot");
        self.conns[conn].slots[who] = Some(side);
        self.feed(who, Event::Connected(side));
    }

    /// Lets `by` pass: arrivals and deadlines at their own instants.
    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at);
            let timer = (0..2).filter_map(|who| Some((self.ends[who].session.next_deadline()?, who))).min();
            match (arrival, timer) {
                (Some(at), timer) if at <= end && timer.is_none_or(|(due, _)| at <= due) => {
                    self.now = at;
                    if let Some((_, arrival)) = self.arrivals.pop_first() {
                        self.settle(arrival);
                    }
                }
                (_, Some((due, who))) if due <= end => {
                    self.now = due.max(self.now);
                    self.feed(who, Event::Timeout);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// End `who` dies; with a FIN as the kernel sends it, or without as when power fails.
    fn kill(&mut self, who: usize, fin: bool, settings: Settings) {
        for side in Side::ALL {
            if let Some(conn) = self.ends[who].slots[side] {
                self.conns[conn].slots[who] = None;
                if fin {
                    self.arrive(self.latency[who], Arrival::Fin { conn, to: 1 - who });
                }
            }
        }
        if let Some(conn) = self.ends[who].dial {
            self.conns[conn].cancelled = true;
        }
        self.ends[who] = End::new(settings);
    }

    /// The one connection that both ends hold, Established.
    fn the_connection(&self) -> &Tcp {
        let held = |who: usize| -> Vec<usize> { self.ends[who].slots.iter().filter_map(|(_, slot)| *slot).collect() };
        let (a, b) = (held(0), held(1));
        assert_eq!(a.len(), 1, "{:?} {:?}", self.ends[0].session.state(), self.ends[1].session.state());
        assert_eq!(a, b);
        for end in &self.ends {
            assert_eq!(end.session.state(), State::Established);
        }
        &self.conns[a[0]]
    }
}

#[test]
fn both_active_leaves_one_connection() {
    let millis = Duration::from_millis;
    let both = [false, true];
    for latency in [[1, 1], [1, 40], [40, 1], [40, 40]] {
        for (offset, ids, restart) in (0..200)
            .step_by(3)
            .flat_map(|offset| [(1, 9), (9, 1)].map(|ids| (offset, ids)))
            .flat_map(|(offset, ids)| both.map(|restart| (offset, ids, restart)))
        {
            let why = format!("latency {latency:?}, offset {offset}, identifiers {ids:?}, restart {restart}");
            let equip = |settings| if restart { with_restart(settings, true) } else { settings };
            let mut world = World::new(equip(settings(LOCAL, PEER, ids.0)), equip(settings(PEER, LOCAL, ids.1)));
            world.latency = latency.map(millis);
            world.feed(0, Event::Start);
            world.advance(millis(offset));
            world.feed(1, Event::Start);
            world.advance(secs(1));
            let dialler = world.the_connection().dialler;
            if offset == 0 && latency[0] == latency[1] {
                assert_eq!(world.conns.len(), 2, "they did collide: {why}");
                assert_eq!(dialler, usize::from(ids.1 > ids.0), "the higher identifier dialled the survivor: {why}");
            }
            world.advance(secs(60));
            world.the_connection();
            for end in &world.ends {
                assert_eq!(end.session.counters(), Counters { established: 1, flaps: 0 }, "{why}");
                assert!(end.dials <= 1, "{why}");
            }
        }
    }
}

#[test]
fn one_side_passive() {
    let passive = |settings| Settings { passive: true, ..settings };
    let mut world = World::new(ours(), passive(theirs(9)));
    world.start_both();
    world.advance(secs(1));
    assert_eq!(world.the_connection().dialler, 0);

    let mut world = World::new(passive(ours()), passive(theirs(9)));
    world.start_both();
    world.advance(secs(3600));
    assert!(world.conns.is_empty(), "two passive ends never meet");
    assert_eq!(world.ends[0].session.state(), State::Active);
}

#[test]
fn the_peer_may_come_up_later() {
    let mut world = World::new(ours(), theirs(9));
    world.listening[1] = false;
    world.feed(0, Event::Start);
    world.advance(secs(600));
    assert!((120..=170).contains(&world.ends[0].dials), "{}", world.ends[0].dials);
    world.listening[1] = true;
    world.ends[1].session.settings.passive = true;
    world.feed(1, Event::Start);
    world.advance(secs(6));
    world.the_connection();
}

#[test]
fn a_day_of_keepalives() {
    let day = || {
        let mut world = World::new(ours(), theirs(9));
        world.start_both();
        world.advance(secs(86_400));
        world.the_connection();
        assert_eq!(world.ends[0].session.counters(), Counters { established: 1, flaps: 0 });
        world.ends.map(|end| end.keepalives)
    };
    let counts = day();
    for count in counts {
        // One each 3 s would be 28,800; jitter takes an eighth off on average.
        assert!((32_500..=33_300).contains(&count), "{count}");
    }
    assert_eq!(counts, day());
}

#[test]
fn a_cut_wire_is_noticed_by_both_and_healed() {
    let mut world = World::new(ours(), theirs(9));
    world.start_both();
    world.advance(secs(100));
    let cut = world.now;
    world.whole = false;
    world.advance(secs(30));
    for end in &world.ends {
        let Some((at, Action::Down(down))) = end.told.last() else { panic!("{:?}", end.told) };
        assert!((secs(6)..=secs(9)).contains(&(*at - cut)), "{:?}", *at - cut);
        assert_eq!(*down, Down { reason: Reason::Sent(notification(4, 0)), graceful: false });
        assert_eq!(end.session.last_error().map(|last| &last.reason), Some(&Reason::Sent(notification(4, 0))));
    }
    world.whole = true;
    world.advance(secs(11));
    world.the_connection();
}

#[test]
fn a_restarted_peer_is_back_at_once() {
    let cases = [
        // (why, graceful restart, FIN, seconds until it is back, what became of the old session)
        ("killed", true, true, 1, Reason::Disconnected),
        ("power failed, but back before the hold time", true, false, 1, Reason::Replaced),
    ];
    for (why, graceful, fin, within, reason) in cases {
        let mut world = World::new(with_restart(ours(), false), with_restart(theirs(9), false));
        world.start_both();
        world.advance(secs(100));
        world.kill(1, fin, with_restart(theirs(9), false));
        world.ends[1].session.set_restarting(Some(PerFamily::new(true, false)));
        world.advance(Duration::from_millis(100));
        world.feed(1, Event::Start);
        world.advance(secs(within));
        world.the_connection();
        let told: Vec<_> = world.ends[0].told.iter().map(|(_, action)| action).collect();
        assert_eq!(told.len(), 3, "{why}: {told:?}");
        assert_eq!(*told[1], Action::Down(Down { reason, graceful }), "{why}");
        let Action::Up(_, agreed) = told[2] else { panic!("{why}: {told:?}") };
        assert!(agreed.graceful_restart.as_ref().is_some_and(|restart| restart.restarted), "{why}: R bit");
    }
}

#[test]
fn a_stopped_peer_says_so_and_comes_back() {
    let mut world = World::new(ours(), theirs(9));
    world.start_both();
    world.advance(secs(100));
    world.feed(1, Event::Stop(notification(6, 2)));
    world.advance(secs(3600));
    assert_eq!(world.ends[0].session.last_error().map(|last| last.reason.direction()), Some(Direction::Received));
    assert!(world.ends[0].dials <= 90, "rejected ever more rarely: {}", world.ends[0].dials);
    assert_eq!(world.ends[1].session.state(), State::Idle);
    world.feed(1, Event::Start);
    world.advance(secs(1));
    world.the_connection();
}

#[test]
fn an_abandoned_session_leaves_no_word() {
    let mut world = World::new(with_restart(ours(), false), with_restart(theirs(9), false));
    world.start_both();
    world.advance(secs(100));
    world.feed(1, Event::Abandon);
    world.advance(secs(1));
    let Some((_, Action::Down(down))) = world.ends[0].told.last() else { panic!("still up") };
    assert_eq!(*down, Down { reason: Reason::Disconnected, graceful: true });
    world.advance(secs(100));
    assert!(world.ends[0].slots.iter().all(|(_, slot)| slot.is_none()));
}

#[test]
fn misconfigured_peers_make_no_storm() {
    let mut world = World::new(ours(), Settings { local_asn: Asn(65009), ..theirs(9) });
    world.start_both();
    world.advance(secs(3600));
    for end in &world.ends {
        assert!((60..=200).contains(&end.dials), "{}", end.dials);
        assert_eq!(end.session.counters().established, 0);
    }
    let said = world.ends.iter().filter_map(|end| end.session.last_error()?.reason.notification());
    assert!(said.into_iter().all(|n| (n.code, n.subcode) == (2, 2)));
}
