//! Where the events of a call's stream come from, from one moment to the next.

use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use mcp_daemon::body::Body;
use tokio::sync::futures::OwnedNotified;

use crate::mcp;
use crate::session::call::Progress;
use crate::session::collect::Chain;
use crate::session::upstream::InFlight;
use crate::session::{Live, reply};
use crate::sse::Splitter;

/// What an answer comes from in the end.
pub(super) type Mending = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Where the events come from now.
pub(super) enum Source {
    Done,
    /// From nowhere until this is healed.
    Mending(Mending),
    /// From a stream that looks after itself, or a message that is being read (`wrap`).
    Passing {
        body: Body,
        wrap: Option<Vec<u8>>,
        splitter: Splitter,
    },
    /// An event that waits for what it teaches to be on disk.
    Saving {
        saved: Pin<Box<dyn Future<Output = ()> + Send>>,
        event: Option<Bytes>,
        then: Box<Reading>,
    },
    Upstream(Box<Reading>),
}

/// An upstream's stream while it is read.
pub(super) struct Reading {
    pub(super) body: Chain,
    pub(super) splitter: Splitter,
    pub(super) live: Live,
    pub(super) flight: InFlight,
    pub(super) progress: Progress,
    pub(super) hung: Option<Pin<Box<OwnedNotified>>>,
    pub(super) answered: bool,
    /// Whether this goes on with a stream that was ended early; servers leave it open after the answer.
    pub(super) is_resumed: bool,
    /// The upstream's own id of the newest event: where to go on when it ends the stream early on purpose.
    pub(super) last_id: Option<HeaderValue>,
}

/// The event in which a message came, should it be the answer after all: it then passes byte for byte.
#[derive(Clone)]
pub(super) struct Framed(pub(super) Bytes);

/// `data` as an answer that remembers the event.
pub(super) fn framed(data: Bytes, block: Bytes) -> Response<Body> {
    let mut answer = reply::message(data);
    answer.extensions_mut().insert(Framed(block));
    answer
}

/// How to go on with an answer in a stream that has begun: the status is said already, so only a message can follow.
pub(super) fn passing(answer: Response<Body>, id: &str) -> Source {
    let (head, body) = answer.into_parts();
    if reply::is_stream(&head.headers) {
        return Source::Passing { body, wrap: None, splitter: Splitter::default() };
    }
    if head.status == StatusCode::OK {
        return Source::Passing { body, wrap: Some(Vec::new()), splitter: Splitter::default() };
    }
    let error = mcp::error_body(id, mcp::INTERNAL_ERROR, &format!("the server answered {}", head.status));
    Source::Passing { body: Body::from(error), wrap: Some(Vec::new()), splitter: Splitter::default() }
}
