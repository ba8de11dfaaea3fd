//! `wayleave demo` itself: all of it works, and nothing of it is left.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::agent::WAYLEAVE;
use crate::harness::{holds, wait_for};
use crate::uml;

/// Its namespaces have fixed names: one at a time.
static STAGE: Mutex<()> = Mutex::new(());

fn leftovers() -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with("demo-"));
    if Path::new("/run/wayleave-demo").exists() {
        names.push("/run/wayleave-demo".to_owned());
    }
    names
}

/// Plays it; what it said.
fn play() -> String {
    let _stage = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(WAYLEAVE).arg("demo").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(leftovers(), Vec::<String>::new());
    assert!(text.contains("✓ all of it worked") && text.contains(" 0 lost"), "{text}");
    text
}

#[test]
fn works_here() {
    play();
}

#[test]
fn works_with_the_tunnel() {
    if !uml::in_uml("demo::works_with_the_tunnel") {
        return;
    }
    let text = play();
    assert!(text.contains("box1 to box3: IP-in-IP"), "{text}");
}

#[test]
fn is_taken_down_when_interrupted() {
    let _stage = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut demo = Command::new(WAYLEAVE).arg("demo").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // As late as its daemons run.
    holds("the demo is under way", Duration::from_secs(30), || Path::new("/run/wayleave-demo/host1.sock").exists());
    kill(Pid::from_raw(i32::try_from(demo.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = wait_for("the demo ends", Duration::from_secs(20), || demo.try_wait().unwrap());
    assert_eq!(status.code(), Some(1), "it did not show everything");
    assert_eq!(leftovers(), Vec::<String>::new());
}
