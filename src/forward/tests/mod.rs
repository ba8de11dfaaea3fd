//! Tests of the forwarder as a whole: tables of what comes of what, and any order of events
//! against a model of the kernel.

mod cases;
mod fib;
mod held;
mod kernel;
mod model;

use std::net::IpAddr;

use super::*;
use crate::net::{Family, Prefix};

const ETH0: u32 = 2;
const ETH1: u32 = 3;
const TUNNEL: u32 = 9;
const TABLE: u32 = 254;
const METRIC: u32 = 1024;
const PROTOCOL: u8 = 87;

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn settings() -> Settings {
    Settings {
        tunnel: TunnelMode::CrossSubnet,
        tunnel_endpoints: Vec::new(),
        pools: vec![p("10.244.0.0/16")],
        tunnel_device: Some(TUNNEL),
        table: TABLE,
        metric: METRIC,
        protocol: PROTOCOL,
        objects: false,
        guard: false,
    }
}

fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.to_owned(), up: true, carrier: true, loopback: false, mtu: 1500 }
}

/// An address as people write it: `192.0.2.11/24`.
fn address(device: u32, text: &str) -> Address {
    let (addr, len) = text.split_once('/').unwrap();
    let addr = ip(addr);
    Address { device, addr, prefix: Prefix::new(addr, len.parse().unwrap()) }
}

fn foreign(prefix: &str, metric: u32, hops: Vec<Hop>) -> ForeignRoute {
    let kind = if hops.is_empty() { RouteKind::Reject } else { RouteKind::Unicast };
    ForeignRoute { prefix: p(prefix), table: TABLE, metric, protocol: 4, kind, hops, nexthop: None }
}

fn via(hops: &[Hop]) -> Target {
    Target::via(hops.iter().copied()).unwrap()
}

/// The ways over these next hops, all told by one peer.
fn ways(next_hops: &[NextHop]) -> Vec<Way> {
    next_hops.iter().map(|next_hop| Way { next_hop: *next_hop, source: 1 }).collect()
}
