//! A directory of tokens: one file per subject, so that each can be given and taken away alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Item, invalid, toml};
use crate::config::{self, ConfigError};

/// Most files of a directory; one with more is surely another.
const MAX_FILES: usize = 100_000;

/// All tokens, by the names of their files. Hidden files are passed over: they belong to editors and mounts.
pub(super) fn read(directory: &Path) -> Result<Vec<Item>, ConfigError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |cause| ConfigError::Unreadable { path, cause }
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable(directory))? {
        let entry = entry.map_err(unreadable(directory))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            files.push(entry.path());
        }
        if files.len() > MAX_FILES {
            let what = format!("more than {MAX_FILES} files, surely not a directory of tokens");
            return Err(unreadable(directory)(std::io::Error::other(what)));
        }
    }
    files.sort();
    files.into_iter().map(file).collect()
}

fn file(path: PathBuf) -> Result<Item, ConfigError> {
    let text = config::read(&path)?;
    let path: Arc<Path> = path.into();
    let Some(file) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(invalid(&path, 1, String::new(), "its name, which is that of a token, is not UTF-8"));
    };
    if let Some(name) = file.strip_suffix(".toml") {
        return toml::one(&path, name, &text);
    }
    let line = text.trim_end_matches(['\n', '\r']);
    if line.contains(char::is_whitespace) {
        let what =
            "expected one line, a token or `sha256:` and its hash; a file with keys is called NAME.toml";
        return Err(invalid(&path, 1, String::new(), what));
    }
    Ok(Item::alone(&path, file, line))
}
