//! Refuses calls by their frames, without h2: at five times the load that can be served, four of five calls must cost next to
//! nothing, and a call refused through h2 costs as much as a hit.
//!
//! While calls are being refused, h2's interpretation of each header block is remembered: the method that the bytes meant (`learn`).
//! The same bytes mean the same as long as no block changes HPACK's dynamic table. So a call that begins with them, and whose one
//! message arrived with it, can be refused unread when its line has no room, and h2 never sees it. Everything else goes to h2
//! unchanged: calls of a client that adds to the table with each call (grpc-go and grpc-java do for `grpc-timeout`) are refused by
//! `line.rs`, at h2's cost.
//!
//! What h2 then does not know is handled here. The bytes of the message are returned to the connection's window. Later frames of the
//! stream are dropped while h2 would treat the stream as never opened; once a later stream has reached h2, it treats this one as
//! closed. The refusal has no field that would be added to the client's table, and is written between two frames of h2.
//!
//! A connection whose calls are refused is then only read every few milliseconds (`Rests`), so that one read and one write serve
//! everything that arrives meanwhile.

use crate::authority::{self, HEADER, PREFACE, length};
use crate::limits::{MAX_FRAME, REST, UNSENT_REFUSALS};
use crate::status::Status;
use crate::wire;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::Waker;
use std::time::Instant;
use tokio::sync::Notify;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Maximum number of header blocks remembered per connection, and of those not yet interpreted by h2.
const MAX_KNOWN: usize = 64;
/// Bytes of messages after which they are returned to the client's window.
const WINDOW_STEP: u32 = 32 << 10;

/// Decides on calls.
pub trait Judge: Send + Sync {
    /// Whether calls are being refused.
    fn is_refusing(&self) -> bool;
    /// How many more calls of a method a connection may add.
    fn allowance(&self, now: Instant, method: usize, connection: u64) -> usize;
    /// Records that so many calls were refused.
    fn turned_away(&self, now: Instant, method: usize, count: usize);
}

/// Header blocks of refusals, used in turn.
pub struct Blocks {
    blocks: Vec<Vec<u8>>,
    next: AtomicUsize,
}

impl Blocks {
    /// The messages of the statuses must be percent-encoded.
    pub fn new(statuses: impl Iterator<Item = Status>) -> Self {
        let block = |Status { code, message, details }: Status| {
            let mut block = vec![0x88, 0x0f, 0x10]; // :status 200; content-type, which is 31 in HPACK's own table
            authority::put_plain(&mut block, b"application/grpc");
            let code = code.to_string();
            let fields: [(&[u8], &[u8]); 3] = [
                (b"grpc-status", code.as_bytes()),
                (b"grpc-message", message.as_bytes()),
                (b"grpc-status-details-bin", &details),
            ];
            for (name, value) in fields {
                block.push(0); // not added to the table
                authority::put_plain(&mut block, name);
                authority::put_plain(&mut block, value);
            }
            block
        };
        Blocks { blocks: statuses.map(block).collect(), next: AtomicUsize::new(0) }
    }

    fn next(&self) -> &[u8] {
        &self.blocks[self.next.fetch_add(1, Relaxed) % self.blocks.len()]
    }
}

/// How many calls of a method a connection may still add in this turn.
struct Turn {
    method: usize,
    left: usize,
    refused: usize,
}

/// What to do with a frame, and those that belong to it.
enum Fate {
    Passes,
    /// Refuse the call: so many bytes.
    Refused(usize),
    /// Wait for more bytes.
    Open,
}

pub struct Early {
    judge: Arc<dyn Judge>,
    refusals: Arc<Blocks>,
    connection: u64,
    /// The methods of header blocks; and, by stream, blocks that h2 has not interpreted yet.
    known: HashMap<Box<[u8]>, usize>,
    asked: VecDeque<(u32, Box<[u8]>)>,
    turns: Vec<Turn>,
    /// Whether calls were being refused when bytes last arrived.
    is_refusing: bool,
    /// Bytes of a frame still to arrive, and whether they are dropped.
    rest: usize,
    is_dropping: bool,
    /// The beginning of a frame or call that cannot be decided before the rest arrives.
    held: Vec<u8>,
    /// The last stream that went to h2, and the last that was refused.
    last_passed: u32,
    last_refused: u32,
    /// Bytes of messages to be returned to the client's window.
    owed: u32,
    /// Frames to send.
    pub out: Vec<u8>,
    /// Calls refused by `line.rs` since the last turn.
    refused_late: bool,
}

