//! L1: the memory of one dataset, and which entries may be served. All operations take one lock, so that a reader sees either all of
//! an invalidation or nothing of it; none of them takes long while holding it.

use crate::entries::{Entries, Entry, OVERHEAD, partition_of, spatial_hash};
use crate::reuse::{Alternatives, Configuration, Figures, Reuse};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

pub const PARTITIONS: usize = 256;
/// Maximum number of refreshes waiting for Python; further ones are dropped, and requested again by a later hit.
const MAX_WANTED: usize = 10_000;
/// Maximum number of samples waiting for Python; further ones are dropped.
const MAX_SAMPLES: usize = 1000;
/// Seconds after which a hit requests a refresh again that has not happened.
const ASK_AGAIN: f64 = 1.0;

/// How long entries are served, in seconds; as in `policy.toml`.
#[derive(Clone, Copy)]
pub struct Rules {
    pub soft: f64,
    /// Negative infinity to serve nothing; not 0, as jitter may have moved an entry's timer into the future.
    pub hard: f64,
    pub stale_limit: f64,
    /// One in so many hits is sampled, for Python to compare with PostgreSQL; 0 for none.
    pub sample_every: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { soft: 0.0, hard: f64::NEG_INFINITY, stale_limit: 0.0, sample_every: 0 }
    }
}

#[derive(Default)]
struct Partition {
    epoch: u64,
    generation: u64,
    heard: bool,
    /// Whether the relay lags behind: entries are served, but marked stale.
    behind: bool,
    suspect_since: f64,
    tombstones: HashMap<Box<str>, i64>,
}

/// Samples hits at random intervals, so that sampling does not correlate with periodic reads.
#[derive(Default)]
struct Sampler {
    every: u64,
    left: u64,
    random: u64,
    taken: Vec<(Box<str>, i64)>,
}

impl Sampler {
    fn every(&mut self, every: u64) {
        self.every = every;
        self.arm();
    }

    /// Counts hits; true when one of them is to be sampled.
    fn is_due(&mut self, hits: u64) -> bool {
        self.left = self.left.saturating_sub(hits);
        let is_due = self.every > 0 && self.left == 0;
        if is_due {
            self.arm();
        }
        is_due && self.taken.len() < MAX_SAMPLES
    }

    /// Records a hit; one that was marked stale is not worth comparing.
    fn take(&mut self, id: &[u8], served: Served) {
        if let (false, Ok(id)) = (served.stale, std::str::from_utf8(id)) {
            self.taken.push((id.into(), served.version));
        }
    }

    /// Draws from 1 to twice the interval, which is the interval on average.
    fn arm(&mut self) {
        self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.left = 1 + (self.random >> 33) % (2 * self.every).saturating_sub(1).max(1);
    }
}

impl Partition {
    fn forget(&mut self) {
        self.epoch += 1;
        self.generation += 1;
        self.tombstones = HashMap::new();
    }
}

/// What a caller requires of a read: a maximum age in seconds.
#[derive(Clone, Copy, Default)]
pub struct Freshness {
    pub max_age: Option<f64>,
}

/// The metadata of a hit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    pub version: i64,
    pub age: f64,
    pub stale: bool,
}

#[derive(Clone, Copy, Default)]
pub struct Stats {
    pub entries: usize,
    pub bytes: usize,
    pub fills: u64,
    pub refused: u64,
    pub evictions: u64,
    pub hits: u64,
}

pub struct L1 {
    max_tombstones: usize,
    state: Mutex<State>,
}

struct State {
    entries: Entries,
    partitions: Vec<Partition>,
    rules: Rules,
    /// When the freshness lease expires, see `tiers/coherence/freshness_lease.py`; None for never.
    trusted_until: Option<Instant>,
    wanted: Vec<Box<str>>,
    sampler: Sampler,
    reuse: Reuse,
    fills: u64,
    refused: u64,
    hits: u64,
}

impl L1 {
    pub fn new(max_bytes: usize, max_entries: usize, max_tombstones: usize) -> Self {
        let state = State {
            entries: Entries::new(max_bytes, max_entries),
            partitions: (0..PARTITIONS).map(|_| Partition::default()).collect(),
            rules: Rules::default(),
            trusted_until: None,
            wanted: Vec::new(),
            sampler: Sampler::default(),
            reuse: Reuse::new(Alternatives::default(), 0),
            fills: 0,
            refused: 0,
            hits: 0,
        };
        L1 { max_tombstones, state: Mutex::new(state) }
    }

