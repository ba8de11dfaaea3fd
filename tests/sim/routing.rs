//! RIB, groups and forwarder joined as `daemon::routing` joins them. Every call of the simulation
//! into [`Rib`] and [`Forwarder`] is in this file.

mod writing;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wayleave::bgp::attrs::{Attrs, ExtCommunity};
use wayleave::bgp::message::{RefreshKind, RouteRefresh, Update};
use wayleave::bgp::policy::{self, Export, ExportScope, Import, ImportScope};
use wayleave::bgp::restarts::{Expired, Restarts};
use wayleave::bgp::rib::{Change, Chosen, ExportSettings, PeerId, PeerInfo, Rib, Selection};
use wayleave::bgp::session::Negotiated;
use wayleave::bgp::sync::Sync;
use wayleave::forward::{self, Batch, Dump, Forwarder, NextHop, NexthopOp, Way, source_of};
use wayleave::net::{Family, PerFamily, Prefix};

use super::kernel::{METRIC, PROTOCOL, TABLE};
use super::node::{Config, PeerConfig, Stage};
use super::outbound::Outbound;
use super::tcp::Routes;

/// The limits of `daemon::routing`; those of one turn are small, so that there are several.
const ROUNDS: usize = 32;
const DECISIONS: usize = 16;
const PORTION: usize = 4;
const BATCHES: usize = 4;
const WRITES: usize = 64;
const RESYNC_EVERY: Duration = Duration::from_secs(300);
const RESYNC_PAUSE: Duration = Duration::from_millis(500);
const RETURN_LIMIT: Duration = Duration::from_secs(30);

/// What the routing task is told.
pub enum Input {
    Add(PeerId, PeerConfig),
    Gathered,
    Remove(PeerId),
    Attempted(PeerId),
    Up { peer: PeerId, negotiated: Arc<Negotiated>, local: IpAddr, routes: Routes },
    Update(PeerId, Update),
    Refresh(PeerId, RouteRefresh),
    Down(PeerId, Option<Duration>),
    Reload(Config),
    Drain(Stage),
}

/// What it asks for.
#[derive(Debug, Eq, PartialEq)]
pub enum Order {
    /// Sessions need no longer say that we have restarted
    Restarted,
    /// A dump of the kernel
    Dump,
}

struct Peer {
    config: PeerConfig,
    source: u32,
    session: Option<(Arc<Negotiated>, IpAddr)>,
    /// Its routes were kept because we left
    kept: bool,
}

/// What the task could do next, each as good as the others.
#[derive(Clone, Copy, Debug)]
pub enum Branch {
    Input,
    Write,
    Answer,
    Heard,
    Dumped,
    Room,
    Undecided,
    Deadline,
}

pub struct Routing {
    config: Config,
    node: Arc<policy::Node>,
    rib: Rib,
    forwarder: Forwarder,
    outbound: Outbound,
    peers: BTreeMap<PeerId, Peer>,
    restarts: Restarts,
    sync: Sync,
    adopted: bool,
    preserved: PerFamily<bool>,
    stage: Stage,
    /// Peers that are back, while what they sent before is still in the table
    returning: Vec<u32>,
    compared: Instant,
    /// Events were lost
    asked: bool,
    dumping: bool,
    /// For the writer, which has so many already
    pub lists: Vec<Vec<NexthopOp>>,
    lists_there: usize,
    pub batch: Option<Batch>,
    batches_there: usize,
}

impl Routing {
    /// Takes over what a former run left in the kernel, which runs for `uptime`.
    pub fn start(config: &Config, dump: Dump, now: Instant, uptime: Duration) -> Self {
        let adopted = !dump.own.is_empty();
        let preserved = preserved(config, &dump, uptime);
        let addresses = dump.addresses.iter().map(|address| address.addr).collect();
        let mut forwarder = Forwarder::new(forwarding(config));
        forwarder.adopt(dump);
        let mut routing = Self {
            node: policy_node(config, addresses),
            config: config.clone(),
            rib: Rib::new(),
            forwarder,
            outbound: Outbound::default(),
            peers: BTreeMap::new(),
            restarts: Restarts::default(),
            sync: Sync::new(now),
            adopted,
            preserved,
            stage: Stage::Present,
            returning: Vec::new(),
            compared: now,
            asked: false,
            dumping: false,
            lists: Vec::new(),
            lists_there: 0,
            batch: None,
            batches_there: 0,
        };
        if preserved.iter().any(|(_, kept)| *kept) {
            routing.outbound.hold();
        }
        routing.originate();
        routing.decide_now(usize::MAX);
        routing
    }

