//! Hosts that share an etcd and nothing else: they lease their subnets from it, find each other in it, and
//! go on without it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::harness::agent::{Agent, ROUTE, SESSION, password_file};
use crate::harness::etcd::{Certs, Etcd};
use crate::harness::kernel::our_route;
use crate::harness::wait::pause;
use crate::harness::{Lab, Netns, Probe, holds, wait_for};

/// Where etcd is.
pub const ETCD: &str = "10.0.255.1";

/// Namespaces on one switch, with etcd among them.
pub struct Rack {
    pub switch: Netns,
    pub hosts: Vec<Netns>,
    pub etcd_space: Netns,
}

/// Address of a host by its number.
pub fn address(number: usize) -> String {
    format!("10.0.{}.{}", number / 200, number % 200 + 1)
}

impl Rack {
    pub fn new(lab: &Lab, hosts: usize) -> Self {
        let switch = lab.netns("switch");
        switch.batch(&["link add br0 type bridge", "link set br0 up"]);
        let mut rack = Self { etcd_space: lab.netns("etcd"), switch, hosts: Vec::new() };
        rack.plug(lab, &rack.etcd_space, ETCD);
        for number in 0..hosts {
            rack.add(lab, number);
        }
        rack
    }

    /// Each host on a link of its own to a router: the kernel's neighbours, of which one machine has room
    /// for a thousand in all its namespaces, grow with the hosts and not with their square.
    pub fn routed(lab: &Lab, hosts: usize) -> Self {
        let router = lab.router("switch");
        let rack = Self {
            etcd_space: lab.netns("etcd"),
            switch: router,
            hosts: (0..hosts).map(|number| lab.netns(&format!("h{number}"))).collect(),
        };
        let addresses = (0..hosts).map(address).chain([ETCD.to_owned()]);
        for (space, address) in rack.hosts.iter().chain([&rack.etcd_space]).zip(addresses) {
            let port = space.short();
            lab.link((&rack.switch, port, &["169.254.1.1/32"]), (space, "eth0", &[&format!("{address}/32")]));
            rack.switch.ip(&format!("route add {address}/32 dev {port}"));
            space.ip("route add 10.0.0.0/16 via 169.254.1.1 dev eth0 onlink");
        }
        rack
    }

    /// Puts a namespace on the switch.
    pub fn plug(&self, lab: &Lab, space: &Netns, address: &str) {
        lab.link((&self.switch, space.short(), &[]), (space, "eth0", &[&format!("{address}/16")]));
        self.switch.ip(&format!("link set dev {} master br0", space.short()));
    }

    fn add(&mut self, lab: &Lab, number: usize) {
        let space = lab.netns(&format!("h{number}"));
        self.plug(lab, &space, &address(number));
        self.hosts.push(space);
    }

    /// Cuts a host off from etcd alone, or joins it again.
    fn cut(&self, number: usize, cut: bool) {
        let what = if cut { "add" } else { "del" };
        self.hosts[number].ip(&format!("route {what} blackhole {ETCD}/32"));
    }
}

/// The file of a host, the same but for its name and address.
pub fn host(number: usize, network: &str, bgp: &str) -> String {
    format!(
        "[node]\nname = \"h{number}\"\naddress = \"{}\"\n[network]\n{network}\ntunnel = \"never\"\nmasquerade = false\n\
         subnet_file = \"\"\n[store]\nkind = \"etcd\"\nendpoints = [\"http://{ETCD}:2379\"]\nttl = \"10s\"\ntimeout = \"2s\"\n\
         [bgp]\nasn = 64512\n{bgp}\n",
        address(number)
    )
}

pub const POOL: &str = "pools = [\"10.244.0.0/16\"]";

fn start(lab: &Lab, rack: &Rack, number: usize, bgp: &str) -> Agent {
    Agent::start(lab, &rack.hosts[number], &host(number, POOL, bgp))
}

