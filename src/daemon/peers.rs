//! Owns the peers: one task for each, started, changed and ended as the file says; hands accepted
//! connections to the peer they are for.
//!
//! A peer that the file gives as a prefix is a *range*: each address of it that connects gets a
//! task of its own, which goes away again when it has been down for a while.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{Instrument, info_span};

use crate::bgp::message::{Codec, Message, Notification};
use crate::bgp::rib::PeerId;
use crate::bgp::session::State;
use crate::bgp::wire::{self, Cease};
use crate::config::{Config, Peer, PeerAddress};
use crate::daemon::bfd::{Bfd, Running, Watched};
use crate::daemon::identity::Identity;
use crate::daemon::journal::{Journal, Named};
use crate::daemon::peer::{Command, PeerTask, Profile, Status, Told};
use crate::daemon::routing::{Input, NewPeer};
use crate::daemon::settings;
use crate::io::tcp::{self, Listener, StreamOptions};
use crate::metrics::{Metrics, PeerMetrics};
use crate::net::{PerFamily, Prefix};

/// Commands that may wait for a peer task.
const COMMANDS: usize = 16;
/// Peers that one range may have at a time; more are refused and logged.
const RANGE_LIMIT: usize = 1024;
/// How long a connection from an unknown address is kept where nodes of a store may call.
const EARLY: Duration = Duration::from_secs(3);
/// How many of these are kept.
const EARLY_LIMIT: usize = 1024;
/// How long a peer of a range may be down before it is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(300);
/// How often that is looked at.
const FORGET_EVERY: Duration = Duration::from_secs(30);
/// How long peers may take to say goodbye when the daemon exits.
const GOODBYE: Duration = Duration::from_secs(3);

/// What the task is asked.
pub enum Request {
    /// All peers as they are now
    List(oneshot::Sender<Vec<Listed>>),
    /// A new configuration is in force
    Reload(Arc<Config>),
    /// The node is drained: end the sessions with this word, and have no others
    Shut {
        /// Who calls is told the same
        farewell: Notification,
        /// Answered when they have ended
        done: oneshot::Sender<()>,
    },
    /// It is drained no more
    Open,
    /// The daemon exits: end the sessions without a word, or with a NOTIFICATION where the peer is
    /// not to keep our routes
    Exit {
        /// The node is drained: no peer is to keep our routes
        leaves: bool,
        /// Answered when all tasks are done
        done: oneshot::Sender<()>,
    },
}

/// One peer as others see it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Handle in the RIB
    pub id: PeerId,
    /// Name in the file; peers of a range have their address
    pub name: String,
    /// Its address
    pub address: IpAddr,
    /// Its settings
    pub config: Arc<Peer>,
    /// Its session
    pub status: Status,
    /// Messages so far: kind, received, sent
    pub messages: Vec<(&'static str, u64, u64)>,
    /// Whether it belongs to a range
    pub dynamic: bool,
    /// Its BFD session
    pub bfd: Option<Running>,
}

struct Handle {
    id: PeerId,
    name: String,
    config: Arc<Peer>,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    metrics: PeerMetrics,
    dynamic: bool,
    bfd: Option<Running>,
    journal: Named,
    task: JoinHandle<()>,
}

/// The task's state.
pub struct Peers {
    config: Arc<Config>,
    identity: Identity,
    known: BTreeMap<IpAddr, Handle>,
    ranges: Vec<(Prefix, Arc<Peer>)>,
    listeners: Vec<Arc<Listener>>,
    routing: mpsc::Sender<Input>,
    metrics: Arc<Metrics>,
    journal: Journal,
    bfd: Bfd,
    next_id: u32,
    preserved: PerFamily<bool>,
    /// The node is drained: there are to be no sessions
    farewell: Option<Notification>,
    /// Connections of nodes that have heard of us before we have heard of them, oldest first
    early: VecDeque<Early>,
}

/// A connection from an address that may become a peer soon.
struct Early {
    at: Instant,
    remote: SocketAddr,
    stream: TcpStream,
}

