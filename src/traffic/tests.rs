//! The ledger against a kernel that is a map; the table's script by the word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn name(text: &str) -> Arc<str> {
    text.into()
}

/// What the kernel has counted, in a set each.
#[derive(Default)]
struct Kernel {
    elements: BTreeMap<(Prefix, Set), Count>,
}

impl Kernel {
    fn carry_out(&mut self, remove: &[Prefix], ledger: &mut Ledger) {
        for prefix in remove {
            let last: Vec<_> =
                Set::of(*prefix).filter_map(|set| Some((set, self.elements.remove(&(*prefix, set))?))).collect();
            ledger.removed(*prefix, &last);
        }
        for prefix in ledger.read(&self.readings()).missing {
            for set in Set::of(prefix) {
                self.elements.entry((prefix, set)).or_default();
            }
        }
    }

    fn pass(&mut self, prefix: Prefix, place: usize, packets: u64) -> u64 {
        let sets: Vec<Set> = Set::of(prefix).collect();
        let Some(count) = self.elements.get_mut(&(prefix, sets[place % sets.len()])) else { return 0 };
        *count += Count { bytes: packets * 100, packets };
        packets
    }

    fn readings(&self) -> Vec<Reading> {
        let reading = |((prefix, set), count): (&(Prefix, Set), &Count)| Reading {
            set: *set,
            addr: prefix.addr(),
            count: *count,
        };
        self.elements.iter().map(reading).collect()
    }
}

fn packets(counts: &Counts) -> u64 {
    counts.iter().map(|(_, _, count)| count.packets).sum()
}

/// All that anybody has, or had while it was among the others.
fn sum(totals: &Totals) -> u64 {
    totals.nodes.iter().map(|node| packets(&node.own)).sum::<u64>() + packets(&totals.other)
}

/// What a scrape shows.
fn series(totals: &Totals) -> BTreeMap<String, Counts> {
    let own = totals.nodes.iter().filter(|node| node.shown).map(|node| (node.name.to_string(), node.own));
    own.chain([("other".to_owned(), totals.other)]).collect()
}

fn want(ledger: &mut Ledger, kernel: &mut Kernel, now: Instant, wanted: &[(&str, &str)]) {
    let wanted = wanted.iter().map(|(prefix, node)| (p(prefix), name(node))).collect();
    let remove = ledger.want(now, &wanted, |family| family == Family::Ipv4, true);
    kernel.carry_out(&remove, ledger);
}

