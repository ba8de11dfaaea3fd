//! What the kernel answers when it is asked for a way, a device, a rule, a neighbour; and in words.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::net::Prefix;

/// The kernel's own tables (`RT_TABLE_*`).
const TABLES: [(u32, &str); 3] = [(253, "default"), (254, "main"), (255, "local")];
/// The table that a host's own addresses stand in (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u32 = 255;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It leaves by a device
    Sent,
    /// It is for this host
    Local,
    /// It goes to all of a link
    Broadcast,
    /// It goes to a multicast group
    Multicast,
    /// `ENETUNREACH`: no route matches
    NoRoute,
    /// `EHOSTUNREACH`: an `unreachable` route matches, or the device it came by doesn't forward
    Unreachable,
    /// `EACCES`: a `prohibit` route or rule matches
    Prohibited,
    /// `EINVAL`: a `blackhole` route matches, or the source is not accepted (Linux 6.13 and later)
    Dropped,
    /// `EXDEV`: the source is not accepted where it came in
    SourceRefused,
    /// Another error number
    Error(i32),
}

/// The route that matched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Matched {
    /// Its destination
    pub prefix: Prefix,
    /// Table it stands in
    pub table: u32,
    /// Who installed it (`rtm_protocol`)
    pub protocol: u8,
    /// Its priority
    pub metric: u32,
    /// The nexthop object it refers to
    pub nexthop: Option<u32>,
}

/// The answer to `RTM_GETROUTE`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// What becomes of the packet
    pub fate: Fate,
    /// The neighbour it goes to; none: the destination itself
    pub gateway: Option<IpAddr>,
    /// The device it leaves by
    pub device: Option<u32>,
    /// The source that a socket of this host would use
    pub source: Option<IpAddr>,
    /// Largest packet by the route, or learned of the path
    pub mtu: Option<u32>,
    /// The route that matched; none: the kernel doesn't say
    pub route: Option<Matched>,
}

impl Answer {
    /// Nothing but what becomes of the packet.
    pub const fn of(fate: Fate) -> Self {
        Self { fate, gateway: None, device: None, source: None, mtu: None, route: None }
    }

    /// Whether it leads to the same place as another.
    pub fn goes_like(&self, other: &Self) -> bool {
        (self.fate, self.gateway, self.device) == (other.fate, other.gateway, other.device)
    }

    /// `via 192.0.2.1 dev eth0`, or what else becomes of the packet.
    pub fn way(&self, devices: &Devices) -> String {
        let device = || self.device.map_or_else(String::new, |index| format!("dev {}", devices.name(index)));
        match (self.fate, self.gateway) {
            (Fate::Sent, Some(gateway)) => format!("via {gateway} {}", device()),
            (Fate::Sent, None) => format!("on-link {}", device()),
            (Fate::Local, _) => "to this host itself".to_owned(),
            (Fate::Broadcast, _) => format!("to all on {}", device()),
            (Fate::Multicast, _) => format!("as multicast by {}", device()),
            (fate, _) => fate.to_string(),
        }
    }

    /// The way, and the route that says so; `ours`: protocol of our own routes.
    pub fn words(&self, devices: &Devices, ours: u8) -> String {
        let source = self.source.map_or_else(String::new, |source| format!(" src {source}"));
        let route = self.route.map_or_else(String::new, |route| format!(", by {}", route.words(ours)));
        format!("{}{source}{route}", self.way(devices))
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "sent",
            Self::Local => "for this host",
            Self::Broadcast => "broadcast",
            Self::Multicast => "multicast",
            Self::NoRoute => "nowhere: no route matches (network is unreachable)",
            Self::Unreachable => "nowhere: refused as unreachable",
            Self::Prohibited => "nowhere: prohibited",
            Self::Dropped => "nowhere: dropped",
            Self::SourceRefused => "nowhere: its source is not accepted there",
            Self::Error(number) => return write!(f, "no answer: error {number}"),
        })
    }
}

impl Matched {
    /// `10.244.9.0/24 (wayleave, metric 2048, table main)`
    pub fn words(&self, ours: u8) -> String {
        let Self { prefix, metric, .. } = self;
        format!("{prefix} ({}, metric {metric}, table {})", protocol(self.protocol, ours), table(self.table))
    }

    /// Whether it is none that the kernel makes for the host's own addresses.
    pub const fn is_chosen(&self) -> bool {
        self.table != LOCAL_TABLE
    }
}

