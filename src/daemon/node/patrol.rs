//! Looks often at what tells of no change: most sysctls, and whether the host was asleep.
//!
//! A thread of its own: a timer of the runtime wakes it two or three times for each tick, and a wake
//! costs far more than the look itself.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver};

use crate::io::clock::Sleep;
use crate::io::sysctl::{Held, Look};

/// How often: so that a repair takes less than 200 ms, and the looks a hundredth of a percent of a core.
const EVERY: Duration = Duration::from_millis(120);

/// What was noticed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Noticed {
    /// Some setting is not as it should be
    Setting,
    /// The host was suspended for so long
    Slept(Duration),
}

/// The thread's ends; it goes when they are dropped.
pub(super) struct Patrol {
    beats: Sender<Arc<[Held]>>,
    noticed: Receiver<Noticed>,
}

impl Patrol {
    /// Starts with nothing to look at but the clocks.
    pub(super) fn start() -> io::Result<Self> {
        let (beats, orders) = channel::<Arc<[Held]>>();
        let (out, noticed) = mpsc::channel(1);
        let walk = move || {
            let (mut beat, mut sleep): (Arc<[Held]>, _) = (Arc::default(), Sleep::default());
            loop {
                match orders.recv_timeout(EVERY) {
                    Ok(other) => beat = other,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {}
                }
                // A hint that waits already is as good as this one, a sleep is not.
                if let Some(slept) = sleep.slept() {
                    let _ = out.blocking_send(Noticed::Slept(slept));
                } else if beat.iter().any(|held| held.look() != Look::Right) {
                    let _ = out.try_send(Noticed::Setting);
                }
            }
        };
        std::thread::Builder::new().name("patrol".to_owned()).spawn(walk)?;
        Ok(Self { beats, noticed })
    }

    /// Looks at these from now on.
    pub(super) fn look_at(&self, held: Arc<[Held]>) {
        // The thread doesn't end before us.
        let _ = self.beats.send(held);
    }

    /// Waits until something is noticed. Safe to cancel.
    pub(super) async fn noticed(&mut self) -> Noticed {
        match self.noticed.recv().await {
            Some(noticed) => noticed,
            None => std::future::pending().await,
        }
    }
}
