//! `wayleave events`: what happened, and why.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::net::Prefix;

/// What an event is about: few and stable words.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A BGP session came up, was lost, or can't be had
    Session,
    /// The BFD session of a peer
    Bfd,
    /// What the kernel is told to do with packets to a prefix
    Route,
    /// Subnets: of this node, and of others in the store
    Lease,
    /// Nodes in the store, and who peers with whom
    Node,
    /// Whether the store answers
    Store,
    /// Something of ours was put right after somebody removed or changed it
    Repair,
    /// Somebody keeps removing or changing something of ours
    Duel,
    /// The firewall table
    Firewall,
    /// The IP-in-IP device
    Tunnel,
    /// Links of this host
    Link,
    /// The configuration was read again
    Config,
    /// The node leaves the network or comes back
    Drain,
    /// The daemon itself
    Daemon,
    /// A peer sends as many prefixes as it may
    Limit,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Session,
        Self::Bfd,
        Self::Route,
        Self::Lease,
        Self::Node,
        Self::Store,
        Self::Repair,
        Self::Duel,
        Self::Firewall,
        Self::Tunnel,
        Self::Link,
        Self::Config,
        Self::Drain,
        Self::Daemon,
        Self::Limit,
    ];

    /// As it is written, also as the `kind` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Bfd => "bfd",
            Self::Route => "route",
            Self::Lease => "lease",
            Self::Node => "node",
            Self::Store => "store",
            Self::Repair => "repair",
            Self::Duel => "duel",
            Self::Firewall => "firewall",
            Self::Tunnel => "tunnel",
            Self::Link => "link",
            Self::Config => "config",
            Self::Drain => "drain",
            Self::Daemon => "daemon",
            Self::Limit => "limit",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for EventKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.label() == text).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.label()).collect();
            format!("`{text}` is no kind of event; there are {}", known.join(", "))
        })
    }
}

/// Something that happened.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts all events of this node, also across restarts
    pub seq: u64,
    /// When: RFC 3339 in UTC with milliseconds, so that the order of the texts is that of the times
    pub time: String,
    /// What it is about
    pub kind: EventKind,
    /// Whom or what it is about: the name of a peer or node, a prefix, a device, a key
    pub subject: String,
    /// What happened, in words
    pub what: String,
    /// Why, as far as it is known
    pub cause: Option<String>,
}

impl Event {
    /// Whether somebody who asks about this wants to see it: it is the subject or is named in the words; an
    /// address is also meant by the prefixes that it lies in.
    pub fn concerns(&self, about: &str) -> bool {
        if self.subject == about {
            return true;
        }
        let names = |text: &str| {
            let plain = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()) == about;
            text.split_whitespace().any(plain)
        };
        let asked = about.parse::<Prefix>().ok().or_else(|| about.parse::<IpAddr>().ok().map(Prefix::host));
        let overlaps =
            asked.is_some_and(|asked| self.subject.parse::<Prefix>().is_ok_and(|prefix| prefix.overlaps(&asked)));
        overlaps || names(&self.what) || self.cause.as_deref().is_some_and(names)
    }
}

/// `wayleave events`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Events {
    /// The oldest first
    pub events: Vec<Event>,
    /// How many that were asked for may have been before these and are not kept any more
    pub forgotten: u64,
}

/// A line of events that are followed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventLine {
    /// One of them
    Event(Event),
    /// Some are not there
    Missed(Missed),
}

/// Events that are not there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Missed {
    /// How many
    pub missed: u64,
    /// Why
    pub why: String,
}

/// Which events are asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EventsQuery {
    /// Only those since (RFC 3339 in UTC)
    pub since: Option<String>,
    /// Only those behind this `seq`
    pub after: Option<u64>,
    /// Only of these kinds, separated by commas
    pub kind: Option<String>,
    /// Only those that concern this
    pub subject: Option<String>,
    /// At most so many, the newest
    pub limit: Option<usize>,
    /// And those to come, a line of JSON each
    #[serde(default)]
    pub follow: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_an_event_concerns() {
        let event = |subject: &str, what: &str, cause: &str| Event {
            seq: 1,
            time: "2026-07-14T01:12:45.123Z".to_owned(),
            kind: EventKind::Route,
            subject: subject.to_owned(),
            what: what.to_owned(),
            cause: Some(cause.to_owned()),
        };
        let route = event("10.244.1.0/24", "via 10.0.0.2 dev eth0, was via 10.0.0.1", "tor-a withdrew it");
        let cases = [
            ("the subject", "10.244.1.0/24", true),
            ("an address in it", "10.244.1.5", true),
            ("a prefix around it", "10.244.0.0/16", true),
            ("another prefix", "10.244.2.0/24", false),
            ("the peer that is the cause", "tor-a", true),
            ("a gateway, with a comma behind it", "10.0.0.2", true),
            ("the end of the text", "10.0.0.1", true),
            ("a part of a name is another name", "tor", false),
        ];
        for (why, about, wanted) in cases {
            assert_eq!(route.concerns(about), wanted, "{why}: {about}");
        }
        assert!(event("tor-a", "established with 10.0.0.1 (AS 65001)", "").concerns("10.0.0.1"));
        assert!(!event("tor-a", "lost", "").concerns("10.0.0.1"));
    }

    #[test]
    fn kinds_are_words() {
        for kind in EventKind::ALL {
            assert_eq!(kind.label().parse(), Ok(kind));
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
        assert!("sesion".parse::<EventKind>().unwrap_err().contains("session, bfd"));
    }
}
