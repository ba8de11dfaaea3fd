//! firewalld beside us: what it must be told is said in `status`, `check` and the log; nothing of it is changed.

use std::net::IpAddr;
use std::time::Instant;

use super::host::Host;
use super::{TUNNEL, soon, with_source};
use crate::config::{Config, PeerAddress};
use crate::daemon::identity::{self, Identity};
use crate::daemon::settings;
use crate::firewall::firewalld::{Needs, TABLE, commands};
use crate::forward::TunnelMode;
use crate::io::bfd::Hops;
use crate::io::netlink::nftables::{Heard, Scope, TableWatch};
use crate::io::netlink::query;
use crate::io::nft::{self, NftError};

const SCOPE: [Scope; 1] = [Scope::inet(TABLE)];

/// What is known of it.
#[derive(Default)]
pub(super) struct Firewalld {
    watch: Option<TableWatch>,
    /// When to look
    pub again: Option<Instant>,
    /// What to type; nothing: it lets all through. None: it isn't here
    pub commands: Option<Vec<String>>,
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
            // It makes its table in several steps.
            self.again.get_or_insert_with(soon);
        }
    }

    /// Looks at its table, if there is one.
    pub(super) async fn check(&mut self, config: &Config, identity: &Identity, host: &Host) {
        self.again = None;
        if self.watch.is_none() {
            self.watch = TableWatch::open(&SCOPE).ok();
        }
        match look(config, identity, host).await {
            Ok(found) if found == self.commands => {}
            Ok(found) => {
                match &found {
                    Some(commands) if !commands.is_empty() => {
                        let commands = commands.join("; ");
                        tracing::warn!(commands, "firewalld rejects our traffic, type these commands");
                    }
                    Some(_) => tracing::info!("firewalld lets our traffic through"),
                    None => tracing::info!("firewalld isn't here any more"),
                }
                self.commands = found;
            }
            // What was known may hold still.
            Err(error) => tracing::debug!(error = with_source(&error), "firewalld's table can't be read"),
        }
    }
}

async fn look(config: &Config, identity: &Identity, host: &Host) -> Result<Option<Vec<String>>, NftError> {
    if !config.kernel.install || !Scope::inet(TABLE).exists() {
        return Ok(None);
    }
    Ok(nft::list(TABLE).await?.map(|table| commands(&table, &needs(config, identity, host))))
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
    let uplinks = host.uplinks(&network.pools).map(|uplink| (uplink.to_owned(), host.networks(uplink))).collect();
    let tunnels = network.tunnel != TunnelMode::Never && matches!(identity.address, IpAddr::V4(_));
    Needs { pools: network.pools.clone(), uplinks, tunnel: tunnels.then(|| TUNNEL.to_owned()), ports }
}

/// What to type so that firewalld lets through what this configuration needs, asked without a daemon.
pub async fn advice(config: &Config) -> Vec<String> {
    match (identity::find(config).await, query::host().await) {
        (Ok(identity), Ok(dump)) => look(config, &identity, &dump.into()).await.ok().flatten().unwrap_or_default(),
        // Nobody knows over which device.
        _ => Vec::new(),
    }
}
