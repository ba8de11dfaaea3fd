//! One seed from start to end: boot, faults, healing, convergence, restarts that nobody feels.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use wayleave::bgp::policy::ExportScope;

use super::oracle;
use super::script::{self, Act, Group};
use super::topology::{self, Kind, Topology, pick};
use super::world::World;

/// Longest time from healing to the right tables, besides what stale routes are promised: dials
/// are at most a minute apart after errors, and colliding ones cost another pause.
const BOUND: Duration = Duration::from_secs(150);
/// What has come to rest stays so for this long at least: longer than a session must have lasted for
/// the next to be dialled without a pause that grew by errors.
const REST: Duration = Duration::from_secs(65);

/// What a run was like.
#[derive(Debug)]
pub struct Report {
    /// From healing to the right tables
    pub converged: Duration,
    /// Virtual time in all
    pub lasted: Duration,
    /// Equal for equal runs
    pub digest: u64,
}

/// Runs a seed but for these groups of its script; what broke, with the network and the script.
pub fn run(seed: u64, without: &BTreeSet<usize>, trace: bool) -> Result<Report, String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let topology = topology::draw(&mut rng);
    let span = Duration::from_secs(rng.random_range(5..=120));
    let script = script::draw(&mut rng, &topology, span);
    let calm = Calm::draw(&mut rng, &topology);
    let about = describe(&topology, &script, without, &calm);
    if trace {
        eprintln!("{about}");
    }
    let Topology { nodes, fabric, latency, .. } = topology;
    let mut world = World::new(rng.random(), nodes, fabric, latency);
    world.trace = trace;

    let mut run = Run { world, latency };
    let outcome = run.all(&script, without, span, &calm);
    let world = run.world;
    match outcome {
        Ok(converged) => Ok(Report { converged, lasted: world.now, digest: world.digest }),
        Err(why) => Err(format!("{about}at {:?}: {why}", world.now)),
    }
}

struct Run {
    world: World,
    latency: Duration,
}

impl Run {
    fn all(
        &mut self,
        script: &[Group],
        without: &BTreeSet<usize>,
        span: Duration,
        calm: &Calm,
    ) -> Result<Duration, String> {
        let mut acts: Vec<(Duration, Act)> = Vec::new();
        for node in 0..self.world.nodes.len() {
            acts.push((Duration::from_millis(700) * u32::try_from(node * 5 % 3).expect("few"), Act::Start(node)));
        }
        let kept = script.iter().enumerate().filter(|(i, _)| !without.contains(i));
        acts.extend(kept.flat_map(|(_, group)| group.0.iter().cloned()));
        self.play(acts)?;
        self.until(span)?;
        self.world.heal(self.latency);
        let healed = self.world.now;
        // What was lost before is found out when hold timers expire.
        let hold = self.world.nodes.iter().map(|node| node.config.hold_time).max().unwrap_or_default();
        self.until(healed + Duration::from_secs(hold.into()))?;
        self.converge()?;
        let converged = self.world.now.saturating_sub(healed);
        self.stay(REST)?;
        if self.world.nodes.iter().all(|node| node.config.graceful_restart > 0 || !node.routes) {
            self.calm(calm)?;
        }
        Ok(converged)
    }

    /// Plays acts at their instants from now on.
    fn play(&mut self, mut acts: Vec<(Duration, Act)>) -> Result<(), String> {
        let begin = self.world.now;
        acts.sort_by_key(|(at, _)| *at);
        for (at, act) in acts {
            self.until(begin + at)?;
            self.world.act(&act);
        }
        Ok(())
    }

    fn until(&mut self, end: Duration) -> Result<(), String> {
        self.world.run_until(end);
        self.world.broken.take().map_or(Ok(()), Err)
    }

    fn converge(&mut self) -> Result<(), String> {
        let from = self.world.now;
        let promised = self.world.nodes.iter().map(|node| node.config.graceful_restart).max().unwrap_or_default();
        let limit = from + BOUND + Duration::from_secs(promised.into());
        loop {
            self.until(self.world.now + Duration::from_secs(1))?;
            match oracle::check(&self.world) {
                Ok(()) => return Ok(()),
                Err(why) if self.world.now >= limit => return Err(format!("not converged: {why}")),
                Err(_) => {}
            }
        }
    }

    /// Nothing changes any more.
    fn stay(&mut self, time: Duration) -> Result<(), String> {
        let before = self.changes();
        self.until(self.world.now + time)?;
        oracle::check(&self.world).map_err(|why| format!("did not stay converged: {why}"))?;
        self.unchanged(&before, "without a reason")
    }

    /// Daemons restart within their time while nothing else happens: no kernel may notice.
    fn calm(&mut self, calm: &Calm) -> Result<(), String> {
        if let Some(dead) = calm.dead {
            self.world.crash(dead);
            let node = &self.world.nodes[dead].config;
            let gone = u64::from(node.graceful_restart) + 2 * u64::from(node.hold_time) + 30;
            self.until(self.world.now + Duration::from_secs(gone))?;
            self.converge().map_err(|why| format!("after the end of {}: {why}", self.world.nodes[dead].name))?;
        }
        let before = self.changes();
        self.world.reach = oracle::reach(&self.world);
        self.play(calm.acts.clone())?;
        self.until(self.world.now + Duration::from_secs(70))?;
        if calm.unseen {
            self.unchanged(&before, "by a graceful restart")?;
        }
        self.world.reach.clear();
        if let Some(dead) = calm.dead {
            self.world.start(dead);
        }
        self.converge().map_err(|why| format!("after restarts: {why}"))?;
        Ok(())
    }

