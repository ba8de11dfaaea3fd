//! `[[bgp.peers]]`: the neighbours that stand in the file.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::ReadSecret;
use crate::config::diagnostic::{Problem, quoted};
use crate::config::host::is_unicast;
use crate::config::policy::Policy;
use crate::config::reader::{Distinct, Table, Value};
use crate::config::secret::Secret;
use crate::config::words::{
    HoldTime, Name, Word, asn, connect_retry, graceful_restart, hold_time, password, send_hold_time,
};
use crate::net::{Asn, Family, Prefix};

/// Most prefixes that a peer may send unless the file says otherwise.
pub(super) const MAX_PREFIXES: u32 = 10_000;

/// A BGP neighbour, or all neighbours of a prefix.
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// What it is called in tables and metrics; its address if not given
    pub name: String,
    /// Where it is
    pub address: PeerAddress,
    /// Its AS; the same as ours makes it an iBGP peer
    pub asn: Asn,
    /// TCP port to dial, 1 to 65535
    pub port: u16,
    /// Never dial; always true for a range
    pub passive: bool,
    /// Families to negotiate, at least one, IPv4 first
    pub families: Vec<Family>,
    /// Silence after which it counts as dead
    pub hold_time: HoldTime,
    /// Time in which nothing gets through to it after which it counts as dead (RFC 9687): 3 s to
    /// 24 h, or zero for never; `None`: 8 min, or twice the hold time where that is more
    pub send_hold_time: Option<Duration>,
    /// Pause between attempts to connect, 1 to 60 s
    pub connect_retry: Duration,
    /// How long it may hold our routes while we restart (RFC 4724): whole seconds, at most 4095;
    /// zero: neither side keeps any
    pub graceful_restart: Duration,
    /// Key of TCP-MD5 (RFC 2385)
    pub password: Option<Secret>,
    /// Hops it may be away, 1 to 254; packets from farther are dropped (GTSM, RFC 5082)
    pub ttl_security: Option<u8>,
    /// TTL of what we send to an eBGP peer behind routers, 1 to 254; never with `ttl_security`
    pub multihop: Option<u8>,
    /// We reflect to and from it (RFC 4456); iBGP only
    pub route_reflector_client: bool,
    /// Which of its routes to use
    pub import: Import,
    /// Which routes it gets
    pub export: Export,
    /// Most prefixes it may send before its session is closed; `None`: no limit
    pub max_prefixes: Option<NonZeroU32>,
    /// Name ourselves as the next hop of every route it gets
    pub next_hop_self: bool,
    /// How often our own AS may stand in a path from it, 0 to 10
    pub allow_own_as: u8,
    /// Source address of the session, of the peer's family; `None`: `node.address`
    pub local_address: Option<IpAddr>,
    /// Bidirectional forwarding detection (RFC 5880)
    pub bfd: Option<Bfd>,
    /// It is a node of the store and stands in no file
    pub mesh: bool,
}

impl Peer {
    /// What it is called in metrics: nodes of the store share one name, for each node has as many of them as
    /// there are nodes.
    pub fn metrics_label(&self) -> &str {
        if self.mesh { "mesh" } else { &self.name }
    }
}

/// Where a peer is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerAddress {
    /// One host
    One(IpAddr),
    /// Any host of the prefix may connect; never dialled
    Range(Prefix),
}

impl PeerAddress {
    /// The addresses it stands for.
    pub fn prefix(&self) -> Prefix {
        match *self {
            Self::One(address) => Prefix::host(address),
            Self::Range(prefix) => prefix,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => address.fmt(f),
            Self::Range(prefix) => prefix.fmt(f),
        }
    }
}

impl Word for PeerAddress {
    const WANTED: &'static str =
        "the address of a peer such as \"192.0.2.1\", or a prefix to accept any peer of it, such as \"192.0.2.0/24\"";

    fn parse(text: &str) -> Option<Self> {
        let address = match text.parse() {
            Ok(address) => Self::One(address),
            Err(_) => Self::Range(text.parse().ok()?),
        };
        // A link-local address means nothing without a link, and there is no key for one.
        let link_local = matches!(address, Self::One(IpAddr::V6(address)) if address.is_unicast_link_local());
        let prefix = address.prefix();
        (!link_local && (prefix.len() == 0 || is_unicast(prefix.addr()))).then_some(address)
    }

    fn problem(text: &str, found: String) -> Problem {
        match Prefix::problem(text, found) {
            Problem::Unfit { found, .. } => Problem::Unfit { found, wanted: Self::WANTED.to_owned() },
            host_bits => host_bits,
        }
    }
}

/// Which routes of a peer to use.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Import {
    /// Those that lie in a pool
    #[default]
    Pools,
    /// None
    None,
    /// All, the default route too
    All,
    /// As the policy of this name says
    Named(String),
}

