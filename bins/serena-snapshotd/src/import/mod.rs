//! Brings in what the Cloudflare wrapper stored: `<prefix>/LATEST` names one of the archives below `<prefix>/snapshots/`,
//! each a gzip-compressed tar of the home's content.
//!
//! An archive is unpacked into a directory of its own, of which a snapshot is then taken as of any other. It may be hostile:
//! [`unpack`] makes everything below a directory handle, and never follows, replaces or guesses.

mod extract;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mcp_daemon::exit::Exit;
use tokio::sync::mpsc;

pub use self::extract::{Limits, Unpacked, unpack};
use crate::store::{Reading, Store, StoreError, Trouble};
use crate::threads::blocking;

/// Names the newest archive.
const LATEST: &str = "LATEST";
/// Below it are the archives.
const ARCHIVES: &str = "snapshots/";
/// Largest `LATEST` in bytes; the wrapper writes 45.
const MAX_LATEST: u64 = 4096;
/// Pieces of some 256 KiB that are fetched ahead.
const AHEAD: usize = 16;
/// Names of archives that an error shows.
const SHOWN: usize = 3;

/// Why nothing was brought in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// There are archives, but none is named as the newest.
    #[error("{0}")]
    NoArchive(String),
    /// The archive is damaged, or not one that the wrapper can have written.
    #[error("{archive}: {why}")]
    Refused {
        /// Which archive; empty while nobody has said.
        archive: String,
        /// The entry, and what is wrong with it.
        why: String,
    },
    /// The store did not deliver.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something of the system failed.
    #[error("{path}: {cause}")]
    System {
        /// Where.
        path: String,
        /// Why.
        cause: io::Error,
    },
}

impl ImportError {
    /// How a command ends that failed for this reason.
    pub fn exit(&self) -> Exit {
        match self {
            ImportError::NoArchive(_) => Exit::Unavailable,
            ImportError::Refused { .. } => Exit::TryAgain,
            ImportError::Store(error) => error.exit(),
            ImportError::System { cause, .. } => Exit::of_system(cause),
        }
    }

    fn of(self, name: &str) -> Self {
        match self {
            ImportError::Refused { why, .. } => ImportError::Refused { archive: name.to_owned(), why },
            other => other,
        }
    }
}

/// The key of the newest archive in a store of the wrapper's, which is opened like one of ours: what the wrapper calls
/// its prefix, with its last part (the container's id, where that is part of it) as the partition. `None`: the store says,
/// authenticated, that there is neither `LATEST` nor any archive.
pub async fn newest(store: &Store) -> Result<Option<String>, ImportError> {
    let there = || async {
        let all = store.list(ARCHIVES).await?;
        Ok::<_, StoreError>(
            all.into_iter().map(|listed| listed.key[ARCHIVES.len()..].to_owned()).collect::<Vec<_>>(),
        )
    };
    let Some(latest) = store.get(LATEST, MAX_LATEST).await? else {
        let there = there().await?;
        return if there.is_empty() {
            Ok(None)
        } else {
            Err(ImportError::NoArchive(choose("there is no LATEST", &there)))
        };
    };
    let name = parse_latest(&latest.bytes)
        .map_err(|why| ImportError::Refused { archive: LATEST.to_owned(), why })?;
    let key = format!("{ARCHIVES}{name}");
    if store.stat(&key).await?.is_some() {
        return Ok(Some(key));
    }
    let there = there().await?;
    Err(ImportError::NoArchive(choose(
        &format!("LATEST names `{name}`, which is not there any more"),
        &there,
    )))
}

