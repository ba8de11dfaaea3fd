//! What else traffic needs: answers let in, neighbours, room, the firewall.

use super::{Firewall, Found, Return, Sort, TUNNEL_OVERHEAD, Teller, Traffic};
use crate::explain::kernel::Fate;
use crate::explain::words::{count, list};

impl Found {
    /// Whether answers are let in.
    pub(super) fn returns(&self, teller: &mut Teller) {
        let mut fine = Vec::new();
        for Return { device, filter, accepted } in &self.returns {
            let name = self.devices.name(*device);
            let mode = ["off", "strict", "loose"].get(usize::from(*filter)).unwrap_or(&"unknown");
            if *accepted {
                fine.push(format!("{name} (rp_filter {mode})"));
                continue;
            }
            let key = name.replace('.', "/");
            let text = match filter {
                1 => format!(
                    "an answer that comes in by {name} is dropped: rp_filter is strict there, and the way to {} does not lead by {name}",
                    self.address
                ),
                2 => format!(
                    "an answer that comes in by {name} is dropped: rp_filter is loose there, and no route leads to {}",
                    self.address
                ),
                _ => format!("an answer that comes in by {name} is not let in"),
            };
            teller.problem("return", "reverse-path", text, [format!("`sysctl -w net.ipv4.conf.{key}.rp_filter=2`")]);
        }
        if !fine.is_empty() {
            teller.plain("return", format!("answers are let in by {}", list(fine)));
        }
    }

    pub(super) fn neighbours(&self, teller: &mut Teller) {
        for neighbour in &self.neighbours {
            let words = neighbour.words(&self.devices);
            if !neighbour.is_silent() {
                teller.plain("neighbour", words);
                continue;
            }
            let device = self.devices.name(neighbour.device);
            let advice = match self.sort {
                Sort::Subnet(_) => format!("is the container running, and is {} its address?", self.address),
                _ => format!(
                    "is {} up, and in the same VLAN as {device}? `ip neigh show {}`",
                    neighbour.address, neighbour.address
                ),
            };
            teller.problem("neighbour", "neighbour", words, [advice]);
        }
    }

    pub(super) fn mtu(&self, teller: &mut Teller) {
        let device = |index: u32| self.devices.0.get(&index);
        let Some(out) = self.local.device.filter(|_| self.local.fate == Fate::Sent).and_then(device) else { return };
        let fits = self.local.mtu.map_or(out.mtu, |mtu| mtu.min(out.mtu));
        let mut text = vec![format!("{} octets by {}", out.mtu, out.name)];
        if fits < out.mtu {
            text.push(format!("{fits} by the route or as learned of the path"));
        }
        let tunnel = self.routing.ways.iter().any(|way| way.tunnel && Some(way.device) == self.local.device);
        let underlay = self.underlay.and_then(|(_, answer)| Some((answer, device(answer.device?)?)));
        if let Some((answer, below)) = underlay.filter(|_| tunnel) {
            let room = answer.mtu.map_or(below.mtu, |mtu| mtu.min(below.mtu)).saturating_sub(TUNNEL_OVERHEAD);
            text.push(format!("room for {room} in the tunnel, by {} less {TUNNEL_OVERHEAD}", below.name));
            if fits > room {
                let advice = format!("`ip link set {} mtu {room}`", out.name);
                let text = format!(
                    "{} takes packets of {fits} octets, and {} has room for {room} of them",
                    out.name, below.name
                );
                teller.problem("mtu", "mtu", text, [advice]);
            }
        }
        let inside = self.container.as_ref().and_then(|container| device(container.device));
        if let Some(inside) = inside.filter(|inside| inside.mtu > fits) {
            text.push(format!(
                "containers behind {} send up to {} and are told \"fragmentation needed\": give them an MTU of {fits}",
                inside.name, inside.mtu
            ));
        }
        teller.plain("mtu", text.join("; "));
    }

    pub(super) fn firewall(&self, teller: &mut Teller) {
        let Firewall { table, docker, docker_error, firewalld, guard } = &self.firewall;
        if let Some(error) = table {
            let text = format!("our nftables table is not in force: {error}");
            let advice = "`nft list table inet wayleave`; is nftables installed?".to_owned();
            teller.problem("firewall", "firewall", text, [advice]);
        } else if self.container.is_some() && !matches!(self.sort, Sort::Subnet(_)) {
            teller.plain("firewall", format!("of what containers send, {}", self.source_nat));
        }
        if let Some(error) = docker_error.as_ref().filter(|_| self.inside) {
            let text = format!(
                "Docker may drop what other nodes' containers send here, DOCKER-USER can't be changed: {error}"
            );
            teller.problem("firewall", "docker", text, ["`iptables -S DOCKER-USER`".to_owned()]);
        } else if !docker.is_empty() && docker_error.is_none() {
            teller.plain(
                "firewall",
                format!("Docker lets in what comes from the pools to our subnets (DOCKER-USER, {})", list(docker)),
            );
        }
        if self.inside && !firewalld.is_empty() {
            let advice = format!("`{}`", firewalld.join(" && "));
            teller.problem("firewall", "firewalld", "firewalld rejects our traffic".to_owned(), [advice]);
        }
        if let Some((ends, refused)) = guard.filter(|_| self.underlay.is_some()) {
            let (ends, refused) = (count(ends, "known end", "known ends"), packets(refused));
            teller.plain("firewall", format!("IP-in-IP is taken from {ends} only, {refused} of others refused so far"));
        }
    }

    pub(super) fn traffic(&self, teller: &mut Teller) {
        let Some(Traffic { node, sent, received }) = &self.traffic else { return };
        let ways = |[direct, tunnel]: &[u64; 2]| match tunnel {
            0 => packets(*direct),
            tunnel => format!("{} and {} through the tunnel", packets(*direct), packets(*tunnel)),
        };
        teller.plain("traffic", format!("counted so far to {node}: {}, from it: {}", ways(sent), ways(received)));
    }
}

/// `1 packet`, `2 packets`.
fn packets(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "packet", "packets")
}
