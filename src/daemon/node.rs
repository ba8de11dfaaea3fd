//! Owns what a node has one of: the tunnel device, the kernel settings, the firewall table.
//!
//! Each is brought to what is wanted at start, at reload, when the kernel tells of a change that
//! may concern it, and every now and then. What can't be had is shown and tried again; it stops
//! nothing else.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::daemon::identity::Identity;
use crate::daemon::routing::Input;
use crate::daemon::settings;
use crate::firewall::Ruleset;
use crate::forward::sysctls;
use crate::forward::{Address, Dump, Link, TunnelMode};
use crate::io::netlink::query;
use crate::io::nft;
use crate::io::sysctl::Sysctl;
use crate::io::tunnel::{self, Done, Tunnel};
use crate::net::{Family, Prefix};
use crate::view;

/// Name of our tunnel device.
pub const TUNNEL: &str = "wayleave0";
/// Name of our firewall table.
pub const TABLE: &str = "wayleave";
/// How often all is looked at though nothing was heard.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How the node's parts are.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The tunnel; which next hops are affected is the routing task's to say
    pub tunnel: view::TunnelStatus,
    /// Kernel settings
    pub sysctls: Vec<view::SysctlStatus>,
    /// The firewall table
    pub masquerade: view::Part,
}

/// The task's state.
pub struct Node {
    config: Arc<Config>,
    identity: Identity,
    /// Routes refer to nexthop objects
    objects: bool,
    sysctl: Sysctl,
    status: watch::Sender<Status>,
    routing: mpsc::Sender<Input>,
    tunnel: Option<u32>,
    /// The firewall script that is in force
    applied: Option<String>,
}

impl Node {
    /// Touches nothing yet.
    pub fn new(config: Arc<Config>, identity: Identity, objects: bool, routing: mpsc::Sender<Input>) -> Self {
        let sysctl = Sysctl::new(&config.state_dir);
        Self {
            config,
            identity,
            objects,
            sysctl,
            status: watch::channel(Status::default()).0,
            routing,
            tunnel: None,
            applied: None,
        }
    }

    /// Follows the status.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs until the daemon exits; a kick says that the kernel told of a change.
    pub async fn run(mut self, mut reloads: mpsc::Receiver<Arc<Config>>, mut kicks: mpsc::Receiver<()>) {
        let mut timer = tokio::time::interval(LOOK_EVERY);
        // The first tick is immediate, and `bring_up` has just been called.
        timer.tick().await;
        loop {
            tokio::select! {
                config = reloads.recv() => match config {
                    Some(config) => self.config = config,
                    None => return,
                },
                Some(()) = kicks.recv() => {}
                // The kernel doesn't tell us who flushed a firewall: look whether ours is there.
                _ = timer.tick() => self.applied = None,
            }
            let before = self.tunnel;
            let tunnel = self.bring_up().await;
            if tunnel != before && self.routing.send(Input::Tunnel(tunnel)).await.is_err() {
                return;
            }
        }
    }

    /// Brings all to what is wanted; the index of the tunnel device, if there is one.
    pub async fn bring_up(&mut self) -> Option<u32> {
        let dump = match query::dump(settings::ours(&self.config)).await {
            Ok(dump) => dump,
            Err(error) => {
                tracing::warn!(%error, "links and addresses can't be read");
                return self.tunnel;
            }
        };
        let mut status = Status { tunnel: self.bring_up_tunnel(&dump).await, ..Status::default() };
        status.sysctls = self.set_sysctls(&dump);
        status.masquerade = self.set_firewall().await;
        self.status.send_replace(status);
        self.tunnel
    }

