//! How the words that sections share are written: addresses, prefixes, AS numbers, durations.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::bgp::attrs::{Community, LargeCommunity};
use crate::config::ReadSecret;
use crate::config::diagnostic::Problem;
use crate::config::reader::{Place, Table, Value};
use crate::config::secret::{Secret, SecretError};
use crate::net::{Asn, Prefix, PrefixError};

/// A setting that is written as one text.
pub(super) trait Word: Sized {
    /// What the text must be, with an example: the end of "… is not …".
    const WANTED: &'static str;

    fn parse(text: &str) -> Option<Self>;

    /// What to say of a `text` that [`parse`](Self::parse) refuses; `found` is how it stands in the file.
    fn problem(_text: &str, found: String) -> Problem {
        Problem::Unfit { found, wanted: Self::WANTED.to_owned() }
    }
}

impl Word for IpAddr {
    const WANTED: &'static str = "an IP address such as \"192.0.2.11\"";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Word for Ipv4Addr {
    const WANTED: &'static str = "four numbers such as \"192.0.2.11\", not all zero";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|id| *id != Self::UNSPECIFIED)
    }
}

impl Word for SocketAddr {
    const WANTED: &'static str = "an address with a port from 1 to 65535, such as \"0.0.0.0:179\" or \"[::]:179\"";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|addr: &Self| addr.port() != 0)
    }
}

impl Word for Prefix {
    const WANTED: &'static str = "a prefix such as \"10.244.0.0/16\"";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn problem(text: &str, found: String) -> Problem {
        match text.parse::<Self>() {
            Err(PrefixError::HostBits(_, right)) => Problem::HostBits { found, right },
            _ => Problem::Unfit { found, wanted: Self::WANTED.to_owned() },
        }
    }
}

impl Word for Community {
    const WANTED: &'static str = "a community such as \"64512:7\" or \"no-export\"";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Word for LargeCommunity {
    const WANTED: &'static str = "a large community of three numbers such as \"64512:1:7\"";
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':').map(|part| part.parse().ok());
        let community = Self([parts.next()??, parts.next()??, parts.next()??]);
        parts.next().is_none().then_some(community)
    }
}

impl Word for PathBuf {
    const WANTED: &'static str = "an absolute path, such as \"/var/lib/wayleave\"";
    fn parse(text: &str) -> Option<Self> {
        Some(Self::from(text)).filter(|path| path.is_absolute() && !text.contains(char::is_control))
    }
}

/// What a node, peer or the like is called. It stands in tables, metrics and on command lines.
pub(super) struct Name(pub String);

impl Word for Name {
    const WANTED: &'static str = "a name without spaces, such as \"tor-a\"";
    fn parse(text: &str) -> Option<Self> {
        let plain = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        plain.then(|| Self(text.to_owned()))
    }
}

/// An AS number that may stand in a path (RFC 7607, RFC 7300).
pub(super) fn asn(value: &Value<'_>) -> Option<Asn> {
    let Some(number) = value.as_number().and_then(|number| u32::try_from(number).ok()) else {
        return value.unfit("an AS number from 1 to 4294967294, without quotes");
    };
    let asn = Asn(number);
    if asn.is_reserved() {
        value.report(Problem::ReservedAs(asn));
        return None;
    }
    Some(asn)
}

/// A hold time that fits an OPEN message: zero, or 3 to 65535 whole seconds (RFC 4271 §4.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HoldTime(u16);

impl HoldTime {
    /// Nine seconds: three keepalives may be lost before a host counts as dead.
    pub const DEFAULT: Self = Self(9);

    /// `None` for what an OPEN can't carry.
    pub fn new(duration: Duration) -> Option<Self> {
        whole_seconds(duration).filter(|seconds| !matches!(seconds, 1 | 2)).map(Self)
    }

    /// As it stands in an OPEN message; 0 = never.
    pub const fn seconds(self) -> u16 {
        self.0
    }

    /// The same as a duration; zero = never.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

/// Nothing if it has a fraction or does not fit.
pub(super) fn whole_seconds(duration: Duration) -> Option<u16> {
    u16::try_from(duration.as_secs()).ok().filter(|_| duration.subsec_nanos() == 0)
}

/// `hold_time` of `[bgp]` and of a peer.
pub(super) fn hold_time(table: &Table<'_>) -> Option<HoldTime> {
    table.value("hold_time")?.duration("s", "\"0s\" (never) or \"3s\" to \"65535s\", whole seconds", HoldTime::new)
}

/// `connect_retry` of `[bgp]` and of a peer.
pub(super) fn connect_retry(table: &Table<'_>) -> Option<Duration> {
    const RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
    table.value("connect_retry")?.duration("s", "\"1s\" to \"60s\"", |d| RANGE.contains(&d).then_some(d))
}

/// `graceful_restart` of `[bgp]` and of a peer.
pub(super) fn graceful_restart(table: &Table<'_>) -> Option<Duration> {
    // Restart Time has twelve bits (RFC 4724 §3).
    let fits = |duration| whole_seconds(duration).filter(|seconds| *seconds <= 4095).map(|_| duration);
    table.value("graceful_restart")?.duration("s", "\"0s\" (off) to \"4095s\", whole seconds", fits)
}

/// `send_hold_time` of `[bgp]` and of a peer.
pub(super) fn send_hold_time(table: &Table<'_>) -> Option<Duration> {
    const RANGE: RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(86_400);
    let fits = |d: Duration| (d.is_zero() || RANGE.contains(&d)).then_some(d);
    table.value("send_hold_time")?.duration("s", "\"0s\" (never) or \"3s\" to \"24h\"", fits)
}

/// A set of communities, sorted, as [`Attrs`](crate::bgp::attrs::Attrs) keeps them.
pub(super) fn communities<T: Word + Ord>(table: &Table<'_>, key: &'static str) -> Option<Vec<T>> {
    let mut communities = without_places(table.words(key)?);
    communities.sort_unstable();
    communities.dedup();
    Some(communities)
}

/// `password_file` of a peer and of `[store]`.
pub(super) fn password(table: &Table<'_>, read_secret: &mut ReadSecret<'_>) -> Option<Secret> {
    let value = table.value("password_file")?;
    // Whoever mistakes the key writes the password itself here: what stands there gets into no log.
    let Some(path) = value.as_text().and_then(PathBuf::parse) else {
        let found = "what stands here".to_owned();
        value.report(Problem::Unfit { found, wanted: PathBuf::WANTED.to_owned() });
        return None;
    };
    match read_secret(&path).and_then(|content| Secret::new(&content)) {
        Ok(secret) => Some(secret),
        Err(error) => {
            let file = match error {
                SecretError::Unreadable(_) => "the file named here".to_owned(),
                _ => path.display().to_string(),
            };
            value.report(Problem::Secret { file, error });
            None
        }
    }
}

pub(super) fn without_places<T>(words: Vec<(T, Place<'_>)>) -> Vec<T> {
    words.into_iter().map(|(word, _)| word).collect()
}
