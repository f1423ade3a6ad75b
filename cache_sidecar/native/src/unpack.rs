//! Decompresses requests, as far as that takes little time of the thread that answers everybody. The rest is left to grpc.aio, which
//! has threads for it: larger requests and bombs, which it refuses by the limit on messages, and what is not valid.

use crate::limits::{MAX_PACKED, MAX_UNPACKED, UNPACK_WITHIN};
use crate::wire::{self, FRAME};
use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use std::time::Instant;

/// The largest window of `deflate`, in bits, which any encoder may have used.
const WINDOW_BITS: u8 = 15;

/// Returns a complete body, decompressed and framed again; None if it is not compressed, or left to grpc.aio. Since `began`, the
/// thread has been busy with this call and those that arrived with it.
pub fn unpack(headers: &HeaderMap, body: &[u8], began: Instant) -> Option<Bytes> {
    if body.first() != Some(&1) || wire::fault(body).is_some() || body.len() > FRAME + MAX_PACKED {
        return None;
    }
    let mut encodings = headers.get_all("grpc-encoding").iter();
    let (Some(encoding), None) = (encodings.next(), encodings.next()) else { return None };
    if began.elapsed() > UNPACK_WITHIN {
        return None;
    }
    let packed = &body[FRAME..];
    let mut stream = match encoding.as_bytes() {
        b"gzip" => Decompress::new_gzip(WINDOW_BITS),
        b"deflate" => Decompress::new(true),
        _ => return None,
    };
    let mut framed = Vec::with_capacity(FRAME + MAX_UNPACKED);
    framed.resize(FRAME, 0);
    let status = stream.decompress_vec(packed, &mut framed, FlushDecompress::Finish).ok()?;
    // What follows the end of the stream is for nobody: C-core refuses it.
    let is_whole = status == Status::StreamEnd && stream.total_in() == packed.len() as u64;
    wire::close_frame(&mut framed, FRAME);
    is_whole.then(|| Bytes::copy_from_slice(&framed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use http::{HeaderName, HeaderValue};
    use std::io::Write;

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let mut body = [&[flag; FRAME][..], message].concat();
        wire::close_frame(&mut body, FRAME);
        body
    }

    fn gzip(message: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(message).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(message: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(message).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(encodings: &[&'static str], body: &[u8]) -> Option<Vec<u8>> {
        let of = |value: &&'static str| (HeaderName::from_static("grpc-encoding"), HeaderValue::from_static(value));
        unpack(&encodings.iter().map(of).collect(), body, Instant::now()).map(|bytes| bytes.to_vec())
    }

    #[test]
    fn gives_the_message_in_a_frame() {
        for message in [&b""[..], b"\x0a\x02id", &[7; MAX_UNPACKED]] {
            let expected = Some(framed(0, message));
            assert_eq!(unpacked(&["gzip"], &framed(1, &gzip(message))), expected);
            assert_eq!(unpacked(&["deflate"], &framed(1, &deflate(message))), expected);
        }
    }

    #[test]
    fn leaves_what_is_large() {
        let random = |size: usize| {
            let mut state = 1_u64;
            let next = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            };
            (0..size).map(next).collect::<Vec<_>>()
        };
        for message in [vec![0; MAX_UNPACKED + 1], vec![0; 100 * MAX_UNPACKED], random(MAX_PACKED)] {
            assert_eq!(unpacked(&["gzip"], &framed(1, &gzip(&message))), None);
        }
        assert!(unpacked(&["gzip"], &framed(1, &gzip(&random(MAX_PACKED - 100)))).is_some());
    }

    #[test]
    fn leaves_what_is_not_compressed_or_not_valid() {
        let packed = gzip(b"message");
        let body = framed(1, &packed);
        assert_eq!(unpacked(&["gzip"], &framed(0, &packed)), None);
        assert_eq!(unpacked(&["gzip"], &framed(2, &packed)), None);
        assert_eq!(unpacked(&["gzip"], b""), None);
        assert_eq!(unpacked(&["gzip"], &body[..body.len() - 1]), None);
        for encodings in [&[][..], &["identity"], &["deflate"], &["gzip", "gzip"]] {
            assert_eq!(unpacked(encodings, &body), None, "{encodings:?}");
        }
        let mut odd = vec![Vec::new(), packed[..packed.len() - 1].to_vec(), [&packed[..], b"!"].concat(), packed.repeat(2)];
        // Any byte of the method, the flags, the checksum and the length.
        odd.extend([0, 1, 2, 3].into_iter().chain(packed.len() - 8..packed.len()).map(|at| {
            let mut changed = packed.clone();
            changed[at] ^= 0x20;
            changed
        }));
        for packed in odd {
            assert_eq!(unpacked(&["gzip"], &framed(1, &packed)), None, "{packed:?}");
        }
    }

    #[test]
    fn leaves_the_rest_of_a_turn_that_takes_long() {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("grpc-encoding"), HeaderValue::from_static("gzip"))]);
        let body = framed(1, &gzip(b"message"));
        let began = Instant::now() - 2 * UNPACK_WITHIN;
        assert_eq!(unpack(&headers, &body, began), None);
    }
}
