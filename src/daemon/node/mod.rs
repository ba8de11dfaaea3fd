//! Owns what a node has one of: the tunnel device, the kernel settings, the firewall table.
//!
//! Each is brought to what is wanted at start and at reload. What somebody removes or changes later is
//! put right by event, or, where the kernel tells of none, by looking often; all is compared now and
//! then as well. What can't be had is shown and tried again; it stops nothing else.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `host` | links and addresses, and what follows from them |
//! | `tunnel`, `sysctls`, `firewall`, `docker` | a thing: wanted, found, put right |
//! | `guard` | who may send IP-in-IP to us |
//! | `firewalld` | what an operator has to tell it |
//! | `subnet_file` | which subnet is ours, for scripts |
//! | `patrol` | looks often at what tells of no change |
//! | `repairs` | what was put right, and with whom it is fought over |

mod docker;
mod firewall;
mod firewalld;
mod guard;
mod host;
mod news;
mod patrol;
pub(in crate::daemon) mod repairs;
mod subnet_file;
mod sysctls;
mod tunnel;

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::docker::Docker;
use self::firewall::Firewall;
pub use self::firewall::refused;
use self::firewalld::Firewalld;
pub use self::firewalld::advice as firewalld_advice;
use self::guard::Guard;
pub use self::guard::KnownEnds;
use self::host::Host;
use self::news::News;
use self::patrol::{Noticed, Patrol};
use self::repairs::Repairs;
use self::subnet_file::SubnetFile;
use self::sysctls::Sysctls;
use self::tunnel::Device;
use crate::config::Config;
use crate::daemon::identity::Identity;
use crate::daemon::journal::Journal;
use crate::daemon::routing::Input;
use crate::daemon::supervision::Ping;
use crate::daemon::until;
use crate::firewall::Ruleset;
use crate::io::netlink::host::{Heard, HostWatch};
use crate::io::netlink::{nftables, query};
use crate::io::nft;
use crate::io::suspects;
use crate::io::sysctl::Sysctl;
use crate::metrics::Metrics;
use crate::view;

/// Name of our tunnel device.
pub const TUNNEL: &str = "wayleave0";
/// Name of our firewall table.
pub const TABLE: &str = "wayleave";
/// How often all is looked at though nothing was heard.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Where much may change at once: how long to wait for the last of it.
const REST: Duration = Duration::from_secs(1);
/// For how long work may keep the task before it counts as stuck: longer than the time limits of all programs of one
/// look together, which are two dozen at most.
const STUCK: Duration = Duration::from_mins(5);

/// How the node's parts are.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The tunnel; which next hops are affected is the routing task's to say
    pub tunnel: view::TunnelStatus,
    /// Kernel settings
    pub sysctls: Vec<view::SysctlStatus>,
    /// Source-NAT
    pub masquerade: view::Part,
    /// The firewall, but for what was counted
    pub firewall: view::Firewall,
    /// What was put right
    pub repairs: Vec<view::Repairs>,
    /// What is fought over
    pub duels: Vec<view::Duel>,
}

/// The task's state.
pub struct Node {
    config: Arc<Config>,
    identity: Identity,
    metrics: Arc<Metrics>,
    status: watch::Sender<Status>,
    routing: mpsc::Sender<Input>,
    watch: Option<HostWatch>,
    host: Host,
    device: Device,
    sysctls: Sysctls,
    guard: Guard,
    firewall: Firewall,
    docker: Docker,
    firewalld: Firewalld,
    subnet_file: SubnetFile,
    repairs: Repairs,
    news: News,
}

/// What the task wakes up for.
enum Wake {
    Reload(Arc<Config>),
    Host(io::Result<Heard>),
    Firewall(nftables::Heard),
    Docker(nftables::Heard),
    Firewalld(nftables::Heard),
    Ends,
    Patrol(Noticed),
    Again,
    Look,
}

impl Node {
    /// Touches nothing yet; `objects`: routes refer to nexthop objects. The error is that of a thread that can't be started.
    pub fn new(
        config: Arc<Config>,
        identity: Identity,
        objects: bool,
        metrics: Arc<Metrics>,
        routing: mpsc::Sender<Input>,
        learned: watch::Receiver<KnownEnds>,
        journal: Journal,
    ) -> io::Result<Self> {
        Ok(Self {
            sysctls: Sysctls::new(Sysctl::new(&config.state_dir), Patrol::start()?, objects, journal.clone()),
            config,
            identity,
            repairs: Repairs::new(Arc::clone(&metrics), journal.clone()),
            news: News::new(journal),
            status: watch::channel(Status::default()).0,
            routing,
            watch: None,
            host: Host::default(),
            device: Device::default(),
            guard: Guard::new(learned),
            firewall: Firewall::new(Arc::clone(&metrics)),
            docker: Docker::default(),
            firewalld: Firewalld::default(),
            metrics,
            subnet_file: SubnetFile::default(),
        })
    }

