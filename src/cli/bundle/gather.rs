//! What goes into a bundle, and where it comes from.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::facts::{self, MOST};
use super::scrub::Secrets;
use crate::cli::client::{self, query_value};
use crate::config::{Config, Store};
use crate::daemon::load;

/// What is in it, for `--list`: name and meaning.
pub(super) const LIST: [(&str, &str); 12] = [
    ("MANIFEST", "what is in it, what is missing and why"),
    ("version.txt", "this program, kernel, distribution"),
    ("config.txt", "the configuration as it was understood, without passwords"),
    ("daemon/*.json", "status, peers, routes, lease, nodes, events, drain, traffic, as the daemon shows them"),
    ("daemon/metrics.txt", "what Prometheus gets"),
    ("explain/*.json", "why the peers and prefixes with problems are as they are"),
    ("state/*", "files of state_dir: lease, nodes, drain, sysctls, counts of traffic, events of the last runs"),
    ("kernel/*.json", "links, addresses, rules, nexthop objects and routes of ours"),
    ("kernel/routes.txt", "how many routes there are of each protocol"),
    ("kernel/nft.txt", "our tables of nftables"),
    ("kernel/sysctl.txt", "settings that a routed host depends on"),
    ("log.txt", "the last 2000 lines of the daemon's log, where it goes to journald"),
];

/// What the daemon is asked.
const DAEMON: [(&str, &str); 10] = [
    ("status", "/v1/status"),
    ("peers", "/v1/peers"),
    ("events", "/v1/events"),
    ("lease", "/v1/lease"),
    ("lease-all", "/v1/lease/all"),
    ("lease-history", "/v1/lease/history"),
    ("nodes", "/v1/nodes"),
    ("drain", "/v1/drain"),
    ("traffic", "/v1/traffic"),
    ("routes", "/v1/routes"),
];
/// Files of `state_dir`. There is no list of what else may be there.
const STATE: [&str; 8] = [
    "events.1.jsonl",
    "events.jsonl",
    "lease.json",
    "nodes.json",
    "drain.json",
    "sysctl.json",
    "store.json",
    "traffic.json",
];
/// Peers and prefixes that are explained.
const EXPLAINED: usize = 20;

/// A text, perhaps not all of it.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub text: String,
    /// The rest was left out
    pub cut: bool,
}

impl Content {
    /// As far as it is kept. Of a list in JSON the last whole element is the end.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let kept = bytes.get(..MOST).unwrap_or(bytes);
        let (mut text, cut) = (String::from_utf8_lossy(kept).into_owned(), bytes.len() > MOST);
        if cut
            && text.starts_with('[')
            && let Some(end) = text.rfind("},")
        {
            text.truncate(end);
            text.push_str("}]");
        }
        Self { text, cut }
    }

    pub(super) const fn remark(&self) -> &'static str {
        if self.cut { ", cut off" } else { "" }
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self { text, cut: false }
    }
}

/// A file of the bundle, or why it isn't there.
pub(super) struct Part {
    pub name: String,
    pub content: Result<Content, String>,
}

/// All of it.
pub(super) struct Gathered {
    pub node: String,
    pub parts: Vec<Part>,
}

impl Gathered {
    /// The files, by name.
    pub(super) fn entries(&self) -> Vec<(String, String)> {
        let mut manifest =
            String::from("A bundle of wayleave. No passwords, keys or contents of password files are in it.\n\n");
        for Part { name, content } in &self.parts {
            // Writing to a string can't fail.
            let _ = match content {
                Ok(content) => writeln!(manifest, "{name}: {} bytes{}", content.text.len(), content.remark()),
                Err(why) => writeln!(manifest, "{name}: MISSING: {why}"),
            };
        }
        let there = |part: &Part| Some((part.name.clone(), part.content.as_ref().ok()?.text.clone()));
        std::iter::once(("MANIFEST".to_owned(), manifest)).chain(self.parts.iter().filter_map(there)).collect()
    }
}

