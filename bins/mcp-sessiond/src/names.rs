//! The few members beyond the envelope that tell to which request a message belongs, and their exchange for ours.
//!
//! Clients that share a process or a session number their requests alike, so ids, progress tokens and subscription ids are replaced
//! on the way in and put back on the way out; everything else stays byte for byte.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// `_meta` and the top-level members that name another request.
#[derive(Default, Deserialize)]
pub(crate) struct Names<'a> {
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<Meta<'a>>,
    /// Of `notifications/progress`: the token that the request asked it to carry.
    #[serde(borrow, default, rename = "progressToken")]
    pub(crate) progress: Option<&'a RawValue>,
    /// Of `notifications/cancelled`.
    #[serde(borrow, default, rename = "requestId")]
    pub(crate) request: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    progress: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/subscriptionId")]
    subscription: Option<&'a RawValue>,
}

impl<'a> Names<'a> {
    /// Reads the names in `params` (or in `result`); a shape that has none is not an error.
    pub(crate) fn read(members: Option<&'a RawValue>) -> Self {
        let Some(members) = members else { return Names::default() };
        let text = members.get();
        // Most messages have none of them: a scan for the words is cheaper than a second parse.
        if !["progressToken", "requestId", "subscriptionId"].iter().any(|word| text.contains(word)) {
            return Names::default();
        }
        serde_json::from_str(text).unwrap_or_default()
    }

    /// `_meta.progressToken`: what a request asks its progress to carry.
    pub(crate) fn token(&self) -> Option<&'a RawValue> {
        self.meta.as_ref()?.progress
    }

    /// `_meta["io.modelcontextprotocol/subscriptionId"]`: the id of the `subscriptions/listen` this belongs to.
    pub(crate) fn subscription(&self) -> Option<&'a RawValue> {
        self.meta.as_ref()?.subscription
    }
}

/// `message` with each of the raw values, which must be parts of it, replaced.
pub(crate) fn exchange(message: &Bytes, values: &[(Option<&RawValue>, &str)]) -> Bytes {
    let mut places: Vec<(&RawValue, &str)> =
        values.iter().filter_map(|(old, new)| Some(((*old)?, *new))).collect();
    // From the back, so that earlier places stay where they are.
    places.sort_by_key(|(old, _)| std::cmp::Reverse(old.get().as_ptr() as usize));
    let mut tail = Vec::new();
    let mut end = message.len();
    for (old, new) in places {
        let start = old.get().as_ptr() as usize - message.as_ptr() as usize;
        tail.push(&message[start + old.get().len()..end]);
        tail.push(new.as_bytes());
        end = start;
    }
    let mut out = Vec::with_capacity(message.len() + 64);
    out.extend_from_slice(&message[..end]);
    tail.iter().rev().for_each(|piece| out.extend_from_slice(piece));
    out.into()
}

/// The id of a message of which only the beginning is there or worth reading; none if it has a method.
pub(crate) fn early_id(beginning: &[u8]) -> Option<String> {
    struct Top<'s>(&'s mut Option<String>);
    impl<'de> Visitor<'de> for Top<'_> {
        type Value = ();
        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("a JSON-RPC message")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(key) = map.next_key::<String>()? {
                match key.as_str() {
                    "id" => *self.0 = Some(map.next_value::<Box<RawValue>>()?.get().to_owned()),
                    "method" => {
                        *self.0 = None;
                        break;
                    }
                    "result" | "error" if self.0.is_some() => break,
                    _ => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(())
        }
    }
    let mut id = None;
    let mut reader = serde_json::Deserializer::from_slice(beginning);
    // Always ends in an error, at the place where the text was cut or we stopped to look.
    let _ = serde::Deserializer::deserialize_map(&mut reader, Top(&mut id));
    id
}

/// One spelling for one id: a server may answer `1` to `1.0`, or `"a/b"` to `"a\u002fb"`.
pub(crate) fn key(id: &str) -> String {
    let is_plain = id.bytes().all(|byte| byte.is_ascii_digit())
        || (id.starts_with('"') && !id.contains('\\') && id.len() > 1);
    if is_plain {
        return id.to_owned();
    }
    match serde_json::from_str(id) {
        Ok(serde_json::Value::Number(number)) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 2f64.powi(53) => (float as i64).to_string(),
            _ => number.to_string(),
        },
        Ok(value) => value.to_string(),
        Err(_) => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::Envelope;

    #[test]
    fn ids_and_tokens_are_exchanged_and_nothing_else() {
        let body = Bytes::from_static(
            br#"{"params": {"_meta":{"progressToken": 1 ,"x":1}, "n":1}, "id" : 1,"method":"tools/call"}"#,
        );
        let envelope = Envelope::parse(&body).unwrap();
        let names = Names::read(envelope.params);
        let new = exchange(&body, &[(envelope.id, "\"s-1\""), (names.token(), "\"t\""), (None, "never")]);
        assert_eq!(
            new,
            r#"{"params": {"_meta":{"progressToken": "t" ,"x":1}, "n":1}, "id" : "s-1","method":"tools/call"}"#
        );
    }

    #[test]
    fn names_are_found_where_they_belong() {
        let raw = |text: &str| RawValue::from_string(text.into()).unwrap();
        let progress = raw(r#"{"progressToken":"p","progress":1}"#);
        assert_eq!(Names::read(Some(&progress)).progress.unwrap().get(), "\"p\"");
        let event = raw(r#"{"_meta":{"io.modelcontextprotocol/subscriptionId":7}}"#);
        assert_eq!(Names::read(Some(&event)).subscription().unwrap().get(), "7");
        let odd = raw(r#"["progressToken"]"#);
        assert!(Names::read(Some(&odd)).progress.is_none());
    }

    #[test]
    fn an_id_is_recognised_in_another_spelling() {
        assert_eq!(key("1.0"), key("1"));
        assert_eq!(key(r#""a\u002fb""#), key(r#""a/b""#));
        assert_ne!(key("1"), key(r#""1""#));
        assert_ne!(key("-1"), key("1"));
    }

    #[test]
    fn the_id_of_a_cut_response_is_known_and_that_of_a_request_is_not() {
        assert_eq!(early_id(br#"{"jsonrpc":"2.0","id":"a","result":{"x":"aaaa"#).as_deref(), Some("\"a\""));
        assert_eq!(early_id(br#"{"id":7,"error":{"x"#).as_deref(), Some("7"));
        assert_eq!(early_id(br#"{"id":7,"method":"ping","params":"#), None);
        assert_eq!(early_id(b"warning: no json"), None);
        assert_eq!(early_id(br#"{"result":{"x"#), None);
    }
}
