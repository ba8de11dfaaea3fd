//! What the kernel answers, for this host and for a container; and why not what is wanted.

use std::net::IpAddr;

use super::{Container, Found, Sort, Teller};
use crate::explain::kernel::{Action, Answer, Applies, Fate, Rule, protocol, table};
use crate::explain::words::{count, list};

impl Found {
    /// Whether an answer is one of the ways that are wanted.
    fn fits(&self, answer: &Answer) -> bool {
        self.routing.ways.iter().any(|way| way.is(answer))
    }

    /// What the kernel does with traffic of this host.
    pub(super) fn kernel(&self, teller: &mut Teller) {
        let words = self.local.words(&self.devices, self.protocol);
        let drops = !matches!(self.local.fate, Fate::Sent | Fate::Local);
        let decided = matches!(self.sort, Sort::Known(_)) && self.routing.install && !self.routing.ways.is_empty();
        let problem = if decided && !self.fits(&self.local) {
            Some(self.strayed(&self.local, None))
        } else if drops && matches!(self.sort, Sort::Outside) {
            let advice = format!("`ip route get {}`; is there a default route?", self.address);
            Some(("no-way", format!("the kernel has no way there: {}", self.local.fate), advice))
        } else {
            None
        };
        match problem {
            None => teller.plain("kernel", words),
            Some((cause, text, advice)) => {
                teller.plain("kernel", words);
                teller.problem("kernel", cause, text, [advice]);
            }
        }
    }

    /// Why the kernel goes another way than is wanted.
    fn strayed(&self, answer: &Answer, arriving: Option<(IpAddr, &str)>) -> (&'static str, String, String) {
        let Sort::Known(prefix) = self.sort else {
            return ("strayed", "it goes another way".to_owned(), String::new());
        };
        let goes = answer.way(&self.devices);
        let Some(route) = answer.route.filter(|_| answer.fate == Fate::Sent) else {
            return self.dropped(answer, arriving);
        };
        if route.table != self.table && route.is_chosen() {
            let table = table(route.table);
            let rule = self.diverting(arriving, &|rule| rule.action == Action::Lookup(route.table));
            let (who, advice) = match rule {
                Some(rule) if !rule.is_usual() => (
                    format!("the policy rule `{rule}` diverts it to table {table}"),
                    format!("`ip rule del priority {}`, or give table {table} the route as well", rule.priority),
                ),
                _ => (
                    format!(
                        "it is looked up in table {table}, our routes stand in {}",
                        crate::explain::kernel::table(self.table)
                    ),
                    format!("`ip rule add lookup {}`, or kernel.table = {}", self.table, route.table),
                ),
            };
            return ("policy-rule", format!("{who}, where it goes {goes}"), advice);
        }
        let whose = route.words(self.protocol);
        if route.protocol == self.protocol && route.prefix == prefix {
            let text = format!("our route is there, and yet it goes {goes}, by {whose}");
            return (
                "strayed",
                text,
                "`ip nexthop` and `ip route show cache`: was something changed by hand?".to_owned(),
            );
        }
        let (why, advice) = match route.prefix.len().cmp(&prefix.len()) {
            std::cmp::Ordering::Greater => ("is longer", "remove it if nobody wants it"),
            std::cmp::Ordering::Equal => ("has a lower metric", "remove it if nobody wants it"),
            std::cmp::Ordering::Less => {
                ("is used because ours is missing", "`wayleave status` says why ours is missing")
            }
        };
        let command = format!("`ip route del {} proto {} metric {}`", route.prefix, route.protocol, route.metric);
        let advice = if route.prefix.len() < prefix.len() { advice.to_owned() } else { format!("{command}: {advice}") };
        ("foreign-route", format!("a route that is not ours {why}: {whose}; it goes {goes}"), advice)
    }

    /// Why the kernel drops it.
    fn dropped(&self, answer: &Answer, arriving: Option<(IpAddr, &str)>) -> (&'static str, String, String) {
        let rule = self.diverting(arriving, &|rule| rule.action == Action::Reject);
        let (who, advice) = match (rule, self.routing.rejecting) {
            (Some(rule), _) => {
                (format!("by the policy rule `{rule}`"), format!("`ip rule del priority {}`", rule.priority))
            }
            (None, Some((prefix, number, metric))) => (
                format!("by a route that is not ours: {prefix} ({}, metric {metric})", protocol(number, self.protocol)),
                format!("`ip route show {prefix}`: remove it if nobody wants it"),
            ),
            (None, None) => (
                format!("by a route or rule that is not ours ({})", answer.fate),
                format!("`ip route show table all match {}`: which one drops it, and whose is it?", self.address),
            ),
        };
        ("dropped", format!("the kernel drops it, {who}"), advice)
    }

