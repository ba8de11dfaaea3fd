//! Files the daemon owns: atomic replacement of state, reading of secrets.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of a secret that are read: far more than any key has, far less than a wrong file may hold.
const SECRET_LIMIT: u64 = 4096;

/// Replaces `path` with `content` so that a crash at any moment leaves the old file or the new one.
///
/// The file gets `mode` (octal permissions); missing parent folders are made.
pub fn atomic_write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let temporary = beside(path)?;
    let written = write_synced(&temporary, content, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Best effort: the write's own error is the one worth telling.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // The rename itself is in the folder's data.
    File::open(folder)?.sync_all()
}

/// A hidden name in the same folder, thus on the same file system, that no other process uses.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    Ok(path.with_file_name(hidden))
}

fn write_synced(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Why a file cannot serve as a secret.
///
/// The caller's question: what must the operator do with the file?
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Missing, or not ours to read.
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    /// Everybody on the host can read it; holds the permission bits.
    #[error("is readable by everybody (mode {0:04o}); chmod o-r")]
    WorldReadable(u32),
}

/// Reads a file that only its owner and group may see, up to a limit that no key reaches. What makes
/// a good key is for the caller to say.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, SecretError> {
    let file = File::open(path).map_err(SecretError::Unreadable)?;
    // Of the open file, not of the path: what is checked is what is read.
    let mode = file.metadata().map_err(SecretError::Unreadable)?.mode() & 0o7777;
    if mode & 0o004 != 0 {
        return Err(SecretError::WorldReadable(mode));
    }
    let mut secret = Vec::new();
    file.take(SECRET_LIMIT).read_to_end(&mut secret).map_err(SecretError::Unreadable)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state.json");
        atomic_write(&path, b"a long first content", 0o600).unwrap();
        atomic_write(&path, b"short", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_failed_write_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(atomic_write(&path, b"x", 0o600).is_err());
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn secrets_are_not_for_everybody() {
        // (why, content, mode, octets read)
        type Case<'a> = (&'a str, &'a [u8], u32, Result<usize, &'a str>);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let full = vec![b'k'; 5000];
        let cases: [Case<'_>; 4] = [
            ("as it is, line end and all", b" a b \n", 0o600, Ok(6)),
            ("everybody could read it", b"x", 0o644, Err("is readable by everybody (mode 0644); chmod o-r")),
            ("a group of its own is fine", b"x", 0o660, Ok(1)),
            ("not a whole disk", &full, 0o600, Ok(4096)),
        ];
        for (why, content, mode, wanted) in cases {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let got = read_secret(&path).map(|secret| secret.len()).map_err(|error| error.to_string());
            assert_eq!(got.as_ref().map_err(String::as_str), wanted.as_ref().map_err(|error| *error), "{why}");
        }
        assert!(matches!(read_secret(&dir.path().join("none")), Err(SecretError::Unreadable(_))));
    }
}
