//! Who this node is: name, address, router id.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::config::{Config, PeerAddress, Store};
use crate::daemon::Fatal;
use crate::io::netlink::path::{self, Question};
use crate::net::Asn;

/// How long a name server may take; with several members there are several names.
const LOOKUP: Duration = Duration::from_secs(5);

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
/// kernel uses towards the first peer or the store. What only another file would mend, [`missing`] has found before.
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
        (None, IpAddr::V6(_)) => return Err(Fatal::start("node.router_id", no_router_id(address))),
    };
    Ok(Identity { name, address, router_id, asn: config.bgp.asn })
}

/// What the file must say because nothing else can: key and complaint.
pub fn missing(config: &Config) -> Option<String> {
    if config.node.address.is_some() {
        return None;
    }
    match first_peer(config) {
        Some(peer) if peer.is_ipv6() && config.node.router_id.is_none() => {
            Some(format!("node.router_id: {}", no_router_id(peer)))
        }
        None if config.store == Store::Embedded => Some(
            "node.address: is missing, and there is no peer or store to find it by; write address = \"192.0.2.11\" or the like"
                .to_owned(),
        ),
        _ => None,
    }
}

fn no_router_id(address: IpAddr) -> String {
    format!("is missing, and IPv6 ({address}) gives none; write router_id = \"192.0.2.11\" or the like")
}

fn first_peer(config: &Config) -> Option<IpAddr> {
    config.bgp.peers.first().map(|peer| match peer.address {
        PeerAddress::One(address) => address,
        PeerAddress::Range(prefix) => prefix.first_host(),
    })
}

async fn source_towards(config: &Config) -> Result<IpAddr, Fatal> {
    let towards = match (first_peer(config), &config.store) {
        (Some(peer), _) => peer,
        (None, Store::Etcd(etcd)) => member(&etcd.endpoints).await?,
        (None, Store::Embedded) => return Err(Fatal::Config(missing(config).unwrap_or_default())),
    };
    let answer = path::ask(Question::sent_to(towards)).await.map_err(|error| Fatal::start("netlink", error))?;
    answer.source.ok_or_else(|| {
        Fatal::start(
            "node.address",
            format!("is not set, and the kernel has no route towards {towards} to take it from"),
        )
    })
}

/// An address of a member of etcd: one that is written, or the first that a name stands for. A name that can't be
/// looked up now may be in a moment, so it is no error of the file.
async fn member(endpoints: &[String]) -> Result<IpAddr, Fatal> {
    let mut hosts: Vec<&str> = endpoints.iter().map(|endpoint| host_of(endpoint)).collect();
    hosts.sort_by_key(|host| host.parse::<IpAddr>().is_err());
    let mut why = String::new();
    for host in hosts {
        match timeout(LOOKUP, lookup_host((host, 0))).await {
            Ok(Ok(found)) => {
                let found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
                // It makes a router id, too.
                if let Some(address) = found.iter().find(|address| address.is_ipv4()).or(found.first()) {
                    return Ok(*address);
                }
            }
            Ok(Err(error)) => why = format!("{host}: {error}"),
            Err(_) => why = format!("{host}: no answer within {} s", LOOKUP.as_secs()),
        }
    }
    Err(Fatal::start("node.address", format!("is not set, and no name in store.endpoints leads to one: {why}")))
}

/// The host in `http://192.0.2.5:2379`, `https://etcd-1:2379` or `http://[2001:db8::5]`.
fn host_of(endpoint: &str) -> &str {
    let authority = endpoint.split("://").last().unwrap_or_default();
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split(':').next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_host_can_tell_is_missing_in_the_file() {
        let etcd = "[store]\nkind = \"etcd\"\nendpoints = [\"http://etcd-1:2379\"]\n[bgp]\nasn = 64512\n";
        let peer = |address: &str| format!("[bgp]\nasn = 64512\n[[bgp.peers]]\naddress = \"{address}\"\nasn = 65001\n");
        // (why, file, the key that is missing)
        let cases = [
            ("nobody to look towards", "[bgp]\nasn = 64512\n".to_owned(), Some("node.address")),
            ("an address", "[node]\naddress = \"192.0.2.1\"\n[bgp]\nasn = 64512\n".to_owned(), None),
            ("a store, by name", etcd.to_owned(), None),
            ("a peer", peer("192.0.2.1"), None),
            ("a peer that gives no router id", peer("2001:db8::1"), Some("node.router_id")),
        ];
        for (why, text, wanted) in cases {
            let config = crate::config::parse(&format!("[network]\nsubnets = []\n{text}"), &mut |_| unreachable!());
            let config = config.unwrap_or_else(|found| panic!("{why}: {found:?}"));
            let found = missing(&config);
            assert_eq!(found.as_deref().and_then(|text| text.split(':').next()), wanted, "{why}: {found:?}");
        }
    }

    #[tokio::test]
    async fn an_address_of_the_store() {
        let cases: [(&str, &[&str], Option<&str>); 5] = [
            ("written", &["http://192.0.2.5:2379"], Some("192.0.2.5")),
            ("IPv6", &["https://[2001:db8::5]:2379"], Some("2001:db8::5")),
            ("without a port", &["http://[2001:db8::5]"], Some("2001:db8::5")),
            (
                "a name asks nobody where an address is written",
                &["http://no.invalid:1", "http://192.0.2.6"],
                Some("192.0.2.6"),
            ),
            ("a name", &["http://localhost:2379"], Some("127.0.0.1")),
        ];
        for (why, endpoints, wanted) in cases {
            let endpoints: Vec<String> = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
            let found = member(&endpoints).await.ok().map(|address| address.to_string());
            assert_eq!(found.as_deref(), wanted, "{why}");
        }
        // Tried again by the supervisor, unlike an error of the file.
        let refused = member(&["http://nobody.invalid:2379".to_owned()]).await;
        assert!(matches!(refused, Err(Fatal::Start { .. })), "{refused:?}");
    }
}
