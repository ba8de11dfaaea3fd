//! What must survive a restart: `traffic.json` in `state_dir`.

use std::io;
use std::path::{Path, PathBuf};

use crate::io::files;
use crate::traffic::{Kept, Ledger};

/// The file.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    /// Why it could not be written last
    pub error: Option<String>,
}

impl Memory {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("traffic.json"), error: None }
    }

    /// What it says; none: nothing that can be read.
    pub(super) fn read(&self) -> Option<Kept> {
        let content = match std::fs::read(&self.path) {
            Ok(content) => content,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %self.path.display(), %error, "can't be read, traffic is counted anew");
                }
                return None;
            }
        };
        serde_json::from_slice(&content)
            .map_err(
                |error| tracing::warn!(file = %self.path.display(), %error, "makes no sense, traffic is counted anew"),
            )
            .ok()
    }

    /// Writes what is new of the ledger. A failure costs no more than counts after a restart.
    pub(super) async fn keep(&mut self, ledger: &mut Ledger, table: u64) {
        let Some(kept) = ledger.to_keep(table) else { return };
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || {
            let content = serde_json::to_vec(&kept)?;
            files::atomic_write(&path, &content, 0o600)
        });
        let error = written.await.map_err(io::Error::other).flatten().err();
        if let Some(error) = &error {
            ledger.not_kept();
            if self.error.is_none() {
                tracing::warn!(
                    file = %self.path.display(), %error,
                    "can't be written: counts of traffic may go back at the next restart"
                );
            }
        }
        self.error = error.map(|error| error.to_string());
    }

    /// Nothing is counted any more.
    pub(super) fn forget(&self) -> bool {
        std::fs::remove_file(&self.path).is_ok()
    }
}
