//! Tokens as they are written down: one TOML or JSON file, a directory with one file per subject, or a text from the
//! environment; and which route each leads to.
//!
//! Who keeps the door and who keeps the servers behind it both read them here, so that they never disagree about a route.
//! What a token is worth besides is for the door alone. The text is full of secrets: an error names the file, the line
//! and the key, and never repeats a value, nor a name that could be a token in the wrong place.

mod directory;
mod json;
mod lines;
mod toml;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::addr::Route;
use crate::config::{self, ConfigError};
use crate::secret::{hex, sha256, unhex};

/// Shortest token in characters. A shorter one can be guessed, however slow the answers are made.
pub const MIN_TOKEN: usize = 16;
/// What a hash begins with; 64 hexadecimal digits of the token's SHA-256 follow.
pub const HASH: &str = "sha256:";

const NOT_TOKENS: &str = "expected [token.NAME] tables in TOML, or in JSON {\"name\": \"token\"}, [\"token\"] or [{\"name\": \"name\", \"token\": \"token\"}]";

/// One token with what is said about it; nothing but its form has been checked.
pub struct Item {
    path: Arc<Path>,
    line: usize,
    /// What errors call it, such as `token.alice`; empty where its name could be a token.
    key: String,
    name: Option<String>,
    fields: Vec<Field>,
    span: Range<usize>,
}

/// One key of a token.
pub struct Field {
    /// Its name.
    pub key: String,
    /// What is said.
    pub value: Value,
    /// Where the value stands in the text, in bytes; empty where it is not written with a key of its own.
    pub span: Range<usize>,
    line: usize,
}

/// A value of TOML or JSON, as far as tokens need them.
#[derive(Eq, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Flag(bool),
    /// Anything else: numbers, tables.
    Other,
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A date or time of TOML, as it is written.
    Time(String),
}

/// All tokens of a file, or of a directory with one file per subject, in the order in which they stand there.
///
/// In a directory, `NAME` is a file of one line, the token or `sha256:` and its hash, and `NAME.toml` has the keys of one
/// token; hidden files are passed over.
pub fn read(path: &Path) -> Result<Vec<Item>, ConfigError> {
    if path.is_dir() { directory::read(path) } else { parse(path, &config::read(path)?) }
}

/// All tokens of a text; `path` is for the error messages.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Item>, ConfigError> {
    let path = Arc::from(path);
    if is_json(text) { json::parse(&path, text) } else { toml::parse(&path, text) }
}

/// The token of a TOML text that is about this one alone, as `NAME.toml` in a directory is.
pub fn parse_one(path: &Path, name: &str, text: &str) -> Result<Item, ConfigError> {
    toml::one(&Arc::from(path), name, text)
}

/// Whether a text is read as JSON. TOML may begin with a bracket too, but then a bare name follows.
pub fn is_json(text: &str) -> bool {
    let text = text.trim_start_matches(|char: char| char == BOM || char.is_whitespace());
    match text.strip_prefix('[') {
        Some(rest) => rest.trim_start().starts_with(['{', ']', '"']),
        None => text.starts_with('{'),
    }
}

/// What editors on Windows put first.
const BOM: char = '\u{feff}';

impl Item {
    /// A token that stands alone, such as in a variable of the environment: itself, or `sha256:` and its hash.
    pub fn alone(path: &Path, name: &str, text: &str) -> Self {
        let mut item = Self::new(&Arc::from(path), 1, 0..text.len());
        item.named(Some(name.to_owned()), String::new());
        item.plain(text.to_owned(), 1);
        item
    }

    fn new(path: &Arc<Path>, line: usize, span: Range<usize>) -> Self {
        Self { path: path.clone(), line, key: String::new(), name: None, fields: Vec::new(), span }
    }

    fn named(&mut self, name: Option<String>, key: String) {
        self.name = name;
        self.key = key;
    }

    /// Only a text: the token, or its hash.
    fn plain(&mut self, text: String, line: usize) {
        self.doubt_name();
        let key = if digest_of_hash(&text).is_some() { "hash" } else { "token" };
        self.fields.push(Field { key: key.into(), value: Value::Text(text), span: 0..0, line });
    }

    /// Where there is no table, `{"token": "name"}` for `{"name": "token"}` is an easy mistake.
    fn doubt_name(&mut self) {
        if self.name.as_ref().is_some_and(|name| name.len() >= MIN_TOKEN) {
            self.key.clear();
        }
    }

