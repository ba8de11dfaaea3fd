//! BGP-4, without I/O: messages, sessions, policy and routing tables.
//!
//! `wire` turns bytes into [`message`] values and back, `session` is one peer's state machine,
//! `policy` accepts or rejects, `rib` decides, `sync` says when a node that starts has heard enough,
//! `restarts` how long routes of peers that restart are kept. Nothing here opens a socket or reads a clock.

pub mod attrs;
pub mod message;
pub mod policy;
pub mod restarts;
pub mod rib;
pub mod session;
pub mod sync;
pub mod wire;
