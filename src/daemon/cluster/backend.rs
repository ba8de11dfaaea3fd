//! The store: etcd, or a file of this host.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use crate::cluster::keys::Keys;
use crate::cluster::{Outcome, Write};
use crate::config;
use crate::daemon::Fatal;
use crate::io::{embedded, etcd};

/// Requests to the store; a clone is the same store.
#[derive(Clone)]
pub(super) enum Backend {
    Etcd(etcd::Store),
    Embedded(embedded::Store),
}

/// What changes in it.
pub(super) enum Follower {
    Etcd(etcd::Follower),
    Embedded(embedded::Store),
}

impl Backend {
    /// The store of the configuration; talks to nobody yet.
    pub(super) fn open(store: &config::Store, state_dir: &Path) -> Result<Self, Fatal> {
        let config::Store::Etcd(etcd) = store else {
            let path = state_dir.join("store.json");
            let store =
                embedded::Store::open(&path).map_err(|error| Fatal::start(path.display().to_string(), error))?;
            return Ok(Self::Embedded(store));
        };
        Ok(Self::Etcd(etcd::Store::new(etcd::Options {
            endpoints: etcd.endpoints.clone(),
            tls: etcd::Tls { ca_file: etcd.ca_file.clone(), identity: etcd.identity.clone() },
            user: etcd.user.as_ref().map(|(name, password)| etcd::User {
                name: name.clone(),
                password: String::from_utf8_lossy(password.expose()).into_owned(),
            }),
            timeout: etcd.timeout,
        })))
    }

    /// All below our prefix.
    pub(super) fn follow(&self, keys: &Keys) -> Follower {
        match self {
            Self::Etcd(store) => Follower::Etcd(store.follow(&keys.all())),
            Self::Embedded(store) => Follower::Embedded(store.clone()),
        }
    }

    /// How it goes; a file has nothing to tell.
    pub(super) fn health(&self) -> Option<watch::Receiver<etcd::Health>> {
        match self {
            Self::Etcd(store) => Some(store.health()),
            Self::Embedded(_) => None,
        }
    }

    /// Does a write; the error says that it was not done.
    pub(super) async fn commit(&self, write: Write) -> Result<Outcome, String> {
        match self {
            Self::Etcd(store) => store.commit(&write).await.map_err(|error| error.to_string()),
            Self::Embedded(store) => {
                let store = store.clone();
                let done = tokio::task::spawn_blocking(move || store.commit(&write));
                done.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            }
        }
    }

    /// A sign of life; a file needs none, for nobody else reads it.
    pub(super) fn alive(
        &self,
        key: &str,
        value: Vec<u8>,
        ttl: Duration,
        ours: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    ) -> Option<etcd::Alive> {
        match self {
            Self::Etcd(store) => Some(store.alive(key, value, ttl, ours)),
            Self::Embedded(_) => None,
        }
    }
}

impl Follower {
    /// The next news; `None`: there will be none.
    pub(super) async fn next(&mut self) -> Option<etcd::News> {
        match self {
            Self::Etcd(follower) => follower.next().await,
            Self::Embedded(store) => {
                let (entries, revision) = store.changed().await;
                Some(etcd::News::Listed { entries, revision })
            }
        }
    }

    /// What has come already.
    pub(super) fn ready(&mut self) -> Option<etcd::News> {
        match self {
            Self::Etcd(follower) => follower.ready(),
            Self::Embedded(_) => None,
        }
    }

    /// A listing is to come that was read after this call.
    pub(super) fn relist(&self) {
        match self {
            Self::Etcd(follower) => follower.relist(),
            Self::Embedded(store) => store.relist(),
        }
    }
}
