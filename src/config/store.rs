//! `[store]`: who hands out subnets and knows the other nodes.

use crate::config::diagnostic::Problem;
use crate::config::reader::Table;
use crate::config::words::Word;

/// `[store]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Store {
    /// None: subnets and peers stand in this file, state in a local one
    Embedded,
    /// etcd, in flannel's format
    Etcd {
        /// Base URLs, at least one
        endpoints: Vec<String>,
        /// Key that all of ours begin with: begins with a slash, does not end in one
        prefix: String,
    },
}

#[derive(Clone, Copy)]
enum Kind {
    Embedded,
    Etcd,
}

/// Base URL of an etcd member.
struct Endpoint(String);

impl Word for Endpoint {
    const WANTED: &'static str = "the URL of an etcd member such as \"http://192.0.2.5:2379\"";
    fn parse(text: &str) -> Option<Self> {
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?.trim_end_matches('/');
        let plain = !host.is_empty() && !host.contains(['/', '?', '#', '@']) && !host.contains(char::is_whitespace);
        plain.then(|| Self(text.trim_end_matches('/').to_owned()))
    }
}

/// A directory of keys.
struct KeyPrefix(String);

impl Word for KeyPrefix {
    const WANTED: &'static str = "a key that begins with / and ends in a name, such as \"/wayleave/network\"";
    fn parse(text: &str) -> Option<Self> {
        (text.starts_with('/') && !text.ends_with('/')).then(|| Self(text.to_owned()))
    }
}

pub(super) fn read(table: &Table<'_>) -> Option<Store> {
    const KINDS: [(&str, Kind); 2] = [("embedded", Kind::Embedded), ("etcd", Kind::Etcd)];
    let kind = table.value("kind").map_or(Some(Kind::Embedded), |value| value.choice(&KINDS));
    let endpoints = table.value("endpoints");
    let prefix = table.value("prefix");
    match kind? {
        Kind::Embedded => {
            for value in endpoints.iter().chain(&prefix) {
                value.report(Problem::OnlyForEtcd);
            }
            Some(Store::Embedded)
        }
        Kind::Etcd => {
            let wanted = "endpoints = [\"http://192.0.2.5:2379\"] with your etcd's addresses";
            if endpoints.is_none() {
                table.report("endpoints", Problem::Missing(wanted));
            }
            let endpoints = endpoints.and_then(|value| {
                let items = value.items()?;
                if items.is_empty() {
                    value.report(Problem::Missing(wanted));
                }
                Some(items.iter().filter_map(|item| item.word().map(|Endpoint(url)| url)).collect())
            });
            let prefix = prefix
                .map_or_else(|| Some("/wayleave/network".to_owned()), |value| value.word().map(|KeyPrefix(key)| key));
            Some(Store::Etcd { endpoints: endpoints.unwrap_or_default(), prefix: prefix.unwrap_or_default() })
        }
    }
}
