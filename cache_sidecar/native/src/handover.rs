//! Calls handed to Python: refusals while they wait, and sending their answers.

use crate::calls::{self, Answer, Began, Call, Refusal, Refused};
use crate::counters::bump;
use crate::reply;
use crate::state::{Connection, RunningCall, WaitingCall};
use crate::status::{DEADLINE_EXCEEDED, STUCK, UNAVAILABLE};
use http::HeaderMap;
use std::future::poll_fn;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Waker};

impl calls::Waiting for WaitingCall {
    fn is_gone(&mut self) -> bool {
        let is_gone = self.respond.poll_reset(&mut Context::from_waker(Waker::noop())).is_ready();
        if is_gone {
            bump(&self.connection.server.counters.resets);
            self.connection.peer.count_reset();
        }
        is_gone
    }
}

/// Refuses calls that Python never sees.
pub fn refuse_all(refused: Refused<WaitingCall>) {
    for (mut call, refusal) in refused {
        if calls::Waiting::is_gone(&mut call) {
            continue;
        }
        let server = &call.connection.server;
        server.calls.count_refused(call.method, refusal, 1);
        let (counter, status) = match refusal {
            Refusal::Stuck => {
                bump(&server.counters.unanswered);
                reply::refuse(call.respond, UNAVAILABLE, STUCK, HeaderMap::new());
                continue;
            }
            Refusal::Overloaded => {
                call.connection.peer.early.lock().was_refused();
                (&server.counters.overloaded, server.refusals.overloaded())
            }
            Refusal::Deadline => (&server.counters.late, server.refusals.late()),
        };
        bump(counter);
        reply::refuse_with(call.respond, status);
    }
}

/// Turns a call that was taken into the call that Python sees, and the one that waits for its answer.
pub fn begin(began: Began<WaitingCall>) -> (Call, RunningCall) {
    let Began { id, call: WaitingCall { metadata, deadline, connection, respond, held, .. }, in_progress, .. } = began;
    let is_left = in_progress.is_left.clone();
    let (call, answer) = Call::new(metadata, connection.peer.clone(), deadline, in_progress);
    let given_up = call.given_up.clone();
    (call, RunningCall { id, deadline, answer, respond, connection, given_up, is_left, held })
}

impl RunningCall {
    /// Waits for Python's answer, or until the caller gives up.
    pub async fn run(self) {
        let (id, connection, given_up) = (self.id, self.connection.clone(), self.given_up.clone());
        if !send_answer(&connection, self).await {
            given_up.store(true, Relaxed);
            connection.server.calls.give_up(id);
        }
    }
}

/// Sends Python's answer; false if the caller gave up, or the deadline passed, before there was one.
async fn send_answer(connection: &Connection, mut pending: RunningCall) -> bool {
    let passed = async {
        match pending.deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    let counters = &connection.server.counters;
    tokio::select! { biased;
        answer = &mut pending.answer => {
            drop(pending.held); // from here on its reply is counted
            match answer {
                Ok(Answer { code: 0, message, initial, trailers, .. }) => {
                    reply::message(pending.respond, initial, message, trailers);
                }
                Ok(Answer { code, details, initial, trailers, .. }) => {
                    reply::fail(pending.respond, code, &details, initial, trailers);
                }
                Err(_) => {
                    bump(&counters.unanswered);
                    reply::refuse(pending.respond, UNAVAILABLE, STUCK, HeaderMap::new());
                }
            }
            true
        }
        _ = poll_fn(|context| pending.respond.poll_reset(context)) => {
            bump(&counters.resets);
            connection.peer.count_reset();
            pending.is_left.store(true, Relaxed);
            false
        }
        () = passed => {
            reply::refuse(pending.respond, DEADLINE_EXCEEDED, "Deadline Exceeded", HeaderMap::new());
            false
        }
    }
}