/// Gathers.
pub(super) struct Gatherer {
    path: PathBuf,
    config: Result<Config, Vec<String>>,
    socket: PathBuf,
    secrets: Secrets,
    /// Why the daemon isn't asked any more
    dead: Option<String>,
    parts: Vec<Part>,
}

impl Gatherer {
    pub(super) fn new(path: &Path, socket: Option<&Path>) -> Self {
        let config = load::load(path);
        let own = config
            .as_ref()
            .map_or_else(|_| PathBuf::from("/run/wayleave/wayleave.sock"), |config| config.control.socket.clone());
        let mut secrets = Secrets::default();
        if let Ok(config) = &config {
            learn(&mut secrets, config);
        }
        let socket = socket.map_or(own, Path::to_owned);
        Self { path: path.to_owned(), config, socket, secrets, dead: None, parts: Vec::new() }
    }

    fn add(&mut self, name: impl Into<String>, content: Result<Content, String>) {
        let content = content.map(|content| Content { text: self.secrets.scrub(&content.text), ..content });
        let content = content.map_err(|why| self.secrets.scrub(&why));
        self.parts.push(Part { name: name.into(), content });
    }

    /// Everything.
    pub(super) async fn all(mut self) -> Gathered {
        self.version().await;
        let config = self.configuration();
        self.add("config.txt", config);
        let status = self.daemon().await;
        self.metrics().await;
        self.explanations(status.as_ref()).await;
        let state_dir = self.config.as_ref().map_or_else(|_| "/var/lib/wayleave".into(), |c| c.state_dir.clone());
        for name in STATE {
            self.add(format!("state/{name}"), facts::file(&state_dir.join(name)));
        }
        self.kernel().await;
        let log = ["journalctl", "-u", "wayleave", "-n", "2000", "--no-pager", "-o", "short-iso-precise"];
        let log = facts::program(&log).await;
        self.add("log.txt", log);
        let named = status.as_ref().and_then(|status| status["node"].as_str().map(str::to_owned));
        let configured = || self.config.as_ref().ok().map(|config| config.node.name.clone());
        let node = named.or_else(configured).filter(|name| !name.is_empty()).unwrap_or_else(|| "node".to_owned());
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' };
        Gathered { node: node.chars().map(plain).collect(), parts: self.parts }
    }

    async fn version(&mut self) {
        let mut text = format!("wayleave {}\n", env!("CARGO_PKG_VERSION"));
        for words in [&["uname", "-srvmo"][..], &["ip", "-V"], &["nft", "--version"], &["date", "-Is"]] {
            let said = facts::program(words).await;
            text.push_str(&said.map_or_else(|why| format!("{}: {why}\n", words.join(" ")), |said| said.text));
        }
        text.push_str(&facts::file(Path::new("/etc/os-release")).map_or_else(|why| why, |said| said.text));
        self.add("version.txt", Ok(text.into()));
    }

    /// What was understood of the file, never its text: comments may hold anything.
    fn configuration(&self) -> Result<Content, String> {
        match &self.config {
            Ok(config) => Ok(format!("# {}\n{config:#?}\n", self.path.display()).into()),
            Err(errors) => {
                let places: Vec<String> = errors.iter().map(|error| place(error, &self.path)).collect();
                let check = format!("see `wayleave check --config {}`", self.path.display());
                Err(format!("it has errors (values are left out here, {check}): {}", places.join("; ")))
            }
        }
    }

    /// Asks the daemon; once it is out of reach or too slow, no more.
    async fn ask(&mut self, path: &str) -> Result<Content, String> {
        if let Some(dead) = &self.dead {
            return Err(dead.clone());
        }
        match client::part(&self.socket, path, MOST + 1).await {
            Ok(bytes) => Ok(Content::new(&bytes)),
            Err(client::Silence::Refused(error)) => Err(error),
            Err(client::Silence::Dead(error)) => {
                self.dead = Some(error.clone());
                Err(error)
            }
        }
    }

