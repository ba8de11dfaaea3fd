//! Any order of events, sensible or not: what must hold whatever the driver and the peer do.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Start,
    Stop,
    Abandon,
    Close,
    Fail,
    Dialled,
    DialFailed,
    Accepted,
    Asked,
    Gets(Side, Message),
    Malformed(Side),
    Disconnected(Side),
    /// An event that the driver has no ground for
    Nonsense(Event),
    Early,
    Pass(u64),
    Reconfigured(bool, bool),
}

/// The driver's books.
struct Driver {
    bench: Bench,
    held: PerSide<bool>,
    dialling: bool,
    up: Option<Side>,
    last_dial: Option<Instant>,
}

impl Driver {
    fn new(restart: bool, peer_id: u8) -> Self {
        let equip = |settings| if restart { with_restart(settings, true) } else { settings };
        Self {
            bench: Bench::new(equip(ours()), equip(theirs(peer_id))),
            held: PerSide::default(),
            dialling: false,
            up: None,
            last_dial: None,
        }
    }

    fn feed(&mut self, event: Event) {
        let out = self.bench.does(event);
        self.carry_out(out);
    }

    fn carry_out(&mut self, out: Vec<Action>) {
        for action in out {
            match action {
                Action::Dial => {
                    assert!(!self.dialling && !self.held[Side::Outgoing], "dials while it has a connection");
                    assert!(self.bench.session.state() < State::OpenConfirm, "dials though another is nearly up");
                    let now = self.bench.now;
                    let gap = self.last_dial.replace(now).map(|last| now - last);
                    assert!(gap.is_none_or(|gap| gap >= Duration::from_millis(750)), "storm: {gap:?}");
                    self.dialling = true;
                }
                Action::CancelDial => assert!(std::mem::take(&mut self.dialling)),
                Action::Send(side, _) | Action::SetCodec(side, _) => assert!(self.held[side], "{side:?} is closed"),
                Action::Close(side) => {
                    assert!(std::mem::take(&mut self.held[side]), "{side:?} is closed already");
                }
                Action::Up(side, _) => {
                    assert!(self.held[side]);
                    assert_eq!(self.up.replace(side), None, "Up twice");
                }
                Action::Down(_) => assert!(self.up.take().is_some(), "Down without Up"),
                Action::Deliver(_) | Action::Refresh(_) => assert!(self.up.is_some()),
            }
        }
        let session = &self.bench.session;
        let established = session.conns.iter().filter(|(_, conn)| conn.as_ref().is_some_and(Conn::is_up));
        assert_eq!(established.map(|(side, _)| side).collect::<Vec<_>>(), self.up.into_iter().collect::<Vec<_>>());
        for (side, held) in self.held.iter() {
            assert_eq!(session.conns[side].is_some(), *held, "{side:?}");
        }
        assert_eq!(session.negotiated().is_some(), self.up.is_some());
        assert!(self.up.is_none() || !self.dialling, "a dial outlives Up");
        let waits = session.mode == Mode::Running && !session.settings.passive && session.next_deadline().is_none();
        let silent = session.negotiated().is_some_and(|agreed| agreed.hold_time == 0);
        assert!(!waits || silent, "nothing will ever happen in {}", session.state());
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Start => {
                // Whoever starts and stops may dial as often as he likes.
                self.last_dial = None;
                self.feed(Event::Start);
            }
            Step::Stop => {
                self.feed(Event::Stop(notification(6, 2)));
                self.assert_closed();
            }
            Step::Abandon => {
                self.feed(Event::Abandon);
                self.assert_closed();
            }
            Step::Close => self.feed(Event::Close(notification(6, 1))),
            Step::Fail => {
                let up = self.up;
                self.feed(Event::Fail(notification(6, 10)));
                assert!(up.is_none_or(|side| !self.held[side]), "over a dead path nothing stays up");
                let error = self.bench.session.last_error().map(|error| error.reason.label());
                assert!(up.is_none() || error == Some("bfd_down"), "{error:?}");
            }
            Step::Dialled => {
                if std::mem::take(&mut self.dialling) {
                    self.held[Side::Outgoing] = true;
                    self.feed(Event::Connected(Side::Outgoing));
                }
            }
            Step::DialFailed => {
                if std::mem::take(&mut self.dialling) {
                    self.feed(Event::ConnectFailed);
                }
            }
            Step::Accepted => {
                let side = self.ask();
                assert!(!std::mem::replace(&mut self.held[side], true), "{side:?} is taken");
                self.feed(Event::Connected(side));
            }
            Step::Asked => {
                self.ask();
            }
            Step::Gets(side, message) => {
                if self.held[side] {
                    self.feed(Event::Received(side, message));
                }
            }
            Step::Malformed(side) => {
                if self.held[side] {
                    self.feed(Event::Malformed(side, notification(3, 1)));
                }
            }
            Step::Disconnected(side) => {
                if std::mem::take(&mut self.held[side]) {
                    self.feed(Event::Disconnected(side));
                }
            }
            Step::Nonsense(event) => match event {
                Event::Connected(side) if self.held[side] => self.feed(event),
                Event::ConnectFailed if !self.dialling => self.feed(event),
                Event::Received(side, _) | Event::Malformed(side, _) | Event::Disconnected(side)
                    if !self.held[side] =>
                {
                    self.feed(event);
                }
                _ => {}
            },
            Step::Early => self.feed(Event::Timeout),
            Step::Pass(by) => self.pass(Duration::from_millis(by)),
            Step::Reconfigured(passive, restart) => {
                let base = Settings { passive, ..ours() };
                let settings = if restart { with_restart(base, true) } else { base };
                let _ = self.bench.session.update_settings(self.bench.now, settings);
            }
        }
    }

    fn ask(&mut self) -> Side {
        let mut out = Vec::new();
        let side = self.bench.session.slot_for_incoming(self.bench.now, &mut out);
        self.carry_out(out);
        side
    }

    fn pass(&mut self, by: Duration) {
        let end = self.bench.now + by;
        while let Some(at) = self.bench.session.next_deadline().filter(|at| *at <= end) {
            self.bench.now = at.max(self.bench.now);
            self.feed(Event::Timeout);
            let next = self.bench.session.next_deadline();
            assert!(next.is_none_or(|next| next > self.bench.now), "a deadline that does not pass");
        }
        self.bench.now = end;
    }

    fn assert_closed(&self) {
        assert!(self.held.iter().all(|(_, held)| !held) && !self.dialling && self.up.is_none());
        assert_eq!(self.bench.session.next_deadline(), None);
        assert_eq!(self.bench.session.state(), State::Idle);
    }
}

