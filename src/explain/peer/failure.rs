//! Why a session is down: of all that happened, what explains it now.

use std::time::Duration;

use super::notification::{code, is_administrative};
use super::silence::Suspicion;
use super::{Cause, DialError, Found, Past};
use crate::bgp::session::State;
use crate::explain::kernel::Fate;
use crate::explain::words::{age, count};

impl Found {
    /// The cause: what we ourselves want, then the link, then what happened last.
    pub(super) fn why_down(&self) -> Cause {
        if let Some(drained) = &self.drained {
            let text = format!("this node is {drained}, and a drained node has no sessions");
            return Cause::new("drained", text, ["`wayleave undrain` brings it back".to_owned()]);
        }
        if let Some(past) = self.sent.as_ref().filter(|_| self.barred.is_some()) {
            return self.over_limit(&format!("we sent {} ({} ago)", code(&past.what), age(past.ago)));
        }
        if let Some(cause) = self.no_path() {
            return cause;
        }
        // Dials go on after the peer's last word, and find nobody: that word still says why.
        if let Some(said) =
            self.received.as_ref().filter(|past| is_administrative(&past.what) && self.is_last_word(past.ago))
        {
            return self.it_said(said);
        }
        if let Some(cause) = self.connection_stuck() {
            return cause;
        }
        let newest = [
            self.received.as_ref().map(|past| (past.ago, 0)),
            self.sent.as_ref().map(|past| (past.ago, 1)),
            self.dial.as_ref().map(|past| (past.ago, 2)),
            self.closed.as_ref().map(|past| (past.ago, 3)),
        ];
        let newest = newest.into_iter().flatten().min().map(|(_, which)| which);
        match (newest, &self.received, &self.sent, &self.dial, &self.closed) {
            (Some(0), Some(past), ..) => self.it_said(past),
            (Some(1), _, Some(past), ..) => self.we_said(past),
            (Some(2), _, _, Some(past), _) => self.dial_failed(past),
            (Some(3), .., Some(past)) => self.hung_up(past),
            _ => self.nothing_yet(),
        }
    }

    /// Nothing came of the peer since.
    fn is_last_word(&self, ago: Duration) -> bool {
        self.open.as_ref().is_none_or(|open| open.ago >= ago) && self.sent.as_ref().is_none_or(|sent| sent.ago >= ago)
    }

    /// The kernel knows no way, or the link is dead.
    fn no_path(&self) -> Option<Cause> {
        let (answer, devices) = (&self.reach.answer, &self.reach.devices);
        if let Some((device, how)) = self.link_down() {
            let advice = match how {
                "is down" => format!("`ip link set {device} up`"),
                _ => format!("look at the cable, the port of the switch, `ethtool {device}`"),
            };
            return Some(Cause::new("interface-down", format!("{device}, whose network it is on, {how}"), [advice]));
        }
        if answer.fate == Fate::Local {
            let text = format!("{} is an address of this host", self.address);
            return Some(Cause::new("own-address", text, [format!("correct `address` of {} here", self.name)]));
        }
        if answer.fate != Fate::Sent {
            let advice = format!("`ip route get {}`; `ip addr` and `ip route` say what is missing", self.address);
            return Some(Cause::new(
                "no-route",
                format!("the kernel has no way to {}: {}", self.address, answer.fate),
                [advice],
            ));
        }
        let silent = self.reach.neighbour.as_ref().filter(|neighbour| neighbour.is_silent());
        silent.filter(|_| self.state < State::OpenSent).map(|neighbour| {
            let device = devices.name(neighbour.device);
            let advice = format!(
                "is {} up, with that address, and in the VLAN of {device}? `ip neigh show dev {device}`",
                neighbour.address
            );
            Cause::new("no-neighbour", neighbour.words(devices), [advice])
        })
    }

