//! Tables: one session, event by event. `world` joins two by a wire, `any_order` plays dice.
//! What all of them use stands here.

mod any_order;
mod collisions;
mod interleavings;
mod opens;
mod pace;
mod world;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::open::{build, negotiate};
use super::*;
use crate::bgp::message::{Capability, Codec, RefreshKind, RouteRefresh, Update};
use crate::net::PerFamily;

const LOCAL: Asn = Asn(64512);
const PEER: Asn = Asn(65001);

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn settings(local: Asn, peer: Asn, id: u8) -> Settings {
    Settings {
        local_asn: local,
        peer_asn: peer,
        router_id: Ipv4Addr::new(192, 0, 2, id),
        hold_time: 9,
        send_hold_time: None,
        connect_retry: secs(5),
        long_back_off: Settings::LONG_BACK_OFF,
        passive: false,
        families: Family::ALL.to_vec(),
        graceful_restart: None,
        seed: u64::from(id),
    }
}

/// Ours in the tables: identifier .5.
fn ours() -> Settings {
    settings(LOCAL, PEER, 5)
}

/// The peer's, with identifier `id`.
fn theirs(id: u8) -> Settings {
    settings(PEER, LOCAL, id)
}

fn with_restart(mut settings: Settings, notification: bool) -> Settings {
    let restart = preserving(120, &settings.families);
    settings.graceful_restart = Some(GracefulRestart { notification, ..restart });
    settings
}

fn notification(code: u8, subcode: u8) -> Notification {
    Notification::new(code, subcode, &[])
}

fn open_of(settings: &Settings) -> Message {
    Message::Open(build(settings, None, false))
}

/// A session, its clock and what it asked for last.
struct Bench {
    session: Session,
    now: Instant,
    peer: Settings,
}

impl Bench {
    fn new(ours: Settings, peer: Settings) -> Self {
        Self { session: Session::new(ours), now: Instant::now(), peer }
    }

    fn does(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.session.handle(self.now, event, &mut out);
        out
    }

    fn gets(&mut self, side: Side, message: Message) -> Vec<Action> {
        self.does(Event::Received(side, message))
    }

    /// Lets time pass, firing every deadline at its instant.
    fn pass(&mut self, by: Duration) -> Vec<(Instant, Action)> {
        let end = self.now + by;
        let mut done = Vec::new();
        while let Some(at) = self.session.next_deadline().filter(|at| *at <= end) {
            self.now = at;
            done.extend(self.does(Event::Timeout).into_iter().map(|action| (at, action)));
        }
        self.now = end;
        done
    }

    /// Brings `side` to `state` by the straight way.
    fn reach(&mut self, side: Side, state: State) {
        if side == Side::Outgoing {
            self.does(Event::Start);
        } else {
            self.session.settings.passive = true;
            self.does(Event::Start);
            assert_eq!(self.session.slot_for_incoming(self.now, &mut Vec::new()), side);
        }
        self.does(Event::Connected(side));
        if state >= State::OpenConfirm {
            let open = open_of(&self.peer);
            self.gets(side, open);
        }
        if state >= State::Established {
            self.gets(side, Message::Keepalive);
        }
        assert_eq!(self.session.state(), state);
    }
}

fn at(state: State) -> Bench {
    let mut bench = Bench::new(ours(), theirs(9));
    bench.reach(Side::Outgoing, state);
    bench
}

fn sent(actions: &[Action]) -> Vec<&Notification> {
    let said = actions.iter().filter_map(|action| match action {
        Action::Send(_, Message::Notification(notification)) => Some(notification),
        _ => None,
    });
    said.collect()
}

fn down(actions: &[Action]) -> Option<&Down> {
    actions.iter().find_map(|action| if let Action::Down(down) = action { Some(down) } else { None })
}

fn dials(actions: &[(Instant, Action)]) -> Vec<Instant> {
    actions.iter().filter(|(_, action)| *action == Action::Dial).map(|(at, _)| *at).collect()
}

#[test]
fn a_session_comes_up_step_by_step() {
    let mut bench = Bench::new(ours(), theirs(9));
    assert_eq!(bench.session.state().to_string(), "idle");
    assert_eq!(bench.session.since(), None);
    assert_eq!(bench.does(Event::Start), [Action::Dial]);
    assert_eq!(bench.session.state().to_string(), "connect");
    assert_eq!(bench.does(Event::Connected(Side::Outgoing)), [Action::Send(Side::Outgoing, open_of(&ours()))]);
    assert_eq!(bench.session.state().to_string(), "opensent");
    let codec =
        Codec { four_octet_as: true, extended_message: true, external: true, families: PerFamily::new(true, true) };
    assert_eq!(
        bench.gets(Side::Outgoing, open_of(&theirs(9))),
        [Action::SetCodec(Side::Outgoing, codec), Action::Send(Side::Outgoing, Message::Keepalive)]
    );
    assert_eq!(bench.session.state().to_string(), "openconfirm");
    assert!(bench.session.negotiated().is_none(), "not before Established");
    bench.now += secs(1);
    let up = bench.gets(Side::Outgoing, Message::Keepalive);
    assert!(matches!(up.as_slice(), [Action::Up(Side::Outgoing, _)]), "{up:?}");
    assert_eq!(bench.session.state().to_string(), "established");
    assert_eq!(bench.session.since(), Some(bench.now));
    let agreed = bench.session.negotiated().unwrap();
    assert_eq!((agreed.hold_time, agreed.keepalive), (9, 3));
    assert_eq!((agreed.peer_asn, agreed.peer_router_id), (PEER, Ipv4Addr::new(192, 0, 2, 9)));
    let update = Update { end_of_rib: Some(Family::Ipv4), ..Update::default() };
    assert_eq!(bench.gets(Side::Outgoing, Message::Update(update.clone())), [Action::Deliver(update)]);
}

