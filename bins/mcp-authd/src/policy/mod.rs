//! What a body asks for, and which scopes that needs. Only envelopes are read: method, and the name of what is called.
//!
//! Who decides by a body must read it as the server will. So nothing passes that two readers could read differently: a
//! member that stands there twice, a name that is no text, a header that says otherwise ([`headers`]).

pub mod headers;
mod rules;

use std::borrow::Cow;
use std::fmt;

use mcp_daemon::mcp::{Envelope, Malformed, without_content};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

pub use self::rules::lacking;
use crate::object::{Object, text};

/// Messages in a batch; each costs the server more than it costs us.
pub const MAX_BATCH: usize = 1_000;
/// What decides about a message.
const TELLING: [&str; 6] = ["error", "id", "jsonrpc", "method", "params", "result"];

/// One message of a body.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Asked<'a> {
    /// The method, or `""` for a response, and for GET and DELETE.
    pub method: Cow<'a, str>,
    /// The tool, prompt or resource; `""` where there is none.
    pub name: Cow<'a, str>,
}

/// A body as far as it was read.
#[derive(Debug)]
pub struct Read<'a> {
    /// The raw id of a single request, for its answer; `None` for a batch and for what wants no answer.
    pub id: Option<&'a RawValue>,
    /// The raw ids of the requests in a batch, in order.
    pub ids: Vec<&'a RawValue>,
    /// Every message, in order; never empty.
    pub messages: Vec<Asked<'a>>,
    /// Whether it is an array.
    pub is_batch: bool,
}

/// Reads a body: one message, or a batch of them (MCP 2025-03-26 has batches). `strictly`, where rules decide by it: then
/// a member that differs from a telling one in upper and lower case alone is an error too, because some servers' JSON
/// takes both for the same.
pub fn read(body: &[u8], strictly: bool) -> Result<Read<'_>, Malformed> {
    match message(body, strictly) {
        Ok((id, asked)) => Ok(Read { id, ids: Vec::new(), messages: vec![asked], is_batch: false }),
        // How deep it is was looked at before it was called a batch.
        Err(Malformed::Batch) => batch(body, strictly),
        Err(malformed) => Err(malformed),
    }
}

impl Read<'_> {
    /// Whether it is `notifications/initialized` and nothing else.
    pub fn is_initialized(&self) -> bool {
        !self.is_batch && self.id.is_none() && self.messages[0].method == "notifications/initialized"
    }
}

fn batch(body: &[u8], strictly: bool) -> Result<Read<'_>, Malformed> {
    let Batch(elements) = serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Malformed::NotAMessage(without_content(&error)),
        _ => Malformed::NotJson(error.to_string()),
    })?;
    if elements.is_empty() {
        return Err(Malformed::NotAMessage("a batch without messages".into()));
    }
    let (mut ids, mut messages) = (Vec::new(), Vec::with_capacity(elements.len()));
    for element in elements {
        match message(element.get().as_bytes(), strictly) {
            Ok((id, asked)) => {
                ids.extend(id);
                messages.push(asked);
            }
            Err(Malformed::Batch) => return Err(Malformed::NotAMessage("a batch in a batch".into())),
            Err(malformed) => return Err(malformed),
        }
    }
    Ok(Read { id: None, ids, messages, is_batch: true })
}

/// One message: the id of a request, and what it asks for.
fn message(json: &[u8], strictly: bool) -> Result<(Option<&RawValue>, Asked<'_>), Malformed> {
    let envelope = Envelope::parse(json)?;
    let ambiguous = |what: &str| Malformed::NotAMessage(format!("{what} can be read in two ways"));
    if strictly {
        let members = str::from_utf8(json).ok().and_then(Object::read).ok_or_else(|| ambiguous("it"))?;
        if members.has_look_alike(&TELLING) {
            return Err(ambiguous("it"));
        }
    }
    let id = envelope.method.as_ref().and(envelope.id);
    let method = envelope.method.unwrap_or_default();
    let member = match &*method {
        "prompts/get" | "tools/call" => "name",
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => "uri",
        _ => return Ok((id, Asked { method, name: Cow::default() })),
    };
    let Some(params) = envelope.params else { return Ok((id, Asked { method, name: Cow::default() })) };
    let params = Object::read(params.get()).ok_or_else(|| ambiguous("`params`"))?;
    if params.has_look_alike(&[member]) {
        return Err(ambiguous("`params`"));
    }
    let name = match params.get(member) {
        Some(name) => text(name).ok_or_else(|| Malformed::NotAMessage(format!("`{member}` is no text")))?,
        None => Cow::default(),
    };
    Ok((id, Asked { method, name }))
}

/// The elements of an array, each unread; reading ends at [`MAX_BATCH`].
struct Batch<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Batch<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Batch<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a batch of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Batch<'de>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    if elements.len() == MAX_BATCH {
                        return Err(de::Error::custom(format!("more than {MAX_BATCH} messages in a batch")));
                    }
                    elements.push(element);
                }
                Ok(Batch(elements))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

