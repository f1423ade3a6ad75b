//! One stream for TCP and unix sockets, that gathers what is written.
//!
//! h2 writes whenever it is polled. It is told that vectored writes are not to be had, so it copies small frames together,
//! and what it writes is held back until it flushes: one write(2) then carries the replies to all that one wake-up brought.

use crate::authority::Repair;
use crate::early::{Boundary, Early};
use crate::limits::TURN;
use crate::pace::Pace;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before they are written without being asked.
const GATHERED: usize = 64 << 10;
/// Bytes kept for a connection that writes little.
const IDLE: usize = 4 << 10;
const READ: usize = 16 << 10;

pub struct Gathering<S> {
    socket: S,
    written: Vec<u8>,
    flushed: usize,
    /// Bytes read since there was nothing to read.
    read: usize,
    pace: Option<Pace>,
    inbound: Option<Inbound>,
}

/// What came from a client, see `early.rs` and `authority.rs`.
struct Inbound {
    early: Arc<Mutex<Early>>,
    is_resting: Arc<AtomicBool>,
    /// Where the refusals may go that wait in `early`, if any do.
    boundary: Boundary,
    has_refusals: bool,
    repair: Repair,
    repaired: Vec<u8>,
    taken: usize,
    /// Bytes read and not counted yet.
    read: usize,
}

thread_local! {
    /// Where bytes are read before they are repaired: one for all connections, which may be many, and idle.
    static RAW: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathering<S> {
    /// For a server that is trusted.
    pub fn new(socket: S) -> Self {
        Gathering { socket, written: Vec::new(), flushed: 0, read: 0, pace: None, inbound: None }
    }

    /// For a client, see `pace.rs` and `authority.rs`.
    pub fn of_client(socket: S, early: Arc<Mutex<Early>>, is_resting: Arc<AtomicBool>) -> Self {
        let inbound = Inbound {
            early,
            is_resting,
            boundary: Boundary::default(),
            has_refusals: false,
            repair: Repair::default(),
            repaired: Vec::new(),
            taken: 0,
            read: 0,
        };
        Gathering { pace: Some(Pace::default()), inbound: Some(inbound), ..Gathering::new(socket) }
    }

    /// Takes that h2 wrote some bytes, and puts refusals behind them where a frame has ended.
    fn wrote(&mut self, bytes: &[u8]) {
        if let Some(inbound) = &mut self.inbound {
            inbound.boundary.pass(bytes);
            inbound.put_refusals(&mut self.written);
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
            self.written.shrink_to(IDLE); // a connection that was busy once does not keep the memory
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
                context.waker().wake_by_ref(); // others first: all of it was refused
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
        if self.written.len() >= GATHERED {
            ready!(self.write_out(context))?;
        }
        let Gathering { socket, written, read, pace, inbound, .. } = &mut *self;
        if *read >= TURN {
            *read = 0;
            context.waker().wake_by_ref(); // others first
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
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(context))?;
        Pin::new(&mut self.socket).poll_flush(context) // TLS may still hold some of it
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(context))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        false
    }
}
