//! TCP as far as BGP feels it: two ordered streams of bytes that are late, stall while the way is
//! broken, end by FIN or reset, and take no more than their window from the application.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use wayleave::bgp::rib::PeerId;

/// Writes under way in one direction, at most.
const WINDOW: usize = 3;
/// Messages of the session that may wait for the writer, as in the daemon.
const MESSAGES: usize = 64;
/// Octets of a message without a body.
const KEEPALIVE: usize = 19;
/// Chunks of routes that may wait for it; few, so that members fall behind now and then.
const CHUNKS: usize = 2;

/// Routes on their way to a connection: the bounded queue of a group's member.
#[derive(Debug, Default)]
pub struct Queue {
    chunks: VecDeque<Bytes>,
    /// The other end has gone
    closed: bool,
}

/// Shared by who fills it and who writes it out.
pub type Routes = Rc<RefCell<Queue>>;

impl Queue {
    pub fn has_room(&self) -> bool {
        !self.closed && self.chunks.len() < CHUNKS
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// False: full or closed.
    pub fn try_send(&mut self, chunk: Bytes) -> bool {
        let fits = self.has_room();
        if fits {
            self.chunks.push_back(chunk);
        }
        fits
    }
}

/// What a stream carries.
#[derive(Debug)]
pub enum Item {
    /// The end of the handshake, at the listener
    Accept,
    Data(Bytes),
    Fin,
}

/// From one end to the other.
#[derive(Debug, Default)]
pub struct Stream {
    /// What is under way, with the earliest instant of its arrival
    pub items: VecDeque<(Duration, Item)>,
    /// The arrival of the first of them is an event
    pub scheduled: bool,
    /// How often it was sent in vain
    pub tries: u32,
}

/// One end, while an application holds it.
#[derive(Debug)]
pub struct End {
    pub owner: (u32, PeerId),
    messages: VecDeque<Bytes>,
    routes: Option<Routes>,
    /// When the kernel last took something
    pub sent_at: Duration,
}

impl End {
    pub fn new(epoch: u32, peer: PeerId, now: Duration) -> Self {
        Self { owner: (epoch, peer), messages: VecDeque::new(), routes: None, sent_at: now }
    }

    /// The session's own messages are written before routes; what doesn't fit is dropped, and so is a
    /// KEEPALIVE behind another.
    pub fn send(&mut self, message: Bytes) {
        if self.messages.len() < MESSAGES && !(message.len() == KEEPALIVE && self.messages.contains(&message)) {
            self.messages.push_back(message);
        }
    }

    pub fn open_routes(&mut self, routes: Routes) {
        self.routes = Some(routes);
    }

    /// What the application has written before it closes; routes that wait are dropped.
    pub fn close(mut self) -> VecDeque<Bytes> {
        if let Some(routes) = &self.routes {
            let mut routes = routes.borrow_mut();
            routes.closed = true;
            routes.chunks.clear();
        }
        std::mem::take(&mut self.messages)
    }

    fn next(&mut self) -> Option<Bytes> {
        self.messages.pop_front().or_else(|| self.routes.as_ref()?.borrow_mut().chunks.pop_front())
    }
}

/// A connection; end 0 dialled, end 1 listened.
#[derive(Debug)]
pub struct Conn {
    pub nodes: [usize; 2],
    pub addresses: [IpAddr; 2],
    pub ends: [Option<End>; 2],
    pub streams: [Stream; 2],
    /// The dial was given up
    pub cancelled: bool,
    /// Who dials, until it is answered
    pub dialling: Option<(u32, PeerId)>,
}

impl Conn {
    /// Moves what fits from the application into the stream of `end`; whether there was anything.
    pub fn pump(&mut self, end: usize, now: Duration, mut ready: impl FnMut() -> Duration) -> bool {
        let mut moved = false;
        let (Some(app), stream) = (&mut self.ends[end], &mut self.streams[end]) else { return false };
        while stream.items.len() < WINDOW
            && let Some(bytes) = app.next()
        {
            moved = true;
            app.sent_at = now;
            stream.push(Item::Data(bytes), &mut ready);
        }
        moved
    }
}

impl Stream {
    pub fn push(&mut self, item: Item, ready: &mut impl FnMut() -> Duration) {
        let after = self.items.back().map_or(Duration::ZERO, |(at, _)| *at);
        self.items.push_back((ready().max(after), item));
    }
}