/// The subnets that an agent holds.
pub fn subnets(agent: &Agent) -> Vec<String> {
    let lease = agent.json(&["lease"]).unwrap_or_default();
    let all = lease["subnets"].as_array().cloned().unwrap_or_default();
    all.iter().map(|held| held["subnet"].as_str().unwrap().to_owned()).collect()
}

pub fn wait_subnet(agent: &Agent) -> String {
    wait_for("a subnet", Duration::from_secs(20), || subnets(agent).first().cloned())
}

/// An address in a subnet that a container may have.
pub fn inside(subnet: &str) -> String {
    let (network, _) = subnet.split_once('/').unwrap();
    format!("{}.10", network.rsplit_once('.').unwrap().0)
}

/// A container on each of two hosts, in the first two of these subnets.
pub fn boxes(lab: &Lab, hosts: [&Agent; 2], subnets: &[String]) -> [Netns; 2] {
    [0, 1].map(|at| lab.container(hosts[at].netns(), &format!("box-{at}"), &[&inside(&subnets[at])]))
}

fn nodes(agent: &Agent) -> Vec<Value> {
    agent.json(&["nodes"]).and_then(|nodes| nodes.as_array().cloned()).unwrap_or_default()
}

/// Since when each session is established, by peer.
pub fn sessions(agent: &Agent) -> Vec<(String, String)> {
    let peers = agent.json(&["peers"]).unwrap();
    let up = peers.as_array().unwrap().iter().filter(|peer| peer["state"] == "established");
    up.map(|peer| (peer["name"].as_str().unwrap().to_owned(), peer["since"].as_str().unwrap().to_owned())).collect()
}

/// Waits until every one has a route to the subnets of all others.
pub fn wait_meshed(agents: &[&Agent]) -> Vec<String> {
    let subnets: Vec<String> = agents.iter().map(|agent| wait_subnet(agent)).collect();
    for (at, agent) in agents.iter().enumerate() {
        for (_, subnet) in subnets.iter().enumerate().filter(|(of, _)| *of != at) {
            holds(&format!("{subnet} in the kernel of {at}"), SESSION, || our_route(agent.netns(), subnet).is_some());
        }
    }
    subnets
}