#[cfg(test)]
mod tests {
    use mcp_daemon::mcp::{INVALID_REQUEST, PARSE_ERROR};

    use super::*;

    fn asks(body: &str) -> Vec<(String, String)> {
        let read = read(body.as_bytes(), true).unwrap_or_else(|error| panic!("{body}: {error}"));
        read.messages.into_iter().map(|asked| (asked.method.into(), asked.name.into())).collect()
    }

    fn one(method: &str, name: &str) -> Vec<(String, String)> {
        vec![(method.into(), name.into())]
    }

    fn code(body: &str) -> i32 {
        read(body.as_bytes(), true)
            .map(|read| panic!("{body}: {read:?}"))
            .unwrap_or_else(|error| error.code())
    }

    #[test]
    fn method_and_name_are_read_however_they_are_spelled() {
        let call = |method: &str, params: &str| {
            asks(&format!(r#"{{"id":1,"method":"{method}","params":{params}}}"#))
        };
        assert_eq!(
            call("tools/call", r#"{"arguments":{"name":"x"},"name":"find"}"#),
            one("tools/call", "find")
        );
        assert_eq!(call("tools\\u002fcall", r#"{"n\u0061me":"f\u0069nd"}"#), one("tools/call", "find"));
        assert_eq!(call("prompts/get", r#"{"name":"p"}"#), one("prompts/get", "p"));
        assert_eq!(
            call("resources/read", r#"{"uri":"file:///a","name":"p"}"#),
            one("resources/read", "file:///a")
        );
        assert_eq!(call("resources/subscribe", r#"{"uri":"u"}"#), one("resources/subscribe", "u"));
        assert_eq!(call("tools/list", r#"{"name":"x"}"#), one("tools/list", ""));
        assert_eq!(call("tools/call", "{}"), one("tools/call", ""));
        assert_eq!(asks(r#"{"id":1,"method":"tools/call"}"#), one("tools/call", ""));
        assert_eq!(asks(r#"{"method":"tools/call","params":{"name":"x"}}"#), one("tools/call", "x"));
        assert_eq!(asks(r#"{"id":1,"result":{"method":"tools/call"}}"#), one("", ""));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for body in [
            r#"{"id":1,"method":"ping","method":"tools/call"}"#,
            r#"{"id":1,"method":"ping","Method":"tools/call"}"#,
            r#"{"id":1,"method":"ping","m\u0065thod":"tools/call"}"#,
            r#"{"id":1,"method":"tools/call","params":{},"PARAMS":{"name":"x"}}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":["a"]}}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":null}}"#,
            r#"{"id":1,"method":"tools/call","params":["a"]}"#,
            r#"{"id":1,"method":"resources/read","params":{"uri":"a","URI":"b"}}"#,
        ] {
            assert_eq!(code(body), INVALID_REQUEST, "{body}");
            assert_eq!(code(&format!("[{body}]")), INVALID_REQUEST, "{body}");
        }
    }

    #[test]
    fn every_message_of_a_batch_is_read() {
        let batch = r#" [{"id":1,"method":"ping"}, {"method":"tools/call","params":{"name":"x"}},{"id":3,"error":{}}]"#;
        let read = read(batch.as_bytes(), true).unwrap();
        assert!(read.id.is_none() && read.is_batch && !read.is_initialized());
        let ids: Vec<_> = read.ids.iter().map(|id| id.get()).collect();
        assert_eq!(ids, ["1"], "neither a notification nor a response is answered");
        assert_eq!(asks(batch), [one("ping", ""), one("tools/call", "x"), one("", "")].concat());
    }

    #[test]
    fn batches_are_bounded_and_hold_messages_alone() {
        let of = |count: usize| format!("[{}]", vec![r#"{"id":1,"method":"ping"}"#; count].join(","));
        assert_eq!(asks(&of(MAX_BATCH)).len(), MAX_BATCH);
        assert_eq!(code(&of(MAX_BATCH + 1)), INVALID_REQUEST);
        for bad in ["[]", "[1]", "[[]]", r#"[[{"id":1,"method":"ping"}]]"#, r#"[{"id":1}]"#, "[null]"] {
            assert_eq!(code(bad), INVALID_REQUEST, "{bad}");
        }
        for bad in ["[", "[{]", r#"[{"id":1,"method":"ping"},]"#, r#"[{"id":1,"method":"ping"}] []"#] {
            assert_eq!(code(bad), PARSE_ERROR, "{bad}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(deep.as_bytes(), true).unwrap_err(), Malformed::Deep);
    }

    #[test]
    fn the_initialized_notification_is_told_from_everything_like_it() {
        let is = |body: &str| read(body.as_bytes(), false).unwrap().is_initialized();
        assert!(is(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#));
        assert!(!is(r#"{"id":1,"method":"notifications/initialized"}"#));
        assert!(!is(r#"[{"method":"notifications/initialized"}]"#));
        assert!(!is(r#"{"method":"notifications/cancelled"}"#));
    }
}
