//! Leaving the network in stages, without I/O: what others are to see of this node, and for how long.
//!
//! Present → Signalled → Withdrawn → Closed, and back to Present from anywhere. A stage lasts for
//! its pause, counted from the moment that all peers have been told of it; one that doesn't read
//! delays that by [`TELL_LIMIT`] at most.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long peers are waited for that don't take what they are told.
pub const TELL_LIMIT: Duration = Duration::from_secs(30);
/// Between the withdrawal and the end of the sessions: peers take in the one before the other.
pub const SETTLE: Duration = Duration::from_secs(1);
/// What a stage lasts at least after a restart in its midst: peers that kept our routes meanwhile
/// (RFC 4724) come back and hear of it.
pub const RESUME: Duration = Duration::from_secs(10);

/// How far the node has gone.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Not at all
    #[default]
    Present,
    /// All that it announces is marked as about to go away (RFC 8326)
    Signalled,
    /// It announces nothing
    Withdrawn,
    /// It has no sessions and opens none
    Closed,
}

impl Stage {
    /// Name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Signalled => "signalled",
            Self::Withdrawn => "withdrawn",
            Self::Closed => "closed",
        }
    }
}

/// The stages and their times.
#[derive(Clone, Copy, Debug)]
pub struct Phases {
    stage: Stage,
    entered: Instant,
    /// When all peers had been told
    told: Option<Instant>,
    pause: Duration,
}

impl Phases {
    /// A node that is present.
    pub const fn new(now: Instant) -> Self {
        Self { stage: Stage::Present, entered: now, told: None, pause: Duration::ZERO }
    }

    /// Goes on where a former run was; `left`: what remained of the stage.
    pub fn resume(now: Instant, stage: Stage, left: Duration) -> Self {
        Self { stage, entered: now, told: None, pause: left.max(RESUME) }
    }

    /// The stage.
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// Begins to leave and gives peers `wait` to move away; zero: withdraws at once. Asked for again
    /// before the withdrawal the new wait counts, from now on. True: another stage.
    pub fn drain(&mut self, now: Instant, wait: Duration) -> bool {
        match self.stage {
            Stage::Present | Stage::Signalled if wait.is_zero() => self.enter(now, Stage::Withdrawn, SETTLE),
            Stage::Present => self.enter(now, Stage::Signalled, wait),
            Stage::Signalled => {
                self.entered = now;
                self.told = self.told.map(|_| now);
                self.pause = wait;
                return false;
            }
            Stage::Withdrawn | Stage::Closed => return false,
        }
        true
    }

    /// Comes back. True: it was leaving or gone.
    pub fn undrain(&mut self, now: Instant) -> bool {
        let was = self.stage;
        self.enter(now, Stage::Present, Duration::ZERO);
        was != Stage::Present
    }

    /// All peers that are up have been told of the stage.
    pub fn told(&mut self, now: Instant) {
        self.told.get_or_insert(now);
    }

    /// Moves on if it is time. True: another stage.
    pub fn advance(&mut self, now: Instant) -> bool {
        if self.next_deadline().is_none_or(|at| now < at) {
            return false;
        }
        match self.stage {
            Stage::Signalled => self.enter(now, Stage::Withdrawn, SETTLE),
            _ => self.enter(now, Stage::Closed, Duration::ZERO),
        }
        true
    }

