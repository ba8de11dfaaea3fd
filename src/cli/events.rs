//! `wayleave events`: what happened, when, and why.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use super::client::query_value;
use super::{DaemonArgs, Error};
use crate::view::{Event, EventKind, EventLine, Events as View, Missed};

/// Events that are shown unless more are asked for.
const SHOWN: usize = 50;

/// Show what happened to sessions, routes, leases, and what was repaired: the last 50, with the cause of each
#[derive(Debug, Args)]
pub(super) struct Events {
    /// All since then: `10m` (ago), `today`, `03:00`, `2026-07-14 03:00` or `2026-07-14T01:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<String>,
    /// Go on with what happens, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Only these kinds, such as `session,route`
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<EventKind>,
    /// Only what concerns a peer, a node, a prefix, an address, a device
    #[arg(long, value_name = "SUBJECT")]
    about: Option<String>,
    /// At most so many, the newest
    #[arg(long = "lines", short = 'n', value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Events {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        if !self.follow {
            return self.daemon.ask(&self.path(), out, show);
        }
        let mut line = Vec::new();
        self.daemon.stream(&self.path(), &mut |part| {
            if self.daemon.json {
                out.write_all(part)?;
            } else {
                for byte in part {
                    line.push(*byte);
                    if *byte == b'\n' {
                        match serde_json::from_slice(&line)? {
                            EventLine::Event(event) => show_event(&event, out)?,
                            EventLine::Missed(missed) => show_missed(&missed, out)?,
                        }
                        line.clear();
                    }
                }
            }
            out.flush()
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn path(&self) -> String {
        let limit = self.limit.or_else(|| self.since.is_none().then_some(SHOWN));
        let kinds: Vec<&str> = self.kind.iter().map(|kind| kind.label()).collect();
        let kinds = (!kinds.is_empty()).then(|| kinds.join(","));
        let values = [
            ("since", self.since.clone()),
            ("kind", kinds),
            ("subject", self.about.clone()),
            ("limit", limit.map(|limit| limit.to_string())),
        ];
        let values = values.iter().filter_map(|(key, value)| Some(format!("&{key}={}", query_value(value.as_ref()?))));
        format!("/v1/events?follow={}{}", self.follow, values.collect::<String>())
    }
}

fn show(found: &View, out: &mut impl Write) -> io::Result<()> {
    if found.forgotten > 0 {
        show_missed(&Missed { missed: found.forgotten, why: "they are not kept any more".to_owned() }, out)?;
    }
    if found.events.is_empty() {
        // Not among the data.
        writeln!(io::stderr(), "no such events")?;
    }
    found.events.iter().try_for_each(|event| show_event(event, out))
}

fn show_event(event: &Event, out: &mut impl Write) -> io::Result<()> {
    let Event { kind, subject, what, cause, .. } = event;
    let cause = cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
    writeln!(out, "{}  {kind:<8}  {subject:<18}  {what}{cause}", local(&event.time))
}

fn show_missed(missed: &Missed, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "… {} events are not shown: {}", missed.missed, missed.why)
}

/// A time as the clock on the wall has it, with what it is ahead of UTC: nobody has to guess.
fn local(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(at) => at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f%:z").to_string(),
        Err(_) => time.to_owned(),
    }
}

/// A time as the control socket wants it.
fn since(text: &str) -> Result<String, String> {
    let at = moment(text, &Zoned::now()).ok_or("write `10m` (ago), `today`, `03:00` or a date and time")?;
    Ok(humantime::format_rfc3339_millis(SystemTime::from(at)).to_string())
}

fn moment(text: &str, now: &Zoned) -> Option<Timestamp> {
    if text == "today" {
        return Some(now.start_of_day().ok()?.timestamp());
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        return now.timestamp().checked_sub(ago).ok();
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    if let Ok(at) = text.parse::<DateTime>() {
        return Some(at.to_zoned(now.time_zone().clone()).ok()?.timestamp());
    }
    // The last time that it was so late.
    let at = now.with().time(text.parse::<Time>().ok()?).build().ok()?;
    let at = if at > *now { at.checked_sub(1.day()).ok()? } else { at };
    Some(at.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_say_them() {
        let now: Zoned = "2026-07-14T03:12:45+02:00[+02:00]".parse().unwrap();
        let cases = [
            ("ten minutes ago", "10m", "2026-07-14T01:02:45Z"),
            ("midnight of the clock on the wall", "today", "2026-07-13T22:00:00Z"),
            ("what the JSON says", "2026-07-14T01:12:45.123Z", "2026-07-14T01:12:45.123Z"),
            ("with an offset", "2026-07-14T01:12:45+01:00", "2026-07-14T00:12:45Z"),
            ("by the clock on the wall", "2026-07-14 01:12", "2026-07-13T23:12:00Z"),
            ("a time of today", "03:00", "2026-07-14T01:00:00Z"),
            ("a time that was yesterday", "23:00", "2026-07-13T21:00:00Z"),
        ];
        for (why, text, wanted) in cases {
            assert_eq!(moment(text, &now).map(|at| at.to_string()).as_deref(), Some(wanted), "{why}: {text}");
        }
        assert!(moment("soon", &now).is_none() && since("soon").unwrap_err().contains("today"));
    }

    #[test]
    fn a_line_says_when_what_and_why() {
        let event = Event {
            seq: 7,
            time: "2026-07-14T01:12:45.123Z".to_owned(),
            kind: EventKind::Session,
            subject: "tor-a".to_owned(),
            what: "session lost".to_owned(),
            cause: Some("hold timer expired".to_owned()),
        };
        let mut line = Vec::new();
        show_event(&event, &mut line).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(line.ends_with("  session   tor-a               session lost: hold timer expired\n"), "{line}");
        assert!(line.contains(":45.123"), "{line}");
    }
}
