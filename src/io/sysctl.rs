//! Kernel settings under `/proc/sys`: written where they differ, remembered, put back.
//!
//! The values found at first are kept in a file across restarts, so that [`Sysctl::restore`] undoes
//! what any former run did. Which settings are wanted is decided elsewhere (`forward::sysctls`).

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::forward::sysctls::Setting;

/// Why a setting has not the wanted value.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// This kernel, or this namespace, has no such setting; often the device is gone.
    #[error("this kernel has no such setting")]
    Missing,
    /// `/proc/sys` is read-only, as in an unprivileged container, or we lack the privilege.
    #[error("no permission to write it")]
    Denied,
    /// Anything else that reading or writing gave.
    #[error("cannot be set")]
    Io(#[source] io::Error),
}

impl From<io::Error> for SysctlError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied,
            _ => Self::Io(error),
        }
    }
}

/// What became of one setting.
#[derive(Debug)]
pub struct Applied {
    /// Name as sysctl(8) writes it.
    pub key: String,
    /// Value found, if it could be read.
    pub was: Option<String>,
    /// Value it should have; the same as `was` where nothing had to be written.
    pub now: String,
    /// Whether it has it.
    pub result: Result<(), SysctlError>,
}

/// What was found before our first write, by key; the file's whole content.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Originals(BTreeMap<String, Original>);

#[derive(Debug, Deserialize, Serialize)]
struct Original {
    /// Value before our first write.
    was: String,
    /// Value we wrote last: a setting that somebody changed since is not put back.
    set: String,
}

/// A setting whose file is kept open: looking at it again costs one system call.
#[derive(Debug)]
pub struct Held {
    setting: Setting,
    file: fs::File,
}

/// What a look at a setting found.
#[derive(Debug, Eq, PartialEq)]
pub enum Look {
    /// It is as it should be.
    Right,
    /// It has this value.
    Wrong(String),
    /// It can't be read; mostly its device went, or has another name.
    Gone,
}

impl Held {
    /// What it should be.
    pub const fn setting(&self) -> &Setting {
        &self.setting
    }

    /// Reads it.
    pub fn look(&self) -> Look {
        let mut buf = [0; 64];
        // The kernel makes the text anew for each read from the beginning.
        let Ok(len) = self.file.read_at(&mut buf, 0) else { return Look::Gone };
        match str::from_utf8(buf.get(..len).unwrap_or_default()).map(str::trim) {
            Ok(value) if self.setting.replaces(value) => Look::Wrong(value.to_owned()),
            _ => Look::Right,
        }
    }
}

/// The settings of this process's network namespace, with a memory in a file.
#[derive(Debug)]
pub struct Sysctl {
    root: PathBuf,
    memory: PathBuf,
}

