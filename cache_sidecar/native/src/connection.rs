//! One client's connection, and the route that each of its calls takes.

use crate::access;
use crate::body::{Begun, Gathered, gather};
use crate::counters::bump;
use crate::early::Judge;
use crate::handover::refuse_all;
use crate::hits::Hits;
use crate::lifetime::{self, Activity, Due, Lifetime};
use crate::limits::*;
use crate::metadata::{self, Route};
use crate::peer::Peer;
use crate::piece::Piece;
use crate::proxy;
use crate::reply;
use crate::room::{self, Held, Kind};
use crate::state::{Connection, Method, Server, WaitingCall};
use crate::status::{DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED};
use crate::tokens::Tokens;
use crate::unpack::unpack;
use crate::upstream::Upstream;
use crate::wire;
use h2::server::{self, SendResponse};
use h2::{Ping, Reason, RecvStream};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// The method that probes call.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

type Accepted = (Request<RecvStream>, SendResponse<Piece>);
type Http<S> = server::Connection<S, Piece>;

/// Serves a connection until it ends.
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
    // Before the first look at the certificate: whatever changes from here on is seen.
    let mut changes = server.access.changes();
    let was_revoked = server.access.is_revoked(&peer.client.identity);
    if was_revoked {
        lifetime.revoke(true);
    }
    lifetime.expire_after(peer.client.identity.not_after() - server.now());
    let alive = keepalive(&mut http, server.lifetimes);
    tokio::pin!(alive);
    let connection = Connection { server, upstream: Upstream::default(), peer: Arc::new(peer), begun: AtomicU64::new(0) };
    let connection = Arc::new(connection);
    let room = connection.server.room.clone();
    let _listed = room.list(&connection.peer);
    let mut batch = Vec::new();
    let mut is_draining = false;
    let mut closes_at = None;
    loop {
        tokio::select! { biased;
            // First: a connection that takes too much takes no more.
            () = connection.peer.to_end.notified(), if closes_at.is_none() => {
                bump(&connection.server.counters.broken_connections);
                http.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM); // h2 frees what it has of all calls
                if connection.peer.buffered.load(Relaxed) > UNREAD_GOODBYE {
                    return; // a client that reads nothing does not read this either
                }
                closes_at = Some(tokio::time::Instant::now() + GOODBYE);
            }
            () = tokio::time::sleep_until(closes_at.unwrap_or_else(tokio::time::Instant::now)), if closes_at.is_some() => return,
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
            Ok(()) = changes.changed() => {
                let client = &connection.peer.client.identity;
                lifetime.expire_after(client.not_after() - connection.server.now());
                if !was_revoked && connection.server.access.is_revoked(client) {
                    lifetime.revoke(false);
                }
            }
            () = connection.peer.is_to_leave.notified() => http.graceful_shutdown(),
            due = lifetime.due(|| activity(&connection)) => match due {
                Due::GoAway => http.graceful_shutdown(),
                Due::Close => return,
            },
            () = &mut alive => return,
        }
    }
}

/// Every call that is not answered at once has a task, which holds a reference to the connection or its peer.
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
        .reset_stream_duration(REMEMBERED)
        .handshake(stream)
        .await
}

/// Returns when the client fails to answer a PING.
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

/// Accepts all calls of one wake-up, then answers them, so that h2 writes the replies together. Returns at the end of the
/// connection; Err when the client broke the protocol.
async fn answer_all<S: AsyncRead + AsyncWrite + Unpin>(
    http: &mut Http<S>,
    connection: &Arc<Connection>,
    batch: &mut Vec<Accepted>,
) -> Result<(), ()> {
    poll_fn(|context| {
        let began = Instant::now();
        let settle = |http: &Http<S>, context: &Context<'_>| {
            let refusals = end_turn(connection, context);
            let peer = &connection.peer;
            peer.keep(http.num_wired_streams(), refusals + peer.buffered.load(Relaxed));
            connection.server.room.ease();
        };
        loop {
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
                    settle(http, context);
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
            let now = connection.server.now();
            let tokens = connection.server.access.tokens();
            let count = batch.len();
            connection.begun.fetch_add(count as u64, Relaxed);
            connection.peer.touch();
            for accepted in batch.drain(..) {
                answer(connection, accepted, tokens.as_deref(), context, began, now);
            }
            settle(http, context);
            if count >= MAX_AT_ONCE {
                context.waker().wake_by_ref(); // let other connections proceed
                return Poll::Pending;
            }
        }
    })
    .await
}

