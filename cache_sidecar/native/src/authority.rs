//! Repairs what clients of a unix socket send as `:authority`.
//!
//! gRPC's C-core (Python, C++, Ruby, PHP) and grpc-java send the socket's path there, which is no authority, and h2 resets
//! such a call with PROTOCOL_ERROR (hyperium/h2#487). So the bytes of those clients are read along, frame by frame, and in
//! a literal for `:authority` a `-` is put in the place of each offending byte. The length stays, so do framing and the
//! state of HPACK; nothing else is changed, and what cannot be read is left for h2 to refuse.

/// Length of the client's connection preface.
pub const PREFACE: usize = 24;
/// Length of a frame's header.
pub const HEADER: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// The largest frame that h2 is told to take, see `limits.rs`; it refuses larger ones itself.
const MAX_FRAME: usize = 16 << 10;

pub struct Repair {
    /// Bytes still to be passed on unseen.
    pass: usize,
    /// The frame header being read, or the HEADERS frame being gathered.
    held: Vec<u8>,
}

impl Default for Repair {
    fn default() -> Self {
        Repair { pass: PREFACE, held: Vec::new() }
    }
}

impl Repair {
    /// Takes bytes as they come, and appends what may go on to h2: HEADERS frames only once they are whole.
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

/// Repairs a whole HEADERS frame, as far as it can be read.
fn repair(frame: &mut [u8]) -> Option<()> {
    let flags = frame[4];
    let mut at = HEADER;
    let mut end = frame.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(at)?))?;
        at += 1;
    }
    if flags & PRIORITY != 0 {
        at += 5;
    }
    while at < end {
        let first = frame[at];
        if first & 0x80 != 0 {
            integer(frame, &mut at, 7)?; // indexed: both name and value are known
        } else if first & 0xe0 == 0x20 {
            integer(frame, &mut at, 5)?; // a new size of the table
        } else {
            let name = integer(frame, &mut at, if first & 0x40 != 0 { 6 } else { 4 })?;
            let is_authority = match name {
                0 => string(frame, &mut at)?.is_some_and(|name| &frame[name] == b":authority"),
                1 => true, // :authority in the static table
                _ => false,
            };
            let value = string(frame, &mut at)?;
            if let (true, Some(value)) = (is_authority, value) {
                frame[value].iter_mut().filter(|byte| !is_fit(**byte)).for_each(|byte| *byte = b'-');
            }
        }
    }
    Some(())
}

/// Whether h2 takes a byte in an authority.
pub fn is_fit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte)
}

/// Reads an integer of HPACK with a prefix of so many bits.
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

/// Passes a string of HPACK, and returns where its bytes are; Some(None) when they are Huffman coded, which those clients
/// don't do.
fn string(frame: &[u8], at: &mut usize) -> Option<Option<std::ops::Range<usize>>> {
    let is_coded = frame.get(*at)? & 0x80 != 0;
    let length = integer(frame, at, 7)?;
    let start = *at;
    *at = start.checked_add(length).filter(|end| *end <= frame.len())?;
    Some((!is_coded).then_some(start..*at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Repairs in pieces and in one, which must give the same, of the same length.
    fn check(bytes: &[u8], piece: usize) {
        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        let (mut one, mut many) = (Repair::default(), Repair::default());
        one.feed(bytes, &mut whole);
        bytes.chunks(piece).for_each(|chunk| many.feed(chunk, &mut pieces));
        assert_eq!(whole, pieces);
        assert_eq!(whole.len() + one.holds(), bytes.len());
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
