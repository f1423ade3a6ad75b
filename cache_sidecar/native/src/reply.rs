//! Sending replies.

use crate::early::Blocks;
use crate::limits::{MAX_UNREAD, READ_WITHIN};
use crate::peer::Peer;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Codes of gRPC that are answered here.
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const RESOURCE_EXHAUSTED: u32 = 8;
pub const UNIMPLEMENTED: u32 = 12;
pub const INTERNAL: u32 = 13;
pub const UNAVAILABLE: u32 = 14;

/// Sends a framed message and OK. At once when the client has room for it; else a task waits for that.
pub fn message(mut respond: SendResponse<Bytes>, initial: HeaderMap, body: Bytes, mut trailers: HeaderMap, peer: &Arc<Peer>) {
    if peer.unread.load(Relaxed) > MAX_UNREAD {
        return refuse(respond, RESOURCE_EXHAUSTED, "too many replies wait for their caller to read them", HeaderMap::new());
    }
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    let Ok(mut stream) = respond.send_response(head(initial), false) else { return };
    stream.reserve_capacity(body.len());
    if stream.capacity() >= body.len() {
        let _ = stream.send_data(body, false);
        let _ = stream.send_trailers(trailers);
        return;
    }
    let peer = peer.clone();
    let size = body.len();
    peer.unread.fetch_add(size, Relaxed);
    tokio::spawn(async move {
        let sent = send(&mut stream, body, READ_WITHIN).await;
        peer.unread.fetch_sub(size, Relaxed);
        match sent {
            Ok(()) => drop(stream.send_trailers(trailers)),
            Err(Unsent::TooSlow) => stream.send_reset(Reason::CANCEL),
            Err(Unsent::Gone) => {}
        }
    });
}

/// Ends a call without a message.
pub fn refuse(mut respond: SendResponse<Bytes>, code: u32, details: &str, mut trailers: HeaderMap) {
    add_status(&mut trailers, code, details);
    let _ = respond.send_response(head(trailers), true);
}

/// Ends a call with a status that was made before.
pub fn refuse_with(mut respond: SendResponse<Bytes>, status: &HeaderMap) {
    let _ = respond.send_response(head(status.clone()), true);
}

/// A gRPC status: code, message, and details as they travel.
pub type Status = (u32, String, Vec<u8>);

/// Statuses that are given without Python: those of too many calls, that say in different words when to come again, and that of
/// a deadline that cannot be met.
pub struct Refusals {
    /// As `early.rs` sends the same.
    pub blocks: Arc<Blocks>,
    overloaded: Vec<HeaderMap>,
    late: HeaderMap,
    next: AtomicUsize,
}

impl Refusals {
    /// Takes code, message and google.rpc.Status of each, as it travels; None when they cannot be sent.
    pub fn new(overloaded: Vec<Status>, late: Status) -> Option<Self> {
        let escaped = |(code, message, details): &Status| (*code, escaped(message), details.clone());
        let blocks = Arc::new(Blocks::new(overloaded.iter().map(escaped)));
        let overloaded: Vec<_> = overloaded.into_iter().map(status).collect::<Option<_>>()?;
        (!overloaded.is_empty()).then_some(Refusals { blocks, overloaded, late: status(late)?, next: AtomicUsize::new(0) })
    }

    /// Returns one of them in turn, so that those that are refused together don't come again together.
    pub fn overloaded(&self) -> &HeaderMap {
        &self.overloaded[self.next.fetch_add(1, Relaxed) % self.overloaded.len()]
    }

    pub fn late(&self) -> &HeaderMap {
        &self.late
    }
}

fn status((code, message, details): Status) -> Option<HeaderMap> {
    let mut trailers = HeaderMap::new();
    add_status(&mut trailers, code, &message);
    trailers.insert(DETAILS, HeaderValue::try_from(details).ok()?);
    Some(trailers)
}

/// Ends a call without a message, but with what is to be sent ahead of one.
pub fn fail(mut respond: SendResponse<Bytes>, code: u32, details: &str, initial: HeaderMap, mut trailers: HeaderMap) {
    if initial.is_empty() {
        return refuse(respond, code, details, trailers);
    }
    add_status(&mut trailers, code, details);
    if let Ok(mut stream) = respond.send_response(head(initial), false) {
        let _ = stream.send_trailers(trailers);
    }
}

fn head(mut headers: HeaderMap) -> Response<()> {
    headers.insert(CONTENT_TYPE, GRPC);
    let mut head = Response::new(());
    *head.headers_mut() = headers;
    head
}

fn add_status(trailers: &mut HeaderMap, code: u32, details: &str) {
    trailers.insert(STATUS, HeaderValue::from(code));
    if let Ok(details) = HeaderValue::try_from(escaped(details)) {
        trailers.insert(MESSAGE, details);
    }
}

/// Returns the trailers of a stream that cannot go on.
pub fn trailers(code: u32, details: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(STATUS, HeaderValue::from(code)), (MESSAGE, HeaderValue::from_static(details))])
}

/// Percent-encodes, as `grpc-message` is.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[derive(Debug)]
pub enum Unsent {
    /// The reader did not take any for too long.
    TooSlow,
    /// The stream was reset, or its connection is gone.
    Gone,
}

/// Sends bytes as the reader makes room for them.
pub async fn send(stream: &mut SendStream<Bytes>, mut body: Bytes, within: std::time::Duration) -> Result<(), Unsent> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = tokio::time::timeout(within, poll_fn(|context| stream.poll_capacity(context)));
        match room.await.map_err(|_| Unsent::TooSlow)? {
            Some(Ok(room)) if room > 0 => {
                let part = body.split_to(room.min(body.len()));
                stream.send_data(part, false).map_err(|_| Unsent::Gone)?;
            }
            Some(Ok(_)) => tokio::task::yield_now().await,
            Some(Err(_)) | None => return Err(Unsent::Gone),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(escaped("plain text ~"), "plain text ~");
        assert_eq!(escaped("50 %\n\u{fc}\u{7f}"), "50 %25%0A%C3%BC%7F");
    }
}
