//! The JSON-RPC envelope of MCP, as far as a proxy has to look: which kind of message, which id, which method.
//!
//! Not a model of the protocol: bodies stay the bytes that came (see `splice_id` for the one exception).

mod glance;

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderName;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

pub use self::glance::{Glance, glance};

/// Header that carries a session's id (MCP 2025-11-25, transports, session management).
pub const SESSION_HEADER: &str = "mcp-session-id";
/// Header that carries the agreed protocol version (MCP 2025-06-18 and later).
pub const VERSION_HEADER: &str = "mcp-protocol-version";
/// [`SESSION_HEADER`], parsed: looking it up costs less than the text does.
#[allow(clippy::declare_interior_mutable_const, reason = "a static name is never mutated")]
pub const SESSION: HeaderName = HeaderName::from_static(SESSION_HEADER);
/// [`VERSION_HEADER`], parsed.
#[allow(clippy::declare_interior_mutable_const, reason = "a static name is never mutated")]
pub const VERSION: HeaderName = HeaderName::from_static(VERSION_HEADER);
/// Header with the authenticated subject; believed on trusted listeners only, removed from everything else.
pub const SUBJECT_HEADER: &str = "mcp-auth-subject";
/// Header with the route of that subject; believed and removed likewise.
pub const ROUTE_HEADER: &str = "mcp-route";
/// [`SUBJECT_HEADER`], parsed.
#[allow(clippy::declare_interior_mutable_const, reason = "a static name is never mutated")]
pub const SUBJECT: HeaderName = HeaderName::from_static(SUBJECT_HEADER);
/// [`ROUTE_HEADER`], parsed.
#[allow(clippy::declare_interior_mutable_const, reason = "a static name is never mutated")]
pub const ROUTE: HeaderName = HeaderName::from_static(ROUTE_HEADER);
/// Header on an error answer of a trusted Unix upstream: nothing of the request reached the server.
pub const NOT_FORWARDED_HEADER: &str = "mcp-not-forwarded";
/// The version a server assumes of a request without the header (MCP 2025-11-25, transports).
pub const DEFAULT_VERSION: &str = "2025-03-26";
/// The first version without sessions; versions are dates, so text order is time order.
pub const FIRST_MODERN_VERSION: &str = "2026-07-28";
/// The versions with sessions.
pub const LEGACY_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// Deepest nesting of arrays and objects in a body, counted from 1; serde_json's own limit for a parsed value.
pub const MAX_DEPTH: usize = 128;

/// JSON-RPC: the body is not JSON.
pub const PARSE_ERROR: i32 = -32700;
/// JSON-RPC: the body is JSON but not one message.
pub const INVALID_REQUEST: i32 = -32600;
/// JSON-RPC: unknown method.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// JSON-RPC: wrong parameters.
pub const INVALID_PARAMS: i32 = -32602;
/// JSON-RPC: something failed on this side of the wire.
pub const INTERNAL_ERROR: i32 = -32603;

/// The top level of one JSON-RPC message.
#[derive(Deserialize, Debug)]
pub struct Envelope<'a> {
    /// Kept raw: `1`, `1.0` and `"1"` are three different ids.
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    /// A `Cow`, because `"a\u002fb"` is a valid spelling of a method.
    #[serde(borrow, default, deserialize_with = "text")]
    pub method: Option<Cow<'a, str>>,
    /// Parameters, unread.
    #[serde(borrow, default)]
    pub params: Option<&'a RawValue>,
    /// Result of a response, unread.
    #[serde(borrow, default)]
    pub result: Option<&'a RawValue>,
    /// Error of a response, unread.
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
}

/// What is wrong with a message, without a word of what stands in it: such texts end in logs.
pub fn without_content(error: &serde_json::Error) -> String {
    let said = error.to_string();
    match said.split_once(" at line ") {
        // The only message that names a member, and that is one of ours.
        Some((what, place)) if what.starts_with("duplicate field `") => format!("{what} at line {place}"),
        Some((_, place)) => format!("something has the wrong type at line {place}"),
        None => "something has the wrong type".to_owned(),
    }
}

/// A text that is borrowed unless it has escapes; serde itself does that for a `Cow` but not for one in an `Option`.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    Ok(Option::<Text<'de>>::deserialize(deserializer)?.map(|text| text.0))
}

/// What a message is, by the members it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Has a method and no id: nobody answers it.
    Notification,
    /// Has a method and an id: wants exactly one response.
    Request,
    /// Has an id and a result or an error.
    Response,
}

