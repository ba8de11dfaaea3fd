//! What is wrong in a configuration file, where, and what would be right.
//!
//! Texts are complete after the key: `bgp.hold_time: "2s" is out of range; write …`. Values are
//! shown as they stand in the file, quotes and all.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::config::SecretError;
use crate::net::{Asn, Prefix};

/// One thing that is wrong in the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnostic {
    /// Line, from 1
    pub line: usize,
    /// Column in characters, from 1
    pub column: usize,
    /// The key as the user wrote it, such as `bgp.peers[1].hold_time`; empty where the text is
    /// no TOML and has no keys
    pub key: String,
    /// What is wrong and what would be right
    pub problem: Problem,
}

impl Diagnostic {
    /// As a compiler says it: `wayleave.toml:12:3: bgp.asn: missing; …`.
    pub fn render(&self, file: &str) -> String {
        let Self { line, column, key, problem } = self;
        let colon = if key.is_empty() { "" } else { ": " };
        format!("{file}:{line}:{column}: {key}{colon}{problem}")
    }
}

/// Another value of the file that a problem refers to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Earlier {
    /// Its key
    pub key: String,
    /// Its line, from 1
    pub line: usize,
}

impl std::fmt::Display for Earlier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (line {})", self.key, self.line)
    }
}

/// What is wrong and what would be right.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Problem {
    /// The text is no TOML; the parser's own words
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// A text stands there without quotes
    #[error("{0} needs quotes; write \"{0}\"")]
    Unquoted(String),
    /// Nothing is called so here
    #[error("no such key; {}known here: {}", meant(.0.as_deref()), .1.join(", "))]
    UnknownKey(Option<&'static str>, Vec<&'static str>),
    /// A key that has no default is not there
    #[error("missing; write {0}")]
    Missing(&'static str),
    /// Another kind of value is wanted
    #[error("{found} is not {wanted}")]
    Unfit {
        /// The value as written
        found: String,
        /// What it must be
        wanted: String,
    },
    /// The right kind of value, but too small or too large
    #[error("{found} is out of range; write {wanted}")]
    OutOfRange {
        /// The value as written
        found: String,
        /// The range
        wanted: String,
    },
    /// A duration without a unit
    #[error("{found} has no unit; write {right}")]
    NoUnit {
        /// The value as written
        found: String,
        /// With the most likely unit, or the range if that would be outside it
        right: String,
    },
    /// Not one of the words that have a meaning here
    #[error("{found} is none of {}{}", quoted(.words), meant_after(.found, .words))]
    NotOneOf {
        /// The value as written
        found: String,
        /// The words
        words: Vec<&'static str>,
    },
    /// A prefix with bits beyond its length
    #[error("{found} has host bits set; write \"{right}\"")]
    HostBits {
        /// The value as written
        found: String,
        /// The prefix it lies in
        right: Prefix,
    },
    /// An AS number that must not be used (RFC 7607, RFC 7300)
    #[error("AS {0} is reserved and never valid; write a number such as 64512 (64512 to 65534 are for private use)")]
    ReservedAs(Asn),
    /// Two prefixes of a list have addresses in common
    #[error("{found} overlaps {other} of {earlier}; keep one of them")]
    Overlap {
        /// The later prefix
        found: Prefix,
        /// The earlier one
        other: Prefix,
        /// Where the earlier one stands
        earlier: Earlier,
    },
    /// A subnet that no pool covers
    #[error("{found} lies in no pool of network.pools ({}); write a part of one, or add its pool", joined(.pools))]
    OutsidePools {
        /// The subnet
        found: Prefix,
        /// All pools
        pools: Vec<Prefix>,
    },
    /// A value that may stand only once stands twice
    #[error("{found} is taken by {earlier}; {rule}")]
    Repeated {
        /// The value
        found: String,
        /// Where it stands for the first time
        earlier: Earlier,
        /// What is wanted
        rule: &'static str,
    },
    /// A peer that is this node
    #[error("{0} is this node's own node.address; write the peer's")]
    OwnAddress(IpAddr),
    /// A prefix of peers that is to be dialled
    #[error("a prefix can't be dialled, its peers come to us; leave passive out or write true")]
    RangeIsPassive,
    /// GTSM and multihop set the same TTL to different values (RFC 5082 §3)
    #[error("contradicts ttl_security; keep one: ttl_security = 2 also admits a peer behind one router")]
    TtlAndMultihop,
    /// A route reflector's client in another AS (RFC 4456 §4)
    #[error("only an iBGP peer can be a client, and AS {peer} is not our AS {own}; leave it out or write false")]
    ClientOfOtherAs {
        /// The peer's AS
        peer: Asn,
        /// Ours
        own: Asn,
    },
    /// A policy that is used and not there
    #[error("{name:?} is none of {}; define it: [[bgp.policies.{}]]", quoted(.words), as_key(.name))]
    NoSuchPolicy {
        /// Its name
        name: String,
        /// Words with a meaning here and the policies that there are
        words: Vec<String>,
    },
    /// A policy is called like a built-in one
    #[error("\"pools\", \"subnets\", \"all\" and \"none\" are built in; give the policy another name")]
    PolicyNameTaken,
    /// A condition that nothing meets
    #[error("an empty list matches no route; leave the key out to match every route")]
    MatchesNothing,
    /// A rule that changes what it throws away
    #[error("a rejected route can't be changed; leave it out or write action = \"accept\"")]
    ChangesRejected,
    /// A mesh without a list of nodes
    #[error(
        "a mesh needs a store that lists the nodes; write mesh = false and the nodes as bgp.peers, or store.kind = \"etcd\""
    )]
    MeshNeedsStore,
    /// A reflector of nobody
    #[error(
        "reflects between the nodes of a store, which bgp.mesh = true finds; for a peer of this file write its route_reflector_client = true"
    )]
    ReflectorNeedsMesh,
    /// A key of etcd for the embedded store
    #[error("belongs to etcd; leave it out or write store.kind = \"etcd\"")]
    OnlyForEtcd,
    /// A file of TLS where nothing is encrypted
    #[error("is for https, and no endpoint of store.endpoints is; write https:// there or leave it out")]
    NoHttps,
    /// A length that leaves no subnet in a pool
    #[error("no subnet of length {length} fits pool {pool}; write {} = {} to {}", .pool.family(), .pool.len(), .most)]
    SubnetTooLarge {
        /// The length
        length: u8,
        /// The pool
        pool: Prefix,
        /// The longest that makes sense in its family
        most: u8,
    },
    /// A password file that can't be used
    #[error("{file} {error}")]
    Secret {
        /// The file
        file: String,
        /// What is wrong with it
        error: SecretError,
    },
}

