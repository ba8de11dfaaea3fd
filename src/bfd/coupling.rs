//! What a failed BFD session means for the BGP session beside it (RFC 5882 §3.2 and §4.3).

/// How the BGP session is when BFD fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Client {
    /// Established
    Established,
    /// Not established; routes of the peer may be kept because it restarts (RFC 4724)
    NotEstablished,
}

/// What follows for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Nothing
    None,
    /// The session ends now, and nothing of the peer is kept
    EndSession,
    /// What is kept of the peer while it restarts goes now
    DropStale,
}

/// What follows when BFD goes from Up to Down and the other side did not say AdminDown
/// (RFC 5882 §3.2: AdminDown says nothing about the path, so clients take no action).
///
/// `independent`: the C bit of the peer, "BFD outlives the control plane".
///
/// An established session ends whatever the C bit. BGP has no word for a planned restart, so a
/// peer whose TCP still stands has not begun one, and RFC 5882 §4.3.2.2 lets BFD's failure count as
/// one of the path. Once TCP has told of the restart, a BFD that dies with the control plane has
/// died of it and says nothing (§4.3.2); one that outlives it tells that forwarding is dead, so
/// the restart is given up (§4.3.1).
///
/// Deviation: §4.3.1 wants the C bit in both directions. Ours is never set, but it matters to the
/// peer only: we, who judge here, have not restarted.
pub const fn on_failure(client: Client, independent: bool) -> Effect {
    match (client, independent) {
        (Client::Established, _) => Effect::EndSession,
        (Client::NotEstablished, true) => Effect::DropStale,
        (Client::NotEstablished, false) => Effect::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_path_and_a_restart_are_told_apart() {
        let cases = [
            // (why, BGP, C bit, wanted)
            ("a router gone silent", Client::Established, false, Effect::EndSession),
            ("the same, BFD in its hardware", Client::Established, true, Effect::EndSession),
            ("its daemon restarts and took BFD along", Client::NotEstablished, false, Effect::None),
            ("while it restarts, its forwarding dies too", Client::NotEstablished, true, Effect::DropStale),
        ];
        for (why, client, independent, wanted) in cases {
            assert_eq!(on_failure(client, independent), wanted, "{why}");
        }
    }
}
