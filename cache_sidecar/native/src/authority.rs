//! Repairs invalid values of `:authority`, which is not used here.
//!
//! gRPC's C-core (Python, C++, Ruby, PHP), grpc-java and grpcurl send the path of a Unix socket there, plain or percent-encoded. That
//! is not a valid authority, and h2 resets such calls with PROTOCOL_ERROR (hyperium/h2#487). So the frames of clients are parsed, and
//! in a literal for `:authority` each invalid byte is replaced by `-`. A Huffman-coded value becomes a plain one, and its frame
//! longer. The decoded length stays the same, so that both ends agree on HPACK's dynamic table. Nothing else is changed, and what
//! cannot be parsed is left to h2 to refuse.

use crate::huffman;
use std::ops::Range;

/// The length of the client's connection preface.
pub const PREFACE: usize = 24;
/// The length of a frame header.
pub const HEADER: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// The maximum frame size of h2, see `limits.rs`; it refuses larger ones itself.
const MAX_FRAME: usize = 16 << 10;

pub struct Repair {
    /// Bytes still to be passed through.
    pass: usize,
    /// The incomplete frame header or HEADERS frame.
    held: Vec<u8>,
}

impl Default for Repair {
    fn default() -> Self {
        Repair { pass: PREFACE, held: Vec::new() }
    }
}

impl Repair {
    /// Processes bytes as they arrive, and appends those for h2: HEADERS frames only when they are complete.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.pass > 0 {
                let (now, rest) = bytes.split_at(self.pass.min(bytes.len()));
                out.extend_from_slice(now);
                self.pass -= now.len();
                bytes = rest;
                continue;
            }
            let wanted = if self.held.len() < HEADER { HEADER } else { HEADER + length(&self.held) };
            let (now, rest) = bytes.split_at((wanted - self.held.len()).min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = rest;
            self.release(out);
        }
    }

    /// Returns how many bytes wait for the rest of their frame.
    pub fn holds(&self) -> usize {
        self.held.len()
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        if self.held.len() < HEADER {
            return;
        }
        let length = length(&self.held);
        let is_watched = self.held[3] == HEADERS && length <= MAX_FRAME;
        if is_watched && self.held.len() < HEADER + length {
            return;
        }
        if is_watched {
            repair(&mut self.held);
        } else {
            self.pass = length;
        }
        out.append(&mut self.held);
    }
}

/// Returns the length of a frame's payload.
pub fn length(frame: &[u8]) -> usize {
    usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2])
}

/// Repairs a complete HEADERS frame, as far as it can be parsed.
fn repair(frame: &mut Vec<u8>) -> Option<()> {
    let flags = frame[4];
    let mut at = HEADER;
    let mut padding = 0;
    if flags & PADDED != 0 {
        padding = usize::from(*frame.get(at)?);
        at += 1;
    }
    if flags & PRIORITY != 0 {
        at += 5;
    }
    while at + padding < frame.len() {
        let first = frame[at];
        if first & 0x80 != 0 {
            integer(frame, &mut at, 7)?; // indexed: both name and value are known
        } else if first & 0xe0 == 0x20 {
            integer(frame, &mut at, 5)?; // a new size of the table
        } else {
            let name = integer(frame, &mut at, if first & 0x40 != 0 { 6 } else { 4 })?;
            let is_authority = match name {
                0 => string(frame, &mut at)?.is(frame, b":authority"),
                1 => true, // :authority in the static table
                _ => false,
            };
            let value = string(frame, &mut at)?;
            if is_authority {
                at = value.repair(frame)?;
            }
        }
    }
    Some(())
}

/// Whether a header block leaves HPACK's dynamic table unchanged. Then the same bytes have the same meaning until another block
/// changes it.
pub fn is_neutral(block: &[u8]) -> bool {
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        let passed = match first {
            0x80.. => integer(block, &mut at, 7).is_some(),
            0x20..0x80 => false, // adds a field to the table, or changes its size
            _ => {
                let name = integer(block, &mut at, 4);
                name.is_some_and(|name| name > 0 || string(block, &mut at).is_some()) && string(block, &mut at).is_some()
            }
        };
        if !passed {
            return false;
        }
    }
    true
}

/// Appends an HPACK string without Huffman coding.
pub fn put_plain(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(plain_length(text.len()));
    out.extend_from_slice(text);
}

/// An HPACK string.
struct Text {
    /// The offset of its length.
    start: usize,
    bytes: Range<usize>,
    is_coded: bool,
}

impl Text {
    fn is(&self, frame: &[u8], wanted: &[u8]) -> bool {
        let bytes = &frame[self.bytes.clone()];
        if self.is_coded { huffman::decode(bytes).is_some_and(|bytes| bytes == wanted) } else { bytes == wanted }
    }

    /// Repairs the string, and returns its new end.
    fn repair(self, frame: &mut Vec<u8>) -> Option<usize> {
        let end = self.bytes.end;
        if !self.is_coded {
            frame[self.bytes.clone()].iter_mut().filter(|byte| !is_fit(**byte)).for_each(|byte| *byte = b'-');
            return Some(end);
        }
        let decoded = huffman::decode(&frame[self.bytes.clone()])?;
        if decoded.iter().all(|byte| is_fit(*byte)) {
            return Some(end);
        }
        let mut plain = plain_length(decoded.len());
        plain.extend(decoded.iter().map(|byte| if is_fit(*byte) { *byte } else { b'-' }));
        let grown = length(frame) + plain.len() - (end - self.start);
        if grown > MAX_FRAME {
            return None;
        }
        let end = self.start + plain.len();
        frame.splice(self.start..self.bytes.end, plain);
        frame[..3].copy_from_slice(&(grown as u32).to_be_bytes()[1..]);
        Some(end)
    }
}