    /// In a list the name is a key like any other.
    fn take_name(&mut self) -> Result<(), ConfigError> {
        let Some(at) = self.fields.iter().position(|field| field.key == "name") else { return Ok(()) };
        let Value::Text(name) = &self.fields[at].value else {
            return Err(self.refuse("name", "expected a text"));
        };
        self.name = Some(name.clone());
        self.fields.remove(at);
        Ok(())
    }

    /// Its name: the key, the file or `name`; a token of a list may have none.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The file it comes from, or the variable.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where all of it stands in the text, in bytes.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Everything that is said about it, but for its name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// What is said under a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.fields.iter().find(|field| field.key == key).map(|field| &field.value)
    }

    /// What is said under a key, if it is a text.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(key, "expected a text")),
        }
    }

    /// SHA-256 of the token, which is given itself or by its hash.
    pub fn digest(&self) -> Result<[u8; 32], ConfigError> {
        match (self.text("token")?, self.text("hash")?) {
            (Some(token), None) => token_problem(token)
                .map_or(Ok(sha256(token.as_bytes())), |what| Err(self.refuse("token", what))),
            (None, Some(hash)) => digest_of_hash(hash).ok_or_else(|| {
                self.refuse(
                    "hash",
                    "expected `sha256:` and 64 hexadecimal digits; `mcp-authd token new` writes them",
                )
            }),
            (None, None) => {
                Err(self.refuse("", "has neither `token` nor `hash`; `mcp-authd token new` makes both"))
            }
            (Some(_), Some(_)) => Err(self.refuse("", "has both `token` and `hash`; leave `token` out")),
        }
    }

    /// Where it leads: its `route`, else its subject, which is its `subject` or else its name, where that can be a
    /// route; else `t-` and 12 hexadecimal digits of its SHA-256, which stay the same as long as the token does.
    pub fn route(&self) -> Result<Route, ConfigError> {
        if let Some(route) = self.text("route")? {
            return route.parse().map_err(|_| {
                self.refuse(
                    "route",
                    "expected 1-63 of a-z 0-9 . _ - that start with a letter or digit, without `..`",
                )
            });
        }
        let subject = self.text("subject")?.or(self.name());
        if let Some(Ok(route)) = subject.map(str::parse) {
            return Ok(route);
        }
        Ok(of_token(&self.digest()?).parse().expect("hexadecimal digits after `t-` are a route"))
    }

    /// What people find it by: its name where that cannot be a token, and the place.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) if !self.key.is_empty() => format!("`{name}` ({})", self.place()),
            _ => self.place(),
        }
    }

    /// The file and the line.
    pub fn place(&self) -> String {
        format!("{}:{}", self.path.display(), self.line)
    }

    /// Says what is wrong with a key that nobody knows; one that is as long as a token is not named.
    pub fn refuse_unknown(&self, field: &Field, what: &str) -> ConfigError {
        if field.key.len() < MIN_TOKEN {
            return self.refuse(&field.key, what);
        }
        invalid(&self.path, field.line, self.key.clone(), what)
    }

    /// Says what is wrong with it, or with one of its keys; `what` must not repeat a value.
    pub fn refuse(&self, key: &str, what: &str) -> ConfigError {
        let field = self.fields.iter().find(|field| field.key == key);
        let line = field.map_or(self.line, |field| field.line);
        let dot = if self.key.is_empty() || key.is_empty() { "" } else { "." };
        invalid(&self.path, line, format!("{}{dot}{key}", self.key), what)
    }
}

/// The name and route of a token that nobody gave one.
pub fn of_token(digest: &[u8; 32]) -> String {
    format!("t-{}", hex(&digest[..6]))
}

/// What is wrong with a token, if anything is.
pub fn token_problem(token: &str) -> Option<&'static str> {
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("a token is visible ASCII without spaces; `mcp-authd token new` makes one");
    }
    (token.len() < MIN_TOKEN)
        .then_some("shorter than 16 characters, so that it can be guessed; `mcp-authd token new` makes one")
}

fn digest_of_hash(text: &str) -> Option<[u8; 32]> {
    unhex(text.strip_prefix(HASH)?)
}

fn invalid(path: &Path, line: usize, key: String, what: &str) -> ConfigError {
    ConfigError::Invalid { path: path.to_owned(), line, key, message: what.to_owned() }
}

#[cfg(test)]
mod tests;
