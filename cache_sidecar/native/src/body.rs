//! What has arrived of a request's body.

use crate::wire;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use std::task::{Context, Poll};

/// The first part as it came, without a copy; with more, all of them in one piece.
#[derive(Default)]
pub struct Begun {
    first: Bytes,
    all: BytesMut,
}

impl From<Bytes> for Begun {
    fn from(first: Bytes) -> Self {
        Begun { first, all: BytesMut::new() }
    }
}

impl Begun {
    pub fn as_slice(&self) -> &[u8] {
        if self.all.is_empty() { &self.first } else { &self.all }
    }

    pub fn push(&mut self, part: Bytes) {
        if self.as_slice().is_empty() {
            self.first = part;
        } else {
            self.own();
            self.all.extend_from_slice(&part);
        }
    }

    /// Copies the part that came: a byte of it keeps the buffer of 16 KiB that it was read into.
    pub fn own(&mut self) {
        if self.all.is_empty() {
            self.all = BytesMut::from(self.first.as_ref());
            self.first = Bytes::new();
        }
    }

    /// Bytes that this takes.
    pub fn size(&self) -> usize {
        self.first.len() + self.all.capacity()
    }

    pub fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

#[derive(Debug, PartialEq)]
pub enum Gathered {
    /// The caller has ended its side.
    Whole,
    /// The first message is complete, or more than that.
    Message,
    Part,
    /// The announced length of the message, which exceeds the maximum.
    TooLarge(usize),
    /// Trailers, which no gRPC client sends.
    Odd,
    /// The caller has reset the call.
    Gone,
}

/// Reads what has arrived. The window is not given back here.
pub fn gather(body: &mut RecvStream, begun: &mut Begun, max_message: usize, context: &mut Context<'_>) -> Gathered {
    loop {
        if let Some(length) = wire::announced(begun.as_slice()).filter(|length| *length > max_message) {
            return Gathered::TooLarge(length);
        }
        if body.is_end_stream() {
            return Gathered::Whole;
        }
        match body.poll_data(context) {
            Poll::Ready(Some(Ok(part))) => begun.push(part),
            Poll::Ready(Some(Err(_))) => return Gathered::Gone,
            Poll::Ready(None) if body.is_end_stream() => return Gathered::Whole,
            Poll::Ready(None) => return Gathered::Odd,
            Poll::Pending if has_message(begun.as_slice()) => return Gathered::Message,
            Poll::Pending => return Gathered::Part,
        }
    }
}

fn has_message(bytes: &[u8]) -> bool {
    wire::announced(bytes).is_some_and(|length| bytes.len() - wire::FRAME >= length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_is_not_copied_and_more_are_joined() {
        let part = Bytes::from(vec![7; 100]);
        let mut begun = Begun::default();
        begun.push(part.clone());
        assert_eq!(begun.as_slice().as_ptr(), part.as_ptr());
        begun.push(Bytes::from_static(b"8"));
        assert_eq!(begun.as_slice(), [&part[..], b"8"].concat());
        assert_eq!(begun.into_bytes(), [&part[..], b"8"].concat());
    }

    #[test]
    fn a_part_that_is_kept_holds_no_larger_buffer() {
        let part = Bytes::from(vec![7; 16 << 10]).slice(5..6);
        let mut begun = Begun::default();
        begun.push(part);
        begun.own();
        assert!(begun.size() < 100);
        assert_eq!(begun.into_bytes(), [7].as_slice());
    }
}