    /// TCP stands, and nothing comes of it.
    fn connection_stuck(&self) -> Option<Cause> {
        if self.state < State::OpenSent || self.state == State::Established {
            return None;
        }
        if let Some(Suspicion::TooFar(segments)) = self.suspicion() {
            return Some(self.too_far(segments));
        }
        (self.in_state >= Duration::from_secs(5)).then(|| {
            let text = format!(
                "TCP is connected, and its {} has not come for {}",
                if self.state == State::OpenSent { "OPEN" } else { "KEEPALIVE" },
                age(self.in_state)
            );
            let advice = [
                "its BGP is busy or hangs: look at its log".to_owned(),
                "or large packets are lost on the way: compare MTUs".to_owned(),
            ];
            Cause::new("no-answer", text, advice)
        })
    }

    fn dial_failed(&self, past: &Past<(DialError, String)>) -> Cause {
        let (kind, text) = &past.what;
        let (us, port, address) = (self.local(), self.wanted.port, self.address);
        match kind {
            DialError::Refused => Cause::new(
                "refused",
                format!("{address} answers, and nothing listens on port {port}, or a firewall rejects it"),
                [
                    "is BGP running there? (FRR: `systemctl status frr`, BIRD: `birdc show status`)".to_owned(),
                    format!("does it know {us} as a neighbour? Some listen only then; `port` here, firewall there"),
                ],
            ),
            DialError::Unreachable => self.unreachable(),
            DialError::NoSource => Cause::new(
                "no-source",
                format!("{text}: `node.address` or `local_address` is wrong, or the device is gone"),
                ["`ip addr`; then correct the file and reload".to_owned()],
            ),
            DialError::Silence => self.silent(),
            DialError::Option | DialError::Other => {
                Cause::new("dial", format!("dialling fails: {text}"), ["the log says more".to_owned()])
            }
        }
    }

    fn unreachable(&self) -> Cause {
        let (address, gateway) = (self.address, self.reach.answer.gateway);
        match gateway {
            // With TTL 1 the first router answers "time exceeded", which TCP takes for that.
            Some(gateway) if self.is_held_to_link() => self.needs_multihop(gateway),
            Some(gateway) => Cause::new(
                "unreachable",
                format!("{address} is unreachable: {gateway} or a router behind it says so"),
                [format!("`traceroute {address}`: the router that answers last knows no way, or filters")],
            ),
            None => Cause::new(
                "unreachable",
                format!("{address} does not answer on its link"),
                [format!("is it up, and in this VLAN? `ip neigh show {address}`")],
            ),
        }
    }

    /// We send with TTL 1.
    fn is_held_to_link(&self) -> bool {
        self.wanted.external() && self.wanted.multihop.is_none() && self.wanted.ttl_security.is_none()
    }

    fn needs_multihop(&self, gateway: std::net::IpAddr) -> Cause {
        let text =
            format!("{} is behind {gateway}, and an eBGP peer must be on the link unless told otherwise", self.address);
        Cause::new(
            "needs-multihop",
            text,
            [
                format!("`multihop = 2` (or more) of {} here", self.name),
                format!("FRR there: `neighbor {} ebgp-multihop 2`; BIRD there: `multihop 2;`", self.local()),
            ],
        )
    }

