//! One session and packets made by hand: the rules of RFC 5880 §6.8, one by one.

use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use super::{discriminator, ms, packet, settings};
use crate::bfd::{Change, Diagnostic, Output, Packet, Session, Settings, State};

const NOTHING: Output = Output { send: None, change: None };

/// A session with its clock.
#[derive(Clone)]
struct One {
    now: Instant,
    session: Session,
}

impl One {
    fn new(interval: u64, multiplier: u8) -> Self {
        let now = Instant::now();
        let session = Session::new(now, discriminator(7), settings(interval, multiplier), 42);
        let mut one = Self { now, session };
        assert!(one.wait(Duration::ZERO)[0].1.send.is_some(), "the first packet goes out at once");
        one
    }

    /// Up with a peer that sends what [`packet`] makes; the poll for the faster pace is over.
    fn up(interval: u64, multiplier: u8) -> Self {
        let mut one = Self::new(interval, multiplier);
        one.hear(State::Down);
        one.hear(State::Up);
        one.hears(Packet { is_final: true, ..packet(State::Up) });
        assert_eq!(one.state(), State::Up);
        one
    }

    fn hears(&mut self, packet: Packet) -> Output {
        self.session.received(self.now, &packet)
    }

    fn hear(&mut self, state: State) -> Output {
        self.hears(packet(state))
    }

    fn state(&self) -> State {
        self.session.snapshot().state
    }

    /// Lets time pass in silence; what came out, and when.
    fn wait(&mut self, time: Duration) -> Vec<(Duration, Output)> {
        let (start, end) = (self.now, self.now + time);
        let mut seen = Vec::new();
        while let Some(at) = self.session.next_deadline().filter(|at| *at <= end) {
            self.now = at;
            let output = self.session.timeout(at);
            assert!(self.session.next_deadline().is_none_or(|next| next > at), "a deadline is done with");
            seen.push((at - start, output));
        }
        self.now = end;
        seen
    }

    /// Stays in touch for so long, the peer sending every 50 ms; the packets sent.
    fn talk(&mut self, time: Duration, heard: Packet) -> Vec<(Duration, Packet)> {
        let mut sent = Vec::new();
        let mut passed = Duration::ZERO;
        while passed < time {
            sent.extend(self.wait(ms(50)).into_iter().filter_map(|(at, out)| Some((passed + at, out.send?))));
            passed += ms(50);
            self.hears(heard);
        }
        sent
    }
}

#[test]
fn state_machine_of_the_rfc() {
    use State::{AdminDown, Down, Init, Up};
    let cases = [
        // (we are, we hear, we become)
        (Down, AdminDown, Down),
        (Down, Down, Init),
        (Down, Init, Up),
        (Down, Up, Down),
        (Init, AdminDown, Down),
        (Init, Down, Init),
        (Init, Init, Up),
        (Init, Up, Up),
        (Up, AdminDown, Down),
        (Up, Down, Down),
        (Up, Init, Up),
        (Up, Up, Up),
        (AdminDown, AdminDown, AdminDown),
        (AdminDown, Down, AdminDown),
        (AdminDown, Init, AdminDown),
        (AdminDown, Up, AdminDown),
    ];
    for (from, heard, to) in cases {
        let mut one = One::new(100, 3);
        match from {
            AdminDown => drop(one.session.admin_down(one.now)),
            Down => {}
            Init => drop(one.hear(Down)),
            Up => {
                one.hear(Down);
                one.hear(Init);
            }
        }
        assert_eq!(one.state(), from);
        let output = one.hear(heard);
        assert_eq!(one.state(), to, "{from} hears {heard}");
        let failure = (from, heard) == (Up, Down);
        let change = (from != to).then_some(Change { from, to, failure });
        assert_eq!(output.change, change, "{from} hears {heard}: AdminDown is no failure");
        assert_eq!(output.send.is_some(), from != to, "{from} hears {heard}: a change is told at once");
        if to == Down && from != Down {
            assert_eq!(one.session.snapshot().diagnostic, Diagnostic::NEIGHBOR_DOWN);
        }
    }
}

