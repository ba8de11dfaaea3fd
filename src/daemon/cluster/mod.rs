//! Follows the store: leases this node's subnets, says who we are, finds the other nodes.
//!
//! What comes of it is an [`Overlay`] over the file: subnets, pools, peers. It goes the way that a reload
//! goes, so nobody else knows a leased subnet from a written one, or a node of the mesh from a peer of
//! the file. Of the store's absence nothing follows: what is known stays in force, and a start without it
//! begins with what `state_dir` says.

mod backend;
mod memory;
mod news;
mod shown;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::backend::{Backend, Follower};
use self::memory::{Memory, Network};
use self::news::News;
pub use self::shown::Shown;
use crate::cluster::claim::Claim;
use crate::cluster::keys::Keys;
use crate::cluster::lease::{self, Lease, Refusal, Wanted};
use crate::cluster::mesh::{self, Mesh, Plan};
use crate::cluster::mirror::{Change, Mirror, Stored};
use crate::cluster::node::{Alive, Node};
use crate::cluster::{Expect, Outcome, Write, flannel};
use crate::config::{Config, Overlay, Store};
use crate::daemon::identity::Identity;
use crate::daemon::journal::Journal;
use crate::daemon::{Fatal, node, routing, until};
use crate::io::etcd;
use crate::net::{Family, Prefix};
use crate::view;

/// How often sessions are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an operator's command waits for the store.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a write of our record that was not done.
const RECORD_RETRY: Duration = Duration::from_secs(1);
/// Known nodes are not written to disk more often: when hundreds come at once each would be a write.
const REMEMBER_EVERY: Duration = Duration::from_secs(5);
/// Nor is what is to be seen put together more often.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// Events that are remembered to be shown.
const HISTORY: usize = 500;

/// What the task is asked.
pub enum Request {
    /// A new file is in force
    Configure(Arc<Config>),
    /// An operator wants something; answered with what was done, or why not
    Order(view::LeaseOrder, oneshot::Sender<Result<String, String>>),
    /// The first free subnets of each pool, so many
    Free(usize, oneshot::Sender<Result<Vec<Prefix>, String>>),
}

/// The other tasks.
pub struct Around {
    /// Sessions and what is announced
    pub routing: mpsc::Sender<routing::Query>,
    /// Whether tunnels end here
    pub node: watch::Receiver<node::Status>,
    /// Whether the node is leaving
    pub drain: watch::Receiver<view::DrainStatus>,
}

/// How others ask for it.
#[derive(Clone)]
pub struct Handle {
    shown: watch::Receiver<Arc<Shown>>,
    requests: mpsc::Sender<Request>,
}

impl Handle {
    /// Of a node whose subnets and peers stand in the file.
    pub fn fixed(config: &Config) -> Self {
        let (_, shown) = watch::channel(Arc::new(Shown::fixed(config)));
        Self { shown, requests: mpsc::channel(1).0 }
    }

    /// What is to be seen.
    pub fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.borrow())
    }

    /// Follows what is to be seen.
    pub fn follow(&self) -> watch::Receiver<Arc<Shown>> {
        self.shown.clone()
    }

    /// Why the node can't be ready for containers yet.
    pub fn unready(&self) -> Option<String> {
        self.shown.borrow().unready.clone()
    }

    /// `None`: there is no store.
    pub async fn free(&self, limit: usize) -> Option<Result<Vec<Prefix>, String>> {
        let (answer, asked) = oneshot::channel();
        self.requests.send(Request::Free(limit, answer)).await.ok()?;
        asked.await.ok()
    }

    /// `None`: there is no store.
    pub async fn order(&self, order: view::LeaseOrder) -> Option<Result<String, String>> {
        let (answer, asked) = oneshot::channel();
        self.requests.send(Request::Order(order, answer)).await.ok()?;
        asked.await.ok()
    }
}

/// An operator's command under way.
struct Order {
    answer: oneshot::Sender<Result<String, String>>,
    /// What has happened since
    done: Vec<String>,
    /// It can't be done after all
    dropped: bool,
    until: Instant,
}

