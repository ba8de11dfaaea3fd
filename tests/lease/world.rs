//! All hosts, the store between them, and one queue of events on one virtual clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use wayleave::cluster::claim::{Claim, Holder};
use wayleave::cluster::flannel::Range;
use wayleave::cluster::keys::{Key, Keys};
use wayleave::cluster::lease::{Ask, Lease, Me, Memory, Now, Said, Wanted};
use wayleave::cluster::mirror::Mirror;
use wayleave::cluster::node::Alive;
use wayleave::cluster::{Outcome, Write};
use wayleave::net::{Family, Prefix};

use crate::check;
use crate::host::{Host, Run};
use crate::script::{Act, Kind, Script, script};
use crate::store::Store;

const TTL: u64 = 30_000;
const TIMEOUT: u64 = 5_000;
/// All is healed, then this long until everybody must be content.
const HEALING: u64 = 240_000;
/// Then nothing may be written for this long.
const SILENCE: u64 = 60_000;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    pub steps: u64,
    pub writes: u64,
    pub took: u64,
    pub lost: u64,
    pub set_back: u64,
    pub refused: u64,
    pub unknown: u64,
    pub overlaps: u64,
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.writes += other.writes;
        self.took += other.took;
        self.lost += other.lost;
        self.set_back += other.set_back;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.overlaps += other.overlaps;
    }
}

enum What {
    Act(Act),
    /// News of the store
    Follow(usize, u32),
    /// A deadline of the machine
    Wake(usize, u32),
    /// A write arrives; whether its answer is lost
    Commit {
        host: usize,
        run: u32,
        write: Write,
        epoch: u32,
        answered: bool,
    },
    Answer(usize, u32, Outcome),
    /// A sign of life
    Beat(usize, u32),
    Expire(String),
}

pub struct World {
    /// Milliseconds since the start
    pub now: u64,
    start: Instant,
    pub kind: Kind,
    pub keys: Keys,
    pub store: Store,
    pub store_down: bool,
    pub hosts: Vec<Host>,
    /// When something happened last that may give a subnet two owners
    pub upset: u64,
    /// All that was ever claimed, since when and by whom
    claimed: Vec<(Prefix, u64, String)>,
    pool: u8,
    rng: SmallRng,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, What>,
    serial: u64,
    report: Report,
    /// Nothing goes wrong any more
    calm: bool,
    trace: bool,
    addresses: u32,
    old_disks: BTreeMap<usize, Memory>,
}

pub fn run(seed: u64, without: &BTreeSet<usize>, trace: bool) -> Result<Report, String> {
    let script = script(seed);
    let mut world = World::new(seed, &script, trace);
    let acts = script.acts.iter().enumerate().filter(|(index, _)| !without.contains(index));
    for (_, (at, act)) in acts {
        world.at(*at, What::Act(*act));
    }
    for host in 0..script.hosts {
        let at = world.rng.random_range(0..3000);
        world.at(at, What::Act(Act::Start(host)));
    }
    let end = script.acts.last().map_or(0, |(at, _)| *at).max(3000) + 1;
    world.until(end)?;
    world.heal();
    world.until(end + HEALING)?;
    check::settled(&world)?;
    let before = (world.store.writes, world.report.steps);
    world.until(end + HEALING + SILENCE)?;
    if world.store.writes != before.0 {
        return Err(format!("{} writes though nothing happens", world.store.writes - before.0));
    }
    let steps = world.report.steps - before.1;
    if steps > 400 {
        return Err(format!("{steps} steps though nothing happens"));
    }
    world.report.writes = world.store.writes;
    Ok(world.report)
}