    /// What it shows; the status, if it answers.
    async fn daemon(&mut self) -> Option<Value> {
        let mut status = None;
        for (name, path) in DAEMON {
            let answer = self.ask(path).await;
            if name == "status" {
                status = answer.as_ref().ok().and_then(|answer| serde_json::from_str(&answer.text).ok());
            }
            self.add(format!("daemon/{name}.json"), answer);
        }
        status
    }

    async fn metrics(&mut self) {
        let listen = match &self.config {
            Ok(config) => config.metrics.listen.ok_or("metrics.listen is off"),
            Err(_) => Err("where they are is not known, as the configuration has errors"),
        };
        let metrics = match listen {
            Ok(mut address) => {
                if address.ip().is_unspecified() {
                    address.set_ip(match address.ip() {
                        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                    });
                }
                client::metrics(address, MOST + 1).await.map(|bytes| Content::new(&bytes))
            }
            Err(why) => Err(why.to_owned()),
        };
        self.add("daemon/metrics.txt", metrics);
    }

    async fn explanations(&mut self, status: Option<&Value>) {
        let peers = self.parts.iter().find(|part| part.name == "daemon/peers.json");
        let peers = peers.and_then(|part| serde_json::from_str(&part.content.as_ref().ok()?.text).ok());
        for (name, path) in suspects(status, peers.as_ref()).into_iter().take(EXPLAINED) {
            let answer = self.ask(&path).await;
            self.add(format!("explain/{name}.json"), answer);
        }
    }

    async fn kernel(&mut self) {
        let protocol = self.config.as_ref().map_or(87, |config| config.kernel.protocol).to_string();
        let protocol = protocol.as_str();
        let all: [(&str, &[&str]); 8] = [
            ("links", &["ip", "-s", "-d", "-j", "link"]),
            ("addresses", &["ip", "-d", "-j", "address"]),
            ("rules-ipv4", &["ip", "-d", "-j", "rule"]),
            ("rules-ipv6", &["ip", "-6", "-d", "-j", "rule"]),
            ("routes-ipv4", &["ip", "-d", "-j", "route", "show", "table", "all", "proto", protocol]),
            ("routes-ipv6", &["ip", "-6", "-d", "-j", "route", "show", "table", "all", "proto", protocol]),
            ("nexthops", &["ip", "-d", "-j", "nexthop", "show", "proto", protocol]),
            ("neighbours", &["ip", "-s", "-j", "neighbour"]),
        ];
        for (name, words) in all {
            let said = facts::program(words).await;
            self.add(format!("kernel/{name}.json"), said);
        }
        let mut counts = String::new();
        for family in ["-4", "-6"] {
            let counted = facts::route_counts(family).await;
            counts.push_str(&counted.unwrap_or_else(|why| format!("ip {family}: {why}\n")));
        }
        self.add("kernel/routes.txt", Ok(counts.into()));
        let tables = [["inet", "wayleave"], ["inet", "wayleave_traffic"]];
        let mut shown = String::new();
        for [family, table] in tables {
            let said = facts::program(&["nft", "list", "table", family, table]).await;
            shown.push_str(&said.map_or_else(|why| format!("# table {family} {table}: {why}\n"), |said| said.text));
        }
        self.add("kernel/nft.txt", Ok(shown.into()));
        self.add("kernel/sysctl.txt", Ok(facts::settings().into()));
    }
}

/// All secrets of a configuration.
fn learn(secrets: &mut Secrets, config: &Config) {
    for peer in &config.bgp.peers {
        if let Some(password) = &peer.password {
            secrets.add(password.expose_text());
        }
    }
    if let Store::Etcd(etcd) = &config.store
        && let Some((_, password)) = &etcd.user
    {
        secrets.add(password.expose_text());
    }
}

