//! What a NOTIFICATION means, either way, and what to do about it.

use super::{Cause, Found, Past, offered};
use crate::bgp::message::Notification;
use crate::explain::words::{age, list};

/// `6/2 cease: administrative shutdown: "maintenance"`
pub(super) fn code(notification: &Notification) -> String {
    format!("{}/{} {notification}", notification.code, notification.subcode)
}

/// What a hard reset stands for, else itself (RFC 8538 §3.1).
fn inner(notification: &Notification) -> Notification {
    match (notification.code, notification.subcode, &*notification.data) {
        (6, 9, [code, subcode, data @ ..]) if (*code, *subcode) != (6, 9) => Notification::new(*code, *subcode, data),
        _ => notification.clone(),
    }
}

/// The peer's operator wants no session.
pub(super) fn is_administrative(notification: &Notification) -> bool {
    let inner = inner(notification);
    inner.code == 6 && matches!(inner.subcode, 2..=4)
}

impl Found {
    /// Our end as the peer should have it configured.
    pub(super) fn local(&self) -> String {
        self.wanted
            .local_address
            .or(self.reach.answer.source)
            .map_or_else(|| "this host".to_owned(), |addr| addr.to_string())
    }

    /// It sent a NOTIFICATION.
    pub(super) fn it_said(&self, past: &Past<Notification>) -> Cause {
        let said = inner(&past.what);
        let (us, wanted, ago) = (self.local(), &self.wanted, age(past.ago));
        let quoted = format!("it sent {} ({ago} ago)", code(&past.what));
        match (said.code, said.subcode) {
            (2, 2) => Cause::new(
                "wrong-as",
                format!("it takes us for another AS than {}: {quoted}", wanted.local_asn),
                [
                    format!("FRR there: `neighbor {us} remote-as {}`", wanted.local_asn),
                    format!("BIRD there: `neighbor {us} as {};`", wanted.local_asn),
                    "or correct `bgp.asn` here (needs a restart)".to_owned(),
                ],
            ),
            (2, 3) => Cause::new(
                "router-id",
                format!("it doesn't take our router id {}: {quoted}", wanted.router_id),
                ["give each router an id of its own: `node.router_id` here, or the id there".to_owned()],
            ),
            (2, 6) => Cause::new(
                "hold-time",
                format!("it doesn't take our hold time of {} s: {quoted}", wanted.hold_time),
                [
                    format!("raise `hold_time` of {} here, to what it asks for at least", self.name),
                    "or lower the least it takes there (FRR: `bgp minimum-holdtime`, BIRD: `min hold time`)".to_owned(),
                ],
            ),
            (2, 7) => self.families_differ(&quoted),
            (4, _) => Cause::new(
                "hold-timer",
                format!("it heard nothing of us for its hold time: {quoted}"),
                [format!("packets from here to there are lost: `ping {}`, MTU, firewall; is this host overloaded?", self.address)],
            ),
            (6, 1) => Cause::new(
                "their-limit",
                format!("we sent more prefixes than it takes: {quoted}"),
                [
                    format!("`wayleave routes --to {}`; narrow `export` here, or raise the limit there", self.name),
                    format!("then reset it there (FRR: `clear bgp {us}`, BIRD: `restart` the protocol)"),
                ],
            ),
            (6, 2..=4) => Cause::new(
                "peer-shutdown",
                format!("its operator ended the session: {quoted}"),
                [
                    "ask its operator; nothing is wrong here".to_owned(),
                    format!("FRR there: `no neighbor {us} shutdown`; BIRD there: `enable` the protocol"),
                ],
            ),
            (6, 5) => Cause::new(
                "rejected",
                format!("it rejects the connection: {quoted}"),
                [format!("is {us} configured there as a neighbour, with this address, and not shut down?")],
            ),
            (6, 7) => Cause::new(
                "collision",
                format!("two connections met and one was closed, the other should be the session: {quoted}"),
                ["wait some seconds and ask again".to_owned()],
            ),
            (6, 10) => Cause::new(
                "bfd-down",
                format!("its BFD lost us: {quoted}"),
                ["packets from here to there are lost: look at the path, at UDP 3784 and 4784, and at `wayleave_bfd_late_total`".to_owned()],
            ),
            (6, 6 | 8) => Cause::new("peer-ended", format!("it ended the session: {quoted}"), ["it should come back by itself".to_owned()]),
            (1 | 3 | 5 | 7, _) => Cause::new(
                "protocol",
                format!("it could not accept what we sent: {quoted}"),
                ["that is a fault in one of the two programs: report it with the logs of both".to_owned()],
            ),
            _ => Cause::new("notification", quoted, ["its log says more".to_owned()]),
        }
    }

