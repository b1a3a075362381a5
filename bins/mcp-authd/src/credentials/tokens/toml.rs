//! Changes of tokens in TOML that leave comments, order and form of everything else as they are.

use toml_edit::{Array, DocumentMut, InlineTable, Item, Key, Table, TableLike, Value, value};

use super::write::{New, hash_of};
use crate::credentials::moment;

const NOT_TABLES: &str = "its tokens are no [token.NAME] tables; change it by hand";

/// The text with one more token, at its end.
pub(super) fn with(text: &str, new: &New, digest: &[u8; 32]) -> Result<String, &'static str> {
    let gap = if text.is_empty() || text.ends_with("\n\n") {
        ""
    } else if text.ends_with('\n') {
        "\n"
    } else {
        "\n\n"
    };
    let name = Key::new(&new.name);
    let text = format!("{text}{gap}[token.{}]\n{}", name.display_repr(), table(new, digest));
    parse(&text).map(|_| text)
}

/// A file about one token.
pub(super) fn alone(new: &New, digest: &[u8; 32]) -> String {
    table(new, digest).to_string()
}

/// A file about a token of which only the hash is known, switched off.
pub(super) fn revoked(digest: &[u8; 32]) -> String {
    format!("hash = \"{}\"\ndisabled = true\n", hash_of(digest))
}

/// The text with a token switched off: the one of this name, or the one at `index` of a list.
pub(super) fn disabled(
    text: &str,
    name: &str,
    index: usize,
    digest: &[u8; 32],
) -> Result<String, &'static str> {
    let mut document = parse(text)?;
    let tokens = document.get_mut("token").ok_or(NOT_TABLES)?;
    let one = match tokens {
        Item::ArrayOfTables(list) => list.get_mut(index).map(|table| table as &mut dyn TableLike),
        tokens => {
            let one = tokens.as_table_like_mut().and_then(|tokens| tokens.get_mut(name)).ok_or(NOT_TABLES)?;
            if one.is_str() {
                let mut table = InlineTable::new();
                table.insert("hash", hash_of(digest).into());
                *one = value(table);
            }
            one.as_table_like_mut()
        }
    };
    switch_off(one.ok_or(NOT_TABLES)?);
    Ok(document.to_string())
}

/// The text of a file about one token, with that switched off.
pub(super) fn disabled_alone(text: &str) -> Result<String, &'static str> {
    let mut document = parse(text)?;
    switch_off(document.as_table_mut());
    Ok(document.to_string())
}

fn switch_off(table: &mut dyn TableLike) {
    match table.get_mut("disabled").and_then(Item::as_value_mut) {
        Some(before) => {
            let mut after = Value::from(true);
            // The comment behind it.
            *after.decor_mut() = before.decor().clone();
            *before = after;
        }
        None => {
            table.insert("disabled", value(true));
        }
    }
}

fn table(new: &New, digest: &[u8; 32]) -> Table {
    let mut table = Table::new();
    table.insert("hash", value(hash_of(digest)));
    if let Some(subject) = &new.subject {
        table.insert("subject", value(subject.as_str()));
    }
    if let Some(route) = &new.route {
        table.insert("route", value(route.as_str()));
    }
    if !new.scopes.is_empty() {
        table.insert("scopes", value(new.scopes.iter().collect::<Array>()));
    }
    if let Some(expires) = new.expires {
        table.insert("expires", value(moment::spell(expires)));
    }
    if let Some(note) = &new.note {
        table.insert("note", value(note));
    }
    table
}

fn parse(text: &str) -> Result<DocumentMut, &'static str> {
    text.trim_start_matches('\u{feff}').parse().map_err(|_| NOT_TABLES)
}
