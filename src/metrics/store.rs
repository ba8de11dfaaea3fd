//! Gauges of the store, the subnets and nodes in it.

use std::collections::BTreeMap;

use prometheus::{GaugeVec, IntGaugeVec};

use super::{Register, int};

/// Gauges of the store, the subnets and nodes in it.
#[derive(Clone, Debug, Default)]
pub struct StoreSnapshot {
    /// Whether it answers
    pub reachable: bool,
    /// Seconds since it confirmed that what is known is the newest; none: not yet
    pub confirmed_age: Option<f64>,
    /// Subnets of this node
    pub subnets: usize,
    /// Of them confirmed by the store
    pub confirmed: usize,
    /// Seconds for which the oldest of them has been this node's
    pub lease_age: f64,
    /// Subnets that the pools have room for, and of them taken: by pool
    pub pools: Vec<(String, u64, u64)>,
    /// Nodes by state
    pub nodes: BTreeMap<String, usize>,
    /// Mesh sessions that are wanted
    pub mesh_wanted: usize,
    /// Of them established
    pub mesh_established: usize,
    /// Of them missing though the node lives and has not been drained
    pub mesh_missing: usize,
}

/// Gauges of the store; they have no value where there is none.
#[derive(Debug)]
pub(super) struct StoreGauges {
    reachable: IntGaugeVec,
    confirmed_age: GaugeVec,
    lease_age: GaugeVec,
    subnets: IntGaugeVec,
    pool_size: IntGaugeVec,
    pool_taken: IntGaugeVec,
    nodes: IntGaugeVec,
    mesh: IntGaugeVec,
}

impl StoreGauges {
    pub(super) fn new(r: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            reachable: r.gauges("store_reachable", "Whether the store answers.", &[])?,
            confirmed_age: r.seconds(
                "store_last_confirmed_seconds",
                "Time since the store confirmed that what is known of it is the newest.",
            )?,
            lease_age: r.seconds("lease_age_seconds", "Time for which the oldest subnet has been this node's.")?,
            subnets: r.gauges(
                "lease_subnets",
                "Subnets of this node, by whether the store has confirmed them since the start.",
                &["state"],
            )?,
            pool_size: r.gauges("pool_subnets", "Subnets that a pool has room for.", &["pool"])?,
            pool_taken: r.gauges("pool_subnets_taken", "Subnets of a pool that are taken or reserved.", &["pool"])?,
            nodes: r.gauges("nodes", "Nodes in the store, by liveness.", &["state"])?,
            mesh: r.gauges("mesh_sessions", "Sessions with nodes of the store.", &["state"])?,
        })
    }

    pub(super) fn set(&self, now: Option<&StoreSnapshot>) {
        // Pools come and go.
        self.pool_size.reset();
        self.pool_taken.reset();
        let Some(now) = now else { return };
        let wide = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.reachable.with_label_values::<&str>(&[]).set(i64::from(now.reachable));
        if let Some(age) = now.confirmed_age {
            self.confirmed_age.with_label_values::<&str>(&[]).set(age);
        }
        self.lease_age.with_label_values::<&str>(&[]).set(now.lease_age);
        self.subnets.with_label_values(&["confirmed"]).set(int(now.confirmed));
        self.subnets.with_label_values(&["unconfirmed"]).set(int(now.subnets - now.confirmed));
        for (pool, size, taken) in &now.pools {
            self.pool_size.with_label_values(&[pool.as_str()]).set(wide(*size));
            self.pool_taken.with_label_values(&[pool.as_str()]).set(wide(*taken));
        }
        for state in ["alive", "dead", "unlisted"] {
            self.nodes.with_label_values(&[state]).set(int(now.nodes.get(state).copied().unwrap_or_default()));
        }
        let mesh = [("wanted", now.mesh_wanted), ("established", now.mesh_established), ("missing", now.mesh_missing)];
        for (state, count) in mesh {
            self.mesh.with_label_values(&[state]).set(int(count));
        }
    }
}
