//! Owns the counting of traffic by remote node: the kernel's table, the sums, what of them is on disk.
//!
//! Whoever asks (a scrape, `wayleave top`) gets what the kernel has counted at that moment; all who ask while
//! a reading is under way share the next. The routing task is asked once a second what has changed, and only
//! where no store tells it.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `sources` | who has which prefix |
//! | `table` | the kernel's table |
//! | `memory` | what must survive a restart |

mod memory;
mod sources;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::memory::Memory;
use self::sources::{Sources, Wanted};
use self::table::Table;
use crate::config::Config;
use crate::daemon::journal::Journal;
use crate::daemon::node::repairs::{Repairs, Thing};
use crate::daemon::{cluster, node, routing, until};
use crate::io::netlink::nftables::Heard;
use crate::io::nft;
use crate::metrics::Metrics;
use crate::net::{Family, Prefix};
use crate::traffic::{Counts, Direction, Layout, Ledger, Path as Way, Total, Totals};
use crate::view;

/// Name of our table of counters.
pub const TABLE: &str = "wayleave_traffic";
/// How often it is asked who has which prefix.
const TICK: Duration = Duration::from_secs(1);
/// Least time between two changes of what is counted: each may mean a file that is synced to the disk.
const PACE: Duration = Duration::from_secs(2);
/// How often all is looked at though nothing was heard, and tried again if it failed.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How often nodes are ranked.
const RANK_EVERY: Duration = Duration::from_secs(60);
/// How long a scrape waits for the newest counts; then the last that were read have to do.
const PATIENCE: Duration = Duration::from_millis(500);
/// Askers that may wait.
const REQUESTS: usize = 16;

/// How the counting is.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// For `status`
    pub shown: view::TrafficStatus,
    /// What was put right
    pub repairs: Vec<view::Repairs>,
    /// What is fought over
    pub duels: Vec<view::Duel>,
}

/// What has been counted.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Totals
    pub totals: Arc<Totals>,
    /// When the kernel was read, in seconds since the task began
    pub clock: f64,
    /// Who has which prefix
    prefixes: Arc<Vec<(Prefix, Option<Arc<str>>)>>,
    addresses: Arc<BTreeMap<Arc<str>, std::net::IpAddr>>,
}

/// How others ask.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<oneshot::Sender<()>>,
    counted: watch::Receiver<Option<Arc<Counted>>>,
    status: watch::Receiver<Status>,
}

impl Handle {
    /// What has been counted up to now; none: nothing is counted.
    pub async fn read(&self) -> Option<Arc<Counted>> {
        let (answer, asked) = oneshot::channel();
        let newest = async {
            self.requests.send(answer).await.ok()?;
            asked.await.ok()
        };
        // Whoever is late has said why in the status.
        let _ = timeout(PATIENCE, newest).await;
        self.counted.borrow().clone()
    }

    /// How the counting is.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }
}

/// The task's state.
pub struct Traffic {
    configs: watch::Receiver<Arc<Config>>,
    config: Arc<Config>,
    /// Name of this node
    me: String,
    sources: Sources,
    addresses: Arc<BTreeMap<Arc<str>, std::net::IpAddr>>,
    prefixes: Arc<Vec<(Prefix, Option<Arc<str>>)>>,
    table: Table,
    ledger: Ledger,
    memory: Memory,
    repairs: Repairs,
    error: Option<String>,
    began: Instant,
    /// Not before then is changed what is counted
    after: Instant,
    again: Option<std::time::Instant>,
    counted: watch::Sender<Option<Arc<Counted>>>,
    status: watch::Sender<Status>,
}

/// The other tasks.
pub struct Around {
    /// What is in force
    pub configs: watch::Receiver<Arc<Config>>,
    /// Name of this node
    pub me: String,
    /// Whoever knows where prefixes lead
    pub routing: mpsc::Sender<routing::Query>,
    /// Whoever knows the nodes
    pub cluster: cluster::Handle,
    /// Where repairs are counted
    pub metrics: Arc<Metrics>,
    /// Where they are told of
    pub journal: Journal,
}

