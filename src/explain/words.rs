//! Small words.

use std::time::Duration;

/// A length of time in its two largest units: `3m 12s`.
pub fn age(time: Duration) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = time.as_secs();
    let mut parts = Vec::new();
    for (size, name) in units {
        if rest >= size && parts.len() < 2 {
            parts.push(format!("{}{name}", rest / size));
            rest %= size;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// `1 prefix`, `2 prefixes`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// `never`, `once`, `3 times`.
pub(super) fn times(number: u64) -> String {
    match number {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        number => format!("{number} times"),
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let mut items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match items.pop() {
        None => String::new(),
        Some(last) if items.is_empty() => last,
        Some(last) => format!("{} and {last}", items.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(
            [0, 59, 61, 86_400 * 2 + 3_600].map(|s| age(Duration::from_secs(s))),
            ["0s", "59s", "1m 1s", "2d 1h"]
        );
        assert_eq!([list::<&str>([]), list(["a"]), list(["a", "b", "c"])], ["", "a", "a, b and c"]);
        assert_eq!([times(0), times(1), times(2)], ["never", "once", "2 times"]);
        assert_eq!([count(1, "hop", "hops"), count(0, "hop", "hops")], ["1 hop", "0 hops"]);
    }
}
