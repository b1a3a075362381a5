//! One body type for everything we send: bytes we have, bytes we pass on, and streams we produce.
//!
//! An enum, so that the common cases cost no allocation and no virtual call. A stream that has no natural end must
//! end at drain by itself (see [`crate::life::Life::draining_owned`]); nothing here cuts it.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::pool::Leased;

/// Why a body could not be read or produced to its end.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or an answer.
pub enum Body {
    /// One piece, or (`None`) nothing; its length is sent as `Content-Length`.
    Full(Option<Bytes>),
    /// Several pieces that are all here already; their total length is sent as `Content-Length`.
    Chunks(VecDeque<Bytes>),
    /// What hyper receives, passed on as it comes.
    Incoming(Incoming),
    /// The same, from a connection of the client's pool.
    Leased(Leased),
    /// Anything else, one allocation each.
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send>>),
}

impl Body {
    /// A body of no bytes, sent as `Content-Length: 0` where the status allows one.
    pub fn empty() -> Self {
        Body::Full(None)
    }

    /// Boxes a body that is made while it is sent.
    pub fn stream(body: impl HttpBody<Data = Bytes, Error = BodyError> + Send + 'static) -> Self {
        Body::Stream(Box::pin(body))
    }
}

/// Names the kind: what a body holds may be a secret.
impl fmt::Debug for Body {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Body::Full(_) => "Full",
            Body::Chunks(_) => "Chunks",
            Body::Incoming(_) => "Incoming",
            Body::Leased(_) => "Leased",
            Body::Stream(_) => "Stream",
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Body::Full(piece) => Poll::Ready(piece.take().map(|piece| Ok(Frame::data(piece)))),
            Body::Chunks(pieces) => Poll::Ready(pieces.pop_front().map(|piece| Ok(Frame::data(piece)))),
            Body::Incoming(incoming) => {
                Pin::new(incoming).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            Body::Leased(leased) => Pin::new(leased).poll_frame(cx),
            Body::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(piece) => piece.is_none(),
            Body::Chunks(pieces) => pieces.is_empty(),
            Body::Incoming(incoming) => incoming.is_end_stream(),
            Body::Leased(leased) => leased.is_end_stream(),
            Body::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(piece) => SizeHint::with_exact(piece.as_ref().map_or(0, Bytes::len) as u64),
            Body::Chunks(pieces) => SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Body::Incoming(incoming) => incoming.size_hint(),
            Body::Leased(leased) => leased.size_hint(),
            Body::Stream(stream) => stream.size_hint(),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        // An empty piece would become an empty frame; `None` ends the body at once.
        Body::Full((!bytes.is_empty()).then_some(bytes))
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Body::Incoming(incoming)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn known_bodies_tell_their_exact_length_and_lose_no_byte() {
        let pieces = VecDeque::from([Bytes::from_static(b"ab"), Bytes::from_static(b"cde")]);
        for (body, expected) in [
            (Body::empty(), ""),
            (Body::from(""), ""),
            (Body::from("abc"), "abc"),
            (Body::from(String::from("abcd")), "abcd"),
            (Body::Chunks(pieces), "abcde"),
        ] {
            assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
            assert_eq!(body.is_end_stream(), expected.is_empty());
            assert_eq!(body.collect().await.unwrap().to_bytes(), expected);
        }
    }

    #[tokio::test]
    async fn a_boxed_stream_passes_frames_and_errors() {
        let body =
            Body::stream(http_body_util::Full::new(Bytes::from_static(b"x")).map_err(|never| match never {}));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "x");
    }
}
