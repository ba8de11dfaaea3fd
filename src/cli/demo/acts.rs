//! The four acts.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::files::Design;
use super::netns::{command, ip_json};
use super::probe::Probe;
use super::stage::{Stage, Stop};
use super::topology::{Host, PICTURE, Topology, netns};
use super::world::{DIR, World};
use crate::view;

/// How long sessions and routes may take; they need some three seconds.
const CONVERGE: Duration = Duration::from_secs(30);

/// What the tunnel device is called.
const TUNNEL: &str = "wayleave0";

/// All of it, in order.
pub(super) fn play<W: Write>(world: &mut World<'_>, stage: &mut Stage<'_, W>, keep: bool) -> Result<(), Stop> {
    stage.say(PICTURE)?;
    fabric(world, stage)?;
    let tunnel = mesh(world, stage)?;
    restart(world, stage, tunnel)?;
    look(world, stage, keep)
}

/// 1. Hosts peer with their ToR; containers are reached by plain routes.
fn fabric<W: Write>(world: &mut World<'_>, stage: &mut Stage<'_, W>) -> Result<(), Stop> {
    stage.act(1, "Routed fabric: each host announces its container subnet to both ToRs by eBGP")?;
    let start = Instant::now();
    world.start_agents(Design::Fabric)?;
    converge(world, stage)?;
    stage.check(
        true,
        format!(
            "{} × 2 sessions up and every host knows every subnet, {:.1} s",
            world.topology.hosts.len(),
            start.elapsed().as_secs_f32()
        ),
    )?;
    stage.aside("host1, `wayleave routes`:")?;
    routes(world, stage, world.topology.host("host1")?)?;
    let reached = reach(world.topology);
    stage.check(reached.iter().all(Option::is_some), "every container reaches every other, no tunnel, no NAT:")?;
    matrix(world.topology, stage, &reached)?;
    Ok(())
}

/// 2. Hosts peer with each other; the routers know nothing. Whether the tunnel works here.
fn mesh<W: Write>(world: &mut World<'_>, stage: &mut Stage<'_, W>) -> Result<bool, Stop> {
    stage.act(2, "Routers that know nothing of containers: the hosts are an iBGP mesh")?;
    let tunnel = world.has_ipip();
    world.stop_agents();
    world.reconfigure_tors(Design::Mesh)?;
    let start = Instant::now();
    world.start_agents(Design::Mesh)?;
    if tunnel {
        converge(world, stage)?;
    } else {
        let hosts = &world.topology.hosts;
        stage.need("all sessions up", CONVERGE, || hosts.iter().all(|host| world.established(host)))?;
        stage.need("routes within the racks", CONVERGE, || hosts.iter().all(|host| knows(world, host, 1)))?;
    }
    stage.check(true, format!("4 × 3 sessions up, {:.1} s", start.elapsed().as_secs_f32()))?;
    let ignorant = stage.wait(CONVERGE, || routers_know_nothing(world.topology))?;
    stage.check(ignorant, "no router has a route to a container")?;
    stage.aside("host1, `wayleave routes`:")?;
    routes(world, stage, world.topology.host("host1")?)?;

    let reached = reach(world.topology);
    if tunnel {
        stage.check(reached.iter().all(Option::is_some), "every container reaches every other:")?;
        matrix(world.topology, stage, &reached)?;
        counters(world.topology, stage)?;
    } else {
        let same_rack = pairs(world.topology).zip(&reached).filter(|((a, b), _)| a.rack == b.rack);
        stage.check(
            same_rack.into_iter().all(|(_, ttl)| ttl.is_some()),
            "same rack: containers reach each other directly",
        )?;
        stage.skip(
            "across racks: not on this machine, no host can offer the others IP-in-IP. wayleave goes on and says:",
        )?;
        let status: Option<view::Status> = world.ask(world.topology.host("host1")?, &["status"]);
        if let Some(error) = status.and_then(|status| status.tunnel.error) {
            stage.aside(format!("  \"{error}\""))?;
        }
        stage.aside("In a kernel that has it, on any machine (Debian package user-mode-linux):")?;
        stage.aside("  tests/uml/run target/release/wayleave demo")?;
    }
    Ok(tunnel)
}

