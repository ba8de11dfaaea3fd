//! What an established session carries, and what stops routes.

use super::{Cause, Found};
use crate::explain::Fact;
use crate::explain::words::count;

/// Of so many parts of its limit a peer has used three: that is near.
const NEAR: usize = 4;

impl Found {
    pub(super) fn routes_words(&self) -> String {
        let routes = &self.routes;
        let prefixes = |n| count(n, "prefix", "prefixes");
        format!(
            "{} received and {} accepted (import {}), {} advertised (export {})",
            prefixes(routes.received),
            routes.accepted,
            self.wanted.import,
            routes.advertised,
            self.wanted.export
        )
    }

    /// Routes as facts, and what is wrong with them.
    pub(super) fn carries(&self) -> (Vec<Fact>, Option<Cause>) {
        let mut facts = vec![Fact::plain("routes", self.routes_words())];
        let mut causes = Vec::new();
        causes.extend(self.bfd_fails());
        causes.extend(self.limit_near());
        for (reason, number) in &self.routes.rejected {
            let (what, advice) = rejected(reason, &self.name, &self.wanted.import);
            let text = format!("{} rejected: {what}", count(*number, "prefix is", "prefixes are"));
            // A router that sends our own back does no harm.
            let harmless = matches!(reason.as_str(), "as-loop" | "originator-loop" | "cluster-loop" | "next-hop-self");
            if self.routes.accepted == 0 && !harmless {
                causes.push(Cause::new(
                    "nothing-accepted",
                    format!("nothing that it sends is used: {text}"),
                    [advice.clone()],
                ));
            }
            facts.push(Fact::plain("rejected", format!("{text}; {advice}")));
        }
        if self.routes.received == 0 && self.wanted.import != "none" {
            let advice = format!("on the other end: what is exported to {}?", self.local());
            causes.push(Cause::new("nothing-received", "it sends no routes", [advice]));
        }
        if self.routes.advertised == 0 && self.wanted.export != "none" {
            let advice = format!("`wayleave routes --to {}`; export is `{}`", self.name, self.wanted.export);
            causes.push(Cause::new("nothing-advertised", "nothing is advertised to it", [advice]));
        }
        if self.routes.stale > 0 {
            let stale = self.routes.stale;
            facts.push(Fact::plain(
                "routes",
                format!("{stale} of them are from before its restart and not sent again yet"),
            ));
        }
        facts.extend(causes.iter().map(|cause| Fact::problem(cause.word, cause.text.clone())));
        (facts, causes.into_iter().next())
    }

    fn bfd_fails(&self) -> Option<Cause> {
        let bfd = self.bfd.as_ref().filter(|bfd| !bfd.up)?;
        let (text, advice) = match (&bfd.error, bfd.heard) {
            (Some(error), _) => {
                (format!("BFD packets can't be sent or received: {error}"), "`wayleave status`".to_owned())
            }
            _ if bfd.remote_state == "admindown" => (
                "without BFD, which the peer has taken down".to_owned(),
                "configure BFD on the other end, or take `bfd` out here".to_owned(),
            ),
            (None, false) => (
                "without BFD, to which it doesn't answer".to_owned(),
                "configure BFD on the other end, open UDP 3784 (4784 over routers) both ways, compare `multihop`"
                    .to_owned(),
            ),
            (None, true) => (
                "without BFD: it says that it hears nothing of us".to_owned(),
                "open UDP 3784 (4784 over routers) from here to there".to_owned(),
            ),
        };
        Some(Cause::new("bfd-down", text, [advice]))
    }

    fn limit_near(&self) -> Option<Cause> {
        let limit = usize::try_from(self.wanted.max_prefixes?).unwrap_or(usize::MAX);
        let received = self.routes.received;
        (received.saturating_mul(NEAR) >= limit.saturating_mul(NEAR - 1)).then(|| {
            let text = format!("its {received} prefixes are near the limit of {limit}, at which it is closed");
            Cause::new("limit-near", text, [format!("raise `max_prefixes` of {} if that is right", self.name)])
        })
    }
}

/// Why prefixes are rejected, and what to do about it; `reason` as in JSON and metrics.
fn rejected(reason: &str, name: &str, import: &str) -> (&'static str, String) {
    let (what, advice) = match reason {
        "as-loop" => ("our own AS is in their path", "fine if they are ours coming back; else `allow_own_as`"),
        "originator-loop" | "cluster-loop" => ("they come back to where they began", "that is as it should be"),
        "first-as" => {
            ("the first AS of their path is not the peer's", "is it a route server? Its AS is not in its paths")
        }
        "next-hop-self" => {
            ("their next hop is this host", "that is as it should be, unless two hosts have one address")
        }
        "default-route" => ("a default route is not imported unless told so", "import = \"all\" or a policy takes it"),
        "own-subnet" => ("they lie in a subnet of this node", "who else announces it? `wayleave status` names them"),
        "outside-pools" => {
            ("they lie outside the pools", "add the pool to `network.pools`, or import = \"all\" or a policy")
        }
        "policy-none" => ("nothing is imported from this peer", "import = \"pools\" takes what lies in the pools"),
        "policy-rule" => {
            return ("no rule of the policy accepts them", format!("look at `[bgp.policies.{import}]`"));
        }
        _ => {
            let advice = format!("`wayleave routes --from {name} --before-policy` shows them");
            return ("not accepted", advice);
        }
    };
    (what, advice.to_owned())
}
