//! Packets to some of the prefixes, and which way each of them went: what the kernel does, not what
//! its table says.
//!
//! Whatever the daemon's host forwards ends in the namespaces of the sources, which take every address
//! of the plan for their own. Packets are numbered, so each is known to have come out at one source, at
//! the other, or nowhere.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::harness::Netns;
use crate::observe::sleep;
use crate::plan;

const PORT: u16 = 7007;

/// Prefixes looked at, spread over the order of announcement. A daemon that moves route by route may be
/// done with all of them well before its last: the kernel's table tells that.
const SAMPLES: usize = 32;

/// Between two packets to the same prefix.
const PERIOD: Duration = Duration::from_millis(4);

/// How long a packet may be under way.
const LINGER: Duration = Duration::from_millis(200);

/// Lets a source take all packets for the plan's addresses.
pub fn catch_all(space: &Netns) {
    for network in plan::ALL {
        space.ip(&format!("route add local {network} dev lo"));
    }
}

/// Room for the packets of some seconds: a receiver that has to wait for a processor must not lose any.
const BUFFER: usize = 32 << 20;

/// Running streams, one packet each [`PERIOD`] to each sample.
pub struct Traffic {
    stop: Sender<()>,
    sender: JoinHandle<Vec<Instant>>,
    receiver: JoinHandle<Vec<u32>>,
    over: Arc<AtomicBool>,
}

impl Traffic {
    /// Sends from `from` and looks what comes out at `there`. `order` is the order of announcement.
    pub fn start(from: &Netns, there: &Netns, order: &[u32]) -> Self {
        let socket = |space: &Netns, port| {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            space.run(|| UdpSocket::bind(address)).expect("a UDP port")
        };
        let (sending, receiving) = (socket(from, 0), socket(there, PORT));
        receiving.set_read_timeout(Some(LINGER / 2)).expect("a time limit");
        setsockopt(&receiving, sockopt::RcvBufForce, &BUFFER).expect("a buffer");
        let targets = samples(order);
        let over = Arc::new(AtomicBool::new(false));
        let receiver = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let (mut numbers, mut packet) = (Vec::new(), [0; 4]);
                while !over.load(Ordering::Relaxed) {
                    if receiving.recv(&mut packet).is_ok() {
                        numbers.push(u32::from_be_bytes(packet));
                    }
                }
                numbers
            }
        });
        let (stop, stopped) = channel();
        let sender = std::thread::spawn(move || {
            let (start, mut rounds) = (Instant::now(), Vec::new());
            loop {
                let due = start + PERIOD * rounds.len() as u32;
                let Err(RecvTimeoutError::Timeout) =
                    stopped.recv_timeout(due.saturating_duration_since(Instant::now()))
                else {
                    return rounds;
                };
                for (index, target) in targets.iter().enumerate() {
                    // A refused packet is one that doesn't arrive.
                    let _ = sending.send_to(&((rounds.len() * SAMPLES + index) as u32).to_be_bytes(), target);
                }
                rounds.push(Instant::now());
            }
        });
        Self { stop, sender, receiver, over }
    }

    /// Stops; from which moment on every packet came out where it was looked for.
    pub fn all_there_since(self) -> Instant {
        let _ = self.stop.send(());
        let rounds = self.sender.join().expect("the sender");
        sleep(LINGER);
        self.over.store(true, Ordering::Relaxed);
        let arrived = self.receiver.join().expect("the receiver");
        let mut came = vec![0; rounds.len()];
        for number in arrived {
            if let Some(count) = came.get_mut(number as usize / SAMPLES) {
                *count += 1;
            }
        }
        let whole = came.iter().rev().take_while(|count| **count == SAMPLES).count();
        *rounds.get(rounds.len() - whole).expect("the last packets went there")
    }
}

/// An address in each sampled prefix.
fn samples(order: &[u32]) -> Vec<SocketAddr> {
    let last = order.len().saturating_sub(1);
    let slots = (0..SAMPLES).filter_map(|index| order.get(last * index / (SAMPLES - 1)));
    // The slot's own prefix is the most specific one of its first address but one.
    let address = |slot: &u32| Ipv4Addr::from_bits(plan::address(*slot).to_bits() + 1);
    slots.map(|slot| SocketAddr::new(address(slot).into(), PORT)).collect()
}
