//! A peer task while the routing task stands still, against a peer on loopback.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream as StdStream};
use std::time::Duration;

use super::*;
use crate::bgp::message::{Codec, Open};
use crate::bgp::session::Settings;
use crate::bgp::wire;
use crate::daemon::journal::Journal;
use crate::metrics::Metrics;
use crate::net::{Asn, Family};

const HOLD: u16 = 3;

fn settings(local: u32, peer: u32) -> Settings {
    Settings {
        local_asn: Asn(local),
        peer_asn: Asn(peer),
        router_id: Ipv4Addr::from(local),
        hold_time: HOLD,
        send_hold_time: None,
        connect_retry: Duration::from_secs(60),
        long_back_off: Settings::LONG_BACK_OFF,
        passive: false,
        families: vec![Family::Ipv4],
        graceful_restart: None,
        seed: 1,
    }
}

fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(message, &Codec::INITIAL, &mut bytes);
    bytes
}

/// Types of the messages that come within `time`; none of them may be cut in two by its end.
fn kinds(stream: &mut StdStream, time: Duration) -> Vec<u8> {
    let end = Instant::now() + time;
    let mut kinds = Vec::new();
    let mut header = [0; 19];
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).unwrap();
        if stream.read_exact(&mut header).is_err() {
            return kinds;
        }
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - 19];
        stream.read_exact(&mut body).unwrap();
        kinds.push(header[18]);
    }
}

/// A task, Established with the far end of the stream; the routing task's queue has one place, which
/// the news of that fills.
async fn established() -> (StdStream, mpsc::Receiver<Input>, watch::Receiver<Status>, mpsc::Sender<Command>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let profile = Profile {
        remote: listener.local_addr().unwrap(),
        session: settings(64512, 65001),
        local: None,
        password: None,
        stream: StreamOptions::default(),
        dial_timeout: Duration::from_secs(5),
    };
    let (commands, command_queue) = mpsc::channel(4);
    let (routing, inputs) = mpsc::channel(1);
    let (publish, mut status) = watch::channel(Status::default());
    let metrics = Metrics::new().unwrap().peer("far");
    let told = Told { status: publish, metrics, journal: Journal::nobody().of("far") };
    tokio::spawn(PeerTask::new(PeerId(1), profile, None, command_queue, routing, told).run());
    let far = tokio::task::spawn_blocking(move || {
        let (mut far, _) = listener.accept().unwrap();
        let open = Open {
            asn: Asn(65001),
            my_as: 65001,
            hold_time: HOLD,
            router_id: Ipv4Addr::new(192, 0, 2, 1),
            capabilities: Vec::new(),
        };
        far.write_all(&bytes(&Message::Open(open))).unwrap();
        far.write_all(&bytes(&Message::Keepalive)).unwrap();
        far
    });
    let far = far.await.unwrap();
    status.wait_for(|status| status.state == State::Established).await.unwrap();
    (far, inputs, status, commands)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_we_do_not_read_from_does_not_die_of_it() {
    let (mut far, mut inputs, status, _commands) = established().await;
    let mut end_of_rib = Vec::new();
    wire::encode_end_of_rib(Family::Ipv4, &mut end_of_rib);
    // Three hold times in which nobody takes what the task has read, so that it reads no more. The
    // peer sends for the first third of it and then, for all that we know, may be dead.
    let heard = tokio::task::spawn_blocking(move || {
        let mut heard = Vec::new();
        for second in 0..9 {
            if second < 3 {
                // If this fails the session is gone, and that is told below.
                let _ = far.write_all(&end_of_rib);
            }
            heard.extend(kinds(&mut far, Duration::from_secs(1)));
        }
        (far, heard)
    });
    let (_far, heard) = heard.await.unwrap();
    assert_eq!(status.borrow().state, State::Established, "{:?}", status.borrow().last_error);
    assert!(heard.len() >= 7 && heard[2..] == vec![4; heard.len() - 2], "keepalives go out all the time: {heard:?}");
    // The routing task is back: nothing is lost, and then silence counts.
    let mut updates = 0;
    while updates < 3 {
        if let Some(Input::Updates { updates: batch, .. }) = inputs.recv().await {
            updates += batch.len();
        }
    }
    let mut status = status;
    let died = tokio::time::timeout(Duration::from_secs(30), status.wait_for(|s| s.state != State::Established));
    assert!(died.await.is_ok(), "a peer that is silent is dead, whatever the routing task does");
    assert!(status.borrow().last_error.as_ref().is_some_and(|(error, _)| error.contains("hold timer expired")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_path_ends_the_session_and_what_is_kept_goes_if_forwarding_is_known_to_have_died() {
    let (_far, mut inputs, mut status, commands) = established().await;
    let mut next = async || loop {
        match inputs.recv().await.unwrap() {
            Input::Up(_) => return "up",
            Input::Down { restart: None, .. } => return "gone",
            Input::Down { .. } => return "kept",
            _ => {}
        }
    };
    assert_eq!(next().await, "up");
    commands.send(Command::PathFailed { independent: false }).await.unwrap();
    assert_eq!(next().await, "gone");
    status.wait_for(|status| status.state != State::Established).await.unwrap();
    assert!(status.borrow().last_error.as_ref().is_some_and(|(error, _)| error.contains("BFD down")));
    // Not established: a BFD that shares the fate of its control plane says nothing, the other does.
    for independent in [false, true] {
        commands.send(Command::PathFailed { independent }).await.unwrap();
    }
    assert_eq!(next().await, "gone");
    commands.send(Command::Stop(Notification::shutdown(""))).await.unwrap();
    drop(commands);
    while let Some(input) = inputs.recv().await {
        assert!(!matches!(input, Input::Down { .. }), "one of the two is enough");
    }
}
