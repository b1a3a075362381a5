//! What of a client's headers goes upstream, and which of them say how it wants its answer.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::engine::Engine;
use crate::mcp;

pub use mcp::{ROUTE_HEADER as ROUTE, SUBJECT_HEADER as SUBJECT};

/// The header that says what a client takes, in the form every server accepts.
pub const ACCEPT_BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The headers of a client's message, for as many tries as it takes: without what belongs to the connection, the session
/// and the identity, and without what each request says anew.
///
/// Few messages have more to say than that, so this is a list, and mostly an empty one.
#[derive(Clone, Default)]
pub struct Letterhead {
    /// The version that the client says it speaks; in a session, the agreed one is said instead.
    pub version: Option<HeaderValue>,
    others: Vec<(HeaderName, HeaderValue)>,
}

/// Names only: what they say may be a secret.
impl fmt::Debug for Letterhead {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.others.iter().map(|(name, _)| name)).finish()
    }
}

impl Letterhead {
    /// The headers of a POST in a session, before [`super::Live::mark`]; with an `Accept` that every server takes.
    pub fn to_map(&self) -> HeaderMap {
        let mut headers = self.bare();
        headers.entry(header::ACCEPT).or_insert(ACCEPT_BOTH);
        headers.entry(header::CONTENT_TYPE).or_insert(JSON);
        headers
    }

    /// Those of a POST outside of one.
    pub fn with_version(&self) -> HeaderMap {
        let mut headers = self.to_map();
        if let Some(version) = &self.version {
            headers.insert(mcp::VERSION, version.clone());
        }
        headers
    }

    /// Those of a GET for a stream, before [`super::Live::mark`].
    pub fn for_stream(&self) -> HeaderMap {
        let mut headers = self.bare();
        headers.remove(header::CONTENT_TYPE);
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers
    }

    /// Only what the client says of its own, and the settings.
    pub fn bare(&self) -> HeaderMap {
        /// `Accept`, `Content-Type`, id, version, `Host` and length.
        const ANEW: usize = 6;
        let mut headers = HeaderMap::with_capacity(self.others.len() + ANEW);
        for (name, value) in &self.others {
            headers.append(name.clone(), value.clone());
        }
        headers
    }

    /// The client's credential.
    pub fn credential(&self) -> Option<&HeaderValue> {
        self.others.iter().find(|(name, _)| *name == header::AUTHORIZATION).map(|(_, value)| value)
    }

    /// A copy to be kept for other messages of the session. Each value is made anew: one that is a slice of a connection's
    /// read buffer would keep all of that.
    pub fn to_keep(&self) -> Self {
        let copy = |(name, value): &(HeaderName, HeaderValue)| {
            let mut copied = HeaderValue::from_bytes(value.as_bytes()).ok()?;
            copied.set_sensitive(value.is_sensitive());
            Some((name.clone(), copied))
        };
        // How this one message is written says nothing about others.
        let kept = self.others.iter().filter(|(name, _)| *name != header::CONTENT_TYPE);
        Self { version: None, others: kept.filter_map(copy).collect() }
    }
}

impl Engine {
    /// Takes from a client's headers what goes upstream, and adds those of the settings, which replace the client's.
    pub(super) fn letterhead(&self, headers: HeaderMap) -> Letterhead {
        // RFC 9110, 7.6.1: what the connection names belongs to the connection.
        let connection: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
        let mut letterhead = Letterhead::default();
        let mut last = None;
        for (name, value) in headers {
            // Further values of a header come without its name.
            last = name.or(last);
            let Some(name) = &last else { continue };
            if is_named(&connection, name) {
                continue;
            }
            match name.as_str() {
                name if is_not_for_the_upstream(name) => {}
                mcp::VERSION_HEADER => letterhead.version = letterhead.version.or(Some(value)),
                "content-type" if value == JSON => {}
                _ => letterhead.others.push((name.clone(), value)),
            }
        }
        for (name, value) in &self.config().own_headers {
            letterhead.others.retain(|(other, _)| other != name);
            letterhead.others.push((name.clone(), value.clone()));
        }
        letterhead
    }
}

fn is_named(connection: &[HeaderValue], name: &HeaderName) -> bool {
    let mut named =
        connection.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    named.any(|named| named.trim().eq_ignore_ascii_case(name.as_str()))
}

fn is_not_for_the_upstream(name: &str) -> bool {
    matches!(
        name,
        "accept"
            | "accept-encoding"
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
            | mcp::SESSION_HEADER
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
