//! BFD beside BGP, with BIRD and FRR's bfdd at the other end.

use std::fmt::Write;
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::agent::{Agent, ROUTE, SESSION};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::kernel::our_route;
use crate::harness::{Frr, Lab, Netns, Probe, Pulse, announce, holds, wait_for};
use crate::story::{Config, HOST_AS, Rack, TOR_AS};

/// What BIRD needs besides `bfd on` of a neighbour.
const BIRD_BFD: &str = "protocol bfd { interface \"*\" { interval 100 ms; multiplier 3; }; \
                        multihop { interval 100 ms; multiplier 3; }; }\n";

/// For stories that are not about time. On a machine that is busy with other things BIRD's threads, and what
/// of ours is not real-time, come late; a process takes its time to die; and where the machine is a
/// virtual one it may stand still for longer than 3 × 100 ms.
const PATIENT: &str = "bfd = { interval = \"100ms\", multiplier = 10 }";

/// A configuration of BIRD in the same mood.
fn patient(text: &str) -> String {
    text.replace("multiplier 3", "multiplier 10")
}

/// (name in our file, the router's address, ours, a prefix of the router's)
const BOTH: [(&str, &str, &str, &str); 2] =
    [("tor4", "10.0.0.1", "10.0.0.2", "10.244.1.0/24"), ("tor6", "fd00::1", "fd00::2", "fd44:1::/64")];

fn host(options: &str) -> Config {
    let mut config = Config::host();
    for (name, router, _, _) in BOTH {
        let family = if router.contains(':') { "ipv6" } else { "ipv4" };
        config = config.peer(name, router, TOR_AS, &format!("families = [\"{family}\"];{options}"));
    }
    config
}

fn bird(mode: &str) -> String {
    let mut sessions = BOTH.map(|(name, router, host, _)| Neighbor::new(name, (router, TOR_AS), (host, HOST_AS)));
    for session in &mut sessions {
        session.options = mode;
    }
    config("10.0.0.1", &sessions, &BOTH.map(|(.., prefix)| prefix), BIRD_BFD)
}

fn start_bird(lab: &Lab, space: &Netns, config: &str) -> Bird {
    let mut bird = Bird::start(lab, space, config);
    bird.process().hurry();
    bird
}

fn bfd(agent: &Agent, peer: &str) -> Value {
    agent.peer(peer).map(|peer| peer["bfd"].clone()).unwrap_or_default()
}

/// The router at the other end, by whom it is made.
enum Router {
    Bird(Bird),
    Frr(Frr),
    Wayleave(Agent),
}

impl Router {
    fn wayleave(rack: &Rack) -> Self {
        let mut config = Config { asn: TOR_AS, ..Config::node("10.0.0.1", &["10.244.1.0/24", "fd44:1::/64"]) };
        for (name, _, host, _) in BOTH {
            let family = if host.contains(':') { "ipv6" } else { "ipv4" };
            config = config.peer(name, host, HOST_AS, &format!("families = [\"{family}\"];{PATIENT}"));
        }
        Self::Wayleave(Agent::start(&rack.lab, &rack.tor, &config.text()))
    }

    /// Its BFD session with this address of the host is up.
    fn bfd_up(&self, host: &str) -> bool {
        match self {
            Self::Bird(bird) => {
                let shown = bird.birdc("show bfd sessions");
                shown.lines().any(|line| line.contains(host) && line.contains("Up"))
            }
            Self::Frr(frr) => frr.bfd(host).is_some_and(|bfd| bfd["status"] == "up"),
            Self::Wayleave(agent) => {
                let name = if host.contains(':') { "tor6" } else { "tor4" };
                bfd(agent, name)["state"] == "up"
            }
        }
    }

    /// It has this route, and not as one that it only keeps.
    fn fresh(&self, prefix: &str) -> bool {
        match self {
            Self::Bird(bird) => bird.route(prefix).is_some_and(|route| !route.contains("stale")),
            Self::Frr(frr) => frr.path(prefix).is_some_and(|path| path.get("stale").is_none()),
            Self::Wayleave(agent) => {
                agent.best(prefix).is_some() && agent.peer("tor4").is_some_and(|peer| peer["stale"] == 0)
            }
        }
    }
}

