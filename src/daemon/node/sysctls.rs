//! The kernel settings: made when the set of them changes, looked at often, put right.

use std::sync::Arc;
use std::time::Instant;

use super::host::Host;
use super::patrol::{Noticed, Patrol};
use super::repairs::{Repairs, Thing};
use super::{TUNNEL, with_source};
use crate::config::Config;
use crate::daemon::journal::{Journal, Note};
use crate::forward::sysctls::{self, Setting};
use crate::io::sysctl::{Held, Look, Sysctl};
use crate::net::Family;
use crate::view::{self, EventKind};

/// What is known of the settings.
pub(super) struct Sysctls {
    sysctl: Sysctl,
    /// Routes refer to nexthop objects
    objects: bool,
    wanted: Vec<Setting>,
    /// Those that were right once: what differs from now on is somebody's work
    held: Arc<[Held]>,
    patrol: Patrol,
    journal: Journal,
    /// Some could not be set, or went with their device
    incomplete: bool,
    pub status: Vec<view::SysctlStatus>,
}

/// The settings this host needs.
fn wanted(config: &Config, host: &Host, tunnel: bool, objects: bool) -> Vec<Setting> {
    if !config.kernel.install {
        return Vec::new();
    }
    let network = &config.network;
    let prefixes = network.pools.iter().chain(network.subnets.iter().flatten());
    let ipv6 = prefixes.chain(config.bgp.announce.iter().map(|a| &a.prefix)).any(|p| p.family() == Family::Ipv6);
    sysctls::wanted(tunnel.then_some(TUNNEL), ipv6, objects, host.uplinks(&network.pools))
}

impl Sysctls {
    pub(super) fn new(sysctl: Sysctl, patrol: Patrol, objects: bool, journal: Journal) -> Self {
        let (wanted, status) = (Vec::new(), Vec::new());
        Self { sysctl, objects, wanted, held: Arc::default(), patrol, journal, incomplete: false, status }
    }

    /// Waits until a look is called for. Safe to cancel.
    pub(super) async fn noticed(&mut self) -> Noticed {
        self.patrol.noticed().await
    }

    /// Makes them if they are others than before, or not all are set.
    pub(super) fn bring_up(&mut self, config: &Config, host: &Host, tunnel: bool) {
        let wanted = wanted(config, host, tunnel, self.objects);
        if wanted != self.wanted || self.incomplete {
            self.wanted = wanted;
            self.make(config);
        }
    }

    /// A device was made anew: its settings are the kernel's defaults again.
    pub(super) const fn renew(&mut self) {
        self.incomplete = true;
    }

    fn make(&mut self, config: &Config) {
        if !self.objects
            && let Err(error) = self.sysctl.restore_one(sysctls::NEXTHOP_COMPAT_MODE)
        {
            tracing::warn!(%error, key = sysctls::NEXTHOP_COMPAT_MODE, "sysctl is not put back");
        }
        let applied = match self.sysctl.apply(&self.wanted) {
            Ok(applied) => applied,
            Err(error) => {
                let dir = config.state_dir.display();
                tracing::error!(%error, "sysctls are not set: their present values can't be kept in {dir}");
                (self.incomplete, self.status) = (true, Vec::new());
                return self.hold(&[]);
            }
        };
        let originals = self.sysctl.originals().unwrap_or_default();
        let mut set = Vec::new();
        let shown = applied.into_iter().zip(&self.wanted).map(|(one, setting)| {
            if one.result.is_ok() {
                set.push(setting.clone());
                if one.was.as_ref() != Some(&one.now) {
                    tracing::info!(key = one.key, was = one.was, now = one.now, "sysctl set");
                    let was = one.was.as_deref().unwrap_or("unreadable");
                    let what = format!("set to {}, was {was}", one.now);
                    self.journal.note(Note::new(EventKind::Daemon, &one.key, what));
                }
            }
            view::SysctlStatus {
                was: originals.get(&one.key).cloned().or(one.was).unwrap_or_default(),
                key: one.key,
                wanted: one.now,
                error: one.result.err().map(|error| with_source(&error)),
            }
        });
        self.status = shown.collect();
        self.incomplete = set.len() < self.wanted.len();
        self.hold(&set);
    }

    fn hold(&mut self, settings: &[Setting]) {
        self.held = self.sysctl.hold(settings).into();
        self.patrol.look_at(Arc::clone(&self.held));
    }

    /// Looks at each and puts right what somebody changed. Costs a system call for each.
    pub(super) fn check(&mut self, repairs: &mut Repairs, now: Instant) {
        let mut there = Vec::with_capacity(self.held.len());
        for held in &*self.held {
            let look = held.look();
            if let Look::Wrong(found) = &look {
                repair(&self.sysctl, held.setting(), found, repairs, now);
            }
            if look != Look::Gone {
                there.push(held.setting());
            }
        }
        if there.len() < self.held.len() {
            let there: Vec<Setting> = there.into_iter().cloned().collect();
            self.incomplete = true;
            self.hold(&there);
        }
    }
}

fn repair(sysctl: &Sysctl, setting: &Setting, found: &str, repairs: &mut Repairs, now: Instant) {
    let what = Thing::Sysctl(setting.key.clone());
    if repairs.may(&what, None, now).is_err() {
        return;
    }
    let (key, wanted) = (&setting.key, setting.value);
    let applied = sysctl.apply(std::slice::from_ref(setting)).map(|mut applied| applied.pop());
    match applied.map(|one| one.map(|one| one.result)) {
        Ok(Some(Err(error))) => {
            tracing::warn!(
                key,
                found,
                wanted,
                error = with_source(&error),
                "sysctl was changed by somebody and can't be set"
            );
        }
        Err(error) => tracing::warn!(key, found, wanted, %error, "sysctl was changed by somebody and can't be set"),
        Ok(_) => {
            tracing::warn!(key, found, wanted, "sysctl was changed by somebody, restored");
            repairs.done(&what, format!("{key} was {found}, wanted {wanted}"));
        }
    }
}
