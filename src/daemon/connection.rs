//! One TCP connection of a peer: bytes in through a frame buffer, bytes out through a writer task.
//!
//! The writer is a task of its own so that a peer that doesn't read can't stop the session's
//! timers. It takes messages of the session before routes, so a KEEPALIVE never queues behind a
//! bulk transfer that still waits in the channel.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::bgp::message::{Codec, Message};
use crate::bgp::wire::{self, DecodeError};
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
    /// From now on also send what comes from here
    Routes(mpsc::Receiver<Bytes>),
}

/// An open connection.
pub struct Connection {
    reader: OwnedReadHalf,
    buffer: BytesMut,
    codec: Codec,
    out: mpsc::Sender<Out>,
    writer: JoinHandle<()>,
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
        let writer = tokio::spawn(write(write_half, queue, metrics.clone()));
        Ok(Self { reader, buffer: BytesMut::new(), codec: Codec::INITIAL, out, writer, local, metrics })
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

    /// Hands a message of the session to the writer. One that finds the queue full is dropped: the
    /// peer hasn't read for a minute and its hold timer decides.
    pub fn send(&self, message: &Message) {
        let mut bytes = Vec::new();
        wire::encode(message, &self.codec, &mut bytes);
        if self.out.try_send(Out::Message(bytes.into())).is_err() {
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

    /// Closes after what was sent is out, or when the grace is over.
    pub fn close(self) {
        let Self { out, mut writer, .. } = self;
        drop(out);
        tokio::spawn(async move {
            if tokio::time::timeout(CLOSE_GRACE, &mut writer).await.is_err() {
                writer.abort();
            }
        });
    }
}

/// Writes until the connection object is gone or the socket fails; the reader sees the failure too.
async fn write(mut half: OwnedWriteHalf, mut queue: mpsc::Receiver<Out>, metrics: PeerMetrics) {
    let mut routes: Option<mpsc::Receiver<Bytes>> = None;
    loop {
        let chunk = tokio::select! {
            biased; // The session's own messages must not wait behind routes.
            out = queue.recv() => match out {
                Some(Out::Message(bytes)) => bytes,
                Some(Out::Routes(queue)) => {
                    routes = Some(queue);
                    continue;
                }
                None => break,
            },
            Some(chunk) = receive(&mut routes) => chunk,
        };
        if half.write_all(&chunk).await.is_err() {
            return;
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
