//! `wayleave explain`: why traffic to an address goes where it goes, why a peer is not established.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;

use super::show::or_dash;
use super::{DaemonArgs, Error, client};
use crate::view::{Explanation, Fact, PeerExplanation, Route};

/// Columns of the output: as many as a terminal has that nobody has widened much.
const WIDTH: usize = 110;
/// Columns of the headings.
const HEADING: usize = 12;
/// Paths that are shown; a route server may have thousands.
const CANDIDATES: usize = 20;

/// Explain where traffic to an address goes and why, or why a peer is not established
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// An address, or the name of a peer; of the address of a peer both are told
    #[arg(value_name = "IP|PEER")]
    what: String,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Explain {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, Error> {
        if let Ok(address) = self.what.parse::<IpAddr>() {
            return self.daemon.ask(&format!("/v1/explain?address={address}"), out, show);
        }
        self.daemon.ask(&format!("/v1/explain?peer={}", client::query_value(&self.what)), out, show_peer)
    }
}

fn show(explanation: &Explanation, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}\n", wrapped(&explanation.verdict, 0))?;
    match explanation.prefix {
        Some(prefix) => line(out, "route", &prefix.to_string())?,
        None => line(out, "route", "none that BGP knows")?,
    }
    for route in explanation.candidates.iter().take(CANDIDATES) {
        line(out, "", &candidate(route))?;
    }
    if explanation.candidates.len() > CANDIDATES {
        line(out, "", &format!("… and {} more", explanation.candidates.len() - CANDIDATES))?;
    }
    for hop in &explanation.next_hops {
        line(out, "next hop", &format!("{} {}: {}", hop.address, hop.how, hop.reason))?;
    }
    line(out, "wanted", explanation.wanted.as_deref().unwrap_or("nothing"))?;
    if explanation.actual != explanation.wanted {
        line(out, "actual", explanation.actual.as_deref().unwrap_or("nothing"))?;
    }
    facts(&explanation.facts, out)?;
    let agreement = match (&explanation.wanted, explanation.agree) {
        (None, true) => "BGP wants nothing of the kernel here.",
        (Some(_), true) if explanation.ok => "The kernel does what is wanted.",
        (Some(_), true) => "The kernel does what is wanted with traffic of this host.",
        (_, false) => "The kernel does NOT do what is wanted.",
    };
    line(out, "in short", agreement)?;
    for sentence in &explanation.story {
        line(out, "", sentence)?;
    }
    advice(&explanation.advice, out)?;
    explanation.peers.iter().try_for_each(|peer| {
        writeln!(out)?;
        show_peer(peer, out)
    })
}

fn candidate(route: &Route) -> String {
    let path = if route.as_path.is_empty() { "empty" } else { &route.as_path };
    let stale = if route.stale { ", kept from before a restart" } else { "" };
    format!("from {} next hop {} AS path {path}: {}{stale}", route.from, or_dash(route.next_hop), route.verdict)
}

fn show_peer(explanation: &PeerExplanation, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}\n", wrapped(&explanation.verdict, 0))?;
    facts(&explanation.facts, out)?;
    advice(&explanation.advice, out)
}

/// Facts with their headings, each heading once.
fn facts(facts: &[Fact], out: &mut impl Write) -> io::Result<()> {
    let mut former = "";
    for fact in facts {
        let heading = if fact.topic == former { "" } else { &fact.topic };
        let mark = if fact.problem { "! " } else { "" };
        line(out, heading, &format!("{mark}{}", fact.text))?;
        former = &fact.topic;
    }
    Ok(())
}

fn advice(advice: &[String], out: &mut impl Write) -> io::Result<()> {
    if !advice.is_empty() {
        writeln!(out, "\nwhat to do:")?;
    }
    advice.iter().try_for_each(|one| writeln!(out, "  * {}", wrapped(one, 4)))
}

/// A heading and a text beside it.
fn line(out: &mut impl Write, heading: &str, text: &str) -> io::Result<()> {
    writeln!(out, "{heading:<HEADING$}{}", wrapped(text, HEADING))
}

/// A text broken into lines that all begin at a column; the first is begun already.
fn wrapped(text: &str, column: usize) -> String {
    let mut lines = String::new();
    let mut at = column;
    for (i, word) in text.split(' ').enumerate() {
        let width = word.chars().count();
        if i > 0 && at + 1 + width > WIDTH {
            lines.push('\n');
            lines.extend(std::iter::repeat_n(' ', column));
            at = column;
        } else if i > 0 {
            lines.push(' ');
            at += 1;
        }
        lines.push_str(word);
        at += width;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_broken_between_words() {
        let text = "word ".repeat(60);
        let text = text.trim();
        let broken = wrapped(text, 12);
        assert!(
            broken.lines().enumerate().all(|(i, line)| line.chars().count() + if i == 0 { 12 } else { 0 } <= WIDTH)
        );
        assert_eq!(broken.split_whitespace().collect::<Vec<_>>().join(" "), text);
        assert!(broken.lines().skip(1).all(|line| line.starts_with(&" ".repeat(12))));
        let one = "x".repeat(200);
        assert_eq!(wrapped(&one, 0), one, "a word stays whole");
    }
}
