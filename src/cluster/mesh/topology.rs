//! Who peers with whom once all have followed.

use std::collections::BTreeSet;
use std::fmt;

/// How routes get from node to node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Topology {
    /// Each tells each
    Mesh,
    /// These tell all, the others tell them
    Reflectors(BTreeSet<String>),
}

/// What one node is to another; none is wanted of nobody.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Role {
    /// They have a session
    pub peers: bool,
    /// We reflect to it
    pub client: bool,
    /// It reflects to us
    pub reflector: bool,
}

impl Role {
    /// What either asks for.
    pub fn or(self, other: Self) -> Self {
        Self {
            peers: self.peers | other.peers,
            client: self.client | other.client,
            reflector: self.reflector | other.reflector,
        }
    }
}

impl Topology {
    pub fn of(reflectors: BTreeSet<String>) -> Self {
        if reflectors.is_empty() { Self::Mesh } else { Self::Reflectors(reflectors) }
    }

    /// How the mesh is published; no topology at all is an empty text.
    pub const MESH: &str = "mesh";

    /// Reflectors as they are published; `None`: it is something else.
    pub fn reflected(text: &str) -> Option<Self> {
        let names = text.split(',').filter(|name| !name.is_empty());
        (!text.is_empty() && text != Self::MESH).then(|| Self::of(names.map(str::to_owned).collect()))
    }

    /// Whether it is one of the reflectors.
    pub fn names(&self, name: &str) -> bool {
        matches!(self, Self::Reflectors(reflectors) if reflectors.contains(name))
    }

    /// What `other` is to `me`.
    pub fn role(&self, me: &str, other: &str) -> Role {
        let Self::Reflectors(reflectors) = self else { return Role { peers: true, ..Role::default() } };
        let (reflecting, reflector) = (reflectors.contains(me), reflectors.contains(other));
        // Reflectors are ordinary peers of each other (RFC 4456 §4).
        Role { peers: reflecting || reflector, client: reflecting && !reflector, reflector }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Reflectors(reflectors) = self else { return f.write_str(Self::MESH) };
        for (n, name) in reflectors.iter().enumerate() {
            f.write_str(if n > 0 { "," } else { "" })?;
            f.write_str(name)?;
        }
        // A host may be called so.
        let ambiguous = reflectors.len() == 1 && reflectors.contains(Self::MESH);
        f.write_str(if ambiguous { "," } else { "" })
    }
}