impl Peers {
    /// Starts listening; peers start with [`run`](Self::run). `preserved`: in which families
    /// our forwarding state outlived the former run (RFC 4724 §4.1), as peers are told until the
    /// routing task says otherwise. `farewell`: the node is drained.
    #[expect(clippy::too_many_arguments, reason = "each is the way to another owner")]
    pub fn new(
        config: Arc<Config>,
        identity: Identity,
        routing: mpsc::Sender<Input>,
        metrics: Arc<Metrics>,
        journal: Journal,
        bfd: Bfd,
        preserved: PerFamily<bool>,
        farewell: Option<Notification>,
    ) -> std::io::Result<Self> {
        let mut listeners = Vec::new();
        for addr in &config.bgp.listen {
            let keys = config
                .bgp
                .peers
                .iter()
                .filter_map(|peer| Some((peer.address.prefix(), peer.password.as_ref()?.expose())));
            let listener = Listener::bind(*addr, keys)
                .map_err(|error| std::io::Error::new(error.kind(), format!("bgp.listen {addr}: {error}")))?;
            listeners.push(Arc::new(listener));
        }
        Ok(Self {
            config,
            identity,
            known: BTreeMap::new(),
            ranges: Vec::new(),
            listeners,
            routing,
            metrics,
            journal,
            bfd,
            next_id: 0,
            preserved,
            farewell,
            early: VecDeque::new(),
        })
    }

