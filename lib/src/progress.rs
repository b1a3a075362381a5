//! Where a served connection stands between two requests, so that a head that never ends can be told from a client
//! that is merely idle. hyper's own header timeout closes idle connections too and sets a timer for every request.
//!
//! For whoever serves another protocol of hyper's than [`crate::serve`] does: read and write through [`Watched`], answer
//! with [`Tracked`], and poll by [`crate::serve::drive`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::{Body, BodyError};
use crate::gather::poll_write_all_in_one;

/// Shared by the connection's reader, its service and its task, which all run in that one task; atomics only because
/// the task may move between threads.
#[derive(Debug)]
pub struct Progress {
    /// Bytes came for which no request has begun yet; at the start the first head itself.
    head_owed: AtomicBool,
    /// Whether requests come one after the other, so that bytes between two of them are the next one's head.
    one_by_one: bool,
    /// Requests whose answer's body is not yet dropped: what is read meanwhile is their body.
    in_flight: AtomicUsize,
    /// Requests so far; wraps.
    begun: AtomicUsize,
    /// Writes that went well so far; wraps.
    written: AtomicUsize,
    /// The last write has to wait until the peer takes what was written before.
    blocked: AtomicBool,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            head_owed: AtomicBool::new(true),
            one_by_one: true,
            in_flight: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
        }
    }
}

impl Progress {
    /// For a protocol whose requests share the connection, such as HTTP/2: only the first head is owed.
    pub fn multiplexed() -> Self {
        Progress { one_by_one: false, ..Progress::default() }
    }

    /// A head is complete: its request is in flight until the result is dropped.
    pub fn begin(this: &Arc<Self>) -> InFlight {
        this.head_owed.store(false, Ordering::Relaxed);
        this.begun.fetch_add(1, Ordering::Relaxed);
        this.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(this))
    }

    /// Whether the peer has begun a head, or has still to send its first one.
    pub(crate) fn owes_a_head(&self) -> bool {
        self.head_owed.load(Ordering::Relaxed)
    }

    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    pub(crate) fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// Whether the peer has to take something before more can be written.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    fn bytes_came(&self) {
        if self.one_by_one && !self.is_in_flight() {
            self.head_owed.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn wrote(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
        self.blocked.store(false, Ordering::Relaxed);
    }

    pub(crate) fn write_waits(&self) {
        self.blocked.store(true, Ordering::Relaxed);
    }
}

/// One request and its answer.
#[derive(Debug)]
pub struct InFlight(Arc<Progress>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body that keeps its request in flight.
pub struct Tracked {
    body: Body,
    _flight: InFlight,
}

impl Tracked {
    /// Holds on to the request until the body is dropped.
    pub fn new(body: Body, flight: InFlight) -> Self {
        Tracked { body, _flight: flight }
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that reports when bytes come and go.
pub struct Watched<I> {
    stream: I,
    progress: Arc<Progress>,
}

impl<I> Watched<I> {
    /// Reports to `progress`.
    pub fn new(stream: I, progress: Arc<Progress>) -> Self {
        Watched { stream, progress }
    }

    fn note(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(_) => self.progress.wrote(),
            Poll::Pending => self.progress.write_waits(),
        }
        polled
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.progress.bytes_came();
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = poll_write_all_in_one(Pin::new(&mut self.stream), cx, slices);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        // TLS keeps back what the socket does not take. hyper flushes when it has nothing left to write itself.
        self.progress.blocked.store(polled.is_pending(), Ordering::Relaxed);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
