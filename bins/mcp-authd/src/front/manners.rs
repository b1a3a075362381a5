//! Headers that every answer has, for the sake of browsers: who may read it (CORS), and that nobody keeps or reinterprets it.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, request};
use mcp_daemon::body::Body;
use mcp_daemon::hosts;

use super::Connection;
use crate::config::Config;

/// Request headers that pages may send; besides these any `Mcp-Param-...` (MCP 2026-07-28).
const MAY_SEND: [&str; 8] = [
    "accept",
    "authorization",
    "content-type",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
];
const PARAMETERS: &str = "mcp-param-";
/// Longest list of headers in bytes that a preflight may ask for.
const MAX_ASKED: usize = 4_096;
/// Answer headers that pages may read.
const MAY_READ: HeaderValue =
    HeaderValue::from_static("Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
/// For how long, in seconds, a browser need not ask again. Browsers cap it at 2 hours.
const PREFLIGHT_AGE: HeaderValue = HeaderValue::from_static("7200");
/// A year, as the usual recommendation is.
const STRICT: HeaderValue = HeaderValue::from_static("max-age=31536000");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");

/// What of a request decides about the headers of its answer.
#[derive(Debug)]
pub struct Manners {
    /// The page that asks, if it may read the answer.
    origin: Option<HeaderValue>,
    /// Whether the browser is to come by TLS only from now on.
    is_strict: bool,
}

impl Manners {
    /// Looks at a request.
    pub fn of(config: &Config, head: &request::Parts, connection: &Connection) -> Self {
        let origin = head.headers.get(header::ORIGIN);
        let may_read = |origin: &&HeaderValue| {
            origin.to_str().is_ok_and(|origin| hosts::is_allowed_origin(origin, &config.allowed_origins))
        };
        // On loopback it would shut out whatever else is served there by plain HTTP.
        let is_public = || hosts::host_of(head).is_ok_and(|host| !hosts::is_loopback(hosts::name_of(host)));
        Self {
            origin: origin.filter(may_read).cloned(),
            is_strict: connection.secure.is_some() && is_public(),
        }
    }

    /// Puts the headers on an answer; what its maker said about caches stays.
    pub fn put(self, headers: &mut HeaderMap) {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        headers.entry(header::CACHE_CONTROL).or_insert(NO_STORE);
        headers.entry(header::REFERRER_POLICY).or_insert(NO_REFERRER);
        if self.is_strict {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, STRICT);
        }
        if let Some(origin) = self.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, MAY_READ);
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
    }
}

/// The answer to a browser that asks whether a page may send a request; `None` for any other request. The origin has been
/// checked.
pub fn preflight(head: &request::Parts) -> Option<Response<Body>> {
    let asks = |name: HeaderName| head.headers.get(name);
    if head.method != Method::OPTIONS || asks(header::ORIGIN).is_none() {
        return None;
    }
    asks(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers
        .insert(header::ACCESS_CONTROL_ALLOW_HEADERS, may_send(asks(header::ACCESS_CONTROL_REQUEST_HEADERS)));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE);
    headers.append(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    Some(answer)
}

/// The fixed list, and those of the parameter headers that were asked for.
fn may_send(asked: Option<&HeaderValue>) -> HeaderValue {
    let asked = asked.and_then(|asked| asked.to_str().ok()).filter(|asked| asked.len() <= MAX_ASKED);
    let parameters = asked.unwrap_or_default().split(',').map(str::trim).filter(|name| {
        let is_parameter =
            name.get(..PARAMETERS.len()).is_some_and(|start| start.eq_ignore_ascii_case(PARAMETERS));
        is_parameter && HeaderName::from_bytes(name.as_bytes()).is_ok()
    });
    let list: Vec<&str> = MAY_SEND.into_iter().chain(parameters).collect();
    HeaderValue::from_str(&list.join(", ")).expect("names of headers are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_may_send_what_mcp_needs_and_its_parameters_alone() {
        let asked = HeaderValue::from_static("authorization, X-Evil, Mcp-Param-Region, mcp-param-a b");
        let list = may_send(Some(&asked)).to_str().unwrap().to_owned();
        assert!(list.starts_with("accept, authorization,") && list.ends_with(", Mcp-Param-Region"), "{list}");
        assert!(!list.contains("X-Evil"), "{list}");
    }

    #[test]
    fn what_the_maker_of_an_answer_said_about_caches_stays() {
        let mut headers =
            HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))]);
        Manners { origin: None, is_strict: false }.put(&mut headers);
        assert_eq!(headers[header::CACHE_CONTROL], "no-cache");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(!headers.contains_key(header::STRICT_TRANSPORT_SECURITY));
    }
}
