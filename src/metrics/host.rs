//! What the host's kernel tells: tunnel, devices, tables that can be full; and the daemon's own use of it.

use prometheus::{Counter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{Register, int64, opts, set_float_counter};
use crate::net::{Family, PerFamily};

/// What the host's kernel tells. What it doesn't tell has no series.
#[derive(Clone, Debug, Default)]
pub struct HostSnapshot {
    /// Whether the tunnel device is there and up; `None`: no tunnel is wanted
    pub tunnel: Option<bool>,
    /// What went wrong in it since it was made
    pub tunnel_errors: Option<TunnelErrors>,
    /// Packets that a smaller MTU stopped, whose sender was told
    pub fragmentation_needed: PerFamily<Option<u64>>,
    /// The kernel's neighbour tables
    pub neighbours: PerFamily<Option<Neighbours>>,
    /// Connections tracked, and how many there may be; 0: any number (`__nf_conntrack_alloc`)
    pub conntrack: Option<(u64, u64)>,
    /// The devices that packets of ours pass
    pub interfaces: Vec<Interface>,
    /// The daemon itself
    pub process: Process,
}

/// Failures of a tunnel device, from `struct rtnl_link_stats64`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TunnelErrors {
    /// Damaged, or of a kind that it doesn't take
    pub receive_errors: u64,
    /// No room, or the device is down
    pub receive_dropped: u64,
    /// Not sent for any reason, those below included; a smaller MTU of the underlay counts here
    pub transmit_errors: u64,
    /// No room, or the device is down
    pub transmit_dropped: u64,
    /// No route to the tunnel's far end, or a dead one
    pub transmit_carrier: u64,
    /// Given up
    pub transmit_aborted: u64,
    /// The way to the tunnel's far end leads into the tunnel
    pub transmit_collisions: u64,
}

/// One family's neighbour table. The kernel keeps one for all network namespaces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Neighbours {
    /// Entries
    pub entries: u32,
    /// `gc_thresh3`: with so many there is no room for another
    pub limit: u32,
}

/// A network device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Interface {
    /// Its name
    pub name: String,
    /// Bytes, packets, errors, drops
    pub receive: [u64; 4],
    /// The same
    pub transmit: [u64; 4],
}

/// What the daemon uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Resident memory in bytes
    pub resident_bytes: u64,
    /// CPU time so far in seconds
    pub cpu_seconds: f64,
    /// Open files; `None`: not known
    pub open_files: Option<u64>,
    /// How many it may open
    pub max_files: Option<u64>,
    /// Threads
    pub threads: Option<u64>,
    /// When it started, in seconds of Unix time
    pub started: f64,
}

const INTERFACE: [(&str, &str); 8] = [
    ("interface_receive_bytes_total", "Bytes received on a network device that packets of ours pass."),
    ("interface_receive_packets_total", "Packets received on a network device."),
    ("interface_receive_errors_total", "Receive errors of a network device."),
    ("interface_receive_dropped_total", "Packets dropped on receipt by a network device."),
    ("interface_transmit_bytes_total", "Bytes sent on a network device; wayleave0 is the IP-in-IP tunnel."),
    ("interface_transmit_packets_total", "Packets sent on a network device."),
    ("interface_transmit_errors_total", "Transmit errors of a network device."),
    ("interface_transmit_dropped_total", "Packets dropped on transmit by a network device."),
];

/// The series.
#[derive(Debug)]
pub(super) struct HostSeries {
    tunnel_up: IntGaugeVec,
    tunnel_errors: IntCounterVec,
    fragmentation_needed: IntCounterVec,
    neighbours: IntGaugeVec,
    neighbours_limit: IntGaugeVec,
    conntrack_entries: IntGaugeVec,
    conntrack_limit: IntGaugeVec,
    interfaces: [IntCounterVec; 8],
    resident: IntGauge,
    cpu: Counter,
    open_files: IntGaugeVec,
    max_files: IntGaugeVec,
    threads: IntGaugeVec,
    started: prometheus::Gauge,
}

