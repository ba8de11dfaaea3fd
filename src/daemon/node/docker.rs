//! Our rule in Docker's chain: there wherever that chain is, once, and gone with what it is for.
//!
//! Of changes in nftables, where iptables keeps its rules today, the kernel tells; the older tables are looked at now
//! and then. Where there is no such chain nothing is run and nothing is made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::repairs::{Repairs, Thing};
use super::with_source;
use crate::config::Config;
use crate::firewall::docker::{CHAIN, repair, rules};
use crate::io::iptables::{self, IptablesError, Place, Variant};
use crate::io::netlink::nftables::{Heard, Scope, TableWatch};
use crate::io::suspects;
use crate::net::{Family, PerFamily};
use crate::view;

const CHAINS: [Scope; 2] = [Scope::chain(Family::Ipv4, "filter", CHAIN), Scope::chain(Family::Ipv6, "filter", CHAIN)];
/// How often the older tables are looked at, and whether there are any.
const EVERY: Duration = Duration::from_secs(5);

/// What is known of the rules.
#[derive(Default)]
pub(super) struct Docker {
    watch: Option<TableWatch>,
    enabled: bool,
    wanted: PerFamily<Vec<String>>,
    /// Where all was as wanted when last looked at
    right: BTreeSet<Place>,
    /// Where it is not our turn
    later: BTreeSet<Place>,
    failed: BTreeMap<Place, String>,
    /// Who touched a chain last
    by: Option<String>,
    /// When to look again
    pub again: Option<Instant>,
}

impl Docker {
    /// News of the chains. Safe to cancel.
    pub(super) async fn heard(&mut self) -> Heard {
        let Some(watch) = &mut self.watch else { return std::future::pending().await };
        match watch.next().await {
            Ok(heard) => heard,
            Err(error) => {
                tracing::warn!(%error, "changes of {CHAIN} can't be followed, looking now and then");
                self.watch = None;
                Heard { overrun: true, ..Heard::default() }
            }
        }
    }

    /// Takes news in; whether a look is needed.
    pub(super) fn take(&mut self, heard: &Heard) -> bool {
        if let Some(by) = heard.touched.last().and_then(|transaction| transaction.by.clone()) {
            self.by = Some(suspects::transaction(by));
        }
        heard.overrun || !heard.touched.is_empty()
    }

    /// Brings the chains to what the configuration wants.
    pub(super) async fn bring_up(&mut self, config: &Config, repairs: &mut Repairs) {
        let network = &config.network;
        let subnets = network.subnets.as_deref().unwrap_or_default();
        self.enabled = config.firewall.docker && config.kernel.install && !subnets.is_empty();
        let subnets = if self.enabled { subnets } else { &[] };
        let wanted = PerFamily::from_fn(|family| rules(&network.pools, subnets, family));
        if self.wanted != wanted {
            // What differs from now on is nobody's work.
            self.right.clear();
            self.wanted = wanted;
        }
        if !self.enabled {
            self.watch = None;
        } else if self.watch.is_none() {
            self.watch = TableWatch::open(&CHAINS).ok();
        }
        self.check(repairs).await;
    }

    /// Somebody touched a chain.
    pub(super) async fn touched(&mut self, repairs: &mut Repairs) {
        match repairs.touched(&Thing::Docker, now()) {
            Some(at) => self.again = Some(at),
            None => self.check(repairs).await,
        }
    }

    /// It is time to look at what nobody tells of.
    pub(super) async fn patrol(&mut self, repairs: &mut Repairs) {
        let told = |place: &Place| place.variant == Variant::Nft && self.watch.is_some();
        let skip = self.right.iter().copied().filter(|place| told(place) && !self.later.contains(place)).collect();
        self.look(&skip, repairs).await;
    }

    /// Looks at all chains and puts right what is wrong.
    async fn check(&mut self, repairs: &mut Repairs) {
        self.look(&BTreeSet::new(), repairs).await;
    }

    async fn look(&mut self, skip: &BTreeSet<Place>, repairs: &mut Repairs) {
        self.again = self.enabled.then(|| now() + EVERY);
        for place in Place::ALL.into_iter().filter(|place| !skip.contains(place)) {
            self.later.remove(&place);
            if !exists(place) {
                self.right.remove(&place);
                self.failed.remove(&place);
                continue;
            }
            match self.bring(place, repairs).await {
                // Whoever has put rules there has a program of their own for it.
                Ok(()) | Err(IptablesError::Missing(Place { variant: Variant::Legacy, .. })) => {
                    self.failed.remove(&place);
                }
                Err(error) => {
                    let error = with_source(&error);
                    if self.failed.get(&place) != Some(&error) {
                        tracing::error!(error, "the rule in {CHAIN} could not be set");
                    }
                    self.failed.insert(place, error);
                }
            }
        }
    }

    async fn bring(&mut self, place: Place, repairs: &mut Repairs) -> Result<(), IptablesError> {
        let rules = &self.wanted[place.family];
        let was_right = self.right.contains(&place);
        if rules.is_empty() && was_right {
            return Ok(());
        }
        let shown = iptables::list(place, CHAIN).await?;
        let is_there = shown.is_some();
        let Some(script) = shown.and_then(|shown| repair(&shown, rules)) else {
            if is_there {
                self.right.insert(place);
            } else {
                self.right.remove(&place);
            }
            return Ok(());
        };
        if was_right && let Err(at) = repairs.may(&Thing::Docker, self.by.clone(), now()) {
            self.again = Some(self.again.map_or(at, |again| again.min(at)));
            self.later.insert(place);
            return Ok(());
        }
        iptables::change(place, &script).await?;
        let (rules, tool) = (rules.len(), place.to_string());
        self.right.insert(place);
        if was_right {
            tracing::warn!(tool, by = self.by, "our rule in {CHAIN} was changed by somebody, restored");
            repairs.done(&Thing::Docker, format!("rule in {CHAIN} ({tool}) was changed"));
        } else {
            tracing::info!(tool, rules, "Docker lets traffic between containers through ({CHAIN})");
        }
        Ok(())
    }

    /// For `status`.
    pub(super) fn show(&self) -> view::DockerRule {
        let there = self.right.iter().filter(|place| !self.wanted[place.family].is_empty());
        let errors: Vec<&str> = self.failed.values().map(String::as_str).collect();
        view::DockerRule {
            enabled: self.enabled,
            tools: there.map(ToString::to_string).collect(),
            error: (!errors.is_empty()).then(|| errors.join("; ")),
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Whether there may be such a chain.
fn exists(place: Place) -> bool {
    match place.variant {
        Variant::Nft => Scope::chain(place.family, "filter", CHAIN).exists(),
        Variant::Legacy => iptables::has_legacy_table(place.family),
    }
}

/// Removes all rules of ours: what was done, what went wrong.
pub(super) async fn remove() -> (Vec<String>, Vec<String>) {
    let (mut done, mut errors) = (Vec::new(), Vec::new());
    for place in Place::ALL.into_iter().filter(|place| exists(*place)) {
        let removed = async {
            let Some(script) = iptables::list(place, CHAIN).await?.and_then(|shown| repair(&shown, &[])) else {
                return Ok(false);
            };
            iptables::change(place, &script).await.map(|()| true)
        };
        match removed.await {
            Ok(true) => done.push(format!("rule in {CHAIN} removed ({place})")),
            Ok(false) | Err(IptablesError::Missing(Place { variant: Variant::Legacy, .. })) => {}
            Err(error) => errors.push(format!("rule in {CHAIN}: {}", with_source(&error))),
        }
    }
    (done, errors)
}
