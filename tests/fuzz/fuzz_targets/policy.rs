//! What a body asks for: nothing makes its reader panic, and what is read is what every other reader of JSON finds, be it
//! one that takes the last of two members or one that does not care for upper and lower case.

#![no_main]

use authd::config::Config;
use authd::identity::Scopes;
use authd::policy::{self, MAX_BATCH, headers};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    // The first two lines are headers, the rest is a body.
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let mut said = HeaderMap::new();
    for name in ["mcp-method", "mcp-name"] {
        let line = lines.next().unwrap_or_default();
        if let Ok(value) = HeaderValue::from_bytes(line)
            && !line.is_empty()
        {
            said.insert(name, value);
        }
    }
    let body = lines.next().unwrap_or_default();
    let _ = policy::read(body, false);
    let Ok(read) = policy::read(body, true) else { return };
    assert!((1..=MAX_BATCH).contains(&read.messages.len()));

    let agrees = headers::contradiction(&said, &read).is_none();
    // Numbers that this reader has no room for may stand where nobody looks.
    let Ok(other) = serde_json::from_slice::<Value>(body) else { return };
    let found = match &other {
        Value::Array(all) => all.iter().collect(),
        one => vec![one],
    };
    assert_eq!((found.len(), other.is_array()), (read.messages.len(), read.is_batch));
    for (asked, message) in read.messages.iter().zip(&found) {
        let method = the_only(message, "method").and_then(Value::as_str).unwrap_or_default();
        assert_eq!(asked.method, method);
        if method == "subscriptions/listen" {
            let params = the_only(message, "params").unwrap_or(&Value::Null);
            let wanted = the_only(params, "notifications").unwrap_or(&Value::Null);
            let found = match the_only(wanted, "resourceSubscriptions") {
                Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
                Some(Value::String(one)) => vec![one.as_str()],
                _ => Vec::new(),
            };
            assert_eq!(asked.uris, found);
        }
        let name = match method {
            "prompts/get" | "tools/call" => "name",
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => "uri",
            _ => continue,
        };
        let params = the_only(message, "params").unwrap_or(&Value::Null);
        let name = the_only(params, name).and_then(Value::as_str).unwrap_or_default();
        assert_eq!(asked.name, name);
        if agrees && let Some(value) = said.get("mcp-method") {
            assert_eq!(value.as_bytes().trim_ascii(), method.as_bytes());
        }
    }
    let calls = |message: &&Value| message["method"] == "tools/call" && message["params"]["name"] == "danger";
    if found.iter().any(calls) {
        let rules = "[[require]]\nmethod = 'tools/call'\nname = 'dang*'\nscopes = ['s']";
        let config: Config = mcp_daemon::config::parse("fuzz.toml".as_ref(), rules).expect("rules of ours");
        let none = Scopes::Only(Default::default());
        assert!(policy::lacking(&config.require, "r", &read.messages, &none).is_some());
    }
});

/// A member, after a check that no other is called like it.
fn the_only<'v>(object: &'v Value, name: &str) -> Option<&'v Value> {
    let mut like = object.as_object()?.iter().filter(|(own, _)| own.to_uppercase() == name.to_uppercase());
    let first = like.next()?;
    assert!(like.next().is_none() && first.0 == name, "{name} can be read in two ways");
    Some(first.1)
}
