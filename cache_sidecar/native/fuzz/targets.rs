//! What is fuzzed: every parser of bytes from outside, beside a slow or foreign one that has to agree. Called by libFuzzer
//! (`fuzz_targets`), and by `tests/fuzz.rs` with the corpus and what a few thousand mutations make of it.

use _native::access::Access;
use _native::authority::{HEADER, PREFACE, Repair, is_fit, length};
use _native::hits::{Request, Shape};
use _native::identity::Identity;
use _native::limits::MAX_CONTROL;
use _native::metadata::{Way, timeout, way};
use _native::pace::Pace;
use _native::wire;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;

type Target = (&'static str, fn(&[u8]));

pub const ALL: [Target; 7] = [
    ("wire", request),
    ("authority", authority),
    ("hpack", hpack),
    ("metadata", metadata),
    ("pace", pace),
    ("tokens", tokens),
    ("identity", identity),
];

#[derive(Message)]
struct Duration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Message)]
struct Options {
    #[prost(message, tag = "1")]
    max_age: Option<Duration>,
    #[prost(bool, tag = "2")]
    bypass: bool,
}

#[derive(Message)]
struct Wanted {
    #[prost(bytes = "vec", repeated, tag = "1")]
    ids: Vec<Vec<u8>>,
    #[prost(message, tag = "2")]
    options: Option<Options>,
}

/// A body, read for a hit: whatever is read, protobuf reads the same.
pub fn request(body: &[u8]) {
    let announced = wire::announced(body);
    let is_compressed = body.first().is_some_and(|flag| *flag != 0);
    assert_eq!(wire::message(body).is_some(), wire::fault(body).is_none() && !is_compressed);
    let Some(message) = wire::message(body) else { return };
    assert_eq!((announced, body.len(), body[0]), (Some(message.len()), wire::FRAME + message.len(), 0));
    for max_ids in [1, 500] {
        let Ok(read) = Request::read(message, &Shape { ids: 1, options: 2, cache: 3, caches: 0, max_ids }) else { continue };
        let wanted = Wanted::decode(message).expect("protobuf refuses what is read here");
        assert_eq!(read.ids, wanted.ids);
        assert!((1..=max_ids).contains(&read.ids.len()));
        let options = wanted.options.unwrap_or_default();
        assert!(!options.bypass);
        let age = options.max_age.map(|age| age.seconds as f64 + f64::from(age.nanos) / 1e9);
        assert_eq!(read.freshness.max_age, age);
        assert!(age.is_none_or(|age| (0.0..=2_592_000.0).contains(&age)));
    }
}

/// A client's bytes, whatever they are: in pieces they give what they give in one, in the same frames. A frame is changed in
/// place, or it is one of headers, and longer.
pub fn authority(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let bytes = [&[b'P'; PREFACE][..], bytes].concat();
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    let (mut one, mut many) = (Repair::default(), Repair::default());
    one.feed(&bytes, &mut whole);
    bytes.chunks(usize::from(*piece).max(1)).for_each(|chunk| many.feed(chunk, &mut pieces));
    assert_eq!((&whole, one.holds()), (&pieces, many.holds()));
    let (mut new, mut old) = (&whole[PREFACE..], &bytes[PREFACE..]);
    while new.len() >= HEADER {
        assert_eq!(new[3..HEADER], old[3..HEADER]);
        let (new_end, old_end) = ((HEADER + length(new)).min(new.len()), (HEADER + length(old)).min(old.len()));
        if length(new) == length(old) {
            let changed = new[..new_end].iter().zip(&old[..old_end]).filter(|(new, old)| new != old);
            assert!(changed.into_iter().all(|(new, old)| *new == b'-' && !is_fit(*old)) || old[3] == 1);
        } else {
            assert_eq!((old[3], new_end - HEADER), (1, length(new)));
        }
        (new, old) = (&new[new_end..], &old[old_end..]);
    }
}

/// Header blocks: repaired, they are the same headers, but for what no authority may have.
pub fn hpack(bytes: &[u8]) {
    let (mut repair, mut before, mut after) = (Repair::default(), loona_hpack::Decoder::new(), loona_hpack::Decoder::new());
    repair.feed(&[b'P'; PREFACE], &mut Vec::new());
    for block in bytes.split(|byte| *byte == 0xfe) {
        let size = (block.len() as u32).to_be_bytes();
        let mut out = Vec::new();
        repair.feed(&[&size[1..], &[1, 4, 0, 0, 0, 1], block].concat(), &mut out);
        assert_eq!(out.len(), HEADER + length(&out));
        match (before.decode(block), after.decode(&out[HEADER..])) {
            (Ok(old), Ok(new)) => {
                assert_eq!(old.len(), new.len());
                for ((name, value), (new_name, new_value)) in old.iter().zip(&new) {
                    assert_eq!(name, new_name);
                    assert_eq!(value.len(), new_value.len());
                    for (byte, new) in value.iter().zip(new_value) {
                        assert!(byte == new || (name == b":authority" && !is_fit(*byte) && *new == b'-'));
                    }
                }
            }
            (Err(_), Err(_)) => return, // the connection ends there
            (old, new) => panic!("{old:?} became {new:?}"),
        }
    }
}

