//! What the system allows this process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets the process have as many files open as it may at all: each session is one, and the usual limit
/// of 1024 is for programs that use select(2). Returns how many.
pub fn raise_open_files() -> std::io::Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}
