//! Runs another program to its end: text in, text out, within a time limit.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// How long it may take; what we ask of others takes milliseconds.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// Runs it; `TimedOut`: it did not end in time and was killed.
pub(super) async fn run(program: &str, args: &[&str], input: &str) -> io::Result<Output> {
    timeout(LIMIT, feed(program, args, input)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The first line that it complained with, or how it ended.
pub(super) fn complaint(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().map(str::trim).find(|line| !line.is_empty());
    first.map_or_else(|| output.status.to_string(), str::to_owned)
}

async fn feed(program: &str, args: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()).await {
            // It ended before it had read all: what it wrote says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            result => result?,
        }
    }
    child.wait_with_output().await
}
