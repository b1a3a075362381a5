//! Which headers of a client go upstream, and which of them say how it wants its answer.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::engine::Engine;
use crate::mcp;

pub use mcp::{ROUTE_HEADER as ROUTE, SUBJECT_HEADER as SUBJECT};

/// The header that says what a client takes, in the form every server accepts.
pub const ACCEPT_BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");

/// The headers of a call, kept for another try: a list, because few calls need one, and a second map costs all of them.
pub struct Kept(Vec<(HeaderName, HeaderValue)>);

impl Kept {
    /// A copy of `headers`, without the version: each try says that anew.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut kept = Vec::with_capacity(headers.len());
        let copied = headers.iter().filter(|(name, _)| **name != mcp::VERSION);
        kept.extend(copied.map(|(name, value)| (name.clone(), value.clone())));
        Self(kept)
    }

    /// The headers again.
    pub fn to_map(&self) -> HeaderMap {
        self.0.iter().cloned().collect()
    }
}

impl Engine {
    /// Makes a client's headers fit for the upstream: without what belongs to the connection, the session and the
    /// identity; with an `Accept` that every server takes.
    pub(super) fn inward(&self, headers: &mut HeaderMap) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            // RFC 9110, 7.6.1: what the connection names belongs to the connection.
            headers.remove(name);
        }
        // Few of them come at once: looking through those that came is cheaper than looking each of these up.
        while let Some(name) = headers.keys().find(|name| is_not_for_the_upstream(name)).cloned() {
            headers.remove(name);
        }
        headers.insert(header::ACCEPT, ACCEPT_BOTH);
        if !headers.contains_key(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.add_own_headers(headers);
    }
}

fn is_not_for_the_upstream(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "accept-encoding"
            | "connection"
            | "content-length"
            | "expect"
            | "host"
            | "keep-alive"
            | "last-event-id"
            | "origin"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | SUBJECT
            | ROUTE
    )
}

/// Whether a client takes a stream for an answer; one that does not say takes both.
pub fn takes_stream(headers: &HeaderMap) -> bool {
    match headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()) {
        None => true,
        Some(accept) => {
            accept.contains("text/event-stream") || accept.contains("*/*") || accept.contains("text/*")
        }
    }
}
