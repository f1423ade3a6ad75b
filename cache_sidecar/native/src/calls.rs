//! Calls on their way to Python, and the way back.
//!
//! Each connection has a line of its own, and Python takes from the lines in turns: who sends a thousand calls delays the
//! one call of another by one. A byte on a socket wakes Python's event loop, one byte for however many calls.

use crate::identity::Client;
use crate::limits::{MAX_WAITING, MAX_WAITING_BYTES, STUCK_AFTER};
use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;
use tokio::sync::oneshot;

/// What Python says to a call.
#[derive(Debug)]
pub struct Answer {
    /// The gRPC status; 0 with a message, anything else without.
    pub code: u32,
    pub details: String,
    pub message: Bytes,
    pub initial: HeaderMap,
    pub trailers: HeaderMap,
}

/// A call as Python sees it.
pub struct Call {
    pub metadata: HeaderMap,
    pub client: Arc<Client>,
    pub deadline: Option<Instant>,
    pub given_up: Arc<AtomicBool>,
    answer: Mutex<Option<oneshot::Sender<Answer>>>,
}

impl Call {
    pub fn new(metadata: HeaderMap, client: Arc<Client>, deadline: Option<Instant>) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let given_up = Arc::new(AtomicBool::new(false));
        (Call { metadata, client, deadline, given_up, answer: Mutex::new(Some(sender)) }, receiver)
    }

    /// Answers, unless it was answered or given up.
    pub fn answer(&self, answer: Answer) {
        if let Some(sender) = self.answer.lock().take() {
            let _ = sender.send(answer);
        }
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Relaxed)
    }
}

/// A call in its line.
pub struct Waiting {
    pub id: u64,
    pub method: usize,
    pub message: Bytes,
    pub call: Call,
}

#[derive(Default)]
pub struct Taken {
    pub calls: Vec<Waiting>,
    /// Calls taken earlier that were given up since.
    pub given_up: Vec<u64>,
}

#[derive(Debug, PartialEq)]
pub enum Refused {
    /// Too many wait.
    Overloaded,
    /// Python has not come for its calls.
    Stuck,
}

pub struct Calls {
    lines: Mutex<Lines>,
    bell: UnixStream,
    heard: UnixStream,
}

#[derive(Default)]
struct Lines {
    of_connection: HashMap<u64, VecDeque<Waiting>>,
    /// Connections with a call in line; the first one's turn is next.
    turns: VecDeque<u64>,
    count: usize,
    bytes: usize,
    given_up: Vec<u64>,
    last_id: u64,
    /// Since when the bell has been ringing.
    ringing: Option<Instant>,
    is_stuck: bool,
}

impl Calls {
    pub fn new() -> io::Result<Self> {
        let (bell, heard) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        Ok(Calls { lines: Mutex::default(), bell, heard })
    }

    /// The file descriptor that is readable when there is something to take.
    pub fn fileno(&self) -> RawFd {
        self.heard.as_raw_fd()
    }

    /// Puts a call in its connection's line, and returns its id.
    pub fn add(&self, connection: u64, method: usize, message: Bytes, call: Call) -> Result<u64, Refused> {
        let mut lines = self.lines.lock();
        if lines.is_stuck {
            return Err(Refused::Stuck);
        }
        if lines.count >= MAX_WAITING || lines.bytes + message.len() > MAX_WAITING_BYTES {
            return Err(Refused::Overloaded);
        }
        lines.last_id += 1;
        lines.count += 1;
        lines.bytes += message.len();
        let id = lines.last_id;
        let line = lines.of_connection.entry(connection).or_default();
        let is_first = line.is_empty();
        line.push_back(Waiting { id, method, message, call });
        if is_first {
            lines.turns.push_back(connection);
        }
        self.ring_once(&mut lines);
        Ok(id)
    }

    /// Says that a call's caller is gone. One that still waits is passed over when its turn comes.
    pub fn give_up(&self, id: u64) {
        let mut lines = self.lines.lock();
        lines.given_up.push(id);
        self.ring_once(&mut lines);
    }

    /// Wakes Python though there is no call.
    pub fn ring(&self) {
        self.ring_once(&mut self.lines.lock());
    }

    fn ring_once(&self, lines: &mut Lines) {
        if lines.ringing.is_none() {
            lines.ringing = Some(Instant::now());
            let _ = (&self.bell).write(&[1]);
        }
    }

    /// Takes up to so many calls. With more left, the bell goes on ringing: the event loop comes back, after others' turns.
    pub fn take(&self, limit: usize) -> Taken {
        let mut lines = self.lines.lock();
        let mut taken = Taken { given_up: std::mem::take(&mut lines.given_up), ..Taken::default() };
        while taken.calls.len() < limit {
            let Some(waiting) = lines.next() else { break };
            if !waiting.call.is_given_up() {
                taken.calls.push(waiting);
            }
        }
        lines.is_stuck = false;
        if lines.count > 0 {
            lines.ringing = Some(Instant::now());
        } else if lines.ringing.take().is_some() {
            let _ = (&self.heard).read(&mut [0; 8]);
        }
        taken
    }

    /// Refuses whoever waits when Python has not come for too long.
    pub fn check(&self, now: Instant) {
        let mut lines = self.lines.lock();
        if lines.ringing.is_some_and(|since| now.saturating_duration_since(since) >= STUCK_AFTER) {
            lines.is_stuck = true;
            let dropped = std::mem::take(&mut lines.of_connection);
            lines.turns.clear();
            (lines.count, lines.bytes) = (0, 0);
            drop(lines);
            drop(dropped); // their callers are told as their answers are dropped
        }
    }

