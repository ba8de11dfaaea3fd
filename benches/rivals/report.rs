//! Runs into a table for people and a file for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::daemons::Rival;
use crate::scenarios::{Measured, Scenario, Size};

/// One row of the table.
struct Metric {
    scenario: Scenario,
    key: &'static str,
    title: &'static str,
}

const fn metric(scenario: Scenario, key: &'static str, title: &'static str) -> Metric {
    Metric { scenario, key, title }
}

/// In the order of the table.
const METRICS: &[Metric] = &[
    metric(Scenario::Load, "load_kernel", "load: all in the kernel, s"),
    metric(Scenario::Load, "load_sink", "load: all told to a peer, s"),
    metric(Scenario::Load, "load_cpu", "load: CPU, s"),
    metric(Scenario::Load, "withdraw_kernel", "withdraw: kernel empty, s"),
    metric(Scenario::Load, "withdraw_sink", "withdraw: peer told, s"),
    metric(Scenario::Load, "withdraw_cpu", "withdraw: CPU, s"),
    metric(Scenario::Load, "idle", "idle, 2 peers: CPU, % of a core"),
    metric(Scenario::Load, "memory", "load: peak memory, MiB"),
    metric(Scenario::Failover, "traffic", "failover: traffic of 32 prefixes, s"),
    metric(Scenario::Failover, "kernel", "failover: all routes in the kernel, s"),
    metric(Scenario::Failover, "sink", "failover: all told to a peer, s"),
    metric(Scenario::Failover, "cpu", "failover: CPU, s"),
    metric(Scenario::Failover, "memory", "two sources: peak memory, MiB"),
    metric(Scenario::Ecmp, "traffic", "ECMP, one of two goes: traffic of 32 prefixes, s"),
    metric(Scenario::Ecmp, "kernel", "ECMP, one of two goes: all routes in the kernel, s"),
    metric(Scenario::Ecmp, "cpu", "ECMP, one of two goes: CPU, s"),
    metric(Scenario::Peers, "sink", "many peers: all told to all, s"),
    metric(Scenario::Peers, "kernel", "many peers: all in the kernel, s"),
    metric(Scenario::Peers, "cpu", "many peers: CPU, s"),
    metric(Scenario::Peers, "memory", "many peers: peak memory, MiB"),
];

/// One run.
pub struct Record {
    pub scenario: Scenario,
    pub rival: Rival,
    pub run: u32,
    pub result: Result<Measured, String>,
}

/// All runs so far.
pub struct Report<'a> {
    pub size: &'a Size<'a>,
    pub runs: u32,
    /// Who takes part, and under which name
    pub rivals: &'a [(Rival, String)],
    pub records: Vec<Record>,
}

/// Median, lowest, highest.
fn summary(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_by(f64::total_cmp);
    let (lowest, highest) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median =
        if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] };
    Some((median, lowest, highest))
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    let digits = [100.0, 10.0, 1.0].iter().position(|limit| value >= *limit).unwrap_or(3);
    format!("{value:.digits$}")
}

impl Report<'_> {
    fn name(&self, rival: Rival) -> &str {
        self.rivals.iter().find(|(one, _)| *one == rival).map_or("", |(_, name)| name)
    }

    fn values(&self, metric: &Metric, rival: Rival) -> Vec<f64> {
        let ours = self.records.iter().filter(|r| r.scenario == metric.scenario && r.rival == rival);
        ours.filter_map(|r| r.result.as_ref().ok()?.values.get(metric.key).copied()).collect()
    }

    /// A table in Markdown: median, lowest and highest where there are several, ratio to BIRD.
    pub fn table(&self) -> String {
        let Size { routes, peers, .. } = self.size;
        let mut text = format!("{routes} routes; {peers} peers; {} runs, in turns\n\n| |", self.runs);
        for (_, name) in self.rivals {
            let _ = write!(text, " {name} |");
        }
        text += "\n| --- |";
        text += &" --- |".repeat(self.rivals.len());
        text.push('\n');
        for metric in METRICS {
            let all: Vec<_> =
                self.rivals.iter().map(|(rival, _)| (*rival, summary(self.values(metric, *rival)))).collect();
            if all.iter().all(|(_, summary)| summary.is_none()) {
                continue;
            }
            let bird = all.iter().find(|(rival, _)| *rival == Rival::Bird).and_then(|(_, summary)| *summary);
            let _ = write!(text, "| {} |", metric.title);
            for (rival, summary) in &all {
                text += &cell(*summary, bird.filter(|_| *rival != Rival::Bird));
            }
            text.push('\n');
        }
        text.push('\n');
        let failed = self.records.iter().filter_map(|r| Some((r, r.result.as_ref().err()?)));
        for (record, error) in failed {
            let _ = writeln!(text, "{:?}, {}, run {}: {error}", record.scenario, self.name(record.rival), record.run);
        }
        let noise = self.records.iter().filter_map(|r| Some(r.result.as_ref().ok()?.foreign));
        if let Some((median, lowest, highest)) = summary(noise.collect()) {
            let _ = writeln!(text, "Other processes: {median:.0} % of a core [{lowest:.0}..{highest:.0}].");
        }
        text
    }

    /// Everything, run by run.
    pub fn json(&self) -> Value {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let names: Vec<&String> = self.rivals.iter().map(|(_, name)| name).collect();
        let records: Vec<Value> = self
            .records
            .iter()
            .map(|record| {
                let scenario = format!("{:?}", record.scenario).to_lowercase();
                let mut value = json!({"scenario": scenario, "daemon": self.name(record.rival), "run": record.run});
                match &record.result {
                    Ok(measured) => {
                        value["values"] = json!(measured.values);
                        value["foreign_percent"] = json!(measured.foreign);
                    }
                    Err(error) => value["error"] = json!(error),
                }
                value
            })
            .collect();
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        json!({
            "routes": self.size.routes, "peers": self.size.peers, "runs": self.runs,
            "kernel": read("/proc/sys/kernel/osrelease"), "processors": processors,
            "daemons": names, "records": records,
        })
    }
}

fn cell(summary: Option<(f64, f64, f64)>, bird: Option<(f64, f64, f64)>) -> String {
    let Some((median, lowest, highest)) = summary else { return " |".to_owned() };
    let mut text = format!(" {}", number(median));
    if lowest < highest {
        let _ = write!(text, " [{}..{}]", number(lowest), number(highest));
    }
    if let Some((theirs, ..)) = bird.filter(|(theirs, ..)| *theirs > 0.0) {
        let _ = write!(text, " ×{}", number(median / theirs));
    }
    text + " |"
}
