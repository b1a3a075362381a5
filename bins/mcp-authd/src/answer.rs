//! Answers that mcp-authd gives itself.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use mcp_daemon::body::Body;
use mcp_daemon::mcp;

/// What an answer tells the client in words, kept with it for the audit ([`Entry`](crate::audit::Entry)).
#[derive(Clone, Debug)]
pub struct Said(pub String);

/// A JSON-RPC error with a status of its own; `id` is raw JSON, `null` where the request has none.
pub fn refused(status: StatusCode, id: &str, code: i32, message: &str) -> Response<Body> {
    let mut answer = json(status, mcp::error_body(id, code, message));
    answer.extensions_mut().insert(Said(message.to_owned()));
    answer
}

/// The same for what may work later.
pub fn later(status: StatusCode, id: &str, after: Duration, message: &str) -> Response<Body> {
    put_off(refused(status, id, mcp::INTERNAL_ERROR, message), after)
}

/// The same for each request of a batch, by their raw ids.
pub fn all_later(ids: &[String], after: Duration, message: &str) -> Response<Body> {
    let errors: Vec<String> =
        ids.iter().map(|id| mcp::error_body(id, mcp::INTERNAL_ERROR, message)).collect();
    put_off(json(StatusCode::OK, format!("[{}]", errors.join(","))), after)
}

/// 202: taken note of.
pub fn accepted() -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer
}

/// A line of text for people.
pub fn text(status: StatusCode, line: String) -> Response<Body> {
    let said = Said(line.trim_end().to_owned());
    let mut answer = Response::new(Body::from(line));
    *answer.status_mut() = status;
    answer.extensions_mut().insert(said);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn json(status: StatusCode, text: String) -> Response<Body> {
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn put_off(mut answer: Response<Body>, after: Duration) -> Response<Body> {
    let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    answer
}
