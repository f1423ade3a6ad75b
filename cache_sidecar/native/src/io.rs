//! A stream over TCP and Unix sockets that buffers writes.
//!
//! h2 writes whenever it is polled. This stream reports no support for vectored writes, so h2 copies small frames together; and it
//! buffers them until h2 flushes, so that one write(2) has the replies to all calls of one wake-up.

use crate::authority::Repair;
use crate::early::{Boundary, Early};
use crate::limits::TURN;
use crate::pace::Pace;
use crate::peer::Peer;
use crate::room::Room;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes buffered before they are written without a flush.
const GATHERED: usize = 64 << 10;
/// Buffer capacity kept for an idle connection.
const IDLE: usize = 4 << 10;
const READ: usize = 16 << 10;

pub struct Gathering<S> {
    socket: S,
    written: Vec<u8>,
    flushed: usize,
    /// Bytes read since the socket was last empty.
    read: usize,
    pace: Option<Pace>,
    inbound: Option<Inbound>,
}

/// Processing of bytes from a client, see `early.rs` and `authority.rs`.
struct Inbound {
    early: Arc<Mutex<Early>>,
    is_resting: Arc<AtomicBool>,
    room: Arc<Room>,
    /// Bytes buffered here, and by h2 of header blocks that have not ended.
    buffered: Arc<AtomicUsize>,
    /// Where in the output the refusals waiting in `early` may be inserted.
    boundary: Boundary,
    has_refusals: bool,
    repair: Repair,
    repaired: Vec<u8>,
    taken: usize,
    /// Bytes read but not counted yet.
    read: usize,
}

thread_local! {
    /// The buffer for bytes before they are repaired: one for all connections, which may be many, and idle.
    static RAW: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathering<S> {
    /// For the trusted private server.
    pub fn new(socket: S) -> Self {
        Gathering { socket, written: Vec::new(), flushed: 0, read: 0, pace: None, inbound: None }
    }

    /// For a client, see `pace.rs` and `authority.rs`.
    pub fn of_client(socket: S, peer: &Peer) -> Self {
        let inbound = Inbound {
            early: peer.early.clone(),
            is_resting: peer.is_resting.clone(),
            room: peer.room.clone(),
            buffered: peer.buffered.clone(),
            boundary: Boundary::default(),
            has_refusals: false,
            repair: Repair::default(),
            repaired: Vec::new(),
            taken: 0,
            read: 0,
        };
        Gathering { pace: Some(Pace::default()), inbound: Some(inbound), ..Gathering::new(socket) }
    }

    /// Records bytes written by h2, and inserts refusals after a complete frame.
    fn wrote(&mut self, bytes: &[u8]) {
        if let Some(inbound) = &mut self.inbound {
            inbound.boundary.pass(bytes);
            inbound.put_refusals(&mut self.written);
        }
    }

    fn count(&self) {
        if let (Some(inbound), Some(pace)) = (&self.inbound, &self.pace) {
            inbound.buffered.store(self.written.len() + inbound.repair.holds() + pace.block(), Relaxed);
        }
    }

    fn write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.flushed < self.written.len() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(context, &self.written[self.flushed..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.flushed += count;
        }
        if self.written.len() < IDLE {
            self.written.shrink_to(IDLE); // a connection that was busy once frees the memory
        }
        self.flushed = 0;
        self.written.clear();
        Poll::Ready(Ok(()))
    }
}

impl Inbound {
    fn put_refusals(&mut self, written: &mut Vec<u8>) {
        if self.has_refusals && self.boundary.is_here() {
            written.append(&mut self.early.lock().out);
            self.has_refusals = false;
        }
    }

    fn read<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.taken == self.repaired.len() {
            self.repaired.clear();
            self.repaired.shrink_to(IDLE);
            self.taken = 0;
            if self.read >= TURN {
                context.waker().wake_by_ref(); // let other connections proceed: all of it was refused
                return Poll::Pending;
            }
            let count = RAW.with_borrow_mut(|raw| {
                let mut buffer = ReadBuf::new(raw);
                ready!(Pin::new(&mut *socket).poll_read(context, &mut buffer))?;
                let mut early = self.early.lock();
                early.feed(buffer.filled(), |bytes| self.repair.feed(bytes, &mut self.repaired));
                self.has_refusals = !early.out.is_empty();
                Poll::Ready(io::Result::Ok(buffer.filled().len()))
            });
            match ready!(count)? {
                0 => return Poll::Ready(Ok(())),
                count => self.read += count,
            }
        }
        let count = into.remaining().min(self.repaired.len() - self.taken);
        into.put_slice(&self.repaired[self.taken..self.taken + count]);
        self.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.inbound.as_ref().is_some_and(|inbound| inbound.is_resting.load(Relaxed)) {
            return Poll::Pending; // `Rests` wakes it
        }
        if self.inbound.as_ref().is_some_and(|inbound| inbound.room.is_full()) {
            context.waker().wake_by_ref(); // those that are to end get their turn first, and free what they took
            return Poll::Pending;
        }
        if self.written.len() >= GATHERED {
            ready!(self.write_out(context))?;
        }
        let Gathering { socket, written, read, pace, inbound, .. } = &mut *self;
        if *read >= TURN {
            *read = 0;
            context.waker().wake_by_ref(); // let other connections proceed
            return Poll::Pending;
        }
        let before = into.filled().len();
        let (got, count) = match inbound {
            Some(inbound) => {
                let got = inbound.read(socket, context, into);
                inbound.put_refusals(written);
                (got, std::mem::take(&mut inbound.read))
            }
            None => (Pin::new(socket).poll_read(context, into), into.filled().len() - before),
        };
        let bytes = &into.filled()[before..];
        *read = if got.is_pending() { 0 } else { *read + count };
        if let Some(pace) = pace {
            pace.feed(bytes)?;
        }
        self.count();
        got
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let is_large = bytes.len() >= GATHERED / 2;
        if is_large || self.written.len() + bytes.len() > GATHERED {
            ready!(self.write_out(context))?;
        }
        if is_large {
            let count = ready!(Pin::new(&mut self.socket).poll_write(context, bytes))?;
            self.wrote(&bytes[..count]);
            return Poll::Ready(Ok(count));
        }
        self.written.extend_from_slice(bytes);
        self.wrote(bytes);
        self.count();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(context))?;
        self.count();
        Pin::new(&mut self.socket).poll_flush(context) // TLS may still buffer some of it
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(context))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        false
    }
}
