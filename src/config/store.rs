//! `[store]`: who hands out subnets and knows the other nodes.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::ReadSecret;
use crate::config::diagnostic::Problem;
use crate::config::reader::{Table, Value};
use crate::config::secret::Secret;
use crate::config::words::{Name, Word, password, whole_seconds};

/// `[store]`.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one per configuration")]
pub enum Store {
    /// None: subnets and peers stand in this file, state in a local one
    Embedded,
    /// etcd, in flannel's format
    Etcd(Etcd),
}

/// An etcd cluster and what we keep there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Etcd {
    /// Base URLs, at least one
    pub endpoints: Vec<String>,
    /// Key that all of ours begin with: begins with a slash, does not end in one
    pub prefix: String,
    /// How long a node counts as alive after it was last heard of: 10 s to 1 h, whole seconds
    pub ttl: Duration,
    /// Most time that a request takes: 1 s to 60 s, at most half of `ttl`
    pub timeout: Duration,
    /// CAs that members' certificates may be signed by, PEM; there if an endpoint is https
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key, PEM
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name and password of a user of etcd
    pub user: Option<(String, Secret)>,
    /// How long a node must be gone before its subnet may be taken where none is free; `None`: never
    pub reclaim_after: Option<Duration>,
}

#[derive(Clone, Copy)]
enum Kind {
    Embedded,
    Etcd,
}

/// Base URL of an etcd member.
struct Endpoint(String);

impl Word for Endpoint {
    const WANTED: &'static str = "the URL of an etcd member such as \"http://192.0.2.5:2379\"";
    fn parse(text: &str) -> Option<Self> {
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?.trim_end_matches('/');
        let plain = !host.is_empty() && !host.contains(['/', '?', '#', '@']) && !host.contains(char::is_whitespace);
        plain.then(|| Self(text.trim_end_matches('/').to_owned()))
    }

    /// A login must not get into a log.
    fn problem(text: &str, found: String) -> Problem {
        let found =
            if text.contains('@') { "a URL with a login (see username and password_file)".to_owned() } else { found };
        Problem::Unfit { found, wanted: Self::WANTED.to_owned() }
    }
}

/// A directory of keys.
struct KeyPrefix(String);

impl Word for KeyPrefix {
    const WANTED: &'static str = "a key that begins with / and ends in a name, such as \"/wayleave/network\"";
    fn parse(text: &str) -> Option<Self> {
        (text.starts_with('/') && !text.ends_with('/')).then(|| Self(text.to_owned()))
    }
}

pub(super) fn read(table: &Table<'_>, read_secret: &mut ReadSecret<'_>) -> Option<Store> {
    const KINDS: [(&str, Kind); 2] = [("embedded", Kind::Embedded), ("etcd", Kind::Etcd)];
    const OF_ETCD: [&str; 10] = [
        "endpoints",
        "prefix",
        "ttl",
        "timeout",
        "ca_file",
        "cert_file",
        "key_file",
        "username",
        "password_file",
        "reclaim_after",
    ];
    let kind = table.value("kind").map_or(Some(Kind::Embedded), |value| value.choice(&KINDS));
    // Whatever the kind, these keys are known.
    let of_etcd = OF_ETCD.map(|key| table.value(key));
    match kind? {
        Kind::Embedded => {
            for value in of_etcd.iter().flatten() {
                value.report(Problem::OnlyForEtcd);
            }
            Some(Store::Embedded)
        }
        Kind::Etcd => Some(Store::Etcd(etcd(table, read_secret))),
    }
}

