//! Sending replies.

use crate::early::Blocks;
use crate::limits::{MAX_UNREAD, READ_WITHIN};
use crate::peer::Peer;
use crate::piece::Piece;
use crate::status::{RESOURCE_EXHAUSTED, Status};
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

/// Says why a call is refused whose caller does not read its replies.
pub const UNREAD: &str = "too many replies are waiting to be read by their caller";

/// Whether there is no room for a further reply, however small: too many wait to be read by this client, or by all together.
pub fn has_no_room(peer: &Peer) -> bool {
    peer.debt.owed() > MAX_UNREAD || peer.room.is_full()
}

/// Sends a framed message and OK: at once if the client has room for it, otherwise in a task.
pub fn message(mut respond: SendResponse<Piece>, initial: HeaderMap, body: Piece, mut trailers: HeaderMap) {
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    let Ok(mut stream) = respond.send_response(head(initial), false) else { return };
    stream.reserve_capacity(body.len());
    if stream.capacity() >= body.len() {
        let _ = stream.send_data(body, false);
        let _ = stream.send_trailers(trailers);
        return;
    }
    tokio::spawn(async move {
        match send(&mut stream, body, READ_WITHIN).await {
            Ok(()) => drop(stream.send_trailers(trailers)),
            Err(Unsent::TooSlow) => stream.send_reset(Reason::CANCEL),
            Err(Unsent::Gone) => {}
        }
    });
}

/// Refuses a call whose caller does not read its replies.
pub fn refuse_unread(respond: SendResponse<Piece>) {
    refuse(respond, RESOURCE_EXHAUSTED, UNREAD, HeaderMap::new());
}

/// Ends a call without a message.
pub fn refuse(mut respond: SendResponse<Piece>, code: u32, details: &str, mut trailers: HeaderMap) {
    add_status(&mut trailers, code, details);
    let _ = respond.send_response(head(trailers), true);
}

/// Ends a call with a prepared status.
pub fn refuse_with(mut respond: SendResponse<Piece>, status: &HeaderMap) {
    let _ = respond.send_response(head(status.clone()), true);
}

/// The statuses of calls refused without Python: several for overload, with different retry delays, and one for a deadline that
/// cannot be met.
pub struct Refusals {
    /// Those for overload, as `early.rs` sends them.
    pub blocks: Arc<Blocks>,
    overloaded: Vec<HeaderMap>,
    late: HeaderMap,
    next: AtomicUsize,
}

impl Refusals {
    /// None when a status cannot be sent as headers.
    pub fn new(overloaded: Vec<Status>, late: Status) -> Option<Self> {
        let escaped = |status: &Status| Status { message: escape(&status.message), ..status.clone() };
        let blocks = Arc::new(Blocks::new(overloaded.iter().map(escaped)));
        let overloaded: Vec<_> = overloaded.into_iter().map(trailers_of).collect::<Option<_>>()?;
        (!overloaded.is_empty()).then_some(Refusals { blocks, overloaded, late: trailers_of(late)?, next: AtomicUsize::new(0) })
    }

    /// Returns them in turn, so that callers refused together don't retry together.
    pub fn overloaded(&self) -> &HeaderMap {
        &self.overloaded[self.next.fetch_add(1, Relaxed) % self.overloaded.len()]
    }

    pub fn late(&self) -> &HeaderMap {
        &self.late
    }
}

fn trailers_of(Status { code, message, details }: Status) -> Option<HeaderMap> {
    let mut trailers = HeaderMap::new();
    add_status(&mut trailers, code, &message);
    trailers.insert(DETAILS, HeaderValue::try_from(details).ok()?);
    Some(trailers)
}

/// Ends a call with an error, after its initial metadata.
pub fn fail(mut respond: SendResponse<Piece>, code: u32, details: &str, initial: HeaderMap, mut trailers: HeaderMap) {
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
    if let Ok(details) = HeaderValue::try_from(escape(details)) {
        trailers.insert(MESSAGE, details);
    }
}

/// Returns the trailers of a stream that cannot go on.
pub fn trailers(code: u32, details: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(STATUS, HeaderValue::from(code)), (MESSAGE, HeaderValue::from_static(details))])
}

/// Percent-encodes text for `grpc-message`.
fn escape(text: &str) -> String {
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
    /// The reader accepted nothing for too long.
    TooSlow,
    /// The stream was reset, or its connection is gone.
    Gone,
}

/// Sends bytes as the reader makes room for them.
pub async fn send(stream: &mut SendStream<Piece>, mut body: Piece, within: std::time::Duration) -> Result<(), Unsent> {
    while body.len() > 0 {
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
        assert_eq!(escape("plain text ~"), "plain text ~");
        assert_eq!(escape("50 %\n\u{fc}\u{7f}"), "50 %25%0A%C3%BC%7F");
    }
}
