//! Questions about one packet's way: which route, which rules, which neighbour. For people who ask;
//! nothing here is on a path that routing waits for.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use super::encode::family_number;
use super::nexthop::{self, ROUTE_NEXTHOP};
use super::parse;
use super::query::{any_route, blocking, whole};
use super::socket::Client;
use super::wire::{self, attributes, str_of, u16_at, u32_at};
use crate::explain::kernel::{Action, Answer, Device, Devices, Fate, Matched, Neighbour, Object, Reachability, Rule};
use crate::net::{Family, Prefix};

/// `IFLA_MASTER`, `IFLA_LINKINFO`, `IFLA_INFO_KIND` (linux/if_link.h).
const MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;

/// `RTAX_MTU` within `RTA_METRICS` (linux/rtnetlink.h).
const METRIC_MTU: u16 = 2;

/// `RTM_F_FIB_MATCH`: answer with the route that matched, not with where it led; and for IPv4, which would always say
/// main, `RTM_F_LOOKUP_TABLE`: with the table it stands in. IPv6 does that anyway, and refuses to be asked for it.
const fn fib_match(family: Family) -> u32 {
    match family {
        Family::Ipv4 => libc::RTM_F_FIB_MATCH | libc::RTM_F_LOOKUP_TABLE,
        Family::Ipv6 => libc::RTM_F_FIB_MATCH,
    }
}

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Where it goes
    pub to: IpAddr,
    /// Where it comes from; none: the kernel's choice
    pub from: Option<IpAddr>,
    /// The device it came in by; none: this host sends it
    pub arriving: Option<u32>,
}

impl Question {
    /// What becomes of a packet that this host sends.
    pub const fn sent_to(to: IpAddr) -> Self {
        Self { to, from: None, arriving: None }
    }
}

/// What becomes of a packet. An answer is also that there is no way.
pub async fn ask(question: Question) -> io::Result<Answer> {
    blocking(move |client| {
        let mut answer = way(client, question, 0)?;
        if answer.fate == Fate::Sent || answer.fate == Fate::Local {
            let matched = way(client, question, fib_match(Family::of(question.to)))?.route;
            // IPv6 keeps what it found with the hop, and over an object the hop is that of many routes: it may
            // name one of the others.
            answer.route = matched.filter(|route| route.prefix.contains(question.to));
        }
        Ok(answer)
    })
    .await
}

fn way(client: &mut Client, question: Question, flags: u32) -> io::Result<Answer> {
    let family = Family::of(question.to);
    let header = super::encode::RouteHeader {
        family: family_number(family),
        prefix_len: family.bits(),
        source_len: if question.from.is_some() { family.bits() } else { 0 },
        flags,
        ..any_route(0)
    };
    let mut answer = None;
    let asked = client.ask(
        libc::RTM_GETROUTE,
        0,
        |encoder| {
            header.put_whole(encoder);
            encoder.attribute_address(libc::RTA_DST, question.to);
            if let Some(from) = question.from {
                encoder.attribute_address(libc::RTA_SRC, from);
            }
            if let Some(device) = question.arriving {
                encoder.attribute_u32(libc::RTA_IIF, device);
            }
        },
        |message| answer = read_way(message.body, family),
    );
    match asked.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => Ok(answer.unwrap_or(Answer::of(Fate::Error(0)))),
        Err((Some(number), _)) => Ok(Answer::of(fate_of(number))),
        Err((None, error)) => Err(error),
    }
}

const fn fate_of(errno: i32) -> Fate {
    match errno {
        libc::ENETUNREACH => Fate::NoRoute,
        libc::EHOSTUNREACH => Fate::Unreachable,
        libc::EACCES => Fate::Prohibited,
        libc::EINVAL => Fate::Dropped,
        libc::EXDEV => Fate::SourceRefused,
        other => Fate::Error(other),
    }
}

