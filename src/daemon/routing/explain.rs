//! Why an address is reached as it is: what the routing task knows of it.

use std::net::IpAddr;

use super::{Routing, next_hop};
use crate::bgp::attrs::Community;
use crate::bgp::rib::{self, PeerId, Verdict};
use crate::daemon::drain::Stage;
use crate::explain::address as found;
use crate::explain::kernel::Answer;
use crate::forward::{Contested, Encap, Hop, Target};
use crate::net::{Family, Prefix};
use crate::view;

/// What the routing task knows of an address.
#[derive(Clone, Debug)]
pub struct Explained {
    /// As it is shown; what others know is still to be added
    pub view: view::Explanation,
    /// What is wanted, for the verdict
    pub routing: found::Routing,
    /// The nexthop object that the route shall refer to
    pub object: Option<u32>,
    /// An address of our subnet of the same family, and the device that holds it
    pub container: Option<(IpAddr, u32)>,
}

impl Routing {
    pub(super) fn explain(&self, address: IpAddr, kernel: &Answer) -> Explained {
        // The longest prefix whose route is used; a longer one without a usable path decides nothing,
        // but where there is no other, it is what the question is about.
        let used = self.rib.covering(address).find(|view| view.best.is_some());
        let view = used.or_else(|| self.rib.covering(address).next());
        let prefix = view.as_ref().map(|view| view.prefix);
        let explained = prefix.map(|prefix| self.decision(&prefix)).unwrap_or_default();
        let (wanted, actual) = prefix.map_or((None, None), |prefix| self.forwarder.route(prefix));
        let matters = |verdict| matches!(verdict, Verdict::Best | Verdict::Multipath | Verdict::Unresolvable);
        let used = explained.iter().filter(|path| matters(path.verdict) && path.peer != PeerId::LOCAL);
        let next_hops: Vec<view::NextHop> = used
            .map(|path| {
                let seen = self.forwarder.explain_next_hop(next_hop(&path.attrs), prefix);
                let how = match (&seen.resolution.outcome, seen.resolution.encap) {
                    (Err(_), _) => "unreachable",
                    (Ok(_), Encap::Direct) => "direct",
                    (Ok(_), Encap::IpIp) => "tunnel",
                    (Ok(_), Encap::Recursive) => "recursive",
                };
                view::NextHop { address: path.attrs.next_hop, how: how.to_owned(), reason: seen.words }
            })
            .collect();
        let routing = found::Routing {
            rejecting: self.forwarder.rejecting(address),
            ..self.found(prefix, &explained, &next_hops)
        };
        let container = self.node.subnets.iter().filter(|subnet| subnet.family() == Family::of(address));
        let container = container.copied().find_map(|subnet| self.forwarder.container_link(subnet));
        let object = wanted.as_ref().and_then(|target| match target {
            Target::Object(id) => Some(id.0),
            Target::Via(_) | Target::Blackhole => None,
        });
        let mut view = view::Explanation {
            address,
            prefix,
            candidates: prefix
                .map(|prefix| explained.iter().map(|path| self.explained(&prefix, path)).collect())
                .unwrap_or_default(),
            next_hops,
            wanted: wanted.as_ref().map(|target| self.target(target)),
            actual: actual.as_ref().map(|target| self.target(target)),
            kernel: self.lookup(kernel),
            agree: wanted == actual && self.agrees(prefix, wanted.as_ref(), kernel),
            story: Vec::new(),
            cause: String::new(),
            verdict: String::new(),
            ok: false,
            facts: Vec::new(),
            advice: Vec::new(),
            holder: None,
            lookups: Vec::new(),
            peers: Vec::new(),
        };
        view.story = self.story(&view);
        Explained { view, routing, object, container }
    }

