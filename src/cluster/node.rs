//! What a node says of itself in the store.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::net::{Asn, Prefix};

/// A node's record. Unknown fields are left alone, missing ones have a default: nodes of several versions
/// share one store.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// What tells it from another host of its name
    pub id: String,
    /// Where BGP reaches it, and its end of tunnels
    pub address: IpAddr,
    /// Its AS
    pub asn: Asn,
    /// BGP identifier
    pub router_id: Ipv4Addr,
    /// TCP port that it accepts BGP on; 0: it doesn't
    pub port: u16,
    /// Its subnets
    #[serde(default)]
    pub subnets: Vec<Prefix>,
    /// Tunnels that it ends: "ipip"
    #[serde(default)]
    pub tunnels: Vec<String>,
    /// Its version of wayleave
    #[serde(default)]
    pub version: String,
    /// It takes part in the mesh
    #[serde(default)]
    pub mesh: bool,
    /// It reflects routes between the others
    #[serde(default)]
    pub reflector: bool,
    /// The topology for which it has all sessions and routes ([`mesh`](crate::cluster::mesh))
    #[serde(default)]
    pub settled: String,
    /// It is leaving, or has left
    #[serde(default)]
    pub drained: bool,
}

/// A node's sign of life: kept in the store by a lease of the store.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Alive {
    /// What tells it from another host of its name
    pub id: String,
    /// Where it is
    pub address: IpAddr,
    /// Since when this daemon runs, in Unix seconds
    pub since: u64,
}
