//! Wayleave as a route reflector, and as a router between two others.

use crate::harness::agent::{Agent, ROUTE, as_path};
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::kernel::our_route;
use crate::harness::{Lab, Netns, holds, wait_for};
use crate::story::{Config, HOST_AS, TOR_AS};

/// A switch with these namespaces on it, each as (namespace, address with length).
fn switch(lab: &Lab, members: &[(&Netns, &str)]) -> Netns {
    let switch = lab.netns("switch");
    switch.batch(&["link add br0 type bridge", "link set br0 up"]);
    for (member, address) in members {
        lab.link((&switch, member.short(), &[]), (member, "eth0", &[*address]));
        switch.ip(&format!("link set dev {} master br0", member.short()));
    }
    switch
}

#[test]
fn reflects_between_hosts_and_a_router() {
    let lab = Lab::new();
    let [rr, a, b, c] = ["rr", "a", "b", "c"].map(|name| lab.netns(name));
    switch(&lab, &[(&rr, "10.0.0.10/24"), (&a, "10.0.0.1/24"), (&b, "10.0.0.2/24"), (&c, "10.0.0.3/24")]);
    let (box_a, box_b) = (lab.container(&a, "box-a", &["10.244.1.2"]), lab.container(&b, "box-b", &["10.244.2.2"]));

    let clients = |names: &[&str]| {
        let peer = |config: Config, (name, address)| {
            let client = format!("route_reflector_client = {}", names.contains(&name));
            config.peer(name, address, HOST_AS, &client)
        };
        let peers = [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")];
        let text = peers.into_iter().fold(Config::node("10.0.0.10", &[]), peer).text();
        text.replace("[[bgp.peers]]", "[[bgp.peers]]\nexport = \"all\"")
    };
    let reflector = Agent::start(&lab, &rr, &clients(&["a", "b", "c"]));
    let host = |address, subnets| Config::node(address, subnets).peer("rr", "10.0.0.10", HOST_AS, "").text();
    let agent_a = Agent::start(&lab, &a, &host("10.0.0.1", &["10.244.1.0/24"]));
    let agent_b = Agent::start(&lab, &b, &host("10.0.0.2", &["10.244.2.0/24"]));
    let session = Neighbor::new("reflector", ("10.0.0.3", HOST_AS), ("10.0.0.10", HOST_AS));
    let bird = Bird::start(&lab, &c, &config("10.0.0.3", &[session], &["10.244.3.0/24"], ""));
    reflector.wait_established(&["a", "b", "c"]);

    for prefix in ["10.244.2.0/24", "10.244.3.0/24"] {
        agent_a.wait_installed(prefix);
    }
    agent_b.wait_installed("10.244.1.0/24");
    assert_eq!(our_route(&a, "10.244.2.0/24").unwrap().gateways(), ["10.0.0.2"], "the next hop is the host, not us");
    let route = agent_a.best("10.244.2.0/24").unwrap();
    assert_eq!((as_path(&route).as_str(), &route["next_hop"]), ("", &"10.0.0.2".into()));
    let originator = wait_for("BIRD has the route", ROUTE, || bird.attribute("10.244.1.0/24", "BGP.originator_id"));
    assert_eq!(originator, "10.0.0.1");
    assert_eq!(bird.attribute("10.244.1.0/24", "BGP.cluster_list").unwrap(), "10.0.0.10");
    assert!(agent_a.routes(&["--from", "rr", "10.244.1.0/24"]).is_empty(), "its own route does not come back");

    holds("containers reach each other", ROUTE, || box_a.ping("10.244.2.2", 1) == 1);
    assert_eq!(box_b.ping("10.244.1.2", 5), 5);
    assert_eq!(rr.ip("route show proto 87").lines().filter(|line| line.contains("blackhole")).count(), 0);

    // Who is a client changes under way: nothing is lost but what is not to be reflected any more.
    let since = || ["a", "b", "c"].map(|peer| reflector.peer(peer).unwrap()["since"].clone());
    let (before, loss) = (
        since(),
        std::thread::scope(|scope| {
            let pings = scope.spawn(|| box_a.ping("10.244.2.2", 20));
            reflector.reload(&clients(&["a"]));
            holds("b has no route of c", ROUTE, || agent_b.best("10.244.3.0/24").is_none());
            holds("nor c one of b", ROUTE, || bird.route("10.244.2.0/24").is_none());
            for (agent, prefix) in
                [(&agent_b, "10.244.1.0/24"), (&agent_a, "10.244.2.0/24"), (&agent_a, "10.244.3.0/24")]
            {
                assert!(agent.installed(prefix), "{prefix}: a is a client");
            }
            reflector.reload(&clients(&["b"]));
            agent_b.wait_installed("10.244.3.0/24");
            holds("c has the route of a client", ROUTE, || bird.route("10.244.2.0/24").is_some());
            holds("a and c are none", ROUTE, || agent_a.best("10.244.3.0/24").is_none());
            20 - pings.join().unwrap()
        }),
    );
    assert_eq!((since(), loss), (before, 0), "no session was reset, no packet lost");
}

#[test]
fn passes_routes_on_between_two_routers() {
    let lab = Lab::new();
    let [left, us, right] = ["left", "us", "right"].map(|name| lab.router(name));
    lab.link((&left, "eth0", &["10.0.1.1/24"]), (&us, "eth0", &["10.0.1.2/24"]));
    lab.link((&us, "eth1", &["10.0.2.2/24"]), (&right, "eth0", &["10.0.2.1/24"]));
    let client = lab.container(&left, "client", &["198.51.100.2"]);
    let server = lab.container(&right, "server", &["203.0.113.2"]);
    let session = |local, asn, remote| [Neighbor::new("wayleave", (local, asn), (remote, HOST_AS))];
    let start = |space, local, asn, remote, prefix: &str| {
        Bird::start(&lab, space, &config(local, &session(local, asn, remote), &[prefix], ""))
    };
    let bird_left = start(&left, "10.0.1.1", TOR_AS, "10.0.1.2", "198.51.100.0/24");
    let bird = start(&right, "10.0.2.1", 65002, "10.0.2.2", "203.0.113.0/24");
    let all = "import = \"all\";export = \"all\"";
    let config =
        Config::node("10.0.1.2", &[]).peer("left", "10.0.1.1", TOR_AS, all).peer("right", "10.0.2.1", 65002, all);
    let agent = Agent::start(&lab, &us, &config.text());
    agent.wait_established(&["left", "right"]);
    let path = wait_for("the route came through", ROUTE, || bird.attribute("198.51.100.0/24", "BGP.as_path"));
    assert_eq!(path, "64512 65001");
    assert_eq!(bird.attribute("198.51.100.0/24", "BGP.next_hop").unwrap(), "10.0.2.2", "eBGP sets itself");
    holds("packets too", ROUTE, || client.ping("203.0.113.2", 1) == 1);
    assert_eq!(server.ping("198.51.100.2", 5), 5);

    // RFC 1997: what must not leave the AS does not.
    let guarded = "import all; export filter { bgp_community.add((65535, 65281)); accept; };";
    let mut session = Neighbor::new("wayleave", ("10.0.1.1", TOR_AS), ("10.0.1.2", HOST_AS));
    session.channel = guarded;
    bird_left.reconfigure(&crate::harness::bird::config("10.0.1.1", &[session], &["198.51.100.0/24"], ""));
    holds("a route with no-export is withdrawn", ROUTE, || bird.route("198.51.100.0/24").is_none());
    assert!(agent.installed("198.51.100.0/24"), "we use it all the same");
}
