//! What the kernel shows as files under /proc. What it doesn't show is `None`.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

use crate::net::PerFamily;

/// Packets that were to be forwarded, were too big for the way out, and whose sender was told. Of the
/// network namespace of the calling thread: /proc/net is that of the process's first one.
pub fn fragmentation_needed() -> PerFamily<Option<u64>> {
    let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).ok();
    // `ip_forward` in net/ipv4/ip_forward.c, `ip6_forward` in net/ipv6/ip6_output.c.
    PerFamily::new(
        read("snmp").and_then(|text| ipv4_counter(&text, "FragFails")),
        read("snmp6").and_then(|text| ipv6_counter(&text, "Ip6InTooBigErrors")),
    )
}

/// A counter of the pair of lines that begins with `Ip:`: names, then values.
fn ipv4_counter(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let (_, value) = names.split_whitespace().zip(values.split_whitespace()).find(|(found, _)| *found == name)?;
    value.parse().ok()
}

/// A counter of a line of its own.
fn ipv6_counter(text: &str, name: &str) -> Option<u64> {
    let words = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    words.filter(|(found, _)| *found == name).find_map(|(_, value)| value.trim().parse().ok())
}

/// Connections that the kernel tracks, and how many it has room for; `None`: it tracks none.
pub fn conntrack() -> Option<(u64, u64)> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")).ok()?.trim().parse().ok();
    Some((read("nf_conntrack_count")?, read("nf_conntrack_max")?))
}

/// How long the kernel has been up, if it says.
pub fn uptime() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
}

/// Resident memory of this process in bytes.
pub fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * unit(SysconfVar::PAGE_SIZE))
}

/// CPU time that this process has used, in seconds, and its threads.
pub fn cpu_and_threads() -> Option<(f64, u64)> {
    parse_stat(&fs::read_to_string("/proc/self/stat").ok()?, unit(SysconfVar::CLK_TCK))
}

fn parse_stat(text: &str, ticks_per_second: u64) -> Option<(f64, u64)> {
    // The name in parentheses may hold spaces. Fields 14, 15 and 20 are user ticks, system ticks, threads.
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = Duration::from_secs(field(14)? + field(15)?).as_secs_f64();
    Some((ticks / Duration::from_secs(ticks_per_second.max(1)).as_secs_f64(), field(20)?))
}

/// Files that this process has open.
pub fn open_files() -> Option<u64> {
    // Since Linux 6.2 the size of the directory is their number; before it was 0.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        // The one that reads the directory is there as well.
        0 => u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?.checked_sub(1),
        count => Some(count),
    }
}

/// How many it may open.
pub fn max_files() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

fn unit(variable: SysconfVar) -> u64 {
    sysconf(variable).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_both_families() {
        let text = "Ip: Forwarding FragOKs FragFails FragCreates\nIp: 1 6 4 12\nIcmp: InMsgs FragFails\nIcmp: 7 9\n";
        assert_eq!(ipv4_counter(text, "FragFails"), Some(4));
        assert_eq!(ipv4_counter(text, "Other"), None);
        let text = "Ip6InReceives                   \t2\nIp6InTooBigErrors               \t3\n";
        assert_eq!(ipv6_counter(text, "Ip6InTooBigErrors"), Some(3));
        assert_eq!(ipv6_counter(text, "Ip6"), None);
    }

    #[test]
    fn a_name_with_spaces_and_parentheses() {
        let text = "7 (way) leave) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 12345 1 1";
        assert_eq!(parse_stat(text, 100), Some((3.0, 9)));
        assert_eq!(parse_stat("7 (x) S 1", 100), None);
    }

    #[test]
    fn this_process() {
        assert!(resident_bytes().unwrap() > 1 << 20);
        assert!(cpu_and_threads().unwrap().1 >= 1);
        assert!((3..=max_files().unwrap()).contains(&open_files().unwrap()));
    }
}
