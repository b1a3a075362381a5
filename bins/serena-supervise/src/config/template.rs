//! `[template]`: one server for each of a list of names.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use mcp_daemon::config::ConfigError;
use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{DeserializeSeed, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::names;
use super::settings::Settings;

/// `[template]`: names, and settings in which `{name}` stands for each of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Template {
    /// The names.
    pub names: Vec<String>,
    /// mcp-authd's tokens, a file or a directory, whose routes are names too; read again at reload.
    pub names_from: Option<PathBuf>,
    /// What each is.
    pub settings: Settings,
}

impl Template {
    /// All names, each once: those given, and the routes of `names_from`. Several tokens may share a route.
    pub fn all_names(&self) -> Result<BTreeSet<String>, ConfigError> {
        let mut all: BTreeSet<String> = self.names.iter().cloned().collect();
        if let Some(path) = &self.names_from {
            all.extend(names::read(path)?);
        }
        Ok(all)
    }
}

// `serde(flatten)` would lose the key and the line of every mistake and pass over unknown keys. So the two keys of the
// template are taken out of the table while the settings read it.
impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Template;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table with names and the settings of each instance")
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Template, A::Error> {
                let mut template = Template::default();
                let rest = Rest { table, names: &mut template.names, names_from: &mut template.names_from };
                template.settings = Settings::deserialize(MapAccessDeserializer::new(rest))?;
                Ok(template)
            }
        }
        deserializer.deserialize_map(Table)
    }
}

/// A table less the keys that are the template's own.
struct Rest<'a, A> {
    table: A,
    names: &'a mut Vec<String>,
    names_from: &'a mut Option<PathBuf>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Rest<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let mut seed = Some(seed);
        loop {
            match self.table.next_key_seed(Own(&mut seed))? {
                Some(Key::Names) => *self.names = self.table.next_value()?,
                Some(Key::NamesFrom) => *self.names_from = Some(self.table.next_value()?),
                Some(Key::Other(key)) => return Ok(Some(key)),
                None => return Ok(None),
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.table.next_value_seed(seed)
    }
}

enum Key<K> {
    Names,
    NamesFrom,
    Other(K),
}

/// Gives a key to the settings unless it is ours; within the table's own reading, which knows the line of a mistake.
struct Own<'a, K>(&'a mut Option<K>);

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Own<'_, K> {
    type Value = Key<K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let key = String::deserialize(deserializer)?;
        match (key.as_str(), self.0.take()) {
            ("names", seed) => {
                *self.0 = seed;
                Ok(Key::Names)
            }
            ("names_from", seed) => {
                *self.0 = seed;
                Ok(Key::NamesFrom)
            }
            (_, seed) => {
                let seed = seed.expect("given back until a key is handed on, and nobody asks after that");
                let key: StringDeserializer<D::Error> = key.into_deserializer();
                seed.deserialize(key).map(Key::Other)
            }
        }
    }
}