/// Which routes a peer gets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Export {
    /// Our own subnets and what `bgp.announce` lists
    #[default]
    Subnets,
    /// These and what was learned inside the pools
    Pools,
    /// Everything
    All,
    /// Nothing
    None,
    /// As the policy of this name says
    Named(String),
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pools => "pools",
            Self::None => "none",
            Self::All => "all",
            Self::Named(name) => name,
        })
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subnets => "subnets",
            Self::Pools => "pools",
            Self::All => "all",
            Self::None => "none",
            Self::Named(name) => name,
        })
    }
}

/// Bidirectional forwarding detection (RFC 5880 §6.8.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bfd {
    /// Between packets, both directions; 10 ms to 60 s
    pub interval: Duration,
    /// Packets that may be lost before the peer counts as dead, less one; 1 to 255
    pub multiplier: u8,
    /// Whether the peer is behind routers (RFC 5883); `None`: as the TTL settings and the kind of
    /// peering suggest
    pub multihop: Option<bool>,
}

/// What a peer takes over from other sections or is compared with there.
pub(super) struct Inherited<'a> {
    pub asn: Option<Asn>,
    pub hold_time: HoldTime,
    pub send_hold_time: Option<Duration>,
    pub connect_retry: Duration,
    pub graceful_restart: Duration,
    /// Some prefix of ours is IPv6
    pub ipv6: bool,
    pub node_address: Option<IpAddr>,
    pub policies: &'a BTreeMap<String, Policy>,
}

/// Reads `bgp.peers` of the table `[bgp]`.
pub(super) fn read_all(bgp: &Table<'_>, inherited: &Inherited<'_>, read_secret: &mut ReadSecret<'_>) -> Vec<Peer> {
    let mut addresses = Distinct::new(
        |a: &PeerAddress, b| a.prefix() == b.prefix(),
        |found, _, earlier| Problem::Repeated { found: found.to_string(), earlier, rule: "a peer has one entry" },
    );
    let mut names = Distinct::new(String::eq, |found, _, earlier| Problem::Repeated {
        found: found.clone(),
        earlier,
        rule: "give every peer a name of its own",
    });
    bgp.tables("peers", |table| {
        let value = table.required("address", "address = \"192.0.2.1\", or a prefix to accept any peer of it");
        let address = value.as_ref().and_then(|value| address(value, inherited));
        let one_entry = match (&value, address) {
            (Some(value), Some(address)) => addresses.add(address, &value.place),
            _ => true,
        };
        let name = name(table, address);
        // A second entry for one address has its name twice too; that is one mistake.
        let place = table.value("name").or(value.filter(|_| one_entry));
        if let (Some(value), Some(name)) = (place, &name) {
            names.add(name.clone(), &value.place);
        }
        peer(table, name, address, inherited, read_secret)
    })
}

fn address(value: &Value<'_>, inherited: &Inherited<'_>) -> Option<PeerAddress> {
    let address = value.word()?;
    if let PeerAddress::One(host) = address
        && inherited.node_address == Some(host)
    {
        value.report(Problem::OwnAddress(host));
    }
    Some(address)
}

fn name(table: &Table<'_>, address: Option<PeerAddress>) -> Option<String> {
    match table.value("name") {
        Some(value) => value.word().map(|Name(name)| name),
        None => address.map(|address| address.to_string()),
    }
}

fn peer(
    table: &Table<'_>,
    name: Option<String>,
    address: Option<PeerAddress>,
    inherited: &Inherited<'_>,
    read_secret: &mut ReadSecret<'_>,
) -> Option<Peer> {
    const HOPS: RangeInclusive<u64> = 1..=254;
    let asn = table.required("asn", "asn = 65001, with the number of the peer's AS").and_then(|value| asn(&value));
    let (ttl_security, multihop) = (table.number("ttl_security", HOPS), table.number("multihop", HOPS));
    if let (Some(_), Some(value)) = (ttl_security, table.value("multihop")) {
        value.report(Problem::TtlAndMultihop);
    }
    let max_prefixes = table.number("max_prefixes", 0..=u64::from(u32::MAX)).unwrap_or(MAX_PREFIXES);
    Some(Peer {
        port: table.number("port", 1..=65535).unwrap_or(179),
        passive: passive(table, address),
        families: families(table).unwrap_or_else(|| default_families(address, inherited.ipv6)),
        hold_time: hold_time(table).unwrap_or(inherited.hold_time),
        send_hold_time: send_hold_time(table).or(inherited.send_hold_time),
        connect_retry: connect_retry(table).unwrap_or(inherited.connect_retry),
        graceful_restart: graceful_restart(table).unwrap_or(inherited.graceful_restart),
        password: password(table, read_secret),
        ttl_security,
        multihop,
        route_reflector_client: reflector_client(table, asn, inherited.asn),
        import: import(table, inherited.policies),
        export: export(table, inherited.policies),
        max_prefixes: NonZeroU32::new(max_prefixes),
        next_hop_self: table.flag("next_hop_self").unwrap_or_default(),
        allow_own_as: table.number("allow_own_as", 0..=10).unwrap_or_default(),
        local_address: local_address(table, address),
        bfd: table.value("bfd").and_then(|value| value.table(bfd)),
        mesh: false,
        // Last, so that the keys above are read, and their errors found, without these three.
        name: name?,
        address: address?,
        asn: asn?,
    })
}

