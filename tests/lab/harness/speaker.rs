//! A BGP speaker that sends exactly the bytes it is told to: recorded messages, or broken ones.
//!
//! It knows nothing of routes. It never looks at what comes in beyond the OPEN, and answers with
//! nothing but keepalives.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{Netns, wait_for};

/// Message types (RFC 4271 §4.1).
pub const OPEN: u8 = 1;
pub const UPDATE: u8 = 2;
pub const NOTIFICATION: u8 = 3;
pub const KEEPALIVE: u8 = 4;

/// An established session.
pub struct Speaker {
    stream: TcpStream,
    /// For writing: a keepalive must not end up in the middle of an UPDATE.
    writing: Arc<Mutex<TcpStream>>,
    stop: Option<Sender<()>>,
    keepalives: Option<JoinHandle<()>>,
    reader: Option<JoinHandle<Vec<Vec<u8>>>>,
}

/// Who speaks to whom.
pub struct Who {
    /// Our address, which is also the router id if it is IPv4
    pub local: IpAddr,
    /// The agent's address
    pub remote: IpAddr,
    /// Our AS
    pub asn: u32,
    /// Whether AS numbers take four octets (RFC 6793)
    pub four_octet_as: bool,
    /// Whether IPv6 unicast is offered too
    pub ipv6: bool,
}

impl Speaker {
    /// Connects from `space` and exchanges OPENs; tries again while the agent isn't ready.
    pub fn connect(space: &Netns, who: &Who) -> Self {
        Self::connected(space, who, false)
    }

    /// The same, but once the session is up it never reads again, and has little room for what comes.
    pub fn connect_deaf(space: &Netns, who: &Who) -> Self {
        Self::connected(space, who, true)
    }

    fn connected(space: &Netns, who: &Who, deaf: bool) -> Self {
        wait_for(&format!("session {} -> {}", who.local, who.remote), Duration::from_secs(20), || {
            Self::try_connect(space, who, deaf).ok()
        })
    }

    fn try_connect(space: &Netns, who: &Who, deaf: bool) -> std::io::Result<Self> {
        let mut stream = space.run(|| -> std::io::Result<TcpStream> {
            let remote = SocketAddr::new(who.remote, 179);
            let socket = Socket::new(Domain::for_address(remote), Type::STREAM, None)?;
            if deaf {
                socket.set_recv_buffer_size(4096)?;
            }
            socket.bind(&SocketAddr::new(who.local, 0).into())?;
            socket.connect_timeout(&remote.into(), Duration::from_secs(2))?;
            Ok(socket.into())
        })?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&message(OPEN, &open(who)))?;
        let (kind, _) = read_message(&mut stream)?;
        if kind != OPEN {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        stream.write_all(&message(KEEPALIVE, &[]))?;
        stream.set_read_timeout(None)?;
        let (stop, stopped) = channel();
        let mut reading = stream.try_clone()?;
        let reader = std::thread::spawn(move || {
            let mut notifications = Vec::new();
            if deaf {
                return notifications;
            }
            while let Ok((kind, body)) = read_message(&mut reading) {
                if kind == NOTIFICATION {
                    notifications.push(body);
                }
            }
            notifications
        });
        let writing = Arc::new(Mutex::new(stream.try_clone()?));
        let shared = Arc::clone(&writing);
        let keepalives = std::thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_secs(2)) == Err(RecvTimeoutError::Timeout) {
                if shared.lock().unwrap().write_all(&message(KEEPALIVE, &[])).is_err() {
                    return;
                }
            }
        });
        Ok(Self { stream, writing, stop: Some(stop), keepalives: Some(keepalives), reader: Some(reader) })
    }

    /// Sends messages as they are, header included.
    pub fn send(&self, bytes: &[u8]) {
        self.writing.lock().unwrap().write_all(bytes).expect("the agent keeps the session");
    }

    /// Waits until the agent closes the connection; the bodies of the NOTIFICATIONs that came.
    pub fn closed(mut self) -> Vec<Vec<u8>> {
        let reader = self.reader.as_ref().unwrap();
        super::holds("the agent closes the session", Duration::from_secs(20), || reader.is_finished());
        self.join()
    }

    /// Whether the connection still stands.
    pub fn up(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| !reader.is_finished())
    }

    fn join(&mut self) -> Vec<Vec<u8>> {
        drop(self.stop.take());
        let _ = self.keepalives.take().map(JoinHandle::join);
        self.reader.take().map(|reader| reader.join().unwrap()).unwrap_or_default()
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.join();
    }
}

/// A message with its header (RFC 4271 §4.1).
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap();
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// An UPDATE (RFC 4271 §4.3) that announces `nlri` with the path attributes `attrs`, both as bytes.
pub fn update(attrs: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attrs.len()).unwrap();
    message(UPDATE, &[&[0, 0], &length.to_be_bytes()[..], attrs, nlri].concat())
}

/// End-of-RIB for IPv4 unicast (RFC 4724 §2).
pub fn end_of_rib() -> Vec<u8> {
    update(&[], &[])
}

/// An IPv4 prefix as NLRI.
pub fn nlri(address: Ipv4Addr, length: u8) -> Vec<u8> {
    let octets = address.octets();
    [&[length][..], &octets[..usize::from(length).div_ceil(8)]].concat()
}

fn open(who: &Who) -> Vec<u8> {
    let my_as = u16::try_from(who.asn).unwrap_or(23456);
    let id = match who.local {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            // Any value that is not zero and not shared (RFC 6286).
            let octets = address.octets();
            [10, octets[13], octets[14], octets[15]]
        }
    };
    let mut capabilities = vec![1, 4, 0, 1, 0, 1];
    if who.ipv6 {
        capabilities.extend([1, 4, 0, 2, 0, 1]);
    }
    if who.four_octet_as {
        capabilities.extend([65, 4]);
        capabilities.extend(who.asn.to_be_bytes());
    }
    let length = u8::try_from(capabilities.len()).unwrap();
    // Version 4, hold time 30 s; one parameter of type 2: capabilities (RFC 5492 §4).
    [&[4][..], &my_as.to_be_bytes(), &[0, 30], &id, &[length + 2, 2, length], &capabilities].concat()
}

fn read_message(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 19];
    stream.read_exact(&mut header)?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![0; length.saturating_sub(19)];
    stream.read_exact(&mut body)?;
    Ok((header[18], body))
}
