//! Changes of tokens in JSON, made at their places in the text: everything else stays as it is, to the byte.

use mcp_daemon::tokens::Item;
use serde_json::{Map, Value, json};

use super::write::{New, hash_of};
use crate::credentials::moment;

/// The text with one more token.
pub(super) fn with(text: &str, items: &[Item], new: &New, digest: &[u8; 32]) -> String {
    let name = Value::from(new.name.as_str());
    let Some(last) = items.iter().map(Item::span).max_by_key(|span| span.end) else {
        return format!("{{\n  {name}: {}\n}}\n", Value::from(table(new, digest)));
    };
    let before = text[..last.start].trim_end();
    let entry = if before.ends_with(':') {
        format!("{name}: {}", Value::from(table(new, digest)))
    } else {
        let mut table = table(new, digest);
        table.insert("name".into(), name);
        Value::from(table).to_string()
    };
    let space = if text.trim_end().contains('\n') { "\n  " } else { " " };
    format!("{},{space}{entry}{}", &text[..last.end], &text[last.end..])
}

/// The text with a token switched off.
pub(super) fn disabled(text: &str, item: &Item, digest: &[u8; 32]) -> String {
    let place = item.span();
    let (place, new) = match item.fields().iter().find(|field| field.key == "disabled") {
        Some(field) => (field.span.clone(), "true".to_owned()),
        None if text[place.clone()].starts_with('{') => {
            let comma = if item.fields().is_empty() { "" } else { ", " };
            (place.start + 1..place.start + 1, format!("\"disabled\": true{comma}"))
        }
        None => (place, json!({"hash": hash_of(digest), "disabled": true}).to_string()),
    };
    format!("{}{new}{}", &text[..place.start], &text[place.end..])
}

fn table(new: &New, digest: &[u8; 32]) -> Map<String, Value> {
    let mut table = Map::new();
    let mut put = |key: &str, value: Value| table.insert(key.to_owned(), value);
    put("hash", hash_of(digest).into());
    if let Some(subject) = &new.subject {
        put("subject", subject.as_str().into());
    }
    if let Some(route) = &new.route {
        put("route", route.as_str().into());
    }
    if !new.scopes.is_empty() {
        put("scopes", new.scopes.clone().into());
    }
    if let Some(expires) = new.expires {
        put("expires", moment::spell(expires).into());
    }
    if let Some(note) = &new.note {
        put("note", note.as_str().into());
    }
    table
}
