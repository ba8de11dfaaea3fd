//! The last events, as they are kept in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Note;
use crate::view::{Event, EventKind};

/// Which events are asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Not before this time, written as the events have it
    pub since: Option<String>,
    /// Only those behind this number
    pub after: Option<u64>,
    /// Only of these kinds; empty: of all
    pub kinds: Vec<EventKind>,
    /// Only those that concern this
    pub about: Option<String>,
    /// At most so many, the newest
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether an event is asked for, whenever it happened.
    pub fn wants(&self, event: &Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.about.as_ref().is_none_or(|about| event.concerns(about))
    }

    fn is_late_enough(&self, event: &Event) -> bool {
        self.after.is_none_or(|after| event.seq > after) && self.since.as_ref().is_none_or(|since| event.time >= *since)
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The oldest first
    pub events: Vec<Arc<Event>>,
    /// How many that were asked for may have been before these and are not kept
    pub forgotten: u64,
}

/// The last events.
#[derive(Debug)]
pub struct Ring {
    events: VecDeque<Arc<Event>>,
    room: usize,
    next: u64,
}

impl Ring {
    /// Goes on behind the events of a former run: a text with one a line, of which what can't be read is
    /// passed over.
    pub fn new(room: usize, former: &str) -> Self {
        let mut ring = Self { events: VecDeque::new(), room, next: 1 };
        for event in former.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok()) {
            ring.next = ring.next.max(event.seq.saturating_add(1));
            ring.keep(Arc::new(event));
        }
        ring
    }

    fn keep(&mut self, event: Arc<Event>) {
        if self.events.len() == self.room {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Takes an event in.
    pub fn push(&mut self, note: Note) -> Arc<Event> {
        let Note { at, kind, subject, what, cause } = note;
        let time = humantime::format_rfc3339_millis(at).to_string();
        let event = Arc::new(Event { seq: self.next, time, kind, subject, what, cause });
        self.next = self.next.saturating_add(1);
        self.keep(Arc::clone(&event));
        event
    }

    /// The events that are asked for.
    pub fn find(&self, filter: &Filter) -> Found {
        let wanted = |event: &&Arc<Event>| filter.is_late_enough(event) && filter.wants(event);
        let limit = filter.limit.unwrap_or(usize::MAX);
        let mut events: Vec<Arc<Event>> = self.events.iter().rev().filter(wanted).take(limit).cloned().collect();
        events.reverse();
        let before = self.events.front().map_or(self.next, |oldest| oldest.seq).saturating_sub(1);
        let oldest_fits = self.events.front().is_none_or(|oldest| filter.is_late_enough(oldest));
        let forgotten = match (filter.after, &filter.since) {
            // The newest that were asked for are all there.
            _ if events.len() == limit => 0,
            (Some(after), _) => before.saturating_sub(after),
            (None, Some(_)) if oldest_fits => before,
            (None, _) => 0,
        };
        Found { events, forgotten }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn note(second: u64, kind: EventKind, subject: &str) -> Note {
        let mut note = Note::new(kind, subject, "happened");
        note.at = UNIX_EPOCH + Duration::from_secs(second);
        note
    }

    fn ring(room: usize, count: u64) -> Ring {
        let mut ring = Ring::new(room, "");
        for second in 1..=count {
            let kind = if second % 2 == 0 { EventKind::Session } else { EventKind::Route };
            ring.push(note(second, kind, if second % 3 == 0 { "tor-a" } else { "tor-b" }));
        }
        ring
    }

    fn time(second: u64) -> String {
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_secs(second)).to_string()
    }

    #[test]
    fn what_is_asked_for_is_found_and_what_is_forgotten_is_said() {
        // Of 20 events the last 10 are kept: 11 to 20.
        let ring = ring(10, 20);
        let all = Filter::default;
        let cases: [(&str, Filter, &[u64], u64); 9] = [
            ("everything", all(), &[11, 12, 13, 14, 15, 16, 17, 18, 19, 20], 0),
            ("the newest", Filter { limit: Some(2), ..all() }, &[19, 20], 0),
            ("of a kind", Filter { kinds: vec![EventKind::Session], ..all() }, &[12, 14, 16, 18, 20], 0),
            ("about somebody", Filter { about: Some("tor-a".to_owned()), ..all() }, &[12, 15, 18], 0),
            ("since a time", Filter { since: Some(time(18)), ..all() }, &[18, 19, 20], 0),
            (
                "since the oldest",
                Filter { since: Some(time(11)), limit: Some(10), ..all() },
                &[11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
                0,
            ),
            (
                "since before the oldest",
                Filter { since: Some(time(5)), kinds: vec![EventKind::Limit], ..all() },
                &[],
                10,
            ),
            ("behind a number", Filter { after: Some(18), ..all() }, &[19, 20], 0),
            ("behind a number that is gone", Filter { after: Some(7), kinds: vec![EventKind::Limit], ..all() }, &[], 3),
        ];
        for (why, filter, wanted, forgotten) in cases {
            let found = ring.find(&filter);
            assert_eq!(found.events.iter().map(|event| event.seq).collect::<Vec<_>>(), wanted, "{why}");
            assert_eq!(found.forgotten, forgotten, "{why}");
        }
        let empty = Ring::new(10, "").find(&Filter { since: Some(time(1)), ..all() });
        assert_eq!((empty.events.len(), empty.forgotten), (0, 0));
    }

    #[test]
    fn a_former_run_is_gone_on_with() {
        let lines = |events: &[Arc<Event>]| {
            events.iter().map(|event| serde_json::to_string(&**event).unwrap() + "\n").collect::<String>()
        };
        let found = ring(10, 3).find(&Filter::default());
        let text = format!("{}{{\"seq\":4,\"ti\n\nnonsense\n", lines(&found.events));
        let mut again = Ring::new(10, &text);
        again.push(note(9, EventKind::Daemon, "wayleave"));
        let all = again.find(&Filter::default());
        assert_eq!(all.events[..3], found.events[..]);
        assert_eq!(all.events.last().map(|event| event.seq), Some(4), "what can't be read has no number");
        for (was, wanted) in [("0", 1), ("18446744073709551615", u64::MAX)] {
            let mut broken = Ring::new(10, &text.replace("\"seq\":1", &format!("\"seq\":{was}")));
            broken.push(note(9, EventKind::Daemon, "wayleave"));
            let found = broken.find(&Filter { since: Some(time(0)), ..Filter::default() });
            assert!(found.events.last().is_some_and(|event| event.seq >= wanted), "{was}: {found:?}");
        }
    }
}
