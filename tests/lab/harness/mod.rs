//! A laboratory of network namespaces: hosts, links, daemons, and somebody to watch the packets.
//!
//! Nothing here touches the network of the machine. Namespaces are called `wl-PID-N-NAME`, go away
//! with their [`Lab`], also after a panic, and those of a test that was killed are swept up by the
//! next one.

pub mod agent;
pub mod bird;
pub mod capsule;
pub mod docker;
pub mod etcd;
pub mod frr;
pub mod kernel;
pub mod mrt;
pub mod netns;
pub mod probe;
pub mod process;
pub mod prometheus;
pub mod pulse;
#[cfg(test)]
mod selftest;
pub mod speaker;
pub mod stream;
pub mod wait;

pub use bird::Bird;
pub use frr::Frr;
pub use netns::Netns;
pub use probe::Probe;
pub use process::Process;
pub use pulse::Pulse;
pub use wait::{holds, wait_for};

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// What every namespace of a lab is called first.
const PREFIX: &str = "wl-";

/// Lines of each log that a failed test prints.
const LOG_TAIL: usize = 40;

/// Namespaces and a directory for the files and logs of what runs in them.
pub struct Lab {
    dir: TempDir,
    number: u32,
    spaces: RefCell<Vec<Netns>>,
}

impl Lab {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        assert!(nix::unistd::geteuid().is_root(), "the lab makes network namespaces: run the tests as root");
        SWEEP.call_once(sweep);
        let dir = TempDir::with_prefix("wl-").unwrap();
        process::open_to_all(dir.path());
        Self { dir, number: NUMBER.fetch_add(1, Ordering::Relaxed), spaces: RefCell::default() }
    }

    /// A new namespace. It forwards nothing and filters nothing: the machine's own settings, which a
    /// new namespace inherits, must not decide a test.
    pub fn netns(&self, name: &str) -> Netns {
        let space = Netns::create(&format!("{PREFIX}{}-{}-{name}", std::process::id(), self.number), name);
        self.spaces.borrow_mut().push(space.clone());
        space
    }

    /// A namespace that forwards: a router of the underlay.
    pub fn router(&self, name: &str) -> Netns {
        let space = self.netns(name);
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            space.sysctl(key, "1");
        }
        space
    }

    #[expect(clippy::unused_self, reason = "cables belong to a lab as much as namespaces")]
    /// A cable. Each end is (where, name of the interface, its addresses with length).
    pub fn link(&self, a: (&Netns, &str, &[&str]), b: (&Netns, &str, &[&str])) {
        a.0.ip(&format!("link add name {} type veth peer name {} netns {}", a.1, b.1, b.0.name()));
        for (space, device, addresses) in [a, b] {
            let mut lines: Vec<String> = addresses
                .iter()
                // No duplicate address detection: an IPv6 address is to be usable at once.
                .map(|address| format!("addr add {address} dev {device}{}", nodad(address)))
                .collect();
            lines.push(format!("link set dev {device} up"));
            space.batch(&lines);
        }
    }

    /// A container behind `host`: a namespace of its own on a point-to-point link, with the address
    /// and nothing else of the subnet, and the host's end as its default gateway.
    pub fn container(&self, host: &Netns, name: &str, addresses: &[&str]) -> Netns {
        let space = self.netns(name);
        let device = format!("c-{name}");
        host.ip(&format!("link add {device} type veth peer name eth0 netns {}", space.name()));
        let mut inside = vec!["link set eth0 up".to_owned()];
        let mut outside = vec![
            format!("addr add 169.254.1.1/32 dev {device}"),
            format!("addr add fe80::1/64 dev {device} nodad"),
            format!("link set {device} up"),
        ];
        for address in addresses {
            let (length, gateway) = if address.contains(':') { (128, "fe80::1") } else { (32, "169.254.1.1") };
            inside.push(format!("addr add {address}/{length} dev eth0{}", nodad(address)));
            inside.push(format!("route add default via {gateway} dev eth0 onlink"));
            outside.push(format!("route add {address}/{length} dev {device}"));
        }
        space.batch(&inside);
        host.batch(&outside);
        space
    }

    /// A file of the lab.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        for space in self.spaces.borrow().iter() {
            space.delete();
        }
    }
}

impl Lab {
    /// What one wants to see when a test failed: the state of each namespace and the ends of all logs.
    fn tell(&self) {
        for space in self.spaces.borrow().iter() {
            for what in ["addr", "route show table all proto 87", "-6 route show proto 87", "nexthop"] {
                let shown = Command::new("ip").args(["-br", "-n", space.name()]).args(what.split(' ')).output();
                let shown = shown.map_or_else(|e| e.to_string(), |o| String::from_utf8_lossy(&o.stdout).into_owned());
                let lines: Vec<_> = shown.lines().collect();
                if !lines.is_empty() {
                    eprintln!("--- {}: ip {what}\n{}", space.short(), lines[..lines.len().min(30)].join("\n"));
                }
            }
        }
        let mut logs: Vec<PathBuf> = fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "log"))
            .collect();
        logs.sort();
        for log in logs {
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
            eprintln!("--- {} (last {} of {} lines)\n{}", log.display(), tail.len(), lines.len(), tail.join("\n"));
        }
    }
}

fn nodad(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

/// Removes what earlier runs left because they were killed: namespaces of processes that are gone,
/// and what still runs in them.
pub fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let Some(owner) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<i32>().ok()) else {
            continue;
        };
        if kill(Pid::from_raw(owner), None).is_ok() {
            continue;
        }
        let pids = Command::new("ip").args(["netns", "pids", &name]).output().map(|o| o.stdout).unwrap_or_default();
        for pid in String::from_utf8_lossy(&pids).lines().filter_map(|line| line.trim().parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = Command::new("ip").args(["netns", "del", &name]).output();
    }
}

/// Says something that is to be seen although the test passes: the test harness captures `println`.
pub fn announce(text: &str) {
    let _ = writeln!(std::io::stderr(), "note: {text}");
}

/// Whether the kernel this runs on can make IP-in-IP devices.
pub fn kernel_has_ipip() -> bool {
    let lab = Lab::new();
    lab.netns("ipip").try_ip("link add probe0 type ipip local 192.0.2.1").is_ok()
}
