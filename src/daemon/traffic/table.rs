//! The kernel's table: brought to what is wanted, read, looked after.
//!
//! Elements are read and written by netlink, from a thread that may wait; rules and sets, which change seldom,
//! by nft(8). A table is as we left it while no transaction came but our own.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use super::TABLE;
use super::memory::Memory;
use crate::daemon::node::with_source;
use crate::io::netlink::counters::Counters;
use crate::io::netlink::nftables::{self, Heard, Scope, TableWatch};
use crate::io::{nft, suspects};
use crate::net::Prefix;
use crate::traffic::{Found, Layout, Ledger, Reading, Set};

const SCOPE: [Scope; 1] = [Scope::inet(TABLE)];

/// What is known of the table.
#[derive(Default)]
pub(super) struct Table {
    counters: Option<Counters>,
    watch: Option<TableWatch>,
    /// Its number; another number is another table
    pub handle: Option<u64>,
    /// What it is like; none: not known
    applied: Option<Layout>,
    /// What `nft` shows of it then, without the elements
    listing: Option<String>,
    /// The generation in which all was found right, or was made so
    verified: Option<u32>,
    /// Transactions of our own that were not heard of yet, at most
    own: u32,
    /// Who touched it last
    pub by: Option<String>,
    /// The last reading did not find all
    doubt: bool,
    readings: Vec<Reading>,
}

/// Why the kernel doesn't count.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Nft(#[from] nft::NftError),
    #[error("{0}")]
    Netlink(#[from] io::Error),
    #[error("nftables table {TABLE} is not there though nft has made it")]
    Vanished,
}

impl Error {
    pub(super) fn words(&self) -> String {
        with_source(self)
    }
}

impl Table {
    /// News of the table. Safe to cancel.
    pub(super) async fn heard(&mut self) -> Heard {
        let Some(watch) = &mut self.watch else { return std::future::pending().await };
        match watch.next().await {
            Ok(heard) => heard,
            Err(error) => {
                tracing::warn!(%error, "events of the traffic table can't be read, looking now and then");
                self.watch = None;
                Heard { overrun: true, ..Heard::default() }
            }
        }
    }

    /// Takes news in; whether a look is needed.
    pub(super) fn take(&mut self, heard: Heard) -> bool {
        let mut suspicious = heard.overrun;
        for transaction in heard.touched {
            // Generations are numbered in a circle.
            let since = |at: u32| transaction.generation.wrapping_sub(at).cast_signed() > 0;
            if self.own > 0 && !self.verified.is_some_and(since) {
                self.own -= 1;
                continue;
            }
            suspicious = true;
            self.by = transaction.by.map(suspects::transaction);
        }
        if suspicious {
            self.verified = None;
        }
        suspicious && self.applied.is_some()
    }

