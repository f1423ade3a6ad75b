//! Bytes on their way through h2: of a reply, counted until they are in the socket's buffer, or of a request to grpc.aio.

use crate::peer::Peer;
use crate::room::{Held, Kind};
use bytes::{Buf, Bytes};
use std::sync::Arc;

pub struct Piece {
    bytes: Bytes,
    held: Option<Held>,
}

impl Piece {
    /// Of a reply. h2 drops it when it has written all of it.
    pub fn of_reply(bytes: Bytes, peer: &Arc<Peer>) -> Self {
        let held = Held::new(peer, Kind::Owed, bytes.len());
        Piece { bytes, held: Some(held) }
    }

    /// Of a request, whose caller is charged for it elsewhere.
    pub fn of_request(bytes: Bytes) -> Self {
        Piece { bytes, held: None }
    }

    pub fn empty() -> Self {
        Piece::of_request(Bytes::new())
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes bytes from the beginning.
    pub fn split_to(&mut self, count: usize) -> Self {
        let bytes = self.bytes.split_to(count);
        let Some(held) = &mut self.held else { return Piece::of_request(bytes) };
        let piece = Piece::of_reply(bytes, held.peer());
        held.set(self.bytes.len());
        piece
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
