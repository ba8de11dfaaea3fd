//! The examples of docs/tor.md, taken out of the document and run: what is printed there works.

use std::fs;

use crate::harness::agent::{Agent, ROUTE, SESSION, password_file};
use crate::harness::kernel::our_route;
use crate::harness::{Bird, Frr, Lab, Netns, holds};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tor.md");
/// What a host must not be able to announce.
const STRAY: &str = "203.0.113.0/24";

fn document() -> String {
    fs::read_to_string(DOCUMENT).unwrap()
}

/// The example in this language.
fn example(language: &str) -> String {
    let document = document();
    let rest = document.split_once(&format!("\n```{language}\n")).unwrap_or_else(|| panic!("an example of {language}"));
    rest.1.split_once("\n```\n").unwrap().0.to_owned()
}

/// The rack of the document: a router with a switch in it, and two hosts.
struct Rack {
    lab: Lab,
    router: Netns,
    hosts: [Netns; 2],
}

/// (address, AS, subnet) of the hosts; the first is the document's.
const HOSTS: [(&str, &str, &str); 2] =
    [("192.0.2.11", "4200000011", "10.244.1.0/24"), ("192.0.2.12", "4200000012", "10.244.2.0/24")];

impl Rack {
    fn new() -> Self {
        let lab = Lab::new();
        let (router, hosts) = (lab.router("tor"), ["a", "b"].map(|name| lab.netns(name)));
        router.batch(&["link add rack type bridge", "addr add 192.0.2.1/26 dev rack", "link set rack up"]);
        for (host, (address, ..)) in hosts.iter().zip(HOSTS) {
            let port = format!("p-{}", host.short());
            lab.link((&router, &port, &[]), (host, "eth0", &[&format!("{address}/26")]));
            router.ip(&format!("link set {port} master rack"));
        }
        Self { lab, router, hosts }
    }

    /// The host of the document, and one more beside it, which also announces what it should not.
    fn agents(&self) -> [Agent; 2] {
        let key = password_file(&self.lab, "tor.key", "sesame");
        let text = example("toml").replace("/etc/wayleave/tor.key", key.to_str().unwrap());
        let [first, second] = HOSTS;
        let other = [(first.0, second.0), (first.1, second.1), (first.2, second.2)]
            .into_iter()
            .fold(text.clone(), |text, (from, to)| text.replace(from, to));
        let other = format!("{other}\n[[bgp.announce]]\nprefix = \"{STRAY}\"\n");
        [Agent::start(&self.lab, &self.hosts[0], &text), Agent::start(&self.lab, &self.hosts[1], &other)]
    }

    /// What the document promises, whatever the router; `path` says whether it has a route to a prefix.
    fn is_as_promised(&self, path: impl Fn(&str) -> bool) -> [Agent; 2] {
        let mut agents = self.agents();
        for agent in &agents {
            agent.wait_established(&["tor"]);
            holds("BFD is up", SESSION, || agent.peer("tor").is_some_and(|peer| peer["bfd"]["state"] == "up"));
        }
        agents[0].wait_installed(HOSTS[1].2);
        agents[1].wait_installed(HOSTS[0].2);
        let route = our_route(&self.hosts[0], HOSTS[1].2).unwrap();
        assert_eq!(route.gateways(), [HOSTS[1].0], "neighbours of one rack reach each other without the router");
        assert!(path(HOSTS[0].2) && path(HOSTS[1].2));
        // It was sent along with the subnet.
        assert!(!path(STRAY), "the router takes pools alone");
        assert_eq!(agents[1].routes(&[STRAY, "--to", "tor"]).len(), 1, "though it was told of it");

        // A daemon that dies and comes back: graceful restart, and BFD that knows of it.
        agents[0].kill();
        holds("the router has seen it go", SESSION, || !self.hears(HOSTS[0].0));
        assert!(path(HOSTS[0].2), "its subnet is still there");
        agents[0].launch(&self.lab);
        agents[0].wait_established(&["tor"]);
        agents[0].wait_installed(HOSTS[1].2);
        assert!(path(HOSTS[0].2));
        agents
    }

    /// Whether the router has an established connection with this host.
    fn hears(&self, host: &str) -> bool {
        let output = self.router.command("ss").args(["-Htn", "state", "established", "dst", host]).output().unwrap();
        !output.stdout.is_empty()
    }
}

#[test]
fn frr_as_documented() {
    let rack = Rack::new();
    // Its parts go to the daemons they are for, as vtysh does with a whole frr.conf.
    let example = example("frr");
    let (bfd, bgp) = example.split_once("\nexit\n").unwrap();
    let frr = Frr::start_with_bfd(&rack.lab, &rack.router, &format!("{bgp}\n"), &format!("{bfd}\nexit\n"));
    let _agents = rack.is_as_promised(|prefix| frr.path(prefix).is_some());
    let neighbor = &frr.json(&format!("show bgp neighbors {}", HOSTS[0].0))[HOSTS[0].0];
    assert_eq!(
        (&neighbor["peerGroup"], &neighbor["authenticationEnabled"]),
        (&"HOSTS".into(), &1.into()),
        "{neighbor}"
    );
    holds("BFD is up at FRR too", ROUTE, || frr.bfd(HOSTS[0].0).is_some_and(|session| session["status"] == "up"));

    // A host that is dead, not its daemon alone.
    rack.hosts[1].ip("link set eth0 down");
    holds("its neighbour's way is gone", ROUTE, || our_route(&rack.hosts[0], HOSTS[1].2).is_none());
}

#[test]
fn bird_as_documented() {
    let rack = Rack::new();
    let bird = Bird::start(&rack.lab, &rack.router, &example("bird"));
    let _agents = rack.is_as_promised(|prefix| bird.route(prefix).is_some());
    let protocols = bird.birdc("show protocols");
    assert!(protocols.contains("host1") && protocols.contains("host2"), "{protocols}");
    let sessions = bird.birdc("show bfd sessions");
    holds("BFD of both", ROUTE, || bird.birdc("show bfd sessions").matches("Up").count() == 2);
    assert!(sessions.contains("192.0.2."), "{sessions}");

    // The price of `graceful`, as the document says.
    rack.hosts[1].ip("link set eth0 down");
    holds("BIRD sees the host dead", ROUTE, || bird.birdc("show bfd sessions").matches("Up").count() == 1);
    holds("and waits for it to restart", ROUTE, || {
        bird.birdc("show protocols all").contains("graceful restart active")
    });
    assert!(bird.route(HOSTS[1].2).is_some());
}

#[test]
fn examples_say_whether_they_were_run() {
    let run = ["FRR", "BIRD"];
    let mut count = 0;
    for section in document().split("\n## ").skip(2) {
        let (title, text) = section.split_once('\n').unwrap();
        if text.contains("```") {
            assert_ne!(text.contains("Not run here"), run.contains(&title), "{title}");
            count += 1;
        }
    }
    assert_eq!(count, 6);
}
