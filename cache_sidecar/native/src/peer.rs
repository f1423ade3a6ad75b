//! The client of a connection: its identity, and the resources it uses; `room.rs` counts its memory.

use crate::access::Access;
use crate::early::Early;
use crate::identity::Client;
use crate::limits::MAX_RESETS;
use crate::room::{Debt, Room};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

pub struct Peer {
    pub number: u64,
    pub client: Arc<Client>,
    /// Whether its certificate is not looked at, because it came over the Unix socket.
    pub is_exempt: bool,
    /// What its certificate's names allowed by the version of `Access` in `seen`: hits, and any calls but health checks.
    is_allowed: AtomicBool,
    is_known: AtomicBool,
    seen: AtomicU64,
    /// Whether it connected when all connections were taken: only its health checks are answered.
    pub is_spare: bool,
    /// Notified when it is to be told to go, after its calls.
    pub is_to_leave: Notify,
    /// The deadline for its first SETTINGS.
    pub ready_until: Instant,
    pub room: Arc<Room>,
    pub debt: Debt,
    /// Bytes that its stream buffers, see `io.rs`.
    pub buffered: Arc<AtomicUsize>,
    /// Refuses its calls before they reach h2.
    pub early: Arc<Mutex<Early>>,
    /// Whether reading from it is paused, see `early.rs`.
    pub is_resting: Arc<AtomicBool>,
    resets: Mutex<(Instant, u32)>,
    is_ending: AtomicBool,
    /// Notified when the connection is to end because of what it takes.
    pub to_end: Notify,
}

/// What a client may do, by the names in its certificate.
#[derive(Clone, Copy)]
pub struct Rights {
    pub is_allowed: bool,
    pub is_known: bool,
}

impl Peer {
    pub fn new(number: u64, client: Arc<Client>, is_exempt: bool, ready_until: Instant, early: Early, room: Arc<Room>) -> Self {
        Peer {
            number,
            client,
            is_exempt,
            is_allowed: AtomicBool::new(false),
            is_known: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            is_spare: false,
            is_to_leave: Notify::new(),
            ready_until,
            room,
            debt: Debt::default(),
            buffered: Arc::default(),
            early: Arc::new(Mutex::new(early)),
            is_resting: Arc::default(),
            resets: Mutex::new((Instant::now(), 0)),
            is_ending: AtomicBool::new(false),
            to_end: Notify::new(),
        }
    }

    /// Whether its calls may be answered without Python.
    pub fn may_hit(&self, access: &Access, now: f64) -> bool {
        self.look(access);
        self.is_exempt || (self.is_allowed.load(Relaxed) && now < self.client.identity.not_after())
    }

    /// Whether it may call anything but health checks.
    pub fn is_known(&self, access: &Access) -> bool {
        self.look(access);
        self.is_exempt || self.is_known.load(Relaxed)
    }

    /// Looks again at what its certificate allows, if that may have changed.
    fn look(&self, access: &Access) {
        // Before the names are read: if they are replaced in between, the next call finds a newer version and looks again.
        let version = access.version();
        if self.seen.load(Relaxed) != version {
            let rights = access.rights(&self.client.identity);
            self.is_allowed.store(rights.is_allowed, Relaxed);
            self.is_known.store(rights.is_known, Relaxed);
            self.seen.store(version, Relaxed);
        }
    }

    /// Counts a call that was reset after it was accepted.
    pub fn count_reset(&self) {
        let (since, count) = &mut *self.resets.lock();
        if since.elapsed() >= Duration::from_secs(1) {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        if *count > MAX_RESETS {
            self.end();
        }
    }

    /// Has the connection end with ENHANCE_YOUR_CALM.
    pub fn end(&self) {
        self.is_ending.store(true, Relaxed);
        self.to_end.notify_one();
    }

    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Relaxed)
    }
}

/// A connection without a client.
#[cfg(test)]
pub fn of_test(number: u64, room: &Arc<Room>) -> Peer {
    use crate::early::{Blocks, Judge};
    use crate::identity::Identity;

    struct Nobody;

    impl Judge for Nobody {
        fn is_refusing(&self) -> bool {
            false
        }

        fn allowance(&self, _: std::time::Instant, _: usize, _: u64) -> usize {
            usize::MAX
        }

        fn turned_away(&self, _: std::time::Instant, _: usize, _: usize) {}
    }

    let client = Arc::new(Client { name: String::new(), identity: Identity::none() });
    let early = Early::new(number, Arc::new(Nobody), Arc::new(Blocks::new(std::iter::empty())));
    Peer::new(number, client, true, Instant::now() + Duration::from_secs(60), early, room.clone())
}
