//! Two sessions over a link that loses and delays, on a virtual clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{discriminator, ms, settings};
use crate::bfd::{Change, Output, Packet, Session, Settings, State};

/// SplitMix64: which packets get lost, and how long the others take.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Time, receiver, serial number, bytes.
type Flight = (Instant, usize, u64, [u8; 24]);

struct Pair {
    now: Instant,
    ends: [Session; 2],
    flights: BinaryHeap<Reverse<Flight>>,
    serial: u64,
    chance: Chance,
    /// Packets lost of each sender, in percent
    loss: [u64; 2],
    /// Longest delay
    delay: Duration,
    changes: Vec<(Instant, usize, Change)>,
    last_received: [Instant; 2],
}

impl Pair {
    fn new(of: [Settings; 2], seed: u64, loss: u64, delay: Duration) -> Self {
        let now = Instant::now();
        let ends = [(0, 11), (1, 22)].map(|(i, name)| Session::new(now, discriminator(name), of[i], seed ^ i as u64));
        Self {
            now,
            ends,
            flights: BinaryHeap::new(),
            serial: 0,
            chance: Chance(seed),
            loss: [loss; 2],
            delay,
            changes: Vec::new(),
            last_received: [now; 2],
        }
    }

    fn carry_out(&mut self, who: usize, output: Output) {
        if let Some(change) = output.change {
            self.changes.push((self.now, who, change));
        }
        if let Some(packet) = output.send
            && self.chance.next() % 100 >= self.loss[who]
        {
            let thousandths = u32::try_from(self.chance.next() % 1000).unwrap();
            let delay = self.delay * thousandths / 1000;
            self.serial += 1;
            self.flights.push(Reverse((self.now + delay, 1 - who, self.serial, packet.encode())));
        }
    }

    fn configure(&mut self, who: usize, settings: Settings) {
        let output = self.ends[who].configure(self.now, settings);
        self.carry_out(who, output);
    }