/// Counts the calls refused early, and if there were any, pauses reading from the connection. Returns the bytes of such refusals
/// that are still to be sent.
fn end_turn(connection: &Connection, context: &Context<'_>) -> usize {
    let (refused, is_to_rest, unsent) = {
        let mut early = connection.peer.early.lock();
        let (refused, is_to_rest) = early.end_turn();
        (refused, is_to_rest, early.out.len())
    };
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
    unsent
}

/// Whether an error only means that the connection ended.
fn is_gone(error: &h2::Error) -> bool {
    error.get_io().is_some_and(|error| error.kind() != std::io::ErrorKind::InvalidData)
}

/// Answers a call from memory, or passes it on.
fn answer(
    connection: &Arc<Connection>,
    (request, respond): Accepted,
    tokens: Option<&Tokens>,
    context: &mut Context<'_>,
    began: Instant,
    now: f64,
) {
    let (head, mut body) = request.into_parts();
    let server = &connection.server;
    let size = metadata::size(&head);
    if size > MAX_HEADERS {
        let details = format!("the metadata has {size} bytes, 32 for each entry included: at most {MAX_HEADERS} are taken");
        return reply::refuse(respond, RESOURCE_EXHAUSTED, &details, HeaderMap::new());
    }
    let route = access::route(&head, connection.peer.may_hit(&server.access, now), tokens);
    // A path with a query matches no method: grpc.aio refuses it.
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    if connection.peer.is_spare && path != HEALTH_CHECK {
        connection.peer.is_to_leave.notify_one();
        let details =
            format!("all {} connections are taken: only health checks are answered", server.descriptors.max_clients());
        return reply::refuse(respond, RESOURCE_EXHAUSTED, &details, HeaderMap::new());
    }
    let known = server.methods.get(path).filter(|_| route > Route::Proxy);
    let Some(method) = known else {
        if server.methods.get(path).is_some_and(|method| method.hits.is_some()) {
            bump(&server.counters.odd_metadata);
        }
        if let Some(encoding) = metadata::unknown_encoding(&head.headers) {
            return refuse_encoding(respond, encoding);
        }
        let call = Incomplete::new(connection, proxy::Call { head, begun: Begun::default(), body, respond });
        tokio::spawn(pass_on(connection.clone(), call));
        return;
    };
    if method.hits.is_none() && server.calls.is_refusing() {
        connection.peer.early.lock().learn(respond.stream_id().into(), method.number);
    }
    let hits = method.hits.as_deref();
    if route < Route::Memory && hits.is_some() {
        bump(&server.counters.odd_metadata);
    }
    let hits = hits.filter(|_| route == Route::Memory);
    let mut begun = Begun::default();
    match gather(&mut body, &mut begun, server.max_message, context) {
        Gathered::TooLarge(length) => refuse_large(server, respond, length),
        Gathered::Whole => {
            let came = begun.as_slice().len();
            if let Some(unpacked) = unpack(&head.headers, begun.as_slice(), began) {
                begun = Begun::from(unpacked);
            }
            let found = Found { hits, method: method.number, headers: &head.headers };
            let Some(respond) = hit(connection, found, begun.as_slice(), respond, began, now) else { return };
            let _ = body.flow_control().release_capacity(came);
            let deadline = deadline(&head);
            hand_over(connection, method, proxy::Call { head, begun, body, respond }, deadline);
        }
        Gathered::Gone => connection.peer.count_reset(),
        Gathered::Part | Gathered::Message | Gathered::Odd => {
            let call = Incomplete::new(connection, proxy::Call { head, begun, body, respond });
            tokio::spawn(wait_for_body(connection.clone(), method.clone(), route, call));
        }
    }
}

