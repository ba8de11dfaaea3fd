//! Leaving the network and coming back, as far as routes go.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Routing;
use crate::bgp::sync::Sync;
use crate::daemon::drain::Stage;

/// How long routes from before the drain wait for their peer to send them again.
const RETURN_LIMIT: Duration = Duration::from_secs(30);

impl Routing {
    /// Peers see another stage of our leaving; `told` is answered once all that are up know of it.
    pub(super) fn drain(&mut self, stage: Stage, told: oneshot::Sender<()>) {
        let former = std::mem::replace(&mut self.stage, stage);
        self.told = Some(told);
        self.regroup();
        if former == Stage::Closed && stage == Stage::Present {
            self.come_back();
        }
    }

    /// As after a start: what was kept stays until peers have sent all again, or don't come.
    fn come_back(&mut self) {
        let now = Instant::now();
        self.sync = Sync::new(now.into_std());
        for (id, peer) in &self.peers {
            self.sync.add(*id, now.into_std(), peer.dynamic);
            if self.rib.counters(*id).is_some_and(|counters| counters.stale > 0) {
                self.restarts.begin(*id, now.into_std(), RETURN_LIMIT);
            }
        }
        self.sync.gathered();
    }

    /// Answers whoever waits for peers to be told.
    pub(super) fn tell_of_telling(&mut self) {
        if self.told.is_some()
            && self.outbound.is_told()
            && let Some(told) = self.told.take()
        {
            // Another stage may have begun meanwhile, then nobody waits for this one.
            let _ = told.send(());
        }
    }
}
