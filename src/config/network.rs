//! `[network]`: the addresses of containers and how they are reached.

use crate::config::diagnostic::Problem;
use crate::config::reader::{Distinct, Place, Table};
use crate::config::store::Store;
use crate::config::words::without_places;
use crate::forward::TunnelMode;
use crate::net::Prefix;

/// `[network]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Network {
    /// Every container subnet lies in one of these; no two overlap
    pub pools: Vec<Prefix>,
    /// Ours, each within a pool, no two overlapping; empty: none; `None`: lease one from the store
    pub subnets: Option<Vec<Prefix>>,
    /// When to use IP-in-IP
    pub tunnel: TunnelMode,
    /// Next hops known to end IP-in-IP though their routes don't say so
    pub tunnel_endpoints: Vec<Prefix>,
    /// Source-NAT for container traffic that leaves the pools
    pub masquerade: bool,
}

/// Reads `[network]`; `store` is `None` where that section has errors.
pub(super) fn read(table: &Table<'_>, store: Option<&Store>) -> Network {
    const TUNNEL: [(&str, TunnelMode); 3] =
        [("never", TunnelMode::Never), ("cross-subnet", TunnelMode::CrossSubnet), ("always", TunnelMode::Always)];

    let written = table.value("pools").map_or(Some(0), |value| value.list_len());
    let pools = without_places(apart(table.words("pools").unwrap_or_default()));
    let subnets = table.words::<Prefix>("subnets").map(apart);

    if let Some(subnets) = &subnets {
        if written == Some(0) && !subnets.is_empty() {
            table.report(
                "pools",
                Problem::Missing("pools = [\"10.244.0.0/16\"]: the prefix that all container subnets lie in"),
            );
        }
        // A pool that could not be read may be the one that a subnet lies in.
        let pools_known = !pools.is_empty() && written == Some(pools.len());
        let outside = |subnet: &Prefix| pools_known && !pools.iter().any(|pool| pool.covers(subnet));
        for (subnet, place) in subnets.iter().filter(|(subnet, _)| outside(subnet)) {
            place.report(Problem::OutsidePools { found: *subnet, pools: pools.clone() });
        }
    } else if table.value("subnets").is_none() && matches!(store, Some(Store::Embedded)) {
        table.report(
            "subnets",
            Problem::Missing(
                "subnets = [\"10.244.7.0/24\"], or [] for a pure router: there is no store to lease one from",
            ),
        );
    }
    Network {
        pools,
        subnets: subnets.map(without_places),
        tunnel: table.choice("tunnel", &TUNNEL).unwrap_or_default(),
        tunnel_endpoints: table.words("tunnel_endpoints").map(without_places).unwrap_or_default(),
        masquerade: table.flag("masquerade").unwrap_or(true),
    }
}

/// Reports prefixes that have an address in common with an earlier one.
fn apart(prefixes: Vec<(Prefix, Place<'_>)>) -> Vec<(Prefix, Place<'_>)> {
    let mut distinct = Distinct::new(Prefix::overlaps, |found: &Prefix, other, earlier| Problem::Overlap {
        found: *found,
        other: *other,
        earlier,
    });
    for (prefix, place) in &prefixes {
        distinct.add(*prefix, place);
    }
    prefixes
}
