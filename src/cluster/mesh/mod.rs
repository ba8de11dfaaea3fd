//! Which nodes this one peers with, and how.
//!
//! A *topology* is either the mesh, in which each node peers with each, or a set of reflectors, which peer
//! with everybody and pass routes on. It follows from who is there, so all nodes arrive at the same
//! one, each when the news reaches it. A node publishes the topology that it *relies on*
//! ([`Node::settled`]): one for which it had all sessions and routes. Two nodes peer if the present
//! topology asks for it, or reflectors that anybody relies on, or the mesh while one of the two relies
//! on that; so nobody ends what another still needs, whatever the order in which they hear of a change, and
//! none has to remember how it was before. What no longer is needed goes when the store has been heard of
//! some seconds later: the word of another node that it still needs it may be under way.

#[cfg(test)]
mod tests;
mod topology;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::topology::{Role, Topology};
use crate::cluster::node::Node;
use crate::net::Asn;

/// Port of BGP (RFC 4271 §4).
const BGP: u16 = 179;
/// How long a session is kept that nobody needs any more, at least: until the store has said that nobody
/// needed it for so long.
pub const SETTLE: Duration = Duration::from_secs(5);
/// How long a node that gives no sign of life, neither in the store nor by BGP, may still be about to: a
/// daemon that is being restarted.
pub const LINGER: Duration = Duration::from_secs(30);

/// This node, as its configuration says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Me {
    /// Its name
    pub name: String,
    /// Its address
    pub address: IpAddr,
    /// Its AS
    pub asn: Asn,
    /// TCP port that it accepts BGP on; 0: it doesn't
    pub port: u16,
    /// It reflects routes between the others
    pub reflector: bool,
}

/// What the store says of the nodes.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// All that are listed, this one too
    pub nodes: Vec<Listed<'a>>,
    /// When the store last said that this is how it is: what was written until then is in here
    pub heard: Instant,
}

/// A node that the store lists.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// Its name
    pub name: &'a str,
    /// What it says of itself
    pub record: &'a Node,
    /// Its sign of life is there
    pub alive: bool,
}

/// What BGP knows of a peer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Session {
    /// Its session is established
    pub established: bool,
    /// It has sent all its routes, and been sent all of ours
    pub synced: bool,
    /// Its session is down and its routes are kept (RFC 4724)
    pub holding: bool,
}

/// A node to peer with.
#[expect(clippy::struct_excessive_bools, reason = "each is a role of its own")]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its name
    pub name: String,
    /// Its address
    pub address: IpAddr,
    /// TCP port to dial, not 0
    pub port: u16,
    /// Its AS
    pub asn: Asn,
    /// It dials us
    pub passive: bool,
    /// We reflect to it
    pub client: bool,
    /// We send it what we have learned too
    pub reflecting: bool,
    /// It reflects to us: it sends the routes of all nodes
    pub reflector: bool,
}

/// What is to be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Whom to peer with, by address
    pub peers: Vec<Peer>,
    /// Who reflects: names joined by commas, or `mesh` where nobody does
    pub topology: String,
    /// What to publish as [`Node::settled`]
    pub settled: String,
    /// Nodes that don't have all sessions of the topology yet, sorted: their former ones stay
    pub waiting_for: Vec<String>,
    /// Nodes that want to take part and can't, by name, and why
    pub left_out: Vec<(String, LeftOut)>,
    /// When to plan again though nothing happens
    pub again: Option<Instant>,
}

/// Why there is no session with a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LeftOut {
    /// iBGP is within one AS
    #[error("it is in AS {0}, write it as a peer")]
    OtherAs(Asn),
    /// Who would dial whom?
    #[error("neither of us accepts connections (bgp.listen)")]
    NobodyListens,
    /// Two nodes can't share one
    #[error("it has the address of another node")]
    SameAddress,
}

/// What is remembered of a node over a restart.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// Its name
    pub name: String,
    /// What it last said of itself
    pub record: Node,
}

/// The planner, with what it remembers between two plans.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// Other nodes, by name
    known: BTreeMap<String, Known>,
    /// The topology that we rely on, as last said to the caller; empty: none yet
    settled: String,
}

#[derive(Clone, Debug)]
struct Known {
    record: Node,
    /// It stands in the store
    listed: bool,
    /// Its sign of life is there
    alive: bool,
    /// When it last gave a sign of life, in the store or by BGP
    lived: Instant,
    session: Session,
    /// What it is to us
    role: Role,
    /// What it must be to us
    needed: Role,
    /// Since when
    since: Instant,
}

impl Known {
    fn new(record: Node, now: Instant) -> Self {
        let (session, role, needed) = Default::default();
        Self { record, listed: false, alive: false, lived: now, session, role, needed, since: now }
    }

    /// It is there, or may be back at once.
    fn is_present(&self, now: Instant) -> bool {
        now < self.lived + LINGER
    }

    /// Nothing of it is left, or it has said goodbye.
    fn is_gone(&self, now: Instant) -> bool {
        let lives = self.alive || self.session.established;
        !lives && !self.listed && (self.record.drained || !self.session.holding && !self.is_present(now))
    }

