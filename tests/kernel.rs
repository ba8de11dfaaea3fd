//! `io` against the real kernel, each test in a network namespace of its own. Needs root: without
//! it the tests fail, they are not passed over.
//!
//! What the kernel holds is asked of ip(8), not of the code under test. To show that something did
//! *not* happen, a marker is sent after it and waited for.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a test ends by panicking")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use wayleave::explain::kernel::Answer;
use wayleave::forward::{Batch, FibOp, Hop, OpError, Target};
use wayleave::io::netlink::path::{self, Question};
use wayleave::io::netlink::{Ours, writer};
use wayleave::net::{Family, Prefix};

#[path = "kernel/nexthops.rs"]
mod nexthops;
#[path = "kernel/routes.rs"]
mod routes;
#[path = "kernel/settings.rs"]
mod settings;
#[path = "kernel/tcp.rs"]
mod tcp;
#[path = "kernel/tunnel.rs"]
mod tunnel;
#[path = "kernel/watch.rs"]
mod watch;

/// Ours, as by default but for a metric that is easy to see.
const OURS: Ours = Ours { table: 254, protocol: 87, metric: 20 };

/// Runs `test` in a fresh network namespace, which ends with its thread.
fn in_netns(test: impl AsyncFnOnce() + Send + 'static) {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs CAP_SYS_ADMIN");
        ip("link set lo up");
        // Namespaces belong to threads: a multi-threaded runtime would escape this one.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test());
    })
    .join()
    .expect("test thread");
}

fn run(program: &str, args: &str) -> (bool, String) {
    let out = Command::new(program).args(args.split_whitespace()).output().expect(program);
    let text = if out.status.success() { out.stdout } else { out.stderr };
    (out.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// ip(8), which must succeed.
fn ip(args: &str) -> String {
    let (done, text) = run("ip", args);
    assert!(done, "ip {args}: {text}");
    text
}

/// Where the kernel would send a packet of this host's.
async fn lookup(to: IpAddr) -> Answer {
    path::ask(Question::sent_to(to)).await.unwrap()
}

fn ip_json(args: &str) -> Vec<Value> {
    let text = ip(&format!("-d -j {args}"));
    if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap() }
}

/// Two links whose far ends are in the same namespace, with addresses of both families.
fn two_links() -> (u32, u32) {
    for (name, far, v4, v6) in
        [("a0", "b0", "192.0.2.11/28", "2001:db8:1::1/64"), ("a1", "b1", "192.0.2.33/28", "2001:db8:2::1/64")]
    {
        ip(&format!("link add {name} type veth peer name {far}"));
        ip(&format!("link set {far} up"));
        ip(&format!("link set {name} up"));
        ip(&format!("address add {v4} dev {name}"));
        ip(&format!("address add {v6} dev {name} nodad"));
    }
    (index("a0"), index("a1"))
}

fn index(name: &str) -> u32 {
    let shown = ip_json(&format!("link show dev {name}"));
    u32::try_from(shown[0]["ifindex"].as_u64().unwrap()).unwrap()
}

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn via(hops: impl IntoIterator<Item = Hop>) -> Target {
    Target::via(hops).unwrap()
}

fn batch(ops: Vec<FibOp>) -> Batch {
    let mut batch = Batch::default();
    batch.ops = ops;
    batch
}

/// The report of a batch, which must be the next.
async fn report(writer: &mut writer::Writer) -> writer::RoutesReport {
    match writer.reports.recv().await.unwrap() {
        writer::Report::Routes(report) => report,
        writer::Report::Nexthops(report) => panic!("{report:?}"),
    }
}

/// Writes a batch and returns what became of it.
async fn write(writer: &mut writer::Writer, ops: Vec<FibOp>) -> writer::RoutesReport {
    writer.ops.send(batch(ops)).await.unwrap();
    report(writer).await
}

/// The one outcome of a batch of one.
async fn write_one(writer: &mut writer::Writer, op: FibOp) -> Result<(), OpError> {
    let report = write(writer, vec![op]).await;
    assert_eq!(report.batch.ops.len(), 1);
    report.failed.first().map_or(Ok(()), |(_, error)| Err(*error))
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
