//! Calls passed on to a grpc.aio server of this process, on a private unix socket: streams, compression, large requests,
//! and whatever is unusual. Each client connection has a connection of its own there, so that one client's stalled streams
//! don't hold up another's calls.

use crate::connection::Connection;
use crate::counters::bump;
use crate::io::Gathering;
use crate::limits::{CONNECTION_WINDOW, MAX_STREAMS, PROXY_FRAME_BUDGET, PROXY_WINDOW, SEND_BUFFER};
use crate::metadata;
use crate::peer::Peer;
use crate::reply::{self, UNAVAILABLE};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, request};
use std::future::{Future, poll_fn};
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Mutex;

/// Streams wait as long as their readers like; keepalive finds those that are gone.
const EVER: Duration = Duration::from_secs(365 * 86_400);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A call, with what has been read of its body.
pub struct Call {
    pub head: request::Parts,
    pub begun: Vec<Bytes>,
    pub body: RecvStream,
    pub respond: SendResponse<Bytes>,
}

/// The way to grpc.aio, made when it is first needed and made anew when it is lost.
#[derive(Default)]
pub struct Upstream {
    open: Mutex<Option<SendRequest<Bytes>>>,
}

impl Upstream {
    async fn ready(&self, path: &Path) -> Result<SendRequest<Bytes>, ()> {
        loop {
            let open = self.open.lock().await.clone();
            let (requests, is_new) = match open {
                Some(requests) => (requests, false),
                None => (self.connect(path).await?, true),
            };
            match requests.ready().await {
                Ok(requests) => return Ok(requests),
                Err(_) if is_new => return Err(()),
                Err(_) => *self.open.lock().await = None,
            }
        }
    }

    async fn connect(&self, path: &Path) -> Result<SendRequest<Bytes>, ()> {
        let mut open = self.open.lock().await;
        let socket = tokio::net::UnixStream::connect(path);
        let socket = tokio::time::timeout(CONNECT_WITHIN, socket).await.map_err(drop)?.map_err(drop)?;
        let (requests, connection) = client::Builder::new()
            .initial_window_size(PROXY_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(PROXY_FRAME_BUDGET)
            .max_header_list_size(u32::MAX)
            .initial_max_send_streams(MAX_STREAMS as usize)
            .max_concurrent_reset_streams(MAX_STREAMS as usize)
            .enable_push(false)
            .handshake(Gathering::new(socket))
            .await
            .map_err(drop)?;
        tokio::spawn(async move { drop(connection.await) });
        *open = Some(requests.clone());
        Ok(requests)
    }
}

/// Passes a call on, and what comes back.
pub async fn pass_on(connection: Arc<Connection>, call: Call) {
    let Call { mut head, begun, mut body, mut respond } = call;
    let server = &connection.server;
    bump(&server.counters.proxied);
    if server.calls.is_stuck() {
        bump(&server.counters.unanswered);
        return reply::refuse(respond, UNAVAILABLE, STUCK, HeaderMap::new());
    }
    let Some(requests) = or_reset(&mut respond, connection.upstream.ready(&server.private)).await else { return };
    let Ok(mut requests) = requests else {
        return reply::refuse(respond, UNAVAILABLE, "the sidecar is stopping", HeaderMap::new());
    };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = Uri::builder().scheme("http").authority("sidecar").path_and_query(path).build().unwrap_or_default();
    head.headers.insert(metadata::CONNECTION, HeaderValue::from(connection.peer.number));
    let request = Request::from_parts(head, ());
    // Also of a call that has no body at all: C-core takes one that ends with its headers for one that its caller gave up.
    let Ok((response, mut up)) = requests.send_request(request, false) else {
        return respond.send_reset(Reason::REFUSED_STREAM); // it was not sent, so it may be tried again
    };
    drop(requests);
    let upward = async {
        for part in begun {
            let size = part.len();
            reply::send(&mut up, part, EVER).await.map_err(drop)?;
            let _ = body.flow_control().release_capacity(size);
        }
        copy(&mut body, &mut up).await
    };
    let downward = come_back(response, respond, &connection.peer);
    tokio::pin!(upward, downward);
    tokio::select! { biased;
        () = &mut downward => {}
        // An error is the client's: letting go of the rest resets it at grpc.aio.
        sent = &mut upward => if sent.is_ok() { downward.await },
    }
}

/// What is said while Python does not take calls.
pub const STUCK: &str = "the sidecar does not answer";

/// Waits for something, or returns None when the client resets the call first.
async fn or_reset<T>(respond: &mut SendResponse<Bytes>, wanted: impl Future<Output = T>) -> Option<T> {
    tokio::select! { biased;
        _ = poll_fn(|context| respond.poll_reset(context)) => None,
        found = wanted => Some(found),
    }
}

async fn come_back(response: client::ResponseFuture, mut respond: SendResponse<Bytes>, peer: &Peer) {
    let Some(response) = or_reset(&mut respond, response).await else { return peer.count_reset() };
    let (head, mut body) = match response {
        Ok(response) => response.into_parts(),
        Err(error) => return failed(&error, respond),
    };
    let is_whole = body.is_end_stream();
    let Ok(mut down) = respond.send_response(Response::from_parts(head, ()), is_whole) else { return };
    if is_whole {
        return;
    }
    match copy(&mut body, &mut down).await {
        Ok(()) => {}
        Err(()) => match poll_fn(|context| Poll::Ready(down.poll_reset(context))).await {
            Poll::Ready(_) => peer.count_reset(),
            Poll::Pending => drop(down.send_trailers(reply::trailers(UNAVAILABLE, "the sidecar ended the stream"))),
        },
    }
}

fn failed(error: &h2::Error, mut respond: SendResponse<Bytes>) {
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => respond.send_reset(reason),
        _ => reply::refuse(respond, UNAVAILABLE, "the sidecar is stopping", HeaderMap::new()),
    }
}

/// Copies a body, and the trailers behind it. A byte is acknowledged to its sender once its receiver has made room for it:
/// that is all there is to back-pressure. Err when either end is gone.
async fn copy(from: &mut RecvStream, to: &mut SendStream<Bytes>) -> Result<(), ()> {
    loop {
        let part = poll_fn(|context| match from.poll_data(context) {
            Poll::Pending if to.poll_reset(context).is_ready() => Poll::Ready(Err(())),
            part => part.map(Ok),
        });
        let Some(part) = part.await? else { break };
        let part = part.map_err(drop)?;
        let size = part.len();
        reply::send(to, part, EVER).await.map_err(drop)?;
        let _ = from.flow_control().release_capacity(size);
    }
    match from.trailers().await.map_err(drop)? {
        Some(trailers) => to.send_trailers(trailers).map_err(drop),
        None => to.send_data(Bytes::new(), true).map_err(drop),
    }
}
