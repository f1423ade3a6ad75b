//! Counts a client's control frames, and ends the connection of one that sends too many: a flood of PING, SETTINGS, PRIORITY,
//! RST_STREAM or unknown frames costs the client nothing, while h2 answers each. So do messages in DATA frames of a few bytes.

use crate::authority::{HEADER, PREFACE, length};
use crate::limits::{MAX_CONTROL, MAX_SMALL, MAX_STREAMS, SMALL_FRAME, SMALL_OF_CALL};
use std::io;
use std::time::{Duration, Instant};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// WINDOW_UPDATE follows from what we send; h2 ends connections whose windows overflow.
const WINDOW_UPDATE: u8 = 8;
/// h2 limits CONTINUATION itself.
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub struct Pace {
    /// Bytes of the preface or of a frame still to arrive.
    pass: usize,
    head: [u8; HEADER],
    held: usize,
    since: Instant,
    count: u32,
    /// Small DATA frames since `since`, and how many more calls begun lately may have.
    small: u32,
    small_left: u32,
    /// Bytes of a header block that has not ended.
    block: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { pass: PREFACE, head: [0; HEADER], held: 0, since: Instant::now(), count: 0, small: 0, small_left: 0, block: 0 }
    }
}

impl Pace {
    /// Processes bytes as they arrive. Err when there were too many control frames within a second.
    pub fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let passed = self.pass.min(bytes.len());
            self.pass -= passed;
            bytes = &bytes[passed..];
            let taken = (HEADER - self.held).min(bytes.len());
            self.head[self.held..self.held + taken].copy_from_slice(&bytes[..taken]);
            self.held += taken;
            bytes = &bytes[taken..];
            if self.held == HEADER {
                self.held = 0;
                self.pass = length(&self.head);
                self.take()?;
            }
        }
        Ok(())
    }

    /// Returns how many there were since counting began.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of a header block that has not ended: h2 has them until it does.
    pub fn block(&self) -> usize {
        self.block
    }

    fn take(&mut self) -> io::Result<()> {
        let [kind, flags] = [self.head[3], self.head[4]];
        match kind {
            HEADERS | CONTINUATION => {
                self.block = if flags & END_HEADERS == 0 { self.block + self.pass } else { 0 };
                self.small_left = (self.small_left + SMALL_OF_CALL).min(SMALL_OF_CALL * MAX_STREAMS);
            }
            DATA if flags & END_STREAM == 0 && self.pass < SMALL_FRAME => {
                if self.small_left > 0 {
                    self.small_left -= 1;
                } else {
                    self.small += 1;
                }
            }
            DATA | WINDOW_UPDATE => {}
            _ => self.count += 1,
        }
        if self.count <= MAX_CONTROL && self.small <= MAX_SMALL {
            return Ok(());
        }
        if self.since.elapsed() < Duration::from_secs(1) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many control or small frames"));
        }
        (self.since, self.count, self.small) = (Instant::now(), 0, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;

    fn frames(kind: u8, payload: usize, count: u32) -> Vec<u8> {
        let frame = [&[0, 0, payload as u8, kind, 0, 0, 0, 0, 0][..], &vec![7; payload]].concat();
        frame.repeat(count as usize)
    }

    fn fed(bytes: &[u8], piece: usize) -> io::Result<()> {
        let mut pace = Pace::default();
        pace.feed(&[b'P'; PREFACE])?;
        bytes.chunks(piece).try_for_each(|piece| pace.feed(piece))
    }

    #[test]
    fn a_flood_ends_the_connection() {
        for piece in [1, 5, 9, 17, 1000, 1 << 20] {
            assert!(fed(&frames(PING, 8, MAX_CONTROL), piece).is_ok(), "{piece}");
            assert!(fed(&frames(PING, 8, MAX_CONTROL + 1), piece).is_err(), "{piece}");
        }
        for kind in [2, 3, 4, 7, 99] {
            assert!(fed(&frames(kind, 0, MAX_CONTROL + 1), 1000).is_err(), "{kind}");
        }
    }

    #[test]
    fn calls_may_come_as_fast_as_they_can() {
        for kind in [HEADERS, WINDOW_UPDATE] {
            assert!(fed(&frames(kind, 4, 3 * MAX_CONTROL), 1000).is_ok(), "{kind}");
        }
    }

    #[test]
    fn messages_in_small_pieces_end_the_connection() {
        let small = frames(DATA, 1, MAX_SMALL);
        assert!(fed(&small, 1000).is_ok());
        assert!(fed(&[&small[..], &frames(DATA, 1, 1)].concat(), 1000).is_err());
        let call = [frames(HEADERS, 4, 1), frames(DATA, 1, SMALL_OF_CALL)].concat();
        assert!(fed(&call.repeat(MAX_SMALL as usize), 1000).is_ok(), "each call may have some");
        let mut last = frames(DATA, 1, 2 * MAX_SMALL);
        last.chunks_mut(HEADER + 1).for_each(|frame| frame[4] = END_STREAM);
        assert!(fed(&last, 1000).is_ok(), "and its last one");
        assert!(fed(&frames(DATA, 255, 2 * MAX_SMALL), 1000).is_err());
        assert!(fed(&[[0, 1, 0, DATA, 0, 0, 0, 0, 0].as_slice(), &[0; 256]].concat().repeat(5000), 1000).is_ok());
    }

    #[test]
    fn a_header_block_counts_until_it_ends() {
        let mut pace = Pace { pass: 0, ..Pace::default() };
        let mut begun = frames(HEADERS, 100, 1);
        pace.feed(&begun).unwrap();
        pace.feed(&frames(CONTINUATION, 50, 1)).unwrap();
        assert_eq!(pace.block(), 150);
        begun[3..5].copy_from_slice(&[CONTINUATION, END_HEADERS]);
        pace.feed(&begun).unwrap();
        assert_eq!(pace.block(), 0);
    }

    #[test]
    fn a_second_later_it_may_go_on() {
        let mut pace = Pace { pass: 0, ..Pace::default() };
        pace.feed(&frames(PING, 8, MAX_CONTROL)).unwrap();
        pace.since -= Duration::from_secs(1);
        pace.feed(&frames(PING, 8, MAX_CONTROL)).unwrap();
        assert!(pace.feed(&frames(PING, 8, 1)).is_ok(), "the one that began the second is not counted in it");
        assert!(pace.feed(&frames(PING, 8, 1)).is_err());
    }
}
