//! The queue of calls for Python, and their answers.
//!
//! Calls wait in `line.rs`, without a task, and are refused there. A byte on a socket wakes Python's event loop, one byte for any
//! number of calls.

use crate::early::Judge;
use crate::limits::{MAX_WAITING, MAX_WAITING_BYTES, STUCK_AFTER};
use crate::line::{Line, Service};
use crate::peer::Peer;
use crate::piece::Piece;
use http::HeaderMap;
use parking_lot::Mutex;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tokio::sync::{Notify, oneshot};

/// Python's answer to a call.
pub struct Answer {
    /// The gRPC status; with a message only if it is 0.
    pub code: u32,
    pub details: String,
    /// Counted from when Python made it: how long it waits to be sent depends on the speed of the machine.
    pub message: Piece,
    pub initial: HeaderMap,
    pub trailers: HeaderMap,
}

/// A call as Python sees it.
pub struct Call {
    pub metadata: HeaderMap,
    pub peer: Arc<Peer>,
    pub deadline: Option<Instant>,
    pub given_up: Arc<AtomicBool>,
    answer: Mutex<Option<(oneshot::Sender<Answer>, InProgress)>>,
}

impl Call {
    pub fn new(
        metadata: HeaderMap,
        peer: Arc<Peer>,
        deadline: Option<Instant>,
        in_progress: InProgress,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let answer = Mutex::new(Some((sender, in_progress)));
        (Call { metadata, peer, deadline, given_up: Arc::default(), answer }, receiver)
    }

    /// Answers the call unless it was answered or cancelled. It is then no longer in progress.
    pub fn answer(&self, answer: Answer) {
        if let Some((sender, _in_progress)) = self.answer.lock().take() {
            let _ = sender.send(answer);
        }
    }

    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Relaxed)
    }
}

/// Counts a call as in progress until this is dropped.
pub struct InProgress {
    calls: Arc<dyn Ends>,
    method: usize,
    began: Instant,
    /// Whether its caller left before it was answered; its duration is meaningless then.
    pub is_left: Arc<AtomicBool>,
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.calls.end(self.method, self.began, self.is_left.load(Relaxed));
    }
}

trait Ends: Send + Sync {
    fn end(&self, method: usize, began: Instant, is_left: bool);
}

/// A call that waits.
pub trait Waiting: Send + 'static {
    /// Whether its caller has cancelled.
    fn is_gone(&mut self) -> bool;
}

/// A call that was taken.
pub struct Began<T> {
    pub id: u64,
    pub method: usize,
    pub call: T,
    pub in_progress: InProgress,
}

/// The result of `Calls::take`.
pub struct Taken<T> {
    pub calls: Vec<Began<T>>,
    /// Calls taken earlier that were cancelled since.
    pub given_up: Vec<u64>,
}

#[derive(Debug, PartialEq, Clone, Copy)]
pub enum Refusal {
    /// Too many calls are waiting.
    Overloaded,
    /// Its deadline cannot be met.
    Deadline,
    /// Python does not take calls.
    Stuck,
}

/// How many kinds there are.
pub const REFUSALS: usize = 3;

impl From<crate::line::Refusal> for Refusal {
    fn from(refusal: crate::line::Refusal) -> Self {
        match refusal {
            crate::line::Refusal::Overloaded => Refusal::Overloaded,
            crate::line::Refusal::Deadline => Refusal::Deadline,
        }
    }
}

pub type Refused<T> = Vec<(T, Refusal)>;

pub struct Calls<T> {
    state: Mutex<State<T>>,
    bell: UnixStream,
    heard: UnixStream,
    /// Notified when a call waits after none did.
    pub begun: Notify,
    /// Whether calls are being refused, or were a moment ago.
    is_refusing: AtomicBool,
    /// Number of calls of each method that were refused, by the kinds of refusals, and how many `take_refused` has returned.
    refused: Vec<[AtomicU64; REFUSALS]>,
    refused_before: Vec<AtomicU64>,
}

struct State<T> {
    line: Line<T>,
    given_up: Vec<u64>,
    last_id: u64,
    /// Since when Python has been signalled without taking calls.
    ringing: Option<Instant>,
    is_stuck: bool,
}

