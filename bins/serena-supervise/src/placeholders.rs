//! `{port}`, `{home}`, `{name}`, `{socket}` and `{fd}` in commands, environment variables and paths.
//!
//! `{{` is one literal brace, and `}` alone is nothing special, so JSON as an argument reads `{{"a": 1}`. A brace that
//! begins neither is an error: a typing mistake must not reach a server as it stands.

use std::fmt;
use std::path::PathBuf;

use mcp_daemon::addr::Listen;

/// What the placeholders of one start stand for.
#[derive(Clone, Debug)]
pub struct Values {
    /// `{name}`: the instance's.
    pub name: String,
    /// `{port}`: where the server is to listen, on 127.0.0.1.
    pub port: u16,
    /// `{home}`: its home, if it has one.
    pub home: Option<PathBuf>,
    /// `{socket}`: where its clients connect, as an address such as `unix:/run/x.sock`, if they do.
    pub socket: Option<Listen>,
    /// `{fd}`: the descriptor on which it says that it is ready, if it is told of one.
    pub fd: Option<i32>,
}

impl Values {
    /// Replaces the placeholders of one text.
    pub fn fill(&self, text: &str) -> Result<String, UnknownPlaceholder> {
        let mut filled = String::with_capacity(text.len());
        for part in parts(text)? {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Key(key) => {
                    filled.push_str(&self.value(key).ok_or(UnknownPlaceholder::NoValue(key))?);
                }
            }
        }
        Ok(filled)
    }

    fn value(&self, key: Key) -> Option<String> {
        match key {
            Key::Fd => self.fd.map(|fd| fd.to_string()),
            Key::Home => self.home.as_ref().map(|home| home.display().to_string()),
            Key::Name => Some(self.name.clone()),
            Key::Port => Some(self.port.to_string()),
            Key::Socket => self.socket.as_ref().map(Listen::to_string),
        }
    }
}

/// Why a text cannot be filled in.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnknownPlaceholder {
    /// It stands for nothing in this place.
    #[error("`{0}` has no value here")]
    NoValue(Key),
    /// There is no such placeholder.
    #[error(
        "unknown placeholder `{0}`; known are {{port}}, {{home}}, {{name}}, {{socket}} and {{fd}}, and `{{{{` is a brace"
    )]
    Unknown(String),
}

/// One placeholder.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Key {
    /// `{fd}`
    Fd,
    /// `{home}`
    Home,
    /// `{name}`
    Name,
    /// `{port}`
    Port,
    /// `{socket}`
    Socket,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Key::Fd => "{fd}",
            Key::Home => "{home}",
            Key::Name => "{name}",
            Key::Port => "{port}",
            Key::Socket => "{socket}",
        })
    }
}

/// The placeholders of a text, for those who ask before there are values.
pub fn keys(text: &str) -> Result<Vec<Key>, UnknownPlaceholder> {
    let keys = parts(text)?.into_iter().filter_map(|part| match part {
        Part::Key(key) => Some(key),
        Part::Text(_) => None,
    });
    Ok(keys.collect())
}

enum Part<'a> {
    Key(Key),
    Text(&'a str),
}

/// Longest piece of an unknown placeholder that an error repeats, in characters.
const MAX_SHOWN: usize = 24;

fn parts(mut text: &str) -> Result<Vec<Part<'_>>, UnknownPlaceholder> {
    let mut parts = Vec::new();
    while let Some(brace) = text.find('{') {
        let (before, from_brace) = text.split_at(brace);
        parts.push(Part::Text(before));
        if let Some(rest) = from_brace.strip_prefix("{{") {
            parts.push(Part::Text("{"));
            text = rest;
            continue;
        }
        let known = [Key::Fd, Key::Home, Key::Name, Key::Port, Key::Socket];
        let found = known.into_iter().find_map(|key| Some((key, from_brace.strip_prefix(&key.to_string())?)));
        let Some((key, rest)) = found else { return Err(UnknownPlaceholder::Unknown(shown(from_brace))) };
        parts.push(Part::Key(key));
        text = rest;
    }
    parts.push(Part::Text(text));
    Ok(parts)
}

/// From the brace to the one that closes it, bounded: it may be a program in one argument.
fn shown(from_brace: &str) -> String {
    let end = from_brace.find('}').map_or(from_brace.len(), |end| end + 1);
    let mut shown: String = from_brace[..end].chars().take(MAX_SHOWN).collect();
    if shown.len() < end {
        shown.push('…');
    }
    shown.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> Values {
        Values {
            name: "alice".into(),
            port: 4711,
            home: Some("/srv/alice".into()),
            socket: Some("unix:/run/alice/mcp.sock".parse().unwrap()),
            fd: Some(3),
        }
    }

    #[test]
    fn each_placeholder_is_replaced_wherever_it_stands() {
        for (text, filled) in [
            ("--port={port}", "--port=4711"),
            ("{home}/x/{name}", "/srv/alice/x/alice"),
            ("{socket}", "unix:/run/alice/mcp.sock"),
            ("{fd}{fd}", "33"),
            (r#"{{"port": {port}}"#, r#"{"port": 4711}"#),
            ("{{port}", "{port}"),
            ("a}b", "a}b"),
            ("", ""),
        ] {
            assert_eq!(values().fill(text).unwrap(), filled, "{text}");
        }
    }

    #[test]
    fn a_brace_that_is_no_placeholder_is_an_error_that_shows_it() {
        for (text, shown) in [
            ("x {prot} y", "`{prot}`"),
            ("{", "`{`"),
            (r#"{"a": 1}"#, r#"`{\"a\": 1}`"#),
            ("{Port}", "`{Port}`"),
        ] {
            let error = values().fill(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("unknown placeholder {shown}; known are {{port}}")),
                "{error}"
            );
            assert!(error.ends_with("`{{` is a brace"), "{error}");
        }
        let error = values().fill(&format!("{{{}", "x".repeat(10_000))).unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn a_placeholder_without_a_value_is_an_error_that_names_it() {
        let values = Values { home: None, socket: None, fd: None, ..values() };
        for text in ["{home}", "{socket}", "{fd}"] {
            assert_eq!(values.fill(text).unwrap_err().to_string(), format!("`{text}` has no value here"));
        }
    }

    #[test]
    fn the_placeholders_of_a_text_are_known_without_values() {
        assert_eq!(keys("{port} {{name} {home}").unwrap(), [Key::Port, Key::Home]);
    }

    proptest! {
        #[test]
        fn every_text_with_its_braces_doubled_is_filled_to_itself(text in ".{0,60}") {
            prop_assert_eq!(values().fill(&text.replace('{', "{{")).unwrap(), text);
        }
    }
}