    pub fn set_rules(&self, rules: Rules) {
        let mut state = self.state.lock();
        state.sampler.every(rules.sample_every);
        state.rules = rules;
    }

    pub fn set_behind(&self, partition: u8, behind: bool) {
        self.state.lock().partitions[usize::from(partition)].behind = behind;
    }

    /// Sets when the freshness lease expires. From then on hits are marked stale, until Python reports which partitions are trusted.
    pub fn set_trusted_until(&self, moment: Option<Instant>) {
        self.state.lock().trusted_until = moment;
    }

    /// Calls `with` for the live entry of an id, however old; None if there is none.
    pub fn get<T>(&self, id: &str, take: impl FnOnce(&Entry) -> T) -> Option<T> {
        let mut state = self.state.lock();
        state.live(id.as_bytes()).map(take)
    }

    /// Serves all of the ids, without duplicates, or none: `serve` gets each value with its metadata, and returns false if the reply
    /// has no room for it. Returns whether Python has something to do: to refresh, or to report expired trust.
    pub fn serve<'a>(
        &self,
        ids: &[&'a [u8]],
        now: f64,
        wanted: Freshness,
        mut serve: impl FnMut(&[u8], Served) -> bool,
    ) -> Option<bool> {
        let mut state = self.state.lock();
        let State { entries, partitions, rules, trusted_until, reuse, .. } = &mut *state;
        let lapsed = trusted_until.and_then(|until| Instant::now().checked_duration_since(until));
        let (mut due, mut sampled): (Vec<&'a [u8]>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut first = None;
        let (uses, mut served_ids) = (entries.uses(), 0);
        for &id in ids {
            let (entry, last_use) = entries.use_again(id)?;
            if last_use > uses {
                continue; // a duplicate
            }
            let (served, is_due) = verdict(entry, &partitions[usize::from(entry.partition)], rules, lapsed, now, wanted)?;
            if is_due {
                entry.asked_at = now;
                due.push(id);
            }
            if reuse.has(entry.spatial) {
                sampled.push(entry.spatial);
            }
            if !serve(entry.value()?, served) {
                return None;
            }
            first.get_or_insert(served);
            served_ids += 1;
        }
        // Only now: if one id had been missing, Python would have read and counted them all.
        sampled.into_iter().for_each(|hash| reuse.read(hash, now));
        state.hits += served_ids;
        if let (true, Some(first)) = (state.sampler.is_due(served_ids), first) {
            state.sampler.take(ids[0], first);
        }
        let is_first = state.wanted.is_empty() && !due.is_empty();
        for id in due {
            if state.wanted.len() < MAX_WANTED {
                state.wanted.extend(std::str::from_utf8(id).map(Box::from));
            }
        }
        Some(is_first || lapsed.is_some())
    }

    /// Takes the ids that are due for a refresh.
    pub fn take_wanted(&self) -> Vec<Box<str>> {
        std::mem::take(&mut self.state.lock().wanted)
    }

    /// Begins to follow reads, of at most `max_keys` ids.
    pub fn follow_reuse(&self, alternatives: Alternatives, max_keys: usize) {
        self.state.lock().reuse = Reuse::new(alternatives, max_keys);
    }

    pub fn configure_reuse(&self, configuration: Configuration) {
        self.state.lock().reuse.configure(configuration);
    }

    /// Counts a read of Python's.
    pub fn note_read(&self, id: &str, now: f64) {
        self.state.lock().reuse.read(spatial_hash(id.as_bytes()), now);
    }

    pub fn note_change(&self, id: &str, version: i64, now: f64) {
        self.state.lock().reuse.change(spatial_hash(id.as_bytes()), version, now);
    }

    pub fn halve_reuse(&self) {
        self.state.lock().reuse.halve();
    }

    pub fn reuse(&self) -> (Figures, (usize, f64, u64)) {
        let state = self.state.lock();
        (state.reuse.figures(), state.reuse.sample())
    }

    /// Takes the samples.
    pub fn take_samples(&self) -> Vec<(Box<str>, i64)> {
        std::mem::take(&mut self.state.lock().sampler.taken)
    }

    pub fn generation(&self, id: &str) -> u64 {
        self.state.lock().partitions[usize::from(partition_of(id.as_bytes()))].generation
    }

    /// Stores an entry, unless a newer version is known, the partition is not trusted, or its generation changed during the load.
    pub fn put(&self, id: &str, mut entry: Entry, generation: u64) -> bool {
        let mut state = self.state.lock();
        let partition = &state.partitions[usize::from(entry.partition)];
        entry.epoch = partition.epoch;
        let is_stored = partition.heard
            && partition.generation == generation
            && entry.version >= partition.tombstones.get(id).copied().unwrap_or(0)
            && state.is_news(id, &entry);
        if !is_stored {
            state.refused += 1;
        } else if entry.cost() > state.entries.max_bytes() {
            state.entries.remove(id.as_bytes()); // the present entry is older
            state.refused += 1;
            return false;
        } else {
            state.entries.insert(entry);
            state.fills += 1;
        }
        is_stored
    }

    /// Drops versions older than `version`, and refuses them from now on; version 0 drops any.
    pub fn invalidate(&self, id: &str, version: i64) {
        let mut state = self.state.lock();
        let held = state.live(id.as_bytes()).map(|entry| entry.version);
        if held.is_some_and(|held| version == 0 || held < version) {
            state.entries.remove(id.as_bytes());
        }
        let partition = &mut state.partitions[usize::from(partition_of(id.as_bytes()))];
        if version == 0 {
            partition.generation += 1;
            return;
        }
        // Even if the present entry is new enough: it may be evicted before the fill of an older version arrives.
        if partition.tombstones.len() >= self.max_tombstones {
            partition.tombstones.clear();
            partition.generation += 1;
        }
        let newest = partition.tombstones.entry(id.into()).or_insert(0);
        *newest = version.max(*newest);
    }

    /// Returns the highest version known of an id, from its entry or an invalidation; 0 if none is.
    pub fn newest(&self, id: &str) -> i64 {
        let mut state = self.state.lock();
        let held = state.live(id.as_bytes()).map_or(0, |entry| entry.version);
        let tombstones = &state.partitions[usize::from(partition_of(id.as_bytes()))].tombstones;
        held.max(tombstones.get(id).copied().unwrap_or(0))
    }

    /// PostgreSQL, read after `newest` was known, holds `version`: forgets what claims to be newer, up to `newest`.
    pub fn retract(&self, id: &str, version: i64, newest: i64) {
        // Not beyond `newest`: the row may have changed since PostgreSQL was read, and that change been announced.
        let is_retracted = |claimed: i64| version < claimed && claimed <= newest;
        let mut state = self.state.lock();
        if state.live(id.as_bytes()).is_some_and(|entry| is_retracted(entry.version)) {
            state.entries.remove(id.as_bytes());
        }
        let tombstones = &mut state.partitions[usize::from(partition_of(id.as_bytes()))].tombstones;
        if let Some(buried) = tombstones.get_mut(id).filter(|buried| is_retracted(**buried)) {
            *buried = version;
        }
    }

    pub fn drop_partition(&self, partition: u8) {
        self.state.lock().partitions[usize::from(partition)].forget();
    }

    /// Drops all entries, refuses fills in progress, and frees the memory.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        for partition in &mut state.partitions {
            partition.forget();
        }
        let emptied = state.entries.clear();
        drop(state);
        drop(emptied); // outside the lock, as it takes long
    }

    pub fn set_trusted(&self, partition: u8, trusted: bool, now: f64) {
        let partition = &mut self.state.lock().partitions[usize::from(partition)];
        if partition.heard && !trusted {
            partition.suspect_since = now;
            partition.generation += 1;
        }
        partition.heard = trusted;
    }

    pub fn resize(&self, max_bytes: usize, max_entries: usize) {
        self.state.lock().entries.resize(max_bytes, max_entries);
    }

    pub fn stats(&self) -> Stats {
        let state = self.state.lock();
        Stats {
            entries: state.entries.count(),
            bytes: state.entries.bytes(),
            fills: state.fills,
            refused: state.refused,
            evictions: state.entries.evictions,
            hits: state.hits,
        }
    }
}

