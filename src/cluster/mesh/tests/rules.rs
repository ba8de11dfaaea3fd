//! What one plan says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::record;
use crate::cluster::mesh::{LINGER, LeftOut, Listed, Me, Mesh, Plan, Remembered, SETTLE, Session, View};
use crate::cluster::node::Node;
use crate::net::Asn;

const UP: Session = Session { established: true, synced: true, holding: false };

/// The middle one of five by address.
fn me() -> Me {
    let Node { address, asn, port, .. } = record(3);
    Me { name: "me".into(), address, asn, port, reflector: false }
}

/// A store, and a mesh that looks at it.
struct Bench {
    me: Me,
    nodes: BTreeMap<String, (Node, bool)>,
    /// When the store was heard of; none: all the time
    heard: Option<Instant>,
    sessions: BTreeMap<std::net::IpAddr, Session>,
    mesh: Mesh,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let nodes = [("a", 1), ("b", 2), ("me", 3), ("c", 4), ("d", 5)];
        let nodes = nodes.map(|(name, n)| (name.to_owned(), (record(n), true)));
        let (sessions, mesh) = Default::default();
        Self { me: me(), nodes: nodes.into(), heard: None, sessions, mesh, now: Instant::now() }
    }

    fn edit(&mut self, name: &str, edit: impl FnOnce(&mut Node)) -> &mut Self {
        edit(&mut self.nodes.get_mut(name).unwrap().0);
        self
    }

    fn up(&mut self, names: &[&str]) {
        for name in names {
            self.sessions.insert(self.nodes[*name].0.address, UP);
        }
    }

    fn plan(&mut self) -> Plan {
        let nodes = self.nodes.iter().map(|(name, (record, alive))| Listed { name, record, alive: *alive });
        let view = View { nodes: nodes.collect(), heard: self.heard.unwrap_or(self.now) };
        self.mesh.plan(&self.me, Some(&view), &self.sessions, self.now)
    }

    /// The same, and what was asked for has been published by all.
    fn published(&mut self) -> Plan {
        let plan = self.plan();
        for (record, _) in self.nodes.values_mut() {
            record.settled.clone_from(&plan.topology);
        }
        self.plan()
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}

/// `a` is dialled, `a<` dials us, `a*` is our client, `a+` reflects to us.
fn shown(plan: &Plan) -> String {
    let peers = plan.peers.iter().map(|peer| {
        let mark = |on: bool, mark: &'static str| if on { mark } else { "" };
        assert!(peer.reflecting || !peer.client);
        [peer.name.as_str(), mark(peer.passive, "<"), mark(peer.client, "*"), mark(peer.reflector, "+")].concat()
    });
    peers.collect::<Vec<_>>().join(" ")
}

#[test]
fn who_peers_with_whom() {
    type Edit = fn(&mut Bench);
    // (why, what is different, peers, topology)
    let cases: [(&str, Edit, &str, &str); 13] = [
        ("all with all; the smaller address dials", |_| {}, "a< b< c d", "mesh"),
        (
            "who accepts nothing dials",
            |b| {
                b.edit("c", |node| node.port = 0);
            },
            "a< b< c< d",
            "mesh",
        ),
        ("as we do then", |b| b.me.port = 0, "a b c d", "mesh"),
        (
            "nobody would dial",
            |b| {
                b.me.port = 0;
                b.edit("c", |node| node.port = 0);
            },
            "a b d",
            "mesh",
        ),
        (
            "another AS is no mesh",
            |b| {
                b.edit("a", |node| node.asn = Asn(64513));
            },
            "b< c d",
            "mesh",
        ),
        (
            "who wants none",
            |b| {
                b.edit("a", |node| node.mesh = false);
            },
            "b< c d",
            "mesh",
        ),
        ("who is not there is not dialled", |b| b.nodes.get_mut("d").unwrap().1 = false, "a< b< c", "mesh"),
        (
            "but stays while its session does",
            |b| {
                b.up(&["d"]);
                b.nodes.get_mut("d").unwrap().1 = false;
            },
            "a< b< c d",
            "mesh",
        ),
        (
            "a reflector for all",
            |b| {
                b.edit("a", |node| node.reflector = true);
            },
            "a<+",
            "a",
        ),
        (
            "two",
            |b| {
                b.edit("d", |node| node.reflector = true).edit("a", |node| node.reflector = true);
            },
            "a<+ d+",
            "a,d",
        ),
        ("we are one: all are clients", |b| b.me.reflector = true, "a<* b<* c* d*", "me"),
        (
            "but other reflectors",
            |b| {
                b.me.reflector = true;
                b.edit("a", |node| node.reflector = true);
            },
            "a<+ b<* c* d*",
            "a,me",
        ),
        (
            "one of another AS is none",
            |b| {
                b.edit("a", |node| (node.reflector, node.asn) = (true, Asn(7)));
            },
            "b< c d",
            "mesh",
        ),
    ];
    for (why, edit, peers, topology) in cases {
        let mut bench = Bench::new();
        edit(&mut bench);
        let plan = bench.plan();
        assert_eq!((shown(&plan).as_str(), plan.topology.as_str()), (peers, topology), "{why}");
    }
}

