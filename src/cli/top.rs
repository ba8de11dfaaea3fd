//! `wayleave top`: traffic by remote node, live.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::show::{list, or_dash, print, table};
use super::terminal::Screen;
use super::{DaemonArgs, Error};
use crate::view::{DeviceDrops, NodeTraffic, Passed, Paths, Traffic, Volume};

/// Show traffic by remote node, live: bits and packets per second to and from each, the busiest first
///
/// On a terminal the table is drawn anew until ^C; elsewhere, and with --once, one table is printed after one
/// interval. With --json there is a line of JSON for each interval. Bytes are those of IP packets.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Time between two looks, such as 500ms; 100ms to 1h
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    interval: Duration,
    /// End after so many tables
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print one table and end
    #[arg(long, conflicts_with = "count")]
    once: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let limits = Duration::from_millis(100)..=Duration::from_secs(3600);
    if limits.contains(&interval) { Ok(interval) } else { Err("must be from 100ms to 1h".to_owned()) }
}

impl Top {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        let live = io::stdout().is_terminal() && !self.once && !self.daemon.json;
        let tables = if self.once { Some(1) } else { self.count };
        // Whoever reads lines, reads on; a table is for a look.
        let tables = tables.or((!live && !self.daemon.json).then_some(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut stop = runtime.block_on(async { Stop::listen() })?;
        let Some(before) = runtime.block_on(stop.unless(self.ask())) else { return Ok(ExitCode::SUCCESS) };
        let mut before: Traffic = before?;
        let mut screen = if live { Some(Screen::enter(out)?) } else { None };
        let mut shown = 0;
        while tables.is_none_or(|tables| shown < tables) {
            let next = async {
                tokio::time::sleep(self.interval).await;
                self.ask().await
            };
            let Some(answer) = runtime.block_on(stop.unless(next)) else { break };
            match (answer, &mut screen) {
                (Ok(now), screen) => {
                    let rates = Rates::between(&before, &now);
                    match screen {
                        Some(screen) => screen.draw(out, &frame(&rates, &now, self.interval)?)?,
                        None if self.daemon.json => {
                            writeln!(out, "{}", serde_json::to_string(&rates)?)?;
                            out.flush()?;
                        }
                        None => write_rates(out, &rates)?,
                    }
                    before = now;
                    shown += 1;
                }
                // It may come back, and begins with saying that it isn't ready.
                (Err(error), Some(screen)) => screen.draw(out, &error.to_string())?,
                (Err(error), None) => return Err(error),
            }
        }
        if let Some(mut screen) = screen {
            screen.leave(out)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn ask(&self) -> Result<Traffic, Error> {
        let traffic: Traffic = self.daemon.fetching("/v1/traffic").await?;
        if traffic.status.counted {
            return Ok(traffic);
        }
        let why = traffic.status.error.as_deref().unwrap_or("the counters are not in place yet");
        Err(Error::Refused(format!("traffic by remote node is not counted: {why}")))
    }
}

/// The signals that end it, so that the terminal is left as it was.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// What is waited for; none: one of them came first.
    async fn unless<T>(&mut self, awaited: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            _ = self.interrupt.recv() => None,
            _ = self.terminate.recv() => None,
            _ = self.hangup.recv() => None,
            done = awaited => Some(done),
        }
    }
}

/// What has passed in an interval.
#[derive(Debug, Serialize)]
struct Rates {
    node: String,
    at: String,
    /// Between the two looks
    seconds: f64,
    /// The busiest first
    nodes: Vec<NodeRates>,
    unmatched: BothRates,
    /// Those that have lost something, ever
    devices: Vec<DeviceRates>,
}

#[derive(Debug, Serialize)]
struct NodeRates {
    node: String,
    address: Option<std::net::IpAddr>,
    #[serde(flatten)]
    rates: BothRates,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct BothRates {
    transmit: PathRates,
    receive: PathRates,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct PathRates {
    direct: Rate,
    tunnel: Rate,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Rate {
    bits_per_second: f64,
    packets_per_second: f64,
}

#[derive(Debug, Serialize)]
struct DeviceRates {
    #[serde(flatten)]
    since_it_is_there: DeviceDrops,
    lost_per_second: f64,
}

impl Rates {
    fn between(before: &Traffic, now: &Traffic) -> Self {
        // A daemon that was started anew begins a new clock.
        let seconds = Some(now.clock - before.clock).filter(|seconds| *seconds > 0.0).unwrap_or_default();
        let known: BTreeMap<&str, &NodeTraffic> = before.nodes.iter().map(|node| (node.node.as_str(), node)).collect();
        let mut nodes: Vec<NodeRates> = now
            .nodes
            .iter()
            .map(|node| NodeRates {
                node: node.node.clone(),
                address: node.address,
                rates: BothRates::between(known.get(node.node.as_str()).map(|was| &was.passed), &node.passed, seconds),
            })
            .collect();
        // By name among equals, as they come.
        nodes.sort_by(|a, b| b.rates.bits().total_cmp(&a.rates.bits()));
        let device = |drops: &DeviceDrops| {
            let was =
                before.devices.iter().find(|was| was.device == drops.device).map_or(drops.sum(), DeviceDrops::sum);
            DeviceRates { lost_per_second: per_second(was, drops.sum(), seconds), since_it_is_there: drops.clone() }
        };
        Self {
            node: now.node.clone(),
            at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            seconds,
            nodes,
            unmatched: BothRates::between(Some(&before.unmatched), &now.unmatched, seconds),
            devices: now.devices.iter().filter(|drops| drops.sum() > 0).map(device).collect(),
        }
    }
}

impl BothRates {
    /// A node that wasn't known has no rate yet.
    fn between(before: Option<&Passed>, now: &Passed, seconds: f64) -> Self {
        let before = before.unwrap_or(now);
        let rate = |before: Volume, now: Volume| Rate {
            bits_per_second: 8.0 * per_second(before.bytes, now.bytes, seconds),
            packets_per_second: per_second(before.packets, now.packets, seconds),
        };
        let paths = |before: Paths, now: Paths| PathRates {
            direct: rate(before.direct, now.direct),
            tunnel: rate(before.tunnel, now.tunnel),
        };
        Self { transmit: paths(before.transmit, now.transmit), receive: paths(before.receive, now.receive) }
    }

    fn bits(&self) -> f64 {
        self.transmit.sum().bits_per_second + self.receive.sum().bits_per_second
    }

    /// Which part of it goes through the tunnel: packets, as an idle connection has some too.
    fn tunnelled(&self) -> Option<f64> {
        let tunnel = self.transmit.tunnel.packets_per_second + self.receive.tunnel.packets_per_second;
        let all = self.transmit.sum().packets_per_second + self.receive.sum().packets_per_second;
        (all > 0.0).then(|| tunnel / all)
    }
}

impl PathRates {
    fn sum(&self) -> Rate {
        Rate {
            bits_per_second: self.direct.bits_per_second + self.tunnel.bits_per_second,
            packets_per_second: self.direct.packets_per_second + self.tunnel.packets_per_second,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(before: u64, now: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 }
}

/// A number in three digits or so: `1.23G`.
fn short(value: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(size, _)| value >= *size) {
        None => format!("{value:.0}"),
        Some((size, unit)) => {
            let value = value / size;
            let digits = usize::from(value < 99.95) + usize::from(value < 9.995);
            format!("{value:.digits$}{unit}")
        }
    }
}

fn cells(name: &str, address: Option<std::net::IpAddr>, rates: &BothRates) -> [String; 7] {
    let (transmit, receive) = (rates.transmit.sum(), rates.receive.sum());
    [
        name.to_owned(),
        short(transmit.bits_per_second),
        short(receive.bits_per_second),
        short(transmit.packets_per_second),
        short(receive.packets_per_second),
        rates.tunnelled().map_or_else(|| "-".to_owned(), |part| format!("{:.0} %", 100.0 * part)),
        or_dash(address),
    ]
}

fn write_rates(out: &mut impl Write, rates: &Rates) -> io::Result<()> {
    let header = ["NODE", "TX BIT/S", "RX BIT/S", "TX PKT/S", "RX PKT/S", "TUNNEL", "ADDRESS"];
    let mut rows = table(header);
    for node in &rates.nodes {
        rows.add_row(cells(&node.node, node.address, &node.rates));
    }
    if rates.unmatched.bits() > 0.0 {
        rows.add_row(cells("(of no known node)", None, &rates.unmatched));
    }
    print(&rows, out)
}

/// What a terminal shows.
fn frame(rates: &Rates, now: &Traffic, interval: Duration) -> io::Result<String> {
    let ready = if now.ready { "ready" } else { "NOT ready" };
    let sessions = list(now.sessions.iter().map(|(state, n)| format!("{n} {state}")), ", ");
    let mut out = Vec::new();
    writeln!(out, "{}: {ready} ({}), sessions: {sessions}", now.node, now.ready_reason)?;
    let lost = rates.devices.iter().map(|device| {
        let DeviceRates { since_it_is_there: drops, lost_per_second } = device;
        format!("{} {} ({} in all)", drops.device, short(*lost_per_second), drops.sum())
    });
    writeln!(out, "packets lost per second by: {}", list(lost, ", "))?;
    writeln!(out, "every {}, {}; ^C ends\n", humantime::format_duration(interval), rates.at)?;
    write_rates(&mut out, rates)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(bytes: u64, packets: u64) -> Volume {
        Volume { bytes, packets }
    }

    fn node(name: &str, direct: Volume, tunnel: Volume) -> NodeTraffic {
        let passed = Passed { transmit: Paths { direct, tunnel }, receive: Paths::default() };
        NodeTraffic { node: name.to_owned(), passed, ..NodeTraffic::default() }
    }

    #[test]
    fn rates_are_those_of_the_interval() {
        let drops =
            |transmit_dropped| DeviceDrops { device: "eth0".into(), transmit_dropped, ..DeviceDrops::default() };
        let before = Traffic {
            clock: 10.0,
            nodes: vec![node("a", volume(1000, 10), volume(0, 0)), node("b", volume(0, 0), volume(0, 0))],
            devices: vec![drops(5)],
            ..Traffic::default()
        };
        let now = Traffic {
            clock: 12.0,
            nodes: vec![
                node("a", volume(1500, 15), volume(0, 0)),
                node("b", volume(1000, 1), volume(4000, 3)),
                node("c", volume(99_999, 9), volume(0, 0)),
            ],
            devices: vec![drops(9), DeviceDrops { device: "idle".into(), ..DeviceDrops::default() }],
            ..Traffic::default()
        };
        let rates = Rates::between(&before, &now);
        let shown: Vec<_> = rates.nodes.iter().map(|node| cells(&node.node, None, &node.rates)).collect();
        assert_eq!(shown[0], ["b", "20.0k", "0", "2", "0", "75 %", "-"], "the busiest first");
        assert_eq!(shown[1], ["a", "2.00k", "0", "2", "0", "0 %", "-"]);
        assert_eq!(shown[2], ["c", "0", "0", "0", "0", "-", "-"], "what came before it was known has no rate");
        assert_eq!(rates.devices.len(), 1, "only those that have lost something");
        assert!((rates.devices[0].lost_per_second - 2.0).abs() < 1e-9);
        let frame = frame(&rates, &now, Duration::from_secs(1)).unwrap();
        assert!(frame.contains("eth0 2 (9 in all)") && frame.contains("NODE"), "{frame}");
        let restarted = Traffic { clock: 1.0, ..now.clone() };
        assert!(
            Rates::between(&now, &restarted).nodes.iter().all(|node| node.rates.bits() < 1e-9),
            "no time to divide by"
        );
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (999.4, "999"),
            (1000.0, "1.00k"),
            (9_996.0, "10.0k"),
            (99_960.0, "100k"),
            (12_345_678.0, "12.3M"),
            (1.5e12, "1.50T"),
        ];
        for (value, wanted) in cases {
            assert_eq!(short(value), wanted);
        }
    }
}
