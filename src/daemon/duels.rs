//! What somebody keeps undoing, in words: the same for all tasks that put things right.

use std::fmt::Display;
use std::time::{Instant, SystemTime};

use super::journal::{Journal, Note};
use super::time;
use crate::forward::duel::{Duel, Kind};
use crate::view::{self, EventKind};

/// It has become a duel: told once.
pub fn begins(journal: &Journal, kind: Kind, what: &impl Display, by: Option<&str>) {
    let (kind, by) = (kind.label(), by.unwrap_or("unknown"));
    let note = Note::new(EventKind::Duel, what.to_string(), "somebody keeps changing it, repairs are slowed down");
    journal.note(note.because(format!("done by {by}")));
    tracing::error!(kind, %what, by, "somebody keeps changing what is ours, repairs are slowed down");
}

/// It is over.
pub fn ends(journal: &Journal, kind: Kind, what: &impl Display) {
    journal.note(Note::new(EventKind::Duel, what.to_string(), "nobody changes it any more"));
    tracing::info!(kind = kind.label(), %what, "nobody changes it any more");
}

/// For `status`.
pub fn show<T: Display>(kind: Kind, duel: &Duel<'_, T>, now: Instant) -> view::Duel {
    view::Duel {
        kind: kind.label().to_owned(),
        what: duel.what.to_string(),
        by: duel.by.map(str::to_owned),
        since: time(SystemTime::now() - now.saturating_duration_since(duel.since)),
        repairs: duel.repairs,
        next_try: time(SystemTime::now() + duel.next.saturating_duration_since(now)),
    }
}
