//! Which firewall rules the node needs: values, and the scripts for `nft -f` and `iptables-restore` that make
//! them so.
//!
//! The nftables table is ours alone and replaced whole in one transaction, so no packet sees half of it. It
//! accepts nothing: what other tables forbid stays forbidden. All it drops is IP-in-IP from strangers.
//!
//! | file | what it knows |
//! | --- | --- |
//! | [`ends`] | who may send IP-in-IP to us |
//! | [`docker`] | the rule in Docker's own chain |
//! | [`firewalld`] | what firewalld has to be told |
//! | `verdict` | what the rules do to a packet |

pub mod docker;
pub mod ends;
pub mod firewalld;
mod verdict;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

pub use self::verdict::{SourceNat, source_nat};
use crate::net::{Family, Prefix, outermost};

/// The rules of a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ruleset {
    /// Name of our table, family `inet`: an nft identifier
    pub table: String,
    /// Our own container subnets
    pub subnets: Vec<Prefix>,
    /// The pools all container subnets lie in
    pub pools: Vec<Prefix>,
    /// Source-NAT for container traffic that leaves the pools
    pub masquerade: bool,
    /// Who may send IP-in-IP here; `None`: anybody
    pub guard: Option<Guard>,
}

/// Who may send IP-in-IP to this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Guard {
    /// The near end of our tunnel: other tunnels of the host are none of our business
    pub node: Ipv4Addr,
    /// Far ends by address; they come and go, so they are a set of their own in the kernel
    pub ends: BTreeSet<Ipv4Addr>,
    /// Far ends by prefix, as the operator wrote them
    pub prefixes: Vec<Prefix>,
}

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counted {
    /// How many
    pub packets: u64,
    /// Their lengths with all headers of the network layer
    pub bytes: u64,
}

/// Name of the counter of what the guard refused.
pub const REFUSED: &str = "unknown_tunnel_end";
/// Name of the set of known tunnel ends.
pub const ENDS: &str = "tunnel_ends";

impl Ruleset {
    /// What `nft -f` takes to replace our table whole, whether it was there or not. The order of
    /// `subnets` and `pools` makes no difference. A ruleset without rules removes the table. `refused`: the
    /// total that the guard's counter goes on from.
    pub fn script(&self, refused: Counted) -> String {
        let mut script = self.remove_script();
        let chains: String = [self.tunnel_guard(refused), self.keep_source(), self.leave_pools()].concat();
        if !chains.is_empty() {
            // Writing to a string can't fail.
            let _ = writeln!(script, "table inet {} {{\n{chains}}}", self.table);
        }
        script
    }

    /// Whether there is nothing to rule.
    pub fn is_empty(&self) -> bool {
        self.guard.is_none() && self.keep_source().is_empty() && self.leave_pools().is_empty()
    }

    /// What `nft -f` takes where `before` is in force and only tunnel ends have come or gone since: nothing else
    /// is touched. `None`: more is different.
    pub fn ends_script(&self, before: &Self) -> Option<String> {
        let (guard, former) = (self.guard.as_ref()?, before.guard.as_ref()?);
        let otherwise_same = Self { guard: Some(Guard { ends: former.ends.clone(), ..guard.clone() }), ..self.clone() };
        if otherwise_same != *before {
            return None;
        }
        let change = |verb: &str, ends: Vec<String>| match ends.as_slice() {
            [] => String::new(),
            ends => format!("{verb} element inet {} {ENDS} {{ {} }}\n", self.table, ends.join(", ")),
        };
        let not_in = |ends: &BTreeSet<Ipv4Addr>, others| ends.difference(others).map(Ipv4Addr::to_string).collect();
        let gone = change("delete", not_in(&former.ends, &guard.ends));
        Some(gone + &change("add", not_in(&guard.ends, &former.ends)))
    }

    /// What `nft -f` takes to remove our table, whether it was there or not.
    pub fn remove_script(&self) -> String {
        // Deleting what isn't there is an error, adding what is isn't.
        format!("add table inet {0}\ndelete table inet {0}\n", self.table)
    }