/// Refuses a call with an unknown compression, with the status that gRPC's documentation requires: C-core, to which compressed
/// calls are proxied, would answer INTERNAL.
fn refuse_encoding(respond: SendResponse<Piece>, encoding: &HeaderValue) {
    let details = format!("grpc-encoding is {encoding:?}: {} are supported", metadata::ENCODINGS);
    let supported = (HeaderName::from_static("grpc-accept-encoding"), HeaderValue::from_static(metadata::ENCODINGS));
    reply::refuse(respond, UNIMPLEMENTED, &details, HeaderMap::from_iter([supported]));
}

/// Refuses a message by its announced length, with C-core's message.
fn refuse_large(server: &Server, respond: SendResponse<Piece>, length: usize) {
    let details = format!("SERVER: Received message larger than max ({length} vs. {})", server.max_message);
    reply::refuse(respond, RESOURCE_EXHAUSTED, &details, HeaderMap::new());
}

/// A call's method, and its metadata; without `hits` it is left to Python.
struct Found<'a> {
    hits: Option<&'a Hits>,
    method: usize,
    headers: &'a HeaderMap,
}

/// Answers from memory a call that has come at `began`; otherwise returns the call's reply handle.
fn hit(
    connection: &Connection,
    Found { hits, method, headers }: Found<'_>,
    body: &[u8],
    respond: SendResponse<Piece>,
    began: Instant,
    now: f64,
) -> Option<SendResponse<Piece>> {
    let Some((hits, message)) = hits.zip(wire::message(body)) else { return Some(respond) };
    let Some(found) = hits.answer(message, now) else { return Some(respond) };
    if reply::has_no_room(&connection.peer) {
        reply::refuse_unread(respond);
    } else {
        let body = Piece::of_reply(found.body.into(), &connection.peer);
        reply::message(respond, HeaderMap::new(), body, HeaderMap::new());
    }
    let took = began.elapsed();
    hits.durations.record(took);
    connection.server.traces.record(headers, method, took);
    if found.wants_python {
        connection.server.calls.ring();
    }
    None
}

fn deadline(head: &Parts) -> Option<Instant> {
    let timeout = head.headers.get("grpc-timeout").and_then(|value| metadata::timeout(value.as_bytes()));
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

#[derive(PartialEq)]
enum Arrival {
    Came(Gathered),
    /// It did not come in time.
    Late,
    /// It has not come, and its caller may not call.
    Unknown,
}

/// A call whose request has not come completely, as far as is known; its caller owes what has.
struct Incomplete {
    call: proxy::Call,
    held: Held,
    deadline: Option<Instant>,
}

impl Incomplete {
    /// To be created before other calls are accepted: what those take in the same turn counts at its end.
    fn new(connection: &Connection, mut call: proxy::Call) -> Self {
        own(&mut call.head);
        let deadline = deadline(&call.head);
        let held = Held::new(&connection.peer, Kind::Owed, Self::size(&call));
        Incomplete { call, held, deadline }
    }

    fn size(call: &proxy::Call) -> usize {
        TASK_BYTES + room::size(&call.head.headers) + call.begun.size()
    }

    /// Waits until its first message is complete, until `BODY_WITHIN` or its deadline. A caller that may not call is not waited for.
    async fn arrive(mut self, connection: &Connection) -> (proxy::Call, Arrival, Option<Instant>) {
        let (server, call) = (&connection.server, &mut self.call);
        let latest = Instant::now() + BODY_WITHIN;
        let latest = self.deadline.map_or(latest, |deadline| deadline.min(latest));
        let may_wait = server.access.may_wait(&call.head, &connection.peer);
        let mut released = 0;
        let arriving = poll_fn(|context| {
            let state = gather(&mut call.body, &mut call.begun, server.max_message, context);
            // What has come is counted, so the window need not bound it.
            let came = call.begun.as_slice().len();
            let _ = call.body.flow_control().release_capacity(came - released);
            released = came;
            if state != Gathered::Part {
                return Poll::Ready(Arrival::Came(state));
            }
            call.begun.own();
            self.held.set(Self::size(call));
            if may_wait { Poll::Pending } else { Poll::Ready(Arrival::Unknown) }
        });
        let arrival = tokio::time::timeout_at(latest.into(), arriving).await.unwrap_or(Arrival::Late);
        (self.call, arrival, self.deadline)
    }
}

/// Copies a call's path and headers: as they came, they keep the buffers that they were read into.
fn own(head: &mut Parts) {
    for value in head.headers.values_mut() {
        if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
            *value = copy;
        }
    }
    if let Ok(uri) = Uri::try_from(head.uri.path_and_query().map_or("/", |path| path.as_str())) {
        head.uri = uri;
    }
}