impl<T: Waiting> Calls<T> {
    /// `methods` has the index of the service of each method; None for methods without a limit.
    pub fn new(services: Vec<Service>, methods: &[Option<usize>]) -> io::Result<Self> {
        let (bell, heard) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        let line = Line::new(services, methods, MAX_WAITING, MAX_WAITING_BYTES);
        let refused = methods.iter().map(|_| Default::default()).collect();
        let refused_before = methods.iter().map(|_| AtomicU64::new(0)).collect();
        let state = State { line, given_up: Vec::new(), last_id: 0, ringing: None, is_stuck: false };
        Ok(Calls {
            state: Mutex::new(state),
            bell,
            heard,
            begun: Notify::new(),
            is_refusing: AtomicBool::new(false),
            refused,
            refused_before,
        })
    }

    /// The file descriptor that is readable when calls can be taken.
    pub fn fileno(&self) -> RawFd {
        self.heard.as_raw_fd()
    }

    /// Queues a call. Returns the calls refused because of it, which may include itself.
    pub fn add(
        &self,
        now: Instant,
        connection: u64,
        method: usize,
        bytes: usize,
        deadline: Option<Instant>,
        call: T,
    ) -> Refused<T> {
        let mut state = self.state.lock();
        if state.is_stuck {
            return vec![(call, Refusal::Stuck)];
        }
        let was_empty = state.line.waiting() == 0;
        state.line.add(now, method, connection, bytes, deadline, call);
        if was_empty {
            self.begun.notify_one();
        }
        self.ring_if_there_is_work(&mut state);
        let refused = state.refused();
        if refused.iter().any(|(_, refusal)| *refusal == Refusal::Overloaded) {
            self.is_refusing.store(true, Relaxed);
        }
        refused
    }

    /// Counts calls of a method that Python never sees.
    pub fn count_refused(&self, method: usize, refusal: Refusal, count: u64) {
        self.refused[method][refusal as usize].fetch_add(count, Relaxed);
    }

    /// Returns how many calls of a method were refused since the last time. Not to be called by two threads at once.
    pub fn take_refused(&self, method: usize) -> u64 {
        let all = self.refused[method].iter().map(|count| count.load(Relaxed)).sum::<u64>();
        all - self.refused_before[method].swap(all, Relaxed)
    }

    /// Returns how many calls of each method were refused since the start, by the kinds of refusals.
    pub fn all_refused(&self) -> Vec<[u64; REFUSALS]> {
        self.refused.iter().map(|counts| std::array::from_fn(|kind| counts[kind].load(Relaxed))).collect()
    }

    /// Reports that the caller of a call that was taken is gone.
    pub fn give_up(&self, id: u64) {
        let mut state = self.state.lock();
        state.given_up.push(id);
        self.ring_once(&mut state);
    }

    /// Wakes Python even if there is no call.
    pub fn ring(&self) {
        self.ring_once(&mut self.state.lock());
    }

    fn ring_if_there_is_work(&self, state: &mut State<T>) {
        if state.ringing.is_none() && state.line.has_work() {
            self.ring_once(state);
        }
    }

    fn ring_once(&self, state: &mut State<T>) {
        if state.ringing.is_none() {
            state.ringing = Some(Instant::now());
            let _ = (&self.bell).write(&[1]);
        }
    }

    /// Takes up to `limit` calls, and returns those refused meanwhile. If more can be taken, the descriptor stays readable, so that
    /// the event loop returns after its other work. If no more may be in progress, it becomes readable when one of those ends.
    pub fn take(self: &Arc<Self>, now: Instant, limit: usize) -> (Taken<T>, Refused<T>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let taken = state.line.take(now, limit, T::is_gone);
        self.is_refusing.store(state.line.is_refusing(now), Relaxed);
        let calls = taken.into_iter().map(|(method, call)| {
            state.last_id += 1;
            let in_progress = InProgress { calls: self.clone(), method, began: now, is_left: Arc::default() };
            Began { id: state.last_id, method, call, in_progress }
        });
        let taken = Taken { calls: calls.collect(), given_up: std::mem::take(&mut state.given_up) };
        state.is_stuck = false;
        if state.line.has_work() {
            state.ringing = Some(Instant::now());
        } else if state.ringing.take().is_some() {
            let _ = (&self.heard).read(&mut [0; 8]);
        }
        (taken, state.refused())
    }

