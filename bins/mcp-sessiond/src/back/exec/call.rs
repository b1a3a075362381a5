//! One request on one child: written, awaited, and answered as JSON, or as events if the server has more to say first.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body::Frame;
use mcp_daemon::body::{Body, BodyError};
use mcp_daemon::client::SendError;
use mcp_daemon::life::{Draining, Life};

use super::answer;
use super::child::{Child, Receipt};
use super::desk::{Entered, Refused};
use super::outlet::{End, Intake, Item};
use crate::mcp::{Envelope, INVALID_REQUEST};

/// What the wait of a request ended in.
pub(super) enum Outcome {
    /// The one response.
    Answer(Bytes),
    /// A stream that begins with a message of the server.
    Events(Response<Body>),
    /// Not written, because a request with its id is still being worked on.
    Duplicate(Response<Body>),
}

/// A request that waits; dropped, its client is gone.
struct Call {
    child: Arc<Child>,
    key: String,
    intake: Intake,
    answered: bool,
}

/// Writes a request and waits for the first thing that comes back.
pub(super) async fn call(
    child: &Arc<Child>,
    envelope: &Envelope<'_>,
    body: &Bytes,
    takes_messages: bool,
) -> Result<Outcome, SendError> {
    let entered = child.desk().enter(envelope, body, takes_messages);
    let Entered { message, key, intake } = match entered {
        Ok(entered) => entered,
        Err(Refused::Ended) => return Err(not_sent("the server process has ended")),
        Err(Refused::Duplicate) => {
            let id = envelope.id.map_or("null", |id| id.get());
            let text = "a request with this id has not been answered yet";
            return Ok(Outcome::Duplicate(answer::error(StatusCode::OK, id, INVALID_REQUEST, text)));
        }
    };
    let mut call = Call { child: Arc::clone(child), key, intake, answered: false };
    let receipt = Arc::new(Receipt::default());
    if !child.write(&message, Arc::clone(&receipt)).await {
        return Err(not_sent("the server process has closed its input"));
    }
    match call.intake.next().await {
        Ok(Item::Answer(answer)) => {
            call.answered = true;
            Ok(Outcome::Answer(answer))
        }
        Ok(Item::Message(message)) => Ok(Outcome::Events(answer::events(Body::stream(Events {
            first: Some(event(&message)),
            source: Source::Call(call),
            is_over: false,
        })))),
        Err(_) if child.can_have_read(&receipt) => Err(broken("the server process ended before it answered")),
        Err(_) => Err(not_sent("the server process ended before it read the request")),
    }
}

/// The stream of server messages that belong to no request.
pub(super) fn listen(child: &Child, life: &Life) -> Response<Body> {
    let source = Source::Listener(child.desk().listen(), life.draining_owned());
    answer::events(Body::stream(Events { first: None, source, is_over: false }))
}

/// Nothing of the request reached a server.
pub(super) fn not_sent(why: impl Into<BodyError>) -> SendError {
    SendError::NotSent(why.into())
}

/// Its effect is unknown.
pub(super) fn broken(why: impl Into<BodyError>) -> SendError {
    SendError::Broken(why.into())
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let cancelled = self.child.desk().leave(&self.key);
        if let Some(cancelled) = cancelled {
            self.child.try_write(&cancelled);
        }
    }
}

enum Source {
    Call(Call),
    Listener(Intake, Draining),
}

/// Server messages as events, and the answer as the last one.
struct Events {
    first: Option<Bytes>,
    source: Source,
    is_over: bool,
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(event) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(event))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        let next = match &mut self.source {
            Source::Call(call) => ready!(call.intake.poll_next(cx)),
            // Messages first: what was said is delivered before the stream ends.
            Source::Listener(intake, draining) => match intake.poll_next(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    ready!(Pin::new(draining).poll(cx));
                    Err(End::Finished)
                }
            },
        };
        self.is_over = !matches!(next, Ok(Item::Message(_)));
        if let (Source::Call(call), Ok(Item::Answer(_))) = (&mut self.source, &next) {
            call.answered = true;
        }
        match next {
            Ok(Item::Answer(message) | Item::Message(message)) => {
                Poll::Ready(Some(Ok(Frame::data(event(&message)))))
            }
            Err(End::Finished) => Poll::Ready(None),
            Err(End::Broken) => Poll::Ready(Some(Err("the server process ended".into()))),
        }
    }
}

/// A message as one event; a CR between its tokens would end the data line.
fn event(message: &[u8]) -> Bytes {
    let mut event = BytesMut::with_capacity(message.len() + 24);
    event.extend_from_slice(b"event: message\ndata: ");
    let start = event.len();
    event.extend_from_slice(message);
    for at in memchr::memchr_iter(b'\r', message) {
        event[start + at] = b' ';
    }
    event.extend_from_slice(b"\n\n");
    event.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse;

    #[test]
    fn an_event_is_one_line_of_data() {
        let event = event(b"{\r\"a\":1}");
        assert_eq!(event, "event: message\ndata: { \"a\":1}\n\n");
        assert_eq!(sse::data(&event).unwrap(), "{ \"a\":1}");
    }
}
