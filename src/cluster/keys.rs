//! Where each thing stands in the store.
//!
//! ```text
//! PREFIX/config                    flannel's network configuration
//! PREFIX/subnets/172.20.59.0-24    who holds a subnet, in flannel's form
//! PREFIX/nodes/host-a              what a node says of itself
//! PREFIX/alive/host-a              there while the node is (a lease of the store)
//! PREFIX/generation                a number that changes when the store was set back
//! ```

use crate::net::Prefix;

/// All keys of one network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Keys {
    prefix: String,
}

/// What a key names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Key<'a> {
    /// flannel's configuration
    Config,
    /// The claim of a subnet, or of one in each family that belong together (flannel's dual stack)
    Subnets(Vec<Prefix>),
    /// A node's record
    Node(&'a str),
    /// A node's sign of life
    Alive(&'a str),
    /// The store's generation
    Generation,
}

impl Keys {
    /// `prefix` begins with a slash and does not end in one.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// What all keys begin with.
    pub fn all(&self) -> String {
        format!("{}/", self.prefix)
    }

    /// flannel's configuration.
    pub fn config(&self) -> String {
        format!("{}/config", self.prefix)
    }

    /// The claim of a subnet, written as flannel writes each half of its keys: `172.20.59.0-24`,
    /// `fd00:10:244:7::-64`.
    pub fn subnet(&self, subnet: &Prefix) -> String {
        format!("{}/subnets/{}-{}", self.prefix, subnet.addr(), subnet.len())
    }

    /// A node's record.
    pub fn node(&self, name: &str) -> String {
        format!("{}/nodes/{name}", self.prefix)
    }

    /// A node's sign of life.
    pub fn alive(&self, name: &str) -> String {
        format!("{}/alive/{name}", self.prefix)
    }

    /// The store's generation.
    pub fn generation(&self) -> String {
        format!("{}/generation", self.prefix)
    }

    /// What a key of the store names; `None`: nothing of ours.
    pub fn parse<'a>(&self, key: &'a str) -> Option<Key<'a>> {
        let rest = key.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        match rest.split_once('/') {
            None if rest == "config" => Some(Key::Config),
            None if rest == "generation" => Some(Key::Generation),
            Some(("subnets", subnets)) => subnets.split('&').map(subnet).collect::<Option<_>>().map(Key::Subnets),
            Some(("nodes", name)) if !name.is_empty() => Some(Key::Node(name)),
            Some(("alive", name)) if !name.is_empty() => Some(Key::Alive(name)),
            _ => None,
        }
    }
}

/// `172.20.59.0-24`, `fd00:10:244:7::-64`.
fn subnet(text: &str) -> Option<Prefix> {
    let (addr, len) = text.rsplit_once('-')?;
    let len: u8 = len.parse().ok()?;
    format!("{addr}/{len}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_what_they_were_made_of() {
        let keys = Keys::new("/coreos.com/network");
        for text in ["172.20.59.0/24", "fd00:10:244:7::/64", "fd00::/48", "10.0.0.0/8", "::/0", "::ffff:0.0.0.0/96"] {
            let subnet: Prefix = text.parse().unwrap();
            assert_eq!(keys.parse(&keys.subnet(&subnet)), Some(Key::Subnets(vec![subnet])), "{text}");
        }
        assert_eq!(keys.subnet(&"172.20.59.0/24".parse().unwrap()), "/coreos.com/network/subnets/172.20.59.0-24");
        let ipv6 = "fd00:10:244:7::/64".parse().unwrap();
        assert_eq!(keys.subnet(&ipv6), "/coreos.com/network/subnets/fd00:10:244:7::-64");
        assert_eq!(keys.parse(&keys.node("host-a")), Some(Key::Node("host-a")));
        assert_eq!(keys.parse(&keys.alive("host-a")), Some(Key::Alive("host-a")));
        assert_eq!(keys.parse(&keys.config()), Some(Key::Config));
        assert_eq!(keys.parse(&keys.generation()), Some(Key::Generation));
    }

    #[test]
    fn flannels_forms_are_read_and_others_left_alone() {
        let keys = Keys::new("/n");
        let both = vec!["10.5.34.0/24".parse().unwrap(), "fd00:5:0:1::/64".parse().unwrap()];
        // (key, what it names)
        let cases = [
            ("/n/subnets/10.5.34.0-24&fd00:5:0:1::-64", Some(Key::Subnets(both))),
            ("/n/subnets/10.5.34.1-24", None),
            ("/n/subnets/10.5.34.0", None),
            ("/n/subnets/10.5.34.0-24&", None),
            ("/n/subnets/10.5.34.0-255.255.255.0", None),
            ("/n/subnets/", None),
            ("/n/other", None),
            ("/nn/config", None),
            ("/n/nodes/", None),
        ];
        for (key, wanted) in cases {
            assert_eq!(keys.parse(key), wanted, "{key}");
        }
    }
}