impl State {
    /// Returns the entry of an id; removes it if its partition was dropped since.
    fn live(&mut self, id: &[u8]) -> Option<&Entry> {
        let entry = self.entries.use_(id)?;
        if entry.epoch != self.partitions[usize::from(entry.partition)].epoch {
            self.entries.remove(id);
            return None;
        }
        self.entries.peek(id)
    }

    fn is_news(&mut self, id: &str, new: &Entry) -> bool {
        let held = match self.entries.peek(id.as_bytes()) {
            Some(held) if held.epoch == new.epoch => held.version,
            _ => return true,
        };
        if held > new.version && new.value().is_none() {
            // PostgreSQL has no such row, but the entry says that it exists: both are dropped, and the next read decides.
            self.entries.remove(id.as_bytes());
        }
        held <= new.version
    }
}

/// Decides whether an entry answers a read, and whether it is due for a refresh; None to leave the read to Python. The rules are
/// those of `tiers/path/decision.py`, for values that exist. `lapsed` is the time since the freshness lease expired.
fn verdict(
    entry: &Entry,
    partition: &Partition,
    rules: &Rules,
    lapsed: Option<Duration>,
    now: f64,
    wanted: Freshness,
) -> Option<(Served, bool)> {
    let age = now - entry.read_at;
    let held_for = now - entry.timer;
    let is_alive = entry.epoch == partition.epoch && held_for < rules.hard;
    if !is_alive || entry.value().is_none() || wanted.max_age.is_some_and(|max_age| age > max_age) {
        return None;
    }
    let suspect_for = match (partition.heard, lapsed) {
        (false, _) => Some(now - partition.suspect_since),
        (true, lapsed) => lapsed.map(|lapsed| lapsed.as_secs_f64()),
    };
    if suspect_for.is_some_and(|suspect_for| suspect_for > rules.stale_limit) {
        return None;
    }
    let stale = partition.behind || suspect_for.is_some();
    let is_due = !stale && held_for >= rules.soft && now - entry.asked_at >= ASK_AGAIN;
    Some((Served { version: entry.version, age: age.max(0.0), stale }, is_due))
}

