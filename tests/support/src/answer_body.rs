//! The body of an answer: whole, an event stream, or either of them cut short.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{connection::Busy, framing::Framing};

/// What the server sends; knows the connection it keeps busy.
pub(crate) struct AnswerBody {
    source: Source,
    left: Option<usize>,
    flushed: bool,
    busy: Option<Busy>,
}

enum Source {
    Whole(Option<Bytes>),
    Events { messages: mpsc::UnboundedReceiver<Value>, framing: Framing, opening: Option<Bytes> },
}

impl AnswerBody {
    /// A body known in full.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::of(Source::Whole(Some(bytes.into())))
    }

    /// An event stream that ends when the sending side is dropped.
    pub(crate) fn events(messages: mpsc::UnboundedReceiver<Value>, mut framing: Framing) -> Self {
        let opening = framing.opening();
        Self::of(Source::Events { messages, framing, opening })
    }

    /// Fails after `bytes`, once they have left.
    pub(crate) fn dying_after(mut self, bytes: usize) -> Self {
        self.left = Some(bytes);
        self
    }

    /// Counts as work of its connection until it ends.
    pub(crate) fn keeping(mut self, busy: Busy) -> Self {
        self.busy = Some(busy);
        self
    }

    /// Length in bytes, where it is known before.
    pub(crate) fn length(&self) -> Option<usize> {
        match &self.source {
            Source::Whole(bytes) => Some(bytes.as_ref().map_or(0, Bytes::len)),
            Source::Events { .. } => None,
        }
    }

    fn of(source: Source) -> Self {
        Self { source, left: None, flushed: false, busy: None }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.source {
            Source::Whole(bytes) => Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty())),
            Source::Events { messages, framing, opening } => match opening.take() {
                Some(bytes) => Poll::Ready(Some(bytes)),
                None => messages.poll_recv(cx).map(|message| message.map(|message| framing.event(&message))),
            },
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.left == Some(0) {
            // A pending body makes hyper flush, so that what was promised has left before the connection dies.
            if !std::mem::replace(&mut this.flushed, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Some(Err(io::Error::other("this body was told to die"))));
        }
        let Some(mut bytes) = ready!(this.next(cx)) else {
            this.busy = None;
            return Poll::Ready(None);
        };
        if let Some(left) = &mut this.left {
            bytes.truncate(*left);
            *left -= bytes.len();
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_none() && self.length() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match self.length() {
            Some(length) => SizeHint::with_exact(length as u64),
            None => SizeHint::default(),
        }
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "AnswerBody of {:?} bytes, dying after {:?}", self.length(), self.left)
    }
}
