//! What a manifest must be like before anything is done with it: it may come from somebody who wants to write elsewhere.

use std::collections::HashMap;

use super::{Entry, Kind, MODE_MASK, Manifest, ManifestError, count, tree_digest};
use crate::layout::{BLOBS, PACKS};

/// Most entries of a snapshot.
pub const MAX_ENTRIES: usize = 5_000_000;
/// Longest path in bytes, and longest target of a link: the system's own bound.
const MAX_PATH: usize = 4096;

/// Why a path is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// Such as `/etc`.
    #[error("an absolute path")]
    Absolute,
    /// `.`, `..` or nothing between two slashes.
    #[error("a path with `.`, `..` or an empty part")]
    Dots,
    /// Nothing, or longer than 4096 bytes.
    #[error("an empty or endless path")]
    Length,
    /// A byte that ends names.
    #[error("a path with a zero byte")]
    Zero,
}

/// Whether a path stays where it is put.
pub fn check_path(path: &[u8]) -> Result<(), PathError> {
    if path.is_empty() || path.len() > MAX_PATH {
        return Err(PathError::Length);
    }
    if path.starts_with(b"/") {
        return Err(PathError::Absolute);
    }
    if path.contains(&0) {
        return Err(PathError::Zero);
    }
    if path.split(|byte| *byte == b'/').any(|part| matches!(part, b"" | b"." | b"..")) {
        return Err(PathError::Dots);
    }
    Ok(())
}

impl Manifest {
    /// Whether everything in it fits together.
    pub(super) fn check(self) -> Result<Self, ManifestError> {
        let about = &self.about;
        let wrong = |entry: &Entry, why: &str| {
            Err(ManifestError::Entry {
                path: String::from_utf8_lossy(&entry.path).into_owned(),
                why: why.to_owned(),
            })
        };
        if self.entries.len() > MAX_ENTRIES {
            return Err(ManifestError::Contradiction("more entries than a snapshot has"));
        }
        if about.objects.iter().any(|object| !(is_below(&object.key, PACKS) || is_below(&object.key, BLOBS)))
        {
            return Err(ManifestError::Contradiction("bytes that are neither in a pack nor in a blob"));
        }
        // Directories by path: a parent is one of few, an entry one of many.
        let mut directories: HashMap<&[u8], ()> = HashMap::new();
        let mut before: Option<&Entry> = None;
        for entry in &self.entries {
            if let Err(error) = check_path(&entry.path) {
                return wrong(entry, &error.to_string());
            }
            if before.is_some_and(|before| before.path >= entry.path) {
                return wrong(entry, "twice, or out of order");
            }
            match parent(&entry.path) {
                None if !matches!(entry.kind, Kind::Directory) => {
                    return wrong(entry, "a root that is no directory");
                }
                Some(parent) if !directories.contains_key(parent) => {
                    return wrong(entry, "below what is no directory of this snapshot");
                }
                None | Some(_) => {}
            }
            if entry.mode & !MODE_MASK != 0 {
                return wrong(entry, "permissions beyond 0777");
            }
            match &entry.kind {
                Kind::Directory => {
                    directories.insert(&entry.path, ());
                }
                Kind::File(content) if content.object as usize >= about.objects.len() => {
                    return wrong(entry, "its bytes are in no object of this snapshot");
                }
                Kind::Link(target) if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) => {
                    return wrong(entry, "a link to nothing");
                }
                Kind::File(_) | Kind::Link(_) => {}
            }
            before = Some(entry);
        }
        if tree_digest(&self.entries) != about.tree {
            return Err(ManifestError::Contradiction("a digest that is not that of its entries"));
        }
        if count(&self.entries) != (about.files, about.bytes, about.unsettled) {
            return Err(ManifestError::Contradiction("counts that are not those of its entries"));
        }
        Ok(self)
    }
}

fn is_below(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix)
        .is_some_and(|name| !name.is_empty() && !name.contains(['/', '\\']) && !name.contains(".."))
}

/// The directory that a path is in; `None` for a root.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    Some(&path[..slash])
}
