//! The rules of the house: pure modules decide, `io` carries out, `daemon` wires.
//!
//! Reads `src/` as text and looks at every name in it. What is a test (`#[cfg(test)]` to the end of the
//! file, files under a folder or with a name `tests`) may name what it likes.

// The whole file is a test: a helper that unwraps is a test that fails.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// One rule: files that match `of` may name none of `never`, except those that match `but`.
struct Rule {
    why: &'static str,
    /// Path prefixes below src/
    of: &'static [&'static str],
    /// Path prefixes below src/ that are exempt
    but: &'static [&'static str],
    /// Paths, as they are written in `use` or inline; matched as whole words
    never: &'static [&'static str],
}

const PURE: &[&str] =
    &["net.rs", "config/", "bfd/", "bgp/", "cluster/", "explain/", "forward/", "firewall/", "traffic/"];

const RULES: &[Rule] = &[
    Rule {
        why: "a pure module names no runtime, socket, file, thread or system call",
        of: PURE,
        but: &[],
        never: &[
            "tokio",
            "tokio_util",
            "rtnetlink",
            "netlink_sys",
            "netlink_packet_core",
            "netlink_packet_route",
            "nix",
            "libc",
            "socket2",
            "axum",
            "hyper",
            "prometheus",
            "std::fs",
            "std::process",
            "std::thread",
            "std::env",
            "std::io::stdout",
            "std::net::TcpStream",
            "std::net::TcpListener",
            "std::net::UdpSocket",
            "std::os",
            "TcpStream",
            "TcpListener",
        ],
    },
    Rule {
        why: "a pure module is told the time",
        of: PURE,
        but: &[],
        never: &["Instant::now", "SystemTime", "UNIX_EPOCH"],
    },
    Rule {
        why: "a pure module decides the same each time: chance comes in as a seed",
        of: PURE,
        but: &[],
        never: &["rand::rng", "rand::random", "thread_rng", "from_os_rng"],
    },
    Rule {
        why: "pure modules know nothing of those above them",
        of: PURE,
        but: &[],
        never: &["crate::io", "crate::daemon", "crate::cli", "crate::metrics", "crate::view"],
    },
    Rule {
        why: "words that every layer shares need no layer",
        of: &["net.rs"],
        but: &[],
        never: &["crate::config", "crate::bfd", "crate::bgp", "crate::forward", "crate::firewall"],
    },
    Rule {
        why: "bgp and forward do not know each other, daemon::routing joins them",
        of: &["bgp/"],
        but: &[],
        never: &["crate::bfd", "crate::forward", "crate::firewall", "crate::config"],
    },
    Rule {
        why: "bgp and forward do not know each other, daemon::routing joins them",
        of: &["forward/"],
        but: &[],
        never: &["crate::bfd", "crate::bgp", "crate::firewall", "crate::config"],
    },
    Rule {
        why: "bfd is told of BGP what it must know",
        of: &["bfd/"],
        but: &[],
        never: &["crate::bgp", "crate::forward", "crate::firewall", "crate::config"],
    },
    Rule {
        why: "the firewall is told networks, it does not look for them",
        of: &["firewall/"],
        but: &[],
        never: &["crate::bgp", "crate::forward", "crate::config"],
    },
    Rule {
        why: "an explanation is told what is known, it does not look into tables",
        of: &["explain/"],
        but: &[],
        never: &["crate::bgp::rib", "crate::bfd", "crate::forward", "crate::config"],
    },
    Rule {
        why: "config names the setting types of the modules it configures and no more of them",
        of: &["config/"],
        but: &[],
        never: &[
            "crate::bgp::wire",
            "crate::bgp::session",
            "crate::bgp::rib",
            "crate::bgp::message",
            "crate::firewall",
        ],
    },
    Rule { why: "zettabgp stays behind the gate of bgp::wire", of: &[""], but: &["bgp/wire"], never: &["zettabgp"] },
    Rule {
        why: "wire knows bytes and messages, not what is done with them",
        of: &["bgp/wire"],
        but: &[],
        never: &["crate::bgp::rib", "crate::bgp::session", "crate::bgp::policy"],
    },
    Rule {
        why: "a session knows nothing of tables",
        of: &["bgp/session"],
        but: &[],
        never: &["crate::bgp::rib", "crate::bgp::policy"],
    },
    Rule {
        why: "a table knows nothing of sessions or bytes",
        of: &["bgp/rib", "bgp/policy"],
        but: &[],
        never: &["crate::bgp::session", "zettabgp"],
    },
    Rule {
        why: "io carries out: it is called by the daemon and does not call it",
        of: &["io/"],
        but: &[],
        never: &["crate::daemon", "crate::cli", "crate::view"],
    },
    Rule {
        why: "the command line talks to the daemon over its socket only",
        of: &["cli/"],
        but: &["cli/run.rs", "cli/check.rs", "cli/clean.rs", "cli/demo", "cli/bundle"],
        never: &["crate::daemon", "crate::io", "crate::bgp", "crate::forward", "crate::firewall", "crate::config"],
    },
    Rule {
        why: "what the daemon shows is plain data",
        of: &["view/", "metrics/"],
        but: &[],
        never: &["tokio", "crate::io", "crate::daemon", "crate::cli"],
    },
];