/// The proof that packets between racks are tunnelled, and those within one are not.
fn counters<W: Write>(topology: &Topology, stage: &mut Stage<'_, W>) -> Result<(), Stop> {
    let (from, same_rack, other_rack) = (topology.host("host1")?, topology.host("host2")?, topology.host("host3")?);
    let mut rows = vec![row(["10 pings from box1 to", "packets out by wayleave0 of host1"])];
    for (target, tunnelled) in [(same_rack, false), (other_rack, true)] {
        let before = sent_by_tunnel(from);
        ping(from, target, 10);
        let count = sent_by_tunnel(from).saturating_sub(before);
        stage.check(
            (count >= 10) == tunnelled && (tunnelled || count == 0),
            format!("box1 to {}: {}", target.container_name(), if tunnelled { "IP-in-IP" } else { "direct" }),
        )?;
        rows.push(row([&target.container_name(), &count.to_string()]));
    }
    stage.table(&rows)?;
    Ok(())
}

/// 3. An agent is killed and started again under a steady stream of packets.
fn restart<W: Write>(world: &mut World<'_>, stage: &mut Stage<'_, W>, tunnel: bool) -> Result<(), Stop> {
    let (from, to) = (world.topology.host("host1")?, world.topology.host(if tunnel { "host3" } else { "host2" })?);
    stage.act(3, "The agent of host1 is killed (SIGKILL) and started again under 1000 packets a second")?;
    let probe = Probe::start(&from.container(), &to.container(), to.container_address())?;
    stage.wait(Duration::from_millis(500), || false)?;
    world.kill_agent(from);
    let dead = Instant::now();
    stage.wait(Duration::from_secs(1), || false)?;
    world.start_agent(from)?;
    stage.need("host1's sessions are back", CONVERGE, || world.established(from))?;
    let prefixes = if tunnel { 3 } else { 1 };
    stage.need("host1's routes are back", CONVERGE, || knows(world, from, prefixes))?;
    let dead = dead.elapsed();
    stage.wait(Duration::from_millis(500), || false)?;
    let report = probe.finish();
    stage.aside(format!(
        "box1 to {} and back; {:.1} s from the kill to all sessions and routes being back",
        to.container_name(),
        dead.as_secs_f32()
    ))?;
    stage.check(
        report.lost == 0 && report.sent > 1000,
        format!("{} packets sent, {} lost: the kernel forwards, its routes were adopted", report.sent, report.lost),
    )?;
    Ok(())
}

/// 4. What can be seen, and how to look around.
fn look<W: Write>(world: &World<'_>, stage: &mut Stage<'_, W>, keep: bool) -> Result<(), Stop> {
    const SHOWN: [&str; 6] = [
        "wayleave_bgp_session_established",
        "wayleave_bgp_prefixes_accepted",
        "wayleave_rib_prefixes",
        "wayleave_fib_routes_installed",
        "wayleave_netlink_batches_total",
        "wayleave_process_resident_memory_bytes",
    ];
    stage.act(4, "What Prometheus sees of host1 (127.0.0.1:9887/metrics), some of it")?;
    let answer = World::metrics(world.topology.host("host1")?).unwrap_or_default();
    let lines: Vec<&str> = SHOWN
        .iter()
        .flat_map(|name| answer.lines().filter(move |line| line.split(['{', ' ']).next() == Some(name)))
        .collect();
    for line in &lines {
        stage.aside(format!("  {line}"))?;
    }
    stage.check(lines.len() >= SHOWN.len(), "metrics are there")?;
    let explained: Option<view::Explanation> = world.ask(world.topology.host("host1")?, &["explain", "10.244.2.2"]);
    stage.check(explained.is_some_and(|e| e.agree), "`wayleave explain 10.244.2.2`: the kernel does what BGP wants")?;

    let program = std::env::args().next().unwrap_or_else(|| "wayleave".to_owned());
    stage.say(if keep {
        "\nAll of it is left up. Look around yourself; the last line takes it down:"
    } else {
        "\nLook around yourself: `make demo KEEP=1` (or `wayleave demo --keep`) leaves it all up. Then:"
    })?;
    for line in [
        format!("{program} peers   --socket {DIR}/host1.sock"),
        format!("{program} routes  --socket {DIR}/host1.sock"),
        format!("{program} explain --socket {DIR}/host1.sock 10.244.3.2"),
        "ip netns exec demo-box1 ping 10.244.2.2".to_owned(),
        "ip netns exec demo-host1 ip route".to_owned(),
        format!("birdc -s {DIR}/demo-tor1a.ctl show route"),
        format!("less {DIR}/host1.toml   # the configuration; {DIR}/host1.log is the log"),
        format!("{program} demo --remove"),
    ] {
        stage.say(format!("     {line}"))?;
    }
    Ok(())
}

