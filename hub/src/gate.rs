//! What is read from a connection before anybody has authenticated on it: enough for a token, no more.
//!
//! The library that reads frames knows one limit for the whole life of a socket, and gathers as much as that before it
//! hands a frame over. So the bytes are counted below it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// How many more bytes may be read from a connection. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate(Arc<AtomicUsize>);

/// As many as come.
const OPEN: usize = usize::MAX;

/// A connection behind its gate.
pub(crate) struct Gated {
    tcp: TcpStream,
    gate: Gate,
}

impl Gate {
    /// Puts an open one before a connection.
    pub(crate) fn before(tcp: TcpStream) -> (Self, Gated) {
        let gate = Self(Arc::new(AtomicUsize::new(OPEN)));
        (gate.clone(), Gated { tcp, gate })
    }

    /// Lets so many more bytes pass. Reading on is the error that [`is_shut`] knows.
    pub(crate) fn narrow(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Lets everything pass.
    pub(crate) fn open(&self) {
        self.0.store(OPEN, Ordering::Relaxed);
    }
}

/// Whether that is why nothing more was read.
pub(crate) fn is_shut(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::FileTooLarge
}

impl AsyncRead for Gated {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.gate.0.load(Ordering::Relaxed);
        if left == OPEN {
            return Pin::new(&mut this.tcp).poll_read(cx, buffer);
        }
        if left == 0 {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        let room = buffer.initialize_unfilled_to(left.min(buffer.remaining()));
        let mut part = ReadBuf::new(room);
        ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        // Opened from elsewhere only when nothing is being read.
        this.gate.narrow(left - read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gated {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
