//! Several connections at a time: which one lives.

use super::*;

/// All ways in which two connections can interleave, for both orders of identifiers.
#[test]
fn collisions_leave_one_connection_in_every_order() {
    // Bit i of `order` says whose step comes i-th; each side takes three.
    for order in (0_u32..64).filter(|order| order.count_ones() == 3) {
        for (peer_id, peer_wins) in [(9, true), (1, false)] {
            let mut bench = Bench::new(ours(), theirs(peer_id));
            bench.does(Event::Start);
            let mut steps = [0, 0];
            let mut opened = [false, false];
            let mut first_up = None;
            let mut out = Vec::new();
            for i in 0..6 {
                let incoming = (order >> i & 1) as usize;
                let side = [Side::Outgoing, Side::Incoming][incoming];
                let open = out.iter().all(|action| *action != Action::Close(side) && *action != Action::CancelDial);
                let event = match steps[incoming] {
                    0 => Event::Connected(side),
                    1 => Event::Received(side, open_of(&bench.peer)),
                    _ => Event::Received(side, Message::Keepalive),
                };
                steps[incoming] += 1;
                if !open && side == Side::Outgoing || out.contains(&Action::Close(side)) {
                    continue; // The driver has closed it.
                }
                opened[incoming] |= steps[incoming] == 2 && first_up.is_none();
                out.extend(bench.does(event));
                if first_up.is_none() && bench.session.state() == State::Established {
                    first_up = Some(side);
                }
            }
            let ups: Vec<_> =
                out.iter().filter_map(|a| if let Action::Up(side, _) = a { Some(*side) } else { None }).collect();
            let by_id = if peer_wins { Side::Incoming } else { Side::Outgoing };
            let wanted = if opened == [true, true] { Some(by_id) } else { first_up };
            assert_eq!(ups.len(), 1, "order {order:06b}: {out:?}");
            assert_eq!(ups.first().copied(), wanted, "order {order:06b}, peer wins {peer_wins}: {out:?}");
            let closed = sent(&out);
            assert!(closed.iter().all(|said| **said == notification(6, 7)), "{closed:?}");
            assert_eq!(bench.session.conns.iter().filter(|(_, conn)| conn.is_some()).count(), 1);
            assert_eq!(down(&out), None);
            assert_eq!(bench.session.last_error(), None, "a collision is no error");
            assert_eq!(bench.pass(secs(8)).iter().filter(|(_, a)| *a == Action::Dial).count(), 0);
        }
    }
}

/// The peer answers on one connection only; its hold time is 9 s, so keepalives are due within 3 s.
#[test]
fn a_better_connection_is_not_waited_for_for_ever() {
    let keepalive = |side| Action::Send(side, Message::Keepalive);
    // We are higher: what we dialled is better, and the other gets no answer while that may come.
    let mut bench = Bench::new(ours(), theirs(1));
    bench.does(Event::Start);
    bench.does(Event::Connected(Side::Outgoing));
    bench.does(Event::Connected(Side::Incoming));
    let open = open_of(&bench.peer);
    let out = bench.gets(Side::Incoming, open);
    assert!(!out.contains(&keepalive(Side::Incoming)), "{out:?}");
    assert_eq!(bench.gets(Side::Incoming, Message::Keepalive), []);
    let out: Vec<_> = bench.pass(secs(3)).into_iter().map(|(_, action)| action).collect();
    assert_eq!(sent(&out), [&notification(6, 7)], "{out:?}");
    assert!(out.contains(&Action::Close(Side::Outgoing)) && out.contains(&keepalive(Side::Incoming)), "{out:?}");
    assert!(matches!(out.last(), Some(Action::Up(Side::Incoming, _))), "{out:?}");

    // We are lower: what we dialled is answered, and not Established while the peer's may come.
    let mut bench = Bench::new(ours(), theirs(9));
    bench.reach(Side::Outgoing, State::OpenConfirm);
    bench.does(Event::Connected(Side::Incoming));
    assert_eq!(bench.gets(Side::Outgoing, Message::Keepalive), []);
    let out: Vec<_> = bench.pass(secs(3)).into_iter().map(|(_, action)| action).collect();
    assert_eq!(out[0], keepalive(Side::Outgoing), "the peer must not miss our keepalives meanwhile");
    assert!(out.contains(&Action::Close(Side::Incoming)), "{out:?}");
    assert!(matches!(out.last(), Some(Action::Up(Side::Outgoing, _))), "{out:?}");
}

#[test]
fn routes_tell_which_connection_the_peer_has_chosen() {
    let mut bench = Bench::new(ours(), theirs(9));
    bench.reach(Side::Outgoing, State::OpenConfirm);
    bench.does(Event::Connected(Side::Incoming));
    bench.gets(Side::Outgoing, Message::Keepalive);
    let out = bench.gets(Side::Outgoing, Message::Update(Update::default()));
    assert!(out.contains(&Action::Close(Side::Incoming)), "{out:?}");
    assert_eq!(out.last(), Some(&Action::Deliver(Update::default())));
}

