//! The memory that calls take, over all connections.
//!
//! What a call takes is counted from its headers until its reply is in the socket, as one of two kinds:
//!
//! - *Owed*: what only the client can free: an incomplete request, a reply that it does not read. Above `MAX_OWED` connections are
//!   ended, first the one that owes most for longest. Clients that mean no harm complete their requests and read their replies
//!   within milliseconds, so they are not chosen, however many connections an attacker spreads its calls over.
//! - *At hand*: complete calls that wait for Python or grpc.aio. Above `MAX_AT_HAND`, or a quarter of it for one connection, further
//!   ones are refused.

use crate::limits::{MAX_AT_HAND, MAX_OWED, STREAM_BYTES};
use crate::peer::Peer;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Milliseconds after which a client that frees nothing owes no worse: a small debt of an hour is not worth a large one of now.
const WORST: u64 = 10_000;

/// Milliseconds without a call after which a connection may make room for another.
const IDLE: u64 = 30_000;

pub struct Room {
    owed: AtomicUsize,
    at_hand: AtomicUsize,
    max_owed: usize,
    max_at_hand: usize,
    peers: Mutex<HashMap<u64, Weak<Peer>>>,
    began: Instant,
}

impl Room {
    /// For messages of at most `max_message` bytes, and so many calls at grpc.aio at once.
    pub fn new(max_message: usize, max_proxied: usize) -> Self {
        Room {
            owed: AtomicUsize::new(0),
            at_hand: AtomicUsize::new(0),
            max_owed: MAX_OWED.max(2 * max_message),
            max_at_hand: MAX_AT_HAND.max(8 * max_message) + max_proxied * STREAM_BYTES,
            peers: Mutex::default(),
            began: Instant::now(),
        }
    }

    /// Bytes counted, by kind.
    pub fn held(&self) -> (usize, usize) {
        (self.owed.load(Relaxed), self.at_hand.load(Relaxed))
    }

    /// Whether connections that are to end have yet to free so much that none may read before they have.
    pub fn is_full(&self) -> bool {
        self.owed.load(Relaxed) > 2 * self.max_owed
    }

    /// Lets a connection be ended when there is too little room, until the result is dropped.
    pub fn list(&self, peer: &Arc<Peer>) -> Listed<'_> {
        peer.touch(); // a new one has not been idle
        self.peers.lock().insert(peer.number, Arc::downgrade(peer));
        Listed { room: self, number: peer.number }
    }

    /// Ends connections until what the others owe fits.
    pub fn ease(&self) {
        if self.owed.load(Relaxed) <= self.max_owed {
            return;
        }
        let now = self.now();
        let mut peers = self.peers();
        let mut owed: usize = peers.iter().map(|peer| peer.debt.owed()).sum();
        peers.sort_by_key(|peer| peer.debt.weight(now));
        while let Some(worst) = peers.pop()
            && owed > self.max_owed
        {
            owed = owed.saturating_sub(worst.debt.owed());
            worst.end();
        }
    }

    /// Ends the connection that has been without a call for longest; false if all have calls.
    pub fn end_idlest(&self) -> bool {
        // One reference is the connection's, one is in the list made here.
        let idle = self.peers().into_iter().filter(|peer| Arc::strong_count(peer) == 2 && peer.debt.owed() < STREAM_BYTES);
        // Not one between two calls: all others may be handshakes, and it could not connect again.
        let now = self.now();
        let idle = idle.filter(|peer| peer.debt.used.load(Relaxed) + IDLE <= now);
        let idlest = idle.min_by_key(|peer| peer.debt.used.load(Relaxed));
        idlest.is_some_and(|peer| {
            peer.end();
            true
        })
    }

    /// The connections that have not been told to end.
    fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.lock().values().filter_map(Weak::upgrade).filter(|peer| !peer.is_ending()).collect()
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

pub struct Listed<'a> {
    room: &'a Room,
    number: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.room.peers.lock().remove(&self.number);
    }
}

