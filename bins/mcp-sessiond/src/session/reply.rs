//! Answers that sessiond gives itself, and upstream answers made fit for the client.
//!
//! A request of a known session that cannot be served gets 200 with a JSON-RPC error that carries its id: the only
//! answer that every client measured survives.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use mcp_daemon::body::Body;

use crate::mcp;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// A JSON answer.
pub fn json(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// 200 with a message of the server.
pub fn message(message: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(message));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// 200 with an error that carries the request's raw `id`.
pub fn failed(id: &str, message: &str) -> Response<Body> {
    json(StatusCode::OK, mcp::error_body(id, mcp::INTERNAL_ERROR, message))
}

/// A refusal with a status of its own, for what is no request of a known session.
pub fn refused(status: StatusCode, id: &str, code: i32, message: &str) -> Response<Body> {
    json(status, mcp::error_body(id, code, message))
}

/// 404: the session is over, a client that can makes a new one.
pub fn not_found() -> Response<Body> {
    refused(StatusCode::NOT_FOUND, "null", -32001, "Session not found")
}

/// 202: taken note of.
pub fn accepted() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// A stream of events.
pub fn stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, EVENT_STREAM);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    unbuffered(headers);
    response
}

/// Tells reverse proxies not to hold a stream back.
pub fn unbuffered(headers: &mut HeaderMap) {
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
}

/// Whether an answer is a stream of events.
pub fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.len() >= 17 && kind[..17].eq_ignore_ascii_case("text/event-stream")
}

/// Takes out of an upstream's head what is not for the client: what belongs to the connection, the length (the body may
/// be another), and the upstream's session id.
pub fn outward(headers: &mut HeaderMap) {
    let is_ours = |name: &&HeaderName| {
        matches!(
            name.as_str(),
            "connection" | "content-length" | "keep-alive" | "proxy-connection" | "transfer-encoding"
        ) || name.as_str() == mcp::SESSION_HEADER
    };
    // Few of them come at once: looking through those that came is cheaper than looking each of these up.
    while let Some(name) = headers.keys().find(is_ours).cloned() {
        headers.remove(name);
    }
}

/// An upstream's error answer for the client of a known session: a 5xx becomes 200 with an error that carries the id.
pub fn error_answer(status: StatusCode, headers: HeaderMap, body: Bytes, id: &str) -> Response<Body> {
    if status.is_server_error() {
        return failed(id, &format!("the server answered {status}"));
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
