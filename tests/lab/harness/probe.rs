//! Packets at a steady rate from one namespace to another and back, each of them accounted for.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::Netns;
use super::wait::{bound, holds};

/// Port of the echo.
const PORT: u16 = 7007;

/// A thousand packets a second; a hundred in User-Mode Linux, where a packet there and back costs
/// a good part of a millisecond of computing.
fn interval() -> Duration {
    Duration::from_millis(if crate::uml::inside() { 10 } else { 1 })
}

/// How long an answer may be under way after the last packet was sent.
const LINGER: Duration = Duration::from_millis(500);

/// How often a blocked receiver looks whether it should stop.
const LOOK: Duration = Duration::from_millis(100);

/// Room in a socket for packets, in octets: while the machine is busy elsewhere they wait.
const ROOM: usize = 8 << 20;

/// A running stream of numbered packets and their echoes.
pub struct Probe {
    stop: Sender<()>,
    sender: JoinHandle<u32>,
    receiver: JoinHandle<Vec<u32>>,
    echo: JoinHandle<()>,
    over: Arc<AtomicBool>,
}

/// What became of the packets.
#[derive(Debug)]
pub struct Report {
    /// Packets sent
    pub sent: u32,
    /// Of these, how many did not come back
    pub lost: u32,
    /// Longest run of packets lost, which tells the longest outage
    pub longest_gap: u32,
}

impl Probe {
    /// Starts sending from `from` to `target`, an address of `to`. Waits for the first answer.
    pub fn start(from: &Netns, to: &Netns, target: &str) -> Self {
        let target: IpAddr = target.parse().unwrap();
        let socket = to.run(|| bound(|| UdpSocket::bind(SocketAddr::new(target, PORT))));
        let any: SocketAddr = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let ours = from.run(|| UdpSocket::bind(any).unwrap());
        ours.connect(SocketAddr::new(target, PORT)).unwrap();
        for socket in [&socket, &ours] {
            socket.set_read_timeout(Some(LOOK)).unwrap();
            setsockopt(socket, sockopt::RcvBufForce, &ROOM).unwrap();
        }
        let over = Arc::new(AtomicBool::new(false));
        let echo = std::thread::spawn({
            let over = Arc::clone(&over);
            move || answer(&socket, &over)
        });
        holds("a first packet comes back", Duration::from_secs(10), || {
            let _ = ours.send(&u32::MAX.to_be_bytes());
            ours.recv(&mut [0; 4]).is_ok()
        });
        let (stop, stopped) = channel();
        let receiver = std::thread::spawn({
            let (socket, over) = (ours.try_clone().unwrap(), Arc::clone(&over));
            move || collect(&socket, &over)
        });
        let sender = std::thread::spawn(move || {
            let (start, interval) = (Instant::now(), interval());
            let mut sent = 0;
            loop {
                let due = start + interval * sent;
                match stopped.recv_timeout(due.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return sent,
                }
                // A refused packet ("network unreachable") is one that gets lost.
                let _ = ours.send(&sent.to_be_bytes());
                sent += 1;
            }
        });
        Self { stop, sender, receiver, echo, over }
    }

    /// Stops and counts.
    pub fn finish(self) -> Report {
        self.stop.send(()).unwrap();
        let sent = self.sender.join().unwrap();
        super::wait::pause(LINGER);
        self.over.store(true, Ordering::Relaxed);
        let answers = self.receiver.join().unwrap();
        self.echo.join().unwrap();
        account(sent, &answers)
    }
}

/// Answers packets of a probe at one more place that has its target: anycast.
pub struct Echo {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Answers at `address` of `space` until it is dropped.
    pub fn start(space: &Netns, address: &str) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let socket = space.run(|| bound(|| UdpSocket::bind(SocketAddr::new(address, PORT))));
        socket.set_read_timeout(Some(LOOK)).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let over = Arc::clone(&over);
            move || answer(&socket, &over)
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn account(sent: u32, answers: &[u32]) -> Report {
    let mut came = vec![false; sent as usize];
    for number in answers {
        if let Some(slot) = came.get_mut(*number as usize) {
            *slot = true;
        }
    }
    let lost = came.iter().filter(|came| !**came).count();
    let longest_gap = came.split(|came| *came).map(<[bool]>::len).max().unwrap_or(0);
    let number = |n: usize| u32::try_from(n).unwrap();
    Report { sent, lost: number(lost), longest_gap: number(longest_gap) }
}

fn answer(socket: &UdpSocket, over: &AtomicBool) {
    let mut packet = [0; 4];
    while !over.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut packet) {
            let _ = socket.send_to(&packet[..length], from);
        }
    }
}

fn collect(socket: &UdpSocket, over: &AtomicBool) -> Vec<u32> {
    let mut numbers = Vec::new();
    let mut packet = [0; 4];
    while !over.load(Ordering::Relaxed) {
        if socket.recv(&mut packet).is_ok() {
            numbers.push(u32::from_be_bytes(packet));
        }
    }
    numbers
}

#[test]
fn every_packet_is_accounted_for() {
    let cases: [(&str, u32, &[u32], u32, u32); 4] = [
        ("all came", 3, &[0, 1, 2], 0, 0),
        ("order and repetition do not matter", 3, &[2, 1, 1, 0], 0, 0),
        ("two outages", 6, &[1, 4, 5], 3, 2),
        ("the hello is none of them", 1, &[u32::MAX, 0], 0, 0),
    ];
    for (why, sent, answers, lost, longest_gap) in cases {
        let report = account(sent, answers);
        assert_eq!((report.lost, report.longest_gap), (lost, longest_gap), "{why}");
    }
}
