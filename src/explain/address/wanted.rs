//! What should be in the kernel, and what of ours is.

use super::{Found, Holder, Sort, Teller};
use crate::explain::kernel::Object;

impl Found {
    pub(super) fn holder(&self, teller: &mut Teller) {
        let Some(Holder { node, subnet, state, this }) = &self.holder else { return };
        let this = if *this { " (this node)" } else { "" };
        let text = match state.as_str() {
            "dead" => format!("{subnet} is leased to {node}{this}, which gives no sign of life to the store"),
            "reserved" => format!("{subnet} is reserved for {node}{this}, which has not come yet"),
            "foreign" => format!("{subnet} is held by another program ({node})"),
            _ => format!("{subnet} is leased to {node}{this}, which is alive"),
        };
        teller.plain("holder", text);
    }

    /// What should be in the kernel, and what is.
    pub(super) fn wanted(&self, teller: &mut Teller) {
        let routing = &self.routing;
        match self.sort {
            Sort::Pool(_) => {
                let (whose, advice) = match &self.holder {
                    Some(holder) => (
                        format!("nobody announces it, though {} holds {}", holder.node, holder.subnet),
                        format!(
                            "`wayleave nodes` and `wayleave status` on {}: does it run, is it drained, are its sessions up?",
                            holder.node
                        ),
                    ),
                    None => (
                        "nobody announces a route to it".to_owned(),
                        "`wayleave routes` lists what is announced; `wayleave peers` says which peers are down"
                            .to_owned(),
                    ),
                };
                return teller.problem("route", "no-route", whose, [advice]);
            }
            Sort::Known(prefix) if routing.from.is_none() => {
                let why = routing.unusable.as_deref().unwrap_or("no path to it can be used");
                let advice = match why {
                    _ if why.contains("ipip") => "`modprobe ipip`, then `wayleave status`".to_owned(),
                    _ if why.contains("rejected") => {
                        format!(
                            "`wayleave routes {prefix}` shows each path; `import` of the peer decides what is taken"
                        )
                    }
                    _ => {
                        let next_hop = routing.next_hop.map_or_else(|| "NEXT-HOP".to_owned(), |addr| addr.to_string());
                        format!(
                            "`ip route get {next_hop}`: what should lead there? `wayleave routes {prefix}` has all paths"
                        )
                    }
                };
                return teller.problem("route", "unusable", why.to_owned(), [advice]);
            }
            Sort::Known(_) | Sort::Subnet(_) => {}
            _ => return,
        }
        if !routing.install || (routing.local && routing.wanted.is_none()) {
            return;
        }
        let nothing = || "nothing".to_owned();
        let (wanted, installed) =
            (routing.wanted.clone().unwrap_or_else(nothing), routing.installed.clone().unwrap_or_else(nothing));
        if routing.as_wanted {
            return teller.plain("installed", "the kernel has what is wanted");
        }
        if let Some(refusal) = &routing.refusal {
            let advice = "it is tried again by itself; the kernel's words say what stands in the way".to_owned();
            let text = format!("the kernel refused the route: {refusal}");
            return teller.problem("installed", "refused", text, [advice]);
        }
        let (why, advice) = match (&routing.duel, routing.waiting) {
            (Some(duel), _) => {
                (format!("; {duel}"), "stop the program that removes it, see `wayleave status`".to_owned())
            }
            (None, true) => (
                "; the first routes of all peers are still being learned".to_owned(),
                "wait: `wayleave status` says what readiness waits for".to_owned(),
            ),
            (None, false) => {
                (String::new(), "ask again; if it stays so, `wayleave status` names the problem".to_owned())
            }
        };
        let text = format!("wanted is {wanted}, installed is {installed}{why}");
        teller.problem("installed", "not-installed", text, [advice]);
    }

    /// The nexthop object in the kernel.
    pub(super) fn objects(&self, teller: &mut Teller) {
        let Some((group, members)) = self.objects.split_first() else { return };
        let way = |object: &Object| {
            let gateway = object.gateway.map(|gateway| format!("via {gateway} ")).unwrap_or_default();
            let device = object.device.map(|device| format!("dev {}", self.devices.name(device))).unwrap_or_default();
            format!("{gateway}{device}")
        };
        if group.members.is_empty() {
            return teller.plain("objects", format!("nexthop {}: {}", group.id, way(group)));
        }
        let member = |(id, weight): &(u32, u32)| {
            let found = members.iter().find(|object| object.id == *id).map(way);
            format!("{id} {} weight {weight}", found.unwrap_or_else(|| "(gone)".to_owned()))
        };
        let list: Vec<String> = group.members.iter().map(member).collect();
        let kind = if group.resilient { "resilient group" } else { "group" };
        let lightest = group.members.iter().map(|(_, weight)| *weight).min() == Some(1);
        let spare = if group.resilient && group.members.len() > 1 && lightest {
            "; the one of weight 1 stands by for when the others are gone"
        } else {
            ""
        };
        teller.plain("objects", format!("nexthop {kind} {}: {}{spare}", group.id, list.join(", ")));
    }
}