    /// Does something with the socket in a thread that may wait.
    async fn ask<T: Send + 'static>(
        &mut self,
        ask: impl FnOnce(&mut Counters) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let mut counters = match self.counters.take() {
            Some(counters) => counters,
            None => Counters::open(TABLE)?,
        };
        let asked = tokio::task::spawn_blocking(move || {
            let result = ask(&mut counters);
            (counters, result)
        });
        let (counters, result) = asked.await.map_err(io::Error::other)?;
        // After a failure the socket may hold answers that nobody waits for.
        self.counters = result.is_ok().then_some(counters);
        result
    }

    /// Number of the table that is there.
    pub(super) async fn find(&mut self) -> io::Result<Option<u64>> {
        self.ask(Counters::handle).await
    }

    /// Reads the counters that are there, whatever is wanted.
    pub(super) async fn read_there(&mut self) -> io::Result<Vec<Reading>> {
        self.ask(|counters| {
            let mut readings = Vec::new();
            counters.sets()?.into_iter().try_for_each(|set| counters.read(set, &mut readings))?;
            Ok(readings)
        })
        .await
    }

    /// Reads all counters.
    pub(super) async fn read(&mut self, ledger: &mut Ledger) -> io::Result<Found> {
        let Some(sets) = self.applied.as_ref().map(|layout| layout.sets().collect::<Vec<Set>>()) else {
            return Ok(Found::default());
        };
        let mut readings = std::mem::take(&mut self.readings);
        readings.clear();
        self.readings = self
            .ask(move |counters| {
                sets.iter().try_for_each(|set| counters.read(*set, &mut readings))?;
                Ok(readings)
            })
            .await?;
        let found = ledger.read(&self.readings);
        self.doubt = found != Found::default();
        Ok(found)
    }

    /// Whether the last reading did not find what should be there.
    pub(super) const fn is_doubtful(&self) -> bool {
        self.doubt
    }

    /// Whether it was made, and what it is like is known.
    pub(super) const fn is_known(&self) -> bool {
        self.applied.is_some()
    }

    /// Whether rules and sets are these, as far as known.
    pub(super) fn is(&self, layout: &Layout) -> bool {
        self.applied.as_ref() == Some(layout)
    }

    /// Brings the table to what is wanted. What the ledger says is on disk before the kernel is changed, and
    /// before anybody is told of it.
    pub(super) async fn bring_up(
        &mut self,
        layout: &Layout,
        remove: &[Prefix],
        ledger: &mut Ledger,
        memory: &mut Memory,
    ) -> Result<(), Error> {
        if self.watch.is_none() {
            // Before the write, so that all after it is heard. Fails where nftables loads with the first rule.
            self.watch = TableWatch::open(&SCOPE).ok();
        }
        // Elements alone say nothing of the rules: those are known to be right only if they were just made, or
        // nothing has changed since they were found so.
        let sound = if self.is(layout) {
            self.verified.is_some() && nftables::generation().ok() == self.verified
        } else {
            self.shape(layout, ledger).await?;
            true
        };
        let Found { mut missing, extra } = self.read(ledger).await?;
        ledger.lost(missing.iter().copied());
        memory.keep(ledger, self.handle.unwrap_or_default()).await;
        let (there, absent): (Vec<Prefix>, Vec<Prefix>) =
            remove.iter().partition(|prefix| missing.binary_search(prefix).is_err());
        self.remove(&there, ledger).await?;
        for prefix in absent {
            ledger.removed(prefix, &[]);
        }
        for reading in extra {
            self.own += 1;
            // It may have gone by itself.
            let _ = self.ask(move |counters| counters.remove(reading.set, &[reading.addr], &mut Vec::new())).await;
        }
        missing.retain(|prefix| remove.binary_search(prefix).is_err());
        self.add(&missing).await?;
        memory.keep(ledger, self.handle.unwrap_or_default()).await;
        self.verified = if sound { nftables::generation().ok() } else { None };
        self.doubt = false;
        Ok(())
    }

    /// Rules and sets.
    async fn shape(&mut self, layout: &Layout, ledger: &mut Ledger) -> Result<(), Error> {
        self.applied = None;
        let there = match self.find().await? {
            Some(_) => self.ask(Counters::sets).await?,
            None => Vec::new(),
        };
        self.own += 1;
        if let Err(error) = nft::apply(&layout.script(&there)).await {
            if there.is_empty() {
                return Err(error.into());
            }
            // A set by a name of ours may be of another kind: then nothing of the table is of use.
            tracing::debug!(error = with_source(&error), "the traffic table can't be changed, made anew");
            self.own += 1;
            nft::apply(&(Layout::remove_script(TABLE) + &layout.script(&[]))).await?;
        }
        let handle = self.find().await?.ok_or(Error::Vanished)?;
        if self.handle.replace(handle) != Some(handle) {
            ledger.lost(ledger.prefixes().into_iter().map(|(prefix, _)| prefix));
            ledger.not_kept();
        }
        self.listing = nft::list_terse(TABLE).await?;
        self.applied = Some(layout.clone());
        Ok(())
    }

    async fn add(&mut self, prefixes: &[Prefix]) -> io::Result<()> {
        let by_set = by_set(prefixes);
        self.own += transactions(&by_set);
        self.ask(move |counters| by_set.iter().try_for_each(|(set, addrs)| counters.add(*set, addrs))).await
    }

    async fn remove(&mut self, prefixes: &[Prefix], ledger: &mut Ledger) -> io::Result<()> {
        let by_set = by_set(prefixes);
        self.own += transactions(&by_set);
        let last = self
            .ask(move |counters| {
                let mut last = Vec::new();
                by_set.iter().try_for_each(|(set, addrs)| counters.remove(*set, addrs, &mut last))?;
                Ok(last)
            })
            .await?;
        let mut by_prefix: BTreeMap<Prefix, Vec<_>> = BTreeMap::new();
        for reading in last {
            by_prefix.entry(reading.prefix()).or_default().push((reading.set, reading.count));
        }
        for prefix in prefixes {
            ledger.removed(*prefix, by_prefix.get(prefix).map_or(&[], Vec::as_slice));
        }
        Ok(())
    }

    /// What is wrong with the table, if nothing of nftables had changed nothing is.
    pub(super) async fn inspect(&mut self, ledger: &mut Ledger) -> Result<Option<&'static str>, Error> {
        let generation = nftables::generation().ok();
        if generation.is_some() && generation == self.verified && !self.doubt {
            return Ok(None);
        }
        let wrong = match self.find().await? {
            None => Some("was removed"),
            Some(handle) if Some(handle) != self.handle => Some("is another"),
            Some(_) if nft::list_terse(TABLE).await? != self.listing => Some("was changed"),
            Some(_) if self.read(ledger).await? != Found::default() => Some("has lost counters, or got some"),
            Some(_) => None,
        };
        if wrong.is_none() {
            // As of before the look: what came since will be heard.
            self.verified = generation;
        }
        Ok(wrong)
    }

    /// Rules and sets are to be made again.
    pub(super) fn distrust(&mut self) {
        self.applied = None;
    }

    /// Removes it, if it is there.
    pub(super) async fn clear(&mut self) -> Result<(), Error> {
        // Where there is no nftables there is no table.
        if self.find().await.unwrap_or_default().is_some() {
            nft::apply(&Layout::remove_script(TABLE)).await?;
        }
        *self = Self::default();
        Ok(())
    }
}

/// The elements of these prefixes.
fn by_set(prefixes: &[Prefix]) -> BTreeMap<Set, Vec<IpAddr>> {
    let mut by_set: BTreeMap<Set, Vec<IpAddr>> = BTreeMap::new();
    for prefix in prefixes {
        for set in Set::of(*prefix) {
            by_set.entry(set).or_default().push(prefix.addr());
        }
    }
    by_set
}

/// Transactions that changes of these take, at most.
fn transactions(by_set: &BTreeMap<Set, Vec<IpAddr>>) -> u32 {
    u32::try_from(by_set.values().map(|addrs| addrs.chunks(Counters::CHUNK).count()).sum::<usize>()).unwrap_or(u32::MAX)
}
