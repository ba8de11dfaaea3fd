//! Who may have done it: names for what the kernel tells of a change, and for what it doesn't.
//!
//! Nothing here is proof. Looked at when somebody keeps undoing our work, not on any hot path.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Programs known to set kernel settings again while they run, by the names the kernel shows.
const SETTERS: &[&str] = &[
    "NetworkManager",
    "ansible-pull",
    "cf-agent",
    "chef-client",
    "connmand",
    "keepalived",
    "kube-router",
    "puppet",
    "salt-minion",
    "systemd-network",
    "tuned",
];

/// Where sysctl(8) and systemd-sysctl look for files.
const SYSCTL_DIRS: &[&str] = &["etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d"];

/// Where iproute2 looks for names of routing protocols, the strongest first.
const PROTOCOL_FILES: &[&str] =
    &["etc/iproute2/rt_protos", "usr/share/iproute2/rt_protos", "usr/lib/iproute2/rt_protos"];

/// A running process by its number: its name and that of its parent, which says more where the
/// process is a short-lived tool; `None`: it has ended.
pub fn process(pid: u32) -> Option<String> {
    let (name, parent) = stat(pid)?;
    let of = stat(parent).map(|(of, _)| format!(", started by {of} (pid {parent})"));
    Some(format!("{name} (pid {pid}){}", of.unwrap_or_default()))
}

/// The process of an nftables transaction: its number and what nftables calls it.
pub fn transaction((pid, name): (u32, String)) -> String {
    match process(pid) {
        Some(process) if process.starts_with(&name) => process,
        _ => format!("{name} (pid {pid}, ended)"),
    }
}

/// Name and parent.
fn stat(pid: u32) -> Option<(String, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    Some((name.to_owned(), rest.split_whitespace().nth(1)?.parse().ok()?))
}

/// The process that a netlink port belongs to, other than ourselves. The kernel gives a process its own
/// number as its first port, and random ones beyond any process number after that.
pub fn netlink_port(port: u32) -> Option<String> {
    const PID_MAX: u32 = 1 << 22;
    if port == 0 || port > PID_MAX || port == std::process::id() {
        return None;
    }
    Some(process(port).unwrap_or_else(|| format!("a process that has ended (pid {port})")))
}

/// The same for a port that is no process number: a process that has several netlink sockets. Looks through
/// the open files of all processes, so it is for rare questions.
pub fn netlink_owner(port: u32) -> Option<String> {
    let table = fs::read_to_string("/proc/net/netlink").ok()?;
    let pid = socket_owner(netlink_inode(&table, port)?)?;
    if pid == std::process::id() { None } else { process(pid) }
}

/// The socket of rtnetlink with this port, in a table as proc(5) has it: address, protocol, port, …, inode.
fn netlink_inode(table: &str, port: u32) -> Option<u64> {
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_it = words.next()? == "0" && words.next()?.parse() == Ok(port);
        is_it.then(|| words.last()?.parse().ok()).flatten()
    })
}

/// The first process that has a socket open.
fn socket_owner(inode: u64) -> Option<u32> {
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|link| link == socket))
    };
    let entries = fs::read_dir("/proc").ok()?.flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(holds)
}

/// Who may be setting a kernel setting, by its name as sysctl(8) writes it: files that name it, and running
/// programs that are known to do such things.
pub fn sysctl(key: &str) -> Option<String> {
    let files = sysctl_files(Path::new("/"), key).into_iter().map(|file| format!("set in {}", file.display()));
    let mut running = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
            && let Ok(name) = fs::read_to_string(entry.path().join("comm"))
            && let Some(known) = SETTERS.iter().find(|known| **known == name.trim_end())
        {
            running.insert(*known);
        }
    }
    let found: Vec<String> = files.chain(running.into_iter().map(|name| format!("{name} runs here"))).collect();
    (!found.is_empty()).then(|| found.join(", "))
}

fn sysctl_files(root: &Path, key: &str) -> Vec<PathBuf> {
    let entries = SYSCTL_DIRS.iter().flat_map(|dir| fs::read_dir(root.join(dir))).flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.push(root.join("etc/sysctl.conf"));
    files.sort();
    // A slash first makes all separators slashes; dots and slashes are otherwise each other's place.
    let slashed: String = key
        .chars()
        .map(|c| {
            if c == '.' {
                '/'
            } else if c == '/' {
                '.'
            } else {
                c
            }
        })
        .collect();
    let sets = |line: &str| {
        let name = line.split_once('=').map_or("", |(name, _)| name.trim().trim_start_matches('-'));
        name == key || name == slashed
    };
    files.retain(|file| fs::read_to_string(file).is_ok_and(|text| text.lines().any(|line| sets(line.trim()))));
    files
}