impl HostSeries {
    pub(super) fn new(r: &Register<'_>) -> prometheus::Result<Self> {
        let [i0, i1, i2, i3, i4, i5, i6, i7] = INTERFACE.map(|(name, help)| r.counters(name, help, &["device"]));
        Ok(Self {
            tunnel_up: r.gauges("tunnel_up", "Whether the IP-in-IP device is there and up.", &[])?,
            tunnel_errors: r.counters("tunnel_errors_total", "Failures of the IP-in-IP device, by kind.", &["kind"])?,
            fragmentation_needed: r.counters(
                "fragmentation_needed_total",
                "Packets to be forwarded that were too big for the way out and must not be fragmented.",
                &["family"],
            )?,
            neighbours: r.gauges("neighbours", "Entries of the kernel's neighbour table.", &["family"])?,
            neighbours_limit: r.gauges(
                "neighbours_limit",
                "Entries that a neighbour table has room for (gc_thresh3, the lower of both families).",
                &[],
            )?,
            conntrack_entries: r.gauges("conntrack_entries", "Connections that the kernel tracks.", &[])?,
            conntrack_limit: r.gauges("conntrack_limit", "Connections that the kernel has room for.", &[])?,
            interfaces: [i0?, i1?, i2?, i3?, i4?, i5?, i6?, i7?],
            resident: r.gauge("process_resident_memory_bytes", "Resident memory of the daemon.")?,
            cpu: r.add(Counter::with_opts(opts("process_cpu_seconds_total", "CPU time used by the daemon.")))?,
            open_files: r.gauges("process_open_fds", "Files that the daemon has open, sockets included.", &[])?,
            max_files: r.gauges("process_max_fds", "Files that the daemon may open.", &[])?,
            threads: r.gauges("process_threads", "Threads of the daemon.", &[])?,
            started: r.add(prometheus::Gauge::with_opts(opts(
                "process_start_time_seconds",
                "When the daemon started, in seconds of Unix time.",
            )))?,
        })
    }

    pub(super) fn set(&self, now: &HostSnapshot) {
        let process = &now.process;
        let limit = now.neighbours.iter().filter_map(|(_, table)| Some(u64::from((*table)?.limit))).min();
        for (gauge, value) in [
            (&self.tunnel_up, now.tunnel.map(u64::from)),
            (&self.neighbours_limit, limit),
            (&self.conntrack_entries, now.conntrack.map(|(entries, _)| entries)),
            (&self.conntrack_limit, now.conntrack.map(|(_, limit)| limit).filter(|limit| *limit > 0)),
            (&self.open_files, process.open_files),
            (&self.max_files, process.max_files),
            (&self.threads, process.threads),
        ] {
            gauge.reset();
            if let Some(value) = value {
                gauge.with_label_values::<&str>(&[]).set(int64(value));
            }
        }
        self.neighbours.reset();
        self.fragmentation_needed.reset();
        for family in Family::ALL {
            if let Some(table) = now.neighbours[family] {
                self.neighbours.with_label_values(&[word(family)]).set(table.entries.into());
            }
            if let Some(count) = now.fragmentation_needed[family] {
                self.fragmentation_needed.with_label_values(&[word(family)]).inc_by(count);
            }
        }
        self.tunnel_errors.reset();
        for (kind, count) in now.tunnel_errors.iter().flat_map(TunnelErrors::kinds) {
            self.tunnel_errors.with_label_values(&[kind]).inc_by(count);
        }
        for family in &self.interfaces {
            family.reset();
        }
        for interface in &now.interfaces {
            let values = interface.receive.into_iter().chain(interface.transmit);
            for (family, value) in self.interfaces.iter().zip(values) {
                family.with_label_values(&[interface.name.as_str()]).inc_by(value);
            }
        }
        self.resident.set(int64(process.resident_bytes));
        set_float_counter(&self.cpu, process.cpu_seconds);
        self.started.set(process.started);
    }
}

impl TunnelErrors {
    fn kinds(&self) -> [(&'static str, u64); 7] {
        [
            ("receive_errors", self.receive_errors),
            ("receive_dropped", self.receive_dropped),
            ("transmit_errors", self.transmit_errors),
            ("transmit_dropped", self.transmit_dropped),
            ("transmit_carrier", self.transmit_carrier),
            ("transmit_aborted", self.transmit_aborted),
            ("transmit_collisions", self.transmit_collisions),
        ]
    }
}

const fn word(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}
