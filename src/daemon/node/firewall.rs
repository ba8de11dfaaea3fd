//! The firewall table: replaced whole when the rules change, and when somebody touched it.
//!
//! Each change of nftables makes a *generation*, and the kernel tells of each transaction that touches
//! our table. A table is as we left it while no such transaction came but our own; when one came, what
//! `nft` shows is compared with what it showed after our own write.

use std::sync::Arc;
use std::time::Instant;

use super::repairs::{Repairs, Thing};
use super::{TABLE, soon, with_source};
use crate::config::Config;
use crate::firewall::{Counted, Guard, REFUSED, Ruleset};
use crate::io::netlink::nftables::{self, Heard, Scope, TableWatch};
use crate::io::nft::{self, NftError};
use crate::io::suspects;
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
        if !config.kernel.install {
            return;
        }
        let network = &config.network;
        let subnets = network.subnets.clone().unwrap_or_default();
        let (pools, masquerade) = (network.pools.clone(), network.masquerade);
        let ruleset = Ruleset { table: TABLE.to_owned(), subnets, pools, masquerade, guard };
        if self.applied.as_ref() == Some(&ruleset) {
            return;
        }
        self.enabled = !ruleset.is_empty();
        if !self.enabled {
            *self = Self { error: self.error.take(), ..Self::new(Arc::clone(&self.metrics)) };
        }
        // In a table that somebody has changed ends alone make nothing right.
        if let Some(script) = self.applied.as_ref().and_then(|before| ruleset.ends_script(before))
            && matches!(self.inspect().await, Ok(None))
            && self.change_ends(&script, &ruleset).await
        {
            return;
        }
        self.apply(ruleset).await;
    }

    /// What was last written did not get into the kernel.
    pub(super) const fn is_refused(&self) -> bool {
        self.error.is_some()
    }

    /// Replaces the table, or removes it where nothing is wanted.
    async fn apply(&mut self, ruleset: Ruleset) {
        if self.enabled && self.watch.is_none() {
            // Before the write, so that all after it is heard. Fails where nftables loads with the first rule.
            self.watch = TableWatch::open(&SCOPE).ok();
        }
        // The counter goes with the table: the new one goes on from what was seen.
        self.count();
        let before = nftables::generation().ok();
        let written = if self.enabled || SCOPE[0].exists() {
            nft::apply(&ruleset.script(self.metrics.firewall.refused())).await
        } else {
            Ok(())
        };
        match written {
            Ok(()) => self.wrote(before, ruleset).await,
            Err(error) => {
                let error = with_source(&error);
                if self.error.as_ref() != Some(&error) {
                    tracing::error!(error, "the firewall table could not be set");
                }
                self.applied = None;
                self.error = Some(error);
            }
        }
    }

    /// Changes the ends in a table that was found as we left it; whether it could be done.
    async fn change_ends(&mut self, script: &str, ruleset: &Ruleset) -> bool {
        // Nothing is undone by this, so what somebody did since the table was found right is to be heard.
        let before = self.verified;
        match nft::apply(script).await {
            Ok(()) => self.wrote(before, ruleset.clone()).await,
            Err(error) => {
                tracing::debug!(error = with_source(&error), "tunnel ends can't be changed, the table is replaced");
                return false;
            }
        }
        true
    }

    /// Our write came after the generation `before`.
    async fn wrote(&mut self, before: Option<u32>, ruleset: Ruleset) {
        self.applied = Some(ruleset);
        self.error = None;
        if self.enabled {
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

    /// Whether all is as wanted; none: nothing is wanted, and nothing of ours is there.
    pub(super) fn in_force(&self) -> Option<bool> {
        (self.enabled || self.error.is_some()).then(|| self.applied.is_some())
    }

    /// The guard in force.
    pub(super) fn guard(&self) -> Option<&Guard> {
        self.applied.as_ref().and_then(|applied| applied.guard.as_ref())
    }

    /// Takes news in; whether a look is needed.
    pub(super) fn take(&mut self, heard: Heard) -> bool {
        if heard.overrun && self.enabled {
            // Not at once: where so much changes it may happen again and again.
            self.again.get_or_insert_with(soon);
        }
        let mut suspicious = false;
        for transaction in heard.touched {
            let is_by = |at| nftables::is_by(transaction.generation, at);
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

    /// What became of the table since our last write, unless nothing of nftables has changed since the last look;
    /// none: it is as we left it.
    async fn inspect(&mut self) -> Result<Option<&'static str>, NftError> {
        let generation = nftables::generation().ok();
        if self.listing.is_some() && generation.is_some() && generation == self.verified {
            return Ok(None);
        }
        let shown = nft::list(TABLE).await?;
        Ok(match &shown {
            None => Some("firewall table was removed"),
            Some(_) if shown != self.listing => Some("firewall table was changed"),
            Some(_) => {
                // As of before the look: what came since will be heard.
                self.verified = generation;
                None
            }
        })
    }

    /// Looks and puts right what is wrong.
    pub(super) async fn check(&mut self, repairs: &mut Repairs) {
        self.again = None;
        let Some(ruleset) = self.applied.clone().filter(|_| self.enabled) else { return };
        let now = tokio::time::Instant::now().into_std();
        if let Some(at) = repairs.touched(&Thing::Firewall, now) {
            self.again = Some(at);
            return;
        }
        let found = match self.inspect().await {
            Ok(None) => return,
            Ok(Some(found)) => found,
            Err(error @ NftError::TimedOut) => {
                tracing::warn!(%error, "the firewall table can't be looked at, trying again");
                return;
            }
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
    use super::super::tests::in_netns;
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
        for (why, enabled) in [("what was lost may be anything", true), ("no table of ours", false)] {
            let mut firewall = Firewall { enabled, ..fresh() };
            assert!(!firewall.take(Heard { overrun: true, ..Heard::default() }), "{why}: not at once");
            assert_eq!(firewall.again.is_some(), enabled, "{why}");
        }
    }

    fn config(lines: &str) -> Config {
        let text = format!("[network]\npools = [\"10.244.0.0/16\"]\nsubnets = []\n[bgp]\nasn = 64512\n{lines}");
        crate::config::parse(&text, &mut |_| unreachable!()).unwrap()
    }

    fn guard(ends: &[u8]) -> Guard {
        let end = |end: &u8| std::net::Ipv4Addr::new(192, 0, 2, *end);
        Guard { node: end(&11), ends: ends.iter().map(end).collect(), prefixes: Vec::new() }
    }

    fn fresh() -> Firewall {
        Firewall::new(Arc::new(Metrics::new().unwrap()))
    }

    #[test]
    fn ends_alone_are_written_only_into_a_table_that_is_as_we_left_it() {
        in_netns(async || {
            let (mut firewall, config) = (fresh(), config(""));
            let handle = || {
                let mut nft = std::process::Command::new("nft");
                let shown = nft.args(["-a", "list", "table", "inet", TABLE]).output().unwrap().stdout;
                String::from_utf8(shown).unwrap().lines().next().map(str::to_owned)
            };
            firewall.bring_up(&config, Some(guard(&[12]))).await;
            let cases = [
                ("nobody did anything", "", true),
                ("somebody has a table of their own", "add table inet other", true),
                ("the guard was emptied", "flush chain inet wayleave tunnel_guard", false),
                ("it was removed", "delete chain inet wayleave tunnel_guard", false),
                ("the set is gone", "flush ruleset", false),
            ];
            for (end, (why, script, kept)) in (13..).zip(cases) {
                nft::apply(script).await.unwrap();
                let before = handle();
                firewall.bring_up(&config, Some(guard(&[12, end]))).await;
                let shown = nft::list(TABLE).await.unwrap().unwrap();
                assert!(shown.contains(" drop") && shown.contains(&format!("192.0.2.{end}")), "{why}: {shown}");
                assert_eq!(handle() == before, kept, "{why}");
                assert_eq!((firewall.error.as_ref(), firewall.in_force()), (None, Some(true)), "{why}");
            }
        });
    }

    #[test]
    fn a_table_that_can_not_be_removed_is_not_taken_for_gone() {
        in_netns(async || {
            let (mut firewall, config) = (fresh(), config(""));
            firewall.bring_up(&config, None).await;
            assert_eq!((firewall.in_force(), firewall.error.as_ref()), (None, None), "nothing wanted, nothing there");
            // A table that belongs to a process is removed by nobody else, and goes with it.
            let mut owner = std::process::Command::new("nft");
            let mut owner = owner.arg("-i").stdin(std::process::Stdio::piped()).spawn().unwrap();
            let mut input = owner.stdin.take().unwrap();
            std::io::Write::write_all(&mut input, b"add table inet wayleave { flags owner; }\n").unwrap();
            until(|| SCOPE[0].exists()).await;
            firewall.applied = None;
            firewall.bring_up(&config, None).await;
            assert!(firewall.error.is_some() && firewall.in_force() == Some(false));
            drop(input);
            owner.wait().unwrap();
            until(|| !SCOPE[0].exists()).await;
            firewall.bring_up(&config, None).await;
            assert_eq!((firewall.in_force(), firewall.error.as_ref()), (None, None), "gone");
        });
    }

    async fn until(holds: impl Fn() -> bool) {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn the_kernel_is_left_alone_where_nothing_is_to_be_written() {
        in_netns(async || {
            nft::apply("add table inet wayleave").await.unwrap();
            fresh().bring_up(&config("[kernel]\ninstall = false"), None).await;
            assert!(SCOPE[0].exists(), "it is another daemon's");
        });
    }
}
