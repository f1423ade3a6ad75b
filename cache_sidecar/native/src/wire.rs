//! The parts of protobuf and gRPC framing that a hit needs.

use crate::status::{INTERNAL, UNIMPLEMENTED};

/// Bytes of the header of a gRPC message: the compression flag, and the length.
pub const FRAME: usize = 5;
/// The tag of a length-delimited field.
const LENGTH: u64 = 2;

/// Returns the message of a request's body; None if it is compressed, incomplete, or not the only one.
pub fn message(body: &[u8]) -> Option<&[u8]> {
    let message = &body[FRAME.min(body.len())..];
    (announced(body)? == message.len() && body[0] == 0).then_some(message)
}

/// Why a complete body is invalid.
#[derive(Debug, PartialEq)]
pub enum Fault {
    NoMessage,
    CutShort,
    MoreThanOne,
}

impl Fault {
    /// Returns its status, by gRPC's documentation of status codes and, for `CutShort`, as gRPC servers answer.
    pub fn status(&self) -> (u32, &'static str) {
        match self {
            Fault::NoMessage => (UNIMPLEMENTED, "the method takes one message, and none came"),
            Fault::CutShort => (INTERNAL, "the request ended within a message"),
            Fault::MoreThanOne => (UNIMPLEMENTED, "the method takes one message, and more came"),
        }
    }
}

/// Returns why a complete body is not exactly one message, compressed or not.
pub fn fault(body: &[u8]) -> Option<Fault> {
    let came = body.len().checked_sub(FRAME);
    match (announced(body), came) {
        _ if body.is_empty() => Some(Fault::NoMessage),
        (Some(length), Some(came)) if came == length => None,
        (Some(length), Some(came)) if came > length => Some(Fault::MoreThanOne),
        _ => Some(Fault::CutShort),
    }
}

/// Returns the announced length of a body's first message; None if it has not arrived.
pub fn announced(body: &[u8]) -> Option<usize> {
    let head = body.first_chunk::<FRAME>()?;
    Some(u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize)
}

/// Writes the length of the message that begins at `start` into the frame header reserved before it.
pub fn close_frame(out: &mut [u8], start: usize) {
    let length = (out.len() - start) as u32;
    out[start - 4..start].copy_from_slice(&length.to_be_bytes());
}

/// Iterates over the fields of a message.
pub struct Fields<'a> {
    rest: &'a [u8],
}

#[derive(Debug, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Fields { rest: message }
    }

    /// Returns the number and value of the next field; Ok(None) at the end, Err for anything this does not parse.
    pub fn read(&mut self) -> Result<Option<(u32, Value<'a>)>, Unread> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Unread)?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            LENGTH => {
                let length = usize::try_from(self.varint()?).map_err(|_| Unread)?;
                let (value, rest) = self.rest.split_at_checked(length).ok_or(Unread)?;
                self.rest = rest;
                Value::Bytes(value)
            }
            _ => return Err(Unread),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64, Unread> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Unread)?;
            self.rest = rest;
            if shift == 63 && *byte > 1 {
                return Err(Unread);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Unread)
    }
}

/// Bytes that this does not parse; Python decides about them.
#[derive(Debug, PartialEq)]
pub struct Unread;

/// Parses a google.protobuf.Duration in its valid range, in seconds; negative ones are left to Python, which refuses them.
pub fn duration(message: &[u8]) -> Result<f64, Unread> {
    let mut fields = Fields::new(message);
    let (mut seconds, mut nanos) = (0, 0);
    while let Some((number, value)) = fields.read()? {
        match (number, value) {
            (1, Value::Varint(value)) => seconds = value,
            (2, Value::Varint(value)) => nanos = value,
            _ => return Err(Unread),
        }
    }
    if seconds > MAX_SECONDS || nanos >= 1_000_000_000 || (seconds == MAX_SECONDS && nanos > 0) {
        return Err(Unread);
    }
    Ok(seconds as f64 + nanos as f64 / 1e9)
}

/// The maximum of `max_age`, see `cache.proto`: 30 days.
const MAX_SECONDS: u64 = 2_592_000;

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_length(out: &mut Vec<u8>, field: u32, length: usize) {
    put_varint(out, u64::from(field) << 3 | LENGTH);
    put_varint(out, length as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Unread> {
        let mut fields = Fields::new(message);
        let mut found = Vec::new();
        while let Some(field) = fields.read()? {
            found.push(field);
        }
        Ok(found)
    }

    #[test]
    fn reads_fields() {
        assert_eq!(read(b""), Ok(vec![]));
        let found = read(b"\x0a\x02ab\x10\xac\x02\x0a\x00");
        assert_eq!(found, Ok(vec![(1, Value::Bytes(b"ab")), (2, Value::Varint(300)), (1, Value::Bytes(b""))]));
        let largest = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(read(largest), Ok(vec![(1, Value::Varint(u64::MAX))]));
    }

    #[test]
    fn leaves_what_it_does_not_read() {
        let cases: [&[u8]; 9] = [
            b"\x80",
            b"\x0a",
            b"\x0a\x80",
            b"\x0a\x05ab",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x7b\x7c",
            b"\x09\0\0\0\0\0\0\0\0",
        ];
        for case in cases {
            assert_eq!(read(case), Err(Unread), "{case:?}");
        }
    }

    #[test]
    fn reads_durations_in_range() {
        assert_eq!(duration(b""), Ok(0.0));
        assert_eq!(duration(b"\x08\x02\x10\x80\xca\xb5\xee\x01"), Ok(2.5));
        assert_eq!(duration(b"\x08\x80\x9a\x9e\x01"), Ok(2_592_000.0));
        assert_eq!(duration(b"\x08\x81\x9a\x9e\x01"), Err(Unread));
        assert_eq!(duration(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), Err(Unread));
        assert_eq!(duration(b"\x10\x80\x94\xeb\xdc\x03"), Err(Unread));
    }

    #[test]
    fn takes_one_whole_message() {
        assert_eq!(message(b"\0\0\0\0\x02ab"), Some(&b"ab"[..]));
        assert_eq!(message(b"\0\0\0\0\0"), Some(&b""[..]));
        for body in [&b""[..], b"\0\0\0", b"\x01\0\0\0\x02ab", b"\0\0\0\0\x01ab", b"\0\0\0\0\x03ab"] {
            assert_eq!(message(body), None, "{body:?}");
        }
    }

    #[test]
    fn says_what_keeps_a_body_from_being_one_message() {
        for body in [&b"\0\0\0\0\x02ab"[..], b"\x01\0\0\0\x02ab", b"\0\0\0\0\0"] {
            assert_eq!(fault(body), None, "{body:?}");
        }
        assert_eq!(fault(b""), Some(Fault::NoMessage));
        for body in [&b"\0"[..], b"\0\0\0\0", b"\0\0\0\0\x01", b"\0\xff\xff\xff\xffab"] {
            assert_eq!(fault(body), Some(Fault::CutShort), "{body:?}");
        }
        for body in [&b"\0\0\0\0\0\0"[..], b"\0\0\0\0\x01ab", b"\0\0\0\0\x01a\0\0\0\0\x01a"] {
            assert_eq!(fault(body), Some(Fault::MoreThanOne), "{body:?}");
        }
    }
}