    /// The tunnel device takes packets from anybody who knows our address, and what is inside may claim to come
    /// from any container. The hook is `input`, where fragments are whole again and a packet that is
    /// dropped has taken no room in the connection table yet; early in it, before anything else counts it in.
    fn tunnel_guard(&self, refused: Counted) -> String {
        let Some(guard) = &self.guard else { return String::new() };
        let Counted { packets, bytes } = refused;
        let ends: Vec<String> = guard.ends.iter().map(Ipv4Addr::to_string).collect();
        // An empty list of elements is a syntax error.
        let elements =
            if ends.is_empty() { String::new() } else { format!("\t\telements = {{ {} }}\n", ends.join(", ")) };
        let prefixes =
            of(&guard.prefixes, Family::Ipv4).map_or_else(String::new, |prefixes| format!("ip saddr != {prefixes} "));
        format!(
            "\tcounter {REFUSED} {{\n\t\tpackets {packets} bytes {bytes}\n\t}}\n\
             \tset {ENDS} {{\n\t\ttype ipv4_addr\n{elements}\t}}\n\
             \tchain tunnel_guard {{\n\t\ttype filter hook input priority raw; policy accept;\n\
             \t\tip protocol 4 ip daddr {} ip saddr != @{ENDS} {prefixes}counter name {REFUSED} drop\n\t}}\n",
            guard.node
        )
    }

    /// Between containers the source address stays. dockerd masquerades all that leaves its
    /// bridge, and puts its rule first again at each start; an `accept` in a chain of ours would not
    /// stop it. A translation to the same address does: the later chains then see a connection
    /// whose translation is settled.
    fn keep_source(&self) -> String {
        let rules = Family::ALL.into_iter().filter_map(|family| {
            let (subnets, pools) = (of(&self.subnets, family)?, of(&self.pools, family)?);
            let ip = keyword(family);
            Some(format!("{ip} saddr {subnets} {ip} daddr {pools} snat {ip} to {ip} saddr"))
        });
        chain("keep_source", "srcnat - 1", rules)
    }

    /// Outside the pools nobody knows the way back to a container.
    fn leave_pools(&self) -> String {
        let rules = Family::ALL.into_iter().filter(|_| self.masquerade).filter_map(|family| {
            let subnets = of(&self.subnets, family)?;
            let ip = keyword(family);
            let outside = of(&self.pools, family).map_or_else(String::new, |pools| format!("{ip} daddr != {pools} "));
            Some(format!("{ip} saddr {subnets} {outside}masquerade"))
        });
        chain("leave_pools", "srcnat", rules)
    }
}

/// The tunnel ends of a table as nft(8) shows it.
pub fn listed_ends(table: &str) -> BTreeSet<Ipv4Addr> {
    let set = table.split_once(&format!("set {ENDS} {{")).map_or("", |(_, set)| set);
    let elements = set.split_once("elements = {").and_then(|(_, elements)| elements.split_once('}'));
    // The next set's elements are not ours.
    let elements = elements.filter(|_| set.find('}') > set.find("elements = {")).map_or("", |(elements, _)| elements);
    elements.split(',').filter_map(|element| element.split_whitespace().next()?.parse().ok()).collect()
}

/// A base chain for source translation; nothing if it has no rules.
fn chain(name: &str, priority: &str, rules: impl Iterator<Item = String>) -> String {
    let mut rules = rules.peekable();
    if rules.peek().is_none() {
        return String::new();
    }
    let mut text = format!("\tchain {name} {{\n\t\ttype nat hook postrouting priority {priority}; policy accept;\n");
    for rule in rules {
        let _ = writeln!(text, "\t\t{rule}");
    }
    text + "\t}\n"
}

/// The prefixes of one family as an anonymous set; `None` if there are none.
fn of(prefixes: &[Prefix], family: Family) -> Option<String> {
    // Elements of a set must not overlap.
    let elements: Vec<String> = outermost(prefixes, family).iter().map(Prefix::to_string).collect();
    (!elements.is_empty()).then(|| format!("{{ {} }}", elements.join(", ")))
}

