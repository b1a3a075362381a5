//! What a restore is about to change, on disk before it changes anything, so that the next start can end it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mcp_daemon::files::write_atomic;
use mcp_daemon::secret::hex;
use serde::{Deserialize, Serialize};

use super::{RestoreError, clear, swap};
use crate::digest::unhex;

/// The only version there is.
const VERSION: u32 = 1;
/// In a home that cannot be renamed: everything of ours, which no snapshot takes.
pub(super) const INSIDE: &str = crate::take::STAGING;

/// One restore.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Journal {
    version: u32,
    pub(super) phase: Phase,
    /// Makes the names of this restore its own.
    nonce: String,
    pub(super) places: Vec<Place>,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// Nothing but staging has been written: it can be thrown away.
    Staging,
    /// All is staged, checked and on disk: the rest must be done, and can be done again.
    Swapping,
}

/// One root.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    #[serde(with = "bytes")]
    pub(super) path: Vec<u8>,
    pub(super) way: Way,
    /// There was something, be it an empty directory.
    pub(super) was_there: bool,
    /// Device and number of what was staged: by them it is known wherever it is.
    pub(super) tree: (u64, u64),
    /// Top-level directories that must get their permissions once they are in place.
    pub(super) modes: Vec<TopMode>,
}

/// Permissions of a directory that could not be moved with them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopMode {
    #[serde(with = "bytes")]
    pub(super) name: Vec<u8>,
    pub(super) mode: u32,
}

/// How old and new are exchanged.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Way {
    /// As a whole: what is staged is beside it.
    Beside,
    /// Entry by entry, because the directory itself must stay: the old ones are on their way out.
    InsideOut,
    /// The old ones are out, the new ones on their way in.
    InsideIn,
    /// All are in.
    InsideDone,
}

impl Journal {
    pub(super) fn new(nonce: String, places: Vec<Place>) -> Self {
        Journal { version: VERSION, phase: Phase::Staging, nonce, places }
    }

    /// What is on disk, if there is something.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, RestoreError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RestoreError::system(path)(error)),
        };
        let unreadable = |why: String| {
            let text = format!(
                "{why}; it says what an interrupted restore was doing: look at the home, then remove it"
            );
            RestoreError::system(path)(io::Error::new(io::ErrorKind::InvalidData, text))
        };
        let journal: Journal =
            serde_json::from_slice(&text).map_err(|error| unreadable(format!("not readable: {error}")))?;
        if journal.version != VERSION {
            return Err(unreadable(format!("has version {}, expected {VERSION}", journal.version)));
        }
        if journal.nonce.len() != 16 || !journal.nonce.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(unreadable("has a nonce that is none".to_owned()));
        }
        Ok(Some(journal))
    }

    /// Puts it on disk.
    pub(super) fn write(&self, path: &Path) -> Result<(), RestoreError> {
        let text = serde_json::to_vec_pretty(self).expect("strings and numbers are JSON");
        write_atomic(path, &text).map_err(RestoreError::system(path))
    }

    /// It is over.
    pub(super) fn remove(path: &Path) -> Result<(), RestoreError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(RestoreError::system(path)(error)),
            Ok(()) => sync_directory(parent(path)).map_err(RestoreError::system(path)),
        }
    }

    /// Ends what it says: throws staging away, or does the rest of the exchange.
    pub(super) fn end(mut self, path: &Path) -> Result<(), RestoreError> {
        match self.phase {
            Phase::Staging => self.clear()?,
            Phase::Swapping => {
                swap::swap(&mut self, path)?;
                let _ = swap::retire(&self);
            }
        }
        Journal::remove(path)
    }

    /// Removes everything that was staged.
    pub(super) fn clear(&self) -> Result<(), RestoreError> {
        for place in &self.places {
            let (beside, inside) = (self.beside(place), place.inside("new"));
            for staged in [&beside, &inside] {
                clear::remove(staged).map_err(RestoreError::system(staged))?;
            }
            // Only if nothing older is kept in it.
            let _ = fs::remove_dir(place.path().join(INSIDE));
        }
        Ok(())
    }

    /// Where a root is staged.
    pub(super) fn staged(&self, place: &Place) -> PathBuf {
        if place.way == Way::Beside { self.beside(place) } else { place.inside("new") }
    }

    fn beside(&self, place: &Place) -> PathBuf {
        place.with(&format!(".restore-{}", self.nonce))
    }

    /// Where the old one is for a moment, if the two cannot change places at once.
    pub(super) fn aside(&self, place: &Place) -> PathBuf {
        place.with(&format!(".restore-{}.old", self.nonce))
    }
}

impl Place {
    /// Where the root belongs.
    pub(super) fn path(&self) -> PathBuf {
        OsString::from_vec(self.path.clone()).into()
    }

    /// Where the old one stays in the end.
    pub(super) fn kept(&self) -> PathBuf {
        if self.way == Way::Beside { self.with(".before-restore") } else { self.inside("before") }
    }

    /// One of our places in the root itself.
    pub(super) fn inside(&self, name: &str) -> PathBuf {
        self.path().join(INSIDE).join(name)
    }

    fn with(&self, suffix: &str) -> PathBuf {
        let mut path = OsString::from_vec(self.path.clone());
        path.push(suffix);
        path.into()
    }
}

/// Device and number of what is there, itself and not what it links to.
pub(super) fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The directory that a path is in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes names in it durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// As bytes.
pub(super) fn bytes_of(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// Paths are bytes: text where they are, else digits.
mod bytes {
    use serde::{Deserializer, Serializer, de};

    use super::*;

    #[derive(Deserialize, Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum Bytes {
        Hex(String),
        Text(String),
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(bytes).map(str::to_owned);
        text.map_or_else(|_| Bytes::Hex(hex(bytes)), Bytes::Text).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        match Bytes::deserialize(deserializer)? {
            Bytes::Hex(digits) => unhex(&digits).ok_or_else(|| de::Error::custom("not hexadecimal")),
            Bytes::Text(text) => Ok(text.into_bytes()),
        }
    }
}