/// What the task wakes up for.
enum Wake {
    Asked(oneshot::Sender<()>),
    Config,
    Heard(Heard),
    Tick,
    Look,
    Rank,
    Again,
}

impl Traffic {
    /// Starts the task; how it is asked.
    pub fn start(around: Around) -> Handle {
        let config = Arc::clone(&around.configs.borrow());
        let this = Self {
            sources: Sources::new(around.routing, around.cluster.follow()),
            table: Table::default(),
            ledger: Ledger::new(config.metrics.forwarding_top),
            memory: Memory::new(&config.state_dir),
            repairs: Repairs::new(around.metrics, around.journal),
            error: None,
            began: Instant::now(),
            after: Instant::now(),
            again: None,
            addresses: Arc::default(),
            prefixes: Arc::default(),
            counted: watch::channel(None).0,
            status: watch::channel(Status::default()).0,
            me: around.me,
            configs: around.configs,
            config,
        };
        let (requests, queue) = mpsc::channel(REQUESTS);
        let handle = Handle { requests, counted: this.counted.subscribe(), status: this.status.subscribe() };
        tokio::spawn(this.run(queue));
        handle
    }

    /// Runs until the daemon exits.
    async fn run(mut self, mut requests: mpsc::Receiver<oneshot::Sender<()>>) {
        let every = |period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let (mut tick, mut look, mut rank) = (every(TICK), every(LOOK_EVERY), every(RANK_EVERY));
        self.adopt().await;
        loop {
            let again = self.again;
            let wake = tokio::select! {
                asked = requests.recv() => match asked {
                    Some(answer) => Wake::Asked(answer),
                    None => return,
                },
                changed = self.configs.changed() => if changed.is_ok() { Wake::Config } else { return },
                heard = self.table.heard() => Wake::Heard(heard),
                _ = tick.tick() => Wake::Tick,
                _ = look.tick() => Wake::Look,
                _ = rank.tick() => Wake::Rank,
                () = until(again.map(Instant::from_std)) => Wake::Again,
            };
            match wake {
                Wake::Asked(answer) => {
                    // Who comes while the kernel is read gets the next reading.
                    let answers: Vec<_> =
                        std::iter::once(answer).chain(std::iter::from_fn(|| requests.try_recv().ok())).collect();
                    self.read().await;
                    for answer in answers {
                        let _ = answer.send(());
                    }
                    continue;
                }
                Wake::Config => self.configure().await,
                Wake::Heard(heard) => {
                    if self.table.take(heard) {
                        self.check().await;
                    }
                }
                Wake::Tick => self.tick().await,
                Wake::Look => self.look().await,
                Wake::Again => self.check().await,
                Wake::Rank => self.rank().await,
            }
            self.publish();
        }
    }

