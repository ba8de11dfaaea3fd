//! Families of which each peer has series, written as text straight from their values.
//!
//! The `prometheus` crate makes an object with a string for every name and value of every label
//! before the first byte is written, and to set a value at scrape time means to hash its labels. That
//! is as good as nothing for a family with one series, and most of a scrape for one with a thousand.

use std::fmt::{self, Write as _};

/// The type of a family, in the words of the text format.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A family whose series have `N` labels.
#[derive(Debug)]
pub(super) struct Family<const N: usize> {
    name: String,
    head: String,
    /// In the order of the alphabet, as the registry's families have theirs
    labels: [&'static str; N],
}

impl<const N: usize> Family<N> {
    pub(super) fn new(kind: Kind, name: &str, help: &str, labels: [&'static str; N]) -> Self {
        let head = format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.word());
        Self { name: name.to_owned(), head, labels }
    }

    /// Appends its series. Without any, not even its name: an absent family has no value.
    pub(super) fn write<'a, V: fmt::Display>(
        &self,
        out: &mut String,
        series: impl IntoIterator<Item = ([&'a str; N], V)>,
    ) {
        let mut head = Some(&self.head);
        for (values, value) in series {
            out.push_str(head.take().map_or("", String::as_str));
            out.push_str(&self.name);
            for (i, (label, value)) in self.labels.iter().zip(values).enumerate() {
                out.push(if i == 0 { '{' } else { ',' });
                out.push_str(label);
                out.push_str("=\"");
                escape(out, value);
                out.push('"');
            }
            // Writing to a string can't fail.
            let _ = writeln!(out, "{}{value}", if N == 0 { " " } else { "} " });
        }
    }
}

/// A label's value as the text format wants it.
fn escape(out: &mut String, value: &str) {
    if !value.contains(['\\', '"', '\n']) {
        out.push_str(value);
        return;
    }
    for char in value.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            char => out.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_as_the_format_wants_them() {
        let mut out = String::new();
        let none = Family::new(Kind::Gauge, "none", "Nothing.", ["peer"]);
        none.write(&mut out, std::iter::empty::<([&str; 1], u64)>());
        assert_eq!(out, "", "a family without series is not there");
        let two = Family::new(Kind::Counter, "two_total", "Two.", ["kind", "peer"]);
        two.write(&mut out, [(["a", "x"], 7), (["b", "\"\\\n"], 8)]);
        let wanted = "# HELP two_total Two.\n# TYPE two_total counter\ntwo_total{kind=\"a\",peer=\"x\"} 7\ntwo_total{kind=\"b\",peer=\"\\\"\\\\\\n\"} 8\n";
        assert_eq!(out, wanted);
        out.clear();
        Family::new(Kind::Gauge, "bare", "Bare.", []).write(&mut out, [([], 1.5)]);
        assert!(out.ends_with("\nbare 1.5\n"), "{out}");
    }
}
