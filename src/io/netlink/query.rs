//! Questions to the kernel: all of its state, one lookup; and the removal of all that
//! is ours. Each opens a socket of its own in a blocking thread.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ahash::AHashSet;

use super::encode::{self, RouteHeader, family_number};
use super::nexthop::{self, ROUTE_NEXTHOP};
use super::parse::{self, Route};
use super::socket::Client;
use super::wire::{self, attributes, u32_at};
use super::{MAIN_TABLE, Ours};
use crate::forward::{Dump, Hop, Nexthop, NexthopId, NexthopObject, RouteKind, Target};
use crate::net::{Family, Prefix};

/// How often a dump is begun again that a change tore. The last one counts: what it missed comes
/// as an event.
const ATTEMPTS: u32 = 4;

/// `RTM_F_FIB_MATCH`: answer with the route that matched, not with where it led; and for IPv4, which would always say
/// main, `RTM_F_LOOKUP_TABLE`: with the table it stands in. IPv6 does that anyway, and refuses to be asked for it.
pub(super) const fn fib_match(family: Family) -> u32 {
    match family {
        Family::Ipv4 => libc::RTM_F_FIB_MATCH | libc::RTM_F_LOOKUP_TABLE,
        Family::Ipv6 => libc::RTM_F_FIB_MATCH,
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    ask: impl FnOnce(&mut Client) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(|| ask(&mut Client::new()?)).await.map_err(io::Error::other)?
}

/// Every link, address and nexthop object of the namespace, and every unicast and reject route of
/// our table and of main.
pub async fn dump(ours: Ours) -> io::Result<Dump> {
    blocking(move |client| {
        let mut dump = Dump::default();
        links_and_addresses(client, &mut dump)?;
        // Before the routes: those they refer to are among them then, or come as events.
        dump.nexthops = nexthops(client)?.unwrap_or_default();
        let mut shared = AHashSet::new();
        for table in tables(ours) {
            routes(client, ours, table, &mut shared, &mut dump)?;
        }
        Ok(dump)
    })
    .await
}

/// Every link and address of the namespace, and no route.
pub async fn host() -> io::Result<Dump> {
    blocking(|client| {
        let mut dump = Dump::default();
        links_and_addresses(client, &mut dump)?;
        Ok(dump)
    })
    .await
}

fn links_and_addresses(client: &mut Client, dump: &mut Dump) -> io::Result<()> {
    whole(|| {
        dump.links.clear();
        client.ask(
            libc::RTM_GETLINK,
            wire::DUMP,
            |encoder| encoder.put(&[0; 16]),
            |message| {
                dump.links.extend(parse::link(message.body));
            },
        )
    })?;
    whole(|| {
        dump.addresses.clear();
        client.ask(
            libc::RTM_GETADDR,
            wire::DUMP,
            |encoder| encoder.put(&[0; 8]),
            |message| {
                dump.addresses.extend(parse::local_address(message.body));
            },
        )
    })
}

/// Whether the kernel knows nexthop objects at all (Linux 5.3 and later do).
pub async fn knows_nexthops() -> io::Result<bool> {
    blocking(|client| nexthops(client).map(|list| list.is_some())).await
}

/// Whether it knows resilient groups, in which a hop can stand by (Linux 5.13 and later do).
pub async fn knows_resilient_groups() -> io::Result<bool> {
    let known = |client: &mut Client| client.ask(nexthop::GET_BUCKET, wire::DUMP, nexthop::any, |_| ());
    blocking(move |client| match whole(|| known(client)) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => Ok(false),
        Err(error) => Err(error),
    })
    .await
}