    fn changes(&self) -> Vec<usize> {
        self.world.nodes.iter().map(|node| node.kernel.writes()).collect()
    }

    fn unchanged(&self, before: &[usize], why: &str) -> Result<(), String> {
        let nodes = self.world.nodes.iter().zip(before);
        match nodes.into_iter().find(|(node, before)| node.kernel.writes() != **before) {
            Some((node, before)) => {
                Err(format!("{}'s kernel was written to {} times {why}", node.name, node.kernel.writes() - before))
            }
            None => Ok(()),
        }
    }
}

/// Restarts that nobody may feel: no packet is lost.
struct Calm {
    /// A peer that is dead all the while
    dead: Option<usize>,
    acts: Vec<(Duration, Act)>,
    /// Nor does any table change
    unseen: bool,
}

impl Calm {
    fn draw(rng: &mut SmallRng, topology: &Topology) -> Self {
        let mut speakers: Vec<usize> = (0..topology.nodes.len()).filter(|n| topology.nodes[*n].routes).collect();
        let dead = (speakers.len() > 2 && rng.random_ratio(1, 4))
            .then(|| speakers.swap_remove(rng.random_range(0..speakers.len())));
        // What a neighbour has to tell is known to a node that passes it on only once that neighbour
        // is back: of those that restart together, such a node must be the last.
        let count = match topology.kind {
            Kind::Graph => 1,
            _ if rng.random_ratio(1, 2) => 1,
            _ => rng.random_range(1..=speakers.len()),
        };
        let chosen: Vec<usize> =
            (0..count).map(|_| speakers.swap_remove(rng.random_range(0..speakers.len()))).collect();
        let passes_on = |node: usize| {
            topology.nodes[node].config.peers.values().any(|peer| matches!(peer.export, ExportScope::Pools))
        };
        let together = count > 1 && chosen.iter().any(|node| passes_on(*node));
        let (hosts, others): (Vec<usize>, Vec<usize>) = chosen.into_iter().partition(|node| !passes_on(*node));

        let millis = |most: u64| Duration::from_millis(most);
        let mut last = Duration::ZERO;
        let mut acts = Vec::new();
        for node in hosts.into_iter().chain(others) {
            let mut from = millis(pick(rng, &[0, 0, 300, 4000, 40_000])).mul_f64(rng.random_range(0.1..1.0));
            let mut to = from + millis(pick(rng, &[30, 1000, 8000, 20_000])).mul_f64(rng.random_range(0.1..1.0));
            if together {
                to = (last + millis(300).mul_f64(rng.random_range(0.0..1.0))).max(millis(1000));
                from = to.mul_f64(rng.random_range(0.0..0.9));
                last = to;
            }
            // A peer that we may not dial must have noticed, or it is waited for too short.
            let passive = topology.nodes[node].config.peers.values().any(|peer| peer.passive);
            match rng.random_range(0..if passive { 2 } else { 3 }) {
                0 => acts.push((from, Act::Crash(node))),
                1 => acts.push((from, Act::Stop { node, graceful: true })),
                _ => {
                    // Nobody hears of its end.
                    for (port, _) in topology.fabric.ports.iter().enumerate().filter(|(_, port)| port.node == node) {
                        acts.push((from, Act::Mute { port, send: true, receive: true }));
                        acts.push((to, Act::Mute { port, send: false, receive: false }));
                    }
                    acts.push((from, Act::Crash(node)));
                }
            }
            acts.push((to, Act::Start(node)));
        }
        Self { dead, acts, unseen: count == 1 }
    }
}

fn describe(topology: &Topology, script: &[Group], without: &BTreeSet<usize>, calm: &Calm) -> String {
    let mut text = format!("{:?}, latency {:?}\n", topology.kind, topology.latency);
    for (index, node) in topology.nodes.iter().enumerate() {
        let config = &node.config;
        let subnets = config.subnets.iter().take(4);
        let ports = topology.fabric.ports.iter().filter(|port| port.node == index);
        let ports: Vec<String> = ports.map(|port| format!("{:?} on lan{}", port.addresses, port.lan)).collect();
        let peers: Vec<String> = config
            .peers
            .values()
            .map(|peer| format!("{}{}", peer.remote, if peer.passive { " (passive)" } else { "" }))
            .collect();
        let _ = writeln!(
            text,
            "  {index} {}{} AS{} id {} {:?}… {ports:?}, peers {peers:?}",
            node.name,
            if config.objects { " with objects" } else { "" },
            config.asn.0,
            config.router_id,
            subnets.collect::<Vec<_>>()
        );
    }
    if let Some(node) = topology.nodes.first() {
        let config = &node.config;
        let _ = writeln!(
            text,
            "  tunnel {:?} {:?}, multipath {}, graceful restart {}, hold {}, retry {:?}",
            config.tunnel,
            config.tunnel_device,
            config.multipath,
            config.graceful_restart,
            config.hold_time,
            config.connect_retry
        );
    }
    for (i, group) in script.iter().enumerate().filter(|(i, _)| !without.contains(i)) {
        let _ = writeln!(text, "  fault {i}: {group}");
    }
    let _ = writeln!(text, "  then, dead {:?}: {}", calm.dead, Group(calm.acts.clone()));
    text
}