fn refuse_late(respond: SendResponse<Piece>) {
    let details = format!("the request did not arrive within {} s, or its deadline", BODY_WITHIN.as_secs());
    reply::refuse(respond, DEADLINE_EXCEEDED, &details, HeaderMap::new());
}

/// Passes a call on to grpc.aio once its first message has come: what has not come would take ten times as much there.
async fn pass_on(connection: Arc<Connection>, call: Incomplete) {
    let (call, arrival, _) = call.arrive(&connection).await;
    match arrival {
        Arrival::Came(Gathered::Gone) => connection.peer.count_reset(),
        Arrival::Came(Gathered::TooLarge(length)) => refuse_large(&connection.server, call.respond, length),
        Arrival::Late => refuse_late(call.respond),
        // In a box: a call that is waited for needs no room for what it does later.
        Arrival::Came(_) | Arrival::Unknown => Box::pin(proxy::forward(connection, call)).await,
    }
}

/// Waits for the rest of a unary call.
async fn wait_for_body(connection: Arc<Connection>, method: Arc<Method>, route: Route, call: Incomplete) {
    let max_message = connection.server.max_message;
    let (mut call, mut arrival, deadline) = call.arrive(&connection).await;
    if arrival == Arrival::Came(Gathered::Message) {
        let end = poll_fn(|context| match gather(&mut call.body, &mut call.begun, max_message, context) {
            Gathered::Part | Gathered::Message => Poll::Pending,
            gathered => Poll::Ready(gathered),
        });
        if let Ok(gathered) = tokio::time::timeout(END_WITHIN, end).await {
            arrival = Arrival::Came(gathered);
        }
    }
    match arrival {
        Arrival::Came(Gathered::Whole) => {}
        // More came than the message.
        Arrival::Came(Gathered::Message) if wire::fault(call.begun.as_slice()).is_some() => {}
        Arrival::Came(Gathered::Gone) => return connection.peer.count_reset(),
        Arrival::Came(Gathered::TooLarge(length)) => return refuse_large(&connection.server, call.respond, length),
        Arrival::Late => return refuse_late(call.respond),
        Arrival::Came(_) | Arrival::Unknown => {
            bump(&connection.server.counters.odd_body);
            return Box::pin(proxy::forward(connection, call)).await;
        }
    }
    let hits = method.hits.as_deref().filter(|_| route == Route::Memory);
    let (began, now) = (Instant::now(), connection.server.now());
    if let Some(unpacked) = unpack(&call.head.headers, call.begun.as_slice(), began) {
        call.begun = Begun::from(unpacked);
    }
    let found = Found { hits, method: method.number, headers: &call.head.headers };
    let Some(respond) = hit(&connection, found, call.begun.as_slice(), call.respond, began, now) else { return };
    hand_over(&connection, &method, proxy::Call { respond, ..call }, deadline);
}

