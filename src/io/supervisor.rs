//! The supervisor's side: what systemd is told of us (sd_notify(3)), and whether it watches.
//!
//! The protocol is a datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names, so it takes
//! no library. Without that variable nobody listens, and telling does nothing.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Who started us and wants to know how we are.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// As the environment says. The error is that of a socket that can't be made or has an impossible name.
    pub fn from_env() -> io::Result<Self> {
        let var = |name| std::env::var_os(name);
        let number = |name| var(name)?.to_str()?.parse::<u64>().ok();
        // Meant for another process: a child inherits the variables of its parent.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros);
        match var("NOTIFY_SOCKET").filter(|path| !path.is_empty()) {
            Some(path) => Self::new(&path, watchdog),
            None => Ok(Self::default()),
        }
    }

    /// One that listens on `path` (`@` first: a name in the abstract namespace) and wants a sign of life
    /// within each `watchdog`.
    pub fn new(path: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A supervisor that doesn't read must not hold us up.
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Some((socket, address)), watchdog })
    }

    /// Whether anybody listens.
    pub const fn listens(&self) -> bool {
        self.socket.is_some()
    }

    /// How long we may be silent before we are killed and started again; `None`: for ever.
    pub const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends assignments, such as `READY=1`. Values hold no newline.
    pub fn tell(&self, lines: &[&str]) -> io::Result<()> {
        match &self.socket {
            Some((socket, address)) => socket.send_to_addr(lines.join("\n").as_bytes(), address).map(drop),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("wayleave-test-{}", std::process::id());
        let cases = [
            ("a path", UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                "an abstract name",
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (why, listener, path) in cases {
            let supervisor = Supervisor::new(&path, None).unwrap();
            supervisor.tell(&["READY=1", "STATUS=up"]).unwrap();
            let mut text = [0; 64];
            let len = listener.recv(&mut text).unwrap();
            assert_eq!(&text[..len], b"READY=1\nSTATUS=up", "{why}");
        }
    }

    #[test]
    fn nobody_listens() {
        let supervisor = Supervisor::default();
        assert!(!supervisor.listens());
        supervisor.tell(&["READY=1"]).unwrap();
    }
}