fn side() -> impl Strategy<Value = Side> {
    proptest::sample::select(Side::ALL.to_vec())
}

fn message() -> impl Strategy<Value = Message> {
    let open = |settings: Settings| open_of(&settings);
    let silent = Settings { hold_time: 0, ..theirs(9) };
    prop_oneof![
        4 => Just(open(theirs(9))),
        2 => Just(open(with_restart(theirs(1), true))),
        1 => Just(open(silent)),
        1 => Just(open(Settings { local_asn: Asn(1), ..theirs(9) })),
        8 => Just(Message::Keepalive),
        2 => Just(Message::Update(Update::default())),
        1 => Just(Message::RouteRefresh(RouteRefresh { family: Family::Ipv4, kind: RefreshKind::Request })),
        1 => proptest::sample::select(vec![(2, 4), (6, 7), (6, 9), (4, 0)])
            .prop_map(|(code, subcode)| Message::Notification(notification(code, subcode))),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        side().prop_map(Event::Connected),
        Just(Event::ConnectFailed),
        (side(), message()).prop_map(|(side, message)| Event::Received(side, message)),
        side().prop_map(|side| Event::Malformed(side, notification(1, 1))),
        side().prop_map(Event::Disconnected),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Start),
        1 => Just(Step::Stop),
        1 => Just(Step::Abandon),
        1 => Just(Step::Close),
        1 => Just(Step::Fail),
        6 => Just(Step::Dialled),
        2 => Just(Step::DialFailed),
        6 => Just(Step::Accepted),
        1 => Just(Step::Asked),
        24 => (side(), message()).prop_map(|(side, message)| Step::Gets(side, message)),
        1 => side().prop_map(Step::Malformed),
        2 => side().prop_map(Step::Disconnected),
        2 => event().prop_map(Step::Nonsense),
        1 => Just(Step::Early),
        6 => (0_u64..20_000).prop_map(Step::Pass),
        1 => (0_u64..600_000).prop_map(Step::Pass),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(passive, restart)| Step::Reconfigured(passive, restart)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_keeps_the_promises(restart in any::<bool>(), peer_id in 1_u8..12, steps in vec(step(), 1..120)) {
        let mut driver = Driver::new(restart, peer_id);
        driver.step(Step::Start);
        for step in steps {
            driver.step(step);
        }
        driver.step(Step::Stop);
    }
}