fn read_way(body: &[u8], family: Family) -> Option<Answer> {
    let &[_, len, _, _, small_table, protocol, _, kind] = body.first_chunk::<8>()?;
    let fate = match kind {
        libc::RTN_LOCAL | libc::RTN_ANYCAST => Fate::Local,
        libc::RTN_BROADCAST => Fate::Broadcast,
        libc::RTN_MULTICAST => Fate::Multicast,
        libc::RTN_BLACKHOLE => Fate::Dropped,
        libc::RTN_UNREACHABLE => Fate::Unreachable,
        libc::RTN_PROHIBIT => Fate::Prohibited,
        _ => Fate::Sent,
    };
    let prefix = Prefix::default_route(family);
    let mut matched = Matched { prefix, table: u32::from(small_table), protocol, metric: 0, nexthop: None };
    let mut answer = Answer::of(fate);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            libc::RTA_DST => matched.prefix = Prefix::new(wire::address(value)?, len),
            libc::RTA_TABLE => matched.table = u32_at(value, 0)?,
            libc::RTA_PRIORITY => matched.metric = u32_at(value, 0)?,
            ROUTE_NEXTHOP => matched.nexthop = u32_at(value, 0),
            libc::RTA_GATEWAY => answer.gateway = wire::address(value),
            libc::RTA_VIA => answer.gateway = wire::address(value.get(2..)?),
            libc::RTA_OIF => answer.device = u32_at(value, 0),
            libc::RTA_PREFSRC => answer.source = wire::address(value),
            libc::RTA_METRICS => {
                let mtu = attributes(value).find(|(kind, _)| *kind == METRIC_MTU);
                answer.mtu = mtu.and_then(|(_, value)| u32_at(value, 0)).filter(|mtu| *mtu > 0);
            }
            _ => {}
        }
    }
    answer.route = Some(matched);
    Some(answer)
}

/// Every device of the namespace, with its addresses.
pub async fn devices() -> io::Result<Devices> {
    blocking(|client| {
        let mut devices = BTreeMap::new();
        whole(|| {
            devices.clear();
            client.ask(
                libc::RTM_GETLINK,
                wire::DUMP,
                |encoder| encoder.put(&[0; 16]),
                |message| devices.extend(device(message.body)),
            )
        })?;
        let mut addresses = Vec::new();
        whole(|| {
            addresses.clear();
            client.ask(
                libc::RTM_GETADDR,
                wire::DUMP,
                |encoder| encoder.put(&[0; 8]),
                |message| addresses.extend(parse::local_address(message.body)),
            )
        })?;
        for address in addresses {
            if let Some(device) = devices.get_mut(&address.device) {
                device.addresses.push((address.addr, address.prefix));
            }
        }
        Ok(Devices(devices))
    })
    .await
}

fn device(body: &[u8]) -> Option<(u32, Device)> {
    let link = parse::link(body)?;
    let (mut master, mut kind) = (None, None);
    for (attribute, value) in attributes(body.get(16..)?) {
        match attribute {
            MASTER => master = u32_at(value, 0).filter(|index| *index > 0),
            LINK_INFO => {
                let found = attributes(value).find(|(kind, _)| *kind == INFO_KIND);
                kind = found.and_then(|(_, value)| str_of(value)).map(str::to_owned);
            }
            _ => {}
        }
    }
    let (name, up, carrier, mtu) = (link.name, link.up, link.carrier, link.mtu);
    Some((link.index, Device { name, kind, up, carrier, mtu, master, addresses: Vec::new() }))
}

/// `struct ndmsg`: family, padding, device, state, flags, type; and its attributes (linux/neighbour.h).
mod neighbour {
    pub const HEADER: usize = 12;
    pub const STATE: usize = 8;
    pub const DST: u16 = 1;
    pub const LLADDR: u16 = 2;
    pub const INCOMPLETE: u16 = 0x01;
    pub const FAILED: u16 = 0x20;
    pub const STATES: [(u16, &str); 6] =
        [(0x02, "REACHABLE"), (0x04, "STALE"), (0x08, "DELAY"), (0x10, "PROBE"), (0x40, "NOARP"), (0x80, "PERMANENT")];
}

/// A neighbour's entry; one in the state `None` where there is none.
pub async fn neighbour(address: IpAddr, device: u32) -> io::Result<Neighbour> {
    blocking(move |client| {
        let mut found = None;
        let asked = client.ask(
            libc::RTM_GETNEIGH,
            0,
            |encoder| {
                encoder.put(&[family_number(Family::of(address)), 0, 0, 0]);
                encoder.put(&device.to_ne_bytes());
                encoder.put(&[0; 4]);
                encoder.attribute_address(neighbour::DST, address);
            },
            |message| found = read_neighbour(message.body),
        );
        match asked {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => {}
            Err(error) => return Err(error),
        }
        let (state, lladdr) = found.unwrap_or((Reachability::None, None));
        Ok(Neighbour { address, device, state, lladdr })
    })
    .await
}

fn read_neighbour(body: &[u8]) -> Option<(Reachability, Option<String>)> {
    let state = u16_at(body, neighbour::STATE)?;
    let lladdr = attributes(body.get(neighbour::HEADER..)?).find(|(kind, _)| *kind == neighbour::LLADDR);
    let hex = |value: &[u8]| value.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let state = match neighbour::STATES.iter().find(|(bit, _)| state & bit != 0) {
        Some((_, name)) => Reachability::Usable(name),
        None if state & neighbour::INCOMPLETE != 0 => Reachability::Incomplete,
        None if state & neighbour::FAILED != 0 => Reachability::Failed,
        None => Reachability::None,
    };
    Some((state, lladdr.map(|(_, value)| hex(value))))
}

