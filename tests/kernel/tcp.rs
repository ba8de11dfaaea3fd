//! Keys, TTL security and errors of TCP connections, over a veth pair between two namespaces.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sched::setns;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use wayleave::io::tcp::{ConnectError, ConnectOptions, Listener, StreamOptions, Ttl, connect, prepare_accepted};

use super::*;

/// Two hosts with a wire between: this thread is at one at a time. A socket stays where it was made.
struct Pair {
    hosts: [File; 2],
}

const ADDRS: [[&str; 2]; 2] = [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]];

impl Pair {
    fn new() -> Self {
        let here = || File::open("/proc/thread-self/ns/net").unwrap();
        let first = here();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        let pair = Self { hosts: [first, here()] };
        pair.at(0);
        let other = format!("/proc/{}/fd/{}", std::process::id(), pair.hosts[1].as_raw_fd());
        ip(&format!("link add wire0 type veth peer name wire1 netns {other}"));
        let [v4, v6] = ADDRS;
        for (host, (v4, v6)) in v4.into_iter().zip(v6).enumerate() {
            pair.at(host);
            ip(&format!("link set wire{host} up"));
            ip(&format!("address add {v4}/24 dev wire{host}"));
            ip(&format!("address add {v6}/64 dev wire{host} nodad"));
        }
        pair
    }

