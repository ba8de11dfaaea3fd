//! Typed access to the tables of a TOML text, which collects what is wrong instead of stopping.
//!
//! A [`Table`] remembers which keys it was asked for, so that the list of known keys is the code
//! that reads them and nothing else. What can't be read is reported and is `None`; the reader of
//! a section goes on to find the rest.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::diagnostic::{Diagnostic, Earlier, Problem, as_key, closest};
use crate::config::words::Word;

/// The text and what was found wrong in it.
pub(super) struct File<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
    found: RefCell<Vec<Diagnostic>>,
}

impl<'a> File<'a> {
    pub fn new(text: &'a str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, line_starts, found: RefCell::default() }
    }

    /// Line and column of a byte, both from 1.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let column = self.text.get(start..offset).map_or(1, |before| before.chars().count() + 1);
        (line, column)
    }

    /// The value around a byte that looks as if only its quotes were forgotten (`9s`,
    /// `10.0.0.0/8`), and where it begins.
    pub fn unquoted(&self, offset: usize) -> Option<(usize, &'a str)> {
        let bare = |c: char| c.is_ascii_alphanumeric() || "-_./:+".contains(c);
        let start = self.text.get(..offset)?.trim_end_matches(bare).len();
        let (before, rest) = self.text.split_at_checked(start)?;
        let behind = rest.trim_start_matches(bare);
        let word = rest.strip_suffix(behind)?;

        let line = before.lines().next_back()?;
        let is_value = line.contains('=') && line.trim_end().ends_with(['=', '[', ',']);
        let is_key = behind.trim_start().starts_with('=');
        let is_fine = word.is_empty() || word.parse::<f64>().is_ok() || word.parse::<bool>().is_ok();
        (is_value && !is_key && !is_fine).then_some((start, word))
    }

    /// All that was found, in the order of the text.
    pub fn into_found(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        found
    }
}

/// Where something stands, and what its key is called.
#[derive(Clone)]
pub(super) struct Place<'a> {
    file: &'a File<'a>,
    offset: usize,
    key: String,
}

impl<'a> Place<'a> {
    /// The beginning of the file.
    pub fn root(file: &'a File<'a>) -> Self {
        Self { file, offset: 0, key: String::new() }
    }

    pub fn report(&self, problem: Problem) {
        let (line, column) = self.file.position(self.offset);
        self.file.found.borrow_mut().push(Diagnostic { line, column, key: self.key.clone(), problem });
    }

    fn key_below(&self, name: &str) -> String {
        let dot = if self.key.is_empty() { "" } else { "." };
        format!("{}{dot}{}", self.key, as_key(name))
    }

    /// The same place, for a key that should stand there.
    fn below(&self, name: &str) -> Self {
        Self { key: self.key_below(name), ..*self }
    }

    /// The entries of the table that stands here.
    fn entries(&self, entries: &'a DeTable<'a>) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        entries.iter().map(|(name, node)| {
            let name: &str = name.get_ref();
            (name, Value::new(self.file, self.key_below(name), node))
        })
    }

    fn as_earlier(&self) -> Earlier {
        Earlier { key: self.key.clone(), line: self.file.position(self.offset).0 }
    }
}

/// A value of the file.
#[derive(Clone)]
pub(super) struct Value<'a> {
    node: &'a Spanned<DeValue<'a>>,
    pub place: Place<'a>,
}

impl<'a> Value<'a> {
    fn new(file: &'a File<'a>, key: String, node: &'a Spanned<DeValue<'a>>) -> Self {
        Self { node, place: Place { file, offset: node.span().start, key } }
    }

    pub fn report(&self, problem: Problem) {
        self.place.report(problem);
    }

    /// As it stands in the file, shortened to fit a line.
    pub fn found(&self) -> String {
        const MOST: usize = 60;
        let source = self.place.file.text.get(self.node.span()).unwrap_or_default();
        let mut shown: String = source.chars().take_while(|c| !c.is_control()).take(MOST).collect();
        if shown.len() < source.len() {
            shown.push('…');
        }
        shown
    }

    /// Reports that it is something else than wanted.
    pub fn unfit<T>(&self, wanted: impl Into<String>) -> Option<T> {
        self.report(Problem::Unfit { found: self.found(), wanted: wanted.into() });
        None
    }

