//! The file that tells scripts, and Docker's `bip`, which subnet is ours: flannel's `subnet.env`.

use std::path::PathBuf;

use crate::config::Config;
use crate::forward::TunnelMode;
use crate::io::{files, tunnel};
use crate::net::{Family, Prefix};

/// What was written last, and where.
#[derive(Default)]
pub(super) struct SubnetFile {
    written: Option<(PathBuf, String)>,
    failed: bool,
}

impl SubnetFile {
    /// Brings it to what is in force. A node without a subnet leaves what is there: whoever reads it may
    /// have containers in that.
    pub(super) fn bring_up(&mut self, config: &Config, underlay_mtu: u32) {
        let Some(path) = config.network.subnet_file.as_ref() else { return };
        let Some(text) = text(config, underlay_mtu) else { return };
        let wanted = (path.clone(), text);
        if self.written.as_ref() == Some(&wanted) {
            return;
        }
        match files::atomic_write(&wanted.0, wanted.1.as_bytes(), 0o644) {
            Ok(()) => {
                tracing::info!(file = %wanted.0.display(), "subnet file written");
                (self.written, self.failed) = (Some(wanted), false);
            }
            // Tried again with the next look; said once.
            Err(error) if !self.failed => {
                tracing::warn!(file = %wanted.0.display(), %error, "subnet file can't be written");
                self.failed = true;
            }
            Err(_) => {}
        }
    }
}

/// The first subnet of each family, and the pool that it lies in; `None`: there is none.
fn text(config: &Config, underlay_mtu: u32) -> Option<String> {
    let network = &config.network;
    let subnets = network.subnets.as_deref().unwrap_or_default();
    let of = |family: Family| {
        let subnet = subnets.iter().find(|subnet| subnet.family() == family)?;
        let pool = network.pools.iter().find(|pool| pool.covers(subnet)).unwrap_or(subnet);
        Some((*pool, *subnet))
    };
    let (ipv4, ipv6) = (of(Family::Ipv4), of(Family::Ipv6));
    ipv4.or(ipv6)?;
    let mut lines = Vec::new();
    let mut subnet = |names: [&str; 2], (pool, subnet): (Prefix, Prefix)| {
        lines.push(format!("{}={pool}", names[0]));
        lines.push(format!("{}={}/{}", names[1], subnet.first_host(), subnet.len()));
    };
    if let Some(ipv4) = ipv4 {
        subnet(["FLANNEL_NETWORK", "FLANNEL_SUBNET"], ipv4);
    }
    if let Some(ipv6) = ipv6 {
        subnet(["FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"], ipv6);
    }
    let overhead = if network.tunnel == TunnelMode::Never { 0 } else { tunnel::OVERHEAD };
    lines.push(format!("FLANNEL_MTU={}", underlay_mtu.saturating_sub(overhead)));
    lines.push(format!("FLANNEL_IPMASQ={}", network.masquerade));
    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_scripts_of_flannel_expect() {
        // (why, [network], file; empty: none)
        let cases = [
            (
                "one subnet, packets may need a tunnel",
                "pools = [\"172.20.0.0/16\"]\nsubnets = [\"172.20.59.0/24\"]",
                "FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET=172.20.59.1/24\nFLANNEL_MTU=1480\nFLANNEL_IPMASQ=true\n",
            ),
            (
                "both families, no tunnel",
                "pools = [\"172.20.0.0/16\", \"fd00:10:244::/48\"]\n\
                 subnets = [\"172.20.59.0/24\", \"fd00:10:244:7::/64\"]\ntunnel = \"never\"\nmasquerade = false",
                "FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET=172.20.59.1/24\nFLANNEL_IPV6_NETWORK=fd00:10:244::/48\n\
                 FLANNEL_IPV6_SUBNET=fd00:10:244:7::1/64\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n",
            ),
            ("no subnet", "pools = [\"172.20.0.0/16\"]\nsubnets = []", ""),
        ];
        for (why, network, wanted) in cases {
            let config = format!("[network]\n{network}\n[bgp]\nasn = 64512\n");
            let config = crate::config::parse(&config, &mut |_| unreachable!()).unwrap();
            assert_eq!(text(&config, 1500).unwrap_or_default(), wanted, "{why}");
        }
    }
}