    /// Follows the status.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs until the daemon exits.
    pub async fn run(mut self, mut reloads: mpsc::Receiver<Arc<Config>>, mut pings: mpsc::Receiver<Ping>) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is immediate, and `bring_up` has just been called.
        look.tick().await;
        loop {
            let again = [self.device.again, self.firewall.again, self.docker.again, self.firewalld.again]
                .into_iter()
                .flatten()
                .min();
            let Self { watch, firewall, docker, firewalld, guard, sysctls, .. } = &mut self;
            let wake = tokio::select! {
                config = reloads.recv() => match config {
                    Some(config) => Wake::Reload(config),
                    None => return,
                },
                Some(ping) = pings.recv() => {
                    let _ = ping.send(());
                    continue;
                }
                heard = hear(watch) => Wake::Host(heard),
                heard = firewall.heard() => Wake::Firewall(heard),
                heard = docker.heard() => Wake::Docker(heard),
                heard = firewalld.heard() => Wake::Firewalld(heard),
                () = guard.heard() => Wake::Ends,
                noticed = sysctls.noticed() => Wake::Patrol(noticed),
                () = until(again.map(Instant::from_std)) => Wake::Again,
                _ = look.tick() => Wake::Look,
            };
            let before = self.device.index;
            let changed = answering(self.act(wake), &mut pings, STUCK).await;
            if changed || self.repairs.take_news() {
                self.publish();
            }
            if self.device.index != before && self.routing.send(Input::Tunnel(self.device.index)).await.is_err() {
                return;
            }
        }
    }

    /// Does what it woke up for; whether there is something new to show.
    async fn act(&mut self, wake: Wake) -> bool {
        match wake {
            Wake::Reload(config) => {
                self.config = config;
                self.bring_up().await;
            }
            Wake::Host(heard) => return self.heard(heard).await,
            Wake::Firewall(heard) => {
                let suspicious = self.firewall.take(heard);
                if suspicious {
                    self.firewall.check(&mut self.repairs).await;
                }
                return suspicious;
            }
            Wake::Docker(heard) => {
                let touched = self.docker.take(heard);
                if touched {
                    self.docker.touched(&mut self.repairs).await;
                }
                return touched;
            }
            Wake::Firewalld(heard) => {
                self.firewalld.take(&heard);
                return false;
            }
            Wake::Ends => return self.follow_firewall().await,
            Wake::Patrol(Noticed::Setting) => {
                self.check_sysctls();
                return false;
            }
            Wake::Patrol(Noticed::Slept(slept)) => self.slept(slept).await,
            Wake::Again => self.again().await,
            Wake::Look => self.look().await,
        }
        true
    }

    /// Brings all to what is wanted; the index of the tunnel device, if there is one.
    pub async fn bring_up(&mut self) -> Option<u32> {
        self.read_host().await;
        self.follow(true).await;
        self.guard.adopt().await;
        self.guard.look().await;
        self.bring_up_firewall().await;
        self.bring_up_others().await;
        self.publish();
        self.device.index
    }

    /// Subscribes if need be, then reads links and addresses anew.
    async fn read_host(&mut self) {
        if self.watch.is_none() {
            match HostWatch::open() {
                Ok(watch) => self.watch = Some(watch),
                Err(error) => tracing::warn!(%error, "links and addresses can't be followed, looking now and then"),
            }
        }
        match query::host().await {
            Ok(dump) => self.host = dump.into(),
            Err(error) => tracing::warn!(%error, "links and addresses can't be read"),
        }
    }

    /// What depends on links and addresses; `touched`: the tunnel device may be.
    async fn follow(&mut self, touched: bool) {
        let before = self.device.index;
        self.device.bring_up(&self.config, &self.identity, &self.host, touched, &mut self.repairs).await;
        if self.device.index != before {
            self.sysctls.renew();
        }
        self.news.links(&self.host, &self.config.network.pools);
        self.sysctls.bring_up(&self.config, &self.host, self.device.index.is_some());
        self.subnet_file.bring_up(&self.config, self.host.underlay_mtu(self.identity.address));
    }

    /// News of links, addresses and settings.
    async fn heard(&mut self, heard: io::Result<Heard>) -> bool {
        let heard = match heard {
            Ok(heard) => heard,
            Err(error) => {
                tracing::warn!(%error, "links and addresses can't be followed any more, subscribing again");
                self.watch = None;
                Heard { overrun: true, ..Heard::default() }
            }
        };
        if heard.overrun {
            self.metrics.netlink_overruns.inc();
            tracing::warn!("events of links and addresses were lost, comparing all");
            self.look().await;
            return true;
        }
        if heard.settings {
            self.check_sysctls();
        }
        if heard.events.is_empty() {
            return false;
        }
        let (mut touched, mut new) = (false, false);
        for (event, port) in heard.events {
            new |= self.host.is_new(&event);
            if self.device.is_concerned(&event) {
                touched = true;
                self.device.by = suspects::netlink_port(port).or(self.device.by.take());
            }
            self.host.apply(event);
        }
        let before = self.device.index;
        self.follow(touched).await;
        if new {
            // It may be a tunnel.
            self.guard.look().await;
        }
        if new || self.device.index != before {
            self.follow_firewall().await;
        }
        true
    }

    /// The host was suspended: nothing was heard, and what is known may be old.
    async fn slept(&mut self, slept: Duration) {
        tracing::warn!(seconds = slept.as_secs(), "the host was suspended, comparing all");
        // If its queue is full it is about to take routes in; it compares now and then as well.
        let _ = self.routing.try_send(Input::Resumed);
        self.look().await;
    }

    /// The pause of a duel is over.
    async fn again(&mut self) {
        let now = Instant::now().into_std();
        let due = |again: Option<std::time::Instant>| again.is_some_and(|at| at <= now);
        let (firewall, docker) = (due(self.firewall.again), due(self.docker.again));
        let firewalld = due(self.firewalld.again);
        if due(self.device.again) {
            self.follow(true).await;
        }
        if firewall {
            self.firewall.check(&mut self.repairs).await;
        }
        if docker {
            self.docker.patrol(&mut self.repairs).await;
        }
        if firewalld {
            self.firewalld.check(&self.config, &self.identity, &self.host).await;
        }
    }

    /// Compares all.
    async fn look(&mut self) {
        self.repairs.settle(Instant::now().into_std());
        self.read_host().await;
        self.check_sysctls();
        self.follow(true).await;
        self.guard.look().await;
        let guard = self.guard.wanted(&self.config, &self.identity, self.device.index.is_some());
        self.firewall.look(&self.config, guard, &mut self.repairs).await;
        self.bring_up_others().await;
    }

    async fn bring_up_firewall(&mut self) {
        let guard = self.guard.wanted(&self.config, &self.identity, self.device.index.is_some());
        self.firewall.bring_up(&self.config, guard).await;
    }

    /// Where others have rules. Programs that hang are not tried one after the other.
    async fn bring_up_others(&mut self) {
        if self.docker.bring_up(&self.config, &mut self.repairs).await {
            self.firewalld.check(&self.config, &self.identity, &self.host).await;
        }
    }

    /// The same for news. What the kernel refuses waits for the next look: each try starts a program, and the tunnel
    /// must not wait for it.
    async fn follow_firewall(&mut self) -> bool {
        if self.firewall.is_refused() {
            // Taken in all the same.
            self.guard.wanted(&self.config, &self.identity, self.device.index.is_some());
            return false;
        }
        self.bring_up_firewall().await;
        true
    }

    fn check_sysctls(&mut self) {
        self.sysctls.check(&mut self.repairs, Instant::now().into_std());
    }

    fn publish(&self) {
        let (repairs, duels) = self.repairs.show(Instant::now().into_std());
        let now = Status {
            tunnel: self.device.status.clone(),
            sysctls: self.sysctls.status.clone(),
            masquerade: self.show_masquerade(),
            firewall: self.show_firewall(),
            repairs,
            duels,
        };
        self.news.parts(&self.status.borrow(), &now);
        self.status.send_replace(now);
    }
}

