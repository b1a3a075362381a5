//! `Mcp-Method` and `Mcp-Name` (MCP 2026-07-28, transports, request metadata): they may not say anything else than the
//! body, or one of two who read different ones would be deceived. Whether they must be there is the server's to say.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};

use super::Read;

/// JSON-RPC: a header does not say what the body says (MCP 2026-07-28).
pub const HEADER_MISMATCH: i32 = -32020;

const METHOD: &str = "mcp-method";
const NAME: &str = "mcp-name";
// Parsed: looking them up costs less than the texts do.
#[allow(clippy::declare_interior_mutable_const, reason = "a static name is never mutated")]
const METHOD_HEADER: HeaderName = HeaderName::from_static(METHOD);
#[allow(clippy::declare_interior_mutable_const, reason = "a static name is never mutated")]
const NAME_HEADER: HeaderName = HeaderName::from_static(NAME);

/// The first of the two headers that says otherwise than the body; `None` if they agree, or are not there.
pub fn contradiction(headers: &HeaderMap, read: &Read<'_>) -> Option<&'static str> {
    // A body of several messages has no one method; neither had the version that knew batches these headers.
    let [asked] = read.messages.as_slice() else {
        return [METHOD, NAME].into_iter().find(|name| headers.contains_key(*name));
    };
    if !agrees(headers, METHOD_HEADER, |said| said == asked.method.as_bytes()) {
        return Some(METHOD);
    }
    // Other methods' names are not read: what they are is for the server to know.
    let is_named = matches!(&*asked.method, "prompts/get" | "resources/read" | "tools/call");
    let says_the_name = |said: &[u8]| decoded(said).is_some_and(|said| *said == *asked.name.as_bytes());
    (is_named && !agrees(headers, NAME_HEADER, says_the_name)).then_some(NAME)
}

/// Whether a header is not there, or there once and right.
fn agrees(headers: &HeaderMap, name: HeaderName, is_right: impl Fn(&[u8]) -> bool) -> bool {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return true };
    values.next().is_none() && is_right(value.as_bytes().trim_ascii())
}

/// A value, taken out of `=?base64?...?=` where it is in that.
fn decoded(said: &[u8]) -> Option<Cow<'_, [u8]>> {
    match said.strip_prefix(b"=?base64?").and_then(|said| said.strip_suffix(b"?=")) {
        Some(encoded) => STANDARD.decode(encoded).ok().map(Cow::Owned),
        None => Some(Cow::Borrowed(said)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(headers: &[(&'static str, &str)], body: &str) -> Option<&'static str> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        contradiction(&map, &super::super::read(body.as_bytes(), false).unwrap())
    }

    const CALL: &str = r#"{"id":1,"method":"tools/call","params":{"name":"find"}}"#;

    #[test]
    fn headers_that_say_what_the_body_says_are_no_contradiction() {
        for headers in [
            &[][..],
            &[(METHOD, "tools/call")],
            &[(METHOD, "tools/call"), (NAME, "find")],
            &[(NAME, "=?base64?ZmluZA==?=")],
            &[(NAME, " find ")],
        ] {
            assert_eq!(judged(headers, CALL), None, "{headers:?}");
        }
        let umlaut = r#"{"id":1,"method":"prompts/get","params":{"name":"über"}}"#;
        assert_eq!(judged(&[(NAME, "=?base64?w7xiZXI=?=")], umlaut), None);
        let sentinel = r#"{"id":1,"method":"prompts/get","params":{"name":"=?base64?eA==?="}}"#;
        assert_eq!(judged(&[(NAME, "=?base64?PT9iYXNlNjQ/ZUE9PT89?=")], sentinel), None);
        let task = r#"{"id":1,"method":"tasks/get","params":{"taskId":"7"}}"#;
        assert_eq!(judged(&[(METHOD, "tasks/get"), (NAME, "7")], task), None);
    }

    #[test]
    fn a_header_that_says_otherwise_is_named() {
        for (headers, expected) in [
            (&[(METHOD, "tools/list")][..], METHOD),
            (&[(METHOD, "Tools/Call")], METHOD),
            (&[(METHOD, "tools/call"), (METHOD, "tools/call")], METHOD),
            (&[(METHOD, "=?base64?dG9vbHMvY2FsbA==?=")], METHOD),
            (&[(METHOD, "tools/call"), (NAME, "other")], NAME),
            (&[(NAME, "find"), (NAME, "other")], NAME),
            (&[(NAME, "")], NAME),
            (&[(NAME, "=?base64?b3RoZXI=?=")], NAME),
            (&[(NAME, "=?base64?ZmluZA?=")], NAME),
            (&[(NAME, "=?base64?!?=")], NAME),
            (&[(NAME, "=?BASE64?ZmluZA==?=")], NAME),
        ] {
            assert_eq!(judged(headers, CALL), Some(expected), "{headers:?}");
        }
        let response = r#"{"id":1,"result":{}}"#;
        assert_eq!(judged(&[(METHOD, "ping")], response), Some(METHOD));
        assert_eq!(judged(&[(METHOD, "ping")], r#"[{"id":1,"method":"ping"}]"#), None);
        let two = r#"[{"id":1,"method":"ping"},{"id":2,"method":"ping"}]"#;
        assert_eq!(judged(&[(METHOD, "ping")], two), Some(METHOD));
    }
}
