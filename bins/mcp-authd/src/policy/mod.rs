//! What a body asks for, and which scopes that needs. Only envelopes are read: method, and the name of what is called.

use std::borrow::Cow;

use mcp_daemon::mcp::{Envelope, Malformed};
use serde_json::value::RawValue;

use crate::config::policy::Rule;
use crate::identity::Scopes;

/// One message of a body.
#[derive(Debug, Eq, PartialEq)]
pub struct Asked<'a> {
    /// The method, or `""` for a response.
    pub method: Cow<'a, str>,
    /// The tool, prompt or resource; `""` where there is none.
    pub name: String,
}

/// A body as far as it was read.
#[derive(Debug)]
pub struct Read<'a> {
    /// The raw id of a single request, for its answer; `None` for a batch and for what wants no answer.
    pub id: Option<&'a RawValue>,
    /// Every message, in order; never empty.
    pub messages: Vec<Asked<'a>>,
}

/// Reads a body: one message, or a batch of them (MCP 2025-03-26 has batches).
pub fn read(body: &[u8]) -> Result<Read<'_>, Malformed> {
    let envelope = Envelope::parse(body)?;
    let id = envelope.method.as_ref().and(envelope.id);
    let name = envelope.tool().unwrap_or_default();
    Ok(Read { id, messages: vec![Asked { method: envelope.method.unwrap_or_default(), name }] })
}

/// The scopes that are missing for a message on a route, in the order of the rules.
pub fn missing<'r>(rules: &'r [Rule], route: &str, asked: &Asked<'_>, scopes: &Scopes) -> Vec<&'r str> {
    let mut missing = Vec::new();
    for rule in rules {
        let about = [(&rule.route, route), (&rule.method, &*asked.method), (&rule.name, &asked.name)];
        if about.iter().all(|(pattern, text)| matches(pattern, text)) {
            missing.extend(rule.scopes.iter().map(String::as_str).filter(|scope| !scopes.has(scope)));
        }
    }
    missing
}

/// Whether `*` in a pattern can stand for what is missing to the text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = text.find(piece) else { return false };
        text = &text[at + piece.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*a", "a", false),
            ("abc", "abcd", false),
            ("a**", "a", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
