//! Files of tokens: nothing makes their reader panic, what it finds stands where it says, and a route never leaves its
//! directory.

#![no_main]

use std::path::Path;

use authd::credentials::tokens::entry::{Entry, Names};
use libfuzzer_sys::fuzz_target;
use mcp_daemon::config::ConfigError;
use mcp_daemon::tokens::{Item, Value, is_json, parse, parse_one};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    let path = Path::new("F");
    if let Ok(item) = parse_one(path, "name", text).map_err(|error| look_at(&error)) {
        read(&item);
    }
    let items = match parse(path, text) {
        Ok(items) => items,
        Err(error) => return look_at(&error),
    };
    for item in &items {
        read(item);
        let written = text.get(item.span()).expect("an item stands in the text");
        if is_json(text) {
            serde_json::from_str::<serde_json::Value>(written).expect("an item is a value");
            for field in item.fields() {
                look_at_field(&text[field.span.clone()], &field.value);
            }
        }
    }
});

fn read(item: &Item) {
    let route = item.route().map_err(|error| look_at(&error));
    if let Ok(route) = &route {
        let place = Path::new("/run").join(route.as_str());
        assert_eq!((place.parent(), place.components().count()), (Some(Path::new("/run")), 3), "{route}");
    }
    match Entry::read(item, 100, &mut Names::default()) {
        Ok(entry) => {
            assert!(item.digest().is_ok(), "a token without a digest is good for something");
            assert_eq!(Ok(entry.identity.route.clone()), route);
            assert!(entry.name.bytes().all(|byte| byte.is_ascii_graphic()));
        }
        Err(error) => look_at(&error),
    }
}

/// A plain token has no key of its own.
fn look_at_field(written: &str, value: &Value) {
    match value {
        _ if written.is_empty() => {}
        Value::Flag(flag) => assert_eq!(written, flag.to_string()),
        Value::Text(text) => {
            assert_eq!(serde_json::from_str::<String>(written).as_deref().ok(), Some(&**text))
        }
        Value::Texts(texts) => {
            assert_eq!(serde_json::from_str::<Vec<String>>(written).as_ref().ok(), Some(texts))
        }
        Value::Other => {}
        Value::Time(_) => unreachable!("JSON has no times"),
    }
}

fn look_at(error: &ConfigError) {
    let said = error.to_string();
    assert!(said.starts_with("F:"), "{said}");
}
