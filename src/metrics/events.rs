//! Counters of the journal.

use prometheus::IntCounter;

use super::Register;
use crate::view::EventKind;

/// Counters of the journal.
#[derive(Clone, Debug)]
pub struct EventMetrics {
    noted: [IntCounter; EventKind::ALL.len()],
    /// Events that came when there was no room for them
    pub dropped: IntCounter,
}

impl EventMetrics {
    pub(super) fn new(r: &Register<'_>) -> prometheus::Result<Self> {
        let noted = r.counters("events_total", "Events noted in the journal, by kind.", &["kind"])?;
        Ok(Self {
            noted: EventKind::ALL.map(|kind| noted.with_label_values(&[kind.label()])),
            dropped: r.counter("events_dropped_total", "Events that came when the journal had no room for them.")?,
        })
    }

    /// An event was noted.
    pub fn noted(&self, kind: EventKind) {
        if let Some(counter) = self.noted.get(kind as usize) {
            counter.inc();
        }
    }
}
