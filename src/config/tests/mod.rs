//! Tables over the whole parser: what it says of bad texts, what it makes of good ones.

mod errors;
mod overlay;
mod reload;
mod remains;
mod samples;
mod values;

use super::{Config, SecretError, parse};

/// Reads with a made-up directory of password files.
fn read(text: &str) -> Result<Config, Vec<String>> {
    let found = parse(text, &mut |path| match path.to_str() {
        Some("/etc/wayleave/missing.key") => Err(SecretError::Unreadable(std::io::ErrorKind::NotFound)),
        Some("/etc/wayleave/open.key") => Err(SecretError::WorldReadable { mode: 0o644 }),
        Some("/etc/wayleave/empty.key") => Ok("\n".to_owned()),
        Some("/etc/wayleave/long.key") => Ok("x".repeat(81)),
        Some("/etc/wayleave/longest.key") => Ok("x".repeat(80) + "\r\n"),
        _ => Ok("s3cret\n".to_owned()),
    });
    found.map_err(|found| found.iter().map(|diagnostic| diagnostic.render("w")).collect())
}

/// Reads what must be good.
fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|found| panic!("{text}\n{}", found.join("\n")))
}

/// The least that is a configuration; what a test adds begins on line 5, in `[bgp]`.
const LEAST: &str = "[network]\nsubnets = []\n[bgp]\nasn = 64512\n";

fn good_bgp(text: &str) -> Config {
    good(&format!("{LEAST}{text}"))
}