fn wait_up(agent: &Agent, peers: &[&str]) {
    for peer in peers {
        holds(&format!("BFD with {peer} up"), SESSION, || bfd(agent, peer)["state"] == "up");
    }
}

/// Waits until the polls that follow going up are over: this pace, this detection time.
fn wait_agreed(agent: &Agent, peer: &str, interval: f64, detection: f64) {
    let wanted = (Some(interval), Some(detection));
    let agreed = |bfd: &Value| (bfd["interval"].as_f64(), bfd["detection_time"].as_f64());
    holds(&format!("{peer}: {wanted:?} agreed on"), ROUTE, || agreed(&bfd(agent, peer)) == wanted);
}

fn failures(agent: &Agent, peer: &str) -> u64 {
    bfd(agent, peer)["failures"].as_u64().unwrap()
}

/// Nothing gets in or out any more, and nobody is told.
fn cut(space: &Netns) -> SystemTime {
    space.nft(
        "table inet cut {\n\
         chain inbound { type filter hook input priority 0; policy drop; }\n\
         chain through { type filter hook forward priority 0; policy drop; }\n\
         chain outbound { type filter hook output priority 0; policy drop; }\n}\n",
    );
    SystemTime::now()
}

fn mend(space: &Netns) {
    space.nft("delete table inet cut\n");
}

/// When the agent logged the first line with all these words after a time.
fn logged(agent: &Agent, after: SystemTime, words: &[&str]) -> Option<SystemTime> {
    let log = agent.log();
    let mut times = log
        .lines()
        .filter(|line| words.iter().all(|word| line.contains(word)))
        .filter_map(|line| humantime::parse_rfc3339(line.split_whitespace().next()?).ok());
    times.find(|at| *at >= after)
}

#[test]
fn bird_gone_silent_is_noticed_at_once() {
    let rack = Rack::new();
    let tor = start_bird(&rack.lab, &rack.tor, &bird("bfd on;"));
    let agent = Agent::start(&rack.lab, &rack.host, &host("bfd = {}").text());
    agent.wait_established(&["tor4", "tor6"]);
    wait_up(&agent, &["tor4", "tor6"]);
    for (name, router, host, prefix) in BOTH {
        agent.wait_installed(prefix);
        wait_agreed(&agent, name, 0.1, 0.3);
        let seen = bfd(&agent, name);
        assert_eq!((&seen["remote_state"], &seen["multihop"]), (&"up".into(), &false.into()), "{router} {seen}");
        holds("BIRD sees it up", ROUTE, || {
            let shown = tor.birdc("show bfd sessions");
            shown.lines().any(|line| line.contains(host) && line.contains("Up"))
        });
    }

    let from = cut(&rack.tor);
    for (name, .., prefix) in BOTH {
        let peer = format!("peer{{name=\"{name}\"}}");
        let at = wait_for(&format!("{name} goes down"), ROUTE, || {
            logged(&agent, from, &["session lost", &peer, "BFD down"])
        });
        let took = at.duration_since(from).unwrap();
        announce(&format!("{name}: path cut, BGP session down {took:?} later"));
        assert!(took < Duration::from_millis(400), "{name}: 3 × 100 ms, but it took {took:?}");
        holds("its route leaves the kernel", ROUTE, || our_route(&rack.host, prefix).is_none());
        let seen = bfd(&agent, name);
        let failure = seen["last_failure"].as_str().unwrap();
        assert!(failure.starts_with("control detection time expired"), "{seen}");
        let lost = format!("wayleave_bgp_session_flaps_total{{peer=\"{name}\",reason=\"bfd_down\"}}");
        assert!(agent.metric(&lost) >= Some(1.0));
    }

    mend(&rack.tor);
    wait_up(&agent, &["tor4", "tor6"]);
    agent.wait_established(&["tor4", "tor6"]);
    for (.., prefix) in BOTH {
        agent.wait_installed(prefix);
    }
}

/// A router that speaks no BGP between host and peer.
struct Far {
    rack: Rack,
    far: Netns,
}

fn far() -> Far {
    let rack = Rack::new();
    let far = rack.lab.router("far");
    rack.lab.link((&rack.tor, "eth1", &["10.9.0.1/24", "fd09::1/64"]), (&far, "eth0", &["10.9.0.9/24", "fd09::9/64"]));
    for (space, v4, v6) in [(&far, "10.9.0.1", "fd09::1"), (&rack.host, "10.0.0.1", "fd00::1")] {
        space.ip(&format!("route add default via {v4}"));
        space.ip(&format!("route add default via {v6}"));
    }
    Far { rack, far }
}

