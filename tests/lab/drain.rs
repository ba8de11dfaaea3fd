//! Leaving on purpose: two hosts have one anycast address, one of them is drained, and nobody who
//! talks to the address notices.

use std::fmt::Write;
use std::process::Output;
use std::time::Duration;

use crate::harness::agent::{Agent, ROUTE, SESSION, WAYLEAVE};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::kernel::our_route;
use crate::harness::probe::Echo;
use crate::harness::{Frr, Lab, Netns, Probe, holds, wait_for};
use crate::story::{Config, HOST_AS, TOR_AS};

/// What both hosts announce.
const ANYCAST: &str = "10.244.9.9";
const PREFIX: &str = "10.244.9.9/32";
/// Where the client is.
const CLIENT: &str = "10.244.1.0/24";
/// The router's and the host's end of each cable.
const CABLES: [(&str, &str); 2] = [("10.0.1.1", "10.0.1.2"), ("10.0.2.1", "10.0.2.2")];
/// As BIRD writes GRACEFUL_SHUTDOWN.
const MARK: &str = "(65535,0)";
/// A router that does as RFC 8326 §4.1 says; FRR does so by itself.
const MIND: &str = "import filter { if (65535,0) ~ bgp_community then bgp_local_pref = 0; accept; }; export all;";

/// client — router — two hosts, each with a container that has the anycast address.
struct Scene {
    lab: Lab,
    tor: Netns,
    hosts: [Netns; 2],
    client: Netns,
    guests: [Netns; 2],
}

fn scene() -> Scene {
    let lab = Lab::new();
    let tor = lab.router("tor");
    let hosts = [lab.netns("host-a"), lab.netns("host-b")];
    for (i, host) in hosts.iter().enumerate() {
        let (router, own) = CABLES[i];
        let ends = [format!("{router}/24"), format!("{own}/24")];
        lab.link((&tor, &format!("eth{i}"), &[&ends[0]]), (host, "eth0", &[&ends[1]]));
    }
    let client = lab.container(&tor, "client", &["10.244.1.2"]);
    let guests = [lab.container(&hosts[0], "guest-a", &[ANYCAST]), lab.container(&hosts[1], "guest-b", &[ANYCAST])];
    Scene { lab, tor, hosts, client, guests }
}

impl Scene {
    fn agent(&self, i: usize, asn: u32, bgp: &'static str) -> Agent {
        let (router, own) = CABLES[i];
        let subnets: &[&str] = [&["10.244.11.0/24"], &["10.244.12.0/24"]][i];
        let config = Config { bgp, ..Config::node(own, subnets) }.peer("tor", router, asn, "");
        let text = config.with(&format!("\n[[bgp.announce]]\nprefix = \"{PREFIX}\"\n")).text();
        Agent::start(&self.lab, &self.hosts[i], &text)
    }

    /// A router that uses one path and logs all that it hears.
    fn bird(&self, asn: u32, channel: &'static str) -> Bird {
        let session = |i: usize| {
            let (router, own) = CABLES[i];
            let name = ["host_a", "host_b"][i];
            let more = if asn == HOST_AS { "direct; rr client; debug all;" } else { "debug all;" };
            Neighbor { options: more, channel, ..Neighbor::new(name, (router, asn), (own, HOST_AS)) }
        };
        let text = config("10.0.1.1", &[session(0), session(1)], &[CLIENT], "");
        Bird::start(&self.lab, &self.tor, &text.replace("merge paths on", "merge paths off"))
    }

    /// Packets from the client to whichever container gets them.
    fn probe(&self) -> (Probe, Echo) {
        let echo = Echo::start(&self.guests[1], ANYCAST);
        (Probe::start(&self.client, &self.guests[0], ANYCAST), echo)
    }

    /// The host that the router sends the client's packets to.
    fn used(&self) -> String {
        let route = self.tor.ip_json(&format!("route show {PREFIX}"));
        let gateway = route.first().and_then(|route| route["gateway"].as_str().map(str::to_owned));
        gateway
            .or_else(|| our_route(&self.tor, PREFIX)?.gateways().first().map(ToString::to_string))
            .unwrap_or_default()
    }
}

fn lossless(probe: (Probe, Echo)) {
    let report = probe.0.finish();
    assert!(report.sent > 0, "{report:?}");
    assert_eq!(report.lost, 0, "{report:?}");
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A command that must succeed; what it said.
fn done(agent: &Agent, args: &[&str]) -> String {
    let output = agent.cli(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output));
    text(&output)
}

fn drain_state(agent: &Agent) -> String {
    agent.status()["drain"]["state"].as_str().unwrap().to_owned()
}