    /// The first rule that is for the packet and does this.
    fn diverting(&self, arriving: Option<(IpAddr, &str)>, does: &dyn Fn(&Rule) -> bool) -> Option<&Rule> {
        let (from, device) = match arriving {
            Some((from, device)) => (Some(from), Some(device)),
            None => (self.local.source, None),
        };
        self.rules.iter().find(|rule| does(rule) && rule.applies(self.address, from, device) > Applies::No)
    }

    /// What the kernel does with a container's traffic.
    pub(super) fn forwarded(&self, teller: &mut Teller) {
        let Some(Container { source, device, answer }) = &self.container else {
            return teller
                .plain("container", "no device of this host holds a subnet of this node: no container to ask for");
        };
        if matches!(self.sort, Sort::Subnet(_)) {
            return;
        }
        let name = self.devices.name(*device);
        let who = format!("from {source} in by {name}");
        if answer.goes_like(&self.local) || (self.fits(answer) && self.fits(&self.local)) {
            return teller.plain("container", format!("{who}: the same way, {}", answer.way(&self.devices)));
        }
        let words = format!("{who}: {}", answer.words(&self.devices, self.protocol));
        match answer.fate {
            // What stops the host's own traffic too has been told.
            fate if fate == self.local.fate && fate != Fate::Sent => teller.plain("container", words),
            Fate::Unreachable => {
                let key = format!("net.ipv4.conf.{}.forwarding", name.replace('.', "/"));
                let text = format!("container traffic that comes in by {name} is not forwarded");
                teller.plain("container", words);
                teller.problem(
                    "container",
                    "not-forwarded",
                    text,
                    [format!("`sysctl net.ipv4.ip_forward {key}`: both must be 1")],
                );
            }
            Fate::Dropped | Fate::SourceRefused => {
                let key = format!("net.ipv4.conf.{}.rp_filter", name.replace('.', "/"));
                let text =
                    format!("container traffic from {source} is not accepted on {name}: the way back leads elsewhere");
                let advice = format!("`ip route get {source}` must lead by {name}; else `sysctl -w {key}=2`");
                teller.plain("container", words);
                teller.problem("container", "source-refused", text, [advice]);
            }
            _ if self.fits(&self.local) => {
                let (cause, text, advice) = self.strayed(answer, Some((*source, &name)));
                teller.plain("container", words);
                teller.problem("container", cause, format!("container traffic goes astray: {text}"), [advice]);
            }
            _ => teller.plain("container", words),
        }
    }

    /// Rules beyond the usual ones that may be for this traffic.
    pub(super) fn rules(&self, teller: &mut Teller) {
        let device = self.container.as_ref().map(|container| self.devices.name(container.device));
        let applies = |rule: &Rule| {
            let local = rule.applies(self.address, self.local.source, None);
            let forwarded = self
                .container
                .as_ref()
                .map_or(Applies::No, |container| rule.applies(self.address, Some(container.source), device.as_deref()));
            local.max(forwarded)
        };
        let before = |rule: &&Rule| !rule.is_usual() && rule.priority < 32_766;
        let matching: Vec<String> = self
            .rules
            .iter()
            .filter(before)
            .filter_map(|rule| match applies(rule) {
                Applies::No => None,
                Applies::Perhaps => Some(format!("`{rule}` may be for it, by what else it asks for")),
                Applies::Yes => Some(format!("`{rule}` comes before the main table")),
            })
            .collect();
        let others = self.rules.iter().filter(before).count() - matching.len();
        if !matching.is_empty() {
            teller.plain("rules", list(matching));
        } else if others > 0 {
            teller.plain("rules", format!("none of {} is for it", count(others, "policy rule", "policy rules")));
        } else {
            teller.plain("rules", "only the usual ones (`ip rule`)");
        }
    }

    pub(super) fn vrf(&self, teller: &mut Teller) {
        let mut devices: Vec<u32> = self.routing.ways.iter().map(|way| way.device).collect();
        devices.extend(self.container.as_ref().map(|container| container.device));
        devices.extend(self.local.device);
        devices.sort_unstable();
        devices.dedup();
        for device in devices {
            if let Some(vrf) = self.devices.vrf(device).filter(|vrf| vrf.name != self.devices.name(device)) {
                let name = self.devices.name(device);
                teller.plain(
                    "vrf",
                    format!(
                        "{name} belongs to the VRF {}: what comes in by it is looked up in that VRF's table",
                        vrf.name
                    ),
                );
            }
        }
    }
}