#[test]
fn every_cause_has_its_notification() {
    use State::{Established, OpenConfirm, OpenSent};
    let peer_as = |settings: Settings, asn| Settings { local_asn: Asn(asn), ..settings };
    let with_open = |change: fn(&mut Open)| {
        let mut open = build(&theirs(9), None, false);
        change(&mut open);
        Event::Received(Side::Outgoing, Message::Open(open))
    };
    let message = |message| Event::Received(Side::Outgoing, message);
    let refresh = Message::RouteRefresh(RouteRefresh { family: Family::Ipv4, kind: RefreshKind::Request });
    let update = || Message::Update(Update::default());
    let cases = [
        // (why, state, event, code, subcode)
        ("another AS", OpenSent, message(open_of(&peer_as(theirs(9), 65002))), 2, 2),
        ("AS 0 (RFC 7607)", OpenSent, with_open(|open| open.asn = Asn(0)), 2, 2),
        ("no identifier", OpenSent, with_open(|open| open.router_id = Ipv4Addr::UNSPECIFIED), 2, 3),
        ("hold time of a second", OpenSent, with_open(|open| open.hold_time = 1), 2, 6),
        ("hold time of two seconds", OpenSent, with_open(|open| open.hold_time = 2), 2, 6),
        (
            "no family in common",
            OpenSent,
            with_open(|open| open.capabilities = vec![Capability::Unknown { code: 1, body: Box::new([0, 25, 0, 70]) }]),
            2,
            7,
        ),
        ("keepalive before OPEN", OpenSent, message(Message::Keepalive), 5, 1),
        ("UPDATE before OPEN", OpenSent, message(update()), 5, 1),
        ("refresh before OPEN", OpenSent, message(refresh.clone()), 5, 1),
        ("second OPEN", OpenConfirm, message(open_of(&theirs(9))), 5, 2),
        ("UPDATE before keepalive", OpenConfirm, message(update()), 5, 2),
        ("refresh before keepalive", OpenConfirm, message(refresh), 5, 2),
        ("OPEN in Established", Established, message(open_of(&theirs(9))), 5, 3),
        ("bytes that are no message", OpenSent, Event::Malformed(Side::Outgoing, notification(1, 1)), 1, 1),
        ("malformed UPDATE", Established, Event::Malformed(Side::Outgoing, notification(3, 1)), 3, 1),
        ("administrative shutdown", OpenConfirm, Event::Stop(notification(6, 2)), 6, 2),
        ("too many prefixes", Established, Event::Close(notification(6, 1)), 6, 1),
    ];
    for (why, state, event, code, subcode) in cases {
        let mut bench = at(state);
        let out = bench.does(event);
        let said = sent(&out);
        assert_eq!(said.len(), 1, "{why}: {out:?}");
        assert_eq!((said[0].code, said[0].subcode), (code, subcode), "{why}");
        assert!(out.contains(&Action::Close(Side::Outgoing)), "{why}: {out:?}");
        assert_eq!(down(&out).is_some(), state == Established, "{why}: {out:?}");
        assert_eq!(bench.session.state(), State::Idle, "{why}");
    }
}

#[test]
fn silence_ends_a_connection() {
    let cases = [
        // (why, state, hold time of the peer, seconds until 4/0)
        ("OPEN is waited for four minutes", State::OpenSent, 9, 240),
        ("then as agreed", State::OpenConfirm, 9, 9),
        ("in Established too", State::Established, 9, 9),
        ("the smaller hold time counts", State::Established, 3, 3),
        ("no hold time: OpenConfirm ends all the same", State::OpenConfirm, 0, 240),
    ];
    for (why, state, hold_time, after) in cases {
        let mut bench = Bench::new(ours(), Settings { hold_time, ..theirs(9) });
        bench.reach(Side::Outgoing, state);
        let start = bench.now;
        let done = bench.pass(secs(after));
        let said = done.iter().find(|(_, action)| sent(std::slice::from_ref(action)) == [&notification(4, 0)]);
        assert_eq!(said.map(|(at, _)| *at - start), Some(secs(after)), "{why}: {done:?}");
    }
    let mut bench = Bench::new(ours(), Settings { hold_time: 0, ..theirs(9) });
    bench.reach(Side::Outgoing, State::Established);
    assert_eq!(bench.session.next_deadline(), None, "hold time 0: neither hold nor keepalive timer");
}