    fn out_of_range<T>(&self, wanted: impl Into<String>) -> Option<T> {
        self.report(Problem::OutOfRange { found: self.found(), wanted: wanted.into() });
        None
    }

    pub fn as_text(&self) -> Option<&'a str> {
        self.node.get_ref().as_str()
    }

    pub fn as_flag(&self) -> Option<bool> {
        self.node.get_ref().as_bool()
    }

    /// An integer that is not negative.
    pub fn as_number(&self) -> Option<u64> {
        let number = self.node.get_ref().as_integer()?;
        u64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    pub fn flag(&self) -> Option<bool> {
        self.as_flag().or_else(|| self.unfit("true or false"))
    }

    /// Whatever is written as text.
    pub fn word<T: Word>(&self) -> Option<T> {
        let Some(text) = self.as_text() else { return self.unfit(T::WANTED) };
        T::parse(text).or_else(|| {
            self.report(T::problem(text, self.found()));
            None
        })
    }

    /// One of some words, each with its meaning.
    pub fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let chosen = self.as_text().and_then(|text| choices.iter().find(|(word, _)| *word == text));
        if chosen.is_none() {
            let words = choices.iter().map(|(word, _)| *word).collect();
            self.report(Problem::NotOneOf { found: self.found(), words });
        }
        chosen.map(|(_, meaning)| *meaning)
    }

    pub fn number<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Option<T> {
        let wanted = || format!("a number from {} to {}", range.start(), range.end());
        if !self.node.get_ref().is_integer() {
            return self.unfit(wanted());
        }
        let within = self.as_number().filter(|number| range.contains(number));
        within.and_then(|number| T::try_from(number).ok()).or_else(|| self.out_of_range(wanted()))
    }

    /// A duration as text with a unit; `unit` is the one to propose where it was forgotten.
    pub fn duration<T>(&self, unit: &str, wanted: &str, accept: impl Fn(Duration) -> Option<T>) -> Option<T> {
        let read = |text: &str| humantime::parse_duration(text).ok();
        let found = self.found();
        let bare = found.trim_matches(['"', '\'']).trim();
        if bare.parse::<f64>().is_ok() {
            let with_unit = format!("{bare}{unit}");
            let fits = read(&with_unit).is_some_and(|duration| accept(duration).is_some());
            let right = if fits { format!("\"{with_unit}\"") } else { wanted.to_owned() };
            self.report(Problem::NoUnit { found, right });
            return None;
        }
        match self.as_text().and_then(read) {
            Some(duration) => accept(duration).or_else(|| self.out_of_range(wanted)),
            None => self.unfit(format!("a duration with a unit; write {wanted}")),
        }
    }

    /// The items of a list.
    pub fn items(&self) -> Option<Vec<Self>> {
        let Some(items) = self.node.get_ref().as_array() else {
            // `[name]` was written instead of `[[name]]`, or one item without its brackets.
            let right = if self.is_table() { format!("[[{}]]", self.place.key) } else { format!("[{}]", self.found()) };
            return self.unfit(format!("a list; write {right}"));
        };
        let Place { file, key, .. } = &self.place;
        Some(items.iter().enumerate().map(|(i, node)| Self::new(file, format!("{key}[{i}]"), node)).collect())
    }

    /// How many items stand in it, if it is a list.
    pub fn list_len(&self) -> Option<usize> {
        Some(self.node.get_ref().as_array()?.len())
    }

    pub fn is_table(&self) -> bool {
        self.node.get_ref().is_table()
    }

    /// The entries of a table whose keys are names, each with its value.
    pub fn named(&self) -> Option<Vec<(&'a str, Self)>> {
        let Some(entries) = self.node.get_ref().as_table() else { return self.unfit("a table") };
        Some(self.place.entries(entries).collect())
    }

    /// Reads it as a table, then reports the keys that `read` didn't ask for.
    pub fn table<T>(&self, read: impl FnOnce(&Table<'a>) -> T) -> Option<T> {
        let Some(entries) = self.node.get_ref().as_table() else { return self.unfit("a table") };
        Some(Table::read(Some(entries), self.place.clone(), read))
    }
}