/// What one connection takes.
#[derive(Default)]
pub struct Debt {
    owed: AtomicUsize,
    at_hand: AtomicUsize,
    calls_at_hand: AtomicUsize,
    /// The part of `owed` that is buffered below the calls; see `Peer::keep`.
    kept: AtomicUsize,
    /// When some of what is owed was last freed, and when a call last began or ended; milliseconds since the start.
    freed: AtomicU64,
    used: AtomicU64,
}

impl Debt {
    pub fn owed(&self) -> usize {
        self.owed.load(Relaxed)
    }

    fn weight(&self, now: u64) -> u128 {
        let since = now.saturating_sub(self.freed.load(Relaxed)).min(WORST);
        self.owed() as u128 * u128::from(since + 1)
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    Owed,
    AtHand,
}

impl Peer {
    /// Whether a further complete call may wait.
    pub fn may_wait(&self) -> bool {
        let (room, own) = (&self.room, self.debt.at_hand.load(Relaxed));
        own < room.max_at_hand / 4 && room.at_hand.load(Relaxed) < room.max_at_hand
    }

    /// Sets how many streams h2 has, and bytes are buffered, of which calls at hand are no debt.
    pub fn keep(&self, streams: usize, bytes: usize) {
        let streams = streams.saturating_sub(self.debt.calls_at_hand.load(Relaxed));
        let bytes = streams * STREAM_BYTES + bytes;
        match self.debt.kept.swap(bytes, Relaxed) {
            before if before < bytes => self.owe(bytes - before),
            before if before > bytes => self.free(before - bytes),
            _ => {}
        }
    }

    /// Records that its client has made a call.
    pub fn touch(&self) {
        self.debt.used.store(self.room.now(), Relaxed);
    }

    fn owe(&self, bytes: usize) {
        if self.debt.owed.fetch_add(bytes, Relaxed) == 0 {
            self.debt.freed.store(self.room.now(), Relaxed);
        }
        self.room.owed.fetch_add(bytes, Relaxed);
    }

