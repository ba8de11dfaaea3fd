//! What the cluster task remembers in `state_dir`: our subnets, which must not get lost, and the nodes we
//! know, so that a start without the store finds them.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cluster::lease;
use crate::cluster::mesh::Remembered;
use crate::io::files;
use crate::net::Prefix;

/// A file of `state_dir`, written only when its content changes.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    content: Vec<u8>,
}

impl Kept {
    /// With what the file says; a file that can't be read is set aside, said, and counts as none.
    fn open<T: DeserializeOwned>(path: PathBuf) -> (Self, Option<T>) {
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!(file = %path.display(), %error, "can't be read, beginning without it");
                }
                return (Self { path, content: Vec::new() }, None);
            }
        };
        match serde_json::from_slice(&content) {
            Ok(value) => (Self { path, content }, Some(value)),
            Err(error) => {
                let aside = path.with_extension("bad");
                tracing::error!(
                    file = %path.display(), %error, aside = %aside.display(),
                    "makes no sense, set aside, beginning without it"
                );
                // If even this fails, the next write replaces it.
                let _ = std::fs::rename(&path, &aside);
                (Self { path, content: Vec::new() }, None)
            }
        }
    }

    /// Writes what is new; durable when this returns.
    async fn write<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        let content = serde_json::to_vec_pretty(value)?;
        if content == self.content {
            return Ok(());
        }
        let path = self.path.clone();
        let content =
            tokio::task::spawn_blocking(move || files::atomic_write(&path, &content, 0o600).map(|()| content));
        self.content = content.await.map_err(io::Error::other)??;
        Ok(())
    }
}

/// What helps a start without the store.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Network {
    /// Nodes that were peers
    pub nodes: Vec<Remembered>,
    /// Pools of the store
    pub pools: Vec<Prefix>,
}

/// Both files.
#[derive(Debug)]
pub(super) struct Memory {
    lease: Kept,
    network: Kept,
}

impl Memory {
    /// With what they say.
    pub(super) fn open(state_dir: &Path) -> (Self, Option<lease::Memory>, Network) {
        let (lease, held) = Kept::open(state_dir.join("lease.json"));
        let (network, known) = Kept::open::<Network>(state_dir.join("nodes.json"));
        (Self { lease, network }, held, known.unwrap_or_default())
    }

    /// What we hold; before anything of it is announced.
    pub(super) async fn keep_lease(&mut self, lease: &lease::Memory) -> io::Result<()> {
        self.lease.write(lease).await
    }

    /// What helps a start without the store.
    pub(super) async fn keep_network(&mut self, network: &Network) -> io::Result<()> {
        self.network.write(network).await
    }
}
