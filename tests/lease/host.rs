//! A host: its disk, its configuration, the daemon on it.

use std::net::IpAddr;

use wayleave::cluster::lease::{Lease, Me, Memory, Wanted};
use wayleave::cluster::mirror::Mirror;
use wayleave::net::Prefix;

pub struct Host {
    pub me: Me,
    pub wanted: Wanted,
    pub disk: Option<Memory>,
    pub run: Option<Run>,
    /// How often it was started
    pub runs: u32,
    /// Added to the seconds of its clock
    pub clock: i64,
    /// The store is out of its reach
    pub cut: bool,
    /// Nobody hears its BGP
    pub isolated: bool,
    /// Its memory cannot be written to disk
    pub disk_broken: bool,
}

/// The daemon.
pub struct Run {
    pub number: u32,
    pub lease: Lease,
    pub mirror: Mirror,
    pub listed: bool,
    pub relist: bool,
    /// That of the store that the mirror follows
    pub epoch: u32,
    /// News is on its way
    pub following: bool,
    /// What it announces
    pub published: Vec<Prefix>,
    /// The id under which its record stands
    pub recorded: Option<String>,
    /// When its machine wants to look again
    pub wake: Option<u64>,
    /// Since when it was in reach of the store without a break, in milliseconds
    pub in_reach: Option<u64>,
}

impl Host {
    pub fn new(me: Me, wanted: Wanted) -> Self {
        Self { me, wanted, disk: None, run: None, runs: 0, clock: 0, cut: false, isolated: false, disk_broken: false }
    }

    pub fn address(&self) -> IpAddr {
        self.me.address
    }

    pub fn published(&self) -> &[Prefix] {
        self.run.as_ref().map_or(&[], |run| &run.published)
    }

    /// What stands on its disk.
    pub fn kept(&self) -> Vec<Prefix> {
        self.disk.as_ref().map_or_else(Vec::new, |disk| disk.held.iter().map(|held| held.subnet).collect())
    }
}
