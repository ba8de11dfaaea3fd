//! `GET /v1/events`: what happened, and on request what happens from now on.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query as Params, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::refuse;
use crate::daemon::Handles;
use crate::daemon::journal::{Filter, Found};
use crate::view::{Event, EventLine, Events, EventsQuery, Missed};

/// Answers with the events, or with a line of JSON for each and those to come.
pub(super) async fn events(State(handles): State<Handles>, Params(query): Params<EventsQuery>) -> Response {
    let follow = query.follow;
    let filter = match filter(query) {
        Ok(filter) => filter,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error),
    };
    let stopping = || refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping");
    if follow {
        let Some((found, live)) = handles.journal.follow(filter.clone()).await else { return stopping() };
        let begun = Followed::Past(found, live);
        let lines = stream::unfold((begun, filter), |(state, filter)| async move {
            let (text, state) = state.next(&filter).await?;
            Some((Ok::<_, Infallible>(text), (state, filter)))
        });
        return ([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response();
    }
    let Some(found) = handles.journal.find(filter).await else { return stopping() };
    let events = found.events.iter().map(|event| Event::clone(event)).collect();
    Json(Events { events, forgotten: found.forgotten }).into_response()
}

fn filter(query: EventsQuery) -> Result<Filter, String> {
    let since = query.since.map(|since| {
        let at = humantime::parse_rfc3339(&since);
        let at = at.map_err(|_| format!("since: `{since}` is no time such as 2026-07-14T01:12:45Z"))?;
        Ok::<_, String>(humantime::format_rfc3339_millis(at).to_string())
    });
    let kinds = query.kind.as_deref().unwrap_or_default().split(',').map(str::trim).filter(|kind| !kind.is_empty());
    Ok(Filter {
        since: since.transpose()?,
        after: query.after,
        kinds: kinds.map(str::parse).collect::<Result<_, _>>()?,
        about: query.subject.filter(|about| !about.is_empty()),
        limit: query.limit,
    })
}

/// How far one who follows has come.
enum Followed {
    Past(Found, Receiver<Arc<Event>>),
    Present(Receiver<Arc<Event>>),
    /// Cut off
    Over,
}

impl Followed {
    /// What to send next.
    async fn next(self, filter: &Filter) -> Option<(String, Self)> {
        let mut live = match self {
            Self::Past(found, live) => {
                let mut text = String::new();
                if found.forgotten > 0 {
                    text.push_str(&missed(found.forgotten, "they are not kept any more"));
                }
                for event in &found.events {
                    text.push_str(&line(&EventLine::Event(Event::clone(event))));
                }
                return Some((text, Self::Present(live)));
            }
            Self::Present(live) => live,
            Self::Over => return None,
        };
        loop {
            match live.recv().await {
                Ok(event) if filter.wants(&event) => {
                    return Some((line(&EventLine::Event(Event::clone(&event))), Self::Present(live)));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => {
                    let text = missed(count, "they came faster than they were read; this is the end, ask again");
                    return Some((text, Self::Over));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn missed(missed: u64, why: &str) -> String {
    line(&EventLine::Missed(Missed { missed, why: why.to_owned() }))
}

/// A line of JSON. Plain data always has one.
fn line(line: &EventLine) -> String {
    serde_json::to_string(line).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;
    use crate::view::EventKind;

    fn event(seq: u64, kind: EventKind) -> Arc<Event> {
        let (time, subject, what) = ("2026-07-14T01:12:45.123Z".to_owned(), "tor-a".to_owned(), "lost".to_owned());
        Arc::new(Event { seq, time, kind, subject, what, cause: None })
    }

    #[tokio::test]
    async fn who_reads_too_slowly_is_told_how_much_is_missing() {
        let (sender, live) = broadcast::channel(2);
        let filter = Filter { kinds: vec![EventKind::Bfd], ..Filter::default() };
        let found = Found { events: vec![event(1, EventKind::Bfd)], forgotten: 7 };
        let (text, state) = Followed::Past(found, live).next(&filter).await.unwrap();
        let lines: Vec<EventLine> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(matches!(&lines[..], [EventLine::Missed(Missed { missed: 7, .. }), EventLine::Event(_)]), "{text}");

        sender.send(event(2, EventKind::Route)).unwrap();
        sender.send(event(3, EventKind::Bfd)).unwrap();
        let (text, state) = state.next(&filter).await.unwrap();
        assert!(text.contains("\"seq\":3") && text.lines().count() == 1, "only what is asked for: {text}");
        for seq in 4..9 {
            sender.send(event(seq, EventKind::Bfd)).unwrap();
        }
        let (text, state) = state.next(&filter).await.unwrap();
        assert!(text.contains("\"missed\":3"), "{text}");
        assert!(state.next(&filter).await.is_none(), "cut off");
    }

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let query = |since: &str, kind: &str| EventsQuery {
            since: Some(since.to_owned()),
            kind: Some(kind.to_owned()),
            ..EventsQuery::default()
        };
        let filter = filter(query("2026-07-14T01:12:45Z", "session, route")).unwrap();
        assert_eq!(filter.since.as_deref(), Some("2026-07-14T01:12:45.000Z"));
        assert_eq!(filter.kinds, [EventKind::Session, EventKind::Route]);
        for (since, kind) in [("yesterday", ""), ("2026-07-14T01:12:45Z", "sesion")] {
            assert!(super::filter(query(since, kind)).is_err(), "{since} {kind}");
        }
    }
}