impl Sysctl {
    /// Keeps the original values in `sysctl.json` in `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Self { root: PathBuf::from("/proc/sys"), memory: state_dir.join("sysctl.json") }
    }

    /// Brings each setting to its value, in order. The error is that of the memory: if it cannot be
    /// written, nothing is set, for it could not be put back.
    pub fn apply(&self, settings: &[Setting]) -> io::Result<Vec<Applied>> {
        let mut originals = self.load()?;
        let found: Vec<_> = settings.iter().map(|setting| self.find(setting)).collect();
        let mut changed = false;
        for (setting, found) in settings.iter().zip(&found) {
            let Ok(Found { was, wanted: true }) = found else { continue };
            changed = true;
            originals
                .0
                .entry(setting.key.clone())
                // The first value seen is the operator's; a later one may be ours.
                .and_modify(|original| setting.value.clone_into(&mut original.set))
                .or_insert_with(|| Original { was: was.clone(), set: setting.value.to_owned() });
        }
        if changed {
            self.store(&originals)?;
        }
        Ok(settings.iter().zip(found).map(|(setting, found)| self.carry_out(setting, found)).collect())
    }

    /// Opens those of the settings that are there, to look at them often.
    pub fn hold(&self, settings: &[Setting]) -> Vec<Held> {
        let open = |setting: &Setting| {
            let file = fs::File::open(self.path(&setting.key)).ok()?;
            Some(Held { setting: setting.clone(), file })
        };
        settings.iter().filter_map(open).collect()
    }

    /// Puts every setting we wrote back to what it was, except those that somebody changed
    /// since, and forgets them. A setting that cannot be put back is kept for the next try.
    pub fn restore(&self) -> io::Result<Vec<Applied>> {
        self.restore_those(|_| true)
    }

    /// The same for one setting, which is no longer wanted. None if we never wrote it.
    pub fn restore_one(&self, key: &str) -> io::Result<Vec<Applied>> {
        self.restore_those(|kept| kept == key)
    }

    fn restore_those(&self, undo: impl Fn(&str) -> bool) -> io::Result<Vec<Applied>> {
        let mut originals = self.load()?;
        if !originals.0.keys().any(|key| undo(key)) {
            return Ok(Vec::new());
        }
        let mut list = Vec::new();
        for (key, original) in originals.0.iter().filter(|(key, _)| undo(key)) {
            let path = self.path(key);
            let (was, result) = match read(&path) {
                Ok(value) if value != original.set => continue,
                Ok(value) => (Some(value), fs::write(&path, &original.was).map_err(SysctlError::from)),
                Err(error) => (None, Err(error)),
            };
            list.push(Applied { key: key.clone(), was, now: original.was.clone(), result });
        }
        // A setting that is gone went with its device: there is nothing left to put back.
        originals.0.retain(|key, _| {
            !undo(key)
                || list.iter().any(|done| {
                    done.key == *key && matches!(done.result, Err(SysctlError::Denied | SysctlError::Io(_)))
                })
        });
        if originals.0.is_empty() {
            match fs::remove_file(&self.memory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        } else {
            self.store(&originals)?;
        }
        list.retain(|done| !matches!(done.result, Err(SysctlError::Missing)));
        Ok(list)
    }

    /// The values found before our first write, by key.
    pub fn originals(&self) -> io::Result<BTreeMap<String, String>> {
        Ok(self.load()?.0.into_iter().map(|(key, original)| (key, original.was)).collect())
    }

    fn find(&self, setting: &Setting) -> Result<Found, SysctlError> {
        let was = read(&self.path(&setting.key))?;
        let wanted = setting.replaces(&was);
        Ok(Found { was, wanted })
    }

    fn carry_out(&self, setting: &Setting, found: Result<Found, SysctlError>) -> Applied {
        let key = setting.key.clone();
        match found {
            Ok(Found { was, wanted: false }) => Applied { key, now: was.clone(), was: Some(was), result: Ok(()) },
            Ok(Found { was, wanted: true }) => {
                let result = fs::write(self.path(&key), setting.value).map_err(SysctlError::from);
                Applied { key, was: Some(was), now: setting.value.to_owned(), result }
            }
            Err(error) => Applied { key, was: None, now: setting.value.to_owned(), result: Err(error) },
        }
    }

    /// `net.ipv4.conf.eth0/100.rp_filter` → `net/ipv4/conf/eth0.100/rp_filter`.
    fn path(&self, key: &str) -> PathBuf {
        let swap = |c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        self.root.join(key.chars().map(swap).collect::<String>())
    }

    fn load(&self) -> io::Result<Originals> {
        match fs::read(&self.memory) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Originals::default()),
            Err(error) => Err(error),
        }
    }

    fn store(&self, originals: &Originals) -> io::Result<()> {
        super::files::atomic_write(&self.memory, &serde_json::to_vec_pretty(originals)?, 0o644)
    }
}

