//! The entries of an L1, bounded in bytes and number. Evicted is the least frequently used of a random sample; among equals, the
//! least recently used.

use crate::sketch::Sketch;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// Bytes of an entry in addition to its id and value: its slot in a vector that doubles, its place in the table, its counters in
/// the sketch, and the allocator's overhead. `tests/unit/test_l1_native.py` compares it with the memory of the process.
pub const OVERHEAD: usize = 200;
/// The size of the sample. With 32, the victim is almost certainly among the least used tenth.
const LOOKED_AT: usize = 32;

pub struct Entry {
    pub version: i64,
    pub read_at: f64,
    pub timer: f64,
    pub epoch: u64,
    /// When a refresh was requested, in seconds since the epoch; 0 for never.
    pub asked_at: f64,
    pub partition: u8,
    /// Chooses the sample of `reuse.rs`.
    pub spatial: u32,
    is_none: bool,
    id_length: u32,
    /// The id followed by the value, in one allocation.
    data: Box<[u8]>,
}

impl Entry {
    pub fn new(id: &str, value: Option<&[u8]>, version: i64, read_at: f64, timer: f64) -> Self {
        let mut data = Vec::with_capacity(id.len() + value.map_or(0, <[u8]>::len));
        data.extend_from_slice(id.as_bytes());
        data.extend_from_slice(value.unwrap_or_default());
        let crc = crc_of(id.as_bytes());
        Entry {
            version,
            read_at,
            timer,
            epoch: 0,
            asked_at: 0.0,
            partition: crc as u8,
            spatial: mix(crc),
            is_none: value.is_none(),
            id_length: id.len() as u32,
            data: data.into_boxed_slice(),
        }
    }

    pub fn id(&self) -> &[u8] {
        &self.data[..self.id_length as usize]
    }

    /// Returns the serialized reply; None for a row that does not exist.
    pub fn value(&self) -> Option<&[u8]> {
        if self.is_none { None } else { Some(&self.data[self.id_length as usize..]) }
    }

    pub fn cost(&self) -> usize {
        OVERHEAD + self.data.len()
    }
}

struct Slot {
    hash: u64,
    used: u64,
    entry: Entry,
}

pub struct Entries {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    sketch: Sketch,
    hasher: RandomState,
    bytes: usize,
    max_bytes: usize,
    max_entries: usize,
    uses: u64,
    random: u64,
    pub evictions: u64,
}

impl Entries {
    pub fn new(max_bytes: usize, max_entries: usize) -> Self {
        let hasher = RandomState::default();
        let random = hasher.hash_one(0u8) | 1;
        Entries {
            table: HashTable::new(),
            slots: Vec::new(),
            sketch: Sketch::new(0),
            hasher,
            bytes: 0,
            max_bytes,
            max_entries,
            uses: 0,
            random,
            evictions: 0,
        }
    }

    /// Removes and returns all entries.
    pub fn clear(&mut self) -> Entries {
        let empty = Entries { evictions: self.evictions, ..Entries::new(self.max_bytes, self.max_entries) };
        std::mem::replace(self, empty)
    }

