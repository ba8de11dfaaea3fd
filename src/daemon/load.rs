//! Reads the configuration file and the password files it names.

use std::path::Path;

use super::identity;
use crate::config::{self, Config, Diagnostic, Remains, SecretError};
use crate::io::files;

/// The checked configuration, or every error as one line each, the file's name in front.
pub fn load(path: &Path) -> Result<Config, Vec<String>> {
    let file = path.display().to_string();
    let text = read(path)?;
    let mut read_secret = |path: &Path| {
        files::read_secret(path).and_then(into_text).map_err(|error| match error {
            files::SecretError::Unreadable(error) => SecretError::Unreadable(error.kind()),
            files::SecretError::WorldReadable(mode) => SecretError::WorldReadable { mode },
        })
    };
    let config = config::parse(&text, &mut read_secret).map_err(|found| rendered(&found, &file))?;
    match identity::missing(&config) {
        Some(missing) => Err(vec![format!("{file}: {missing}")]),
        None => Ok(config),
    }
}

/// What it takes to clean up, from a file that may have other faults.
pub fn remains(path: &Path) -> Result<Remains, Vec<String>> {
    let file = path.display().to_string();
    config::remains(&read(path)?).map_err(|found| rendered(&found, &file))
}

fn read(path: &Path) -> Result<String, Vec<String>> {
    std::fs::read_to_string(path).map_err(|error| vec![format!("{}: can't be read: {error}", path.display())])
}

fn rendered(found: &[Diagnostic], file: &str) -> Vec<String> {
    found.iter().map(|diagnostic| diagnostic.render(file)).collect()
}

fn into_text(secret: Vec<u8>) -> Result<String, files::SecretError> {
    String::from_utf8(secret).map_err(|_| files::SecretError::Unreadable(std::io::ErrorKind::InvalidData.into()))
}
