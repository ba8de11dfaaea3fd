//! Configuration: TOML text → checked [`Config`]; the difference between two of them.
//!
//! [`parse`] opens no file: the text comes in, password files are read through a closure. A
//! [`Config`] cannot hold a bad value, so nobody behind it checks again. All that is wrong in a
//! text is found at once ([`Diagnostic`]), with the key as written and the line.
//!
//! One file per section, each with its types, defaults and reader; `config/wayleave.toml` says
//! what every key means. What stands in no file (host name, addresses, store) is the daemon's to
//! find.

mod bgp;
mod changes;
mod diagnostic;
mod firewall;
mod host;
mod network;
mod overlay;
mod peer;
mod policy;
mod reader;
mod secret;
mod store;
#[cfg(test)]
mod tests;
mod words;

use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use self::bgp::{Announce, Bgp};
pub use self::changes::{Changes, changes};
pub use self::diagnostic::{Diagnostic, Earlier, Problem};
pub use self::firewall::Firewall;
pub use self::host::{Control, Kernel, Log, LogFormat, Metrics, Node};
pub use self::network::Network;
pub use self::overlay::Overlay;
pub use self::peer::{Bfd, Export, Import, Peer, PeerAddress};
pub use self::policy::{Policy, PrefixMatch, Rule};
use self::reader::{File, Table, key_at};
pub use self::secret::{Secret, SecretError};
pub use self::store::{Etcd, Store};
pub use self::words::HoldTime;

/// Everything an operator can set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// `state_dir`: what must survive a restart; default `/var/lib/wayleave`
    pub state_dir: PathBuf,
    /// `[node]`
    pub node: Node,
    /// `[network]`
    pub network: Network,
    /// `[store]`
    pub store: Store,
    /// `[bgp]`
    pub bgp: Bgp,
    /// `[firewall]`
    pub firewall: Firewall,
    /// `[kernel]`
    pub kernel: Kernel,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[control]`
    pub control: Control,
    /// `[log]`
    pub log: Log,
}

/// How a password file is read: its content, or why not.
type ReadSecret<'a> = dyn FnMut(&Path) -> Result<String, SecretError> + 'a;

/// Reads a configuration, or says all that is wrong with it, in the order of the text.
///
/// `read_secret` gets the path of each password file and returns its content.
pub fn parse(
    text: &str,
    read_secret: &mut dyn FnMut(&Path) -> Result<String, SecretError>,
) -> Result<Config, Vec<Diagnostic>> {
    let file = File::new(text);
    let (entries, errors) = DeTable::parse_recoverable(text);
    let config = Table::root(&file, entries.get_ref(), |root| config(root, read_secret));
    let found = with_syntax(file, entries.get_ref(), &errors);
    match config {
        Some(config) if found.is_empty() => Ok(config),
        _ => Err(found),
    }
}

/// What it takes to clean up after a daemon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remains {
    /// `state_dir`
    pub state_dir: PathBuf,
    /// `kernel.protocol`
    pub protocol: u8,
    /// `control.socket`
    pub socket: PathBuf,
}

/// Reads what it takes to clean up, whatever else is wrong: an older program doesn't know every key, and nobody keeps
/// password files for that.
pub fn remains(text: &str) -> Result<Remains, Vec<Diagnostic>> {
    let file = File::new(text);
    let (entries, errors) = DeTable::parse_recoverable(text);
    let remains = Table::root(&file, entries.get_ref(), |root| {
        let state_dir = state_dir(root);
        let kernel = root.section("kernel", host::kernel);
        let control = root.section("control", host::control);
        Some(Remains { state_dir, protocol: kernel?.protocol, socket: control?.socket })
    });
    let mut found = with_syntax(file, entries.get_ref(), &errors);
    // Without a key: no TOML, and so nobody knows what was skipped.
    let minded = ["", "state_dir", "kernel", "kernel.protocol", "control", "control.socket"];
    found.retain(|diagnostic| minded.contains(&diagnostic.key.as_str()));
    match remains {
        Some(remains) if found.is_empty() => Ok(remains),
        _ => Err(found),
    }
}

fn state_dir(root: &Table<'_>) -> PathBuf {
    root.word("state_dir").unwrap_or_else(|| PathBuf::from("/var/lib/wayleave"))
}

fn config(root: &Table<'_>, read_secret: &mut ReadSecret<'_>) -> Option<Config> {
    // Every section is read before the first `?`, so that one bad section doesn't hide another.
    let state_dir = state_dir(root);
    let node = root.section("node", host::node);
    let store = root.section("store", |table| store::read(table, read_secret)).flatten();
    let network = root.section("network", |table| network::read(table, store.as_ref()));
    let around = bgp::Around { node: node.as_ref(), network: network.as_ref(), store: store.as_ref() };
    let bgp = root.section("bgp", |table| bgp::read(table, &around, read_secret)).flatten();
    let firewall = root.section("firewall", firewall::read);
    let kernel = root.section("kernel", host::kernel);
    let metrics = root.section("metrics", host::metrics);
    let control = root.section("control", host::control);
    let log = root.section("log", host::log);
    Some(Config {
        state_dir,
        node: node?,
        network: network?,
        store: store?,
        bgp: bgp?,
        firewall: firewall?,
        kernel: kernel?,
        metrics: metrics?,
        control: control?,
        log: log?,
    })
}

/// Joins what the TOML parser and what we found.
///
/// The parser goes on behind an error. Behind a text without quotes nothing is lost; behind any
/// other we don't know what it skipped, so only what single values have wrong is worth saying.
fn with_syntax(file: File<'_>, entries: &DeTable<'_>, errors: &[toml::de::Error]) -> Vec<Diagnostic> {
    let mut syntax: Vec<Diagnostic> = errors.iter().map(|error| syntax_error(&file, entries, error)).collect();
    // One error often draws others behind itself.
    syntax.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
    syntax.dedup_by_key(|diagnostic| diagnostic.line);
    let whole = syntax.iter().all(|diagnostic| matches!(diagnostic.problem, Problem::Unquoted(_)));
    let mut found = file.into_found();
    found.retain(|ours| {
        // A value that the parser had to guess is reported once.
        let guessed = ours.problem.is_local() && syntax.iter().any(|theirs| theirs.line == ours.line);
        (whole || ours.problem.is_local()) && !guessed
    });
    found.extend(syntax);
    found.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
    found
}

fn syntax_error(file: &File<'_>, entries: &DeTable<'_>, error: &toml::de::Error) -> Diagnostic {
    let offset = error.span().map_or(0, |span| span.start);
    let (offset, key, problem) = match file.unquoted(offset) {
        Some((start, word)) => {
            (start, key_at(file, entries, start).unwrap_or_default(), Problem::Unquoted(word.to_owned()))
        }
        None => (offset, String::new(), Problem::Syntax(error.message().to_owned())),
    };
    let (line, column) = file.position(offset);
    Diagnostic { line, column, key, problem }
}
