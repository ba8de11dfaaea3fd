//! A program running in a namespace, with its log, killed by its pid when dropped.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Lab, Netns, wait_for};

/// A running program.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program ARGS` in `space`. What it prints is appended to `NAME.log` of the lab.
    pub fn start(lab: &Lab, space: &Netns, name: &str, program: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::logging_to(lab.path(&format!("{name}.log")), space, name, program, args, env)
    }

    /// The same, with the log in a file to be named.
    pub fn logging_to(
        log: PathBuf,
        space: &Netns,
        name: &str,
        program: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        // `ip netns exec` replaces itself with the program: the pid is the program's.
        let child = space
            .command(program)
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Lets it run before others, as far as that is permitted: a BFD that does not see to it by itself
    /// raises alarms on a busy machine, and they are its own.
    pub fn hurry(&self) {
        let _ = std::process::Command::new("chrt").args(["-a", "-f", "-p", "5", &self.id().to_string()]).output();
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.id()).unwrap());
        kill(pid, signal).unwrap_or_else(|e| panic!("{}: {signal}: {e}", self.name));
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn ended(&mut self, limit: Duration) -> ExitStatus {
        let Self { name, child, .. } = self;
        wait_for(&format!("{name} ends"), limit, || child.try_wait().unwrap())
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended(limit)
    }

    /// The file with what it printed.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All it has printed so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lets programs that give up root work in a directory.
pub fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, Permissions::from_mode(0o777)).unwrap();
}
