//! Containers of real Dockers on two hosts reach each other by their own addresses, whatever becomes of rules and daemons.

use std::time::Duration;

use crate::harness::agent::{Agent, SESSION};
use crate::harness::docker::{Docker, page};
use crate::harness::{Lab, Netns, Process, holds, wait_for};

/// How long after a disturbance all must be well again: the older iptables tells nobody of changes.
const LIMIT: Duration = Duration::from_secs(40);
/// Port of containers that is not published, and one that is.
const CLOSED: u16 = 7001;
const OPEN: u16 = 7000;
const PUBLISHED: u16 = 8080;
/// The network between each host and somebody outside, and the last number of theirs there; the host's is 1.
const OUTER: [&str; 2] = ["203.0.113", "198.51.100"];
const OUTSIDE: u8 = 9;

fn config(lab: &Lab, number: u8, more: &str) -> String {
    let other = 3 - number;
    format!(
        "[node]\nname = \"h{number}\"\naddress = \"10.0.0.{number}\"\n\
         [network]\npools = [\"10.244.0.0/16\"]\nsubnets = [\"10.244.{number}.0/24\"]\nsubnet_file = \"{}\"\n\
         [bgp]\nasn = 64512\nconnect_retry = \"1s\"\n\
         [[bgp.peers]]\nname = \"h{other}\"\naddress = \"10.0.0.{other}\"\nasn = 64512\n{more}",
        lab.path(&format!("h{number}.env")).display(),
    )
}

/// A host with its Docker and its agent; one container that serves on both ports.
struct Host {
    space: Netns,
    docker: Docker,
    agent: Agent,
    container: String,
}

impl Host {
    fn run(space: &Netns, docker: Docker, agent: Agent) -> Self {
        let publish = format!("{PUBLISHED}:{OPEN}");
        let container = docker.run("web", &format!("{OPEN} {CLOSED}"), &["-p", &publish]);
        Self { space: space.clone(), docker, agent, container }
    }

    /// Our rules in DOCKER-USER.
    fn rules(&self) -> Vec<String> {
        let shown = self.docker.iptables("-S DOCKER-USER");
        shown.lines().filter(|line| line.contains("--comment wayleave")).map(str::to_owned).collect()
    }

    fn wanted(&self) -> String {
        let subnet = self.container.rsplit_once('.').unwrap().0;
        format!("-A DOCKER-USER -s 10.244.0.0/16 -d {subnet}.0/24 -m comment --comment wayleave -j ACCEPT")
    }

    /// An address of the network between it and who is outside.
    fn outer(&self, host: u8) -> String {
        let net = if self.container.starts_with("10.244.1.") { OUTER[0] } else { OUTER[1] };
        format!("{net}.{host}")
    }

    /// Who a server takes the container for; `None`: no answer.
    fn seen_by(&self, server: &str) -> Option<String> {
        self.docker.exec("web", &format!("timeout 2 wget -qO- http://{server}/cgi-bin/who"))
    }

    fn drops(&self) -> bool {
        self.docker.iptables("-S FORWARD").starts_with("-P FORWARD DROP")
    }
}

