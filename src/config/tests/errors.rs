//! What is said of bad texts, letter by letter: people read it.
//!
//! The files in `errors/` hold the rows: `=== why`, the text, `---`, what must be said of it.

use proptest::prelude::*;

use super::{LEAST, read};
use crate::config::parse;

const PEER: &str = "[[bgp.peers]]\naddress = \"192.0.2.1\"\nasn = 65001\n";

#[test]
fn every_error_says_what_would_be_right() {
    let peer = &format!("{LEAST}{PEER}");
    let bgp = "[bgp]\nasn = 64512\n";
    let node = "[node]\naddress = \"192.0.2.11\"\n";
    let files = [
        // (rows, what stands before each row's text, what behind it)
        (include_str!("errors/whole_files.txt"), "", ""),
        (include_str!("errors/syntax.txt"), "", LEAST),
        (include_str!("errors/keys_and_types.txt"), "", LEAST),
        (include_str!("errors/host_sections.txt"), "", LEAST),
        (include_str!("errors/network_and_store.txt"), "", bgp),
        (include_str!("errors/as_numbers.txt"), "[network]\nsubnets = []\n[bgp]\n", ""),
        (include_str!("errors/speaker.txt"), LEAST, ""),
        (include_str!("errors/peer_addresses.txt"), peer, node),
        (include_str!("errors/peer_settings.txt"), peer, ""),
        (include_str!("errors/password_files.txt"), peer, ""),
        (include_str!("errors/policies.txt"), LEAST, ""),
    ];
    let mut differences = Vec::new();
    for (rows, before, after) in files {
        for row in rows.split("=== ").skip(1) {
            let (why, row) = row.split_once('\n').unwrap();
            let (text, wanted) = row.split_once("---\n").unwrap();
            let found = read(&format!("{before}{text}{after}")).err().unwrap_or_default().join("\n");
            if found != wanted.trim_end() {
                differences.push(format!("{why}\n{text}got:\n{found}\nwanted:\n{wanted}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Either a configuration or a reason, never a panic.
fn reads(text: &str) -> Result<(), TestCaseError> {
    match parse(text, &mut |_| Ok("s3cret".to_owned())) {
        Ok(_) => Ok(()),
        Err(found) => {
            prop_assert!(!found.is_empty(), "refused without a reason");
            for diagnostic in &found {
                prop_assert!(diagnostic.line >= 1 && diagnostic.line <= text.lines().count() + 1);
                prop_assert!(!diagnostic.render("w").contains('\n'), "{}", diagnostic.render("w"));
            }
            Ok(())
        }
    }
}

#[test]
fn deep_nesting_is_no_way_to_crash() {
    let (deep, dotted) = (50_000, "a.".repeat(50_000));
    let texts = [
        format!("x = {}", "[".repeat(deep)),
        format!("x = {}{}", "[".repeat(deep), "]".repeat(deep)),
        format!("x = {}", "{a=".repeat(deep)),
        format!("{dotted}a = 1"),
        format!("[{dotted}a]"),
        format!("[[{dotted}a]]\nb = 9s"),
    ];
    for text in texts {
        assert!(read(&text).is_err());
    }
}

const SAMPLE: &str = include_str!("../../../config/wayleave.toml");

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        reads(&text)?;
    }

    #[test]
    fn any_toml_like_text_is_read_or_refused(text in "(\\[{1,2}(bgp|peers|node|bgp\\.peers|\"é)\\]{0,2}|[a-z_.]{1,9} = |[0-9]{1,20}|\"[0-9./:+]{0,9}\"|[{}\\[\\],='#\\\\ \\n]){0,60}") {
        reads(&text)?;
    }

    #[test]
    fn a_damaged_sample_is_read_or_refused(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..3usize, prop::char::any()), 1..8),
    ) {
        let mut text: Vec<char> = SAMPLE.replace("\n#", "\n").chars().collect();
        for (at, gone, new) in damage {
            let at = at.index(text.len() - 3);
            text.splice(at..at + gone, [new]);
        }
        reads(&text.into_iter().collect::<String>())?;
    }
}
