//! What goes in and out of [`Lease`](super::Lease): wishes, requests, refusals, what is said and shown.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::Write;
use crate::cluster::flannel::Range;
use crate::net::{Family, Prefix};

/// This node, as its configuration has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Me {
    /// Its name
    pub name: String,
    /// Where BGP reaches it
    pub address: IpAddr,
}

/// What time it is, and a piece of chance.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Runs evenly
    pub at: Instant,
    /// Unix seconds; may jump
    pub unix: u64,
    /// Random, new each time: becomes the store's generation, or an id
    pub chance: u128,
}

/// What the node is to have.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Wanted {
    /// Pools, and what of each is handed out; tried in this order within a family
    pub ranges: Vec<Range>,
    /// Subnets in each family that has a range
    pub per_family: usize,
    /// With no free subnet left: how long a node must have been silent before its subnet may be taken; none: never
    pub reclaim_after: Option<Duration>,
    /// How long a sign of life outlives its node (`store.ttl`)
    pub ttl: Duration,
}

/// What an operator may ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// One more subnet of a family
    Another(Family),
    /// Just this one
    Subnet(Prefix),
}

/// What is to be done now.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// To be committed; [`Lease::answered`] is waited for before another comes
    pub write: Option<Write>,
    /// A listing is needed
    pub relist: bool,
    /// For log and history, in order
    pub said: Vec<Said>,
    /// Look again then, at the latest
    pub again: Option<Instant>,
}

/// Another node in our place.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Rival {
    /// Its name
    pub name: String,
    /// Where it is
    pub address: IpAddr,
    /// What it has in common with us
    pub same: Same,
}

/// What another node has in common with us.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Same {
    /// The name
    Name,
    /// The address
    Address,
    /// The id: one's disk is a copy of the other's
    Id,
}

/// Something that happened to our subnets, for log and history. `Display` says it to people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Said {
    /// We hold a subnet that we did not hold
    Took {
        /// The subnet
        subnet: Prefix,
        /// Where it came from
        how: How,
    },
    /// Our claim was missing in the store and is there again
    Restored {
        /// The subnet
        subnet: Prefix,
    },
    /// A subnet that we held is another's
    Lost {
        /// The subnet
        subnet: Prefix,
        /// Who has it; none: nobody, and we cannot be sure that it is ours (another name or address than on disk)
        to: Option<String>,
    },
    /// A subnet was given up on purpose
    Released {
        /// The subnet
        subnet: Prefix,
    },
    /// Another node claims in our place, while the store was set back, what we held before it: its claim is replaced
    Ousted {
        /// The subnet
        subnet: Prefix,
        /// Who has to give way
        from: String,
    },
    /// Nothing is written while another node is in our place
    Blocked(Rival),
    /// Another node is in our place and has to give way
    Rival(Rival),
    /// No other node is in our place any more
    Unblocked,
    /// The disk is a copy of another node's, which lives: we are a new node now
    Copied {
        /// The node that it is a copy of
        of: String,
    },
    /// There is no free subnet
    Exhausted {
        /// Of this family
        family: Family,
    },
    /// The store has lost part of its history
    SetBack {
        /// Revision that we have seen
        seen: i64,
        /// Revision that it has
        now: i64,
    },
    /// The store is another than we knew, or has been set back
    Generation {
        /// As we knew it
        from: String,
        /// As it is
        to: String,
    },
    /// A silent node's subnet was taken from it
    Reclaimed {
        /// The subnet
        subnet: Prefix,
        /// Whose it was
        from: String,
    },
    /// A subnet was reserved
    Reserved {
        /// The subnet
        subnet: Prefix,
        /// For this node
        node: String,
    },
    /// A reservation was taken back
    Unreserved {
        /// The subnet
        subnet: Prefix,
        /// For whom it was
        node: String,
    },
    /// What an operator asked for could not be done after all
    Dropped {
        /// The subnet
        subnet: Prefix,
        /// Why
        why: Refusal,
    },
}

/// Where a subnet came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// It was free
    Free,
    /// It was reserved for us
    Reserved,
    /// It was ours before
    Again,
    /// flannel had given it to this host
    Imported,
}

