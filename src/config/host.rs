//! `[node]`, `[kernel]`, `[metrics]`, `[control]`, `[log]`: the host that the daemon runs on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::diagnostic::Problem;
use crate::config::reader::Table;
use crate::config::words::Name;

/// `[node]`: who this node is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// Its name; empty if not given, which means the host name
    pub name: String,
    /// Source of BGP sessions and local end of tunnels; if not given, the address that the
    /// kernel uses towards the first peer
    pub address: Option<IpAddr>,
    /// BGP identifier, not zero (RFC 6286); if not given, `address`
    pub router_id: Option<Ipv4Addr>,
}

pub(super) fn node(table: &Table<'_>) -> Node {
    let address = table.value("address").and_then(|value| {
        let address: IpAddr = value.word()?;
        if is_unicast(address) { Some(address) } else { value.unfit("the unicast address of this host") }
    });
    let router_id = table.value("router_id");
    if router_id.is_none() && address.is_some_and(|address| address.is_ipv6()) {
        table.report(
            "router_id",
            Problem::Missing("router_id = \"192.0.2.11\" or the like: an IPv6 address gives none"),
        );
    }
    Node {
        name: table.word("name").map(|Name(name)| name).unwrap_or_default(),
        address,
        router_id: router_id.and_then(|value| value.word()),
    }
}

/// Whether one host can have it.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

/// `[kernel]`: where and how routes are written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kernel {
    /// Write routes at all; false: speak BGP only
    pub install: bool,
    /// Routing table, neither 0 nor 255 (the kernel's own); 254 = main
    pub table: u32,
    /// Number that marks routes as ours, 5 to 255: those below are the kernel's and the administrator's
    pub protocol: u8,
    /// Routes refer to nexthop objects, so that a dead next hop is replaced at once
    pub nexthop_objects: bool,
    /// Nexthop objects name their backup too, so that the kernel itself turns to it when a link goes down
    pub link_guard: bool,
    /// Metric of our routes, higher than what people or DHCP write: a route of theirs wins
    pub metric: u32,
}

pub(super) fn kernel(table: &Table<'_>) -> Kernel {
    let routing_table = table.value("table").and_then(|value| match value.number(1..=u64::from(u32::MAX))? {
        255 => value.unfit("a table for routes but the kernel's own, local; write 254 (main) or a number of your own"),
        number => Some(number),
    });
    Kernel {
        install: table.flag("install").unwrap_or(true),
        table: routing_table.unwrap_or(254),
        protocol: table.number("protocol", 5..=255).unwrap_or(87),
        nexthop_objects: table.flag("nexthop_objects").unwrap_or(true),
        link_guard: table.flag("link_guard").unwrap_or(true),
        metric: table.number("metric", 1..=u64::from(u32::MAX)).unwrap_or(2048),
    }
}

/// `[metrics]`: the HTTP port for Prometheus and health checks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Metrics {
    /// Where to listen; `None`: nowhere
    pub listen: Option<SocketAddr>,
    /// Count traffic by remote node in the kernel
    pub forwarding: bool,
    /// Remote nodes that have series of their own; the rest is one sum
    pub forwarding_top: usize,
}

pub(super) fn metrics(table: &Table<'_>) -> Metrics {
    let listen = match table.value("listen") {
        None => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9887))),
        Some(value) if value.as_text() == Some("") || value.as_flag() == Some(false) => None,
        Some(value) => value.word(),
    };
    Metrics {
        listen,
        forwarding: table.flag("forwarding").unwrap_or(true),
        forwarding_top: table.number("forwarding_top", 0..=4096).unwrap_or(100),
    }
}

/// `[control]`: the socket that the command line talks to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Control {
    /// Its path, at most 107 bytes
    pub socket: PathBuf,
}

pub(super) fn control(table: &Table<'_>) -> Control {
    /// What fits `sockaddr_un` (unix(7)), less the terminating zero.
    const MAX_LEN: usize = 107;
    let socket = table.value("socket").and_then(|value| {
        let path: PathBuf = value.word()?;
        if path.as_os_str().len() <= MAX_LEN { Some(path) } else { value.unfit("a path of at most 107 bytes") }
    });
    Control { socket: socket.unwrap_or_else(|| PathBuf::from("/run/wayleave/wayleave.sock")) }
}

/// `[log]`: what is said on stderr.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log {
    /// Shape of a line
    pub format: LogFormat,
    /// Which messages, as tracing's filters are written: `info`, `wayleave::bgp=debug,info`
    pub level: String,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One object a line
    Json,
}

pub(super) fn log(table: &Table<'_>) -> Log {
    let level = table.value("level").and_then(|value| {
        let text = value.as_text().filter(|text| text.split(',').all(is_directive));
        text.map(str::to_owned).or_else(|| {
            value.unfit("a log level; write \"error\", \"warn\", \"info\", \"debug\" or \"trace\", or a filter such as \"wayleave::bgp=debug,info\"")
        })
    });
    Log {
        format: table.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]).unwrap_or_default(),
        level: level.unwrap_or_else(|| "info".to_owned()),
    }
}

/// A level, or `target=level`. A lone target would be legal too, but a mistyped level looks the same.
fn is_directive(text: &str) -> bool {
    let level = text.rsplit('=').next().unwrap_or_default().trim();
    ["off", "error", "warn", "info", "debug", "trace"].iter().any(|known| level.eq_ignore_ascii_case(known))
}
