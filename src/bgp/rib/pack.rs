//! Routes with equal attributes packed into as few UPDATEs as fit, once for all peers of a group.
//!
//! Almost every message is for all members but the one the route came from. So messages stand in
//! one buffer in runs with an audience each, sorted so that equal audiences touch, and a member
//! takes the buffer without its own run: two pieces of shared memory, no copy.

use std::ops::Range;
use std::sync::Arc;

use ahash::RandomState;
use bytes::Bytes;
use hashbrown::HashMap;

use super::export::ExportSettings;
use super::{PeerId, Selected, Source};
use crate::bgp::attrs::Attrs;
use crate::bgp::message::Codec;
use crate::bgp::policy::{Edit, Offer};
use crate::bgp::wire;
use crate::net::{Family, Prefix};

/// Which members of a group a message is for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Audience {
    /// Every member
    All,
    /// Every member but this one
    AllBut(PeerId),
    /// This member
    Only(PeerId),
}

impl Audience {
    /// Whether it takes in this member.
    pub fn includes(self, member: PeerId) -> bool {
        match self {
            Self::All => true,
            Self::AllBut(other) => other != member,
            Self::Only(other) => other == member,
        }
    }
}

/// Whole messages for the members of a group.
#[derive(Clone, Debug)]
pub struct Chunk {
    bytes: Bytes,
    told: Vec<Told>,
    runs: Vec<Run>,
}

/// A part of a chunk with one audience.
#[derive(Clone, Debug)]
struct Run {
    audience: Audience,
    bytes: Range<usize>,
    told: Range<usize>,
}

/// What a message tells of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    /// The best path in this cell of the table
    Cell(u32),
    /// That there is no route any more
    Gone(Prefix),
}

impl Chunk {
    /// What a member is to be sent: whole messages, in few pieces.
    pub fn bytes_for(&self, member: PeerId) -> impl Iterator<Item = Bytes> + '_ {
        let mut runs = self.runs.iter().filter(move |run| run.audience.includes(member)).peekable();
        std::iter::from_fn(move || {
            let mut piece = runs.next()?.bytes.clone();
            while let Some(next) = runs.next_if(|next| next.bytes.start == piece.end) {
                piece.end = next.bytes.end;
            }
            Some(self.bytes.slice(piece))
        })
    }

    /// What it tells a member of, and the member doesn't know if it can't be sent this.
    pub(super) fn told(&self, member: PeerId) -> impl Iterator<Item = Told> + '_ {
        let runs = self.runs.iter().filter(move |run| run.audience.includes(member));
        runs.flat_map(|run| self.told.get(run.told.clone()).unwrap_or_default()).copied()
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Length of all messages in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A chunk is complete from this many bytes on.
pub(super) const CHUNK: usize = 48 << 10;

/// Number of an exported attribute set.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Set(u32);

/// What exported attributes follow from: address of the attributes, their sender, address of the change,
/// family.
type Key = (usize, Source, usize, Family);

/// Collects what to send, then packs it.
#[derive(Debug)]
pub(super) struct Packer<'a> {
    settings: &'a ExportSettings,
    known: HashMap<Key, Set, RandomState>,
    sets: Vec<Attrs>,
    last_known: Option<(Key, Set)>,
    last_equal: (Set, Set, bool),
    buckets: HashMap<Bucket, u32, RandomState>,
    order: Vec<(Bucket, u32)>,
    last_bucket: Option<(Bucket, u32)>,
    items: Vec<(u32, Item)>,
    /// Encoded length so far, a rough guess
    pub estimate: usize,
}

/// A prefix, and the cell of its entry.
type Item = (Prefix, u32);

/// What one message can carry: prefixes of a family for one audience, with one set of attributes or
/// withdrawn. Sorts announcements first: what takes over is told before what goes away.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Bucket {
    withdraw: bool,
    audience: Audience,
    family: Family,
    set: Set,
}

impl<'a> Packer<'a> {
    pub fn new(settings: &'a ExportSettings) -> Self {
        Self {
            settings,
            known: HashMap::default(),
            sets: Vec::new(),
            last_known: None,
            last_equal: (Set(0), Set(0), true),
            buckets: HashMap::default(),
            order: Vec::new(),
            last_bucket: None,
            items: Vec::new(),
            estimate: 0,
        }
    }

