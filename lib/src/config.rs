//! Reading a TOML file into a type that can only hold what works; every mistake is one line that names the file, the
//! line, the key and what is expected. Unknown keys are errors where the type says `deny_unknown_fields`.

mod nearest;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use crate::quantity::{QuantityError, Size, Span};

/// Largest configuration file in bytes; a larger one is surely the wrong file.
pub const MAX_CONFIG: u64 = 4 * 1024 * 1024;

/// Why a configuration cannot be used, as one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not TOML or does not mean what it should.
    #[error("{}:{line}: {}{}{message}", path.display(), key, if key.is_empty() { "" } else { ": " })]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The key, such as `upstream[0].weight`; empty where no key is to blame.
        key: String,
        /// What was found and what is expected.
        message: String,
    },
    /// The file cannot be read.
    #[error("{}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

/// Reads a configuration file.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    parse(path, &read(path)?)
}

/// Reads the text of a configuration file, and no more of it than [`MAX_CONFIG`], whatever size it claims to have.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |cause| ConfigError::Unreadable { path: path.to_owned(), cause };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_CONFIG + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_CONFIG {
        let text = format!("more than {MAX_CONFIG} bytes, surely not a configuration file");
        return Err(unreadable(std::io::Error::other(text)));
    }
    Ok(text)
}

/// A setting that cannot work, as one line: where it was said, what was found and what is expected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigProblem {
    /// The file itself.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// One flag, variable or key.
    #[error("{}{key}: {what}", file.as_ref().map(|file| format!("{}: ", file.display())).unwrap_or_default())]
    Key {
        /// The file, where it came from one.
        file: Option<PathBuf>,
        /// The flag, variable or key, such as `instance.a.home`.
        key: String,
        /// What was found and what is expected.
        what: String,
    },
}

impl ConfigProblem {
    /// One flag, variable or key.
    pub fn key(key: impl Into<String>, what: impl ToString) -> Self {
        ConfigProblem::Key { file: None, key: key.into(), what: what.to_string() }
    }

    /// The same, said of a file where there is one. A flag (`--home`) and a variable (`SERENA_HOME`) do not stand in it.
    #[must_use]
    pub fn within(self, path: Option<&Path>) -> Self {
        match self {
            ConfigProblem::Key { key, what, .. }
                if !key.starts_with("--") && key.contains(|char: char| char.is_ascii_lowercase()) =>
            {
                ConfigProblem::Key { file: path.map(Path::to_owned), key, what }
            }
            other => other,
        }
    }
}

/// Reads a configuration from a text; `path` is for the error messages.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let invalid = |key: String, error: &toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        ConfigError::Invalid {
            path: path.to_owned(),
            line: text.bytes().take(at).filter(|b| *b == b'\n').count() + 1,
            key,
            message: nearest::shortened(&one_line(error.message())),
        }
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|error| invalid(String::new(), &error))?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let key = error.path().to_string();
        invalid(if key == "." { String::new() } else { key }, error.inner())
    })
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::addr::{Listen, Upstream};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        listen: Option<Listen>,
        grace: Option<Span>,
        body: Option<Size>,
        #[serde(default)]
        upstream: Vec<Target>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Target {
        url: Upstream,
        weight: Option<std::num::NonZeroU16>,
    }

    fn error(text: &str) -> String {
        parse::<Config>(Path::new("x.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_right_file_is_read() {
        let text = "listen = 'localhost:1'\ngrace = '30s'\nbody = '4MiB'\n[[upstream]]\nurl = '127.0.0.1:2'\nweight = 3";
        let config: Config = parse(Path::new("x.toml"), text).unwrap();
        assert_eq!(config.listen.unwrap().to_string(), "127.0.0.1:1");
        assert_eq!((config.grace, config.body), (Some(Span::seconds(30)), Some(Size(4 << 20))));
        assert_eq!(config.upstream[0].url.to_string(), "http://127.0.0.1:2/mcp");
        assert_eq!(config.upstream[0].weight.unwrap().get(), 3);
        assert_eq!(parse::<Config>(Path::new("x.toml"), "body = 4096").unwrap().body, Some(Size(4096)));
    }

    #[test]
    fn every_mistake_is_one_line_with_file_line_key_and_what_is_expected() {
        for (text, expected) in [
            (
                "\n[[upstream]]\nurl = '127.0.0.1:2'\nweight = 0",
                "x.toml:4: upstream[0].weight: invalid value: integer `0`, expected a nonzero u16",
            ),
            (
                "grace = '30s'\n\nlisten = 'here'",
                "x.toml:3: listen: `here` is not an address; write 127.0.0.1:9121, unix:/run/x.sock or fd:name",
            ),
            ("grace = 30", "x.toml:1: grace: `30` is not a duration; write 500ms, 30s, 30m or 7d"),
            ("body = '1GB'", "x.toml:1: body: `1GB` is not a size; write 4096, 64KiB or 4MiB"),
            (
                "\n\ngrase = '30s'",
                "x.toml:3: grase: unknown field `grase`, expected one of `listen`, `grace`, `body`, `upstream`",
            ),
            (
                "[[upstream]]\nurl = '127.0.0.1:2'\nwait = 1",
                "x.toml:3: upstream[0].wait: unknown field `wait`, expected `url` or `weight`",
            ),
            ("[[upstream]]\nweight = 1", "x.toml:1: upstream[0]: missing field `url`"),
        ] {
            assert_eq!(error(text), expected);
        }
    }

    #[test]
    fn broken_toml_names_its_line() {
        for text in ["\nlisten = ", "\nlisten = 'a' 'b'", "\n[[upstream", "a = 1\na = 2"] {
            let error = error(text);
            assert!(error.starts_with("x.toml:2: ") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_file_is_named_for_what_stands_in_it_and_for_nothing_else() {
        let said = |key: &str| ConfigProblem::key(key, "wrong").within(Some(Path::new("x.toml"))).to_string();
        assert_eq!(said("s3.region"), "x.toml: s3.region: wrong");
        assert_eq!(said("--region"), "--region: wrong");
        assert_eq!(said("AWS_REGION"), "AWS_REGION: wrong");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = load::<Config>(Path::new("/nonexistent/x.toml")).unwrap_err().to_string();
        assert_eq!(error, "/nonexistent/x.toml: No such file or directory (os error 2)");
        let error = load::<Config>(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(error, "/dev/zero: more than 4194304 bytes, surely not a configuration file");
    }
}
