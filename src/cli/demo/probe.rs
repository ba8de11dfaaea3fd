//! A thousand numbered packets a second to an echo and back, each accounted for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::netns::inside;
use super::stage::pause;

/// Port of the echo.
const PORT: u16 = 7007;
/// A thousand a second.
const INTERVAL: Duration = Duration::from_millis(1);
/// How long the last answer may be under way.
const LINGER: Duration = Duration::from_millis(300);
/// How often a blocked receiver looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// Room in a socket for packets, in octets: on a machine that is busy elsewhere for a while they
/// wait, and the network is not to blame.
const ROOM: usize = 8 << 20;

/// A running stream.
pub(super) struct Probe {
    stop: Sender<()>,
    over: Arc<AtomicBool>,
    received: Arc<AtomicU32>,
    sender: JoinHandle<u32>,
    others: [JoinHandle<()>; 2],
}

/// What became of the packets.
pub(super) struct Report {
    /// Sent
    pub sent: u32,
    /// Did not come back
    pub lost: u32,
}

impl Probe {
    /// Starts sending from the namespace `from` to `target`, an address of the namespace `to`.
    pub(super) fn start(from: &str, to: &str, target: IpAddr) -> io::Result<Self> {
        let target = SocketAddr::from((target, PORT));
        let echo = inside(to, || UdpSocket::bind(target))?;
        let socket = inside(from, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        socket.connect(target)?;
        for socket in [&echo, &socket] {
            socket.set_read_timeout(Some(LOOK))?;
            setsockopt(socket, sockopt::RcvBufForce, &ROOM)?;
        }

        let (over, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let answering = std::thread::spawn({
            let over = Arc::clone(&over);
            move || answer(&echo, &over)
        });
        let collecting = std::thread::spawn({
            let (over, received, socket) = (Arc::clone(&over), Arc::clone(&received), socket.try_clone()?);
            move || collect(&socket, &over, &received)
        });
        let (stop, stopped) = channel();
        let sender = std::thread::spawn(move || {
            let (start, mut sent) = (Instant::now(), 0);
            loop {
                let due = start + INTERVAL * sent;
                match stopped.recv_timeout(due.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return sent,
                }
                // What the kernel refuses to send is lost too.
                let _ = socket.send(&sent.to_be_bytes());
                sent += 1;
            }
        });
        Ok(Self { stop, over, received, sender, others: [answering, collecting] })
    }

    /// Stops and counts.
    pub(super) fn finish(self) -> Report {
        let _ = self.stop.send(());
        let sent = self.sender.join().unwrap_or(0);
        pause(LINGER);
        self.over.store(true, Ordering::Relaxed);
        for thread in self.others {
            let _ = thread.join();
        }
        Report { sent, lost: sent.saturating_sub(self.received.load(Ordering::Relaxed)) }
    }
}

fn answer(socket: &UdpSocket, over: &AtomicBool) {
    let mut packet = [0; 4];
    while !over.load(Ordering::Relaxed) {
        if let Ok((_, from)) = socket.recv_from(&mut packet) {
            let _ = socket.send_to(&packet, from);
        }
    }
}

/// Counts answers, each number once: a packet that came twice must not hide one that was lost.
fn collect(socket: &UdpSocket, over: &AtomicBool, received: &AtomicU32) {
    let mut seen = std::collections::HashSet::new();
    let mut packet = [0; 4];
    while !over.load(Ordering::Relaxed) {
        if socket.recv(&mut packet).is_ok() && seen.insert(packet) {
            received.fetch_add(1, Ordering::Relaxed);
        }
    }
}