    /// Runs until [`Request::Exit`].
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let (accepted, mut connections) = mpsc::channel(64);
        for listener in &self.listeners {
            tokio::spawn(accept(Arc::clone(listener), accepted.clone()));
        }
        for peer in self.config.bgp.peers.clone() {
            self.add(Arc::new(peer)).await;
        }
        // If the routing task is gone, the daemon is about to end.
        let _ = self.routing.send(Input::Gathered).await;
        let mut forget = tokio::time::interval(FORGET_EVERY);
        loop {
            tokio::select! {
                Some((stream, remote)) = connections.recv() => self.accepted(stream, remote).await,
                // A drained node's peers are idle by its own wish.
                _ = forget.tick(), if self.farewell.is_none() => self.forget_idle().await,
                request = requests.recv() => match request {
                    Some(Request::List(answer)) => {
                        // Whoever asked may have gone.
                        let _ = answer.send(self.list());
                    }
                    Some(Request::Reload(config)) => self.reload(config).await,
                    Some(Request::Shut { farewell, done }) => {
                        self.shut(farewell).await;
                        let _ = done.send(());
                    }
                    Some(Request::Open) => {
                        self.open().await;
                        // Who was kept away gets its time to call.
                        forget.reset();
                    }
                    Some(Request::Exit { leaves, done }) => {
                        self.exit(leaves).await;
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
            }
        }
    }

    fn list(&self) -> Vec<Listed> {
        let listed = |(address, handle): (&IpAddr, &Handle)| Listed {
            id: handle.id,
            name: handle.name.clone(),
            address: *address,
            config: Arc::clone(&handle.config),
            status: handle.status.borrow().clone(),
            messages: handle.metrics.messages().map(|(kind, received, sent)| (kind.label(), received, sent)).collect(),
            dynamic: handle.dynamic,
            bfd: handle.bfd.clone(),
        };
        self.known.iter().map(listed).collect()
    }

    async fn add(&mut self, peer: Arc<Peer>) {
        match peer.address {
            PeerAddress::One(address) => self.start(address, peer, false).await,
            PeerAddress::Range(prefix) => {
                self.ranges.push((prefix, peer));
                // The most specific range first: it is the one that fits.
                self.ranges.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
            }
        }
    }

    async fn start(&mut self, address: IpAddr, peer: Arc<Peer>, dynamic: bool) {
        let id = PeerId(self.next_id);
        self.next_id += 1;
        let name = if dynamic { address.to_string() } else { peer.name.clone() };
        let profile = self.profile(address, &peer, id);
        let (commands, queue) = mpsc::channel(COMMANDS);
        let (publish, status) = watch::channel(Status::default());
        let metrics = self.metrics.peer(peer.metrics_label());
        if let Some(farewell) = &self.farewell {
            // The first that it hears, before it has dialled.
            let _ = commands.try_send(Command::Shut(farewell.clone()));
        }
        let new =
            NewPeer { id, name: name.clone(), address, config: Arc::clone(&peer), commands: commands.clone(), dynamic };
        if self.routing.send(Input::Add(Box::new(new))).await.is_err() {
            return;
        }
        if let Some(at) = self.early.iter().position(|early| early.remote.ip().to_canonical() == address)
            && let Some(early) = self.early.remove(at)
        {
            // A new task's queue has room.
            let _ = commands.try_send(Command::Accepted(early.stream));
        }
        let journal = self.journal.of(&name);
        let told = Told { status: publish, metrics: metrics.clone(), journal: journal.clone() };
        let task = PeerTask::new(id, profile, Some(self.preserved), queue, self.routing.clone(), told);
        let mut bfd = None;
        let wanted = settings::bfd(&self.identity, &peer, address, self.farewell.is_some());
        let watched = Watched { address, name: peer.metrics_label(), commands: &commands, journal: &journal };
        self.bfd.bring(&watched, wanted, &mut bfd).instrument(info_span!("peer", name)).await;
        let restarts = self.farewell.is_none() && self.preserved.iter().any(|(_, preserved)| *preserved);
        let first = bfd.clone().filter(|_| restarts).map(Running::answered);
        let run = async {
            if let Some(first) = first {
                first.await;
            }
            task.run().await;
        };
        let task = tokio::spawn(run.instrument(info_span!("peer", name)));
        let handle = Handle { id, name, config: peer, commands, status, metrics, dynamic, bfd, journal, task };
        self.known.insert(address, handle);
    }

    /// Brings a peer's BFD session to what its settings say, or to its end.
    async fn watch(&mut self, address: IpAddr, configured: bool) {
        let Some(handle) = self.known.get_mut(&address) else { return };
        let wanted =
            settings::bfd(&self.identity, &handle.config, address, self.farewell.is_some()).filter(|_| configured);
        let Handle { name, config, commands, journal, bfd, .. } = handle;
        let peer = Watched { address, name: config.metrics_label(), commands, journal };
        let span = info_span!("peer", name);
        self.bfd.bring(&peer, wanted, bfd).instrument(span).await;
    }

    fn profile(&self, address: IpAddr, peer: &Peer, id: PeerId) -> Profile {
        settings::profile(&self.identity, peer, address, id)
    }

    async fn accepted(&mut self, stream: TcpStream, remote: SocketAddr) {
        let address = remote.ip().to_canonical();
        if let Some(farewell) = &self.farewell {
            let known = self.known.get(&address).map(|handle| &handle.config);
            let in_range = || self.ranges.iter().find(|(prefix, _)| prefix.contains(address)).map(|(_, peer)| peer);
            if let Some(peer) = known.or_else(in_range) {
                let options = self.profile(address, peer, PeerId::LOCAL).stream;
                tokio::spawn(refuse(stream, options, farewell.clone()));
            }
            return;
        }
        if !self.known.contains_key(&address) {
            let range = self.ranges.iter().find(|(prefix, _)| prefix.contains(address));
            let Some((prefix, peer)) = range else {
                if self.config.bgp.mesh {
                    self.early.push_back(Early { at: Instant::now(), remote, stream });
                    self.forget_early();
                } else {
                    tracing::info!(%remote, "connection from an address that is no peer, closed");
                }
                return;
            };
            let taken = self.known.keys().filter(|known| prefix.contains(**known)).count();
            if taken >= RANGE_LIMIT {
                tracing::warn!(%remote, range = %prefix, limit = RANGE_LIMIT, "connection refused, range is full");
                return;
            }
            let peer = Arc::clone(peer);
            self.start(address, peer, true).await;
        }
        if let Some(handle) = self.known.get(&address)
            && handle.commands.try_send(Command::Accepted(stream)).is_err()
        {
            tracing::debug!(%remote, "connection dropped, the peer's task is busy");
        }
    }

    /// Addresses of a range that have a task.
    fn members(&self, range: Prefix) -> Vec<IpAddr> {
        let of_range = |(address, handle): &(&IpAddr, &Handle)| handle.dynamic && range.contains(**address);
        self.known.iter().filter(of_range).map(|(address, _)| *address).collect()
    }

    /// Who called before the store told us of it needn't call again.
    fn forget_early(&mut self) {
        let now = Instant::now();
        while self.early.len() > EARLY_LIMIT || self.early.front().is_some_and(|early| now - early.at > EARLY) {
            if let Some(early) = self.early.pop_front() {
                tracing::info!(remote = %early.remote, "connection from an address that is no peer, closed");
            }
        }
    }

    async fn forget_idle(&mut self) {
        self.forget_early();
        let idle = |handle: &Handle| {
            let status = handle.status.borrow();
            let down = SystemTime::now().duration_since(status.since).unwrap_or_default();
            handle.dynamic && status.state != State::Established && down > FORGET_AFTER
        };
        let gone: Vec<IpAddr> =
            self.known.iter().filter(|(_, handle)| idle(handle)).map(|(address, _)| *address).collect();
        self.end(&gone).await;
    }

    /// Ends peers and their routes.
    async fn end(&mut self, addresses: &[IpAddr]) {
        let mut gone = Vec::with_capacity(addresses.len());
        for address in addresses {
            self.watch(*address, false).await;
            let Some(handle) = self.known.remove(address) else { continue };
            if handle.commands.try_send(Command::Stop(Notification::cease(Cease::Deconfigured))).is_err() {
                handle.task.abort();
            }
            gone.push((handle.id, handle.task));
        }
        // All have the same time to say goodbye.
        let deadline = tokio::time::Instant::now() + GOODBYE;
        for (id, mut task) in gone {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
            }
            let _ = self.routing.send(Input::Remove { peer: id }).await;
        }
    }

