//! Dashboards and alerts against a real Prometheus that scrapes real agents, when all is well and when it is not.
//!
//! Grafana itself is not here: its part, filling in variables and taking labels for legends and columns, is done by
//! [`model`] and [`Shown`], and what it would draw is asked of Prometheus query by query.

mod model;
mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::harness::prometheus::Prometheus;
use crate::harness::{announce, holds, kernel_has_ipip};
use model::{Dashboard, filled, legend_labels, targets, title};
use scene::Scene;

/// Until what happened is scraped, judged and seen: seconds, but on a machine that does much else.
const SEEN: Duration = Duration::from_secs(60);

/// How far back a graph looks here.
const WINDOW: u64 = 20;

/// Panels without a line when all is well: they list what is not.
const QUIET: [(&str, &str); 11] = [
    ("wayleave-fleet", "Alerts"),
    ("wayleave-fleet", "Alerts that fire"),
    ("wayleave-fleet", "Peers that are down"),
    ("wayleave-fleet", "Nodes that were not well"),
    ("wayleave-fleet", "Sessions that were down"),
    ("wayleave-fleet", "Prefixes rejected, by reason"),
    ("wayleave-node", "Alerts"),
    ("wayleave-node", "Prefixes rejected"),
    ("wayleave-node", "Sessions lost"),
    ("wayleave-peer", "Alerts"),
    ("wayleave-peer", "Prefixes rejected"),
];

/// What needs a tunnel, and with it a kernel that has IP-in-IP.
const TUNNEL: [&str; 3] =
    ["wayleave_tunnel_up", "wayleave_tunnel_errors_total", "wayleave_firewall_refused_packets_total"];

/// What needs firewalld.
const FIREWALLD: &str = "wayleave_firewalld_rejects";

/// A panel of a dashboard and one of its queries.
type Place = (String, String, String);

/// What the panels of a dashboard show for a choice of its variables.
struct Shown(BTreeMap<Place, usize>);

impl Shown {
    /// Asks every query of every panel. Whatever comes must have the labels that legend and columns name.
    fn of(prometheus: &Prometheus, dashboard: &Dashboard, variables: &[(&str, &str)]) -> Self {
        let job = all(prometheus, dashboard, "job");
        let variables: BTreeMap<&str, &str> = variables.iter().copied().chain([("job", job.as_str())]).collect();
        let mut shown = BTreeMap::new();
        for panel in dashboard.panels() {
            for target in targets(panel) {
                let place =
                    (dashboard.uid().to_owned(), title(panel).to_owned(), target["refId"].as_str().unwrap().to_owned());
                let expr = filled(target["expr"].as_str().unwrap(), &variables);
                let result = match target["instant"].as_bool() {
                    Some(true) => prometheus.instant(&expr),
                    _ => prometheus.range(&expr, WINDOW),
                };
                let result = result.unwrap_or_else(|error| panic!("{place:?}: {expr}\n{error}"));
                for series in &result {
                    fits(&place, panel, target, series);
                }
                shown.insert(place, result.iter().filter(|series| has_number(series)).count());
            }
        }
        Self(shown)
    }

    fn empty(&self) -> impl Iterator<Item = &Place> {
        self.0.iter().filter(|(_, count)| **count == 0).map(|(place, _)| place)
    }

    fn full(&self) -> impl Iterator<Item = &Place> {
        self.0.iter().filter(|(_, count)| **count > 0).map(|(place, _)| place)
    }
}

/// Whether there is anything to draw: the ratio of nothing to nothing is no number.
fn has_number(series: &Value) -> bool {
    let points = series["values"].as_array().map_or_else(|| vec![series["value"].clone()], Clone::clone);
    points.iter().any(|point| point[1].as_str().unwrap().parse::<f64>().unwrap().is_finite())
}

/// Whether a series has the labels that its panel shows.
fn fits(place: &Place, panel: &Value, target: &Value, series: &Value) {
    let labels = series["metric"].as_object().unwrap();
    for label in legend_labels(target) {
        assert!(labels.contains_key(label), "{place:?}: the legend names {label}: {series}");
    }
    let organize = panel["transformations"].as_array().into_iter().flatten().find(|step| step["id"] == "organize");
    if let Some(columns) = organize.and_then(|step| step["options"]["indexByName"].as_object()) {
        // Not every alert is one of a peer or of one node.
        let wanted = columns.keys().filter(|name| !name.starts_with("Value") && place.1 != "Alerts");
        for column in wanted {
            assert!(labels.contains_key(column), "{place:?}: a column is {column}: {series}");
        }
    }
}