    pub fn is_stuck(&self) -> bool {
        self.lines.lock().is_stuck
    }

    pub fn waiting(&self) -> usize {
        self.lines.lock().count
    }
}

impl Lines {
    fn next(&mut self) -> Option<Waiting> {
        let connection = self.turns.pop_front()?;
        let line = self.of_connection.get_mut(&connection)?;
        let waiting = line.pop_front()?;
        if line.is_empty() {
            self.of_connection.remove(&connection);
        } else {
            self.turns.push_back(connection);
        }
        self.count -= 1;
        self.bytes -= waiting.message.len();
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn client() -> Arc<Client> {
        Arc::new(Client { name: "test".into(), identity: Identity::none() })
    }

    fn add(calls: &Calls, connection: u64, bytes: usize) -> Result<(u64, oneshot::Receiver<Answer>), Refused> {
        let (call, answer) = Call::new(HeaderMap::new(), client(), None);
        let id = calls.add(connection, 0, vec![0; bytes].into(), call)?;
        Ok((id, answer))
    }

    fn ids(taken: &Taken) -> Vec<u64> {
        taken.calls.iter().map(|waiting| waiting.id).collect()
    }

    fn rings(calls: &Calls) -> bool {
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
    fn connections_take_turns() {
        let calls = Calls::new().unwrap();
        let _answers: Vec<_> = [1, 1, 1, 2, 3, 2].map(|connection| add(&calls, connection, 1).unwrap()).into();
        assert_eq!(ids(&calls.take(4)), [1, 4, 5, 2]);
        assert!(rings(&calls));
        assert_eq!(ids(&calls.take(4)), [6, 3]);
        assert!(!rings(&calls));
        assert_eq!(calls.waiting(), 0);
    }

    #[test]
    fn who_gave_up_is_passed_over() {
        let calls = Calls::new().unwrap();
        let (call, _answer) = Call::new(HeaderMap::new(), client(), None);
        let given_up = call.given_up.clone();
        let id = calls.add(1, 0, Bytes::new(), call).unwrap();
        given_up.store(true, Relaxed);
        calls.give_up(id);
        let taken = calls.take(9);
        assert_eq!((ids(&taken), taken.given_up), (vec![], vec![id]));
    }

    #[test]
    fn what_waits_is_bounded() {
        let calls = Calls::new().unwrap();
        let half = MAX_WAITING_BYTES / 2;
        let _answers = [add(&calls, 1, half).unwrap(), add(&calls, 2, half).unwrap()];
        assert_eq!(add(&calls, 3, 1).unwrap_err(), Refused::Overloaded);
        calls.take(1);
        assert!(add(&calls, 3, 1).is_ok());
    }

    #[test]
    fn nobody_waits_for_a_python_that_does_not_come() {
        let calls = Calls::new().unwrap();
        let (_, mut answer) = add(&calls, 1, 5).unwrap();
        calls.check(Instant::now());
        assert!(answer.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        calls.check(Instant::now() + STUCK_AFTER);
        assert!(answer.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert_eq!(add(&calls, 1, 5).unwrap_err(), Refused::Stuck);
        calls.take(9);
        assert!(add(&calls, 1, 5).is_ok());
    }

    /// Every call is taken once, or passed over because it was given up, or refused; whoever asks first is no matter.
    #[test]
    fn nothing_is_lost_or_taken_twice_between_threads() {
        const CALLERS: u64 = 4;
        const EACH: u64 = 5_000;
        let calls = Arc::new(Calls::new().unwrap());
        let callers: Vec<_> = (0..CALLERS)
            .map(|connection| {
                let calls = calls.clone();
                std::thread::spawn(move || {
                    let mut answers = Vec::new();
                    for number in 0..EACH {
                        let (call, answer) = Call::new(HeaderMap::new(), client(), None);
                        let (given_up, gives_up) = (call.given_up.clone(), number % 7 == 0);
                        let id = calls.add(connection, 0, vec![0; 3].into(), call).unwrap();
                        if gives_up {
                            given_up.store(true, Relaxed);
                            calls.give_up(id);
                        }
                        answers.push((id, gives_up, answer));
                    }
                    answers
                })
            })
            .collect();
        let mut taken: HashMap<u64, u32> = HashMap::new();
        let mut given_up: Vec<u64> = Vec::new();
        loop {
            let is_over = callers.iter().all(|caller| caller.is_finished());
            let some = calls.take(64);
            calls.check(Instant::now());
            given_up.extend(some.given_up);
            for waiting in &some.calls {
                *taken.entry(waiting.id).or_default() += 1;
                waiting.call.answer(Answer {
                    code: 0,
                    details: String::new(),
                    message: Bytes::new(),
                    initial: HeaderMap::new(),
                    trailers: HeaderMap::new(),
                });
            }
            if is_over && some.calls.is_empty() {
                break;
            }
        }
        given_up.sort_unstable();
        let mut expected = Vec::new();
        for caller in callers {
            for (id, was_given_up, mut answer) in caller.join().unwrap() {
                let is_answered = answer.try_recv().is_ok();
                assert_eq!(is_answered, taken.get(&id) == Some(&1), "call {id}");
                assert!(is_answered || was_given_up, "call {id} is lost");
                expected.extend(was_given_up.then_some(id));
            }
        }
        expected.sort_unstable();
        assert_eq!(given_up, expected);
        let lines = calls.lines.lock();
        assert_eq!((lines.count, lines.bytes, lines.turns.len(), lines.of_connection.len()), (0, 0, 0, 0));
        drop(lines);
        assert!(!rings(&calls));
    }
}