const FAR: [(&str, &str, &str); 2] = [("far4", "10.9.0.9", "10.0.0.2"), ("far6", "fd09::9", "fd00::2")];

fn host_of_far(options: &str) -> Config {
    let mut config = Config::host();
    for (name, router, _) in FAR {
        let family = if router.contains(':') { "ipv6" } else { "ipv4" };
        config = config.peer(name, router, TOR_AS, &format!("families = [\"{family}\"];bfd = {{}};{options}"));
    }
    config
}

#[test]
fn bird_behind_a_router() {
    let Far { rack, far } = far();
    let mut sessions = FAR.map(|(name, router, host)| Neighbor::new(name, (router, TOR_AS), (host, HOST_AS)));
    for session in &mut sessions {
        session.options = "multihop 2; bfd on;";
    }
    let _bird = start_bird(&rack.lab, &far, &config("10.9.0.9", &sessions, &["10.244.1.0/24"], BIRD_BFD));
    let agent = Agent::start(&rack.lab, &rack.host, &host_of_far("multihop = 2").text());
    agent.wait_established(&["far4", "far6"]);
    wait_up(&agent, &["far4", "far6"]);
    for (name, ..) in FAR {
        wait_agreed(&agent, name, 0.1, 0.3);
        assert_eq!(bfd(&agent, name)["multihop"], true);
    }
    let from = cut(&rack.tor);
    for (name, ..) in FAR {
        let peer = format!("peer{{name=\"{name}\"}}");
        let at = wait_for(&format!("{name} goes down"), ROUTE, || {
            logged(&agent, from, &["session lost", &peer, "BFD down"])
        });
        assert!(at.duration_since(from).unwrap() < Duration::from_millis(400));
    }
}

#[test]
fn frr_behind_a_router_within_the_hops_that_are_allowed() {
    let Far { rack, far } = far();
    let mut bgpd = format!("router bgp {TOR_AS}\n bgp router-id 10.9.0.9\n no bgp ebgp-requires-policy\n");
    for (_, _, host) in FAR {
        write!(
            bgpd,
            " neighbor {host} remote-as {HOST_AS}\n neighbor {host} timers connect 1\n \
             neighbor {host} ttl-security hops 2\n neighbor {host} bfd 3 100 100\n"
        )
        .unwrap();
    }
    bgpd += " address-family ipv6 unicast\n  neighbor fd00::2 activate\n exit-address-family\n";
    let frr = Frr::start_with_bfd(&rack.lab, &far, &bgpd, "");
    let agent = Agent::start(&rack.lab, &rack.host, &host_of_far("ttl_security = 2").text());
    agent.wait_established(&["far4", "far6"]);
    wait_up(&agent, &["far4", "far6"]);
    for (name, _, host) in FAR {
        assert_eq!(bfd(&agent, name)["multihop"], true);
        holds("bfdd sees it up", ROUTE, || frr.bfd(host).is_some_and(|bfd| bfd["status"] == "up"));
    }
    // Another router on the way is one too many.
    for (rules, at) in [("ip ttl set 253", "10.9.0.9"), ("ip6 hoplimit set 253", "fd09::9")] {
        let family = if at.contains(':') { "ip6" } else { "ip" };
        rack.tor.nft(&format!(
            "table {family} longer {{ chain through {{ type filter hook forward priority 0; \
             {family} saddr {at} udp dport 4784 {rules}; }}\n}}\n"
        ));
    }
    for (name, ..) in FAR {
        holds("not from so far", ROUTE, || failures(&agent, name) == 1);
    }
    let discarded = agent.metric("wayleave_bfd_packets_discarded_total{reason=\"ttl\"}").unwrap();
    assert!(discarded > 0.0);
}

fn bgpd(bfd: &str) -> String {
    let mut text = format!(
        "router bgp {TOR_AS}\n bgp router-id 10.0.0.1\n no bgp ebgp-requires-policy\n no bgp network import-check\n"
    );
    for (_, _, host, _) in BOTH {
        writeln!(
            text,
            " neighbor {host} remote-as {HOST_AS}\n neighbor {host} timers connect 1\n neighbor {host} {bfd}"
        )
        .unwrap();
    }
    text + " address-family ipv4 unicast\n  network 10.244.1.0/24\n  no neighbor fd00::2 activate\n \
            exit-address-family\n address-family ipv6 unicast\n  network fd44:1::/64\n  \
            neighbor fd00::2 activate\n exit-address-family\n"
}