    /// In which families forwarding has outlived the former run.
    pub fn preserved(&self) -> PerFamily<bool> {
        self.preserved
    }

    /// What could be done now.
    pub fn ready(&self, now: Instant, [inputs, answers, heard, dumped, due]: [bool; 5]) -> Vec<Branch> {
        let all = [
            (inputs, Branch::Input),
            (self.batches_there < BATCHES && self.may_write(now), Branch::Write),
            (answers, Branch::Answer),
            (heard, Branch::Heard),
            (dumped, Branch::Dumped),
            (self.outbound.can_catch_up(), Branch::Room),
            (!self.rib.is_settled() && !self.is_deferred(now), Branch::Undecided),
            (due, Branch::Deadline),
        ];
        all.into_iter().filter(|(ready, _)| *ready).map(|(_, branch)| branch).collect()
    }

    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let sync = self.sync.next_deadline(now);
        let resync = (!self.dumping).then(|| self.resync_due());
        let retry = self.forwarder.next_retry().filter(|at| *at > now);
        [retry, sync, self.restarts.next(), resync].into_iter().flatten().min()
    }

    // ---- peers ----

    pub fn input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Add(id, config) => self.add(now, id, config),
            Input::Gathered => self.sync.gathered(),
            Input::Remove(id) => {
                self.down(now, id, None);
                self.gone(now, id);
                self.peers.remove(&id);
                self.sync.remove(id);
            }
            Input::Attempted(id) => self.sync.attempted(id),
            Input::Up { peer, negotiated, local, routes } => self.up(now, peer, negotiated, local, routes),
            Input::Update(id, update) => self.update(now, id, &update),
            Input::Refresh(id, refresh) => match refresh.kind {
                RefreshKind::Request => {
                    let session = self.peers.get(&id).and_then(|peer| peer.session.as_ref());
                    let bracketed = session.is_some_and(|(negotiated, _)| negotiated.enhanced_refresh);
                    self.outbound.refresh(id, refresh.family, bracketed);
                }
                RefreshKind::Begin => self.rib.mark_stale(id, refresh.family),
                RefreshKind::End => drop(self.rib.sweep_stale(id, refresh.family)),
            },
            Input::Down(id, restart) => self.down(now, id, restart),
            Input::Reload(config) => self.reload(now, config),
            Input::Drain(stage) => self.drain(now, stage),
        }
    }

    fn add(&mut self, now: Instant, id: PeerId, config: PeerConfig) {
        self.sync.add(id, now, false);
        let mut source = source_of(config.remote);
        while self.peers.values().any(|peer| peer.source == source) {
            source = source.wrapping_add(1);
        }
        self.peers.insert(id, Peer { config, source, session: None, kept: false });
    }

    fn up(&mut self, now: Instant, id: PeerId, negotiated: Arc<Negotiated>, local: IpAddr, routes: Routes) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let restart = negotiated.graceful_restart.as_ref();
        let restarted = restart.is_some_and(|restart| restart.restarted);
        self.sync.up(id, now, negotiated.families, restart.is_some(), restarted);
        let preserved = |family: Family| {
            restart.is_some_and(|restart| restart.families.iter().any(|(f, preserved)| *f == family && *preserved))
        };
        let (kept, source) = (std::mem::take(&mut peer.kept), peer.source);
        let lost: Vec<Family> = Family::ALL.into_iter().filter(|family| !kept && !preserved(*family)).collect();
        peer.session = Some((negotiated, local));
        let (Some(info), Some(export)) = (self.peer_info(id), self.export_settings(id)) else { return };
        self.rib.peer_up(info);
        for family in lost {
            self.rib.sweep_stale(id, family);
        }
        self.restarted(id);
        self.returning.push(source);
        self.outbound.join(id, export, routes);
    }

    fn update(&mut self, now: Instant, id: PeerId, update: &Update) {
        self.sync.heard(id, now);
        self.rib.update(id, update);
        if let Some(family) = update.end_of_rib {
            self.sync.end_of_rib(id, family);
            self.rib.sweep_stale(id, family);
            self.restarted(id);
        }
    }

    fn down(&mut self, now: Instant, id: PeerId, restart: Option<Duration>) {
        self.outbound.leave(id);
        self.sync.down(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let session = peer.session.take();
        match (restart, session.as_ref().and_then(|(negotiated, _)| negotiated.graceful_restart.as_ref())) {
            _ if self.stage == Stage::Closed => {
                peer.kept = true;
                self.restarts.over(id);
                self.rib.peer_restarts(id, PerFamily::new(true, true));
            }
            (Some(time), Some(keep)) => {
                self.restarts.begin(id, now, time);
                let families = PerFamily::from_fn(|family| keep.families.iter().any(|(f, _)| *f == family));
                self.rib.peer_restarts(id, families);
            }
            _ => self.gone(now, id),
        }
    }

    fn gone(&mut self, now: Instant, id: PeerId) {
        if let Some(peer) = self.peers.get(&id) {
            self.returning.retain(|source| *source != peer.source);
            self.forwarder.source_down(peer.source);
            self.write_nexthops(now);
        }
        self.rib.peer_down(id);
        self.restarts.over(id);
    }

    fn restarted(&mut self, id: PeerId) {
        if self.rib.counters(id).is_none_or(|counters| counters.stale == 0) {
            self.restarts.over(id);
        }
    }

    fn expire_restarts(&mut self, now: Instant) {
        while let Some((id, expired)) = self.restarts.expired(now) {
            match expired {
                Expired::Stale => Family::ALL.into_iter().map(|family| self.rib.sweep_stale(id, family)).sum(),
                Expired::Older => self.rib.sweep_older(id),
            };
        }
    }

    fn reload(&mut self, now: Instant, config: Config) {
        for subnet in &self.config.subnets {
            if !config.subnets.contains(subnet) {
                self.rib.unoriginate(subnet);
            }
        }
        // Whether there are objects is decided at start.
        self.config = Config { objects: self.config.objects, ..config };
        self.node = policy_node(&self.config, Arc::clone(&self.node.addresses));
        self.originate();
        self.renew_all(now);
    }

    fn renew_all(&mut self, now: Instant) {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            let (Some(info), Some(export)) = (self.peer_info(id), self.export_settings(id)) else { continue };
            self.rib.peer_up(info);
            self.decide(now, usize::MAX);
            self.outbound.change(id, export, &self.rib);
        }
    }

    /// Others see another stage of our leaving.
    fn drain(&mut self, now: Instant, stage: Stage) {
        let former = std::mem::replace(&mut self.stage, stage);
        self.decide(now, usize::MAX);
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            if let Some(export) = self.export_settings(id) {
                self.outbound.change(id, export, &self.rib);
            }
        }
        if former == Stage::Closed && stage == Stage::Present {
            self.sync = Sync::new(now);
            for id in self.peers.keys() {
                self.sync.add(*id, now, false);
                if self.rib.counters(*id).is_some_and(|counters| counters.stale > 0) {
                    self.restarts.begin(*id, now, RETURN_LIMIT);
                }
            }
            self.sync.gathered();
        }
    }

    fn originate(&mut self) {
        let ends_ipip: Box<[ExtCommunity]> =
            self.config.tunnel_device.map(|_| ExtCommunity::ENCAP_IPIP).into_iter().collect();
        for subnet in self.node.subnets.iter() {
            let next_hop = Prefix::default_route(subnet.family()).addr();
            self.rib.originate(*subnet, Attrs { ext_communities: ends_ipip.clone(), ..Attrs::originate(next_hop) });
        }
    }

    /// Of a peer that is up.
    fn peer_info(&self, id: PeerId) -> Option<PeerInfo> {
        let peer = self.peers.get(&id)?;
        let (negotiated, _) = peer.session.as_ref()?;
        Some(PeerInfo {
            id,
            asn: negotiated.peer_asn,
            external: negotiated.peer_asn != self.node.asn,
            router_id: negotiated.peer_router_id,
            address: peer.config.remote,
            client: peer.config.client,
            import: Arc::new(Import {
                scope: ImportScope::Pools,
                node: Arc::clone(&self.node),
                graceful_shutdown: true,
            }),
            allow_own_as: 0,
            max_prefixes: None,
        })
    }

    /// Of a peer that is up.
    fn export_settings(&self, id: PeerId) -> Option<ExportSettings> {
        let peer = self.peers.get(&id)?;
        let (negotiated, local) = peer.session.as_ref()?;
        let leaves = self.stage >= Stage::Withdrawn;
        let scope = if leaves { ExportScope::None } else { peer.config.export.clone() };
        Some(ExportSettings {
            external: negotiated.peer_asn != self.config.asn,
            client: peer.config.client,
            local_asn: self.config.asn,
            cluster_id: self.config.router_id,
            next_hop_self: false,
            ends_ipip: self.config.tunnel_device.is_some(),
            graceful_shutdown: self.stage == Stage::Signalled,
            next_hops: PerFamily::from_fn(|family| self.forwarder.address_beside(*local, family)),
            families: negotiated.families,
            export: Arc::new(Export { scope, pools: Arc::clone(&self.config.pools) }),
            codec: negotiated.codec,
        })
    }

    // ---- consequences ----

    /// Everything that follows from what was taken in.
    pub fn settle(&mut self, now: Instant) -> Vec<Order> {
        let mut orders = Vec::new();
        self.expire_restarts(now);
        self.write_nexthops(now);
        self.decide(now, DECISIONS);
        self.write_nexthops(now);
        if !self.dumping && self.resync_due() <= now {
            (self.compared, self.asked) = (now, false);
            self.forwarder.begin_resync();
            self.dumping = true;
            orders.push(Order::Dump);
        }
        if self.stage == Stage::Closed {
            return orders;
        }
        let reached = self.sync.advance(now, self.rib.is_settled() && self.forwarder.is_written());
        if reached.ready {
            self.outbound.release();
            orders.push(Order::Restarted);
        }
        if reached.sweep {
            self.forwarder.start_complete();
        }
        orders
    }

    pub fn catch_up(&mut self) {
        self.outbound.catch_up(&self.rib);
    }

    pub fn can_catch_up(&self) -> bool {
        self.outbound.can_catch_up()
    }

    fn decide(&mut self, now: Instant, most: usize) {
        if !self.is_deferred(now) {
            self.decide_now(most);
        }
    }

    fn is_deferred(&self, now: Instant) -> bool {
        self.adopted && !self.sync.is_ready() && !self.sync.is_settled(now)
    }

    fn decide_now(&mut self, most: usize) {
        let selection = Selection { multipath: self.config.multipath, backups: self.config.objects };
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
                self.returning.drain(..).for_each(|source| self.forwarder.source_up(source));
                continue;
            }
            while !self.rib.is_settled() && left > 0 {
                left = left.saturating_sub(PORTION);
                let mut changes = Vec::new();
                let forwarder = RefCell::new(&mut self.forwarder);
                let metric =
                    |prefix: &Prefix, attrs: &Attrs| forwarder.borrow_mut().next_hop_for(*prefix, next_hop(attrs));
                self.rib.decide(&metric, selection, PORTION, &mut changes);
                self.outbound.export(&changes);
                for change in &changes {
                    self.forward(change);
                }
            }
            if left == 0 && !self.rib.is_settled() {
                return;
            }
        }
        panic!("routes and next hops don't settle in {ROUNDS} rounds");
    }

    fn forward(&mut self, change: &Change) {
        match &change.now {
            Some(best) if best.source.peer != PeerId::LOCAL => {
                let (best, backup) = (self.ways(&change.hops), self.ways(&change.backup));
                self.forwarder.set_route(change.prefix, &best, &backup);
            }
            Some(_) if self.node.subnets.contains(&change.prefix) => self.forwarder.set_blackhole(change.prefix),
            _ => self.forwarder.remove_route(change.prefix),
        }
    }

    fn ways(&self, chosen: &[Chosen]) -> Vec<Way> {
        let source = |peer| self.peers.get(&peer).map_or(0, |peer| peer.source);
        chosen.iter().map(|one| Way { next_hop: next_hop(&one.attrs), source: source(one.peer) }).collect()
    }
}