#[test]
fn why_there_is_no_session() {
    let mut bench = Bench::new();
    bench.me.port = 0;
    bench.edit("a", |node| node.asn = Asn(64513)).edit("b", |node| node.port = 0);
    let twin = bench.nodes["c"].0.address;
    bench.edit("d", |node| node.address = twin);
    let wanted = [("a", LeftOut::OtherAs(Asn(64513))), ("b", LeftOut::NobodyListens), ("d", LeftOut::SameAddress)];
    assert_eq!(bench.plan().left_out, wanted.map(|(name, why)| (name.to_owned(), why)));

    // Whoever lives has the address.
    bench.nodes.get_mut("c").unwrap().1 = false;
    bench.wait(LINGER);
    assert_eq!(bench.plan().left_out[2], ("c".to_owned(), LeftOut::SameAddress));
    let own = bench.me.address;
    bench.edit("d", |node| node.address = own);
    assert!(bench.plan().left_out.contains(&("d".to_owned(), LeftOut::SameAddress)));
}

#[test]
fn make_before_break() {
    let mut bench = Bench::new();
    bench.up(&["a", "b", "c", "d"]);
    assert_eq!(bench.published().waiting_for, [""; 0]);

    // b is to reflect: it was a peer, so nothing has to come up, but it has not sent all that it now will.
    bench.edit("b", |node| node.reflector = true);
    bench.sessions.get_mut(&record(2).address).unwrap().synced = false;
    let plan = bench.plan();
    assert_eq!((shown(&plan).as_str(), plan.settled.as_str()), ("a< b<+ c d", "mesh"));
    assert_eq!(plan.waiting_for, ["a", "b", "c", "d", "me"]);

    bench.up(&["b"]);
    bench.edit("a", |node| node.settled = "b".into());
    let plan = bench.plan();
    assert_eq!((plan.settled.as_str(), plan.again), ("b", None), "we are done, and others must see it first");
    assert_eq!(plan.waiting_for, ["b", "c", "d"]);

    bench.edit("me", |node| node.settled = "b".into());
    let plan = bench.plan();
    assert_eq!(plan.again, Some(bench.now + SETTLE), "a and we can do without each other, soon");
    bench.wait(SETTLE / 2);
    bench.heard = Some(bench.now);
    assert_eq!(bench.plan().again, Some(bench.now + SETTLE / 2));
    bench.wait(2 * SETTLE);
    let plan = bench.plan();
    assert_eq!((shown(&plan).as_str(), plan.again), ("a< b<+ c d", None), "not while the store may have news");
    bench.heard = None;
    assert_eq!(shown(&bench.plan()), "b<+ c d");

    // d never gets there: it keeps us, the others don't.
    bench.edit("c", |node| node.settled = "b".into());
    bench.plan();
    bench.wait(100 * SETTLE);
    let plan = bench.plan();
    assert_eq!((shown(&plan).as_str(), plan.waiting_for.join(" ").as_str()), ("b<+ d", "b d"));
}

#[test]
fn a_reflector_serves_who_relies_on_it() {
    let mut bench = Bench::new();
    bench.me.reflector = true;
    bench.up(&["a", "b", "c", "d"]);
    assert_eq!(shown(&bench.published()), "a<* b<* c* d*");
    bench.me.reflector = false;
    assert_eq!(bench.plan().settled, "mesh");
    for name in ["me", "a", "b", "c"] {
        bench.edit(name, |node| node.settled = "mesh".into());
    }
    bench.plan();
    bench.wait(SETTLE);
    let plan = bench.plan();
    assert_eq!(shown(&plan), "a<* b<* c* d*", "d has no other way to all of them");
    bench.edit("d", |node| node.settled = "mesh".into());
    bench.plan();
    bench.wait(SETTLE);
    let plan = bench.plan();
    assert_eq!(shown(&plan), "a< b< c d");
    assert!(!plan.peers.iter().any(|peer| peer.reflecting));
}

