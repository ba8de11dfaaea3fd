//! Network namespaces and processes in them, by `ip`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::stage::Stop;

/// The search path, and where Debian puts daemons: `su` without `-` leaves that out.
fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    std::env::join_paths(dirs).unwrap_or(path)
}

/// Whether a program is in the search path.
pub(super) fn is_installed(program: &str) -> bool {
    std::env::split_paths(&search_path()).any(|dir| dir.join(program).exists())
}

/// The start of a command line, out of reach of the terminal's Ctrl-C: the demo ends what it started itself.
pub(super) fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path()).stdin(Stdio::null()).process_group(0);
    command
}

/// One `ip -batch`, in a namespace or here.
pub(super) fn batch(netns: Option<&str>, lines: &[String]) -> Result<(), Stop> {
    let mut command = tool("ip");
    if let Some(netns) = netns {
        command.args(["-n", netns]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.join("\n").as_bytes())?;
        stdin.write_all(b"\n")?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(Stop::Failed(format!("ip -batch: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// `ip -j -n NETNS ARGS`; nothing where there is nothing.
pub(super) fn ip_json(netns: &str, args: &str) -> Value {
    let output = tool("ip").args(["-j", "-n", netns]).args(args.split(' ')).output();
    output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or_default()
}

/// Whether `ip -n NETNS ARGS` works.
pub(super) fn ip_works(netns: &str, args: &str) -> bool {
    let output = tool("ip").args(["-n", netns]).args(args.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs `body` in a thread of a namespace. Sockets made there stay in it.
pub(super) fn inside<T: Send>(netns: &str, body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let space = File::open(format!("/run/netns/{netns}"))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(space, CloneFlags::CLONE_NEWNET)?;
            body()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace broke")))
    })
}

/// Writes kernel settings of a namespace, named by their path below /proc/sys.
pub(super) fn sysctls(netns: &str, settings: &[(&str, &str)]) -> io::Result<()> {
    // /proc/sys/net shows the namespace of the thread that opens it.
    inside(netns, || settings.iter().try_for_each(|(key, value)| fs::write(format!("/proc/sys/{key}"), value)))
}

/// [`tool`] in a namespace.
pub(super) fn command(netns: &str, program: &str) -> Command {
    let mut command = tool("ip");
    command.args(["netns", "exec", netns, program]);
    command
}

/// Starts a daemon with its output in a file.
pub(super) fn daemon(mut command: Command, log: &Path) -> io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    command.stdout(log.try_clone()?).stderr(log).spawn()
}

/// Sends a signal to a child.
pub(super) fn signal(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It may have ended by itself; then there is nobody to tell.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Kills what runs in a namespace of the demo and removes it.
pub(super) fn remove(netns: &str) {
    if !Path::new("/run/netns").join(netns).exists() {
        return;
    }
    let ip = |args: &[&str]| tool("ip").args(args).output();
    let pids = ip(&["netns", "pids", netns]).map(|output| output.stdout).unwrap_or_default();
    for pid in String::from_utf8_lossy(&pids).lines().filter_map(|line| line.trim().parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = ip(&["netns", "del", netns]);
}