/// Every nexthop object; `None` if the kernel knows no such thing.
fn nexthops(client: &mut Client) -> io::Result<Option<Vec<NexthopObject>>> {
    let mut list = Vec::new();
    let done = whole(|| {
        list.clear();
        client.ask(nexthop::GET, wire::DUMP, nexthop::any, |message| list.extend(nexthop::object(message.body)))
    });
    match done {
        Ok(()) => Ok(Some(list)),
        // No such message, or an answer to the older one whose number this is to such a kernel.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn tables(ours: Ours) -> impl Iterator<Item = u32> {
    let other = (ours.table != MAIN_TABLE).then_some(MAIN_TABLE);
    std::iter::once(ours.table).chain(other)
}

fn routes(
    client: &mut Client,
    ours: Ours,
    table: u32,
    shared: &mut AHashSet<Arc<[Hop]>>,
    dump: &mut Dump,
) -> io::Result<()> {
    for family in Family::ALL {
        let (foreign, own) = (dump.foreign.len(), dump.own.len());
        let header = RouteHeader { family: family_number(family), ..any_route(table) };
        let done = whole(|| {
            dump.foreign.truncate(foreign);
            dump.own.truncate(own);
            // Routes of one batch mostly share their hops: compare with the last before asking the set.
            let mut last: Option<Arc<[Hop]>> = None;
            client.ask(
                libc::RTM_GETROUTE,
                wire::DUMP,
                |encoder| header.put_whole(encoder),
                |message| match parse::route(message.body) {
                    Some(route) if route.table != table => {}
                    Some(route) if route.is(ours) => {
                        dump.own.push((route.prefix, target(&route, &mut last, shared)));
                    }
                    Some(route) => dump.foreign.push(route.into_foreign()),
                    None => {}
                },
            )
        });
        match done {
            // A table that nothing is in does not exist; neither does a family that is turned off.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {}
            result => result?,
        }
    }
    Ok(())
}

fn target(route: &Route, last: &mut Option<Arc<[Hop]>>, shared: &mut AHashSet<Arc<[Hop]>>) -> Target {
    if let Some(id) = route.nexthop {
        return Target::Object(id);
    }
    if route.kind == RouteKind::Reject || route.hops.is_empty() {
        return Target::Blackhole;
    }
    let hops = match last {
        Some(hops) if **hops == *route.hops => Arc::clone(hops),
        _ => {
            let hops = shared.get(&*route.hops).map_or_else(|| Arc::from(&*route.hops), Arc::clone);
            shared.insert(Arc::clone(&hops));
            hops
        }
    };
    *last = Some(Arc::clone(&hops));
    Target::Via(hops)
}

/// Repeats a dump until no change tore it.
pub(super) fn whole(mut dump: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        if !dump()? {
            break;
        }
    }
    Ok(())
}

pub(super) const fn any_route(table: u32) -> RouteHeader {
    RouteHeader { family: 0, prefix_len: 0, source_len: 0, table, protocol: 0, scope: 0, kind: 0, flags: 0 }
}