const _: () = assert!(OVERHEAD > size_of::<Entry>());

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1_700_000_000.0;

    fn l1() -> L1 {
        let l1 = L1::new(1 << 20, 100, 64);
        l1.set_rules(Rules { soft: 100.0, hard: 200.0, stale_limit: 5.0, sample_every: 0 });
        (0..=255).for_each(|partition| l1.set_trusted(partition, true, NOW));
        l1
    }

    fn put(l1: &L1, id: &str, value: Option<&[u8]>) {
        assert!(l1.put(id, Entry::new(id, value, 7, NOW - 1.0, NOW), l1.generation(id)));
    }

    fn serve(l1: &L1, ids: &[&str], now: f64, max_age: Option<f64>) -> Option<Vec<Served>> {
        let ids: Vec<_> = ids.iter().map(|id| id.as_bytes()).collect();
        let mut served = Vec::new();
        l1.serve(&ids, now, Freshness { max_age }, |_, one| {
            served.push(one);
            true
        })
        .map(|_| served)
    }

    fn plain(age: f64) -> Option<Vec<Served>> {
        Some(vec![Served { version: 7, age, stale: false }])
    }

    #[test]
    fn serves_until_the_hard_limit_and_within_the_age_asked_for() {
        let l1 = l1();
        put(&l1, "a", Some(b"value"));
        assert_eq!(serve(&l1, &["a"], NOW + 9.0, None), plain(10.0));
        assert_eq!(serve(&l1, &["a"], NOW + 9.0, Some(10.0)), plain(10.0));
        assert_eq!(serve(&l1, &["a"], NOW + 9.0, Some(9.9)), None);
        assert_eq!(serve(&l1, &["a"], NOW + 200.0, None), None);
        assert_eq!(serve(&l1, &["a"], NOW - 99.0, None), plain(0.0));
        assert_eq!(l1.stats().hits, 3);
    }

    #[test]
    fn serves_nothing_before_it_was_told_for_how_long() {
        let l1 = l1();
        put(&l1, "a", Some(b"value"));
        l1.set_rules(Rules::default());
        assert_eq!(serve(&l1, &["a"], NOW - 50.0, None), None);
    }

    #[test]
    fn asks_for_a_refresh_once_a_second() {
        let l1 = l1();
        put(&l1, "a", Some(b"value"));
        for (at, wanted) in [(99.9, 0), (100.0, 1), (100.9, 0), (101.0, 1)] {
            assert!(serve(&l1, &["a"], NOW + at, None).is_some());
            assert_eq!(l1.take_wanted().len(), wanted, "{at} s later");
        }
    }

    #[test]
    fn serves_what_is_suspect_for_a_while_and_says_so() {
        let l1 = l1();
        put(&l1, "a", Some(b"value"));
        (0..=255).for_each(|partition| l1.set_trusted(partition, false, NOW + 10.0));
        assert!(serve(&l1, &["a"], NOW + 15.0, None).unwrap()[0].stale);
        assert_eq!(serve(&l1, &["a"], NOW + 15.1, None), None);
    }

    #[test]
    fn trust_that_ended_by_itself_is_none() {
        let l1 = l1();
        put(&l1, "a", Some(b"value"));
        let stale_after = |seconds| {
            l1.set_trusted_until(Instant::now().checked_sub(Duration::from_secs(seconds)));
            serve(&l1, &["a"], NOW, None).map(|served| served[0].stale)
        };
        assert_eq!((stale_after(1), stale_after(6)), (Some(true), None));
        assert_eq!(l1.serve(&[b"a"], NOW, Freshness::default(), |_, _| true), None);
        l1.set_trusted_until(Some(Instant::now() - Duration::from_secs(1)));
        assert_eq!(l1.serve(&[b"a"], NOW, Freshness::default(), |_, _| true), Some(true));
        for trusted in [Some(Instant::now() + Duration::from_secs(3600)), None] {
            l1.set_trusted_until(trusted);
            assert_eq!(serve(&l1, &["a"], NOW, None), plain(1.0));
            assert_eq!(l1.serve(&[b"a"], NOW, Freshness::default(), |_, _| true), Some(false));
        }
    }

    #[test]
    fn what_redis_hears_of_too_late_is_marked_and_not_refreshed() {
        let l1 = l1();
        put(&l1, "a", Some(b"value"));
        put(&l1, "b", Some(b"value"));
        l1.set_behind(partition_of(b"a"), true);
        assert!(!serve(&l1, &["b"], NOW + 50.0, None).unwrap()[0].stale, "it is in another partition");
        assert!(serve(&l1, &["a"], NOW + 150.0, None).unwrap()[0].stale);
        assert!(l1.take_wanted().is_empty());
        l1.set_behind(partition_of(b"a"), false);
        assert!(!serve(&l1, &["a"], NOW + 150.0, None).unwrap()[0].stale);
    }

    #[test]
    fn one_of_so_many_hits_is_a_sample() {
        let l1 = l1();
        put(&l1, "a", Some(b"value"));
        for (every, least, most) in [(0, 0, 0), (1, 100, 100), (10, 5, 20)] {
            l1.set_rules(Rules { soft: 100.0, hard: 200.0, stale_limit: 5.0, sample_every: every });
            (0..100).for_each(|_| drop(serve(&l1, &["a"], NOW, None)));
            let samples = l1.take_samples();
            assert!((least..=most).contains(&samples.len()), "{} of 100, one of {every}", samples.len());
            assert!(samples.iter().all(|(id, version)| &**id == "a" && *version == 7));
        }
        l1.set_rules(Rules { soft: 100.0, hard: 200.0, stale_limit: 5.0, sample_every: 1 });
        (0..=255).for_each(|partition| l1.set_trusted(partition, false, NOW));
        assert!(serve(&l1, &["a"], NOW, None).unwrap()[0].stale);
        assert!(l1.take_samples().is_empty());
    }

    #[test]
    fn leaves_the_rest_to_python() {
        let l1 = l1();
        put(&l1, "none", None);
        put(&l1, "a", Some(b"value"));
        assert_eq!(serve(&l1, &["none"], NOW, None), None);
        assert_eq!(serve(&l1, &["a", "unknown"], NOW, None), None);
        assert_eq!(l1.stats().hits, 0);
        l1.drop_partition(partition_of(b"a"));
        assert_eq!(serve(&l1, &["a"], NOW, None), None);
    }
}
