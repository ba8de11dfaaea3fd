//! The firewall table: replaced whole when the rules change, and when somebody touched it.
//!
//! Each change of nftables makes a *generation*, and the kernel tells of each transaction that touches
//! our table. A table is as we left it while no such transaction came but our own; when one came, what
//! `nft` shows is compared with what it showed after our own write.

use std::sync::Arc;
use std::time::Instant;

use super::repairs::{Repairs, Thing};
use super::{TABLE, with_source};
use crate::config::Config;
use crate::firewall::{Counted, Guard, REFUSED, Ruleset};
use crate::io::netlink::nftables::{self, Heard, Scope, TableWatch};
use crate::io::{nft, suspects};
use crate::metrics::Metrics;

const SCOPE: [Scope; 1] = [Scope::inet(TABLE)];

/// What is known of the table.
pub(super) struct Firewall {
    metrics: Arc<Metrics>,
    watch: Option<TableWatch>,
    /// There is something to rule
    enabled: bool,
    /// The rules in force
    applied: Option<Ruleset>,
    /// What `nft` showed after it; none: it could not be listed, or not be trusted
    listing: Option<String>,
    /// The generations before and after our own write: one transaction between them is ours
    written: Option<(u32, u32)>,
    /// That one was not heard of yet
    own: bool,
    /// The generation in which the table was found as listed
    verified: Option<u32>,
    /// Who touched it last
    by: Option<String>,
    /// When to look again
    pub again: Option<Instant>,
    /// Why the rules are not in force
    pub error: Option<String>,
}

impl Firewall {
    /// Nothing is known yet.
    pub(super) const fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            watch: None,
            enabled: false,
            applied: None,
            listing: None,
            written: None,
            own: false,
            verified: None,
            by: None,
            again: None,
            error: None,
        }
    }

    /// News of the table. Safe to cancel.
    pub(super) async fn heard(&mut self) -> Heard {
        let Some(watch) = &mut self.watch else { return std::future::pending().await };
        match watch.next().await {
            Ok(heard) => heard,
            Err(error) => {
                tracing::warn!(%error, "firewall events can't be read, looking now and then");
                self.watch = None;
                Heard { overrun: true, ..Heard::default() }
            }
        }
    }

    /// Brings the table to what is wanted, if that is not in force.
    pub(super) async fn bring_up(&mut self, config: &Config, guard: Option<Guard>) {
        let network = &config.network;
        let subnets = network.subnets.clone().filter(|_| config.kernel.install).unwrap_or_default();
        let (pools, masquerade) = (network.pools.clone(), network.masquerade);
        let ruleset = Ruleset { table: TABLE.to_owned(), subnets, pools, masquerade, guard };
        if self.applied.as_ref() == Some(&ruleset) {
            return;
        }
        self.enabled = !ruleset.is_empty();
        if !self.enabled {
            *self = Self { error: self.error.take(), ..Self::new(Arc::clone(&self.metrics)) };
        }
        let before = self.applied.as_ref().filter(|_| self.listing.is_some());
        if let Some(script) = before.and_then(|before| ruleset.ends_script(before)) {
            self.write(&script, ruleset.clone()).await;
            // Somebody was faster, and has removed what was to be changed.
            if self.error.is_none() {
                return;
            }
        }
        self.apply(ruleset).await;
    }

    /// What was last written did not get into the kernel.
    pub(super) const fn is_refused(&self) -> bool {
        self.error.is_some()
    }

    /// Replaces the table.
    async fn apply(&mut self, ruleset: Ruleset) {
        if self.enabled && self.watch.is_none() {
            // Before the write, so that all after it is heard. Fails where nftables loads with the first rule.
            self.watch = TableWatch::open(&SCOPE).ok();
        }
        // The counter goes with the table: the new one goes on from what was seen.
        self.count();
        self.write(&ruleset.script(self.metrics.firewall.refused()), ruleset).await;
    }

    async fn write(&mut self, script: &str, ruleset: Ruleset) {
        let before = nftables::generation().ok();
        let error = match nft::apply(script).await {
            Ok(()) => None,
            // Nothing is wanted, and where nft doesn't work nothing of ours can be there.
            Err(_) if !self.enabled => None,
            Err(error) => Some(with_source(&error)),
        };
        if let Some(error) = &error
            && self.error.as_ref() != Some(error)
        {
            tracing::error!(error, "the firewall table could not be set");
        }
        self.applied = error.is_none().then_some(ruleset);
        self.error = error;
        if self.enabled && self.applied.is_some() {
            self.listing = nft::list(TABLE).await.ok().flatten();
            // After the listing: what came before it, and may show in it, is a transaction too many.
            self.verified = nftables::generation().ok();
            self.written = before.zip(self.verified);
            self.own = true;
        }
    }

    /// Brings the metrics to what the kernel has counted.
    fn count(&self) {
        if let Ok(Some(refused)) = refused() {
            self.metrics.firewall.saw(refused);
        }
    }

    /// Whether all that is wanted is in force; none: nothing is wanted.
    pub(super) fn in_force(&self) -> Option<bool> {
        self.enabled.then(|| self.applied.is_some())
    }

    /// The guard in force.
    pub(super) fn guard(&self) -> Option<&Guard> {
        self.applied.as_ref().and_then(|applied| applied.guard.as_ref())
    }

    /// Takes news in; whether a look is needed.
    pub(super) fn take(&mut self, heard: Heard) -> bool {
        let mut suspicious = heard.overrun;
        for transaction in heard.touched {
            // Generations are numbered in a circle.
            let is_by = |at: u32| transaction.generation.wrapping_sub(at).cast_signed() <= 0;
            match self.written {
                // Undone by our write.
                Some((before, _)) if is_by(before) => continue,
                Some((_, after)) if is_by(after) => {
                    if std::mem::take(&mut self.own) {
                        continue;
                    }
                    // The listing may show its work.
                    self.listing = None;
                }
                _ if self.verified.is_some_and(is_by) => continue,
                _ => {}
            }
            suspicious = true;
            self.by = transaction.by.map(suspects::transaction);
        }
        suspicious && self.enabled
    }

    /// Looks, unless nothing of nftables has changed since the last look, and puts right what is wrong.
    pub(super) async fn check(&mut self, repairs: &mut Repairs) {
        self.again = None;
        let Some(ruleset) = self.applied.clone().filter(|_| self.enabled) else { return };
        let now = tokio::time::Instant::now().into_std();
        if let Some(at) = repairs.touched(&Thing::Firewall, now) {
            self.again = Some(at);
            return;
        }
        let generation = nftables::generation().ok();
        if self.listing.is_some() && generation.is_some() && generation == self.verified {
            return;
        }
        let found = match nft::list(TABLE).await {
            Ok(shown) if shown.is_some() && shown == self.listing => {
                // As of before the look: what came since will be heard.
                self.verified = generation;
                return;
            }
            Ok(None) => "firewall table was removed",
            Ok(Some(_)) => "firewall table was changed",
            Err(error) => {
                tracing::debug!(error = with_source(&error), "the firewall table can't be looked at, written again");
                return self.apply(ruleset).await;
            }
        };
        if let Err(at) = repairs.may(&Thing::Firewall, self.by.clone(), now) {
            self.again = Some(at);
            return;
        }
        self.apply(ruleset).await;
        if self.error.is_none() {
            tracing::warn!(table = TABLE, by = self.by, "{found} by somebody, restored");
            repairs.done(&Thing::Firewall, found.to_owned());
        }
    }

    /// What is missing is tried again: the subscription, or all if the write failed.
    pub(super) async fn look(&mut self, config: &Config, guard: Option<Guard>, repairs: &mut Repairs) {
        self.count();
        self.bring_up(config, guard).await;
        if self.enabled && self.watch.is_none() {
            self.watch = TableWatch::open(&SCOPE).ok();
        }
        self.check(repairs).await;
    }
}