/// What could not be read has a default: the section is refused anyway.
fn etcd(table: &Table<'_>, read_secret: &mut ReadSecret<'_>) -> Etcd {
    let endpoints = endpoints(table);
    let https = endpoints.as_ref().map(|urls| urls.iter().any(|url| url.starts_with("https://")));
    let ttl = table.value("ttl").map_or(Some(Duration::from_secs(30)), |value| ttl(&value));
    // Several tries must fit between two signs of life and the end of the first.
    let most = ttl.map_or(Duration::from_secs(60), |ttl| (ttl / 2).min(Duration::from_secs(60)));
    let timeout = table.value("timeout").map_or(Some(Duration::from_secs(5)), |value| {
        let wanted = format!("\"1s\" to \"{}s\", half of ttl at most and never more than a minute", most.as_secs());
        value.duration("s", &wanted, |d| (d >= Duration::from_secs(1) && d <= most).then_some(d))
    });
    Etcd {
        endpoints: endpoints.unwrap_or_default(),
        prefix: table.word("prefix").map_or_else(|| "/wayleave/network".to_owned(), |KeyPrefix(key)| key),
        ttl: ttl.unwrap_or_default(),
        timeout: timeout.unwrap_or_default(),
        ca_file: ca_file(table, https),
        identity: identity(table, https),
        user: user(table, read_secret),
        reclaim_after: table.value("reclaim_after").and_then(|value| reclaim_after(&value, ttl)),
    }
}

fn endpoints(table: &Table<'_>) -> Option<Vec<String>> {
    let wanted = "endpoints = [\"http://192.0.2.5:2379\"] with your etcd's addresses";
    let items = table.required("endpoints", wanted)?.items()?;
    if items.is_empty() {
        table.value("endpoints")?.report(Problem::Missing(wanted));
        return None;
    }
    let urls: Vec<String> = items.iter().filter_map(|item| item.word().map(|Endpoint(url)| url)).collect();
    (urls.len() == items.len()).then_some(urls)
}

fn ttl(value: &Value<'_>) -> Option<Duration> {
    let fits = |d| whole_seconds(d).filter(|seconds| (10..=3600).contains(seconds)).map(|_| d);
    value.duration("s", "\"10s\" to \"1h\", whole seconds", fits)
}

/// Sooner than `ttl` nobody knows that a node is gone.
fn reclaim_after(value: &Value<'_>, ttl: Option<Duration>) -> Option<Duration> {
    let least = ttl.unwrap_or_default();
    let wanted = format!("\"0s\" (never), or \"{}s\" (store.ttl) and more", least.as_secs());
    value.duration("h", &wanted, |d| (d.is_zero() || d >= least).then_some(d)).filter(|d| !d.is_zero())
}

fn ca_file(table: &Table<'_>, https: Option<bool>) -> Option<PathBuf> {
    const WANTED: &str = "ca_file = \"/etc/wayleave/etcd-ca.pem\" with the CA of your etcd, \
                          or \"/etc/ssl/certs/ca-certificates.crt\" for those that this host trusts";
    let value = table.value("ca_file");
    if value.is_none() && https == Some(true) {
        table.report("ca_file", Problem::Missing(WANTED));
    }
    file(&value?, https)
}

/// `https`: whether some endpoint is; `None` where that could not be read.
fn identity(table: &Table<'_>, https: Option<bool>) -> Option<(PathBuf, PathBuf)> {
    let files = both(
        table,
        ["cert_file", "key_file"],
        [
            "cert_file = \"/etc/wayleave/etcd.pem\": a key_file needs one",
            "key_file = \"/etc/wayleave/etcd-key.pem\": a cert_file needs one",
        ],
    );
    let [cert, key] = files.map(|value| value.and_then(|value| file(&value, https)));
    cert.zip(key)
}

fn user(table: &Table<'_>, read_secret: &mut ReadSecret<'_>) -> Option<(String, Secret)> {
    let [name, _] = both(
        table,
        ["username", "password_file"],
        [
            "username = \"wayleave\": a password_file needs one",
            "password_file = \"/etc/wayleave/etcd.password\": a username needs one",
        ],
    );
    let name = name.and_then(|value| value.word()).map(|Name(name)| name);
    name.zip(password(table, read_secret))
}

/// Two keys of which none can be without the other; `missing` says so of each.
fn both<'a>(table: &Table<'a>, keys: [&'static str; 2], missing: [&'static str; 2]) -> [Option<Value<'a>>; 2] {
    let values = keys.map(|key| table.value(key));
    if values.iter().flatten().count() == 1 {
        for ((key, value), missing) in keys.iter().zip(&values).zip(missing) {
            if value.is_none() {
                table.report(key, Problem::Missing(missing));
            }
        }
    }
    values
}

/// A file of TLS.
fn file(value: &Value<'_>, https: Option<bool>) -> Option<PathBuf> {
    if https == Some(false) {
        value.report(Problem::NoHttps);
    }
    value.word()
}
