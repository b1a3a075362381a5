//! Whether a request is for us at all: `Host` and `Origin` on TCP, and headers that must not come twice.

use http::{HeaderValue, Response, StatusCode, header, request};
use mcp_daemon::body::Body;
use mcp_daemon::hosts::{self, Foreign};
use mcp_daemon::mcp;

use super::Connection;
use crate::answer;
use crate::config::Config;

/// Refuses a request whose `Host` or `Origin` is not ours. Names in our certificate are ours too.
pub fn check(config: &Config, head: &request::Parts, connection: &Connection) -> Result<(), Response<Body>> {
    let is_named = |host: &str| {
        let names = connection.secure.as_ref().map(|secure| &secure.face.names);
        names.is_some_and(|names| names.cover(hosts::name_of(host)))
    };
    let checked = hosts::host_of(head).and_then(|host| {
        if !hosts::is_allowed_host(host, &config.allowed_hosts) && !is_named(host) {
            return Err(Foreign::host(host));
        }
        hosts::check_origins(&head.headers, &config.allowed_origins)
    });
    checked.map_err(|foreign| {
        answer::refused(foreign.status(), "null", mcp::INVALID_REQUEST, &foreign.to_string())
    })
}

/// Refuses a page's request that brings no credential but the browser's certificate, unless the settings name the page: the
/// browser shows the certificate whoever asks, so a page of any server on this machine could act as the person. `"*"` names
/// nobody.
pub fn check_ambient(config: &Config, head: &request::Parts) -> Result<(), Response<Body>> {
    let is_named = |origin: &&HeaderValue| {
        config.allowed_origins.iter().any(|named| named.as_bytes() == origin.as_bytes())
    };
    if head.headers.get_all(header::ORIGIN).iter().all(|origin| is_named(&origin)) {
        return Ok(());
    }
    let sentence = "a page needs a token of its own, or its Origin in allowed_origins";
    Err(answer::refused(StatusCode::FORBIDDEN, "null", mcp::INVALID_REQUEST, sentence))
}

/// Refuses a request with two session ids: somebody behind us may look at the other one. (Two credentials are none, see
/// [`bearer`](crate::credentials::bearer).)
pub fn check_once(head: &request::Parts) -> Result<(), Response<Body>> {
    let mut lines = head.headers.get_all(mcp::SESSION).iter();
    if lines.nth(1).is_none() {
        return Ok(());
    }
    let sentence = "Mcp-Session-Id came twice";
    Err(answer::refused(StatusCode::BAD_REQUEST, "null", mcp::INVALID_REQUEST, sentence))
}
