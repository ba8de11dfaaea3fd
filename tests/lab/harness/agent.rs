//! The program under test: `wayleave run` in a namespace, asked as an operator asks it.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Lab, Netns, Process, holds, wait_for};

/// The binary that cargo built for these tests.
pub const WAYLEAVE: &str = env!("CARGO_BIN_EXE_wayleave");

/// Port of /metrics, the same everywhere: each agent has a namespace of its own.
const METRICS_PORT: u16 = 9887;

/// How long a session may take to come up: a few connect retries.
pub const SESSION: Duration = Duration::from_secs(30);

/// How long a route may take through sessions that are up.
pub const ROUTE: Duration = Duration::from_secs(10);

/// A `wayleave run`, or one that was stopped and can be started again.
pub struct Agent {
    name: String,
    space: Netns,
    program: PathBuf,
    process: Option<Process>,
    config: PathBuf,
    state: PathBuf,
    socket: PathBuf,
}

impl Agent {
    /// Writes the configuration and starts the daemon. State directory, control socket and metrics
    /// are added to `config`.
    pub fn start(lab: &Lab, space: &Netns, config: &str) -> Self {
        let mut agent = Self::prepare(lab, space, config);
        agent.launch(lab);
        agent
    }

    /// The same, with nothing in its log that an operator would not have there.
    pub fn start_quiet(lab: &Lab, space: &Netns, config: &str) -> Self {
        Self::start_telling(lab, space, config, "wayleave=info")
    }

    /// The same, with this in its log (`RUST_LOG`).
    pub fn start_telling(lab: &Lab, space: &Netns, config: &str, log: &str) -> Self {
        let mut agent = Self::prepare(lab, space, config);
        agent.spawn(lab, log);
        agent
    }

    /// Writes the configuration and starts nothing.
    pub fn prepare(lab: &Lab, space: &Netns, config: &str) -> Self {
        let name = space.short();
        let agent = Self {
            name: name.to_owned(),
            space: space.clone(),
            program: WAYLEAVE.into(),
            process: None,
            config: lab.path(&format!("{name}.toml")),
            state: lab.path(&format!("{name}.state")),
            socket: lab.path(&format!("{name}.sock")),
        };
        fs::create_dir_all(&agent.state).unwrap();
        agent.configure(config);
        agent
    }

    /// Starts the daemon (again).
    pub fn launch(&mut self, lab: &Lab) {
        self.spawn(lab, "wayleave=debug");
    }

    fn spawn(&mut self, lab: &Lab, log: &str) {
        let args = ["run", "--config", self.config.to_str().unwrap()];
        let env = [("RUST_LOG", log), ("NO_COLOR", "1"), ("RUST_BACKTRACE", "1")];
        self.process = Some(Process::start(lab, &self.space, &self.name, self.program.to_str().unwrap(), &args, &env));
    }

    /// Another build of the daemon, which starts next time.
    pub fn upgrade(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Writes another configuration; the daemon is not told.
    pub fn configure(&self, config: &str) {
        // The machine that the tests run on may have one of its own.
        let config = if config.contains("subnet_file") {
            config.to_owned()
        } else {
            config.replacen("[network]\n", "[network]\nsubnet_file = \"\"\n", 1)
        };
        let listen = format!("[metrics]\nlisten = \"127.0.0.1:{METRICS_PORT}\"\n");
        // Who is to be asked from elsewhere says so.
        let config = if config.contains("[metrics]\nlisten") {
            config
        } else if config.contains("[metrics]\n") {
            config.replacen("[metrics]\n", &listen, 1)
        } else {
            format!("{config}\n{listen}")
        };
        let text = format!(
            "state_dir = \"{}\"\n{config}\n[control]\nsocket = \"{}\"\n",
            self.state.display(),
            self.socket.display(),
        );
        fs::write(&self.config, text).unwrap();
    }

    /// Writes another configuration and sends SIGHUP.
    pub fn reload(&self, config: &str) {
        self.configure(config);
        self.signal(Signal::SIGHUP);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("the agent runs").signal(signal);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().expect("the agent runs").kill();
    }

    /// SIGTERM; how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.take().expect("the agent runs").terminate(Duration::from_secs(15))
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("the agent runs").id()
    }

