//! One TCP connection of a peer: bytes in through a frame buffer, bytes out through a writer task.
//!
//! The writer is a task of its own so that a peer that doesn't read can't stop the session's
//! timers. It takes messages of the session before routes, so a KEEPALIVE never queues behind a
//! bulk transfer that still waits in the channel: at most behind one chunk that is being written.
//! Where that chunk is stuck, one KEEPALIVE waits and the next are left out, so that the last word to
//! a peer that doesn't read still finds room.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bgp::message::{Codec, Message};
use crate::bgp::wire::{self, DecodeError};
use crate::io::tcp::{self, Unread};
use crate::metrics::{MessageKind, PeerMetrics};

/// Messages of the session that may wait for the writer; a session sends one a second at most.
const SESSION_QUEUE: usize = 64;
/// Bytes asked of the socket at once.
const READ_SIZE: usize = 64 * 1024;
/// How long a closed connection may take to get its last message out.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// What the writer is told.
enum Out {
    /// A message of the session
    Message(Bytes),
    /// The KEEPALIVE that waits
    Keepalive(Bytes),
    /// From now on also send what comes from here
    Routes(mpsc::Receiver<Bytes>),
}

/// How far the writer got.
struct Progress {
    opened: Instant,
    /// Milliseconds from then to when the kernel last took bytes
    wrote: AtomicU64,
    /// A KEEPALIVE is in the queue
    keepalive: AtomicBool,
}

impl Progress {
    fn note(&self) {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.wrote.store(since, Ordering::Relaxed);
    }
}

/// An open connection.
pub struct Connection {
    reader: OwnedReadHalf,
    buffer: BytesMut,
    codec: Codec,
    out: mpsc::Sender<Out>,
    writer: JoinHandle<()>,
    progress: Arc<Progress>,
    /// Our end
    pub local: SocketAddr,
    metrics: PeerMetrics,
}

impl Connection {
    /// Takes over a connected stream.
    pub fn new(stream: TcpStream, metrics: PeerMetrics) -> io::Result<Self> {
        let local = stream.local_addr()?;
        let (reader, write_half) = stream.into_split();
        let (out, queue) = mpsc::channel(SESSION_QUEUE);
        let progress =
            Arc::new(Progress { opened: Instant::now(), wrote: AtomicU64::new(0), keepalive: AtomicBool::new(false) });
        let writer = tokio::spawn(write(write_half, queue, Arc::clone(&progress), metrics.clone()));
        Ok(Self { reader, buffer: BytesMut::new(), codec: Codec::INITIAL, out, writer, progress, local, metrics })
    }

    /// How messages are read and written from now on.
    pub fn set_codec(&mut self, codec: Codec) {
        self.codec = codec;
    }

    /// Reads more bytes; 0 = the peer closed. Safe to cancel: bytes are in the buffer or unread.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ_SIZE);
        self.reader.read_buf(&mut self.buffer).await
    }

    /// What the kernel holds that [`fill`](Self::fill) has not taken.
    pub fn unread(&self) -> Unread {
        tcp::unread(self.reader.as_ref())
    }

    /// When the kernel last took bytes for the peer.
    pub fn last_sent(&self) -> Instant {
        self.progress.opened + Duration::from_millis(self.progress.wrote.load(Ordering::Relaxed))
    }

    /// The next whole message in the buffer.
    pub fn next_message(&mut self) -> Result<Option<Message>, DecodeError> {
        let Some(len) = wire::frame(&self.buffer, &self.codec)? else { return Ok(None) };
        let message = wire::decode(&self.buffer[..len], &self.codec);
        if let Some(kind) = self.buffer.get(18).and_then(|code| MessageKind::from_code(*code)) {
            self.metrics.received(kind);
        }
        self.buffer.advance(len);
        message.map(Some)
    }

    /// Hands a message of the session to the writer. A KEEPALIVE behind one that still waits is left
    /// out; anything that finds the queue full is dropped, as the connection is dying.
    pub fn send(&self, message: &Message) {
        let keepalive = *message == Message::Keepalive;
        if keepalive && self.progress.keepalive.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut bytes = Vec::new();
        wire::encode(message, &self.codec, &mut bytes);
        let out = if keepalive { Out::Keepalive } else { Out::Message };
        if self.out.try_send(out(bytes.into())).is_err() {
            tracing::debug!("message dropped, peer doesn't read");
        }
    }

    /// A queue of `chunks` for routes, each chunk whole messages.
    pub fn open_routes(&self, chunks: usize) -> mpsc::Sender<Bytes> {
        let (routes, queue) = mpsc::channel(chunks);
        // A full or closed queue means the connection is dying; then `queue` drops and closes.
        let _ = self.out.try_send(Out::Routes(queue));
        routes
    }

    /// Closes after what was sent is out; or resets when the grace is over, so that the kernel too
    /// forgets what a peer doesn't take. The task ends when it is closed.
    pub fn close(self) -> JoinHandle<()> {
        let Self { out, mut writer, reader, .. } = self;
        drop(out);
        tokio::spawn(async move {
            if tokio::time::timeout(CLOSE_GRACE, &mut writer).await.is_err() {
                tcp::reset_on_close(reader.as_ref());
                writer.abort();
            }
        })
    }
}

/// Writes until the connection object is gone or the socket fails; the reader sees the failure too.
async fn write(
    mut half: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Out>,
    progress: Arc<Progress>,
    metrics: PeerMetrics,
) {
    let mut routes: Option<mpsc::Receiver<Bytes>> = None;
    loop {
        let chunk = tokio::select! {
            biased; // The session's own messages must not wait behind routes.
            out = queue.recv() => match out {
                Some(Out::Message(bytes)) => bytes,
                Some(Out::Keepalive(bytes)) => {
                    progress.keepalive.store(false, Ordering::Relaxed);
                    bytes
                }
                Some(Out::Routes(queue)) => {
                    routes = Some(queue);
                    continue;
                }
                None => break,
            },
            Some(chunk) = receive(&mut routes) => chunk,
        };
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            match half.write(rest).await {
                Ok(taken) if taken > 0 => rest = rest.get(taken..).unwrap_or_default(),
                _ => return,
            }
            progress.note();
        }
        count(&chunk, &metrics);
    }
    let _ = half.shutdown().await;
}

/// The next chunk of routes; pends for ever once there is no source.
async fn receive(routes: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    if let Some(queue) = routes {
        if let Some(chunk) = queue.recv().await {
            return Some(chunk);
        }
        *routes = None;
    }
    std::future::pending().await
}

/// Counts the messages of a chunk by kind.
fn count(mut chunk: &[u8], metrics: &PeerMetrics) {
    let mut updates = 0;
    while let [.., _] = chunk {
        let Some(header) = chunk.get(16..19) else { break };
        match MessageKind::from_code(header[2]) {
            Some(MessageKind::Update) => updates += 1,
            Some(kind) => metrics.sent(kind, 1),
            None => {}
        }
        let len = usize::from(u16::from_be_bytes([header[0], header[1]]));
        chunk = chunk.get(len.max(19)..).unwrap_or_default();
    }
    if updates > 0 {
        metrics.sent(MessageKind::Update, updates);
    }
}
