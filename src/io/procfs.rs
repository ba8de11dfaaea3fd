//! Counters that the kernel shows as files under /proc.

use std::io;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// Receive and transmit counters of a device: bytes, packets, errors, drops, each way.
pub type DeviceCounters = (String, [u64; 8]);

/// Every device of our network namespace. /proc/net follows the namespace; /sys need not.
pub fn devices() -> io::Result<Vec<DeviceCounters>> {
    Ok(parse_devices(&std::fs::read_to_string("/proc/thread-self/net/dev")?))
}

fn parse_devices(text: &str) -> Vec<DeviceCounters> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let values: Vec<u64> = counters.split_whitespace().map_while(|value| value.parse().ok()).collect();
        // Columns: 8 of receive (bytes packets errs drop …), then 8 of transmit.
        let pick = |i: usize| values.get(i).copied();
        let picked = [pick(0)?, pick(1)?, pick(2)?, pick(3)?, pick(8)?, pick(9)?, pick(10)?, pick(11)?];
        Some((name.trim().to_owned(), picked))
    };
    text.lines().filter_map(line).collect()
}

/// How long the kernel has been up, if it says.
pub fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
}

/// Resident memory of this process in bytes.
pub fn resident_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    Ok(pages * unit(SysconfVar::PAGE_SIZE))
}

/// CPU time that this process used, in seconds; 0 if the kernel doesn't say.
pub fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold spaces; fields 14 and 15 are user and system ticks.
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks: u32 = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
    f64::from(ticks) / f64::from(u32::try_from(unit(SysconfVar::CLK_TCK)).unwrap_or(100))
}

fn unit(variable: SysconfVar) -> u64 {
    sysconf(variable).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_lines() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\nwl0:1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2\nbad: 1 2\n";
        let found = parse_devices(text);
        assert_eq!(
            found,
            [("lo".to_owned(), [10, 2, 3, 4, 50, 6, 7, 8]), ("wl0".to_owned(), [1, 1, 1, 1, 2, 2, 2, 2])]
        );
    }
}