    /// Nothing at all comes back, or nobody calls.
    fn silent(&self) -> Cause {
        let (us, address, port) = (self.local(), self.address, self.wanted.port);
        let there = |frr: String, bird: &str| format!("FRR there: `{frr}`; BIRD there: `{bird}`");
        match self.suspicion().filter(|_| self.is_silent()) {
            Some(Suspicion::OtherPassword(n)) => {
                return Cause::new(
                    "password",
                    format!(
                        "its password is another than ours, as it seems: {} came that were signed with another key",
                        segments(n)
                    ),
                    [
                        format!("compare `password_file` of {} here with the key there", self.name),
                        there(format!("neighbor {us} password KEY"), "password \"KEY\";"),
                    ],
                );
            }
            Some(Suspicion::OnlyOurs(n)) => {
                return Cause::new(
                    "password",
                    format!(
                        "it has no password and we have one, as it seems: {} came without a signature",
                        segments(n)
                    ),
                    [
                        there(format!("neighbor {us} password KEY"), "password \"KEY\";"),
                        format!("or take `password_file` of {} out here", self.name),
                    ],
                );
            }
            Some(Suspicion::OnlyTheirs(n)) => {
                return Cause::new(
                    "password",
                    format!("it has a password and we have none, as it seems: {} came with a signature", segments(n)),
                    [
                        format!("`password_file` of {} here", self.name),
                        there(format!("no neighbor {us} password KEY"), "take `password` out"),
                    ],
                );
            }
            Some(Suspicion::TooFar(n)) => return self.too_far(n),
            None => {}
        }
        if let Some(gateway) = self.reach.answer.gateway.filter(|_| self.is_held_to_link()) {
            return self.needs_multihop(gateway);
        }
        let mut advice = vec![format!(
            "`ping {address}`: does it answer at all? Does a firewall drop TCP {port} there, or on the way?"
        )];
        if self.wanted.password {
            advice.push(format!("the other end drops a wrong password without a word, too: compare `password_file` of {} with the key there", self.name));
        } else {
            advice
                .push(format!("if it wants a password, it drops us without a word: `password_file` of {}", self.name));
        }
        if self.wanted.ttl_security.is_none() {
            advice.push(format!(
                "if it has TTL security (GTSM), it drops us without a word too: `ttl_security = 1` of {}",
                self.name
            ));
        }
        advice.push(format!("there: `nstat -az TcpExtTCPMD5NotFound TcpExtTCPMD5Unexpected TcpExtTCPMD5Failure TcpExtTCPMinTTLDrop` while we dial, and `tcpdump tcp port {port} and host {us}`"));
        let text = format!(
            "{address} gives no answer at all on port {port}: unreachable, filtered, or a password or TTL that differs"
        );
        Cause { word: "timed-out", text, advice }
    }

    fn too_far(&self, dropped: u64) -> Cause {
        let hops = self.wanted.ttl_security.unwrap_or(1);
        let (us, least) = (self.local(), 256 - u16::from(hops.max(1)));
        Cause::new(
            "ttl",
            format!(
                "its packets come with too small a TTL for ttl_security = {hops}, as it seems: of those with less than {least}, {} dropped",
                count(usize::try_from(dropped).unwrap_or(usize::MAX), "segment was", "segments were")
            ),
            [
                format!("FRR there: `neighbor {us} ttl-security hops {hops}`; BIRD there: `ttl security on;`"),
                format!("if it is farther away: a larger `ttl_security` of {} here, on both ends", self.name),
            ],
        )
    }

    /// It closed TCP without a NOTIFICATION.
    fn hung_up(&self, past: &Past<State>) -> Cause {
        let (us, ago) = (self.local(), age(past.ago));
        match past.what {
            State::Established => Cause::new(
                "lost",
                format!("TCP was closed {ago} ago without a NOTIFICATION: it restarts, or it crashed"),
                ["look at its log; if it restarts it comes back by itself".to_owned()],
            ),
            _ => Cause::new(
                "closed",
                format!(
                    "it takes our connection and closes it at once ({ago} ago): it doesn't know {us} as a neighbour, or just starts"
                ),
                [format!(
                    "is {us} configured there, with this address as the source? (`local_address` here, `update-source` there)"
                )],
            ),
        }
    }

    fn nothing_yet(&self) -> Cause {
        if self.wanted.passive {
            let word = if self.suspicion().is_some() {
                self.silent()
            } else {
                Cause::new(
                    "passive",
                    "we wait for it to call (passive), and it has not",
                    [
                        format!(
                            "does it dial {}? Does a firewall here drop TCP 179 from {}?",
                            self.local(),
                            self.address
                        ),
                        format!("or `passive = false` of {} here", self.name),
                    ],
                )
            };
            return word;
        }
        if let Some(said) = self.suspicion().filter(|_| self.is_silent()).map(|_| self.silent()) {
            return said;
        }
        let text = match self.state {
            State::OpenSent | State::OpenConfirm => "it is coming up, OPENs are being exchanged",
            _ => "the first dial is under way",
        };
        Cause::new("starting", text, ["wait some seconds and ask again".to_owned()])
    }
}

/// `1 segment`, `2 segments`.
fn segments(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "segment", "segments")
}