    /// Returns the calls refused because they waited too long, their deadline passed, or Python does not take calls.
    pub fn sweep(&self, now: Instant) -> Refused<T> {
        let mut state = self.state.lock();
        if state.ringing.is_some_and(|since| now.saturating_duration_since(since) >= STUCK_AFTER) {
            state.is_stuck = true;
            return state.line.clear().into_iter().map(|call| (call, Refusal::Stuck)).collect();
        }
        state.line.sweep(now);
        self.is_refusing.store(state.line.is_refusing(now), Relaxed);
        state.refused()
    }

    pub fn is_stuck(&self) -> bool {
        self.state.lock().is_stuck
    }

    pub fn waiting(&self) -> usize {
        self.state.lock().line.waiting()
    }

    #[cfg(test)]
    fn in_progress(&self) -> usize {
        self.state.lock().line.in_progress()
    }
}

impl<T: Waiting> Judge for Calls<T> {
    fn is_refusing(&self) -> bool {
        self.is_refusing.load(Relaxed)
    }

    fn allowance(&self, now: Instant, method: usize, connection: u64) -> usize {
        let state = self.state.lock();
        if state.is_stuck { usize::MAX } else { state.line.allowance(now, method, connection) }
    }

    fn turned_away(&self, now: Instant, method: usize, count: usize) {
        self.count_refused(method, Refusal::Overloaded, count as u64);
        self.state.lock().line.turned_away(now, method);
    }
}

impl<T: Waiting> Ends for Calls<T> {
    fn end(&self, method: usize, began: Instant, is_left: bool) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let took = (!is_left).then(|| now.saturating_duration_since(began));
        state.line.end(now, method, took);
        self.ring_if_there_is_work(&mut state);
    }
}