/// Why a body is not one message.
#[derive(Debug, thiserror::Error, Eq, PartialEq)]
pub enum Malformed {
    /// An array: a batch, or a deep pile of brackets.
    #[error("a batch is not accepted here; send each message in its own POST")]
    Batch,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    Deep,
    /// Has neither a method, nor an id with a result or an error; or a member twice.
    #[error("not one JSON-RPC message: {0}")]
    NotAMessage(String),
    /// Not JSON at all.
    #[error("not JSON: {0}")]
    NotJson(String),
}

impl Malformed {
    /// The JSON-RPC code for it.
    pub fn code(&self) -> i32 {
        match self {
            Malformed::NotJson(_) => PARSE_ERROR,
            Malformed::Batch | Malformed::Deep | Malformed::NotAMessage(_) => INVALID_REQUEST,
        }
    }
}

impl<'a> Envelope<'a> {
    /// Reads the top level of `body`; one pass, nothing copied but an escaped method name.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let start = body.iter().find(|byte| !byte.is_ascii_whitespace());
        if too_deep(body) {
            return Err(Malformed::Deep);
        }
        if start == Some(&b'[') {
            return Err(Malformed::Batch);
        }
        // Looked at as a whole, text is known for text sooner than piece by piece.
        let read = match std::str::from_utf8(body) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(body),
        };
        let envelope: Envelope<'a> = read.map_err(|error| match error.classify() {
            serde_json::error::Category::Data => Malformed::NotAMessage(without_content(&error)),
            _ => Malformed::NotJson(error.to_string()),
        })?;
        if envelope.kind().is_none() {
            return Err(Malformed::NotAMessage("it has neither a method nor an id with a result".into()));
        }
        Ok(envelope)
    }

    /// What the message is; `None` if it is nothing that JSON-RPC knows.
    pub fn kind(&self) -> Option<Kind> {
        match (&self.method, self.id) {
            (Some(_), Some(_)) => Some(Kind::Request),
            (Some(_), None) => Some(Kind::Notification),
            (None, Some(_)) if self.result.is_some() || self.error.is_some() => Some(Kind::Response),
            (None, _) => None,
        }
    }

    /// The method, or `""` for a response.
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or_default()
    }

    /// `params.name` of a `tools/call` or `prompts/get`.
    pub fn tool(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        serde_json::from_str::<Named>(self.params?.get()).ok().map(|named| named.name)
    }
}

/// `code` and `message` of a JSON-RPC error object.
#[derive(Deserialize, Debug)]
pub struct RpcError {
    /// The JSON-RPC or MCP code.
    #[serde(default)]
    pub code: i64,
    /// The sentence.
    #[serde(default)]
    pub message: String,
}

/// `message` with the raw id replaced by `id` (itself raw JSON); everything else stays byte for byte.
///
/// `old` must be the id that [`Envelope::parse`] returned for this very `message`.
pub fn splice_id(message: &[u8], old: &RawValue, id: &str) -> Bytes {
    let start = old.get().as_ptr() as usize - message.as_ptr() as usize;
    let mut out = Vec::with_capacity(message.len() + id.len());
    out.extend_from_slice(&message[..start]);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(&message[start + old.get().len()..]);
    out.into()
}

/// A JSON-RPC error response; `id` is raw JSON, `null` where the request's id could not be read.
pub fn error_body(id: &str, code: i32, message: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{}}}}}"#,
        serde_json::Value::from(message)
    )
}

/// Whether a request speaks the stateless era: by its version header if that names a version, else by whether it has a
/// version in `_meta`, whichever. A server of that era refuses unknown versions itself.
pub fn is_modern(version_header: Option<&str>, envelope: Option<&Envelope<'_>>) -> bool {
    const KEY: &str = "io.modelcontextprotocol/protocolVersion";
    match version_header {
        Some(version) if LEGACY_VERSIONS.contains(&version) => return false,
        Some(version) if version.len() == FIRST_MODERN_VERSION.len() && version >= FIRST_MODERN_VERSION => {
            return true;
        }
        _ => {}
    }
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<Meta<'a>>,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
        version: Option<&'a RawValue>,
    }
    let Some(params) = envelope.and_then(|envelope| envelope.params) else { return false };
    if !params.get().contains(KEY) {
        return false;
    }
    let params: Result<Params<'_>, _> = serde_json::from_str(params.get());
    params.is_ok_and(|params| params.meta.is_some_and(|meta| meta.version.is_some()))
}