    /// When [`advance`](Self::advance) is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let lasts = matches!(self.stage, Stage::Signalled | Stage::Withdrawn);
        lasts.then(|| self.told.unwrap_or(self.entered + TELL_LIMIT) + self.pause)
    }

    /// When the stage ends unless a peer delays it.
    pub fn expected_end(&self) -> Option<Instant> {
        self.next_deadline().map(|_| self.told.unwrap_or(self.entered) + self.pause)
    }

    fn enter(&mut self, now: Instant, stage: Stage, pause: Duration) {
        *self = Self { stage, entered: now, told: None, pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(10);
    const ALMOST: Duration = Duration::from_millis(9_999);

    #[test]
    fn a_stage_lasts_from_when_all_were_told() {
        let start = Instant::now();
        let mut phases = Phases::new(start);
        assert_eq!(phases.next_deadline(), None);
        assert!(phases.drain(start, WAIT));
        assert_eq!((phases.stage(), phases.expected_end()), (Stage::Signalled, Some(start + WAIT)));
        let told = start + Duration::from_secs(3);
        phases.told(told);
        phases.told(told + WAIT);
        assert_eq!(phases.next_deadline(), Some(told + WAIT), "the first time counts");
        assert!(!phases.advance(told + ALMOST));
        let withdrawn = told + WAIT;
        assert!(phases.advance(withdrawn));
        assert_eq!(phases.stage(), Stage::Withdrawn);
        phases.told(withdrawn);
        assert!(phases.advance(withdrawn + SETTLE));
        assert_eq!((phases.stage(), phases.next_deadline()), (Stage::Closed, None));
        assert!(!phases.advance(withdrawn + WAIT), "it stays closed");
        assert!(phases.undrain(withdrawn + WAIT) && !phases.undrain(withdrawn + WAIT));
        assert_eq!(phases.stage(), Stage::Present);
    }

    #[test]
    fn a_peer_that_does_not_read_stops_nothing() {
        let start = Instant::now();
        let mut phases = Phases::new(start);
        phases.drain(start, WAIT);
        assert!(!phases.advance(start + TELL_LIMIT + ALMOST));
        assert!(phases.advance(start + TELL_LIMIT + WAIT));
        let withdrawn = start + TELL_LIMIT + WAIT;
        assert!(phases.advance(withdrawn + TELL_LIMIT + SETTLE));
        assert_eq!(phases.stage(), Stage::Closed);
    }

    #[test]
    fn orders_in_any_stage() {
        let start = Instant::now();
        let at = |stage| {
            let mut phases = Phases::resume(start, stage, WAIT);
            if stage == Stage::Present {
                phases = Phases::new(start);
            }
            phases.told(start);
            phases
        };
        let (now, second) = (start + Duration::from_secs(1), Duration::from_secs(1));
        let cases = [
            // (why, stage, wait, another stage, wanted stage, wanted deadline)
            ("the usual", Stage::Present, WAIT, true, Stage::Signalled, Some(now + TELL_LIMIT + WAIT)),
            ("at once", Stage::Present, Duration::ZERO, true, Stage::Withdrawn, Some(now + TELL_LIMIT + SETTLE)),
            ("impatience", Stage::Signalled, second, false, Stage::Signalled, Some(now + second)),
            ("more time", Stage::Signalled, 2 * WAIT, false, Stage::Signalled, Some(now + 2 * WAIT)),
            (
                "now, in its midst",
                Stage::Signalled,
                Duration::ZERO,
                true,
                Stage::Withdrawn,
                Some(now + TELL_LIMIT + SETTLE),
            ),
            ("too late to wait", Stage::Withdrawn, WAIT, false, Stage::Withdrawn, Some(start + WAIT)),
            ("drained", Stage::Closed, Duration::ZERO, false, Stage::Closed, None),
        ];
        for (why, stage, wait, moved, wanted, deadline) in cases {
            let mut phases = at(stage);
            assert_eq!(phases.drain(now, wait), moved, "{why}");
            assert_eq!((phases.stage(), phases.next_deadline()), (wanted, deadline), "{why}");
            assert!(phases.undrain(now), "{why}: from anywhere back");
        }
    }

    #[test]
    fn after_a_restart_peers_get_time_to_come_back() {
        let start = Instant::now();
        for (left, wanted) in [(Duration::ZERO, RESUME), (3 * RESUME, 3 * RESUME)] {
            let mut phases = Phases::resume(start, Stage::Signalled, left);
            phases.told(start);
            assert_eq!(phases.next_deadline(), Some(start + wanted));
        }
        assert_eq!(Phases::resume(start, Stage::Closed, RESUME).next_deadline(), None);
    }
}
