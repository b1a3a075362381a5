//! Which headers go upstream, and which come back.

use http::{HeaderMap, HeaderName, header};
use mcp_daemon::mcp;

/// Takes out of a client's head what is not for the upstream: the credential, identities from outside, and what belongs to
/// the connection.
pub fn inward(headers: &mut HeaderMap) {
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
    while let Some(name) = headers.keys().find(|name| is_not_for_the_upstream(name)).cloned() {
        headers.remove(name);
    }
}

fn is_not_for_the_upstream(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "authorization"
            | "connection"
            | "content-length"
            | "cookie"
            | "expect"
            | "forwarded"
            | "host"
            | "keep-alive"
            | "origin"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "x-forwarded-for"
            | mcp::SUBJECT_HEADER
            | mcp::ROUTE_HEADER
            | mcp::NOT_FORWARDED_HEADER
    )
}