/// Removes every route with this protocol number, whatever its table and metric, except those that
/// are `keep`; returns how many. For `clean`, and for what a run with other settings left.
pub async fn flush(protocol: u8, keep: Option<Ours>) -> io::Result<usize> {
    blocking(move |client| {
        let mut found = Vec::new();
        for family in Family::ALL {
            let header = RouteHeader { family: family_number(family), protocol, ..any_route(0) };
            client.ask(
                libc::RTM_GETROUTE,
                wire::DUMP,
                |encoder| header.put_whole(encoder),
                |message| {
                    let route = parse::route(message.body).filter(|route| route.protocol == protocol);
                    found.extend(
                        route.map(|Route { prefix, table, metric, .. }| (prefix, Ours { table, protocol, metric })),
                    );
                },
            )?;
        }
        found.retain(|(_, ours)| Some(*ours) != keep);
        let mut removed = 0;
        for (prefix, ours) in found {
            match client.ask(libc::RTM_DELROUTE, wire::ACK, |encoder| encode::selector(encoder, ours, prefix), |_| {}) {
                Ok(_) => removed += 1,
                // Somebody was faster.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    })
    .await
}

/// Removes every nexthop object with this protocol number, groups before their members; returns how
/// many. The kernel removes the routes that still use one as well, whoever wrote them.
pub async fn flush_nexthops(protocol: u8) -> io::Result<usize> {
    blocking(move |client| {
        let mut found = nexthops(client)?.unwrap_or_default();
        found.retain(|object| object.protocol == protocol);
        found.sort_by_key(|object| matches!(object.nexthop, Nexthop::Hop(..)));
        let mut removed = 0;
        for object in found {
            match client.ask(nexthop::DELETE, wire::ACK, |encoder| nexthop::selector(encoder, object.id), |_| {}) {
                Ok(_) => removed += 1,
                // Somebody was faster, or it went with its last member.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    })
    .await
}

/// Where the kernel would send a packet, and by which route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lookup {
    /// The neighbour it goes to; `None`: the destination itself is on the link, or it is dropped.
    pub gateway: Option<IpAddr>,
    /// Device it leaves by, as interface index; `None` if it is dropped.
    pub device: Option<u32>,
    /// Source address a socket here would use.
    pub source: Option<IpAddr>,
    /// The route that matched; `None` if the kernel does not tell, as for our own addresses and for
    /// some IPv6 routes over nexthop objects.
    pub route: Option<Matched>,
}

/// The route a lookup ended at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Matched {
    /// Its destination.
    pub prefix: Prefix,
    /// Table it stands in.
    pub table: u32,
    /// Who installed it (`rtm_protocol`).
    pub protocol: u8,
    /// Its priority.
    pub metric: u32,
    /// The nexthop object it refers to.
    pub nexthop: Option<NexthopId>,
}

/// Asks where a packet to `to` goes: one that a socket here sends, or one `from` an address that
/// came in by a device.
///
/// `Ok(None)`: nowhere, the kernel would answer "network is unreachable" or drop it.
pub async fn lookup(to: IpAddr, arriving: Option<(IpAddr, u32)>) -> io::Result<Option<Lookup>> {
    blocking(move |client| {
        let Some(Some(way)) = unless_unreachable(ask_way(client, to, arriving, 0))? else { return Ok(None) };
        let route = unless_unreachable(ask_way(client, to, arriving, fib_match(Family::of(to))))?.flatten();
        Ok(Some(Lookup {
            gateway: way.gateway,
            device: way.device,
            source: way.source,
            // IPv6 keeps what it found with the hop, and over an object the hop is that of many routes:
            // it may name one of the others.
            route: route.and_then(|route| route.matched).filter(|route| route.prefix.contains(to)),
        }))
    })
    .await
}

/// The source address the kernel uses towards `to`; `Ok(None)`: it has no route there.
pub async fn source_towards(to: IpAddr) -> io::Result<Option<IpAddr>> {
    blocking(move |client| {
        let way = unless_unreachable(ask_way(client, to, None, 0))?;
        Ok(way.flatten().and_then(|way| way.source))
    })
    .await
}

/// One answer to `RTM_GETROUTE`.
struct Way {
    gateway: Option<IpAddr>,
    device: Option<u32>,
    source: Option<IpAddr>,
    matched: Option<Matched>,
}

fn ask_way(client: &mut Client, to: IpAddr, arriving: Option<(IpAddr, u32)>, flags: u32) -> io::Result<Option<Way>> {
    let family = Family::of(to);
    let header = RouteHeader {
        family: family_number(family),
        prefix_len: family.bits(),
        source_len: if arriving.is_some() { family.bits() } else { 0 },
        flags,
        ..any_route(0)
    };
    let mut way = None;
    client.ask(
        libc::RTM_GETROUTE,
        0,
        |encoder| {
            header.put_whole(encoder);
            encoder.attribute_address(libc::RTA_DST, to);
            if let Some((from, device)) = arriving {
                encoder.attribute_address(libc::RTA_SRC, from);
                encoder.attribute_u32(libc::RTA_IIF, device);
            }
        },
        |message| way = read_way(message.body, family),
    )?;
    Ok(way)
}

fn read_way(body: &[u8], family: Family) -> Option<Way> {
    let &[_, len, _, _, small_table, protocol, _, _] = body.first_chunk::<8>()?;
    let mut matched = Matched {
        prefix: Prefix::default_route(family),
        table: u32::from(small_table),
        protocol,
        metric: 0,
        nexthop: None,
    };
    let mut way = Way { gateway: None, device: None, source: None, matched: None };
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            libc::RTA_DST => matched.prefix = Prefix::new(wire::address(value)?, len),
            libc::RTA_TABLE => matched.table = u32_at(value, 0)?,
            libc::RTA_PRIORITY => matched.metric = u32_at(value, 0)?,
            ROUTE_NEXTHOP => matched.nexthop = u32_at(value, 0).map(NexthopId),
            libc::RTA_GATEWAY => way.gateway = wire::address(value),
            libc::RTA_VIA => way.gateway = wire::address(value.get(2..)?),
            libc::RTA_OIF => way.device = u32_at(value, 0),
            libc::RTA_PREFSRC => way.source = wire::address(value),
            _ => {}
        }
    }
    way.matched = Some(matched);
    Some(way)
}

/// What a lookup gives where there is no route, or one that rejects.
fn unless_unreachable<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(way) => Ok(Some(way)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::EAGAIN) => Ok(None),
            _ => Err(error),
        },
    }
}
