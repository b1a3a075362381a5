//! The HTTP answers of the exec back: status, headers and fixed sentences.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use mcp_daemon::body::Body;

use crate::mcp::{self, METHOD_NOT_FOUND, RpcError, SESSION_HEADER};
use crate::verdict::NOT_FORWARDED;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// JSON as it is.
pub(super) fn json(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, JSON);
    answer
}

/// A JSON-RPC error; `id` is raw JSON.
pub(super) fn error(status: StatusCode, id: &str, code: i32, message: &str) -> Response<Body> {
    json(status, mcp::error_body(id, code, message))
}

/// What a legacy server says to a session id it does not know.
pub(super) fn session_not_found() -> Response<Body> {
    error(StatusCode::NOT_FOUND, "null", -32001, "Session not found")
}

/// 503: nothing of the request reached a server, and when to ask again.
pub(super) fn not_forwarded(id: &str, message: &str, again: Duration) -> Response<Body> {
    let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, id, mcp::INTERNAL_ERROR, message);
    let headers = answer.headers_mut();
    headers.insert(NOT_FORWARDED, HeaderValue::from_static("1"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(again.as_secs().max(1)));
    answer
}

/// The answer to `initialize`: it alone carries the session's id.
pub(super) fn initialized(id: &str, body: Bytes) -> Response<Body> {
    let mut answer = json(StatusCode::OK, body);
    let id = HeaderValue::from_str(id).expect("an id of ours is hexadecimal digits");
    answer.headers_mut().insert(SESSION_HEADER, id);
    answer
}

/// A response of the server as one JSON body; modern errors have statuses of their own (MCP 2026-07-28, transports).
pub(super) fn response(body: Bytes, is_modern: bool) -> Response<Body> {
    let status = if is_modern { modern_status(&body) } else { StatusCode::OK };
    json(status, body)
}

/// An event stream.
pub(super) fn events(body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, EVENTS);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

/// No content, with a status.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

fn modern_status(body: &[u8]) -> StatusCode {
    #[derive(serde::Deserialize)]
    struct Message {
        error: RpcError,
    }
    // A large result is not read for this.
    if mcp::glance(body) != Some(mcp::Glance::Error) {
        return StatusCode::OK;
    }
    match serde_json::from_slice::<Message>(body).map(|message| message.error.code) {
        Ok(code) if code == i64::from(METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        Ok(-32022..=-32020) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modern_errors_have_their_statuses_and_legacy_ones_do_not() {
        for (code, modern) in [(-32601, 404), (-32020, 400), (-32022, 400), (-32602, 200), (-32000, 200)] {
            let body = Bytes::from(mcp::error_body("1", code, "no"));
            assert_eq!(response(body.clone(), true).status(), modern, "{code}");
            assert_eq!(response(body, false).status(), 200);
        }
        assert_eq!(
            response(Bytes::from_static(br#"{"id":1,"result":{"error":{"code":-32601}}}"#), true).status(),
            200
        );
    }
}