#[test]
fn frr_gone_silent_and_frr_that_stops_watching() {
    let rack = Rack::new();
    let frr = Frr::start_with_bfd(&rack.lab, &rack.tor, &bgpd("bfd 3 100 100"), "");
    let agent = Agent::start(&rack.lab, &rack.host, &host("bfd = {}").text());
    agent.wait_established(&["tor4", "tor6"]);
    wait_up(&agent, &["tor4", "tor6"]);
    for (name, _, host, _) in BOTH {
        wait_agreed(&agent, name, 0.1, 0.3);
        let seen = frr.bfd(host).unwrap();
        assert_eq!(
            (&seen["status"], &seen["remote-receive-interval"], &seen["remote-echo-receive-interval"]),
            (&"up".into(), &100.into(), &0.into()),
            "{seen}"
        );
    }

    // On purpose: nothing has failed, BGP stays (RFC 5882 §3.2).
    let before = failures(&agent, "tor4");
    frr.configure_bfd(&["peer 10.0.0.2 local-address 10.0.0.1 interface eth0", "shutdown"]);
    holds("AdminDown is heard", ROUTE, || bfd(&agent, "tor4")["remote_state"] == "admindown");
    assert_eq!(bfd(&agent, "tor4")["state"], "down");
    // Longer than the detection time: the other session shows that time passes.
    let packets = bfd(&agent, "tor6")["received"].as_u64().unwrap();
    holds("a second passes", ROUTE, || bfd(&agent, "tor6")["received"].as_u64().unwrap() > packets + 10);
    assert_eq!((failures(&agent, "tor4"), agent.established("tor4")), (before, true));
    let status = agent.status();
    let problems = status["problems"].to_string();
    assert!(problems.contains("taken it down"), "{problems}");
    frr.configure_bfd(&["peer 10.0.0.2 local-address 10.0.0.1 interface eth0", "no shutdown"]);
    wait_up(&agent, &["tor4"]);
    wait_agreed(&agent, "tor4", 0.1, 0.3);

    let from = cut(&rack.tor);
    for (name, ..) in BOTH {
        let peer = format!("peer{{name=\"{name}\"}}");
        let at = wait_for(&format!("{name} goes down"), ROUTE, || {
            logged(&agent, from, &["session lost", &peer, "BFD down"])
        });
        assert!(at.duration_since(from).unwrap() < Duration::from_millis(400));
    }
    mend(&rack.tor);
    agent.wait_established(&["tor4", "tor6"]);
    wait_up(&agent, &["tor4", "tor6"]);
    for (_, _, host, _) in BOTH {
        holds("bfdd sees it up", ROUTE, || frr.bfd(host).is_some_and(|bfd| bfd["status"] == "up"));
    }
}

#[test]
fn timers_and_bfd_itself_change_under_way() {
    let rack = Rack::new();
    let _tor = start_bird(&rack.lab, &rack.tor, &patient(&bird("bfd on;")));
    let agent = Agent::start(&rack.lab, &rack.host, &host(PATIENT).text());
    agent.wait_established(&["tor4", "tor6"]);
    wait_up(&agent, &["tor4", "tor6"]);
    for (options, interval, detection) in
        [("bfd = { interval = \"400ms\" }", 0.4, 4.0), ("bfd = { interval = \"50ms\", multiplier = 5 }", 0.1, 1.0)]
    {
        agent.reload(&host(options).text());
        for (name, ..) in BOTH {
            wait_agreed(&agent, name, interval, detection);
            assert_eq!(failures(&agent, name), 0, "{options}: by a poll, without a gap");
        }
    }
}