    /// Follows a new configuration; what is as it was is not touched.
    async fn reload(&mut self, new: Arc<Config>) {
        let old = std::mem::replace(&mut self.config, Arc::clone(&new));
        let (before, after) = (by_prefix(&old), by_prefix(&new));
        let mut ended = Vec::new();
        for (range, former) in &before {
            if after.get(range).is_some_and(|peer| is_same(former, peer)) {
                continue;
            }
            if former.password.is_some() {
                self.set_key(*range, None);
            }
            if !former.mesh {
                self.metrics.forget_peer(&former.name);
            }
            match former.address {
                PeerAddress::One(address) => ended.push(address),
                PeerAddress::Range(range) => {
                    self.ranges.retain(|(known, _)| *known != range);
                    ended.extend(self.members(range));
                }
            }
        }
        // Who called as one of a range, and is a peer of its own now.
        let alone = |peer: &Peer| match peer.address {
            PeerAddress::One(address) => {
                self.known.get(&address).is_some_and(|handle| handle.dynamic).then_some(address)
            }
            PeerAddress::Range(_) => None,
        };
        ended.extend(after.values().filter_map(|peer| alone(peer)));
        self.end(&ended).await;
        let mut changed = Vec::new();
        for peer in &new.bgp.peers {
            let prefix = peer.address.prefix();
            let former = before.get(&prefix).filter(|former| is_same(former, peer));
            if former.is_some_and(|former| *former == peer) {
                continue;
            }
            let key = |peer: &Peer| peer.password.as_ref().map(|password| password.expose().to_vec());
            let former_key = former.and_then(|former| key(former));
            if former_key != key(peer) {
                self.set_key(prefix, key(peer).as_deref());
            }
            let addresses = match peer.address {
                _ if former.is_none() => Vec::new(),
                PeerAddress::One(address) => vec![address],
                PeerAddress::Range(range) => {
                    self.ranges.retain(|(known, _)| *known != range);
                    self.members(range)
                }
            };
            let peer = Arc::new(peer.clone());
            for address in addresses {
                changed.extend(self.configure(address, &peer).await);
            }
            if former.is_none() || peer.address != PeerAddress::One(prefix.addr()) {
                self.add(peer).await;
            }
        }
        if !changed.is_empty() {
            let _ = self.routing.send(Input::Configure { peers: changed }).await;
        }
    }

