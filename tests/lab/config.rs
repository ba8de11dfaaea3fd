//! The configuration file and the command line, as somebody meets them who makes mistakes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::harness::agent::{Agent, WAYLEAVE};
use crate::harness::{Lab, holds};
use crate::story::{Config, Rack, TOR_AS};

fn wayleave(args: &[&str]) -> Output {
    Command::new(WAYLEAVE).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn check_finds_all_errors_at_once() {
    let lab = Lab::new();
    let open_key = lab.path("open.key");
    fs::write(&open_key, "secret").unwrap();
    fs::set_permissions(&open_key, fs::Permissions::from_mode(0o644)).unwrap();
    let file = lab.path("bad.toml");
    let bad = format!(
        "[node]\naddress = \"10.0.0.2\"\n[network]\npools = [\"10.244.0.0/16\"]\nsubnets = [\"10.99.0.0/24\"]\n\
         [bgp]\nasn = 64512\nhold_time = \"9\"\nhold_tiem = \"9s\"\n\
         [[bgp.peers]]\nname = \"a\"\naddress = \"10.0.0.1\"\nasn = 65001\npassword_file = {open_key:?}\n\
         [[bgp.peers]]\nname = \"b\"\naddress = \"10.0.0.1\"\nasn = 65002\n"
    );
    fs::write(&file, &bad).unwrap();
    let output = wayleave(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let text = text(&output);
    let line = |needle: &str| bad.lines().position(|line| line.contains(needle)).unwrap() + 1;
    for (why, key, line) in [
        ("unknown key", "hold_tiem", line("hold_tiem")),
        ("no unit", "hold_time", line("hold_time = \"9\"")),
        ("subnet outside the pools", "subnets", line("10.99.0.0")),
        ("password for everybody to read", "password_file", line("password_file")),
        ("two peers with one address", "address", line("name = \"b\"") + 1),
    ] {
        let found = text.lines().any(|l| l.contains(key) && l.contains(&line.to_string()));
        assert!(found, "{why}: `{key}` with line {line} in\n{text}");
    }
}

#[test]
fn check_accepts_what_runs() {
    let lab = Lab::new();
    let file = lab.path("good.toml");
    fs::write(&file, Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text()).unwrap();
    let output = wayleave(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn exit_codes() {
    let cases: [(&str, &[&str], i32); 5] = [
        ("nobody listens", &["peers", "--socket", "/nonexistent/wayleave.sock"], 3),
        ("nobody listens, JSON", &["status", "--json", "--socket", "/nonexistent/wayleave.sock"], 3),
        ("no such subcommand", &["peer"], 2),
        ("no such file", &["check", "--config", "/nonexistent/wayleave.toml"], 2),
        ("no such file to run", &["run", "--config", "/nonexistent/wayleave.toml"], 2),
    ];
    for (why, args, code) in cases {
        let output = wayleave(args);
        assert_eq!(output.status.code(), Some(code), "{why}: {}", text(&output));
        assert!(!output.stderr.is_empty(), "{why}: says so on stderr");
    }
}

#[test]
fn a_second_daemon_does_not_disturb_the_first() {
    let rack = Rack::new();
    let text = Config::host().text();
    let mut first = Agent::start(&rack.lab, &rack.host, &text);
    let since = first.status()["since"].clone();
    let mut second = rack.host.command(WAYLEAVE).args(["run", "--config"]).arg(first.config_path()).output().unwrap();
    assert!(!second.status.success(), "the second one ends");
    second.stderr.extend(second.stdout);
    assert!(!second.stderr.is_empty(), "and says why");
    assert!(first.running());
    assert_eq!(first.status()["since"], since, "the socket is still the first one's");
}

#[test]
fn the_address_is_found_by_asking_the_kernel() {
    let rack = Rack::new();
    let text = Config::host().peer("tor", "10.0.0.1", TOR_AS, "").text().replace("address = \"10.0.0.2\"\n", "");
    let agent = Agent::start(&rack.lab, &rack.host, &text);
    holds("it runs", crate::harness::agent::ROUTE, || agent.json(&["status"]).is_some());
    assert_eq!(agent.status()["address"], "10.0.0.2", "the source address towards the first peer");
    assert_eq!(agent.status()["router_id"], "10.0.0.2");
}