/// Where in a text the first of these is, each behind the one before.
fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("`{part}` is missing or too early in\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn beside_bird_nobody_notices() {
    let scene = scene();
    let bird = scene.bird(TOR_AS, MIND);
    let (a, b) = (scene.agent(0, TOR_AS, ""), scene.agent(1, TOR_AS, ""));
    for agent in [&a, &b] {
        agent.wait_installed(CLIENT);
    }
    holds("BIRD uses a", ROUTE, || scene.used() == "10.0.1.2");
    holds("ready", Duration::from_secs(60), || a.http("/readyz").is_some_and(|(status, _)| status == 200));
    let probe = scene.probe();

    done(&a, &["drain", "--wait", "1h", "--reason", "new disk", "--no-block"]);
    assert_eq!(drain_state(&a), "draining");
    holds("BIRD is asked to move away", ROUTE, || bird.route(PREFIX).is_some_and(|route| route.contains(MARK)));
    holds("our own subnet too", ROUTE, || bird.attribute("10.244.11.0/24", "BGP.community").as_deref() == Some(MARK));
    holds("BIRD does so", ROUTE, || scene.used() == "10.0.2.2");
    let (status, body) = a.http("/readyz").unwrap();
    assert!(status == 503 && body.starts_with("not ready: draining since ") && body.contains("new disk"), "{body}");
    assert_eq!(a.metric("wayleave_drain_state"), Some(1.0));

    let followed = done(&a, &["drain", "--wait", "1s"]);
    in_order(&followed, &["draining: peers are asked", "drained: all sessions closed"]);
    assert_eq!((drain_state(&a).as_str(), a.metric("wayleave_drain_state")), ("drained", Some(2.0)));
    assert_eq!(a.metric("wayleave_ready"), Some(0.0));
    holds("BIRD's session has ended", ROUTE, || !bird.established("host_a"));
    assert!(bird.route("10.244.11.0/24").is_none());
    let shown = bird.birdc("show protocols all host_a");
    assert!(shown.contains("is drained") && shown.contains("new disk"), "the reason is shown: {shown}");
    let log = bird.log();
    let host_a: Vec<&str> = log.lines().filter(|line| line.contains("host_a")).collect();
    in_order(&host_a.join("\n"), &["removed [sole] 10.244.11.0/24", "Administrative shutdown"]);
    // What still runs there can send, and nobody's word for it is needed.
    assert_eq!(our_route(&scene.hosts[0], CLIENT).unwrap().gateways(), ["10.0.1.1"]);
    let status = a.status();
    let problems = status["problems"].as_array().unwrap();
    assert!(problems.len() == 1 && problems[0].as_str().unwrap().contains("drained since"), "{problems:?}");
    assert!(a.explain("10.244.1.2").contains("The node is drained"));
    assert!(a.explain("198.51.100.1").contains("BGP wants nothing of the kernel here"), "and of nothing nothing");
    assert!(done(&a, &["drain"]).contains("drained already"));
    assert!(
        text(&wayleave(&["check", "--config", a.config_path().to_str().unwrap()])).contains("this node is drained")
    );

    assert!(done(&a, &["undrain"]).contains("it was drained since"));
    a.wait_established(&["tor"]);
    holds("BIRD uses a again", ROUTE, || scene.used() == "10.0.1.2");
    assert!(!bird.route(PREFIX).unwrap().contains(MARK));
    holds("ready", Duration::from_secs(60), || a.http("/readyz").is_some_and(|(status, _)| status == 200));
    assert_eq!(a.metric("wayleave_drain_state"), Some(0.0));
    assert!(done(&a, &["undrain"]).contains("it was not drained"));
    lossless(probe);
}

#[test]
fn within_an_as_the_local_preference_says_it_too() {
    let scene = scene();
    let bird = scene.bird(HOST_AS, "import all; export all; next hop self; gateway direct;");
    let (a, b) = (scene.agent(0, HOST_AS, ""), scene.agent(1, HOST_AS, ""));
    for agent in [&a, &b] {
        agent.wait_installed(CLIENT);
    }
    holds("BIRD uses a", ROUTE, || scene.used() == "10.0.1.2");
    let probe = scene.probe();
    done(&a, &["drain", "--wait", "1h", "--no-block"]);
    holds("BIRD moves away without any policy", ROUTE, || scene.used() == "10.0.2.2");
    assert_eq!(bird.attribute("10.244.11.0/24", "BGP.local_pref").unwrap(), "0");
    // Taken back in its midst: as if nothing had been.
    assert!(done(&a, &["undrain"]).contains("it was draining since"));
    holds("BIRD is back", ROUTE, || scene.used() == "10.0.1.2");
    assert_eq!(bird.attribute("10.244.11.0/24", "BGP.local_pref").unwrap(), "100");
    assert!(!bird.route("10.244.11.0/24").unwrap().contains(MARK));
    lossless(probe);
}

