//! iptables(8) in its two variants, which keep their rules in different places of the kernel: both may be in force
//! at once, and each sees only its own.

use std::{fmt, fs, io};

use super::program::{self, LIMIT};
use crate::net::Family;

/// Where rules are kept.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Variant {
    /// In nftables
    Nft,
    /// In the kernel's older tables
    Legacy,
}

/// The table `filter` of one family in one variant.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Where it is kept
    pub variant: Variant,
    /// Whose packets it sees
    pub family: Family,
}

impl Place {
    /// All there are.
    pub const ALL: [Self; 4] = [
        Self { variant: Variant::Nft, family: Family::Ipv4 },
        Self { variant: Variant::Nft, family: Family::Ipv6 },
        Self { variant: Variant::Legacy, family: Family::Ipv4 },
        Self { variant: Variant::Legacy, family: Family::Ipv6 },
    ];

    const fn tool(self) -> &'static str {
        match self.family {
            Family::Ipv4 => "iptables",
            Family::Ipv6 => "ip6tables",
        }
    }

    const fn suffix(self) -> &'static str {
        match self.variant {
            Variant::Nft => "-nft",
            Variant::Legacy => "-legacy",
        }
    }
}

/// As it is typed: `iptables-legacy`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.tool(), self.suffix())
    }
}

/// Why rules could not be read or written. Nothing was changed, but after a timeout nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program is not installed.
    #[error("{0} is not installed; install the package iptables")]
    Missing(Place),
    /// It, or the kernel, refused; holds the first line that it wrote.
    #[error("{0}: {1}")]
    Refused(Place, String),
    /// No end within ten seconds; it was killed.
    #[error("{0} did not end within {limit} s", limit = LIMIT.as_secs())]
    TimedOut(Place),
    /// It could not be started or fed.
    #[error("cannot run {0}")]
    Io(Place, #[source] io::Error),
}

/// Whether the older table is there, in the network namespace of the calling thread. To ask `iptables-legacy` would make it.
pub fn has_legacy_table(family: Family) -> bool {
    let file = match family {
        Family::Ipv4 => "ip_tables_names",
        Family::Ipv6 => "ip6_tables_names",
    };
    fs::read_to_string(format!("/proc/thread-self/net/{file}"))
        .is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

/// A chain of the table, as `iptables -S` shows it; `None`: there is none.
pub async fn list(place: Place, chain: &str) -> Result<Option<String>, IptablesError> {
    match run(place, "", &["-w", "5", "-S", chain], "").await {
        Ok(text) => Ok(Some(text)),
        Err(IptablesError::Refused(_, text)) if text.contains("No chain/target/match") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Carries out a script of iptables-restore(8) as one transaction, beside what else is there.
pub async fn change(place: Place, script: &str) -> Result<(), IptablesError> {
    run(place, "-restore", &["--noflush", "-w", "5"], script).await.map(drop)
}

/// Runs the program that is called after the variant, or the one without it where that is of this variant: distributions
/// with one variant only have it under that name alone.
async fn run(place: Place, what: &str, args: &[&str], input: &str) -> Result<String, IptablesError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => IptablesError::Missing(place),
        io::ErrorKind::TimedOut => IptablesError::TimedOut(place),
        _ => IptablesError::Io(place, error),
    };
    let output = match program::run(&format!("{place}{what}"), args, input).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let version = program::run(place.tool(), &["-V"], "").await.map_err(failed)?;
            // `iptables v1.8.9 (nf_tables)`; before 1.8 there was one variant and no word on it.
            let is_nft = String::from_utf8_lossy(&version.stdout).contains("nf_tables");
            if is_nft != (place.variant == Variant::Nft) {
                return Err(IptablesError::Missing(place));
            }
            program::run(&format!("{}{what}", place.tool()), args, input).await
        }
        result => result,
    }
    .map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(IptablesError::Refused(place, program::complaint(&output)))
}
