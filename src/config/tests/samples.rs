//! The files under `config/`.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::{good, read};
use crate::config::diagnostic::Problem;
use crate::config::{Config, parse};

const SAMPLE: &str = include_str!("../../../config/wayleave.toml");

/// The sample with its examples in force: `#key = …` and `#[…]`, which have no blank behind the `#`.
fn everything() -> String {
    SAMPLE.lines().map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)).fold(
        String::new(),
        // The examples of the store need it to be one.
        |text, line| text + if line == "kind = \"embedded\"" { "kind = \"etcd\"" } else { line } + "\n",
    )
}

#[test]
fn sample_is_the_defaults() {
    let least = "[network]\npools = [\"10.244.0.0/16\"]\nsubnets = [\"10.244.7.0/24\"]\n[bgp]\nasn = 64512\n";
    assert_eq!(good(SAMPLE), good(least));
}

#[test]
fn examples_of_the_sample_are_valid() {
    let config = good(&everything());
    assert_eq!(config.bgp.peers.len(), 3);
    // Keys of a peer that show their defaults must be right about them.
    let least = "[network]\nsubnets = []\n[[bgp.peers]]\naddress = \"192.0.2.1\"\nasn = 65001\n[bgp]\nasn = 64512\n";
    let (shown, default) = (&config.bgp.peers[0], &good(least).bgp.peers[0]);
    assert_eq!(
        (shown.port, shown.passive, &shown.import, &shown.export, shown.max_prefixes, shown.next_hop_self),
        (default.port, default.passive, &default.import, &default.export, default.max_prefixes, default.next_hop_self)
    );
    assert_eq!((shown.allow_own_as, shown.connect_retry), (default.allow_own_as, default.connect_retry));
    let bare = everything().replace("bfd = { interval = \"100ms\", multiplier = 3 }", "bfd = {}");
    assert_eq!(good(&bare), config, "the sample shows the defaults of bfd");
}

#[test]
fn files_per_use() {
    type Is = fn(&Config) -> bool;
    let cases: [(&str, &str, Is); 5] = [
        ("two hosts", include_str!("../../../config/two-hosts.toml"), |c| c.bgp.peers.len() == 1),
        ("routed fabric", include_str!("../../../config/tor.toml"), |c| c.bgp.peers.iter().all(|p| p.asn != c.bgp.asn)),
        ("mesh", include_str!("../../../config/mesh.toml"), |c| c.bgp.peers.iter().all(|p| p.asn == c.bgp.asn)),
        ("reflector", include_str!("../../../config/route-reflector.toml"), |c| {
            c.network.subnets == Some(vec![]) && c.bgp.peers.iter().any(|p| p.route_reflector_client)
        }),
        ("client", include_str!("../../../config/reflector-client.toml"), |c| c.bgp.peers.len() == 2),
    ];
    for (why, text, wanted) in cases {
        assert!(wanted(&good(text)), "{why}");
    }
}

#[test]
fn examples_of_the_documents() {
    let documents = [
        ("configure.md", include_str!("../../../docs/configure.md"), 5),
        ("tor.md", include_str!("../../../docs/tor.md"), 1),
    ];
    for (document, text, least) in documents {
        let examples = text.split("\n```toml\n").skip(1).filter_map(|rest| rest.split("\n```").next());
        let count = examples.map(good).count();
        assert!(count >= least, "{document}: {count}");
    }
}

/// Keys that the parser knows in each table, as it lists them for a key that it doesn't know.
pub(super) fn known_keys(text: &str) -> BTreeSet<String> {
    let mut table: Table = text.parse().unwrap();
    plant(&mut table);
    let found = parse(&table.to_string(), &mut |_| Ok("s3cret".to_owned())).unwrap_err();
    let known = found.into_iter().filter_map(|diagnostic| match diagnostic.problem {
        Problem::UnknownKey(_, known) => Some((diagnostic.key.strip_suffix("zzz").unwrap().to_owned(), known)),
        _ => None,
    });
    known.flat_map(|(table, known)| known.into_iter().map(move |key| format!("{table}{key}"))).collect()
}

/// Puts an unknown key into every table.
fn plant(table: &mut Table) {
    fn visit(value: &mut Value) {
        match value {
            Value::Table(table) => plant(table),
            Value::Array(items) => items.iter_mut().for_each(visit),
            _ => {}
        }
    }
    table.iter_mut().for_each(|(_, value)| visit(value));
    table.insert("zzz".to_owned(), Value::Boolean(true));
}

#[test]
fn sample_has_every_key() {
    let text = everything();
    // Which entry of a list shows a key doesn't matter.
    let without_index = |key: &str| {
        let bare: String = key.chars().filter(|c| !c.is_ascii_digit()).collect();
        bare.replace("[]", "")
    };
    let known: BTreeSet<String> = known_keys(&text).iter().map(|key| without_index(key)).collect();
    let mut shown = BTreeSet::new();
    collect("", &Value::Table(text.parse().unwrap()), &mut shown);
    let shown = shown.iter().map(|key| without_index(key)).collect();
    let missing: Vec<_> = known.difference(&shown).collect();
    assert!(known.len() > 60, "{known:#?}");
    assert!(missing.is_empty(), "not in config/wayleave.toml: {missing:?}");
}

fn collect(path: &str, value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(&path, value, keys);
                keys.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(path, item, keys)),
        _ => {}
    }
}

#[test]
fn each_line_of_the_sample_matters() {
    // A typing error anywhere is found: no setting is read and forgotten.
    let text = everything();
    let settings = text.lines().enumerate().filter(|(_, line)| {
        line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    });
    let mut count = 0;
    for (number, line) in settings {
        let broken: Vec<_> = text
            .lines()
            .enumerate()
            .map(|(i, line)| if i == number { format!("x{line}") } else { line.to_owned() })
            .collect();
        let found = read(&broken.join("\n")).unwrap_err();
        assert!(found.iter().any(|found| found.contains("no such key")), "{line}: {found:?}");
        count += 1;
    }
    assert!(count > 60, "{count}");
}