/// What the kernel has counted of refused packets; `None`: there is no such counter.
pub fn refused() -> std::io::Result<Option<Counted>> {
    let counted = Scope::inet(TABLE).counter(REFUSED)?;
    Ok(counted.map(|(packets, bytes)| Counted { packets, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::netlink::nftables::Transaction;

    #[test]
    fn own_transactions_are_told_from_those_of_others() {
        let fresh = || Firewall {
            written: Some((10, 12)),
            own: true,
            verified: Some(20),
            listing: Some(String::new()),
            enabled: true,
            ..Firewall::new(Arc::new(Metrics::new().unwrap()))
        };
        let cases: [(&str, &[u32], bool, bool); 7] = [
            ("our own", &[11], false, true),
            ("what our write has undone", &[9, 10, 12], false, true),
            ("one too many beside our write: the listing may show it", &[11, 12], true, false),
            ("what a later look has found to be right", &[15, 20], false, true),
            ("news", &[21], true, true),
            ("news after our own", &[12, 30], true, true),
            ("numbers go round", &[u32::MAX], false, true),
        ];
        for (why, generations, suspicious, trusted) in cases {
            let mut firewall = fresh();
            let touched = generations.iter().map(|generation| Transaction { generation: *generation, by: None });
            let heard = Heard { touched: touched.collect(), overrun: false };
            assert_eq!(firewall.take(heard), suspicious, "{why}");
            assert_eq!(firewall.listing.is_some(), trusted, "{why}");
        }
        assert!(fresh().take(Heard { overrun: true, ..Heard::default() }), "what was lost may be anything");
        let mut off = Firewall { enabled: false, ..fresh() };
        assert!(!off.take(Heard { overrun: true, ..Heard::default() }), "no table of ours");
    }
}
