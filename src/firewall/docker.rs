//! The rule that Docker needs: in its own chain, for nowhere else does an accept overrule its drop.
//!
//! dockerd sets the policy of FORWARD to DROP and lets nothing in to a container but answers and published
//! ports. `DOCKER-USER` is the chain that it walks first, never changes, and keeps across its restarts.

use crate::net::{Family, Prefix, outermost};

/// Docker's chain for rules of others, in the table `filter`.
pub const CHAIN: &str = "DOCKER-USER";
/// What marks a rule as ours.
const COMMENT: &str = "--comment wayleave ";

/// The rules of one family, as `iptables -S` shows them after the chain's name: from the pools to our subnets. Without
/// the source anybody with a route could reach ports that are not published.
pub fn rules(pools: &[Prefix], subnets: &[Prefix], family: Family) -> Vec<String> {
    let subnets = outermost(subnets, family);
    // A prefix of everything is not shown.
    let option = |name: &str, prefix: &Prefix| {
        if prefix.len() == 0 { String::new() } else { format!("{name} {prefix} ") }
    };
    let rule = |pool: &Prefix, subnet: &Prefix| {
        format!("{}{}-m comment {COMMENT}-j ACCEPT", option("-s", pool), option("-d", subnet))
    };
    outermost(pools, family).iter().flat_map(|pool| subnets.iter().map(move |subnet| rule(pool, subnet))).collect()
}

/// What `iptables-restore --noflush` takes to bring the chain, as `iptables -S DOCKER-USER` shows it, to hold each of
/// `rules` once, where it is reached, and no other of ours. `None`: so it is.
///
/// Rules of ours go to the top. Where somebody has put others above them since, they meant to.
pub fn repair(shown: &str, rules: &[String]) -> Option<String> {
    let appended = format!("-A {CHAIN} ");
    let mut reached = true;
    let (mut found, mut in_vain) = (Vec::new(), false);
    for rule in shown.lines().filter_map(|line| line.strip_prefix(&appended)) {
        if rule.contains(COMMENT) {
            found.push(rule);
            in_vain |= !reached;
        }
        reached &= !ends_walk(rule);
    }
    let (mut have, mut want) = (found.clone(), rules.iter().map(String::as_str).collect::<Vec<_>>());
    have.sort_unstable();
    want.sort_unstable();
    if have == want && !in_vain {
        return None;
    }
    let gone = found.iter().map(|rule| format!("-D {CHAIN} {rule}\n"));
    let new = rules.iter().rev().map(|rule| format!("-I {CHAIN} 1 {rule}\n"));
    let lines: String = gone.chain(new).collect();
    Some(format!("*filter\n{lines}COMMIT\n"))
}

/// Whether nothing behind a rule is ever looked at. From a chain of somebody's (`-j`) packets come back, and whoever
/// only logs lets them go on.
fn ends_walk(rule: &str) -> bool {
    matches!(
        rule.split_whitespace().collect::<Vec<_>>().as_slice(),
        ["-j", "ACCEPT" | "DROP" | "RETURN"] | ["-j", "REJECT", ..] | ["-g", _]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn from_the_pools_to_our_subnets_in_one_family() {
        let pools = prefixes(&["10.244.0.0/16", "fd44::/16", "10.245.0.0/16", "10.244.8.0/24"]);
        let subnets = prefixes(&["10.244.7.0/24", "fd44:7::/64"]);
        let end = "-m comment --comment wayleave -j ACCEPT";
        let ipv4 = ["10.244.0.0/16", "10.245.0.0/16"].map(|pool| format!("-s {pool} -d 10.244.7.0/24 {end}"));
        assert_eq!(rules(&pools, &subnets, Family::Ipv4), ipv4);
        assert_eq!(rules(&pools, &subnets, Family::Ipv6), [format!("-s fd44::/16 -d fd44:7::/64 {end}")]);
        assert!(rules(&pools, &[], Family::Ipv4).is_empty());
        let all = rules(&prefixes(&["0.0.0.0/0"]), &prefixes(&["10.244.7.9/32"]), Family::Ipv4);
        assert_eq!(all, [format!("-d 10.244.7.9/32 {end}")]);
    }

    #[test]
    fn each_rule_once_and_where_it_is_reached() {
        let rules = rules(&prefixes(&["10.244.0.0/16"]), &prefixes(&["10.244.7.0/24"]), Family::Ipv4);
        let (ours, old) = (rules[0].as_str(), rules[0].replace("244.7", "244.9"));
        let line = |rule: &str| format!("-A DOCKER-USER {rule}\n");
        let script = |lines: &[String]| Some(format!("*filter\n{}\nCOMMIT\n", lines.join("\n")));
        let (put, take) = (format!("-I DOCKER-USER 1 {ours}"), |rule: &str| format!("-D DOCKER-USER {rule}"));
        let back = line("-j RETURN");
        let put_in = || script(std::slice::from_ref(&put));
        let anew = || script(&[take(ours), put.clone()]);
        let cases = [
            ("a fresh chain", String::new(), put_in()),
            ("as old versions of Docker leave it", back.clone(), put_in()),
            ("so it should be", line(ours) + &back, None),
            ("others may stand above it", line("-s 10.9.0.0/16 -j DROP") + &line(ours), None),
            ("a chain that packets come back from", line("-j ufw-user-forward") + &line(ours), None),
            ("a log", line("-j LOG --log-prefix \"in \"") + &line("-j LOG") + &line(ours), None),
            ("rejected", line("-j REJECT --reject-with icmp-port-unreachable") + &line(ours), anew()),
            ("dropped", line("-j DROP") + &line(ours), anew()),
            ("away for good", line("-g elsewhere") + &line(ours), anew()),
            ("twice", line(ours) + &line(ours), script(&[take(ours), take(ours), put.clone()])),
            ("never reached", back.clone() + &line(ours), anew()),
            ("of another subnet", line(&old), script(&[take(&old), put.clone()])),
            ("not ours, though it does the same", line("-s 10.244.0.0/16 -d 10.244.7.0/24 -j ACCEPT"), put_in()),
        ];
        for (why, lines, wanted) in cases {
            assert_eq!(repair(&format!("-N DOCKER-USER\n{lines}"), &rules), wanted, "{why}");
        }
        assert_eq!(repair(&line(ours), &[]), script(&[take(ours)]), "nothing is wanted any more");
        assert_eq!(repair(&back, &[]), None);
    }
}