#[test]
fn an_empty_file_and_an_etcd_are_enough() {
    let lab = Lab::new();
    let mut rack = Rack::new(&lab, 2);
    let etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    let (a, b) = (start(&lab, &rack, 0, ""), start(&lab, &rack, 1, ""));
    let held = wait_meshed(&[&a, &b]);
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), 2, "{held:?}");
    let [box_a, _box_b] = boxes(&lab, [&a, &b], &held);
    holds("containers reach each other", ROUTE, || box_a.ping(&inside(&held[1]), 1) == 1);
    let key = format!("/wayleave/network/subnets/{}", held[0].replace('/', "-"));
    let claim: Value = serde_json::from_str(&etcd.get(&key).unwrap()).unwrap();
    assert_eq!((&claim["PublicIP"], &claim["BackendData"]["Node"]), (&"10.0.0.1".into(), &"h0".into()), "{claim}");
    assert!(a.status()["ready"] == true);

    // A third comes, for which a subnet was set aside, and nothing happens to the two.
    let before = sessions(&a);
    let reserved = a.cli(&["lease", "reserve", "10.244.77.0/24", "h2"]);
    assert!(reserved.status.success(), "{}", String::from_utf8_lossy(&reserved.stderr));
    rack.add(&lab, 2);
    let c = start(&lab, &rack, 2, "");
    assert_eq!(wait_subnet(&c), "10.244.77.0/24");
    wait_meshed(&[&a, &b, &c]);
    assert!(before.iter().all(|session| sessions(&a).contains(session)), "{before:?}");
    holds("three are alive", ROUTE, || nodes(&a).iter().filter(|node| node["state"] == "alive").count() == 3);
    let metric = "wayleave_mesh_sessions{state=\"established\"}";
    holds("two sessions are counted", ROUTE, || a.metric(metric) == Some(2.0));
    assert_eq!(a.metric("wayleave_store_reachable"), Some(1.0));

    // It leaves for good: its routes go, its entry too.
    let output = c.cli(&["lease", "release", "--all"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    holds("it is gone", ROUTE, || nodes(&a).len() == 2);
    holds("its session too", ROUTE, || sessions(&a).len() == 1);
    assert_eq!(etcd.get("/wayleave/network/nodes/h2"), None);
}

#[test]
fn nothing_that_happens_to_etcd_is_felt() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 3);
    let mut etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    let (mut a, b) = (start(&lab, &rack, 0, ""), start(&lab, &rack, 1, ""));
    let held = wait_meshed(&[&a, &b]);
    let [box_a, box_b] = boxes(&lab, [&a, &b], &held);
    let probe = Probe::start(&box_a, &box_b, &inside(&held[1]));
    let before = sessions(&b);
    let reachable = |agent: &Agent, wanted: f64| {
        holds(&format!("store reachable: {wanted}"), Duration::from_secs(30), || {
            agent.metric("wayleave_store_reachable") == Some(wanted)
        });
    };

    // Killed, for longer than its lease lasts.
    etcd.save("snapshot");
    etcd.kill(0);
    reachable(&b, 0.0);
    pause(Duration::from_secs(12));
    assert_eq!(sessions(&b), before, "no session ended");
    // A daemon starts meanwhile: it has what it had.
    a.kill();
    a.launch(&lab);
    holds("it has its subnet without the store", ROUTE, || subnets(&a) == [held[0].clone()]);
    holds("and its session", SESSION, || sessions(&a).len() == 1);
    assert!(a.status()["ready"] == true, "{}", a.status()["ready_reason"]);
    etcd.launch(0);
    etcd.ready();
    reachable(&a, 1.0);

    // Frozen: it accepts, and says nothing.
    etcd.freeze(0);
    reachable(&b, 0.0);
    etcd.thaw(0);
    reachable(&b, 1.0);

    // Wiped, then set back to a snapshot: each writes again what it holds.
    etcd.wipe();
    reachable(&b, 1.0);
    let claims = |etcd: &Etcd| etcd.all("/wayleave/network/subnets/");
    holds("claims are there again", Duration::from_secs(30), || claims(&etcd).len() == 2);
    etcd.set_back("snapshot");
    reachable(&b, 1.0);
    holds("claims are there", Duration::from_secs(30), || claims(&etcd).len() == 2);
    // A new host gets another one, and a session.
    let c = start(&lab, &rack, 2, "");
    let all = wait_meshed(&[&a, &b, &c]);
    assert_eq!(all[..2], held[..], "nobody was renumbered");
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 3, "{all:?}");
    let report = probe.finish();
    assert_eq!(report.lost, 0, "{report:?}");
}

#[test]
fn fifty_claim_at_once() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 50);
    let etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    // One pool with just enough room.
    let network = "pools = [\"10.244.0.0/18\"]\nsubnet_length = { ipv4 = 24 }";
    let mut agents: Vec<Agent> =
        (0..50).map(|number| Agent::start(&lab, &rack.hosts[number], &host(number, network, "mesh = false"))).collect();
    let held: BTreeSet<String> = agents
        .iter()
        .map(|agent| wait_for("a subnet", Duration::from_secs(90), || subnets(agent).first().cloned()))
        .collect();
    assert_eq!(held.len(), 50, "distinct subnets");
    assert_eq!(etcd.all("/wayleave/network/subnets/").len(), 50);
    // Each writes its claim, its record and its sign of life; some were refused a claim and tried another.
    assert!(etcd.revision() < 50 * 8, "{}", etcd.revision());
    assert!(agents.iter_mut().all(Agent::running));
}

