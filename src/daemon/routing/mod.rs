//! The routing task: the one owner of RIB, adj-ribs-out and forwarder.
//!
//! It takes what has arrived, decides once for all prefixes that it touched, tells the groups of
//! peers, and hands the writer thread what the kernel lacks. No timer makes a route wait: a batch is
//! what arrived while the last one was worked on. It never waits for a peer or for the kernel;
//! whoever is slow finds the newest state when ready.

mod answers;
mod comparison;
mod drain;
mod explain;
mod kernel;
mod learned;
mod news;
mod numbers;
mod outbound;
mod repairs;
mod tunnel_ends;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hashbrown::HashSet;
use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot, watch as channel};
use tokio::time::Instant;

pub use self::answers::{Counts, RoutesOf, RoutingStatus, Sessions};
use self::comparison::{Comparison, EVERY};
pub use self::explain::Explained;
use self::kernel::{Ends, dumped, receive, reserve};
use self::learned::Learned;
pub use self::learned::LearnedPage;
use self::news::News;
pub use self::numbers::Numbers;
use self::numbers::Seen;
use self::outbound::Outbound;
use self::repairs::Repairs;
use self::tunnel_ends::TunnelEnds;
use crate::bgp::attrs::{Attrs, ExtCommunity};
use crate::bgp::message::{Notification, RefreshKind, RouteRefresh, Update};
use crate::bgp::policy;
use crate::bgp::restarts::{Expired, Restarts};
use crate::bgp::rib::{Change, Chosen, PeerId, Rib, Selection};
use crate::bgp::session::Negotiated;
use crate::bgp::sync::Sync;
use crate::config::{self, Config};
use crate::daemon::drain::Stage;
use crate::daemon::identity::Identity;
use crate::daemon::journal::{Journal, Note};
use crate::daemon::node::KnownEnds;
use crate::daemon::peer::Command;
use crate::daemon::{Fatal, settings, until};
use crate::explain::kernel::Answer;
use crate::forward::{Batch, Forwarder, NextHop, Settings, Way, source_of};
use crate::io::netlink::{self, watch, writer};
use crate::io::procfs;
use crate::metrics::Metrics;
use crate::net::{Family, PerFamily, Prefix};
use crate::view::{self, EventKind};

/// Inputs taken before one decision: enough to coalesce, few enough to keep the writer busy.
const INPUTS: usize = 8;
/// Writes in one batch for the writer thread.
const WRITES: usize = 2048;
/// Batches that may wait at each end of the writer thread.
const BATCHES: usize = 4;
/// Reports of kernel events that may wait.
const KERNEL_REPORTS: usize = 64;
/// Prefixes decided for before other work gets its turn: some milliseconds, so that a peer with a
/// million routes does not keep the next failure waiting.
const DECISIONS: usize = 16_384;
/// Of these, decided for at once: not more than a batch for the writer, which is fed between.
const PORTION: usize = 2048;
/// Rounds of decision and resolution before other work gets its turn; routes that lead to each
/// other's next hops take as many as they are deep.
const ROUNDS: usize = 32;
/// Next hops followed before those that nobody uses any more are looked for.
const NEXT_HOPS: usize = 1024;

/// What this host can do.
#[derive(Clone, Copy)]
pub struct Abilities {
    /// Index of the tunnel device
    pub tunnel: Option<u32>,
    /// Routes refer to nexthop objects
    pub objects: bool,
    /// These can be guarded
    pub guard: bool,
}

/// Who is told of what happens here.
pub struct Told {
    /// The journal
    pub journal: Journal,
    /// The guard of the tunnel
    pub tunnel_ends: channel::Sender<KnownEnds>,
}

