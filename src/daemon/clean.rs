//! Removes from the kernel all that is ours, with no daemon running.

use std::fmt;
use std::io;

use serde::Serialize;

use crate::config::Remains;
use crate::daemon::{drain, node, traffic};
use crate::io::netlink::query;

/// What was removed, and what could not be.
#[derive(Debug, Serialize)]
pub struct Done {
    /// Routes removed
    pub routes: usize,
    /// Nexthop objects removed
    pub nexthops: usize,
    /// What else was removed or put back
    pub done: Vec<String>,
    /// What went wrong
    pub errors: Vec<String>,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} routes, {} nexthop objects removed", self.routes, self.nexthops)?;
        for line in &self.done {
            write!(f, "\n{line}")?;
        }
        for line in &self.errors {
            write!(f, "\nNOT done: {line}")?;
        }
        Ok(())
    }
}

/// Routes and nexthop objects with our protocol number, the tunnel, the firewall table, the rule in `DOCKER-USER`, the sysctls
/// we changed.
pub fn clean(remains: &Remains) -> io::Result<Done> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut errors = Vec::new();
        let routes = query::flush(remains.protocol, None).await.unwrap_or_else(|error| {
            errors.push(format!("routes: {error}"));
            0
        });
        // After the routes: those that still use an object would go uncounted.
        let nexthops = query::flush_nexthops(remains.protocol).await.unwrap_or_else(|error| {
            errors.push(format!("nexthop objects: {error}"));
            0
        });
        let (mut done, more) = node::tear_down(&remains.state_dir).await;
        errors.extend(more);
        let (removed, more) = traffic::tear_down(&remains.state_dir).await;
        done.extend(removed);
        errors.extend(more);
        // Where it belongs is a wish of its own: only `undrain` takes it back.
        done.extend(drain::left_behind(&remains.state_dir));
        Ok(Done { routes, nexthops, done, errors })
    })
}