/// Whether brackets nest deeper than [`MAX_DEPTH`]. Cheap for ordinary bodies: only one with many brackets is scanned for strings.
fn too_deep(body: &[u8]) -> bool {
    if memchr::memchr2_iter(b'[', b'{', body).take(MAX_DEPTH + 1).count() <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in body {
        if in_string {
            (escaped, in_string) = (!escaped && *byte == b'\\', escaped || *byte != b'"');
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_keep_their_spelling() {
        for id in ["1", "1.0", "\"1\"", "\"a\\u002fb\"", "-0"] {
            let body = format!(r#"{{"jsonrpc":"2.0", "id" : {id} ,"method":"ping"}}"#);
            let envelope = Envelope::parse(body.as_bytes()).unwrap();
            assert_eq!(envelope.id.unwrap().get(), id);
            assert_eq!(envelope.kind(), Some(Kind::Request));
        }
    }

    #[test]
    fn an_escaped_method_is_read() {
        let envelope =
            Envelope::parse(br#"{"method":"tools\u002fcall","id":1,"params":{"name":"x"}}"#).unwrap();
        assert_eq!((envelope.method(), envelope.tool().as_deref()), ("tools/call", Some("x")));
    }

    #[test]
    fn what_is_not_one_message_is_named() {
        let code = |body: &str| Envelope::parse(body.as_bytes()).map(|_| ()).map_err(|error| error.code());
        assert_eq!(code("nonsense"), Err(PARSE_ERROR));
        assert_eq!(code(""), Err(PARSE_ERROR));
        assert_eq!(code(r#"{"id":1,"id":2,"method":"ping"}"#), Err(INVALID_REQUEST));
        assert_eq!(code(r#"{"id":1}"#), Err(INVALID_REQUEST));
        assert_eq!(code(r#"{"id":null,"method":3}"#), Err(INVALID_REQUEST));
        assert_eq!(Envelope::parse(br#"[{"id":1,"method":"ping"}]"#).unwrap_err(), Malformed::Batch);
        assert_eq!(Envelope::parse("[".repeat(10_000).as_bytes()).unwrap_err(), Malformed::Deep);
        let deep =
            format!(r#"{{"id":1,"method":"x","params":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(Envelope::parse(deep.as_bytes()).unwrap_err(), Malformed::Deep);
    }

    #[test]
    fn brackets_inside_strings_are_not_depth() {
        let body = format!(r#"{{"id":1,"method":"x","params":{{"text":"\"{}\\"}}}}"#, "[{".repeat(5_000));
        assert!(Envelope::parse(body.as_bytes()).is_ok());
    }

    #[test]
    fn only_an_escaped_method_is_copied() {
        let method = |body: &'static str| Envelope::parse(body.as_bytes()).unwrap().method.unwrap();
        assert!(matches!(method(r#"{"id":1,"method":"ping"}"#), Cow::Borrowed("ping")));
        assert!(matches!(method(r#"{"id":1,"method":"p\u0069ng"}"#), Cow::Owned(_)));
        assert_eq!(
            Envelope::parse(br#"{"id":1,"method":null,"result":1}"#).unwrap().kind(),
            Some(Kind::Response)
        );
    }

    #[test]
    fn modern_is_told_by_the_header_or_by_meta() {
        let body = br#"{"id":1,"method":"x","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let envelope = Envelope::parse(body).unwrap();
        assert!(is_modern(None, Some(&envelope)));
        assert!(is_modern(Some("2026-07-28"), None));
        assert!(!is_modern(Some("2025-11-25"), Some(&envelope)));
        assert!(!is_modern(None, None));
        // What no version is called like is for a modern server to refuse, if the body is modern.
        assert!(is_modern(Some("v999.0.0"), Some(&envelope)));
        assert!(!is_modern(Some("v999.0.0"), None));
    }

    proptest! {
        #[test]
        fn splicing_changes_the_id_and_nothing_else(id in "[a-z0-9]{1,20}", pad in "[ \n\t]{0,3}", text in ".{0,40}") {
            let text = serde_json::Value::from(text);
            let body = format!(r#"{{"params":{text},"id":{pad}7{pad},"method":"m"}}"#);
            let envelope = Envelope::parse(body.as_bytes()).unwrap();
            let spliced = splice_id(body.as_bytes(), envelope.id.unwrap(), &format!("\"{id}\""));
            let expected = format!(r#"{{"params":{text},"id":{pad}"{id}"{pad},"method":"m"}}"#);
            prop_assert_eq!(&spliced[..], expected.as_bytes());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Envelope::parse(&bytes).map(|_| ()), glance(&bytes));
        }
    }
}
