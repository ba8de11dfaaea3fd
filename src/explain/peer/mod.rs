//! Why a session is not established, or what it carries.

mod established;
mod failure;
mod notification;
mod silence;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

pub use self::silence::Drops;
use super::kernel::{Answer, Devices, Neighbour};
use super::words::{age, list, times};
use super::{Fact, Story};
use crate::bgp::message::{Capability, Notification, Open};
use crate::bgp::session::State;
use crate::net::{Asn, Family, Prefix};

/// Something that happened, and how long ago.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Past<T> {
    /// What
    pub what: T,
    /// How long ago
    pub ago: Duration,
}

/// Why a dial came to nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DialError {
    /// Our address is on no device
    NoSource,
    /// The host answered that nobody listens
    Refused,
    /// No route, or somebody on the way says so
    Unreachable,
    /// Nothing came back
    Silence,
    /// An option could not be set
    Option,
    /// Anything else
    Other,
}

impl DialError {
    /// Word of the JSON contract.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoSource => "no-source",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Silence => "timed-out",
            Self::Option => "option",
            Self::Other => "other",
        }
    }
}

/// What is configured.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Our AS
    pub local_asn: Asn,
    /// Our BGP identifier
    pub router_id: Ipv4Addr,
    /// Our address, if it is given
    pub local_address: Option<IpAddr>,
    /// The AS that the peer must have
    pub asn: Asn,
    /// The port that we dial
    pub port: u16,
    /// We never dial
    pub passive: bool,
    /// Pause between dials
    pub connect_retry: Duration,
    /// Families that we offer
    pub families: Vec<Family>,
    /// Hold time that we offer, in seconds
    pub hold_time: u16,
    /// Most prefixes that it may send
    pub max_prefixes: Option<u32>,
    /// A TCP-MD5 password is set
    pub password: bool,
    /// Hops that it may be away (GTSM)
    pub ttl_security: Option<u8>,
    /// TTL of what we send
    pub multihop: Option<u8>,
    /// Import policy
    pub import: String,
    /// Export policy
    pub export: String,
}

impl Wanted {
    /// The peer is of another AS.
    pub fn external(&self) -> bool {
        self.asn != self.local_asn
    }
}

/// How the peer is reached.
#[derive(Clone, Debug)]
pub struct Reach {
    /// What the kernel does with our packets to it
    pub answer: Answer,
    /// The neighbour they go to, or that it is itself
    pub neighbour: Option<Neighbour>,
    /// All devices
    pub devices: Devices,
}

/// What is agreed on.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// Families
    pub families: Vec<String>,
    /// Hold time in seconds; 0: none
    pub hold_time: u16,
}

/// Its BFD session.
#[derive(Clone, Debug)]
pub struct BfdFound {
    /// State of our end
    pub state: String,
    /// It is up
    pub up: bool,
    /// What the peer said last of its own
    pub remote_state: String,
    /// It is heard
    pub heard: bool,
    /// Why packets can't be sent or received
    pub error: Option<String>,
    /// The last failure, and how long ago
    pub failure: Option<Past<String>>,
}

/// Routes both ways.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Prefixes received
    pub received: usize,
    /// Of them accepted
    pub accepted: usize,
    /// Of them rejected, by reason
    pub rejected: BTreeMap<String, usize>,
    /// Kept while it restarts
    pub stale: usize,
    /// Prefixes sent to it
    pub advertised: usize,
}

/// All that was found out.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its name
    pub name: String,
    /// Its address
    pub address: IpAddr,
    /// The range that admitted it
    pub range: Option<Prefix>,
    /// It is a node of the store
    pub mesh: bool,
    /// What is configured
    pub wanted: Wanted,
    /// State of the session
    pub state: State,
    /// For how long
    pub in_state: Duration,
    /// The node is drained or draining: since when, by whom
    pub drained: Option<String>,
    /// We keep away from it for so long yet
    pub barred: Option<Duration>,
    /// The last NOTIFICATION that we sent
    pub sent: Option<Past<Notification>>,
    /// The last that it sent
    pub received: Option<Past<Notification>>,
    /// The last dial that came to nothing
    pub dial: Option<Past<(DialError, String)>>,
    /// TCP ended without a NOTIFICATION, in this state
    pub closed: Option<Past<State>>,
    /// Its last OPEN
    pub open: Option<Past<Open>>,
    /// Its last message that could not be read
    pub malformed: Option<Past<String>>,
    /// What the kernel has dropped since the session is down
    pub drops: Drops,
    /// Other peers that the drops may be about
    pub suspects: Vec<String>,
    /// How it is reached
    pub reach: Reach,
    /// What is agreed on, while established
    pub agreed: Option<Agreed>,
    /// Its BFD session
    pub bfd: Option<BfdFound>,
    /// Routes both ways
    pub routes: Routes,
    /// Sessions established since start
    pub established: u64,
    /// Sessions lost since start
    pub flaps: u64,
}

