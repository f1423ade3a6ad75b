//! Which calls are traced, and what is kept of hits that are, until Python makes spans of them: it takes them a few times a second,
//! so a traced hit needs neither the GIL nor a wake-up.
//!
//! W3C Trace Context: bit 0 of the flags is the caller's decision. The others say nothing about it: clients of level 2 send 02 for
//! a random trace id that is not sampled, and 03 for one that is.

use http::HeaderMap;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Hits kept for Python; further ones are counted as lost.
pub const MAX_HITS: usize = 1_024;
/// Bytes of a `tracestate` that is kept; W3C has vendors propagate at least as many.
const MAX_STATE: usize = 512;
/// Bytes of a `traceparent` of version 00, and of the fields that later versions have in common with it.
const LENGTH: usize = 55;

/// What a caller decided.
#[derive(Debug, PartialEq, Clone, Copy)]
pub enum Decision<'a> {
    /// To trace the call; the fields of its `traceparent` that all versions have.
    Sampled(&'a str),
    Unsampled,
    /// Nothing: there is no `traceparent`, or not a valid one.
    None,
}

/// A hit that is traced.
#[derive(Debug)]
pub struct TracedHit {
    /// The index of its method.
    pub method: usize,
    /// The caller's `traceparent`, or empty if the trace begins here.
    pub parent: Box<str>,
    pub state: Box<str>,
    /// In nanoseconds since the epoch.
    pub began: u64,
    pub ended: u64,
}

#[derive(Default)]
pub struct Traces {
    is_on: AtomicBool,
    /// A call whose caller has not decided is traced if a random number is below this.
    below: AtomicU64,
    draws: AtomicU64,
    hits: Mutex<Vec<TracedHit>>,
    lost: AtomicU64,
}

impl Traces {
    /// From now on, keeps hits whose callers ask for it, and this share of those whose callers say nothing.
    pub fn start(&self, ratio: f64) {
        self.draws.store(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64), Relaxed);
        self.below.store((ratio * u64::MAX as f64) as u64, Relaxed);
        self.is_on.store(true, Relaxed);
    }

    /// Keeps a hit if it is traced.
    pub fn record(&self, headers: &HeaderMap, method: usize, took: Duration) {
        if !self.is_on.load(Relaxed) {
            return;
        }
        let (parent, state) = match decision(headers) {
            Decision::Unsampled => return,
            Decision::Sampled(parent) => (parent, state(headers)),
            Decision::None if self.draw() < self.below.load(Relaxed) => ("", ""),
            Decision::None => return,
        };
        let mut hits = self.hits.lock();
        if hits.len() >= MAX_HITS {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        let ended = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let began = ended.saturating_sub(took.as_nanos() as u64);
        hits.push(TracedHit { method, parent: parent.into(), state: state.into(), began, ended });
    }

    /// Returns what was kept, and how many hits were lost, since the last time.
    pub fn take(&self) -> (Vec<TracedHit>, u64) {
        (std::mem::take(&mut *self.hits.lock()), self.lost.swap(0, Relaxed))
    }

    /// A random number (splitmix64: Steele, Lea and Flood, 2014).
    fn draw(&self) -> u64 {
        let mut drawn = self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        drawn ^ (drawn >> 31)
    }
}

/// Reads the `traceparent` of a call; of several, none counts.
pub fn decision(headers: &HeaderMap) -> Decision<'_> {
    let mut values = headers.get_all("traceparent").iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Decision::None };
    parse(value.as_bytes())
}