/// Hands a complete call to Python.
fn hand_over(connection: &Arc<Connection>, method: &Method, call: proxy::Call, deadline: Option<Instant>) {
    let server = &connection.server;
    let body = call.begun.as_slice();
    // A body that arrived at once was not checked by `gather`.
    if let Some(length) = wire::announced(body).filter(|length| *length > server.max_message) {
        return refuse_large(server, call.respond, length);
    }
    if let Some(fault) = wire::fault(body) {
        bump(&server.counters.odd_body);
        let (code, details) = fault.status();
        return reply::refuse(call.respond, code, details, HeaderMap::new());
    }
    if wire::message(body).is_none() {
        bump(&server.counters.odd_body);
        tokio::spawn(proxy::forward(connection.clone(), call));
        return;
    }
    if reply::has_no_room(&connection.peer) {
        return reply::refuse_unread(call.respond); // before Python has made a reply that could not be sent
    }
    bump(&server.counters.handed);
    let Some(held) = proxy::hold(connection, &call) else {
        bump(&server.counters.overloaded);
        return reply::refuse_with(call.respond, server.refusals.overloaded());
    };
    let message = call.begun.into_bytes().slice(wire::FRAME..);
    let (connection, metadata) = (connection.clone(), call.head.headers);
    let (number, bytes) = (connection.peer.number, message.len());
    let waiting = WaitingCall { method: method.number, message, metadata, deadline, connection, respond: call.respond, held };
    refuse_all(server.calls.add(Instant::now(), number, method.number, bytes, deadline, waiting));
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
    use crate::peer;
    use crate::reply::Refusals;
    use crate::state::Bounds;
    use crate::status::Status;
    use std::collections::{HashMap, HashSet};
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
        let refusal = || Status { code: RESOURCE_EXHAUSTED, message: "too many".into(), details: b"AA".into() };
        let refusals = Refusals::new(vec![refusal()], refusal()).unwrap();
        let methods = HashMap::from([("/a.B/C".to_string(), Arc::new(Method { number: 0, hits: None }))]);
        let second = Duration::from_secs(1);
        let lifetimes =
            lifetime::Limits { age: None, idle: None, grace: second, ping_every: 3600 * second, ping_within: second };
        let bounds = Bounds { max_message: 1 << 20, max_proxied: 10, lifetimes };
        let (taken, private) = (mpsc::unbounded_channel().0, "unused".into());
        Arc::new(Server::new(methods, HashSet::new(), calls, refusals, taken, private, bounds))
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

    /// A request that does not come is answered and reset without an error; the connection goes on.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_come_is_given_up() {
        let server = server();
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let peer = peer::of_test(1, &server.room);
        let room = server.room.clone();
        let (_drain, draining) = watch::channel(false);
        tokio::spawn(serve(server, peer, ours, draining));
        let mut caller = Caller::new(theirs).await;
        let mut bytes = Vec::new();
        put_frame(&mut bytes, 1, 4, 1, &caller.block);
        put_frame(&mut bytes, 0, 0, 1, b"\0\0\0\0\x02i");
        caller.stream.write_all(&bytes).await.unwrap();
        let mut seen = Vec::new();
        while seen.last() != Some(&(3, 0)) {
            assert!(caller.stream.read_buf(&mut caller.rest).await.unwrap() > 0);
            while caller.rest.len() >= HEADER && caller.rest.len() >= HEADER + length(&caller.rest) {
                let behind = caller.rest.split_off(HEADER + length(&caller.rest));
                if matches!(caller.rest[3], 1 | 3 | 7) {
                    let is_headers = caller.rest[3] == 1;
                    seen.push((caller.rest[3], if is_headers { caller.rest[4] & 1 } else { caller.rest[HEADER + 3] }));
                }
                caller.rest = behind;
            }
        }
        assert_eq!(seen, [(1, 1), (3, 0)], "the status, and a reset with NO_ERROR");
        assert!(room.held().0 <= STREAM_BYTES, "h2 remembers the stream for a while");
        caller.next = 3;
        caller.call(1).await;
        until(|| room.held().1 > 0).await;
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
        let ready_until = tokio::time::Instant::now() + Duration::from_secs(60);
        let peer = Peer::new(1, client, true, ready_until, early, server.room.clone());
        let stream = Counted { stream: ours, writes: writes.clone() };
        let stream = Gathering::of_client(stream, &peer);
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
