//! The daemons under test, each set up to do the same.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::harness::process::open_to_all;
use crate::harness::{Lab, Netns, Process, agent, holds};
use crate::observe::sleep;

/// Where Debian puts FRR's daemons.
const FRR: &str = "/usr/lib/frr";

/// One clock tick in `/proc/PID/stat`.
const TICK: Duration = Duration::from_millis(10);

/// Who is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Rival {
    /// BIRD 2, a table and a kernel protocol
    Bird,
    /// FRR's bgpd and zebra with `coalesce-time 50`: its default makes each peer wait for a timer
    Frr,
    /// This program
    Wayleave,
    /// The same with net.ipv4.nexthop_compat_mode = 0
    WayleaveCompat0,
    /// The same without nexthop objects
    WayleavePlain,
}

/// What the daemon is to be.
pub struct Role {
    pub asn: u32,
    pub router_id: Ipv4Addr,
    /// Whether paths of equal length share the traffic
    pub multipath: bool,
    pub peers: Vec<Peer>,
}

/// One peer; the daemon waits for it to dial.
pub struct Peer {
    /// The daemon's own address towards it
    pub local: Ipv4Addr,
    pub remote: Ipv4Addr,
    /// The daemon's own AS: a route reflector's client
    pub asn: u32,
}

impl Rival {
    /// Its name, without the version that comes after it, and what is special about it.
    pub fn title(self) -> (&'static str, &'static str) {
        match self {
            Self::Bird => ("BIRD", ""),
            Self::Frr => ("FRR", ", coalesce-time 50"),
            Self::Wayleave => ("wayleave", ""),
            Self::WayleaveCompat0 => ("wayleave", ", compat_mode 0"),
            Self::WayleavePlain => ("wayleave", ", plain routes"),
        }
    }

    /// Whether the variant differs from [`Self::Wayleave`] only in how a dead next hop is replaced.
    pub fn for_failover_only(self) -> bool {
        self == Self::WayleaveCompat0
    }

    fn program(self, wayleave: &Path) -> PathBuf {
        match self {
            Self::Bird => "bird".into(),
            Self::Frr => format!("{FRR}/bgpd").into(),
            Self::Wayleave | Self::WayleaveCompat0 | Self::WayleavePlain => wayleave.to_owned(),
        }
    }

    /// Its version; `None`: it is not installed.
    pub fn version(self, wayleave: &Path) -> Option<String> {
        let output = Command::new(self.program(wayleave)).arg("--version").output().ok()?;
        // BIRD tells it on standard error.
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        text.lines().next()?.split_whitespace().last().map(str::to_owned)
    }

    /// Starts the daemon in `space`.
    pub fn start(self, lab: &Lab, space: &Netns, role: &Role, wayleave: &Path) -> Daemon {
        let dir = lab.path("daemon");
        fs::create_dir_all(&dir).expect("a directory");
        // FRR's daemons give up root and write here.
        open_to_all(&dir);
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).expect("a configuration");
            path.to_str().expect("a plain path").to_owned()
        };
        let start = |program: &str, args: &[&str]| {
            let name = Path::new(program).file_name().expect("a program").to_string_lossy();
            Process::start(lab, space, &name, program, args, &[])
        };
        let path = |name: &str| dir.join(name).to_str().expect("a plain path").to_owned();
        if self == Self::WayleaveCompat0 {
            space.sysctl("net/ipv4/nexthop_compat_mode", "0");
        }
        let processes = match self {
            Self::Bird => {
                let config = file("bird.conf", &bird(role));
                vec![start("bird", &["-f", "-c", &config, "-s", &path("bird.ctl"), "-P", &path("bird.pid")])]
            }
            Self::Frr => {
                let (zserv, vty) = (path("zserv.api"), path(""));
                let sockets = ["-z", &zserv, "--vty_socket", &vty, "-P", "0"];
                let daemon = |name: &str, config: &str, more: &[&str]| {
                    let config = file(&format!("{name}.conf"), config);
                    let pid = path(&format!("{name}.pid"));
                    start(&format!("{FRR}/{name}"), &[&["-f", &config, "-i", &pid], &sockets[..], more].concat())
                };
                // The netlink buffer of Debian's own /etc/frr/daemons.
                let zebra = daemon("zebra", "frr defaults traditional\n", &["-s", "90000000"]);
                holds("zebra listens", Duration::from_secs(10), || dir.join("zserv.api").exists());
                vec![zebra, daemon("bgpd", &frr(role), &[])]
            }
            Self::Wayleave | Self::WayleaveCompat0 | Self::WayleavePlain => {
                let config = file("wayleave.toml", &self.wayleave(role, &dir));
                vec![start(wayleave.to_str().expect("a plain path"), &["run", "--config", &config])]
            }
        };
        Daemon { processes }
    }

    fn wayleave(self, role: &Role, dir: &Path) -> String {
        let dir = dir.display();
        let mut text = format!(
            "state_dir = \"{dir}/state\"\n[node]\nname = \"dut\"\naddress = \"{}\"\nrouter_id = \"{}\"\n\
             [network]\npools = [\"10.244.0.0/16\"]\nsubnets = []\ntunnel = \"never\"\nmasquerade = false\n\
             [bgp]\nasn = {}\nlisten = [\"0.0.0.0:179\"]\nmultipath = {}\n\
             [kernel]\nnexthop_objects = {}\n\
             [metrics]\nlisten = \"127.0.0.1:9887\"\n[control]\nsocket = \"{dir}/wayleave.sock\"\n",
            role.peers[0].local,
            role.router_id,
            role.asn,
            if role.multipath { 8 } else { 1 },
            self != Self::WayleavePlain,
        );
        for (index, peer) in role.peers.iter().enumerate() {
            let _ = write!(
                text,
                "[[bgp.peers]]\nname = \"p{index}\"\naddress = \"{}\"\nasn = {}\npassive = true\nimport = \"all\"\n\
                 export = \"all\"\nmax_prefixes = 0\nroute_reflector_client = {}\n",
                peer.remote,
                peer.asn,
                peer.asn == role.asn,
            );
        }
        text
    }
}