#[test]
fn silence_is_noticed_after_the_detection_time_and_not_before() {
    let cases = [
        // (why, our interval, its multiplier, its interval, wanted)
        ("as both say", 100, 3, 100, 300),
        ("the slower of both counts", 100, 3, 400, 1200),
        ("the slower of both counts, now us", 200, 5, 50, 1000),
        ("one is enough", 100, 1, 100, 100),
    ];
    for (why, ours, multiplier, theirs, wanted) in cases {
        let mut one = One::up(ours, 3);
        one.hears(Packet {
            multiplier: NonZeroU8::new(multiplier).unwrap(),
            desired_min_tx: ms(theirs),
            ..packet(State::Up)
        });
        let seen = one.wait(ms(3000));
        let (at, output) = seen.iter().find(|(_, output)| output.change.is_some()).expect(why);
        assert_eq!(*at, ms(wanted), "{why}");
        assert_eq!(output.change, Some(Change { from: State::Up, to: State::Down, failure: true }), "{why}");
        let told = output.send.unwrap();
        assert_eq!((told.state, told.diagnostic), (State::Down, Diagnostic::EXPIRED), "{why}");
        assert_eq!(told.your_discriminator, 0, "{why}: RFC 5880 §6.8.1");
        assert!(told.desired_min_tx >= ms(1000), "{why}: slow while not Up");
    }
}

#[test]
fn silence_while_we_did_not_run_is_excused_but_not_for_ever() {
    let mut one = One::up(100, 3);
    one.hear(State::Up);
    one.session.excuse(one.now);
    assert_eq!(one.session.snapshot().detection, Some(ms(300)), "nothing to excuse yet");

    // Half a second of sleep; what the peer sent comes through just after.
    one.now += ms(500);
    one.session.excuse(one.now);
    assert_eq!(one.session.timeout(one.now).change, None);
    assert!(one.wait(ms(19)).iter().all(|(_, output)| output.change.is_none()));
    one.hear(State::Up);
    assert_eq!(one.wait(ms(299)).iter().find_map(|(_, output)| output.change), None);

    // This time nothing comes, and we are late again and again.
    one.hear(State::Up);
    one.now += ms(300);
    let mut excuses = 0;
    loop {
        one.session.excuse(one.now);
        if one.session.timeout(one.now).change.is_some() {
            break;
        }
        excuses += 1;
        assert!(excuses < 10, "excused for ever");
        one.now += ms(30);
    }
    assert_eq!((one.state(), excuses), (State::Down, 2));
}

#[test]
fn pace() {
    let cases = [
        // (why, our interval and multiplier, least it can take, shortest and longest gap)
        ("ours", 100, 3, 10, 75, 100),
        ("the peer's, if slower", 100, 3, 200, 150, 200),
        ("with a multiplier of 1 never the whole interval", 100, 1, 10, 75, 90),
    ];
    for (why, interval, multiplier, required, least, most) in cases {
        let mut one = One::up(interval, multiplier);
        let heard = Packet { required_min_rx: ms(required), ..packet(State::Up) };
        one.hears(heard);
        one.talk(ms(1000), heard);
        let sent = one.talk(ms(60_000), heard);
        let gaps: Vec<Duration> = sent.windows(2).map(|pair| pair[1].0.abs_diff(pair[0].0)).collect();
        let (shortest, longest) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
        assert!(*shortest >= ms(least) && *longest <= ms(most), "{why}: {shortest:?} to {longest:?}");
        assert!(longest.abs_diff(*shortest) > ms(most - least) / 2, "{why}: it is jittered");
    }

    let mut one = One::new(100, 3);
    let sent = one.wait(ms(60_000));
    assert!((60..=80).contains(&sent.len()), "one packet a second while not Up: {}", sent.len());
}

#[test]
fn a_poll_is_answered_at_once_in_any_state() {
    for state in [State::Down, State::Init, State::Up] {
        let mut one = if state == State::Up { One::up(100, 3) } else { One::new(100, 3) };
        let before = one.session.next_deadline();
        let answer = one.hears(Packet { poll: true, ..packet(state) }).send.expect("an answer");
        assert!(answer.is_final && !answer.poll, "{state}: never both bits");
        if state == State::Up {
            assert!(one.session.next_deadline() <= before.map(|at| at.max(one.now)), "it takes no packet's place");
        }
    }
    let mut one = One::new(100, 3);
    one.session.admin_down(one.now);
    assert_eq!(one.hears(Packet { poll: true, ..packet(State::Down) }), NOTHING, "discarded (§6.8.6)");
}