impl Early {
    pub fn new(connection: u64, judge: Arc<dyn Judge>, refusals: Arc<Blocks>) -> Self {
        Early {
            judge,
            refusals,
            connection,
            known: HashMap::new(),
            asked: VecDeque::new(),
            turns: Vec::new(),
            is_refusing: false,
            rest: PREFACE,
            is_dropping: false,
            held: Vec::new(),
            last_passed: 0,
            last_refused: 0,
            owed: 0,
            out: Vec::new(),
            refused_late: false,
        }
    }

    /// Processes bytes as they arrive, and appends those that are not refused.
    pub fn feed(&mut self, bytes: &[u8], mut pass_on: impl FnMut(&[u8])) {
        self.is_refusing = self.judge.is_refusing();
        if !self.is_refusing {
            self.forget(); // from here on changes of the table are not tracked
        }
        let joined;
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            joined = [std::mem::take(&mut self.held).as_slice(), bytes].concat();
            &joined
        };
        let mut from = 0; // bytes before this were appended or dropped
        let mut at = 0;
        while at < bytes.len() {
            if self.rest > 0 {
                let count = self.rest.min(bytes.len() - at);
                self.rest -= count;
                at += count;
                if self.is_dropping {
                    from = at;
                }
                continue;
            }
            self.is_dropping = false;
            let frame = &bytes[at..];
            if frame.len() < HEADER {
                break;
            }
            if self.is_of_refused(frame) {
                pass_on(&bytes[from..at]);
                (from, self.rest, self.is_dropping) = (at, HEADER + length(frame), true);
                continue;
            }
            match self.judge(frame) {
                Fate::Open => break,
                Fate::Passes => {
                    self.see(frame);
                    self.rest = HEADER + length(frame);
                }
                Fate::Refused(count) => {
                    pass_on(&bytes[from..at]);
                    at += count;
                    from = at;
                }
            }
        }
        pass_on(&bytes[from..at]);
        self.held = bytes[at..].to_vec();
    }

    /// Whether a frame is of a stream that h2 would treat as never opened, and end the connection.
    fn is_of_refused(&self, frame: &[u8]) -> bool {
        let stream = stream(frame);
        matches!(frame[3], RST_STREAM | WINDOW_UPDATE) && stream > self.last_passed && stream <= self.last_refused
    }

    /// Records a frame that goes to h2. HEADERS are complete, except while no calls are refused.
    fn see(&mut self, frame: &[u8]) {
        if !matches!(frame[3], HEADERS | CONTINUATION) {
            return;
        }
        let (stream, is_whole) = (stream(frame), frame[4] & !END_STREAM == END_HEADERS);
        let is_new = stream > self.last_passed.max(self.last_refused);
        self.last_passed = self.last_passed.max(stream);
        if !self.is_refusing {
            return;
        }
        let block = frame.get(HEADER..HEADER + length(frame)).filter(|block| is_whole && authority::is_neutral(block));
        match block {
            None => self.forget(),
            Some(block) if is_new && !self.known.contains_key(block) => {
                // Only the newest: an earlier one may have been reset before h2 reported it.
                self.asked.retain(|(_, asked)| **asked != *block);
                self.asked.truncate(MAX_KNOWN - 1);
                self.asked.push_front((stream, block.into()));
            }
            Some(_) => {}
        }
    }

    /// Records which method a stream has called, if its calls may be refused.
    pub fn learn(&mut self, stream: u32, method: usize) {
        if let Some(place) = self.asked.iter().position(|(asked, _)| *asked == stream)
            && let Some((_, block)) = self.asked.remove(place)
            && self.known.len() < MAX_KNOWN
        {
            self.known.insert(block, method);
        }
    }

    fn forget(&mut self) {
        if !self.known.is_empty() || !self.asked.is_empty() {
            self.known = HashMap::new();
            self.asked = VecDeque::new();
        }
    }

    /// Refuses the call that begins with a frame, if it is to be refused and has arrived completely.
    fn judge(&mut self, frame: &[u8]) -> Fate {
        let (flags, stream) = (frame[4], stream(frame));
        if !self.is_refusing || frame[3] != HEADERS || length(frame) > MAX_FRAME as usize {
            return Fate::Passes;
        }
        let Some((block, behind)) = frame[HEADER..].split_at_checked(length(frame)) else { return Fate::Open };
        let is_new = flags == END_HEADERS && stream > self.last_passed.max(self.last_refused);
        let Some(method) = self.known.get(block).copied().filter(|_| is_new) else { return Fate::Passes };
        if behind.len() < HEADER {
            return Fate::Open;
        }
        let is_body = behind[3] == DATA && behind[4] == END_STREAM && self::stream(behind) == stream;
        if !is_body || length(behind) > MAX_FRAME as usize {
            return Fate::Passes;
        }
        let Some(body) = behind.get(HEADER..HEADER + length(behind)) else { return Fate::Open };
        if wire::message(body).is_none() || self.out.len() > UNSENT_REFUSALS || self.may_come(method) {
            return Fate::Passes;
        }
        self.last_refused = stream;
        put_frame(&mut self.out, HEADERS, END_HEADERS | END_STREAM, stream, self.refusals.next());
        self.owed += body.len() as u32;
        if self.owed >= WINDOW_STEP {
            put_frame(&mut self.out, WINDOW_UPDATE, 0, 0, &self.owed.to_be_bytes());
            self.owed = 0;
        }
        Fate::Refused(HEADER + block.len() + HEADER + body.len())
    }

    /// Whether the connection may add one more call of a method in this turn. Those it adds are in line when the turn is over.
    fn may_come(&mut self, method: usize) -> bool {
        let place = self.turns.iter().position(|turn| turn.method == method).unwrap_or_else(|| {
            let left = self.judge.allowance(Instant::now(), method, self.connection);
            self.turns.push(Turn { method, left, refused: 0 });
            self.turns.len() - 1
        });
        let turn = &mut self.turns[place];
        if turn.left == 0 {
            turn.refused += 1;
            return false;
        }
        turn.left -= 1;
        true
    }

    /// Records that `line.rs` refused a call of the connection.
    pub fn was_refused(&mut self) {
        self.refused_late = true;
    }

    /// Ends a turn: the calls that went to h2 are in line now. Returns how many calls were refused in the turn, and whether to pause
    /// reading from the connection.
    pub fn end_turn(&mut self) -> (usize, bool) {
        let mut count = 0;
        if !self.turns.is_empty() {
            let now = Instant::now();
            for turn in self.turns.drain(..).filter(|turn| turn.refused > 0) {
                self.judge.turned_away(now, turn.method, turn.refused);
                count += turn.refused;
            }
        }
        (count, std::mem::take(&mut self.refused_late) || count > 0)
    }
}