    async fn bring_up_tunnel(&mut self, dump: &Dump) -> view::TunnelStatus {
        let mode = self.config.network.tunnel;
        let mut status = view::TunnelStatus { mode: mode.to_string(), ..view::TunnelStatus::default() };
        self.tunnel = None;
        let wanted = mode != TunnelMode::Never && self.config.kernel.install;
        let IpAddr::V4(local) = self.identity.address else {
            if wanted {
                status.error = Some("IP-in-IP needs an IPv4 node.address".to_owned());
            }
            return status;
        };
        if !wanted {
            if let Err(error) = tunnel::remove(TUNNEL).await {
                status.error = Some(error.to_string());
            }
            return status;
        }
        let subnets = self.config.network.subnets.as_deref().unwrap_or_default();
        let address = subnets.iter().find_map(|subnet| match subnet.first_host() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        let underlay_mtu = underlay_mtu(dump, self.identity.address);
        let device = Tunnel { name: TUNNEL.to_owned(), local, underlay_mtu, address };
        let before = self.status.borrow().tunnel.clone();
        match tunnel::ensure(&device).await {
            Ok((index, done)) => {
                if done != Done::Kept {
                    tracing::info!(device = TUNNEL, ?done, local = %local, "tunnel device is up");
                }
                self.tunnel = Some(index);
                status.device = Some(TUNNEL.to_owned());
                status.mtu = Some(underlay_mtu.saturating_sub(tunnel::OVERHEAD));
            }
            Err(error) => {
                let text = with_source(&error);
                // Said once, not every time it is tried again.
                if before.error.as_ref() != Some(&text) {
                    tracing::warn!(error = text, "no tunnel device; next hops that need one can't be reached");
                }
                status.error = Some(text);
            }
        }
        status
    }

    fn set_sysctls(&self, dump: &Dump) -> Vec<view::SysctlStatus> {
        if !self.config.kernel.install {
            return Vec::new();
        }
        let network = &self.config.network;
        let prefixes = network.pools.iter().chain(network.subnets.iter().flatten());
        let ipv6 =
            prefixes.chain(self.config.bgp.announce.iter().map(|a| &a.prefix)).any(|p| p.family() == Family::Ipv6);
        let uplinks = uplinks(dump, &network.pools);
        let settings = sysctls::wanted(self.tunnel.map(|_| TUNNEL), ipv6, self.objects, uplinks);
        if !self.objects
            && let Err(error) = self.sysctl.restore_one(sysctls::NEXTHOP_COMPAT_MODE)
        {
            tracing::warn!(%error, key = sysctls::NEXTHOP_COMPAT_MODE, "sysctl is not put back");
        }
        let applied = match self.sysctl.apply(&settings) {
            Ok(applied) => applied,
            Err(error) => {
                let dir = self.config.state_dir.display();
                tracing::error!(%error, "sysctls are not set: their present values can't be kept in {dir}");
                return Vec::new();
            }
        };
        let originals = self.sysctl.originals().unwrap_or_default();
        let shown = applied.into_iter().map(|one| {
            if one.was.as_ref() != Some(&one.now) && one.result.is_ok() {
                tracing::info!(key = one.key, was = one.was, now = one.now, "sysctl set");
            }
            view::SysctlStatus {
                was: originals.get(&one.key).cloned().or(one.was).unwrap_or_default(),
                key: one.key,
                wanted: one.now,
                error: one.result.err().map(|error| with_source(&error)),
            }
        });
        shown.collect()
    }

    async fn set_firewall(&mut self) -> view::Part {
        let network = &self.config.network;
        let subnets = network.subnets.clone().unwrap_or_default();
        let enabled = network.masquerade && !subnets.is_empty() && self.config.kernel.install;
        let ruleset =
            Ruleset { table: TABLE.to_owned(), subnets, pools: network.pools.clone(), masquerade: network.masquerade };
        let script = if enabled { ruleset.script() } else { ruleset.remove_script() };
        let before = self.status.borrow().masquerade.clone();
        if self.applied.as_ref() == Some(&script) {
            return before;
        }
        let error = match nft::apply(&script).await {
            Ok(()) => None,
            // Nothing is wanted, and where nft doesn't work nothing of ours can be there.
            Err(_) if !enabled => None,
            Err(error) => Some(with_source(&error)),
        };
        if let Some(error) = &error
            && before.error.as_ref() != Some(error)
        {
            tracing::error!(error, "the firewall table could not be set");
        }
        self.applied = error.is_none().then_some(script);
        view::Part { enabled, error }
    }
}

/// MTU of the device that has the node's address; Ethernet's if none has it.
fn underlay_mtu(dump: &Dump, address: IpAddr) -> u32 {
    let on = dump.addresses.iter().filter(|on: &&Address| on.addr == address).map(|on| on.device);
    let links: Vec<&Link> = dump.links.iter().collect();
    // A loopback address is reached over the other links: the smallest of them counts.
    let device = on.filter_map(|index| links.iter().find(|link| link.index == index)).find(|link| !link.loopback);
    let up = || links.iter().filter(|link| link.up && !link.loopback && link.name != TUNNEL);
    device.map_or_else(|| up().map(|link| link.mtu).min().unwrap_or(1500), |link| link.mtu)
}

/// Devices with an address outside the pools: towards routers, not towards containers.
fn uplinks<'a>(dump: &'a Dump, pools: &[Prefix]) -> impl Iterator<Item = &'a str> {
    let outside = |device: u32| {
        dump.addresses
            .iter()
            .any(|address| address.device == device && !pools.iter().any(|pool| pool.contains(address.addr)))
    };
    dump.links
        .iter()
        .filter(move |link| !link.loopback && link.up && outside(link.index))
        .map(|link| link.name.as_str())
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
    match tunnel::remove(TUNNEL).await {
        Ok(true) => done.push(format!("device {TUNNEL} removed")),
        Ok(false) => {}
        Err(error) => errors.push(format!("device {TUNNEL}: {}", with_source(&error))),
    }
    let ruleset = Ruleset { table: TABLE.to_owned(), subnets: Vec::new(), pools: Vec::new(), masquerade: false };
    match nft::apply(&ruleset.remove_script()).await {
        Ok(()) => done.push(format!("nftables table inet {TABLE} removed, if it was there")),
        // Where there is no nft, in the kernel or as a program, there is no table of ours.
        Err(nft::NftError::Missing) => {}
        Err(nft::NftError::Refused(text)) if text.contains("not supported") => {}
        Err(error) => errors.push(format!("nftables table {TABLE}: {}", with_source(&error))),
    }
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