    /// Whether it runs.
    pub fn running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::running)
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.space
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its configuration file.
    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// `wayleave ARGS --socket …` as an operator would type it.
    pub fn cli(&self, args: &[&str]) -> Output {
        let socket = [OsStr::new("--socket"), self.socket.as_os_str()];
        Command::new(WAYLEAVE).args(args).args(socket).output().unwrap()
    }

    /// `wayleave ARGS --json`; `None` while the daemon can't be reached.
    pub fn json(&self, args: &[&str]) -> Option<Value> {
        let output = self.cli(&[args, &["--json"]].concat());
        match output.status.code() {
            Some(0) => Some(serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
                panic!("wayleave {args:?} --json: {e}: {}", String::from_utf8_lossy(&output.stdout))
            })),
            Some(3) => None,
            _ => panic!("wayleave {args:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// `wayleave status --json`.
    pub fn status(&self) -> Value {
        wait_for(&format!("{} answers", self.name), Duration::from_secs(10), || self.json(&["status"]))
    }

    /// One peer of `wayleave peers --json` by its name.
    pub fn peer(&self, name: &str) -> Option<Value> {
        let peers = self.json(&["peers"])?;
        peers.as_array().expect("a list of peers").iter().find(|peer| peer["name"] == name).cloned()
    }

    /// Whether the session with a peer is up.
    pub fn established(&self, peer: &str) -> bool {
        self.peer(peer).is_some_and(|peer| peer["state"] == "established")
    }

    /// `wayleave routes --json ARGS`.
    pub fn routes(&self, args: &[&str]) -> Vec<Value> {
        let answer = self.json(&[&["routes"], args].concat());
        answer.map(|routes| routes.as_array().expect("a list of routes").clone()).unwrap_or_default()
    }

    /// The best path to exactly this prefix.
    pub fn best(&self, prefix: &str) -> Option<Value> {
        self.routes(&[prefix]).into_iter().find(|route| route["prefix"] == prefix && route["best"] == true)
    }

    /// Whether the best path to this prefix is in the kernel.
    pub fn installed(&self, prefix: &str) -> bool {
        self.best(prefix).is_some_and(|route| route["installed"] == true)
    }

    /// `wayleave explain WHAT`, as text; where its lines end is of no account.
    pub fn explain(&self, address: &str) -> String {
        let output = self.cli(&["explain", address]);
        assert!(output.status.success(), "explain {address}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// HTTP GET from the metrics port.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        self.space.http_get(METRICS_PORT, path)
    }

    /// HTTP GET from the control socket; `None` while the daemon can't be reached or refuses.
    pub fn control(&self, path: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: wayleave\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// The value of one series, labels as they are written: `wayleave_x{peer="tor"}`; or the sum of
    /// all series of a name without labels.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.http("/metrics")?;
        let values: Vec<f64> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(name, _)| *name == series || name.split('{').next() == Some(series))
            .filter_map(|(_, value)| value.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Waits until all these sessions are up.
    pub fn wait_established(&self, peers: &[&str]) {
        for peer in peers {
            holds(&format!("{}: session with {peer} up", self.name), SESSION, || self.established(peer));
        }
    }

    /// Waits until the best path to this prefix is in the kernel.
    pub fn wait_installed(&self, prefix: &str) {
        holds(&format!("{}: {prefix} in the kernel", self.name), ROUTE, || self.installed(prefix));
    }
}

/// A password file that only root reads.
pub fn password_file(lab: &Lab, name: &str, password: &str) -> PathBuf {
    let path = lab.path(name);
    fs::write(&path, format!("{password}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

/// An AS path of a JSON route as one writes it: `65001 65002 {1,2}`.
pub fn as_path(route: &Value) -> String {
    match &route["as_path"] {
        Value::String(path) => path.clone(),
        Value::Array(parts) => parts.iter().map(|part| part.to_string().replace('"', "")).collect::<Vec<_>>().join(" "),
        other => panic!("as_path is {other}"),
    }
}
