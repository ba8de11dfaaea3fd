//! Tells the supervisor how we are: ready, reloading, stopping, a line of status, and signs of life.
//!
//! A sign of life is given only when the routing task, the peers' and the node's have each answered since
//! the last one. One that is stuck leaves the process running, its sessions up and its routes ever older; the
//! supervisor then kills it and starts another, which loses no packet.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Handles;
use super::peers::{Listed, Request};
use super::routing::RoutingStatus;
use crate::bgp::session::State;
use crate::io::supervisor::Supervisor;

/// How often the status line is made anew where nobody wants signs of life.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// So often the tasks are asked before the supervisor's patience ends.
const TRIES: u32 = 4;

/// What is sent to a task to see whether it answers.
pub type Ping = oneshot::Sender<()>;

/// Whoever started us, or nobody.
#[derive(Clone, Debug)]
pub struct Supervision(Arc<Supervisor>);

impl Supervision {
    /// As the environment says.
    pub fn from_env() -> Self {
        let supervisor = Supervisor::from_env().unwrap_or_else(|error| {
            tracing::warn!(%error, "NOTIFY_SOCKET can't be used: the supervisor hears nothing of us");
            Supervisor::default()
        });
        Self(Arc::new(supervisor))
    }

    /// The control socket answers, so whoever waits for us may start. Not when the first routes are in: that
    /// takes peers, and a host whose routers are away must come up too (`/readyz` tells of routes).
    pub fn ready(&self) {
        self.tell(&["READY=1"]);
    }

    /// A reload begins; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) {
        self.tell(&["RELOADING=1"]);
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.tell(&["STOPPING=1", "STATUS=stopping, forwarding stays in place"]);
    }

    /// Says that we are up, and gives signs of life until the daemon exits.
    pub fn start(&self, handles: Handles, node: mpsc::Sender<Ping>) {
        self.ready();
        let ask = move |limit| ask(handles.clone(), node.clone(), limit);
        tokio::spawn(self.clone().watch(ask));
    }

    /// `ask` has some time to give a status line, or else the tasks that don't answer.
    async fn watch<A>(self, ask: impl Fn(Duration) -> A)
    where
        A: Future<Output = Result<String, Vec<&'static str>>>,
    {
        if !self.0.listens() {
            return;
        }
        let patience = self.0.watchdog();
        let every = patience.map_or(STATUS_EVERY, |patience| patience / TRIES);
        let mut turn = interval(every);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            match ask(every).await {
                Ok(status) if patience.is_some() => self.tell(&["WATCHDOG=1", &format!("STATUS={status}")]),
                Ok(status) => self.tell(&[&format!("STATUS={status}")]),
                Err(tasks) => tracing::error!(?tasks, "tasks don't answer, so the supervisor gets no sign of life"),
            }
        }
    }

    fn tell(&self, lines: &[&str]) {
        if let Err(error) = self.0.tell(lines) {
            tracing::debug!(%error, ?lines, "the supervisor can't be told");
        }
    }
}

/// Asks the tasks without which the daemon is of no use.
async fn ask(handles: Handles, node: mpsc::Sender<Ping>, limit: Duration) -> Result<String, Vec<&'static str>> {
    let (peers, pinged) = (super::ask(&handles.peers, Request::List), super::ask(&node, |answer| answer));
    let (routing, peers, node) =
        tokio::join!(timeout(limit, handles.routing_status()), timeout(limit, peers), timeout(limit, pinged));
    match (routing.ok().flatten(), peers.ok().flatten(), node.ok().flatten()) {
        (Some(routing), Some(peers), Some(())) => Ok(line(&routing, &peers, handles.file.borrow().error.is_some())),
        (routing, peers, node) => {
            let silent = [("routing", routing.is_none()), ("peers", peers.is_none()), ("node", node.is_none())];
            Err(silent.into_iter().filter(|(_, silent)| *silent).map(|(task, _)| task).collect())
        }
    }
}

/// How we are, for `systemctl status`.
fn line(routing: &RoutingStatus, peers: &[Listed], refused: bool) -> String {
    let up = peers.iter().filter(|peer| peer.status.state == State::Established).count();
    let ready = if routing.ready { "ready" } else { "not ready" };
    let refused = if refused { "; the last reload was refused" } else { "" };
    let text = format!(
        "{ready}: {}; {up} of {} sessions up, {} of {} routes in the kernel{refused}",
        routing.ready_reason,
        peers.len(),
        routing.fib.installed,
        routing.fib.wanted,
    );
    // The words of who drained the node are in it.
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use tokio::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn no_sign_of_life_while_a_task_is_stuck() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let patience = Duration::from_millis(4);
        let supervision = Supervision(Arc::new(Supervisor::new(path.as_os_str(), Some(patience)).unwrap()));
        let (answers, queue) = mpsc::channel(8);
        let queue = Arc::new(Mutex::new(queue));
        tokio::spawn(supervision.watch(move |_| {
            let queue = Arc::clone(&queue);
            // No answer: as a task that never gives one.
            async move {
                let next = queue.lock().await.recv().await;
                next.unwrap()
            }
        }));
        for answer in [Ok("well"), Err(vec!["node"]), Err(vec!["node", "peers"]), Ok("well again")] {
            answers.send(answer.map(str::to_owned)).await.unwrap();
        }
        let heard = tokio::task::spawn_blocking(move || {
            let mut bytes = [0; 256];
            [(); 2].map(|()| {
                let len = listener.recv(&mut bytes).unwrap();
                String::from_utf8_lossy(&bytes[..len]).into_owned()
            })
        });
        assert_eq!(heard.await.unwrap(), ["WATCHDOG=1\nSTATUS=well", "WATCHDOG=1\nSTATUS=well again"]);
    }
}