/// How nft calls a family within the `inet` family.
const fn keyword(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn ruleset(subnets: &[&str], pools: &[&str], masquerade: bool) -> Ruleset {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Ruleset { table: "wayleave".to_owned(), subnets: parse(subnets), pools: parse(pools), masquerade, guard: None }
    }

    fn guarded(ends: &[&str], prefixes: &[&str]) -> Ruleset {
        let guard = Guard {
            node: "192.0.2.11".parse().unwrap(),
            ends: ends.iter().map(|end| end.parse().unwrap()).collect(),
            prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        };
        Ruleset { guard: Some(guard), ..ruleset(&[], &[], true) }
    }

    const NONE: Counted = Counted { packets: 0, bytes: 0 };

    const START: &str = "add table inet wayleave\ndelete table inet wayleave\n";

    fn scripts() -> Vec<(&'static str, Ruleset, String)> {
        let keep = "\tchain keep_source {\n\t\ttype nat hook postrouting priority srcnat - 1; policy accept;\n";
        let leave = "\tchain leave_pools {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n";
        let inner = "\t\tip saddr { 10.244.7.0/24 } ip daddr { 10.244.0.0/16 } snat ip to ip saddr\n";
        let outer = "\t\tip saddr { 10.244.7.0/24 } ip daddr != { 10.244.0.0/16 } masquerade\n";
        let inner6 =
            "\t\tip6 saddr { 2001:db8:7::/64 } ip6 daddr { 2001:db8::/32, 2001:dba::/32 } snat ip6 to ip6 saddr\n";
        let outer6 = "\t\tip6 saddr { 2001:db8:7::/64 } ip6 daddr != { 2001:db8::/32, 2001:dba::/32 } masquerade\n";
        let table = |chains: &str| format!("{START}table inet wayleave {{\n{chains}}}\n");
        let guard = |elements: &str, but: &str| {
            format!(
                "\tcounter unknown_tunnel_end {{\n\t\tpackets 0 bytes 0\n\t}}\n\
                 \tset tunnel_ends {{\n\t\ttype ipv4_addr\n{elements}\t}}\n\
                 \tchain tunnel_guard {{\n\t\ttype filter hook input priority raw; policy accept;\n\
                 \t\tip protocol 4 ip daddr 192.0.2.11 ip saddr != @tunnel_ends {but}counter name unknown_tunnel_end drop\n\t}}\n"
            )
        };
        vec![
            (
                "the usual node",
                ruleset(&["10.244.7.0/24"], &["10.244.0.0/16"], true),
                table(&format!("{keep}{inner}\t}}\n{leave}{outer}\t}}\n")),
            ),
            (
                "without masquerading the source is kept still",
                ruleset(&["10.244.7.0/24"], &["10.244.0.0/16"], false),
                table(&format!("{keep}{inner}\t}}\n")),
            ),
            (
                "both families, in any order, with overlaps and repetitions",
                ruleset(
                    &["2001:db8:7::/64", "10.244.7.0/24", "10.244.7.0/24"],
                    &["2001:dba::/32", "10.244.0.0/16", "2001:db8:4::/48", "10.244.4.0/24", "2001:db8::/32"],
                    true,
                ),
                table(&format!("{keep}{inner}{inner6}\t}}\n{leave}{outer}{outer6}\t}}\n")),
            ),
            ("a router without subnets needs no table", ruleset(&[], &["10.244.0.0/16"], true), START.to_owned()),
            (
                "everything is in the pool",
                ruleset(&["10.244.7.0/24"], &["0.0.0.0/0"], false),
                table(&format!("{keep}{}\t}}\n", inner.replace("10.244.0.0/16", "0.0.0.0/0"))),
            ),
            (
                "a family without pools is outside everywhere",
                ruleset(&["10.244.7.0/24"], &[], true),
                table(&format!("{leave}\t\tip saddr {{ 10.244.7.0/24 }} masquerade\n\t}}\n")),
            ),
            ("a router that ends tunnels and knows nobody yet", guarded(&[], &[]), table(&guard("", ""))),
            (
                "known ends by address and by prefix; IPv6 has no ends",
                guarded(&["192.0.2.13", "192.0.2.12"], &["198.51.100.0/24", "2001:db8::/64", "198.51.100.128/25"]),
                table(&guard("\t\telements = { 192.0.2.12, 192.0.2.13 }\n", "ip saddr != { 198.51.100.0/24 } ")),
            ),
            (
                "the guard beside the rest",
                Ruleset { guard: guarded(&[], &[]).guard, ..ruleset(&["10.244.7.0/24"], &["10.244.0.0/16"], false) },
                table(&format!("{}{keep}{inner}\t}}\n", guard("", ""))),
            ),
        ]
    }

    #[test]
    fn scripts_of_nodes() {
        for (why, ruleset, wanted) in scripts() {
            assert_eq!(ruleset.script(NONE), wanted, "{why}");
            assert_eq!(ruleset.remove_script(), START, "{why}");
            assert_eq!(ruleset.is_empty(), wanted == START, "{why}");
        }
    }

    #[test]
    fn tunnel_ends_come_and_go_by_themselves() {
        let before = guarded(&["192.0.2.12", "192.0.2.13"], &["198.51.100.0/24"]);
        let prefix = "element inet wayleave tunnel_ends";
        let cases = [
            ("nothing is new", before.clone(), Some(String::new())),
            (
                "one for another",
                guarded(&["192.0.2.14", "192.0.2.13"], &["198.51.100.0/24"]),
                Some(format!("delete {prefix} {{ 192.0.2.12 }}\nadd {prefix} {{ 192.0.2.14 }}\n")),
            ),
            (
                "all gone",
                guarded(&[], &["198.51.100.0/24"]),
                Some(format!("delete {prefix} {{ 192.0.2.12, 192.0.2.13 }}\n")),
            ),
            ("a prefix stands in a rule", guarded(&["192.0.2.12", "192.0.2.13"], &[]), None),
            ("no guard any more", Ruleset { guard: None, ..before.clone() }, None),
            ("other rules", Ruleset { masquerade: false, ..before.clone() }, None),
        ];
        for (why, now, wanted) in cases {
            assert_eq!(now.ends_script(&before), wanted, "{why}");
        }
        assert_eq!(before.ends_script(&ruleset(&[], &[], true)), None, "no guard yet");
    }

    #[test]
    fn ends_are_read_back() {
        let shown = "table inet wayleave {\n\tset tunnel_ends {\n\t\ttype ipv4_addr\n\t\telements = { 192.0.2.12, 192.0.2.13,\n\
                     \t\t\t     192.0.2.14 }\n\t}\n\tset other {\n\t\telements = { 192.0.2.99 }\n\t}\n}\n";
        let ends: Vec<String> = listed_ends(shown).iter().map(ToString::to_string).collect();
        assert_eq!(ends, ["192.0.2.12", "192.0.2.13", "192.0.2.14"]);
        let none = "\tset tunnel_ends {\n\t\ttype ipv4_addr\n\t}\n\tset other {\n\t\telements = { 192.0.2.99 }\n\t}\n";
        assert!(listed_ends(none).is_empty() && listed_ends("").is_empty());
    }

    /// In a network namespace of its own, which ends with the process; first without, then over what is there.
    #[test]
    fn nft_takes_the_scripts() {
        let run = |command: &str, input: &str| {
            let mut child = Command::new("unshare")
                .args(["-n", "sh", "-c", command])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .ok()?;
            std::io::Write::write_all(&mut child.stdin.take()?, input.as_bytes()).ok()?;
            child.wait_with_output().ok()
        };
        if !run("nft list ruleset", "").is_some_and(|output| output.status.success()) {
            eprintln!("not tested: nft or the right to make a network namespace is missing");
            return;
        }
        for (why, ruleset, wanted) in scripts() {
            let script = ruleset.script(Counted { packets: 7, bytes: 420 });
            let twice = r#"s=$(cat); for i in 1 2; do printf '%s\n' "$s" | nft -f - || exit 1; done; nft list ruleset"#;
            let output = run(twice, &script).unwrap();
            let (shown, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{why}: {error}\n{script}");
            let rules = |text: &str| {
                text.matches("snat ip").count()
                    + text.matches(" masquerade\n").count()
                    + text.matches(" drop\n").count()
            };
            assert_eq!(rules(&shown), rules(&wanted), "{why}: {shown}");
            let ends = ruleset.guard.as_ref().map(|guard| guard.ends.clone());
            assert_eq!(listed_ends(&shown), ends.unwrap_or_default(), "{why}: {shown}");
            assert_eq!(shown.contains("packets 7 bytes 420"), ruleset.guard.is_some(), "{why}: {shown}");
        }
    }
}