struct Watch {
    prometheus: Prometheus,
    dashboards: Vec<Dashboard>,
}

impl Watch {
    fn dashboard(&self, uid: &str) -> &Dashboard {
        self.dashboards.iter().find(|dashboard| dashboard.uid() == uid).unwrap()
    }

    fn shown(&self, uid: &str, variables: &[(&str, &str)]) -> Shown {
        Shown::of(&self.prometheus, self.dashboard(uid), variables)
    }

    /// The number that a panel shows.
    fn number(&self, uid: &str, panel: &str, variables: &[(&str, &str)]) -> Option<f64> {
        let dashboard = self.dashboard(uid);
        let panel = dashboard.panels().find(|made| title(made) == panel).unwrap_or_else(|| panic!("{panel}"));
        let job = all(&self.prometheus, dashboard, "job");
        let variables = variables.iter().copied().chain([("job", job.as_str())]).collect();
        self.prometheus.value(&filled(targets(panel)[0]["expr"].as_str().unwrap(), &variables))
    }

    /// Waits until the fleet's page shows these numbers.
    fn fleet_shows(&self, wanted: &[(&str, f64)]) {
        for (panel, number) in wanted {
            let mut last = None;
            holds(&format!("{panel} is {number}"), SEEN, || {
                let now = self.number("wayleave-fleet", panel, &[("instance", ".+")]);
                if now != last {
                    announce(&format!("{panel}: {now:?}, wanted {number}"));
                    last = now;
                }
                now == Some(*number)
            });
        }
    }

    /// Waits until a node's page shows this number.
    fn node_shows(&self, node: &str, panel: &str, number: f64) {
        holds(&format!("{node}: {panel} is {number}"), SEEN, || {
            self.number("wayleave-node", panel, &[("instance", node)]) == Some(number)
        });
    }

    /// Alerts that fire, as (name, instance or nothing). What they say must have its values.
    fn firing(&self) -> BTreeSet<(String, String)> {
        let answer = self.prometheus.get("alerts", &[]).unwrap();
        let alerts = answer["alerts"].as_array().unwrap();
        for alert in alerts {
            for text in alert["annotations"].as_object().unwrap().values().map(|text| text.as_str().unwrap()) {
                assert!(!text.contains("<no value>") && !text.contains("<error"), "{alert}");
            }
        }
        let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
        let fires = alerts.iter().filter(|alert| alert["state"] == "firing");
        fires.map(|alert| (label(alert, "alertname"), label(alert, "instance"))).collect()
    }

    /// The values that a variable offers.
    fn offers(&self, uid: &str, variable: &str, chosen: &[(&str, &str)]) -> BTreeSet<String> {
        let dashboard = self.dashboard(uid);
        let job = all(&self.prometheus, dashboard, "job");
        offers(&self.prometheus, dashboard, variable, &chosen.iter().copied().chain([("job", job.as_str())]).collect())
    }
}

