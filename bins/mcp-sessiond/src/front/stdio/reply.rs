//! How an HTTP answer becomes lines: JSON as one, events as one each, and a failure as the JSON-RPC error of its request.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use mcp_daemon::body::Body;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::lines::one_line;
use crate::mcp::{self, Envelope, INTERNAL_ERROR, Kind};
use crate::sse::{self, Splitter};

/// Where lines go.
pub(super) type Lines = mpsc::Sender<Bytes>;

/// Longest answer in one piece, in bytes.
const MAX_ANSWER: usize = sse::MAX_BLOCK;

/// What an answer held.
#[derive(Default)]
pub(super) struct Ended {
    /// The response to the request.
    pub(super) answer: Option<Bytes>,
    /// The id of the last event.
    pub(super) last_event: Option<HeaderValue>,
    /// How many lines were written.
    pub(super) lines: usize,
}

/// Writes all messages of `response`. With an `id` (raw JSON) exactly one of them is the response to that request.
pub(super) async fn pass_on(response: Response<Body>, id: Option<&str>, lines: &Lines) -> Ended {
    let (head, body) = response.into_parts();
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_stream = content_type.is_some_and(|value| value.starts_with("text/event-stream"));
    let mut ended = Ended::default();
    let failure = if is_stream {
        stream(body, id, lines, &mut ended).await
    } else {
        single(body, head.status, id, lines, &mut ended).await
    };
    if let (Some(id), None) = (id, &ended.answer) {
        let (code, text) = failure.unwrap_or_else(|| (INTERNAL_ERROR.into(), lost().into()));
        let code = i32::try_from(code).unwrap_or(INTERNAL_ERROR);
        let _ = lines.send(one_line(mcp::error_body(id, code, &text).as_bytes())).await;
    }
    ended
}

fn lost() -> &'static str {
    "the answer was cut off; whether the request had an effect is unknown"
}

/// Code and sentence of a failure.
type Failure = (i64, String);

async fn stream(mut body: Body, id: Option<&str>, lines: &Lines, ended: &mut Ended) -> Option<Failure> {
    let mut splitter = Splitter::default();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        let Ok(chunk) = frame.into_data() else { continue };
        if splitter.push(chunk).is_err() {
            return Some((INTERNAL_ERROR.into(), "the server sent an event that is too large".into()));
        }
        while let Some(block) = splitter.next_block() {
            if let Some(event) = event_id(&block) {
                ended.last_event = Some(event);
            }
            // A priming event has empty data.
            let Some(data) = sse::data(&block).filter(|data| !data.trim_ascii().is_empty()) else { continue };
            write(data, id, lines, ended).await;
        }
    }
    None
}

async fn single(
    body: Body,
    status: StatusCode,
    id: Option<&str>,
    lines: &Lines,
    ended: &mut Ended,
) -> Option<Failure> {
    let Some(body) = collect(body).await else {
        return Some((INTERNAL_ERROR.into(), lost().into()));
    };
    let part = part(&body, id);
    if part == Some(Part::Answer) || (part == Some(Part::Other) && status.is_success()) {
        write(body, id, lines, ended).await;
        return None;
    }
    if status.is_success() {
        return Some((INTERNAL_ERROR.into(), "the server took the request and gave no answer".into()));
    }
    #[derive(Deserialize)]
    struct Message {
        error: mcp::RpcError,
    }
    let said = serde_json::from_slice::<Message>(&body).ok().map(|message| message.error);
    Some(match said {
        Some(error) => (error.code, error.message),
        None => (INTERNAL_ERROR.into(), format!("the server answered HTTP {}", status.as_u16())),
    })
}

async fn write(message: Bytes, id: Option<&str>, lines: &Lines, ended: &mut Ended) {
    let Some(part) = part(&message, id) else {
        // A line that is no message would stop some clients.
        log::warn!(bytes = message.len(); "skipped data of the server that is no message");
        return;
    };
    ended.lines += 1;
    // Nobody reads any more when this fails, and `run` is about to end.
    let _ = lines.send(one_line(&message)).await;
    if part == Part::Answer {
        ended.answer = Some(message);
    }
}

/// What a message is to the request it came back on.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Part {
    Answer,
    Other,
}

/// `None` if `body` is no message. A server may spell an id differently, so any response with an id is the answer: a
/// request's answer carries no other.
fn part(body: &[u8], id: Option<&str>) -> Option<Part> {
    let envelope = Envelope::parse(body).ok()?;
    let has_id = envelope.id.is_some_and(|found| found.get() != "null" || id == Some("null"));
    let is_answer = id.is_some() && has_id && envelope.kind() == Some(Kind::Response);
    Some(if is_answer { Part::Answer } else { Part::Other })
}

async fn collect(mut body: Body) -> Option<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame.ok()?.into_data() else { continue };
        if whole.len() + chunk.len() > MAX_ANSWER {
            return None;
        }
        whole.extend_from_slice(&chunk);
    }
    Some(whole.freeze())
}

/// The value of a block's `id:` line.
fn event_id(block: &[u8]) -> Option<HeaderValue> {
    let mut lines = block.split(|byte| matches!(byte, b'\n' | b'\r'));
    let value = lines.find_map(|line| line.strip_prefix(b"id:"))?;
    HeaderValue::from_bytes(value.strip_prefix(b" ").unwrap_or(value)).ok()
}