/// Encodes the length of an HPACK string without Huffman coding.
fn plain_length(length: usize) -> Vec<u8> {
    let Some(mut rest) = length.checked_sub(0x7f) else { return vec![length as u8] };
    let mut bytes = vec![0x7f];
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// Whether h2 accepts a byte in an authority.
pub fn is_fit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte)
}

/// Parses an HPACK integer with a prefix of so many bits.
fn integer(frame: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let most = (1usize << bits) - 1;
    let mut value = usize::from(*frame.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in (0..28).step_by(7) {
        let byte = *frame.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Skips an HPACK string.
fn string(frame: &[u8], at: &mut usize) -> Option<Text> {
    let start = *at;
    let is_coded = frame.get(start)? & 0x80 != 0;
    let length = integer(frame, at, 7)?;
    let bytes = *at..at.checked_add(length).filter(|end| *end <= frame.len())?;
    *at = bytes.end;
    Some(Text { start, bytes, is_coded })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Repairs in pieces and in one, which must give the same.
    fn check(bytes: &[u8], piece: usize) {
        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        let (mut one, mut many) = (Repair::default(), Repair::default());
        one.feed(bytes, &mut whole);
        bytes.chunks(piece).for_each(|chunk| many.feed(chunk, &mut pieces));
        assert_eq!((whole, one.holds()), (pieces, many.holds()));
    }

    fn repaired(frames: &[Vec<u8>]) -> Vec<u8> {
        let bytes = [&[b'P'; PREFACE][..], &frames.concat()].concat();
        (1..20).for_each(|piece| check(&bytes, piece));
        let mut out = Vec::new();
        Repair::default().feed(&bytes, &mut out);
        out.split_off(PREFACE)
    }

    #[test]
    fn a_path_becomes_an_authority() {
        for prefix in [&b"\x41"[..], b"\x01", b"\x11", b"\x40\x0a:authority", b"\x00\x0a:authority"] {
            let block = |value: &[u8]| [&b"\x83\x3f\xe1\x1f\x44\x02/a"[..], prefix, b"\x0a", value, b"\x86"].concat();
            let got = repaired(&[frame(HEADERS, 4, &block(b"/tmp/a%2_b")), frame(0, 1, b"\x41\x02/b")]);
            assert_eq!(got, [frame(HEADERS, 4, &block(b"-tmp-a-2-b")), frame(0, 1, b"\x41\x02/b")].concat(), "{prefix:?}");
        }
    }

    #[test]
    fn one_in_huffmans_code_becomes_a_plain_one() {
        let block = |value: &[u8]| [&b"\x83\x41"[..], value, b"\x86"].concat();
        for text in [&b"/run/x"[..], b"%2Ftmp", &[b'/'; 300]] {
            let coded = encoded(text);
            let got = repaired(&[frame(HEADERS, 4, &block(&coded)), frame(0, 1, b"x")]);
            let plain: Vec<u8> = text.iter().map(|byte| if is_fit(*byte) { *byte } else { b'-' }).collect();
            let plain = [plain_length(plain.len()), plain].concat();
            assert_eq!(got, [frame(HEADERS, 4, &block(&plain)), frame(0, 1, b"x")].concat());
        }
        let fine = block(&encoded(b"www.example.com"));
        assert_eq!(repaired(&[frame(HEADERS, 4, &fine)]), frame(HEADERS, 4, &fine));
    }

    /// A string in Huffman's code.
    fn encoded(text: &[u8]) -> Vec<u8> {
        let bytes = huffman::encode(text);
        let mut length = plain_length(bytes.len());
        length[0] |= 0x80;
        [length, bytes].concat()
    }

    #[test]
    fn only_indexed_fields_and_those_that_are_not_added_are_neutral() {
        for block in [&b"\x83\x86\xc2\xff\x07"[..], b"\x04\x02/a", b"\x14\x02/a", b"\x0f\x01\x01a", b"\x00\x01a\x01b", b""] {
            assert!(is_neutral(block), "{block:?}");
        }
        for block in [&b"\x83\x44\x02/a"[..], b"\x40\x01a\x01b", b"\x20\x83", b"\x04\x03/a", b"\x00\x01a", b"\xff"] {
            assert!(!is_neutral(block), "{block:?}");
        }
    }

    #[test]
    fn padding_and_priority_are_skipped() {
        let block = |value: &[u8]| [&b"\x02\0\0\0\0\x10\x41\x02"[..], value, b"\x41\x01"].concat();
        assert_eq!(repaired(&[frame(HEADERS, 0x2c, &block(b"/a"))]), frame(HEADERS, 0x2c, &block(b"-a")));
    }

    #[test]
    fn all_else_passes_as_it_came() {
        for payload in [&b"\x41\x89/////////"[..], b"\x41\x7f\xff\xff\xff\xff\x0f", b"\x41\x05/a", b"\x44\x02/a", b"\x40"] {
            assert_eq!(repaired(&[frame(HEADERS, 4, payload)]), frame(HEADERS, 4, payload));
        }
        let large = frame(HEADERS, 4, &[b"\x41\x02/a", &[0x82; MAX_FRAME][..]].concat());
        assert_eq!(repaired(std::slice::from_ref(&large)), large);
        assert_eq!(repaired(&[frame(9, 4, b"\x41\x02/a")]), frame(9, 4, b"\x41\x02/a"));
    }
}
