//! FRR (zebra, bgpd and if wanted bfdd) as the router at the other end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::process::open_to_all;
use super::{Lab, Netns, Process, holds};

/// Where Debian puts FRR's daemons.
const DAEMONS: &str = "/usr/lib/frr";

fn daemon(lab: &Lab, space: &Netns, dir: &Path, daemon: &str, more: &[&str]) -> Process {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (conf, pid, zserv, vty) =
        (path(&format!("{daemon}.conf")), path(&format!("{daemon}.pid")), path("zserv.api"), path(""));
    let args = ["-f", &conf, "-i", &pid, "-z", &zserv, "--vty_socket", &vty, "-P", "0"];
    let args = [&args[..], more].concat();
    let name = format!("{daemon}-{}", space.short());
    Process::start(lab, space, &name, &format!("{DAEMONS}/{daemon}"), &args, &[])
}

/// A running FRR.
pub struct Frr {
    bgpd: Process,
    bfdd: Option<Process>,
    zebra: Process,
    dir: PathBuf,
}

impl Frr {
    /// Starts zebra and bgpd; `config` is bgpd's.
    pub fn start(lab: &Lab, space: &Netns, config: &str) -> Self {
        Self::start_with(lab, space, config, None)
    }

    /// [`Self::start`], and bfdd with a configuration of its own.
    pub fn start_with_bfd(lab: &Lab, space: &Netns, config: &str, bfd: &str) -> Self {
        Self::start_with(lab, space, config, Some(bfd))
    }

    fn start_with(lab: &Lab, space: &Netns, config: &str, bfd: Option<&str>) -> Self {
        let dir = lab.path(&format!("frr-{}", space.short()));
        fs::create_dir_all(&dir).unwrap();
        // The daemons become user frr and want to write here.
        open_to_all(&dir);
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let head = format!(
            "frr defaults traditional\nhostname {}\nlog timestamp precision 6\nlog stdout debugging\n",
            space.short()
        );
        fs::write(path("zebra.conf"), &head).unwrap();
        fs::write(path("bfdd.conf"), format!("{head}{}", bfd.unwrap_or_default())).unwrap();
        fs::write(path("bgpd.conf"), head + config).unwrap();
        let zebra = daemon(lab, space, &dir, "zebra", &[]);
        holds("zebra listens", Duration::from_secs(10), || dir.join("zserv.api").exists());
        let bfdd = bfd.map(|_| daemon(lab, space, &dir, "bfdd", &["--bfdctl", &path("bfdd.sock")]));
        if bfdd.is_some() {
            holds("bfdd listens", Duration::from_secs(10), || dir.join("bfdd.vty").exists());
        }
        let mut frr = Self { bgpd: daemon(lab, space, &dir, "bgpd", &[]), bfdd, zebra, dir };
        if let Some(bfdd) = &frr.bfdd {
            for daemon in [bfdd, &frr.bgpd, &frr.zebra] {
                daemon.hurry();
            }
        }
        frr.wait_started();
        frr
    }

    fn wait_started(&mut self) {
        holds("bgpd answers", Duration::from_secs(10), || {
            assert!(self.bgpd.running(), "bgpd ended at once:\n{}", self.bgpd.log());
            self.try_vtysh("show version").is_some()
        });
    }

    /// SIGKILL for bgpd; zebra stays.
    pub fn kill_bgpd(&mut self) {
        self.bgpd.kill();
    }

    /// Starts bgpd again.
    pub fn start_bgpd(&mut self, lab: &Lab, space: &Netns) {
        self.bgpd = daemon(lab, space, &self.dir, "bgpd", &[]);
        self.wait_started();
    }

    fn try_vtysh(&self, command: &str) -> Option<String> {
        let mut vtysh = Command::new("vtysh");
        vtysh.arg("--vty_socket").arg(&self.dir).args(["-d", "bgpd", "-c", command]);
        let output = vtysh.output().unwrap_or_else(|e| panic!("vtysh: {e}"));
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Several commands of the command line, one after the other, which must succeed.
    pub fn configure(&self, commands: &[&str]) {
        let mut vtysh = Command::new("vtysh");
        vtysh.arg("--vty_socket").arg(&self.dir).args(["-d", "bgpd", "-c", "configure terminal"]);
        for command in commands {
            vtysh.args(["-c", command]);
        }
        super::netns::done(&mut vtysh);
    }

    /// `vtysh -c COMMAND`, which must succeed.
    pub fn vtysh(&self, command: &str) -> String {
        self.try_vtysh(command).unwrap_or_else(|| panic!("vtysh -c '{command}' failed"))
    }

    /// `vtysh -c 'COMMAND json'`.
    pub fn json(&self, command: &str) -> Value {
        serde_json::from_str(&self.vtysh(&format!("{command} json"))).unwrap_or(Value::Null)
    }

    /// Commands for bfdd, which must succeed.
    pub fn configure_bfd(&self, commands: &[&str]) {
        assert!(self.bfdd.is_some(), "bfdd runs");
        let mut vtysh = Command::new("vtysh");
        vtysh.arg("--vty_socket").arg(&self.dir).args(["-d", "bfdd", "-c", "configure terminal", "-c", "bfd"]);
        for command in commands {
            vtysh.args(["-c", command]);
        }
        super::netns::done(&mut vtysh);
    }

    /// bfdd's session with this peer.
    pub fn bfd(&self, peer: &str) -> Option<Value> {
        let mut vtysh = Command::new("vtysh");
        vtysh.arg("--vty_socket").arg(&self.dir).args(["-d", "bfdd", "-c", "show bfd peers json"]);
        let peers: Value = serde_json::from_slice(&vtysh.output().unwrap().stdout).ok()?;
        peers.as_array()?.iter().find(|session| session["peer"] == peer).cloned()
    }

    /// What bgpd has logged.
    pub fn log(&self) -> String {
        self.bgpd.log()
    }

    /// Whether the session with this neighbour is up.
    pub fn established(&self, neighbor: &str) -> bool {
        self.json(&format!("show bgp neighbors {neighbor}"))[neighbor]["bgpState"] == "Established"
    }

    /// The first path to a prefix; `None`: it has none.
    pub fn path(&self, prefix: &str) -> Option<Value> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let route = self.json(&format!("show bgp {family} unicast {prefix}"));
        Some(route["paths"].as_array()?.first()?.clone())
    }
}