impl Node {
    fn show_masquerade(&self) -> view::Part {
        let network = &self.config.network;
        let subnets = network.subnets.as_ref().is_some_and(|subnets| !subnets.is_empty());
        let enabled = network.masquerade && subnets && self.config.kernel.install;
        view::Part { enabled, error: self.firewall.error.clone().filter(|_| enabled) }
    }

    fn show_firewall(&self) -> view::Firewall {
        let docker = self.docker.show();
        let (guard, waits) = (self.firewall.guard(), self.guard.waits);
        let tunnel_guard = view::TunnelGuard {
            enabled: self.guard.is_wanted,
            in_force: guard.is_some(),
            waits: waits.map(str::to_owned),
            known_ends: guard.map_or(0, |guard| guard.ends.len() + guard.prefixes.len()),
            ..view::TunnelGuard::default()
        };
        let parts = [
            self.firewall.in_force(),
            (!docker.tools.is_empty() || docker.error.is_some()).then(|| docker.error.is_none()),
        ];
        view::Firewall {
            in_force: parts.into_iter().flatten().reduce(|all, one| all && one),
            error: self.firewall.error.clone(),
            tunnel_guard,
            docker,
            firewalld_here: self.firewalld.commands.is_some(),
            firewalld: self.firewalld.commands.clone().unwrap_or_default(),
        }
    }
}