    /// Gives a running peer its new settings; what the routing task is to be told.
    async fn configure(&mut self, address: IpAddr, peer: &Arc<Peer>) -> Option<(PeerId, Arc<Peer>)> {
        let handle = self.known.get_mut(&address)?;
        let id = handle.id;
        let former = std::mem::replace(&mut handle.config, Arc::clone(peer));
        // The task has nothing to do with routes; told all the same, it would dial at once.
        if !differs_in_routes_alone(&former, peer) {
            let profile = settings::profile(&self.identity, peer, address, id);
            let _ = handle.commands.send(Command::Configure(Box::new(profile))).await;
            self.watch(address, true).await;
        }
        Some((id, Arc::clone(peer)))
    }

    /// Ends all sessions; new ones are refused until [`open`](Self::open).
    async fn shut(&mut self, farewell: Notification) {
        for handle in self.known.values() {
            let _ = handle.commands.send(Command::Shut(farewell.clone())).await;
        }
        self.farewell = Some(farewell);
        let closed = async {
            for handle in self.known.values_mut() {
                let _ = handle.status.wait_for(|status| status.state == State::Idle).await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE, closed).await;
        // Last: BIRD and FRR end a BGP session that still stands at an AdminDown.
        self.watch_all().await;
    }

    async fn open(&mut self) {
        if self.farewell.take().is_some() {
            self.watch_all().await;
            for handle in self.known.values() {
                let _ = handle.commands.send(Command::Open).await;
            }
        }
    }

    async fn watch_all(&mut self) {
        for address in self.known.keys().copied().collect::<Vec<_>>() {
            self.watch(address, true).await;
        }
    }

    fn set_key(&self, peers: Prefix, key: Option<&[u8]>) {
        for listener in &self.listeners {
            if let Err(error) = listener.set_key(peers, key) {
                tracing::error!(%peers, %error, "password can't be set on the listening socket");
            }
        }
    }

    async fn exit(self, leaves: bool) {
        let mut tasks = Vec::new();
        for handle in self.known.into_values() {
            let farewell = if leaves || handle.config.graceful_restart.is_zero() {
                // Cease/2: administrative shutdown, with words (RFC 9003).
                Command::Stop(Notification::shutdown("wayleave stops"))
            } else {
                Command::Abandon
            };
            let _ = handle.commands.try_send(farewell);
            tasks.push(handle.task);
        }
        let all = async {
            for task in tasks {
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE, all).await;
        // Last: nobody shall take the silence of BFD for a dead path (RFC 5882 §3.2).
        let _ = tokio::time::timeout(GOODBYE, self.bfd.leave()).await;
    }
}

/// Peers by where they are; no two are at one place.
fn by_prefix(config: &Config) -> BTreeMap<Prefix, &Peer> {
    config.bgp.peers.iter().map(|peer| (peer.address.prefix(), peer)).collect()
}

/// Whether an entry is for the same peer as another of its address, perhaps with other settings.
fn is_same(former: &Peer, now: &Peer) -> bool {
    (former.address, &former.name, former.mesh) == (now.address, &now.name, now.mesh)
}

/// Whether sessions are as they were.
fn differs_in_routes_alone(former: &Peer, now: &Peer) -> bool {
    let routes = Peer {
        route_reflector_client: now.route_reflector_client,
        import: now.import.clone(),
        export: now.export.clone(),
        max_prefixes: now.max_prefixes,
        next_hop_self: now.next_hop_self,
        allow_own_as: now.allow_own_as,
        ..former.clone()
    };
    routes == *now
}

/// Tells a peer that calls why there is no session. Cease/2 again rather than Cease/5 (RFC 4486 §4):
/// what it shows to its operator is the last it heard.
async fn refuse(mut stream: TcpStream, options: StreamOptions, farewell: Notification) {
    let mut bytes = Vec::new();
    wire::encode(&Message::Notification(farewell), &Codec::INITIAL, &mut bytes);
    let talk = async {
        tcp::prepare_accepted(&stream, options).map_err(std::io::Error::other)?;
        stream.write_all(&bytes).await?;
        stream.shutdown().await?;
        // Its OPEN, left unread, would turn the end into a reset that may overtake our words.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(GOODBYE, talk).await;
}

/// Accepts for ever. An error such as too many open files passes: it is logged and tried again.
async fn accept(listener: Arc<Listener>, accepted: mpsc::Sender<(TcpStream, SocketAddr)>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                if accepted.send(connection).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed, trying again");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