#[test]
fn who_stops_watching_and_begins_again() {
    let start: [fn(&Rack) -> Router; 3] = [
        |rack| Router::Bird(start_bird(&rack.lab, &rack.tor, &patient(&bird("bfd on;")))),
        |rack| Router::Frr(Frr::start_with_bfd(&rack.lab, &rack.tor, &bgpd("bfd 10 100 100"), "")),
        Router::wayleave,
    ];
    for start in start {
        let rack = Rack::new();
        let router = start(&rack);
        let agent = Agent::start(&rack.lab, &rack.host, &host(PATIENT).text());
        agent.wait_established(&["tor4", "tor6"]);
        wait_up(&agent, &["tor4", "tor6"]);
        let since = |name: &str| agent.peer(name).unwrap()["since"].clone();
        let before = BOTH.map(|(name, ..)| since(name));
        // Nor is it one that FRR replaces its session once BGP has told it its own address.
        for (name, ..) in BOTH {
            assert_eq!(failures(&agent, name), 0);
        }

        agent.reload(&host("").text());
        for (name, _, host, _) in BOTH {
            holds("BFD ends", ROUTE, || bfd(&agent, name).is_null());
            holds("the router sees that", ROUTE, || !router.bfd_up(host));
        }
        agent.reload(&host(PATIENT).text());
        agent.wait_established(&["tor4", "tor6"]);
        wait_up(&agent, &["tor4", "tor6"]);
        for (name, _, host, _) in BOTH {
            holds("the router sees it up", ROUTE, || router.bfd_up(host));
            assert_eq!(failures(&agent, name), 0);
        }
        // BIRD and FRR take our AdminDown for a failure, against RFC 5882 §3.2.
        if matches!(router, Router::Wayleave(_)) {
            assert_eq!(BOTH.map(|(name, ..)| since(name)), before, "BGP has not noticed");
        }
    }
}

/// A process that only burns CPU.
struct Burner(Child);

impl Drop for Burner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Longer than this the machine itself must not stand still if 3 × 50 ms is to say something: what is
/// left of the detection time when a packet is due, less one interval.
const STANDSTILL: Duration = Duration::from_millis(50);

#[test]
fn a_busy_machine_raises_no_false_alarm() {
    let rack = Rack::new();
    // Both ends are ours: what BIRD does under load is not the question.
    let bfd_on = "bfd = { interval = \"50ms\", multihop = false }";
    let text = Config::node("10.0.0.1", &["10.244.1.0/24"]).peer("host", "10.0.0.2", HOST_AS, bfd_on).text();
    let tor = Agent::start(&rack.lab, &rack.tor, &text);
    let agent = Agent::start(&rack.lab, &rack.host, &Config::host().peer("tor", "10.0.0.1", HOST_AS, bfd_on).text());
    let cores = std::thread::available_parallelism().unwrap().get();
    let burner = || Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
    let failures = || failures(&agent, "tor") + failures(&tor, "host");
    let late = || [&agent, &tor].map(|agent| agent.metric("wayleave_bfd_late_total").unwrap()).iter().sum::<f64>();
    let pulse = Pulse::start();
    for _ in 0..5 {
        agent.wait_established(&["tor"]);
        wait_up(&agent, &["tor"]);
        wait_up(&tor, &["host"]);
        wait_agreed(&agent, "tor", 0.05, 0.15);
        let burners: Vec<Burner> = (0..8 * cores).map(|_| Burner(burner().unwrap())).collect();
        // Some 20 packets a second: ten seconds.
        let received = || bfd(&agent, "tor")["received"].as_u64().unwrap();
        pulse.take();
        let before = (received(), failures(), late());
        holds("ten seconds pass", Duration::from_secs(60), || received() > before.0 + 220 || failures() > before.1);
        drop(burners);
        let (alarms, late) = (failures() - before.1, late() - before.2);
        let (standstill, standstills) = pulse.take();
        announce(&format!(
            "3 × 50 ms beside {} busy processes: {alarms} alarms, {late} times late; the machine itself stood \
             still {standstills} times, at most for {standstill:?}",
            8 * cores
        ));
        assert_eq!(agent.status()["bfd_priority"].to_string().contains("real time"), pulse.real_time);
        // Where the machine lets whoever goes first run at once, so does our thread.
        assert!(!pulse.real_time || late <= 2.0 * f64::from(standstills), "{late} times late");
        if alarms == 0 {
            return;
        }
        assert!(standstill > STANDSTILL, "a false alarm, and it is not the machine's");
    }
    panic!("the machine stands still too often to be tested on: see the notes above");
}