/// What the routing task is told.
pub enum Input {
    /// A peer is configured
    Add(Box<NewPeer>),
    /// Every peer of the file that the daemon started with has been added
    Gathered,
    /// Their settings changed
    Configure { peers: Vec<(PeerId, Arc<config::Peer>)> },
    /// It is no longer configured
    Remove { peer: PeerId },
    /// A connection attempt failed, or a connection before its session was up
    Attempted { peer: PeerId },
    /// Its session came up
    Up(Box<Up>),
    /// It sent routes; the first of them was read at the instant
    Updates { peer: PeerId, at: Instant, updates: Vec<Update> },
    /// It asks for routes again, or brackets its own
    Refresh { peer: PeerId, refresh: RouteRefresh },
    /// Its session went down; its routes are kept for so long
    Down { peer: PeerId, restart: Option<Duration> },
    /// A new configuration is in force
    Reload(Arc<Config>),
    /// The node leaves the network, or comes back; answered once all peers that are up have been told
    Drain { stage: Stage, told: oneshot::Sender<()> },
    /// The tunnel device is there with this index, or is not
    Tunnel(Option<u32>),
    /// The host was suspended: what is known of the kernel may be old
    Resumed,
}

/// A configured peer.
pub struct NewPeer {
    /// Handle
    pub id: PeerId,
    /// Name
    pub name: String,
    /// Address
    pub address: IpAddr,
    /// Settings
    pub config: Arc<config::Peer>,
    /// Its task
    pub commands: mpsc::Sender<Command>,
    /// It was accepted from a range
    pub dynamic: bool,
}

/// An established session.
pub struct Up {
    /// Handle
    pub peer: PeerId,
    /// What was agreed on
    pub negotiated: Arc<Negotiated>,
    /// Our address on it
    pub local: IpAddr,
    /// Takes whole messages for the peer
    pub routes: mpsc::Sender<Bytes>,
}

/// What the routing task is asked.
pub enum Query {
    /// [`Numbers`] as of now, for those that follow them
    Publish,
    /// Sizes and readiness, and what is wrong by name
    Status(oneshot::Sender<RoutingStatus>),
    /// Numbers of every peer
    Counts(oneshot::Sender<BTreeMap<PeerId, Counts>>),
    /// Which prefixes there are to show, sorted
    Prefixes(RoutesOf, oneshot::Sender<Vec<Prefix>>),
    /// Paths of these prefixes
    Routes(RoutesOf, Vec<Prefix>, oneshot::Sender<Vec<view::Route>>),
    /// How the sessions are
    Sessions {
        /// All that others announce inside the pools is told too
        learned: bool,
        /// Whoever asks
        answer: oneshot::Sender<Sessions>,
    },
    /// What others announce inside the pools, and where it leads: what has changed since last asked, or a page
    /// of all from this cell on
    Learned(Option<u32>, oneshot::Sender<LearnedPage>),
    /// Why an address is reached as it is; with the kernel's own answer
    Explain(IpAddr, Answer, oneshot::Sender<Box<Explained>>),
}

struct Peer {
    name: String,
    address: IpAddr,
    /// Its number with the forwarder, the same after a restart
    source: u32,
    config: Arc<config::Peer>,
    commands: mpsc::Sender<Command>,
    dynamic: bool,
    session: Option<Established>,
    /// Its routes were kept because we left, not because it did
    kept: bool,
}

struct Established {
    negotiated: Arc<Negotiated>,
    local: IpAddr,
    /// Families whose End-of-RIB is to come
    loading: PerFamily<bool>,
}

/// The task's state.
pub struct Routing {
    config: Arc<Config>,
    identity: Identity,
    metrics: Arc<Metrics>,
    node: Arc<policy::Node>,
    rib: Rib,
    forwarder: Forwarder,
    outbound: Outbound,
    peers: BTreeMap<PeerId, Peer>,
    restarts: Restarts,
    sync: Sync,
    /// A former run left routes: they are not touched before the first synchronisation
    adopted: bool,
    tunnel: Option<u32>,
    /// Routes refer to nexthop objects
    objects: bool,
    /// A batch to be filled again
    spare: Batch,
    /// What a portion of decisions changed; kept for its room
    changes: Vec<Change>,
    /// How far the node has left the network
    stage: Stage,
    /// Waits for peers to be told of it
    told: Option<oneshot::Sender<()>>,
    /// When the oldest UPDATE was read that is not yet handed to the writer
    oldest: Option<Instant>,
    /// The same for each batch under way
    under_way: VecDeque<Option<Instant>>,
    /// The kernel's words on the latest refusals
    refusals: BTreeMap<Prefix, String>,
    /// Next hops that lack a tunnel, as last told of
    without_tunnel: Vec<IpAddr>,
    /// Peers that are back, while what they sent before is still in the table
    returning: Vec<u32>,
    /// When to look for next hops that nobody uses
    next_hops_limit: usize,
    /// Who else announces subnets of ours, and whether to look again
    rivals: Vec<view::SubnetRival>,
    look_for_rivals: bool,
    learned: Learned,
    comparison: Comparison,
    repairs: Repairs,
    seen: Seen,
    tunnel_ends: TunnelEnds,
    news: News,
    ends: Ends,
}