#[test]
fn a_tutorial_of_flannel_works() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 1);
    let etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    let file = lab.path("subnet.env");
    let network = format!("subnet_file = \"{}\"", file.display());
    let text = host(0, "", "").replace("subnet_file = \"\"", &network);
    let text = text.replace("kind = \"etcd\"", "kind = \"etcd\"\nprefix = \"/coreos.com/network\"");
    let agent = Agent::start(&lab, &rack.hosts[0], &text);
    holds("it says what is missing", ROUTE, || {
        agent.json(&["lease"]).is_some_and(|lease| lease["reason"].as_str().unwrap().contains("pool"))
    });
    assert!(agent.status()["ready"] == false);

    etcd.put("/coreos.com/network/config", "{\"Network\":\"172.20.0.0/16\"}");
    let subnet = wait_subnet(&agent);
    assert!(subnet.starts_with("172.20.") && subnet.ends_with(".0/24"), "{subnet}");
    let keys: Vec<String> = etcd.all("/coreos.com/network/subnets/").into_keys().collect();
    assert_eq!(keys, [format!("/coreos.com/network/subnets/{}", subnet.replace('/', "-"))]);
    let expected = format!(
        "FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET={}/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n",
        inside(&subnet).replace(".10", ".1")
    );
    holds("scripts find it", ROUTE, || std::fs::read_to_string(&file).is_ok_and(|text| text == expected));
    holds("ready", ROUTE, || agent.status()["ready"] == true);
}

#[test]
fn from_mesh_to_reflectors_and_back_under_ping() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 5);
    let _etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    let agents: Vec<Agent> = (0..5).map(|number| start(&lab, &rack, number, "")).collect();
    let held = wait_meshed(&agents.iter().collect::<Vec<_>>());
    let [box_a, box_b] = boxes(&lab, [&agents[0], &agents[1]], &held);
    let probe = Probe::start(&box_a, &box_b, &inside(&held[1]));
    let count = |agent: &Agent| sessions(agent).len();
    assert_eq!(count(&agents[0]), 4);

    let limit = Duration::from_secs(60);
    for (number, agent) in agents.iter().enumerate().skip(3) {
        agent.reload(&host(number, POOL, "reflector = true"));
    }
    holds("h0 peers with two reflectors alone", limit, || count(&agents[0]) == 2);
    holds("these with everybody", limit, || count(&agents[3]) == 4);
    wait_meshed(&agents.iter().collect::<Vec<_>>());

    for (number, agent) in agents.iter().enumerate().skip(3) {
        agent.reload(&host(number, POOL, ""));
    }
    holds("the mesh is back", limit, || agents.iter().all(|agent| count(agent) == 4));
    holds("reflectors reflect no more", limit, || {
        agents[3..].iter().all(|agent| agent.peer("h0").is_some_and(|peer| peer["export"] == "subnets"))
    });
    wait_meshed(&agents.iter().collect::<Vec<_>>());
    let report = probe.finish();
    assert_eq!(report.lost, 0, "{report:?}");
}

#[test]
fn a_second_host_of_the_same_name_is_refused() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 2);
    let _etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    let a = start(&lab, &rack, 0, "");
    let held = wait_subnet(&a);
    let text = host(1, POOL, "").replace("name = \"h1\"", "name = \"h0\"");
    let b = Agent::start(&lab, &rack.hosts[1], &text);
    holds("it says who", ROUTE, || {
        let lease = b.json(&["lease"]).unwrap_or_default();
        lease["state"] == "blocked" && lease["reason"].as_str().unwrap().contains("10.0.0.1")
    });
    assert!(subnets(&b).is_empty());
    assert_eq!(subnets(&a).first(), Some(&held));

    // Cut off from the store a node keeps what it has, and what was said of it.
    rack.cut(0, true);
    holds("it notices", Duration::from_secs(30), || a.metric("wayleave_store_reachable") == Some(0.0));
    assert_eq!(subnets(&a), [held]);
    rack.cut(0, false);
    holds("and that it is over", Duration::from_secs(30), || a.metric("wayleave_store_reachable") == Some(1.0));
}

