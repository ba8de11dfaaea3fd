//! One network namespace and the questions one asks it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

/// A named network namespace. A clone is the same namespace.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    short: String,
}

impl Netns {
    pub(super) fn create(name: &str, short: &str) -> Self {
        done(Command::new("ip").args(["netns", "add", name]));
        let space = Self { name: name.to_owned(), short: short.to_owned() };
        for (key, value) in [
            ("net/ipv4/ip_forward", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
        ] {
            space.sysctl(key, value);
        }
        space.ip("link set lo up");
        space
    }

    pub(super) fn delete(&self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }

    /// Full name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name within the lab.
    pub fn short(&self) -> &str {
        &self.short
    }

    /// Runs `body` in a thread of this namespace. Sockets made there stay in it wherever they go.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(space, CloneFlags::CLONE_NEWNET).unwrap();
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The start of a command line that runs in this namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// `ip ARGS` here; its output. It must succeed.
    pub fn ip(&self, args: &str) -> String {
        self.try_ip(args).unwrap_or_else(|error| panic!("{}: ip {args}: {error}", self.short))
    }

    /// `ip ARGS` here; its output or what it complained about.
    pub fn try_ip(&self, args: &str) -> Result<String, String> {
        let output = Command::new("ip").args(["-n", &self.name]).args(args.split_whitespace()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// `ip -j ARGS` here: a list of objects, empty ones (a quirk of `ip`) left out.
    pub fn ip_json(&self, args: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j {args}"));
        if text.trim().is_empty() {
            return Vec::new();
        }
        let list: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("ip -j {args}: {e}: {text}"));
        list.into_iter().filter(|item| item.as_object().is_none_or(|object| !object.is_empty())).collect()
    }

    /// Many `ip` lines by one process.
    pub fn batch<S: AsRef<str>>(&self, lines: &[S]) {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        let text = lines.join("\n") + "\n";
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: ip -batch: {error}in\n{text}", self.short);
    }

    /// Writes a sysctl, named by its path below /proc/sys.
    pub fn sysctl(&self, key: &str, value: &str) {
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.run(|| fs::write(format!("/proc/sys/{key}"), value)).unwrap_or_else(|e| panic!("{key}: {e}"));
    }

    /// Reads a sysctl, named by its path below /proc/sys.
    pub fn read_sysctl(&self, key: &str) -> String {
        self.run(|| fs::read_to_string(format!("/proc/sys/{key}")))
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    }

    /// `nft` with a script on its standard input.
    pub fn nft(&self, script: &str) {
        let mut child = self.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{}: nft refused\n{script}", self.short);
    }

    /// Drops everything that comes in for or from a TCP port, without an answer: a peer gone silent.
    pub fn silence(&self, port: u16) {
        self.nft(&format!(
            "table inet silence {{\n\
             chain inbound {{ type filter hook input priority 0; tcp dport {port} drop; tcp sport {port} drop; }}\n\
             chain outbound {{ type filter hook output priority 0; tcp dport {port} drop; tcp sport {port} drop; }}\n}}\n"
        ));
    }

    /// Undoes [`Self::silence`].
    pub fn unsilence(&self) {
        self.nft("delete table inet silence\n");
    }

    /// How many of `count` pings to `target` came back, sent ten a second.
    pub fn ping(&self, target: &str, count: u32) -> u32 {
        self.ping_with(target, count, &[])
    }

    /// [`Self::ping`] with more options of `ping`.
    pub fn ping_with(&self, target: &str, count: u32, options: &[&str]) -> u32 {
        // Where packets are counted one that a busy machine delays is not lost.
        let wait = if count > 1 { "4" } else { "1" };
        let output = self
            .command("ping")
            .args(["-n", "-q", "-i", "0.1", "-W", wait, "-c", &count.to_string()])
            .args(options)
            .arg(target)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .find(|line| line.contains("packets transmitted"))
            .and_then(|line| line.split(", ").find(|part| part.contains("received")))
            .and_then(|part| part.split(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("ping {target}: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// HTTP GET on the loopback of this namespace: status and body. `None`: nobody answers.
    pub fn http_get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        self.run(|| {
            let address = format!("127.0.0.1:{port}").parse().unwrap();
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let status = head.split(' ').nth(1)?.parse().ok()?;
            let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
            Some((status, if chunked { unchunk(body) } else { body.to_owned() }))
        })
    }
}

/// A body in chunked transfer coding (RFC 9112 §7.1) without its framing.
fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// Runs a command that must succeed; its standard output.
pub fn done(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}