#[test]
fn going_up_polls_until_the_answer() {
    let mut one = One::new(100, 3);
    assert!(!one.hear(State::Down).send.unwrap().poll, "nothing has changed yet");
    let first = one.hear(State::Init).send.unwrap();
    assert!(first.poll && first.desired_min_tx == ms(100), "the faster pace is told by a poll: {first:?}");
    assert!(one.talk(ms(500), packet(State::Up)).iter().all(|(_, sent)| sent.poll));
    one.hears(Packet { is_final: true, ..packet(State::Up) });
    assert!(one.talk(ms(500), packet(State::Up)).iter().all(|(_, sent)| !sent.poll));
}

#[test]
fn slower_and_faster_wait_for_the_answer_where_they_must() {
    let mut one = One::up(100, 3);
    let told = one.session.configure(one.now, settings(400, 3)).send.unwrap();
    assert!(told.poll && told.desired_min_tx == ms(400) && told.required_min_rx == ms(400));
    let snapshot = one.session.snapshot();
    assert_eq!(snapshot.transmit, Some(ms(100)), "the peer still expects the former pace");
    assert_eq!(snapshot.detection, Some(ms(1200)), "it may be slow from now on");
    one.hears(Packet { is_final: true, ..packet(State::Up) });
    assert_eq!(one.session.snapshot().transmit, Some(ms(400)));

    let heard = Packet { desired_min_tx: ms(50), required_min_rx: ms(50), ..packet(State::Up) };
    one.hears(heard);
    let told = one.session.configure(one.now, settings(50, 3)).send.unwrap();
    assert!(told.poll && told.desired_min_tx == ms(50) && told.required_min_rx == ms(50));
    let snapshot = one.session.snapshot();
    assert_eq!(snapshot.transmit, Some(ms(50)), "more than promised is no harm");
    assert_eq!(snapshot.detection, Some(ms(1200)), "the peer may not know yet");
    one.hears(Packet { is_final: true, ..heard });
    assert_eq!(one.session.snapshot().detection, Some(ms(150)));
}

#[test]
fn an_answer_to_former_values_does_not_end_the_poll() {
    let mut one = One::up(100, 3);
    one.session.configure(one.now, settings(200, 3));
    one.session.configure(one.now, settings(300, 3));
    one.hears(Packet { is_final: true, ..packet(State::Up) });
    assert_eq!(one.session.snapshot().transmit, Some(ms(100)), "that may have been for 200");
    one.hears(Packet { is_final: true, ..packet(State::Up) });
    assert_eq!(one.session.snapshot().transmit, Some(ms(300)));
}

#[test]
fn a_faster_peer_is_obeyed_at_once() {
    let mut one = One::up(50, 3);
    let slow = Packet { required_min_rx: ms(10_000), ..packet(State::Up) };
    one.hears(slow);
    one.talk(ms(200), slow);
    one.hear(State::Up);
    let sent = one.talk(ms(200), packet(State::Up));
    assert!(sent[0].0 <= ms(100), "RFC 5880 §6.8.3: not after the former 10 s, but {:?}", sent[0].0);
}

#[test]
fn who_takes_no_packets_gets_none() {
    for quiet in
        [Packet { required_min_rx: Duration::ZERO, ..packet(State::Up) }, Packet { demand: true, ..packet(State::Up) }]
    {
        let mut one = One::up(100, 3);
        one.hears(quiet);
        assert_eq!(one.session.snapshot().transmit, None);
        assert_eq!(one.talk(ms(5000), quiet), [], "{quiet:?}");
        let answer = one.hears(Packet { poll: true, ..quiet }).send;
        assert!(answer.is_some_and(|answer| answer.is_final), "but a poll is answered");
        // It goes silent without a word: noticed as ever.
        let seen = one.wait(ms(300));
        assert_eq!(seen.last().and_then(|(_, output)| output.change).map(|change| change.failure), Some(true));
        assert!(one.session.snapshot().transmit.is_some(), "whoever comes back is greeted");
    }
    // In demand mode of the peer's, our own polls go on (§6.6).
    let mut one = One::up(100, 3);
    let demand = Packet { demand: true, ..packet(State::Up) };
    one.hears(demand);
    one.session.configure(one.now, settings(200, 3));
    assert!(!one.talk(ms(1000), demand).is_empty());
    one.hears(Packet { is_final: true, ..demand });
    one.wait(ms(200));
    assert_eq!(one.talk(ms(1000), demand), []);
}

