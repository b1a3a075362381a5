//! Which headers go upstream, and which come back.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use mcp_daemon::mcp;

/// Takes out of a client's head what is not for the upstream: the credential, an identity from outside, and what belongs to
/// the connection.
pub fn inward(headers: &mut HeaderMap) {
    remove(headers, is_not_for_the_upstream);
}

/// Takes out of an answer's head what is not for the client, and says whether the answer is a stream of events, which
/// nobody on the way is to hold back.
pub fn outward(headers: &mut HeaderMap) -> bool {
    remove(headers, is_not_for_the_client);
    let media_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let is_stream = media_type.get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS));
    if is_stream {
        headers.insert(UNBUFFERED, HeaderValue::from_static("no"));
    }
    is_stream
}

/// The media type of a stream of events.
const EVENTS: &[u8] = b"text/event-stream";
/// What nginx and others heed.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

fn remove(headers: &mut HeaderMap, is_unwanted: fn(&str) -> bool) {
    let mut unwanted = named_by_connection(headers);
    unwanted.extend(headers.keys().filter(|name| is_unwanted(name.as_str())).cloned());
    for name in unwanted {
        headers.remove(name);
    }
}

/// RFC 9110, 7.6.1: what the connection names belongs to the connection.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter();
    let names = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    names.filter_map(|name| name.trim().parse().ok()).collect()
}

fn is_not_for_the_upstream(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "connection"
            | "content-length"
            | "cookie"
            | "expect"
            | "forwarded"
            | "host"
            | "keep-alive"
            // Some servers take `_` and `-` in a name for the same.
            | "mcp_auth_subject"
            | "mcp_route"
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

fn is_not_for_the_client(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | mcp::NOT_FORWARDED_HEADER
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            })
    }

    #[test]
    fn an_upstream_gets_what_is_for_it_in_the_order_in_which_it_came() {
        let mut kept = map(&[
            ("authorization", "Bearer secret"),
            ("accept", "application/json"),
            ("accept", "text/event-stream"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("host", "here"),
            ("mcp-auth-subject", "root"),
            ("mcp-route", "other"),
            ("mcp-not-forwarded", "1"),
            ("mcp-session-id", "a.b"),
            ("te", "trailers"),
        ]);
        inward(&mut kept);
        let expected = map(&[
            ("accept", "application/json"),
            ("accept", "text/event-stream"),
            ("mcp-session-id", "a.b"),
        ]);
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_client_gets_what_is_for_it_and_its_streams_are_marked() {
        let mut headers = map(&[
            ("connection", "x-hop, close"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("mcp-not-forwarded", "1"),
            ("content-type", "application/json"),
            ("content-length", "2"),
            ("www-authenticate", "Bearer"),
        ]);
        assert!(!outward(&mut headers));
        let kept =
            [("content-type", "application/json"), ("content-length", "2"), ("www-authenticate", "Bearer")];
        assert_eq!(headers, map(&kept));
        let mut headers =
            map(&[("content-type", "Text/Event-Stream; charset=utf-8"), ("x-accel-buffering", "yes")]);
        assert!(outward(&mut headers));
        assert_eq!(headers["x-accel-buffering"], "no");
    }
}