/// Why an operator's request is not done.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No listing yet, or out of reach
    #[error("the store is out of reach")]
    NoStore,
    /// Another node is in our place
    #[error("{0}")]
    Blocked(Rival),
    /// Not ours
    #[error("{0} is not held by this node")]
    NotOurs(Prefix),
    /// Ours already
    #[error("{0} is held by this node already")]
    Ours(Prefix),
    /// Not in a pool
    #[error("{0} lies in no pool")]
    OutsidePools(Prefix),
    /// No pool of this family
    #[error("there is no pool for {0}")]
    NoPool(Family),
    /// Somebody else's
    #[error("{subnet} is held by {by}")]
    Taken {
        /// What is held
        subnet: Prefix,
        /// By whom
        by: String,
    },
    /// It is in use
    #[error("somebody announces {0} over BGP")]
    Announced(Prefix),
    /// Its node lives
    #[error("node `{0}` is alive")]
    Alive(String),
    /// Nothing there to take back or import
    #[error("{0} is not claimed by anybody")]
    NoClaim(Prefix),
    /// Nothing there to take back or import
    #[error("node `{0}` holds no subnet")]
    NoClaims(String),
    /// flannel knows no such host
    #[error("flannel has given no subnet to {0}")]
    NotFlannels(IpAddr),
    /// Changed while it was asked for
    #[error("the claim of {0} was changed by somebody else meanwhile")]
    Changed(Prefix),
}

/// What a node has of the network, for the views.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct State {
    /// What we hold
    pub held: Vec<HeldState>,
    /// What we want and have not
    pub wanting: Vec<Wanting>,
    /// Another node in our place: nothing is written until it is gone
    pub blocked: Option<Rival>,
    /// Another node in our place, that has to give way
    pub rival: Option<Rival>,
    /// All was given back
    pub left: bool,
    /// The pools, and how full they are; empty without a listing
    pub pools: Vec<PoolUse>,
    /// The store's generation
    pub generation: String,
}

/// A subnet that we hold.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct HeldState {
    /// The subnet
    pub subnet: Prefix,
    /// Since when, Unix seconds
    pub since: u64,
    /// We announce it
    pub believed: bool,
    /// Our claim stands in the store as far as we know
    pub confirmed: bool,
    /// It lies in no pool (any more)
    pub outside: bool,
}

/// What is wanted and not there, and why.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Wanting {
    /// Of this family
    pub family: Family,
    /// How many
    pub count: usize,
    /// Why not
    pub why: Why,
}

/// Why something wanted is not there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The store is out of reach
    NoStore,
    /// It is on its way
    Claiming,
    /// Another node is in our place
    Blocked,
    /// There is no free subnet
    Exhausted,
}

/// How full a pool is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct PoolUse {
    /// The pool
    pub pool: Prefix,
    /// Length of one subnet
    pub subnet_len: u8,
    /// Subnets that are handed out of it
    pub total: u128,
    /// Those of them that a claim bars
    pub used: u128,
}

impl fmt::Display for Same {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name",
            Self::Address => "address",
            Self::Id => "id (a copied disk)",
        })
    }
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node `{}` at {} has this node's {}", self.name, self.address, self.same)
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free => "it was free",
            Self::Reserved => "it was reserved for this node",
            Self::Again => "it was this node's before",
            Self::Imported => "flannel had given it to this host",
        })
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Took { subnet, how } => write!(f, "took {subnet}: {how}"),
            Self::Restored { subnet } => write!(f, "claimed {subnet} again: the claim was missing in the store"),
            Self::Lost { subnet, to: Some(to) } => write!(f, "gave way: {subnet} is held by {to}"),
            Self::Lost { subnet, to: None } => write!(f, "gave up {subnet}: the store knows of no such claim"),
            Self::Released { subnet } => write!(f, "released {subnet}"),
            Self::Ousted { subnet, from } => {
                write!(f, "replaced the claim of {subnet} by {from}, who took it while the store was set back")
            }
            Self::Blocked(rival) => write!(f, "nothing is claimed: {rival}"),
            Self::Rival(rival) => write!(f, "{rival} and has to give way"),
            Self::Unblocked => f.write_str("no other node is in this node's place any more"),
            Self::Copied { of } => {
                write!(f, "the disk is a copy of that of node `{of}`: this is a new node from now on")
            }
            Self::Exhausted { family } => write!(f, "no free subnet is left for {family}"),
            Self::SetBack { seen, now } => {
                write!(f, "the store was set back: it has revision {now}, and {seen} was seen before")
            }
            Self::Generation { from, to } => write!(f, "the store is of generation {to}, it was {from}"),
            Self::Reclaimed { subnet, from } => write!(f, "took {subnet} from {from}"),
            Self::Reserved { subnet, node } => write!(f, "reserved {subnet} for {node}"),
            Self::Unreserved { subnet, node } => write!(f, "{subnet} is no longer reserved for {node}"),
            Self::Dropped { subnet, why } => write!(f, "left {subnet} as it is: {why}"),
        }
    }
}