#[test]
fn a_copied_file_is_noticed_by_both() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 3);
    let _etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    let fixed = format!("{POOL}\nsubnets = [\"10.244.7.0/24\"]");
    let agents: Vec<Agent> =
        (0..2).map(|number| Agent::start(&lab, &rack.hosts[number], &host(number, &fixed, ""))).collect();
    for (agent, other) in agents.iter().zip(["h1", "h0"]) {
        holds("it says who has its subnet too", SESSION, || {
            let problems = agent.status()["problems"].to_string();
            problems.contains("10.244.7.0/24 is this node's") && problems.contains(&format!("node {other}"))
        });
        assert_eq!(agent.metric("wayleave_subnet_rivals"), Some(1.0));
    }
    // Nobody is given what stands in a file.
    let third = start(&lab, &rack, 2, "");
    wait_subnet(&third);
    let refused = third.cli(&["lease", "add", "10.244.7.0/24"]);
    assert!(!refused.status.success(), "{}", String::from_utf8_lossy(&refused.stdout));
}

#[test]
fn a_full_pool_says_so_and_is_served_when_it_grows() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 3);
    let etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    let small = "pools = [\"10.244.0.0/24\"]\nsubnet_length = { ipv4 = 25 }";
    let agents: Vec<Agent> =
        (0..3).map(|number| Agent::start(&lab, &rack.hosts[number], &host(number, small, ""))).collect();
    let exhausted = |agent: &Agent| agent.json(&["lease"]).is_some_and(|lease| lease["state"] == "exhausted");
    let without = wait_for("one gets none", Duration::from_secs(20), || agents.iter().position(exhausted));
    let agent = &agents[without];
    let problems = agent.status()["problems"].to_string();
    assert!(problems.contains("10.244.0.0/24") && problems.contains("2 of 2"), "{problems}");
    assert!(agent.status()["ready"] == false);
    // An operator frees one: not that of a node that is there.
    let taken = subnets(&agents[(without + 1) % 3])[0].clone();
    let refused = agent.cli(&["lease", "reclaim", &taken]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("alive"));
    let large = small.replace("10.244.0.0/24", "10.244.0.0/23");
    agent.reload(&host(without, &large, ""));
    wait_subnet(agent);
    assert_eq!(etcd.all("/wayleave/network/subnets/").len(), 3);
    holds("ready", ROUTE, || agent.status()["ready"] == true);
    let history = agent.json(&["lease", "history"]).unwrap().to_string();
    assert!(history.contains("no free") || history.contains("no subnet"), "{history}");
}