/// Reads a `traceparent`: version, trace id, parent id and flags, in hexadecimal with dashes between. Later versions may have more.
fn parse(value: &[u8]) -> Decision<'_> {
    let Some((fields, rest)) = value.split_at_checked(LENGTH) else { return Decision::None };
    let parts = [&fields[..2], &fields[3..35], &fields[36..52], &fields[53..]];
    let is_hex = |part: &&[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let has_dashes = [2, 35, 52].iter().all(|at| fields[*at] == b'-');
    let may_follow = rest.is_empty() || (parts[0] != b"00" && rest[0] == b'-');
    let is_valid = parts.iter().all(is_hex) && has_dashes && may_follow && parts[0] != b"ff";
    if !is_valid || is_zero(parts[1]) || is_zero(parts[2]) {
        return Decision::None;
    }
    // The odd digits have bit 0.
    let is_sampled = matches!(fields[LENGTH - 1], b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f');
    match std::str::from_utf8(fields) {
        Ok(fields) if is_sampled => Decision::Sampled(fields),
        _ => Decision::Unsampled,
    }
}

/// Returns the `tracestate` of a call; empty if there are several, or it is longer than vendors have to propagate.
pub fn state(headers: &HeaderMap) -> &str {
    let mut values = headers.get_all("tracestate").iter();
    let (Some(value), None) = (values.next(), values.next()) else { return "" };
    value.to_str().ok().filter(|value| value.len() <= MAX_STATE).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const IDS: &str = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";

    fn headers(parents: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append("traceparent", HeaderValue::from_str(parent).unwrap());
        }
        headers
    }

    #[test]
    fn bit_0_of_the_flags_decides() {
        for (flags, is_sampled) in [("00", false), ("01", true), ("02", false), ("03", true), ("fe", false), ("ff", true)] {
            for (version, more) in [("00", ""), ("01", ""), ("cc", "-what-later-versions-have")] {
                let parent = format!("{version}-{IDS}-{flags}{more}");
                let expected = if is_sampled { Decision::Sampled(&parent[..LENGTH]) } else { Decision::Unsampled };
                assert_eq!(decision(&headers(&[&parent])), expected, "{parent}");
            }
        }
    }

    #[test]
    fn what_is_malformed_decides_nothing() {
        let zeros = "00000000000000000000000000000000-b7ad6b7169203331";
        let no_parent = "0af7651916cd43dd8448eb211c80319c-0000000000000000";
        for odd in [
            String::new(),
            format!("00-{IDS}"),
            format!("00-{IDS}-"),
            format!("00-{IDS}-1"),
            format!("ff-{IDS}-01"),
            format!("0g-{IDS}-01"),
            format!("00-{IDS}-0g"),
            format!("00-{IDS}-01-more"),
            format!("01-{IDS}-01more"),
            format!("00-{}-01", IDS.to_uppercase()),
            format!("00-{}-01", IDS.replace('-', "_")),
            format!("00-{zeros}-01"),
            format!("00-{no_parent}-01"),
        ] {
            assert_eq!(decision(&headers(&[&odd])), Decision::None, "{odd}");
        }
        let parent = format!("00-{IDS}-01");
        assert_eq!(decision(&headers(&[&parent, &parent])), Decision::None, "two of them");
        assert_eq!(decision(&HeaderMap::new()), Decision::None);
    }

    #[test]
    fn keeps_what_the_caller_or_the_ratio_chose() {
        let traces = Traces::default();
        let sampled = format!("00-{IDS}-01");
        let record = |parents: &[&str]| traces.record(&headers(parents), 7, Duration::from_micros(5));
        record(&[&sampled]);
        assert_eq!(traces.take().0.len(), 0, "not before it is on");

        traces.start(0.0);
        record(&[&sampled]);
        record(&[&format!("00-{IDS}-02")]);
        record(&[]);
        let (hits, lost) = traces.take();
        let [hit] = &hits[..] else { panic!("{hits:?}") };
        assert_eq!((hit.method, &*hit.parent, hit.ended - hit.began, lost), (7, &*sampled, 5_000, 0));

        traces.start(0.5);
        (0..1000).for_each(|_| record(&[]));
        let (hits, _) = traces.take();
        assert!((400..600).contains(&hits.len()), "{}", hits.len());
        assert!(hits.iter().all(|hit| hit.parent.is_empty()));

        traces.start(1.0);
        (0..MAX_HITS + 3).for_each(|_| record(&[]));
        assert_eq!((traces.take().1, traces.take().1), (3, 0));
    }
}
