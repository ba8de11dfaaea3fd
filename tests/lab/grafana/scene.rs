//! Three hosts that share an etcd, two routers, a Prometheus, and what happens to them.

use std::fmt::Write;

use nix::sys::signal::Signal;

use crate::cluster::{ETCD, Rack, address, inside, wait_subnet};
use crate::harness::agent::Agent;
use crate::harness::bird::{Bird, Neighbor, config};
use crate::harness::etcd::Etcd;
use crate::harness::prometheus::Prometheus;
use crate::harness::{Lab, Netns, Process, kernel_has_ipip};

const TORS: [(&str, u32); 2] = [("10.0.250.1", 65001), ("10.0.250.2", 65002)];
const NODES: usize = 3;
/// What the second router announces once it has gone mad, beside some more.
const MANY: usize = 30;

/// Three hosts that share an etcd, two routers.
pub struct Scene {
    // First, so that they go before the namespaces do.
    agents: Vec<Agent>,
    birds: Vec<Bird>,
    traffic: Vec<Process>,
    etcd: Etcd,
    rack: Rack,
    lab: Lab,
}

fn host(number: usize) -> String {
    // As an operator has it, where the kernel can.
    let tunnel = if kernel_has_ipip() { "" } else { "tunnel = \"never\"\n" };
    let mut text = format!(
        "[node]\nname = \"h{number}\"\naddress = \"{}\"\n[network]\n{tunnel}\
         masquerade = true\nsubnet_file = \"\"\n[store]\nkind = \"etcd\"\nendpoints = [\"http://{ETCD}:2379\"]\nttl = \"10s\"\n\
         timeout = \"2s\"\n[metrics]\nlisten = \"0.0.0.0:9887\"\n[bgp]\nasn = 64512\nconnect_retry = \"1s\"\n",
        address(number)
    );
    for (at, (tor, asn)) in TORS.iter().enumerate() {
        let name = ["tor-a", "tor-b"][at];
        // What the second will announce is too much for the first host and nearly too much for the second.
        let options = match (at, number) {
            (0, 0) => "bfd = { interval = \"300ms\", multiplier = 10 }",
            (1, 0) => "max_prefixes = 20",
            (1, 1) => "max_prefixes = 40",
            _ => "",
        };
        write!(text, "[[bgp.peers]]\nname = \"{name}\"\naddress = \"{tor}\"\nasn = {asn}\n{options}\n").unwrap();
    }
    text
}

fn router(at: usize, announce: &[&str]) -> String {
    let (own, asn) = TORS[at];
    let hosts: Vec<(String, String)> = (0..NODES).map(|number| (format!("h{number}"), address(number))).collect();
    let neighbors: Vec<Neighbor<'_>> = hosts
        .iter()
        .map(|(name, address)| Neighbor {
            options: if at == 0 { "bfd graceful;" } else { "" },
            // Of what it hears it tells nothing; the way to one prefix nobody knows.
            channel: "import all; export filter { if source != RTS_STATIC then reject; \
                      if net = 10.244.250.0/24 then bgp_next_hop = 198.51.100.9; accept; };",
            ..Neighbor::new(name, (own, asn), (address, 64512))
        })
        .collect();
    let bfd = "protocol bfd { interface \"*\" { interval 300 ms; multiplier 10; }; }\n";
    config(own, &neighbors, announce, if at == 0 { bfd } else { "" })
}

impl Scene {
    /// All of it, on its way up.
    pub fn start() -> Self {
        let lab = Lab::new();
        let rack = Rack::new(&lab, NODES);
        let etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
        // What routers announce here lies above.
        let network = r#"{"Network": "10.244.0.0/16", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.90.0"}"#;
        etcd.put("/wayleave/network/config", network);
        let tors: Vec<Netns> = ["tor-a", "tor-b"].iter().map(|name| lab.router(name)).collect();
        for (space, (own, _)) in tors.iter().zip(TORS) {
            rack.plug(&lab, space, own);
        }
        let birds = (0..2).map(|at| Bird::start(&lab, &tors[at], &router(at, &["10.244.200.0/24"]))).collect();
        let agents = (0..NODES).map(|number| Agent::start(&lab, &rack.hosts[number], &host(number))).collect();
        Self { agents, birds, traffic: Vec::new(), etcd, rack, lab }
    }

