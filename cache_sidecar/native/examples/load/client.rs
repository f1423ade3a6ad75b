//! The client's side of an HTTP/2 connection, without its socket: one pass over what arrives, and prebuilt frames to send.

use _native::{authority, wire};
use loona_hpack::Decoder;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

const HEAD: usize = 9;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED_OR_PRIORITY: u8 = 0x28;
const DEFAULT_WINDOW: i64 = 65_535;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// What came of the calls.
pub struct Tally {
    /// Nanoseconds of each call that was served.
    pub latencies: Vec<u64>,
    /// Nanoseconds of each call that was answered with a status that is no success.
    pub refusals: Vec<u64>,
    pub errors: BTreeMap<String, u64>,
    /// Index of the payload, and the message.
    pub samples: Vec<(usize, Vec<u8>)>,
    /// Of the messages.
    pub bytes: usize,
    sample_every: usize,
}

impl Tally {
    pub fn new(sample_every: usize) -> Self {
        Tally {
            latencies: Vec::new(),
            refusals: Vec::new(),
            errors: BTreeMap::new(),
            samples: Vec::new(),
            bytes: 0,
            sample_every,
        }
    }

    fn fail(&mut self, reason: &str, count: usize) {
        if count > 0 {
            *self.errors.entry(reason.into()).or_default() += count as u64;
        }
    }
}

/// Framed messages, sent in turn.
pub struct Payloads {
    messages: Vec<Vec<u8>>,
    next: RefCell<usize>,
}

impl Payloads {
    pub fn new(messages: Vec<Vec<u8>>) -> Self {
        Payloads { messages, next: RefCell::default() }
    }

    fn next(&self) -> usize {
        self.next.replace_with(|next| (*next + 1) % self.messages.len())
    }
}

struct Call {
    payload: usize,
    due: Instant,
    body: Vec<u8>,
}

/// A connection.
pub struct Client {
    /// Bytes to send next.
    pub unsent: Vec<u8>,
    /// Whether the server takes no more calls.
    pub is_closed: bool,
    payloads: Rc<Payloads>,
    tally: Rc<RefCell<Tally>>,
    /// By stream.
    open: HashMap<u32, Call>,
    /// Waits for the server's window.
    parked: VecDeque<Call>,
    /// The header block of the next call.
    block: Vec<u8>,
    later_block: Vec<u8>,
    next_stream: u32,
    send_window: i64,
    received: u32,
    rest: Vec<u8>,
    decoder: Decoder<'static>,
    /// What blocks say that leave the table as it is, as long as no other block changes it.
    known: HashMap<Vec<u8>, Outcome>,
}

/// What a header block says of its call: nothing yet, or its end.
type Outcome = Option<Result<(), String>>;

impl Client {
    /// `metadata` are names and values besides those of every call.
    pub fn new(
        path: &str,
        authority: &str,
        metadata: &[(&str, &str)],
        payloads: Rc<Payloads>,
        tally: Rc<RefCell<Tally>>,
    ) -> Self {
        let mut unsent = PREFACE.to_vec();
        // ENABLE_PUSH 0, INITIAL_WINDOW_SIZE
        let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
        settings.extend(LARGEST_WINDOW.to_be_bytes());
        put_frame(&mut unsent, SETTINGS, 0, 0, &settings);
        put_frame(&mut unsent, WINDOW_UPDATE, 0, 0, &(LARGEST_WINDOW - DEFAULT_WINDOW as u32).to_be_bytes());
        Client {
            unsent,
            is_closed: false,
            payloads,
            tally,
            open: HashMap::new(),
            parked: VecDeque::new(),
            block: first_block(path, authority, metadata),
            // The same fields: two of HPACK's own table, and those that the first block added, the last of which is 62.
            later_block: [0x83, 0x86].into_iter().chain((0xbe..0xbe + ADDED + metadata.len() as u8).rev()).collect(),
            next_stream: 1,
            send_window: DEFAULT_WINDOW,
            received: 0,
            rest: Vec::new(),
            decoder: Decoder::new(),
            known: HashMap::new(),
        }
    }

    /// Calls in flight.
    pub fn active(&self) -> usize {
        self.open.len() + self.parked.len()
    }

    /// Starts a call, which counts from a moment on.
    pub fn call(&mut self, due: Instant) {
        let call = Call { payload: self.payloads.next(), due, body: Vec::new() };
        self.send(call);
    }

    fn send(&mut self, call: Call) {
        let payloads = self.payloads.clone();
        let message = &payloads.messages[call.payload];
        if message.len() as i64 > self.send_window {
            return self.parked.push_back(call);
        }
        self.send_window -= message.len() as i64;
        put_frame(&mut self.unsent, HEADERS, END_HEADERS, self.next_stream, &self.block);
        put_frame(&mut self.unsent, DATA, END_STREAM, self.next_stream, message);
        self.block.clone_from(&self.later_block);
        self.open.insert(self.next_stream, call);
        self.next_stream += 2;
    }

    /// Counts every call in flight as failed.
    pub fn lost(&mut self, reason: &str) {
        self.tally.borrow_mut().fail(reason, self.active().max(1));
        self.open.clear();
        self.parked.clear();
        self.is_closed = true;
    }

