//! Rules as tables; whole networks on a virtual clock.

mod rules;
mod world;

use crate::cluster::node::Node;

fn record(n: u8) -> Node {
    Node {
        id: format!("{n}"),
        address: format!("192.0.2.{n}").parse().unwrap(),
        asn: crate::net::Asn(64512),
        router_id: format!("192.0.2.{n}").parse().unwrap(),
        port: 179,
        subnets: Vec::new(),
        tunnels: Vec::new(),
        version: String::new(),
        mesh: true,
        reflector: false,
        settled: String::new(),
        drained: false,
    }
}
