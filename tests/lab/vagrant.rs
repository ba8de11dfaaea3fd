//! The lab of virtual machines, in namespaces: the same scripts make the machines, the same script checks them.
//!
//! A machine is a namespace of each kind. What provisioning writes to /etc, /usr and /var stays in it, and what it
//! starts with `systemctl` is started by a small stand-in (`tests/lab/vagrant/`): FRR, etcd, dockerd, Prometheus,
//! wayleave, all of them real, by the lines of their units. Grafana is not in Debian: of it only the files are looked at.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::docker::remove_cgroups;
use crate::harness::netns::done;
use crate::harness::{Lab, Netns, holds};
use crate::packaging;

/// The top of the source tree.
const TOP: &str = env!("CARGO_MANIFEST_DIR");

/// A file of the source tree.
fn source(path: &str) -> PathBuf {
    Path::new(TOP).join(path)
}

fn topology() -> Value {
    serde_json::from_str(&fs::read_to_string(source("vagrant/topology.json")).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The nodes of the lab: (name, role, node). What has no memory is in the demo alone.
fn nodes(topology: &Value) -> Vec<(&str, &str, &Value)> {
    let of = |kind: &'static str, role: Option<&'static str>| {
        let in_lab = list(&topology[kind]).iter().filter(|node| node["memory"].is_u64());
        in_lab.map(move |node| (text(&node["name"]), role.unwrap_or_else(|| text(&node["name"])), node))
    };
    of("tors", Some("tor")).chain(of("services", None)).chain(of("hosts", Some("host"))).collect()
}

/// Machines that run; all that is in them ends when this is dropped.
struct Machines {
    dir: PathBuf,
    /// What the hosts install
    package: PathBuf,
    running: BTreeMap<String, Child>,
}

impl Machines {
    /// Cables and machines of the lab, nothing in them yet.
    fn start(lab: &Lab, topology: &Value) -> Self {
        let mut spaces: BTreeMap<&str, Netns> = BTreeMap::new();
        let length = |net: &Value| text(net).split_once('/').unwrap().1.to_owned();
        for rack in list(&topology["racks"]) {
            let switch = lab.netns(text(&rack["name"]));
            switch.batch(&["link add name lan type bridge", "link set lan up"]);
            for (name, _, node) in nodes(topology).into_iter().filter(|(_, _, node)| node["rack"] == rack["name"]) {
                let space = lab.netns(name);
                let address = format!("{}/{}", text(&node["address"]), length(&rack["lan"]));
                lab.link((&switch, name, &[]), (&space, "eth1", &[&address]));
                switch.ip(&format!("link set {name} master lan"));
                spaces.insert(name, space);
            }
        }
        for uplink in list(&topology["uplinks"]) {
            let ends = uplink["ends"].as_object().unwrap().iter();
            let ends: Vec<(&str, String)> = ends
                .map(|(tor, address)| (tor.as_str(), format!("{}/{}", text(address), length(&uplink["net"]))))
                .collect();
            let device = text(&uplink["name"]);
            let [a, b] = &ends[..] else { panic!("{device} has two ends") };
            lab.link((&spaces[a.0], device, &[&a.1]), (&spaces[b.0], device, &[&b.1]));
        }

        for (name, role, _) in nodes(topology) {
            if role == "host" {
                // As Docker leaves it that starts before wayleave, which is when its package is installed.
                done(spaces[name].command("iptables").args(["-P", "FORWARD", "DROP"]));
            }
        }

        let package = packaging::build("debian/build", &lab.path("packages"), env!("CARGO_PKG_VERSION"));
        let mut machines = Self { dir: lab.path("").components().collect(), package, running: BTreeMap::new() };
        for (name, space) in &spaces {
            machines.boot(name, space);
        }
        for name in spaces.keys() {
            let up = lab.path(&format!("{name}.up"));
            holds(&format!("{name} is up"), Duration::from_secs(60), || up.exists());
        }
        machines
    }

    fn boot(&mut self, name: &str, space: &Netns) {
        let log = File::create(self.dir.join(format!("{name}.log"))).unwrap();
        // Not `ip netns exec`: it would hide /sys/fs/cgroup.
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", space.name()))
            .args(["unshare", "-m", "-u", "-i", "-p", "-f", "--kill-child", "--mount-proc"])
            .arg(source("tests/lab/vagrant/machine"))
            .arg(name)
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        fs::write(self.dir.join(format!("{name}.pid")), child.id().to_string()).unwrap();
        self.running.insert(name.to_owned(), child);
    }

    /// A command line for `on`, and for scripts that use it.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("LAB_DIR", &self.dir).env("LAB_OFFLINE", "1").env("LAB_PACKAGE", &self.package);
        command.stdin(Stdio::null());
        command
    }

    /// `vagrant provision`, all machines at once; what it said.
    fn provision(&self, topology: &Value) -> String {
        let started: Vec<_> = nodes(topology)
            .into_iter()
            .map(|(name, role, _)| {
                let script = source(&format!("vagrant/provision/{role}.sh"));
                let mut on = self.command(&source("tests/lab/vagrant/on"));
                let line = format!("exec 2>&1; {} {name}", script.display());
                (name, on.args([name, &line]).stdout(Stdio::piped()).spawn().unwrap())
            })
            .collect();
        let ended = started.into_iter().map(|(name, child)| {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{name}: {}\n{said}", output.status);
            said
        });
        ended.collect()
    }

    /// What a command prints on a machine.
    fn on(&self, name: &str, command: &str) -> String {
        done(self.command(&source("tests/lab/vagrant/on")).args([name, command]))
    }

    /// The main processes of everything that is served.
    fn processes(&self) -> BTreeMap<&str, String> {
        let shown = "cd /run && grep . lab-systemctl/*.main frr/*.pid 2>/dev/null; docker inspect box 2>/dev/null | grep StartedAt; true";
        self.running.keys().map(|name| (name.as_str(), self.on(name, shown))).collect()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            // The death of `unshare` is that of its child, the first process of the namespace, and so of all.
            let _ = child.kill();
            let _ = child.wait();
        }
        // Processes in them take a moment to be gone.
        let prefix = format!("{}-", self.dir.file_name().unwrap().to_str().unwrap());
        let empty = || remove_cgroups(|name| name.starts_with(&prefix));
        if std::thread::panicking() {
            empty();
        } else {
            holds("the cgroups of the containers are empty", Duration::from_secs(20), empty);
        }
    }
}

