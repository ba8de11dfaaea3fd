//! What the nodes of one network know of each other through a store: who holds which subnet, who
//! is there, and who peers with whom.
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`keys`] | where each thing stands in the store |
//! | [`claim`], [`node`], [`flannel`] | the values there |
//! | [`mirror`] | a copy of all of it, as of one revision |
//! | [`lease`] | which subnets this node holds, wants, gives up |
//! | [`mesh`] | which of the nodes it peers with, and how |
//!
//! Nothing here talks to a store: entries and events come in, operations go out.

pub mod claim;
pub mod flannel;
pub mod keys;
pub mod lease;
pub mod mesh;
pub mod mirror;
pub mod node;

/// A key with its value, as a store holds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Whole key, prefix and all
    pub key: String,
    /// As it was written
    pub value: Vec<u8>,
    /// Revision of the store at which the key came to be
    pub created: i64,
    /// Revision at which the value was written
    pub modified: i64,
}

/// What became of a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// It was written
    Put(Entry),
    /// It is gone
    Delete {
        /// Whole key
        key: String,
        /// Revision of the store at which it went
        revision: i64,
    },
}

impl Event {
    /// Revision of the store at which it happened.
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// What must be true of a key for a write to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expect {
    /// There is no such key
    Absent,
    /// Its value was written at this revision
    Modified(i64),
}

/// One write, done wholly or not at all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Write {
    /// Whole key
    pub key: String,
    /// What must be true of the key
    pub expect: Expect,
    /// Its new value; `None`: it is deleted
    pub value: Option<Vec<u8>>,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was done at this revision
    Done(i64),
    /// The key was not as expected at this revision: nothing was written
    Refused(i64),
    /// No answer came: it may have been done, now or later
    Unknown,
}