/// A source file: its path below src/, and its text without comments and tests.
struct Source {
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(files.len() > 10, "src/ has {} files: looked in the wrong place?", files.len());
    files
        .iter()
        .filter_map(|file| {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let is_test = path.split('/').any(|part| part == "tests" || part == "tests.rs");
            (!is_test).then(|| Source { text: code(&fs::read_to_string(file).unwrap()), path })
        })
        .collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The code of a file: comments and its tests cut away, groups of `use` written out.
fn code(text: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start() == "#[cfg(test)]" {
            // By custom the last thing in a file; a `mod tests;` in another file counts as a test itself.
            break;
        }
        let line = line.split_once("//").map_or(line, |(code, _)| code);
        kept.push_str(line);
        kept.push('\n');
    }
    let uses: Vec<String> = uses(&kept).into_iter().map(|path| format!("{path};\n")).collect();
    kept + &uses.concat()
}

/// Every path that a `use` of this text names, groups written out: `a::{b, c::{d}}` → `a::b`, `a::c::d`.
fn uses(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for start in text.match_indices("use ").map(|(at, _)| at) {
        let first_on_line = text[..start].rsplit('\n').next().is_some_and(|before| {
            matches!(before.trim(), "" | "pub" | "pub(crate)" | "pub(super)") || before.trim().starts_with("pub(in")
        });
        if first_on_line && let Some(end) = text[start..].find(';') {
            expand("", &text[start + 4..start + end], &mut paths);
        }
    }
    paths
}

fn expand(before: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        if !tree.is_empty() {
            paths.push(format!("{before}{}", tree.split(" as ").next().unwrap().trim()));
        }
        return;
    };
    let before = format!("{before}{}", tree[..open].trim());
    let mut depth = 0_u32;
    let mut part = String::new();
    for character in tree[open + 1..tree.rfind('}').unwrap_or(tree.len())].chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&before, &part, paths);
                part.clear();
                continue;
            }
            _ => {}
        }
        part.push(character);
    }
    expand(&before, &part, paths);
}

/// Whether `text` names `path`: as a whole word at its start, and as whole words all through.
fn names(text: &str, path: &str) -> bool {
    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(path).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + path.len()..]);
        // A crate's name counts where a path begins with it, not as a field, a variable or a part of a path.
        let is_crate = !path.contains(':') && path.chars().next().is_some_and(char::is_lowercase);
        let inner = before.ends_with("::") && !before.ends_with("use ::");
        !word(before.chars().last())
            && !word(after.chars().next())
            && (!is_crate
                || (!inner && (after.starts_with("::") || after.starts_with(';') && before.ends_with("use "))))
    })
}

#[test]
fn every_module_keeps_to_its_layer() {
    let sources = sources();
    let mut broken = Vec::new();
    for Rule { why, of, but, never } in RULES {
        let starts = |path: &str, with: &[&str]| with.iter().any(|prefix| path.starts_with(prefix));
        let concerned = sources.iter().filter(|source| starts(&source.path, of) && !starts(&source.path, but));
        for source in concerned {
            for name in never.iter().filter(|name| names(&source.text, name)) {
                broken.push(format!("src/{}: {name}: {why}", source.path));
            }
        }
    }
    assert!(broken.is_empty(), "the house has rules (DESIGN):\n{}", broken.join("\n"));
}

#[test]
fn io_modules_do_not_know_each_other() {
    let sources = sources();
    // src/io/tcp/listen.rs and src/io/tcp.rs are both of `tcp`.
    let module = |path: &str| {
        let first = path.strip_prefix("io/")?.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first).to_owned()).filter(|name| name != "mod")
    };
    let modules: Vec<String> = sources.iter().filter_map(|source| module(&source.path)).collect();
    for source in &sources {
        let Some(own) = module(&source.path) else { continue };
        for other in modules.iter().filter(|other| **other != own) {
            assert!(
                !names(&source.text, &format!("crate::io::{other}")),
                "src/{}: crate::io::{other}: io modules do not know each other",
                source.path
            );
        }
    }
}

#[test]
fn the_rules_can_be_broken() {
    let cases = [
        ("a plain path", "use tokio::net::TcpStream;", "tokio", true),
        ("written inline", "let t = std::time::Instant::now();", "Instant::now", true),
        ("within a group", "use std::{fmt, fs::{self, File}};", "std::fs", true),
        ("over several lines", "use crate::{\n    net,\n    io::tcp,\n};", "crate::io", true),
        ("renamed", "pub(crate) use std::thread as t;", "std::thread", true),
        ("a longer name", "use tokio_stream::X;", "tokio", false),
        ("a longer path is inside", "use crate::bgp::wire::Decoder;", "crate::bgp", true),
        ("another module with the same start", "use crate::iota;", "crate::io", false),
        ("a variable", "let rand = 7; f(rand);", "rand", false),
        ("a module of our own by that name", "use crate::nix::x;", "nix", false),
        ("a comment", "// like tokio::spawn\nlet x = 1;", "tokio", false),
        ("a test", "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs::File; }", "std::fs", false),
    ];
    for (why, text, path, wanted) in cases {
        assert_eq!(names(&code(text), path), wanted, "{why}: {text}");
    }
}
