//! `names_from`: the routes in a file of tokens, either mcp-authd's TOML or the JSON that `API_TOKENS_JSON` holds.
//!
//! The file is full of secrets, so nothing of its text ever enters an error: only the file, the line, and a fixed
//! sentence.

use std::fmt;
use std::path::{Path, PathBuf};

use mcp_daemon::addr::Route;
use mcp_daemon::config::{self, ConfigError};
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

const NOT_TOKENS: &str = "not a file of tokens; expected [token.NAME] tables in TOML, or in JSON {\"name\": \"token\"} or [{\"route\": \"name\"}]";
const NOT_A_NAME: &str =
    "the route of a token is not 1-63 of a-z 0-9 . _ - that start with a letter or digit, without `..`";
const NO_NAME: &str = "a token has neither `route` nor `name`";

/// Why there are no names; never with a piece of the file.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// What stands in it is wrong.
    #[error("{}:{line}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// One of a few fixed sentences.
        what: &'static str,
    },
    /// It cannot be read.
    #[error("{}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

/// The routes of all tokens in a file; several tokens may have the same.
pub fn read(path: &Path) -> Result<Vec<String>, NamesError> {
    let text = config::read(path).map_err(explain)?;
    let Routes(routes) = if is_json(&text) { json(path, &text) } else { toml(path, &text) }?;
    Ok(routes)
}

/// TOML may begin with a bracket too, but then a name follows.
fn is_json(text: &str) -> bool {
    let text = text.trim_start_matches(|char: char| char == BOM || char.is_whitespace());
    match text.strip_prefix('[') {
        Some(rest) => rest.trim_start().starts_with(['{', ']', '"']),
        None => text.starts_with('{'),
    }
}

/// What editors on Windows put first.
const BOM: char = '\u{feff}';

fn json(path: &Path, text: &str) -> Result<Routes, NamesError> {
    serde_json::from_str(text.trim_start_matches(BOM))
        .map_err(|error| wrong(path, error.line().max(1), &error.to_string()))
}

fn toml(path: &Path, text: &str) -> Result<Routes, NamesError> {
    #[derive(Deserialize)]
    struct File {
        token: Routes,
    }
    config::parse(path, text).map(|File { token }| token).map_err(explain)
}

/// Without what the message repeats of the file.
fn explain(error: ConfigError) -> NamesError {
    match error {
        ConfigError::Invalid { path, line, message, .. } => wrong(&path, line, &message),
        ConfigError::Unreadable { path, cause } => NamesError::Unreadable { path, cause },
    }
}

/// Finds our own sentence in a message; every other message may repeat what stands in the file.
fn wrong(path: &Path, line: usize, message: &str) -> NamesError {
    let own = [NOT_A_NAME, NO_NAME].into_iter().find(|own| message.starts_with(own));
    NamesError::Content { path: path.to_owned(), line, what: own.unwrap_or(NOT_TOKENS) }
}

/// The routes of an object by name, or of an array; what the tokens themselves are is looked at by nobody here.
struct Routes(Vec<String>);

impl<'de> Deserialize<'de> for Routes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = Routes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Routes, A::Error> {
                let mut routes = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    routes.push(map.next_value_seed(Token { name: Some(name) })?);
                }
                Ok(Routes(routes))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Routes, A::Error> {
                let mut routes = Vec::new();
                while let Some(route) = seq.next_element_seed(Token { name: None })? {
                    routes.push(route);
                }
                Ok(Routes(routes))
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

/// One token, whose route is read: its own, else its name.
struct Token {
    name: Option<String>,
}

impl Token {
    fn route<E: de::Error>(self, route: Option<String>) -> Result<String, E> {
        let route: Route = route
            .or(self.name)
            .ok_or_else(|| E::custom(NO_NAME))?
            .parse()
            .map_err(|_| E::custom(NOT_A_NAME))?;
        Ok(route.to_string())
    }
}

impl<'de> DeserializeSeed<'de> for Token {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Token {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }

    fn visit_str<E: de::Error>(self, _secret: &str) -> Result<String, E> {
        self.route(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        let (mut route, mut name) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "route" => route = Some(map.next_value()?),
                "name" => name = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        self.route(route.or(name))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        read(file.path())
            .map(|mut names| {
                names.sort();
                names
            })
            .map_err(|error| error.to_string().replace(&file.path().display().to_string(), "F"))
    }

    #[test]
    fn the_routes_of_every_known_form_are_read() {
        for text in [
            "[token.terminal-a]\nhash = 'x'\n[token.other]\nroute = 'terminal-b'\nhash = 'y'",
            "{\"terminal-a\": \"s3cret-a\", \"terminal-b\": \"s3cret-b\"}",
            "\u{feff}[ {\"token\": \"s3cret\", \"route\": \"terminal-a\"}, {\"name\": \"terminal-b\", \"token\": \"x\"}]",
            "{\"terminal-a\": {\"token\": \"s3cret\"}, \"x\": {\"route\": \"terminal-b\"}}",
            "[token]\nterminal-a = 's3cret'\nterminal-b = 's3cret'",
        ] {
            assert_eq!(names(text).unwrap(), ["terminal-a", "terminal-b"], "{text}");
        }
    }

    #[test]
    fn an_empty_list_has_no_names_and_is_no_mistake() {
        assert!(
            names("{}").unwrap().is_empty()
                && names("[]").unwrap().is_empty()
                && names("[token]").unwrap().is_empty()
        );
    }

    #[test]
    fn a_refusal_names_the_file_and_the_place_and_never_a_token() {
        for (text, expected) in [
            ("{\"S3CRET\": \"S3CRET\"}", "F:1: the route of a token is not 1-63 of"),
            ("[token.ok]\n[token.\"../S3CRET\"]", "F:2: the route of a token is not 1-63 of"),
            ("[\"S3CRET\"]", "F:1: a token has neither `route` nor `name`"),
            ("[{\"token\": \"S3CRET\"}]", "F:1: a token has neither `route` nor `name`"),
            ("{\"a\": \"S3CRET\"", "F:1: not a file of tokens; expected [token.NAME]"),
            ("{\n\"a\": [\"S3CRET\"]}", "F:2: not a file of tokens"),
            ("[token.a]\nroute = S3CRET", "F:2: not a file of tokens"),
            ("[token.a]\nroute = ['S3CRET']", "F:2: not a file of tokens"),
            ("token = 'S3CRET'", "F:1: not a file of tokens"),
            ("listen = 'S3CRET'", "F:1: not a file of tokens"),
            ("S3CRET", "F:1: not a file of tokens"),
        ] {
            let error = names(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(!error.contains("S3CRET") && !error.contains('\n'), "{error}");
        }
        assert!(
            read(Path::new("/nonexistent/x")).unwrap_err().to_string().starts_with("/nonexistent/x: No such")
        );
    }
}