    /// Brings its role to what is needed: more at once, less after a while. `heard`: nothing else was known
    /// then; none: nothing may end now.
    fn follow(&mut self, needed: Role, heard: Option<Instant>, now: Instant) {
        if needed != self.needed || heard.is_none() {
            self.since = now;
        }
        self.needed = needed;
        let settled = heard.is_some_and(|heard| heard >= self.since + SETTLE);
        self.role = if settled { needed } else { self.role.or(needed) };
    }
}

impl Mesh {
    /// `remembered`: what [`memory`](Self::memory) of the former run said. They are peers until the store has
    /// been listed, and a little longer.
    pub fn new(remembered: Vec<Remembered>, now: Instant) -> Self {
        let known = |one: Remembered| (one.name, Known::new(one.record, now));
        Self { known: remembered.into_iter().map(known).collect(), settled: String::new() }
    }

    /// Whom to peer with. `store`: none while it has not been listed since the start; `sessions` of all
    /// peers, by address.
    pub fn plan(
        &mut self,
        me: &Me,
        store: Option<&View<'_>>,
        sessions: &BTreeMap<IpAddr, Session>,
        now: Instant,
    ) -> Plan {
        self.look(me, store, sessions, now);
        let left_out = self.left_out(me, now);
        let refused: BTreeSet<&str> = left_out.iter().map(|(name, _)| name.as_str()).collect();
        let takes_part = |name: &str, known: &Known| known.record.mesh && !refused.contains(name);
        let topology = self.topology(me, takes_part, now);

        let text = topology.to_string();
        let published = store.and_then(|view| view.nodes.iter().find(|node| node.name == me.name));
        let published = published.map(|node| node.record.settled.clone()).unwrap_or_default();
        let complete = store.is_some() && self.settle(me, &topology, &published, takes_part, now);
        // What others see of us counts until they see otherwise.
        let ours = [text.as_str(), &self.settled, &published];
        let theirs = self.known.iter().filter(|(name, known)| known.is_present(now) && takes_part(name, known));
        let theirs = theirs.map(|(_, known)| known.record.settled.as_str());
        let relied_on: BTreeSet<&str> = ours.into_iter().chain(theirs).collect();
        // Who relies on a reflector does so to reach everybody, who on the mesh, to reach each one.
        let reflected: Vec<Topology> = relied_on.iter().filter_map(|text| Topology::reflected(text)).collect();
        let meshed = ours.contains(&Topology::MESH);
        // Nothing goes while a reflector that is to take its place is down, be it for a moment.
        let heard = store.filter(|_| complete).map(|view| view.heard);
        for (name, known) in &mut self.known {
            let there = known.is_present(now) || known.session.holding;
            if !there || !takes_part(name, known) {
                (known.role, known.needed) = Default::default();
                continue;
            }
            let mesh = (meshed || known.record.settled == Topology::MESH).then_some(&Topology::Mesh);
            let role = |topology: &Topology| topology.role(&me.name, name);
            known.follow(reflected.iter().chain(mesh).map(role).fold(Role::default(), Role::or), heard, now);
        }
        // What clients say is for all, also for those that have no need of a reflector themselves.
        let reflecting = me.reflector || self.known.values().any(|known| known.role.client);
        let peers = self.known.iter().filter_map(|(name, known)| peer(me, name, known, reflecting));
        let mut peers: Vec<Peer> = peers.collect();
        peers.sort_by_key(|peer| peer.address);
        let again = self.again(complete, now);
        let late = |(name, known): (&String, &Known)| {
            let there = known.alive || known.session.established;
            (there && known.record.settled != text && takes_part(name, known)).then(|| name.clone())
        };
        let mut waiting_for: Vec<String> = self.known.iter().filter_map(late).collect();
        if store.is_some() && self.settled != text {
            waiting_for.push(me.name.clone());
        }
        waiting_for.sort();
        Plan { peers, topology: text, settled: self.settled.clone(), waiting_for, left_out, again }
    }

    /// What to remember over a restart: the peers of the last plan, by name.
    pub fn memory(&self) -> Vec<Remembered> {
        let peers = self.known.iter().filter(|(_, known)| known.role.peers);
        peers.map(|(name, known)| Remembered { name: name.clone(), record: known.record.clone() }).collect()
    }

    /// Takes in what the store and BGP say now.
    fn look(&mut self, me: &Me, store: Option<&View<'_>>, sessions: &BTreeMap<IpAddr, Session>, now: Instant) {
        for known in self.known.values_mut() {
            (known.listed, known.alive) = (false, false);
        }
        for node in store.iter().flat_map(|view| &view.nodes).filter(|node| node.name != me.name) {
            if let Some(known) = self.known.get_mut(node.name) {
                if known.record != *node.record {
                    known.record = node.record.clone();
                }
                (known.listed, known.alive) = (true, node.alive);
            } else {
                let new = Known::new(node.record.clone(), now);
                // Nobody has waited for it: a sign of life that is not there is none that was lost.
                let lived = if node.alive { now } else { now.checked_sub(LINGER).unwrap_or(now) };
                self.known.insert(node.name.to_owned(), Known { listed: true, alive: node.alive, lived, ..new });
            }
        }
        for known in self.known.values_mut() {
            known.session = sessions.get(&known.record.address).copied().unwrap_or_default();
            if known.alive || known.session.established || store.is_none() {
                known.lived = now;
            }
        }
        self.known.retain(|_, known| !known.is_gone(now));
    }