fn stream(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[5] & 0x7f, frame[6], frame[7], frame[8]])
}

pub fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Finds the ends of frames in what h2 writes.
#[derive(Default)]
pub struct Boundary {
    rest: usize,
    held: Vec<u8>,
    /// A header block continues in the next frame, and no other frame may come between.
    is_open: bool,
}

impl Boundary {
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let passed = self.rest.min(bytes.len());
            self.rest -= passed;
            bytes = &bytes[passed..];
            let (head, behind) = bytes.split_at((HEADER - self.held.len()).min(bytes.len()));
            self.held.extend_from_slice(head);
            bytes = behind;
            if self.held.len() == HEADER {
                if matches!(self.held[3], HEADERS | CONTINUATION) {
                    self.is_open = self.held[4] & END_HEADERS == 0;
                }
                self.rest = length(&self.held);
                self.held.clear();
            }
        }
    }

    /// Whether another frame may be inserted here.
    pub fn is_here(&self) -> bool {
        self.rest == 0 && self.held.is_empty() && !self.is_open
    }
}

/// Connections that are not read from at present.
#[derive(Default)]
pub struct Rests {
    resting: Mutex<Vec<(Arc<AtomicBool>, Waker)>>,
    begun: Notify,
}

impl Rests {
    /// Pauses reading from a connection, until it is woken with `is_resting` false.
    pub fn begin(&self, is_resting: &Arc<AtomicBool>, waker: Waker) {
        if !is_resting.swap(true, Relaxed) {
            self.resting.lock().push((is_resting.clone(), waker));
            self.begun.notify_one();
        }
    }

