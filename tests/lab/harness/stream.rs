//! A TCP transfer from one namespace to another.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::Netns;

const PORT: u16 = 5001;

/// How long a connection may stand still before it counts as stalled.
const STALL: Duration = Duration::from_secs(10);

/// Sends `bytes` from `from` to `target`, an address of `to`. How many arrived before the end or a stall.
pub fn transfer(from: &Netns, to: &Netns, target: &str, bytes: usize) -> usize {
    let target = SocketAddr::new(target.parse::<IpAddr>().unwrap(), PORT);
    let listener = to.run(|| super::wait::bound(|| TcpListener::bind(target)));
    // A connection that never comes must not leave `accept` waiting for ever.
    listener.set_nonblocking(true).unwrap();
    let Ok(mut out) = from.run(|| TcpStream::connect_timeout(&target, STALL)) else { return 0 };
    let (mut incoming, _) = super::wait_for("the connection", STALL, || listener.accept().ok());
    incoming.set_nonblocking(false).unwrap();
    incoming.set_read_timeout(Some(STALL)).unwrap();
    out.set_write_timeout(Some(STALL)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = [7; 16384];
            let mut left = bytes;
            while left > 0 {
                match out.write(&chunk[..left.min(chunk.len())]) {
                    Ok(count) => left -= count,
                    Err(_) => return,
                }
            }
        });
        let mut buffer = vec![0; 65536];
        let mut arrived = 0;
        while let Ok(count) = incoming.read(&mut buffer)
            && count > 0
        {
            arrived += count;
        }
        arrived
    })
}
