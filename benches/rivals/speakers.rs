//! BGP speakers that announce bytes made before the clock starts, and count what they are told.
//!
//! All speakers of a namespace run in one thread. They dial, so that the daemon under test never has to.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc as tokio_mpsc};

use crate::harness::Netns;
use crate::harness::speaker::{KEEPALIVE, NOTIFICATION, OPEN, UPDATE, message};
use crate::plan;

/// Handshakes at a time: BIRD listens with a backlog of 8, and a lost handshake comes back seconds later.
const DIALLING: usize = 6;

/// A handshake that takes longer is begun anew.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Hold time offered, in seconds. The daemon may want less, but a busy one is not to be cut off here.
const HOLD: u16 = 240;

/// Between two KEEPALIVEs, the same for each daemon: a third of the shortest hold time among them is 3 s.
const KEEP: Duration = Duration::from_secs(2);

/// What one end of a session is to do.
pub struct Speaker {
    pub local: Ipv4Addr,
    pub remote: Ipv4Addr,
    pub asn: u32,
    /// UPDATEs, from [`plan::updates`]
    pub announce: Vec<u8>,
    /// How many different prefixes it is to be told
    pub expect: u32,
}

/// What happened to a session.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Event {
    /// The session is up
    Up,
    /// The first byte of the announcements is about to be sent
    Announcing,
    /// It has been told as many different prefixes as it expects
    Complete,
    /// All prefixes it had been told have been withdrawn
    Empty,
    /// It is about to close the session, as it was asked to
    Closing,
    /// The other end closed the session
    Down,
}

#[derive(Clone, Copy)]
enum Command {
    Announce,
    Close,
}

/// The speakers of one namespace.
pub struct Speakers {
    commands: Vec<tokio_mpsc::UnboundedSender<Command>>,
    events: mpsc::Receiver<(Event, Instant)>,
    seen: HashMap<Event, Vec<Instant>>,
    recount: Vec<Arc<AtomicBool>>,
    thread: Option<JoinHandle<()>>,
}

impl Speakers {
    /// Starts to dial.
    pub fn start(space: &Netns, speakers: Vec<Speaker>) -> Self {
        let (tell, events) = mpsc::channel();
        let mut commands = Vec::new();
        let mut recount = Vec::new();
        let mut sessions = Vec::new();
        for speaker in speakers {
            let (command, orders) = tokio_mpsc::unbounded_channel();
            let flag = Arc::new(AtomicBool::new(false));
            commands.push(command);
            recount.push(Arc::clone(&flag));
            sessions.push(Session { speaker, tell: tell.clone(), orders, recount: flag });
        }
        let space = space.clone();
        let thread = std::thread::spawn(move || {
            space.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
                runtime.block_on(async {
                    let dialling = Arc::new(Semaphore::new(DIALLING));
                    let mut tasks = tokio::task::JoinSet::new();
                    for session in sessions {
                        tasks.spawn(session.run(Arc::clone(&dialling)));
                    }
                    tasks.join_all().await;
                });
            });
        });
        Self { commands, events, seen: HashMap::new(), recount, thread: Some(thread) }
    }

    fn command(&self, command: Command) {
        for session in &self.commands {
            let _ = session.send(command);
        }
    }

    /// All of them announce; the moment before the first byte.
    pub fn announce(&mut self) -> Instant {
        self.command(Command::Announce);
        self.wait(Event::Announcing, 1, Duration::from_secs(10))
    }

    /// All of them close their TCP connection without a word; the moment before.
    pub fn close(&mut self) -> Instant {
        self.command(Command::Close);
        self.wait(Event::Closing, 1, Duration::from_secs(10))
    }

    /// Forgets what was told: counts anew from what comes from now on.
    pub fn recount(&mut self) {
        for flag in &self.recount {
            flag.store(true, Ordering::Relaxed);
        }
        self.seen.remove(&Event::Complete);
    }

    /// Waits until all sessions are up.
    pub fn up(&mut self, limit: Duration) {
        self.wait(Event::Up, self.commands.len(), limit);
    }

    /// Waits until all sessions have told this event; when the last did.
    pub fn all(&mut self, event: Event, limit: Duration) -> Instant {
        self.wait(event, self.commands.len(), limit)
    }

    /// Waits until `count` sessions have told this event; when the last of these did. Panics after
    /// `limit`, and when a session ends.
    fn wait(&mut self, event: Event, count: usize, limit: Duration) -> Instant {
        let end = Instant::now() + limit;
        loop {
            let times = self.seen.entry(event).or_default();
            if let Some(at) = count.checked_sub(1).and_then(|last| times.get(last)) {
                return *at;
            }
            match self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok((Event::Down, _)) => panic!("the daemon closed a session"),
                Ok((event, at)) => self.seen.entry(event).or_default().push(at),
                Err(error) => panic!("{error} in {limit:?} for {event:?}: {} of {count} sessions", times.len()),
            }
        }
    }
}

