//! The client at the other end of a connection: who it is, and what it makes us do.

use crate::early::Early;
use crate::identity::Client;
use crate::limits::MAX_RESETS;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

pub struct Peer {
    pub number: u64,
    pub client: Arc<Client>,
    /// Whether it may be answered without asking Python.
    pub is_allowed: bool,
    /// When it has to have sent its first SETTINGS.
    pub ready_until: Instant,
    /// Bytes of replies that wait for it to read them.
    pub unread: AtomicUsize,
    /// Refuses its calls before h2 sees them.
    pub early: Arc<Mutex<Early>>,
    /// Whether nothing is read from it at the moment, see `early.rs`.
    pub is_resting: Arc<AtomicBool>,
    resets: Mutex<(Instant, u32)>,
    pub too_many_resets: Notify,
}

impl Peer {
    pub fn new(number: u64, client: Arc<Client>, is_allowed: bool, ready_until: Instant, early: Early) -> Self {
        Peer {
            number,
            client,
            is_allowed,
            ready_until,
            unread: AtomicUsize::new(0),
            early: Arc::new(Mutex::new(early)),
            is_resting: Arc::default(),
            resets: Mutex::new((Instant::now(), 0)),
            too_many_resets: Notify::new(),
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
            self.too_many_resets.notify_one();
        }
    }
}