#[test]
fn equal_identifiers_collide_by_as() {
    for (local, peer, survivor) in [(64512, 65001, Side::Incoming), (65001, 64512, Side::Outgoing)] {
        let mut bench = Bench::new(settings(Asn(local), Asn(peer), 5), settings(Asn(peer), Asn(local), 5));
        bench.does(Event::Start);
        let open = open_of(&bench.peer);
        for side in [Side::Outgoing, Side::Incoming] {
            bench.does(Event::Connected(side));
        }
        for side in [Side::Outgoing, Side::Incoming] {
            bench.gets(side, open.clone());
        }
        assert_eq!(bench.session.state(), State::OpenConfirm);
        assert!(bench.session.conns[survivor].is_some(), "{local} {peer}");
        assert_eq!(bench.session.conns.iter().filter(|(_, conn)| conn.is_some()).count(), 1);
    }
}

#[test]
fn a_peer_that_restarted_replaces_its_old_connection() {
    for side in [Side::Outgoing, Side::Incoming] {
        let mut bench = Bench::new(with_restart(ours(), false), with_restart(theirs(9), false));
        bench.reach(side, State::Established);
        let mut out = Vec::new();
        let new = bench.session.slot_for_incoming(bench.now, &mut out);
        assert_eq!((new, out.as_slice()), (if side == Side::Incoming { Side::Spare } else { Side::Incoming }, &[][..]));
        bench.does(Event::Connected(new));
        let open = open_of(&bench.peer);
        assert_eq!(down(&bench.gets(new, open)), None, "the old one is kept until the new one is complete");
        bench.now += secs(1);
        let out = bench.gets(new, Message::Keepalive);
        assert_eq!(bench.session.since(), Some(bench.now));
        let replaced = Down { reason: Reason::Replaced, graceful: true };
        assert_eq!(out[..2], [Action::Close(side), Action::Down(replaced)]);
        assert!(matches!(out[2..], [Action::Up(up, _)] if up == new), "{out:?}");
        assert_eq!(bench.session.counters(), Counters { established: 2, flaps: 1 });
    }
}

#[test]
fn a_failed_replacement_changes_nothing() {
    let mut bench = Bench::new(with_restart(ours(), false), with_restart(theirs(9), false));
    bench.reach(Side::Incoming, State::Established);
    let endings = [
        Event::Disconnected(Side::Spare),
        Event::Received(Side::Spare, Message::Notification(notification(6, 7))),
        Event::Received(Side::Spare, open_of(&Settings { local_asn: Asn(1), ..theirs(9) })),
    ];
    for ending in endings {
        assert_eq!(bench.session.slot_for_incoming(bench.now, &mut Vec::new()), Side::Spare);
        bench.does(Event::Connected(Side::Spare));
        let out = bench.does(ending);
        assert_eq!(down(&out), None, "{out:?}");
        assert_eq!(bench.session.state(), State::Established);
        assert_eq!(bench.session.last_error(), None);
    }
}

#[test]
fn established_wins_where_no_restart_was_agreed() {
    let mut bench = at(State::Established);
    assert_eq!(bench.session.slot_for_incoming(bench.now, &mut Vec::new()), Side::Incoming);
    let out = bench.does(Event::Connected(Side::Incoming));
    let refusal = Action::Send(Side::Incoming, Message::Notification(notification(6, 7)));
    assert_eq!(out, [refusal, Action::Close(Side::Incoming)]);
}

#[test]
fn the_peers_second_attempt_takes_the_place_of_its_first() {
    let mut bench = Bench::new(Settings { passive: true, ..ours() }, theirs(9));
    bench.reach(Side::Incoming, State::OpenSent);
    let mut out = Vec::new();
    assert_eq!(bench.session.slot_for_incoming(bench.now, &mut out), Side::Incoming);
    let goodbye = Action::Send(Side::Incoming, Message::Notification(notification(6, 7)));
    assert_eq!(out, [goodbye, Action::Close(Side::Incoming)]);
    assert_eq!(bench.does(Event::Connected(Side::Incoming)).len(), 1, "our OPEN");
}

#[test]
fn who_is_let_in() {
    let accepted = vec![Action::Send(Side::Incoming, open_of(&ours()))];
    let silenced = vec![Action::Close(Side::Incoming)];
    let rejection = Action::Send(Side::Incoming, Message::Notification(notification(6, 5)));
    let rejected = vec![rejection, Action::Close(Side::Incoming)];
    let failed = [Event::Connected(Side::Outgoing), Event::Received(Side::Outgoing, Message::Keepalive)];
    let cases = [
        // (why, what went before, what the caller gets)
        ("stopped", vec![], &rejected),
        ("abandoned, in silence", vec![Event::Abandon], &silenced),
        ("long back-off", vec![Event::Start, Event::Close(notification(6, 1))], &rejected),
        ("dialling", vec![Event::Start], &accepted),
        ("back-off after an error", [Event::Start].into_iter().chain(failed).collect(), &accepted),
    ];
    for (why, events, wanted) in cases {
        let mut bench = Bench::new(ours(), theirs(9));
        for event in events {
            bench.does(event);
        }
        assert_eq!(bench.does(Event::Connected(Side::Incoming)), *wanted, "{why}");
    }

    // A dial that we gave up, but that the driver could not take back.
    let mut bench = at(State::OpenSent);
    bench.does(Event::Stop(notification(6, 2)));
    bench.does(Event::Start);
    bench.does(Event::ConnectFailed);
    assert_eq!(bench.does(Event::Connected(Side::Outgoing)), [Action::Close(Side::Outgoing)]);
}