#[test]
fn a_node_that_goes_leaves_the_others_as_they_were() {
    let (mut ledger, mut kernel, start) = (Ledger::new(1), Kernel::default(), Instant::now());
    want(&mut ledger, &mut kernel, start, &[("10.244.1.0/24", "a"), ("10.244.2.0/24", "b")]);
    for (prefix, count) in [("10.244.1.0/24", 5), ("10.244.2.0/24", 7), ("0.0.0.0/0", 2)] {
        kernel.pass(p(prefix), 0, count);
    }
    assert_eq!(ledger.read(&kernel.readings()), Found::default());
    let shown = |ledger: &Ledger| {
        let all = series(&ledger.totals());
        all.into_iter().map(|(name, counts)| format!("{name} {}", packets(&counts))).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(shown(&ledger), "a 5, other 9", "the first by name has the only place");

    want(&mut ledger, &mut kernel, start, &[]);
    assert_eq!(shown(&ledger), "a 5, other 9", "nothing goes at once");
    kernel.pass(p("10.244.2.0/24"), 0, 1);
    ledger.read(&kernel.readings());
    let hour = start + Duration::from_secs(3600);
    want(&mut ledger, &mut kernel, hour, &[]);
    assert_eq!(shown(&ledger), "other 10", "both went, and what the one counted among the others stays");
    want(&mut ledger, &mut kernel, hour, &[("10.244.2.0/24", "b")]);
    assert_eq!(shown(&ledger), "b 0, other 10");
    // Another gets its prefix.
    kernel.pass(p("10.244.2.0/24"), 0, 3);
    ledger.read(&kernel.readings());
    want(&mut ledger, &mut kernel, hour, &[("10.244.2.0/24", "c")]);
    assert_eq!(shown(&ledger), "b 3, other 10", "the former may get it back");
    want(&mut ledger, &mut kernel, hour + Duration::from_secs(3600), &[("10.244.2.0/24", "c")]);
    assert_eq!(shown(&ledger), "c 0, other 10", "it begins with what passes from now on");
}

#[test]
fn a_prefix_that_moves_and_is_back_goes_on_where_it_was() {
    let (mut ledger, mut kernel, start) = (Ledger::new(2), Kernel::default(), Instant::now());
    let subnet = "10.244.1.0/24";
    let shown = |ledger: &Ledger| {
        let all = series(&ledger.totals());
        all.into_iter().map(|(name, counts)| format!("{name} {}", packets(&counts))).collect::<Vec<_>>().join(", ")
    };
    let mut at = |ledger: &mut Ledger, seconds: u64, node: &str, count: u64| {
        want(ledger, &mut kernel, start + Duration::from_secs(seconds), &[(subnet, node)]);
        kernel.pass(p(subnet), 0, count);
        ledger.read(&kernel.readings());
        let kept = serde_json::to_string(&ledger.to_keep(1)).unwrap();
        (shown(ledger), serde_json::from_str::<Option<Kept>>(&kept).unwrap(), kernel.readings())
    };
    assert_eq!(at(&mut ledger, 0, "a", 5).0, "a 5, other 0");
    let (told, kept, readings) = at(&mut ledger, 1, "b", 3);
    assert_eq!(told, "a 5, b 3, other 0");
    let mut again = Ledger::from_kept(kept.unwrap(), 2, &readings).unwrap();
    assert_eq!(at(&mut again, 3, "b", 0).0, "a 5, b 3, other 0", "nor does a restart forget it");
    assert_eq!(at(&mut ledger, 500, "a", 2).0, "a 7, b 3, other 0");
    assert_eq!(at(&mut ledger, 1000, "a", 0).0, "a 7, b 3, other 0", "as long as a prefix is held");
    assert_eq!(at(&mut ledger, 1100, "a", 0).0, "a 7, other 0");
}

#[test]
fn an_element_that_was_set_back_begins_again_and_a_stray_one_counts_for_nobody() {
    let (mut ledger, mut kernel) = (Ledger::new(1), Kernel::default());
    want(&mut ledger, &mut kernel, Instant::now(), &[("10.244.1.0/24", "a")]);
    let set = Set::of(p("10.244.1.0/24")).next().unwrap();
    let own = |ledger: &Ledger| ledger.totals().nodes[0].own[(set.direction, set.path)];
    let mut at = |bytes, packets| {
        kernel.elements.insert((p("10.244.1.0/24"), set), Count { bytes, packets });
        let stray = Reading { set, addr: "10.244.1.5".parse().unwrap(), count: Count::default() };
        let mut readings = kernel.readings();
        readings.push(stray);
        let found = ledger.read(&readings);
        assert_eq!(found, Found { missing: Vec::new(), extra: vec![stray] });
        own(&ledger)
    };
    for (why, (bytes, packets), wanted) in [
        ("counted", (1000, 10), (1000, 10)),
        ("the same again", (1000, 10), (1000, 10)),
        ("fewer packets", (900, 6), (1900, 16)),
        ("as many packets and fewer bytes", (600, 6), (2500, 22)),
    ] {
        assert_eq!(at(bytes, packets), Count { bytes: wanted.0, packets: wanted.1 }, "{why}");
    }
}

#[test]
fn a_default_route_takes_no_place() {
    let (mut ledger, start) = (Ledger::new(1), Instant::now());
    let wanted = BTreeMap::from([(p("0.0.0.0/0"), name("a"))]);
    assert_eq!(ledger.want(start, &wanted, |_| true, true), []);
    assert_eq!(ledger.want(start, &BTreeMap::new(), |_| true, true), []);
    let later = start + Duration::from_secs(3600);
    assert_eq!(ledger.want(later, &BTreeMap::new(), |_| true, true), [p("0.0.0.0/0")]);
}

#[test]
fn the_largest_of_late_have_places() {
    let (mut ledger, mut kernel, now) = (Ledger::new(1), Kernel::default(), Instant::now());
    let wanted = [("10.244.1.0/24", "a"), ("10.244.2.0/24", "b")];
    want(&mut ledger, &mut kernel, now, &wanted);
    ledger.rank();
    let mut minute = |a: u64, b: u64| {
        kernel.pass(p("10.244.1.0/24"), 0, a);
        kernel.pass(p("10.244.2.0/24"), 0, b);
        ledger.read(&kernel.readings());
        ledger.rank();
        let shown = ledger.totals().nodes.into_iter().find(|node| node.shown).unwrap();
        (shown.name.to_string(), packets(&shown.own), packets(&ledger.totals().other))
    };
    let steps = [
        ("nothing yet", 0, 0, ("a", 0, 0)),
        ("not clearly larger", 10, 15, ("a", 10, 15)),
        ("clearly larger: from now on", 10, 100, ("b", 0, 115)),
        ("its own grows, the other stands", 0, 10, ("b", 10, 115)),
        ("the former is one of the others", 5, 10, ("b", 20, 120)),
        ("and goes on where it was when it is back", 900, 0, ("a", 20, 1020)),
        ("as before", 1, 1, ("a", 21, 1021)),
    ];
    for (why, a, b, (name, own, other)) in steps {
        assert_eq!(minute(a, b), (name.to_owned(), own, other), "{why}");
    }
}

#[test]
fn there_is_room_for_so_many() {
    let (mut ledger, now) = (Ledger::new(10), Instant::now());
    let prefix =
        |i: usize| Prefix::new(std::net::Ipv4Addr::from_bits(0x0af4_0000 + u32::try_from(i).unwrap() * 16).into(), 28);
    let wanted = |range: std::ops::Range<usize>| -> BTreeMap<Prefix, Arc<str>> {
        range.map(|i| (prefix(i), name(&format!("n{}", i % 50)))).collect()
    };
    ledger.want(now, &wanted(0..MOST + 5), |_| true, true);
    assert_eq!((ledger.prefixes().len(), ledger.beyond()), (MOST + 2, 5), "and two that take the rest");
    let remove = ledger.want(now, &wanted(0..MOST + 5), |_| true, true);
    assert_eq!((remove.len(), ledger.prefixes().len(), ledger.beyond()), (0, MOST + 2, 5), "who is in stays in");
    let remove = ledger.want(now, &wanted(3..MOST + 5), |_| true, true);
    let found = (remove.len(), ledger.prefixes().len(), ledger.beyond());
    assert_eq!(found, (3, MOST + 5, 2), "who has gone makes room at once");
    assert_eq!(ledger.totals().nodes.iter().filter(|node| node.shown).count(), 10);
}

/// Counts of nothing, as they are kept.
const Z: &str =
    "[{\"bytes\":0,\"packets\":0},{\"bytes\":0,\"packets\":0},{\"bytes\":0,\"packets\":0},{\"bytes\":0,\"packets\":0}]";

#[test]
fn what_was_kept_is_checked() {
    let text = |nodes: &str, prefixes: &str| {
        format!("{{\"table\":1,\"retired\":{Z},\"nodes\":[{nodes}],\"prefixes\":[{prefixes}]}}")
    };
    let a = format!("{{\"name\":\"a\",\"shown\":true,\"own\":{Z},\"other\":{Z}}}");
    let of = |node: &str| format!("{{\"prefix\":\"10.0.0.0/24\",\"node\":{node},\"settled\":{Z}}}");
    let cases = [
        ("as it should be", text(&a, &of("0")), true),
        ("a prefix of nobody", text("", &of("null")), true),
        ("a prefix of nobody there", text(&a, &of("1")), false),
        ("a node without a prefix, whose last moved", text(&a, &of("null")), true),
        ("a node twice", text(&format!("{a},{a}"), &of("0")), false),
        ("a prefix twice", text(&a, &format!("{},{}", of("0"), of("0"))), false),
    ];
    for (why, text, good) in cases {
        let kept: Kept = serde_json::from_str(&text).unwrap();
        assert_eq!(Ledger::from_kept(kept, 5, &[]).is_some(), good, "{why}");
    }
}

#[test]
fn names_of_sets_are_read_as_they_are_written() {
    for prefix in ["0.0.0.0/0", "10.244.1.0/24", "10.0.0.1/32", "fd00::/64", "::/0"].map(p) {
        for set in Set::of(prefix) {
            assert_eq!(Set::named(&set.to_string()), Some(set));
        }
    }
    for other in ["", "transmit_direct_ipv4_33", "transmit_direct_ipv4_024", "transmit_direct_ipv4_", "x_direct_ipv4_1"]
    {
        assert_eq!(Set::named(other), None, "{other}");
    }
}

#[test]
fn rules_ask_the_longest_first() {
    let layout = Layout {
        table: "t".to_owned(),
        tunnel: "wayleave0".to_owned(),
        pools: vec![p("10.244.0.0/16"), p("10.244.4.0/24")],
        own: vec![p("10.244.7.0/24")],
        lengths: [p("10.244.1.0/24"), p("10.244.1.1/32"), p("0.0.0.0/0")].map(|p| (p.family(), p.len())).into(),
    };
    let script = layout.script(&[Set::of(p("10.0.0.0/8")).next().unwrap()]);
    let rules: Vec<&str> = script.lines().filter_map(|line| line.strip_prefix("add rule inet t transmit")).collect();
    let wanted = [
        " ip daddr 10.244.0.0/16 goto transmit_direct_ipv4",
        "_direct_ipv4 oifname \"wayleave0\" goto transmit_tunnel_ipv4",
        "_direct_ipv4 ip daddr @transmit_direct_ipv4_32 return",
        "_direct_ipv4 ip daddr 10.244.7.0/24 return",
        "_direct_ipv4 ip daddr & 255.255.255.0 @transmit_direct_ipv4_24 return",
        "_direct_ipv4 ip protocol 4 return",
        "_direct_ipv4 ip daddr & 0.0.0.0 @transmit_direct_ipv4_0 return",
        "_tunnel_ipv4 ip daddr @transmit_tunnel_ipv4_32 return",
        "_tunnel_ipv4 ip daddr 10.244.7.0/24 return",
        "_tunnel_ipv4 ip daddr & 255.255.255.0 @transmit_tunnel_ipv4_24 return",
        "_tunnel_ipv4 ip daddr & 0.0.0.0 @transmit_tunnel_ipv4_0 return",
    ];
    assert_eq!(rules, wanted);
    assert!(script.contains("delete set inet t transmit_direct_ipv4_8\n"), "{script}");
}

const PREFIXES: [&str; 6] =
    ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24", "10.244.3.128/25", "fd44:1::/64", "0.0.0.0/0"];

#[derive(Clone, Debug)]
enum Act {
    /// Packets for a prefix, in one of its sets
    Pass(usize, usize, u64),
    /// Who has which prefix now; packets that pass between the decision and the removal
    Want(Vec<Option<u8>>, u64),
    Later(u64),
    Read,
    Rank,
    Top(usize),
    /// The daemon dies, with what is on disk
    Restart,
    /// Somebody removes an element; packets of it that nobody has read are lost
    Lose(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let owner = proptest::option::weighted(0.7, 0..4_u8);
    prop_oneof![
        6 => (0..PREFIXES.len(), 0..4_usize, 1..1000_u64).prop_map(|(prefix, place, n)| Act::Pass(prefix, place, n)),
        3 => (proptest::collection::vec(owner, PREFIXES.len()), 0..5_u64).prop_map(|(who, n)| Act::Want(who, n)),
        1 => (1..900_u64).prop_map(Act::Later),
        4 => Just(Act::Read),
        3 => Just(Act::Rank),
        1 => (0..4_usize).prop_map(Act::Top),
        1 => Just(Act::Restart),
        1 => (0..PREFIXES.len()).prop_map(Act::Lose),
    ]
}

/// A ledger with its kernel and its file, and what must be true of them.
struct World {
    ledger: Ledger,
    kernel: Kernel,
    disk: Option<Kept>,
    top: usize,
    now: Instant,
    /// Packets that were counted, less those that went with a node or were lost
    expected: u64,
    before: BTreeMap<String, Counts>,
}

impl World {
    fn keep(&mut self) {
        if let Some(kept) = self.ledger.to_keep(1) {
            let text = serde_json::to_string(&kept).unwrap();
            self.disk = Some(serde_json::from_str(&text).unwrap());
        }
    }

    /// Somebody scrapes.
    fn look(&mut self) -> Result<(), TestCaseError> {
        self.ledger.read(&self.kernel.readings());
        self.keep();
        let totals = self.ledger.totals();
        prop_assert_eq!(sum(&totals), self.expected, "every packet is somewhere");
        let now = series(&totals);
        prop_assert!(now.len() <= self.top + 1, "{:?}", now.keys());
        for (name, counts) in &now {
            if let Some(was) = self.before.get(name) {
                for ((direction, path, count), (_, _, was)) in counts.iter().zip(was.iter()) {
                    let back = count.bytes < was.bytes || count.packets < was.packets;
                    prop_assert!(!back, "{name} {direction:?} {path:?}: {was:?} to {count:?}");
                }
            }
        }
        self.before = now;
        Ok(())
    }

    fn want(&mut self, owners: &[Option<u8>], between: u64) -> Result<(), TestCaseError> {
        self.look()?;
        let owned = PREFIXES
            .iter()
            .zip(owners)
            .filter_map(|(prefix, owner)| Some((p(prefix), name(&format!("n{}", (*owner)?)))));
        let wanted = owned.collect();
        let before = self.ledger.totals();
        let remove = self.ledger.want(self.now, &wanted, |_| true, true);
        self.keep();
        for prefix in &remove {
            self.expected += self.kernel.pass(*prefix, 1, between);
        }
        // With a node go the packets that it counted while it had a place.
        let mut after = Vec::new();
        self.ledger.read(&self.kernel.readings());
        after.extend(self.ledger.totals().nodes);
        self.kernel.carry_out(&remove, &mut self.ledger);
        self.keep();
        let there: BTreeSet<Arc<str>> = self.ledger.totals().nodes.into_iter().map(|node| node.name).collect();
        let known = after.iter().map(|node| (&node.name, &node.own));
        // Some went, as another has had their last prefix for long.
        let sooner = before.nodes.iter().filter(|node| !after.iter().any(|after| after.name == node.name));
        let gone = known.chain(sooner.map(|node| (&node.name, &node.own))).filter(|(name, _)| !there.contains(*name));
        let gone: u64 = gone.map(|(_, own)| packets(own)).sum();
        self.expected -= gone;
        self.look()
    }

    fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match act {
            Act::Pass(prefix, place, n) => self.expected += self.kernel.pass(p(PREFIXES[*prefix]), *place, *n),
            Act::Want(owners, between) => self.want(owners, *between)?,
            Act::Later(seconds) => self.now += Duration::from_secs(*seconds),
            Act::Read => self.look()?,
            Act::Rank => {
                self.look()?;
                self.ledger.rank();
                self.keep();
                self.look()?;
            }
            Act::Top(top) => {
                self.look()?;
                self.top = *top;
                self.ledger.set_top(*top);
                self.keep();
                self.look()?;
            }
            Act::Restart => {
                let Some(kept) = self.disk.clone() else { return Ok(()) };
                self.ledger =
                    Ledger::from_kept(kept, self.top, &self.kernel.readings()).expect("what was kept makes sense");
                self.ledger.set_top(self.top);
                self.look()?;
            }
            Act::Lose(prefix) => {
                // It is read before, so that what is lost is known.
                self.look()?;
                let prefix = p(PREFIXES[*prefix]);
                let sets: Vec<Set> =
                    Set::of(prefix).filter(|set| self.kernel.elements.contains_key(&(prefix, *set))).collect();
                for set in &sets {
                    self.kernel.elements.remove(&(prefix, *set));
                }
                let found = self.ledger.read(&self.kernel.readings());
                prop_assert_eq!(found.missing.contains(&prefix), !sets.is_empty());
                self.ledger.lost(found.missing.clone());
                self.keep();
                self.kernel.carry_out(&[], &mut self.ledger);
                self.look()?;
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn no_series_goes_back_and_no_packet_gets_lost(acts in proptest::collection::vec(act(), 1..80)) {
        let mut world = World {
            ledger: Ledger::new(2),
            kernel: Kernel::default(),
            disk: None,
            top: 2,
            now: Instant::now(),
            expected: 0,
            before: BTreeMap::new(),
        };
        for act in acts {
            world.act(&act)?;
        }
    }
}