impl Problem {
    /// Whether it can be said of one value alone, so that it stands also where other parts of
    /// the file could not be read.
    pub(super) fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Unfit { .. }
                | Self::OutOfRange { .. }
                | Self::NoUnit { .. }
                | Self::NotOneOf { .. }
                | Self::HostBits { .. }
                | Self::ReservedAs(_)
                | Self::MatchesNothing
                | Self::Secret { .. }
        )
    }
}

/// A name as it stands in a key: in quotes where TOML wants them.
pub(super) fn as_key(name: &str) -> Cow<'_, str> {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) { name.into() } else { format!("{name:?}").into() }
}

/// The candidate that the writer of `word` most likely meant: few letters differ.
pub(super) fn closest(word: &str, candidates: &[&'static str]) -> Option<&'static str> {
    let allowed = 1 + word.chars().count() / 4;
    candidates
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, one row of the matrix at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for ((y, above_left), above) in b.chars().zip(&row).zip(row.iter().skip(1)) {
            left = (above_left + usize::from(x != y)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

fn meant(word: Option<&str>) -> String {
    word.map(|word| format!("did you mean {word}? ")).unwrap_or_default()
}

fn meant_after(found: &str, words: &[&'static str]) -> String {
    closest(found.trim_matches(['"', '\'']), words)
        .map(|word| format!("; did you mean \"{word}\"?"))
        .unwrap_or_default()
}

/// `"a", "b"`
pub(super) fn quoted(words: &[impl AsRef<str>]) -> String {
    words.iter().map(|word| format!("{:?}", word.as_ref())).collect::<Vec<_>>().join(", ")
}

fn joined(prefixes: &[Prefix]) -> String {
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
