//! How often we dial.

use super::*;

#[test]
fn a_closed_peer_is_left_alone_for_long() {
    let mut bench = at(State::Established);
    let start = bench.now;
    bench.does(Event::Close(notification(6, 1)));
    assert_eq!(bench.session.last_error().map(|last| last.reason.direction()), Some(Direction::Sent));
    assert_eq!(bench.session.counters().flaps, 1);
    let dialled = dials(&bench.pass(secs(301)));
    assert_eq!(dialled.iter().map(|at| *at - start).collect::<Vec<_>>(), [secs(300)]);
}

#[test]
fn a_dead_peer_is_dialled_at_a_steady_pace() {
    let cases = [
        // (why, connect_retry, answered by, dials in an hour: at least, at most)
        ("refused at once", 5, Some(Duration::ZERO), 720, 962),
        ("no answer: the dial is renewed", 5, None, 720, 962),
        ("refused after long", 5, Some(secs(2)), 500, 630),
        ("fastest", 0, Some(Duration::ZERO), 3600, 4802),
        ("fastest, no answer", 0, None, 890, 902),
        ("slowest", 600, Some(Duration::ZERO), 60, 82),
    ];
    for (why, retry, answer, least, most) in cases {
        let mut bench = Bench::new(Settings { connect_retry: secs(retry), ..ours() }, theirs(9));
        let end = bench.now + secs(3600);
        let mut count = bench.does(Event::Start).len();
        while bench.now < end {
            if let Some(after) = answer.filter(|_| bench.session.state() == State::Connect) {
                bench.pass(after);
                bench.does(Event::ConnectFailed);
            }
            let wait = bench.session.next_deadline().unwrap().max(bench.now) - bench.now;
            count += dials(&bench.pass(wait)).len();
        }
        assert!((least..=most).contains(&count), "{why}: {count}");
        assert!(
            matches!(bench.session.last_error(), Some(LastError { reason: Reason::ConnectFailed, .. }))
                || answer.is_none()
        );
    }
}

#[test]
fn errors_make_the_pause_grow_and_a_good_session_resets_it() {
    let mut bench = Bench::new(ours(), theirs(9));
    bench.does(Event::Start);
    let pause_after = |bench: &mut Bench, lasted: Option<Duration>| {
        bench.does(Event::Connected(Side::Outgoing));
        if let Some(lasted) = lasted {
            let open = open_of(&bench.peer);
            bench.gets(Side::Outgoing, open);
            bench.gets(Side::Outgoing, Message::Keepalive);
            bench.now += lasted;
        }
        bench.gets(Side::Outgoing, Message::Notification(notification(6, 4)));
        assert_eq!(bench.session.state(), State::Idle);
        let start = bench.now;
        while bench.session.state() != State::Connect {
            let wait = bench.session.next_deadline().unwrap() - bench.now;
            bench.pass(wait);
        }
        (bench.now - start).as_secs_f64()
    };
    let cases = [
        // (why, Established for, pause in seconds before jitter)
        ("first", None, 5.0),
        ("second", None, 10.0),
        ("third", None, 20.0),
        ("a session that falls at once is no better", Some(secs(1)), 40.0),
        ("never more than a minute", None, 60.0),
        ("never", None, 60.0),
        ("a good session wipes the slate", Some(secs(60)), 5.0),
        ("and it begins again", None, 10.0),
    ];
    for (why, lasted, wanted) in cases {
        let got = pause_after(&mut bench, lasted);
        assert!((wanted * 0.75..=wanted).contains(&got), "{why}: {got} s, wanted {wanted}");
    }
}

#[test]
fn a_peer_that_keeps_failing_does_not_put_our_dial_off() {
    let mut bench = at(State::OpenSent);
    bench.does(Event::Disconnected(Side::Outgoing));
    let due = bench.session.next_deadline();
    for _ in 0..3 {
        bench.now += secs(1);
        bench.does(Event::Connected(Side::Incoming));
        bench.gets(Side::Incoming, Message::Keepalive);
        assert_eq!(bench.session.next_deadline(), due);
    }
}

#[test]
fn a_mute_caller_does_not_keep_us_from_dialling() {
    let mut bench = Bench::new(ours(), theirs(9));
    bench.does(Event::Start);
    bench.does(Event::ConnectFailed);
    bench.does(Event::Connected(Side::Incoming));
    assert_eq!(dials(&bench.pass(secs(5))).len(), 1);
}

#[test]
fn passive_can_be_switched() {
    let mut bench = Bench::new(Settings { passive: true, ..ours() }, theirs(9));
    assert_eq!(bench.does(Event::Start), []);
    assert_eq!((bench.session.state(), bench.session.next_deadline()), (State::Active, None));
    assert!(!bench.session.update_settings(bench.now, ours()));
    assert_eq!(dials(&bench.pass(secs(5))).len(), 1);
    assert!(!bench.session.update_settings(bench.now, Settings { passive: true, ..ours() }));
    let done = bench.pass(secs(60));
    assert_eq!(done.iter().map(|(_, action)| action).collect::<Vec<_>>(), [&Action::CancelDial]);
    assert_eq!((bench.session.state(), bench.session.next_deadline()), (State::Active, None));
}