    /// Takes what arrived; Err when it is not understood.
    pub fn feed(&mut self, data: &[u8]) -> Result<(), String> {
        let joined = [std::mem::take(&mut self.rest).as_slice(), data].concat();
        let mut rest = joined.as_slice();
        while let Some((head, behind)) = rest.split_at_checked(HEAD) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some((payload, behind)) = behind.split_at_checked(length) else { break };
            self.take(head[3], head[4], word(&head[5..]), payload)?;
            rest = behind;
        }
        self.rest = rest.to_vec();
        Ok(())
    }

    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), String> {
        match kind {
            HEADERS if flags & PADDED_OR_PRIORITY == 0 && flags & END_HEADERS != 0 => self.headers(flags, stream, payload)?,
            DATA if flags & (PADDED_OR_PRIORITY | END_STREAM) == 0 => self.data(stream, payload),
            HEADERS | DATA | CONTINUATION => return Err("padded, prioritized, continued or last data is not understood".into()),
            SETTINGS if flags & ACK == 0 => put_frame(&mut self.unsent, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => put_frame(&mut self.unsent, PING, ACK, 0, payload),
            WINDOW_UPDATE if stream == 0 => {
                self.send_window += i64::from(word(payload));
                for call in std::mem::take(&mut self.parked) {
                    self.send(call);
                }
            }
            RST_STREAM if self.open.remove(&stream).is_some() => {
                self.tally.borrow_mut().fail(&format!("stream reset, code {}", word(payload)), 1);
            }
            GOAWAY => self.lost("refused by GOAWAY"),
            _ => {}
        }
        Ok(())
    }

    fn headers(&mut self, flags: u8, stream: u32, block: &[u8]) -> Result<(), String> {
        let outcome = match self.known.get(block) {
            Some(outcome) => outcome.clone(),
            None => self.read(block)?,
        };
        if flags & END_STREAM == 0 {
            return Ok(());
        }
        let Some(call) = self.open.remove(&stream) else { return Ok(()) };
        let tally = &mut *self.tally.borrow_mut();
        match outcome.unwrap_or(Err("no grpc-status".into())) {
            Ok(()) if wire::message(&call.body).is_none() => tally.fail("grpc-status 0, but not one whole message", 1),
            Ok(()) => {
                if tally.latencies.len().is_multiple_of(tally.sample_every) {
                    tally.samples.push((call.payload, call.body[wire::FRAME..].to_vec()));
                }
                tally.latencies.push(call.due.elapsed().as_nanos() as u64);
                tally.bytes += call.body.len() - wire::FRAME;
            }
            Err(reason) => {
                tally.refusals.push(call.due.elapsed().as_nanos() as u64);
                tally.fail(&reason, 1);
            }
        }
        Ok(())
    }

    fn read(&mut self, block: &[u8]) -> Result<Outcome, String> {
        let fields = self.decoder.decode(block).map_err(|error| format!("the server's headers cannot be read: {error:?}"))?;
        let value = |wanted: &[u8]| {
            let found = fields.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        };
        let outcome = match (value(b":status").as_deref(), value(b"grpc-status").as_deref()) {
            (Some("200") | None, Some("0")) => Some(Ok(())),
            (Some("200") | None, None) => None,
            (Some("200") | None, Some(status)) => {
                Some(Err(format!("grpc-status {status}: {}", value(b"grpc-message").unwrap_or_default())))
            }
            (Some(status), _) => Some(Err(format!("HTTP status {status}"))),
        };
        if authority::is_neutral(block) {
            self.known.insert(block.to_vec(), outcome.clone());
        } else {
            self.known.clear();
        }
        Ok(outcome)
    }

    fn data(&mut self, stream: u32, payload: &[u8]) {
        self.received += payload.len() as u32;
        if self.received > LARGEST_WINDOW / 2 {
            put_frame(&mut self.unsent, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
            self.received = 0;
        }
        if let Some(call) = self.open.get_mut(&stream) {
            call.body.extend_from_slice(payload);
        }
    }
}

/// Fields of every call that are added to HPACK's table.
const ADDED: u8 = 5;

/// The fields of every call: those that HPACK's own table has, then those that are added to the table, `metadata` last.
fn first_block(path: &str, authority: &str, metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    for (name, value) in [(0x44, path), (0x41, authority)] {
        block.push(name);
        put_text(&mut block, value);
    }
    block.push(0x40);
    put_text(&mut block, "te");
    put_text(&mut block, "trailers");
    for (name, value) in [(0x5f, "application/grpc"), (0x7a, "bench-load")] {
        block.push(name);
        put_text(&mut block, value);
    }
    for (name, value) in metadata {
        block.push(0x40);
        put_text(&mut block, name);
        put_text(&mut block, value);
    }
    block
}

fn put_text(block: &mut Vec<u8>, text: &str) {
    assert!(text.len() < 0x7f, "a length of one byte");
    block.push(text.len() as u8);
    block.extend_from_slice(text.as_bytes());
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes) & LARGEST_WINDOW)
}