impl Drop for Speakers {
    fn drop(&mut self) {
        // Sessions end when nobody can command them any more.
        self.commands.clear();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Session {
    speaker: Speaker,
    tell: mpsc::Sender<(Event, Instant)>,
    orders: tokio_mpsc::UnboundedReceiver<Command>,
    recount: Arc<AtomicBool>,
}

impl Session {
    async fn run(self, dialling: Arc<Semaphore>) {
        let Self { speaker, tell, mut orders, recount } = self;
        let event = |event| {
            let _ = tell.send((event, Instant::now()));
        };
        let stream = loop {
            let permit = dialling.acquire().await;
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, dial(&speaker)).await {
                break stream;
            }
            drop(permit);
            tokio::select! {
                order = orders.recv() => if order.is_none() { return },
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        };
        event(Event::Up);
        let (reading, writing) = stream.into_split();
        let asked = tokio::select! {
            () = count(reading, speaker.expect, &recount, event) => false,
            asked = speak(writing, &speaker.announce, &mut orders, event) => asked,
        };
        if !asked {
            event(Event::Down);
        }
    }
}

async fn dial(speaker: &Speaker) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(speaker.local.into(), 0))?;
    let mut stream = socket.connect(SocketAddr::new(speaker.remote.into(), 179)).await?;
    stream.write_all(&message(OPEN, &open(speaker))).await?;
    expect(&mut stream, OPEN).await?;
    stream.write_all(&message(KEEPALIVE, &[])).await?;
    expect(&mut stream, KEEPALIVE).await?;
    Ok(stream)
}

/// Reads one message, which must be of this type.
async fn expect(stream: &mut TcpStream, kind: u8) -> std::io::Result<()> {
    let mut header = [0; 19];
    stream.read_exact(&mut header).await?;
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])).saturating_sub(19)];
    stream.read_exact(&mut body).await?;
    if header[18] == kind { Ok(()) } else { Err(std::io::ErrorKind::ConnectionRefused.into()) }
}

/// Version 4, capabilities for IPv4 unicast and four-octet AS numbers (RFC 4271 §4.2, RFC 5492 §4).
fn open(speaker: &Speaker) -> Vec<u8> {
    let asn = speaker.asn.to_be_bytes();
    let short = u16::try_from(speaker.asn).unwrap_or(23456).to_be_bytes();
    let capabilities = [&[1, 4, 0, 1, 0, 1, 65, 4][..], &asn].concat();
    let lengths = [capabilities.len() as u8 + 2, 2, capabilities.len() as u8];
    [&[4][..], &short, &HOLD.to_be_bytes(), &speaker.local.octets(), &lengths, &capabilities].concat()
}

/// Sends what it is told to; true: it was told to close.
async fn speak(
    mut stream: OwnedWriteHalf,
    announce: &[u8],
    orders: &mut tokio_mpsc::UnboundedReceiver<Command>,
    event: impl Fn(Event),
) -> bool {
    let mut keepalive = tokio::time::interval(KEEP);
    loop {
        let sent = tokio::select! {
            order = orders.recv() => match order {
                Some(Command::Announce) => {
                    event(Event::Announcing);
                    stream.write_all(announce).await
                }
                Some(Command::Close) | None => {
                    event(Event::Closing);
                    return true;
                }
            },
            _ = keepalive.tick() => stream.write_all(&message(KEEPALIVE, &[])).await,
        };
        if sent.is_err() {
            return false;
        }
    }
}

/// Counts different prefixes until the connection ends.
async fn count(mut stream: OwnedReadHalf, expect: u32, recount: &AtomicBool, event: impl Fn(Event)) {
    let mut table = Table::default();
    let mut buffer = Vec::with_capacity(1 << 18);
    let mut complete = false;
    while stream.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
        if recount.swap(false, Ordering::Relaxed) {
            (table, complete) = (Table::default(), false);
        }
        let mut rest = buffer.as_slice();
        while let Some((kind, body, more)) = split_message(rest) {
            match kind {
                UPDATE if table.update(body).is_none() => return,
                NOTIFICATION => return,
                _ => {}
            }
            rest = more;
        }
        let left = rest.len();
        buffer.drain(..buffer.len() - left);
        if expect > 0 && !complete && table.size >= expect {
            complete = true;
            event(Event::Complete);
        } else if complete && table.size == 0 {
            complete = false;
            event(Event::Empty);
        }
    }
}

/// The first message's type and body, and what follows; `None`: it isn't whole yet.
fn split_message(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(16)?, *bytes.get(17)?]));
    let (message, rest) = bytes.split_at_checked(length)?;
    Some((*message.get(18)?, message.get(19..)?, rest))
}

/// Prefixes of the plan that a session has been told and that have not been withdrawn.
#[derive(Default)]
struct Table {
    slots: Vec<bool>,
    size: u32,
}

impl Table {
    /// Reads the body of an UPDATE (RFC 4271 §4.3); `None`: it is broken.
    fn update(&mut self, body: &[u8]) -> Option<()> {
        let (withdrawn, rest) = counted(body)?;
        let (_, announced) = counted(rest)?;
        self.prefixes(withdrawn, false)?;
        self.prefixes(announced, true)
    }

    fn prefixes(&mut self, mut bytes: &[u8], told: bool) -> Option<()> {
        while let Some((length, rest)) = bytes.split_first() {
            let (octets, rest) = rest.split_at_checked(usize::from(*length).div_ceil(8))?;
            bytes = rest;
            let mut address = [0; 4];
            address.get_mut(..octets.len())?.copy_from_slice(octets);
            let Some(slot) = plan::slot(u32::from_be_bytes(address), *length) else { continue };
            let slot = slot as usize;
            if self.slots.len() <= slot {
                self.slots.resize(slot + 1, false);
            }
            if self.slots[slot] != told {
                self.slots[slot] = told;
                self.size = if told { self.size + 1 } else { self.size - 1 };
            }
        }
        Some(())
    }
}

/// What a two-octet length counts, and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
