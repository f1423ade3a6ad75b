//! File descriptors of connections: those of clients, and those to grpc.aio, both ends of which are in this process. They are
//! limited together, so that enough remain for everything else, and clients alone, so that some remain for streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const OF_UPSTREAM: u64 = 2;

/// Changed by the engine's thread only, except for the limits.
pub struct Descriptors {
    max: AtomicU64,
    max_clients: AtomicU64,
    clients: AtomicU64,
    upstreams: AtomicU64,
}

impl Default for Descriptors {
    /// Without limits.
    fn default() -> Self {
        let [max, max_clients] = [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)];
        Descriptors { max, max_clients, clients: AtomicU64::new(0), upstreams: AtomicU64::new(0) }
    }
}

impl Descriptors {
    /// Limits the descriptors of all connections, and the number of clients.
    pub fn limit(&self, max: u64, max_clients: u64) {
        self.max.store(max, Relaxed);
        self.max_clients.store(max_clients, Relaxed);
    }

    pub fn max_clients(&self) -> u64 {
        self.max_clients.load(Relaxed)
    }

    /// Counts a client until the result is dropped; None if there are too many.
    pub fn admit_client(self: &Arc<Self>) -> Option<Held> {
        let has_room = self.clients.load(Relaxed) < self.max_clients() && self.used() < self.max.load(Relaxed);
        has_room.then(|| Held::new(self, |of| &of.clients))
    }

    /// Counts a client that takes the place of another, which is ending, until the result is dropped.
    pub fn admit_instead(self: &Arc<Self>) -> Held {
        Held::new(self, |of| &of.clients)
    }

    /// Counts a connection to grpc.aio until the result is dropped; None if there are too many.
    pub fn admit_upstream(self: &Arc<Self>) -> Option<Held> {
        let has_room = self.used() + OF_UPSTREAM <= self.max.load(Relaxed);
        has_room.then(|| Held::new(self, |of| &of.upstreams))
    }

    fn used(&self) -> u64 {
        self.clients.load(Relaxed) + OF_UPSTREAM * self.upstreams.load(Relaxed)
    }
}

pub struct Held {
    descriptors: Arc<Descriptors>,
    counter: fn(&Descriptors) -> &AtomicU64,
}

impl Held {
    fn new(descriptors: &Arc<Descriptors>, counter: fn(&Descriptors) -> &AtomicU64) -> Self {
        counter(descriptors).fetch_add(1, Relaxed);
        Held { descriptors: descriptors.clone(), counter }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.counter)(&self.descriptors).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_some_to_streams_and_streams_none_to_clients() {
        let descriptors = Arc::new(Descriptors::default());
        descriptors.limit(7, 4);
        let mut clients: Vec<_> = (0..4).map(|_| descriptors.admit_client().unwrap()).collect();
        assert!(descriptors.admit_client().is_none());
        let upstream = descriptors.admit_upstream().unwrap();
        assert!(descriptors.admit_upstream().is_none(), "one descriptor is left, and it needs two");
        clients.truncate(3);
        let _other = descriptors.admit_upstream().unwrap();
        assert!(descriptors.admit_client().is_none(), "all are used");
        drop(upstream);
        assert!(descriptors.admit_client().is_some());
    }

    #[test]
    fn there_is_no_limit_by_default() {
        let descriptors = Arc::<Descriptors>::default();
        assert!(descriptors.admit_client().is_some() && descriptors.admit_upstream().is_some());
    }
}