/// Fetches an archive of a store and unpacks it, see [`unpack`].
pub async fn fetch(store: &Store, key: &str, into: &Path, limits: Limits) -> Result<Unpacked, ImportError> {
    let Some(mut reading) = store.open(key).await? else {
        return Err(ImportError::NoArchive(format!("{key}: not in the store")));
    };
    let (to, from) = mpsc::channel(AHEAD);
    let into = into.to_owned();
    let left = reading.size;
    let unpacking = blocking(move || unpack(Arriving { from, bytes: Bytes::new(), left }, &into, limits));
    let (fetched, unpacked) = tokio::join!(send(&mut reading, to), unpacking);
    match (fetched, unpacked) {
        (Err(error), Err(_)) if error.trouble != Trouble::Damaged => Err(error.into()),
        (_, unpacked) => unpacked.map_err(|error| error.of(key)),
    }
}

async fn send(reading: &mut Reading, to: mpsc::Sender<Bytes>) -> Result<(), StoreError> {
    while let Some(bytes) = reading.next().await? {
        if to.send(bytes).await.is_err() {
            // Whoever unpacks has ended, and says why.
            break;
        }
    }
    Ok(())
}

/// The archive that a local path means: itself, or the one that `LATEST` in this directory names. Blocks.
pub fn local(path: &Path) -> Result<PathBuf, ImportError> {
    let system = |path: &Path| {
        let path = path.display().to_string();
        move |cause| ImportError::System { path, cause }
    };
    if !fs::metadata(path).map_err(system(path))?.is_dir() {
        return Ok(path.to_owned());
    }
    let latest = path.join(LATEST);
    let mut text = Vec::new();
    File::open(&latest)
        .and_then(|file| file.take(MAX_LATEST).read_to_end(&mut text))
        .map_err(system(&latest))?;
    let name = parse_latest(&text);
    let name = name.map_err(|why| ImportError::Refused { archive: latest.display().to_string(), why })?;
    // As it is in the bucket, or all files copied into one directory.
    let (below, beside) = (path.join(ARCHIVES).join(&name), path.join(&name));
    [below, beside].into_iter().find(|path| path.is_file()).ok_or_else(|| {
        let text =
            format!("{}: names `{name}`, which is not there; name an archive itself", latest.display());
        ImportError::NoArchive(text)
    })
}

/// Unpacks a local archive, see [`unpack`]. Blocks.
pub fn open(archive: &Path, into: &Path, limits: Limits) -> Result<Unpacked, ImportError> {
    let name = archive.display().to_string();
    let file = File::open(archive).map_err(|cause| ImportError::System { path: name.clone(), cause })?;
    unpack(file, into, limits).map_err(|error| error.of(&name))
}

/// What `LATEST` says: the name of an archive, and nothing that leads elsewhere.
fn parse_latest(bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim_end_matches(['\r', '\n']);
    let is_name = text.ends_with(".tar.gz")
        && text.len() <= 255
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if is_name {
        return Ok(text.to_owned());
    }
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    Err(format!(
        "says `{shown}`, expected the name of an archive, such as serena-home-20260101T000000Z-1.tar.gz"
    ))
}

fn choose(why: &str, there: &[String]) -> String {
    // The names begin with a time, so the last ones are probably the newest; a person must say so.
    let mut newest: Vec<&str> = there.iter().rev().take(SHOWN).map(String::as_str).collect();
    newest.sort_unstable_by(|one, other| other.cmp(one));
    match newest.is_empty() {
        true => format!("{why}, and there is no other archive"),
        false => {
            format!("{why}; there are {} archives, such as {}: name one", there.len(), newest.join(", "))
        }
    }
}

/// The bytes of an archive as they arrive.
struct Arriving {
    from: mpsc::Receiver<Bytes>,
    bytes: Bytes,
    left: u64,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use bytes::Buf as _;

        while self.bytes.is_empty() {
            match self.from.blocking_recv() {
                Some(bytes) => self.bytes = bytes,
                None if self.left > 0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "cut off")),
                None => return Ok(0),
            }
        }
        let count = self.bytes.len().min(buffer.len());
        self.bytes.copy_to_slice(&mut buffer[..count]);
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}