/// A write under way.
type Writing = JoinHandle<Outcome>;

/// The task's state.
pub struct Cluster {
    /// The file, without what comes of the store
    config: Arc<Config>,
    identity: Identity,
    since: u64,
    ttl: Duration,
    store: Backend,
    /// How it goes; none: it is a file
    health: Option<watch::Receiver<etcd::Health>>,
    follower: Follower,
    alive: Option<etcd::Alive>,
    mirror: Mirror,
    /// When the store last said how things stand
    heard: Instant,
    lease: Lease,
    mesh: Mesh,
    plan: Plan,
    memory: Memory,
    network: Network,
    /// What of it is not on disk yet is written then
    remember: Option<Instant>,
    remembered: Instant,
    /// When what is to be seen was last put together
    shown_at: Option<Instant>,
    /// Why what we hold can't be remembered
    unsaved: Option<String>,
    /// What sessions told last
    sessions: routing::Sessions,
    claiming: Option<Writing>,
    recording: Option<Writing>,
    /// The record as it was last written, and the revision; the mirror may not have it yet
    recorded: Option<(Vec<u8>, i64)>,
    record_after: Instant,
    /// Dead nodes whose records go once they hold nothing, and that under way
    forget: BTreeSet<String>,
    forgetting: Option<Writing>,
    orders: Vec<Order>,
    history: VecDeque<view::LeaseEvent>,
    news: News,
    again: Option<Instant>,
    overlay: watch::Sender<Arc<Overlay>>,
    shown: watch::Sender<Arc<Shown>>,
}

/// What the task wakes up for.
enum Wake {
    News(Option<etcd::News>),
    Claimed(Outcome),
    Recorded(Outcome),
    Forgotten,
    Request(Option<Request>),
    Look,
    Other,
}

impl Cluster {
    /// With what `state_dir` says; `None`: all stands in the file. Decides nothing before [`launch`](Self::launch).
    pub async fn open(config: &Arc<Config>, identity: &Identity, journal: Journal) -> Result<Option<Self>, Fatal> {
        let (keys, ttl) = match &config.store {
            Store::Etcd(etcd) => (Keys::new(&etcd.prefix), etcd.ttl),
            Store::Embedded if config.network.subnets.is_some() => return Ok(None),
            // Nobody else is there to be silent.
            Store::Embedded => (Keys::new("/wayleave/network"), Duration::from_secs(30)),
        };
        let store = Backend::open(&config.store, &config.state_dir)?;
        let (memory, held, network) = Memory::open(&config.state_dir);
        let held = held.unwrap_or_else(|| lease::Memory::new(format!("{:032x}", rand::random::<u128>())));
        let me = lease::Me { name: identity.name.clone(), address: identity.address };
        let mesh = Mesh::new(network.nodes.clone(), Instant::now().into_std());
        let mut cluster = Self {
            config: Arc::clone(config),
            identity: identity.clone(),
            since: unix(),
            ttl,
            health: store.health(),
            follower: store.follow(&keys),
            store,
            alive: None,
            mirror: Mirror::new(keys),
            heard: Instant::now(),
            lease: Lease::new(me, held),
            mesh,
            plan: Plan::default(),
            memory,
            network,
            remember: None,
            remembered: Instant::now(),
            shown_at: None,
            unsaved: None,
            sessions: routing::Sessions::default(),
            claiming: None,
            recording: None,
            recorded: None,
            record_after: Instant::now(),
            forget: BTreeSet::new(),
            forgetting: None,
            orders: Vec::new(),
            history: VecDeque::new(),
            news: News::new(journal),
            again: None,
            overlay: watch::channel(Arc::default()).0,
            shown: watch::channel(Arc::default()).0,
        };
        cluster.lease.set_wanted(cluster.wanted());
        // What `state_dir` says is in force before anything else starts.
        cluster.step(true).await;
        cluster.publish();
        Ok(Some(cluster))
    }

