//! What a node knows of its subnets when it starts, store or not.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Ask;
use crate::net::{Family, Prefix};

/// What stays on disk. Fields may be added; a missing one has its default.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What tells this host from another of its name: 128 bits, hex
    pub id: String,
    /// The name that this was written under; empty: never written
    pub name: String,
    /// Names that the host had since, before all was confirmed under one of them
    pub names: Vec<String>,
    /// The address that this was written under
    pub address: Option<IpAddr>,
    /// Addresses that the host had before, the latest first
    pub former: Vec<IpAddr>,
    /// What we hold, in the order in which we got it
    pub held: Vec<Held>,
    /// What we held, the latest first: asked for again before any other
    pub wishes: Vec<Prefix>,
    /// What the operator gave back: not taken again until asked for
    pub released: Vec<Prefix>,
    /// What the operator asked for and is not there yet
    pub asked: Vec<Ask>,
    /// The operator gave all back: nothing is taken until it is asked for
    pub left: bool,
    /// A revision of the store that we have seen; not written for its own sake, so there were higher ones
    pub revision: i64,
    /// The store's generation then; empty: none seen
    pub generation: String,
}

/// A subnet that we hold.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The subnet
    pub subnet: Prefix,
    /// Since when, Unix seconds
    pub since: u64,
    /// Revision at which our claim was written
    pub modified: i64,
    /// Generation of the store that our claim stood in
    pub generation: String,
}

impl Memory {
    /// Of a host that has none yet; `id` is 128 random bits in hex.
    pub fn new(id: String) -> Self {
        Self { id, ..Self::default() }
    }

    /// How many subnets of a family we hold.
    pub(super) fn count(&self, family: Family) -> usize {
        self.held.iter().filter(|held| held.subnet.family() == family).count()
    }

    /// Whether we hold just this subnet.
    pub(super) fn holds(&self, subnet: &Prefix) -> bool {
        self.held.iter().any(|held| held.subnet == *subnet)
    }

    /// Notes that we hold a subnet; what was asked for is thereby there.
    pub(super) fn take(&mut self, held: Held, per_family: usize) {
        let (subnet, family) = (held.subnet, held.subnet.family());
        let place = |wanted: Ask| self.asked.iter().position(|ask| *ask == wanted);
        let another = || place(Ask::Another(family)).filter(|_| self.count(family) >= per_family);
        if let Some(asked) = place(Ask::Subnet(subnet)).or_else(another) {
            self.asked.remove(asked);
        }
        self.wishes.retain(|wish| *wish != subnet);
        self.released.retain(|released| *released != subnet);
        self.held.push(held);
    }

    /// Notes that all that is here stands in the store under this name and address.
    pub(super) fn confirm(&mut self, name: &str, address: IpAddr) {
        name.clone_into(&mut self.name);
        self.names.clear();
        if let Some(former) = self.address.replace(address).filter(|former| *former != address) {
            self.former.insert(0, former);
            self.former.truncate(MOST_FORMER);
        }
    }

    /// Notes that we no longer hold a subnet and would like it back.
    pub(super) fn lose(&mut self, subnet: &Prefix) {
        self.held.retain(|held| held.subnet != *subnet);
        self.wishes.retain(|wish| wish != subnet);
        self.wishes.insert(0, *subnet);
        self.wishes.truncate(MOST_FORMER);
    }
}

/// So many former subnets and addresses are remembered.
const MOST_FORMER: usize = 8;
