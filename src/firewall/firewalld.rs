//! What firewalld keeps from the node's traffic, read from its nftables table, and what to type about it.
//!
//! firewalld rejects whatever no zone lets through, and rules of other tables can't overrule that. It is the
//! operator's to say who is trusted, so nothing is changed here: the commands are named.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::net::{Family, Prefix};

/// firewalld's table, family `inet`.
pub const TABLE: &str = "firewalld";

/// What has to be let through.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Needs {
    /// All containers: between them everything is forwarded
    pub pools: Vec<Prefix>,
    /// Devices that lead to other nodes and routers, with the networks there
    pub uplinks: BTreeMap<String, Vec<Prefix>>,
    /// The tunnel device, if there may be one: its packets are protocol 4 on the uplinks
    pub tunnel: Option<String>,
    /// Ports that are open on the uplinks: `179/tcp`
    pub ports: Vec<String>,
}

/// The commands to type; none: all is let through, as far as rules of the shapes that firewalld makes tell.
pub fn commands(table: &str, needs: &Needs) -> Vec<String> {
    let table = Table::read(table);
    let mut commands = Vec::new();
    let rejected: Vec<&Prefix> = needs.pools.iter().filter(|pool| !table.forwards(pool)).collect();
    if !rejected.is_empty() {
        let mut command = "firewall-cmd --permanent --zone=trusted".to_owned();
        for pool in rejected {
            // Writing to a string can't fail.
            let _ = write!(command, " --add-source={pool}");
        }
        commands.push(command);
        if let Some(device) = &needs.tunnel {
            commands.push(format!("firewall-cmd --permanent --zone=trusted --add-interface={device}"));
        }
    }
    let protocol = needs.tunnel.iter().map(|_| Wanted::Tunnel);
    let wanted: Vec<Wanted<'_>> = protocol.chain(needs.ports.iter().map(|port| Wanted::Port(port))).collect();
    let mut zones: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for zone in needs.uplinks.iter().filter_map(|(uplink, networks)| table.zone_of(uplink, networks)) {
        let refused = wanted.iter().filter(|wanted| !table.takes(zone, **wanted));
        let options: Vec<String> = refused.map(|wanted| wanted.option()).collect();
        if !options.is_empty() {
            zones.insert(zone, options);
        }
    }
    // Options of several kinds can't be given at once.
    for (zone, options) in zones {
        commands.extend(options.iter().map(|option| format!("firewall-cmd --permanent --zone={zone} {option}")));
    }
    if !commands.is_empty() {
        commands.push("firewall-cmd --reload".to_owned());
    }
    commands
}

#[derive(Clone, Copy)]
enum Wanted<'a> {
    Tunnel,
    Port(&'a str),
}

impl Wanted<'_> {
    fn option(self) -> String {
        match self {
            // As /etc/protocols calls protocol 4.
            Self::Tunnel => "--add-protocol=ipencap".to_owned(),
            Self::Port(port) => format!("--add-port={port}"),
        }
    }

    fn is_taken_by(self, rule: &str) -> bool {
        let words: Vec<&str> = rule.split_whitespace().collect();
        let (Some(&"accept"), true) = (words.last(), words.len() > 1) else { return false };
        match self {
            Self::Tunnel => words.iter().any(|word| matches!(*word, "ipencap" | "ipip" | "4")),
            Self::Port(port) => port.split_once('/').is_some_and(|(number, protocol)| {
                rule.contains(&format!("{protocol} dport")) && words.contains(&number)
            }),
        }
    }
}

/// What directs packets to a zone's chain.
struct Dispatch<'a> {
    source: Option<Prefix>,
    device: Option<&'a str>,
    chain: &'a str,
}

