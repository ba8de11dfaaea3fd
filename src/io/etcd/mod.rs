//! etcd: what stands there, what changes there, writes under a condition, a sign of life.
//!
//! etcd-client talks to one member and gives up at the first failure; here several members are
//! tried in turn, every request has an end, and streams are opened again for ever. What to write, and what
//! follows from what others wrote, is for others to decide.
//!
//! | | |
//! | --- | --- |
//! | [`Store`] | requests: [`list`](Store::list), [`get`](Store::get), [`commit`](Store::commit); [`Health`] |
//! | [`Follower`] | a task: all below a prefix, then each change, as [`News`] |
//! | [`Alive`] | a task: a key that is there as long as we are |
//!
//! All clones of a [`Store`] and the tasks made of it share one connection.

mod alive;
mod backoff;
mod connection;
mod error;
mod follow;
mod store;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

pub use self::alive::{Alive, Standing};
pub use self::error::Error;
pub use self::follow::{Follower, News};
pub use self::store::Store;
use crate::cluster::Entry;

/// Where etcd is and how we get in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Base URLs of the members, at least one, tried in turn
    pub endpoints: Vec<String>,
    /// For members with https
    pub tls: Tls,
    /// Who we are, where etcd wants to know
    pub user: Option<User>,
    /// Most time that a request takes, all members tried included
    pub timeout: Duration,
}

/// Files, read anew at every connect, so that they can be replaced while we run.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// CAs that members' certificates may be signed by, PEM
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key, PEM, where members ask for one
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd. [`Debug`](fmt::Debug) hides the password.
#[derive(Clone)]
pub struct User {
    /// Its name
    pub name: String,
    /// Its password
    pub password: String,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All below a prefix, at one revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listing {
    /// In the order of their keys
    pub entries: Vec<Entry>,
    /// Revision of the whole store
    pub revision: i64,
    /// What tells this etcd cluster from others
    pub cluster_id: u64,
}

/// How it goes with the store. Whoever watches is woken by changes of `reachable`, `endpoint` and `error`.
#[derive(Clone, Debug)]
pub struct Health {
    /// The last request was served
    pub reachable: bool,
    /// The member that served it, as it stands in [`Options::endpoints`]
    pub endpoint: Option<String>,
    /// When `reachable` last changed, or the beginning
    pub since: Instant,
    /// When a member last answered
    pub last_confirmed: Option<Instant>,
    /// Why it was not served; `None` while nothing was asked yet
    pub error: Option<Error>,
}
