//! Runs `nft` on a script: one script is one transaction, so it holds or nothing changes.

use std::io;

use super::program::{self, LIMIT};

/// Why a ruleset is not in the kernel. Nothing was changed, but after a timeout nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is not installed.
    #[error("nft is not installed; install the package nftables")]
    Missing,
    /// `nft` or the kernel refused the script; holds the first line that `nft` wrote.
    #[error("nft: {0}")]
    Refused(String),
    /// No end within ten seconds; it was killed.
    #[error("nft did not end within {} s", LIMIT.as_secs())]
    TimedOut,
    /// It could not be started or fed.
    #[error("cannot run nft")]
    Io(#[source] io::Error),
}

/// Applies `script` (the language of nft(8)) as one transaction.
pub async fn apply(script: &str) -> Result<(), NftError> {
    run("nft", &[], script).await.map(drop)
}

/// A table of the family `inet` as nft(8) shows it, without handles and without what its counters say; `None`: there is no such table.
pub async fn list(table: &str) -> Result<Option<String>, NftError> {
    shown(run("nft", &[], &format!("list table inet {table}\n")).await)
}

/// The same without what is in its named sets.
pub async fn list_terse(table: &str) -> Result<Option<String>, NftError> {
    shown(run("nft", &["-t"], &format!("list table inet {table}\n")).await)
}

fn shown(result: Result<String, NftError>) -> Result<Option<String>, NftError> {
    match result {
        Ok(text) => Ok(Some(text)),
        Err(NftError::Refused(text)) if text.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn run(program: &str, options: &[&str], script: &str) -> Result<String, NftError> {
    // Counters are left out of what is listed: they are no rules.
    let arguments = [options, &["-s", "-f", "-"]].concat();
    let output = program::run(program, &arguments, script).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NftError::Missing,
        io::ErrorKind::TimedOut => NftError::TimedOut,
        _ => NftError::Io(error),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(NftError::Refused(program::complaint(&output)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_program_is_an_error_of_its_own() {
        assert!(matches!(run("/nonexistent/nft", &[], "").await, Err(NftError::Missing)));
    }

    #[tokio::test]
    async fn a_silent_failure_still_says_something() {
        let error = run("false", &[], "").await.unwrap_err();
        assert_eq!(error.to_string(), "nft: exit status: 1");
    }
}