/// The chains of a table with their rules.
struct Table<'a> {
    chains: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Table<'a> {
    fn read(text: &'a str) -> Self {
        let mut chains: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut current = None;
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {")) {
                current = Some(name);
                chains.entry(name).or_default();
            } else if line == "}" {
                current = None;
            } else if let Some(rules) = current.and_then(|name| chains.get_mut(name)) {
                rules.push(line);
            }
        }
        Self { chains }
    }

    /// Who goes where in the hook whose chains have this in their names.
    fn dispatches(&self, hook: &str) -> impl Iterator<Item = Dispatch<'a>> {
        let chain_of = format!("filter_{hook}");
        self.chains.values().flatten().filter_map(move |rule| {
            let (condition, chain) = rule.split_once("goto ").or_else(|| rule.split_once("jump "))?;
            if !chain.starts_with(&chain_of) {
                return None;
            }
            let after = |word: &str| condition.split_once(word).and_then(|(_, rest)| rest.split_whitespace().next());
            let source = after("saddr ");
            // A source that is no plain prefix, such as a set, says nothing that we could read.
            let prefix =
                source.and_then(|source| source.parse().ok().or_else(|| source.parse().ok().map(Prefix::host)));
            let readable = source.is_none() || prefix.is_some();
            let device = after("iifname ").map(|device| device.trim_matches('"'));
            readable.then_some(Dispatch { source: prefix, device, chain })
        })
    }

    /// Whether a zone forwards all that comes from these addresses.
    fn forwards(&self, pool: &Prefix) -> bool {
        let covers = |dispatch: &Dispatch<'_>| dispatch.source.is_some_and(|source| source.covers(pool));
        // `FWD`, and in versions before 1.0 `FWDI`.
        self.dispatches("FWD").filter(covers).any(|dispatch| self.accepts_all(dispatch.chain))
    }

    fn accepts_all(&self, chain: &str) -> bool {
        self.chains.get(chain).is_some_and(|rules| rules.contains(&"accept"))
    }

    /// The zone that packets come in by over a device; none: there is none, or all of the device's networks are trusted.
    fn zone_of(&self, device: &str, networks: &[Prefix]) -> Option<&'a str> {
        let fits = |dispatch: &Dispatch<'_>| match dispatch.device {
            Some(name) => name.strip_suffix('*').map_or(name == device, |start| device.starts_with(start)),
            None => false,
        };
        let zones = || self.dispatches("IN_").filter(|dispatch| dispatch.source.is_none());
        // Behind all others stands that of the default zone; policies stand elsewhere.
        let rest = |dispatch: &Dispatch<'_>| dispatch.device.is_none() && self.is_zone(dispatch.chain);
        let chain = zones().find(fits).or_else(|| zones().find(rest))?.chain;
        // Who trusts the underlay by its addresses needs nothing more.
        let trusted: Vec<Dispatch<'_>> =
            self.dispatches("IN_").filter(|dispatch| self.accepts_all(dispatch.chain)).collect();
        let is_trusted = |network: &Prefix| {
            trusted.iter().any(|dispatch| dispatch.source.is_some_and(|source| source.covers(network)))
        };
        let mut ipv4 = networks.iter().filter(|network| network.family() == Family::Ipv4).peekable();
        if ipv4.peek().is_some() && ipv4.all(is_trusted) {
            return None;
        }
        chain.strip_prefix("filter_IN_")
    }

    /// A zone has a chain of its own for what it allows, as a policy has, and is not called one.
    fn is_zone(&self, chain: &str) -> bool {
        !chain.starts_with("filter_IN_policy_") && self.chains.contains_key(format!("{chain}_allow").as_str())
    }

    fn takes(&self, zone: &str, wanted: Wanted<'_>) -> bool {
        let rules = |suffix: &str| self.chains.get(format!("filter_IN_{zone}{suffix}").as_str()).into_iter().flatten();
        self.accepts_all(&format!("filter_IN_{zone}"))
            || ["", "_allow", "_pre"].into_iter().flat_map(rules).any(|rule| wanted.is_taken_by(rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut from `nft list table inet firewalld` of firewalld 1.3.3 after a start with its default settings.
    const FRESH: &str = include_str!("firewalld-fresh.nft");
    /// The same after the commands were typed.
    const DONE: &str = include_str!("firewalld-done.nft");

    fn needs() -> Needs {
        Needs {
            pools: vec!["10.244.0.0/16".parse().unwrap()],
            uplinks: [(
                "eth0".to_owned(),
                ["192.0.2.0/25", "fe80::/64"].map(|network| network.parse().unwrap()).into(),
            )]
            .into(),
            tunnel: Some("wayleave0".to_owned()),
            ports: vec!["179/tcp".to_owned()],
        }
    }

    #[test]
    fn what_to_type() {
        let source = "firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16";
        let device = "firewall-cmd --permanent --zone=trusted --add-interface=wayleave0";
        let protocol = "firewall-cmd --permanent --zone=public --add-protocol=ipencap";
        let port = "firewall-cmd --permanent --zone=public --add-port=179/tcp";
        let reload = "firewall-cmd --reload";
        let default_only = DONE.replace("iifname \"eth0\" goto filter_IN_public", "");
        let wide =
            DONE.replace("saddr 10.244.0.0/16 goto filter_FWD_trusted", "saddr 10.0.0.0/8 goto filter_FWD_trusted");
        let narrow =
            DONE.replace("saddr 10.244.0.0/16 goto filter_FWD_trusted", "saddr 10.244.0.0/17 goto filter_FWD_trusted");
        let trusting = FRESH.replace(
            "\t\tgoto filter_IN_public",
            "\t\tip saddr 192.0.2.0/24 goto filter_IN_trusted\n\t\tgoto filter_IN_public",
        ) + "\tchain filter_IN_trusted {\n\t\taccept\n\t}\n\tchain filter_IN_trusted_allow {\n\t}\n";
        let elsewhere = trusting.replace("ip saddr 192.0.2.0/24", "ip saddr 203.0.113.7");
        let cases: [(&str, &str, &[&str]); 8] = [
            ("as it is after its installation", FRESH, &[source, device, protocol, port, reload]),
            ("all done", DONE, &[]),
            ("done in the default zone", &default_only, &[]),
            ("a wider source will do", &wide, &[]),
            ("a narrower one won't", &narrow, &[source, device, reload]),
            ("the protocol went again", &DONE.replace("meta l4proto ipencap accept", ""), &[protocol, reload]),
            ("the underlay is trusted by its addresses", &trusting, &[source, device, reload]),
            ("somebody else is trusted", &elsewhere, &[source, device, protocol, port, reload]),
        ];
        for (why, table, wanted) in cases {
            assert_eq!(commands(table, &needs()), wanted, "{why}");
        }
        let router = Needs { pools: Vec::new(), tunnel: None, ports: Vec::new(), ..needs() };
        assert!(commands(FRESH, &router).is_empty(), "who needs nothing is told nothing");
    }
}