/// Metadata, a line each, after a line that is a time-out.
pub fn metadata(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let text = lines.next().unwrap_or_default();
    assert_eq!(timeout(text).map(|timeout| timeout.as_nanos()), slow_timeout(text));
    let pairs: Vec<_> = lines
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((HeaderName::from_bytes(&line[..colon]).ok()?, HeaderValue::from_bytes(&line[colon + 1..]).ok()?))
        })
        .collect();
    let forwards: HeaderMap = pairs.iter().cloned().collect();
    let backwards: HeaderMap = pairs.iter().rev().cloned().collect();
    let found = way(&forwards, None);
    assert_eq!(found, way(&backwards, None), "the order does not matter");
    let is_plain = |name: &HeaderName| !name.as_str().ends_with("-bin") && *name != "grpc-encoding";
    assert!(found == Way::Proxy || pairs.iter().all(|(name, value)| is_plain(name) || value == "identity"));
    assert!(found < Way::Memory || pairs.iter().all(|(name, _)| name != "authorization"));
    let odd = HeaderMap::from_iter(pairs.into_iter().chain([("x-odd".parse().unwrap(), "1".parse().unwrap())]));
    assert!(way(&odd, None) <= found.min_with(Way::Python), "more metadata never shortens the way");
}

trait MinWith {
    fn min_with(self, other: Self) -> Self;
}

impl MinWith for Way {
    fn min_with(self, other: Way) -> Way {
        if self < other { self } else { other }
    }
}

/// As the specification has it: at most 8 digits and a unit. Zero is for grpc.aio to refuse.
fn slow_timeout(text: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(text).ok()?;
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    let nanoseconds = match unit {
        'H' => 3_600_000_000_000,
        'M' => 60_000_000_000,
        'S' => 1_000_000_000,
        'm' => 1_000_000,
        'u' => 1000,
        'n' => 1,
        _ => return None,
    };
    let is_number = digits.len() <= 8 && digits.chars().all(|digit| digit.is_ascii_digit());
    let count = digits.parse::<u128>().ok().filter(|_| is_number)?;
    Some(count * nanoseconds).filter(|timeout| *timeout > 0)
}

/// Frames: counted in pieces, and one by one.
pub fn pace(bytes: &[u8]) {
    let Some((piece, frames)) = bytes.split_first() else { return };
    let mut client = vec![b'P'; PREFACE];
    let mut counted = 0;
    let mut at = 0;
    while at + HEADER <= frames.len() {
        let end = (at + HEADER + length(&frames[at..])).min(frames.len());
        counted += u32::from(!matches!(frames[at + 3], 0 | 1 | 8 | 9));
        at = end;
    }
    client.extend_from_slice(frames);
    let mut pace = Pace::default();
    let fed = client.chunks(usize::from(*piece).max(1)).try_for_each(|chunk| pace.feed(chunk));
    assert_eq!(fed.is_err(), counted > MAX_CONTROL);
    assert_eq!(pace.count(), counted.min(MAX_CONTROL + 1));
}

/// Two tokens, each with its length ahead, and a value of `authorization`: who is admitted shows one of them, and nobody else.
pub fn tokens(bytes: &[u8]) {
    let mut rest = bytes;
    let mut known: Vec<Vec<u8>> = Vec::new();
    for _ in 0..2 {
        let Some((length, more)) = rest.split_first() else { return };
        let (token, more) = more.split_at(usize::from(*length).min(more.len()));
        known.push(token.into());
        rest = more;
    }
    let text = String::from_utf8_lossy(rest);
    let shown = text.get(7..).filter(|_| text[..7].eq_ignore_ascii_case("Bearer "));
    let shows_one = shown.is_some_and(|shown| known.iter().any(|token| token == shown.as_bytes()));
    let access = Access::default();
    access.set_tokens(known);
    assert_eq!(access.tokens().unwrap().admit(text.as_bytes()), shows_one);
}

/// A client's certificate: nothing is too odd to be read, and whatever name it gives is given once in general, once by its kind.
pub fn identity(der: &[u8]) {
    let found = Identity::of_tls(Some(der), false);
    let values = |key: &str| -> Vec<Vec<u8>> {
        let all = found.properties().iter().filter(|(name, _)| *name == key);
        all.flat_map(|(_, values)| values.clone()).collect()
    };
    let kinds = ["peer_dns", "peer_uri", "peer_email", "peer_ip"].map(values);
    let (mut names, mut by_kind) = (values("x509_subject_alternative_name"), kinds.concat());
    names.sort();
    by_kind.sort();
    assert_eq!(names, by_kind);
    let is_none = names.is_empty() && values("x509_common_name").is_empty();
    assert_eq!(found.key().is_none(), is_none);
    for name in kinds[1].iter().filter_map(|name| std::str::from_utf8(name).ok()) {
        assert_eq!(
            found.is_named(name),
            name.contains("://") || kinds[0].iter().chain(&kinds[2..].concat()).any(|other| other == name.as_bytes())
        );
    }
    assert_eq!(values("x509_pem_cert").len(), 1);
}