impl Routing {
    /// Opens the kernel's side and takes over what a former run left; in which families forwarding
    /// has outlived that run.
    pub async fn start(
        config: Arc<Config>,
        identity: &Identity,
        metrics: Arc<Metrics>,
        Abilities { tunnel, objects, guard }: Abilities,
        Told { journal, tunnel_ends }: Told,
    ) -> Result<(Self, PerFamily<bool>), Fatal> {
        let failed = |error: std::io::Error| Fatal::start("netlink (CAP_NET_ADMIN is needed)", error);
        let ours = settings::ours(&config);
        let writer = if config.kernel.install { Some(writer::spawn(ours, BATCHES).map_err(failed)?) } else { None };
        let watch = watch::Watch::open(ours, writer.as_ref().map_or(0, |writer| writer.port)).map_err(failed)?;
        // Events queue up from here on, so nothing between the dump and the first event is missed.
        let dump = netlink::query::dump(ours).await.map_err(failed)?;
        let (reports, kernel) = mpsc::channel(KERNEL_REPORTS);
        tokio::spawn(async move {
            if let Err(error) = watch.run(reports).await {
                tracing::error!(%error, "kernel events can't be read any more; comparing every {EVERY:?} goes on");
            }
        });
        let (ops, nexthops, reports) = match writer {
            Some(writer) => (Some(writer.ops), Some(writer.nexthops), Some(writer.reports)),
            None => (None, None, None),
        };
        let adopted = config.kernel.install && !dump.own.is_empty();
        if adopted {
            tracing::info!(routes = dump.own.len(), "routes of a former run adopted");
            let what = format!("{} routes of a former run adopted", dump.own.len());
            journal.note(Note::new(EventKind::Daemon, "wayleave", what));
        }
        let preserved = settings::preserved(&config, dump.own.iter().map(|(prefix, _)| *prefix), procfs::uptime());
        let addresses = dump.addresses.iter().map(|address| address.addr).collect();
        let mut forwarder = Forwarder::new(Settings { guard, ..settings::forwarding(&config, tunnel, objects) });
        forwarder.adopt(dump);
        let now = Instant::now();
        let mut routing = Self {
            node: settings::policy_node(&config, identity, addresses),
            identity: identity.clone(),
            metrics,
            rib: Rib::new(),
            forwarder,
            outbound: Outbound::default(),
            peers: BTreeMap::new(),
            restarts: Restarts::default(),
            sync: Sync::new(now.into_std()),
            adopted,
            tunnel,
            objects,
            spare: Batch::default(),
            changes: Vec::new(),
            stage: Stage::Present,
            told: None,
            oldest: None,
            under_way: VecDeque::new(),
            refusals: BTreeMap::new(),
            without_tunnel: Vec::new(),
            returning: Vec::new(),
            next_hops_limit: NEXT_HOPS,
            rivals: Vec::new(),
            look_for_rivals: false,
            learned: Learned::default(),
            comparison: Comparison::new(Instant::now()),
            repairs: Repairs::default(),
            seen: Seen::default(),
            tunnel_ends: TunnelEnds::new(tunnel_ends),
            news: News::new(journal, now),
            ends: Ends { ops, nexthops, reports, kernel, dump: None },
            config: Arc::clone(&config),
        };
        // RFC 4724 §4.1: End-of-RIB would make peers drop what they keep and we have not learned again.
        if preserved.iter().any(|(_, kept)| *kept) {
            routing.outbound.hold();
        }
        routing.originate();
        // What we announce ourselves waits for nobody.
        routing.decide_now(usize::MAX);
        routing.publish();
        Ok((routing, preserved))
    }

