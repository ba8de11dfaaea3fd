//! BIRD 2 as the router at the other end.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Lab, Netns, Process, holds};

/// A running BIRD.
pub struct Bird {
    process: Process,
    config: PathBuf,
    socket: PathBuf,
}

impl Bird {
    /// Starts BIRD with a configuration made by [`config`].
    pub fn start(lab: &Lab, space: &Netns, config: &str) -> Self {
        Self::start_with(lab, space, config, &[])
    }

    /// Starts BIRD again in the place of one that was killed; it keeps what that left in the kernel
    /// until it has learned it again, if its protocols say so.
    pub fn recover(lab: &Lab, space: &Netns, config: &str) -> Self {
        Self::start_with(lab, space, config, &["-R"])
    }

    fn start_with(lab: &Lab, space: &Netns, config: &str, options: &[&str]) -> Self {
        let file = |end: &str| lab.path(&format!("bird-{}.{end}", space.short()));
        let (conf, socket, pid) = (file("conf"), file("ctl"), file("pid"));
        fs::write(&conf, config).unwrap();
        let args = ["-f", "-c", conf.to_str().unwrap(), "-s", socket.to_str().unwrap(), "-P", pid.to_str().unwrap()];
        let args = [&args[..], options].concat();
        let process = Process::start(lab, space, &format!("bird-{}", space.short()), "bird", &args, &[]);
        let mut bird = Self { process, config: conf, socket };
        bird.wait_started();
        bird
    }

    fn wait_started(&mut self) {
        holds("BIRD answers on its socket", Duration::from_secs(10), || {
            assert!(self.process.running(), "BIRD ended at once:\n{}", self.process.log());
            self.try_birdc("show status").is_some_and(|text| text.contains("Daemon is up"))
        });
    }

    fn try_birdc(&self, command: &str) -> Option<String> {
        let mut birdc = Command::new("birdc");
        birdc.arg("-s").arg(&self.socket).args(command.split(' '));
        let output = birdc.output().unwrap_or_else(|e| panic!("birdc: {e}"));
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `birdc COMMAND`, which must succeed.
    pub fn birdc(&self, command: &str) -> String {
        self.try_birdc(command).unwrap_or_else(|| panic!("birdc {command} failed"))
    }

    /// Loads another configuration.
    pub fn reconfigure(&self, config: &str) {
        fs::write(&self.config, config).unwrap();
        let answer = self.birdc("configure");
        assert!(answer.contains("Reconfigured") || answer.contains("Reconfiguration in progress"), "{answer}");
    }

    /// Whether the session of this protocol is up.
    pub fn established(&self, protocol: &str) -> bool {
        self.birdc(&format!("show protocols {protocol}")).contains("Established")
    }

    /// `show route all` for a prefix; `None`: it has none.
    pub fn route(&self, prefix: &str) -> Option<String> {
        // "Network not found" counts as a failure.
        let text = self.try_birdc(&format!("show route {prefix} all"))?;
        text.contains(prefix).then_some(text)
    }

    /// An attribute of a route as BIRD writes it, such as `BGP.as_path`.
    pub fn attribute(&self, prefix: &str, name: &str) -> Option<String> {
        let text = self.route(prefix)?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }

    /// How many routes of a family came from this protocol.
    pub fn count(&self, protocol: &str) -> usize {
        let text = self.birdc(&format!("show route protocol {protocol} count"));
        text.split_whitespace().skip_while(|word| *word != "ready.").nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// One BGP session of a BIRD configuration.
pub struct Neighbor<'a> {
    /// Name of the protocol
    pub name: &'a str,
    /// (its address, its AS)
    pub local: (&'a str, u32),
    /// (our address, our AS)
    pub remote: (&'a str, u32),
    /// More options, each ended by `;`
    pub options: &'a str,
    /// Import and export filters: `import all; export all;` and the like
    pub channel: &'a str,
}

impl<'a> Neighbor<'a> {
    /// A session that takes and gives everything.
    pub fn new(name: &'a str, local: (&'a str, u32), remote: (&'a str, u32)) -> Self {
        Self { name, local, remote, options: "", channel: "import all; export all;" }
    }
}

/// A BIRD configuration: sessions, and routes to announce. `more` goes in as it is.
///
/// It writes what it learned into the kernel of its namespace, so it also forwards.
pub fn config(router_id: &str, neighbors: &[Neighbor<'_>], announce: &[&str], more: &str) -> String {
    let mut text = format!(
        "log stderr all;\nrouter id {router_id};\nprotocol device {{ scan time 2; }}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}\n\
         protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}\n"
    );
    for (family, six) in [("ipv4", false), ("ipv6", true)] {
        writeln!(text, "protocol static announce_{family} {{ {family};").unwrap();
        for prefix in announce.iter().filter(|prefix| prefix.contains(':') == six) {
            // `PREFIX via ADDRESS` or `PREFIX` alone, which goes nowhere.
            let way = if prefix.contains(" via ") { "" } else { " blackhole" };
            writeln!(text, "  route {prefix}{way};").unwrap();
        }
        text.push_str("}\n");
    }
    for Neighbor { name, local, remote, options, channel } in neighbors {
        let family = if remote.0.contains(':') { "ipv6" } else { "ipv4" };
        writeln!(
            text,
            "protocol bgp {name} {{ local {} as {}; neighbor {} as {}; hold time 9; connect retry time 1; \
             connect delay time 1; error wait time 1, 2; {options} {family} {{ {channel} }}; }}",
            local.0, local.1, remote.0, remote.1
        )
        .unwrap();
    }
    text.push_str(more);
    text
}
