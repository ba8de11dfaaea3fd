//! Which nftables rules the node needs: a value, and the script for `nft -f` that makes it so.
//!
//! The table is ours alone and replaced whole in one transaction, so no packet sees half of it. It
//! accepts and drops nothing: what other tables forbid stays forbidden.

use std::fmt::Write as _;

use crate::net::{Family, Prefix};

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
}

impl Ruleset {
    /// What `nft -f` takes to replace our table whole, whether it was there or not. The order of
    /// `subnets` and `pools` makes no difference. A ruleset without rules removes the table.
    pub fn script(&self) -> String {
        let mut script = self.remove_script();
        let chains: String = [self.keep_source(), self.leave_pools()].concat();
        if !chains.is_empty() {
            // Writing to a string can't fail.
            let _ = writeln!(script, "table inet {} {{\n{chains}}}", self.table);
        }
        script
    }

    /// What `nft -f` takes to remove our table, whether it was there or not.
    pub fn remove_script(&self) -> String {
        // Deleting what isn't there is an error, adding what is isn't.
        format!("add table inet {0}\ndelete table inet {0}\n", self.table)
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
    let mut prefixes: Vec<Prefix> = prefixes.iter().copied().filter(|prefix| prefix.family() == family).collect();
    prefixes.sort_unstable();
    // Elements of a set must not overlap. Sorted, a prefix comes right after one that covers it.
    prefixes.dedup_by(|inner, outer| outer.covers(inner));
    let elements: Vec<String> = prefixes.iter().map(Prefix::to_string).collect();
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
        Ruleset { table: "wayleave".to_owned(), subnets: parse(subnets), pools: parse(pools), masquerade }
    }

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
        ]
    }

    #[test]
    fn scripts_of_nodes() {
        for (why, ruleset, wanted) in scripts() {
            assert_eq!(ruleset.script(), wanted, "{why}");
            assert_eq!(ruleset.remove_script(), START, "{why}");
        }
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
            let script = ruleset.script();
            let twice = r#"s=$(cat); for i in 1 2; do printf '%s\n' "$s" | nft -f - || exit 1; done; nft list ruleset"#;
            let output = run(twice, &script).unwrap();
            let (shown, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{why}: {error}\n{script}");
            let rules = |text: &str| text.matches("snat ip").count() + text.matches(" masquerade\n").count();
            assert_eq!(rules(&shown), rules(&wanted), "{why}: {shown}");
        }
    }
}