/// A routing protocol number as ip(8) shows it: `bird (protocol 12)`.
pub fn protocol(number: u8) -> String {
    match protocol_name(Path::new("/"), number) {
        Some(name) => format!("{name} (protocol {number})"),
        None => format!("protocol {number}"),
    }
}

fn protocol_name(root: &Path, number: u8) -> Option<String> {
    for file in PROTOCOL_FILES {
        let mut dropped: Vec<PathBuf> = fs::read_dir(root.join(format!("{file}.d")))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
            .collect();
        dropped.sort();
        for path in dropped.into_iter().chain([root.join(file)]) {
            let text = fs::read_to_string(path).unwrap_or_default();
            let named = text.lines().filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?.parse::<u8>().ok()?, words.next()?))
            });
            if let Some((_, name)) = named.into_iter().find(|(found, _)| *found == number) {
                return Some(name.to_owned());
            }
        }
    }
    // What the kernel itself defines (linux/rtnetlink.h), where no file says so.
    let known = match number {
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        _ => return None,
    };
    Some(known.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn files_that_set_a_key() {
        let dir = host(&[
            ("etc/sysctl.d/99-hardening.conf", "# net.ipv4.ip_forward = 1\n net.ipv4.ip_forward = 0\n"),
            ("usr/lib/sysctl.d/50-default.conf", "-net/ipv4/conf/eth0.100/rp_filter=2\n"),
            ("etc/sysctl.conf", "#net.ipv4.ip_forward=1\nnet.ipv4.ip_forward_update_priority=1\n"),
        ]);
        let found = |key| {
            let files = sysctl_files(dir.path(), key);
            files.iter().map(|file| file.strip_prefix(dir.path()).unwrap().display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("net.ipv4.ip_forward"), ["etc/sysctl.d/99-hardening.conf"]);
        assert_eq!(found("net.ipv4.conf.eth0/100.rp_filter"), ["usr/lib/sysctl.d/50-default.conf"]);
        assert!(found("net.ipv4.conf.all.rp_filter").is_empty());
    }

    #[test]
    fn protocols_have_the_names_that_ip_shows() {
        let dir = host(&[
            ("etc/iproute2/rt_protos", "#\n# Reserved protocols.\n12\tbird\n186 bgp\n0x10 odd\n"),
            ("etc/iproute2/rt_protos.d/wayleave.conf", "87 wayleave\n"),
            ("etc/iproute2/rt_protos.d/README", "12 not a name\n"),
        ]);
        let cases = [(12, Some("bird")), (87, Some("wayleave")), (186, Some("bgp")), (4, Some("static")), (99, None)];
        for (number, name) in cases {
            assert_eq!(protocol_name(dir.path(), number).as_deref(), name, "{number}");
        }
        assert!(protocol(3).ends_with("(protocol 3)"));
    }

    #[test]
    fn a_socket_leads_to_its_process() {
        let table = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
                     000000003a0cb1b7 15  4090967101 00000001 0        0        0     2        0        11\n\
                     00000000c3f7a6b8 0   4090967101 00000551 0        0        0     2        0        12\n\
                     00000000d0c5b5e2 0   812        00000000 0        0        0     2        0        13\n";
        let cases = [(4_090_967_101, Some(12)), (812, Some(13)), (813, None)];
        for (port, inode) in cases {
            assert_eq!(netlink_inode(table, port), inode, "{port}");
        }
        let (ours, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&ours))).unwrap();
        let inode = link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        assert_eq!(socket_owner(inode), Some(std::process::id()));
    }

    #[test]
    fn processes_and_ports() {
        let me = process(std::process::id()).unwrap();
        assert!(me.contains(&format!("(pid {}), started by ", std::process::id())), "{me}");
        assert_eq!(netlink_port(std::process::id()), None, "we are not suspects");
        assert_eq!(netlink_port(0), None, "the kernel itself");
        assert_eq!(netlink_port(4_000_000_123), None, "a port, but no process number");
        assert_eq!(netlink_port(4_194_303).as_deref(), Some("a process that has ended (pid 4194303)"));
    }
}
