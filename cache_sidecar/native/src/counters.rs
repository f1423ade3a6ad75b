//! Counters, which Python may read at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    /// Connections accepted beyond the maximum, which only get health checks answered.
    refused_connections,
    /// Connections ended for breaking HTTP/2, or for one of our limits.
    broken_connections,
    /// Calls handed to Python as bytes.
    handed,
    /// Calls proxied to grpc.aio.
    proxied,
    /// Calls excluded from the hit path by their metadata.
    odd_metadata,
    /// Calls excluded from the hit path by a body that is compressed and not unpacked here, or unusual.
    odd_body,
    /// Calls refused because Python did not take calls.
    unanswered,
    /// Calls refused because too many wait for Python.
    overloaded,
    /// Those of them that were refused without HTTP/2 (see early.rs).
    refused_early,
    /// Calls refused because their deadline could no longer be met.
    late,
    /// Calls that their callers cancelled.
    resets,
}

pub fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
