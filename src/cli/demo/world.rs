//! The whole of it: built by a few `ip -batch`, asked as a user asks, taken down whatever happens.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use super::files::{self, Design};
use super::netns::{batch, command, daemon, inside, ip_works, remove as remove_netns, signal, sysctls, tool};
use super::stage::{Stop, pause};
use super::topology::{Host, Topology, Tor, netns};
use crate::view;

/// Everything the demo writes: short, because people type the sockets in it.
pub(super) const DIR: &str = "/run/wayleave-demo";

/// How long a daemon may take to stop.
const STOP: Duration = Duration::from_secs(5);

/// Lines of each log that a failed demo shows.
const LOG_TAIL: usize = 8;

/// Held while a demo runs; `None`: another one does.
pub(super) fn lock() -> io::Result<Option<Flock<File>>> {
    let file = File::create(format!("{DIR}.lock"))?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

/// Removes what this or an earlier demo made.
pub(super) fn remove(topology: &Topology) {
    for netns in topology.namespaces() {
        remove_netns(&netns);
    }
    // Absent is as good as removed.
    let _ = fs::remove_dir_all(DIR);
}

/// Namespaces, and what runs in them.
pub(super) struct World<'a> {
    /// Who is there
    pub topology: &'a Topology,
    program: PathBuf,
    birds: Vec<Child>,
    agents: Vec<(&'a Host, Child)>,
}

impl<'a> World<'a> {
    /// Lays the cables and starts the routers, for the routed fabric.
    pub(super) fn build(topology: &'a Topology) -> Result<Self, Stop> {
        fs::create_dir_all(DIR)?;
        let program = std::env::current_exe()?;
        let mut world = Self { topology, program, birds: Vec::new(), agents: Vec::new() };
        match world.lay_cables().and_then(|()| world.start_routers()) {
            Ok(()) => Ok(world),
            Err(error) => {
                world.end(false);
                Err(error)
            }
        }
    }

    fn lay_cables(&self) -> Result<(), Stop> {
        let Self { topology, .. } = *self;
        let mut lines: Vec<String> = topology.namespaces().iter().map(|netns| format!("netns add {netns}")).collect();
        for rack in &topology.racks {
            let tors = topology.tors_of(&rack.name).map(|tor| &tor.name);
            for node in tors.chain(topology.hosts_of(&rack.name).map(|host| &host.name)) {
                lines.push(cable((&rack.name, node), (node, "eth0")));
            }
        }
        for uplink in &topology.uplinks {
            let ends: Vec<&String> = uplink.ends.keys().collect();
            if let [a, b] = ends[..] {
                lines.push(cable((a, &uplink.name), (b, &uplink.name)));
            }
        }
        for host in &topology.hosts {
            lines.push(cable((&host.name, "box"), (&host.container_name(), "eth0")));
        }
        batch(None, &lines)?;
        for rack in &topology.racks {
            batch(Some(&netns(&rack.name)), &switch_lines(topology, &rack.name))?;
            for tor in topology.tors_of(&rack.name) {
                batch(Some(&netns(&tor.name)), &tor_lines(topology, tor, rack.lan.len()))?;
            }
            for host in topology.hosts_of(&rack.name) {
                batch(Some(&host.netns()), &host_lines(topology, host, rack.lan.len()))?;
                batch(Some(&host.container()), &container_lines(host))?;
            }
        }
        // A new namespace takes some settings from the first one: what this machine has must not matter.
        let plain = ("net/ipv4/conf/all/rp_filter", "0");
        for tor in &topology.tors {
            sysctls(&netns(&tor.name), &[("net/ipv4/ip_forward", "1"), plain])?;
        }
        for host in &topology.hosts {
            // wayleave sets what a routed host needs by itself.
            sysctls(&host.netns(), &[("net/ipv4/ip_forward", "0"), plain])?;
        }
        Ok(())
    }

    fn start_routers(&mut self) -> Result<(), Stop> {
        for tor in &self.topology.tors {
            self.start_bird(&netns(&tor.name), &files::tor(self.topology, tor, Design::Fabric))?;
        }
        Ok(())
    }

    fn start_bird(&mut self, netns: &str, config: &str) -> Result<(), Stop> {
        let path = |end: &str| format!("{DIR}/{netns}.{end}");
        fs::write(path("conf"), config)?;
        let mut bird = command(netns, "bird");
        bird.args(["-f", "-c", &path("conf"), "-s", &path("ctl"), "-P", &path("pid")]);
        self.birds.push(daemon(bird, Path::new(&path("log")))?);
        Ok(())
    }

    /// Gives the ToRs another configuration.
    pub(super) fn reconfigure_tors(&self, design: Design) -> Result<(), Stop> {
        for tor in &self.topology.tors {
            let path = |end: &str| format!("{DIR}/{}.{end}", netns(&tor.name));
            fs::write(path("conf"), files::tor(self.topology, tor, design))?;
            let output = tool("birdc").args(["-s", &path("ctl"), "configure"]).output()?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                return Err(Stop::Failed(format!("birdc configure: {text}")));
            }
        }
        Ok(())
    }

    /// Writes the configuration of every host and starts wayleave there.
    pub(super) fn start_agents(&mut self, design: Design) -> Result<(), Stop> {
        for host in &self.topology.hosts {
            fs::write(file(host, "toml"), files::host(self.topology, host, design, Path::new(DIR)))?;
            self.start_agent(host)?;
        }
        Ok(())
    }

    /// Starts wayleave on a host.
    pub(super) fn start_agent(&mut self, host: &'a Host) -> Result<(), Stop> {
        let mut run = command(&host.netns(), &self.program.to_string_lossy());
        run.args(["run", "--config"]).arg(file(host, "toml"));
        self.agents.push((host, daemon(run, &file(host, "log"))?));
        Ok(())
    }

    /// SIGKILL to the wayleave of a host.
    pub(super) fn kill_agent(&mut self, host: &Host) {
        for (_, child) in self.agents.iter_mut().filter(|(at, _)| at.name == host.name) {
            end(child);
        }
        self.agents.retain(|(at, _)| at.name != host.name);
    }

    /// SIGTERM to all of them, and waits for their end.
    pub(super) fn stop_agents(&mut self) {
        for (_, child) in &self.agents {
            signal(child, Signal::SIGTERM);
        }
        let start = Instant::now();
        for (_, mut child) in self.agents.drain(..) {
            while matches!(child.try_wait(), Ok(None)) && start.elapsed() < STOP {
                pause(Duration::from_millis(10));
            }
            end(&mut child);
        }
    }

    /// Asks the wayleave of a host, as a user would.
    pub(super) fn ask<T: DeserializeOwned>(&self, host: &Host, args: &[&str]) -> Option<T> {
        let output = tool(&self.program.to_string_lossy())
            .args(args)
            .arg("--json")
            .arg("--socket")
            .arg(file(host, "sock"))
            .stderr(Stdio::null())
            .output()
            .ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The peers of a host.
    pub(super) fn peers(&self, host: &Host) -> Vec<view::Peer> {
        self.ask(host, &["peers"]).unwrap_or_default()
    }

    /// The paths that a host uses, by prefix.
    pub(super) fn used(&self, host: &Host) -> Vec<view::Route> {
        let routes: Vec<view::Route> = self.ask(host, &["routes"]).unwrap_or_default();
        routes.into_iter().filter(|route| route.best && route.from != "local").collect()
    }

    /// Whether all sessions of a host are up.
    pub(super) fn established(&self, host: &Host) -> bool {
        let peers = self.peers(host);
        !peers.is_empty() && peers.iter().all(|peer| peer.state == "established")
    }

    /// HTTP GET from the metrics port of a host.
    pub(super) fn metrics(host: &Host) -> io::Result<String> {
        inside(&host.netns(), || {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 9887))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    /// Whether the kernel can make IP-in-IP devices.
    pub(super) fn has_ipip(&self) -> bool {
        let Some(host) = self.topology.hosts.first() else { return false };
        let works = ip_works(&host.netns(), &format!("link add demo0 type ipip local {}", host.address));
        works && ip_works(&host.netns(), "link del demo0")
    }

    /// The ends of all logs on stderr, for a demo that failed.
    pub(super) fn tell_logs(&self) {
        let hosts = self.topology.hosts.iter().map(|host| file(host, "log"));
        let tors = self.topology.tors.iter().map(|tor| PathBuf::from(format!("{DIR}/{}.log", netns(&tor.name))));
        for log in hosts.chain(tors) {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {}", log.display());
            for line in lines.iter().skip(lines.len().saturating_sub(LOG_TAIL)) {
                eprintln!("{line}");
            }
        }
    }

    /// Takes everything down, or leaves it to the user.
    pub(super) fn end(mut self, keep: bool) {
        if keep {
            return;
        }
        for child in self.birds.iter_mut().chain(self.agents.iter_mut().map(|(_, child)| child)) {
            end(child);
        }
        remove(self.topology);
    }
}

/// SIGKILL, and takes its exit status so that no zombie stays.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn file(host: &Host, end: &str) -> PathBuf {
    PathBuf::from(format!("{DIR}/{}.{end}", host.name))
}

/// A cable: each end is (name of the node or rack, name of the device).
fn cable((a, device_a): (&str, &str), (b, device_b): (&str, &str)) -> String {
    let (a, b) = (netns(a), netns(b));
    format!("link add name {device_a} netns {a} type veth peer name {device_b} netns {b}")
}

fn switch_lines(topology: &Topology, rack: &str) -> Vec<String> {
    let mut lines = vec!["link add name lan type bridge".to_owned(), "link set dev lan up".to_owned()];
    let tors = topology.tors_of(rack).map(|tor| &tor.name);
    for node in tors.chain(topology.hosts_of(rack).map(|host| &host.name)) {
        lines.push(format!("link set dev {node} master lan up"));
    }
    lines
}

fn tor_lines(topology: &Topology, tor: &Tor, length: u8) -> Vec<String> {
    let mut lines = vec![
        "link set dev lo up".to_owned(),
        format!("addr add {}/{length} dev eth0", tor.address),
        "link set dev eth0 up".to_owned(),
    ];
    for (uplink, here, ..) in topology.uplinks_of(tor) {
        lines.push(format!("addr add {here}/{} dev {}", uplink.net.len(), uplink.name));
        lines.push(format!("link set dev {} up", uplink.name));
    }
    lines
}

fn host_lines(topology: &Topology, host: &Host, length: u8) -> Vec<String> {
    let gateways: Vec<String> =
        topology.tors_of(&host.rack).map(|tor| format!(" nexthop via {}", tor.address)).collect();
    vec![
        "link set dev lo up".to_owned(),
        format!("addr add {}/{length} dev eth0", host.address),
        "link set dev eth0 up".to_owned(),
        format!("route add default{}", gateways.concat()),
        "addr add 169.254.1.1/32 dev box".to_owned(),
        "link set dev box up".to_owned(),
        format!("route add {}/32 dev box", host.container_address()),
    ]
}

fn container_lines(host: &Host) -> Vec<String> {
    vec![
        "link set dev lo up".to_owned(),
        format!("addr add {}/32 dev eth0", host.container_address()),
        // As `attach` will do: room for an outer header, whatever way a packet takes.
        "link set dev eth0 mtu 1480 up".to_owned(),
        "route add default via 169.254.1.1 dev eth0 onlink".to_owned(),
    ]
}