    pub fn count(&self) -> usize {
        self.slots.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Returns an entry, and counts the use, even if there is no entry.
    pub fn use_(&mut self, id: &[u8]) -> Option<&mut Entry> {
        self.use_again(id).map(|(entry, _)| entry)
    }

    /// As `use_`; also returns the number of the entry's previous use.
    pub fn use_again(&mut self, id: &[u8]) -> Option<(&mut Entry, u64)> {
        let hash = self.hasher.hash_one(id);
        self.sketch.count(hash);
        let index = self.index(hash, id)?;
        self.uses += 1;
        let slot = &mut self.slots[index];
        let before = std::mem::replace(&mut slot.used, self.uses);
        Some((&mut slot.entry, before))
    }

    /// Returns the number of the last use.
    pub fn uses(&self) -> u64 {
        self.uses
    }

    /// Returns an entry.
    pub fn peek(&self, id: &[u8]) -> Option<&Entry> {
        let index = self.index(self.hasher.hash_one(id), id)?;
        Some(&self.slots[index].entry)
    }

    /// Stores an entry that fits, replacing one of the same id; evicts others to make room.
    pub fn insert(&mut self, entry: Entry) {
        self.remove(entry.id());
        self.make_room(entry.cost(), 1);
        self.sketch.grow(self.slots.len() + 1);
        self.uses += 1;
        self.bytes += entry.cost();
        let hash = self.hasher.hash_one(entry.id());
        let index = self.slots.len() as u32;
        self.slots.push(Slot { hash, used: self.uses, entry });
        let slots = &self.slots;
        self.table.insert_unique(hash, index, |index| slots[*index as usize].hash);
    }

    pub fn remove(&mut self, id: &[u8]) -> bool {
        let found = self.index(self.hasher.hash_one(id), id);
        if let Some(index) = found {
            self.remove_at(index);
        }
        found.is_some()
    }

    /// Changes the bounds, and evicts entries above them.
    pub fn resize(&mut self, max_bytes: usize, max_entries: usize) {
        self.max_bytes = max_bytes;
        self.max_entries = max_entries;
        for index in (0..self.slots.len()).rev() {
            if self.slots[index].entry.cost() > max_bytes {
                self.evict(index);
            }
        }
        self.make_room(0, 0);
    }

    fn make_room(&mut self, bytes: usize, entries: usize) {
        while self.bytes + bytes > self.max_bytes || self.slots.len() + entries > self.max_entries {
            let victim = self.victim();
            self.evict(victim);
        }
    }

    fn victim(&mut self) -> usize {
        let held = self.slots.len();
        let looked_at = held.min(LOOKED_AT);
        let worth = |entries: &Self, index: usize| {
            let slot = &entries.slots[index];
            (entries.sketch.estimate(slot.hash), slot.used)
        };
        let mut found = 0;
        let mut least = (u8::MAX, u64::MAX);
        for number in 0..looked_at {
            let index = if held <= LOOKED_AT { number } else { self.next_random() as usize % held };
            let worth = worth(self, index);
            if worth < least {
                (found, least) = (index, worth);
            }
        }
        found
    }

    /// xorshift64*, which is good enough to choose victims.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn evict(&mut self, index: usize) {
        self.remove_at(index);
        self.evictions += 1;
    }

    fn index(&self, hash: u64, id: &[u8]) -> Option<usize> {
        self.table.find(hash, |index| self.slots[*index as usize].entry.id() == id).map(|index| *index as usize)
    }

    /// Removes a slot; the last one takes its place.
    fn remove_at(&mut self, index: usize) {
        let hash = self.slots[index].hash;
        if let Ok(place) = self.table.find_entry(hash, |found| *found as usize == index) {
            place.remove();
        }
        let last = self.slots.len() - 1;
        if let Some(place) = self.table.find_mut(self.slots[last].hash, |found| *found as usize == last) {
            *place = index as u32;
        }
        self.bytes -= self.slots.swap_remove(index).entry.cost();
    }
}

/// Returns the partition of an id: the last byte of its CRC-32, as in `tiers/ports.py`.
pub fn partition_of(id: &[u8]) -> u8 {
    crc_of(id) as u8
}

/// Returns the hash of an id by which samples are chosen, as in `tiers/memory/reuse.py`.
pub fn spatial_hash(id: &[u8]) -> u32 {
    mix(crc_of(id))
}

/// The finalizer of MurmurHash3: CRC-32 is linear, so ids that differ in a few digits would be in a sample together.
fn mix(crc: u32) -> u32 {
    let mixed = (crc ^ crc >> 16).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ mixed >> 13).wrapping_mul(0xc2b2_ae35);
    mixed ^ mixed >> 16
}

