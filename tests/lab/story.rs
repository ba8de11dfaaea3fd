//! Networks and configurations that many stories start from.

use std::fmt::Write;

use crate::harness::{Lab, Netns};

/// AS of the hosts.
pub const HOST_AS: u32 = 64512;
/// AS of a top-of-rack router.
pub const TOR_AS: u32 = 65001;

/// A top-of-rack router and a host on one cable.
pub struct Rack {
    pub lab: Lab,
    /// 10.0.0.1, fd00::1
    pub tor: Netns,
    /// 10.0.0.2, fd00::2
    pub host: Netns,
}

impl Rack {
    pub fn new() -> Self {
        let lab = Lab::new();
        let (tor, host) = (lab.router("tor"), lab.netns("host"));
        lab.link((&tor, "eth0", &["10.0.0.1/24", "fd00::1/64"]), (&host, "eth0", &["10.0.0.2/24", "fd00::2/64"]));
        Self { lab, tor, host }
    }
}

/// A configuration of the agent, written as an operator writes it.
pub struct Config {
    pub address: &'static str,
    pub asn: u32,
    pub subnets: &'static [&'static str],
    /// Lines for `[network]`
    pub network: &'static str,
    /// Lines for `[bgp]`
    pub bgp: &'static str,
    /// `[[bgp.peers]]` and other tables
    pub rest: String,
}

impl Config {
    /// The host of a [`Rack`]: one subnet per family, no peers yet.
    pub fn host() -> Self {
        Self::node("10.0.0.2", &["10.244.7.0/24", "fd44:7::/64"])
    }

    /// A host with this address and these subnets.
    pub fn node(address: &'static str, subnets: &'static [&'static str]) -> Self {
        Self { address, asn: HOST_AS, subnets, network: "", bgp: "", rest: String::new() }
    }

    /// With this peer; `options` are lines of its table.
    #[must_use]
    pub fn peer(mut self, name: &str, address: &str, asn: u32, options: &str) -> Self {
        let options = options.replace(';', "\n");
        write!(self.rest, "\n[[bgp.peers]]\nname = \"{name}\"\naddress = \"{address}\"\nasn = {asn}\n{options}\n")
            .unwrap();
        self
    }

    /// With more tables at the end.
    #[must_use]
    pub fn with(mut self, tables: &str) -> Self {
        self.rest.push_str(tables);
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let Self { address, asn, subnets, network, bgp, rest } = self;
        format!(
            "[node]\nname = \"node-{address}\"\naddress = \"{address}\"\n\
             [network]\npools = [\"10.244.0.0/16\", \"fd44::/16\"]\nsubnets = {subnets:?}\nmasquerade = false\n{network}\n\
             [bgp]\nasn = {asn}\nlisten = [\"0.0.0.0:179\", \"[::]:179\"]\nconnect_retry = \"1s\"\n{bgp}\n{rest}\n"
        )
    }
}
