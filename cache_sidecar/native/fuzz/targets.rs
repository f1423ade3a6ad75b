//! What is fuzzed: every parser of bytes from outside, beside a slow or foreign one that has to agree. Called by libFuzzer
//! (`fuzz_targets`), and by `tests/fuzz.rs` with the corpus and what a few thousand mutations make of it.

use _native::access::Access;
use _native::authority::{HEADER, PREFACE, Repair, is_fit, length};
use _native::hits::{Request, Shape};
use _native::identity::Identity;
use _native::limits::{MAX_CONTROL, MAX_UNPACKED};
use _native::metadata::{Route, binary, route, timeout};
use _native::pace::Pace;
use _native::unpack::unpack;
use _native::wire;
use http::{HeaderMap, HeaderName, HeaderValue};
use miniz_oxide::inflate::{decompress_to_vec_with_limit, decompress_to_vec_zlib_with_limit};
use prost::Message;
use std::time::Instant;

type Target = (&'static str, fn(&[u8]));

pub const ALL: [Target; 8] = [
    ("wire", request),
    ("authority", authority),
    ("hpack", hpack),
    ("metadata", metadata),
    ("pace", pace),
    ("tokens", tokens),
    ("identity", identity),
    ("unpack", packed),
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
    let found = route(&forwards, None);
    assert_eq!(found, route(&backwards, None), "the order does not matter");
    for (name, value) in pairs.iter().filter(|(name, _)| name.as_str().ends_with("-bin")) {
        assert_eq!(binary(value.as_bytes()), slow_binary(value.as_bytes()));
        assert!(found == Route::Proxy || binary(value.as_bytes()).is_some(), "{name}");
    }
    let access = Access::default();
    access.set_tokens(vec![b"t".into()], Vec::new());
    let tokens = access.tokens().unwrap();
    let admitted = pairs.iter().filter(|(name, value)| name == "authorization" && tokens.admit(value.as_bytes())).count();
    let with_tokens = route(&forwards, Some(&tokens));
    assert!(with_tokens <= found && (with_tokens < Route::Memory || admitted > 0));
    let more = HeaderMap::from_iter(pairs.into_iter().chain([("x-more".parse().unwrap(), "1".parse().unwrap())]));
    assert_eq!(route(&more, None), found, "what matters to nobody changes nothing");
}

/// As RFC 4648 has it, a bit at a time; padding may be left out, or a part of it.
fn slow_binary(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    let is_padded = padding == 0 || (digits.len() % 4 >= 2 && digits.len() % 4 + padding <= 4);
    let bits: Vec<bool> = digits
        .iter()
        .map(|digit| match digit {
            b'A'..=b'Z' => Some(digit - b'A'),
            b'a'..=b'z' => Some(digit - b'a' + 26),
            b'0'..=b'9' => Some(digit - b'0' + 52),
            b'+' => Some(62),
            b'/' => Some(63),
            _ => None,
        })
        .collect::<Option<Vec<u8>>>()?
        .iter()
        .flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1 == 1))
        .collect();
    let bytes = bits.chunks_exact(8);
    let rest = bytes.remainder();
    let is_canonical = rest.len() < 6 && !rest.contains(&true);
    (is_padded && is_canonical).then(|| bytes.map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect())
}

/// A compressed message, after a byte that chooses how: what is unpacked is what another decompressor makes of it.
pub fn packed(bytes: &[u8]) {
    let Some((choice, packed)) = bytes.split_first() else { return };
    let encoding = if choice % 2 == 0 { "gzip" } else { "deflate" };
    let headers = HeaderMap::from_iter([("grpc-encoding".parse().unwrap(), encoding.parse().unwrap())]);
    let mut body = [&[1; wire::FRAME][..], packed].concat();
    wire::close_frame(&mut body, wire::FRAME);
    let Some(unpacked) = unpack(&headers, &body, Instant::now()) else { return };
    let message = wire::message(&unpacked).expect("a whole message in a frame");
    assert!(message.len() <= MAX_UNPACKED);
    let other = match encoding {
        "deflate" => decompress_to_vec_zlib_with_limit(packed, MAX_UNPACKED),
        // A gzip header without optional fields; with them it is longer.
        _ if packed[3] == 0 => decompress_to_vec_with_limit(&packed[10..packed.len() - 8], MAX_UNPACKED),
        _ => return,
    };
    assert_eq!(other.expect("another decompressor refuses it"), message);
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
    access.set_tokens(known, Vec::new());
    assert_eq!(access.tokens().unwrap().admit(text.as_bytes()), shows_one);
}

/// A client's certificate: nothing is too odd to be read, and whatever name it gives is given once in general, once by its kind.
pub fn identity(der: &[u8]) {
    let found = Identity::of_tls(&[der], false);
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
    for name in by_kind.iter().filter_map(|name| std::str::from_utf8(name).ok()) {
        let kind = match name {
            uri if uri.contains("://") => 1,
            mailbox if mailbox.contains('@') => 2,
            address if address.parse::<std::net::IpAddr>().is_ok() => 3,
            _ => 0,
        };
        assert_eq!(found.is_named(name), kinds[kind].iter().any(|other| other == name.as_bytes()));
    }
    assert!(found.not_after() < f64::INFINITY && found.serials().len() <= 1);
    assert_eq!(values("x509_pem_cert").len(), 1);
}