/// What is told of the cause.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Cause {
    word: &'static str,
    text: String,
    advice: Vec<String>,
}

impl Cause {
    fn new<const N: usize>(word: &'static str, text: impl Into<String>, advice: [String; N]) -> Self {
        Self { word, text: text.into(), advice: advice.into() }
    }
}

/// Tells it.
pub fn story(found: &Found) -> Story {
    let mut facts = vec![found.identity(), found.transport()];
    facts.extend(found.reached());
    facts.extend(found.history());
    facts.extend(found.opened());
    facts.extend(found.bfd_words());
    facts.extend(found.drops_words());
    let since = age(found.in_state);
    if found.state == State::Established {
        let (more, cause) = found.carries();
        facts.extend(more);
        let (name, agreed) = (&found.name, found.routes_words());
        return match cause {
            None => Story {
                cause: "established",
                verdict: format!("{name} is established for {since}: {agreed}."),
                ok: true,
                facts,
                advice: Vec::new(),
            },
            Some(Cause { word, text, advice }) => Story {
                cause: word,
                verdict: format!("{name} is established for {since}, but {text}."),
                ok: false,
                facts,
                advice,
            },
        };
    }
    let Cause { word, text, advice } = found.why_down();
    let verdict = format!("{} is not established ({} for {since}): {text}.", found.name, found.state);
    facts.extend(found.kept());
    Story { cause: word, verdict, ok: false, facts, advice }
}

impl Found {
    fn identity(&self) -> Fact {
        let Wanted { local_asn, asn, .. } = &self.wanted;
        let kind = if self.wanted.external() { "eBGP" } else { "iBGP" };
        let who = match (&self.range, self.mesh) {
            (Some(range), _) => format!(", admitted by the range {range}"),
            (None, true) => ", a node of the store".to_owned(),
            (None, false) => String::new(),
        };
        let sessions = match (self.established, self.flaps) {
            (0, _) => "never established since the daemon started".to_owned(),
            (n, lost) => {
                format!("established {} and lost {} since the daemon started", times(n), times(lost))
            }
        };
        Fact::plain("peer", format!("{}, AS {asn}, {kind} with our AS {local_asn}{who}; {sessions}", self.address))
    }

    fn transport(&self) -> Fact {
        let wanted = &self.wanted;
        let dials = if wanted.passive {
            "we never dial it (passive): it must call us".to_owned()
        } else {
            format!(
                "we dial port {} every {} while it is down, and it may dial us",
                wanted.port,
                age(wanted.connect_retry)
            )
        };
        let password = if wanted.password { "TCP-MD5 password set" } else { "no password" };
        let ttl = match (wanted.ttl_security, wanted.multihop) {
            (Some(hops), _) => {
                format!(
                    "TTL security: we send with TTL 255 and drop what comes with less than {}",
                    256 - u16::from(hops.max(1))
                )
            }
            (None, Some(hops)) => format!("multihop: we send with TTL {hops}"),
            (None, None) if wanted.external() => "we send with TTL 1, so it must be on the link".to_owned(),
            (None, None) => "usual TTL".to_owned(),
        };
        Fact::plain("transport", format!("{dials}; {password}; {ttl}"))
    }

    fn reached(&self) -> Vec<Fact> {
        let Reach { answer, neighbour, devices } = &self.reach;
        let mut facts = Vec::new();
        match self.link_down() {
            Some((device, text)) if self.state != State::Established => {
                facts.push(Fact::problem("reach", format!("{device}, whose network it is on, {text}")));
            }
            _ => facts.push(Fact {
                topic: "reach",
                text: format!("{} goes {}", self.address, answer.way(devices)),
                problem: !matches!(answer.fate, super::kernel::Fate::Sent),
            }),
        }
        facts.extend(neighbour.as_ref().map(|neighbour| Fact {
            topic: "neighbour",
            text: neighbour.words(devices),
            problem: neighbour.is_silent(),
        }));
        facts
    }

