//! Counts the bytes of an answer and writes its line at the end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use mcp_daemon::body::{Body, BodyError};

use super::Entry;

/// An answer's body with its entry.
pub struct Watched {
    body: Body,
    entry: Entry,
}

impl Watched {
    pub fn new(body: Body, mut entry: Entry) -> Self {
        entry.complete = body.is_end_stream();
        Self { body, entry }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.entry.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                this.entry.complete = this.body.is_end_stream();
            }
            Poll::Ready(None) => this.entry.complete = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