/// The reverse path filter in force on a device: 0 off, 1 strict, 2 loose. The larger of its own value
/// and that of `all` counts (ip-sysctl: `rp_filter`).
pub fn rp_filter(device: &str) -> u8 {
    let value = |of: &str| {
        let text = fs::read_to_string(Path::new("/proc/sys/net/ipv4/conf").join(of).join("rp_filter"));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    value("all").max(value(device))
}

/// A setting as it is, and whether it must be written.
#[derive(Debug)]
struct Found {
    was: String,
    wanted: bool,
}

fn read(path: &Path) -> Result<String, SysctlError> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/proc/sys` of ordinary files.
    fn host(values: &[(&str, &str)]) -> (tempfile::TempDir, Sysctl) {
        let dir = tempfile::tempdir().unwrap();
        let sysctl = Sysctl { root: dir.path().join("sys"), memory: dir.path().join("state/sysctl.json") };
        for (key, value) in values {
            let path = sysctl.path(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        (dir, sysctl)
    }

    fn setting(key: &str, value: &'static str, instead_of: Option<&'static str>) -> Setting {
        Setting { key: key.to_owned(), value, instead_of }
    }

    fn value(sysctl: &Sysctl, key: &str) -> String {
        read(&sysctl.path(key)).unwrap()
    }

    #[test]
    fn only_what_differs_is_written_and_the_report_says_all() {
        let (_dir, sysctl) = host(&[("net.a", "0"), ("net.b", "1"), ("net.dev.eth0/5.c", "0"), ("net.d", "1")]);
        let settings = [
            setting("net.a", "1", None),
            setting("net.b", "1", None),
            setting("net.dev.eth0/5.c", "2", Some("1")),
            setting("net.d", "2", Some("1")),
            setting("net.none", "1", None),
        ];
        let report = sysctl.apply(&settings).unwrap();
        let seen: Vec<_> = report.iter().map(|a| (a.was.as_deref(), a.now.as_str(), a.result.is_ok())).collect();
        let wanted = [
            (Some("0"), "1", true),
            (Some("1"), "1", true),
            (Some("0"), "0", true),
            (Some("1"), "2", true),
            (None, "1", false),
        ];
        assert_eq!(seen, wanted);
        assert!(matches!(report[4].result, Err(SysctlError::Missing)));
        assert_eq!(value(&sysctl, "net.a"), "1");
        assert_eq!(value(&sysctl, "net.dev.eth0/5.c"), "0", "neither the old nor the wanted value: not ours to change");
        assert_eq!(fs::read_to_string(sysctl.path("net.b")).unwrap(), "1\n", "not even rewritten");
    }

    #[test]
    fn the_first_value_seen_outlives_restarts() {
        let (_dir, sysctl) = host(&[("net.a", "7")]);
        sysctl.apply(&[setting("net.a", "1", None)]).unwrap();
        sysctl.apply(&[setting("net.a", "1", None)]).unwrap();
        sysctl.apply(&[setting("net.a", "2", None)]).unwrap();
        let back = sysctl.restore().unwrap();
        assert_eq!((back[0].was.as_deref(), back[0].now.as_str()), (Some("2"), "7"));
        assert_eq!(value(&sysctl, "net.a"), "7");
        assert!(!sysctl.memory.exists());
        assert!(sysctl.restore().unwrap().is_empty(), "once is enough");
    }

    #[test]
    fn one_setting_is_put_back_alone() {
        let (_dir, sysctl) = host(&[("net.a", "7"), ("net.b", "8")]);
        sysctl.apply(&[setting("net.a", "1", None), setting("net.b", "1", None)]).unwrap();
        assert!(sysctl.restore_one("net.c").unwrap().is_empty(), "never ours");
        assert_eq!(sysctl.restore_one("net.a").unwrap()[0].now, "7");
        assert_eq!((value(&sysctl, "net.a"), value(&sysctl, "net.b")), ("7".to_owned(), "1".to_owned()));
        assert!(sysctl.restore_one("net.a").unwrap().is_empty(), "once is enough");
        assert_eq!(sysctl.originals().unwrap().into_keys().collect::<Vec<_>>(), ["net.b"]);
    }

    #[test]
    fn what_somebody_changed_since_is_theirs() {
        let (_dir, sysctl) = host(&[("net.a", "0"), ("net.gone", "0")]);
        sysctl.apply(&[setting("net.a", "1", None), setting("net.gone", "1", None)]).unwrap();
        fs::write(sysctl.path("net.a"), "5").unwrap();
        fs::remove_file(sysctl.path("net.gone")).unwrap();
        assert!(sysctl.restore().unwrap().is_empty());
        assert_eq!(value(&sysctl, "net.a"), "5");
        assert!(!sysctl.memory.exists());
    }

    #[test]
    fn a_held_setting_is_looked_at_again_and_again() {
        let (_dir, sysctl) = host(&[("net.a", "1"), ("net.b", "1")]);
        let held = sysctl.hold(&[
            setting("net.a", "1", None),
            setting("net.b", "2", Some("1")),
            setting("net.none", "1", None),
        ]);
        let keys: Vec<&str> = held.iter().map(|held| held.setting().key.as_str()).collect();
        assert_eq!(keys, ["net.a", "net.b"], "what is not there is not held");
        assert_eq!(held[0].look(), Look::Right);
        assert_eq!(held[1].look(), Look::Wrong("1".to_owned()));
        fs::write(sysctl.path("net.a"), "0\n").unwrap();
        fs::write(sysctl.path("net.b"), "0\n").unwrap();
        assert_eq!(held[0].look(), Look::Wrong("0".to_owned()));
        assert_eq!(held[1].look(), Look::Right, "neither old nor wanted: the operator's own");
    }

    #[test]
    fn nothing_is_set_that_could_not_be_put_back() {
        let (dir, sysctl) = host(&[("net.a", "0")]);
        fs::write(dir.path().join("state"), "a file in the folder's place").unwrap();
        assert!(sysctl.apply(&[setting("net.a", "1", None)]).is_err());
        assert_eq!(value(&sysctl, "net.a"), "0");
    }
}
