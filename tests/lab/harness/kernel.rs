//! What the kernel says about routes, asked through `ip`: not through the code under test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::{Lab, Netns, Process, holds};

/// The protocol number that marks our routes.
pub const PROTOCOL: &str = "87";

/// One way out of a route.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Hop {
    /// Next router; `None`: the destination itself is on the link
    pub gateway: Option<String>,
    /// Device; empty for a blackhole
    pub device: String,
}

/// A route with its nexthop objects resolved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// `unicast`, `blackhole` …
    pub kind: String,
    /// Ways out, sorted
    pub hops: Vec<Hop>,
}

impl Route {
    /// The gateways, sorted.
    pub fn gateways(&self) -> Vec<&str> {
        self.hops.iter().filter_map(|hop| hop.gateway.as_deref()).collect()
    }

    /// The devices, sorted by gateway.
    pub fn devices(&self) -> Vec<&str> {
        self.hops.iter().map(|hop| hop.device.as_str()).collect()
    }
}

/// All routes of ours in the main table, both families, by prefix.
pub fn our_routes(space: &Netns) -> BTreeMap<String, Route> {
    let objects = nexthop_objects(space);
    let mut routes = BTreeMap::new();
    for (family, host) in [("-4", "/32"), ("-6", "/128")] {
        // Only what is shown with its type is sure to be a blackhole.
        for item in space.ip_json(&format!("{family} -d route show proto {PROTOCOL}")) {
            let prefix = canonical(item["dst"].as_str().unwrap(), family, host);
            let route = resolve(&item, &objects);
            routes
                .entry(prefix)
                // IPv6 shows a multipath route as several in some versions of `ip`.
                .and_modify(|known: &mut Route| {
                    known.hops.extend(route.hops.clone());
                    known.hops.sort();
                })
                .or_insert(route);
        }
    }
    routes
}

/// Our route to exactly this prefix.
pub fn our_route(space: &Netns, prefix: &str) -> Option<Route> {
    our_routes(space).remove(prefix)
}

/// `ip` leaves out the length of a host route and calls the empty prefix `default`.
fn canonical(shown: &str, family: &str, host: &str) -> String {
    match shown {
        "default" if family == "-6" => "::/0".to_owned(),
        "default" => "0.0.0.0/0".to_owned(),
        whole if whole.contains('/') => whole.to_owned(),
        address => format!("{address}{host}"),
    }
}

fn resolve(item: &Value, objects: &BTreeMap<u64, Value>) -> Route {
    let mut hops = Vec::new();
    let mut kind = item["type"].as_str().unwrap_or("unicast").to_owned();
    if let Some(id) = item["nhid"].as_u64() {
        collect(id, objects, &mut hops);
        if objects.get(&id).is_some_and(|object| object.get("blackhole").is_some()) {
            "blackhole".clone_into(&mut kind);
        }
    } else if let Some(list) = item["nexthops"].as_array() {
        hops.extend(list.iter().map(hop));
    } else if item.get("dev").is_some() && kind == "unicast" {
        hops.push(hop(item));
    }
    hops.sort();
    Route { kind, hops }
}

fn collect(id: u64, objects: &BTreeMap<u64, Value>, hops: &mut Vec<Hop>) {
    let Some(object) = objects.get(&id) else { return };
    if let Some(buckets) = object["buckets"].as_array() {
        // A member without buckets takes over when the others go; until then nothing is sent there.
        for member in buckets.iter().filter_map(Value::as_u64) {
            collect(member, objects, hops);
        }
    } else if let Some(group) = object["group"].as_array() {
        for member in group.iter().filter_map(|member| member["id"].as_u64()) {
            collect(member, objects, hops);
        }
    } else if object.get("blackhole").is_none() {
        hops.push(hop(object));
    }
}

fn hop(item: &Value) -> Hop {
    let gateway = item["gateway"].as_str().or_else(|| item["via"]["host"].as_str());
    Hop { gateway: gateway.map(str::to_owned), device: item["dev"].as_str().unwrap_or_default().to_owned() }
}

/// Nexthop objects by number; a resilient group has the members that its `buckets` name, once each.
pub fn nexthop_objects(space: &Netns) -> BTreeMap<u64, Value> {
    let objects = space.ip_json("nexthop show");
    let mut objects: BTreeMap<u64, Value> =
        objects.into_iter().filter_map(|object| Some((object["id"].as_u64()?, object))).collect();
    let mut buckets: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for item in space.ip_json("nexthop bucket show") {
        if let (Some(group), Some(member)) = (item["id"].as_u64(), item["bucket"]["nhid"].as_u64()) {
            buckets.entry(group).or_default().insert(member);
        }
    }
    for (group, members) in buckets {
        if let Some(object) = objects.get_mut(&group) {
            object["buckets"] = members.into_iter().collect();
        }
    }
    objects
}

/// A recording of what happens to the routes of a namespace, by `ip monitor`.
pub struct Monitor {
    process: Process,
    space: Netns,
    marks: u32,
}

impl Monitor {
    /// Starts to record.
    pub fn start(lab: &Lab, space: &Netns) -> Self {
        let args = ["-o", "monitor", "route", "nexthop"];
        let process = Process::start(lab, space, &format!("monitor-{}", space.short()), "ip", &args, &[]);
        let mut monitor = Self { process, space: space.clone(), marks: 0 };
        monitor.mark();
        // What came before the first mark was before the recording.
        monitor.events();
        monitor
    }

    /// Makes an event of its own and waits for it: after it nothing that came before is missing.
    fn mark(&mut self) {
        self.marks += 1;
        let marker = format!("198.18.255.{}", self.marks);
        let Self { process, space, .. } = self;
        // Repeated until seen, because the first may come before the monitor listens.
        holds("the monitor sees the marker", Duration::from_secs(10), || {
            space.ip(&format!("route replace blackhole {marker} proto 99"));
            space.ip(&format!("route del blackhole {marker} proto 99"));
            process.log().contains(&marker)
        });
    }

    /// Events for routes and nexthops that are ours, since the start or the last call.
    pub fn events(&mut self) -> Vec<String> {
        self.mark();
        let path = self.process.log_path().to_owned();
        let text = fs::read_to_string(&path).unwrap_or_default();
        // The monitor appends, so what has been read can be cut away.
        fs::write(&path, "").unwrap();
        text.lines()
            .filter(|line| line.contains(&format!("proto {PROTOCOL}")) || line.contains("proto wayleave"))
            .map(str::to_owned)
            .collect()
    }
}