    /// The device whose network it is on, if that is down.
    fn link_down(&self) -> Option<(&str, &'static str)> {
        let (index, _) = self.reach.devices.on_link(self.address)?;
        let device = self.reach.devices.0.get(&index)?;
        match (device.up, device.carrier) {
            (false, _) => Some((&device.name, "is down")),
            (true, false) => Some((&device.name, "has no carrier")),
            (true, true) => None,
        }
    }

    /// What happened, the newest first.
    fn history(&self) -> Vec<Fact> {
        let mut events: Vec<(Duration, String)> = Vec::new();
        let said =
            |who: &str, past: &Past<Notification>| (past.ago, format!("{who} {}", notification::code(&past.what)));
        events.extend(self.received.as_ref().map(|past| said("it sent the NOTIFICATION", past)));
        events.extend(self.sent.as_ref().map(|past| said("we sent the NOTIFICATION", past)));
        events.extend(self.dial.as_ref().map(|past| (past.ago, format!("our last failed dial: {}", past.what.1))));
        events.extend(
            self.closed
                .as_ref()
                .map(|past| (past.ago, format!("TCP ended without a NOTIFICATION, in state {}", past.what))),
        );
        events.extend(
            self.malformed.as_ref().map(|past| (past.ago, format!("a message of it could not be read: {}", past.what))),
        );
        events.sort_by_key(|(ago, _)| *ago);
        events.into_iter().map(|(ago, text)| Fact::plain("history", format!("{} ago: {text}", age(ago)))).collect()
    }

    /// Its OPEN beside what is configured, and what is in force.
    fn opened(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        if let Some(Past { what: open, ago }) = &self.open {
            let offered = list(offered(open));
            let capabilities = list(open.capabilities.iter().filter(|c| !matches!(c, Capability::Multiprotocol(_))));
            let text = format!(
                "its OPEN, {} ago: AS {}, router id {}, hold time {} s, families {offered}; {capabilities}",
                age(*ago),
                open.asn,
                open.router_id,
                open.hold_time,
            );
            facts.push(Fact::plain("open", text));
        }
        if let Some(agreed) = self.agreed.as_ref().filter(|_| self.state == State::Established) {
            let hold = match agreed.hold_time {
                0 => "no hold time".to_owned(),
                seconds => format!("hold time {seconds} s"),
            };
            let missing = list(self.wanted.families.iter().filter(|own| !agreed.families.contains(&own.to_string())));
            let missing = match missing.as_str() {
                "" => String::new(),
                missing => format!("; without {missing}, which we offer and it does not"),
            };
            facts.push(Fact::plain("agreed", format!("families {}, {hold}{missing}", list(&agreed.families))));
        }
        facts
    }

    fn bfd_words(&self) -> Vec<Fact> {
        let Some(bfd) = &self.bfd else { return Vec::new() };
        let failure =
            bfd.failure.as_ref().map(|Past { what, ago }| format!("the last failure was {} ago: {what}", age(*ago)));
        let error = bfd.error.as_ref().map(|error| format!("packets can't be sent or received: {error}"));
        let state = format!("{}, the peer's end is {}", bfd.state, bfd.remote_state);
        let text = [Some(state), failure, error].into_iter().flatten().collect::<Vec<_>>().join("; ");
        vec![Fact { topic: "bfd", text, problem: !bfd.up }]
    }

    fn kept(&self) -> Option<Fact> {
        let stale = self.routes.stale;
        (stale > 0)
            .then(|| Fact::plain("routes", format!("{stale} routes of it are kept meanwhile (graceful restart)")))
    }
}

/// Families that an OPEN offers, the silent one included (RFC 4760 §8).
fn offered(open: &Open) -> Vec<Family> {
    let named: Vec<Family> = open
        .capabilities
        .iter()
        .filter_map(|capability| match capability {
            Capability::Multiprotocol(family) => Some(*family),
            _ => None,
        })
        .collect();
    let silent = !open
        .capabilities
        .iter()
        .any(|c| matches!(c, Capability::Multiprotocol(_) | Capability::Unknown { code: 1, .. }));
    if silent { vec![Family::Ipv4] } else { named }
}
