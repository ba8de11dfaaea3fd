//! Dashboards and rules as files: what can be said of them without a Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use wayleave::bgp::message::Notification;
use wayleave::bgp::session::Reason;
use wayleave::bgp::wire::Cease;
use wayleave::net::Family;

/// A file of the repository.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A file of the repository, its text.
pub fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A dashboard as Grafana reads it.
pub struct Dashboard {
    /// File name
    pub name: String,
    pub json: Value,
}

impl Dashboard {
    /// All that are in the folder.
    pub fn all() -> Vec<Self> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(path("grafana/dashboards")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let read = |file: &PathBuf| {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            let json =
                serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
            Self { name, json }
        };
        files.iter().map(read).collect()
    }

    pub fn uid(&self) -> &str {
        self.json["uid"].as_str().unwrap()
    }

    /// Its panels with their headings.
    pub fn panels_and_rows(&self) -> &[Value] {
        self.json["panels"].as_array().unwrap()
    }

    /// Its panels.
    pub fn panels(&self) -> impl Iterator<Item = &Value> {
        self.panels_and_rows().iter().filter(|panel| panel["type"] != "row")
    }

    /// Its variables but for the data source: name, query.
    pub fn variables(&self) -> Vec<(&str, &str)> {
        let list = self.json["templating"]["list"].as_array().unwrap();
        list.iter()
            .filter(|variable| variable["type"] == "query")
            .map(|variable| (variable["name"].as_str().unwrap(), variable["query"]["query"].as_str().unwrap()))
            .collect()
    }

    /// What *All* of a variable stands for, if not for the list of what it offers.
    pub fn all_value(&self, variable: &str) -> Option<&str> {
        let list = self.json["templating"]["list"].as_array().unwrap();
        list.iter().find(|listed| listed["name"] == variable).unwrap()["allValue"].as_str()
    }
}

/// Whether a graph asks for the time shown at each of its points: a sum that slides, and takes as long as it is wide. With
/// `@ end()` it is asked once.
fn slides(expr: &str) -> bool {
    let range = |rest: &&str| rest.trim_start_matches([':', ']']).trim_start().starts_with("@ end()");
    !expr.split("$__range").skip(1).filter(|rest| !rest.is_empty()).all(|rest| range(&rest))
}

/// What a panel is called.
pub fn title(panel: &Value) -> &str {
    panel["title"].as_str().unwrap()
}

/// The queries of a panel.
pub fn targets(panel: &Value) -> &[Value] {
    panel["targets"].as_array().map_or(&[], Vec::as_slice)
}

/// A query with its variables filled in, as Grafana does it.
pub fn filled(expr: &str, variables: &BTreeMap<&str, &str>) -> String {
    let mut expr = expr.replace("$__rate_interval", "10s").replace("$__range", "60s");
    for (name, value) in variables {
        expr = expr.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
    }
    assert!(!expr.contains('$'), "a variable is left: {expr}");
    expr
}

/// Labels that a legend names: `{{instance}} {{peer}}`.
pub fn legend_labels(target: &Value) -> Vec<&str> {
    let legend = target["legendFormat"].as_str().unwrap_or_default();
    legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap()).collect()
}

/// Every metric of ours in a query, each with the function that it is the argument of, if it is.
pub fn metrics(expr: &str) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    let mut rest = expr;
    while let Some(at) = rest.find("wayleave_") {
        let before = rest[..at].trim_end();
        let name: String = rest[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let function = before.strip_suffix('(').map(|before| {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            before.chars().rev().take_while(|c| word(*c)).collect::<Vec<_>>().into_iter().rev().collect::<String>()
        });
        rest = &rest[at + name.len()..];
        found.push((name, function.filter(|function| !function.is_empty())));
    }
    found
}

/// Alerts of the rules, by name: (severity, expression, link to the runbook).
pub fn alerts() -> BTreeMap<String, [String; 3]> {
    let rules = text("grafana/alerts/wayleave.yml");
    let part = |rule: &str, key: &str| {
        let line = rule.split(key).nth(1).unwrap_or_else(|| panic!("no {key} in\n{rule}"));
        line.split(['\n', ',', '}']).next().unwrap().trim().to_owned()
    };
    rules
        .split("- alert: ")
        .skip(1)
        .map(|rule| {
            let name = rule.lines().next().unwrap().trim().to_owned();
            let expr = rule.split("expr:").nth(1).unwrap().split("\n        for:").next().unwrap().to_owned();
            (name, [part(rule, "severity:"), expr, part(rule, "runbook_url:")])
        })
        .collect()
}