#[test]
fn a_host_of_flannel_keeps_its_subnet() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 2);
    let etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    let prefix = "/coreos.com/network";
    etcd.put(&format!("{prefix}/config"), "{\"Network\":\"172.20.0.0/16\",\"Backend\":{\"Type\":\"vxlan\"}}");
    let lease = "{\"PublicIP\":\"10.0.0.1\",\"PublicIPv6\":null,\"BackendType\":\"vxlan\",\"BackendData\":{\"VNI\":1,\
                 \"VtepMAC\":\"3e:3b:1c:a2:1f:51\"}}";
    let key = format!("{prefix}/subnets/172.20.59.0-24");
    etcd.put(&key, lease);
    let text =
        |number| host(number, "", "").replace("kind = \"etcd\"", &format!("kind = \"etcd\"\nprefix = \"{prefix}\""));
    let a = Agent::start(&lab, &rack.hosts[0], &text(0));
    let b = Agent::start(&lab, &rack.hosts[1], &text(1));
    let other = wait_subnet(&b);
    holds("it takes none by itself", ROUTE, || {
        a.json(&["lease"]).is_some_and(|lease| lease["reason"].as_str().unwrap().contains("172.20.59.0/24"))
    });
    assert!(subnets(&a).is_empty());
    let done = a.cli(&["lease", "import-flannel"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(wait_subnet(&a), "172.20.59.0/24");
    holds("the other has a route", SESSION, || our_route(b.netns(), "172.20.59.0/24").is_some());
    holds("and it one back", SESSION, || our_route(a.netns(), &other).is_some());
    let claim: Value = serde_json::from_str(&etcd.get(&key).unwrap()).unwrap();
    assert_eq!(claim["BackendType"], "wayleave");
}

#[test]
fn members_die_and_the_quorum_is_lost() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 3);
    for address in ["10.0.255.2", "10.0.255.3"] {
        rack.etcd_space.ip(&format!("address add {address}/16 dev eth0"));
    }
    let places = [ETCD, "10.0.255.2", "10.0.255.3"].map(|address| (&rack.etcd_space, address));
    let mut etcd = Etcd::cluster(&lab, &places, None);
    let endpoints = format!("{:?}", etcd.endpoints());
    let text = |number| host(number, POOL, "").replace(&format!("[\"http://{ETCD}:2379\"]"), &endpoints);
    let start = |number: usize| Agent::start(&lab, &rack.hosts[number], &text(number));
    let (a, b) = (start(0), start(1));
    let held = wait_meshed(&[&a, &b]);
    let [box_a, box_b] = boxes(&lab, [&a, &b], &held);
    let probe = Probe::start(&box_a, &box_b, &inside(&held[1]));
    let before = sessions(&b);
    etcd.kill(0);
    // With two of three left a new host is served as ever.
    let c = start(2);
    let all = wait_meshed(&[&a, &b, &c]);
    // With one of three left nothing can be written, and nothing needs to be.
    etcd.kill(1);
    for agent in [&a, &b, &c] {
        holds("it says so", Duration::from_secs(60), || agent.metric("wayleave_store_reachable") == Some(0.0));
    }
    // For longer than signs of life last.
    pause(Duration::from_secs(12));
    assert!(before.iter().all(|session| sessions(&b).contains(session)), "no session ended");
    for number in [0, 1] {
        etcd.launch(number);
    }
    etcd.ready();
    for agent in [&a, &b, &c] {
        holds("the store is back", Duration::from_secs(60), || agent.metric("wayleave_store_reachable") == Some(1.0));
    }
    holds("all are alive", Duration::from_secs(30), || {
        nodes(&a).iter().filter(|node| node["state"] == "alive").count() == 3
    });
    assert_eq!([&a, &b, &c].map(wait_subnet).to_vec(), all, "nobody was renumbered");
    let report = probe.finish();
    assert_eq!(report.lost, 0, "{report:?}");
}

#[test]
fn etcd_with_certificates_and_users() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 1);
    let certs = Certs::new(&lab, "tls", &format!("IP:{ETCD}"));
    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| certs.path(name).display().to_string());
    let mut etcd = Etcd::cluster(&lab, &[(&rack.etcd_space, ETCD)], Some(certs));
    etcd.wants_users("wayleave", "right", "/wayleave/network/");
    let wrong = password_file(&lab, "etcd.password", "wrong");
    let login = format!(
        "endpoints = {:?}\nca_file = \"{ca}\"\ncert_file = \"{cert}\"\nkey_file = \"{key}\"\n\
         username = \"wayleave\"\npassword_file = \"{}\"",
        etcd.endpoints(),
        wrong.display()
    );
    let text = host(0, POOL, "").replace(&format!("endpoints = [\"http://{ETCD}:2379\"]"), &login);
    let mut agent = Agent::start(&lab, &rack.hosts[0], &text);
    holds("it says what is wrong", Duration::from_secs(30), || {
        agent.status()["problems"].to_string().contains("password")
    });
    assert!(agent.running() && subnets(&agent).is_empty());
    password_file(&lab, "etcd.password", "right");
    agent.terminate();
    agent.launch(&lab);
    wait_subnet(&agent);
}

