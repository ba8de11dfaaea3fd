//! Waiting for something to come true, with a deadline.

use std::time::{Duration, Instant};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// A limit as this machine should see it: inside User-Mode Linux everything is slower.
fn scaled(limit: Duration) -> Duration {
    if super::super::uml::inside() { limit * 4 } else { limit }
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "polls something that sends no event, up to a deadline")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Looks until `probe` gives a value, and returns it. Panics with `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let limit = scaled(limit);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        pause(PAUSE);
    }
}

/// Binds a fixed port that a former user has closed. Whatever another test starts meanwhile holds a
/// copy of that socket from its fork to its exec, so the first try may come too early.
pub fn bound<T>(mut bind: impl FnMut() -> std::io::Result<T>) -> T {
    wait_for("the port is free", Duration::from_secs(10), || bind().ok())
}

/// [`wait_for`] for a plain yes.
pub fn holds(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) {
    wait_for(what, limit, || probe().then_some(()));
}