fn bird(role: &Role) -> String {
    let merge = if role.multipath { "merge paths on; " } else { "" };
    let mut text = format!(
        "log stderr {{ warning, error, fatal, bug, auth }};\nrouter id {};\nprotocol device {{ }}\n\
         protocol kernel {{ {merge}ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n",
        role.router_id,
    );
    for (index, peer) in role.peers.iter().enumerate() {
        // Without `direct` an internal peer's next hop is looked up in BIRD's own table, where it isn't.
        let client = if peer.asn == role.asn { "rr client; direct; " } else { "" };
        let _ = writeln!(
            text,
            "protocol bgp p{index} {{ local {} as {}; neighbor {} as {}; passive on; {client}\
             ipv4 {{ import all; export all; }}; }}",
            peer.local, role.asn, peer.remote, peer.asn,
        );
    }
    text
}

fn frr(role: &Role) -> String {
    let mut text = format!(
        "frr defaults traditional\nrouter bgp {}\n bgp router-id {}\n no bgp ebgp-requires-policy\n\
         \x20no bgp network import-check\n coalesce-time 50\n",
        role.asn, role.router_id,
    );
    if role.multipath {
        text.push_str(" bgp bestpath as-path multipath-relax\n");
    }
    for peer in &role.peers {
        let _ = writeln!(text, " neighbor {0} remote-as {1}\n neighbor {0} passive", peer.remote, peer.asn);
    }
    text.push_str(" address-family ipv4 unicast\n");
    if role.multipath {
        text.push_str("  maximum-paths 8\n");
    }
    for peer in role.peers.iter().filter(|peer| peer.asn == role.asn) {
        let _ = writeln!(text, "  neighbor {} route-reflector-client", peer.remote);
    }
    text + " exit-address-family\n"
}

/// The path of the program that cargo built along with this one.
pub fn built_here() -> PathBuf {
    agent::WAYLEAVE.into()
}

/// A running daemon: one process, or two for FRR.
pub struct Daemon {
    processes: Vec<Process>,
}

impl Daemon {
    /// User and system time so far, in steps of 10 ms.
    pub fn cpu(&self) -> Duration {
        self.processes.iter().map(|process| cpu_time(&process.id().to_string())).sum()
    }

    /// Time on a processor so far of the threads there are now, exact.
    fn exact_cpu(&self) -> Duration {
        let tasks = |process: &Process| fs::read_dir(format!("/proc/{}/task", process.id())).into_iter().flatten();
        let nanos = |task: fs::DirEntry| -> Option<u64> {
            fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
        };
        Duration::from_nanos(self.processes.iter().flat_map(tasks).filter_map(|task| nanos(task.ok()?)).sum())
    }

    /// Peak resident memory in MiB.
    pub fn peak_memory(&self) -> f64 {
        let peak = |process: &Process| -> Option<f64> {
            let text = fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        self.processes.iter().filter_map(peak).sum::<f64>() / 1024.0
    }

    /// Share of one processor used over `window`.
    pub fn load(&self, window: Duration) -> f64 {
        let (before, began) = (self.exact_cpu(), Instant::now());
        sleep(window);
        self.exact_cpu().saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64()
    }

    /// Waits until it has nothing left to do: less than 4 % of a processor.
    pub fn settle(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.load(Duration::from_millis(250)) > 0.04 && Instant::now() < end {}
    }

    /// Whether all of it still runs.
    pub fn alive(&mut self) -> bool {
        self.processes.iter_mut().all(Process::running)
    }
}

/// User and system time of a process, `self` or a number, with its former threads.
fn cpu_time(process: &str) -> Duration {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th after it.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    let ticks: u32 = fields.into_iter().flatten().filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * ticks
}

/// A moment from which on processor time counts.
pub struct Phase {
    began: Instant,
    daemon: Duration,
    others: Duration,
}

impl Phase {
    pub fn start(daemon: &Daemon) -> Self {
        Self { began: Instant::now(), daemon: daemon.cpu(), others: others(daemon) }
    }

    /// Seconds the daemon has used since.
    pub fn cpu(&self, daemon: &Daemon) -> f64 {
        daemon.cpu().saturating_sub(self.daemon).as_secs_f64()
    }

    /// Percent of one processor that went to anything but the daemon and this program.
    pub fn foreign(&self, daemon: &Daemon) -> f64 {
        100.0 * others(daemon).saturating_sub(self.others).as_secs_f64() / self.began.elapsed().as_secs_f64()
    }
}

/// Time that the processors have been at work for anything but the daemon and this program.
fn others(daemon: &Daemon) -> Duration {
    machine_busy().saturating_sub(daemon.cpu() + cpu_time("self"))
}

/// Time that the machine's processors have been at work.
fn machine_busy() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8).enumerate();
    // All but idle and iowait, the 4th and 5th.
    let busy = fields.filter(|(index, _)| ![3, 4].contains(index));
    TICK * busy.filter_map(|(_, field)| field.parse::<u32>().ok()).sum::<u32>()
}

/// Waits until the machine has got over the last run: namespaces with many routes die slowly.
pub fn quiet() {
    for _ in 0..20 {
        let before = machine_busy();
        sleep(Duration::from_millis(250));
        if machine_busy().saturating_sub(before) < Duration::from_millis(50) {
            return;
        }
    }
}
