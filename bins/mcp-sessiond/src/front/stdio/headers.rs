//! The headers that a request of the stateless era repeats from its body (MCP 2026-07-28, transports).
//!
//! `Mcp-Param-*` headers, which only a server's `tools/list` can ask for, are not written.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use crate::mcp::{Envelope, VERSION_HEADER};

const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    uri: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "_meta")]
    meta: Meta<'a>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Cow<'a, str>,
}

/// Adds version, method and, where there is one, the name of what is called; `None` if one cannot be a header.
pub(super) fn modern(headers: &mut HeaderMap, envelope: &Envelope<'_>) -> Option<()> {
    let params: Params<'_> = serde_json::from_str(envelope.params?.get()).ok()?;
    headers.insert(VERSION_HEADER, HeaderValue::from_str(&params.meta.version).ok()?);
    if envelope.method.is_some() {
        headers.insert(METHOD, HeaderValue::from_str(envelope.method()).ok()?);
    }
    let name = match envelope.method() {
        "prompts/get" | "tools/call" => params.name,
        "resources/read" => params.uri,
        _ => None,
    };
    if let Some(name) = name {
        headers.insert(NAME, encode(&name));
    }
    Some(())
}

/// A text as a header: as it is where it is plain ASCII, else in Base64 with a mark around it.
fn encode(text: &str) -> HeaderValue {
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && text.trim_matches(' ') == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    let encoded = if is_plain { text.to_owned() } else { format!("=?base64?{}?=", Base64(text.as_bytes())) };
    HeaderValue::try_from(encoded).expect("printable ASCII is a header value")
}

/// Standard Base64 with padding (RFC 4648, section 4).
struct Base64<'a>(&'a [u8]);

impl std::fmt::Display for Base64<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for three in self.0.chunks(3) {
            let bits =
                three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
            for digit in 0..4 {
                let is_padding = digit > three.len();
                let value = (bits >> (18 - 6 * digit) & 63) as usize;
                out.write_char(if is_padding { '=' } else { char::from(DIGITS[value]) })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(method: &str, params: &str) -> Option<HeaderMap> {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
        let body = format!(r#"{{"id":1,"method":"{method}","params":{{{params}{meta}}}}}"#);
        let mut headers = HeaderMap::new();
        modern(&mut headers, &Envelope::parse(body.as_bytes()).unwrap()).map(|()| headers)
    }

    #[test]
    fn version_method_and_name_are_repeated() {
        let call = headers("tools/call", r#""name":"find symbol","#).unwrap();
        assert_eq!(call["mcp-protocol-version"], "2026-07-28");
        assert_eq!(
            (&call["mcp-method"], &call["mcp-name"]),
            (&"tools/call".parse().unwrap(), &"find symbol".parse().unwrap())
        );
        assert_eq!(headers("resources/read", r#""uri":"file:///a","#).unwrap()["mcp-name"], "file:///a");
        assert!(!headers("tools/list", r#""name":"x","#).unwrap().contains_key("mcp-name"));
        assert!(headers("a\\nb", "").is_none());
    }

    #[test]
    fn names_that_are_not_plain_ascii_are_encoded() {
        for (name, expected) in [
            ("über", "=?base64?w7xiZXI=?="),
            (" x", "=?base64?IHg=?="),
            ("=?base64?eA==?=", "=?base64?PT9iYXNlNjQ/ZUE9PT89?="),
            ("äöü", "=?base64?w6TDtsO8?="),
            ("a?=", "a?="),
        ] {
            assert_eq!(encode(name), expected, "{name}");
        }
    }
}