#[test]
fn admin_down_is_told_and_stays() {
    let mut one = One::up(100, 3);
    let output = one.session.admin_down(one.now);
    let told = output.send.unwrap();
    assert_eq!((told.state, told.diagnostic), (State::AdminDown, Diagnostic::ADMIN_DOWN));
    assert_eq!(output.change, Some(Change { from: State::Up, to: State::AdminDown, failure: false }));
    let sent = one.talk(ms(10_000), packet(State::Up));
    assert!(sent.iter().all(|(_, sent)| sent.state == State::AdminDown), "{sent:?}");
    assert!((9..=14).contains(&sent.len()), "slowly: {}", sent.len());
}

#[test]
fn a_peer_that_is_down_on_purpose_has_not_failed() {
    let mut one = One::up(100, 3);
    let change = one.hear(State::AdminDown).change.unwrap();
    assert!(!change.failure && change.to == State::Down);
    // It ends without another word.
    assert!(one.wait(ms(10_000)).iter().all(|(_, output)| output.change.is_none()));
    // And comes back.
    one.hear(State::Down);
    one.hear(State::Init);
    assert_eq!(one.state(), State::Up);
}

#[test]
fn a_peer_that_begins_anew_is_noticed_and_has_not_failed() {
    let mut one = One::up(100, 3);
    let fresh = Packet { my_discriminator: discriminator(1234), ..packet(State::Down) };
    let output = one.hears(fresh);
    assert_eq!(output.change, Some(Change { from: State::Up, to: State::Down, failure: false }));
    assert_eq!(output.send.unwrap().your_discriminator, 1234);
    one.hears(fresh);
    assert_eq!(one.state(), State::Init);
    one.hears(Packet { state: State::Up, your_discriminator: 7, ..fresh });
    assert_eq!(one.state(), State::Up);
    // From now on this is the one that can fail.
    assert!(one.clone().hears(fresh).change.unwrap().failure);
    let mistaken = Packet { diagnostic: Diagnostic::NEIGHBOR_DOWN, ..fresh };
    assert!(!one.hears(mistaken).change.unwrap().failure, "it says that we went down, and we didn't");

    let mut one = One::up(100, 3);
    assert!(one.wait(ms(300)).iter().any(|(_, output)| output.change.is_some_and(|change| change.failure)));
    assert_eq!(one.hears(fresh).change.unwrap().to, State::Init, "after too long a silence: that had been one");
}

#[test]
fn held_down_and_let_go() {
    let held = Settings { admin_down: true, ..settings(100, 3) };
    let mut one = One::up(100, 3);
    let output = one.session.configure(one.now, held);
    assert_eq!(output.change, Some(Change { from: State::Up, to: State::AdminDown, failure: false }));
    assert_eq!(output.send.unwrap().state, State::AdminDown, "told at once");
    assert!(one.talk(ms(5000), packet(State::Down)).iter().all(|(_, sent)| sent.state == State::AdminDown));
    let output = one.session.configure(one.now, settings(100, 3));
    assert_eq!(output.change, Some(Change { from: State::AdminDown, to: State::Down, failure: false }));
    one.hear(State::Down);
    assert_eq!(one.hear(State::Init).change.unwrap().to, State::Up);

    let mut one = One { now: one.now, session: Session::new(one.now, discriminator(7), held, 42) };
    let (_, output) = one.wait(Duration::ZERO)[0];
    assert_eq!(output.send.map(|sent| (sent.state, sent.diagnostic)), Some((State::AdminDown, Diagnostic::ADMIN_DOWN)));
    assert_eq!(one.hear(State::Down), NOTHING);
}

#[test]
fn echo_and_demand_are_refused() {
    let mut one = One::up(100, 3);
    let (_, sent) = one.talk(ms(200), packet(State::Up))[0];
    assert!(!sent.demand && !sent.independent);
    assert_eq!(sent.encode()[20..24], [0; 4], "required min echo RX interval");
}
