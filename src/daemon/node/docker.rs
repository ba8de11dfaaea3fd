//! Our rule in Docker's chain: there wherever that chain is, once, and gone with what it is for.
//!
//! Of changes in nftables, where iptables keeps its rules today, the kernel tells; the older tables, where they are,
//! are looked at by a program now and then. Where there is neither nothing is run, and nothing is made anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::repairs::{Repairs, Thing};
use super::with_source;
use crate::config::Config;
use crate::firewall::docker::{CHAIN, repair, rules};
use crate::io::iptables::{self, IptablesError, Place, Variant};
use crate::io::netlink::nftables::{self, Heard, Scope, TableWatch};
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
    /// To be looked at when it is time, whether anybody tells of them or not
    due: BTreeSet<Place>,
    failed: BTreeMap<Place, String>,
    /// Where a program did not end in time; the others are looked at before it
    hung: Option<Place>,
    /// The generations before and after our own writes that were not heard of yet: one transaction between them is ours
    own: Vec<(u32, u32)>,
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
    pub(super) fn take(&mut self, heard: Heard) -> bool {
        if heard.overrun {
            // Soon enough: where so much changes it may happen again and again.
            self.due.extend(&self.right);
            self.own.clear();
        }
        let mut foreign = heard.touched;
        foreign.retain(|transaction| !self.is_own(transaction.generation));
        if let Some(by) = foreign.last_mut().and_then(|transaction| transaction.by.take()) {
            self.by = Some(suspects::transaction(by));
        }
        !foreign.is_empty()
    }

    fn is_own(&mut self, generation: u32) -> bool {
        let found = self
            .own
            .iter()
            .position(|(before, after)| !nftables::is_by(generation, *before) && nftables::is_by(generation, *after));
        found.map(|at| self.own.remove(at)).is_some()
    }

    /// Brings the chains to what the configuration wants; whether all programs ended in time.
    pub(super) async fn bring_up(&mut self, config: &Config, repairs: &mut Repairs) -> bool {
        if !config.kernel.install {
            return true;
        }
        let network = &config.network;
        let subnets = network.subnets.as_deref().unwrap_or_default();
        self.enabled = config.firewall.docker && !subnets.is_empty();
        let subnets = if self.enabled { subnets } else { &[] };
        let wanted = PerFamily::from_fn(|family| rules(&network.pools, subnets, family));
        if self.wanted != wanted {
            // What differs from now on is nobody's work.
            self.right.clear();
            self.wanted = wanted;
        }
        if !self.enabled {
            self.watch = None;
            self.own.clear();
        } else if self.watch.is_none() {
            self.watch = TableWatch::open(&CHAINS).ok();
        }
        self.look(&BTreeSet::new(), repairs).await
    }

    /// Somebody touched a chain.
    pub(super) async fn touched(&mut self, repairs: &mut Repairs) {
        match repairs.touched(&Thing::Docker, now()) {
            Some(at) => {
                self.again = Some(at);
                self.due.extend(&self.right);
            }
            None => drop(self.look(&BTreeSet::new(), repairs).await),
        }
    }

    /// It is time to look at what nobody tells of.
    pub(super) async fn patrol(&mut self, repairs: &mut Repairs) {
        let told = |place: &Place| place.variant == Variant::Nft && self.watch.is_some();
        let skip = self.right.iter().copied().filter(|place| told(place) && !self.due.contains(place)).collect();
        self.look(&skip, repairs).await;
    }

    /// Looks at all chains but these and puts right what is wrong, up to the first program that does not end in time;
    /// whether there was none.
    async fn look(&mut self, skip: &BTreeSet<Place>, repairs: &mut Repairs) -> bool {
        self.again = None;
        let hung = self.hung.take();
        let first = Place::ALL.iter().position(|place| Some(*place) == hung).map_or(0, |hung| hung + 1);
        let places = Place::ALL.into_iter().cycle().skip(first).take(Place::ALL.len());
        let places: Vec<Place> = places.filter(|place| !skip.contains(place)).collect();
        self.due.extend(&places);
        for place in places {
            self.due.remove(&place);
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
                    let text = with_source(&error);
                    if self.failed.get(&place) != Some(&text) {
                        tracing::error!(error = text, "the rule in {CHAIN} could not be set");
                    }
                    self.failed.insert(place, text);
                    self.due.insert(place);
                    if matches!(error, IptablesError::TimedOut(_)) {
                        self.hung = Some(place);
                        break;
                    }
                }
            }
        }
        if self.enabled {
            let at = now() + EVERY;
            self.again = Some(self.again.map_or(at, |again| again.min(at)));
        }
        self.hung.is_none()
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
            self.due.insert(place);
            return Ok(());
        }
        let before = nftables::generation().ok();
        iptables::change(place, &script).await?;
        if self.watch.is_some() && place.variant == Variant::Nft {
            self.own.extend(before.zip(nftables::generation().ok()));
        }
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

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;

    use tokio::time::{sleep_until, timeout};

    use super::super::tests::in_netns;
    use super::*;
    use crate::daemon::journal::Journal;
    use crate::metrics::Metrics;

    fn run(command: &str) -> String {
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn is_there() -> bool {
        run("iptables-nft -w -S DOCKER-USER").contains("wayleave")
    }

    /// The next transaction that is told of: whether a look is needed.
    async fn next(docker: &mut Docker) -> bool {
        let told = async {
            loop {
                let heard = docker.heard().await;
                if !heard.touched.is_empty() {
                    return heard;
                }
            }
        };
        let heard = timeout(Duration::from_secs(20), told).await.unwrap();
        docker.take(heard)
    }

    #[test]
    fn what_others_do_is_told_from_our_own_and_seen_to_when_the_pause_is_over() {
        in_netns(async || {
            let network = "[network]\npools = [\"10.244.0.0/16\"]\nsubnets = [\"10.244.7.0/24\"]";
            let config =
                crate::config::parse(&format!("{network}\n[bgp]\nasn = 64512"), &mut |_| unreachable!()).unwrap();
            let (mut docker, metrics) = (Docker::default(), Arc::new(Metrics::new().unwrap()));
            let mut repairs = Repairs::new(metrics, Journal::nobody());
            run("iptables-nft -w -N DOCKER-USER");
            assert!(docker.bring_up(&config, &mut repairs).await);
            // Six repairs make a duel, and the next one has to wait.
            loop {
                assert!(is_there() && !next(&mut docker).await, "our own write is nobody's work");
                run("iptables-nft -w -F DOCKER-USER");
                assert!(next(&mut docker).await, "somebody else's is");
                docker.touched(&mut repairs).await;
                if !is_there() {
                    break;
                }
            }
            let again = docker.again.unwrap();
            assert!(docker.by.as_ref().unwrap().starts_with("iptables"), "{:?}", docker.by);
            sleep_until(again.into()).await;
            docker.patrol(&mut repairs).await;
            assert!(is_there(), "the pause is over");
        });
    }

    #[tokio::test]
    async fn what_was_lost_is_looked_at_when_it_is_time() {
        let place = Place::ALL[0];
        let mut docker = Docker { right: [place].into(), own: vec![(7, 8)], ..Docker::default() };
        assert!(!docker.take(Heard { overrun: true, ..Heard::default() }), "not at once");
        assert_eq!((docker.due, docker.own), ([place].into(), Vec::new()));
    }
}
