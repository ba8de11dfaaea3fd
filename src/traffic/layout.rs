//! The kernel's table of counters: which sets and rules there are, and the script for `nft -f` that makes
//! them so.
//!
//! A set for each direction, path and length of prefix, with a counter in each element; rules ask the
//! longest length first, which is a longest match by hash lookups alone. Interval sets would need one rule,
//! but refuse prefixes that lie in each other and are slow to change. What lies in the pools and matches
//! nothing ends at length 0, where one element takes all.
//!
//! A packet is counted once each way: on its way out after routing (`postrouting`, which sees what is
//! forwarded and what this host sends, by the address it goes to), on its way in before routing
//! (`prerouting`, by the address it comes from). Source translation comes before the one and after the other
//! as far as these addresses are concerned. A tunnelled packet passes both twice, as itself over the tunnel
//! device and in its shell, whose addresses are those of nodes.

use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Direction, MOST, Path};
use crate::net::{Family, Prefix, outermost};

/// Where in `postrouting`: behind all source translation (100, `NF_IP_PRI_NAT_SRC` in linux/netfilter_ipv4.h)
/// and whatever else may still drop the packet.
const LATE: i32 = 300;
/// Where in `prerouting`: before connection tracking (-200), with those who drop early (-300, raw).
const EARLY: i32 = -300;

/// A set of counters: one for each prefix of a length.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Set {
    /// Direction
    pub direction: Direction,
    /// Path
    pub path: Path,
    /// Address family
    pub family: Family,
    /// Length of the prefixes in it
    pub len: u8,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}_{}", self.direction.label(), self.path.label(), self.family, self.len)
    }
}

impl Set {
    /// The set of this name; none: no set of ours is called so.
    pub fn named(name: &str) -> Option<Self> {
        let all = Direction::ALL.into_iter().flat_map(|direction| Path::ALL.map(|path| (direction, path)));
        all.flat_map(|(direction, path)| Family::ALL.map(|family| Self { direction, path, family, len: 0 })).find_map(
            |set| {
                let len = name.strip_prefix(set.to_string().strip_suffix('0')?)?.parse().ok()?;
                // `024` is no name of ours.
                Some(Self { len, ..set }).filter(|set| len <= set.family.bits() && set.to_string() == name)
            },
        )
    }

    /// The sets that a prefix has an element in.
    pub fn of(prefix: Prefix) -> impl Iterator<Item = Self> {
        let (family, len) = (prefix.family(), prefix.len());
        let paths =
            move |direction| Path::of(family).iter().map(move |path| Self { direction, path: *path, family, len });
        Direction::ALL.into_iter().flat_map(paths)
    }
}

/// The table but for what is in its sets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Layout {
    /// Name of the table, family `inet`
    pub table: String,
    /// Name of the tunnel device
    pub tunnel: String,
    /// Only what goes to or comes from these is counted
    pub pools: Vec<Prefix>,
    /// What this host holds itself: never counted
    pub own: Vec<Prefix>,
    /// Families and lengths of the prefixes that have elements
    pub lengths: BTreeSet<(Family, u8)>,
}

