//! Facts from elsewhere than the daemon: other programs, each within a time of its own, and files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::gather::Content;

/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How long counting all routes of a host may take.
const COUNT_LIMIT: Duration = Duration::from_secs(20);
/// Bytes of one part that are kept.
pub(super) const MOST: usize = 8 * 1024 * 1024;

/// Settings that a routed host depends on, below /proc/sys/net.
const SETTINGS: [&str; 19] = [
    "ipv4/ip_forward",
    "ipv4/conf/all/rp_filter",
    "ipv4/conf/default/rp_filter",
    "ipv4/conf/wayleave0/rp_filter",
    "ipv4/conf/wayleave0/forwarding",
    "ipv4/conf/all/ignore_routes_with_linkdown",
    "ipv4/fib_multipath_hash_policy",
    "ipv4/fib_multipath_use_neigh",
    "ipv4/nexthop_compat_mode",
    "ipv4/neigh/default/gc_thresh3",
    "ipv4/tcp_l3mdev_accept",
    "ipv6/conf/all/forwarding",
    "ipv6/conf/all/disable_ipv6",
    "ipv6/fib_multipath_hash_policy",
    "ipv6/neigh/default/gc_thresh3",
    "ipv6/route/max_size",
    "core/rmem_max",
    "netfilter/nf_conntrack_max",
    "netfilter/nf_conntrack_count",
];

/// What a program prints.
pub(super) async fn program(words: &[&str]) -> Result<Content, String> {
    let read = async |stdout: ChildStdout| {
        let mut said = Vec::new();
        // One byte more tells that there was more; whoever goes on writing then is told that nobody reads.
        stdout.take(MOST as u64 + 1).read_to_end(&mut said).await?;
        let whole = said.len() <= MOST;
        Ok((said, whole))
    };
    run(words, LIMIT, read).await.map(|said| Content::new(&said))
}

/// How many routes there are of each protocol, all tables, one family.
pub(super) async fn route_counts(family: &str) -> Result<String, String> {
    let count = async |stdout| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            let protocol = line.split_whitespace().skip_while(|word| *word != "proto").nth(1);
            *counts.entry(protocol.unwrap_or("none").to_owned()).or_default() += 1;
        }
        Ok((counts, true))
    };
    let counts = run(&["ip", family, "-o", "route", "show", "table", "all"], COUNT_LIMIT, count).await?;
    Ok(counts.iter().fold(String::new(), |mut text, (protocol, count)| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "ip {family} protocol {protocol}: {count}");
        text
    }))
}

/// Runs a program; what `read` makes of its output, unless it failed. `read` also says whether it has read to the
/// end: else there is no waiting for the program's.
async fn run<T>(
    words: &[&str],
    limit: Duration,
    read: impl AsyncFnOnce(ChildStdout) -> io::Result<(T, bool)>,
) -> Result<T, String> {
    let mut child = start(words)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("its output can't be read".to_owned());
    };
    let work = async {
        let mut complaint = Vec::new();
        let complain = async { stderr.take(4096).read_to_end(&mut complaint).await };
        let (read, complained) = tokio::join!(read(stdout), complain);
        let (said, whole) = read?;
        complained?;
        let ended = if whole { Some(child.wait().await?) } else { None };
        Ok((said, complaint, ended))
    };
    let done = timeout(limit, work).await.map_err(|_| format!("no end within {} s", limit.as_secs()))?;
    let (said, complaint, ended) = done.map_err(|error: io::Error| error.to_string())?;
    match ended {
        Some(status) if !status.success() => {
            let complaint = String::from_utf8_lossy(&complaint);
            let first = complaint.lines().map(str::trim).find(|line| !line.is_empty());
            Err(first.map_or_else(|| status.to_string(), str::to_owned))
        }
        _ => Ok(said),
    }
}

fn start(words: &[&str]) -> Result<Child, String> {
    let Some((program, args)) = words.split_first() else { return Err("no program".to_owned()) };
    let started = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    started.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => error.to_string(),
    })
}

/// What stands in a file.
pub(super) fn file(path: &Path) -> Result<Content, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST as u64 + 1).read_to_end(&mut bytes));
    read.map(|_| Content::new(&bytes)).map_err(|error| format!("{}: {error}", path.display()))
}

/// Kernel settings; those that this kernel doesn't know are left out.
pub(super) fn settings() -> String {
    let shown = |key: &&str| {
        let value = std::fs::read_to_string(Path::new("/proc/sys/net").join(key)).ok()?;
        Some(format!("net.{} = {}\n", key.replace('/', "."), value.trim()))
    };
    SETTINGS.iter().filter_map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_is_heard_or_said_to_be_missing() {
        assert_eq!(program(&["echo", "hello"]).await.unwrap().text, "hello\n");
        let cases: [(&str, &[&str], &str); 3] = [
            ("missing", &["/nonexistent/program"], "not installed"),
            ("refuses", &["sh", "-c", "echo no such table >&2; exit 1"], "no such table"),
            ("refuses without a word", &["false"], "exit status: 1"),
        ];
        for (why, words, wanted) in cases {
            let error = program(words).await.err().unwrap();
            assert!(error.contains(wanted), "{why}: {error}");
        }
        // One that complains without end is not waited for.
        assert!(program(&["sh", "-c", "yes >&2; exit 1"]).await.is_err());
        let wrong = route_counts("-nonsense").await.unwrap_err();
        assert!(wrong.contains("nonsense"), "{wrong}");
        let long = program(&["sh", "-c", "yes | head -c 9000000"]).await.unwrap();
        assert!(long.cut && long.text.len() <= MOST, "{}", long.text.len());
    }
}