    /// What it adds to the file.
    pub fn overlay(&self) -> watch::Receiver<Arc<Overlay>> {
        self.overlay.subscribe()
    }

    /// Starts the task, if there is a store; how others ask it, and how it is told of a new file.
    pub fn launch(this: Option<Self>, config: &Config, around: Around) -> (Handle, Option<mpsc::Sender<Request>>) {
        let Some(this) = this else { return (Handle::fixed(config), None) };
        let (requests, queue) = mpsc::channel(16);
        let handle = Handle { shown: this.shown.subscribe(), requests: requests.clone() };
        tokio::spawn(this.run(queue, around));
        (handle, Some(requests))
    }

    /// Runs until the daemon exits.
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, mut around: Around) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let again = self.again;
            let wake = tokio::select! {
                news = self.follower.next() => Wake::News(news),
                outcome = written(&mut self.claiming) => Wake::Claimed(outcome),
                outcome = written(&mut self.recording) => Wake::Recorded(outcome),
                _ = written(&mut self.forgetting) => Wake::Forgotten,
                request = requests.recv() => Wake::Request(request),
                _ = look.tick() => Wake::Look,
                changed = around.drain.changed() => if changed.is_ok() { Wake::Other } else { return },
                changed = changed(&mut self.health) => if changed { Wake::Other } else { return },
                () = until(again) => Wake::Other,
            };
            match wake {
                Wake::News(None) | Wake::Request(None) => return,
                Wake::News(Some(news)) => {
                    self.heard(news);
                    // What came together is looked at together.
                    while let Some(news) = self.follower.ready() {
                        self.heard(news);
                    }
                }
                Wake::Claimed(outcome) => {
                    self.claiming = None;
                    self.lease.answered(now(), outcome);
                }
                Wake::Recorded(outcome) => self.recorded(outcome),
                // What was refused or lost is tried again with the next news.
                Wake::Forgotten => self.forgetting = None,
                Wake::Request(Some(request)) => {
                    self.ask_sessions(&around, true).await;
                    self.request(request);
                }
                Wake::Look => {
                    let wants = !self.shown.borrow().is_content || self.unsaved.is_some();
                    if !self.ask_sessions(&around, wants).await && !wants {
                        self.show_up(&around);
                        continue;
                    }
                }
                Wake::Other => {}
            }
            self.settle(&around).await;
        }
    }

    fn heard(&mut self, news: etcd::News) {
        if !matches!(news, etcd::News::Lost { .. }) {
            self.heard = Instant::now();
        }
        let changes = match news {
            etcd::News::Listed { entries, revision } => self.mirror.listed(entries, revision),
            etcd::News::Events { events, revision } => self.mirror.apply(events, revision),
            etcd::News::Confirmed { .. } => {
                // Of events up to that revision nothing is promised.
                self.mirror.confirmed(self.mirror.revision());
                return;
            }
            etcd::News::Lost { why } => {
                self.mirror.lost();
                tracing::warn!(error = %why, "the store is out of reach; what is known stays in force");
                return;
            }
        };
        self.news.store(&changes);
        for change in changes {
            if let Change::Bad { key, why } = &change {
                tracing::warn!(key, why, "what stands in the store can't be read");
            }
            if let Some(text) = shown::words(&change) {
                tracing::info!("{text}");
                self.note(text);
            }
        }
        self.lease.set_wanted(self.wanted());
    }

    fn note(&mut self, what: String) {
        for order in &mut self.orders {
            order.done.push(what.clone());
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(view::LeaseEvent { at: super::now(), what });
    }

    /// Pools of the file, else of flannel's key, else as last known.
    fn ranges(&self) -> Vec<flannel::Range> {
        let network = &self.config.network;
        if !network.pools.is_empty() {
            let range = |pool: &Prefix| flannel::Range::new(*pool, network.subnet_length[pool.family()]);
            return network.pools.iter().filter_map(range).collect();
        }
        match self.mirror.network() {
            Some(Ok(network)) => network.ranges.clone(),
            _ => Vec::new(),
        }
    }

    fn pools(&self) -> Option<Vec<Prefix>> {
        if !self.config.network.pools.is_empty() {
            return None;
        }
        let pools: Vec<Prefix> = self.ranges().iter().map(|range| range.pool).collect();
        // A store that was wiped takes no pools away.
        Some(if pools.is_empty() { self.network.pools.clone() } else { pools })
    }

    fn wanted(&self) -> Wanted {
        let network = &self.config.network;
        let (per_family, reclaim_after) = match &self.config.store {
            // Subnets of the file are not leased, and a host that flannel has given one gets no other unasked.
            _ if network.subnets.is_some() || self.flannels().is_some() => (0, None),
            Store::Etcd(etcd) => (network.subnets_wanted, etcd.reclaim_after),
            Store::Embedded => (network.subnets_wanted, None),
        };
        Wanted { ranges: self.ranges(), per_family, reclaim_after, ttl: self.ttl }
    }

    /// The subnet that flannel has leased to this host, while we have none.
    fn flannels(&self) -> Option<Prefix> {
        let its = |stored: &Stored<Claim>| stored.value.owner().is_none() && stored.value.is_at(self.identity.address);
        let mut claims = self.mirror.claims().filter(|(_, stored)| its(stored));
        let holds = !self.lease.memory().held.is_empty();
        claims.next().filter(|_| !holds).map(|(subnet, _)| *subnet)
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Configure(config) => {
                self.config = config;
                self.lease.set_wanted(self.wanted());
            }
            Request::Free(limit, answer) => {
                let announced = self.announced();
                let free = || shown::free(&self.ranges(), &self.mirror, &announced, limit);
                let known = self.mirror.listings() > 0;
                let _ = answer.send(if known { Ok(free()) } else { Err(Refusal::NoStore.to_string()) });
            }
            Request::Order(order, answer) => match self.order(&order) {
                Ok(()) => {
                    let until = Instant::now() + PATIENCE;
                    self.orders.push(Order { answer, done: Vec::new(), dropped: false, until });
                }
                Err(refusal) => drop(answer.send(Err(refusal.to_string()))),
            },
        }
    }

    fn order(&mut self, order: &view::LeaseOrder) -> Result<(), Refusal> {
        let mirror = (self.mirror.listings() > 0).then_some(&self.mirror);
        match order {
            view::LeaseOrder::Add { subnet } => {
                let any = self.ranges().first().map_or(Family::Ipv4, |range| range.pool.family());
                self.lease.ask(subnet.map_or(lease::Ask::Another(any), lease::Ask::Subnet), mirror)
            }
            view::LeaseOrder::Release { subnet } => self.lease.release(*subnet, mirror),
            view::LeaseOrder::Reclaim { what, force } => self.reclaim(what, *force),
            view::LeaseOrder::Reserve { subnet, node } => self.lease.reserve(*subnet, node, mirror),
            view::LeaseOrder::ImportFlannel => self.lease.import(&self.identity.name, self.identity.address, mirror),
        }
    }

    /// Frees a subnet, or all that a node holds; a node that then holds nothing leaves the list.
    fn reclaim(&mut self, what: &str, force: bool) -> Result<(), Refusal> {
        let announced = self.announced();
        let announced = |subnet: &Prefix| is_announced(&announced, subnet);
        let mirror = (self.mirror.listings() > 0).then_some(&self.mirror);
        if let Ok(subnet) = what.parse() {
            let owner = self.mirror.claim(&subnet).and_then(|claim| claim.value.owner());
            let node = owner.map(|owner| owner.node.clone());
            self.lease.reclaim(subnet, force, mirror, &announced)?;
            self.forget.extend(node);
            return Ok(());
        }
        let is_listed = self.mirror.nodes().contains_key(what) && !self.mirror.alive().contains_key(what);
        match self.lease.reclaim_node(what, force, mirror, &announced) {
            // One that holds nothing may be listed all the same.
            Err(Refusal::NoClaims(_)) if is_listed => {}
            done => done?,
        }
        self.forget.insert(what.to_owned());
        Ok(())
    }

    /// What others announce, or would if they were reached: subnets in files have no claim.
    fn announced(&self) -> BTreeSet<Prefix> {
        let others = self.mirror.nodes().iter().filter(|(name, _)| **name != self.identity.name);
        let fixed = others.flat_map(|(_, node)| &node.value.subnets);
        let fixed = fixed.filter(|subnet| self.mirror.claim(subnet).is_none());
        self.sessions.learned.iter().chain(fixed).copied().collect()
    }

    /// Whether they are others than before. `learned`: what others announce is asked for too.
    async fn ask_sessions(&mut self, around: &Around, learned: bool) -> bool {
        let (answer, asked) = oneshot::channel();
        let query = routing::Query::Sessions { learned, answer };
        if around.routing.send(query).await.is_err() {
            return false;
        }
        let Ok(sessions) = asked.await else { return false };
        let changed = self.sessions != sessions;
        self.sessions = sessions;
        changed
    }

    fn recorded(&mut self, outcome: Outcome) {
        self.recording = None;
        match outcome {
            Outcome::Done(revision) => {
                if let Some((_, at)) = &mut self.recorded {
                    *at = revision;
                }
            }
            Outcome::Refused(_) | Outcome::Unknown => {
                self.recorded = None;
                self.record_after = Instant::now() + RECORD_RETRY;
            }
        }
    }

    /// Everything that follows from what was taken in.
    async fn settle(&mut self, around: &Around) {
        let health = self.health.as_ref().map(|health| health.borrow().clone());
        if let Some(health) = &health {
            self.news.health(health);
        }
        self.step(false).await;
        self.publish();
        self.show_up(around);
        self.answer_orders();
    }

    /// What the store says of this node.
    fn show_up(&mut self, around: &Around) {
        let shows = self.lease.may_show() && !self.lease.memory().left;
        self.keep_alive(shows);
        self.record(shows, around);
        self.forget_dead();
    }

    /// Takes the records of reclaimed nodes away, unless they have come back.
    fn forget_dead(&mut self) {
        let Self { forget, mirror, .. } = self;
        forget.retain(|name| mirror.nodes().contains_key(name) && !mirror.alive().contains_key(name));
        if self.forgetting.is_some() || !self.mirror.is_fresh() {
            return;
        }
        let holds = |name: &String| {
            self.mirror.claims().any(|(_, claim)| claim.value.owner().is_some_and(|owner| owner.node == *name))
        };
        let Some(name) = self.forget.iter().find(|name| !holds(name)) else { return };
        let Some(record) = self.mirror.nodes().get(name) else { return };
        let expect = Expect::Modified(record.modified);
        self.forgetting = Some(self.commit(Write { key: self.mirror.keys().node(name), expect, value: None }));
    }

    /// Lease and mesh, as of now. `first`: nothing is asked of the store.
    async fn step(&mut self, first: bool) {
        let learned = self.announced();
        let announced = |subnet: &Prefix| is_announced(&learned, subnet);
        let listed = self.mirror.listings() > 0;
        let mut step = self.lease.step(now(), listed.then_some(&self.mirror), &announced);
        for said in std::mem::take(&mut step.said) {
            if matches!(said, lease::Said::Dropped { .. }) {
                self.orders.iter_mut().for_each(|order| order.dropped = true);
            }
            let text = said.to_string();
            match shown::weight(&said) {
                shown::Weight::Error => tracing::error!("{text}"),
                shown::Weight::Warning => tracing::warn!("{text}"),
                shown::Weight::News => tracing::info!("{text}"),
            }
            self.news.lease(&said);
            self.note(text);
        }
        let saved = self.memory.keep_lease(self.lease.memory()).await;
        let unsaved = saved.err().map(|error| error.to_string());
        if let Some(error) = unsaved.as_ref().filter(|_| self.unsaved.is_none()) {
            tracing::error!(error, "what we hold can't be written to state_dir: nothing new is announced");
        }
        self.unsaved = unsaved;
        self.again = step.again.map(Instant::from_std);
        if let Some(write) = step.write
            && !first
        {
            if self.unsaved.is_none() {
                self.claiming = Some(self.commit(write));
            } else {
                self.lease.answered(now(), Outcome::Unknown);
            }
        }
        if step.relist {
            self.follower.relist();
        }
        let me = self.me();
        let view = mesh::View {
            nodes: self.mirror.nodes().iter().map(|(name, stored)| self.listed(name, &stored.value)).collect(),
            heard: self.heard.into_std(),
        };
        let at = Instant::now();
        let plan = self.mesh.plan(&me, listed.then_some(&view), &self.sessions.sessions, at.into_std());
        self.again = [self.again, plan.again.map(Instant::from_std)].into_iter().flatten().min();
        self.plan = if self.config.bgp.mesh && !self.lease.memory().left { plan } else { Plan::default() };
        self.news.plan(&self.plan);
        let network = Network { nodes: self.mesh.memory(), pools: self.pools().unwrap_or_default() };
        if network != self.network {
            self.network = network;
            self.remember.get_or_insert(at.max(self.remembered + REMEMBER_EVERY));
        }
        self.remember().await;
    }

    /// Writes what helps a start without the store, when it is due.
    async fn remember(&mut self) {
        let Some(due) = self.remember else { return };
        let now = Instant::now();
        if now < due {
            self.wake(due);
            return;
        }
        (self.remember, self.remembered) = (None, now);
        if let Err(error) = self.memory.keep_network(&self.network).await {
            tracing::debug!(%error, "known nodes can't be written to state_dir");
        }
    }

    /// Looks again then, at the latest.
    fn wake(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }

    fn me(&self) -> mesh::Me {
        mesh::Me {
            name: self.identity.name.clone(),
            address: self.identity.address,
            asn: self.identity.asn,
            port: self.config.bgp.listen.first().map_or(0, std::net::SocketAddr::port),
            reflector: self.config.bgp.reflector,
        }
    }

    fn listed<'a>(&self, name: &'a str, record: &'a Node) -> mesh::Listed<'a> {
        let alive = self.mirror.alive().get(name).is_some_and(|alive| alive.value.id == record.id);
        mesh::Listed { name, record, alive }
    }

    fn commit(&self, write: Write) -> Writing {
        let store = self.store.clone();
        tokio::spawn(async move {
            let key = write.key.clone();
            match store.commit(write).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    tracing::warn!(key, error, "the store did not take a write, trying again");
                    Outcome::Unknown
                }
            }
        })
    }

    /// The overlay and what is shown, if they are new.
    fn publish(&mut self) {
        let endpoints =
            self.mirror.nodes().values().filter(|node| node.value.tunnels.iter().any(|kind| kind == "ipip"));
        let overlay = Overlay {
            // While it can't be remembered it is not announced.
            subnets: match &self.unsaved {
                None => Some(self.lease.believed()),
                Some(_) => self.overlay.borrow().subnets.clone(),
            },
            pools: self.pools(),
            mesh: self.plan.peers.clone(),
            tunnel_endpoints: endpoints.map(|node| Prefix::host(node.value.address)).collect(),
        };
        self.overlay.send_if_modified(|before| {
            let is_new = **before != overlay;
            if is_new {
                *before = Arc::new(overlay);
            }
            is_new
        });
        self.show();
    }

    fn show(&mut self) {
        let now = Instant::now();
        if let Some(next) = self.shown_at.map(|at| at + SHOW_EVERY).filter(|next| now < *next) {
            self.wake(next);
            return;
        }
        self.shown_at = Some(now);
        let shown = Shown::of(self);
        self.news.held(&shown.lease.subnets);
        self.shown.send_replace(Arc::new(shown));
    }

    /// The sign of life is there while we show ourselves.
    fn keep_alive(&mut self, shows: bool) {
        match (&self.alive, shows) {
            (None, true) => {
                let alive = Alive { id: self.lease.id().to_owned(), address: self.identity.address, since: self.since };
                let value = serde_json::to_vec(&alive).unwrap_or_default();
                let ours = move |value: &[u8]| {
                    let there = serde_json::from_slice::<Alive>(value);
                    // What can't be read is nobody's.
                    there.map_or(true, |there| there.id == alive.id && there.address == alive.address)
                };
                let key = self.mirror.keys().alive(&self.identity.name);
                self.alive = self.store.alive(&key, value, self.ttl, ours);
            }
            (Some(_), false) => {
                let left = self.lease.memory().left;
                if let Some(alive) = self.alive.take().filter(|_| left) {
                    tokio::spawn(alive.close());
                }
            }
            (Some(alive), true) => {
                if self.mirror.is_fresh() && !self.mirror.alive().contains_key(&self.identity.name) {
                    alive.check();
                }
            }
            (None, false) => {}
        }
    }

    /// Our record says who we are; a node that has left has none.
    fn record(&mut self, shows: bool, around: &Around) {
        if self.recording.is_some() || !self.mirror.is_fresh() || Instant::now() < self.record_after {
            return;
        }
        let there = self.mirror.nodes().get(&self.identity.name);
        let left = self.lease.memory().left;
        let value = if shows {
            Some(Node {
                id: self.lease.id().to_owned(),
                address: self.identity.address,
                asn: self.identity.asn,
                router_id: self.identity.router_id,
                port: self.me().port,
                subnets: self.config.network.subnets.clone().unwrap_or_else(|| self.lease.believed()),
                tunnels: around.node.borrow().tunnel.device.iter().map(|_| "ipip".to_owned()).collect(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                mesh: self.config.bgp.mesh,
                reflector: self.config.bgp.reflector,
                settled: self.plan.settled.clone(),
                drained: around.drain.borrow().is_leaving(),
            })
        } else if left && there.is_some_and(|there| there.value.id == self.lease.id()) {
            None
        } else {
            return;
        };
        if there.map(|there| &there.value) == value.as_ref() {
            return;
        }
        let value = value.map(|node| serde_json::to_vec(&node).unwrap_or_default());
        let bytes = value.clone().unwrap_or_default();
        if let Some((last, revision)) = &self.recorded
            && *last == bytes
            && self.mirror.revision() < *revision
        {
            // It is on its way to us.
            return;
        }
        let expect = there.map_or(Expect::Absent, |there| Expect::Modified(there.modified));
        let key = self.mirror.keys().node(&self.identity.name);
        self.recorded = Some((bytes, i64::MAX));
        self.recording = Some(self.commit(Write { key, expect, value }));
    }

    /// What operators asked for is done when nothing is left to write.
    fn answer_orders(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let now = Instant::now();
        let idle = self.claiming.is_none() && self.mirror.is_fresh();
        // Who is told that it is done must see it done.
        if idle {
            self.shown_at = None;
            self.show();
        }
        for order in std::mem::take(&mut self.orders) {
            if idle && !order.done.is_empty() {
                let text = order.done.join("\n");
                let _ = order.answer.send(if order.dropped { Err(text) } else { Ok(text) });
            } else if now >= order.until {
                let text = "accepted, and done as soon as the store answers: see `wayleave lease history`";
                let _ = order.answer.send(Ok(text.to_owned()));
            } else {
                self.orders.push(order);
            }
        }
    }
}

/// Whether somebody announces the subnet or a part of it.
fn is_announced(announced: &BTreeSet<Prefix>, subnet: &Prefix) -> bool {
    announced.range(subnet..).next().is_some_and(|next| subnet.covers(next))
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn now() -> lease::Now {
    lease::Now { at: Instant::now().into_std(), unix: unix(), chance: rand::random() }
}

/// A write that panicked was not answered.
async fn written(writing: &mut Option<Writing>) -> Outcome {
    match writing {
        Some(task) => task.await.unwrap_or(Outcome::Unknown),
        None => std::future::pending().await,
    }
}

/// Waits for a change; whether more may come.
async fn changed(health: &mut Option<watch::Receiver<etcd::Health>>) -> bool {
    match health {
        Some(health) => health.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}
