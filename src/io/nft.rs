//! Runs `nft` on a script: one script is one transaction, so it holds or nothing changes.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// How long `nft` may take; a ruleset of a node takes milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// Why a ruleset is not in the kernel. Whatever the reason, nothing was changed.
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
    run("nft", script).await.map(drop)
}

/// A table of the family `inet` as nft(8) shows it, without handles; `None`: there is no such table.
pub async fn list(table: &str) -> Result<Option<String>, NftError> {
    match run("nft", &format!("list table inet {table}\n")).await {
        Ok(text) => Ok(Some(text)),
        Err(NftError::Refused(text)) if text.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn run(program: &str, script: &str) -> Result<String, NftError> {
    let output = timeout(LIMIT, feed(program, script)).await.map_err(|_| NftError::TimedOut)?;
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NftError::Missing,
        _ => NftError::Io(error),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().map(str::trim).find(|line| !line.is_empty());
    Err(NftError::Refused(first.map_or_else(|| output.status.to_string(), str::to_owned)))
}

async fn feed(program: &str, script: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(script.as_bytes()).await {
            // It ended before it had read all: what it wrote says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            result => result?,
        }
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_program_is_an_error_of_its_own() {
        assert!(matches!(run("/nonexistent/nft", "").await, Err(NftError::Missing)));
    }

    #[tokio::test]
    async fn a_silent_failure_still_says_something() {
        let error = run("false", "").await.unwrap_err();
        assert_eq!(error.to_string(), "nft: exit status: 1");
    }
}