    /// Ends pauses; those that began within the same few milliseconds end together.
    pub async fn run(&self) {
        loop {
            self.begun.notified().await;
            tokio::time::sleep(REST).await;
            for (is_resting, waker) in std::mem::take(&mut *self.resting.lock()) {
                is_resting.store(false, Relaxed);
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: usize = 7;
    /// A block that adds a field to HPACK's table, and two that only refer to it.
    const FIRST: &[u8] = b"\x83\x44\x02/a";
    const LATER: &[u8] = b"\x83\xbe";
    const OTHER: &[u8] = b"\x86\xbe";

    /// Refuses all that it is asked about but so many.
    struct Fake {
        is_refusing: AtomicBool,
        allowed: AtomicUsize,
        turned_away: AtomicUsize,
    }

    impl Judge for Fake {
        fn is_refusing(&self) -> bool {
            self.is_refusing.load(Relaxed)
        }

        fn allowance(&self, _: Instant, method: usize, connection: u64) -> usize {
            assert_eq!((method, connection), (METHOD, 3));
            self.allowed.load(Relaxed)
        }

        fn turned_away(&self, _: Instant, method: usize, _: usize) {
            assert_eq!(method, METHOD);
            self.turned_away.fetch_add(1, Relaxed);
        }
    }

    fn early() -> (Early, Arc<Fake>) {
        let judge = Arc::new(Fake {
            is_refusing: AtomicBool::new(true),
            allowed: AtomicUsize::new(0),
            turned_away: AtomicUsize::new(0),
        });
        let blocks = Blocks::new([Status { code: 8, message: "no".into(), details: b"AA".into() }].into_iter());
        let mut early = Early::new(3, judge.clone(), Arc::new(blocks));
        assert_eq!(fed(&mut early, &[b'P'; PREFACE]).len(), PREFACE);
        (early, judge)
    }

    fn fed(early: &mut Early, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        early.feed(bytes, |bytes| out.extend_from_slice(bytes));
        out
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, kind, flags, stream, payload);
        out
    }

    fn call(stream: u32, block: &[u8]) -> Vec<u8> {
        [frame(HEADERS, END_HEADERS, stream, block), frame(DATA, END_STREAM, stream, b"\0\0\0\0\x02id")].concat()
    }

    /// Has it know what `LATER` means: streams 1 and 3 went to h2.
    fn taught() -> (Early, Arc<Fake>) {
        let (mut early, judge) = early();
        for (stream, block) in [(1, FIRST), (3, LATER)] {
            assert_eq!(fed(&mut early, &call(stream, block)), call(stream, block));
            early.learn(stream, METHOD);
        }
        (early, judge)
    }

    /// Streams that were refused since this was last asked.
    fn refused(early: &mut Early) -> Vec<u32> {
        let (mut out, mut streams) = (std::mem::take(&mut early.out), Vec::new());
        while !out.is_empty() {
            let rest = out.split_off(HEADER + length(&out));
            if out[3] == HEADERS {
                assert_eq!(out[4], END_HEADERS | END_STREAM);
                streams.push(stream(&out));
            }
            out = rest;
        }
        streams
    }

    #[test]
    fn a_refusal_is_a_header_block_that_leaves_the_table_as_it_is() {
        let details = "x".repeat(300);
        let statuses = ["20", "21"].map(|message| Status { code: 8, message: message.into(), details: details.clone().into() });
        let blocks = Blocks::new(statuses.into_iter());
        for message in ["20", "21", "20"] {
            let block = blocks.next();
            assert!(authority::is_neutral(block));
            let fields = loona_hpack::Decoder::new().decode(block).unwrap();
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| [name, value].map(|text| str::from_utf8(text).unwrap())).collect();
            let expected = [
                [":status", "200"],
                ["content-type", "application/grpc"],
                ["grpc-status", "8"],
                ["grpc-message", message],
                ["grpc-status-details-bin", &details],
            ];
            assert_eq!(fields, expected);
        }
    }

    #[test]
    fn what_is_known_and_has_no_room_is_refused_unseen() {
        let (mut early, judge) = taught();
        let bytes = [call(5, LATER), call(7, OTHER), call(9, LATER), frame(6, 0, 0, b"a ping.."), call(11, LATER)].concat();
        assert_eq!(fed(&mut early, &bytes), [call(7, OTHER), frame(6, 0, 0, b"a ping..")].concat());
        assert_eq!(refused(&mut early), [5, 9, 11]);
        assert_eq!(early.end_turn(), (3, true));
        assert_eq!(early.end_turn(), (0, false));
        assert_eq!(judge.turned_away.load(Relaxed), 1);
    }

    #[test]
    fn as_many_may_come_as_there_is_room_for() {
        let (mut early, judge) = taught();
        judge.allowed.store(2, Relaxed);
        let calls = |streams: &[u32]| streams.iter().flat_map(|stream| call(*stream, LATER)).collect::<Vec<_>>();
        assert_eq!(fed(&mut early, &calls(&[5, 7, 9])), calls(&[5, 7]));
        assert_eq!(fed(&mut early, &calls(&[11])), b"", "the first two are not in line yet");
        early.end_turn();
        assert_eq!(fed(&mut early, &calls(&[13])), calls(&[13]));
        assert_eq!(refused(&mut early), [9, 11]);
        judge.is_refusing.store(false, Relaxed);
        early.end_turn();
        assert_eq!(fed(&mut early, &calls(&[15, 17, 19])), calls(&[15, 17, 19]));
    }

    #[test]
    fn what_is_not_certain_goes_to_h2() {
        let whole = frame(DATA, END_STREAM, 5, b"\0\0\0\0\0");
        for odd in [
            [frame(HEADERS, END_HEADERS | END_STREAM, 5, LATER), vec![]].concat(),
            [frame(HEADERS, 0, 5, LATER), frame(CONTINUATION, END_HEADERS, 5, b"")].concat(),
            [frame(HEADERS, END_HEADERS | 8, 5, b"\0\x83\xbe"), whole.clone()].concat(),
            [frame(HEADERS, END_HEADERS, 5, LATER), frame(DATA, 0, 5, b"\0\0\0\0\0")].concat(),
            [frame(HEADERS, END_HEADERS, 5, LATER), frame(DATA, END_STREAM, 5, b"\x01\0\0\0\0")].concat(),
            [frame(HEADERS, END_HEADERS, 5, LATER), frame(DATA, END_STREAM, 5, b"\0\0\0\0\x01")].concat(),
            [frame(HEADERS, END_HEADERS, 5, LATER), frame(6, 0, 0, b"a ping.."), whole.clone()].concat(),
            [frame(HEADERS, END_HEADERS, 3, LATER), frame(DATA, END_STREAM, 3, b"\0\0\0\0\0")].concat(),
        ] {
            let (mut early, _) = taught();
            assert_eq!(fed(&mut early, &odd), odd);
            assert!(early.out.is_empty(), "{odd:?}");
        }
    }

    #[test]
    fn in_pieces_it_is_the_same() {
        let ping = frame(6, 0, 0, b"a ping..");
        let calls: Vec<u8> = (2..20).flat_map(|number| [call(2 * number + 1, LATER), ping.clone()].concat()).collect();
        for piece in 1..100 {
            let (mut early, _) = taught();
            let passed: Vec<u8> = calls.chunks(piece).flat_map(|piece| fed(&mut early, piece)).collect();
            assert_eq!(passed, ping.repeat(18), "{piece}");
            assert_eq!(refused(&mut early), (2..20).map(|number| 2 * number + 1).collect::<Vec<_>>());
        }
    }

    /// Frames of all kinds, whole and cut, sensible and not.
    #[test]
    fn in_pieces_anything_is_the_same() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % bound as u64) as usize
        };
        for round in 0..2000 {
            let mut bytes = Vec::new();
            for _ in 0..below(30) {
                let stream = 5 + below(20) as u32;
                match below(4) {
                    0 | 1 => bytes.extend(call(stream, [LATER, LATER, LATER, OTHER, FIRST][below(5)])),
                    2 => bytes.extend(frame(
                        below(10) as u8,
                        [0, 1, 4, 5, 0x2c][below(5)],
                        stream,
                        &[0, 0, 0, 0, 1, 9][..below(7)],
                    )),
                    _ if !bytes.is_empty() => {
                        let at = below(bytes.len());
                        bytes[at] = below(256) as u8;
                    }
                    _ => {}
                }
            }
            let ((mut one, _), (mut many, _)) = (taught(), taught());
            let whole = fed(&mut one, &bytes);
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(1 + below(rest.len().min(40)));
                pieces.extend(fed(&mut many, piece));
                rest = behind;
            }
            assert_eq!((whole, &one.out, &one.held), (pieces, &many.out, &many.held), "{round}: {bytes:?}");
        }
    }

    #[test]
    fn nothing_is_held_when_no_calls_are_refused() {
        let (mut early, judge) = taught();
        let head = frame(HEADERS, END_HEADERS, 5, LATER);
        assert_eq!(fed(&mut early, &head), b"", "its message may come yet");
        judge.is_refusing.store(false, Relaxed);
        let body = frame(DATA, END_STREAM, 5, b"\0\0\0\0\0");
        assert_eq!(fed(&mut early, &body), [head.clone(), body].concat());
        assert_eq!(fed(&mut early, &head), head);
    }

    #[test]
    fn a_block_that_changes_the_table_has_all_forgotten() {
        for change in
            [call(5, FIRST), call(5, b"\x3f\xe1\x1f\x83\xbe"), frame(HEADERS, 0, 5, LATER), frame(HEADERS, 36, 5, LATER)]
        {
            let (mut early, _) = taught();
            fed(&mut early, &change);
            assert_eq!(fed(&mut early, &call(7, LATER)), call(7, LATER), "{change:?}");
            early.learn(7, METHOD);
            assert_eq!(fed(&mut early, &call(9, LATER)), b"");
        }
        // Also one that came after a call whose method h2 says only now.
        let (mut early, _) = early();
        fed(&mut early, &[call(1, LATER), call(3, FIRST)].concat());
        early.learn(1, METHOD);
        assert_eq!(fed(&mut early, &call(5, LATER)), call(5, LATER));
    }

    #[test]
    fn what_is_said_of_a_refused_stream_is_dropped_until_h2_takes_it_for_closed() {
        for piece in [1, 4, 9, 13, 100] {
            let (mut early, _) = taught();
            fed(&mut early, &call(5, LATER));
            let said = [frame(RST_STREAM, 0, 5, &[0, 0, 0, 8]), frame(WINDOW_UPDATE, 0, 5, &[0, 0, 0, 8])].concat();
            let others = [frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]), frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 8])].concat();
            let bytes = [&said[..], &others, &call(7, OTHER), &said].concat();
            let passed: Vec<u8> = bytes.chunks(piece).flat_map(|piece| fed(&mut early, piece)).collect();
            assert_eq!(passed, [&others[..], &call(7, OTHER), &said].concat(), "{piece}");
        }
    }

    #[test]
    fn the_window_gets_back_what_messages_took() {
        let (mut early, _) = taught();
        let large = [&b"\0\0\0\x20\0"[..], &[1; 0x2000]].concat();
        let mut given_back = 0;
        for number in 0..40 {
            let stream = 5 + 2 * number;
            fed(&mut early, &[frame(HEADERS, END_HEADERS, stream, LATER), frame(DATA, END_STREAM, stream, &large)].concat());
            let update = early.out.windows(HEADER).position(|head| head == [0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0]);
            if let Some(at) = update {
                let step = early.out[at + HEADER..].first_chunk().map(|step| u32::from_be_bytes(*step));
                given_back += step.unwrap_or_default();
            }
            refused(&mut early);
        }
        let taken = 40 * large.len() as u32;
        assert!(given_back <= taken && taken - given_back < WINDOW_STEP, "{given_back} of {taken}");
    }

    #[test]
    fn what_nobody_reads_does_not_pile_up() {
        let (mut early, _) = taught();
        for number in 0..20_000 {
            fed(&mut early, &call(5 + 2 * number, LATER));
        }
        assert!(early.out.len() < UNSENT_REFUSALS + 1000);
    }

    #[test]
    fn refusals_come_between_frames() {
        let split = [frame(HEADERS, 0, 1, b"\x88"), frame(CONTINUATION, END_HEADERS, 1, b"\x88")].concat();
        let (first, bytes) = (HEADER + 1, [&split[..], &frame(DATA, 0, 1, b"four")].concat());
        let places: Vec<_> = (0..=bytes.len())
            .filter(|end| {
                let mut boundary = Boundary::default();
                boundary.pass(&bytes[..*end]);
                boundary.is_here()
            })
            .collect();
        assert_eq!(places, [0, split.len(), bytes.len()], "and not at {first}");
    }
}