#[test]
fn beside_frr_nobody_notices_and_now_means_now() {
    let scene = scene();
    let mut bgpd = format!(
        "debug bgp updates in\ndebug bgp neighbor-events\nrouter bgp {TOR_AS}\n bgp router-id 10.0.1.1\n no bgp ebgp-requires-policy\n \
         no bgp network import-check\n maximum-paths 1\n network {CLIENT}\n"
    );
    for (_, host) in CABLES {
        let as_number = format!("remote-as {HOST_AS}");
        for line in [as_number.as_str(), "timers 3 9", "timers connect 1", "advertisement-interval 0"] {
            writeln!(bgpd, " neighbor {host} {line}").unwrap();
        }
    }
    let frr = Frr::start(&scene.lab, &scene.tor, &bgpd);
    let bgp = "drain_time = \"3s\"";
    let (a, b) = (scene.agent(0, TOR_AS, bgp), scene.agent(1, TOR_AS, bgp));
    for agent in [&a, &b] {
        agent.wait_installed(CLIENT);
    }
    holds("FRR uses one", ROUTE, || !scene.used().is_empty());
    // Of two equal ones it keeps the older, so it may be either.
    let (used, host) = if scene.used() == "10.0.1.2" { (&a, "10.0.1.2") } else { (&b, "10.0.2.2") };
    let subnet = if host == "10.0.1.2" { "10.244.11.0/24" } else { "10.244.12.0/24" };
    let probe = scene.probe();

    let said = done(used, &["drain", "--reason", "new disk"]);
    in_order(&said, &["draining: peers are asked", "drained: all sessions closed"]);
    holds("FRR's session has ended", ROUTE, || !frr.established(host));
    assert_ne!(scene.used(), host);
    let heard: Vec<String> = frr.log().lines().filter(|line| line.contains(host)).map(str::to_owned).collect();
    in_order(
        &heard.join("\n"),
        &["graceful-shutdown", &format!("UPDATE about {subnet} IPv4 unicast -- withdrawn"), "Administrative Shutdown"],
    );
    let neighbor = frr.json(&format!("show bgp neighbors {host}"))[host].to_string();
    assert!(neighbor.contains("is drained") && neighbor.contains("new disk"), "{neighbor}");

    done(used, &["undrain"]);
    holds("FRR is back", SESSION, || frr.established(host) && frr.path(subnet).is_some());
    lossless(probe);

    let before = frr.log().len();
    let now: serde_json::Value = serde_json::from_str(&done(used, &["drain", "--now", "--json"])).unwrap();
    assert_eq!(now["state"], "drained");
    holds("FRR's session has ended", ROUTE, || !frr.established(host));
    let heard = frr.log()[before..].to_owned();
    in_order(&heard, &[&format!("UPDATE about {subnet} IPv4 unicast -- withdrawn"), "Administrative Shutdown"]);
    assert!(!heard.contains("graceful-shutdown"), "nothing came before: {heard}");
}

/// A wayleave router minds the mark by itself, and says so. Its peers are a range.
#[test]
fn a_wayleave_router_moves_away() {
    let scene = scene();
    let options = "import = \"all\";export = \"all\"";
    let router = Config { asn: TOR_AS, ..Config::node("10.0.1.1", &["10.244.1.0/24"]) };
    let router = router.peer("hosts", "10.0.0.0/16", HOST_AS, options).text();
    let router = Agent::start(&scene.lab, &scene.tor, &router);
    let (a, b) = (scene.agent(0, TOR_AS, ""), scene.agent(1, TOR_AS, ""));
    for agent in [&a, &b] {
        agent.wait_installed(CLIENT);
    }
    let gateways = || our_route(&scene.tor, PREFIX).map(|route| route.gateways().join(" ")).unwrap_or_default();
    holds("both are used", ROUTE, || gateways() == "10.0.1.2 10.0.2.2");
    let probe = scene.probe();
    done(&a, &["drain", "--wait", "1h", "--no-block"]);
    holds("only the other is", ROUTE, || gateways() == "10.0.2.2");
    let told = router.explain(ANYCAST);
    assert!(told.contains("local preference 0, the best has 100 (graceful shutdown"), "{told}");
    done(&a, &["drain", "--wait", "1s"]);
    holds("it has gone", ROUTE, || router.routes(&[PREFIX]).len() == 1);
    let error =
        wait_for("the router shows why", ROUTE, || router.peer("10.0.1.2")?["last_error"].as_str().map(str::to_owned));
    assert!(error.contains("administrative shutdown: \"node-10.0.1.2 is drained"), "{error}");
    done(&a, &["undrain"]);
    holds("both again", SESSION, || gateways() == "10.0.1.2 10.0.2.2");
    lossless(probe);

    // The router itself leaves: whoever calls is told why, also from an address it has no task for.
    done(&router, &["drain", "--now"]);
    for agent in [&a, &b] {
        holds("the host is told", SESSION, || {
            agent.peer("tor").unwrap()["last_error"].as_str().is_some_and(|error| error.contains("10.0.1.1 is drained"))
        });
    }
    assert_eq!(gateways(), "10.0.1.2 10.0.2.2", "it goes on forwarding what still comes");
    done(&router, &["undrain"]);
    a.wait_established(&["tor"]);
    b.wait_established(&["tor"]);
}