fn passive(table: &Table<'_>, address: Option<PeerAddress>) -> bool {
    let range = matches!(address, Some(PeerAddress::Range(_)));
    let Some(value) = table.value("passive") else { return range };
    let passive = value.flag();
    if range && passive == Some(false) {
        value.report(Problem::RangeIsPassive);
    }
    passive.unwrap_or(range)
}

fn families(table: &Table<'_>) -> Option<Vec<Family>> {
    const WORDS: [(&str, Family); 2] = [("ipv4", Family::Ipv4), ("ipv6", Family::Ipv6)];
    let value = table.value("families")?;
    let items = value.items()?;
    if items.is_empty() {
        return value.unfit("a list of one or both of \"ipv4\" and \"ipv6\"");
    }
    let mut families: Vec<Family> = items.iter().filter_map(|item| item.choice(&WORDS)).collect();
    families.sort_unstable();
    families.dedup();
    Some(families)
}

/// IPv4, and IPv6 where we have any or the peer is reached by it.
pub(super) fn default_families(address: Option<PeerAddress>, ipv6: bool) -> Vec<Family> {
    let over_ipv6 = address.is_some_and(|address| address.prefix().family() == Family::Ipv6);
    let wanted = |family: &Family| *family == Family::Ipv4 || ipv6 || over_ipv6;
    Family::ALL.into_iter().filter(wanted).collect()
}

fn reflector_client(table: &Table<'_>, peer: Option<Asn>, own: Option<Asn>) -> bool {
    let Some(value) = table.value("route_reflector_client") else { return false };
    let client = value.flag().unwrap_or_default();
    if let (true, Some(peer), Some(own)) = (client, peer, own)
        && peer != own
    {
        value.report(Problem::ClientOfOtherAs { peer, own });
    }
    client
}

fn import(table: &Table<'_>, policies: &BTreeMap<String, Policy>) -> Import {
    let built_in = [("pools", Import::Pools), ("none", Import::None), ("all", Import::All)];
    policy(table, "import", built_in, policies, Import::Named)
}

fn export(table: &Table<'_>, policies: &BTreeMap<String, Policy>) -> Export {
    let built_in =
        [("subnets", Export::Subnets), ("pools", Export::Pools), ("all", Export::All), ("none", Export::None)];
    policy(table, "export", built_in, policies, Export::Named)
}

/// A built-in policy or one of this file.
fn policy<T: Default, const N: usize>(
    table: &Table<'_>,
    key: &'static str,
    built_in: [(&'static str, T); N],
    policies: &BTreeMap<String, Policy>,
    named: fn(String) -> T,
) -> T {
    let Some(value) = table.value(key) else { return T::default() };
    let words = built_in.each_ref().map(|(word, _)| *word);
    let Some(name) = value.as_text() else {
        return value.unfit(format!("{} or the name of a policy", quoted(&words))).unwrap_or_default();
    };
    if let Some((_, meaning)) = built_in.into_iter().find(|(word, _)| *word == name) {
        return meaning;
    }
    if !policies.contains_key(name) {
        let words = words.into_iter().chain(policies.keys().map(String::as_str)).map(str::to_owned).collect();
        value.report(Problem::NoSuchPolicy { name: name.to_owned(), words });
    }
    named(name.to_owned())
}

fn local_address(table: &Table<'_>, peer: Option<PeerAddress>) -> Option<IpAddr> {
    let value = table.value("local_address")?;
    let local: IpAddr = value.word()?;
    if !is_unicast(local) {
        return value.unfit("the unicast address of this host");
    }
    match peer.map(|peer| peer.prefix().family()) {
        Some(family) if family != Family::of(local) => value.unfit(format!("an {family} address, as the peer's is")),
        _ => Some(local),
    }
}

fn bfd(table: &Table<'_>) -> Bfd {
    const RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
    let within = |interval| RANGE.contains(&interval).then_some(interval);
    let interval = table.value("interval").and_then(|value| value.duration("ms", "\"10ms\" to \"60s\"", within));
    Bfd {
        interval: interval.unwrap_or(Duration::from_millis(100)),
        multiplier: table.number("multiplier", 1..=255).unwrap_or(3),
        multihop: table.flag("multihop"),
    }
}