/// The key of the value that stands at a byte.
pub(super) fn key_at<'a>(file: &'a File<'a>, entries: &'a DeTable<'a>, offset: usize) -> Option<String> {
    fn below(value: &Value<'_>, offset: usize) -> Option<String> {
        match value.node.get_ref() {
            DeValue::Table(entries) => value.place.entries(entries).find_map(|(_, value)| below(&value, offset)),
            DeValue::Array(_) => value.items()?.iter().find_map(|value| below(value, offset)),
            _ => value.node.span().contains(&offset).then(|| value.place.key.clone()),
        }
    }
    Place::root(file).entries(entries).find_map(|(_, value)| below(&value, offset))
}

/// A table of the file, or one that isn't there and has all defaults.
pub(super) struct Table<'a> {
    entries: Option<&'a DeTable<'a>>,
    place: Place<'a>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    /// Reads the file's outermost table.
    pub fn root<T>(file: &'a File<'a>, entries: &'a DeTable<'a>, read: impl FnOnce(&Self) -> T) -> T {
        Self::read(Some(entries), Place::root(file), read)
    }

    fn read<T>(entries: Option<&'a DeTable<'a>>, place: Place<'a>, read: impl FnOnce(&Self) -> T) -> T {
        let table = Self { entries, place, asked: RefCell::default() };
        let result = read(&table);
        let mut known = table.asked.into_inner();
        known.sort_unstable();
        known.dedup();
        for (key, _) in entries.into_iter().flat_map(DeTable::iter) {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let place = Place { offset: key.span().start, ..table.place.below(name) };
                place.report(Problem::UnknownKey(closest(name, &known), known.clone()));
            }
        }
        result
    }

    /// What stands there, as it is.
    pub fn value(&self, key: &'static str) -> Option<Value<'a>> {
        self.asked.borrow_mut().push(key);
        let node = self.entries?.get(key)?;
        Some(Value::new(self.place.file, self.place.key_below(key), node))
    }

    /// Reports something of a key that isn't there, at the table's head.
    pub fn report(&self, key: &str, problem: Problem) {
        self.place.below(key).report(problem);
    }

    /// A key without default; `wanted` is what to write.
    pub fn required(&self, key: &'static str, wanted: &'static str) -> Option<Value<'a>> {
        let value = self.value(key);
        if value.is_none() {
            self.report(key, Problem::Missing(wanted));
        }
        value
    }

    /// A table that may be left out.
    pub fn section<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> Option<T> {
        if let Some(value) = self.value(key) {
            return value.table(read);
        }
        Some(Self::read(None, self.place.below(key), read))
    }

    pub fn flag(&self, key: &'static str) -> Option<bool> {
        self.value(key)?.flag()
    }

    pub fn word<T: Word>(&self, key: &'static str) -> Option<T> {
        self.value(key)?.word()
    }

    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        self.value(key)?.choice(choices)
    }

    pub fn number<T: TryFrom<u64>>(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<T> {
        self.value(key)?.number(range)
    }

    /// A list of texts, each with its place; an absent one is `None`.
    pub fn words<T: Word>(&self, key: &'static str) -> Option<Vec<(T, Place<'a>)>> {
        let items = self.value(key)?.items()?;
        Some(items.into_iter().filter_map(|item| Some((item.word()?, item.place))).collect())
    }

    /// A list of tables, empty if absent.
    pub fn tables<T>(&self, key: &'static str, mut read: impl FnMut(&Table<'a>) -> Option<T>) -> Vec<T> {
        let items = self.value(key).and_then(|value| value.items()).unwrap_or_default();
        items.iter().filter_map(|item| item.table(&mut read).flatten()).collect()
    }
}

/// Values that must not meet. Reports each that clashes with an earlier one.
pub(super) struct Distinct<'a, T> {
    seen: Vec<(T, Place<'a>)>,
    clash: fn(&T, &T) -> bool,
    problem: fn(&T, &T, Earlier) -> Problem,
}

impl<'a, T> Distinct<'a, T> {
    /// `problem` gets the later value, the earlier, and where that one stands.
    pub fn new(clash: fn(&T, &T) -> bool, problem: fn(&T, &T, Earlier) -> Problem) -> Self {
        Self { seen: Vec::new(), clash, problem }
    }

    /// Whether it clashes with none before.
    pub fn add(&mut self, value: T, place: &Place<'a>) -> bool {
        let clash = self.seen.iter().find(|(other, _)| (self.clash)(&value, other));
        if let Some((other, earlier)) = clash {
            place.report((self.problem)(&value, other, earlier.as_earlier()));
        }
        let distinct = clash.is_none();
        self.seen.push((value, place.clone()));
        distinct
    }
}
