//! The hit path: answers a request from memory, bytes to bytes.

use crate::durations::Durations;
use crate::l1::{Freshness, L1, Served};
use crate::wire::{self, FRAME, Fields, Unread, Value};
use std::sync::Arc;

/// `SOURCE_L1` of `cache.proto`.
const SOURCE_L1: u64 = 1;
/// Maximum bytes of the metadata of one entry: tags, source, version, age, stale.
const METADATA: usize = 48;

/// The numbers of the relevant fields, from the method's descriptor.
#[derive(Clone, Copy)]
pub struct Shape {
    /// The id or ids.
    pub ids: u32,
    /// `ReadOptions`.
    pub options: u32,
    /// `CacheMetadata` of the reply.
    pub cache: u32,
    /// `CacheMetadata` of each item of a batch; 0 for a single read.
    pub caches: u32,
    /// Maximum number of ids in a request.
    pub max_ids: usize,
}

/// A method of the hit path.
pub struct Hits {
    pub shape: Shape,
    pub l1: Arc<L1>,
    /// Maximum bytes of a reply's message; larger ones are left to Python, which refuses them.
    pub max_reply: usize,
    /// How long hits took, from when their bytes were read, so that waiting for the calls read with them counts.
    pub durations: Durations,
}

/// A framed reply, and whether Python has something to do, see `L1::serve`.
pub struct Reply {
    pub body: Vec<u8>,
    pub wants_python: bool,
}

impl Hits {
    /// `bounds` are those of the histogram of durations, in seconds.
    pub fn new(shape: Shape, l1: Arc<L1>, max_reply: usize, bounds: &[f64]) -> Self {
        Hits { shape, l1, max_reply, durations: Durations::new(bounds) }
    }

    /// Answers a request; None to leave it to Python: a miss, an unknown option, an invalid message.
    pub fn answer(&self, message: &[u8], now: f64) -> Option<Reply> {
        let request = Request::read(message, &self.shape).ok()?;
        if self.shape.caches == 0 { self.one(&request, now) } else { self.batch(&request, now) }
    }

    fn one(&self, request: &Request<'_>, now: f64) -> Option<Reply> {
        let mut body = vec![0; FRAME];
        let wants_python = self.l1.serve(&request.ids, now, request.freshness, |value, served| {
            let fits = value.len() + METADATA <= self.max_reply;
            if fits {
                body.reserve_exact(value.len() + METADATA);
                body.extend_from_slice(value);
                put_metadata(&mut body, self.shape.cache, served);
            }
            fits
        })?;
        wire::close_frame(&mut body, FRAME);
        Some(Reply { body, wants_python })
    }

    /// Cached replies, concatenated, are a repeated field on the wire.
    fn batch(&self, request: &Request<'_>, now: f64) -> Option<Reply> {
        let mut body = vec![0; FRAME];
        let mut each = Vec::with_capacity(request.ids.len() * METADATA);
        let mut whole = Served { version: 0, age: 0.0, stale: false };
        let wants_python = self.l1.serve(&request.ids, now, request.freshness, |value, served| {
            // Including the metadata of this one, and of the batch.
            if body.len() - FRAME + value.len() + each.len() + 2 * METADATA > self.max_reply {
                return false;
            }
            body.extend_from_slice(value);
            put_metadata(&mut each, self.shape.caches, served);
            whole = Served {
                version: whole.version.max(served.version),
                age: whole.age.max(served.age),
                stale: whole.stale || served.stale,
            };
            true
        })?;
        body.reserve_exact(each.len() + METADATA);
        body.extend_from_slice(&each);
        put_metadata(&mut body, self.shape.cache, whole);
        wire::close_frame(&mut body, FRAME);
        Some(Reply { body, wants_python })
    }
}

/// The parts of a request that matter to a hit.
pub struct Request<'a> {
    pub ids: Vec<&'a [u8]>,
    pub freshness: Freshness,
}

impl<'a> Request<'a> {
    /// Parses a request; Err for anything that protobuf might parse differently, which is left to Python.
    pub fn read(message: &'a [u8], shape: &Shape) -> Result<Self, Unread> {
        let mut fields = Fields::new(message);
        let mut request = Request { ids: Vec::new(), freshness: Freshness::default() };
        let mut has_options = false;
        while let Some((number, value)) = fields.read()? {
            match value {
                Value::Bytes(id) if number == shape.ids && request.ids.len() < shape.max_ids => request.ids.push(id),
                Value::Bytes(options) if number == shape.options && !has_options => {
                    has_options = true; // a second occurrence would have to be merged
                    request.freshness = freshness(options)?;
                }
                _ => return Err(Unread),
            }
        }
        if request.ids.is_empty() { Err(Unread) } else { Ok(request) }
    }
}

/// Reads `ReadOptions`.
fn freshness(options: &[u8]) -> Result<Freshness, Unread> {
    let mut fields = Fields::new(options);
    let mut wanted = Freshness::default();
    while let Some((number, value)) = fields.read()? {
        match (number, value) {
            (1, Value::Bytes(age)) if wanted.max_age.is_none() => wanted.max_age = Some(wire::duration(age)?),
            (2, Value::Varint(0)) => {}
            _ => return Err(Unread),
        }
    }
    Ok(wanted)
}