/// A table by name, where it has one.
pub fn table(number: u32) -> String {
    let named = TABLES.iter().find(|(known, _)| *known == number);
    named.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// Who installed a route, after `rt_protos`.
pub fn protocol(number: u8, ours: u8) -> String {
    let name = match number {
        _ if number == ours => "wayleave",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        9 => "router advertisement",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        18 => "keepalived",
        42 => "babel",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        other => return format!("protocol {other}"),
    };
    name.to_owned()
}

/// A network device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Device {
    /// Its name
    pub name: String,
    /// What it is: `bridge`, `veth`, `vrf`, `ipip` …; none: a network card or the like
    pub kind: Option<String>,
    /// Administratively up
    pub up: bool,
    /// Has a carrier
    pub carrier: bool,
    /// Largest packet in octets
    pub mtu: u32,
    /// The bridge, bond or VRF it belongs to
    pub master: Option<u32>,
    /// Its addresses, with what is on-link by each
    pub addresses: Vec<(IpAddr, Prefix)>,
}

/// All devices, by index.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Devices(pub BTreeMap<u32, Device>);

impl Devices {
    /// A device's name, or its number if it is gone.
    pub fn name(&self, index: u32) -> String {
        self.0.get(&index).map_or_else(|| format!("device {index}"), |device| device.name.clone())
    }

    /// The VRF that a device belongs to, be it through a bridge or bond.
    pub fn vrf(&self, index: u32) -> Option<&Device> {
        let mut at = self.0.get(&index)?;
        // A device belongs to one at a time; eight deep is more than anybody stacks.
        for _ in 0..8 {
            if at.kind.as_deref() == Some("vrf") {
                return Some(at);
            }
            at = self.0.get(&at.master?)?;
        }
        None
    }

    /// Every address of this host with its device.
    pub fn addresses(&self) -> impl Iterator<Item = (u32, IpAddr, Prefix)> {
        let of = |(index, device): (&u32, &Device)| {
            let index = *index;
            device.addresses.clone().into_iter().map(move |(addr, prefix)| (index, addr, prefix))
        };
        self.0.iter().flat_map(of)
    }

    /// The device whose address makes another on-link: the longest prefix wins.
    pub fn on_link(&self, addr: IpAddr) -> Option<(u32, Prefix)> {
        let on =
            self.addresses().filter(|(_, _, prefix)| prefix.contains(addr) && prefix.len() < prefix.family().bits());
        on.max_by_key(|(_, _, prefix)| prefix.len()).map(|(index, _, prefix)| (index, prefix))
    }
}

/// State of a neighbour entry (`NUD_*`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reachability {
    /// It has answered, or is expected to
    Usable(&'static str),
    /// It is being asked for
    Incomplete,
    /// It did not answer
    Failed,
    /// There is no entry: nothing was sent to it lately
    None,
}

/// A neighbour on a link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Neighbour {
    /// Its address
    pub address: IpAddr,
    /// Device
    pub device: u32,
    /// State of the entry
    pub state: Reachability,
    /// Link-layer address
    pub lladdr: Option<String>,
}

impl Neighbour {
    /// It was asked for and does not answer.
    pub const fn is_silent(&self) -> bool {
        matches!(self.state, Reachability::Failed | Reachability::Incomplete)
    }

    /// `192.0.2.1 on eth0 is REACHABLE (52:54:00:12:34:56)`
    pub fn words(&self, devices: &Devices) -> String {
        let Self { address, device, .. } = self;
        let device = devices.name(*device);
        let lladdr = self.lladdr.as_ref().map_or_else(String::new, |lladdr| format!(" ({lladdr})"));
        match self.state {
            Reachability::Usable(state) => format!("{address} on {device} is {state}{lladdr}"),
            Reachability::Incomplete => format!("{address} on {device} has not answered {} yet", asking(*address)),
            Reachability::Failed => format!("{address} on {device} does not answer {} (FAILED)", asking(*address)),
            Reachability::None => format!("{address} on {device} was not asked for lately"),
        }
    }
}

/// What asks for a neighbour.
const fn asking(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ARP" } else { "neighbour discovery" }
}

/// A policy rule (`ip rule`).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    /// The lowest comes first
    pub priority: u32,
    /// Packets to this
    pub to: Option<Prefix>,
    /// Packets from this
    pub from: Option<Prefix>,
    /// That came in by this device
    pub arriving: Option<String>,
    /// That a socket bound to this device sends
    pub leaving: Option<String>,
    /// It has conditions on marks, ports, users and the like
    pub more: bool,
    /// It holds for all but these
    pub inverted: bool,
    /// What it does
    pub action: Action,
}

/// What a policy rule does.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Action {
    /// Looks into a table
    Lookup(u32),
    /// Looks into the table of the packet's VRF
    Vrf,
    /// Goes on at another rule
    Goto,
    /// Drops
    Reject,
    /// Nothing, or what we don't know
    #[default]
    Other,
}

/// Whether a rule is for a packet.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Applies {
    /// It isn't
    No,
    /// It depends on marks, ports or the user
    Perhaps,
    /// It is
    Yes,
}

