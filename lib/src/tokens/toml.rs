//! Tokens in TOML: `[token.NAME]` with keys, `NAME = "token"` under `[token]`, or `[[token]]` with `name`.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::lines::Lines;
use super::{BOM, Field, Item, MIN_TOKEN, NOT_TOKENS, Value, invalid};
use crate::config::ConfigError;

/// A whole file of tokens.
pub(super) fn parse(path: &Arc<Path>, text: &str) -> Result<Vec<Item>, ConfigError> {
    let reader = Reader::new(path, text);
    let document = reader.document()?;
    let mut items = Vec::new();
    for (key, value) in document.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("token", DeValue::Table(tokens)) => {
                for (name, value) in tokens {
                    items.push(reader.keyed(name, value)?);
                }
            }
            ("token", DeValue::Array(tokens)) => {
                for (index, value) in tokens.iter().enumerate() {
                    items.push(reader.listed(index, value)?);
                }
            }
            _ => return Err(invalid(path, reader.lines.at(key.span().start), shown(key), NOT_TOKENS)),
        }
    }
    // Tables come sorted by name; people look for the second of two.
    items.sort_by_key(|item| item.span.start);
    Ok(items)
}

/// A file that is about one token.
pub(super) fn one(path: &Arc<Path>, name: &str, text: &str) -> Result<Item, ConfigError> {
    let reader = Reader::new(path, text);
    let document = reader.document()?;
    let mut item = Item::new(path, 1, 0..text.len());
    item.named(Some(name.to_owned()), String::new());
    item.fields = reader.fields(document.get_ref());
    Ok(item)
}

struct Reader<'t> {
    path: &'t Arc<Path>,
    text: &'t str,
    /// Bytes before `text` in the file.
    skipped: usize,
    lines: Lines,
}

impl<'t> Reader<'t> {
    fn new(path: &'t Arc<Path>, whole: &'t str) -> Self {
        let text = whole.trim_start_matches(BOM);
        Self { path, text, skipped: whole.len() - text.len(), lines: Lines::of(text) }
    }

    fn document(&self) -> Result<Spanned<DeTable<'t>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| {
            let line = self.lines.at(error.span().map_or(0, |span| span.start));
            let what = "not valid TOML; every text needs quotes, and no name may stand twice";
            invalid(self.path, line, String::new(), what)
        })
    }

    fn keyed(&self, name: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) -> Result<Item, ConfigError> {
        let mut item = Item::new(self.path, self.lines.at(name.span().start), self.place(name.span()));
        item.named(Some(name.get_ref().to_string()), format!("token.{}", name.get_ref()));
        self.fill(item, value)
    }

    fn listed(&self, index: usize, value: &Spanned<DeValue<'_>>) -> Result<Item, ConfigError> {
        let mut item = Item::new(self.path, self.lines.at(value.span().start), self.place(value.span()));
        item.named(None, format!("token[{index}]"));
        let mut item = self.fill(item, value)?;
        item.take_name()?;
        Ok(item)
    }

    fn fill(&self, mut item: Item, value: &Spanned<DeValue<'_>>) -> Result<Item, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) => item.plain(text.to_string(), self.lines.at(value.span().start)),
            DeValue::Table(table) => item.fields = self.fields(table),
            _ => {
                item.doubt_name();
                return Err(item.refuse("", NOT_TOKENS));
            }
        }
        Ok(item)
    }

    fn fields(&self, table: &DeTable<'_>) -> Vec<Field> {
        let field = |(key, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| Field {
            key: key.get_ref().to_string(),
            value: read(value.get_ref()),
            span: self.place(value.span()),
            line: self.lines.at(key.span().start),
        };
        table.iter().map(field).collect()
    }

    fn place(&self, span: Range<usize>) -> Range<usize> {
        span.start + self.skipped..span.end + self.skipped
    }
}

fn read(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(time) => Value::Time(time.to_string()),
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Array(list) => {
            let texts = list.iter().map(|one| one.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<_>>().map_or(Value::Other, Value::Texts)
        }
        _ => Value::Other,
    }
}

/// A key that cannot be a token.
fn shown(key: &Spanned<DeString<'_>>) -> String {
    if key.get_ref().len() < MIN_TOKEN { key.get_ref().to_string() } else { String::new() }
}
