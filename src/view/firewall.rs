//! What `status` shows of the firewall.

use serde::{Deserialize, Serialize};

/// nftables, iptables, firewalld.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Firewall {
    /// Whether all that is wanted is in force; none: nothing is wanted
    pub in_force: Option<bool>,
    /// Why our nftables table is not in force
    pub error: Option<String>,
    /// Who may send IP-in-IP here
    pub tunnel_guard: TunnelGuard,
    /// The rule that lets traffic between containers through Docker's drop
    pub docker: DockerRule,
    /// Whether there is a firewalld on this host
    pub firewalld_here: bool,
    /// What to type so that firewalld lets our traffic through; nothing: it does, or isn't here
    pub firewalld: Vec<String>,
}

/// IP-in-IP is taken from known ends only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TunnelGuard {
    /// Whether it is wanted
    pub enabled: bool,
    /// Whether it is in force
    pub in_force: bool,
    /// Why nothing is refused yet though it is wanted
    pub waits: Option<String>,
    /// Known tunnel ends: addresses, and prefixes of `network.tunnel_endpoints`
    pub known_ends: usize,
    /// Packets refused, over restarts of the daemon
    pub refused_packets: u64,
    /// Their bytes
    pub refused_bytes: u64,
}

/// The rule in `DOCKER-USER`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DockerRule {
    /// Whether it is wanted
    pub enabled: bool,
    /// The tools that show it: `iptables-nft`, `ip6tables-legacy` …; empty: Docker isn't here
    pub tools: Vec<String>,
    /// Why it could not be set
    pub error: Option<String>,
}
