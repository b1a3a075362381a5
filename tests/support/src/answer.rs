//! Answers from their parts.

use bytes::Bytes;
use http::{Response, header::CONTENT_TYPE};

use crate::answer_body::AnswerBody;

/// Header that carries a session's id.
pub(crate) const SESSION: &str = "mcp-session-id";
/// Header that carries the agreed protocol version.
pub(crate) const VERSION: &str = "mcp-protocol-version";

/// What the server says to one request.
pub(crate) type Answer = Response<AnswerBody>;

/// A plain text answer; without text, no content type either.
pub(crate) fn text(status: u16, body: &'static str) -> Answer {
    typed(status, (!body.is_empty()).then_some("text/plain; charset=utf-8"), body)
}

/// An answer with this body.
pub(crate) fn typed(status: u16, content_type: Option<&str>, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::builder().status(status);
    if let Some(content_type) = content_type {
        answer = answer.header(CONTENT_TYPE, content_type);
    }
    answer.body(AnswerBody::whole(body)).expect("status and content type are valid")
}

/// An event stream.
pub(crate) fn stream(body: AnswerBody) -> Answer {
    typed(200, Some("text/event-stream"), "").map(|_| body)
}

/// The answer with a session id on it.
pub(crate) fn with_session(mut answer: Answer, session: &str) -> Answer {
    answer.headers_mut().insert(SESSION, session.parse().expect("minted ids are visible ASCII"));
    answer
}
