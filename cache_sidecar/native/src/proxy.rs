//! Proxies calls to a grpc.aio server of this process, on a private Unix socket: streams, large compressed requests, and anything
//! malformed. Each client connection has its own connection there, so that stalled streams of one client don't block the
//! calls of another.

use crate::body::Begun;
use crate::counters::bump;
use crate::limits::{MAX_RATIO, STREAM_BYTES};
use crate::metadata;
use crate::peer::Peer;
use crate::piece::Piece;
use crate::reply;
use crate::room::{self, Held, Kind};
use crate::state::Connection;
use crate::status::{RESOURCE_EXHAUSTED, STUCK, UNAVAILABLE};
use crate::upstream::Failure;
use crate::wire;
use bytes::Bytes;
use h2::client;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, request};
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::SemaphorePermit;

/// Streams wait as long as their readers need; keepalive detects readers that are gone.
const EVER: Duration = Duration::from_secs(365 * 86_400);

/// A call, with the part of its body read so far.
pub struct Call {
    pub head: request::Parts,
    pub begun: Begun,
    pub body: RecvStream,
    pub respond: SendResponse<Piece>,
}

/// Counts a complete call as at hand; None if there is no room for it. Its message is counted twice: Python copies it.
pub fn hold(connection: &Connection, call: &Call) -> Option<Held> {
    let bytes = STREAM_BYTES + room::size(&call.head.headers) + 2 * call.begun.size();
    connection.peer.may_wait().then(|| Held::new(&connection.peer, Kind::AtHand, bytes))
}

/// Proxies a call, and its reply.
pub async fn forward(connection: Arc<Connection>, call: Call) {
    let server = &connection.server;
    bump(&server.counters.proxied);
    let (Some(mut held), Ok(_permit)) = (hold(&connection, &call), server.proxied.try_acquire()) else {
        bump(&server.counters.overloaded);
        return reply::refuse_with(call.respond, server.refusals.overloaded());
    };
    let Call { mut head, begun, mut body, mut respond } = call;
    if server.calls.is_stuck() {
        bump(&server.counters.unanswered);
        return reply::refuse(respond, UNAVAILABLE, STUCK, HeaderMap::new());
    }
    let ready = connection.upstream.ready(&server.private, &server.descriptors);
    let Some(requests) = or_reset(&mut respond, ready).await else { return };
    let mut requests = match requests {
        Ok(requests) => requests,
        Err(Failure::Full) => {
            return reply::refuse(respond, RESOURCE_EXHAUSTED, "too many connections are open for this call", HeaderMap::new());
        }
        Err(Failure::Gone) => return reply::refuse(respond, UNAVAILABLE, "the sidecar is stopping", HeaderMap::new()),
    };
    let is_compressed = head.headers.get("grpc-encoding").is_some_and(|encoding| encoding != "identity");
    let decompressed = if is_compressed { (begun.size() * MAX_RATIO).min(server.max_message) >> 10 } else { 0 };
    let room = server.decompressed.acquire_many(decompressed as u32);
    let Some(Ok(room)) = or_reset(&mut respond, room).await else { return };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let takes_one_message = server.methods.contains_key(path) || server.one_message.contains(path);
    head.uri = Uri::builder().scheme("http").authority("sidecar").path_and_query(path).build().unwrap_or_default();
    head.headers.insert(metadata::CONNECTION, HeaderValue::from(connection.peer.number));
    let request = Request::from_parts(head, ());
    // Not ended here even if the call has no body: C-core treats a call that ends with its headers as cancelled.
    let Ok((response, mut up)) = requests.send_request(request, false) else {
        return respond.send_reset(Reason::REFUSED_STREAM); // it was not sent, so the client may retry it
    };
    drop(requests);
    let upward = async {
        let mut begun = begun.into_bytes();
        if !takes_one_message {
            reply::send(&mut up, Piece::of_request(begun), EVER).await.map_err(drop)?;
            return copy(&mut body, &mut up, Piece::of_request).await;
        }
        begun.truncate(wire::announced(&begun).map_or(begun.len(), |length| wire::FRAME + length));
        reply::send(&mut up, Piece::of_request(begun), EVER).await.map_err(drop)?;
        discard(&mut body).await?;
        up.send_data(Piece::empty(), true).map_err(drop)
    };
    let downward = copy_response(response, respond, &connection.peer, room, &mut held);
    tokio::pin!(upward, downward);
    tokio::select! { biased;
        () = &mut downward => {}
        // An error is the client's: dropping the rest resets the call at grpc.aio.
        sent = &mut upward => if sent.is_ok() { downward.await },
    }
}

/// Waits for a future; None if the client resets the call first.
async fn or_reset<T>(respond: &mut SendResponse<Piece>, wanted: impl Future<Output = T>) -> Option<T> {
    tokio::select! { biased;
        _ = poll_fn(|context| respond.poll_reset(context)) => None,
        found = wanted => Some(found),
    }
}

/// `room` is for the decompressed request, until there is a response.
async fn copy_response(
    response: client::ResponseFuture,
    mut respond: SendResponse<Piece>,
    peer: &Arc<Peer>,
    room: SemaphorePermit<'_>,
    held: &mut Held,
) {
    let Some(response) = or_reset(&mut respond, response).await else { return peer.count_reset() };
    drop(room);
    held.set(STREAM_BYTES);
    let (head, mut body) = match response {
        Ok(response) => response.into_parts(),
        Err(error) => return end_failed(&error, respond),
    };
    let is_whole = body.is_end_stream();
    let Ok(mut down) = respond.send_response(Response::from_parts(head, ()), is_whole) else { return };
    if is_whole {
        return;
    }
    match copy(&mut body, &mut down, |part| Piece::of_reply(part, peer)).await {
        Ok(()) => {}
        Err(()) => match poll_fn(|context| Poll::Ready(down.poll_reset(context))).await {
            Poll::Ready(_) => peer.count_reset(),
            Poll::Pending => drop(down.send_trailers(reply::trailers(UNAVAILABLE, "the sidecar ended the stream"))),
        },
    }
}

fn end_failed(error: &h2::Error, mut respond: SendResponse<Piece>) {
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => respond.send_reset(reason),
        _ => reply::refuse(respond, UNAVAILABLE, "the sidecar is stopping", HeaderMap::new()),
    }
}

/// Reads the rest of a body that nobody needs; Err when the client resets the call.
async fn discard(body: &mut RecvStream) -> Result<(), ()> {
    while let Some(part) = body.data().await {
        let _ = body.flow_control().release_capacity(part.map_err(drop)?.len());
    }
    Ok(())
}

/// Copies a body and its trailers. Bytes are acknowledged to the sender once the receiver has room for them, which is all that
/// back-pressure needs. Err when either end is gone.
async fn copy(from: &mut RecvStream, to: &mut SendStream<Piece>, piece: impl Fn(Bytes) -> Piece) -> Result<(), ()> {
    loop {
        let part = poll_fn(|context| match from.poll_data(context) {
            Poll::Pending if to.poll_reset(context).is_ready() => Poll::Ready(Err(())),
            part => part.map(Ok),
        });
        let Some(part) = part.await? else { break };
        let part = part.map_err(drop)?;
        let size = part.len();
        reply::send(to, piece(part), EVER).await.map_err(drop)?;
        let _ = from.flow_control().release_capacity(size);
    }
    match from.trailers().await.map_err(drop)? {
        Some(trailers) => to.send_trailers(trailers).map_err(drop),
        None => to.send_data(Piece::empty(), true).map_err(drop),
    }
}
