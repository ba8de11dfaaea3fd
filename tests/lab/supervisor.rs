//! What systemd hears: a notify socket in its place.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::agent::{Agent, ROUTE, SESSION, WAYLEAVE};
use crate::harness::{Process, holds, wait_for};
use crate::story::{Config, Rack, TOR_AS};

/// The socket of a supervisor, and all it was told.
struct Notify {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Notify {
    fn listen(rack: &Rack) -> (Self, String) {
        let path = rack.lab.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (Self { socket, told: Vec::new() }, path.to_str().unwrap().to_owned())
    }

    /// Takes what has come; how many lines begin so.
    fn count(&mut self, begin: &str) -> usize {
        let mut bytes = [0; 4096];
        while let Ok(len) = self.socket.recv(&mut bytes) {
            self.told.extend(String::from_utf8_lossy(&bytes[..len]).lines().map(str::to_owned));
        }
        self.told.iter().filter(|line| line.starts_with(begin)).count()
    }

    fn wait(&mut self, begin: &str, count: usize) {
        holds(&format!("{count} times {begin}"), ROUTE, || self.count(begin) >= count);
    }
}

#[test]
fn told_from_start_to_stop() {
    let rack = Rack::new();
    let (mut notify, path) = Notify::listen(&rack);
    // Nobody answers there: readiness of the daemon does not wait for routers.
    let text = Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text();
    let agent = Agent::prepare(&rack.lab, &rack.host, &text);
    let config = agent.config_path().to_str().unwrap();
    let env = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "1000000"), ("RUST_LOG", "wayleave=debug")];
    let mut daemon = Process::start(&rack.lab, &rack.host, "supervised", WAYLEAVE, &["run", "--config", config], &env);

    notify.wait("READY=1", 1);
    assert!(agent.json(&["status"]).is_some(), "the command line can be used from then on");
    notify.wait("WATCHDOG=1", 5);
    notify.wait("STATUS=", 5);
    let status = notify.told.iter().rfind(|line| line.starts_with("STATUS=")).unwrap();
    assert!(status.contains("0 of 1 sessions up") && status.contains("routes in the kernel"), "{status}");

    daemon.signal(Signal::SIGHUP);
    notify.wait("RELOADING=1", 1);
    notify.wait("READY=1", 2);
    let order: Vec<_> = notify.told.iter().filter(|line| !line.starts_with('W') && !line.starts_with('S')).collect();
    assert_eq!(order, ["READY=1", "RELOADING=1", "READY=1"]);
    agent.configure("[bgp]\nasn = \"none\"\n");
    daemon.signal(Signal::SIGHUP);
    notify.wait("READY=1", 3);
    notify.wait("STATUS=", 1);
    let refused = |line: &String| line.starts_with("STATUS=") && line.ends_with("the last reload was refused");
    wait_for("the status line says that it was refused", ROUTE, || {
        notify.count("STATUS=");
        notify.told.iter().any(refused).then_some(())
    });

    assert_eq!(notify.count("STOPPING"), 0);
    assert!(daemon.terminate(Duration::from_secs(15)).success());
    notify.wait("STOPPING=1", 1);
}

#[test]
fn a_metrics_port_that_somebody_has_stops_no_routing() {
    let rack = Rack::new();
    let args = ["httpd", "-f", "-p", "127.0.0.1:9887"];
    let mut squatter = Process::start(&rack.lab, &rack.host, "squatter", "busybox", &args, &[]);
    holds("the port is taken", ROUTE, || rack.host.http_get(9887, "/").is_some());
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text());
    let told = || {
        let problems = agent.status()["problems"].to_string();
        problems.contains("metrics.listen 127.0.0.1:9887: Address already in use")
    };
    holds("it runs, and says so", ROUTE, told);
    squatter.kill();
    holds("the port is opened when it is free", SESSION, || {
        agent.http("/healthz").is_some_and(|(status, _)| status == 200)
    });
    assert!(!told(), "and no problem any more");
}

#[test]
fn the_unit_is_sound_and_hardened() {
    const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/debian/wayleave.service");
    let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).arg(UNIT).output().unwrap();
    // "Failed to …, ignoring" and unknown settings are warnings; the program is not installed where this runs.
    let output = analyze(&["verify", "--man=no", "--recursive-errors=no"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let strange: Vec<&str> =
        said.lines().filter(|line| line.contains("wayleave.service") && !line.contains("is not executable")).collect();
    assert!(strange.is_empty(), "{strange:#?}");

    // docs/install.md says 2.5; each step away from it needs a reason.
    let output = analyze(&["security", "--offline=true", "--no-pager", "--threshold=26"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Overall exposure level"), "{said}");
}
