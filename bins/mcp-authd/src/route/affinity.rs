//! Session ids that say which upstream they belong to, so that nobody has to remember it: `<upstream>.<id>`.
//!
//! Names have no dot, so the first dot ends the name, whatever the id holds.

use http::HeaderValue;

/// Longest name of an upstream in bytes.
pub const MAX_NAME: usize = 32;

/// Whether a text can be the name of an upstream: `[a-z0-9-]{1,32}`.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The name of an upstream and the id that it knows, if that is what a client's session id is made of.
pub fn split(session: &str) -> Option<(&str, &str)> {
    // Most ids have none; a name is short.
    let dot = session.bytes().take(MAX_NAME + 1).position(|byte| byte == b'.')?;
    let (name, id) = (&session[..dot], &session[dot + 1..]);
    (is_name(name) && !id.is_empty()).then_some((name, id))
}

/// What a client gets to know of an id of the upstream `name`; `None` if that were no header value.
pub fn join(name: &str, id: &HeaderValue) -> Option<HeaderValue> {
    let mut joined = Vec::with_capacity(name.len() + 1 + id.len());
    joined.extend_from_slice(name.as_bytes());
    joined.push(b'.');
    joined.extend_from_slice(id.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_begins_with_a_name_and_a_dot_belongs_to_an_upstream() {
        assert_eq!(split("a.b"), Some(("a", "b")));
        assert_eq!(split("a-1.b.c"), Some(("a-1", "b.c")));
        for bare in ["", "a", "a.", ".b", "A.b", "a_b.c", "5d41402abc4b2a76b9719d911017c592"] {
            assert_eq!(split(bare), None, "{bare}");
        }
        assert_eq!(split(&format!("{}.b", "x".repeat(MAX_NAME + 1))), None);
    }

    proptest! {
        #[test]
        fn every_id_comes_back_as_it_went(name in "[a-z0-9-]{1,32}", id in "[!-~]{1,128}") {
            let joined = join(&name, &id.parse().unwrap()).unwrap();
            prop_assert_eq!(split(joined.to_str().unwrap()), Some((&*name, &*id)));
        }

        #[test]
        fn no_text_is_taken_for_more_than_it_holds(text in "[ -~]{0,64}") {
            if let Some((name, id)) = split(&text) {
                prop_assert_eq!(format!("{name}.{id}"), text.as_str());
                prop_assert!(is_name(name));
            }
        }
    }
}