/// `struct fib_rule_hdr` and its attributes (linux/fib_rules.h).
mod rule {
    pub const HEADER: usize = 12;
    pub const DST: u16 = 1;
    pub const SRC: u16 = 2;
    pub const IIFNAME: u16 = 3;
    pub const GOTO: u16 = 4;
    pub const PRIORITY: u16 = 6;
    pub const FWMARK: u16 = 10;
    pub const SUPPRESS_IFGROUP: u16 = 13;
    pub const TABLE: u16 = 15;
    pub const FWMASK: u16 = 16;
    pub const OIFNAME: u16 = 17;
    pub const L3MDEV: u16 = 19;
    pub const UID_RANGE: u16 = 20;
    pub const IP_PROTO: u16 = 22;
    pub const DPORT_RANGE: u16 = 24;
    /// `FIB_RULE_INVERT`
    pub const INVERT: u32 = 2;
    /// `FR_ACT_TO_TBL` and `FR_ACT_GOTO`; from `FR_ACT_BLACKHOLE` on it drops
    pub const TO_TABLE: u8 = 1;
    pub const TO_RULE: u8 = 2;
    pub const BLACKHOLE: u8 = 6;
}

/// The policy rules of a family, by priority.
pub async fn rules(family: Family) -> io::Result<Vec<Rule>> {
    blocking(move |client| {
        let mut rules = Vec::new();
        whole(|| {
            rules.clear();
            client.ask(
                libc::RTM_GETRULE,
                wire::DUMP,
                |encoder| {
                    encoder.put(&[family_number(family)]);
                    encoder.put(&[0; rule::HEADER - 1]);
                },
                |message| rules.extend(read_rule(message.body)),
            )
        })?;
        rules.sort_by_key(|rule: &Rule| rule.priority);
        Ok(rules)
    })
    .await
}

fn read_rule(body: &[u8]) -> Option<Rule> {
    let &[_, to_len, from_len, tos, small_table, _, _, action] = body.first_chunk::<8>()?;
    let flags = u32_at(body, 8)?;
    let mut table = u32::from(small_table);
    let mut vrf = false;
    let mut found = Rule { inverted: flags & rule::INVERT != 0, more: tos != 0, ..Rule::default() };
    for (kind, value) in attributes(body.get(rule::HEADER..)?) {
        match kind {
            rule::DST => found.to = Some(Prefix::new(wire::address(value)?, to_len)),
            rule::SRC => found.from = Some(Prefix::new(wire::address(value)?, from_len)),
            rule::IIFNAME => found.arriving = str_of(value).map(str::to_owned),
            rule::OIFNAME => found.leaving = str_of(value).map(str::to_owned),
            rule::PRIORITY => found.priority = u32_at(value, 0)?,
            rule::TABLE => table = u32_at(value, 0)?,
            rule::L3MDEV => vrf = value.first().is_some_and(|on| *on != 0),
            // Told of every rule, and -1 where it means nothing.
            rule::SUPPRESS_IFGROUP | rule::FWMASK | rule::GOTO => {}
            rule::FWMARK => found.more |= u32_at(value, 0) != Some(0),
            rule::UID_RANGE | rule::IP_PROTO..=rule::DPORT_RANGE => found.more = true,
            _ => {}
        }
    }
    found.action = match action {
        _ if vrf => Action::Vrf,
        rule::TO_TABLE => Action::Lookup(table),
        rule::TO_RULE => Action::Goto,
        rule::BLACKHOLE.. => Action::Reject,
        _ => Action::Other,
    };
    Some(found)
}

/// A nexthop object and the members of a group.
pub async fn objects(id: u32) -> io::Result<Vec<Object>> {
    blocking(move |client| {
        let Some(object) = object(client, id)? else { return Ok(Vec::new()) };
        let members = object.members.clone();
        let mut found = vec![object];
        for (member, _) in members {
            found.extend(self::object(client, member)?);
        }
        Ok(found)
    })
    .await
}

fn object(client: &mut Client, id: u32) -> io::Result<Option<Object>> {
    let mut found = None;
    let asked = client.ask(
        nexthop::GET,
        0,
        |encoder| nexthop::selector(encoder, crate::forward::NexthopId(id)),
        |message| found = nexthop::shown(message.body),
    );
    match asked {
        Ok(_) => Ok(found),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}
