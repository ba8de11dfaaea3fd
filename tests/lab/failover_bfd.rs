//! The preferred router goes silent: its sessions stay up as far as TCP can tell, and only BFD sees it.

use std::time::Duration;

use crate::failover::{Scene, judge};
use crate::harness::holds;

/// 3 × 100 ms until BFD gives up (RFC 5880 §6.8.4), and what a busy machine adds to it.
const SOON: u32 = 400;

#[test]
fn a_router_that_goes_silent() {
    let bird = ("bfd on;", "protocol bfd { interface \"*\" { interval 100 ms; multiplier 3; }; }\n");
    let peer = "bfd = { interval = \"100ms\", multiplier = 3 }";
    judge("silence, found by BFD", SOON, |routes| {
        let scene = Scene::new(routes, bird, peer);
        holds("BFD sees the host", Duration::from_secs(10), || {
            scene.bird_a.birdc("show bfd sessions").lines().any(|line| line.contains("10.0.1.2") && line.contains("Up"))
        });
        scene.loss(|scene| {
            let chain = |hook| format!("chain {hook} {{ type filter hook {hook} priority raw; drop; }}");
            scene.a.nft(&format!("table inet dead {{\n{}\n}}\n", ["input", "forward", "output"].map(chain).join("\n")));
        })
    });
}