#[test]
fn a_packet_from_beyond_the_link_is_ignored() {
    let rack = Rack::new();
    let _tor = start_bird(&rack.lab, &rack.tor, &patient(&bird("bfd on;")));
    let agent = Agent::start(&rack.lab, &rack.host, &host(PATIENT).text());
    wait_up(&agent, &["tor4", "tor6"]);
    // Down, from nobody in particular: ends the session (RFC 5880 §6.8.6), though not BGP.
    #[rustfmt::skip]
    let forged = [0x20, 0x40, 3, 24, 0, 0, 0, 99, 0, 0, 0, 0, 0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0, 0, 0, 0, 0];
    let discarded = || agent.metric("wayleave_bfd_packets_discarded_total{reason=\"ttl\"}");
    for (name, router, host, _) in BOTH {
        let send = |ttl: u32| {
            rack.tor.run(|| {
                let socket = UdpSocket::bind((router.parse::<std::net::IpAddr>().unwrap(), 0)).unwrap();
                let options = socket2::SockRef::from(&socket);
                if router.contains(':') { options.set_unicast_hops_v6(ttl) } else { options.set_ttl_v4(ttl) }.unwrap();
                socket.send_to(&forged, (host.parse::<std::net::IpAddr>().unwrap(), 3784)).unwrap();
            });
        };
        let down = format!("wayleave_bfd_session_transitions_total{{peer=\"{name}\",state=\"down\"}}");
        let downs = || agent.metric(&down);
        let one_more = |before: Option<f64>| before.map(|before| before + 1.0);
        let before = (discarded(), downs());
        send(254);
        holds("it is discarded", ROUTE, || discarded() == one_more(before.0));
        assert_eq!(downs(), before.1, "and harms nothing");
        send(255);
        holds("one of the link is believed", ROUTE, || downs() == one_more(before.1));
        assert_eq!(failures(&agent, name), 0);
    }
}

#[test]
fn a_port_that_is_taken_is_named_and_tried_again() {
    let rack = Rack::new();
    let _tor = start_bird(&rack.lab, &rack.tor, &patient(&bird("bfd on;")));
    let taken = rack.host.run(|| UdpSocket::bind("0.0.0.0:3784").unwrap());
    let agent = Agent::start(&rack.lab, &rack.host, &host(PATIENT).text());
    agent.wait_established(&["tor4"]);
    let named = |text: String| text.contains("UDP port 3784");
    holds("the reason is shown", ROUTE, || named(agent.status()["problems"].to_string()));
    wait_up(&agent, &["tor6"]);
    drop(taken);
    wait_up(&agent, &["tor4"]);
    assert_eq!(bfd(&agent, "tor4")["error"], Value::Null);
    assert!(agent.established("tor4"), "BGP was never held up");
}

/// Killed and stopped with BFD on, until the router's BFD has noticed and longer.
fn restarts(start: impl Fn(&Rack) -> Router) {
    for stop in [Signal::SIGKILL, Signal::SIGTERM] {
        let rack = Rack::new();
        let client = rack.lab.container(&rack.tor, "client", &["10.244.1.2"]);
        let guest = rack.lab.container(&rack.host, "guest", &["10.244.7.2"]);
        let router = start(&rack);
        let mut agent = Agent::start(&rack.lab, &rack.host, &host(PATIENT).text());
        agent.wait_installed("10.244.1.0/24");
        wait_up(&agent, &["tor4", "tor6"]);
        holds("the router has our route", ROUTE, || router.fresh("10.244.7.0/24"));
        holds("container and client see each other", ROUTE, || client.ping("10.244.7.2", 1) == 1);

        let probe = Probe::start(&client, &guest, "10.244.7.2");
        match stop {
            Signal::SIGTERM => assert_eq!(agent.terminate().code(), Some(0)),
            _ => agent.kill(),
        }
        holds("the router's BFD sees us gone", ROUTE, || !router.bfd_up("10.0.0.2"));
        agent.launch(&rack.lab);
        agent.wait_established(&["tor4", "tor6"]);
        wait_up(&agent, &["tor4", "tor6"]);
        holds("the router has a fresh route", ROUTE, || router.fresh("10.244.7.0/24"));
        agent.wait_installed("10.244.1.0/24");
        // And again, back before its BFD can notice.
        agent.kill();
        agent.launch(&rack.lab);
        agent.wait_established(&["tor4", "tor6"]);
        wait_up(&agent, &["tor4", "tor6"]);
        holds("the router has a fresh route again", ROUTE, || router.fresh("10.244.7.0/24"));
        let report = probe.finish();
        assert!(report.sent > 100, "{report:?}");
        assert_eq!(report.lost, 0, "{stop}: {report:?}");
    }
}

