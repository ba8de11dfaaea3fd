//! The program among real routers, kernels and packets.
//!
//! Each test is a story that an operator could tell: it builds a small network of namespaces with
//! BIRD or FRR as the physical routers and the real `wayleave run` on the hosts, and asks BIRD, FRR,
//! `ip` and the packets themselves, never the code under test alone.
//!
//! They need root and the Debian packages of `scripts/install-deps test`; what is missing makes them
//! fail, never pass silently.

// The whole crate is tests: a helper that unwraps is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod bfd;
mod bird;
mod bundle;
mod cluster;
mod config;
mod demo;
mod docker;
mod drain;
mod ecmp;
mod etcd;
mod events;
mod explain;
mod failover;
mod failover_bfd;
mod firewall;
mod frr;
mod graceful;
mod grafana;
mod harness;
mod hostile;
mod kernel;
mod metrics;
mod packaging;
mod realdata;
mod reflector;
mod reload;
mod repair;
mod scale;
mod secrets;
mod seen;
mod slow;
mod story;
mod supervisor;
mod tor;
mod traffic;
mod traffic_rules;
mod uml;
mod vagrant;