    fn free(&self, bytes: usize) {
        self.debt.owed.fetch_sub(bytes, Relaxed);
        self.debt.freed.store(self.room.now(), Relaxed);
        self.room.owed.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.keep(0, 0);
    }
}

/// Counts bytes until it is dropped; of the kind `AtHand` there is one for each call.
pub struct Held {
    peer: Arc<Peer>,
    kind: Kind,
    bytes: usize,
}

impl Held {
    pub fn new(peer: &Arc<Peer>, kind: Kind, bytes: usize) -> Self {
        match kind {
            Kind::Owed => peer.owe(bytes),
            Kind::AtHand => {
                peer.debt.calls_at_hand.fetch_add(1, Relaxed);
                peer.debt.at_hand.fetch_add(bytes, Relaxed);
                peer.room.at_hand.fetch_add(bytes, Relaxed);
            }
        }
        Held { peer: peer.clone(), kind, bytes }
    }

    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Changes what is counted.
    pub fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let (peer, room) = (&self.peer, &self.peer.room);
        match self.kind {
            Kind::Owed if before < bytes => peer.owe(bytes - before),
            Kind::Owed => peer.free(before - bytes),
            Kind::AtHand if before < bytes => {
                peer.debt.at_hand.fetch_add(bytes - before, Relaxed);
                room.at_hand.fetch_add(bytes - before, Relaxed);
            }
            Kind::AtHand => {
                peer.debt.at_hand.fetch_sub(before - bytes, Relaxed);
                room.at_hand.fetch_sub(before - bytes, Relaxed);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
        if self.kind == Kind::AtHand {
            self.peer.debt.calls_at_hand.fetch_sub(1, Relaxed);
            self.peer.touch();
        }
    }
}

/// Returns about how many bytes headers take: a place in the table and an index for each, used or not, and their text.
pub fn size(headers: &HeaderMap) -> usize {
    const PLACE: usize = 112;
    let text = |(name, value): (&HeaderName, &http::HeaderValue)| name.as_str().len() + value.len();
    headers.capacity() * PLACE + headers.iter().map(text).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::of_test;
    use std::time::Duration;

    const MIB: usize = 1 << 20;

    fn room() -> Arc<Room> {
        let mut room = Room::new(1, 0);
        room.began -= Duration::from_secs(60);
        Arc::new(room)
    }

    /// Creates a connection that has owed so much for so many milliseconds.
    fn owing(room: &Arc<Room>, number: u64, bytes: usize, since: u64) -> (Arc<Peer>, Held) {
        let peer = Arc::new(of_test(number, room));
        let held = Held::new(&peer, Kind::Owed, bytes);
        peer.debt.freed.store(room.now() - since, Relaxed);
        std::mem::forget(room.list(&peer));
        (peer, held)
    }

    #[test]
    fn those_that_owe_most_for_longest_end_until_the_rest_fits() {
        let room = room();
        // Two that read nothing, many that do not complete their requests, and one that gets large replies and reads them.
        let stuck: Vec<_> = (0..2).map(|number| owing(&room, number, 4 * MIB, 5000)).collect();
        let slow: Vec<_> = (2..202).map(|number| owing(&room, number, MIB / 10, 500)).collect();
        let (honest, _held) = owing(&room, 202, 6 * MIB, 0);
        room.ease();
        assert!(stuck.iter().all(|(peer, _)| peer.is_ending()) && !honest.is_ending());
        let ended = slow.iter().filter(|(peer, _)| peer.is_ending()).count();
        assert!((20..=25).contains(&ended), "8 + 20 + 6 are 10 too many, of which the first two were 8: {ended}");
        room.ease();
        assert_eq!(slow.iter().filter(|(peer, _)| peer.is_ending()).count(), ended, "what is to end does not count any more");
    }

    #[test]
    fn nothing_ends_while_there_is_room() {
        let room = room();
        let (peer, _held) = owing(&room, 1, MAX_OWED, 60_000);
        room.ease();
        assert!(!peer.is_ending() && !room.is_full());
        let (_other, more) = owing(&room, 2, MAX_OWED + 1, 0);
        assert!(room.is_full());
        drop(more);
        assert!(!room.is_full());
    }

    #[test]
    fn all_that_was_counted_is_given_back() {
        let room = room();
        let peer = Arc::new(of_test(1, &room));
        let mut call = Held::new(&peer, Kind::AtHand, 1000);
        peer.keep(3, 500);
        assert_eq!(room.held(), (2 * STREAM_BYTES + 500, 1000), "the stream of a call at hand is no debt");
        call.set(10);
        peer.keep(1, 0);
        assert_eq!(room.held(), (0, 10));
        drop(call);
        peer.keep(2, 7);
        drop(peer);
        assert_eq!(room.held(), (0, 0));
    }

    #[test]
    fn one_connection_gets_a_quarter_of_the_room_for_calls() {
        let room = room();
        let (one, other) = (Arc::new(of_test(1, &room)), Arc::new(of_test(2, &room)));
        let _held = Held::new(&one, Kind::AtHand, room.max_at_hand / 4);
        assert!(!one.may_wait() && other.may_wait());
        let _more = Held::new(&one, Kind::AtHand, room.max_at_hand);
        assert!(!other.may_wait());
    }

    #[test]
    fn the_one_without_a_call_for_longest_makes_room() {
        let room = room();
        let peers: Vec<_> = (0..3).map(|number| Arc::new(of_test(number, &room))).collect();
        for (peer, used) in peers.iter().zip([3, 1, 2]) {
            std::mem::forget(room.list(peer));
            peer.debt.used.store(used, Relaxed);
        }
        let busy = peers[1].clone();
        assert!(room.end_idlest());
        assert_eq!(peers.iter().map(|peer| peer.is_ending()).collect::<Vec<_>>(), [false, false, true]);
        drop(busy);
        assert!(room.end_idlest() && peers[1].is_ending());
        assert!(room.end_idlest() && !room.end_idlest());
    }
}