#[test]
fn signs_of_life() {
    let mut bench = Bench::new();
    bench.up(&["a", "b", "c", "d"]);
    bench.edit("a", |node| node.reflector = true);
    assert_eq!(shown(&bench.published()), "a<+");
    // (why, seconds, established, holding, alive, peers, topology)
    let cases = [
        ("its sign of life is late", 300, true, false, false, "a<+", "a"),
        ("its daemon is restarted", 29, false, true, false, "a<+", "a"),
        ("it takes longer", 1, false, true, false, "a<+ b< c d", "mesh"),
        ("it is dead", 1, false, false, false, "b< c d", "mesh"),
        ("it is back, and nobody relies on the mesh yet", 1, false, false, true, "a<+ b< c d", "a"),
    ];
    for (why, seconds, established, holding, alive, peers, topology) in cases {
        bench.sessions.insert(record(1).address, Session { established, synced: established, holding });
        bench.nodes.get_mut("a").unwrap().1 = alive;
        bench.wait(Duration::from_secs(seconds));
        let plan = bench.plan();
        assert_eq!((shown(&plan).as_str(), plan.topology.as_str()), (peers, topology), "{why}");
    }
}

#[test]
fn who_left_on_purpose_is_forgotten_at_once() {
    for (drained, peers) in [(false, "a< b< c d"), (true, "a< b< c")] {
        let mut bench = Bench::new();
        bench.edit("d", |node| node.drained = drained);
        bench.up(&["a", "b", "c", "d"]);
        assert_eq!(shown(&bench.plan()), "a< b< c d", "while it is listed nothing changes");
        bench.sessions.remove(&record(5).address);
        bench.nodes.remove("d");
        assert_eq!(shown(&bench.plan()), peers, "drained: {drained}");
        bench.wait(LINGER);
        assert_eq!(shown(&bench.plan()), "a< b< c");
    }
}

#[test]
fn a_wiped_store_ends_nothing() {
    for reflector in [false, true] {
        let mut bench = Bench::new();
        bench.edit("a", |node| node.reflector = reflector);
        bench.up(&["a", "b", "c", "d"]);
        let before = shown(&bench.published());
        bench.nodes.clear();
        for _ in 0..3 {
            bench.wait(Duration::from_secs(300));
            let plan = bench.plan();
            assert_eq!(shown(&plan), before, "reflector: {reflector}");
            assert_eq!(plan.settled, if reflector { "a" } else { "mesh" });
        }
    }
}

#[test]
fn a_restart_without_the_store() {
    let mut bench = Bench::new();
    bench.edit("a", |node| node.reflector = true);
    bench.up(&["a"]);
    bench.published();
    let memory = bench.mesh.memory();
    assert_eq!(memory.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["a"]);
    let text = serde_json::to_string(&memory).unwrap();
    let read: Vec<Remembered> = serde_json::from_str(&text).unwrap();

    bench.mesh = Mesh::new(read, bench.now);
    let none = BTreeMap::new();
    for _ in 0..3 {
        bench.wait(Duration::from_secs(3600));
        let plan = bench.mesh.plan(&bench.me, None, &none, bench.now);
        assert_eq!((shown(&plan).as_str(), plan.topology.as_str(), plan.settled.as_str()), ("a<+", "a", ""));
    }
    // The store is back, and empty: a is waited for, though not for ever.
    bench.nodes.clear();
    bench.sessions.clear();
    assert_eq!(shown(&bench.plan()), "a<+");
    bench.wait(LINGER);
    assert_eq!(shown(&bench.plan()), "");
}

#[test]
fn what_the_former_run_relied_on_still_counts() {
    let mut bench = Bench::new();
    bench.edit("a", |node| node.reflector = true).edit("me", |node| node.settled = "mesh".into());
    let plan = bench.plan();
    assert_eq!((shown(&plan).as_str(), plan.settled.as_str()), ("a<+ b< c d", "mesh"));
    bench.edit("me", |node| node.settled = "gone".into());
    bench.mesh = Mesh::default();
    assert_eq!(bench.plan().settled, "a", "nothing is left of that");
}

#[test]
fn topologies_are_read_as_they_were_written() {
    use crate::cluster::mesh::topology::Topology;
    for names in [&["a"][..], &["a", "b"], &["mesh"], &["a", "mesh"]] {
        let topology = Topology::of(names.iter().map(ToString::to_string).collect());
        assert_eq!(Topology::reflected(&topology.to_string()), Some(topology), "{names:?}");
    }
    for other in ["", "mesh"] {
        assert_eq!(Topology::reflected(other), None);
    }
}