/// Who a server takes us for, asked from this namespace.
fn asked_from(space: &Netns, server: &str) -> Option<String> {
    let url = format!("http://{server}/cgi-bin/who");
    let output = space.command("curl").args(["-s", "-f", "-m", "2", &url]).output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// All that is promised: both ways between containers with the source kept, published ports, the outside masqueraded.
fn all_is_well(when: &str, one: &Host, two: &Host, outside: &Netns) {
    for (from, to) in [(one, two), (two, one)] {
        let way = format!("{when}: {} to {}", from.space.short(), to.space.short());
        holds(&format!("{way}: exactly our rule"), LIMIT, || to.rules() == [to.wanted()]);
        assert!(to.drops(), "{way}: the test proves nothing without Docker's drop");
        holds(&format!("{way}: ping"), LIMIT, || {
            from.docker.exec("web", &format!("ping -c 1 -W 1 {}", to.container)).is_some()
        });
        let server = format!("{}:{CLOSED}", to.container);
        let seen = wait_for(&format!("{way}: TCP to a port that is not published"), LIMIT, || from.seen_by(&server));
        assert_eq!(seen, from.container, "{way}: the source is kept");
    }
    for host in [one, two] {
        let (own, other) = (host.outer(1), host.outer(OUTSIDE));
        let seen = wait_for(&format!("{when}: {other} outside"), LIMIT, || host.seen_by(&format!("{other}:80")));
        assert_eq!(seen, own, "{when}: masqueraded");
        let seen = wait_for(&format!("{when}: the published port of {own}"), LIMIT, || {
            asked_from(outside, &format!("{own}:{PUBLISHED}"))
        });
        assert_eq!(seen, other, "{when}: the source of who asks a published port");
        let closed = format!("{}:{CLOSED}", host.container);
        assert_eq!(asked_from(outside, &closed), None, "{when}: {closed} is not published");
    }
}

#[test]
fn containers_of_two_dockers_reach_each_other_whatever_happens() {
    let lab = Lab::new();
    let (one, two, outside) = (lab.netns("one"), lab.netns("two"), lab.netns("outside"));
    lab.link((&one, "eth0", &["10.0.0.1/24"]), (&two, "eth0", &["10.0.0.2/24"]));
    for (number, (host, net)) in (1..).zip([&one, &two].into_iter().zip(OUTER)) {
        let theirs = format!("{net}.{OUTSIDE}/24");
        lab.link((host, "eth1", &[&format!("{net}.1/24")]), (&outside, &format!("eth{number}"), &[&theirs]));
        outside.ip(&format!("route add 10.244.{number}.0/24 via {net}.1"));
    }
    let www = lab.path("www");
    page(&www);
    let args = ["httpd", "-f", "-p", "80", "-h", www.to_str().unwrap()];
    let _server = Process::start(&lab, &outside, "httpd", "busybox", &args, &[]);

    // Here Docker comes first, with the older iptables, finds forwarding off, turns it on and so drops what it didn't ask for.
    let docker = Docker::start(&lab, &two, &["--bip=10.244.2.1/24", "--mtu=1480"], true);
    let agent = Agent::start(&lab, &two, &config(&lab, 2, ""));
    let mut two = Host::run(&two, docker, agent);

    // There the agent comes first, and tells what Docker has to know.
    let agent = Agent::start(&lab, &one, &config(&lab, 1, ""));
    let file = lab.path("h1.env");
    let env = wait_for("subnet.env", LIMIT, || std::fs::read_to_string(&file).ok());
    let value = |key: &str| env.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    let options = [format!("--bip={}", value("FLANNEL_SUBNET=")), format!("--mtu={}", value("FLANNEL_MTU="))];
    let docker = Docker::start(&lab, &one, &options.each_ref().map(String::as_str), false);
    let mut one = Host::run(&one, docker, agent);
    // Forwarding was on already.
    let drop_all = |host: &Host| drop(host.docker.iptables("-P FORWARD DROP"));
    drop_all(&one);

    holds("the session", SESSION, || one.agent.established("h2"));
    all_is_well("from the start", &one, &two, &outside);
    let status = one.agent.status();
    assert_eq!(status["firewall"]["docker"]["tools"], serde_json::json!(["iptables-nft"]), "{status}");
    assert_eq!(status["firewall"]["in_force"], true, "{status}");
    assert_eq!(two.agent.status()["firewall"]["docker"]["tools"], serde_json::json!(["iptables-legacy"]));
    assert_eq!(one.agent.metric("wayleave_firewall_in_force"), Some(1.0));

    for host in [&mut one, &mut two] {
        host.docker.restart();
    }
    all_is_well("after dockerd was restarted", &one, &two, &outside);

    one.space.nft("flush ruleset\n");
    // Docker makes its chains again when it starts, and ours is in them again then.
    one.docker.restart();
    drop_all(&one);
    all_is_well("after all rules were flushed", &one, &two, &outside);

    for host in [&one, &two] {
        host.docker.iptables("-F");
        holds("our rule is back", LIMIT, || host.rules() == [host.wanted()]);
    }
    let repairs = one.agent.log().matches("our rule in DOCKER-USER was changed by somebody, restored").count();
    assert!(repairs > 0, "{}", one.agent.log());
    for host in [&mut one, &mut two] {
        host.docker.restart();
        drop_all(host);
    }
    all_is_well("after iptables -F", &one, &two, &outside);

    one.agent.terminate();
    two.agent.kill();
    one.agent.launch(&lab);
    two.agent.launch(&lab);
    all_is_well("after the agents were restarted", &one, &two, &outside);

    // No subnet, no rule; and none is left behind.
    one.agent.reload(&config(&lab, 1, "[firewall]\ndocker = false\n"));
    holds("the rule goes with the wish for it", LIMIT, || one.rules().is_empty());
    two.agent.terminate();
    let clean = two
        .space
        .command(crate::harness::agent::WAYLEAVE)
        .args(["clean", "--config"])
        .arg(two.agent.config_path())
        .output();
    let clean = clean.unwrap();
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
    assert!(String::from_utf8_lossy(&clean.stdout).contains("rule in DOCKER-USER removed (iptables-legacy)"));
    assert!(two.rules().is_empty());
}
