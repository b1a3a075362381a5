//! Where a served connection stands between two requests, so that a head that never ends can be told from a client
//! that is merely idle. hyper's own header timeout closes idle connections too and sets a timer for every request.

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
pub(crate) struct Progress {
    /// Bytes came for which no request has begun yet; at the start the first head itself.
    head_owed: AtomicBool,
    /// Requests whose answer's body is not yet dropped: what is read meanwhile is their body.
    in_flight: AtomicUsize,
}

impl Default for Progress {
    fn default() -> Self {
        Progress { head_owed: AtomicBool::new(true), in_flight: AtomicUsize::new(0) }
    }
}

impl Progress {
    /// A head is complete: its request is in flight until the result is dropped.
    pub(crate) fn begin(this: &Arc<Self>) -> InFlight {
        this.head_owed.store(false, Ordering::Relaxed);
        this.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(this))
    }

    /// Whether the peer has begun a head, or has still to send its first one.
    pub(crate) fn owes_a_head(&self) -> bool {
        self.head_owed.load(Ordering::Relaxed)
    }

    fn bytes_came(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0 {
            self.head_owed.store(true, Ordering::Relaxed);
        }
    }
}

/// One request and its answer.
pub(crate) struct InFlight(Arc<Progress>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body that keeps its request in flight.
pub(crate) struct Tracked {
    body: Body,
    _flight: InFlight,
}

impl Tracked {
    pub(crate) fn new(body: Body, flight: InFlight) -> Self {
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

/// A stream that reports when bytes come.
pub(crate) struct Watched<I> {
    stream: I,
    progress: Arc<Progress>,
}

impl<I> Watched<I> {
    pub(crate) fn new(stream: I, progress: Arc<Progress>) -> Self {
        Watched { stream, progress }
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
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_all_in_one(Pin::new(&mut self.stream), cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
