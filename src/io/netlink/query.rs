//! Questions to the kernel about all of its state; and the removal of all that is ours. Each opens a socket of its own in a blocking thread.

use std::io;
use std::sync::Arc;

use ahash::AHashSet;

use super::encode::{self, RouteHeader, family_number};
use super::nexthop;
use super::parse::{self, Route};
use super::socket::Client;
use super::wire;
use super::{MAIN_TABLE, Ours};
use crate::forward::{Dump, Hop, Nexthop, NexthopObject, RouteKind, Target};
use crate::net::Family;

/// How often a dump is begun again that a change tore. The last one counts: what it missed comes
/// as an event.
const ATTEMPTS: u32 = 4;

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
