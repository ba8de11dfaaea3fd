//! What the journal is told of the node's own things: each change once.

use std::collections::{BTreeMap, BTreeSet};

use super::Status;
use super::host::Host;
use crate::daemon::journal::{Journal, Note};
use crate::net::Prefix;
use crate::view::EventKind;

/// What was told, and to whom.
#[derive(Debug)]
pub(super) struct News {
    journal: Journal,
    /// Links towards routers, and whether they can carry something
    uplinks: BTreeMap<String, bool>,
}

impl News {
    pub(super) const fn new(journal: Journal) -> Self {
        Self { journal, uplinks: BTreeMap::new() }
    }

    /// The parts are as in `now`; they were as in `before`.
    pub(super) fn parts(&self, before: &Status, now: &Status) {
        let tell = |note: Note| self.journal.note(note);
        let tunnel = |what: String| Note::new(EventKind::Tunnel, super::TUNNEL, what);
        match (&before.tunnel.device, &now.tunnel.device) {
            (None, Some(_)) => {
                tell(tunnel(format!("up, MTU {}", now.tunnel.mtu.unwrap_or_default())));
            }
            (Some(_), None) => tell(tunnel("gone".to_owned()).perhaps_because(now.tunnel.error.clone())),
            (None, None) if now.tunnel.error != before.tunnel.error && now.tunnel.error.is_some() => {
                tell(tunnel("there is none".to_owned()).perhaps_because(now.tunnel.error.clone()));
            }
            _ => {}
        }
        let firewall = |subject: &str, was: Option<&String>, is: Option<&String>| match (was, is) {
            (was, Some(error)) if was != Some(error) => {
                tell(Note::new(EventKind::Firewall, subject, "could not be set").because(error));
            }
            (Some(_), None) => tell(Note::new(EventKind::Firewall, subject, "in force again")),
            _ => {}
        };
        let table = format!("table inet {}", super::TABLE);
        firewall(&table, before.firewall.error.as_ref(), now.firewall.error.as_ref());
        firewall("DOCKER-USER", before.firewall.docker.error.as_ref(), now.firewall.docker.error.as_ref());
        let guards = [before, now].map(|status| status.firewall.tunnel_guard.in_force);
        if guards[0] != guards[1] {
            let what = if guards[1] { "takes IP-in-IP from known ends only" } else { "takes IP-in-IP from anybody" };
            tell(Note::new(EventKind::Firewall, "tunnel guard", what));
        }
        if now.firewall.firewalld != before.firewall.firewalld && !now.firewall.firewalld.is_empty() {
            let what = "firewalld does not let container traffic through; `wayleave status` says what to type";
            tell(Note::new(EventKind::Firewall, "firewalld", what));
        }
        for sysctl in &now.sysctls {
            let former = before.sysctls.iter().find(|former| former.key == sysctl.key);
            if let Some(error) = &sysctl.error
                && former.and_then(|former| former.error.as_ref()) != Some(error)
            {
                let what = format!("could not be set to {}", sysctl.wanted);
                tell(Note::new(EventKind::Daemon, &sysctl.key, what).because(error.clone()));
            }
        }
    }

    /// Links and addresses are as they are now.
    pub(super) fn links(&mut self, host: &Host, pools: &[Prefix]) {
        let uplinks = host.uplinks(pools).map(str::to_owned);
        // One that is down is no uplink any more, and is followed all the same.
        let names: BTreeSet<String> = self.uplinks.keys().cloned().chain(uplinks).collect();
        for name in names {
            let carries = host.carries(&name);
            let before = match carries {
                Some(carries) => self.uplinks.insert(name.clone(), carries),
                None => self.uplinks.remove(&name),
            };
            let what = match (before, carries) {
                (Some(true), Some(false)) => "link down: switched off, or no carrier",
                (Some(false), Some(true)) => "link up",
                (Some(_), None) => "device gone",
                _ => continue,
            };
            self.journal.note(Note::new(EventKind::Link, name, what));
        }
    }
}
