//! Counters, read by Python whenever it likes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets of a latency histogram: the n-th counts up to 2^n microseconds, the last everything above.
pub const BUCKETS: usize = 20;

#[derive(Default)]
pub struct Latency {
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl Latency {
    pub fn count(&self, took: Duration) {
        let microseconds = took.as_nanos().div_ceil(1000).max(1);
        let bucket = (128 - (microseconds - 1).leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    /// Returns the buckets, and the sum in seconds.
    pub fn read(&self) -> (Vec<u64>, f64) {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        (buckets, self.nanoseconds.load(Relaxed) as f64 / 1e9)
    }
}

macro_rules! counters {
    ($($(#[$meaning:meta])* $name:ident),+ $(,)?) => {
        /// What the engine counts.
        #[derive(Default)]
        pub struct Counters { $($(#[$meaning])* pub $name: AtomicU64),+ }

        impl Counters {
            /// Returns every counter with its name.
            pub fn read(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Relaxed))),+]
            }
        }
    };
}

counters! {
    /// Connections that are open.
    connections,
    /// Connections accepted since the start.
    accepted,
    /// Connections refused: there were too many.
    refused_connections,
    /// Connections ended for breaking HTTP/2, or for one of our limits.
    broken_connections,
    /// Calls handed to Python as bytes.
    handed,
    /// Calls passed on to grpc.aio.
    proxied,
    /// Calls of the hit path that metadata kept from it.
    odd_metadata,
    /// Calls of the hit path that compression, or a body in an unusual shape, kept from it.
    odd_body,
    /// Calls refused because Python did not take any.
    unanswered,
    /// Calls refused because too many wait for Python.
    overloaded,
    /// Of them, those that were refused before HTTP/2 was spoken.
    refused_early,
    /// Calls refused because their deadline could not be met any more.
    late,
    /// Calls that their callers gave up.
    resets,
}

pub fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        let latency = Latency::default();
        for (nanoseconds, bucket) in [(0, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (4000, 2), (4001, 3), (u64::MAX, 19)]
        {
            let before = latency.read().0[bucket];
            latency.count(Duration::from_nanos(nanoseconds));
            assert_eq!(latency.read().0[bucket], before + 1, "{nanoseconds} ns");
        }
    }
}
