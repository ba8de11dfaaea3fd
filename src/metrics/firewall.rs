//! Series of the firewall.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounter, IntGaugeVec};

use super::{Register, set_counter};
use crate::firewall::{Counted, REFUSED};

/// What was refused: the largest totals seen, whoever saw them, so that a table that is made anew takes nothing back.
#[derive(Debug)]
pub struct FirewallCounters {
    packets: AtomicU64,
    bytes: AtomicU64,
    in_force: IntGaugeVec,
    firewalld: IntGaugeVec,
    refused_packets: IntCounter,
    refused_bytes: IntCounter,
}

impl FirewallCounters {
    pub(super) fn new(r: &Register<'_>) -> prometheus::Result<Self> {
        let refused = |name: &str, help: &str| {
            r.counters(name, help, &["reason"]).map(|family| family.with_label_values(&[REFUSED]))
        };
        Ok(Self {
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            in_force: r.gauges(
                "firewall_in_force",
                "Whether all firewall rules that are wanted are in the kernel, our table and the rule in DOCKER-USER; \
                 absent where none is wanted.",
                &[],
            )?,
            firewalld: r.gauges(
                "firewalld_rejects",
                "Whether firewalld rejects traffic that we need; absent without a firewalld.",
                &[],
            )?,
            refused_packets: refused("firewall_refused_packets_total", "Packets that our firewall table refused.")?,
            refused_bytes: refused("firewall_refused_bytes_total", "Bytes that our firewall table refused.")?,
        })
    }

    /// The kernel has counted so much.
    pub fn saw(&self, refused: Counted) {
        self.packets.fetch_max(refused.packets, Ordering::Relaxed);
        self.bytes.fetch_max(refused.bytes, Ordering::Relaxed);
    }

    /// All that was ever refused, as far as it was seen.
    pub fn refused(&self) -> Counted {
        Counted { packets: self.packets.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    pub(super) fn set(&self, in_force: Option<bool>, firewalld: Option<bool>) {
        for (gauge, now) in [(&self.in_force, in_force), (&self.firewalld, firewalld)] {
            gauge.reset();
            if let Some(now) = now {
                gauge.with_label_values::<&str>(&[]).set(i64::from(now));
            }
        }
        let Counted { packets, bytes } = self.refused();
        set_counter(&self.refused_packets, packets);
        set_counter(&self.refused_bytes, bytes);
    }
}
