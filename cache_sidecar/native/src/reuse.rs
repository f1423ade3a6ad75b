//! What other sizes and times to live would do, simulated on a sample of the ids that is chosen by their hash: SHARDS with a fixed
//! number of ids (Waldspurger, Park, Garthwaite, Ahmad, Efficient MRC Construction with SHARDS, FAST 2015).
//!
//! The same as `tiers/memory/reuse.py`, which explains it, and passes the same tests. Called under the lock of an L1, for the hits
//! that Python does not see; a hit of an id outside the sample costs one comparison.

use std::collections::{BinaryHeap, HashMap};

/// Multiples of what is configured, by name; see `tiers/memory/reuse.py`.
#[derive(Clone, Default)]
pub struct Alternatives {
    /// Each of a size of L1 and of its times.
    pub l1: Vec<(f64, f64)>,
    pub l1_ttls: Vec<f64>,
    pub l2_ttls: Vec<f64>,
    /// The index in `l1` of what is configured.
    pub present: usize,
}

/// What is configured; times in seconds.
#[derive(Clone, Copy, Default)]
pub struct Configuration {
    /// Entries for which L1 has room.
    pub entries: f64,
    pub soft: f64,
    pub hard: f64,
    pub l2_ttl: f64,
    /// Whether each use extends the life of a record in Redis.
    pub slides: bool,
}

/// Estimates since the start, for all ids; each list is in the order of the alternatives.
#[derive(Clone, Default)]
pub struct Figures {
    pub reads: f64,
    pub hits: Vec<f64>,
    pub refreshes: Vec<f64>,
    pub outdated: Vec<f64>,
    pub loads: Vec<f64>,
}

struct Key {
    /// When it was last read: the number of the read among those of the sample.
    read: u64,
    version: i64,
    changed_at: f64,
    /// When it was last loaded, by alternative: those of L1, those of L1 without invalidations, those of Redis.
    loaded: Box<[f64]>,
}

pub struct Reuse {
    alternatives: Alternatives,
    max_keys: usize,
    /// Hashes below it are in the sample.
    threshold: u64,
    configuration: Configuration,
    keys: HashMap<u32, Key>,
    /// The hashes of `keys`, the highest first.
    highest: BinaryHeap<u32>,
    /// The `read` of all keys, sorted: how many are higher than that of a key is its reuse distance.
    order: Vec<u64>,
    sampled: u64,
    figures: Figures,
}

impl Reuse {
    pub fn new(alternatives: Alternatives, max_keys: usize) -> Self {
        let figures = Figures {
            reads: 0.0,
            hits: vec![0.0; alternatives.l1.len()],
            refreshes: vec![0.0; alternatives.l1.len()],
            outdated: vec![0.0; alternatives.l1_ttls.len()],
            loads: vec![0.0; alternatives.l2_ttls.len()],
        };
        Reuse {
            alternatives,
            max_keys,
            threshold: 1 << 32,
            configuration: Configuration::default(),
            keys: HashMap::new(),
            highest: BinaryHeap::new(),
            order: Vec::new(),
            sampled: 0,
            figures,
        }
    }

    pub fn configure(&mut self, configuration: Configuration) {
        self.configuration = configuration;
    }

    /// Whether an id is in the sample, by its hash.
    pub fn has(&self, hash: u32) -> bool {
        u64::from(hash) < self.threshold
    }

    /// Counts a read of an id, by its hash.
    pub fn read(&mut self, hash: u32, now: f64) {
        if !self.has(hash) {
            return;
        }
        let weight = (1u64 << 32) as f64 / self.threshold as f64;
        self.figures.reads += weight;
        self.sampled += 1;
        let number = self.sampled;
        let Some(key) = self.keys.get_mut(&hash) else {
            let count = self.alternatives.l1.len() + self.alternatives.l1_ttls.len() + self.alternatives.l2_ttls.len();
            let key = Key { read: number, version: 0, changed_at: f64::NEG_INFINITY, loaded: vec![now; count].into() };
            self.keys.insert(hash, key);
            self.highest.push(hash);
            self.order.push(number);
            if self.keys.len() > self.max_keys {
                self.lower(u64::from(*self.highest.peek().unwrap_or(&0)));
            }
            return;
        };
        let place = self.order.partition_point(|read| *read < key.read);
        let distance = (self.order.len() - 1 - place) as f64 * weight;
        self.order.remove(place);
        self.order.push(number);
        key.read = number;
        let Configuration { entries, soft, hard, l2_ttl, slides } = self.configuration;
        let Alternatives { l1, l1_ttls, l2_ttls, present } = &self.alternatives;
        let (in_l1, rest) = key.loaded.split_at_mut(l1.len());
        let (uninvalidated, in_l2) = rest.split_at_mut(l1_ttls.len());
        let mut is_loaded = false;
        for (number, ((size, ttl), loaded)) in l1.iter().zip(in_l1).enumerate() {
            let age = now - *loaded;
            let is_hit = distance < size * entries && age < ttl * hard;
            let is_refreshed = is_hit && age >= ttl * soft;
            if is_hit {
                self.figures.hits[number] += weight;
            }
            if is_refreshed {
                self.figures.refreshes[number] += weight;
            }
            if is_refreshed || !is_hit {
                *loaded = now;
                is_loaded |= number == *present;
            }
        }
        for (number, (ttl, loaded)) in l1_ttls.iter().zip(uninvalidated).enumerate() {
            let age = now - *loaded;
            if age < ttl * hard && key.changed_at >= *loaded {
                self.figures.outdated[number] += weight;
            }
            if age >= ttl * soft {
                *loaded = now;
            }
        }
        if !is_loaded {
            return;
        }
        for (number, (ttl, loaded)) in l2_ttls.iter().zip(in_l2).enumerate() {
            let is_held = now - *loaded < ttl * l2_ttl;
            if !is_held {
                self.figures.loads[number] += weight;
            }
            if slides || !is_held {
                *loaded = now;
            }
        }
    }

    /// Notes that an id was changed; `version` 0 is any change. The same version twice is one change.
    pub fn change(&mut self, hash: u32, version: i64, now: f64) {
        let Some(key) = self.keys.get_mut(&hash) else { return };
        if version != 0 && version <= key.version {
            return;
        }
        key.version = version.max(key.version);
        key.changed_at = now;
        let times = self.alternatives.l1.len()..self.alternatives.l1.len() + self.alternatives.l1_ttls.len();
        for (number, loaded) in key.loaded.iter_mut().enumerate() {
            if !times.contains(&number) {
                *loaded = f64::NEG_INFINITY;
            }
        }
    }

    /// Leaves half of the hashes in the sample.
    pub fn halve(&mut self) {
        self.lower(self.threshold / 2);
    }

    /// Takes hashes from `threshold` on out of the sample.
    fn lower(&mut self, threshold: u64) {
        self.threshold = threshold.max(1);
        while self.highest.peek().is_some_and(|hash| !self.has(*hash)) {
            if let Some(key) = self.highest.pop().and_then(|hash| self.keys.remove(&hash)) {
                let place = self.order.partition_point(|read| *read < key.read);
                self.order.remove(place);
            }
        }
    }

    pub fn figures(&self) -> Figures {
        self.figures.clone()
    }

    /// Returns how many ids are in the sample, the share of all ids that it is, and how many reads it has seen.
    pub fn sample(&self) -> (usize, f64, u64) {
        (self.keys.len(), self.threshold as f64 / (1u64 << 32) as f64, self.sampled)
    }
}
