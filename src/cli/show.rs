//! Small helpers for output that a person reads.

use std::io::{self, Write};
use std::time::SystemTime;

use comfy_table::{ContentArrangement, Table, presets};

use crate::explain::age;

/// A table without frames, as iproute2 and kubectl print them: columns align, rows grep well.
pub fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Writes a table without the blanks that would pad its last column.
pub fn print(table: &Table, out: &mut impl Write) -> io::Result<()> {
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .try_for_each(|line| writeln!(out, "{line}"))
}

/// How long ago an RFC 3339 time was, in its two largest units: `3m 12s`.
pub fn ago(since: &str) -> String {
    let Ok(then) = humantime::parse_rfc3339(since) else { return since.to_owned() };
    age(SystemTime::now().duration_since(then).unwrap_or_default())
}

/// Joins with a separator, `-` if there is nothing.
pub fn list<T: ToString>(items: impl IntoIterator<Item = T>, separator: &str) -> String {
    let text = items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(separator);
    if text.is_empty() { "-".to_owned() } else { text }
}

/// The value, or `-`.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
