//! Reads a client's frames along, and ends the connection of one that sends too many with which no call gets on: a flood of
//! PING, SETTINGS, PRIORITY, RST_STREAM or frames nobody knows costs the client nothing, and h2 answers each.

use crate::authority::{HEADER, PREFACE, length};
use crate::limits::MAX_CONTROL;
use std::io;
use std::time::{Duration, Instant};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// They follow from what we send; h2 ends connections whose windows overflow.
const WINDOW_UPDATE: u8 = 8;
/// h2 counts them.
const CONTINUATION: u8 = 9;

pub struct Pace {
    /// Bytes of the preface, or a frame, still to come.
    pass: usize,
    head: [u8; HEADER],
    held: usize,
    since: Instant,
    count: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { pass: PREFACE, head: [0; HEADER], held: 0, since: Instant::now(), count: 0 }
    }
}

impl Pace {
    /// Takes bytes as they come. Err when they are too many frames of that kind in a second.
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
                self.take(self.head[3])?;
            }
        }
        Ok(())
    }

    /// Returns how many there were of them since it began to count.
    pub fn count(&self) -> u32 {
        self.count
    }

    fn take(&mut self, kind: u8) -> io::Result<()> {
        if matches!(kind, DATA | HEADERS | WINDOW_UPDATE | CONTINUATION) {
            return Ok(());
        }
        self.count += 1;
        if self.count <= MAX_CONTROL {
            return Ok(());
        }
        if self.since.elapsed() < Duration::from_secs(1) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many control frames"));
        }
        (self.since, self.count) = (Instant::now(), 0);
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
        for kind in [DATA, HEADERS, WINDOW_UPDATE] {
            assert!(fed(&frames(kind, 4, 3 * MAX_CONTROL), 1000).is_ok(), "{kind}");
        }
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