    /// We sent a NOTIFICATION.
    pub(super) fn we_said(&self, past: &Past<Notification>) -> Cause {
        let said = inner(&past.what);
        let (us, wanted, ago) = (self.local(), &self.wanted, age(past.ago));
        let quoted = format!("we sent {} ({ago} ago)", code(&past.what));
        let open = self.open.as_ref().map(|open| &open.what);
        match (said.code, said.subcode) {
            (2, 2) => {
                let theirs = open.map_or_else(|| "another".to_owned(), |open| open.asn.to_string());
                Cause::new(
                    "wrong-as",
                    format!("it says that it is AS {theirs}, and AS {} is configured: {quoted}", wanted.asn),
                    [
                        format!("if it is the right router: `asn = {theirs}` of {} here, then reload", self.name),
                        format!("else correct its AS, or its address {} here", self.address),
                    ],
                )
            }
            (2, 3) => Cause::new(
                "router-id",
                format!(
                    "it has the router id {}, which is ours or none: {quoted}",
                    open.map_or(wanted.router_id, |open| open.router_id)
                ),
                ["give each router an id of its own: `node.router_id` here, or the id there".to_owned()],
            ),
            (2, 6) => Cause::new(
                "hold-time",
                format!("it offers a hold time that can't be (1 or 2 s, RFC 4271 §4.2): {quoted}"),
                [format!("FRR there: `neighbor {us} timers 3 9`; BIRD there: `hold time 9;`")],
            ),
            (2, 7) => self.families_differ(&quoted),
            (4, _) => Cause::new(
                "hold-timer",
                format!("nothing came from it for the hold time: {quoted}"),
                [
                    format!("is it alive? `ping {}`", self.address),
                    "does its BGP run, and does a firewall drop TCP 179 from there?".to_owned(),
                ],
            ),
            (6, 1) => self.over_limit(&quoted),
            (6, 2) => {
                Cause::new("stopped", format!("this end was shut down: {quoted}"), ["`wayleave status`".to_owned()])
            }
            (6, 6) => Cause::new(
                "changed",
                format!("its settings here changed: {quoted}"),
                ["wait some seconds and ask again".to_owned()],
            ),
            (6, 7) => Cause::new(
                "collision",
                format!("two connections met and one was closed, the other should be the session: {quoted}"),
                ["wait some seconds and ask again".to_owned()],
            ),
            (6, 10) => Cause::new(
                "bfd-down",
                format!("BFD lost it: {quoted}"),
                [format!("look at the path: `ping {}`, UDP 3784 and 4784 from there to here", self.address)],
            ),
            (8, _) => Cause::new(
                "send-hold",
                format!("it stopped to read what we send: {quoted}"),
                ["its BGP hangs: restart it there".to_owned()],
            ),
            (1 | 2 | 3 | 5 | 7, _) => {
                let what = self.malformed.as_ref().map_or_else(String::new, |past| format!(" ({})", past.what));
                Cause::new(
                    "protocol",
                    format!("what it sent can't be accepted{what}: {quoted}"),
                    ["that is a fault in one of the two programs: report it with the logs of both".to_owned()],
                )
            }
            _ => Cause::new("notification", quoted, ["`wayleave peers` and the log say more".to_owned()]),
        }
    }

    /// It sent too much; also while it is kept away for that.
    pub(super) fn over_limit(&self, quoted: &str) -> Cause {
        let limit = self.wanted.max_prefixes.map_or_else(String::new, |limit| format!(" of {limit}"));
        let again =
            self.barred.map_or_else(String::new, |time| format!(", and it is kept away for {} more", age(time)));
        Cause::new(
            "prefix-limit",
            format!("it sent more prefixes than its limit{limit}{again}: {quoted}"),
            [
                format!("if so many are right: raise `max_prefixes` of {} here, then reload", self.name),
                format!("else filter there what is sent to {}", self.local()),
            ],
        )
    }

    fn families_differ(&self, quoted: &str) -> Cause {
        let ours = list(&self.wanted.families);
        let theirs = self.open.as_ref().map(|open| list(offered(&open.what)));
        let theirs = match theirs.as_deref() {
            None => "something else".to_owned(),
            Some("") => "no family that we know".to_owned(),
            Some(families) => families.to_owned(),
        };
        let (us, family) = (self.local(), self.wanted.families.first().map_or_else(String::new, ToString::to_string));
        Cause::new(
            "families",
            format!("no family is common to both: we offer {ours}, it offers {theirs}: {quoted}"),
            [
                format!("set `families` of {} here to what it offers", self.name),
                format!(
                    "or FRR there: `address-family {family} unicast`, `neighbor {us} activate`; BIRD there: a channel `{family} {{ … }};`"
                ),
            ],
        )
    }
}