/// Waits until all sessions are up and each host has all three foreign subnets in its kernel.
fn converge<W: Write>(world: &World<'_>, stage: &mut Stage<'_, W>) -> Result<(), Stop> {
    let hosts = &world.topology.hosts;
    stage.need("all sessions up", CONVERGE, || hosts.iter().all(|host| world.established(host)))?;
    stage.need("all subnets known", CONVERGE, || hosts.iter().all(|host| knows(world, host, hosts.len() - 1)))
}

/// Whether at least so many foreign subnets are in the kernel of a host.
fn knows(world: &World<'_>, host: &Host, subnets: usize) -> bool {
    world.used(host).iter().filter(|route| route.installed).count() >= subnets
}

/// The table of routes that a host uses.
fn routes<W: Write>(world: &World<'_>, stage: &mut Stage<'_, W>, host: &Host) -> io::Result<()> {
    let mut rows = vec![row(["prefix", "from", "AS path", "sent", "to"])];
    for route in world.used(host) {
        let how = match route.hops.first() {
            None => "nowhere",
            Some(hop) if hop.tunnel => "IP-in-IP",
            Some(hop) if hop.gateway == route.next_hop => "direct",
            Some(_) => "by a router",
        };
        let path = if route.as_path.is_empty() { "-" } else { &route.as_path };
        let to: Vec<String> = route
            .hops
            .iter()
            .map(|hop| {
                format!("{}%{}", hop.gateway.map_or_else(String::new, |gateway| gateway.to_string()), hop.device)
            })
            .collect();
        rows.push(row([&route.prefix.to_string(), &route.from, path, how, &to.join(" and ")]));
    }
    stage.table(&rows)
}

/// All ordered pairs of hosts.
fn pairs(topology: &Topology) -> impl Iterator<Item = (&Host, &Host)> {
    let all = topology.hosts.iter().flat_map(|a| topology.hosts.iter().map(move |b| (a, b)));
    all.filter(|(a, b)| a.name != b.name)
}

/// For each of [`pairs`]: the TTL with which an answer came, if one came.
fn reach(topology: &Topology) -> Vec<Option<u8>> {
    let started: Vec<_> = pairs(topology)
        .map(|(from, to)| {
            let mut ping = command(&from.container(), "ping");
            ping.args(["-n", "-c", "3", "-i", "0.2", "-W", "1", &to.container_address().to_string()]);
            ping.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn()
        })
        .collect();
    started
        .into_iter()
        .map(|child| {
            let output = child.ok()?.wait_with_output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split("ttl=").nth(1)?.split(' ').next()?.parse().ok()
        })
        .collect()
}

/// Who reaches whom, and over how many routers: 64 less the TTL that was left.
fn matrix<W: Write>(topology: &Topology, stage: &mut Stage<'_, W>, reached: &[Option<u8>]) -> io::Result<()> {
    let hosts = &topology.hosts;
    let mut rows = vec![[String::new()].into_iter().chain(hosts.iter().map(Host::container_name)).collect::<Vec<_>>()];
    let mut ttls = reached.iter();
    for from in hosts {
        let cells = hosts.iter().map(|to| match () {
            () if from.name == to.name => "·".to_owned(),
            () => match ttls.next().copied().flatten() {
                Some(ttl) => format!("✓ {}", 64_u8.saturating_sub(ttl)),
                None => "✗".to_owned(),
            },
        });
        rows.push([from.container_name()].into_iter().chain(cells).collect());
    }
    stage.table(&rows)?;
    stage.aside("  (✓ n: answered, over n hosts and routers)")
}

/// Pings from one container to another, twenty a second.
fn ping(from: &Host, to: &Host, count: u32) {
    let mut ping = command(&from.container(), "ping");
    ping.args(["-n", "-q", "-i", "0.05", "-W", "1", "-c", &count.to_string(), &to.container_address().to_string()]);
    // Whether answers came is seen in the counters.
    let _ = ping.output();
}

/// Packets that left a host by its tunnel device.
fn sent_by_tunnel(host: &Host) -> u64 {
    let links = ip_json(&host.netns(), &format!("-s link show {TUNNEL}"));
    links.pointer("/0/stats64/tx/packets").and_then(serde_json::Value::as_u64).unwrap_or(0)
}

/// Whether no router has a route into the pool.
fn routers_know_nothing(topology: &Topology) -> bool {
    topology.tors.iter().all(|tor| !ip_json(&netns(&tor.name), "route show").to_string().contains("10.244."))
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}