#[test]
fn works_in_namespaces() {
    let lab = Lab::new();
    let topology = topology();
    let machines = Machines::start(&lab, &topology);

    let said = machines.provision(&topology);
    assert!(said.contains("host1: /etc/wayleave/wayleave.toml"), "{said}");
    let before = machines.processes();
    assert_eq!(machines.provision(&topology), "", "what is there is not made again");
    assert_eq!(machines.processes(), before, "nor started again");
    // As a run leaves it that ended between a file and its service.
    let served = || machines.on("host1", "cat /run/lab-systemctl/wayleave.main 2>/dev/null; true");
    let former = served();
    machines.on("host1", "install -D /dev/null /var/lib/lab/changed/_etc_wayleave_wayleave.toml");
    machines.provision(&topology);
    holds("what is not in use yet is brought into use", Duration::from_secs(20), || {
        let now = served();
        !now.is_empty() && now != former
    });

    let mut check = machines.command(&source("vagrant/check"));
    let output = check.env("LAB_ON", source("tests/lab/vagrant/on")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.ends_with("all of it works\n"), "{said}");
    assert_eq!(said.matches("TCP, the source is").count(), 6, "{said}");

    has_dashboards(&machines);

    let dir = machines.dir.clone();
    drop(machines);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
}

/// What Grafana would find when it starts: the dashboards, where their provider looks for them, and Prometheus.
fn has_dashboards(machines: &Machines) {
    let provider = machines.on("monitor", "cat /etc/grafana/provisioning/dashboards/*.yml");
    let folder = provider.lines().find_map(|line| line.trim().strip_prefix("path: ")).unwrap();
    let there = machines.on("monitor", &format!("ls {folder}"));
    let ours = fs::read_dir(source("grafana/dashboards")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut ours: Vec<_> = ours.map(|name| name.into_string().unwrap()).collect();
    ours.sort();
    assert_eq!(there.lines().collect::<Vec<_>>(), ours);
    let source = machines.on("monitor", "cat /etc/grafana/provisioning/datasources/*.yml");
    let unit = machines.on("monitor", "cat /etc/systemd/system/grafana-server.service.d/*.conf");
    assert!(
        source.contains("url: ${PROMETHEUS_URL}")
            && unit.contains("Environment=PROMETHEUS_URL=http://localhost:9090\n")
    );
}

#[test]
fn check_says_what_is_wrong() {
    // A transport that reaches nobody.
    let mut check = Command::new(source("vagrant/check"));
    let output = check.env("LAB_ON", "/bin/false").env("LAB_PATIENCE", "0").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("✗ host1"), "{said}");
}

#[test]
fn vagrant_reads_its_file() {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new("make")
        .args(["-s", "-C"])
        .arg(source("vagrant"))
        .arg("validate")
        .env("HOME", home.path())
        .env("VAGRANT_HOME", home.path().join("home"))
        .env("VAGRANT_DOTFILE_PATH", home.path().join("state"))
        .output()
        .unwrap_or_else(|error| panic!("make: {error}"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("validated successfully"), "{said}");
    for (name, ..) in nodes(&topology()) {
        assert!(said.contains(&format!("==> {name}: ")), "{name}: {said}");
    }
    assert!(!said.contains("host4"), "in the demo alone: {said}");
}

#[test]
fn scripts_are_clean() {
    let scripts = |folder: &str| {
        let files = fs::read_dir(source(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.is_file() && fs::read(path).unwrap().starts_with(b"#!/bin/bash")).collect::<Vec<_>>()
    };
    let provision = source("vagrant/provision");
    let mut shellcheck = Command::new("shellcheck");
    shellcheck.arg("--external-sources").arg("--source-path").arg(&provision).arg(provision.join("common.sh"));
    shellcheck.args(scripts("vagrant")).args(scripts("vagrant/provision")).args(scripts("tests/lab/vagrant"));
    let output = shellcheck.output().unwrap_or_else(|error| panic!("shellcheck: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