/// The values that a variable offers, if others are these.
fn offers(
    prometheus: &Prometheus,
    dashboard: &Dashboard,
    variable: &str,
    chosen: &BTreeMap<&str, &str>,
) -> BTreeSet<String> {
    let variables = dashboard.variables();
    let (_, query) = variables.iter().find(|(name, _)| *name == variable).unwrap();
    let query = filled(query, chosen);
    let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
    let (selector, label) = inner.rsplit_once(", ").unwrap();
    let values = prometheus.get(&format!("label/{label}/values"), &[("match[]", selector)]).unwrap();
    values.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// What Grafana fills in for *All* of a variable that depends on no other: its own pattern, or else all that it offers.
fn all(prometheus: &Prometheus, dashboard: &Dashboard, variable: &str) -> String {
    dashboard.all_value(variable).map_or_else(
        || {
            let offered = offers(prometheus, dashboard, variable, &BTreeMap::new());
            format!("({})", offered.into_iter().collect::<Vec<_>>().join("|"))
        },
        str::to_owned,
    )
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(ToString::to_string).collect()
}

/// Everything that any dashboard asks is answered, in peace or in trouble, and trouble is told.
#[test]
fn every_panel_has_data_and_trouble_is_seen() {
    // As an operator loads them, but for the patience.
    let rules = model::text("grafana/alerts/wayleave.yml");
    let impatient: Vec<String> = rules
        .lines()
        .map(|line| if line.trim_start().starts_with("for: ") { "        for: 2s".to_owned() } else { line.to_owned() })
        .collect();
    let mut scene = Scene::start();
    let prometheus = scene.prometheus(&impatient.join("\n"));
    let watch = Watch { prometheus, dashboards: Dashboard::all() };
    scene.settle();

    let all = [("instance", ".+")];
    let mut seen: BTreeSet<Place> = BTreeSet::new();
    watch.fleet_shows(&[("Nodes in the network", 3.0), ("Peers down", 0.0), ("Mesh sessions missing", 0.0)]);
    holds("no alert", SEEN, || watch.firing().is_empty());
    variables_offer_what_there_is(&watch);
    scene.churn();
    let quiet = |place: &&Place| !QUIET.contains(&(place.0.as_str(), place.1.as_str()));
    let in_peace = || {
        [
            watch.shown("wayleave-fleet", &all),
            watch.shown("wayleave-node", &[("instance", "h0")]),
            watch.shown("wayleave-peer", &[("instance", ".+"), ("peer", "tor-a")]),
        ]
    };
    let mut lacking = BTreeSet::new();
    let absent = absent_panels(&watch);
    for _ in 0..30 {
        let shown = in_peace();
        seen.extend(shown.iter().flat_map(|shown| shown.full().cloned()));
        lacking = shown.iter().flat_map(|shown| shown.empty().filter(quiet).cloned()).collect();
        // Time passes between two looks, and what moved once lies still again.
        lacking.retain(|place| !absent.contains(place) && !seen.contains(place));
        if lacking.is_empty() {
            break;
        }
        crate::harness::wait::pause(Duration::from_secs(1));
    }
    assert_eq!(lacking, BTreeSet::new(), "no data though all is well");
    let wrong =
        ["Pages", "Tickets", "Nodes that don't answer", "Nodes not ready", "Nodes cut off", "Duels", "Files refused"];
    watch.fleet_shows(&wrong.map(|panel| (panel, 0.0)));
    watch.node_shows("h0", "State", 6.0);
    let busiest = "max(rate(wayleave_process_cpu_seconds_total[10s]))";
    let busiest = watch.prometheus.value(busiest);
    assert!(busiest.is_some_and(|cpu| cpu < 0.3), "who has nothing to do takes no CPU: {busiest:?}");

    scene.trouble();
    watch.fleet_shows(&[
        // h0 lost both routers, h1 one.
        ("Peers down", 3.0),
        ("Nodes drained", 1.0),
        ("Nodes in the network", 2.0),
        ("Nodes without the store", 3.0),
        ("Duels", 1.0),
        ("Subnets announced twice", 1.0),
        ("Nodes cut off", 0.0),
        ("Nodes not ready", 0.0),
        ("Files refused", 1.0),
        ("Traffic not counted", 0.0),
    ]);
    watch.node_shows("h0", "State", 4.0);
    watch.node_shows("h2", "State", 5.0);
    watch.node_shows("h1", "Prefixes without next hop", 1.0);
    watch.node_shows("h1", "Foreign routes", 1.0);
    let wanted = [
        ("WayleaveSessionDown", "h0"),
        ("WayleavePrefixLimitNear", "h1"),
        ("WayleaveForeignRoutes", "h1"),
        ("WayleaveSubnetAnnouncedTwice", "h1"),
        ("WayleaveNextHopsUnreachable", "h1"),
        ("WayleaveDuel", "h1"),
        ("WayleaveStoreUnreachable", "h0"),
        ("WayleaveReloadRefused", "h2"),
        ("WayleaveDrained", "h2"),
    ];
    fires(&watch, &wanted);
    let paged: Vec<_> =
        watch.firing().into_iter().filter(|(name, instance)| instance == "h2" && is_page(name)).collect();
    assert_eq!(paged, [], "a drained node wakes nobody");
    for variables in [("instance", "h0"), ("instance", "h1"), ("instance", "h2")] {
        seen.extend(watch.shown("wayleave-node", &[variables]).full().cloned());
    }
    for peer in ["tor-a", "tor-b", "mesh"] {
        seen.extend(watch.shown("wayleave-peer", &[("instance", ".+"), ("peer", peer)]).full().cloned());
    }
    seen.extend(watch.shown("wayleave-fleet", &all).full().cloned());

    scene.worse();
    watch.fleet_shows(&[("Nodes that don't answer", 1.0), ("Nodes cut off", 1.0), ("Nodes in the network", 1.0)]);
    watch.node_shows("h0", "State", 0.0);
    watch.node_shows("h1", "State", 2.0);
    fires(&watch, &[("WayleaveDown", "h0"), ("WayleaveCutOff", "h1")]);
    let shown = watch.shown("wayleave-fleet", &all);
    seen.extend(shown.full().cloned());

    let every: BTreeSet<Place> = [
        shown,
        watch.shown("wayleave-node", &[("instance", "h1")]),
        watch.shown("wayleave-peer", &[("instance", ".+"), ("peer", "tor-a")]),
    ]
    .into_iter()
    .flat_map(|shown| shown.0.into_keys())
    .collect();
    let never: BTreeSet<_> = every.difference(&seen).filter(|place| !absent.contains(place)).collect();
    assert_eq!(never, BTreeSet::new(), "never any data");
    every_metric_exists(&watch);
}

fn is_page(alert: &str) -> bool {
    model::alerts()[alert][0] == "page"
}

fn fires(watch: &Watch, wanted: &[(&str, &str)]) {
    for (name, instance) in wanted {
        let alert = ((*name).to_owned(), (*instance).to_owned());
        holds(&format!("{name} fires for {instance}"), SEEN, || watch.firing().contains(&alert));
    }
}

fn variables_offer_what_there_is(watch: &Watch) {
    let nodes = names(&["h0", "h1", "h2"]);
    for uid in ["wayleave-fleet", "wayleave-node", "wayleave-peer"] {
        assert_eq!(watch.offers(uid, "job", &[]), names(&["wayleave"]), "{uid}: nothing else that is scraped");
        assert_eq!(watch.offers(uid, "instance", &[("peer", "tor-a")]), nodes, "{uid}");
    }
    assert_eq!(watch.offers("wayleave-peer", "peer", &[]), names(&["mesh", "tor-a", "tor-b"]));
}

/// Metrics that agents don't have here: there is no firewalld, and a kernel without IP-in-IP has no tunnel.
fn absent_metrics() -> Vec<&'static str> {
    let tunnel = if kernel_has_ipip() { &[][..] } else { &TUNNEL };
    tunnel.iter().copied().chain([FIREWALLD]).collect()
}