/// Writes `CacheMetadata`.
fn put_metadata(out: &mut Vec<u8>, field: u32, served: Served) {
    let seconds = served.age as u64;
    let nanos = ((served.age - seconds as f64) * 1e9) as u64;
    let mut age = Vec::with_capacity(12);
    for (tag, value) in [(0x08, seconds), (0x10, nanos)] {
        if value > 0 {
            age.push(tag);
            wire::put_varint(&mut age, value);
        }
    }
    let mut metadata = Vec::with_capacity(METADATA);
    metadata.push(0x08);
    wire::put_varint(&mut metadata, SOURCE_L1);
    if served.version != 0 {
        metadata.push(0x10);
        wire::put_varint(&mut metadata, served.version as u64);
    }
    wire::put_length(&mut metadata, 3, age.len());
    metadata.extend_from_slice(&age);
    if served.stale {
        metadata.extend_from_slice(&[0x20, 1]);
    }
    wire::put_length(out, field, metadata.len());
    out.extend_from_slice(&metadata);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::Entry;
    use crate::l1::Rules;

    const NOW: f64 = 1000.0;
    const ONE: Shape = Shape { ids: 1, options: 2, cache: 15, caches: 0, max_ids: 1 };
    const BATCH: Shape = Shape { ids: 1, options: 2, cache: 15, caches: 14, max_ids: 3 };

    fn hits(shape: Shape) -> Hits {
        let l1 = L1::new(1 << 20, 100, 64);
        l1.set_rules(Rules { soft: 100.0, hard: 200.0, stale_limit: 5.0, sample_every: 0 });
        (0..=255).for_each(|partition| l1.set_trusted(partition, true, NOW));
        for (id, version) in [("a", 1), ("b", 300)] {
            let value = [b"\x0a\x01", id.as_bytes()].concat();
            assert!(l1.put(id, Entry::new(id, Some(&value), version, NOW - 1.5, NOW), 0));
        }
        Hits::new(shape, Arc::new(l1), 1 << 20, &[])
    }

    fn answer(hits: &Hits, message: &[u8]) -> Option<Vec<u8>> {
        hits.answer(message, NOW).map(|reply| wire::message(&reply.body).unwrap().to_vec())
    }

    #[test]
    fn appends_the_metadata() {
        let half = b"\x08\x01\x10\x80\xca\xb5\xee\x01"; // 1.5 s
        let expected = [&b"\x0a\x01a\x7a\x0e\x08\x01\x10\x01\x1a\x08"[..], half].concat();
        assert_eq!(answer(&hits(ONE), b"\x0a\x01a"), Some(expected));
    }

    #[test]
    fn joins_a_batch_in_the_order_of_the_request() {
        let metadata = |version: &[u8]| [&b"\x08\x01\x10"[..], version, b"\x1a\x08\x08\x01\x10\x80\xca\xb5\xee\x01"].concat();
        let (first, second) = (metadata(b"\xac\x02"), metadata(b"\x01"));
        let expected = [&b"\x0a\x01b\x0a\x01a\x72\x0f"[..], &first, b"\x72\x0e", &second, b"\x7a\x0f", &first].concat();
        assert_eq!(answer(&hits(BATCH), b"\x0a\x01b\x0a\x01a"), Some(expected));
    }

    #[test]
    fn answers_an_id_that_is_named_often_once() {
        let hits = hits(BATCH);
        let once = answer(&hits, b"\x0a\x01a\x0a\x01b");
        assert_eq!(answer(&hits, b"\x0a\x01a\x0a\x01b\x0a\x01a"), once);
        assert_eq!(hits.l1.stats().hits, 4);
    }

    #[test]
    fn leaves_a_reply_that_may_be_too_large_to_python() {
        const A: &[u8] = b"\x0a\x01a";
        const BOTH: &[u8] = b"\x0a\x01a\x0a\x01b";
        for (shape, message, max_reply, is_hit) in [
            (ONE, A, 3 + METADATA, true),
            (ONE, A, 2 + METADATA, false),
            (BATCH, A, 3 + 2 * METADATA, true),
            (BATCH, A, 2 + 2 * METADATA, false),
            (BATCH, BOTH, 6 + 16 + 2 * METADATA, true),
            (BATCH, BOTH, 5 + 16 + 2 * METADATA, false),
        ] {
            let hits = Hits { max_reply, ..hits(shape) };
            assert_eq!(answer(&hits, message).is_some(), is_hit, "{max_reply}");
        }
    }

    #[test]
    fn obeys_the_options() {
        for (options, is_hit) in [
            (&b"\x12\x00"[..], true),
            (b"\x12\x02\x10\x00", true),
            (b"\x12\x02\x10\x01", false),
            (b"\x12\x04\x0a\x02\x08\x02", true),
            (b"\x12\x04\x0a\x02\x08\x01", false),
            (b"\x12\x02\x0a\x00", false),
            (b"\x12\x00\x12\x00", false),
            (b"\x12\x02\x18\x01", false),
            (b"\x18\x01", false),
        ] {
            let found = answer(&hits(ONE), &[b"\x0a\x01a", options].concat());
            assert_eq!(found.is_some(), is_hit, "{options:?}");
        }
    }

    #[test]
    fn leaves_the_rest_to_python() {
        for message in [&b""[..], b"\x0a\x01c", b"\x0a\x00", b"\x0a\x01a\x0a\x01b", b"\x0a\x02a", b"\xff"] {
            assert_eq!(answer(&hits(ONE), message), None, "{message:?}");
        }
        assert_eq!(answer(&hits(BATCH), b"\x0a\x01a\x0a\x01c"), None);
        assert_eq!(answer(&hits(BATCH), &b"\x0a\x01a".repeat(4)), None);
    }
}
