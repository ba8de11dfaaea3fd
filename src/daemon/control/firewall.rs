//! The firewall as `status` and the scrape show it.

use crate::daemon::{Handles, node};
use crate::view;

impl Handles {
    /// With what the kernel has counted by now.
    pub(in crate::daemon) fn firewall(&self) -> view::Firewall {
        let mut firewall = self.node.borrow().firewall.clone();
        if firewall.tunnel_guard.in_force
            && let Ok(Some(refused)) = node::refused()
        {
            self.metrics.firewall.saw(refused);
        }
        let refused = self.metrics.firewall.refused();
        firewall.tunnel_guard.refused_packets = refused.packets;
        firewall.tunnel_guard.refused_bytes = refused.bytes;
        firewall
    }
}

/// What an operator should look at.
pub(super) fn problems(status: &view::Status) -> impl Iterator<Item = String> {
    let firewall = &status.firewall;
    let table = firewall.error.as_ref().map(|error| {
        let parts = [
            (status.masquerade.enabled, "masquerade"),
            (!status.subnets.is_empty(), "keeping the source address between containers"),
            (firewall.tunnel_guard.enabled, "the tunnel guard"),
        ];
        let parts: Vec<&str> = parts.into_iter().filter_map(|(wanted, part)| wanted.then_some(part)).collect();
        if parts.is_empty() {
            return format!("the firewall table is not wanted any more, and could not be removed: {error}");
        }
        format!("the firewall table is not in force ({}): {error}", parts.join(", "))
    });
    let docker = firewall.docker.error.as_ref().map(|error| {
        format!(
            "Docker may drop what other nodes' containers send here, its chain DOCKER-USER can't be changed: {error}"
        )
    });
    let firewalld = (!firewall.firewalld.is_empty())
        .then(|| format!("firewalld rejects our traffic; type: {}", firewall.firewalld.join(" && ")));
    [table, docker, firewalld].into_iter().flatten()
}