    /// Why nothing is to be counted.
    fn off(&self) -> Option<&'static str> {
        let config = &self.config;
        match () {
            () if !config.metrics.forwarding => Some("metrics.forwarding = false"),
            () if !config.kernel.install => Some("kernel.install = false: the kernel is left alone"),
            () if config.network.pools.is_empty() => Some("no pool is known"),
            () => None,
        }
    }

    /// Takes over what a former run left.
    async fn adopt(&mut self) {
        if !self.config.kernel.install {
            return;
        }
        if !self.config.metrics.forwarding {
            return self.clear().await;
        }
        let Ok(Some(handle)) = self.table.find().await else { return };
        let kept = self.memory.read().filter(|kept| kept.table == handle);
        let readings = self.table.read_there().await.unwrap_or_default();
        let ledger = kept.and_then(|kept| Ledger::from_kept(kept, self.config.metrics.forwarding_top, &readings));
        match ledger {
            Some(ledger) => {
                self.ledger = ledger;
                self.table.handle = Some(handle);
                tracing::debug!("counts of a former run adopted");
            }
            None => self.clear().await,
        }
    }

    async fn clear(&mut self) {
        if let Err(error) = self.table.clear().await {
            tracing::warn!(error = error.words(), "the traffic table can't be removed");
        }
        self.memory.forget();
        self.ledger = Ledger::new(self.config.metrics.forwarding_top);
        self.error = None;
        self.counted.send_replace(None);
    }

    async fn configure(&mut self) {
        let former = std::mem::replace(&mut self.config, Arc::clone(&self.configs.borrow_and_update()));
        if self.config.kernel.install && !self.config.metrics.forwarding {
            return self.clear().await;
        }
        if self.off().is_some() {
            self.counted.send_replace(None);
            return;
        }
        self.ledger.set_top(self.config.metrics.forwarding_top);
        if former.network.pools != self.config.network.pools {
            self.sources.renew();
        }
        self.after = Instant::now();
        self.want().await;
    }

    /// What has changed of who has which prefix.
    async fn tick(&mut self) {
        if self.off().is_some() || Instant::now() < self.after {
            return;
        }
        if self.table.is_doubtful() {
            self.check().await;
        }
        let news = self.sources.look(&self.config).await;
        if news || (self.error.is_none() && !self.table.is(&self.layout())) {
            self.want().await;
        }
    }

    /// Brings the kernel to what is wanted now.
    async fn want(&mut self) {
        let Wanted { names, addresses, known } = self.sources.wanted(&self.config, &self.me);
        self.addresses = Arc::new(addresses);
        let pools = &self.config.network.pools;
        let rest = |family: Family| pools.iter().any(|pool| pool.family() == family);
        let remove = self.ledger.want(Instant::now().into_std(), &names, rest, known);
        self.bring_up(&remove).await;
    }

    async fn bring_up(&mut self, remove: &[Prefix]) {
        let layout = self.layout();
        let Self { table, ledger, memory, .. } = self;
        let error = table.bring_up(&layout, remove, ledger, memory).await.err().map(|error| error.words());
        if error.is_some() {
            // It may be gone, and somebody's change not be heard of yet: the next attempt makes all of it.
            table.distrust();
        }
        self.after = Instant::now() + PACE;
        self.failed(error);
        self.prefixes = Arc::new(self.ledger.prefixes());
        self.show();
    }

    fn failed(&mut self, error: Option<String>) {
        if let Some(error) = &error
            && self.error.as_ref() != Some(error)
        {
            tracing::warn!(error, "traffic by remote node can't be counted");
        }
        self.error = error;
    }

    /// The table as the ledger needs it.
    fn layout(&self) -> Layout {
        Layout {
            table: TABLE.to_owned(),
            tunnel: node::TUNNEL.to_owned(),
            pools: self.config.network.pools.clone(),
            own: self.config.network.subnets.clone().unwrap_or_default(),
            lengths: self.ledger.lengths(),
        }
    }

    async fn read(&mut self) {
        if self.off().is_some() || self.error.is_some() {
            return;
        }
        if let Err(error) = self.table.read(&mut self.ledger).await {
            // What was read last stands; the next look says what is wrong.
            tracing::debug!(%error, "counters can't be read");
        }
        // A counter that was set back is on disk before it is told of.
        self.memory.keep(&mut self.ledger, self.table.handle.unwrap_or_default()).await;
        self.show();
    }

    fn show(&self) {
        let counted = Counted {
            totals: Arc::new(self.ledger.totals()),
            clock: self.began.elapsed().as_secs_f64(),
            prefixes: Arc::clone(&self.prefixes),
            addresses: Arc::clone(&self.addresses),
        };
        self.counted.send_replace(self.error.is_none().then(|| Arc::new(counted)));
    }

    /// Looks, unless nothing of nftables has changed, and puts right what is wrong.
    async fn check(&mut self) {
        self.again = None;
        if self.off().is_some() || self.error.is_some() || !self.table.is_known() {
            return;
        }
        let now = Instant::now().into_std();
        if let Some(at) = self.repairs.touched(&Thing::Traffic, now) {
            self.again = Some(at);
            return;
        }
        let wrong = match self.table.inspect(&mut self.ledger).await {
            Ok(None) => return,
            Ok(Some(wrong)) => wrong,
            Err(error) => {
                tracing::debug!(error = error.words(), "the traffic table can't be looked at, made again");
                "can't be looked at"
            }
        };
        if let Err(at) = self.repairs.may(&Thing::Traffic, self.table.by.clone(), now) {
            self.again = Some(at);
            return;
        }
        self.table.distrust();
        self.bring_up(&[]).await;
        if self.error.is_none() {
            tracing::warn!(table = TABLE, by = self.table.by, "traffic table {wrong} by somebody, restored");
            self.repairs.done(&Thing::Traffic, format!("traffic table {wrong}"));
        }
    }

    /// Compares all; what failed is tried again; what nobody has any more may go.
    async fn look(&mut self) {
        self.repairs.settle(Instant::now().into_std());
        if self.off().is_some() {
            return;
        }
        self.sources.look(&self.config).await;
        self.check().await;
        self.want().await;
    }

    async fn rank(&mut self) {
        if self.off().is_some() || self.error.is_some() {
            return;
        }
        self.read().await;
        self.ledger.rank();
        self.memory.keep(&mut self.ledger, self.table.handle.unwrap_or_default()).await;
        self.show();
    }

    fn publish(&self) {
        let totals = self.counted.borrow().as_ref().map(|counted| {
            let own = counted.totals.nodes.iter().filter(|node| node.shown).count();
            (own, counted.totals.nodes.len() - own, counted.prefixes.iter().filter(|(_, node)| node.is_some()).count())
        });
        let (nodes_own, nodes_other, prefixes) = totals.unwrap_or_default();
        let unkept = || self.memory.error.as_ref().map(|error| format!("would not survive a restart: {error}"));
        let shown = view::TrafficStatus {
            enabled: self.config.metrics.forwarding,
            counted: totals.is_some(),
            error: self.off().map(str::to_owned).or_else(|| self.error.clone()).or_else(unkept),
            nodes_own,
            nodes_other,
            prefixes,
            prefixes_beyond: self.ledger.beyond(),
        };
        let (repairs, duels) = self.repairs.show(Instant::now().into_std());
        self.status.send_replace(Status { shown, repairs, duels });
    }
}

