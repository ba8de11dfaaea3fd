//! A host for daemons that think they are alone: mounts, processes and names of their own, over the network of a
//! namespace of the lab.
//!
//! One process holds it, pid 1 of a PID namespace: its end is the end of everything inside, mounts too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::{Lab, Netns, holds, wait::pause};

/// How long it may take to come and to go.
const LIMIT: Duration = Duration::from_secs(30);

/// Nothing mounted here is seen outside; `$1` is the folder, `$2` the host name.
const BEFORE: &str = "set -e\nmount --make-rprivate /\nhostname \"$2\"\n";
const AFTER: &str = "\n: >\"$1/up\"\nwhile :; do sleep 1000 & wait; done\n";

/// A host of its own.
pub struct Capsule {
    dir: PathBuf,
    holder: Child,
    /// Its pid 1, from outside
    inside: Pid,
}

impl Capsule {
    /// Prepares it by a script for bash, in which `$1` is a folder of the lab.
    pub fn start(lab: &Lab, space: &Netns, name: &str, script: &str) -> Self {
        let dir = lab.path(&format!("{name}-{}", space.short()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("holder.sh");
        fs::write(&file, format!("{BEFORE}{script}{AFTER}")).unwrap();
        // `ip netns exec` would hide the cgroups.
        let holder = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", space.name()))
            .args(["unshare", "-m", "-u", "-i", "-p", "-f", "--kill-child", "--mount-proc", "bash"])
            .args([file.as_os_str(), dir.as_os_str(), space.short().as_ref()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        holds(&format!("{}: the capsule for {name}", space.short()), LIMIT, || dir.join("up").exists());
        let children = format!("/proc/{0}/task/{0}/children", holder.id());
        let inside = fs::read_to_string(children).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        Self { dir, holder, inside: Pid::from_raw(inside) }
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The start of a command line that runs inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.inside.to_string(), "-m", "-u", "-i", "-n", "-p", program]).stdin(Stdio::null());
        command
    }
}

impl Drop for Capsule {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        // It is gone when the last of what ran inside is.
        let tries = u32::try_from(LIMIT.as_millis() / 25).unwrap();
        let ended = (0..tries).any(|_| {
            let ended = kill(self.inside, None).is_err();
            if !ended {
                pause(Duration::from_millis(25));
            }
            ended
        });
        assert!(ended || std::thread::panicking(), "{}: what runs inside does not end", self.dir.display());
    }
}
