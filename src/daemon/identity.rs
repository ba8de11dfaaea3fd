//! Who this node is: name, address, router id.

use std::net::{IpAddr, Ipv4Addr};

use crate::config::{Config, PeerAddress, Store};
use crate::daemon::Fatal;
use crate::io::netlink::query;
use crate::net::Asn;

/// Fixed while the daemon runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// Node name
    pub name: String,
    /// BGP source and tunnel end
    pub address: IpAddr,
    /// BGP identifier
    pub router_id: Ipv4Addr,
    /// Local AS
    pub asn: Asn,
}

/// From the file, and where it is silent from the host: its name, and the source address that the
/// kernel uses towards the first peer or the store.
pub async fn find(config: &Config) -> Result<Identity, Fatal> {
    let name = if config.node.name.is_empty() {
        let name = nix::unistd::gethostname().map_err(|error| Fatal::start("host name", error))?;
        name.to_string_lossy().into_owned()
    } else {
        config.node.name.clone()
    };
    let address = match config.node.address {
        Some(address) => address,
        None => source_towards(config).await?,
    };
    let router_id = match (config.node.router_id, address) {
        (Some(id), _) => id,
        (None, IpAddr::V4(address)) => address,
        (None, IpAddr::V6(_)) => {
            return Err(Fatal::Config(format!(
                "node.router_id: is missing, and can't be taken from the IPv6 address {address}; write router_id = \"192.0.2.11\" or the like"
            )));
        }
    };
    Ok(Identity { name, address, router_id, asn: config.bgp.asn })
}

async fn source_towards(config: &Config) -> Result<IpAddr, Fatal> {
    let first_peer = config.bgp.peers.iter().map(|peer| match peer.address {
        PeerAddress::One(address) => address,
        PeerAddress::Range(prefix) => prefix.first_host(),
    });
    let store = match &config.store {
        Store::Etcd(etcd) => etcd.endpoints.iter().find_map(|endpoint| host_of(endpoint)),
        Store::Embedded => None,
    };
    let Some(towards) = first_peer.chain(store).next() else {
        return Err(Fatal::Config(
            "node.address: is missing, and there is no peer to find it by; write address = \"192.0.2.11\" or the like"
                .to_owned(),
        ));
    };
    query::source_towards(towards).await.map_err(|error| Fatal::start("netlink", error))?.ok_or_else(|| {
        Fatal::start(
            "node.address",
            format!("is not set, and the kernel has no route towards {towards} to take it from"),
        )
    })
}

/// The address in `http://192.0.2.5:2379`, if it is one.
fn host_of(endpoint: &str) -> Option<IpAddr> {
    let authority = endpoint.split("://").last()?.split('/').next()?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.trim_matches(['[', ']']).parse().ok()
}
