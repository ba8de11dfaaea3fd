//! Bidirectional Forwarding Detection: one session's state machine (RFC 5880 §6.8), its packets,
//! and what its failure means for BGP (RFC 5882).
//!
//! No I/O and no clock: `now` comes in, packets to send go out. The same machine serves a link
//! (RFC 5881) and a path over routers (RFC 5883); which it is only the sockets know.

mod coupling;
mod packet;
mod session;
#[cfg(test)]
mod tests;

pub use self::coupling::{Client, Effect, on_failure};
pub use self::packet::{Diagnostic, Discard, LEN, Packet, State};
pub use self::session::{Change, Output, Session, Settings, Snapshot};
