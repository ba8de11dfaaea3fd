//! What no log may show: the key of a TCP-MD5 session (RFC 2385), the password of a store.

use std::fmt;
use std::io;

/// Longest key that the kernel takes (`TCP_MD5SIG_MAXKEYLEN`), in bytes; etcd looks at no more than 72.
const MAX_LEN: usize = 80;

/// A key or password, 1 to 80 bytes. [`Debug`](fmt::Debug) hides it.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// The content of a password file; one newline at the end is the editor's, not the key's.
    pub fn new(content: &str) -> Result<Self, SecretError> {
        let key = content.strip_suffix('\n').unwrap_or(content);
        let key = key.strip_suffix('\r').unwrap_or(key);
        match key.len() {
            0 => Err(SecretError::Empty),
            1..=MAX_LEN => Ok(Self(key.to_owned())),
            _ => Err(SecretError::TooLong),
        }
    }

    /// The key itself, for the socket and nobody else.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The same as text.
    pub fn expose_text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a password file can't be used: what follows its path in a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SecretError {
    /// The operating system doesn't let us read it, or it is no text
    #[error("can't be read ({0}); write the path of a file that the daemon may read")]
    Unreadable(io::ErrorKind),
    /// Others than its owner and group may read it
    #[error(
        "has mode {mode:04o}, so everybody can read it; chmod 640, owned by root, in the group that the daemon runs as (chgrp wayleave)"
    )]
    WorldReadable {
        /// Permission bits
        mode: u32,
    },
    /// Nothing in it
    #[error("is empty; it must hold 1 to 80 bytes")]
    Empty,
    /// More than a key may have
    #[error("is too long; it may hold 80 bytes")]
    TooLong,
}
