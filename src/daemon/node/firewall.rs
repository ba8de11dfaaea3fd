//! The firewall table: replaced whole when the rules change, and when somebody touched it.
//!
//! Each change of nftables makes a *generation*, and the kernel tells of each transaction that touches
//! our table. A table is as we left it while no such transaction came but our own; when one came, what
//! `nft` shows is compared with what it showed after our own write.

use std::time::Instant;

use super::repairs::{Repairs, Thing};
use super::{TABLE, with_source};
use crate::config::Config;
use crate::firewall::Ruleset;
use crate::io::netlink::nftables::{self, Heard, TableWatch};
use crate::io::{nft, suspects};
use crate::view;

/// What is known of the table.
#[derive(Default)]
pub(super) struct Firewall {
    watch: Option<TableWatch>,
    /// The script in force
    applied: Option<String>,
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
    pub status: view::Part,
}

impl Firewall {
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

    /// Brings the table to what the configuration wants, if that is not in force.
    pub(super) async fn bring_up(&mut self, config: &Config) {
        let network = &config.network;
        let subnets = network.subnets.clone().unwrap_or_default();
        let enabled = network.masquerade && !subnets.is_empty() && config.kernel.install;
        let ruleset =
            Ruleset { table: TABLE.to_owned(), subnets, pools: network.pools.clone(), masquerade: network.masquerade };
        let script = if enabled { ruleset.script() } else { ruleset.remove_script() };
        if self.applied.as_ref() == Some(&script) {
            return;
        }
        self.status.enabled = enabled;
        if !enabled {
            *self = Self { status: std::mem::take(&mut self.status), ..Self::default() };
        }
        self.apply(script).await;
    }

    async fn apply(&mut self, script: String) {
        let enabled = self.status.enabled;
        if enabled && self.watch.is_none() {
            // Before the write, so that all after it is heard. Fails where nftables loads with the first rule.
            self.watch = TableWatch::open(TABLE).ok();
        }
        let before = nftables::generation().ok();
        let error = match nft::apply(&script).await {
            Ok(()) => None,
            // Nothing is wanted, and where nft doesn't work nothing of ours can be there.
            Err(_) if !enabled => None,
            Err(error) => Some(with_source(&error)),
        };
        if let Some(error) = &error
            && self.status.error.as_ref() != Some(error)
        {
            tracing::error!(error, "the firewall table could not be set");
        }
        self.applied = error.is_none().then_some(script);
        self.status.error = error;
        if enabled && self.applied.is_some() {
            self.listing = nft::list(TABLE).await.ok().flatten();
            // After the listing: what came before it, and may show in it, is a transaction too many.
            self.verified = nftables::generation().ok();
            self.written = before.zip(self.verified);
            self.own = true;
        }
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
            self.by = transaction.by.map(|(pid, name)| match suspects::process(pid) {
                Some(process) if process.starts_with(&name) => process,
                _ => format!("{name} (pid {pid}, ended)"),
            });
        }
        suspicious && self.status.enabled
    }

    /// Looks, unless nothing of nftables has changed since the last look, and puts right what is wrong.
    pub(super) async fn check(&mut self, repairs: &mut Repairs) {
        self.again = None;
        let Some(script) = self.applied.clone().filter(|_| self.status.enabled) else { return };
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
                return self.apply(script).await;
            }
        };
        if let Err(at) = repairs.may(&Thing::Firewall, self.by.clone(), now) {
            self.again = Some(at);
            return;
        }
        self.apply(script).await;
        if self.status.error.is_none() {
            tracing::warn!(table = TABLE, by = self.by, "{found} by somebody, restored");
            repairs.done(&Thing::Firewall, found.to_owned());
        }
    }

    /// What is missing is tried again: the subscription, or all if the write failed.
    pub(super) async fn look(&mut self, config: &Config, repairs: &mut Repairs) {
        self.bring_up(config).await;
        if self.status.enabled && self.watch.is_none() {
            self.watch = TableWatch::open(TABLE).ok();
        }
        self.check(repairs).await;
    }
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
            status: view::Part { enabled: true, error: None },
            ..Firewall::default()
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
        let mut off = Firewall { status: view::Part::default(), ..fresh() };
        assert!(!off.take(Heard { overrun: true, ..Heard::default() }), "no table of ours");
    }
}
