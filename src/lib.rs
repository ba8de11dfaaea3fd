//! **wayleave** makes a container host's subnet an ordinary route of the data-centre network.
//!
//! One crate, three layers. *Pure* modules decide: they take values and `now`, return values, and
//! name no runtime, socket, file, clock or thread. *`io`* carries out and decides nothing.
//! *`daemon`* wires the two: one owner task per piece of state, bounded queues between them.
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`net`] | family, prefix, AS number: words every layer shares |
//! | [`config`] | TOML text → checked [`config::Config`] |
//! | [`bgp`] | attributes, wire format, session, policy, RIB |
//! | [`cluster`] | what nodes know of each other through a store: leases, mesh |
//! | [`bfd`] | one BFD session, its packets, what its failure means for BGP |
//! | [`forward`] | next hop → hop, direct or tunnel, wanted ↔ actual FIB |
//! | [`explain`] | why traffic or a session is as it is: facts in, sentences and a verdict out |
//! | [`firewall`] | which nftables rules the node needs |
//! | [`traffic`] | what the kernel counts by remote node, and what it adds up to |
//! | [`io`] | etcd, tcp, netlink, BFD sockets, tunnel, sysctl, nft, control socket, HTTP |
//! | [`metrics`] | every Prometheus name, help, label |
//! | [`view`] | what the daemon shows: the JSON of the control socket |
//! | [`daemon`] | owners, queues, reload, shutdown |
//! | [`cli`] | one file per subcommand |
//!
//! `tests/layering.rs` holds the rule: pure modules use [`net`] and their own folder; `config`
//! also names the setting types of the pure modules it configures; `bgp` and `forward` do not know
//! each other; `io` modules do not know each other; `cli` talks to the daemon over its socket.

pub mod bfd;
pub mod bgp;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod explain;
pub mod firewall;
pub mod forward;
pub mod io;
pub mod metrics;
pub mod net;
pub mod traffic;
pub mod view;
