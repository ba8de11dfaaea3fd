//! What is promised, looked at from outside.

use std::collections::BTreeMap;

use wayleave::cluster::claim::Claim;
use wayleave::cluster::keys::Key;
use wayleave::cluster::lease::Why;
use wayleave::net::Prefix;

use crate::script::Kind;
use crate::world::World;

/// Two hosts that see the store are of one mind within this time: some requests without an answer, some pauses.
const OF_ONE_MIND: u64 = 60_000;

/// After each step: nobody believes in what another believes in.
pub fn owners(world: &mut World) -> Result<(), String> {
    for a in 0..world.hosts.len() {
        for b in a + 1..world.hosts.len() {
            let both = |world: &World| {
                let theirs = world.hosts[b].published();
                let mine = world.hosts[a].published();
                mine.iter().find(|p| theirs.iter().any(|q| p.overlaps(q))).copied()
            };
            let Some(subnet) = both(world) else { continue };
            let (x, y) = (&world.hosts[a].me.name, &world.hosts[b].me.name);
            let text = format!("{x} and {y} both believe in {subnet}");
            if world.kind == Kind::Calm {
                return Err(text);
            }
            let sees = |host: usize| {
                let run = world.hosts[host].run.as_ref()?;
                let blocked = run.lease.state(None).blocked.is_some();
                run.in_reach.filter(|_| !blocked && !world.store_down && !world.hosts[host].disk_broken)
            };
            if let (Some(since_a), Some(since_b)) = (sees(a), sees(b))
                && world.now.saturating_sub(since_a.max(since_b).max(world.upset)) > OF_ONE_MIND
            {
                return Err(format!("{text} though both see the store"));
            }
        }
    }
    Ok(())
}

/// All claims of the store, by subnet.
pub fn claims(world: &World) -> BTreeMap<(Prefix, String), Claim> {
    let mut claims = BTreeMap::new();
    for (key, entry) in &world.store.entries {
        if let Some(Key::Subnets(subnets)) = world.keys.parse(key) {
            let claim = Claim::read(&entry.value).unwrap();
            claims.extend(subnets.into_iter().map(|subnet| ((subnet, key.clone()), claim.clone())));
        }
    }
    claims
}

/// When all was healed and much time has passed.
pub fn settled(world: &World) -> Result<(), String> {
    let claims = claims(world);
    for (index, host) in world.hosts.iter().enumerate() {
        let Some(run) = &host.run else { return Err(format!("{} does not run", host.me.name)) };
        let name = &host.me.name;
        let state = run.lease.state(Some(&run.mirror));
        if run.mirror.revision() != world.store.revision {
            return Err(format!("{name} sees revision {} of {}", run.mirror.revision(), world.store.revision));
        }
        if state.blocked.is_some() {
            if world.kind != Kind::Wild {
                return Err(format!("{name} is blocked: {:?}", state.blocked));
            }
            continue;
        }
        let held: Vec<Prefix> = state.held.iter().map(|held| held.subnet).collect();
        if held != run.published || host.kept() != held {
            return Err(format!("{name} holds {held:?}, announces {:?}, keeps {:?}", run.published, host.kept()));
        }
        for subnet in &held {
            let claim = claims.get(&(*subnet, world.keys.subnet(subnet)));
            let owner = claim.and_then(Claim::owner);
            if owner.is_none_or(|owner| owner.node != *name || owner.id != run.lease.id()) {
                return Err(format!("{name} holds {subnet}, and the store has {claim:?}"));
            }
            if !claim.is_some_and(|claim| claim.is_at(host.address())) {
                return Err(format!("{name} is at {}, and the store has {claim:?}", host.address()));
            }
        }
        for ((subnet, _), claim) in &claims {
            let its = claim.owner().is_some_and(|owner| owner.node == *name && owner.id == run.lease.id());
            if its && !held.contains(subnet) {
                return Err(format!("{name} does not hold {subnet}, which the store says is its"));
            }
        }
        for wanting in &state.wanting {
            if wanting.why != Why::Exhausted {
                return Err(format!("{name} still wants {wanting:?}"));
            }
            let ranges = host.wanted.ranges.iter().filter(|range| range.pool.family() == wanting.family);
            let mut all = ranges.flat_map(|range| (0..range.count().min(300)).filter_map(|place| range.nth(place)));
            let free = all.find(|subnet| {
                !claims.keys().any(|(claimed, _)| claimed.overlaps(subnet))
                    && !world.is_announced(index, subnet)
                    && !run.lease.memory().released.contains(subnet)
            });
            if let Some(free) = free {
                return Err(format!("{name} wants {wanting:?} and {free} is free"));
            }
        }
    }
    Ok(())
}
