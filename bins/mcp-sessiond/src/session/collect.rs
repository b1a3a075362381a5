//! Bodies that are read before they are passed on: whole, up to a bound, or as far as they have come.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use mcp_daemon::body::{Body, BodyError};

use crate::mcp::{self, Glance};
use crate::verdict::Flavour;

/// Turns of the scheduler that an answer is looked ahead for: a chunk, and the end, take one each to come through.
const TURNS: usize = 3;

/// A body that was read until its end or until a bound.
pub struct Collected {
    /// Most bodies are one chunk: that one needs no list.
    first: Bytes,
    more: VecDeque<Bytes>,
    rest: Option<Body>,
}

/// Reads `body` up to `bound` bytes, without copying.
pub async fn collect(mut body: Body, bound: usize) -> Result<Collected, Flavour> {
    let (mut first, mut more, mut size) = (Bytes::new(), VecDeque::new(), 0);
    // What says that it is at its end need not be asked once more.
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let Ok(chunk) = frame.map_err(|_broken| Flavour::Broken)?.into_data() else { continue };
        size += chunk.len();
        if first.is_empty() {
            first = chunk;
        } else {
            more.push_back(chunk);
        }
        if size > bound {
            return Ok(Collected { first, more, rest: Some(body) });
        }
    }
    Ok(Collected { first, more, rest: None })
}

impl Collected {
    /// What the beginning of it says it is.
    pub fn glance(&self) -> Option<Glance> {
        mcp::glance(&self.first)
    }

    /// All of it in one piece; `None` if it went beyond the bound.
    pub fn joined(&self) -> Option<Bytes> {
        if self.rest.is_some() {
            return None;
        }
        if self.more.is_empty() {
            return Some(self.first.clone());
        }
        Some(self.first.iter().chain(self.more.iter().flatten()).copied().collect())
    }

    /// As a body again.
    pub fn into_body(mut self) -> Body {
        if self.rest.is_none() && self.more.is_empty() {
            return Body::from(self.first);
        }
        self.more.push_front(self.first);
        match self.rest {
            None => Body::Chunks(self.more),
            Some(rest) => Body::stream(Chain::new(self.more, Rest::Body(rest))),
        }
    }
}

/// Chunks that were read already, then the rest.
pub struct Chain {
    first: VecDeque<Bytes>,
    rest: Rest,
}

/// What follows the chunks that were read.
pub enum Rest {
    /// More.
    Body(Body),
    /// The connection broke.
    Broken(BodyError),
    /// Nothing.
    Ended,
}

impl Chain {
    /// `first`, then `rest`.
    pub fn new(first: VecDeque<Bytes>, rest: Rest) -> Self {
        Self { first, rest }
    }

    /// Takes what has come of `body`, without waiting for any of it: most answers are one event that comes with its head,
    /// and what is known whole leaves in one write.
    ///
    /// That is all that depends on it. Whoever polls the answer for another reason ends a `yield_now` early, before the
    /// event loop had its turn; then less is found here, and what comes later is read from `rest` as it comes.
    pub async fn look_ahead(mut body: Body) -> Self {
        let mut first = VecDeque::new();
        for _ in 0..TURNS {
            let rest = loop {
                match std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await {
                    Poll::Ready(Some(Ok(frame))) => first.extend(frame.into_data()),
                    Poll::Ready(Some(Err(error))) => break Rest::Broken(error),
                    Poll::Ready(None) => break Rest::Ended,
                    Poll::Pending => break Rest::Body(Body::empty()),
                }
            };
            if !matches!(rest, Rest::Body(_)) {
                return Self { first, rest };
            }
            tokio::task::yield_now().await;
        }
        Self { first, rest: Rest::Body(body) }
    }
}

impl HttpBody for Chain {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(chunk) = self.first.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match &mut self.rest {
            Rest::Body(body) => Pin::new(body).poll_frame(cx),
            Rest::Ended => Poll::Ready(None),
            Rest::Broken(_) => match std::mem::replace(&mut self.rest, Rest::Ended) {
                Rest::Broken(error) => Poll::Ready(Some(Err(error))),
                Rest::Body(_) | Rest::Ended => Poll::Ready(None),
            },
        }
    }
}