/// `FILE:12:3: bgp.asn: "hunter2" is not …` → `line 12, bgp.asn`: the value may be anything.
fn place(error: &str, file: &Path) -> String {
    let file = file.display().to_string();
    let Some(rest) = error.strip_prefix(&file).and_then(|rest| rest.strip_prefix(':')) else {
        return "an error without a place".to_owned();
    };
    let mut parts = rest.split(": ");
    let line = parts.next().and_then(|at| at.split(':').next()).unwrap_or_default();
    if line.is_empty() || !line.bytes().all(|b| b.is_ascii_digit()) {
        return "it can't be read".to_owned();
    }
    let key = parts.next().filter(|key| key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-[]".contains(&b)));
    key.map_or_else(|| format!("line {line}"), |key| format!("line {line}, {key}"))
}

/// What there is to explain: name, and what the daemon is asked.
fn suspects(status: Option<&Value>, peers: Option<&Value>) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let missed = peers.map(list).unwrap_or_default().into_iter().filter(|peer| peer["state"] != "established");
    let missed = missed.filter_map(|peer| peer["name"].as_str().map(str::to_owned));
    let mut found: Vec<(String, String)> = missed
        .map(|name| {
            let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' };
            (format!("peer-{}", name.chars().map(plain).collect::<String>()), format!("peer={}", query_value(&name)))
        })
        .collect();
    if let Some(status) = status {
        let prefixes = [&status["fib"]["failures"], &status["fib"]["conflicts"]];
        let prefixes = prefixes.into_iter().flat_map(list).map(|one| one["prefix"].clone());
        let rivals = list(&status["rivals"]).into_iter().map(|one| one["subnet"].clone());
        let next_hops = list(&status["tunnel"]["affected"]).into_iter();
        for one in prefixes.chain(rivals).chain(next_hops) {
            let address = one.as_str().and_then(|text| text.split('/').next()?.parse::<IpAddr>().ok());
            if let Some(address) = address {
                found.push((address.to_string().replace(':', "_"), format!("address={address}")));
            }
        }
    }
    let mut unique: Vec<(String, String)> = Vec::new();
    for (name, query) in found {
        if !unique.iter().any(|(known, _)| *known == name) {
            unique.push((name, format!("/v1/explain?{query}")));
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_an_error_only_its_place_is_told() {
        let file = Path::new("/etc/wayleave/wayleave.toml");
        let cases = [
            (
                "/etc/wayleave/wayleave.toml:12:3: store.endpoints[0]: \"http://u:pw@h\" is not a URL",
                "line 12, store.endpoints[0]",
            ),
            ("/etc/wayleave/wayleave.toml:7:1: not valid TOML: hunter2", "line 7"),
            ("/etc/wayleave/wayleave.toml: can't be read: permission denied", "it can't be read"),
            ("password: hunter2", "an error without a place"),
        ];
        for (error, wanted) in cases {
            assert_eq!(place(error, file), wanted, "{error}");
        }
    }

    #[test]
    fn a_list_that_is_cut_is_a_list_still() {
        let long = format!("[{}]", vec![r#"{"dst":"10.0.0.0/8"}"#; 500_000].join(",\n"));
        let content = Content::new(long.as_bytes());
        let list: Vec<Value> = serde_json::from_str(&content.text).unwrap();
        assert!(content.cut && list.len() > 300_000, "{}", list.len());
        assert!(!Content::new(b"[1]").cut);
    }

    #[test]
    fn what_has_problems_is_explained() {
        let status = json!({
            "fib": {"failures": [{"prefix": "10.244.1.0/24"}], "conflicts": [{"prefix": "10.244.1.0/24"}, {"prefix": "fd44:1::/64"}]},
            "rivals": [{"subnet": "10.244.7.0/24"}],
            "tunnel": {"affected": ["192.0.2.9"]},
        });
        let peers = json!([{"name": "tor-a", "state": "active"}, {"name": "tor-b", "state": "established"}]);
        let asked: Vec<String> = suspects(Some(&status), Some(&peers)).into_iter().map(|(_, path)| path).collect();
        let wanted =
            ["peer=tor-a", "address=10.244.1.0", "address=fd44:1::", "address=10.244.7.0", "address=192.0.2.9"];
        assert_eq!(asked, wanted.map(|query| format!("/v1/explain?{query}")));
    }
}