/// Gives signs of life beside work that waits for programs, each of which may take its time: to kill the daemon for it
/// would help nobody. Not beyond the limit: what takes longer is stuck.
async fn answering<T>(work: impl Future<Output = T>, pings: &mut mpsc::Receiver<Ping>, limit: Duration) -> T {
    let (mut work, stuck) = (pin!(work), Instant::now() + limit);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            Some(ping) = pings.recv(), if Instant::now() < stuck => {
                let _ = ping.send(());
            }
        }
    }
}

/// When to look where much may change at once.
fn soon() -> std::time::Instant {
    (Instant::now() + REST).into_std()
}

async fn hear(watch: &mut Option<HostWatch>) -> io::Result<Heard> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// An error with its cause, for people.
pub fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What `clean` removes of these.
pub async fn tear_down(state_dir: &Path) -> (Vec<String>, Vec<String>) {
    let (mut done, mut errors) = (Vec::new(), Vec::new());
    match crate::io::tunnel::remove(TUNNEL).await {
        Ok(true) => done.push(format!("device {TUNNEL} removed")),
        Ok(false) => {}
        Err(error) => errors.push(format!("device {TUNNEL}: {}", with_source(&error))),
    }
    let (subnets, pools) = (Vec::new(), Vec::new());
    let ruleset = Ruleset { table: TABLE.to_owned(), subnets, pools, masquerade: false, guard: None };
    match nft::apply(&ruleset.remove_script()).await {
        Ok(()) => done.push(format!("nftables table inet {TABLE} removed, if it was there")),
        // Where there is no nft, in the kernel or as a program, there is no table of ours.
        Err(nft::NftError::Missing) => {}
        Err(nft::NftError::Refused(text)) if text.contains("not supported") => {}
        Err(error) => errors.push(format!("nftables table {TABLE}: {}", with_source(&error))),
    }
    let (removed, failed) = docker::remove().await;
    done.extend(removed);
    errors.extend(failed);
    match Sysctl::new(state_dir).restore() {
        Ok(restored) => {
            for one in restored {
                match one.result {
                    Ok(()) => done.push(format!("{} put back to {}", one.key, one.now)),
                    Err(error) => errors.push(format!("{}: {}", one.key, with_source(&error))),
                }
            }
        }
        Err(error) => errors.push(format!("sysctls: {error}")),
    }
    (done, errors)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// In a network namespace of its own, which ends with the thread.
    pub(super) fn in_netns(test: impl AsyncFnOnce() + Send + 'static) {
        let run = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs CAP_SYS_ADMIN");
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
        };
        std::thread::spawn(run).join().expect("test thread");
    }

    /// Whether a ping is answered while work goes on.
    async fn is_answered(limit: Duration) -> bool {
        let (ask, mut pings) = mpsc::channel(1);
        let work = async {
            let (ping, mut answer) = oneshot::channel();
            ask.send(ping).await.unwrap();
            // More turns than an answer takes.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            answer.try_recv().is_ok()
        };
        answering(work, &mut pings, limit).await
    }

    #[tokio::test]
    async fn signs_of_life_beside_slow_work_but_not_for_ever() {
        assert!(is_answered(STUCK).await);
        assert!(!is_answered(Duration::ZERO).await);
    }
}
