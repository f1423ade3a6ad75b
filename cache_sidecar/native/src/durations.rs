//! A histogram of durations in fixed buckets, counted without a lock, which Python may read at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub struct Durations {
    /// Upper bounds in nanoseconds, in order; the last bucket has none.
    bounds: Vec<u64>,
    counts: Vec<AtomicU64>,
    nanos: AtomicU64,
}

impl Durations {
    /// The bounds are in seconds.
    pub fn new(bounds: &[f64]) -> Self {
        Durations {
            bounds: bounds.iter().map(|seconds| (seconds * 1e9).round() as u64).collect(),
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            nanos: AtomicU64::new(0),
        }
    }

    pub fn record(&self, duration: Duration) {
        let nanos = duration.as_nanos() as u64;
        // From the start, as nearly all durations are in one of the first buckets.
        let bucket = self.bounds.iter().position(|bound| nanos <= *bound).unwrap_or(self.bounds.len());
        self.counts[bucket].fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    /// Returns the counts of the buckets, and the sum in seconds.
    pub fn read(&self) -> (Vec<u64>, f64) {
        let counts = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        (counts, self.nanos.load(Relaxed) as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_a_duration_up_to_its_bound() {
        let durations = Durations::new(&[0.000_01, 0.001, 0.5]);
        for nanos in [0, 10_000, 10_001, 1_000_000, 500_000_000, 500_000_001, 3_000_000_000] {
            durations.record(Duration::from_nanos(nanos));
        }
        assert_eq!(durations.read(), (vec![2, 2, 1, 2], 4.001_020_002));
    }
}
