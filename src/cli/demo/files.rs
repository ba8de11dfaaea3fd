//! The configurations of the routers and of the hosts.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;

use super::topology::{HOSTS, Host, MESH_AS, POOL, RACKS, Rack, SPINE_AS};

/// Which of the two designs is built.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Design {
    /// Hosts peer with their ToR by eBGP; routers carry the container routes
    Fabric,
    /// Hosts peer with each other by iBGP; routers know nothing of containers
    Mesh,
}

/// BIRD on the spine: it passes on what the ToRs say.
pub(super) fn spine() -> String {
    let mut text = router(Ipv4Addr::new(10, 255, 1, 1));
    for rack in RACKS {
        let (here, there) = rack.uplink();
        session(&mut text, &format!("tor{}", rack.number), (here, SPINE_AS), (there, rack.asn()));
    }
    text
}

/// BIRD on a ToR: towards the spine it announces the rack's LAN; sessions with hosts only in the fabric.
pub(super) fn tor(rack: Rack, design: Design) -> String {
    let mut text = router(rack.gateway());
    text.push_str("protocol direct { ipv4; interface \"rack\"; }\n");
    let (there, here) = rack.uplink();
    session(&mut text, "spine", (here, rack.asn()), (there, SPINE_AS));
    if design == Design::Fabric {
        for host in rack.hosts() {
            session(&mut text, &host.name(), (rack.gateway(), rack.asn()), (host.address(), host.asn()));
        }
    }
    text
}

fn router(id: Ipv4Addr) -> String {
    format!(
        "log stderr all;\nrouter id {id};\nprotocol device {{ scan time 1; }}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n"
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
pub(super) fn host(host: Host, design: Design, dir: &Path) -> String {
    let (name, dir) = (host.name(), dir.display());
    let (asn, tunnel) = match design {
        Design::Fabric => (host.asn(), "never"),
        Design::Mesh => (MESH_AS, "cross-subnet"),
    };
    let mut text = format!(
        "state_dir = \"{dir}/{name}.state\"\n\n[node]\nname = \"{name}\"\naddress = \"{}\"\n\n\
         [network]\npools = [\"{POOL}\"]\nsubnets = [\"{}\"]\ntunnel = \"{tunnel}\"\nmasquerade = false\nsubnet_file = \"\"\n\n\
         [bgp]\nasn = {asn}\nconnect_retry = \"1s\"\n",
        host.address(),
        host.subnet()
    );
    let peers: Vec<(String, Ipv4Addr, u32)> = match design {
        Design::Fabric => {
            let rack = host.rack();
            vec![(format!("tor{}", rack.number), rack.gateway(), rack.asn())]
        }
        Design::Mesh => HOSTS
            .into_iter()
            .filter(|other| *other != host)
            .map(|other| (other.name(), other.address(), MESH_AS))
            .collect(),
    };
    for (peer, address, asn) in peers {
        let _ = write!(text, "\n[[bgp.peers]]\nname = \"{peer}\"\naddress = \"{address}\"\nasn = {asn}\n");
    }
    let _ = write!(text, "\n[metrics]\nlisten = \"127.0.0.1:9887\"\n\n[control]\nsocket = \"{dir}/{name}.sock\"\n");
    text
}