    /// Runs until the daemon exits.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<Input>, mut queries: mpsc::Receiver<Query>) {
        let mut taken = Vec::with_capacity(INPUTS);
        loop {
            let deadline = self.next_deadline();
            let writes = self.may_write();
            let undecided = !self.rib.is_settled() && !self.is_deferred();
            let Ends { ops, reports, kernel, dump, .. } = &mut self.ends;
            tokio::select! {
                count = inputs.recv_many(&mut taken, INPUTS) => {
                    if count == 0 {
                        return;
                    }
                    for input in taken.drain(..) {
                        self.input(input);
                    }
                }
                place = reserve(ops.as_ref()), if writes => self.write(place),
                report = receive(reports) => self.written(report),
                Some(report) = kernel.recv() => self.kernel(report),
                result = dumped(dump) => self.resynced(result),
                (id, place) = self.outbound.room() => self.outbound.catch_up(id, place, &self.rib),
                Some(query) = queries.recv() => self.answer(query),
                () = until(deadline) => {}
                () = std::future::ready(()), if undecided => {}
            }
            self.settle();
            // However much else there is to do: who asks gets an answer between two rounds.
            if let Ok(query) = queries.try_recv() {
                self.answer(query);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let now = Instant::now().into_std();
        let writes = self.ends.ops.is_some();
        // What is due already waits for room with the writer, not for time.
        let retry = self.forwarder.next_retry().filter(|at| writes && *at > now).map(Instant::from_std);
        let sync = self.sync.next_deadline(now).map(Instant::from_std);
        let restart = self.restarts.next().map(Instant::from_std);
        // While one is under way its end is waited for.
        let resync = self.ends.dump.is_none().then(|| self.comparison.due(self.forwarder.needs_resync()));
        [retry, sync, restart, resync, self.repairs.look, self.news.deadline()].into_iter().flatten().min()
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Add(new) => self.add(*new),
            Input::Gathered => self.sync.gathered(),
            Input::Configure { peers } => self.configure(peers),
            Input::Remove { peer } => {
                self.down(peer, None);
                // Also what a drained node keeps.
                self.gone(peer);
                if let Some(removed) = self.peers.remove(&peer) {
                    self.news.departs(peer, &removed.name);
                }
                self.sync.remove(peer);
                self.tunnel_ends.touch();
            }
            Input::Attempted { peer } => self.sync.attempted(peer),
            Input::Up(up) => self.up(*up),
            Input::Updates { peer, at, updates } => self.updates(peer, at, &updates),
            Input::Refresh { peer, refresh } => self.refresh(peer, refresh),
            Input::Down { peer, restart } => self.down(peer, restart),
            Input::Reload(config) => self.reload(config),
            Input::Drain { stage, told } => self.drain(stage, told),
            Input::Tunnel(device) => {
                self.tunnel = device;
                self.forwarder.configure(settings::forwarding(&self.config, device, self.objects));
                self.originate();
                self.regroup();
            }
            Input::Resumed => self.comparison.ask(),
        }
    }

    fn add(&mut self, new: NewPeer) {
        let NewPeer { id, name, address, config, commands, dynamic } = new;
        self.sync.add(id, Instant::now().into_std(), dynamic);
        if self.sync.is_ready() {
            // The news of that was before its time. A new task's queue has room.
            let _ = commands.try_send(Command::Restarted);
        }
        let mut source = source_of(address);
        while self.peers.values().any(|peer| peer.source == source) {
            source = source.wrapping_add(1);
        }
        let peer = Peer { name, address, source, config, commands, dynamic, session: None, kept: false };
        self.peers.insert(id, peer);
        self.tunnel_ends.touch();
    }