impl Counted {
    /// For people and `/v1/traffic`.
    pub fn nodes(&self) -> Vec<view::NodeTraffic> {
        let mut subnets: BTreeMap<&Arc<str>, Vec<Prefix>> = BTreeMap::new();
        for (prefix, name) in &*self.prefixes {
            if let Some(name) = name {
                subnets.entry(name).or_default().push(*prefix);
            }
        }
        let node = |total: &Total| {
            let mut sum = total.own;
            sum += total.other;
            view::NodeTraffic {
                node: total.name.to_string(),
                address: self.addresses.get(&total.name).copied(),
                subnets: subnets.remove(&total.name).unwrap_or_default(),
                series: if total.shown { "own" } else { "other" }.to_owned(),
                passed: passed(&sum),
            }
        };
        self.totals.nodes.iter().map(node).collect()
    }
}

/// Both directions, as views show them.
pub fn passed(counts: &Counts) -> view::Passed {
    let volume = |direction: Direction, way: Way| {
        let count = counts[(direction, way)];
        view::Volume { bytes: count.bytes, packets: count.packets }
    };
    let paths =
        |direction| view::Paths { direct: volume(direction, Way::Direct), tunnel: volume(direction, Way::Tunnel) };
    view::Passed { transmit: paths(Direction::Transmit), receive: paths(Direction::Receive) }
}

/// What `clean` removes of this.
pub async fn tear_down(state_dir: &Path) -> (Vec<String>, Vec<String>) {
    let forgotten = Memory::new(state_dir).forget();
    match nft::apply(&Layout::remove_script(TABLE)).await {
        Ok(()) => (vec![format!("nftables table inet {TABLE} removed, if it was there")], Vec::new()),
        // Where there is no nft, in the kernel or as a program, there is no table of ours.
        Err(nft::NftError::Missing) => (Vec::new(), Vec::new()),
        Err(nft::NftError::Refused(text)) if text.contains("not supported") => (Vec::new(), Vec::new()),
        Err(error) => (
            forgotten.then(|| "counts of traffic forgotten".to_owned()).into_iter().collect(),
            vec![format!("nftables table {TABLE}: {}", node::with_source(&error))],
        ),
    }
}
