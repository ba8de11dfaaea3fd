//! `[firewall]`: what nftables and iptables rules keep off or let through.

use crate::config::reader::Table;

/// `[firewall]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Firewall {
    /// IP-in-IP packets are taken from known tunnel ends only
    pub tunnel_guard: bool,
    /// Docker's drop of forwarded packets lets traffic between containers through
    pub docker: bool,
}

pub(super) fn read(table: &Table<'_>) -> Firewall {
    Firewall { tunnel_guard: table.flag("tunnel_guard").unwrap_or(true), docker: table.flag("docker").unwrap_or(true) }
}
