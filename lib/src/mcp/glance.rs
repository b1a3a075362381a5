//! What a message of the server is, told by as little of it as possible: most of them are large results.

use serde::Deserialize;

/// What the first telling member of a message says it is: the whole of a large result need not be read for that.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Glance {
    /// A response with `error`.
    Error,
    /// A request or a notification.
    Method,
    /// A response with `result`.
    Result,
}

/// Reads `message` up to the first of `method`, `result` and `error`; `None` if it has none of them.
pub fn glance(message: &[u8]) -> Option<Glance> {
    if let Some(told) = glance_at_prefix(message) {
        return Some(told);
    }
    #[derive(Deserialize)]
    #[serde(field_identifier, rename_all = "lowercase")]
    enum Key {
        Error,
        Method,
        Result,
        #[serde(other)]
        Other,
    }
    struct Telling<'s>(&'s mut Option<Glance>);
    impl<'de> serde::de::Visitor<'de> for Telling<'_> {
        type Value = ();
        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("a JSON-RPC message")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while self.0.is_none() {
                match map.next_key::<Key>()? {
                    Some(Key::Error) => *self.0 = Some(Glance::Error),
                    Some(Key::Method) => *self.0 = Some(Glance::Method),
                    Some(Key::Result) => *self.0 = Some(Glance::Result),
                    Some(Key::Other) => drop(map.next_value::<serde::de::IgnoredAny>()?),
                    None => break,
                }
            }
            Ok(())
        }
    }
    let mut seen = None;
    // Leaving the map early is an error to serde_json; what was seen until then is all that is asked.
    let _ = serde::Deserializer::deserialize_map(
        &mut serde_json::Deserializer::from_slice(message),
        Telling(&mut seen),
    );
    seen
}

/// The same for how most servers write: version, a plain id, and then what it is, without a space in between.
fn glance_at_prefix(message: &[u8]) -> Option<Glance> {
    let rest = message.strip_prefix(br#"{"jsonrpc":"2.0","id":"#)?;
    let id = rest.iter().position(|byte| !byte.is_ascii_digit()).filter(|digits| *digits > 0)?;
    match &rest[id..] {
        rest if rest.starts_with(br#","result":"#) => Some(Glance::Result),
        rest if rest.starts_with(br#","error":"#) => Some(Glance::Error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glance_stops_at_the_first_telling_member() {
        assert_eq!(
            glance(br#"{"jsonrpc":"2.0","id":1,"result":{"this is not even json"#),
            Some(Glance::Result)
        );
        assert_eq!(glance(br#"{"error":{},"id":1}"#), Some(Glance::Error));
        assert_eq!(glance(br#"{"params":{"result":1},"method":"x"}"#), Some(Glance::Method));
        assert_eq!(glance(b"{}"), None);
        assert_eq!(glance(b"[1"), None);
    }

    #[test]
    fn a_glance_at_what_most_servers_write_sees_what_a_longer_look_sees() {
        let spaced = |message: &str| message.replace(':', ": ");
        for (message, seen) in [
            (r#"{"jsonrpc":"2.0","id":12,"result":{}}"#, Some(Glance::Result)),
            (r#"{"jsonrpc":"2.0","id":0,"error":{}}"#, Some(Glance::Error)),
            (r#"{"jsonrpc":"2.0","id":12,"method":"ping"}"#, Some(Glance::Method)),
            (r#"{"jsonrpc":"2.0","id":1.5,"result":{}}"#, Some(Glance::Result)),
            (r#"{"jsonrpc":"2.0","id":"result","error":{}}"#, Some(Glance::Error)),
            (r#"{"jsonrpc":"2.0","id":,"result":{}}"#, None),
            (r#"{"jsonrpc":"2.0","id":1"#, None),
        ] {
            assert_eq!(
                (glance(message.as_bytes()), glance(spaced(message).as_bytes())),
                (seen, seen),
                "{message}"
            );
        }
    }
}
