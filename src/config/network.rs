//! `[network]`: the addresses of containers and how they are reached.

use std::path::PathBuf;

use crate::config::diagnostic::Problem;
use crate::config::reader::{Distinct, Place, Table, Value};
use crate::config::store::Store;
use crate::config::words::without_places;
use crate::forward::TunnelMode;
use crate::net::{Family, PerFamily, Prefix};

/// `[network]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Network {
    /// Every container subnet lies in one of these; no two overlap
    pub pools: Vec<Prefix>,
    /// Ours, each within a pool, no two overlapping; empty: none; `None`: lease one from the store
    pub subnets: Option<Vec<Prefix>>,
    /// Length of a subnet that is leased from the pools of this file
    pub subnet_length: PerFamily<u8>,
    /// How many subnets to lease in each family
    pub subnets_wanted: usize,
    /// Where to write what a container runtime has to know, in flannel's form; `None`: nowhere
    pub subnet_file: Option<PathBuf>,
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
    } else if table.value("subnets").is_none() && written == Some(0) && matches!(store, Some(Store::Embedded)) {
        table.report(
            "subnets",
            Problem::Missing(
                "subnets = [\"10.244.7.0/24\"], or [] for a pure router, or pools = [\"10.244.0.0/16\"] to take one from",
            ),
        );
    }
    let leases = subnets.is_none() && table.value("subnets").is_none();
    let subnet_length = subnet_length(table, if leases { &pools } else { &[] });
    Network {
        pools,
        subnets: subnets.map(without_places),
        subnet_length,
        subnets_wanted: table.number("subnets_wanted", 1..=64).unwrap_or(1),
        subnet_file: match table.value("subnet_file") {
            None => Some(PathBuf::from("/run/wayleave/subnet.env")),
            Some(value) if value.as_text() == Some("") => None,
            Some(value) => value.word(),
        },
        tunnel: table.choice("tunnel", &TUNNEL).unwrap_or_default(),
        tunnel_endpoints: table.words("tunnel_endpoints").map(without_places).unwrap_or_default(),
        masquerade: table.flag("masquerade").unwrap_or(true),
    }
}

/// The lengths by family, which must fit `pools`.
fn subnet_length(table: &Table<'_>, pools: &[Prefix]) -> PerFamily<u8> {
    // A subnet has its node's own address and those of at least two containers.
    const MOST: PerFamily<u8> = PerFamily::new(30, 126);
    const DEFAULT: PerFamily<u8> = PerFamily::new(24, 64);
    let value = table.value("subnet_length");
    let read = |table: &Table<'_>| {
        let length = |key, most: u8| table.number(key, 1..=most.into());
        PerFamily::new(length("ipv4", MOST[Family::Ipv4]), length("ipv6", MOST[Family::Ipv6]))
    };
    let table_of = |value: &Value<'_>| {
        if value.is_table() { value.table(read) } else { value.unfit("a table such as { ipv4 = 24, ipv6 = 64 }") }
    };
    let written = value.as_ref().and_then(table_of).unwrap_or_default();
    let lengths = PerFamily::from_fn(|family| written[family].unwrap_or(DEFAULT[family]));
    for pool in pools {
        let (length, most) = (lengths[pool.family()], MOST[pool.family()]);
        if length < pool.len() {
            let problem = Problem::SubnetTooLarge { length, pool: *pool, most };
            match &value {
                Some(value) => value.report(problem),
                None => table.report("subnet_length", problem),
            }
        }
    }
    lengths
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