    /// Whether the group gets a route, and with which change.
    #[expect(clippy::option_option, reason = "offered or not, changed or not")]
    pub fn offer(&self, prefix: &Prefix, route: &Selected) -> Option<Option<&'a Edit>> {
        match self.settings.offer(prefix, route) {
            Offer::Never => None,
            Offer::AsItIs => Some(None),
            Offer::Edited(edit) => Some(Some(edit)),
        }
    }

    /// The attributes that the group gets of a route it is offered.
    pub fn set(&mut self, prefix: &Prefix, route: &Selected, edit: Option<&Edit>) -> Set {
        // The routes outlive the packer, so their attributes stay where they are.
        let address = Arc::as_ptr(&route.attrs) as usize;
        let edit_address = edit.map_or(0, |edit| std::ptr::from_ref::<Edit>(edit) as usize);
        let key = (address, route.source, edit_address, prefix.family());
        if let Some((_, set)) = self.last_known.filter(|(known, _)| *known == key) {
            return set;
        }
        let next = Set(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        let set = *self.known.entry(key).or_insert(next);
        if set == next {
            self.sets.push(self.settings.rewrite(prefix.family(), route, edit));
        }
        self.last_known = Some((key, set));
        set
    }

    /// Whether two sets say the same.
    pub fn same(&mut self, a: Set, b: Set) -> bool {
        if a == b {
            return true;
        }
        if (self.last_equal.0, self.last_equal.1) != (a, b) {
            let equal = self.sets.get(a.0 as usize) == self.sets.get(b.0 as usize);
            self.last_equal = (a, b, equal);
        }
        self.last_equal.2
    }

    pub fn announce(&mut self, item: Item, set: Set, audience: Audience) {
        self.add(item, Bucket { withdraw: false, audience, family: item.0.family(), set });
    }

    pub fn withdraw(&mut self, item: Item, audience: Audience) {
        self.add(item, Bucket { withdraw: true, audience, family: item.0.family(), set: Set(0) });
    }

    fn add(&mut self, item: Item, bucket: Bucket) {
        let number = match self.last_bucket {
            Some((last, number)) if last == bucket => number,
            _ => {
                let next = u32::try_from(self.order.len()).unwrap_or(u32::MAX);
                let number = *self.buckets.entry(bucket).or_insert(next);
                if number == next {
                    self.order.push((bucket, number));
                    self.estimate += 60;
                }
                self.last_bucket = Some((bucket, number));
                number
            }
        };
        self.items.push((number, item));
        self.estimate += 1 + usize::from(item.0.len().div_ceil(8));
    }

    /// Packs all into messages, in chunks of about `chunk` bytes; second, how many prefixes could not be told, because their
    /// attributes fit into no message: those are withdrawn instead (RFC 4271 §9.2).
    pub fn finish(mut self, chunk: usize) -> (Vec<Chunk>, usize) {
        // Within a bucket prefixes keep the order they came in.
        let mut ends = vec![0_usize; self.order.len() + 1];
        for (number, _) in &self.items {
            ends[*number as usize + 1] += 1;
        }
        for i in 1..ends.len() {
            ends[i] += ends[i - 1];
        }
        let starts = ends.clone();
        let mut sorted = vec![Prefix::default_route(Family::Ipv4); self.items.len()];
        let mut cells = vec![0; self.items.len()];
        for (number, (prefix, cell)) in &self.items {
            let place = &mut ends[*number as usize];
            (sorted[*place], cells[*place]) = (*prefix, *cell);
            *place += 1;
        }
        drop(std::mem::take(&mut self.items));
        self.order.sort_unstable_by_key(|(bucket, _)| *bucket);

        let mut out = Writer::new(self.settings.codec, chunk);
        let mut untold = 0;
        for (bucket, number) in &self.order {
            let number = *number as usize;
            let all = starts[number]..starts[number + 1];
            // So that a chunk doesn't grow far beyond its limit.
            let portion = if bucket.family == Family::Ipv4 { 4096 } else { 1024 };
            for (prefixes, cells) in sorted[all.clone()].chunks(portion).zip(cells[all].chunks(portion)) {
                match self.sets.get(bucket.set.0 as usize).filter(|_| !bucket.withdraw) {
                    Some(attrs) => untold += out.announce(attrs, prefixes, cells, bucket.audience),
                    None => out.withdraw(prefixes, bucket.audience),
                }
            }
        }
        (out.finish(), untold)
    }
}

/// Writes messages into chunks.
struct Writer {
    codec: Codec,
    /// Bytes that make a chunk
    limit: usize,
    chunks: Vec<Chunk>,
    bytes: Vec<u8>,
    told: Vec<Told>,
    runs: Vec<Run>,
}

impl Writer {
    fn new(codec: Codec, limit: usize) -> Self {
        Self { codec, limit, chunks: Vec::new(), bytes: Vec::new(), told: Vec::new(), runs: Vec::new() }
    }

    /// How many prefixes had to be withdrawn instead.
    fn announce(&mut self, attrs: &Attrs, prefixes: &[Prefix], cells: &[u32], audience: Audience) -> usize {
        let start = self.bytes.len();
        if wire::encode_reach(attrs, prefixes, &self.codec, &mut self.bytes).is_ok() {
            self.note(start, cells.iter().copied().map(Told::Cell), audience);
            return 0;
        }
        self.bytes.truncate(start);
        self.withdraw(prefixes, audience);
        prefixes.len()
    }

    fn withdraw(&mut self, prefixes: &[Prefix], audience: Audience) {
        let start = self.bytes.len();
        wire::encode_withdraw(prefixes, &self.codec, &mut self.bytes);
        self.note(start, prefixes.iter().copied().map(Told::Gone), audience);
    }

    fn note(&mut self, start: usize, told: impl Iterator<Item = Told>, audience: Audience) {
        let first = self.told.len();
        self.told.extend(told);
        let (bytes, told) = (self.bytes.len(), self.told.len());
        match self.runs.last_mut() {
            Some(last) if last.audience == audience => (last.bytes.end, last.told.end) = (bytes, told),
            _ => self.runs.push(Run { audience, bytes: start..bytes, told: first..told }),
        }
        if bytes >= self.limit {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let (told, runs) = (std::mem::take(&mut self.told), std::mem::take(&mut self.runs));
        self.chunks.push(Chunk { bytes, told, runs });
    }

    fn finish(mut self) -> Vec<Chunk> {
        if !self.bytes.is_empty() {
            self.cut();
        }
        self.chunks
    }
}