fn next_hop(attrs: &Attrs) -> NextHop {
    NextHop::new(attrs.next_hop).ending_tunnel(attrs.ends_ipip())
}

fn policy_node(config: &Config, addresses: Arc<[IpAddr]>) -> Arc<policy::Node> {
    Arc::new(policy::Node {
        asn: config.asn,
        router_id: config.router_id,
        cluster_id: config.router_id,
        addresses,
        subnets: config.subnets.clone().into(),
        pools: Arc::clone(&config.pools),
    })
}

fn forwarding(config: &Config) -> forward::Settings {
    forward::Settings {
        tunnel: config.tunnel,
        tunnel_endpoints: Vec::new(),
        pools: config.pools.to_vec(),
        tunnel_device: config.tunnel_device,
        table: TABLE,
        metric: METRIC,
        protocol: PROTOCOL,
        objects: config.objects,
        guard: config.guard,
    }
}

/// As `daemon::settings::preserved` has it.
fn preserved(config: &Config, dump: &Dump, uptime: Duration) -> PerFamily<bool> {
    let left = |family| dump.own.iter().any(|(prefix, _)| prefix.family() == family);
    let same_life = uptime > Duration::from_secs(config.graceful_restart.into());
    let has_subnet = |family| config.subnets.iter().any(|subnet| subnet.family() == family);
    PerFamily::from_fn(|family| left(family) || (same_life && !has_subnet(family)))
}