#[test]
fn dashboards_are_what_the_generator_makes() {
    let output = std::process::Command::new(path("grafana/generate")).arg("--check").output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn dashboards_are_whole() {
    let dashboards = Dashboard::all();
    let uids: BTreeSet<&str> = dashboards.iter().map(Dashboard::uid).collect();
    assert_eq!(uids.len(), dashboards.len(), "each has its own uid");
    assert_eq!(uids.len(), 3);
    for dashboard in &dashboards {
        let name = &dashboard.name;
        assert!(dashboard.json["schemaVersion"].as_u64().unwrap() >= 36, "{name}: Grafana 9 or newer");
        let rows: Vec<&str> =
            dashboard.panels_and_rows().iter().filter(|panel| panel["type"] == "row").map(title).collect();
        assert_eq!(rows[..4], ["Is anything wrong", "Where", "Since when", "Why"], "{name}: the order at 3 a.m.");
        let mut ids = BTreeSet::new();
        let mut taken: BTreeMap<(u64, u64), &str> = BTreeMap::new();
        let mut titles = BTreeSet::new();
        for panel in dashboard.panels_and_rows() {
            let what = format!("{name}: {}", title(panel));
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{what}: its id is somebody else's");
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{what}: wider than the page");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    let other = taken.insert((x, y), title(panel));
                    assert!(other.is_none(), "{what}: lies over {other:?}");
                }
            }
        }
        for panel in dashboard.panels() {
            let what = format!("{name}: {}", title(panel));
            assert!(titles.insert(title(panel)), "{what}: twice");
            assert!(panel["description"].as_str().is_some_and(|text| text.len() > 20), "{what}: no description");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{what}: no unit");
            assert!(!targets(panel).is_empty(), "{what}: no query");
            for target in targets(panel) {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{what}");
                let expr = target["expr"].as_str().unwrap();
                assert!(target["instant"] == true || !slides(expr), "{what}: {expr}");
            }
        }
        // Links inside the house, wherever they stand.
        let text = dashboard.json.to_string();
        for link in text.split("/d/").skip(1) {
            let uid = link.split(['?', '"', '/']).next().unwrap();
            assert!(uids.contains(uid), "{name}: a link to {uid}");
            let url = link.split('"').next().unwrap();
            assert!(url.contains("${__url_time_range}") && url.contains("var-datasource="), "{name}: {url}");
            let target = dashboards.iter().find(|other| other.uid() == uid).unwrap();
            let known: Vec<&str> = target.variables().iter().map(|(name, _)| *name).collect();
            for variable in url.split("var-").skip(1).map(|rest| rest.split('=').next().unwrap()) {
                assert!(variable == "datasource" || known.contains(&variable), "{name}: {uid} has no {variable}");
            }
        }
        let list = &dashboard.json["links"][0];
        assert_eq!((&list["keepTime"], &list["includeVars"]), (&true.into(), &true.into()), "{name}");
    }
}

#[test]
fn tables_name_columns_that_they_have() {
    for dashboard in Dashboard::all() {
        for panel in dashboard.panels().filter(|panel| panel["type"] == "table") {
            let Some(organize) =
                panel["transformations"].as_array().unwrap().iter().find(|step| step["id"] == "organize")
            else {
                continue;
            };
            let organize = &organize["options"];
            let keys = |key: &str| organize[key].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
            let renamed = organize["renameByName"].as_object().unwrap();
            let shown: BTreeSet<String> = keys("indexByName")
                .into_iter()
                .map(|key| renamed.get(&key).map_or(key, |name| name.as_str().unwrap().to_owned()))
                .collect();
            for column in panel["fieldConfig"]["overrides"].as_array().unwrap() {
                let column = column["matcher"]["options"].as_str().unwrap();
                // A column that the alerts of this table don't have is as good as none.
                let any = title(panel) == "Alerts" || title(panel).starts_with("Nodes, worst first");
                assert!(any || shown.contains(column), "{}: {}: {column}", dashboard.name, title(panel));
            }
        }
    }
}

