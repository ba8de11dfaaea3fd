//! When the tables changed last, and whether the kernel's agreed with ours when they were compared.

use prometheus::{GaugeVec, IntCounter, IntGauge};

use super::{Register, int, set_counter};

/// Changes and checks of the tables. Times are seconds of Unix time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RouteSnapshot {
    /// When a prefix last got another best path, or none
    pub rib_changed: Option<f64>,
    /// When a route or nexthop object was last written to the kernel
    pub fib_changed: Option<f64>,
    /// Comparisons with the kernel
    pub checks: Checks,
    /// Others that announce a subnet of this node
    pub rivals: usize,
    /// Seconds since the oldest part of the snapshot was true
    pub age: f64,
}

/// Comparisons of what is known of the kernel's tables with a dump of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Checks {
    /// Nothing was found wrong
    pub agreed: u64,
    /// Something was, and put right
    pub differed: u64,
    /// When the last one ended
    pub last: Option<f64>,
}

/// The series.
#[derive(Debug)]
pub(super) struct RouteSeries {
    rib_changed: GaugeVec,
    fib_changed: GaugeVec,
    agreed: IntCounter,
    differed: IntCounter,
    checked: GaugeVec,
    rivals: IntGauge,
    age: GaugeVec,
}

impl RouteSeries {
    pub(super) fn new(r: &Register<'_>) -> prometheus::Result<Self> {
        let checks = r.counters(
            "fib_checks_total",
            "Comparisons of the kernel's whole tables with what is known of them, by result.",
            &["result"],
        )?;
        Ok(Self {
            rib_changed: r
                .seconds("rib_last_change_timestamp_seconds", "When a prefix last got another best path, or none.")?,
            fib_changed: r.seconds(
                "fib_last_change_timestamp_seconds",
                "When a route or nexthop object was last written to the kernel.",
            )?,
            agreed: checks.with_label_values(&["agreed"]),
            differed: checks.with_label_values(&["differed"]),
            checked: r.seconds("fib_last_check_timestamp_seconds", "When the last such comparison ended.")?,
            rivals: r.gauge("subnet_rivals", "Others that announce a subnet of this node.")?,
            age: r.seconds(
                "snapshot_age_seconds",
                "Age of the oldest part of what this scrape says of peers and tables.",
            )?,
        })
    }

    pub(super) fn set(&self, now: &RouteSnapshot) {
        for (gauge, value) in [
            (&self.rib_changed, now.rib_changed),
            (&self.fib_changed, now.fib_changed),
            (&self.checked, now.checks.last),
            (&self.age, Some(now.age)),
        ] {
            gauge.reset();
            if let Some(value) = value {
                gauge.with_label_values::<&str>(&[]).set(value);
            }
        }
        set_counter(&self.agreed, now.checks.agreed);
        set_counter(&self.differed, now.checks.differed);
        self.rivals.set(int(now.rivals));
    }
}
