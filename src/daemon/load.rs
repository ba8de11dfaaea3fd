//! Reads the configuration file and the password files it names.

use std::path::Path;

use crate::config::{self, Config, SecretError};
use crate::io::files;

/// The checked configuration, or every error as one line each, the file's name in front.
pub fn load(path: &Path) -> Result<Config, Vec<String>> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| vec![format!("{file}: can't be read: {error}")])?;
    let mut read_secret = |path: &Path| {
        files::read_secret(path).and_then(into_text).map_err(|error| match error {
            files::SecretError::Unreadable(error) => SecretError::Unreadable(error.kind()),
            files::SecretError::WorldReadable(mode) => SecretError::WorldReadable { mode },
        })
    };
    config::parse(&text, &mut read_secret)
        .map_err(|found| found.iter().map(|diagnostic| diagnostic.render(&file)).collect())
}

fn into_text(secret: Vec<u8>) -> Result<String, files::SecretError> {
    String::from_utf8(secret).map_err(|_| files::SecretError::Unreadable(std::io::ErrorKind::InvalidData.into()))
}
