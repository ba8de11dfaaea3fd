//! Takes secrets out of a text, whatever it is: a second line behind parts that print none.

/// What stands where a secret stood.
const HIDDEN: &str = "***";
/// Shorter ones are not looked for: they would be found everywhere.
const SHORTEST: usize = 4;

/// What must not get out.
#[derive(Default)]
pub(super) struct Secrets {
    /// As they are, and as JSON writes them
    known: Vec<String>,
}

impl Secrets {
    /// Adds a password or key.
    pub(super) fn add(&mut self, secret: &str) {
        if secret.len() < SHORTEST {
            return;
        }
        let quoted = serde_json::to_string(secret).unwrap_or_default();
        let inside = quoted.trim_matches('"');
        if inside != secret {
            self.known.push(inside.to_owned());
        }
        self.known.push(secret.to_owned());
        // One that holds another goes first.
        self.known.sort_by_key(|known| std::cmp::Reverse(known.len()));
    }

    /// The text without them, and without user and password of any URL.
    pub(super) fn scrub(&self, text: &str) -> String {
        let mut text = without_logins(text);
        for known in &self.known {
            if text.contains(known.as_str()) {
                text = text.replace(known.as_str(), HIDDEN);
            }
        }
        text
    }
}

/// `http://user:password@host` → `http://***@host`
fn without_logins(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        kept.push_str(before);
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>' | ',');
        let end = after.find(ends).unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        match authority.rfind('@') {
            Some(login) => {
                kept.push_str(HIDDEN);
                kept.push_str(authority.get(login..).unwrap_or_default());
            }
            None => kept.push_str(authority),
        }
        rest = behind;
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_left() {
        let mut secrets = Secrets::default();
        for secret in ["hunter22", "a\"b\\c", "hunter2222", "abc"] {
            secrets.add(secret);
        }
        let cases = [
            ("a password as it is", "key hunter22.", "key ***."),
            ("one that holds another", "hunter2222", "***"),
            ("as JSON writes it", r#"{"x": "a\"b\\c"}"#, r#"{"x": "***"}"#),
            ("too short to be looked for", "abc", "abc"),
            ("a login in a URL", "at http://root:pw@10.0.0.5:2379/x", "at http://***@10.0.0.5:2379/x"),
            ("with an at sign in it", "https://u:p@ss@h, then", "https://***@h, then"),
            ("a URL without one", "http://10.0.0.5:2379 a@b", "http://10.0.0.5:2379 a@b"),
            ("two of them", "http://a:b@c http://d@e", "http://***@c http://***@e"),
        ];
        for (why, text, wanted) in cases {
            assert_eq!(secrets.scrub(text), wanted, "{why}");
        }
    }
}