    /// Nodes that want to take part and can't.
    fn left_out(&self, me: &Me, now: Instant) -> Vec<(String, LeftOut)> {
        let mut at: BTreeMap<IpAddr, (bool, &str)> = BTreeMap::new();
        let wanting = || self.known.iter().filter(|(_, known)| known.record.mesh);
        for (name, known) in wanting() {
            // Who lives has it, the first by name of several.
            let claim = (!known.is_present(now), name.as_str());
            let holder = at.entry(known.record.address).or_insert(claim);
            *holder = (*holder).min(claim);
        }
        let why = |name: &str, record: &Node| {
            let holder = at.get(&record.address).map(|(_, holder)| *holder);
            if record.asn != me.asn {
                Some(LeftOut::OtherAs(record.asn))
            } else if record.address == me.address || holder != Some(name) {
                Some(LeftOut::SameAddress)
            } else if dials(me, record).is_none() {
                Some(LeftOut::NobodyListens)
            } else {
                None
            }
        };
        wanting().filter_map(|(name, known)| Some((name.clone(), why(name, &known.record)?))).collect()
    }

    fn topology(&self, me: &Me, takes_part: impl Fn(&str, &Known) -> bool, now: Instant) -> Topology {
        let reflects =
            |name: &str, known: &Known| known.record.reflector && known.is_present(now) && takes_part(name, known);
        let others = self.known.iter().filter(|(name, known)| reflects(name, known)).map(|(name, _)| name);
        Topology::of(others.chain(me.reflector.then_some(&me.name)).cloned().collect())
    }

    /// Relies on the present topology if it works, or if nothing else is left; whether it works.
    fn settle(
        &mut self,
        me: &Me,
        topology: &Topology,
        published: &str,
        takes_part: impl Fn(&str, &Known) -> bool,
        now: Instant,
    ) -> bool {
        if self.settled.is_empty() {
            // Of our former run.
            published.clone_into(&mut self.settled);
        }
        let missing = |name: &str, known: &Known| {
            let role = topology.role(&me.name, name);
            let there = known.alive || role.reflector && known.is_present(now);
            let synced = known.session.established && known.session.synced;
            role.peers && there && !synced && takes_part(name, known)
        };
        let complete = !self.known.iter().any(|(name, known)| missing(name, known));
        let there = |name: &String| {
            *name == me.name
                || self.known.get(name).is_some_and(|known| known.is_present(now) && takes_part(name, known))
        };
        let lost = match Topology::reflected(&self.settled) {
            Some(Topology::Reflectors(former)) => !former.iter().any(there),
            _ => self.settled.is_empty(),
        };
        // Who no longer reaches the store can't say that it needs us to reach everybody.
        let mute = |known: &&Known| {
            let relies = |text| Topology::reflected(text).is_some_and(|topology| topology.names(&me.name));
            known.session.established && !known.alive && relies(&known.record.settled)
        };
        if let Some(known) = self.known.values().find(mute) {
            self.settled.clone_from(&known.record.settled);
        } else if complete || lost {
            self.settled = topology.to_string();
        }
        complete
    }

    /// When something follows though nothing happens.
    fn again(&self, complete: bool, now: Instant) -> Option<Instant> {
        let due = |known: &Known| {
            let fades = (complete && known.role != known.needed).then(|| known.since + SETTLE);
            let quiet = !known.alive && !known.session.established;
            let goes = (quiet && known.is_present(now)).then(|| known.lived + LINGER);
            [fades, goes]
        };
        // What is due already waits for word from the store.
        self.known.values().flat_map(due).flatten().filter(|at| *at > now).min()
    }
}

fn peer(me: &Me, name: &str, known: &Known, reflecting: bool) -> Option<Peer> {
    let Known { record, role, .. } = known;
    let passive = !dials(me, record)?;
    role.peers.then(|| Peer {
        name: name.to_owned(),
        address: record.address,
        // Nobody dials it where there is none.
        port: if record.port == 0 { BGP } else { record.port },
        asn: record.asn,
        passive,
        client: role.client,
        reflecting,
        reflector: role.reflector,
    })
}

/// Whether we dial it, rather than it us: one side does, so that no two connections collide (RFC 4271 §6.8).
/// `None`: neither can.
fn dials(me: &Me, other: &Node) -> Option<bool> {
    match (me.port, other.port) {
        (0, 0) => None,
        (0, _) => Some(true),
        (_, 0) => Some(false),
        _ => Some(me.address < other.address),
    }
}