#[test]
fn it_survives_a_crash_in_every_stage() {
    const SUBNET: &str = "10.244.11.0/24";
    let scene = scene();
    let bird = scene.bird(TOR_AS, MIND);
    let mut a = scene.agent(0, TOR_AS, "");
    a.wait_installed(CLIENT);

    // While it drains: peers that kept our routes meanwhile hear the mark again.
    done(&a, &["drain", "--wait", "1h", "--no-block"]);
    holds("marked", ROUTE, || bird.route(SUBNET).is_some_and(|route| route.contains(MARK)));
    let since = a.status()["drain"]["since"].clone();
    a.kill();
    holds("BIRD sees us gone", ROUTE, || !bird.established("host_a"));
    a.launch(&scene.lab);
    a.wait_established(&["tor"]);
    holds("marked and fresh", ROUTE, || {
        bird.route(SUBNET).is_some_and(|route| route.contains(MARK) && !route.contains("stale"))
    });
    let drain = a.status()["drain"].clone();
    assert_eq!((&drain["state"], &drain["stage"], &drain["since"]), (&"draining".into(), &"signalled".into(), &since));

    // Once it is drained: it stays away, and what was learned stays in the kernel.
    done(&a, &["drain", "--now"]);
    holds("BIRD sees us gone", ROUTE, || !bird.established("host_a") && bird.route(SUBNET).is_none());
    a.kill();
    a.launch(&scene.lab);
    assert_eq!(drain_state(&a), "drained");
    assert_eq!(a.peer("tor").unwrap()["state"], "idle");
    assert_eq!(a.http("/readyz").unwrap().0, 503);
    assert_eq!(our_route(&scene.hosts[0], CLIENT).unwrap().gateways(), ["10.0.1.1"]);
    // BIRD calls, and is told why there is no answer but this.
    let calls = bird.log().matches("Administrative shutdown").count();
    holds("BIRD is refused with the reason", SESSION, || bird.log().matches("Administrative shutdown").count() > calls);
    let shown = bird.birdc("show protocols all host_a");
    assert!(shown.contains("is drained"), "{shown}");

    // A reload leaves it as it is, also for a peer that is new.
    let (router, own) = CABLES[0];
    let config = Config::node(own, &[SUBNET]).peer("tor", router, TOR_AS, "").peer("new", "10.0.1.9", 65009, "");
    a.reload(&config.text());
    holds("the new peer is idle", ROUTE, || a.peer("new").is_some_and(|peer| peer["state"] == "idle"));
    assert_eq!(a.peer("tor").unwrap()["state"], "idle");

    done(&a, &["undrain"]);
    a.wait_established(&["tor"]);
    holds("the new peer is dialled", ROUTE, || a.peer("new").is_some_and(|peer| peer["state"] != "idle"));
    holds("announced, unmarked", ROUTE, || bird.route(SUBNET).is_some_and(|route| !route.contains(MARK)));
    a.kill();
    a.launch(&scene.lab);
    assert_eq!(drain_state(&a), "none");
}

#[test]
fn a_stop_in_its_midst_is_a_real_leave() {
    let scene = scene();
    let bird = scene.bird(TOR_AS, MIND);
    let mut a = scene.agent(0, TOR_AS, "graceful_restart = \"120s\"");
    a.wait_installed(CLIENT);
    holds("announced", ROUTE, || bird.route("10.244.11.0/24").is_some());
    done(&a, &["drain", "--wait", "1h", "--no-block"]);
    assert_eq!(a.terminate().code(), Some(0));
    holds("nobody waits for us", ROUTE, || bird.route("10.244.11.0/24").is_none());
    a.launch(&scene.lab);
    assert_eq!(drain_state(&a), "drained");
}

#[test]
fn without_a_daemon() {
    for command in ["drain", "undrain"] {
        let output = wayleave(&[command, "--socket", "/nonexistent/wayleave.sock"]);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        assert!(text(&output).contains("can't reach the daemon"), "{}", text(&output));
    }
    assert_eq!(wayleave(&["drain", "--now", "--wait", "3s"]).status.code(), Some(2), "one or the other");
}

fn wayleave(args: &[&str]) -> Output {
    std::process::Command::new(WAYLEAVE).args(args).output().unwrap()
}
