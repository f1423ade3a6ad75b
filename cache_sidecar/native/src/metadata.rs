//! The route of a call, by its metadata.

use crate::tokens::Tokens;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// The header with the number of a call's connection, for grpc.aio; the same header from a client is dropped.
pub const CONNECTION: &str = "cache-sidecar-connection";

/// For `grpc-accept-encoding`: the encodings known to C-core, and to `unpack.rs`.
pub const ENCODINGS: &str = "identity, deflate, gzip";

/// Binary values: padded or not, and without bits that mean nothing. C-core reads all of these, and decides about others.
const BINARY: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// How a call is answered, as far as its metadata determine it; later ones are shorter.
#[derive(Debug, PartialEq, PartialOrd)]
pub enum Route {
    /// By grpc.aio: metadata that gRPC requires to be otherwise.
    Proxy,
    /// By Python: its caller may not call.
    Python,
    /// From memory, if the reply is there: no metadata can change it.
    Memory,
}

/// Returns the shortest route a call may take. If there are tokens, replies from memory are only for calls with one.
///
/// No reply depends on other metadata, whatever clients, interceptors and meshes add: trace context (`trace.rs` keeps what spans
/// are made of), `authorization` without tokens, `x-forwarded-for`. They only have to be well formed.
pub fn route(headers: &HeaderMap, tokens: Option<&Tokens>) -> Route {
    let mut route = Route::Memory;
    let mut is_grpc = false;
    let mut is_admitted = tokens.is_none();
    for (name, value) in headers {
        let value = value.as_bytes();
        let of_this = match name.as_str() {
            "content-type" if matches!(value, b"application/grpc" | b"application/grpc+proto") => {
                is_grpc = true;
                Route::Memory
            }
            "content-type" => Route::Proxy,
            "authorization" => match tokens {
                Some(tokens) if !tokens.admit(value) => Route::Python,
                _ => {
                    is_admitted = true;
                    Route::Memory
                }
            },
            "grpc-encoding" if !is_known(value) => Route::Proxy,
            "grpc-timeout" if timeout(value).is_none() => Route::Proxy,
            name if name.ends_with("-bin") && binary(value).is_none() => Route::Proxy,
            _ => Route::Memory,
        };
        if of_this < route {
            route = of_this;
        }
    }
    match route {
        _ if !is_grpc => Route::Proxy,
        Route::Memory if !is_admitted => Route::Python,
        route => route,
    }
}

/// Returns the encoding of a call's messages unless it is one of `ENCODINGS`.
pub fn unknown_encoding(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get_all("grpc-encoding").iter().find(|value| !is_known(value.as_bytes()))
}

fn is_known(encoding: &[u8]) -> bool {
    ENCODINGS.split(", ").any(|known| encoding == known.as_bytes())
}

/// Reads the value of metadata whose name ends with `-bin`; None for one that is not well formed.
pub fn binary(value: &[u8]) -> Option<Vec<u8>> {
    BINARY.decode(value).ok()
}

/// Returns the size of a call's headers, as SETTINGS_MAX_HEADER_LIST_SIZE counts them; of the pseudo-headers only the path.
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

    fn way_of(more: &[(&'static str, &'static str)]) -> Route {
        let common = [("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", "grpc-python/1.83.2")];
        let pairs = common.iter().chain(more);
        route(&pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect(), None)
    }

    #[test]
    fn tells_the_way() {
        assert_eq!(way_of(&[]), Route::Memory);
        assert_eq!(way_of(&[("grpc-timeout", "100m"), ("grpc-encoding", "identity"), ("x-request-id", "r")]), Route::Memory);
        for harmless in [
            ("x-shop", "1"),
            ("authorization", "Bearer x"),
            ("x-forwarded-proto", "https"),
            ("grpc-accept-encoding", "gzip"),
            ("grpc-encoding", "gzip"),
            ("grpc-encoding", "deflate"),
            ("grpc-trace-bin", "AAAA"),
            ("grpc-previous-rpc-attempts", "1"),
        ] {
            assert_eq!(way_of(&[harmless]), Route::Memory, "{harmless:?}");
        }
        for odd in [("grpc-encoding", "br"), ("x-bin", "A"), ("grpc-timeout", "soon"), ("content-type", "text/html")] {
            assert_eq!(way_of(&[odd, ("x-shop", "1")]), Route::Proxy, "{odd:?}");
        }
        assert_eq!(route(&HeaderMap::new(), None), Route::Proxy);
    }

    #[test]
    fn of_tokens_the_right_one_is_needed_and_no_other_may_be_shown() {
        let tokens = Tokens::new(vec![b"t".into()]);
        let of = |shown: &[&'static str]| {
            let common = [("content-type", "application/grpc"), ("x-bin", "AAAA")];
            let pairs = common.into_iter().chain(shown.iter().map(|value| ("authorization", *value)));
            let headers = pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
            route(&headers, Some(&tokens))
        };
        assert_eq!(of(&["Bearer t"]), Route::Memory);
        for shown in [&[][..], &["Bearer u"], &["Bearer t", "Bearer u"], &["Bearer u", "Bearer t"]] {
            assert_eq!(of(shown), Route::Python, "{shown:?}");
        }
    }

    #[test]
    fn reads_binary_values_that_are_padded_or_not() {
        for text in ["", "AAAA", "AAA=", "AAA", "AA==", "AA", "+/+/"] {
            assert!(binary(text.as_bytes()).is_some(), "{text}");
        }
        for text in ["A", "AAAAA", "AAB", "AB", "A===", "AAA==", "AAAA=", "AA=A", "=", "!!!!", "-_-_", "AAAA,AAAA", " AAA"] {
            assert!(binary(text.as_bytes()).is_none(), "{text}");
        }
        assert_eq!(binary(b"cGF5").unwrap(), b"pay");
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
    fn trace_context_changes_no_reply() {
        for flags in ["00", "01", "02", "03"] {
            let parent = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
            let more = [("traceparent", &*parent.leak()), ("tracestate", "shop=1"), ("baggage", "user=7")];
            assert_eq!(way_of(&more), Route::Memory, "{flags}");
        }
        assert_eq!(
            way_of(&[("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"), ("x-b3-sampled", "1")]),
            Route::Memory
        );
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