impl<T> State<T> {
    fn refused(&mut self) -> Refused<T> {
        self.line.take_refused().into_iter().map(|(call, refusal)| (call, refusal.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::of_test;
    use crate::room::Room;
    use std::collections::HashMap;
    use std::sync::atomic::AtomicUsize;

    /// A caller that knows what became of its call.
    #[derive(Clone, Debug, Default)]
    struct Caller {
        name: usize,
        given_up: Arc<AtomicBool>,
    }

    impl Waiting for Caller {
        fn is_gone(&mut self) -> bool {
            self.given_up.load(Relaxed)
        }
    }

    fn one_method(most: usize) -> Arc<Calls<Caller>> {
        Arc::new(Calls::new(vec![Service::new(0, most, most)], &[Some(0)]).unwrap())
    }

    fn add(calls: &Calls<Caller>, connection: u64, bytes: usize, name: usize) -> Option<Refusal> {
        let caller = Caller { name, ..Caller::default() };
        calls.add(Instant::now(), connection, 0, bytes, None, caller).first().map(|(_, refusal)| *refusal)
    }

    fn take(calls: &Arc<Calls<Caller>>, limit: usize) -> Vec<Began<Caller>> {
        calls.take(Instant::now(), limit).0.calls
    }

    fn names(taken: &[Began<Caller>]) -> Vec<usize> {
        taken.iter().map(|began| began.call.name).collect()
    }

    fn rings<T>(calls: &Calls<T>) -> bool {
        let mut heard = calls.heard.try_clone().unwrap();
        let mut poll = [0];
        match heard.read(&mut poll) {
            Ok(count) => {
                (&calls.bell).write_all(&poll[..count]).unwrap();
                true
            }
            Err(_) => false,
        }
    }

    #[test]
    fn the_bell_rings_as_long_as_there_is_something_to_take() {
        let calls = one_method(9);
        for name in 1..=3 {
            assert_eq!(add(&calls, 1, 1, name), None);
        }
        let _first = take(&calls, 2);
        assert!(rings(&calls));
        let _second = take(&calls, 2);
        assert!(!rings(&calls));
        assert_eq!(calls.waiting(), 0);
    }

    #[test]
    fn where_no_more_may_be_in_progress_it_rings_when_one_has_ended() {
        let calls = one_method(2);
        for name in 1..=4 {
            add(&calls, 1, 1, name);
        }
        let mut begun = take(&calls, 9);
        assert_eq!(names(&begun), [1, 2]);
        assert!(!rings(&calls), "Python would be woken again and again, to take nothing");
        let Began { call, in_progress, .. } = begun.remove(0);
        assert_eq!(call.name, 1);
        let peer = Arc::new(of_test(1, &Arc::new(Room::new(1, 0))));
        let (call, _answer) = Call::new(HeaderMap::new(), peer, None, in_progress);
        call.answer(answer());
        assert!(rings(&calls), "an answer makes room, whenever Python lets go of the call");
        assert_eq!(names(&take(&calls, 9)), [3]);
    }

    #[test]
    fn who_gave_up_is_passed_over() {
        let calls = one_method(9);
        let caller = Caller::default();
        calls.add(Instant::now(), 1, 0, 0, None, caller.clone());
        caller.given_up.store(true, Relaxed);
        assert!(take(&calls, 9).is_empty());
        assert_eq!(calls.in_progress(), 0, "it is not in progress");
        calls.give_up(7);
        assert_eq!(calls.take(Instant::now(), 9).0.given_up, [7]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let calls = one_method(9);
        let half = MAX_WAITING_BYTES / 2;
        assert_eq!([add(&calls, 1, half, 1), add(&calls, 2, half, 2)], [None, None]);
        assert_eq!(add(&calls, 3, 1, 3), Some(Refusal::Overloaded));
        let _taken = take(&calls, 1);
        assert_eq!(add(&calls, 3, 1, 3), None);
    }

    #[test]
    fn nobody_waits_for_a_python_that_does_not_come() {
        let calls = one_method(9);
        add(&calls, 1, 5, 1);
        assert!(calls.sweep(Instant::now()).is_empty());
        let refused = calls.sweep(Instant::now() + STUCK_AFTER);
        assert_eq!(refused.iter().map(|(_, refusal)| *refusal).collect::<Vec<_>>(), [Refusal::Stuck]);
        assert_eq!(add(&calls, 1, 5, 2), Some(Refusal::Stuck));
        take(&calls, 9);
        assert_eq!(add(&calls, 1, 5, 3), None);
    }

    fn answer() -> Answer {
        let (initial, trailers) = Default::default();
        Answer { code: 0, details: String::new(), message: Piece::empty(), initial, trailers }
    }

    /// Every call is taken once, or passed over because it was given up, or refused; whoever asks first is no matter.
    #[test]
    fn nothing_is_lost_or_taken_twice_between_threads() {
        const CALLERS: usize = 4;
        const EACH: usize = 5_000;
        let calls = one_method(100);
        let refused = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..CALLERS)
            .map(|connection| {
                let (calls, refused) = (calls.clone(), refused.clone());
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        let caller = Caller { name: connection * EACH + number, ..Caller::default() };
                        let given_up = caller.given_up.clone();
                        let out = calls.add(Instant::now(), connection as u64, 0, 3, None, caller);
                        refused.fetch_add(out.len(), Relaxed);
                        if number % 7 == 0 {
                            given_up.store(true, Relaxed);
                        }
                    }
                })
            })
            .collect();
        let mut taken: HashMap<usize, u32> = HashMap::new();
        loop {
            let is_over = callers.iter().all(|caller| caller.is_finished());
            let (some, out) = calls.take(Instant::now(), 64);
            refused.fetch_add(out.len() + calls.sweep(Instant::now()).len(), Relaxed);
            for began in &some.calls {
                *taken.entry(began.call.name).or_default() += 1;
            }
            if is_over && some.calls.is_empty() && calls.waiting() == 0 {
                break;
            }
        }
        assert!(taken.values().all(|times| *times == 1));
        let (total, gone) = (CALLERS * EACH, CALLERS * EACH.div_ceil(7));
        let ended = taken.len() + refused.load(Relaxed);
        assert!((total - gone..=total).contains(&ended), "{ended} of {total}, of which {gone} may have been given up");
        assert_eq!((calls.waiting(), calls.in_progress()), (0, 0));
        let _ = calls.take(Instant::now(), 1);
        assert!(!rings(&calls));
    }
}