    /// A Prometheus that scrapes all hosts, and something else that doesn't answer.
    pub fn prometheus(&self, rules: &str) -> Prometheus {
        let space = self.lab.netns("prom");
        self.rack.plug(&self.lab, &space, "10.0.251.1");
        let agents =
            (0..NODES).map(|number| ["wayleave".to_owned(), format!("{}:9887", address(number)), format!("h{number}")]);
        let other = ["etcd".to_owned(), format!("{ETCD}:9"), "etcd-1".to_owned()];
        let targets: Vec<_> = agents.chain([other]).collect();
        Prometheus::start(&self.lab, &space, &targets, rules)
    }

    /// Waits until all sessions are up, lets containers talk, and the first host compare all with the kernel, which would
    /// be five minutes away: so much happens while it is stopped that events are lost.
    pub fn settle(&mut self) {
        for agent in &self.agents {
            agent.wait_established(&["tor-a", "tor-b"]);
            agent.wait_installed("10.244.200.0/24");
        }
        self.agents[0].signal(Signal::SIGSTOP);
        let events: Vec<String> = (0..20_000).map(|i| format!("link set dev lo alias name{i}")).collect();
        self.agents[0].netns().batch(&events);
        self.agents[0].signal(Signal::SIGCONT);
        let boxes: Vec<(Netns, String)> = (0..2)
            .map(|number| {
                let inside = inside(&wait_subnet(&self.agents[number]));
                (self.lab.container(self.agents[number].netns(), &format!("box-{number}"), &[&inside]), inside)
            })
            .collect();
        for (from, to) in [(0, 1), (1, 0)] {
            let args = ["-n", "-q", "-i", "0.1", "-s", "1000", boxes[to].1.as_str()];
            self.traffic.push(Process::start(&self.lab, &boxes[from].0, &format!("ping-{from}"), "ping", &args, &[]));
        }
    }

    /// A router announces one more prefix.
    pub fn churn(&self) {
        self.birds[0].reconfigure(&router(0, &["10.244.200.0/24", "10.244.201.0/24"]));
    }

    /// The first router dies; the second announces too much, among it a subnet of the second host and a prefix that
    /// nobody knows the way to; somebody fights for a route there and somebody else has one of his own; the third host is
    /// drained, and told a file that is none; etcd dies.
    pub fn trouble(&mut self) {
        let theirs = wait_subnet(&self.agents[1]);
        let mut announce: Vec<String> = (0..MANY).map(|number| format!("10.244.{}.0/24", 100 + number)).collect();
        announce.extend(["10.244.200.0/24", "10.244.250.0/24", "192.0.2.0/24", &theirs].map(str::to_owned));
        let announce: Vec<&str> = announce.iter().map(String::as_str).collect();
        self.birds[1].reconfigure(&router(1, &announce));
        self.agents[1].wait_installed("10.244.100.0/24");
        let host = self.agents[1].netns();
        let fight = "while :; do ip route del 10.244.100.0/24 proto 87 2>/dev/null; sleep 0.1; done";
        self.traffic.push(Process::start(&self.lab, host, "fight", "sh", &["-c", fight], &[]));
        host.ip(&format!("route add 10.244.101.0/24 via {} proto static", TORS[1].0));
        assert!(self.agents[2].cli(&["drain", "--now", "--no-block"]).status.success());
        self.agents[2].reload("[node\n");
        self.birds.remove(0).process().signal(Signal::SIGKILL);
        self.etcd.kill(0);
    }

    /// The first host dies, and the second router: the second host is alone.
    pub fn worse(&mut self) {
        self.agents[0].kill();
        self.birds.remove(0).process().signal(Signal::SIGKILL);
    }
}
