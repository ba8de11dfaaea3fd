//! Traffic by remote node.

use std::sync::Arc;

use prometheus::{IntGauge, IntGaugeVec};

use super::text::{Family, Kind};
use super::{Register, int};
use crate::traffic::{Count, Counts, OTHER, Totals};

/// Traffic by remote node.
#[derive(Clone, Debug, Default)]
pub struct TrafficSnapshot {
    /// All totals; none: nothing is counted
    pub totals: Option<Arc<Totals>>,
}

/// The series. Those of nodes have no value where nothing is counted.
#[derive(Debug)]
pub(super) struct TrafficSeries {
    bytes: Family<3>,
    packets: Family<3>,
    counted: IntGauge,
    nodes: IntGaugeVec,
}

impl TrafficSeries {
    pub(super) fn new(r: &Register<'_>) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| r.family(Kind::Counter, name, help, ["direction", "node", "path"]);
        Ok(Self {
            bytes: counter(
                "forwarding_bytes_total",
                "Bytes to and from a remote node (without a store: a next hop), directly or through the tunnel.",
            ),
            packets: counter(
                "forwarding_packets_total",
                "Packets to and from a remote node, as the network stack sees them.",
            ),
            counted: r.gauge("forwarding_counted", "Whether traffic by remote node is counted (1) or not (0).")?,
            nodes: r.gauges(
                "forwarding_nodes",
                "Remote nodes with forwarding series of their own, and those that are summed up as other.",
                &["series"],
            )?,
        })
    }

    pub(super) fn set(&self, now: &TrafficSnapshot) {
        self.nodes.reset();
        self.counted.set(i64::from(now.totals.is_some()));
        let Some(totals) = &now.totals else { return };
        let own = totals.nodes.iter().filter(|node| node.shown).count();
        self.nodes.with_label_values(&["own"]).set(int(own));
        self.nodes.with_label_values(&["other"]).set(int(totals.nodes.len() - own));
    }

    pub(super) fn write(&self, out: &mut String, now: &TrafficSnapshot) {
        let Some(totals) = &now.totals else { return };
        let own = totals.nodes.iter().filter(|node| node.shown).map(|node| (&*node.name, &node.own));
        let all: Vec<(&str, &Counts)> = own.chain([(OTHER, &totals.other)]).collect();
        let series = |value: fn(Count) -> u64| {
            all.iter().flat_map(move |(name, counts)| {
                counts
                    .iter()
                    .map(move |(direction, path, count)| ([direction.label(), *name, path.label()], value(count)))
            })
        };
        self.bytes.write(out, series(|count| count.bytes));
        self.packets.write(out, series(|count| count.packets));
    }
}
