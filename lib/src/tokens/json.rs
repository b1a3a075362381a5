//! Tokens in JSON: `{"name": "token"}`, `{"name": {keys}}`, `["token"]`, `[{"name": "name", keys}]`, or any of these under
//! `token` alone, which is the shape of the TOML file.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::lines::Lines;
use super::{BOM, Field, Item, NOT_TOKENS, Value, invalid};
use crate::config::ConfigError;

/// A whole text of tokens.
pub(super) fn parse(path: &Arc<Path>, text: &str) -> Result<Vec<Item>, ConfigError> {
    let reader = Reader { path, text, lines: Lines::of(text) };
    let entries = serde_json::from_str(text.trim_start_matches(BOM)).map_err(|error| {
        let what =
            if error.is_data() { NOT_TOKENS } else { "not valid JSON; check quotes, commas and brackets" };
        invalid(path, error.line().max(1), String::new(), what)
    })?;
    match inner(entries) {
        Entries::Keyed(entries) => entries.iter().map(|(name, raw)| reader.keyed(name, raw)).collect(),
        Entries::Listed(entries) => {
            entries.iter().enumerate().map(|(index, raw)| reader.listed(index, raw)).collect()
        }
    }
}

/// What an object or a list holds, each part as it is written.
enum Entries<'t> {
    Keyed(Vec<(String, &'t RawValue)>),
    Listed(Vec<&'t RawValue>),
}

/// What stands under `token`, if that is all there is and it holds tokens rather than the keys of one.
fn inner(entries: Entries<'_>) -> Entries<'_> {
    if let Entries::Keyed(keyed) = &entries
        && let [(key, raw)] = &keyed[..]
        && key == "token"
    {
        match serde_json::from_str(raw.get()) {
            Ok(Entries::Keyed(tokens)) if tokens.iter().all(|(_, raw)| raw.get().starts_with('{')) => {
                return Entries::Keyed(tokens);
            }
            Ok(list @ Entries::Listed(_)) => return list,
            _ => {}
        }
    }
    entries
}

struct Reader<'t> {
    path: &'t Arc<Path>,
    text: &'t str,
    lines: Lines,
}

impl Reader<'_> {
    fn keyed(&self, name: &str, raw: &RawValue) -> Result<Item, ConfigError> {
        let mut item = self.item(raw);
        item.named(Some(name.to_owned()), name.to_owned());
        self.fill(item, raw)
    }

    fn listed(&self, index: usize, raw: &RawValue) -> Result<Item, ConfigError> {
        let mut item = self.item(raw);
        item.named(None, format!("[{index}]"));
        let mut item = self.fill(item, raw)?;
        item.take_name()?;
        Ok(item)
    }

    fn item(&self, raw: &RawValue) -> Item {
        let place = self.place(raw);
        Item::new(self.path, self.lines.at(place.start), place)
    }

    fn fill(&self, mut item: Item, raw: &RawValue) -> Result<Item, ConfigError> {
        match serde_json::from_str(raw.get()) {
            Ok(Entries::Keyed(fields)) => {
                for (key, raw) in fields {
                    if item.value(&key).is_some() {
                        return Err(item.refuse("", "one of its keys stands twice"));
                    }
                    let span = self.place(raw);
                    let line = self.lines.at(span.start);
                    item.fields.push(Field { key, value: read(raw), span, line });
                }
            }
            _ => match read(raw) {
                Value::Text(text) => {
                    let line = item.line;
                    item.plain(text, line);
                }
                _ => {
                    item.doubt_name();
                    return Err(item.refuse("", NOT_TOKENS));
                }
            },
        }
        Ok(item)
    }

    /// A raw value is a piece of the text itself.
    fn place(&self, raw: &RawValue) -> Range<usize> {
        let start = raw.get().as_ptr() as usize - self.text.as_ptr() as usize;
        start..start + raw.get().len()
    }
}

fn read(raw: &RawValue) -> Value {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Known {
        Flag(bool),
        Text(String),
        Texts(Vec<String>),
    }
    match serde_json::from_str(raw.get()) {
        Ok(Known::Flag(flag)) => Value::Flag(flag),
        Ok(Known::Text(text)) => Value::Text(text),
        Ok(Known::Texts(texts)) => Value::Texts(texts),
        Err(_) => Value::Other,
    }
}

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = Entries<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object or a list")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    entries.push((key, map.next_value()?));
                }
                Ok(Entries::Keyed(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = list.next_element()? {
                    entries.push(entry);
                }
                Ok(Entries::Listed(entries))
            }
        }
        deserializer.deserialize_any(Forms)
    }
}
