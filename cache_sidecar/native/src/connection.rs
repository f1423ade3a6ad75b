//! One client's connection: which way each of its calls takes.

use crate::access::{self, Tokens};
use crate::calls::{self, Answer, Began, Call, Refusal, Refused};
use crate::counters::bump;
use crate::early::Judge;
use crate::hits::Hits;
use crate::lifetime::{self, Activity, Due, Lifetime};
use crate::limits::*;
use crate::metadata::{self, Way};
use crate::peer::Peer;
use crate::proxy::{self, STUCK, Upstream};
use crate::reply::{self, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE, UNIMPLEMENTED};
use crate::server::{Method, Server};
use crate::wire;
use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Ping, Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};

/// What calls of a connection share.
pub struct Connection {
    pub server: Arc<Server>,
    pub upstream: Upstream,
    pub peer: Arc<Peer>,
    begun: AtomicU64,
}

type Accepted = (Request<RecvStream>, SendResponse<Bytes>);
type Http<S> = server::Connection<S, Bytes>;

/// Serves a connection to its end.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    server: Arc<Server>,
    peer: Peer,
    stream: S,
    mut draining: watch::Receiver<bool>,
) {
    let Ok(Ok(mut http)) = tokio::time::timeout_at(peer.ready_until, handshake(stream)).await else {
        return bump(&server.counters.broken_connections);
    };
    let mut lifetime = Lifetime::new(&server.lifetimes);
    let alive = keepalive(&mut http, server.lifetimes);
    tokio::pin!(alive);
    let connection = Connection { server, upstream: Upstream::default(), peer: Arc::new(peer), begun: AtomicU64::new(0) };
    let connection = Arc::new(connection);
    let mut batch = Vec::new();
    let mut is_draining = false;
    loop {
        tokio::select! { biased;
            ended = answer_all(&mut http, &connection, &mut batch) => {
                if ended.is_err() {
                    bump(&connection.server.counters.broken_connections);
                }
                return;
            }
            _ = draining.wait_for(|is_on| *is_on), if !is_draining => {
                is_draining = true;
                http.graceful_shutdown();
            }
            () = connection.peer.too_many_resets.notified() => {
                bump(&connection.server.counters.broken_connections);
                http.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            due = lifetime.due(|| activity(&connection)) => match due {
                Due::GoAway => http.graceful_shutdown(),
                Due::Close => return,
            },
            () = &mut alive => return,
        }
    }
}

/// Every call that is not answered at once has a task, which has the connection, or its peer, too.
fn activity(connection: &Arc<Connection>) -> Activity {
    let is_busy = Arc::strong_count(connection) > 1 || Arc::strong_count(&connection.peer) > 1;
    Activity { begun: connection.begun.load(Relaxed), is_busy }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Result<Http<S>, h2::Error> {
    server::Builder::new()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_READ_HEADERS)
        .max_frame_size(MAX_FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .handshake(stream)
        .await
}

/// Returns when the client does not answer a PING.
fn keepalive<S: AsyncRead + AsyncWrite + Unpin>(
    http: &mut Http<S>,
    limits: lifetime::Limits,
) -> impl Future<Output = ()> + use<S> {
    let ping_pong = http.ping_pong();
    async move {
        let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
        loop {
            tokio::time::sleep(limits.ping_every).await;
            let pong = tokio::time::timeout(limits.ping_within, ping_pong.ping(Ping::opaque())).await;
            if !matches!(pong, Ok(Ok(_))) {
                return;
            }
        }
    }
}

/// Takes all calls that one wake-up brought, then answers them, and lets h2 write the replies at once. Returns at the end of
/// the connection; Err when the client broke it.
async fn answer_all<S: AsyncRead + AsyncWrite + Unpin>(
    http: &mut Http<S>,
    connection: &Arc<Connection>,
    batch: &mut Vec<Accepted>,
) -> Result<(), ()> {
    poll_fn(|context| {
        loop {
            let began = Instant::now();
            match http.poll_accept(context) {
                Poll::Ready(Some(Ok(accepted))) => {
                    batch.push(accepted);
                    if batch.len() < MAX_AT_ONCE {
                        continue;
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(if is_gone(&error) { Ok(()) } else { Err(()) }),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending if batch.is_empty() => {
                    end_turn(connection, context);
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
            let now = connection.server.now();
            let tokens = connection.server.access.tokens();
            let count = batch.len();
            connection.begun.fetch_add(count as u64, Relaxed);
            for accepted in batch.drain(..) {
                answer(connection, accepted, tokens.as_deref(), context, now, began);
            }
            if count < MAX_AT_ONCE {
                end_turn(connection, context);
            } else {
                context.waker().wake_by_ref(); // others first
                return Poll::Pending;
            }
        }
    })
    .await
}

/// Counts what was refused early, and has the connection rest if any was.
fn end_turn(connection: &Connection, context: &Context<'_>) {
    let (refused, is_to_rest) = connection.peer.early.lock().end_turn();
    let server = &connection.server;
    if refused > 0 {
        for counter in [&server.counters.handed, &server.counters.overloaded, &server.counters.refused_early, &connection.begun]
        {
            counter.fetch_add(refused as u64, Relaxed);
        }
    }
    if is_to_rest {
        server.rests.begin(&connection.peer.is_resting, context.waker().clone());
    }
}

/// Whether an error is nothing but the end of a connection.
fn is_gone(error: &h2::Error) -> bool {
    error.get_io().is_some_and(|error| error.kind() != std::io::ErrorKind::InvalidData)
}

/// Answers a call from memory, or sees it on its way.
fn answer(
    connection: &Arc<Connection>,
    (request, respond): Accepted,
    tokens: Option<&Tokens>,
    context: &mut Context<'_>,
    now: f64,
    began: Instant,
) {
    let (head, mut body) = request.into_parts();
    let server = &connection.server;
    let size = metadata::size(&head);
    if size > MAX_HEADERS {
        let details = format!("the metadata has {size} bytes, 32 for each entry included: at most {MAX_HEADERS} are taken");
        return reply::refuse(respond, RESOURCE_EXHAUSTED, &details, HeaderMap::new());
    }
    let way = access::way(&head, connection.peer.is_allowed, tokens);
    // A path with a query is no method's: grpc.aio says so.
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let known = server.methods.get(path).filter(|_| way > Way::Proxy);
    let Some(method) = known else {
        if server.methods.get(path).is_some_and(|method| method.hits.is_some()) {
            bump(&server.counters.odd_metadata);
        }
        if let Some(encoding) = metadata::unknown_encoding(&head.headers) {
            return refuse_encoding(respond, encoding);
        }
        tokio::spawn(proxy::pass_on(connection.clone(), proxy::Call { head, begun: Vec::new(), body, respond }));
        return;
    };
    if method.hits.is_none() && server.calls.is_refusing() {
        connection.peer.early.lock().learn(respond.stream_id().into(), method.number);
    }
    let hits = method.hits.as_deref();
    if way < Way::Memory && hits.is_some() {
        bump(&server.counters.odd_metadata);
    }
    let hits = hits.filter(|_| way == Way::Memory);
    let mut begun = Vec::new();
    match gather(&mut body, &mut begun, server.max_message, context) {
        Gathered::TooLarge(length) => refuse_large(server, respond, length),
        Gathered::Whole => {
            let message = joined(begun);
            let Some(respond) = hit(connection, hits, &message, respond, now, began) else { return };
            hand_over(connection, method, proxy::Call { head, begun: vec![message], body, respond });
        }
        Gathered::Odd => {
            bump(&server.counters.odd_body);
            tokio::spawn(proxy::pass_on(connection.clone(), proxy::Call { head, begun, body, respond }));
        }
        Gathered::Part => {
            let call = proxy::Call { head, begun, body, respond };
            tokio::spawn(wait_for_body(connection.clone(), method.clone(), way, call));
        }
    }
}

enum Gathered {
    Whole,
    Part,
    /// More than is gathered here, trailers, or an error.
    Odd,
    /// The message is said to have so many bytes, more than it may.
    TooLarge(usize),
}

/// Takes what has come of a body. Nothing is acknowledged before it is whole, so the window bounds what is held.
fn gather(body: &mut RecvStream, begun: &mut Vec<Bytes>, max_message: usize, context: &mut Context<'_>) -> Gathered {
    loop {
        if let Some(length) = begun.first().and_then(|first| wire::announced(first)).filter(|length| *length > max_message) {
            return Gathered::TooLarge(length);
        }
        match body.poll_data(context) {
            Poll::Ready(Some(Ok(part))) => {
                begun.push(part);
                if begun.iter().map(Bytes::len).sum::<usize>() >= MAX_BODY {
                    return Gathered::Odd;
                }
            }
            Poll::Ready(None) if body.is_end_stream() => return Gathered::Whole,
            Poll::Ready(_) => return Gathered::Odd,
            Poll::Pending => return Gathered::Part,
        }
        if body.is_end_stream() {
            return Gathered::Whole;
        }
    }
}

/// Refuses a call whose messages are compressed by what is not known here, as gRPC's table of status codes has it: C-core, to
/// which compressed calls go, would say INTERNAL.
fn refuse_encoding(respond: SendResponse<Bytes>, encoding: &HeaderValue) {
    let details = format!("grpc-encoding is {encoding:?}: {} are supported", metadata::ENCODINGS);
    let supported = (HeaderName::from_static("grpc-accept-encoding"), HeaderValue::from_static(metadata::ENCODINGS));
    reply::refuse(respond, UNIMPLEMENTED, &details, HeaderMap::from_iter([supported]));
}

/// Refuses a message from its length alone, in the words of C-core.
fn refuse_large(server: &Server, respond: SendResponse<Bytes>, length: usize) {
    let details = format!("SERVER: Received message larger than max ({length} vs. {})", server.max_message);
    reply::refuse(respond, RESOURCE_EXHAUSTED, &details, HeaderMap::new());
}

fn joined(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() == 1 { parts.swap_remove(0) } else { parts.concat().into() }
}

/// Answers from memory; returns what is to be answered otherwise.
fn hit(
    connection: &Connection,
    hits: Option<&Hits>,
    body: &[u8],
    respond: SendResponse<Bytes>,
    now: f64,
    began: Instant,
) -> Option<SendResponse<Bytes>> {
    let Some((hits, found)) =
        hits.zip(wire::message(body)).and_then(|(hits, message)| Some((hits, hits.answer(message, now)?)))
    else {
        return Some(respond);
    };
    reply::message(respond, HeaderMap::new(), found.body.into(), HeaderMap::new(), &connection.peer);
    if found.wants_python {
        connection.server.calls.ring();
    }
    hits.latency.count(began.elapsed());
    None
}

/// Waits for the rest of a small body; one that takes long waits in grpc.aio.
async fn wait_for_body(connection: Arc<Connection>, method: Arc<Method>, way: Way, mut call: proxy::Call) {
    let began = Instant::now();
    let max_message = connection.server.max_message;
    let rest = poll_fn(|context| match gather(&mut call.body, &mut call.begun, max_message, context) {
        Gathered::Part => Poll::Pending,
        gathered => Poll::Ready(gathered),
    });
    match tokio::time::timeout(BODY_WITHIN, rest).await {
        Ok(Gathered::Whole) => {}
        Ok(Gathered::TooLarge(length)) => return refuse_large(&connection.server, call.respond, length),
        _ => {
            bump(&connection.server.counters.odd_body);
            return proxy::pass_on(connection, call).await;
        }
    }
    let message = joined(std::mem::take(&mut call.begun));
    let hits = method.hits.as_deref().filter(|_| way == Way::Memory);
    let now = connection.server.now();
    let Some(respond) = hit(&connection, hits, &message, call.respond, now, began) else { return };
    hand_over(&connection, &method, proxy::Call { begun: vec![message], respond, ..call });
}

/// Hands a whole call to Python.
fn hand_over(connection: &Arc<Connection>, method: &Method, mut call: proxy::Call) {
    let body = call.begun[0].clone();
    // What ends with its first bytes was not looked at while it came.
    if let Some(length) = wire::announced(&body).filter(|length| *length > connection.server.max_message) {
        return refuse_large(&connection.server, call.respond, length);
    }
    if let Some(fault) = wire::fault(&body) {
        bump(&connection.server.counters.odd_body);
        let (code, details) = fault.status();
        return reply::refuse(call.respond, code, details, HeaderMap::new());
    }
    if wire::message(&body).is_none() {
        bump(&connection.server.counters.odd_body);
        tokio::spawn(proxy::pass_on(connection.clone(), call));
        return;
    }
    let _ = call.body.flow_control().release_capacity(body.len());
    let timeout = call.head.headers.get("grpc-timeout").and_then(|value| metadata::timeout(value.as_bytes()));
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let server = &connection.server;
    bump(&server.counters.handed);
    let message = body.slice(wire::FRAME..);
    let (connection, metadata) = (connection.clone(), call.head.headers);
    let (number, bytes) = (connection.peer.number, message.len());
    let asked = Asked { message, metadata, deadline, connection, respond: call.respond };
    refuse_all(server.calls.add(Instant::now(), number, method.number, bytes, deadline, asked));
}

/// A call that waits for Python.
pub struct Asked {
    pub message: Bytes,
    metadata: HeaderMap,
    deadline: Option<Instant>,
    connection: Arc<Connection>,
    respond: SendResponse<Bytes>,
}

impl calls::Asked for Asked {
    fn is_gone(&mut self) -> bool {
        let is_gone = self.respond.poll_reset(&mut Context::from_waker(Waker::noop())).is_ready();
        if is_gone {
            bump(&self.connection.server.counters.resets);
            self.connection.peer.count_reset();
        }
        is_gone
    }
}

/// Ends calls that Python is never to see.
pub fn refuse_all(refused: Refused<Asked>) {
    for (mut asked, refusal) in refused {
        if calls::Asked::is_gone(&mut asked) {
            continue;
        }
        let server = &asked.connection.server;
        let (counter, status) = match refusal {
            Refusal::Stuck => {
                bump(&server.counters.unanswered);
                reply::refuse(asked.respond, UNAVAILABLE, STUCK, HeaderMap::new());
                continue;
            }
            Refusal::Overloaded => {
                asked.connection.peer.early.lock().was_refused();
                (&server.counters.overloaded, server.refusals.overloaded())
            }
            Refusal::Deadline => (&server.counters.late, server.refusals.late()),
        };
        bump(counter);
        reply::refuse_with(asked.respond, status);
    }
}

/// Makes of a call that was taken what Python sees, and what waits for its answer.
pub fn begin(began: Began<Asked>) -> (Call, Pending) {
    let Began { id, call: Asked { metadata, deadline, connection, respond, .. }, in_progress, .. } = began;
    let is_left = in_progress.is_left.clone();
    let (call, answer) = Call::new(metadata, connection.peer.client.clone(), deadline, in_progress);
    let given_up = call.given_up.clone();
    (call, Pending { id, deadline, answer, respond, connection, given_up, is_left })
}

/// A call that Python has.
pub struct Pending {
    id: u64,
    deadline: Option<Instant>,
    answer: oneshot::Receiver<Answer>,
    respond: SendResponse<Bytes>,
    connection: Arc<Connection>,
    given_up: Arc<AtomicBool>,
    is_left: Arc<AtomicBool>,
}

impl Pending {
    /// Waits for Python's answer, or for its caller to give up.
    pub async fn run(self) {
        let (id, connection, given_up) = (self.id, self.connection.clone(), self.given_up.clone());
        if !come_back(&connection, self).await {
            given_up.store(true, Relaxed);
            connection.server.calls.give_up(id);
        }
    }
}

/// Sends Python's answer; false when there was none before the caller gave up, or its deadline passed.
async fn come_back(connection: &Connection, mut pending: Pending) -> bool {
    let passed = async {
        match pending.deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    let counters = &connection.server.counters;
    tokio::select! { biased;
        answer = &mut pending.answer => {
            match answer {
                Ok(Answer { code: 0, message, initial, trailers, .. }) => {
                    reply::message(pending.respond, initial, message, trailers, &connection.peer);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{HEADER, length, put_plain};
    use crate::calls::Calls;
    use crate::early::{Early, put_frame};
    use crate::identity::{Client, Identity};
    use crate::io::Gathering;
    use crate::line::Service;
    use crate::overload::{INTERVAL, LEAST_LINE, TARGET};
    use crate::reply::Refusals;
    use std::collections::HashMap;
    use std::pin::Pin;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
    use tokio::sync::mpsc;

    /// Counts what a server asks of its socket.
    struct Counted {
        stream: DuplexStream,
        writes: Arc<AtomicUsize>,
    }

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(context, into)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
            self.writes.fetch_add(1, Relaxed);
            Pin::new(&mut self.stream).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }

    fn server() -> Arc<Server> {
        let calls = Calls::new(vec![Service::new(0, 1, 1)], &[Some(0)]).unwrap();
        let refusal = || (RESOURCE_EXHAUSTED, "too many".to_string(), b"AA".to_vec());
        let refusals = Refusals::new(vec![refusal()], refusal()).unwrap();
        let methods = HashMap::from([("/a.B/C".to_string(), Arc::new(Method { number: 0, hits: None }))]);
        let second = Duration::from_secs(1);
        let limits = lifetime::Limits { age: None, idle: None, grace: second, ping_every: 3600 * second, ping_within: second };
        Arc::new(Server::new(methods, calls, refusals, mpsc::unbounded_channel().0, "unused".into(), 1 << 20, limits))
    }

    /// A client's side of a connection.
    struct Caller {
        stream: DuplexStream,
        block: Vec<u8>,
        next: u32,
        rest: Vec<u8>,
    }

    impl Caller {
        async fn new(stream: DuplexStream) -> Self {
            let mut block = vec![0x83, 0x86];
            for (name, value) in [(&b"\x04"[..], "/a.B/C"), (b"\x01", "a"), (b"\x0f\x10", "application/grpc")] {
                block.extend_from_slice(name);
                put_plain(&mut block, value.as_bytes());
            }
            let mut caller = Caller { stream, block, next: 1, rest: Vec::new() };
            let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            caller.stream.write_all(preface).await.unwrap();
            caller
        }

        /// Makes calls, all at the same moment.
        async fn call(&mut self, count: usize) {
            let mut bytes = Vec::new();
            for _ in 0..count {
                put_frame(&mut bytes, 1, 4, self.next, &self.block);
                put_frame(&mut bytes, 0, 1, self.next, b"\0\0\0\0\x02id");
                self.next += 2;
            }
            self.stream.write_all(&bytes).await.unwrap();
        }

        /// Reads until so many streams have ended, and returns them.
        async fn ended(&mut self, count: usize) -> Vec<u32> {
            let mut ended = Vec::new();
            while ended.len() < count {
                while self.rest.len() >= HEADER && self.rest.len() >= HEADER + length(&self.rest) {
                    let behind = self.rest.split_off(HEADER + length(&self.rest));
                    assert!(!matches!(self.rest[3], 3 | 7), "no reset, no GOAWAY");
                    if self.rest[3] == 1 && self.rest[4] & 1 == 1 {
                        ended.push(u32::from_be_bytes(*self.rest[5..].first_chunk().unwrap()));
                    }
                    self.rest = behind;
                }
                if ended.len() < count {
                    assert!(self.stream.read_buf(&mut self.rest).await.unwrap() > 0);
                }
            }
            ended
        }
    }

    async fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// While Python has one call, and may have no other, a line of them stands.
    #[tokio::test]
    async fn a_thousand_refusals_are_a_few_writes_and_not_known_to_h2() {
        const MANY: usize = 1000;
        let server = server();
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let writes = Arc::new(AtomicUsize::new(0));
        let client = Arc::new(Client { name: String::new(), identity: Identity::none() });
        let early = Early::new(1, server.calls.clone(), server.refusals.blocks.clone());
        let peer = Peer::new(1, client, true, tokio::time::Instant::now() + Duration::from_secs(60), early);
        let stream = Counted { stream: ours, writes: writes.clone() };
        let stream = Gathering::of_client(stream, peer.early.clone(), peer.is_resting.clone());
        let (_drain, draining) = watch::channel(false);
        tokio::spawn(serve(server.clone(), peer, stream, draining));
        let resting = server.clone();
        tokio::spawn(async move { resting.rests.run().await });
        let mut caller = Caller::new(theirs).await;

        caller.call(1).await;
        until(|| server.calls.waiting() == 1).await;
        let (taken, _) = server.calls.take(Instant::now(), 1);
        caller.call(1).await;
        until(|| server.calls.waiting() == 1).await;
        let now = Instant::now() + 2 * TARGET;
        refuse_all(server.calls.sweep(now));
        refuse_all(server.calls.sweep(now + 2 * INTERVAL));
        assert_eq!(caller.ended(1).await, [3], "it has waited for too long");
        // The line has room; with these h2 says what the block means.
        caller.call(LEAST_LINE).await;
        until(|| server.calls.waiting() == LEAST_LINE).await;

        let (before, first) = (writes.load(Relaxed), caller.next);
        caller.call(MANY).await;
        let refused = caller.ended(MANY).await;
        assert_eq!(refused, (0..MANY as u32).map(|number| first + 2 * number).collect::<Vec<_>>());
        assert_eq!(server.counters.refused_early.load(Relaxed), MANY as u64);
        assert_eq!(server.counters.overloaded.load(Relaxed), 1 + MANY as u64);
        let count = writes.load(Relaxed) - before;
        assert!(count <= MANY / 50, "{count} writes");

        // What has waited is still served: here it is told that it has waited for too long.
        refuse_all(server.calls.sweep(now + 4 * INTERVAL));
        assert_eq!(caller.ended(LEAST_LINE).await.len(), LEAST_LINE);
        drop(taken);
    }
}