    fn configure(&mut self, peers: Vec<(PeerId, Arc<config::Peer>)>) {
        let mut changed = Vec::with_capacity(peers.len());
        for (id, config) in peers {
            if let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.config != config) {
                peer.config = config;
                changed.push(id);
            }
        }
        self.renew(&changed);
    }

    fn up(&mut self, up: Up) {
        let Up { peer: id, negotiated, local, routes } = up;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let restart = negotiated.graceful_restart.as_ref();
        let (restarts, restarted) = (restart.is_some(), restart.is_some_and(|restart| restart.restarted));
        // A speaker that knows graceful restart tells the end of its routes (RFC 4724 §4).
        self.sync.up(id, Instant::now().into_std(), negotiated.families, restarts, restarted);
        let info = settings::peer_info(&self.config, &self.node, id, peer.address, &peer.config, &negotiated);
        // RFC 4724 §4.2: what the peer did not preserve is not kept.
        let preserved = |family: Family| {
            restart.is_some_and(|restart| restart.families.iter().any(|(f, preserved)| *f == family && *preserved))
        };
        let kept = std::mem::take(&mut peer.kept);
        let lost: Vec<Family> = Family::ALL.into_iter().filter(|family| !kept && !preserved(*family)).collect();
        let export = self.export_settings(id, &negotiated, local);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // Without graceful restart nobody has to tell the end (RFC 4724 §2).
        let loading = PerFamily::from_fn(|family| restarts && negotiated.families[family]);
        peer.session = Some(Established { negotiated, local, loading });
        let source = peer.source;
        self.tunnel_ends.touch();
        self.rib.peer_up(info);
        for family in lost {
            self.rib.sweep_stale(id, family);
        }
        self.restarted(id);
        self.returning.push(source);
        if let Some(export) = export {
            self.outbound.join(id, export, routes);
        }
    }

    fn export_settings(
        &self,
        id: PeerId,
        negotiated: &Negotiated,
        local: IpAddr,
    ) -> Option<crate::bgp::rib::ExportSettings> {
        let peer = self.peers.get(&id)?;
        let next_hops = PerFamily::from_fn(|family| self.forwarder.address_beside(local, family));
        let ends_ipip = self.tunnel.is_some();
        let settings = settings::export(&self.config, &self.identity, &peer.config, negotiated, next_hops, ends_ipip);
        Some(settings::leaving(settings, self.stage))
    }

    fn updates(&mut self, id: PeerId, at: Instant, updates: &[Update]) {
        self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
        self.sync.heard(id, Instant::now().into_std());
        for update in updates {
            for reach in &update.reach {
                self.tunnel_ends.hear(&reach.attrs);
            }
            let outcome = self.rib.update(id, update);
            self.look_for_rivals |= self.has_rivals(id);
            if let Some(limit) = outcome.warning {
                let name = self.peers.get(&id).map_or("?", |peer| &peer.name);
                tracing::warn!(peer = name, limit, "peer has reached 75 % of its max_prefixes");
                let what = format!("has reached 75 % of max_prefixes, which is {limit}");
                self.news.journal().note(Note::new(EventKind::Limit, name, what));
            }
            if let Some(limit) = outcome.over_limit {
                let family =
                    update.reach.first().and_then(|reach| reach.prefixes.first()).map_or(Family::Ipv4, Prefix::family);
                self.over_limit(id, family, limit.get());
                return;
            }
            if let Some(family) = update.end_of_rib {
                self.sync.end_of_rib(id, family);
                if let Some(session) = self.peers.get_mut(&id).and_then(|peer| peer.session.as_mut()) {
                    session.loading[family] = false;
                }
                self.rib.sweep_stale(id, family);
                self.restarted(id);
            }
        }
    }

    /// Cease/1 (RFC 4486 §4); the peer task keeps the peer away for a while.
    fn over_limit(&self, id: PeerId, family: Family, limit: u32) {
        let Some(peer) = self.peers.get(&id) else { return };
        tracing::error!(peer = peer.name, limit, "peer sends more than max_prefixes, session closed");
        let what = format!("sends more than max_prefixes, which is {limit}: session closed");
        self.news.journal().note(Note::new(EventKind::Limit, &peer.name, what));
        if peer.commands.try_send(Command::Close(Notification::max_prefixes(family, limit))).is_err() {
            tracing::debug!(peer = peer.name, "close is asked for at its next update");
        }
    }

    fn refresh(&mut self, id: PeerId, refresh: RouteRefresh) {
        match refresh.kind {
            RefreshKind::Request => {
                let session = self.peers.get(&id).and_then(|peer| peer.session.as_ref());
                let bracketed = session.is_some_and(|session| session.negotiated.enhanced_refresh);
                self.outbound.refresh(id, refresh.family, bracketed);
            }
            // RFC 7313 §4: what is not sent again between the two has gone.
            RefreshKind::Begin => self.rib.mark_stale(id, refresh.family),
            RefreshKind::End => {
                self.rib.sweep_stale(id, refresh.family);
            }
        }
    }

    fn down(&mut self, id: PeerId, restart: Option<Duration>) {
        self.outbound.leave(id);
        self.sync.down(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let session = peer.session.take();
        let keep = session.as_ref().and_then(|session| session.negotiated.graceful_restart.as_ref());
        match (restart, keep) {
            // Until the node comes back, what still runs on it sends where it did (`drain`).
            _ if self.stage == Stage::Closed => {
                peer.kept = true;
                self.restarts.over(id);
                self.rib.peer_restarts(id, PerFamily::new(true, true));
            }
            (Some(time), Some(keep)) => {
                self.restarts.begin(id, Instant::now().into_std(), time);
                let families = PerFamily::from_fn(|family| keep.families.iter().any(|(f, _)| *f == family));
                self.rib.peer_restarts(id, families);
                tracing::info!(peer = peer.name, ?time, "peer restarts, its routes are kept");
            }
            _ => self.gone(id),
        }
    }

    /// Nothing of the peer is used any more: first the few objects, then the table, however large.
    fn gone(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get(&id) {
            self.returning.retain(|source| *source != peer.source);
            self.forwarder.source_down(peer.source);
            self.write_nexthops();
        }
        self.look_for_rivals |= self.has_rivals(id);
        self.rib.peer_down(id);
        self.restarts.over(id);
    }

    /// The peer has sent all again: its time limit is over once nothing is stale.
    fn restarted(&mut self, id: PeerId) {
        if self.rib.counters(id).is_none_or(|counters| counters.stale == 0) {
            self.restarts.over(id);
        }
    }

    /// Routes of peers that did not come back in time go (RFC 4724 §4.2).
    fn expire_restarts(&mut self) {
        while let Some((id, expired)) = self.restarts.expired(Instant::now().into_std()) {
            let gone = match expired {
                Expired::Stale => Family::ALL.into_iter().map(|family| self.rib.sweep_stale(id, family)).sum(),
                Expired::Older => self.rib.sweep_older(id),
            };
            if gone > 0 {
                let name = self.peers.get(&id).map_or("?", |peer| &peer.name);
                tracing::warn!(peer = name, gone, "peer did not send these again in time, removed");
                let what = format!("{gone} routes removed that were kept while it restarted");
                let note = Note::new(EventKind::Session, name, what);
                self.news.journal().note(note.because("it did not announce them again in time"));
            }
        }
    }

    fn reload(&mut self, config: Arc<Config>) {
        self.unoriginate(&config);
        let former = std::mem::replace(&mut self.config, config);
        let (old, new) = (&former.bgp, &self.config.bgp);
        let multipath = old.multipath != new.multipath;
        let node = settings::policy_node(&self.config, &self.identity, Arc::clone(&self.node.addresses));
        // All that policies are made of, besides a peer's own settings.
        let policies =
            old.policies != new.policies || old.graceful_shutdown != new.graceful_shutdown || node != self.node;
        if policies {
            self.node = node;
        }
        self.forwarder.configure(settings::forwarding(&self.config, self.tunnel, self.objects));
        self.originate();
        if multipath {
            self.rib.touch_all();
        }
        if policies {
            self.renew(&self.peers.keys().copied().collect::<Vec<_>>());
        }
    }

    /// Policies of established peers anew, in both directions.
    fn renew(&mut self, peers: &[PeerId]) {
        if peers.is_empty() {
            return;
        }
        for id in peers {
            let Some(peer) = self.peers.get(id) else { continue };
            let Some(session) = &peer.session else { continue };
            let (node, negotiated) = (&self.node, &session.negotiated);
            let info = settings::peer_info(&self.config, node, *id, peer.address, &peer.config, negotiated);
            self.rib.peer_up(info);
        }
        self.export_anew(peers);
    }

    /// Export settings of all peers anew: the tunnel or an address came or went.
    fn regroup(&mut self) {
        self.export_anew(&self.peers.keys().copied().collect::<Vec<_>>());
    }

    fn export_anew(&mut self, peers: &[PeerId]) {
        // Groups must have been told of all changes before their members change groups.
        self.decide_all();
        let exports = peers.iter().filter_map(|id| {
            let session = self.peers.get(id)?.session.as_ref()?;
            Some((*id, self.export_settings(*id, &session.negotiated, session.local)?))
        });
        let exports = exports.collect();
        self.outbound.change(exports, &self.rib);
    }

    /// Our own subnets and announcements into the RIB.
    fn originate(&mut self) {
        // A node that ends tunnels says so on all that it announces (RFC 9012 §4.1).
        let ends_ipip: Box<[ExtCommunity]> = self.tunnel.map(|_| ExtCommunity::ENCAP_IPIP).into_iter().collect();
        // Whoever it is exported to gets our address on that session as next hop.
        let own = |prefix: Prefix| Attrs {
            ext_communities: ends_ipip.clone(),
            ..Attrs::originate(Prefix::default_route(prefix.family()).addr())
        };
        for subnet in self.node.subnets.iter() {
            self.rib.originate(*subnet, own(*subnet));
        }
        for announce in &self.config.bgp.announce {
            let attrs = Attrs {
                communities: announce.communities.clone().into(),
                large_communities: announce.large_communities.clone().into(),
                med: announce.med,
                ..own(announce.prefix)
            };
            self.rib.originate(announce.prefix, attrs);
        }
    }

    /// Takes back what a new configuration no longer announces.
    fn unoriginate(&mut self, new: &Config) {
        let subnets = new.network.subnets.as_deref().unwrap_or_default();
        let stays = |prefix: &Prefix| subnets.contains(prefix) || new.bgp.announce.iter().any(|a| a.prefix == *prefix);
        let former = self.node.subnets.iter().copied().chain(self.config.bgp.announce.iter().map(|a| a.prefix));
        for prefix in former.collect::<Vec<_>>() {
            if !stays(&prefix) {
                self.rib.unoriginate(&prefix);
            }
        }
    }

    /// Everything that follows from what was taken in.
    fn settle(&mut self) {
        self.expire_restarts();
        // What failed is replaced before anything is decided anew.
        self.write_nexthops();
        self.decide(DECISIONS);
        self.write_nexthops();
        self.forget_next_hops();
        let now = Instant::now();
        if self.ends.dump.is_none() && self.comparison.due(self.forwarder.needs_resync()) <= now {
            self.start_resync();
        }
        if self.forwarder.queued() == 0 {
            // It led to no write, or was handed over.
            self.oldest = None;
        }
        self.tell_of_missing_tunnel();
        self.tell_of_telling();
        self.tell_of_rivals();
        self.tell_of_duels(now);
        self.tell_of_tunnel_ends(now);
        self.tell_of_routes(now);
        if self.stage == Stage::Closed {
            // Nothing is heard of peers: neither is anything complete, nor has anything gone.
            return;
        }
        let written = self.rib.is_settled() && (self.ends.ops.is_none() || self.forwarder.is_written());
        let reached = self.sync.advance(now.into_std(), written);
        if reached.ready {
            tracing::info!(outcome = self.sync.reason(now.into_std()), "first synchronisation is over");
            self.publish();
            self.outbound.release();
            for peer in self.peers.values() {
                // One that misses this says a little longer that it restarted, which harms nobody.
                let _ = peer.commands.try_send(Command::Restarted);
            }
        }
        if reached.sweep {
            self.forwarder.start_complete();
            self.flush_other_settings();
        }
    }

    /// Decides for about `most` of the prefixes that wait, if anything is to be decided yet.
    fn decide(&mut self, most: usize) {
        if !self.is_deferred() {
            self.decide_now(most);
        }
    }

    /// RFC 4724 §4.1: while we restart, peers go on as before. From a part of what is to come we would
    /// choose, and tell them, detours that nobody takes, and some of them would lead in circles.
    fn is_deferred(&self) -> bool {
        self.adopted && !self.sync.is_ready() && !self.sync.is_settled(Instant::now().into_std())
    }

    /// Passes on what changed by the decision; again, where that leads to next hops of others.
    fn decide_now(&mut self, most: usize) {
        let mut left = most;
        for _ in 0..ROUNDS {
            let moved = self.forwarder.settle();
            if !moved.is_empty() {
                self.rib.next_hops_changed(&moved);
            }
            if self.rib.is_settled() {
                if self.returning.is_empty() {
                    return;
                }
                // Nothing is left of what these sent before they went: what they sent since counts.
                for source in self.returning.drain(..) {
                    self.forwarder.source_up(source);
                }
                continue;
            }
            let selection = self.selection();
            let mut changes = std::mem::take(&mut self.changes);
            while !self.rib.is_settled() && left > 0 {
                left = left.saturating_sub(PORTION);
                let forwarder = RefCell::new(&mut self.forwarder);
                let metric =
                    |prefix: &Prefix, attrs: &Attrs| forwarder.borrow_mut().next_hop_for(*prefix, next_hop(attrs));
                self.rib.decide(&metric, selection, PORTION, &mut changes);
                self.outbound.export(&changes);
                if !changes.is_empty() {
                    self.seen.rib = Some(SystemTime::now());
                }
                if self.ends.ops.is_some() {
                    for change in &changes {
                        let before = self.ways_before(change.prefix);
                        self.forward(change);
                        self.learned.note(change.prefix, &self.config.network.pools);
                        self.route_changed(change, before.as_deref());
                    }
                }
                changes.clear();
                self.feed_writer();
            }
            self.changes = changes;
            if left == 0 && !self.rib.is_settled() {
                return;
            }
        }
        tracing::warn!(
            rounds = ROUNDS,
            "routes and the next hops they lead to don't settle, going on at the next event"
        );
    }

    /// The same for all that wait.
    fn decide_all(&mut self) {
        self.decide(usize::MAX);
    }

    /// What to choose for each prefix.
    fn selection(&self) -> Selection {
        Selection { multipath: usize::from(self.config.bgp.multipath), backups: self.objects }
    }

    /// Next hops that no path has any more are no longer followed. Looked for only when their
    /// number has doubled, as it means a walk over all sets of attributes.
    fn forget_next_hops(&mut self) {
        if self.forwarder.stats().next_hops < self.next_hops_limit {
            return;
        }
        let mut used: HashSet<NextHop, ahash::RandomState> = HashSet::default();
        used.extend(self.rib.attribute_sets().map(next_hop));
        self.forwarder.forget_next_hops(|hop| used.contains(hop));
        self.next_hops_limit = NEXT_HOPS.max(2 * self.forwarder.stats().next_hops);
    }

    fn forward(&mut self, change: &Change) {
        match &change.now {
            None => self.forwarder.remove_route(change.prefix),
            Some(best) if best.source.peer == PeerId::LOCAL => {
                if self.node.subnets.contains(&change.prefix) {
                    // What no container has must not follow the default route back to the router.
                    self.forwarder.set_blackhole(change.prefix);
                } else {
                    self.forwarder.remove_route(change.prefix);
                }
            }
            Some(_) => {
                let ways =
                    |chosen: &[Chosen]| -> SmallVec<[Way; 4]> { chosen.iter().map(|one| self.way(one)).collect() };
                let (best, backup) = (ways(&change.hops), ways(&change.backup));
                self.forwarder.set_route(change.prefix, &best, &backup);
            }
        }
    }

    /// The forwarder's view of a path.
    fn way(&self, chosen: &Chosen) -> Way {
        let source = self.peers.get(&chosen.peer).map_or(0, |peer| peer.source);
        Way { next_hop: next_hop(&chosen.attrs), source }
    }
}

/// The forwarder's view of a path's next hop.
fn next_hop(attrs: &Attrs) -> NextHop {
    NextHop::new(attrs.next_hop).ending_tunnel(attrs.ends_ipip())
}