/// Queries about them.
fn absent_panels(watch: &Watch) -> BTreeSet<Place> {
    let absent = absent_metrics();
    let mut places = BTreeSet::new();
    for dashboard in &watch.dashboards {
        for panel in dashboard.panels() {
            for target in targets(panel) {
                let expr = target["expr"].as_str().unwrap();
                if absent.iter().any(|metric| expr.contains(metric)) {
                    let place = [dashboard.uid(), title(panel), target["refId"].as_str().unwrap()];
                    places.insert(place.map(str::to_owned).into());
                }
            }
        }
    }
    announce(&format!("no agent has {}: these stay empty: {places:?}", absent.join(", ")));
    places
}

/// What dashboards and rules ask for is what agents have.
fn every_metric_exists(watch: &Watch) {
    let known = watch.prometheus.get("metadata", &[]).unwrap();
    let known = known.as_object().unwrap();
    let absent = absent_metrics();
    let queries = watch.dashboards.iter().flat_map(Dashboard::panels).flat_map(targets);
    let exprs = queries.map(|target| target["expr"].as_str().unwrap().to_owned());
    for expr in exprs.chain(model::alerts().into_values().map(|[_, expr, _]| expr)) {
        for (metric, _) in model::metrics(&expr) {
            let family = metric.strip_suffix("_bucket").unwrap_or(&metric);
            let here = known.contains_key(family) || absent.contains(&family);
            assert!(here, "no agent has {metric}: {expr}");
        }
    }
}
