//! What a call's metadata allows.

use crate::access::Tokens;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// Tells grpc.aio whose call it is: the number of a connection. What a client sends under that name is dropped.
pub const CONNECTION: &str = "cache-sidecar-connection";

/// What a request may be compressed by, for `grpc-accept-encoding`: what C-core, which unpacks it, knows.
pub const ENCODINGS: &str = "identity, deflate, gzip";

/// The furthest that the way of a call can be told from its metadata.
#[derive(Debug, PartialEq, PartialOrd)]
pub enum Way {
    /// For grpc.aio: compression, binary metadata, anything that is not understood here.
    Proxy,
    /// For Python: something in it may matter to a service.
    Python,
    /// Nothing in it can change a reply that is in memory.
    Memory,
}

/// Returns how far a call may take the short ways; what is in memory is only for those with a token, where there are tokens.
pub fn way(headers: &HeaderMap, tokens: Option<&Tokens>) -> Way {
    let mut way = Way::Memory;
    let mut is_grpc = false;
    let mut is_admitted = tokens.is_none();
    for (name, value) in headers {
        let value = value.as_bytes();
        let of_this = match name.as_str() {
            "content-type" if matches!(value, b"application/grpc" | b"application/grpc+proto") => {
                is_grpc = true;
                Way::Memory
            }
            "authorization" if tokens.is_some_and(|tokens| tokens.admit(value)) => {
                is_admitted = true;
                Way::Memory
            }
            "content-type" => Way::Proxy,
            "te"
            | "user-agent"
            | "grpc-accept-encoding"
            | "accept-encoding"
            | "x-request-id"
            | "content-length"
            | "tracestate" => Way::Memory,
            "grpc-encoding" if value == b"identity" => Way::Memory,
            "grpc-encoding" => Way::Proxy,
            "grpc-timeout" if timeout(value).is_some() => Way::Memory,
            "grpc-timeout" => Way::Proxy,
            // A span is wanted of what is sampled.
            "traceparent" if value.ends_with(b"-00") => Way::Memory,
            name if name.ends_with("-bin") => Way::Proxy,
            _ => Way::Python,
        };
        if of_this < way {
            way = of_this;
        }
    }
    match way {
        _ if !is_grpc => Way::Proxy,
        Way::Memory if !is_admitted => Way::Python,
        way => way,
    }
}

/// Returns the encoding of a call's messages, if it is none of `ENCODINGS`.
pub fn unknown_encoding(headers: &HeaderMap) -> Option<&HeaderValue> {
    let is_known = |value: &HeaderValue| ENCODINGS.split(", ").any(|known| value.as_bytes() == known.as_bytes());
    headers.get_all("grpc-encoding").iter().find(|value| !is_known(value))
}

/// Returns how large the headers of a call are, as SETTINGS_MAX_HEADER_LIST_SIZE counts them; the path stands for those that
/// every call has alike.
pub fn size(head: &Parts) -> usize {
    let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let of = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
    path + head.headers.iter().map(of).sum::<usize>()
}

/// Reads `grpc-timeout`; None for one that is not well formed, and for none at all.
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let timeout = match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    };
    (!timeout.is_zero()).then_some(timeout)
}

/// Whether a service gets to see it, as from grpc.aio.
pub fn is_visible(name: &str) -> bool {
    !name.starts_with("grpc-") && !matches!(name, "te" | "content-type" | "content-length" | CONNECTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way_of(more: &[(&'static str, &'static str)]) -> Way {
        let common = [("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", "grpc-python/1.83.2")];
        let pairs = common.iter().chain(more);
        way(&pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect(), None)
    }

    #[test]
    fn tells_the_way() {
        assert_eq!(way_of(&[]), Way::Memory);
        assert_eq!(way_of(&[("grpc-timeout", "100m"), ("grpc-encoding", "identity"), ("x-request-id", "r")]), Way::Memory);
        assert_eq!(way_of(&[("x-shop", "1")]), Way::Python);
        assert_eq!(way_of(&[("authorization", "Bearer x")]), Way::Python);
        for odd in [("grpc-encoding", "gzip"), ("x-bin", "AAA"), ("grpc-timeout", "soon"), ("content-type", "text/html")] {
            assert_eq!(way_of(&[odd, ("x-shop", "1")]), Way::Proxy, "{odd:?}");
        }
        assert_eq!(way(&HeaderMap::new(), None), Way::Proxy);
    }

    #[test]
    fn knows_what_a_call_may_be_compressed_by() {
        let of = |text: &'static str| {
            HeaderMap::from_iter([(HeaderName::from_static("grpc-encoding"), HeaderValue::from_static(text))])
        };
        for known in ["identity", "gzip", "deflate"] {
            assert_eq!(unknown_encoding(&of(known)), None, "{known}");
        }
        for unknown in ["br", "", "gzip, deflate", "GZIP"] {
            assert_eq!(unknown_encoding(&of(unknown)).unwrap(), unknown);
        }
        assert_eq!(unknown_encoding(&HeaderMap::new()), None);
    }

    #[test]
    fn only_what_is_not_sampled_needs_no_span() {
        assert_eq!(way_of(&[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")]), Way::Memory);
        assert_eq!(way_of(&[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]), Way::Python);
    }

    #[test]
    fn reads_timeouts() {
        for (text, milliseconds) in [("2H", 7_200_000), ("1M", 60_000), ("3S", 3000), ("20m", 20), ("99999999u", 99_999)] {
            assert_eq!(timeout(text.as_bytes()).map(|timeout| timeout.as_millis()), Some(milliseconds), "{text}");
        }
        for text in ["", "m", "0n", "1", "1s", "-1m", "123456789m", "1.5S", "99999999999H"] {
            assert_eq!(timeout(text.as_bytes()), None, "{text:?}");
        }
    }
}