impl World {
    fn new(seed: u64, script: &Script, trace: bool) -> Self {
        let mut world = Self {
            now: 0,
            start: Instant::now(),
            kind: script.kind,
            keys: Keys::new("/wayleave/network"),
            store: Store::new(),
            store_down: false,
            hosts: Vec::new(),
            upset: 0,
            claimed: Vec::new(),
            pool: script.pool,
            rng: SmallRng::seed_from_u64(seed ^ 0x5eed),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            serial: 0,
            report: Report::default(),
            calm: false,
            trace,
            addresses: 0,
            old_disks: BTreeMap::new(),
        };
        let mut ranges = vec![Range::new(world.ipv4_pool(), 24).unwrap()];
        if script.dual {
            ranges.push(Range::new("fd00::/61".parse().unwrap(), 64).unwrap());
        }
        let wanted = Wanted {
            ranges,
            per_family: script.per_family,
            reclaim_after: script.reclaim_after.map(Duration::from_secs),
            ttl: Duration::from_millis(TTL),
        };
        for index in 0..script.hosts {
            let me = Me { name: format!("host-{index}"), address: world.new_address() };
            let mut wanted = wanted.clone();
            if script.lengths && index % 2 == 1 {
                wanted.ranges[0] = Range::new(world.ipv4_pool(), 25 - index as u8 % 3).unwrap();
            }
            world.hosts.push(Host::new(me, wanted));
        }
        world
    }

    fn ipv4_pool(&self) -> Prefix {
        Prefix::new(Ipv4Addr::new(10, 64, 0, 0).into(), self.pool)
    }

    fn new_address(&mut self) -> IpAddr {
        self.addresses += 1;
        Ipv4Addr::from_bits(0xc000_0200 + self.addresses).into()
    }

    fn at(&mut self, time: u64, what: What) {
        self.serial += 1;
        self.queue.push(Reverse((time.max(self.now), self.serial)));
        self.events.insert(self.serial, what);
    }

    fn until(&mut self, end: u64) -> Result<(), String> {
        while let Some(&Reverse((time, serial))) = self.queue.peek()
            && time <= end
        {
            self.queue.pop();
            self.now = time;
            let Some(what) = self.events.remove(&serial) else { continue };
            self.happen(what)?;
            if self.report.steps > 200_000 {
                return Err("a busy loop".to_owned());
            }
        }
        self.now = end;
        Ok(())
    }