#[test]
fn being_busy_expires_no_hold_timer() {
    let mut bench = at(State::Established);
    bench.now += secs(20);
    bench.session.note_activity(bench.now, Side::Outgoing);
    let out = bench.does(Event::Timeout);
    assert_eq!(out, [Action::Send(Side::Outgoing, Message::Keepalive)]);
    bench.now += secs(9);
    assert_eq!(sent(&bench.does(Event::Timeout)), [&notification(4, 0)], "but silence does");
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let cases = [
        // (why, hold time, configured, seconds until 8/0)
        ("eight minutes", 9, None, Some(480)),
        ("or twice the hold time", 300, None, Some(600)),
        ("as configured", 9, Some(60), Some(60)),
        ("but never before the hold time", 90, Some(60), Some(90)),
        ("turned off", 9, Some(0), None),
        ("RFC 9687 §3.2: not without a hold time", 0, Some(60), None),
    ];
    for (why, hold_time, configured, wanted) in cases {
        let ours = Settings { hold_time, send_hold_time: configured.map(secs), ..ours() };
        let mut bench = Bench::new(ours, Settings { hold_time, ..theirs(9) });
        bench.reach(Side::Outgoing, State::Established);
        // What got through a second ago puts it off; being told late of it changes nothing.
        let up = bench.now;
        bench.now += secs(1);
        bench.session.note_sent(bench.now, Side::Outgoing);
        bench.session.note_sent(up, Side::Outgoing);
        let start = bench.now;
        let mut given_up = None;
        while given_up.is_none() && bench.now - start < secs(1000) {
            // The peer itself is not silent.
            bench.gets(Side::Outgoing, Message::Keepalive);
            let done = bench.pass(secs(1));
            let said = |(_, action): &&(Instant, Action)| sent(std::slice::from_ref(action)) == [&notification(8, 0)];
            given_up = done.iter().find(said).map(|(at, _)| (*at - start).as_secs());
            assert_eq!(given_up.is_some(), bench.session.state() == State::Idle, "{why}");
        }
        assert_eq!(given_up, wanted, "{why}");
    }
}

#[test]
fn what_may_be_kept_after_the_end() {
    // N says that routes outlive a NOTIFICATION (RFC 8538).
    enum Restart {
        None,
        Plain,
        N,
    }
    use Restart::{N, Plain};
    let received = |code, subcode| Event::Received(Side::Outgoing, Message::Notification(notification(code, subcode)));
    let cases = [
        // (why, what both offer, event, kept, sent)
        ("nothing agreed", Restart::None, Event::Disconnected(Side::Outgoing), false, None),
        ("TCP ended: the peer restarts", Plain, Event::Disconnected(Side::Outgoing), true, None),
        ("a NOTIFICATION ends it", Plain, received(6, 4), false, None),
        ("ours too", Plain, Event::Malformed(Side::Outgoing, notification(3, 1)), false, Some((3, 1))),
        ("not with N", N, received(6, 4), true, None),
        ("nor ours", N, Event::Malformed(Side::Outgoing, notification(3, 1)), true, Some((3, 1))),
        ("but Hard Reset does", N, received(6, 9), false, None),
        ("we leave for good", N, Event::Stop(notification(6, 2)), false, Some((6, 9))),
        ("a changed configuration is not for good", N, Event::Stop(notification(6, 6)), true, Some((6, 6))),
        ("too many prefixes", N, Event::Close(notification(6, 1)), false, Some((6, 9))),
        ("without N no Hard Reset", Plain, Event::Stop(notification(6, 2)), false, Some((6, 2))),
        ("we exit and keep forwarding", Plain, Event::Abandon, true, None),
    ];
    for (why, restart, event, graceful, said) in cases {
        let equip = |settings| match restart {
            Restart::None => settings,
            Plain => with_restart(settings, false),
            N => with_restart(settings, true),
        };
        let mut bench = Bench::new(equip(ours()), equip(theirs(9)));
        bench.reach(Side::Outgoing, State::Established);
        let out = bench.does(event);
        assert_eq!(down(&out).map(|down| down.graceful), Some(graceful), "{why}: {out:?}");
        assert_eq!(sent(&out).first().map(|n| (n.code, n.subcode)), said, "{why}: {out:?}");
    }
    // Hold expiry is a NOTIFICATION of ours.
    for (n, graceful) in [(false, false), (true, true)] {
        let mut bench = Bench::new(with_restart(ours(), n), with_restart(theirs(9), n));
        bench.reach(Side::Outgoing, State::Established);
        let out: Vec<_> = bench.pass(secs(10)).into_iter().map(|(_, action)| action).collect();
        assert_eq!(down(&out).map(|down| down.graceful), Some(graceful));
    }
}
