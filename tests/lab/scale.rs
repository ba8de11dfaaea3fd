//! How far it goes: so many agents on one machine with one etcd (`make scale`). Prints numbers, promises none.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{ETCD, POOL, Rack, address, host, inside, sessions, subnets, wait_subnet};
use crate::harness::agent::Agent;
use crate::harness::etcd::Etcd;
use crate::harness::{Lab, Probe, announce, holds, wait_for};

/// Routes of ours in a namespace's kernel.
fn routes(agent: &Agent) -> usize {
    agent.netns().ip("route show proto 87").lines().filter(|line| line.starts_with("10.244.")).count()
}

/// Resident memory of a process in KiB.
fn resident(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn at(began: Instant) -> String {
    format!("{:.1} s", began.elapsed().as_secs_f64())
}

#[test]
#[ignore = "takes minutes and the whole machine: make scale"]
fn so_many_agents_and_one_etcd() {
    let count: usize = std::env::var("AGENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let limit = Duration::from_secs(600);
    let lab = Lab::new();
    let rack = Rack::routed(&lab, count);
    let etcd = Etcd::start(&lab, &rack.etcd_space, ETCD);
    // Long times: so many daemons on two cores are late, and that is not what is to be seen.
    let text =
        |number, bgp: &str| host(number, POOL, &format!("hold_time = \"90s\"\n{bgp}")).replace("\"10s\"", "\"60s\"");

    let began = Instant::now();
    let agents: Vec<Agent> =
        (0..count).map(|number| Agent::start_quiet(&lab, &rack.hosts[number], &text(number, ""))).collect();
    announce(&format!("{count} agents started after {}", at(began)));
    for agent in &agents {
        wait_for("a subnet", limit, || subnets(agent).first().cloned());
    }
    announce(&format!("all have a subnet after {}", at(began)));
    for agent in &agents {
        holds("all routes in its kernel", limit, || routes(agent) >= count - 1);
    }
    announce(&format!("all routes in all kernels after {}", at(began)));
    for agent in &agents {
        holds("all sessions", limit, || sessions(agent).len() == count - 1);
    }
    announce(&format!("full mesh, {} sessions, after {}", count * (count - 1) / 2, at(began)));
    let memory: Vec<u64> = agents.iter().map(resident).collect();
    let middle = |mut all: Vec<u64>| {
        all.sort_unstable();
        (all[0], all[all.len() / 2], all[all.len() - 1])
    };
    announce(&format!("memory of an agent in KiB, least, median, most: {:?}", middle(memory)));
    announce(&format!("revision of etcd: {}", etcd.revision()));

    let held: Vec<String> = [0, 1].map(|number| wait_subnet(&agents[number])).into();
    let boxes: Vec<_> = (0..2)
        .map(|number| lab.container(agents[number].netns(), &format!("box-{number}"), &[&inside(&held[number])]))
        .collect();
    for (number, subnet) in held.iter().enumerate() {
        rack.switch.ip(&format!("route add {subnet} via {} dev h{number} onlink", address(number)));
    }
    let probe = Probe::start(&boxes[0], &boxes[1], &inside(&held[1]));
    let began = Instant::now();
    for number in [count - 2, count - 1] {
        agents[number].reload(&text(number, "reflector = true"));
    }
    for agent in &agents[..count - 2] {
        holds("two sessions", limit, || sessions(agent).len() == 2);
    }
    announce(&format!("two reflectors instead of the mesh after {}", at(began)));
    let memory: Vec<u64> = agents.iter().map(resident).collect();
    announce(&format!("memory of an agent in KiB, least, median, most: {:?}", middle(memory)));
    assert!(agents.iter().all(|agent| routes(agent) >= count - 1));
    let report = probe.finish();
    announce(&format!("the probe meanwhile: {report:?}"));
    announce(&format!("revision of etcd: {}", etcd.revision()));
    let status: Value = agents[0].status();
    announce(&format!("{}", status["sessions"]));
    assert_eq!(report.lost, 0, "{report:?}");
}