fn crc_of(id: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in id {
        crc = CRC[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8;
    }
    !crc
}

const CRC: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, size: usize) -> Entry {
        Entry::new(id, Some(&vec![7; size]), 1, 0.0, 0.0)
    }

    #[test]
    fn partitions_are_those_of_zlib() {
        // zlib.crc32 of each, & 0xff
        for (id, partition) in [("", 0x00), ("a", 0x43), ("123456789", 0x26), ("product-00000042", 0xef)] {
            assert_eq!(partition_of(id.as_bytes()), partition, "{id}");
        }
    }

    #[test]
    fn holds_what_it_was_given() {
        let mut entries = Entries::new(1 << 20, 100);
        entries.insert(Entry::new("a", None, 3, 1.0, 2.0));
        entries.insert(entry("b", 10));
        assert_eq!(entries.use_(b"a").unwrap().value(), None);
        assert_eq!(entries.use_(b"b").unwrap().value(), Some(&[7u8; 10][..]));
        assert_eq!(entries.peek(b"b").unwrap().id(), b"b");
        assert!(entries.use_(b"c").is_none());
        assert_eq!(entries.bytes(), 2 * OVERHEAD + 12);
        assert!(entries.remove(b"a") && !entries.remove(b"a"));
        assert_eq!((entries.count(), entries.bytes()), (1, OVERHEAD + 11));
    }

    #[test]
    fn the_table_follows_what_moves() {
        let mut entries = Entries::new(1 << 20, 1000);
        for number in 0..500 {
            entries.insert(entry(&format!("id{number}"), number));
        }
        for number in (0..500).step_by(3) {
            assert!(entries.remove(format!("id{number}").as_bytes()));
        }
        for number in 0..500 {
            let found = entries.peek(format!("id{number}").as_bytes()).map(|entry| entry.value().unwrap().len());
            assert_eq!(found, (number % 3 != 0).then_some(number));
        }
    }

    #[test]
    fn both_bounds_hold() {
        let mut entries = Entries::new(10 * (OVERHEAD + 100), 1000);
        for number in 0..1000 {
            entries.insert(entry(&format!("{number:03}"), 97));
            assert!(entries.bytes() <= entries.max_bytes());
        }
        assert_eq!((entries.count(), entries.evictions), (10, 990));
        entries.resize(1 << 20, 3);
        assert_eq!(entries.count(), 3);
    }

    #[test]
    fn what_is_used_often_stays() {
        let mut entries = Entries::new(1 << 20, 10);
        entries.insert(entry("often", 1));
        for number in 0..100 {
            entries.use_(b"often");
            entries.insert(entry(&number.to_string(), 1));
        }
        assert!(entries.peek(b"often").is_some());
    }

    /// A catalogue of 100,000 whose popularity follows Zipf's law with exponent 0.9; LFU has .444 and .671.
    #[test]
    fn hits_more_than_lfu() {
        const IDS: usize = 100_000;
        let mut sums = Vec::with_capacity(IDS);
        let mut sum = 0.0;
        for rank in 1..=IDS {
            sum += (rank as f64).powf(-0.9);
            sums.push(sum);
        }
        for (held, goal) in [(IDS / 100, 0.444), (IDS / 10, 0.671)] {
            let mut entries = Entries::new(1 << 30, held);
            let mut random = 0x1234_5678_9abc_def1u64;
            let (warm, asked) = (400_000, 400_000);
            let mut hits = 0;
            for number in 0..warm + asked {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let wanted = (random >> 11) as f64 / (1u64 << 53) as f64 * sum;
                let id = sums.partition_point(|up_to| *up_to < wanted).to_string();
                if entries.use_(id.as_bytes()).is_some() {
                    hits += usize::from(number >= warm);
                } else {
                    entries.insert(entry(&id, 1));
                }
            }
            let ratio = hits as f64 / asked as f64;
            println!("{held} held: {ratio:.4}");
            assert!(ratio >= goal, "{held} held: {ratio:.4} of {goal}");
        }
    }
}