    fn tell(&self, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>8} r{:<4} {}", self.now, self.store.revision, text());
        }
    }

    fn happen(&mut self, what: What) -> Result<(), String> {
        match what {
            What::Act(act) => self.act(act)?,
            What::Follow(host, run) if self.runs(host, run) => self.follow(host)?,
            What::Wake(host, run) if self.runs(host, run) => {
                if self.hosts[host].run.as_ref().unwrap().wake == Some(self.now) {
                    self.step(host)?;
                }
            }
            What::Commit { host, run, write, epoch, answered } => self.commit(host, run, &write, epoch, answered),
            What::Answer(host, run, outcome) if self.runs(host, run) => {
                match outcome {
                    Outcome::Done(_) => {}
                    Outcome::Refused(_) => self.report.refused += 1,
                    Outcome::Unknown => self.report.unknown += 1,
                }
                self.tell(|| format!("{} is answered {outcome:?}", self.hosts[host].me.name));
                let now = self.time(host);
                self.hosts[host].run.as_mut().unwrap().lease.answered(now, outcome);
                self.step(host)?;
            }
            What::Beat(host, run) if self.runs(host, run) => {
                self.show(host);
                self.at(self.now + TTL / 3, What::Beat(host, run));
            }
            What::Expire(key) => {
                if self.store.leased.get(&key).is_some_and(|(until, _)| *until <= self.now) {
                    self.store.delete(&key);
                    self.news();
                }
            }
            // Of a run that is over.
            What::Follow(..) | What::Wake(..) | What::Answer(..) | What::Beat(..) => {}
        }
        Ok(())
    }

    fn runs(&self, host: usize, run: u32) -> bool {
        self.hosts[host].run.as_ref().is_some_and(|current| current.number == run)
    }

    fn time(&mut self, host: usize) -> Now {
        let unix = 1_700_000_000_i64 + (self.now / 1000).cast_signed() + self.hosts[host].clock;
        let at = self.start + Duration::from_millis(self.now);
        Now { at, unix: unix.cast_unsigned(), chance: self.rng.random() }
    }

    fn reaches(&self, host: usize) -> bool {
        !self.store_down && !self.hosts[host].cut
    }

    /// Whether a host hears of somebody else that he announces a subnet or a part of it.
    pub fn is_announced(&self, host: usize, subnet: &Prefix) -> bool {
        let others = self.hosts.iter().enumerate().filter(|(index, other)| *index != host && !other.isolated);
        !self.hosts[host].isolated && others.flat_map(|(_, other)| other.published()).any(|p| subnet.covers(p))
    }

    /// Something has changed in the store or in who reaches it: everybody hears of it, sooner or later.
    fn news(&mut self) {
        for host in 0..self.hosts.len() {
            let Some(run) = &mut self.hosts[host].run else { continue };
            if !std::mem::replace(&mut run.following, true) {
                let number = run.number;
                let delay = if self.rng.random_bool(0.1) { 2000 } else { 50 };
                let delay = self.rng.random_range(1..delay);
                self.at(self.now + delay, What::Follow(host, number));
            }
        }
    }

    fn follow(&mut self, index: usize) -> Result<(), String> {
        let reaches = self.reaches(index);
        let run = self.hosts[index].run.as_mut().unwrap();
        run.following = false;
        if !reaches {
            run.in_reach = None;
            run.mirror.lost();
        } else if !run.listed || run.relist || run.epoch != self.store.epoch {
            run.mirror.listed(self.store.listing(), self.store.revision);
            (run.listed, run.relist, run.epoch) = (true, false, self.store.epoch);
        } else {
            let events = self.store.after(run.mirror.revision());
            run.mirror.apply(events, self.store.revision);
        }
        if reaches {
            run.in_reach.get_or_insert(self.now);
        }
        self.step(index)
    }

    fn step(&mut self, index: usize) -> Result<(), String> {
        self.report.steps += 1;
        let now = self.time(index);
        let mut run = self.hosts[index].run.take().unwrap();
        let before = run.published.clone();
        let mirror = run.listed.then_some(&run.mirror);
        let step = run.lease.step(now, mirror, &|subnet| self.is_announced(index, subnet));
        let name = self.hosts[index].me.name.clone();
        for said in &step.said {
            self.tell(|| format!("{name}: {said}"));
            match said {
                Said::Took { .. } => self.report.took += 1,
                Said::Copied { .. } if self.kind != Kind::Wild => return Err(format!("{name}: {said}")),
                Said::SetBack { .. } => self.report.set_back += 1,
                Said::Lost { subnet, to } => {
                    self.report.lost += 1;
                    self.may_lose(index, subnet, to.as_deref())?;
                }
                _ => {}
            }
        }
        let number = run.number;
        // A crash between any two of what follows leaves what came before.
        if !self.calm && self.rng.random_bool(0.004) {
            self.hosts[index].run = Some(run);
            return self.act(Act::Crash(index));
        }
        if self.hosts[index].disk.as_ref() != Some(run.lease.memory()) {
            if self.hosts[index].disk_broken {
                if step.write.is_some() {
                    run.lease.answered(now, Outcome::Unknown);
                }
                run.wake = Some(self.now + 1000);
                self.hosts[index].run = Some(run);
                self.at(self.now + 1000, What::Wake(index, number));
                return Ok(());
            }
            self.hosts[index].disk = Some(run.lease.memory().clone());
        }
        run.published = run.lease.believed();
        if run.published != before {
            self.tell(|| format!("{name} believes in {:?}", run.published));
        }
        let in_store = run.listed;
        self.hosts[index].run = Some(run);
        if !self.calm && self.rng.random_bool(0.004) {
            return self.act(Act::Crash(index));
        }
        if let Some(write) = step.write {
            self.send(index, number, write);
        }
        if step.relist {
            let run = self.hosts[index].run.as_mut().unwrap();
            run.relist = true;
            if !std::mem::replace(&mut run.following, true) {
                let delay = self.rng.random_range(1..200);
                self.at(self.now + delay, What::Follow(index, number));
            }
        }
        if let Some(again) = step.again {
            let at = ((again - self.start).as_millis() as u64 + 1).max(self.now + 1);
            self.hosts[index].run.as_mut().unwrap().wake = Some(at);
            self.at(at, What::Wake(index, number));
        }
        if in_store {
            self.show(index);
        }
        let overlaps = check::owners(self);
        self.report.overlaps += u64::from(self.overlap());
        overlaps
    }

    fn overlap(&self) -> bool {
        let all: Vec<Prefix> = self.hosts.iter().flat_map(Host::published).copied().collect();
        all.iter().enumerate().any(|(index, p)| all[index + 1..].iter().any(|q| p.overlaps(q)))
    }

    /// Whether a host may lose a subnet that it had on disk.
    fn may_lose(&self, index: usize, subnet: &Prefix, to: Option<&str>) -> Result<(), String> {
        let name = &self.hosts[index].me.name;
        match self.kind {
            Kind::Calm => Err(format!("{name} lost {subnet} to {to:?}")),
            Kind::Wiped => {
                let disk = self.hosts[index].disk.as_ref().unwrap();
                // Under another name or address nothing shows that the disk is no copy.
                let suspect = disk.name != *name || disk.address != Some(self.hosts[index].me.address);
                let since = disk.held.iter().find(|held| held.subnet == *subnet).map(|held| held.since);
                // He may have given it away since.
                let mut owners = self.claimed.iter().filter(|(claimed, ..)| claimed.overlaps(subnet));
                let older = owners.any(|(_, at, node)| since.is_none_or(|since| (*at, node) < (since, name)));
                let foreign = to.is_some_and(|to| to.contains("vxlan"));
                let ok = suspect || older || foreign;
                ok.then_some(()).ok_or_else(|| format!("{name} lost {subnet} of {since:?} to {to:?}, who is younger"))
            }
            Kind::Wild => Ok(()),
        }
    }

    fn send(&mut self, host: usize, run: u32, write: Write) {
        let text = write.value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned());
        self.tell(|| format!("{} writes {} {:?} {text:?}", self.hosts[host].me.name, write.key, write.expect));
        let delay = self.rng.random_range(1..50);
        let answered = self.calm || !self.rng.random_bool(0.1);
        // Some arrive after they were given up.
        let late = if !answered && self.rng.random_bool(0.3) { self.rng.random_range(0..20_000) } else { 0 };
        if !answered {
            self.at(self.now + TIMEOUT, What::Answer(host, run, Outcome::Unknown));
        }
        let epoch = self.store.epoch;
        self.at(self.now + delay + late, What::Commit { host, run, write, epoch, answered });
    }

    fn commit(&mut self, host: usize, run: u32, write: &Write, epoch: u32, answered: bool) {
        let arrives = self.reaches(host) && epoch == self.store.epoch && (answered || self.rng.random_bool(0.8));
        let outcome = if arrives { self.store.commit(write) } else { Outcome::Unknown };
        if let Outcome::Done(_) = outcome {
            let claim = write.value.as_ref().and_then(|value| Claim::read(value).ok());
            if let (Some(Key::Subnets(subnets)), Some(claim)) = (self.keys.parse(&write.key), claim) {
                let owner = claim.owner().unwrap();
                self.claimed.extend(subnets.into_iter().map(|subnet| (subnet, owner.since, owner.node.clone())));
            }
            self.store.writes += 1;
            self.news();
        }
        if answered {
            let delay = if arrives { self.rng.random_range(1..50) } else { TIMEOUT };
            self.at(self.now + delay, What::Answer(host, run, outcome));
        }
    }

    /// What the daemon says of itself in the store.
    fn show(&mut self, index: usize) {
        if !self.reaches(index) {
            return;
        }
        let host = &mut self.hosts[index];
        let run = host.run.as_mut().unwrap();
        let key = self.keys.alive(&host.me.name);
        let token = (index, run.number);
        let ours = self.store.leased.get(&key).is_some_and(|(_, whose)| *whose == token);
        if !run.lease.may_show() {
            if ours {
                self.store.delete(&key);
                self.news();
            }
            return;
        }
        let id = run.lease.id().to_owned();
        let record = self.keys.node(&host.me.name);
        let mut news = false;
        if run.recorded.as_ref() != Some(&id) || !self.store.entries.contains_key(&record) {
            let (name, address) = (&host.me.name, host.me.address);
            self.store.put(&record, format!(r#"{{"id":"{id}","address":"{address}","asn":1,"router_id":"192.0.2.1","port":179,"version":"{name}"}}"#).into_bytes());
            run.recorded = Some(id.clone());
            news = true;
        }
        let alive = Alive { id, address: host.me.address, since: 7 };
        let value = serde_json::to_vec(&alive).unwrap();
        if !ours || self.store.entries.get(&key).is_none_or(|entry| entry.value != value) {
            self.store.put(&key, value);
            news = true;
        }
        self.store.leased.insert(key.clone(), (self.now + TTL, token));
        self.at(self.now + TTL, What::Expire(key));
        if news {
            self.news();
        }
    }

    fn stop(&mut self, index: usize, clean: bool) {
        let Some(run) = self.hosts[index].run.take() else { return };
        let key = self.keys.alive(&self.hosts[index].me.name);
        let ours = self.store.leased.get(&key).is_some_and(|(_, whose)| *whose == (index, run.number));
        if clean && ours && self.reaches(index) {
            self.store.delete(&key);
            self.news();
        }
    }

    fn start(&mut self, index: usize) -> Result<(), String> {
        if self.hosts[index].run.is_some() {
            return Ok(());
        }
        let id: u128 = self.rng.random();
        let host = &mut self.hosts[index];
        host.runs += 1;
        let memory = host.disk.clone().unwrap_or_else(|| Memory::new(format!("{id:032x}")));
        let mut lease = Lease::new(host.me.clone(), memory);
        lease.set_wanted(host.wanted.clone());
        let number = host.runs;
        host.run = Some(Run {
            number,
            lease,
            mirror: Mirror::new(self.keys.clone()),
            listed: false,
            relist: false,
            epoch: 0,
            following: true,
            published: Vec::new(),
            recorded: None,
            wake: None,
            in_reach: None,
        });
        let delay = self.rng.random_range(1..500);
        self.at(self.now + delay, What::Follow(index, number));
        self.at(self.now + TTL / 3, What::Beat(index, number));
        self.step(index)
    }

    /// An operator's word to the daemon of a host.
    fn request(
        &mut self,
        index: usize,
        what: impl FnOnce(&mut Lease, Option<&Mirror>, &dyn Fn(&Prefix) -> bool),
    ) -> Result<(), String> {
        let Some(mut run) = self.hosts[index].run.take() else { return Ok(()) };
        let mirror = run.listed.then_some(&run.mirror);
        what(&mut run.lease, mirror, &|subnet| self.is_announced(index, subnet));
        self.hosts[index].run = Some(run);
        self.step(index)
    }

    fn some_subnet(&self, which: usize) -> Prefix {
        let range = Range::new(self.ipv4_pool(), 24).unwrap();
        range.nth(which as u128 % range.count()).unwrap()
    }

    fn act(&mut self, act: Act) -> Result<(), String> {
        self.tell(|| format!("{act:?}"));
        let count = self.hosts.len();
        match act {
            Act::Start(host) => self.start(host % count)?,
            Act::Stop(host) => self.stop(host % count, true),
            Act::Crash(host) => self.stop(host % count, false),
            Act::LoseDisk(host) => {
                self.stop(host % count, false);
                self.hosts[host % count].disk = None;
            }
            Act::Cut(host) => {
                self.hosts[host % count].cut = true;
                self.news();
            }
            Act::Heal(host) => {
                self.hosts[host % count].cut = false;
                self.news();
            }
            Act::Isolate(host) => {
                (self.hosts[host % count].isolated, self.hosts[host % count].cut) = (true, true);
                self.news();
            }
            Act::Join(host) => {
                (self.hosts[host % count].isolated, self.hosts[host % count].cut) = (false, false);
                self.news();
            }
            Act::BreakDisk(host) => self.hosts[host % count].disk_broken = true,
            Act::MendDisk(host) => self.hosts[host % count].disk_broken = false,
            Act::StoreDown | Act::StoreUp => {
                self.store_down = matches!(act, Act::StoreDown);
                self.news();
            }
            Act::NewAddress(host) => {
                self.stop(host % count, self.now.is_multiple_of(2));
                self.hosts[host % count].me.address = self.new_address();
                self.start(host % count)?;
            }
            Act::Rename(host) => {
                self.stop(host % count, self.now.is_multiple_of(2));
                let name = format!("{}x", self.hosts[host % count].me.name);
                if self.hosts.iter().all(|other| other.me.name != name) {
                    self.hosts[host % count].me.name = name;
                }
            }
            Act::Clock(host, by) => self.hosts[host % count].clock += by,
            Act::Release(host, which) => {
                let held = self.hosts[host % count].published().to_vec();
                if let Some(subnet) = held.get(which % held.len().max(1)) {
                    self.request(host % count, |lease, mirror, _| drop(lease.release(Some(*subnet), mirror)))?;
                }
            }
            Act::Leave(host) => {
                self.request(host % count, |lease, mirror, _| drop(lease.release(None, mirror)))?;
            }
            Act::Another(host) => self.request(host % count, |lease, mirror, _| {
                drop(lease.ask(Ask::Another(Family::Ipv4), mirror));
            })?,
            Act::AskFor(host, which) => {
                let subnet = self.some_subnet(which);
                self.request(host % count, |lease, mirror, _| drop(lease.ask(Ask::Subnet(subnet), mirror)))?;
            }
            Act::Reserve(host, which, node) => {
                let subnet = self.some_subnet(which);
                let node = self.hosts[node % count].me.name.clone();
                self.request(host % count, |lease, mirror, _| drop(lease.reserve(subnet, &node, mirror)))?;
            }
            Act::Unreserve(host, which) => {
                let reserved = check::claims(self).into_iter().filter(|(_, claim)| claim.reserved().is_some());
                let reserved: Vec<Prefix> = reserved.map(|((subnet, _), _)| subnet).collect();
                if let Some(subnet) = reserved.get(which % reserved.len().max(1)) {
                    self.request(host % count, |lease, mirror, _| drop(lease.release(Some(*subnet), mirror)))?;
                }
            }
            Act::GrowPool => {
                self.pool = self.pool.saturating_sub(1).max(18);
                for index in 0..count {
                    let pool = self.ipv4_pool();
                    let host = &mut self.hosts[index];
                    let len = host.wanted.ranges[0].subnet_len;
                    host.wanted.ranges[0] = Range::new(pool, len).unwrap();
                    self.configure(index)?;
                }
            }
            Act::OtherLength(host, len) => {
                let pool = self.ipv4_pool();
                self.hosts[host % count].wanted.ranges[0] = Range::new(pool, len).unwrap();
                self.configure(host % count)?;
            }
            Act::WantMore(host) => {
                self.hosts[host % count].wanted.per_family += 1;
                self.configure(host % count)?;
            }
            Act::Flannel(host, which, dual) => self.flannel(host % count, which, dual),
            Act::Import(host, of) => {
                let (node, address) = (self.hosts[of % count].me.name.clone(), self.hosts[of % count].me.address);
                self.request(host % count, |lease, mirror, _| drop(lease.import(&node, address, mirror)))?;
            }
            other => self.upset(other)?,
        }
        Ok(())
    }

    fn configure(&mut self, index: usize) -> Result<(), String> {
        let wanted = self.hosts[index].wanted.clone();
        self.request(index, |lease, _, _| lease.set_wanted(wanted))
    }

    /// flannel has a subnet for a host, if it finds one that is free.
    fn flannel(&mut self, host: usize, which: usize, dual: bool) {
        let mut subnets = vec![self.some_subnet(which)];
        if dual {
            subnets.push(Range::new("fd00::/61".parse().unwrap(), 64).unwrap().nth(which as u128 % 8).unwrap());
        }
        let claims = check::claims(self);
        let taken = |subnet: &Prefix| {
            claims.keys().any(|(claimed, _)| claimed.overlaps(subnet))
                || self.hosts.iter().any(|host| host.kept().iter().any(|kept| kept.overlaps(subnet)))
        };
        if self.store_down || subnets.iter().any(taken) {
            return;
        }
        let halves: Vec<String> = subnets.iter().map(|subnet| format!("{}-{}", subnet.addr(), subnet.len())).collect();
        let key = format!("/wayleave/network/subnets/{}", halves.join("&"));
        let address = Some(self.hosts[host].me.address);
        let claim = Claim { holder: Holder::Other("vxlan".to_owned()), address, second: None };
        self.store.put(&key, claim.write());
        self.news();
    }

    /// What may give a subnet two owners.
    fn upset(&mut self, act: Act) -> Result<(), String> {
        let count = self.hosts.len();
        self.upset = self.now;
        match act {
            Act::Snapshot => self.store.snapshot(),
            Act::Wipe => self.store.wipe(),
            Act::Restore(which, bump) => {
                self.store.restore(which, bump, self.now + TTL);
                let alive: Vec<String> = self.store.leased.keys().cloned().collect();
                for key in alive {
                    self.at(self.now + TTL, What::Expire(key));
                }
            }
            Act::Reclaim(host, which, force) => {
                let subnets: Vec<Prefix> = check::claims(self).into_keys().map(|(subnet, _)| subnet).collect();
                if let Some(subnet) = subnets.get(which % subnets.len().max(1)) {
                    self.request(host % count, |lease, mirror, announced| {
                        drop(lease.reclaim(*subnet, force, mirror, announced));
                    })?;
                }
            }
            Act::ReclaimNode(host, of, force) => {
                let node = self.hosts[of % count].me.name.clone();
                self.request(host % count, |lease, mirror, announced| {
                    drop(lease.reclaim_node(&node, force, mirror, announced));
                })?;
            }
            Act::DeleteByHand(which) => {
                let claims =
                    self.store.entries.keys().filter(|key| matches!(self.keys.parse(key), Some(Key::Subnets(_))));
                let claims: Vec<String> = claims.cloned().collect();
                if let Some(key) = claims.get(which % claims.len().max(1)) {
                    self.store.delete(key);
                }
            }
            Act::DeleteGeneration => self.store.delete(&self.keys.generation()),
            Act::CopyDisk(from, to) if from % count != to % count => {
                self.stop(to % count, false);
                self.hosts[to % count].disk = self.hosts[from % count].disk.clone();
                self.start(to % count)?;
            }
            Act::CopyName(from, to) => {
                let me = Me { name: self.hosts[from % count].me.name.clone(), ..self.hosts[to % count].me.clone() };
                self.reinstall(to % count, me)?;
            }
            Act::CopyAddress(from, to) => {
                let me = Me { address: self.hosts[from % count].me.address, ..self.hosts[to % count].me.clone() };
                self.reinstall(to % count, me)?;
            }
            Act::OldDisk(host) => {
                let disk = self.hosts[host % count].disk.clone();
                match (self.old_disks.remove(&(host % count)), disk) {
                    (Some(old), _) => {
                        self.stop(host % count, false);
                        self.hosts[host % count].disk = Some(old);
                    }
                    (None, Some(disk)) => drop(self.old_disks.insert(host % count, disk)),
                    (None, None) => {}
                }
            }
            _ => {}
        }
        self.news();
        Ok(())
    }

    /// A host gets another name or address. Two of one name at one address are one host to everybody: not that.
    fn reinstall(&mut self, index: usize, me: Me) -> Result<(), String> {
        if self.hosts.iter().any(|host| host.me == me) {
            return Ok(());
        }
        self.stop(index, false);
        self.hosts[index].me = me;
        self.start(index)
    }

    /// Nothing goes wrong from now on.
    fn heal(&mut self) {
        self.calm = true;
        self.upset = self.now;
        self.store_down = false;
        for host in &mut self.hosts {
            (host.cut, host.isolated, host.disk_broken) = (false, false, false);
        }
        for host in 0..self.hosts.len() {
            let at = self.now + self.rng.random_range(0..3000);
            self.at(at, What::Act(Act::Start(host)));
        }
        self.tell(|| "all is healed".to_owned());
        self.news();
    }
}