#[test]
fn a_single_host_needs_a_pool_alone() {
    let lab = Lab::new();
    let space = lab.netns("h0");
    lab.link((&space, "eth0", &["10.0.0.1/24"]), (&lab.netns("peer"), "eth0", &["10.0.0.2/24"]));
    let text = format!(
        "[node]\nname = \"h0\"\naddress = \"10.0.0.1\"\n[network]\n{POOL}\ntunnel = \"never\"\nmasquerade = false\n\
         subnet_file = \"\"\n[bgp]\nasn = 64512\n"
    );
    let mut agent = Agent::start(&lab, &space, &text);
    let held = wait_subnet(&agent);
    holds("ready", ROUTE, || agent.status()["ready"] == true);
    assert!(our_route(&space, &held).is_some(), "what no container has must not follow the default route");
    agent.kill();
    agent.launch(&lab);
    assert_eq!(wait_subnet(&agent), held);
    // One more, when that is full; and back again.
    let added = agent.cli(&["lease", "add"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let two = wait_for("two subnets", ROUTE, || Some(subnets(&agent)).filter(|held| held.len() == 2));
    holds("both routed", ROUTE, || our_route(&space, &two[1]).is_some());
    let released = agent.cli(&["lease", "release", &two[1]]);
    assert!(released.status.success(), "{}", String::from_utf8_lossy(&released.stderr));
    holds("one is left", ROUTE, || subnets(&agent) == [held.clone()] && our_route(&space, &two[1]).is_none());
}

#[test]
fn a_copied_disk_gets_a_subnet_of_its_own() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 2);
    let _etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    let a = start(&lab, &rack, 0, "");
    let held = wait_subnet(&a);
    let mut b = Agent::prepare(&lab, &rack.hosts[1], &host(1, POOL, ""));
    // All that a lonely host has on its disk.
    std::fs::copy(lab.path("h0.state").join("lease.json"), lab.path("h1.state").join("lease.json")).unwrap();
    b.launch(&lab);
    let limit = Duration::from_secs(60);
    let own = wait_for("a subnet of its own", limit, || subnets(&b).first().filter(|own| **own != held).cloned());
    assert_eq!(subnets(&a).first(), Some(&held));
    holds("they peer", SESSION, || our_route(a.netns(), &own).is_some() && our_route(b.netns(), &held).is_some());
    assert!(!a.log().contains("announced by somebody else too"), "it was never announced twice");
}

#[test]
fn both_families_are_leased() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 2);
    let etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    let pools = "pools = [\"10.244.0.0/16\", \"fd00:10:244::/48\"]";
    let [a, b] = [0, 1].map(|number| Agent::start(&lab, &rack.hosts[number], &host(number, pools, "")));
    for agent in [&a, &b] {
        holds("one of each family", SESSION, || {
            let held = subnets(agent);
            held.len() == 2 && held.iter().any(|subnet| subnet.ends_with("::/64"))
        });
    }
    assert_eq!(etcd.all("/wayleave/network/subnets/fd00:10:244:").len(), 2);
}

#[test]
fn a_dead_nodes_subnet_is_freed_on_purpose() {
    let lab = Lab::new();
    let rack = Rack::new(&lab, 2);
    let etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    // What a peer keeps for a restart counts as announced.
    let [a, mut b] = [0, 1].map(|number| start(&lab, &rack, number, "graceful_restart = \"0s\""));
    let held = wait_meshed(&[&a, &b]);
    let reclaim = || a.cli(&["lease", "reclaim", "h1"]);
    let refused = reclaim();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("alive"));
    b.kill();
    holds("its route goes by BGP", Duration::from_secs(30), || our_route(a.netns(), &held[1]).is_none());
    holds("it gives no sign of life", Duration::from_secs(30), || {
        nodes(&a).iter().any(|node| node["name"] == "h1" && node["state"] == "dead")
    });
    assert_eq!(etcd.all("/wayleave/network/subnets/").len(), 2, "its subnet is its own all the same");
    let done = reclaim();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    holds("it is free", ROUTE, || etcd.all("/wayleave/network/subnets/").len() == 1);
    holds("it is listed no more", ROUTE, || etcd.get("/wayleave/network/nodes/h1").is_none());
    // Nobody has taken it: it is there for whoever comes first, and comes back to who had it.
    b.launch(&lab);
    assert_eq!(wait_meshed(&[&a, &b]), held);
}
