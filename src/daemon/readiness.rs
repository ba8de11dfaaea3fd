//! Whether the node is ready, from all who have a say: `status`, `/readyz`, metrics and the log say the same.

use std::sync::Arc;

use tokio::sync::watch;

use super::Handles;
use super::journal::Note;
use crate::view::EventKind;

impl Handles {
    /// What the first synchronisation says, unless the lease or a drain knows better: a node that has no
    /// subnet or leaves is not ready, whatever its routes are.
    pub(super) fn readiness(&self, synchronised: bool, reason: &str) -> (bool, String) {
        let drain = self.drain.borrow().clone();
        if drain.is_leaving() {
            return (false, drain.to_string());
        }
        match self.cluster.unready() {
            Some(reason) => (false, reason),
            None => (synchronised, reason.to_owned()),
        }
    }
}

/// Tells the log and the journal when that changes, until the daemon exits.
pub(super) async fn tell(mut handles: Handles) {
    let (mut cluster, mut drain) = (handles.cluster.follow(), handles.drain.clone());
    let (mut was_ready, mut waits_for) = (false, None);
    loop {
        cluster.mark_unchanged();
        drain.mark_unchanged();
        let numbers = Arc::clone(&handles.numbers.borrow_and_update());
        let (ready, reason) = handles.readiness(numbers.ready, &numbers.ready_reason);
        let note = |what: &str| {
            handles.journal.note(Note::new(EventKind::Daemon, "wayleave", what).because(reason.clone()));
        };
        match (was_ready, ready) {
            (false, true) => {
                tracing::info!(reason, "ready");
                note("ready");
            }
            (true, false) => {
                tracing::warn!(reason, "not ready any more");
                note("not ready any more");
            }
            // Peers that are waited for tell of themselves.
            (false, false) if numbers.ready && waits_for.as_ref() != Some(&reason) => {
                tracing::info!(reason, "not ready yet");
            }
            _ => {}
        }
        was_ready = ready;
        waits_for = (!ready && numbers.ready).then_some(reason);
        tokio::select! {
            // The routing task has ended, and the daemon does.
            numbers = handles.numbers.changed() => if numbers.is_err() { return },
            () = changed(&mut cluster) => {}
            () = changed(&mut drain) => {}
        }
    }
}

/// Waits for news; for ever, if none can come.
async fn changed<T>(of: &mut watch::Receiver<T>) {
    if of.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
