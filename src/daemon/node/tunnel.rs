//! The tunnel device: made as the settings and the underlay want it, put right when somebody touches it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::host::Host;
use super::repairs::{Repairs, Thing};
use super::{TUNNEL, with_source};
use crate::config::Config;
use crate::daemon::identity::Identity;
use crate::forward::{KernelEvent, TunnelMode};
use crate::io::tunnel::{self, Done, Fault, Tunnel, TunnelError};
use crate::view;

/// When a repair is tried again that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the device.
#[derive(Default)]
pub(super) struct Device {
    /// As it was made, and the index it got: what differs from now on is somebody's work
    built: Option<(Tunnel, u32)>,
    /// Its index; none: there is no device
    pub index: Option<u32>,
    /// Who touched it last, as far as netlink tells
    pub by: Option<String>,
    /// When to look again
    pub again: Option<Instant>,
    pub status: view::TunnelStatus,
}

/// The device as it should be; `None`: none is wanted.
fn wanted(config: &Config, identity: &Identity, host: &Host) -> Result<Option<Tunnel>, String> {
    if config.network.tunnel == TunnelMode::Never {
        return Ok(None);
    }
    let IpAddr::V4(local) = identity.address else {
        return Err("IP-in-IP needs an IPv4 node.address".to_owned());
    };
    let subnets = config.network.subnets.as_deref().unwrap_or_default();
    let address = subnets.iter().find_map(|subnet| match subnet.first_host() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let underlay_mtu = host.underlay_mtu(identity.address);
    Ok(Some(Tunnel { name: TUNNEL.to_owned(), local, underlay_mtu, address }))
}

impl Device {
    /// Whether an event may be about it, or about what stood in its way.
    pub(super) fn is_concerned(&self, event: &KernelEvent) -> bool {
        let is_ours = |index: u32| self.built.as_ref().is_some_and(|(_, built)| *built == index);
        match event {
            KernelEvent::Link(link) => link.name == TUNNEL || is_ours(link.index) || self.status.error.is_some(),
            KernelEvent::LinkGone(index) => is_ours(*index) || self.status.error.is_some(),
            KernelEvent::Address(on) | KernelEvent::AddressGone(on) => is_ours(on.device),
            _ => false,
        }
    }

    /// Brings it to what is wanted. `touched`: what is there may not be what was made.
    pub(super) async fn bring_up(
        &mut self,
        config: &Config,
        identity: &Identity,
        host: &Host,
        touched: bool,
        repairs: &mut Repairs,
    ) {
        self.status.mode = config.network.tunnel.to_string();
        if !config.kernel.install {
            return;
        }
        if touched {
            self.again = None;
        }
        let outcome = match (wanted(config, identity, host), self.built.clone()) {
            (Ok(Some(wanted)), Some((built, index))) if built == wanted => {
                if !touched {
                    return;
                }
                let repaired = self.repair(wanted, index, repairs).await;
                repaired.map_err(|error| {
                    // What was made is remembered: the next try is a repair again, at the pace of one.
                    let (built, text) = (self.built.take(), self.failed(&error));
                    (self.built, self.again) = (built, Some(tokio::time::Instant::now().into_std() + RETRY));
                    text
                })
            }
            (Ok(Some(wanted)), _) if touched || self.status.error.is_none() => {
                self.make(wanted).await.map_err(|error| self.failed(&error))
            }
            (Ok(Some(_)), _) => return,
            (Ok(None), built) => {
                self.forget();
                if !touched && built.is_none() {
                    return;
                }
                tunnel::remove(TUNNEL).await.map(drop).map_err(|error| error.to_string())
            }
            (Err(why), _) => {
                self.forget();
                Err(why)
            }
        };
        self.status.error = outcome.err();
    }

    fn forget(&mut self) {
        (self.built, self.index, self.again) = (None, None, None);
        (self.status.device, self.status.mtu) = (None, None);
    }

    fn failed(&mut self, error: &TunnelError) -> String {
        self.forget();
        let text = with_source(error);
        // Said once, not every time it is tried again.
        if self.status.error.as_ref() != Some(&text) {
            tracing::warn!(error = text, "no tunnel device; next hops that need one can't be reached");
        }
        text
    }

    async fn make(&mut self, wanted: Tunnel) -> Result<(), TunnelError> {
        let (index, done) = tunnel::ensure(&wanted).await?;
        if done != Done::Kept {
            tracing::info!(device = TUNNEL, ?done, local = %wanted.local, "tunnel device is up");
        }
        self.index = Some(index);
        self.status.device = Some(TUNNEL.to_owned());
        self.status.mtu = Some(wanted.underlay_mtu.saturating_sub(tunnel::OVERHEAD));
        self.built = Some((wanted, index));
        Ok(())
    }

    async fn repair(&mut self, wanted: Tunnel, index: u32, repairs: &mut Repairs) -> Result<(), TunnelError> {
        let now = tokio::time::Instant::now().into_std();
        let faults = tunnel::look(&wanted, index).await?;
        if faults.is_empty() {
            return Ok(());
        }
        let of_address = |fault: &Fault| matches!(fault, Fault::Address(_) | Fault::Stray(_));
        let what = if faults.iter().all(of_address) { Thing::Address } else { Thing::Tunnel };
        let found: Vec<String> = faults.iter().map(Fault::to_string).collect();
        let found = found.join(", ");
        if let Err(at) = repairs.may(&what, self.by.clone(), now) {
            if faults.contains(&Fault::Missing) {
                self.index = None;
                self.status.device = None;
            }
            self.again = Some(at);
            return Ok(());
        }
        if faults.iter().any(|fault| matches!(fault, Fault::Renamed(_))) {
            tunnel::rename(index, TUNNEL).await?;
        }
        self.make(wanted).await?;
        tracing::warn!(device = TUNNEL, found, by = self.by, "tunnel device was touched by somebody, restored");
        repairs.done(&what, format!("{TUNNEL}: {found}"));
        Ok(())
    }
}