impl Rule {
    /// Every namespace has these: local, main, default.
    pub const fn is_usual(&self) -> bool {
        matches!(
            (self.priority, self.action),
            (0, Action::Lookup(255)) | (32_766, Action::Lookup(254)) | (32_767, Action::Lookup(253))
        )
    }

    /// Whether it is for a packet to `to`, from a source if that is known, that came in by a device or
    /// is of this host.
    pub fn applies(&self, to: IpAddr, from: Option<IpAddr>, arriving: Option<&str>) -> Applies {
        let to = self.to.is_none_or(|prefix| prefix.contains(to));
        let source = match (self.from, from) {
            (None, _) => Applies::Yes,
            (Some(_), None) => Applies::Perhaps,
            (Some(prefix), Some(from)) if prefix.contains(from) => Applies::Yes,
            (Some(_), Some(_)) => Applies::No,
        };
        // Of what a socket sends the kernel says `lo`.
        let device = self.arriving.as_deref().is_none_or(|device| device == arriving.unwrap_or("lo"));
        let matches = if to && device { source } else { Applies::No };
        match (matches, self.inverted) {
            (_, true) => Applies::Perhaps,
            (Applies::No, false) => Applies::No,
            (_, false) if self.more || self.leaving.is_some() => Applies::Perhaps,
            (matches, false) => matches,
        }
    }
}

impl fmt::Display for Rule {
    /// As `ip rule` writes it, near enough.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        f.write_str(if self.inverted { " not" } else { "" })?;
        match self.from {
            Some(from) => write!(f, " from {from}")?,
            None => f.write_str(" from all")?,
        }
        for (word, value) in [("to", self.to.map(|to| to.to_string()))]
            .into_iter()
            .chain([("iif", self.arriving.clone()), ("oif", self.leaving.clone())])
        {
            if let Some(value) = value {
                write!(f, " {word} {value}")?;
            }
        }
        f.write_str(if self.more { " (and other conditions)" } else { "" })?;
        match self.action {
            Action::Lookup(number) => write!(f, " lookup {}", table(number)),
            Action::Vrf => f.write_str(" lookup [VRF's table]"),
            Action::Goto => f.write_str(" goto another rule"),
            Action::Reject => f.write_str(" drops"),
            Action::Other => Ok(()),
        }
    }
}

/// A nexthop object as it is in the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Object {
    /// Its number
    pub id: u32,
    /// Way out; none for a group
    pub gateway: Option<IpAddr>,
    /// Device; none for a group
    pub device: Option<u32>,
    /// Members of a group, each with its weight
    pub members: Vec<(u32, u32)>,
    /// A group whose flows stay where they are when another member goes
    pub resilient: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_for_a_packet_or_not() {
        let to: IpAddr = "10.244.9.5".parse().unwrap();
        let rule = Rule { priority: 100, action: Action::Lookup(200), ..Rule::default() };
        let with = |change: fn(&mut Rule)| {
            let mut rule = rule.clone();
            change(&mut rule);
            rule
        };
        let cases = [
            ("for all", rule.clone(), Applies::Yes),
            ("for this destination", with(|r| r.to = Some("10.244.0.0/16".parse().unwrap())), Applies::Yes),
            ("for another", with(|r| r.to = Some("10.1.0.0/16".parse().unwrap())), Applies::No),
            ("from our container", with(|r| r.from = Some("10.244.7.0/24".parse().unwrap())), Applies::Yes),
            ("from another", with(|r| r.from = Some("10.244.8.0/24".parse().unwrap())), Applies::No),
            ("by its device", with(|r| r.arriving = Some("docker0".to_owned())), Applies::Yes),
            ("by another device", with(|r| r.arriving = Some("eth9".to_owned())), Applies::No),
            ("with a mark", with(|r| r.more = true), Applies::Perhaps),
            ("for all but", with(|r| r.inverted = true), Applies::Perhaps),
        ];
        for (why, rule, wanted) in cases {
            assert_eq!(rule.applies(to, Some("10.244.7.2".parse().unwrap()), Some("docker0")), wanted, "{why}");
        }
        assert!(!rule.is_usual());
        assert_eq!(rule.to_string(), "100: from all lookup 200");
    }

    #[test]
    fn a_vrf_is_found_through_a_bridge() {
        let device = |kind: &str, master| Device {
            name: kind.to_owned(),
            kind: Some(kind.to_owned()),
            master,
            ..Device::default()
        };
        let devices = Devices(
            [
                (1, device("veth", Some(2))),
                (2, device("bridge", Some(3))),
                (3, device("vrf", None)),
                (4, device("veth", Some(4))),
            ]
            .into(),
        );
        assert_eq!(devices.vrf(1).map(|vrf| vrf.name.as_str()), Some("vrf"));
        assert_eq!(devices.vrf(4), None, "a loop ends");
    }
}