impl Layout {
    /// Every set of it.
    pub fn sets(&self) -> impl Iterator<Item = Set> + '_ {
        self.lengths.iter().flat_map(|(family, len)| Set::of(Prefix::new(Prefix::default_route(*family).addr(), *len)))
    }

    /// What `nft -f` takes to bring rules and sets to this, in one transaction, whatever was there before.
    /// Sets that stay keep what they have counted; `there` are those of which some may have to go.
    pub fn script(&self, there: &[Set]) -> String {
        let table = &self.table;
        let wanted: BTreeSet<Set> = self.sets().collect();
        let mut script = format!("add table inet {table}\n");
        for set in &wanted {
            let kind = match set.family {
                Family::Ipv4 => "ipv4_addr",
                Family::Ipv6 => "ipv6_addr",
            };
            // Writing to a string can't fail, here and below. With a size the kernel takes a hash table that
            // never grows: no lookup waits for another.
            let _ = writeln!(script, "add set inet {table} {set} {{ type {kind}; size {MOST}; counter; }}");
        }
        let mut rules = String::new();
        for direction in Direction::ALL {
            let chain = direction.label();
            let (hook, priority) = match direction {
                Direction::Transmit => ("postrouting", LATE),
                Direction::Receive => ("prerouting", EARLY),
            };
            let base = format!("{{ type filter hook {hook} priority {priority}; policy accept; }}");
            let _ = write!(script, "add chain inet {table} {chain} {base}\nflush chain inet {table} {chain}\n");
            for family in Family::ALL {
                for path in Path::of(family) {
                    let inner = inner(direction, *path, family);
                    let _ = write!(script, "add chain inet {table} {inner}\nflush chain inet {table} {inner}\n");
                }
                for rule in self.rules(direction, family) {
                    let _ = writeln!(rules, "add rule inet {table} {rule}");
                }
            }
        }
        for set in there.iter().filter(|set| !wanted.contains(set)) {
            let _ = writeln!(rules, "delete set inet {table} {set}");
        }
        script + &rules
    }

    /// What `nft -f` takes to remove the table, whether it is there or not.
    pub fn remove_script(table: &str) -> String {
        format!("add table inet {table}\ndelete table inet {table}\n")
    }

    fn rules(&self, direction: Direction, family: Family) -> Vec<String> {
        let (ip, field) = match (family, direction) {
            (Family::Ipv4, Direction::Transmit) => ("ip", "ip daddr"),
            (Family::Ipv4, Direction::Receive) => ("ip", "ip saddr"),
            (Family::Ipv6, Direction::Transmit) => ("ip6", "ip6 daddr"),
            (Family::Ipv6, Direction::Receive) => ("ip6", "ip6 saddr"),
        };
        let direct = inner(direction, Path::Direct, family);
        let pools = outermost(&self.pools, family).into_iter();
        let mut rules: Vec<String> =
            pools.map(|pool| format!("{} {field} {pool} goto {direct}", direction.label())).collect();
        if Path::of(family).contains(&Path::Tunnel) {
            // By name: the device may come and go.
            let device = match direction {
                Direction::Transmit => "oifname",
                Direction::Receive => "iifname",
            };
            let tunnel = inner(direction, Path::Tunnel, family);
            rules.push(format!("{direct} {device} \"{}\" goto {tunnel}", self.tunnel));
        }
        for path in Path::of(family) {
            let chain = inner(direction, *path, family);
            for step in self.steps(family) {
                if step == Step::Set(0) && *path == Path::Direct && Path::of(family).contains(&Path::Tunnel) {
                    // Where nodes have addresses in the pools: what is in the shell is counted as itself.
                    rules.push(format!("{chain} {ip} protocol 4 return"));
                }
                let is_in = match step {
                    Step::Own(own) => own.to_string(),
                    Step::Set(len) => {
                        let set = Set { direction, path: *path, family, len };
                        if len == family.bits() { format!("@{set}") } else { format!("& {} @{set}", mask(family, len)) }
                    }
                };
                rules.push(format!("{chain} {field} {is_in} return"));
            }
        }
        rules
    }

    /// What is asked one after the other: the longest first, and at the same length what is our own.
    fn steps(&self, family: Family) -> Vec<Step> {
        let own = self.own.iter().filter(|own| own.family() == family);
        let sets = self.lengths.iter().filter(|(of, _)| *of == family);
        let mut steps: Vec<Step> = own.map(|own| Step::Own(*own)).chain(sets.map(|(_, len)| Step::Set(*len))).collect();
        steps.sort_by_key(|step| match step {
            Step::Own(own) => (std::cmp::Reverse(own.len()), 0, Some(*own)),
            Step::Set(len) => (std::cmp::Reverse(*len), 1, None),
        });
        steps.dedup();
        steps
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Own(Prefix),
    Set(u8),
}

fn inner(direction: Direction, path: Path, family: Family) -> String {
    format!("{}_{}_{family}", direction.label(), path.label())
}

fn mask(family: Family, len: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)).into(),
        Family::Ipv6 => Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)).into(),
    }
}
