//! Our OPEN, and what two OPENs agree on (RFC 4271 §6.2, RFC 5492).

use std::net::Ipv4Addr;

use super::{Negotiated, Settings};
use crate::bgp::message::{Capability, Codec, GracefulRestart, Notification, Open};
use crate::net::{Asn, Family, PerFamily};

/// Code of the Multiprotocol capability (RFC 4760 §8).
const MULTIPROTOCOL: u8 = 1;

/// The restart time is a field of 12 bits (RFC 4724 §3).
const MAX_RESTART_TIME: u16 = 0x0fff;

/// A graceful restart capability that says: forwarding state survives in all of these families,
/// also across NOTIFICATION (RFC 8538). `restart_time` in seconds, at most 4095.
pub fn preserving(restart_time: u16, families: &[Family]) -> GracefulRestart {
    GracefulRestart {
        restarted: false,
        notification: true,
        restart_time: restart_time.min(MAX_RESTART_TIME),
        families: families.iter().map(|family| (*family, true)).collect(),
    }
}

/// Our OPEN. `restarted`: see [`Session::set_restarting`](super::Session::set_restarting); `plain`
/// leaves all capabilities out, for a peer that refused them (RFC 5492 §3).
pub fn build(settings: &Settings, restarted: Option<PerFamily<bool>>, plain: bool) -> Open {
    let asn = settings.local_asn;
    Open {
        asn,
        // RFC 6793 §4.2.2: AS_TRANS where our number does not fit.
        my_as: [asn.0, Asn::TRANS.0].into_iter().find_map(|number| u16::try_from(number).ok()).unwrap_or_default(),
        hold_time: settings.hold_time,
        router_id: settings.router_id,
        capabilities: if plain { Vec::new() } else { capabilities(settings, restarted) },
    }
}

fn capabilities(settings: &Settings, restarted: Option<PerFamily<bool>>) -> Vec<Capability> {
    let families = settings.families.iter().map(|family| Capability::Multiprotocol(*family));
    let restart = settings.graceful_restart.as_ref().map(|restart| {
        let kept = |family: Family| restarted.is_none_or(|preserved| preserved[family]);
        Capability::GracefulRestart(GracefulRestart {
            restarted: restarted.is_some_and(|preserved| preserved.iter().any(|(_, kept)| *kept)),
            restart_time: restart.restart_time.min(MAX_RESTART_TIME),
            families: restart.families.iter().map(|(family, flag)| (*family, *flag && kept(*family))).collect(),
            ..*restart
        })
    });
    families
        .chain([
            Capability::RouteRefresh,
            Capability::ExtendedMessage,
            Capability::FourOctetAs(settings.local_asn),
            Capability::EnhancedRouteRefresh,
        ])
        .chain(restart)
        .collect()
}

/// What the OPEN that we sent and the one we received agree on, or the NOTIFICATION that answers
/// an OPEN that cannot be accepted.
///
/// What one side did not offer is not used, so an OPEN without capabilities gives plain RFC 4271.
pub fn negotiate(settings: &Settings, sent: &Open, received: &Open) -> Result<Negotiated, Notification> {
    if received.asn != settings.peer_asn {
        return Err(Notification::bad_peer_as());
    }
    let internal = settings.peer_asn == settings.local_asn;
    // RFC 6286 §2.2: unique only within an AS, and never zero.
    if received.router_id == Ipv4Addr::UNSPECIFIED || (internal && received.router_id == sent.router_id) {
        return Err(Notification::bad_router_id());
    }
    if matches!(received.hold_time, 1 | 2) {
        return Err(Notification::unacceptable_hold_time());
    }
    let ours = offered_families(&sent.capabilities);
    let theirs = offered_families(&received.capabilities);
    let families = PerFamily::from_fn(|family| ours[family] && theirs[family]);
    if !families.iter().any(|(_, agreed)| *agreed) {
        // RFC 5492 §5: we require one of these.
        let offered = ours.iter().filter(|(_, offered)| **offered);
        let missing: Vec<_> = offered.map(|(family, _)| Capability::Multiprotocol(family)).collect();
        return Err(Notification::unsupported_capability(&missing));
    }

    let both = |wanted: fn(&Capability) -> bool| {
        sent.capabilities.iter().any(wanted) && received.capabilities.iter().any(wanted)
    };
    let four_octet_as = both(|c| matches!(c, Capability::FourOctetAs(_)));
    let extended_message = both(|c| matches!(c, Capability::ExtendedMessage));
    let restart = offered_restart(&sent.capabilities).zip(offered_restart(&received.capabilities));
    let hold_time = sent.hold_time.min(received.hold_time);
    Ok(Negotiated {
        codec: Codec { four_octet_as, extended_message, external: !internal, families },
        peer_asn: received.asn,
        peer_router_id: received.router_id,
        hold_time,
        keepalive: hold_time / 3, // RFC 4271 §4.4
        families,
        four_octet_as,
        route_refresh: both(|c| matches!(c, Capability::RouteRefresh)),
        enhanced_refresh: both(|c| matches!(c, Capability::EnhancedRouteRefresh)),
        extended_message,
        notification_restart: restart.is_some_and(|(ours, theirs)| ours.notification && theirs.notification),
        graceful_restart: restart.map(|(_, theirs)| GracefulRestart {
            families: theirs.families.iter().filter(|(family, _)| families[*family]).copied().collect(),
            ..theirs.clone()
        }),
        peer_capabilities: received.capabilities.clone(),
        local_capabilities: sent.capabilities.clone(),
    })
}

/// Families that an OPEN offers: IPv4 alone where it says nothing of families (RFC 4760 §8).
fn offered_families(capabilities: &[Capability]) -> PerFamily<bool> {
    let silent = !capabilities.iter().any(|capability| {
        matches!(capability, Capability::Multiprotocol(_) | Capability::Unknown { code: MULTIPROTOCOL, .. })
    });
    PerFamily::from_fn(|family| {
        capabilities.contains(&Capability::Multiprotocol(family)) || (silent && family == Family::Ipv4)
    })
}

/// The graceful restart capability; of several the last counts (RFC 4724 §3).
fn offered_restart(capabilities: &[Capability]) -> Option<&GracefulRestart> {
    capabilities.iter().rev().find_map(|capability| match capability {
        Capability::GracefulRestart(restart) => Some(restart),
        _ => None,
    })
}