    /// What is wanted of a prefix and what became of it; `explained`: its paths, the best first.
    fn found(
        &self,
        prefix: Option<Prefix>,
        explained: &[rib::Explained],
        next_hops: &[view::NextHop],
    ) -> found::Routing {
        let install = self.config.kernel.install;
        let Some(prefix) = prefix else { return found::Routing { install, ..found::Routing::default() } };
        let (wanted, actual) = self.forwarder.route(prefix);
        let best = explained.first().filter(|path| path.verdict == Verdict::Best);
        let unusable = explained.first().filter(|_| best.is_none()).map(|path| match path.verdict {
            Verdict::Rejected(reject) => {
                format!("every path to {prefix} was rejected: {} (from {})", reject.text(), self.name(path.peer))
            }
            _ => next_hops
                .first()
                .map_or_else(|| path.text.clone(), |hop| format!("no path to {prefix} can be used: {}", hop.reason)),
        });
        let words = |target: &Option<Target>| target.as_ref().map(|target| self.target(target));
        let way = |hop: Hop| found::Way { gateway: hop.gateway, device: hop.device, tunnel: hop.tunnel };
        let ways = wanted.as_ref().map(|target| self.forwarder.hops(target)).unwrap_or_default();
        let concerned = |what: &Contested| match (what, &wanted) {
            (Contested::Route(route), _) => *route == prefix,
            (Contested::Nexthop(id), Some(Target::Object(object))) => id == object,
            (Contested::Nexthop(_), _) => false,
        };
        let duel = self.forwarder.duels().find(|duel| concerned(&duel.what)).map(|duel| {
            format!(
                "{} keeps removing or changing {}, {} times so far",
                duel.by.unwrap_or("somebody"),
                duel.what,
                duel.repairs
            )
        });
        found::Routing {
            from: best.map(|path| self.name(path.peer)),
            local: best.is_some_and(|path| path.peer == PeerId::LOCAL),
            how: next_hops.first().map(|hop| hop.how.clone()).unwrap_or_default(),
            unusable,
            next_hop: explained.first().map(|path| path.attrs.next_hop),
            install,
            wanted: words(&wanted),
            installed: words(&actual),
            as_wanted: wanted == actual,
            ways: ways.into_iter().map(way).collect(),
            refusal: self.refusals.get(&prefix).cloned(),
            duel,
            waiting: self.is_deferred(),
            rejecting: None,
        }
    }

    /// Whether the kernel does what is wanted, as far as BGP has a say.
    fn agrees(&self, prefix: Option<Prefix>, wanted: Option<&Target>, kernel: &Answer) -> bool {
        let (Some(prefix), Some(wanted)) = (prefix, wanted) else { return true };
        // A longer route, such as one to a container, has its own right.
        let longer = kernel.route.is_some_and(|route| route.prefix.len() > prefix.len());
        let same =
            |hop: &Hop| Some(hop.device) == kernel.device && (hop.gateway.is_none() || hop.gateway == kernel.gateway);
        *wanted == Target::Blackhole || longer || self.forwarder.hops(wanted).iter().any(same)
    }

    /// Where the kernel sends it; none: nowhere.
    fn lookup(&self, kernel: &Answer) -> Option<String> {
        let device = self.forwarder.device_name(kernel.device?);
        let mut text = match kernel.gateway {
            Some(gateway) => format!("via {gateway} dev {device}"),
            None => format!("dev {device}"),
        };
        if let Some(route) = kernel.route {
            let matched = format!(
                " by {} (protocol {}, metric {}, table {})",
                route.prefix, route.protocol, route.metric, route.table
            );
            text.push_str(&matched);
        }
        Some(text)
    }

    /// What a person should know besides the numbers.
    fn story(&self, explanation: &view::Explanation) -> Vec<String> {
        let mut story = Vec::new();
        if self.stage == Stage::Closed {
            story.push(
                "The node is drained: what it learned stays as it was, so that what runs here can send.".to_owned(),
            );
        }
        let Some(prefix) = explanation.prefix else {
            story.push("BGP has no usable route to it; the kernel's other routes decide.".to_owned());
            return story;
        };
        if self.node.subnets.contains(&prefix) {
            story.push(format!(
                "{prefix} is a subnet of this node: containers have longer routes, what none has is dropped."
            ));
        }
        let leaves = Community::GRACEFUL_SHUTDOWN.to_string();
        let used = explanation.candidates.iter().find(|route| route.best);
        if used.is_some_and(|route| route.from != "local" && route.communities.contains(&leaves)) {
            story.push(
                "The path in use is about to go away (graceful shutdown, RFC 8326); none better is known.".to_owned(),
            );
        }
        if !self.config.kernel.install {
            story.push("Routes are not written to the kernel: kernel.install = false.".to_owned());
        }
        if let Some(error) = self.refusals.get(&prefix) {
            story.push(format!("The kernel refused the route: {error}; it is tried again."));
        }
        story
    }
}