/// A counter as it is says nothing; the rate of a gauge neither.
#[test]
fn rates_are_of_counters_and_counters_are_rated() {
    let queries = Dashboard::all().into_iter().flat_map(|dashboard| {
        let all = dashboard.panels().flat_map(targets);
        all.map(|target| target["expr"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    });
    let rules = alerts().into_values().map(|[_, expr, _]| expr);
    for expr in queries.chain(rules) {
        for (metric, function) in metrics(&expr) {
            let rated = function.as_deref().is_some_and(|function| ["rate", "increase"].contains(&function));
            let counter = ["_total", "_bucket", "_count", "_sum"].iter().any(|end| metric.ends_with(end));
            assert_eq!(rated, counter, "{metric} in {expr}");
        }
    }
}

#[test]
fn each_alert_has_its_section_in_the_runbook_and_its_tests() {
    let runbook = text("docs/runbook.md");
    let tests = text("grafana/alerts/wayleave_test.yml") + &text("grafana/alerts/wayleave_days_test.yml");
    let alerts = alerts();
    assert!(alerts.len() > 20, "{}", alerts.len());
    let sections: BTreeMap<&str, &str> = runbook
        .split("\n## ")
        .skip(1)
        .filter_map(|section| section.split_once('\n'))
        .filter(|(heading, _)| heading.starts_with("Wayleave"))
        .collect();
    let (of_rules, of_book): (Vec<&str>, Vec<&str>) =
        (alerts.keys().map(String::as_str).collect(), sections.keys().copied().collect());
    assert_eq!(of_rules, of_book, "alerts and sections are the same");
    for (name, [severity, expr, link]) in &alerts {
        assert_eq!(*link, format!("docs/runbook.md#{}", name.to_lowercase()), "{name}");
        assert!(["page", "ticket", "info"].contains(&severity.as_str()), "{name}: {severity}");
        assert!(sections[name.as_str()].trim_start().starts_with("```sh\n"), "{name}: begins with what to type");
        let minds_drains = expr.contains("wayleave_drain_state") || name == "WayleaveAbsent";
        assert!(severity != "page" || minds_drains, "{name}: wakes somebody about a node that has left");
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name}: no test in which it fires");
        for (metric, _) in metrics(expr) {
            assert!(tests.contains(&metric), "{name}: {metric} is in no test");
        }
    }
}

/// Whoever types at 3 a.m. what stands there must not be told that there is no such command.
#[test]
fn commands_that_are_named_exist() {
    let mut named = text("docs/runbook.md");
    for dashboard in Dashboard::all() {
        for panel in dashboard.panels() {
            named += panel["description"].as_str().unwrap();
            named.push('\n');
        }
    }
    let word = |c: char| c.is_ascii_lowercase() || c == '-';
    let starts = ["`wayleave ", "\nwayleave ", "; wayleave "];
    let rests = starts.iter().flat_map(|start| named.split(start).skip(1));
    let commands: BTreeSet<Vec<&str>> = rests
        .map(|rest| rest.split(['`', ';', '\n']).next().unwrap())
        .map(|line| {
            line.split(' ').take_while(|part| part.starts_with(char::is_lowercase) && part.chars().all(word)).collect()
        })
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let output = std::process::Command::new(crate::harness::agent::WAYLEAVE).args(&command).arg("--help").output();
        assert!(output.unwrap().status.success(), "there is no `wayleave {}`", command.join(" "));
    }
}

/// What `wayleave peers` shows as the last error, and the runbook has a line about.
#[test]
fn errors_that_the_runbook_quotes_are_said() {
    let runbook = text("docs/runbook.md");
    let ends = [
        Notification::max_prefixes(Family::Ipv4, 7),
        Notification::hold_timer_expired(),
        Notification::cease(Cease::BfdDown),
    ];
    for said in ends.map(|notification| Reason::Sent(notification).to_string()) {
        let said = said.split(" (").next().unwrap();
        assert!(runbook.contains(&format!("\"{said}")), "{said}");
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    for args in
        [&["check", "rules", "wayleave.yml"][..], &["test", "rules", "wayleave_test.yml", "wayleave_days_test.yml"]]
    {
        let output = std::process::Command::new("promtool")
            .args(args)
            .current_dir(path("grafana/alerts"))
            .output()
            .expect("promtool, of the Debian package prometheus");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {}:\n{said}", args.join(" "));
    }
}