#[test]
fn our_restarts_beside_bird() {
    restarts(|rack| Router::Bird(start_bird(&rack.lab, &rack.tor, &patient(&bird("bfd graceful;")))));
}

#[test]
fn our_restarts_beside_frr() {
    restarts(|rack| {
        let mut bgpd = bgpd("bfd 10 100 100").replacen(" bgp router-id", " bgp graceful-restart\n bgp router-id", 1);
        // Told its own address, FRR need not replace the BFD session when BGP comes up, and close BGP for it.
        for (_, router, host, _) in BOTH {
            let bfd = format!(" neighbor {host} bfd");
            bgpd = bgpd.replacen(&bfd, &format!(" neighbor {host} update-source {router}\n{bfd}"), 1);
        }
        Router::Frr(Frr::start_with_bfd(&rack.lab, &rack.tor, &bgpd, ""))
    });
}

#[test]
fn our_restarts_beside_our_own() {
    restarts(Router::wayleave);
}

/// BIRD and its BFD are one process and go together; we keep what it sent and lose no packet.
#[test]
fn bird_restarts() {
    let rack = Rack::new();
    let client = rack.lab.container(&rack.tor, "client", &["10.244.1.2"]);
    let guest = rack.lab.container(&rack.host, "guest", &["10.244.7.2"]);
    let text = patient(&bird("bfd graceful; graceful restart on;"))
        .replace("merge paths on;", "merge paths on; graceful restart on;");
    let mut tor = start_bird(&rack.lab, &rack.tor, &text);
    let agent = Agent::start(&rack.lab, &rack.host, &host(PATIENT).text());
    agent.wait_installed("10.244.1.0/24");
    wait_up(&agent, &["tor4", "tor6"]);
    holds("container and client see each other", ROUTE, || client.ping("10.244.7.2", 1) == 1);
    let probe = Probe::start(&client, &guest, "10.244.7.2");
    for waits in [true, false] {
        tor.process().kill();
        if waits {
            holds("our BFD notices", ROUTE, || bfd(&agent, "tor4")["state"] == "down");
            assert!(agent.peer("tor4").is_some_and(|peer| peer["stale"].as_u64() > Some(0)));
        }
        tor = Bird::recover(&rack.lab, &rack.tor, &text);
        tor.process().hurry();
        agent.wait_established(&["tor4", "tor6"]);
        wait_up(&agent, &["tor4", "tor6"]);
        holds("its routes are fresh", SESSION, || agent.peer("tor4").is_some_and(|peer| peer["stale"] == 0));
        agent.wait_installed("10.244.1.0/24");
    }
    let report = probe.finish();
    assert!(report.sent > 100, "{report:?}");
    assert_eq!(report.lost, 0, "{report:?}");
}

#[test]
fn a_drained_node_says_admin_down() {
    let rack = Rack::new();
    let router = Router::wayleave(&rack);
    let Router::Wayleave(tor) = &router else { unreachable!() };
    let mut agent = Agent::start(&rack.lab, &rack.host, &host(PATIENT).text());
    let states = || BOTH.map(|(name, ..)| bfd(&agent, name)["state"].as_str().unwrap_or_default().to_owned());
    wait_up(&agent, &["tor4", "tor6"]);
    assert!(agent.cli(&["drain", "--now"]).status.success());
    assert_eq!(states(), ["admindown", "admindown"]);
    let drained = || {
        for (name, ..) in BOTH {
            holds("the router is told", ROUTE, || bfd(tor, name)["remote_state"] == "admindown");
            assert_eq!((failures(tor, name), &bfd(tor, name)["state"]), (0, &"down".into()));
        }
    };
    drained();
    agent.terminate();
    agent.launch(&rack.lab);
    drained();
    assert!(agent.cli(&["undrain"]).status.success());
    agent.wait_established(&["tor4", "tor6"]);
    wait_up(&agent, &["tor4", "tor6"]);
    for (name, ..) in BOTH {
        assert_eq!((failures(&agent, name), failures(tor, name)), (0, 0));
    }
}