    /// Lets time pass, every packet and deadline at its own instant.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let flight = self.flights.peek().map(|Reverse((at, ..))| *at);
            let deadline = (0..2).filter_map(|who| Some((self.ends[who].next_deadline()?, who))).min();
            match (flight, deadline) {
                // What has arrived is heard before silence is judged.
                (Some(at), later) if at <= end && later.is_none_or(|(due, _)| at <= due) => {
                    let Some(Reverse((at, who, _, bytes))) = self.flights.pop() else { break };
                    self.now = at;
                    self.last_received[who] = at;
                    let packet = Packet::decode(&bytes).expect("our own packets are good");
                    let mine = self.ends[who].discriminator().get();
                    assert!([0, mine].contains(&packet.your_discriminator), "names nobody or the receiver");
                    let output = self.ends[who].received(at, &packet);
                    self.carry_out(who, output);
                }
                (_, Some((at, who))) if at <= end => {
                    self.now = at;
                    let output = self.ends[who].timeout(at);
                    self.carry_out(who, output);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn both_up(&self) -> bool {
        self.ends.iter().all(|end| end.snapshot().state == State::Up)
    }
}

fn any_settings() -> impl Strategy<Value = Settings> {
    (10_u64..2000, 1_u8..8).prop_map(|(interval, multiplier)| settings(interval, multiplier))
}

/// Longest that a handshake and a poll take on a good link: a few slow packets.
fn patience(of: [Settings; 2]) -> Duration {
    (of[0].interval + of[1].interval + ms(1000)) * 8
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn they_find_each_other_and_agree(of in [any_settings(), any_settings()], seed: u64, loss in 0_u64..60) {
        // Delay well below what a multiplier of one forgives.
        let mut pair = Pair::new(of, seed, loss, ms(1));
        pair.run(ms(20_000));
        pair.loss = [0; 2];
        pair.run(patience(of));
        prop_assert!(pair.both_up(), "{:?}", pair.changes);
        let slower = of[0].interval.max(of[1].interval);
        for who in 0..2 {
            let snapshot = pair.ends[who].snapshot();
            prop_assert_eq!(snapshot.transmit, Some(slower));
            prop_assert_eq!(snapshot.detection, Some(slower * u32::from(of[1 - who].multiplier.get())));
        }
    }

    #[test]
    fn a_good_link_never_alarms(
        of in [any_settings(), any_settings()],
        seed: u64,
        changes in prop::collection::vec((0_usize..2, any_settings(), 0_u64..3000), 0..12),
    ) {
        // A multiplier of 1 leaves a tenth of an interval for the delay: here 1 ms of 10.
        let mut pair = Pair::new(of, seed, 0, Duration::from_micros(900));
        pair.run(patience(of));
        prop_assert!(pair.both_up());
        pair.changes.clear();
        let mut last = of;
        for (who, new, pause) in changes {
            pair.configure(who, new);
            last[who] = new;
            pair.run(ms(pause));
            prop_assert!(pair.changes.is_empty(), "{:?}", pair.changes);
        }
        pair.run(ms(60_000));
        prop_assert!(pair.changes.is_empty(), "{:?}", pair.changes);
        prop_assert_eq!(pair.ends[0].snapshot().transmit, Some(last[0].interval.max(last[1].interval)));
    }

    #[test]
    fn a_cut_is_noticed_in_time_and_the_link_comes_back(
        of in [any_settings(), any_settings()],
        seed: u64,
        cut_after in 0_u64..3000,
    ) {
        let mut pair = Pair::new(of, seed, 0, ms(1));
        pair.run(patience(of) + ms(cut_after));
        prop_assert!(pair.both_up());
        pair.changes.clear();
        pair.loss = [100; 2];
        let cut = pair.now;
        let detection = [0, 1].map(|who| pair.ends[who].snapshot().detection.expect("both are heard"));
        pair.run(detection[0].max(detection[1]) + ms(1));
        let last = pair.last_received;
        for who in 0..2 {
            let fell: Vec<_> = pair.changes.iter().filter(|(_, end, _)| *end == who).collect();
            prop_assert_eq!(fell.len(), 1, "{:?}", &pair.changes);
            let (at, _, change) = fell[0];
            prop_assert!(change.failure && change.to == State::Down);
            prop_assert_eq!(*at, last[who] + detection[who]);
            prop_assert!(*at <= cut + ms(1) + detection[who]);
        }
        pair.loss = [0; 2];
        pair.run(patience(of));
        prop_assert!(pair.both_up());
    }

    #[test]
    fn held_down_at_will_is_no_failure(
        of in [any_settings(), any_settings()],
        seed: u64,
        switches in prop::collection::vec((0_usize..2, any::<bool>(), 0_u64..5000), 0..12),
    ) {
        // Delays that differ would let a Down of the handshake overtake what came after it.
        let mut pair = Pair::new(of, seed, 0, Duration::ZERO);
        let mut last = of;
        for (who, admin_down, pause) in switches {
            last[who].admin_down = admin_down;
            pair.configure(who, last[who]);
            pair.run(ms(pause));
        }
        let held = |who: usize| last[who].admin_down;
        pair.run(patience(of));
        for who in 0..2 {
            let state = pair.ends[who].snapshot().state;
            let wanted = match (held(who), held(1 - who)) {
                (true, _) => State::AdminDown,
                (false, true) => State::Down,
                (false, false) => State::Up,
            };
            prop_assert_eq!(state, wanted);
        }
        prop_assert!(pair.changes.iter().all(|(.., change)| !change.failure), "{:?}", pair.changes);
    }

    #[test]
    fn a_one_way_link_goes_down_at_both_ends(of in [any_settings(), any_settings()], seed: u64) {
        let mut pair = Pair::new(of, seed, 0, ms(1));
        pair.run(patience(of));
        // End 1 hears nothing any more, notices and tells.
        pair.loss = [100, 0];
        pair.run(pair.ends[1].snapshot().detection.expect("heard") + ms(5));
        for end in &pair.ends {
            prop_assert!(end.snapshot().state <= State::Init, "{:?}", end.snapshot());
        }
    }
}
