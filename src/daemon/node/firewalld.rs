//! firewalld beside us: what it must be told is said in `status`, `check` and the log; nothing of it is changed.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::host::Host;
use super::{TUNNEL, with_source};
use crate::config::{Config, PeerAddress};
use crate::daemon::identity::{self, Identity};
use crate::daemon::settings;
use crate::firewall::firewalld::{Needs, TABLE, commands};
use crate::forward::TunnelMode;
use crate::io::bfd::Hops;
use crate::io::netlink::nftables::{Heard, Scope, TableWatch};
use crate::io::netlink::query;
use crate::io::nft;

const SCOPE: [Scope; 1] = [Scope::inet(TABLE)];
/// firewalld makes its table in several steps: how long to wait for the last.
const REST: Duration = Duration::from_secs(1);

/// What is known of it.
#[derive(Default)]
pub(super) struct Firewalld {
    watch: Option<TableWatch>,
    /// When to look
    pub again: Option<Instant>,
    /// What to type; nothing: it isn't here, or lets all through
    pub commands: Vec<String>,
}

impl Firewalld {
    /// Waits for news of its table. Safe to cancel.
    pub(super) async fn heard(&mut self) -> Heard {
        let Some(watch) = &mut self.watch else { return std::future::pending().await };
        match watch.next().await {
            Ok(heard) => heard,
            Err(error) => {
                tracing::debug!(%error, "firewalld's table can't be followed, looking now and then");
                self.watch = None;
                Heard { overrun: true, ..Heard::default() }
            }
        }
    }

    /// Takes news in: a look is due soon.
    pub(super) fn take(&mut self, heard: &Heard) {
        if heard.overrun || !heard.touched.is_empty() {
            self.again.get_or_insert_with(|| tokio::time::Instant::now().into_std() + REST);
        }
    }

    /// Looks at its table, if there is one.
    pub(super) async fn check(&mut self, config: &Config, identity: &Identity, host: &Host) {
        self.again = None;
        if self.watch.is_none() {
            self.watch = TableWatch::open(&SCOPE).ok();
        }
        let found = look(config, identity, host).await;
        if found != self.commands {
            if found.is_empty() {
                tracing::info!("firewalld lets our traffic through");
            } else {
                tracing::warn!(commands = found.join("; "), "firewalld rejects our traffic, type these commands");
            }
            self.commands = found;
        }
    }
}

async fn look(config: &Config, identity: &Identity, host: &Host) -> Vec<String> {
    if !config.kernel.install || !Scope::inet(TABLE).exists() {
        return Vec::new();
    }
    match nft::list(TABLE).await {
        Ok(table) => table.map(|table| commands(&table, &needs(config, identity, host))).unwrap_or_default(),
        Err(error) => {
            tracing::debug!(error = with_source(&error), "firewalld's table can't be read");
            Vec::new()
        }
    }
}

fn needs(config: &Config, identity: &Identity, host: &Host) -> Needs {
    let network = &config.network;
    let bgp = config.bgp.listen.iter().map(|listen| format!("{}/tcp", listen.port()));
    // UDP ports of RFC 5881 §4 and RFC 5883 §5.
    let bfd = config.bgp.peers.iter().filter_map(|peer| {
        let address = match peer.address {
            PeerAddress::One(address) => address,
            PeerAddress::Range(prefix) => prefix.addr(),
        };
        let profile = settings::bfd(identity, peer, address, false)?;
        Some(if profile.hops == Hops::Single { "3784/udp".to_owned() } else { "4784/udp".to_owned() })
    });
    let mut ports: Vec<String> = bgp.chain(bfd).collect();
    ports.sort();
    ports.dedup();
    let mut uplinks: Vec<String> = host.uplinks(&network.pools).map(str::to_owned).collect();
    uplinks.sort();
    let tunnels = network.tunnel != TunnelMode::Never && matches!(identity.address, IpAddr::V4(_));
    Needs { pools: network.pools.clone(), uplinks, tunnel: tunnels.then(|| TUNNEL.to_owned()), ports }
}

/// What to type so that firewalld lets through what this configuration needs, asked without a daemon.
pub async fn advice(config: &Config) -> Vec<String> {
    match (identity::find(config).await, query::host().await) {
        (Ok(identity), Ok(dump)) => look(config, &identity, &dump.into()).await,
        // Nobody knows over which device.
        _ => Vec::new(),
    }
}
