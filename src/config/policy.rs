//! `[[bgp.policies.NAME]]`: lists of rules of which the first that matches decides.

use std::collections::BTreeMap;

use crate::bgp::attrs::Community;
use crate::config::diagnostic::Problem;
use crate::config::reader::{Table, Value};
use crate::config::words::{Word, asn, communities};
use crate::net::{Asn, Prefix};

/// A named policy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    /// In order; the first that matches decides, a route that none matches is rejected
    pub rules: Vec<Rule>,
}

/// Which routes, and what to do with them. A route must meet every condition that is there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    /// Matches any of these; empty: every prefix
    pub prefixes: Vec<PrefixMatch>,
    /// Carries any of these; empty: whatever it carries
    pub communities: Vec<Community>,
    /// This AS is in its path
    pub as_path_contains: Option<Asn>,
    /// Accept it, with the changes below, or reject it
    pub accept: bool,
    /// Set LOCAL_PREF
    pub local_pref: Option<u32>,
    /// Set MULTI_EXIT_DISC
    pub med: Option<u32>,
    /// Prepend our AS so many times more, 0 to 32
    pub prepend: u8,
    /// Communities to add, sorted; after those to remove are gone
    pub add_communities: Vec<Community>,
    /// Communities to remove, sorted
    pub remove_communities: Vec<Community>,
}

/// Prefixes within one prefix, of some lengths: `prefix.len() <= ge <= le <= bits of the family`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PrefixMatch {
    /// They lie in it
    pub prefix: Prefix,
    /// Shortest length
    pub ge: u8,
    /// Longest length
    pub le: u8,
}

impl PrefixMatch {
    fn exact(prefix: Prefix) -> Self {
        Self { prefix, ge: prefix.len(), le: prefix.len() }
    }

    fn and_longer(prefix: Prefix) -> Self {
        Self { prefix, ge: prefix.len(), le: prefix.family().bits() }
    }
}

impl Word for PrefixMatch {
    const WANTED: &'static str = "a prefix such as \"10.0.0.0/8\", \"10.0.0.0/8+\" (and longer) or { prefix = \"10.0.0.0/8\", ge = 16, le = 24 }";

    fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('+') {
            Some(text) => text.parse().ok().map(Self::and_longer),
            None => text.parse().ok().map(Self::exact),
        }
    }

    fn problem(text: &str, found: String) -> Problem {
        match Prefix::problem(text.trim_end_matches('+'), found) {
            Problem::Unfit { found, .. } => Problem::Unfit { found, wanted: Self::WANTED.to_owned() },
            host_bits => host_bits,
        }
    }
}

/// Names with a meaning of their own where a policy's name may stand.
const BUILT_IN: [&str; 4] = ["pools", "subnets", "all", "none"];

/// Reads all of `bgp.policies`. The name of a policy that has errors is there too, so that its
/// use is no second error.
pub(super) fn read_all(table: &Table<'_>) -> BTreeMap<String, Policy> {
    let named = table.value("policies").and_then(|value| value.named()).unwrap_or_default();
    let policy = |(name, value): (&str, Value<'_>)| {
        if BUILT_IN.contains(&name) {
            value.report(Problem::PolicyNameTaken);
        }
        (name.to_owned(), Policy { rules: rules(&value) })
    };
    named.into_iter().map(policy).collect()
}

fn rules(value: &Value<'_>) -> Vec<Rule> {
    let items = value.items().unwrap_or_default();
    items.iter().filter_map(|item| item.table(rule).flatten()).collect()
}

fn rule(table: &Table<'_>) -> Option<Rule> {
    const ACTIONS: [(&str, bool); 2] = [("accept", true), ("reject", false)];
    let accept = table.required("action", "action = \"accept\" or \"reject\"").and_then(|value| value.choice(&ACTIONS));
    for key in ["prefixes", "communities"] {
        if let Some(value) = table.value(key).filter(|value| value.list_len() == Some(0)) {
            value.report(Problem::MatchesNothing);
        }
    }
    for key in ["local_pref", "med", "prepend", "add_communities", "remove_communities"] {
        if let (Some(value), Some(false)) = (table.value(key), accept) {
            value.report(Problem::ChangesRejected);
        }
    }
    let prefixes = table.value("prefixes").and_then(|value| value.items()).unwrap_or_default();
    let rule = Rule {
        prefixes: prefixes.iter().filter_map(prefix_match).collect(),
        communities: communities(table, "communities").unwrap_or_default(),
        as_path_contains: table.value("as_path_contains").and_then(|value| asn(&value)),
        accept: accept.unwrap_or_default(),
        local_pref: table.number("local_pref", 0..=u64::from(u32::MAX)),
        med: table.number("med", 0..=u64::from(u32::MAX)),
        prepend: table.number("prepend", 0..=32).unwrap_or_default(),
        add_communities: communities(table, "add_communities").unwrap_or_default(),
        remove_communities: communities(table, "remove_communities").unwrap_or_default(),
    };
    accept.map(|_| rule)
}

fn prefix_match(value: &Value<'_>) -> Option<PrefixMatch> {
    if value.is_table() { value.table(lengths).flatten() } else { value.word() }
}

/// `{ prefix, ge, le }`: without `ge` from the prefix's own length, without `le` down to hosts,
/// without both the prefix itself.
fn lengths(table: &Table<'_>) -> Option<PrefixMatch> {
    let (ge, le) = (table.value("ge"), table.value("le"));
    let prefix: Prefix = table.required("prefix", "prefix = \"10.0.0.0/8\"")?.word()?;
    let (shortest, longest) = (u64::from(prefix.len()), u64::from(prefix.family().bits()));
    let mut matched =
        if ge.is_some() || le.is_some() { PrefixMatch::and_longer(prefix) } else { PrefixMatch::exact(prefix) };
    if let Some(ge) = ge {
        matched.ge = ge.number(shortest..=longest)?;
    }
    if let Some(le) = le {
        matched.le = le.number(u64::from(matched.ge)..=longest)?;
    }
    Some(matched)
}
