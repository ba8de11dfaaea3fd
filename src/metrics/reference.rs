//! Holds `docs/metrics.md` and the registry together.
//!
//! What a family is called, its type and its labels are said in both and must agree; what it means, and what
//! a bad value means, stands in the document alone.

use std::collections::{BTreeMap, BTreeSet};

use super::Metrics;

/// Units that a name may end in, before `_total`.
const UNITS: [&str; 2] = ["seconds", "bytes"];
/// Ends of names that say a unit which is not a base unit, or say it too early.
const NOT_UNITS: [&str; 9] = ["ms", "milliseconds", "microseconds", "minutes", "hours", "kb", "kib", "mb", "percent"];

struct Row {
    kind: String,
    labels: BTreeSet<String>,
    meaning: String,
}

/// The rows of the table: one family each.
fn rows() -> BTreeMap<String, Row> {
    let text = include_str!("../../docs/metrics.md");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else {
            panic!("four cells to a row: name, type, labels, meaning:\n{line}")
        };
        let plain = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'));
        let plain = plain.filter(|name| !name.contains(['`', '{', '…', ' ']));
        let name = plain.unwrap_or_else(|| panic!("one family to a row: {name}"));
        let labels = labels.split(',').map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned);
        let row = Row { kind: kind.to_owned(), labels: labels.collect(), meaning: meaning.to_owned() };
        assert!(rows.insert(name.to_owned(), row).is_none(), "{name} has two rows");
    }
    rows
}

#[test]
fn every_family_is_in_the_document_and_nothing_else() {
    let metrics = Metrics::new().unwrap();
    let mut rows = rows();
    for family in metrics.families() {
        let name = &family.name;
        let row = rows.remove(name).unwrap_or_else(|| panic!("{name} has no row in docs/metrics.md"));
        assert_eq!(row.kind, family.kind, "type of {name}");
        let labels: BTreeSet<String> = family.labels.iter().cloned().collect();
        assert_eq!(row.labels, labels, "labels of {name}");
        let (meaning, bad) = row.meaning.split_once(';').unwrap_or_default();
        assert!(
            meaning.len() > 3 && bad.trim().len() > 3,
            "{name}: what it is, a semicolon, what a bad value means: {}",
            row.meaning
        );
    }
    assert!(rows.is_empty(), "in docs/metrics.md and not registered: {:?}", rows.keys());
}

#[test]
fn names_end_in_unit_and_type() {
    let metrics = Metrics::new().unwrap();
    assert!(metrics.families().len() > 50, "the list is not the registry's");
    for family in metrics.families() {
        let name = &family.name;
        assert!(name.starts_with("wayleave_"), "{name}");
        assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name} is a {}", family.kind);
        let stem = name.strip_suffix("_total").unwrap_or(name);
        let (_, last) = stem.rsplit_once('_').unwrap();
        assert!(!NOT_UNITS.contains(&last), "{name}: only base units");
        for unit in UNITS {
            assert_eq!(stem.split('_').any(|word| word == unit), last == unit, "{name}: the unit stands last");
        }
        let mut letters = family.help.chars();
        assert!(letters.next().is_some_and(char::is_uppercase) && family.help.ends_with('.'), "help of {name}");
    }
}
