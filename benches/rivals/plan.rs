//! What the sources announce: the same prefixes, attributes and order in every run.
//!
//! Slot `s` owns the 256 addresses from 20.0.0.0 + 256·s and gives one prefix that begins there, so a
//! prefix that comes back tells its slot. The lengths are mixed roughly as in an Internet table.

use std::net::Ipv4Addr;
use std::ops::Range;

use crate::harness::speaker;

/// Slots there are: 20.0.0.0 to 35.255.255.255, which holds nothing of special use.
pub const SLOTS: u32 = 1 << 20;

/// Networks that hold all of them.
pub const ALL: [&str; 2] = ["16.0.0.0/4", "32.0.0.0/6"];

/// 20.0.0.0, in units of a slot.
const FIRST: u32 = 20 << 16;

/// Its own numbers for everything that looks random: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit)) as u32
    }
}

/// First address of a slot, which is also its prefix's.
pub fn address(slot: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((FIRST + slot) << 8)
}

/// Length of a slot's prefix.
pub fn length(slot: u32) -> u8 {
    let chance = Random(u64::from(slot)).next();
    match slot {
        _ if slot.is_multiple_of(256) => 16,
        _ if slot.is_multiple_of(16) => 20,
        _ if slot.is_multiple_of(4) => 22,
        _ if slot.is_multiple_of(2) => 23 + (chance % 2) as u8,
        _ => match chance % 20 {
            0 => 25,
            1 => 26,
            _ => 24,
        },
    }
}

/// The slot of a prefix, if it is one of ours.
pub fn slot(address: u32, length_: u8) -> Option<u32> {
    (address >> 8).checked_sub(FIRST).filter(|slot| *slot < SLOTS && length(*slot) == length_)
}

/// The order in which slots are announced: short runs of neighbours, shuffled.
pub fn order(slots: Range<u32>, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    let mut runs = Vec::new();
    let mut next = slots.start;
    while next < slots.end {
        let end = slots.end.min(next + 1 + random.below(4));
        runs.push(next..end);
        next = end;
    }
    for last in (1..runs.len()).rev() {
        runs.swap(last, random.below(last as u32 + 1) as usize);
    }
    runs.into_iter().flatten().collect()
}

/// Who announces.
#[derive(Clone, Copy)]
pub struct Source {
    /// Its address, the next hop
    pub address: Ipv4Addr,
    /// Its AS
    pub asn: u32,
    /// Whether the other end is in the same AS
    pub internal: bool,
    /// How often more than needed it names its AS, to be liked less
    pub prepend: usize,
    /// Two sources of one seed give like attributes in like order
    pub seed: u64,
}

/// The UPDATEs for these slots: 5 to 10 prefixes in each, paths of 1 to 6 AS numbers (0 to 3 within an
/// AS), communities on every second.
pub fn updates(slots: Range<u32>, source: Source) -> Vec<u8> {
    let mut random = Random(!source.seed);
    let order = order(slots, source.seed);
    let mut bytes = Vec::with_capacity(order.len() * 16);
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let (group, more) = rest.split_at(rest.len().min(5 + random.below(6) as usize));
        rest = more;
        let nlri: Vec<u8> = group.iter().flat_map(|slot| speaker::nlri(address(*slot), length(*slot))).collect();
        bytes.extend(speaker::update(&attributes(source, &mut random), &nlri));
    }
    bytes
}

/// Path attributes as bytes (RFC 4271 §4.3).
fn attributes(source: Source, random: &mut Random) -> Vec<u8> {
    let mut attrs = vec![0x40, 1, 1, if random.below(5) == 0 { 2 } else { 0 }];
    let own = if source.internal { 0 } else { 1 + source.prepend };
    let tail = random.below(if source.internal { 4 } else { 6 });
    let mut path = vec![source.asn; own];
    path.extend((0..tail).map(|_| 1000 + random.below(20_000) + if random.below(4) == 0 { 199_000 } else { 0 }));
    attrs.extend([0x40, 2]);
    if path.is_empty() {
        attrs.push(0);
    } else {
        attrs.extend([2 + 4 * path.len() as u8, 2, path.len() as u8]);
        attrs.extend(path.iter().flat_map(|asn| asn.to_be_bytes()));
    }
    attrs.extend([0x40, 3, 4]);
    attrs.extend(source.address.octets());
    if source.internal {
        attrs.extend([0x40, 5, 4, 0, 0, 0, 100]);
    }
    if random.below(2) == 0 {
        let count = 1 + random.below(4) as u8;
        attrs.extend([0xc0, 8, 4 * count]);
        attrs.extend(
            (0..count).flat_map(|_| (((1000 + random.below(20_000)) << 16) + random.below(1000)).to_be_bytes()),
        );
    }
    attrs
}
