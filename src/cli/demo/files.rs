//! The configurations of the routers and of the hosts.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;

use super::topology::{Host, MESH_AS, Topology, Tor};

/// Which of the two designs is built.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Design {
    /// Hosts peer with their ToR by eBGP; routers carry the container routes
    Fabric,
    /// Hosts peer with each other by iBGP; routers know nothing of containers
    Mesh,
}

/// BIRD on a ToR: towards the other rack it announces its LAN; sessions with hosts only in the fabric.
pub(super) fn tor(topology: &Topology, tor: &Tor, design: Design) -> String {
    let mut text = router(tor.address);
    text.push_str("protocol direct { ipv4; interface \"eth0\"; }\n");
    for (_, here, other, there) in topology.uplinks_of(tor) {
        session(&mut text, &other.name, (here, tor.asn), (there, other.asn));
    }
    if design == Design::Fabric {
        for host in topology.hosts_of(&tor.rack) {
            session(&mut text, &host.name, (tor.address, tor.asn), (host.address, host.asn));
        }
    }
    text
}

fn router(id: Ipv4Addr) -> String {
    format!(
        "log stderr all;\nrouter id {id};\nprotocol device {{ scan time 1; }}\n\
         protocol kernel {{ merge paths on; ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n"
    )
}

fn session(text: &mut String, name: &str, (local, local_as): (Ipv4Addr, u32), (remote, remote_as): (Ipv4Addr, u32)) {
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "protocol bgp {name} {{ local {local} as {local_as}; neighbor {remote} as {remote_as}; hold time 9; \
         connect delay time 1; connect retry time 1; error wait time 1, 2; ipv4 {{ import all; export all; }}; }}"
    );
}

/// wayleave on a host.
pub(super) fn host(topology: &Topology, host: &Host, design: Design, dir: &Path) -> String {
    let (name, dir, pool) = (&host.name, dir.display(), topology.pool);
    let (asn, tunnel) = match design {
        Design::Fabric => (host.asn, "never"),
        Design::Mesh => (MESH_AS, "cross-subnet"),
    };
    let mut text = format!(
        "state_dir = \"{dir}/{name}.state\"\n\n[node]\nname = \"{name}\"\naddress = \"{}\"\n\n\
         [network]\npools = [\"{pool}\"]\nsubnets = [\"{}\"]\ntunnel = \"{tunnel}\"\nmasquerade = false\nsubnet_file = \"\"\n\n\
         [bgp]\nasn = {asn}\nconnect_retry = \"1s\"\n",
        host.address, host.subnet
    );
    let peers: Vec<(&str, Ipv4Addr, u32)> = match design {
        Design::Fabric => topology.tors_of(&host.rack).map(|tor| (tor.name.as_str(), tor.address, tor.asn)).collect(),
        Design::Mesh => {
            let others = topology.hosts.iter().filter(|other| other.name != host.name);
            others.map(|other| (other.name.as_str(), other.address, MESH_AS)).collect()
        }
    };
    for (peer, address, asn) in peers {
        let _ = write!(text, "\n[[bgp.peers]]\nname = \"{peer}\"\naddress = \"{address}\"\nasn = {asn}\n");
    }
    let _ = write!(text, "\n[metrics]\nlisten = \"127.0.0.1:9887\"\n\n[control]\nsocket = \"{dir}/{name}.sock\"\n");
    text
}