    fn at(&self, host: usize) {
        setns(&self.hosts[host], CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// A counter of the namespace of a host.
    fn count(&self, host: usize, name: &str) -> u64 {
        self.at(host);
        let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        pairs.find(|(found, _)| *found == name).expect("a counter").1.parse().unwrap()
    }

    /// Waits for the counter to grow beyond `from` while `attempt` must not come to an end.
    async fn counted<T: std::fmt::Debug>(&self, host: usize, name: &str, from: u64, attempt: impl Future<Output = T>) {
        let seen = async {
            while self.count(host, name) <= from {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            biased; // The attempt makes its socket where this thread is now; the count goes elsewhere.
            ended = attempt => panic!("{name} expected, but: {ended:?}"),
            () = seen => {}
        }
    }
}

fn to(remote: SocketAddr, password: Option<&[u8]>, ttl: Ttl) -> ConnectOptions<'_> {
    ConnectOptions { local: None, remote, password, stream: StreamOptions { ttl, ..StreamOptions::default() } }
}

/// A connection from host 1 to a listener on host 0, and both ends of it.
async fn meet(pair: &Pair, listener: &Listener, options: &ConnectOptions<'_>) -> (TcpStream, TcpStream) {
    pair.at(1);
    let (ours, theirs) = tokio::join!(connect(options), listener.accept());
    (ours.unwrap(), theirs.unwrap().0)
}

async fn talk(a: &TcpStream, b: &TcpStream) {
    for (from, to) in [(a, b), (b, a)] {
        from.writable().await.unwrap();
        from.try_write(b"x").unwrap();
        to.readable().await.unwrap();
        assert_eq!(to.try_read(&mut [0; 8]).unwrap(), 1);
    }
}

#[test]
fn keys_of_peers_and_of_prefixes() {
    in_netns(async || {
        let pair = Pair::new();
        for [server, client] in ADDRS {
            let host = Prefix::host(addr(client));
            let around = Prefix::new(addr(client), if addr(client).is_ipv4() { 24 } else { 64 });
            let other_family = if addr(client).is_ipv4() { p("2001:db8:5::/64") } else { p("10.5.0.0/16") };
            for peers in [host, around] {
                pair.at(0);
                let keys: [(Prefix, &[u8]); 2] = [(peers, b"secret"), (other_family, b"passed over")];
                let listener = Listener::bind(SocketAddr::new(addr(server), 0), keys).unwrap();
                let at = listener.local_addr().unwrap();
                let good = to(at, Some(b"secret"), Ttl::System);
                let (ours, theirs) = meet(&pair, &listener, &good).await;
                talk(&ours, &theirs).await;

                for (why, password, counter) in
                    [("wrong key", Some(&b"Secret"[..]), "TCPMD5Failure"), ("no key", None, "TCPMD5NotFound")]
                {
                    let before = pair.count(0, counter);
                    let bad = to(at, password, Ttl::System);
                    pair.at(1);
                    pair.counted(0, counter, before, connect(&bad)).await;
                    assert!(bad.silence_hint().contains("password"), "{why}");
                }

                // A new key on the live listener; what is connected keeps the old one.
                listener.set_key(peers, Some(b"fresh")).unwrap();
                listener.set_key(other_family, Some(b"ignored")).unwrap();
                let fresh = to(at, Some(b"fresh"), Ttl::System);
                let (new_ours, new_theirs) = meet(&pair, &listener, &fresh).await;
                talk(&new_ours, &new_theirs).await;
                talk(&ours, &theirs).await;
                let before = pair.count(0, "TCPMD5Failure");
                pair.at(1);
                pair.counted(0, "TCPMD5Failure", before, connect(&good)).await;

                // Without a key a connection without one gets in; removing it twice is no error.
                listener.set_key(peers, None).unwrap();
                listener.set_key(peers, None).unwrap();
                let (ours, theirs) = meet(&pair, &listener, &to(at, None, Ttl::System)).await;
                talk(&ours, &theirs).await;
            }
        }
    });
}

#[test]
fn ttl_security() {
    in_netns(async || {
        let pair = Pair::new();
        for [server, _] in ADDRS {
            pair.at(0);
            let listener = Listener::bind(SocketAddr::new(addr(server), 0), []).unwrap();
            let at = listener.local_addr().unwrap();
            let secured = StreamOptions { ttl: Ttl::Secured(1), ..StreamOptions::default() };

            // Both sides: it works, also the answer of the listener, which knows nothing of it.
            let (ours, theirs) = meet(&pair, &listener, &to(at, None, Ttl::Secured(1))).await;
            prepare_accepted(&theirs, secured).unwrap();
            talk(&ours, &theirs).await;

            // The other side sends with 1: its data is dropped.
            let (ours, mut theirs) = meet(&pair, &listener, &to(at, None, Ttl::Hops(1))).await;
            prepare_accepted(&theirs, secured).unwrap();
            let before = pair.count(0, "TCPMinTTLDrop");
            ours.writable().await.unwrap();
            ours.try_write(b"x").unwrap();
            pair.counted(0, "TCPMinTTLDrop", before, theirs.read_u8()).await;

            // We ask for it and the other side's answer comes with less: as one that is not there.
            pair.at(0);
            let (domain, any) = (socket2::Domain::for_address(at), SocketAddr::new(addr(server), 0));
            let plain = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
            plain.bind(&any.into()).unwrap();
            plain.listen(1).unwrap();
            let plain_at = plain.local_addr().unwrap().as_socket().unwrap();
            let before = pair.count(1, "TCPMinTTLDrop");
            let options = to(plain_at, None, Ttl::Secured(1));
            pair.at(1);
            pair.counted(1, "TCPMinTTLDrop", before, connect(&options)).await;
            assert!(options.silence_hint().contains("TTL 255"));
        }
    });
}

#[test]
fn accepted_connections_lose_what_the_listener_had() {
    in_netns(async || {
        let pair = Pair::new();
        for [server, _] in ADDRS {
            pair.at(0);
            let listener = Listener::bind(SocketAddr::new(addr(server), 0), []).unwrap();
            let at = listener.local_addr().unwrap();
            for (ttl, wanted) in [(Ttl::Hops(1), 1), (Ttl::System, 64), (Ttl::Secured(2), 255)] {
                let (ours, theirs) = meet(&pair, &listener, &to(at, None, ttl)).await;
                let options = StreamOptions { ttl, user_timeout: Some(Duration::from_secs(9)) };
                prepare_accepted(&theirs, options).unwrap();
                for stream in [&ours, &theirs] {
                    let sock = socket2::SockRef::from(stream);
                    let (sent, class) = if at.is_ipv4() {
                        (sock.ttl_v4().unwrap(), sock.tos_v4().unwrap())
                    } else {
                        (sock.unicast_hops_v6().unwrap(), sock.tclass_v6().unwrap())
                    };
                    assert_eq!((sent, class), (wanted, 0xC0), "{ttl:?}");
                    assert!(sock.tcp_nodelay().unwrap() && sock.keepalive().unwrap());
                }
                let timeout = socket2::SockRef::from(&theirs).tcp_user_timeout().unwrap();
                assert_eq!(timeout, Some(Duration::from_secs(9)));
            }
        }
    });
}

#[test]
fn errors_say_what() {
    in_netns(async || {
        let pair = Pair::new();
        pair.at(1);
        let at: SocketAddr = "192.0.2.1:179".parse().unwrap();
        let refused = connect(&to(at, None, Ttl::System)).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Refused(_)), "{refused}");
        let options = ConnectOptions { local: Some(addr("192.0.2.77")), ..to(at, None, Ttl::System) };
        let source = connect(&options).await.unwrap_err();
        assert_eq!(source.to_string(), "source address 192.0.2.77 is on no device of this host");
        let nowhere = connect(&to("198.51.100.1:179".parse().unwrap(), None, Ttl::System)).await.unwrap_err();
        assert_eq!(nowhere.to_string(), "198.51.100.1:179 is unreachable");
        let long = connect(&to(at, Some(&[b'x'; 81]), Ttl::System)).await.unwrap_err();
        assert_eq!(long.to_string(), "cannot set TCP-MD5 key");
        // IPv4 and IPv6 wildcard on one port.
        let first = Listener::bind("0.0.0.0:179".parse().unwrap(), []).unwrap();
        let second = Listener::bind("[::]:179".parse().unwrap(), []);
        assert!(second.is_ok() && first.local_addr().unwrap().port() == 179);
        assert!(Listener::bind("0.0.0.0:179".parse().unwrap(), []).is_err(), "taken");
    });
}
